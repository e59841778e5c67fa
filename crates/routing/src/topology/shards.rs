use std::cmp::Reverse;

use keyferry_resp::Frame;

use super::build::{MAX_NODES, pairs, port, set_host, slot_range, text};
use super::{Health, Node, Role, Shard, Topology, TopologyError};

impl Topology {
    /// Reads the reply to `CLUSTER SHARDS` (7.0 and later): maps, or the flat lists that stand for them in RESP2. Names that are not known
    /// are skipped.
    ///
    /// # Errors
    ///
    /// When the reply is an error or has another shape, or a slot has two owners.
    pub fn from_shards(reply: &Frame) -> Result<Self, TopologyError> {
        if let Some(error) = reply.error_reply() {
            return Err(TopologyError::Refused(error));
        }
        let entries =
            reply.as_array().ok_or(TopologyError::Malformed { entry: 0, what: "list of shards" })?;
        let mut shards = Vec::new();
        let mut nodes_seen = 0;
        for (entry, fields) in entries.iter().enumerate() {
            let malformed = |what| TopologyError::Malformed { entry, what };
            let mut shard = Shard::default();
            let mut nodes = Vec::new();
            for (name, value) in pairs(fields).ok_or(malformed("shard"))? {
                match name {
                    "id" => shard.id = text(value).ok_or(malformed("id"))?,
                    "slots" => add_slots(&mut shard, value).ok_or(malformed("slots"))?,
                    "nodes" => {
                        let list = value.as_array().ok_or(malformed("list of nodes"))?;
                        nodes_seen += list.len();
                        if nodes_seen > MAX_NODES {
                            return Err(TopologyError::TooLarge);
                        }
                        nodes = list.iter().map(node).collect::<Option<_>>().ok_or(malformed("node"))?;
                    }
                    _ => {}
                }
            }
            take_nodes(&mut shard, nodes);
            shards.push(shard);
        }
        Self::build(shards, Vec::new())
    }
}

/// First, last, first, last, …
fn add_slots(shard: &mut Shard, slots: &Frame) -> Option<()> {
    let bounds = slots.as_array()?;
    let (ranges, rest) = bounds.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    for [first, last] in ranges {
        for slot in slot_range(first.as_i64()?, last.as_i64()?)? {
            if shard.slots.contains(slot) {
                return None;
            }
            shard.slots.insert(slot);
        }
    }
    Some(())
}

fn node(fields: &Frame) -> Option<Node> {
    let mut node = Node::default();
    let mut endpoint = None;
    for (name, value) in pairs(fields)? {
        match name {
            "id" => node.id = text(value)?,
            "port" => node.port = port(value.as_i64()?)?,
            "tls-port" => node.tls_port = port(value.as_i64()?)?,
            "ip" => node.ip = text(value)?,
            "endpoint" => endpoint = text(value)?,
            "hostname" => node.hostname = text(value)?,
            "role" => node.role = if value.as_str()? == "master" { Role::Primary } else { Role::Replica },
            "replication-offset" => {
                node.replication_offset = value.as_i64().and_then(|n| u64::try_from(n).ok())
            }
            "health" => {
                node.health = match value.as_str()? {
                    "online" => Health::Online,
                    "loading" => Health::Loading,
                    "fail" | "failed" => Health::Failed,
                    _ => Health::Unknown,
                }
            }
            "availability-zone" => node.availability_zone = text(value)?,
            _ => {}
        }
    }
    set_host(&mut node, endpoint);
    Some(node)
}

/// Of two nodes that take themselves for the primary, as they do for a while around a failover, it is the one that is well, or else
/// the one with more data.
fn take_nodes(shard: &mut Shard, mut nodes: Vec<Node>) {
    let rank = |node: &Node| (node.health == Health::Online, node.replication_offset);
    let primaries = nodes.iter().enumerate().filter(|(_, node)| node.role == Role::Primary);
    let primary = primaries.min_by_key(|(_, node)| Reverse(rank(node))).map(|(at, _)| at);
    shard.primary = primary.map(|at| nodes.remove(at));
    shard.replicas = nodes;
}
