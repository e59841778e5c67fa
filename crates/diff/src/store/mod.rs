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
    /// By part: blocks of whole records.
    parts: Vec<Vec<Vec<u8>>>,
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
        Self { hash, room, level, parts: vec![Vec::new(); PARTS], held: 0, spill: None }
    }

    /// Adds a key.
    ///
    /// # Errors
    ///
    /// Those of writing to disk.
    pub(crate) fn push(&mut self, key: &KeyDigest<'_>) -> io::Result<()> {
        let hash = self.hash.key(key.db, key.key);
        let part = self.part(hash);
        let block = room(&mut self.parts[part], key.key.len() + record::MOST_BESIDES_KEY);
        let before = block.len();
        record::write(block, hash, key);
        self.held += block.len() - before;
        self.spill_if_full()
    }

    /// Adds records as they are.
    pub(crate) fn push_records(&mut self, mut records: &[u8]) -> io::Result<()> {
        while let Some((hash, body)) = record::split(records) {
            let (record, rest) = records.split_at(record::HEAD + body.len());
            records = rest;
            let part = self.part(hash);
            room(&mut self.parts[part], record.len()).extend_from_slice(record);
            self.held += record.len();
            self.spill_if_full()?;
        }
        Ok(())
    }

    /// Bytes of the records of a part.
    pub(crate) fn size(&self, part: usize) -> u64 {
        let on_disk = self.spill.iter().flat_map(|spill| &spill.chunks[part]);
        let held: usize = self.parts[part].iter().map(Vec::len).sum();
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
        std::mem::take(&mut self.parts[part]).iter().try_for_each(|block| see(block))?;
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
        for (part, blocks) in self.parts.iter_mut().enumerate() {
            let mut length = 0;
            for block in blocks.iter() {
                spill.file.write_all(block)?;
                length += block.len();
            }
            if length > 0 {
                spill.chunks[part].push((spill.end, length));
                spill.end += length as u64;
            }
            // The first one stays for what comes.
            blocks.truncate(1);
            blocks.iter_mut().for_each(Vec::clear);
        }
        self.held = 0;
        Ok(())
    }
}

fn create(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
}

/// The block that has room for so many bytes more: the last one or a new one.
#[inline]
fn room(blocks: &mut Vec<Vec<u8>>, more: usize) -> &mut Vec<u8> {
    match blocks.last() {
        Some(last) if last.capacity() - last.len() >= more => {}
        _ => blocks.push(Vec::with_capacity(more.max(BLOCK))),
    }
    let last = blocks.len() - 1;
    &mut blocks[last]
}
