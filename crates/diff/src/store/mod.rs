//! The digests of one side, divided by the hashes of their keys, in memory up to a limit and on disk beyond.

pub(crate) mod record;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::digest::{Hash, KeyDigest};

/// Bits of the hash that choose a part.
const BITS: u32 = 8;
/// Number of parts.
pub(crate) const PARTS: usize = 1 << BITS;
/// Parts are divided again down to this level; then the hash is used up.
pub(crate) const DEEPEST: u32 = 64 / BITS - 1;
/// Buffers grow by this many bytes at least.
const STEP: usize = 16 << 10;

/// Where digests wait that do not fit in memory.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Bytes in memory, beyond which a store writes to disk.
    pub(crate) memory: usize,
    /// The directory for what is on disk.
    pub(crate) directory: PathBuf,
}

/// A set of records in [`PARTS`] parts. Records of one key are in the same part of every store of the same level.
#[derive(Debug)]
pub(crate) struct Store {
    hash: Hash,
    room: Room,
    level: u32,
    buffers: Vec<Vec<u8>>,
    held: usize,
    spill: Option<Spill>,
}

#[derive(Debug)]
struct Spill {
    /// Has no name, so it is gone when it is closed, however the program ends.
    file: File,
    end: u64,
    /// By part: offset and length.
    chunks: Vec<Vec<(u64, usize)>>,
}

impl Store {
    /// An empty store. What it holds can be joined with stores of the same hash.
    pub(crate) fn new(hash: Hash, room: Room) -> Self {
        Self::at_level(hash, room, 0)
    }

    /// A store whose parts are those of one part of a store one level up.
    pub(crate) fn at_level(hash: Hash, room: Room, level: u32) -> Self {
        Self { hash, room, level, buffers: vec![Vec::new(); PARTS], held: 0, spill: None }
    }

    /// Adds a key.
    ///
    /// # Errors
    ///
    /// Those of writing to disk.
    pub(crate) fn push(&mut self, key: &KeyDigest<'_>) -> io::Result<()> {
        let hash = self.hash.key(key.db, key.key);
        let part = self.part(hash);
        let buffer = &mut self.buffers[part];
        let before = buffer.len();
        // As much as a record takes at most besides its key.
        make_room(buffer, key.key.len() + 128);
        record::write(buffer, hash, key);
        self.held += buffer.len() - before;
        self.spill_if_full()
    }

    /// Adds records as they are.
    pub(crate) fn push_records(&mut self, mut records: &[u8]) -> io::Result<()> {
        while let Some((hash, body)) = record::split(records) {
            let (record, rest) = records.split_at(record::HEAD + body.len());
            records = rest;
            let part = self.part(hash);
            make_room(&mut self.buffers[part], record.len());
            self.buffers[part].extend_from_slice(record);
            self.held += record.len();
            self.spill_if_full()?;
        }
        Ok(())
    }

    /// Bytes of the records of a part.
    pub(crate) fn size(&self, part: usize) -> u64 {
        let on_disk = self.spill.iter().flat_map(|spill| &spill.chunks[part]);
        self.buffers[part].len() as u64 + on_disk.map(|(_, length)| *length as u64).sum::<u64>()
    }

    /// Bytes that were written to disk.
    pub(crate) fn spilled(&self) -> u64 {
        self.spill.as_ref().map_or(0, |spill| spill.end)
    }

    /// Takes out the records of a part, run by run; each holds whole records.
    pub(crate) fn take(
        &mut self,
        part: usize,
        mut see: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        see(&std::mem::take(&mut self.buffers[part]))?;
        let Some(spill) = &mut self.spill else { return Ok(()) };
        let mut run = Vec::new();
        for (offset, length) in std::mem::take(&mut spill.chunks[part]) {
            run.resize(length, 0);
            spill.file.seek(SeekFrom::Start(offset))?;
            spill.file.read_exact(&mut run)?;
            see(&run)?;
        }
        Ok(())
    }

    /// The directory and memory it was given.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// The hash by which it is divided.
    pub(crate) fn hash(&self) -> Hash {
        self.hash
    }

    #[inline]
    fn part(&self, hash: u64) -> usize {
        (hash >> (64 - BITS * (self.level + 1))) as usize % PARTS
    }

    #[inline]
    fn spill_if_full(&mut self) -> io::Result<()> {
        if self.held < self.room.memory { Ok(()) } else { self.write_out() }
    }

    #[cold]
    fn write_out(&mut self) -> io::Result<()> {
        if self.spill.is_none() {
            let file = create(&self.room.directory)?;
            self.spill = Some(Spill { file, end: 0, chunks: vec![Vec::new(); PARTS] });
        }
        let Some(spill) = &mut self.spill else { return Ok(()) };
        for (part, buffer) in self.buffers.iter_mut().enumerate().filter(|(_, buffer)| !buffer.is_empty()) {
            spill.file.write_all(buffer)?;
            spill.chunks[part].push((spill.end, buffer.len()));
            spill.end += buffer.len() as u64;
            buffer.clear();
        }
        self.held = 0;
        Ok(())
    }
}

fn create(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
}

/// Grows in steps, a quarter of what is there at least, so that little is reserved in vain.
#[inline]
fn make_room(buffer: &mut Vec<u8>, more: usize) {
    if buffer.capacity() - buffer.len() < more {
        buffer.reserve_exact(more.max(STEP).max(buffer.len() / 4));
    }
}
