//! Header lines: where they end, and what they announce.

use memchr::memchr2;

use crate::{DecodeError, Limits, Null, number};

/// The longest text of a number that fits 64 bits, sign included. Longer ones are wrong before their line ends.
pub(crate) const NUMBER_BYTES: usize = 20;

/// Where a line ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LineEnd {
    /// CR at this index, LF behind it.
    At(usize),
    /// Not there yet; search on from this index when there is more.
    More(usize),
    /// More than the allowed number of bytes without an end.
    TooLong,
    /// A CR or LF at this index that is not part of a CRLF.
    Break(usize),
}

/// Finds the CRLF of a line whose text begins at `text` and is at most `max` bytes long. `from` is `text`, or what
/// `More` said before.
///
/// The answer depends on the bytes only, not on where the input was cut: the length is judged before the line end.
pub(crate) fn line_end(input: &[u8], text: usize, from: usize, max: usize) -> LineEnd {
    let end = input.len().min(text.saturating_add(max).saturating_add(1));
    let Some(unseen) = input.get(from..end) else { return LineEnd::More(from) };
    #[cfg(test)]
    looked::at(unseen.len());
    match memchr2(b'\r', b'\n', unseen) {
        None if end - text > max => LineEnd::TooLong,
        None => LineEnd::More(end),
        Some(i) => match (unseen[i], input.get(from + i + 1)) {
            (b'\r', Some(b'\n')) => LineEnd::At(from + i),
            (b'\r', None) => LineEnd::More(from + i),
            _ => LineEnd::Break(from + i),
        },
    }
}

/// Reads `<digits>\r\n` at `input[at..]` if all of it is there and it is a length below ten million as servers write
/// it. Gives the length and the index after the LF; whatever else stands there is left to the careful path.
#[inline(always)]
pub(crate) fn short_length(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let window: &[u8; 9] = input.get(at..)?.first_chunk()?;
    #[cfg(test)]
    looked::at(window.len());
    let first = window[0].wrapping_sub(b'0');
    if first > 9 {
        return None;
    }
    let mut value = usize::from(first);
    let mut i = 1;
    while i < 8 {
        let digit = window[i].wrapping_sub(b'0');
        if digit > 9 {
            let canonical = first != 0 || i == 1;
            return (window[i] == b'\r' && window[i + 1] == b'\n' && canonical)
                .then_some((value, at + i + 2));
        }
        value = value * 10 + usize::from(digit);
        i += 1;
    }
    None
}

/// What the line of a reply announces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Head {
    /// `+`: the text of the line is the value.
    Simple,
    /// `-`: the text of the line is the error.
    Error,
    /// `(`: the text of the line is the number.
    BigNumber,
    Integer(i64),
    Boolean(bool),
    Double(f64),
    Null(Null),
    /// `$`, `!`, `=` with this many bytes behind the line.
    Bulk(u64),
    /// `*`, `~`, `>`, `%`, `|` with this many elements, or pairs, behind the line.
    Aggregate(u64),
    /// `$?`
    StreamedString,
    /// `*?`, `~?`, `%?`
    StreamedAggregate,
    /// `;` with this many bytes behind the line; 0 ends the string.
    Chunk(u64),
    /// `.`: end of a streamed aggregate.
    End,
}

/// How long the text of a line may be, or `None` if `kind` is no type byte.
pub(crate) fn max_text(kind: u8, limits: &Limits) -> Option<usize> {
    match kind {
        b'+' | b'-' | b'(' | b',' => Some(limits.max_line_bytes()),
        b':' | b'$' | b'*' | b'_' | b'#' | b'!' | b'=' | b'%' | b'~' | b'|' | b'>' | b';' | b'.' => {
            Some(NUMBER_BYTES)
        }
        _ => None,
    }
}

/// The error for a line that exceeds [`max_text`].
pub(crate) fn too_long(kind: u8, offset: u64, limits: &Limits) -> DecodeError {
    match kind {
        b'+' | b'-' | b'(' | b',' => DecodeError::LineTooLong { offset, limit: limits.max_line_bytes() },
        b':' | b'_' | b'#' => DecodeError::InvalidValue { offset, byte: kind },
        _ => DecodeError::InvalidLength { offset, byte: kind },
    }
}

/// Reads the text of a whole line. `offset` is that of its type byte.
pub(crate) fn head(kind: u8, text: &[u8], offset: u64) -> Result<Head, DecodeError> {
    #[cfg(test)]
    looked::at(text.len());
    let value = match kind {
        b'+' => Some(Head::Simple),
        b'-' => Some(Head::Error),
        b':' => number::integer(text).map(Head::Integer),
        b',' => number::double(text).map(Head::Double),
        b'(' => number::is_big(text).then_some(Head::BigNumber),
        b'_' => text.is_empty().then_some(Head::Null(Null::Resp3)),
        b'#' => match text {
            b"t" => Some(Head::Boolean(true)),
            b"f" => Some(Head::Boolean(false)),
            _ => None,
        },
        _ => return length_head(kind, text).ok_or(DecodeError::InvalidLength { offset, byte: kind }),
    };
    value.ok_or(DecodeError::InvalidValue { offset, byte: kind })
}

fn length_head(kind: u8, text: &[u8]) -> Option<Head> {
    match (kind, text) {
        (b'$', b"-1") => return Some(Head::Null(Null::Bulk)),
        (b'*', b"-1") => return Some(Head::Null(Null::Array)),
        (b'$', b"?") => return Some(Head::StreamedString),
        (b'*' | b'~' | b'%', b"?") => return Some(Head::StreamedAggregate),
        (b'.', _) => return text.is_empty().then_some(Head::End),
        _ => {}
    }
    let count = u64::try_from(number::canonical(text)?).ok()?;
    match kind {
        b'$' | b'!' | b'=' => Some(Head::Bulk(count)),
        b';' => Some(Head::Chunk(count)),
        _ => Some(Head::Aggregate(count)),
    }
}

/// Counts the bytes that this thread looked at: the proof that small pieces cost no more than large ones.
#[cfg(test)]
pub(crate) mod looked {
    use std::cell::Cell;

    thread_local!(static BYTES: Cell<usize> = const { Cell::new(0) });

    pub(crate) fn at(bytes: usize) {
        BYTES.set(BYTES.get() + bytes);
    }

    pub(crate) fn during(run: impl FnOnce()) -> usize {
        BYTES.set(0);
        run();
        BYTES.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends() {
        assert_eq!(line_end(b"+OK\r\n", 1, 1, 10), LineEnd::At(3));
        assert_eq!(line_end(b"+OK\r", 1, 1, 10), LineEnd::More(3));
        assert_eq!(line_end(b"+OK", 1, 1, 10), LineEnd::More(3));
        assert_eq!(line_end(b"+OK\r\n", 1, 3, 10), LineEnd::At(3));
        assert_eq!(line_end(b"+OK\n", 1, 1, 10), LineEnd::Break(3));
        assert_eq!(line_end(b"+O\rK\r\n", 1, 1, 10), LineEnd::Break(2));
        // Two bytes fit exactly; a third is too many, whether its line has ended or not.
        assert_eq!(line_end(b"+OK\r\n", 1, 1, 2), LineEnd::At(3));
        assert_eq!(line_end(b"+OK", 1, 1, 2), LineEnd::More(3));
        assert_eq!(line_end(b"+OKK", 1, 1, 2), LineEnd::TooLong);
        assert_eq!(line_end(b"+OKK\r\n", 1, 1, 2), LineEnd::TooLong);
    }

    #[test]
    fn short_lengths() {
        assert_eq!(short_length(b"$0\r\nxxxxxx", 1), Some((0, 4)));
        assert_eq!(short_length(b"$123\r\nxxxxxx", 1), Some((123, 6)));
        assert_eq!(short_length(b"$1234567\r\n", 1), Some((1_234_567, 10)));
        for careful in [
            "$12345678\r\nx",
            "$01\r\nxxxxxx",
            "$\r\nxxxxxxx",
            "$-1\r\nxxxxxx",
            "$1\rxxxxxxxx",
            "$1\nxxxxxxxx",
            "$1\r\n",
        ] {
            assert_eq!(short_length(careful.as_bytes(), 1), None, "{careful:?}");
        }
    }
}
