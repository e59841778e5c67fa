//! Steering a running migration from outside: what it is at, pausing, resuming, other limits, an end when it has caught up.
//!
//! A [`ControlServer`] answers requests on a Unix socket, which only its owner may use, or on a loopback address, where each has to bring a
//! token (`Authorization: Bearer TOKEN`). All answers are JSON.
//!
//! | request | what it does |
//! | --- | --- |
//! | `GET /status` | the figures, the limits, and what was waited for |
//! | `POST /pause`, `POST /resume` | as [`Throttle::pause`] and [`Throttle::resume`] |
//! | `POST /throttle?full-bytes=50mb&adaptive=on` | as [`RateLimits::set`](crate::RateLimits::set), all of them or none |
//! | `POST /stop` | as [`Stopper::stop`] |
//! | `POST /stop-when-caught-up` | as [`Stopper::stop_when_caught_up`] |
//!
//! Each of them answers with the status; what is wrong with a request is in `error`, and nothing was done then. The same is to be had
//! from [`Migration::progress`], [`Migration::throttle`] and [`Migration::stopper`].
//!
//! ```no_run
//! use keyferry_migrate::{Migration, control::ControlServer};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let migration = Migration::new("redis://old.example:6379".parse()?, "redis://new.example:6379".parse()?);
//! let server = ControlServer::bind(&"/run/keyferry.sock".parse()?, None, &migration).await?;
//! let serving = tokio::spawn(server.serve());
//! let finished = migration.run().await;
//! serving.abort();
//! # Ok(())
//! # }
//! ```

use std::{
    convert::Infallible,
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use keyferry_client::Secret;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::{
    http::{self, Answer, Listener, Request},
    migration::{Migration, Stopper},
    progress::Progress,
    throttle::Throttle,
};

/// A token is at least so long: shorter ones can be guessed.
const SHORTEST: usize = 16;

/// Where requests come: `ADDR:PORT` of this machine, or the path of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlAddress {
    /// A loopback address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket, which is made, and removed at the end.
    Unix(PathBuf),
}

impl FromStr for ControlAddress {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| ControlAddress::Unix(text.into()), ControlAddress::Tcp))
    }
}

impl fmt::Display for ControlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlAddress::Tcp(address) => address.fmt(f),
            ControlAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Anybody might come.
    #[error(
        "{0} is no address of this machine alone (127.0.0.1:PORT, [::1]:PORT): whoever reaches it could stop the migration"
    )]
    NotLoopback(SocketAddr),
    /// Everybody on this machine might come.
    #[error(
        "{0} needs a token of {SHORTEST} characters at least, as others on this machine reach it, too; or give the path of a socket"
    )]
    NoToken(SocketAddr),
    /// The address cannot be had.
    #[error("{address}: {error}")]
    Bind {
        /// The address, or the path.
        address: String,
        /// What the operating system says.
        error: io::Error,
    },
}

/// What answers requests.
#[derive(Debug)]
pub struct ControlServer {
    listener: Listener,
    address: ControlAddress,
    state: Arc<State>,
    _socket: Option<Socket>,
}

#[derive(Debug)]
struct State {
    progress: Progress,
    throttle: Throttle,
    stopper: Stopper,
    token: Option<Secret>,
}

/// A file that goes with the server.
#[derive(Debug)]
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

impl ControlServer {
    /// Listens. Nobody is answered before [`ControlServer::serve`]. On a socket a token is wanted only if there is one.
    ///
    /// # Errors
    /// When the address cannot be had, or others could use it.
    pub async fn bind(
        address: &ControlAddress,
        token: Option<Secret>,
        migration: &Migration,
    ) -> Result<Self, ControlError> {
        let failed = |error| ControlError::Bind { address: address.to_string(), error };
        let (listener, address, socket) = match address {
            ControlAddress::Tcp(at) => {
                if !at.ip().is_loopback() {
                    return Err(ControlError::NotLoopback(*at));
                }
                if token.as_ref().is_none_or(|token| token.expose().len() < SHORTEST) {
                    return Err(ControlError::NoToken(*at));
                }
                let listener = TcpListener::bind(at).await.map_err(failed)?;
                let at = listener.local_addr().map_err(failed)?;
                (Listener::Tcp(listener), ControlAddress::Tcp(at), None)
            }
            ControlAddress::Unix(path) => {
                let listener = socket(path).await.map_err(failed)?;
                (Listener::Unix(listener), address.clone(), Some(Socket(path.clone())))
            }
        };
        let state = State {
            progress: migration.progress(),
            throttle: migration.throttle(),
            stopper: migration.stopper(),
            token,
        };
        Ok(ControlServer { listener, address, state: Arc::new(state), _socket: socket })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &ControlAddress {
        &self.address
    }

    /// Answers until the future is dropped. It needs a tokio runtime.
    pub async fn serve(self) {
        let ControlServer { listener, state, _socket, .. } = self;
        http::serve(listener, move |request| state.answer(request)).await;
    }
}

/// A socket for this user alone. One that a program has left behind is replaced.
async fn socket(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok() {
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Nobody can connect before the permissions are right: nobody else sees the directory.
    let made = tempfile::Builder::new().prefix(".keyferry-").tempdir_in(directory)?;
    let hidden = made.path().join("control");
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}

impl State {
    fn answer(&self, request: &Request<'_>) -> Answer {
        if !self.is_allowed(request) {
            return self.error(401, "a token is needed: Authorization: Bearer TOKEN");
        }
        match (request.method, request.path) {
            ("GET", "/" | "/status") => {}
            ("POST", "/pause") => self.throttle.pause(),
            ("POST", "/resume") => self.throttle.resume(),
            ("POST", "/stop") => self.stopper.stop(),
            ("POST", "/stop-when-caught-up") => self.stopper.stop_when_caught_up(),
            ("POST", "/throttle") => {
                if let Err(wrong) = self.set(request.query) {
                    return self.error(400, &wrong);
                }
            }
            (_, "/" | "/status" | "/pause" | "/resume" | "/stop" | "/stop-when-caught-up" | "/throttle") => {
                return self.error(405, "GET is for /status, POST for all others");
            }
            _ => {
                let all = "there are /status, /pause, /resume, /throttle, /stop and /stop-when-caught-up";
                return self.error(404, all);
            }
        }
        json(200, &self.status())
    }

    /// Sets the limits that a query names: all, or none.
    fn set(&self, query: &str) -> Result<(), String> {
        let mut limits = self.throttle.limits();
        let mut given = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            limits.set(name, value).map_err(|e| e.to_string())?;
            given = true;
        }
        if !given {
            return Err("limits are wanted, as in /throttle?full-bytes=50mb&commands=none".to_owned());
        }
        self.throttle.set_limits(limits);
        Ok(())
    }

    fn status(&self) -> Value {
        let (figures, throttle) = (self.progress.figures(), self.throttle.figures());
        json!({
            "figures": figures,
            "throttle": throttle,
            "stops_when_caught_up": self.stopper.stops_when_caught_up(),
        })
    }

    fn error(&self, status: u16, what: &str) -> Answer {
        json(status, &json!({ "error": what }))
    }

    /// Takes the same time for every token of the right length.
    fn is_allowed(&self, request: &Request<'_>) -> bool {
        let Some(token) = &self.token else { return true };
        let (wanted, given) = (token.expose(), request.token.unwrap_or_default().as_bytes());
        let differs = wanted.iter().zip(given).fold(0, |differs, (a, b)| differs | (a ^ b));
        wanted.len() == given.len() && differs == 0
    }
}

fn json(status: u16, value: &Value) -> Answer {
    Answer { status, kind: "application/json", body: format!("{value}\n") }
}
