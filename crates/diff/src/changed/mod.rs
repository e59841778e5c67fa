//! The keys that were touched since some time, by a journal of the commands that the source carried out.

mod journal;
mod touch;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use keyferry_rdb::Limits;
use serde::Serialize;

use crate::error::Error;

/// What a name takes in memory beside its bytes, about.
const OVERHEAD: usize = 64;
/// Reasons that are told by name.
const TOLD: usize = 20;

/// How a journal is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChangedOptions {
    /// Only what was touched at this time or later counts, by the clock of the machine that wrote the journal: when the last full
    /// comparison began ([`DiffReport::begun_at`](crate::DiffReport::begun_at)). Default: all that is in the journal.
    pub since: Option<SystemTime>,
    /// About how many bytes of names are held. Beyond that all keys count as touched. Default: 128 MiB.
    pub memory: usize,
    /// Bounds on what the journal may make this hold.
    pub limits: Limits,
}

impl Default for ChangedOptions {
    fn default() -> Self {
        Self { since: None, memory: 128 << 20, limits: Limits::default() }
    }
}

/// The keys that the commands of a journal touch, to be compared again by [`LiveDiff::run_changed`](crate::LiveDiff::run_changed).
///
/// A journal is what `migrate --journal DIR --keep` writes, of one source or of all shards of a cluster, or the append-only file of
/// a server. What cannot be told by key makes whole databases count as touched, or everything:
///
/// | what | counts as touched |
/// |---|---|
/// | a command whose keys are known | these, those that are read among them; with `MOVE` and `COPY … DB` in the other database, too |
/// | `FLUSHDB`, `SWAPDB` | the databases |
/// | `FLUSHALL`, scripts and functions, commands that are not known | everything |
/// | a journal that begins later than [`ChangedOptions::since`], or that has a gap | everything |
/// | more names than [`ChangedOptions::memory`] has room for | everything |
///
/// ```
/// use keyferry_diff::{ChangedKeys, ChangedOptions, Error};
///
/// let dir = tempfile::tempdir().map_err(Error::Results)?;
/// let file = dir.path().join("appendonly.aof");
/// std::fs::write(&file, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n").map_err(Error::Results)?;
/// let changed = ChangedKeys::read(&file, &ChangedOptions::default())?;
/// assert_eq!((changed.commands(), changed.len(), changed.widened().len()), (1, 1, 0));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedKeys {
    keys: BTreeMap<u64, HashSet<Bytes>>,
    bytes: usize,
    whole: BTreeSet<u64>,
    everything: bool,
    widened: Vec<String>,
    commands: u64,
    until: Option<i64>,
    /// By log that says so: the history, and the offset at which it ends.
    ends: Vec<(String, u64)>,
}

impl ChangedKeys {
    /// Reads a journal: its directory, one with the directories of several shards, an append-only file of any kind. The end may
    /// be cut off, since a journal is read while it is written.
    ///
    /// # Errors
    ///
    /// [`Error::File`] for what cannot be read or is damaged, [`Error::NoJournal`] for a directory without one.
    pub fn read(path: impl AsRef<Path>, options: &ChangedOptions) -> Result<Self, Error> {
        journal::read(path.as_ref(), options)
    }

    /// Takes the keys of another journal in, such as that of another shard.
    pub fn extend(&mut self, other: Self, options: &ChangedOptions) {
        for (db, keys) in other.keys {
            keys.into_iter().for_each(|key| self.add(db, &key, options.memory));
        }
        self.whole.extend(other.whole);
        self.everything |= other.everything;
        other.widened.into_iter().for_each(|why| self.tell(why));
        self.commands += other.commands;
        self.ends.extend(other.ends);
        // What is known of all is known up to the earliest end.
        self.until = match (self.until, other.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// How many keys were named.
    pub fn len(&self) -> u64 {
        self.keys.values().map(|keys| keys.len() as u64).sum()
    }

    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.everything && self.whole.is_empty()
    }

    /// Commands that were read, those among them that write nothing.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// Whether every key of a database of the source counts as touched.
    pub fn is_whole(&self, db: u64) -> bool {
        self.everything || self.whole.contains(&db)
    }

    /// Whether a key of the source counts as touched.
    pub fn contains(&self, db: u64, key: &[u8]) -> bool {
        self.is_whole(db) || self.keys.get(&db).is_some_and(|keys| keys.contains(key))
    }

    /// Why more than the named keys count as touched, in words; nothing where that is not so.
    pub fn widened(&self) -> &[String] {
        &self.widened
    }

    /// When the last command came, in seconds since the Unix epoch, where the journal says so.
    pub fn until(&self) -> Option<i64> {
        self.until
    }

    /// Whether anything of a database of the source was touched.
    pub(crate) fn touches(&self, db: u64) -> bool {
        self.is_whole(db) || self.keys.get(&db).is_some_and(|keys| !keys.is_empty())
    }

    /// The keys that were named in a database.
    pub(crate) fn of_db(&self, db: u64) -> impl Iterator<Item = &Bytes> {
        self.keys.get(&db).into_iter().flatten()
    }

    fn make_whole(&mut self, db: u64, why: impl FnOnce() -> String) {
        if !self.is_whole(db) {
            self.tell(why());
            self.whole.insert(db);
            self.keys.remove(&db);
        }
    }

    fn widen(&mut self, why: impl FnOnce() -> String) {
        if !self.everything {
            self.tell(why());
            self.everything = true;
            self.keys.clear();
        }
    }

    fn tell(&mut self, why: String) {
        if self.widened.len() < TOLD && !self.widened.contains(&why) {
            self.widened.push(why);
        }
    }

    fn add(&mut self, db: u64, key: &[u8], memory: usize) {
        if self.is_whole(db) {
            return;
        }
        let keys = self.keys.entry(db).or_default();
        if keys.contains(key) {
            return;
        }
        keys.insert(Bytes::copy_from_slice(key));
        self.bytes += key.len() + OVERHEAD;
        if self.bytes > memory {
            self.widen(|| format!("the names of the keys that were touched take more than {memory} bytes"));
        }
    }

    /// Where the log of this history ends, if there is one.
    pub(crate) fn end_of(&self, replication_id: &str) -> Option<u64> {
        self.ends.iter().find(|(id, _)| id == replication_id).map(|(_, offset)| *offset)
    }

    pub(crate) fn report(&self) -> ChangedReport {
        ChangedReport {
            keys: self.len(),
            commands: self.commands,
            until: self.until,
            widened: self.widened.clone(),
        }
    }
}

/// What a journal said, of which a comparison looked at the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChangedReport {
    /// Keys that were named.
    pub keys: u64,
    /// Commands that were read.
    pub commands: u64,
    /// When the last of them came, in seconds since the Unix epoch, where that is known.
    pub until: Option<i64>,
    /// Why more than the named keys were looked at.
    pub widened: Vec<String>,
}

/// What it leaves open.
impl std::fmt::Display for ChangedReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "only keys were compared that {} commands of the journal touched", self.commands)?;
        if let Some(until) = self.until {
            write!(f, ", the last of them at {until} (Unix time)")?;
        }
        for why in &self.widened {
            write!(f, "; more, since {why}")?;
        }
        Ok(())
    }
}
