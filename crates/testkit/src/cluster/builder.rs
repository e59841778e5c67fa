use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::{Cluster, PATIENCE, TICK};
use crate::binaries::{ServerBinary, Vendor};
use crate::certs::Certs;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::proxy::Proxy;
use crate::server::{Builder, Server};

/// The number of slots of every cluster.
const SLOTS: u16 = 16384;

/// How a [`Cluster`] is to be started.
#[derive(Debug, Clone)]
#[must_use = "nothing is started before `start` is called"]
pub struct ClusterBuilder {
    binary: ServerBinary,
    node: Builder,
    primaries: usize,
    replicas: usize,
    slots: Vec<Vec<RangeInclusive<u16>>>,
    node_timeout: Duration,
    password: Option<String>,
    proxies: bool,
}

impl ClusterBuilder {
    pub(super) fn new(binary: &ServerBinary) -> ClusterBuilder {
        ClusterBuilder {
            binary: binary.clone(),
            node: Server::builder(binary).cluster(),
            primaries: 3,
            replicas: 0,
            slots: Vec::new(),
            node_timeout: Duration::from_secs(2),
            password: None,
            proxies: false,
        }
    }

    /// How many primaries it has, each with an equal share of the slots. Default: 3.
    pub fn primaries(mut self, count: usize) -> ClusterBuilder {
        self.primaries = count.max(1);
        self.slots.clear();
        self
    }

    /// How many replicas each primary has. Default: none.
    pub fn replicas(mut self, per_primary: usize) -> ClusterBuilder {
        self.replicas = per_primary;
        self
    }

    /// One primary for each item, with the ranges of slots that it serves. Slots that are in none of them are served by
    /// nobody, and the cluster is up only with `cluster-require-full-coverage no`.
    pub fn slots(mut self, of_primaries: &[&[RangeInclusive<u16>]]) -> ClusterBuilder {
        self.slots = of_primaries.iter().map(|ranges| ranges.to_vec()).collect();
        self.primaries = self.slots.len().max(1);
        self
    }

    /// After how long without an answer a node counts as failed. Default: two seconds; a failover takes about two more.
    /// On a busy machine less than a second makes failovers that nobody asked for.
    pub fn node_timeout(mut self, timeout: Duration) -> ClusterBuilder {
        self.node_timeout = timeout;
        self
    }

    /// One more line of every node's configuration file, as [`Builder::config`].
    pub fn config(mut self, name: &str, value: &str) -> ClusterBuilder {
        self.node = self.node.config(name, value);
        self
    }

    /// How many databases the cluster has: Valkey 9.0 and later; the others refuse to start with more than one.
    pub fn databases(self, count: u32) -> ClusterBuilder {
        self.config("cluster-databases", &count.to_string())
    }

    /// The password of the default user on every node.
    pub fn password(mut self, password: &str) -> ClusterBuilder {
        self.node = self.node.password(password);
        self.password = Some(password.to_owned());
        self
    }

    /// One more user on every node, as [`Builder::user`].
    pub fn user(mut self, name: &str, rules: &str) -> ClusterBuilder {
        self.node = self.node.user(name, rules);
        self
    }

    /// Every node listens with TLS on a second port, and nodes speak TLS with each other: else they would not know each
    /// other's TLS ports, and could not tell them.
    pub fn tls(mut self, certs: &Certs) -> ClusterBuilder {
        self.node = self.node.tls(certs);
        self.config("tls-cluster", "yes").config("tls-replication", "yes")
    }

    /// Every node keeps an append-only file, so that a node that was killed comes back with its data.
    pub fn append_only(mut self, fsync: &str) -> ClusterBuilder {
        self.node = self.node.append_only(fsync);
        self
    }

    /// Puts a [`Proxy`] before each node and lets the node announce its address, so that every client that follows the
    /// cluster's map goes through it, and replicas too. [`Cluster::client`] and whatever else this crate does goes around.
    pub fn proxies(mut self) -> ClusterBuilder {
        self.proxies = true;
        self
    }

    /// Starts all nodes, joins them, and waits until [`Cluster::wait_until_settled`] is content. Servers do not serve
    /// before two seconds have passed, whatever one does.
    ///
    /// # Errors
    /// As [`Builder::start`], and [`Error::Cluster`] when the nodes do not agree in time.
    pub fn start(self) -> Result<Cluster> {
        let count = self.primaries * (1 + self.replicas);
        // A node announces the address of its proxy from its start on; the proxy learns that of the node afterwards.
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::server::unused_port()?));
        let proxies: Vec<Proxy> =
            (0..if self.proxies { count } else { 0 }).map(|_| Proxy::start(nobody)).collect::<Result<_>>()?;
        let announced = |node: Builder, number: usize| match proxies.get(number) {
            Some(proxy) => node.config("cluster-announce-port", &proxy.addr().port().to_string()),
            None => node,
        };
        let nodes: Result<Vec<Server>> = std::thread::scope(|scope| {
            let start = |number| announced(self.node(), number).start();
            let starts: Vec<_> = (0..count).map(|number| scope.spawn(move || start(number))).collect();
            starts.into_iter().map(|start| start.join().map_err(|_| Error::Thread("starting"))?).collect()
        });
        let password = self.password.clone();
        let nodes = nodes?;
        proxies.iter().zip(&nodes).for_each(|(proxy, node)| proxy.retarget(node.addr()));
        let mut cluster = Cluster { nodes, ids: Vec::new(), password, proxies };
        let mut clients = cluster.clients(&(0..count).collect::<Vec<_>>())?;
        cluster.ids =
            clients.iter_mut().map(|client| client.text(&["CLUSTER", "MYID"])).collect::<Result<_>>()?;
        for (i, ranges) in self.shares().iter().enumerate() {
            // Distinct epochs from the start: else the nodes have to settle on them first.
            clients[i].call(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()])?;
            add_slots(&mut clients[i], &self.binary, ranges)?;
        }
        // Everybody meets everybody: faster than waiting for gossip.
        for (i, client) in clients.iter_mut().enumerate() {
            for other in i + 1..count {
                client.call(&["CLUSTER", "MEET", "127.0.0.1", &cluster.inner_port(other)])?;
            }
        }
        for (i, client) in clients.iter_mut().enumerate().skip(self.primaries) {
            replicate(client, &cluster.ids[i % self.primaries])?;
        }
        cluster.wait_until_announced()?;
        cluster.wait_until_settled()?;
        Ok(cluster)
    }

    fn node(&self) -> Builder {
        let mut node = self.node.clone().first_lines(&[
            ("cluster-node-timeout", &self.node_timeout.as_millis().to_string()),
            // A replica may take over however long it was without its primary.
            ("cluster-replica-validity-factor", "0"),
            ("repl-ping-replica-period", "1"),
            // Replicas stay where they are, also when a primary has given all its slots away.
            ("cluster-migration-barrier", "99"),
        ]);
        if self.binary.vendor != Vendor::KeyDb && self.binary.version.at_least(6, 2) {
            node = node.first_lines(&[("cluster-allow-replica-migration", "no")]);
        }
        node
    }

    /// The ranges of each primary.
    fn shares(&self) -> Vec<Vec<RangeInclusive<u16>>> {
        if !self.slots.is_empty() {
            return self.slots.clone();
        }
        let bound = |i: usize| (usize::from(SLOTS) * i / self.primaries) as u16;
        (0..self.primaries).map(|i| vec![bound(i)..=bound(i + 1) - 1]).collect()
    }
}

fn add_slots(client: &mut Client, binary: &ServerBinary, ranges: &[RangeInclusive<u16>]) -> Result<()> {
    let by_range = binary.vendor != Vendor::KeyDb && binary.version.at_least(7, 0);
    let mut command =
        vec!["CLUSTER".to_owned(), if by_range { "ADDSLOTSRANGE" } else { "ADDSLOTS" }.to_owned()];
    for range in ranges {
        if by_range {
            command.extend([range.start().to_string(), range.end().to_string()]);
        } else {
            command.extend(range.clone().map(|slot| slot.to_string()));
        }
    }
    if command.len() > 2 {
        client.call(&command)?;
    }
    Ok(())
}

/// Makes the node a replica as soon as it has heard of its primary.
fn replicate(client: &mut Client, primary: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match client.call(&["CLUSTER", "REPLICATE", primary]) {
            Ok(_) => return Ok(()),
            Err(Error::Refused { message, .. })
                if message.contains("Unknown node") && Instant::now() < end =>
            {
                std::thread::sleep(TICK);
            }
            Err(error) => return Err(error),
        }
    }
}
