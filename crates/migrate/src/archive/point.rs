//! The moment to which something is restored: a snapshot, and the stream behind it up to an offset.

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use keyferry_files::time;
use keyferry_rdb::aof::{Manifest, ManifestFile};
use keyferry_replication::{Position, ReplicationId};

use super::{
    catalog::{Base, Segment},
    error::{ArchiveError, Damage},
    listing::check_base,
    scan::{Scan, up_to},
};
use crate::{
    error::Error,
    journal::{self, Pen, failed},
};

/// A moment, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// What had come by this time, in Unix milliseconds.
    Time(i64),
    /// Behind the last command, outside of a transaction, that ends at or before this offset.
    Offset {
        /// The history that it is of; needed where several have it.
        id: Option<ReplicationId>,
        /// The replication offset.
        offset: u64,
    },
    /// All that has come.
    Latest,
}

impl FromStr for When {
    type Err = String;

    /// An offset, or an offset behind a replication id and a colon.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no offset: a number, or a replication id, a colon and a number");
        let (id, offset) = match text.rsplit_once(':') {
            Some((id, offset)) => (Some(id.parse().map_err(|_| wrong())?), offset),
            None => (None, text),
        };
        Ok(When::Offset { id, offset: offset.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Time(ms) => f.write_str(&time::show(*ms)),
            When::Offset { id: Some(id), offset } => write!(f, "offset {id}:{offset}"),
            When::Offset { id: None, offset } => write!(f, "offset {offset}"),
            When::Latest => f.write_str("the latest moment"),
        }
    }
}

/// A moment that is in an archive. Cheap to clone; its files stay as long as it lives.
#[derive(Clone, Debug)]
pub struct Point(pub(super) Arc<Parts>);

#[derive(Debug)]
pub(super) struct Parts {
    pub(super) dir: PathBuf,
    pub(super) base: Base,
    pub(super) segments: Vec<Segment>,
    /// The id under which the offset is known.
    pub(super) id: ReplicationId,
    pub(super) offset: u64,
    /// When the last batch before it came, in Unix milliseconds.
    pub(super) came: u64,
    /// The time that it stands for, in Unix milliseconds.
    pub(super) moment: u64,
    pub(super) _lock: Arc<File>,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "archive:{}@{}:{}", self.0.dir.display(), self.0.id, self.0.offset)
    }
}

impl Point {
    /// Its replication offset: a boundary of commands, outside of transactions.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Replication id and offset.
    #[must_use]
    pub fn position(&self) -> String {
        format!("{}:{}", self.0.id, self.0.offset)
    }

    /// When what came last before it came, in Unix milliseconds.
    #[must_use]
    pub fn came(&self) -> u64 {
        self.0.came
    }

    /// The time that it stands for, in Unix milliseconds: the one that was asked for, else when what came last came.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.0.moment
    }

    /// The snapshot that it is built on: its file, and its offset.
    #[must_use]
    pub fn base(&self) -> (&str, u64) {
        (&self.0.base.file, self.0.base.offset)
    }

    /// The server that was archived, as it said of itself when the snapshot was taken.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.0.base.server
    }

    pub(crate) fn base_offset(&self) -> u64 {
        self.0.base.offset
    }

    /// Bytes to be read, as far as they are known beforehand: all of the segments counts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let raw = |segment: &Segment| match &segment.closed {
            Some(closed) => closed.raw,
            None => fs::metadata(self.0.dir.join(&segment.file)).map_or(0, |data| data.len()),
        };
        self.0.base.bytes + self.0.segments.iter().map(raw).sum::<u64>()
    }

    /// Reads everything that it is made of, and makes sure that it is as it was written.
    pub(super) fn check(&self) -> Result<(), Damage> {
        check_base(&self.0.dir, &self.0.base)?;
        let mut stream = self.stream();
        while stream.batch()?.is_some() {}
        Ok(())
    }

    /// The snapshot, and behind it the stream in the form of a journal's segment.
    pub(crate) fn reader(&self) -> Result<PointReader, Error> {
        Ok(PointReader { base: Some(self.open_base()?), stream: StreamReader::new(self.stream()) })
    }

    fn open_base(&self) -> Result<File, Error> {
        let path = self.0.dir.join(&self.0.base.file);
        File::open(&path).map_err(|e| failed(&path, "opening the snapshot", e))
    }

    pub(super) fn stream(&self) -> Stream {
        Stream {
            dir: self.0.dir.clone(),
            segments: self.0.segments.iter().cloned().collect(),
            scan: None,
            at: self.0.base.offset,
            begun: false,
            end: self.0.offset,
            inside: false,
        }
    }

    /// Writes a directory that a server loads, Redis 7.0 or Valkey or later, and at least as new as the one that was archived, as the snapshot is in
    /// its format: `redis-server --appendonly yes --dir DIR`. What expired since is gone when it has been loaded. Blocks.
    ///
    /// # Errors
    /// [`ArchiveError::Exists`] when something is there, [`ArchiveError::Damaged`], and when files cannot be read or written.
    pub fn export_to(&self, dir: &Path) -> Result<(), Error> {
        let exists = || Error::from(ArchiveError::Exists { dir: dir.to_owned() });
        match fs::read_dir(dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(exists());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return Err(exists()),
        }
        let below = dir.join(journal::SUBDIR);
        let done = self.write_to(&below);
        if done.is_err() {
            // What is there in part must not be loaded.
            fs::remove_dir_all(&below).ok();
        }
        done
    }

    fn write_to(&self, dir: &Path) -> Result<(), Error> {
        const BASE: &str = "appendonly.aof.1.base.rdb";
        const STREAM: &str = "appendonly.aof.1.incr.aof";
        fs::create_dir_all(dir).map_err(|e| failed(dir, "creating the directory", e))?;
        let write = |name: &str, from: &mut dyn Read| {
            let path = dir.join(name);
            let copy = || {
                let mut file = io::BufWriter::with_capacity(1 << 18, File::create(&path)?);
                io::copy(from, &mut file)?;
                file.flush()?;
                file.get_ref().sync_all()
            };
            let mut copy = copy;
            copy().map_err(|e| failed(&path, "writing", e))
        };
        write(BASE, &mut self.open_base()?)?;
        write(STREAM, &mut StreamReader::new(self.stream()))?;
        let mut manifest = Manifest::default();
        manifest.base = Some(ManifestFile::new(BASE, 1));
        manifest.incremental = vec![ManifestFile::new(STREAM, 1)];
        let path = dir.join("appendonly.aof.manifest");
        journal::sidecar::replace(&path, &manifest.to_bytes(), true)
            .map_err(|e| failed(&path, "writing the manifest", e))
    }
}

/// The stream behind a snapshot, up to an offset.
pub(super) struct Stream {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    scan: Option<Scan>,
    /// Where the next batch begins.
    at: u64,
    /// A segment has been read.
    begun: bool,
    end: u64,
    inside: bool,
}

impl Stream {
    /// The next batch; `None` at the end.
    pub(super) fn batch(&mut self) -> Result<Option<journal::Received>, Damage> {
        while self.at < self.end {
            let Some(scan) = &mut self.scan else {
                let Some(segment) = self.segments.pop_front() else {
                    let why = format!("the stream ends at offset {}, before {}", self.at, self.end);
                    return Err(Damage { file: self.dir.display().to_string(), at: 0, why });
                };
                let from = (!self.begun).then_some(self.at);
                let follows = self.begun.then_some(self.at);
                self.scan = Some(Scan::open(&self.dir, &segment, from, follows)?);
                self.begun = true;
                continue;
            };
            let Some(mut received) = scan.next()? else {
                self.scan = None;
                continue;
            };
            if received.batch.start != self.at {
                let why = format!(
                    "the stream goes on with offset {}, and was at {}",
                    received.batch.start, self.at
                );
                return Err(scan.damage(why));
            }
            received.batch = up_to(&received.batch, self.end, received.id, self.inside);
            if received.batch.end == self.at && received.batch.bytes.is_empty() {
                return Err(scan.damage(format!("no command ends at offset {}", self.end)));
            }
            (self.at, self.inside) = (received.batch.end, received.batch.in_transaction);
            return Ok(Some(received));
        }
        Ok(None)
    }
}

/// The stream as bytes, in the form of a journal's segment.
pub(super) struct StreamReader {
    stream: Stream,
    pen: Option<Pen>,
    pieces: VecDeque<Bytes>,
}

impl StreamReader {
    fn new(stream: Stream) -> Self {
        StreamReader { stream, pen: None, pieces: VecDeque::new() }
    }
}

impl Read for StreamReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(piece) = self.pieces.front_mut() {
                let n = piece.len().min(out.len());
                piece.copy_to_slice(&mut out[..n]);
                if !piece.has_remaining() {
                    self.pieces.pop_front();
                }
                if n > 0 || out.is_empty() {
                    return Ok(n);
                }
                continue;
            }
            let batch = self.stream.batch().map_err(|damage| io::Error::other(damage.to_string()))?;
            let Some(received) = batch else { return Ok(0) };
            let mut pieces = Vec::new();
            let pen = self.pen.get_or_insert_with(|| {
                let begin = Position {
                    db: received.batch.db,
                    ..Position::after_snapshot(received.id, received.batch.start)
                };
                pieces.push(journal::head(&begin));
                Pen::new(&begin)
            });
            pen.write(&[received], &mut pieces);
            self.pieces.extend(pieces);
        }
    }
}

/// A snapshot and the stream behind it, as bytes.
pub(crate) struct PointReader {
    base: Option<File>,
    stream: StreamReader,
}

impl Read for PointReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(base) = &mut self.base {
            match base.read(out)? {
                0 if !out.is_empty() => self.base = None,
                n => return Ok(n),
            }
        }
        self.stream.read(out)
    }
}
