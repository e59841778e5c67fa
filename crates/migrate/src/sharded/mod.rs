//! Targets of several nodes, and everything that needs to look into commands: clusters, servers behind sentinels, several
//! sources into one, databases that change their number.
//!
//! **Takes** keys of a snapshot and commands of a stream, from one link to the source or several. **Gives** them to the
//! nodes that own their slots: in order within a slot, over one pipeline a node. **Promises** that what must not be
//! repeated is executed once, whatever is lost on the way: see [`core`]. **Refuses**, with the command and its offset,
//! what has no place on the target.
//!
//! Where one server takes over from another of the same kind, [`crate::pipeline`] forwards the bytes as they are.

mod ahead;
mod aside;
mod batch;
mod both_ways;
mod checkpoint;
mod compute;
mod core;
mod databases;
mod existing;
mod feed;
mod filtered;
mod flush;
mod from_now;
mod given;
mod guarded;
mod hand_over;
mod import;
mod item;
mod lane;
mod leave;
mod link;
mod links;
mod map;
mod mirror;
mod msetex;
mod node;
mod plan;
mod positions;
mod release;
mod rewritten;
mod run;
mod runs;
mod session;
mod settled;
mod snapshot_feed;
pub(crate) mod state;
mod sweep;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use keyferry_client::Connection;
use keyferry_resp::ErrorReply;
use keyferry_routing::{CommandTable, SlotSet};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
};

use self::{
    checkpoint::Checkpoints,
    core::{Core, Rules},
    feed::StreamFeed,
    snapshot_feed::SnapshotFeed,
};
pub(crate) use self::{
    checkpoint::{forgetting, slot_key},
    core::{Counts, Windows, reason},
    databases::Databases,
    feed::LIMITS,
    from_now::join,
    import::{Import, import},
    map::TargetMap,
    mirror::Foreign,
    msetex::as_sets,
    run::{AGAIN, LinkSource, Sides, run},
};
use crate::{
    dead_letters::DeadLetters,
    error::Error,
    existing::Existing,
    fence::{Barred, Fence},
    filter::Filter,
    hold::Hold,
    options::{CrossSlotPolicy, Delivery},
    progress::Meter,
    rewrite::Script,
    throttle::{self, Stage, Throttle},
    translate::Translation,
    two_way,
};

/// Work beside the pipelines that may go on at the same time.
const TURNS: usize = 24;

/// How often held-back lanes are looked at.
const TICK: Duration = Duration::from_millis(5);

/// How long a node must have said that its replicas are gone: a replica that takes over leaves before others know of it.
const ALONE_AFTER: Duration = Duration::from_secs(2);

/// A target, shared by all links.
#[derive(Debug)]
pub(crate) struct Target {
    core: Mutex<Core>,
    map: Arc<TargetMap>,
    fence: Fence,
    checkpoints: Arc<Checkpoints>,
    delivery: Delivery,
    one_lane: bool,
    goes_ahead: bool,
    positions: positions::Written,
    table: CommandTable,
    databases: Databases,
    meter: Meter,
    silence: Duration,
    retry_window: Duration,
    in_trouble: AtomicBool,
    /// The target knows `PEXPIRETIME` (7.0).
    expiry_time: bool,
    cross_slot: CrossSlotPolicy,
    hold: Arc<Hold>,
    filter: Option<Arc<Filter>>,
    script: Option<Arc<Script>>,
    translation: Option<Translation>,
    pool: aside::Pool,
    /// Work beside the pipelines that may go on at the same time.
    turns: Semaphore,
    throttle: Throttle,
    /// The slots that are touched, where other workers have others.
    part: Option<SlotSet>,
    /// What is known of the keys that were there before, once it is.
    existing: OnceLock<Arc<Existing>>,
    /// The other link, where there is one in the other direction.
    two_way: Option<Arc<two_way::Link>>,
}

/// What a target is made of.
pub(crate) struct Settings {
    pub(crate) map: Arc<TargetMap>,
    /// The commands of both sides.
    pub(crate) table: CommandTable,
    pub(crate) databases: Databases,
    /// The whole migration's figures.
    pub(crate) meter: Meter,
    /// Those of each link, and the slots of its shard, where the source is a cluster.
    pub(crate) links: Vec<(Meter, Option<SlotSet>)>,
    /// How long a node may owe a reply.
    pub(crate) silence: Duration,
    /// How long what passes may last.
    pub(crate) windows: Windows,
    /// The target knows `PEXPIRETIME` (7.0).
    pub(crate) expiry_time: bool,
    pub(crate) cross_slot: CrossSlotPolicy,
    /// Which deadlines are held.
    pub(crate) hold: Arc<Hold>,
    pub(crate) delivery: Delivery,
    /// Where commands go that are refused for good.
    pub(crate) letters: Option<DeadLetters>,
    /// A filter that does something.
    pub(crate) filter: Option<Arc<Filter>>,
    /// What rewrites commands.
    pub(crate) script: Option<Arc<Script>>,
    pub(crate) throttle: Throttle,
    /// What commands need that the target does not know.
    pub(crate) translation: Option<Translation>,
    /// Only these slots are touched: others belong to other workers.
    pub(crate) part: Option<SlotSet>,
    /// The other link, where there is one in the other direction.
    pub(crate) two_way: Option<Arc<two_way::Link>>,
}

impl Settings {
    /// As [`Target::has_one_lane`].
    pub(crate) fn has_one_lane(&self) -> bool {
        self.map.is_single() && self.links.iter().all(|(_, slots)| slots.is_none())
    }
}

impl Target {
    /// A target that `fence` allows to be written to, with what it keeps of the migration.
    pub(crate) fn new(settings: Settings, fence: Fence, checkpoints: Checkpoints) -> Arc<Self> {
        let checkpoints = Arc::new(checkpoints);
        let one_lane = settings.has_one_lane();
        // Of commands that are refused for good each has to be known: in what stands alone only the first is.
        // And what goes without a checkpoint would come back by another link.
        let goes_ahead = one_lane
            && settings.delivery == Delivery::ExactlyOnce
            && settings.letters.is_none()
            && settings.two_way.is_none();
        let rules = Rules {
            single: one_lane,
            exact: settings.delivery == Delivery::ExactlyOnce,
            ahead: if goes_ahead { ahead::WINDOW } else { 0 },
            windows: settings.windows,
            alone_after: ALONE_AFTER,
        };
        let (meters, shards) = settings.links.into_iter().unzip();
        let mut core = Core::new(rules, Arc::clone(&checkpoints), meters);
        core.set_shards(shards);
        core.set_part(settings.part.clone());
        if let Some(letters) = settings.letters {
            core.set_letters(letters);
        }
        core.two_way.clone_from(&settings.two_way);
        core.set_lease(Arc::clone(&fence.lease));
        core.counts.live = settings.meter.clone();
        Arc::new(Target {
            core: Mutex::new(core),
            map: settings.map,
            fence,
            checkpoints,
            delivery: settings.delivery,
            one_lane,
            goes_ahead,
            positions: positions::Written::default(),
            table: settings.table,
            databases: settings.databases,
            meter: settings.meter,
            silence: settings.silence,
            retry_window: settings.windows.connect,
            in_trouble: AtomicBool::new(false),
            expiry_time: settings.expiry_time,
            cross_slot: settings.cross_slot,
            hold: settings.hold,
            filter: settings.filter,
            script: settings.script,
            translation: settings.translation,
            pool: aside::Pool::default(),
            turns: Semaphore::new(TURNS),
            throttle: settings.throttle,
            part: settings.part,
            existing: OnceLock::new(),
            two_way: settings.two_way,
        })
    }

    /// Keeps the connections, the map of slots and the clock going, until the future is dropped.
    pub(crate) async fn drive(self: Arc<Self>) -> Error {
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_map(Arc::clone(&self)));
        tasks.spawn(tick(Arc::clone(&self)));
        tasks.spawn(hold(Arc::clone(&self)));
        tasks.spawn(positions::keep(Arc::clone(&self)));
        let mut running = HashMap::new();
        loop {
            // New nodes turn up in the map and in redirections.
            let nodes: Vec<(usize, String)> = {
                let core = self.core();
                (0..core.nodes()).map(|node| (node, core.node_address(node).to_owned())).collect()
            };
            for (node, address) in nodes {
                running.entry(node).or_insert_with(|| {
                    let connect = self.map.connect_options(&address);
                    tasks.spawn(node::run(Arc::clone(&self), node, connect));
                });
            }
            let trouble = self.core().take_trouble();
            if let Some(trouble) = trouble {
                self.show_trouble(trouble);
            }
            tokio::select! {
                error = self.failed() => return error,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(crate) fn silence(&self) -> Duration {
        self.silence
    }

    pub(crate) fn table(&self) -> &CommandTable {
        &self.table
    }

    pub(crate) fn databases(&self) -> &Databases {
        &self.databases
    }

    pub(crate) fn map(&self) -> &TargetMap {
        &self.map
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// True when everything goes in one lane: one server holds all slots, and the source is no cluster whose shards may lose
    /// some of theirs.
    pub(crate) fn has_one_lane(&self) -> bool {
        self.one_lane
    }

    /// True when what may be repeated goes ahead of the transactions; see [`ahead`].
    pub(crate) fn goes_ahead(&self) -> bool {
        self.goes_ahead
    }

    /// Nothing may be executed twice.
    pub(crate) fn is_exact(&self) -> bool {
        self.delivery == Delivery::ExactlyOnce
    }

    /// What is known of the keys that were there before the migration began.
    pub(crate) fn set_existing(&self, existing: &Arc<Existing>) {
        self.existing.get_or_init(|| Arc::clone(existing));
        if existing.is_guarded() {
            self.core().guard();
        }
        existing.keep_in(self.filter(), &self.databases);
    }

    /// # Errors
    /// When it could not be told of a key whether it was there before.
    pub(crate) fn check_existing(&self) -> Result<(), Error> {
        self.existing.get().map_or(Ok(()), |existing| existing.check())
    }

    /// Waits for a turn to work beside the pipelines; it ends with the value.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    pub(crate) fn pool(&self) -> &aside::Pool {
        &self.pool
    }

    pub(crate) fn refuses_cross_slot(&self) -> bool {
        self.cross_slot == CrossSlotPolicy::Fail
    }

    pub(crate) fn has_script(&self) -> bool {
        self.script.is_some()
    }

    pub(crate) fn script(&self) -> Option<Arc<Script>> {
        self.script.clone()
    }

    pub(crate) fn filter(&self) -> Option<&Arc<Filter>> {
        self.filter.as_ref()
    }

    /// The slots that are this worker's, where there are several workers.
    pub(crate) fn part(&self) -> Option<&SlotSet> {
        self.part.as_ref()
    }

    /// True unless the slot belongs to another worker.
    pub(crate) fn is_ours(&self, slot: u16) -> bool {
        self.part.as_ref().is_none_or(|part| part.contains(slot))
    }

    pub(crate) fn translation(&self) -> Option<&Translation> {
        self.translation.as_ref()
    }

    /// The other link, where there is one in the other direction.
    pub(crate) fn two_way(&self) -> Option<&Arc<two_way::Link>> {
        self.two_way.as_ref()
    }

    pub(crate) fn tells_expiry_time(&self) -> bool {
        self.expiry_time
    }

    pub(crate) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    pub(crate) fn windows(&self) -> Windows {
        self.core().windows()
    }

    /// True when something that has been refused since then is to be tried again.
    pub(crate) fn waits_for(&self, error: &ErrorReply, since: Instant) -> bool {
        let window = self.windows().of(&reason(error)).filter(|_| !self.core().has_failed());
        window.is_some_and(|window| since.elapsed() < window)
    }

    /// True when what has been away since then is not to be waited for any longer: also of a target that has failed, as
    /// when somebody else has taken over.
    pub(crate) fn is_late(&self, since: Instant) -> bool {
        since.elapsed() >= self.retry_window || self.core().has_failed()
    }

    /// The target as a whole, for messages.
    pub(crate) fn name(&self) -> String {
        self.map.name()
    }

    /// Something that passes, shown to whoever watches.
    pub(crate) fn note_trouble(&self, error: &keyferry_client::Error) {
        self.meter.count_error("target_connection");
        self.show_trouble(error.to_string());
    }

    fn show_trouble(&self, trouble: String) {
        self.in_trouble.store(true, Ordering::Relaxed);
        self.meter.note_trouble(Some(format!("target: {trouble}")));
    }

    /// Something has been answered; unless that was another refusal, all is well again.
    pub(crate) fn clear_trouble(&self) {
        if self.in_trouble.load(Ordering::Relaxed) && self.core().is_refused() {
            return;
        }
        if self.in_trouble.swap(false, Ordering::Relaxed) {
            self.meter.note_trouble(None);
        }
    }

    /// Returns when the target has failed for good; [`Core::take_failure`] tells of what.
    pub(crate) async fn failed(&self) -> Error {
        let over = Arc::clone(&self.core().over);
        loop {
            let told = over.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.core().has_failed() {
                return gone();
            }
            told.await;
        }
    }

    /// Makes sure that a new connection may be used; ends everything when nothing may be written any more.
    pub(crate) async fn admit(&self, connection: &mut Connection) -> Result<(), keyferry_client::Error> {
        // Before the target is asked: other connections may confirm more meanwhile.
        let confirmed = self.core().lost(&state::State::default()).map_or(0, |(had, _)| had);
        match self.fence.check(connection).await {
            Ok(state) => {
                // What comes by this connection would go on where the target is not any more.
                let lost = self.core().lost(&state).filter(|(_, has)| *has < confirmed);
                match lost {
                    None => Ok(()),
                    Some((had, has)) => {
                        let address = connection.address().to_string();
                        self.core().fail(Error::TargetRolledBack { address, had, has });
                        Err(keyferry_client::Error::OutOfStep { address: connection.address().clone() })
                    }
                }
            }
            Err(Barred::Lost(error)) => Err(error),
            Err(Barred::Fenced(error)) => {
                self.core().fail(error);
                Err(keyferry_client::Error::OutOfStep { address: connection.address().clone() })
            }
        }
    }

    /// Waits until the link may hand over more.
    pub(crate) async fn room(&self, link: u16) -> Result<(), Error> {
        self.wait_link(link, |account| account.has_room()).await
    }

    /// Waits until this may be handed over to whoever serves the slot.
    pub(crate) async fn throttled(
        &self,
        stage: Stage,
        slot: Option<u16>,
        load: throttle::Load,
    ) -> Result<(), Error> {
        let active = self.throttle.is_active();
        let node = slot.filter(|_| active).map(|slot| self.core().owner(slot).unwrap_or(0));
        tokio::select! {
            () = self.throttle.take(stage, node, load) => Ok(()),
            error = self.failed() => Err(error),
        }
    }

    /// As [`Target::throttled`], of a command of the stream, by what its node may be given alone.
    async fn throttled_at(&self, slot: u16, load: throttle::Load) -> Result<(), Error> {
        let node = self.core().owner(slot).unwrap_or(0);
        tokio::select! {
            () = self.throttle.take_node(node, load) => Ok(()),
            error = self.failed() => Err(error),
        }
    }

    /// Waits until everything that the link has handed over is done or held back.
    pub(crate) async fn settled(&self, link: u16) -> Result<(), Error> {
        self.wait_link(link, |account| account.is_settled()).await
    }

    async fn wait_link(&self, link: u16, ready: impl Fn(&links::LinkAccount) -> bool) -> Result<(), Error> {
        loop {
            let room = {
                let mut core = self.core();
                if core.has_failed() {
                    return Err(gone());
                }
                let Some(account) = core.link(link) else {
                    return Err(Error::Internal(format!("there is no link {link}")));
                };
                if ready(account) {
                    return Ok(());
                }
                Arc::clone(&account.room)
            };
            // A notification between the look and the wait is made good by the next one; this bounds the delay.
            tokio::time::timeout(TICK, room.notified()).await.ok();
        }
    }
}

/// What everybody else ends with when the target has failed.
fn gone() -> Error {
    Error::Internal("the target has failed".into())
}

/// Keeps the right to write.
async fn hold(target: Arc<Target>) {
    let error = target.fence.hold(|| target.core().lease_renewed()).await;
    target.core().fail(error);
}

/// Keeps the map of slots fresh: when somebody stumbles over it, and from time to time.
async fn watch_map(target: Arc<Target>) {
    const PERIOD: Duration = Duration::from_secs(2);
    /// No more often than this.
    const PAUSE: Duration = Duration::from_millis(100);
    let topology = Arc::clone(&target.core().topology);
    loop {
        match target.map.survey().await {
            Ok(survey) => {
                let mut core = target.core();
                survey.apply(&mut core);
                core.ask_for_replicas();
            }
            Err(error) => target.note_trouble(&error),
        }
        tokio::time::sleep(PAUSE).await;
        tokio::time::timeout(PERIOD, topology.notified()).await.ok();
    }
}

/// Lets lanes go on that were held back.
async fn tick(target: Arc<Target>) {
    let timer = Arc::clone(&target.core().timer);
    loop {
        timer.notified().await;
        loop {
            tokio::time::sleep(TICK).await;
            if !target.core().release_held(Instant::now()) {
                break;
            }
        }
    }
}
