//! Reading the source: as fast as it sends, whatever the target does.

use std::{sync::atomic::Ordering, time::Duration};

use keyferry_replication::{Event, LinkOptions, Locate, Position, Replica};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    journal::Journal,
    progress::{Meter, Phase},
    snapshot_spool::{SnapshotReader, SnapshotWriter, snapshot_spool},
    spool::{Closed, Spool, SpoolReader},
};

/// How often the source is told what has been applied.
const ACK_UPDATE: Duration = Duration::from_millis(200);

/// The task that reads the source, and what comes out of it.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Ends when nothing more is read.
    pub(crate) task: JoinHandle<Result<(), Error>>,
    /// The snapshot, growing.
    pub(crate) snapshot: SnapshotReader,
    /// Where the stream begins, and its reading end; comes when the source has agreed to a full sync.
    pub(crate) started: oneshot::Receiver<(Position, SpoolReader)>,
}

impl Intake {
    pub(crate) fn start(
        source: impl Locate + 'static,
        link: LinkOptions,
        reconnect_window: Duration,
        journal: &Journal,
        meter: Meter,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let (writer, snapshot) = snapshot_spool(journal.base()?, journal.is_named());
        let (begin, started) = oneshot::channel();
        let mut worker = Worker {
            replica: Replica::following(source, link, reconnect_window, None),
            journal: journal.handle(),
            snapshot: writer,
            begin: Some(begin),
            spool: None,
            offset: 0,
            meter,
        };
        let task = tokio::spawn(async move {
            let result = worker.run(stop).await;
            worker.finish(result).await
        });
        Ok(Intake { task, snapshot, started })
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
    snapshot: SnapshotWriter,
    begin: Option<oneshot::Sender<(Position, SpoolReader)>>,
    spool: Option<Spool>,
    /// The offset that the snapshot stands for.
    offset: u64,
    meter: Meter,
}

impl Worker {
    async fn run(&mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(ACK_UPDATE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let in_transaction = self.replica.position().is_some_and(|position| position.in_transaction);
            // Waiting may be interrupted; what is done with an event may not, or bytes would be lost half-way.
            let event = tokio::select! {
                biased;
                () = stop.cancelled(), if !in_transaction => return Ok(()),
                // The rest of a transaction is on its way already; if it does not come, it is not worth waiting for.
                () = stopped_for(&stop, TRANSACTION_GRACE), if in_transaction => return Ok(()),
                // Before the source, which may have something to say all the time.
                _ = ticks.tick() => {
                    self.replica.applied(self.meter.applied_offset.load(Ordering::Relaxed));
                    // A trickle of snapshot bytes must not wait for a full piece.
                    self.snapshot.flush().await?;
                    continue;
                }
                event = self.replica.next() => event?,
            };
            self.event(event).await?;
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::FullSync { id, offset } => {
                let position = Position::after_snapshot(id, offset);
                let Some(begin) = self.begin.take() else {
                    let had = self.replica.previous().cloned().unwrap_or_else(|| position.clone());
                    return Err(Error::HistoryLost { had: Box::new(had), now: Box::new(position) });
                };
                self.offset = offset;
                self.meter.set_history(id);
                self.meter.received_offset.store(offset, Ordering::Relaxed);
                let (spool, reader) = Spool::new(&self.journal, &position, self.meter.clone())?;
                self.spool = Some(spool);
                // Without somebody who waits for it the run is over anyway.
                begin.send((position, reader)).ok();
            }
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
                let (meter, offset) = (&self.meter, self.offset);
                self.snapshot.push(bytes, || is_idle(meter, offset)).await?;
            }
            Event::SnapshotEnd { bytes } => {
                self.meter.snapshot_total.store(bytes, Ordering::Relaxed);
                self.snapshot.complete().await?;
                self.meter.snapshot_complete.store(true, Ordering::Relaxed);
            }
            Event::Commands(batch) => {
                self.meter.received_offset.store(batch.end, Ordering::Relaxed);
                if batch.commands > 0 {
                    self.meter.note_write();
                }
                if let Some(spool) = &mut self.spool {
                    spool.push(batch).await?;
                }
            }
            Event::Lost { error, .. } => {
                self.meter.reconnects.fetch_add(1, Ordering::Relaxed);
                self.meter.note_trouble(Some(Error::Source(error).to_line()));
            }
            Event::Resumed { position } => {
                // After a failover the same offsets go on under another id.
                self.meter.set_history(position.id);
                if let Some(spool) = &mut self.spool {
                    spool.set_id(position.id);
                }
                self.meter.note_trouble(None);
            }
            _ => {}
        }
        Ok(())
    }

    /// The reading ends give out what there is, and then say how it ended; the error itself is the task's result.
    async fn finish(mut self, result: Result<(), Error>) -> Result<(), Error> {
        let result = match result {
            Ok(()) => self.snapshot.flush().await,
            failed => failed,
        };
        self.snapshot.end();
        if let Some(spool) = self.spool {
            spool.close(if result.is_ok() { Closed::Stopped } else { Closed::Failed });
        }
        result
    }
}
