//! Requests, whole and cut: the same commands, each with its bytes as they stood in the input.
#![no_main]

use bytes::BytesMut;
use keyferry_resp::{Command, CommandDecoder};
use libfuzzer_sys::fuzz_target;

// The first byte says how large the pieces are.
fuzz_target!(|input: &[u8]| {
    let Some((&step, data)) = input.split_first() else { return };
    let whole = decode(data, data.len().max(1));
    let cut = decode(data, usize::from(step).max(1));
    assert_eq!(whole, cut);
});

fn decode(data: &[u8], step: usize) -> (Vec<Command>, bool) {
    let (mut decoder, mut buf, mut commands) = (CommandDecoder::new(), BytesMut::new(), Vec::new());
    for piece in data.chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(_) => return (commands, true),
            }
        }
    }
    (commands, false)
}
