//! The decoders and their slow twins agree: on arbitrary frames and commands, on damaged bytes, however the input is
//! cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod twin;

use bytes::{Bytes, BytesMut};
use keyferry_resp::{
    Command, CommandDecoder, Decoder, Double, Frame, Limits, Null, Protocol, ReplySkipper, encode_command,
    encode_frame,
};
use proptest::prelude::*;
use twin::Verdict;

/// Feeds the pieces to `decode` with one buffer; gives all values, and whether it ended in an error.
fn decode_pieces<T, E>(
    pieces: &[&[u8]],
    mut decode: impl FnMut(&mut BytesMut) -> Result<Option<T>, E>,
) -> (Vec<T>, Option<E>) {
    let mut buf = BytesMut::new();
    let mut values = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decode(&mut buf) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}

/// Cuts `input` at the given places.
fn cut<'a>(input: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    at.push(input.len());
    at.sort_unstable();
    let mut start = 0;
    at.into_iter().map(|end| &input[std::mem::replace(&mut start, end)..end]).collect()
}

/// Feeds the pieces to a decoder and to a skipper, and compares both with the twin.
fn check_replies(input: &[u8], pieces: &[&[u8]], limits: Limits) {
    let (expected, behind) = twin::frames(input, &limits);

    let mut whole = Decoder::with_limits(limits);
    let (values, whole_error) = decode_pieces(&[input], |buf| whole.decode(buf));
    assert_eq!(values, expected);
    assert_eq!(whole_error.is_some(), behind == Verdict::Wrong, "{whole_error:?}, twin: {behind:?}");

    let mut decoder = Decoder::with_limits(limits);
    let (values, error) = decode_pieces(pieces, |buf| decoder.decode(buf));
    assert_eq!(values, expected);
    assert_eq!(error, whole_error);
    assert!(error.is_none_or(|error| error.offset() <= input.len() as u64));

    check_skipper(pieces, limits, &expected, &whole_error);
}

fn check_skipper(
    pieces: &[&[u8]],
    limits: Limits,
    expected: &[Frame],
    expected_error: &Option<keyferry_resp::DecodeError>,
) {
    let mut expected_replies = expected.iter().filter(|frame| !frame.is_push());
    let mut skipper = ReplySkipper::with_limits(limits);
    let (mut replies, mut pushes) = (0, 0);
    let mut failed = None;
    'input: for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            // A reply at a time, so that what came before an error is counted.
            let skipped = match skipper.skip(rest, 1) {
                Ok(skipped) => skipped,
                Err(error) => {
                    failed = Some(error);
                    break 'input;
                }
            };
            rest = &rest[skipped.consumed..];
            pushes += skipped.pushes;
            replies += skipped.replies;
            if skipped.replies == 0 {
                assert!(rest.is_empty() && skipped.error.is_none());
                continue;
            }
            let reply = expected_replies.next().expect("the twin has as many");
            assert_eq!(skipped.nulls, nulls(reply), "{reply:?}");
            let errors = errors(reply);
            match skipped.error {
                None => assert_eq!(errors.len(), 0),
                Some(error) => {
                    assert_eq!(error.count, errors.len() as u64);
                    assert_eq!((error.text.to_vec(), error.element), errors[0]);
                }
            }
        }
    }
    assert_eq!(&failed, expected_error);
    assert_eq!(replies as usize, expected.iter().filter(|frame| !frame.is_push()).count());
    if failed.is_none() {
        assert_eq!(pushes as usize, expected.iter().filter(|frame| frame.is_push()).count());
    }
}

/// How many nulls are in a reply.
fn nulls(frame: &Frame) -> u64 {
    match frame {
        Frame::Null(_) => 1,
        Frame::Attributed { value, .. } => nulls(value),
        Frame::Array(items) | Frame::Set(items) => items.iter().map(nulls).sum(),
        Frame::Map(pairs) => pairs.iter().map(|(key, value)| nulls(key) + nulls(value)).sum(),
        _ => 0,
    }
}

/// The errors in a reply with the elements that have them.
fn errors(frame: &Frame) -> Vec<(Vec<u8>, Option<u64>)> {
    fn collect(frame: &Frame, element: Option<u64>, found: &mut Vec<(Vec<u8>, Option<u64>)>) {
        let parts: Vec<&Frame> = match frame {
            Frame::Error(text) | Frame::BulkError(text) => return found.push((text.to_vec(), element)),
            Frame::Attributed { value, .. } => return collect(value, element, found),
            Frame::Array(items) | Frame::Set(items) => items.iter().collect(),
            Frame::Map(pairs) => pairs.iter().flat_map(|(k, v)| [k, v]).collect(),
            _ => return,
        };
        for (i, part) in parts.into_iter().enumerate() {
            collect(part, element.or(Some(i as u64)), found);
        }
    }
    let mut found = Vec::new();
    collect(frame, None, &mut found);
    found
}

fn check_commands(input: &[u8], pieces: &[&[u8]], limits: Limits) {
    let (expected, newlines, behind) = twin::commands(input, &limits);
    let same = |commands: &[Command]| {
        assert_eq!(commands.len(), expected.len());
        for (command, expected) in commands.iter().zip(&expected) {
            assert_eq!(&command.raw()[..], expected.raw);
            assert!(command.args().eq(expected.args.iter().map(Vec::as_slice)), "{command:?}");
            assert_eq!(command.name(), expected.args[0]);
        }
    };
    let mut whole = CommandDecoder::with_limits(limits);
    let (commands, whole_error) = decode_pieces(&[input], |buf| whole.decode(buf));
    same(&commands);
    assert_eq!(whole_error.is_some(), behind == Verdict::Wrong, "{whole_error:?}, twin: {behind:?}");
    if whole_error.is_none() {
        assert_eq!(whole.skipped_newlines(), newlines as u64);
    }

    let mut decoder = CommandDecoder::with_limits(limits);
    let (commands, error) = decode_pieces(pieces, |buf| decoder.decode(buf));
    same(&commands);
    assert_eq!(error, whole_error);
    if error.is_none() {
        assert_eq!(decoder.offset(), whole.offset());
        assert_eq!(decoder.skipped_newlines(), whole.skipped_newlines());
    }

    // The borrowing form, with a caller that keeps what was not consumed.
    let mut decoder = CommandDecoder::with_limits(limits);
    let mut kept: Vec<u8> = Vec::new();
    let mut commands = Vec::new();
    let mut error = None;
    'pieces: for (i, piece) in pieces.iter().enumerate() {
        kept.extend_from_slice(piece);
        loop {
            let consumed = match decoder.next_ref(&kept) {
                Ok(Some(command)) => {
                    assert_eq!(command.raw(), &kept[command.skipped()..command.consumed()]);
                    commands.push(command.to_owned());
                    command.consumed()
                }
                Ok(None) => break,
                Err(e) => {
                    error = Some(e);
                    break 'pieces;
                }
            };
            kept.drain(..consumed);
        }
        if i % 2 == 0 {
            let skipped = decoder.drop_skipped();
            kept.drain(..skipped);
        }
    }
    same(&commands);
    assert_eq!(error, whole_error);
}

fn text() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::from_static(b"OK")),
        "[ -~]{0,12}".prop_map(Bytes::from),
        prop::collection::vec(any::<u8>().prop_filter("no line end", |c| !matches!(c, b'\r' | b'\n')), 0..40)
            .prop_map(Bytes::from),
    ]
}

fn blob() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from),
        1 => prop::collection::vec(any::<u8>(), 90..1100).prop_map(Bytes::from),
        1 => Just(Bytes::from_static(b"\r\n$5\r\n")),
    ]
}

fn leaf() -> impl Strategy<Value = Frame> {
    prop_oneof![
        text().prop_map(Frame::Simple),
        text().prop_map(Frame::Error),
        any::<i64>().prop_map(Frame::Integer),
        (-3i64..120).prop_map(Frame::Integer),
        blob().prop_map(Frame::Bulk),
        blob().prop_map(Frame::Bulk),
        prop_oneof![Just(Null::Resp3), Just(Null::Bulk), Just(Null::Array)].prop_map(Frame::Null),
        any::<bool>().prop_map(Frame::Boolean),
        any::<f64>().prop_map(|d| Frame::Double(Double::new(d))),
        prop_oneof![Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(f64::NAN), Just(-0.0), Just(1e300)]
            .prop_map(|d| Frame::Double(Double::new(d))),
        "-?[0-9]{1,40}".prop_map(|digits| Frame::BigNumber(digits.into())),
        blob().prop_map(Frame::BulkError),
        (any::<[u8; 3]>(), blob()).prop_map(|(format, text)| Frame::Verbatim { format, text }),
    ]
}

fn value() -> impl Strategy<Value = Frame> {
    leaf().prop_recursive(6, 60, 8, |inner| {
        let pairs = prop::collection::vec((inner.clone(), inner.clone()), 0..5);
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 0..9).prop_map(Frame::Array),
            1 => prop::collection::vec(inner.clone(), 0..9).prop_map(Frame::Set),
            1 => pairs.clone().prop_map(Frame::Map),
            1 => (pairs, inner).prop_map(|(attributes, value)| {
                Frame::Attributed { attributes, value: Box::new(value) }
            }),
        ]
    })
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![4 => value(), 1 => prop::collection::vec(value(), 0..4).prop_map(Frame::Push)]
}

/// Writes a frame, some of it in streamed form. `choice` says which.
fn write(out: &mut BytesMut, frame: &Frame, choice: &mut impl FnMut() -> u8) {
    let streamed = choice() < 40;
    match frame {
        Frame::Bulk(bytes) if streamed => {
            out.extend_from_slice(b"$?\r\n");
            let size = usize::from(choice()) + 1;
            for chunk in bytes.chunks(size) {
                out.extend_from_slice(format!(";{}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b";0\r\n");
        }
        Frame::Array(items) | Frame::Set(items) | Frame::Push(items) => {
            let kind = match frame {
                Frame::Array(_) => '*',
                Frame::Set(_) => '~',
                _ => '>',
            };
            let streamed = streamed && kind != '>';
            let count = if streamed { "?".to_owned() } else { items.len().to_string() };
            out.extend_from_slice(format!("{kind}{count}\r\n").as_bytes());
            items.iter().for_each(|item| write(out, item, choice));
            if streamed {
                out.extend_from_slice(b".\r\n");
            }
        }
        Frame::Map(pairs) => {
            let count = if streamed { "?".to_owned() } else { pairs.len().to_string() };
            out.extend_from_slice(format!("%{count}\r\n").as_bytes());
            for (key, value) in pairs {
                write(out, key, choice);
                write(out, value, choice);
            }
            if streamed {
                out.extend_from_slice(b".\r\n");
            }
        }
        Frame::Attributed { attributes, value } => {
            out.extend_from_slice(format!("|{}\r\n", attributes.len()).as_bytes());
            for (key, value) in attributes {
                write(out, key, choice);
                write(out, value, choice);
            }
            write(out, value, choice);
        }
        leaf => encode_frame(out, leaf, Protocol::Resp3),
    }
}

/// Frames as bytes, in plain and streamed forms.
fn reply_bytes() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(any_frame(), 1..5), prop::collection::vec(any::<u8>(), 1..40)).prop_map(
        |(frames, choices)| {
            let mut out = BytesMut::new();
            let mut i = 0;
            let mut choice = || {
                i += 1;
                choices[i % choices.len()]
            };
            frames.iter().for_each(|frame| write(&mut out, frame, &mut choice));
            out.to_vec()
        },
    )
}

/// Bytes that look like RESP but hardly ever are.
fn protocol_soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            "\r\n", "*1\r\n", "*2\r\n", "*?\r\n", "%?\r\n", "~?\r\n", "$?\r\n", ";1\r\na\r\n", ";0\r\n", ".\r\n", "|1\r\n",
            "|0\r\n", "%1\r\n", "%0\r\n", "~0\r\n", ">1\r\n", ">0\r\n", "*0\r\n", "*-1\r\n", "$-1\r\n", "*-5\r\n", "_\r\n",
            "#t\r\n", "#x\r\n", ":1\r\n", ":+1\r\n", ":01\r\n", "$1\r\na\r\n", "$0\r\n\r\n", "$2\r\nabc\r\n", "=4\r\ntxt:\r\n",
            "=3\r\ntxt\r\n", "=5\r\ntxtab\r\n", "!1\r\nx\r\n", "+OK\r\n", "-ERR x\r\n", "+a\nb\r\n", "+a\rb\r\n", ",1.5\r\n", ",inf\r\n",
            ",x\r\n", "(12\r\n", "(1x\r\n", "\n", "PING\r\n", "SET \"a\\x41\" 'b'\n", "\"", "a\"b\" c\r\n", "   \r\n", "\0", "*1\n",
            "$9223372036854775807\r\n", "*2147483647\r\n", "$536870913\r\n", "*99999999999999999999\r\n", "*123456789012345678901",
        ]).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

fn command_bytes() -> impl Strategy<Value = Vec<u8>> {
    let array = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..9).prop_map(|args| {
        let mut out = BytesMut::new();
        encode_command(&mut out, args);
        out.to_vec()
    });
    let inline = "[ a-z\"'\\\\x0-9\t]{0,30}\r?\n".prop_map(String::into_bytes);
    let skipped = prop::sample::select(vec!["\n", "\r\n", "*0\r\n", "*-1\r\n", "  \n"])
        .prop_map(|s| s.as_bytes().to_vec());
    prop::collection::vec(prop_oneof![4 => array, 1 => inline, 1 => skipped], 0..6)
        .prop_map(|parts| parts.concat())
}

/// Changes a few bytes: flips, insertions, deletions, a cut tail.
fn damaged(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0..4u8,
        prop_oneof![any::<u8>(), prop::sample::select(b"*$+-:_%~|>;.=!#,(\r\n0123456789".to_vec())],
    );
    (bytes, prop::collection::vec(edit, 1..4)).prop_map(|(mut bytes, edits)| {
        for (at, what, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

fn tight() -> Limits {
    Limits::new().nesting(3).bulk_bytes(64).elements(6).line_bytes(10).inline_bytes(12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_survive_encoding(frames in prop::collection::vec(any_frame(), 1..4)) {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| encode_frame(&mut out, frame, Protocol::Resp3));
        let len = out.len() as u64;
        let mut decoder = Decoder::new();
        for frame in &frames {
            prop_assert_eq!(decoder.decode(&mut out).unwrap(), Some(frame.clone()));
        }
        prop_assert_eq!(decoder.decode(&mut out).unwrap(), None);
        prop_assert_eq!(decoder.offset(), len);
        prop_assert!(!decoder.is_mid_frame());
    }

    #[test]
    fn resp2_is_read_by_a_resp2_client(frame in any_frame()) {
        let mut out = BytesMut::new();
        encode_frame(&mut out, &frame, Protocol::Resp2);
        let decoded = Decoder::new().decode(&mut out).unwrap().unwrap();
        prop_assert!(out.is_empty());
        fn resp2(frame: &Frame) -> bool {
            match frame {
                Frame::Simple(_) | Frame::Error(_) | Frame::Integer(_) | Frame::Bulk(_) => true,
                Frame::Null(null) => *null != Null::Resp3,
                Frame::Array(items) => items.iter().all(resp2),
                _ => false,
            }
        }
        prop_assert!(resp2(&decoded));
    }

    #[test]
    fn replies_agree(input in reply_bytes(), cuts in cuts()) {
        check_replies(&input, &cut(&input, &cuts), Limits::new());
    }

    #[test]
    fn replies_agree_byte_by_byte(input in reply_bytes()) {
        check_replies(&input, &input.chunks(1).collect::<Vec<_>>(), Limits::new());
    }

    #[test]
    fn damaged_replies_agree(input in damaged(reply_bytes()), cuts in cuts()) {
        check_replies(&input, &cut(&input, &cuts), Limits::new());
        check_replies(&input, &input.chunks(1).collect::<Vec<_>>(), Limits::new());
    }

    #[test]
    fn reply_soup_agrees(input in protocol_soup(), cuts in cuts()) {
        check_replies(&input, &cut(&input, &cuts), Limits::new());
        check_replies(&input, &cut(&input, &cuts), tight());
        check_replies(&input, &input.chunks(1).collect::<Vec<_>>(), tight());
    }

    #[test]
    fn commands_agree(input in command_bytes(), cuts in cuts()) {
        check_commands(&input, &cut(&input, &cuts), Limits::new());
        check_commands(&input, &input.chunks(1).collect::<Vec<_>>(), Limits::new());
    }

    #[test]
    fn damaged_commands_agree(input in damaged(command_bytes()), cuts in cuts()) {
        check_commands(&input, &cut(&input, &cuts), Limits::new());
        check_commands(&input, &input.chunks(1).collect::<Vec<_>>(), tight());
    }

    #[test]
    fn command_soup_agrees(input in protocol_soup(), cuts in cuts()) {
        check_commands(&input, &cut(&input, &cuts), Limits::new());
        check_commands(&input, &cut(&input, &cuts), tight());
    }

    #[test]
    fn a_new_command_is_what_a_decoder_gives(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..12)) {
        let command = Command::new(&args);
        let mut buf = BytesMut::from(&command.raw()[..]);
        let decoded = CommandDecoder::new().decode(&mut buf).unwrap().unwrap();
        prop_assert_eq!(&decoded, &command);
        prop_assert!(decoded.args().eq(args.iter().map(Vec::as_slice)));
    }
}
