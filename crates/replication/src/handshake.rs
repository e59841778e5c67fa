//! The opening of a replication link, as a state machine over lines.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use keyferry_resp::encode_command;

use crate::position::{Position, ReplicationId};

/// A reply line longer than this is not one: real ones stay below 200 bytes.
const MAX_LINE: usize = 64 * 1024;

/// What to say in a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandshakeOptions {
    /// Where to go on; `None` asks for a full sync.
    pub resume: Option<Position>,
    /// Announces that a snapshot of unknown length (`$EOF:`) is understood, so that the server may stream it
    /// without writing it to its own disk. On by default.
    pub diskless: bool,
    /// The version announced by `REPLCONF version`, which Valkey 9.1 chooses the snapshot's format by
    /// (`replication.md` §5). Other servers do not know the option and are not sent it.
    pub announce_version: Option<String>,
    /// The name of the `PSYNC` command, where the operator renamed it.
    pub psync_command: String,
    /// The name of the `REPLCONF` command, where the operator renamed it.
    pub replconf_command: String,
    /// Asks by `SYNC`, for servers before 2.8 and those that refuse `PSYNC` alone: everything from the start, under an id that
    /// this program makes up, and with offsets that it counts from 0. Off by default. Of `SYNC` and of a `PSYNC` that was renamed
    /// the answer is the snapshot itself ([`SyncReply::Snapshot`]).
    pub sync: bool,
}

impl Default for HandshakeOptions {
    fn default() -> Self {
        HandshakeOptions {
            resume: None,
            diskless: true,
            announce_version: None,
            psync_command: "PSYNC".into(),
            replconf_command: "REPLCONF".into(),
            sync: false,
        }
    }
}

/// How the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncReply {
    /// A snapshot follows; the byte after it has the number `offset + 1`.
    Full {
        /// The history's id.
        id: ReplicationId,
        /// The offset that the snapshot stands for.
        offset: u64,
    },
    /// A snapshot follows, and the server says neither what history it is of nor at which offset: it was asked by `SYNC`, or
    /// takes a renamed `PSYNC` for that, as servers do that know it by its name only. Offsets are counted from 0.
    Snapshot {
        /// An id that was made up.
        id: ReplicationId,
    },
    /// The stream goes on at once after the position asked for.
    Continue {
        /// The id to use from now on, where the server named one (4.0 and later).
        id: Option<ReplicationId>,
    },
}

/// Why a handshake ended without a sync.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// The server asks to come back later.
    #[error("not ready: {message}")]
    NotReady {
        /// The reply, without its leading `-`.
        message: String,
    },
    /// The server says no.
    #[error("{command} refused: {message}")]
    Refused {
        /// The command's name.
        command: String,
        /// The reply, without its leading `-`.
        message: String,
    },
    /// The reply is none that the protocol knows.
    #[error("unexpected reply to {command}: {reply:?}")]
    Unexpected {
        /// The command's name.
        command: String,
        /// The reply, shortened.
        reply: String,
    },
}

/// The opening of a link: `PING`, `REPLCONF capa …`, `PSYNC`.
///
/// Takes the bytes that the server sent, gives the bytes to send to it, and ends in a [`SyncReply`] or a
/// [`HandshakeFailure`]. It opens no socket and knows no clock. Authentication is done before, by the
/// connection. It announces `eof` and `psync2` only, so every server uses the transfer over one connection,
/// and no listening port, so that nothing tries to connect to it as to a replica.
///
/// Order of calls: send what [`Handshake::poll_send`] gives; then read, and call [`Handshake::handle`] until
/// it asks for more bytes; again until it gives the reply. Bytes behind the reply stay in the buffer: they
/// belong to the snapshot or the stream.
///
/// ```
/// use bytes::BytesMut;
/// use keyferry_replication::handshake::{Handshake, HandshakeOptions, SyncReply};
///
/// let mut handshake = Handshake::new(HandshakeOptions::default());
/// let mut from_server = BytesMut::new();
/// for answer in ["+PONG\r\n", "+OK\r\n", "\n\n+FULLRESYNC 3ad1e7ef023c242514c0b05e48e4ee884551c793 14\r\n$9\r\n"] {
///     assert!(handshake.poll_send().is_some());
///     from_server.extend_from_slice(answer.as_bytes());
///     if let Some(SyncReply::Full { offset, .. }) = handshake.handle(&mut from_server)? {
///         assert_eq!(offset, 14);
///     }
/// }
/// assert_eq!(&from_server[..], b"$9\r\n");
/// # Ok::<(), keyferry_replication::handshake::HandshakeFailure>(())
/// ```
#[derive(Debug)]
pub struct Handshake {
    steps: VecDeque<Step>,
    /// The step whose reply is awaited.
    waiting: Option<Step>,
    /// Bytes of the awaited line already known to hold no line end.
    searched: usize,
}

#[derive(Debug)]
struct Step {
    kind: Kind,
    name: String,
    command: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ping,
    /// A courtesy that old servers may refuse.
    Optional,
    Psync,
    /// The snapshot itself is the answer.
    Sync,
}

impl Handshake {
    /// Prepares the commands.
    #[must_use]
    pub fn new(options: HandshakeOptions) -> Self {
        let mut steps = VecDeque::new();
        let mut push = |kind, args: &[&str]| {
            let mut command = BytesMut::new();
            encode_command(&mut command, args);
            steps.push_back(Step { kind, name: args[0].to_owned(), command });
        };
        push(Kind::Ping, &["PING"]);
        if options.sync {
            // Whoever needs this may know nothing of REPLCONF.
            push(Kind::Sync, &["SYNC"]);
            return Handshake { steps, waiting: None, searched: 0 };
        }
        let replconf = options.replconf_command.as_str();
        if options.diskless {
            push(Kind::Optional, &[replconf, "capa", "eof", "capa", "psync2"]);
        } else {
            push(Kind::Optional, &[replconf, "capa", "psync2"]);
        }
        if let Some(version) = &options.announce_version {
            push(Kind::Optional, &[replconf, "version", version]);
        }
        let (id, next) = match &options.resume {
            Some(p) => (p.id.as_str(), p.offset.saturating_add(1).to_string()),
            None => ("?", "-1".to_owned()),
        };
        push(Kind::Psync, &[&options.psync_command, id, &next]);
        Handshake { steps, waiting: None, searched: 0 }
    }

    /// The next command to send, or `None` while a reply is awaited and after the end.
    #[must_use]
    pub fn poll_send(&mut self) -> Option<BytesMut> {
        if self.waiting.is_some() {
            return None;
        }
        let mut step = self.steps.pop_front()?;
        let command = std::mem::take(&mut step.command);
        self.waiting = Some(step);
        Some(command)
    }

    /// The name of the command whose reply is awaited.
    #[must_use]
    pub fn waiting_for(&self) -> Option<&str> {
        self.waiting.as_ref().map(|s| s.name.as_str())
    }

    /// Consumes at most one reply from the front of `input`.
    ///
    /// `Ok(None)` means: poll for something to send, or read more bytes.
    ///
    /// # Errors
    /// When the server refuses for good, asks to come back later, or answers something unknown.
    pub fn handle(&mut self, input: &mut BytesMut) -> Result<Option<SyncReply>, HandshakeFailure> {
        let Some(step) = self.waiting.as_ref() else { return Ok(None) };
        // Newlines before a reply are keep-alives.
        while self.searched == 0 && matches!(input.first(), Some(b'\n')) {
            input.advance(1);
        }
        if matches!(step.kind, Kind::Sync | Kind::Psync) && input.first() == Some(&b'$') {
            self.waiting = None;
            return Ok(Some(SyncReply::Snapshot { id: ReplicationId::random() }));
        }
        let Some(end) = input[self.searched..].iter().position(|&b| b == b'\n').map(|i| i + self.searched)
        else {
            self.searched = input.len();
            if input.len() > MAX_LINE {
                return Err(unexpected(step, &input[..60]));
            }
            return Ok(None);
        };
        self.searched = 0;
        let line = input.split_to(end + 1);
        let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        let result = reply_to(step, line);
        self.waiting = None;
        result
    }
}

fn reply_to(step: &Step, line: &[u8]) -> Result<Option<SyncReply>, HandshakeFailure> {
    let message = |rest: &[u8]| String::from_utf8_lossy(rest).into_owned();
    match (step.kind, line.split_first()) {
        (Kind::Psync, Some((b'+', rest))) => sync_reply(rest).map(Some).ok_or_else(|| unexpected(step, line)),
        (_, Some((b'-', rest))) => {
            let code = rest.split(|&b| b == b' ').next().unwrap_or_default();
            if matches!(code, b"LOADING" | b"NOMASTERLINK" | b"MASTERDOWN" | b"BUSY" | b"NOREPLICAS") {
                return Err(HandshakeFailure::NotReady { message: message(rest) });
            }
            // A refused PING says only that a password or permission may be missing: PSYNC will tell.
            if matches!(step.kind, Kind::Psync | Kind::Sync) {
                return Err(HandshakeFailure::Refused { command: step.name.clone(), message: message(rest) });
            }
            if step.kind == Kind::Ping && !matches!(code, b"NOAUTH" | b"NOPERM" | b"ERR") {
                return Err(HandshakeFailure::Refused { command: step.name.clone(), message: message(rest) });
            }
            Ok(None)
        }
        (Kind::Ping | Kind::Optional, Some((b'+', _))) => Ok(None),
        _ => Err(unexpected(step, line)),
    }
}

/// `FULLRESYNC <id> <offset>`, `CONTINUE` or `CONTINUE <id>`.
fn sync_reply(line: &[u8]) -> Option<SyncReply> {
    let mut words = line.split(|&b| b == b' ').filter(|w| !w.is_empty());
    let verb = words.next()?;
    let reply = if verb.eq_ignore_ascii_case(b"FULLRESYNC") {
        let id = ReplicationId::from_bytes(words.next()?)?;
        let offset = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        SyncReply::Full { id, offset }
    } else if verb.eq_ignore_ascii_case(b"CONTINUE") {
        let id = match words.next() {
            Some(word) => Some(ReplicationId::from_bytes(word)?),
            None => None,
        };
        SyncReply::Continue { id }
    } else {
        return None;
    };
    words.next().is_none().then_some(reply)
}

fn unexpected(step: &Step, line: &[u8]) -> HandshakeFailure {
    let shown = &line[..line.len().min(60)];
    HandshakeFailure::Unexpected {
        command: step.name.clone(),
        reply: String::from_utf8_lossy(shown).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3ad1e7ef023c242514c0b05e48e4ee884551c793";

    /// Plays `answers` in turn and gives what was sent and how it ended.
    fn play(
        options: HandshakeOptions,
        answers: &[&str],
    ) -> (Vec<String>, Result<Option<SyncReply>, HandshakeFailure>, BytesMut) {
        let mut handshake = Handshake::new(options);
        let mut sent = Vec::new();
        let mut input = BytesMut::new();
        for answer in answers {
            let command = handshake.poll_send().expect("a command to send");
            sent.push(String::from_utf8(command.to_vec()).unwrap());
            assert!(handshake.poll_send().is_none(), "one command at a time");
            let mut last = Ok(None);
            // One byte at a time: a reply may be split anywhere.
            for byte in answer.bytes() {
                input.extend_from_slice(&[byte]);
                if !matches!(last, Ok(None)) {
                    continue;
                }
                last = handshake.handle(&mut input);
            }
            if !matches!(last, Ok(None)) {
                return (sent, last, input);
            }
        }
        (sent, Ok(None), input)
    }

    #[test]
    fn a_snapshot_at_once_is_the_answer_of_old() {
        let sync = HandshakeOptions { sync: true, ..HandshakeOptions::default() };
        let (sent, reply, rest) = play(sync, &["+PONG\r\n", "\n\n$18\r\nREDIS"]);
        assert_eq!(sent, ["*1\r\n$4\r\nPING\r\n", "*1\r\n$4\r\nSYNC\r\n"]);
        assert!(matches!(reply, Ok(Some(SyncReply::Snapshot { .. }))), "{reply:?}");
        assert_eq!(&rest[..], b"$18\r\nREDIS");
        let renamed = HandshakeOptions { psync_command: "tell".into(), ..HandshakeOptions::default() };
        let (_, reply, rest) = play(renamed, &["+PONG\r\n", "+OK\r\n", "$EOF:"]);
        assert!(matches!(reply, Ok(Some(SyncReply::Snapshot { .. }))), "{reply:?}");
        assert_eq!(&rest[..], b"$EOF:");
        let sync = HandshakeOptions { sync: true, ..HandshakeOptions::default() };
        let (_, reply, _) = play(sync, &["+PONG\r\n", "-NOPERM no\r\n"]);
        assert!(matches!(reply, Err(HandshakeFailure::Refused { .. })), "{reply:?}");
    }

    #[test]
    fn full_sync_leaves_the_snapshot_in_the_buffer() {
        let full = format!("\n\n+FULLRESYNC {ID} 1234\r\n\n$EOF:");
        let (sent, end, rest) = play(HandshakeOptions::default(), &["+PONG\r\n", "+OK\r\n", &full]);
        assert_eq!(end, Ok(Some(SyncReply::Full { id: ID.parse().unwrap(), offset: 1234 })));
        assert_eq!(&rest[..], b"\n$EOF:");
        assert!(sent[1].contains("capa\r\n$3\r\neof\r\n"));
        assert_eq!(sent[2], "*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n");
    }

    #[test]
    fn resume_asks_for_the_byte_after_the_last_consumed() {
        let resume = Some(Position::after_snapshot(ID.parse().unwrap(), 99));
        let options = HandshakeOptions { resume, ..HandshakeOptions::default() };
        let (sent, end, _) = play(options.clone(), &["+PONG\r\n", "+OK\r\n", "+CONTINUE\r\n"]);
        assert_eq!(end, Ok(Some(SyncReply::Continue { id: None })));
        assert!(sent[2].ends_with("$3\r\n100\r\n"), "{}", sent[2]);
        let other = ID.replace('3', "4");
        let (_, end, _) = play(options, &["+PONG\r\n", "+OK\r\n", &format!("+CONTINUE {other}\r\n")]);
        assert_eq!(end, Ok(Some(SyncReply::Continue { id: Some(other.parse().unwrap()) })));
    }

    #[test]
    fn old_servers_may_refuse_the_courtesies() {
        let options =
            HandshakeOptions { announce_version: Some("9.1.0".into()), ..HandshakeOptions::default() };
        let unknown = "-ERR Unrecognized REPLCONF option: version\r\n";
        let full = format!("+FULLRESYNC {ID} 0\r\n");
        let (sent, end, _) = play(options, &["+PONG\r\n", "-ERR Unrecognized\r\n", unknown, &full]);
        assert_eq!(sent.len(), 4);
        assert!(matches!(end, Ok(Some(SyncReply::Full { offset: 0, .. }))));
    }

    #[test]
    fn not_ready_refused_and_nonsense_are_told_apart() {
        for text in ["-LOADING Redis is loading", "-NOMASTERLINK Can't SYNC", "-MASTERDOWN Link"] {
            let (_, end, _) =
                play(HandshakeOptions::default(), &["+PONG\r\n", "+OK\r\n", &format!("{text}\r\n")]);
            assert!(matches!(end, Err(HandshakeFailure::NotReady { .. })), "{text}");
        }
        for text in ["-ERR unknown command 'PSYNC'", "-NOPERM this user", "-NOAUTH Authentication required."]
        {
            let (_, end, _) =
                play(HandshakeOptions::default(), &["+PONG\r\n", "+OK\r\n", &format!("{text}\r\n")]);
            let Err(HandshakeFailure::Refused { command, message }) = end else { panic!("{text}: {end:?}") };
            assert_eq!((command.as_str(), message.as_str()), ("PSYNC", &text[1..]));
        }
        let long = format!("+FULLRESYNC {ID} 12 34\r\n");
        for text in ["+HELLO\r\n", "\r\n", "+FULLRESYNC abc 1\r\n", "+CONTINUE abc\r\n", &long] {
            let (_, end, _) = play(HandshakeOptions::default(), &["+PONG\r\n", "+OK\r\n", text]);
            assert!(matches!(end, Err(HandshakeFailure::Unexpected { .. })), "{text:?}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut handshake = Handshake::new(HandshakeOptions::default());
        assert!(handshake.poll_send().is_some());
        let mut input = BytesMut::new();
        let mut end = Ok(None);
        for _ in 0..100 {
            input.extend_from_slice(&[b'+'; 1024]);
            end = handshake.handle(&mut input);
            if end.is_err() {
                break;
            }
        }
        assert!(matches!(end, Err(HandshakeFailure::Unexpected { .. })));
    }
}
