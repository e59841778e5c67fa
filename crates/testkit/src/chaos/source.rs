use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::binaries::ServerBinary;
use crate::chaos::plan::Plan;
use crate::client::Client;
use crate::cluster::{Cluster, Failover};
use crate::compare::Side;
use crate::data::{self, Mixed, Writer, WriterOptions};
use crate::error::{Error, Result};
use crate::proxy::Proxy;
use crate::server::Server;

/// For how long a replica that shall lack the last writes is stopped before its primary dies.
const LACKING: Duration = Duration::from_millis(60);

/// A key of the small data that cannot be built in parts without a loss, which the program reports: some of its entries that
/// are pending are deleted.
const NOT_IN_PARTS: &str = "stream:groups-large";

/// Any wait for a server.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is migrated from: shards, each with a primary that a [`Proxy`] stands before.
#[derive(Debug)]
pub(super) enum Source {
    Server {
        /// The primary, and its replica where it is to be replaced.
        servers: Vec<Server>,
        primary: usize,
        proxy: Box<Proxy>,
        /// Of the primary, for the writer.
        address: Arc<Mutex<String>>,
    },
    Cluster {
        cluster: Cluster,
        /// The primary of each shard.
        primaries: Vec<usize>,
    },
}

impl Source {
    pub(super) fn start(plan: &Plan, binary: &ServerBinary, dir: &Path) -> Result<Source> {
        let diskless = if plan.diskless { "yes" } else { "no" };
        let settings = [
            ("repl-diskless-sync", diskless),
            ("repl-diskless-sync-delay", "0"),
            ("repl-backlog-size", "64mb"),
            ("repl-timeout", "3"),
            ("repl-ping-replica-period", "1"),
        ];
        if plan.topology.from_cluster() {
            let mut builder = Cluster::builder(binary).proxies().replicas(usize::from(plan.fails_over()));
            for (name, value) in settings {
                builder = builder.config(name, value);
            }
            // Who is the primary is the round's to say: one that only stands still for a while stays it.
            let cluster = builder.config("cluster-replica-no-failover", "yes").start()?;
            let primaries = cluster.primaries()?;
            return Ok(Source::Cluster { cluster, primaries });
        }
        let builder = |number: usize| -> Result<_> {
            let dir = dir.join(format!("source-{number}"));
            std::fs::create_dir_all(&dir).map_err(|source| Error::File {
                what: "made",
                path: dir.clone(),
                source,
            })?;
            let builder = Server::builder(binary).dir(&dir);
            Ok(settings.iter().fold(builder, |builder, (name, value)| builder.config(name, value)))
        };
        let mut servers = vec![builder(0)?.start()?];
        if plan.fails_over() {
            let of = format!("127.0.0.1 {}", servers[0].port());
            servers.push(builder(1)?.config("replicaof", &of).start()?);
        }
        let proxy = Box::new(Proxy::start(servers[0].addr())?);
        let address = Arc::new(Mutex::new(servers[0].addr().to_string()));
        Ok(Source::Server { servers, primary: 0, proxy, address })
    }

    /// For the program: through the proxies.
    pub(super) fn url(&self) -> String {
        match self {
            Source::Server { proxy, .. } => format!("redis://{}", proxy.addr()),
            Source::Cluster { cluster, .. } => cluster.url(),
        }
    }

    pub(super) fn shards(&self) -> usize {
        match self {
            Source::Server { .. } => 1,
            Source::Cluster { primaries, .. } => primaries.len(),
        }
    }

    /// The primary of a shard.
    pub(super) fn primary(&self, shard: usize) -> &Server {
        match self {
            Source::Server { servers, primary, .. } => &servers[*primary],
            Source::Cluster { cluster, primaries } => cluster.node(primaries[shard]),
        }
    }

    /// Everybody who runs or ran.
    pub(super) fn servers(&self) -> &[Server] {
        match self {
            Source::Server { servers, .. } => servers,
            Source::Cluster { cluster, .. } => cluster.nodes(),
        }
    }

    /// The proxy of the primary of a shard.
    pub(super) fn proxy(&self, shard: usize) -> Option<&Proxy> {
        match self {
            Source::Server { proxy, .. } => Some(proxy),
            Source::Cluster { cluster, primaries } => cluster.proxy(primaries[shard]),
        }
    }

    pub(super) fn proxies(&self) -> Vec<&Proxy> {
        match self {
            Source::Server { proxy, .. } => vec![proxy],
            Source::Cluster { cluster, .. } => {
                (0..cluster.nodes().len()).filter_map(|i| cluster.proxy(i)).collect()
            }
        }
    }

    /// Ports of replicas that are not the program.
    pub(super) fn replica_ports(&self) -> Vec<u16> {
        let announced = self.proxies().into_iter().map(|proxy| proxy.addr().port());
        self.servers().iter().map(Server::port).chain(announced).collect()
    }

    pub(super) fn fill(&self, plan: &Plan) -> Result<()> {
        let databases = if plan.topology.to_cluster() { 1 } else { 3 };
        let mixed = Mixed { seed: plan.seed, keys: plan.keys, databases };
        match self {
            Source::Server { .. } => {
                let mut client = self.primary(0).client()?;
                data::small(&mut client, plan.seed, databases)?;
                mixed.fill(&mut client)?;
                for database in 0..databases {
                    client.call(&["SELECT", &database.to_string()])?;
                    client.call(&["DEL", NOT_IN_PARTS])?;
                }
            }
            Source::Cluster { cluster, .. } => {
                let mut client = cluster.client()?;
                data::small_cluster(&mut client, plan.seed, databases)?;
                data::fill_cluster(&mut client, |commands| mixed.write(commands).map(drop))?;
                client.call(&["DEL", NOT_IN_PARTS])?;
            }
        }
        Ok(())
    }

    /// Waits until every replica has what its primary had a moment ago.
    pub(super) fn wait_for_replicas(&self) -> Result<()> {
        match self {
            Source::Server { servers, .. } => match servers.get(1) {
                Some(replica) => wait_for_replica(&servers[0], replica),
                None => Ok(()),
            },
            Source::Cluster { cluster, .. } => cluster.wait_until_settled(),
        }
    }

    pub(super) fn write(&self, options: WriterOptions) -> Result<Writer> {
        match self {
            Source::Server { address, .. } => {
                let address = Arc::clone(address);
                let connect = move || {
                    let address = address.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    Client::connect(&address)
                };
                Writer::start_following(connect, options)
            }
            Source::Cluster { cluster, .. } => Writer::start_cluster(cluster, options),
        }
    }

    /// Whether the replica of a shard knows the replication id that its primary has now. A primary that changes its id does not tell its
    /// replicas before they connect again.
    pub(super) fn replica_knows_history(&self, shard: usize) -> Result<bool> {
        let id = |server: &Server| server.client()?.info("replication", "master_replid");
        Ok(id(self.primary(shard))? == id(&self.servers()[self.replica(shard)?])?)
    }

    /// Kills the primary of a shard and puts its replica in its place; with `everything` not before that has all writes, and
    /// else only after it has missed some.
    pub(super) fn fail_over(&mut self, shard: usize, everything: bool, writer: &Writer) -> Result<()> {
        let replica = self.replica(shard)?;
        if everything {
            if !writer.pause(PATIENCE) {
                return Err(Error::Round("the writer does not pause".into()));
            }
            wait_for_replica(self.primary(shard), &self.servers()[replica])?;
        } else {
            self.servers()[replica].pause()?;
            std::thread::sleep(LACKING);
        }
        match self {
            Source::Server { servers, primary, proxy, address } => {
                servers[*primary].kill9();
                if !everything {
                    servers[replica].resume()?;
                }
                servers[replica].client()?.call(&["REPLICAOF", "NO", "ONE"])?;
                *primary = replica;
                *address.lock().unwrap_or_else(PoisonError::into_inner) = servers[replica].addr().to_string();
                proxy.retarget(servers[replica].addr());
            }
            Source::Cluster { cluster, primaries } => {
                cluster.kill_only(primaries[shard]);
                if !everything {
                    cluster.node(replica).resume()?;
                }
                cluster.failover_with(replica, Failover::Takeover)?;
                primaries[shard] = replica;
            }
        }
        writer.resume();
        Ok(())
    }

    fn replica(&self, shard: usize) -> Result<usize> {
        match self {
            Source::Server { primary, .. } => Ok(1 - *primary),
            Source::Cluster { cluster, primaries } => {
                let replicas = cluster.replicas(primaries[shard])?;
                replicas.first().copied().ok_or_else(|| Error::Round("the shard has no replica".into()))
            }
        }
    }

    /// Lets short deadlines pass, and forgets what expired.
    pub(super) fn settle(&self) -> Result<()> {
        match self {
            Source::Server { .. } => data::settle(&mut self.primary(0).client()?),
            Source::Cluster { cluster, .. } => data::settle_cluster(cluster),
        }
    }

    pub(super) fn side(&self) -> Result<Side<'static>> {
        match self {
            Source::Server { .. } => Side::server(self.primary(0)),
            Source::Cluster { cluster, .. } => Side::cluster(cluster),
        }
    }

    /// Writes the text under a key of each shard, which it returns.
    pub(super) fn mark_the_end(&self, text: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for shard in 0..self.shards() {
            let key = match self {
                Source::Server { .. } => "chaos:end".to_owned(),
                Source::Cluster { cluster, primaries } => {
                    let slots = cluster.slots(primaries[shard])?;
                    let of_shard = |key: &String| {
                        let slot = keyferry_routing::slot(key.as_bytes());
                        slots.iter().any(|range| range.contains(&slot))
                    };
                    let key = (0..10_000).map(|i| format!("chaos:end:{i}")).find(of_shard);
                    key.ok_or_else(|| Error::Round(format!("shard {shard} serves no slots")))?
                }
            };
            self.primary(shard).client()?.call(&["SET", &key, text])?;
            keys.push(key);
        }
        Ok(keys)
    }
}

fn wait_for_replica(primary: &Server, replica: &Server) -> Result<()> {
    let wanted = offset(&mut primary.client()?, "master_repl_offset")?;
    let mut client = replica.client()?;
    let there = client.wait_until(PATIENCE, |client| {
        let up = client.info("replication", "master_link_status")?.as_deref() == Some("up");
        Ok(up && offset(client, "slave_repl_offset")? >= wanted)
    })?;
    if there { Ok(()) } else { Err(Error::Round("the replica of the source does not catch up".into())) }
}

fn offset(client: &mut Client, field: &str) -> Result<i64> {
    let text = client.info("replication", field)?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(-1))
}
