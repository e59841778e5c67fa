//! The 128-bit hashes that values are reduced to.

use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::Hasher as Streaming;

use super::short::{SHORT, Short};

/// Bytes that come in one chunk up to this length are hashed at once, and those of an entry are copied together.
pub(super) const AT_ONCE: usize = 4096;

/// Hashes of one seed. Not cryptographic: a seed that nobody else knows is what keeps values from being made to collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash {
    seed: u64,
    short: Short,
}

/// What a number or hash stands for, so that one thing is never taken for another.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Tag {
    Value = 1,
    Item,
    Entry,
    Scored,
    Field,
    FieldExpiry,
    ArrayCursor,
    ArrayItem,
    LastId,
    Counters,
    Group,
    EntriesRead,
    Consumer,
    Pending,
    Released,
    Producer,
    ProducerTotals,
    ProducerLimits,
    RateLimit,
    Meta,
    Member,
}

impl Hash {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, short: Short::new(seed) }
    }

    #[inline]
    pub(crate) fn bytes(self, bytes: &[u8]) -> u128 {
        XxHash3_128::oneshot_with_seed(self.seed, bytes)
    }

    /// The hash by which keys are found and divided.
    #[inline]
    pub(crate) fn key(self, db: u64, key: &[u8]) -> u64 {
        XxHash3_128::oneshot_with_seed(self.seed ^ db.wrapping_add(1).rotate_left(40), key) as u64
    }

    /// One hash of several, in this order.
    #[inline]
    pub(super) fn mix<const N: usize>(self, tag: Tag, parts: [u128; N]) -> u128 {
        self.tagged(tag, parts.map(u128::to_le_bytes).as_flattened())
    }

    /// The hash of bytes of this kind.
    #[inline]
    pub(super) fn tagged(self, tag: Tag, bytes: &[u8]) -> u128 {
        XxHash3_128::oneshot_with_seed(self.seed ^ (tag as u64) << 56, bytes)
    }

    /// The hash of an element: a number and two strings.
    #[inline]
    pub(super) fn element(&self, tag: Tag, number: u64, first: &[u8], second: &[u8]) -> u128 {
        if first.len().saturating_add(second.len()) <= SHORT {
            return self.short.hash(tag, number, first, second);
        }
        let length = first.len() as u64;
        self.tagged_pieces(tag, &[&number.to_le_bytes(), &length.to_le_bytes(), first, second])
    }

    /// The hash of bytes of this kind in several pieces that are not side by side.
    #[cold]
    fn tagged_pieces(self, tag: Tag, pieces: &[&[u8]]) -> u128 {
        let mut streaming = Streaming::with_seed(self.seed ^ (tag as u64) << 56);
        pieces.iter().for_each(|piece| streaming.write(piece));
        streaming.finish_128()
    }

    fn streaming(self) -> Streaming {
        Streaming::with_seed(self.seed)
    }
}

/// Bytes that come in chunks; the hash is that of all of them put together.
#[derive(Default)]
pub(super) struct Chunks {
    /// The first chunk, while there is no other.
    first: Vec<u8>,
    chunks: u64,
    streaming: Option<Streaming>,
}

impl Chunks {
    pub(super) fn clear(&mut self) {
        self.first.clear();
        self.chunks = 0;
        self.streaming = None;
    }

    pub(super) fn push(&mut self, hash: Hash, chunk: &[u8]) {
        self.chunks += 1;
        if self.chunks == 1 && chunk.len() <= AT_ONCE {
            self.first.extend_from_slice(chunk);
            return;
        }
        let first = &self.first;
        self.streaming
            .get_or_insert_with(|| {
                let mut streaming = hash.streaming();
                streaming.write(first);
                streaming
            })
            .write(chunk);
    }

    pub(super) fn finish(&self, hash: Hash) -> u128 {
        self.streaming.as_ref().map_or_else(|| hash.bytes(&self.first), Streaming::finish_128)
    }
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("chunks", &self.chunks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_hash_as_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..10_000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            seed: u64,
        ) {
            let hash = Hash::new(seed);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut chunks = Chunks::default();
            chunks.push(hash, b"something before");
            chunks.clear();
            for cut in cuts.windows(2) {
                chunks.push(hash, &bytes[cut[0]..cut[1]]);
            }
            prop_assert_eq!(chunks.finish(hash), hash.bytes(&bytes));
        }
    }
}
