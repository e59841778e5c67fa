//! How much of a snapshot may have been handed over, on disk: what lies beyond is not at the target, whatever became of the
//! program.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{error::Error, journal::failed};

/// So far beyond what is handed over the mark is set, so that it is written seldom.
const STEP: u64 = 8 << 20;

/// A mark in a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    path: PathBuf,
    up_to: u64,
}

impl Handed {
    /// Of one link, before anything of its snapshot is handed over.
    pub(crate) fn begin(directory: &Path, link: u16) -> Self {
        Handed { path: path(directory, link), up_to: 0 }
    }

    /// As another run has left it; beyond everything where nobody knows.
    pub(crate) fn resume(directory: &Path, link: u16) -> Self {
        let path = path(directory, link);
        let read = fs::read_to_string(&path).ok();
        let up_to = read.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
        Handed { path, up_to }
    }

    /// Where nobody knows.
    pub(crate) fn unknown(directory: &Path, link: u16) -> Self {
        Handed { path: path(directory, link), up_to: u64::MAX }
    }

    /// Beyond this byte nothing has been handed over.
    pub(crate) fn up_to(&self) -> u64 {
        self.up_to
    }

    /// True when the mark has to be moved before what ends at this byte is handed over.
    pub(crate) fn is_beyond(&self, end: u64) -> bool {
        end > self.up_to
    }

    /// Moves the mark, and writes it through to the disk.
    pub(crate) fn cover(&mut self, end: u64) -> Result<(), Error> {
        if !self.is_beyond(end) {
            return Ok(());
        }
        let up_to = end.saturating_add(STEP);
        let written = (|| {
            let directory = self.path.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(up_to.to_string().as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|e| e.error)?;
            File::open(directory)?.sync_all()
        })();
        written.map_err(|e: io::Error| failed(&self.path, "noting how much is handed over", e))?;
        self.up_to = up_to;
        Ok(())
    }
}

fn path(directory: &Path, link: u16) -> PathBuf {
    directory.join(format!("keyferry-handed-{link}.mark"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_always_ahead() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Handed::resume(directory.path(), 0).up_to(), u64::MAX);
        let mut handed = Handed::begin(directory.path(), 0);
        assert_eq!(handed.up_to(), 0);
        handed.cover(10).unwrap();
        assert_eq!(handed.up_to(), 10 + STEP);
        assert!(!handed.is_beyond(10 + STEP) && handed.is_beyond(11 + STEP));
        assert_eq!(Handed::resume(directory.path(), 0).up_to(), 10 + STEP);
        fs::write(path(directory.path(), 0), "damaged").unwrap();
        assert_eq!(Handed::resume(directory.path(), 0).up_to(), u64::MAX);
    }
}
