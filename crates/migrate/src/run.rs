//! Running a migration: who does what, and in which order it ends.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::BytesMut;
use keyferry_client::Connection;
use keyferry_resp::encode_command;
use tokio::sync::mpsc;

use crate::{
    catch_up::CatchUp,
    error::Error,
    intake::{Intake, Started},
    journal::{Journal, JournalRoot, blocking},
    migration::Migration,
    pipeline::{Load, Origin, Pipeline},
    progress::Phase,
    report::{Ends, Outcome},
    resume::{Applied, Plan},
    sharded::AGAIN,
    snapshot::{SnapshotEncoder, Temporary},
    snapshot_spool::SnapshotReader,
    snapshot_thread::SnapshotThread,
    spool::{Closed, Next, SpoolReader},
    target::Abilities,
    throttle::{self, Stage, Throttle},
};

/// How long a stop waits for the target to take what has been read already.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(30);

/// Connections to both sides.
pub(crate) struct Connected {
    pub(crate) target: Connection,
    /// For questions beside the replication link; none where the source does not answer them.
    pub(crate) source: Option<Connection>,
}

/// Runs to the end, and cleans up after itself.
pub(crate) async fn run(
    migration: &Migration,
    connected: Connected,
    root: JournalRoot,
    ends: &mut Ends,
) -> Result<Outcome, Error> {
    let at = root.clone();
    let (journal, kept) = blocking(move || at.link(None)).await?;
    ends.notes.extend(kept.notes.iter().cloned());
    let plan = Plan::of(&kept, &Applied::Nothing);
    let Connected { target, source } = connected;
    let meter = &migration.meter;
    let connection_id = target.server().connection_id;
    let encoder = SnapshotEncoder::new(
        Abilities::of(target.server()),
        target.address().to_string(),
        migration.options.value_limit,
    )
    .losing(migration.options.on_loss);
    let mut run = Run {
        migration,
        pipeline: Pipeline::new(target, migration.options.target_silence, meter.clone()),
        encoder: Some(encoder),
        intake: None,
        reader: None,
    };
    let result = run.execute(&journal, plan, source, ends).await;
    let everything_applied = match &result {
        Ok(Outcome::CaughtUp { .. }) => true,
        Ok(Outcome::Stopped { everything_applied }) => *everything_applied,
        _ => false,
    };
    if let Some(intake) = run.intake.take() {
        intake.stop().await;
    }
    // Closes the connection: what is behind it is not to run on while it is cleaned up.
    drop(run.pipeline);
    if let Some(encoder) = &run.encoder {
        ends.counts = encoder.counts().clone();
        let half_built = encoder.half_built(meter.snapshot_applied.load(Ordering::Relaxed));
        if !half_built.is_empty() {
            remove_temporaries(migration, connection_id, &half_built, ends).await;
        }
    }
    let (left, reader) = (journal.clone(), run.reader);
    let kept = match everything_applied {
        true => blocking(move || left.remove().map(|()| false)).await?,
        false => {
            let applied = meter.is_past_snapshot();
            blocking(move || left.keep(reader, applied)).await?
        }
    };
    ends.journal = kept.then(|| root.path().display().to_string());
    if kept {
        root.leave();
    }
    result
}

struct Run<'m> {
    migration: &'m Migration,
    pipeline: Pipeline,
    /// Away while its thread uses it.
    encoder: Option<SnapshotEncoder>,
    intake: Option<Intake>,
    /// What is left in it when the run ends early is kept.
    reader: Option<SpoolReader>,
}

impl Run<'_> {
    async fn execute(
        &mut self,
        journal: &Journal,
        plan: Plan,
        source: Option<Connection>,
        ends: &mut Ends,
    ) -> Result<Outcome, Error> {
        let Migration { options, meter, stop, .. } = self.migration;
        let Some(source_endpoint) = self.migration.source.servers() else {
            return Err(Error::Internal("files are not followed".into()));
        };
        let from = source_endpoint.options();
        meter.enter(Phase::Preparing);
        // Ends the intake: cancelled when the run is stopped, or when it is done.
        let end = stop.child_token();
        let intake = self.intake.insert(Intake::start(
            from.clone(),
            options.intake(),
            plan,
            journal,
            meter.clone(),
            end.clone(),
        ));
        let _end = end.clone().drop_guard();

        // Where the stream begins; an error of the link before that ends the run.
        let started = tokio::select! {
            started = intake.started() => started,
            error = self.pipeline.failed() => return Err(error),
        };
        let Some(started) = started else { return intake_ended(&mut self.intake).await };
        let catch_up = CatchUp::new(options.until.clone(), meter.clone(), source, from.clone().with_db(0));
        let mut catch_up = std::pin::pin!(catch_up.wait());
        let position = match started {
            Started::Snapshot { position, skip, again, snapshot, reader } => {
                self.reader = Some(reader);
                if again {
                    ends.note(AGAIN);
                }
                let complete = tokio::select! {
                    complete = self.apply_snapshot(snapshot, skip) => complete?,
                    // Never done before the snapshot is.
                    _ = &mut catch_up => return Err(Error::Internal("caught up without a snapshot".into())),
                };
                if !complete {
                    return intake_ended(&mut self.intake).await;
                }
                position
            }
            Started::Stream { position, reader } => {
                self.reader = Some(reader);
                self.select(position.db.unwrap_or(0)).await?;
                position
            }
        };
        meter.applied_offset.fetch_max(position.offset, Ordering::Relaxed);
        let applied = journal.clone();
        blocking(move || applied.snapshot_applied()).await?;
        meter.enter(Phase::CatchingUp);

        let Some(reader) = self.reader.as_mut() else { return Err(Error::Internal("no reader".into())) };
        let mut apply = std::pin::pin!(apply_stream(&mut self.pipeline, &self.migration.throttle, reader));
        let (closed, caught_up) = tokio::select! {
            closed = &mut apply => (Some(closed?), None),
            source_was_writing = &mut catch_up => {
                end.cancel();
                (Some(apply.await?), Some(source_was_writing))
            }
            () = stop.cancelled() => (tokio::time::timeout(STOP_GRACE, apply).await.ok().transpose()?, None),
        };
        match (closed, caught_up) {
            (None, _) => Ok(Outcome::Stopped { everything_applied: false }),
            (Some(Closed::Failed), _) => intake_ended(&mut self.intake).await,
            (Some(Closed::Stopped), Some(source_was_writing)) => Ok(Outcome::CaughtUp { source_was_writing }),
            // A transaction that was cut short is gone with the connection.
            (Some(Closed::Stopped), None) => {
                let applied = meter.applied_offset.load(Ordering::Relaxed);
                let everything_applied = applied >= meter.received_offset.load(Ordering::Relaxed);
                Ok(Outcome::Stopped { everything_applied })
            }
        }
    }

    /// Applies the snapshot as it comes, and waits until the target has confirmed it. False when it will never be
    /// complete, or when the run is stopped.
    async fn apply_snapshot(&mut self, snapshot: SnapshotReader, skip: u64) -> Result<bool, Error> {
        let Some(mut encoder) = self.encoder.take() else { return Err(Error::Internal("no encoder".into())) };
        encoder.skip_to(skip);
        // Encoding keeps a core busy: it has a thread of its own, two loads ahead of the socket.
        let (loads, mut waiting) = mpsc::channel::<Load>(2);
        let abandon = self.migration.stop.child_token();
        let thread = SnapshotThread::new(snapshot, loads, self.migration.meter.clone(), abandon.clone());
        let work = tokio::spawn(blocking(move || {
            let result = thread.encode(&mut encoder);
            Ok((encoder, result))
        }));
        let sent = tokio::select! {
            sent = send_all(&mut self.pipeline, &self.migration.throttle, &mut waiting) => sent,
            // A target that takes nothing must not hold up the end.
            () = abandon.cancelled() => Ok(()),
        };
        // Wakes the thread, should it wait for room or for bytes.
        drop(waiting);
        if sent.is_err() {
            abandon.cancel();
        }
        let (encoder, result) = work
            .await
            .map_err(|e| Error::Internal(format!("the thread that reads the snapshot ended: {e}")))??;
        let stream_db = encoder.counts().stream_db;
        self.encoder = Some(encoder);
        sent?;
        if !result? || abandon.is_cancelled() {
            return Ok(false);
        }
        tokio::select! {
            done = self.select(stream_db) => done.map(|()| true),
            () = abandon.cancelled() => Ok(false),
        }
    }

    /// The stream goes on in this database until it selects another. A primary selects one before anything else; a
    /// replica hands on what it gets.
    async fn select(&mut self, db: u64) -> Result<(), Error> {
        let mut select = BytesMut::new();
        encode_command(&mut select, ["SELECT", &db.to_string()]);
        let origin = Origin::Snapshot { keys: 0, end: 0 };
        self.pipeline.send(Load { bytes: select.freeze(), commands: 1, origin, pieces: Vec::new() }).await?;
        self.pipeline.drain().await
    }
}

/// How reading the source ended.
pub(crate) async fn intake_ended(intake: &mut Option<Intake>) -> Result<Outcome, Error> {
    if let Some(intake) = intake {
        intake.ended().await?;
    }
    Ok(Outcome::Stopped { everything_applied: false })
}

async fn send_all(
    pipeline: &mut Pipeline,
    throttle: &Throttle,
    loads: &mut mpsc::Receiver<Load>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            load = loads.recv() => match load {
                Some(load) => {
                    throttled(pipeline, throttle, &load).await?;
                    pipeline.send(load).await?;
                }
                None => return Ok(()),
            },
            error = pipeline.failed() => return Err(error),
        }
    }
}

/// Waits until a load may be handed over. Loads are not divided here: a run with limits from the beginning looks into commands.
async fn throttled(pipeline: &Pipeline, throttle: &Throttle, load: &Load) -> Result<(), Error> {
    let (stage, keys) = match load.origin {
        Origin::Snapshot { keys, .. } => (Stage::Full, keys),
        Origin::Stream { .. } => (Stage::Incremental, 0),
    };
    let taken = throttle::Load { bytes: load.bytes.len() as u64, keys, commands: u64::from(load.commands) };
    tokio::select! {
        () = throttle.take(stage, Some(0), taken) => Ok(()),
        error = pipeline.failed() => Err(error),
    }
}

/// Forwards commands until the spool is closed and empty and every command has been answered.
async fn apply_stream(
    pipeline: &mut Pipeline,
    throttle: &Throttle,
    reader: &mut SpoolReader,
) -> Result<Closed, Error> {
    loop {
        let next = tokio::select! {
            next = reader.next() => next?,
            error = pipeline.failed() => return Err(error),
        };
        match next {
            Next::Batch { batch, .. } => {
                let origin = Origin::Stream {
                    start: batch.start,
                    end: batch.end,
                    db: batch.db,
                    in_transaction: batch.in_transaction,
                };
                let load = Load { bytes: batch.bytes, commands: batch.commands, origin, pieces: Vec::new() };
                throttled(pipeline, throttle, &load).await?;
                pipeline.send(load).await?;
            }
            Next::End(closed) => {
                pipeline.drain().await?;
                return Ok(closed);
            }
        }
    }
}

/// Removes half-built keys of a run that ended early, over a connection of its own.
async fn remove_temporaries(
    migration: &Migration,
    connection_id: Option<i64>,
    temporaries: &[Temporary],
    ends: &mut Ends,
) {
    let removed = async {
        let mut connection = Connection::connect(&migration.target.options().clone().with_db(0)).await?;
        // The target may still have commands of the closed connection before it: they must not build the key again.
        if let Some(id) = connection_id {
            let id = id.to_string();
            connection.call_frame(["CLIENT", "KILL", "ID", &id]).await?;
        }
        for temporary in temporaries {
            connection.call(["SELECT", &temporary.db.to_string()]).await?;
            connection.call([b"DEL", &temporary.key[..]]).await?;
        }
        Ok::<(), keyferry_client::Error>(())
    };
    if let Err(e) = removed.await {
        for Temporary { db, key, .. } in temporaries {
            ends.notes.push(format!(
                "the half-built key {} in database {db} of the target could not be removed ({e}): delete it, or \
                 migrate again, which replaces it",
                key.escape_ascii()
            ));
        }
    }
}
