//! The slow twin: a walker by recursion over a slice, written from the format's description alone.

use keyferry_rdb::crc64;

/// What the twin knows of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NaiveKey {
    pub(crate) db: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) expiry: Option<i64>,
    pub(crate) ty: u8,
    pub(crate) value: Vec<u8>,
}

/// The keys of a snapshot and its size, or `None` when it is not one.
pub(crate) fn walk(file: &[u8]) -> Option<(Vec<NaiveKey>, usize)> {
    let mut w = Walk { all: file, at: 9, valkey: file.starts_with(b"VALKEY"), templates: Vec::new() };
    let digits = if w.valkey { &file[6..9] } else { file.strip_prefix(b"REDIS")?.get(..4)? };
    let version: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let mut keys = Vec::new();
    let (mut db, mut expiry) = (0, None);
    loop {
        let byte = w.byte()?;
        match byte {
            255 => break,
            254 => db = w.len()?,
            253 => expiry = Some(i64::from(i32::from_le_bytes(w.raw(4)?.try_into().ok()?)) * 1000),
            252 => expiry = Some(i64::from_le_bytes(w.raw(8)?.try_into().ok()?)),
            251 => {
                w.len()?;
                w.len()?;
            }
            250 => {
                w.string()?;
                w.string()?;
            }
            249 => drop(w.byte()?),
            248 | 107 | 121 => drop(w.len()?),
            247 => {
                w.len()?;
                w.len()?;
                w.len()?;
                w.module()?;
            }
            246 => {
                w.string()?;
                w.string()?;
                if w.len()? == 1 {
                    w.string()?;
                }
                w.string()?;
            }
            245 => drop(w.string()?),
            244 => {
                w.len()?;
                w.len()?;
                w.len()?;
            }
            243 if w.valkey => {
                w.string()?;
                for _ in 0..w.len()? {
                    w.len()?;
                    w.len()?;
                }
            }
            243 => {
                for _ in 0..w.len()? {
                    w.raw(4)?;
                    w.module()?;
                }
            }
            242 => {
                let id = w.len()?;
                let n = w.len()?;
                w.strings(n)?;
                w.templates.push((id, n));
            }
            ty => {
                let key = w.string()?;
                let start = w.at;
                w.value(ty)?;
                keys.push(NaiveKey { db, key, expiry: expiry.take(), ty, value: file[start..w.at].to_vec() });
            }
        }
    }
    if version >= 5 {
        let crc = crc64(0, &file[..w.at]);
        let stored = u64::from_le_bytes(w.raw(8)?.try_into().ok()?);
        if stored != 0 && stored != crc {
            return None;
        }
    }
    Some((keys, w.at))
}

struct Walk<'a> {
    all: &'a [u8],
    at: usize,
    valkey: bool,
    templates: Vec<(u64, u64)>,
}

impl<'a> Walk<'a> {
    fn raw(&mut self, n: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(n).ok()?)?;
        let bytes = self.all.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.raw(1)?[0])
    }

    fn len(&mut self) -> Option<u64> {
        let first = self.byte()?;
        match first >> 6 {
            0 => Some(u64::from(first)),
            1 => Some((u64::from(first) - 64) * 256 + u64::from(self.byte()?)),
            2 => {
                let bytes = match first {
                    0x80 => self.raw(4)?,
                    0x81 => self.raw(8)?,
                    _ => return None,
                };
                Some(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        match *self.all.get(self.at)? {
            0xC0 => {
                self.at += 1;
                Some((self.byte()? as i8).to_string().into_bytes())
            }
            0xC1 => {
                self.at += 1;
                Some(i16::from_le_bytes(self.raw(2)?.try_into().ok()?).to_string().into_bytes())
            }
            0xC2 => {
                self.at += 1;
                Some(i32::from_le_bytes(self.raw(4)?.try_into().ok()?).to_string().into_bytes())
            }
            0xC3 => {
                self.at += 1;
                let (from, to) = (self.len()?, self.len()?);
                unpack(self.raw(from)?, to)
            }
            _ => {
                let n = self.len()?;
                Some(self.raw(n)?.to_vec())
            }
        }
    }

    fn strings(&mut self, n: u64) -> Option<()> {
        for _ in 0..n {
            self.string()?;
        }
        Some(())
    }

    fn module(&mut self) -> Option<()> {
        loop {
            match self.len()? {
                0 => return Some(()),
                1 | 2 => drop(self.len()?),
                3 => drop(self.raw(4)?),
                4 => drop(self.raw(8)?),
                5 => drop(self.string()?),
                _ => return None,
            }
        }
    }

    fn value(&mut self, ty: u8) -> Option<()> {
        match ty {
            0 | 9..=13 | 16 | 17 | 20 | 23 | 30 => drop(self.string()?),
            1 | 2 | 14 => {
                let n = self.len()?;
                self.strings(n)?;
            }
            3 => {
                for _ in 0..self.len()? {
                    self.string()?;
                    let n = self.byte()?;
                    if n < 253 {
                        self.raw(n.into())?;
                    }
                }
            }
            4 => {
                let n = self.len()?;
                self.strings(n * 2)?;
            }
            5 => {
                for _ in 0..self.len()? {
                    self.string()?;
                    self.raw(8)?;
                }
            }
            7 => {
                self.len()?;
                self.module()?;
            }
            15 | 19 | 21 | 26 | 27 => self.stream(ty)?,
            18 => {
                for _ in 0..self.len()? {
                    self.len().filter(|kind| matches!(kind, 1 | 2))?;
                    self.string()?;
                }
            }
            22 if self.valkey => {
                for _ in 0..self.len()? {
                    self.strings(2)?;
                    self.raw(8)?;
                }
            }
            22 | 24 => {
                if ty == 24 {
                    self.raw(8)?;
                }
                for _ in 0..self.len()? {
                    self.len()?;
                    self.strings(2)?;
                }
            }
            25 => {
                self.raw(8)?;
                self.string()?;
            }
            28 => {
                let n = self.len()?;
                if self.len()? == 1 {
                    self.len()?;
                }
                for _ in 0..n {
                    self.len()?;
                    match self.len()? {
                        0 | 3 => drop(self.string()?),
                        _ => drop(self.raw(8)?),
                    }
                }
            }
            29 | 31 => {
                let names = if self.len()? == 0 {
                    let blob = self.string()?;
                    u64::from(u16::from_le_bytes([blob[4], blob[5]]))
                } else {
                    let n = self.len()?;
                    self.strings(n)?;
                    n
                };
                self.strings(if ty == 29 { 1 } else { names })?;
            }
            32 => {
                let id = self.len()?;
                let (_, n) = *self.templates.iter().find(|(known, _)| *known == id)?;
                self.strings(n)?;
            }
            33 => drop(self.len()?),
            64 => {
                self.string()?;
                self.raw(16)?;
                for _ in 0..2 {
                    let n = self.len()?;
                    self.strings(n)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn stream(&mut self, ty: u8) -> Option<()> {
        let nodes = self.len()?;
        self.strings(nodes * 2)?;
        for _ in 0..if ty == 15 { 3 } else { 8 } {
            self.len()?;
        }
        for _ in 0..self.len()? {
            self.string()?;
            for _ in 0..if ty == 15 { 2 } else { 3 } {
                self.len()?;
            }
            for _ in 0..self.len()? {
                self.raw(24)?;
                self.len()?;
            }
            for _ in 0..self.len()? {
                self.string()?;
                self.raw(if ty >= 21 { 16 } else { 8 })?;
                let n = self.len()?;
                self.raw(n * 16)?;
            }
            if ty == 27 {
                let n = self.len()?;
                self.raw(n * 16)?;
            }
        }
        if ty >= 26 {
            self.len()?;
            self.len()?;
            for _ in 0..self.len()? {
                self.string()?;
                for _ in 0..self.len()? {
                    self.string()?;
                    self.len()?;
                    self.len()?;
                }
            }
            self.len()?;
            self.len()?;
        }
        Some(())
    }
}

/// LZF, one byte at a time.
fn unpack(b: &[u8], size: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = b.iter().map(|byte| usize::from(*byte));
    while let Some(control) = bytes.next() {
        if control < 32 {
            for _ in 0..=control {
                out.push(bytes.next()? as u8);
            }
        } else {
            let mut n = control >> 5;
            if n == 7 {
                n += bytes.next()?;
            }
            let back = ((control & 31) << 8 | bytes.next()?) + 1;
            for _ in 0..n + 2 {
                out.push(*out.get(out.len().checked_sub(back)?)?);
            }
        }
    }
    (out.len() as u64 == size).then_some(out)
}
