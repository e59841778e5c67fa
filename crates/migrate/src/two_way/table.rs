//! Which keys the applications of one side have written, and the other side is not known to have yet.

use std::collections::{HashMap, VecDeque};

use twox_hash::XxHash3_128;

/// Keys that are remembered of one side. Beyond it the oldest are forgotten, and what they might have met is counted as
/// unknown.
pub(super) const MOST: usize = 1 << 20;

/// A key, or what stands for it: a hash of 128 bits of its database and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyId(u128);

impl KeyId {
    pub(super) fn of(db: u64, key: &[u8]) -> Self {
        KeyId(XxHash3_128::oneshot_with_seed(db, key))
    }
}

/// A write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Write {
    /// The offset behind it in its side's stream; 0 for none.
    pub(super) offset: u64,
    /// When it came from there, in milliseconds of the Unix epoch.
    pub(super) time: i64,
}

/// What was done last to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    db: u64,
    /// Whatever it was.
    last: Write,
    /// The last that was no removal.
    kept: Write,
}

impl Entry {
    fn note(&mut self, write: Write, removes: bool) {
        self.last = write;
        if !removes {
            self.kept = write;
        }
    }
}

/// The writes of one side's own applications that the other side is not known to have.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<KeyId, Entry>,
    /// Each entry once, and an offset at or behind which its last write was when it was put here.
    order: VecDeque<(u64, KeyId)>,
    /// What may have changed all keys of a database.
    databases: HashMap<u64, Write>,
    /// Up to here writes may have been forgotten, or were never noted.
    forgotten: u64,
    most: usize,
}

/// What a command meets in the table of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    Nothing,
    /// This write, and no write that is no removal behind what it is known to have.
    Removal(Write),
    /// This write.
    Write(Write),
    /// Nobody can tell.
    Unknown,
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Table { most, ..Table::default() }
    }

    /// Nothing is known of what was written up to here.
    pub(super) fn begin_at(&mut self, offset: u64) {
        self.forgotten = self.forgotten.max(offset);
    }

    /// Notes a write to a key of a database.
    pub(super) fn note(&mut self, db: u64, key: KeyId, write: Write, removes: bool) {
        if let Some(entry) = self.entries.get_mut(&key) {
            return entry.note(write, removes);
        }
        if self.entries.len() >= self.most {
            self.forget_oldest();
        }
        let kept = if removes { Write::default() } else { write };
        self.entries.insert(key, Entry { db, last: write, kept });
        self.order.push_back((write.offset, key));
    }

    /// Notes what may have changed everything in a database.
    pub(super) fn note_database(&mut self, db: u64, write: Write) {
        self.databases.insert(db, write);
    }

    fn forget_oldest(&mut self) {
        while let Some((_, key)) = self.order.pop_front() {
            if let Some(entry) = self.entries.remove(&key) {
                self.forgotten = self.forgotten.max(entry.last.offset);
                return;
            }
        }
    }

    /// The other side has everything up to `offset`.
    pub(super) fn confirm(&mut self, offset: u64) {
        while let Some(&(at, key)) = self.order.front()
            && at <= offset
        {
            self.order.pop_front();
            match self.entries.get(&key) {
                Some(entry) if entry.last.offset > offset => {
                    // It stays in the order of offsets.
                    let behind = self.order.back().map_or(0, |&(at, _)| at);
                    self.order.push_back((entry.last.offset.max(behind), key));
                }
                Some(_) => {
                    self.entries.remove(&key);
                }
                None => {}
            }
        }
        self.databases.retain(|_, write| write.offset > offset);
    }

    /// What a write to a key meets, by one who has everything of this side up to `seen`.
    pub(super) fn meet(&self, db: u64, key: KeyId, seen: u64) -> Met {
        if let Some(write) = self.databases.get(&db).filter(|write| write.offset > seen) {
            return Met::Write(*write);
        }
        match self.entries.get(&key) {
            Some(entry) if entry.kept.offset > seen => Met::Write(entry.kept),
            Some(entry) if entry.last.offset > seen => Met::Removal(entry.last),
            _ if self.forgotten > seen => Met::Unknown,
            _ => Met::Nothing,
        }
    }

    /// How many keys of a database were written behind `seen`.
    pub(super) fn count(&self, db: u64, seen: u64) -> usize {
        self.entries.values().filter(|entry| entry.db == db && entry.last.offset > seen).count()
    }

    /// True when something may have been forgotten that came behind `seen`.
    pub(super) fn has_forgotten(&self, seen: u64) -> bool {
        self.forgotten > seen
    }

    /// A key is settled: what was written before matters no more.
    pub(super) fn remove(&mut self, key: KeyId) {
        // Its place in the order is passed over when its turn comes.
        self.entries.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Write {
        Write { offset, time: i64::try_from(offset).unwrap() }
    }

    fn key(name: &str) -> KeyId {
        KeyId::of(0, name.as_bytes())
    }

    #[test]
    fn databases_have_keys_of_their_own() {
        assert_ne!(KeyId::of(0, b"a"), KeyId::of(1, b"a"));
        assert_eq!(KeyId::of(3, b"a"), KeyId::of(3, b"a"));
    }

    #[test]
    fn what_the_other_side_has_is_met_no_more() {
        let mut table = Table::new(100);
        table.note(0, key("a"), at(10), false);
        table.note(0, key("b"), at(20), false);
        table.note(0, key("a"), at(30), true);
        assert_eq!(table.meet(0, key("a"), 5), Met::Write(at(10)));
        assert_eq!(table.meet(0, key("a"), 10), Met::Removal(at(30)));
        assert_eq!(table.meet(0, key("a"), 30), Met::Nothing);
        table.confirm(20);
        assert_eq!((table.entries.len(), table.order.len()), (1, 1));
        assert_eq!(table.meet(0, key("a"), 20), Met::Removal(at(30)));
        table.note(0, key("c"), at(40), false);
        table.confirm(30);
        assert_eq!((table.entries.len(), table.order.len()), (1, 1));
        table.remove(key("c"));
        table.confirm(40);
        assert!(table.entries.is_empty() && table.order.is_empty());
    }

    #[test]
    fn what_is_forgotten_is_told() {
        let mut table = Table::new(2);
        for (n, name) in (1..).zip(["a", "b", "c"]) {
            table.note(0, key(name), at(n * 10), false);
        }
        assert_eq!(table.entries.len(), 2);
        assert_eq!(table.meet(0, key("a"), 5), Met::Unknown);
        assert_eq!(table.meet(0, key("x"), 5), Met::Unknown);
        assert_eq!(table.meet(0, key("x"), 10), Met::Nothing);
        assert_eq!(table.meet(0, key("b"), 5), Met::Write(at(20)));
        table.begin_at(25);
        assert!(table.has_forgotten(20) && !table.has_forgotten(25));
    }

    #[test]
    fn a_flush_meets_and_is_met_by_its_database() {
        let mut table = Table::new(100);
        table.note(1, KeyId::of(1, b"a"), at(10), false);
        table.note(2, KeyId::of(2, b"a"), at(20), false);
        assert_eq!((table.count(1, 0), table.count(1, 10), table.count(0, 0)), (1, 0, 0));
        table.note_database(1, at(30));
        assert_eq!(table.meet(1, KeyId::of(1, b"x"), 20), Met::Write(at(30)));
        assert_eq!(table.meet(2, KeyId::of(2, b"x"), 20), Met::Nothing);
        table.confirm(30);
        assert_eq!(table.meet(1, KeyId::of(1, b"x"), 20), Met::Nothing);
    }

    /// Against the obvious: every write is remembered.
    #[test]
    fn it_says_what_a_list_of_all_writes_says() {
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..200 {
            let (mut table, mut all) = (Table::new(1000), Vec::new());
            let (mut offset, mut confirmed) = (0, 0);
            for _ in 0..300 {
                let name = format!("k{}", next(12));
                match next(4) {
                    0 if offset > confirmed => {
                        confirmed += 1 + next(offset - confirmed);
                        table.confirm(confirmed);
                    }
                    1 => {
                        let seen = confirmed + next(offset - confirmed + 1);
                        let behind = |removes: bool| {
                            let found = |(n, w, r): &&(String, Write, bool)| {
                                *n == name && w.offset > seen && (removes || !*r)
                            };
                            all.iter().rev().find(found).map(|(_, write, _)| *write)
                        };
                        let expected = match (behind(false), behind(true)) {
                            (Some(write), _) => Met::Write(write),
                            (None, Some(write)) => Met::Removal(write),
                            (None, None) => Met::Nothing,
                        };
                        assert_eq!(table.meet(0, key(&name), seen), expected);
                    }
                    _ => {
                        offset += 1 + next(5);
                        let removes = next(3) == 0;
                        table.note(0, key(&name), at(offset), removes);
                        all.push((name, at(offset), removes));
                    }
                }
            }
        }
    }
}
