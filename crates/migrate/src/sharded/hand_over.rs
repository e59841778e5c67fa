//! Slots of the source that go from one shard to another while the migration runs; see [`super::core::Core::give_up`].

use std::{sync::Arc, time::Duration};

use keyferry_resp::Command;
use keyferry_routing::SlotSet;

use super::{Target, flush::Flush, links::Done};
use crate::error::Error;

/// How often a link is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// Slots that have gone from the shard of one link to that of another.
pub(crate) struct HandOver {
    pub(crate) slots: SlotSet,
    pub(crate) from: u16,
    pub(crate) to: u16,
    /// An offset of the first link at which the slots were the other's already.
    pub(crate) offset: u64,
}

impl HandOver {
    /// Carries it out at the target.
    pub(crate) async fn carry_out(self, target: &Arc<Target>) -> Result<(), Error> {
        let HandOver { slots, from, to, offset } = self;
        // Everything that the first has to say of them is in the lanes …
        while target.core().link(from).is_none_or(|account| account.handed_over < offset) {
            tokio::time::sleep(PERIOD).await;
        }
        let gate = {
            let mut core = target.core();
            core.give_up(from, &slots);
            core.counts.slots_moved += slots.len() as u64;
            let ticket = core.link(to).map_or(0, |account| account.open());
            let lanes: Vec<u16> = slots.ranges().flat_map(|(first, last)| first..=last).collect();
            let gate = core.add_gate(lanes, to, ticket);
            if let Some(account) = core.link(to) {
                account.seal(ticket, Done::Stream { commands: 0, end: 0 });
            }
            gate
        };
        // … and has been done.
        gate.reached.notified().await;
        // The second brings all that is left of them.
        let command = Command::new(["FLUSHALL"]);
        Flush { command: &command, at: offset, db: None, slots: Some(&slots) }.run(target).await?;
        let mut core = target.core();
        core.take_over(to, &slots);
        core.open_gate(gate.id);
        Ok(())
    }
}
