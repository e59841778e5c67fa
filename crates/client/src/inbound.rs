//! The receiving side of a connection, the clock that watches over it, and the names of what it does.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use keyferry_resp::{Decoder, Frame, Limits};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, Sleep};

use crate::{Address, Error, tls};

/// Room made for one read, in bytes.
pub(crate) const READ_SIZE: usize = 64 * 1024;
/// Pushes that are kept for whoever asks; beyond it the oldest go.
pub(crate) const HELD_PUSHES: usize = 1_024;

/// Bytes that have arrived, and the frames in them.
pub(crate) struct Inbound {
    pub(crate) buffer: BytesMut,
    /// How many bytes were skimmed when that was last done.
    pub(crate) skimmed: usize,
    decoder: Decoder,
    pushes: VecDeque<Frame>,
    pushes_dropped: u64,
}

impl Inbound {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            buffer: BytesMut::new(),
            skimmed: 0,
            decoder: Decoder::with_limits(limits),
            pushes: VecDeque::new(),
            pushes_dropped: 0,
        }
    }

    /// The next reply among the bytes that have arrived. Pushes on the way to it are put aside.
    pub(crate) fn decode_reply(
        &mut self,
        address: &Address,
        doing: Doing<'_>,
    ) -> Result<Option<Frame>, Error> {
        while let Some(frame) = self.decode(address, doing)? {
            if !frame.is_push() {
                return Ok(Some(frame));
            }
            self.hold(frame);
        }
        Ok(None)
    }

    /// The next frame of any kind among the bytes that have arrived.
    pub(crate) fn decode(&mut self, address: &Address, doing: Doing<'_>) -> Result<Option<Frame>, Error> {
        match self.decoder.decode(&mut self.buffer) {
            Ok(frame) => Ok(frame),
            Err(source) => Err(not_resp(address, doing, source)),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        *self.decoder.limits()
    }

    /// Whether the bytes that have arrived end inside a frame that was begun.
    pub(crate) fn is_mid_frame(&self) -> bool {
        self.decoder.is_mid_frame()
    }

    pub(crate) fn take_push(&mut self) -> Option<Frame> {
        self.pushes.pop_front()
    }

    pub(crate) fn pushes_dropped(&self) -> u64 {
        self.pushes_dropped
    }

    fn hold(&mut self, push: Frame) {
        if self.pushes.len() == HELD_PUSHES {
            self.pushes.pop_front();
            self.pushes_dropped += 1;
        }
        self.pushes.push_back(push);
    }

    /// Reads what is there. `Ok(0)` is the end of the stream.
    pub(crate) fn poll_fill<R>(&mut self, reader: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        poll_read(reader, &mut self.buffer, cx)
    }
}

/// Reads what is there to the end of `buffer`. `Ok(0)` is the end of the stream.
pub(crate) fn poll_read<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // Enough room to make a system call worth while; `reserve` reuses the memory of frames that are gone.
    if buffer.capacity() - buffer.len() < READ_SIZE / 4 {
        buffer.reserve(READ_SIZE);
    }
    pin!(reader.read_buf(buffer)).poll(cx)
}

/// Notices that nothing moves. One timer serves the whole life of a connection.
#[derive(Debug)]
pub(crate) struct Watch {
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { last: Instant::now(), timer: None }
    }

    /// Something moved, or an exchange begins.
    pub(crate) fn moved(&mut self) {
        self.last = Instant::now();
    }

    /// Ready with `limit` when nothing has moved for that long.
    pub(crate) fn poll(&mut self, limit: Option<Duration>, cx: &mut Context<'_>) -> Poll<Duration> {
        // A limit beyond what the clock can express is none.
        let Some((limit, deadline)) = limit.and_then(|limit| Some((limit, self.last.checked_add(limit)?)))
        else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        // An early alarm costs one look at the clock; a late one would be a missed timeout.
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(limit);
            }
            timer.as_mut().reset(deadline);
        }
    }
}

/// What a connection is doing, for error messages. It costs nothing until it is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doing<'a> {
    Greeting,
    /// The encoded command whose reply is due.
    Command(&'a [u8]),
    /// A pipeline of so many commands.
    Pipeline(usize),
    Sending,
    Receiving,
}

impl fmt::Display for Doing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greeting => f.write_str("greeting it"),
            Self::Command(wire) => write!(f, "{} was under way", command_name(wire)),
            Self::Pipeline(count) => write!(f, "a pipeline of {count} commands was under way"),
            Self::Sending => f.write_str("sending to it"),
            Self::Receiving => f.write_str("receiving from it"),
        }
    }
}

impl Doing<'_> {
    pub(crate) fn timeout(self, address: &Address, after: Duration) -> Error {
        Error::Timeout { address: address.clone(), doing: self.to_string(), after }
    }

    pub(crate) fn closed(self, address: &Address) -> Error {
        let hint = match self {
            Self::Greeting => ": if this is a port with TLS use rediss://, else see the log of the server",
            _ => "",
        };
        Error::Closed { address: address.clone(), doing: self.to_string(), hint }
    }

    /// Sorts out what an I/O error means.
    pub(crate) fn failed(self, address: &Address, source: io::Error) -> Error {
        if let Some(error) = tls::explain(address, &source) {
            return error;
        }
        use io::ErrorKind as Kind;
        match (source.kind(), self) {
            // TLS reports a connection closed without ceremony like this.
            (Kind::UnexpectedEof, _) => return self.closed(address),
            // A server that closes at once has not read what was sent to it.
            (Kind::ConnectionReset | Kind::BrokenPipe | Kind::ConnectionAborted, Self::Greeting) => {
                return self.closed(address);
            }
            _ => {}
        }
        Error::Io { address: address.clone(), doing: self.to_string(), source }
    }
}

/// The name of an encoded command (`*n`, `$n`, name), for messages.
pub(crate) fn command_name(wire: &[u8]) -> String {
    let name = wire.split(|&byte| byte == b'\n').nth(2).unwrap_or(wire);
    let name = name.strip_suffix(b"\r").unwrap_or(name);
    crate::error::printable(&name[..name.len().min(64)])
}

pub(crate) fn not_resp(address: &Address, doing: Doing<'_>, source: keyferry_resp::DecodeError) -> Error {
    // A TLS record of type alert (21): the answer of a TLS port to plain text (RFC 8446, 5.1).
    if matches!(source, keyferry_resp::DecodeError::UnknownType { offset: 0, byte: 0x15 }) {
        return Error::Tls {
            address: address.clone(),
            reason: "it answers plain text with a TLS alert".to_owned(),
            advice: "this port wants TLS: use rediss://",
        };
    }
    Error::Protocol { address: address.clone(), doing: doing.to_string(), source }
}
