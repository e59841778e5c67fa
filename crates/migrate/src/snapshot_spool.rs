//! Snapshot bytes between the source and the target: in memory while the target keeps up, on disk else.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    journal::{JournalFile, blocking},
};

/// Bytes kept in memory before the file is used.
const MEMORY: usize = 4 * 1024 * 1024;

/// How often a wait looks again whether it is still harmless.
const TICK: Duration = Duration::from_millis(50);

/// How long the writing end waits for the reading end, where that is harmless.
const PATIENCE: Duration = Duration::from_secs(5);

/// The file is written in pieces of at least this size, but for the last.
const WRITE_SIZE: usize = 512 * 1024;

/// The writing end. It waits for the reading end only where the caller says that this is harmless, else for nothing
/// but the disk.
///
/// Invariant: what is in memory is older than what is in the file and has not been read.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    shared: Arc<Shared>,
    file: JournalFile,
    /// The file is to hold everything.
    keep: bool,
    /// Bytes on their way to the file.
    pending: Vec<Bytes>,
    pending_len: usize,
}

/// The reading end, for a thread that may block.
#[derive(Debug)]
pub(crate) struct SnapshotReader {
    shared: Arc<Shared>,
    file: JournalFile,
    /// The file is to hold everything.
    keep: bool,
    /// Bytes of the file that have been read.
    at: u64,
    front: Bytes,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to read, or never will be.
    changed: Notify,
    /// There is room in memory.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    memory: VecDeque<Bytes>,
    memory_len: usize,
    /// True while bytes go to the file.
    spilling: bool,
    /// Bytes that the writing end has taken and not yet written.
    unwritten: bool,
    file_len: u64,
    /// Bytes of the file that the reading end has read.
    file_read: u64,
    /// All of the snapshot has come.
    complete: bool,
    /// Nothing more will come.
    over: bool,
}

/// The reading end of a snapshot that is in `file` as a whole.
pub(crate) fn whole_snapshot(file: JournalFile) -> SnapshotReader {
    let state = State { file_len: file.len(), complete: true, over: true, ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), room: Notify::new() });
    SnapshotReader { shared, file, keep: true, at: 0, front: Bytes::new() }
}

/// Both ends of a spool in `file`; `keep` makes the file hold the whole snapshot.
pub(crate) fn snapshot_spool(file: JournalFile, keep: bool) -> (SnapshotWriter, SnapshotReader) {
    let state = State { spilling: keep, ..State::default() };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), room: Notify::new() });
    let writer = SnapshotWriter {
        shared: Arc::clone(&shared),
        file: file.clone(),
        keep,
        pending: Vec::new(),
        pending_len: 0,
    };
    (writer, SnapshotReader { shared, file, keep, at: 0, front: Bytes::new() })
}

impl SnapshotWriter {
    /// Adds bytes. While `may_wait` says so, a full memory is waited for, for some seconds, before the file is used.
    pub(crate) async fn push(&mut self, bytes: Bytes, may_wait: impl Fn() -> bool) -> Result<(), Error> {
        let begun = Instant::now();
        while may_wait() && begun.elapsed() < PATIENCE && self.shared.lock().is_full(bytes.len()) {
            tokio::time::timeout(TICK, self.shared.room.notified()).await.ok();
        }
        {
            let mut state = self.shared.lock();
            if state.is_full(bytes.len()) {
                state.spilling = true;
            }
            if !state.spilling {
                state.memory_len += bytes.len();
                state.memory.push_back(bytes);
                drop(state);
                self.shared.changed.notify_one();
                return Ok(());
            }
            state.unwritten = true;
        }
        self.pending_len += bytes.len();
        self.pending.push(bytes);
        if self.pending_len >= WRITE_SIZE { self.flush().await } else { Ok(()) }
    }

    /// Writes what is on its way to the file. When this fails, for lack of room, it is still on its way.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        if self.pending_len == 0 || self.back_to_memory() {
            return Ok(());
        }
        let (mut file, pieces) = (self.file.clone(), self.pending.clone());
        self.file = blocking(move || {
            file.append(&pieces)?;
            Ok(file)
        })
        .await?;
        self.pending.clear();
        self.pending_len = 0;
        let mut state = self.shared.lock();
        state.file_len = self.file.len();
        state.unwritten = false;
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Gives what is on its way to memory, where it may go there: when everything before it has been read.
    fn back_to_memory(&mut self) -> bool {
        let mut state = self.shared.lock();
        let read = state.memory.is_empty() && state.file_read == state.file_len;
        if self.keep || !read {
            return false;
        }
        (state.spilling, state.unwritten) = (false, false);
        state.memory_len += self.pending_len;
        state.memory.extend(self.pending.drain(..));
        drop(state);
        self.pending_len = 0;
        self.shared.changed.notify_one();
        true
    }

    /// The file, of which everything has been written when the snapshot is complete.
    pub(crate) fn file(&self) -> &JournalFile {
        &self.file
    }

    /// Says that the snapshot is complete.
    pub(crate) async fn complete(&mut self) -> Result<(), Error> {
        self.flush().await?;
        self.shared.lock().complete = true;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Says that nothing more will come.
    pub(crate) fn end(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_one();
    }
}

impl SnapshotReader {
    /// Reads the next bytes, waiting for them if need be. `None`: there will be no more.
    pub(crate) fn read_into(
        &mut self,
        space: &mut [u8],
        runtime: &tokio::runtime::Handle,
        abandon: &CancellationToken,
    ) -> Result<Option<usize>, Error> {
        let shared = Arc::clone(&self.shared);
        loop {
            if !self.front.is_empty() {
                let n = self.front.len().min(space.len());
                self.front.copy_to_slice(&mut space[..n]);
                return Ok(Some(n));
            }
            let changed = shared.changed.notified();
            let (file_len, ended) = {
                let mut state = shared.lock();
                if let Some(bytes) = state.memory.pop_front() {
                    state.memory_len -= bytes.len();
                    self.front = bytes;
                    drop(state);
                    shared.room.notify_one();
                    continue;
                }
                (state.file_len, state.complete || state.over)
            };
            if self.at < file_len {
                let most = usize::try_from(file_len - self.at).unwrap_or(usize::MAX).min(space.len());
                let n = self.file.read_at(&mut space[..most], self.at)?;
                self.at += n as u64;
                shared.lock().file_read = self.at;
                return Ok(Some(n));
            }
            if ended {
                return Ok(None);
            }
            self.leave_file();
            let more = runtime.block_on(async {
                tokio::select! {
                    () = changed => true,
                    () = abandon.cancelled() => false,
                }
            });
            if !more {
                return Ok(None);
            }
        }
    }

    /// Goes back to memory when all of the file has been read, unless it is to hold everything.
    fn leave_file(&mut self) {
        let mut state = self.shared.lock();
        if state.spilling && !state.unwritten && state.file_len == self.at && !self.keep {
            state.spilling = false;
        }
    }

    /// True when there is nothing to read at this moment.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.shared.lock();
        self.front.is_empty() && state.memory.is_empty() && self.at >= state.file_len
    }

    /// True when all of the snapshot has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.shared.lock().complete
    }
}

impl State {
    /// True when memory is in use and has no room for `len` bytes.
    fn is_full(&self, len: usize) -> bool {
        !self.spilling && self.memory_len + len > MEMORY
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::journal::{Journal, Settings, test_disk};

    /// Everything comes out as it went in, whatever the pace of either end, and in `keep` mode is in the file.
    async fn pass(total: usize, piece: usize, slow_reader: bool, keep: bool, wait: bool) {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path(), Settings::for_tests()).unwrap();
        let file = journal.begin_base().unwrap();
        let (mut writer, mut reader) = snapshot_spool(file, keep);
        let data: Bytes = (0..total).map(|n| (n / 7 % 251) as u8).collect::<Vec<u8>>().into();
        let expected = data.clone();
        let runtime = tokio::runtime::Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            let (mut seen, mut space) = (Vec::new(), vec![0; 100_000]);
            let abandon = CancellationToken::new();
            while let Some(n) = reader.read_into(&mut space, &runtime, &abandon).unwrap() {
                seen.extend_from_slice(&space[..n]);
                if slow_reader {
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            }
            assert!(reader.is_complete());
            seen
        });
        for start in (0..total).step_by(piece) {
            writer.push(data.slice(start..total.min(start + piece)), || wait).await.unwrap();
            if start % 11 == 0 {
                writer.flush().await.unwrap();
            }
        }
        writer.complete().await.unwrap();
        assert!(reading.await.unwrap() == expected);
        if keep {
            let path = dir.path().join("appendonlydir/temp-appendonly.aof.base.rdb");
            assert!(std::fs::read(path).unwrap() == expected);
        } else if wait {
            assert_eq!(writer.file.len(), 0, "the file was used although waiting was harmless");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_lost_between_memory_and_file() {
        for keep in [false, true] {
            pass(1000, 10, false, keep, false).await;
            pass(40_000_000, 60_000, true, keep, false).await;
            pass(40_000_000, 200_000, false, keep, true).await;
        }
    }

    /// A disk that is full for a while loses nothing: where the file need not hold everything, memory does.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_is_waited_for() {
        for keep in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (journal, _) = Journal::open(dir.path(), Settings::for_tests()).unwrap();
            let disk = test_disk::Disk::default();
            disk.0.store(1 << 20, Ordering::Relaxed);
            journal.set_disk(disk.clone());
            let (mut writer, mut reader) = snapshot_spool(journal.begin_base().unwrap(), keep);
            let data: Bytes = (0..12_000_000_u32).map(|n| (n / 7 % 251) as u8).collect::<Vec<u8>>().into();
            let mut refused = 0;
            let mut full = async |writer: &mut SnapshotWriter, result: Result<(), Error>| {
                let mut result = result;
                while let Err(error) = result {
                    assert!(error.is_disk_full(), "{error}");
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    if keep && refused % 3 == 0 {
                        disk.0.fetch_add(600_000, Ordering::Relaxed);
                    }
                    result = writer.flush().await;
                }
            };
            let (runtime, expected) = (tokio::runtime::Handle::current(), data.clone());
            let reading = tokio::task::spawn_blocking(move || {
                let (mut seen, mut space) = (Vec::new(), vec![0; 100_000]);
                let abandon = CancellationToken::new();
                while let Some(n) = reader.read_into(&mut space, &runtime, &abandon).unwrap() {
                    seen.extend_from_slice(&space[..n]);
                    std::thread::sleep(Duration::from_micros(300));
                }
                seen
            });
            for piece in 0..200 {
                let pushed = writer.push(data.slice(piece * 60_000..(piece + 1) * 60_000), || false).await;
                full(&mut writer, pushed).await;
            }
            let pushed = writer.flush().await;
            full(&mut writer, pushed).await;
            writer.complete().await.unwrap();
            assert!(reading.await.unwrap() == expected);
            assert!(refused > 0);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_that_waits_can_be_called_off() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path(), Settings::for_tests()).unwrap();
        let (_writer, mut reader) = snapshot_spool(journal.begin_base().unwrap(), false);
        let abandon = CancellationToken::new();
        let (runtime, token) = (tokio::runtime::Handle::current(), abandon.clone());
        let reading =
            tokio::task::spawn_blocking(move || reader.read_into(&mut [0; 10], &runtime, &token).unwrap());
        abandon.cancel();
        assert_eq!(reading.await.unwrap(), None);
    }
}
