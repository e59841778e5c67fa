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
/// Bytes of a block. Parts grow by whole blocks, so that what they hold is never moved.
const BLOCK: usize = 16 << 10;
/// Records wait for their parts side by side until they are so many bytes. The ends of all parts are too much for the
/// processor's nearest memory to hold while other work goes on: to look them up for each record would wait for memory each time.
const WAITING: usize = 128 << 10;

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
    /// Records that are not in their parts yet.
    waiting: Vec<u8>,
    parts: Vec<Part>,
    /// Bytes in the parts.
    held: usize,
    spill: Option<Spill>,
}

/// Blocks of whole records.
#[derive(Clone, Debug, Default)]
struct Part {
    /// The block that grows.
    open: Vec<u8>,
    /// Those before it.
    full: Vec<Vec<u8>>,
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
        Self {
            hash,
            room,
            level,
            waiting: Vec::new(),
            parts: vec![Part::default(); PARTS],
            held: 0,
            spill: None,
        }
    }

    /// Adds a key. [`settle`](Self::settle) is to be called after the last.
    ///
    /// # Errors
    ///
    /// Those of writing to disk.
    #[inline]
    pub(crate) fn push(&mut self, key: &KeyDigest<'_>) -> io::Result<()> {
        let hash = self.hash.key(key.db, key.key);
        if self.waiting.capacity() - self.waiting.len() < key.key.len() + record::MOST_BESIDES_KEY {
            self.make_room(key.key.len() + record::MOST_BESIDES_KEY)?;
        }
        record::write(&mut self.waiting, hash, key);
        // What is to be held is little: a limit of less than what waits keeps its meaning.
        if self.waiting.len() < self.room.memory { Ok(()) } else { self.settle() }
    }

    /// Brings all records to their parts.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.push_records(&waiting)?;
        waiting.clear();
        // A giant name must not cost its room for ever.
        if waiting.capacity() <= 2 * WAITING {
            self.waiting = waiting;
        }
        Ok(())
    }

    /// Adds records as they are.
    pub(crate) fn push_records(&mut self, mut records: &[u8]) -> io::Result<()> {
        while let Some((hash, body)) = record::split(records) {
            let (record, rest) = records.split_at(record::HEAD + body.len());
            records = rest;
            let part = self.part(hash);
            self.parts[part].room(record.len()).extend_from_slice(record);
            self.held += record.len();
            self.spill_if_full()?;
        }
        Ok(())
    }

    /// Bytes of the records of a part.
    pub(crate) fn size(&self, part: usize) -> u64 {
        let on_disk = self.spill.iter().flat_map(|spill| &spill.chunks[part]);
        let held: usize = self.parts[part].blocks().map(Vec::len).sum();
        held as u64 + on_disk.map(|(_, length)| *length as u64).sum::<u64>()
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
        std::mem::take(&mut self.parts[part]).blocks().try_for_each(|block| see(block))?;
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
    fn make_room(&mut self, more: usize) -> io::Result<()> {
        self.settle()?;
        self.waiting.reserve_exact(more.max(WAITING));
        Ok(())
    }

    #[cold]
    fn write_out(&mut self) -> io::Result<()> {
        if self.spill.is_none() {
            let file = create(&self.room.directory)?;
            self.spill = Some(Spill { file, end: 0, chunks: vec![Vec::new(); PARTS] });
        }
        let Some(spill) = &mut self.spill else { return Ok(()) };
        for (number, part) in self.parts.iter_mut().enumerate() {
            let mut length = 0;
            for block in part.blocks() {
                spill.file.write_all(block)?;
                length += block.len();
            }
            if length > 0 {
                spill.chunks[number].push((spill.end, length));
                spill.end += length as u64;
            }
            // The open one stays for what comes.
            part.full.clear();
            part.open.clear();
        }
        self.held = 0;
        Ok(())
    }
}

fn create(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
}

impl Part {
    /// In the order in which they were filled.
    fn blocks(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.full.iter().chain([&self.open])
    }

    /// The block that has room for so many bytes more.
    #[inline]
    fn room(&mut self, more: usize) -> &mut Vec<u8> {
        if self.open.capacity() - self.open.len() < more {
            let full = std::mem::replace(&mut self.open, Vec::with_capacity(more.max(BLOCK)));
            if !full.is_empty() {
                self.full.push(full);
            }
        }
        &mut self.open
    }
}
