//! The two directions of a connection, each on its own.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use keyferry_resp::Frame;
use tokio::io::AsyncWrite as _;

use crate::inbound::{Doing, Inbound, Watch, poll_read};
use crate::transport::{ReadHalf, WriteHalf};
use crate::{Address, Error};

/// The direction to the server. Bytes go out as they are given: whole commands, in any number and in any cut.
///
/// # Cancellation
///
/// A write that is dropped half-way, times out or fails may have sent a part of its bytes; every later write
/// fails with [`Error::OutOfStep`].
#[derive(Debug)]
pub struct Sender {
    half: WriteHalf,
    address: Address,
    timeout: Option<Duration>,
    watch: Watch,
    midway: bool,
}

impl Sender {
    pub(crate) fn new(half: WriteHalf, address: Address, timeout: Option<Duration>) -> Self {
        Self { half, address, timeout, watch: Watch::new(), midway: false }
    }

    /// Sends all of `bytes`, without copying them. The write timeout counts from the last byte that the system
    /// took. Over TLS the end of the bytes may wait for [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Io`], [`Error::OutOfStep`].
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut left = bytes;
        self.drive(|writer, cx| {
            if left.is_empty() {
                return Poll::Ready(Ok(Step::Done));
            }
            let count = ready!(Pin::new(writer).poll_write(cx, left))?;
            left = &left[count..];
            Poll::Ready(if count == 0 { Err(ErrorKind::WriteZero.into()) } else { Ok(Step::Moved) })
        })
        .await
    }

    /// Sends all of `slices`, without copying them, in as few system calls as possible. The slices are advanced
    /// over what was written. Over TLS the end of the bytes may wait for [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// As [`write_all`](Self::write_all).
    pub async fn write_vectored(&mut self, slices: &mut [IoSlice<'_>]) -> Result<(), Error> {
        let mut left = slices;
        // Takes away empty slices in front: writing those alone looks like a peer that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        self.drive(|writer, cx| {
            if left.is_empty() {
                return Poll::Ready(Ok(Step::Done));
            }
            let count = ready!(Pin::new(writer).poll_write_vectored(cx, left))?;
            IoSlice::advance_slices(&mut left, count);
            Poll::Ready(if count == 0 { Err(ErrorKind::WriteZero.into()) } else { Ok(Step::Moved) })
        })
        .await
    }

    /// Makes sure that everything written is on its way. Only TLS holds anything back.
    ///
    /// # Errors
    ///
    /// As [`write_all`](Self::write_all).
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.drive(|writer, cx| Pin::new(writer).poll_flush(cx).map_ok(|()| Step::Done)).await
    }

    /// Tells the server that nothing more will come.
    ///
    /// # Errors
    ///
    /// As [`write_all`](Self::write_all).
    pub async fn shutdown(&mut self) -> Result<(), Error> {
        self.drive(|writer, cx| Pin::new(writer).poll_shutdown(cx).map_ok(|()| Step::Done)).await
    }

    /// Where the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sets how long the server may refuse to take more bytes; `None` waits for ever.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Repeats `step` until it is done, as long as something moves.
    async fn drive(
        &mut self,
        mut step: impl FnMut(&mut WriteHalf, &mut Context<'_>) -> Poll<io::Result<Step>>,
    ) -> Result<(), Error> {
        if self.midway {
            return Err(Error::OutOfStep { address: self.address.clone() });
        }
        self.midway = true;
        self.watch.moved();
        poll_fn(|cx| {
            loop {
                match step(&mut self.half, cx) {
                    Poll::Ready(Ok(Step::Done)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(Step::Moved)) => self.watch.moved(),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Doing::Sending.failed(&self.address, error)));
                    }
                    Poll::Pending => {
                        let after = ready!(self.watch.poll(self.timeout, cx));
                        return Poll::Ready(Err(Doing::Sending.timeout(&self.address, after)));
                    }
                }
            }
        })
        .await?;
        self.midway = false;
        Ok(())
    }
}

enum Step {
    Moved,
    Done,
}

/// The direction from the server: replies in order, or raw bytes.
///
/// # Cancellation
///
/// Dropping a future of any method loses nothing, and a timeout leaves the receiver usable.
pub struct Receiver {
    half: ReadHalf,
    inbound: Inbound,
    address: Address,
    timeout: Option<Duration>,
    watch: Watch,
}

impl Receiver {
    pub(crate) fn new(half: ReadHalf, inbound: Inbound, address: Address, timeout: Option<Duration>) -> Self {
        Self { half, inbound, address, timeout, watch: Watch::new() }
    }

    /// The next reply; error replies are frames like any other. Pushes are put aside for
    /// [`take_push`](Self::take_push).
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after so long a silence, [`Error::Closed`], [`Error::Io`], [`Error::Protocol`].
    pub async fn next(&mut self) -> Result<Frame, Error> {
        self.watch.moved();
        poll_fn(|cx| {
            loop {
                if let Some(frame) = self.inbound.decode_reply(&self.address, Doing::Receiving)? {
                    return Poll::Ready(Ok(frame));
                }
                ready!(self.poll_fill(cx))?;
            }
        })
        .await
    }

    /// The next reply if it has arrived completely, without any I/O: call it until it gives `None`, then wait in
    /// [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`].
    pub fn next_ready(&mut self) -> Result<Option<Frame>, Error> {
        self.inbound.decode_reply(&self.address, Doing::Receiving)
    }

    /// Appends raw bytes to `buffer`, first those read ahead, and gives their number, which is never 0.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Closed`], [`Error::Io`]; [`Error::OutOfStep`] when a reply is half read: a
    /// [`next`](Self::next) was given up, or [`next_ready`](Self::next_ready) met the beginning of one.
    pub async fn read_some(&mut self, buffer: &mut BytesMut) -> Result<usize, Error> {
        if self.inbound.is_mid_frame() {
            return Err(Error::OutOfStep { address: self.address.clone() });
        }
        let ahead = self.inbound.buffer.len();
        if ahead > 0 {
            if buffer.is_empty() {
                std::mem::swap(buffer, &mut self.inbound.buffer);
            } else {
                buffer.extend_from_slice(&self.inbound.buffer);
                self.inbound.buffer.clear();
            }
            return Ok(ahead);
        }
        self.watch.moved();
        poll_fn(|cx| {
            let outcome = poll_read(&mut self.half, buffer, cx);
            self.settle(outcome, cx)
        })
        .await
    }

    /// A push that arrived among the replies, oldest first (RESP3). At most 1024 are kept.
    pub fn take_push(&mut self) -> Option<Frame> {
        self.inbound.take_push()
    }

    /// How many pushes were lost because more than 1024 had been kept.
    pub fn pushes_dropped(&self) -> u64 {
        self.inbound.pushes_dropped()
    }

    /// Where the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sets how long the server may stay silent in one call; `None` waits for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        let outcome = self.inbound.poll_fill(&mut self.half, cx);
        self.settle(outcome, cx)
    }

    /// What a read means, the clock considered.
    fn settle(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        match outcome {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(Doing::Receiving.closed(&self.address))),
            Poll::Ready(Ok(count)) => {
                self.watch.moved();
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Doing::Receiving.failed(&self.address, error))),
            Poll::Pending => {
                let after = ready!(self.watch.poll(self.timeout, cx));
                Poll::Ready(Err(Doing::Receiving.timeout(&self.address, after)))
            }
        }
    }
}

// By hand: the buffer holds data.
impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}
