//! Which keys have to be read again, in which order, and what else has happened between.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

/// Keys of each database that are remembered to tell whether it was flushed.
const WITNESSES: usize = 128;

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// To be read again.
    Key { shard: usize, db: u64, key: Bytes },
    /// A shard was flushed, or one of its databases.
    Flush { shard: usize, seq: u64 },
    /// Libraries of functions have changed.
    Functions,
}

/// A queue of what events have told.
///
/// A key is in it once: a second event finds it where it is, as it will be read after that event in any case. Whoever takes a key
/// reads it afterwards, so that an event that comes meanwhile puts it in again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// With the number of what put it in.
    queue: VecDeque<(u64, Todo)>,
    keys: HashMap<(u64, Bytes), u64>,
    /// Of the last event.
    seq: u64,
    /// Keys, by shard and database, that were there when the event of this number had come, and of which none has come since.
    witnesses: BTreeMap<(usize, u64), HashMap<Bytes, u64>>,
    functions: bool,
}

impl Dirty {
    /// The number of the last event.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// A key was written, deleted, or has expired.
    pub(super) fn touch(&mut self, shard: usize, db: u64, key: Bytes) {
        self.seq += 1;
        if let Some(witnesses) = self.witnesses.get_mut(&(shard, db)) {
            witnesses.remove(&key);
        }
        let seq = self.seq;
        self.keys.entry((db, key.clone())).or_insert_with(|| {
            self.queue.push_back((seq, Todo::Key { shard, db, key }));
            seq
        });
    }

    /// Something of a shard was flushed. What is written afterwards has to be read after this, too, whatever waits already.
    pub(super) fn flushed(&mut self, shard: usize) {
        self.seq += 1;
        self.keys.clear();
        self.queue.push_back((self.seq, Todo::Flush { shard, seq: self.seq }));
    }

    /// Functions have changed.
    pub(super) fn functions(&mut self) {
        self.seq += 1;
        if !std::mem::replace(&mut self.functions, true) {
            self.queue.push_back((self.seq, Todo::Functions));
        }
    }

    /// What comes next, `most` keys of one shard and database at most, or one thing of another kind.
    pub(super) fn take(&mut self, most: usize) -> Vec<Todo> {
        let mut taken = Vec::new();
        while let Some((_, next)) = self.queue.front() {
            let fits = match (taken.first(), next) {
                (None, _) => true,
                (Some(Todo::Key { shard, db, .. }), Todo::Key { shard: other, db: other_db, .. }) => {
                    taken.len() < most && (shard, db) == (other, other_db)
                }
                _ => false,
            };
            let Some((seq, next)) = fits.then(|| self.queue.pop_front()).flatten() else { break };
            match &next {
                Todo::Key { db, key, .. } => {
                    let name = (*db, key.clone());
                    if self.keys.get(&name) == Some(&seq) {
                        self.keys.remove(&name);
                    }
                }
                Todo::Functions => self.functions = false,
                Todo::Flush { .. } => {}
            }
            taken.push(next);
        }
        taken
    }

    /// The number of the oldest event that has not been taken.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.queue.front().map(|(seq, _)| *seq)
    }

    /// A key was found when the event `seq` was the last that had come.
    pub(super) fn saw(&mut self, shard: usize, db: u64, key: &Bytes, seq: u64) {
        let untouched = seq == self.seq || !self.keys.contains_key(&(db, key.clone()));
        let witnesses = self.witnesses.entry((shard, db)).or_default();
        if untouched && (witnesses.len() < WITNESSES || witnesses.contains_key(key)) {
            witnesses.insert(key.clone(), seq);
        }
    }

    /// Databases of a shard of which keys were seen.
    pub(super) fn databases(&self, shard: usize) -> Vec<u64> {
        let of = self.witnesses.keys().filter(|(other, _)| *other == shard);
        of.map(|(_, db)| *db).collect()
    }

    /// Keys that were there before the event `seq`, and of which none has come since: if one is still there, its database was not
    /// flushed by that event.
    pub(super) fn witnesses(&self, shard: usize, db: u64, seq: u64) -> Vec<Bytes> {
        let of = self.witnesses.get(&(shard, db)).into_iter().flatten();
        of.filter(|(_, seen)| **seen < seq).map(|(key, _)| key.clone()).collect()
    }

    /// A database was flushed: nothing of it is there any more.
    pub(super) fn forget(&mut self, shard: usize, db: u64, seq: u64) {
        if let Some(witnesses) = self.witnesses.get_mut(&(shard, db)) {
            witnesses.retain(|_, seen| *seen >= seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(shard: usize, db: u64, key: &'static str) -> Todo {
        Todo::Key { shard, db, key: Bytes::from_static(key.as_bytes()) }
    }

    fn touch(dirty: &mut Dirty, todo: Todo) {
        let Todo::Key { shard, db, key } = todo else { panic!("no key") };
        dirty.touch(shard, db, key);
    }

    #[test]
    fn keys_come_once_and_in_order_and_alike() {
        let mut dirty = Dirty::default();
        for todo in [key(0, 0, "a"), key(0, 0, "b"), key(0, 0, "a"), key(0, 1, "a"), key(1, 1, "c")] {
            touch(&mut dirty, todo);
        }
        dirty.flushed(0);
        touch(&mut dirty, key(0, 0, "b"));
        touch(&mut dirty, key(0, 0, "d"));
        dirty.functions();
        dirty.functions();
        assert_eq!(dirty.queue.len(), 8);
        assert_eq!(dirty.take(1), [key(0, 0, "a")]);
        touch(&mut dirty, key(0, 0, "a"));
        assert_eq!(dirty.take(9), [key(0, 0, "b")]);
        assert_eq!(dirty.take(9), [key(0, 1, "a")]);
        assert_eq!(dirty.take(9), [key(1, 1, "c")]);
        assert_eq!(dirty.take(9), [Todo::Flush { shard: 0, seq: 6 }]);
        // It was written before the flush, and again after it.
        assert_eq!(dirty.take(9), [key(0, 0, "b"), key(0, 0, "d")]);
        assert_eq!(dirty.take(9), [Todo::Functions]);
        assert_eq!(dirty.oldest(), Some(11));
        assert_eq!(dirty.take(9), [key(0, 0, "a")]);
        assert_eq!((dirty.take(9), dirty.oldest()), (Vec::new(), None));
    }

    #[test]
    fn witnesses_are_keys_that_nobody_touched() {
        let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        let mut dirty = Dirty::default();
        dirty.saw(0, 3, &a, 0);
        dirty.saw(0, 3, &b, 0);
        dirty.touch(0, 3, b.clone());
        dirty.flushed(0);
        assert_eq!(dirty.witnesses(0, 3, 2), std::slice::from_ref(&a));
        // Seen after the flush: it tells nothing of it.
        dirty.take(9);
        dirty.saw(0, 3, &b, 2);
        assert_eq!(dirty.witnesses(0, 3, 2), std::slice::from_ref(&a));
        assert_eq!(dirty.databases(0), [3]);
        dirty.forget(0, 3, 2);
        assert_eq!(dirty.witnesses(0, 3, 9), [b]);
        // An event came while it was read.
        dirty.touch(0, 3, a.clone());
        dirty.saw(0, 3, &a, 2);
        assert_eq!(dirty.witnesses(0, 3, 9).len(), 1);
    }
}
