//! Running a migration: who does what, and in which order it ends.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use keyferry_client::{ConnectOptions, Connection, Role};
use keyferry_replication::{AckPolicy, LinkOptions, ReplicationId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    catch_up::CatchUp,
    error::Error,
    intake::Intake,
    journal::{Journal, blocking},
    mover,
    pipeline::{Load, Origin, Pipeline},
    progress::{Meter, Phase, Progress},
    report::{Endpoint, Outcome, Report},
    snapshot::{Output, Pumped, SnapshotCounts, SnapshotEncoder},
    snapshot_spool::SnapshotReader,
    spool::{Closed, Next, SpoolReader},
    target::Abilities,
};

/// Snapshot bytes read from the journal at once.
const READ_SIZE: usize = 512 * 1024;

/// How long a stop waits for the target to take what has been read already.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// When a migration is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// When the target holds everything that the source holds.
    CaughtUp {
        /// The source must not have written for so long, so that both sides are equal at the end …
        quiet: Duration,
        /// … but while it goes on writing, wait for that no longer than this.
        linger: Duration,
    },
    /// When it is stopped.
    Forever,
}

impl Until {
    /// [`Until::CaughtUp`] with one second of quiet, waited for for at most ten.
    #[must_use]
    pub fn caught_up() -> Self {
        Until::CaughtUp { quiet: Duration::from_secs(1), linger: Duration::from_secs(10) }
    }
}

/// How a migration behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// When it is done. Default: [`Until::Forever`].
    pub until: Until,
    /// Directory of the journal: empty or not there yet. It then holds all that has been read and not been applied,
    /// from the whole snapshot on, and needs room for that. Default: a temporary one, used only for what the target
    /// is behind.
    pub journal: Option<PathBuf>,
    /// Size in bytes of a value's raw form above which it is built in parts. Default 1 MiB. Memory is bounded by
    /// a few times this.
    pub value_limit: usize,
    /// How long a lost link to the source is tried again. Default 60 s.
    pub reconnect_window: Duration,
    /// How long the target may owe a reply. Default 60 s.
    pub target_silence: Duration,
    /// How the source is spoken to.
    pub link: LinkOptions,
}

impl Default for Options {
    fn default() -> Self {
        let mut link = LinkOptions::default();
        link.acks = AckPolicy::Applied;
        Options {
            until: Until::Forever,
            journal: None,
            value_limit: 1 << 20,
            reconnect_window: Duration::from_secs(60),
            target_silence: Duration::from_secs(60),
            link,
        }
    }
}

/// A migration that has not begun.
#[derive(Debug)]
pub struct Migration {
    source: ConnectOptions,
    target: ConnectOptions,
    options: Options,
    meter: Meter,
    stop: CancellationToken,
}

/// Stops a running migration: what has been read is applied, or kept in the journal, and no more is read.
#[derive(Clone, Debug)]
pub struct Stopper(CancellationToken);

impl Stopper {
    /// Asks for the stop; [`Migration::run`] returns when it is done. Asking again does nothing.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

/// How a migration ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished {
    /// What it did, also when it failed.
    pub report: Report,
    /// The error that ended it.
    pub result: Result<(), Error>,
}

impl Migration {
    /// A migration of everything from one server to another.
    ///
    /// Database numbers in the options are not looked at: all databases go over.
    #[must_use]
    pub fn new(source: ConnectOptions, target: ConnectOptions) -> Self {
        Migration {
            source,
            target,
            options: Options::default(),
            meter: Meter::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Settings to change before it runs.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// A live view, good before, during and after the run.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress(self.meter.clone())
    }

    /// A handle that stops the run.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Runs to the end, on a thread of its own: neither the caller's runtime nor its threads are used for the work.
    /// Dropping the future stops the migration as [`Stopper::stop`] does, without waiting for the end.
    pub async fn run(self) -> Finished {
        let (meter, stop) = (self.meter.clone(), self.stop.clone());
        let endpoints = (self.source.to_string(), self.target.to_string());
        let _stop_when_dropped = stop.drop_guard();
        match mover::run(meter.clone(), self.run_here()).await {
            Ok(finished) => finished,
            Err(error) => {
                let mut ends = Ends::default();
                ends.notes.push("no part of the migration was begun, or its thread ended".to_owned());
                finish(endpoints, &meter, ends, Err(error))
            }
        }
    }

    async fn run_here(self) -> Finished {
        let mut ends = Ends::default();
        let result = self.execute(&mut ends).await;
        finish((self.source.to_string(), self.target.to_string()), &self.meter, ends, result)
    }

    async fn execute(&self, ends: &mut Ends) -> Result<Outcome, Error> {
        let mut target = Connection::connect(&self.target.clone().with_db(0)).await.map_err(Error::Target)?;
        ends.target = Some(target.server().to_string());
        let control = self.check(&mut target, ends).await?;
        // A target that owes nothing may be silent for as long as it likes; the pipeline keeps its own time.
        target.set_read_timeout(None);
        let abilities = Abilities::of(target.server());
        let address = target.address().to_string();

        let journal = Journal::create(self.options.journal.as_deref())?;
        let mut run = Run {
            migration: self,
            pipeline: Pipeline::new(target, self.options.target_silence, self.meter.clone()),
            encoder: Some(SnapshotEncoder::new(abilities, address, self.options.value_limit)),
            reader: None,
        };
        let result = run.execute(&journal, control, ends).await;
        if let Some(encoder) = &run.encoder {
            ends.counts = encoder.counts().clone();
            if let Some((db, key)) = encoder.unfinished() {
                self.remove_temporary(db, key, ends).await;
            }
        }
        let everything_applied = match &result {
            Ok(Outcome::CaughtUp { .. }) => true,
            Ok(Outcome::Stopped { everything_applied }) => *everything_applied,
            _ => false,
        };
        if everything_applied {
            journal.remove()?;
        } else {
            let unconfirmed = run.pipeline.take_unconfirmed();
            ends.journal = journal.keep(ends.id, unconfirmed, run.reader)?;
        }
        result
    }

    /// Opens a second connection to the source and refuses pairs that make no sense.
    async fn check(&self, target: &mut Connection, ends: &mut Ends) -> Result<Option<Connection>, Error> {
        let about_target = target.info("server").await.map_err(Error::Target)?;
        if target.server().role == Role::Replica {
            return Err(Error::TargetIsReplica { address: target.address().to_string() });
        }
        let mut control =
            Connection::connect(&self.source.clone().with_db(0)).await.map_err(Error::SourceConnection)?;
        ends.source = Some(control.server().to_string());
        match control.info("server").await {
            Ok(about_source) => {
                let run_id = about_source.get("run_id").unwrap_or_default();
                if !run_id.is_empty() && about_target.get("run_id") == Some(run_id) {
                    let address = target.address().to_string();
                    return Err(Error::SameServer { address, run_id: run_id.to_owned() });
                }
                Ok(Some(control))
            }
            // A user that may replicate but not ask: the lag is then what has been received and not applied.
            Err(e) if e.server_code() == Some("NOPERM") => {
                ends.notes.push(format!(
                    "the source does not let this user see INFO ({e}): its offset is taken from the stream"
                ));
                Ok(None)
            }
            Err(e) => Err(Error::SourceConnection(e)),
        }
    }

    /// Removes a half-built key of a run that ends early, over a connection of its own.
    async fn remove_temporary(&self, db: u64, key: &[u8], ends: &mut Ends) {
        let shown = key.escape_ascii().to_string();
        let Ok(db) = u32::try_from(db) else { return };
        let removed = async {
            let mut connection = Connection::connect(&self.target.clone().with_db(db)).await?;
            connection.call([b"DEL", key]).await
        };
        if let Err(e) = removed.await {
            ends.notes.push(format!(
                "the half-built key {shown} in database {db} of the target could not be removed ({e}): delete it, \
                 or migrate again, which replaces it"
            ));
        }
    }
}

/// Writes the report.
fn finish(
    (source, target): (String, String),
    meter: &Meter,
    ends: Ends,
    result: Result<Outcome, Error>,
) -> Finished {
    meter.enter(Phase::Ended);
    let figures = meter.figures();
    let (outcome, result) = match result {
        Ok(outcome) => (outcome, Ok(())),
        Err(error) => (Outcome::Failed { error: error.to_line() }, Err(error)),
    };
    let position = ends.id.filter(|_| figures.applied_offset > 0);
    let report = Report {
        outcome,
        source: Endpoint { url: source, server: ends.source },
        target: Endpoint { url: target, server: ends.target },
        phases: meter.durations().into_iter().map(|(p, d)| (p.name(), d.as_secs_f64())).collect(),
        snapshot: ends.counts,
        position: position.map(|id| format!("{id}:{}", figures.applied_offset)),
        figures,
        journal: ends.journal,
        notes: ends.notes,
    };
    Finished { report, result }
}

/// What the report needs and only the run learns.
#[derive(Debug, Default)]
struct Ends {
    source: Option<String>,
    target: Option<String>,
    id: Option<ReplicationId>,
    counts: SnapshotCounts,
    journal: Option<String>,
    notes: Vec<String>,
}

struct Run<'m> {
    migration: &'m Migration,
    pipeline: Pipeline,
    /// Away while its thread uses it.
    encoder: Option<SnapshotEncoder>,
    /// What is left in it when the run ends early is kept.
    reader: Option<SpoolReader>,
}

impl Run<'_> {
    async fn execute(
        &mut self,
        journal: &Journal,
        control: Option<Connection>,
        ends: &mut Ends,
    ) -> Result<Outcome, Error> {
        let (options, meter) = (&self.migration.options, &self.migration.meter);
        meter.enter(Phase::Preparing);
        // Ends the intake: cancelled when the run is stopped, or when it is done.
        let end = self.migration.stop.child_token();
        let intake = Intake::start(
            self.migration.source.clone(),
            options.link.clone(),
            options.reconnect_window,
            journal,
            meter.clone(),
            end.clone(),
        )?;
        let _end = end.clone().drop_guard();
        let (snapshot, mut started) = (intake.snapshot, intake.started);

        // Where the stream begins; an error of the link before that ends the run.
        let (position, reader) = tokio::select! {
            begun = &mut started => match begun {
                Ok(begun) => begun,
                Err(_) => return self.intake_ended(intake.task).await,
            },
            error = self.pipeline.failed() => return Err(error),
        };
        ends.id = Some(position.id);
        self.reader = Some(reader);
        meter.enter(Phase::Snapshot);
        let mut catch_up = std::pin::pin!(CatchUp::new(options.until.clone(), meter.clone(), control).wait());
        let complete = tokio::select! {
            complete = self.apply_snapshot(snapshot) => complete?,
            // Never done before the snapshot is.
            _ = &mut catch_up => return Err(Error::Internal("caught up without a snapshot".into())),
        };
        if !complete {
            return self.intake_ended(intake.task).await;
        }
        self.pipeline.drain().await?;
        meter.applied_offset.fetch_max(position.offset, Ordering::Relaxed);
        journal.drop_base()?;
        meter.enter(Phase::CatchingUp);

        let Some(reader) = self.reader.as_mut() else { return Err(Error::Internal("no reader".into())) };
        let mut apply = std::pin::pin!(apply_stream(&mut self.pipeline, reader));
        let stopped = &self.migration.stop;
        let (closed, caught_up) = tokio::select! {
            closed = &mut apply => (Some(closed?), None),
            source_was_writing = &mut catch_up => {
                end.cancel();
                (Some(apply.await?), Some(source_was_writing))
            }
            () = stopped.cancelled() => (tokio::time::timeout(STOP_GRACE, apply).await.ok().transpose()?, None),
        };
        match (closed, caught_up) {
            (None, _) => Ok(Outcome::Stopped { everything_applied: false }),
            (Some(Closed::Failed(error)), _) => Err(error),
            (Some(Closed::Stopped), Some(source_was_writing)) => Ok(Outcome::CaughtUp { source_was_writing }),
            (Some(Closed::Stopped), None) => Ok(Outcome::Stopped { everything_applied: true }),
        }
    }

    async fn intake_ended(&self, task: tokio::task::JoinHandle<Closed>) -> Result<Outcome, Error> {
        match task.await {
            Ok(Closed::Stopped) => Ok(Outcome::Stopped { everything_applied: false }),
            Ok(Closed::Failed(error)) => Err(error),
            Err(e) => Err(Error::Internal(format!("the task that reads the source ended: {e}"))),
        }
    }

    /// Applies the snapshot as it grows on disk. False when it will never be complete.
    async fn apply_snapshot(&mut self, snapshot: SnapshotReader) -> Result<bool, Error> {
        let Some(mut encoder) = self.encoder.take() else { return Err(Error::Internal("no encoder".into())) };
        // Encoding keeps a core busy: it has a thread of its own, two loads ahead of the socket.
        let (loads, mut waiting) = mpsc::channel::<Load>(2);
        let meter = self.migration.meter.clone();
        let abandon = self.migration.stop.child_token();
        let thread = SnapshotThread {
            file: snapshot,
            loads,
            meter,
            abandon: abandon.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let work = tokio::spawn(blocking(move || {
            let result = thread.encode(&mut encoder);
            Ok((encoder, result))
        }));
        let mut failure = None;
        loop {
            tokio::select! {
                load = waiting.recv() => {
                    let Some(load) = load else { break };
                    let sent = tokio::select! {
                        sent = self.pipeline.send(load) => sent,
                        // A target that takes nothing must not hold up the end.
                        () = abandon.cancelled() => break,
                    };
                    if let Err(error) = sent {
                        failure = Some(error);
                        break;
                    }
                }
                error = self.pipeline.failed() => {
                    failure = Some(error);
                    break;
                }
            }
        }
        // Wakes the thread, should it wait for room or for bytes.
        drop(waiting);
        if failure.is_some() {
            abandon.cancel();
        }
        let (encoder, result) = work
            .await
            .map_err(|e| Error::Internal(format!("the thread that reads the snapshot ended: {e}")))??;
        self.encoder = Some(encoder);
        match failure {
            Some(error) => Err(error),
            None => result,
        }
    }
}

/// The thread that encodes the snapshot while it grows on disk.
struct SnapshotThread {
    file: SnapshotReader,
    loads: mpsc::Sender<Load>,
    meter: Meter,
    abandon: CancellationToken,
    runtime: tokio::runtime::Handle,
}

impl SnapshotThread {
    /// True when the snapshot was complete.
    fn encode(mut self, encoder: &mut SnapshotEncoder) -> Result<bool, Error> {
        let mut out = Output::default();
        let mut hungry = true;
        while !self.abandon.is_cancelled() {
            if hungry {
                let space = encoder.space(READ_SIZE);
                let Some(n) = self.file.read_into(space, &self.runtime, &self.abandon)? else {
                    // The source sends no more of it. Only a whole snapshot may end here.
                    if self.file.is_complete() {
                        encoder.end_of_input()?;
                    }
                    return Ok(false);
                };
                encoder.filled(n);
            }
            let pumped = encoder.pump(&mut out)?;
            self.meter.keys_announced.store(encoder.announced(), Ordering::Relaxed);
            self.meter.large_keys.store(encoder.counts().large, Ordering::Relaxed);
            if out.commands > 0 && (pumped != Pumped::Hungry || self.file.is_drained()) {
                let keys = std::mem::take(&mut out.keys);
                let load = Load {
                    bytes: out.bytes.split().freeze(),
                    commands: std::mem::take(&mut out.commands),
                    origin: Origin::Snapshot { keys, end: encoder.offset() },
                };
                if self.loads.blocking_send(load).is_err() {
                    return Ok(false);
                }
            }
            if pumped == Pumped::Finished {
                return Ok(true);
            }
            hungry = pumped == Pumped::Hungry;
        }
        Ok(false)
    }
}

/// Forwards commands until the spool is closed and empty and every command has been answered.
async fn apply_stream(pipeline: &mut Pipeline, reader: &mut SpoolReader) -> Result<Closed, Error> {
    loop {
        let next = tokio::select! {
            next = reader.next() => next?,
            error = pipeline.failed() => return Err(error),
        };
        match next {
            Next::Batch(batch) => {
                let origin = Origin::Stream { start: batch.start, end: batch.end, db: batch.db };
                pipeline.send(Load { bytes: batch.bytes, commands: batch.commands, origin }).await?;
            }
            Next::End(closed) => {
                pipeline.drain().await?;
                return Ok(closed);
            }
        }
    }
}
