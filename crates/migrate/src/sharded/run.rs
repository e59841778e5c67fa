//! Running a migration into a target of several nodes, from one link or several.

use std::{sync::Arc, time::Duration};

use keyferry_client::{ConnectOptions, Connection};
use keyferry_replication::Locator;
use keyferry_routing::SlotSet;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Settings, Target,
    ahead::WINDOW,
    checkpoint::{Checkpoints, Constant},
    existing::{Origin, Question, forget_all},
    from_now::FromNow,
    guarded::explain,
    hand_over::{check_slots, follow},
    leave::{LEAVE, leave, leave_fleet, remove_checkpoints, remove_temporaries},
    link::LinkRun,
    mirror::{First, Foreign},
    plan::Plan,
    release::Release,
    rewritten::begin_script,
    state::{LinkState, Stage, field},
    sweep::Owners,
};
use crate::{
    catch_up::{CatchUp, Watched},
    error::Error,
    existing::Existing,
    fence::{Fence, Token},
    fleet::{self, Part},
    hold::Hold,
    identity::MigrationId,
    journal::{JournalRoot, blocking},
    migration::Migration,
    options::Mirror,
    prepare::Identity,
    progress::{Meter, Phase},
    report::{Ends, Outcome},
    resume::{self, Applied},
    run::STOP_GRACE,
    snapshot::SnapshotEncoder,
    source::{Ownership, Watchable, watch},
    spool::Closed,
    target::Abilities,
    throttle::{self, Side},
};

/// How often the shards of a source are asked for their slots.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

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
    /// The primaries of the source.
    pub(crate) servers: Vec<ConnectOptions>,
    /// A snapshot may hold a key twice, as it is read by `SCAN`.
    pub(crate) repeats: bool,
    pub(crate) settings: Settings,
    pub(crate) abilities: Abilities,
    pub(crate) id: MigrationId,
    pub(crate) token: Token,
    /// What this process carries over, where it is one of several.
    pub(crate) part: Option<Part>,
}

/// Runs to the end, and cleans up after itself.
pub(crate) async fn run(
    migration: &Migration,
    sides: Sides,
    root: JournalRoot,
    ends: &mut Ends,
) -> Result<Outcome, Error> {
    let Sides { mut links, ownership, servers, repeats, mut settings, abilities, id, token, part } = sides;
    let Migration { options, meter, stop, .. } = migration;
    meter.enter(Phase::Preparing);
    // A worker may have to read one more shard the next time.
    let several = links.len() > 1 || part.is_some();
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
    let plan = fleet::check(&state, part.as_ref(), &id)
        .and_then(|()| Plan::of(&state, &links, (&from, &to, &changes), &id, options.skip_refused));
    let from_now = FromNow::of(&state, options.from_now);
    let (mut plan, begun) = match plan {
        Ok(mut plan) => {
            let begun = plan.is_begun() && from_now != FromNow::Begins;
            ends.resumed = plan.is_resumed();
            match from_now.begin(&mut plan, &links, &options.link).await {
                Ok(()) => (plan, begun),
                Err(error) => {
                    fence.release().await;
                    return Err(error);
                }
            }
        }
        Err(error) => {
            fence.release().await;
            return Err(error);
        }
    };
    if let Some(part) = &part {
        plan.keep(field::WORKER, &part.text());
        ends.note(&format!("worker {}: the slots {}", part.worker, part.slots));
    }
    if let Some(two_way) = migration.two_way.as_ref().filter(|of| !of.resumes() && from_now.is_set()) {
        plan.fields.extend(two_way.first_fields());
    }
    ends.notes.append(&mut plan.notes);
    fence.write(&plan.fields, &plan.outdated).await?;
    let first = First::of(&state);
    if begun {
        // Deadlines that a run before has held may be anywhere.
        settings.hold = Arc::new(Hold::new(options.expiry, abilities.deadline_forms(), true));
    }
    let one_lane = settings.has_one_lane();
    let checkpoints = Checkpoints::new(id, one_lane, plan.names.clone())
        .telling(migration.two_way.as_ref())
        .keeping(Constant { fields: plan.constant.clone(), token: fence.token().to_owned() });
    if let Some(told) = state.get(field::FOREIGN) {
        checkpoints.keep_foreign(told);
    }
    let target = Target::new(settings, fence, checkpoints);
    for ((number, link), applied) in (0..).zip(&mut links).zip(&plan.applied) {
        let Applied::Stream(position) = applied else { continue };
        let until = match &mut link.control {
            _ if from_now == FromNow::Begins || migration.two_way.is_some() => position.offset,
            _ if one_lane && target.is_exact() => position.offset.saturating_add(WINDOW),
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
    let watched_until = CancellationToken::new();
    let _watched_until = watched_until.clone().drop_guard();
    watch_latency(migration, &target, servers.clone(), watched_until)?;
    let release_end = CancellationToken::new();
    let release = tokio::spawn(Release::new(Arc::clone(&target), meters).follow(release_end.clone()));
    let end = stop.child_token();
    let mut tasks = JoinSet::new();
    let mut watched = Vec::new();
    let mut begun = Vec::new();
    let names = plan.names.clone();
    let each = links.into_iter().zip(plan.names).zip(plan.applied);
    for (number, ((link, name), mut applied)) in each.enumerate() {
        if let (Some(two_way), Applied::Stream(position)) = (&migration.two_way, &mut applied) {
            *position = two_way.begin(position);
        }
        let number = u16::try_from(number).map_err(|_| Error::Internal("more links than slots".into()))?;
        let (at, label) = (root.clone(), several.then_some(name.name));
        let (journal, kept) = blocking(move || at.link(label.as_deref())).await?;
        ends.notes.extend(kept.notes.iter().cloned());
        let start = resume::Plan::of(&kept, &applied);
        let rewriting = begin_script(options, link.slots.is_some())?;
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
                    .losing(options.on_loss)
                    .dividing()
                    .holding(target.hold(), target.databases())
                    .filtering(options.active_filter())
                    .rewriting(rewriting)
                    .of_slots(part.as_ref().map(|part| &part.slots)),
            ),
            intake: None,
            reader: None,
            resume,
            again: false,
            root: root.clone(),
            existing: Existing::replacing(Foreign::Unknown),
            repeats,
        };
        begun.push((run, journal, start));
    }
    let existing = match migration.existing.get() {
        // The directory of an attempt before may be gone, and a flush takes with it what the target was told.
        Some(known) => Ok(Some(known.stale())),
        None => {
            let (source, id) = (Origin::Servers(&servers), target.checkpoints().id().to_string());
            // Without a full copy there is never a second one, after which something could be removed.
            let matters = options.mirror == Mirror::Owned && !from_now.is_set();
            let question = Question { options, directory: root.path(), first, id, source, matters };
            tokio::select! {
                existing = question.answer(&target) => existing.map(Some),
                () = stop.cancelled() => Ok(None),
            }
        }
    };
    if let Ok(Some(known)) = &existing
        && known.count().is_some()
    {
        migration.existing.set(Arc::clone(known)).ok();
    }
    match existing {
        Ok(Some(existing)) => {
            target.set_existing(&existing);
            ends.before = existing.count();
            begun.iter_mut().for_each(|(run, ..)| run.existing = Arc::clone(&existing));
        }
        unknown => {
            let error = unknown.err().map(|error| target.core().take_failure().unwrap_or(error));
            match &error {
                // Nothing was written, and nothing is to stay.
                Some(error) if error.is_before_all() => {
                    remove_checkpoints(&target, ends).await;
                    leave_fleet(&target, part.as_ref(), false, ends).await;
                }
                error => leave(&target, error.as_ref(), &[]).await,
            }
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
        if let (Err(Error::HistoryLost { .. }), Some(name), false) =
            (&link.result, names.get(usize::from(link.number)), from_now.is_set())
        {
            // Another attempt is not to ask for what comes next.
            let state = LinkState { epoch: name.epoch, stage: Stage::Snapshot(0) };
            over.push((field::link(&name.name), state.to_string()));
        }
        if link.again && options.mirror == Mirror::Off {
            ends.note(AGAIN);
        }
        ends.counts.add(&link.counts);
        match link.result {
            // What is missing is in no snapshot that could be taken for it.
            Err(Error::HistoryLost { had, now }) if from_now.is_set() => {
                first.get_or_insert(Error::FromNowLost { had, now });
            }
            Err(error) => {
                first.get_or_insert(error);
            }
            Ok(_) => {}
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
    let mut failed = failure.or(first).or(result.err()).or(released.err()).map(explain);
    if let (None, true, Some(part)) = (&failed, caught_up, &part) {
        failed = check_slots(migration, &target, part).await.err();
    }
    if failed.is_none() && everything_applied && caught_up && !source_was_writing {
        // Done: nobody will go on with it.
        remove_checkpoints(&target, ends).await;
        leave_fleet(&target, part.as_ref(), true, ends).await;
        forget_all(&directory)?;
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

/// Slows down while servers answer slowly, where that is asked for.
pub(super) fn watch_latency(
    migration: &Migration,
    target: &Arc<Target>,
    servers: Vec<ConnectOptions>,
    end: CancellationToken,
) -> Result<(), Error> {
    let of_target = Arc::clone(target);
    let target: Side = Box::new(move || {
        let addresses = Owners::addresses(&of_target);
        addresses.iter().map(|address| of_target.map().connect_options(address)).collect()
    });
    let watched = throttle::Watched {
        throttle: migration.throttle.clone(),
        meter: migration.meter.clone(),
        source: Box::new(move || servers.clone()),
        target,
        journal_max: migration.options.journal_max,
    };
    watched.start(end).map_err(|e| Error::Internal(format!("cannot start a thread: {e}")))
}

/// What a person should know when a snapshot comes over another one.
pub(crate) const AGAIN: &str = "the source sent everything once more: the target may hold keys that the source has deleted \
                                since it sent it before";

fn grace_holds(grace: Option<tokio::time::Instant>) -> bool {
    grace.is_none_or(|at| tokio::time::Instant::now() < at)
}
