//! Sources that let nobody replicate: keys are read by `SCAN`, and what happens to them meanwhile is told by notifications.
//!
//! **Takes** servers that allow `SCAN` and `DUMP`. **Gives** a small primary on a socket of this process, which serves what
//! was read as replication does: a snapshot, a stream, an offset. The rest of the migration does not know the difference.
//! **Promises** that a key at the target is never older than what was written about it before, and that at an offset
//! that the primary tells, everything is in the stream that had happened when it was asked. **Refuses** to guess: after
//! what leaves a doubt, the history is over, and everything is read again.
//!
//! - [`settings`]: the source's own setting that makes it tell of writes.
//! - [`events`], [`blind`], [`dirty`]: what is told, what is not, and what has to be done because of it.
//! - [`read`], [`typed`]: keys in bulk, and large ones in parts.
//! - [`pass`], [`follow`], [`commands`]: the snapshot and the stream.
//! - [`server`]: the primary.

mod blind;
mod choose;
mod commands;
mod dirty;
mod events;
mod follow;
mod pass;
mod read;
mod server;
mod settings;
mod state;
mod typed;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use keyferry_client::{
    ClusterOptions, ConnectOptions, Connection, Endpoint, ServerInfo, Vendor, Version, cluster, sentinel,
};
use keyferry_rdb::TargetFormat;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::choose::{Reading, choose};
pub use self::state::ScanCounts;
use self::{blind::Blind, events::Events, follow::Followed, server::Primary, state::Shared};
use crate::{
    error::Error, filter::Filter, migration::Migration, options::Follow, target::Abilities, temporary,
    throttle::Throttle,
};

/// How often the shards of a cluster are compared with those that were found first.
const TOPOLOGY: Duration = Duration::from_secs(1);

/// Reasons for beginning anew that the report tells.
const DOUBTS: usize = 20;

/// What outlives an attempt.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    counts: ScanCounts,
    /// Snapshots that were sent.
    sent: u32,
    /// What a person should know.
    notes: Vec<String>,
}

impl Memory {
    fn get(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more snapshot was sent: how many by now.
    fn sent(&self) -> u32 {
        let mut remembered = self.get();
        remembered.sent += 1;
        remembered.sent
    }

    /// What it came to, if anything was read in this way.
    pub(crate) fn counts(&self) -> Option<ScanCounts> {
        let remembered = self.get();
        (remembered.counts != ScanCounts::default()).then(|| remembered.counts.clone())
    }

    fn add(&self, attempt: &ScanCounts, doubt: Option<String>) {
        let counts = &mut self.get().counts;
        counts.passes += attempt.passes;
        counts.keys_read += attempt.keys_read;
        counts.events += attempt.events;
        counts.keys_read_again += attempt.keys_read_again;
        counts.flushes += attempt.flushes;
        counts.values_in_parts += attempt.values_in_parts;
        counts.values_whole += attempt.values_whole;
        for line in &attempt.not_promised {
            if !counts.not_promised.contains(line) {
                counts.not_promised.push(line.clone());
            }
        }
        if counts.doubts.len() < DOUBTS {
            counts.doubts.extend(doubt);
        }
    }
}

/// Which databases are read.
#[derive(Clone, Debug)]
struct Wanted(Option<Arc<Filter>>);

impl Wanted {
    fn wants(&self, db: u64) -> bool {
        self.0.as_ref().is_none_or(|filter| !filter.leaves_out_all(db))
    }
}

/// What is read, and how.
#[derive(Debug)]
struct Settings {
    /// One for each shard.
    nodes: Vec<ConnectOptions>,
    cluster: Option<ClusterOptions>,
    server: ServerInfo,
    /// That of the snapshot, which may hold everything.
    format: TargetFormat,
    /// In which values are encoded that were read in parts: as the source would.
    encoding: TargetFormat,
    abilities: Abilities,
    /// Deadlines are told as times.
    absolute: bool,
    /// There may be functions.
    functions: bool,
    value_limit: usize,
    wanted: Wanted,
    follow: Follow,
    passes: u32,
    throttle: Throttle,
}

impl Settings {
    fn address(&self) -> String {
        self.nodes.first().map(|node| node.address().to_string()).unwrap_or_default()
    }

    fn not_promised(&self, shared: &Shared, line: String) {
        let mut state = shared.state();
        if !state.counts.not_promised.contains(&line) && state.counts.not_promised.len() < DOUBTS {
            state.counts.not_promised.push(line);
        }
    }
}

/// Where the servers of a source are.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) nodes: Vec<ConnectOptions>,
    cluster: Option<ClusterOptions>,
}

impl Found {
    /// For people.
    pub(crate) fn name(&self) -> String {
        let first = self.nodes.first().map(|node| node.address().to_string()).unwrap_or_default();
        match self.nodes.len() {
            0 | 1 => first,
            several => format!("{first} and {} more", several - 1),
        }
    }

    /// Finds the primaries of a source.
    ///
    /// # Errors
    /// When a server cannot be reached.
    pub(crate) async fn find(endpoint: &Endpoint) -> Result<Self, Error> {
        match endpoint.clone().detect().await.map_err(Error::SourceConnection)? {
            Endpoint::Cluster(options) => {
                let found = cluster::discover(&options).await.map_err(Error::SourceConnection)?;
                let unserved = found.topology().unserved();
                if !unserved.is_empty() {
                    return Err(Error::SourceSlotsUnserved { slots: unserved.to_string() });
                }
                Ok(Found { nodes: found.primaries().collect(), cluster: Some(options) })
            }
            Endpoint::Sentinel(options) => {
                let primary = sentinel::primary(&options).await.map_err(Error::SourceConnection)?;
                Ok(Found { nodes: vec![primary], cluster: None })
            }
            other => Ok(Found { nodes: vec![other.options().clone()], cluster: None }),
        }
    }
}

/// A source that is being scanned. Ends when dropped; [`Scanner::finish`] also tidies up.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// Where the small primary is.
    pub(crate) connect: ConnectOptions,
    shared: Arc<Shared>,
    memory: Arc<Memory>,
    changed: Vec<settings::Changed>,
    thread: Option<std::thread::JoinHandle<()>>,
    stop: CancellationToken,
    /// Holds the socket.
    _directory: (tempfile::TempDir, std::fs::File),
}

impl Scanner {
    /// Subscribes to everything that has to be known, and opens the small primary. No key is read before it is asked for.
    ///
    /// `same` says that the target is the same server: keys of migrations are passed over then.
    ///
    /// # Errors
    /// When a server cannot be reached, or refuses what is needed.
    pub(crate) async fn start(
        found: Found,
        migration: &Migration,
        abilities: Abilities,
        same: bool,
    ) -> Result<Self, Error> {
        let Migration { options, scan: memory, throttle, .. } = migration;
        let Found { nodes, cluster } = found;
        let first = nodes.first().ok_or_else(|| Error::Internal("a source without a server".into()))?;
        let connection =
            Connection::connect(&first.clone().with_db(0)).await.map_err(Error::SourceConnection)?;
        let server = connection.server().clone();
        drop(connection);
        let (mut follow, mut changed, mut notes) = (options.follow, Vec::new(), Vec::new());
        if follow != Follow::Passes {
            for node in &nodes {
                match settings::enable(node).await {
                    Ok(setting) => changed.extend(setting),
                    Err(error @ Error::Scan { .. }) if follow == Follow::Auto => {
                        notes.push(format!(
                            "notifications are not to be had, passes have to do: {}",
                            error.to_line()
                        ));
                        follow = Follow::Passes;
                        break;
                    }
                    Err(error) => {
                        restore(changed).await;
                        return Err(error);
                    }
                }
            }
            if follow == Follow::Auto {
                follow = Follow::Notifications;
            }
        }
        if follow == Follow::Passes {
            notes.extend(restore(std::mem::take(&mut changed)).await);
        }
        let since = |major| server.version >= Version::new(major, 0, 0);
        let valkey = server.vendor == Vendor::Valkey && since(9);
        let settings = Settings {
            cluster,
            // The newest of them: what a file holds is told by its types.
            format: if valkey { TargetFormat::valkey(99, 0) } else { TargetFormat::redis(99, 0) },
            encoding: {
                let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
                let (major, minor) = (number(server.version.major), number(server.version.minor));
                match server.vendor {
                    Vendor::Valkey => TargetFormat::valkey(major, minor),
                    Vendor::Redis => TargetFormat::redis(major, minor),
                    Vendor::Redict => TargetFormat::redis(7, 2),
                    _ => TargetFormat::redis(5, 0),
                }
            },
            abilities,
            absolute: since(7) && server.vendor != Vendor::KeyDb,
            functions: since(7) && server.vendor != Vendor::KeyDb,
            value_limit: options.value_limit,
            wanted: Wanted(options.active_filter().cloned()),
            follow,
            passes: options.rescan.max(1),
            throttle: throttle.clone(),
            server,
            nodes,
        };
        let shared = Shared::new(same);
        for line in always(follow) {
            settings.not_promised(&shared, (*line).to_owned());
        }
        memory.get().notes.extend(notes);
        let failed =
            |doing: &'static str| move |error: std::io::Error| Error::Internal(format!("{doing}: {error}"));
        let directory = temporary::directory("scan")?;
        let path = directory.0.path().join("primary");
        let stop = CancellationToken::new();
        let (told, ready) = oneshot::channel();
        let work = {
            let (shared, memory, stop, path) =
                (Arc::clone(&shared), Arc::clone(memory), stop.clone(), path.clone());
            async move { work(settings, shared, memory, stop, &path, told).await }
        };
        let thread = std::thread::Builder::new()
            .name("keyferry-scan".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(work);
                }
            })
            .map_err(failed("starting a thread"))?;
        let scanner = Scanner {
            connect: ConnectOptions::unix(path),
            shared,
            memory: Arc::clone(memory),
            changed,
            thread: Some(thread),
            stop,
            _directory: directory,
        };
        match ready.await {
            Ok(Ok(())) => Ok(scanner),
            Ok(Err(error)) => {
                scanner.finish().await;
                Err(error)
            }
            Err(_) => {
                scanner.finish().await;
                Err(Error::Internal("the thread that scans the source ended".into()))
            }
        }
    }

    /// Ends it, puts settings of the source back, and tells what an attempt ends with that has ended with `error`.
    pub(crate) async fn finish_with(self, error: Error) -> Error {
        self.end(true).await.unwrap_or(error)
    }

    /// Ends it, and puts settings of the source back.
    pub(crate) async fn finish(self) {
        self.end(false).await;
    }

    /// What was wrong for good, if anything was.
    async fn end(mut self, failed: bool) -> Option<Error> {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            tokio::task::spawn_blocking(move || thread.join()).await.ok();
        }
        let notes = restore(std::mem::take(&mut self.changed)).await;
        let mut state = self.shared.state();
        // An attempt that came to its end had no doubt, or did not need to know of it.
        let doubt = state.doubt.take().filter(|_| failed);
        self.memory.add(&state.counts, doubt);
        self.memory.get().notes.extend(notes);
        state.fatal.take()
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Memory {
    /// What a person should know.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.get().notes)
    }
}

async fn restore(changed: Vec<settings::Changed>) -> Vec<String> {
    let mut notes = Vec::new();
    for setting in changed {
        notes.extend(setting.restore().await);
    }
    notes
}

/// What reading keys one by one cannot promise, whatever happens.
fn always(follow: Follow) -> &'static [&'static str] {
    match follow {
        Follow::Passes => &[
            "one moment of all keys: each is as it was when it was read",
            "transactions, and the order of writes to different keys",
            "changes of deadlines alone, at sources before 7.0",
        ],
        _ => &[
            "one moment of several keys: each is as it was when it was read",
            "transactions, and the order of writes to different keys",
            "values between two reads of a key, and messages (PUBLISH)",
        ],
    }
}

/// The thread that reads the source.
async fn work(
    settings: Settings,
    shared: Arc<Shared>,
    memory: Arc<Memory>,
    stop: CancellationToken,
    path: &std::path::Path,
    told: oneshot::Sender<Result<(), Error>>,
) {
    let opened = async {
        let followed = match settings.follow {
            Follow::Notifications => subscribe(&settings, &shared, &stop).await?,
            _ => Vec::new(),
        };
        let listener = UnixListener::bind(path)
            .map_err(|error| Error::Internal(format!("opening a socket at {}: {error}", path.display())))?;
        Ok((followed, listener))
    };
    let (followed, listener) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            told.send(Err(error)).ok();
            return;
        }
    };
    let topology = match &settings.cluster {
        Some(options) => Some((options.clone(), layout(options).await)),
        None => None,
    };
    let primary = Arc::new(Primary {
        settings,
        shared: Arc::clone(&shared),
        memory,
        id: server::new_id(),
        begun: AtomicBool::new(false),
        followed: tokio::sync::Mutex::new(followed),
    });
    told.send(Ok(())).ok();
    if let Some((options, before)) = topology {
        tokio::spawn(watch(options, before, Arc::clone(&shared)));
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(server::serve(Arc::clone(&primary), stream))),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            () = stop.cancelled() => return,
        }
    }
}

async fn subscribe(
    settings: &Settings,
    shared: &Arc<Shared>,
    stop: &CancellationToken,
) -> Result<Vec<Followed>, Error> {
    let mut followed = Vec::new();
    for (shard, node) in settings.nodes.iter().enumerate() {
        // Looked at before, so that nothing falls between.
        let mut connection =
            Connection::connect(&node.clone().with_db(0)).await.map_err(Error::SourceConnection)?;
        let blind = Blind::look(&mut connection).await.map_err(Error::SourceConnection)?;
        let events = Events::subscribe(node, shard).await.map_err(Error::SourceConnection)?;
        let tracks = events.tracks;
        if blind.is_none() {
            let lacks = if tracks { "" } else { "FLUSHALL and FLUSHDB, " };
            let line = format!(
                "{lacks}SWAPDB, functions and the groups of streams, of which no event tells: {} does not show INFO commandstats",
                node.address()
            );
            settings.not_promised(shared, line);
        }
        let (barriers, asked) = mpsc::channel(8);
        tokio::spawn(events.follow(Arc::clone(shared), asked, stop.clone()));
        followed.push(Followed { barriers, tracks, blind });
    }
    Ok(followed)
}

/// Which primaries have which slots.
async fn layout(options: &ClusterOptions) -> Option<String> {
    let found = cluster::discover(options).await.ok()?;
    let mut shards: Vec<String> = found
        .topology()
        .shards()
        .iter()
        .filter(|shard| !shard.slots.is_empty())
        .map(|shard| format!("{:?} {}", shard.primary.as_ref().map(|node| &node.id), shard.slots))
        .collect();
    shards.sort();
    Some(shards.join("; "))
}

/// Ends the history when slots have gone elsewhere: their keys may have been read at neither place, and at the new one nobody listens.
async fn watch(options: ClusterOptions, before: Option<String>, shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(TOPOLOGY) => {}
            () = shared.over.cancelled() => return,
        }
        // Who cannot be asked is asked again.
        if let Some(now) = layout(&options).await
            && before.as_ref() != Some(&now)
        {
            return shared.doubt("slots of the source went to other primaries".to_owned());
        }
    }
}
