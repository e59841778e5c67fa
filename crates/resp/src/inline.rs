//! Splitting inline commands as servers do.

use crate::command::Span;

/// What a line came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// The arguments lie in the line at the spans.
    InLine,
    /// The arguments lie in the text, as quotes or escapes had to be taken off.
    InText,
    /// A quote is not closed, or something stands right behind one that is.
    Unbalanced,
}

/// Splits a line (without its end) into `spans`, which are counted from `base` bytes before the line, or into `text`.
///
/// The rules of the servers: arguments are separated by blanks; a NUL ends the line; `"…"` knows
/// `\n \r \t \b \a \\ \" \xHH` and takes any other escaped byte as itself; `'…'` knows `\'`; a quote may begin inside
/// an argument, but must end with it.
pub(crate) fn split(line: &[u8], base: usize, spans: &mut Vec<Span>, text: &mut Vec<u8>) -> Split {
    let line = match memchr::memchr(0, line) {
        Some(nul) => line.get(..nul).unwrap_or_default(),
        None => line,
    };
    if memchr::memchr2(b'"', b'\'', line).is_some() {
        return unquote(line, spans, text);
    }
    let mut at = 0;
    while let Some(start) = line.get(at..).and_then(|rest| rest.iter().position(|&c| !is_space(c))) {
        let start = at + start;
        let len = line[start..].iter().position(|&c| ends_word(c)).unwrap_or(line.len() - start);
        spans.push(Span::new(base + start, len));
        at = start + len;
    }
    Split::InLine
}

fn unquote(line: &[u8], spans: &mut Vec<Span>, text: &mut Vec<u8>) -> Split {
    let mut rest = line;
    loop {
        while let [c, after @ ..] = rest
            && is_space(*c)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Split::InText;
        }
        let start = text.len();
        rest = match word(rest, text) {
            Some(rest) => rest,
            None => return Split::Unbalanced,
        };
        spans.push(Span::new(start, text.len() - start));
    }
}

/// Moves one argument into `text` and gives what is behind it.
fn word<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return Some(rest),
            [c, ..] if ends_word(*c) => return Some(rest),
            [b'"', after @ ..] => return closed(double_quoted(after, text)?),
            [b'\'', after @ ..] => return closed(single_quoted(after, text)?),
            [c, after @ ..] => {
                text.push(*c);
                rest = after;
            }
        }
    }
}

/// What is behind a closing quote, which must be a blank or nothing.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|&c| is_space(c)).then_some(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                text.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', c, after @ ..] => {
                text.push(match c {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                after
            }
            [c, after @ ..] => {
                text.push(*c);
                after
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [] => return None,
            [b'\'', after @ ..] => return Some(after),
            [b'\\', b'\'', after @ ..] => {
                text.push(b'\'');
                after
            }
            [c, after @ ..] => {
                text.push(*c);
                after
            }
        }
    }
}

/// A byte that may stand between arguments.
fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// A byte that ends an unquoted argument: vertical tab and form feed do not.
fn ends_word(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r')
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Option<Vec<Vec<u8>>> {
        let (mut spans, mut text) = (Vec::new(), Vec::new());
        let holder = match split(line.as_bytes(), 0, &mut spans, &mut text) {
            Split::InLine => line.as_bytes(),
            Split::InText => &text,
            Split::Unbalanced => return None,
        };
        Some(spans.iter().map(|span| span.of(holder).to_vec()).collect())
    }

    #[test]
    fn words_and_quotes() {
        for (line, expected) in [
            ("", &[][..]),
            ("   \t ", &[]),
            ("PING", &[&b"PING"[..]]),
            ("  SET a\t b ", &[b"SET", b"a", b"b"]),
            (r#"SET "a b" "x\x41\n\q\"""#, &[b"SET", b"a b", b"xA\nq\""]),
            (r"ECHO 'it\'s' '\n'", &[b"ECHO", b"it's", b"\\n"]),
            (r#"a"b c" """#, &[b"ab c", b""]),
            (r#""\xg1" "\x4""#, &[b"xg1", b"x4"]),
            ("a\\n b", &[b"a\\n", b"b"]),
            ("a b\0 c", &[b"a", b"b"]),
        ] {
            assert_eq!(args(line).unwrap(), expected, "{line:?}");
        }
        for unbalanced in [r#""abc"#, r#""abc"d"#, "'abc", "'a'b", r#""a\"#, r#"a""b"#, "\"a\0\""] {
            assert_eq!(args(unbalanced), None, "{unbalanced:?}");
        }
    }
}
