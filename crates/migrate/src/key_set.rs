//! Sets of keys, of any size in bounded memory: which keys a snapshot holds, which ones a target held before.
//!
//! Of each key a fingerprint of 128 bits is kept. They are collected in memory up to a bound, and beyond in sorted runs on
//! disk, which are merged into one sorted file with the first fingerprint of every block in memory. A lookup is two binary
//! searches and one read.
//!
//! Two keys of one fingerprint are taken for one: among 10^9 keys that happens once in 10^20 sets. The fingerprints are
//! seeded, so that nobody can choose keys that have the same.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use twox_hash::XxHash3_128;

use crate::{error::Error, journal::failed};

/// Fingerprints in memory, at most: 32 MiB.
const MOST: usize = 2 << 20;

/// Bytes of one on disk.
const SIZE: usize = 16;

/// Fingerprints in a block.
const BLOCK: usize = 256;

/// What begins the file that a set is kept in.
const MAGIC: &[u8; 8] = b"kfkeys\x001";

/// Collects a set.
#[derive(Debug)]
pub(crate) struct KeyCollector {
    seed: u64,
    directory: PathBuf,
    most: usize,
    memory: Vec<u128>,
    spill: Option<Spill>,
}

/// Sorted runs, in a file without a name: gone when it is closed, however the program ends.
#[derive(Debug)]
struct Spill {
    file: File,
    /// Where each ends, in fingerprints.
    ends: Vec<u64>,
}

/// A set that is complete.
#[derive(Debug)]
pub(crate) struct KeySet {
    seed: u64,
    count: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u128>),
    Disk {
        file: File,
        path: PathBuf,
        /// Where the first fingerprint is.
        start: u64,
        /// The first of each block.
        firsts: Vec<u128>,
    },
}

impl KeyCollector {
    /// An empty set. What does not fit in memory goes to `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self::with_seed(directory, RandomState::new().hash_one(0))
    }

    fn with_seed(directory: &Path, seed: u64) -> Self {
        KeyCollector { seed, directory: directory.to_owned(), most: MOST, memory: Vec::new(), spill: None }
    }

    /// Adds a key of a database.
    pub(crate) fn add(&mut self, db: u32, key: &[u8]) -> Result<(), Error> {
        self.memory.push(fingerprint(self.seed, db, key));
        if self.memory.len() >= self.most {
            self.write_run().map_err(|e| failed(&self.directory, "writing fingerprints of keys", e))?;
        }
        Ok(())
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.memory.sort_unstable();
        self.memory.dedup();
        let spill = match &mut self.spill {
            Some(spill) => spill,
            None => {
                let file = tempfile::tempfile_in(&self.directory)?;
                self.spill.insert(Spill { file, ends: Vec::new() })
            }
        };
        let start = spill.ends.last().copied().unwrap_or(0);
        for (n, chunk) in self.memory.chunks(64 << 10).enumerate() {
            let bytes: Vec<u8> = chunk.iter().flat_map(|print| print.to_be_bytes()).collect();
            spill.file.write_all_at(&bytes, (start + n as u64 * (64 << 10)) * SIZE as u64)?;
        }
        spill.ends.push(start + self.memory.len() as u64);
        self.memory.clear();
        Ok(())
    }

    /// The set of all that was added.
    pub(crate) fn finish(mut self) -> Result<KeySet, Error> {
        if self.spill.is_none() {
            self.memory.sort_unstable();
            self.memory.dedup();
            let count = self.memory.len() as u64;
            return Ok(KeySet { seed: self.seed, count, place: Place::Memory(self.memory) });
        }
        let merged = tempfile::tempfile_in(&self.directory).and_then(|file| self.merge(file, 0));
        merged.map_err(|e| failed(&self.directory, "sorting fingerprints of keys", e))
    }

    /// The set, kept in a file that is there or is not, but never in part.
    pub(crate) fn keep(mut self, path: &Path) -> Result<KeySet, Error> {
        let head = [&MAGIC[..], &self.seed.to_be_bytes()].concat();
        let start = head.len() as u64;
        let kept = (|| {
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            file.write_all(&head)?;
            let set = self.merge(file.as_file().try_clone()?, start)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(set)
        })();
        kept.map_err(|e| failed(path, "keeping the fingerprints of keys", e))
    }

    fn merge(&mut self, file: File, start: u64) -> io::Result<KeySet> {
        self.memory.sort_unstable();
        let memory = std::mem::take(&mut self.memory);
        let mut runs = vec![Run { at: 0, end: 0, buffer: memory.into_iter() }];
        let ends = self.spill.iter().flat_map(|spill| &spill.ends);
        let mut at = 0;
        for &end in ends {
            runs.push(Run { at, end, buffer: Vec::new().into_iter() });
            at = end;
        }
        let from = self.spill.as_ref().map(|spill| &spill.file);
        let mut heap = BinaryHeap::new();
        for (n, run) in runs.iter_mut().enumerate() {
            if let Some(print) = run.next(from)? {
                heap.push(Reverse((print, n)));
            }
        }
        let (mut firsts, mut count, mut last) = (Vec::new(), 0, None);
        let mut out = Out { file, at: start, bytes: Vec::new() };
        while let Some(Reverse((print, n))) = heap.pop() {
            if last != Some(print) {
                if count % BLOCK as u64 == 0 {
                    firsts.push(print);
                }
                out.write(print)?;
                count += 1;
                last = Some(print);
            }
            if let Some(run) = runs.get_mut(n)
                && let Some(print) = run.next(from)?
            {
                heap.push(Reverse((print, n)));
            }
        }
        let file = out.finish()?;
        let place = Place::Disk { file, path: self.directory.clone(), start, firsts };
        Ok(KeySet { seed: self.seed, count, place })
    }
}

/// A sorted run that is read from its beginning.
struct Run {
    at: u64,
    end: u64,
    buffer: std::vec::IntoIter<u128>,
}

impl Run {
    fn next(&mut self, file: Option<&File>) -> io::Result<Option<u128>> {
        if let Some(print) = self.buffer.next() {
            return Ok(Some(print));
        }
        let (Some(file), true) = (file, self.at < self.end) else { return Ok(None) };
        let count = (self.end - self.at).min(4096);
        let prints = read(file, self.at * SIZE as u64, usize::try_from(count).unwrap_or(4096))?;
        self.at += count;
        self.buffer = prints.into_iter();
        Ok(self.buffer.next())
    }
}

struct Out {
    file: File,
    at: u64,
    bytes: Vec<u8>,
}

impl Out {
    fn write(&mut self, print: u128) -> io::Result<()> {
        self.bytes.extend_from_slice(&print.to_be_bytes());
        if self.bytes.len() >= 1 << 20 { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.bytes, self.at)?;
        self.at += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        Ok(self.file)
    }
}

impl KeySet {
    /// A set of nothing.
    pub(crate) fn empty() -> Self {
        KeySet { seed: 0, count: 0, place: Place::Memory(Vec::new()) }
    }

    /// The same set in memory, if it is not too large for that: it is asked for every key.
    pub(crate) fn loaded(self) -> Result<Self, Error> {
        let Place::Disk { file, path, start, .. } = &self.place else { return Ok(self) };
        let Some(count) = usize::try_from(self.count).ok().filter(|&count| count <= MOST) else {
            return Ok(self);
        };
        let prints =
            read(file, *start, count).map_err(|e| failed(path, "reading fingerprints of keys", e))?;
        Ok(KeySet { place: Place::Memory(prints), ..self })
    }

    /// Opens a set that [`KeyCollector::keep`] has kept; none when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(path, "opening the fingerprints of keys", e)),
        };
        Self::read_kept(file, path).map(Some).map_err(|e| failed(path, "reading the fingerprints of keys", e))
    }

    fn read_kept(file: File, path: &Path) -> io::Result<Self> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "these are no fingerprints of keys");
        let mut head = [0; MAGIC.len() + 8];
        file.read_exact_at(&mut head, 0).map_err(|_| damaged())?;
        let (magic, seed) = head.split_at(MAGIC.len());
        let (start, length) = (head.len() as u64, file.metadata()?.len());
        if magic != MAGIC || !(length - start).is_multiple_of(SIZE as u64) {
            return Err(damaged());
        }
        let seed = u64::from_be_bytes(seed.try_into().map_err(|_| damaged())?);
        let count = (length - start) / SIZE as u64;
        let mut firsts = Vec::new();
        for block in 0..count.div_ceil(BLOCK as u64) {
            firsts.extend(read(&file, start + block * (BLOCK * SIZE) as u64, 1)?);
        }
        if !firsts.is_sorted() {
            return Err(damaged());
        }
        Ok(KeySet { seed, count, place: Place::Disk { file, path: path.to_owned(), start, firsts } })
    }

    /// How many keys it holds.
    /// How many keys it holds.
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// True when a key of a database is in it.
    pub(crate) fn contains(&self, db: u32, key: &[u8]) -> Result<bool, Error> {
        let print = fingerprint(self.seed, db, key);
        match &self.place {
            Place::Memory(prints) => Ok(prints.binary_search(&print).is_ok()),
            Place::Disk { file, path, start, firsts } => {
                let Some(block) = firsts.partition_point(|&first| first <= print).checked_sub(1) else {
                    return Ok(false);
                };
                let before = (block * BLOCK) as u64;
                let count = usize::try_from(self.count - before).unwrap_or(BLOCK).min(BLOCK);
                let prints = read(file, start + before * SIZE as u64, count)
                    .map_err(|e| failed(path, "reading fingerprints of keys", e))?;
                Ok(prints.binary_search(&print).is_ok())
            }
        }
    }
}

fn read(file: &File, at: u64, count: usize) -> io::Result<Vec<u128>> {
    let mut bytes = vec![0; count * SIZE];
    file.read_exact_at(&mut bytes, at)?;
    let print = |chunk: &[u8]| chunk.iter().fold(0, |print, &byte| print << 8 | u128::from(byte));
    Ok(bytes.chunks_exact(SIZE).map(print).collect())
}

fn fingerprint(seed: u64, db: u32, key: &[u8]) -> u128 {
    // Odd. The database must not go into the seed: short keys are only combined with that, so that keys of two databases
    // would meet whenever they differ where the seeds do.
    const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    XxHash3_128::oneshot_with_seed(seed, key).wrapping_add(u128::from(db).wrapping_mul(SPREAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(directory: &Path, most: usize, keys: std::ops::Range<u32>) -> KeyCollector {
        let mut collector = KeyCollector { most, ..KeyCollector::new(directory) };
        for n in keys.clone().chain(keys) {
            collector.add(n % 3, format!("key:{n}").as_bytes()).unwrap();
            assert!(collector.memory.len() < most);
        }
        collector
    }

    fn check(set: &KeySet, keys: std::ops::Range<u32>) {
        assert_eq!(set.len(), u64::from(keys.end - keys.start));
        for n in keys.start.saturating_sub(500)..keys.end + 500 {
            let key = format!("key:{n}");
            assert_eq!(set.contains(n % 3, key.as_bytes()).unwrap(), keys.contains(&n), "{n}");
            assert!(!set.contains(n % 3 + 1, key.as_bytes()).unwrap(), "{n}");
        }
    }

    #[test]
    fn a_set_holds_what_was_added_however_large_it_is() {
        let directory = tempfile::tempdir().unwrap();
        for (most, keys) in
            [(MOST, 0..0), (MOST, 0..2000), (100, 0..0), (100, 0..99), (100, 1000..3000), (1500, 0..2000)]
        {
            check(&collect(directory.path(), most, keys.clone()).finish().unwrap(), keys);
        }
        // Nothing is left behind.
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_kept_set_can_be_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        assert!(KeySet::open(&path).unwrap().is_none());
        for (most, keys) in [(MOST, 0..0), (MOST, 0..2000), (100, 1000..3000)] {
            check(&collect(directory.path(), most, keys.clone()).keep(&path).unwrap(), keys.clone());
            check(&KeySet::open(&path).unwrap().unwrap(), keys);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        for damage in [&b""[..], b"kfkeys", b"kfkeys\x0011234567", b"kfkeys\x00112345678123"] {
            std::fs::write(&path, damage).unwrap();
            let error = KeySet::open(&path).unwrap_err();
            assert!(error.to_line().contains("no fingerprints"), "{error}");
        }
    }
}
