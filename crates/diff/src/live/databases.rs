//! Which databases of both sides belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyferry_client::{Info, Keyspace};

use super::nodes::{self, LiveSide, Patience, Trouble};
use crate::error::Error;
use crate::options::DiffOptions;

/// A database of the source and the one of the target that it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    /// `None` when no database of the source becomes that of the target.
    pub(crate) source: Option<u32>,
    pub(crate) target: u32,
    /// Whether the servers have these databases: a cluster has one only.
    pub(crate) there: [bool; 2],
    /// Keys that the servers count in them, those that expire among them.
    pub(crate) keys: [u64; 2],
    pub(crate) expires: [u64; 2],
}

impl Pair {
    /// The database on a side, if it is there.
    pub(crate) fn of(&self, side: usize) -> Option<u32> {
        let db = if side == 0 { self.source } else { Some(self.target) };
        db.filter(|_| self.there[side])
    }
}

/// What servers count in each database: keys and those that expire.
pub(crate) type Counts = BTreeMap<u32, (u64, u64)>;

/// Asks all nodes of a side. Connections that are lost are made again.
pub(crate) async fn counts(side: &LiveSide) -> Result<Counts, Error> {
    let mut patience = Patience::new(side.patience());
    loop {
        match counts_now(side).await {
            Err(Error::Connection(error)) if error.is_retryable() => {
                let trouble = Trouble { error: Some(error), ..Trouble::default() };
                patience.wait(side.name(), trouble).await?;
            }
            counts => return counts,
        }
    }
}

async fn counts_now(side: &LiveSide) -> Result<Counts, Error> {
    let mut counts = Counts::new();
    for node in &side.nodes().all {
        let mut connection = nodes::connect(&node.connect, 0).await?;
        let info: Info = connection.info("keyspace").await?;
        for Keyspace { db, keys, expires, .. } in info.keyspace() {
            let count = counts.entry(db).or_default();
            *count = (count.0 + keys, count.1 + expires);
        }
    }
    Ok(counts)
}

/// The databases that have keys on one side at least, each with its counterpart.
pub(crate) async fn pairs(sides: &[Arc<LiveSide>; 2], options: &DiffOptions) -> Result<Vec<Pair>, Error> {
    let [source, target] = [counts(&sides[0]).await?, counts(&sides[1]).await?];
    let chosen = &options.selection.databases;
    let wanted = |db: u32| chosen.is_empty() || chosen.contains(&u64::from(db));
    let becomes = |db: u32| u32::try_from(options.databases.target(u64::from(db))).unwrap_or(u32::MAX);
    let mut both: BTreeSet<(Option<u32>, u32)> = BTreeSet::new();
    let mut sources: BTreeSet<u32> = source.keys().copied().filter(|db| wanted(*db)).collect();
    // A database that was asked for counts also when it is empty.
    sources.extend(chosen.iter().filter_map(|db| u32::try_from(*db).ok()));
    both.extend(sources.iter().map(|db| (Some(*db), becomes(*db))));
    for &db in target.keys() {
        if both.iter().any(|(_, target)| *target == db) {
            continue;
        }
        if chosen.is_empty() {
            // The database of the same number, unless it becomes another one; then any that becomes this one.
            let from = [db].into_iter().chain(0..64).find(|from| becomes(*from) == db);
            both.insert((from, db));
        }
    }
    let mut pairs = Vec::new();
    for (from, to) in both {
        let count =
            |counts: &Counts, db: Option<u32>| db.and_then(|db| counts.get(&db).copied()).unwrap_or_default();
        let (a, b) = (count(&source, from), count(&target, Some(to)));
        let there = [
            match from {
                Some(db) => has(&sides[0], db).await?,
                None => false,
            },
            has(&sides[1], to).await?,
        ];
        pairs.push(Pair { source: from, target: to, there, keys: [a.0, b.0], expires: [a.1, b.1] });
    }
    Ok(pairs)
}

/// Whether the servers of a side have a database of this number.
async fn has(side: &LiveSide, db: u32) -> Result<bool, Error> {
    if db == 0 {
        return Ok(true);
    }
    let Some(node) = side.nodes().all.first().cloned() else { return Ok(false) };
    match nodes::connect(&node.connect, db).await {
        Ok(_) => Ok(true),
        Err(keyferry_client::Error::Server { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
