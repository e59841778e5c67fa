//! Who serves which slot of the target.

use std::sync::{Mutex, PoisonError};

use keyferry_client::{Address, ConnectOptions, Connection, Endpoint, Error, Frame, sentinel};
use keyferry_routing::{SLOTS, SlotSet};

use super::core::{Core, join};

/// How to find the nodes of a target.
#[derive(Debug)]
pub(crate) struct TargetMap {
    endpoint: Endpoint,
    /// Nodes that have been seen, asked next time when the seeds are gone.
    known: Mutex<Vec<Address>>,
}

/// Who serves which slots at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// First slot, last slot, address of the primary.
    pub(crate) ranges: Vec<(u16, u16, String)>,
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
        TargetMap { endpoint, known: Mutex::default() }
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

    /// Asks who serves what.
    pub(crate) async fn survey(&self) -> Result<Survey, Error> {
        let one = |address: &Address| Survey { ranges: vec![(0, SLOTS - 1, address.to_string())] };
        match &self.endpoint {
            Endpoint::Cluster(cluster) => {
                let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let mut asked = Vec::new();
                let mut failed = None;
                for address in cluster.seeds().iter().chain(&known) {
                    if asked.contains(address) {
                        continue;
                    }
                    asked.push(address.clone());
                    match slots(&cluster.at(address)).await {
                        Ok(survey) => {
                            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                            *known = survey.ranges.iter().map(|(.., address)| parse(address)).collect();
                            known.sort_by_key(ToString::to_string);
                            known.dedup();
                            return Ok(survey);
                        }
                        Err(error) => failed = Some(error),
                    }
                }
                match failed {
                    Some(error) => Err(error),
                    None => Ok(Survey::default()),
                }
            }
            Endpoint::Sentinel(options) => Ok(one(sentinel::primary(options).await?.address())),
            other => Ok(one(other.options().address())),
        }
    }
}

async fn slots(options: &ConnectOptions) -> Result<Survey, Error> {
    let mut connection = Connection::connect(options).await?;
    let reply = connection.call(["CLUSTER", "SLOTS"]).await?;
    let mut survey = Survey::default();
    let number = |frame: &Frame| frame.as_i64().and_then(|n| u16::try_from(n).ok());
    if let Frame::Array(ranges) = &reply {
        for range in ranges {
            let Frame::Array(parts) = range else { continue };
            if let [first, last, Frame::Array(primary), ..] = &parts[..]
                && let (Some(first), Some(last), Some(port)) =
                    (number(first), number(last), primary.get(1).and_then(Frame::as_i64))
            {
                let host = primary.first().and_then(Frame::as_str).unwrap_or_default();
                survey.ranges.push((first, last, join(host, &port.to_string())));
            }
        }
    }
    Ok(survey)
}

fn parse(address: &str) -> Address {
    match address.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => Address::tcp(host.trim_start_matches('[').trim_end_matches(']'), port),
        _ => Address::Unix(address.into()),
    }
}
