//! One run of a comparison key by key: from both sides to a report.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::LiveDiff;
use super::barrier::Barrier;
use super::census::Census;
use super::compare::Rules;
use super::databases::{Pair, pairs};
use super::differing::{Differing, Tally};
use super::finding::Finding;
use super::functions;
use super::nodes;
use super::nodes::LiveSide;
use super::suspects::Suspects;
use super::work::{Pace, Shared};
use crate::changed::ChangedKeys;
use crate::cutoff::now;
use crate::difference::{Difference, DifferenceKind};
use crate::digest::{DigestOptions, Hash};
use crate::error::Error;
use crate::options::DiffOptions;
use crate::progress::{DiffProgress, Phase};
use crate::report::{DiffReport, RoundReport, SampleReport, SideReport, all_databases};
use crate::results::DifferenceSink;
use crate::store::Room;

pub(crate) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) options: DiffOptions,
    pub(super) progress: DiffProgress,
    pub(super) hash: Hash,
    pub(super) started: Instant,
    pub(super) report: DiffReport,
    /// By pair, what the first round came to.
    pub(super) first: Vec<Tally>,
    /// The keys of the pair of databases at hand, where counting them can spare the way over those of the target.
    pub(super) census: Option<Census>,
    /// Whether the source was not asked of all keys when they expire, and no census tells.
    pub(super) unasked: bool,
}

impl Run {
    pub(super) async fn new(diff: LiveDiff) -> Result<Self, Error> {
        let LiveDiff { sides: [source, target], options, mut live, progress } = diff;
        // No second is to see more keys than that.
        let most =
            live.keys_per_second.map_or(usize::MAX, |keys| usize::try_from(keys).unwrap_or(usize::MAX));
        live.batch = live.batch.min(most.max(1));
        let started = Instant::now();
        let sides = [
            Arc::new(LiveSide::find(&source, options.patience).await?),
            Arc::new(LiveSide::find(&target, options.patience).await?),
        ];
        let pairs = pairs(&sides, &options).await?;
        let sure = sides.iter().all(|side| side.counts_keys());
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
                // A migration that runs may hold deadlines back.
                held_deadlines: live.barrier.is_some(),
                limits: options.limits.clone(),
                ..DigestOptions::default()
            },
            room: Room { memory: options.memory, directory: options.temporary_directory.clone() },
            lengths: Default::default(),
            few: Default::default(),
            guesses: Default::default(),
            live,
        };
        let barrier = match rules.live.barrier {
            Some(wait) => Some(Barrier::choose(rules.live.barrier_by, &sides, wait).await?),
            None => None,
        };
        report.barrier = barrier.as_ref().map(Barrier::describe);
        let pace = Pace::new(rules.live.keys_per_second);
        let first = vec![Tally::default(); pairs.len()];
        let shared = Arc::new(Shared { sides, pairs, deadlines, rules: Arc::new(rules), pace, barrier });
        let hash = Hash::new(seed);
        let mut run =
            Self { shared, options, progress, hash, started, report, first, census: None, unasked: false };
        run.describe();
        Ok(run)
    }

    /// How many servers the side has that has more of them.
    pub(super) fn servers(&self) -> usize {
        self.shared.sides.iter().map(|side| side.nodes().all.len()).max().unwrap_or(1)
    }

    /// What is known of the sides before anything is compared.
    fn describe(&mut self) {
        self.report.begun_at = now() / 1000;
        self.report.depth = self.shared.rules.live.depth;
        self.report.selected = !self.options.selection.is_everything();
        for (number, side) in self.shared.sides.iter().enumerate() {
            if let Some(db) = side.named_database() {
                self.report.notes.push(all_databases(side.name(), db));
            }
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

    pub(super) async fn all(&mut self, sink: &mut dyn DifferenceSink) -> Result<DiffReport, Error> {
        self.progress.enter(Phase::Reading);
        let detail = self.detail(1, sink);
        let mut differing = Differing::default();
        let mut again = Vec::new();
        for pair in 0..self.shared.pairs.len() {
            self.scan_pair(pair, detail, &mut differing).await?;
            again.push(self.expiries_came_up(pair).await?);
        }
        let again: Vec<usize> = (0..again.len()).filter(|&pair| again[pair]).collect();
        self.ask_for_expiries(&again);
        for pair in again {
            self.first[pair] = Tally::default();
            differing.forget(pair);
            self.scan_pair(pair, detail, &mut differing).await?;
        }
        self.after_first(differing, sink).await
    }

    /// Looks at the keys that a journal says were touched.
    pub(super) async fn changed(
        &mut self,
        changed: &ChangedKeys,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        self.progress.enter(Phase::Reading);
        self.report.changed = Some(changed.report());
        self.note_end(changed).await?;
        let pairs = self.shared.pairs.clone();
        self.ask_for_all_expiries();
        let detail = self.detail(1, sink);
        let mut differing = Differing::default();
        for (number, pair) in pairs.iter().enumerate() {
            let of_target = pairs.iter().filter(|other| other.target == pair.target);
            // Where databases become one, a name alone does not tell whose key it is at the target.
            let whole = match pair.source {
                Some(db) => {
                    changed.is_whole(u64::from(db))
                        || (of_target.count() > 1 && changed.touches(u64::from(db)))
                }
                None => changed.is_whole(u64::MAX),
            };
            match pair.source {
                _ if whole => self.scan_pair(number, detail, &mut differing).await?,
                Some(db) => {
                    self.look_at(number, changed.of_db(u64::from(db)), detail, &mut differing).await?
                }
                None => {}
            }
        }
        self.after_first(differing, sink).await
    }

    /// Says how far the source is ahead of a journal.
    async fn note_end(&mut self, changed: &ChangedKeys) -> Result<(), Error> {
        for node in &self.shared.sides[0].nodes().all {
            let connection = nodes::connect(&node.connect, 0).await;
            let info = match connection {
                Ok(mut connection) => connection.info("replication").await,
                Err(error) => Err(error),
            };
            // Who may not ask does not hear of it.
            let Ok(info) = info else { continue };
            let offset = info.get("master_repl_offset").and_then(|offset| offset.parse::<u64>().ok());
            let end = info.get("master_replid").and_then(|id| changed.end_of(id));
            if let (Some(offset), Some(end)) = (offset, end)
                && offset > end
            {
                self.report.notes.push(format!(
                    "{}: the journal ends {} bytes before where the server is now (keep-alives among them): what came since was not compared",
                    node.connect.address(),
                    offset - end
                ));
            }
        }
        Ok(())
    }

    /// From now on expiries are asked for everywhere: the keys are few, and some may have got one meanwhile.
    fn ask_for_all_expiries(&mut self) {
        self.ask_for_expiries(&(0..self.shared.pairs.len()).collect::<Vec<_>>());
    }

    /// From now on expiries are asked for in these pairs of databases.
    fn ask_for_expiries(&mut self, pairs: &[usize]) {
        if pairs.is_empty() {
            return;
        }
        let old = &self.shared;
        let mut deadlines = old.deadlines.clone();
        pairs.iter().for_each(|&pair| deadlines[pair] = true);
        self.shared = Arc::new(Shared {
            sides: old.sides.clone(),
            pairs: old.pairs.clone(),
            rules: Arc::clone(&old.rules),
            deadlines,
            pace: Pace::new(old.rules.live.keys_per_second),
            barrier: old.barrier.clone(),
        });
    }

    /// What comes after the first look: the rounds, functions, and the report.
    async fn after_first(
        &mut self,
        differing: Differing,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
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
        self.ask_for_all_expiries();
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

    pub(super) async fn settle(
        &mut self,
        suspects: Suspects,
        snapshots: DiffReport,
        sink: &mut dyn DifferenceSink,
    ) -> Result<DiffReport, Error> {
        let (keys, certain) = suspects.into_parts();
        let (mut notes, barrier) = (std::mem::take(&mut self.report.notes), self.report.barrier);
        notes.retain(|note| !snapshots.notes.contains(note));
        self.started = Instant::now()
            .checked_sub(Duration::try_from_secs_f64(snapshots.seconds).unwrap_or_default())
            .unwrap_or(self.started);
        self.report = snapshots;
        self.report.barrier = barrier;
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
        self.ask_for_all_expiries();
        let differing = self.rounds(differing, &mut tally, sink).await?;
        self.conclude(&differing, tally);
        self.give(&differing, sink)?;
        for difference in certain {
            self.difference(&difference, sink)?;
        }
        self.finish()
    }

    /// Whether a round tells which elements of values differ.
    pub(super) fn detail(&self, round: u32, sink: &dyn DifferenceSink) -> bool {
        let last = round >= self.shared.rules.live.rounds && self.shared.rules.live.barrier.is_none();
        last || sink.wants_suspects()
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

    pub(super) fn differences(&self, pair: usize, finding: &Finding) -> Vec<Difference> {
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

pub(super) fn side_report(report: &mut DiffReport, side: usize) -> &mut SideReport {
    if side == 0 { &mut report.source } else { &mut report.target }
}
