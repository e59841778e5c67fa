//! What is asked of servers beside what is written to them.

use std::collections::BTreeMap;

use keyferry_client::{Connection, Endpoint, Mode, Role, cluster, sentinel};
use keyferry_resp::{Command, Frame};
use keyferry_routing::{SlotSet, slot};

use crate::{archive::ArchiveError, error::Error};

/// The primaries of a side.
pub(super) struct Servers(Vec<(Option<SlotSet>, Connection)>);

impl Servers {
    /// Connects to every primary.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        let mut servers = Vec::new();
        let options = match endpoint.clone().detect().await.map_err(Error::Target)? {
            Endpoint::Cluster(options) => {
                let found = cluster::discover(&options).await.map_err(Error::Target)?;
                for shard in found.topology().shards().iter().filter(|shard| !shard.slots.is_empty()) {
                    let first = shard.slots.ranges().next().map_or(0, |(first, _)| first);
                    let node = shard.primary.as_ref().and_then(|primary| found.node(primary));
                    let node = node.ok_or(Error::SlotWithoutOwner { slot: first })?;
                    let connection = Connection::connect(&node.with_db(0)).await.map_err(Error::Target)?;
                    servers.push((Some(shard.slots.clone()), connection));
                }
                return Ok(Servers(servers));
            }
            Endpoint::Sentinel(options) => sentinel::primary(&options).await.map_err(Error::Target)?,
            other => other.options().clone(),
        };
        let connection = Connection::connect(&options.with_db(0)).await.map_err(Error::Target)?;
        servers.push((None, connection));
        Ok(Servers(servers))
    }

    /// Connects to a scratch server, and makes sure that it is one.
    pub(super) async fn scratch(endpoint: &Endpoint) -> Result<Self, Error> {
        let mut servers = Self::connect(endpoint).await?;
        let contents = servers.contents().await?;
        let Some((_, connection)) = servers.0.first() else { return Err(ArchiveError::NeedsScratch.into()) };
        let unfit = |why: String| {
            let address = connection.address().to_string();
            Err(ArchiveError::Scratch { address, why }.into())
        };
        if connection.server().mode == Mode::Cluster {
            return unfit("it is a node of a cluster; it has to be a standalone server".to_owned());
        }
        if connection.server().role == Role::Replica {
            return unfit("it is a replica".to_owned());
        }
        if let Some(contents) = contents {
            return unfit(format!("it holds {contents}; it has to be empty, and is emptied at the end"));
        }
        Ok(servers)
    }

    async fn each(&mut self, command: &Command) -> Result<Vec<Frame>, Error> {
        let mut replies = Vec::new();
        for (_, connection) in &mut self.0 {
            replies.push(connection.call(command.args()).await.map_err(Error::Target)?);
        }
        Ok(replies)
    }

    /// How many keys all of them hold.
    pub(super) async fn keys(&mut self) -> Result<u64, Error> {
        let mut keys = 0;
        for (_, connection) in &mut self.0 {
            let info = connection.info("keyspace").await.map_err(Error::Target)?;
            keys += info.keyspace().map(|keyspace| keyspace.keys).sum::<u64>();
        }
        Ok(keys)
    }

    /// The names of function libraries; none where there are no functions, or they may not be looked at.
    pub(super) async fn libraries(&mut self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for (_, connection) in &mut self.0 {
            let list = match connection.call(["FUNCTION", "LIST"]).await {
                Ok(Frame::Array(list)) => list,
                Ok(_) => continue,
                Err(error) if error.server_code().is_some() => continue,
                Err(error) => return Err(Error::Target(error)),
            };
            for library in &list {
                let name = match library {
                    Frame::Map(pairs) => pairs
                        .iter()
                        .find(|(name, _)| name.as_str() == Some("library_name"))
                        .map(|(_, name)| name),
                    Frame::Array(words) => {
                        let at = words.iter().position(|word| word.as_str() == Some("library_name"));
                        at.and_then(|at| words.get(at + 1))
                    }
                    _ => None,
                };
                names.extend(name.and_then(Frame::as_str).map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// What they hold, for people; none when they are empty.
    pub(super) async fn contents(&mut self) -> Result<Option<String>, Error> {
        let keys = self.keys().await?;
        if keys > 0 {
            return Ok(Some(format!("{keys} keys")));
        }
        let libraries = self.libraries().await?;
        Ok(libraries.first().map(|first| format!("function libraries, as {first}")))
    }

    /// Those of the keys that are there.
    pub(super) async fn existing(&mut self, keys: Vec<(u64, Vec<u8>)>) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let mut existing = Vec::new();
        for (slots, connection) in &mut self.0 {
            let mut by_db: BTreeMap<u64, Vec<&[u8]>> = BTreeMap::new();
            for (db, key) in &keys {
                if slots.as_ref().is_none_or(|slots| slots.contains(slot(key))) {
                    by_db.entry(*db).or_default().push(key);
                }
            }
            for (db, keys) in by_db {
                let mut commands = Vec::with_capacity(keys.len() + 2);
                if slots.is_none() {
                    commands.push(Command::new(["SELECT", &db.to_string()]));
                }
                let first = commands.len();
                commands.extend(keys.iter().map(|key| Command::new([b"EXISTS", *key])));
                let replies = connection.pipeline(&commands).await.map_err(Error::Target)?;
                for (key, reply) in keys.iter().zip(replies.iter().skip(first)) {
                    if let Some(message) = reply.error() {
                        return Err(Error::Unsupported {
                            what: format!("the key {}", key.escape_ascii()),
                            address: connection.address().to_string(),
                            why: format!("whether it is there cannot be told: {}", message.escape_ascii()),
                        });
                    }
                    if reply.as_i64() == Some(1) {
                        existing.push((db, key.to_vec()));
                    }
                }
            }
            if slots.is_none() {
                connection.call(["SELECT", "0"]).await.map_err(Error::Target)?;
            }
        }
        Ok(existing)
    }

    /// Removes all function libraries, where there may be any.
    pub(super) async fn empty_functions(&mut self) -> Result<(), Error> {
        match self.each(&Command::new(["FUNCTION", "FLUSH"])).await {
            // A server that has no functions does not know the command.
            Err(Error::Target(error)) if error.server_code().is_some() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Removes everything.
    pub(super) async fn empty(&mut self) -> Result<(), Error> {
        self.each(&Command::new(["FLUSHALL"])).await?;
        self.empty_functions().await
    }
}
