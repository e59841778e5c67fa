//! Finding the servers of one shard again, whoever its primary is.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use keyferry_client::{
    Address, ClusterOptions, ConnectOptions, Connection, Pipeline, SentinelOptions,
    cluster::{self, Discovery},
    sentinel,
};
use keyferry_replication::{Error, Locate, Locating};
use keyferry_routing::{Health, Node, Role, SLOTS, Shard as TopologyShard, SlotSet, Topology};

/// Nodes that are asked for the topology besides the seeds.
const MOST_KNOWN: usize = 16;

/// A shard of a cluster, known by its nodes and by the slots that it had at the start.
///
/// Slots may move and replicas may change shards, so neither alone says which shard it is.
#[derive(Debug)]
pub(super) struct Shard {
    cluster: ClusterOptions,
    slots: SlotSet,
    seen: Mutex<Seen>,
}

/// What was known of a shard when it was last looked for.
#[derive(Clone, Debug)]
struct Seen {
    primary: String,
    nodes: BTreeSet<String>,
    /// Where nodes of the cluster are reached.
    known: Vec<Address>,
}

/// Finds the primary of a shard.
#[derive(Debug)]
pub(super) struct ShardPrimary(pub(super) Arc<Shard>);

/// Finds a replica of a shard, else its primary; see [`Choice`].
#[derive(Debug)]
pub(super) struct ShardReplica(pub(super) Arc<Shard>, pub(super) Choice);

/// Finds a replica that sentinels know, else their primary; see [`Choice`].
#[derive(Debug)]
pub(super) struct SentinelReplica(pub(super) SentinelOptions, pub(super) Choice);

/// The replica that is read, once it has been chosen.
///
/// A link that is lost goes on at the same server, also when that was promoted: the stream of the old primary may have
/// gone another way by then, while the sentinels or nodes still name it. When it is gone, the link goes on at the primary:
/// another replica may be behind what has been read, and would offer a full sync.
#[derive(Debug, Default)]
pub(super) struct Choice(Mutex<Option<ConnectOptions>>);

/// The id of a node; its address before 4.0, which has no ids in its list of slots.
pub(super) fn identity(node: &Node) -> String {
    node.id.clone().unwrap_or_else(|| name_of(node))
}

/// A node, for people.
pub(super) fn name_of(node: &Node) -> String {
    match (node.host.as_deref().or(node.ip.as_deref()), node.port.or(node.tls_port)) {
        (Some(host), Some(port)) => Address::tcp(host, port).to_string(),
        _ => node.id.clone().unwrap_or_else(|| "unknown node".to_owned()),
    }
}

impl Locate for ShardPrimary {
    fn locate<'a>(&'a self, lost: Option<&'a Address>) -> Locating<'a> {
        Box::pin(async move {
            let (_, primary) = self.0.find(lost).await?;
            Ok(primary)
        })
    }
}

impl Locate for ShardReplica {
    fn locate<'a>(&'a self, lost: Option<&'a Address>) -> Locating<'a> {
        Box::pin(async move {
            if let Some(same) = self.1.again(lost).await {
                return Ok(same);
            }
            let (replicas, primary) = self.0.find(lost).await?;
            Ok(self.1.of(replicas, lost).await.unwrap_or(primary))
        })
    }
}

impl Locate for SentinelReplica {
    fn locate<'a>(&'a self, lost: Option<&'a Address>) -> Locating<'a> {
        Box::pin(async move {
            if let Some(same) = self.1.again(lost).await {
                return Ok(same);
            }
            let replicas = sentinel::replicas(&self.0).await.unwrap_or_default();
            match self.1.of(replicas, lost).await {
                Some(replica) => Ok(replica),
                None => Ok(sentinel::primary(&self.0).await?),
            }
        })
    }
}

impl Shard {
    pub(super) fn new(cluster: ClusterOptions, shard: &TopologyShard, nodes: BTreeSet<String>) -> Self {
        let primary = shard.primary.as_ref().map(identity).unwrap_or_default();
        let seen = Mutex::new(Seen { primary, nodes, known: Vec::new() });
        Shard { cluster, slots: shard.slots.clone(), seen }
    }

    /// Its replicas that are said to be well, and its primary, which has confirmed that it is one.
    async fn find(&self, lost: Option<&Address>) -> Result<(Vec<ConnectOptions>, ConnectOptions), Error> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = cluster::discover(&self.asking(&seen, lost)).await?;
        let shard = choose(found.topology(), &self.slots, &seen)
            .map_err(|(reason, passing)| self.not_located(reason, passing))?;
        let Some(node) = &shard.primary else {
            return Err(self.not_located("it has no primary now".to_owned(), true));
        };
        let Some(primary) = found.node(node) else {
            let reason = format!("its primary {} has no port for connections like these", name_of(node));
            return Err(self.not_located(reason, false));
        };
        let primary = primary.with_db(0);
        if let Some(reason) = objection(&primary, node).await? {
            return Err(self.not_located(reason, true));
        }
        let well = |node: &&Node| {
            node.role == Role::Replica && matches!(node.health, Health::Online | Health::Unknown)
        };
        let replicas = shard.replicas.iter().filter(well).filter_map(|node| found.node(node)).collect();
        let mut now = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A dead node may not be listed now and come back later. One that is about to be promoted may be listed without
        // slots for a moment: only who has slots of others is none of its nodes any more.
        let elsewhere = found.topology().shards().iter().filter(|other| {
            !std::ptr::eq(*other, shard)
                && (0..SLOTS).any(|slot| other.slots.contains(slot) && !self.slots.contains(slot))
        });
        let elsewhere: BTreeSet<String> = elsewhere.flat_map(TopologyShard::nodes).map(identity).collect();
        let mut nodes: BTreeSet<String> = seen.nodes.difference(&elsewhere).cloned().collect();
        nodes.extend(shard.nodes().map(identity));
        *now = Seen { primary: identity(node), nodes, known: reached(&found) };
        Ok((replicas, primary))
    }

    /// The cluster, to be asked at nodes that were seen last, the lost one at the end.
    fn asking(&self, seen: &Seen, lost: Option<&Address>) -> ClusterOptions {
        let mut seeds: Vec<&Address> = seen.known.iter().chain(self.cluster.seeds()).collect();
        seeds.sort_by_key(|&address| Some(address) == lost);
        let mut seeds = seeds.into_iter().cloned();
        let Some(first) = seeds.next() else { return self.cluster.clone() };
        let node = self.cluster.node().clone().with_address(first);
        let options = ClusterOptions::new(node).with_address_map(self.cluster.address_map().clone());
        seeds.fold(options, ClusterOptions::with_seed)
    }

    fn not_located(&self, reason: String, passing: bool) -> Error {
        Error::NotLocated { what: format!("the primary of the slots {}", self.slots), reason, passing }
    }
}

/// The shard in a topology of now; else why there is none, and whether that may pass.
///
/// A dead primary may be listed beside the promoted one as a shard without slots; an emptied shard goes on as long as its
/// primary is one.
fn choose<'t>(
    topology: &'t Topology,
    slots: &SlotSet,
    seen: &Seen,
) -> Result<&'t TopologyShard, (String, bool)> {
    let common = |shard: &TopologyShard| {
        (0..SLOTS).filter(|&slot| slots.contains(slot) && shard.slots.contains(slot)).count()
    };
    let candidate = |shard: &&TopologyShard| {
        let primary = shard.primary.as_ref();
        primary.is_some_and(|node| node.health != Health::Failed && seen.nodes.contains(&identity(node)))
    };
    let rank = |shard: &&TopologyShard| {
        (common(shard), shard.primary.as_ref().is_some_and(|node| identity(node) == seen.primary))
    };
    if let Some(shard) = topology.shards().iter().filter(candidate).max_by_key(rank) {
        return Ok(shard);
    }
    let follows = |shard: &TopologyShard| {
        shard.replicas.iter().any(|node| identity(node) == seen.primary && node.role == Role::Replica)
    };
    // A replica that nobody had seen before it was promoted: it has the shard's own slots, and the primary that was.
    let promoted = topology.shards().iter().find(|shard| {
        let works = shard.primary.as_ref().is_some_and(|node| node.health != Health::Failed);
        works && common(shard) > 0 && common(shard) == shard.slots.len() && follows(shard)
    });
    if let Some(shard) = promoted {
        return Ok(shard);
    }
    // A primary whose last slot was moved away becomes a replica of the node that got it.
    let absorbed = topology.shards().iter().find(|shard| {
        let foreign = shard.primary.as_ref().filter(|node| !seen.nodes.contains(&identity(node)));
        foreign.is_some_and(|node| node.health != Health::Failed) && follows(shard) && common(shard) > 0
    });
    if let Some(into) = absorbed.and_then(|shard| shard.primary.as_ref()) {
        let reason = format!(
            "its slots were moved to {}, of which it has become a replica: its writes can no longer be followed; migrate \
             again while no slots are moved",
            name_of(into)
        );
        return Err((reason, false));
    }
    Err(("none of its nodes is a primary that works now".to_owned(), true))
}

/// What speaks against a server being the primary that it is said to be.
async fn objection(options: &ConnectOptions, node: &Node) -> Result<Option<String>, Error> {
    let mut connection = Connection::connect(options).await?;
    let mut questions = Pipeline::new();
    questions.push(["CLUSTER", "MYID"]).push(["ROLE"]);
    let answers = connection.pipeline(&questions).await?;
    // Who may not ask has to believe.
    let id = answers.first().and_then(|reply| reply.as_str());
    let role = answers.get(1).and_then(|reply| reply.as_array()?.first()?.as_str());
    let address = options.address();
    Ok(match (id, role, &node.id) {
        // Addresses are given to other nodes, where nodes come and go.
        (Some(id), _, Some(expected)) if id != expected => Some(format!("{address} is another node by now")),
        (_, Some(role), _) if role != "master" => Some(format!("{address} is no primary by now")),
        _ => None,
    })
}

impl Choice {
    /// The replica that was chosen and lost, if it works.
    async fn again(&self, lost: Option<&Address>) -> Option<ConnectOptions> {
        let chosen = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let chosen = chosen.filter(|options| Some(options.address()) == lost)?;
        let works = matches!(standing(&chosen).await?, Standing::Following | Standing::Primary);
        works.then_some(chosen)
    }

    /// The first of the replicas that follows its primary; none when one was lost.
    async fn of(&self, replicas: Vec<ConnectOptions>, lost: Option<&Address>) -> Option<ConnectOptions> {
        if lost.is_some() {
            return None;
        }
        for replica in replicas {
            let replica = replica.with_db(0);
            if standing(&replica).await == Some(Standing::Following) {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(replica.clone());
                return Some(replica);
            }
        }
        None
    }
}

/// What a server is in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Primary,
    /// A replica that is connected to its primary.
    Following,
    /// One that is not.
    Waiting,
}

/// `None` if it does not answer.
async fn standing(options: &ConnectOptions) -> Option<Standing> {
    let mut connection = Connection::connect(options).await.ok()?;
    let info = connection.info("replication").await.ok()?;
    Some(match (info.get("role")?, info.get("master_link_status")) {
        ("master", _) => Standing::Primary,
        (_, Some("up")) => Standing::Following,
        _ => Standing::Waiting,
    })
}

fn reached(found: &Discovery) -> Vec<Address> {
    let well = found.topology().nodes().filter(|node| node.health != Health::Failed);
    let mut known: Vec<Address> =
        well.filter_map(|node| found.node(node)).map(|options| options.address().clone()).collect();
    known.truncate(MOST_KNOWN);
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(primary: &str, nodes: &[&str]) -> Seen {
        let nodes = nodes.iter().map(|id| (*id).to_owned()).collect();
        Seen { primary: primary.to_owned(), nodes, known: Vec::new() }
    }

    fn chosen(nodes: &str, seen: &Seen) -> Result<String, (String, bool)> {
        let topology = Topology::from_nodes(nodes.as_bytes()).unwrap();
        let slots = "0-99".parse().unwrap();
        choose(&topology, &slots, seen).map(|shard| identity(shard.primary.as_ref().unwrap()))
    }

    #[test]
    fn a_shard_is_found_through_failovers_and_moves() {
        let known = seen("a", &["a", "r"]);
        let found = |nodes: &str| chosen(nodes, &known).map_err(|(_, passing)| passing);
        // As it was; promoted; promoted, the dead one being listed still; dead and nobody promoted.
        assert_eq!(
            found("a h:1@2 master - 0 0 1 connected 0-99\nr h:3@4 slave a 0 0 1 connected"),
            Ok("a".into())
        );
        assert_eq!(
            found("r h:3@4 master - 0 0 2 connected 0-99\na h:1@2 slave r 0 0 1 connected"),
            Ok("r".into())
        );
        assert_eq!(
            found("a h:1@2 master,fail - 0 0 1 connected\nr h:3@4 master - 0 0 2 connected 0-99"),
            Ok("r".into())
        );
        assert_eq!(
            found("a h:1@2 master,fail - 0 0 1 connected 0-99\nr h:3@4 slave a 0 0 1 connected"),
            Err(true)
        );
        // All slots went to `b`, but it is a primary still; some slots went to `b`, who got the replica, too, and lost
        // its primary.
        assert_eq!(
            found("a h:1@2 master - 0 0 1 connected\nb h:5@6 master - 0 0 2 connected 0-199"),
            Ok("a".into())
        );
        assert_eq!(
            found("a h:1@2 master - 0 0 1 connected 0-89\nr h:3@4 master - 0 0 3 connected 90-199"),
            Ok("a".into())
        );
        // It became a replica of the one that got its slots.
        assert_eq!(
            found("b h:5@6 master - 0 0 2 connected 0-199\na h:1@2 slave b 0 0 1 connected"),
            Err(false)
        );
        let (reason, _) =
            chosen("b h:5@6 master - 0 0 2 connected 0-199\na h:1@2 slave b 0 0 1 connected", &known)
                .unwrap_err();
        assert!(reason.starts_with("its slots were moved to h:5"), "{reason}");
    }
}
