//! What a [`Writer`](super::Writer) writes: an endless seeded mix of commands.

use std::collections::BTreeMap;

use crate::data::writer::{Mix, WriterOptions};
use crate::data::{FAR_DEADLINE_MS, Features};
use crate::rng::Rng;

/// The longest deadline among those that shall pass while somebody looks. Everything else lives for an hour at least.
pub(super) const SHORT_TTL_MS: u64 = 1500;

/// Hash tags of a workload that uses them: the keys of one command have the same.
const TAGS: u64 = 12;

/// Keys of each kind and thread without a hash tag, in such a workload.
const UNTAGGED_KEYS: u64 = 200;

/// The commands of one thread. What one command needs (a group, a key to rename) comes before it, so that none is refused.
pub(super) struct Workload {
    /// What was generated and not yet taken.
    pub(super) batch: Vec<Vec<Vec<u8>>>,
    /// How often each command was generated.
    pub(super) by_command: BTreeMap<&'static str, u64>,
    features: Features,
    rng: Rng,
    thread: u32,
    /// Keys of each kind.
    keys: u64,
    /// The hash tag of all keys of the present step.
    tag: Option<u64>,
    /// Whether it is one server all the time, which keeps the scripts that it was given.
    stays: bool,
    hash_tags: bool,
    multi_key: bool,
    /// Whether the names of keys hold their database's number.
    apart: bool,
    short_expiries: bool,
    databases: u64,
    /// The database selected at the end of the batch.
    database: u64,
    save_the_dying: bool,
    mix: Mix,
    /// How many commands of the mix in which every one counts there were: each leaves its number somewhere.
    number: u64,
}

/// Appends one command to the batch and counts it.
macro_rules! cmd {
    ($self:ident, $name:literal $(, $arg:expr)* $(,)?) => {{
        let args: Vec<Vec<u8>> = vec![$name.into() $(, AsRef::<[u8]>::as_ref(&$arg).to_vec())*];
        *$self.by_command.entry($name).or_default() += 1;
        $self.batch.push(args);
    }};
}

mod exactly_once;
mod multi_key;

pub use multi_key::multi_key_commands;

impl Workload {
    pub(super) fn new(thread: u32, features: Features, options: &WriterOptions, stays: bool) -> Workload {
        Workload {
            batch: Vec::new(),
            by_command: BTreeMap::new(),
            features,
            rng: Rng::new(options.seed.wrapping_add(u64::from(thread) << 32)),
            thread,
            keys: options.keys.max(1),
            tag: None,
            stays,
            hash_tags: options.hash_tags,
            multi_key: options.multi_key,
            apart: options.apart,
            short_expiries: options.short_expiries,
            databases: u64::from(options.databases.max(1)),
            database: 0,
            save_the_dying: options.save_the_dying,
            mix: options.mix,
            number: 0,
        }
    }

    /// Adds at least `count` commands, all in one database, to the batch.
    pub(super) fn add(&mut self, count: usize) {
        self.database = self.rng.below(self.databases);
        cmd!(self, "SELECT", self.database.to_string());
        while self.batch.len() <= count {
            self.step();
        }
    }

    /// Groups, functions and scripts that later commands rely on. A stream with groups is never deleted.
    pub(super) fn prepare(&mut self) {
        let tags = if self.hash_tags { (0..TAGS).map(Some).collect() } else { vec![None] };
        for database in 0..self.databases {
            self.database = database;
            cmd!(self, "SELECT", database.to_string());
            for &tag in &tags {
                self.tag = tag;
                for i in 0..self.streams() {
                    let key = self.named("stream", i);
                    cmd!(self, "DEL", key);
                    cmd!(self, "XGROUP", "CREATE", key, "group", "$", "MKSTREAM");
                }
            }
        }
        self.function();
        if self.multi_key {
            self.prepare_multi_key();
        }
    }

    /// One operation on keys of the current database: mostly one command, sometimes a few that belong together.
    fn step(&mut self) {
        if self.hash_tags {
            if self.rng.chance(1, 4) {
                self.tag = None;
                return match self.mix {
                    Mix::Everything => self.single_key(),
                    Mix::ExactlyOnce => self.exactly_once_of_one_key(),
                };
            }
            self.tag = Some(self.rng.below(TAGS));
        }
        if self.mix == Mix::ExactlyOnce {
            return self.exactly_once();
        }
        if self.multi_key && self.rng.chance(2, 5) {
            return self.multi_key();
        }
        match self.rng.below(100) {
            0..20 => self.string(),
            20..30 => self.counter(),
            30..40 => self.list(),
            40..50 => self.set(),
            50..60 => self.sorted_set(),
            60..71 => self.hash(),
            71..82 => self.stream(),
            82..87 => self.key_space(),
            87..90 if self.short_expiries => self.fleeting(),
            90..93 => self.bits_and_sketches(),
            93..96 => self.transaction(),
            96..99 => self.script(),
            _ => {
                if self.rng.chance(1, 20) {
                    self.function();
                } else {
                    self.key_space();
                }
            }
        }
    }

    fn string(&mut self) {
        let (key, value) = (self.key("string"), self.value());
        match self.rng.below(14) {
            0 | 1 => cmd!(self, "SET", key, value, "EX", "7200"),
            2 => cmd!(self, "SET", key, value, "KEEPTTL"),
            3 => cmd!(self, "SET", key, value, "NX"),
            4 => cmd!(self, "GETSET", key, value),
            5 => cmd!(self, "APPEND", key, value),
            6 => cmd!(self, "SETRANGE", key, self.rng.below(200).to_string(), value),
            7 => cmd!(self, "PSETEX", key, "7200000", value),
            8 => cmd!(self, "MSET", key, value, self.key("string"), self.value(), self.key("string"), ""),
            9 => cmd!(self, "MSETNX", key, value, self.key("string"), "nx"),
            10 if self.features.has("getdel") => cmd!(self, "GETDEL", key),
            11 if self.features.has("getex") => cmd!(self, "GETEX", key, "PX", "7200000"),
            12 if self.features.has("getex") => cmd!(self, "GETEX", key, "PERSIST"),
            _ => cmd!(self, "SET", key, value),
        }
    }

    fn counter(&mut self) {
        let key = self.key("counter");
        match self.rng.below(6) {
            0 => cmd!(self, "INCRBY", key, self.rng.below(1000).to_string()),
            1 => cmd!(self, "DECR", key),
            2 => cmd!(self, "DECRBY", key, "3"),
            3 => cmd!(self, "INCRBYFLOAT", self.key("float"), "0.25"),
            _ => cmd!(self, "INCR", key),
        }
    }

    fn list(&mut self) {
        let (key, other) = (self.key("list"), self.key("list"));
        match self.rng.below(16) {
            0..3 => cmd!(self, "LPUSH", key, self.value()),
            3..6 => cmd!(self, "RPUSH", key, self.value(), self.value(), self.rng.below(1000).to_string()),
            6 => cmd!(self, "LPOP", key),
            7 => cmd!(self, "RPOP", key),
            8 => cmd!(self, "LTRIM", key, "0", "200"),
            9 => cmd!(self, "LREM", key, "0", self.rng.below(1000).to_string()),
            10 => cmd!(self, "LINSERT", key, "BEFORE", self.rng.below(1000).to_string(), "inserted"),
            11 => cmd!(self, "RPOPLPUSH", key, other),
            12 if self.features.has("lmove") => cmd!(self, "LMOVE", key, other, "LEFT", "RIGHT"),
            13 if self.features.has("lmpop") => cmd!(self, "LMPOP", "2", key, other, "RIGHT", "COUNT", "2"),
            // Never waits: there is something to pop.
            14 => {
                cmd!(self, "LPUSH", key, "for BLPOP");
                cmd!(self, "BLPOP", key, other, "1");
            }
            _ => cmd!(self, "RPUSHX", key, self.value()),
        }
    }

    fn set(&mut self) {
        let (key, other) = (self.key("set"), self.key("set"));
        let member = self.rng.below(300).to_string();
        match self.rng.below(12) {
            0..3 => cmd!(self, "SADD", key, member, self.value()),
            3..5 => cmd!(self, "SADD", key, member, self.rng.below(1 << 40).to_string()),
            5 => cmd!(self, "SREM", key, member),
            6 => cmd!(self, "SPOP", key),
            7 => cmd!(self, "SPOP", key, "3"),
            8 => cmd!(self, "SMOVE", key, other, member),
            9 => cmd!(self, "SUNIONSTORE", self.key("set-made"), key, other),
            10 => cmd!(self, "SINTERSTORE", self.key("set-made"), key, other),
            _ => cmd!(self, "SDIFFSTORE", self.key("set-made"), key, other),
        }
    }

    fn sorted_set(&mut self) {
        let (key, other) = (self.key("zset"), self.key("zset"));
        let member = format!("m{}", self.rng.below(200));
        let score = ((self.rng.fraction() - 0.5) * 1000.0).to_string();
        match self.rng.below(14) {
            0..3 => cmd!(self, "ZADD", key, score, member, "inf", "last", "-inf", "first"),
            3 => cmd!(self, "ZADD", key, "XX", "CH", score, member),
            4 => cmd!(self, "ZADD", key, "NX", score, member),
            5 if self.features.is_redis(6, 2) => cmd!(self, "ZADD", key, "GT", score, member),
            6 => cmd!(self, "ZINCRBY", key, score, member),
            7 => cmd!(self, "ZREM", key, member),
            8 => cmd!(self, "ZREMRANGEBYRANK", key, "150", "-1"),
            9 => cmd!(self, "ZPOPMIN", key),
            10 => cmd!(self, "ZUNIONSTORE", self.key("zset-made"), "2", key, other, "WEIGHTS", "1", "0.5"),
            11 => cmd!(self, "ZINTERSTORE", self.key("zset-made"), "2", key, other, "AGGREGATE", "MAX"),
            12 if self.features.has("zrangestore") => {
                cmd!(self, "ZRANGESTORE", self.key("zset-made"), key, "0", "20");
            }
            _ => {
                let (x, y) = (self.rng.fraction() * 100.0, self.rng.fraction() * 50.0);
                cmd!(self, "GEOADD", self.key("geo"), x.to_string(), y.to_string(), member);
            }
        }
    }

    fn hash(&mut self) {
        let key = self.key("hash");
        let field = format!("f{}", self.rng.below(60));
        let fields_expire = self.features.has("hpexpire");
        match self.rng.below(14) {
            0..4 => cmd!(self, "HSET", key, field, self.value(), "other", self.value()),
            4 => cmd!(self, "HMSET", key, field, self.value()),
            5 => cmd!(self, "HSETNX", key, field, self.value()),
            6 => cmd!(self, "HDEL", key, field, "other"),
            7 => cmd!(self, "HINCRBY", self.key("hash-counter"), field, "5"),
            8 => cmd!(self, "HINCRBYFLOAT", self.key("hash-float"), field, "1.5"),
            9 | 10 if fields_expire => cmd!(self, "HEXPIRE", key, "7200", "FIELDS", "2", field, "other"),
            11 if fields_expire => cmd!(self, "HPERSIST", key, "FIELDS", "1", field),
            12 if self.features.has("hsetex") => {
                cmd!(self, "HSETEX", key, "PX", "7200000", "FIELDS", "1", field, self.value());
            }
            13 if self.features.has("hgetdel") => cmd!(self, "HGETDEL", key, "FIELDS", "1", field),
            _ => cmd!(self, "HSET", key, field, self.value()),
        }
    }

    fn stream(&mut self) {
        let number = self.rng.below(self.streams());
        let key = self.named("stream", number);
        let consumer = format!("c{}", self.rng.below(3));
        match self.rng.below(16) {
            0..5 => cmd!(self, "XADD", key, "*", "n", self.rng.below(1000).to_string(), "text", self.value()),
            5 => cmd!(self, "XADD", key, "MAXLEN", "~", "500", "*", "other", self.value()),
            6 => cmd!(self, "XTRIM", key, "MAXLEN", "400"),
            7..10 => {
                cmd!(self, "XREADGROUP", "GROUP", "group", consumer, "COUNT", "3", "STREAMS", key, ">");
            }
            10 => {
                // Deliver, acknowledge and delete an entry whose id is known.
                let id = format!("{FAR_DEADLINE_MS}-{}", self.rng.below(1 << 40));
                let key = self.key("stream-known");
                cmd!(self, "DEL", key);
                cmd!(self, "XADD", key, id, "a", "1");
                cmd!(self, "XGROUP", "CREATE", key, "group", "0");
                cmd!(self, "XREADGROUP", "GROUP", "group", consumer, "COUNT", "1", "STREAMS", key, ">");
                if self.rng.chance(1, 2) {
                    cmd!(self, "XACK", key, "group", id);
                } else {
                    cmd!(self, "XCLAIM", key, "group", "claimer", "0", id, "RETRYCOUNT", "7");
                }
                if self.rng.chance(1, 3) {
                    cmd!(self, "XDEL", key, id);
                }
            }
            11 if self.features.has("xautoclaim") => {
                cmd!(self, "XAUTOCLAIM", key, "group", consumer, "0", "0-0", "COUNT", "2");
            }
            12 if self.features.is_redis(6, 2) => {
                cmd!(self, "XGROUP", "CREATECONSUMER", key, "group", format!("idle{}", self.rng.below(3)));
            }
            13 => cmd!(self, "XGROUP", "DELCONSUMER", key, "group", consumer),
            14 => cmd!(self, "XGROUP", "SETID", key, "group", "$"),
            _ => cmd!(self, "XADD", self.key("stream-plain"), "*", "a", self.value()),
        }
    }

    fn key_space(&mut self) {
        // Any kind whose commands do not need the key to exist.
        let kind = ["string", "counter", "list", "set", "zset", "hash", "stream-plain"][self.rng.index(7)];
        let (key, other) = (self.key(kind), self.key(kind));
        match self.rng.below(14) {
            0 => cmd!(self, "DEL", key),
            1 => cmd!(self, "UNLINK", key, other),
            2 => cmd!(self, "EXPIRE", key, "7200"),
            3 => cmd!(self, "PEXPIRE", key, "3600500"),
            4 => cmd!(self, "PEXPIREAT", key, (FAR_DEADLINE_MS + self.rng.below(1_000_000)).to_string()),
            5 => cmd!(self, "EXPIREAT", key, "1"),
            6..8 => cmd!(self, "PERSIST", key),
            8 => {
                // RENAME fails on a missing key: make it first.
                let (from, to) = (self.key("string"), self.key("string"));
                cmd!(self, "SET", from, self.value());
                cmd!(self, "RENAME", from, to);
            }
            9 => {
                let (from, to) = (self.key("list"), self.key("list"));
                cmd!(self, "RPUSH", from, "a");
                cmd!(self, "RENAMENX", from, to);
            }
            10 if self.features.has("copy") && key != other => cmd!(self, "COPY", key, other, "REPLACE"),
            11 if self.databases > 1 && !self.apart => {
                let key = self.key("moving");
                cmd!(self, "SET", key, self.value());
                cmd!(self, "MOVE", key, ((self.database + 1) % self.databases).to_string());
            }
            12 => cmd!(self, "SORT", self.key("set-made"), "ALPHA", "STORE", self.key("sorted")),
            _ => cmd!(self, "TOUCH", key),
        }
    }

    /// Keys and fields that are about to expire. They are written to until then, which does no harm to a copy that has lost
    /// them a little earlier: the source's own DEL follows.
    fn fleeting(&mut self) {
        let short = self.rng.range(1, SHORT_TTL_MS as usize).to_string();
        let (string, list, hash) =
            (self.key("fleeting-string"), self.key("fleeting-list"), self.key("fleeting-hash"));
        match self.rng.below(8) {
            0 | 1 => cmd!(self, "SET", string, self.value(), "PX", short),
            2 => cmd!(self, "PSETEX", string, short, self.value()),
            3 => cmd!(self, "APPEND", string, "more"),
            4 => {
                cmd!(self, "RPUSH", list, self.value());
                cmd!(self, "PEXPIRE", list, short);
            }
            5 | 6 if self.features.has("hpexpire") => {
                let field = format!("f{}", self.rng.below(20));
                cmd!(self, "HSET", hash, field, self.value());
                cmd!(self, "HPEXPIRE", hash, short, "FIELDS", "1", field);
            }
            7 if self.save_the_dying => {
                cmd!(self, "PERSIST", string);
                cmd!(self, "PEXPIRE", list, "3600000");
            }
            _ => cmd!(self, "RPUSHX", list, "late"),
        }
    }

    fn bits_and_sketches(&mut self) {
        match self.rng.below(6) {
            0 => cmd!(self, "SETBIT", self.key("bits"), self.rng.below(5000).to_string(), "1"),
            1 => {
                let offset = self.rng.below(1000).to_string();
                cmd!(self, "BITFIELD", self.key("bits"), "INCRBY", "u8", offset, "7", "OVERFLOW", "WRAP");
            }
            2 => cmd!(self, "BITOP", "XOR", self.key("bits-made"), self.key("bits"), self.key("bits")),
            3 => cmd!(self, "PFMERGE", self.key("hll"), self.key("hll"), self.key("hll")),
            _ => cmd!(self, "PFADD", self.key("hll"), self.value()),
        }
    }

    fn transaction(&mut self) {
        cmd!(self, "MULTI");
        for _ in 0..self.rng.range(1, 6) {
            match self.rng.below(5) {
                _ if self.multi_key && self.rng.chance(1, 2) => self.multi_key_in_transaction(),
                0 => self.string(),
                1 => self.counter(),
                2 => self.set(),
                3 => self.sorted_set(),
                _ => self.hash(),
            }
        }
        if !self.hash_tags && self.rng.chance(1, 10) {
            cmd!(self, "DISCARD");
        } else {
            cmd!(self, "EXEC");
        }
    }

    /// Deterministic scripts only: servers before 7.0 replicate the script itself.
    fn script(&mut self) {
        let value = self.value();
        match self.rng.below(3) {
            0 => cmd!(
                self,
                "EVAL",
                "redis.call('INCR', KEYS[1]) redis.call('RPUSH', KEYS[2], ARGV[1]) return 1",
                "2",
                self.key("counter"),
                self.key("list"),
                value,
            ),
            1 => cmd!(
                self,
                "EVAL",
                "for i = 1, 5 do redis.call('HINCRBY', KEYS[1], 'f' .. i, i) end \
                 if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('DEL', KEYS[2]) end return ARGV[1]",
                "2",
                self.key("hash-counter"),
                self.key("string"),
                value,
            ),
            _ if self.features.has("fcall") => {
                cmd!(self, "FCALL", self.function_name(), "1", self.key("string"), value);
            }
            _ => cmd!(
                self,
                "EVAL",
                "return redis.call('SET', KEYS[1], ARGV[1])",
                "1",
                self.key("string"),
                value
            ),
        }
    }

    fn function(&mut self) {
        if !self.features.has("function") {
            return;
        }
        let (name, build) = (self.function_name(), self.rng.next_u64());
        let code = format!(
            "#!lua name={name}\n-- build {build}\nredis.register_function('{name}', function(keys, args)\n\
             \x20 return redis.call('APPEND', keys[1], args[1])\nend)\n"
        );
        cmd!(self, "FUNCTION", "LOAD", "REPLACE", code);
    }

    fn function_name(&self) -> String {
        format!("keyferry_writer_{}", self.thread)
    }

    /// A command on one key that has no hash tag, so that its slot may be any.
    fn single_key(&mut self) {
        let number = self.rng.below(UNTAGGED_KEYS);
        let value = self.value();
        match self.rng.below(8) {
            0 => cmd!(self, "SET", self.named("string", number), value),
            1 => cmd!(self, "APPEND", self.named("string", number), value),
            2 => cmd!(self, "INCR", self.named("counter", number)),
            3 => cmd!(self, "RPUSH", self.named("list", number), value),
            4 => cmd!(self, "LPOP", self.named("list", number)),
            5 => cmd!(self, "HSET", self.named("hash", number), "field", value),
            6 => cmd!(self, "ZINCRBY", self.named("zset", number), "1.5", "member"),
            _ => cmd!(self, "DEL", self.named("string", number)),
        }
    }

    /// How many streams with groups there are.
    fn streams(&self) -> u64 {
        if self.hash_tags { 1 } else { (self.keys / 8).max(1) }
    }

    fn key(&mut self, kind: &str) -> String {
        let keys = if self.tag.is_some() { (self.keys / 4).max(2) } else { self.keys };
        let number = self.rng.below(keys);
        self.named(kind, number)
    }

    /// Every thread has its own keys, so that what it prepared stays.
    fn named(&self, kind: &str, number: u64) -> String {
        let thread = self.thread;
        let owner = if self.apart { format!("{thread}:db{}", self.database) } else { thread.to_string() };
        match self.tag {
            Some(tag) => format!("writer:{owner}:{{{tag}}}:{kind}:{number}"),
            None => format!("writer:{owner}:{kind}:{number}"),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let length = self.rng.index(60);
        match self.rng.below(4) {
            0 => self.rng.byte_vec(length),
            1 => vec![b'x'; length],
            _ => self.rng.text_vec(length),
        }
    }
}
