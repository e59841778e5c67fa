//! The nodes of a side, and sending commands to those whose keys they name.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

use keyferry_client::cluster::{self, Discovery};
use keyferry_client::{
    Backoff, ConnectOptions, Connection, Endpoint, Error as ClientError, Frame, Pipeline, Protocol, Replies,
    ServerInfo, Skimming, Vendor, sentinel,
};
use keyferry_resp::{ErrorReply, Retry};
use keyferry_routing::{Redirect, RedirectKind, SLOTS, SlotSet, Topology, slot};
use tokio::time::Instant;

use crate::cutoff::now;
use crate::error::Error;

/// A side of a comparison, as it is reached.
#[derive(Debug)]
pub(crate) struct LiveSide {
    name: String,
    endpoint: Endpoint,
    nodes: RwLock<Arc<Nodes>>,
    server: ServerInfo,
    patience: Duration,
}

/// The nodes that hold the data: those that are primaries, or the one server there is.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) all: Vec<Node>,
    /// By slot, the number of its node; `None` where there is no cluster.
    owners: Option<Vec<u16>>,
    found: Option<Discovery>,
}

/// A node that holds data.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) connect: ConnectOptions,
    /// The slots that it serves, where it is a node of a cluster.
    pub(crate) slots: Option<SlotSet>,
}

impl Nodes {
    fn of_cluster(found: Discovery) -> Self {
        let mut all = Vec::new();
        let mut owners = vec![u16::MAX; usize::from(SLOTS)];
        for shard in found.topology().shards().iter().filter(|shard| !shard.slots.is_empty()) {
            let Some(connect) = shard.primary.as_ref().and_then(|primary| found.node(primary)) else {
                continue;
            };
            let number = u16::try_from(all.len()).unwrap_or(u16::MAX);
            for (first, last) in shard.slots.ranges() {
                owners[usize::from(first)..=usize::from(last)].fill(number);
            }
            all.push(Node { connect, slots: Some(shard.slots.clone()) });
        }
        Self { all, owners: Some(owners), found: Some(found) }
    }

    fn one(connect: ConnectOptions) -> Self {
        Self { all: vec![Node { connect, slots: None }], owners: None, found: None }
    }

    /// The cluster, where it is one.
    pub(crate) fn topology(&self) -> Option<&Topology> {
        self.found.as_ref().map(Discovery::topology)
    }

    /// The number of the node that holds a key; `None` when nobody serves its slot.
    fn of(&self, key: &[u8]) -> Option<usize> {
        match &self.owners {
            None => Some(0),
            Some(owners) => {
                Some(usize::from(owners[usize::from(slot(key))])).filter(|at| *at < self.all.len())
            }
        }
    }
}

impl LiveSide {
    /// Finds the nodes of a side and what its servers are.
    ///
    /// # Errors
    ///
    /// When no server can be reached, and when slots of a cluster are served by nobody.
    pub(crate) async fn find(endpoint: &Endpoint, patience: Duration) -> Result<Self, Error> {
        let endpoint = endpoint.clone().detect().await?;
        let nodes = find_nodes(&endpoint).await?;
        if let Some(topology) = nodes.topology()
            && !topology.unserved().is_empty()
        {
            let (cluster, slots) = (endpoint.to_string(), topology.unserved().to_string());
            return Err(Error::SlotsUnserved { cluster, slots });
        }
        let Some(first) = nodes.all.first() else {
            let (cluster, slots) = (endpoint.to_string(), SlotSet::new().to_string());
            return Err(Error::SlotsUnserved { cluster, slots });
        };
        let server = Connection::connect(&first.connect).await?.server().clone();
        let name = endpoint.to_string();
        Ok(Self { name, endpoint, nodes: RwLock::new(Arc::new(nodes)), server, patience })
    }

    /// The URL without its password.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The database that its URL names, which chooses nothing.
    pub(crate) fn named_database(&self) -> Option<u32> {
        Some(self.endpoint.options().db()).filter(|db| *db != 0)
    }

    /// The nodes, as they were when last asked for.
    pub(crate) fn nodes(&self) -> Arc<Nodes> {
        Arc::clone(&self.nodes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks again for the nodes.
    pub(crate) async fn refresh(&self) -> Result<Arc<Nodes>, Error> {
        let nodes = Arc::new(find_nodes(&self.endpoint).await?);
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&nodes);
        Ok(nodes)
    }

    /// Whether it is a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.nodes().owners.is_some()
    }

    /// What the first server said of itself.
    pub(crate) fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Whether its servers are known to count their keys, and those that expire, as they should.
    pub(crate) fn counts_keys(&self) -> bool {
        matches!(self.server.vendor, Vendor::Redis | Vendor::Valkey | Vendor::Redict)
    }

    /// How long a server may be away or too busy.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Slots that are on their way from one node to another, by what the nodes themselves say.
    pub(crate) async fn moving(&self) -> Result<SlotSet, Error> {
        let mut slots = SlotSet::new();
        if let Some(found) = &self.nodes().found {
            found.moves().await?.iter().for_each(|step| slots.insert(step.slot));
        }
        Ok(slots)
    }

    /// Whether it is by one of the vendors, of this release or later: Redis and Redict, or Valkey.
    pub(crate) fn since(&self, redis: (u32, u32), valkey: (u32, u32)) -> bool {
        let version = (self.server.version.major, self.server.version.minor);
        match self.server.vendor {
            Vendor::Redis => version >= redis,
            // Redict 7.3 has what Redis 7.2 has.
            Vendor::Redict => (7, 2) >= redis,
            Vendor::Valkey => version >= valkey,
            _ => false,
        }
    }

    /// Whether `PEXPIRETIME` is there: Redis 7.0.
    pub(crate) fn tells_deadlines(&self) -> bool {
        self.since((7, 0), (7, 2))
    }

    /// Whether hash fields may expire: Redis 7.4, Valkey 9.0.
    pub(crate) fn has_field_expiry(&self) -> bool {
        self.since((7, 4), (9, 0))
    }
}

async fn find_nodes(endpoint: &Endpoint) -> Result<Nodes, Error> {
    Ok(match endpoint {
        Endpoint::Cluster(options) => Nodes::of_cluster(cluster::discover(options).await?),
        Endpoint::Sentinel(options) => Nodes::one(sentinel::primary(options).await?),
        other => Nodes::one(other.options().clone()),
    })
}

/// Connections to the nodes of a side, for one database, one batch at a time.
#[derive(Debug)]
pub(crate) struct Channel {
    side: Arc<LiveSide>,
    nodes: Arc<Nodes>,
    db: u32,
    open: HashMap<String, Connection>,
}

/// Commands for one node, with the numbers of the caller's.
type Part = (ConnectOptions, Pipeline, Vec<usize>);

impl Channel {
    pub(crate) fn new(side: &Arc<LiveSide>, db: u32) -> Self {
        Self { side: Arc::clone(side), nodes: side.nodes(), db, open: HashMap::new() }
    }

    /// The side it leads to.
    pub(crate) fn side(&self) -> &Arc<LiveSide> {
        &self.side
    }

    /// Whether one command may name any keys.
    pub(crate) fn is_single(&self) -> bool {
        self.nodes.owners.is_none()
    }

    /// Sends `count` commands, each to the node of its key, and gives their replies in order. `command` pushes one.
    ///
    /// Only for commands that may be repeated. What servers say in passing (`LOADING`, `CLUSTERDOWN`, redirections) and lost
    /// connections are waited for or followed; other error replies are frames among the replies.
    pub(crate) async fn each<'k>(
        &mut self,
        count: usize,
        key: impl Fn(usize) -> &'k [u8],
        command: impl Fn(usize, &mut Pipeline),
    ) -> Result<Vec<Frame>, Error> {
        let mut replies: Vec<Option<Frame>> = Vec::new();
        replies.resize_with(count, || None);
        let mut left: Vec<usize> = (0..count).collect();
        let mut patience = Patience::new(self.side.patience);
        while !left.is_empty() {
            let mut unserved = Vec::new();
            let mut parts: Vec<Part> = self
                .nodes
                .all
                .iter()
                .map(|node| (node.connect.clone(), Pipeline::new(), Vec::new()))
                .collect();
            for &number in &left {
                match self.nodes.of(key(number)) {
                    Some(node) => {
                        command(number, &mut parts[node].1);
                        parts[node].2.push(number);
                    }
                    None => unserved.push(number),
                }
            }
            parts.retain(|(_, _, numbers)| !numbers.is_empty());
            left = unserved;
            let mut trouble = Trouble::default();
            let mut asks: Vec<(usize, ConnectOptions)> = Vec::new();
            for (numbers, outcome) in self.all(parts).await {
                let frames = match outcome {
                    Ok(frames) => frames,
                    Err(error) if error.is_retryable() => {
                        trouble.error = Some(error);
                        left.extend(numbers);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                for (number, frame) in numbers.into_iter().zip(frames) {
                    let Some(error) = frame.error() else {
                        replies[number] = Some(frame);
                        continue;
                    };
                    let error = ErrorReply::new(error.clone());
                    match error.retry() {
                        Retry::BackOff => {
                            trouble.reply = Some(error);
                            left.push(number);
                        }
                        Retry::Redirect => match (Redirect::parse(&error), &self.nodes.found) {
                            (Some(step), Some(found)) if step.kind == RedirectKind::Ask => {
                                asks.push((number, found.redirected(&step)));
                            }
                            _ => {
                                trouble.moved = true;
                                left.push(number);
                            }
                        },
                        _ => replies[number] = Some(frame),
                    }
                }
            }
            for (number, node) in asks {
                let mut pipeline = Pipeline::new();
                pipeline.push(["ASKING"]);
                command(number, &mut pipeline);
                match self.exchange(&node, &pipeline).await.map(|mut frames| frames.pop()) {
                    // It has arrived or gone back meanwhile.
                    Ok(Some(frame)) if frame.is_error() => {
                        trouble.moved = true;
                        left.push(number);
                    }
                    Ok(frame) => replies[number] = frame,
                    Err(error) if error.is_retryable() => {
                        trouble.error = Some(error);
                        left.push(number);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if !left.is_empty() {
                left.sort_unstable();
                patience.wait(&self.side.name, trouble).await?;
                self.nodes = match self.side.refresh().await {
                    Ok(nodes) => nodes,
                    // The next attempt shows whether it matters.
                    Err(_) => self.side.nodes(),
                };
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }

    /// Sends commands to the only server of the side; only for commands that may be repeated.
    pub(crate) async fn single(&mut self, pipeline: &Pipeline) -> Result<Vec<Frame>, Error> {
        self.at_one(pipeline, |nodes| if nodes.all.is_empty() { None } else { Some(0) }).await
    }

    /// The number of the node that holds a key, until something else is sent; `None` when nobody serves its slot.
    pub(crate) fn node_of(&self, key: &[u8]) -> Option<usize> {
        self.nodes.of(key)
    }

    /// Sends encoded commands to a node of the side, once, and takes the replies as they come: error replies, also those that
    /// say nothing of the command, are among them.
    pub(crate) async fn skim(
        &mut self,
        node: usize,
        commands: &[u8],
        count: usize,
        replies: &mut Replies,
    ) -> Result<(), ClientError> {
        let Some((name, mut connection)) = self.connection(node).await? else { return Ok(()) };
        connection.skim(commands, count, replies).await?;
        self.open.insert(name, connection);
        Ok(())
    }

    /// The same with two sides at once, where the replies of the second are looked at beside those of the first: `twin` says by its
    /// number which one of the first a reply of the second is likely to be the same as.
    pub(crate) async fn skim_beside(
        [one, other]: [&mut Self; 2],
        nodes: [usize; 2],
        [(first, first_count), (second, second_count)]: [(&[u8], usize); 2],
        [a, b]: [&mut Replies; 2],
        twin: impl Fn(usize) -> Option<usize>,
    ) -> Result<(), ClientError> {
        let (Some((name, mut connection)), Some((other_name, mut other_connection))) =
            (one.connection(nodes[0]).await?, other.connection(nodes[1]).await?)
        else {
            return Ok(());
        };
        let first = Skimming::new(&mut connection, first, first_count, a);
        let second = Skimming::new(&mut other_connection, second, second_count, b);
        Connection::skim_beside([first, second], twin).await?;
        one.open.insert(name, connection);
        other.open.insert(other_name, other_connection);
        Ok(())
    }

    /// The connection to a node, to be put back among those that are open.
    async fn connection(&mut self, node: usize) -> Result<Option<(String, Connection)>, ClientError> {
        let Some(node) = self.nodes.all.get(node) else { return Ok(None) };
        let name = node.connect.address().to_string();
        let connection = match self.open.remove(&name) {
            Some(connection) => connection,
            None => connect(&node.connect, self.db).await?,
        };
        Ok(Some((name, connection)))
    }

    /// Sends commands that belong together, all of one key, to the node of that key; only for commands that may be repeated.
    pub(crate) async fn at(&mut self, key: &[u8], pipeline: &Pipeline) -> Result<Vec<Frame>, Error> {
        self.at_one(pipeline, |nodes| nodes.of(key)).await
    }

    /// Sends commands to one node, which `choose` says by its number, until none of them meets something that passes.
    async fn at_one(
        &mut self,
        pipeline: &Pipeline,
        choose: impl Fn(&Nodes) -> Option<usize>,
    ) -> Result<Vec<Frame>, Error> {
        let mut patience = Patience::new(self.side.patience);
        loop {
            let mut trouble = Trouble::default();
            if let Some(node) = choose(&self.nodes).map(|at| self.nodes.all[at].connect.clone()) {
                match self.exchange(&node, pipeline).await {
                    Ok(frames) => match frames.iter().find_map(passing) {
                        None => return Ok(frames),
                        Some(error) => trouble.reply = Some(error),
                    },
                    Err(error) if error.is_retryable() => trouble.error = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
            patience.wait(&self.side.name, trouble).await?;
            self.nodes = self.side.refresh().await.unwrap_or_else(|_| self.side.nodes());
        }
    }

    /// All parts at once.
    async fn all(&mut self, parts: Vec<Part>) -> Vec<(Vec<usize>, Result<Vec<Frame>, ClientError>)> {
        if let [(connect, pipeline, _)] = &parts[..] {
            let outcome = self.exchange(connect, pipeline).await;
            return parts.into_iter().map(|(_, _, numbers)| numbers).zip([outcome]).collect();
        }
        let db = self.db;
        let mut futures: Vec<Pin<Box<dyn Future<Output = _> + Send>>> = Vec::new();
        for (connect, pipeline, numbers) in parts {
            let name = connect.address().to_string();
            let open = self.open.remove(&name);
            futures.push(Box::pin(async move {
                let (open, outcome) = exchange(open, &connect, db, &pipeline).await;
                (name, open, numbers, outcome)
            }));
        }
        let mut outcomes = Vec::new();
        for (name, open, numbers, outcome) in join_all(futures).await {
            self.open.extend(open.map(|open| (name, open)));
            outcomes.push((numbers, outcome));
        }
        outcomes
    }

    async fn exchange(
        &mut self,
        connect: &ConnectOptions,
        pipeline: &Pipeline,
    ) -> Result<Vec<Frame>, ClientError> {
        let name = connect.address().to_string();
        let (open, outcome) = exchange(self.open.remove(&name), connect, self.db, pipeline).await;
        self.open.extend(open.map(|open| (name, open)));
        outcome
    }
}

async fn exchange(
    open: Option<Connection>,
    connect: &ConnectOptions,
    db: u32,
    pipeline: &Pipeline,
) -> (Option<Connection>, Result<Vec<Frame>, ClientError>) {
    let mut connection = match open {
        Some(connection) => connection,
        None => match self::connect(connect, db).await {
            Ok(connection) => connection,
            Err(error) => return (None, Err(error)),
        },
    };
    match connection.pipeline(pipeline).await {
        Ok(frames) => (Some(connection), Ok(frames)),
        Err(error) => (None, Err(error)),
    }
}

/// An error reply that says nothing of the command: the same may be answered at another time, or by another node.
fn passing(frame: &Frame) -> Option<ErrorReply> {
    let error = ErrorReply::new(frame.error()?.clone());
    matches!(error.retry(), Retry::BackOff | Retry::Redirect | Retry::RefreshTopology).then_some(error)
}

/// A connection for looking at keys, which leaves their access times alone where the server can (7.2).
pub(crate) async fn connect(options: &ConnectOptions, db: u32) -> Result<Connection, ClientError> {
    // With RESP3 some replies have another shape.
    let options = options.clone().with_db(db).with_protocol(Protocol::Resp2);
    let mut connection = Connection::connect(&options).await?;
    // Others do not have it; then reading counts as access.
    connection.call_frame(["CLIENT", "NO-TOUCH", "ON"]).await?;
    Ok(connection)
}

/// What kept commands from being answered.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) error: Option<ClientError>,
    pub(crate) reply: Option<ErrorReply>,
    pub(crate) moved: bool,
}

/// For how long to try again, and when.
#[derive(Debug)]
pub(crate) struct Patience {
    end: Option<Instant>,
    limit: Duration,
    backoff: Backoff,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { end: None, limit, backoff: Backoff::default() }
    }

    /// Waits before another attempt.
    ///
    /// # Errors
    ///
    /// The trouble, when it has lasted for too long.
    pub(crate) async fn wait(&mut self, side: &str, trouble: Trouble) -> Result<(), Error> {
        let end = *self.end.get_or_insert_with(|| Instant::now() + self.limit);
        if Instant::now() < end {
            tokio::time::sleep(self.backoff.next_delay()).await;
            return Ok(());
        }
        Err(match (trouble.error, trouble.reply) {
            (Some(error), _) => error.into(),
            (None, Some(reply)) => Error::Refused { side: side.to_owned(), reply: reply.to_string() },
            (None, None) => Error::SlotsMoved { cluster: side.to_owned(), slots: "of keys".to_owned() },
        })
    }
}

/// The time at which a key expires, in milliseconds since the Unix epoch, from what a server said it has left to live between
/// `before` and now.
pub(crate) fn deadline(before: i64, left: i64) -> i64 {
    (before.midpoint(now())).saturating_add(left)
}

/// Waits for all of them, in order.
async fn join_all<T>(futures: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (future, done) in &mut running {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    Poll::Ready(value) => (*future, *done) = (None, Some(value)),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, done)| done).collect()
}
