use std::collections::HashMap;
use std::collections::hash_map::Entry;

use keyferry_resp::Frame;

use super::build::{MAX_NODES, pairs, port, set_host, slot_range, text};
use super::{Node, Role, Shard, Topology, TopologyError};

impl Topology {
    /// Reads the reply to `CLUSTER SLOTS`: `[first, last, primary, replica…]`, each node `[host, port, id, metadata]` (no id before 4.0,
    /// no metadata before 7.0).
    ///
    /// # Errors
    ///
    /// When the reply is an error or has another shape, or a slot has two owners.
    pub fn from_slots(reply: &Frame) -> Result<Self, TopologyError> {
        if let Some(error) = reply.error_reply() {
            return Err(TopologyError::Refused(error));
        }
        let ranges = reply.as_array().ok_or(TopologyError::Malformed { entry: 0, what: "list of ranges" })?;
        let mut shards: Vec<Shard> = Vec::new();
        let mut known = HashMap::new();
        let mut nodes_seen = 0;
        for (entry, range) in ranges.iter().enumerate() {
            let malformed = |what| TopologyError::Malformed { entry, what };
            let Some([first, last, primary, replicas @ ..]) = range.as_array() else {
                return Err(malformed("range"));
            };
            let slots = first.as_i64().zip(last.as_i64()).and_then(|(first, last)| slot_range(first, last));
            let slots = slots.ok_or(malformed("slots"))?;
            let primary = node(primary, Role::Primary).ok_or(malformed("primary"))?;
            nodes_seen += 1 + replicas.len();
            if nodes_seen > MAX_NODES {
                return Err(TopologyError::TooLarge);
            }
            // A primary with holes in its slots has several entries.
            let identity = match &primary.id {
                Some(id) => (id.clone(), None),
                None => (primary.host.clone().unwrap_or_default(), primary.port),
            };
            let number = match known.entry(identity) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let replicas = replicas.iter().map(|replica| node(replica, Role::Replica));
                    let replicas = replicas.collect::<Option<_>>().ok_or(malformed("replica"))?;
                    shards.push(Shard { primary: Some(primary), replicas, ..Shard::default() });
                    *new.insert(shards.len() - 1)
                }
            };
            if let Some(shard) = shards.get_mut(number) {
                for slot in slots {
                    if shard.slots.contains(slot) {
                        return Err(TopologyError::TwoOwners { slot });
                    }
                    shard.slots.insert(slot);
                }
            }
        }
        Self::build(shards, Vec::new())
    }
}

fn node(frame: &Frame, role: Role) -> Option<Node> {
    let [host, number, rest @ ..] = frame.as_array()? else { return None };
    let mut node = Node { role, port: port(number.as_i64()?)?, ..Node::default() };
    if let Some(id) = rest.first() {
        node.id = text(id)?;
    }
    if let Some(metadata) = rest.get(1) {
        for (name, value) in pairs(metadata)? {
            match name {
                "ip" => node.ip = text(value)?,
                "hostname" => node.hostname = text(value)?,
                "availability-zone" => node.availability_zone = text(value)?,
                _ => {}
            }
        }
    }
    set_host(&mut node, text(host)?);
    Some(node)
}
