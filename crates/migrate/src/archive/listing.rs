//! An archive that is read: what is there, and what of it can be restored.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyferry_files::time;
use keyferry_replication::ReplicationId;
use serde::Serialize;

use super::{
    READERS,
    catalog::{Base, Catalog, Run, Segment},
    error::{ArchiveError, Damage},
    pack,
    point::{Parts, Point, When},
    scan::{Scan, boundary, up_to},
};
use crate::{error::Error, journal::failed};

/// An archive that is read. Its files stay as long as this value, or a [`Point`] of it, lives.
#[derive(Debug)]
pub struct Stored {
    pub(super) dir: PathBuf,
    pub(super) catalog: Catalog,
    lock: Arc<File>,
    /// Where the segment ends that is being written, if one is.
    open: Option<Seen>,
}

/// How far a segment is good.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The last offset outside of a transaction.
    pub(super) end: u64,
    /// When what ends there came, in Unix milliseconds.
    pub(super) came: u64,
    /// What is wrong behind that.
    pub(super) damage: Option<Damage>,
}

/// A part of a history of which every moment can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Span {
    /// The history.
    pub replication_id: String,
    /// The first offset: that of a snapshot.
    pub from: u64,
    /// When that was, in Unix milliseconds.
    pub from_time: u64,
    /// The last offset.
    pub to: u64,
    /// When what ends there came, in Unix milliseconds.
    pub to_time: u64,
}

/// What can be restored, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Coverage(pub Vec<Span>);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (shown(self.from_time), shown(self.to_time));
        write!(f, "{from} to {to} (offsets {} to {} of {})", self.from, self.to, self.replication_id)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing can be restored");
        }
        f.write_str("what can be restored: ")?;
        for (number, span) in self.0.iter().enumerate() {
            write!(f, "{}{span}", if number == 0 { "" } else { ", and " })?;
        }
        Ok(())
    }
}

/// What is in an archive.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Listing {
    /// The directory.
    pub dir: PathBuf,
    /// The URL of the source, without its password.
    pub source: String,
    /// The slots of the shard, where the source is a cluster.
    pub slots: Option<String>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Snapshots with what came behind them, oldest first.
    pub generations: Vec<Generation>,
    /// Parts of the source's history that are missing.
    pub gaps: Vec<Gap>,
    /// What can be restored; where everything was read, without what is damaged.
    pub coverage: Coverage,
    /// What is not as it was written; of what was found so far, where not everything was read.
    pub damages: Vec<Damage>,
    /// True when every file was read for this listing.
    pub verified: bool,
}

/// A snapshot, and the stream from there to the next one.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Generation {
    /// The file of the snapshot.
    pub base: String,
    /// When it was begun, in Unix milliseconds.
    pub taken: u64,
    /// The history, and the offset that it stands for.
    pub replication_id: String,
    /// That offset.
    pub offset: u64,
    /// Its keys.
    pub keys: u64,
    /// Its function libraries.
    pub functions: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The server, as it said of itself.
    pub server: String,
    /// The offset at which the next generation begins, or the stream ends.
    pub until_offset: u64,
    /// When that came, in Unix milliseconds.
    pub until: u64,
    /// The segments that begin in it; what is behind the snapshot may begin in one of the generation before.
    pub segments: Vec<StoredFile>,
}

/// A segment of the stream.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StoredFile {
    /// Its name.
    pub file: String,
    /// Its bytes on disk.
    pub bytes: u64,
    /// What it expands to.
    pub raw: u64,
    /// The offset that it begins behind.
    pub start: u64,
    /// The offset that it ends with.
    pub end: u64,
    /// When it was begun, in Unix milliseconds.
    pub begun: u64,
    /// When the last of it came, in Unix milliseconds.
    pub ended: u64,
    /// When it was last read back and was right; none while it is being written, or has not been read back yet.
    pub verified: Option<u64>,
}

/// A part of the source's history that is not in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Gap {
    /// The history before it, and the last offset that is there.
    pub after: String,
    /// When that came, in Unix milliseconds.
    pub from: u64,
    /// The history behind it, and the first offset that is there.
    pub before: String,
    /// When that was, in Unix milliseconds.
    pub to: u64,
    /// Why it is there.
    pub why: String,
}

pub(super) fn shown(ms: u64) -> String {
    time::show(i64::try_from(ms).unwrap_or(i64::MAX))
}

impl Stored {
    /// Opens an archive to read it. Blocks.
    ///
    /// # Errors
    /// [`ArchiveError`] when there is none, several of shards, or one that a later version wrote; when it cannot be read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        let none = || Error::from(ArchiveError::NoArchive { dir: dir.clone() });
        let path = dir.join(READERS);
        let lock = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let shards = shards(&dir);
                if !shards.is_empty() {
                    return Err(ArchiveError::SeveralShards { dir, shards }.into());
                }
                // A copy of an archive may lack it.
                File::open(dir.join(super::CATALOG)).map_err(|_| none())?
            }
            Err(e) => return Err(failed(&path, "opening the lock", e)),
        };
        match lock.lock_shared() {
            Err(e) if e.kind() != io::ErrorKind::Unsupported => {
                return Err(failed(&path, "locking", e));
            }
            _ => {}
        }
        let catalog = Catalog::load(&dir)?.ok_or_else(none)?;
        let mut stored = Stored { dir, catalog, lock: Arc::new(lock), open: None };
        let last = stored.catalog.runs.last().and_then(|run| run.segments.last());
        if let Some(segment) = last.filter(|segment| segment.closed.is_none()) {
            stored.open = Some(see(&stored.dir, segment));
        }
        Ok(stored)
    }

    /// What is there, by what the archive says of itself: no file is read but the one that is being written.
    #[must_use]
    pub fn listing(&self) -> Listing {
        let damages = self.open.iter().filter_map(|seen| seen.damage.clone()).collect();
        let known = self.catalog.runs.iter().flat_map(|run| &run.segments).filter_map(|segment| {
            let why = segment.closed.as_ref()?.fault.clone()?;
            Some(Damage { file: segment.file.clone(), at: 0, why })
        });
        let damages: Vec<Damage> = known.chain::<Vec<Damage>>(damages).collect();
        self.list(self.coverage(), damages, false)
    }

    /// The same, with every file read and compared with what was written. Blocks for as long as that takes.
    #[must_use]
    pub fn verify(&self) -> Listing {
        let mut spans = Vec::new();
        let mut damages = Vec::new();
        for run in &self.catalog.runs {
            let seen: Vec<Seen> = run.segments.iter().map(|segment| see(&self.dir, segment)).collect();
            damages.extend(seen.iter().filter_map(|seen| seen.damage.clone()));
            let mut of_run: Vec<Span> = Vec::new();
            for base in &run.bases {
                if let Err(damage) = check_base(&self.dir, base) {
                    damages.push(damage);
                    continue;
                }
                let (mut to, mut to_time) = (base.offset, base.taken);
                for (segment, seen) in run.segments.iter().zip(&seen) {
                    if seen.end > to && segment.start <= to {
                        (to, to_time) = (seen.end, seen.came);
                    }
                    let covered = segment.closed.as_ref().is_some_and(|closed| closed.end <= to);
                    if seen.damage.is_some() && !covered {
                        break;
                    }
                }
                match of_run.last_mut() {
                    Some(last) if base.offset <= last.to => {
                        if to > last.to {
                            (last.to, last.to_time) = (to, to_time);
                        }
                    }
                    _ => of_run.push(Span {
                        replication_id: base.replication_id.clone(),
                        from: base.offset,
                        from_time: base.taken,
                        to,
                        to_time,
                    }),
                }
            }
            spans.extend(of_run);
        }
        self.list(Coverage(spans), damages, true)
    }

    /// What can be restored, if all files are as they were written.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let span = |(number, run): (usize, &Run)| {
            let base = run.bases.first()?;
            let (to, to_time) = self.end(number);
            Some(Span {
                replication_id: base.replication_id.clone(),
                from: base.offset,
                from_time: base.taken,
                to,
                to_time,
            })
        };
        Coverage(self.catalog.runs.iter().enumerate().filter_map(span).collect())
    }

    /// The moment that stands for what is asked, which everything up to is there and was read: it is as it was written. Gives
    /// what a person should know. Blocks.
    ///
    /// # Errors
    /// [`ArchiveError::NotCovered`] for what is not there, [`ArchiveError::Ambiguous`], and [`ArchiveError::Damaged`] with what can be
    /// restored all the same.
    pub fn point(&self, when: When) -> Result<(Point, Vec<String>), Error> {
        let (number, offset, came) = self.resolve(when)?;
        let run = &self.catalog.runs[number];
        let mut notes = Vec::new();
        let mut first: Option<Damage> = None;
        for base in run.bases.iter().rev().filter(|base| base.offset <= offset) {
            let moment = match when {
                When::Time(ms) => u64::try_from(ms).unwrap_or(0),
                _ => came,
            };
            let point = self.of(run, base, offset, (came, moment));
            match point.check() {
                Ok(()) => {
                    notes.extend(first.map(|damage| {
                        format!("{damage}; restored from an older snapshot, {}, instead", base.file)
                    }));
                    return Ok((point, notes));
                }
                Err(damage) => first = first.or(Some(damage)),
            }
        }
        let damage = first.unwrap_or_else(|| Damage {
            file: self.dir.display().to_string(),
            at: 0,
            why: "no snapshot leads there".to_owned(),
        });
        Err(self.damaged(damage))
    }

    fn of(&self, run: &Run, base: &Base, offset: u64, (came, moment): (u64, u64)) -> Point {
        let needed = |segment: &&Segment| {
            segment.start < offset && segment.closed.as_ref().is_none_or(|closed| closed.end > base.offset)
        };
        let segments: Vec<Segment> = run.segments.iter().filter(needed).cloned().collect();
        let ids = segments.last().and_then(|segment| segment.ids.last());
        let id = ids.unwrap_or(&base.replication_id).parse().ok().or_else(|| base.id());
        Point(Arc::new(Parts {
            dir: self.dir.clone(),
            base: base.clone(),
            segments,
            // The catalog has been looked at.
            id: id.unwrap_or_else(ReplicationId::random),
            offset,
            came,
            moment,
            _lock: Arc::clone(&self.lock),
        }))
    }

    fn damaged(&self, damage: Damage) -> Error {
        ArchiveError::Damaged { damage, coverage: self.verify().coverage }.into()
    }

    fn not_covered(&self, when: When, why: impl Into<String>) -> Error {
        ArchiveError::NotCovered { asked: when.to_string(), why: why.into(), coverage: self.coverage() }
            .into()
    }

    /// Where a run ends, and when that came.
    fn end(&self, number: usize) -> (u64, u64) {
        let Some(run) = self.catalog.runs.get(number) else { return (0, 0) };
        let last = number + 1 == self.catalog.runs.len();
        match (&self.open, run.closed_end()) {
            (Some(seen), None) if last => (seen.end.max(run.start()), seen.came.max(run.begun)),
            (_, Some((position, came))) => (position.offset.max(run.start()), came.max(run.begun)),
            _ => (run.start(), run.begun),
        }
    }

    /// The run, the offset, and when what ends there came.
    fn resolve(&self, when: When) -> Result<(usize, u64, u64), Error> {
        let runs = &self.catalog.runs;
        let Some(last) = runs.len().checked_sub(1) else {
            return Err(self.not_covered(when, "it holds nothing yet"));
        };
        match when {
            When::Latest => {
                let (offset, came) = self.end(last);
                Ok((last, offset, came))
            }
            When::Offset { id, offset } => {
                let has = |number: &usize| {
                    let run = &runs[*number];
                    id.is_none_or(|id| run.ids().contains(&id))
                        && (run.start()..=self.end(*number).0).contains(&offset)
                };
                let found: Vec<usize> = (0..runs.len()).filter(has).collect();
                match found[..] {
                    [] => Err(self.not_covered(when, "no history that is there has it")),
                    [number] => self.last_before(number, |_, _| Some(offset)),
                    _ => {
                        let id = |number: &usize| runs[*number].ids().first().map(ToString::to_string);
                        Err(ArchiveError::Ambiguous { offset, ids: found.iter().filter_map(id).collect() }
                            .into())
                    }
                }
            }
            When::Time(ms) => {
                let asked = u64::try_from(ms).unwrap_or(0);
                let Some(number) = runs.iter().rposition(|run| run.begun <= asked) else {
                    return Err(self.not_covered(when, "it begins later"));
                };
                let (_, ended) = self.end(number);
                if asked > ended {
                    return Err(self.not_covered(
                        when,
                        match runs.get(number + 1) {
                            Some(next) => format!(
                                "it lies in a gap from {} to {}: {}",
                                shown(ended),
                                shown(next.begun),
                                next.gap.as_deref().unwrap_or("the histories do not join")
                            ),
                            None => format!("nothing has come since {} (ask for the latest)", shown(ended)),
                        },
                    ));
                }
                self.last_before(number, |batch_came, end| (batch_came <= asked).then_some(end))
            }
        }
    }

    /// The last boundary of a run up to a limit, which is told for each batch from when it came and where it ends: the offset up to which it
    /// counts, or none when it comes too late.
    fn last_before(
        &self,
        number: usize,
        limit: impl Fn(u64, u64) -> Option<u64>,
    ) -> Result<(usize, u64, u64), Error> {
        let run = &self.catalog.runs[number];
        let mut best = (run.start(), run.begun);
        for segment in &run.segments {
            // What is behind the limit need not be read, and may be damaged; what is before it is passed over by its end.
            let first = segment.start.saturating_add(1);
            if limit(segment.begun, first).is_none_or(|limit| limit < first) {
                break;
            }
            if let Some(closed) = &segment.closed
                && limit(closed.ended, closed.end).is_some_and(|limit| limit >= closed.end)
            {
                best = if closed.end >= best.0 { (closed.end, closed.ended) } else { best };
                continue;
            }
            let mut scan =
                Scan::open(&self.dir, segment, None, None).map_err(|damage| self.damaged(damage))?;
            let mut inside = false;
            loop {
                let received = match scan.next() {
                    Ok(Some(received)) => received,
                    Ok(None) => break,
                    Err(damage) => return Err(self.damaged(damage)),
                };
                let Some(limit) = limit(received.at, received.batch.end) else { break };
                let cut = up_to(&received.batch, limit, received.id, inside);
                if let Some(end) = boundary(&cut)
                    && end > best.0
                {
                    best = (end, received.at.max(best.1));
                }
                if limit < received.batch.end {
                    break;
                }
                inside = received.batch.in_transaction;
            }
            break;
        }
        Ok((number, best.0, best.1))
    }

    fn list(&self, coverage: Coverage, damages: Vec<Damage>, verified: bool) -> Listing {
        let runs = &self.catalog.runs;
        let mut generations = Vec::new();
        let mut gaps = Vec::new();
        let mut bytes = 0;
        for (number, run) in runs.iter().enumerate() {
            if let (Some(why), Some(before)) = (&run.gap, number.checked_sub(1)) {
                let (offset, from) = self.end(before);
                let id = runs[before].ids().last().map(ToString::to_string).unwrap_or_default();
                let base = run.bases.first().map(|base| format!("{}:{}", base.replication_id, base.offset));
                gaps.push(Gap {
                    after: format!("{id}:{offset}"),
                    from,
                    before: base.unwrap_or_default(),
                    to: run.begun,
                    why: why.clone(),
                });
            }
            let (end, ended) = self.end(number);
            for (at, base) in run.bases.iter().enumerate() {
                let next = run.bases.get(at + 1);
                let (from, to) =
                    (if at == 0 { 0 } else { base.offset }, next.map_or(u64::MAX, |next| next.offset));
                let segments = run.segments.iter().filter(|segment| (from..to).contains(&segment.start));
                let segments: Vec<StoredFile> =
                    segments.map(|of| self.file(of, (end, ended), verified)).collect();
                bytes += base.bytes + segments.iter().map(|file| file.bytes).sum::<u64>();
                generations.push(Generation {
                    base: base.file.clone(),
                    taken: base.taken,
                    replication_id: base.replication_id.clone(),
                    offset: base.offset,
                    keys: base.keys,
                    functions: base.functions,
                    bytes: base.bytes,
                    server: base.server.clone(),
                    until_offset: next.map_or(end, |next| next.offset),
                    until: next.map_or(ended, |next| next.taken),
                    segments,
                });
            }
        }
        Listing {
            dir: self.dir.clone(),
            source: self.catalog.source.clone(),
            slots: self.catalog.slots.clone(),
            bytes,
            generations,
            gaps,
            coverage,
            damages,
            verified,
        }
    }

    fn file(&self, segment: &Segment, (end, ended): (u64, u64), verified: bool) -> StoredFile {
        let len = fs::metadata(self.dir.join(&segment.file)).map_or(0, |data| data.len());
        let closed = segment.closed.as_ref();
        let back = closed.and_then(|closed| closed.packed.as_ref()).map(|packed| packed.verified);
        StoredFile {
            file: segment.file.clone(),
            bytes: segment.bytes(len),
            raw: closed.map_or(len, |closed| closed.raw),
            start: segment.start,
            end: closed.map_or(end, |closed| closed.end),
            begun: segment.begun,
            ended: closed.map_or(ended, |closed| closed.ended),
            verified: if verified { Some(crate::journal::now_ms()) } else { back },
        }
    }
}

/// The archives of shards in a directory.
fn shards(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().join(super::CATALOG).exists());
    let mut names: Vec<String> =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Makes sure that a snapshot is what was written.
pub(super) fn check_base(dir: &Path, base: &Base) -> Result<(), Damage> {
    let damage = |why: String| Damage { file: base.file.clone(), at: 0, why };
    match pack::digest_file(&dir.join(&base.file)) {
        Ok((digest, bytes)) if digest == base.digest && bytes == base.bytes => Ok(()),
        Ok((_, bytes)) if bytes != base.bytes => {
            Err(damage(format!("it has {bytes} bytes, and was written with {}", base.bytes)))
        }
        Ok(_) => Err(damage("its digest is not that of what was written".to_owned())),
        Err(error) => Err(damage(error.to_line())),
    }
}

/// Reads all of a segment, as far as it is good.
fn see(dir: &Path, segment: &Segment) -> Seen {
    let mut seen = Seen { end: segment.start, came: segment.begun, damage: None };
    let mut read = || -> Result<(), Damage> {
        let mut scan = Scan::open(dir, segment, None, None)?;
        while let Some(received) = scan.next()? {
            if let Some(end) = boundary(&received.batch)
                && end > seen.end
            {
                (seen.end, seen.came) = (end, received.at.max(seen.came));
            }
        }
        pack::ends_right(segment, &scan)
    };
    let result = read();
    seen.damage = result.err();
    seen
}
