//! The directory that a migration keeps its journal in, and the right to it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Journal, Kept, Settings,
    file::failed,
    sidecar::{self, FORMAT, Owner},
};
use crate::{error::Error, temporary};

pub(super) const OWNER: &str = "keyferry.json";
pub(crate) const LOCK: &str = "keyferry.lock";

/// Whose journal it is: a journal of another migration, or of other sides, must not be gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) migration: String,
    /// The sides, without passwords.
    pub(crate) source: String,
    pub(crate) target: String,
    /// What is changed on the way: [`Options::changes`](crate::Options).
    pub(crate) changes: String,
}

/// A journal directory, held by this process alone.
#[derive(Clone, Debug)]
pub(crate) struct JournalRoot(Arc<Root>);

#[derive(Debug)]
struct Root {
    path: PathBuf,
    settings: Settings,
    token: Option<String>,
    identity: Identity,
    /// Removes a directory that nobody asked for.
    temporary: Option<tempfile::TempDir>,
    /// Locked as long as it is open, and no longer than this process lives.
    _lock: File,
}

impl JournalRoot {
    /// Opens `dir`, which may be empty, or not exist, or hold the journal of the same migration; or a temporary directory.
    ///
    /// # Errors
    /// [`Error::JournalInUse`] for a directory with other things in it, [`Error::JournalLocked`] while another process
    /// uses it, [`Error::JournalOfAnother`] when it holds data of another migration.
    pub(crate) fn open(dir: Option<&Path>, identity: Identity, settings: Settings) -> Result<Self, Error> {
        let (path, temporary, lock) = match dir {
            Some(dir) => {
                fs::create_dir_all(dir).map_err(|e| failed(dir, "creating the directory", e))?;
                if !dir.join(OWNER).exists() {
                    refuse_foreign(dir)?;
                }
                (dir.to_owned(), None, lock(dir)?)
            }
            None => {
                let (temporary, lock) = temporary::directory("journal")?;
                (temporary.path().to_owned(), Some(temporary), lock)
            }
        };
        let file = path.join(OWNER);
        let found: Option<Owner> = sidecar::read(&file)?;
        let mut token = None;
        match found {
            Some(found) if found.format > FORMAT => {
                return Err(Error::JournalFormat { path, format: found.format });
            }
            Some(found) if !identity.is(&found) && holds_data(&path) => {
                let (theirs, ours) = (Identity::of(&found).to_string(), identity.to_string());
                return Err(Error::JournalOfAnother { path, theirs, ours });
            }
            Some(found) if identity.is(&found) => token = found.token,
            _ => {}
        }
        let settings = Settings { named: dir.is_some(), ..settings };
        let root = JournalRoot(Arc::new(Root { path, settings, token, identity, temporary, _lock: lock }));
        root.write_owner(root.0.token.clone())?;
        Ok(root)
    }

    /// What the run that used it last showed the target, if there was one.
    pub(crate) fn token(&self) -> Option<&str> {
        self.0.token.as_deref()
    }

    /// Keeps what this run shows the target; it is on disk when this returns.
    pub(crate) fn set_token(&self, token: &str) -> Result<(), Error> {
        self.write_owner(Some(token.to_owned()))
    }

    fn write_owner(&self, token: Option<String>) -> Result<(), Error> {
        let Identity { migration, source, target, changes } = self.0.identity.clone();
        let owner = Owner { format: FORMAT, migration, source, target, changes, token };
        sidecar::write(&self.0.path.join(OWNER), &owner, self.0.settings.syncs())
    }

    /// The journal of one link, and what it held already. `label` tells it apart where there are several; it stays the same
    /// from run to run.
    pub(crate) fn link(&self, label: Option<&str>) -> Result<(Journal, Kept), Error> {
        let path = match label {
            Some(label) => self.0.path.join(format!("shard-{}", file_name(label))),
            None => self.0.path.clone(),
        };
        fs::create_dir_all(&path).map_err(|e| failed(&path, "creating the directory", e))?;
        Journal::open(&path, self.0.settings.clone())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Leaves a temporary directory behind, since what it holds is of use.
    pub(crate) fn leave(self) -> PathBuf {
        let path = self.0.path.clone();
        if let Ok(mut root) = Arc::try_unwrap(self.0)
            && let Some(temporary) = root.temporary.take()
        {
            return temporary::leave(temporary);
        }
        path
    }
}

impl Identity {
    fn of(owner: &Owner) -> Self {
        let Owner { migration, source, target, changes, .. } = owner.clone();
        Identity { migration, source, target, changes }
    }

    fn is(&self, owner: &Owner) -> bool {
        *self == Self::of(owner)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {} to {}", self.migration, self.source, self.target)?;
        if self.changes.is_empty() { Ok(()) } else { write!(f, " with {}", self.changes) }
    }
}

/// A label as it may stand in the name of a file.
fn file_name(label: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    label.chars().map(plain).collect()
}

/// A directory with something in it that is not ours may be anything.
fn refuse_foreign(path: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(path).map_err(|e| failed(path, "listing the directory", e))? {
        let name = entry.map_err(|e| failed(path, "listing the directory", e))?.file_name();
        // Left by a process that died before it had written anything else.
        if name != LOCK && name != format!("temp-{OWNER}").as_str() {
            let found = name.to_string_lossy().into_owned();
            return Err(Error::JournalInUse { path: path.to_owned(), found });
        }
    }
    Ok(())
}

/// The right to write to what is in a directory, as long as the file is open.
///
/// # Errors
/// [`Error::JournalLocked`] while another process has it.
pub(crate) fn lock(path: &Path) -> Result<File, Error> {
    let file = path.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file)
        .map_err(|e| failed(&file, "creating the lock", e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::JournalLocked { path: path.to_owned() }),
        // File systems without locks: there is nothing better, and the target's own fence is still there.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(lock),
        Err(TryLockError::Error(e)) => Err(failed(&file, "locking", e)),
    }
}

/// True when the directory holds a snapshot or commands.
fn holds_data(path: &Path) -> bool {
    let manifest = |dir: &Path| dir.join(super::SUBDIR).join(super::MANIFEST).exists();
    let below = fs::read_dir(path).into_iter().flatten().flatten().any(|entry| manifest(&entry.path()));
    below || manifest(path)
}
