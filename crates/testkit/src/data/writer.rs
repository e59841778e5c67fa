use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyferry_resp::Frame;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::data::Features;
use crate::data::link::{Args, Link, Primary};
use crate::data::workload::{SHORT_TTL_MS, Workload};
use crate::error::{Error, Result};
use crate::sentinel::Sentinels;
use crate::server::Server;

/// How long a thread waits when nothing is due.
const TICK: Duration = Duration::from_millis(5);

/// The most commands that are sent before their replies are read.
const BATCH: usize = 2000;

/// Which commands a [`Writer`] sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mix {
    /// Nearly everything that the server has.
    #[default]
    Everything,
    /// Only what leaves a trace that lasts: a copy that lacks one of them, has one twice, or two in the wrong order, is
    /// told from a right one at the end, and mostly by which one it was.
    ExactlyOnce,
}

/// What a [`Writer`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// Seed of the choice of commands, keys and values.
    pub seed: u64,
    /// How many databases are written to, from 0.
    pub databases: u32,
    /// How many threads, each with a connection of its own.
    pub threads: u32,
    /// The number of the first thread. Each has keys of its own, whose names hold its number: writers whose threads have others
    /// never meet. Default: 0.
    pub first_thread: u32,
    /// Commands a second, all threads together. The server may be slower.
    pub rate: u64,
    /// How many keys of each kind a thread writes to, so how often commands meet. Default: 40.
    pub keys: u64,
    /// Whether two commands of five are such that name several keys ([`multi_key_commands`](crate::data::multi_key_commands)).
    /// Without hash tags they span the slots of a cluster. Default: no; the ordinary mix has some of them.
    pub multi_key: bool,
    /// Whether all keys of one command or transaction share a hash tag, but for commands of one key that have none: what a
    /// cluster takes. [`Writer::start_cluster`] always does so. Default: no.
    pub hash_tags: bool,
    /// Whether each database has keys of its own, whose names hold its number, and none goes to another: so all may be merged
    /// into one. Default: no.
    pub apart: bool,
    /// Whether there are keys and fields that expire within two seconds. Default: yes.
    pub short_expiries: bool,
    /// Whether deadlines of less than two seconds are also lengthened or taken away before they pass. A copy that receives
    /// these commands late has lost the key by then, unless it holds expiry back as a replica does.
    pub save_the_dying: bool,
    /// Which commands are sent. Default: [`Mix::Everything`].
    pub mix: Mix,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            seed: 1,
            databases: 3,
            threads: 1,
            first_thread: 0,
            rate: 2000,
            keys: 40,
            multi_key: false,
            hash_tags: false,
            apart: false,
            short_expiries: true,
            save_the_dying: false,
            mix: Mix::Everything,
        }
    }
}

/// What a [`Writer`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Commands sent, those inside of transactions included.
    pub commands: u64,
    /// How often each command was sent, by its name.
    pub by_command: BTreeMap<&'static str, u64>,
    /// How many were answered with an error. Zero is expected.
    pub errors: u64,
    /// The first of those errors.
    pub first_error: Option<String>,
}

/// Threads that write all the time: every type and nearly every writing command that the server has, several databases,
/// deadlines short and long, transactions, scripts, blocking and random commands that replicate as something else. The
/// result of most of them depends on their order and on each being applied exactly once.
///
/// Dropping it stops it.
///
/// ```
/// use keyferry_testkit::{Server, data::{Writer, WriterOptions, settle}};
///
/// # fn main() -> keyferry_testkit::Result<()> {
/// let server = Server::any()?;
/// let writer = Writer::start(&server, WriterOptions { rate: 5000, ..WriterOptions::default() })?;
/// std::thread::sleep(std::time::Duration::from_millis(200));
/// let counts = writer.stop()?;
/// assert!(counts.commands > 0 && counts.errors == 0, "{:?}", counts.first_error);
/// settle(&mut server.client()?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Counts>>>,
}

/// What a [`Writer`] and its threads tell each other.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    pause: AtomicBool,
    /// Threads that pause, and have the replies to everything they sent.
    idle: AtomicU32,
    sent: AtomicU64,
    /// Commands a second, all threads together.
    rate: AtomicU64,
}

impl Writer {
    /// Starts writing to `server`.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn start(server: &Server, options: WriterOptions) -> Result<Writer> {
        Writer::start_with(|| server.client(), options)
    }

    /// Starts writing over connections that `connect` makes, one a thread.
    ///
    /// # Errors
    /// The first error of `connect`, or of asking the server what it can do.
    pub fn start_with(connect: impl Fn() -> Result<Client>, options: WriterOptions) -> Result<Writer> {
        Writer::spawn(
            || {
                let mut client = connect()?;
                let features = Features::probe(&mut client)?;
                Ok((Link::Server(Box::new(client)), features))
            },
            &options,
        )
    }

    /// Starts writing to a cluster, with hash tags and to as many databases as the options say (most clusters have one).
    /// Slots may move and primaries fail meanwhile: commands are sent one by one, and again where they are redirected or their
    /// connection is lost, so a command may then be applied twice.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub fn start_cluster(cluster: &Cluster, options: WriterOptions) -> Result<Writer> {
        let options = WriterOptions { hash_tags: true, ..options };
        Writer::spawn(
            || {
                let mut client = cluster.client()?;
                let features = client.features()?;
                Ok((Link::Cluster(Box::new(client)), features))
            },
            &options,
        )
    }

    /// Starts writing to the primary that sentinels name. After a failover each thread goes on at the new one, with the command
    /// that it has no reply to; that may then be applied twice.
    ///
    /// # Errors
    /// When the primary cannot be reached.
    pub fn start_sentinel(sentinels: &Sentinels, options: WriterOptions) -> Result<Writer> {
        Writer::spawn(
            || {
                let follower = sentinels.follower();
                let mut client = follower.connect()?;
                let features = Features::probe(&mut client)?;
                Ok((Link::Primary(Box::new(Primary::new(move || follower.connect(), client))), features))
            },
            &options,
        )
    }

    /// Starts writing to a primary that may be replaced: `connect` finds the one of the moment. Each thread goes on there with
    /// the command that it has no reply to; that may then be applied twice.
    ///
    /// # Errors
    /// The first error of `connect`, or of asking the server what it can do.
    pub fn start_following(
        connect: impl Fn() -> Result<Client> + Send + Sync + 'static,
        options: WriterOptions,
    ) -> Result<Writer> {
        let connect = Arc::new(connect);
        Writer::spawn(
            || {
                let connect = Arc::clone(&connect);
                let mut client = connect()?;
                let features = Features::probe(&mut client)?;
                Ok((Link::Primary(Box::new(Primary::new(move || connect(), client))), features))
            },
            &options,
        )
    }

    fn spawn(connect: impl Fn() -> Result<(Link, Features)>, options: &WriterOptions) -> Result<Writer> {
        let shared = Shared { rate: AtomicU64::new(options.rate), ..Shared::default() };
        let mut writer = Writer { shared: Arc::new(shared), threads: Vec::new() };
        let threads = options.threads.max(1);
        for number in 0..threads {
            let (link, features) = connect()?;
            let stays = matches!(link, Link::Server(_));
            let workload = Workload::new(options.first_thread + number, features, options, stays);
            let work = Work { link, workload, counts: Counts::default() };
            let shared = Arc::clone(&writer.shared);
            writer.threads.push(std::thread::spawn(move || work.run(threads, &shared)));
        }
        Ok(writer)
    }

    /// How many commands were sent and answered so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Waits until that many commands more than now were sent and answered. False when `deadline` passed first.
    pub fn wait_for(&self, more: u64, deadline: Duration) -> bool {
        let (goal, end) = (self.sent() + more, Instant::now() + deadline);
        while self.sent() < goal {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(TICK);
        }
        true
    }

    /// Writes so many commands a second from now on, all threads together.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Stops writing for a while, and waits until every command sent was answered. False when that took longer than
    /// `deadline`, or a thread has ended: [`Writer::stop`] tells why.
    pub fn pause(&self, deadline: Duration) -> bool {
        self.shared.pause.store(true, Ordering::Relaxed);
        let end = Instant::now() + deadline;
        while (self.shared.idle.load(Ordering::Acquire) as usize) < self.threads.len() {
            if Instant::now() >= end || self.threads.iter().any(JoinHandle::is_finished) {
                return false;
            }
            std::thread::sleep(TICK);
        }
        true
    }

    /// Goes on after [`Writer::pause`].
    pub fn resume(&self) {
        self.shared.pause.store(false, Ordering::Relaxed);
    }

    /// Whether a thread has ended by itself: [`Writer::stop`] tells why.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops writing and waits until every command sent was answered.
    ///
    /// # Errors
    /// What a connection failed with while it was writing.
    pub fn stop(mut self) -> Result<Counts> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut total = Counts::default();
        for thread in std::mem::take(&mut self.threads) {
            let counts = thread.join().map_err(|_| Error::Thread("writing"))??;
            total.commands += counts.commands;
            total.errors += counts.errors;
            total.first_error = total.first_error.or(counts.first_error);
            for (name, count) in counts.by_command {
                *total.by_command.entry(name).or_default() += count;
            }
        }
        Ok(total)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits until the short deadlines of a stopped [`Writer`] have passed and makes the server forget every key and field that
/// expired, so that it holds exactly what it shows and its DEBUG DIGEST means something.
///
/// # Errors
/// As [`Client::call`].
pub fn settle(client: &mut Client) -> Result<()> {
    wait_for_deadlines(client)?;
    forget_expired(client)
}

/// The same for all primaries of a cluster.
///
/// # Errors
/// As [`Client::call`].
pub fn settle_cluster(cluster: &Cluster) -> Result<()> {
    for primary in cluster.primaries()? {
        settle(&mut cluster.node(primary).client()?)?;
    }
    Ok(())
}

/// Waits for those that there are. Fields of hashes are not asked for theirs: servers take expired ones out by themselves, ten times
/// a second; expired keys may stay for longer.
fn wait_for_deadlines(client: &mut Client) -> Result<()> {
    if Features::probe(client)?.has("hpexpire") {
        std::thread::sleep(Duration::from_millis(SHORT_TTL_MS + 300));
        return Ok(());
    }
    loop {
        let mut last = None;
        ask_of_every_key(client, b"PTTL", |left| {
            let left = left.as_i64().and_then(|left| u64::try_from(left).ok());
            last = last.max(left.filter(|&left| left <= SHORT_TTL_MS));
        })?;
        match last {
            Some(left) => std::thread::sleep(Duration::from_millis(left + 5)),
            None => return Ok(()),
        }
    }
}

/// An expired key is deleted when it is looked up.
fn forget_expired(client: &mut Client) -> Result<()> {
    ask_of_every_key(client, b"TYPE", |_| {})
}

/// Asks a command of each key of all databases.
fn ask_of_every_key(client: &mut Client, command: &[u8], mut answer: impl FnMut(&Frame)) -> Result<()> {
    for database in crate::compare::databases(client)? {
        client.call(&["SELECT", &database.to_string()])?;
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys) = crate::compare::scan(client, &cursor, 1000)?;
            let asked: Vec<[&[u8]; 2]> = keys.iter().map(|key| [command, key.as_ref()]).collect();
            client.pipe(&asked)?.iter().for_each(&mut answer);
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
    }
    client.call(&["SELECT", "0"])?;
    Ok(())
}

/// One thread's work.
struct Work {
    link: Link,
    workload: Workload,
    counts: Counts,
}

impl Work {
    fn run(mut self, threads: u32, shared: &Shared) -> Result<Counts> {
        self.workload.prepare();
        self.send(shared)?;
        let mut last = Instant::now();
        let mut due = 0.0;
        while !shared.stop.load(Ordering::Relaxed) {
            if shared.pause.load(Ordering::Relaxed) {
                shared.idle.fetch_add(1, Ordering::Release);
                while shared.pause.load(Ordering::Relaxed) && !shared.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(TICK);
                }
                shared.idle.fetch_sub(1, Ordering::Release);
                continue;
            }
            let rate = shared.rate.load(Ordering::Relaxed) as f64 / f64::from(threads);
            let now = Instant::now();
            // Never more than a second's worth at once after a pause.
            due = f64::min(due + rate * (now - last).as_secs_f64(), rate.max(1.0));
            last = now;
            if due < 1.0 {
                std::thread::sleep(TICK);
                continue;
            }
            self.workload.add((due as usize).min(BATCH));
            due -= self.send(shared)? as f64;
        }
        self.counts.by_command = self.workload.by_command;
        Ok(self.counts)
    }

    /// Sends the batch and reads its replies; returns how many commands it had.
    fn send(&mut self, shared: &Shared) -> Result<usize> {
        let batch = std::mem::take(&mut self.workload.batch);
        let counts = &mut self.counts;
        self.link.send(&batch, |commands, reply| {
            counts.add(commands, reply);
            shared.sent.fetch_add(commands.len() as u64, Ordering::Relaxed);
        })?;
        Ok(batch.len())
    }
}

impl Counts {
    /// Counts a command, or a whole transaction with its last reply.
    fn add(&mut self, commands: &[Args], reply: &Frame) {
        self.commands += commands.len() as u64;
        // Errors hide in the results of a transaction as well.
        let inner = reply.as_array().and_then(|items| items.iter().find_map(|item| item.error()));
        let Some(message) = reply.error().or(inner) else { return };
        self.errors += 1;
        self.first_error.get_or_insert_with(|| {
            let args = commands.iter().flatten().map(|arg| arg.escape_ascii().to_string());
            format!("{}: {}", args.collect::<Vec<_>>().join(" "), String::from_utf8_lossy(message))
        });
    }
}
