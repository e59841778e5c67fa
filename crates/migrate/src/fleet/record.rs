//! What the target keeps of a division, so that all workers have the same: a hash under the name that the migration would have as a whole.
//!
//! | field | what it says |
//! | --- | --- |
//! | `format`, `source`, `target`, `changes` | as in the [state](crate::sharded::state) of a migration |
//! | `workers` | how many there are |
//! | `slots:<i>` | the slots of worker `i` |
//! | `worker:<i>` | `begun` or `done`; not there before its first start |
//!
//! Every change is made in a transaction that fails when somebody else has changed it in between.

use std::time::{Duration, Instant};

use keyferry_client::{Connection, Error as ClientError, Frame, Pipeline};
use keyferry_routing::{SLOTS, SlotSet};

use super::{Division, Worker};
use crate::{
    error::Error,
    identity::MigrationId,
    sharded::{
        TargetMap,
        state::{FORMAT, State, field},
    },
};

const BEGUN: &str = "begun";
const DONE: &str = "done";

/// How soon a change is tried again that somebody else was quicker with, and for how long.
const RETRY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// The record of a division.
pub(crate) struct Record<'r> {
    pub(super) whole: &'r MigrationId,
    pub(super) map: &'r TargetMap,
    pub(super) worker: Worker,
    pub(super) source: String,
    pub(super) changes: &'r str,
}

/// Among how many workers a migration is divided that the target keeps this of, if it is.
pub(crate) fn divided(state: &State) -> Option<u16> {
    state.get(field::WORKERS)?.parse().ok()
}

impl Record<'_> {
    /// Notes that the worker has begun, and gives the division; `proposed` is written where there is none yet. `None` where there is
    /// none, and none is proposed.
    pub(super) async fn join(&self, proposed: Option<&Division>) -> Result<Option<Division>, Error> {
        let mut given = None;
        self.change(|state| {
            if let Some(why) = state.get(field::FENCE) {
                let (id, target) = (self.whole.to_string(), self.map.name());
                return Err(Error::FencedForGood { id, target, why: why.to_owned() });
            }
            let begun = [field::worker(self.worker.index()), BEGUN.to_owned()];
            if let Some(division) = self.read(state)? {
                given = Some(division);
                return Ok(Change::Set(begun.to_vec()));
            }
            let Some(division) = proposed else { return Ok(Change::Nothing) };
            given = Some(division.clone());
            let mut fields = begun.to_vec();
            let mut note = |name: String, value: String| fields.extend([name, value]);
            note(field::FORMAT.to_owned(), FORMAT.to_owned());
            note(field::SOURCE.to_owned(), self.source.clone());
            note(field::TARGET.to_owned(), self.map.name());
            note(field::CHANGES.to_owned(), self.changes.to_owned());
            note(field::WORKERS.to_owned(), self.worker.of().to_string());
            for (number, slots) in division.all().enumerate() {
                note(field::slots(&number.to_string()), slots.to_string());
            }
            Ok(Change::Set(fields))
        })
        .await?;
        Ok(given)
    }

    /// As [`super::Part::leave`].
    pub(super) async fn leave(&self, done: bool) -> Result<(), Error> {
        self.change(|state| {
            let Some(of) = divided(state) else { return Ok(Change::Nothing) };
            let own = field::worker(self.worker.index());
            let others = |is: fn(Option<&str>) -> bool| {
                (0..of).filter(|&n| n != self.worker.index()).all(|n| is(state.get(&field::worker(n))))
            };
            Ok(match done {
                true if others(|at| at == Some(DONE)) => Change::Remove,
                true => Change::Set(vec![own, DONE.to_owned()]),
                false if others(|at| at.is_none()) => Change::Remove,
                false => Change::Unset(own),
            })
        })
        .await
    }

    /// The division that is written there, if there is one and it is this worker's.
    fn read(&self, state: &State) -> Result<Option<Division>, Error> {
        let id = self.whole.to_string();
        let other = |known: String| Error::OtherDivision {
            id: id.clone(),
            known,
            given: format!("worker {}", self.worker),
        };
        let Some(of) = divided(state) else {
            return match state.links().next() {
                Some(_) => Err(other("one process alone".to_owned())),
                None => Ok(None),
            };
        };
        if of != self.worker.of() {
            return Err(other(format!("{of} workers together")));
        }
        let target = self.map.name();
        if let Some(known) = state.get(field::TARGET).filter(|known| **known != target) {
            return Err(Error::OtherTarget { id, known: known.to_owned(), given: target });
        }
        let had = state.get(field::CHANGES).unwrap_or_default();
        if had != self.changes {
            let shown = |changes: &str| if changes.is_empty() { "nothing" } else { changes }.to_owned();
            return Err(Error::OtherChanges { id, known: shown(had), given: shown(self.changes) });
        }
        let slots = |n: u16| state.get(&field::slots(&n.to_string()))?.parse().ok();
        let division = (0..of).map(slots).collect::<Option<Vec<SlotSet>>>().map(Division::of);
        let is_whole = |division: &Division| {
            (0..SLOTS).all(|slot| division.all().filter(|slots| slots.contains(slot)).count() == 1)
        };
        match division.filter(is_whole) {
            Some(division) => Ok(Some(division)),
            None => Err(other(format!("workers whose division in {} is damaged", self.whole.state_key()))),
        }
    }

    /// Changes the record, once nobody else does at the same time.
    async fn change(&self, mut decide: impl FnMut(&State) -> Result<Change, Error>) -> Result<(), Error> {
        let since = Instant::now();
        let mut connection = self.map.connect_to(self.whole.slot()).await.map_err(Error::Target)?;
        let key = self.whole.state_key();
        loop {
            let mut ask = Pipeline::new();
            ask.push(["WATCH", &key]).push(["HGETALL", &key]);
            let replies = answers(&mut connection, &ask).await?;
            let state = replies.last().and_then(State::read).unwrap_or_default();
            let mut change = Pipeline::new();
            change.push(["MULTI"]);
            match decide(&state)? {
                Change::Nothing => return Ok(()),
                Change::Set(fields) => {
                    let mut args = vec!["HSET", &key];
                    args.extend(fields.iter().map(String::as_str));
                    change.push(args);
                }
                Change::Unset(field) => {
                    change.push(["HDEL", &key, &field]);
                }
                Change::Remove => {
                    change.push(["DEL", &key]);
                }
            }
            change.push(["EXEC"]);
            if matches!(answers(&mut connection, &change).await?.last(), Some(Frame::Array(_))) {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                let why = format!("{key} at the target is changed by others all the time");
                return Err(Error::Internal(why));
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What becomes of the record.
enum Change {
    Nothing,
    /// Fields and their values, by turns.
    Set(Vec<String>),
    Unset(String),
    Remove,
}

/// Sends commands and gives the replies, unless one is an error.
async fn answers(connection: &mut Connection, commands: &Pipeline) -> Result<Vec<Frame>, Error> {
    let replies = connection.pipeline(commands).await.map_err(Error::Target)?;
    match replies.iter().find_map(Frame::error_reply) {
        Some(reply) => Err(Error::Target(ClientError::Server {
            address: connection.address().clone(),
            command: "a command on the division among workers".to_owned(),
            code: reply.code().to_owned(),
            message: reply.message().into_owned(),
        })),
        None => Ok(replies),
    }
}
