//! Key slots and hash tags of Redis and Valkey clusters.
//!
//! A cluster divides its keys into 16384 slots by a checksum of the key, or of the part of it between braces. This
//! crate **takes** key names, which may be any bytes, and **gives** their slots, the part that is hashed, and names
//! for further keys that live in the same slot. It is plain data: no connection, no allocation but for new names, nothing
//! that can fail.
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

mod crc16;
mod sibling;
mod slot;

pub use sibling::{sibling_key, tag_for_slot};
pub use slot::{SLOTS, hash_tag, slot};

/// The examples of the README run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
