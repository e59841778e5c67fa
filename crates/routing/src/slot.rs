use memchr::memchr;

use crate::crc16::crc16;

/// How many slots a cluster has: slots are `0..SLOTS`.
pub const SLOTS: u16 = 16_384;

/// The slot of a key.
///
/// ```
/// assert_eq!(keyferry_routing::slot(b"bar"), 5061);
/// ```
#[inline]
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) & (SLOTS - 1)
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
    let Some(open) = memchr(b'{', key) else { return key };
    let inside = &key[open + 1..];
    match memchr(b'}', inside) {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
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
