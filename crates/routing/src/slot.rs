use memchr::memchr;

use crate::crc16::{crc16, odd_and_words, step};

/// How many slots a cluster has: slots are `0..SLOTS`.
pub const SLOTS: u16 = 16_384;

/// The slot of a key.
///
/// ```
/// assert_eq!(keyferry_routing::slot(b"bar"), 5061);
/// ```
#[inline]
pub fn slot(key: &[u8]) -> u16 {
    match early_brace(key) {
        Early::None => {
            // Checksum and search in one loop.
            let (odd, words) = odd_and_words(key);
            let (crc, braces) = words.iter().fold((step(0, odd), 0), |(crc, braces), &word| {
                (step(crc, word), braces | marks(b'{', word))
            });
            if braces == 0 {
                return crc & (SLOTS - 1);
            }
        }
        Early::At(open) => {
            if let Some(crc) = short_tag(key, open + 1) {
                return crc & (SLOTS - 1);
            }
        }
        Early::Short => {}
    }
    let (start, end) = hashed(key);
    crc16(key, start, end) & (SLOTS - 1)
}

/// The part of a key that its slot depends on: what stands between the first `{` and the first `}` behind it, or the
/// whole key if one of them is missing or nothing stands between them.
///
/// Keys are bytes: there is no escaping, and no second try with a later brace.
///
/// ```
/// use keyferry_routing::hash_tag;
///
/// assert_eq!(hash_tag(b"x{a}y{b}"), b"a");
/// assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
/// assert_eq!(hash_tag(b"{}{a}"), b"{}{a}");
/// assert_eq!(hash_tag(b"{a"), b"{a");
/// ```
#[inline]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let (start, end) = hashed(key);
    key.get(start..end).unwrap_or_default()
}

/// Where in the first 16 bytes the first `{` is.
enum Early {
    At(usize),
    None,
    /// There are not so many bytes.
    Short,
}

#[inline(always)]
fn early_brace(key: &[u8]) -> Early {
    let (front, _) = key.as_chunks::<8>();
    let [first, second, ..] = front else { return Early::Short };
    let found = u128::from(marks(b'{', *first)) | u128::from(marks(b'{', *second)) << 64;
    match found {
        0 => Early::None,
        _ => Early::At((found.trailing_zeros() / 8) as usize),
    }
}

/// The checksum of a tag of 1 to 15 bytes that begins here, if there is one.
///
/// The words that are searched for the `}` are those that are summed up: what stands behind the tag is shifted out, and zeros come in
/// front, which do not change a checksum.
#[inline(always)]
fn short_tag(key: &[u8], start: usize) -> Option<u16> {
    let first: [u8; 8] = *key.get(start..)?.first_chunk()?;
    let found = marks(b'}', first);
    if found != 0 {
        let len = found.trailing_zeros() / 8;
        let tag = u64::from_le_bytes(first).checked_shl(64 - 8 * len)?;
        return Some(step(0, tag.to_le_bytes()));
    }
    let both: [u8; 16] = *key.get(start..)?.first_chunk()?;
    let found = marks(b'}', [both[8], both[9], both[10], both[11], both[12], both[13], both[14], both[15]]);
    if found == 0 {
        return None;
    }
    let len = 8 + found.trailing_zeros() / 8;
    let tag = (u128::from_le_bytes(both) << (128 - 8 * len)).to_le_bytes();
    let (words, _) = tag.as_chunks::<8>();
    Some(words.iter().fold(0, |crc, &word| step(crc, word)))
}

/// Where the hash tag begins and ends.
#[inline]
fn hashed(key: &[u8]) -> (usize, usize) {
    let whole = (0, key.len());
    let Some(open) = find(b'{', key) else { return whole };
    match find(b'}', &key[open + 1..]) {
        None | Some(0) => whole,
        Some(close) => (open + 1, open + 1 + close),
    }
}

/// The first place of a byte. Tags stand near the front of keys that are short: what is found in the first 16 bytes is found
/// without a loop and without a branch that depends on the place; the rest is for memchr.
#[inline]
fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    let Some(&first) = bytes.first_chunk() else { return bytes.iter().position(|&b| b == byte) };
    // The second word begins where the first one ends, or so that it ends with the bytes.
    let second_at = (bytes.len() - 8).min(8);
    let second = bytes.get(second_at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    // Where the words overlap they have the same marks.
    let found = u128::from(marks(byte, first)) | u128::from(marks(byte, second)) << (8 * second_at);
    if found != 0 {
        return Some((found.trailing_zeros() / 8) as usize);
    }
    if bytes.len() <= 16 {
        return None;
    }
    memchr(byte, &bytes[16..]).map(|at| 16 + at)
}

/// The high bit of each byte of the word that is this one; the first byte is the lowest.
#[inline(always)]
fn marks(byte: u8, word: [u8; 8]) -> u64 {
    const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let zero_where_equal = u64::from_le_bytes(word) ^ (u64::from(byte) * 0x0101_0101_0101_0101);
    // Adding does not carry from one byte into the next.
    !(((zero_where_equal & LOW_BITS) + LOW_BITS) | zero_where_equal | LOW_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As servers of four versions answered CLUSTER KEYSLOT.
    #[test]
    fn vectors_of_servers() {
        for (key, expected, hashed) in [
            (&b""[..], 0, &b""[..]),
            (b"foo", 12182, b"foo"),
            (b"bar", 5061, b"bar"),
            (b"{}", 15257, b"{}"),
            (b"{}a", 10875, b"{}a"),
            (b"a{}", 6082, b"a{}"),
            (b"{}{a}", 13650, b"{}{a}"),
            (b"{a}", 15495, b"a"),
            (b"x{a}y{b}", 15495, b"a"),
            (b"{a}{b}", 15495, b"a"),
            (b"{{a}}", 10276, b"{a"),
            (b"{a", 10276, b"{a"),
            (b"foo{{bar}}zap", 4015, b"{bar"),
            (b"a}b{", 6027, b"a}b{"),
            (b"}{", 12793, b"}{"),
            (b"{\0}", 0, b"\0"),
        ] {
            assert_eq!(hash_tag(key), hashed, "{}", key.escape_ascii());
            assert_eq!(slot(key), expected, "{}", key.escape_ascii());
        }
    }

    /// The rule, word by word.
    fn spelled_out(key: &[u8]) -> &[u8] {
        for open in 0..key.len() {
            if key[open] != b'{' {
                continue;
            }
            for close in open + 1..key.len() {
                if key[close] == b'}' {
                    return if close == open + 1 { key } else { &key[open + 1..close] };
                }
            }
            return key;
        }
        key
    }

    proptest! {
        /// The fast ways for keys of 16 bytes and more, with few braces and with many.
        #[test]
        fn slots_agree_with_the_rule(
            key in prop::collection::vec(prop::sample::select(b"abcdefghijklmnopqr\xff\0{}{}".to_vec()), 0..90),
            plain in prop::collection::vec(any::<u8>(), 0..40),
            open in 0usize..40, close in 0usize..40,
        ) {
            let mut tagged = plain.clone();
            for (at, brace) in [(open, b'{'), (open + close, b'}')] {
                tagged.insert(at.min(tagged.len()), brace);
            }
            for key in [key, plain, tagged] {
                let part = spelled_out(&key);
                prop_assert_eq!(slot(&key), crc16(part, 0, part.len()) % SLOTS);
            }
        }

        #[test]
        fn agrees_with_the_rule(key in prop::collection::vec(prop::sample::select(b"{}ab\0".to_vec()), 0..12)) {
            prop_assert_eq!(hash_tag(&key), spelled_out(&key));
            prop_assert!(slot(&key) < SLOTS);
        }
    }

    /// Many braces cost no more than other bytes: no brace is looked at twice.
    #[test]
    fn long_keys_of_braces() {
        let key = b"{".repeat(8 << 20);
        assert_eq!(hash_tag(&key), key);
        let key = b"}{".repeat(4 << 20);
        assert_eq!(hash_tag(&key), key);
    }
}
