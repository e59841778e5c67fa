//! Who serves which slot.

mod build;
mod nodes;
mod redirect;
mod shards;
mod slots;

use crate::slot::SLOTS;
use crate::slot_set::SlotSet;

pub use redirect::{Redirect, RedirectKind};

/// The nodes of a cluster and the slots that they serve, as one node told it.
///
/// It is read from the replies to `CLUSTER SHARDS` (7.0 and later, the fullest), `CLUSTER SLOTS` (3.0 and later), or
/// `CLUSTER NODES` (3.0 and later; the only one that tells of slots on the move, and the format of a node's `nodes.conf`). All shapes
/// that servers give are read, those of RESP2 and RESP3.
///
/// ```
/// use keyferry_routing::{Topology, slot};
///
/// let topology = Topology::from_nodes(
///     b"07c3 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-8191\n\
///       1f5a 10.0.0.2:6379@16379 master - 0 1 2 connected 8192-16383\n\
///       29b0 10.0.0.3:6379@16379 slave 1f5a 0 1 2 connected\n",
/// )?;
/// let owner = topology.owner(slot(b"foo")).expect("is served");
/// assert_eq!(owner.address("asked.example.com", false), Some(("10.0.0.2", 6379)));
/// assert_eq!(topology.shard(slot(b"foo")).expect("is served").replicas.len(), 1);
/// # Ok::<(), keyferry_routing::TopologyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Topology {
    shards: Vec<Shard>,
    moves: Vec<SlotMove>,
    /// Which shard serves a slot, or `NOBODY`.
    owners: Box<[u16; SLOTS as usize]>,
}

const NOBODY: u16 = u16::MAX;

/// A primary, its replicas, and the slots that they serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// The id of the shard, where the server tells it (Valkey, in `CLUSTER SHARDS`; `nodes.conf` of 7.2 and later).
    pub id: Option<String>,
    /// The slots. None for a primary that is new or was emptied.
    pub slots: SlotSet,
    /// The primary. `None` while the old one is gone and no replica has taken its place.
    pub primary: Option<Node>,
    /// The replicas, and, while nodes disagree, further nodes that take themselves for the primary.
    pub replicas: Vec<Node>,
}

impl Shard {
    /// All nodes, the primary first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.primary.iter().chain(&self.replicas)
    }
}

/// A node of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Node {
    /// Its id: 40 hexadecimal digits. `None` from servers before 4.0 in `CLUSTER SLOTS`.
    pub id: Option<String>,
    /// The address that clients are to use: an IP address (IPv6 without brackets) or a name. `None` if the server does not know
    /// it, or tells clients to keep the host that they asked.
    pub host: Option<String>,
    /// The host name that it announces.
    pub hostname: Option<String>,
    /// Its IP address, where that is told beside the host.
    pub ip: Option<String>,
    /// The port for plain connections. In the replies to `CLUSTER SLOTS` and `CLUSTER NODES`, the port for connections like the one
    /// that asked.
    pub port: Option<u16>,
    /// The port for TLS, where it is told beside the other.
    pub tls_port: Option<u16>,
    /// What it takes itself for.
    pub role: Role,
    /// What others think of it.
    pub health: Health,
    /// Where it stands (Valkey).
    pub availability_zone: Option<String>,
    /// How far its data is (`CLUSTER SHARDS`).
    pub replication_offset: Option<u64>,
    /// Whether it is the node that told (`CLUSTER NODES`).
    pub is_myself: bool,
}

impl Node {
    /// Host and port for a connection with TLS or without. `asked` is the host of the connection on which the reply came: the host of
    /// nodes that have none of their own.
    ///
    /// `None` if the node has no such port.
    pub fn address<'a>(&'a self, asked: &'a str, tls: bool) -> Option<(&'a str, u16)> {
        let port = if tls { self.tls_port.or(self.port) } else { self.port };
        Some((self.host.as_deref().unwrap_or(asked), port?))
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// It serves slots, or could.
    #[default]
    Primary,
    /// It copies a primary.
    Replica,
}

/// What is known of the state of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Health {
    /// The reply does not tell (`CLUSTER SLOTS`, which leaves failed replicas out).
    #[default]
    Unknown,
    /// It is well.
    Online,
    /// It reads its data.
    Loading,
    /// The node that told does not reach it (`fail?`).
    Suspected,
    /// Most nodes do not reach it (`fail`), or its address is not known.
    Failed,
}

/// A slot on its way from one primary to another, key by key.
///
/// Only the two nodes that take part know of it: ask both, and [collect](Topology::add_moves) what they tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SlotMove {
    /// The slot.
    pub slot: u16,
    /// The id of the node that gives it away. It is the owner still.
    pub from: String,
    /// The id of the node that gets it.
    pub to: String,
}

/// Why the reply of a server is no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The server answered with an error: it has no cluster support, or is too old for this command.
    #[error("the server does not tell its topology: {0}")]
    Refused(keyferry_resp::ErrorReply),
    /// The reply has another shape than those of known servers.
    #[error("entry {entry} of the topology has no valid {what}")]
    Malformed {
        /// Which shard, range or line, counted from 0.
        entry: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Two shards serve a slot.
    #[error("slot {slot} has two owners in the topology: ask another node, or again later")]
    TwoOwners {
        /// The slot.
        slot: u16,
    },
    /// More shards than slots, or as many nodes as no cluster has.
    #[error("the topology has more nodes than any cluster")]
    TooLarge,
}

impl Topology {
    /// All shards, those without slots included.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The slots on the move that are known.
    pub fn moves(&self) -> &[SlotMove] {
        &self.moves
    }

    /// The primary that serves a slot. `None` if nobody does, or its primary is gone.
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<&Node> {
        self.shard(slot)?.primary.as_ref()
    }

    /// The shard that serves a slot.
    #[inline]
    pub fn shard(&self, slot: u16) -> Option<&Shard> {
        self.shards.get(self.shard_index(slot)?)
    }

    /// The number in [`shards`](Self::shards) of the shard that serves a slot.
    #[inline]
    pub fn shard_index(&self, slot: u16) -> Option<usize> {
        let &owner = self.owners.get(usize::from(slot))?;
        (owner != NOBODY).then_some(usize::from(owner))
    }

    /// All primaries, with and without slots.
    pub fn primaries(&self) -> impl Iterator<Item = &Node> {
        self.shards.iter().filter_map(|shard| shard.primary.as_ref())
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.shards.iter().flat_map(Shard::nodes)
    }

    /// The node with this id.
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes().find(|node| node.id.as_deref() == Some(id))
    }

    /// The slots that nobody serves.
    pub fn unserved(&self) -> SlotSet {
        let mut slots = SlotSet::new();
        (0..SLOTS).filter(|&slot| self.shard_index(slot).is_none()).for_each(|slot| slots.insert(slot));
        slots
    }

    /// Takes over the slots on the move that another node told of.
    pub fn add_moves(&mut self, other: &Self) {
        for new in &other.moves {
            if !self.moves.contains(new) {
                self.moves.push(new.clone());
            }
        }
    }

    /// Changes each node: the place to translate addresses that only hold inside of the cluster's network (NAT, containers).
    pub fn map_nodes(&mut self, mut change: impl FnMut(&mut Node)) {
        for shard in &mut self.shards {
            shard.primary.iter_mut().chain(&mut shard.replicas).for_each(&mut change);
        }
    }

    /// Gives a slot to the node that an error `MOVED` named. A replica that is named takes its primary's place.
    ///
    /// Returns whether that node is known. If not, nothing changed: read the topology anew. `asked` and `tls` are those of the
    /// connection on which the error came.
    pub fn apply_moved(&mut self, redirect: &Redirect, asked: &str, tls: bool) -> bool {
        let Some(slot) = redirect.slot.filter(|&slot| redirect.kind == RedirectKind::Moved && slot < SLOTS)
        else {
            return false;
        };
        let wanted = Some(redirect.address(asked));
        let is_it = |node: &Node| node.address(asked, tls) == wanted;
        let Some(new) = self.shards.iter().position(|shard| shard.nodes().any(is_it)) else { return false };
        let Ok(number) = u16::try_from(new) else { return false };
        if let Some(old) = self.shard_index(slot).and_then(|old| self.shards.get_mut(old)) {
            old.slots.remove(slot);
        }
        if let Some(shard) = self.shards.get_mut(new) {
            shard.slots.insert(slot);
            if let Some(replica) = shard.replicas.iter_mut().find(|node| is_it(node)) {
                replica.role = Role::Primary;
                let promoted = std::mem::take(replica);
                match shard.primary.replace(promoted) {
                    Some(mut old) => {
                        old.role = Role::Replica;
                        *replica = old;
                    }
                    None => shard.replicas.retain(|node| *node != Node::default()),
                }
            }
        }
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = number;
        }
        self.moves.retain(|moving| moving.slot != slot);
        true
    }
}
