//! One link to the source at work: its snapshot, then its stream, into the target.

use std::sync::{Arc, atomic::Ordering};

use keyferry_replication::{Locator, Position};
use keyferry_routing::SlotSet;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    SnapshotFeed, StreamFeed, Target,
    flush::Owned,
    mirror::{Due, Rest},
};
use crate::{
    error::Error,
    existing::{Existing, Handed, Treatment},
    intake::{Intake, Started},
    journal::{Journal, JournalRoot, blocking},
    key_set::KeyCollector,
    options::{Mirror, Options},
    pipeline::Load,
    progress::{Meter, Phase},
    resume,
    run::intake_ended,
    snapshot::{SnapshotEncoder, Temporary},
    snapshot_counts::SnapshotCounts,
    snapshot_thread::SnapshotThread,
    spool::{Closed, Next, SpoolReader},
};

/// One link at work.
pub(super) struct LinkRun {
    pub(super) number: u16,
    pub(super) stream: Locator,
    pub(super) slots: Option<SlotSet>,
    pub(super) meter: Meter,
    pub(super) options: Options,
    pub(super) target: Arc<Target>,
    pub(super) stop: CancellationToken,
    /// Ends the intake.
    pub(super) end: CancellationToken,
    /// Away while its thread uses it.
    pub(super) encoder: Option<SnapshotEncoder>,
    pub(super) intake: Option<Intake>,
    pub(super) reader: Option<SpoolReader>,
    /// It goes on from here in the stream.
    pub(super) resume: Option<Position>,
    pub(super) again: bool,
    pub(super) root: JournalRoot,
    /// What was at the target before, where that matters.
    pub(super) existing: Arc<Existing>,
    /// A snapshot may hold a key twice.
    pub(super) repeats: bool,
}

/// How a link ended.
pub(super) struct LinkEnd {
    pub(super) number: u16,
    /// A snapshot has come over another one.
    pub(super) again: bool,
    pub(super) result: Result<Closed, Error>,
    pub(super) counts: SnapshotCounts,
    /// Everything received has been applied.
    pub(super) applied: bool,
    pub(super) temporaries: Vec<Temporary>,
    /// The rest is in the journal.
    pub(super) kept: bool,
}

impl LinkRun {
    pub(super) async fn run(mut self, journal: Journal, plan: resume::Plan) -> LinkEnd {
        let result = self.execute(&journal, plan).await;
        if let Some(intake) = self.intake.take() {
            intake.stop().await;
        }
        let received = self.meter.received_offset.load(Ordering::Relaxed);
        let applied = matches!(result, Ok(Closed::Stopped))
            && self.meter.is_past_snapshot()
            && self.meter.applied_offset.load(Ordering::Relaxed) >= received;
        let mut end = LinkEnd {
            number: self.number,
            again: self.again,
            result,
            counts: SnapshotCounts::default(),
            applied,
            temporaries: Vec::new(),
            kept: false,
        };
        if let Some(encoder) = &self.encoder {
            end.counts = encoder.counts().clone();
            end.temporaries = encoder.half_built(self.meter.snapshot_applied.load(Ordering::Relaxed));
        }
        let (reader, snapshot_applied) = (self.reader, self.meter.is_past_snapshot());
        let kept = blocking(move || match applied {
            true => journal.remove().map(|()| false),
            false => journal.keep(reader, snapshot_applied),
        });
        match kept.await {
            Ok(kept) => end.kept = kept,
            Err(error) if end.result.is_ok() => end.result = Err(error),
            Err(_) => {}
        }
        end
    }

    async fn execute(&mut self, journal: &Journal, plan: resume::Plan) -> Result<Closed, Error> {
        let intake = self.intake.insert(Intake::start(
            self.stream.clone(),
            self.options.intake(),
            plan,
            journal,
            self.meter.clone(),
            self.end.clone(),
        ));
        let started = tokio::select! {
            started = intake.started() => started,
            error = self.target.failed() => return Err(error),
        };
        let Some(started) = started else { return ended(&mut self.intake).await };
        let (position, db) = match started {
            Started::Snapshot { position, skip, again, snapshot, reader } => {
                self.again = again;
                if let Some(had) = self.resume.take() {
                    return Err(Error::HistoryLost { had: Box::new(had), now: Box::new(position) });
                }
                self.reader = Some(reader);
                let due = Due::of(self.root.path(), self.number);
                let mirrors = self.options.mirror != Mirror::Off && (again || due.is_set());
                if mirrors {
                    due.set()?;
                    let keys = KeyCollector::new(self.root.path());
                    if let Some(encoder) = &mut self.encoder {
                        encoder.record(keys, self.target.databases());
                    }
                }
                let handed = self.existing.handed(self.root.path(), self.number, again);
                if let Some(encoder) = &mut self.encoder {
                    let mut treatment = Treatment::new(&self.existing, self.target.databases());
                    treatment.guard(handed.as_ref().map_or(0, Handed::up_to), self.repeats);
                    encoder.treat(treatment);
                }
                self.target.begin_snapshot(self.number, &position, skip).await?;
                if !self.apply_snapshot(snapshot, skip, handed).await? {
                    return ended(&mut self.intake).await;
                }
                if mirrors {
                    self.remove_rest().await?;
                    due.clear()?;
                }
                let db = self.encoder.as_ref().map_or(0, |encoder| encoder.counts().stream_db);
                self.target.begin_stream(self.number, position.offset, db).await?;
                (position, db)
            }
            Started::Stream { position, reader } => {
                self.reader = Some(reader);
                let db = position.db.unwrap_or(0);
                (position, db)
            }
        };
        self.meter.applied_offset.fetch_max(position.offset, Ordering::Relaxed);
        let applied = journal.clone();
        blocking(move || applied.snapshot_applied()).await?;
        self.meter.enter(Phase::CatchingUp);

        let Some(reader) = self.reader.as_mut() else { return Err(Error::Internal("no reader".into())) };
        let mut feed = StreamFeed::new(
            Arc::clone(&self.target),
            self.number,
            db,
            self.slots.is_some(),
            self.meter.clone(),
        );
        loop {
            let next = tokio::select! {
                next = reader.next() => next?,
                error = self.target.failed() => return Err(error),
            };
            match next {
                Next::Batch { batch, received } => feed.batch(batch, received).await?,
                Next::End(Closed::Failed) => return ended(&mut self.intake).await,
                Next::End(closed) => {
                    self.target.settled(self.number).await?;
                    return Ok(closed);
                }
            }
        }
    }

    /// Removes from the target what the snapshot that has been applied does not have.
    async fn remove_rest(&mut self) -> Result<(), Error> {
        let keys = self.encoder.as_mut().and_then(SnapshotEncoder::take_record);
        let Some(keys) = keys else { return Err(Error::Internal("no record of keys".into())) };
        let keys = Arc::new(blocking(move || keys.finish()).await?);
        let slots = self.target.core().owned_by(self.number).cloned();
        let (policy, foreign) = (self.options.mirror, self.existing.foreign().clone());
        let owned = |filter| Owned { filter: Arc::clone(filter), db: None };
        let filter = self.target.filter().map(|filter| (owned(filter), self.target.databases().clone()));
        Rest { policy, keys, foreign, slots, filter }.remove(&self.target).await
    }

    /// Applies the snapshot as it comes, and waits until it is done. False when it will never be complete, or when the run
    /// is stopped.
    async fn apply_snapshot(
        &mut self,
        snapshot: crate::snapshot_spool::SnapshotReader,
        skip: u64,
        handed: Option<Handed>,
    ) -> Result<bool, Error> {
        let Some(mut encoder) = self.encoder.take() else { return Err(Error::Internal("no encoder".into())) };
        encoder.skip_to(skip);
        let (loads, mut waiting) = mpsc::channel::<Load>(2);
        let abandon = self.stop.child_token();
        let thread = SnapshotThread::new(snapshot, loads, self.meter.clone(), abandon.clone());
        let work = tokio::spawn(blocking(move || {
            let result = thread.encode(&mut encoder);
            Ok((encoder, result))
        }));
        let mut feed = SnapshotFeed::new(Arc::clone(&self.target), self.number).guarded(handed);
        let fed = async {
            while let Some(load) = waiting.recv().await {
                feed.load(load).await?;
            }
            Ok::<(), Error>(())
        };
        let fed = tokio::select! {
            fed = fed => fed,
            error = self.target.failed() => Err(error),
            // A target that takes nothing must not hold up the end.
            () = abandon.cancelled() => Ok(()),
        };
        // Wakes the thread, should it wait for room or for bytes.
        drop(waiting);
        if fed.is_err() {
            abandon.cancel();
        }
        let (encoder, result) = work
            .await
            .map_err(|e| Error::Internal(format!("the thread that reads the snapshot ended: {e}")))??;
        self.encoder = Some(encoder);
        fed?;
        if !result? || abandon.is_cancelled() {
            return Ok(false);
        }
        tokio::select! {
            done = self.target.settled(self.number) => done.map(|()| true),
            () = abandon.cancelled() => Ok(false),
        }
    }
}

async fn ended(intake: &mut Option<Intake>) -> Result<Closed, Error> {
    intake_ended(intake).await.map(|_| Closed::Failed)
}
