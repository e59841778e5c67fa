//! Intsets: sorted integers of one width.
//!
//! ```text
//! u32 width (2, 4 or 8), u32 count, the integers, little endian, strictly ascending
//! ```

use nom::Parser as _;
use nom::number::complete::le_u32;

use super::{BlobFault, Broken, Scalar};

const HEADER: usize = 8;

/// Walks an intset from its smallest number to its largest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    at: usize,
    width: usize,
}

impl Cursor {
    /// Opens a blob, checking its header and that the numbers ascend.
    pub(crate) fn open(blob: &[u8]) -> Result<Self, BlobFault> {
        let Ok((_, (width, count))) = (le_u32::<_, Broken>, le_u32).parse(blob) else {
            return Err(BlobFault::new(0, "an intset is shorter than its header"));
        };
        if !matches!(width, 2 | 4 | 8) {
            return Err(BlobFault::new(0, "the width in an intset's header is not 2, 4 or 8"));
        }
        if u64::from(width) * u64::from(count) != (blob.len() - HEADER) as u64 {
            return Err(BlobFault::new(4, "the count in an intset's header does not fit its size"));
        }
        let mut cursor = Self { at: HEADER, width: width as usize };
        let mut before = None;
        while let Some(Scalar::Int(n)) = cursor.next(blob) {
            if before >= Some(n) {
                return Err(BlobFault::new(
                    cursor.at - cursor.width,
                    "the numbers of an intset do not ascend",
                ));
            }
            before = Some(n);
        }
        cursor.at = HEADER;
        Ok(cursor)
    }

    /// The next number, or `None` after the last.
    #[inline]
    pub(crate) fn next<'a>(&mut self, blob: &'a [u8]) -> Option<Scalar<'a>> {
        let rest = blob.get(self.at..)?;
        let n = match self.width {
            2 => i64::from(i16::from_le_bytes(*rest.first_chunk()?)),
            4 => i64::from(i32::from_le_bytes(*rest.first_chunk()?)),
            _ => i64::from_le_bytes(*rest.first_chunk()?),
        };
        self.at += self.width;
        Some(Scalar::Int(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_signs() {
        let mut blob = vec![2, 0, 0, 0, 3, 0, 0, 0];
        for n in [-32768i16, -1, 300] {
            blob.extend(n.to_le_bytes());
        }
        let mut cursor = Cursor::open(&blob).unwrap();
        for n in [-32768, -1, 300] {
            assert_eq!(cursor.next(&blob), Some(Scalar::Int(n)));
        }
        assert_eq!(cursor.next(&blob), None);

        let fails = |blob: &[u8]| Cursor::open(blob).unwrap_err().what;
        assert_eq!(fails(&blob[..7]), "an intset is shorter than its header");
        assert_eq!(fails(&blob[..12]), "the count in an intset's header does not fit its size");
        blob[0] = 3;
        assert_eq!(fails(&blob), "the width in an intset's header is not 2, 4 or 8");
        assert_eq!(fails(&[2, 0, 0, 0, 2, 0, 0, 0, 5, 0, 5, 0]), "the numbers of an intset do not ascend");
        assert_eq!(
            fails(&[2, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 5, 0]),
            "the count in an intset's header does not fit its size"
        );
    }
}
