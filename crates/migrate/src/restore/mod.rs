//! Restoring what a server held at a moment: all of it, or some keys; into a server or a file.
//!
//! What the commands since a snapshot came to (`INCR`, `XADD`, scripts) only a server can tell. So they are carried out by one: by
//! the target itself, where everything goes there and nothing is there yet; else by a scratch server, which
//! has to be empty, at least as new as the one that was archived, with memory for all data of the moment. What was asked for is then taken from
//! there. The scratch server is emptied at the end.
//!
//! While commands are carried out nothing expires: a key is there if it was there at the moment, however long ago its time was over. Then
//! [`RestoreExpiry`] says what becomes of deadlines.

mod scratch;
mod server;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use keyferry_client::Endpoint;
use keyferry_files::{
    Error as FileError, Input, InputOptions, KeyName, Output, OutputKind, Selection,
    convert::{ConvertOptions, convert, library_name},
};
use keyferry_rdb::{Event, Parser};
use serde::Serialize;

pub use self::scratch::Scratch;
use self::server::Servers;
use crate::{
    archive::{ArchiveError, Point},
    backup::Backup,
    error::Error,
    filter::{Doubt, Filter, Rename, Settings},
    journal::{blocking, failed},
    migration::Migration,
    options::{Deadlines, OnExists},
    progress::Progress,
    report::Report,
};

/// How long servers may be away.
const AWAY: Duration = Duration::from_secs(60);

/// Keys that are asked for at once.
const ASKED: usize = 1000;

/// Names in an error, at most.
const SAMPLES: usize = 8;

/// Where to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RestoreTo {
    /// A server, a cluster, or the primary that sentinels know.
    Server(Box<Endpoint>),
    /// A file, whose kind its name tells as for [backups](crate::backup::Backup): a snapshot, unless it says otherwise.
    File(PathBuf),
}

/// What becomes of deadlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreExpiry {
    /// They are as they were. What would be over by now, is gone, and counted.
    #[default]
    Keep,
    /// As much is left as was left at the moment; counted from when the commands have been carried out.
    Shift,
    /// There are none.
    Freeze,
}

/// What is restored, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Keys of such names only. Default: all, with the function libraries, which are left out otherwise.
    pub keys: Vec<KeyName>,
    /// Of these databases only. Default: all.
    pub databases: Vec<u64>,
    /// What comes before each name. Default: nothing.
    pub rename: Option<String>,
    /// What becomes of deadlines.
    pub expiry: RestoreExpiry,
    /// Function libraries, too, where all keys are restored. Default: yes. Each shard of a cluster has all of them, so that one of several
    /// shards is enough to bring them.
    pub functions: bool,
    /// What happens to keys that the target has already. They are looked for before anything is written. A file is replaced by
    /// [`OnExists::Replace`] only. Default: [`OnExists::Fail`].
    pub on_exists: OnExists,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        RestoreOptions {
            keys: Vec::new(),
            databases: Vec::new(),
            rename: None,
            expiry: RestoreExpiry::default(),
            functions: true,
            on_exists: OnExists::Fail,
        }
    }
}

impl RestoreOptions {
    fn is_whole(&self) -> bool {
        self.keys.is_empty() && self.databases.is_empty() && self.rename.is_none()
    }

    fn selection(&self) -> Selection {
        let mut selection = Selection::default();
        selection.keys.clone_from(&self.keys);
        selection.databases.clone_from(&self.databases);
        selection
    }

    fn deadlines(&self, point: &Point) -> Deadlines {
        match self.expiry {
            RestoreExpiry::Keep => Deadlines::Keep,
            RestoreExpiry::Shift => Deadlines::ShiftFrom(i64::try_from(point.moment()).unwrap_or(i64::MAX)),
            RestoreExpiry::Freeze => Deadlines::Drop,
        }
    }
}

/// A restore that has not begun.
#[derive(Debug)]
pub struct Restore {
    point: Point,
    to: RestoreTo,
    scratch: Option<Endpoint>,
    options: RestoreOptions,
    progress: RestoreProgress,
}

/// How far a restore is. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct RestoreProgress(Arc<Mutex<(&'static str, Option<Progress>)>>);

impl RestoreProgress {
    /// What is done at the moment, and how far that is where it is known.
    #[must_use]
    pub fn step(&self) -> (&'static str, Option<Progress>) {
        self.state().clone()
    }

    fn state(&self) -> MutexGuard<'_, (&'static str, Option<Progress>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, step: &'static str, progress: Option<Progress>) {
        *self.state() = (step, progress);
    }
}

/// What was restored.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The moment: replication id and offset.
    pub position: String,
    /// The time that it stands for, in Unix milliseconds.
    pub moment: u64,
    /// When what came last before it came, in Unix milliseconds.
    pub came: u64,
    /// The snapshot that it was built on.
    pub base: String,
    /// Where to.
    pub target: String,
    /// The commands were carried out by a scratch server.
    pub scratch: bool,
    /// Commands that were carried out behind the snapshot.
    pub commands: u64,
    /// Keys that are there now.
    pub keys: u64,
    /// Of these, how many the target had before, and have been replaced.
    pub replaced: u64,
    /// Keys that the target had before, and that stayed as they were.
    pub skipped: u64,
    /// Keys that became the union of both.
    pub merged: u64,
    /// Function libraries that are there now.
    pub functions: u64,
    /// Keys with a deadline, as they were at the moment.
    pub with_deadline: u64,
    /// Of these, how many were over by now, and are gone.
    pub over: u64,
    /// Fields of hashes whose deadline was over by now: they are gone.
    pub over_fields: u64,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What is in a snapshot that was taken from the scratch server.
#[derive(Debug, Default)]
struct Chosen {
    keys: u64,
    libraries: BTreeSet<Vec<u8>>,
    /// Of the target: keys and libraries that are there.
    existing: u64,
    samples: Vec<String>,
}

impl Restore {
    /// A restore of this moment.
    #[must_use]
    pub fn new(point: Point, to: RestoreTo) -> Self {
        Restore {
            point,
            to,
            scratch: None,
            options: RestoreOptions::default(),
            progress: RestoreProgress::default(),
        }
    }

    /// Settings to change before it runs.
    pub fn options_mut(&mut self) -> &mut RestoreOptions {
        &mut self.options
    }

    /// An empty server that may be used to carry out commands; it is emptied at the end.
    pub fn set_scratch(&mut self, scratch: Endpoint) {
        self.scratch = Some(scratch);
    }

    /// A live view.
    #[must_use]
    pub fn progress(&self) -> RestoreProgress {
        self.progress.clone()
    }

    /// Whether a scratch server is needed: for a file, for some of the keys or without libraries, and where the target holds something.
    ///
    /// # Errors
    /// When the target cannot be reached.
    pub async fn needs_scratch(&self) -> Result<bool, Error> {
        match &self.to {
            RestoreTo::Server(target) if self.options.is_whole() && self.options.functions => {
                Ok(Servers::connect(target).await?.contents().await?.is_some())
            }
            _ => Ok(true),
        }
    }

    /// Runs to the end. When it is dropped, or fails while it writes to the target, a part may be there.
    ///
    /// # Errors
    /// [`ArchiveError`] when a scratch server is needed or not fit, keys exist, or none is chosen: nothing is written then. As
    /// [`Migration::run`] and [`Backup::run`].
    pub async fn run(self) -> Result<RestoreReport, Error> {
        // What a caller holds stays small, however much there is to do.
        Box::pin(self.restore()).await
    }

    async fn restore(self) -> Result<RestoreReport, Error> {
        let point = &self.point;
        let mut report = RestoreReport {
            position: point.position(),
            moment: point.moment(),
            came: point.came(),
            base: point.base().0.to_owned(),
            target: match &self.to {
                RestoreTo::Server(target) => target.to_string(),
                RestoreTo::File(path) => path.display().to_string(),
            },
            scratch: false,
            commands: 0,
            keys: 0,
            replaced: 0,
            skipped: 0,
            merged: 0,
            functions: 0,
            with_deadline: 0,
            over: 0,
            over_fields: 0,
            notes: Vec::new(),
        };
        self.progress.set("looking at the target", None);
        if let RestoreTo::File(path) = &self.to
            && self.options.on_exists != OnExists::Replace
            && path.symlink_metadata().is_ok()
        {
            return Err(FileError::Exists { output: path.display().to_string() }.into());
        }
        if let RestoreTo::Server(target) = &self.to
            && !self.needs_scratch().await?
        {
            self.replay(target, "carrying out commands at the target", &mut report).await?;
            let mut servers = Servers::connect(target).await?;
            (report.keys, report.functions) =
                (servers.keys().await?, servers.libraries().await?.len() as u64);
            return Ok(report);
        }
        let scratch = self.scratch.as_ref().ok_or(ArchiveError::NeedsScratch)?;
        let mut servers = Servers::scratch(scratch).await?;
        report.scratch = true;
        let done = Box::pin(self.by_scratch(scratch, &mut servers, &mut report)).await;
        self.progress.set("emptying the scratch server", None);
        let emptied = servers.empty().await;
        done?;
        if let Err(error) = emptied {
            report.notes.push(format!("the scratch server still holds data: {}", error.to_line()));
        }
        Ok(report)
    }

    /// Carries out everything up to the moment at a server that holds nothing.
    async fn replay(
        &self,
        server: &Endpoint,
        step: &'static str,
        report: &mut RestoreReport,
    ) -> Result<(), Error> {
        let mut migration = Migration::from_archive(self.point.clone(), server.clone());
        migration.options_mut().deadlines = self.options.deadlines(&self.point);
        let done = self.migrate(migration, step).await?;
        let expiry = &done.expiry;
        report.commands = done.files.iter().map(|file| file.commands - file.link_commands).sum();
        (report.with_deadline, report.over, report.over_fields) =
            (expiry.released, expiry.over, expiry.over_fields);
        report.notes.extend(done.notes);
        Ok(())
    }

    async fn migrate(&self, mut migration: Migration, step: &'static str) -> Result<Report, Error> {
        let options = migration.options_mut();
        (options.retry_connect, options.retry_other) = (AWAY, AWAY);
        self.progress.set(step, Some(migration.progress()));
        let finished = migration.run().await;
        finished.result.map(|()| finished.report)
    }

    async fn by_scratch(
        &self,
        scratch: &Endpoint,
        servers: &mut Servers,
        report: &mut RestoreReport,
    ) -> Result<(), Error> {
        self.replay(scratch, "carrying out commands at the scratch server", report).await?;
        let parent = match &self.to {
            RestoreTo::File(path) => path.parent().filter(|parent| !parent.as_os_str().is_empty()),
            RestoreTo::Server(_) => None,
        };
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = tempfile::Builder::new().prefix(".keyferry-restore-").tempdir_in(&parent);
        let dir = dir.map_err(|e| failed(&parent, "creating a directory", e))?;
        let whole = dir.path().join("whole.rdb");
        if !self.options.is_whole() || !self.options.functions {
            // Libraries belong to the server, not to some of its keys.
            servers.empty_functions().await?;
        }
        self.progress.set("taking what was asked for", None);
        let mut backup = Backup::new(scratch.clone(), &whole);
        backup.options_mut().convert.selection = self.options.selection();
        backup.run().await?;
        let mut target = match &self.to {
            RestoreTo::Server(target) => Some(Servers::connect(target).await?),
            RestoreTo::File(_) => None,
        };
        let chosen = self.look(&whole, target.as_mut()).await?;
        if chosen.keys == 0 && !self.options.is_whole() {
            let moment = self.point.position();
            return Err(ArchiveError::NothingChosen { moment }.into());
        }
        if chosen.existing > 0 && self.options.on_exists == OnExists::Fail {
            let Chosen { existing: count, samples, .. } = chosen;
            return Err(ArchiveError::KeysExist { target: report.target.clone(), count, samples }.into());
        }
        report.keys = chosen.keys;
        report.functions = chosen.libraries.len() as u64;
        if self.options.on_exists == OnExists::Replace {
            report.replaced = chosen.existing;
        }
        let filter = self.filter()?;
        match (&self.to, filter) {
            (RestoreTo::Server(target), filter) => {
                let mut migration = Migration::from_files(vec![whole], (**target).clone());
                let options = migration.options_mut();
                options.filter = filter.map(Arc::new);
                options.on_exists = match self.options.on_exists {
                    // Only the keys that are restored have been asked for, not all that the target has.
                    OnExists::Fail => OnExists::Replace,
                    other => other,
                };
                let done = self.migrate(migration, "writing to the target").await?;
                let existing = &done.existing;
                (report.skipped, report.merged) = (existing.skipped.count, existing.merged.count);
                if existing.replaced.count > 0 {
                    report.replaced = existing.replaced.count;
                }
                report.keys = report.keys.saturating_sub(report.skipped);
                report.notes.extend(done.notes);
                Ok(())
            }
            (RestoreTo::File(path), None) => self.write(whole, path).await,
            (RestoreTo::File(path), Some(filter)) => {
                servers.empty().await?;
                let mut migration = Migration::from_files(vec![whole], scratch.clone());
                migration.options_mut().filter = Some(Arc::new(filter));
                self.migrate(migration, "renaming at the scratch server").await?;
                let renamed = dir.path().join("renamed.rdb");
                Backup::new(scratch.clone(), &renamed).run().await?;
                self.write(renamed, path).await
            }
        }
    }

    fn filter(&self) -> Result<Option<Filter>, Error> {
        let Some(prefix) = &self.options.rename else { return Ok(None) };
        let mut settings = Settings::default();
        settings.renames.push(Rename::AddPrefix(prefix.as_bytes().to_vec()));
        // A prefix makes no two names one; where it has a hash tag, that is what was asked for.
        settings.tags = Doubt::Allow;
        Filter::new(settings).map(Some).map_err(|e| Error::Filter(e.to_string()))
    }

    /// Writes a snapshot as the file that was asked for.
    async fn write(&self, from: PathBuf, to: &Path) -> Result<(), Error> {
        self.progress.set("writing the file", None);
        let (to, replace) = (to.to_owned(), self.options.on_exists == OnExists::Replace);
        blocking(move || {
            let input = Input::open(&from, InputOptions::default())?;
            let output = Output::path(&to, OutputKind::of_path(&to).unwrap_or(OutputKind::Snapshot));
            let output = output.private();
            let output = if replace { output.replacing() } else { output };
            convert(vec![input], vec![output], ConvertOptions::default()).result?;
            Ok(())
        })
        .await
    }

    /// What a snapshot holds, and what of it the target has.
    async fn look(&self, path: &Path, mut target: Option<&mut Servers>) -> Result<Chosen, Error> {
        let mut chosen = Chosen::default();
        let mut names = Names::open(path)?;
        let prefix = self.options.rename.clone().unwrap_or_default();
        loop {
            let (part, done) = blocking(move || names.next_part()).await?;
            names = part.rest;
            chosen.keys += part.keys.len() as u64;
            if let Some(target) = target.as_deref_mut() {
                let keys: Vec<(u64, Vec<u8>)> =
                    part.keys.into_iter().map(|(db, key)| (db, [prefix.as_bytes(), &key].concat())).collect();
                for (_, key) in target.existing(keys).await? {
                    chosen.existing += 1;
                    if chosen.samples.len() < SAMPLES {
                        chosen.samples.push(key.escape_ascii().to_string());
                    }
                }
            }
            if done {
                break;
            }
        }
        chosen.libraries = names.libraries;
        if let Some(target) = target.filter(|_| !chosen.libraries.is_empty()) {
            for library in target.libraries().await? {
                if chosen.libraries.contains(library.as_bytes()) {
                    chosen.existing += 1;
                    chosen.samples.push(format!("the function library {library}"));
                }
            }
        }
        Ok(chosen)
    }
}

/// The names in a snapshot.
struct Names {
    path: PathBuf,
    file: File,
    parser: Parser,
    libraries: BTreeSet<Vec<u8>>,
}

/// Some of them.
struct Part {
    keys: Vec<(u64, Vec<u8>)>,
    rest: Names,
}

impl Names {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| failed(path, "opening the snapshot", e))?;
        Ok(Names { path: path.to_owned(), file, parser: Parser::new(), libraries: BTreeSet::new() })
    }

    /// The next names, and whether these were the last. Blocks.
    fn next_part(mut self) -> Result<(Part, bool), Error> {
        let mut keys = Vec::new();
        loop {
            while let Some(event) = self.parser.next_event()? {
                match event {
                    Event::Entry(entry) => keys.push((entry.head.db, entry.head.key.to_vec())),
                    Event::ValueStart(head) => keys.push((head.db, head.key.to_vec())),
                    Event::Function { code } => {
                        self.libraries.insert(library_name(code).to_vec());
                    }
                    _ => {}
                }
            }
            if keys.len() >= ASKED {
                return Ok((Part { keys, rest: self }, false));
            }
            let space = self.parser.space(1 << 18);
            match self.file.read(space) {
                Ok(0) => {
                    self.parser.end_of_input()?;
                    return Ok((Part { keys, rest: self }, true));
                }
                Ok(n) => self.parser.filled(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&self.path, "reading the snapshot", e)),
            }
        }
    }
}
