use std::collections::HashMap;

use super::build::{MAX_NODES, port, slot_range};
use super::{Health, Node, Role, Shard, SlotMove, Topology, TopologyError};

impl Topology {
    /// Reads the reply to `CLUSTER NODES`, or a file `nodes.conf`: one line a node,
    /// `id ip:port@bus-port,hostname,… flags primary ping pong epoch link slot…`.
    ///
    /// Nodes in a handshake are no members yet and are left out. Replicas of a primary that is not known are left out, too.
    ///
    /// # Errors
    ///
    /// When a line has another shape, or a slot has two owners.
    pub fn from_nodes(text: &[u8]) -> Result<Self, TopologyError> {
        let mut shards: Vec<Shard> = Vec::new();
        let mut by_id = HashMap::new();
        let mut replicas = Vec::new();
        let mut moves = Vec::new();
        for (entry, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let malformed = |what| TopologyError::Malformed { entry, what };
            let line = std::str::from_utf8(line).map_err(|_| malformed("text"))?.trim_end_matches('\r');
            // The last line of nodes.conf has variables.
            if line.is_empty() || line.starts_with("vars ") {
                continue;
            }
            if entry > MAX_NODES {
                return Err(TopologyError::TooLarge);
            }
            let line = Line::parse(line).map_err(malformed)?;
            if line.is_handshake {
                continue;
            }
            if let Some(primary) = line.primary {
                replicas.push((primary.to_owned(), line.node));
                continue;
            }
            let mut shard = Shard { id: line.shard_id.map(str::to_owned), ..Shard::default() };
            for slots in line.slots {
                add_slots(&mut shard, &mut moves, line.id, slots).ok_or(malformed("slots"))?;
            }
            shard.primary = Some(line.node);
            if by_id.insert(line.id.to_owned(), shards.len()).is_some() {
                return Err(malformed("id of its own"));
            }
            shards.push(shard);
        }
        for (primary, replica) in replicas {
            if let Some(shard) = by_id.get(&primary).and_then(|&number| shards.get_mut(number)) {
                shard.replicas.push(replica);
            }
        }
        Self::build(shards, moves)
    }
}

/// One line, taken apart.
struct Line<'a> {
    id: &'a str,
    shard_id: Option<&'a str>,
    node: Node,
    primary: Option<&'a str>,
    is_handshake: bool,
    slots: std::str::Split<'a, char>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Result<Self, &'static str> {
        let mut fields = line.split(' ');
        let id = fields.next().filter(|id| !id.is_empty()).ok_or("id")?;
        let address = fields.next().ok_or("address")?;
        let flags = fields.next().ok_or("flags")?;
        let primary = fields.next().ok_or("primary")?;
        // Times of ping and pong, epoch, and state of the link.
        fields.nth(3).ok_or("state of its link")?;

        let mut parts = address.split(',');
        let mut node = address_of(parts.next().unwrap_or_default()).ok_or("address")?;
        node.id = Some(id.to_owned());
        node.health = Health::Online;
        node.hostname = parts.next().filter(|name| !name.is_empty()).map(str::to_owned);
        let mut shard_id = None;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "tls-port" => node.tls_port = value.parse().ok().and_then(port).ok_or("TLS port")?,
                "shard-id" => shard_id = Some(value).filter(|id| !id.is_empty()),
                "availability-zone" => {
                    node.availability_zone = Some(value).filter(|zone| !zone.is_empty()).map(str::to_owned);
                }
                _ => {}
            }
        }
        let mut is_handshake = false;
        for flag in flags.split(',') {
            match flag {
                "myself" => node.is_myself = true,
                "slave" | "replica" => node.role = Role::Replica,
                "fail?" if node.health == Health::Online => node.health = Health::Suspected,
                "fail" | "noaddr" => node.health = Health::Failed,
                "handshake" => is_handshake = true,
                _ => {}
            }
        }
        let primary = (node.role == Role::Replica).then_some(primary);
        Ok(Self { id, shard_id, node, primary, is_handshake, slots: fields })
    }
}

/// `ip:port@bus-port`; `ip:port` before 4.0. IPv6 has no brackets, and the ip may be missing.
fn address_of(text: &str) -> Option<Node> {
    let text = text.split_once('@').map_or(text, |(address, _)| address);
    let (ip, number) = text.rsplit_once(':')?;
    let host = (!ip.is_empty()).then(|| ip.to_owned());
    Some(Node { ip: host.clone(), host, port: port(number.parse().ok()?)?, ..Node::default() })
}

/// `n`, `n-m`, `[n->-id]` (on its way to that node) or `[n-<-id]` (on its way from there).
fn add_slots(shard: &mut Shard, moves: &mut Vec<SlotMove>, id: &str, text: &str) -> Option<()> {
    if text.is_empty() {
        return Some(());
    }
    if let Some(mark) = text.strip_prefix('[') {
        let mark = mark.strip_suffix(']')?;
        let (number, from, to) = match (mark.split_once("->-"), mark.split_once("-<-")) {
            (Some((number, to)), _) => (number, id, to),
            (None, Some((number, from))) => (number, from, id),
            (None, None) => return None,
        };
        let number: i64 = number.parse().ok()?;
        let slot = *slot_range(number, number)?.start();
        moves.push(SlotMove { slot, from: from.to_owned(), to: to.to_owned() });
        return Some(());
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    for slot in slot_range(first.parse().ok()?, last.parse().ok()?)? {
        if shard.slots.contains(slot) {
            return None;
        }
        shard.slots.insert(slot);
    }
    Some(())
}
