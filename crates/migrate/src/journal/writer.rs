//! Writing an incremental file.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use keyferry_replication::{Batch, Position, ReplicationId};

use super::{Journal, file::JournalFile, form::Pen};
use crate::error::Error;

/// A segment that is being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    pub(super) journal: Journal,
    pub(super) seq: u64,
    pub(super) file: JournalFile,
    pub(super) pen: Pen,
}

/// A batch, and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) batch: Batch,
    /// In milliseconds of the Unix epoch; 0 where nobody knows.
    pub(crate) at: u64,
    /// The history it is of.
    pub(crate) id: ReplicationId,
}

impl SegmentWriter {
    /// Appends batches, of which each begins where the one before ended; all of them, or none when this fails. Blocks.
    pub(crate) fn append(&mut self, batches: &[Received]) -> Result<(), Error> {
        let mut pieces: Vec<Bytes> = Vec::with_capacity(batches.len() * 2);
        let mut pen = self.pen.clone();
        pen.write(batches, &mut pieces);
        self.file.append(&pieces)?;
        self.pen = pen;
        self.journal.note_written(self.seq, self.file.len(), &self.pen.position, &self.pen.ids);
        Ok(())
    }

    pub(crate) fn len(&self) -> u64 {
        self.file.len()
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The time that the file has told last, in milliseconds of the Unix epoch.
    pub(crate) fn told(&self) -> u64 {
        self.pen.told
    }

    pub(crate) fn position(&self) -> &Position {
        &self.pen.position
    }

    pub(crate) fn file(&self) -> &JournalFile {
        &self.file
    }

    /// Says that nothing more will be written to it. Blocks.
    pub(crate) fn close(self) -> Result<(), Error> {
        self.file.trim()?;
        if self.journal.settings().syncs() {
            self.file.sync()?;
        }
        self.journal.note_closed(self.seq)
    }
}

/// Now, in milliseconds of the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
