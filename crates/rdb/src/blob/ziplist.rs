//! Ziplists (Redis 2.4 to 6.2).
//!
//! ```text
//! u32 total bytes, u32 offset of the last entry, u16 entry count (65535: not known), entries, 0xFF
//! entry: size of the entry before, encoding, data
//! ```

use nom::Parser as _;
use nom::bytes::complete::take;
use nom::number::complete::{be_u32, i8, le_i16, le_i24, le_i32, le_i64, le_u16, le_u32, u8};

use super::{BlobFault, Broken, Parsed, Scalar, broken, run};

const HEADER: usize = 10;
const UNKNOWN: u16 = u16::MAX;

/// Walks a ziplist from its first entry to its last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    at: usize,
    /// Where the entry before starts; the header's end when there is none.
    last: usize,
    tail: usize,
    seen: u64,
    declared: u16,
}

impl Cursor {
    /// Opens a blob, checking its header.
    pub(crate) fn open(blob: &[u8]) -> Result<Self, BlobFault> {
        let Ok((_, (total, tail, declared))) = header(blob) else {
            return Err(BlobFault::new(0, "a ziplist is shorter than its header"));
        };
        if total as usize != blob.len() || blob.len() <= HEADER {
            return Err(BlobFault::new(0, "the size in a ziplist's header is not its size"));
        }
        if blob.last() != Some(&0xFF) {
            return Err(BlobFault::new(blob.len() - 1, "a ziplist does not end with its end mark"));
        }
        let tail = tail as usize;
        if tail < HEADER || tail >= blob.len() {
            return Err(BlobFault::new(4, BAD_TAIL));
        }
        Ok(Self { at: HEADER, last: HEADER, tail, seen: 0, declared })
    }

    /// The next entry, when it is written in a common form and rightly; `None` after the last entry, too.
    #[inline(always)]
    pub(crate) fn quick<'a>(&mut self, blob: &'a [u8]) -> Option<Scalar<'a>> {
        let (&before, b) = blob.get(self.at..blob.len() - 1)?.split_first()?;
        // The long form of a back length starts with 254.
        if before >= 0xFE || usize::from(before) != self.size_before() {
            return None;
        }
        let (value, size) = match *b {
            [head @ 0x00..=0x3F, ref rest @ ..] => {
                let len = usize::from(head);
                (Scalar::Bytes(rest.get(..len)?), len + 2)
            }
            [high @ 0x40..=0x7F, low, ref rest @ ..] => {
                let len = usize::from(high & 0x3F) << 8 | usize::from(low);
                (Scalar::Bytes(rest.get(..len)?), len + 3)
            }
            [head @ 0xF1..=0xFD, ..] => (Scalar::Int(i64::from(head & 0x0F) - 1), 2),
            [0xFE, n, ..] => (Scalar::Int(i64::from(n as i8)), 3),
            [0xC0, a, b, ..] => (Scalar::Int(i64::from(i16::from_le_bytes([a, b]))), 4),
            [0xF0, a, b, c, ..] => (Scalar::Int(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)), 5),
            [0xD0, a, b, c, d, ..] => (Scalar::Int(i64::from(i32::from_le_bytes([a, b, c, d]))), 6),
            [0xE0, a, b, c, d, e, f, g, h, ..] => {
                (Scalar::Int(i64::from_le_bytes([a, b, c, d, e, f, g, h])), 10)
            }
            _ => return None,
        };
        self.last = self.at;
        self.at += size;
        self.seen += 1;
        Some(value)
    }

    /// The size of the entry before the one that comes now.
    #[inline]
    fn size_before(&self) -> usize {
        if self.seen == 0 { 0 } else { self.at - self.last }
    }

    /// The next entry, or `None` after the last.
    #[inline]
    pub(crate) fn next<'a>(&mut self, blob: &'a [u8]) -> Result<Option<Scalar<'a>>, BlobFault> {
        if let Some(value) = self.quick(blob) {
            return Ok(Some(value));
        }
        self.next_by_grammar(blob)
    }

    /// The same, whatever the form. Tells what is wrong.
    #[inline(never)]
    fn next_by_grammar<'a>(&mut self, blob: &'a [u8]) -> Result<Option<Scalar<'a>>, BlobFault> {
        let end = blob.len() - 1;
        if self.at >= end {
            if self.last != self.tail {
                return Err(BlobFault::new(4, BAD_TAIL));
            }
            if self.declared != UNKNOWN && u64::from(self.declared) != self.seen {
                return Err(BlobFault::new(
                    8,
                    "the count in a ziplist's header is not its number of entries",
                ));
            }
            return Ok(None);
        }
        let ((before, value), next) = run(entry, blob, self.at, end)?;
        if before as usize != self.size_before() {
            return Err(BlobFault::new(
                self.at,
                "the back length of a ziplist entry is not the size before it",
            ));
        }
        self.last = self.at;
        self.at = next;
        self.seen += 1;
        Ok(Some(value))
    }
}

const BAD_TAIL: &str = "the tail offset in a ziplist's header is not its last entry";

fn header(b: &[u8]) -> Parsed<'_, (u32, u32, u16)> {
    (le_u32, le_u32, le_u16).parse(b)
}

/// One entry: the size of the one before, and the value.
#[inline]
fn entry(b: &[u8]) -> Parsed<'_, (u32, Scalar<'_>)> {
    let (b, before) = match b {
        // Five bytes for a short size are legal: servers do not shrink it.
        [0xFE, rest @ ..] => le_u32(rest)?,
        [0xFF, ..] => return broken(b, "a ziplist ends before its end"),
        _ => u8.map(u32::from).parse(b)?,
    };
    let (rest, encoding) = u8::<_, Broken>(b)?;
    let (rest, value) = match encoding {
        0x00..=0x3F => bytes(rest, usize::from(encoding))?,
        0x40..=0x7F => {
            let (rest, low) = u8(rest)?;
            bytes(rest, usize::from(encoding & 0x3F) << 8 | usize::from(low))?
        }
        0x80 => {
            let (rest, len) = be_u32(rest)?;
            bytes(rest, len as usize)?
        }
        0xC0 => le_i16.map(|n| Scalar::Int(i64::from(n))).parse(rest)?,
        0xD0 => le_i32.map(|n| Scalar::Int(i64::from(n))).parse(rest)?,
        0xE0 => le_i64.map(Scalar::Int).parse(rest)?,
        0xF0 => le_i24.map(|n| Scalar::Int(i64::from(n))).parse(rest)?,
        0xFE => i8.map(|n| Scalar::Int(i64::from(n))).parse(rest)?,
        0xF1..=0xFD => (rest, Scalar::Int(i64::from(encoding & 0x0F) - 1)),
        _ => return broken(b, "unknown encoding of a ziplist entry"),
    };
    Ok((rest, (before, value)))
}

#[inline]
fn bytes(b: &[u8], len: usize) -> Parsed<'_, Scalar<'_>> {
    take(len).map(Scalar::Bytes).parse(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(blob: &[u8]) -> Result<Vec<Scalar<'_>>, &'static str> {
        let mut cursor = Cursor::open(blob).map_err(|fault| fault.what)?;
        let mut values = Vec::new();
        while let Some(value) = cursor.next(blob).map_err(|fault| fault.what)? {
            values.push(value);
        }
        Ok(values)
    }

    /// "ab", 12, -1 (int8), 1000 (int16), with right back lengths.
    const GOOD: [u8; 27] = [
        27,
        0,
        0,
        0,
        22,
        0,
        0,
        0,
        4,
        0, // header
        0,
        2,
        b'a',
        b'b', // 10
        4,
        0xFD, // 14
        0xFE,
        2,
        0,
        0,
        0,
        0xFE - 1, // 16: immediate 12 with a long back length
        6,
        0xC0,
        0xE8,
        3, // 22
        0xFF,
    ];

    #[test]
    fn reads_entries_and_checks_back_lengths() {
        let want = [Scalar::Bytes(b"ab"), Scalar::Int(12), Scalar::Int(12), Scalar::Int(1000)];
        assert_eq!(all(&GOOD).unwrap(), want);
        let with = |at: usize, byte: u8| {
            let mut blob = GOOD;
            blob[at] = byte;
            blob
        };
        let fails = |blob: &[u8]| all(blob).unwrap_err();
        assert_eq!(fails(&with(0, 26)), "the size in a ziplist's header is not its size");
        assert_eq!(fails(&with(4, 16)), BAD_TAIL);
        assert_eq!(fails(&with(4, 200)), BAD_TAIL);
        assert_eq!(fails(&with(8, 3)), "the count in a ziplist's header is not its number of entries");
        assert_eq!(fails(&with(14, 5)), "the back length of a ziplist entry is not the size before it");
        assert_eq!(fails(&with(14, 0xFF)), "a ziplist ends before its end");
        assert_eq!(fails(&with(11, 60)), "an entry goes beyond the end of its blob");
        assert_eq!(fails(&with(15, 0xFF)), "unknown encoding of a ziplist entry");
        assert_eq!(fails(&with(26, 0)), "a ziplist does not end with its end mark");
        assert_eq!(fails(&GOOD[..8]), "a ziplist is shorter than its header");
    }

    /// One of every encoding.
    #[rustfmt::skip]
    const EVERY: [u8; 47] = [
        47, 0, 0, 0, 36, 0, 0, 0, 6, 0, // header
        0, 0xFE, 0x80, // -128
        3, 0xC0, 0x00, 0x80, // -32768
        4, 0xF0, 0x00, 0x00, 0x80, // -8388608
        5, 0xD0, 0x00, 0x00, 0x00, 0x80, // i32::MIN
        6, 0x40, 0x05, b'a', b'b', b'c', b'd', b'e', // 14-bit length
        8, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x80, // i64::MIN
        0xFF,
    ];

    proptest! {
        /// The quick way and the grammar are twins: what the one gives the other gives, too.
        #[test]
        fn the_quick_way_agrees_with_the_grammar(
            first in any::<bool>(),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut blob = if first { GOOD.to_vec() } else { EVERY.to_vec() };
            for (index, byte) in &hits {
                let at = index.index(blob.len());
                blob[at] = *byte;
            }
            let Ok(mut quick) = Cursor::open(&blob) else { return Ok(()) };
            let mut slow = quick;
            while let Ok(Some(value)) = slow.next_by_grammar(&blob) {
                match quick.quick(&blob) {
                    Some(found) => prop_assert_eq!(found, value),
                    // A back length in its long form.
                    None => quick = slow,
                }
                prop_assert_eq!((quick.at, quick.last, quick.seen), (slow.at, slow.last, slow.seen));
            }
            prop_assert_eq!(quick.quick(&blob), None);
        }
    }

    #[test]
    fn every_integer_width() {
        let want = [
            Scalar::Int(-128),
            Scalar::Int(-32768),
            Scalar::Int(-8_388_608),
            Scalar::Int(i64::from(i32::MIN)),
            Scalar::Bytes(b"abcde"),
            Scalar::Int(i64::MIN),
        ];
        assert_eq!(all(&EVERY).unwrap(), want);
    }
}
