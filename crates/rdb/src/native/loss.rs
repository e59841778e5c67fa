//! What commands or another encoding cannot carry over.

use std::fmt;

use crate::types::ValueType;

/// Part of a value that does not reach the target, and why. Reported to the [`CommandSink`](super::CommandSink) of a
/// rebuilding, and by encoders.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// The whole value: its type has no commands, on this target or at all. No command was given.
    NoNativeForm {
        /// The type.
        ty: ValueType,
    },
    /// The whole value: the target knows no type that could hold it.
    NotAccepted {
        /// The type.
        ty: ValueType,
    },
    /// The value has no elements, so there is no key to be made: servers drop such keys when they load them.
    EmptyContainer {
        /// The type.
        ty: ValueType,
    },
    /// Expiries of hash fields. The fields themselves were kept and will not expire.
    FieldExpiry {
        /// Number of fields.
        fields: u64,
    },
    /// Pending entries whose stream entry was deleted. `XCLAIM` makes pending entries of existing ones only.
    PendingOfDeletedEntries {
        /// Name of the consumer group.
        group: Box<[u8]>,
        /// Number of pending entries.
        entries: u64,
    },
    /// Pending entries that were released and have no owner (Redis 8.8): the target has no place for them.
    ReleasedEntries {
        /// Name of the consumer group.
        group: Box<[u8]>,
        /// Number of pending entries.
        entries: u64,
    },
    /// When consumers were last seen and active: no command sets it, it becomes the time of the copy.
    ConsumerTimes {
        /// Number of consumers.
        consumers: u64,
    },
    /// When consumers were last active, as opposed to seen (Redis 7.2): the target has no place for it and takes it to
    /// be the same.
    ActiveTimes {
        /// Number of consumers.
        consumers: u64,
    },
    /// Data that modules attached to the key (Redis 8.6): the target has no place for it.
    KeyMetadata,
    /// Number of entries added and read, and the largest deleted id (Redis 7.0): the target has no place for them.
    StreamCounters,
    /// Idempotency ids of producers, their bounds where these are not the usual ones, and their counts (Redis 8.6): the
    /// target has no place for them.
    IdempotentProducers {
        /// Number of idempotency ids.
        records: u64,
    },
    /// Idempotency ids of entries that were deleted, which no command can record.
    IdempotencyOfDeletedEntries {
        /// Number of idempotency ids.
        records: u64,
    },
    /// Number of idempotency ids added and duplicates refused: no command sets it.
    IdempotencyTotals,
}

impl Loss {
    /// A short fixed name of the kind of loss, for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoNativeForm { .. } => "no native form",
            Self::NotAccepted { .. } => "not accepted",
            Self::EmptyContainer { .. } => "empty container",
            Self::FieldExpiry { .. } => "field expiry",
            Self::PendingOfDeletedEntries { .. } => "pending entries of deleted stream entries",
            Self::ReleasedEntries { .. } => "released pending entries",
            Self::ConsumerTimes { .. } => "consumer times",
            Self::ActiveTimes { .. } => "active times",
            Self::KeyMetadata => "key metadata",
            Self::StreamCounters => "stream counters",
            Self::IdempotentProducers { .. } => "idempotent producers",
            Self::IdempotencyOfDeletedEntries { .. } => "idempotency ids of deleted stream entries",
            Self::IdempotencyTotals => "idempotency totals",
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNativeForm { ty } => write!(f, "no commands rebuild a value of type {ty} on this target"),
            Self::NotAccepted { ty } => write!(f, "a value of type {ty}: the target knows no type for it"),
            Self::EmptyContainer { ty } => {
                write!(f, "a value of type {ty} has no elements, so it makes no key")
            }
            Self::FieldExpiry { fields } => {
                write!(f, "the expiry of {fields} hash fields: the target has no expiring fields")
            }
            Self::PendingOfDeletedEntries { group, entries } => write!(
                f,
                "{entries} pending entries of group \"{}\" whose stream entries were deleted",
                group.escape_ascii()
            ),
            Self::ReleasedEntries { group, entries } => write!(
                f,
                "{entries} pending entries of group \"{}\" without an owner: the target has no place for them",
                group.escape_ascii()
            ),
            Self::ConsumerTimes { consumers } => {
                write!(f, "the seen and active times of {consumers} consumers, which no command sets")
            }
            Self::ActiveTimes { consumers } => {
                write!(f, "the active times of {consumers} consumers: the target has no place for them")
            }
            Self::KeyMetadata => {
                f.write_str("data that modules attached to the key: the target has no place for it")
            }
            Self::StreamCounters => f.write_str("a stream's counters: the target has no place for them"),
            Self::IdempotentProducers { records } => {
                write!(
                    f,
                    "{records} idempotency ids of producers, their bounds and counts: the target has no place for them"
                )
            }
            Self::IdempotencyOfDeletedEntries { records } => {
                write!(f, "{records} idempotency ids of stream entries that were deleted")
            }
            Self::IdempotencyTotals => {
                f.write_str("a stream's counts of idempotency ids, which no command sets")
            }
        }
    }
}
