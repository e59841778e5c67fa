//! What must hold of keyferry-resp for any bytes. The fuzz targets call it with theirs, and the crate's tests with the seeds.

use bytes::BytesMut;
use keyferry_resp::{Command, CommandDecoder, DecodeError, Decoder, Frame};

/// A piece size in the first byte, then replies: whole and cut they give the same frames, or the same error.
pub fn frames(input: &[u8]) {
    let Some((&step, data)) = input.split_first() else { return };
    assert_eq!(decode_frames(data, data.len().max(1)), decode_frames(data, usize::from(step).max(1)));
}

fn decode_frames(data: &[u8], step: usize) -> (Vec<Frame>, Option<DecodeError>) {
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

/// A piece size in the first byte, then requests: whole and cut they give the same commands.
pub fn commands(input: &[u8]) {
    let Some((&step, data)) = input.split_first() else { return };
    assert_eq!(decode_commands(data, data.len().max(1)), decode_commands(data, usize::from(step).max(1)));
}

fn decode_commands(data: &[u8], step: usize) -> (Vec<Command>, bool) {
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
