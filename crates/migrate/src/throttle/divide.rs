//! Batches of the stream in smaller parts, so that rates are even.

use bytes::Bytes;
use keyferry_replication::Batch;
use keyferry_resp::CommandDecoder;

use super::Load;
use crate::sharded::LIMITS;

/// The batch in parts of this size at most, unless one command alone is larger. None when a command cannot be read back.
pub(crate) fn divided(batch: &Batch, most: Load) -> Option<Vec<Batch>> {
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let mut parts = Vec::new();
    let (mut at, mut from, mut commands) = (0, 0, 0);
    while at < batch.bytes.len() {
        let consumed = decoder.next_ref(&batch.bytes[at..]).ok()??.consumed();
        let is_full = commands > 0
            && ((at + consumed - from) as u64 > most.bytes || u64::from(commands) >= most.commands);
        if is_full {
            parts.push(part(batch, from..at, commands));
            (from, commands) = (at, 0);
        }
        at += consumed;
        commands += 1;
    }
    let mut last = part(batch, from..at, commands);
    // Something may have been left out behind it.
    (last.end, last.in_transaction) = (batch.end, batch.in_transaction);
    parts.push(last);
    if let Some(first) = parts.first_mut() {
        first.db = batch.db;
    }
    Some(parts)
}

/// Only of the first part it is known in which database it begins; whoever takes them knows of the others. None of them is known
/// not to end within a transaction.
fn part(batch: &Batch, range: std::ops::Range<usize>, commands: u32) -> Batch {
    let (start, end) = (batch.start + range.start as u64, batch.start + range.end as u64);
    let bytes: Bytes = batch.bytes.slice(range);
    let mut part = Batch::new(bytes, commands, start, end);
    part.in_transaction = true;
    part
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn parts_together_are_the_batch() {
        let mut bytes = BytesMut::new();
        for n in 0..100 {
            keyferry_resp::encode_command(&mut bytes, ["SET", &n.to_string(), &"x".repeat(n)]);
        }
        let mut batch = Batch::new(bytes.freeze(), 100, 1000, 0);
        batch.end = 1000 + batch.bytes.len() as u64 + 7;
        batch.db = Some(3);
        let any = |bytes, commands| Load { bytes, keys: u64::MAX, commands };
        for (most, count) in [(any(u64::MAX, 7), 15), (any(1, u64::MAX), 100), (any(u64::MAX, u64::MAX), 1)] {
            let parts = divided(&batch, most).unwrap();
            assert_eq!(parts.len(), count);
            assert_eq!(parts.iter().map(|part| part.commands).sum::<u32>(), 100);
            assert_eq!(parts.iter().flat_map(|part| part.bytes.to_vec()).collect::<Vec<u8>>(), batch.bytes);
            assert_eq!((parts[0].start, parts[0].db, parts[count - 1].end), (1000, Some(3), batch.end));
            assert!(parts.windows(2).all(|two| two[0].end == two[1].start));
        }
        let mut cut = batch.clone();
        cut.bytes = cut.bytes.slice(..cut.bytes.len() - 1);
        assert!(divided(&cut, any(u64::MAX, 7)).is_none());
    }
}
