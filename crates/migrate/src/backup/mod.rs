//! Backups: what servers hold, as files.
//!
//! A [`Backup`] asks each primary for a snapshot as a replica does, all of a cluster at the same time, and writes it to a file: byte
//! for byte, one for each shard, or merged, or in another form. What is written is read as it passes by, so that a file is
//! whole and its checksum right when it gets its name, and never has it before. The servers' configuration is not touched, and
//! they go on meanwhile: each snapshot is of the moment at which its server began it.
//!
//! [`Migration::from_files`](crate::Migration::from_files) is the way back.

mod copy;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keyferry_client::Endpoint;
use keyferry_files::{
    Error as FileError, Input, InputOptions, Output, OutputKind,
    convert::{ConvertOptions, ConvertReport, convert},
};
use keyferry_replication::LinkOptions;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::copy::{Copied, Copy, SnapshotFile, UNNAMED, Written};
use crate::{
    error::Error,
    journal::blocking,
    source::{Source, SourceLink},
};

/// How servers are backed up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackupOptions {
    /// What is written. Default: by the end of the name, else a snapshot.
    pub kind: Option<OutputKind>,
    /// Of a cluster: one file of everything, instead of one for each shard. The snapshots wait on disk, beside the file, until all
    /// are there.
    pub merge: bool,
    /// Replace files that exist.
    pub replace: bool,
    /// Read from replicas that work, where there are any (clusters, sentinels).
    pub prefer_replicas: bool,
    /// How servers are spoken to.
    pub link: LinkOptions,
    /// How long a server may be unable to make a snapshot, as it loads data or makes another one. Default: a minute.
    pub patience: Duration,
    /// What is chosen and changed where something else is written than the snapshots as they are.
    pub convert: ConvertOptions,
}

impl Default for BackupOptions {
    fn default() -> Self {
        BackupOptions {
            kind: None,
            merge: false,
            replace: false,
            prefer_replicas: false,
            link: LinkOptions::default(),
            patience: Duration::from_secs(60),
            convert: ConvertOptions::default(),
        }
    }
}

/// A backup that has not begun.
#[derive(Debug)]
pub struct Backup {
    source: Endpoint,
    out: PathBuf,
    options: BackupOptions,
    progress: BackupProgress,
}

/// How far a backup is. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct BackupProgress(Arc<Figures>);

#[derive(Debug, Default)]
struct Figures {
    received: AtomicU64,
    keys: AtomicU64,
    /// What servers said beforehand, and how many did.
    total: AtomicU64,
    told: AtomicU64,
    servers: AtomicU64,
}

impl BackupProgress {
    /// Bytes of snapshots received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Keys in these.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.0.keys.load(Ordering::Relaxed)
    }

    /// Bytes of all snapshots, where all servers have told that: those that write theirs to their disk first.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let all = of(&self.0.servers) > 0 && of(&self.0.told) == of(&self.0.servers);
        all.then(|| of(&self.0.total))
    }
}

/// What a backup holds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BackupReport {
    /// The source: its URL without the password.
    pub source: String,
    /// Each server that was read.
    pub snapshots: Vec<BackupSnapshot>,
    /// What was written, and what of it was changed or lost, where something else was written than the snapshots as they are.
    pub converted: Vec<ConvertReport>,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// The snapshot of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackupSnapshot {
    /// The server.
    pub server: String,
    /// The slots that it served, in a cluster.
    pub slots: Option<String>,
    /// What it stands for: the history and the offset in it.
    pub replication_id: String,
    /// That offset.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
    /// Its keys.
    pub keys: u64,
    /// Its function libraries.
    pub functions: u64,
}

impl Backup {
    /// A backup of these servers into this file, or for `-` to standard output. Of the shards of a cluster each gets a file with its number in
    /// the name (`dump.1-of-3.rdb`), unless they are [merged](BackupOptions::merge).
    #[must_use]
    pub fn new(source: Endpoint, out: impl Into<PathBuf>) -> Self {
        Backup {
            source,
            out: out.into(),
            options: BackupOptions::default(),
            progress: BackupProgress::default(),
        }
    }

    /// Settings to change before it runs.
    pub fn options_mut(&mut self) -> &mut BackupOptions {
        &mut self.options
    }

    /// A live view.
    #[must_use]
    pub fn progress(&self) -> BackupProgress {
        self.progress.clone()
    }

    /// Runs to the end. When the future is dropped, nothing is left of it.
    ///
    /// # Errors
    /// When a server cannot be reached or read, when slots of a cluster move meanwhile, when a snapshot is damaged, or a file
    /// exists or cannot be written; no file has its name then.
    pub async fn run(self) -> Result<BackupReport, Error> {
        let kind =
            self.options.kind.or_else(|| OutputKind::of_path(&self.out)).unwrap_or(OutputKind::Snapshot);
        let source = Source::find(self.source.clone(), self.options.prefer_replicas).await?;
        let several = source.links.len() > 1 && !self.options.merge;
        let outs: Vec<PathBuf> = match several {
            true => {
                (1..).take(source.links.len()).map(|n| numbered(&self.out, n, source.links.len())).collect()
            }
            false => vec![self.out.clone()],
        };
        if several && self.is_stream() {
            return Err(FileError::Exists {
                output: "standard output takes one file only: merge the shards; it".into(),
            }
            .into());
        }
        if !self.options.replace
            && let Some(there) = outs.iter().find(|out| !self.is_stream() && out.symlink_metadata().is_ok())
        {
            return Err(FileError::Exists { output: there.display().to_string() }.into());
        }
        let copies = self.copy(&source.links).await?;
        self.confirm(&source).await?;
        let snapshots: Vec<BackupSnapshot> = copies.iter().map(|copied| copied.snapshot.clone()).collect();
        let as_they_are = kind == OutputKind::Snapshot
            && (several || copies.len() == 1)
            && self.options.convert.is_copy()
            && !self.is_stream();
        let (replace, stream, mut options) =
            (self.options.replace, self.is_stream(), self.options.convert.clone());
        options.now = std::time::SystemTime::now();
        let (files, converted) = blocking(move || {
            if as_they_are {
                for (copied, out) in copies.into_iter().zip(&outs) {
                    copied.name(out, replace)?;
                }
                return Ok((outs, Vec::new()));
            }
            let mut converted = Vec::new();
            let groups = if several { copies.chunks(1) } else { copies.chunks(copies.len().max(1)) };
            for (group, out) in groups.zip(&outs) {
                let inputs: Result<Vec<Input>, FileError> =
                    group.iter().map(|copied| Input::open(copied.path(), InputOptions::default())).collect();
                let output = match stream {
                    true => Output::writer("standard output", std::io::stdout(), kind),
                    false if replace => Output::path(out, kind).replacing(),
                    false => Output::path(out, kind),
                };
                let done = convert(inputs?, vec![output], options.clone());
                done.result?;
                converted.push(done.report);
            }
            Ok((outs, converted))
        })
        .await?;
        Ok(BackupReport { source: self.source.to_string(), snapshots, converted, files })
    }

    fn is_stream(&self) -> bool {
        self.out == Path::new("-")
    }

    /// Reads all servers at once, each into a file without a name of its own beside what is to be written.
    async fn copy(&self, links: &[SourceLink]) -> Result<Vec<Copied>, Error> {
        let parent = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = match parent {
            _ if self.is_stream() => std::env::temp_dir(),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("."),
        };
        self.progress.0.servers.store(links.len() as u64, Ordering::Relaxed);
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        let mut tasks = JoinSet::new();
        for (number, link) in links.iter().enumerate() {
            let copy = Copy {
                stream: link.stream.clone(),
                slots: link.slots.as_ref().map(ToString::to_string),
                link: self.options.link.clone(),
                patience: self.options.patience,
                progress: self.progress.clone(),
                end: end.clone(),
            };
            let dir = dir.clone();
            tasks.spawn(async move { (number, copy.run(&dir).await) });
        }
        let mut copies: Vec<Option<Copied>> = links.iter().map(|_| None).collect();
        while let Some(done) = tasks.join_next().await {
            let (number, copied) =
                done.map_err(|e| Error::Internal(format!("the task that reads a server ended: {e}")))?;
            if let Some(place) = copies.get_mut(number) {
                *place = Some(copied?);
            }
        }
        Ok(copies.into_iter().flatten().collect())
    }

    /// Makes sure that every shard has the slots that it had.
    async fn confirm(&self, before: &Source) -> Result<(), Error> {
        if before.links.iter().all(|link| link.slots.is_none()) {
            return Ok(());
        }
        // It refuses slots that are on the move.
        let now = Source::find(self.source.clone(), self.options.prefer_replicas).await?;
        for link in &before.links {
            let is_same =
                |other: &&SourceLink| other.slots == link.slots && !other.nodes.is_disjoint(&link.nodes);
            if !now.links.iter().any(|other| is_same(&other)) {
                let slots = link.slots.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(Error::SlotsMovedMeanwhile { slots, shard: link.name.clone() });
            }
        }
        Ok(())
    }
}

/// `dir/dump.rdb` becomes `dir/dump.1-of-3.rdb`.
fn numbered(out: &Path, number: usize, of: usize) -> PathBuf {
    let mut name = out.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number}-of-{of}"));
    if let Some(extension) = out.extension() {
        name.push(".");
        name.push(extension);
    }
    out.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_have_their_numbers_in_their_names() {
        for (out, name) in
            [("a/dump.rdb", "a/dump.2-of-3.rdb"), ("dump", "dump.2-of-3"), ("d/log/", "d/log.2-of-3")]
        {
            assert_eq!(numbered(Path::new(out), 2, 3), Path::new(name));
        }
    }
}
