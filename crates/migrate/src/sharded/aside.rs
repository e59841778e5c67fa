//! Connections beside the pipelines, for what needs answers. Whoever uses them holds the gate of the slots concerned.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use keyferry_client::{Backoff, ConnectOptions, Connection, Pipeline};
use keyferry_resp::{Command, ErrorCode, ErrorReply, Frame, Retry};

use super::{
    TURNS, Target,
    checkpoint::Reached,
    core::{Redirection, reason, redirection},
    item::Mark,
    session::Session,
};
use crate::error::{Error, Refusal, RefusedAt, show_command};

/// How long a replica is waited for at once.
const REPLICA_WAIT: &str = "500";

/// Asks and changes single slots, following redirections, until it is done or has been refused for good.
pub(crate) struct Aside<'t> {
    target: &'t Target,
    connections: HashMap<String, Known>,
    /// Lost ones, by address, whose commands may still be before their server.
    lost: HashMap<String, Vec<Session>>,
}

/// What a command is for, for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cause<'c> {
    pub(crate) command: &'c Command,
    pub(crate) db: u32,
    /// The offset before it, where it came by the stream.
    pub(crate) offset: Option<u64>,
}

/// A connection, and what its server calls it.
type Known = (Connection, Option<Session>);

/// Connections that nobody uses at the moment, by address.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<HashMap<String, Vec<Known>>>);

impl Pool {
    /// Connections kept for one address.
    const MOST: usize = 2 * TURNS;

    fn take(&self, address: &str) -> Option<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(address)?.pop()
    }

    fn put(&self, address: String, connection: Known) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = pool.entry(address).or_default();
        if idle.len() < Self::MOST {
            idle.push(connection);
        }
    }

    /// Forgets the connections of an address: one has been lost, and the others are no better.
    fn forget(&self, address: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        for (address, connection) in self.connections.drain() {
            self.target.pool().put(address, connection);
        }
    }
}

/// Attempts at one thing.
struct Attempts {
    since: Instant,
    backoff: Backoff,
    hops: u32,
}

impl Attempts {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        Attempts { since: Instant::now(), backoff, hops: 0 }
    }
}

/// Where the next attempt goes.
#[derive(Clone, Debug, Default)]
struct Way {
    /// To this node, after `ASKING`, instead of the owner.
    ask: Option<String>,
}

impl<'t> Aside<'t> {
    pub(crate) fn new(target: &'t Target) -> Self {
        Aside { target, connections: HashMap::new(), lost: HashMap::new() }
    }

    /// Sends commands to the owner of `slot` in database `db` and gives their replies, none of which is an error. For
    /// commands that may be sent again.
    pub(crate) async fn ask(
        &mut self,
        slot: u16,
        db: u32,
        commands: &[Command],
        cause: Cause<'_>,
    ) -> Result<Vec<Frame>, Error> {
        self.ask_owner(slot, db, commands, cause).await.map(|(_, replies)| replies)
    }

    /// As [`Aside::ask`]; also gives the address of who answered.
    pub(super) async fn ask_owner(
        &mut self,
        slot: u16,
        db: u32,
        commands: &[Command],
        cause: Cause<'_>,
    ) -> Result<(String, Vec<Frame>), Error> {
        let (mut attempts, mut way) = (Attempts::new(), Way::default());
        loop {
            let mut pipeline = Pipeline::new();
            let asking = way.ask.is_some();
            if db != 0 {
                pipeline.push(["SELECT", &db.to_string()]);
            }
            for command in commands {
                if asking {
                    pipeline.push(["ASKING"]);
                }
                pipeline.push_command(command);
            }
            if db != 0 {
                pipeline.push(["SELECT", "0"]);
            }
            let (address, replies) = self.send(slot, &way, &pipeline).await?;
            way = Way::default();
            match replies {
                Ok(replies) => match replies.iter().find_map(Frame::error_reply) {
                    // Before each reply that is meant stand those to SELECT and ASKING.
                    None => {
                        let (first, step) = (usize::from(db != 0), 1 + usize::from(asking));
                        let meant = replies.into_iter().skip(first).skip(step - 1).step_by(step);
                        return Ok((address, meant.take(commands.len()).collect()));
                    }
                    Some(error) => {
                        way = self.again(slot, &address, &error, &mut attempts, cause).await?;
                    }
                },
                Err(error) => self.lost(&address, error, &mut attempts).await?,
            }
        }
    }

    /// Carries out commands at the owner of `slot`, in one transaction with the slot's checkpoint, exactly once, and waits
    /// until a replica has it, where there is one. Gives the replies, or `None` when it turns out to have been done.
    pub(crate) async fn transact(
        &mut self,
        slot: u16,
        db: u32,
        commands: &[Command],
        (link, mark): (u16, Mark),
        cause: Cause<'_>,
    ) -> Result<Option<Vec<Frame>>, Error> {
        let history = self.target.core().link(link).and_then(|account| account.history());
        let reached = Reached { link, mark, db: None };
        let note = self.target.checkpoints().write(slot, reached, history);
        let exact = self.target.is_exact();
        let build = |asking: bool| {
            let mut pipeline = Pipeline::new();
            if asking {
                // Covers the whole transaction.
                pipeline.push(["ASKING"]);
            }
            pipeline.push(["MULTI"]);
            if db != 0 {
                pipeline.push(["SELECT", &db.to_string()]);
            }
            for command in commands {
                pipeline.push_command(command);
            }
            if db != 0 {
                pipeline.push(["SELECT", "0"]);
            }
            if exact {
                pipeline.push_command(&note);
            }
            pipeline.push(["EXEC"]);
            pipeline
        };
        let mut uncertain = self.target.core().may_be_done(link, mark);
        let (mut attempts, mut way) = (Attempts::new(), Way::default());
        let mut done = None;
        loop {
            if uncertain && let Some(address) = self.reached(slot, link, mark, cause).await? {
                if self.confirmed(&address).await {
                    return Ok(done);
                }
                tokio::time::sleep(attempts.backoff.next_delay()).await;
                continue;
            }
            let (address, replies) = self.send(slot, &way, &build(way.ask.is_some())).await?;
            way = Way::default();
            let replies = match replies {
                Ok(replies) => replies,
                Err(error) => {
                    uncertain = true;
                    self.lost(&address, error, &mut attempts).await?;
                    continue;
                }
            };
            if let Some(error) = replies.iter().find_map(Frame::error_reply) {
                way = self.again(slot, &address, &error, &mut attempts, cause).await?;
                continue;
            }
            let Some(Frame::Array(results)) = replies.into_iter().next_back() else {
                return Err(Error::Internal(format!("target {address} answered EXEC with something else")));
            };
            if let Some(error) = results.iter().find_map(Frame::error_reply) {
                return Err(refused(&address, &error, cause));
            }
            let skip = usize::from(db != 0);
            done = Some(results.into_iter().skip(skip).take(commands.len()).collect());
            if self.confirmed(&address).await {
                return Ok(done);
            }
            // The node is gone, and with it perhaps what it had done.
            uncertain = true;
        }
    }

    /// Sends one command to the node at `address`, in database `db`; errors are frames.
    pub(crate) async fn at(
        &mut self,
        address: &str,
        db: u32,
        command: &Command,
    ) -> Result<Frame, keyferry_client::Error> {
        let replies = self.all_at(address, db, std::slice::from_ref(command)).await?;
        let mut replies = replies.into_iter();
        match (replies.next(), replies.next()) {
            (Some(Frame::Simple(_)), Some(reply)) => Ok(reply),
            (Some(refused), _) => Ok(refused),
            (None, _) => {
                let address = self.target.map().connect_options(address).address().clone();
                Err(keyferry_client::Error::OutOfStep { address })
            }
        }
    }

    /// As [`Aside::at`], of several; the first reply is that to the selection of the database.
    pub(crate) async fn all_at(
        &mut self,
        address: &str,
        db: u32,
        commands: &[Command],
    ) -> Result<Vec<Frame>, keyferry_client::Error> {
        let mut pipeline = Pipeline::new();
        pipeline.push(["SELECT", &db.to_string()]);
        for command in commands {
            pipeline.push_command(command);
        }
        pipeline.push(["SELECT", "0"]);
        let result = match self.connection(address).await {
            Ok(connection) => connection.pipeline(&pipeline).await,
            Err(error) => Err(error),
        };
        result.inspect_err(|_| self.forget(address))
    }

    /// Waits until a replica of the node has everything that this connection did, if the node has any. False when the node
    /// is lost.
    pub(crate) async fn confirmed(&mut self, address: &str) -> bool {
        if self.target.core().replicas_of(address) == 0 {
            return true;
        }
        loop {
            let own = self.target.core().own_replicas();
            let Some((connection, _)) = self.connections.get_mut(address) else { return false };
            let waited = async {
                let reply = connection.call(["WAIT", &(1 + own).to_string(), REPLICA_WAIT]).await?;
                if reply.as_i64().and_then(|count| u64::try_from(count).ok()).unwrap_or(0) > own {
                    return Ok(Some(true));
                }
                let info = connection.info("replication").await?;
                if info.get("role") == Some("slave") {
                    // It has become one, and has been given another's data.
                    return Ok(None);
                }
                let replicas: Option<u64> = info.get_as("connected_slaves");
                Ok::<_, keyferry_client::Error>(Some(replicas.is_some_and(|count| count <= own)))
            };
            match waited.await {
                Ok(Some(true)) => return true,
                Ok(Some(false)) => {}
                Ok(None) | Err(_) => {
                    self.forget(address);
                    return false;
                }
            }
        }
    }

    fn forget(&mut self, address: &str) {
        if let Some((_, Some(session))) = self.connections.remove(address) {
            self.lost.entry(address.to_owned()).or_default().push(session);
        }
        self.target.pool().forget(address);
    }

    /// Who has the slot's checkpoint, if that has come to `mark`.
    async fn reached(
        &mut self,
        slot: u16,
        link: u16,
        mark: Mark,
        cause: Cause<'_>,
    ) -> Result<Option<String>, Error> {
        let look = self.target.checkpoints().look(slot);
        let (address, replies) = Box::pin(self.ask_owner(slot, 0, &look, cause)).await?;
        let marks = replies.last().and_then(|reply| self.target.checkpoints().read(reply));
        let marks =
            marks.ok_or_else(|| Error::Internal(format!("the checkpoint of slot {slot} is no hash")))?;
        Ok(marks.iter().any(|&(of, reached)| of == link && reached >= mark).then_some(address))
    }

    /// Sends to the owner of the slot, or where the way leads; waits while nobody owns it.
    async fn send(
        &mut self,
        slot: u16,
        way: &Way,
        pipeline: &Pipeline,
    ) -> Result<(String, Result<Vec<Frame>, keyferry_client::Error>), Error> {
        let since = Instant::now();
        let address = loop {
            let owner = {
                let core = self.target.core();
                way.ask.clone().or_else(|| core.owner(slot).map(|node| core.node_address(node).to_owned()))
            };
            match owner {
                Some(address) => break address,
                None if self.target.is_late(since) => {
                    return Err(Error::SlotWithoutOwner { slot });
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let result = match self.connection(&address).await {
            Ok(connection) => connection.pipeline(pipeline).await,
            Err(error) => Err(error),
        };
        Ok((address, result))
    }

    async fn connection(&mut self, address: &str) -> Result<&mut Connection, keyferry_client::Error> {
        let options = self.target.map().connect_options(address).with_db(0);
        if !self.connections.contains_key(address) {
            let connection =
                match self.target.pool().take(address).filter(|_| !self.lost.contains_key(address)) {
                    Some(connection) => connection,
                    None => self.connect(address, &options).await?,
                };
            self.connections.insert(address.to_owned(), connection);
        }
        match self.connections.get_mut(address) {
            Some((connection, _)) => Ok(connection),
            None => Err(keyferry_client::Error::OutOfStep { address: options.address().clone() }),
        }
    }

    async fn connect(
        &mut self,
        address: &str,
        options: &ConnectOptions,
    ) -> Result<Known, keyferry_client::Error> {
        let mut connection = Connection::connect(options).await?;
        let session = Session::of(&mut connection).await?;
        let lost = self.lost.get(address).into_iter().flatten();
        for former in lost {
            former.end(&mut connection, session.as_ref()).await?;
        }
        self.lost.remove(address);
        self.target.admit(&mut connection).await?;
        Ok((connection, session))
    }

    async fn lost(
        &mut self,
        address: &str,
        error: keyferry_client::Error,
        attempts: &mut Attempts,
    ) -> Result<(), Error> {
        self.forget(address);
        self.target.core().topology.notify_one();
        if self.target.is_late(attempts.since) {
            return Err(Error::Target(error));
        }
        tokio::time::sleep(attempts.backoff.next_delay()).await;
        Ok(())
    }

    /// What to do about an error of a node.
    async fn again(
        &mut self,
        slot: u16,
        address: &str,
        error: &ErrorReply,
        attempts: &mut Attempts,
        cause: Cause<'_>,
    ) -> Result<Way, Error> {
        let mut way = Way::default();
        let error = &reason(error);
        let window = self.target.windows().of(error);
        let passes = match error.retry() {
            Retry::Redirect => match redirection(error, address) {
                Some(Redirection { address, asking: true }) => {
                    way.ask = Some(address);
                    true
                }
                Some(Redirection { address, asking: false }) => {
                    let mut core = self.target.core();
                    let node = core.node(&address);
                    core.set_owner(slot, node);
                    core.topology.notify_one();
                    true
                }
                None => false,
            },
            Retry::BackOff | Retry::ResendTransaction | Retry::Operator => true,
            Retry::RefreshTopology => {
                self.target.core().topology.notify_one();
                true
            }
            _ => false,
        };
        if !passes || window.is_none_or(|window| attempts.since.elapsed() >= window) {
            return Err(refused(address, error, cause));
        }
        self.target.core().counts.note_retry(error);
        attempts.hops += 1;
        if error.retry() != Retry::Redirect || attempts.hops > 3 || error.kind() == ErrorCode::ExecAbort {
            tokio::time::sleep(attempts.backoff.next_delay()).await;
        }
        Ok(way)
    }
}

/// The error for a command that was refused for good.
pub(crate) fn refused(address: &str, reply: &ErrorReply, cause: Cause<'_>) -> Error {
    let origin = cause.offset.map_or(RefusedAt::Snapshot, |offset| RefusedAt::Stream { offset });
    Error::Refused(Box::new(Refusal {
        address: address.to_owned(),
        reply: reply.to_string(),
        command: show_command(cause.command.args(), cause.command.len()),
        db: Some(u64::from(cause.db)),
        origin,
        passed: false,
    }))
}
