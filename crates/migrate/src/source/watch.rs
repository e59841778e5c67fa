//! Asking the shards of a source, again and again, which slots they have.

use std::time::Duration;

use keyferry_client::{Address, Connection, Info, Pipeline};
use keyferry_replication::{Locate, Locator};
use keyferry_routing::Topology;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

use super::{
    ownership::{Change, Ownership, Sight},
    shard::identity,
};

/// How long a shard may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A shard that is asked, whoever its primary is.
#[derive(Debug)]
pub(crate) struct Watchable {
    primary: Locator,
    connection: Option<Connection>,
    address: Option<Address>,
}

impl Watchable {
    pub(super) fn new(primary: Locator) -> Self {
        Watchable { primary, connection: None, address: None }
    }

    /// What the primary says of itself; `None` while there is none that answers, which is for the link to notice.
    pub(super) async fn look(&mut self) -> Option<Sight> {
        let sight = tokio::time::timeout(PATIENCE, self.ask()).await.ok().flatten();
        if sight.is_none() {
            self.connection = None;
        }
        sight
    }

    async fn ask(&mut self) -> Option<Sight> {
        if self.connection.is_none() {
            let primary = self.primary.locate(self.address.as_ref()).await.ok()?;
            self.address = Some(primary.address().clone());
            self.connection = Some(Connection::connect(&primary).await.ok()?);
        }
        // In this order: the offset has to be of later.
        let mut questions = Pipeline::new();
        questions.push(["CLUSTER", "NODES"]).push(["INFO", "replication"]);
        let answers = self.connection.as_mut()?.pipeline(&questions).await.ok()?;
        let [nodes, info] = &answers[..] else { return None };
        let topology = Topology::from_nodes(nodes.as_bytes()?).ok()?;
        let offset = Info::from_frame(info)?.get_as("master_repl_offset")?;
        sight(&topology, offset)
    }
}

/// What the node that told says of its own shard; `None` if it is no primary.
fn sight(topology: &Topology, offset: u64) -> Option<Sight> {
    let is_mine =
        |shard: &&keyferry_routing::Shard| shard.primary.as_ref().is_some_and(|node| node.is_myself);
    let mine = topology.shards().iter().find(is_mine)?;
    let me = mine.primary.as_ref().map(identity)?;
    let others = topology.shards().iter().filter(|shard| !is_mine(shard) && !shard.slots.is_empty());
    Some(Sight {
        nodes: mine.nodes().map(identity).collect(),
        slots: mine.slots.clone(),
        leaving: topology
            .moves()
            .iter()
            .filter(|moving| moving.from == me)
            .map(|moving| (moving.slot, moving.to.clone()))
            .collect(),
        others: others
            .filter_map(|shard| Some((identity(shard.primary.as_ref()?), shard.slots.clone())))
            .collect(),
        offset,
    })
}

/// Asks every shard once a `period` and sends what changes, until nobody listens any more. Shards are asked at the same time,
/// so that one which does not answer holds up no other.
pub(crate) async fn watch(
    shards: Vec<Watchable>,
    mut ownership: Ownership,
    period: Duration,
    changes: mpsc::Sender<Change>,
) {
    let (seen, mut sights) = mpsc::channel(shards.len().max(1));
    let mut tasks = JoinSet::new();
    for (link, mut shard) in shards.into_iter().enumerate() {
        let seen = seen.clone();
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(sight) = shard.look().await else { continue };
                if seen.send((link, sight)).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(seen);
    loop {
        tokio::select! {
            sight = sights.recv() => match sight {
                Some((link, sight)) => ownership.see(link, sight),
                None => return,
            },
            () = changes.closed() => return,
        }
        while let Some(change) = ownership.poll() {
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}
