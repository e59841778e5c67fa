//! One connection: connecting, greeting, commands and replies.

mod skim;

pub use skim::Skimming;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use keyferry_resp::{Frame, Protocol, encode_command};
use tokio::io::AsyncWrite as _;

use crate::dial::{Deadline, dial};
use crate::error::{is_passing, split_reply};
use crate::halves::{Receiver, Sender};
use crate::inbound::{Doing, Inbound, Watch, command_name};
use crate::pipeline::{Batch, Outgoing, Pipeline};
use crate::{Address, ConnectOptions, Error, Info, Secret, ServerInfo, Transport};

/// Output memory kept between calls, in bytes; a larger command's is given back.
const KEPT: usize = 1 << 20;

/// One connection to a server, ready for commands: connected, encrypted if asked for, authenticated, greeted,
/// its database selected.
///
/// # Cancellation
///
/// A future of [`call`](Self::call), [`pipeline`](Self::pipeline) and the like that is dropped before it is
/// done leaves replies on the way that nobody waits for. The connection notices: every later call fails with
/// [`Error::OutOfStep`] instead of taking a foreign reply for its own. The same holds after a timeout and after
/// any error but an error reply. A [`Client`](crate::Client) has no such restriction.
///
/// # Frames and memory
///
/// Strings in a reply are slices of the receive buffer. Whoever keeps a small one for long keeps the buffer
/// (64 KiB and more) alive with it; copy it then.
pub struct Connection {
    transport: Transport,
    inbound: Inbound,
    /// The command being sent; its memory is reused.
    scratch: BytesMut,
    watch: Watch,
    /// An exchange began and did not end: what arrives next belongs to it.
    midway: bool,
    address: Address,
    password: Option<Secret>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    protocol: Protocol,
    server: ServerInfo,
}

impl Connection {
    /// Connects and greets the server as `options` say.
    ///
    /// The order is TCP or Unix socket, TLS, `AUTH` if there are credentials, `HELLO`, `CLIENT SETNAME`,
    /// `SELECT`, all commands in one round trip. A server without `HELLO` (before 6.0, most proxies) is asked
    /// for `INFO` instead and speaks RESP2 whatever was asked for. That it cannot name connections is ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Resolve`], [`Error::Connect`], [`Error::ConnectTimeout`], [`Error::Tls`], [`Error::TlsSetup`],
    /// [`Error::Auth`] for refused credentials, [`Error::Server`] for other refusals (too many clients, no such
    /// database), and those of [`call`](Self::call).
    pub async fn connect(options: &ConnectOptions) -> Result<Self, Error> {
        let deadline = Deadline::start(options);
        let transport = dial(options, deadline).await?;
        let mut connection = Self::new(transport, options);
        deadline.run("authentication and greeting", connection.greet(options)).await??;
        Ok(connection)
    }

    /// Greets the server over a stream that is already there (a tunnel, a pipe in a test). Address and TLS
    /// settings of the options are not used but for messages.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), without those of reaching the server.
    pub async fn from_transport(transport: Transport, options: &ConnectOptions) -> Result<Self, Error> {
        let deadline = Deadline::start(options);
        let mut connection = Self::new(transport, options);
        deadline.run("authentication and greeting", connection.greet(options)).await??;
        Ok(connection)
    }

    fn new(transport: Transport, options: &ConnectOptions) -> Self {
        Self {
            transport,
            inbound: Inbound::new(options.limits),
            scratch: BytesMut::new(),
            watch: Watch::new(),
            midway: false,
            address: options.address.clone(),
            password: options.password.clone(),
            read_timeout: options.read_timeout,
            write_timeout: options.write_timeout,
            protocol: Protocol::Resp2,
            server: ServerInfo::default(),
        }
    }

    /// Sends a command and gives its reply. Arguments are strings or bytes, the command's name first.
    ///
    /// For commands with exactly one reply. `SUBSCRIBE`, `MONITOR`, `CLIENT REPLY` and their like are not such:
    /// use [`send`](Self::send) and [`receive`](Self::receive).
    ///
    /// # Errors
    ///
    /// An error reply becomes [`Error::Server`] or, for the access codes, [`Error::Auth`]; the connection stays
    /// usable. [`Error::Timeout`], [`Error::Closed`], [`Error::Io`] and [`Error::Protocol`] end it.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), keyferry_client::Error> {
    /// # let options = keyferry_client::ConnectOptions::tcp("localhost", 6379);
    /// let mut connection = keyferry_client::Connection::connect(&options).await?;
    /// connection.call(["SET", "greeting", "hello"]).await?;
    /// let reply = connection.call(["GET", "greeting"]).await?;
    /// assert_eq!(reply.as_str(), Some("hello"));
    /// # Ok(()) }
    /// ```
    pub async fn call<I, A>(&mut self, args: I) -> Result<Frame, Error>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
        A: AsRef<[u8]>,
    {
        let reply = self.call_frame(args).await?;
        match reply.error() {
            None => Ok(reply),
            // `scratch` still holds the command.
            Some(text) => Err(self.refused(&command_name(&self.scratch), text)),
        }
    }

    /// As [`call`](Self::call), but an error reply is a frame like any other.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call) that end the connection.
    pub async fn call_frame<I, A>(&mut self, args: I) -> Result<Frame, Error>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
        A: AsRef<[u8]>,
    {
        self.encode(args)?;
        let scratch = std::mem::take(&mut self.scratch);
        let mut reply = None;
        let outcome = self
            .exchange(Outgoing::one(&scratch), 1, Doing::Command(&scratch), |frame| reply = Some(frame))
            .await;
        self.scratch = scratch;
        outcome?;
        reply.ok_or_else(|| Doing::Receiving.closed(&self.address))
    }

    /// Sends many commands without waiting between them and gives their replies in order; error replies are
    /// frames among them.
    ///
    /// Writing and reading go on at the same time, so no amount of commands or replies can block. All replies
    /// are held in memory: send what does not fit in parts, or [`split`](Self::split) the connection.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call) that end the connection. Some commands may have been executed then.
    pub async fn pipeline<B: Batch + ?Sized>(&mut self, commands: &B) -> Result<Vec<Frame>, Error> {
        let pipeline = commands.as_pipeline();
        let count = pipeline.len();
        // The count is this program's own, but it may be large and the replies may never come.
        let mut replies = Vec::with_capacity(count.min(1_024));
        self.exchange(pipeline.outgoing(), count, Doing::Pipeline(count), |frame| replies.push(frame))
            .await?;
        Ok(replies)
    }

    /// Sends a command without waiting for anything: for commands with no reply, or many, or pushes instead.
    ///
    /// The replies there are must be [received](Self::receive) before the next [`call`](Self::call).
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call) that end the connection.
    pub async fn send<I, A>(&mut self, args: I) -> Result<(), Error>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
        A: AsRef<[u8]>,
    {
        self.encode(args)?;
        let scratch = std::mem::take(&mut self.scratch);
        let outcome = self.exchange(Outgoing::one(&scratch), 0, Doing::Sending, |_| {}).await;
        self.scratch = scratch;
        outcome
    }

    /// The next frame of any kind: first the pushes put aside, then what arrives. Waits as long as the read
    /// timeout says; see [`set_read_timeout`](Self::set_read_timeout).
    ///
    /// Dropping the future loses nothing, and a timeout leaves the connection usable.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], [`Error::Closed`], [`Error::Io`], [`Error::Protocol`].
    pub async fn receive(&mut self) -> Result<Frame, Error> {
        if let Some(push) = self.inbound.take_push() {
            return Ok(push);
        }
        if self.midway {
            return Err(self.out_of_step());
        }
        self.watch.moved();
        poll_fn(|cx| {
            loop {
                if let Some(frame) = self.inbound.decode(&self.address, Doing::Receiving)? {
                    return Poll::Ready(Ok(frame));
                }
                match self.inbound.poll_fill(&mut self.transport, cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Doing::Receiving.closed(&self.address))),
                    Poll::Ready(Ok(_)) => self.watch.moved(),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Doing::Receiving.failed(&self.address, error)));
                    }
                    Poll::Pending => {
                        return match self.watch.poll(self.read_timeout, cx) {
                            Poll::Ready(after) => {
                                Poll::Ready(Err(Doing::Receiving.timeout(&self.address, after)))
                            }
                            Poll::Pending => Poll::Pending,
                        };
                    }
                }
            }
        })
        .await
    }

    /// A push that arrived while a reply was awaited, oldest first (RESP3). At most 1024 are kept.
    pub fn take_push(&mut self) -> Option<Frame> {
        self.inbound.take_push()
    }

    /// How many pushes were lost because more than 1024 had been kept.
    pub fn pushes_dropped(&self) -> u64 {
        self.inbound.pushes_dropped()
    }

    /// `INFO` of one section (`server`, `replication`, `everything`, …), taken apart.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and [`Error::UnexpectedReply`].
    pub async fn info(&mut self, section: &str) -> Result<Info, Error> {
        let reply = self.call(["INFO", section]).await?;
        Info::from_frame(&reply).ok_or_else(|| Error::unexpected(&self.address, "INFO", "a text", &reply))
    }

    /// What the server said about itself while connecting.
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Where the server listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The protocol that is spoken: RESP2 unless RESP3 was asked for and the server knows it.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Sets how long the server may stay silent while a reply is due; `None` waits for ever. For a command
    /// that is meant to block, as `BLPOP` or `WAIT`.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// Sets how long the server may refuse to take more bytes; `None` waits for ever.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    /// The raw stream, and the bytes already read from it that no reply has used: for protocols that leave
    /// RESP, as replication does. To be called between replies.
    pub fn into_parts(self) -> (Transport, BytesMut) {
        (self.transport, self.inbound.buffer)
    }

    /// Two halves that two tasks can use at the same time, for pipelines without an end.
    pub fn split(self) -> (Sender, Receiver) {
        let (read, write) = self.transport.into_split();
        (
            Sender::new(write, self.address.clone(), self.write_timeout),
            Receiver::new(read, self.inbound, self.address, self.read_timeout),
        )
    }

    pub(crate) fn into_driver_parts(self) -> Parts {
        Parts {
            transport: self.transport,
            inbound: self.inbound,
            address: self.address,
            password: self.password,
            read_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
        }
    }

    /// Authenticates, asks who the server is, and makes the connection what the options say.
    async fn greet(&mut self, options: &ConnectOptions) -> Result<(), Error> {
        let mut batch = Pipeline::new();
        let mut steps = Vec::new();
        if options.password.is_some() || options.username.is_some() {
            let password = options.password.as_ref().map_or(&b""[..], Secret::expose);
            match &options.username {
                Some(username) => batch.push([&b"AUTH"[..], username.as_bytes(), password]),
                None => batch.push([&b"AUTH"[..], password]),
            };
            steps.push(Step::Auth);
        }
        let version = if options.protocol == Protocol::Resp3 { "3" } else { "2" };
        batch.push(["HELLO", version]);
        steps.push(Step::Hello);
        if let Some(name) = &options.client_name {
            batch.push(["CLIENT", "SETNAME", name]);
            steps.push(Step::SetName);
        }
        if options.db != 0 {
            batch.push(["SELECT".to_owned(), options.db.to_string()]);
            steps.push(Step::Select);
        }

        let mut replies = Vec::with_capacity(steps.len());
        let outcome =
            self.exchange(batch.outgoing(), steps.len(), Doing::Greeting, |frame| replies.push(frame)).await;
        let ended = outcome.is_err();
        let mut greeted = false;
        for (step, reply) in steps.iter().zip(&replies) {
            match (step, reply.error()) {
                (Step::Auth, Some(text)) if !ended && is_old_auth(options, text) => {
                    // What came after it may have been refused for want of it: once more with the old form.
                    let old = options.clone().without_username();
                    return Box::pin(self.greet(&old)).await;
                }
                (Step::Auth, Some(text)) => return Err(self.refused_access("AUTH", text)),
                (Step::Hello, None) => {
                    self.server = ServerInfo::from_hello(reply);
                    let spoken = reply.get("proto").and_then(Frame::as_i64);
                    self.protocol = if spoken == Some(3) { Protocol::Resp3 } else { Protocol::Resp2 };
                    greeted = reply.as_pairs().is_some();
                }
                // A server that says this and closes has nothing to do with HELLO.
                (Step::Hello, Some(text)) if ended || !is_unknown_hello(text) => {
                    return Err(self.refused_access("HELLO", text));
                }
                (Step::Select, Some(text)) => return Err(self.refused_access("SELECT", text)),
                _ => {}
            }
        }
        outcome?;
        if greeted { Ok(()) } else { self.ask_info().await }
    }

    /// Learns from `INFO` what a server without `HELLO` is, and whether it lets us in.
    async fn ask_info(&mut self) -> Result<(), Error> {
        let reply = self.call_frame(["INFO"]).await?;
        if let Some(text) = reply.error() {
            // Proxies refuse INFO; only a closed door counts.
            let error = self.refused_access("INFO", text);
            return if matches!(error, Error::Auth { .. }) || error.is_retryable() {
                Err(error)
            } else {
                Ok(())
            };
        }
        let info = Info::from_frame(&reply);
        let info = info.ok_or_else(|| Error::unexpected(&self.address, "INFO", "a text", &reply))?;
        self.server = ServerInfo::from_info(&info);
        Ok(())
    }

    /// One exchange: everything in `out` is written and `expected` replies are read, at the same time.
    async fn exchange(
        &mut self,
        out: Outgoing<'_>,
        expected: usize,
        doing: Doing<'_>,
        mut reply: impl FnMut(Frame),
    ) -> Result<(), Error> {
        self.exchange_by(out, expected, doing, |inbound, address, state| {
            while state.left > 0
                && let Some(frame) = inbound.decode_reply(address, doing)?
            {
                state.left -= 1;
                state.refused = frame.is_error();
                reply(frame);
            }
            Ok(())
        })
        .await
    }

    /// One exchange, of which `take` takes the replies that have arrived.
    async fn exchange_by(
        &mut self,
        mut out: Outgoing<'_>,
        expected: usize,
        doing: Doing<'_>,
        mut take: impl FnMut(&mut Inbound, &Address, &mut Exchange) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut state = self.begin(expected)?;
        poll_fn(|cx| self.poll_exchange(cx, &mut out, &mut state, doing, &mut take)).await?;
        self.end(&out);
        Ok(())
    }

    /// Begins an exchange in which so many replies come.
    fn begin(&mut self, expected: usize) -> Result<Exchange, Error> {
        if self.midway {
            return Err(self.out_of_step());
        }
        self.midway = true;
        self.watch.moved();
        Ok(Exchange { left: expected, flushed: false, write_error: None, refused: false })
    }

    /// Ends an exchange whose replies have come.
    fn end(&mut self, out: &Outgoing<'_>) {
        // After a refusal in the middle of a command the server is not listening any more.
        self.midway = !out.is_empty();
    }

    fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outgoing<'_>,
        state: &mut Exchange,
        doing: Doing<'_>,
        take: &mut impl FnMut(&mut Inbound, &Address, &mut Exchange) -> Result<(), Error>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let mut moved = false;
            // After a write error only the server's last words are of interest.
            if state.write_error.is_none() {
                let written = if !out.is_empty() {
                    state.flushed = false;
                    out.poll_write(&mut self.transport, cx)
                } else if !state.flushed {
                    Pin::new(&mut self.transport).poll_flush(cx).map_ok(|()| state.flushed = true)
                } else {
                    Poll::Pending
                };
                match written {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(error)) => {
                        state.write_error = Some(error);
                        moved = true;
                    }
                    Poll::Pending => {}
                }
            }
            take(&mut self.inbound, &self.address, state)?;
            let written = out.is_empty() && state.flushed;
            if state.left == 0 && (written || (state.refused && state.write_error.is_some())) {
                return Poll::Ready(Ok(()));
            }
            if state.left > 0 || state.write_error.is_some() {
                match self.inbound.poll_fill(&mut self.transport, cx) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(match state.write_error.take() {
                            Some(error) => doing.failed(&self.address, error),
                            None => doing.closed(&self.address),
                        }));
                    }
                    Poll::Ready(Ok(_)) => moved = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(doing.failed(&self.address, error))),
                    Poll::Pending => {}
                }
            }
            if !moved {
                let limit = if written { self.read_timeout } else { self.write_timeout };
                return match self.watch.poll(limit, cx) {
                    Poll::Ready(after) => Poll::Ready(Err(doing.timeout(&self.address, after))),
                    Poll::Pending => Poll::Pending,
                };
            }
            self.watch.moved();
        }
    }

    fn encode<I, A>(&mut self, args: I) -> Result<(), Error>
    where
        I: IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
        A: AsRef<[u8]>,
    {
        let args = args.into_iter();
        if args.len() == 0 {
            return Err(Error::nameless());
        }
        if self.scratch.capacity() > KEPT {
            self.scratch = BytesMut::new();
        }
        self.scratch.clear();
        encode_command(&mut self.scratch, args);
        Ok(())
    }

    fn out_of_step(&self) -> Error {
        Error::OutOfStep { address: self.address.clone() }
    }

    fn refused(&self, command: &str, text: &[u8]) -> Error {
        Error::from_reply(&self.address, command, text, self.password.as_ref())
    }

    /// An error reply to one of the commands of the greeting.
    fn refused_access(&self, command: &str, text: &[u8]) -> Error {
        // `unknown command 'AUTH', with args beginning with: …`: the arguments may be cut or altered, so that
        // the password in them would not be found.
        let args = text.windows(9).position(|part| part == b"with args").unwrap_or(text.len());
        match self.refused(command, &text[..args]) {
            Error::Server { address, command, code, message }
                if code == "NOPERM" || (command == "AUTH" && !is_passing(&code, &message)) =>
            {
                Error::Auth { address, code, message }
            }
            other => other,
        }
    }
}

// By hand: the buffers hold data, and may hold a password.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.address)
            .field("protocol", &self.protocol)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// What a [`Client`](crate::Client) takes over.
pub(crate) struct Parts {
    pub(crate) transport: Transport,
    pub(crate) inbound: Inbound,
    pub(crate) address: Address,
    pub(crate) password: Option<Secret>,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
}

/// The state of one exchange.
struct Exchange {
    /// Replies still to come.
    left: usize,
    flushed: bool,
    write_error: Option<std::io::Error>,
    /// The last reply was an error.
    refused: bool,
}

/// The commands of the greeting.
enum Step {
    Auth,
    Hello,
    SetName,
    Select,
}

/// Whether a server before 6.0, which knows only the password, was given the user name `default`: from 6.0 on that
/// is the name of the same access.
fn is_old_auth(options: &ConnectOptions, text: &[u8]) -> bool {
    options.username.as_deref() == Some("default") && text.starts_with(b"ERR wrong number of arguments")
}

/// Whether this answer to `HELLO` means that the server does not know it, or not the version asked for.
fn is_unknown_hello(text: &[u8]) -> bool {
    let (code, message) = split_reply(text);
    !matches!(code.as_str(), "NOAUTH" | "WRONGPASS" | "DENIED") && !is_passing(&code, &message)
}
