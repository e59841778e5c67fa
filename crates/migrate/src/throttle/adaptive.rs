//! Slowing down while servers answer slowly.
//!
//! A thread of its own asks every primary of both sides for a `PING`, so that what is measured is theirs and not this program's. When
//! an answer takes too much longer than it did at best, the bytes a second that may be handed over are halved; while it does not, they grow
//! by a tenth four times a second, until they limit nothing any more.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use keyferry_client::{Backoff, ConnectOptions, Connection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Throttle;
use crate::progress::{Meter, Phase};

/// How often servers are asked, and it is decided, on average. Never at even intervals: a server that is busy at intervals
/// of its own would be asked at the same point of them each time, be it just before or just after it is free.
const TICK: Duration = Duration::from_millis(250);

/// An answer that has not come by then has taken so long.
const LONGEST: Duration = Duration::from_secs(2);

/// After the rate was halved it is left alone for so long: what is under way has to be done first.
const PAUSE: Duration = Duration::from_secs(1);

/// Of the last so many answers the middle one counts: one alone may be slow for any reason.
const RECENT: usize = 3;

/// How much it grows at a time.
const GROWTH: f64 = 1.1;

/// It never goes below so many bytes a second.
const LEAST: f64 = 64.0 * 1024.0;

/// How much faster than the source writes it stays at least, where that matters.
const AHEAD: f64 = 1.2;

/// The servers of one side.
pub(crate) type Side = Box<dyn Fn() -> Vec<ConnectOptions> + Send>;

/// What is watched.
pub(crate) struct Watched {
    pub(crate) throttle: Throttle,
    /// The whole migration's figures.
    pub(crate) meter: Meter,
    pub(crate) source: Side,
    pub(crate) target: Side,
    /// Bytes that the journal may hold.
    pub(crate) journal_max: Option<u64>,
}

/// One server.
struct Probe {
    options: ConnectOptions,
    name: String,
    connection: Option<Connection>,
    recent: VecDeque<Duration>,
    best: Duration,
}

/// The rate that is allowed.
#[derive(Debug, Default)]
pub(super) struct Controller {
    cap: Option<f64>,
    /// The highest rate that was seen without a cap.
    highest: f64,
    halved: Option<Instant>,
}

impl Controller {
    /// Decides once. `rate` is how many bytes a second were handed over last.
    pub(super) fn step(&mut self, is_slow: bool, rate: f64, floor: f64, now: Instant) -> Option<u64> {
        let least = floor.max(LEAST);
        if is_slow {
            let rests = self.halved.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
            if !rests {
                self.halved = Some(now);
                let from = self.cap.map_or(rate, |cap| cap.min(rate));
                self.cap = Some((from / 2.0).max(least));
            }
        } else if let Some(cap) = &mut self.cap {
            *cap *= GROWTH;
            if *cap > 2.0 * self.highest.max(least) {
                self.cap = None;
            }
        } else {
            self.highest = (self.highest * 0.99).max(rate);
        }
        if let Some(cap) = &mut self.cap {
            *cap = cap.max(least);
        }
        self.cap.map(|cap| cap as u64)
    }
}

impl Watched {
    /// Watches on a thread of its own, until `end`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(self, end: CancellationToken) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("keyferry-latency".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = self.watch() => {}
                    () = end.cancelled() => {}
                }
            });
        })?;
        Ok(())
    }

    async fn watch(self) {
        let mut probes: HashMap<String, Probe> = HashMap::new();
        let mut controller = Controller::default();
        let mut handed: VecDeque<(Instant, u64)> = VecDeque::new();
        let longest = TICK * 3 / 2;
        let mut ticks = Backoff::new(longest, longest).with_floor(TICK / 2).with_factor(1);
        loop {
            tokio::time::sleep(ticks.next_delay()).await;
            let source_rate = self.meter.source_rate();
            self.throttle.lock().source_rate = source_rate;
            let Some(bearable) = self.throttle.limits().adaptive else {
                (probes, controller) = (HashMap::new(), Controller::default());
                handed.clear();
                continue;
            };
            self.ask(&mut probes).await;
            let is_slow = probes.values().any(|probe| probe.is_slow(bearable));
            let now = Instant::now();
            handed.push_back((now, self.throttle.0.taken.load(Ordering::Relaxed)));
            if handed.len() > 5 {
                handed.pop_front();
            }
            let (Some(first), Some(last)) = (handed.front(), handed.back()) else { continue };
            let passed = last.0.duration_since(first.0).as_secs_f64();
            if passed <= 0.0 {
                continue;
            }
            let rate = (last.1 - first.1) as f64 / passed;
            let floor = if self.must_keep_up() { source_rate as f64 * AHEAD } else { 0.0 };
            let cap = controller.step(is_slow, rate, floor, now);
            self.throttle.change(|state| {
                // It may have been turned off meanwhile.
                state.cap = cap.filter(|_| state.limits.adaptive.is_some());
                state.floor = floor.max(LEAST) as u64;
                state.latency = probes
                    .values()
                    .filter_map(|probe| Some((probe.name.clone(), *probe.recent.back()?)))
                    .collect();
            });
        }
    }

    /// True when what is not applied has to wait at a place that is not without end: once the snapshot is applied, what the source
    /// writes comes on top; while it is, the journal holds it.
    fn must_keep_up(&self) -> bool {
        let figures = self.meter.figures();
        let fills = self.journal_max.is_some_and(|most| figures.journal_backlog > most / 2);
        fills || figures.held_up || matches!(figures.phase, Phase::CatchingUp | Phase::Following)
    }

    async fn ask(&self, probes: &mut HashMap<String, Probe>) {
        let sides = [("source", (self.source)()), ("target", (self.target)())];
        let mut asked = JoinSet::new();
        for (side, servers) in sides {
            for options in servers {
                let name = format!("{side} {}", options.address());
                let probe = probes.remove(&name).unwrap_or_else(|| Probe::new(options, name));
                asked.spawn(probe.ask());
            }
        }
        // Those that are not there any more are forgotten.
        probes.clear();
        while let Some(probe) = asked.join_next().await {
            if let Ok(probe) = probe {
                probes.insert(probe.name.clone(), probe);
            }
        }
    }
}

impl Probe {
    fn new(options: ConnectOptions, name: String) -> Self {
        let options = options.with_db(0);
        Probe { options, name, connection: None, recent: VecDeque::new(), best: LONGEST }
    }

    async fn ask(mut self) -> Self {
        if self.connection.is_none() {
            // A server that cannot be reached is others' matter.
            let connected = tokio::time::timeout(LONGEST, Connection::connect(&self.options)).await;
            self.connection = connected.ok().and_then(Result::ok);
        }
        let Some(connection) = &mut self.connection else { return self };
        let since = Instant::now();
        let took = match tokio::time::timeout(LONGEST, connection.call_frame(["PING"])).await {
            Ok(Ok(_)) => since.elapsed(),
            Ok(Err(_)) => {
                self.connection = None;
                return self;
            }
            Err(_) => {
                // What comes later would be taken for the next answer.
                self.connection = None;
                LONGEST
            }
        };
        self.best = self.best.min(took);
        self.recent.push_back(took);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self
    }

    fn is_slow(&self, bearable: Duration) -> bool {
        let mut recent: Vec<Duration> = self.recent.iter().copied().collect();
        recent.sort_unstable();
        recent.get(recent.len() / 2).is_some_and(|&middle| middle > self.best + bearable)
    }
}
