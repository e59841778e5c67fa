//! What a target server understands.

use crate::types::{Dialect, Kind, ValueType};

/// The commands a target has, as far as rebuilding values depends on them.
///
/// Choose by version with [`redis`](Self::redis) or [`valkey`](Self::valkey), then change single fields where a vendor
/// differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// `HSET` takes several fields (Redis 4.0). Without it `HMSET` is used.
    pub multi_hset: bool,
    /// Streams exist (Redis 5.0).
    pub streams: bool,
    /// `XGROUP CREATECONSUMER` exists (Redis 6.2). Without it `XREADGROUP` on the consumer's own past is used.
    pub create_consumer: bool,
    /// `XSETID` takes `ENTRIESADDED` and `MAXDELETEDID`, `XGROUP CREATE` takes `ENTRIESREAD` (Redis 7.0).
    pub stream_counters: bool,
    /// `HPEXPIREAT` exists (Redis 7.4, Valkey 9.0).
    pub field_expiry: bool,
    /// `XCFGSET` and `XIDMPRECORD` exist (Redis 8.6).
    pub idempotent_producers: bool,
    /// `XNACK` exists (Redis 8.8).
    pub released_entries: bool,
    /// `ARSET` and `ARSEEK` exist (Redis 8.8).
    pub arrays: bool,
    /// Vector sets are built in (Redis 8.0), in this
    /// [layout](crate::RawValue::vector_set_layout) and older ones. Layout 1 came with Redis 8.0.3. They are values of a
    /// module, so no commands are made for them.
    pub vector_sets: Option<u8>,
}

impl Features {
    /// Those of a release of Redis, or of a server that follows it (KeyDB 6: 6.2, Redict 7.3: 7.2).
    pub const fn redis(major: u16, minor: u16) -> Self {
        let version = major as u32 * 1000 + minor as u32;
        Self {
            multi_hset: version >= 4000,
            streams: version >= 5000,
            create_consumer: version >= 6002,
            stream_counters: version >= 7000,
            field_expiry: version >= 7004,
            idempotent_producers: version >= 8006,
            released_entries: version >= 8008,
            arrays: version >= 8008,
            vector_sets: match version {
                ..8000 => None,
                8000 => Some(0),
                _ => Some(1),
            },
        }
    }

    /// Those of a release of Valkey.
    pub const fn valkey(major: u16, _minor: u16) -> Self {
        Self { field_expiry: major >= 9, ..Self::redis(7, 2) }
    }

    /// Those of the oldest release that writes values of this type, and therefore of the server it came from, whatever
    /// that was. Commands chosen by these work on every server that knows the type.
    pub const fn of_source(ty: ValueType, dialect: Dialect) -> Self {
        if matches!(dialect, Dialect::Valkey) {
            return Self::valkey(9, 0);
        }
        match ty {
            ValueType::Stream => Self::redis(5, 0),
            ValueType::Stream2 => Self::redis(7, 0),
            ValueType::Stream3 => Self::redis(7, 2),
            ValueType::Stream4 => Self::redis(8, 6),
            ValueType::Stream5 => Self::redis(8, 8),
            _ => match ty.kind() {
                Kind::Array => Self::redis(8, 8),
                Kind::Hash if ty.since() >= 12 => Self::redis(7, 4),
                _ => Self::redis(2, 6),
            },
        }
    }
}
