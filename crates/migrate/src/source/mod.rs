//! Where the data comes from: one server, the primary that sentinels know, or every shard of a cluster.
//!
//! A [`Source`] is a list of links, each with locators that find its servers again after a failover. [`collisions()`] looks
//! for keys that would meet when databases are merged; [`Ownership`] follows the slots that move between the shards of a
//! source while it is read.

mod collisions;
mod ownership;
mod shard;
mod watch;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use keyferry_client::{ClusterOptions, ConnectOptions, Endpoint, cluster, sentinel};
use keyferry_replication::{Locate, Locator};
use keyferry_routing::{Health, SlotSet};

pub use self::collisions::{Collisions, DatabasePair};
use self::shard::{Choice, SentinelReplica, Shard, ShardPrimary, ShardReplica};
pub(crate) use self::{
    collisions::collisions,
    ownership::{Change, Owner, Ownership},
    watch::{Watchable, watch},
};
use crate::error::Error;

/// Where the data comes from.
#[derive(Debug)]
pub(crate) struct Source {
    /// One for each server or shard; in the order of their first slots in a cluster.
    pub(crate) links: Vec<SourceLink>,
    /// Things that a person should know.
    pub(crate) notes: Vec<String>,
}

/// One link to the source.
#[derive(Debug)]
pub(crate) struct SourceLink {
    /// What it leads to, for people.
    pub(crate) name: String,
    /// Finds the server to read from.
    pub(crate) stream: Locator,
    /// Finds the primary, which knows how far it has written.
    pub(crate) primary: Locator,
    /// Where the primary is now.
    pub(crate) connect: ConnectOptions,
    /// The slots that it owns, where it is a shard of a cluster.
    pub(crate) slots: Option<SlotSet>,
    /// The ids of its nodes, where it is a shard of a cluster.
    pub(crate) nodes: BTreeSet<String>,
}

impl Source {
    /// Finds the servers and checks that all data can be read from them. With `prefer_replicas` they are read from a replica
    /// that works, where there is one.
    ///
    /// # Errors
    /// When a server cannot be reached; of a cluster, when slots are on the move or are served by nobody, or a shard is
    /// down.
    pub(crate) async fn find(endpoint: Endpoint, prefer_replicas: bool) -> Result<Self, Error> {
        Self::find_part(endpoint, prefer_replicas, None).await
    }

    /// The same of the shards that have some of these slots, with those alone; what becomes of others is of no interest.
    ///
    /// # Errors
    /// As [`Source::find`].
    pub(crate) async fn find_part(
        endpoint: Endpoint,
        prefer_replicas: bool,
        part: Option<&SlotSet>,
    ) -> Result<Self, Error> {
        let mut source = Source { links: Vec::new(), notes: Vec::new() };
        match endpoint.detect().await.map_err(Error::SourceConnection)? {
            Endpoint::Cluster(options) => source.find_shards(options, prefer_replicas, part).await?,
            Endpoint::Sentinel(options) => {
                let connect = sentinel::primary(&options).await.map_err(Error::SourceConnection)?;
                let primary = Locator::new((*options).clone());
                let stream = if prefer_replicas {
                    Locator::new(SentinelReplica(*options.clone(), Choice::default()))
                } else {
                    primary.clone()
                };
                source.add(connect, stream, primary, None, BTreeSet::new()).await?;
            }
            other => {
                let connect = other.options().clone();
                if prefer_replicas {
                    source.notes.push(format!(
                        "{} is read itself: replicas are found in clusters and through sentinels only",
                        connect.address()
                    ));
                }
                let locator = Locator::new(connect.clone());
                source.add(connect, locator.clone(), locator, None, BTreeSet::new()).await?;
            }
        }
        if prefer_replicas {
            source.note_primaries().await?;
        }
        Ok(source)
    }

    /// One server that is known.
    pub(crate) fn of(name: String, connect: ConnectOptions) -> Self {
        let locator = Locator::new(connect.clone());
        let (stream, primary) = (locator.clone(), locator);
        let link = SourceLink { name, stream, primary, connect, slots: None, nodes: BTreeSet::new() };
        Source { links: vec![link], notes: Vec::new() }
    }

    /// What follows the slots of the source while it is read; `None` if it is no cluster.
    pub(crate) fn ownership(&self) -> Option<Ownership> {
        let link = |link: &SourceLink| Some((link.slots.clone()?, link.nodes.clone()));
        self.links.iter().map(link).collect::<Option<Vec<_>>>().map(Ownership::new)
    }

    /// What [`watch()`] looks at, one for each link.
    pub(crate) fn watchables(&self) -> Vec<Watchable> {
        self.links.iter().map(|link| Watchable::new(link.primary.clone())).collect()
    }

    async fn find_shards(
        &mut self,
        options: ClusterOptions,
        prefer_replicas: bool,
        part: Option<&SlotSet>,
    ) -> Result<(), Error> {
        let own = |slots: &SlotSet| part.map_or_else(|| slots.clone(), |part| slots.common(part));
        let found = cluster::discover(&options).await.map_err(Error::SourceConnection)?;
        let topology = found.topology();
        let unserved = own(&topology.unserved());
        if !unserved.is_empty() {
            return Err(Error::SourceSlotsUnserved { slots: unserved.to_string() });
        }
        let mut shards: Vec<_> =
            topology.shards().iter().filter(|shard| !own(&shard.slots).is_empty()).collect();
        shards.sort_by_key(|shard| shard.slots.ranges().next());
        for shard in &shards {
            let down = |why: &str| {
                let name = shard.nodes().next().map_or_else(|| "without a node".to_owned(), shard::name_of);
                Error::SourceShardDown { shard: name, slots: shard.slots.to_string(), why: why.to_owned() }
            };
            match &shard.primary {
                None => return Err(down("no node of it is a primary")),
                Some(primary) if primary.health == Health::Failed => {
                    return Err(down("its primary is marked as failed"));
                }
                Some(_) => {}
            }
        }
        let mut moves = found.moves().await.map_err(Error::SourceConnection)?;
        moves.retain(|moving| part.is_none_or(|part| part.contains(moving.slot)));
        if let Some(first) = moves.first() {
            let mut slots = SlotSet::new();
            moves.iter().for_each(|moving| slots.insert(moving.slot));
            let name = |id: &str| topology.node(id).map_or_else(|| id.to_owned(), shard::name_of);
            let (from, to) = (name(&first.from), name(&first.to));
            return Err(Error::SourceSlotsMoving { slots: slots.to_string(), from, to });
        }
        for shard in shards {
            let Some(connect) = shard.primary.as_ref().and_then(|primary| found.node(primary)) else {
                continue;
            };
            let nodes: BTreeSet<String> = shard.nodes().map(shard::identity).collect();
            let known = Arc::new(Shard::new(options.clone(), shard, nodes.clone()));
            let primary = Locator::new(ShardPrimary(Arc::clone(&known)));
            let stream = if prefer_replicas {
                Locator::new(ShardReplica(known, Choice::default()))
            } else {
                primary.clone()
            };
            self.add(connect, stream, primary, Some(own(&shard.slots)), nodes).await?;
        }
        Ok(())
    }

    async fn add(
        &mut self,
        connect: ConnectOptions,
        stream: Locator,
        primary: Locator,
        slots: Option<SlotSet>,
        nodes: BTreeSet<String>,
    ) -> Result<(), Error> {
        let connect = connect.with_db(0);
        let name = connect.address().to_string();
        self.links.push(SourceLink { name, stream, primary, connect, slots, nodes });
        Ok(())
    }

    /// Says which primaries are read themselves although replicas were asked for.
    async fn note_primaries(&mut self) -> Result<(), Error> {
        for link in &self.links {
            let read = link.stream.locate(None).await?;
            if read.address() == link.connect.address() && self.notes.is_empty() {
                self.notes
                    .push(format!("primary {} is read itself: it has no replica that works", link.name));
            }
        }
        Ok(())
    }
}
