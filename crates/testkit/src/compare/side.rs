use std::collections::{BTreeMap, BTreeSet};
use std::ops::DerefMut;

use bytes::Bytes;
use keyferry_routing::slot;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::data::Features;
use crate::error::Result;
use crate::server::Server;

/// What is compared: a server or a cluster, whole or some of its databases.
///
/// ```
/// use keyferry_testkit::{CompareOptions, Server, Side, compare_sides};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let (a, b) = (Server::any()?, Server::any()?);
/// let mut client = a.client()?;
/// client.call(&["SELECT", "3"])?;
/// client.call(&["SET", "key", "value"])?;
/// b.client()?.call(&["SET", "key", "value"])?;
/// // What is in database 3 of one is in database 0 of the other.
/// let a = Side::server(&a)?.databases(&[(3, 0)]);
/// let comparison = compare_sides(a, Side::server(&b)?, &CompareOptions::default())?;
/// assert!(comparison.is_equal() && comparison.keys_a == 1, "{comparison}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Side<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// For each slot the place of its owner in `nodes`; `None` for a server that is no cluster.
    owners: Option<Vec<Option<usize>>>,
    /// Own databases and how both sides call them; all, by their own numbers, without it.
    databases: Option<BTreeMap<u32, u32>>,
}

/// The number of a node, and its own database.
pub(super) type Place = (usize, u32);

/// One server of a side.
pub(super) struct Node<'a> {
    pub(super) client: Box<dyn DerefMut<Target = Client> + 'a>,
    pub(super) features: Features,
}

impl std::fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.client.address()).finish()
    }
}

impl<'a> Side<'a> {
    /// The server that this client is connected to. The client is left in database 0.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn client(client: &'a mut Client) -> Result<Side<'a>> {
        let features = Features::probe(client)?;
        let node = Node { client: Box::new(client), features };
        Ok(Side { nodes: vec![node], owners: None, databases: None })
    }

    /// A server, over a connection of its own.
    ///
    /// # Errors
    /// As [`Server::client`].
    pub fn server(server: &Server) -> Result<Side<'static>> {
        Ok(Side { nodes: vec![Node::connect(server)?], owners: None, databases: None })
    }

    /// A cluster: all primaries together, each with the keys of the slots that it serves now.
    ///
    /// # Errors
    /// As [`Server::client`], and [`Error::Cluster`](crate::Error::Cluster).
    pub fn cluster(cluster: &Cluster) -> Result<Side<'static>> {
        let mut nodes = Vec::new();
        let mut owners = vec![None; usize::from(keyferry_routing::SLOTS)];
        for primary in cluster.primaries()? {
            for range in cluster.slots(primary)? {
                if let Some(owners) = owners.get_mut(usize::from(*range.start())..=usize::from(*range.end()))
                {
                    owners.fill(Some(nodes.len()));
                }
            }
            nodes.push(Node::connect(cluster.node(primary))?);
        }
        Ok(Side { nodes, owners: Some(owners), databases: None })
    }

    /// Only these databases: the own number of each, and the number by which it is compared with the other side. Several may
    /// be compared as one; a key that is in more than one of them is found to differ, unless all are alike.
    pub fn databases(mut self, map: &[(u32, u32)]) -> Side<'a> {
        self.databases = Some(map.iter().copied().collect());
        self
    }

    /// The databases that hold keys: their own numbers, and how both sides call them.
    pub(super) fn filled(&mut self) -> Result<Vec<(u32, u32)>> {
        let mut filled = BTreeSet::new();
        for node in &mut self.nodes {
            filled.extend(super::databases(&mut node.client)?);
        }
        let common = |own: u32| match &self.databases {
            Some(map) => map.get(&own).copied(),
            None => Some(own),
        };
        Ok(filled.into_iter().filter_map(|own| Some((own, common(own)?))).collect())
    }

    /// The own databases that stand for a common one.
    pub(super) fn own(&self, common: u32) -> Vec<u32> {
        match &self.databases {
            None => vec![common],
            Some(map) => map.iter().filter(|(_, to)| **to == common).map(|(own, _)| *own).collect(),
        }
    }

    /// The place of the node that a key belongs to, if anybody serves its slot.
    pub(super) fn owner(&self, key: &Bytes) -> Option<usize> {
        match &self.owners {
            None => Some(0),
            Some(owners) => *owners.get(usize::from(slot(key)))?,
        }
    }

    /// The node of a place, with its database selected.
    pub(super) fn at(&mut self, (node, own): Place) -> Result<&mut Node<'a>> {
        self.nodes[node].select(own)?;
        Ok(&mut self.nodes[node])
    }

    pub(super) fn back_to_database_0(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.client.call(&["SELECT", "0"]).map(drop))
    }
}

impl Node<'_> {
    fn connect(server: &Server) -> Result<Node<'static>> {
        let mut client = server.client()?;
        let features = Features::probe(&mut client)?;
        Ok(Node { client: Box::new(Box::new(client)), features })
    }

    /// False where the server has no such database.
    pub(super) fn select(&mut self, database: u32) -> Result<bool> {
        let reply = self.client.call_raw(&["SELECT", &database.to_string()])?;
        Ok(reply.error().is_none())
    }
}
