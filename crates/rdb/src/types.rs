//! Value types and the two dialects of the format.

use std::fmt;

/// Whose meaning of the numbers applies where Redis and Valkey gave one number two meanings: value type 22 and
/// opcode 243.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// Magic `REDIS`, or a DUMP footer below 80.
    #[default]
    Redis,
    /// Magic `VALKEY` (Valkey 9), or a DUMP footer of 80 and more.
    Valkey,
}

impl Dialect {
    /// The dialect of a DUMP payload with this footer version.
    pub const fn of_dump_version(version: u16) -> Self {
        if version >= 80 { Self::Valkey } else { Self::Redis }
    }
}

/// What a value is to its user, whatever its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A string, bitmap or HyperLogLog.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set or geo set.
    SortedSet,
    /// A hash, with or without expiring fields.
    Hash,
    /// A stream.
    Stream,
    /// An array (Redis 8.8).
    Array,
    /// A value of a module.
    Module,
    /// A rate limiter (Redis 8.10, optional builds).
    RateLimiter,
    /// A KeyDB cron job.
    CronJob,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::String,
        Self::List,
        Self::Set,
        Self::SortedSet,
        Self::Hash,
        Self::Stream,
        Self::Array,
        Self::Module,
        Self::RateLimiter,
        Self::CronJob,
    ];

    /// The kind of this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The word that the servers' `TYPE` command uses, or a name of ours where a server has none.
    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Array => "array",
            Self::Module => "module",
            Self::RateLimiter => "ratelimit",
            Self::CronJob => "cronjob",
        }
    }
}

macro_rules! value_types {
    ($($(#[$doc:meta])* $name:ident = $byte:literal $dialect:ident $kind:ident $since:literal $text:literal;)*) => {
        /// How a value is serialized: the type byte in front of it, with its dialect settled.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum ValueType {
            $($(#[$doc])* $name,)*
        }

        impl ValueType {
            /// Every type this crate knows.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The type that `byte` stands for in `dialect`, or `None` when the byte is no known type.
            pub const fn from_byte(byte: u8, dialect: Dialect) -> Option<Self> {
                match dialect {
                    Dialect::Redis => REDIS[byte as usize],
                    Dialect::Valkey => VALKEY[byte as usize],
                }
            }

            /// The type byte, as in RDB files and DUMP payloads.
            pub const fn byte(self) -> u8 {
                match self { $(Self::$name => $byte,)* }
            }

            /// What the value is to its user.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// The first RDB version whose release can hold this type.
            pub const fn since(self) -> u16 {
                match self { $(Self::$name => $since,)* }
            }

            /// A short name of the encoding, such as `hash-listpack`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        static REDIS: [Option<ValueType>; 256] = {
            let mut table = [None; 256];
            $(if value_types!(@redis $dialect) { table[$byte] = Some(ValueType::$name); })*
            table
        };
        static VALKEY: [Option<ValueType>; 256] = {
            let mut table = [None; 256];
            $(if value_types!(@valkey $dialect) { table[$byte] = Some(ValueType::$name); })*
            table
        };
    };
    (@redis Both) => { true };
    (@redis Redis) => { true };
    (@redis Valkey) => { false };
    (@valkey Both) => { true };
    (@valkey Redis) => { false };
    (@valkey Valkey) => { true };
}

value_types! {
    /// 0: a string.
    String = 0 Both String 1 "string";
    /// 1: a list of strings.
    List = 1 Both List 1 "list";
    /// 2: a set of strings.
    Set = 2 Both Set 1 "set";
    /// 3: a sorted set with scores as text.
    ZsetText = 3 Both SortedSet 1 "zset";
    /// 4: a hash of strings.
    Hash = 4 Both Hash 1 "hash";
    /// 5: a sorted set with binary scores (Redis 4.0).
    Zset = 5 Both SortedSet 8 "zset2";
    /// 6: a module value of a Redis 4.0 release candidate: cannot be skipped.
    ModulePreGa = 6 Both Module 8 "module";
    /// 7: a module value (Redis 4.0).
    Module = 7 Both Module 8 "module2";
    /// 9: a hash as zipmap (Redis 2.4).
    HashZipmap = 9 Both Hash 2 "hash-zipmap";
    /// 10: a list as ziplist (Redis 2.4).
    ListZiplist = 10 Both List 2 "list-ziplist";
    /// 11: a set of integers (Redis 2.4).
    SetIntset = 11 Both Set 2 "set-intset";
    /// 12: a sorted set as ziplist (Redis 2.4).
    ZsetZiplist = 12 Both SortedSet 2 "zset-ziplist";
    /// 13: a hash as ziplist (Redis 2.6).
    HashZiplist = 13 Both Hash 4 "hash-ziplist";
    /// 14: a list as quicklist of ziplists (Redis 3.2).
    ListQuicklist = 14 Both List 7 "list-quicklist";
    /// 15: a stream (Redis 5.0).
    Stream = 15 Both Stream 9 "stream-lp";
    /// 16: a hash as listpack (Redis 7.0).
    HashListpack = 16 Both Hash 10 "hash-listpack";
    /// 17: a sorted set as listpack (Redis 7.0).
    ZsetListpack = 17 Both SortedSet 10 "zset-listpack";
    /// 18: a list as quicklist of listpacks and plain nodes (Redis 7.0).
    ListQuicklist2 = 18 Both List 10 "list-quicklist2";
    /// 19: a stream with first id, deletion id and counters (Redis 7.0).
    Stream2 = 19 Both Stream 10 "stream-lp2";
    /// 20: a set as listpack (Redis 7.2).
    SetListpack = 20 Both Set 11 "set-listpack";
    /// 21: a stream with active times of consumers (Redis 7.2).
    Stream3 = 21 Both Stream 11 "stream-lp3";
    /// 22 of Redis: a hash with expiring fields, 7.4 release candidates.
    HashTtlPreGa = 22 Redis Hash 12 "hash-md-prega";
    /// 22 of Valkey: a hash with expiring fields (Valkey 9).
    HashValkey = 22 Valkey Hash 80 "hash-valkey";
    /// 23: a hash with expiring fields as listpack, 7.4 release candidates.
    HashListpackTtlPreGa = 23 Both Hash 12 "hash-lpex-prega";
    /// 24: a hash with expiring fields (Redis 7.4).
    HashTtl = 24 Both Hash 12 "hash-md";
    /// 25: a hash with expiring fields as listpack (Redis 7.4).
    HashListpackTtl = 25 Both Hash 12 "hash-lpex";
    /// 26: a stream with idempotent producers (Redis 8.6).
    Stream4 = 26 Both Stream 13 "stream-lp4";
    /// 27: a stream with released pending entries (Redis 8.8).
    Stream5 = 27 Both Stream 14 "stream-lp5";
    /// 28: an array (Redis 8.8).
    Array = 28 Both Array 14 "array";
    /// 29: a hash as listpack of values, field names with it (Redis 8.10).
    HashTemplateListpack = 29 Both Hash 15 "hash-tmpl-lp";
    /// 30: a hash as listpack of values, field names in a template of the file (Redis 8.10, files only).
    HashTemplateListpackRef = 30 Both Hash 15 "hash-tmpl-lp-ref";
    /// 31: a hash as field names, then values (Redis 8.10).
    HashTemplateArray = 31 Both Hash 15 "hash-tmpl-arr";
    /// 32: a hash as values, field names in a template of the file (Redis 8.10, files only).
    HashTemplateArrayRef = 32 Both Hash 15 "hash-tmpl-arr-ref";
    /// 33: a rate limiter (Redis 8.10, builds that enable it).
    RateLimiter = 33 Both RateLimiter 15 "gcra";
    /// 64: a cron job of KeyDB.
    CronJob = 64 Both CronJob 9 "keydb-cron";
}

impl ValueType {
    /// Whether a DUMP payload can hold this type. Types 30 and 32 refer to a template elsewhere in their file,
    /// so they cannot leave it as they are.
    pub const fn fits_dump(self) -> bool {
        !matches!(self, Self::HashTemplateListpackRef | Self::HashTemplateArrayRef)
    }

    /// The dialect in which [`byte`](Self::byte) has this meaning, or `None` when both agree.
    pub const fn only_dialect(self) -> Option<Dialect> {
        match self {
            Self::HashTtlPreGa => Some(Dialect::Redis),
            Self::HashValkey => Some(Dialect::Valkey),
            _ => None,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The 64-bit id of a module: nine characters of name and a 10-bit encoding version.
///
/// ```
/// use keyferry_rdb::ModuleId;
///
/// let id = ModuleId::new("ReJSON-RL", 3).expect("nine characters of the alphabet");
/// assert_eq!(id.to_string(), "ReJSON-RL v3");
/// assert_eq!(id.name(), *b"ReJSON-RL");
/// assert!(ModuleId::new("short", 1).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModuleId(pub u64);

impl ModuleId {
    const ALPHABET: &'static [u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// The id of a name and version, or `None` when the name is not nine characters of `A-Z a-z 0-9 - _` or the
    /// version is above 1023.
    pub fn new(name: &str, version: u16) -> Option<Self> {
        if name.len() != 9 || version > 1023 {
            return None;
        }
        let mut id = 0u64;
        for byte in name.bytes() {
            let index = Self::ALPHABET.iter().position(|&c| c == byte)?;
            id = id << 6 | index as u64;
        }
        Some(Self(id << 10 | u64::from(version)))
    }

    /// The module's nine-character type name.
    pub fn name(self) -> [u8; 9] {
        let mut name = [0; 9];
        for (i, byte) in name.iter_mut().enumerate() {
            *byte = Self::ALPHABET[(self.0 >> (58 - 6 * i) & 63) as usize];
        }
        name
    }

    /// The version of the module's encoding.
    pub const fn version(self) -> u16 {
        (self.0 & 1023) as u16
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name().escape_ascii(), self.version())
    }
}

impl fmt::Debug for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_have_names() {
        for ty in ValueType::ALL {
            assert_eq!(Kind::from_name(ty.kind().name()), Some(ty.kind()));
        }
        assert_eq!(Kind::from_name("ZSET"), None);
    }

    #[test]
    fn bytes_round_trip_in_their_dialect() {
        for &ty in ValueType::ALL {
            for dialect in [Dialect::Redis, Dialect::Valkey] {
                let seen = ValueType::from_byte(ty.byte(), dialect);
                match ty.only_dialect() {
                    Some(only) if only != dialect => assert_ne!(seen, Some(ty)),
                    _ => assert_eq!(seen, Some(ty), "{ty:?} in {dialect:?}"),
                }
            }
        }
        assert_eq!(ValueType::from_byte(8, Dialect::Redis), None);
        assert_eq!(ValueType::from_byte(150, Dialect::Valkey), None);
    }
}
