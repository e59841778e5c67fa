//! The tasks that look at keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::barrier::{self, Barrier, Waiter};
use super::compare::{Comparer, LATER, Rules};
use super::databases::Pair;
use super::finding::Outcome;
use super::nodes::{Channel, LiveSide};
use super::options::Depth;
use crate::digest::Hash;
use crate::error::Error;

/// Batches that wait for a task.
const WAITING: usize = 16;

/// Keys to look at.
#[derive(Debug)]
pub(crate) struct Work {
    /// Number of the pair of databases.
    pub(crate) pair: usize,
    pub(crate) keys: Vec<Bytes>,
    /// They were found on the target: those that the source has as well are looked at where they are found there.
    pub(crate) of_target: bool,
    /// They are in motion.
    pub(crate) barrier: bool,
    /// Whether a census is taken: the hash of names.
    pub(crate) census: Option<Hash>,
    /// They were found on the target, and not all of those that expire on the source alone are known.
    pub(crate) unasked: bool,
}

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) sides: [Arc<LiveSide>; 2],
    pub(crate) pairs: Vec<Pair>,
    /// By pair: whether keys may expire.
    pub(crate) deadlines: Vec<bool>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) pace: Pace,
    /// How keys in motion are compared, if they are.
    pub(crate) barrier: Option<Barrier>,
}

impl Shared {
    /// Whether a census of a pair of databases spares asking the source when keys expire that never do on the target.
    pub(crate) fn spares(&self, pair: usize) -> bool {
        let whole = matches!(self.rules.live.depth, Depth::Full | Depth::SkipBig);
        whole && self.deadlines.get(pair) == Some(&true)
    }
}

/// What a task gives back.
pub(crate) type Done = Result<(usize, Outcome), Error>;

/// Starts the tasks: they take work until its sender is gone.
pub(crate) fn start(
    shared: &Arc<Shared>,
    detail: bool,
    tasks: &mut JoinSet<()>,
) -> (mpsc::Sender<Work>, mpsc::Receiver<Done>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (results, done) = mpsc::channel(WAITING);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..shared.rules.live.parallel.max(1) {
        let (shared, receiver, results) = (Arc::clone(shared), Arc::clone(&receiver), results.clone());
        tasks.spawn(async move {
            let mut worker = Worker { shared, detail, at: None, waiter: None };
            loop {
                let work: Option<Work> = receiver.lock().await.recv().await;
                if let Some(rest) = worker.rest(work.as_ref().map(|work| work.pair)).await {
                    let failed = rest.is_err();
                    if results.send(rest).await.is_err() || failed {
                        return;
                    }
                }
                let Some(work) = work else { return };
                let pair = work.pair;
                let outcome = worker.look(work).await.map(|outcome| (pair, outcome));
                let failed = outcome.is_err();
                if results.send(outcome).await.is_err() || failed {
                    return;
                }
            }
        });
    }
    (sender, done)
}

struct Worker {
    shared: Arc<Shared>,
    detail: bool,
    /// The pair of databases that it is at, and its connections to them.
    at: Option<(usize, Comparer)>,
    waiter: Option<Waiter>,
}

impl Worker {
    /// What comes of keys that still wait to be looked at, before other work is begun, or none.
    async fn rest(&mut self, next: Option<usize>) -> Option<Done> {
        let (pair, comparer) = self.at.as_mut()?;
        if next == Some(*pair) || comparer.later.is_empty() {
            return None;
        }
        Some(comparer.compare_later(self.detail).await.map(|outcome| (*pair, outcome)))
    }

    async fn look(&mut self, work: Work) -> Result<Outcome, Error> {
        let shared = Arc::clone(&self.shared);
        shared.pace.take(work.keys.len()).await;
        let mut comparer = match self.at.take() {
            Some((pair, comparer)) if pair == work.pair => comparer,
            _ => comparer(&shared, work.pair),
        };
        let mut keys = work.keys;
        let mut unasked = Vec::new();
        if work.of_target {
            (keys, unasked) = match work.unasked {
                true => comparer.lacking_or_expiring(&keys).await?,
                false => (comparer.lacking(&keys).await?, unasked),
            };
            let target = shared.pairs[work.pair].target;
            for (number, other) in shared.pairs.iter().enumerate() {
                if number != work.pair && other.target == target && !keys.is_empty() {
                    keys = self::comparer(&shared, number).lacking(&keys).await?;
                }
            }
        }
        let db = shared.pairs[work.pair].target;
        let name = |hash: Hash| keys.iter().map(|key| hash.key(u64::from(db), key)).collect();
        let names = work.census.map(name).unwrap_or_default();
        comparer.census = work.census.map(|hash| (hash, u64::from(db))).filter(|_| shared.spares(work.pair));
        let mut outcome = match keys.is_empty() {
            true => Outcome::default(),
            false => match (shared.rules.live.barrier, &shared.barrier) {
                (Some(wait), Some(way)) if work.barrier => {
                    let waiter = self.waiter.get_or_insert_with(|| Waiter::new(way, &shared.sides));
                    barrier::compare(&mut comparer, &keys, waiter, wait).await?
                }
                _ => {
                    comparer.put_off = true;
                    let mut outcome = comparer.compare(&keys, self.detail).await?;
                    if comparer.later.len() >= LATER {
                        outcome.add(comparer.compare_later(self.detail).await?);
                    }
                    comparer.put_off = false;
                    outcome
                }
            },
        };
        outcome.names = names;
        if !unasked.is_empty() {
            outcome.again = comparer.compare(&unasked, self.detail).await?.findings;
        }
        self.at = Some((work.pair, comparer));
        Ok(outcome)
    }
}

fn comparer(shared: &Shared, pair: usize) -> Comparer {
    let channel = |side: usize| Some(Channel::new(&shared.sides[side], shared.pairs[pair].of(side)?));
    Comparer::new(&shared.rules, [channel(0), channel(1)], shared.deadlines[pair])
}

/// Holds the pace of all tasks together.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: Option<u64>) -> Self {
        Self { per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so many more keys may be looked at.
    async fn take(&self, keys: usize) {
        let Some(per_second) = self.per_second else { return };
        let mut free_at = self.free_at.lock().await;
        let now = Instant::now();
        let at = (*free_at).max(now);
        *free_at = at + Duration::from_secs_f64(keys as f64 / per_second.max(1) as f64);
        drop(free_at);
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pace_is_kept() {
        let pace = Pace::new(Some(10_000));
        let start = Instant::now();
        for _ in 0..5 {
            pace.take(500).await;
        }
        // The first is free; each of the others waits for the one before.
        assert!(start.elapsed() >= Duration::from_millis(200));
    }
}
