//! Bytes as text for terminals, tables and logs.

use std::borrow::Cow;
use std::fmt::Write;

use keyferry_resp::escape::escape;

/// Bytes as one line of text that is safe on a terminal: as [`keyferry_resp::escape`] has it, and control characters, those
/// that change the direction of text and those that break lines are written as the bytes they consist of, `\xHH`. So
/// ordinary text is unchanged but for backslashes, which are doubled, and [`keyferry_resp::escape::unescape`] gives back
/// the bytes.
///
/// ```
/// use keyferry_files::text::line;
/// use keyferry_resp::escape::unescape;
///
/// assert_eq!(line("ключ:1".as_bytes()), "ключ:1");
/// assert_eq!(line(b"\x1b[31m\\\xff\n"), r"\x1b[31m\\\xff\x0a");
/// assert_eq!(unescape(&line(b"\x1b[31m\\\xff\n")).unwrap(), b"\x1b[31m\\\xff\n");
/// ```
pub fn line(bytes: &[u8]) -> Cow<'_, str> {
    let text = escape(bytes);
    if !text.contains(is_unsafe) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{byte:02x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The same, cut to so many characters with an ellipsis at the end.
pub fn short_line(bytes: &[u8], chars: usize) -> String {
    // A character has four bytes at most, so nothing behind these can be shown.
    let cut = &bytes[..bytes.len().min(chars.saturating_mul(4).saturating_add(4))];
    let text = line(cut);
    if cut.len() == bytes.len() && text.chars().count() <= chars {
        return text.into_owned();
    }
    let mut out: String = text.chars().take(chars.saturating_sub(1)).collect();
    out.push('…');
    out
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{061C}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use keyferry_resp::escape::unescape;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_names_are_cut() {
        assert_eq!(short_line(b"abcdef", 6), "abcdef");
        assert_eq!(short_line(b"abcdef", 5), "abcd…");
        assert_eq!(short_line(&b"\xFF".repeat(1 << 20), 8).chars().count(), 8);
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)]) {
            let text = line(&bytes);
            prop_assert!(!text.contains(char::is_control));
            prop_assert_eq!(unescape(&text).unwrap(), bytes);
        }
    }
}
