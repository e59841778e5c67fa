//! What a conversion writes: snapshots, logs of commands, directories of both, and lines of JSON.

mod destination;
mod directory;
mod lines;
mod log;
mod pending;
mod rdb;
mod spool;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyferry_rdb::aof::AofCommand;
use keyferry_rdb::convert::Loss;
use keyferry_rdb::elements::Templates;
use keyferry_rdb::encode::{PartsPlan, PartsSurvey};
use keyferry_rdb::{
    Dialect, EntryHead, Event, Eviction, Limits, ModuleAux, RawValue, TargetFormat, ValueType,
};
use keyferry_routing::SlotSet;

use crate::error::Error;
use destination::Destination;
pub(crate) use pending::Pending;
use spool::Spool;

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutputKind {
    /// A snapshot: `.rdb`.
    Snapshot,
    /// Commands, for `redis-cli --pipe`: `.resp`. Each value is built by its own commands, after the key is deleted, and what
    /// commands cannot build exactly by `RESTORE`: streams, values of modules, sorted sets with a score of -0.
    Commands,
    /// An append-only file, which is the same with the time annotations of its input: `.aof`.
    Log,
    /// A directory with an append-only file in several parts (Redis 7.0, Valkey): a snapshot, the log that follows it, and the
    /// manifest `appendonly.aof.manifest`.
    LogDirectory,
    /// A line of JSON for each key, as [`json`](crate::json) writes it, with values as they are: `.jsonl`.
    Lines,
}

impl OutputKind {
    /// By the end of a name; `None` when it tells nothing.
    ///
    /// ```
    /// use std::path::Path;
    /// use keyferry_files::OutputKind;
    ///
    /// assert_eq!(OutputKind::of_path(Path::new("dump.rdb")), Some(OutputKind::Snapshot));
    /// assert_eq!(OutputKind::of_path(Path::new("appendonlydir/")), Some(OutputKind::LogDirectory));
    /// assert_eq!(OutputKind::of_path(Path::new("dump")), None);
    /// ```
    pub fn of_path(path: &Path) -> Option<Self> {
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir() {
            return Some(Self::LogDirectory);
        }
        match path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase().as_str() {
            "rdb" => Some(Self::Snapshot),
            "resp" => Some(Self::Commands),
            "aof" => Some(Self::Log),
            "jsonl" | "ndjson" => Some(Self::Lines),
            _ => None,
        }
    }

    /// Its name, as it is parsed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "rdb",
            Self::Commands => "resp",
            Self::Log => "aof",
            Self::LogDirectory => "aof-dir",
            Self::Lines => "jsonl",
        }
    }

    /// Whether commands of an input can go there as they are.
    pub const fn takes_commands(self) -> bool {
        !matches!(self, Self::Snapshot | Self::Lines)
    }
}

impl fmt::Display for OutputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for OutputKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Snapshot, Self::Commands, Self::Log, Self::LogDirectory, Self::Lines];
        all.into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("\"{text}\" is none of rdb, resp, aof, aof-dir, jsonl"))
    }
}

/// Where a conversion writes to, and which slots go there.
pub struct Output {
    pub(crate) kind: OutputKind,
    pub(crate) slots: Option<SlotSet>,
    place: Place,
}

enum Place {
    Path { path: PathBuf, replace: bool, private: bool },
    Writer { name: String, writer: Box<dyn Write + Send> },
}

impl Output {
    /// A file or directory. It is written under another name and gets this one when it is complete, so that there is never
    /// half of one. One that exists is refused.
    pub fn path(path: impl Into<PathBuf>, kind: OutputKind) -> Self {
        Self { kind, slots: None, place: Place::Path { path: path.into(), replace: false, private: false } }
    }

    /// Anything that takes bytes; `name` is for errors. Nothing that was written can be taken back.
    pub fn writer(name: impl Into<String>, writer: impl Write + Send + 'static, kind: OutputKind) -> Self {
        Self { kind, slots: None, place: Place::Writer { name: name.into(), writer: Box::new(writer) } }
    }

    /// The same, only for keys of these slots: the part of one shard of a cluster.
    #[must_use]
    pub fn with_slots(mut self, slots: SlotSet) -> Self {
        self.slots = Some(slots);
        self
    }

    /// The same, in place of a file that exists.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        if let Place::Path { replace, .. } = &mut self.place {
            *replace = true;
        }
        self
    }

    /// The same, for nobody but its owner: a file or directory that others may not read, whatever the process allows for others.
    #[must_use]
    pub fn private(mut self) -> Self {
        if let Place::Path { private, .. } = &mut self.place {
            *private = true;
        }
        self
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Path { path, .. } => path.display().to_string(),
            Place::Writer { name, .. } => name.clone(),
        }
    }

    /// Whether what was written is out of reach at once.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.place, Place::Writer { .. })
    }

    pub(crate) fn open(self, target: TargetFormat, limits: &Limits) -> Result<Box<dyn Sink>, Error> {
        let name = self.name();
        if self.kind == OutputKind::LogDirectory && !target.functions() {
            return Err(Error::NoLogDirectory { output: name });
        }
        let (destination, spool_dir) = match self.place {
            Place::Path { path, private, .. } if self.kind == OutputKind::LogDirectory => {
                let sink = directory::DirectorySink::new(Pending::directory(&path, private)?, target, limits);
                return Ok(Box::new(sink));
            }
            Place::Path { path, replace, private } => {
                let (pending, file) = Pending::file(&path, replace, private)?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let dir = parent.unwrap_or(Path::new(".")).to_owned();
                (Destination::file(file, Some(pending)), Some(dir))
            }
            Place::Writer { writer, .. } => (Destination::stream(writer), None),
        };
        let values = Values { target, limits: limits.clone(), templates: Templates::new(), spool_dir };
        match self.kind {
            OutputKind::Snapshot => {
                let sink = rdb::RdbSink::new(destination, values);
                Ok(Box::new(sink.map_err(|fault| fault.of_output(&name))?))
            }
            OutputKind::Lines => Ok(Box::new(lines::LinesSink::new(destination, &values))),
            kind => Ok(Box::new(log::LogSink::new(destination, values, kind == OutputKind::Log))),
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("name", &self.name()).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The way that a key took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    Reencoded,
    Commands,
}

/// Why a sink failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What it was given is damaged.
    Data(keyferry_rdb::Error),
    /// The system refused to write.
    Write(io::Error),
}

impl Fault {
    /// The error when nothing was given yet that could be damaged.
    pub(crate) fn of_output(self, output: &str) -> Error {
        match self {
            Self::Data(error) => Error::data(output, error),
            Self::Write(error) => Error::output(output, error),
        }
    }
}

impl From<keyferry_rdb::Error> for Fault {
    fn from(error: keyferry_rdb::Error) -> Self {
        match error {
            keyferry_rdb::Error::Io { kind, detail, .. } => {
                Self::Write(io::Error::new(kind, detail.into_string()))
            }
            error => Self::Data(error),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// An output that is complete but for its name.
#[derive(Debug)]
pub(crate) struct Complete {
    pub(crate) bytes: u64,
    pub(crate) pending: Option<Pending>,
}

/// Takes what is found in inputs, already chosen and routed, and writes it. Databases in heads are those of the target.
///
/// Values in parts come by `value_start`, `value_part` and `value_end`, and nothing else between them. `entry` and
/// `value_end` give how the key was written, or `None` when it was not; what was lost is added to `losses`.
pub(crate) trait Sink {
    /// Another input begins, whose hashes refer to these templates.
    fn begin_input(&mut self, dialect: Dialect, templates: &Templates);
    /// What is of no use but to those who decode values themselves: headers and hash templates.
    fn note(&mut self, _: &Event<'_>) -> Result<(), Fault> {
        Ok(())
    }
    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault>;
    /// A hint at the size of a database.
    fn size(&mut self, db: u64, keys: u64, expires: u64) -> Result<(), Fault>;
    /// Whether there is a place for it.
    fn function(&mut self, code: &[u8]) -> Result<bool, Fault>;
    /// Whether there is a place for it.
    fn module_aux(&mut self, aux: &ModuleAux<'_>) -> Result<bool, Fault>;
    fn entry(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        losses: &mut Vec<Loss>,
    ) -> Result<Option<Form>, Fault>;
    fn value_start(&mut self, head: &EntryHead<'_>) -> Result<(), Fault>;
    fn value_part(&mut self, part: &[u8]) -> Result<(), Fault>;
    fn value_end(&mut self, losses: &mut Vec<Loss>) -> Result<Option<Form>, Fault>;
    /// Only where [`OutputKind::takes_commands`].
    fn command(&mut self, db: u64, command: &AofCommand<'_>) -> Result<(), Fault>;
    /// An annotation between commands, without `#` nor end. Whether it was written.
    fn annotation(&mut self, text: &[u8]) -> Result<bool, Fault>;
    fn finish(self: Box<Self>) -> Result<Complete, Fault>;
}

/// What sinks need to convert values.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pub(crate) target: TargetFormat,
    pub(crate) limits: Limits,
    pub(crate) templates: Templates,
    /// Where values go that have to be gone through twice.
    spool_dir: Option<PathBuf>,
}

impl Values {
    fn spool(&self) -> Spool {
        Spool::new(self.spool_dir.as_deref())
    }

    /// Whether a value that comes in parts can be written as it is. Streams of Redis 5.0 may state a wrong number of entries,
    /// which Redis 8.8 minds: they are counted.
    fn goes_raw(&self, ty: ValueType) -> bool {
        let minds = ty == ValueType::Stream && self.target.accepts(ValueType::Stream5);
        self.target.accepts(ty) && ty != ValueType::HashZipmap && ty.fits_dump() && !minds
    }

    fn survey(&self, ty: ValueType, spool: &mut Spool) -> Result<PartsPlan, Fault> {
        let mut survey = PartsSurvey::new(ty, self.target, &self.limits, &self.templates);
        spool.each(|part| survey.feed(part).map_err(Fault::from))?;
        Ok(survey.finish()?)
    }
}

/// Goes through the parts of a value for the second time and writes what becomes of them.
fn encode(
    plan: PartsPlan,
    spool: &mut Spool,
    mut write: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut out = Vec::new();
    let mut encoder = plan.encoder(&mut out);
    spool.each(|part| {
        encoder.feed(part, &mut out)?;
        write(&out)?;
        out.clear();
        Ok::<(), Fault>(())
    })?;
    encoder.finish(&mut out)?;
    write(&out)
}

/// A key that is kept until its value is complete.
#[derive(Clone, Debug)]
pub(crate) struct OwnedHead {
    db: u64,
    key: Vec<u8>,
    expiry: Option<i64>,
    eviction: Option<Eviction>,
    meta: Option<Vec<u8>>,
    ty: ValueType,
}

impl OwnedHead {
    pub(crate) fn new(head: &EntryHead<'_>) -> Self {
        Self {
            db: head.db,
            key: head.key.to_vec(),
            expiry: head.expiry,
            eviction: head.eviction,
            meta: head.meta.map(<[u8]>::to_vec),
            ty: head.ty,
        }
    }

    pub(crate) fn head(&self) -> EntryHead<'_> {
        EntryHead::new(self.db, &self.key, self.ty)
            .with_expiry(self.expiry)
            .with_eviction(self.eviction)
            .with_meta(self.meta.as_deref())
    }
}
