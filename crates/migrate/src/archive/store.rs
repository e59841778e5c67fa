//! The writing half of an archive: one process at a time.
//!
//! What is on disk is as good after a `kill -9` at any moment as the catalog says: files are whole before it names them, and are
//! removed after it has ceased to. The segment that is being written is cut after its last whole command, outside of a
//! transaction, when the archive is opened again.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use keyferry_replication::Position;

use super::{
    CATALOG, READERS,
    catalog::{Base, Catalog, Closed, Run, Segment},
    error::ArchiveError,
    pack::{self, Packing},
};
use crate::{
    backup::UNNAMED,
    error::Error,
    journal::{self, Checked, JournalFile, Pen, Received, check, failed, remove},
};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    /// The oldest moment that has to be restorable, in Unix milliseconds; none for everything.
    pub(super) since: Option<u64>,
    /// Bytes of all files.
    pub(super) max_bytes: Option<u64>,
}

/// What became of the oldest segment that had not been read back.
#[derive(Debug)]
pub(super) struct Step {
    /// There was one; there may be others.
    pub(super) more: bool,
    /// What a person should know.
    pub(super) note: Option<String>,
}

/// An archive directory, held by this process alone. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// What is written has to survive a loss of power.
    sync: bool,
    state: Mutex<State>,
    _lock: File,
}

#[derive(Debug)]
struct State {
    catalog: Catalog,
    /// Bytes of the open segment.
    open: u64,
    /// Files to be removed when nobody reads.
    doomed: Vec<String>,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    file: JournalFile,
    pen: Pen,
    begun: u64,
    /// When the last batch came.
    received: u64,
    /// Written through to the disk.
    synced: u64,
}

impl Store {
    /// Opens an archive, or begins one in a directory that is empty or not there. Gives what a person should know.
    pub(super) fn open(
        dir: &Path,
        (source, slots): (String, Option<String>),
        sync: bool,
    ) -> Result<(Self, Vec<String>), Error> {
        fs::create_dir_all(dir).map_err(|e| failed(dir, "creating the directory", e))?;
        if !dir.join(CATALOG).exists() {
            refuse_foreign(dir)?;
        }
        let lock = journal::lock(dir)?;
        let catalog = match Catalog::load(dir)? {
            Some(found) if found.source == source && found.slots == slots => found,
            Some(found) => {
                let shown = |source: &str, slots: &Option<String>| match slots {
                    None => source.to_owned(),
                    Some(slots) => format!("{source}, slots {slots}"),
                };
                let (theirs, ours) = (shown(&found.source, &found.slots), shown(&source, &slots));
                return Err(ArchiveError::OtherSource { dir: dir.to_owned(), theirs, ours }.into());
            }
            None => Catalog::new(source, slots),
        };
        let readers = dir.join(READERS);
        File::options()
            .create(true)
            .append(true)
            .open(&readers)
            .map_err(|e| failed(&readers, "creating the lock", e))?;
        let state = State { catalog, open: 0, doomed: Vec::new() };
        let store =
            Store(Arc::new(Inner { dir: dir.to_owned(), sync, state: Mutex::new(state), _lock: lock }));
        let mut notes = Vec::new();
        store.close_torn(&mut notes)?;
        store.save()?;
        store.doom_strangers()?;
        store.remove_doomed()?;
        Ok((store, notes))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.dir.join(name)
    }

    fn save(&self) -> Result<(), Error> {
        self.state().catalog.save(&self.0.dir, self.0.sync)
    }

    /// Changes the catalog, on disk when this returns. When that fails, nothing is changed.
    fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> Result<T, Error> {
        let mut state = self.state();
        let mut catalog = state.catalog.clone();
        let given = change(&mut catalog);
        catalog.save(&self.0.dir, self.0.sync)?;
        state.catalog = catalog;
        Ok(given)
    }

    /// Where the stream ends that is in the archive, and when that came; none of an empty archive.
    pub(super) fn end(&self) -> Option<(Position, u64)> {
        self.state().catalog.runs.last().and_then(Run::closed_end)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let state = self.state();
        state.catalog.bytes(state.open)
    }

    /// Bytes of the newest snapshot, and of the stream behind it.
    pub(super) fn newest(&self) -> (u64, u64) {
        let state = self.state();
        let Some((run, base)) = state.catalog.runs.last().and_then(|run| Some((run, run.bases.last()?)))
        else {
            return (0, 0);
        };
        let behind =
            |segment: &&Segment| segment.closed.as_ref().is_none_or(|closed| closed.end > base.offset);
        (base.bytes, run.segments.iter().filter(behind).map(|segment| segment.bytes(state.open)).sum())
    }

    /// When the newest snapshot was begun.
    pub(super) fn last_base(&self) -> Option<u64> {
        Some(self.state().catalog.runs.last()?.bases.last()?.taken)
    }

    /// How many snapshots and segments there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state();
        let runs = &state.catalog.runs;
        (runs.iter().map(|run| run.bases.len()).sum(), runs.iter().map(|run| run.segments.len()).sum())
    }

    /// The name of the next file.
    fn take_number(&self) -> u64 {
        let mut state = self.state();
        let number = state.catalog.next;
        state.catalog.next += 1;
        number
    }
}

/// Snapshots.
impl Store {
    /// The file that a snapshot is to have, which stands at `from` now, whole and on disk.
    pub(super) fn name_base(&self, from: &Path, mut base: Base) -> Result<Base, Error> {
        base.file = format!("base-{:06}.rdb", self.take_number());
        let path = self.path(&base.file);
        fs::rename(from, &path).map_err(|e| failed(&path, "renaming the snapshot", e))?;
        let (digest, bytes) = pack::digest_file(&path)?;
        if bytes != base.bytes || digest != base.digest {
            let why = format!("it is not what was written: {bytes} bytes of {}", base.bytes);
            remove(&path)?;
            return Err(failed(&path, "reading back the snapshot", io::Error::other(why)));
        }
        Ok(base)
    }

    /// The history begins anew with this snapshot.
    pub(super) fn begin_run(&self, base: Base, gap: Option<String>) -> Result<(), Error> {
        self.change(|catalog| {
            catalog.runs.push(Run { begun: base.taken, gap, bases: vec![base], segments: Vec::new() });
        })
    }

    /// Another snapshot of the history that is followed, which has come to its offset.
    pub(super) fn add_base(&self, base: Base) -> Result<(), Error> {
        self.change(|catalog| {
            if let Some(run) = catalog.runs.last_mut() {
                run.bases.push(base);
            }
        })
    }
}

/// The stream.
impl Store {
    /// Begins a segment for the stream that goes on after `position`, whose first batch came then, in Unix milliseconds.
    pub(super) fn begin_segment(&self, position: &Position, begun: u64) -> Result<Writer, Error> {
        let name = format!("segment-{:06}.aof", self.take_number());
        let mut file = JournalFile::create(self.path(&name))?;
        file.append(&[journal::head(position)])?;
        let segment = Segment {
            file: name,
            ids: vec![position.id.to_string()],
            start: position.offset,
            begun,
            closed: None,
        };
        self.change(|catalog| {
            if let Some(run) = catalog.runs.last_mut() {
                run.segments.push(segment);
            }
        })?;
        self.state().open = file.len();
        Ok(Writer { pen: Pen::new(position), file, begun, received: begun, synced: 0 })
    }

    /// Appends to the open segment: all, or nothing when this fails.
    pub(super) fn append(&self, writer: &mut Writer, batches: &[Received]) -> Result<(), Error> {
        let mut pieces: Vec<Bytes> = Vec::with_capacity(batches.len() * 2);
        let mut pen = writer.pen.clone();
        pen.write(batches, &mut pieces);
        writer.file.append(&pieces)?;
        writer.pen = pen;
        if let Some(last) = batches.last() {
            writer.received = last.at;
        }
        self.state().open = writer.file.len();
        Ok(())
    }

    /// Ends the open segment, on disk when this returns. Nothing of a transaction may be open.
    pub(super) fn close(&self, writer: &Writer, db: Option<u64>) -> Result<(), Error> {
        writer.file.trim()?;
        writer.file.sync()?;
        let Pen { position, ids, .. } = &writer.pen;
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let closed = Closed {
            end: position.offset,
            db,
            ended: writer.received,
            raw: writer.file.len(),
            packed: None,
            fault: None,
        };
        self.change(|catalog| {
            if let Some(segment) = catalog.runs.last_mut().and_then(|run| run.segments.last_mut()) {
                (segment.closed, segment.ids) = (Some(closed), ids);
            }
        })
    }

    /// Closes the segment that a run before this one left open, or whose stream broke off, behind the last that is good. The catalog on
    /// disk says so when it is written next.
    pub(super) fn close_torn(&self, notes: &mut Vec<String>) -> Result<(), Error> {
        let segment = {
            let state = self.state();
            let last = state.catalog.runs.last().and_then(|run| run.segments.last());
            last.filter(|segment| segment.closed.is_none()).cloned()
        };
        let Some(segment) = segment else { return Ok(()) };
        let path = self.path(&segment.file);
        let checked = match JournalFile::open(path.clone()) {
            Ok(file) => check(&file)?.map(|checked| (checked, file.len())),
            Err(Error::Journal { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some((checked, len)) = checked.filter(|(checked, _)| checked.start.offset == segment.start)
        else {
            // Begun, and nothing in it: the stream goes on where the one before it ends.
            notes.push(format!(
                "{} had no beginning, and is left out: its stream is asked for again",
                segment.file
            ));
            let mut state = self.state();
            if let Some(run) = state.catalog.runs.last_mut() {
                run.segments.pop();
            }
            return Ok(());
        };
        let Checked { end, len: good, ids, received, fault, .. } = checked;
        if let Some(fault) = fault {
            notes.push(format!(
                "{} is damaged at byte {} ({}), and cut there: its stream is asked for again from offset {} on",
                segment.file, fault.at, fault.source, end.offset
            ));
        }
        if good < len {
            let cut = OpenOptions::new().write(true).open(&path).and_then(|file| {
                file.set_len(good)?;
                file.sync_all()
            });
            cut.map_err(|e| failed(&path, "cutting off what is not whole", e))?;
        }
        let closed = Closed {
            end: end.offset,
            db: end.db,
            ended: if received == 0 { segment.begun } else { received },
            raw: good,
            packed: None,
            fault: None,
        };
        let mut state = self.state();
        if let Some(segment) = state.catalog.runs.last_mut().and_then(|run| run.segments.last_mut()) {
            segment.closed = Some(closed);
            segment.ids = ids.iter().map(ToString::to_string).collect();
        }
        Ok(())
    }

    /// Reads back and compresses the oldest segment that has not been.
    pub(super) fn pack_one(&self) -> Result<Step, Error> {
        let next = {
            let state = self.state();
            let mut all = state.catalog.runs.iter().flat_map(|run| &run.segments);
            let is_due = |segment: &&Segment| {
                segment
                    .closed
                    .as_ref()
                    .is_some_and(|closed| closed.packed.is_none() && closed.fault.is_none())
            };
            all.find(is_due).cloned()
        };
        let Some(segment) = next else { return Ok(Step { more: false, note: None }) };
        let packed = pack::pack(&self.0.dir, &segment)?;
        let mut note = None;
        if let Err(damage) = &packed {
            note = Some(format!(
                "{damage}; it was read back and is not what was written: take a new snapshot soon"
            ));
        }
        let replaced = self.change(|catalog| {
            let mut all = catalog.runs.iter_mut().flat_map(|run| &mut run.segments);
            // It may have become too old meanwhile.
            let Some(of) = all.find(|of| of.file == segment.file) else {
                return packed.ok().map(|packing| packing.file);
            };
            let Some(closed) = &mut of.closed else { return None };
            match packed {
                Ok(Packing { file, packed }) => {
                    closed.packed = Some(packed);
                    Some(std::mem::replace(&mut of.file, file))
                }
                Err(damage) => {
                    closed.fault = Some(damage.to_string());
                    None
                }
            }
        })?;
        self.state().doomed.extend(replaced);
        self.remove_doomed()?;
        Ok(Step { more: true, note })
    }
}

/// What is there too long, or too much.
impl Store {
    /// Forgets what need not be kept. Tells whether all files together have no more bytes than they may.
    pub(super) fn expire(&self, keeping: Keeping) -> Result<bool, Error> {
        loop {
            let over = keeping.max_bytes.is_some_and(|max| self.bytes() > max);
            let mut state = self.state();
            let mut catalog = state.catalog.clone();
            let due = over || keeping.since.is_some_and(|since| is_over(&catalog, since));
            let Some(gone) = due.then(|| drop_oldest(&mut catalog)).flatten() else {
                drop(state);
                self.remove_doomed()?;
                return Ok(!over);
            };
            catalog.save(&self.0.dir, self.0.sync)?;
            state.catalog = catalog;
            state.doomed.extend(gone);
        }
    }

    /// Removes files that nothing names any more, unless somebody is reading.
    pub(super) fn remove_doomed(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.doomed.is_empty() {
            return Ok(());
        }
        let path = self.path(READERS);
        let file =
            File::options().append(true).open(&path).map_err(|e| failed(&path, "opening the lock", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(()),
            // Without locks, readers have to do with what they find.
            Err(fs::TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(fs::TryLockError::Error(e)) => return Err(failed(&path, "locking", e)),
        }
        while let Some(name) = state.doomed.last().cloned() {
            remove(&self.path(&name))?;
            state.doomed.pop();
        }
        Ok(())
    }

    /// Files of ours that the catalog does not name: what a run that was killed was about to name, or to remove.
    fn doom_strangers(&self) -> Result<(), Error> {
        let mut state = self.state();
        let listing = |e| failed(&self.0.dir, "listing the directory", e);
        for entry in fs::read_dir(&self.0.dir).map_err(listing)? {
            let name = entry.map_err(listing)?.file_name().to_string_lossy().into_owned();
            let of = name.strip_prefix("temp-").unwrap_or(&name);
            let ours = of.starts_with("base-") || of.starts_with("segment-") || of.starts_with(UNNAMED);
            let known = state.catalog.files().any(|file| file == name);
            if ours && !known {
                state.doomed.push(name);
            }
        }
        Ok(())
    }
}

impl Writer {
    /// Bytes of the segment.
    pub(super) fn len(&self) -> u64 {
        self.file.len()
    }

    /// When it was begun, in Unix milliseconds.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// The file, when something of it has not been written through to the disk.
    pub(super) fn unsynced(&mut self) -> Option<JournalFile> {
        let len = self.file.len();
        (std::mem::replace(&mut self.synced, len) < len).then(|| self.file.clone())
    }
}

/// True when what comes after the oldest snapshot reaches back far enough without it.
fn is_over(catalog: &Catalog, since: u64) -> bool {
    let bases = catalog.runs.iter().flat_map(|run| &run.bases);
    bases.clone().nth(1).is_some_and(|second| second.taken <= since)
}

/// Takes out the oldest snapshot and the stream that only it needs; never the newest one. Gives the names of their files.
fn drop_oldest(catalog: &mut Catalog) -> Option<Vec<String>> {
    let count: usize = catalog.runs.iter().map(|run| run.bases.len()).sum();
    if count < 2 {
        return None;
    }
    let first = catalog.runs.first_mut()?;
    if first.bases.len() == 1 {
        let run = catalog.runs.remove(0);
        if let Some(first) = catalog.runs.first_mut() {
            // What was before it is not in the archive at all.
            first.gap = None;
        }
        let bases = run.bases.into_iter().map(|base| base.file);
        return Some(bases.chain(run.segments.into_iter().map(|segment| segment.file)).collect());
    }
    let mut gone = vec![first.bases.remove(0).file];
    let (offset, taken) = first.bases.first().map(|base| (base.offset, base.taken))?;
    first.begun = taken;
    while first.segments.first().and_then(|segment| segment.closed.as_ref()).is_some_and(|c| c.end <= offset)
    {
        gone.push(first.segments.remove(0).file);
    }
    Some(gone)
}

/// A directory with something in it that is not ours may be anything.
fn refuse_foreign(dir: &Path) -> Result<(), Error> {
    let listing = |e| failed(dir, "listing the directory", e);
    for entry in fs::read_dir(dir).map_err(listing)? {
        let found = entry.map_err(listing)?.file_name().to_string_lossy().into_owned();
        // Left by a process that died before it had written anything else.
        let ours = found == journal::LOCK
            || found == READERS
            || found == format!("temp-{CATALOG}")
            || found.starts_with(UNNAMED);
        if !ours {
            return Err(ArchiveError::NotAnArchive { dir: dir.to_owned(), found }.into());
        }
    }
    Ok(())
}
