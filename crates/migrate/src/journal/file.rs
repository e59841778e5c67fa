//! A file of the journal.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::error::Error;

/// A file that is written at its end and read from anywhere. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct JournalFile {
    path: Arc<PathBuf>,
    file: Arc<File>,
    len: u64,
    #[cfg(test)]
    pub(crate) disk: test_disk::Disk,
}

impl JournalFile {
    /// Makes an empty file, in the place of one of that name.
    pub(crate) fn create(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| failed(&path, "creating the file", e))?;
        Ok(Self::new(path, file, 0))
    }

    /// Opens a file that is there, to read it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let file = File::open(&path).map_err(|e| failed(&path, "opening the file", e))?;
        let len = file.metadata().map_err(|e| failed(&path, "asking for its size", e))?.len();
        Ok(Self::new(path, file, len))
    }

    fn new(path: PathBuf, file: File, len: u64) -> Self {
        JournalFile {
            path: Arc::new(path),
            file: Arc::new(file),
            len,
            #[cfg(test)]
            disk: test_disk::Disk::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in it, as far as this handle and those it was cloned from know.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends all or, as far as anybody who asks for the length can tell, nothing.
    pub(crate) fn append(&mut self, pieces: &[Bytes]) -> Result<(), Error> {
        let mut at = self.len;
        for piece in pieces {
            self.write(piece, at).map_err(|e| failed(&self.path, "writing", e))?;
            at += piece.len() as u64;
        }
        self.len = at;
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        self.disk.take(bytes.len() as u64)?;
        self.file.write_all_at(bytes, at)
    }

    /// Reads at most `out.len()` bytes from `at`; at least one, unless the file ends there.
    pub(crate) fn read_at(&self, out: &mut [u8], at: u64) -> Result<usize, Error> {
        loop {
            match self.file.read_at(out, at) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(|e| failed(&self.path, "reading", e)),
            }
        }
    }

    /// Waits until what has been written would survive a loss of power.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| failed(&self.path, "writing through to the disk", e))
    }

    /// Ends the file at what has been appended: an append that failed may have left bytes behind it.
    pub(crate) fn trim(&self) -> Result<(), Error> {
        self.file.set_len(self.len).map_err(|e| failed(&self.path, "cutting off what was written in part", e))
    }
}

pub(crate) fn failed(path: &Path, doing: &'static str, source: io::Error) -> Error {
    Error::Journal { path: path.to_owned(), doing, source }
}

/// Runs `work` where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::Internal(format!("a worker thread ended: {e}"))),
    }
}

/// A disk of a given size.
#[cfg(test)]
pub(crate) mod test_disk {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// Bytes that may still be written to those that share it.
    #[derive(Clone, Debug)]
    pub(crate) struct Disk(pub(crate) Arc<AtomicU64>);

    impl Default for Disk {
        fn default() -> Self {
            Disk(Arc::new(AtomicU64::new(u64::MAX)))
        }
    }

    impl Disk {
        pub(super) fn take(&self, len: u64) -> io::Result<()> {
            match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(len)) {
                Ok(_) => Ok(()),
                Err(_) => Err(io::ErrorKind::StorageFull.into()),
            }
        }
    }
}
