//! Commands that name several keys and write: with independent names they span the slots of a cluster.

use super::Workload;
use crate::data::Features;

/// Adds to a counter and to a list, and keeps the list short.
const SCRIPT: &str = "redis.call('INCR', KEYS[1]) redis.call('RPUSH', KEYS[2], ARGV[1]) \
                      redis.call('LTRIM', KEYS[2], -50, -1) return 1";

/// SHA-1 of [`SCRIPT`], as SCRIPT LOAD answers.
const SCRIPT_SHA: &str = "8a7680e820f5f799e32e0ab6596224159d6e31b6";

/// Everything that this module may send that takes several keys, in the order of the alphabet.
const COMMANDS: [&str; 39] = [
    "BITOP",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "COPY",
    "DEL",
    "EVAL",
    "EVALSHA",
    "FCALL",
    "GEORADIUS",
    "GEOSEARCHSTORE",
    "LMOVE",
    "LMPOP",
    "MSET",
    "MSETEX",
    "MSETNX",
    "MULTI",
    "PFMERGE",
    "RENAME",
    "RENAMENX",
    "RPOPLPUSH",
    "SDIFFSTORE",
    "SINTERSTORE",
    "SMOVE",
    "SORT",
    "SUNIONSTORE",
    "TOUCH",
    "UNLINK",
    "XREADGROUP",
    "ZDIFFSTORE",
    "ZINTERSTORE",
    "ZMPOP",
    "ZRANGESTORE",
    "ZUNIONSTORE",
];

/// The commands of several keys that a [`Writer`](crate::data::Writer) with
/// [`multi_key`](crate::data::WriterOptions::multi_key) sends to such a server sooner or later, MULTI among them, in upper
/// case. `stays` tells whether it is one server all the time. Else EVALSHA, whose script a primary that takes over does not have,
/// and MSETEX, which Valkey 9.1 runs on any node of a cluster, are not among them.
pub fn multi_key_commands(features: &Features, stays: bool) -> Vec<&'static str> {
    let sent = |name: &&str| {
        features.has(&name.to_ascii_lowercase()) && (stays || !matches!(*name, "EVALSHA" | "MSETEX"))
    };
    COMMANDS.into_iter().filter(sent).collect()
}

impl Workload {
    pub(super) fn prepare_multi_key(&mut self) {
        if self.stays {
            cmd!(self, "SCRIPT", "LOAD", SCRIPT);
        }
        if self.features.has("function") {
            let name = self.multi_key_function();
            let code = format!(
                "#!lua name={name}\nredis.register_function('{name}', function(keys, args)\n\
                 \x20 local old = redis.call('GETSET', keys[1], args[1])\n\
                 \x20 if old then redis.call('SET', keys[2], string.sub(old .. args[1], 1, 200)) end\n\
                 \x20 redis.call('SADD', keys[3], args[1])\n\
                 \x20 return redis.call('DEL', keys[4])\nend)\n"
            );
            cmd!(self, "FUNCTION", "LOAD", "REPLACE", code);
        }
    }

    /// One command of several keys, sometimes with what it needs before it.
    pub(super) fn multi_key(&mut self) {
        match self.rng.below(12) {
            0 => self.transaction(),
            1 | 2 => self.blocking(),
            3 | 4 => self.multi_key_script(),
            _ => self.multi_key_in_transaction(),
        }
    }

    /// Those that do the same within MULTI.
    pub(super) fn multi_key_in_transaction(&mut self) {
        match self.rng.below(6) {
            0 => self.strings_and_bits(),
            1 => self.lists(),
            2 => self.sets(),
            3 => self.sorted_sets(),
            4 => self.places(),
            _ => self.whole_keys(),
        }
    }

    fn strings_and_bits(&mut self) {
        let (a, b, c) = (self.key("string"), self.key("string"), self.key("string"));
        let (bits, other) = (self.key("bits"), self.key("bits"));
        match self.rng.below(9) {
            0 | 1 => cmd!(self, "MSET", a, self.value(), b, self.value(), c, "third"),
            2 => cmd!(self, "MSETNX", a, self.value(), b, "nx"),
            // Valkey 9.1 runs it on any node of a cluster, whoever serves the keys.
            3 if self.features.has("msetex") && !self.hash_tags => {
                cmd!(self, "MSETEX", "2", a, self.value(), b, "", "EX", "7200")
            }
            4 => {
                let operations = ["AND", "OR", "XOR"];
                let more = ["AND", "OR", "XOR", "DIFF", "DIFF1", "ANDOR", "ONE"];
                let all = if self.features.is_redis(8, 2) { &more[..] } else { &operations[..] };
                let operation = all[self.rng.index(all.len())];
                cmd!(self, "SETBIT", bits, self.rng.below(3000).to_string(), "1");
                cmd!(self, "BITOP", operation, self.key("bits-made"), bits, other);
            }
            5 => cmd!(self, "BITOP", "NOT", self.key("bits-made"), bits),
            6 => cmd!(self, "PFADD", self.key("hll"), self.value(), self.value()),
            // Into one that may be among its own sources.
            7 => cmd!(self, "PFMERGE", self.key("hll"), self.key("hll"), self.key("hll")),
            _ => cmd!(self, "APPEND", a, "+"),
        }
    }

    fn lists(&mut self) {
        let (key, other) = (self.key("list"), self.key("list"));
        match self.rng.below(7) {
            0 => cmd!(self, "RPOPLPUSH", key, other),
            1 if self.features.has("lmove") => cmd!(self, "LMOVE", key, other, "RIGHT", "RIGHT"),
            2 if self.features.has("lmpop") => {
                cmd!(self, "LMPOP", "3", key, other, self.key("list"), "LEFT", "COUNT", "2");
            }
            3 => {
                let order = if self.rng.chance(1, 2) { "DESC" } else { "ASC" };
                let limit = self.rng.below(20).to_string();
                cmd!(self, "SORT", key, "LIMIT", "0", limit, "ALPHA", order, "STORE", self.key("sorted"));
            }
            4 => cmd!(self, "SORT", self.key("set"), "BY", "nosort", "ALPHA", "STORE", self.key("sorted")),
            5 => cmd!(self, "LTRIM", key, "-60", "-1"),
            _ => cmd!(self, "RPUSH", key, self.value(), self.value()),
        }
    }

    fn sets(&mut self) {
        let (key, other, third) = (self.key("set"), self.key("set"), self.key("set"));
        let member = self.rng.below(300).to_string();
        match self.rng.below(7) {
            0 | 1 => cmd!(self, "SMOVE", key, other, member),
            2 => cmd!(self, "SUNIONSTORE", self.key("set-made"), key, other, third),
            3 => cmd!(self, "SINTERSTORE", self.key("set-made"), key, other),
            // Into a set that is a source of later ones.
            4 => cmd!(self, "SDIFFSTORE", key, other, third),
            5 => cmd!(self, "SPOP", key, "5"),
            _ => cmd!(self, "SADD", key, member, self.rng.below(300).to_string(), self.value()),
        }
    }

    fn sorted_sets(&mut self) {
        let (key, other, made) = (self.key("zset"), self.key("zset"), self.key("zset-made"));
        let score = self.rng.below(1000).to_string();
        match self.rng.below(9) {
            // A plain set counts as one with scores of 1.
            0 => cmd!(self, "ZUNIONSTORE", made, "3", key, other, self.key("set"), "AGGREGATE", "MIN"),
            1 => cmd!(self, "ZINTERSTORE", made, "2", key, other, "WEIGHTS", "2", "-1"),
            2 if self.features.has("zdiffstore") => cmd!(self, "ZDIFFSTORE", made, "2", key, other),
            3 if self.features.has("zrangestore") => {
                cmd!(self, "ZRANGESTORE", made, key, "(1", "+inf", "BYSCORE", "LIMIT", "0", "9");
            }
            4 if self.features.has("zrangestore") => cmd!(self, "ZRANGESTORE", key, other, "0", "40", "REV"),
            5 if self.features.has("zmpop") => {
                cmd!(self, "ZMPOP", "2", key, other, "MAX", "COUNT", "2");
            }
            6 => cmd!(self, "ZUNIONSTORE", key, "2", key, other),
            _ => cmd!(self, "ZADD", key, score, format!("m{}", self.rng.below(200))),
        }
    }

    fn places(&mut self) {
        let (key, made) = (self.key("geo"), self.key("geo-made"));
        match self.rng.below(4) {
            0 if self.features.has("geosearchstore") => {
                cmd!(
                    self,
                    "GEOSEARCHSTORE",
                    made,
                    key,
                    "FROMLONLAT",
                    "15",
                    "37",
                    "BYRADIUS",
                    "4000",
                    "km",
                    "ASC"
                );
            }
            1 => cmd!(self, "GEORADIUS", key, "50", "20", "3000", "km", "STORE", made),
            _ => {
                let (x, y) = (self.rng.fraction() * 100.0, self.rng.fraction() * 50.0);
                cmd!(self, "GEOADD", key, x.to_string(), y.to_string(), format!("m{}", self.rng.below(50)));
            }
        }
    }

    /// Keys renamed, copied and deleted, whatever their type.
    fn whole_keys(&mut self) {
        let kind = ["string", "counter", "list", "set", "zset", "hash", "stream-plain"][self.rng.index(7)];
        let (key, other, third) = (self.key(kind), self.key(kind), self.key("string"));
        match self.rng.below(9) {
            0 | 1 => {
                // RENAME fails on a missing key: make it first. Sometimes with a deadline, which goes with it.
                let (from, to) = (self.key("hash"), self.key("hash"));
                cmd!(self, "HSET", from, "field", self.value());
                if self.rng.chance(1, 3) {
                    cmd!(self, "EXPIRE", from, "7200");
                }
                cmd!(self, "RENAME", from, to);
            }
            2 => {
                let (from, to) = (self.key("set"), self.key("set"));
                cmd!(self, "SADD", from, "a");
                cmd!(self, "RENAMENX", from, to);
            }
            3 | 4 if self.features.has("copy") && key != other => {
                if self.databases > 1 && !self.apart && self.rng.chance(1, 3) {
                    let database = ((self.database + 1) % self.databases).to_string();
                    cmd!(self, "COPY", key, other, "DB", database, "REPLACE");
                } else if self.rng.chance(1, 2) {
                    cmd!(self, "COPY", key, other, "REPLACE");
                } else {
                    cmd!(self, "COPY", key, other);
                }
            }
            5 => cmd!(self, "DEL", key, other, third, self.key("sorted")),
            6 => cmd!(self, "UNLINK", key, self.key("zset-made"), third),
            7 => cmd!(self, "TOUCH", key, other, third),
            _ => {
                let streams = self.streams();
                let number = self.rng.below(streams);
                let stream = self.named("stream", number);
                let last = self.named("stream", streams - 1);
                cmd!(self, "XADD", last, "*", "n", self.rng.below(1000).to_string());
                cmd!(
                    self,
                    "XREADGROUP",
                    "GROUP",
                    "group",
                    "c",
                    "COUNT",
                    "2",
                    "STREAMS",
                    stream,
                    last,
                    ">",
                    ">"
                );
            }
        }
    }

    /// They never wait: there is something to pop.
    fn blocking(&mut self) {
        let (list, other) = (self.key("list"), self.key("list"));
        let (zset, other_zset) = (self.key("zset"), self.key("zset"));
        let choice = self.rng.below(8);
        if choice < 5 {
            cmd!(self, "RPUSH", list, self.value());
        } else {
            cmd!(self, "ZADD", zset, "7", "popped");
        }
        match choice {
            0 if self.features.has("blmove") => cmd!(self, "BLMOVE", list, other, "LEFT", "LEFT", "1"),
            1 => cmd!(self, "BRPOPLPUSH", list, other, "1"),
            2 if self.features.has("blmpop") => cmd!(self, "BLMPOP", "1", "2", other, list, "RIGHT"),
            3 => cmd!(self, "BLPOP", other, list, "1"),
            4 => cmd!(self, "BRPOP", other, list, "1"),
            5 => cmd!(self, "BZPOPMIN", other_zset, zset, "1"),
            6 => cmd!(self, "BZPOPMAX", other_zset, zset, "1"),
            7 if self.features.has("bzmpop") => cmd!(self, "BZMPOP", "1", "2", other_zset, zset, "MIN"),
            _ => {}
        }
    }

    /// Deterministic scripts over several keys of several types.
    fn multi_key_script(&mut self) {
        let value = self.value();
        match self.rng.below(5) {
            0 if self.stays => {
                cmd!(self, "EVALSHA", SCRIPT_SHA, "2", self.key("counter"), self.key("list"), value);
            }
            1 if self.features.has("fcall") => {
                let name = self.multi_key_function();
                let (a, b, set, gone) =
                    (self.key("string"), self.key("string"), self.key("set"), self.key("hash"));
                cmd!(self, "FCALL", name, "4", a, b, set, gone, value);
            }
            2 => cmd!(
                self,
                "EVAL",
                "local a = redis.call('GET', KEYS[1]) local b = redis.call('GET', KEYS[2]) \
                 if a then redis.call('SET', KEYS[2], a) else redis.call('DEL', KEYS[2]) end \
                 if b then redis.call('SET', KEYS[1], b) else redis.call('DEL', KEYS[1]) end \
                 return redis.call('HINCRBY', KEYS[3], ARGV[1], 1)",
                "3",
                self.key("string"),
                self.key("string"),
                self.key("hash-counter"),
                "swaps",
            ),
            3 => cmd!(
                self,
                "EVAL",
                "for i = 1, #KEYS do redis.call('SADD', KEYS[i], ARGV[1], i) end \
                 return redis.call('SUNIONSTORE', KEYS[1], KEYS[2], KEYS[3])",
                "3",
                self.key("set"),
                self.key("set"),
                self.key("set"),
                value,
            ),
            _ => cmd!(self, "EVAL", SCRIPT, "2", self.key("counter"), self.key("list"), value),
        }
    }

    fn multi_key_function(&self) -> String {
        format!("keyferry_writer_multi_{}", self.thread)
    }
}
