//! Archives: everything that a server has held, at any moment of a time.
//!
//! An [`Archive`] follows a server as a replica does, and keeps its stream of commands with snapshots between ([`ArchiveOptions`]). A
//! [`Stored`] archive is read: what is there ([`Stored::listing`]), whether it is as it was written ([`Stored::verify`]), how a key
//! came to be what it was ([`Stored::history`]), and the [`Point`] that stands for a moment, which
//! [`Restore`](crate::restore::Restore) restores, and [`Point::export_to`] writes as a directory that `redis-server --appendonly yes`
//! loads. It may be read while it is written.
//!
//! # What is in the directory
//!
//! - `base-N.rdb`: snapshots, byte for byte as the server sent them.
//! - `segment-N.aof.gz`: parts of the stream, one behind the other: append-only files with our annotations (`#ID:`, `#OFFSET:`,
//!   `#MS:`), which servers skip; compressed when they are closed (`zcat` expands them). The one that is being written is plain.
//! - `keyferry-archive.json`: which files belong together, what each holds, and its digests.
//!
//! # What is promised
//!
//! - What the source has been told to be received (`WAIT`) is in the archive's file, and on disk as [`ArchiveOptions::fsync`] says.
//! - A run that is killed at any moment goes on where the file ends with a whole command, by partial resync. Where the source cannot go on
//!   there, a new snapshot begins a new history, and the gap is in the listing.
//! - Snapshots are complete and have the right checksum before they count. Segments are read back, command by command,
//!   when they are closed, and once more when they have been compressed.
//! - Nothing that is needed for [`ArchiveOptions::keep`] is removed for age; the newest snapshot and what came behind it never.
//!
//! Times are those of the machine that archives, at which a command came, to a tenth of a second.

mod catalog;
mod error;
mod follow;
mod history;
mod listing;
mod pack;
mod point;
mod progress;
mod scan;
mod store;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use keyferry_client::Endpoint;
use keyferry_replication::{AckPolicy, LinkOptions};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::pack::digest_file;
pub use self::{
    error::{ArchiveError, Damage},
    history::{HistoryEnd, KeyWrite},
    listing::{Coverage, Gap, Generation, Listing, Span, Stored, StoredFile},
    point::{Point, When},
    progress::{ArchiveFigures, ArchiveProgress},
};
use self::{follow::Follower, store::Store};
use crate::{error::Error, journal::blocking, options::Fsync, source::Source};

/// Which files there are.
const CATALOG: &str = "keyferry-archive.json";

/// Locked by whoever reads: files stay as long as somebody does.
const READERS: &str = "keyferry-readers.lock";

/// How an archive is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ArchiveOptions {
    /// How often a snapshot is taken: a restore carries out the commands since the last one before its moment. Each costs the source
    /// what a new replica does. Default: six hours.
    pub base_every: Duration,
    /// How far back every moment can be restored. Default: seven days. None keeps everything.
    pub keep: Option<Duration>,
    /// Bytes that all files of the archive of one server may have; what is oldest goes first. The newest snapshot and what came behind it stay; a
    /// snapshot is taken early when that alone is too much. Default: no bound.
    pub max_bytes: Option<u64>,
    /// The size in bytes at which a segment is closed. Default: 256 MiB.
    pub segment_bytes: u64,
    /// The age at which a segment is closed. Default: 15 minutes.
    pub segment_age: Duration,
    /// When what came is written through to the disk. Default: [`Fsync::EverySecond`].
    pub fsync: Fsync,
    /// Read from replicas that work, where there are any (clusters, sentinels).
    pub prefer_replicas: bool,
    /// How long the source may be away. Default: 12 hours.
    pub reconnect_window: Duration,
    /// How the source is spoken to.
    pub link: LinkOptions,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        let mut link = LinkOptions::default();
        link.acks = AckPolicy::Applied;
        ArchiveOptions {
            base_every: Duration::from_secs(6 * 3600),
            keep: Some(Duration::from_secs(7 * 86_400)),
            max_bytes: None,
            segment_bytes: 256 << 20,
            segment_age: Duration::from_secs(15 * 60),
            fsync: Fsync::EverySecond,
            prefer_replicas: false,
            reconnect_window: Duration::from_secs(12 * 3600),
            link,
        }
    }
}

/// An archive that is kept as long as it runs.
#[derive(Debug)]
pub struct Archive {
    source: Endpoint,
    dir: PathBuf,
    options: ArchiveOptions,
    progress: ArchiveProgress,
    stop: CancellationToken,
}

/// Stops an archive that is kept.
#[derive(Clone, Debug)]
pub struct ArchiveStopper(CancellationToken);

impl ArchiveStopper {
    /// Asks for the stop; [`Archive::run`] returns when what has come is on disk. Asking again does nothing.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

/// How keeping an archive ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Archived {
    /// What it did, also when it failed.
    pub report: ArchiveReport,
    /// The error that ended it; a stop is none.
    pub result: Result<(), Error>,
}

/// What was archived.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ArchiveReport {
    /// The URL of the source, without its password.
    pub source: String,
    /// The directory.
    pub dir: PathBuf,
    /// Each server that was followed.
    pub links: Vec<ArchiveFigures>,
    /// What ended it, in one line; none for a stop.
    pub error: Option<String>,
}

impl Archive {
    /// The archive of a server, or of the primary that sentinels know, in this directory: empty, not there yet, or of an
    /// earlier run. Of a cluster each shard has an archive of its own in it, `shard-` and its first slot, which is
    /// read by itself.
    #[must_use]
    pub fn new(source: Endpoint, dir: impl Into<PathBuf>) -> Self {
        Archive {
            source,
            dir: dir.into(),
            options: ArchiveOptions::default(),
            progress: ArchiveProgress::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Settings to change before it runs.
    pub fn options_mut(&mut self) -> &mut ArchiveOptions {
        &mut self.options
    }

    /// A live view.
    #[must_use]
    pub fn progress(&self) -> ArchiveProgress {
        self.progress.clone()
    }

    /// A handle that stops it: what has come is on disk then.
    #[must_use]
    pub fn stopper(&self) -> ArchiveStopper {
        ArchiveStopper(self.stop.clone())
    }

    /// Runs until it is stopped, or something ends it: a directory that is another's or cannot be written to, a source that
    /// refuses or is away for too long. Inside a tokio runtime.
    pub async fn run(self) -> Archived {
        let result = self.keep().await;
        let report = ArchiveReport {
            source: self.source.to_string(),
            dir: self.dir.clone(),
            links: self.progress.figures(),
            error: result.as_ref().err().map(Error::to_line),
        };
        Archived { report, result }
    }

    async fn keep(&self) -> Result<(), Error> {
        let found = Source::find(self.source.clone(), self.options.prefer_replicas);
        let source = tokio::select! {
            source = found => source?,
            () = self.stop.cancelled() => return Ok(()),
        };
        // Those that are still running end with it.
        let stop = self.stop.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let mut followers = JoinSet::new();
        for link in source.links {
            let slots = link.slots.as_ref().map(ToString::to_string);
            let dir = match &slots {
                None => self.dir.clone(),
                Some(slots) => follow::shard_dir(&self.dir, slots),
            };
            let progress = self.progress.add(link.name);
            let (url, sync) = (self.source.to_string(), self.options.fsync != Fsync::No);
            let (store, notes) = blocking(move || Store::open(&dir, (url, slots), sync)).await?;
            notes.into_iter().for_each(|note| progress.note(note));
            let follower = Follower {
                store,
                stream: link.stream,
                options: self.options.clone(),
                progress,
                stop: stop.clone(),
            };
            followers.spawn(async move { follower.run().await });
        }
        let mut result = Ok(());
        while let Some(ended) = followers.join_next().await {
            let ended =
                ended.unwrap_or_else(|e| Err(Error::Internal(format!("the task that archives ended: {e}"))));
            // The others keep what they have.
            stop.cancel();
            result = result.and(ended);
        }
        result
    }
}
