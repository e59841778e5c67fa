//! How fast a migration may be, changeable while it runs.
//!
//! A [`Throttle`] is a handle: it sets rates, pauses and resumes, and tells what was waited for. The work takes from it before it
//! hands anything to the target ([`Throttle::take`]), and before it asks a source that is scanned for more. The source's
//! replication stream is read at full speed all the same: what waits is in memory and in the journal, never at the source.

mod adaptive;
mod bucket;
mod divide;
mod names;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use self::adaptive::{Side, Watched};
use self::bucket::Bucket;
pub(crate) use self::divide::divided;
pub use self::names::InvalidLimit;

/// What is waited for is looked at again after so long, so that the time waited is always told.
const LOOK: Duration = Duration::from_millis(250);

/// For so long work is handed over in one go.
const QUANTUM: f64 = 0.02;

/// How fast something may be, in units a second. None, or 0, is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rates {
    /// Bytes of commands.
    pub bytes: Option<u64>,
    /// Keys: of the snapshot, or read from a source that is scanned. In the stream there are none.
    pub keys: Option<u64>,
    /// Commands.
    pub commands: Option<u64>,
}

/// How fast a migration may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RateLimits {
    /// While the snapshot is applied, at all nodes of the target together.
    pub full: Rates,
    /// While commands of the stream are applied, at all nodes of the target together.
    pub incremental: Rates,
    /// As `full`, at each primary of the target.
    pub full_node: Rates,
    /// As `incremental`, at each primary of the target.
    pub incremental_node: Rates,
    /// What `SCAN` and `DUMP` ask of each primary of a source that is scanned: keys, and bytes of their values.
    pub source: Rates,
    /// Slow down while an answer takes this much longer than it did at best, at a primary of the target or of the source. Not where
    /// bytes are forwarded without being looked into.
    #[serde(serialize_with = "milliseconds")]
    pub adaptive: Option<Duration>,
}

fn milliseconds<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).serialize(to)
}

impl RateLimits {
    /// True when nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        let all = [&self.full, &self.incremental, &self.full_node, &self.incremental_node, &self.source];
        all.into_iter().all(Rates::is_unlimited) && self.adaptive.is_none()
    }
}

impl Rates {
    fn is_unlimited(&self) -> bool {
        self.each().iter().all(Option::is_none)
    }

    fn each(&self) -> [Option<u64>; 3] {
        [self.bytes, self.keys, self.commands].map(|rate| rate.filter(|&rate| rate > 0))
    }
}

/// Sets how fast a migration may be, before and while it runs. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Throttle(Arc<Shared>);

/// What a throttle did, and is at.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ThrottleFigures {
    /// What is set.
    pub limits: RateLimits,
    /// Nothing is handed over until it is resumed.
    pub paused: bool,
    /// Seconds that links to the source have waited, by what they waited for: `full`, `incremental`, `full-node`,
    /// `incremental-node`, `source`, `adaptive`, `paused`. Links that wait at the same time each count.
    pub waited_seconds: BTreeMap<&'static str, f64>,
    /// Bytes a second that [`RateLimits::adaptive`] allows at the moment; none while it does not slow down.
    pub adaptive_bytes: Option<u64>,
    /// Bytes a second below which it does not go, so that the journal, and with it the source, can bear it.
    pub adaptive_floor_bytes: u64,
    /// How long each server took to answer when it was asked last, in seconds.
    pub latency_seconds: BTreeMap<String, f64>,
    /// True when the stream may be applied no faster than the source writes, so that the target falls behind.
    pub falls_behind: bool,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    Full,
    Incremental,
}

/// What is to be handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) bytes: u64,
    pub(crate) keys: u64,
    pub(crate) commands: u64,
}

/// Something that has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    All(Stage),
    Node(Stage, usize),
    Source(usize),
    Adaptive,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::All(Stage::Full) => "full",
            Place::All(Stage::Incremental) => "incremental",
            Place::Node(Stage::Full, _) => "full-node",
            Place::Node(Stage::Incremental, _) => "incremental-node",
            Place::Source(_) => "source",
            Place::Adaptive => "adaptive",
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when something was set.
    changed: Notify,
    /// Something may have to be waited for.
    is_active: AtomicBool,
    /// Bytes that were handed over, ever.
    taken: AtomicU64,
    /// A pause is over when the run is to end.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    limits: RateLimits,
    paused: bool,
    /// Of bytes, keys and commands.
    buckets: HashMap<Place, [Option<Bucket>; 3]>,
    waited: BTreeMap<&'static str, Duration>,
    /// What adapting allows, in bytes a second.
    cap: Option<u64>,
    floor: u64,
    source_rate: u64,
    latency: BTreeMap<String, Duration>,
}

impl Throttle {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Throttle(Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            is_active: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            stop,
        }))
    }

    /// What is set.
    #[must_use]
    pub fn limits(&self) -> RateLimits {
        self.lock().limits
    }

    /// Sets other limits, at once.
    pub fn set_limits(&self, limits: RateLimits) {
        self.change(|state| {
            state.limits = limits;
            if limits.adaptive.is_none() {
                (state.cap, state.floor) = (None, 0);
                state.latency.clear();
            }
        });
    }

    /// Hands nothing over to the target any more, and asks a source that is scanned for nothing more. A source that replicates is
    /// read all the same. What was handed over before is done.
    pub fn pause(&self) {
        self.change(|state| state.paused = true);
    }

    /// Goes on.
    pub fn resume(&self) {
        self.change(|state| state.paused = false);
    }

    /// True between [`Throttle::pause`] and [`Throttle::resume`].
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.lock().paused
    }

    /// What it did, and is at.
    #[must_use]
    pub fn figures(&self) -> ThrottleFigures {
        let state = self.lock();
        let slowest = state.limits.incremental.bytes.into_iter().chain(state.cap).min();
        ThrottleFigures {
            limits: state.limits,
            paused: state.paused,
            waited_seconds: state.waited.iter().map(|(&name, time)| (name, time.as_secs_f64())).collect(),
            adaptive_bytes: state.cap,
            adaptive_floor_bytes: state.floor,
            latency_seconds: state
                .latency
                .iter()
                .map(|(name, time)| (name.clone(), time.as_secs_f64()))
                .collect(),
            falls_behind: slowest.is_some_and(|slowest| slowest < state.source_rate),
        }
    }

    /// True when something may have to be waited for.
    pub(crate) fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Relaxed)
    }

    /// Waits until this may be handed over, at the node of this number; none where each part of it finds its node by itself
    /// ([`Throttle::take_node`]).
    pub(crate) async fn take(&self, stage: Stage, node: Option<usize>, load: Load) {
        self.0.taken.fetch_add(load.bytes, Ordering::Relaxed);
        if self.is_active() {
            let places = [Place::All(stage), Place::Adaptive, Place::Node(stage, node.unwrap_or(0))];
            self.wait(&places[..2 + usize::from(node.is_some())], load).await;
        }
    }

    /// Waits until a node may be given this part of the stream, by what it may be given alone.
    pub(crate) async fn take_node(&self, node: usize, load: Load) {
        self.wait(&[Place::Node(Stage::Incremental, node)], load).await;
    }

    /// True when nodes of the target have limits of their own for the stream.
    pub(crate) fn limits_nodes(&self) -> bool {
        self.is_active() && !self.lock().limits.incremental_node.is_unlimited()
    }

    /// Waits until more may be asked of a primary of the source, which has just given this.
    pub(crate) async fn take_source(&self, node: usize, load: Load) {
        if self.is_active() {
            self.wait(&[Place::Source(node)], load).await;
        }
    }

    /// What is to be handed over in one go at most, so that rates are even.
    pub(crate) fn quantum(&self, stage: Stage) -> Load {
        let mut most = Load { bytes: u64::MAX, keys: u64::MAX, commands: u64::MAX };
        if !self.is_active() {
            return most;
        }
        let state = self.lock();
        for place in [Place::All(stage), Place::Node(stage, 0), Place::Adaptive] {
            let [bytes, keys, commands] = state.rates(place);
            for (most, rate) in
                [(&mut most.bytes, bytes), (&mut most.keys, keys), (&mut most.commands, commands)]
            {
                if let Some(rate) = rate {
                    *most = (*most).min(((rate as f64 * QUANTUM) as u64).max(1));
                }
            }
        }
        most
    }

    async fn wait(&self, places: &[Place], load: Load) {
        loop {
            let told = self.0.changed.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            let is_stopped = self.0.stop.is_cancelled();
            let Err((why, time)) = self.lock().take(places, load, is_stopped) else { return };
            let since = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(time.min(LOOK)) => {}
                () = told => {}
                () = self.0.stop.cancelled(), if why == PAUSED => {}
            }
            *self.lock().waited.entry(why).or_default() += since.elapsed();
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let is_active = state.paused || !state.limits.is_unlimited() || state.cap.is_some();
        drop(state);
        self.0.is_active.store(is_active, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is waited for while it is paused.
const PAUSED: &str = "paused";

impl State {
    /// Bytes, keys and commands a second.
    fn rates(&self, place: Place) -> [Option<u64>; 3] {
        let RateLimits { full, incremental, full_node, incremental_node, source, .. } = &self.limits;
        match place {
            Place::All(Stage::Full) => full.each(),
            Place::All(Stage::Incremental) => incremental.each(),
            Place::Node(Stage::Full, _) => full_node.each(),
            Place::Node(Stage::Incremental, _) => incremental_node.each(),
            Place::Source(_) => source.each(),
            Place::Adaptive => [self.cap, None, None],
        }
    }

    /// Takes it from all places; or tells what has to be waited for, and how long at least.
    fn take(
        &mut self,
        places: &[Place],
        load: Load,
        is_stopped: bool,
    ) -> Result<(), (&'static str, Duration)> {
        if self.paused && !is_stopped {
            return Err((PAUSED, LOOK));
        }
        let now = Instant::now();
        let mut longest = None;
        for &place in places {
            let rates = self.rates(place);
            let buckets = self.buckets.entry(place).or_default();
            for (bucket, rate) in buckets.iter_mut().zip(rates) {
                match rate {
                    None => *bucket = None,
                    Some(rate) => {
                        let bucket = bucket.get_or_insert_with(|| Bucket::new(rate, now));
                        bucket.set_rate(rate);
                        if let Some(wait) = bucket.wait(now)
                            && longest.is_none_or(|(_, longest)| longest < wait)
                        {
                            longest = Some((place.name(), wait));
                        }
                    }
                }
            }
        }
        if let Some(longest) = longest {
            return Err(longest);
        }
        for place in places {
            let Some(buckets) = self.buckets.get_mut(place) else { continue };
            for (bucket, amount) in buckets.iter_mut().zip([load.bytes, load.keys, load.commands]) {
                if let Some(bucket) = bucket {
                    bucket.take(amount);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
