//! One connection shared by many tasks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use keyferry_resp::Frame;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::driver::{Driver, ReplyTo, Request, State, Wire};
use crate::inbound::command_name;
use crate::pipeline::{Batch, refusal};
use crate::{Address, Backoff, ConnectOptions, Connection, Error, Secret, ServerInfo};

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    window: usize,
    window_bytes: usize,
    backoff: Backoff,
    reconnect_for: Duration,
}

impl ClientOptions {
    /// The defaults, as the setters say.
    pub fn new() -> Self {
        Self {
            window: 10_000,
            window_bytes: 64 << 20,
            backoff: Backoff::default(),
            reconnect_for: Duration::from_secs(60),
        }
    }

    /// How many commands may be under way or queued before a caller has to wait. Default 10,000; at least 1.
    #[must_use]
    pub fn window(mut self, commands: usize) -> Self {
        self.window = commands.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        self
    }

    /// How many bytes of commands may be under way or queued before a caller has to wait. Default 64 MiB. A
    /// single command above it is let through alone.
    #[must_use]
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes.max(1);
        self
    }

    /// The delays between attempts to reconnect. Default: [`Backoff::default`].
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long commands wait for a lost connection to come back before they fail. Default 60 s. Later commands
    /// make a new round of attempts.
    #[must_use]
    pub fn reconnect_for(mut self, time: Duration) -> Self {
        self.reconnect_for = time;
        self
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A handle to one connection that any number of tasks share by cloning it.
///
/// Commands of all tasks go out back to back and each gets its own reply. The number and the bytes of commands
/// under way are bounded ([`ClientOptions`]): callers beyond the bound wait for their turn.
///
/// # When the connection is lost
///
/// It is made anew, with jittered back-off. Every command that was under way fails with
/// [`Error::ConnectionLost`], which says whether any byte of it had been sent. **No command is ever sent
/// twice**: what may have been executed is for the caller to judge. Commands that come while there is no
/// connection wait for the next one, up to [`ClientOptions::reconnect_for`].
///
/// # What cannot be sent
///
/// Commands that change the state of the connection for all (`SELECT`, `AUTH`, `SUBSCRIBE`, `MONITOR`, …) are
/// refused; a transaction must be one [`pipeline`](Self::pipeline). Blocking commands (`BLPOP`) are possible, but
/// everybody waits with them.
///
/// # Cancellation
///
/// Dropping a call whose command is still queued takes it back; after that the command is executed and its reply
/// thrown away. Other calls are not touched. When the last handle is dropped, the commands under way are
/// completed and the connection is closed.
///
/// ```no_run
/// # async fn example() -> Result<(), keyferry_client::Error> {
/// use keyferry_client::{Client, ClientOptions, ConnectOptions};
///
/// let options = ConnectOptions::from_url("redis://localhost")?;
/// let client = Client::connect(&options, ClientOptions::new()).await?;
/// let tasks: Vec<_> = (0..100)
///     .map(|n| {
///         let client = client.clone();
///         tokio::spawn(async move { client.call(["INCRBY", "sum", &n.to_string()]).await })
///     })
///     .collect();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    requests: mpsc::UnboundedSender<Request>,
    window: Arc<Semaphore>,
    /// All permits of the window.
    permits: u32,
    /// Bytes that one permit stands for.
    bytes_per_permit: usize,
    address: Address,
    password: Option<Secret>,
    state: Arc<Mutex<State>>,
}

impl Client {
    /// Connects, and starts the task that serves the handle and its clones. To be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::connect`]: the first attempt is not repeated.
    pub async fn connect(options: &ConnectOptions, behaviour: ClientOptions) -> Result<Self, Error> {
        let first = Connection::connect(options).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State { server: first.server().clone(), connections: 1 }));
        let shared = Shared {
            requests: sender,
            window: Arc::new(Semaphore::new(behaviour.window)),
            permits: u32::try_from(behaviour.window).unwrap_or(u32::MAX),
            bytes_per_permit: behaviour.window_bytes.div_ceil(behaviour.window),
            address: options.address().clone(),
            password: options.password().cloned(),
            state: Arc::clone(&state),
        };
        let driver = Driver {
            options: options.clone(),
            backoff: behaviour.backoff,
            reconnect_for: behaviour.reconnect_for,
            requests: receiver,
            state,
        };
        tokio::spawn(driver.run(first));
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    ///
    /// [`Error::Server`] for an error reply, [`Error::ConnectionLost`], [`Error::Misuse`] for a command that
    /// cannot be sent here.
    pub async fn call<I, A>(&self, args: I) -> Result<Frame, Error>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
        A: AsRef<[u8]>,
    {
        let wire = encode(args)?;
        let reply = self.submit_wire(wire.clone()).await?.await?;
        match reply.error() {
            None => Ok(reply),
            Some(text) => {
                let shared = &self.shared;
                Err(Error::from_reply(&shared.address, &command_name(&wire), text, shared.password.as_ref()))
            }
        }
    }

    /// Sends a command and does not wait for its reply, only for room in the window. One task can so keep many
    /// commands under way; they are executed in the order of submission.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`]; what happens later is told by the [`Reply`].
    pub async fn submit<I, A>(&self, args: I) -> Result<Reply, Error>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
        A: AsRef<[u8]>,
    {
        self.submit_wire(encode(args)?).await
    }

    /// Sends commands with nothing of other tasks between them, and gives their replies in order; error replies
    /// are frames among them. `MULTI` and `EXEC` must both be in it.
    ///
    /// # Errors
    ///
    /// [`Error::ConnectionLost`]: all, some or none of the commands may have been executed if `sent` is true.
    /// [`Error::Misuse`].
    pub async fn pipeline<B: Batch + ?Sized>(&self, commands: &B) -> Result<Vec<Frame>, Error> {
        let pipeline = commands.as_pipeline();
        if let Some((command, reason)) = pipeline.refusal() {
            return Err(Error::Misuse { command: command.to_owned(), reason });
        }
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let (sender, receiver) = oneshot::channel();
        let got = Vec::with_capacity(pipeline.len().min(1_024));
        let (left, bytes) = (pipeline.len(), pipeline.byte_len());
        self.enqueue(Wire::Many(pipeline.into_owned()), left, bytes, ReplyTo::Many { sender, got }).await?;
        receiver.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// What the server said about itself when it was last connected to.
    pub fn server(&self) -> ServerInfo {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).server.clone()
    }

    /// Where the server listens.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// How many connections there have been, the present one included.
    pub fn connections(&self) -> u64 {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).connections
    }

    async fn submit_wire(&self, wire: Bytes) -> Result<Reply, Error> {
        if let Some(reason) = refusal(&wire, false) {
            return Err(Error::Misuse { command: command_name(&wire), reason });
        }
        let (sender, receiver) = oneshot::channel();
        let bytes = wire.len();
        self.enqueue(Wire::One(wire), 1, bytes, ReplyTo::One(sender)).await?;
        Ok(Reply { receiver, address: self.shared.address.clone() })
    }

    async fn enqueue(&self, wire: Wire, left: usize, bytes: usize, to: ReplyTo) -> Result<(), Error> {
        let shared = &self.shared;
        let cost = bytes.div_ceil(shared.bytes_per_permit).max(left);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).clamp(1, shared.permits);
        // Neither happens while a handle lives, but for a runtime that is being torn down.
        let permit = Arc::clone(&shared.window).acquire_many_owned(cost).await.map_err(|_| self.gone())?;
        let request = Request { wire, left, to, _permit: permit };
        shared.requests.send(request).map_err(|_| self.gone())
    }

    fn gone(&self) -> Error {
        gone(&self.shared.address)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

/// The reply to a command that was [submitted](Client::submit), when it comes. An error reply is a frame like any
/// other.
#[derive(Debug)]
pub struct Reply {
    receiver: oneshot::Receiver<Result<Frame, Error>>,
    address: Address,
}

impl Future for Reply {
    type Output = Result<Frame, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.receiver).poll(cx));
        Poll::Ready(outcome.unwrap_or_else(|_| Err(gone(&self.address))))
    }
}

/// The driver is no more: its runtime has been shut down.
fn gone(address: &Address) -> Error {
    let cause = Error::Closed {
        address: address.clone(),
        doing: "the runtime was being shut down".to_owned(),
        hint: "",
    };
    // Whether the command was sent is not known, so it may have been.
    Error::ConnectionLost { address: address.clone(), sent: true, cause: Arc::new(cause) }
}

fn encode<I, A>(args: I) -> Result<Bytes, Error>
where
    I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
    A: AsRef<[u8]>,
{
    let args = args.into_iter();
    if args.len() == 0 {
        return Err(Error::nameless());
    }
    let mut wire = BytesMut::new();
    keyferry_resp::encode_command(&mut wire, args);
    Ok(wire.freeze())
}
