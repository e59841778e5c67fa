//! Key slots, hash tags and key patterns of Redis and Valkey.
//!
//! A cluster divides its keys into 16384 slots by a checksum of the key, or of the part of it between braces. This
//! crate **takes** key names, which may be any bytes, and **gives** their slots, the part that is hashed, and names
//! for further keys that live in the same slot. It matches keys with the patterns of `KEYS` and `SCAN`, and holds sets
//! of slots. It is plain data: no connection.
//!
//! ```
//! use keyferry_routing::{hash_tag, sibling_key, slot};
//!
//! assert_eq!(slot(b"foo"), 12182);
//! assert_eq!(hash_tag(b"user:{42}:name"), b"42");
//! assert_eq!(slot(b"user:{42}:name"), slot(b"{42}"));
//!
//! // A second key, in the slot of the first whatever its name.
//! let temporary = sibling_key(b"user:{42}:name", b"tmp:");
//! assert!(temporary.starts_with(b"tmp:"));
//! assert_eq!(slot(&temporary), slot(b"user:{42}:name"));
//! ```
//!
//! Keys can be chosen by pattern, too, as in `KEYS` and `SCAN … MATCH`: see [`KeyPattern`].
//!
//! The rules are those of Redis 3.0 and later and of all Valkey versions.

mod args;
mod crc16;
mod error;
mod glob;
mod keys;
mod meaning;
mod replay;
mod route;
mod sibling;
mod slot;
mod slot_set;
mod split;
mod table;
mod topology;
mod transaction;

pub use args::Arguments;
pub use error::KeysError;
pub use glob::KeyPattern;
pub use keys::Key;
pub use replay::Replay;
pub use route::{Compute, Refusal, Route, with_keys_replaced};
pub use sibling::{sibling_key, tag_for_slot};
pub use slot::{SLOTS, hash_tag, slot};
pub use slot_set::{SlotSet, SlotSetError};
pub use split::{Merge, Part, Split};
pub use table::{
    Access, Begin, CommandFlags, CommandSpec, CommandTable, Find, KeySpec, LearnError, keys_from_reply,
};
pub use topology::{Health, Node, Redirect, RedirectKind, Role, Shard, SlotMove, Topology, TopologyError};
pub use transaction::Step;

/// The examples of the README run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
