//! Replies, whole and cut: both ways give the same frames, or the same error.
#![no_main]

use bytes::BytesMut;
use keyferry_resp::{DecodeError, Decoder, Frame};
use libfuzzer_sys::fuzz_target;

// The first byte says how large the pieces are.
fuzz_target!(|input: &[u8]| {
    let Some((&step, data)) = input.split_first() else { return };
    let whole = decode(data, data.len().max(1));
    let cut = decode(data, usize::from(step).max(1));
    assert_eq!(whole, cut);
});

fn decode(data: &[u8], step: usize) -> (Vec<Frame>, Option<DecodeError>) {
    let (mut decoder, mut buf, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
    for piece in data.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}
