//! A migration keeps in its target how far it is: for each link to the source a replication id and an offset, up to which everything
//! is done. The source tells its own after a value was read there; when the target is as far, it has all that was written before.
//!
//! The state is a hash, `keyferry:migration:{id}` in database 0, with a field `link:<name>` for each link:
//! `stream <epoch> <replication id>:<offset>:<db>`, or `snapshot …` before the stream has begun. On one server it is written with
//! each batch, on a cluster about once a second, with a position below which everything is done. A source that is written
//! to by nobody moves on by the keep-alives of its links alone, every ten seconds by default.
//!
//! Where several workers carry a migration out, its hash has no links but a field `workers` with their number, and the hash of worker
//! `i` of `n` is `keyferry:migration:{id.i-of-n}`. Two of them may follow one node, each with a part of its slots: the target has what that
//! node wrote when both have come so far.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keyferry_client::{Connection, Frame, Pipeline};
use tokio::time::Instant;

use crate::error::Error;
use crate::live::nodes::{self, Channel, LiveSide};

/// What the names of states begin with.
const STATES: &[u8] = b"keyferry:migration:*";
/// Keys that a server looks at in one step.
const STEP: &[u8] = b"10000";
/// Workers of one migration, at most.
const MOST_WORKERS: u16 = 1000;
/// How often the target is asked.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// How far a history is: replication id and offset.
type Place = (Bytes, u64);

/// The states of the migration that follows all nodes of this source, if there is just one: its own, or those of its workers.
///
/// # Errors
///
/// When a server cannot be reached.
pub(super) async fn find(source: &LiveSide, target: &Arc<LiveSide>) -> Result<Option<Vec<Bytes>>, Error> {
    let Some(places) = of_source(source, &mut HashMap::new()).await? else { return Ok(None) };
    let mut states = Vec::new();
    for node in &target.nodes().all {
        let mut connection = nodes::connect(&node.connect, 0).await?;
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let args: [&[u8]; 6] = [b"SCAN", &cursor, b"COUNT", STEP, b"MATCH", STATES];
            let reply = connection.call(args).await?;
            let mut reply = reply.into_array().unwrap_or_default();
            let keys = reply.pop().and_then(Frame::into_array).unwrap_or_default();
            states.extend(keys.into_iter().filter_map(Frame::into_bytes));
            cursor = reply.pop().and_then(Frame::into_bytes).unwrap_or_default();
            if &cursor[..] == b"0" || cursor.is_empty() {
                break;
            }
        }
    }
    // SCAN may give one twice.
    states.sort_unstable();
    states.dedup();
    let mut channel = Channel::new(target, 0);
    let mut follows = None;
    for state in states {
        let keys = match read(&mut channel, &state).await? {
            State { workers: Some(of), .. } => match workers(&state, of) {
                Some(keys) => keys,
                None => continue,
            },
            State { .. } => vec![Bytes::copy_from_slice(&state)],
        };
        let Some(links) = links(&mut channel, &keys).await? else { continue };
        if places.iter().all(|(id, _)| links.iter().any(|(of, _)| of == id)) {
            if follows.is_some() {
                return Ok(None);
            }
            follows = Some(keys);
        }
    }
    Ok(follows)
}

/// Waits for the target. Has connections of its own.
#[derive(Debug)]
pub(crate) struct Waiter {
    keys: Vec<Bytes>,
    source: Arc<LiveSide>,
    open: HashMap<String, Connection>,
    target: Channel,
}

impl Waiter {
    pub(super) fn new(keys: &[Bytes], sides: &[Arc<LiveSide>; 2]) -> Self {
        Self {
            keys: keys.to_vec(),
            source: Arc::clone(&sides[0]),
            open: HashMap::new(),
            target: Channel::new(&sides[1], 0),
        }
    }

    /// Waits until the target has all that the source has now.
    pub(super) async fn wait(&mut self, wait: Duration) -> Result<(), Error> {
        let end = Instant::now() + wait;
        let Some(mut missing) = of_source(&self.source, &mut self.open).await? else {
            let reply = "INFO replication, which its user may not ask for, or without an offset".to_owned();
            return Err(Error::Refused { side: self.source.name().to_owned(), reply });
        };
        loop {
            if let Some(links) = links(&mut self.target, &self.keys).await? {
                missing.retain(|place| !is_there(&links, place));
            }
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                let target = self.target.side().name().to_owned();
                return Err(Error::Behind { target, seconds: wait.as_secs() });
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// Where the histories of all nodes are; `None` where one does not say.
async fn of_source(
    source: &LiveSide,
    open: &mut HashMap<String, Connection>,
) -> Result<Option<Vec<Place>>, Error> {
    let mut places = Vec::new();
    for node in &source.nodes().all {
        let name = node.connect.address().to_string();
        let mut connection = match open.remove(&name) {
            Some(connection) => connection,
            None => nodes::connect(&node.connect, 0).await?,
        };
        let info = match connection.info("replication").await {
            Err(error) if error.is_retryable() => {
                // It was closed meanwhile.
                connection = nodes::connect(&node.connect, 0).await?;
                connection.info("replication").await
            }
            info => info,
        };
        let info = match info {
            Ok(info) => info,
            Err(keyferry_client::Error::Server { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        open.insert(name, connection);
        let offset = info.get("master_repl_offset").and_then(|offset| offset.parse().ok());
        let id = info.get("master_replid").map(|id| Bytes::copy_from_slice(id.as_bytes()));
        let Some(place) = id.zip(offset) else { return Ok(None) };
        places.push(place);
    }
    Ok(Some(places))
}

/// True when the target has what a node wrote up to this place: when all links that follow it have come so far.
fn is_there(links: &[Place], (id, at): &Place) -> bool {
    let mut following = links.iter().filter(|(of, _)| of == id).peekable();
    following.peek().is_some() && following.all(|(_, done)| done >= at)
}

/// How far the links of a migration are; `None` while one of its workers, where it has some, has not all of its links in their
/// streams.
async fn links(channel: &mut Channel, keys: &[Bytes]) -> Result<Option<Vec<Place>>, Error> {
    let mut all = Vec::new();
    for key in keys {
        let State { links, others, .. } = read(channel, key).await?;
        if keys.len() > 1 && (others > 0 || links.is_empty()) {
            return Ok(None);
        }
        all.extend(links);
    }
    Ok(Some(all))
}

/// The states of the workers of a migration, by its own.
fn workers(state: &[u8], of: u16) -> Option<Vec<Bytes>> {
    let id = std::str::from_utf8(state).ok()?.strip_suffix('}')?;
    Some((0..of).map(|worker| Bytes::from(format!("{id}.{worker}-of-{of}}}"))).collect())
}

/// What a migration's state says.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// The links that are in their streams.
    links: Vec<Place>,
    /// How many are not.
    others: usize,
    /// Among how many workers it is divided, if it is.
    workers: Option<u16>,
}

impl State {
    fn of(words: &[Frame]) -> Self {
        let mut state = Self::default();
        let (pairs, _) = words.as_chunks::<2>();
        for [name, value] in pairs {
            let (Some(name), Some(value)) = (name.as_str(), value.as_str()) else { continue };
            match (name.starts_with("link:"), place(value)) {
                (true, Some(place)) => state.links.push(place),
                (true, None) => state.others += 1,
                (false, _) if name == "workers" => {
                    state.workers = value.parse().ok().filter(|of| (2..=MOST_WORKERS).contains(of));
                }
                (false, _) => {}
            }
        }
        state
    }
}

async fn read(channel: &mut Channel, key: &Bytes) -> Result<State, Error> {
    let mut pipeline = Pipeline::new();
    pipeline.push([&b"HGETALL"[..], key]);
    let reply = channel.at(key, &pipeline).await?.pop();
    let words: Vec<Frame> = match reply {
        Some(Frame::Array(words)) => words,
        Some(Frame::Map(pairs)) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        _ => Vec::new(),
    };
    Ok(State::of(&words))
}

/// `stream <epoch> <replication id>:<offset>:<db>`
fn place(text: &str) -> Option<Place> {
    let mut words = text.strip_prefix("stream ")?.split(' ');
    let (_epoch, position) = (words.next()?, words.next()?);
    let mut parts = position.split(':');
    let (id, offset) = (parts.next()?, parts.next()?);
    Some((Bytes::copy_from_slice(id.as_bytes()), offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_migrations_write_them() {
        let id = "3ad1e7ef023c242514c0b05e48e4ee884551c793";
        let expected = Some((Bytes::from_static(id.as_bytes()), 77));
        assert_eq!(place(&format!("stream 3 {id}:77:0")), expected);
        assert_eq!(place(&format!("stream 3 {id}:77:-")), expected);
        for other in ["", "snapshot 1 5", "stream", "stream 1", "stream 1 x", "stream 1 x:y:0"] {
            assert_eq!(place(other), None, "{other:?}");
        }
    }
    #[test]
    fn a_node_that_two_workers_follow_is_there_when_both_have_come_so_far() {
        let id = |n: u8| Bytes::from(vec![n; 40]);
        let links = [(id(1), 10), (id(2), 20), (id(1), 7)];
        assert!(is_there(&links, &(id(1), 7)) && !is_there(&links, &(id(1), 8)));
        assert!(is_there(&links, &(id(2), 20)) && !is_there(&links, &(id(3), 0)));
    }

    #[test]
    fn workers_are_found_by_the_state_of_the_whole() {
        let words = |pairs: &[(&str, &str)]| -> Vec<Frame> {
            let bulk = |text: &str| Frame::from(Bytes::copy_from_slice(text.as_bytes()));
            pairs.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect()
        };
        let state = State::of(&words(&[("workers", "2"), ("slots:0", "0-9"), ("worker:1", "begun")]));
        assert_eq!(state, State { workers: Some(2), ..State::default() });
        let keys = workers(b"keyferry:migration:{move}", 2).unwrap();
        assert_eq!(keys, ["keyferry:migration:{move.0-of-2}", "keyferry:migration:{move.1-of-2}"]);
        let stream = format!("stream 1 {}:5:0", "a".repeat(40));
        let state =
            State::of(&words(&[("link:0", &stream), ("link:1", "snapshot 1 5"), ("worker", "1/2 0-9")]));
        assert_eq!((state.links.len(), state.others, state.workers), (1, 1, None));
        for wrong in ["0", "1", "1001", "x"] {
            assert_eq!(State::of(&words(&[("workers", wrong)])).workers, None);
        }
    }
}
