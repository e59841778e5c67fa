//! Finding all nodes of a cluster from a few of them.
//!
//! ```no_run
//! use keyferry_client::{Connection, Endpoint, cluster};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let Endpoint::Cluster(options) = "redis+cluster://:s3cret@10.0.0.1:7000,10.0.0.2:7000".parse()? else {
//!     unreachable!()
//! };
//! let found = cluster::discover(&options).await?;
//! println!("{} shards, {} slots without owner", found.topology().shards().len(), found.topology().unserved().len());
//! for primary in found.primaries() {
//!     let connection = Connection::connect(&primary).await?;
//! }
//! # Ok(()) }
//! ```

use std::time::Duration;

use keyferry_resp::ErrorReply;
use keyferry_routing::{Health, Node, Redirect, SLOTS, Shard, SlotMove, Topology, TopologyError};

use crate::tried::Tried;
use crate::{Address, Backoff, ClusterOptions, ConnectOptions, Connection, Error};

/// Nodes that are asked beyond the seeds when what these say leaves slots without an owner.
const MORE_TO_ASK: usize = 8;

/// A cluster as one of its nodes told it, and how to reach its nodes.
#[derive(Clone, Debug)]
pub struct Discovery {
    options: ClusterOptions,
    topology: Topology,
    asked: Address,
}

/// Asks the seeds in turn for the topology: with `CLUSTER SHARDS` (7.0 and later), else with `CLUSTER SLOTS`.
///
/// The first answer in which every slot has an owner is taken. If there is none, further nodes that the answers name are
/// asked, and the answer that leaves the fewest slots without an owner is taken: a cluster may have holes on purpose
/// (`cluster-require-full-coverage no`), so look at [`Topology::unserved`].
///
/// # Errors
///
/// [`Error::NoTopology`] with what each node said. It is retryable ([`Error::is_retryable`]) while nodes may come back or
/// agree.
pub async fn discover(options: &ClusterOptions) -> Result<Discovery, Error> {
    let mut tried = Tried::default();
    let mut to_ask: Vec<(Address, ConnectOptions)> = Vec::new();
    for seed in options.seeds() {
        to_ask.push((seed.clone(), options.node.clone().with_address(seed.clone())));
    }
    let most = to_ask.len() + MORE_TO_ASK;
    let mut best: Option<(usize, Discovery)> = None;
    let mut next = 0;
    while let Some((address, node)) = to_ask.get(next).filter(|_| next < most) {
        let (address, node) = (address.clone(), node.clone());
        next += 1;
        let topology = match ask(&node).await {
            Ok(Ok(topology)) => topology,
            Ok(Err(wrong)) => {
                tried.at(&address, is_passing(&wrong), format_args!("gives no topology: {wrong}"));
                continue;
            }
            Err(error) => {
                tried.error(&error);
                continue;
            }
        };
        let missing = without_owner(&topology);
        if missing == usize::from(SLOTS) {
            tried.at(&address, true, "knows no node that serves a slot");
        }
        let found = Discovery { options: options.clone(), topology, asked: address };
        if missing == 0 {
            return Ok(found);
        }
        for node in found.topology.nodes().filter_map(|node| found.node(node)) {
            if to_ask.iter().all(|(_, known)| known.address() != node.address()) {
                to_ask.push((node.address().clone(), node));
            }
        }
        if best.as_ref().is_none_or(|(fewest, _)| missing < *fewest) {
            best = Some((missing, found));
        }
    }
    match best {
        Some((missing, found)) if missing < usize::from(SLOTS) => Ok(found),
        _ => Err(Error::NoTopology { reasons: tried.reasons, passing: tried.passing }),
    }
}

/// As [`discover`], asking again for at most `time`, with the delays of `backoff`, until every slot has an owner.
///
/// # Errors
///
/// [`Error::NoTopology`] of the last attempt, also when slots are still without an owner. One that does not pass by itself
/// ends it at once.
pub async fn discover_within(
    options: &ClusterOptions,
    time: Duration,
    mut backoff: Backoff,
) -> Result<Discovery, Error> {
    let end = tokio::time::Instant::now() + time;
    loop {
        let error = match discover(options).await {
            Ok(found) => {
                let missing = without_owner(&found.topology);
                if missing == 0 {
                    return Ok(found);
                }
                let mut tried = Tried::default();
                tried.at(&found.asked, true, format_args!("knows no owner of {missing} slots"));
                Error::NoTopology { reasons: tried.reasons, passing: true }
            }
            Err(error) => error,
        };
        let next = tokio::time::Instant::now() + backoff.next_delay();
        if !error.is_retryable() || next >= end {
            return Err(error);
        }
        tokio::time::sleep_until(next).await;
    }
}

impl Discovery {
    /// The nodes and the slots that they serve.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The node that told.
    pub fn asked(&self) -> &Address {
        &self.asked
    }

    /// The options that led here.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The topology alone.
    pub fn into_topology(self) -> Topology {
        self.topology
    }

    /// How to reach a node: at the address that it announces, or where the [`AddressMap`](crate::AddressMap) says; a node
    /// that announces none is reached at the host that told. `None` for a node without a port for this kind of connection,
    /// with TLS or without.
    pub fn node(&self, node: &Node) -> Option<ConnectOptions> {
        let (host, port) = node.address(self.asked_host(), self.options.node.tls.is_some())?;
        Some(self.at(node.host.is_some(), host, port))
    }

    /// How to reach the node that a redirection names.
    pub fn redirected(&self, redirect: &Redirect) -> ConnectOptions {
        let (host, port) = redirect.address(self.asked_host());
        self.at(redirect.host.is_some(), host, port)
    }

    /// How to reach each primary that serves slots, in the order of [`Topology::shards`].
    pub fn primaries(&self) -> impl Iterator<Item = ConnectOptions> {
        let serving = self.topology.shards().iter().filter(|shard| !shard.slots.is_empty());
        serving.filter_map(|shard| self.node(shard.primary.as_ref()?))
    }

    /// Asks every primary which slots are on their way from or to it (`CLUSTER NODES`): only these two nodes know of it.
    /// What a failover left behind, a failed node without slots, is not asked.
    ///
    /// Slots that servers move by themselves (Valkey 9, Redis 8.4) are not among them.
    ///
    /// # Errors
    ///
    /// That of the first primary that cannot be asked: without its answer nothing is known of its slots.
    pub async fn moves(&self) -> Result<Vec<SlotMove>, Error> {
        let mut all = self.topology.clone();
        let left_behind = |shard: &Shard| {
            shard.slots.is_empty() && shard.primary.as_ref().is_some_and(|node| node.health == Health::Failed)
        };
        let shards = self.topology.shards().iter().filter(|shard| !left_behind(shard));
        for options in shards.filter_map(|shard| self.node(shard.primary.as_ref()?)) {
            let mut connection = Connection::connect(&options).await?;
            let reply = connection.call(["CLUSTER", "NODES"]).await?;
            let told = reply.as_bytes().map(|text| Topology::from_nodes(text));
            match told {
                Some(Ok(told)) => all.add_moves(&told),
                _ => {
                    let expected = "the list of nodes";
                    return Err(Error::unexpected(options.address(), "CLUSTER NODES", expected, &reply));
                }
            }
        }
        Ok(all.moves().to_vec())
    }

    fn at(&self, announced: bool, host: &str, port: u16) -> ConnectOptions {
        let address = Address::tcp(host, port);
        if announced { self.options.at(&address) } else { self.options.node.clone().with_address(address) }
    }

    fn asked_host(&self) -> &str {
        match &self.asked {
            Address::Tcp { host, .. } => host,
            // Whoever has its socket is on its machine.
            Address::Unix(_) => "localhost",
        }
    }
}

/// The topology as one node tells it.
///
/// `CLUSTER SHARDS` gives each shard the slots of one of its nodes. Where the node that was asked has filed a replica under
/// another shard than its primary (7.2 and what comes from it, while shard ids spread), the slots of one that took over are
/// missing there for good. `CLUSTER SLOTS` has them.
async fn ask(options: &ConnectOptions) -> Result<Result<Topology, TopologyError>, Error> {
    let mut connection = Connection::connect(options).await?;
    let reply = connection.call_frame(["CLUSTER", "SHARDS"]).await?;
    let shards = match reply.error_reply() {
        Some(error) if is_unknown(&error) => None,
        _ => Some(Topology::from_shards(&reply)),
    };
    let shards = match shards {
        Some(Ok(topology)) if without_owner(&topology) > 0 => Some(topology),
        Some(told) => return Ok(told),
        None => None,
    };
    let reply = connection.call_frame(["CLUSTER", "SLOTS"]).await?;
    let slots = Topology::from_slots(&reply);
    Ok(match (shards, slots) {
        (Some(shards), Ok(slots)) if without_owner(&slots) < without_owner(&shards) => Ok(slots),
        (Some(shards), _) => Ok(shards),
        (None, slots) => slots,
    })
}

/// How many slots no primary serves.
fn without_owner(topology: &Topology) -> usize {
    (0..SLOTS).filter(|&slot| topology.owner(slot).is_none()).count()
}

/// Whether the server does not have the command, or the user may not call it but perhaps an older one.
fn is_unknown(error: &ErrorReply) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    text.contains("unknown") || text.starts_with("noperm")
}

/// Nodes that disagree, or that are starting, may be of one mind soon. A server without cluster support stays so.
fn is_passing(error: &TopologyError) -> bool {
    match error {
        TopologyError::Refused(reply) => reply.retry() == keyferry_resp::Retry::BackOff,
        TopologyError::TwoOwners { .. } => true,
        _ => false,
    }
}
