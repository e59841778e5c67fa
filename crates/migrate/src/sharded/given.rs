//! What a shard of the source tells its replicas of slots that come and go.

use keyferry_resp::Command;
use keyferry_routing::{SLOTS, SlotSet};

use super::feed::{At, StreamFeed};
use crate::error::Error;

impl StreamFeed {
    /// `TRIMSLOTS RANGES n first last …`, by which a shard removes the keys of slots that are not its own any more, or were
    /// not to become its own (Redis 8.4).
    pub(super) fn trim(&mut self, command: &Command, at: &At) -> Result<(), Error> {
        let numbers: Option<Vec<u16>> =
            command.args().skip(3).map(|arg| std::str::from_utf8(arg).ok()?.parse().ok()).collect();
        let Some(numbers) = numbers.filter(|_| self.shard) else {
            return Err(self.no_route(&command.as_ref(), at, "these slots are none of a shard's"));
        };
        let mut core = self.target.core();
        let mut slots = core.held_slots(self.link);
        let trimmed = |slot: u16| numbers.chunks_exact(2).any(|range| (range[0]..=range[1]).contains(&slot));
        for slot in (0..SLOTS).filter(|&slot| !trimmed(slot)) {
            slots.remove(slot);
        }
        // Of slots that it had, the new owner tells, and the target's keys are removed then.
        core.drop_held_back(self.link, &slots);
        Ok(())
    }

    /// What a shard tells its replicas of slots that it is being given as a whole (Valkey 9):
    /// `CLUSTER SYNCSLOTS ESTABLISH … NAME n SLOTSRANGE first last …`, and later `… FINISH STATE s NAME n …`.
    pub(super) fn import(&mut self, command: &Command, at: &At) -> Result<(), Error> {
        let word = |name: &str| {
            let at = (2..command.len())
                .find(|&i| command.arg(i).is_some_and(|arg| arg.eq_ignore_ascii_case(name.as_bytes())));
            at.map(|at| at + 1)
        };
        let sub =
            |index: usize, name: &[u8]| command.arg(index).is_some_and(|arg| arg.eq_ignore_ascii_case(name));
        if !sub(1, b"SYNCSLOTS") {
            return Err(self.no_route(
                &command.as_ref(),
                at,
                "this program does not know what it means for a replica",
            ));
        }
        let name = word("NAME").and_then(|at| command.arg(at)).unwrap_or_default().to_vec();
        if sub(2, b"ESTABLISH") {
            let numbers: Vec<u16> = word("SLOTSRANGE")
                .into_iter()
                .flat_map(|first| (first..command.len()).filter_map(|i| command.arg(i)))
                .map_while(|arg| std::str::from_utf8(arg).ok()?.parse().ok())
                .collect();
            let mut slots = SlotSet::new();
            for range in numbers.chunks_exact(2) {
                (range[0]..=range[1].min(SLOTS - 1)).for_each(|slot| slots.insert(slot));
            }
            self.target.core().set_moving(&slots, true);
            self.imports.insert(name, slots);
        } else if sub(2, b"FINISH")
            && let Some(slots) = self.imports.remove(&name)
            && !word("STATE").is_some_and(|at| sub(at, b"SUCCESS"))
        {
            let mut core = self.target.core();
            core.set_moving(&slots, false);
            core.drop_held_back(self.link, &slots);
        }
        Ok(())
    }
}
