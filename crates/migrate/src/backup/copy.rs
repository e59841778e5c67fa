//! Reading the snapshot of one server into a file, and making sure that it is whole.

use std::{
    fs::{self, TryLockError},
    io::{self, Write},
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use bytes::Bytes;
use keyferry_client::Backoff;
use keyferry_files::Error as FileError;
use keyferry_rdb::{Event, Parser};
use keyferry_replication::{
    Error as LinkError, Link, LinkOptions, Locate, Locator, handshake::SyncReply, snapshot::Transfer,
};
use tempfile::NamedTempFile;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use twox_hash::XxHash3_128;

use super::{BackupProgress, BackupSnapshot};
use crate::{
    error::Error,
    journal::{blocking, now_ms},
    temporary::{ATTEMPTS, is_there},
};

/// Pieces that wait to be written, of 256 KiB at most.
const PIECES: usize = 16;

/// Names of files that have none of their own yet begin so.
pub(crate) const UNNAMED: &str = ".keyferry-backup-";
/// And end so.
const PART: &str = ".part";

/// A server to be read.
pub(crate) struct Copy {
    pub(crate) stream: Locator,
    pub(crate) slots: Option<String>,
    pub(crate) link: LinkOptions,
    pub(crate) patience: Duration,
    pub(crate) progress: BackupProgress,
    /// Another one has failed.
    pub(crate) end: CancellationToken,
}

/// A snapshot in a file, which is removed with this value unless it is named.
pub(crate) struct Copied {
    file: NamedTempFile,
    pub(crate) snapshot: BackupSnapshot,
}

impl Copied {
    /// Where it is until it is named.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives it its name. It is on disk.
    pub(super) fn name(self, out: &Path, replace: bool) -> Result<(), Error> {
        let shown = || out.display().to_string();
        let named = if replace { self.file.persist(out) } else { self.file.persist_noclobber(out) };
        named.map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => FileError::Exists { output: shown() },
            _ => FileError::Output { output: shown(), error: e.error },
        })?;
        // The name is on disk when the directory is. Where directories cannot be opened, the rename is all there is.
        let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Ok(parent) = fs::File::open(parent.unwrap_or(Path::new("."))) {
            parent.sync_all().ok();
        }
        Ok(())
    }
}

impl Copy {
    /// Reads it to its end.
    pub(crate) async fn run(self, dir: &Path) -> Result<Copied, Error> {
        tokio::select! {
            copied = self.copy(dir) => copied,
            () = self.end.cancelled() => Err(Error::Internal("another server could not be read".into())),
        }
    }

    async fn copy(&self, dir: &Path) -> Result<Copied, Error> {
        let mut link = self.connect().await?;
        let server = link.address().to_owned();
        let SyncReply::Full { id, offset } = *link.reply() else {
            return Err(Error::Internal(format!("{server} sends no snapshot")));
        };
        let taken_ms = now_ms();
        let mut file = SnapshotFile::begin(dir, server.clone(), self.progress.clone())?;
        let mut told = false;
        while let Some(piece) = link.snapshot_chunk().await? {
            if !told && let Some(Transfer::Length(total)) = link.transfer() {
                told = true;
                self.progress.0.total.fetch_add(total, Ordering::Relaxed);
                self.progress.0.told.fetch_add(1, Ordering::Relaxed);
            }
            if !file.push(piece).await {
                break;
            }
        }
        drop(link);
        let (file, Written { bytes, keys, functions, digest }) = file.finish().await?;
        let (slots, replication_id) = (self.slots.clone(), id.to_string());
        let snapshot = BackupSnapshot {
            server,
            slots,
            replication_id,
            offset,
            taken_ms,
            bytes,
            keys,
            functions,
            digest,
            kept: false,
        };
        Ok(Copied { file, snapshot })
    }

    /// Asks for a snapshot, again while the server is not ready.
    async fn connect(&self) -> Result<Link, Error> {
        let end = tokio::time::Instant::now() + self.patience;
        let mut backoff = Backoff::default();
        loop {
            let to = self.stream.locate(None).await?;
            match Link::connect(&to, &self.link, None).await {
                Err(LinkError::NotReady { .. }) if tokio::time::Instant::now() < end => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                result => return Ok(result?),
            }
        }
    }
}

/// A snapshot that is being written to a file without a name of its own.
pub(crate) struct SnapshotFile {
    file: NamedTempFile,
    sender: mpsc::Sender<Bytes>,
    written: JoinHandle<Result<Written, Error>>,
    progress: BackupProgress,
}

impl SnapshotFile {
    /// Begins one in a directory; `name` is what it is of, for people.
    pub(crate) fn begin(dir: &Path, name: String, progress: BackupProgress) -> Result<Self, Error> {
        let failed = |error| FileError::Output { output: dir.display().to_string(), error };
        sweep(dir);
        let file = unnamed(dir).map_err(failed)?;
        let (sender, pieces) = mpsc::channel::<Bytes>(PIECES);
        let writer = Writer { name, file: file.reopen().map_err(failed)?, progress: progress.clone() };
        let written = tokio::spawn(blocking(move || writer.run(pieces)));
        Ok(SnapshotFile { file, sender, written, progress })
    }

    /// Takes the next bytes. False when they cannot be written, or are not those of a snapshot: [`SnapshotFile::finish`] tells why.
    pub(crate) async fn push(&mut self, piece: Bytes) -> bool {
        self.progress.0.received.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.sender.send(piece).await.is_ok()
    }

    /// The file, whole and on disk.
    pub(crate) async fn finish(self) -> Result<(NamedTempFile, Written), Error> {
        drop(self.sender);
        let written = self.written.await;
        let written =
            written.map_err(|e| Error::Internal(format!("the task that writes a file ended: {e}")))??;
        Ok((self.file, written))
    }
}

/// A new file without a name of its own, locked as long as it is open, so that others can tell it from one that was left behind.
fn unnamed(dir: &Path) -> io::Result<NamedTempFile> {
    for _ in 0..ATTEMPTS {
        let file = tempfile::Builder::new().prefix(UNNAMED).suffix(PART).tempfile_in(dir)?;
        match file.as_file().try_lock() {
            // Another program has found it before it was locked.
            Err(TryLockError::WouldBlock) => {}
            // Where files cannot be locked, nobody removes any.
            Ok(()) | Err(TryLockError::Error(_)) if is_there(file.as_file(), file.path()) => return Ok(file),
            _ => {}
        }
    }
    Err(io::Error::other("each file was taken for one that was left behind"))
}

/// Removes the files of programs that were killed. Whatever cannot be looked at, or removed, stays.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(UNNAMED) && name.ends_with(PART));
        // Of links nothing is believed.
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        if let Ok(file) = fs::OpenOptions::new().write(true).open(&path)
            && file.try_lock().is_ok()
            && is_there(&file, &path)
            && fs::remove_file(&path).is_ok()
        {
            tracing::info!(file = %path.display(), "removed: a program that was killed has left it");
        }
    }
}

/// Writes what comes, and reads it: what is no whole snapshot with the right checksum is an error.
struct Writer {
    name: String,
    file: fs::File,
    progress: BackupProgress,
}

/// What a snapshot holds.
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) keys: u64,
    pub(crate) functions: u64,
    /// XXH3 of all bytes.
    pub(crate) digest: String,
}

impl Writer {
    fn run(mut self, mut pieces: mpsc::Receiver<Bytes>) -> Result<Written, Error> {
        let mut parser = Parser::new();
        let mut hasher = XxHash3_128::new();
        let mut written = Written { bytes: 0, keys: 0, functions: 0, digest: String::new() };
        let name = self.name.clone();
        let damaged = |error| FileError::Data { input: name.clone(), error: Box::new(error) };
        let failed = |error| FileError::Output { output: format!("the snapshot of {name}"), error };
        while let Some(piece) = pieces.blocking_recv() {
            self.file.write_all(&piece).map_err(failed)?;
            written.bytes += piece.len() as u64;
            hasher.write(&piece);
            parser.feed(&piece);
            let before = written.keys;
            while let Some(event) = parser.next_event().map_err(damaged)? {
                match event {
                    Event::Entry(_) | Event::ValueStart(_) => written.keys += 1,
                    Event::Function { .. } | Event::FunctionPreGa(_) => written.functions += 1,
                    _ => {}
                }
            }
            self.progress.0.keys.fetch_add(written.keys - before, Ordering::Relaxed);
        }
        parser.end_of_input().map_err(damaged)?;
        self.file.sync_all().map_err(failed)?;
        written.digest = format!("{:032x}", hasher.finish_128());
        Ok(written)
    }
}
