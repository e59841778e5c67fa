use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use keyferry_resp::Frame;
use keyferry_routing::{SLOTS, slot};

use crate::client::{Client, shown_command, unexpected};
use crate::data::Features;
use crate::error::{Error, Result};

/// How long a command is tried again unless [`ClusterClient::set_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a node may take for a reply before it counts as gone.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The pause before a command is tried again that no redirection says where.
const PAUSE: Duration = Duration::from_millis(10);

/// A blocking client of a cluster: it sends each command to the node that serves its key, follows MOVED and ASK, and tries
/// again on TRYAGAIN, CLUSTERDOWN, LOADING, READONLY and lost connections, for a limited time.
///
/// A command whose connection is lost before the reply came is sent again: it may then have been applied twice. What is
/// written through this client is compared with what the cluster holds, not with what was sent.
#[derive(Debug)]
pub struct ClusterClient {
    seeds: Vec<String>,
    password: Option<String>,
    patience: Duration,
    database: u32,
    /// For each slot the place of its owner in `addresses`.
    owners: Vec<Option<usize>>,
    addresses: Vec<String>,
    connections: BTreeMap<String, Connection>,
    /// Nodes that announce another address than theirs: what they announce, and where this client goes instead.
    around: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    database: u32,
}

/// What an error reply asks for.
#[derive(Debug, PartialEq, Eq)]
enum Redirect {
    Moved { slot: u16, address: String },
    Ask { address: String },
    Again,
}

impl ClusterClient {
    /// Connects to a cluster through any of these `host:port` addresses.
    ///
    /// # Errors
    /// The error of the last of them when none answers with a map of slots.
    pub fn connect(seeds: Vec<String>, password: Option<String>) -> Result<ClusterClient> {
        ClusterClient::connect_around(seeds, password, BTreeMap::new())
    }

    /// The same where nodes announce addresses that this client shall not use, but others.
    pub(super) fn connect_around(
        seeds: Vec<String>,
        password: Option<String>,
        around: BTreeMap<String, String>,
    ) -> Result<ClusterClient> {
        let mut client = ClusterClient {
            seeds,
            password,
            patience: PATIENCE,
            database: 0,
            owners: vec![None; usize::from(SLOTS)],
            addresses: Vec::new(),
            connections: BTreeMap::new(),
            around,
        };
        client.refresh()?;
        Ok(client)
    }

    /// For how long a command that cannot be served is tried again. Default: 120 seconds.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The database of the commands that follow (Valkey 9 clusters may have several).
    pub fn select(&mut self, database: u32) {
        self.database = database;
    }

    /// Sends one command to the node that serves its key and waits for its reply.
    ///
    /// # Errors
    /// [`Error::Refused`] for an error reply, redirections among them once patience has run out.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Frame> {
        let reply = self.call_raw(args)?;
        match reply.error() {
            Some(message) => Err(Self::refused(args, message)),
            None => Ok(reply),
        }
    }

    /// As [`ClusterClient::call`], returning an error reply as a frame.
    ///
    /// # Errors
    /// [`Error::Connection`] and [`Error::Protocol`] once patience has run out.
    pub fn call_raw<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Frame> {
        self.send_unit(key_of(args), &[args])
    }

    /// Sends commands whose keys are all in one slot as one MULTI … EXEC, and returns the reply to EXEC. A transaction of
    /// which any part is redirected is sent again whole.
    ///
    /// # Errors
    /// As [`ClusterClient::call_raw`].
    pub fn transaction<C: AsRef<[A]>, A: AsRef<[u8]>>(&mut self, commands: &[C]) -> Result<Frame> {
        let key = commands.iter().find_map(|command| key_of(command.as_ref()));
        let plain: Vec<Vec<&[u8]>> = std::iter::once(vec![&b"MULTI"[..]])
            .chain(commands.iter().map(|command| command.as_ref().iter().map(AsRef::as_ref).collect()))
            .chain([vec![&b"EXEC"[..]]])
            .collect();
        self.send_unit(key, &plain)
    }

    /// The integer that the command answers with.
    ///
    /// # Errors
    /// As [`ClusterClient::call`], and [`Error::Unexpected`] for any other type.
    pub fn int<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<i64> {
        let reply = self.call(args)?;
        reply.as_i64().ok_or_else(|| unexpected(args, "an integer", &reply))
    }

    /// What the nodes can do, by the word of one of them.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn features(&mut self) -> Result<Features> {
        let address = self.address(None);
        Features::probe(self.connection(&address)?)
    }

    /// Sends one command to every primary, for example FLUSHALL or FUNCTION LOAD REPLACE, and returns the replies with the
    /// addresses. When a primary is lost or refuses because it is none any more, all get it again.
    ///
    /// # Errors
    /// As [`Client::call`], once patience has run out.
    pub fn on_every_primary<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Vec<(String, Frame)>> {
        let end = Instant::now() + self.patience;
        loop {
            let outcome = self.refresh().and_then(|()| self.on_known_primaries(args));
            let again = match &outcome {
                Err(Error::Connection { .. }) => true,
                Err(Error::Refused { message, .. }) => {
                    let reply = Frame::Error(message.clone().into());
                    Redirect::of(&reply, "") == Some(Redirect::Again)
                }
                _ => false,
            };
            if !again || Instant::now() >= end {
                return outcome;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn on_known_primaries<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Vec<(String, Frame)>> {
        let mut replies = Vec::new();
        for address in self.addresses.clone() {
            let reply = self.connection(&address).and_then(|client| client.call(args));
            if let Err(Error::Connection { .. }) = &reply {
                self.connections.remove(&address);
            }
            replies.push((address, reply?));
        }
        Ok(replies)
    }

    /// Sends many commands, one pipeline a node, and returns their replies in order. Those that are redirected are sent
    /// again one by one after all others: while slots move, commands on one key may change their order.
    ///
    /// # Errors
    /// As [`ClusterClient::call_raw`].
    pub fn pipe<C: AsRef<[A]>, A: AsRef<[u8]>>(&mut self, commands: &[C]) -> Result<Vec<Frame>> {
        let mut by_node: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, command) in commands.iter().enumerate() {
            by_node.entry(self.address(key_of(command.as_ref()))).or_default().push(i);
        }
        let mut replies: Vec<Option<Frame>> = vec![None; commands.len()];
        for (address, numbers) in by_node {
            let mut run = || -> Result<()> {
                let client = self.connection(&address)?;
                for &i in &numbers {
                    client.queue(commands[i].as_ref())?;
                }
                for &i in &numbers {
                    let reply = client.reply()?;
                    replies[i] = Redirect::of(&reply, client.address()).is_none().then_some(reply);
                }
                Ok(())
            };
            if run().is_err() {
                self.connections.remove(&address);
            }
        }
        replies
            .into_iter()
            .zip(commands)
            .map(|(reply, command)| reply.map_or_else(|| self.call_raw(command.as_ref()), Ok))
            .collect()
    }

    pub(crate) fn refused<A: AsRef<[u8]>>(args: &[A], message: &[u8]) -> Error {
        Error::Refused {
            address: "cluster".to_owned(),
            command: shown_command(args),
            message: String::from_utf8_lossy(message).into_owned(),
        }
    }

    /// Loads the map of slots anew from any node that answers.
    ///
    /// # Errors
    /// The error of the last node when none does.
    pub fn refresh(&mut self) -> Result<()> {
        let known: Vec<String> = self.addresses.iter().chain(&self.seeds).cloned().collect();
        let mut last = Error::Cluster { name: "client".to_owned(), what: "no address to ask".to_owned() };
        for address in known {
            let ranges = self.connection(&address).and_then(|client| client.list(&["CLUSTER", "SLOTS"]));
            match ranges {
                Ok(ranges) if ranges.is_empty() => {
                    let what = format!("{address} knows no slots");
                    last = Error::Cluster { name: "client".to_owned(), what };
                }
                Ok(ranges) => {
                    self.take_map(&ranges, &address);
                    return Ok(());
                }
                Err(error) => {
                    self.connections.remove(&address);
                    last = error;
                }
            }
        }
        Err(last)
    }

    fn take_map(&mut self, ranges: &[Frame], asked: &str) {
        self.owners.fill(None);
        self.addresses.clear();
        for range in ranges {
            let Some([first, last, primary, ..]) = range.as_array() else { continue };
            let bound = |frame: &Frame| frame.as_i64().and_then(|slot| usize::try_from(slot).ok());
            let (Some(first), Some(last)) = (bound(first), bound(last)) else { continue };
            let Some([host, port, ..]) = primary.as_array() else { continue };
            let (Some(host), Some(port)) = (host.as_str(), port.as_i64()) else { continue };
            let place = self.place(&full_address(&format!("{host}:{port}"), asked));
            if let Some(owners) = self.owners.get_mut(first..=last) {
                owners.fill(Some(place));
            }
        }
    }

    fn place(&mut self, address: &str) -> usize {
        let known = self.addresses.iter().position(|known| known == address);
        known.unwrap_or_else(|| {
            self.addresses.push(address.to_owned());
            self.addresses.len() - 1
        })
    }

    /// Sends commands in one go to the node of `key`, again and whole when any of them is redirected, and returns the last
    /// reply.
    fn send_unit<C: AsRef<[A]>, A: AsRef<[u8]>>(&mut self, key: Option<&[u8]>, unit: &[C]) -> Result<Frame> {
        let end = Instant::now() + self.patience;
        let mut hint: Option<(String, bool)> = None;
        loop {
            let (address, asking) = hint.take().unwrap_or_else(|| (self.address(key), false));
            let outcome = self.attempt(&address, asking, unit);
            let late = Instant::now() >= end;
            match outcome {
                Ok((reply, None)) => return Ok(reply),
                Ok((reply, Some(_))) if late => return Ok(reply),
                Ok((_, Some(Redirect::Moved { slot, address }))) => {
                    let place = self.place(&address);
                    if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
                        *owner = Some(place);
                    }
                    hint = Some((address, false));
                }
                Ok((_, Some(Redirect::Ask { address }))) => hint = Some((address, true)),
                Ok((_, Some(Redirect::Again))) => {
                    std::thread::sleep(PAUSE);
                    let _ = self.refresh();
                }
                Err(error @ Error::Connection { .. }) => {
                    self.connections.remove(&address);
                    if late {
                        return Err(error);
                    }
                    std::thread::sleep(PAUSE);
                    let _ = self.refresh();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One try: the last reply, and what the first redirected command asks for.
    fn attempt<C: AsRef<[A]>, A: AsRef<[u8]>>(
        &mut self,
        address: &str,
        asking: bool,
        unit: &[C],
    ) -> Result<(Frame, Option<Redirect>)> {
        let client = self.connection(address)?;
        if asking {
            client.queue(&["ASKING"])?;
        }
        for command in unit {
            client.queue(command.as_ref())?;
        }
        if asking {
            client.reply()?;
        }
        let replies = client.replies(unit.len())?;
        let redirect = replies.iter().find_map(|reply| Redirect::of(reply, address));
        let last = replies.into_iter().next_back().ok_or_else(|| Error::Cluster {
            name: "client".to_owned(),
            what: "no command to send".to_owned(),
        })?;
        Ok((last, redirect))
    }

    /// The node for a key; for none, or for a slot whose owner is unknown, any node.
    fn address(&self, key: Option<&[u8]>) -> String {
        let owner = key.and_then(|key| *self.owners.get(usize::from(slot(key)))?);
        let known = owner.and_then(|place| self.addresses.get(place));
        known.or(self.addresses.first()).or(self.seeds.first()).cloned().unwrap_or_default()
    }

    fn connection(&mut self, address: &str) -> Result<&mut Client> {
        if !self.connections.contains_key(address) {
            let real = self.around.get(address).map_or(address, String::as_str);
            let client = Client::connect_with_password(real, self.password.as_deref())?;
            client.set_timeout(TIMEOUT)?;
            self.connections.insert(address.to_owned(), Connection { client, database: 0 });
        }
        let wanted = self.database;
        let connection = self.connections.get_mut(address).ok_or_else(|| Error::Cluster {
            name: "client".to_owned(),
            what: format!("no connection to {address}"),
        })?;
        if connection.database != wanted {
            connection.client.call(&["SELECT", &wanted.to_string()])?;
            connection.database = wanted;
        }
        Ok(&mut connection.client)
    }
}

impl Redirect {
    /// `asked` is the address that the reply came from.
    fn of(reply: &Frame, asked: &str) -> Option<Redirect> {
        let message = std::str::from_utf8(reply.error()?).ok()?;
        let mut words = message.split(' ');
        let code = words.next()?;
        let mut target = || {
            let slot = words.next()?.parse().ok()?;
            Some((slot, full_address(words.next()?, asked)))
        };
        match code {
            "MOVED" => target().map(|(slot, address)| Redirect::Moved { slot, address }),
            "ASK" => target().map(|(_, address)| Redirect::Ask { address }),
            "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "READONLY" | "MASTERDOWN" | "NOREPLICAS" => {
                Some(Redirect::Again)
            }
            _ => None,
        }
    }
}

/// `host:port`, with the host of the node that was asked where it is left out.
fn full_address(address: &str, asked: &str) -> String {
    if !address.starts_with(':') {
        return address.to_owned();
    }
    let host = asked.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
    format!("{host}{address}")
}

/// The first key of a command. Where this guess is wrong the node's MOVED puts it right.
fn key_of<A: AsRef<[u8]>>(args: &[A]) -> Option<&[u8]> {
    let name = args.first()?.as_ref().to_ascii_uppercase();
    let arg = |i: usize| args.get(i).map(AsRef::as_ref);
    match name.as_slice() {
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" => {
            arg(2).filter(|count| *count != b"0").and_then(|_| arg(3))
        }
        b"BITOP" | b"XGROUP" | b"XINFO" | b"OBJECT" | b"LMPOP" | b"ZMPOP" | b"SINTERCARD" | b"ZINTERCARD"
        | b"ZUNION" | b"ZINTER" | b"ZDIFF" | b"MEMORY" | b"DEBUG" => arg(2),
        b"BLMPOP" | b"BZMPOP" => arg(3),
        b"XREAD" | b"XREADGROUP" => {
            let streams = args.iter().position(|arg| arg.as_ref().eq_ignore_ascii_case(b"STREAMS"))?;
            arg(streams + 1)
        }
        _ => arg(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections() {
        let error = |text: &'static str| Frame::Error(text.into());
        let of = |text| Redirect::of(&error(text), "10.0.0.1:7000");
        let address = "127.0.0.1:7001".to_owned();
        assert_eq!(of("MOVED 5 127.0.0.1:7001"), Some(Redirect::Moved { slot: 5, address: address.clone() }));
        assert_eq!(of("ASK 5 127.0.0.1:7001"), Some(Redirect::Ask { address }));
        assert_eq!(
            of("MOVED 5 :7001"),
            Some(Redirect::Moved { slot: 5, address: "10.0.0.1:7001".to_owned() })
        );
        assert_eq!(of("TRYAGAIN Multiple keys request during rehashing of slot"), Some(Redirect::Again));
        assert_eq!(of("WRONGTYPE Operation"), None);
        assert_eq!(of("MOVED five"), None);
    }

    #[test]
    fn first_keys() {
        let key = |text: &'static str| {
            let args: Vec<&str> = text.split(' ').collect();
            key_of(&args).map(|key| String::from_utf8_lossy(key).into_owned())
        };
        for (command, expected) in [
            ("SET a 1", Some("a")),
            ("eval s 1 a", Some("a")),
            ("EVAL s 0", None),
            ("XREADGROUP GROUP g c COUNT 1 STREAMS a >", Some("a")),
            ("BITOP AND a b c", Some("a")),
            ("LMPOP 2 a b LEFT", Some("a")),
            ("PING", None),
        ] {
            assert_eq!(key(command).as_deref(), expected, "{command}");
        }
    }
}
