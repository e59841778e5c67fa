//! Reading the source: as fast as it sends, whatever the target does.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use keyferry_replication::{Event, LinkOptions, Locate, Position, Replica};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    journal::{Journal, blocking},
    progress::{Meter, Phase},
    resume::Plan,
    snapshot_spool::{SnapshotReader, SnapshotWriter, snapshot_spool, whole_snapshot},
    spool::{Closed, Spool, SpoolReader},
};

/// How often the source is told what has been applied.
const ACK_UPDATE: Duration = Duration::from_millis(200);

/// How often it is looked whether the source can be read again.
const HELD_UP: Duration = Duration::from_millis(20);

/// How often a full disk is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// The task that reads the source, and what comes out of it.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Ends when nothing more is read.
    task: Option<JoinHandle<Result<(), Error>>>,
    started: oneshot::Receiver<Started>,
    stop: CancellationToken,
}

/// What a link begins with.
#[derive(Debug)]
pub(crate) enum Started {
    /// A snapshot, and the stream after it.
    Snapshot {
        /// What it stands for.
        position: Position,
        /// What ends at or before this byte of it is on the target.
        skip: u64,
        /// The target holds something of an earlier one, and perhaps keys that are no more.
        again: bool,
        /// It may be growing.
        snapshot: SnapshotReader,
        reader: SpoolReader,
    },
    /// The stream after a position.
    Stream { position: Position, reader: SpoolReader },
}

/// How the source is read.
pub(crate) struct IntakeOptions {
    pub(crate) link: LinkOptions,
    /// How long a lost link is tried again.
    pub(crate) reconnect_window: Duration,
    /// How long a full disk is waited for.
    pub(crate) disk_window: Duration,
}

impl Intake {
    pub(crate) fn start(
        source: impl Locate + 'static,
        options: IntakeOptions,
        plan: Plan,
        journal: &Journal,
        meter: Meter,
        stop: CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let (begin, started) = oneshot::channel();
        let psync = plan.psync().cloned();
        let mut worker = Worker {
            replica: Replica::following(source, options.link, options.reconnect_window, psync),
            journal: journal.clone(),
            plan,
            snapshot: None,
            begin: Some(begin),
            spool: None,
            position: None,
            again: false,
            meter,
            disk_window: options.disk_window,
            disk: None,
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let result = worker.run(stopped).await;
            worker.meter.note_end();
            worker.finish(result).await
        });
        Intake { task: Some(task), started, stop }
    }

    /// What the link begins with, when the source has agreed. `None` when it never will: [`Intake::ended`] tells why.
    pub(crate) async fn started(&mut self) -> Option<Started> {
        (&mut self.started).await.ok()
    }

    /// Waits until nothing more is read, and tells what was in the way of it, if anything was.
    pub(crate) async fn ended(&mut self) -> Result<(), Error> {
        match self.task.take() {
            Some(task) => task.await.unwrap_or_else(|e| {
                Err(Error::Internal(format!("the task that reads the source ended: {e}")))
            }),
            None => Ok(()),
        }
    }

    /// Stops reading, and waits until nobody is at the journal any more.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        // It is of no more interest how: what ended the run is known.
        self.ended().await.ok();
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a source may have written since its snapshot and still count as idle. Its output buffer for a replica, which
/// holds that while the snapshot is not read, ends the link at 64 MiB by default.
const IDLE_BYTES: u64 = 1 << 20;

/// How long a stop waits for the end of a transaction.
const TRANSACTION_GRACE: Duration = Duration::from_secs(3);

/// Returns so long after the stop.
async fn stopped_for(stop: &CancellationToken, time: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(time).await;
}

/// True while not reading costs the source nothing: it knows of nothing to tell.
fn is_idle(meter: &Meter, snapshot_offset: u64) -> bool {
    meter.source_offset().is_some_and(|offset| offset.saturating_sub(snapshot_offset) < IDLE_BYTES)
}

struct Worker {
    replica: Replica,
    journal: Journal,
    plan: Plan,
    /// While a snapshot is coming.
    snapshot: Option<SnapshotWriter>,
    begin: Option<oneshot::Sender<Started>>,
    spool: Option<Spool>,
    /// What the snapshot stands for.
    position: Option<Position>,
    /// It comes over an earlier one.
    again: bool,
    meter: Meter,
    disk_window: Duration,
    /// The journal's disk is full.
    disk: Option<FullDisk>,
}

struct FullDisk {
    since: Instant,
    tried: Instant,
    /// The snapshot's end has come, but not all of it is on disk.
    snapshot_ends: bool,
}

impl Worker {
    async fn run(&mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(ACK_UPDATE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let in_transaction = self.replica.position().is_some_and(|position| position.in_transaction);
            let held_up = self.disk.is_some() || self.spool.as_ref().is_some_and(Spool::is_full);
            self.meter.held_up.store(held_up, Ordering::Relaxed);
            // Waiting may be interrupted; what is done with an event may not, or bytes would be lost half-way.
            let event = tokio::select! {
                biased;
                () = stop.cancelled(), if !in_transaction => return Ok(()),
                // The rest of a transaction is on its way already; if it does not come, it is not worth waiting for.
                () = stopped_for(&stop, TRANSACTION_GRACE), if in_transaction => return Ok(()),
                // Before the source, which may have something to say all the time.
                _ = ticks.tick() => {
                    self.tick().await?;
                    continue;
                }
                () = tokio::time::sleep(HELD_UP), if held_up => continue,
                event = self.replica.next(), if !held_up => event?,
            };
            let done = self.event(event).await;
            self.unless_full(done)?;
        }
    }

    async fn tick(&mut self) -> Result<(), Error> {
        self.replica.applied(self.meter.applied_offset.load(Ordering::Relaxed));
        if self.disk.as_ref().is_some_and(|disk| disk.tried.elapsed() >= DISK_RETRY) {
            let done = self.retry().await;
            self.unless_full(done)?;
        } else if self.disk.is_none()
            && let Some(snapshot) = &mut self.snapshot
        {
            // A trickle of snapshot bytes must not wait for a full piece.
            let done = snapshot.flush().await;
            self.unless_full(done)?;
        }
        if let Some(spool) = &mut self.spool {
            let done = spool.tick().await;
            self.unless_full(done)?;
        }
        Ok(())
    }

    /// A full disk is waited for, some time; the source is not read meanwhile.
    fn unless_full(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = result else { return Ok(()) };
        let now = Instant::now();
        let disk = self.disk.get_or_insert(FullDisk { since: now, tried: now, snapshot_ends: false });
        if !error.is_disk_full() || disk.since.elapsed() >= self.disk_window {
            return Err(error);
        }
        disk.tried = now;
        self.meter.note_trouble(Some(format!("{}; waiting for room", error.to_line())));
        Ok(())
    }

    /// Tries again what a full disk was in the way of.
    async fn retry(&mut self) -> Result<(), Error> {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.flush().await?;
        }
        if let Some(spool) = &mut self.spool {
            spool.retry().await?;
            spool.tick().await?;
        }
        if self.disk.as_ref().is_some_and(|disk| disk.snapshot_ends) {
            self.snapshot_is_complete().await?;
        }
        self.disk = None;
        self.meter.note_trouble(None);
        Ok(())
    }

    async fn event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::FullSync { id, offset } => self.full_sync(Position::after_snapshot(id, offset)).await?,
            Event::Snapshot(bytes) => {
                if self.meter.snapshot_received.load(Ordering::Relaxed) == 0 {
                    self.meter.enter(Phase::Snapshot);
                    if let Some(keyferry_replication::snapshot::Transfer::Length(total)) =
                        self.replica.transfer()
                    {
                        self.meter.snapshot_total.store(total, Ordering::Relaxed);
                    }
                }
                self.meter.snapshot_received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let (meter, offset) =
                    (&self.meter, self.position.as_ref().map_or(0, |position| position.offset));
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.push(bytes, || is_idle(meter, offset)).await?;
                }
            }
            Event::SnapshotEnd { bytes } => {
                self.meter.snapshot_total.store(bytes, Ordering::Relaxed);
                self.meter.note_write();
                self.snapshot_is_complete().await?;
            }
            Event::Commands(batch) => {
                if batch.commands > 0 {
                    self.meter.note_write();
                }
                if let Some(spool) = &mut self.spool {
                    spool.push(batch).await?;
                }
            }
            Event::Lost { error, .. } => {
                self.meter.reconnects.fetch_add(1, Ordering::Relaxed);
                self.meter.count_error("source_link");
                self.meter.note_unheard();
                self.meter.note_trouble(Some(Error::Source(error).to_line()));
            }
            Event::Resumed { position } => {
                // After a failover the same offsets go on under another id.
                self.meter.set_history(position.id);
                self.meter.note_write();
                self.meter.note_trouble(None);
                if self.begin.is_some() {
                    self.resumed(position).await?;
                } else if let Some(spool) = &mut self.spool {
                    spool.set_id(position.id);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The source sends everything from the start.
    async fn full_sync(&mut self, position: Position) -> Result<(), Error> {
        let Some(begin) = self.begin.take() else {
            let had = self.replica.previous().cloned().unwrap_or_else(|| position.clone());
            return Err(Error::HistoryLost { had: Box::new(had), now: Box::new(position) });
        };
        // Also when it was asked to go on where the target stands.
        let again = !matches!(self.plan, Plan::Full { again: false });
        self.again = again;
        let journal = self.journal.clone();
        let file = blocking(move || {
            journal.clear()?;
            journal.begin_base()
        });
        let (writer, snapshot) = snapshot_spool(file.await?, self.journal.settings().named);
        self.snapshot = Some(writer);
        let reader = self.stream(&position, &position)?;
        self.position = Some(position.clone());
        // Without somebody who waits for it the run is over anyway.
        begin.send(Started::Snapshot { position, skip: 0, again, snapshot, reader }).ok();
        Ok(())
    }

    /// The source goes on with the stream where it was asked to.
    async fn resumed(&mut self, now: Position) -> Result<(), Error> {
        let Some(begin) = self.begin.take() else { return Ok(()) };
        let started = match self.plan.clone() {
            Plan::Snapshot { position, skip, psync, again } => {
                let journal = self.journal.clone();
                let Some(file) = blocking(move || journal.open_base()).await? else {
                    return Err(Error::Internal("the snapshot in the journal is no more".into()));
                };
                self.meter.enter(Phase::Snapshot);
                for of in [&self.meter.snapshot_received, &self.meter.snapshot_total] {
                    of.store(file.len(), Ordering::Relaxed);
                }
                self.meter.snapshot_applied.store(skip, Ordering::Relaxed);
                self.meter.snapshot_complete.store(true, Ordering::Relaxed);
                let reader = self.stream(&position, &Position { id: now.id, ..psync })?;
                let snapshot = whole_snapshot(file);
                Started::Snapshot { position, skip, again, snapshot, reader }
            }
            Plan::Stream { from, psync } => {
                if self.journal.end().is_some_and(|end| end != psync.offset) {
                    // Left behind by the stream; what comes now does not join it.
                    let journal = self.journal.clone();
                    blocking(move || journal.clear()).await?;
                }
                self.meter.applied_offset.fetch_max(from.offset, Ordering::Relaxed);
                let reader = self.stream(&from, &Position { id: now.id, ..psync })?;
                Started::Stream { position: from, reader }
            }
            Plan::Full { .. } => {
                return Err(Error::Internal("the source goes on with what it was not asked for".into()));
            }
        };
        begin.send(started).ok();
        Ok(())
    }

    /// The reading end of the stream after `from`, of which the journal holds what comes before `to`.
    fn stream(&mut self, from: &Position, to: &Position) -> Result<SpoolReader, Error> {
        self.meter.set_history(to.id);
        self.meter.received_offset.store(to.offset, Ordering::Relaxed);
        let (spool, reader) = Spool::new(&self.journal, from, to, self.meter.clone())?;
        self.spool = Some(spool);
        Ok(reader)
    }

    async fn snapshot_is_complete(&mut self) -> Result<(), Error> {
        let (Some(snapshot), Some(position)) = (&mut self.snapshot, &self.position) else { return Ok(()) };
        let done = async {
            snapshot.flush().await?;
            if self.journal.settings().named {
                let (journal, file, position) =
                    (self.journal.clone(), snapshot.file().clone(), position.clone());
                let again = self.again;
                blocking(move || journal.complete_base(&file, &position, again)).await?;
            }
            snapshot.complete().await
        };
        if let Err(error) = done.await {
            let now = Instant::now();
            self.disk
                .get_or_insert(FullDisk { since: now, tried: now, snapshot_ends: false })
                .snapshot_ends = true;
            return Err(error);
        }
        self.meter.snapshot_complete.store(true, Ordering::Relaxed);
        self.snapshot = None;
        Ok(())
    }

    /// The reading ends give out what there is, and then say how it ended; the error itself is the task's result.
    async fn finish(mut self, result: Result<(), Error>) -> Result<(), Error> {
        let mut result = result;
        if let Some(snapshot) = &mut self.snapshot {
            let flushed = snapshot.flush().await;
            result = result.and(flushed);
            snapshot.end();
        }
        if let Some(spool) = self.spool {
            let closed = spool.close(if result.is_ok() { Closed::Stopped } else { Closed::Failed }).await;
            // A full disk at the end costs what it has cost all the time.
            result = result.and(closed.or_else(|e| if e.is_disk_full() { Ok(()) } else { Err(e) }));
        }
        result
    }
}
