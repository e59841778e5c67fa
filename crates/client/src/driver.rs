//! The task behind the handles of a [`Client`](crate::Client).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use keyferry_resp::Frame;
use tokio::io::AsyncWrite as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use crate::connection::Parts;
use crate::inbound::{Doing, Inbound, Watch};
use crate::pipeline::{LARGE, PIECES, Pipeline};
use crate::{Address, Backoff, ConnectOptions, Connection, Error, Secret, ServerInfo, Transport};

/// Bytes that are gathered for one write; further commands wait until these are out.
const GATHERED: u64 = 256 * 1024;

/// Commands on their way, and who waits for the replies.
pub(crate) struct Request {
    pub(crate) wire: Wire,
    /// Replies still to come.
    pub(crate) left: usize,
    pub(crate) to: ReplyTo,
    /// Its place in the window, given back when the reply has been delivered.
    pub(crate) _permit: OwnedSemaphorePermit,
}

pub(crate) enum Wire {
    One(Bytes),
    Many(Pipeline),
    /// Its bytes are in the outbox.
    Gathered,
}

pub(crate) enum ReplyTo {
    One(oneshot::Sender<Result<Frame, Error>>),
    Many { sender: oneshot::Sender<Result<Vec<Frame>, Error>>, got: Vec<Frame> },
}

impl ReplyTo {
    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Many { sender, .. } => sender.is_closed(),
        }
    }

    /// A caller that has gone away is no failure.
    fn fail(self, error: Error) {
        match self {
            Self::One(sender) => drop(sender.send(Err(error))),
            Self::Many { sender, .. } => drop(sender.send(Err(error))),
        }
    }
}

/// What the driver tells the handles.
pub(crate) struct State {
    pub(crate) server: ServerInfo,
    pub(crate) connections: u64,
}

/// The task behind the handles.
pub(crate) struct Driver {
    pub(crate) options: ConnectOptions,
    pub(crate) backoff: Backoff,
    pub(crate) reconnect_for: Duration,
    pub(crate) requests: mpsc::UnboundedReceiver<Request>,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Driver {
    pub(crate) async fn run(mut self, first: Connection) {
        let mut connection = first;
        // A request that was taken while there was no connection.
        let mut held = None;
        loop {
            if self.serve(connection, held.take()).await.is_ok() {
                return;
            }
            // A server that has just gone away is not hammered.
            let mut pause = true;
            connection = loop {
                match self.reconnect(pause).await {
                    Ok(Some(new)) => break new,
                    Ok(None) => return,
                    Err(cause) => self.refuse_waiting(held.take(), cause),
                }
                // Whoever comes next starts a new round, at once.
                held = self.requests.recv().await;
                if held.is_none() {
                    return;
                }
                pause = false;
            };
        }
    }

    /// Tells all who wait for a connection that there is none.
    fn refuse_waiting(&mut self, held: Option<Request>, cause: Error) {
        let cause = Arc::new(cause);
        // Those who come back at once, because of this, wait for the next round.
        let count = self.requests.len();
        let waiting = std::iter::from_fn(|| self.requests.try_recv().ok()).take(count);
        for request in held.into_iter().chain(waiting) {
            let (address, cause) = (self.options.address().clone(), Arc::clone(&cause));
            request.to.fail(Error::ConnectionLost { address, sent: false, cause });
        }
    }

    /// Serves until the connection is lost (`Err`) or all handles are gone and all replies are in.
    async fn serve(&mut self, connection: Connection, held: Option<Request>) -> Result<(), Lost> {
        let Parts { transport, inbound, address, password, read_timeout, write_timeout } =
            connection.into_driver_parts();
        let mut link = Link {
            transport,
            inbound,
            address,
            password,
            read_timeout,
            write_timeout,
            watch: Watch::new(),
            outbox: Outbox::default(),
            flushed: true,
            waiting: VecDeque::new(),
            closing: false,
        };
        if let Some(request) = held {
            link.gather(request);
        }
        let outcome = poll_fn(|cx| link.poll(cx, &mut self.requests, &mut self.backoff)).await;
        outcome.map_err(|cause| link.lose(cause))
    }

    /// Connects again. `Ok(None)` when there is nobody left to do it for.
    async fn reconnect(&mut self, mut pause: bool) -> Result<Option<Connection>, Error> {
        let end = Instant::now().checked_add(self.reconnect_for);
        loop {
            if pause {
                tokio::time::sleep(self.backoff.next_delay()).await;
            }
            if self.requests.is_closed() && self.requests.is_empty() {
                return Ok(None);
            }
            match Connection::connect(&self.options).await {
                Ok(connection) => {
                    let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.server = connection.server().clone();
                    state.connections += 1;
                    return Ok(Some(connection));
                }
                Err(error) if error.is_retryable() && end.is_none_or(|end| Instant::now() < end) => {
                    pause = true
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The connection is no more, and all who waited for replies know it.
struct Lost;

/// One connection in service.
struct Link {
    transport: Transport,
    inbound: Inbound,
    address: Address,
    password: Option<Secret>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    watch: Watch,
    outbox: Outbox,
    flushed: bool,
    /// Requests whose replies are due, with the position in the output stream where they begin.
    waiting: VecDeque<(u64, Request)>,
    /// No handle is left.
    closing: bool,
}

impl Link {
    /// Moves everything that can be moved. `Ok` when there is nothing more to do, ever.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        backoff: &mut Backoff,
    ) -> Poll<Result<(), Error>> {
        loop {
            let mut moved = false;
            while !self.closing && self.outbox.len() < GATHERED {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(request)) => {
                        self.gather(request);
                        moved = true;
                    }
                    Poll::Ready(None) => self.closing = true,
                    Poll::Pending => break,
                }
            }
            moved |= self.poll_output(cx)?;
            match self.inbound.poll_fill(&mut self.transport, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.doing().closed(&self.address))),
                Poll::Ready(Ok(_)) => {
                    moved = true;
                    if self.deliver()? {
                        // Not before a reply: a server that takes connections only to drop them is not well.
                        backoff.reset();
                    }
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.doing().failed(&self.address, error)));
                }
                Poll::Pending => {}
            }
            if self.closing && self.waiting.is_empty() && self.outbox.len() == 0 {
                return Poll::Ready(Ok(()));
            }
            if moved {
                self.watch.moved();
                continue;
            }
            let limit = match (self.waiting.is_empty(), self.outbox.len()) {
                (true, _) => None,
                (false, 0) => self.read_timeout,
                (false, _) => self.write_timeout,
            };
            return self.watch.poll(limit, cx).map(|after| Err(self.doing().timeout(&self.address, after)));
        }
    }

    /// Puts a request in line, unless its caller has gone away.
    fn gather(&mut self, mut request: Request) {
        if request.to.is_closed() {
            return;
        }
        let start = self.outbox.gathered;
        match std::mem::replace(&mut request.wire, Wire::Gathered) {
            Wire::One(wire) => self.outbox.push(wire),
            Wire::Many(pipeline) => pipeline.into_pieces(|piece| self.outbox.push(piece)),
            Wire::Gathered => {}
        }
        self.waiting.push_back((start, request));
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let outcome = if self.outbox.len() > 0 {
            self.flushed = false;
            self.outbox.poll_write(&mut self.transport, cx)
        } else if !self.flushed {
            Pin::new(&mut self.transport).poll_flush(cx).map_ok(|()| self.flushed = true)
        } else {
            return Ok(false);
        };
        match outcome {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(self.doing().failed(&self.address, error)),
            Poll::Pending => Ok(false),
        }
    }

    /// Gives the replies that have arrived to those who wait for them.
    fn deliver(&mut self) -> Result<bool, Error> {
        let mut delivered = false;
        let doing = Doing::Pipeline(self.waiting.len());
        while let Some(frame) = self.inbound.decode_reply(&self.address, doing)? {
            let Some((_, request)) = self.waiting.front_mut() else {
                // Servers do this when they are about to close the connection.
                return Err(match frame.error() {
                    Some(text) => Error::from_reply(&self.address, "nothing", text, self.password.as_ref()),
                    None => Error::unexpected(&self.address, "nothing", "silence", &frame),
                });
            };
            delivered = true;
            request.left -= 1;
            if let ReplyTo::Many { got, .. } = &mut request.to {
                got.push(frame);
                if request.left > 0 {
                    continue;
                }
                if let Some((_, Request { to: ReplyTo::Many { sender, got }, .. })) = self.waiting.pop_front()
                {
                    drop(sender.send(Ok(got)));
                }
            } else if let Some((_, Request { to: ReplyTo::One(sender), .. })) = self.waiting.pop_front() {
                drop(sender.send(Ok(frame)));
            }
        }
        // Nobody can ask for pushes here.
        while self.inbound.take_push().is_some() {}
        Ok(delivered)
    }

    /// Fails everything under way.
    fn lose(self, cause: Error) -> Lost {
        let cause = Arc::new(cause);
        let written = self.outbox.gathered - self.outbox.len();
        for (start, request) in self.waiting {
            let (address, cause) = (self.address.clone(), Arc::clone(&cause));
            request.to.fail(Error::ConnectionLost { address, sent: start < written, cause });
        }
        Lost
    }

    fn doing(&self) -> Doing<'static> {
        Doing::Pipeline(self.waiting.len())
    }
}

/// Bytes to be written, in order: the pieces, then the tail.
#[derive(Default)]
struct Outbox {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    len: u64,
    /// Everything that ever went in; the position in the output stream where the next byte will stand.
    gathered: u64,
}

impl Outbox {
    /// Bytes not yet written.
    fn len(&self) -> u64 {
        self.len
    }

    fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len() as u64;
        self.gathered += bytes.len() as u64;
        if bytes.len() < LARGE {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.pieces.push_back(bytes);
    }

    /// Writes some of it, in one system call. Not to be called when empty.
    fn poll_write(&mut self, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let parts = self.pieces.iter().map(AsRef::as_ref).chain([self.tail.as_ref()]);
        let count = slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count();
        let mut written = ready!(Pin::new(transport).poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.len -= written as u64;
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                return Poll::Ready(Ok(()));
            }
            written -= first.len();
            self.pieces.pop_front();
        }
        self.tail.advance(written);
        Poll::Ready(Ok(()))
    }
}
