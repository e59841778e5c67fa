//! Both links from beginning to end.

use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyferry_client::{Connection, Endpoint, Frame, Version};
use keyferry_replication::AckPolicy;
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    Link, SideName, TwoWay, TwoWayFinished, TwoWayReport,
    conflicts::Conflicts,
    link::{SEEN, Shared, Start, position_of},
    notes::{self, Noted, Notes},
    settle::Settler,
    state::State as Known,
};
use crate::{
    error::Error,
    identity::MigrationId,
    migration::{Finished, Migration, Stopper},
    options::{Delivery, Expiry, Mirror, OnError, OnExists, Options, SourceMode, Until},
    progress::{Meter, Phase},
    sharded::{
        TargetMap,
        state::{State, field},
    },
};

/// How often is looked how far a link has come.
const LOOK: Duration = Duration::from_millis(10);

/// The field of the state of the link from the source that tells that there was one back.
const BOTH_WAYS: &str = "both-ways";

/// What the name of the link back ends with.
const BACK: &str = ".back";

/// Stops both links when the run is dropped.
struct StopOnDrop([Stopper; 2]);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(Stopper::stop);
    }
}

/// A link at work.
struct Running {
    task: Option<JoinHandle<Finished>>,
    finished: Option<Finished>,
}

impl Running {
    fn of(migration: Migration) -> Self {
        Running { task: Some(tokio::spawn(migration.run())), finished: None }
    }

    /// Returns when it has ended; never, if that is known.
    async fn ended(&mut self) {
        match &mut self.task {
            Some(task) => {
                self.finished = task.await.ok();
                self.task = None;
            }
            None => std::future::pending().await,
        }
    }
}

impl TwoWay {
    /// Runs until it is stopped, or fails. It needs a tokio runtime; each link has a thread of its own. Dropping the future stops both.
    pub async fn run(mut self) -> TwoWayFinished {
        let _stop = StopOnDrop([self.forward.stopper(), self.back.stopper()]);
        let policy = self.policy;
        let progress = self.progress();
        let (mut reports, mut id) = ((None, None), String::new());
        let prepared = self.prepare().await;
        let result = match prepared {
            Ok(prepared) => {
                id = prepared.shared.ids[0].to_string();
                Box::pin(prepared.run(&mut reports)).await
            }
            Err(error) => Err(error),
        };
        let (from_source, from_target) = progress.counts();
        let known = progress.shared.get().map(|shared| shared.state());
        let conflicts = known.as_ref().map(|state| &state.conflicts);
        let report = TwoWayReport {
            id,
            policy,
            ready: progress.is_ready(),
            forward: reports.0,
            back: reports.1,
            from_source,
            from_target,
            conflicts: conflicts.map_or(0, |conflicts| conflicts.count),
            refused: conflicts.map_or(0, |conflicts| conflicts.refused),
            settled: conflicts.map_or(0, |conflicts| conflicts.settled),
            unsettled: known.as_ref().map_or(0, |state| state.settlings.len() as u64),
            samples: conflicts.map(|conflicts| conflicts.samples.clone()).unwrap_or_default(),
        };
        drop(known);
        TwoWayFinished { report, result }
    }

    /// Refuses what [`TwoWay::run`] would refuse before it writes anything, and looks at both sides for that. The migration can be run afterwards.
    ///
    /// # Errors
    /// [`Error::TwoWay`] for options, sides, or what they hold of earlier runs; when a side cannot be asked, that.
    pub async fn check(&self) -> Result<(), Error> {
        self.look().await.map(drop)
    }

    /// Finds out what there is on both sides.
    async fn look(&self) -> Result<Found, Error> {
        check(&self.forward.options)?;
        let ends = [self.forward.source.servers().cloned(), self.back.source.servers().cloned()];
        let [Some(source), Some(target)] = ends else {
            return Err(refuse("files are no side that could be written to"));
        };
        let name = self.forward.id()?;
        let back_name = format!("{name}{BACK}");
        let ids = [name, MigrationId::parse(&back_name)?];
        let mut maps = Vec::new();
        let mut connections = Vec::new();
        for (end, error) in
            [(source, Error::SourceConnection as fn(_) -> _), (target, Error::Target as fn(_) -> _)]
        {
            let end = end.detect().await.map_err(error)?;
            if matches!(end, Endpoint::Cluster(_)) {
                return Err(refuse(
                    "a side is a cluster, and both have to be single servers (or such as sentinels watch)",
                ));
            }
            let map = TargetMap::new(end);
            let connection = notes::connect(&map).await.map_err(error)?;
            if connection.server().version < Version::new(5, 0, 0) {
                return Err(refuse("a side is older than 5.0"));
            }
            maps.push(map);
            connections.push(connection);
        }
        let ([source, target], [mut at_source, mut at_target]) =
            (pair(maps, "sides")?, pair(connections, "connections")?);
        let forward = read_state(&mut at_target, &ids[0]).await.map_err(Error::Target)?;
        let back = read_state(&mut at_source, &ids[1]).await.map_err(Error::SourceConnection)?;
        let noted = notes::read(&mut at_target, &ids[0]).await.map_err(Error::Target)?;
        let resumes = attached(&forward, &back, &ids)?;
        Ok(Found { ids, source, target, at_source, at_target, forward, back, noted, resumes })
    }

    /// Finds out what there is, and makes both links.
    async fn prepare(&mut self) -> Result<Prepared, Error> {
        let options = self.forward.options.clone();
        let Found { ids, source, target, at_source, at_target, forward, back, noted, resumes } =
            self.look().await?;
        let mut known = Known::new(self.policy, Conflicts::open(self.conflicts.as_deref())?);
        for (key, settling) in noted {
            known.settlings.load(key, settling);
        }
        let seen = |state: &State| state.get(SEEN).and_then(position_of);
        let (of_target, of_source) = (seen(&forward), seen(&back));
        let starts = [
            Start { known: of_source.clone(), seen: of_target.clone() },
            Start { known: of_target, seen: of_source },
        ];
        for link in &mut known.links {
            link.armed = resumes;
        }
        let window = options.retry_connect;
        let shared = Arc::new(Shared {
            state: std::sync::Mutex::new(known),
            notes: Notes::new(TargetMap::new(target_of(&self.forward)), &ids[0], window),
            ids,
            resumes: AtomicBool::new(resumes),
            followed: AtomicBool::new(resumes),
            starts: std::sync::Mutex::new(if resumes { starts } else { Default::default() }),
            exact: Default::default(),
            is_exact: Notify::new(),
            work: Notify::new(),
            values: Notify::new(),
            over: AtomicBool::new(false),
            run: RandomState::new().hash_one(std::process::id()),
        });
        self.shared.set(Arc::clone(&shared)).ok();

        let meters = [self.forward.meter.clone(), self.back.meter.clone()];
        let stoppers = [self.forward.stopper(), self.back.stopper()];
        let [forward, back] = self.links(&shared, &options, resumes);
        let settler = Settler {
            shared: Arc::clone(&shared),
            maps: [source, target],
            meters: meters.clone(),
            connections: [Some(at_source), None],
        };
        Ok(Prepared {
            shared,
            forward,
            back,
            at_target,
            settler,
            meters,
            stoppers,
            ready: Arc::clone(&self.ready),
        })
    }

    /// Both links as migrations. What is left here in their place never runs.
    fn links(&mut self, shared: &Arc<Shared>, options: &Options, resumes: bool) -> [Migration; 2] {
        let take = |migration: &mut Migration| {
            let placeholder = Migration::new(target_of(migration), target_of(migration));
            std::mem::replace(migration, placeholder)
        };
        let (mut forward, mut back) = (take(&mut self.forward), take(&mut self.back));
        let mut options = options.clone();
        // Each link is a replica of the side that the other one writes to, and waits for no other to apply anything.
        options.link.acks = AckPolicy::Received;
        let journal = |name: &str| options.journal.as_ref().map(|journal| -> PathBuf { journal.join(name) });
        forward.options = Options {
            id: Some(shared.ids[0].to_string()),
            until: Until::Forever,
            journal: journal("forward"),
            expiry: if resumes { Expiry::AsItComes } else { options.expiry },
            from_now: options.from_now || resumes,
            ..options.clone()
        };
        back.options = Options {
            id: Some(shared.ids[1].to_string()),
            until: Until::Forever,
            journal: journal("back"),
            expiry: Expiry::AsItComes,
            from_now: true,
            mirror: Mirror::Off,
            ..options.clone()
        };
        forward.two_way = Some(Arc::new(Link::new(shared, SideName::Source)));
        back.two_way = Some(Arc::new(Link::new(shared, SideName::Target)));
        [forward, back]
    }
}

/// What there is before anything is written.
struct Found {
    ids: [MigrationId; 2],
    source: TargetMap,
    target: TargetMap,
    at_source: Connection,
    at_target: Connection,
    /// What the target knows of the link from the source, and the source of the one back.
    forward: State,
    back: State,
    noted: Vec<Noted>,
    /// Whether both links have begun before.
    resumes: bool,
}

/// Everything that is needed to begin.
struct Prepared {
    shared: Arc<Shared>,
    forward: Migration,
    back: Migration,
    at_target: Connection,
    settler: Settler,
    meters: [Meter; 2],
    stoppers: [Stopper; 2],
    ready: Arc<AtomicBool>,
}

type Reports = (Option<crate::Report>, Option<crate::Report>);

impl Prepared {
    async fn run(self, reports: &mut Reports) -> Result<(), Error> {
        let Prepared { shared, forward, back, mut at_target, settler, meters, stoppers, ready } = self;
        let mut forward = Running::of(forward);
        let mut first: Result<(), Error> = Ok(());
        let mut back = Some(back);
        let mut link_back = Running { task: None, finished: None };
        let mut settling = std::pin::pin!(settler.run());
        if !shared.resumes.load(Ordering::Relaxed) {
            let attach = attach(&shared, &meters[0], &mut at_target);
            tokio::select! {
                attached = attach => first = attached,
                () = forward.ended() => {}
            }
        }
        if first.is_ok()
            && forward.finished.is_none()
            && let Some(back) = back.take()
        {
            link_back = Running::of(back);
        }
        let both_follow = async {
            while meters.iter().any(|meter| meter.phase() != Phase::Following) {
                tokio::time::sleep(LOOK).await;
            }
            // Before anybody is told that both sides may be written to.
            let told = ["HSET", &shared.ids[0].state_key(), BOTH_WAYS, "begun"];
            at_target.call(told).await.map_err(Error::Target)
        };
        let mut both_follow = std::pin::pin!(both_follow);
        // Whatever ends first ends all.
        while first.is_ok() && forward.task.is_some() && link_back.task.is_some() {
            tokio::select! {
                () = forward.ended() => {}
                () = link_back.ended() => {}
                error = &mut settling => first = Err(error),
                told = &mut both_follow, if !ready.load(Ordering::Relaxed) => match told {
                    Ok(_) => ready.store(true, Ordering::Relaxed),
                    Err(error) => first = Err(error),
                },
            }
        }
        stoppers.iter().for_each(Stopper::stop);
        // Values may be waited for as long as a link applies what it has read.
        while forward.task.is_some() || link_back.task.is_some() {
            tokio::select! {
                () = forward.ended() => {}
                () = link_back.ended() => {}
                error = &mut settling, if first.is_ok() => {
                    first = Err(error);
                    shared.over.store(true, Ordering::Relaxed);
                }
            }
            if first.is_err() {
                shared.over.store(true, Ordering::Relaxed);
            }
        }
        for (running, report) in [(forward, &mut reports.0), (link_back, &mut reports.1)] {
            let Some(Finished { report: of_link, result }) = running.finished else { continue };
            *report = Some(of_link);
            first = first.and(result);
        }
        first
    }
}

/// Waits until the target has everything, and makes the link from the source ready for another one back.
async fn attach(shared: &Shared, forward: &Meter, at_target: &mut Connection) -> Result<(), Error> {
    while forward.phase() != Phase::Following {
        tokio::time::sleep(LOOK).await;
    }
    // What puts deadlines is no transaction that would be known when it comes back.
    shared.exact[0].store(true, Ordering::Relaxed);
    while !shared.exact[1].load(Ordering::Relaxed) {
        tokio::time::timeout(LOOK, shared.is_exact.notified()).await.ok();
    }
    // From here on nothing is copied as a whole any more.
    let key = shared.ids[0].state_key();
    let from_now = ["HSET", &key, field::FROM_NOW, field::FROM_NOW_BEGUN];
    at_target.call(from_now).await.map_err(Error::Target)?;
    shared.followed.store(true, Ordering::Relaxed);
    let armed = {
        let mut state = shared.state();
        state.links.iter_mut().for_each(|link| link.armed = true);
        state.link(SideName::Source).looked
    };
    while forward.applied_offset.load(Ordering::Relaxed) < armed {
        tokio::time::sleep(LOOK).await;
    }
    let state = read_state(at_target, &shared.ids[0]).await.map_err(Error::Target)?;
    let reached = state.links().find_map(|(_, link)| position_of(&link.to_string()));
    let Some(reached) = reached else {
        return Err(Error::Internal("the target does not hold how far it is".into()));
    };
    // Between what the target tells and where the source's writes are noted there were none.
    shared.state().link(SideName::Source).table.begin_at(armed.min(reached.offset));
    let mut starts = shared.starts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    starts[SideName::Target.number()] = Start { known: None, seen: Some(reached) };
    Ok(())
}

/// True when both links have begun before; false when neither has, or only the one from the source.
fn attached(forward: &State, back: &State, ids: &[MigrationId; 2]) -> Result<bool, Error> {
    let begun = |state: &State| {
        state.get(field::FROM_NOW) == Some(field::FROM_NOW_BEGUN) && state.links().next().is_some()
    };
    match (begun(forward), begun(back)) {
        (true, true) => Ok(true),
        (_, false) if forward.get(BOTH_WAYS).is_none() => Ok(false),
        (_, false) => Err(refuse(&format!(
            "the target holds {}, so that applications may have written to both sides, but the source does not hold what belongs to it \
             in {}: nobody knows any more what of it came from where. Make both sides equal, remove both, and begin again",
            ids[0].state_key(),
            ids[1].state_key(),
        ))),
        (false, true) => Err(refuse(&format!(
            "the source holds {}, so that applications may have written to the target, but the target does not hold what belongs to it \
             in {}: a copy would replace what they wrote. Make both sides equal, remove both, and begin again",
            ids[1].state_key(),
            ids[0].state_key(),
        ))),
    }
}

/// Refuses what does not go with both ways.
fn check(options: &Options) -> Result<(), Error> {
    let refused = [
        // Before filters: such keys are left alone by one.
        (
            options.on_exists != OnExists::Replace,
            "keys of the target that are left as they are (--on-exists)",
        ),
        (
            options.active_filter().is_some(),
            "filters: what is left out on the way there would be missing on the way back",
        ),
        (options.script.is_some(), "scripts: what they make of a command would come back as something else"),
        (!options.db_map.is_empty(), "databases that change their number"),
        (
            options.delivery != Delivery::ExactlyOnce,
            "delivery at least once: the other link knows by checkpoints what is not to go back",
        ),
        (options.on_error != OnError::Stop, "dead letters: what is refused is a conflict, and told as one"),
        (options.expiry == Expiry::HeldUntilEnd, "deadlines that are held until the end: there is none"),
        (
            !matches!(options.source_mode, SourceMode::Auto | SourceMode::Psync),
            "sources that are not read by PSYNC",
        ),
        (options.prefer_replicas, "reading from replicas"),
        (options.worker.is_some(), "several workers (--shard)"),
        (
            options.skip_refused,
            "commands that are passed over (--skip-refused): what is refused is a conflict",
        ),
    ];
    match refused.iter().find(|(refused, _)| *refused) {
        Some((_, what)) => Err(refuse(&format!("it does not go together with {what}"))),
        None => Ok(()),
    }
}

fn refuse(why: &str) -> Error {
    Error::TwoWay { why: why.to_owned() }
}

async fn read_state(connection: &mut Connection, id: &MigrationId) -> Result<State, keyferry_client::Error> {
    let reply: Frame = connection.call(["HGETALL", &id.state_key()]).await?;
    Ok(State::read(&reply).unwrap_or_default())
}

fn target_of(migration: &Migration) -> Endpoint {
    migration.target.clone()
}

fn pair<T>(two: Vec<T>, what: &str) -> Result<[T; 2], Error> {
    two.try_into().map_err(|_| Error::Internal(format!("two {what}")))
}
