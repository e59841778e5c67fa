//! What a server accepts, and what it would write.

use std::str::FromStr;

use crate::elements::Element;
use crate::native::Features;
use crate::types::{Dialect, ValueType};

/// What a server reads and writes: which value types it knows, the version of its files, and when it keeps values in
/// compact encodings.
///
/// ```
/// use keyferry_rdb::{TargetFormat, ValueType};
///
/// let target = TargetFormat::redis(6, 2);
/// assert_eq!(target.version(), 9);
/// assert!(target.accepts(ValueType::Stream));
/// assert!(!target.accepts(ValueType::SetListpack));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetFormat {
    version: u16,
    dialect: Dialect,
    /// The commands it has, for values that go as commands.
    pub features: Features,
    /// Up to where values are written in compact encodings. The server's own defaults.
    pub compact: CompactLimits,
    /// Whether strings are compressed, as `rdbcompression yes` does, the servers' default.
    pub compress: bool,
    /// Fields of hashes that expired before this, in milliseconds since the Unix epoch, are left out where the target has
    /// no expiring fields. Snapshots keep them until the server gets round to removing them, but nobody sees them any
    /// more; without an expiry they would come back to life. Set it to the time of the copy. Default: long past.
    pub expired_before: i64,
}

/// Up to where values are kept in compact encodings, all bounds inclusive. The defaults are those of the servers'
/// configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactLimits {
    /// Bytes of a list node: `list-max-ziplist-size` and `list-max-listpack-size` of -2. Default 8192.
    pub list_node_bytes: usize,
    /// Items of a list that is one ziplist, before Redis 3.2. Default 512.
    pub list_entries: usize,
    /// Bytes of an item of such a list. Default 64.
    pub list_value: usize,
    /// Members of a set of integers. Default 512.
    pub set_integers: usize,
    /// Members of a set that is a listpack (Redis 7.2). Default 128.
    pub set_entries: usize,
    /// Bytes of a member of such a set. Default 64.
    pub set_value: usize,
    /// Members of a sorted set. Default 128.
    pub zset_entries: usize,
    /// Bytes of a member of a sorted set. Default 64.
    pub zset_value: usize,
    /// Fields of a hash. Default 512.
    pub hash_entries: usize,
    /// Bytes of a field's name or value. Default 64.
    pub hash_value: usize,
    /// Entries of a stream node. Default 100.
    pub stream_node_entries: usize,
    /// Bytes of a stream node. Default 4096.
    pub stream_node_bytes: usize,
}

impl CompactLimits {
    const DEFAULT: Self = Self {
        list_node_bytes: 8192,
        list_entries: 512,
        list_value: 64,
        set_integers: 512,
        set_entries: 128,
        set_value: 64,
        zset_entries: 128,
        zset_value: 64,
        hash_entries: 512,
        hash_value: 64,
        stream_node_entries: 100,
        stream_node_bytes: 4096,
    };
}

impl Default for CompactLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TargetFormat {
    /// The format of a release of Redis, or of a server that follows it (KeyDB 6: 6.2, Redict 7.3: 7.2 or 7.3). The
    /// oldest is 2.6; older releases get its format, which they may refuse.
    pub const fn redis(major: u16, minor: u16) -> Self {
        let version = match (major, minor) {
            (0..=2, _) | (3, 0..=1) => 6,
            (3, _) => 7,
            (4, _) => 8,
            (5..=6, _) => 9,
            (7, 0..=1) => 10,
            (7, 2..=3) => 11,
            (7, _) | (8, 0..=5) => 12,
            (8, 6..=7) => 13,
            (8, 8) => 14,
            _ => 15,
        };
        Self::new(version, Dialect::Redis, Features::redis(major, minor))
    }

    /// The format of a release of Valkey.
    pub const fn valkey(major: u16, minor: u16) -> Self {
        let (version, dialect) = if major >= 9 { (80, Dialect::Valkey) } else { (11, Dialect::Redis) };
        Self::new(version, dialect, Features::valkey(major, minor))
    }

    /// The format of the oldest release whose files have this version, for writing a file like one that was read:
    /// `REDIS0009` gives that of Redis 5.0. Versions before 6 give 6, those that no server has give the last one before.
    pub const fn of_version(version: u16, dialect: Dialect) -> Self {
        match (dialect, version) {
            (Dialect::Valkey, _) => Self::valkey(9, 0),
            (_, 0..=6) => Self::redis(2, 6),
            (_, 7) => Self::redis(3, 2),
            (_, 8) => Self::redis(4, 0),
            (_, 9) => Self::redis(5, 0),
            (_, 10) => Self::redis(7, 0),
            (_, 11) => Self::redis(7, 2),
            (_, 12) => Self::redis(7, 4),
            (_, 13) => Self::redis(8, 6),
            (_, 14) => Self::redis(8, 8),
            _ => Self::redis(8, 10),
        }
    }

    const fn new(version: u16, dialect: Dialect, features: Features) -> Self {
        Self {
            version,
            dialect,
            features,
            compact: CompactLimits::DEFAULT,
            compress: true,
            expired_before: i64::MIN,
        }
    }

    /// The version of its files and DUMP payloads.
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// Whose magic its files have.
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether it loads values of this type from a file, and, but for types 30 and 32, from a DUMP payload. Types of
    /// modules need the module besides. Rate limiters and cron jobs, which only special builds know, are refused.
    pub const fn accepts(&self, ty: ValueType) -> bool {
        use ValueType as T;
        let redis = matches!(self.dialect, Dialect::Redis);
        match ty {
            T::ModulePreGa => self.version >= 8 && self.version <= 10,
            T::HashTtlPreGa | T::HashListpackTtlPreGa | T::HashTtl | T::HashListpackTtl => {
                redis && self.version >= 12
            }
            T::Stream4
            | T::Stream5
            | T::Array
            | T::HashTemplateListpack
            | T::HashTemplateListpackRef
            | T::HashTemplateArray
            | T::HashTemplateArrayRef => redis && self.version >= ty.since(),
            T::HashValkey => !redis,
            T::RateLimiter | T::CronJob => false,
            _ => self.version >= ty.since(),
        }
    }

    /// Whether it has libraries of functions (Redis 7.0).
    pub const fn functions(&self) -> bool {
        self.version >= 10
    }

    /// Whether it keeps data that modules attach to keys (Redis 8.6).
    pub const fn key_metadata(&self) -> bool {
        matches!(self.dialect, Dialect::Redis) && self.version >= 13
    }

    /// Whether hash fields may expire (Redis 7.4, Valkey 9).
    pub const fn field_expiry(&self) -> bool {
        self.version >= 12
    }

    /// Whether this is a field whose time has passed, for which the target could not tell so.
    pub(crate) fn leaves_out(&self, element: &Element<'_>) -> bool {
        matches!(element, Element::Field { expires_at: Some(at), .. } if *at < self.expired_before)
            && !self.field_expiry()
    }

    /// Whether it writes listpacks (Redis 7.0) rather than ziplists.
    pub(crate) const fn listpacks(&self) -> bool {
        self.version >= 10
    }

    /// The type in which it keeps all that streams have.
    pub(crate) const fn stream_type(&self) -> Option<ValueType> {
        match (self.dialect, self.version) {
            (Dialect::Valkey, _) => Some(ValueType::Stream3),
            (_, 0..=8) => None,
            (_, 9) => Some(ValueType::Stream),
            (_, 10) => Some(ValueType::Stream2),
            (_, 11..=12) => Some(ValueType::Stream3),
            (_, 13) => Some(ValueType::Stream4),
            _ => Some(ValueType::Stream5),
        }
    }
}

/// The name of a server and its release: `redis-6.0`, `valkey-8.1`, `redict-7.3`, `keydb-6.3`.
///
/// ```
/// use keyferry_rdb::TargetFormat;
///
/// assert_eq!("valkey-9.0".parse(), Ok(TargetFormat::valkey(9, 0)));
/// assert!("redis-six".parse::<TargetFormat>().is_err());
/// ```
impl FromStr for TargetFormat {
    type Err = UnknownServer;

    fn from_str(text: &str) -> Result<Self, UnknownServer> {
        let unknown = || UnknownServer { name: text.into() };
        let (vendor, release) = text.split_once('-').ok_or_else(unknown)?;
        let mut numbers = release.splitn(3, '.').map(|number| number.parse::<u16>().ok());
        let major = numbers.next().flatten().ok_or_else(unknown)?;
        let minor = match numbers.next() {
            Some(minor) => minor.ok_or_else(unknown)?,
            None => 0,
        };
        let patch = match numbers.next() {
            Some(patch) => patch.ok_or_else(unknown)?,
            None => 0,
        };
        match &*vendor.to_ascii_lowercase() {
            // Redict forked at 7.2 and numbers on from there; KeyDB 6 is 6.2 with types of its own.
            "redis" | "redict" => {
                let mut target = Self::redis(major, minor);
                // The one format that a patch release changed is that of vector sets.
                if (major, minor) == (8, 0) && patch >= 3 {
                    target.features.vector_sets = Some(1);
                }
                Ok(target)
            }
            "keydb" => Ok(Self::redis(6, 2)),
            "valkey" => Ok(Self::valkey(major, minor)),
            _ => Err(unknown()),
        }
    }
}

/// A text that names no server and release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{name}\" names no server and release; give one like redis-7.2, valkey-8.1, redict-7.3 or keydb-6.3"
)]
pub struct UnknownServer {
    name: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_their_versions() {
        let redis = |major, minor| TargetFormat::redis(major, minor).version();
        let versions =
            [(2, 6), (3, 0), (3, 2), (4, 0), (5, 0), (6, 2), (7, 0), (7, 2), (7, 4), (8, 0), (8, 4), (8, 6)];
        let want = [6, 6, 7, 8, 9, 9, 10, 11, 12, 12, 12, 13];
        assert_eq!(versions.map(|(major, minor)| redis(major, minor)), want);
        assert_eq!([redis(8, 8), redis(8, 10), redis(9, 0)], [14, 15, 15]);
        assert_eq!(TargetFormat::valkey(8, 1).version(), 11);
        assert_eq!(TargetFormat::valkey(9, 0).version(), 80);
        for version in 0..100 {
            for dialect in [Dialect::Redis, Dialect::Valkey] {
                let target = TargetFormat::of_version(version, dialect);
                assert_eq!(target.dialect(), dialect);
                assert!(dialect == Dialect::Valkey || target.version() <= version.max(6));
            }
        }
    }

    #[test]
    fn servers_are_told_by_name() {
        let parse = |text: &str| text.parse::<TargetFormat>();
        assert_eq!(parse("redis-7.2"), Ok(TargetFormat::redis(7, 2)));
        assert_eq!(parse("Redis-7.2.4"), Ok(TargetFormat::redis(7, 2)));
        assert_eq!(parse("redis-8"), Ok(TargetFormat::redis(8, 0)));
        assert_eq!(parse("redis-8.0.2"), Ok(TargetFormat::redis(8, 0)));
        let vector_sets = |text| parse(text).unwrap().features.vector_sets;
        assert_eq!([vector_sets("redis-8.0.3"), vector_sets("redis-8.2")], [Some(1); 2]);
        assert_eq!([vector_sets("redis-7.4"), vector_sets("valkey-9.0")], [None; 2]);
        assert_eq!(parse("redict-7.3.6"), Ok(TargetFormat::redis(7, 2)));
        assert_eq!(parse("keydb-6.3"), Ok(TargetFormat::redis(6, 2)));
        for wrong in
            ["", "redis", "7.2", "redis-", "redis-7.x", "redis-7.2.x", "dragonfly-1.0", "redis-7.2-rc1"]
        {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("\"{wrong}\" names no server")), "{error}");
        }
    }

    #[test]
    fn newer_servers_of_a_family_accept_more() {
        let pre_ga = |ty| ty == ValueType::ModulePreGa;
        for version in 6..15 {
            let (old, new) = (
                TargetFormat::of_version(version, Dialect::Redis),
                TargetFormat::of_version(version + 1, Dialect::Redis),
            );
            for &ty in ValueType::ALL {
                assert!(!old.accepts(ty) || new.accepts(ty) || pre_ga(ty), "{ty} from {version}");
            }
        }
        let valkey = TargetFormat::valkey(9, 0);
        assert!(valkey.accepts(ValueType::HashValkey) && valkey.accepts(ValueType::Stream3));
        assert!(!valkey.accepts(ValueType::HashTtl) && !valkey.accepts(ValueType::Array));
        assert!(!TargetFormat::redis(8, 8).accepts(ValueType::HashValkey));
    }
}
