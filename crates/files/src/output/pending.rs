//! Files and directories that get their name when they are complete.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Something that is being written under a temporary name beside its own. It is removed when it is dropped before
/// [`commit`](Self::commit).
#[derive(Debug)]
pub(crate) struct Pending {
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Pending {
    /// A new file for `path`.
    pub(crate) fn file(path: &Path, replace: bool, private: bool) -> Result<(Self, File), Error> {
        let pending = Self::new(path, replace)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if private {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        #[cfg(not(unix))]
        let _ = private;
        let file = options
            .open(&pending.temporary)
            .map_err(|error| Error::output(&pending.temporary.display().to_string(), error))?;
        Ok((pending, file))
    }

    /// A new directory for `path`, which must not exist: servers keep other logs in such directories.
    pub(crate) fn directory(path: &Path, private: bool) -> Result<Self, Error> {
        let pending = Self::new(path, false)?;
        let mut options = DirBuilder::new();
        #[cfg(unix)]
        if private {
            std::os::unix::fs::DirBuilderExt::mode(&mut options, 0o700);
        }
        #[cfg(not(unix))]
        let _ = private;
        options
            .create(&pending.temporary)
            .map_err(|error| Error::output(&pending.temporary.display().to_string(), error))?;
        Ok(pending)
    }

    fn new(path: &Path, replace: bool) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let name = path.file_name().ok_or_else(|| {
            Error::output(&shown, std::io::Error::new(std::io::ErrorKind::InvalidInput, "it names no file"))
        })?;
        if !replace && path.symlink_metadata().is_ok() {
            return Err(Error::Exists { output: shown });
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.part", std::process::id()));
        Ok(Self { temporary: path.with_file_name(temporary), path: path.to_owned(), committed: false })
    }

    /// Where it is until then.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Gives it its name. What was written has to be on disk.
    pub(crate) fn commit(mut self) -> Result<(), Error> {
        fs::rename(&self.temporary, &self.path)
            .map_err(|error| Error::output(&self.path.display().to_string(), error))?;
        self.committed = true;
        // The name is on disk when the directory is. Where directories cannot be opened, the rename is all there is.
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Ok(parent) = File::open(parent.unwrap_or(Path::new("."))) {
            let _ = parent.sync_all();
        }
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary).or_else(|_| fs::remove_dir_all(&self.temporary));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn nothing_is_seen_before_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.rdb");
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let (pending, mut file) = Pending::file(&path, false, false).unwrap();
        file.write_all(b"new").unwrap();
        assert!(!path.exists());
        drop(pending);
        assert_eq!(names(), 0);

        let (pending, mut file) = Pending::file(&path, false, false).unwrap();
        file.write_all(b"new").unwrap();
        pending.commit().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"new".to_vec(), 1));
        assert!(matches!(Pending::file(&path, false, false), Err(Error::Exists { .. })));
        let (pending, _) = Pending::file(&path, true, false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        drop(pending);

        let pending = Pending::directory(&dir.path().join("log"), false).unwrap();
        fs::write(pending.temporary().join("x"), b"x").unwrap();
        drop(pending);
        assert_eq!(names(), 1);
        assert!(Pending::file(Path::new(".."), true, false).is_err());
    }
}
