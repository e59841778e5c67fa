//! Bytes as the text of a JSON string, and back.

/// What stands for a byte that is no text: U+FFFD, then two hexadecimal digits.
const MARK: &str = "\u{FFFD}";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends bytes as what stands between the quotes of a JSON string.
///
/// The rule: valid UTF-8 is written as it is, with the escapes that JSON demands. Every byte that is not part of valid UTF-8
/// is written as U+FFFD (the replacement character) and two hexadecimal digits, and so is each byte of a U+FFFD that is
/// in the data. So ordinary text, backslashes and quotes included, reaches the reader of the JSON unchanged, and
/// [`bytes_of_text`] gives back the bytes of any string.
///
/// ```
/// use keyferry_files::json::{bytes_of_text, push_text};
///
/// let mut out = Vec::new();
/// push_text(&mut out, "ключ \"1\"".as_bytes());
/// assert_eq!(out, "ключ \\\"1\\\"".as_bytes());
/// out.clear();
/// push_text(&mut out, b"a\xFF\n");
/// assert_eq!(out, "a\u{FFFD}ff\\n".as_bytes());
/// assert_eq!(bytes_of_text("a\u{FFFD}ff\n").unwrap(), b"a\xFF\n");
/// ```
#[inline]
pub fn push_text(out: &mut Vec<u8>, bytes: &[u8]) {
    if is_clean(bytes) {
        push_bytes(out, bytes);
    } else {
        push_special(out, bytes);
    }
}

/// Gives the bytes of a text that [`push_text`] wrote, after JSON's own escapes were undone. `None` when a U+FFFD is not
/// followed by two hexadecimal digits.
pub fn bytes_of_text(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split(MARK);
    bytes.extend_from_slice(pieces.next()?.as_bytes());
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        // `from_str_radix` would take a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

/// A string that comes in pieces, which may cut characters in two.
#[derive(Debug, Default)]
pub(crate) struct TextPieces {
    /// The start of a character.
    held: [u8; 4],
    len: usize,
}

impl TextPieces {
    pub(crate) fn push(&mut self, out: &mut Vec<u8>, mut piece: &[u8]) {
        if self.len > 0 {
            let wanted = char_len(self.held[0]);
            while self.len < wanted {
                match piece.split_first() {
                    Some((&byte @ 0x80..0xC0, rest)) => {
                        self.held[self.len] = byte;
                        self.len += 1;
                        piece = rest;
                    }
                    Some(_) => break,
                    None => return,
                }
            }
            self.finish(out);
        }
        let whole = piece.len() - unfinished(piece);
        let (now, later) = piece.split_at(whole);
        push_text(out, now);
        self.held[..later.len()].copy_from_slice(later);
        self.len = later.len();
    }

    /// To be called after the last piece.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        push_text(out, &self.held[..self.len]);
        self.len = 0;
    }
}

/// How many bytes a character has that starts with this one.
fn char_len(first: u8) -> usize {
    match first {
        0xC2..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0..0xF5 => 4,
        _ => 1,
    }
}

/// How many bytes at the end are the start of a character whose rest is missing.
fn unfinished(bytes: &[u8]) -> usize {
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        if *byte & 0xC0 != 0x80 {
            return if char_len(*byte) > back + 1 { back + 1 } else { 0 };
        }
    }
    0
}

/// Whether all of it is ASCII that needs no escape.
#[inline]
fn is_clean(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut dirty = words.iter().fold(0, |dirty, word| dirty | dirty_bits(u64::from_le_bytes(*word)));
    if let Some(last) = bytes.last_chunk::<8>() {
        // The rest, and bytes seen already.
        dirty |= dirty_bits(u64::from_le_bytes(*last));
    } else if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        dirty |= dirty_bits(u64::from(first) | u64::from(last) << 32);
    } else {
        let word = rest.iter().fold(0x2020_2020_2020_2020, |word, byte| word << 8 | u64::from(*byte));
        dirty |= dirty_bits(word);
    }
    dirty == 0
}

/// Not zero when any byte is below 0x20, a quote, a backslash, or above 0x7F.
#[inline]
fn dirty_bits(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    // A byte that is smaller than what is taken from it, or becomes zero and then less, gets its highest bit. So may the
    // one above it, which does not matter.
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ (ONES * 0x22)).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * 0x5C)).wrapping_sub(ONES);
    (word | control | quote | backslash) & (ONES * 0x80)
}

/// Appends bytes; short ones without a call.
#[inline]
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) if bytes.len() <= 16 => {
            out.extend_from_slice(first);
            out.truncate(out.len() + bytes.len() - 16);
            out.extend_from_slice(last);
        }
        (None, _) => bytes.iter().for_each(|byte| out.push(*byte)),
        _ => out.extend_from_slice(bytes),
    }
}

#[inline(never)]
fn push_special(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        push_utf8(out, chunk.valid().as_bytes());
        for byte in chunk.invalid() {
            push_byte(out, *byte);
        }
    }
}

/// Bytes that are known to be UTF-8.
fn push_utf8(out: &mut Vec<u8>, mut bytes: &[u8]) {
    const PLAIN: [bool; 256] = {
        let mut plain = [true; 256];
        let mut byte = 0;
        while byte < 0x20 {
            plain[byte] = false;
            byte += 1;
        }
        plain[b'"' as usize] = false;
        plain[b'\\' as usize] = false;
        // The first byte of U+FFFD.
        plain[0xEF] = false;
        plain
    };
    loop {
        let run = bytes.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(bytes.len());
        out.extend_from_slice(&bytes[..run]);
        bytes = match &bytes[run..] {
            [] => return,
            [0xEF, 0xBF, 0xBD, rest @ ..] => {
                [0xEF, 0xBF, 0xBD].into_iter().for_each(|byte| push_byte(out, byte));
                rest
            }
            [byte, rest @ ..] => {
                match byte {
                    b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    b'\t' => out.extend_from_slice(b"\\t"),
                    0x20.. => out.push(*byte),
                    _ => {
                        out.extend_from_slice(b"\\u00");
                        push_hex(out, *byte);
                    }
                }
                rest
            }
        };
    }
}

fn push_byte(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(MARK.as_bytes());
    push_hex(out, byte);
}

/// Appends the two digits of a byte.
pub(crate) fn push_hex(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![b'"'];
        push_text(&mut out, bytes);
        out.push(b'"');
        out
    }

    /// Bytes that are often text, often special, sometimes anything.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[ -~]{0,20}".prop_map(String::into_bytes),
            "\\PC{0,5}".prop_map(String::into_bytes),
            prop::sample::select(vec![
                b"\"".to_vec(),
                b"\\".to_vec(),
                b"\n\0\x1F\x7F".to_vec(),
                "\u{FFFD}".into(),
                "\u{FFFC}я\u{10FFFF}".into(),
                b"\xEF\xBF".to_vec(),
                b"\xED\xA0\x80".to_vec(),
                b"\xF0\x9F".to_vec(),
            ]),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn what_was_never_written_is_refused() {
        for bad in ["\u{FFFD}", "\u{FFFD}f", "\u{FFFD}+1", "\u{FFFD}fя", "a\u{FFFD}\u{FFFD}ff"] {
            assert_eq!(bytes_of_text(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_bytes_come_back(bytes in bytes()) {
            let text: String = serde_json::from_slice(&quoted(&bytes)).unwrap();
            prop_assert_eq!(bytes_of_text(&text).unwrap(), bytes);
        }

        #[test]
        fn text_is_unchanged(text in "[^\u{FFFD}]*") {
            let read: String = serde_json::from_slice(&quoted(text.as_bytes())).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn pieces_make_the_same(bytes in bytes(), cuts in prop::collection::vec(0usize..8, 0..40)) {
            let mut pieces = TextPieces::default();
            let mut out = vec![b'"'];
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(&mut out, piece);
                rest = after;
            }
            pieces.push(&mut out, rest);
            pieces.finish(&mut out);
            out.push(b'"');
            prop_assert_eq!(out, quoted(&bytes));
        }

        #[test]
        fn clean_means_that_nothing_is_special(bytes in bytes(), short in prop::collection::vec(any::<u8>(), 0..20)) {
            for bytes in [bytes, short] {
                let special = |byte: &u8| !matches!(byte, 0x20..0x80) || matches!(byte, b'"' | b'\\');
                prop_assert_eq!(is_clean(&bytes), !bytes.iter().any(special));
                let mut out = b"before".to_vec();
                push_bytes(&mut out, &bytes);
                prop_assert_eq!(out, [b"before", &bytes[..]].concat());
            }
        }

        #[test]
        fn every_byte_is_judged_in_every_place(byte: u8, before in 0usize..20, after in 0usize..20) {
            let bytes = [b"a".repeat(before), vec![byte], b"~".repeat(after)].concat();
            prop_assert_eq!(is_clean(&bytes), matches!(byte, 0x20..0x80) && !matches!(byte, b'"' | b'\\'));
        }
    }
}
