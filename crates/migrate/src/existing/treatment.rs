//! What the snapshot does to keys that the target has had before.

use std::{collections::HashSet, sync::Arc};

use keyferry_rdb::{EntryHead, Kind};
use twox_hash::XxHash3_128;

use super::{Existing, Tallies, mergeable};
use crate::{options::OnExists, sharded::Databases};

/// Keys of a snapshot that may hold one twice that are remembered, at most: some 100 MiB.
const MOST_SEEN: usize = 4 << 20;

/// How a key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treat {
    /// Over whatever is there.
    Replace,
    /// Only if there is nothing.
    OnlyNew,
    /// Its elements are added to those that are there.
    Merge,
}

/// Decides that, key by key.
#[derive(Debug)]
pub(crate) struct Treatment {
    existing: Arc<Existing>,
    databases: Databases,
    /// Values that begin at this byte of the snapshot or behind it have not been handed over before.
    guarded_from: Option<u64>,
    /// The keys so far, where the snapshot may hold one twice.
    seen: Option<HashSet<u128>>,
}

impl Treatment {
    pub(crate) fn new(existing: &Arc<Existing>, databases: &Databases) -> Self {
        Treatment {
            existing: Arc::clone(existing),
            databases: databases.clone(),
            guarded_from: None,
            seen: None,
        }
    }

    /// What begins at this byte of the snapshot or behind it has not been handed over before: a key that is there is not the
    /// migration's. `repeats` tells that the snapshot may hold a key twice.
    pub(crate) fn guard(&mut self, from: u64, repeats: bool) {
        if self.existing.is_guarded() {
            self.guarded_from = Some(from);
            self.seen = repeats.then(HashSet::new);
        }
    }

    /// How a key is written whose value begins at `place`; counts it.
    pub(crate) fn of(&mut self, head: &EntryHead<'_>, place: u64, tallies: &mut Tallies) -> Treat {
        let Ok(db) = self.databases.to(head.db) else {
            // It ends the run elsewhere.
            return Treat::Replace;
        };
        if self.guarded_from.is_some_and(|from| place >= from) && self.is_first(db, head.key) {
            return Treat::OnlyNew;
        }
        if self.existing.is_empty() || !self.existing.was_there(db, head.key) {
            return Treat::Replace;
        }
        let ty = head.ty.kind().name();
        if self.existing.policy == OnExists::Merge && self.merges(db, head) {
            tallies.merged.note(ty, head.key);
            return Treat::Merge;
        }
        tallies.replaced.note(ty, head.key);
        Treat::Replace
    }

    /// True when the key at the target is of the same type, one that has a union.
    fn merges(&self, db: u32, head: &EntryHead<'_>) -> bool {
        let ty = match head.ty.kind() {
            Kind::Hash => "hash",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
            _ => return false,
        };
        let Some(word) = mergeable(ty).filter(|_| head.meta.is_none()) else { return false };
        self.existing.ask(&self.existing.chosen, db, &[&[word], head.key].concat())
    }

    fn is_first(&mut self, db: u32, key: &[u8]) -> bool {
        let Some(seen) = &mut self.seen else { return true };
        // Beyond that nobody can tell a key of others from one that comes a second time.
        seen.len() < MOST_SEEN && seen.insert(XxHash3_128::oneshot_with_seed(u64::from(db), key))
    }
}
