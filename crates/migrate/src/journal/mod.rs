//! What has been read from the source and is not on the target for good, on disk.
//!
//! The journal of a link is a Redis 7 multi-part AOF directory: `DIR/appendonlydir/` holds a base RDB (the snapshot),
//! incremental files of bounded size, called segments here (the command stream), and a manifest that names them and is
//! replaced in one step, so that at any moment `redis-server --appendonly yes --dir DIR` loads it. The snapshot is named
//! once it is there as a whole, a segment once it has its beginning, and none any more when it has been dropped.
//! Annotations in the segments tell whose bytes they are and where they belong ([`form`]).
//!
//! `keyferry.json` beside it says whose journal it is ([`JournalRoot`]), `keyferry-link.json` what the snapshot stands for.
//!
//! Everything in here blocks, and knows nothing of runtimes. [`crate::spool`] and [`crate::snapshot_spool`] decide what
//! goes in here.

mod check;
mod file;
mod form;
mod import;
mod root;
mod segment;
pub(crate) mod sidecar;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use keyferry_rdb::aof::{Manifest, ManifestFile};
use keyferry_replication::{Position, ReplicationId};

#[cfg(test)]
pub(crate) use self::file::test_disk;
pub(crate) use self::{
    check::{Checked, check, last_multi},
    file::{JournalFile, blocking, failed},
    form::{Pen, head},
    import::{base_of, is_journal, links, lock_for_reading},
    root::{Identity, JournalRoot, LOCK, lock},
    segment::SegmentReader,
    writer::{Received, SegmentWriter, now_ms},
};
use crate::{error::Error, options::Fsync};

pub(crate) const SUBDIR: &str = "appendonlydir";
const NAME: &str = "appendonly.aof";
const MANIFEST: &str = "appendonly.aof.manifest";
const LINK: &str = "keyferry-link.json";

/// A segment is ended when it has this size, more or less.
const SEGMENT: u64 = 64 << 20;

/// How a journal is kept.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Somebody chose the directory: what a restart needs is to be in it.
    pub(crate) named: bool,
    pub(crate) fsync: Fsync,
    /// Bytes that the segments may have.
    pub(crate) max_bytes: Option<u64>,
    /// How long segments that have been applied are kept.
    pub(crate) max_age: Option<Duration>,
    /// Segments are kept when they have been applied.
    pub(crate) keep: bool,
}

impl Settings {
    /// True when what is written has to survive a loss of power.
    pub(crate) fn syncs(&self) -> bool {
        self.named && self.fsync != Fsync::No
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Settings { named: true, fsync: Fsync::No, max_bytes: None, max_age: None, keep: false }
    }

    /// The size at which a segment is ended: some of them have to fit in.
    fn segment(&self) -> u64 {
        self.max_bytes.map_or(SEGMENT, |max| (max / 8).clamp(4 << 10, SEGMENT))
    }
}

/// The journal of one link. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What a server is started in.
    root: PathBuf,
    /// Where the files are.
    dir: PathBuf,
    settings: Settings,
    catalog: Mutex<Catalog>,
    /// Held while the manifest is replaced, so that a later one is not overtaken.
    manifest: Mutex<()>,
    #[cfg(test)]
    disk: Mutex<test_disk::Disk>,
}

/// What there is.
#[derive(Debug, Default)]
struct Catalog {
    base: Option<Base>,
    segments: VecDeque<Segment>,
    /// Files to be removed.
    doomed: Vec<String>,
    last_seq: u64,
    last_base: u64,
}

#[derive(Clone, Debug)]
struct Base {
    name: String,
    seq: u64,
    position: Position,
    bytes: u64,
    /// The target holds it.
    applied: bool,
    /// It came over an earlier one.
    again: bool,
}

#[derive(Debug)]
struct Segment {
    seq: u64,
    start: Position,
    end: Position,
    len: u64,
    ids: Vec<ReplicationId>,
    /// Nothing more will be written to it, since then.
    closed: Option<Instant>,
    /// How much older than this process it is.
    age: Duration,
    /// Opened when it is read.
    file: Option<JournalFile>,
}

/// What a journal held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// A whole snapshot that has not been applied as a whole: what it stands for.
    pub(crate) base: Option<Position>,
    /// That snapshot came over an earlier one, of which the target may hold keys that are no more.
    pub(crate) again: bool,
    /// The stream that is there without a gap.
    pub(crate) run: Option<Run>,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

/// A part of the stream that a journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: Position,
    pub(crate) end: Position,
    /// The ids under which its offsets are known.
    pub(crate) ids: Vec<ReplicationId>,
}

/// What is there of a segment to be read.
#[derive(Clone, Debug)]
pub(crate) struct Readable {
    pub(crate) file: JournalFile,
    pub(crate) len: u64,
}

impl Journal {
    /// Opens the journal in `root`, or begins one there. What a run before this one left is checked: the stream is cut after
    /// its last whole command, or before a transaction that is not whole.
    pub(crate) fn open(root: &Path, settings: Settings) -> Result<(Self, Kept), Error> {
        let dir = root.join(SUBDIR);
        fs::create_dir_all(&dir).map_err(|e| failed(&dir, "creating the directory", e))?;
        let journal = Journal(Arc::new(Inner {
            root: root.to_owned(),
            dir,
            settings,
            catalog: Mutex::default(),
            manifest: Mutex::default(),
            #[cfg(test)]
            disk: Mutex::default(),
        }));
        let mut notes = Vec::new();
        journal.load(&mut notes)?;
        journal.write_manifest()?;
        journal.remove_strangers()?;
        let kept = journal.kept(notes);
        Ok((journal, kept))
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.0.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.dir.join(name)
    }

    fn create(&self, name: &str) -> Result<JournalFile, Error> {
        #[cfg_attr(not(test), expect(unused_mut, reason = "tests give it another disk"))]
        let mut file = JournalFile::create(self.path(name))?;
        #[cfg(test)]
        {
            file.disk = self.0.disk.lock().unwrap().clone();
        }
        Ok(file)
    }

    #[cfg(test)]
    pub(crate) fn set_disk(&self, disk: test_disk::Disk) {
        *self.0.disk.lock().unwrap() = disk;
    }
}

/// The snapshot.
impl Journal {
    /// Starts the file of a snapshot. The manifest names it when it is whole.
    pub(crate) fn begin_base(&self) -> Result<JournalFile, Error> {
        self.create(&format!("temp-{NAME}.base.rdb"))
    }

    /// The snapshot, which stands for `position`, is in `file` as a whole. `again`: it came over an earlier one.
    pub(crate) fn complete_base(
        &self,
        file: &JournalFile,
        position: &Position,
        again: bool,
    ) -> Result<(), Error> {
        let seq = self.catalog().last_base + 1;
        let base = Base {
            name: format!("{NAME}.{seq}.base.rdb"),
            seq,
            position: position.clone(),
            bytes: file.len(),
            applied: false,
            again,
        };
        file.trim()?;
        if self.settings().syncs() {
            file.sync()?;
        }
        let path = self.path(&base.name);
        match fs::rename(file.path(), &path) {
            // Renamed before, when there was no room for what comes next.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.exists() => {}
            renamed => renamed.map_err(|e| failed(&path, "renaming the snapshot", e))?,
        }
        self.write_link(&base)?;
        {
            let mut catalog = self.catalog();
            catalog.last_base = seq;
            catalog.base = Some(base);
        }
        self.write_manifest()
    }

    /// The file of the snapshot, when it is there as a whole.
    pub(crate) fn open_base(&self) -> Result<Option<JournalFile>, Error> {
        let name = self.catalog().base.as_ref().map(|base| base.name.clone());
        name.map(|name| JournalFile::open(self.path(&name))).transpose()
    }

    /// The target holds the snapshot for good.
    pub(crate) fn snapshot_applied(&self) -> Result<(), Error> {
        if self.settings().keep {
            let mut base = self.catalog().base.clone();
            if let Some(base) = base.as_mut().filter(|base| !base.applied) {
                base.applied = true;
                self.write_link(base)?;
                self.catalog().base = Some(base.clone());
            }
            return Ok(());
        }
        // One that was not kept as a whole has no other name.
        remove(&self.path(&format!("temp-{NAME}.base.rdb")))?;
        {
            let mut catalog = self.catalog();
            let base = catalog.base.take();
            catalog.doomed.extend(base.map(|base| base.name));
        }
        self.remove_doomed()
    }

    fn write_link(&self, base: &Base) -> Result<(), Error> {
        let base = sidecar::Base {
            file: base.name.clone(),
            bytes: base.bytes,
            replication_id: base.position.id.to_string(),
            offset: base.position.offset,
            applied: base.applied,
            again: base.again,
        };
        let link = sidecar::Link { format: sidecar::FORMAT, base: Some(base) };
        sidecar::write(&self.0.root.join(LINK), &link, self.settings().syncs())
    }
}

/// The stream.
impl Journal {
    /// Starts a segment for a stream that goes on after `position`. What the stream brought since the time `begun`, in milliseconds of the
    /// Unix epoch, will be in it or in those before it: whoever asks what came since some time has to know.
    pub(crate) fn start_segment(
        &self,
        position: &Position,
        begun: Option<u64>,
    ) -> Result<SegmentWriter, Error> {
        let seq = self.catalog().last_seq + 1;
        let mut file = self.create(&segment_name(seq))?;
        let mut pen = form::Pen::new(position);
        file.append(&[form::head(position)])?;
        if let Some(begun) = begun {
            file.append(&[pen.time(begun)])?;
        }
        let segment = Segment {
            seq,
            start: position.clone(),
            end: position.clone(),
            len: file.len(),
            ids: vec![position.id],
            closed: None,
            age: Duration::ZERO,
            file: Some(file.clone()),
        };
        {
            let mut catalog = self.catalog();
            catalog.last_seq = seq;
            catalog.segments.push_back(segment);
        }
        let writer = SegmentWriter { journal: self.clone(), seq, file, pen };
        if let Err(error) = self.write_manifest() {
            self.catalog().segments.retain(|segment| segment.seq != seq);
            remove(writer.file.path()).ok();
            return Err(error);
        }
        Ok(writer)
    }

    /// True when a segment of `len` bytes is to be ended.
    pub(crate) fn is_long_enough(&self, len: u64) -> bool {
        len >= self.settings().segment()
    }

    fn note_written(&self, seq: u64, len: u64, position: &Position, ids: &[ReplicationId]) {
        let mut catalog = self.catalog();
        if let Some(segment) = catalog.segments.iter_mut().rev().find(|segment| segment.seq == seq) {
            segment.len = len;
            segment.end = position.clone();
            if segment.ids.len() != ids.len() {
                segment.ids = ids.to_vec();
            }
        }
    }

    fn note_closed(&self, seq: u64) -> Result<(), Error> {
        if let Some(segment) = self.catalog().segments.iter_mut().rev().find(|segment| segment.seq == seq) {
            segment.closed = Some(Instant::now());
        }
        self.write_manifest()
    }

    /// The segment that the stream after `offset` begins in.
    pub(crate) fn segment_with(&self, offset: u64) -> Option<u64> {
        let catalog = self.catalog();
        let found = catalog.segments.iter().find(|s| s.start.offset <= offset && offset < s.end.offset);
        found.map(|segment| segment.seq)
    }

    /// The first segment after that of number `seq`, when there is one.
    pub(crate) fn segment_after(&self, seq: u64) -> Option<u64> {
        self.catalog().segments.iter().map(|segment| segment.seq).find(|&other| other > seq)
    }

    /// Where the stream on disk ends; `None` when no segment is there.
    pub(crate) fn end(&self) -> Option<u64> {
        self.catalog().segments.back().map(|segment| segment.end.offset)
    }

    /// What there is to read of a segment.
    pub(crate) fn readable(&self, seq: u64) -> Result<Readable, Error> {
        let gone = || Error::Internal(format!("segment {seq} of the journal is no more"));
        let mut catalog = self.catalog();
        let segment = catalog.segments.iter_mut().find(|segment| segment.seq == seq).ok_or_else(gone)?;
        let file = match &segment.file {
            Some(file) => file.clone(),
            None => segment.file.insert(JournalFile::open(self.path(&segment_name(seq)))?).clone(),
        };
        Ok(Readable { file, len: segment.len })
    }

    /// True when [`Journal::drop_applied`] would do something.
    pub(crate) fn has_applied(&self, offset: u64) -> bool {
        let catalog = self.catalog();
        !catalog.doomed.is_empty() || catalog.is_droppable(offset, self.settings())
    }

    /// Forgets segments that end at or before `offset`, up to which the target holds everything for good; those that are to be
    /// kept as long as age and size allow.
    pub(crate) fn drop_applied(&self, offset: u64) -> Result<(), Error> {
        let settings = self.settings();
        {
            let mut catalog = self.catalog();
            while catalog.is_droppable(offset, settings)
                && let Some(first) = catalog.segments.pop_front()
            {
                catalog.doomed.push(segment_name(first.seq));
                // A snapshot without what came right after it is of no use to anybody.
                let base = catalog.base.take();
                catalog.doomed.extend(base.map(|base| base.name));
            }
        }
        self.remove_doomed()
    }

    /// Removes files that are of no more use: first from the manifest, which must not name what is not there.
    fn remove_doomed(&self) -> Result<(), Error> {
        let doomed = self.catalog().doomed.clone();
        if doomed.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.write_manifest() {
            // On a full disk there is no room for another manifest before something is gone. Empty files hurt nobody.
            for name in &doomed {
                fs::OpenOptions::new()
                    .write(true)
                    .open(self.path(name))
                    .and_then(|file| file.set_len(0))
                    .ok();
            }
            self.write_manifest().map_err(|_| error)?;
        }
        for name in &doomed {
            remove(&self.path(name))?;
        }
        self.catalog().doomed.retain(|name| !doomed.contains(name));
        Ok(())
    }

    /// Bytes that the segments have.
    pub(crate) fn bytes(&self) -> u64 {
        self.catalog().segments.iter().map(|segment| segment.len).sum()
    }

    /// Bytes of the snapshot that is there.
    pub(crate) fn base_bytes(&self) -> u64 {
        self.catalog().base.as_ref().map_or(0, |base| base.bytes)
    }

    /// True while no more than the bound is there.
    pub(crate) fn has_room(&self) -> bool {
        self.settings().max_bytes.is_none_or(|max| self.bytes() < max)
    }
}

/// The directory as a whole.
impl Journal {
    /// Forgets everything: the stream begins anew with another snapshot.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        {
            let mut catalog = self.catalog();
            let segments: Vec<Segment> = catalog.segments.drain(..).collect();
            let names = segments.iter().map(|segment| segment_name(segment.seq));
            let names: Vec<String> = names.chain(catalog.base.take().map(|base| base.name)).collect();
            catalog.doomed.extend(names);
        }
        self.remove_doomed()
    }

    /// Removes the files of a run whose every byte has been applied. The directory stays this migration's.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        if self.settings().keep {
            return Ok(());
        }
        self.clear()?;
        self.remove_strangers()?;
        let link = self.0.root.join(LINK);
        remove(&link)?;
        fs::remove_dir(&self.0.dir).map_err(|e| failed(&self.0.dir, "removing the applied journal", e))
    }

    fn write_manifest(&self) -> Result<(), Error> {
        let _turn = self.0.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut manifest = Manifest::default();
        {
            let catalog = self.catalog();
            manifest.base = catalog.base.as_ref().map(|base| ManifestFile::new(&base.name, base.seq));
            manifest.incremental = catalog
                .segments
                .iter()
                .map(|segment| {
                    let mut file = ManifestFile::new(segment_name(segment.seq), segment.seq);
                    file.start_offset = Some(segment.start.offset);
                    file.end_offset = segment.closed.map(|_| segment.end.offset);
                    file
                })
                .collect();
        }
        let path = self.path(MANIFEST);
        if manifest.files().next().is_none() {
            // Servers refuse one that names nothing.
            return remove(&path);
        }
        let written = sidecar::replace(&path, &manifest.to_bytes(), self.settings().syncs());
        written.map_err(|e| failed(&path, "writing the manifest", e))
    }

    /// Reads what a run before this one left.
    fn load(&self, notes: &mut Vec<String>) -> Result<(), Error> {
        let path = self.path(MANIFEST);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|e| failed(&path, "reading the manifest", e))?,
        };
        let manifest = Manifest::parse(&text)
            .map_err(|source| Error::JournalManifest { path: path.clone(), source: Box::new(source) })?;
        let mut catalog = self.catalog();
        let all = manifest.base.iter().chain(&manifest.history).chain(&manifest.incremental);
        catalog.last_seq = manifest.incremental.iter().map(|file| file.seq).max().unwrap_or(0);
        catalog.last_base = all.map(|file| file.seq).max().unwrap_or(0);
        catalog.base = self.load_base(&manifest, notes)?;
        for file in &manifest.incremental {
            if file.name != segment_name(file.seq) {
                return Err(Error::JournalInUse { path: self.0.dir.clone(), found: file.name.clone() });
            }
            let Some(segment) = self.load_segment(file, notes)? else {
                // Files that were about to be removed may be empty, or gone.
                if catalog.segments.is_empty() { continue } else { break }
            };
            let torn = file.end_offset.is_some_and(|end| end != segment.end.offset);
            match catalog.segments.back() {
                // Only what had been applied is dropped, so what is before a gap is of no more use.
                Some(before) if before.end.offset != segment.start.offset => catalog.segments.clear(),
                _ => {}
            }
            catalog.segments.push_back(segment);
            if torn {
                notes.push(format!(
                    "journal: {} ends before its end, as after a loss of power; the rest is asked for again",
                    file.name
                ));
                break;
            }
        }
        Ok(())
    }

    fn load_base(&self, manifest: &Manifest, notes: &mut Vec<String>) -> Result<Option<Base>, Error> {
        let Some(file) = &manifest.base else { return Ok(None) };
        let link: Option<sidecar::Link> = sidecar::read(&self.0.root.join(LINK))?;
        let known = link.and_then(|link| link.base).filter(|base| base.file == file.name);
        let len = fs::metadata(self.path(&file.name)).map(|data| data.len()).ok();
        let id = known.as_ref().and_then(|base| base.replication_id.parse().ok());
        Ok(match (known, id) {
            (Some(base), Some(id)) if len == Some(base.bytes) => {
                let position = Position::after_snapshot(id, base.offset);
                Some(Base {
                    name: base.file,
                    seq: file.seq,
                    position,
                    bytes: base.bytes,
                    applied: base.applied,
                    again: base.again,
                })
            }
            _ => {
                notes.push(format!(
                    "journal: the snapshot {} is not as it was written, and not gone on with",
                    file.name
                ));
                None
            }
        })
    }

    /// Checks a segment, and cuts off what is not whole. `None` when nothing of it is left.
    fn load_segment(&self, file: &ManifestFile, notes: &mut Vec<String>) -> Result<Option<Segment>, Error> {
        let path = self.path(&file.name);
        let opened = match JournalFile::open(path.clone()) {
            Err(Error::Journal { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                notes.push(format!("journal: {} is missing; what it held is asked for again", file.name));
                return Ok(None);
            }
            opened => opened?,
        };
        if opened.len() == 0 {
            // About to be removed, or never begun.
            return Ok(None);
        }
        let Some(checked) = check(&opened)? else {
            notes.push(format!("journal: {} has no beginning; what it held is asked for again", file.name));
            return Ok(None);
        };
        if let Some(fault) = &checked.fault {
            notes.push(format!(
                "journal: {} is damaged at byte {} ({}); what is behind it is asked for again",
                file.name, fault.at, fault.source
            ));
        }
        if checked.len < opened.len() {
            let cut =
                fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(checked.len));
            cut.map_err(|e| failed(&path, "cutting off what is not whole", e))?;
        }
        let written = fs::metadata(&path).and_then(|data| data.modified()).ok();
        let age = written.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        let Checked { start, end, len, ids, .. } = checked;
        Ok(Some(Segment {
            seq: file.seq,
            start,
            end,
            len,
            ids,
            closed: Some(Instant::now()),
            age,
            file: None,
        }))
    }

    /// Removes files of ours that the manifest does not name: a run that was killed may have been about to name them, or to
    /// remove them.
    fn remove_strangers(&self) -> Result<(), Error> {
        let named: Vec<String> = {
            let catalog = self.catalog();
            let segments = catalog.segments.iter().map(|segment| segment_name(segment.seq));
            segments.chain(catalog.base.iter().map(|base| base.name.clone())).collect()
        };
        let listing = |e| failed(&self.0.dir, "listing the directory", e);
        for entry in fs::read_dir(&self.0.dir).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.strip_prefix("temp-").unwrap_or(&name).starts_with(NAME);
            if ours && name != MANIFEST && !named.contains(&name) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn kept(&self, notes: Vec<String>) -> Kept {
        let catalog = self.catalog();
        let run = catalog.segments.front().zip(catalog.segments.back()).map(|(first, last)| Run {
            start: first.start.clone(),
            end: last.end.clone(),
            ids: catalog.segments.iter().flat_map(|segment| segment.ids.iter().copied()).fold(
                Vec::new(),
                |mut ids, id| {
                    if !ids.contains(&id) {
                        ids.push(id);
                    }
                    ids
                },
            ),
        });
        let base = catalog.base.as_ref().filter(|base| !base.applied);
        let again = base.is_some_and(|base| base.again);
        Kept { base: base.map(|base| base.position.clone()), again, run, notes }
    }
}

impl Catalog {
    /// True when the first segment has been applied and is not to be kept.
    fn is_droppable(&self, offset: u64, settings: &Settings) -> bool {
        let Some(first) = self.segments.front() else { return false };
        let applied = first.closed.is_some() && first.end.offset <= offset;
        if !applied || !settings.keep {
            return applied;
        }
        let idle = first.closed.map_or(Duration::ZERO, |at| at.elapsed()) + first.age;
        let size: u64 = self.segments.iter().map(|segment| segment.len).sum();
        settings.max_age.is_some_and(|max| idle > max) || settings.max_bytes.is_some_and(|max| size > max)
    }
}

fn segment_name(seq: u64) -> String {
    format!("{NAME}.{seq}.incr.aof")
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "removing the file", e)),
        _ => Ok(()),
    }
}
