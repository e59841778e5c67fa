//! Keys that the target has had before a migration began: what becomes of them ([`OnExists`]), and how many there were.
//!
//! Which keys these are is looked up before anything is written ([`crate::sharded`] does that) and does not change from then on.
//! Keys that stay as they are, or end the run, are left out by the [filter](crate::filter) ([`Existing::keep_in`]), in the
//! snapshot and in the stream. What is replaced or merged is decided where the snapshot is encoded ([`Treatment`]).

mod handed;
mod overlap;
mod treatment;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;

pub use self::overlap::{Overlap, PrefixCount};
pub(crate) use self::{
    handed::Handed,
    overlap::{Counter, SharedKeys, idle_of, in_files, parts_of},
    treatment::{Treat, Treatment},
};
use crate::{
    error::Error,
    filter::{Filter, Kept},
    key_set::KeySet,
    options::OnExists,
    sharded::{Databases, Foreign},
};

/// Names of keys of each kind that are kept, and how much of each.
const SAMPLES: usize = 8;
const SAMPLE_BYTES: usize = 100;

/// What became of keys that the target has had before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExistingCounts {
    /// What was to become of them.
    pub policy: OnExists,
    /// How many keys the target had before the migration first began, whether the source has them or not; none where nobody
    /// looked, or nobody knows any more.
    pub before: Option<u64>,
    /// Keys of the snapshot that were left out, so that the target's stayed; their types are not counted.
    pub skipped: KeyTally,
    /// Keys of the target that the source's replaced.
    pub replaced: KeyTally,
    /// Keys that became the union of both.
    pub merged: KeyTally,
}

/// Some keys: how many, and a few of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyTally {
    /// How many.
    pub count: u64,
    /// How many of each type, where that is counted.
    pub types: BTreeMap<&'static str, u64>,
    /// The first few, by their names at the target; bytes that are no text escaped, long ones cut.
    pub samples: Vec<String>,
}

impl KeyTally {
    fn note(&mut self, ty: &'static str, key: &[u8]) {
        self.count += 1;
        *self.types.entry(ty).or_default() += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(shown(key));
        }
    }

    fn add(&mut self, other: &KeyTally) {
        self.count += other.count;
        for (ty, count) in &other.types {
            *self.types.entry(ty).or_default() += count;
        }
        let room = SAMPLES.saturating_sub(self.samples.len());
        self.samples.extend(other.samples.iter().take(room).cloned());
    }
}

/// What the snapshot did to keys of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tallies {
    pub(crate) replaced: KeyTally,
    pub(crate) merged: KeyTally,
}

impl Tallies {
    pub(crate) fn add(&mut self, other: &Tallies) {
        self.replaced.add(&other.replaced);
        self.merged.add(&other.merged);
    }
}

/// What is known of the keys that the target has had before.
#[derive(Debug)]
pub(crate) struct Existing {
    policy: OnExists,
    /// All of them.
    foreign: Foreign,
    /// [`OnExists::NewerWins`]: those that stay. [`OnExists::Merge`]: those that can be merged, by type and name.
    chosen: Arc<KeySet>,
    /// This process has found out: nothing of the migration was at the target.
    fresh: bool,
    /// A set could not be read.
    failure: Mutex<Option<Error>>,
}

impl Existing {
    pub(crate) fn new(policy: OnExists, foreign: Foreign, chosen: KeySet, fresh: bool) -> Arc<Self> {
        let chosen = Arc::new(chosen);
        Arc::new(Existing { policy, foreign, chosen, fresh, failure: Mutex::default() })
    }

    /// The same for another attempt, which comes behind one that has written.
    pub(crate) fn stale(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Existing {
            policy: self.policy,
            foreign: self.foreign.clone(),
            chosen: Arc::clone(&self.chosen),
            fresh: false,
            failure: Mutex::default(),
        })
    }

    /// With nothing known but, perhaps, the keys themselves.
    pub(crate) fn replacing(foreign: Foreign) -> Arc<Self> {
        Self::new(OnExists::Replace, foreign, KeySet::empty(), false)
    }

    pub(crate) fn foreign(&self) -> &Foreign {
        &self.foreign
    }

    /// True where a key that turns up while the first snapshot is applied ends the run.
    pub(crate) fn is_guarded(&self) -> bool {
        self.policy == OnExists::Fail
    }

    /// How much of a link's snapshot may have been handed over before, where that matters. `again`: it comes over another one.
    pub(crate) fn handed(&self, directory: &Path, link: u16, again: bool) -> Option<Handed> {
        let handed = match (self.fresh, again) {
            // Nothing of the migration was at the target when this process began with it.
            (true, _) => Handed::begin(directory, link),
            (false, true) => Handed::unknown(directory, link),
            (false, false) => Handed::resume(directory, link),
        };
        self.is_guarded().then_some(handed)
    }

    /// How many keys the target had, where that is known.
    pub(crate) fn count(&self) -> Option<u64> {
        match &self.foreign {
            Foreign::Known(keys) => Some(keys.len()),
            Foreign::Unknown => None,
        }
    }

    /// Tells the filter which keys are left to the target.
    pub(crate) fn keep_in(self: &Arc<Self>, filter: Option<&Arc<Filter>>, databases: &Databases) {
        let Some(filter) = filter.filter(|_| self.policy.leaves_alone() && !self.is_empty()) else { return };
        let (existing, databases) = (Arc::clone(self), databases.clone());
        let has = move |db: u64, name: &[u8]| {
            // A database without a place ends the run elsewhere.
            databases.to(db).is_ok_and(|db| existing.stays(db, name))
        };
        filter.keep(Kept { has: Box::new(has), refuses: self.policy == OnExists::Fail });
    }

    /// The error that keeps these answers from being right, if there is one.
    ///
    /// # Errors
    /// When a set of keys could not be read.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(&self.foreign, Foreign::Known(keys) if keys.len() == 0)
    }

    /// Whether a key of the target stays as it is.
    fn stays(&self, db: u32, key: &[u8]) -> bool {
        match self.policy {
            OnExists::NewerWins => self.ask(&self.chosen, db, key),
            _ => self.was_there(db, key),
        }
    }

    fn was_there(&self, db: u32, key: &[u8]) -> bool {
        match &self.foreign {
            Foreign::Known(keys) => self.ask(keys, db, key),
            Foreign::Unknown => false,
        }
    }

    /// Where a set cannot be read, the key stays untouched, and the run ends.
    fn ask(&self, keys: &KeySet, db: u32, key: &[u8]) -> bool {
        keys.contains(db, key).unwrap_or_else(|error| {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            true
        })
    }
}

/// The word that stands before a key's name in the set of those that can be merged, by the name of its type; none for types
/// that have no union.
pub(crate) fn mergeable(ty: &str) -> Option<u8> {
    match ty {
        "hash" => Some(b'h'),
        "set" => Some(b's'),
        "zset" => Some(b'z'),
        _ => None,
    }
}

/// A key for a person.
fn shown(key: &[u8]) -> String {
    match key.get(..SAMPLE_BYTES) {
        Some(cut) if cut.len() < key.len() => format!("{}…", cut.escape_ascii()),
        _ => key.escape_ascii().to_string(),
    }
}
