//! Commands between the source and the target: in memory while the target keeps up, in the journal else.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use bytes::Bytes;
use keyferry_replication::{Batch, Position, ReplicationId};
use tokio::sync::Notify;

use crate::{
    error::Error,
    journal::{Journal, JournalFile, JournalReader, blocking, incr_head, journal_form},
    progress::Meter,
};

/// Bytes kept in memory before the journal is used.
const MEMORY: usize = 8 * 1024 * 1024;

/// Batches below this size are copied out of the buffer that they came in.
const SMALL: usize = 64 * 1024;

/// What a batch costs in memory.
fn cost(batch: &Batch) -> usize {
    batch.bytes.len() + size_of::<Batch>()
}

/// A queue of command batches whose writing end never waits for its reading end.
///
/// Invariant: what is in memory is older than what is in the file and has not been read. So batches go to
/// memory only while the file holds nothing unread, and to the file from the moment when memory is full until
/// the file has been read to its end.
#[derive(Debug)]
pub(crate) struct Spool {
    shared: Arc<Shared>,
    file: JournalFile,
    /// Where the next batch begins.
    position: Position,
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct SpoolReader {
    shared: Arc<Shared>,
    file: JournalFile,
    reader: JournalReader,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    meter: Meter,
}

#[derive(Debug)]
struct State {
    memory: VecDeque<Batch>,
    memory_bytes: usize,
    /// True while batches go to the file.
    spilling: bool,
    /// True while the writing end is at the file: the reading end must not leave the file behind then.
    appending: bool,
    /// Bytes of the file that are complete batches.
    file_len: u64,
    /// How often the file has been begun anew.
    generation: u64,
    /// The writing end is gone: this is why.
    closed: Option<Closed>,
}

/// How the writing end ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// On request.
    Stopped,
    /// By an error, which the intake reports.
    Failed,
}

/// What a reading end had not given out: memory first, then the file, if there is anything in it.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) memory: VecDeque<Batch>,
    /// Which file holds the rest, if one does; see [`Next::Batch`].
    pub(crate) file: Option<u64>,
}

/// What the reading end gets.
#[derive(Debug)]
pub(crate) enum Next {
    Batch {
        batch: Batch,
        /// Which file it was read from, if it was: the file begun for the so-manieth time.
        file: Option<u64>,
    },
    /// Nothing more will come, and everything has been given out.
    End(Closed),
}

impl Spool {
    /// A spool in `journal` for a stream that goes on after `position`. It begins in the file: as long as the
    /// snapshot is being applied, the journal is what a restart needs.
    pub(crate) fn new(
        journal: &Journal,
        position: &Position,
        meter: Meter,
    ) -> Result<(Self, SpoolReader), Error> {
        let file = journal.incr(position)?;
        let state = State {
            memory: VecDeque::new(),
            memory_bytes: 0,
            spilling: true,
            appending: false,
            file_len: file.len(),
            generation: 0,
            closed: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), meter });
        let reader = SpoolReader {
            shared: Arc::clone(&shared),
            file: file.clone(),
            reader: JournalReader::new(position.clone()),
        };
        Ok((Spool { shared, file, position: position.clone() }, reader))
    }

    /// Adds a batch.
    pub(crate) async fn push(&mut self, mut batch: Batch) -> Result<(), Error> {
        let len = batch.bytes.len();
        if len < SMALL {
            // A slice keeps all of the buffer alive that it was cut from.
            batch.bytes = Bytes::copy_from_slice(&batch.bytes);
        }
        // Files and memory meet between transactions only: a server that loads the files takes no less.
        let between = !std::mem::replace(&mut self.position.in_transaction, batch.in_transaction);
        self.position.offset = batch.start;
        self.position.db = batch.db;
        let emptied = {
            let mut state = self.shared.lock();
            if between && !state.spilling && state.memory_bytes + len > MEMORY && !state.memory.is_empty() {
                state.spilling = true;
            }
            if !state.spilling {
                state.memory_bytes += cost(&batch);
                state.memory.push_back(batch);
                drop(state);
                self.shared.changed.notify_one();
                return Ok(());
            }
            state.appending = true;
            let emptied = state.file_len == 0;
            state.generation += u64::from(emptied);
            emptied
        };
        let result = self.append(&batch, emptied).await;
        let mut state = self.shared.lock();
        state.appending = false;
        state.file_len = self.file.len();
        drop(state);
        self.shared.meter.journal_backlog.fetch_add(len as u64, Ordering::Relaxed);
        self.shared.changed.notify_one();
        result
    }

    async fn append(&mut self, batch: &Batch, emptied: bool) -> Result<(), Error> {
        if emptied {
            self.file.truncate()?;
            self.file.append(&incr_head(&self.position))?;
        }
        self.file.append_async(vec![journal_form(batch)]).await
    }

    /// The history goes on under another id.
    pub(crate) fn set_id(&mut self, id: ReplicationId) {
        self.position.id = id;
    }

    /// Says that nothing more will come.
    pub(crate) fn close(self, why: Closed) {
        self.shared.lock().closed.get_or_insert(why);
        self.shared.changed.notify_one();
    }
}

/// What the reading end can do next.
enum Step {
    Give(Next),
    /// Read the file, which ends there.
    Fill {
        end: u64,
    },
    Again,
    Wait,
}

impl SpoolReader {
    /// The next batch, when there is one.
    ///
    /// A caller that drops the future may not call again: a read of the file may have been under way.
    pub(crate) async fn next(&mut self) -> Result<Next, Error> {
        let shared = Arc::clone(&self.shared);
        loop {
            let changed = shared.changed.notified();
            match self.step()? {
                Step::Give(next) => return Ok(next),
                Step::Fill { end } => self.fill(end).await?,
                Step::Again => {}
                Step::Wait => changed.await,
            }
        }
    }

    fn step(&mut self) -> Result<Step, Error> {
        let mut state = self.shared.lock();
        if let Some(batch) = state.memory.pop_front() {
            state.memory_bytes -= cost(&batch);
            return Ok(Step::Give(Next::Batch { batch, file: None }));
        }
        if state.spilling {
            let (end, appending, file) = (state.file_len, state.appending, Some(state.generation));
            drop(state);
            return match self.reader.next_buffered(&self.file)? {
                Some(batch) => Ok(Step::Give(Next::Batch { batch, file })),
                None if self.reader.at() < end => Ok(Step::Fill { end }),
                None if appending => Ok(Step::Wait),
                None => Ok(self.leave_file()),
            };
        }
        Ok(match state.closed.take() {
            Some(why) => Step::Give(Next::End(why)),
            None => Step::Wait,
        })
    }

    /// Goes back to memory, if the writing end has not been at the file meanwhile; it empties the file before it uses
    /// it again.
    fn leave_file(&mut self) -> Step {
        let mut state = self.shared.lock();
        if !state.appending && state.file_len == self.reader.at() {
            state.spilling = false;
            state.file_len = 0;
            self.reader.rewind();
            self.shared.meter.journal_backlog.store(0, Ordering::Relaxed);
        }
        Step::Again
    }

    /// What has not been given out.
    pub(crate) fn into_left(self) -> Left {
        let mut state = self.shared.lock();
        let file = state.spilling.then_some(state.generation);
        Left { memory: std::mem::take(&mut state.memory), file }
    }

    /// Reads more of the file, away from the async threads: a disk may take its time.
    async fn fill(&mut self, end: u64) -> Result<(), Error> {
        let (at, len) = self.reader.wants(end);
        let file = self.file.clone();
        let chunk = blocking(move || {
            let mut chunk = vec![0; len];
            let n = file.read_at(&mut chunk, at)?;
            chunk.truncate(n);
            Ok(chunk)
        })
        .await?;
        self.reader.supply(&chunk);
        let read = chunk.len() as u64;
        let backlog = &self.shared.meter.journal_backlog;
        backlog.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(read))).ok();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    const ID: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";

    fn start() -> Position {
        Position::after_snapshot(ID.parse().unwrap(), 1000)
    }

    /// Batch number `n`, of about `size` bytes; every third also moves the offset by a keep-alive.
    fn batch(n: u64, size: usize, offset: &mut u64) -> Batch {
        let mut out = BytesMut::new();
        keyferry_resp::encode_command(&mut out, [&b"SET"[..], n.to_string().as_bytes(), &vec![b'x'; size]]);
        let start = *offset;
        let end = start + out.len() as u64 + if n.is_multiple_of(3) { 14 } else { 0 };
        *offset = end;
        Batch::new(out.freeze(), 1, start, end)
    }

    /// What a batch says, joined over however the reading end cut it.
    #[derive(Default, PartialEq, Debug)]
    struct Seen {
        bytes: Vec<u8>,
        commands: u32,
        end: u64,
    }

    impl Seen {
        fn add(&mut self, batch: &Batch) {
            assert!(batch.end >= self.end);
            self.bytes.extend_from_slice(&batch.bytes);
            self.commands += batch.commands;
            self.end = batch.end;
        }
    }

    /// Writes `total` batches while reading with pauses; order and offsets must survive every change of mode.
    async fn run(total: u64, size: usize, slow_reader: bool) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(Some(dir.path())).unwrap();
        let (mut spool, mut reader) = Spool::new(&journal, &start(), Meter::default()).unwrap();
        let writer = tokio::spawn(async move {
            let mut wrote = Seen::default();
            let mut offset = 1000;
            for n in 0..total {
                let batch = batch(n, size, &mut offset);
                wrote.add(&batch);
                spool.push(batch).await.unwrap();
                if n % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            spool.close(Closed::Stopped);
            wrote
        });
        let mut seen = Seen::default();
        loop {
            match reader.next().await.unwrap() {
                Next::Batch { batch, .. } => seen.add(&batch),
                Next::End(why) => {
                    assert_eq!(why, Closed::Stopped);
                    break;
                }
            }
            if slow_reader && seen.commands % 50 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        let wrote = writer.await.unwrap();
        assert_eq!(seen.commands, wrote.commands);
        assert_eq!(seen.end, wrote.end);
        assert!(seen.bytes == wrote.bytes);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_lost_or_reordered_between_memory_and_file() {
        run(3000, 100, false).await;
        run(3000, 20_000, true).await;
        run(40, 2_000_000, true).await;
    }

    #[tokio::test]
    async fn the_file_is_an_aof_with_annotations_that_servers_skip() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(Some(dir.path())).unwrap();
        let (mut spool, _reader) = Spool::new(&journal, &start(), Meter::default()).unwrap();
        spool.push(batch(0, 1, &mut 1000)).await.unwrap();
        let path = dir.path().join("appendonlydir/appendonly.aof.2.incr.aof");
        let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        let head = format!("#ID:{ID}\r\n#OFFSET:1000\r\n*3\r\n$3\r\nSET\r\n");
        assert!(text.starts_with(&head), "{text}");
        assert!(text.ends_with("x\r\n#OFFSET:1041\r\n"), "{text}");
    }

    #[test]
    fn a_used_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::create(Some(dir.path())).unwrap();
        assert!(matches!(Journal::create(Some(dir.path())), Err(Error::JournalInUse { .. })));
        journal.remove().unwrap();
        Journal::create(Some(dir.path())).unwrap();
    }
}
