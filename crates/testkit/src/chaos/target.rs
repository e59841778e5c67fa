use std::path::Path;

use crate::binaries::ServerBinary;
use crate::chaos::plan::Plan;
use crate::cluster::Cluster;
use crate::compare::Side;
use crate::error::{Error, Result};
use crate::proxy::Proxy;
use crate::server::Server;

/// What is migrated to. Every node keeps an append-only file, synchronised with every write, and a [`Proxy`] stands before it.
#[derive(Debug)]
pub(super) enum Target {
    Server { server: Box<Server>, proxy: Box<Proxy> },
    Cluster(Box<Cluster>),
}

impl Target {
    pub(super) fn start(plan: &Plan, binary: &ServerBinary, dir: &Path) -> Result<Target> {
        if plan.topology.to_cluster() {
            let cluster = Cluster::builder(binary).proxies().append_only("always").start()?;
            return Ok(Target::Cluster(Box::new(cluster)));
        }
        let dir = dir.join("target");
        std::fs::create_dir_all(&dir).map_err(|source| Error::File {
            what: "made",
            path: dir.clone(),
            source,
        })?;
        let server = Box::new(Server::builder(binary).append_only("always").dir(&dir).start()?);
        let proxy = Box::new(Proxy::start(server.addr())?);
        Ok(Target::Server { server, proxy })
    }

    /// For the program: through the proxies.
    pub(super) fn url(&self) -> String {
        match self {
            Target::Server { proxy, .. } => format!("redis://{}", proxy.addr()),
            Target::Cluster(cluster) => cluster.url(),
        }
    }

    pub(super) fn nodes(&self) -> &[Server] {
        match self {
            Target::Server { server, .. } => std::slice::from_ref(server),
            Target::Cluster(cluster) => cluster.nodes(),
        }
    }

    pub(super) fn proxy(&self, node: usize) -> Option<&Proxy> {
        match self {
            Target::Server { proxy, .. } => Some(proxy),
            Target::Cluster(cluster) => cluster.proxy(node),
        }
    }

    pub(super) fn proxies(&self) -> Vec<&Proxy> {
        (0..self.nodes().len()).filter_map(|node| self.proxy(node)).collect()
    }

    pub(super) fn kill9(&mut self, node: usize) {
        match self {
            Target::Server { server, .. } => server.kill9(),
            Target::Cluster(cluster) => cluster.kill_only(node),
        }
    }

    pub(super) fn restart(&mut self, node: usize) -> Result<()> {
        match self {
            Target::Server { server, .. } => server.restart(),
            Target::Cluster(cluster) => cluster.restart(node),
        }
    }

    /// `CONFIG SET` on every node.
    pub(super) fn configure(&self, name: &str, value: &str) -> Result<()> {
        self.nodes()
            .iter()
            .try_for_each(|node| node.client()?.call(&["CONFIG", "SET", name, value]).map(drop))
    }

    /// What is stored under a key.
    pub(super) fn get(&self, key: &str) -> Result<Option<String>> {
        let value = match self {
            Target::Server { server, .. } => server.client()?.bytes(&["GET", key])?,
            Target::Cluster(cluster) => {
                let reply = cluster.client()?.call(&["GET", key])?;
                reply.as_bytes().cloned()
            }
        };
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    pub(super) fn side(&self) -> Result<Side<'static>> {
        match self {
            Target::Server { server, .. } => Side::server(server),
            Target::Cluster(cluster) => Side::cluster(cluster),
        }
    }
}
