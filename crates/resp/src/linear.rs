//! Proof that nothing is searched twice: the bytes looked at grow with the input, not with the number of pieces.

use bytes::BytesMut;

use crate::line::looked;
use crate::{CommandDecoder, Decoder, Frame, ReplySkipper};

fn reply_byte_by_byte(input: &[u8]) -> (Option<Frame>, usize) {
    let mut frame = None;
    let mut decoder = Decoder::new();
    let mut buf = BytesMut::new();
    let looked = looked::during(|| {
        for byte in input {
            assert!(frame.is_none());
            buf.extend_from_slice(&[*byte]);
            frame = decoder.decode(&mut buf).unwrap();
        }
    });
    (frame, looked)
}

fn skipped_byte_by_byte(input: &[u8]) -> (u64, usize) {
    let mut replies = 0;
    let mut skipper = ReplySkipper::new();
    let looked = looked::during(|| {
        for byte in input {
            replies += skipper.skip(&[*byte], u64::MAX).unwrap().replies;
        }
    });
    (replies, looked)
}

fn command_byte_by_byte(input: &[u8]) -> (usize, usize, usize) {
    let mut arguments = 0;
    let mut decoder = CommandDecoder::new();
    let looked = looked::during(|| {
        let mut buf = BytesMut::new();
        for byte in input {
            buf.extend_from_slice(&[*byte]);
            if let Some(command) = decoder.decode(&mut buf).unwrap() {
                arguments += command.len();
            }
        }
    });
    let mut decoder = CommandDecoder::new();
    let looked_by_ref = looked::during(|| {
        for end in 0..=input.len() {
            if let Some(command) = decoder.next_ref(&input[..end]).unwrap() {
                assert_eq!(command.len(), arguments);
            }
        }
    });
    (arguments, looked, looked_by_ref)
}

#[test]
fn the_payload_of_a_bulk_string_is_not_looked_at() {
    const LEN: usize = 1 << 20;
    let input = [format!("${LEN}\r\n").as_bytes(), &vec![b'\r'; LEN], b"\r\n"].concat();
    let (frame, looked) = reply_byte_by_byte(&input);
    assert_eq!(frame.unwrap().as_bytes().unwrap().len(), LEN);
    assert!(looked < 200, "{looked}");

    let (replies, looked) = skipped_byte_by_byte(&input);
    assert_eq!(replies, 1);
    assert!(looked < 200, "{looked}");

    let (arguments, looked, looked_by_ref) = command_byte_by_byte(&[b"*1\r\n", &input[..]].concat());
    assert_eq!(arguments, 1);
    assert!(looked < 200 && looked_by_ref < 200, "{looked}, {looked_by_ref}");
}

#[test]
fn elements_of_an_array_are_looked_at_once() {
    const COUNT: usize = 100_000;
    let mut input = format!("*{COUNT}\r\n").into_bytes();
    for i in 0..COUNT {
        let text = i.to_string();
        input.extend_from_slice(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
    }
    // Once when it is searched for its end, once when it is read, once more when its payload came.
    let most = 3 * input.len();
    let (frame, looked) = reply_byte_by_byte(&input);
    assert_eq!(frame.unwrap().as_array().unwrap().len(), COUNT);
    assert!(looked < most, "{looked}");

    let (replies, looked) = skipped_byte_by_byte(&input);
    assert_eq!(replies, 1);
    assert!(looked < most, "{looked}");

    let (arguments, looked, looked_by_ref) = command_byte_by_byte(&input);
    assert_eq!(arguments, COUNT);
    assert!(looked < most && looked_by_ref < most, "{looked}, {looked_by_ref}");
}

#[test]
fn a_long_line_is_looked_at_once() {
    const LEN: usize = 500_000;
    let input = [b"-", &vec![b'e'; LEN][..], b"\r\n"].concat();
    let (frame, looked) = reply_byte_by_byte(&input);
    assert!(frame.unwrap().is_error());
    assert!(looked < 3 * LEN, "{looked}");
    let (replies, looked) = skipped_byte_by_byte(&input);
    assert_eq!(replies, 1);
    assert!(looked < 3 * LEN, "{looked}");
}
