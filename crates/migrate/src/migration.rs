//! A migration: what it is told, what is checked before it runs, and what it tells at the end.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use keyferry_client::{Connection, Endpoint, Mode};
use tokio_util::sync::CancellationToken;

use crate::{
    archive::Point,
    error::Error,
    existing::{Existing, ExistingCounts},
    fence::Fence,
    filter::Filter,
    fleet,
    identity::MigrationId,
    import::{Files, Given},
    journal::{Identity, JournalRoot, blocking},
    log, mover,
    options::{Delivery, Expiry, OnError, OnExists, Options},
    precheck, prepare,
    progress::{Meter, Phase, Progress},
    report::{self, Ends, Outcome, Report},
    restart::Attempt,
    rewrite::Script,
    run::{Connected, run},
    scan::{self, Reading, ScanCounts, Scanner},
    sharded::{self, TargetMap},
    throttle::Throttle,
    translate::Translation,
    two_way,
};

/// A migration that has not begun.
#[derive(Debug)]
pub struct Migration {
    pub(crate) source: Given,
    pub(crate) target: Endpoint,
    pub(crate) options: Options,
    pub(crate) meter: Meter,
    pub(crate) stop: CancellationToken,
    pub(crate) scan: Arc<scan::Memory>,
    /// What was at the target before this run began, as soon as an attempt has found out.
    pub(crate) throttle: Throttle,
    pub(crate) existing: std::sync::OnceLock<Arc<Existing>>,
    /// It is one of two links in both directions.
    pub(crate) two_way: Option<Arc<two_way::Link>>,
}

/// Stops a running migration: what has been read is applied, or kept in the journal, and no more is read.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: CancellationToken,
    meter: Meter,
}

impl Stopper {
    /// Asks for the stop; [`Migration::run`] returns when it is done. Asking again does nothing.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks for an end when the target holds what the source holds, as with [`Until::caught_up`](crate::Until::caught_up) from now on, whatever
    /// [`Options::until`] says. Files end by themselves.
    pub fn stop_when_caught_up(&self) {
        self.meter.ends_when_caught_up.store(true, Ordering::Relaxed);
    }

    /// True when that was asked for.
    #[must_use]
    pub fn stops_when_caught_up(&self) -> bool {
        self.meter.ends_when_caught_up.load(Ordering::Relaxed)
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
    /// A migration of everything from one side to the other: servers, clusters, primaries that sentinels know. A node of
    /// a cluster behind a plain address stands for the cluster.
    ///
    /// Database numbers in the options are not looked at: all databases go over.
    #[must_use]
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        Self::of(Given::Servers(Box::new(source)), target)
    }

    /// A migration of what files hold, one after the other, to their end: snapshots (RDB), append-only files, plain, with a
    /// snapshot in front or in several parts (their directory, or the manifest), the journals of migrations, the dead letters of one
    /// ([`OnError`]); `-` is standard input. What each is, is told by its content.
    ///
    /// What a later file holds replaces what an earlier one does. A snapshot's values replace what is at the target; commands are
    /// carried out, each once also when the run is killed and started again ([`Delivery`]), and their deadlines are
    /// those of the file. Options about a source that is followed ([`Options::until`], [`Options::journal`],
    /// [`Options::mirror`]) mean nothing here; what would be looked at [first](Options::look_first) are servers.
    #[must_use]
    pub fn from_files(files: Vec<PathBuf>, target: Endpoint) -> Self {
        Self::of(Given::Files(Files(files)), target)
    }

    /// A migration of what an [archive](crate::archive) holds up to a moment: a snapshot, and the commands that came behind it.
    /// As [`Migration::from_files`]; what becomes of deadlines is in [`Options::deadlines`]. Commands are carried out at the target,
    /// which should hold no keys of the same names: [`Restore`](crate::restore::Restore) sees to that.
    #[must_use]
    pub fn from_archive(point: Point, target: Endpoint) -> Self {
        Self::of(Given::Archive(Arc::new(point)), target)
    }

    fn of(source: Given, target: Endpoint) -> Self {
        let stop = CancellationToken::new();
        Migration {
            source,
            target,
            options: Options::default(),
            meter: Meter::default(),
            throttle: Throttle::new(stop.clone()),
            stop,
            scan: Arc::default(),
            existing: std::sync::OnceLock::new(),
            two_way: None,
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

    /// A handle that sets how fast the run may be, and pauses it. [`Options::limits`] apply from the beginning of the run, unless
    /// the handle has set others.
    #[must_use]
    pub fn throttle(&self) -> Throttle {
        self.throttle.clone()
    }

    /// A handle that stops the run.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: self.stop.clone(), meter: self.meter.clone() }
    }

    /// Runs to the end, on a thread of its own: neither the caller's runtime nor its threads are used for the work.
    /// Dropping the future stops the migration as [`Stopper::stop`] does, without waiting for the end.
    pub async fn run(self) -> Finished {
        let (meter, stop) = (self.meter.clone(), self.stop.clone());
        let endpoints = self.endpoints();
        let _stop_when_dropped = stop.drop_guard();
        let (filter, throttle) = (self.options.filter.clone(), self.throttle.clone());
        let script = self.options.script.clone();
        // What a caller holds stays small, however much there is to do.
        match mover::run(meter.clone(), Box::pin(self.run_here())).await {
            Ok(finished) => finished,
            Err(error) => {
                let mut ends = Ends::default();
                ends.notes.push("no part of the migration was begun, or its thread ended".to_owned());
                let changes = (filter.as_deref(), script.as_deref());
                finish(endpoints, (&meter, &throttle), ends, changes, None, Err(error))
            }
        }
    }

    async fn run_here(mut self) -> Finished {
        if self.throttle.limits().is_unlimited() {
            self.throttle.set_limits(self.options.limits);
        }
        let mut ends = Ends { on_exists: self.options.on_exists, ..Ends::default() };
        let looked = match self.options.prepare_filter() {
            Err(error) => Err(error),
            Ok(()) => tokio::select! {
                looked = precheck::before(&self, &mut ends) => looked,
                // It ends at the first thing that it does.
                () = self.stop.cancelled() => Ok(()),
            },
        };
        let result = match looked {
            Ok(()) => self.execute(&mut ends).await,
            Err(error) => Err(error),
        };
        finish(
            self.endpoints(),
            (&self.meter, &self.throttle),
            ends,
            (self.options.filter.as_deref(), self.options.script.as_deref()),
            self.scan.counts(),
            result,
        )
    }

    /// Both URLs without their passwords, and the name.
    fn endpoints(&self) -> (String, String, String) {
        let (source, target) = (self.source.to_string(), self.target.to_string());
        let id = self.options.id.clone();
        let id = id.unwrap_or_else(|| MigrationId::derive(&source, &target).to_string());
        let id = match (self.options.active_worker(), MigrationId::parse(&id)) {
            (Some(worker), Ok(whole)) => whole.of_worker(worker).to_string(),
            _ => id,
        };
        (source, target, id)
    }

    /// The name under which the target keeps how far it is.
    pub(crate) fn id(&self) -> Result<MigrationId, Error> {
        let whole = self.whole_id()?;
        Ok(self.options.active_worker().map_or_else(|| whole.clone(), |worker| whole.of_worker(worker)))
    }

    /// The name of the migration of which this is a part, where there are several workers.
    pub(crate) fn whole_id(&self) -> Result<MigrationId, Error> {
        match &self.options.id {
            Some(id) => MigrationId::parse(id),
            None => Ok(MigrationId::derive(&self.source.to_string(), &self.target.to_string())),
        }
    }

    /// Refuses everybody who would go on with this migration from now on, and cuts off whoever does: for when the
    /// applications write to the target. `why` is what they are told. Where several workers carry it out, all of them are.
    ///
    /// # Errors
    /// When the target cannot be reached or refuses.
    pub async fn fence(&self, why: &str) -> Result<(), Error> {
        let whole = self.whole_id()?;
        let target = self.target.clone().detect().await.map_err(Error::Target)?;
        let map = Arc::new(TargetMap::new(target));
        // First of all, so that no worker begins meanwhile.
        Fence::close(whole.clone(), Arc::clone(&map), why).await?;
        for worker in fleet::workers(&whole, &map).await? {
            Fence::close(whole.of_worker(worker), Arc::clone(&map), why).await?;
        }
        Ok(())
    }

    /// One attempt at all of it.
    pub(crate) async fn attempt(&self, ends: &mut Ends) -> Attempt {
        let mut repeatable = false;
        let mut scanner = None;
        let result = async {
            let id = self.id()?;
            let prepared = tokio::select! {
                prepared = self.prepare(id, &mut scanner, ends) => prepared?,
                () = self.stop.cancelled() => return Ok(Outcome::Stopped { everything_applied: false }),
            };
            let (prepared, root) = match prepared {
                // It needs no journal: it has the files.
                Prepared::Import(import) => return Box::pin(sharded::import(self, *import, ends)).await,
                prepared => (prepared, self.journal().await?),
            };
            match prepared {
                Prepared::Import(_) => Err(Error::Internal("an import with a journal".into())),
                // What it copied in part would stay, also what the source deletes meanwhile.
                Prepared::Direct(connected) => {
                    ends.begun = true;
                    Box::pin(run(self, *connected, root, ends)).await
                }
                Prepared::Sharded(sides) => {
                    repeatable = true;
                    Box::pin(sharded::run(self, *sides, root, ends)).await
                }
            }
        };
        let mut result = result.await;
        if let Some(scanner) = scanner {
            result = match result {
                Ok(outcome) => {
                    scanner.finish().await;
                    Ok(outcome)
                }
                Err(error) => Err(scanner.finish_with(error).await),
            };
        }
        self.scan.take_notes().iter().for_each(|note| ends.note(note));
        Attempt { result, repeatable }
    }

    /// Takes the journal's directory.
    async fn journal(&self) -> Result<JournalRoot, Error> {
        let identity = Identity {
            migration: self.id()?.to_string(),
            source: self.source.to_string(),
            target: self.target.to_string(),
            changes: self.options.changes(),
        };
        let (directory, settings) = (self.options.journal.clone(), self.options.journal_settings());
        blocking(move || JournalRoot::open(directory.as_deref(), identity, settings)).await
    }

    /// Connects to both sides and refuses pairs that make no sense.
    async fn prepare(
        &self,
        id: MigrationId,
        scanner: &mut Option<Scanner>,
        ends: &mut Ends,
    ) -> Result<Prepared, Error> {
        let (source, target) = match &self.source {
            Given::Servers(source) => ((**source).clone(), self.target.clone()),
            Given::Files(_) | Given::Archive(_) if self.options.active_worker().is_some() => {
                return Err(fleet::no_cluster(&self.options, "files"));
            }
            given @ (Given::Files(_) | Given::Archive(_)) => {
                let target = self.target.clone().detect().await.map_err(Error::Target)?;
                return prepare::import(self, id, given, target, ends).await;
            }
        };
        let (reading, reasons) = scan::choose(&source, &self.options).await?;
        reasons.iter().for_each(|reason| ends.note(reason));
        ends.reading = Some(reading);
        fleet::check_options(&self.options, reading)?;
        if self.options.from_now && reading != Reading::Psync {
            let why = format!(
                "the source is read by {}, which has no stream to join at a position",
                reading.name()
            );
            return Err(Error::FromNow { why });
        }
        let plain = self.options.db_map.is_empty()
            && self.options.on_error == OnError::Stop
            && self.options.on_exists == OnExists::Replace
            && self.options.active_filter().is_none()
            && self.options.script.is_none();
        let usual =
            reading == Reading::Psync && self.options.link.psync_command.eq_ignore_ascii_case("PSYNC");
        if self.options.from_now && self.options.on_exists != OnExists::Replace {
            let why = "everything that the target has is taken for the source's then, so that --on-exists means nothing".to_owned();
            return Err(Error::FromNow { why });
        }
        let direct = plain
            && usual
            && !self.options.from_now
            && self.options.active_worker().is_none()
            // Where nobody looks into the stream, no deadline is held.
            && self.options.expiry != Expiry::HeldUntilEnd
            && self.options.limits.is_unlimited()
            && self.options.delivery == Delivery::AtLeastOnce;
        if let (Endpoint::Standalone(from), Endpoint::Standalone(to), true) = (&source, &target, direct) {
            let to = Connection::connect(&to.clone().with_db(0)).await.map_err(Error::Target)?;
            prepare::check_target(&to)?;
            if to.server().mode != Mode::Cluster {
                ends.target = Some(to.server().to_string());
                let from =
                    Connection::connect(&from.clone().with_db(0)).await.map_err(Error::SourceConnection)?;
                let known = Translation::between(
                    std::slice::from_ref(from.server()),
                    to.server(),
                    self.options.on_loss,
                )
                .is_none();
                if from.server().mode != Mode::Cluster && known {
                    // Bytes go over as they are: no command has to be looked into.
                    let connected = Self::connected(from, to, ends).await?;
                    return Ok(Prepared::Direct(Box::new(connected)));
                }
            }
        }
        let target = target.detect().await.map_err(Error::Target)?;
        prepare::sharded(self, id, (source, reading), target, scanner, ends).await
    }

    /// One server on both sides.
    async fn connected(
        source: Connection,
        mut target: Connection,
        ends: &mut Ends,
    ) -> Result<Connected, Error> {
        let source = match prepare::source_control(source, ends).await? {
            Some((connection, identity)) => {
                let other = prepare::identity(&mut target).await.map_err(Error::Target)?;
                identity.check(&other, &target.address().to_string())?;
                Some(connection)
            }
            None => None,
        };
        // A target that owes nothing may be silent for as long as it likes; the pipeline keeps its own time.
        target.set_read_timeout(None);
        Ok(Connected { target, source })
    }
}

/// Both sides, ready to begin.
pub(crate) enum Prepared {
    /// One server to one server.
    Direct(Box<Connected>),
    /// Files.
    Import(Box<sharded::Import>),
    /// Everything else.
    Sharded(Box<sharded::Sides>),
}

/// Writes the report.
fn finish(
    (source, target, id): (String, String, String),
    (meter, throttle): (&Meter, &Throttle),
    ends: Ends,
    (filter, script): (Option<&Filter>, Option<&Script>),
    scan: Option<ScanCounts>,
    result: Result<Outcome, Error>,
) -> Finished {
    meter.enter(Phase::Ended);
    log::ended(meter, &result);
    let figures = meter.figures();
    let (outcome, result) = match result {
        Ok(outcome) => (outcome, Ok(())),
        Err(error) => {
            meter.count_error(error.class());
            (Outcome::Failed { error: error.to_line() }, Err(error))
        }
    };
    let position = meter.history().filter(|_| figures.applied_offset > 0);
    let existing = ExistingCounts {
        policy: ends.on_exists,
        before: ends.before,
        skipped: filter.map(Filter::kept).unwrap_or_default(),
        replaced: ends.counts.existing.replaced.clone(),
        merged: ends.counts.existing.merged.clone(),
    };
    let report = Report {
        outcome,
        existing,
        throttle: throttle.figures(),
        source: report::Endpoint { url: source, server: ends.source },
        target: report::Endpoint { url: target, server: ends.target },
        phases: meter.durations().into_iter().map(|(p, d)| (p.name(), d.as_secs_f64())).collect(),
        snapshot: ends.counts,
        position: position.map(|id| format!("{id}:{}", figures.applied_offset)),
        positions: meter.positions(),
        figures,
        journal: ends.journal,
        notes: ends.notes,
        routing: ends.routing,
        expiry: ends.expiry,
        id,
        resumed: ends.resumed,
        restarts: ends.restarts,
        mirror: ends.mirror,
        source_mode: ends.reading.map(Reading::name),
        scan,
        files: ends.files,
        precheck: ends.precheck,
        filter: [filter.map(Filter::tallied), script.map(Script::lines)]
            .into_iter()
            .flatten()
            .flatten()
            .collect(),
    };
    Finished { report, result }
}
