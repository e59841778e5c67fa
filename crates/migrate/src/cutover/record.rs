//! What the target keeps of a cutover while it is under way, so that a run that was killed is gone on with, or undone.
//!
//! The hash `keyferry:cutover:{id}` in database 0 of the target. Each step is written before the first thing of it is done. It goes
//! over to the other side with the way back, and says nothing there.

use std::collections::BTreeMap;

use keyferry_client::Pipeline;
use keyferry_replication::Position;
use keyferry_resp::Frame;

use super::{options::StopWrites, side::Side};
use crate::{
    error::Error,
    identity::MigrationId,
    sharded::state::{LinkState, Stage, State},
};

/// Names of the keys begin so.
const PREFIX: &str = "keyferry:cutover:";

/// How far a cutover has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Writes are being stopped, or are stopped; the migration goes on.
    Stopping,
    /// Everything is at the target; the migration is being kept from it for good.
    Fencing,
    /// Where the way back begins is known; the applications are being switched.
    Fenced,
    /// The applications write to the target.
    Switched,
}

impl Step {
    const ALL: [(Step, &'static str); 4] = [
        (Step::Stopping, "stopping"),
        (Step::Fencing, "fencing"),
        (Step::Fenced, "fenced"),
        (Step::Switched, "switched"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(step, _)| *step == self).map_or("", |(_, name)| name)
    }
}

/// A cutover that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) step: Step,
    pub(super) stop: StopWrites,
    /// By primary of the source: the users that it turned off.
    pub(super) off: BTreeMap<usize, Vec<String>>,
    /// By primary of the source: where its stream ended, and how many keys had expired there.
    pub(super) ends: Vec<(Position, u64)>,
    /// By primary of the target: where the way back begins, and how many keys had expired there.
    pub(super) begins: Vec<(Position, u64)>,
    /// Unix time in milliseconds when writes were stopped.
    pub(super) stopped_at: u64,
}

/// The key of the record.
pub(super) fn key(id: &MigrationId) -> String {
    format!("{PREFIX}{{{id}}}")
}

impl Record {
    pub(super) async fn read(target: &mut Side, id: &MigrationId) -> Result<Option<Self>, Error> {
        let reply = target.at(id.slot(), ["HGETALL", &key(id)]).await?;
        let Some(state) = State::read(&reply) else { return Err(damaged(id)) };
        match state.get("step") {
            None => Ok(None),
            Some(_) => Self::parse(&state).map(Some).ok_or_else(|| damaged(id)),
        }
    }

    fn parse(state: &State) -> Option<Self> {
        let step = Step::ALL.iter().find(|(_, name)| state.get("step") == Some(name))?.0;
        let positions = |kind: &str| {
            let one = |number: usize| {
                let text = state.get(&format!("{kind}:{number}"))?;
                let (position, expired) = text.rsplit_once(' ')?;
                match LinkState::parse(position)?.stage {
                    Stage::Stream(position) => Some((position, expired.parse().ok()?)),
                    Stage::Snapshot(_) => None,
                }
            };
            (0..).map_while(one).collect::<Vec<_>>()
        };
        let mut off = BTreeMap::new();
        for number in 0..usize::from(keyferry_routing::SLOTS) {
            let Some(users) = state.get(&format!("off:{number}")) else { continue };
            off.insert(number, users.split(',').filter(|user| !user.is_empty()).map(str::to_owned).collect());
        }
        Some(Record {
            step,
            stop: state.get("stop")?.parse().ok()?,
            off,
            ends: positions("ends"),
            begins: positions("begins"),
            stopped_at: state.get("stopped")?.parse().ok()?,
        })
    }

    fn fields(&self) -> Vec<String> {
        let mut fields = vec!["step".to_owned(), self.step.name().to_owned()];
        let mut put = |name: String, value: String| fields.extend([name, value]);
        put("stop".to_owned(), self.stop.to_string());
        put("stopped".to_owned(), self.stopped_at.to_string());
        for (number, users) in &self.off {
            put(format!("off:{number}"), users.join(","));
        }
        for (kind, positions) in [("ends", &self.ends), ("begins", &self.begins)] {
            for (number, (position, expired)) in positions.iter().enumerate() {
                let state = LinkState { epoch: 0, stage: Stage::Stream(position.clone()) };
                put(format!("{kind}:{number}"), format!("{state} {expired}"));
            }
        }
        fields
    }

    /// Writes the whole of it.
    pub(super) async fn write(&self, target: &mut Side, id: &MigrationId) -> Result<(), Error> {
        let (key, fields) = (key(id), self.fields());
        let mut args = vec!["HSET", &key];
        args.extend(fields.iter().map(String::as_str));
        let mut change = Pipeline::new();
        change.push(["MULTI"]).push(["DEL", &key]).push(args).push(["EXEC"]);
        target.all_at(id.slot(), &change).await.map(drop)
    }

    /// Forgets it.
    pub(super) async fn remove(target: &mut Side, id: &MigrationId) -> Result<(), Error> {
        let removed: Frame = target.at(id.slot(), ["DEL", &key(id)]).await?;
        drop(removed);
        Ok(())
    }
}

fn damaged(id: &MigrationId) -> Error {
    Error::Cutover {
        step: "looking at what a run before has left",
        why: format!("the key {} at the target is not as keyferry writes it", key(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let id = "3ad1e7ef023c242514c0b05e48e4ee884551c793".parse().unwrap();
        let at = |offset, db| Position { id, offset, db, in_transaction: false };
        let record = Record {
            step: Step::Fenced,
            stop: "acl:app,batch".parse().unwrap(),
            off: BTreeMap::from([(0, vec!["app".to_owned(), "batch".to_owned()]), (2, Vec::new())]),
            ends: vec![(at(7, None), 3), (at(9, Some(5)), 0)],
            begins: vec![(at(1 << 40, Some(0)), 12)],
            stopped_at: 1_700_000_000_123,
        };
        let bulk = |text: &String| Frame::from(bytes::Bytes::copy_from_slice(text.as_bytes()));
        let read = |fields: &[String]| {
            Record::parse(&State::read(&Frame::Array(fields.iter().map(bulk).collect())).unwrap())
        };
        assert_eq!(read(&record.fields()), Some(record.clone()));
        let mut fields = record.fields();
        fields[1] = "other".to_owned();
        assert_eq!(read(&fields), None);
    }
}
