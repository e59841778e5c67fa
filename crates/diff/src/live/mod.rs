//! Comparing two live sides key by key, in rounds.

mod barrier;
mod big;
mod compare;
mod databases;
mod finding;
mod functions;
mod nodes;
mod options;
mod quick;
mod read;
mod repair;
mod scan;
mod suspects;
mod values;
mod work;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyferry_client::{Endpoint, Vendor};
use keyferry_routing::{SLOTS, SlotSet, Topology};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use options::{Depth, LiveOptions, Sample, UnknownDepth, WrongSample};
pub use quick::quick;
pub use repair::{RepairOptions, RepairReport, RepairWhat, UnknownRepair};
pub use suspects::Suspects;

use crate::cutoff::now;
use crate::difference::{Difference, DifferenceKind};
use crate::digest::{DigestOptions, Hash};
use crate::error::Error;
use crate::options::DiffOptions;
use crate::progress::{DiffProgress, Phase};
use crate::report::{DiffReport, RoundReport, SampleReport, SideReport};
use crate::results::DifferenceSink;
use crate::store::Room;
use compare::Rules;
use databases::{Pair, pairs};
use finding::{Finding, Outcome};
use nodes::{LiveSide, Nodes};
use scan::{Chooser, Scan, ScanCounts};
use work::{Pace, Shared, Work};

/// How long to wait before keys of slots that move are looked for again.
const RESCAN_AFTER: Duration = Duration::from_millis(100);

/// How often keys in motion are looked at before they are given up.
const BARRIER_ROUNDS: u32 = 50;
/// How long keys in motion are left alone between looks.
const STILL_FOR: Duration = Duration::from_millis(200);

/// A comparison of two live sides key by key, both directions in one run.
///
/// Keys are found with `SCAN` on both sides, clusters at every primary, and read in bulk: strings by `MGET`, other values by `DUMP`,
/// whose payloads are compared as bytes and decoded only where these differ; big keys in parts. Keys that differ are
/// looked at again in further rounds, so that what was under way arrives: only what differs in the last round is told.
///
/// ```no_run
/// use keyferry_diff::{Difference, LiveDiff};
///
/// let mut diff = LiveDiff::new("redis://old-host".parse()?, "redis+cluster://new-1,new-2".parse()?);
/// diff.live_mut().sample = Some("1%".parse()?);
/// let mut differences: Vec<Difference> = Vec::new();
/// let report = diff.run(&mut differences)?;
/// println!("{report}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LiveDiff {
    sides: [Endpoint; 2],
    options: DiffOptions,
    live: LiveOptions,
    progress: DiffProgress,
}

impl LiveDiff {
    /// Of these two, with default options.
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        Self {
            sides: [source, target],
            options: DiffOptions::default(),
            live: LiveOptions::default(),
            progress: DiffProgress::default(),
        }
    }

    /// The options that all comparisons have, to be changed.
    pub fn options_mut(&mut self) -> &mut DiffOptions {
        &mut self.options
    }

    /// The options of comparing key by key, to be changed.
    pub fn live_mut(&mut self) -> &mut LiveOptions {
        &mut self.live
    }

    /// A view of how far it is.
    pub fn progress(&self) -> DiffProgress {
        self.progress.clone()
    }

    /// Compares, and gives every difference to `sink`, in no order. Those of rounds before the last go to
    /// [`DifferenceSink::suspect`].
    ///
    /// Blocks; it works on threads of its own, so it may be called from anywhere.
    ///
    /// # Errors
    ///
    /// Whenever it cannot be told whether the sides are equal; differences that were given out before are true.
    pub fn run(self, sink: &mut dyn DifferenceSink) -> Result<DiffReport, Error> {
        self.enter(None, sink)
    }

    /// Looks again at what differed in snapshots of the same two sides, with the same options, and gives what still does to
    /// `sink`. The comparison by snapshots counts as the first round.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn settle(
        self,
        suspects: Suspects,
        snapshots: DiffReport,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        self.enter(Some((suspects, snapshots)), sink)
    }

    fn enter(
        self,
        before: Option<(Suspects, DiffReport)>,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        let progress = self.progress.clone();
        let result = on_runtime(self.live.parallel, async move {
            let mut run = Run::new(self).await?;
            match before {
                None => run.all(sink).await,
                Some((suspects, snapshots)) => run.settle(suspects, snapshots, sink).await,
            }
        });
        progress.enter(Phase::Done);
        result
    }
}

/// Runs a future on a runtime and a thread of its own, since the caller's may be in a runtime already.
pub(crate) fn on_runtime<T: Send>(
    parallel: usize,
    future: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("diff".to_owned());
        let thread = thread.spawn_scoped(scope, move || {
            let workers = std::thread::available_parallelism().map_or(1, usize::from).min(parallel.max(1));
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers)
                .enable_all()
                .build()
                .map_err(Error::Thread)?;
            let result = runtime.block_on(future);
            runtime.shutdown_background();
            result
        });
        thread.map_err(Error::Thread)?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Run {
    shared: Arc<Shared>,
    options: DiffOptions,
    progress: DiffProgress,
    hash: Hash,
    started: Instant,
    report: DiffReport,
    /// By pair, what the first round came to.
    first: Vec<Tally>,
}

/// What came of keys, in numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    looked: u64,
    gone: u64,
    expiring: u64,
    other_kind: u64,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.looked += outcome.looked;
        self.gone += outcome.gone;
        self.expiring += outcome.expiring;
        self.other_kind += outcome.other_kind;
    }
}

/// Keys that differ, each once.
#[derive(Debug, Default)]
struct Differing {
    seen: HashSet<(usize, Bytes)>,
    findings: Vec<(usize, Finding)>,
}

impl Differing {
    /// Takes out what was found in a pair of databases.
    fn forget(&mut self, pair: usize) {
        self.seen.retain(|(of, _)| *of != pair);
        self.findings.retain(|(of, _)| *of != pair);
    }

    fn add(&mut self, pair: usize, findings: Vec<Finding>) -> u64 {
        let mut repeated = 0;
        for mut finding in findings {
            // Its buffer holds the names of many other keys.
            finding.key = Bytes::copy_from_slice(&finding.key);
            if self.seen.insert((pair, finding.key.clone())) {
                self.findings.push((pair, finding));
            } else {
                repeated += 1;
            }
        }
        repeated
    }
}

impl Run {
    async fn new(diff: LiveDiff) -> Result<Self, Error> {
        let LiveDiff { sides: [source, target], options, live, progress } = diff;
        let started = Instant::now();
        let sides = [
            Arc::new(LiveSide::find(&source, options.patience).await?),
            Arc::new(LiveSide::find(&target, options.patience).await?),
        ];
        let pairs = pairs(&sides, &options).await?;
        // Servers of these vendors are known to count keys that expire as they should.
        let counted =
            |side: &LiveSide| matches!(side.server().vendor, Vendor::Redis | Vendor::Valkey | Vendor::Redict);
        let sure = sides.iter().all(|side| counted(side));
        let deadlines = pairs.iter().map(|pair| !sure || pair.expires != [0, 0]).collect();
        let seed = RandomState::new().hash_one(now());
        let mut report = DiffReport::default();
        let mut tolerance = options.ttl_tolerance;
        let least = Duration::from_secs(1);
        if tolerance < least && !sides.iter().all(|side| side.tells_deadlines()) {
            report.notes.push(
                "a server before Redis 7.0 tells only how long a key has left: expiries may lie a second apart".to_owned(),
            );
            tolerance = least;
        }
        let rules = Rules {
            kinds: options.selection.kinds.clone(),
            tolerance: u64::try_from(tolerance.as_millis()).unwrap_or(u64::MAX),
            digest: DigestOptions {
                seed,
                unreplicated: options.unreplicated,
                limits: options.limits.clone(),
                ..DigestOptions::default()
            },
            room: Room { memory: options.memory, directory: options.temporary_directory.clone() },
            lengths: Default::default(),
            live,
        };
        let pace = Pace::new(rules.live.keys_per_second);
        let first = vec![Tally::default(); pairs.len()];
        let shared = Arc::new(Shared { sides, pairs, deadlines, rules: Arc::new(rules), pace });
        let hash = Hash::new(seed);
        let mut run = Self { shared, options, progress, hash, started, report, first };
        run.describe();
        Ok(run)
    }

    /// What is known of the sides before anything is compared.
    fn describe(&mut self) {
        self.report.depth = self.shared.rules.live.depth;
        self.report.selected = !self.options.selection.is_everything();
        for (number, side) in self.shared.sides.iter().enumerate() {
            let report = side_report(&mut self.report, number);
            report.name = side.name().to_owned();
            let (vendor, version) = (&side.server().vendor, side.server().version);
            report.parts = side
                .nodes()
                .all
                .iter()
                .map(|node| format!("{} ({vendor} {version})", node.connect.address()))
                .collect();
            let announced: u64 = self.shared.pairs.iter().map(|pair| pair.keys[number]).sum();
            self.progress.side(number).announced.store(announced, Ordering::Relaxed);
        }
    }

    async fn all(&mut self, sink: &mut dyn DifferenceSink) -> Result<DiffReport, Error> {
        self.progress.enter(Phase::Reading);
        let detail = self.detail(1, sink);
        let mut differing = Differing::default();
        let mut again = Vec::new();
        for pair in 0..self.shared.pairs.len() {
            self.scan_pair(pair, detail, &mut differing).await?;
            again.push(self.expiries_came_up(pair).await?);
        }
        let again: Vec<usize> = (0..again.len()).filter(|&pair| again[pair]).collect();
        if !again.is_empty() {
            let mut deadlines = self.shared.deadlines.clone();
            again.iter().for_each(|&pair| deadlines[pair] = true);
            let old = &self.shared;
            let pace = Pace::new(old.rules.live.keys_per_second);
            self.shared = Arc::new(Shared {
                sides: old.sides.clone(),
                pairs: old.pairs.clone(),
                rules: Arc::clone(&old.rules),
                deadlines,
                pace,
            });
            for pair in again {
                self.first[pair] = Tally::default();
                differing.forget(pair);
                self.scan_pair(pair, detail, &mut differing).await?;
            }
        }
        let looked = self.first.iter().map(|tally| tally.looked).sum();
        self.report.rounds.push(RoundReport::new(looked, differing.findings.len() as u64));
        let mut tally = Tally::default();
        for pair in &self.first {
            tally.looked += pair.looked;
            tally.gone += pair.gone;
            tally.expiring += pair.expiring;
            tally.other_kind += pair.other_kind;
        }
        self.report.source.left_out.kind = tally.other_kind;
        let differing = self.rounds(differing, &mut tally, sink).await?;
        self.conclude(&differing, tally);
        self.give(&differing, sink)?;
        if self.options.functions {
            for difference in functions::compare(&self.shared.sides, &mut self.report).await? {
                self.difference(&difference, sink)?;
            }
        }
        self.finish()
    }

    async fn settle(
        &mut self,
        suspects: Suspects,
        snapshots: DiffReport,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        let (keys, certain) = suspects.into_parts();
        let notes = std::mem::take(&mut self.report.notes);
        self.started = Instant::now()
            .checked_sub(Duration::try_from_secs_f64(snapshots.seconds).unwrap_or_default())
            .unwrap_or(self.started);
        self.report = snapshots;
        self.report.notes.extend(notes);
        let looked = self.report.equal + keys.len() as u64;
        self.report.rounds.push(RoundReport::new(looked, keys.len() as u64));
        self.report.differences = Default::default();
        let mut differing = Differing::default();
        for (db, key) in keys {
            let of = |pair: &Pair| u64::from(pair.target) == db;
            let mut of_db = (0..self.shared.pairs.len()).filter(|&pair| of(&self.shared.pairs[pair]));
            // No such database any more: then the key is gone as well.
            let Some(pair) = of_db.next() else { continue };
            let finding = Finding {
                key,
                kinds: Vec::new(),
                held: [None, None],
                fields: Default::default(),
                moving: false,
            };
            differing.add(pair, vec![finding]);
        }
        let mut tally = Tally { looked, expiring: self.report.expiring, ..Tally::default() };
        let differing = self.rounds(differing, &mut tally, sink).await?;
        self.conclude(&differing, tally);
        self.give(&differing, sink)?;
        for difference in certain {
            self.difference(&difference, sink)?;
        }
        self.finish()
    }

    /// Whether a round tells which elements of values differ.
    fn detail(&self, round: u32, sink: &dyn DifferenceSink) -> bool {
        let last = round >= self.shared.rules.live.rounds && self.shared.rules.live.barrier.is_none();
        last || sink.wants_suspects()
    }

    /// Looks at all keys of a pair of databases.
    async fn scan_pair(&mut self, pair: usize, detail: bool, differing: &mut Differing) -> Result<(), Error> {
        let mut owners = self.shared.sides.clone().map(|side| Some(side.nodes()));
        let mut moved: [Option<SlotSet>; 2] = [None, None];
        let mut end = None;
        loop {
            self.scan(pair, detail, &moved, &owners, differing).await?;
            // Keys of slots that moved meanwhile may have been where nobody looked.
            for side in 0..2 {
                let before = owners[side].take();
                let (now, slots) = moved_slots(&self.shared.sides[side], before.as_deref()).await?;
                owners[side] = now;
                moved[side] = Some(slots);
            }
            if moved.iter().flatten().all(SlotSet::is_empty) {
                return Ok(());
            }
            if Instant::now() > *end.get_or_insert_with(|| Instant::now() + self.options.patience) {
                break;
            }
            tokio::time::sleep(RESCAN_AFTER).await;
        }
        let side = usize::from(moved[0].as_ref().is_none_or(SlotSet::is_empty));
        Err(Error::SlotsMoved {
            cluster: self.shared.sides[side].name().to_owned(),
            slots: moved[side].as_ref().map(ToString::to_string).unwrap_or_default(),
        })
    }

    /// Goes once over the keys of both sides; later only over those of slots that moved.
    async fn scan(
        &mut self,
        pair: usize,
        detail: bool,
        moved: &[Option<SlotSet>; 2],
        owners: &[Option<Arc<Nodes>>; 2],
        differing: &mut Differing,
    ) -> Result<(), Error> {
        let rules = &self.shared.rules;
        let chooser = Arc::new(Chooser::new(&self.options, &rules.live, self.hash));
        let mut tasks = JoinSet::new();
        let (sender, mut done) = work::start(&self.shared, detail, &mut tasks);
        let (counts, mut counted) = mpsc::channel::<Result<(usize, ScanCounts), Error>>(64);
        for side in 0..2 {
            let Some(db) = self.shared.pairs[pair].of(side) else { continue };
            if side == 1 && self.is_seen_as_target(pair) {
                continue;
            }
            for node in owners[side].iter().flat_map(|nodes| &nodes.all) {
                let slots = match &moved[side] {
                    Some(slots) if slots.is_empty() => continue,
                    Some(slots) => Some(slots.clone()),
                    None => node.slots.clone(),
                };
                let scan =
                    Scan::new(&self.shared.sides[side], node.clone(), db, &chooser, slots, rules.live.batch);
                let walk = Walk { scan, pair, side, progress: self.progress.clone() };
                let (sender, counts) = (sender.clone(), counts.clone());
                tasks.spawn(async move {
                    let end = walk.go(&sender).await;
                    // Nobody there to be told: it ended with another error.
                    let _ = counts.send(end).await;
                });
            }
        }
        drop((sender, counts));
        loop {
            tokio::select! {
                outcome = done.recv() => match outcome {
                    Some(outcome) => self.take(outcome?, differing),
                    None => break,
                },
                Some(end) = counted.recv() => self.count(end?),
            }
        }
        while let Some(end) = counted.recv().await {
            self.count(end?);
        }
        // A task that panicked would leave keys out.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        Ok(())
    }

    /// Whether the keys of the target's database were gone over with another pair.
    fn is_seen_as_target(&self, pair: usize) -> bool {
        let target = self.shared.pairs[pair].target;
        self.shared.pairs[..pair].iter().any(|other| other.target == target)
    }

    fn take(&mut self, (pair, outcome): (usize, Outcome), differing: &mut Differing) {
        self.first[pair].add(&outcome);
        outcome.findings.iter().for_each(|_| self.progress.found());
        // One that SCAN gave twice was counted twice.
        self.first[pair].looked -= differing.add(pair, outcome.findings).min(self.first[pair].looked);
    }

    fn count(&mut self, (side, counts): (usize, ScanCounts)) {
        if counts.restarts > 0 {
            let name = self.shared.sides[side].name();
            self.report.notes.push(format!("{name}: a server began anew, so its keys were gone over again"));
        }
        let report = side_report(&mut self.report, side);
        report.bookkeeping += counts.bookkeeping;
        report.stray += counts.stray;
        report.unsampled += counts.unsampled;
        report.scanned += counts.scanned;
        report.left_out.no_match += counts.left_out.no_match;
        report.left_out.excluded += counts.left_out.excluded;
        report.left_out.slot += counts.left_out.slot;
    }

    /// Whether expiries were not asked for, as there were none, and there are some now.
    async fn expiries_came_up(&self, pair: usize) -> Result<bool, Error> {
        if self.shared.deadlines[pair] {
            return Ok(false);
        }
        for (number, side) in self.shared.sides.iter().enumerate() {
            let counts = databases::counts(side).await?;
            let of = self.shared.pairs[pair].of(number).and_then(|db| counts.get(&db));
            if of.is_some_and(|(_, expires)| *expires > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks again at what differs, round by round.
    async fn rounds(
        &mut self,
        mut differing: Differing,
        tally: &mut Tally,
        sink: &mut dyn DifferenceSink,
    ) -> Result<Differing, Error> {
        if self.shared.rules.live.barrier.is_some() {
            return self.barrier_rounds(differing, tally, sink).await;
        }
        let (rounds, interval) = (self.shared.rules.live.rounds, self.shared.rules.live.interval);
        for round in 2..=rounds {
            if differing.findings.is_empty() {
                break;
            }
            for (pair, finding) in &differing.findings {
                for difference in self.differences(*pair, finding) {
                    sink.suspect(round - 1, &difference).map_err(Error::Results)?;
                }
            }
            self.progress.enter(Phase::Waiting);
            tokio::time::sleep(interval).await;
            self.progress.enter_round(round);
            differing = self.round(differing, self.detail(round, sink), tally).await?;
        }
        Ok(differing)
    }

    /// Looks at what differs until it stays still for as long as a look takes.
    async fn barrier_rounds(
        &mut self,
        mut moving: Differing,
        tally: &mut Tally,
        sink: &mut dyn DifferenceSink,
    ) -> Result<Differing, Error> {
        let mut settled = Differing::default();
        for round in 2..2 + BARRIER_ROUNDS {
            if moving.findings.is_empty() {
                break;
            }
            for (pair, finding) in moving.findings.iter().filter(|_| round == 2) {
                for difference in self.differences(*pair, finding) {
                    sink.suspect(1, &difference).map_err(Error::Results)?;
                }
            }
            if round > 2 {
                tokio::time::sleep(STILL_FOR.min(self.shared.rules.live.interval)).await;
            }
            self.progress.enter_round(round);
            let looked = self.round(std::mem::take(&mut moving), true, tally).await?;
            for (pair, finding) in looked.findings {
                let whose = if finding.moving { &mut moving } else { &mut settled };
                whose.add(pair, vec![finding]);
            }
        }
        self.report.unsettled = moving.findings.len() as u64;
        Ok(settled)
    }

    async fn round(
        &mut self,
        before: Differing,
        detail: bool,
        tally: &mut Tally,
    ) -> Result<Differing, Error> {
        let mut tasks = JoinSet::new();
        let (sender, mut done) = work::start(&self.shared, detail, &mut tasks);
        let count = before.findings.len() as u64;
        let mut keys: Vec<Vec<Bytes>> = vec![Vec::new(); self.shared.pairs.len()];
        before.findings.into_iter().for_each(|(pair, finding)| keys[pair].push(finding.key));
        drop(before.seen);
        // Smaller batches: what differs may be expensive to look at.
        let batch = self.shared.rules.live.batch.clamp(1, 256);
        tasks.spawn(async move {
            for (pair, keys) in keys.into_iter().enumerate() {
                for keys in keys.chunks(batch) {
                    let work = Work { pair, keys: keys.to_vec(), of_target: false, barrier: true };
                    if sender.send(work).await.is_err() {
                        return;
                    }
                }
            }
        });
        let mut after = Differing::default();
        while let Some(outcome) = done.recv().await {
            let (pair, outcome) = outcome?;
            tally.gone += outcome.gone;
            tally.expiring += outcome.expiring;
            after.add(pair, outcome.findings);
        }
        self.report.rounds.push(RoundReport::new(count, after.findings.len() as u64));
        Ok(after)
    }

    /// Brings the numbers of keys together.
    fn conclude(&mut self, differing: &Differing, tally: Tally) {
        let lack = |lack: DifferenceKind| {
            differing.findings.iter().filter(|(_, finding)| finding.kinds.contains(&lack)).count() as u64
        };
        let (source, target) = (lack(DifferenceKind::LackSource), lack(DifferenceKind::LackTarget));
        let there = tally.looked.saturating_sub(tally.gone + tally.expiring);
        let report = &mut self.report;
        report.source.keys = there.saturating_sub(source);
        report.target.keys = there.saturating_sub(target);
        report.both = there.saturating_sub(source + target);
        report.equal = there.saturating_sub(differing.findings.len() as u64 + report.unsettled);
        report.expiring = tally.expiring;
        if let Some(sample) = self.shared.rules.live.sample {
            let differ = differing.findings.len() as u64;
            report.sample = Some(SampleReport { share: sample.share(), looked: there, differ });
            report.selected = true;
        }
    }

    /// Gives out what differs in the end.
    fn give(&mut self, differing: &Differing, sink: &mut dyn DifferenceSink) -> Result<(), Error> {
        for (pair, finding) in &differing.findings {
            for difference in self.differences(*pair, finding) {
                self.difference(&difference, sink)?;
            }
        }
        Ok(())
    }

    fn difference(&mut self, difference: &Difference, sink: &mut dyn DifferenceSink) -> Result<(), Error> {
        self.report.differences.add(difference.kind);
        sink.difference(difference).map_err(Error::Results)
    }

    fn differences(&self, pair: usize, finding: &Finding) -> Vec<Difference> {
        let db = u64::from(self.shared.pairs[pair].target);
        let [source, target] = finding.held;
        let one = |&kind: &DifferenceKind| {
            let mut difference = Difference::of_key(db, &finding.key, kind, source, target);
            if matches!(kind, DifferenceKind::Value | DifferenceKind::FieldExpiry) {
                difference.fields = finding.fields.first.clone();
                difference.more_fields = finding.fields.more;
            }
            difference
        };
        finding.kinds.iter().map(one).collect()
    }

    fn finish(&mut self) -> Result<DiffReport, Error> {
        self.report.seconds = self.started.elapsed().as_secs_f64();
        Ok(std::mem::take(&mut self.report))
    }
}

/// The keys of a node, on their way to those who look at them.
struct Walk {
    scan: Scan,
    pair: usize,
    side: usize,
    progress: DiffProgress,
}

impl Walk {
    async fn go(mut self, sender: &mpsc::Sender<Work>) -> Result<(usize, ScanCounts), Error> {
        let mut before = 0;
        while let Some(keys) = self.scan.next().await? {
            let scanned = self.scan.counts.scanned;
            self.progress.side(self.side).keys.fetch_add(scanned - before, Ordering::Relaxed);
            before = scanned;
            if keys.is_empty() {
                continue;
            }
            let work = Work { pair: self.pair, keys, of_target: self.side == 1, barrier: false };
            if sender.send(work).await.is_err() {
                return Err(Error::GivenUp);
            }
        }
        Ok((self.side, self.scan.counts))
    }
}

fn side_report(report: &mut DiffReport, side: usize) -> &mut SideReport {
    if side == 0 { &mut report.source } else { &mut report.target }
}

/// The nodes as they are now, and slots that are not where they were before, or are on the move.
async fn moved_slots(
    side: &LiveSide,
    before: Option<&Nodes>,
) -> Result<(Option<Arc<Nodes>>, SlotSet), Error> {
    if !side.is_cluster() {
        return Ok((Some(side.nodes()), SlotSet::new()));
    }
    let after = side.refresh().await?;
    let mut slots = side.moving().await?;
    if let (Some(before), Some(now)) = (before.and_then(Nodes::topology), after.topology()) {
        slots.extend(&changed(before, now));
    }
    Ok((Some(after), slots))
}

/// Slots that none of the nodes has that had them. A failover changes who is primary, not which nodes have the slot.
pub(crate) fn changed(before: &Topology, now: &Topology) -> SlotSet {
    let nodes = |topology: &Topology, slot| -> Vec<String> {
        let nodes = topology.shard(slot).into_iter().flat_map(|shard| shard.nodes());
        nodes
            .map(|node| node.id.clone().unwrap_or_else(|| format!("{:?} {:?}", node.ip, node.port)))
            .collect()
    };
    let mut slots = SlotSet::new();
    for slot in 0..SLOTS {
        let (was, is) = (nodes(before, slot), nodes(now, slot));
        if !was.iter().any(|node| is.contains(node)) {
            slots.insert(slot);
        }
    }
    slots
}
