//! A small blocking client: one connection, one thread, no cleverness. It is the independent witness that the
//! workspace's real client is tested against.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use keyferry_resp::{Decoder, Frame, encode_command};

use crate::error::{Error, Result};

/// How long connecting, and any single read or write, may take unless [`Client::set_timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How much of a command or a reply an error shows.
const SHOWN: usize = 120;

/// Unsent bytes at which [`Client::queue`] sends what it has.
const FLUSH_AT: usize = 1 << 20;

/// A blocking connection to one server.
///
/// ```
/// use keyferry_testkit::{Server, any};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let server = Server::builder(any()?).start()?;
/// let mut client = server.client()?;
/// client.call(&["SET", "greeting", "hello"])?;
/// assert_eq!(client.text(&["GET", "greeting"])?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    address: String,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
}

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// [`Error::Connection`] when nobody listens there.
    pub fn connect(address: &str) -> Result<Client> {
        let failed = |source| Error::Connection { address: address.to_owned(), what: "connecting", source };
        let stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Client::new(Stream::Tcp(stream), address.to_owned())
    }

    /// The same, and gives the password where there is one.
    pub(crate) fn connect_with_password(address: &str, password: Option<&str>) -> Result<Client> {
        let mut client = Client::connect(address)?;
        if let Some(password) = password {
            client.call(&["AUTH", password])?;
        }
        Ok(client)
    }

    /// Connects to a unix socket.
    ///
    /// # Errors
    /// [`Error::Connection`] when nobody listens there.
    pub fn connect_unix(path: &Path) -> Result<Client> {
        let address = path.display().to_string();
        match UnixStream::connect(path) {
            Ok(stream) => Client::new(Stream::Unix(stream), address),
            Err(source) => Err(Error::Connection { address, what: "connecting", source }),
        }
    }

    fn new(stream: Stream, address: String) -> Result<Client> {
        let client = Client {
            stream,
            address,
            decoder: Decoder::new(),
            input: BytesMut::new(),
            output: BytesMut::new(),
        };
        client.set_timeout(TIMEOUT)?;
        Ok(client)
    }

    /// How long any single read or write may wait for the server.
    ///
    /// # Errors
    /// [`Error::Connection`] for a duration of zero.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        self.stream.set_timeout(timeout).map_err(|source| self.failed("setting a timeout", source))
    }

    /// Where this client is connected to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// [`Error::Refused`] for an error reply; see [`Client::call_raw`] to get that as a frame.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Frame> {
        let reply = self.call_raw(args)?;
        match reply.error() {
            Some(message) => Err(self.refused(shown_command(args), message)),
            None => Ok(reply),
        }
    }

    /// Sends one command and returns its reply, also when that is an error.
    ///
    /// # Errors
    /// [`Error::Connection`] and [`Error::Protocol`] only.
    pub fn call_raw<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Frame> {
        self.queue(args)?;
        self.reply()
    }

    /// Sends many commands at once and returns their replies in order, error replies among them.
    ///
    /// # Errors
    /// [`Error::Connection`] and [`Error::Protocol`] only.
    pub fn pipe<C: AsRef<[A]>, A: AsRef<[u8]>>(&mut self, commands: &[C]) -> Result<Vec<Frame>> {
        for command in commands {
            self.queue(command.as_ref())?;
        }
        self.replies(commands.len())
    }

    /// Appends one command to what [`Client::flush`] or the next wait for a reply sends. Whoever queues commands reads as
    /// many replies.
    ///
    /// # Errors
    /// [`Error::Connection`] when the buffer was full and could not be sent.
    pub fn queue<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<()> {
        encode_command(&mut self.output, args);
        if self.output.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn flush(&mut self) -> Result<()> {
        let sent = self.stream.write_all(&self.output);
        self.output.clear();
        sent.map_err(|source| self.failed("sending", source))
    }

    /// Sends what is queued, then waits for the next reply.
    ///
    /// # Errors
    /// [`Error::Connection`] and [`Error::Protocol`].
    pub fn reply(&mut self) -> Result<Frame> {
        if !self.output.is_empty() {
            self.flush()?;
        }
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => self.fill()?,
                Err(source) => return Err(Error::Protocol { address: self.address.clone(), source }),
            }
        }
    }

    /// The next `count` replies.
    ///
    /// # Errors
    /// As [`Client::reply`].
    pub fn replies(&mut self, count: usize) -> Result<Vec<Frame>> {
        (0..count).map(|_| self.reply()).collect()
    }

    /// Sends bytes as they are, whatever they hold. Queued commands go first.
    ///
    /// # Errors
    /// [`Error::Connection`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.flush()?;
        self.stream.write_all(bytes).map_err(|source| self.failed("sending", source))
    }

    /// The integer that the command answers with.
    ///
    /// # Errors
    /// As [`Client::call`], and [`Error::Unexpected`] for any other type.
    pub fn int<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<i64> {
        let reply = self.call(args)?;
        reply.as_i64().ok_or_else(|| unexpected(args, "an integer", &reply))
    }

    /// The text that the command answers with, bytes that are not UTF-8 replaced.
    ///
    /// # Errors
    /// As [`Client::call`], and [`Error::Unexpected`] for null or a reply of any other type.
    pub fn text<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<String> {
        let reply = self.call(args)?;
        reply.as_bytes().map(|bytes| lossy(bytes)).ok_or_else(|| unexpected(args, "a string", &reply))
    }

    /// The bytes that the command answers with; `None` for null.
    ///
    /// # Errors
    /// As [`Client::call`], and [`Error::Unexpected`] for any other type.
    pub fn bytes<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Option<Bytes>> {
        let reply = self.call(args)?;
        if reply.is_null() {
            return Ok(None);
        }
        reply.as_bytes().cloned().map(Some).ok_or_else(|| unexpected(args, "a string or null", &reply))
    }

    /// The items of the array (or set, or push) that the command answers with; none for null.
    ///
    /// # Errors
    /// As [`Client::call`], and [`Error::Unexpected`] for any other type.
    pub fn list<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Vec<Frame>> {
        let reply = self.call(args)?;
        into_list(reply).map_err(|reply| unexpected(args, "an array", &reply))
    }

    /// One field of `INFO section`, for example `info("replication", "master_repl_offset")`. `None` where the server has no
    /// such field.
    ///
    /// # Errors
    /// As [`Client::text`].
    pub fn info(&mut self, section: &str, field: &str) -> Result<Option<String>> {
        let text = self.text(&["INFO", section])?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.map(|value| value.trim_end().to_owned()))
    }

    /// Calls `condition` every few milliseconds until it says true. False when `deadline` passed first.
    ///
    /// # Errors
    /// The first error of `condition`.
    pub fn wait_until(
        &mut self,
        deadline: Duration,
        mut condition: impl FnMut(&mut Client) -> Result<bool>,
    ) -> Result<bool> {
        let end = Instant::now() + deadline;
        loop {
            if condition(self)? {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn fill(&mut self) -> Result<()> {
        // One reused block: what arrives is appended, so a partial frame keeps its start.
        let mut block = [0u8; 64 << 10];
        match self.stream.read(&mut block) {
            Ok(0) => Err(self.failed("reading a reply", io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                self.input.extend_from_slice(&block[..n]);
                Ok(())
            }
            Err(source) if source.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(source) => Err(self.failed("reading a reply", source)),
        }
    }

    /// A second handle of the same connection, so that one thread may send while another reads.
    pub(crate) fn sending_half(&self) -> Result<Stream> {
        self.stream.try_clone().map_err(|source| self.failed("duplicating the connection", source))
    }

    pub(crate) fn refused(&self, command: String, message: &[u8]) -> Error {
        Error::Refused { address: self.address.clone(), command, message: lossy(message) }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::Connection { address: self.address.clone(), what, source }
    }
}

/// The items of an aggregate; the frame itself where it is none.
pub(crate) fn into_list(frame: Frame) -> std::result::Result<Vec<Frame>, Frame> {
    match frame {
        Frame::Array(items) | Frame::Set(items) => Ok(items),
        Frame::Null(_) => Ok(Vec::new()),
        other => Err(other),
    }
}

pub(crate) fn unexpected<A: AsRef<[u8]>>(args: &[A], expected: &'static str, got: &Frame) -> Error {
    let mut got = format!("{got:?}");
    if let Some((cut, _)) = got.char_indices().nth(SHOWN) {
        got.truncate(cut);
        got.push('…');
    }
    Error::Unexpected { command: shown_command(args), expected, got }
}

/// The start of a command, fit for an error: printable and short.
pub(crate) fn shown_command<A: AsRef<[u8]>>(args: &[A]) -> String {
    let mut text = String::new();
    for arg in args {
        if text.len() > SHOWN {
            text.push_str(" …");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        let arg = arg.as_ref();
        text.push_str(&arg[..arg.len().min(SHOWN)].escape_ascii().to_string());
    }
    text
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Either kind of socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => {
                s.set_read_timeout(Some(timeout)).and_then(|()| s.set_write_timeout(Some(timeout)))
            }
            Stream::Unix(s) => {
                s.set_read_timeout(Some(timeout)).and_then(|()| s.set_write_timeout(Some(timeout)))
            }
        }
    }

    fn try_clone(&self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(s) => s.try_clone().map(Stream::Tcp),
            Stream::Unix(s) => s.try_clone().map(Stream::Unix),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buffer),
            Stream::Unix(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.write(bytes),
            Stream::Unix(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
