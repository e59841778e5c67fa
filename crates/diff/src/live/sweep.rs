//! Going over all keys of a pair of databases, wherever they are while slots move.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyferry_routing::SlotSet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::census::Census;
use super::databases;
use super::differing::Differing;
use super::finding::{Finding, Outcome};
use super::nodes::{LiveSide, Nodes};
use super::options::LiveOptions;
use super::run::{Run, side_report};
use super::scan::{Chooser, Scan, ScanCounts};
use super::work::{self, Work};
use crate::difference::DifferenceKind;
use crate::digest::Hash;
use crate::error::Error;
use crate::progress::DiffProgress;
use crate::slots::changed;

/// How long to wait before keys of slots that move are looked for again.
const RESCAN_AFTER: Duration = Duration::from_millis(100);

impl Run {
    /// Looks at all keys of a pair of databases.
    pub(super) async fn scan_pair(
        &mut self,
        pair: usize,
        detail: bool,
        differing: &mut Differing,
    ) -> Result<(), Error> {
        let mut owners = self.shared.sides.clone().map(|side| Some(side.nodes()));
        let mut moved: [Option<SlotSet>; 2] = [None, None];
        let mut end = None;
        self.census = self.begin_census(pair).await;
        if self.census.is_some() {
            let nothing = || Some(SlotSet::new());
            self.scan(pair, detail, &[None, nothing()], &owners, differing).await?;
            let counts_expiries = self.census.as_ref().is_some_and(Census::counts_expiries);
            if self.end_census(pair, differing).await {
                return Ok(());
            }
            self.unasked = counts_expiries;
            let end = self.scan(pair, detail, &[nothing(), None], &owners, differing).await;
            self.unasked = false;
            return end;
        }
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

    /// Begins to count keys, where that can tell that the target has no others: single servers of which everything is looked at.
    async fn begin_census(&self, pair: usize) -> Option<Census> {
        let rules = &self.shared.rules;
        let whole = self.options.selection.is_everything() && rules.live.sample.is_none();
        let target = self.shared.pairs[pair].target;
        let of_target = self.shared.pairs.iter().filter(|other| other.target == target);
        let one = of_target.count() == 1 && self.shared.pairs[pair].there == [true, true];
        let single = self.shared.sides.iter().all(|side| !side.is_cluster() && side.counts_keys());
        if !(whole && one && single) {
            return None;
        }
        let source = self.shared.pairs[pair].source.filter(|_| self.shared.spares(pair));
        Census::begin(&self.shared.sides, source, target, self.options.memory).await
    }

    /// Whether the count says that the target has no other keys.
    async fn end_census(&mut self, pair: usize, differing: &Differing) -> bool {
        let Some(census) = self.census.take() else { return false };
        let lacks = |(of, finding): &&(usize, Finding)| {
            *of == pair && finding.kinds.contains(&DifferenceKind::LackTarget)
        };
        let lacking = differing.findings.iter().filter(lacks).count() as u64;
        // Of keys that came to nothing it is not known where they were.
        let tally = &self.first[pair];
        if tally.gone + tally.expiring > 0 {
            return false;
        }
        let keys = census.end(&self.shared.sides, lacking).await;
        if let Some(keys) = keys {
            self.progress.side(1).keys.fetch_add(keys, Ordering::Relaxed);
        }
        keys.is_some()
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
                let census = self.census.is_some().then_some(self.hash);
                let unasked = self.unasked;
                let walk = Walk { scan, pair, side, progress: self.progress.clone(), census, unasked };
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
        ended(&mut tasks).await;
        Ok(())
    }

    /// Looks at these keys of a pair of databases, as far as they are chosen.
    pub(super) async fn look_at<'k>(
        &mut self,
        pair: usize,
        keys: impl Iterator<Item = &'k Bytes>,
        detail: bool,
        differing: &mut Differing,
    ) -> Result<(), Error> {
        let live = LiveOptions { sample: None, ..self.shared.rules.live.clone() };
        let chooser = Chooser::new(&self.options, &live, self.hash);
        let mut counts = ScanCounts::default();
        let keys: Vec<Bytes> = keys.filter(|key| chooser.admits(key, None, &mut counts)).cloned().collect();
        self.count((0, counts));
        let mut tasks = JoinSet::new();
        let (sender, mut done) = work::start(&self.shared, detail, &mut tasks);
        let (batch, meter) = (self.shared.rules.live.batch.max(1), self.progress.clone());
        tasks.spawn(async move {
            for keys in keys.chunks(batch) {
                meter.side(0).keys.fetch_add(keys.len() as u64, Ordering::Relaxed);
                let keys = keys.to_vec();
                let work =
                    Work { pair, keys, of_target: false, barrier: false, census: None, unasked: false };
                if sender.send(work).await.is_err() {
                    return;
                }
            }
        });
        while let Some(outcome) = done.recv().await {
            self.take(outcome?, differing);
        }
        ended(&mut tasks).await;
        Ok(())
    }

    /// Whether the keys of the target's database were gone over with another pair.
    fn is_seen_as_target(&self, pair: usize) -> bool {
        let target = self.shared.pairs[pair].target;
        self.shared.pairs[..pair].iter().any(|other| other.target == target)
    }

    fn take(&mut self, (pair, outcome): (usize, Outcome), differing: &mut Differing) {
        self.first[pair].add(&outcome);
        if let Some(census) = &mut self.census {
            census.add(&outcome.names, &outcome.expire);
        }
        outcome.findings.iter().for_each(|_| self.progress.found());
        // One that SCAN gave twice was counted twice.
        self.first[pair].looked -= differing.add(pair, outcome.findings).min(self.first[pair].looked);
        differing.add(pair, outcome.again);
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
    pub(super) async fn expiries_came_up(&self, pair: usize) -> Result<bool, Error> {
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
}

/// Waits for the ends of tasks. One that panicked would leave keys out.
pub(super) async fn ended(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// The keys of a node, on their way to those who look at them.
struct Walk {
    scan: Scan,
    pair: usize,
    side: usize,
    progress: DiffProgress,
    census: Option<Hash>,
    unasked: bool,
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
            let of_target = self.side == 1;
            let census = self.census.filter(|_| !of_target);
            let unasked = self.unasked && of_target;
            let work = Work { pair: self.pair, keys, of_target, barrier: false, census, unasked };
            if sender.send(work).await.is_err() {
                return Err(Error::GivenUp);
            }
        }
        Ok((self.side, self.scan.counts))
    }
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
