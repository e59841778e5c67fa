//! One replication link: a socket around the state machines of this crate.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use keyferry_client::{ConnectOptions, Connection, ReadHalf, ServerInfo, Transport, Vendor};
use keyferry_resp::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::{
    ack::{AckPolicy, AckTask, Acks},
    error::{Doing, Error},
    handshake::{Handshake, HandshakeFailure, HandshakeOptions, SyncReply},
    position::{Position, ReplicationId},
    silence::Silence,
    snapshot::{FramingFault, Piece, SnapshotFraming, Transfer},
    stream::{Batch, Item, StreamScanner},
};

/// What `REPLCONF version` announces to Valkey, so that Valkey 9.1 sends hash-field expiries instead of failing
/// half-way (`replication.md` §5).
const ANNOUNCED_VERSION: &str = "9.1.0";

/// How much room a read is given.
const READ_SIZE: usize = 256 * 1024;

/// How a link behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LinkOptions {
    /// Lets the server stream its snapshot without writing it to its own disk (default). Servers then wait
    /// `repl-diskless-sync-delay` (5 s by default since 7.0) before they begin.
    pub diskless: bool,
    /// Which offset the server is told.
    pub acks: AckPolicy,
    /// Silence after which a link counts as dead. Servers ping every 10 s by default and send a newline a second
    /// while they prepare a snapshot. Time in which this program was suspended does not count. Default 60 s, as `repl-timeout`.
    pub silence: Duration,
    /// The name of `PSYNC`, where it was renamed.
    pub psync_command: String,
    /// The name of `REPLCONF`, where it was renamed.
    pub replconf_command: String,
    /// Asks by `SYNC`, see [`HandshakeOptions::sync`]. A link that is lost begins from the start. Nothing is acknowledged.
    pub sync: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        let names = HandshakeOptions::default();
        LinkOptions {
            diskless: true,
            acks: AckPolicy::default(),
            silence: Duration::from_secs(60),
            psync_command: names.psync_command,
            replconf_command: names.replconf_command,
            sync: names.sync,
        }
    }
}

/// A replication link after its handshake.
///
/// Call [`Link::snapshot_chunk`] until it gives `None` (at once, after a partial sync), then
/// [`Link::next_batch`] for ever. Acknowledgements are sent by a task of their own, so a slow caller does not
/// lose the link; but the server buffers what is not read, up to its `client-output-buffer-limit replica`, so
/// read at once and keep the bytes elsewhere. Must be used inside a tokio runtime.
#[derive(Debug)]
pub struct Link {
    address: String,
    server: ServerInfo,
    reader: ReadHalf,
    buf: BytesMut,
    silence: Silence,
    reply: SyncReply,
    framing: Option<SnapshotFraming>,
    transfer: Option<Transfer>,
    scanner: StreamScanner,
    acks: Acks,
    sync: bool,
    _ack_task: AckTask,
}

impl Link {
    /// Connects, authenticates and asks to go on after `resume`, or for everything.
    ///
    /// # Errors
    /// When the connection or the handshake fails; see [`Error`].
    pub async fn connect(
        connect: &ConnectOptions,
        options: &LinkOptions,
        resume: Option<&Position>,
    ) -> Result<Self, Error> {
        // Replication speaks RESP2, of all databases.
        let connect = connect.clone().with_protocol(Protocol::Resp2).with_db(0);
        let connection = Connection::connect(&connect).await?;
        let address = connection.address().to_string();
        let server = connection.server().clone();
        let handshake = Handshake::new(HandshakeOptions {
            resume: resume.cloned(),
            diskless: options.diskless,
            announce_version: (server.vendor == Vendor::Valkey).then(|| ANNOUNCED_VERSION.to_owned()),
            psync_command: options.psync_command.clone(),
            replconf_command: options.replconf_command.clone(),
            sync: options.sync,
        });
        let (mut transport, mut buf) = connection.into_parts();
        let reply = shake_hands(handshake, &mut transport, &mut buf, &address, options.silence).await?;
        let (position, framing) = match (&reply, resume) {
            (SyncReply::Full { id, offset }, _) => {
                (Position::after_snapshot(*id, *offset), Some(SnapshotFraming::new()))
            }
            (SyncReply::Snapshot { id }, _) => {
                (Position::after_snapshot(*id, 0), Some(SnapshotFraming::new()))
            }
            (SyncReply::Continue { id }, Some(resume)) => {
                let mut position = resume.clone();
                position.id = id.unwrap_or(position.id);
                (position, None)
            }
            // Nothing to continue was asked for.
            (SyncReply::Continue { .. }, None) => {
                let (command, reply) = (options.psync_command.clone(), "+CONTINUE".to_owned());
                return Err(Error::UnexpectedReply { address, command, reply });
            }
        };
        let (reader, writer) = transport.into_split();
        let acks = Acks::new(options.acks, position.offset, framing.is_none());
        let ack_task = acks.spawn(writer);
        if framing.is_none() {
            acks.send_now();
        }
        Ok(Link {
            address,
            server,
            reader,
            buf,
            silence: Silence::new(options.silence, Instant::now()),
            sync: options.sync,
            reply,
            framing,
            transfer: None,
            scanner: StreamScanner::new(position),
            acks,
            _ack_task: ack_task,
        })
    }

    /// How the server answered.
    #[must_use]
    pub fn reply(&self) -> &SyncReply {
        &self.reply
    }

    /// The server, as the URL names it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the server said about itself.
    #[must_use]
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// The history's id.
    #[must_use]
    pub fn id(&self) -> ReplicationId {
        self.scanner.position().id
    }

    /// Everything up to here has been given to the caller.
    #[must_use]
    pub fn position(&self) -> &Position {
        self.scanner.position()
    }

    /// The link's acknowledgements, for [`AckPolicy::Applied`].
    #[must_use]
    pub fn acks(&self) -> Acks {
        self.acks.clone()
    }

    /// How the snapshot is delimited, once its header has come.
    #[must_use]
    pub fn transfer(&self) -> Option<Transfer> {
        self.transfer
    }

    /// Bytes of the snapshot given out so far.
    #[must_use]
    pub fn snapshot_received(&self) -> u64 {
        self.framing.as_ref().map_or(0, SnapshotFraming::received)
    }

    /// The next bytes of the snapshot (an RDB file), or `None` when it is complete.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the link breaks before the end, or the server fails to produce the snapshot. There is no going on
    /// in the middle of a snapshot: it has to be asked for anew.
    pub async fn snapshot_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(progress) = self.next_of_snapshot(usize::MAX)? {
                return Ok(progress);
            }
            self.read(self.doing(), None).await?;
        }
    }

    /// The same into `space`, which is spared a copy where it is larger than a few bytes: how many, from its front; 0 when
    /// the snapshot is complete, or there is no space.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`snapshot_chunk`](Self::snapshot_chunk).
    pub async fn read_snapshot(&mut self, space: &mut [u8]) -> Result<usize, Error> {
        if space.is_empty() {
            return Ok(0);
        }
        loop {
            let fills = self.framing.as_ref().map_or(0, |framing| framing.fills(&self.buf, space.len()));
            if fills > 0 {
                // Bytes that may begin the mark were held back.
                let held = self.buf.len();
                space[..held].copy_from_slice(&self.buf);
                let n = held + self.read(self.doing(), Some(&mut space[held..fills])).await?;
                self.buf.clear();
                let Some(framing) = &mut self.framing else { return Ok(0) };
                match framing.take_filled(&space[..n], &mut self.buf) {
                    0 => {}
                    given => return Ok(given),
                }
                continue;
            }
            match self.next_of_snapshot(space.len())? {
                Some(Some(bytes)) => {
                    space[..bytes.len()].copy_from_slice(&bytes);
                    return Ok(bytes.len());
                }
                Some(None) => return Ok(0),
                None => _ = self.read(self.doing(), None).await?,
            }
        }
    }

    /// What is received already of the snapshot, but at most so much; `Some(None)` at its end.
    fn next_of_snapshot(&mut self, most: usize) -> Result<Option<Option<Bytes>>, Error> {
        loop {
            let Some(framing) = self.framing.as_mut() else { return Ok(Some(None)) };
            match framing.next_up_to(&mut self.buf, most) {
                Ok(Some(Piece::Start(transfer))) => self.transfer = Some(transfer),
                Ok(Some(Piece::Data(bytes))) => return Ok(Some(Some(bytes))),
                Ok(Some(Piece::End)) => return Ok(Some(None)),
                Ok(None) => return Ok(framing.is_done().then_some(None)),
                Err(FramingFault::ServerError(message)) => {
                    return Err(Error::SnapshotFailed { address: self.address.clone(), message });
                }
                Err(FramingFault::BadHeader(reply)) => {
                    let (address, command) = (self.address.clone(), "PSYNC".to_owned());
                    return Err(Error::UnexpectedReply { address, command, reply });
                }
            }
        }
    }

    /// What it is about before the end of the snapshot.
    fn doing(&self) -> Doing {
        match &self.framing {
            Some(framing) if !framing.is_waiting() => Doing::Snapshot { received: framing.received() },
            _ => Doing::WaitingForSnapshot,
        }
    }

    /// The next commands, as soon as there is a whole one.
    ///
    /// Dropping the future loses nothing. Requests for acknowledgement are answered here. The first call after a snapshot
    /// acknowledges it: until then the server counts this replica as one that is still loading, so whoever keeps what comes
    /// does that before.
    ///
    /// # Errors
    /// When the link breaks or the stream is damaged; [`Link::position`] is then where to go on.
    pub async fn next_batch(&mut self) -> Result<Batch, Error> {
        // A server of old would answer in the midst of its stream.
        if !self.sync && !self.acks.is_streaming() {
            self.acks.start_streaming();
        }
        loop {
            match self.scanner.next(&mut self.buf) {
                Ok(Some(Item::Commands(batch))) => {
                    self.acks.received(batch.end);
                    return Ok(batch);
                }
                Ok(Some(Item::AckRequest { offset })) => {
                    self.acks.received(offset);
                    self.acks.send_now();
                    let position = self.scanner.position();
                    // The offset moved: the caller has to know, or it would wait for it for ever.
                    return Ok(Batch::moved(offset, position));
                }
                Ok(None) => {
                    self.acks.received(self.scanner.position().offset);
                    let doing = Doing::Stream { offset: self.scanner.position().offset };
                    self.read(doing, None).await?;
                }
                Err(source) => {
                    let (address, offset) = (self.address.clone(), self.scanner.position().offset);
                    return Err(Error::Stream { address, offset, source });
                }
            }
        }
    }

    /// Reads once, into `space` or behind what is in `buf`: how many bytes.
    async fn read(&mut self, doing: Doing, mut space: Option<&mut [u8]>) -> Result<usize, Error> {
        if space.is_none() {
            self.buf.reserve(READ_SIZE);
        }
        loop {
            let until = self.silence.listen_until(Instant::now());
            // What is there already counts even when the limit is reached.
            let (reader, buf) = (&mut self.reader, &mut self.buf);
            let read = async {
                match space.as_deref_mut() {
                    Some(space) => reader.read(space).await,
                    None => reader.read_buf(buf).await,
                }
            };
            match tokio::time::timeout_at(until.unwrap_or_else(Instant::now), read).await {
                Err(_) if until.is_some() => {}
                Err(_) => {
                    let after = self.silence.limit();
                    return Err(Error::Silent { address: self.address.clone(), doing, after });
                }
                Ok(Ok(0)) => return Err(Error::Closed { address: self.address.clone(), doing }),
                Ok(Ok(n)) => {
                    self.silence.heard(Instant::now());
                    return Ok(n);
                }
                Ok(Err(source)) => {
                    let offset = self.scanner.position().offset;
                    return Err(Error::Io { address: self.address.clone(), offset, source });
                }
            }
        }
    }
}

async fn shake_hands(
    mut handshake: Handshake,
    transport: &mut Transport,
    buf: &mut BytesMut,
    address: &str,
    silence: Duration,
) -> Result<SyncReply, Error> {
    let io = |source| Error::Io { address: address.to_owned(), offset: 0, source };
    loop {
        if let Some(command) = handshake.poll_send() {
            transport.write_all(&command).await.map_err(io)?;
            transport.flush().await.map_err(io)?;
        }
        match handshake.handle(buf) {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) if handshake.waiting_for().is_none() => {}
            Ok(None) => {
                buf.reserve(READ_SIZE);
                let doing = Doing::Handshake;
                match tokio::time::timeout(silence, transport.read_buf(buf)).await {
                    Err(_) => {
                        return Err(Error::Silent { address: address.to_owned(), doing, after: silence });
                    }
                    Ok(Ok(0)) => return Err(Error::Closed { address: address.to_owned(), doing }),
                    Ok(Ok(_)) => {}
                    Ok(Err(source)) => return Err(io(source)),
                }
            }
            Err(HandshakeFailure::NotReady { message }) => {
                return Err(Error::NotReady { address: address.to_owned(), message });
            }
            Err(HandshakeFailure::Refused { command, message }) => {
                return Err(Error::Refused { address: address.to_owned(), command, message });
            }
            Err(HandshakeFailure::Unexpected { command, reply }) => {
                return Err(Error::UnexpectedReply { address: address.to_owned(), command, reply });
            }
        }
    }
}
