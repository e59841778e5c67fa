//! Reader and writer of RDB files, DUMP payloads and append-only files of Redis, Valkey and their relatives: fast, bounded
//! in memory, and careful with what it reads.
//!
//! # What it takes
//!
//! Snapshots (RDB files, the first part of a replication stream, the preamble of an append-only file) of every
//! version: `REDIS0001` of Redis 1 to `REDIS0015` of Redis 8.10, and `VALKEY080` of Valkey 9. Also those of KeyDB and
//! Redis Enterprise. Bytes are pushed in as they come; but for [`aof`], readers do no I/O.
//!
//! # What it gives
//!
//! - [`Parser`]: keys with database, expiry, note on use, type and *raw* value, and every other record as an
//!   [`Event`]. Events borrow from the parser's buffer. A value above a limit comes in parts.
//! - [`dump`]: a raw value becomes a payload for `RESTORE` without being decoded, and a payload is taken apart.
//! - [`elements`]: the items, members, scores, fields, stream entries, groups and pending entries of any value, one at a time,
//!   from whole values or from parts.
//! - [`Value`]: a value with all its elements, owned and comparable.
//! - [`encode`], [`RdbWriter`]: values and whole files in the form that a chosen server version reads.
//! - [`convert`]: values made fit for another version or vendor, by the cheapest way, with losses named.
//! - [`aof`]: append-only files, read and written.
//! - [`native`]: any value as ordinary commands, in bounded batches, with whatever these cannot carry reported.
//! - [`crc64`]: the checksum of it all.
//! - [`mod@format`]: a chapter on what is in the bytes, with a matrix of types and versions.
//!
//! # What it promises
//!
//! - Events do not depend on how the input was cut, and no byte is looked at again that was passed.
//! - Memory follows the bytes that are there, never a length that is claimed, and [`Limits`] bound it: about twice a
//!   part of a value (1 MiB) and the longest key, whatever the file.
//! - No panic, no unsafe code, no recursion. Errors say what rule is broken, at which byte, in which key.
//! - The checksum is verified, and the snapshot's end is found exactly.
//!
//! # What it refuses
//!
//! Types and opcodes that it does not know ([`Error::UnknownType`]), since nothing behind them can be found; values that modules of
//! Redis 4.0 release candidates wrote ([`Error::PreGaModule`]), whose end only the module knows; and lengths
//! above the limits.
//!
//! # Example
//!
//! Counts the keys of each type in a file, reading it in pieces:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::io::Read;
//!
//! use keyferry_rdb::{Event, Parser};
//!
//! fn count(mut file: impl Read) -> Result<BTreeMap<&'static str, u64>, Box<dyn std::error::Error>> {
//!     let mut parser = Parser::new();
//!     let mut counts = BTreeMap::new();
//!     while !parser.is_finished() {
//!         let n = file.read(parser.space(64 * 1024))?;
//!         parser.filled(n);
//!         while let Some(event) = parser.next_event()? {
//!             let ty = match event {
//!                 Event::Entry(entry) => entry.head.ty,
//!                 Event::ValueStart(head) => head.ty,
//!                 _ => continue,
//!             };
//!             *counts.entry(ty.kind().name()).or_default() += 1;
//!         }
//!         if n == 0 {
//!             parser.end_of_input()?;
//!         }
//!     }
//!     Ok(counts)
//! }
//!
//! let file = b"REDIS0003\xFE\x00\x00\x01a\x05hello\x01\x01b\x02\x01x\x01y\xFF";
//! assert_eq!(count(&file[..])?, BTreeMap::from([("list", 1), ("string", 1)]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Moving a value
//!
//! A server of the same or a newer version takes the raw value as it is:
//!
//! ```
//! use bytes::BytesMut;
//! use keyferry_rdb::{Event, Parser, dump};
//!
//! let mut parser = Parser::new();
//! parser.feed(b"REDIS0003\xFE\x00\x00\x01a\x05hello\xFF");
//! let mut payload = BytesMut::new();
//! while let Some(event) = parser.next_event()? {
//!     if let Event::Entry(entry) = event {
//!         payload.clear();
//!         dump::append_payload(&mut payload, entry.value, dump::UNIVERSAL_VERSION);
//!         // RESTORE <entry.head.key> <entry.head.expiry or 0> <payload> ABSTTL
//!     }
//! }
//! assert_eq!(payload.len(), 1 + 6 + 2 + 8);
//! # Ok::<(), keyferry_rdb::Error>(())
//! ```
//!
//! # Features
//!
//! - `crc-fast`: computes CRC-64 by carry-less multiplication, where the processor has it, instead of by tables:
//!   some twenty times as fast on long inputs, three times on a whole file of large values. Results are the same.

mod blob;
mod crc;
mod error;
mod event;
mod limits;
mod lzf;
mod parser;
mod target;
mod text;
mod types;
mod value;
mod vector_set;
mod walk;
mod wire;
mod writer;

pub mod aof;
pub mod convert;
pub mod dump;
pub mod elements;
pub mod encode;
pub mod format;
pub mod native;

pub use crc::{Crc64, crc64};
pub use error::{Error, Quoted};
pub use event::{
    Checksum, Entry, EntryHead, Event, Eviction, FunctionPreGa, HashTemplate, Header, ModuleAux, PlainString,
    RawValue, SlotImport, SlotInfo,
};
pub use limits::Limits;
pub use parser::Parser;
pub use target::{CompactLimits, TargetFormat, UnknownServer};
pub use types::{Dialect, Kind, ModuleId, ValueType};
pub use value::{
    Array, HashField, Idempotency, PendingEntry, Producer, Stream, StreamConsumer, StreamGroup, StreamItem,
    Value,
};
pub use writer::RdbWriter;
