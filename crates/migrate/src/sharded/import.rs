//! Running a migration from files: one after the other, each through the lanes as a link's snapshot and stream would go.
//!
//! The target keeps which of the files is under way, and what that one begins with; how far it is in it is told as for a link,
//! with bytes of the file for offsets. What a file holds of a snapshot is applied from its beginning after an interruption
//! (values replace what is there), its commands from the one after the last that is on the target.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keyferry_replication::{Position, ReplicationId};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    Counts, Settings, SnapshotFeed, StreamFeed, Target,
    ahead::WINDOW,
    checkpoint::{Checkpoints, Constant, LinkName},
    existing::{Origin, Question, forget_all},
    guarded::explain,
    leave::{leave, remove_checkpoints, remove_temporaries},
    mirror::First,
    release::Release,
    rewritten::begin_script,
    run::watch_latency,
    state::{FORMAT, LinkState, Stage, State, field},
};
use crate::{
    error::Error,
    existing::{Existing, Handed, Treatment},
    fence::{Fence, Token},
    hold::Hold,
    identity::MigrationId,
    import::{FileReader, FileReport, FileSource, Work},
    journal::failed,
    migration::Migration,
    options::{OnExists, Options},
    prepare::TargetSide,
    progress::{Meter, Phase},
    report::{Ends, Outcome},
    resume::Applied,
    run::STOP_GRACE,
    snapshot::SnapshotEncoder,
    target::Abilities,
    temporary,
};

/// The only link, as the target knows it.
const LINK: &str = "0";

/// Files and a target, ready to begin.
pub(crate) struct Import {
    pub(crate) files: Vec<FileSource>,
    pub(crate) target: TargetSide,
    pub(crate) hold: Arc<Hold>,
    pub(crate) abilities: Abilities,
    pub(crate) id: MigrationId,
    pub(crate) token: Token,
}

/// Where a file begins.
#[derive(Debug, PartialEq, Eq)]
struct Begin {
    epoch: u64,
    applied: Applied,
    /// What is written into the state.
    fields: Vec<(String, String)>,
    outdated: Vec<String>,
    /// Of that, what never changes while the file is applied.
    constant: Vec<(String, String)>,
    notes: Vec<String>,
}

/// How one file ended.
enum End {
    Done,
    /// On request; true when everything that was read has been applied.
    Stopped(bool),
}

/// Runs to the end, and cleans up after itself.
pub(crate) async fn import(migration: &Migration, import: Import, ends: &mut Ends) -> Result<Outcome, Error> {
    let Import { files, target, hold, abilities, id, token } = import;
    let meter = &migration.meter;
    meter.enter(Phase::Preparing);
    let several = files.len() > 1;
    let meters: Vec<Meter> = files
        .iter()
        .map(|file| {
            let own = if several { Meter::default() } else { meter.clone() };
            own.set_input(file.total);
            if several {
                own.enter(Phase::Preparing);
                meter.add_link(file.name.clone(), own.clone());
            }
            own
        })
        .collect();
    let last = files.len().saturating_sub(1);
    let directory = Kept::open(&migration.options)?;
    let counts = Counts::default();
    let mut run = Run {
        migration,
        target,
        hold,
        abilities,
        id,
        token,
        counts,
        before: None,
        directory,
        existing: None,
    };
    for ((number, file), meter) in files.into_iter().enumerate().zip(meters) {
        match run.file(number, number == last, file, meter, ends).await? {
            End::Done => {}
            End::Stopped(everything_applied) => return Ok(Outcome::Stopped { everything_applied }),
        }
    }
    Ok(Outcome::CaughtUp { source_was_writing: false })
}

/// What is common to all files.
struct Run<'m> {
    migration: &'m Migration,
    target: TargetSide,
    hold: Arc<Hold>,
    abilities: Abilities,
    id: MigrationId,
    token: Token,
    counts: Counts,
    /// The number of the file that this run has applied last.
    before: Option<usize>,
    /// Where it is kept what was at the target before.
    directory: Kept,
    existing: Option<Arc<Existing>>,
}

/// A directory that somebody chose, or one that goes with the run.
enum Kept {
    Named(PathBuf),
    Temporary(TempDir, #[expect(dead_code, reason = "it is held as long as this is open")] File),
}

impl Kept {
    fn open(options: &Options) -> Result<Self, Error> {
        match &options.journal {
            Some(path) if options.on_exists != OnExists::Replace => std::fs::create_dir_all(path)
                .map(|()| Kept::Named(path.clone()))
                .map_err(|e| failed(path, "making the directory", e)),
            _ => temporary::directory("import").map(|(directory, lock)| Kept::Temporary(directory, lock)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Kept::Named(path) => path,
            Kept::Temporary(directory, _) => directory.path(),
        }
    }
}

impl Run<'_> {
    /// Applies one file, unless it is on the target already.
    async fn file(
        &mut self,
        number: usize,
        is_last: bool,
        file: FileSource,
        meter: Meter,
        ends: &mut Ends,
    ) -> Result<End, Error> {
        let Migration { options, .. } = self.migration;
        let settings = self.settings(&meter)?;
        let claimed = Fence::claim(
            self.id.clone(),
            self.token.clone(),
            Arc::clone(&settings.map),
            None,
            settings.windows,
            self.migration.meter.clone(),
        );
        let (fence, state) = claimed.await?;
        let (from, to, changes) = (self.migration.source.to_string(), settings.map.name(), options.changes());
        let begin = Begin::of(&state, (number, &file, self.before), (&from, &to, &changes), self);
        let begin = match begin {
            Ok(Some(begin)) => begin,
            // An earlier run has applied it.
            Ok(None) => {
                fence.release().await;
                ends.resumed = true;
                meter.enter(Phase::CatchingUp);
                meter.skip_input();
                ends.files.push(FileReport::applied_before(file.name, file.kind));
                return Ok(End::Done);
            }
            Err(error) => {
                fence.release().await;
                return Err(error);
            }
        };
        let first = First::of(&state);
        ends.notes.extend(begin.notes.iter().cloned());
        fence.write(&begin.fields, &begin.outdated).await?;
        if self.before.is_none() && begin.applied != Applied::Nothing {
            // Deadlines that a run before has held may be anywhere.
            self.hold.doubt_notes();
        }
        let names = vec![LinkName { name: LINK.to_owned(), epoch: begin.epoch }];
        let checkpoints = Checkpoints::new(self.id.clone(), settings.has_one_lane(), names)
            .keeping(Constant { fields: begin.constant, token: fence.token().to_owned() });
        if let Some(told) = state.get(field::FOREIGN) {
            checkpoints.keep_foreign(told);
        }
        let target = Target::new(settings, fence, checkpoints);
        if let Some(history) = history(&file) {
            meter.set_history(history);
        }
        let mut resume = None;
        if let Applied::Stream(position) = &begin.applied {
            ends.resumed = true;
            let exact = target.has_one_lane() && target.is_exact();
            // What a run before may have handed over at most.
            let until = if exact { position.offset.saturating_add(WINDOW) } else { u64::MAX };
            if !exact {
                meter.set_kept_offset(position.offset);
            }
            meter.applied_offset.fetch_max(position.offset, Ordering::Relaxed);
            target.core().resume(0, (position.offset, position.db), until);
            resume = Some(position.clone());
        }
        {
            let live = target.core().counts.live.clone();
            let mut core = target.core();
            core.counts = std::mem::take(&mut self.counts);
            core.counts.live = live;
        }
        ends.begun = true;
        self.migration.meter.note_trouble(None);
        let driver = Driver(tokio::spawn(Arc::clone(&target).drive()));
        let watched_until = CancellationToken::new();
        let _watched_until = watched_until.clone().drop_guard();
        watch_latency(self.migration, &target, Vec::new(), watched_until)?;
        let again = begin.applied == Applied::Begun;
        let handed = match self.existing(&target, (number, first, again), ends).await {
            Ok(handed) => handed,
            Err(error) => {
                let error = target.core().take_failure().unwrap_or(error);
                if error.is_before_all() {
                    remove_checkpoints(&target, ends).await;
                } else {
                    leave(&target, Some(&error), &[]).await;
                }
                return Err(error);
            }
        };
        let rewriting = begin_script(options, false)?;
        let mut encoder = SnapshotEncoder::new(self.abilities, target.name(), options.value_limit)
            .losing(options.on_loss)
            .dividing()
            .holding(target.hold(), target.databases())
            .filtering(options.active_filter())
            .rewriting(rewriting);
        if let Applied::Snapshot { bytes, .. } = &begin.applied {
            encoder.skip_to(*bytes);
            meter.snapshot_applied.store(*bytes, Ordering::Relaxed);
        }
        if let Some(existing) = &self.existing {
            let mut treatment = Treatment::new(existing, target.databases());
            if let Some(handed) = &handed {
                treatment.guard(handed.up_to(), false);
            }
            encoder.treat(treatment);
        }
        let applied = apply(&target, file, encoder, (resume, handed), &meter, self.migration).await;
        let Applying { encoder, report, result, stopped } = applied;
        ends.files.extend(report);
        if let Some(encoder) = encoder {
            ends.counts.add(encoder.counts());
            let half_built = encoder.half_built(meter.snapshot_applied.load(Ordering::Relaxed));
            if !half_built.is_empty() {
                remove_temporaries(&target, &half_built, ends).await;
            }
        }
        let mut failed = target.core().take_failure().or(result.err());
        let done = failed.is_none() && !stopped;
        if done && is_last {
            let release = Release::new(Arc::clone(&target), vec![meter.clone()]);
            let released = tokio::select! {
                // Nothing more will ever come.
                released = release.finish(true) => released,
                error = target.failed() => Err(error),
            };
            failed = target.core().take_failure().or(released.err());
        }
        let failed = failed.map(explain);
        if is_last || !done || failed.is_some() {
            ends.note_expiry(target.hold());
        }
        self.counts = target.core().counts.clone();
        ends.note_target(&self.counts);
        if done && is_last && failed.is_none() {
            // Nobody will go on with it.
            remove_checkpoints(&target, ends).await;
            forget_all(self.directory.path())?;
        } else {
            leave(&target, failed.as_ref(), &[]).await;
        }
        drop(driver);
        match failed {
            Some(error) => Err(error),
            None if stopped => {
                let received = meter.received_offset.load(Ordering::Relaxed);
                Ok(End::Stopped(meter.applied_offset.load(Ordering::Relaxed) >= received))
            }
            None => {
                self.before = Some(number);
                Ok(End::Done)
            }
        }
    }

    /// What is known of the keys that were there before the first file; gives how much of this one may have been handed over,
    /// where that matters.
    async fn existing(
        &mut self,
        target: &Target,
        (number, first, again): (usize, First, bool),
        ends: &mut Ends,
    ) -> Result<Option<Handed>, Error> {
        let existing = match &self.existing {
            Some(existing) => existing.stale(),
            None => {
                let Some(files) = self.migration.source.files() else {
                    return Err(Error::Internal("files without names".into()));
                };
                let (options, id) = (&self.migration.options, self.id.to_string());
                let source = Origin::Files(files);
                let question =
                    Question { options, directory: self.directory.path(), first, id, source, matters: false };
                tokio::select! {
                    existing = question.answer(target) => existing?,
                    error = target.failed() => return Err(error),
                }
            }
        };
        target.set_existing(&existing);
        ends.before = existing.count();
        // A later file replaces what an earlier one has brought.
        let handed = existing.handed(self.directory.path(), 0, again).filter(|_| number == 0);
        self.existing = Some(existing);
        Ok(handed)
    }

    fn settings(&self, meter: &Meter) -> Result<Settings, Error> {
        let options = &self.migration.options;
        self.target.settings(
            options,
            self.migration.meter.clone(),
            vec![(meter.clone(), None)],
            Arc::clone(&self.hold),
            &self.migration.throttle,
            &[],
        )
    }
}

/// Ends with the value.
struct Driver(JoinHandle<Error>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What applying a file came to.
struct Applying {
    encoder: Option<SnapshotEncoder>,
    report: Option<FileReport>,
    result: Result<(), Error>,
    stopped: bool,
}

/// Reads a file on a thread of its own, hands it over, and waits until all that was handed over is done: also before damage
/// is told.
async fn apply(
    target: &Arc<Target>,
    file: FileSource,
    mut encoder: SnapshotEncoder,
    (resume, handed): (Option<Position>, Option<Handed>),
    meter: &Meter,
    migration: &Migration,
) -> Applying {
    let stop = &migration.stop;
    let (out, mut work) = mpsc::channel(2);
    let abandon = stop.child_token();
    let _abandon = abandon.clone().drop_guard();
    let from = resume.as_ref().map(|position| position.offset);
    let position = snapshot_position(&file);
    let allow_cut = migration.options.allow_cut_log;
    let reader = FileReader::new(file, from, allow_cut, out, meter.clone(), abandon.clone());
    let (tell, told) = oneshot::channel();
    // Not one of the runtime's: a pipe may keep it waiting for ever, and nobody is to wait for that.
    let thread = std::thread::Builder::new().name("keyferry-file".into()).spawn(move || {
        let (report, result) = reader.run(&mut encoder);
        tell.send((encoder, report, result)).ok();
    });
    let mut applying = Applying { encoder: None, report: None, result: Ok(()), stopped: false };
    if let Err(e) = thread {
        applying.result = Err(Error::Internal(format!("cannot start a thread: {e}")));
        return applying;
    }
    let db = resume.and_then(|position| position.db).unwrap_or(0);
    if from.is_some() {
        meter.enter(Phase::CatchingUp);
    }
    let handed_over = async {
        if let Some(position) = position.filter(|_| from.is_none()) {
            target.begin_snapshot(0, &position, meter.snapshot_applied.load(Ordering::Relaxed)).await?;
        }
        let mut keys = SnapshotFeed::new(Arc::clone(target), 0).guarded(handed);
        let mut commands = StreamFeed::new(Arc::clone(target), 0, db, false, meter.clone());
        while let Some(work) = work.recv().await {
            match work {
                Work::Keys(load) => keys.load(load).await?,
                Work::SnapshotEnd { offset, db } => {
                    target.settled(0).await?;
                    target.begin_stream(0, offset, db).await?;
                    meter.enter(Phase::CatchingUp);
                }
                Work::Commands { batch, received } => commands.batch(batch, received).await?,
            }
        }
        target.settled(0).await
    };
    let grace = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    applying.result = tokio::select! {
        handed_over = handed_over => handed_over,
        error = target.failed() => Err(error),
        () = grace => Ok(()),
    };
    applying.stopped = stop.is_cancelled();
    abandon.cancel();
    drop(work);
    // A thread that waits for a pipe is left alone.
    match tokio::time::timeout(Duration::from_secs(1), told).await {
        Ok(Ok((encoder, report, result))) => {
            (applying.encoder, applying.report) = (Some(encoder), Some(report));
            let read = match result {
                Ok(true) => {
                    // It came to its end before that was asked for.
                    applying.stopped &= applying.result.is_err();
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            let handed_over = std::mem::replace(&mut applying.result, Ok(()));
            applying.result = handed_over.and(read);
        }
        Ok(Err(_)) => applying.result = Err(Error::Internal("the thread that reads a file ended".into())),
        Err(_) if applying.stopped || applying.result.is_err() => {}
        Err(_) => applying.result = Err(Error::Internal("the thread that reads a file does not end".into())),
    }
    applying
}

impl Begin {
    /// What the target says of file `number`; none when it has all of it.
    fn of(
        state: &State,
        (number, file, before): (usize, &FileSource, Option<usize>),
        (source, target, changes): (&str, &str, &str),
        run: &Run<'_>,
    ) -> Result<Option<Self>, Error> {
        let id = &run.id;
        let known = state.links().find(|(name, _)| *name == LINK).map(|(_, state)| state);
        let given = target.to_owned();
        let other =
            |field: &str, given: &str| state.get(field).filter(|had| *had != given).map(str::to_owned);
        if let Some(known) = other(field::TARGET, target) {
            return Err(Error::OtherTarget { id: id.to_string(), known, given });
        }
        if let Some(known) = other(field::SOURCE, source) {
            return Err(Error::OtherSource { id: id.to_string(), known, given: source.to_owned() });
        }
        let had = state.get(field::CHANGES).unwrap_or_default();
        if state.get(field::TARGET).is_some() && had != changes {
            let shown = |changes: &str| if changes.is_empty() { "nothing" } else { changes }.to_owned();
            return Err(Error::OtherChanges { id: id.to_string(), known: shown(had), given: shown(changes) });
        }
        let mut notes = Vec::new();
        let mut outdated = Vec::new();
        if let Some(refused) = state.get(field::REFUSED) {
            if !run.migration.options.skip_refused {
                let (id, target, refused) = (id.to_string(), target.to_owned(), refused.to_owned());
                return Err(Error::WasRefused { id, target, refused });
            }
            notes.push(format!("left out, as the target had refused it before: {refused}"));
            outdated.push(field::REFUSED.to_owned());
        }
        let under_way = state.get(field::FILE).and_then(|text| {
            let (number, print) = text.split_once(' ')?;
            Some((number.parse::<usize>().ok()?, print.to_owned()))
        });
        let mut print = file.fingerprint();
        let mut applied = if known.is_some() { Applied::Begun } else { Applied::Nothing };
        let mut epoch = known.as_ref().map_or(0, |state| state.epoch) + 1;
        match (under_way, &known) {
            (Some((at, _)), _) if at > number => return Ok(None),
            // Its state speaks of the file that this run has just applied, else of this one.
            (Some((at, had)), Some(LinkState { epoch: same, stage: Stage::Stream(position) }))
                if at == number && before != Some(at) =>
            {
                if !file.is(&had) {
                    return Err(Error::OtherFile { name: file.name.clone(), id: id.to_string() });
                }
                (applied, epoch, print) = (Applied::Stream(position.clone()), *same, had);
            }
            (Some((at, had)), Some(LinkState { epoch: same, .. })) if at == number && file.is(&had) => {
                applied = Applied::of_snapshot(state.get(&field::snapshot(LINK)), *same)
                    .of_position(&snapshot_position(file));
            }
            // The one before this is not known to be there.
            (Some((at, _)), _) if at < number && before != number.checked_sub(1) => {
                return Err(Error::Internal(format!("file {at} is under way, not file {number}")));
            }
            _ => {}
        }
        let mut constant = vec![
            (field::FORMAT.to_owned(), FORMAT.to_owned()),
            (field::SOURCE.to_owned(), source.to_owned()),
            (field::TARGET.to_owned(), target.to_owned()),
            (field::FILE.to_owned(), format!("{number} {print}")),
        ];
        if !changes.is_empty() {
            constant.push((field::CHANGES.to_owned(), changes.to_owned()));
        }
        let mut fields = constant.clone();
        if !matches!(applied, Applied::Stream(_)) {
            let state = LinkState { epoch, stage: Stage::Snapshot(0) };
            fields.push((field::link(LINK), state.to_string()));
        }
        if let Applied::Snapshot { position, bytes } = &applied {
            fields.push((field::snapshot(LINK), Applied::snapshot_text(epoch, position, *bytes)));
        }
        Ok(Some(Begin { epoch, applied, fields, outdated, constant, notes }))
    }
}

/// What the snapshot in a file stands for.
fn snapshot_position(file: &FileSource) -> Option<Position> {
    Some(Position::after_snapshot(history(file)?, 0))
}

/// What the offsets of a file belong to, in the form of a replication id: the same for the same file.
fn history(file: &FileSource) -> Option<ReplicationId> {
    let print = file.fingerprint();
    let digest = print.rsplit(':').next().unwrap_or_default();
    ReplicationId::from_bytes(format!("{digest:0>40.40}").as_bytes())
}
