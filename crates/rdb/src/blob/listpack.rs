//! Listpacks (Redis 5.0 in streams, 7.0 everywhere).
//!
//! ```text
//! u32 total bytes, u16 entry count (65535: not known), entries, 0xFF
//! entry: encoding and data, then the size of both, written backwards in groups of seven bits
//! ```

use nom::Parser as _;
use nom::bytes::complete::take;
use nom::number::complete::{le_i16, le_i24, le_i32, le_i64, le_u16, le_u32, u8};

use super::{BlobFault, Broken, Parsed, Scalar, broken, run};

const HEADER: usize = 6;
const UNKNOWN: u16 = u16::MAX;

/// Walks a listpack from its first entry to its last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    at: usize,
    seen: u64,
    declared: u16,
}

impl Cursor {
    /// Opens a blob, checking its header.
    pub(crate) fn open(blob: &[u8]) -> Result<Self, BlobFault> {
        let Ok((_, (total, declared))) = header(blob) else {
            return Err(BlobFault::new(0, "a listpack is shorter than its header"));
        };
        if total as usize != blob.len() || blob.len() <= HEADER {
            return Err(BlobFault::new(0, "the size in a listpack's header is not its size"));
        }
        if blob.last() != Some(&0xFF) {
            return Err(BlobFault::new(blob.len() - 1, "a listpack does not end with its end mark"));
        }
        Ok(Self { at: HEADER, seen: 0, declared })
    }

    /// The next entry, when it is written in a common form and rightly; `None` after the last entry, too.
    #[inline(always)]
    pub(crate) fn quick<'a>(&mut self, blob: &'a [u8]) -> Option<Scalar<'a>> {
        let b = blob.get(self.at..blob.len() - 1)?;
        let (value, size) = match *b {
            [n @ 0x00..=0x7F, 1, ..] => (Scalar::Int(i64::from(n)), 2),
            [head @ 0x80..=0xBF, ref rest @ ..] => {
                let len = usize::from(head & 0x3F);
                match rest.get(..=len)?.split_last()? {
                    (&back, text) if usize::from(back) == len + 1 => (Scalar::Bytes(text), len + 2),
                    _ => return None,
                }
            }
            [head @ 0xC0..=0xDF, low, 2, ..] => (Scalar::Int(signed_13(head, low)), 3),
            [high @ 0xE0..=0xEF, low, ref rest @ ..] => {
                let len = usize::from(high & 0x0F) << 8 | usize::from(low);
                let size = len + 2;
                let (text, rest) = rest.split_at_checked(len)?;
                match *rest {
                    [back, ..] if size <= 127 && usize::from(back) == size => (Scalar::Bytes(text), size + 1),
                    [first, second, ..]
                        if size > 127
                            && usize::from(first) == size >> 7
                            && usize::from(second) == size & 0x7F | 0x80 =>
                    {
                        (Scalar::Bytes(text), size + 2)
                    }
                    _ => return None,
                }
            }
            [0xF1, a, b, 3, ..] => (Scalar::Int(i64::from(i16::from_le_bytes([a, b]))), 4),
            [0xF2, a, b, c, 4, ..] => (Scalar::Int(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)), 5),
            [0xF3, a, b, c, d, 5, ..] => (Scalar::Int(i64::from(i32::from_le_bytes([a, b, c, d]))), 6),
            [0xF4, a, b, c, d, e, f, g, h, 9, ..] => {
                (Scalar::Int(i64::from_le_bytes([a, b, c, d, e, f, g, h])), 10)
            }
            _ => return None,
        };
        self.at += size;
        self.seen += 1;
        Some(value)
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
            if self.declared != UNKNOWN && u64::from(self.declared) != self.seen {
                return Err(BlobFault::new(
                    4,
                    "the count in a listpack's header is not its number of entries",
                ));
            }
            return Ok(None);
        }
        let (value, next) = run(entry, blob, self.at, end)?;
        self.at = next;
        self.seen += 1;
        Ok(Some(value))
    }
}

/// The number of entries.
pub(crate) fn count(blob: &[u8]) -> Result<u64, BlobFault> {
    let mut cursor = Cursor::open(blob)?;
    while cursor.next(blob)?.is_some() {}
    Ok(cursor.seen)
}

fn header(b: &[u8]) -> Parsed<'_, (u32, u16)> {
    (le_u32, le_u16).parse(b)
}

/// One entry with its back length.
#[inline]
fn entry(b: &[u8]) -> Parsed<'_, Scalar<'_>> {
    let (rest, first) = u8::<_, Broken>(b)?;
    let (rest, value) = match first {
        0x00..=0x7F => (rest, Scalar::Int(i64::from(first))),
        0x80..=0xBF => bytes(rest, usize::from(first & 0x3F))?,
        0xC0..=0xDF => {
            let (rest, low) = u8(rest)?;
            (rest, Scalar::Int(signed_13(first, low)))
        }
        0xE0..=0xEF => {
            let (rest, low) = u8(rest)?;
            bytes(rest, usize::from(first & 0x0F) << 8 | usize::from(low))?
        }
        0xF0 => {
            let (rest, len) = le_u32(rest)?;
            bytes(rest, len as usize)?
        }
        0xF1 => le_i16.map(|n| Scalar::Int(i64::from(n))).parse(rest)?,
        0xF2 => le_i24.map(|n| Scalar::Int(i64::from(n))).parse(rest)?,
        0xF3 => le_i32.map(|n| Scalar::Int(i64::from(n))).parse(rest)?,
        0xF4 => le_i64.map(Scalar::Int).parse(rest)?,
        0xF5..=0xFE => return broken(b, "unknown encoding of a listpack entry"),
        0xFF => return broken(b, "a listpack ends before its end"),
    };
    let size = b.len() - rest.len();
    let (rest, ()) = back_len(rest, size)?;
    Ok((rest, value))
}

/// A signed number of 13 bits, five of them in the encoding byte.
#[inline]
fn signed_13(head: u8, low: u8) -> i64 {
    i64::from((i16::from_be_bytes([head, low]) << 3) >> 3)
}

#[inline]
fn bytes(b: &[u8], len: usize) -> Parsed<'_, Scalar<'_>> {
    take(len).map(Scalar::Bytes).parse(b)
}

/// The back length, which must say `size`: most significant group first, all but the first byte with bit 7 set.
#[inline]
fn back_len(b: &[u8], size: usize) -> Parsed<'_, ()> {
    if size <= 127 {
        return match b {
            [n, rest @ ..] if usize::from(*n) == size => Ok((rest, ())),
            _ => broken(b, WRONG_BACK_LEN),
        };
    }
    let groups = match size {
        0..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    };
    let (rest, written) = take(groups as usize).parse(b)?;
    for (i, &byte) in written.iter().enumerate() {
        let group = (size as u64 >> (7 * (groups - 1 - i as u32)) & 0x7F) as u8;
        let mark = if i == 0 { 0 } else { 0x80 };
        if byte != group | mark {
            return broken(b, WRONG_BACK_LEN);
        }
    }
    Ok((rest, ()))
}

const WRONG_BACK_LEN: &str = "the back length of a listpack entry is not its size";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes a listpack of byte strings and integers, in the encodings that servers choose.
    pub(crate) fn build(entries: &[Scalar<'_>]) -> Vec<u8> {
        let mut body = Vec::new();
        for entry in entries {
            let start = body.len();
            match *entry {
                Scalar::Int(n @ 0..=127) => body.push(n as u8),
                Scalar::Int(n @ -4096..=4095) => {
                    let n = if n < 0 { n + (1 << 13) } else { n };
                    body.extend([0xC0 | (n >> 8) as u8, n as u8]);
                }
                Scalar::Int(n) if i16::try_from(n).is_ok() => {
                    body.push(0xF1);
                    body.extend((n as i16).to_le_bytes());
                }
                Scalar::Int(n @ -0x80_0000..=0x7F_FFFF) => {
                    body.push(0xF2);
                    body.extend(&(n as i32).to_le_bytes()[..3]);
                }
                Scalar::Int(n) if i32::try_from(n).is_ok() => {
                    body.push(0xF3);
                    body.extend((n as i32).to_le_bytes());
                }
                Scalar::Int(n) => {
                    body.push(0xF4);
                    body.extend(n.to_le_bytes());
                }
                Scalar::Bytes(b) => {
                    match b.len() {
                        n @ 0..=63 => body.push(0x80 | n as u8),
                        n @ 64..=4095 => body.extend([0xE0 | (n >> 8) as u8, n as u8]),
                        n => {
                            body.push(0xF0);
                            body.extend((n as u32).to_le_bytes());
                        }
                    }
                    body.extend(b);
                }
            }
            let size = body.len() - start;
            let groups = (1..5).find(|g| size < 1 << (7 * g)).unwrap_or(5);
            for i in (0..groups).rev() {
                let mark = if i == groups - 1 { 0 } else { 0x80 };
                body.push((size >> (7 * i)) as u8 & 0x7F | mark);
            }
        }
        let mut blob = ((body.len() + 7) as u32).to_le_bytes().to_vec();
        blob.extend((entries.len().min(65535) as u16).to_le_bytes());
        blob.extend(body);
        blob.push(0xFF);
        blob
    }

    #[test]
    fn reads_what_is_written() {
        let long = vec![b'x'; 5000];
        let medium = vec![b'y'; 200];
        let entries = [
            Scalar::Int(0),
            Scalar::Int(127),
            Scalar::Int(128),
            Scalar::Int(-1),
            Scalar::Int(-4096),
            Scalar::Int(4095),
            Scalar::Int(4096),
            Scalar::Int(-32768),
            Scalar::Int(-40_000),
            Scalar::Int(8_388_607),
            Scalar::Int(-8_388_608),
            Scalar::Int(i64::from(i32::MIN)),
            Scalar::Int(i64::MAX),
            Scalar::Int(i64::MIN),
            Scalar::Bytes(b""),
            Scalar::Bytes(b"abc"),
            Scalar::Bytes(&medium),
            Scalar::Bytes(&long),
        ];
        let blob = build(&entries);
        let mut cursor = Cursor::open(&blob).unwrap();
        for entry in entries {
            assert_eq!(cursor.next(&blob), Ok(Some(entry)));
        }
        assert_eq!(cursor.next(&blob), Ok(None));
        assert_eq!(count(&blob), Ok(entries.len() as u64));
    }

    proptest! {
        /// The quick way and the grammar are twins: what the one gives the other gives, too, and in well-formed blobs
        /// nothing but the longest strings is left to the grammar.
        #[test]
        fn the_quick_way_agrees_with_the_grammar(
            entries in prop::collection::vec(prop_oneof![
                (any::<i64>(), 0u32..64).prop_map(|(n, shift)| Ok(n >> shift)),
                prop_oneof![0usize..70, 120usize..135, 4090usize..4100].prop_map(|len| Err(vec![b'x'; len])),
            ], 0..12),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let scalars: Vec<_> = entries.iter().map(|entry| match entry {
                Ok(n) => Scalar::Int(*n),
                Err(text) => Scalar::Bytes(text),
            }).collect();
            let mut blob = build(&scalars);
            for (index, byte) in &hits {
                let at = index.index(blob.len());
                blob[at] = *byte;
            }
            let Ok(mut quick) = Cursor::open(&blob) else { return Ok(()) };
            let mut slow = quick;
            while let Ok(Some(value)) = slow.next_by_grammar(&blob) {
                match quick.quick(&blob) {
                    Some(found) => prop_assert_eq!(found, value),
                    None => {
                        prop_assert!(!hits.is_empty() || matches!(value, Scalar::Bytes(text) if text.len() >= 4096));
                        quick = slow;
                    }
                }
                prop_assert_eq!((quick.at, quick.seen), (slow.at, slow.seen));
            }
            prop_assert_eq!(quick.quick(&blob), None);
        }
    }

    #[test]
    fn a_back_length_of_two_bytes_is_as_the_format_says() {
        // Entry of 200 bytes: back length 01 C8.
        let blob = build(&[Scalar::Bytes(&[b'z'; 198])]);
        assert_eq!(&blob[blob.len() - 3..], [0x01, 0xC8, 0xFF]);
    }

    #[test]
    fn refuses_what_is_broken() {
        let good = build(&[Scalar::Bytes(b"abc"), Scalar::Int(5)]);
        let walk = |blob: &[u8]| count(blob).map_err(|fault| fault.what);
        assert_eq!(walk(&good), Ok(2));
        let with = |at: usize, byte: u8| {
            let mut blob = good.clone();
            blob[at] = byte;
            blob
        };
        assert_eq!(walk(&with(0, 99)), Err("the size in a listpack's header is not its size"));
        assert_eq!(walk(&with(4, 3)), Err("the count in a listpack's header is not its number of entries"));
        assert_eq!(walk(&with(4, 1)), Err("the count in a listpack's header is not its number of entries"));
        assert_eq!(walk(&with(6, 0xBF)), Err("an entry goes beyond the end of its blob"));
        assert_eq!(walk(&with(6, 0xF7)), Err("unknown encoding of a listpack entry"));
        assert_eq!(walk(&with(6, 0xFF)), Err("a listpack ends before its end"));
        assert_eq!(walk(&with(10, 7)), Err(WRONG_BACK_LEN));
        assert_eq!(walk(&with(good.len() - 1, 0)), Err("a listpack does not end with its end mark"));
        assert_eq!(walk(&[7, 0, 0, 0, 0]), Err("a listpack is shorter than its header"));
        assert_eq!(walk(&[6, 0, 0, 0, 0, 0]), Err("the size in a listpack's header is not its size"));
        assert_eq!(walk(&[7, 0, 0, 0, 0, 0, 0xFF]), Ok(0));
    }
}
