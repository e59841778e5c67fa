//! The journal that a run leaves behind when it ends early.

use std::fs;

use bytes::Bytes;
use keyferry_replication::{Position, ReplicationId};

use crate::{
    error::Error,
    journal::{BASE, INCR, Journal, JournalFile, MANIFEST, UNCONFIRMED, failed, incr_head},
    pipeline::{Load, Origin},
    spool::SpoolReader,
};

/// What a run that ends early has read and not applied.
#[derive(Debug)]
pub(crate) struct Unapplied {
    /// The history, if there is one.
    pub(crate) id: Option<ReplicationId>,
    /// All of the snapshot has come.
    pub(crate) snapshot_complete: bool,
    /// Sent and not confirmed, or about to be sent; oldest first.
    pub(crate) in_flight: Vec<Load>,
    pub(crate) reader: Option<SpoolReader>,
}

impl Journal {
    /// Completes the journal of a run that ends early, so that everything read from the source and not confirmed
    /// by the target is in it, and gives its directory. `None` when there is nothing that would be of use.
    pub(crate) fn keep(self, state: Unapplied) -> Result<Option<String>, Error> {
        let base = self.dir.join(BASE);
        // Without the whole snapshot the rest is of no use: the next run starts from a new one.
        let usable = !base.exists() || (self.is_named() && state.snapshot_complete);
        let (Some(id), Some(reader), true) = (state.id, state.reader, usable) else {
            self.remove()?;
            return Ok(None);
        };
        let left = reader.into_left();
        let mut waiting: Vec<(u64, u64, Option<u64>, Bytes)> = state
            .in_flight
            .into_iter()
            .filter_map(|load| match load.origin {
                // What was read from the file is in it still.
                Origin::Stream { file, .. } if file.is_some() && file == left.file => None,
                Origin::Stream { start, end, db, .. } => Some((start, end, db, load.bytes)),
                Origin::Snapshot { .. } => None,
            })
            .collect();
        waiting.extend(left.memory.into_iter().map(|batch| (batch.start, batch.end, batch.db, batch.bytes)));
        if waiting.iter().all(|(.., bytes)| bytes.is_empty()) && left.file.is_none() && !base.exists() {
            self.remove()?;
            return Ok(None);
        }
        let mut manifest = String::new();
        if base.exists() {
            manifest += &format!("file {BASE} seq 1 type b\n");
        }
        if let Some(&(start, _, db, _)) = waiting.first() {
            let mut file = JournalFile::create(self.dir.join(UNCONFIRMED))?;
            file.append(&incr_head(&Position { db, ..Position::after_snapshot(id, start) }))?;
            for (start, end, _, bytes) in waiting {
                file.append(&bytes)?;
                if start + bytes.len() as u64 != end {
                    file.append(format!("#OFFSET:{end}\r\n").as_bytes())?;
                }
            }
            manifest += &format!("file {UNCONFIRMED} seq 1 type i\n");
        }
        if left.file.is_some() {
            manifest += &format!("file {INCR} seq 2 type i\n");
        }
        let (path, temporary) = (self.dir.join(MANIFEST), self.dir.join(format!("temp-{MANIFEST}")));
        fs::write(&temporary, manifest)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| failed(&path, "writing the manifest", e))?;
        let root = match self.temporary {
            Some(temporary) => temporary.keep(),
            None => self.dir.parent().unwrap_or(&self.dir).to_owned(),
        };
        Ok(Some(root.display().to_string()))
    }
}
