//! A cluster that is reached through proxies: each node announces the address of its own.

use std::collections::BTreeMap;
use std::time::Instant;

use keyferry_resp::Frame;

use super::{Cluster, PATIENCE, TICK};
use crate::error::Result;
use crate::proxy::Proxy;
use crate::server::Server;

impl Cluster {
    /// The proxy of a node, with [`ClusterBuilder::proxies`](super::ClusterBuilder::proxies).
    pub fn proxy(&self, number: usize) -> Option<&Proxy> {
        self.proxies.get(number)
    }

    /// Waits until every node knows the addresses of all proxies.
    pub(super) fn wait_until_announced(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.all_announced()? {
            if Instant::now() >= end {
                return Err(self.failed("not all nodes know the addresses that are announced"));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    pub(super) fn proxy_of(&self, node: &Server) -> Option<&Proxy> {
        let number = self.nodes.iter().position(|other| other.port() == node.port())?;
        self.proxy(number)
    }

    /// What is announced, and where the nodes are.
    pub(super) fn around_proxies(&self) -> BTreeMap<String, String> {
        let pairs = self.proxies.iter().zip(&self.nodes);
        pairs.map(|(proxy, node)| (proxy.addr().to_string(), node.addr().to_string())).collect()
    }

    fn all_announced(&self) -> Result<bool> {
        if self.proxies.is_empty() {
            return Ok(true);
        }
        let announced: Vec<i64> = self.proxies.iter().map(|proxy| i64::from(proxy.addr().port())).collect();
        for node in &self.nodes {
            for range in node.client()?.list(&["CLUSTER", "SLOTS"])? {
                let nodes = range.as_array().and_then(|fields| fields.get(2..)).unwrap_or_default();
                let port = |node: &Frame| node.as_array()?.get(1)?.as_i64();
                if !nodes.iter().all(|node| port(node).is_some_and(|port| announced.contains(&port))) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
