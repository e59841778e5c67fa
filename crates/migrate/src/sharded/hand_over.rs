//! Slots of the source that go from one shard to another while the migration runs; see [`super::core::Core::give_up`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_resp::Command;
use keyferry_routing::SlotSet;
use tokio::sync::mpsc;

use super::{
    Target,
    flush::{Flush, Owned},
    links::Done,
};
use crate::{
    error::Error,
    fleet::Part,
    migration::Migration,
    source::{Change, Owner, Source},
};

/// How often is looked for what belongs to no move.
const STRAY_PERIOD: Duration = Duration::from_secs(1);

/// How often a link is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// Carries out at the target what happens to the slots of the source, until there is nothing more to come or the target has
/// failed.
pub(crate) async fn follow(target: Arc<Target>, mut changes: mpsc::Receiver<Change>) {
    let mut next = None;
    loop {
        let change = match next.take() {
            Some(change) => change,
            None => match tokio::time::timeout(STRAY_PERIOD, changes.recv()).await {
                Ok(Some(change)) => change,
                Ok(None) => return,
                Err(_) => {
                    target.core().drop_strays(Instant::now());
                    continue;
                }
            },
        };
        let done = match change {
            // Nothing of it is applied before it has another owner.
            Change::Moving { slot, .. } => {
                target.core().set_moving(&one(slot), true);
                Ok(())
            }
            Change::Stayed { slot } => {
                target.core().set_moving(&one(slot), false);
                tokio::spawn(forget(Arc::clone(&target), slot));
                Ok(())
            }
            Change::Moved { slot, from: Owner::Link(from), to: Owner::Link(to), offset: Some(offset) } => {
                let mut moved = HandOver { slots: one(slot), from, to, offset };
                // Those that go the same way go together.
                while let Ok(change) = changes.try_recv() {
                    if !moved.takes(&change) {
                        next = Some(change);
                        break;
                    }
                }
                moved.carry_out(&target).await
            }
            Change::Moved { slot, to, .. } => {
                let to = match to {
                    Owner::Stranger(node) => format!("node {node}"),
                    Owner::Link(link) => format!("the shard of link {link}"),
                };
                let slots = slot.to_string();
                Err(match target.part() {
                    Some(_) => Error::WorkerSlotsLeft { slots, to },
                    None => Error::SourceSlotsLeft { slots, to },
                })
            }
            Change::Unclear { slot, .. } => Err(Error::SourceSlotUnclear { slot }),
        };
        if let Err(error) = done {
            return target.core().fail(error);
        }
    }
}

/// Makes sure that a worker which has caught up has read where its slots are: what is written elsewhere is seen by nobody, and one may
/// have gone since its shards were asked.
///
/// # Errors
/// [`Error::WorkerSlotsLeft`]; those of looking at the source.
pub(super) async fn check_slots(migration: &Migration, target: &Target, part: &Part) -> Result<(), Error> {
    let Some(source) = migration.source.servers() else { return Ok(()) };
    let now = Source::find_part(source.clone(), false, Some(&part.slots)).await?;
    let core = target.core();
    let links = (0..core.link_count()).filter_map(|link| u16::try_from(link).ok());
    let read: Vec<&SlotSet> = links.filter_map(|link| core.owned_by(link)).collect();
    let elsewhere =
        now.links.iter().find(|link| !link.slots.as_ref().is_some_and(|slots| read.contains(&slots)));
    match elsewhere {
        Some(link) => Err(Error::WorkerSlotsLeft {
            slots: link.slots.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: link.name.clone(),
        }),
        None => Ok(()),
    }
}

/// A slot was on its way and stayed: what others said of it is to be forgotten.
async fn forget(target: Arc<Target>, slot: u16) {
    let slots = one(slot);
    let links = target.core().link_count();
    for link in (0..links).filter_map(|link| u16::try_from(link).ok()) {
        if target.core().owned_by(link).is_none_or(|owned| owned.contains(slot)) {
            continue;
        }
        // Up to what it has written by now.
        let offset = target.core().link(link).and_then(|account| account.source_offset()).unwrap_or(0);
        while target.core().link(link).is_some_and(|account| account.handed_over < offset) {
            tokio::time::sleep(PERIOD).await;
        }
        let mut core = target.core();
        if core.owned_by(link).is_some_and(|owned| !owned.contains(slot)) {
            core.drop_held_back(link, &slots);
        }
    }
}

/// Slots that have gone from the shard of one link to that of another.
struct HandOver {
    slots: SlotSet,
    from: usize,
    to: usize,
    /// An offset of the first link at which the slots were the other's already.
    offset: u64,
}

impl HandOver {
    /// Adds a slot that goes the same way.
    fn takes(&mut self, change: &Change) -> bool {
        match *change {
            Change::Moved { slot, from: Owner::Link(from), to: Owner::Link(to), offset: Some(offset) }
                if (from, to) == (self.from, self.to) =>
            {
                self.slots.insert(slot);
                self.offset = self.offset.max(offset);
                true
            }
            _ => false,
        }
    }

    /// Carries it out at the target.
    async fn carry_out(self, target: &Arc<Target>) -> Result<(), Error> {
        let HandOver { slots, from, to, offset } = self;
        let link = |link| u16::try_from(link).map_err(|_| Error::Internal("more links than slots".into()));
        let (from, to) = (link(from)?, link(to)?);
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
            let gate = core.add_gate(lanes, to, ticket, 0);
            if let Some(account) = core.link(to) {
                account.seal(ticket, Done::Stream { commands: 0, end: 0, db: None });
            }
            gate
        };
        // … and has been done.
        gate.reached.notified().await;
        // The second brings all that is left of them.
        let command = Command::new(["FLUSHALL"]);
        let owned = target.filter().map(|filter| Owned { filter: Arc::clone(filter), db: None });
        let (slots_only, filter) = (Some(&slots), owned.as_ref());
        let flush =
            Flush { command: &command, at: offset, db: None, slots: slots_only, position: None, filter };
        flush.run(target).await?;
        let mut core = target.core();
        core.take_over(to, &slots).map_err(|slot| Error::SourceSlotUnclear { slot })?;
        core.set_moving(&slots, false);
        core.open_gate(gate.id);
        Ok(())
    }
}

fn one(slot: u16) -> SlotSet {
    let mut slots = SlotSet::new();
    slots.insert(slot);
    slots
}
