//! The one error type of the crate.

use std::io;
use std::path::PathBuf;

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a server, a client or a generator could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no server binary in any of the places that [`binaries`](crate::binaries) looks at.
    #[error(
        "no Redis-compatible server found in KEYFERRY_SERVERS, on PATH or in {}; \
         `cargo xtask servers redis-7.0` fetches one",
        .looked_in.display()
    )]
    NoServer {
        /// The last place that was looked at.
        looked_in: PathBuf,
    },

    /// There are servers, but not the one that was asked for.
    #[error("no server named {name} (found: {found}); `cargo xtask servers {name}` fetches it")]
    NoSuchServer {
        /// The name asked for, for example `redis-7.0`.
        name: String,
        /// The names that were found, separated by commas.
        found: String,
    },

    /// A round of a migration under disturbances did not end as it has to.
    #[error("{0}")]
    Round(String),

    /// A program could not be started at all.
    #[error("{} could not be run", .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file or a directory of the server could not be made or read.
    #[error("{} could not be {what}", .path.display())]
    File {
        /// What was tried: "written", "read", …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The server ended while it was expected to start. The log says why.
    #[error("{name} ended while starting ({status}); the end of its log:\n{log}")]
    Exited {
        /// Name of the binary.
        name: String,
        /// Its exit status.
        status: String,
        /// The last lines that it wrote.
        log: String,
    },

    /// The server runs but did not answer PING in time.
    #[error("{name} at {address} did not answer PING within {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// Name of the binary.
        name: String,
        /// Where it was asked.
        address: String,
        /// How long it was waited for.
        seconds: u64,
        /// The last lines that it wrote.
        log: String,
    },

    /// The server was built without TLS.
    #[error("{name} was built without TLS")]
    NoTls {
        /// Name of the binary.
        name: String,
    },

    /// No loopback port could be had.
    #[error("no free loopback port")]
    Port {
        /// What the system said last.
        source: io::Error,
    },

    /// A signal could not be sent.
    #[error("signal {signal} could not be sent to process {pid}: {message}")]
    Signal {
        /// The signal's name without `SIG`.
        signal: &'static str,
        /// The process.
        pid: u32,
        /// What `kill` said.
        message: String,
    },

    /// A cluster, or a group of sentinels, is not in the state that was waited for, or cannot do what was asked.
    #[error("cluster of {name}: {what}")]
    Cluster {
        /// Name of the binary that its nodes run.
        name: String,
        /// What is wrong.
        what: String,
    },

    /// The connection to a server failed.
    #[error("{address}: {what}")]
    Connection {
        /// The peer.
        address: String,
        /// What was being done: "connecting", "sending", "reading a reply", …
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// The server answered with an error reply.
    #[error("{address} refused {command}: {message}")]
    Refused {
        /// The peer.
        address: String,
        /// The start of the command.
        command: String,
        /// The text of the error reply.
        message: String,
    },

    /// The server answered with something that is not RESP.
    #[error("{address} sent bytes that are not RESP")]
    Protocol {
        /// The peer.
        address: String,
        /// What the decoder said.
        source: keyferry_resp::DecodeError,
    },

    /// A well-formed reply of a type that the command cannot have.
    #[error("{command}: expected {expected}, got {got}")]
    Unexpected {
        /// What was asked.
        command: String,
        /// What the caller can use.
        expected: &'static str,
        /// The start of what came.
        got: String,
    },

    /// A certificate could not be made.
    #[error("certificate")]
    Certificate(#[from] rcgen::Error),

    /// A figure of a process could not be read.
    #[error("process {pid}: {what} could not be read")]
    Process {
        /// The process.
        pid: u32,
        /// Which figure.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// A background thread ended by a panic.
    #[error("the {0} thread panicked")]
    Thread(&'static str),

    /// A scripted peer saw something else than its script says.
    #[error("scripted peer, step {step}: {message}")]
    Script {
        /// Number of the step, from 1.
        step: usize,
        /// What was expected and what came.
        message: String,
    },
}
