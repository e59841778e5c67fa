//! Compact blobs, written.

use crate::wire::canonical_int;

/// Entries of a listpack, without its header and end mark.
#[derive(Clone, Debug, Default)]
pub(super) struct Listpack {
    pub(super) body: Vec<u8>,
    count: usize,
}

impl Listpack {
    const HEADER: usize = 6;

    pub(super) fn clear(&mut self) {
        self.body.clear();
        self.count = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the whole blob.
    pub(super) fn size(&self) -> usize {
        Self::HEADER + self.body.len() + 1
    }

    /// Adds a string, as an integer where it is the text of one.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(n) = canonical_int(bytes) {
            return self.push_int(n);
        }
        let start = self.body.len();
        let len = bytes.len();
        match len {
            0..0x40 => self.body.push(0x80 | len as u8),
            0x40..0x1000 => self.body.extend_from_slice(&(0xE000 | len as u16).to_be_bytes()),
            _ => {
                self.body.push(0xF0);
                self.body.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        self.body.extend_from_slice(bytes);
        self.end(start);
    }

    pub(super) fn push_int(&mut self, n: i64) {
        let start = self.body.len();
        let bytes = n.to_le_bytes();
        match n {
            0..=127 => self.body.push(n as u8),
            -4096..=4095 => self.body.extend_from_slice(&(0xC000 | n as u16 & 0x1FFF).to_be_bytes()),
            -0x8000..=0x7FFF => self.tagged(0xF1, &bytes[..2]),
            -0x80_0000..=0x7F_FFFF => self.tagged(0xF2, &bytes[..3]),
            -0x8000_0000..=0x7FFF_FFFF => self.tagged(0xF3, &bytes[..4]),
            _ => self.tagged(0xF4, &bytes),
        }
        self.end(start);
    }

    /// Adds the entries of another.
    pub(super) fn extend(&mut self, other: &Self) {
        self.body.extend_from_slice(&other.body);
        self.count += other.count;
    }

    /// Appends the whole blob to `out`.
    pub(super) fn finish(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.size() as u32).to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&self.body);
        out.push(0xFF);
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.body.push(tag);
        self.body.extend_from_slice(bytes);
    }

    /// Ends the entry that began at `start` with its size, most significant group of seven bits first.
    fn end(&mut self, start: usize) {
        let size = self.body.len() - start;
        let groups = match size {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            0x4000..0x20_0000 => 3,
            0x20_0000..0x1000_0000 => 4,
            _ => 5,
        };
        for group in (0..groups).rev() {
            let mark = if group == groups - 1 { 0 } else { 0x80 };
            self.body.push((size as u64 >> (7 * group) & 0x7F) as u8 | mark);
        }
        self.count += 1;
    }
}

/// Entries of a ziplist, without its header and end mark.
#[derive(Clone, Debug, Default)]
pub(super) struct Ziplist {
    body: Vec<u8>,
    count: usize,
    /// Where the last entry starts.
    last: usize,
}

impl Ziplist {
    const HEADER: usize = 10;

    pub(super) fn clear(&mut self) {
        self.body.clear();
        (self.count, self.last) = (0, 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the whole blob.
    pub(super) fn size(&self) -> usize {
        Self::HEADER + self.body.len() + 1
    }

    /// Adds a string, as an integer where it is the text of one.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.begin();
        if let Some(n) = canonical_int(bytes) {
            let raw = n.to_le_bytes();
            return match n {
                0..=12 => self.body.push(0xF1 + n as u8),
                -0x80..=0x7F => self.tagged(0xFE, &raw[..1]),
                -0x8000..=0x7FFF => self.tagged(0xC0, &raw[..2]),
                -0x80_0000..=0x7F_FFFF => self.tagged(0xF0, &raw[..3]),
                -0x8000_0000..=0x7FFF_FFFF => self.tagged(0xD0, &raw[..4]),
                _ => self.tagged(0xE0, &raw),
            };
        }
        let len = bytes.len();
        match len {
            0..0x40 => self.body.push(len as u8),
            0x40..0x4000 => self.body.extend_from_slice(&(0x4000 | len as u16).to_be_bytes()),
            _ => {
                self.body.push(0x80);
                self.body.extend_from_slice(&(len as u32).to_be_bytes());
            }
        }
        self.body.extend_from_slice(bytes);
    }

    /// Appends the whole blob to `out`.
    pub(super) fn finish(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.size() as u32).to_le_bytes());
        out.extend_from_slice(&((Self::HEADER + self.last) as u32).to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&self.body);
        out.push(0xFF);
    }

    /// Begins an entry with the size of the one before.
    fn begin(&mut self) {
        let before = self.body.len() - self.last;
        self.last = self.body.len();
        self.count += 1;
        match before {
            0..254 => self.body.push(before as u8),
            _ => self.tagged(0xFE, &(before as u32).to_le_bytes()),
        }
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.body.push(tag);
        self.body.extend_from_slice(bytes);
    }
}

/// Appends an intset of numbers in ascending order, as narrow as they allow.
pub(super) fn intset(numbers: &[i64], out: &mut Vec<u8>) {
    let fits = |least: i64, most: i64| numbers.iter().all(|n| (least..=most).contains(n));
    let width = if fits(i16::MIN.into(), i16::MAX.into()) {
        2
    } else if fits(i32::MIN.into(), i32::MAX.into()) {
        4
    } else {
        8
    };
    out.extend_from_slice(&(width as u32).to_le_bytes());
    out.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    for n in numbers {
        out.extend_from_slice(&n.to_le_bytes()[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{self, Scalar};
    use proptest::prelude::*;

    fn text(scalar: Scalar<'_>) -> Vec<u8> {
        match scalar {
            Scalar::Bytes(bytes) => bytes.to_vec(),
            Scalar::Int(n) => n.to_string().into_bytes(),
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let entry = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            (prop_oneof![Just(0usize), 4000usize..5000, 16_300usize..16_500]).prop_map(|n| vec![b'x'; n]),
            any::<i64>().prop_map(|n| n.to_string().into_bytes()),
            (0u32..64, any::<i64>()).prop_map(|(shift, n)| (n >> shift).to_string().into_bytes()),
        ];
        prop::collection::vec(entry, 0..20)
    }

    proptest! {
        #[test]
        fn listpacks_read_back(entries in entries()) {
            let mut listpack = Listpack::default();
            entries.iter().for_each(|entry| listpack.push(entry));
            let mut out = Vec::new();
            listpack.finish(&mut out);
            prop_assert_eq!(out.len(), listpack.size());
            let mut cursor = blob::listpack::Cursor::open(&out).unwrap();
            for entry in &entries {
                prop_assert_eq!(&text(cursor.next(&out).unwrap().unwrap()), entry);
            }
            prop_assert_eq!(cursor.next(&out), Ok(None));
        }

        #[test]
        fn ziplists_read_back(entries in entries()) {
            let mut ziplist = Ziplist::default();
            entries.iter().for_each(|entry| ziplist.push(entry));
            let mut out = Vec::new();
            ziplist.finish(&mut out);
            prop_assert_eq!(out.len(), ziplist.size());
            let mut cursor = blob::ziplist::Cursor::open(&out).unwrap();
            for entry in &entries {
                prop_assert_eq!(&text(cursor.next(&out).unwrap().unwrap()), entry);
            }
            prop_assert_eq!(cursor.next(&out), Ok(None));
        }

        #[test]
        fn intsets_read_back(numbers in prop::collection::btree_set((0u32..64, any::<i64>()).prop_map(|(s, n)| n >> s), 0..50)) {
            let numbers: Vec<i64> = numbers.into_iter().collect();
            let mut out = Vec::new();
            intset(&numbers, &mut out);
            let mut cursor = blob::intset::Cursor::open(&out).unwrap();
            for &n in &numbers {
                prop_assert_eq!(cursor.next(&out), Some(Scalar::Int(n)));
            }
            prop_assert_eq!(cursor.next(&out), None);
        }
    }
}
