//! Who serves which slot of the target.

use std::sync::{Mutex, PoisonError};

use keyferry_client::{
    Address, ClusterOptions, ConnectOptions, Connection, Endpoint, Error, cluster, sentinel,
};
use keyferry_routing::{SLOTS, SlotSet};

use super::core::{Core, join};

/// How to find the nodes of a target.
#[derive(Debug)]
pub(crate) struct TargetMap {
    endpoint: Endpoint,
    name: String,
    /// Nodes that have been seen, asked next time when the seeds are gone.
    known: Mutex<Vec<Address>>,
}

/// Who serves which slots at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// First slot, last slot, address of the primary.
    pub(crate) ranges: Vec<(u16, u16, String)>,
    /// Nodes that serve nothing themselves.
    pub(crate) replicas: Vec<String>,
}

impl Survey {
    /// The primaries, each once.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut addresses: Vec<String> = self.ranges.iter().map(|(.., address)| address.clone()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The first slot that nobody serves.
    pub(crate) fn first_gap(&self) -> Option<u16> {
        let mut slots = SlotSet::new();
        for (first, last, _) in &self.ranges {
            (*first..=*last).for_each(|slot| slots.insert(slot));
        }
        (0..SLOTS).find(|&slot| !slots.contains(slot))
    }

    /// Tells the core, and gives up connections to nodes that serve nothing any more.
    pub(crate) fn apply(&self, core: &mut Core) {
        let before = core.owners();
        for (first, last, address) in &self.ranges {
            let node = core.node(address);
            for slot in *first..=*last {
                core.set_owner(slot, node);
            }
        }
        let after = core.owners();
        for node in before.into_iter().filter(|node| !after.contains(node)) {
            core.condemn(node);
        }
    }
}

impl TargetMap {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let name = endpoint.to_string();
        TargetMap { endpoint, name, known: Mutex::default() }
    }

    /// The same with connections that bear this name.
    pub(crate) fn with_client_name(self, name: &str) -> Self {
        TargetMap { endpoint: self.endpoint.map_options(|options| options.with_client_name(name)), ..self }
    }

    /// The target's URL, without its password.
    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    /// True when one server holds everything.
    pub(crate) fn is_single(&self) -> bool {
        !matches!(self.endpoint, Endpoint::Cluster(_))
    }

    /// How to connect to a node that was announced under this address (`host:port`, IPv6 in brackets).
    pub(crate) fn connect_options(&self, address: &str) -> ConnectOptions {
        let announced = parse(address);
        match &self.endpoint {
            Endpoint::Cluster(cluster) => cluster.at(&announced),
            Endpoint::Sentinel(sentinel) => sentinel.at(&announced),
            other => other.options().clone(),
        }
    }

    /// A connection to the node that serves a slot now.
    pub(crate) async fn connect_to(&self, slot: u16) -> Result<Connection, Error> {
        let survey = self.survey().await?;
        let owner = survey.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        let address = owner.map(|(.., address)| address.clone()).unwrap_or_default();
        Connection::connect(&self.connect_options(&address).with_db(0)).await
    }

    /// Asks who serves what.
    pub(crate) async fn survey(&self) -> Result<Survey, Error> {
        let one = |address: &Address| Survey {
            ranges: vec![(0, SLOTS - 1, address.to_string())],
            replicas: Vec::new(),
        };
        match &self.endpoint {
            Endpoint::Cluster(options) => self.survey_cluster(options).await,
            Endpoint::Sentinel(options) => Ok(one(sentinel::primary(options).await?.address())),
            other => Ok(one(other.options().address())),
        }
    }

    async fn survey_cluster(&self, options: &ClusterOptions) -> Result<Survey, Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let with_known = known.into_iter().fold(options.clone(), ClusterOptions::with_seed);
        let discovery = cluster::discover(&with_known).await?;
        let asked = match discovery.asked() {
            Address::Tcp { host, .. } => host.clone(),
            _ => String::new(),
        };
        let mut survey = Survey::default();
        let mut known = Vec::new();
        for shard in discovery.topology().shards() {
            let Some(primary) = &shard.primary else { continue };
            let Some((host, port)) = primary.address(&asked, options.node().tls().is_some()) else {
                continue;
            };
            let announced = join(host, &port.to_string());
            for (first, last) in shard.slots.ranges() {
                survey.ranges.push((first, last, announced.clone()));
            }
            survey.replicas.extend(shard.nodes().filter_map(|node| {
                let (host, port) = node.address(&asked, options.node().tls().is_some())?;
                Some(join(host, &port.to_string())).filter(|address| *address != announced)
            }));
            known
                .extend(shard.nodes().filter_map(|node| discovery.node(node)).map(|to| to.address().clone()));
        }
        known.retain(|address| !options.seeds().contains(address));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(survey)
    }
}

fn parse(address: &str) -> Address {
    match address.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => Address::tcp(host.trim_start_matches('[').trim_end_matches(']'), port),
        _ => Address::Unix(address.into()),
    }
}
