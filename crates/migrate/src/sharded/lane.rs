//! One lane: the work of one slot, in order.

use std::{collections::VecDeque, time::Instant};

use super::{
    ahead::{AheadStage, Part},
    item::{Class, Item, Mark},
};

/// What of one lane goes out together, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    pub(crate) commands: usize,
    /// Bytes of them, unless the first alone has more.
    pub(crate) bytes: usize,
}

impl BatchLimits {
    /// One of many lanes.
    pub(crate) const MANY: Self = BatchLimits { commands: 512, bytes: 256 * 1024 };
    /// The only one: nothing else is done while a batch is under way.
    pub(crate) const ONE: Self = BatchLimits { commands: 8192, bytes: 1 << 20 };
}

/// What waits in a lane.
#[derive(Debug)]
pub(crate) enum Entry {
    Item(Item),
    /// Nothing passes until the gate is opened; it is reached when all before it is done.
    Gate(u64),
}

/// Something executed.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) item: Item,
    /// The node whose replicas may not have it yet; none when it waits for older ones only.
    pub(crate) by: Option<usize>,
}

/// What a node sent elsewhere with `ASK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Checkpoint,
    /// The item of this link with this mark.
    Item(u16, Mark),
}

/// The work of one slot.
///
/// Everything moves from `waiting` to `sent`, to `unconfirmed`, and is done. Invariant: `unconfirmed` is older than
/// `sent`, and `sent` is older than `waiting`. Ordered items go out one batch at a time, so that no later one can be
/// executed where an earlier one was refused.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// The node that serves it, as far as known.
    pub(crate) owner: Option<usize>,
    pub(crate) waiting: VecDeque<Entry>,
    /// The ordered batch that has been sent and not answered.
    pub(crate) sent: VecDeque<Item>,
    /// Keys of the snapshot that have been sent and not answered.
    pub(crate) free: u32,
    /// Items of `waiting` of which that is under way which goes ahead.
    pub(crate) ahead: u32,
    /// Answered, but no replica is known to have it.
    pub(crate) unconfirmed: VecDeque<Answered>,
    /// Where one thing goes, after `ASKING`, as long as it is the next.
    pub(crate) ask: Option<(usize, Asked)>,
    /// Nobody knows what of the front of `waiting` has been executed: the checkpoint tells.
    pub(crate) recover: bool,
    /// The checkpoint has been asked for.
    pub(crate) recovering: bool,
    /// Its checkpoint has been read since the migration went on from where another run had come.
    pub(crate) read: bool,
    /// What the checkpoint said when it was read last.
    pub(crate) floor: Vec<(u16, Mark)>,
    /// What is unconfirmed, and what is under way, may be lost; to be put back when nothing is under way.
    pub(crate) doubt: bool,
    /// Not before this moment.
    pub(crate) hold: Option<Instant>,
    /// Since when it has been refused, without a success in between.
    pub(crate) trouble: Option<Instant>,
    /// How often in a row.
    pub(crate) refused: u32,
    /// In whose list of lanes with work it is.
    pub(crate) queued: Option<usize>,
}

impl Lane {
    /// Where its next work goes.
    pub(crate) fn target(&self) -> Option<usize> {
        self.asks().or(self.owner)
    }

    /// The node that its next work goes to after `ASKING`, if it does.
    pub(crate) fn asks(&self) -> Option<usize> {
        let (node, what) = self.ask?;
        (self.next() == Some(what)).then_some(node)
    }

    /// What goes out next.
    pub(crate) fn next(&self) -> Option<Asked> {
        match self.waiting.front()? {
            _ if self.recover => Some(Asked::Checkpoint),
            Entry::Item(item) => Some(Asked::Item(item.link, item.mark)),
            Entry::Gate(_) => None,
        }
    }

    /// True when nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.sent.is_empty() && self.free == 0 && !self.recovering
    }

    /// True when something could be sent, were the node ready.
    pub(crate) fn has_work(&self) -> bool {
        if self.hold.is_some() || self.recovering || self.doubt {
            return false;
        }
        match self.waiting.front() {
            None => false,
            Some(Entry::Item(item)) if item.class == Class::Free && !self.recover => self.sent.is_empty(),
            Some(Entry::Item(item)) if item.ahead() == Some(AheadStage::UnderWay) && !self.recover => false,
            Some(_) => self.is_quiet(),
        }
    }

    /// Takes the next ordered items that may go out in one batch: only one after a refusal, as the keys of several may be
    /// in two places, and only one of those that may have been executed already, so that an error is its own, or that
    /// nothing may go ahead of.
    pub(crate) fn take_batch(&mut self, limits: BatchLimits) {
        let (mut bytes, mut commands) = (0, 0);
        let most = if self.refused > 0 { 1 } else { limits.commands };
        while let Some(Entry::Item(item)) = self.waiting.front() {
            let is_alone = |item: &Item| item.replay || matches!(item.part, Part::Joined);
            let alone = is_alone(item) || self.sent.back().is_some_and(is_alone);
            let next = commands + item.commands as usize;
            let full = alone || next > most || bytes + item.bytes.len() > limits.bytes;
            let ahead = item.ahead().unwrap_or(AheadStage::Done);
            if item.class == Class::Free || ahead != AheadStage::Done || (full && !self.sent.is_empty()) {
                break;
            }
            bytes += item.bytes.len();
            commands = next;
            if let Some(Entry::Item(item)) = self.waiting.pop_front() {
                self.sent.push_back(item);
            }
        }
    }

    /// The item, by its place in `waiting`, of which something may go ahead next: nothing before it is in the way, and it ends
    /// at the offset of its link that `within` gives, at most.
    pub(crate) fn next_ahead(&self, within: impl Fn(u16) -> Option<u64>) -> Option<usize> {
        /// Items that are looked at.
        const FAR: usize = 64;
        let is_in_the_way = |item: &Item| {
            matches!(item.part, Part::Joined) || item.replay || !matches!(item.mark, Mark::Stream(_))
        };
        let held_up = self.hold.is_some() || self.refused > 0 || self.recover || self.doubt || self.free > 0;
        // Nothing is sent together with what is in the way.
        if held_up || self.recovering || self.sent.front().is_some_and(is_in_the_way) {
            return None;
        }
        for (at, entry) in self.waiting.iter().take(FAR).enumerate() {
            let Entry::Item(item) = entry else { return None };
            if is_in_the_way(item) || item.mark > Mark::Stream(within(item.link)?) {
                return None;
            }
            if item.ahead() == Some(AheadStage::Waiting) {
                return Some(at);
            }
        }
        None
    }

    /// The first item of which something that goes ahead is under way: its replies come first.
    pub(crate) fn first_ahead(&mut self) -> Option<&mut Item> {
        let items = self.waiting.iter_mut().filter_map(|entry| match entry {
            Entry::Item(item) => Some(item),
            Entry::Gate(_) => None,
        });
        items.into_iter().find(|item| item.ahead() == Some(AheadStage::UnderWay))
    }

    /// Puts back what has been sent and refused: it was not executed.
    pub(crate) fn put_back_sent(&mut self) {
        for item in self.sent.drain(..).rev() {
            self.waiting.push_front(Entry::Item(item));
        }
    }

    /// Puts back everything that is not known to have survived: it will be sent again, behind a look at the
    /// checkpoint. Gives the number of items.
    pub(crate) fn put_back_uncertain(&mut self) -> u64 {
        let count = (self.sent.len() + self.unconfirmed.len()) as u64;
        self.doubt = false;
        let unconfirmed = self.unconfirmed.drain(..).map(|answered| answered.item);
        for item in self.sent.drain(..).rev().chain(unconfirmed.rev()) {
            self.waiting.push_front(Entry::Item(Item { replay: true, ..item }));
        }
        // What went ahead may be lost, and has to be done again in its place.
        let is_lost =
            |item: &Item| item.replay || item.ahead().is_some_and(|ahead| ahead != AheadStage::Waiting);
        for entry in &mut self.waiting {
            if let Entry::Item(item) = entry
                && is_lost(item)
            {
                item.join();
                item.replay = true;
            }
        }
        // Also of what another node's checkpoint did not have: this one's may.
        let unclear = |entry: &Entry| matches!(entry, Entry::Item(i) if i.replay && i.class != Class::Free);
        self.recover |= self.waiting.iter().any(unclear);
        count
    }

    /// Puts back one key of the snapshot.
    pub(crate) fn put_back_free(&mut self, item: Item, executed: Executed) {
        self.free = self.free.saturating_sub(1);
        let replay = item.replay || executed == Executed::Unknown;
        self.waiting.push_front(Entry::Item(Item { replay, ..item }));
    }

    /// Takes out what the checkpoint says is there.
    pub(crate) fn drop_executed(&mut self, marks: &[(u16, Mark)]) -> Vec<Item> {
        let is_there = |item: &Item| {
            item.replay
                && marks.iter().any(|&(link, mark)| {
                    // The snapshot's keys have no order: only the stream, which begins after them, vouches for them.
                    let vouches = item.class != Class::Free || mark >= Mark::Stream(0);
                    link == item.link && vouches && item.mark <= mark
                })
        };
        let mut dropped = Vec::new();
        for entry in std::mem::take(&mut self.waiting) {
            match entry {
                Entry::Item(item) if is_there(&item) => dropped.push(item),
                entry => self.waiting.push_back(entry),
            }
        }
        dropped
    }
}

/// What is known of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executed {
    No,
    Unknown,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn item(class: Class, mark: Mark) -> Item {
        Item {
            link: 0,
            mark,
            at: 0,
            class,
            db: 0,
            db_after: 0,
            source_db: None,
            bytes: Bytes::from_static(b"x"),
            commands: 1,
            resets: false,
            ticket: 0,
            replay: false,
            part: Part::Whole,
        }
    }

    fn marks(lane: &Lane) -> Vec<u64> {
        let of = |mark: Mark| match mark {
            Mark::Snapshot(at) | Mark::Stream(at) => at,
        };
        lane.waiting
            .iter()
            .map(|entry| match entry {
                Entry::Item(item) => of(item.mark),
                Entry::Gate(_) => 0,
            })
            .collect()
    }

    #[test]
    fn what_is_uncertain_comes_back_in_order() {
        let mut lane = Lane::default();
        let answered = |item| Answered { item, by: Some(0) };
        lane.unconfirmed.push_back(answered(item(Class::Blind, Mark::Stream(1))));
        lane.unconfirmed.push_back(answered(item(Class::Exact, Mark::Stream(2))));
        lane.sent.extend([item(Class::Blind, Mark::Stream(3)), item(Class::Exact, Mark::Stream(4))]);
        lane.waiting.push_back(Entry::Item(item(Class::Blind, Mark::Stream(5))));
        lane.put_back_uncertain();
        assert_eq!(marks(&lane), [1, 2, 3, 4, 5]);
        assert!(lane.recover);
        let dropped = lane.drop_executed(&[(0, Mark::Stream(2)), (1, Mark::Stream(9))]);
        assert_eq!(dropped.len(), 2);
        assert_eq!(marks(&lane), [3, 4, 5]);
    }

    #[test]
    fn a_snapshot_checkpoint_says_nothing_of_free_keys() {
        let mut lane = Lane::default();
        let free = item(Class::Free, Mark::Snapshot(1));
        lane.unconfirmed.push_back(Answered { item: free.clone(), by: None });
        lane.unconfirmed.push_back(Answered { item: item(Class::Exact, Mark::Snapshot(2)), by: None });
        lane.put_back_uncertain();
        assert_eq!(lane.drop_executed(&[(0, Mark::Snapshot(2))]).len(), 1);
        assert_eq!(marks(&lane), [1]);
        assert_eq!(lane.drop_executed(&[(0, Mark::Stream(0))]).len(), 1);
    }

    #[test]
    fn a_batch_ends_before_keys_of_a_snapshot_and_gates() {
        let mut lane = Lane::default();
        lane.waiting.push_back(Entry::Item(item(Class::Blind, Mark::Stream(1))));
        lane.waiting.push_back(Entry::Item(item(Class::Exact, Mark::Stream(2))));
        lane.waiting.push_back(Entry::Gate(7));
        lane.waiting.push_back(Entry::Item(item(Class::Exact, Mark::Stream(3))));
        lane.take_batch(BatchLimits::MANY);
        assert_eq!(lane.sent.len(), 2);
        assert!(matches!(lane.waiting.front(), Some(Entry::Gate(7))));
        lane.put_back_sent();
        assert_eq!(lane.waiting.len(), 4);
    }
}
