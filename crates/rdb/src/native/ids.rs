//! The ids of a stream's live entries, packed.

use crate::elements::StreamId;

/// Ids between two entries of the index.
const STRIDE: u32 = 256;

/// Ids in ascending order, two or three bytes each for usual streams.
///
/// An id is stored as its distance from the one before: the difference in milliseconds, then the sequence number, or,
/// within the same millisecond, its difference. Every 256th has an entry in an index.
#[derive(Clone, Debug, Default)]
pub(super) struct LiveIds {
    packed: Vec<u8>,
    index: Vec<(StreamId, usize)>,
    since_index: u32,
    last: StreamId,
}

impl LiveIds {
    /// Adds an id above all others.
    pub(super) fn push(&mut self, id: StreamId) {
        if self.since_index == 0 {
            self.index.push((id, self.packed.len()));
        } else {
            let ms = id.ms.wrapping_sub(self.last.ms);
            push_varint(&mut self.packed, ms);
            push_varint(&mut self.packed, if ms == 0 { id.seq.wrapping_sub(self.last.seq) } else { id.seq });
        }
        self.last = id;
        self.since_index = (self.since_index + 1) % STRIDE;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(super) fn contains(&self, id: StreamId) -> bool {
        let block = self.index.partition_point(|(first, _)| *first <= id);
        let Some(&(mut at_id, mut at)) = block.checked_sub(1).and_then(|block| self.index.get(block)) else {
            return false;
        };
        let end = self.index.get(block).map_or(self.packed.len(), |(_, end)| *end);
        while at_id < id && at < end {
            let ms = read_varint(&self.packed, &mut at);
            let seq = read_varint(&self.packed, &mut at);
            at_id = StreamId {
                ms: at_id.ms.wrapping_add(ms),
                seq: if ms == 0 { at_id.seq.wrapping_add(seq) } else { seq },
            };
        }
        at_id == id
    }
}

fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn read_varint(b: &[u8], at: &mut usize) -> u64 {
    let mut n = 0;
    let mut shift = 0;
    while let Some(&byte) = b.get(*at) {
        *at += 1;
        n |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte < 0x80 || shift > 63 {
            break;
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set(
            steps in prop::collection::vec((prop_oneof![Just(0u64), 1u64..200, any::<u64>()], any::<u64>()), 0..1200),
            probes in prop::collection::vec((0u64..100_000, 0u64..300), 0..50),
        ) {
            let mut set = BTreeSet::new();
            let mut ms = 0u64;
            for (step, seq) in steps {
                ms = ms.saturating_add(step);
                set.insert(StreamId { ms, seq: if seq % 2 == 0 { seq } else { seq % 300 } });
            }
            let mut ids = LiveIds::default();
            for &id in &set {
                ids.push(id);
            }
            prop_assert_eq!(ids.is_empty(), set.is_empty());
            for &id in &set {
                prop_assert!(ids.contains(id));
                for near in [StreamId { seq: id.seq ^ 1, ..id }, StreamId { ms: id.ms ^ 1, ..id }] {
                    prop_assert_eq!(ids.contains(near), set.contains(&near));
                }
            }
            for (ms, seq) in probes {
                let id = StreamId { ms, seq };
                prop_assert_eq!(ids.contains(id), set.contains(&id));
            }
        }
    }
}
