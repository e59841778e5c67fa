//! Sans-I/O codec for RESP2 and RESP3, the wire format of Redis and Valkey.
//!
//! **Takes** bytes, however they were cut on their way. **Gives** replies ([`Frame`]), requests ([`Command`]), or just
//! the errors among replies ([`ReplySkipper`]); and the other way round, bytes in your buffer. There is no socket and no
//! runtime in it: the same decoder works under tokio, under `std::net`, and on a file.
//!
//! ```
//! use bytes::BytesMut;
//! use keyferry_resp::{Command, Decoder, Frame};
//!
//! // What a client sends …
//! let mut out = BytesMut::new();
//! keyferry_resp::encode_command(&mut out, ["HGETALL", "user:1"]);
//! assert_eq!(out, Command::new(["HGETALL", "user:1"]).raw());
//!
//! // … and what it gets, in two pieces.
//! let mut decoder = Decoder::new();
//! let mut buf = BytesMut::from("%1\r\n$4\r\nname\r\n$3\r");
//! assert_eq!(decoder.decode(&mut buf)?, None);
//! buf.extend_from_slice(b"\nAda\r\n");
//! let reply = decoder.decode(&mut buf)?.expect("is complete");
//! assert_eq!(reply.get("name").and_then(Frame::as_str), Some("Ada"));
//! # Ok::<(), keyferry_resp::DecodeError>(())
//! ```
//!
//! # What is where
//!
//! | you want | take |
//! |---|---|
//! | replies as values | [`Decoder`], [`Frame`], [`ErrorReply`] |
//! | requests: of a client, a replication stream, an append-only file | [`CommandDecoder`], [`Command`], [`CommandRef`] |
//! | to know that thousands of replies are `+OK` | [`ReplySkipper`] |
//! | to write requests and replies | [`encode_command`], [`encode_frame`], [`encode`] |
//! | `Framed` of tokio-util | `RespCodec`, `CommandCodec` (feature `codec`) |
//! | replies as your own types, frames and commands in logs | `from_frame`, `Serialize` (feature `serde`), [`escape`] |
//!
//! # What it promises
//!
//! * All types of RESP2 and RESP3; order and duplicates of maps and sets kept; attributes and pushes; streamed strings and
//!   aggregates as the plain form of their type; inline commands with the servers' quoting.
//! * However the input is cut, the result is the same, errors and their offsets included. Nothing is searched twice
//!   when more arrives, and payloads are not looked at.
//! * Payloads are slices of the input, not copies. A [`Command`] keeps the bytes that it came in, so it is forwarded
//!   as it is.
//! * Nothing is allocated because a peer announced it: memory follows the bytes that are there. [`Limits`] bound those.
//! * No input makes it panic, overflow the stack or loop.
//!
//! # What it refuses
//!
//! A [`DecodeError`] says what and at which byte. Numbers are read as strictly as servers read them (`$01`, `*+1`, `$ 1`
//! are errors; `:+1` is the one exception, as RESP allows it), the CRLF after a payload must be there (Redis does
//! not look, Valkey 9 does), pushes stand between replies only, lines end with CRLF and hold neither CR nor LF.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
#[cfg(feature = "codec")]
mod codec;
mod command;
mod command_decoder;
#[cfg(feature = "serde")]
mod de;
mod decoder;
pub mod encode;
mod error;
pub mod escape;
mod frame;
mod inline;
mod limits;
mod line;
#[cfg(test)]
mod linear;
mod number;
mod plain;
mod reply_error;
#[cfg(feature = "serde")]
mod ser;
mod skipper;
mod token;

#[cfg(feature = "codec")]
pub use codec::{CodecError, CommandCodec, RespCodec};
pub use command::{Args, Command, CommandRef};
pub use command_decoder::CommandDecoder;
#[cfg(feature = "serde")]
pub use de::{FromFrameError, from_frame};
pub use decoder::Decoder;
pub use encode::{Protocol, encode_command, encode_frame};
pub use error::DecodeError;
pub use frame::{Double, Frame, Null};
pub use limits::Limits;
pub use reply_error::{ErrorCode, ErrorReply, Retry};
pub use skipper::{ReplySkipper, Skipped, SkippedError};

/// The examples of the README run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
