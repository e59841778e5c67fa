//! Tokens of the record level: lengths and string headers.

/// Why a token could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The bytes end inside the token. Nothing of it was consumed.
    Need,
    /// The bytes break a rule.
    Bad(&'static str),
}

pub(crate) const BAD_LEN: &str = "a length starts with a byte that no length starts with";
pub(crate) const BAD_STR: &str = "unknown special string encoding";
pub(crate) const STR_NOT_LEN: &str = "a special string encoding stands where a length must be";

/// Reads a length at the start of `b`: its value and size.
#[inline(always)]
pub(crate) fn len(b: &[u8]) -> Result<(u64, usize), Stop> {
    match b {
        [x, ..] if *x < 0x40 => Ok((u64::from(*x), 1)),
        [x, y, ..] if *x < 0x80 => Ok((u64::from(*x & 0x3F) << 8 | u64::from(*y), 2)),
        _ => long_len(b),
    }
}

#[cold]
fn long_len(b: &[u8]) -> Result<(u64, usize), Stop> {
    match b {
        [] => Err(Stop::Need),
        [0x80, a, b, c, d, ..] => Ok((u64::from(u32::from_be_bytes([*a, *b, *c, *d])), 5)),
        [0x81, a, b, c, d, e, f, g, h, ..] => Ok((u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 9)),
        [0x40..=0x81, ..] => Err(Stop::Need),
        [0xC0..=0xFF, ..] => Err(Stop::Bad(STR_NOT_LEN)),
        _ => Err(Stop::Bad(BAD_LEN)),
    }
}

/// How a string is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrForm {
    /// As it is.
    Plain,
    /// As a little-endian integer of the payload's width.
    Int,
    /// Compressed; `inflated` bytes when decompressed.
    Lzf { inflated: u64 },
}

/// The header of a string: `head` bytes of header, then `payload` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StrHead {
    pub(crate) head: usize,
    pub(crate) payload: u64,
    pub(crate) form: StrForm,
}

/// Reads a string header at the start of `b`.
#[inline(always)]
pub(crate) fn str_head(b: &[u8]) -> Result<StrHead, Stop> {
    match b {
        [x, ..] if *x < 0x40 => Ok(StrHead { head: 1, payload: u64::from(*x), form: StrForm::Plain }),
        [x, y, ..] if *x < 0x80 => {
            Ok(StrHead { head: 2, payload: u64::from(*x & 0x3F) << 8 | u64::from(*y), form: StrForm::Plain })
        }
        _ => long_str_head(b),
    }
}

#[inline(never)]
fn long_str_head(b: &[u8]) -> Result<StrHead, Stop> {
    match b {
        [x @ 0xC0..=0xC2, ..] => Ok(StrHead { head: 1, payload: 1 << (x & 3), form: StrForm::Int }),
        [0xC3, rest @ ..] => {
            let (payload, n) = len(rest)?;
            let (inflated, m) = len(&rest[n..])?;
            crate::lzf::check_ratio(payload, inflated).map_err(Stop::Bad)?;
            Ok(StrHead { head: 1 + n + m, payload, form: StrForm::Lzf { inflated } })
        }
        [0xC4..=0xFF, ..] => Err(Stop::Bad(BAD_STR)),
        _ => {
            let (payload, head) = long_len(b)?;
            Ok(StrHead { head, payload, form: StrForm::Plain })
        }
    }
}

/// The integer of an integer-encoded string.
pub(crate) fn int_payload(b: &[u8]) -> Option<i64> {
    Some(match b {
        [a] => i64::from(i8::from_le_bytes([*a])),
        [a, b] => i64::from(i16::from_le_bytes([*a, *b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
        _ => return None,
    })
}

/// Little-endian `u64` at the start of `b`, when its eight bytes are there.
#[inline]
pub(crate) fn u64_le(b: &[u8]) -> Option<u64> {
    b.first_chunk().map(|b| u64::from_le_bytes(*b))
}

/// Appends a length in its shortest form.
pub(crate) fn put_len(out: &mut Vec<u8>, n: u64) {
    match n {
        0..0x40 => out.push(n as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | n as u16).to_be_bytes()),
        0x4000..=0xFFFF_FFFF => {
            out.push(0x80);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

/// Appends a string as it is, neither as an integer nor compressed.
pub(crate) fn put_plain_str(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends an integer-encoded string in its shortest form.
pub(crate) fn put_int_str(out: &mut Vec<u8>, n: i32) {
    if let Ok(n) = i8::try_from(n) {
        out.extend_from_slice(&[0xC0, n as u8]);
    } else if let Ok(n) = i16::try_from(n) {
        out.push(0xC1);
        out.extend_from_slice(&n.to_le_bytes());
    } else {
        out.push(0xC2);
        out.extend_from_slice(&n.to_le_bytes());
    }
}

/// The integer of which `text` is the one decimal text: no leading zeros, no plus sign, no minus zero.
pub(crate) fn canonical_int(text: &[u8]) -> Option<i64> {
    let (digits, negative) = match text {
        [b'-', digits @ ..] => (digits, true),
        digits => (digits, false),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut n = 0i64;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|d| *d <= 9)?;
        // Counting downwards reaches the smallest number, too.
        n = n.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if negative { Some(n) } else { n.checked_neg() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        assert_eq!(len(&[0x3F]), Ok((63, 1)));
        assert_eq!(len(&[0x40]), Err(Stop::Need));
        assert_eq!(len(&[0x7F, 0xFF]), Ok((16383, 2)));
        assert_eq!(len(&[0x80, 0, 1, 0, 0]), Ok((65536, 5)));
        assert_eq!(len(&[0x80, 0, 1, 0]), Err(Stop::Need));
        assert_eq!(len(&[0x81, 0, 0, 0, 1, 0, 0, 0, 0]), Ok((1 << 32, 9)));
        assert_eq!(len(&[0x82, 0, 0, 0, 1, 0, 0, 0, 0]), Err(Stop::Bad(BAD_LEN)));
        assert_eq!(len(&[0xC0, 1]), Err(Stop::Bad(STR_NOT_LEN)));
        assert_eq!(len(&[]), Err(Stop::Need));
    }

    #[test]
    fn string_headers() {
        assert_eq!(str_head(&[0xC1]), Ok(StrHead { head: 1, payload: 2, form: StrForm::Int }));
        assert_eq!(
            str_head(&[0xC3, 3, 0x41, 8]),
            Ok(StrHead { head: 4, payload: 3, form: StrForm::Lzf { inflated: 264 } })
        );
        assert_eq!(str_head(&[0xC3, 3]), Err(Stop::Need));
        assert!(matches!(str_head(&[0xC3, 3, 0x41, 9]), Err(Stop::Bad(_))));
        assert_eq!(str_head(&[0xC4]), Err(Stop::Bad(BAD_STR)));
        assert_eq!(str_head(&[0x80, 0, 0]), Err(Stop::Need));
    }

    #[test]
    fn written_lengths_are_shortest_and_read_back() {
        for (n, size) in
            [(0, 1), (63, 1), (64, 2), (16383, 2), (16384, 5), (u64::from(u32::MAX), 5), (1 << 32, 9)]
        {
            let mut out = Vec::new();
            put_len(&mut out, n);
            assert_eq!(len(&out), Ok((n, size)));
            assert_eq!(out.len(), size);
        }
    }

    #[test]
    fn only_canonical_integers() {
        for n in [0, 1, -1, 9, 10, i64::MAX, i64::MIN, -128] {
            assert_eq!(canonical_int(n.to_string().as_bytes()), Some(n));
        }
        for text in [
            "",
            "-",
            "-0",
            "01",
            "+1",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
            "1e3",
        ] {
            assert_eq!(canonical_int(text.as_bytes()), None, "{text}");
        }
    }
}
