//! Sentinels that watch a primary and its replicas.

use std::time::{Duration, Instant};

use keyferry_resp::Frame;

use crate::binaries::ServerBinary;
use crate::certs::Certs;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::server::{Builder, Server};

/// How long the sentinels may take to know one another, or to agree on a new primary.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often they are asked meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// A primary with its replicas, and a group of sentinels that watches them. All end when this value is dropped.
///
/// Servers are named by their number: 0 is the primary of the start, its replicas follow.
///
/// ```no_run
/// use keyferry_testkit::{Sentinels, any};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let group = Sentinels::builder(any()?).start()?;
/// assert_eq!(group.primary()?, 0);
/// group.failover()?;
/// assert_eq!(group.primary()?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sentinels {
    sentinels: Vec<Server>,
    servers: Vec<Server>,
    service: String,
}

/// How [`Sentinels`] are to be started.
#[derive(Debug, Clone)]
#[must_use = "nothing is started before `start` is called"]
pub struct SentinelsBuilder {
    server: Builder,
    sentinel: Builder,
    sentinels: usize,
    replicas: usize,
    service: String,
    down_after: Duration,
    password: Option<String>,
}

impl Sentinels {
    /// Describes a group to start. Nothing happens before [`SentinelsBuilder::start`].
    pub fn builder(binary: &ServerBinary) -> SentinelsBuilder {
        SentinelsBuilder {
            server: Server::builder(binary),
            sentinel: Server::builder(binary).sentinel(),
            sentinels: 3,
            replicas: 1,
            service: "mymaster".to_owned(),
            down_after: Duration::from_secs(2),
            password: None,
        }
    }

    /// The sentinels themselves.
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The servers that they watch.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// One of the watched servers.
    pub fn server(&self, number: usize) -> &Server {
        &self.servers[number]
    }

    /// The name that the sentinels know the primary by.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// `redis+sentinel://` with the addresses of all sentinels and the name of the service; the password, where there is
    /// one, is that of the servers.
    pub fn url(&self) -> String {
        let servers = self.servers[0].url();
        let password = servers.split_once("://").and_then(|(_, rest)| Some(rest.rsplit_once('@')?.0));
        let password = password.map_or(String::new(), |password| format!("{password}@"));
        let addresses: Vec<String> = self.sentinels.iter().map(|s| s.addr().to_string()).collect();
        format!("redis+sentinel://{password}{}/{}", addresses.join(","), self.service)
    }

    /// What somebody needs who wants to stay connected to the primary, whoever that is.
    pub fn follower(&self) -> Follower {
        let facts = |server: &Server| (server.addr().to_string(), server.password().map(str::to_owned));
        Follower {
            sentinels: self.sentinels.iter().map(facts).collect(),
            password: self.servers[0].password().map(str::to_owned),
            service: self.service.clone(),
        }
    }

    /// `host:port` of the primary, as the first living sentinel says.
    ///
    /// # Errors
    /// [`Error::Cluster`] when no sentinel runs or none knows.
    pub fn master_addr(&self) -> Result<String> {
        let Some(sentinel) = self.sentinels.iter().find(|s| s.pid().is_some()) else {
            return Err(self.failed("no sentinel is running"));
        };
        self.ask(&mut sentinel.client()?)
    }

    /// The number of the server that is the primary, as the first living sentinel says.
    ///
    /// # Errors
    /// As [`Sentinels::master_addr`].
    pub fn primary(&self) -> Result<usize> {
        let address = self.master_addr()?;
        let known = self.servers.iter().position(|server| server.addr().to_string() == address);
        known.ok_or_else(|| {
            self.failed(format!("the sentinels name a primary at {address}, which is not ours"))
        })
    }

    /// Lets the sentinels make a replica the primary, and waits until all of them name it and it says so itself. The old
    /// one becomes a replica some seconds later: see [`Sentinels::wait_until_settled`]. Returns the number of the new one.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no fit replica, [`Error::Cluster`] when it takes too long.
    pub fn failover(&self) -> Result<usize> {
        let old = self.primary()?;
        let Some(sentinel) = self.sentinels.iter().find(|s| s.pid().is_some()) else {
            return Err(self.failed("no sentinel is running"));
        };
        let mut client = sentinel.client()?;
        let end = Instant::now() + PATIENCE;
        while let Err(error) = client.call(&["SENTINEL", "FAILOVER", &self.service]) {
            // It has not yet heard from the replica that it follows, or is busy with the failover before.
            let soon = matches!(&error, Error::Refused { message, .. }
                if message.starts_with("NOGOODSLAVE") || message.starts_with("INPROG"));
            if !soon || Instant::now() >= end {
                return Err(error);
            }
            std::thread::sleep(TICK);
        }
        self.wait_for_another_than(old)
    }

    /// Kills the primary, as `kill -9` does, and waits until the sentinels have made another one. Returns its number.
    ///
    /// # Errors
    /// As [`Sentinels::failover`].
    pub fn kill_primary(&mut self) -> Result<usize> {
        let old = self.primary()?;
        self.servers[old].kill9();
        self.wait_for_another_than(old)
    }

    /// Kills one of the sentinels.
    pub fn kill_sentinel(&mut self, number: usize) {
        self.sentinels[number].kill9();
    }

    /// Starts a server again that was killed. The sentinels make it a replica some seconds later.
    ///
    /// # Errors
    /// As [`Server::restart`].
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.servers[number].restart()
    }

    /// Waits until all living sentinels know each other and all living servers, and each replica is connected to the
    /// primary.
    ///
    /// # Errors
    /// [`Error::Cluster`] with what is still missing.
    pub fn wait_until_settled(&self) -> Result<()> {
        self.wait(|| self.unsettled())
    }

    fn wait_for_another_than(&self, old: usize) -> Result<usize> {
        let old = self.servers[old].addr().to_string();
        self.wait(|| {
            let address = self.master_addr()?;
            if address == old {
                return Ok(Some("the primary is still the old one".to_owned()));
            }
            for sentinel in self.sentinels.iter().filter(|s| s.pid().is_some()) {
                if self.ask(&mut sentinel.client()?)? != address {
                    return Ok(Some(format!("not all sentinels name {address}")));
                }
            }
            let role = self.servers[self.primary()?].client()?.info("replication", "role")?;
            Ok((role.as_deref() != Some("master")).then(|| format!("{address} is no primary yet")))
        })?;
        self.primary()
    }

    fn wait(&self, unsettled: impl Fn() -> Result<Option<String>>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let reason = match unsettled() {
                Ok(None) => return Ok(()),
                Ok(Some(reason)) => reason,
                Err(error) => error.to_string(),
            };
            if Instant::now() >= end {
                return Err(self.failed(reason));
            }
            std::thread::sleep(TICK);
        }
    }

    fn unsettled(&self) -> Result<Option<String>> {
        let primary = self.primary()?;
        for (i, server) in self.servers.iter().enumerate() {
            if i != primary && server.pid().is_some() && !follows(server, &self.servers[primary])? {
                return Ok(Some(format!("server {i} does not follow server {primary}")));
            }
        }
        let living = |servers: &[Server]| servers.iter().filter(|s| s.pid().is_some()).count();
        let (others, replicas) = (living(&self.sentinels) - 1, living(&self.servers) - 1);
        for (i, sentinel) in self.sentinels.iter().enumerate().filter(|(_, s)| s.pid().is_some()) {
            let state = sentinel.client()?.call(&["SENTINEL", "MASTER", &self.service])?;
            let number = |name: &str| -> usize {
                state.get(name).and_then(|n| n.as_str()?.parse().ok()).unwrap_or_default()
            };
            // They remember those that were killed.
            if number("num-other-sentinels") < others || number("num-slaves") < replicas {
                return Ok(Some(format!("sentinel {i} does not know all others yet")));
            }
            if state.get("flags").and_then(Frame::as_str) != Some("master") {
                return Ok(Some(format!("sentinel {i} does not see the primary as up")));
            }
        }
        Ok(None)
    }

    fn ask(&self, sentinel: &mut Client) -> Result<String> {
        ask(sentinel, &self.service)
    }

    fn failed(&self, what: impl Into<String>) -> Error {
        Error::Cluster { name: self.servers[0].binary().name.clone(), what: what.into() }
    }
}

/// Connects to the primary of [`Sentinels`], whichever server that is at the time.
#[derive(Debug, Clone)]
pub struct Follower {
    /// Addresses and passwords.
    sentinels: Vec<(String, Option<String>)>,
    password: Option<String>,
    service: String,
}

impl Follower {
    /// A new connection to the server that a sentinel names and that says itself that it is a primary.
    ///
    /// # Errors
    /// That of the last sentinel, or of the server that it names.
    pub fn connect(&self) -> Result<Client> {
        let nobody =
            || Error::Cluster { name: self.service.clone(), what: "no sentinel names a primary".into() };
        let mut last = nobody();
        for (address, password) in &self.sentinels {
            let primary = Client::connect_with_password(address, password.as_deref())
                .and_then(|mut sentinel| ask(&mut sentinel, &self.service))
                .and_then(|primary| Client::connect_with_password(&primary, self.password.as_deref()))
                .and_then(|mut primary| Ok((primary.info("replication", "role")?, primary)));
            match primary {
                Ok((Some(role), primary)) if role == "master" => return Ok(primary),
                Ok(_) => last = nobody(),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// `host:port` of the primary, as a sentinel says.
fn ask(sentinel: &mut Client, service: &str) -> Result<String> {
    let reply = sentinel.list(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service])?;
    match reply.as_slice() {
        [host, port] => {
            Ok(format!("{}:{}", host.as_str().unwrap_or_default(), port.as_str().unwrap_or_default()))
        }
        _ => {
            let what = format!("{} does not know {service}", sentinel.address());
            Err(Error::Cluster { name: "sentinels".to_owned(), what })
        }
    }
}

impl SentinelsBuilder {
    /// How many sentinels there are; more than half of them have to agree. Default: 3.
    pub fn sentinels(mut self, count: usize) -> SentinelsBuilder {
        self.sentinels = count.max(1);
        self
    }

    /// How many replicas the primary has. Default: 1.
    pub fn replicas(mut self, count: usize) -> SentinelsBuilder {
        self.replicas = count;
        self
    }

    /// The name of the primary. Default: `mymaster`.
    pub fn service(mut self, name: &str) -> SentinelsBuilder {
        name.clone_into(&mut self.service);
        self
    }

    /// After how long without an answer the primary counts as gone. Default: two seconds.
    pub fn down_after(mut self, time: Duration) -> SentinelsBuilder {
        self.down_after = time;
        self
    }

    /// The password of the servers, which the sentinels get too.
    pub fn password(mut self, password: &str) -> SentinelsBuilder {
        self.server = self.server.password(password);
        self.password = Some(password.to_owned());
        self
    }

    /// The password of the sentinels themselves (6.2 and later).
    pub fn sentinel_password(mut self, password: &str) -> SentinelsBuilder {
        self.sentinel = self.sentinel.password(password);
        self
    }

    /// One more line of every server's configuration file, as [`Builder::config`]; the sentinels do not get it.
    pub fn config(mut self, name: &str, value: &str) -> SentinelsBuilder {
        self.server = self.server.config(name, value);
        self
    }

    /// Sentinels and servers listen with TLS on a second port. They tell each other, and clients, the ports without it.
    pub fn tls(mut self, certs: &Certs) -> SentinelsBuilder {
        self.server = self.server.tls(certs);
        self.sentinel = self.sentinel.tls(certs);
        self
    }

    /// Starts the servers, then the sentinels, and waits until they all know each other: about three seconds.
    ///
    /// # Errors
    /// As [`Builder::start`], and [`Error::Cluster`] when they do not find each other in time.
    pub fn start(self) -> Result<Sentinels> {
        let mut servers = vec![self.server.clone().start()?];
        for _ in 0..self.replicas {
            let of_primary = format!("127.0.0.1 {}", servers[0].port());
            servers.push(self.server.clone().config("replicaof", &of_primary).start()?);
        }
        let mut group = Sentinels { sentinels: Vec::new(), servers, service: self.service.clone() };
        // Sentinels ask the primary for its replicas at once, and then every ten seconds only.
        group.wait(|| {
            let primary = &group.servers[0];
            for (i, replica) in group.servers.iter().enumerate().skip(1) {
                if !follows(replica, primary)? {
                    return Ok(Some(format!("server {i} is not connected to its primary")));
                }
            }
            Ok(None)
        })?;
        let sentinel = self.sentinel(group.servers[0].port());
        for _ in 0..self.sentinels {
            group.sentinels.push(sentinel.clone().start()?);
        }
        group.wait_until_settled()?;
        Ok(group)
    }

    fn sentinel(&self, port: u16) -> Builder {
        let name = &self.service;
        let quorum = self.sentinels / 2 + 1;
        let mut sentinel = self
            .sentinel
            .clone()
            .config("sentinel", &format!("monitor {name} 127.0.0.1 {port} {quorum}"))
            .config("sentinel", &format!("down-after-milliseconds {name} {}", self.down_after.as_millis()))
            .config("sentinel", &format!("failover-timeout {name} 5000"));
        if let Some(password) = &self.password {
            sentinel =
                sentinel.config("sentinel", &format!("auth-pass {name} {}", crate::server::quoted(password)));
        }
        sentinel
    }
}

/// Whether a server is a replica that is connected to this primary.
fn follows(replica: &Server, primary: &Server) -> Result<bool> {
    let mut client = replica.client()?;
    let up = client.info("replication", "master_link_status")?.as_deref() == Some("up");
    Ok(up && client.info("replication", "master_port")? == Some(primary.port().to_string()))
}
