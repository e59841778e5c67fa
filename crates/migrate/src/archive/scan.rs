//! Reading a segment of an archive: batches, and when they came.

use std::path::Path;

use bytes::BytesMut;
use keyferry_replication::{
    Batch, Position, ReplicationId,
    stream::{Item, StreamScanner},
};

use super::{catalog::Segment, error::Damage, pack::Blocks};
use crate::journal::{Received, SegmentReader, last_multi};

/// Reads one segment from its beginning.
pub(super) struct Scan {
    blocks: Blocks,
    reader: SegmentReader,
    /// Nothing more is written to it: it ends with a whole command.
    closed: bool,
}

impl Scan {
    /// A segment from offset `from` on, where it has to begin at offset `follows`.
    pub(super) fn open(
        dir: &Path,
        segment: &Segment,
        from: Option<u64>,
        follows: Option<u64>,
    ) -> Result<Self, Damage> {
        let mut reader = SegmentReader::new();
        if let Some(from) = from {
            reader = reader.skipping_to(from);
        }
        if let Some(follows) = follows {
            reader = reader.following(follows);
        }
        Ok(Scan { blocks: Blocks::open(dir, segment)?, reader, closed: segment.closed.is_some() })
    }

    /// The next batch; `None` at the end, which of an open segment is where its last whole command ends.
    pub(super) fn next(&mut self) -> Result<Option<Received>, Damage> {
        loop {
            match self.reader.next() {
                Ok(Some(batch)) => {
                    let Some(id) = self.id() else {
                        return Err(self.damage("it does not say of which history it is"));
                    };
                    return Ok(Some(Received { batch, at: self.reader.received(), id }));
                }
                Ok(None) => {}
                Err(fault) => return Err(self.blocks.damage(fault.at, fault.source.to_string())),
            }
            match self.blocks.next()? {
                Some(block) => self.reader.supply(block),
                None if self.closed && self.reader.consumed() < self.reader.at() => {
                    return Err(self.damage("it ends inside of a command"));
                }
                None => return Ok(None),
            }
        }
    }

    /// The history that the last batch is of.
    pub(super) fn id(&self) -> Option<ReplicationId> {
        self.reader.ids().last().copied()
    }

    /// Up to which offset everything has been given; `None` before the file has said where it begins.
    pub(super) fn end(&self) -> Option<u64> {
        self.reader.position().map(|position| position.offset)
    }

    /// Something is wrong where it stands.
    pub(super) fn damage(&self, why: impl Into<String>) -> Damage {
        self.blocks.damage(self.reader.consumed(), why)
    }
}

/// A batch up to an offset: whole commands only. `inside` tells that it begins in a transaction.
pub(super) fn up_to(batch: &Batch, offset: u64, id: ReplicationId, inside: bool) -> Batch {
    if batch.end <= offset {
        return batch.clone();
    }
    let counted = batch.start + batch.bytes.len() as u64;
    let prefix = usize::try_from(offset.min(counted).saturating_sub(batch.start)).unwrap_or(usize::MAX);
    let begin =
        Position { db: batch.db, in_transaction: inside, ..Position::after_snapshot(id, batch.start) };
    let mut scanner = StreamScanner::new(begin);
    let mut passed = BytesMut::from(batch.bytes.get(..prefix).unwrap_or_default());
    let mut commands = 0;
    while let Ok(Some(Item::Commands(part))) = scanner.next(&mut passed) {
        commands += part.commands;
    }
    let position = scanner.position();
    let mut cut = batch.clone();
    // Where keep-alives were left out behind the commands, any offset will do.
    cut.end = if offset >= counted { offset } else { position.offset };
    cut.bytes.truncate(usize::try_from(position.offset - batch.start).unwrap_or(usize::MAX));
    cut.commands = commands;
    cut.in_transaction = position.in_transaction;
    cut
}

/// The last place in a batch, or at its end, that is outside of transactions; none where a transaction goes through all of it.
pub(super) fn boundary(batch: &Batch) -> Option<u64> {
    if batch.in_transaction {
        return last_multi(batch).map(|at| batch.start + at as u64);
    }
    Some(batch.end)
}
