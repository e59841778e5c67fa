//! How far the target is, as it says itself.

use std::{collections::BTreeMap, time::Duration};

use keyferry_client::Frame;
use keyferry_replication::Position;

use super::{
    side::{Side, Standing},
    tail::{self, Look},
};
use crate::{
    error::Error,
    fleet::divided,
    identity::MigrationId,
    sharded::state::{Stage, State, field},
};

/// How often the target is asked.
const ASK: Duration = Duration::from_millis(10);

/// What is missing may be keep-alives alone, which nobody waits for: it is looked at after so many questions, and again.
const LOOK_EVERY: u32 = 20;

/// What the target keeps of the migration.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) state: State,
    /// Milliseconds for which somebody has the right to write there.
    pub(super) lease: Option<i64>,
}

impl Kept {
    pub(super) async fn read(target: &mut Side, id: &MigrationId) -> Result<Self, Error> {
        let state = target.at(id.slot(), ["HGETALL", &id.state_key()]).await?;
        let lease = target.at(id.slot(), ["PTTL", &id.owner_key()]).await?;
        let state = State::read(&state).ok_or_else(|| Error::Cutover {
            step: "looking at the migration",
            why: format!("the key {} at the target is not as keyferry writes it", id.state_key()),
        })?;
        if let Some(of) = divided(&state) {
            let why = format!(
                "migration {id} is carried out by {of} workers, which a cutover does not steer: stop the writes at the source, wait until \
                 all workers have caught up, compare both sides (diff), and stop the workers before the applications are switched over"
            );
            return Err(Error::Cutover { step: "looking at the migration", why });
        }
        Ok(Kept { state, lease: lease.as_i64().filter(|&left| left > 0) })
    }

    /// Where each primary's stream has come to at the target, and up to where deadlines are in place as well.
    pub(super) fn of(&self, standings: &[Standing]) -> Vec<Option<Reached>> {
        let settled = settled(self.state.get(field::DEADLINES).unwrap_or_default());
        let reached = |standing: &Standing| {
            self.state.links().find_map(|(name, link)| match link.stage {
                Stage::Stream(position) if standing.has(position.id) => {
                    let settled = settled.get(name).copied().unwrap_or(0);
                    Some(Reached { applied: position.offset.max(settled), settled, id: position.id })
                }
                _ => None,
            })
        };
        standings.iter().map(reached).collect()
    }
}

/// How far one stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) applied: u64,
    /// Nothing is held back of deadlines below this.
    pub(super) settled: u64,
    pub(super) id: keyferry_replication::ReplicationId,
}

fn settled(text: &str) -> BTreeMap<&str, u64> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(name, offset)| Some((name, offset.parse().ok()?))).collect()
}

/// Waits until the target has all that the source's primaries had at these places, deadlines included.
///
/// # Errors
/// Those of the connections. It waits for as long as it takes; the caller's window ends it.
pub(super) async fn wait(
    source: &mut Side,
    target: &mut Side,
    id: &MigrationId,
    standings: &[Standing],
) -> Result<(), Error> {
    let mut asked = 0_u32;
    loop {
        let kept = Kept::read(target, id).await?;
        if let Some(why) = kept.state.get(field::FENCE) {
            let (id, target) = (id.to_string(), target.endpoint.to_string());
            return Err(Error::FencedForGood { id, target, why: why.to_owned() });
        }
        if kept.lease.is_none() {
            let why = "the migration has ended meanwhile; see what it said".to_owned();
            return Err(Error::Cutover { step: "waiting for the target", why });
        }
        let mut missing = false;
        for ((node, standing), reached) in source.nodes.iter().zip(standings).zip(kept.of(standings)) {
            let Some(reached) = reached else {
                missing = true;
                continue;
            };
            if reached.settled >= standing.offset {
                continue;
            }
            missing = true;
            if asked % LOOK_EVERY == LOOK_EVERY - 1 && reached.settled > 0 {
                let from = Position::after_snapshot(reached.id, reached.settled);
                let tail = tail::read(node, &from, standing.offset, Look::Writes).await?;
                missing = tail.writes + tail.deletions > 0;
            }
            if missing {
                break;
            }
        }
        if !missing {
            return Ok(());
        }
        asked += 1;
        tokio::time::sleep(ASK).await;
    }
}

/// The number in a reply.
pub(super) fn number(reply: &Frame) -> u64 {
    reply.as_i64().and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_by_link() {
        assert_eq!(settled("0=7,1=9"), BTreeMap::from([("0", 7), ("1", 9)]));
        assert!(settled("until-end").is_empty() && settled("").is_empty());
    }
}
