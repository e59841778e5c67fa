//! Backups: what servers hold, as files.
//!
//! A [`Backup`] asks each primary for a snapshot as a replica does, all of a cluster at the same time, and writes it to a file: byte
//! for byte, one for each shard, or merged, or in another form. What is written is read as it passes by, so that a file is
//! whole and its checksum right when it gets its name, and never has it before. The servers' configuration is not touched, and
//! they go on meanwhile: each snapshot is of the moment at which its server began it.
//!
//! Of a cluster, the snapshot of each shard is kept as soon as it is whole, and the others are read to their end when one fails. A run that ends before all are there, however it ends, leaves these in a
//! directory beside what was to be written (`dump.rdb.partial`), and the next one goes on with the shards that are missing. A [`Manifest`] tells
//! what belongs together.
//!
//! [`Migration::from_files`](crate::Migration::from_files) is the way back.

mod copy;
mod manifest;
mod parts;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keyferry_client::Endpoint;
use keyferry_files::{
    Error as FileError, Input, InputOptions, Output, OutputKind,
    convert::{ConvertOptions, ConvertReport, convert},
    time,
};
use keyferry_replication::LinkOptions;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::copy::{Copied, Copy, SnapshotFile, UNNAMED, Written};
pub use self::manifest::{Manifest, ManifestFile, ManifestShard};
use self::parts::{Parts, Shard};
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
    /// Of a cluster: read all shards, whatever an earlier run has kept, which is removed.
    pub restart: bool,
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
            restart: false,
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
    kept: AtomicU64,
}

impl BackupProgress {
    /// How many shards of a cluster have a whole snapshot on disk, which the next run goes on with if this one ends before all are there: those of
    /// an earlier run among them.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// True once servers are read, or have been: before that there is nothing that could be left.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.servers.load(Ordering::Relaxed) > 0
    }

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

/// What is written, and where.
struct Plan {
    kind: OutputKind,
    outs: Vec<PathBuf>,
    /// The snapshots are what is written.
    as_they_are: bool,
}

/// How files are made of snapshots.
struct Writing {
    kind: OutputKind,
    replace: bool,
    is_stream: bool,
    options: ConvertOptions,
}

impl Writing {
    fn of(backup: &Backup, kind: OutputKind) -> Self {
        let mut options = backup.options.convert.clone();
        options.now = std::time::SystemTime::now();
        Writing { kind, replace: backup.options.replace, is_stream: backup.is_stream(), options }
    }

    /// Makes one file of these; `again` where an earlier run has made it.
    fn convert(&self, snapshots: &[&Path], out: &Path, again: bool) -> Result<ConvertReport, Error> {
        let inputs: Result<Vec<Input>, FileError> =
            snapshots.iter().map(|path| Input::open(path, InputOptions::default())).collect();
        let output = match self.is_stream {
            true => Output::writer("standard output", std::io::stdout(), self.kind),
            false if self.replace || again => Output::path(out, self.kind).private().replacing(),
            false => Output::path(out, self.kind).private(),
        };
        let done = convert(inputs?, vec![output], self.options.clone());
        done.result?;
        Ok(done.report)
    }
}

fn locked(parts: &Mutex<Parts>) -> MutexGuard<'_, Parts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// What tells of the files, where the source is a cluster.
    pub manifest: Option<PathBuf>,
    /// What a person should know: what was kept by an earlier run, and what of it was of no use.
    pub notes: Vec<String>,
}

/// The snapshot of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// When the server agreed to send it, in Unix milliseconds.
    pub taken_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// Its keys.
    pub keys: u64,
    /// Its function libraries.
    pub functions: u64,
    /// XXH3 of its bytes, 128 bits in hexadecimal, as `xxh128sum` prints it.
    pub digest: String,
    /// It was read by an earlier run.
    #[serde(default)]
    pub kept: bool,
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

    /// Where whole snapshots of shards are kept until all are there. There is no such directory before a run, after it has ended well, and while
    /// there is nothing to keep.
    #[must_use]
    pub fn partial_dir(&self) -> PathBuf {
        parts::directory(&self.out)
    }

    /// Runs to the end. When the future is dropped, nothing is left of it but whole snapshots of shards in [`Backup::partial_dir`], if the source
    /// is a cluster.
    ///
    /// # Errors
    /// When a server cannot be reached or read, when slots of a cluster move meanwhile, when a snapshot is damaged, or a file
    /// exists or cannot be written. No file has its name then, but for what was written before the last one of several could not be.
    /// When what an earlier run has kept is of shards that are other ones now.
    pub async fn run(self) -> Result<BackupReport, Error> {
        let kind =
            self.options.kind.or_else(|| OutputKind::of_path(&self.out)).unwrap_or(OutputKind::Snapshot);
        let source = Source::find(self.source.clone(), self.options.prefer_replicas).await?;
        let count = source.links.len();
        let several = count > 1 && !self.options.merge;
        if several && self.is_stream() {
            return Err(FileError::Exists {
                output: "standard output takes one file only: merge the shards; it".into(),
            }
            .into());
        }
        let outs: Vec<PathBuf> = match several {
            true => (1..=count).map(|number| numbered(&self.out, number, count)).collect(),
            false => vec![self.out.clone()],
        };
        let plan = Plan {
            kind,
            outs,
            as_they_are: kind == OutputKind::Snapshot
                && (several || count == 1)
                && self.options.convert.is_copy()
                && !self.is_stream(),
        };
        match count > 1 && !self.is_stream() {
            true => self.run_cluster(&source, plan).await,
            false => self.run_one(&source, plan).await,
        }
    }

    /// One server, or whatever goes to standard output: nothing is kept.
    async fn run_one(self, source: &Source, plan: Plan) -> Result<BackupReport, Error> {
        if !self.options.replace
            && let Some(there) =
                plan.outs.iter().find(|out| !self.is_stream() && out.symlink_metadata().is_ok())
        {
            return Err(FileError::Exists { output: there.display().to_string() }.into());
        }
        let parent = self.out.parent().filter(|parent| !parent.as_os_str().is_empty());
        let dir = match parent {
            _ if self.is_stream() => std::env::temp_dir(),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("."),
        };
        let mut copies: Vec<Option<Copied>> = source.links.iter().map(|_| None).collect();
        let all = source.links.iter().enumerate().collect();
        self.copy(all, &dir, false, |number, copied| {
            if let Some(place) = copies.get_mut(number) {
                *place = Some(copied);
            }
            std::future::ready(Ok(()))
        })
        .await?;
        self.confirm(source).await?;
        let copies: Vec<Copied> = copies.into_iter().flatten().collect();
        let snapshots = copies.iter().map(|copied| copied.snapshot.clone()).collect();
        let writing = Writing::of(&self, plan.kind);
        let (files, converted) = blocking(move || match (plan.as_they_are, &plan.outs[..]) {
            (true, [out]) => {
                for copied in copies {
                    copied.name(out, writing.replace)?;
                }
                Ok((plan.outs, Vec::new()))
            }
            _ => {
                let paths: Vec<&Path> = copies.iter().map(Copied::path).collect();
                let converted = plan.outs.iter().map(|out| writing.convert(&paths, out, false));
                let converted = converted.collect::<Result<_, Error>>()?;
                Ok((plan.outs, converted))
            }
        })
        .await?;
        let source = self.source.to_string();
        Ok(BackupReport { source, snapshots, converted, files, manifest: None, notes: Vec::new() })
    }

    /// All shards of a cluster, those that an earlier run has kept among them.
    async fn run_cluster(self, source: &Source, plan: Plan) -> Result<BackupReport, Error> {
        let shards: Vec<Shard> = source.links.iter().map(Shard::of).collect();
        let manifest = Manifest::path(&self.out);
        let (out, restart, replace) = (self.out.clone(), self.options.restart, self.options.replace);
        let (shards_there, outs) = (shards.clone(), plan.outs.clone());
        let (as_they_are, list) = (plan.as_they_are, manifest.clone());
        let (parts, mut notes) = blocking(move || {
            let named = if as_they_are { &outs[..] } else { &[] };
            let (parts, notes) = Parts::open(&out, &shards_there, named, restart)?;
            let foreign = |out: &&PathBuf| out.symlink_metadata().is_ok() && !parts.is_own(out);
            // A run that was killed in its last moments may have written it.
            let listed =
                || Manifest::load(&list).is_ok_and(|list| list.is_none_or(|list| parts.are_all(&list)));
            match outs.iter().find(foreign).or(Some(&list).filter(|_| !listed())) {
                Some(there) if !replace => {
                    Err(FileError::Exists { output: there.display().to_string() }.into())
                }
                _ => Ok((parts, notes)),
            }
        })
        .await?;
        parts.check_histories(&source.links).await?;
        let missing: Vec<(usize, &SourceLink)> = source
            .links
            .iter()
            .enumerate()
            .filter(|&(number, _)| parts.of(&shards[number]).is_none())
            .collect();
        let before: Vec<bool> = shards.iter().map(|shard| parts.of(shard).is_some()).collect();
        let kept = before.iter().filter(|&&kept| kept).count();
        // Also where all are: what a backup holds is as old as the oldest of them.
        let oldest = shards.iter().filter_map(|shard| Some(parts.of(shard)?.snapshot.taken_ms)).min();
        if let Some(oldest) = oldest {
            let others = match missing.is_empty() {
                true => "",
                false => {
                    "; the others are read from their beginning, also where that run was in the midst of them"
                }
            };
            notes.push(format!(
                "{kept} of {} shards were read by an earlier run, as they were at {} and later{others}",
                shards.len(),
                time::show(i64::try_from(oldest).unwrap_or(i64::MAX))
            ));
        }
        self.progress.0.kept.store(kept as u64, Ordering::Relaxed);
        let dir = parts.dir().to_owned();
        let parts = Arc::new(Mutex::new(parts));
        self.copy(missing, &dir, true, |number, copied| {
            let (parts, shard) = (Arc::clone(&parts), shards[number].clone());
            let progress = self.progress.clone();
            async move {
                blocking(move || locked(&parts).keep(&shard, copied)).await?;
                progress.0.kept.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        })
        .await?;
        if let Err(error) = self.confirm(source).await {
            if matches!(error, Error::SlotsMovedMeanwhile { .. }) {
                locked(&parts).forget();
            }
            return Err(error);
        }
        let snapshots: Vec<BackupSnapshot> = {
            let parts = locked(&parts);
            let of = shards.iter().zip(&before).filter_map(|(shard, &kept)| {
                Some(BackupSnapshot { kept, ..parts.of(shard)?.snapshot.clone() })
            });
            of.collect()
        };
        let writing = Writing::of(&self, plan.kind);
        let (told, list) = (snapshots.clone(), manifest.clone());
        let mut about = Manifest::new(self.source.to_string(), plan.kind.name());
        let (files, converted) = blocking(move || {
            let mut parts = locked(&parts);
            let mut converted = Vec::new();
            let each = shards.len() / plan.outs.len().max(1);
            for ((out, shards), told) in plan.outs.iter().zip(shards.chunks(each)).zip(told.chunks(each)) {
                let file = match plan.as_they_are {
                    true => {
                        for shard in shards {
                            parts.name(shard, out, writing.replace)?;
                        }
                        ManifestFile::new(out, told.first().map(|told| told.digest.clone()))
                    }
                    false => {
                        let paths: Vec<PathBuf> =
                            shards.iter().filter_map(|shard| parts.path(shard)).collect();
                        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
                        let again = parts.is_own(out);
                        converted.push(writing.convert(&paths, out, again)?);
                        ManifestFile::new(out, parts.made(out)?)
                    }
                };
                about.add(file, shards, told);
            }
            about.write(&list)?;
            parts.forget();
            Ok((plan.outs, converted))
        })
        .await?;
        let source = self.source.to_string();
        Ok(BackupReport { source, snapshots, converted, files, manifest: Some(manifest), notes })
    }

    fn is_stream(&self) -> bool {
        self.out == Path::new("-")
    }

    /// Reads these servers at once, each into a file without a name of its own in this directory, and hands over each that is whole. With `go_on` the
    /// others are read to their end when one fails: what is whole need not be read again.
    async fn copy<F: Future<Output = Result<(), Error>>>(
        &self,
        links: Vec<(usize, &SourceLink)>,
        dir: &Path,
        go_on: bool,
        mut whole: impl FnMut(usize, Copied) -> F,
    ) -> Result<(), Error> {
        self.progress.0.servers.store(links.len() as u64, Ordering::Relaxed);
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        let mut tasks = JoinSet::new();
        for (number, link) in links {
            let copy = Copy {
                stream: link.stream.clone(),
                slots: link.slots.as_ref().map(ToString::to_string),
                link: self.options.link.clone(),
                patience: self.options.patience,
                progress: self.progress.clone(),
                end: end.clone(),
            };
            let dir = dir.to_owned();
            tasks.spawn(async move { (number, copy.run(&dir).await) });
        }
        let mut failed = None;
        while let Some(done) = tasks.join_next().await {
            let (number, copied) =
                done.map_err(|e| Error::Internal(format!("the task that reads a server ended: {e}")))?;
            match copied {
                Ok(copied) => whole(number, copied).await?,
                Err(error) if go_on => {
                    tracing::warn!(reason = %error, "a server was not read; the others are read to their end");
                    failed = failed.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(()), Err)
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
