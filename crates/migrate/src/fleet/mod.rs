//! One migration that several processes carry out, the *workers*, each a part of the slots of a source cluster.
//!
//! **Takes** which worker this is, of how many ([`Worker`]). **Gives** its slots ([`Part`]), which no other worker has, and which
//! stay its own until the migration is over, whatever becomes of the shards of the source. The [division](division) is made by the first
//! worker that comes, by the shards of that moment, and kept at the target in a [record](record) that all agree on. **Refuses**
//! workers of another division, and a process that would carry out alone what has been divided.
//!
//! Everything else a worker does by itself: it has a name of its own ([`MigrationId::of_worker`]), and with it a fence, checkpoints, a
//! state and a journal, and it touches nothing at the target but its slots.

mod division;
mod record;

use std::{fmt, str::FromStr};

use keyferry_client::{Endpoint, cluster};
use keyferry_routing::SlotSet;

pub(crate) use self::record::divided;
use self::{division::Division, record::Record};
use crate::{
    error::Error,
    identity::MigrationId,
    options::Options,
    scan::Reading,
    sharded::{
        TargetMap,
        state::{State, field},
    },
};

/// Workers of one migration, at most: more than there are primaries in clusters.
const MOST: u16 = 1000;

/// One of several processes that carry out a migration from a cluster together: `--shard 0/3` is the first of three.
///
/// Each takes the slots that some of the source's primaries had when the first of them began: the primaries are
/// numbered from 0 in the order of their first slots, and worker `i` of `n` has those whose number leaves `i` when it is divided by
/// `n`. These slots stay its own, also when they move to other primaries. `docs/decisions/0031` tells more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    index: u16,
    of: u16,
}

/// Why a text names no worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no worker: a number from 0 on and how many there are is wanted, as in 0/3 (1000 at most)"
)]
pub struct InvalidWorker {
    text: String,
}

impl Worker {
    /// The one with this number, from 0 on, of so many. `None` if there is no such one, or more than 1000.
    #[must_use]
    pub fn new(index: u16, of: u16) -> Option<Self> {
        (index < of && of <= MOST).then_some(Worker { index, of })
    }

    /// Its number, from 0 on.
    #[must_use]
    pub fn index(self) -> u16 {
        self.index
    }

    /// How many there are.
    #[must_use]
    pub fn of(self) -> u16 {
        self.of
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// As `Display` writes it: `i/n`.
impl FromStr for Worker {
    type Err = InvalidWorker;

    fn from_str(text: &str) -> Result<Self, InvalidWorker> {
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
        let worker = text.split_once('/').and_then(|(index, of)| Worker::new(number(index)?, number(of)?));
        worker.ok_or_else(|| InvalidWorker { text: text.chars().take(40).collect() })
    }
}

/// What a worker carries over.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) worker: Worker,
    /// The migration of which it is a part.
    pub(crate) whole: MigrationId,
    /// The slots that are its own.
    pub(crate) slots: SlotSet,
}

impl Part {
    /// Takes a worker's part: as the record at the target has it, or as the shards of the source are now, which is then written there.
    ///
    /// # Errors
    /// [`Error::NotDivisible`], [`Error::OtherDivision`] and [`Error::OtherChanges`]; [`Error::FencedForGood`]; those of the connections.
    pub(crate) async fn take(
        worker: Worker,
        whole: MigrationId,
        source: &Endpoint,
        map: &TargetMap,
        changes: &str,
    ) -> Result<Self, Error> {
        let record = Record { whole: &whole, map, worker, source: source.to_string(), changes };
        let division = match record.join(None).await? {
            Some(division) => division,
            None => {
                let proposed = propose(worker, source).await?;
                let agreed = record.join(Some(&proposed)).await?;
                agreed.ok_or_else(|| Error::Internal("a division that was written is not there".into()))?
            }
        };
        let slots = division.slots(worker).cloned().unwrap_or_default();
        Ok(Part { worker, whole, slots })
    }

    /// What its state at the target has of it.
    pub(crate) fn text(&self) -> String {
        format!("{} {}", self.worker, self.slots)
    }

    /// Tells that it is done, or, with nothing written, that it has not begun. The last one that is done removes the record.
    ///
    /// # Errors
    /// Those of the connection, and of the target.
    pub(crate) async fn leave(&self, map: &TargetMap, done: bool) -> Result<(), Error> {
        let record =
            Record { whole: &self.whole, map, worker: self.worker, source: String::new(), changes: "" };
        record.leave(done).await
    }
}

/// Refuses a process whose part is not the one that the state at the target, under its own name, was written for.
///
/// # Errors
/// [`Error::DivisionLost`], [`Error::OtherDivision`].
pub(crate) fn check(state: &State, part: Option<&Part>, id: &MigrationId) -> Result<(), Error> {
    match part {
        Some(part) => match state.get(field::WORKER) {
            Some(known) if known != part.text() => {
                let (id, known, given) = (id.to_string(), known.to_owned(), part.text());
                Err(Error::DivisionLost { id, known, given })
            }
            _ => Ok(()),
        },
        None => match divided(state) {
            Some(of) => Err(Error::OtherDivision {
                id: id.to_string(),
                known: format!("{of} workers together"),
                given: "one process alone".to_owned(),
            }),
            None => Ok(()),
        },
    }
}

/// Refuses what workers cannot do.
///
/// # Errors
/// [`Error::NotDivisible`].
pub(crate) fn check_options(options: &Options, reading: Reading) -> Result<(), Error> {
    let Some(worker) = options.active_worker() else { return Ok(()) };
    let no = |why: &str| Err(Error::NotDivisible { worker, why: why.to_owned() });
    if reading != Reading::Psync {
        return no("the source is not read by PSYNC, and only what is has a stream for each shard");
    }
    if options.script.is_some() {
        return no("a script may give keys any names, also such as are in slots of other workers");
    }
    if options.from_now {
        return no(
            "a migration that copies nothing (--from-now) cannot copy the slots anew that go from one worker's shard to another's",
        );
    }
    Ok(())
}

/// The error for what is no cluster.
pub(crate) fn no_cluster(options: &Options, what: &str) -> Error {
    let worker = options.worker.unwrap_or(Worker { index: 0, of: 1 });
    Error::NotDivisible {
        worker,
        why: format!("the source is no cluster, whose shards could be divided, but {what}"),
    }
}

/// All workers that carry out a migration, as the target has it; none where it is not divided.
///
/// # Errors
/// When the target cannot be asked.
pub(crate) async fn workers(whole: &MigrationId, map: &TargetMap) -> Result<Vec<Worker>, Error> {
    let state = async {
        let mut connection = map.connect_to(whole.slot()).await?;
        connection.call(["HGETALL", &whole.state_key()]).await
    };
    let state = State::read(&state.await.map_err(Error::Target)?).unwrap_or_default();
    let of = divided(&state).unwrap_or(0);
    Ok((0..of).filter_map(|index| Worker::new(index, of)).collect())
}

/// The slots of a worker, for a look that writes nothing: as the target's state of the whole migration has them, else as the
/// shards of the source are now. `None` if that is not possible, which a run tells.
pub(crate) fn slots_for(worker: Worker, state: &State, shards: Vec<SlotSet>) -> Option<SlotSet> {
    if divided(state) == Some(worker.of) {
        return state.get(&field::slots(&worker.index.to_string()))?.parse().ok();
    }
    Division::of_shards(shards, worker.of).ok()?.slots(worker).cloned()
}

/// The division by the shards that the source has now.
async fn propose(worker: Worker, source: &Endpoint) -> Result<Division, Error> {
    let no = |why: String| Error::NotDivisible { worker, why };
    let Endpoint::Cluster(options) = source.clone().detect().await.map_err(Error::SourceConnection)? else {
        return Err(no("the source is no cluster, but one server, which one process reads".to_owned()));
    };
    let found = cluster::discover(&options).await.map_err(Error::SourceConnection)?;
    let unserved = found.topology().unserved();
    if !unserved.is_empty() {
        return Err(Error::SourceSlotsUnserved { slots: unserved.to_string() });
    }
    let shards = found.topology().shards().iter().map(|shard| shard.slots.clone());
    Division::of_shards(shards.collect(), worker.of).map_err(|shards| {
        no(format!(
            "the source has {shards} primaries, and each worker needs one at least: {shards} workers are the most"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_numbered_from_nought() {
        let worker: Worker = "2/3".parse().unwrap();
        assert_eq!((worker.index(), worker.of(), worker.to_string()), (2, 3, "2/3".to_owned()));
        assert_eq!("0/1".parse(), Ok(Worker { index: 0, of: 1 }));
        for wrong in ["", "3/3", "0/0", "1", "-1/3", "+1/3", "0/1001", "a/b", "0/3/4", " 0/3", "0/99999"] {
            let error = wrong.parse::<Worker>().unwrap_err().to_string();
            assert!(error.contains("0/3"), "{error}");
        }
    }
}
