//! Temporary directories, and those that programs have left which were killed.
//!
//! Such a directory may hold many gigabytes (a snapshot that waits for a slow target), and nobody goes on with it: only a directory that was
//! named is found again. It is locked as long as it is used, so the next program that makes one can tell which of the others nobody
//! holds any more, and removes them. What was left on purpose ([`leave`]) stays.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use tempfile::TempDir;

use crate::{
    error::Error,
    journal::{LOCK, failed, lock},
};

/// The names of all of them begin so.
pub(crate) const PREFIX: &str = "keyferry-temp-";

/// A file in a directory that is to stay.
const LEFT: &str = "keyferry.left";

/// How often another one is made, when one is taken for one that was left behind before it could be locked.
pub(crate) const ATTEMPTS: u32 = 10;

/// Makes a directory in that for temporary files, and locks it: it is held as long as the file is open. Others that nobody holds are
/// removed meanwhile, on a thread of its own.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn directory(purpose: &str) -> Result<(TempDir, File), Error> {
    let within = std::env::temp_dir();
    let made = make(&within, purpose)?;
    let (own, user) = (made.0.path().to_owned(), fs::metadata(made.0.path()).map(|of| of.uid()));
    if let Ok(user) = user {
        let sweeping = std::thread::Builder::new().name("keyferry-sweep".into());
        // Without it they stay, for another program to remove.
        let _ = sweeping.spawn(move || sweep(&within, &own, user));
    }
    Ok(made)
}

/// Has a directory stay when this program has ended, as it holds what is of use.
pub(crate) fn leave(directory: TempDir) -> std::path::PathBuf {
    let path = directory.keep();
    // Without it the next program removes it: what it holds comes from the source again then.
    let _ = File::create(path.join(LEFT));
    path
}

fn make(within: &Path, purpose: &str) -> Result<(TempDir, File), Error> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let made = tempfile::Builder::new().prefix(&format!("{PREFIX}{purpose}-")).tempdir_in(within);
        let made = made.map_err(|e| failed(within, "creating a directory", e))?;
        match lock(made.path()) {
            Ok(file) if is_there(&file, &made.path().join(LOCK)) => return Ok((made, file)),
            // Another program has found it before it was locked.
            Ok(_) | Err(Error::JournalLocked { .. }) => {}
            Err(error) => last = Some(error),
        }
    }
    let taken = io::Error::other("each was taken for one that was left behind");
    Err(last.unwrap_or_else(|| failed(within, "locking a directory", taken)))
}

/// True when this is the file that stands there: one that was removed can be locked as well.
pub(crate) fn is_there(file: &File, path: &Path) -> bool {
    let (held, there) = (file.metadata(), fs::symlink_metadata(path));
    matches!((held, there), (Ok(held), Ok(there)) if (held.dev(), held.ino()) == (there.dev(), there.ino()))
}

/// Removes what nobody holds of this user's. Whatever cannot be looked at, or removed, stays.
fn sweep(within: &Path, own: &Path, user: u32) {
    let Ok(entries) = fs::read_dir(within) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) && path != own;
        if is_ours && let Some(held) = abandoned(&path, user) {
            match remove(&path) {
                Ok(()) => {
                    tracing::info!(directory = %path.display(), "removed: a program that was killed has left it")
                }
                Err(e) => tracing::warn!(directory = %path.display(), error = %e, "cannot be removed"),
            }
            drop(held);
        }
    }
}

/// The lock of a directory that nobody holds.
fn abandoned(path: &Path, user: u32) -> Option<File> {
    // Of others nothing is believed: it might be made for programs like this one to fall for.
    let is = |path: &Path, kind: fn(&fs::FileType) -> bool| {
        fs::symlink_metadata(path).is_ok_and(|of| of.uid() == user && kind(&of.file_type()))
    };
    let file = path.join(LOCK);
    if !is(path, fs::FileType::is_dir) || !is(&file, fs::FileType::is_file) {
        return None;
    }
    let lock = OpenOptions::new().write(true).open(&file).ok()?;
    lock.try_lock().ok()?;
    // Only now it can be told: who leaves one says so before it is let go.
    (!path.join(LEFT).exists() && is_there(&lock, &file)).then_some(lock)
}

/// The lock goes last, so that what is left of a removal that was killed is found again.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_file(path.join(LOCK))?;
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_removed_and_all_else_stays() {
        let within = tempfile::tempdir().unwrap();
        let make = || make(within.path(), "test").unwrap();
        let user = fs::metadata(within.path()).unwrap().uid();
        let (held, _lock) = make();
        // As it is when a program is killed: the directory stays, the lock is open no more.
        let killed = || {
            let (directory, lock) = make();
            fs::create_dir(directory.path().join("appendonlydir")).unwrap();
            fs::write(directory.path().join("appendonlydir/base"), "x").unwrap();
            drop(lock);
            directory.keep()
        };
        let (left, lock) = make();
        let left = leave(left);
        drop(lock);
        let (gone, of_others, foreign) = (killed(), killed(), within.path().join("keyferry-temp"));
        fs::create_dir(&foreign).unwrap();
        let (outside, link) = (tempfile::tempdir().unwrap(), within.path().join(format!("{PREFIX}link")));
        fs::write(outside.path().join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        let empty = within.path().join(format!("{PREFIX}empty"));
        fs::create_dir(&empty).unwrap();

        assert!(abandoned(&of_others, user + 1).is_none() && abandoned(held.path(), user).is_none());
        sweep(within.path(), held.path(), user);
        assert!(!gone.exists() && !of_others.exists());
        for stays in [held.path(), &left, &foreign, &link, &empty, &outside.path().join(LOCK)] {
            assert!(stays.exists(), "{}", stays.display());
        }
    }

    /// Programs that begin and are swept at the same time: no directory that is held is ever removed.
    #[test]
    fn what_is_being_made_is_not_swept() {
        let within = tempfile::tempdir().unwrap();
        let user = fs::metadata(within.path()).unwrap().uid();
        std::thread::scope(|scope| {
            let sweeping = || (0..300).for_each(|_| sweep(within.path(), Path::new("none"), user));
            let making = || {
                for _ in 0..100 {
                    let (directory, lock) = make(within.path(), "race").unwrap();
                    fs::write(directory.path().join("data"), "x").unwrap();
                    std::thread::yield_now();
                    assert!(directory.path().join("data").exists());
                    drop((lock, directory.keep()));
                }
            };
            (0..2).for_each(|_| drop(scope.spawn(sweeping)));
            (0..2).for_each(|_| drop(scope.spawn(making)));
        });
        sweep(within.path(), Path::new("none"), user);
        assert_eq!(fs::read_dir(within.path()).unwrap().count(), 0);
    }
}
