//! Following one server, and keeping what it sends.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use keyferry_client::Backoff;
use keyferry_replication::{Batch, Event, LinkOptions, Locator, Position, Replica};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    ArchiveOptions,
    catalog::Base,
    progress::LinkProgress,
    store::{Keeping, Step, Store, Writer},
};
use crate::{
    backup::{BackupProgress, Copied, Copy, SnapshotFile, Written},
    error::Error,
    journal::{Received, blocking, now_ms},
    options::Fsync,
};

/// How often is looked whether something is due.
const TICK: Duration = Duration::from_millis(100);

/// How often is written through to the disk.
const SYNC: Duration = Duration::from_secs(1);

/// How often is looked for what need not be kept any more.
const EXPIRE: Duration = Duration::from_secs(5);

/// How soon is tried again what failed beside the stream.
const AGAIN: Duration = Duration::from_secs(30);

/// How long a full disk is waited for.
const DISK_WINDOW: Duration = Duration::from_secs(600);

/// How long a stop waits for the end of a transaction.
const TRANSACTION_GRACE: Duration = Duration::from_secs(3);

/// Follows one server.
pub(super) struct Follower {
    pub(super) store: Store,
    pub(super) stream: Locator,
    pub(super) options: ArchiveOptions,
    pub(super) progress: LinkProgress,
    pub(super) stop: CancellationToken,
}

/// What is under way.
struct Under {
    replica: Replica,
    writer: Option<Writer>,
    /// Where the next batch begins.
    at: Option<Position>,
    /// The first snapshot of a history, as it comes.
    first: Option<First>,
    /// Another snapshot, over a link of its own.
    copy: Option<JoinHandle<Result<Copied, Error>>>,
    /// One that has come, whose offset the stream has not reached.
    waiting: Option<Base>,
    packing: Option<JoinHandle<Result<Step, Error>>>,
    /// The segment is to be ended, so that what is behind the next snapshot does not begin long before it.
    rotate: bool,
    /// When the next attempts are made.
    next_copy: Instant,
    next_pack: Instant,
    synced: Instant,
    expired: Instant,
}

/// The snapshot that a history begins with.
struct First {
    file: SnapshotFile,
    position: Position,
    begun: u64,
    gap: Option<String>,
}

impl Drop for Under {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            copy.abort();
        }
    }
}

impl Follower {
    /// Follows until it is stopped.
    pub(super) async fn run(&self) -> Result<(), Error> {
        let mut failing: Option<Instant> = None;
        let mut backoff = Backoff::default();
        loop {
            let link = self.options.link.clone();
            let resume = self.store.end().map(|(position, _)| position);
            let mut under = Under::new(Replica::following(
                self.stream.clone(),
                link,
                self.options.reconnect_window,
                resume,
            ));
            let result = self.follow(&mut under).await;
            let in_snapshot = under.first.take().is_some();
            match result {
                // What was lost inside of a snapshot has to begin anew.
                Err(Error::Source(error)) if in_snapshot && error.is_retryable() => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.options.reconnect_window {
                        return Err(error.into());
                    }
                    self.progress.note(format!(
                        "the link broke inside of the snapshot ({error}); it is asked for again"
                    ));
                    self.progress.lost(&error.to_string());
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                        () = self.stop.cancelled() => return Ok(()),
                    }
                }
                result => return self.finish(under, result).await,
            }
        }
    }

    async fn follow(&self, under: &mut Under) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let inside = under.at.as_ref().is_some_and(|at| at.in_transaction);
            let event = tokio::select! {
                biased;
                () = self.stop.cancelled(), if !inside => return Ok(()),
                () = stopped_for(&self.stop, TRANSACTION_GRACE), if inside => return Ok(()),
                _ = ticks.tick() => {
                    self.tick(under).await?;
                    continue;
                }
                event = under.replica.next() => event?,
            };
            self.event(under, event).await?;
        }
    }

    async fn event(&self, under: &mut Under, event: Event) -> Result<(), Error> {
        match event {
            Event::FullSync { id, offset } => {
                let position = Position::after_snapshot(id, offset);
                under.writer = None;
                let store = self.store.clone();
                let (notes, end) = blocking(move || {
                    let mut notes = Vec::new();
                    // What came last may end inside of a transaction.
                    store.close_torn(&mut notes)?;
                    let end = store.end();
                    Ok((notes, end))
                })
                .await?;
                notes.into_iter().for_each(|note| self.progress.note(note));
                let gap = end.map(|(end, _)| {
                    format!(
                        "the source no longer had the writes after {end} (it began anew at {position}): a larger repl-backlog-size \
                         bears longer interruptions"
                    )
                });
                if let Some(gap) = &gap {
                    self.progress.gap(gap);
                }
                self.progress.snapshot_begins();
                let name =
                    under.replica.address().map_or_else(|| "the source".to_owned(), ToString::to_string);
                let file = SnapshotFile::begin(self.store.dir(), name, self.progress.snapshot())?;
                // Another one is of a history that is no more.
                under.forget_copy();
                under.first = Some(First { file, position, begun: now_ms(), gap });
            }
            Event::Snapshot(bytes) => {
                if let Some(first) = &mut under.first
                    && !first.file.push(bytes).await
                {
                    return self.first_is_complete(under).await;
                }
            }
            Event::SnapshotEnd { .. } => self.first_is_complete(under).await?,
            Event::Commands(batch) => self.commands(under, batch).await?,
            Event::Lost { error, .. } => self.progress.lost(&error.to_string()),
            Event::Resumed { position } => {
                self.progress.resumed();
                // After a failover the same offsets go on under another id.
                under.at = Some(position);
            }
            _ => {}
        }
        Ok(())
    }

    async fn first_is_complete(&self, under: &mut Under) -> Result<(), Error> {
        let Some(First { file, position, begun, gap }) = under.first.take() else { return Ok(()) };
        let (file, written) = file.finish().await?;
        let base = base(&written, &position, begun, under.server());
        let store = self.store.clone();
        blocking(move || {
            let base = store.name_base(file.path(), base)?;
            store.begin_run(base, gap)
        })
        .await?;
        under.at = Some(position);
        self.progress.resumed();
        self.show(under);
        Ok(())
    }

    /// Keeps a batch. A full disk is waited for, and the source is not read meanwhile.
    async fn commands(&self, under: &mut Under, batch: Batch) -> Result<(), Error> {
        let Some(at) = under.at.clone() else {
            return Err(Error::Internal("a stream without a beginning".into()));
        };
        let came = now_ms();
        let received = vec![Received { batch, at: came, id: at.id }];
        let mut full: Option<Instant> = None;
        loop {
            let (store, begin, writer) = (self.store.clone(), at.clone(), under.writer.take());
            let (batches, always) = (received.clone(), self.options.fsync == Fsync::Always);
            let (writer, result) = blocking(move || {
                let mut writer = match writer {
                    Some(writer) => writer,
                    None => match store.begin_segment(&begin, came) {
                        Ok(writer) => writer,
                        Err(error) => return Ok((None, Err(error))),
                    },
                };
                let mut result = store.append(&mut writer, &batches);
                if result.is_ok()
                    && always
                    && let Some(file) = writer.unsynced()
                {
                    result = file.sync();
                }
                Ok((Some(writer), result))
            })
            .await?;
            under.writer = writer;
            let Err(error) = result else { break };
            let since = *full.get_or_insert_with(Instant::now);
            if !error.is_disk_full() || since.elapsed() >= DISK_WINDOW || self.stop.is_cancelled() {
                return Err(error);
            }
            self.progress.trouble(&format!("{}; waiting for room", error.to_line()));
            self.expire().await.ok();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if full.is_some() {
            self.progress.resumed();
        }
        under.at = under.replica.position().cloned();
        if let Some(at) = &under.at {
            under.replica.applied(at.offset);
        }
        self.show(under);
        Ok(())
    }

    async fn tick(&self, under: &mut Under) -> Result<(), Error> {
        if self.options.fsync == Fsync::EverySecond
            && under.synced.elapsed() >= SYNC
            && let Some(file) = under.writer.as_mut().and_then(Writer::unsynced)
        {
            blocking(move || file.sync()).await?;
            under.synced = Instant::now();
        }
        if under.first.is_none() && under.at.is_some() {
            self.rotate(under).await?;
            self.bases(under).await?;
        }
        self.pack(under).await;
        if under.expired.elapsed() >= EXPIRE {
            under.expired = Instant::now();
            if let Err(error) = self.expire().await {
                self.progress.trouble(&error.to_line());
            }
        }
        self.show(under);
        Ok(())
    }

    /// Ends a segment that is long or old enough.
    async fn rotate(&self, under: &mut Under) -> Result<(), Error> {
        let Some(at) = under.at.clone().filter(|at| !at.in_transaction) else { return Ok(()) };
        let age = |writer: &Writer| Duration::from_millis(now_ms().saturating_sub(writer.begun()));
        let due = |writer: &Writer| {
            writer.len() >= self.options.segment_bytes || age(writer) >= self.options.segment_age
        };
        let rotate = std::mem::take(&mut under.rotate);
        let Some(writer) = under.writer.take_if(|writer| rotate || due(writer)) else { return Ok(()) };
        let store = self.store.clone();
        let (writer, result) = blocking(move || {
            let result = store.close(&writer, at.db);
            Ok((writer, result))
        })
        .await?;
        match result {
            Ok(()) => under.next_pack = Instant::now(),
            // It goes on growing until there is room.
            Err(error) if error.is_disk_full() => {
                self.progress.trouble(&error.to_line());
                under.writer = Some(writer);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes other snapshots of the history that is followed.
    async fn bases(&self, under: &mut Under) -> Result<(), Error> {
        let offset = under.at.as_ref().map_or(0, |at| at.offset);
        if let Some(base) = under.waiting.take_if(|base| base.offset <= offset) {
            let store = self.store.clone();
            blocking(move || store.add_base(base)).await?;
            under.expired = Instant::now() - EXPIRE;
        }
        if under.copy.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(copy) = under.copy.take()
        {
            let copied = copy.await.unwrap_or_else(|e| Err(Error::Internal(format!("a task ended: {e}"))));
            match self.copied(under, copied).await {
                Ok(()) => {}
                Err(error) => {
                    self.progress.note(format!("no new snapshot: {}; tried again later", error.to_line()));
                    under.next_copy = Instant::now() + AGAIN.min(self.options.base_every);
                }
            }
        }
        let due = self.base_is_due() && Instant::now() >= under.next_copy;
        if under.copy.is_none() && under.waiting.is_none() && due {
            let mut link: LinkOptions = self.options.link.clone();
            link.acks = keyferry_replication::AckPolicy::default();
            let copy = Copy {
                stream: self.stream.clone(),
                slots: None,
                link,
                patience: self.options.reconnect_window,
                progress: BackupProgress::default(),
                end: self.stop.clone(),
            };
            let dir = self.store.dir().to_owned();
            under.rotate = true;
            under.copy = Some(tokio::spawn(async move { copy.run(&dir).await }));
        }
        Ok(())
    }

    /// Whether it is time for another snapshot, or the stream behind the newest one takes too much of the room that there is.
    fn base_is_due(&self) -> bool {
        let Some(taken) = self.store.last_base() else { return false };
        let age = Duration::from_millis(now_ms().saturating_sub(taken));
        if age >= self.options.base_every {
            return true;
        }
        let Some(max) = self.options.max_bytes else { return false };
        let (base, stream) = self.store.newest();
        self.store.bytes() > max && stream > max / 4 && stream > base
    }

    async fn copied(&self, under: &mut Under, copied: Result<Copied, Error>) -> Result<(), Error> {
        let copied = copied?;
        let of = &copied.snapshot;
        if under.at.as_ref().is_none_or(|at| at.id.to_string() != of.replication_id) {
            return Err(Error::Internal(format!(
                "{} sent a snapshot of another history ({}) than the one that is followed",
                of.server, of.replication_id
            )));
        }
        let position = Position::after_snapshot(
            of.replication_id.parse().map_err(|e| Error::Internal(format!("{e}")))?,
            of.offset,
        );
        let written =
            Written { bytes: of.bytes, keys: of.keys, functions: of.functions, digest: of.digest.clone() };
        let base = base(&written, &position, copied.snapshot.taken_ms, under.server());
        let store = self.store.clone();
        under.waiting = Some(blocking(move || store.name_base(copied.path(), base)).await?);
        Ok(())
    }

    /// Compresses closed segments, one after the other, beside the stream.
    async fn pack(&self, under: &mut Under) {
        if under.packing.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(packing) = under.packing.take()
        {
            match packing.await.unwrap_or_else(|e| Err(Error::Internal(format!("a task ended: {e}")))) {
                Ok(Step { more, note }) => {
                    note.into_iter().for_each(|note| self.progress.note(note));
                    // Otherwise the next one is looked for when a segment is closed.
                    under.next_pack = Instant::now() + if more { Duration::ZERO } else { AGAIN };
                }
                Err(error) => {
                    self.progress.note(format!("a segment stays as it is: {}", error.to_line()));
                    under.next_pack = Instant::now() + AGAIN;
                }
            }
        }
        if under.packing.is_none() && Instant::now() >= under.next_pack {
            let store = self.store.clone();
            under.packing = Some(tokio::spawn(blocking(move || store.pack_one())));
        }
    }

    async fn expire(&self) -> Result<(), Error> {
        let age =
            |keep: Duration| now_ms().saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
        let keeping = Keeping { since: self.options.keep.map(age), max_bytes: self.options.max_bytes };
        let store = self.store.clone();
        let fits = blocking(move || store.expire(keeping)).await?;
        self.progress.set_over(!fits);
        Ok(())
    }

    fn show(&self, under: &Under) {
        let (bases, segments) = self.store.counts();
        self.progress.show(under.at.as_ref(), self.store.bytes(), bases, segments);
    }

    /// What has come is on disk; the next run goes on there.
    async fn finish(&self, mut under: Under, result: Result<(), Error>) -> Result<(), Error> {
        let file = under.writer.as_mut().and_then(Writer::unsynced);
        let synced = match file {
            Some(file) if self.options.fsync != Fsync::No => blocking(move || file.sync()).await,
            _ => Ok(()),
        };
        if let Some(packing) = under.packing.take() {
            // Whoever opens the archive next must find nobody at it.
            packing.await.ok();
        }
        self.show(&under);
        result.and(synced)
    }
}

impl Under {
    fn new(replica: Replica) -> Self {
        let now = Instant::now();
        Under {
            replica,
            writer: None,
            at: None,
            first: None,
            copy: None,
            waiting: None,
            packing: None,
            rotate: false,
            next_copy: now,
            next_pack: now,
            synced: now,
            expired: now,
        }
    }

    fn server(&self) -> String {
        self.replica.server().map_or_else(String::new, ToString::to_string)
    }

    fn forget_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            copy.abort();
        }
        self.waiting = None;
    }
}

fn base(written: &Written, position: &Position, taken: u64, server: String) -> Base {
    Base {
        file: String::new(),
        bytes: written.bytes,
        keys: written.keys,
        functions: written.functions,
        digest: written.digest.clone(),
        replication_id: position.id.to_string(),
        offset: position.offset,
        taken,
        server,
    }
}

/// Returns so long after the stop.
async fn stopped_for(stop: &CancellationToken, time: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(time).await;
}

/// The directory of a shard's archive.
pub(super) fn shard_dir(dir: &Path, slots: &str) -> std::path::PathBuf {
    let first: String = slots.chars().take_while(char::is_ascii_digit).collect();
    dir.join(format!("shard-{first}"))
}
