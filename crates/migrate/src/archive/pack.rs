//! Closed segments: read back, digested block by block, and compressed.
//!
//! A block is given out only when its digest is right, so nobody ever acts on bytes that are not those that were written; and
//! what stands before a damaged block is good.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use twox_hash::XxHash3_128;

use super::{
    catalog::{Closed, Packed, Segment},
    error::Damage,
    scan::Scan,
};
use crate::{
    error::Error,
    journal::{failed, now_ms},
};

/// Bytes of a segment that have one digest.
pub(super) const BLOCK: usize = 4 << 20;

/// Commands are mostly text that repeats itself: more effort gains little.
const EFFORT: u32 = 3;

/// The end of the name of a compressed file.
const END: &str = ".gz";

/// The digest of bytes, as it stands in the catalog.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}

/// Digests a file as it is.
pub(crate) fn digest_file(path: &Path) -> Result<(String, u64), Error> {
    let reading = |e| failed(path, "reading back what was written", e);
    let mut file = File::open(path).map_err(reading)?;
    let mut hasher = XxHash3_128::new();
    let (mut space, mut len) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut space) {
            Ok(0) => return Ok((format!("{:032x}", hasher.finish_128()), len)),
            Ok(n) => {
                hasher.write(&space[..n]);
                len += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(reading(e)),
        }
    }
}

/// Gives the bytes of a segment, compressed or not, block by block.
pub(super) struct Blocks {
    name: String,
    reader: Box<dyn Read + Send>,
    /// What the catalog says of it; none of a segment that is being written, or was not read back yet.
    expected: Option<(Vec<String>, u64)>,
    number: usize,
    at: u64,
    space: Vec<u8>,
    ended: bool,
}

impl Blocks {
    /// Opens the file of a segment.
    pub(super) fn open(dir: &Path, segment: &Segment) -> Result<Self, Damage> {
        let path = dir.join(&segment.file);
        let broken = |why: String| Damage { file: segment.file.clone(), at: 0, why };
        let file = File::open(&path).map_err(|e| broken(format!("it cannot be opened ({e})")))?;
        let packed = segment.closed.as_ref().and_then(|closed| Some((closed, closed.packed.as_ref()?)));
        let reader: Box<dyn Read + Send> = match segment.is_packed() {
            true => Box::new(GzDecoder::new(BufReader::with_capacity(1 << 18, file))),
            false => Box::new(file),
        };
        let expected = packed.map(|(closed, packed)| (packed.blocks.clone(), closed.raw));
        Ok(Blocks {
            name: segment.file.clone(),
            reader,
            expected,
            number: 0,
            at: 0,
            space: Vec::new(),
            ended: false,
        })
    }

    pub(super) fn damage(&self, at: u64, why: impl Into<String>) -> Damage {
        Damage { file: self.name.clone(), at, why: why.into() }
    }

    /// The next block; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Damage> {
        if self.ended {
            return Ok(None);
        }
        self.space.resize(BLOCK, 0);
        let mut len = 0;
        while len < BLOCK {
            match self.reader.read(&mut self.space[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    // Compressed data that does not expand, or a disk that does not read.
                    let at = if self.expected.is_some() { self.at } else { self.at + len as u64 };
                    return Err(self.damage(at, e.to_string()));
                }
            }
        }
        self.space.truncate(len);
        self.ended = len < BLOCK;
        if let Some((digests, raw)) = &self.expected {
            let end = self.at + len as u64;
            if self.ended && end != *raw {
                let why = format!("it has {end} bytes, and was written with {raw}");
                return Err(self.damage(self.at, why));
            }
            if len > 0 && digests.get(self.number) != Some(&digest(&self.space)) {
                let why = "its digest is not that of what was written";
                return Err(self.damage(self.at, why));
            }
        }
        self.number += 1;
        self.at += len as u64;
        Ok((len > 0).then_some(&self.space[..]))
    }
}

/// Reads back a closed segment whose file is as it was written, and makes a compressed one of it, which is read back, too.
/// Gives what the catalog is to say, or what is wrong with the segment. The file stays.
pub(super) fn pack(dir: &Path, segment: &Segment) -> Result<Result<Packing, Damage>, Error> {
    let Some(closed) = &segment.closed else {
        return Err(Error::Internal(format!("{} is not closed", segment.file)));
    };
    if let Err(damage) = decodes(dir, segment) {
        return Ok(Err(damage));
    }
    let name = format!("{}{END}", segment.file);
    let temporary = dir.join(format!("temp-{name}"));
    let packing = write(dir, segment, &temporary).and_then(|blocks| {
        let bytes = temporary.metadata().map_err(|e| failed(&temporary, "asking for its size", e))?.len();
        let packed = Packed { bytes, blocks, verified: now_ms() };
        let path = dir.join(&name);
        std::fs::rename(&temporary, &path).map_err(|e| failed(&path, "renaming the segment", e))?;
        let closed = Closed { packed: Some(packed.clone()), ..closed.clone() };
        let compressed = Segment { file: name, closed: Some(closed), ..segment.clone() };
        // What the disk has now is what counts.
        match decodes(dir, &compressed) {
            Ok(()) => Ok(Packing { file: compressed.file, packed }),
            Err(damage) => {
                std::fs::remove_file(&path).ok();
                Err(failed(&path, "reading back what was written", io::Error::other(damage.to_string())))
            }
        }
    });
    if packing.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    packing.map(Ok)
}

/// What the catalog is to say of a segment that has been compressed.
pub(super) struct Packing {
    pub(super) file: String,
    pub(super) packed: Packed,
}

/// Reads all of a segment, and makes sure that it is what the catalog says.
pub(super) fn decodes(dir: &Path, segment: &Segment) -> Result<(), Damage> {
    let mut scan = Scan::open(dir, segment, None, None)?;
    while scan.next()?.is_some() {}
    ends_right(segment, &scan)
}

/// Makes sure that a segment that was read to its end ends where the catalog says.
pub(super) fn ends_right(segment: &Segment, scan: &Scan) -> Result<(), Damage> {
    let end = scan.end();
    match &segment.closed {
        Some(closed) if end != Some(closed.end) => {
            let end = end.map_or_else(|| "nowhere".to_owned(), |end| format!("at offset {end}"));
            Err(scan.damage(format!("its stream ends {end}, and was written up to {}", closed.end)))
        }
        _ => Ok(()),
    }
}

/// Writes the compressed file, on disk when this returns, and gives the digests of the blocks.
fn write(dir: &Path, segment: &Segment, to: &PathBuf) -> Result<Vec<String>, Error> {
    let writing = |e| failed(to, "writing the compressed segment", e);
    let from = dir.join(&segment.file);
    let mut blocks = Blocks::open(dir, segment)
        .map_err(|damage| failed(&from, "reading", io::Error::other(damage.why)))?;
    let file = File::create(to).map_err(writing)?;
    let mut encoder = GzEncoder::new(BufWriter::with_capacity(1 << 18, file), Compression::new(EFFORT));
    let mut digests = Vec::new();
    loop {
        let block = blocks.next().map_err(|damage| failed(&from, "reading", io::Error::other(damage.why)))?;
        let Some(block) = block else { break };
        digests.push(digest(block));
        encoder.write_all(block).map_err(writing)?;
    }
    let buffered = encoder.finish().map_err(writing)?;
    let file = buffered.into_inner().map_err(|e| writing(e.into_error()))?;
    file.sync_all().map_err(writing)?;
    Ok(digests)
}
