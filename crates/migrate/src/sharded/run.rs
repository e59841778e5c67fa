//! Running a migration into a target of several nodes, from one link or several.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use keyferry_client::Connection;
use keyferry_replication::{Locator, Position};
use keyferry_resp::Command;
use keyferry_routing::{SLOTS, SlotSet};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Settings, SnapshotFeed, StreamFeed, Target,
    aside::{Aside, Cause},
    checkpoint::{Checkpoints, Constant, slot_key},
    flush::Owned,
    hand_over::follow,
    mirror::{Due, First, Foreign, Rest},
    plan::Plan,
    release::Release,
    state::{LinkState, Stage, field},
};
use crate::{
    catch_up::{CatchUp, Watched},
    error::Error,
    fence::{Fence, Token},
    hold::Hold,
    identity::MigrationId,
    intake::{Intake, Started},
    journal::{Journal, JournalRoot, blocking},
    key_set::KeyCollector,
    migration::Migration,
    options::{Mirror, Options},
    pipeline::Load,
    prepare::Identity,
    progress::{Meter, Phase},
    report::{Ends, Outcome},
    resume::{self, Applied},
    run::{STOP_GRACE, intake_ended},
    snapshot::{SnapshotEncoder, Temporary},
    snapshot_counts::SnapshotCounts,
    snapshot_thread::SnapshotThread,
    source::{Ownership, Watchable, watch},
    spool::{Closed, Next, SpoolReader},
    target::Abilities,
};

/// How often the shards of a source are asked for their slots.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// How long the last position may take to be written.
const LEAVE: Duration = Duration::from_secs(3);

/// One link to the source.
pub(crate) struct LinkSource {
    /// For people.
    pub(crate) name: String,
    /// Where its stream comes from.
    pub(crate) stream: Locator,
    /// Finds the primary, which knows how far it has written.
    pub(crate) primary: Locator,
    /// By `SYNC`, which knows no offsets.
    pub(crate) sync: bool,
    /// The slots that it brings keys of, where the source is a cluster.
    pub(crate) slots: Option<SlotSet>,
    pub(crate) meter: Meter,
    /// For questions beside the replication link; none where the source does not answer them.
    pub(crate) control: Option<Connection>,
    /// What the source says it is, if it does.
    pub(crate) identity: Option<Identity>,
}

/// Both sides, ready to begin.
pub(crate) struct Sides {
    pub(crate) links: Vec<LinkSource>,
    /// What follows the slots of the source, where it is a cluster.
    pub(crate) ownership: Option<(Vec<Watchable>, Ownership)>,
    pub(crate) settings: Settings,
    pub(crate) abilities: Abilities,
    pub(crate) id: MigrationId,
    pub(crate) token: Token,
}

/// Runs to the end, and cleans up after itself.
pub(crate) async fn run(
    migration: &Migration,
    sides: Sides,
    root: JournalRoot,
    ends: &mut Ends,
) -> Result<Outcome, Error> {
    let Sides { mut links, ownership, mut settings, abilities, id, token } = sides;
    let Migration { options, meter, stop, .. } = migration;
    meter.enter(Phase::Preparing);
    let several = links.len() > 1;
    // Whoever was here before is kept from writing before anything of what it left is read.
    let (fence, state) = Fence::claim(
        id.clone(),
        token,
        Arc::clone(&settings.map),
        root.token(),
        settings.windows,
        meter.clone(),
    )
    .await?;
    let (at, shown) = (root.clone(), fence.token().to_owned());
    blocking(move || at.set_token(&shown)).await?;
    let (from, to, changes) = (migration.source.to_string(), settings.map.name(), options.changes());
    let plan = Plan::of(&state, &links, (&from, &to, &changes), &id, options.skip_refused);
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => {
            fence.release().await;
            return Err(error);
        }
    };
    ends.resumed = plan.is_resumed();
    ends.notes.extend(plan.notes.iter().cloned());
    fence.write(&plan.fields, &plan.outdated).await?;
    let first = First::of(&state);
    if plan.is_begun() {
        // Deadlines that a run before has held may be anywhere.
        settings.hold = Arc::new(Hold::new(options.expiry, abilities.deadline_forms(), true));
    }
    let one_lane = settings.has_one_lane();
    let checkpoints = Checkpoints::new(id, one_lane, plan.names.clone())
        .keeping(Constant { fields: plan.constant.clone(), token: fence.token().to_owned() });
    if let Some(told) = state.get(field::FOREIGN) {
        checkpoints.keep_foreign(told);
    }
    let target = Target::new(settings, fence, checkpoints);
    for ((number, link), applied) in (0..).zip(&mut links).zip(&plan.applied) {
        let Applied::Stream(position) = applied else { continue };
        let until = match &mut link.control {
            // There is no more than the position itself says.
            _ if one_lane && target.is_exact() => 0,
            Some(control) => {
                let info = control.info("replication").await.map_err(Error::SourceConnection)?;
                info.get_as("master_repl_offset").unwrap_or(u64::MAX)
            }
            None => u64::MAX,
        };
        link.meter.set_history(position.id);
        if !(one_lane && target.is_exact()) {
            link.meter.set_kept_offset(position.offset);
        }
        target.core().resume(number, (position.offset, position.db), until);
    }
    let mut driver = tokio::spawn(Arc::clone(&target).drive());
    let mut followers = JoinSet::new();
    if let Some((shards, ownership)) = ownership {
        let (tell, changes) = mpsc::channel(1024);
        followers.spawn(watch(shards, ownership, WATCH_PERIOD, tell));
        followers.spawn(follow(Arc::clone(&target), changes));
    }
    let meters: Vec<Meter> = links.iter().map(|link| link.meter.clone()).collect();
    let release_end = CancellationToken::new();
    let release = tokio::spawn(Release::new(Arc::clone(&target), meters).follow(release_end.clone()));
    let end = stop.child_token();
    let mut tasks = JoinSet::new();
    let mut watched = Vec::new();
    let mut begun = Vec::new();
    let names = plan.names.clone();
    let each = links.into_iter().zip(plan.names).zip(plan.applied);
    for (number, ((link, name), applied)) in each.enumerate() {
        let number = u16::try_from(number).map_err(|_| Error::Internal("more links than slots".into()))?;
        let (at, label) = (root.clone(), several.then_some(name.name));
        let (journal, kept) = blocking(move || at.link(label.as_deref())).await?;
        ends.notes.extend(kept.notes.iter().cloned());
        let start = resume::Plan::of(&kept, &applied);
        let resume = match applied {
            Applied::Stream(position) => Some(position),
            _ => None,
        };
        watched.push(Watched::new(link.meter.clone(), link.control, link.primary.clone()));
        let mut options = options.clone();
        options.link.sync |= link.sync;
        let run = LinkRun {
            number,
            stream: link.stream,
            slots: link.slots,
            meter: link.meter,
            options: options.clone(),
            target: Arc::clone(&target),
            stop: stop.clone(),
            end: end.clone(),
            encoder: Some(
                SnapshotEncoder::new(abilities, target.name(), options.value_limit)
                    .dividing()
                    .holding(target.hold(), target.databases())
                    .filtering(options.active_filter()),
            ),
            intake: None,
            reader: None,
            resume,
            again: false,
            root: root.clone(),
            foreign: Foreign::Unknown,
        };
        begun.push((run, journal, start));
    }
    let matters = options.mirror == Mirror::Owned;
    let foreign = match migration.foreign.get() {
        // The directory of an attempt before may be gone, and a flush takes with it what the target was told.
        Some(known) => Ok(Some(known.clone())),
        None => tokio::select! {
            foreign = Foreign::of(&target, root.path(), first, matters) => foreign.map(Some),
            () = stop.cancelled() => Ok(None),
        },
    };
    if let Ok(Some(known @ Foreign::Known(_))) = &foreign {
        migration.foreign.set(known.clone()).ok();
    }
    match foreign {
        Ok(Some(foreign)) => begun.iter_mut().for_each(|(run, ..)| run.foreign = foreign.clone()),
        unknown => {
            let error = unknown.err().map(|error| target.core().take_failure().unwrap_or(error));
            leave(&target, error.as_ref(), &[]).await;
            driver.abort();
            release.abort();
            return error.map_or(Ok(Outcome::Stopped { everything_applied: false }), Err);
        }
    }
    ends.begun = true;
    // Of attempts before.
    meter.note_trouble(None);
    for (run, journal, start) in begun {
        tasks.spawn(run.run(journal, start));
    }

    let mut catch_up = std::pin::pin!(
        CatchUp::of_links(options.until.clone(), meter.clone(), watched).holding(target.hold()).wait()
    );
    let mut finished = Vec::new();
    let mut source_was_writing = false;
    let (mut caught_up, mut driver_ended) = (false, false);
    let mut grace = None;
    let mut result: Result<(), Error> = Ok(());
    while !tasks.is_empty() {
        tokio::select! {
            Some(ended) = tasks.join_next() => match ended {
                Ok(link) => {
                    if let Err(error) = &link.result {
                        end.cancel();
                        if result.is_ok() {
                            result = Err(Error::Internal(error.to_line()));
                        }
                    }
                    finished.push(link);
                }
                Err(e) => {
                    end.cancel();
                    result = Err(Error::Internal(format!("the task of a link ended: {e}")));
                }
            },
            was_writing = &mut catch_up, if !caught_up => {
                source_was_writing = was_writing;
                caught_up = true;
                end.cancel();
            }
            () = stop.cancelled(), if grace.is_none() && !caught_up => {
                grace = Some(tokio::time::Instant::now() + STOP_GRACE);
            }
            () = async { match grace { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                break;
            }
            error = &mut driver, if !driver_ended => {
                driver_ended = true;
                end.cancel();
                result = Err(error.unwrap_or_else(|e| Error::Internal(format!("the target's task ended: {e}"))));
                // The links find out by themselves, and keep what they have read.
                grace = Some(tokio::time::Instant::now() + LEAVE);
            }
        }
    }
    tasks.shutdown().await;
    // The first error of a link itself says more than one passed on.
    let mut first = None;
    let mut everything_applied =
        finished.iter().all(|link| matches!(link.result, Ok(Closed::Stopped))) && grace_holds(grace);
    let mut over = Vec::new();
    for link in finished {
        if let (Err(Error::HistoryLost { .. }), Some(name)) =
            (&link.result, names.get(usize::from(link.number)))
        {
            // Another attempt is not to ask for what comes next.
            let state = LinkState { epoch: name.epoch, stage: Stage::Snapshot(0) };
            over.push((field::link(&name.name), state.to_string()));
        }
        if link.again && options.mirror == Mirror::Off {
            ends.note(AGAIN);
        }
        ends.counts.add(&link.counts);
        if let Err(error) = link.result {
            first.get_or_insert(error);
        }
        everything_applied &= link.applied;
        if !link.temporaries.is_empty() {
            remove_temporaries(&target, &link.temporaries, ends).await;
        }
        if link.kept {
            ends.journal = Some(root.path().display().to_string());
        }
    }
    let directory = root.path().to_owned();
    if ends.journal.is_some() {
        root.leave();
    }
    release_end.cancel();
    let released = if everything_applied && result.is_ok() && !target.core().has_failed() {
        match release.await {
            Ok(release) => release.finish(caught_up && !source_was_writing).await,
            Err(e) => Err(Error::Internal(format!("the task that puts deadlines ended: {e}"))),
        }
    } else {
        release.abort();
        Ok(())
    };
    ends.note_expiry(target.hold());
    let counts = target.core().counts.clone();
    ends.note_target(&counts);
    let failure = target.core().take_failure();
    let failed = failure.or(first).or(result.err()).or(released.err());
    if failed.is_none() && everything_applied && caught_up && !source_was_writing {
        // Done: nobody will go on with it.
        remove_checkpoints(&target, ends).await;
        Foreign::forget(&directory)?;
    } else {
        leave(&target, failed.as_ref(), &over).await;
    }
    driver.abort();
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(if caught_up {
        Outcome::CaughtUp { source_was_writing }
    } else {
        Outcome::Stopped { everything_applied }
    })
}

/// What a person should know when a snapshot comes over another one.
pub(crate) const AGAIN: &str = "the source sent everything once more: the target may hold keys that the source has deleted \
                                since it sent it before";

/// Leaves the target so that another run can go on; `over` is what is to stand there of links whose stream is over.
pub(super) async fn leave(target: &Target, failed: Option<&Error>, over: &[(String, String)]) {
    if matches!(failed, Some(Error::Fenced { .. } | Error::FencedForGood { .. } | Error::StateGone { .. })) {
        return;
    }
    // What is not written is done again.
    tokio::time::timeout(LEAVE, target.write_snapshots()).await.ok();
    if !(target.has_one_lane() && target.is_exact()) {
        tokio::time::timeout(LEAVE, target.write_positions()).await.ok();
    }
    if !over.is_empty() {
        target.close_positions().await;
        // Where this is not possible, the next one finds out by itself.
        tokio::time::timeout(LEAVE, target.fence().write(over, &[])).await.ok();
    }
    if let Some(Error::Refused(refusal)) = failed
        && refusal.passed
    {
        // The position is behind it: nobody would ever know.
        let refused = [(field::REFUSED.to_owned(), refusal.to_string())];
        tokio::time::timeout(LEAVE, target.fence().write(&refused, &[])).await.ok();
    }
    target.fence().release().await;
}

fn grace_holds(grace: Option<tokio::time::Instant>) -> bool {
    grace.is_none_or(|at| tokio::time::Instant::now() < at)
}

/// One link at work.
struct LinkRun {
    number: u16,
    stream: Locator,
    slots: Option<SlotSet>,
    meter: Meter,
    options: Options,
    target: Arc<Target>,
    stop: CancellationToken,
    /// Ends the intake.
    end: CancellationToken,
    /// Away while its thread uses it.
    encoder: Option<SnapshotEncoder>,
    intake: Option<Intake>,
    reader: Option<SpoolReader>,
    /// It goes on from here in the stream.
    resume: Option<Position>,
    again: bool,
    root: JournalRoot,
    /// What was at the target before, where that matters.
    foreign: Foreign,
}

/// How a link ended.
struct LinkEnd {
    number: u16,
    /// A snapshot has come over another one.
    again: bool,
    result: Result<Closed, Error>,
    counts: SnapshotCounts,
    /// Everything received has been applied.
    applied: bool,
    temporaries: Vec<Temporary>,
    /// The rest is in the journal.
    kept: bool,
}

impl LinkRun {
    async fn run(mut self, journal: Journal, plan: resume::Plan) -> LinkEnd {
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
                self.target.begin_snapshot(self.number, &position, skip).await?;
                if !self.apply_snapshot(snapshot, skip).await? {
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
        let (policy, foreign) = (self.options.mirror, self.foreign.clone());
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
        let mut feed = SnapshotFeed::new(Arc::clone(&self.target), self.number);
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

/// Removes half-built keys of a run that ended early.
pub(super) async fn remove_temporaries(target: &Target, temporaries: &[Temporary], ends: &mut Ends) {
    let mut aside = Aside::new(target);
    for Temporary { db, key, .. } in temporaries {
        let command = Command::new([b"DEL", &key[..]]);
        let Ok(db) = target.databases().to(*db) else { continue };
        let cause = Cause { command: &command, db, offset: None };
        let slot = keyferry_routing::slot(key);
        let commands = std::slice::from_ref(&command);
        let removed =
            tokio::time::timeout(Duration::from_secs(5), aside.ask(slot, db, commands, cause)).await;
        if !matches!(removed, Ok(Ok(_))) {
            ends.notes.push(format!(
                "the half-built key {} in database {db} of the target could not be removed: delete it, or migrate \
                 again, which replaces it",
                key.escape_ascii()
            ));
        }
    }
}

/// Removes the migration's own keys when they are of no more use.
pub(super) async fn remove_checkpoints(target: &Target, ends: &mut Ends) {
    // Whoever writes them from time to time is done with it.
    target.close_positions().await;
    target.fence().end().await;
    let owners: Vec<(String, Vec<u16>)> = {
        let core = target.core();
        let slots = |node: usize| (0..SLOTS).filter(|&slot| core.owner(slot) == Some(node)).collect();
        core.owners().into_iter().map(|node| (core.node_address(node).to_owned(), slots(node))).collect()
    };
    let id = target.checkpoints().id();
    let mut aside = Aside::new(target);
    let mut all = true;
    for (address, slots) in owners {
        let keys: Vec<(u16, String)> = match target.has_one_lane() {
            true => Vec::new(),
            false => slots.iter().map(|&slot| (slot, slot_key(slot))).collect(),
        };
        let removed = async {
            let options = target.map().connect_options(&address).with_db(0);
            let mut connection = Connection::connect(&options).await.map_err(Error::Target)?;
            let mut pipeline = keyferry_client::Pipeline::new();
            for (_, key) in &keys {
                pipeline.push(["DEL", key]);
            }
            let replies = connection.pipeline(&pipeline).await.map_err(Error::Target)?;
            // Slots that have gone elsewhere, or are on their way.
            let refused = keys.iter().zip(&replies).filter(|(_, reply)| reply.error_reply().is_some());
            for ((slot, key), _) in refused {
                let command = Command::new(["DEL", key]);
                let cause = Cause { command: &command, db: 0, offset: None };
                aside.ask(*slot, 0, std::slice::from_ref(&command), cause).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = removed.await {
            all = false;
            ends.notes.push(format!(
                "the migration's own keys (keyferry:*) could not all be removed from {address} ({}): delete them",
                error.to_line()
            ));
        }
    }
    if all {
        // At last, as no connection is let through without it.
        let keys = Command::new(["DEL", &id.state_key(), &id.owner_key()]);
        let cause = Cause { command: &keys, db: 0, offset: None };
        if let Err(error) = aside.ask(id.slot(), 0, std::slice::from_ref(&keys), cause).await {
            ends.notes.push(format!(
                "what the target keeps of the migration could not be removed ({}): delete {} and {}",
                error.to_line(),
                id.state_key(),
                id.owner_key()
            ));
        }
    }
}
