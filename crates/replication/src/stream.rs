//! The command stream: cutting it at command boundaries and counting its offsets.

use bytes::{Buf, Bytes, BytesMut};
use keyferry_resp::{CommandDecoder, CommandRef, Limits};

use crate::{
    error::StreamFault,
    position::{Position, ReplicationId},
};

/// Commands of a replication link are not held to `proto-max-bulk-len` since 6.2 (`replication.md` §11), and grow in
/// memory only as their bytes arrive.
const LIMITS: Limits =
    Limits::new().frame_bytes(4 << 30).bulk_bytes(4 << 30).elements(64 << 20).total_elements(64 << 20);

/// A run of whole commands, exactly as the server sent them.
///
/// What a replica must not execute (`PING`, `REPLCONF`, bare newlines) has been left out of `bytes` and is
/// counted by `start` and `end` as the protocol counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// The commands, one after another, byte for byte. Empty when only the offset moved.
    pub bytes: Bytes,
    /// How many commands that is.
    pub commands: u32,
    /// Offset of the last byte before `bytes`.
    pub start: u64,
    /// Offset of the last byte consumed. `end - start` is more than `bytes.len()` where something was left out
    /// behind it.
    pub end: u64,
    /// The database selected where `bytes` begins, if known.
    pub db: Option<u64>,
    /// True when `bytes` ends between `MULTI` and `EXEC`.
    pub in_transaction: bool,
}

impl Batch {
    /// A batch of `commands` whole commands between two offsets.
    #[must_use]
    pub fn new(bytes: Bytes, commands: u32, start: u64, end: u64) -> Self {
        Batch { bytes, commands, start, end, db: None, in_transaction: false }
    }

    /// No commands: only the offset moved, from `start` to `position`.
    #[must_use]
    pub fn moved(start: u64, position: &Position) -> Self {
        let (db, in_transaction) = (position.db, position.in_transaction);
        Batch { bytes: Bytes::new(), commands: 0, start, end: position.offset, db, in_transaction }
    }
}

/// What the front of the stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// Commands to apply.
    Commands(Batch),
    /// `REPLCONF GETACK *`: the server wants an acknowledgement now, of this offset, which does not include the
    /// request itself (measured, `replication.md` §4).
    AckRequest {
        /// The offset to report.
        offset: u64,
    },
}

/// Cuts a replication stream into [`Batch`]es and keeps the [`Position`].
///
/// Takes the bytes as they come from the link, gives whole commands only, and counts every byte but bare
/// newlines between commands. A transaction may be cut between two batches; `in_transaction` says so.
/// Anything but arrays of bulk strings is refused: a stream that lost its place must not be guessed at.
///
/// ```
/// use bytes::BytesMut;
/// use keyferry_replication::{Position, stream::{Item, StreamScanner}};
///
/// let id = "3ad1e7ef023c242514c0b05e48e4ee884551c793".parse()?;
/// let mut scanner = StreamScanner::new(Position::after_snapshot(id, 100));
/// let mut buf = BytesMut::from(&b"*1\r\n$4\r\nping\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*2\r\n$4\r\nINCR\r\n"[..]);
/// // The PING moves the offset and is not to be applied; the INCR is not complete yet.
/// let Some(Item::Commands(batch)) = scanner.next(&mut buf)? else { panic!("a batch") };
/// assert_eq!((batch.commands, batch.start, batch.end), (0, 100, 114));
/// let Some(Item::Commands(batch)) = scanner.next(&mut buf)? else { panic!("a batch") };
/// assert_eq!((batch.commands, batch.start, batch.end), (1, 114, 137));
/// assert_eq!(scanner.position().db, Some(3));
/// assert_eq!(scanner.next(&mut buf)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StreamScanner {
    decoder: CommandDecoder,
    position: Position,
}

/// What a command of the stream means to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Apply,
    Select,
    Multi,
    Exec,
    Ping,
    Replconf,
}

impl StreamScanner {
    /// Goes on from a position.
    #[must_use]
    pub fn new(position: Position) -> Self {
        Self::with_limits(position, LIMITS)
    }

    /// As [`StreamScanner::new`], with limits of the caller's.
    #[must_use]
    pub fn with_limits(position: Position, limits: Limits) -> Self {
        StreamScanner { decoder: CommandDecoder::with_limits(limits), position }
    }

    /// Everything up to here has been given out.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Moves the offset without commands: what was between was left out when the stream was stored.
    pub fn skip_to(&mut self, offset: u64) {
        self.position.offset = offset;
    }

    /// The history goes on under another id, at the same offset.
    pub fn set_id(&mut self, id: ReplicationId) {
        self.position.id = id;
    }

    /// The next item from the front of `buf`; `None` when a whole command is not there yet.
    ///
    /// All whole commands at the front go into one batch, up to the next one that is not to be applied.
    ///
    /// # Errors
    /// When the bytes are not commands. The position then is that of the last good one.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Item>, StreamFault> {
        let start = self.position.offset;
        let db = self.position.db;
        let (mut len, mut commands) = (0, 0);
        let mut dropped: Option<(usize, bool)> = None;
        loop {
            let rest = &buf[len..];
            // Newlines between commands are keep-alives: not counted, not passed on.
            if rest.first() == Some(&b'\n') {
                if len > 0 {
                    break;
                }
                buf.advance(1);
                continue;
            }
            // Requests of clients may be empty (`*0`, `*-1`: skipped by servers) or inline; commands of a stream may not.
            let strange = match rest {
                [] => break,
                [b'*', b'1'..=b'9', ..] | [b'*'] => None,
                [b'*', found, ..] | [found, ..] => Some(*found),
            };
            match strange {
                None => {}
                Some(found) if len == 0 => return Err(StreamFault::NotACommand { found }),
                // The good commands before it go first.
                Some(_) => break,
            }
            let command = match self.decoder.next_ref(rest) {
                Ok(Some(command)) => command,
                Ok(None) => break,
                Err(_) if len > 0 => break,
                Err(e) => return Err(e.into()),
            };
            let raw = command.raw().len();
            match classify(&command) {
                Class::Apply => {}
                Class::Select => match database(&command) {
                    Ok(db) => self.position.db = Some(db),
                    Err(fault) if len == 0 => return Err(fault),
                    Err(_) => break,
                },
                Class::Multi => self.position.in_transaction = true,
                Class::Exec => self.position.in_transaction = false,
                class @ (Class::Ping | Class::Replconf) => {
                    let ack = class == Class::Replconf
                        && command.arg(1).is_some_and(|a| a.eq_ignore_ascii_case(b"getack"));
                    // An acknowledgement is asked for at a place of the stream: give what is before it first.
                    if len == 0 || !ack {
                        dropped = Some((raw, ack));
                    }
                    break;
                }
            }
            len += raw;
            commands += 1;
        }
        if len == 0 && dropped.is_none() {
            return Ok(None);
        }
        let bytes = buf.split_to(len).freeze();
        let mut end = start + len as u64;
        if let Some((raw, ack)) = dropped {
            buf.advance(raw);
            end += raw as u64;
            if ack {
                self.position.offset = end;
                return Ok(Some(Item::AckRequest { offset: start }));
            }
        }
        self.position.offset = end;
        let in_transaction = self.position.in_transaction;
        Ok(Some(Item::Commands(Batch { bytes, commands, start, end, db, in_transaction })))
    }
}

fn classify(command: &CommandRef<'_>) -> Class {
    let name = command.name();
    // Told apart by length first: nearly all commands end here.
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"ping") => Class::Ping,
        4 if name.eq_ignore_ascii_case(b"exec") => Class::Exec,
        5 if name.eq_ignore_ascii_case(b"multi") => Class::Multi,
        6 if name.eq_ignore_ascii_case(b"select") => Class::Select,
        8 if name.eq_ignore_ascii_case(b"replconf") => Class::Replconf,
        _ => Class::Apply,
    }
}

fn database(command: &CommandRef<'_>) -> Result<u64, StreamFault> {
    let argument = command.arg(1).unwrap_or_default();
    std::str::from_utf8(argument).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        StreamFault::BadSelect {
            argument: String::from_utf8_lossy(&argument[..argument.len().min(40)]).into_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use keyferry_resp::encode_command;

    use super::*;

    fn scanner() -> StreamScanner {
        StreamScanner::new(Position::after_snapshot(
            "3ad1e7ef023c242514c0b05e48e4ee884551c793".parse().unwrap(),
            0,
        ))
    }

    fn wire(commands: &[&[&str]]) -> BytesMut {
        let mut out = BytesMut::new();
        for command in commands {
            if command == &["\n"] {
                out.extend_from_slice(b"\n");
            } else {
                encode_command(&mut out, *command);
            }
        }
        out
    }

    /// Everything to apply, the ack requests, and the position at the end, when `bytes` come `step` at a time.
    fn scan(bytes: &[u8], step: usize) -> (Vec<u8>, u32, Vec<u64>, Position) {
        let (mut scanner, mut buf) = (scanner(), BytesMut::new());
        let (mut applied, mut count, mut acks) = (Vec::new(), 0, Vec::new());
        for chunk in bytes.chunks(step) {
            buf.extend_from_slice(chunk);
            let mut before = scanner.position().offset;
            while let Some(item) = scanner.next(&mut buf).unwrap() {
                match item {
                    Item::Commands(batch) => {
                        assert_eq!(batch.start, before);
                        applied.extend_from_slice(&batch.bytes);
                        count += batch.commands;
                        assert_eq!(batch.end, scanner.position().offset);
                    }
                    Item::AckRequest { offset } => acks.push(offset),
                }
                before = scanner.position().offset;
            }
        }
        assert!(buf.is_empty());
        (applied, count, acks, scanner.position().clone())
    }

    #[test]
    fn counts_every_byte_but_newlines_and_applies_what_is_to_be_applied() {
        let all = wire(&[
            &["PING"],
            &["SELECT", "2"],
            &["\n"],
            &["set", "k", "v"],
            &["REPLCONF", "GETACK", "*"],
            &["MULTI"],
            &["Select", "7"],
            &["incr", "n"],
            &["exec"],
            &["\n"],
            &["\n"],
            &["REPLCONF", "TIMESTAMP", "17"],
            &["ping"],
        ]);
        let kept = wire(&[
            &["SELECT", "2"],
            &["set", "k", "v"],
            &["MULTI"],
            &["Select", "7"],
            &["incr", "n"],
            &["exec"],
        ]);
        let before_ack = wire(&[&["PING"], &["SELECT", "2"], &["set", "k", "v"]]).len() as u64;
        for step in 1..all.len() {
            let (applied, count, acks, position) = scan(&all, step);
            assert_eq!(applied, kept, "step {step}");
            assert_eq!(count, 6);
            assert_eq!(acks, [before_ack]);
            assert_eq!(position.offset, all.len() as u64 - 3);
            assert_eq!((position.db, position.in_transaction), (Some(7), false));
        }
    }

    #[test]
    fn knows_when_it_stands_inside_a_transaction() {
        let mut scanner = scanner();
        let mut buf = wire(&[&["MULTI"], &["SET", "a", "b"]]);
        let Some(Item::Commands(batch)) = scanner.next(&mut buf).unwrap() else { panic!() };
        assert!(batch.in_transaction && scanner.position().in_transaction);
        let mut buf = wire(&[&["EXEC"]]);
        let Some(Item::Commands(batch)) = scanner.next(&mut buf).unwrap() else { panic!() };
        assert!(!batch.in_transaction && !scanner.position().in_transaction);
    }

    #[test]
    fn refuses_what_is_no_command_after_giving_what_was() {
        for bad in [
            &b"PING\r\n"[..],
            b"*0\r\n*1\r\n$4\r\nPING\r\n",
            b"*-1\r\n",
            b"+OK\r\n",
            b"\0\0\0",
            b"*1\r\n:5\r\n",
            b"*x\r\n",
            b"*2\r\n$6\r\nSELECT\r\n$1\r\nx\r\n",
        ] {
            let mut scanner = scanner();
            let mut buf = wire(&[&["SET", "a", "b"]]);
            let good = buf.len() as u64;
            buf.extend_from_slice(bad);
            assert!(matches!(scanner.next(&mut buf), Ok(Some(Item::Commands(_)))), "{bad:?}");
            assert!(scanner.next(&mut buf).is_err(), "{bad:?}");
            assert_eq!(scanner.position().offset, good);
        }
    }

    #[test]
    fn claimed_lengths_cost_no_memory() {
        let mut scanner = scanner();
        let mut buf = BytesMut::from(&b"*2147483647\r\n$9223372036854775807\r\n"[..]);
        assert!(!matches!(scanner.next(&mut buf), Ok(Some(_))));
        assert!(buf.capacity() < 1 << 20);
    }
}
