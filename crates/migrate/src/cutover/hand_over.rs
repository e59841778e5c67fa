//! From one writer to the other: the migration is kept from the target, and the way back gets the places where it begins.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use keyferry_client::{Endpoint, Frame, Pipeline};
use keyferry_replication::{Position, ReplicationId};
use keyferry_routing::{SLOTS, tag_for_slot};

use super::{
    side::Side,
    tail::{self, Look},
};
use crate::{
    error::Error,
    fence::Fence,
    identity::MigrationId,
    sharded::{
        TargetMap, forgetting, slot_key,
        state::{FORMAT, LinkState, Stage, State, field},
    },
};

/// Names of marks begin so.
const MARK: &str = "keyferry:mark:";

/// Slots that are asked about together.
const TOGETHER: usize = 1024;

/// Keeps the migration from the target for good.
pub(super) async fn fence(target: &Endpoint, id: &MigrationId, why: &str) -> Result<(), Error> {
    let target = target.clone().detect().await.map_err(Error::Target)?;
    Fence::close(id.clone(), Arc::new(TargetMap::new(target)), why).await
}

/// Lets a migration that was kept from the target go on.
pub(super) async fn unfence(target: &mut Side, id: &MigrationId) -> Result<(), Error> {
    target.at(id.slot(), ["HDEL", &id.state_key(), field::FENCE]).await.map(drop)
}

/// A place in the stream of each primary of the target, behind all that has been written there, and how many keys had expired
/// by then.
///
/// A mark is written to each, in database 0, and looked for in its stream: so the place is exact, whatever the server writes by itself
/// beside, and the database is known that the stream goes on in.
pub(super) async fn mark(target: &mut Side, id: &MigrationId) -> Result<Vec<(Position, u64)>, Error> {
    let mut places = Vec::new();
    for number in 0..target.nodes.len() {
        let node = &mut target.nodes[number];
        let slot = node.slots.as_ref().and_then(|slots| slots.ranges().next()).map(|(first, _)| first);
        let tag = slot.map_or_else(|| id.to_string(), |slot| tag_for_slot(slot).to_string());
        let key = format!("{MARK}{{{tag}}}");
        let value = ReplicationId::random().to_string();
        let standing = async {
            let before = node.standing().await?;
            node.call(["SET", &key, &value]).await?;
            let after = node.standing().await?;
            node.call(["DEL", &key]).await?;
            Ok((before, after))
        };
        let (before, after) = standing.await.map_err(Error::Target)?;
        let from = Position::after_snapshot(before.id, before.offset);
        let look = Look::Mark(key.as_bytes(), value.as_bytes());
        let found = tail::read(&target.nodes[number], &from, after.offset, look).await?;
        let Some(mark) = found.mark else {
            return Err(Error::Cutover {
                step: "finding where the way back begins",
                why: format!(
                    "{} does not pass on what is written to it: it keeps no backlog",
                    target.nodes[number].name()
                ),
            });
        };
        places.push((mark, after.expired));
    }
    Ok(places)
}

/// Writes for the way back, at the side that it leads to, that it begins at these places of the primaries of `from`. What was kept there
/// under its name is replaced, unless somebody has begun there already.
pub(super) async fn prepare(
    to: &mut Side,
    from: &Side,
    back: &MigrationId,
    places: &[(Position, u64)],
) -> Result<(), Error> {
    let kept = to.at(back.slot(), ["HGETALL", &back.state_key()]).await?;
    let kept = State::read(&kept).unwrap_or_default();
    let has_begun = |(position, _): &(Position, u64)| {
        kept.links().any(|(_, link)| match link.stage {
            Stage::Stream(at) => at.id == position.id && at.offset >= position.offset,
            Stage::Snapshot(_) => false,
        })
    };
    if kept.get(field::FENCE).is_none() && places.iter().all(has_begun) {
        return Ok(());
    }
    // Marks of an earlier way back of this name are of other epochs.
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let mut fields = vec![
        field::FORMAT.to_owned(),
        FORMAT.to_owned(),
        field::FROM_NOW.to_owned(),
        field::FROM_NOW_PREPARED.to_owned(),
    ];
    for (number, (node, (position, _))) in from.nodes.iter().zip(places).enumerate() {
        let name = number.to_string();
        let state = LinkState { epoch, stage: Stage::Stream(position.clone()) };
        fields.extend([field::link(&name), state.to_string()]);
        if let Some(slots) = &node.slots {
            fields.extend([field::slots(&name), slots.to_string()]);
        }
    }
    let (state, owner) = (back.state_key(), back.owner_key());
    let mut args = vec!["HSET", &state];
    args.extend(fields.iter().map(String::as_str));
    let mut change = Pipeline::new();
    change.push(["MULTI"]).push(["DEL", &state, &owner]).push(args).push(["EXEC"]);
    to.all_at(back.slot(), &change).await.map(drop)
}

/// Forgets what was prepared, unless somebody has begun with it.
pub(super) async fn forget(to: &mut Side, back: &MigrationId) -> Result<(), Error> {
    let state = to.at(back.slot(), ["HGETALL", &back.state_key()]).await?;
    let state = State::read(&state).unwrap_or_default();
    if state.get(field::FROM_NOW) == Some(field::FROM_NOW_PREPARED) {
        to.at(back.slot(), ["DEL", &back.state_key()]).await?;
    }
    Ok(())
}

/// Removes from the target what it keeps of the migration, but for what keeps that from it.
pub(super) async fn clean(target: &mut Side, id: &MigrationId, by_slot: bool) -> Result<(), Error> {
    let key = id.state_key();
    let outdated: Vec<String> =
        names(&target.at(id.slot(), ["HKEYS", &key]).await?).filter(|name| name != field::FENCE).collect();
    if !outdated.is_empty() {
        let mut args = vec!["HDEL", &key];
        args.extend(outdated.iter().map(String::as_str));
        target.at(id.slot(), args).await?;
    }
    if !by_slot {
        return Ok(());
    }
    for number in 0..target.nodes.len() {
        let node = &mut target.nodes[number];
        let serves = |slot: &u16| node.slots.as_ref().is_none_or(|slots| slots.contains(*slot));
        let keys: Vec<String> = (0..SLOTS).filter(serves).map(slot_key).collect();
        let done = async {
            for keys in keys.chunks(TOGETHER) {
                let mut ask = Pipeline::new();
                keys.iter().for_each(|key| {
                    ask.push(["HKEYS", key]);
                });
                let replies = node.pipeline(&ask).await?;
                let mut remove = Pipeline::new();
                for (key, reply) in keys.iter().zip(&replies) {
                    if let Some(command) = forgetting(id, key, reply) {
                        remove.push(command.args());
                    }
                }
                if !remove.is_empty() {
                    node.pipeline(&remove).await?;
                }
            }
            Ok(())
        };
        done.await.map_err(|error| target.failed(error))?;
    }
    Ok(())
}

fn names(reply: &Frame) -> impl Iterator<Item = String> + '_ {
    let items = match reply {
        Frame::Array(items) | Frame::Set(items) => &items[..],
        _ => &[],
    };
    items.iter().filter_map(|name| Some(String::from_utf8_lossy(name.as_bytes()?).into_owned()))
}
