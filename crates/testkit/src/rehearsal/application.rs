use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::rehearsal::ledger::{Ledger, Tally};

/// Writes that a connection sends before it looks at the replies.
const BATCH: usize = 32;

/// The pause before it is tried again to connect, or to write.
const RETRY: Duration = Duration::from_millis(3);

/// Where an application writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `host:port` of a server, or of any node of a cluster.
    pub address: String,
    /// User and password.
    pub user: Option<(String, String)>,
}

/// An application with its own ledgers: several connections, each with keys of its own.
#[derive(Debug)]
pub struct Application {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Ledger>>,
}

#[derive(Debug)]
struct Shared {
    place: RwLock<(u64, Place)>,
    over: AtomicBool,
    acknowledged: AtomicU64,
    /// The last acknowledgement of all, and the longest time without one.
    last: Mutex<(Instant, Duration)>,
}

impl Shared {
    fn place(&self) -> (u64, Place) {
        self.place.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn acknowledge(&self, count: u64) {
        if count == 0 {
            return;
        }
        self.acknowledged.fetch_add(count, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gap = now.saturating_duration_since(last.0);
        *last = (now, last.1.max(gap));
    }
}

impl Application {
    /// Begins to write there, over so many connections, and all in all so many writes a second.
    pub fn start(place: Place, connections: usize, rate: u64) -> Application {
        let shared = Arc::new(Shared {
            place: RwLock::new((0, place)),
            over: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            last: Mutex::new((Instant::now(), Duration::ZERO)),
        });
        let one = |number: usize| {
            let shared = Arc::clone(&shared);
            let pause = Duration::from_secs_f64((BATCH * connections) as f64 / rate.max(1) as f64);
            std::thread::spawn(move || write(&shared, Ledger::new(&format!("a{number}")), pause))
        };
        let threads = (0..connections).map(one).collect();
        Application { shared, threads }
    }

    /// From now on it writes there. Writes that were sent elsewhere may still be carried out until their connections are closed.
    pub fn switch(&self, place: Place) {
        let mut now = self.shared.place.write().unwrap_or_else(PoisonError::into_inner);
        *now = (now.0 + 1, place);
    }

    /// Writes that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more were acknowledged; false when they were not in time.
    pub fn wait_for(&self, more: u64, deadline: Duration) -> bool {
        let (wanted, end) = (self.acknowledged() + more, Instant::now() + deadline);
        while self.acknowledged() < wanted {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        true
    }

    /// The longest time in which nothing was acknowledged to any connection, since this was asked last.
    pub fn longest_gap(&self) -> Duration {
        let mut last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        let gap = last.1;
        *last = (Instant::now(), Duration::ZERO);
        gap
    }

    /// Stops writing, and looks for every acknowledged write where it wrote last.
    ///
    /// # Errors
    /// [`Error::Round`] with what is lost.
    pub fn check(mut self) -> Result<Tally> {
        self.shared.over.store(true, Ordering::Relaxed);
        let (_, place) = self.shared.place();
        let mut sum = Tally::default();
        for thread in self.threads.drain(..) {
            let ledger = thread.join().map_err(|_| Error::Thread("writing"))?;
            let tally = ledger.check(&mut connect(&place, ledger.tag())?)?;
            sum.acknowledged += tally.acknowledged;
            sum.unknown += tally.unknown;
        }
        Ok(sum)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn write(shared: &Shared, mut ledger: Ledger, pause: Duration) -> Ledger {
    let mut client: Option<(u64, Client)> = None;
    let mut next = Instant::now();
    while !shared.over.load(Ordering::Relaxed) {
        let (generation, place) = shared.place();
        let connected = match client.take() {
            Some((of, client)) if of == generation => Ok(client),
            _ => connect(&place, ledger.tag()),
        };
        let Ok(mut connection) = connected else {
            std::thread::sleep(RETRY);
            continue;
        };
        match batch(&mut connection, &mut ledger) {
            Ok(0) => std::thread::sleep(RETRY),
            Ok(acknowledged) => {
                shared.acknowledge(acknowledged);
                client = Some((generation, connection));
            }
            Err(acknowledged) => shared.acknowledge(acknowledged),
        }
        next = (next + pause).max(Instant::now() - pause);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    ledger
}

/// Sends some writes; how many were acknowledged, also when the connection was lost. A connection on which all were refused is
/// given up.
fn batch(client: &mut Client, ledger: &mut Ledger) -> std::result::Result<u64, u64> {
    let commands: Vec<Vec<String>> = (0..BATCH).map(|_| ledger.next_write()).collect();
    let sent = commands.iter().try_for_each(|command| client.queue(command)).and_then(|()| client.flush());
    let mut acknowledged = 0;
    if sent.is_ok() {
        for _ in 0..BATCH {
            match client.reply() {
                Ok(reply) => {
                    let good = reply.error().is_none();
                    ledger.answered(good);
                    acknowledged += u64::from(good);
                }
                Err(_) => {
                    ledger.lost();
                    return Err(acknowledged);
                }
            }
        }
        return Ok(acknowledged);
    }
    ledger.lost();
    Err(acknowledged)
}

/// A connection to the node that has the keys of this hash tag.
fn connect(place: &Place, tag: &str) -> Result<Client> {
    let open = |address: &str| {
        let mut client = Client::connect(address)?;
        client.set_timeout(Duration::from_secs(120))?;
        if let Some((user, password)) = &place.user {
            client.call(&["AUTH", user, password])?;
        }
        Ok::<_, Error>(client)
    };
    let mut client = open(&place.address)?;
    let reply = client.call_raw(&["EXISTS", &format!("ledger:{{{tag}}}:list")])?;
    let moved = reply.error().and_then(|error| {
        String::from_utf8_lossy(error).strip_prefix("MOVED ")?.split(' ').nth(1).map(str::to_owned)
    });
    match moved {
        Some(address) => open(&address),
        None => Ok(client),
    }
}
