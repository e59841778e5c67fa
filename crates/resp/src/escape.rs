//! Bytes as text and back, without loss.
//!
//! Keys and values are bytes; logs and JSON are text. The rule: a backslash is written `\\`, a byte that is not part of
//! UTF-8 is written `\xHH`, everything else stays as it is. So ordinary text is unchanged, and every text that
//! [`escape`] gave is turned back into the same bytes by [`unescape`].
//!
//! ```
//! use keyferry_resp::escape::{escape, unescape};
//!
//! assert_eq!(escape("ключ:1".as_bytes()), "ключ:1");
//! assert_eq!(escape(b"a\\b\xff"), r"a\\b\xff");
//! assert_eq!(unescape(r"a\\b\xff").unwrap(), b"a\\b\xff");
//! ```

use std::borrow::Cow;
use std::fmt::Write;

/// Writes bytes as text. Borrows if there is nothing to escape.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && memchr::memchr(b'\\', bytes).is_none()
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                out.push('\\');
            }
            out.push(c);
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    Cow::Owned(out)
}

/// Reads what [`escape`] wrote. `None` if a backslash is followed by anything but `\` or `xHH`.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escaped) = rest.split_at(at);
        out.extend_from_slice(plain);
        rest = match escaped {
            [_, b'\\', after @ ..] => {
                out.push(b'\\');
                after
            }
            [_, b'x', high, low, after @ ..] => {
                out.push(hex(*high)? << 4 | hex(*low)?);
                after
            }
            _ => return None,
        };
    }
    out.extend_from_slice(rest);
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_escape_never_writes_is_refused() {
        for bad in [r"\", r"\n", r"\x", r"\x1", r"\xg0", r"a\"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn text_without_backslash_is_unchanged(text in "[^\\\\]*") {
            prop_assert_eq!(&escape(text.as_bytes()), &text);
        }
    }
}
