//! Zipmaps: hashes of Redis 2.0 to 2.4.
//!
//! ```text
//! u8 count (254: not known), { key length, key, value length, u8 free, value, free bytes }, 0xFF
//! length: one byte below 254, or 0xFE and u32
//! ```

use nom::Parser as _;
use nom::bytes::complete::take;
use nom::number::complete::{le_u32, u8};

use super::{BlobFault, Parsed, Scalar, broken, run};

/// Walks a zipmap: field, value, field, value.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    at: usize,
    seen: u64,
    declared: u8,
}

impl Cursor {
    /// Opens a blob.
    pub(crate) fn open(blob: &[u8]) -> Result<Self, BlobFault> {
        match blob {
            [declared, .., 0xFF] => Ok(Self { at: 1, seen: 0, declared: *declared }),
            [_, _, ..] => Err(BlobFault::new(blob.len() - 1, "a zipmap does not end with its end mark")),
            _ => Err(BlobFault::new(0, "a zipmap is shorter than its header")),
        }
    }

    /// The next field or value, or `None` after the last.
    pub(crate) fn next<'a>(&mut self, blob: &'a [u8]) -> Result<Option<Scalar<'a>>, BlobFault> {
        let end = blob.len() - 1;
        let is_field = self.seen.is_multiple_of(2);
        if is_field && self.at >= end {
            // 255 is not written by servers, but seen in the wild: it means the same as 254.
            if self.declared < 254 && u64::from(self.declared) != self.seen / 2 {
                return Err(BlobFault::new(0, "the count of a zipmap is not its number of fields"));
            }
            return Ok(None);
        }
        let (bytes, next) = run(if is_field { field } else { value }, blob, self.at, end)?;
        self.at = next;
        self.seen += 1;
        Ok(Some(Scalar::Bytes(bytes)))
    }
}

fn field(b: &[u8]) -> Parsed<'_, &[u8]> {
    let (b, len) = length(b)?;
    take(len).parse(b)
}

fn value(b: &[u8]) -> Parsed<'_, &[u8]> {
    let (b, len) = length(b)?;
    let (b, free) = u8(b)?;
    let (b, value) = take(len).parse(b)?;
    let (b, _) = take(free).parse(b)?;
    Ok((b, value))
}

/// A length. The long form of a short length is refused: readers that sized it differently in two places were open to
/// attack (CVE-2026-25243), so the newest servers refuse it too.
fn length(b: &[u8]) -> Parsed<'_, u32> {
    let (rest, first) = u8(b)?;
    match first {
        0xFE => match le_u32(rest)? {
            (_, 0..0xFE) => broken(b, "a zipmap writes a short length in its long form"),
            long => Ok(long),
        },
        0xFF => broken(b, "a zipmap ends before its end"),
        _ => Ok((rest, u32::from(first))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(blob: &[u8]) -> Result<Vec<Scalar<'_>>, &'static str> {
        let mut cursor = Cursor::open(blob).map_err(|fault| fault.what)?;
        let mut values = Vec::new();
        while let Some(value) = cursor.next(blob).map_err(|fault| fault.what)? {
            values.push(value);
        }
        Ok(values)
    }

    #[test]
    fn free_bytes_are_passed_over() {
        let mut blob = b"\x02\x01a\x02\x03xy...\x01b\x00\x00\xFF".to_vec();
        let want = [Scalar::Bytes(b"a"), Scalar::Bytes(b"xy"), Scalar::Bytes(b"b"), Scalar::Bytes(b"")];
        assert_eq!(all(&blob).unwrap(), want);
        for count in [254, 255] {
            blob[0] = count;
            assert_eq!(all(&blob).unwrap(), want);
        }
        blob[0] = 3;
        assert_eq!(all(&blob), Err("the count of a zipmap is not its number of fields"));
        assert_eq!(all(b"\x00\xFF"), Ok(vec![]));
        assert_eq!(all(b"\x00"), Err("a zipmap is shorter than its header"));
        assert_eq!(all(b"\x01\x01a\xFF"), Err("an entry goes beyond the end of its blob"));
        assert_eq!(all(b"\x01\x01a\x00\x09\xFF"), Err("an entry goes beyond the end of its blob"));
        assert_eq!(
            all(b"\x01\xFE\x01\x00\x00\x00a\x00\x00\xFF"),
            Err("a zipmap writes a short length in its long form")
        );
        assert_eq!(
            all(b"\x01\xFE\xFF\xFF\xFF\xFFa\x00\x00\xFF"),
            Err("an entry goes beyond the end of its blob")
        );
    }
}
