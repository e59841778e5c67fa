//! What a target server understands, decided from what it says it is.

use keyferry_client::{ServerInfo, Vendor, Version};
use keyferry_rdb::{
    TargetFormat, ValueType, dump,
    native::{Features, Loss},
};

use crate::expiry::Forms;

/// Abilities of a target that change what it is sent (`dump-restore.md` §3, `rdb.md` §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// `RESTORE … REPLACE` (3.0).
    pub(crate) replace: bool,
    /// `RESTORE … ABSTTL`, `IDLETIME`, `FREQ` (5.0).
    pub(crate) absolute_ttl: bool,
    /// `SET … PXAT` (6.2).
    pub(crate) set_pxat: bool,
    /// `PEXPIREAT … GT` (7.0).
    pub(crate) expire_gt: bool,
    /// `FUNCTION LOAD` (7.0).
    pub(crate) functions: bool,
    /// Key metadata in payloads (Redis 8.6).
    pub(crate) key_metadata: bool,
    /// The commands that build values.
    pub(crate) native: Features,
    /// The encodings that it reads.
    pub(crate) format: TargetFormat,
}

impl Abilities {
    /// How it is told deadlines.
    pub(crate) fn deadline_forms(&self) -> Forms {
        Forms { set_pxat: self.set_pxat, absolute_ttl: self.absolute_ttl, fields: self.native.field_expiry }
    }

    pub(crate) fn of(server: &ServerInfo) -> Self {
        let version = server.version;
        // Forks count on from the Redis version that they left.
        let since = |major, minor| version >= Version::new(major, minor, 0);
        let keydb = server.vendor == Vendor::KeyDb;
        Abilities {
            replace: since(3, 0),
            absolute_ttl: since(5, 0),
            set_pxat: since(6, 2),
            expire_gt: since(7, 0) && !keydb,
            functions: since(7, 0) && !keydb,
            key_metadata: server.vendor == Vendor::Redis && since(8, 6),
            native: match server.vendor {
                Vendor::Valkey => Features::valkey(number(version.major), number(version.minor)),
                // Redict left Redis after 7.2; its own numbers say more.
                Vendor::Redict => Features::redis(7, 2),
                _ => Features::redis(number(version.major), number(version.minor)),
            },
            format: format_of(server),
        }
    }
}

/// The format that a server of a vendor that is known reads.
pub(crate) fn known_format_of(server: &ServerInfo) -> Option<TargetFormat> {
    let vendor = match server.vendor {
        Vendor::Redis => "redis",
        Vendor::Valkey => "valkey",
        Vendor::Redict => "redict",
        Vendor::KeyDb => "keydb",
        _ => return None,
    };
    format!("{vendor}-{}.{}.{}", server.version.major, server.version.minor, server.version.patch)
        .parse()
        .ok()
}

/// The format that a server reads; others are taken for a Redis of their version.
pub(crate) fn format_of(server: &ServerInfo) -> TargetFormat {
    let redis = || TargetFormat::redis(number(server.version.major), number(server.version.minor));
    known_format_of(server).unwrap_or_else(redis)
}

/// True when all that servers with the format `source` write can be read by those with `target`.
pub(crate) fn knows_all_of(target: &TargetFormat, source: &TargetFormat) -> bool {
    // Until 7.2 there was one history: version 11.
    let same_line = target.dialect() == source.dialect() || source.version() <= 11;
    same_line && (target.version() >= source.version() || target.dialect() != source.dialect())
}

/// True for what somebody would miss. The rest is what no command tells, as when a consumer was last seen.
pub(crate) fn is_grave(loss: &Loss) -> bool {
    matches!(
        loss,
        Loss::NoNativeForm { .. } | Loss::NotAccepted { .. } | Loss::FieldExpiry { .. } | Loss::KeyMetadata
    )
}

fn number(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// The version of a payload of this type that all who read it take. One type means another thing by the versions of Redis.
pub(crate) fn payload_version(ty: ValueType) -> u16 {
    if ty == ValueType::HashValkey { TargetFormat::valkey(9, 0).version() } else { dump::UNIVERSAL_VERSION }
}
