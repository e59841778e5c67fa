//! Real clusters: started within about two seconds, resharded, failed over, killed in part.

mod builder;
mod client;
mod proxies;
mod reshard;
mod view;

pub use builder::ClusterBuilder;
pub use client::ClusterClient;
pub use reshard::MoveStep;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use keyferry_resp::Frame;

use crate::binaries::ServerBinary;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::proxy::Proxy;
use crate::server::Server;
use view::View;

/// How long a cluster may take to agree after a change: a start, a failover, a node that comes back.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is asked meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// A running cluster on loopback: every node a [`Server`] of its own. It ends when this value is dropped.
///
/// Nodes are named by their number: the primaries of the start are `0..primaries`, their replicas follow. Which of them is
/// a primary may change; [`Cluster::primaries`] asks.
///
/// ```
/// use keyferry_testkit::{Cluster, any};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let cluster = Cluster::builder(any()?).primaries(3).start()?;
/// let mut client = cluster.client()?;
/// client.call(&["SET", "foo", "bar"])?; // finds its node
/// assert_eq!(cluster.owner(12182)?, 2);
/// assert_eq!(cluster.node(2).client()?.text(&["GET", "foo"])?, "bar");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    /// The node ids, in the order of `nodes`.
    ids: Vec<String>,
    password: Option<String>,
    /// Of each node, where the cluster is reached through them.
    proxies: Vec<Proxy>,
}

/// How a replica takes over; see `CLUSTER FAILOVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failover {
    /// With the consent of its primary, which stops writes until the replica has everything: nothing is lost.
    Graceful,
    /// With the consent of the other primaries only: its own may be gone.
    Force,
    /// Without asking anybody.
    Takeover,
}

impl Cluster {
    /// Describes a cluster to start. Nothing happens before [`ClusterBuilder::start`].
    pub fn builder(binary: &ServerBinary) -> ClusterBuilder {
        ClusterBuilder::new(binary)
    }

    /// The program that all nodes run.
    pub fn binary(&self) -> &ServerBinary {
        self.nodes[0].binary()
    }

    /// All nodes, those that were killed among them.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// One node by its number.
    pub fn node(&self, number: usize) -> &Server {
        &self.nodes[number]
    }

    /// The node id (40 hexadecimal digits) of a node.
    pub fn id(&self, number: usize) -> &str {
        &self.ids[number]
    }

    /// The numbers of the living nodes that are primaries now, those without slots among them, in ascending order.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn primaries(&self) -> Result<Vec<usize>> {
        let view = self.view()?;
        Ok(self.living().filter(|&i| view.is_primary(&self.ids[i])).collect())
    }

    /// The numbers of the living replicas of a primary.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn replicas(&self, primary: usize) -> Result<Vec<usize>> {
        let view = self.view()?;
        let of_primary = |&i: &usize| view.primary_of(&self.ids[i]) == Some(&self.ids[primary]);
        Ok(self.living().filter(of_primary).collect())
    }

    /// The number of the primary that serves a slot.
    ///
    /// # Errors
    /// [`Error::Cluster`] when nobody does.
    pub fn owner(&self, slot: u16) -> Result<usize> {
        let view = self.view()?;
        view.owner(slot)
            .and_then(|id| self.ids.iter().position(|known| known == id))
            .ok_or_else(|| self.failed(format!("nobody serves slot {slot}")))
    }

    /// The slots that a node serves, as ascending ranges.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn slots(&self, number: usize) -> Result<Vec<RangeInclusive<u16>>> {
        Ok(self.view()?.slots(&self.ids[number]).to_vec())
    }

    /// `redis+cluster://` with the addresses of all nodes (of their proxies, with [`ClusterBuilder::proxies`]), and the
    /// password where there is one.
    pub fn url(&self) -> String {
        self.url_of("redis+cluster", |node| match self.proxy_of(node) {
            Some(proxy) => node.url().replace(&node.addr().to_string(), &proxy.addr().to_string()),
            None => node.url(),
        })
    }

    /// `rediss+cluster://` with the TLS addresses of all nodes, if they have them.
    pub fn tls_url(&self) -> Option<String> {
        self.nodes[0].tls_port()?;
        Some(self.url_of("rediss+cluster", |node| node.tls_url().unwrap_or_default()))
    }

    /// A client that finds the right node for each command.
    ///
    /// # Errors
    /// [`Error::Cluster`] when no node answers.
    pub fn client(&self) -> Result<ClusterClient> {
        let seeds = self.living().map(|i| self.nodes[i].addr().to_string()).collect();
        ClusterClient::connect_around(seeds, self.password.clone(), self.around_proxies())
    }

    /// How many keys all primaries hold together, in the database that is selected at the start.
    ///
    /// # Errors
    /// As [`Client::int`].
    pub fn keys(&self) -> Result<u64> {
        let mut keys = 0;
        for primary in self.primaries()? {
            keys += self.nodes[primary].client()?.int(&["DBSIZE"])?.unsigned_abs();
        }
        Ok(keys)
    }

    /// Makes a replica the primary of its shard, without losing a write, and waits until all nodes know.
    ///
    /// # Errors
    /// [`Error::Refused`] when the node is no replica, [`Error::Cluster`] when it takes too long.
    pub fn failover(&self, replica: usize) -> Result<()> {
        self.failover_with(replica, Failover::Graceful)
    }

    /// As [`Cluster::failover`], in the way named.
    ///
    /// # Errors
    /// As [`Cluster::failover`].
    pub fn failover_with(&self, replica: usize, how: Failover) -> Result<()> {
        let mut command = vec!["CLUSTER", "FAILOVER"];
        match how {
            Failover::Graceful => {}
            Failover::Force => command.push("FORCE"),
            Failover::Takeover => command.push("TAKEOVER"),
        }
        if how == Failover::Graceful {
            // Nodes that have not heard of the last move of a slot deny their votes.
            self.wait_until_settled()?;
        }
        let mut client = self.nodes[replica].client()?;
        let end = Instant::now() + PATIENCE;
        loop {
            match client.call(&command) {
                // The primary may not be connected to the replica for a moment.
                Err(Error::Refused { message, .. })
                    if message.contains("down or failed") && Instant::now() < end => {}
                outcome => drop(outcome?),
            }
            // Servers give an attempt up after five seconds.
            let promoted = client.wait_until(Duration::from_secs(6), |client| {
                Ok(client.info("replication", "role")?.as_deref() == Some("master"))
            })?;
            if promoted {
                break;
            }
            if Instant::now() >= end {
                let log = self.nodes[replica].log();
                return Err(self.failed(format!("node {replica} did not become a primary; its log:\n{log}")));
            }
        }
        self.wait_until_settled()
    }

    /// Kills a primary that has a replica, as `kill -9` does, and waits until another node serves its slots. Returns the
    /// number of that node.
    ///
    /// # Errors
    /// [`Error::Cluster`] when nobody takes over; at once when the node has no replica, or the other primaries are no
    /// majority that could elect one: a cluster needs three at least.
    pub fn kill(&mut self, primary: usize) -> Result<usize> {
        let slots = self.slots(primary)?;
        let Some(slot) = slots.first().map(|range| *range.start()) else {
            return Err(self.failed(format!("node {primary} serves no slot: nothing would be failed over")));
        };
        if self.replicas(primary)?.is_empty() {
            return Err(self.failed(format!("node {primary} has no replica that could take over")));
        }
        let voting =
            self.primaries()?.into_iter().filter(|&i| self.slots(i).is_ok_and(|slots| !slots.is_empty()));
        let voting = voting.count();
        if voting - 1 <= voting / 2 {
            return Err(
                self.failed(format!("without node {primary} there is no majority of its {voting} primaries"))
            );
        }
        self.kill_only(primary);
        self.wait_until_settled()?;
        self.owner(slot)
    }

    /// Kills a node as `kill -9` does and does not wait for anything.
    pub fn kill_only(&mut self, number: usize) {
        self.nodes[number].kill9();
    }

    /// Starts a node that was killed again (or kills and starts it) and waits until all nodes agree. Its data is what it
    /// had on disk; where another node has taken its slots over meanwhile, it becomes that node's replica.
    ///
    /// # Errors
    /// As [`Server::restart`], and [`Error::Cluster`].
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.nodes[number].restart()?;
        self.wait_until_settled()
    }

    /// Waits until all living nodes say that the cluster is in order, agree on who serves which slot, and every replica is
    /// connected to its primary.
    ///
    /// # Errors
    /// [`Error::Cluster`] with what is still missing.
    pub fn wait_until_settled(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let reason = match self.unsettled() {
                Ok(None) => return Ok(()),
                Ok(Some(reason)) => reason,
                Err(error) if Instant::now() >= end => self.told(&error),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= end {
                return Err(self.failed(reason));
            }
            std::thread::sleep(TICK);
        }
    }

    /// An error with its cause, and what the node that does not answer has logged.
    fn told(&self, error: &Error) -> String {
        let Error::Connection { address, source, .. } = error else { return error.to_string() };
        let silent = self.nodes.iter().find(|node| node.addr().to_string() == *address);
        let log = silent.map(Server::log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(40).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("{error} ({source}); the end of its log:\n{}", lines.join("\n"))
    }

    /// What is not yet in order.
    fn unsettled(&self) -> Result<Option<String>> {
        let mut first: Option<View> = None;
        for i in self.living() {
            let mut client = self.nodes[i].client()?;
            let info = client.text(&["CLUSTER", "INFO"])?;
            if !info.contains("cluster_state:ok") {
                return Ok(Some(format!("node {i}: {}", info.replace("\r\n", " "))));
            }
            // Which shard a replica belongs to is told apart from which primary it has, and later.
            let shards = client.call_raw(&["CLUSTER", "SHARDS"])?;
            if !shards.as_array().unwrap_or_default().iter().all(has_primary) {
                return Ok(Some(format!("node {i} takes a replica for a shard of its own")));
            }
            let view = View::ask(&mut client)?;
            for other in self.living() {
                if !view.is_well(&self.ids[other]) {
                    return Ok(Some(format!("node {i} is not connected to node {other}")));
                }
            }
            if view.is_primary(&self.ids[i]) {
                // It may be one that is being replaced and does not know yet.
                if client.info("replication", "role")?.as_deref() != Some("master") {
                    return Ok(Some(format!("node {i} changes its role")));
                }
            } else if client.info("replication", "master_link_status")?.as_deref() != Some("up") {
                return Ok(Some(format!("replica {i} is not connected to its primary")));
            }
            match &first {
                Some(first) if !first.agrees_with(&view) => {
                    return Ok(Some(format!(
                        "node {i} has another map of slots and replicas than the first"
                    )));
                }
                Some(_) => {}
                None => first = Some(view),
            }
        }
        // A killed node that still is named as the owner of slots.
        let view = first.ok_or_else(|| self.failed("no node is running"))?;
        for (i, id) in self.ids.iter().enumerate() {
            if self.nodes[i].pid().is_none() && !view.slots(id).is_empty() {
                return Ok(Some(format!("node {i} was killed, and nobody has taken over its slots")));
            }
        }
        Ok(None)
    }

    /// The numbers of the nodes that run.
    fn living(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].pid().is_some())
    }

    /// The cluster as its first living node sees it.
    fn view(&self) -> Result<View> {
        let i = self.living().next().ok_or_else(|| self.failed("no node is running"))?;
        View::ask(&mut self.nodes[i].client()?)
    }

    /// The port at which the other nodes reach a node.
    fn inner_port(&self, number: usize) -> String {
        let node = &self.nodes[number];
        node.tls_port().unwrap_or(node.port()).to_string()
    }

    fn clients(&self, numbers: &[usize]) -> Result<Vec<Client>> {
        numbers.iter().map(|&i| self.nodes[i].client()).collect()
    }

    fn url_of(&self, scheme: &str, url: impl Fn(&Server) -> String) -> String {
        let mut out = format!("{scheme}://");
        for (i, node) in self.nodes.iter().enumerate() {
            // The credentials stand before the first host only.
            let url = url(node);
            let rest = url.split_once("://").map_or("", |(_, rest)| rest);
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            out.push_str(if i == 0 { rest } else { "," });
            out.push_str(if i == 0 { "" } else { host });
        }
        out
    }

    fn failed(&self, what: impl Into<String>) -> Error {
        let name = self.nodes.first().map_or("cluster", |node| &node.binary().name).to_owned();
        Error::Cluster { name, what: what.into() }
    }
}

/// Whether one of the nodes of a shard, as CLUSTER SHARDS shows it, is a primary.
fn has_primary(shard: &Frame) -> bool {
    let nodes = shard.get("nodes").and_then(Frame::as_array).unwrap_or_default();
    nodes.iter().any(|node| node.get("role").and_then(Frame::as_str) == Some("master"))
}
