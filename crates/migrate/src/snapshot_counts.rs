//! What a snapshot held.

use std::collections::BTreeMap;

use crate::existing::Tallies;

/// How many losses are named one by one.
const NAMED_LOSSES: usize = 100;

/// What a snapshot held, and what of it was not carried over and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SnapshotCounts {
    /// Keys by database.
    pub keys: BTreeMap<u64, u64>,
    /// Keys by type.
    pub types: BTreeMap<&'static str, u64>,
    /// Of these keys, how many an earlier run had brought to the target, and were not applied again.
    pub already_there: u64,
    /// Keys of slots that other workers carry over: left out.
    pub of_other_workers: u64,
    /// Keys with an expiry.
    pub with_expiry: u64,
    /// Keys above the size limit, built in parts.
    pub large: u64,
    /// The database in which the command stream goes on, as the snapshot says (`repl-stream-db`).
    pub stream_db: u64,
    /// Function libraries.
    pub functions: u64,
    /// Cached scripts of servers before 7.0.
    pub scripts: u64,
    /// Empty containers, which servers drop when they load a snapshot.
    pub empty_containers_dropped: u64,
    /// Keys above the size limit that had expired before they could be built.
    pub expired_dropped: u64,
    /// Blocks of data that modules keep beside keys; there is no command that would carry them.
    pub module_data_dropped: u64,
    /// Slot migrations that were under way at the source, and vendors' notes.
    pub notes_dropped: u64,
    /// Parts of large values that no command carries over, or that the target has no place for: how many values lack
    /// what.
    pub losses: BTreeMap<&'static str, u64>,
    /// The first hundred of them, with their keys.
    pub named_losses: Vec<String>,
    /// What it did to keys that the target has had before.
    #[serde(skip)]
    pub(crate) existing: Tallies,
}

impl SnapshotCounts {
    /// Adds those of another link's snapshot.
    pub(crate) fn add(&mut self, other: &SnapshotCounts) {
        for (db, count) in &other.keys {
            *self.keys.entry(*db).or_default() += count;
        }
        for (ty, count) in &other.types {
            *self.types.entry(ty).or_default() += count;
        }
        for (loss, count) in &other.losses {
            *self.losses.entry(loss).or_default() += count;
        }
        self.already_there += other.already_there;
        self.of_other_workers += other.of_other_workers;
        self.with_expiry += other.with_expiry;
        self.large += other.large;
        self.stream_db = other.stream_db;
        self.functions += other.functions;
        self.scripts += other.scripts;
        self.empty_containers_dropped += other.empty_containers_dropped;
        self.expired_dropped += other.expired_dropped;
        self.module_data_dropped += other.module_data_dropped;
        self.notes_dropped += other.notes_dropped;
        self.existing.add(&other.existing);
        let room = NAMED_LOSSES.saturating_sub(self.named_losses.len());
        self.named_losses.extend(other.named_losses.iter().take(room).cloned());
    }

    /// Counts something that was lost, and keeps what it was.
    pub(crate) fn lose(&mut self, kind: &'static str, named: String) {
        *self.losses.entry(kind).or_default() += 1;
        if self.named_losses.len() < NAMED_LOSSES {
            self.named_losses.push(named);
        }
    }

    /// All keys.
    #[must_use]
    pub fn total_keys(&self) -> u64 {
        self.keys.values().sum()
    }
}
