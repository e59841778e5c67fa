//! Peers that lie: about lengths, counts and nesting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use bytes::BytesMut;
use keyferry_resp::{
    CommandDecoder, DecodeError, Decoder, Frame, Limits, Protocol, ReplySkipper, encode_frame,
};

fn reply_error(input: &[u8], limits: Limits) -> DecodeError {
    let mut decoder = Decoder::with_limits(limits);
    let mut buf = BytesMut::from(input);
    let error = loop {
        match decoder.decode(&mut buf) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error: {:?}", input.escape_ascii().to_string()),
            Err(error) => break error,
        }
    };
    assert_eq!(decoder.decode(&mut BytesMut::from("+OK\r\n")), Err(error.clone()), "the error is repeated");
    let mut skipper = ReplySkipper::with_limits(limits);
    let mut rest = input;
    let skipped = loop {
        match skipper.skip(rest, 1) {
            Ok(skipped) => rest = &rest[skipped.consumed..],
            Err(error) => break error,
        }
    };
    assert_eq!(skipped, error, "the skipper says the same");
    assert_eq!(skipper.skip(b"+OK\r\n", 1).unwrap_err(), error);
    assert!(error.to_string().starts_with(&format!("byte {}", error.offset())), "{error}");
    error
}

fn command_error(input: &[u8], limits: Limits) -> DecodeError {
    let mut decoder = CommandDecoder::with_limits(limits);
    let mut buf = BytesMut::from(input);
    let error = loop {
        match decoder.decode(&mut buf) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no error: {:?}", input.escape_ascii().to_string()),
            Err(error) => break error,
        }
    };
    assert_eq!(decoder.decode(&mut BytesMut::from("PING\r\n")), Err(error.clone()), "the error is repeated");
    assert_eq!(decoder.next_ref(b"PING\r\n").unwrap_err(), error);
    error
}

#[test]
fn errors_of_replies_say_what_and_where() {
    use DecodeError::*;
    let d = Limits::new;
    for (input, error) in [
        (&b"+OK\r\nx"[..], UnknownType { offset: 5, byte: b'x' }),
        (b"*1\r\n\r\n", UnknownType { offset: 4, byte: b'\r' }),
        (b"*2\r\n:1\r\n>0\r\n", Misplaced { offset: 8, byte: b'>' }),
        (b".\r\n", Misplaced { offset: 0, byte: b'.' }),
        (b"*?\r\n*1\r\n.\r\n", Misplaced { offset: 8, byte: b'.' }),
        (b"%?\r\n:1\r\n.\r\n", Misplaced { offset: 8, byte: b'.' }),
        (b"*?\r\n|0\r\n.\r\n", Misplaced { offset: 8, byte: b'.' }),
        (b"$?\r\n$1\r\na\r\n", Misplaced { offset: 4, byte: b'$' }),
        (b";1\r\na\r\n", Misplaced { offset: 0, byte: b';' }),
        (b"$-2\r\n", InvalidLength { offset: 0, byte: b'$' }),
        (b"%-1\r\n", InvalidLength { offset: 0, byte: b'%' }),
        (b"*01\r\n", InvalidLength { offset: 0, byte: b'*' }),
        (b"*+1\r\n", InvalidLength { offset: 0, byte: b'*' }),
        (b"$ 1\r\n", InvalidLength { offset: 0, byte: b'$' }),
        (b"$\r\n", InvalidLength { offset: 0, byte: b'$' }),
        (b"$18446744073709551616\r\n", InvalidLength { offset: 0, byte: b'$' }),
        (b"*111111111111111111111", InvalidLength { offset: 0, byte: b'*' }),
        (b">?\r\n", InvalidLength { offset: 0, byte: b'>' }),
        (b":9223372036854775808\r\n", InvalidValue { offset: 0, byte: b':' }),
        (b":1a\r\n", InvalidValue { offset: 0, byte: b':' }),
        (b"#x\r\n", InvalidValue { offset: 0, byte: b'#' }),
        (b"_x\r\n", InvalidValue { offset: 0, byte: b'_' }),
        (b",1.\r\n", InvalidValue { offset: 0, byte: b',' }),
        (b"(1.5\r\n", InvalidValue { offset: 0, byte: b'(' }),
        (b"=3\r\ntxt\r\n", InvalidVerbatim { offset: 0 }),
        (b"=5\r\ntxta:\r\n", InvalidVerbatim { offset: 0 }),
        (b"+a\nb\r\n", LineBreak { offset: 2 }),
        (b"+a\rb\r\n", LineBreak { offset: 2 }),
        (b"*1\n:1\r\n", LineBreak { offset: 2 }),
        (b"$1\r\nab\r\n", MissingCrlf { offset: 5 }),
        (b"$1\r\na\rb", MissingCrlf { offset: 5 }),
    ] {
        assert_eq!(reply_error(input, d()), error, "{}", input.escape_ascii());
    }
}

#[test]
fn limits_of_replies() {
    use DecodeError::*;
    let d = Limits::new;
    for (input, limits, error) in [
        (&b"+abcd\r\n"[..], d().line_bytes(3), LineTooLong { offset: 0, limit: 3 }),
        (b"+abcd", d().line_bytes(3), LineTooLong { offset: 0, limit: 3 }),
        (b"$5\r\n", d().bulk_bytes(4), BulkTooLong { offset: 0, announced: 5, limit: 4 }),
        (b"$?\r\n;3\r\nabc\r\n;2\r\n", d().bulk_bytes(4), BulkTooLong { offset: 13, announced: 5, limit: 4 }),
        (b"*5\r\n", d().elements(4), TooManyElements { offset: 0, announced: 5, limit: 4 }),
        (b"%3\r\n", d().elements(4), TooManyElements { offset: 0, announced: 6, limit: 4 }),
        (
            b"*2\r\n*1\r\n:1\r\n*2\r\n",
            d().total_elements(4),
            TooManyElements { offset: 12, announced: 5, limit: 4 },
        ),
        (b"*1\r\n*1\r\n*1\r\n", d().nesting(2), TooDeep { offset: 8, limit: 2 }),
        (b"|1\r\n:1\r\n:2\r\n*1\r\n*1\r\n", d().nesting(2), TooDeep { offset: 16, limit: 2 }),
        (b"*2\r\n:1\r\n$5\r\n", d().frame_bytes(18), FrameTooLong { offset: 8, limit: 18 }),
        (b"*2\r\n:1\r\n+123456\r\n", d().frame_bytes(16), FrameTooLong { offset: 8, limit: 16 }),
    ] {
        let found = reply_error(input, limits);
        assert_eq!(found, error, "{}", input.escape_ascii());
        assert!(found.is_limit());
    }
    // At the limit all is well, and each frame has it for itself.
    let limits = d().elements(2).total_elements(3).nesting(2).bulk_bytes(3).line_bytes(2).frame_bytes(22);
    let mut decoder = Decoder::with_limits(limits);
    let mut buf = BytesMut::from("*2\r\n*1\r\n$3\r\nabc\r\n+OK\r\n".repeat(3).as_str());
    for _ in 0..3 {
        assert!(decoder.decode(&mut buf).unwrap().is_some());
    }
}

#[test]
fn streamed_elements_count() {
    let endless = [b"*?\r\n".as_slice(), &b":1\r\n".repeat(5)].concat();
    let limits = Limits::new().elements(4);
    assert!(matches!(
        reply_error(&endless, limits),
        DecodeError::TooManyElements { announced: 5, limit: 4, .. }
    ));
    let limits = Limits::new().total_elements(4);
    assert!(matches!(
        reply_error(&endless, limits),
        DecodeError::TooManyElements { announced: 5, limit: 4, .. }
    ));
    let pairs = [b"%?\r\n".as_slice(), &b":1\r\n".repeat(6)].concat();
    let limits = Limits::new().elements(4);
    assert!(matches!(
        reply_error(&pairs, limits),
        DecodeError::TooManyElements { announced: 6, limit: 4, .. }
    ));
}

#[test]
fn errors_of_commands_say_what_and_where() {
    use DecodeError::*;
    let d = Limits::new;
    for (input, limits, error) in [
        (&b"PING\r\n*1\r\n:4\r\n"[..], d(), ExpectedBulk { offset: 10, byte: b':' }),
        (b"*abc\r\n", d(), InvalidLength { offset: 0, byte: b'*' }),
        (b"*+1\r\n", d(), InvalidLength { offset: 0, byte: b'*' }),
        (b"*01\r\n", d(), InvalidLength { offset: 0, byte: b'*' }),
        (b"*1\r\n$-1\r\n", d(), InvalidLength { offset: 4, byte: b'$' }),
        (b"*1\r\n$+4\r\nPING\r\n", d(), InvalidLength { offset: 4, byte: b'$' }),
        (b"*1\r\n$x\r\n", d(), InvalidLength { offset: 4, byte: b'$' }),
        (b"*1111111111111111111111", d(), InvalidLength { offset: 0, byte: b'*' }),
        (b"*1\r\n$4\r\nPINGxy*1\r\n", d(), MissingCrlf { offset: 12 }),
        (b"*1\rX$4\r\n", d(), LineBreak { offset: 2 }),
        (b"*1\n$4\nPING\n", d(), LineBreak { offset: 2 }),
        (b"\r\nECHO \"abc\r\n", d(), UnbalancedQuotes { offset: 2 }),
        (b"*16777217\r\n", d(), TooManyElements { offset: 0, announced: 16_777_217, limit: 16_777_216 }),
        (b"*1\r\n$536870913\r\n", d(), BulkTooLong { offset: 4, announced: 536_870_913, limit: 536_870_912 }),
        (b"*2\r\n$1\r\na\r\n$9\r\n", d().frame_bytes(25), FrameTooLong { offset: 11, limit: 25 }),
        (b"abcdef", d().inline_bytes(5), LineTooLong { offset: 0, limit: 5 }),
        (b"abcdef\r\n", d().inline_bytes(5), LineTooLong { offset: 0, limit: 5 }),
    ] {
        assert_eq!(command_error(input, limits), error, "{}", input.escape_ascii());
    }
}

#[test]
fn inline_commands_can_be_refused() {
    let mut decoder = CommandDecoder::new().inline(false);
    let mut buf = BytesMut::from("\n\r\n*1\r\n$4\r\nPING\r\n\nPING\r\n");
    let ping = decoder.decode(&mut buf).unwrap().unwrap();
    assert_eq!(ping.raw(), "*1\r\n$4\r\nPING\r\n");
    assert_eq!((decoder.offset(), decoder.skipped_newlines()), (17, 3));
    let error = decoder.decode(&mut buf).unwrap_err();
    assert_eq!(error, DecodeError::InlineRefused { offset: 18, byte: b'P' });
}

#[test]
fn skipped_newlines_can_be_dropped_early() {
    let mut decoder = CommandDecoder::new();
    assert!(decoder.next_ref(b"\n\n\r\n*0\r\n*1\r\n$4\r\nPI").unwrap().is_none());
    assert_eq!(decoder.drop_skipped(), 8);
    assert!(decoder.is_mid_command());
    let ping = decoder.next_ref(b"*1\r\n$4\r\nPING\r\n").unwrap().unwrap();
    assert_eq!((ping.name(), ping.skipped(), ping.consumed()), (&b"PING"[..], 0, 14));
    assert_eq!((decoder.offset(), decoder.skipped_newlines(), decoder.skipped()), (22, 4, 8));
    assert!(!decoder.is_mid_command());
}

#[test]
fn nesting_bombs_end_at_the_limit() {
    for head in ["*1\r\n", "~1\r\n", "%1\r\n:1\r\n", "*?\r\n", "|0\r\n", "%1\r\n"] {
        let bomb = head.repeat(1_000_000);
        assert!(
            matches!(reply_error(bomb.as_bytes(), Limits::new()), DecodeError::TooDeep { limit: 128, .. }),
            "{head}"
        );
    }
}

/// As deep as can be allowed: nothing that a frame goes through overflows the stack of a test thread.
#[test]
fn the_deepest_frame_is_dropped_cloned_compared_and_written() {
    let limits = Limits::new().nesting(usize::MAX);
    let depth = Limits::HIGHEST_NESTING;
    let input = "*1\r\n".repeat(depth) + ":1\r\n";
    let frame = Decoder::with_limits(limits).decode(&mut BytesMut::from(input.as_str())).unwrap().unwrap();
    assert_eq!(frame, frame.clone());
    assert!(format!("{frame:?}").len() > depth);
    let mut out = BytesMut::new();
    encode_frame(&mut out, &frame, Protocol::Resp3);
    assert_eq!(out, input.as_bytes());
    drop(frame);
    let deeper = "*1\r\n".repeat(depth + 1);
    assert!(
        matches!(reply_error(deeper.as_bytes(), limits), DecodeError::TooDeep { limit, .. } if limit == depth)
    );
}

#[test]
fn announced_lengths_are_judged_at_once() {
    for bomb in ["$9223372036854775807\r\n", "!9223372036854775807\r\n", "=9223372036854775807\r\n"] {
        assert!(matches!(
            reply_error(bomb.as_bytes(), Limits::new()),
            DecodeError::BulkTooLong { offset: 0, .. }
        ));
    }
    for bomb in [
        "*2147483647\r\n",
        "~9223372036854775807\r\n",
        "%9223372036854775807\r\n",
        ">4000000000\r\n",
        "|2147483647\r\n",
    ] {
        assert!(matches!(
            reply_error(bomb.as_bytes(), Limits::new()),
            DecodeError::TooManyElements { offset: 0, .. }
        ));
    }
    assert!(matches!(
        command_error(b"*1\r\n$9223372036854775807\r\n", Limits::new()),
        DecodeError::BulkTooLong { offset: 4, .. }
    ));
    assert!(matches!(command_error(b"*2147483647\r\n", Limits::new()), DecodeError::TooManyElements { .. }));
    // Even with all limits away nothing overflows.
    let none = Limits::new()
        .frame_bytes(usize::MAX)
        .bulk_bytes(usize::MAX)
        .elements(usize::MAX)
        .total_elements(usize::MAX)
        .line_bytes(usize::MAX)
        .inline_bytes(usize::MAX);
    for bomb in [
        "$9223372036854775807\r\nx",
        "*9223372036854775807\r\n$9223372036854775807\r\nx",
        "%9223372036854775807\r\n:1\r\n+x",
    ] {
        let mut buf = BytesMut::from(bomb);
        assert_eq!(Decoder::with_limits(none).decode(&mut buf), Ok(None));
        let mut skipper = ReplySkipper::with_limits(none);
        assert_eq!(skipper.skip(bomb.as_bytes(), 9).unwrap().replies, 0);
    }
    let mut buf = BytesMut::from("*9223372036854775807\r\n$1\r\na\r\n$9223372036854775807\r\nx");
    assert!(matches!(
        CommandDecoder::with_limits(none).decode(&mut buf),
        Err(DecodeError::FrameTooLong { .. })
    ));
}

#[test]
fn room_is_reserved_as_bytes_arrive_not_as_they_are_announced() {
    let mut decoder = Decoder::new();
    let mut commands = CommandDecoder::new();
    for head in ["$536870912\r\n", "*1\r\n$536870912\r\n"] {
        let mut buf = BytesMut::from(head);
        if head.starts_with('$') {
            assert_eq!(decoder.decode(&mut buf), Ok(None));
        } else {
            assert_eq!(commands.decode(&mut buf), Ok(None));
        }
        assert!(buf.capacity() < 64 << 10, "{}", buf.capacity());
        buf.extend_from_slice(&vec![b'x'; 1 << 20]);
        if head.starts_with('$') {
            assert_eq!(decoder.decode(&mut buf), Ok(None));
        } else {
            assert_eq!(commands.decode(&mut buf), Ok(None));
        }
        assert!(buf.capacity() < 5 << 20, "{}", buf.capacity());
    }
}

#[test]
fn payloads_are_slices_of_the_input() {
    let mut buf = BytesMut::with_capacity(4096);
    buf.extend_from_slice(b"*2\r\n$3\r\nfoo\r\n*1\r\n=7\r\ntxt:bar\r\n$5\r\nhello\r\n*1\r\n$4\r\nPING\r\n");
    let memory = buf.as_ptr_range();
    let inside = |bytes: &[u8]| memory.contains(&bytes.as_ptr());
    let mut decoder = Decoder::new();
    let array = decoder.decode(&mut buf).unwrap().unwrap();
    let hello = decoder.decode(&mut buf).unwrap().unwrap();
    let items = array.as_array().unwrap();
    assert!(inside(items[0].as_bytes().unwrap()));
    assert!(inside(items[1].as_array().unwrap()[0].as_bytes().unwrap()));
    assert!(inside(hello.as_bytes().unwrap()));
    let ping = CommandDecoder::new().decode(&mut buf).unwrap().unwrap();
    assert!(inside(ping.raw()) && inside(&ping.arg_bytes(0).unwrap()));
    assert!(!matches!(array, Frame::Push(_)));
}
