//! Writing RESP into a caller's buffer.
//!
//! [`encode_command`] writes a whole request, [`encode_frame`] a reply. The `write_*` functions are the pieces, for
//! builders that know the number of arguments before they have the arguments themselves.
//!
//! ```
//! use bytes::BytesMut;
//! use keyferry_resp::encode;
//!
//! let mut out = BytesMut::new();
//! encode::write_array_header(&mut out, 2);
//! encode::write_bulk(&mut out, b"GET");
//! encode::write_bulk_header(&mut out, 5);
//! out.extend_from_slice(b"key:1\r\n");
//! assert_eq!(out, "*2\r\n$3\r\nGET\r\n$5\r\nkey:1\r\n");
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Double, Frame, Null};

/// The version of RESP that a connection speaks: 2, or 3 after `HELLO 3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Every server; six types.
    #[default]
    Resp2,
    /// Redis 6.0 and later, on request.
    Resp3,
}

/// Writes a command as an array of bulk strings, the one form that every server reads with any bytes in it.
///
/// No argument at all writes `*0\r\n`, which servers skip without a reply.
///
/// ```
/// let mut out = bytes::BytesMut::new();
/// keyferry_resp::encode_command(&mut out, ["SET", "k", "v"]);
/// assert_eq!(out, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n");
/// ```
pub fn encode_command<I>(out: &mut BytesMut, args: I)
where
    I: IntoIterator<IntoIter: ExactSizeIterator, Item: AsRef<[u8]>>,
{
    encode_args(out, args.into_iter(), |_, _| {});
}

/// Writes a command, and tells of each argument where in `out` it begins and how long it is.
pub(crate) fn encode_args<I>(out: &mut BytesMut, args: I, mut placed: impl FnMut(usize, usize))
where
    I: ExactSizeIterator<Item: AsRef<[u8]>>,
{
    write_array_header(out, args.len());
    // An iterator that gives more or fewer arguments than it announced would put the stream out of step.
    let announced = args.len();
    let mut written = 0;
    for arg in args.take(announced) {
        let arg = arg.as_ref();
        write_bulk(out, arg);
        placed(out.len() - 2 - arg.len(), arg.len());
        written += 1;
    }
    for _ in written..announced {
        write_bulk(out, b"");
        placed(out.len() - 2, 0);
    }
}

/// Writes `*<count>\r\n`.
pub fn write_array_header(out: &mut BytesMut, count: usize) {
    write_header(out, b'*', count as u64);
}

/// Writes `$<len>\r\n`; the caller writes that many bytes and CRLF behind it.
pub fn write_bulk_header(out: &mut BytesMut, len: usize) {
    write_header(out, b'$', len as u64);
}

/// Writes a whole bulk string.
pub fn write_bulk(out: &mut BytesMut, payload: &[u8]) {
    out.reserve(payload.len() + 25);
    write_header(out, b'$', payload.len() as u64);
    out.put_slice(payload);
    out.put_slice(b"\r\n");
}

/// Writes a bulk string that is the decimal text of `value`, as commands take their numbers.
pub fn write_bulk_int(out: &mut BytesMut, value: i64) {
    write_bulk(out, itoa::Buffer::new().format(value).as_bytes());
}

/// How many bytes [`write_bulk`] writes for a payload of this length, for those who count before they write.
pub const fn bulk_len(payload: usize) -> usize {
    let digits = match payload.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    };
    1 + digits + 2 + payload + 2
}

/// Writes a frame as a server would send it.
///
/// With [`Protocol::Resp3`] every frame is written as it is, nulls of RESP2 included. With [`Protocol::Resp2`] the
/// types that it lacks are written as servers write them for such clients: maps, sets and pushes as flat arrays,
/// doubles, big numbers and verbatim strings as bulk strings, booleans as `:1` and `:0`, a RESP3 null as `$-1`, bulk
/// errors as error lines; attributes are left out.
///
/// CR and LF cannot stand in a line: there they are written as blanks, as servers do.
///
/// The depth of recursion is that of the frame. One that was decoded is not deeper than
/// [`Limits::nesting`](crate::Limits::nesting).
pub fn encode_frame(out: &mut BytesMut, frame: &Frame, protocol: Protocol) {
    let resp3 = protocol == Protocol::Resp3;
    match frame {
        Frame::Simple(text) => write_line(out, b'+', text),
        Frame::Error(text) => write_line(out, b'-', text),
        Frame::Integer(value) => write_text(out, b':', itoa::Buffer::new().format(*value)),
        Frame::Bulk(payload) => write_bulk(out, payload),
        Frame::Null(Null::Bulk) => out.put_slice(b"$-1\r\n"),
        Frame::Null(Null::Array) => out.put_slice(b"*-1\r\n"),
        Frame::Null(Null::Resp3) => out.put_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
        Frame::Array(items) => write_list(out, b'*', items, protocol),
        Frame::Set(items) => write_list(out, if resp3 { b'~' } else { b'*' }, items, protocol),
        Frame::Push(items) => write_list(out, if resp3 { b'>' } else { b'*' }, items, protocol),
        Frame::Boolean(value) if resp3 => out.put_slice(if *value { b"#t\r\n" } else { b"#f\r\n" }),
        Frame::Boolean(value) => out.put_slice(if *value { b":1\r\n" } else { b":0\r\n" }),
        Frame::Double(value) if resp3 => write_text(out, b',', &double_text(*value)),
        Frame::Double(value) => write_bulk(out, double_text(*value).as_bytes()),
        Frame::BigNumber(digits) if resp3 => write_line(out, b'(', digits),
        Frame::BigNumber(digits) => write_bulk(out, digits),
        Frame::BulkError(text) if resp3 => {
            write_header(out, b'!', text.len() as u64);
            out.put_slice(text);
            out.put_slice(b"\r\n");
        }
        Frame::BulkError(text) => write_line(out, b'-', text),
        Frame::Verbatim { format, text } if resp3 => {
            write_header(out, b'=', text.len() as u64 + 4);
            out.put_slice(format);
            out.put_u8(b':');
            out.put_slice(text);
            out.put_slice(b"\r\n");
        }
        Frame::Verbatim { text, .. } => write_bulk(out, text),
        Frame::Map(pairs) if resp3 => {
            write_header(out, b'%', pairs.len() as u64);
            write_pairs(out, pairs, protocol);
        }
        Frame::Map(pairs) => {
            write_header(out, b'*', pairs.len() as u64 * 2);
            write_pairs(out, pairs, protocol);
        }
        Frame::Attributed { attributes, value } => {
            if resp3 {
                write_header(out, b'|', attributes.len() as u64);
                write_pairs(out, attributes, protocol);
            }
            encode_frame(out, value, protocol);
        }
    }
}

fn write_list(out: &mut BytesMut, kind: u8, items: &[Frame], protocol: Protocol) {
    write_header(out, kind, items.len() as u64);
    for item in items {
        encode_frame(out, item, protocol);
    }
}

fn write_pairs(out: &mut BytesMut, pairs: &[(Frame, Frame)], protocol: Protocol) {
    for (key, value) in pairs {
        encode_frame(out, key, protocol);
        encode_frame(out, value, protocol);
    }
}

fn write_header(out: &mut BytesMut, kind: u8, number: u64) {
    // One type byte, 20 digits, CRLF.
    let mut line = [kind; 24];
    if number < 10 {
        line[1] = b'0' + number as u8;
        line[2] = b'\r';
        line[3] = b'\n';
        out.put_slice(&line[..4]);
        return;
    }
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number).as_bytes();
    let end = 1 + digits.len();
    line[1..end].copy_from_slice(digits);
    line[end..end + 2].copy_from_slice(b"\r\n");
    out.put_slice(&line[..end + 2]);
}

fn write_text(out: &mut BytesMut, kind: u8, text: &str) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

fn write_line(out: &mut BytesMut, kind: u8, text: &Bytes) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    if memchr::memchr2(b'\r', b'\n', text).is_none() {
        out.put_slice(text);
    } else {
        out.extend(text.iter().map(|&c| if matches!(c, b'\r' | b'\n') { b' ' } else { c }));
    }
    out.put_slice(b"\r\n");
}

fn double_text(value: Double) -> String {
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frame: &Frame, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        encode_frame(&mut out, frame, protocol);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_type_in_both_protocols() {
        let s = |t: &'static str| Bytes::from_static(t.as_bytes());
        let pair = || vec![(Frame::from("k"), Frame::Boolean(true))];
        for (frame, resp3, resp2) in [
            (Frame::Simple(s("OK")), "+OK\r\n", "+OK\r\n"),
            (Frame::Error(s("ERR a\r\nb")), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (Frame::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (Frame::from("a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (Frame::Null(Null::Resp3), "_\r\n", "$-1\r\n"),
            (Frame::Null(Null::Bulk), "$-1\r\n", "$-1\r\n"),
            (Frame::Null(Null::Array), "*-1\r\n", "*-1\r\n"),
            (Frame::Boolean(false), "#f\r\n", ":0\r\n"),
            (Frame::from(0.1), ",0.1\r\n", "$3\r\n0.1\r\n"),
            (Frame::BigNumber(s("-123")), "(-123\r\n", "$4\r\n-123\r\n"),
            (Frame::BulkError(s("ERR a\nb")), "!7\r\nERR a\nb\r\n", "-ERR a b\r\n"),
            (Frame::Verbatim { format: *b"txt", text: s("hi") }, "=6\r\ntxt:hi\r\n", "$2\r\nhi\r\n"),
            (Frame::Map(pair()), "%1\r\n$1\r\nk\r\n#t\r\n", "*2\r\n$1\r\nk\r\n:1\r\n"),
            (Frame::Set(vec![Frame::Integer(7)]), "~1\r\n:7\r\n", "*1\r\n:7\r\n"),
            (Frame::Push(vec![Frame::from("m")]), ">1\r\n$1\r\nm\r\n", "*1\r\n$1\r\nm\r\n"),
            (
                Frame::Attributed { attributes: pair(), value: Box::new(Frame::Array(vec![])) },
                "|1\r\n$1\r\nk\r\n#t\r\n*0\r\n",
                "*0\r\n",
            ),
        ] {
            assert_eq!(text(&frame, Protocol::Resp3), resp3);
            assert_eq!(text(&frame, Protocol::Resp2), resp2);
        }
    }

    #[test]
    fn bulk_lengths_are_told_before_writing() {
        for len in [0, 1, 9, 10, 11, 99, 100, 12_345] {
            let mut out = BytesMut::new();
            write_bulk(&mut out, &vec![b'x'; len]);
            assert_eq!(out.len(), bulk_len(len));
        }
        let mut out = BytesMut::new();
        write_bulk_int(&mut out, -42);
        assert_eq!(out, "$3\r\n-42\r\n");
    }
}
