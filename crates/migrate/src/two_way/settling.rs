//! Keys that are being settled: one side's value is put on the other.
//!
//! # Rules
//!
//! A conflict is found by the link that comes second, from P to Q. Both of P's and Q's writes have been done on both sides then, in
//! different orders, or will be: P's comes last at Q, unless it is left out. So it is always Q's value that is put on P: where Q's
//! write is to stay, P's is left out; where P's is to stay, it is carried over and stands at Q on top of Q's.
//!
//! 1. From when it is found, what P's applications do to the key is left out, or carried over ("passes").
//! 2. It is noted in the target, so that a run that is killed settles it when it goes on, before the command is handed over that it
//!    was found at.
//! 3. When Q has everything that was handed over before, Q is asked for the value, in one transaction with a mark in its stream.
//! 4. The link from Q to P, when it comes by that mark, puts the value there: it is exactly what Q's stream has come to. The same
//!    transaction has the mark's number.
//! 5. When the link from P to Q sees that number come back in P's stream, what P's applications do is carried over again.
//!    Where it was carried over all the time, and there was something between 3. and now, P has lost it and Q has it: the key
//!    is settled once more.

use std::collections::HashMap;

use bytes::Bytes;

use super::SideName;

/// Keys that are settled at a time, at most. What comes on top is counted, and is not.
const MOST: usize = 1 << 16;

/// Bytes of their names, at most.
const MOST_BYTES: usize = 64 << 20;

/// A key of a database.
pub(super) type DbKey = (u64, Bytes);

/// A key that is being settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settling {
    /// The side that gets the other one's value.
    pub(super) to: SideName,
    /// What its applications do to the key meanwhile is left out.
    pub(super) leaves: bool,
    pub(super) stage: Stage,
    /// Something passed since the value was read.
    pub(super) again: bool,
    /// The conflict has been counted: it has not where it was begun as a command was refused, which may be told before.
    pub(super) counted: bool,
    /// Tells its note in the target from others of the same key.
    pub(super) number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is not noted in the target yet, or what it was found at has not been handed over.
    New,
    /// It waits for its turn.
    Waiting,
    /// It has its turn, with this mark: what was handed over before is waited for.
    Taken(u64),
    /// The value is read, or under way, with this mark.
    Marked(u64),
}

impl Settling {
    pub(super) fn new(to: SideName, leaves: bool) -> Self {
        Settling { to, leaves, stage: Stage::New, again: false, counted: true, number: 0 }
    }

    /// Of a key of which a command was refused.
    pub(super) fn of_refused(to: SideName, leaves: bool) -> Self {
        Settling { counted: false, ..Settling::new(to, leaves) }
    }

    /// As the target has it noted.
    pub(super) fn to_text(self) -> String {
        format!("{} {}", self.to.name(), if self.leaves { "leaves" } else { "passes" })
    }

    /// Reads that; it waits for its turn then.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (to, leaves) = text.split_once(' ')?;
        let to = [SideName::Source, SideName::Target].into_iter().find(|side| side.name() == to)?;
        let leaves = match leaves {
            "leaves" => true,
            "passes" => false,
            _ => return None,
        };
        Some(Settling { stage: Stage::Waiting, ..Settling::new(to, leaves) })
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Settlings {
    keys: HashMap<DbKey, Settling>,
    bytes: usize,
    /// Those that are to be noted, by who does that.
    found: [Vec<DbKey>; 3],
    /// Values that have been read, by their marks: what puts them in place.
    pub(super) values: HashMap<u64, Vec<Put>>,
    next_mark: u64,
    next_number: u64,
    /// Done, and still noted in the target.
    pub(super) done: Vec<(DbKey, Settling)>,
}

/// A value that is to be put.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) db: u64,
    /// `RESTORE`, or `DEL`.
    pub(crate) command: keyferry_resp::Command,
}

impl Settlings {
    /// Adds a key, unless it is there; `by` is the side whose link has found it. False when there are too many.
    pub(super) fn add(&mut self, db: u64, key: &[u8], settling: Settling, by: Option<SideName>) -> bool {
        let at = (db, Bytes::copy_from_slice(key));
        if self.keys.contains_key(&at) {
            return true;
        }
        if self.keys.len() >= MOST || self.bytes + key.len() > MOST_BYTES {
            return false;
        }
        self.bytes += key.len();
        if settling.stage == Stage::New {
            self.found[by.map_or(2, SideName::number)].push(at.clone());
        }
        self.next_number += 1;
        self.keys.insert(at, Settling { number: self.next_number, ..settling });
        true
    }

    /// Whether the key gets the other side's value at `side`, and then whether what is done to it there is left out.
    pub(super) fn concerned(&mut self, side: SideName, db: u64, key: &[u8]) -> Option<bool> {
        if self.keys.is_empty() {
            return None;
        }
        let settling = self.keys.get_mut(&(db, Bytes::copy_from_slice(key)))?;
        if settling.to != side {
            return None;
        }
        settling.again |= matches!(settling.stage, Stage::Taken(_) | Stage::Marked(_));
        Some(settling.leaves)
    }

    /// What `side` does to the key was to stand on top of the other one's value, and was refused there: it is settled the way of
    /// `other` instead, if its value has not been read yet.
    pub(super) fn turn(&mut self, side: SideName, db: u64, key: &[u8], other: Settling) {
        let at = (db, Bytes::copy_from_slice(key));
        if let Some(settling) = self.keys.get_mut(&at)
            && (settling.to, settling.leaves) == (side, false)
            && !matches!(settling.stage, Stage::Marked(_))
        {
            self.next_number += 1;
            let turned = Settling { number: self.next_number, counted: settling.counted, ..other };
            let before = std::mem::replace(settling, turned);
            self.done.push((at.clone(), before));
            self.found[2].push(at);
        }
    }

    /// The key's, if it is being settled.
    pub(super) fn get_mut(&mut self, db: u64, key: &[u8]) -> Option<&mut Settling> {
        if self.keys.is_empty() { None } else { self.keys.get_mut(&(db, Bytes::copy_from_slice(key))) }
    }

    /// True when the other side gets `side`'s value of the key.
    pub(super) fn sends(&self, side: SideName, db: u64, key: &[u8]) -> bool {
        if self.keys.is_empty() {
            return false;
        }
        self.keys.get(&(db, Bytes::copy_from_slice(key))).is_some_and(|settling| settling.to != side)
    }

    /// What a run before has left to be settled.
    pub(super) fn load(&mut self, key: DbKey, settling: Settling) {
        self.next_number = self.next_number.max(settling.number);
        self.bytes += key.1.len();
        if let Some(before) = self.keys.insert(key.clone(), settling) {
            self.bytes -= key.1.len();
            self.done.push((key, before));
        }
    }

    /// Those that were found by the link that leads from `side`, or, without a side, by nobody who notes them.
    pub(super) fn take_found(&mut self, by: Option<SideName>) -> Vec<(DbKey, Settling)> {
        let found = std::mem::take(&mut self.found[by.map_or(2, SideName::number)]);
        found.into_iter().filter_map(|key| Some((key.clone(), *self.keys.get(&key)?))).collect()
    }

    /// They are noted, and what they were found at is handed over.
    pub(super) fn begin(&mut self, keys: &[(DbKey, Settling)]) {
        for (key, _) in keys {
            if let Some(settling) = self.keys.get_mut(key)
                && settling.stage == Stage::New
            {
                settling.stage = Stage::Waiting;
            }
        }
    }

    /// Gives a mark to some that wait, all of which go to one side.
    pub(super) fn take_waiting(&mut self, most: usize) -> Option<(u64, SideName, Vec<DbKey>)> {
        let waits = |settling: &Settling| settling.stage == Stage::Waiting;
        let to = self.keys.values().find(|settling| waits(settling))?.to;
        self.next_mark += 1;
        let mark = self.next_mark;
        let mut taken = Vec::new();
        for (key, settling) in self.keys.iter_mut().filter(|(_, of)| of.to == to && waits(of)).take(most) {
            (settling.stage, settling.again) = (Stage::Taken(mark), false);
            taken.push(key.clone());
        }
        Some((mark, to, taken))
    }

    /// The values of these are read now, unless they have been turned.
    pub(super) fn mark(&mut self, mark: u64, keys: Vec<DbKey>) -> Vec<DbKey> {
        let mut marked = keys;
        marked.retain(|key| match self.keys.get_mut(key) {
            Some(settling) if settling.stage == Stage::Taken(mark) => {
                settling.stage = Stage::Marked(mark);
                true
            }
            _ => false,
        });
        marked
    }

    /// What had this mark has been put, as seen in the stream of `side`. How many are settled by it.
    pub(super) fn put(&mut self, side: SideName, mark: u64) -> u64 {
        let is_of = |settling: &Settling| settling.to == side && settling.stage == Stage::Marked(mark);
        let of_mark: Vec<DbKey> =
            self.keys.iter().filter(|(_, settling)| is_of(settling)).map(|(key, _)| key.clone()).collect();
        let mut settled = 0;
        for key in of_mark {
            if let Some(settling) = self.keys.get_mut(&key)
                && settling.again
                && !settling.leaves
            {
                settling.stage = Stage::Waiting;
                continue;
            }
            if let Some(settling) = self.keys.remove(&key) {
                self.bytes -= key.1.len();
                self.done.push((key, settling));
                settled += 1;
            }
        }
        settled
    }

    /// Those with this mark have to be read anew.
    pub(super) fn retry(&mut self, mark: u64) {
        for settling in self.keys.values_mut().filter(|settling| settling.stage == Stage::Marked(mark)) {
            settling.stage = Stage::Waiting;
        }
    }

    /// How many are not settled yet.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlings(leaves: bool) -> (Settlings, DbKey) {
        let mut all = Settlings::default();
        let (to, by) = (SideName::Source, Some(SideName::Source));
        assert!(all.add(3, b"k", Settling::new(to, leaves), by));
        assert!(all.add(3, b"k", Settling::new(to, !leaves), by));
        (all, (3, Bytes::from_static(b"k")))
    }

    #[test]
    fn it_is_noted_before_its_turn_comes() {
        let (mut all, key) = settlings(true);
        assert!(all.take_waiting(9).is_none());
        assert!(all.take_found(Some(SideName::Target)).is_empty() && all.take_found(None).is_empty());
        let found = all.take_found(Some(SideName::Source));
        assert_eq!(found, [(key.clone(), Settling { number: 1, ..Settling::new(SideName::Source, true) })]);
        assert!(all.take_waiting(9).is_none());
        all.begin(&found);
        assert_eq!(all.take_waiting(9), Some((1, SideName::Source, vec![key])));
        assert!(all.take_waiting(9).is_none());
        all.mark(1, vec![(3, Bytes::from_static(b"k"))]);
        all.retry(1);
        assert_eq!(all.take_waiting(9).map(|(mark, ..)| mark), Some(2));
    }

    #[test]
    fn it_is_turned_until_its_value_is_read() {
        for late in [false, true] {
            let (mut all, key) = settlings(false);
            let found = all.take_found(Some(SideName::Source));
            all.begin(&found);
            let (mark, _, keys) = all.take_waiting(9).unwrap();
            if late {
                all.mark(mark, keys.clone());
            }
            all.turn(SideName::Source, 3, b"k", Settling::of_refused(SideName::Target, true));
            assert_eq!(all.mark(mark, keys).len(), 0);
            let found = all.take_found(None);
            assert_eq!((found.len(), all.done.len()), if late { (0, 0) } else { (1, 1) });
            all.begin(&found);
            let next = all.take_waiting(9);
            assert_eq!(next, if late { None } else { Some((2, SideName::Target, vec![key])) });
        }
    }

    #[test]
    fn what_is_left_out_is_settled_at_once_and_what_passes_when_nothing_does() {
        for leaves in [true, false] {
            let (mut all, _) = settlings(leaves);
            assert_eq!(all.concerned(SideName::Source, 3, b"k"), Some(leaves));
            assert_eq!(all.concerned(SideName::Target, 3, b"k"), None);
            assert!(all.sends(SideName::Target, 3, b"k") && !all.sends(SideName::Source, 3, b"k"));
            let found = all.take_found(Some(SideName::Source));
            all.begin(&found);
            let (mark, _, keys) = all.take_waiting(9).unwrap();
            assert_eq!(all.mark(mark, keys).len(), 1);
            assert_eq!(all.concerned(SideName::Source, 3, b"k"), Some(leaves));
            assert_eq!((all.put(SideName::Target, 1), all.put(SideName::Source, 7)), (0, 0));
            assert_eq!(all.put(SideName::Source, 1), u64::from(leaves));
            if !leaves {
                let (mark, _, keys) = all.take_waiting(9).unwrap();
                all.mark(mark, keys);
                assert_eq!((mark, all.put(SideName::Source, 2)), (2, 1));
            }
            assert_eq!((all.len(), all.done.len()), (0, 1));
            assert_eq!(all.concerned(SideName::Source, 3, b"k"), None);
        }
    }

    #[test]
    fn notes_are_read_back() {
        for (to, leaves) in [(SideName::Source, true), (SideName::Target, false)] {
            let settling = Settling { stage: Stage::Waiting, ..Settling::new(to, leaves) };
            assert_eq!(Settling::parse(&settling.to_text()), Some(settling));
        }
        assert_eq!((Settling::parse("source"), Settling::parse("x leaves")), (None, None));
    }
}
