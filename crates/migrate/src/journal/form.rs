//! What stands in an incremental file, besides the commands themselves.
//!
//! Annotations are lines that begin with `#` where a command could begin. Servers from 7.0 on skip them. `#TS:` is their
//! own: commands behind it came in that second or later. Ours are:
//!
//! - `#MS:<milliseconds>`: the same, to a tenth of a second.
//! - `#ID:<replication id>`: what follows is of this history. At the beginning, and wherever a source's history went on
//!   under another id.
//! - `#OFFSET:<n>`: the byte of the stream behind this line is number n + 1. At the beginning, and wherever the
//!   offset moved by more than the commands written (keep-alives, which are not kept).
//!
//! A file begins with `#ID:`, a `SELECT` where the database is known, and `#OFFSET:`; the `SELECT` does not count. Behind that may stand
//! the time since which nothing is missing.

use bytes::{Bytes, BytesMut};
use keyferry_replication::{Batch, Position, ReplicationId};
use keyferry_resp::encode_command;

use super::writer::Received;

/// Where a file's stream stands, and what the file has told so far.
#[derive(Clone, Debug)]
pub(crate) struct Pen {
    /// Where the next batch begins.
    pub(crate) position: Position,
    /// The time that the file has told last, in milliseconds of the Unix epoch.
    pub(crate) told: u64,
    /// The histories that it is of, the present one last.
    pub(crate) ids: Vec<ReplicationId>,
}

impl Pen {
    /// Of a file that begins at `position`, with [`head`].
    pub(crate) fn new(position: &Position) -> Self {
        Pen { position: position.clone(), told: 0, ids: vec![position.id] }
    }

    /// What tells a time, in milliseconds of the Unix epoch.
    pub(crate) fn time(&mut self, now: u64) -> Bytes {
        let line = time(now, self.told).unwrap_or_default();
        self.told = now;
        line
    }

    /// Gives the pieces in which batches are written, of which each begins where the one before ended.
    pub(crate) fn write(&mut self, batches: &[Received], pieces: &mut Vec<Bytes>) {
        for Received { batch, at, id: of } in batches {
            if self.position.id != *of {
                self.position.id = *of;
                self.ids.push(*of);
                pieces.push(id(*of));
            }
            // Nothing forbids it inside of a transaction; servers do not do it.
            if let Some(line) = time(*at, self.told).filter(|_| !self.position.in_transaction && *at > 0) {
                pieces.push(line);
                self.told = *at;
            }
            self::batch(batch, pieces);
            self.position.offset = batch.end;
            self.position.in_transaction = batch.in_transaction;
        }
    }
}

/// What stands at the beginning of an incremental file whose stream goes on after `position`.
pub(crate) fn head(position: &Position) -> Bytes {
    let mut head = BytesMut::new();
    head.extend_from_slice(&id(position.id));
    if let Some(db) = position.db {
        encode_command(&mut head, ["SELECT", &db.to_string()]);
    }
    head.extend_from_slice(&offset(position.offset));
    head.freeze()
}

fn id(id: ReplicationId) -> Bytes {
    format!("#ID:{id}\r\n").into()
}

/// How exactly the time is told, in milliseconds.
const TIME_STEP: u64 = 100;

/// When what follows was received, where the file has said another time so far. Both in milliseconds of the Unix epoch.
fn time(now: u64, told: u64) -> Option<Bytes> {
    if now.abs_diff(told) < TIME_STEP {
        return None;
    }
    let seconds = if now / 1000 == told / 1000 { String::new() } else { format!("#TS:{}\r\n", now / 1000) };
    Some(format!("{seconds}#MS:{now}\r\n").into())
}

fn offset(offset: u64) -> Bytes {
    format!("#OFFSET:{offset}\r\n").into()
}

/// A batch, in the pieces that it is written in.
fn batch(batch: &Batch, pieces: &mut Vec<Bytes>) {
    if !batch.bytes.is_empty() {
        pieces.push(batch.bytes.clone());
    }
    if batch.start + batch.bytes.len() as u64 != batch.end {
        pieces.push(offset(batch.end));
    }
}
