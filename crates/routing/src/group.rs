//! What commands are about: the groups that servers put them in.

use crate::table::{CommandFlags, CommandSpec};

/// What a command is about: the group that `COMMAND DOCS` gives it.
///
/// Commands that a server learned from a module, and others that are not known by name, are [`Group::Module`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Group {
    /// Keys of any type: `DEL`, `EXPIRE`, `RENAME`, `RESTORE`, `SORT`.
    Generic,
    /// Strings.
    String,
    /// Strings as arrays of bits.
    Bitmap,
    /// Strings that estimate how many they have seen.
    HyperLogLog,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Sorted sets.
    SortedSet,
    /// Sorted sets of places.
    Geo,
    /// Hashes.
    Hash,
    /// Streams.
    Stream,
    /// Arrays (Redis 8.8).
    Array,
    /// Messages.
    PubSub,
    /// Scripts and functions.
    Scripting,
    /// `MULTI`, `WATCH` and what belongs to them.
    Transactions,
    /// One connection.
    Connection,
    /// One server, or everything that it holds: `FLUSHALL`, `SWAPDB`.
    Server,
    /// Clusters.
    Cluster,
    /// Commands of sentinels.
    Sentinel,
    /// Commands of modules; those of vector sets are.
    Module,
}

impl Group {
    /// Every group.
    pub const ALL: &'static [Self] = &[
        Self::Generic,
        Self::String,
        Self::Bitmap,
        Self::HyperLogLog,
        Self::List,
        Self::Set,
        Self::SortedSet,
        Self::Geo,
        Self::Hash,
        Self::Stream,
        Self::Array,
        Self::PubSub,
        Self::Scripting,
        Self::Transactions,
        Self::Connection,
        Self::Server,
        Self::Cluster,
        Self::Sentinel,
        Self::Module,
    ];

    /// The servers' word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::String => "string",
            Self::Bitmap => "bitmap",
            Self::HyperLogLog => "hyperloglog",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "sorted-set",
            Self::Geo => "geo",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Array => "array",
            Self::PubSub => "pubsub",
            Self::Scripting => "scripting",
            Self::Transactions => "transactions",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Cluster => "cluster",
            Self::Sentinel => "sentinel",
            Self::Module => "module",
        }
    }

    /// The group of a command of Redis or Valkey with this lower-case name, `container|subcommand` or the name alone.
    pub(crate) fn of(name: &str) -> Self {
        let top = name.split_once('|').map_or(name, |(container, _)| container);
        match top {
            "copy" | "del" | "dump" | "exists" | "expire" | "expireat" | "expiretime" | "keys"
            | "migrate" | "move" | "object" | "persist" | "pexpire" | "pexpireat" | "pexpiretime"
            | "pttl" | "randomkey" | "rename" | "renamenx" | "restore" | "scan" | "sort" | "sort_ro"
            | "touch" | "ttl" | "type" | "unlink" | "wait" | "waitaof" => Self::Generic,
            "append" | "decr" | "decrby" | "delex" | "delifeq" | "digest" | "get" | "getdel" | "getex"
            | "getrange" | "getset" | "incr" | "incrby" | "incrbyfloat" | "increx" | "lcs" | "mget"
            | "mset" | "msetex" | "msetnx" | "psetex" | "set" | "setex" | "setnx" | "setrange" | "strlen"
            | "substr" => Self::String,
            "bitcount" | "bitfield" | "bitfield_ro" | "bitop" | "bitpos" | "getbit" | "setbit" => {
                Self::Bitmap
            }
            "pfadd" | "pfcount" | "pfdebug" | "pfmerge" | "pfselftest" => Self::HyperLogLog,
            "blmove" | "blmpop" | "blpop" | "brpop" | "brpoplpush" | "lindex" | "linsert" | "llen"
            | "lmove" | "lmpop" | "lpop" | "lpos" | "lpush" | "lpushx" | "lrange" | "lrem" | "lset"
            | "ltrim" | "rpop" | "rpoplpush" | "rpush" | "rpushx" => Self::List,
            "sadd" | "scard" | "sdiff" | "sdiffstore" | "sinter" | "sintercard" | "sinterstore"
            | "sismember" | "smembers" | "smismember" | "smove" | "spop" | "srandmember" | "srem"
            | "sscan" | "sunion" | "sunionstore" => Self::Set,
            "geoadd"
            | "geodist"
            | "geohash"
            | "geopos"
            | "georadius"
            | "georadius_ro"
            | "georadiusbymember"
            | "georadiusbymember_ro"
            | "geosearch"
            | "geosearchstore" => Self::Geo,
            "bzmpop" | "bzpopmax" | "bzpopmin" => Self::SortedSet,
            "multi" | "exec" | "discard" | "watch" | "unwatch" => Self::Transactions,
            "publish" | "subscribe" | "unsubscribe" | "psubscribe" | "punsubscribe" | "pubsub"
            | "spublish" | "ssubscribe" | "sunsubscribe" => Self::PubSub,
            "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro" | "function" | "script" => {
                Self::Scripting
            }
            "auth" | "client" | "echo" | "hello" | "ping" | "quit" | "reset" | "select" => Self::Connection,
            "asking" | "cluster" | "clusterscan" | "readonly" | "readwrite" => Self::Cluster,
            "acl" | "bgrewriteaof" | "bgsave" | "command" | "commandlog" | "config" | "dbsize" | "debug"
            | "failover" | "flushall" | "flushdb" | "hotkeys" | "info" | "lastsave" | "latency"
            | "lolwut" | "memory" | "module" | "monitor" | "psync" | "replconf" | "replicaof"
            | "restore-asking" | "role" | "save" | "sflush" | "shutdown" | "slaveof" | "slowlog"
            | "swapdb" | "sync" | "time" | "trimslots" => Self::Server,
            "sentinel" => Self::Sentinel,
            // Names with a dot are modules', as is everything that is not known.
            _ if top.contains('.') => Self::Module,
            "zadd" | "zcard" | "zcount" | "zdiff" | "zdiffstore" | "zincrby" | "zinter" | "zintercard"
            | "zinterstore" | "zlexcount" | "zmpop" | "zmscore" | "zpopmax" | "zpopmin" | "zrandmember"
            | "zrange" | "zrangebylex" | "zrangebyscore" | "zrangestore" | "zrank" | "zrem"
            | "zremrangebylex" | "zremrangebyrank" | "zremrangebyscore" | "zrevrange" | "zrevrangebylex"
            | "zrevrangebyscore" | "zrevrank" | "zscan" | "zscore" | "zunion" | "zunionstore" => {
                Self::SortedSet
            }
            "hdel" | "hexists" | "hexpire" | "hexpireat" | "hexpiretime" | "hget" | "hgetall" | "hgetdel"
            | "hgetex" | "hincrby" | "hincrbyfloat" | "hkeys" | "hlen" | "hmget" | "hmset" | "hpersist"
            | "hpexpire" | "hpexpireat" | "hpexpiretime" | "hpttl" | "hrandfield" | "hscan" | "hset"
            | "hsetex" | "hsetnx" | "hstrlen" | "httl" | "hvals" => Self::Hash,
            "xack" | "xackdel" | "xadd" | "xautoclaim" | "xcfgset" | "xclaim" | "xdel" | "xdelex"
            | "xgroup" | "xidmprecord" | "xinfo" | "xlen" | "xnack" | "xpending" | "xrange" | "xread"
            | "xreadgroup" | "xrevrange" | "xsetid" | "xtrim" => Self::Stream,
            "arcount" | "ardel" | "ardelrange" | "arget" | "argetrange" | "argrep" | "arinfo"
            | "arinsert" | "arlastitems" | "arlen" | "armget" | "armset" | "arnext" | "arop" | "arring"
            | "arscan" | "arseek" | "arset" => Self::Array,
            _ => Self::Module,
        }
    }
}

impl CommandSpec {
    /// What the command is about.
    #[inline]
    pub fn group(&self) -> Group {
        self.group
    }

    /// Whether the server's ACL puts it into this category: `write`, `list`, `dangerous`, and so on, in any letter case,
    /// without the `@`. None for a category that no server has.
    ///
    /// The categories are those of `ACL CAT` in Redis 8 and Valkey 9. Commands of modules are in those that their flags tell.
    pub fn is_in_category(&self, category: &str) -> Option<bool> {
        let flags = self.flags();
        let has = |flag| flags.contains(flag);
        let category = category.to_ascii_lowercase();
        Some(match &*category {
            "all" => true,
            "read" => has(CommandFlags::READONLY) && self.group != Group::Scripting,
            "write" => has(CommandFlags::WRITE) && self.group != Group::Scripting,
            "keyspace" => {
                !matches!(self.name(), "sort" | "sort_ro" | "wait" | "waitaof")
                    && self.group == Group::Generic
                    || matches!(
                        self.name(),
                        "dbsize"
                            | "flushall"
                            | "flushdb"
                            | "restore-asking"
                            | "swapdb"
                            | "cluster|flushslot"
                            | "sflush"
                    )
            }
            "string" => self.group == Group::String,
            "bitmap" => self.group == Group::Bitmap,
            "hyperloglog" => self.group == Group::HyperLogLog,
            "list" => self.group == Group::List || matches!(self.name(), "sort" | "sort_ro"),
            "set" => self.group == Group::Set || matches!(self.name(), "sort" | "sort_ro"),
            "sortedset" => self.group == Group::SortedSet || matches!(self.name(), "sort" | "sort_ro"),
            "geo" => self.group == Group::Geo,
            "hash" => self.group == Group::Hash,
            "stream" => self.group == Group::Stream,
            "array" => self.group == Group::Array,
            "pubsub" => has(CommandFlags::PUBSUB),
            "scripting" => self.group == Group::Scripting,
            "transaction" => self.group == Group::Transactions,
            "connection" => {
                self.group == Group::Connection
                    || self.name().starts_with("command")
                    || matches!(self.name(), "asking" | "readonly" | "readwrite" | "wait" | "waitaof")
            }
            "admin" => has(CommandFlags::ADMIN),
            "dangerous" => has(CommandFlags::ADMIN) || is_dangerous(self.name()),
            "fast" => has(CommandFlags::FAST),
            "slow" => !has(CommandFlags::FAST),
            "blocking" => has(CommandFlags::BLOCKING),
            _ => return None,
        })
    }
}

/// Dangerous though no command for operators.
fn is_dangerous(name: &str) -> bool {
    matches!(
        name,
        "flushall"
            | "flushdb"
            | "info"
            | "keys"
            | "lastsave"
            | "migrate"
            | "restore"
            | "restore-asking"
            | "role"
            | "sort"
            | "sort_ro"
            | "swapdb"
            | "sflush"
            | "trimslots"
    )
}
