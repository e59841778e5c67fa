//! The primaries of a side, each with a connection for questions and orders.

use keyferry_client::{ConnectOptions, Connection, Endpoint, Error as ClientError, Frame, Info, Pipeline};
use keyferry_replication::ReplicationId;
use keyferry_routing::SlotSet;

use crate::{error::Error, source::Source};

/// One side of a cutover.
#[derive(Debug)]
pub(super) struct Side {
    /// As its user wrote it.
    pub(super) endpoint: Endpoint,
    /// In the order of their slots.
    pub(super) nodes: Vec<Node>,
    is_source: bool,
}

/// A primary.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) connect: ConnectOptions,
    /// What it serves, where the side is a cluster.
    pub(super) slots: Option<SlotSet>,
    connection: Option<Connection>,
}

/// Where a primary is in its own stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) id: ReplicationId,
    /// The history before, which goes on in this one.
    pub(super) second: Option<ReplicationId>,
    pub(super) offset: u64,
    /// Keys that it has removed as they had expired.
    pub(super) expired: u64,
    /// It keeps what it writes, up to so many bytes.
    pub(super) backlog: Option<u64>,
}

impl Standing {
    /// True when it goes on with this history.
    pub(super) fn has(&self, id: ReplicationId) -> bool {
        self.id == id || self.second == Some(id)
    }
}

impl Side {
    pub(super) async fn source(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::find(endpoint, true).await
    }

    pub(super) async fn target(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::find(endpoint, false).await
    }

    async fn find(endpoint: &Endpoint, is_source: bool) -> Result<Self, Error> {
        let found = Source::find(endpoint.clone(), false).await.map_err(|error| match error {
            Error::SourceConnection(error) if !is_source => Error::Target(error),
            error => error,
        })?;
        let node = |link: crate::source::SourceLink| Node {
            connect: link.connect.with_db(0),
            slots: link.slots,
            connection: None,
        };
        let nodes = found.links.into_iter().map(node).collect();
        Ok(Side { endpoint: endpoint.clone(), nodes, is_source })
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.nodes.iter().any(|node| node.slots.is_some())
    }

    /// What went wrong with a connection to this side.
    pub(super) fn failed(&self, error: ClientError) -> Error {
        if self.is_source { Error::SourceConnection(error) } else { Error::Target(error) }
    }

    /// Sends one command to the node that serves a slot.
    pub(super) async fn at<I, A>(&mut self, slot: u16, args: I) -> Result<Frame, Error>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator> + Clone,
        A: AsRef<[u8]>,
    {
        let number = self.number_of(slot);
        let Some(node) = self.nodes.get_mut(number) else { return Err(Error::SlotWithoutOwner { slot }) };
        let called = node.call(args).await;
        called.map_err(|error| self.failed(error))
    }

    /// As [`Side::at`], of several commands; one that is refused is an error.
    pub(super) async fn all_at(&mut self, slot: u16, commands: &Pipeline) -> Result<Vec<Frame>, Error> {
        let number = self.number_of(slot);
        let Some(node) = self.nodes.get_mut(number) else { return Err(Error::SlotWithoutOwner { slot }) };
        let done = node.pipeline(commands).await;
        done.map_err(|error| self.failed(error))
    }

    fn number_of(&self, slot: u16) -> usize {
        let serves = |node: &Node| node.slots.as_ref().is_none_or(|slots| slots.contains(slot));
        self.nodes.iter().position(serves).unwrap_or(usize::MAX)
    }

    /// Where all of its primaries are.
    pub(super) async fn standings(&mut self) -> Result<Vec<Standing>, Error> {
        let mut standings = Vec::new();
        for number in 0..self.nodes.len() {
            let standing = self.nodes[number].standing().await;
            standings.push(standing.map_err(|error| self.failed(error))?);
        }
        Ok(standings)
    }
}

impl Node {
    /// Its address.
    pub(super) fn name(&self) -> String {
        self.connect.address().to_string()
    }

    pub(super) async fn connection(&mut self) -> Result<&mut Connection, ClientError> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(Connection::connect(&self.connect).await?)),
        }
    }

    /// Sends a command that may be sent again: a connection that was closed meanwhile is made anew.
    pub(super) async fn call<I, A>(&mut self, args: I) -> Result<Frame, ClientError>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator> + Clone,
        A: AsRef<[u8]>,
    {
        let kept = self.connection.is_some();
        match self.connection().await?.call(args.clone()).await {
            Err(error) if kept && error.server_code().is_none() => {
                self.connection = None;
                self.connection().await?.call(args).await
            }
            done => done,
        }
    }

    pub(super) async fn info(&mut self, section: &str) -> Result<Info, ClientError> {
        let reply = self.call(["INFO", section]).await?;
        Ok(Info::from_frame(&reply).unwrap_or_default())
    }

    /// As [`Node::call`], of several commands.
    pub(super) async fn pipeline(&mut self, commands: &Pipeline) -> Result<Vec<Frame>, ClientError> {
        let kept = self.connection.is_some();
        let replies = match self.connection().await?.pipeline(commands).await {
            Err(_) if kept => {
                self.connection = None;
                self.connection().await?.pipeline(commands).await?
            }
            done => done?,
        };
        match replies.iter().find_map(Frame::error_reply) {
            Some(reply) => Err(ClientError::Server {
                address: self.connect.address().clone(),
                command: "a command of the cutover".to_owned(),
                code: reply.code().to_owned(),
                message: reply.message().into_owned(),
            }),
            None => Ok(replies),
        }
    }

    pub(super) async fn standing(&mut self) -> Result<Standing, ClientError> {
        let replication = self.info("replication").await?;
        let expired = self.info("stats").await?.get_as("expired_keys").unwrap_or(0);
        let id = |name: &str| replication.get(name)?.parse().ok();
        let active = replication.get("repl_backlog_active") == Some("1");
        let size = replication.get_as("repl_backlog_size").unwrap_or(0);
        let address = self.connect.address().clone();
        match (id("master_replid"), replication.get_as("master_repl_offset")) {
            (Some(first), Some(offset)) => Ok(Standing {
                id: first,
                second: id("master_replid2"),
                offset,
                expired,
                backlog: active.then_some(size),
            }),
            _ => Err(ClientError::OutOfStep { address }),
        }
    }
}
