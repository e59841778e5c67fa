//! A value on disk, for what has to be gone through twice.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tempfile::SpooledTempFile;

/// Up to so many bytes stay in memory.
const IN_MEMORY: usize = 4 << 20;
/// Bytes given at once.
const BLOCK: usize = 256 << 10;

/// Bytes that were put in, in order, as often as they are wanted. They are in memory, or, above a few megabytes, in a file
/// without a name.
#[derive(Debug)]
pub(crate) struct Spool {
    file: SpooledTempFile,
    len: u64,
    block: Vec<u8>,
}

impl Spool {
    /// Nothing yet. The file, if it takes one, will be in `dir`, or where temporary files are.
    pub(crate) fn new(dir: Option<&Path>) -> Self {
        let file = match dir {
            Some(dir) => tempfile::spooled_tempfile_in(IN_MEMORY, dir),
            None => tempfile::spooled_tempfile(IN_MEMORY),
        };
        Self { file, len: 0, block: Vec::new() }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Shows everything from the start.
    pub(crate) fn each<E: From<io::Error>>(
        &mut self,
        mut see: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.file.seek(SeekFrom::Start(0))?;
        self.block.resize(BLOCK, 0);
        loop {
            match self.file.read(&mut self.block) {
                Ok(0) => return Ok(()),
                Ok(n) => see(&self.block[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_come_back_twice() {
        for size in [0, 1000, IN_MEMORY + BLOCK + 7] {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let mut spool = Spool::new(None);
            bytes.chunks(99_991).for_each(|part| spool.put(part).unwrap());
            assert_eq!(spool.len(), size as u64);
            for _ in 0..2 {
                let mut seen = Vec::new();
                spool
                    .each(|part| {
                        seen.extend_from_slice(part);
                        Ok::<(), io::Error>(())
                    })
                    .unwrap();
                assert!(seen == bytes);
            }
        }
    }
}
