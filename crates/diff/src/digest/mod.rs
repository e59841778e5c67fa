//! Keys reduced to digests: equal for equal values whatever the encoding, vendor or version.

mod hash;
mod short;
mod snapshot;
mod value;

use keyferry_rdb::{Kind, Limits};

pub(crate) use hash::Hash;
pub use snapshot::{SnapshotDigester, SnapshotSummary, digest};
pub use value::{ValueDifferences, ValueDigest, ValueDigester};

/// How values are reduced. Digests can be compared when they were made with the same.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DigestOptions {
    /// What all hashes start from. With a number that nobody else knows, nobody can make two values of one digest.
    /// Default 0, so that digests of different runs can be compared.
    pub seed: u64,
    /// Hash fields that expire at this time, in milliseconds since the Unix epoch, or before are left out. Default: none
    /// are.
    pub expired_until: Option<i64>,
    /// Whether that counts as well which snapshots keep, but the servers' own replication does not always: how many entries a
    /// group has read, consumers without pending entries, and when consumers were last seen. Default: no.
    pub unreplicated: bool,
    /// Whether expiries of hash fields count as exact that a keyferry migration holds back, 2^45 ms later, while its target is behind.
    /// Default: no.
    pub held_deadlines: bool,
    /// Bounds on what snapshots may make this hold.
    pub limits: Limits,
}

/// A key, reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDigest<'a> {
    /// Its database.
    pub db: u64,
    /// Its name.
    pub key: &'a [u8],
    /// The type of its value.
    pub kind: Kind,
    /// Its value.
    pub value: ValueDigest,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expiry: Option<i64>,
}
