//! Commands between the source and the target: in memory while the target keeps up, in the journal else.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use keyferry_replication::{Batch, Position, ReplicationId};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    error::Error,
    journal::{Journal, Received, SegmentReader, SegmentWriter, blocking, now_ms},
    options::Fsync,
    progress::Meter,
};

/// Bytes kept in memory for a reading end that is behind.
const MEMORY: usize = 8 * 1024 * 1024;

/// What may be lost to a restart and asked for again, of a source that does not say how much it remembers.
const UNKNOWN_BACKLOG: u64 = 512 * 1024;

/// Batches below this size are copied out of the buffer that they came in.
const SMALL: usize = 64 * 1024;

/// What a batch costs in memory.
fn cost(batch: &Batch) -> usize {
    batch.bytes.len() + size_of::<Received>()
}

/// The writing end of a queue of command batches. It waits for nothing but the disk.
///
/// Rules:
/// - What the target does not hold for good is in memory, or in the journal, or both: in memory at least until it has been
///   read.
/// - What is only in the journal comes after what is in memory and has not been read. So batches go to the journal alone
///   from the moment when memory is full until the reading end has come to the journal's end.
/// - A journal that somebody asked for has everything that a restart could not get from the source: all that follows
///   the snapshot as long as that has not been applied, and all that the target does not hold for good as soon as it is
///   more than the source is sure to remember.
/// - The journal holds one run of the stream without a gap, and begins and ends it between transactions.
#[derive(Debug)]
pub(crate) struct Spool {
    shared: Arc<Shared>,
    journal: Journal,
    /// The segment that is being written, while batches go to the journal.
    segment: Option<SegmentWriter>,
    /// Taken, but neither in memory nor in the journal yet: the disk is full.
    pending: Option<Pending>,
    /// What was in memory only when the segment was begun: it goes there before anything else.
    backfill: Vec<Received>,
    id: ReplicationId,
    in_transaction: bool,
    /// When it began, in milliseconds of the Unix epoch, until a segment has told so.
    begun: Option<u64>,
    /// When the segment was last written through, and whether it has been written to since.
    synced: Instant,
    dirty: bool,
    syncing: Option<JoinHandle<Result<(), Error>>>,
}

#[derive(Debug)]
struct Pending {
    received: Received,
    /// It does not begin inside of a transaction.
    between: bool,
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct SpoolReader {
    shared: Arc<Shared>,
    journal: Journal,
    reading: Option<Reading>,
}

/// A segment that is being read.
#[derive(Debug)]
struct Reading {
    seq: u64,
    reader: SegmentReader,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    meter: Meter,
}

#[derive(Debug, Default)]
struct State {
    /// What the target does not hold for good, oldest first; of these the first `read` have been given out.
    memory: VecDeque<Received>,
    read: usize,
    /// Bytes of those that have not.
    unread: usize,
    /// Where what is in the journal alone begins, if there is any.
    journalled: Option<Mark>,
    /// True while the writing end is at the journal: the reading end must not leave it behind then.
    appending: bool,
    /// The writing end is gone: this is why.
    closed: Option<Closed>,
}

/// A place in the journal.
#[derive(Clone, Debug)]
struct Mark {
    seq: u64,
    /// The byte of the file at which the stream goes on after a position, and the time that the file told before; without
    /// one, the file's beginning.
    within: Option<(u64, Position, u64)>,
    /// Everything up to here is passed over.
    skip: u64,
}

/// How the writing end ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// On request.
    Stopped,
    /// By an error, which the intake reports.
    Failed,
}

/// What the reading end gets.
#[derive(Debug)]
pub(crate) enum Next {
    Batch {
        batch: Batch,
        /// When it came from the source, in milliseconds of the Unix epoch.
        received: u64,
    },
    /// Nothing more will come, and everything has been given out.
    End(Closed),
}

impl Spool {
    /// A spool for a stream that goes on after `from`, of which the journal holds what comes before `to`.
    pub(crate) fn new(
        journal: &Journal,
        from: &Position,
        to: &Position,
        meter: Meter,
    ) -> Result<(Self, SpoolReader), Error> {
        let mut state = State::default();
        if from.offset < to.offset {
            let seq = journal.segment_with(from.offset).ok_or_else(|| {
                Error::Internal(format!("the journal does not hold what comes after {from}"))
            })?;
            state.journalled = Some(Mark { seq, within: None, skip: from.offset });
        }
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), meter });
        let reader = SpoolReader { shared: Arc::clone(&shared), journal: journal.clone(), reading: None };
        let spool = Spool {
            shared,
            journal: journal.clone(),
            segment: None,
            pending: None,
            backfill: Vec::new(),
            id: to.id,
            in_transaction: false,
            begun: Some(now_ms()),
            synced: Instant::now(),
            dirty: false,
            syncing: None,
        };
        Ok((spool, reader))
    }

    /// Takes a batch. When this fails because the disk is full, it has been taken all the same: [`Spool::retry`].
    pub(crate) async fn push(&mut self, mut batch: Batch) -> Result<(), Error> {
        if batch.bytes.len() < SMALL {
            // A slice keeps all of the buffer alive that it was cut from.
            batch.bytes = Bytes::copy_from_slice(&batch.bytes);
        }
        let between = !std::mem::replace(&mut self.in_transaction, batch.in_transaction);
        let received = Received { batch, at: now_ms(), id: self.id };
        self.pending = Some(Pending { received, between });
        self.retry().await
    }

    /// Tries again to put a batch away, if there is one.
    pub(crate) async fn retry(&mut self) -> Result<(), Error> {
        let Some(Pending { received, between }) = self.pending.take() else { return Ok(()) };
        let end = received.batch.end;
        let result = self.put(&received, between).await;
        match result {
            Ok(()) => {
                self.shared.meter.received_offset.store(end, Ordering::Relaxed);
                self.shared.changed.notify_one();
            }
            Err(_) => self.pending = Some(Pending { received, between }),
        }
        result
    }

    /// True while no more can be taken: what has been taken has no place yet, or the journal is as large as it may be.
    pub(crate) fn is_full(&self) -> bool {
        let meter = &self.shared.meter;
        let unapplied = meter.received_offset.load(Ordering::Relaxed) > meter.kept_offset();
        self.pending.is_some() || (unapplied && !self.in_transaction && !self.journal.has_room())
    }

    async fn put(&mut self, received: &Received, between: bool) -> Result<(), Error> {
        let wanted = self.wants_journal(&received.batch);
        if between {
            let enough = self.segment.as_ref().is_some_and(|s| self.journal.is_long_enough(s.len()));
            if !wanted || enough {
                self.end_segment().await?;
            }
            if wanted && self.segment.is_none() {
                self.begin_segment(received).await?;
            }
        }
        if self.segment.is_none() {
            self.shared.lock().remember(received.clone());
            return Ok(());
        }
        if !self.backfill.is_empty() {
            self.append(self.backfill.clone()).await?;
            self.backfill.clear();
        }
        let to_memory = self.shared.lock().begin_append(received, self.segment.as_ref());
        let result = self.append(vec![received.clone()]).await;
        let mut state = self.shared.lock();
        state.appending = false;
        match (&result, to_memory) {
            (Ok(()), true) => state.remember(received.clone()),
            (Ok(()), false) => {
                let len = received.batch.bytes.len() as u64;
                self.shared.meter.journal_backlog.fetch_add(len, Ordering::Relaxed);
            }
            // Nothing was written, so what there is still ends where it did.
            (Err(_), _) => {}
        }
        result
    }

    /// True when `batch` has to be in the journal.
    fn wants_journal(&self, batch: &Batch) -> bool {
        let (meter, settings) = (&self.shared.meter, self.journal.settings());
        let kept = meter.kept_offset();
        let floor = self.floor();
        let mut state = self.shared.lock();
        state.forget(floor);
        if settings.keep || state.journalled.is_some() {
            return true;
        }
        let full = state.unread > 0 && state.unread + batch.bytes.len() > MEMORY;
        let unapplied = batch.end.saturating_sub(kept);
        let limit = match meter.source_backlog() {
            0 => UNKNOWN_BACKLOG / 2,
            backlog => (backlog / 2).min(MEMORY as u64),
        };
        // It goes there at once, and has to fit.
        let limit = settings.max_bytes.map_or(limit, |max| limit.min(max / 4));
        // Once there, it stays until the target has caught up for good.
        let limit = if self.segment.is_some() { limit / 4 } else { limit };
        full || (settings.named && (self.journal.base_bytes() > 0 || unapplied > limit))
    }

    /// What ends there or before need not be in memory once it has been read: the target holds it, or the journal has it.
    fn floor(&self) -> u64 {
        let meter = &self.shared.meter;
        let sure = match self.journal.settings().named {
            true => meter.kept_offset(),
            // It is of use only to a run that ends in good order, which says how far it has come.
            false => meter.applied_offset.load(Ordering::Relaxed),
        };
        sure.max(self.journal.end().unwrap_or(0))
    }

    /// Starts a segment for what is in memory and not in the journal; `next` comes after that.
    async fn begin_segment(&mut self, next: &Received) -> Result<(), Error> {
        let there = self.journal.end().unwrap_or(0);
        let before: Vec<Received> = {
            let state = self.shared.lock();
            state.memory.iter().filter(|received| received.batch.start >= there).cloned().collect()
        };
        let first = before.first().unwrap_or(next);
        let position =
            Position { db: first.batch.db, ..Position::after_snapshot(first.id, first.batch.start) };
        let journal = self.journal.clone();
        // All of the stream is kept, from its first byte on.
        let begun = self.begun.take().filter(|_| self.journal.settings().keep);
        self.segment = Some(blocking(move || journal.start_segment(&position, begun)).await?);
        self.backfill = before;
        Ok(())
    }

    async fn append(&mut self, batches: Vec<Received>) -> Result<(), Error> {
        let Some(mut segment) = self.segment.take() else {
            return Err(Error::Internal("no segment of the journal is open".into()));
        };
        let always = self.journal.settings().fsync == Fsync::Always && self.journal.settings().named;
        let work = move || {
            let result =
                segment.append(&batches).and_then(|()| if always { segment.file().sync() } else { Ok(()) });
            Ok((segment, result))
        };
        let (segment, result) = blocking(work).await?;
        self.segment = Some(segment);
        self.dirty = true;
        result
    }

    async fn end_segment(&mut self) -> Result<(), Error> {
        self.dirty = false;
        self.backfill.clear();
        match self.segment.take() {
            Some(segment) => blocking(move || segment.close()).await,
            None => Ok(()),
        }
    }

    /// Forgets what the target holds for good, and writes through what has waited long enough. To be called from time to time.
    pub(crate) async fn tick(&mut self) -> Result<(), Error> {
        let meter = self.shared.meter.clone();
        let (kept, received) = (meter.kept_offset(), meter.received_offset.load(Ordering::Relaxed));
        let floor = self.floor();
        let idle = {
            let mut state = self.shared.lock();
            state.forget(floor);
            state.journalled.is_none() && kept >= received
        };
        let settings = self.journal.settings().clone();
        let needed = settings.keep || (settings.named && self.journal.base_bytes() > 0);
        if idle && !needed && !self.in_transaction && self.pending.is_none() {
            self.end_segment().await?;
        }
        if self.journal.has_applied(kept) {
            let journal = self.journal.clone();
            blocking(move || journal.drop_applied(kept)).await?;
        }
        if self.syncing.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(done) = self.syncing.take()
        {
            done.await.unwrap_or(Ok(()))?;
        }
        let due = self.dirty && self.synced.elapsed() >= Duration::from_secs(1) && self.syncing.is_none();
        if due && settings.named && settings.fsync == Fsync::EverySecond {
            if let Some(segment) = &self.segment {
                let file = segment.file().clone();
                self.syncing = Some(tokio::task::spawn_blocking(move || file.sync()));
            }
            (self.synced, self.dirty) = (Instant::now(), false);
        }
        meter.journal_bytes.store(self.journal.bytes() + self.journal.base_bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// The history goes on under another id.
    pub(crate) fn set_id(&mut self, id: ReplicationId) {
        self.id = id;
    }

    /// Says that nothing more will come.
    pub(crate) async fn close(mut self, why: Closed) -> Result<(), Error> {
        let ended = self.end_segment().await;
        self.shared.lock().closed.get_or_insert(why);
        self.shared.changed.notify_one();
        ended
    }
}

impl State {
    fn remember(&mut self, received: Received) {
        self.unread += cost(&received.batch);
        self.memory.push_back(received);
    }

    /// Forgets what ends at or before `floor`, and has been read. Never a part of a transaction.
    fn forget(&mut self, floor: u64) {
        let read = self.memory.iter().take(self.read);
        let mut count = 0;
        for (index, received) in read.enumerate() {
            if received.batch.end > floor {
                break;
            }
            if !received.batch.in_transaction {
                count = index + 1;
            }
        }
        self.memory.drain(..count);
        self.read -= count;
    }

    /// A batch is about to be appended to the journal. True when it goes to memory, too.
    fn begin_append(&mut self, received: &Received, segment: Option<&SegmentWriter>) -> bool {
        self.appending = true;
        let room = self.unread == 0 || self.unread + received.batch.bytes.len() <= MEMORY;
        let to_memory = self.journalled.is_none() && room;
        if !to_memory && let Some(segment) = segment {
            let position = Position { db: received.batch.db, ..segment.position().clone() };
            let mark =
                Mark { seq: segment.seq(), within: Some((segment.len(), position, segment.told())), skip: 0 };
            self.journalled.get_or_insert(mark);
        }
        to_memory
    }
}

/// What the reading end can do next.
enum Step {
    Give(Next),
    /// Read more of the segment, which ends there.
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
        if let Some(received) = state.memory.get(state.read) {
            let (batch, received) = (received.batch.clone(), received.at);
            state.read += 1;
            state.unread = state.unread.saturating_sub(cost(&batch));
            return Ok(Step::Give(Next::Batch { batch, received }));
        }
        if let Some(mark) = state.journalled.clone() {
            drop(state);
            return self.step_in_journal(mark);
        }
        Ok(match state.closed.take() {
            Some(why) => Step::Give(Next::End(why)),
            None => Step::Wait,
        })
    }

    fn step_in_journal(&mut self, mark: Mark) -> Result<Step, Error> {
        let Reading { seq, reader } = self.reading.get_or_insert_with(|| Reading {
            seq: mark.seq,
            reader: match mark.within {
                Some((at, position, told)) => SegmentReader::within(at, position, told),
                None => SegmentReader::new().skipping_to(mark.skip),
            },
        });
        let (seq, damaged) = (*seq, |path: &std::path::Path, at, source| Error::JournalDamaged {
            path: path.to_owned(),
            at,
            source,
        });
        match reader.next() {
            Ok(Some(batch)) => {
                return Ok(Step::Give(Next::Batch { batch, received: reader.received() }));
            }
            Ok(None) => {}
            Err(fault) => {
                return Err(damaged(self.journal.readable(seq)?.file.path(), fault.at, fault.source));
            }
        }
        let mut state = self.shared.lock();
        let readable = self.journal.readable(seq)?;
        if reader.at() < readable.len {
            return Ok(Step::Fill { end: readable.len });
        }
        if reader.consumed() != reader.at() {
            let found = keyferry_replication::StreamFault::NotACommand { found: b'*' };
            return Err(damaged(readable.file.path(), reader.consumed(), found));
        }
        if let Some(after) = self.journal.segment_after(seq) {
            let offset = reader.position().map_or(mark.skip, |position| position.offset);
            let next = SegmentReader::new().following(offset).skipping_to(mark.skip);
            self.reading = Some(Reading { seq: after, reader: next });
            return Ok(Step::Again);
        }
        if state.appending {
            return Ok(Step::Wait);
        }
        // Back to memory: the writing end has not been at the journal meanwhile.
        state.journalled = None;
        self.reading = None;
        self.shared.meter.journal_backlog.store(0, Ordering::Relaxed);
        Ok(Step::Again)
    }

    /// What is in memory and not held by the target for good, and how far that is; everything else is in the journal.
    pub(crate) fn into_unapplied(self) -> Vec<Received> {
        let mut state = self.shared.lock();
        state.read = state.memory.len();
        state.forget(self.shared.meter.applied_offset.load(Ordering::Relaxed));
        std::mem::take(&mut state.memory).into()
    }

    /// Reads more of the segment, away from the async threads: a disk may take its time.
    async fn fill(&mut self, end: u64) -> Result<(), Error> {
        let Some(Reading { seq, reader }) = &mut self.reading else { return Ok(()) };
        let (at, len) = reader.wants(end);
        let file = self.journal.readable(*seq)?.file;
        let chunk = blocking(move || {
            let mut chunk = vec![0; len];
            let n = file.read_at(&mut chunk, at)?;
            chunk.truncate(n);
            Ok(chunk)
        })
        .await?;
        if chunk.is_empty() {
            return Err(Error::Internal(format!("segment {seq} of the journal is shorter than it was")));
        }
        reader.supply(&chunk);
        let read = chunk.len() as u64;
        let backlog = &self.shared.meter.journal_backlog;
        backlog.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(read))).ok();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
