//! A scripted server: it follows a list of steps and misbehaves where they say so.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use keyferry_resp::{Command, CommandDecoder};

use crate::error::{Error, Result};

/// How long a step may wait for a connection or a command, unless [`Script::timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long one read or accept waits before it looks whether the peer was dropped.
const TICK: Duration = Duration::from_millis(5);

/// What a [`Peer`] does, step by step. The first connection is accepted before the first step.
///
/// ```
/// use keyferry_testkit::{Client, Script};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let peer = Script::new()
///     .answer_until("PSYNC", "+OK\r\n")
///     .send("+FULLRESYNC 0123456789012345678901234567890123456789 1\r\n")
///     .send("$1000\r\nREDIS0011") // less than it promises
///     .close()
///     .start()?;
/// let mut client = Client::connect(&peer.addr().to_string())?;
/// client.call(&["PING"])?;
/// assert!(client.text(&["PSYNC", "?", "-1"])?.starts_with("FULLRESYNC"));
/// assert!(client.reply().is_err());
/// let commands = peer.finish()?;
/// assert!(commands[1].is("PSYNC"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "nothing happens before `start` is called"]
pub struct Script {
    steps: Vec<Step>,
    timeout: Option<Duration>,
}

#[derive(Debug, Clone)]
enum Step {
    Expect(Vec<Vec<u8>>),
    ExpectName(String),
    AnswerUntil(String, Vec<u8>),
    AnswerAll(Vec<u8>),
    Send(Vec<u8>),
    Pieces(Vec<u8>, usize, Duration),
    Endless(Vec<u8>),
    Sleep(Duration),
    Close,
    Accept,
    AwaitClose,
}

impl Script {
    /// A script without steps: it accepts one connection and closes it.
    pub fn new() -> Script {
        Script::default()
    }

    /// Reads one command, which has to be this one; letter case counts but in the name.
    pub fn expect<A: AsRef<[u8]>>(self, args: &[A]) -> Script {
        self.step(Step::Expect(args.iter().map(|arg| arg.as_ref().to_vec()).collect()))
    }

    /// Reads one command, which has to have this name.
    pub fn expect_name(self, name: &str) -> Script {
        self.step(Step::ExpectName(name.to_owned()))
    }

    /// Reads commands and sends `reply` to each, up to one of this name, which it does not answer.
    pub fn answer_until(self, name: &str, reply: impl AsRef<[u8]>) -> Script {
        self.step(Step::AnswerUntil(name.to_owned(), reply.as_ref().to_vec()))
    }

    /// Reads commands and sends `reply` to each until the connection is closed.
    pub fn answer_all(self, reply: impl AsRef<[u8]>) -> Script {
        self.step(Step::AnswerAll(reply.as_ref().to_vec()))
    }

    /// Sends bytes as they are.
    pub fn send(self, bytes: impl AsRef<[u8]>) -> Script {
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    /// Sends bytes in pieces of `size`, with a pause after each.
    pub fn send_in_pieces(self, bytes: impl AsRef<[u8]>, size: usize, pause: Duration) -> Script {
        self.step(Step::Pieces(bytes.as_ref().to_vec(), size.max(1), pause))
    }

    /// Sends the same bytes again and again until the connection is closed.
    pub fn send_endlessly(self, bytes: impl AsRef<[u8]>) -> Script {
        self.step(Step::Endless(bytes.as_ref().to_vec()))
    }

    /// Does nothing for a while.
    pub fn sleep(self, duration: Duration) -> Script {
        self.step(Step::Sleep(duration))
    }

    /// Closes the connection.
    pub fn close(self) -> Script {
        self.step(Step::Close)
    }

    /// Closes the connection if it is open, and waits for the next one.
    pub fn accept(self) -> Script {
        self.step(Step::Accept)
    }

    /// Waits until the other end closes the connection; what arrives meanwhile is thrown away.
    pub fn await_close(self) -> Script {
        self.step(Step::AwaitClose)
    }

    /// How long any step may wait. Default: 20 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Script {
        self.timeout = Some(timeout);
        self
    }

    /// Listens on a free loopback port and follows the script in a thread.
    ///
    /// # Errors
    /// [`Error::Port`] when it cannot listen.
    pub fn start(self) -> Result<Peer> {
        let port = |source| Error::Port { source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(port)?;
        listener.set_nonblocking(true).map_err(port)?;
        let addr = listener.local_addr().map_err(port)?;
        let dropped = Arc::new(AtomicBool::new(false));
        let actor = Actor {
            listener,
            stream: None,
            decoder: CommandDecoder::new(),
            input: BytesMut::new(),
            seen: Vec::new(),
            timeout: self.timeout.unwrap_or(TIMEOUT),
            dropped: Arc::clone(&dropped),
        };
        let thread = std::thread::spawn(move || actor.run(&self.steps));
        Ok(Peer { addr, dropped, thread: Some(thread) })
    }

    fn step(mut self, step: Step) -> Script {
        self.steps.push(step);
        self
    }
}

/// A running [`Script`]. Dropping it ends it wherever it is; [`Peer::finish`] waits and tells what it saw.
#[derive(Debug)]
pub struct Peer {
    addr: SocketAddr,
    dropped: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Command>>>>,
}

impl Peer {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Waits until the script is done and returns the commands it has read.
    ///
    /// # Errors
    /// [`Error::Script`] for the first step that could not be followed.
    pub fn finish(mut self) -> Result<Vec<Command>> {
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| Error::Thread("scripted peer's"))?,
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Actor {
    listener: TcpListener,
    stream: Option<TcpStream>,
    decoder: CommandDecoder,
    input: BytesMut,
    seen: Vec<Command>,
    timeout: Duration,
    dropped: Arc<AtomicBool>,
}

impl Actor {
    fn run(mut self, steps: &[Step]) -> Result<Vec<Command>> {
        let failed = |step, message| Error::Script { step, message };
        self.accept().map_err(|message| failed(0, message))?;
        for (i, step) in steps.iter().enumerate() {
            self.follow(step).map_err(|message| failed(i + 1, message))?;
        }
        Ok(self.seen)
    }

    fn follow(&mut self, step: &Step) -> std::result::Result<(), String> {
        match step {
            Step::Expect(args) => {
                let command = self.read_command()?.ok_or("the connection was closed")?;
                let same = command.is(args.first().map_or(&[][..], Vec::as_slice))
                    && command.args().skip(1).eq(args.iter().skip(1).map(Vec::as_slice));
                let wanted = || Command::new(args.iter());
                if same { Ok(()) } else { Err(format!("expected {:?}, got {command:?}", wanted())) }
            }
            Step::ExpectName(name) => {
                let command = self.read_command()?.ok_or("the connection was closed")?;
                if command.is(name) { Ok(()) } else { Err(format!("expected {name}, got {command:?}")) }
            }
            Step::AnswerUntil(name, reply) => loop {
                let command = self.read_command()?.ok_or("the connection was closed")?;
                if command.is(name) {
                    return Ok(());
                }
                self.send(reply)?;
            },
            Step::AnswerAll(reply) => {
                while self.read_command()?.is_some() {
                    // Who closes does not read the last answer.
                    let _ = self.send(reply);
                }
                Ok(())
            }
            Step::Send(bytes) => self.send(bytes),
            Step::Pieces(bytes, size, pause) => bytes.chunks(*size).try_for_each(|piece| {
                self.send(piece)?;
                self.sleep(*pause)
            }),
            Step::Endless(bytes) => {
                while self.send(bytes).is_ok() {}
                self.still_wanted()
            }
            Step::Sleep(duration) => self.sleep(*duration),
            Step::Close => {
                self.stream = None;
                Ok(())
            }
            Step::Accept => self.accept(),
            Step::AwaitClose => {
                let end = Instant::now() + self.timeout;
                while self.read(end)? > 0 {
                    self.input.clear();
                }
                Ok(())
            }
        }
    }

    fn accept(&mut self) -> std::result::Result<(), String> {
        self.stream = None;
        self.decoder = CommandDecoder::new();
        self.input.clear();
        let end = Instant::now() + self.timeout;
        loop {
            self.still_wanted()?;
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(|error| error.to_string())?;
                    stream.set_nodelay(true).map_err(|error| error.to_string())?;
                    stream.set_read_timeout(Some(TICK)).map_err(|error| error.to_string())?;
                    stream.set_write_timeout(Some(self.timeout)).map_err(|error| error.to_string())?;
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(error) if waits(&error) && Instant::now() < end => std::thread::sleep(TICK),
                Err(error) => return Err(format!("nobody connected: {error}")),
            }
        }
    }

    /// The next command; `None` when the connection was closed.
    fn read_command(&mut self) -> std::result::Result<Option<Command>, String> {
        let end = Instant::now() + self.timeout;
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(command)) => {
                    self.seen.push(command.clone());
                    return Ok(Some(command));
                }
                Ok(None) => {
                    if self.read(end)? == 0 {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(format!("what came is no command: {error}")),
            }
        }
    }

    /// Reads something; 0 when the connection was closed.
    fn read(&mut self, end: Instant) -> std::result::Result<usize, String> {
        let mut block = [0u8; 16 << 10];
        loop {
            self.still_wanted()?;
            let Some(stream) = &mut self.stream else { return Ok(0) };
            match stream.read(&mut block) {
                Ok(n) => {
                    self.input.extend_from_slice(&block[..n]);
                    return Ok(n);
                }
                Err(error) if waits(&error) && Instant::now() < end => {}
                Err(error) if waits(&error) => return Err("nothing came in time".to_owned()),
                Err(_) => return Ok(0),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        self.still_wanted()?;
        let Some(stream) = &mut self.stream else { return Err("the connection is closed".to_owned()) };
        stream.write_all(bytes).map_err(|error| format!("could not send: {error}"))
    }

    fn sleep(&self, duration: Duration) -> std::result::Result<(), String> {
        let end = Instant::now() + duration;
        loop {
            self.still_wanted()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
        }
    }

    fn still_wanted(&self) -> std::result::Result<(), String> {
        if self.dropped.load(Ordering::Relaxed) { Err("dropped".to_owned()) } else { Ok(()) }
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use keyferry_resp::Frame;

    use super::*;
    use crate::client::Client;

    #[test]
    fn follows_its_script() {
        let peer = Script::new()
            .expect(&["PING", "a"])
            .send_in_pieces("+PONG\r\n", 2, Duration::from_millis(2))
            .expect_name("get")
            .send("$-1\r\n")
            .accept()
            .answer_all("+OK\r\n")
            .start()
            .unwrap();
        let address = peer.addr().to_string();
        let mut first = Client::connect(&address).unwrap();
        assert_eq!(first.text(&["ping", "a"]).unwrap(), "PONG");
        assert_eq!(first.bytes(&["GET", "x"]).unwrap(), None);
        let mut second = Client::connect(&address).unwrap();
        let replies = second.pipe(&[["A"], ["B"], ["C"]]).unwrap();
        assert!(replies.iter().all(Frame::is_ok));
        assert!(first.reply().is_err(), "closed when the next one was accepted");
        drop(second);
        let names: Vec<_> = peer.finish().unwrap().iter().map(|command| command.name().to_vec()).collect();
        assert_eq!(names, [&b"ping"[..], b"GET", b"A", b"B", b"C"]);
    }

    #[test]
    fn tells_the_step_that_failed() {
        let peer = Script::new().send("+hello\r\n").expect(&["AUTH"]).start().unwrap();
        let mut client = Client::connect(&peer.addr().to_string()).unwrap();
        client.reply().unwrap();
        assert!(client.call(&["PING"]).is_err());
        let error = peer.finish().unwrap_err();
        assert!(matches!(error, Error::Script { step: 2, .. }), "{error}");

        let peer = Script::new().expect_name("PING").timeout(Duration::from_millis(40)).start().unwrap();
        let _client = Client::connect(&peer.addr().to_string()).unwrap();
        assert!(peer.finish().unwrap_err().to_string().contains("nothing came in time"));
    }

    #[test]
    fn sends_without_end_until_the_other_side_closes() {
        let peer = Script::new().send_endlessly(":1\r\n").start().unwrap();
        let mut client = Client::connect(&peer.addr().to_string()).unwrap();
        assert_eq!(client.replies(1000).unwrap().len(), 1000);
        drop(client);
        peer.finish().unwrap();

        let peer = Script::new().await_close().start().unwrap();
        let mut client = Client::connect(&peer.addr().to_string()).unwrap();
        client.send_bytes(b"\x00 not RESP").unwrap();
        drop(client);
        assert!(peer.finish().unwrap().is_empty());
    }

    #[test]
    fn ends_when_dropped() {
        let start = Instant::now();
        let peer = Script::new().sleep(Duration::from_secs(60)).start().unwrap();
        let _client = Client::connect(&peer.addr().to_string()).unwrap();
        drop(peer);
        drop(Script::new().start().unwrap());
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
