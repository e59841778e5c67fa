//! The journal that a run leaves behind when it ends early.

use crate::{error::Error, journal::Journal, spool::SpoolReader};

impl Journal {
    /// Completes the journal of a run that ends early, so that everything read from the source and not held by the target
    /// for good is in it. False when there is nothing in it that would be of use; its files are gone then. Blocks.
    ///
    /// `snapshot_applied`: the target holds the snapshot.
    pub(crate) fn keep(&self, reader: Option<SpoolReader>, snapshot_applied: bool) -> Result<bool, Error> {
        let whole = self.base_bytes() > 0;
        // Without the whole snapshot the rest is of no use: the next run starts from a new one.
        if !snapshot_applied && !whole {
            self.remove()?;
            return Ok(false);
        }
        let left = reader.map(SpoolReader::into_unapplied).unwrap_or_default();
        let there = self.end().unwrap_or(0);
        let left: Vec<_> = left.into_iter().filter(|received| received.batch.start >= there).collect();
        if let Some(first) = left.first()
            && left.iter().any(|received| !received.batch.bytes.is_empty())
        {
            let position = keyferry_replication::Position {
                db: first.batch.db,
                ..keyferry_replication::Position::after_snapshot(first.id, first.batch.start)
            };
            let mut segment = self.start_segment(&position, None)?;
            segment.append(&left)?;
            segment.close()?;
        }
        if !whole && self.bytes() == 0 {
            self.remove()?;
            return Ok(false);
        }
        Ok(true)
    }
}
