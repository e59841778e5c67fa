//! A TCP proxy that misbehaves on request: the network between the tool and a server.

mod mark;

pub use mark::Mark;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use mark::{Found, Trigger, Watcher};

/// How long a pump waits in one read, and so how late it may notice a new fault.
const TICK: Duration = Duration::from_millis(5);

/// The most that is read at once where no fault says less.
const BLOCK: usize = 64 << 10;

/// Which way bytes go through a [`Proxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From who connected to the proxy, to the target.
    ToTarget,
    /// From the target back.
    FromTarget,
}

/// Forwards connections to one target on loopback. Every fault can be switched while connections are open. Dropping it
/// closes all of them.
///
/// ```
/// use keyferry_testkit::{Client, Direction, Proxy, Server};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let server = Server::any()?;
/// let proxy = Proxy::start(server.addr())?;
/// proxy.fragment(1);
/// let mut client = Client::connect(&proxy.addr().to_string())?;
/// client.call(&["PING"])?;
/// assert_eq!(proxy.bytes(Direction::FromTarget), 7); // "+PONG\r\n"
/// proxy.cut_after(Direction::FromTarget, 3);
/// assert!(client.call(&["PING"]).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free loopback port for connections to `target`.
    ///
    /// # Errors
    /// [`Error::Port`] when it cannot listen.
    pub fn start(target: SocketAddr) -> Result<Proxy> {
        let listener = listen(0).map_err(|source| Error::Port { source })?;
        let addr = listener.local_addr().map_err(|source| Error::Port { source })?;
        let shared = Arc::new(Shared { state: Mutex::new(State { listening: true, ..State::new(target) }) });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&shared, listener, addr.port())
        });
        Ok(Proxy { addr, shared, acceptor: Some(acceptor) })
    }

    /// Where to connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes all connections, both ways, as soon as that many more bytes have been passed on in that direction. Happens
    /// once.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        let mut state = self.shared.lock();
        let way = state.way(direction);
        way.cut_at = Some(way.bytes.saturating_add(bytes));
        if bytes == 0 {
            state.cut();
        }
    }

    /// Closes all connections, both ways, as soon as this text was passed on in that direction, in one connection: somewhere in
    /// the middle of what it belongs to. Happens once.
    pub fn cut_at(&self, direction: Direction, mark: Mark) {
        let mut state = self.shared.lock();
        state.triggers += 1;
        let number = state.triggers;
        state.way(direction).trigger = Some(Trigger { number, mark });
    }

    /// Whether a cut asked for by [`Proxy::cut_after`] or [`Proxy::cut_at`] is still to come.
    pub fn cut_is_due(&self) -> bool {
        let state = self.shared.lock();
        [&state.to_target, &state.from_target].iter().any(|way| way.cut_at.is_some() || way.trigger.is_some())
    }

    /// Connects new connections to another server, and closes all others: as an address does that moves.
    pub fn retarget(&self, target: SocketAddr) {
        let mut state = self.shared.lock();
        state.target = target;
        state.cut();
    }

    /// Closes all connections now.
    pub fn cut(&self) {
        self.shared.lock().cut();
    }

    /// Passes nothing on in that direction until told otherwise; connections stay open.
    pub fn stall(&self, direction: Direction, stalled: bool) {
        self.shared.lock().way(direction).stalled = stalled;
    }

    /// Holds every block that long before it is passed on, both ways.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Passes on at most that many bytes at a time, both ways, so that the other end sees short reads. 0 is no limit.
    pub fn fragment(&self, bytes: usize) {
        self.shared.lock().fragment = bytes;
    }

    /// Refuses new connections as a closed port does, until told otherwise. Open ones go on.
    pub fn refuse(&self, refuse: bool) {
        self.shared.lock().refuse = refuse;
        // The acceptor opens or closes the listener at its next turn; wait for that, but never for a port that is lost.
        let end = Instant::now() + Duration::from_secs(5);
        while self.shared.lock().listening == refuse && Instant::now() < end {
            std::thread::sleep(TICK);
        }
    }

    /// How many bytes were passed on in that direction, all connections together.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.lock().way(direction).bytes
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.lock().connections
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopped = true;
            state.cut();
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    to_target: Way,
    from_target: Way,
    delay: Duration,
    fragment: usize,
    refuse: bool,
    listening: bool,
    stopped: bool,
    connections: u64,
    /// Goes up with every cut; a pump that started under an older number ends.
    generation: u64,
    /// Numbers of triggers, so that a pump knows a new one.
    triggers: u64,
}

#[derive(Debug, Default)]
struct Way {
    bytes: u64,
    /// `bytes <= cut_at` always: at equality the connections are cut and this is taken away.
    cut_at: Option<u64>,
    trigger: Option<Trigger>,
    stalled: bool,
}

impl State {
    fn new(target: SocketAddr) -> State {
        State {
            target,
            to_target: Way::default(),
            from_target: Way::default(),
            delay: Duration::ZERO,
            fragment: 0,
            refuse: false,
            listening: false,
            stopped: false,
            connections: 0,
            generation: 0,
            triggers: 0,
        }
    }

    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::ToTarget => &mut self.to_target,
            Direction::FromTarget => &mut self.from_target,
        }
    }

    fn cut(&mut self) {
        self.generation += 1;
        for way in [&mut self.to_target, &mut self.from_target] {
            way.cut_at = None;
            way.trigger = None;
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(shared: &Arc<Shared>, listener: TcpListener, port: u16) {
    let mut listener = Some(listener);
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let (stopped, refuse) = {
            let state = shared.lock();
            (state.stopped, state.refuse)
        };
        if stopped {
            break;
        }
        if refuse {
            listener = None;
        } else if listener.is_none() {
            listener = listen(port).ok();
        }
        shared.lock().listening = listener.is_some();
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((near, _))) => {
                // Nobody at the target: whoever connected sees the connection close at once.
                if let Ok(started) = connect(shared, near) {
                    pumps.extend(started);
                }
            }
            _ => std::thread::sleep(TICK),
        }
        pumps.retain(|pump| !pump.is_finished());
    }
    for pump in pumps {
        let _ = pump.join();
    }
}

fn connect(shared: &Arc<Shared>, near: TcpStream) -> io::Result<[JoinHandle<()>; 2]> {
    let (generation, target) = {
        let mut state = shared.lock();
        state.connections += 1;
        (state.generation, state.target)
    };
    near.set_nonblocking(false)?;
    let far = TcpStream::connect(target)?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
    }
    let pump = |from: &TcpStream, to: &TcpStream, direction| -> io::Result<JoinHandle<()>> {
        let pump = Pump {
            from: from.try_clone()?,
            to: to.try_clone()?,
            direction,
            generation,
            watcher: Watcher::default(),
        };
        let shared = Arc::clone(shared);
        Ok(std::thread::spawn(move || pump.run(&shared)))
    };
    Ok([pump(&near, &far, Direction::ToTarget)?, pump(&far, &near, Direction::FromTarget)?])
}

/// One direction of one connection.
struct Pump {
    from: TcpStream,
    to: TcpStream,
    direction: Direction,
    generation: u64,
    watcher: Watcher,
}

/// What a pump may do next.
enum Turn {
    End,
    Wait,
    Read { limit: usize, delay: Duration },
}

impl Pump {
    fn run(mut self, shared: &Shared) {
        let mut block = vec![0u8; BLOCK];
        loop {
            let (limit, delay) = match self.turn(shared) {
                Turn::End => break,
                Turn::Wait => {
                    std::thread::sleep(TICK);
                    continue;
                }
                Turn::Read { limit, delay } => (limit, delay),
            };
            match self.from.read(&mut block[..limit]) {
                Ok(0) => {
                    // A half-closed connection: the other direction may go on.
                    let _ = self.to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) => {
                    std::thread::sleep(delay);
                    if !self.pass_on(shared, &block[..n]) {
                        break;
                    }
                }
                Err(error) if waits(&error) => {}
                Err(_) => break,
            }
        }
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }

    fn turn(&self, shared: &Shared) -> Turn {
        let mut state = shared.lock();
        if state.stopped || state.generation != self.generation {
            return Turn::End;
        }
        let (fragment, delay) = (state.fragment, state.delay);
        let way = state.way(self.direction);
        if way.stalled {
            return Turn::Wait;
        }
        Turn::Read { limit: if fragment == 0 { BLOCK } else { fragment.min(BLOCK) }, delay }
    }

    /// Writes what may pass. False when the connection ends here.
    fn pass_on(&mut self, shared: &Shared, mut bytes: &[u8]) -> bool {
        let mut cut = false;
        loop {
            // A stall that began while the block was being read holds it back too.
            let mut state = shared.lock();
            if state.stopped || state.generation != self.generation {
                return false;
            }
            let way = state.way(self.direction);
            if way.stalled {
                drop(state);
                std::thread::sleep(TICK);
                continue;
            }
            match self.watcher.look(way.trigger.as_ref(), bytes) {
                Found::Nothing => {}
                Found::Another(mark) => {
                    if let Some(trigger) = &mut way.trigger {
                        trigger.mark = mark;
                    }
                }
                Found::CutAfter(length) => {
                    way.cut_at = Some(way.bytes + length as u64);
                    way.trigger = None;
                }
            }
            if let Some(cut_at) = way.cut_at {
                let left = cut_at - way.bytes;
                if bytes.len() as u64 >= left {
                    bytes = &bytes[..left as usize];
                    cut = true;
                }
            }
            way.bytes += bytes.len() as u64;
            if cut {
                way.cut_at = None;
            }
            break;
        }
        let written = self.to.write_all(bytes).is_ok();
        if cut {
            shared.lock().cut();
        }
        written && !cut
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut twin = stream.try_clone().unwrap();
                    let _ = io::copy(&mut stream, &mut twin);
                    let _ = twin.shutdown(Shutdown::Write);
                });
            }
        });
        addr
    }

    fn connected(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    #[test]
    fn passes_everything_on_and_counts() {
        let proxy = Proxy::start(echo()).unwrap();
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut stream = connected(&proxy);
        let mut twin = stream.try_clone().unwrap();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            twin.write_all(&copy).unwrap();
            twin.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        writer.join().unwrap();
        assert!(got == sent);
        assert_eq!(proxy.bytes(Direction::ToTarget), 1_000_000);
        assert_eq!(proxy.bytes(Direction::FromTarget), 1_000_000);
        assert_eq!(proxy.connections(), 1);
    }

    #[test]
    fn cuts_at_the_very_byte() {
        let proxy = Proxy::start(echo()).unwrap();
        for direction in [Direction::ToTarget, Direction::FromTarget] {
            proxy.cut_after(direction, 5);
            let mut stream = connected(&proxy);
            stream.write_all(b"0123456789").unwrap();
            let mut got = Vec::new();
            let _ = stream.read_to_end(&mut got);
            assert!(b"01234".starts_with(&got), "{got:?}");
            if direction == Direction::FromTarget {
                assert_eq!(got, b"01234");
            }
        }
        // The cut happens once.
        let mut stream = connected(&proxy);
        stream.write_all(b"0123456789").unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    }

    #[test]
    fn stalls_and_goes_on() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = connected(&proxy);
        proxy.stall(Direction::FromTarget, true);
        stream.write_all(b"late").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
        assert!(waits(&stream.read(&mut [0; 4]).unwrap_err()));
        proxy.stall(Direction::FromTarget, false);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut got = [0; 4];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"late");
    }

    #[test]
    fn fragments_and_delays() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.fragment(1);
        proxy.delay(Duration::from_millis(10));
        let mut stream = connected(&proxy);
        let start = Instant::now();
        stream.write_all(b"abc").unwrap();
        let mut got = [0; 64];
        assert_eq!(stream.read(&mut got).unwrap(), 1);
        stream.read_exact(&mut got[1..3]).unwrap();
        assert_eq!(&got[..3], b"abc");
        // Three bytes, one at a time, each held twice; the two directions overlap.
        assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
    }

    #[test]
    fn refuses_and_accepts_again() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.refuse(true);
        assert_eq!(TcpStream::connect(proxy.addr()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        proxy.refuse(false);
        let mut stream = connected(&proxy);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn closes_everything_when_dropped() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = connected(&proxy);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let addr = proxy.addr();
        drop(proxy);
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        assert!(TcpStream::connect(addr).is_err());
    }
}
