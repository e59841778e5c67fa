//! Stopping the writes at the source, and letting them go on.

use std::{collections::BTreeMap, time::Duration};

use keyferry_client::{Error as ClientError, Frame, Version};

use super::{
    options::StopWrites,
    record::Record,
    side::{Node, Side},
    tail::{self, Look},
};
use crate::error::Error;

/// A pause lasts so much longer than the window, as putting things back takes time too.
const MARGIN: Duration = Duration::from_secs(5);

/// A pause from which the applications do not come back: until it is ended.
const FOR_GOOD: Duration = Duration::from_secs(24 * 3600);

/// For how long nothing may be written where somebody else has stopped it.
const STILL: Duration = Duration::from_secs(1);

/// Why writes cannot be stopped so, and what to do; for people.
pub(super) async fn objection(source: &mut Side, stop: &StopWrites) -> Result<Option<String>, Error> {
    for number in 0..source.nodes.len() {
        let node = &mut source.nodes[number];
        let found = match stop {
            StopWrites::Verify => Ok(None),
            StopWrites::Pause => cannot_pause(node).await,
            StopWrites::Acl(users) => cannot_turn_off(node, users).await,
        };
        match found {
            Ok(None) => {}
            Ok(Some(why)) => return Ok(Some(format!("{}: {why}", node.name()))),
            Err(error) => return Err(source.failed(error)),
        }
    }
    Ok(None)
}

async fn cannot_pause(node: &mut Node) -> Result<Option<String>, ClientError> {
    let version = node.connection().await?.server().version;
    Ok((version < Version::new(6, 2, 0)).then(|| {
        format!(
            "version {version} cannot pause writes alone (6.2 can): take --stop-writes acl:USER or verify"
        )
    }))
}

async fn cannot_turn_off(node: &mut Node, users: &[String]) -> Result<Option<String>, ClientError> {
    let me = match node.call(["ACL", "WHOAMI"]).await {
        Ok(me) => me.as_str().unwrap_or_default().to_owned(),
        Err(error) if error.server_code().is_some() => {
            return Ok(Some(format!("{error}: take --stop-writes pause or verify")));
        }
        Err(error) => return Err(error),
    };
    if users.contains(&me) {
        return Ok(Some(format!(
            "{me} is the user of this program, too: give it, and the migration, a user of their own"
        )));
    }
    for user in users {
        if is_on(node, user).await?.is_none() {
            return Ok(Some(format!("there is no user {user}")));
        }
    }
    let replicas = node.call(["CLIENT", "LIST", "TYPE", "replica"]).await?;
    let bears = |line: &str| {
        let user = line.split(' ').find_map(|word| word.strip_prefix("user="));
        user.filter(|user| users.iter().any(|of| of == user)).map(str::to_owned)
    };
    let text = String::from_utf8_lossy(replicas.as_bytes().map_or(&[][..], |bytes| bytes)).into_owned();
    Ok(text.lines().find_map(bears).map(|user| {
        format!("a replica or the migration is connected as {user}, and would be cut off: give it a user of its own")
    }))
}

/// Whether a user may log in; none where there is no such user.
async fn is_on(node: &mut Node, user: &str) -> Result<Option<bool>, ClientError> {
    let reply = node.call(["ACL", "GETUSER", user]).await?;
    let flags = match &reply {
        Frame::Map(pairs) => pairs.iter().find(|(name, _)| name.as_str() == Some("flags")).map(|(_, f)| f),
        Frame::Array(items) => {
            items.chunks_exact(2).find(|pair| pair[0].as_str() == Some("flags")).map(|pair| &pair[1])
        }
        _ => return Ok(None),
    };
    let flags = match flags {
        Some(Frame::Array(flags) | Frame::Set(flags)) => flags,
        _ => return Ok(None),
    };
    Ok(Some(flags.iter().any(|flag| flag.as_str() == Some("on"))))
}

/// The users that would be turned off, by node: those that are on.
pub(super) async fn users_on(
    source: &mut Side,
    stop: &StopWrites,
) -> Result<BTreeMap<usize, Vec<String>>, Error> {
    let mut on = BTreeMap::new();
    let StopWrites::Acl(users) = stop else { return Ok(on) };
    for number in 0..source.nodes.len() {
        let mut of_node = Vec::new();
        for user in users {
            let is_on = is_on(&mut source.nodes[number], user).await.map_err(|error| source.failed(error))?;
            if is_on == Some(true) {
                of_node.push(user.clone());
            }
        }
        on.insert(number, of_node);
    }
    Ok(on)
}

/// Stops writes. When it returns, everything that was acknowledged is in the streams.
pub(super) async fn stop(source: &mut Side, record: &Record, window: Duration) -> Result<(), Error> {
    match &record.stop {
        StopWrites::Pause => pause(source, window + MARGIN).await,
        StopWrites::Acl(_) => turn_off(source, record).await,
        StopWrites::Verify => stands_still(source).await,
    }
}

/// Writes stay stopped until they are let go on.
pub(super) async fn stop_for_good(source: &mut Side, record: &Record) -> Result<(), Error> {
    match &record.stop {
        StopWrites::Pause => pause(source, FOR_GOOD).await,
        StopWrites::Acl(_) => turn_off(source, record).await,
        StopWrites::Verify => Ok(()),
    }
}

/// Writes go on as they did before.
pub(super) async fn go_on(source: &mut Side, record: &Record) -> Result<(), Error> {
    for number in 0..source.nodes.len() {
        let node = &mut source.nodes[number];
        let done = async {
            match &record.stop {
                StopWrites::Pause => {
                    node.call(["CLIENT", "UNPAUSE"]).await?;
                }
                StopWrites::Acl(_) => {
                    for user in record.off.get(&number).into_iter().flatten() {
                        node.call(["ACL", "SETUSER", user, "on"]).await?;
                    }
                }
                StopWrites::Verify => {}
            }
            Ok(())
        };
        done.await.map_err(|error| source.failed(error))?;
    }
    Ok(())
}

/// The source takes writes of the way back; those that wait in a pause are not carried out.
pub(super) async fn release(source: &mut Side, record: &Record) -> Result<(), Error> {
    if record.stop != StopWrites::Pause {
        return Ok(());
    }
    for number in 0..source.nodes.len() {
        let node = &mut source.nodes[number];
        let done = async {
            node.call(["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await?;
            node.call(["CLIENT", "UNPAUSE"]).await.map(drop)
        };
        done.await.map_err(|error| source.failed(error))?;
    }
    Ok(())
}

async fn pause(source: &mut Side, time: Duration) -> Result<(), Error> {
    let time = time.as_millis().to_string();
    for number in 0..source.nodes.len() {
        let paused = source.nodes[number].call(["CLIENT", "PAUSE", &time, "WRITE"]).await;
        paused.map_err(|error| source.failed(error))?;
    }
    Ok(())
}

async fn turn_off(source: &mut Side, record: &Record) -> Result<(), Error> {
    for (number, users) in &record.off {
        let Some(node) = source.nodes.get_mut(*number) else { continue };
        let done = async {
            for user in users {
                node.call(["ACL", "SETUSER", user, "off"]).await?;
                // Who is connected stays so otherwise.
                node.call(["CLIENT", "KILL", "USER", user]).await?;
            }
            Ok(())
        };
        done.await.map_err(|error| source.failed(error))?;
    }
    Ok(())
}

async fn stands_still(source: &mut Side) -> Result<(), Error> {
    let before = source.standings().await?;
    tokio::time::sleep(STILL).await;
    let after = source.standings().await?;
    for ((node, before), after) in source.nodes.iter().zip(&before).zip(&after) {
        let from = keyferry_replication::Position::after_snapshot(before.id, before.offset);
        let tail = tail::read(node, &from, after.offset, Look::Writes).await?;
        let writes = tail.writes_beside(after.expired.saturating_sub(before.expired));
        if writes > 0 {
            return Err(Error::Cutover {
                step: "making sure that writes have stopped",
                why: format!(
                    "{} was written to {writes} times within a second, as by {}",
                    node.name(),
                    tail.samples.first().map_or("DEL", String::as_str)
                ),
            });
        }
    }
    Ok(())
}
