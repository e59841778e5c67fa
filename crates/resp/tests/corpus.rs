//! Every reply that real servers were seen to give is one or more whole frames.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::path::Path;

use bytes::BytesMut;
use keyferry_resp::{Decoder, Frame, Protocol, ReplySkipper, encode_frame};

/// Undoes the escapes of the table: `\r \n \t \\ \xHH`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (byte, behind) = match rest {
            [b'r', after @ ..] => (b'\r', after),
            [b'n', after @ ..] => (b'\n', after),
            [b't', after @ ..] => (b'\t', after),
            [b'\\', after @ ..] => (b'\\', after),
            [b'x', high, low, after @ ..] => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap(), after)
            }
            _ => panic!("unknown escape in {text:?}"),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}

#[test]
fn replies_of_servers_are_whole_frames() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/server-made/resp-replies.tsv");
    let Ok(table) = std::fs::read_to_string(&path) else {
        println!("skipped: there is no corpus at {}", path.display());
        return;
    };
    let mut seen = 0;
    for (number, row) in table.lines().enumerate().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [server, test, _request, reply, _connection] = columns[..] else {
            panic!("row {number}: {row:?}")
        };
        // Replies that the table shortens cannot be read.
        if reply.is_empty() || reply.contains("bytes)") {
            continue;
        }
        let reply = unescape(reply);
        let what = format!("{server}, {test}: {}", reply.escape_ascii());
        let frames = decode(&reply, reply.len(), &what);
        assert!(!frames.is_empty(), "{what}");
        assert_eq!(decode(&reply, 1, &what), frames, "{what}");

        let mut skipper = ReplySkipper::new();
        let (mut rest, mut replies, mut errors) = (&reply[..], 0, 0);
        while !rest.is_empty() {
            let skipped = skipper.skip(rest, u64::MAX).unwrap();
            replies += skipped.replies;
            errors += u64::from(skipped.error.is_some());
            rest = &rest[skipped.consumed..];
        }
        assert!(!skipper.is_mid_reply(), "{what}");
        assert_eq!(replies as usize, frames.iter().filter(|frame| !frame.is_push()).count(), "{what}");
        assert_eq!(errors as usize, frames.iter().filter(|frame| frame.is_error()).count(), "{what}");

        // What the servers write is what this crate writes, but for doubles, whose text differs between versions.
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| encode_frame(&mut out, frame, Protocol::Resp3));
        if !reply.contains(&b',') {
            assert_eq!(out, reply, "{what}");
        }
        seen += 1;
    }
    assert!(seen > 450, "only {seen} rows were read");
}

fn decode(reply: &[u8], piece: usize, what: &str) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    let mut buf = BytesMut::new();
    let mut frames = Vec::new();
    for piece in reply.chunks(piece) {
        buf.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut buf).unwrap_or_else(|error| panic!("{what}: {error}")) {
            frames.push(frame);
        }
    }
    assert!(buf.is_empty() && !decoder.is_mid_frame(), "{what}: bytes are left");
    frames
}
