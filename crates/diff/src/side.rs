//! The two sides of a comparison, and how the parts of one are found and opened.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyferry_client::{Backoff, ClusterOptions, ConnectOptions, Endpoint, UrlError, cluster, sentinel};
use keyferry_files::{Input, InputOptions};
use keyferry_rdb::Limits;
use keyferry_replication::{Error as LinkError, Link, LinkOptions};
use keyferry_routing::{SlotSet, Topology};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::error::Error;
use crate::slots::changed;

/// How long a thread rests before it waits for more of a snapshot. Servers hand it over in pieces of a few kilobytes, and to be
/// woken for each would cost more than to read it; so the kernel collects meanwhile what a read of 256 KiB takes.
const REST: Duration = Duration::from_millis(2);

/// One side of a comparison.
///
/// ```
/// use keyferry_diff::Side;
///
/// assert!(matches!("redis+cluster://10.0.0.1:7000".parse()?, Side::Live(_)));
/// assert!(matches!("backup/dump.rdb".parse()?, Side::Files(_)));
/// # Ok::<(), keyferry_client::UrlError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Side {
    /// A server, a cluster or what sentinels watch, read by asking for snapshots as a replica does. A node of a cluster
    /// stands for its cluster.
    Live(Box<Endpoint>),
    /// Snapshots, append-only files without commands, or directories or manifests of these; together they are one data
    /// set, as those of the shards of a cluster. `-` is standard input.
    Files(Vec<PathBuf>),
}

impl Side {
    /// One file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::Files(vec![path.into()])
    }

    /// The database that its URL names, which is not looked at.
    pub(crate) fn named_database(&self) -> Option<u32> {
        match self {
            Self::Live(endpoint) => Some(endpoint.options().db()).filter(|db| *db != 0),
            Self::Files(_) => None,
        }
    }
}

impl From<Endpoint> for Side {
    fn from(endpoint: Endpoint) -> Self {
        Self::Live(Box::new(endpoint))
    }
}

/// What has `://` in it is a URL, anything else a file. A database in the URL chooses nothing: all are compared.
impl FromStr for Side {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.contains("://") { Ok(Self::Live(Box::new(text.parse()?))) } else { Ok(Self::file(text)) }
    }
}

/// The URL without its password, or the names of the files.
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(endpoint) => endpoint.fmt(f),
            Self::Files(paths) => {
                for (number, path) in paths.iter().enumerate() {
                    write!(f, "{}{}", if number > 0 { ", " } else { "" }, path.display())?;
                }
                Ok(())
            }
        }
    }
}

/// A part of a side that is read on its own.
#[derive(Debug)]
pub(crate) enum Part {
    File(PathBuf),
    Server {
        connect: Box<ConnectOptions>,
        /// The slots that it owns, where it is a node of a cluster. Other keys are left-overs that nobody sees.
        slots: Option<SlotSet>,
    },
}

/// The parts of a side.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) parts: Vec<Part>,
    /// The cluster it is, and its slots' owners before reading.
    pub(crate) cluster: Option<(ClusterOptions, Topology)>,
}

impl Parts {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// When a server cannot be reached; when slots of a cluster are served by nobody or are on the move.
    pub(crate) async fn find(side: &Side) -> Result<Self, Error> {
        let endpoint = match side {
            Side::Files(paths) if paths.is_empty() => return Err(Error::NoFile),
            Side::Files(paths) => {
                let parts = paths.iter().cloned().map(Part::File).collect();
                return Ok(Self { parts, cluster: None });
            }
            Side::Live(endpoint) => (**endpoint).clone().detect().await?,
        };
        let server = |connect| Part::Server { connect: Box::new(connect), slots: None };
        match endpoint {
            Endpoint::Cluster(options) => Self::of_cluster(options).await,
            Endpoint::Sentinel(options) => {
                let primary = sentinel::primary(&options).await?;
                Ok(Self { parts: vec![server(primary)], cluster: None })
            }
            other => Ok(Self { parts: vec![server(other.options().clone())], cluster: None }),
        }
    }

    async fn of_cluster(options: ClusterOptions) -> Result<Self, Error> {
        let found = cluster::discover(&options).await?;
        let cluster = found.asked().to_string();
        let unserved = found.topology().unserved();
        if !unserved.is_empty() {
            return Err(Error::SlotsUnserved { cluster, slots: unserved.to_string() });
        }
        let moves = found.moves().await?;
        if !moves.is_empty() {
            let mut slots = SlotSet::new();
            moves.iter().for_each(|step| slots.insert(step.slot));
            return Err(Error::SlotsMoved { cluster, slots: slots.to_string() });
        }
        let mut parts = Vec::new();
        for shard in found.topology().shards().iter().filter(|shard| !shard.slots.is_empty()) {
            let Some(connect) = shard.primary.as_ref().and_then(|primary| found.node(primary)) else {
                return Err(Error::SlotsUnserved { cluster, slots: shard.slots.to_string() });
            };
            parts.push(Part::Server { connect: Box::new(connect), slots: Some(shard.slots.clone()) });
        }
        Ok(Self { parts, cluster: Some((options, found.into_topology())) })
    }

    /// Makes sure that every slot is still where it was, after everything was read.
    ///
    /// # Errors
    ///
    /// [`Error::SlotsMoved`].
    pub(crate) async fn confirm(&self) -> Result<(), Error> {
        let Some((options, before)) = &self.cluster else { return Ok(()) };
        let found = cluster::discover(options).await?;
        let mut slots = changed(before, found.topology());
        found.moves().await?.iter().for_each(|step| slots.insert(step.slot));
        if slots.is_empty() {
            return Ok(());
        }
        Err(Error::SlotsMoved { cluster: found.asked().to_string(), slots: slots.to_string() })
    }
}

impl Part {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) if path == Path::new("-") => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Server { connect, .. } => connect.address().to_string(),
        }
    }

    /// Whether it is a server.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Server { .. })
    }

    /// Whether it can be read but once.
    pub(crate) fn is_stream(&self) -> bool {
        match self {
            // Pipes and devices, too.
            Self::File(path) => {
                path == Path::new("-") || path.metadata().is_ok_and(|data| !data.is_file() && !data.is_dir())
            }
            Self::Server { .. } => false,
        }
    }

    /// The slots whose keys count.
    pub(crate) fn slots(&self) -> Option<&SlotSet> {
        match self {
            Self::Server { slots, .. } => slots.as_ref(),
            Self::File(_) => None,
        }
    }

    /// Opens it. What this gives blocks; for a server it fails as soon as the sender of `given_up` is gone.
    pub(crate) fn open(
        &self,
        given_up: watch::Receiver<()>,
        link: &LinkOptions,
        patience: Duration,
        limits: Limits,
    ) -> Result<Input, Error> {
        let mut options = InputOptions::default();
        options.limits = limits;
        match self {
            Self::File(path) => Ok(Input::open(path, options)?),
            Self::Server { connect, .. } => {
                let reader = LinkReader::open(connect, link, patience, given_up)?;
                Ok(Input::from_reader(self.name(), reader, options)
                    .map_err(|e| Error::from(e).unwrapped())?)
            }
        }
    }
}

/// Asks for a snapshot, again while the server is not ready.
async fn establish(
    connect: &ConnectOptions,
    options: &LinkOptions,
    patience: Duration,
) -> Result<Link, LinkError> {
    let end = tokio::time::Instant::now() + patience;
    let mut backoff = Backoff::default();
    loop {
        match Link::connect(connect, options, None).await {
            Err(LinkError::NotReady { .. }) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            result => return result,
        }
    }
}

/// A snapshot from a server, for a thread that blocks: the socket is read by the thread that reduces what it gives.
struct LinkReader {
    /// `None` after the end.
    link: Option<Link>,
    given_up: watch::Receiver<()>,
    streaming: Arc<AtomicBool>,
    // Goes after the link, which lives in it.
    runtime: Runtime,
}

impl LinkReader {
    fn open(
        connect: &ConnectOptions,
        options: &LinkOptions,
        patience: Duration,
        mut given_up: watch::Receiver<()>,
    ) -> Result<Self, Error> {
        let streaming = Arc::new(AtomicBool::new(false));
        let resting = Arc::clone(&streaming);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || {
                if resting.load(Ordering::Relaxed) {
                    std::thread::sleep(REST);
                }
            })
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let link = runtime.block_on(async {
            tokio::select! {
                link = establish(connect, options, patience) => link.map_err(Error::from),
                _ = given_up.changed() => Err(Error::GivenUp),
            }
        })?;
        Ok(Self { link: Some(link), given_up, streaming, runtime })
    }
}

impl Read for LinkReader {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let Some(link) = &mut self.link else { return Ok(0) };
        let given_up = &mut self.given_up;
        let n = self.runtime.block_on(async {
            tokio::select! {
                n = link.read_snapshot(space) => n.map_err(io::Error::other),
                _ = given_up.changed() => Err(io::Error::other(Error::GivenUp)),
            }
        })?;
        self.streaming.store(n > 0, Ordering::Relaxed);
        if n == 0 {
            self.link = None;
        }
        Ok(n)
    }
}
