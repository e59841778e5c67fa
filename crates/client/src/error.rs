//! Everything that can go wrong between here and a server.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use keyferry_resp::{DecodeError, ErrorReply, Frame, Retry};

use crate::{Address, Secret, SecretError, UrlError};

/// What went wrong, with whom, while doing what, and what can be done about it.
///
/// A message stands for itself; what the system or a decoder said below it is the `source`, so print the whole
/// chain. No message holds a password. What a server says is shown with control characters escaped and cut at a few
/// hundred characters. Whether trying again may help is answered by [`is_retryable`](Self::is_retryable);
/// whether a command may already have had its effect, by [`may_have_executed`](Self::may_have_executed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection URL is wrong. The caller's to mend.
    #[error(transparent)]
    Url(#[from] UrlError),

    /// A password could not be had. The caller's to mend.
    #[error(transparent)]
    Secret(#[from] SecretError),

    /// The host name could not be turned into an address.
    #[error("cannot find the host of {address}: is the name right, and does name resolution work here?")]
    Resolve {
        /// The server.
        address: Address,
        /// What the system said.
        source: std::io::Error,
    },

    /// Nobody took the connection.
    #[error("cannot connect to {address}: is a server listening there, and can it be reached from here?")]
    Connect {
        /// The server.
        address: Address,
        /// What the system said.
        source: std::io::Error,
    },

    /// The connection was not ready in time.
    #[error("cannot connect to {address}: {phase} was not done after {after:?}{}", hint_of_phase(phase))]
    ConnectTimeout {
        /// The server.
        address: Address,
        /// What was going on: `"name resolution"`, `"the TCP connection"`, `"the TLS handshake"`,
        /// `"authentication and greeting"`.
        phase: &'static str,
        /// The connect timeout.
        after: Duration,
    },

    /// The TLS handshake failed, or TLS meets a server without it, or the other way round.
    #[error("no secure connection to {address}: {reason}; {advice}")]
    Tls {
        /// The server.
        address: Address,
        /// What is wrong.
        reason: String,
        /// What to do.
        advice: &'static str,
    },

    /// The TLS settings cannot be used: a file is missing, is not PEM, a key does not fit its certificate.
    #[error("cannot use {what} from {origin}: {reason}")]
    TlsSetup {
        /// What cannot be used.
        what: &'static str,
        /// The file, or where else it came from.
        origin: String,
        /// Why.
        reason: String,
    },

    /// The server does not let this client in: no, or a wrong, password, no right to do what connecting needs.
    #[error("{address} refuses access: {code} {message}{}", hint_of_access(code, message))]
    Auth {
        /// The server.
        address: Address,
        /// First word of its answer: `NOAUTH`, `WRONGPASS`, `NOPERM`, `DENIED`, `ERR`.
        code: String,
        /// The rest of its answer, the password struck out.
        message: String,
    },

    /// The server answered a command with an error.
    #[error("{address} answered {command} with an error: {code} {message}")]
    Server {
        /// The server.
        address: Address,
        /// Name of the command; its arguments are not kept.
        command: String,
        /// First word of the answer, as `WRONGTYPE`, `LOADING`, `ERR`.
        code: String,
        /// The rest of the answer.
        message: String,
    },

    /// A sentinel where a server that holds data is due.
    #[error(
        "{address} is a sentinel: write redis+sentinel://{address}/SERVICE to reach the primary that it knows by the \
         name SERVICE"
    )]
    IsSentinel {
        /// The sentinel.
        address: Address,
    },

    /// No node of a cluster tells which node serves which slot.
    #[error("no topology of the cluster: {reasons}")]
    NoTopology {
        /// What each node answered, or why it could not be asked.
        reasons: String,
        /// Whether something among that passes by itself: a node that cannot be reached now, nodes that disagree.
        passing: bool,
    },

    /// No sentinel leads to a primary.
    #[error("no primary found for the service {service:?}: {reasons}")]
    NoPrimary {
        /// The name that the sentinels were asked for.
        service: String,
        /// What each of them answered, or why it could not be asked.
        reasons: String,
        /// Whether something among that passes by itself: a failover, a sentinel that cannot be reached now.
        passing: bool,
    },

    /// What arrived is not RESP. The server, or something between, is at fault; the connection is unusable.
    #[error("{address} sent what is not RESP, or too much of it (while {doing})")]
    Protocol {
        /// The server.
        address: Address,
        /// What was being done.
        doing: String,
        /// What is wrong, and at which byte of the connection's input.
        source: DecodeError,
    },

    /// A reply is well formed, but is not what this command is answered with.
    #[error(
        "{address} answered {command} with {found}, where {expected} was due: is this a Redis or Valkey server?"
    )]
    UnexpectedReply {
        /// The server.
        address: Address,
        /// Name of the command.
        command: String,
        /// What should have come.
        expected: &'static str,
        /// What came.
        found: String,
    },

    /// The server kept silent, or took no more bytes, for too long. The connection is unusable.
    #[error("{address} did not move for {after:?} (while {doing}): it is stuck, overloaded or cut off")]
    Timeout {
        /// The server.
        address: Address,
        /// What was being done.
        doing: String,
        /// The timeout that ran out.
        after: Duration,
    },

    /// The server closed the connection.
    #[error("{address} closed the connection (while {doing}){hint}")]
    Closed {
        /// The server.
        address: Address,
        /// What was being done.
        doing: String,
        /// What usually causes it here; may be empty, else begins with `": "`.
        hint: &'static str,
    },

    /// The connection broke.
    #[error("the connection to {address} broke (while {doing})")]
    Io {
        /// The server.
        address: Address,
        /// What was being done.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },

    /// An earlier exchange on this connection was given up half-way (dropped, timed out, failed), so that its
    /// replies cannot be told from later ones. Connect again.
    #[error(
        "the connection to {address} is out of step: an earlier exchange was not completed; connect again"
    )]
    OutOfStep {
        /// The server.
        address: Address,
    },

    /// The connection of a [`Client`](crate::Client) was lost before the reply came.
    #[error(
        "the connection to {address} was lost; the command {}",
        if *.sent { "was sent and may have been executed" } else { "was not sent" }
    )]
    ConnectionLost {
        /// The server.
        address: Address,
        /// Whether any byte of the command was handed to the system. If not, it was certainly not executed.
        sent: bool,
        /// Why the connection was lost, or why there is no new one. All the commands that were under way share it.
        #[source]
        cause: Arc<Error>,
    },

    /// The command would change the state of a connection that others share, or has a number of replies other
    /// than one.
    #[error("{command} cannot be sent here: {reason}")]
    Misuse {
        /// Name of the command.
        command: String,
        /// Why not, and what to use instead.
        reason: &'static str,
    },
}

impl Error {
    /// Whether the condition passes by itself, so that connecting or sending again later may succeed.
    ///
    /// True for everything about reachability and for the server states `LOADING`, `MASTERDOWN`, `BUSY`,
    /// `TRYAGAIN`, `CLUSTERDOWN` and their like; false for wrong URLs, passwords, certificates and commands. A
    /// command may only be repeated if repeating it does no harm, or if
    /// [`may_have_executed`](Self::may_have_executed) is false.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Io { .. }
            | Self::OutOfStep { .. } => true,
            Self::ConnectionLost { cause, .. } => cause.is_retryable(),
            Self::NoPrimary { passing, .. } | Self::NoTopology { passing, .. } => *passing,
            Self::Server { code, message, .. } => is_passing(code, message),
            _ => false,
        }
    }

    /// Whether the server may have executed the command that this error is the result of.
    ///
    /// False also for error replies: the server refused the command.
    pub fn may_have_executed(&self) -> bool {
        match self {
            Self::ConnectionLost { sent, .. } => *sent,
            Self::Protocol { .. }
            | Self::UnexpectedReply { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Io { .. } => true,
            _ => false,
        }
    }

    /// The code of the server's error reply, if this is one: `WRONGTYPE`, `NOAUTH`, `LOADING`, ….
    pub fn server_code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } | Self::Auth { code, .. } => Some(code),
            _ => None,
        }
    }

    /// A command of no argument at all.
    pub(crate) fn nameless() -> Self {
        Self::Misuse {
            command: "a command without a name".to_owned(),
            reason: "servers do not answer it; give at least one argument",
        }
    }

    pub(crate) fn unexpected(
        address: &Address,
        command: &str,
        expected: &'static str,
        found: &Frame,
    ) -> Self {
        Self::UnexpectedReply {
            address: address.clone(),
            command: command.to_owned(),
            expected,
            found: kind_of(found).to_owned(),
        }
    }

    /// Sorts an error reply into access ([`Auth`](Self::Auth)) and the rest ([`Server`](Self::Server)).
    ///
    /// Wherever the server repeats the password it is struck out.
    pub(crate) fn from_reply(
        address: &Address,
        command: &str,
        reply: &[u8],
        password: Option<&Secret>,
    ) -> Self {
        // Only the beginning is shown, so only that is searched; a password cut off there is cut off whole.
        let reply = &reply[..reply.len().min(MOST_OF_REPLY)];
        let (code, message) =
            split_reply(&password.map_or(Cow::Borrowed(reply), |secret| secret.redact(reply)));
        let address = address.clone();
        match code.as_str() {
            "NOAUTH" | "WRONGPASS" | "DENIED" => Self::Auth { address, code, message },
            _ => Self::Server { address, command: command.to_owned(), code, message },
        }
    }
}

/// Code and text of an error reply, fit for printing.
pub(crate) fn split_reply(reply: &[u8]) -> (String, String) {
    let text = printable(reply);
    match text.split_once(' ') {
        Some((code, message)) => (code.to_owned(), message.to_owned()),
        None => (text, String::new()),
    }
}

/// Whether this answer speaks of a state of the server that passes.
pub(crate) fn is_passing(code: &str, message: &str) -> bool {
    ErrorReply::new(format!("{code} {message}")).retry() == Retry::BackOff
}

/// Most characters of foreign text that a message shows.
const SHOWN: usize = 300;
/// Most bytes of an error reply that are looked at: more than are shown even if a password (16384 bytes at most)
/// stands among them.
const MOST_OF_REPLY: usize = 32 * 1024;

/// Foreign bytes as text for a message: UTF-8 as it is, everything unprintable escaped, cut when long.
pub(crate) fn printable(bytes: &[u8]) -> String {
    // Four bytes a character is the most that UTF-8 needs.
    let head = &bytes[..bytes.len().min(4 * (SHOWN + 1))];
    let text = String::from_utf8_lossy(head);
    let mut shown = String::with_capacity(text.len().min(SHOWN));
    for (count, character) in text.chars().enumerate() {
        if count == SHOWN {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// What a frame is, in a word.
fn kind_of(frame: &Frame) -> &'static str {
    match frame.value() {
        Frame::Simple(_) => "a status",
        Frame::Error(_) | Frame::BulkError(_) => "an error",
        Frame::Integer(_) => "an integer",
        Frame::Bulk(_) | Frame::Verbatim { .. } => "a string",
        Frame::Null(_) => "null",
        Frame::Array(_) => "an array",
        Frame::Map(_) => "a map",
        Frame::Set(_) => "a set",
        _ => "something else",
    }
}

fn hint_of_phase(phase: &str) -> &'static str {
    match phase {
        "the TCP connection" => ": is the address right, and does a firewall drop the packets?",
        "the TLS handshake" => ": a port without TLS stays silent like this; if it is one, use redis://",
        "authentication and greeting" => {
            ": the server took the connection but is stuck, or the port is another service, or one with TLS (use \
             rediss://)"
        }
        _ => "",
    }
}

fn hint_of_access(code: &str, message: &str) -> &'static str {
    match code {
        "NOAUTH" => "; give the password in the URL, or with password-env= or password-file=",
        "WRONGPASS" => "; check user and password",
        "ERR" if message.contains("without any password") || message.contains("no password is set") => {
            "; take the password out of the options, or check that this is the right server"
        }
        "ERR" if message.contains("invalid password") => "; check the password",
        "NOPERM" => "; the ACL of this user must allow it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address::tcp("db", 6379)
    }

    #[test]
    fn foreign_text_cannot_forge_lines_or_fill_the_screen() {
        assert_eq!(printable(b"a\r\n\x1b[31mb\xff"), "a\\r\\n\\u{1b}[31mb\u{fffd}");
        let long = printable(&vec![b'x'; 1 << 20]);
        assert_eq!(long.chars().count(), SHOWN + 1);
        assert_eq!(printable("é".repeat(5_000).as_bytes()).chars().count(), SHOWN + 1);
    }

    #[test]
    fn codes_are_sorted_by_what_to_do() {
        for (reply, retryable, auth) in [
            ("LOADING Redis is loading the dataset in memory", true, false),
            ("ERR max number of clients reached", true, false),
            ("ERR unknown command", false, false),
            ("TRYAGAIN Multiple keys request during rehashing of slot", true, false),
            ("READONLY You can't write against a read only replica.", false, false),
            ("OOM command not allowed", false, false),
            ("NOAUTH Authentication required.", false, true),
            ("WRONGPASS invalid username-password pair or user is disabled.", false, true),
            ("NOPERM this user has no permissions", false, false),
            ("", false, false),
        ] {
            let error = Error::from_reply(&address(), "GET", reply.as_bytes(), None);
            assert_eq!(error.is_retryable(), retryable, "{error}");
            assert_eq!(matches!(error, Error::Auth { .. }), auth, "{error}");
            assert!(!error.may_have_executed(), "{error}");
            assert_eq!(error.server_code(), Some(reply.split(' ').next().unwrap()));
        }
    }

    #[test]
    fn errors_are_small_enough_to_return() {
        assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
    }

    #[test]
    fn a_lost_connection_says_whether_the_command_may_have_run() {
        let cause = Arc::new(Error::Closed { address: address(), doing: "waiting".into(), hint: "" });
        for (sent, words) in [(true, "may have been executed"), (false, "was not sent")] {
            let error = Error::ConnectionLost { address: address(), sent, cause: Arc::clone(&cause) };
            assert!(error.to_string().ends_with(words), "{error}");
            assert_eq!(error.may_have_executed(), sent);
            assert!(error.is_retryable());
        }
    }
}
