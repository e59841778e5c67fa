//! The server or cluster that cases run on, and the place there that is ours.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use keyferry_client::{
    ConnectOptions, Connection, Endpoint, Error as ClientError, Frame, Protocol, ServerInfo, cluster,
};
use keyferry_routing::{SLOTS, slot};

use crate::Error;
use crate::case::Case;
use crate::command::Names;
use crate::gate::Claim;

/// What all keys of all runs begin with, unless told otherwise.
pub const DEFAULT_PREFIX: &str = "keyferry:compat:";

/// The database that is used where there is one and nobody says otherwise.
pub const DEFAULT_DATABASE: u32 = 15;

/// Keys that one `SCAN` looks at.
const SCAN_COUNT: &str = "1000";

/// Where on a server cases may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// What every key begins with.
    pub prefix: String,
    /// Which database.
    pub database: Database,
}

/// Which database of a server cases may write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Database {
    /// That of the URL if it names one, else number 15 if the server has it, else 0. A cluster has 0 only.
    Auto,
    /// This one.
    Number(u32),
    /// That of the URL, in which others may have keys: cases that need a database of their own are skipped.
    Shared,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { prefix: DEFAULT_PREFIX.to_owned(), database: Database::Auto }
    }
}

/// A server or cluster that was found and asked who it is.
#[derive(Clone, Debug)]
pub struct Target {
    pub(crate) options: ConnectOptions,
    pub(crate) info: ServerInfo,
    pub(crate) cluster: Option<cluster::Discovery>,
    /// Whether it speaks RESP3.
    pub(crate) resp3: bool,
    pub(crate) prefix: String,
    /// Whether the database is ours alone.
    pub(crate) own_database: bool,
    /// A word that is in all keys of this run.
    pub(crate) run: String,
}

impl Target {
    /// Finds the server behind an endpoint, and makes sure that the place where cases write is free.
    ///
    /// # Errors
    ///
    /// Those of connecting; [`Error::Occupied`] when there are keys in the scratch database, or below the prefix.
    pub async fn find(endpoint: Endpoint, scratch: &Scratch) -> Result<Self, Error> {
        let mut target = Self::look(endpoint, scratch).await?;
        target.take_place(scratch.database).await?;
        Ok(target)
    }

    /// Finds the server, and writes nowhere: for cases that only read.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn look(endpoint: Endpoint, scratch: &Scratch) -> Result<Self, Error> {
        if scratch.prefix.contains(['{', '}']) {
            let problem = "braces would decide about the slots of keys: choose a prefix without them";
            return Err(Error::format("the prefix of keys", problem));
        }
        let endpoint = endpoint.detect().await?;
        let (options, cluster) = match &endpoint {
            Endpoint::Cluster(options) => {
                let found = cluster::discover(options).await?;
                let first = found.primaries().next();
                (first.unwrap_or_else(|| options.node().clone()), Some(found))
            }
            Endpoint::Sentinel(options) => {
                let found = keyferry_client::sentinel::primary(options).await?;
                (found, None)
            }
            other => (other.options().clone(), None),
        };
        let connection = Connection::connect(&options.clone().with_protocol(Protocol::Resp3)).await?;
        let resp3 = connection.protocol() == Protocol::Resp3;
        let info = connection.server().clone();
        let seed = RandomState::new().hash_one(std::process::id());
        let run = format!("{:06x}", seed & 0xff_ffff);
        Ok(Self { options, info, cluster, resp3, prefix: scratch.prefix.clone(), own_database: false, run })
    }

    /// What the server says that it is.
    pub fn server(&self) -> &ServerInfo {
        &self.info
    }

    /// What gates are held against.
    pub fn claim(&self) -> Claim {
        Claim::of(&self.info)
    }

    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Whether it speaks RESP3.
    pub fn speaks_resp3(&self) -> bool {
        self.resp3
    }

    /// Where it is: its address, and the database.
    pub fn place(&self) -> String {
        match (self.options.db(), self.own_database) {
            (0, false) => self.options.address().to_string(),
            (db, _) => format!("{}, database {db}", self.options.address()),
        }
    }

    /// How to reach each server that has data: the primaries of a cluster, or the one server.
    pub fn servers(&self) -> Vec<ConnectOptions> {
        self.nodes()
    }

    /// Connects to the node that has this slot.
    pub(crate) async fn connect(&self, slot: u16, protocol: Protocol) -> Result<Connection, ClientError> {
        let options = self.node(slot).with_protocol(protocol);
        Connection::connect(&options).await
    }

    /// Connects to a node that does not have this slot.
    pub(crate) async fn connect_elsewhere(
        &self,
        slot: u16,
        protocol: Protocol,
    ) -> Result<Connection, ClientError> {
        let own = self.node(slot);
        let other = self.nodes().into_iter().find(|node| node.address() != own.address());
        Connection::connect(&other.unwrap_or(own).with_protocol(protocol)).await
    }

    /// The node of a slot.
    pub(crate) fn node(&self, slot: u16) -> ConnectOptions {
        let found = self.cluster.as_ref();
        let owner = found.and_then(|found| found.node(found.topology().owner(slot)?));
        owner.unwrap_or_else(|| self.options.clone())
    }

    /// The primaries, or the one server.
    pub(crate) fn nodes(&self) -> Vec<ConnectOptions> {
        match &self.cluster {
            Some(found) => found.primaries().collect(),
            None => vec![self.options.clone()],
        }
    }

    /// The names of a case: its keys in a slot of its own, as far as there are enough.
    pub(crate) fn names(&self, number: usize, protocol: Protocol) -> Names {
        let letter = if protocol == Protocol::Resp3 { 'b' } else { 'a' };
        let tag = format!("{}{letter}{number}", self.run);
        let own = slot(tag.as_bytes());
        let node = self.node(own);
        // Another slot, and another node where there is one.
        let others = (0..u32::from(SLOTS)).map(|n| format!("{tag}x{n}"));
        let mut others = others.filter(|other| slot(other.as_bytes()) != own);
        let fallback = others.next().unwrap_or_default();
        let several = self.nodes().len() > 1;
        let elsewhere =
            others.find(|other| !several || self.node(slot(other.as_bytes())).address() != node.address());
        let other = elsewhere.unwrap_or(fallback);
        let key = |tag: &str| format!("{}{{{tag}}}:", self.prefix);
        let mut names = Names::new(key(&tag), key(&other), &format!("kf{tag}"));
        names.keep("database", self.options.db().to_string().into_bytes());
        names
    }

    /// The slot of the keys of a case.
    pub(crate) fn slot_of(names: &Names) -> u16 {
        slot(names.prefix().as_bytes())
    }

    /// Makes sure that nobody else's keys are where cases write.
    async fn take_place(&mut self, database: Database) -> Result<(), Error> {
        if self.cluster.is_none() {
            let asked = match database {
                Database::Number(number) => Some(number),
                Database::Auto if self.options.db() != 0 => Some(self.options.db()),
                Database::Auto => self.has_database(DEFAULT_DATABASE).await?.then_some(DEFAULT_DATABASE),
                Database::Shared => None,
            };
            if let Some(number) = asked {
                self.options = self.options.clone().with_db(number);
                let mut connection = Connection::connect(&self.options).await?;
                let reply = connection.call(["DBSIZE"]).await?;
                let keys = u64::try_from(reply.as_i64().unwrap_or(0)).unwrap_or(0);
                if keys > 0 {
                    return Err(self.occupied(keys, format!("database {number}")));
                }
                self.own_database = true;
                return Ok(());
            }
        }
        let keys = self.scan(&format!("{}*", glob(&self.prefix))).await?.len();
        match keys {
            0 => Ok(()),
            keys => Err(self.occupied(keys as u64, format!("below {}", self.prefix))),
        }
    }

    async fn has_database(&self, number: u32) -> Result<bool, Error> {
        let mut connection = Connection::connect(&self.options).await?;
        let reply = connection.call_frame(["SELECT".to_owned(), number.to_string()]).await?;
        Ok(reply.is_ok())
    }

    fn occupied(&self, keys: u64, place: String) -> Error {
        Error::Occupied { server: self.options.address().to_string(), keys, place }
    }

    /// The keys that match a pattern, with the node that has them.
    pub(crate) async fn scan(&self, pattern: &str) -> Result<Vec<(ConnectOptions, Vec<u8>)>, Error> {
        let mut found = Vec::new();
        for node in self.nodes() {
            let mut connection = Connection::connect(&node).await?;
            let mut cursor = "0".to_owned();
            loop {
                let reply = connection.call(["SCAN", &cursor, "MATCH", pattern, "COUNT", SCAN_COUNT]).await?;
                let Some([next, keys]) = reply.as_array().filter(|parts| parts.len() == 2) else { break };
                for key in keys.as_array().unwrap_or_default() {
                    if let Some(key) = key.as_bytes() {
                        found.push((node.clone(), key.to_vec()));
                    }
                }
                match next.as_str() {
                    Some("0") | None => break,
                    Some(next) => cursor = next.to_owned(),
                }
            }
        }
        Ok(found)
    }

    /// Deletes what is left of this run below the prefix. How many keys there were.
    pub(crate) async fn sweep(&self) -> Result<u64, Error> {
        let pattern = format!("{}{{{}*", glob(&self.prefix), self.run);
        let mut swept = 0;
        for (node, key) in self.scan(&pattern).await? {
            let mut connection = Connection::connect(&node).await?;
            let reply = connection.call([b"DEL".to_vec(), key]).await?;
            swept += u64::try_from(reply.as_i64().unwrap_or(0)).unwrap_or(0);
        }
        Ok(swept)
    }

    /// Deletes the keys that a case names.
    pub(crate) async fn clean(
        &self,
        case: &Case,
        names: &Names,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let (own, other) = case.keys();
        for (prefix, keys) in [(names.prefix(), own), (names.other(), other)] {
            if keys.is_empty() {
                continue;
            }
            let mut connection = self.connect(slot(prefix.as_bytes()), Protocol::Resp2).await?;
            connection.set_read_timeout(Some(timeout));
            let command = std::iter::once(b"DEL".to_vec()).chain(keys.into_iter().map(|key| {
                let mut whole = prefix.as_bytes().to_vec();
                whole.extend_from_slice(&key);
                whole
            }));
            let command: Vec<Vec<u8>> = command.collect();
            let reply: Frame = connection.call_frame(&command).await?;
            if let Some(error) = reply.error_reply()
                && error.code() == "BUSY"
            {
                // A script of the case is still running: its end lets the sweep do it.
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The text as a pattern that matches just it.
fn glob(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
