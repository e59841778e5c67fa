//! Slots, commands and topologies of Redis and Valkey clusters, as plain data.
//!
//! A cluster divides its keys into 16384 slots by a checksum of the key, or of the part of it between braces. This crate **takes** keys,
//! commands and the replies of servers, and **gives** slots, the keys of commands, the way to carry a command out, and the owners of
//! slots. There is no connection in it.
//!
//! | you want | take |
//! |---|---|
//! | the slot of a key, a name in the same slot | [`slot`], [`hash_tag`], [`sibling_key`], [`tag_for_slot`] |
//! | the keys of a command and what it does to them | [`CommandTable::keys`] |
//! | what a command is about, and the ACL categories that it is in | [`CommandSpec::group`], [`CommandSpec::is_in_category`] |
//! | to know what is a write, and which writes may be sent again | [`CommandTable::is_write`], [`CommandTable::replay`] |
//! | to carry a command out in a cluster | [`CommandTable::route`], [`CommandTable::plan_transaction`], [`with_keys_replaced`] |
//! | the nodes of a cluster, and who serves a slot | [`Topology`], [`Redirect`] |
//! | to choose keys | [`KeyPattern`], [`SlotSet`] |
//!
//! Commands are anything that implements [`Arguments`]: those of keyferry-resp, slices of strings or bytes.
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
//! The rules are those of Redis 3.0 and later and of all Valkey versions.

mod args;
mod crc16;
mod error;
mod glob;
mod group;
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
pub use group::Group;
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
