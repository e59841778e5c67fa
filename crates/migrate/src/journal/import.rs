//! A journal that is read by somebody else than the migration that wrote it: what is where, and who is at it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use keyferry_files::inputs_at;
use keyferry_rdb::aof::Manifest;

use super::{
    LINK, MANIFEST, SUBDIR,
    file::failed,
    root::{LOCK, OWNER},
    sidecar,
};
use crate::error::Error;

/// True for a directory that a migration keeps, or has kept, its journal in.
pub(crate) fn is_journal(path: &Path) -> bool {
    path.join(OWNER).exists()
}

/// Keeps migrations from using the journal as long as the file is open; none where nobody ever used it here.
///
/// # Errors
/// [`Error::JournalLocked`] while one does.
pub(crate) fn lock_for_reading(path: &Path) -> Result<Option<File>, Error> {
    let file = path.join(LOCK);
    let lock = match File::open(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| failed(&file, "opening the lock", e))?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(Error::JournalLocked { path: path.to_owned() }),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(Some(lock)),
        Err(TryLockError::Error(e)) => Err(failed(&file, "locking", e)),
    }
}

/// The directories of its links, in the order of their names.
pub(crate) fn links(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let logs = inputs_at(path)?;
    Ok(logs.iter().filter_map(|log| log.parent()).map(Path::to_owned).collect())
}

/// The offset of the stream that the snapshot of a link stands for; none where the link's directory holds no snapshot as it
/// was written.
pub(crate) fn base_of(link: &Path) -> Result<Option<u64>, Error> {
    let path = link.join(SUBDIR).join(MANIFEST);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|e| failed(&path, "reading the manifest", e))?,
    };
    let manifest = Manifest::parse(&text)
        .map_err(|source| Error::JournalManifest { path: path.clone(), source: Box::new(source) })?;
    let Some(file) = manifest.base else { return Ok(None) };
    let known: Option<sidecar::Link> = sidecar::read(&link.join(LINK))?;
    let known = known.and_then(|link| link.base).filter(|base| base.file == file.name);
    let len = fs::metadata(link.join(SUBDIR).join(&file.name)).map(|data| data.len()).ok();
    Ok(known.filter(|base| len == Some(base.bytes)).map(|base| base.offset))
}
