//! Digests of keys as bytes, as they wait in memory or on disk.
//!
//! A record is the hash of its key (8 bytes), its length (4 bytes), and a body: flags, kind, database, key, digest of the
//! value. Equal keys with equal values have equal bodies.

use keyferry_rdb::Kind;

use crate::digest::{KeyDigest, ValueDigest};

/// Bytes in front of a body: hash and length.
pub(crate) const HEAD: usize = 12;

const EXPIRY: u8 = 1;
const FIELD_EXPIRIES: u8 = 2;
const COUNTERS: u8 = 4;
const PRODUCERS: u8 = 8;

/// Bytes that a record takes at most besides its key.
pub(crate) const MOST_BESIDES_KEY: usize = HEAD + 2 + 2 * MOST_NUMBER + 16 + MOST_NUMBER + 4 * 8;
/// Bytes that a number takes at most.
const MOST_NUMBER: usize = 10;

/// Appends a record.
pub(crate) fn write(out: &mut Vec<u8>, hash: u64, key: &KeyDigest<'_>) {
    let value = &key.value;
    let flag = |present: bool, flag: u8| if present { flag } else { 0 };
    let mut before = Bytes::default();
    before.add(hash.to_le_bytes());
    before.add([0; 4]);
    before.add([
        flag(key.expiry.is_some(), EXPIRY)
            | flag(value.field_expiries != 0, FIELD_EXPIRIES)
            | flag(value.counters.is_some(), COUNTERS)
            | flag(value.producers != 0, PRODUCERS),
        kind_number(key.kind),
    ]);
    before.number(key.db);
    before.number(key.key.len() as u64);
    let mut after = Bytes::default();
    after.add(value.content.to_le_bytes());
    after.number(value.length);
    if let Some(expiry) = key.expiry {
        after.add(expiry.to_le_bytes());
    }
    if value.field_expiries != 0 {
        after.add(value.field_expiries.to_le_bytes());
    }
    if let Some(counters) = value.counters {
        after.add(counters.to_le_bytes());
    }
    if value.producers != 0 {
        after.add(value.producers.to_le_bytes());
    }
    // A key has 512 MiB at most.
    let length = (before.len - HEAD + key.key.len() + after.len) as u32;
    before.bytes[8..HEAD].copy_from_slice(&length.to_le_bytes());
    out.reserve(before.len + key.key.len() + after.len);
    out.extend_from_slice(&before.bytes[..before.len]);
    out.extend_from_slice(key.key);
    out.extend_from_slice(&after.bytes[..after.len]);
}

/// A few bytes that are put together before they are appended at once.
struct Bytes {
    bytes: [u8; MOST_BESIDES_KEY],
    len: usize,
}

impl Default for Bytes {
    fn default() -> Self {
        Self { bytes: [0; MOST_BESIDES_KEY], len: 0 }
    }
}

impl Bytes {
    #[inline(always)]
    fn add<const N: usize>(&mut self, more: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&more);
        self.len += N;
    }

    /// Seven bits a byte, lowest first; the highest bit says that more follow.
    #[inline(always)]
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.add([n as u8 | 0x80]);
            n >>= 7;
        }
        self.add([n as u8]);
    }
}

/// Hash and body of the record at the start of `bytes`.
#[inline]
pub(crate) fn split(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let hash = u64::from_le_bytes(*bytes.first_chunk()?);
    let length = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    Some((hash, bytes.get(HEAD..)?.get(..length as usize)?))
}

/// Reads a body.
pub(crate) fn read(body: &[u8]) -> Option<KeyDigest<'_>> {
    let mut rest = body;
    let [flags, kind] = *rest.split_off(..2)?.first_chunk()?;
    let db = read_number(&mut rest)?;
    let length = read_number(&mut rest)?;
    let key = rest.split_off(..usize::try_from(length).ok()?)?;
    let content = u128::from_le_bytes(*rest.split_off(..16)?.first_chunk()?);
    let length = read_number(&mut rest)?;
    let mut number = |flag: u8| {
        if flags & flag == 0 {
            return Some(None);
        }
        Some(Some(u64::from_le_bytes(*rest.split_off(..8)?.first_chunk()?)))
    };
    let expiry = number(EXPIRY)?.map(u64::cast_signed);
    let field_expiries = number(FIELD_EXPIRIES)?.unwrap_or(0);
    let counters = number(COUNTERS)?;
    let producers = number(PRODUCERS)?.unwrap_or(0);
    let value = ValueDigest { content, length, field_expiries, counters, producers };
    Some(KeyDigest { db, key, kind: kind_of(kind)?, value, expiry })
}

fn kind_number(kind: Kind) -> u8 {
    Kind::ALL.iter().position(|known| *known == kind).map_or(u8::MAX, |number| number as u8)
}

fn kind_of(number: u8) -> Option<Kind> {
    Kind::ALL.get(usize::from(number)).copied()
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        n |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back(
            (db, key, kind) in (any::<u64>(), any::<Vec<u8>>(), prop::sample::select(Kind::ALL)),
            (content, length, expiry) in (any::<u128>(), any::<u64>(), any::<Option<i64>>()),
            (field_expiries, counters, producers) in (0u64..3, any::<Option<u64>>(), 0u64..3),
        ) {
            let value = ValueDigest { content, length, field_expiries, counters, producers };
            let digest = KeyDigest { db, key: &key, kind, value, expiry };
            let mut bytes = b"before".to_vec();
            write(&mut bytes, 7, &digest);
            bytes.extend(b"after");
            let (hash, body) = split(&bytes[6..]).unwrap();
            prop_assert_eq!((hash, HEAD + body.len()), (7, bytes.len() - 11));
            prop_assert_eq!(read(body), Some(digest));
            for cut in 0..body.len() {
                prop_assert_eq!(read(&body[..cut]), None);
            }
        }
    }
}
