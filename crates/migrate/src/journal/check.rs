//! Looking through an incremental file that a run before this one wrote.

use keyferry_replication::{Batch, Position, ReplicationId};
use keyferry_resp::CommandDecoder;

use super::{
    file::JournalFile,
    segment::{Fault, SegmentReader, after},
};
use crate::error::Error;

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checked {
    /// Where its stream begins, and where it ends: with its last whole command, or before a transaction that is not whole.
    pub(crate) start: Position,
    pub(crate) end: Position,
    /// Bytes of the file up to there.
    pub(crate) len: u64,
    /// The ids of the histories that it is of.
    pub(crate) ids: Vec<ReplicationId>,
    /// The time that the file tells last, in milliseconds of the Unix epoch; 0 where it tells none.
    pub(crate) received: u64,
    /// What is wrong behind that, if it is more than an end that came too early.
    pub(crate) fault: Option<Fault>,
}

/// Reads all of a file. `None` where not even its beginning is whole.
pub(crate) fn check(file: &JournalFile) -> Result<Option<Checked>, Error> {
    let mut reader = SegmentReader::new();
    let mut found: Option<Checked> = None;
    let mut space = Vec::new();
    loop {
        let end = loop {
            match reader.next() {
                Ok(Some(batch)) => note(&mut found, &reader, Some(&batch)),
                Ok(None) => break None,
                Err(fault) => break Some(fault),
            }
        };
        if end.is_none() {
            note(&mut found, &reader, None);
        }
        let (at, want) = reader.wants(file.len());
        space.resize(want, 0);
        let n = if end.is_none() { file.read_at(&mut space, at)? } else { 0 };
        if n == 0 {
            if let Some(found) = &mut found {
                found.ids = reader.ids().to_vec();
                found.received = reader.received();
                found.fault = end;
            }
            return Ok(found);
        }
        reader.supply(&space[..n]);
    }
}

/// Notes how far the file is good, after a batch, or after all that there is to read at the moment.
fn note(found: &mut Option<Checked>, reader: &SegmentReader, batch: Option<&Batch>) {
    let Some(position) = reader.position() else { return };
    let start = match (&*found, batch) {
        (Some(found), _) => found.start.clone(),
        (None, Some(batch)) => {
            Position { db: batch.db, ..Position::after_snapshot(position.id, batch.start) }
        }
        (None, None) => position.clone(),
    };
    let begin =
        |end, len| Checked { start: start.clone(), end, len, ids: Vec::new(), received: 0, fault: None };
    if !position.in_transaction {
        *found = Some(begin(position.clone(), reader.consumed()));
        return;
    }
    let multi = batch.and_then(|batch| Some((batch, last_multi(batch)?)));
    if let Some((batch, at)) = multi {
        let (end, _) = after(batch, at, position.id);
        let len = reader.consumed() - (batch.bytes.len() - at) as u64;
        *found = Some(begin(end, len));
    }
}

/// Where in a batch its last transaction begins, if one does.
pub(crate) fn last_multi(batch: &Batch) -> Option<usize> {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let (mut at, mut multi) = (0, None);
    while let Ok(Some(command)) = decoder.next_ref(&batch.bytes[at..]) {
        if command.is("MULTI") {
            multi = Some(at);
        }
        at += command.raw().len();
    }
    multi
}

/// The scanner has held them to its own.
const LIMITS: keyferry_resp::Limits = keyferry_resp::Limits::new()
    .frame_bytes(usize::MAX)
    .bulk_bytes(usize::MAX)
    .elements(usize::MAX)
    .total_elements(usize::MAX);
