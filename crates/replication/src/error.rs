//! What can go wrong on a replication link, and whose fault it is.

use std::time::Duration;

use keyferry_resp::DecodeError;

/// Everything that can go wrong while speaking PSYNC to a server.
///
/// Each variant says what was being done and where. [`Error::is_retryable`] tells whether trying again,
/// with the position held, can help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be made, or broke.
    #[error(transparent)]
    Connection(#[from] keyferry_client::Error),

    /// Nobody could say where the server is; see [`Locate`](crate::Locate).
    #[error("cannot find {what}: {reason}")]
    NotLocated {
        /// What was looked for.
        what: String,
        /// Why it was not found, and what to do where there is something.
        reason: String,
        /// Whether it may be found later: a failover may be under way.
        passing: bool,
    },

    /// Reading from or writing to an established link failed.
    #[error("replication link to {address} broke at offset {offset}: {source}")]
    Io {
        /// The server.
        address: String,
        /// Replication offset of the last byte that was consumed.
        offset: u64,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The server closed the link.
    #[error(
        "{address} closed the replication link while {doing}; if the source ran out of disk, killed its \
             snapshot child or hit client-output-buffer-limit, its log says so"
    )]
    Closed {
        /// The server.
        address: String,
        /// What was under way.
        doing: Doing,
    },

    /// Nothing at all arrived for longer than the silence limit, not even a keep-alive.
    #[error("{address} was silent for {} s while {doing}", after.as_secs())]
    Silent {
        /// The server.
        address: String,
        /// What was under way.
        doing: Doing,
        /// The limit that passed.
        after: Duration,
    },

    /// The server is not able to serve a replica now; it asked to try again later
    /// (`-LOADING`, `-NOMASTERLINK`, `-MASTERDOWN`, `-NOREPLICAS`, `-BUSY`).
    #[error("{address} cannot serve a replica yet: {message}")]
    NotReady {
        /// The server.
        address: String,
        /// Its reply.
        message: String,
    },

    /// The server refused one of the handshake's commands for good.
    #[error("{address} refused {command}: {message}{}", advice(message))]
    Refused {
        /// The server.
        address: String,
        /// The command's name.
        command: String,
        /// Its reply.
        message: String,
    },

    /// The server's answer is not one the protocol knows.
    #[error("{address} answered {command} with something PSYNC does not know: {reply:?}")]
    UnexpectedReply {
        /// The server.
        address: String,
        /// The command that was answered.
        command: String,
        /// The reply's first line, shortened.
        reply: String,
    },

    /// The snapshot could not be produced by the server.
    #[error("{address} could not produce its snapshot: {message}")]
    SnapshotFailed {
        /// The server.
        address: String,
        /// Its reply.
        message: String,
    },

    /// The command stream holds bytes that are not a command.
    #[error("command stream of {address} is damaged after replication offset {offset}: {source}")]
    Stream {
        /// The server.
        address: String,
        /// Offset of the last good byte.
        offset: u64,
        /// What the decoder found.
        source: StreamFault,
    },

    /// The link was retried for as long as was allowed.
    #[error("gave up on {address} after trying for {} s; last: {last}", window.as_secs())]
    GaveUp {
        /// The server.
        address: String,
        /// How long was tried.
        window: Duration,
        /// The last failure.
        #[source]
        last: Box<Error>,
    },
}

impl Error {
    /// True where a later attempt, with the position held, can succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Connection(e) => e.is_retryable(),
            Error::NotLocated { passing, .. } => *passing,
            Error::Io { .. } | Error::Closed { .. } | Error::Silent { .. } | Error::NotReady { .. } => true,
            Error::Refused { .. }
            | Error::UnexpectedReply { .. }
            | Error::SnapshotFailed { .. }
            | Error::Stream { .. }
            | Error::GaveUp { .. } => false,
        }
    }
}

/// What a link was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doing {
    /// Waiting for the reply to a handshake command.
    Handshake,
    /// Waiting for the server to prepare its snapshot.
    WaitingForSnapshot,
    /// Receiving the snapshot; so many bytes had arrived.
    Snapshot {
        /// Snapshot bytes received.
        received: u64,
    },
    /// Following the command stream; everything up to this offset had been consumed.
    Stream {
        /// Replication offset of the last consumed byte.
        offset: u64,
    },
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Doing::Handshake => f.write_str("shaking hands"),
            Doing::WaitingForSnapshot => f.write_str("preparing the snapshot"),
            Doing::Snapshot { received } => write!(f, "sending the snapshot ({received} bytes had arrived)"),
            Doing::Stream { offset } => write!(f, "streaming commands (at offset {offset})"),
        }
    }
}

/// Why bytes of the command stream are not commands.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamFault {
    /// The RESP decoder refused them.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Something other than an array of bulk strings with at least one element; replication streams hold nothing else.
    #[error("found byte {found:#04x} where a command must begin, as '*' and its number of arguments")]
    NotACommand {
        /// The byte.
        found: u8,
    },
    /// `SELECT` with an argument that is no database number.
    #[error("SELECT names no database: {argument:?}")]
    BadSelect {
        /// The argument, shortened.
        argument: String,
    },
}

fn advice(message: &str) -> &'static str {
    let word = message.split_ascii_whitespace().next().unwrap_or("");
    if word == "NOPERM" {
        " (the user needs the commands PSYNC, REPLCONF and PING: ACL SETUSER … +psync +replconf +ping)"
    } else if word == "NOAUTH" {
        " (give the user and password in the URL, or by password-env or password-file)"
    } else if message.to_ascii_lowercase().contains("unknown command") {
        " (the server is older than 2.8, or its operator disabled or renamed the command)"
    } else {
        ""
    }
}
