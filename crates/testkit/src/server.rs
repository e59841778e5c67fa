//! Starting, stopping, pausing and killing real servers.
//!
//! # Who ends a server
//! [`Server`] kills the process group of its server and waits for it when it is dropped. For the case that the test process
//! itself is killed, every server has a watchdog: a waiting `sh` whose standard input is a pipe from this process. When this
//! process ends, however it ends, the pipe closes, and the watchdog kills the server's process group and removes its
//! temporary directory. (The kernel's parent-death signal would not do: it is sent when the *thread* that started the
//! server ends.)

use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyferry_resp::Frame;
use tempfile::TempDir;

use crate::binaries::{ServerBinary, Vendor};
use crate::certs::{CertFiles, Certs};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::process;
use crate::rng::Rng;
use crate::watchdog::Watchdog;

/// How often a start is tried again with another port when somebody took the one that was free a moment ago.
const PORT_ATTEMPTS: usize = 10;

/// How far above its port a cluster node's bus listens.
const BUS_OFFSET: u16 = 10_000;

/// How much of its log an error about a server shows.
const LOG_TAIL: usize = 2000;

/// A running server on loopback, with its own temporary directory. It ends when this value is dropped.
///
/// ```
/// use keyferry_testkit::{Server, any};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let server = Server::builder(any()?).password("secret").databases(4).start()?;
/// assert!(server.url().starts_with("redis://:secret@127.0.0.1:"));
/// assert_eq!(server.client()?.text(&["PING"])?, "PONG");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    // Fields are dropped in this order: the server ends before its directory goes.
    running: Option<Running>,
    home: TempDir,
    setup: Builder,
    port: u16,
    tls_port: Option<u16>,
}

impl Server {
    /// Describes a server to start. Nothing happens before [`Builder::start`].
    pub fn builder(binary: &ServerBinary) -> Builder {
        Builder {
            binary: binary.clone(),
            password: None,
            tls: None,
            tls_client_certs: false,
            unix_socket: false,
            cluster: false,
            sentinel: false,
            lines: Vec::new(),
            dir: None,
            timeout: Duration::from_secs(60),
        }
    }

    /// Starts [`any`](crate::any) server with default settings.
    ///
    /// # Errors
    /// As [`crate::any`] and [`Builder::start`].
    pub fn any() -> Result<Server> {
        Server::builder(crate::any()?).start()
    }

    /// The program that runs.
    pub fn binary(&self) -> &ServerBinary {
        &self.setup.binary
    }

    /// Where it listens without TLS.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The port without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT`, with the password where there is one.
    pub fn url(&self) -> String {
        format!("redis://{}{}", self.url_password(), self.addr())
    }

    /// `rediss://127.0.0.1:PORT` of the TLS port, if it has one.
    pub fn tls_url(&self) -> Option<String> {
        self.tls_port.map(|port| format!("rediss://{}127.0.0.1:{port}", self.url_password()))
    }

    /// The port with TLS, if it has one.
    pub fn tls_port(&self) -> Option<u16> {
        self.tls_port
    }

    /// The path of its unix socket, if it has one.
    pub fn unix_path(&self) -> Option<PathBuf> {
        self.setup.unix_socket.then(|| self.home.path().join("server.sock"))
    }

    /// The directory of its snapshots and append-only files.
    pub fn dir(&self) -> &Path {
        self.setup.dir.as_deref().unwrap_or(self.home.path())
    }

    /// Its process id; `None` when it was killed and not started again.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// A new connection, authenticated.
    ///
    /// # Errors
    /// [`Error::Connection`] when it does not listen, [`Error::Refused`] when it refuses the password.
    pub fn client(&self) -> Result<Client> {
        Client::connect_with_password(&self.addr().to_string(), self.password())
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.setup.password.as_deref()
    }

    /// CPU seconds (user and system) of the server, without its snapshot children.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid().unwrap_or(0))
    }

    /// Peak resident memory in KiB.
    ///
    /// # Errors
    /// [`Error::Process`].
    pub fn peak_rss_kib(&self) -> Result<u64> {
        process::peak_rss_kib(self.pid().unwrap_or(0))
    }

    /// The end of what the server wrote to its log.
    pub fn log(&self) -> String {
        log_tail(self.home.path())
    }

    /// The file of its log.
    pub fn log_file(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    /// Kills it as `kill -9` does, with the children that write its snapshots, and waits until it is gone. Does nothing
    /// when it is not running.
    pub fn kill9(&mut self) {
        self.running = None;
    }

    /// Asks it to end (SIGTERM) and waits until it has, at most `deadline`; then kills it. True if it ended by itself.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn terminate(&mut self, deadline: Duration) -> Result<bool> {
        let Some(mut running) = self.running.take() else { return Ok(true) };
        process::signal(running.child.id(), "TERM")?;
        let end = Instant::now() + deadline;
        while Instant::now() < end {
            if let Ok(Some(_)) = running.child.try_wait() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(false)
    }

    /// Kills it if it runs, then starts it again with the same settings, ports and directory. What it had not written to
    /// disk is gone.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill9();
        // The port is free at once as a rule; connections in TIME_WAIT do not hinder a listener that reuses addresses.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match Running::start(&self.setup, self.home.path(), self.port, self.tls_port) {
                Ok(running) => {
                    self.running = Some(running);
                    return Ok(());
                }
                Err(error) if port_taken(&error) && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops it (SIGSTOP): connections stay open, nothing is answered.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn pause(&self) -> Result<()> {
        process::signal(self.pid().unwrap_or(0), "STOP")
    }

    /// Lets it go on after [`Server::pause`].
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn resume(&self) -> Result<()> {
        process::signal(self.pid().unwrap_or(0), "CONT")
    }

    fn url_password(&self) -> String {
        let Some(password) = &self.setup.password else { return String::new() };
        let mut text = String::from(":");
        for byte in password.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text.push('@');
        text
    }
}

/// How a [`Server`] is to be started.
#[derive(Debug, Clone)]
#[must_use = "nothing is started before `start` is called"]
pub struct Builder {
    binary: ServerBinary,
    password: Option<String>,
    tls: Option<(PathBuf, CertFiles)>,
    tls_client_certs: bool,
    unix_socket: bool,
    cluster: bool,
    sentinel: bool,
    lines: Vec<String>,
    dir: Option<PathBuf>,
    timeout: Duration,
}

impl Builder {
    /// The password of the default user (`requirepass`).
    pub fn password(mut self, password: &str) -> Builder {
        self.password = Some(password.to_owned());
        self
    }

    /// One more user: a name and ACL rules, for example `user("mover", "on >pw ~* +@all")`. The default user has to stay
    /// as it is: the test kit itself uses it.
    pub fn user(self, name: &str, rules: &str) -> Builder {
        self.line(format!("user {name} {rules}"))
    }

    /// One more line of the configuration file, the value as that file has it (quoted where it has blanks). A later line
    /// wins over an earlier one, and over the test kit's own.
    pub fn config(self, name: &str, value: &str) -> Builder {
        self.line(format!("{name} {value}"))
    }

    /// Listens with TLS on a second port, with the server certificate of `certs`.
    pub fn tls(self, certs: &Certs) -> Builder {
        self.tls_with(&certs.ca, &certs.server)
    }

    /// Listens with TLS on a second port with this certificate, trusting this authority.
    pub fn tls_with(mut self, ca: &Path, cert: &CertFiles) -> Builder {
        self.tls = Some((ca.to_owned(), cert.clone()));
        self
    }

    /// Refuses TLS connections without a client certificate.
    pub fn tls_client_certs(mut self) -> Builder {
        self.tls_client_certs = true;
        self
    }

    /// Listens on a unix socket as well.
    pub fn unix_socket(mut self) -> Builder {
        self.unix_socket = true;
        self
    }

    /// Runs as a cluster node (`cluster-enabled yes`), with a node timeout of two seconds.
    pub fn cluster(mut self) -> Builder {
        self.cluster = true;
        self
    }

    /// Runs as a sentinel (`--sentinel`). What it watches is told by lines `sentinel …` of [`Builder::config`].
    pub(crate) fn sentinel(mut self) -> Builder {
        self.sentinel = true;
        self
    }

    /// Keeps an append-only file. `fsync` is `always`, `everysec` or `no`.
    pub fn append_only(self, fsync: &str) -> Builder {
        self.config("appendonly", "yes").config("appendfsync", fsync)
    }

    /// Whether replicas get the snapshot straight over the socket (`$EOF:` form) or from a file, and how many seconds the
    /// server waits for more replicas before it starts. Default: as the server has it, without a delay.
    pub fn diskless_sync(self, yes: bool, delay_seconds: u32) -> Builder {
        self.config("repl-diskless-sync", if yes { "yes" } else { "no" })
            .config("repl-diskless-sync-delay", &delay_seconds.to_string())
    }

    /// How many databases it has. Default: 16.
    pub fn databases(self, count: u32) -> Builder {
        self.config("databases", &count.to_string())
    }

    /// Where it keeps snapshots and append-only files. Default: a temporary directory, removed with the server; this one is
    /// not.
    pub fn dir(mut self, dir: &Path) -> Builder {
        self.dir = Some(dir.to_owned());
        self
    }

    /// How long the start may take, loading of data included. Default: 60 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// Starts the server on a free loopback port and waits until it answers PING with PONG.
    ///
    /// # Errors
    /// [`Error::Exited`] when it refuses its settings, [`Error::NoTls`], [`Error::NotReady`] when it takes too long, and the
    /// errors of the system.
    pub fn start(self) -> Result<Server> {
        let home = tempfile::Builder::new().prefix("keyferry-").tempdir();
        let home = home.map_err(|source| Error::File { what: "made", path: std::env::temp_dir(), source })?;
        let mut attempt = 1;
        loop {
            let port = free_port(self.cluster)?;
            let tls_port = if self.tls.is_some() { Some(free_port(self.cluster)?) } else { None };
            match Running::start(&self, home.path(), port, tls_port) {
                Ok(running) => {
                    return Ok(Server { setup: self, home, port, tls_port, running: Some(running) });
                }
                Err(error) if port_taken(&error) && attempt < PORT_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Lines of the configuration file that come before those of [`Builder::config`], which win over them.
    pub(crate) fn first_lines(mut self, lines: &[(&str, &str)]) -> Builder {
        self.lines.splice(0..0, lines.iter().map(|(name, value)| format!("{name} {value}")));
        self
    }

    fn line(mut self, line: String) -> Builder {
        self.lines.push(line);
        self
    }

    fn config_text(&self, home: &Path, port: u16, tls_port: Option<u16>) -> String {
        let data = self.dir.as_deref().unwrap_or(home);
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {port}"),
            format!("dir {}", quoted(&data.display().to_string())),
            format!("logfile {}", quoted(&home.join("server.log").display().to_string())),
            "daemonize no".to_owned(),
        ];
        if !self.sentinel {
            lines.extend(["save \"\"".to_owned(), "repl-diskless-sync-delay 0".to_owned()]);
        }
        // Since 7.0 DEBUG has to be allowed; KeyDB branched off before.
        if !self.sentinel && self.binary.vendor != Vendor::KeyDb && self.binary.version.at_least(7, 0) {
            lines.push("enable-debug-command local".to_owned());
        }
        // Redis 8.0.6 may loop for ever when it becomes a replica just after it has sent a snapshot over a channel of its own.
        if !self.sentinel && self.binary.vendor == Vendor::Redis && self.binary.version.at_least(8, 0) {
            lines.push("repl-rdb-channel no".to_owned());
        }
        if let Some(password) = &self.password {
            lines.push(format!("requirepass {}", quoted(password)));
            lines.push(format!("masterauth {}", quoted(password)));
        }
        if let (Some((ca, files)), Some(port)) = (&self.tls, tls_port) {
            lines.push(format!("tls-port {port}"));
            lines.push(format!("tls-ca-cert-file {}", quoted(&ca.display().to_string())));
            lines.push(format!("tls-cert-file {}", quoted(&files.cert.display().to_string())));
            lines.push(format!("tls-key-file {}", quoted(&files.key.display().to_string())));
            lines.push(format!("tls-auth-clients {}", if self.tls_client_certs { "yes" } else { "no" }));
        }
        if self.unix_socket {
            lines.push(format!("unixsocket {}", quoted(&home.join("server.sock").display().to_string())));
        }
        if self.cluster {
            lines.push("cluster-enabled yes".to_owned());
            lines.push("cluster-node-timeout 2000".to_owned());
        }
        lines.extend(self.lines.iter().cloned());
        lines.join("\n") + "\n"
    }
}

/// A server process and its watchdog.
#[derive(Debug)]
struct Running {
    child: Child,
    // Called off after the process was ended.
    _watchdog: Watchdog,
}

impl Running {
    fn start(setup: &Builder, home: &Path, port: u16, tls_port: Option<u16>) -> Result<Running> {
        let config = home.join("server.conf");
        std::fs::write(&config, setup.config_text(home, port, tls_port)).map_err(|source| Error::File {
            what: "written",
            path: config.clone(),
            source,
        })?;
        // Logs of an earlier start would be mistaken for this one's.
        let output = home.join("server.out");
        let _ = std::fs::remove_file(home.join("server.log"));
        let file = File::create(&output)
            .and_then(|file| file.try_clone().map(|twin| (file, twin)))
            .map_err(|source| Error::File { what: "made", path: output.clone(), source })?;
        let program = &setup.binary.server;
        let child = Command::new(program)
            .arg(&config)
            .args(setup.sentinel.then_some("--sentinel"))
            .stdin(Stdio::null())
            .stdout(file.0)
            .stderr(file.1)
            .env("LC_ALL", "C")
            // Its own group: an interrupt from the terminal is for us to handle, and one signal ends its children too.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Run { program: program.clone(), source })?;
        let mut running = Running::watched(child, home)?;
        running.wait_until_ready(setup, home, port)?;
        Ok(running)
    }

    fn watched(mut child: Child, home: &Path) -> Result<Running> {
        let script = "kill -s KILL -- \"-$1\"; rm -rf -- \"$2\"";
        match Watchdog::start(script, &[&child.id().to_string(), &home.to_string_lossy()]) {
            Ok(watchdog) => Ok(Running { child, _watchdog: watchdog }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn wait_until_ready(&mut self, setup: &Builder, home: &Path, port: u16) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        let name = &setup.binary.name;
        let end = Instant::now() + setup.timeout;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = log_tail(home);
                if log.contains("'tls-port") && log.contains("Bad directive") {
                    return Err(Error::NoTls { name: name.clone() });
                }
                return Err(Error::Exited { name: name.clone(), status: status.to_string(), log });
            }
            if self.answers(setup, &address)? {
                return Ok(());
            }
            if Instant::now() >= end {
                let (name, log, seconds) = (name.clone(), log_tail(home), setup.timeout.as_secs());
                return Err(Error::NotReady { name, address, seconds, log });
            }
            std::thread::sleep(Duration::from_millis(4));
        }
    }

    /// Whether it is this server that answers PING, and with PONG. Another server may have taken the port, and this one be
    /// about to end because of that.
    fn answers(&self, setup: &Builder, address: &str) -> Result<bool> {
        let Ok(mut client) = Client::connect(address) else { return Ok(false) };
        client.set_timeout(Duration::from_secs(5))?;
        if let Some(password) = &setup.password
            && client.call(&["AUTH", password]).is_err()
        {
            return Ok(false);
        }
        let pong = matches!(client.call_raw(&["PING"]), Ok(Frame::Simple(text)) if text.as_ref() == b"PONG");
        let pid = self.child.id().to_string();
        Ok(pong && client.info("server", "process_id").ok().flatten() == Some(pid))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group first, for the children; the process itself by the standard library in case there is no `sh`.
        let _ = process::signal_group(self.child.id(), "KILL");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that nobody listens on at this moment.
///
/// # Errors
/// [`Error::Port`] when the system has none.
pub fn unused_port() -> Result<u16> {
    free_port(false)
}

fn free_port(with_bus: bool) -> Result<u16> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for _ in 0..100 {
        if with_bus {
            let port = low_port();
            match bind(port).and_then(|_held| bind(port + BUS_OFFSET)) {
                Ok(_) => return Ok(port),
                Err(error) => last = error,
            }
        } else {
            match bind(0).and_then(|listener| listener.local_addr()) {
                Ok(addr) => return Ok(addr.port()),
                Err(error) => last = error,
            }
        }
    }
    Err(Error::Port { source: last })
}

/// A port that together with its bus port is below those that systems give to outgoing connections (from 32768), so that
/// none of these takes it while the node is restarted. Different in each process, and each time.
fn low_port() -> u16 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut rng = Rng::new((u64::from(std::process::id()) << 32) + count);
    // The sum stays below 22600 + 10000.
    10_100 + rng.below(12_500) as u16
}

fn port_taken(error: &Error) -> bool {
    matches!(error, Error::Exited { log, .. } if log.contains("Address already in use"))
}

/// A value as the servers' configuration files quote it.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The end of what the server printed and logged.
fn log_tail(home: &Path) -> String {
    let mut text = String::new();
    for file in ["server.out", "server.log"] {
        if let Ok(bytes) = std::fs::read(home.join(file)) {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    let skip = text.len().saturating_sub(LOG_TAIL);
    let start = (skip..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.split_off(start)
}
