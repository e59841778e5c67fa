//! What the servers of both sides say of themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use keyferry_client::{
    ConnectOptions, Connection, Endpoint, Error, Frame, Info, Pipeline, ServerInfo, cluster, sentinel,
};
use keyferry_routing::SlotSet;

/// Round trips of which the middle one counts.
const PINGS: usize = 5;

/// Times that a server's clock is read; the quickest answer says most.
const CLOCK_READINGS: usize = 3;

/// What is asked by `CONFIG GET`.
const SETTINGS: &[&str] = &[
    "appendfsync",
    "appendonly",
    "client-output-buffer-limit",
    "cluster-databases",
    "databases",
    "maxclients",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "min-slaves-to-write",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "repl-backlog-size",
    "repl-timeout",
    "save",
    "stop-writes-on-bgsave-error",
];

/// Which end a server is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Target,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Source => "source",
            End::Target => "target",
        })
    }
}

/// One end: its primaries.
#[derive(Debug)]
pub(super) struct Surveyed {
    pub(super) end: End,
    pub(super) is_cluster: bool,
    /// At least one, unless it is no server at all.
    pub(super) nodes: Vec<Node>,
    /// Slots that nobody serves.
    pub(super) unserved: SlotSet,
    /// Slots on the move, or why that is not known.
    pub(super) moving: Result<SlotSet, String>,
}

/// A server, and all that it told.
pub(super) struct Node {
    pub(super) end: End,
    pub(super) connection: Connection,
    pub(super) options: ConnectOptions,
    pub(super) server: ServerInfo,
    /// Its slots, in a cluster.
    pub(super) slots: Option<SlotSet>,
    /// Empty when it was refused.
    pub(super) info: Info,
    pub(super) info_refused: Option<String>,
    settings: BTreeMap<String, String>,
    pub(super) settings_refused: Option<String>,
    /// The middle one of a few round trips.
    pub(super) latency: Duration,
    /// Its clock minus the clock here, in milliseconds, and by how much that may be wrong.
    pub(super) clock: Option<(i64, u64)>,
    /// When `info` was read.
    pub(super) read: Instant,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name())
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Surveyed {
    /// Finds the primaries of one end and asks them.
    pub(super) async fn new(end: End, endpoint: &Endpoint) -> Result<Self, Error> {
        let mut surveyed = Self::none(end);
        match endpoint.clone().detect().await? {
            Endpoint::Cluster(options) => {
                let found = cluster::discover(&options).await?;
                surveyed.is_cluster = true;
                surveyed.unserved = found.topology().unserved();
                surveyed.moving = match found.moves().await {
                    Ok(moves) => {
                        let mut slots = SlotSet::new();
                        moves.iter().for_each(|moving| slots.insert(moving.slot));
                        Ok(slots)
                    }
                    Err(error) => Err(error.to_string()),
                };
                for shard in found.topology().shards().iter().filter(|shard| !shard.slots.is_empty()) {
                    let node = shard.primary.as_ref().and_then(|primary| found.node(primary));
                    let Some(options) = node else { continue };
                    surveyed.nodes.push(Node::ask(end, options, Some(shard.slots.clone())).await?);
                }
            }
            Endpoint::Sentinel(options) => {
                let primary = sentinel::primary(&options).await?;
                surveyed.nodes.push(Node::ask(end, primary, None).await?);
            }
            other => surveyed.nodes.push(Node::ask(end, other.options().clone(), None).await?),
        }
        Ok(surveyed)
    }

    /// An end that is no server.
    pub(super) fn none(end: End) -> Self {
        let (nodes, unserved, moving) = (Vec::new(), SlotSet::new(), Ok(SlotSet::new()));
        Surveyed { end, is_cluster: false, nodes, unserved, moving }
    }

    /// What its servers are, as a report of a migration has it.
    pub(super) fn servers(&self) -> String {
        let kinds: BTreeSet<String> = self.nodes.iter().map(|node| node.server.to_string()).collect();
        let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
        match self.nodes.len() {
            1 => kinds,
            nodes => format!("{kinds}, {nodes} primaries"),
        }
    }

    /// Forgets what has nothing to do with these slots.
    pub(super) fn keep(&mut self, slots: &SlotSet) {
        let has_some = |of: &SlotSet| !of.common(slots).is_empty();
        self.nodes.retain(|node| node.slots.as_ref().is_none_or(has_some));
        self.unserved = self.unserved.common(slots);
        if let Ok(moving) = &mut self.moving {
            *moving = moving.common(slots);
        }
    }

    /// The number of the node that serves a slot.
    pub(super) fn node_of(&self, slot: u16) -> Option<usize> {
        self.nodes.iter().position(|node| node.slots.as_ref().is_none_or(|slots| slots.contains(slot)))
    }
}

impl Node {
    async fn ask(end: End, options: ConnectOptions, slots: Option<SlotSet>) -> Result<Self, Error> {
        let options = options.with_db(0);
        let mut connection = Connection::connect(&options).await?;
        let mut questions = Pipeline::new();
        questions.push(["INFO", "all"]);
        // From 6.0; others answer with a section of no lines.
        questions.push(["INFO", "modules"]);
        for setting in SETTINGS {
            questions.push(["CONFIG", "GET", setting]);
        }
        let answers = connection.pipeline(&questions).await?;
        let read = Instant::now();
        let refusal = |frame: &Frame| frame.error_reply().map(|error| error.to_string());
        let mut info = Info::default();
        if let Some(all) = answers.first().and_then(text_of) {
            let modules = answers.get(1).and_then(text_of).unwrap_or_default();
            info = Info::parse(&[all, b"\n", modules].concat());
        }
        let settings: BTreeMap<String, String> = answers.iter().skip(2).filter_map(setting).collect();
        let latency = latency(&mut connection).await?;
        let clock = clock(&mut connection).await?;
        Ok(Node {
            end,
            server: connection.server().clone(),
            info,
            info_refused: answers.first().and_then(refusal),
            settings_refused: answers.get(2).and_then(refusal).filter(|_| settings.is_empty()),
            settings,
            latency,
            clock,
            read,
            slots,
            options,
            connection,
        })
    }

    /// Which server it is, for people.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.end, self.options.address())
    }

    /// A figure of INFO.
    pub(super) fn figure(&self, name: &str) -> Option<u64> {
        self.info.get_as(name)
    }

    /// What CONFIG GET gave.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// The same as a number.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        self.setting(name)?.parse().ok()
    }

    /// Why something of this server is not known.
    pub(super) fn silence(&self) -> String {
        let refused = self.settings_refused.as_deref().or(self.info_refused.as_deref());
        let why = refused.unwrap_or("it does not tell");
        format!("{}: not known: {why}", self.name())
    }

    /// Keys of each database.
    pub(super) fn keys(&self) -> BTreeMap<u64, u64> {
        self.info.keyspace().map(|db| (u64::from(db.db), db.keys)).collect()
    }

    /// Calls of each command since the server began to count, subcommands and all; names in lower case.
    pub(super) fn calls(&self) -> impl Iterator<Item = (&str, u64)> {
        self.info.iter().filter_map(|(_, key, _)| {
            let name = key.strip_prefix("cmdstat_")?;
            Some((name, self.info.field(key, "calls")?.parse().ok()?))
        })
    }
}

fn text_of(frame: &Frame) -> Option<&[u8]> {
    match frame.value() {
        Frame::Bulk(text) | Frame::Verbatim { text, .. } => Some(text),
        _ => None,
    }
}

/// The name and the value of a setting.
fn setting(frame: &Frame) -> Option<(String, String)> {
    let (name, value) = match frame.value() {
        Frame::Array(pair) => (pair.first()?, pair.get(1)?),
        Frame::Map(pairs) => pairs.first().map(|(name, value)| (name, value))?,
        _ => return None,
    };
    let text = |frame: &Frame| frame.as_bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Some((text(name)?, text(value)?))
}

async fn latency(connection: &mut Connection) -> Result<Duration, Error> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let begun = Instant::now();
        // Also a refusal is an answer.
        connection.call_frame(["PING"]).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(PINGS / 2).copied().unwrap_or_default())
}

async fn clock(connection: &mut Connection) -> Result<Option<(i64, u64)>, Error> {
    let mut best: Option<(i64, u64)> = None;
    for _ in 0..CLOCK_READINGS {
        let (begun, before) = (Instant::now(), micros_here());
        let reply = connection.call_frame(["TIME"]).await?;
        let half = u64::try_from(begun.elapsed().as_micros() / 2).unwrap_or(u64::MAX);
        let Some([seconds, micros]) = reply.as_array() else { return Ok(None) };
        let (Some(seconds), Some(micros)) = (number(seconds), number(micros)) else { return Ok(None) };
        let there = seconds.saturating_mul(1_000_000).saturating_add(micros);
        let here = before.saturating_add(i64::try_from(half).unwrap_or(i64::MAX));
        if best.is_none_or(|(_, error)| half < error) {
            best = Some((there.saturating_sub(here), half));
        }
    }
    Ok(best.map(|(offset, error)| (offset / 1000, error / 1000 + 1)))
}

fn number(frame: &Frame) -> Option<i64> {
    frame.as_i64().or_else(|| frame.as_str()?.parse().ok())
}

fn micros_here() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
