//! Inputs of every kind, read from start to end in bounded memory.
//!
//! What an input is, is told by its first bytes, not by its name. Snapshots are read straight into the parser's buffer, which
//! is reused; what is shown borrows from it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyferry_rdb::aof::{self, AofCommand, AofEvent, AofParser};
use keyferry_rdb::{Event, Limits, Parser};

use crate::error::Error;

/// Bytes asked for at once.
const BLOCK: usize = 256 << 10;

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputKind {
    /// It starts with a snapshot. Commands may follow, as in an append-only file of Redis 4.0 to 6.2: only its end tells.
    Snapshot,
    /// It is a log of commands from its first byte.
    Log,
    /// It is a directory or manifest of an append-only file in several parts (Redis 7.0, Valkey): a base, which may be a
    /// snapshot, and logs.
    MultiPart,
}

/// How to read an input.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct InputOptions {
    /// Bounds on what the input may make this hold.
    pub limits: Limits,
    /// Whether an append-only file may end inside a command or a transaction, as a crash leaves it. It is read up to there then,
    /// as with the servers' `aof-load-truncated yes`, and [`Ended::cut`] tells.
    pub allow_cut_log: bool,
}

/// An input that is open: a snapshot, an append-only file of one or several parts, or standard input with either.
///
/// ```no_run
/// use keyferry_files::{Error, Found, Input, InputOptions};
///
/// let mut keys = 0;
/// Input::open("dump.rdb", InputOptions::default())?.read(|found, _| {
///     if let Found::Event(keyferry_rdb::Event::Entry(_) | keyferry_rdb::Event::ValueStart(_)) = found {
///         keys += 1;
///     }
///     Ok::<(), Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Input {
    name: String,
    parts: Vec<Part>,
    kind: InputKind,
    options: InputOptions,
    progress: Progress,
}

/// One file of an input, or standard input.
struct Part {
    name: String,
    path: Option<PathBuf>,
    /// An open reader; parts that come later are opened when they are reached.
    open: Option<Box<dyn Read + Send>>,
    /// What was read already, to tell the kind.
    first: Vec<u8>,
}

/// How far reading is. Clones show the same, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    read: Arc<AtomicU64>,
    total: Option<u64>,
}

/// Something found in an input.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Found<'a> {
    /// A part of a snapshot: see [`Event`].
    Event(Event<'a>),
    /// A command of a log.
    Command(AofCommand<'a>),
    /// A `#TS:` annotation of a log: commands that follow were run in this second, since the Unix epoch, or later.
    Timestamp(i64),
    /// Another annotation of a log, which servers pass over.
    Annotation(&'a [u8]),
}

/// Where something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place<'a> {
    /// The file, or `standard input`.
    pub input: &'a str,
    /// In bytes of the file: where the value of an [`Event::Entry`] or [`Event::ValueStart`] starts, where an
    /// [`Event::ValuePart`], a command or an annotation starts, and where anything else ends.
    pub offset: u64,
}

impl Place<'_> {
    /// The error with the name of its file.
    #[must_use]
    pub fn error(&self, error: keyferry_rdb::Error) -> Error {
        Error::data(self.input, error)
    }
}

/// How reading ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Number of snapshots found: 0 or 1.
    pub snapshots: u64,
    /// Number of commands found.
    pub commands: u64,
    /// Where the last file was cut, see [`InputOptions::allow_cut_log`].
    pub cut: Option<Cut>,
}

/// A log that ends inside a command or transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The file, or `standard input`.
    pub input: String,
    /// Up to where it is whole: cut there, a server loads it. Commands of an unfinished transaction after this were given.
    pub good_offset: u64,
}

impl Input {
    /// Opens a file, a directory or manifest of an append-only file, or with `-` standard input.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::Read`]; [`Error::Empty`] and [`Error::UnknownKind`] by its first bytes, [`Error::Data`]
    /// for a directory without a good manifest.
    pub fn open(path: impl AsRef<Path>, options: InputOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        if path == Path::new("-") {
            return Self::from_reader("standard input", io::stdin(), options);
        }
        let name = path.display().to_string();
        let several = path.is_dir() || path.extension().is_some_and(|extension| extension == "manifest");
        if several {
            let files = aof::files(path).map_err(|error| Error::data(&name, bare(error)))?;
            let parts: Vec<Part> = files.into_iter().map(Part::later).collect();
            let total =
                parts.iter().filter_map(|part| part.path.as_ref()?.metadata().ok()).map(|m| m.len()).sum();
            return Ok(Self {
                name,
                parts,
                kind: InputKind::MultiPart,
                options,
                progress: Progress { total: Some(total), ..Progress::default() },
            });
        }
        let file = File::open(path).map_err(|error| Error::Open { input: name.clone(), error })?;
        // A pipe or device has no length that tells anything.
        let total = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
        let mut input = Self::from_reader(name, file, options)?;
        input.progress.total = total;
        Ok(input)
    }

    /// An input from anything that gives bytes; `name` is for errors.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_reader(
        name: impl Into<String>,
        mut reader: impl Read + Send + 'static,
        options: InputOptions,
    ) -> Result<Self, Error> {
        let name = name.into();
        let mut first = Vec::new();
        let taken = reader.by_ref().take(16).read_to_end(&mut first);
        taken.map_err(|error| Error::Read { input: name.clone(), offset: 0, error })?;
        let kind = match first.first() {
            None => return Err(Error::Empty { input: name }),
            Some(b'R' | b'V') => InputKind::Snapshot,
            Some(b'*' | b'#') => InputKind::Log,
            Some(_) => {
                let found = first.escape_ascii().to_string();
                return Err(Error::UnknownKind { input: name, found });
            }
        };
        let part = Part { name: name.clone(), path: None, open: Some(Box::new(reader)), first };
        Ok(Self { name, parts: vec![part], kind, options, progress: Progress::default() })
    }

    /// Its name: the path, or `standard input`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn kind(&self) -> InputKind {
        self.kind
    }

    /// A view of how far [`read`](Self::read) is.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Reads it from start to end, and shows everything in order. An error of `see` ends it.
    ///
    /// # Errors
    ///
    /// That of `see`; [`Error::Read`]; [`Error::Data`] with the file and the offset in it, after everything before it was
    /// shown.
    pub fn read<E: From<Error>>(
        self,
        mut see: impl FnMut(Found<'_>, Place<'_>) -> Result<(), E>,
    ) -> Result<Ended, E> {
        let mut ended = Ended::default();
        let last = self.parts.len().saturating_sub(1);
        for (number, part) in self.parts.into_iter().enumerate() {
            let may_be_cut = self.options.allow_cut_log && number == last;
            part.read(&self.options.limits, &self.progress, may_be_cut, &mut ended, &mut see)?;
        }
        Ok(ended)
    }
}

impl Progress {
    /// Bytes read so far, of all files.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that there are, where that is known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }
}

impl Part {
    fn later(path: PathBuf) -> Self {
        Self { name: path.display().to_string(), path: Some(path), open: None, first: Vec::new() }
    }

    fn read<E: From<Error>>(
        mut self,
        limits: &Limits,
        progress: &Progress,
        may_be_cut: bool,
        ended: &mut Ended,
        see: &mut impl FnMut(Found<'_>, Place<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| Error::Read { input: self.name.clone(), offset: 0, error };
        let mut reader = match (self.open.take(), &self.path) {
            (Some(reader), _) => reader,
            (None, Some(path)) => {
                let file = File::open(path);
                Box::new(file.map_err(|error| Error::Open { input: self.name.clone(), error })?)
            }
            (None, None) => return Ok(()),
        };
        if self.first.is_empty() {
            reader.by_ref().take(1).read_to_end(&mut self.first).map_err(failed)?;
        }
        let mut source = Source { name: &self.name, reader: &mut reader, read: 0, progress };
        source.count(self.first.len());
        let mut log = AofParser::with_limits(limits.clone());
        if matches!(self.first.first(), Some(b'R' | b'V')) {
            let mut parser = Parser::with_limits(limits.clone());
            parser.feed(&self.first);
            source.snapshot(&mut parser, see)?;
            ended.snapshots += 1;
            log = log.at_offset(parser.offset());
            log.feed(parser.remaining());
        } else {
            log.feed(&self.first);
        }
        if !source.log(&mut log, may_be_cut, ended, see)? {
            ended.cut = Some(Cut { input: self.name.clone(), good_offset: log.good_offset() });
        }
        Ok(())
    }
}

/// A part being read.
struct Source<'a> {
    name: &'a str,
    reader: &'a mut Box<dyn Read + Send>,
    read: u64,
    progress: &'a Progress,
}

impl Source<'_> {
    fn count(&mut self, n: usize) {
        self.read += n as u64;
        self.progress.read.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Reads once; 0 is the end.
    fn fill(&mut self, space: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.reader.read(space) {
                Ok(n) => {
                    self.count(n);
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::Read { input: self.name.to_owned(), offset: self.read, error });
                }
            }
        }
    }

    fn snapshot<E: From<Error>>(
        &mut self,
        parser: &mut Parser,
        see: &mut impl FnMut(Found<'_>, Place<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let name = self.name;
        loop {
            while let Some((event, offset)) =
                parser.next_event_at().map_err(|error| Error::data(name, error))?
            {
                see(Found::Event(event), Place { input: name, offset })?;
            }
            if parser.is_finished() {
                return Ok(());
            }
            let n = self.fill(parser.space(BLOCK))?;
            parser.filled(n);
            if n == 0 {
                parser.end_of_input().map_err(|error| Error::data(name, error))?;
            }
        }
    }

    /// Whether the log is whole.
    fn log<E: From<Error>>(
        &mut self,
        parser: &mut AofParser,
        may_be_cut: bool,
        ended: &mut Ended,
        see: &mut impl FnMut(Found<'_>, Place<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let name = self.name;
        let mut block = vec![0; BLOCK];
        loop {
            while let Some(event) = parser.next_event().map_err(|error| Error::data(name, error))? {
                let (found, offset) = match event {
                    AofEvent::Command(command) => {
                        ended.commands += 1;
                        (Found::Command(command), command.offset)
                    }
                    AofEvent::Timestamp { seconds, offset } => (Found::Timestamp(seconds), offset),
                    AofEvent::Annotation { text, offset } => (Found::Annotation(text), offset),
                    _ => continue,
                };
                see(found, Place { input: name, offset })?;
            }
            let n = self.fill(&mut block)?;
            if n == 0 {
                return match parser.end_of_input() {
                    Err(_) if may_be_cut => Ok(false),
                    end => end.map(|()| true).map_err(|error| Error::data(name, error).into()),
                };
            }
            parser.feed(&block[..n]);
        }
    }
}

/// The error without the file, which is named already.
fn bare(error: keyferry_rdb::Error) -> keyferry_rdb::Error {
    match error {
        keyferry_rdb::Error::InFile { error, .. } => *error,
        error => error,
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}
