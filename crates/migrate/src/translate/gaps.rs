//! What one server says and another does not know.

use keyferry_client::{ServerInfo, Vendor, Version};

use crate::target::{format_of, knows_all_of};

/// Forms of commands that the source may use and the target does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    /// `SET … PXAT`, `LMOVE`, `COPY`, `LPOP key count`, `XGROUP CREATECONSUMER` (6.2).
    pub(super) since_6_2: bool,
    /// `PEXPIREAT … GT`, `XSETID … ENTRIESADDED`, `XGROUP … ENTRIESREAD`, functions, `SPUBLISH` (7.0).
    pub(super) since_7_0: bool,
    /// Deadlines of hash fields (Redis 7.4, Valkey 9.0).
    pub(super) field_expiry: bool,
    /// Vector sets (Redis 8.0).
    pub(super) vector_sets: bool,
    /// `MSETEX` (Redis 8.4, Valkey 9.1).
    pub(super) msetex: bool,
    /// Idempotent producers of streams (Redis 8.6).
    pub(super) idempotent_producers: bool,
    /// Encodings of values.
    pub(super) payloads: bool,
}

impl Gaps {
    /// From one server, or one of which nothing is known, to another.
    pub(super) fn between(source: Option<&ServerInfo>, target: &ServerInfo) -> Self {
        let gap = |knows: fn(&ServerInfo) -> bool| source.is_none_or(knows) && !knows(target);
        Gaps {
            since_6_2: gap(|server| as_redis(server) >= Version::new(6, 2, 0)),
            since_7_0: gap(|server| as_redis(server) >= Version::new(7, 0, 0)),
            field_expiry: gap(|server| match server.vendor {
                Vendor::Valkey => server.version >= Version::new(9, 0, 0),
                _ => as_redis(server) >= Version::new(7, 4, 0),
            }),
            vector_sets: gap(|server| as_redis(server) >= Version::new(8, 0, 0)),
            msetex: gap(|server| match server.vendor {
                Vendor::Valkey => server.version >= Version::new(9, 1, 0),
                _ => as_redis(server) >= Version::new(8, 4, 0),
            }),
            idempotent_producers: gap(|server| as_redis(server) >= Version::new(8, 6, 0)),
            payloads: source.is_none_or(|source| !knows_all_of(&format_of(target), &format_of(source))),
        }
    }

    /// Those of either.
    pub(super) fn or(self, other: Self) -> Self {
        Gaps {
            since_6_2: self.since_6_2 || other.since_6_2,
            since_7_0: self.since_7_0 || other.since_7_0,
            field_expiry: self.field_expiry || other.field_expiry,
            vector_sets: self.vector_sets || other.vector_sets,
            msetex: self.msetex || other.msetex,
            idempotent_producers: self.idempotent_producers || other.idempotent_producers,
            payloads: self.payloads || other.payloads,
        }
    }

    pub(super) fn any(self) -> bool {
        self != Gaps::default()
    }
}

/// The release of Redis whose commands a server has: forks have those of the one that they left.
fn as_redis(server: &ServerInfo) -> Version {
    match server.vendor {
        Vendor::Valkey | Vendor::Redict => Version::new(7, 2, 0),
        Vendor::KeyDb => Version::new(6, 2, 0),
        _ => server.version,
    }
}
