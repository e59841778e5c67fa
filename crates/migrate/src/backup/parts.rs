//! The snapshots of shards that wait until all are there, and those that an earlier run has left.
//!
//! Beside `dump.rdb` it is the directory `dump.rdb.partial`, with a whole snapshot for each shard that has been read, and `parts.json`,
//! which tells of what each is. What is there is used by the next run, if it is still what was written, and of a shard that still has the
//! same slots and goes on with the same history. Files that are not whole have names of their own, and are removed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use keyferry_client::Connection;
use keyferry_files::Error as FileError;
use keyferry_replication::ReplicationId;
use serde::{Deserialize, Serialize};

use super::{BackupSnapshot, Copied, Manifest, UNNAMED};
use crate::{
    archive::digest_file,
    error::Error,
    journal::{self, sidecar},
    prepare,
    source::SourceLink,
};

/// What tells of the snapshots.
const LIST: &str = "parts.json";
/// The form of it.
const FORMAT: u32 = 1;

/// The directory, locked.
pub(super) struct Parts {
    dir: PathBuf,
    list: List,
    _lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    parts: Vec<Part>,
    /// What was made of them, where it is not the snapshots themselves.
    #[serde(default)]
    made: Vec<Made>,
}

/// The snapshot of a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    file: String,
    /// The ids of the shard's nodes.
    nodes: BTreeSet<String>,
    pub(super) snapshot: BackupSnapshot,
}

/// A file that has its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    file: PathBuf,
    digest: String,
}

impl Parts {
    /// Opens the directory of what is to be written to `out`, and gives what was found in it that is of no use. `named` are the files that
    /// snapshots get the names of as they are, in the order of the links: a run that was killed may have named some.
    pub(super) fn open(
        out: &Path,
        links: &[Shard],
        named: &[PathBuf],
        restart: bool,
    ) -> Result<(Self, Vec<String>), Error> {
        let dir = directory(out);
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(FileError::Output { output: dir.display().to_string(), error: e }.into());
            }
            _ => {}
        }
        let lock = journal::lock(&dir).map_err(|e| match e {
            Error::JournalLocked { path } => Error::BackupInUse { path },
            other => other,
        })?;
        let list = match sidecar::read::<List>(&dir.join(LIST)) {
            // One that cannot be read is begun anew if that is wanted.
            Err(_) if restart => None,
            found => found?,
        };
        let list = list.unwrap_or(List { format: FORMAT, parts: Vec::new(), made: Vec::new() });
        let mut parts = Parts { dir, list, _lock: lock };
        parts.remove_torn();
        if restart {
            parts.remove_all();
        }
        if parts.list.format > FORMAT {
            return Err(parts.outdated("-", "a newer version has written it"));
        }
        let notes = parts.check(links, named)?;
        Ok((parts, notes))
    }

    /// Compares what is kept with the shards of now. What is not what was written is forgotten; what is of other shards refuses.
    fn check(&mut self, links: &[Shard], named: &[PathBuf]) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        let mut kept = Vec::new();
        for part in std::mem::take(&mut self.list.parts) {
            let slots = part.snapshot.slots.clone().unwrap_or_default();
            let Some(number) = links.iter().position(|link| link.is(&part)) else {
                let shares = links.iter().find(|link| !link.nodes.is_disjoint(&part.nodes));
                let now = shares.map_or("other nodes serve them now".to_owned(), |link| {
                    format!("its shard has the slots {} now", link.slots.clone().unwrap_or_default())
                });
                return Err(self.outdated(&slots, &now));
            };
            let is_as_written = |path: &Path| match digest_file(path) {
                Ok((digest, bytes)) => digest == part.snapshot.digest && bytes == part.snapshot.bytes,
                Err(_) => false,
            };
            let named = named.get(number).is_some_and(|named| is_as_written(named));
            if named || is_as_written(&self.dir.join(&part.file)) {
                kept.push(part);
            } else {
                fs::remove_file(self.dir.join(&part.file)).ok();
                notes.push(format!(
                    "the snapshot of the slots {slots} that an earlier run has kept is not what it has written: it is taken anew"
                ));
            }
        }
        self.list.parts = kept;
        Ok(notes)
    }

    /// Refuses what is kept of shards that do not go on with the history of then: what was written since may be lost, or the data may be
    /// other data.
    pub(super) async fn check_histories(&self, links: &[SourceLink]) -> Result<(), Error> {
        for part in &self.list.parts {
            let slots = part.snapshot.slots.clone().unwrap_or_default();
            let link = links.iter().find(|link| Shard::of(link).is(part));
            let (Some(link), Ok(history)) = (link, part.snapshot.replication_id.parse::<ReplicationId>())
            else {
                return Err(self.outdated(&slots, "what is told of it makes no sense"));
            };
            let mut connection = Connection::connect(&link.connect).await.map_err(Error::SourceConnection)?;
            match prepare::identity(&mut connection).await {
                Ok(identity) if !identity.has_history(history) => {
                    let why =
                        format!("{} has another history now: data may have been lost there since", link.name);
                    return Err(self.outdated(&slots, &why));
                }
                Ok(_) => {}
                // A user that may replicate but not ask.
                Err(e) if e.server_code() == Some("NOPERM") => {}
                Err(e) => return Err(Error::SourceConnection(e)),
            }
        }
        Ok(())
    }

    /// Where the files are until they have names.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The snapshot that is there of a shard.
    pub(super) fn of(&self, link: &Shard) -> Option<&Part> {
        self.list.parts.iter().find(|part| link.is(part))
    }

    /// Where the snapshot of a shard is, whole; none once it has its name.
    pub(super) fn path(&self, link: &Shard) -> Option<PathBuf> {
        let path = self.dir.join(&self.of(link)?.file);
        path.exists().then_some(path)
    }

    /// Adds a snapshot, which survives the end of the program from then on.
    pub(super) fn keep(&mut self, link: &Shard, copied: Copied) -> Result<(), Error> {
        let first = link.slots.as_deref().unwrap_or("0").split(['-', ',']).next().unwrap_or("0");
        let file = format!("from-slot-{first}.rdb");
        let snapshot = copied.snapshot.clone();
        copied.name(&self.dir.join(&file), true)?;
        self.list.parts.push(Part { file, nodes: link.nodes.clone(), snapshot });
        self.write()
    }

    /// Gives the snapshot of a shard its name; nothing where it has it already.
    pub(super) fn name(&self, link: &Shard, out: &Path, replace: bool) -> Result<(), Error> {
        let Some(path) = self.path(link) else { return Ok(()) };
        let exists = || FileError::Exists { output: out.display().to_string() };
        let named = if replace || self.is_own(out) {
            fs::rename(&path, out)
        } else {
            // Unlike a rename, a link replaces nothing. Its other name goes with the directory.
            match fs::hard_link(&path, out) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(exists().into()),
                Err(_) if out.symlink_metadata().is_ok() => return Err(exists().into()),
                // File systems without links.
                Err(_) => fs::rename(&path, out),
                Ok(()) => Ok(()),
            }
        };
        named.map_err(|error| FileError::Output { output: out.display().to_string(), error })?;
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Ok(parent) = File::open(parent.unwrap_or(Path::new("."))) {
            parent.sync_all().ok();
        }
        Ok(())
    }

    /// True for a file that an earlier run has made of the snapshots, or that is one of them, under its own name.
    pub(super) fn is_own(&self, out: &Path) -> bool {
        let digests = self.list.parts.iter().map(|part| &part.snapshot.digest);
        let made = self.list.made.iter().filter(|made| made.file == out).map(|made| &made.digest);
        match out.is_file().then(|| digest_file(out)) {
            Some(Ok((digest, _))) => digests.chain(made).any(|own| *own == digest),
            _ => false,
        }
    }

    /// True when the snapshots of this list are those that are there.
    pub(super) fn are_all(&self, list: &Manifest) -> bool {
        list.shards
            .iter()
            .all(|shard| self.list.parts.iter().any(|part| part.snapshot.digest == shard.snapshot.digest))
    }

    /// Notes a file that was made of the snapshots, and gives its digest; nothing for a directory.
    pub(super) fn made(&mut self, out: &Path) -> Result<Option<String>, Error> {
        if !out.is_file() {
            return Ok(None);
        }
        let (digest, _) = digest_file(out)?;
        self.list.made.push(Made { file: out.to_owned(), digest: digest.clone() });
        self.write()?;
        Ok(Some(digest))
    }

    /// Nothing of it is needed any more, or of use.
    pub(super) fn forget(&mut self) {
        self.remove_all();
    }

    fn write(&self) -> Result<(), Error> {
        sidecar::write(&self.dir.join(LIST), &self.list, true)
    }

    /// Removes what a run that was killed was about to write.
    fn remove_torn(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNNAMED) {
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    fn remove_all(&mut self) {
        for part in self.list.parts.drain(..) {
            // A name is what an earlier run has written, or whoever changed the list.
            if Path::new(&part.file).file_name().is_some_and(|name| name == part.file.as_str()) {
                fs::remove_file(self.dir.join(&part.file)).ok();
            }
        }
        self.list = List { format: FORMAT, parts: Vec::new(), made: Vec::new() };
        fs::remove_file(self.dir.join(LIST)).ok();
    }

    fn outdated(&self, slots: &str, why: &str) -> Error {
        Error::BackupOutdated { path: self.dir.clone(), slots: slots.to_owned(), why: why.to_owned() }
    }
}

/// A directory without a snapshot is of no use to anybody.
impl Drop for Parts {
    fn drop(&mut self) {
        if self.list.parts.is_empty() {
            self.remove_torn();
            fs::remove_file(self.dir.join(journal::LOCK)).ok();
            fs::remove_dir(&self.dir).ok();
        }
    }
}

/// What a shard is known by.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    slots: Option<String>,
    nodes: BTreeSet<String>,
}

impl Shard {
    pub(super) fn of(link: &SourceLink) -> Self {
        Shard { slots: link.slots.as_ref().map(ToString::to_string), nodes: link.nodes.clone() }
    }

    pub(super) fn nodes(&self) -> &BTreeSet<String> {
        &self.nodes
    }

    fn is(&self, part: &Part) -> bool {
        self.slots == part.snapshot.slots && !self.nodes.is_disjoint(&part.nodes)
    }
}

/// Where a backup to `out` keeps what is not complete.
pub(super) fn directory(out: &Path) -> PathBuf {
    beside(out, ".partial")
}

/// `dump.rdb` and `.partial` make `dump.rdb.partial`.
pub(super) fn beside(out: &Path, end: &str) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(end);
    out.with_file_name(name)
}
