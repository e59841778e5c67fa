//! What has been read from the source and not yet been applied, on disk.
//!
//! The journal is a Redis 7 multi-part AOF directory: `DIR/appendonlydir/` holds a base RDB (the snapshot), an
//! incremental file (the command stream) and a manifest, so that `redis-server --appendonly yes --dir DIR` loads
//! it. Two annotations of our own stand in the incremental file, which servers from 7.0 on skip as they skip
//! `#TS:`: `#ID:<replication id>` at its beginning, and `#OFFSET:<n>` wherever the replication offset moved by
//! more than the commands written (keep-alives, which are not worth keeping).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use keyferry_replication::{
    Batch, Position, StreamFault,
    stream::{Item, StreamScanner},
};
use keyferry_resp::encode_command;

use crate::error::Error;

const SUBDIR: &str = "appendonlydir";
pub(crate) const BASE: &str = "appendonly.aof.1.base.rdb";
/// What the stream was spooled to.
pub(crate) const INCR: &str = "appendonly.aof.2.incr.aof";
/// What came before that and had not been confirmed when a run ended early.
pub(crate) const UNCONFIRMED: &str = "appendonly.aof.1.incr.aof";
pub(crate) const MANIFEST: &str = "appendonly.aof.manifest";

/// How much is read back at once.
const READ_SIZE: usize = 256 * 1024;

/// A journal directory of one run.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) dir: PathBuf,
    /// Removes a directory that nobody asked for.
    pub(crate) temporary: Option<tempfile::TempDir>,
}

impl Journal {
    /// Makes a journal in `dir`, which must be empty or not exist; or in a temporary directory.
    pub(crate) fn create(dir: Option<&Path>) -> Result<Self, Error> {
        let (root, temporary) = match dir {
            Some(dir) => {
                fs::create_dir_all(dir).map_err(|e| failed(dir, "creating the directory", e))?;
                let mut entries = fs::read_dir(dir).map_err(|e| failed(dir, "listing the directory", e))?;
                if let Some(entry) = entries.next() {
                    let entry = entry.map_err(|e| failed(dir, "listing the directory", e))?;
                    let found = entry.file_name().to_string_lossy().into_owned();
                    return Err(Error::JournalInUse { path: dir.to_owned(), found });
                }
                (dir.to_owned(), None)
            }
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("keyferry-journal-")
                    .tempdir()
                    .map_err(|e| failed(&std::env::temp_dir(), "creating a directory", e))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let dir = root.join(SUBDIR);
        fs::create_dir(&dir).map_err(|e| failed(&dir, "creating the directory", e))?;
        Ok(Journal { dir, temporary })
    }

    /// True when somebody chose the directory, and so wants everything in it.
    pub(crate) fn is_named(&self) -> bool {
        self.temporary.is_none()
    }

    /// Starts the base file.
    pub(crate) fn base(&self) -> Result<JournalFile, Error> {
        JournalFile::create(self.dir.join(BASE))
    }

    /// Starts the incremental file, for a stream that goes on after `position`.
    pub(crate) fn incr(&self, position: &Position) -> Result<JournalFile, Error> {
        let mut file = JournalFile::create(self.dir.join(INCR))?;
        file.append(&incr_head(position))?;
        Ok(file)
    }

    /// A second handle to the same directory, which removes nothing.
    pub(crate) fn handle(&self) -> Self {
        Journal { dir: self.dir.clone(), temporary: None }
    }

    /// Removes the files of a run whose every byte has been applied, and the directories made for them.
    pub(crate) fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.dir).map_err(|e| failed(&self.dir, "removing the applied journal", e))
    }

    /// Removes the snapshot, which has been applied.
    pub(crate) fn drop_base(&self) -> Result<(), Error> {
        let base = self.dir.join(BASE);
        fs::remove_file(&base).map_err(|e| failed(&base, "removing the applied snapshot", e))
    }
}

/// A file that is written at its end and read from anywhere. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
}

impl JournalFile {
    pub(crate) fn create(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| failed(&path, "creating the file", e))?;
        Ok(JournalFile { path, file: Arc::new(file), len: 0 })
    }

    /// Bytes written by this handle and those it was cloned from.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.len).map_err(|e| failed(&self.path, "writing", e))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Appends away from the async threads: a disk may take its time.
    pub(crate) async fn append_async(&mut self, pieces: Vec<Bytes>) -> Result<(), Error> {
        let mut this = self.clone();
        *self = blocking(move || {
            pieces.iter().try_for_each(|piece| this.append(piece))?;
            Ok(this)
        })
        .await?;
        Ok(())
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

    /// Empties the file, of which everything has been read.
    pub(crate) fn truncate(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(|e| failed(&self.path, "emptying", e))?;
        self.len = 0;
        Ok(())
    }
}

/// Reads command batches back from an incremental file.
#[derive(Debug)]
pub(crate) struct JournalReader {
    /// Where the next read begins.
    at: u64,
    buf: BytesMut,
    scanner: StreamScanner,
}

impl JournalReader {
    pub(crate) fn new(position: Position) -> Self {
        JournalReader { at: 0, buf: BytesMut::new(), scanner: StreamScanner::new(position) }
    }

    /// Where the next read begins: everything before it has been given out or is held.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Which bytes of the file to read next, where it ends at `end`: from where, and how many.
    pub(crate) fn wants(&self, end: u64) -> (u64, usize) {
        // The rest of a command longer than the buffer: do not crawl through it.
        let most = READ_SIZE.max(self.buf.len());
        (self.at, usize::try_from(end.saturating_sub(self.at)).unwrap_or(most).min(most))
    }

    /// Takes bytes read from there.
    pub(crate) fn supply(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.at += bytes.len() as u64;
    }

    /// The next batch of what has been read, or `None` when more has to be read first.
    pub(crate) fn next_buffered(&mut self, file: &JournalFile) -> Result<Option<Batch>, Error> {
        while self.buf.first() == Some(&b'#') {
            let Some(end) = self.buf.iter().take(1024).position(|&b| b == b'\n') else { return Ok(None) };
            let line = self.buf.split_to(end + 1);
            if let Some(offset) = line.strip_prefix(b"#OFFSET:") {
                let text = std::str::from_utf8(offset).unwrap_or_default().trim();
                let Ok(offset) = text.parse() else {
                    return Err(self.damaged(file, StreamFault::NotACommand { found: b'#' }));
                };
                let before = self.scanner.position().offset;
                self.scanner.skip_to(offset);
                return Ok(Some(Batch::moved(before.min(offset), self.scanner.position())));
            }
        }
        match self.scanner.next(&mut self.buf) {
            Ok(Some(Item::Commands(batch))) => Ok(Some(batch)),
            // Keep-alives are not written.
            Ok(_) => Ok(None),
            Err(fault) => Err(self.damaged(file, fault)),
        }
    }

    fn damaged(&self, file: &JournalFile, source: StreamFault) -> Error {
        let at = self.at - self.buf.remaining() as u64;
        Error::JournalDamaged { path: file.path.clone(), at, source }
    }

    /// Starts over with an emptied file.
    pub(crate) fn rewind(&mut self) {
        self.at = 0;
    }
}

/// What stands at the beginning of an incremental file: the history, the offset, and the database selected.
pub(crate) fn incr_head(position: &Position) -> Vec<u8> {
    let mut select = BytesMut::new();
    if let Some(db) = position.db {
        encode_command(&mut select, ["SELECT", &db.to_string()]);
    }
    // The SELECT is ours, so the offset before it is set back by what it will count.
    let before = position.offset.saturating_sub(select.len() as u64);
    let mut head = format!("#ID:{}\r\n#OFFSET:{before}\r\n", position.id).into_bytes();
    head.extend_from_slice(&select);
    head
}

/// What `batch` looks like in the incremental file.
pub(crate) fn journal_form(batch: &Batch) -> Bytes {
    let counted = batch.start + batch.bytes.len() as u64;
    if counted == batch.end {
        return batch.bytes.clone();
    }
    let mut out = BytesMut::with_capacity(batch.bytes.len() + 40);
    out.extend_from_slice(&batch.bytes);
    out.extend_from_slice(format!("#OFFSET:{}\r\n", batch.end).as_bytes());
    out.freeze()
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
