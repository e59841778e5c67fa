//! Bounds on what a peer's bytes may make this crate hold in memory.

/// Bounds on what input may make a reader hold.
///
/// Lengths in RDB data are claims of whoever wrote it. No reader of this crate allocates from a claim: memory
/// grows as bytes arrive, and these bounds end the growth. Each has a default that real data stays under.
///
/// ```
/// use keyferry_rdb::{Limits, Parser};
///
/// let mut limits = Limits::default();
/// limits.value_part = 64 * 1024; // values above 64 KiB arrive in parts
/// let parser = Parser::with_limits(limits);
/// # let _ = parser;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest key in bytes, after decompression. Default 512 MiB, the servers' own bound.
    pub key: usize,
    /// Values whose raw form is longer than this many bytes are delivered in parts of at most this many bytes.
    /// It also bounds what is buffered of a value. Default 1 MiB; at least 64 is used.
    pub value_part: usize,
    /// Longest record that is not a key, in raw bytes: auxiliary fields, functions, module auxiliary data, hash
    /// templates, key metadata. Default 64 MiB.
    pub record: usize,
    /// Longest output of one compressed string outside of values (keys, auxiliary fields, functions).
    /// Default 512 MiB. The format's largest expansion, 88-fold, is enforced besides.
    pub inflated: usize,
    /// Number of hash templates a snapshot may register (RDB 15). Default 1,048,576.
    pub templates: usize,
    /// Longest element (item, member, field, value, name) or compact blob (ziplist, listpack, intset, zipmap) that an
    /// element decoder holds at once, in decoded bytes. Default 512 MiB, the servers' own bound for a string.
    pub element: usize,
    /// An element decoder gives string values in chunks of about this many bytes. Default 256 KiB; at least 64 is used.
    pub chunk: usize,
    /// Longest command of an append-only file in bytes. Default 1 GiB.
    pub command: usize,
    /// Entries in the pending list of one consumer group, which an element decoder must hold together to tell each
    /// one's owner; 40 bytes each. Default 8,388,608.
    pub pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key: 512 << 20,
            value_part: 1 << 20,
            record: 64 << 20,
            inflated: 512 << 20,
            templates: 1 << 20,
            element: 512 << 20,
            chunk: 256 << 10,
            command: 1 << 30,
            pending: 8 << 20,
        }
    }
}
