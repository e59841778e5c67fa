//! A migration: what it is told, what is checked before it runs, and what it tells at the end.

use keyferry_client::{ConnectOptions, Connection, Mode, Role};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    journal::Journal,
    mover,
    options::Options,
    progress::{Meter, Phase, Progress},
    report::{Endpoint, Ends, Outcome, Report},
    run::{Connected, run},
};

/// A migration that has not begun.
#[derive(Debug)]
pub struct Migration {
    pub(crate) source: ConnectOptions,
    pub(crate) target: ConnectOptions,
    pub(crate) options: Options,
    pub(crate) meter: Meter,
    pub(crate) stop: CancellationToken,
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
        let connected = tokio::select! {
            connected = self.connect(ends) => connected?,
            () = self.stop.cancelled() => return Ok(Outcome::Stopped { everything_applied: false }),
        };
        let journal = Journal::create(self.options.journal.as_deref())?;
        run(self, connected, journal, ends).await
    }

    /// Connects to both sides and refuses pairs that make no sense.
    async fn connect(&self, ends: &mut Ends) -> Result<Connected, Error> {
        let mut target = Connection::connect(&self.target.clone().with_db(0)).await.map_err(Error::Target)?;
        ends.target = Some(target.server().to_string());
        let address = target.address().to_string();
        match (target.server().role, target.server().mode) {
            (Role::Replica, _) => return Err(Error::TargetIsReplica { address }),
            (_, mode @ (Mode::Cluster | Mode::Sentinel)) => {
                return Err(Error::TargetMode { address, mode: mode.to_string() });
            }
            _ => {}
        }
        let mut source =
            Connection::connect(&self.source.clone().with_db(0)).await.map_err(Error::SourceConnection)?;
        ends.source = Some(source.server().to_string());
        let source = match identity(&mut source).await {
            Ok((run_id, history)) => {
                let (target_run_id, target_history) = identity(&mut target).await.map_err(Error::Target)?;
                if run_id.is_some() && run_id == target_run_id {
                    return Err(Error::SameServer { address, run_id: run_id.unwrap_or_default() });
                }
                if history.is_some() && history == target_history {
                    return Err(Error::SameHistory { address, id: history.unwrap_or_default() });
                }
                Some(source)
            }
            // A user that may replicate but not ask: the offset is then what the stream says.
            Err(e) if e.server_code() == Some("NOPERM") => {
                ends.notes.push(format!(
                    "the source does not let this user see INFO ({e}): its offset is taken from the stream"
                ));
                None
            }
            Err(e) => return Err(Error::SourceConnection(e)),
        };
        // A target that owes nothing may be silent for as long as it likes; the pipeline keeps its own time.
        target.set_read_timeout(None);
        Ok(Connected { target, source })
    }
}

/// Run id and replication id of a server.
async fn identity(
    connection: &mut Connection,
) -> Result<(Option<String>, Option<String>), keyferry_client::Error> {
    let known = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let run_id = known(connection.info("server").await?.get("run_id"));
    let history = known(connection.info("replication").await?.get("master_replid"));
    Ok((run_id, history))
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
    let position = meter.history().filter(|_| figures.applied_offset > 0);
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
