//! Slots that change hands among the shards of the source.
//!
//! What two links say of a slot comes in no order between them. While a slot moves, the shard that gives it up deletes its
//! keys, and the one that takes it over is given them: whatever comes by a link of a slot that its shard does not own yet is
//! therefore held back, until everything that the other shard had to say of it is done. Then the slot is emptied at the
//! target, and what was held back, which brings every key of it, goes on.

use std::time::{Duration, Instant};

use keyferry_resp::{CommandDecoder, Limits};
use keyferry_routing::SlotSet;

use super::Core;
use crate::{
    error::Error,
    sharded::{item::Item, lane::Entry},
};

const LIMITS: Limits = Limits::new().frame_bytes(usize::MAX).bulk_bytes(usize::MAX).elements(usize::MAX);

/// Bytes of one link that may be held back.
const MOST_HELD_BACK: usize = 256 * 1024 * 1024;

/// What was said of a slot so long ago, while nobody knew of a move, does not belong to one.
const STRAY_AFTER: Duration = Duration::from_secs(15);

/// What a link said of a slot that is not its shard's yet.
#[derive(Debug)]
pub(super) struct Held {
    since: Instant,
    items: Vec<Item>,
}

/// What a link may speak of.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// The slots that its shard owns, as far as the target is concerned.
    owned: SlotSet,
    /// Slots that it has owned and given up.
    given_up: SlotSet,
    /// Slots of which it spoke without having owned them, and of which that was dropped.
    strays: SlotSet,
}

impl Core {
    /// The links bring keys of these slots; without a set, of all.
    pub(crate) fn set_shards(&mut self, slots: Vec<Option<SlotSet>>) {
        let shard = |owned| Shard { owned, given_up: SlotSet::new(), strays: SlotSet::new() };
        self.shards = slots.into_iter().map(|slots| slots.map(shard)).collect();
    }

    /// What is said of other slots is left to other workers.
    pub(crate) fn set_part(&mut self, part: Option<SlotSet>) {
        self.part = part;
    }

    /// The slots that a link may change now; none where it may change all.
    pub(crate) fn owned_by(&self, link: u16) -> Option<&SlotSet> {
        self.shards.get(usize::from(link))?.as_ref().map(|shard| &shard.owned)
    }

    /// Takes an item of a slot that its link's shard does not own; gives it back if it does.
    pub(super) fn hold_back(&mut self, slot: u16, item: Item) -> Option<Item> {
        let link = item.link;
        let Some(Some(shard)) = self.shards.get(usize::from(link)) else { return Some(item) };
        if shard.owned.contains(slot) {
            return Some(item);
        }
        if self.part.as_ref().is_some_and(|part| !part.contains(slot)) {
            self.counts.of_other_workers += u64::from(item.commands);
            self.done(&item);
            return None;
        }
        if shard.given_up.contains(slot) && is_deletion(&item) {
            // It tidies up behind a slot that others own now.
            self.counts.tidied += u64::from(item.commands);
            self.done(&item);
            return None;
        }
        let held = self.link(link).map_or(0, |account| account.hold(item.cost()));
        if held > MOST_HELD_BACK {
            let (slots, shard) = (self.held_slots(link).to_string(), link);
            self.fail(Error::SlotsMoving { slots, shard, held });
        }
        let held = || Held { since: Instant::now(), items: Vec::new() };
        self.held_back.entry((link, slot)).or_insert_with(held).items.push(item);
        None
    }

    /// Slots of which something is held back.
    pub(crate) fn held_slots(&self, link: u16) -> SlotSet {
        let mut slots = SlotSet::new();
        self.held_back.keys().filter(|&&(of, _)| of == link).for_each(|&(_, slot)| slots.insert(slot));
        slots
    }

    /// Drops what a link said of these slots and was held back: they were not taken over after all.
    pub(crate) fn drop_held_back(&mut self, link: u16, slots: &SlotSet) {
        let dropped = self.take_held(|of, slot, _| of == link && slots.contains(slot));
        self.counts.not_taken_over += self.forget(dropped);
    }

    /// Slots of the source are on their way, or are not any more.
    pub(crate) fn set_moving(&mut self, slots: &SlotSet, moving: bool) {
        for slot in slots.ranges().flat_map(|(first, last)| first..=last) {
            if moving {
                self.moving.insert(slot);
            } else {
                self.moving.remove(slot);
            }
        }
    }

    /// Drops what has long been held back of slots that nobody knows to be on their way: keys that a node holds beside its
    /// slots, as some servers leave them behind. No client of the source can reach them.
    pub(crate) fn drop_strays(&mut self, now: Instant) {
        let moving = self.moving.clone();
        let dropped = self.take_held(|_, slot, since| {
            !moving.contains(slot) && now.saturating_duration_since(since) >= STRAY_AFTER
        });
        for (slot, item) in &dropped {
            if let Some(Some(shard)) = self.shards.get_mut(usize::from(item.link)) {
                shard.strays.insert(*slot);
            }
        }
        self.counts.strays += self.forget(dropped);
    }

    /// Takes out what is held back, with its slots; in the order in which it came.
    fn take_held(&mut self, which: impl Fn(u16, u16, Instant) -> bool) -> Vec<(u16, Item)> {
        let mut taken = Vec::new();
        self.held_back.retain(|&(link, slot), held| {
            let take = which(link, slot, held.since);
            if take {
                taken.extend(held.items.drain(..).map(|item| (slot, item)));
            }
            !take
        });
        taken.sort_by_key(|(_, item)| item.mark);
        taken
    }

    /// Has nothing done about these; gives the number of commands.
    fn forget(&mut self, items: Vec<(u16, Item)>) -> u64 {
        let mut commands = 0;
        for (_, item) in items {
            if let Some(account) = self.link(item.link) {
                account.release(item.cost());
            }
            commands += u64::from(item.commands);
            self.done(&item);
        }
        commands
    }

    /// The shard of `from` has said its last of these slots, and it has been done.
    pub(crate) fn give_up(&mut self, from: u16, slots: &SlotSet) {
        if let Some(Some(shard)) = self.shards.get_mut(usize::from(from)) {
            for (first, last) in slots.ranges() {
                for slot in first..=last {
                    shard.owned.remove(slot);
                    shard.given_up.insert(slot);
                }
            }
        }
    }

    /// The shard of `to` owns these slots from now on: what was held back goes on.
    ///
    /// # Errors
    /// A slot of which something has been dropped as a stray.
    pub(crate) fn take_over(&mut self, to: u16, slots: &SlotSet) -> Result<(), u16> {
        if let Some(Some(shard)) = self.shards.get_mut(usize::from(to)) {
            for slot in slots.ranges().flat_map(|(first, last)| first..=last) {
                if shard.strays.contains(slot) {
                    return Err(slot);
                }
                shard.given_up.remove(slot);
            }
            shard.owned.extend(slots);
        }
        for (slot, item) in self.take_held(|of, slot, _| of == to && slots.contains(slot)) {
            if let Some(account) = self.link(to) {
                account.release(item.cost());
            }
            let lane = self.lane_of(slot);
            if let Some(item) = self.replayed(lane, item) {
                self.lanes[lane].waiting.push_back(Entry::Item(item));
                self.touch(lane);
            }
        }
        Ok(())
    }
}

/// True for an item of which nothing is left but deletions.
fn is_deletion(item: &Item) -> bool {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let mut at = 0;
    while at < item.bytes.len() {
        match decoder.next_ref(&item.bytes[at..]) {
            Ok(Some(command)) if command.is("DEL") || command.is("UNLINK") => at += command.consumed(),
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;
    use keyferry_resp::encode_command;

    use super::*;
    use crate::{
        progress::Meter,
        sharded::{
            ahead::Part,
            checkpoint::tests::some,
            core::{Rules, Windows},
            item::{Class, Mark},
        },
    };

    const WINDOWS: Windows = Windows { connect: Duration::from_secs(1), other: Duration::from_secs(1) };

    fn item(core: &mut Core, link: u16, at: u64, command: &[&str]) -> Item {
        let mut bytes = BytesMut::new();
        encode_command(&mut bytes, command);
        let ticket = core.link(link).unwrap().open();
        Item {
            link,
            mark: Mark::Stream(at),
            at,
            class: Class::Exact,
            db: 0,
            db_after: 0,
            source_db: None,
            bytes: bytes.freeze(),
            commands: 1,
            resets: false,
            ticket,
            replay: false,
            part: Part::Whole,
        }
    }

    fn slots(slots: &[u16]) -> SlotSet {
        let mut set = SlotSet::new();
        slots.iter().for_each(|&slot| set.insert(slot));
        set
    }

    #[test]
    fn a_slot_waits_for_the_shard_that_gives_it_up() {
        let rules =
            Rules { single: false, exact: true, ahead: 0, windows: WINDOWS, alone_after: Duration::ZERO };
        let mut core = Core::new(rules, Arc::new(some(false)), vec![Meter::default(), Meter::default()]);
        core.set_shards(vec![Some(slots(&[1, 2])), Some(slots(&[3]))]);
        // The new owner speaks first.
        let restored = item(&mut core, 1, 10, &["RESTORE", "k", "0", "x"]);
        core.add(1, restored);
        let other = item(&mut core, 1, 20, &["INCR", "n"]);
        core.add(3, other);
        let deleted = item(&mut core, 0, 10, &["DEL", "k"]);
        core.add(1, deleted);
        let waiting = |core: &Core, slot: usize| core.lanes[slot].waiting.len();
        assert_eq!((waiting(&core, 1), waiting(&core, 3)), (1, 1));
        core.give_up(0, &slots(&[1]));
        // What the old owner deletes now is of no interest; anything else waits for its return.
        let late = item(&mut core, 0, 20, &["UNLINK", "k"]);
        core.add(1, late);
        assert_eq!((waiting(&core, 1), core.counts.tidied), (1, 1));
        core.take_over(1, &slots(&[1])).unwrap();
        assert_eq!(waiting(&core, 1), 2);
        assert!(core.owned_by(1).unwrap().contains(1) && !core.owned_by(0).unwrap().contains(1));
    }

    #[test]
    fn what_a_node_holds_beside_its_slots_is_dropped_in_the_end() {
        let rules =
            Rules { single: false, exact: true, ahead: 0, windows: WINDOWS, alone_after: Duration::ZERO };
        let mut core = Core::new(rules, Arc::new(some(false)), vec![Meter::default(), Meter::default()]);
        core.set_shards(vec![Some(slots(&[1])), Some(slots(&[3]))]);
        for slot in [1, 2] {
            let stray = item(&mut core, 1, 10, &["SET", "k", "v"]);
            core.add(slot, stray);
        }
        core.set_moving(&slots(&[2]), true);
        core.drop_strays(Instant::now());
        assert_eq!(core.counts.strays, 0);
        core.drop_strays(Instant::now() + STRAY_AFTER);
        assert_eq!(core.counts.strays, 1);
        // Had they belonged to a move after all, that could not be made good.
        assert_eq!(core.take_over(1, &slots(&[1])), Err(1));
        assert_eq!(core.take_over(1, &slots(&[2])), Ok(()));
        assert_eq!(core.lanes[2].waiting.len(), 1);
    }

    #[test]
    fn what_was_not_taken_over_is_dropped_and_counted() {
        let rules =
            Rules { single: true, exact: true, ahead: 0, windows: WINDOWS, alone_after: Duration::ZERO };
        let mut core = Core::new(rules, Arc::new(some(false)), vec![Meter::default(), Meter::default()]);
        core.set_shards(vec![Some(slots(&[1])), Some(slots(&[3]))]);
        let restored = item(&mut core, 1, 10, &["RESTORE", "k", "0", "x"]);
        core.add(1, restored);
        core.drop_held_back(1, &slots(&[1]));
        assert_eq!(core.counts.not_taken_over, 1);
        core.take_over(1, &slots(&[1])).unwrap();
        assert_eq!(core.lanes[0].waiting.len(), 0);
    }
}
