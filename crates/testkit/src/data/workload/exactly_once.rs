//! The mix of [`Mix::ExactlyOnce`](crate::data::Mix).

use super::Workload;

/// How long a lease lasts at most. Those that are renewed often live on, others run out and begin anew.
const LEASE_MS: usize = 1400;

/// A server's script sees time and chance in the same way as its replicas: it uses neither.
const COUNT_AND_NOTE: &str = "local n = redis.call('INCR', KEYS[1]) \
     redis.call('APPEND', KEYS[2], ARGV[1] .. ':' .. n .. ';') \
     if n % 3 == 0 then redis.call('RPUSH', KEYS[3], n) end return n";

impl Workload {
    /// One operation that leaves a trace.
    pub(super) fn exactly_once(&mut self) {
        match self.rng.below(100) {
            0..15 => self.count(),
            15..30 => self.note(),
            30..46 => self.queue(),
            46..55 => self.draw(),
            55..64 => self.rank(),
            64..76 => self.log(),
            76..80 => self.sketch(),
            80..86 => self.make_anew(),
            86..91 if self.short_expiries => self.lease(),
            91..96 => self.together(),
            _ => self.by_script(),
        }
    }

    /// The same for a key that has no hash tag.
    pub(super) fn exactly_once_of_one_key(&mut self) {
        let number = self.rng.below(super::UNTAGGED_KEYS);
        let trace = self.trace();
        match self.rng.below(8) {
            0 | 1 => cmd!(self, "INCR", self.named("counter", number)),
            2 => cmd!(self, "APPEND", self.named("note", number), trace),
            3 => cmd!(self, "RPUSH", self.named("queue", number), trace),
            4 => cmd!(self, "LPOP", self.named("queue", number)),
            5 => cmd!(self, "ZINCRBY", self.named("rank", number), "1.5", "member"),
            6 => cmd!(self, "HINCRBY", self.named("sums", number), "f", "3"),
            _ => cmd!(self, "XADD", self.named("log", number), "*", "n", trace),
        }
    }

    /// The number of this command: no other has it.
    fn trace(&mut self) -> String {
        self.number += 1;
        format!("{}.{};", self.thread, self.number)
    }

    fn count(&mut self) {
        match self.rng.below(7) {
            0 => cmd!(self, "INCRBY", self.key("counter"), self.rng.below(1000).to_string()),
            1 => cmd!(self, "DECRBY", self.key("counter"), "3"),
            2 => cmd!(self, "INCRBYFLOAT", self.key("float"), "0.25"),
            3 => cmd!(self, "HINCRBY", self.key("sums"), format!("f{}", self.rng.below(9)), "5"),
            4 => cmd!(self, "HINCRBYFLOAT", self.key("sums-float"), format!("f{}", self.rng.below(9)), "1.5"),
            5 => {
                let offset = self.rng.below(200).to_string();
                cmd!(self, "BITFIELD", self.key("bits"), "INCRBY", "u16", offset, "7", "OVERFLOW", "WRAP");
            }
            _ => cmd!(self, "INCR", self.key("counter")),
        }
    }

    fn note(&mut self) {
        let (key, trace) = (self.key("note"), self.trace());
        match self.rng.below(10) {
            0..6 => cmd!(self, "APPEND", key, trace),
            6 | 7 => cmd!(self, "SETRANGE", key, self.rng.below(300).to_string(), trace),
            8 => cmd!(self, "GETSET", self.key("last"), trace),
            _ => cmd!(self, "SET", self.key("last"), trace, "KEEPTTL"),
        }
    }

    fn queue(&mut self) {
        let (key, other, trace) = (self.key("queue"), self.key("queue"), self.trace());
        match self.rng.below(12) {
            0..4 => cmd!(self, "LPUSH", key, trace),
            4 | 5 => cmd!(self, "RPUSH", key, trace, "between", trace),
            6 => cmd!(self, "LPOP", key),
            7 => cmd!(self, "LINSERT", key, "BEFORE", "between", trace),
            8 => cmd!(self, "LREM", key, "1", "between"),
            9 if self.features.has("lmove") => cmd!(self, "LMOVE", key, other, "LEFT", "RIGHT"),
            _ => cmd!(self, "RPOPLPUSH", key, other),
        }
    }

    fn draw(&mut self) {
        let (key, other, trace) = (self.key("drawer"), self.key("drawer"), self.trace());
        match self.rng.below(10) {
            0..5 => cmd!(self, "SADD", key, trace, self.rng.below(50).to_string()),
            5 => cmd!(self, "SPOP", key),
            6 => cmd!(self, "SPOP", key, "2"),
            7 => cmd!(self, "SMOVE", key, other, self.rng.below(50).to_string()),
            8 => cmd!(self, "SUNIONSTORE", key, key, other),
            _ => cmd!(self, "SDIFFSTORE", key, key, other),
        }
    }

    fn rank(&mut self) {
        let (key, other) = (self.key("rank"), self.key("rank"));
        let member = format!("m{}", self.rng.below(30));
        match self.rng.below(10) {
            0..6 => cmd!(self, "ZINCRBY", key, self.rng.below(100).to_string(), member),
            6 => cmd!(self, "ZADD", key, "INCR", "0.5", member),
            7 => cmd!(self, "ZPOPMIN", key),
            8 => cmd!(self, "ZREM", key, member),
            // Weights keep the sums from growing beyond what a double holds exactly.
            _ => {
                cmd!(self, "ZUNIONSTORE", key, "2", key, other, "WEIGHTS", "1", "0.5", "AGGREGATE", "MAX");
            }
        }
    }

    fn log(&mut self) {
        let trace = self.trace();
        let id = format!("1-{}", self.number);
        let streams = self.streams();
        let key = self.named("stream", self.number % streams);
        let consumer = format!("c{}", self.rng.below(3));
        match self.rng.below(12) {
            0..3 => cmd!(self, "XADD", self.key("log"), "*", "n", trace),
            3 => cmd!(self, "XADD", self.key("log"), "MAXLEN", "60", "*", "n", trace),
            // Numbers go up, so this is accepted; that it can be acknowledged later is why its id is known.
            4..7 => cmd!(self, "XADD", key, id, "n", trace),
            7..9 => {
                cmd!(self, "XREADGROUP", "GROUP", "group", consumer, "COUNT", "2", "STREAMS", key, ">");
            }
            9 => {
                let back = self.number.saturating_sub(1 + self.rng.below(300));
                cmd!(self, "XACK", key, "group", format!("1-{back}"));
            }
            10 => {
                let back = self.number.saturating_sub(1 + self.rng.below(300));
                cmd!(self, "XDEL", key, format!("1-{back}"));
            }
            _ => cmd!(self, "XTRIM", key, "MAXLEN", "200"),
        }
    }

    fn sketch(&mut self) {
        let trace = self.trace();
        match self.rng.below(4) {
            0 => cmd!(self, "PFMERGE", self.key("sketch"), self.key("sketch")),
            _ => cmd!(self, "PFADD", self.key("sketch"), trace),
        }
    }

    /// Keys that go and come back, under the same name or another.
    fn make_anew(&mut self) {
        let (key, other, trace) = (self.key("brief"), self.key("brief"), self.trace());
        match self.rng.below(9) {
            0 => cmd!(self, "DEL", key),
            1 => cmd!(self, "UNLINK", key, other),
            2 => {
                cmd!(self, "DEL", key);
                cmd!(self, "RPUSH", key, trace, trace);
            }
            3 => {
                cmd!(self, "RPUSH", key, trace);
                cmd!(self, "RENAME", key, other);
            }
            4 if self.features.has("copy") && key != other => {
                cmd!(self, "RPUSH", key, trace);
                cmd!(self, "COPY", key, other, "REPLACE");
            }
            5 if self.databases > 1 && !self.apart => {
                let key = self.key("moving");
                cmd!(self, "RPUSH", key, trace);
                cmd!(self, "MOVE", key, ((self.database + 1) % self.databases).to_string());
            }
            6 => cmd!(self, "PEXPIRE", self.key("last"), "7200000"),
            7 => cmd!(self, "PERSIST", self.key("last")),
            _ => cmd!(self, "RPUSH", key, trace),
        }
    }

    /// A key that dies unless it is renewed in time. Who lets it die too early, or too late, has another count in it.
    fn lease(&mut self) {
        let time = self.rng.range(200, LEASE_MS).to_string();
        let (key, held) = (self.key("lease"), self.key("held"));
        match self.rng.below(8) {
            0..3 => {
                cmd!(self, "INCR", key);
                cmd!(self, "PEXPIRE", key, time);
            }
            3 | 4 if self.save_the_dying => cmd!(self, "PEXPIRE", key, time),
            5 => {
                cmd!(self, "RPUSH", held, "again");
                cmd!(self, "PEXPIRE", held, time);
            }
            6 if self.save_the_dying => cmd!(self, "PERSIST", held),
            7 => cmd!(self, "SET", self.key("passing"), "1", "PX", time),
            _ => cmd!(self, "RPUSHX", held, "late"),
        }
    }

    fn together(&mut self) {
        cmd!(self, "MULTI");
        for _ in 0..self.rng.range(1, 6) {
            match self.rng.below(4) {
                0 => self.count(),
                1 => self.note(),
                2 => self.queue(),
                _ => self.rank(),
            }
        }
        cmd!(self, "EXEC");
    }

    fn by_script(&mut self) {
        let trace = self.trace();
        let (counter, note, queue) = (self.key("counter"), self.key("note"), self.key("queue"));
        cmd!(self, "EVAL", COUNT_AND_NOTE, "3", counter, note, queue, trace);
    }
}
