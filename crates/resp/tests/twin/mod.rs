//! The slow twins of the decoders: recursive, over whole inputs, as plain as the rules allow. They say what is right.

#![allow(dead_code, reason = "each test binary uses its part")]

use keyferry_resp::{Double, Frame, Limits, Null};
use nom::branch::alt;
use nom::bytes::streaming::{tag, take};
use nom::character::streaming::{char, one_of};
use nom::combinator::{opt, recognize, value};
use nom::multi::many1_count;
use nom::sequence::{pair, terminated};
use nom::{IResult, Parser};

/// What a twin makes of an input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict<T> {
    /// A value, and where it ends.
    Value(T, usize),
    /// The start of a value, perhaps.
    Incomplete,
    Wrong,
}

use Verdict::{Incomplete, Value, Wrong};

macro_rules! get {
    ($verdict:expr) => {
        match $verdict {
            Value(value, end) => (value, end),
            Incomplete => return Incomplete,
            Wrong => return Wrong,
        }
    };
}

/// The first frame of `input`.
pub(crate) fn frame(input: &[u8], limits: &Limits) -> Verdict<Frame> {
    match reply(input, 0, limits, Place { depth: 0, outermost: true, streamed: false }) {
        Value(Item::Frame(frame), end) => Value(frame, end),
        Value(Item::End, _) => Wrong,
        Incomplete => Incomplete,
        Wrong => Wrong,
    }
}

/// All frames of `input`, and what comes behind the last one: `Incomplete` (also when nothing does) or `Wrong`.
pub(crate) fn frames(mut input: &[u8], limits: &Limits) -> (Vec<Frame>, Verdict<()>) {
    let mut frames = Vec::new();
    loop {
        match frame(input, limits) {
            Value(frame, end) => {
                frames.push(frame);
                input = &input[end..];
            }
            Incomplete => return (frames, Incomplete),
            Wrong => return (frames, Wrong),
        }
    }
}

enum Item {
    Frame(Frame),
    End,
}

/// Where an element stands.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    /// Nothing but attributes around it.
    outermost: bool,
    /// A streamed aggregate somewhere around it.
    streamed: bool,
}

fn reply(input: &[u8], at: usize, limits: &Limits, place: Place) -> Verdict<Item> {
    let Some(&kind) = input.get(at) else { return Incomplete };
    let Place { depth, outermost, streamed } = place;
    let inside = Place { depth: depth + 1, outermost: false, streamed };
    if kind == b'.' && !streamed {
        return Wrong;
    }
    let max = match kind {
        b'+' | b'-' | b'(' | b',' => limits.max_line_bytes(),
        b':' | b'$' | b'*' | b'_' | b'#' | b'!' | b'=' | b'%' | b'~' | b'|' | b'>' | b'.' => 20,
        _ => return Wrong,
    };
    let (text, end) = get!(line(input, at + 1, max));
    let bytes = || bytes::Bytes::copy_from_slice(text);
    let number = |text: &[u8]| -> Option<usize> { canonical(text).and_then(|n| usize::try_from(n).ok()) };
    let one = |frame| Value(Item::Frame(frame), end);
    match (kind, text) {
        (b'+', _) => one(Frame::Simple(bytes())),
        (b'-', _) => one(Frame::Error(bytes())),
        (b':', [b'+', rest @ ..]) if rest.first() != Some(&b'-') => match canonical(rest) {
            Some(n) => one(Frame::Integer(n)),
            None => Wrong,
        },
        (b':', _) => match canonical(text) {
            Some(n) => one(Frame::Integer(n)),
            None => Wrong,
        },
        (b'_', b"") => one(Frame::Null(Null::Resp3)),
        (b'#', b"t") => one(Frame::Boolean(true)),
        (b'#', b"f") => one(Frame::Boolean(false)),
        (b',', _) => match double(text) {
            Some(d) => one(Frame::Double(Double::new(d))),
            None => Wrong,
        },
        (b'(', _) => {
            let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Wrong;
            }
            one(Frame::BigNumber(bytes()))
        }
        (b'$', b"-1") => one(Frame::Null(Null::Bulk)),
        (b'*', b"-1") => one(Frame::Null(Null::Array)),
        (b'$', b"?") => streamed_string(input, end, limits),
        (b'*' | b'~' | b'%', b"?") => {
            if depth >= limits.max_nesting() {
                return Wrong;
            }
            let mut items = Vec::new();
            let mut at = end;
            loop {
                match get!(reply(input, at, limits, Place { streamed: true, ..inside })) {
                    (Item::Frame(frame), end) => {
                        items.push(frame);
                        at = end;
                    }
                    (Item::End, end) => {
                        return match aggregate(kind, items) {
                            Some(frame) => Value(Item::Frame(frame), end),
                            None => Wrong,
                        };
                    }
                }
            }
        }
        (b'.', b"") => Value(Item::End, end),
        (b'$' | b'!' | b'=', _) => {
            let Some(len) = number(text) else { return Wrong };
            if len > limits.max_bulk_bytes() || (kind == b'=' && len < 4) {
                return Wrong;
            }
            let (payload, end) = get!(payload(input, end, len));
            let payload = bytes::Bytes::copy_from_slice(payload);
            let frame = match kind {
                b'$' => Frame::Bulk(payload),
                b'!' => Frame::BulkError(payload),
                _ if payload[3] != b':' => return Wrong,
                _ => Frame::Verbatim { format: payload[..3].try_into().unwrap(), text: payload.slice(4..) },
            };
            Value(Item::Frame(frame), end)
        }
        (b'*' | b'~' | b'>' | b'%' | b'|', _) => {
            let Some(count) = number(text) else { return Wrong };
            let count = if matches!(kind, b'%' | b'|') { count.saturating_mul(2) } else { count };
            if (kind == b'>' && !outermost) || depth >= limits.max_nesting() || count > limits.max_elements()
            {
                return Wrong;
            }
            let mut items = Vec::new();
            let mut at = end;
            for _ in 0..count {
                match get!(reply(input, at, limits, inside)) {
                    (Item::Frame(frame), end) => {
                        items.push(frame);
                        at = end;
                    }
                    (Item::End, _) => return Wrong,
                }
            }
            if kind != b'|' {
                return match aggregate(kind, items) {
                    Some(frame) => Value(Item::Frame(frame), at),
                    None => Wrong,
                };
            }
            match get!(reply(input, at, limits, Place { outermost, ..inside })) {
                (Item::Frame(value), end) => {
                    let Some(Frame::Map(attributes)) = aggregate(b'%', items) else { return Wrong };
                    Value(Item::Frame(Frame::Attributed { attributes, value: Box::new(value) }), end)
                }
                (Item::End, _) => Wrong,
            }
        }
        _ => Wrong,
    }
}

fn aggregate(kind: u8, items: Vec<Frame>) -> Option<Frame> {
    Some(match kind {
        b'~' => Frame::Set(items),
        b'>' => Frame::Push(items),
        b'%' => {
            let (pairs, rest) = items.as_chunks::<2>();
            if !rest.is_empty() {
                return None;
            }
            Frame::Map(pairs.iter().cloned().map(|[k, v]| (k, v)).collect())
        }
        _ => Frame::Array(items),
    })
}

fn streamed_string(input: &[u8], mut at: usize, limits: &Limits) -> Verdict<Item> {
    let mut whole = Vec::new();
    loop {
        match input.get(at) {
            None => return Incomplete,
            Some(b';') => {}
            Some(_) => return Wrong,
        }
        let (text, end) = get!(line(input, at + 1, 20));
        let Some(len) = canonical(text).and_then(|n| usize::try_from(n).ok()) else { return Wrong };
        if len == 0 {
            return Value(Item::Frame(Frame::Bulk(whole.into())), end);
        }
        if len.saturating_add(whole.len()) > limits.max_bulk_bytes() {
            return Wrong;
        }
        let (chunk, end) = get!(payload(input, end, len));
        whole.extend_from_slice(chunk);
        at = end;
    }
}

/// The text up to CRLF, and the index behind it.
fn line(input: &[u8], at: usize, max: usize) -> Verdict<&[u8]> {
    let rest = &input[at..];
    match rest.iter().take(max + 1).position(|c| matches!(c, b'\r' | b'\n')) {
        None if rest.len() > max => Wrong,
        None => Incomplete,
        Some(i) => match (rest[i], rest.get(i + 1)) {
            (b'\r', None) => Incomplete,
            (b'\r', Some(b'\n')) => Value(&rest[..i], at + i + 2),
            _ => Wrong,
        },
    }
}

fn payload(input: &[u8], at: usize, len: usize) -> Verdict<&[u8]> {
    match input.get(at..at + len + 2) {
        None => Incomplete,
        Some(bytes) if bytes.ends_with(b"\r\n") => Value(&bytes[..len], at + len + 2),
        Some(_) => Wrong,
    }
}

/// An integer that is written as the standard library would write it.
fn canonical(text: &[u8]) -> Option<i64> {
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.to_string().as_bytes() == text).then_some(value)
}

/// The grammar of doubles, by nom.
fn double(text: &[u8]) -> Option<f64> {
    fn digits(input: &[u8]) -> IResult<&[u8], &[u8]> {
        recognize(many1_count(one_of("0123456789"))).parse(input)
    }
    fn number(input: &[u8]) -> IResult<&[u8], Option<f64>> {
        let special = pair(
            opt(one_of("+-")),
            alt((value(f64::INFINITY, tag(&b"inf"[..])), value(f64::NAN, tag(&b"nan"[..])))),
        )
        .map(|(sign, value)| Some(if sign == Some('-') { -value } else { value }));
        let finite = recognize((
            opt(one_of("+-")),
            digits,
            opt(pair(char('.'), digits)),
            opt((one_of("eE"), opt(one_of("+-")), digits)),
        ))
        .map(|text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok());
        terminated(alt((special, finite)), char('$')).parse(input)
    }
    let closed = [text, b"$"].concat();
    match number(&closed) {
        Ok(([], value)) => value,
        _ => None,
    }
}

/// One command: its bytes and its arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) raw: Vec<u8>,
    pub(crate) args: Vec<Vec<u8>>,
}

/// All commands of `input`, the newlines skipped, and what comes behind the last command.
pub(crate) fn commands(input: &[u8], limits: &Limits) -> (Vec<Request>, usize, Verdict<()>) {
    let mut commands = Vec::new();
    let mut newlines = 0;
    let mut at = 0;
    loop {
        match command(input, at, limits) {
            Value(args, end) => {
                let raw = input[at..end].to_vec();
                at = end;
                match args {
                    Some(args) => commands.push(Request { raw, args }),
                    None if raw == b"\n" || raw == b"\r\n" => newlines += raw.len(),
                    None => {}
                }
            }
            Incomplete => return (commands, newlines, Incomplete),
            Wrong => return (commands, newlines, Wrong),
        }
    }
}

/// One command, or `None` for something that is skipped.
fn command(input: &[u8], at: usize, limits: &Limits) -> Verdict<Option<Vec<Vec<u8>>>> {
    let Some(&first) = input.get(at) else { return Incomplete };
    if first != b'*' {
        let rest = &input[at..];
        let Some(len) = rest.iter().take(limits.max_inline_bytes() + 1).position(|&c| c == b'\n') else {
            return if rest.len() > limits.max_inline_bytes() { Wrong } else { Incomplete };
        };
        let line = rest[..len].strip_suffix(b"\r").unwrap_or(&rest[..len]);
        return match inline(line) {
            None => Wrong,
            Some(args) if args.is_empty() => Value(None, at + len + 1),
            Some(args) => Value(Some(args), at + len + 1),
        };
    }
    let (text, mut at) = get!(line(input, at + 1, 20));
    let Some(count) = canonical(text) else { return Wrong };
    if count <= 0 {
        return Value(None, at);
    }
    if count > limits.max_elements() as i64 {
        return Wrong;
    }
    let mut args = Vec::new();
    for _ in 0..count {
        match input.get(at) {
            None => return Incomplete,
            Some(b'$') => {}
            Some(_) => return Wrong,
        }
        let (text, end) = get!(line(input, at + 1, 20));
        let Some(len) = canonical(text).and_then(|n| usize::try_from(n).ok()) else { return Wrong };
        if len > limits.max_bulk_bytes() {
            return Wrong;
        }
        let (arg, end) = get!(payload(input, end, len));
        args.push(arg.to_vec());
        at = end;
    }
    Value(Some(args), at)
}

/// The arguments of a line, by nom; `None` if quotes are unbalanced.
fn inline(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let space = |c: u8| matches!(c, b' ' | b'\t' | b'\r' | 0x0b | 0x0c);
    let line = line.split(|&c| c == 0).next().unwrap_or_default();
    // Streaming parsers need an end to see: a newline ends every word, and cannot be in the line itself.
    let closed = [line, b"\n"].concat();
    let mut rest = &closed[..];
    let mut args = Vec::new();
    loop {
        while space(rest[0]) {
            rest = &rest[1..];
        }
        if rest == b"\n" {
            return Some(args);
        }
        let mut arg = Vec::new();
        loop {
            match rest[0] {
                b' ' | b'\t' | b'\r' | b'\n' => break,
                quote @ (b'"' | b'\'') => {
                    rest = &rest[1..];
                    loop {
                        if rest == b"\n" {
                            return None;
                        }
                        if rest[0] == quote {
                            rest = &rest[1..];
                            break;
                        }
                        let (behind, c) = quoted(quote, rest).ok()?;
                        arg.push(c);
                        rest = behind;
                    }
                    if !space(rest[0]) && rest != b"\n" {
                        return None;
                    }
                    break;
                }
                c => {
                    arg.push(c);
                    rest = &rest[1..];
                }
            }
        }
        args.push(arg);
    }
}

/// One byte of a quoted text.
fn quoted(quote: u8, input: &[u8]) -> IResult<&[u8], u8> {
    let byte = |input| take(1usize).map(|b: &[u8]| b[0]).parse(input);
    if quote == b'\'' {
        return alt((value(b'\'', tag(&b"\\'"[..])), byte)).parse(input);
    }
    let digit = || one_of("0123456789abcdefABCDEF").map(|c| c.to_digit(16).unwrap() as u8);
    let hex = (tag(&b"\\x"[..]), digit(), digit()).map(|(_, high, low)| high * 16 + low);
    let named = |name: &'static [u8], c: u8| value(c, tag(name));
    // A backslash before the end of the line stands for itself, and the quote stays open.
    if input == b"\\\n" {
        return Ok((&input[1..], b'\\'));
    }
    alt((
        hex,
        named(b"\\n", b'\n'),
        named(b"\\r", b'\r'),
        named(b"\\t", b'\t'),
        named(b"\\b", 8),
        named(b"\\a", 7),
        (char('\\'), byte).map(|(_, c)| c),
        byte,
    ))
    .parse(input)
}
