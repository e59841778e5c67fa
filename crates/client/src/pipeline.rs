//! Several commands to be sent as one.

use std::borrow::Cow;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use keyferry_resp::{Command, encode_command};
use tokio::io::AsyncWrite;

use crate::inbound::command_name;

/// From this size on a command's bytes are referred to, not copied, in bytes.
pub(crate) const LARGE: usize = 16 * 1024;
/// Most pieces handed to one system call.
pub(crate) const PIECES: usize = 32;

/// Commands that are sent back to back and answered with as many replies.
///
/// Nothing comes between them, not even on a [`Client`](crate::Client) that others use too, so `MULTI … EXEC`
/// belongs in one pipeline.
///
/// ```
/// use keyferry_client::Pipeline;
///
/// let mut pipeline = Pipeline::new();
/// pipeline.push(["MULTI"]);
/// pipeline.push(["INCR", "visits"]).push(["EXPIRE", "visits", "60"]);
/// pipeline.push(["EXEC"]);
/// assert_eq!(pipeline.len(), 4);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// Pieces in order; `tail` comes after them.
    pieces: Vec<Bytes>,
    tail: BytesMut,
    commands: usize,
    bytes: usize,
    /// The first command that a shared connection refuses, and why.
    refusal: Option<(String, &'static str)>,
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a command given as its arguments, the name first. Without any argument nothing is added: servers
    /// do not answer an empty command.
    pub fn push<I, A>(&mut self, args: I) -> &mut Self
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
        A: AsRef<[u8]>,
    {
        let args = args.into_iter();
        if args.len() > 0 {
            let before = self.tail.len();
            encode_command(&mut self.tail, args);
            note(&mut self.refusal, &self.tail[before..]);
            self.bytes += self.tail.len() - before;
            self.commands += 1;
        }
        self
    }

    /// Adds a command as it is, byte for byte. A large one is not copied.
    pub fn push_command(&mut self, command: &Command) -> &mut Self {
        let raw = command.raw();
        note(&mut self.refusal, raw);
        if raw.len() >= LARGE {
            if !self.tail.is_empty() {
                self.pieces.push(self.tail.split().freeze());
            }
            self.pieces.push(raw.clone());
        } else {
            self.tail.extend_from_slice(raw);
        }
        self.bytes += raw.len();
        self.commands += 1;
        self
    }

    /// How many commands there are.
    pub fn len(&self) -> usize {
        self.commands
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// How many bytes they are on the wire.
    pub fn byte_len(&self) -> usize {
        self.bytes
    }

    /// Empties it, keeping memory for the next use.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.tail.clear();
        self.commands = 0;
        self.bytes = 0;
        self.refusal = None;
    }

    pub(crate) fn refusal(&self) -> Option<(&str, &'static str)> {
        self.refusal.as_ref().map(|(name, reason)| (name.as_str(), *reason))
    }

    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        Outgoing { pieces: &self.pieces, tail: &self.tail, offset: 0 }
    }

    /// Hands all bytes over to `out` in order, large pieces without a copy.
    pub(crate) fn into_pieces(mut self, mut out: impl FnMut(Bytes)) {
        self.pieces.drain(..).for_each(&mut out);
        if !self.tail.is_empty() {
            out(self.tail.freeze());
        }
    }
}

impl<'a> FromIterator<&'a Command> for Pipeline {
    fn from_iter<I: IntoIterator<Item = &'a Command>>(commands: I) -> Self {
        let mut pipeline = Self::new();
        for command in commands {
            pipeline.push_command(command);
        }
        pipeline
    }
}

/// What can be sent as a pipeline: a [`Pipeline`], or any slice, array or vector of [`Command`]s.
pub trait Batch: sealed::Sealed {
    /// The commands as a pipeline.
    fn as_pipeline(&self) -> Cow<'_, Pipeline>;
}

mod sealed {
    use keyferry_resp::Command;

    pub trait Sealed {}
    impl Sealed for super::Pipeline {}
    impl Sealed for [Command] {}
    impl Sealed for Vec<Command> {}
    impl<const N: usize> Sealed for [Command; N] {}
}

impl Batch for Pipeline {
    fn as_pipeline(&self) -> Cow<'_, Pipeline> {
        Cow::Borrowed(self)
    }
}

impl Batch for [Command] {
    fn as_pipeline(&self) -> Cow<'_, Pipeline> {
        Cow::Owned(self.iter().collect())
    }
}

impl Batch for Vec<Command> {
    fn as_pipeline(&self) -> Cow<'_, Pipeline> {
        self.as_slice().as_pipeline()
    }
}

impl<const N: usize> Batch for [Command; N] {
    fn as_pipeline(&self) -> Cow<'_, Pipeline> {
        self.as_slice().as_pipeline()
    }
}

fn note(first: &mut Option<(String, &'static str)>, wire: &[u8]) {
    if first.is_none() {
        *first = refusal(wire, true).map(|reason| (command_name(wire), reason));
    }
}

/// Why an encoded command cannot be sent over a connection that others use too, if it cannot.
///
/// With `in_pipeline` the commands of a transaction are allowed.
pub(crate) fn refusal(wire: &[u8], in_pipeline: bool) -> Option<&'static str> {
    const OPTIONS: &str =
        "it would change the connection for all who share it; say it in the connect options";
    const PUBSUB: &str = "its replies are not one to one; use a Connection of its own with send and receive";
    const TRANSACTION: &str =
        "commands of others could come between; send the whole transaction as one pipeline";

    // `*n`, `$n`, name, `$n`, first argument: a name with a line feed in it is not one of these.
    let mut lines = wire.split(|&byte| byte == b'\n');
    let mut line = |skip: usize| lines.nth(skip).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let name = line(2)?;
    let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
    if !matches!(name.len(), 4..=12) {
        return None;
    }
    if is(&["SELECT", "AUTH", "HELLO", "RESET", "QUIT", "READONLY", "READWRITE"]) {
        Some(OPTIONS)
    } else if is(&["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"])
        || is(&["MONITOR", "SYNC", "PSYNC", "REPLCONF"])
    {
        Some(PUBSUB)
    } else if !in_pipeline && is(&["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "ASKING"]) {
        Some(TRANSACTION)
    } else if is(&["CLIENT"]) && line(1).is_some_and(|argument| argument.eq_ignore_ascii_case(b"REPLY")) {
        Some(PUBSUB)
    } else {
        None
    }
}

/// Bytes on their way out.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pieces: &'a [Bytes],
    tail: &'a [u8],
    /// Of the first piece (or of the tail, if there is no piece) so much is out.
    offset: usize,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn one(bytes: &'a [u8]) -> Self {
        Self { pieces: &[], tail: bytes, offset: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.offset == self.tail.len()
    }

    /// Writes some of it, in one system call. Not to be called when empty.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let written = if self.pieces.is_empty() {
            Pin::new(writer).poll_write(cx, &self.tail[self.offset..])
        } else {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let parts = self.pieces.iter().map(AsRef::as_ref).chain([self.tail]);
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            slices[0].advance(self.offset);
            Pin::new(writer).poll_write_vectored(cx, &slices[..count])
        };
        match written {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                self.advance(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn advance(&mut self, count: usize) {
        self.offset += count;
        while let Some((first, rest)) = self.pieces.split_first() {
            if self.offset < first.len() {
                return;
            }
            self.offset -= first.len();
            self.pieces = rest;
        }
    }
}
