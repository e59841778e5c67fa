use crate::client::Client;
use crate::cluster::ClusterClient;
use crate::data::{Commands, FAR_DEADLINE_MS, Features, fill, fill_cluster};
use crate::error::Result;
use crate::rng::Rng;

/// Writes a few hundred keys to the databases `0..databases`: every type in every encoding, binary and empty and very long
/// keys and elements, the extremes of numbers, deadlines on keys (and on hash fields where the server has them), streams
/// with groups, consumers, pending and deleted entries, bitmaps, HyperLogLogs, places, vector sets, functions. Other
/// keys stay; the databases may hold none of the same names, as no entry can be added to a stream twice. Returns the number
/// of commands sent.
///
/// The server may run with any configuration; which encoding a value has in the end depends on its limits.
///
/// # Errors
/// As [`fill`].
pub fn small(client: &mut Client, seed: u64, databases: u32) -> Result<u64> {
    let features = Features::probe(client)?;
    fill(client, |commands| Small::write(commands, &features, seed, databases))
}

/// The same, with nothing that a server with these features could not hold.
///
/// # Errors
/// As [`fill`].
pub fn small_for(client: &mut Client, features: &Features, seed: u64, databases: u32) -> Result<u64> {
    fill(client, |commands| Small::write(commands, features, seed, databases))
}

/// The same to a cluster. Most have database 0 only.
///
/// # Errors
/// As [`fill_cluster`].
pub fn small_cluster(client: &mut ClusterClient, seed: u64, databases: u32) -> Result<u64> {
    let features = client.features()?;
    fill_cluster(client, |commands| Small::write(commands, &features, seed, databases))
}

struct Small<'a, 'b> {
    commands: &'a mut Commands<'b>,
    features: &'a Features,
    rng: Rng,
}

/// One command whose arguments are of different types.
macro_rules! push {
    ($self:ident, $($arg:expr),+ $(,)?) => {
        $self.commands.push([$(AsRef::<[u8]>::as_ref(&$arg)),+])
    };
}

impl<'a, 'b> Small<'a, 'b> {
    fn write(
        commands: &'a mut Commands<'b>,
        features: &'a Features,
        seed: u64,
        databases: u32,
    ) -> Result<()> {
        let mut small = Small { commands, features, rng: Rng::new(seed) };
        for database in 0..databases {
            small.commands.push(["SELECT", &database.to_string()])?;
            small.strings(database)?;
            small.lists()?;
            small.sets()?;
            small.sorted_sets()?;
            small.hashes()?;
            small.streams()?;
            small.vector_sets()?;
            small.deadlines(database)?;
        }
        small.functions(seed)?;
        small.commands.push(["SELECT", "0"])
    }

    fn strings(&mut self, database: u32) -> Result<()> {
        for (i, number) in [
            "0",
            "-1",
            "7",
            "10000",
            "-128",
            "32767",
            "2147483648",
            "9223372036854775807",
            "-9223372036854775808",
        ]
        .iter()
        .enumerate()
        {
            push!(self, "SET", format!("string:int:{i}"), number)?;
        }
        // Not integers, though they look like some.
        for (i, text) in
            ["-0", "+1", "007", " 1", "9223372036854775808", "3.0", "1e3", "nan"].iter().enumerate()
        {
            push!(self, "SET", format!("string:text:{i}"), text)?;
        }
        // 44 bytes are the most that fit the embedded encoding; LZF is tried above 20.
        for length in [1, 19, 20, 21, 43, 44, 45, 63, 64, 255, 256, 16_383, 16_384, 100_000] {
            let text = self.rng.text_vec(length);
            push!(self, "SET", format!("string:random:{length}"), text)?;
            push!(
                self,
                "SET",
                format!("string:repeated:{length}"),
                vec![b'a' + (length % 26) as u8; length]
            )?;
            let binary = self.rng.byte_vec(length);
            push!(self, "SET", format!("string:binary:{length}"), binary)?;
        }
        let sentence = "the quick brown fox jumps over the lazy dog, and back again; ".repeat(50);
        push!(self, "SET", "string:compressible", sentence)?;
        push!(self, "SET", "string:empty", "")?;
        push!(self, "SET", "", "the key is empty")?;
        push!(self, "SET", b"\x00\xff\r\n\x80 *3\r\n", "binary\r\n\0value")?;
        push!(self, "SET", "key with spaces \"quotes\" 'and' \\slashes\\", "1")?;
        push!(self, "SET", "schlüssel:ключ:鍵:🔑", "wert:значение:値:💎")?;
        push!(self, "SET", "{tag}:a", "1")?;
        push!(self, "SET", "{}not-a-tag", "1")?;
        let long_key = self.rng.text_vec(2000);
        push!(self, "SET", long_key, "long key")?;
        push!(self, "SET", "string:database", database.to_string())?;
        push!(self, "INCRBYFLOAT", "string:float", "3.14159265358979")?;
        push!(self, "SETRANGE", "string:range", "1000", "behind zeros")?;
        push!(self, "SETBIT", "bitmap:sparse", "100000", "1")?;
        push!(self, "BITFIELD", "bitmap:fields", "SET", "u8", "0", "255", "SET", "i16", "100", "-12345")?;
        self.many("PFADD", "{hll}:sparse", 20, |rng, _| rng.text_vec(10))?;
        for _ in 0..20 {
            self.many("PFADD", "{hll}:dense", 500, |rng, _| rng.text_vec(10))?;
        }
        push!(self, "PFMERGE", "{hll}:merged", "{hll}:sparse", "{hll}:dense")
    }

    fn lists(&mut self) -> Result<()> {
        push!(self, "RPUSH", "list:one", "1")?;
        push!(self, "RPUSH", "list:empty-element", "", "a", "")?;
        // The integer forms of listpacks and ziplists, at their limits.
        push!(
            self,
            "RPUSH",
            "list:ints",
            "0",
            "12",
            "13",
            "127",
            "128",
            "-1",
            "-128",
            "-129",
            "4095",
            "4096",
            "-4096",
            "32767",
            "32768",
            "-32768",
            "8388607",
            "8388608",
            "-8388608",
            "-8388609",
            "2147483647",
            "2147483648",
            "-2147483648",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "012",
            "-0",
        )?;
        // The string forms: up to 63, up to 4095, longer.
        for length in [1, 62, 63, 64, 253, 254, 255, 4094, 4095, 4096] {
            let element = self.rng.text_vec(length);
            push!(self, "RPUSH", "list:lengths", element)?;
        }
        self.many("RPUSH", "list:many", 5000, |rng, i| {
            if i % 3 == 0 { i.to_string().into_bytes() } else { rng.text_vec(5 + i % 40) }
        })?;
        // Larger than a node of 8 KiB: a node of its own.
        self.many("RPUSH", "list:large", 5, |rng, i| rng.text_vec(if i % 2 == 0 { 20_000 } else { 10 }))?;
        self.many("RPUSH", "list:compressible", 600, |_, i| {
            format!("element number {}", i % 7).into_bytes()
        })?;
        self.many("LPUSH", "list:binary", 50, |rng, i| rng.byte_vec(i))?;
        push!(self, "LPOP", "list:many")?;
        push!(self, "LTRIM", "list:compressible", "3", "-4")
    }

    fn sets(&mut self) -> Result<()> {
        self.many("SADD", "set:int16", 30, |rng, _| number(rng, 15))?;
        self.many("SADD", "set:int32", 30, |rng, _| number(rng, 31))?;
        self.many("SADD", "set:int64", 30, |rng, _| number(rng, 63))?;
        push!(self, "SADD", "set:extremes", "9223372036854775807", "-9223372036854775808", "0")?;
        push!(self, "SADD", "set:one", "only")?;
        push!(self, "SADD", "set:small", "a", "", "1", "c\r\n", b"\x00\x01\xfe\xff", "-0")?;
        self.many("SADD", "set:ints-hashed", 2000, |rng, _| number(rng, 40))?;
        self.many("SADD", "set:large", 600, |rng, i| rng.text_vec(1 + i % 50))?;
        self.many("SADD", "set:long-member", 3, |rng, _| rng.text_vec(300))?;
        self.many("SADD", "set:shrunk", 700, |_, i| format!("m{i}").into_bytes())?;
        self.many("SREM", "set:shrunk", 690, |_, i| format!("m{i}").into_bytes())
    }

    fn sorted_sets(&mut self) -> Result<()> {
        let scores = [
            "0",
            "-0",
            "1",
            "-1",
            "inf",
            "-inf",
            "0.1",
            "-2.5",
            "3.0000000000000004",
            "1e300",
            "-1e-300",
            "5e-324",
            "1.7976931348623157e308",
            "9007199254740993",
            "4294967296",
            "127",
            "128",
        ];
        for (i, score) in scores.iter().enumerate() {
            push!(self, "ZADD", "zset:scores", score, format!("member:{i}"))?;
            // The same scores above the compact encoding's limits.
            push!(self, "ZADD", "zset:scores-large", score, format!("{:0>100}", i))?;
        }
        // Any bits that are a number, below and above the compact encoding's limits.
        for i in 0..400 {
            let bits = f64::from_bits(self.rng.next_u64());
            let score = if bits.is_nan() { "5e-324".to_owned() } else { format!("{bits:e}") };
            push!(
                self,
                "ZADD",
                if i < 100 { "zset:bits" } else { "zset:bits-large" },
                score,
                format!("m:{i}")
            )?;
        }
        push!(self, "ZADD", "zset:one", "1.5", "")?;
        push!(self, "ZADD", "zset:ties", "1", "b", "1", "a", "1", "c", "1", b"\xff\x00")?;
        for i in 0..400 {
            let score = (self.rng.fraction() - 0.5) * 1e6;
            push!(self, "ZADD", "zset:large", score.to_string(), format!("m:{i}"))?;
        }
        push!(
            self,
            "GEOADD",
            "geo:cities",
            "13.361389",
            "38.115556",
            "Palermo",
            "15.087269",
            "37.502669",
            "Catania"
        )?;
        push!(self, "ZREM", "zset:large", "m:7", "m:8")
    }

    fn hashes(&mut self) -> Result<()> {
        push!(
            self,
            "HSET",
            "hash:small",
            "name",
            "Ada",
            "born",
            "1815",
            "",
            "empty field",
            "empty value",
            ""
        )?;
        push!(self, "HSET", "hash:binary", b"\x00\r\n\xff", b"\xfe\x00", "-1", "-9223372036854775808")?;
        let value = self.rng.text_vec(5000);
        push!(self, "HSET", "hash:long-value", "f", value)?;
        self.many("HSET", "hash:large", 1400, |rng, i| {
            if i % 2 == 0 { format!("field:{i}").into_bytes() } else { rng.text_vec(i % 60) }
        })?;
        push!(self, "HINCRBYFLOAT", "hash:small", "ratio", "0.1")?;
        if !self.features.has("hpexpireat") {
            return Ok(());
        }
        let deadline = FAR_DEADLINE_MS.to_string();
        push!(self, "HSET", "hash:field-ttl", "stays", "1", "goes", "2", "goes too", "3", "", "4")?;
        push!(self, "HPEXPIREAT", "hash:field-ttl", deadline, "FIELDS", "2", "goes", "")?;
        push!(
            self,
            "HPEXPIREAT",
            "hash:field-ttl",
            (FAR_DEADLINE_MS + 12_345).to_string(),
            "FIELDS",
            "1",
            "goes too"
        )?;
        self.many("HSET", "hash:field-ttl-large", 1400, |rng, i| {
            if i % 2 == 0 { format!("field:{}", i / 2).into_bytes() } else { rng.text_vec(20) }
        })?;
        for i in (0..700).step_by(3) {
            let at = (FAR_DEADLINE_MS + i * 1000).to_string();
            push!(self, "HPEXPIREAT", "hash:field-ttl-large", at, "FIELDS", "1", format!("field:{i}"))?;
        }
        // Had deadlines once: some servers keep the encoding.
        push!(self, "HSET", "hash:field-ttl-gone", "a", "1", "b", "2")?;
        push!(self, "HPEXPIREAT", "hash:field-ttl-gone", deadline, "FIELDS", "1", "a")?;
        push!(self, "HPERSIST", "hash:field-ttl-gone", "FIELDS", "1", "a")
    }

    fn streams(&mut self) -> Result<()> {
        for i in 1..=3 {
            push!(self, "XADD", "stream:plain", format!("{i}-1"), "sensor", "1", "value", i.to_string())?;
        }
        push!(self, "XADD", "stream:id-extremes", "0-1", "f", "")?;
        push!(self, "XADD", "stream:id-extremes", "18446744073709551614-18446744073709551615", "", "v")?;
        // Several nodes of 100 entries; equal and different field names; holes; a trimmed start.
        for i in 1..=550 {
            let value = self.rng.text_vec(1 + i % 30);
            let id = format!("{}-{}", 1_700_000_000_000u64 + i as u64 / 4, i % 4);
            if i % 10 == 0 {
                push!(
                    self,
                    "XADD",
                    "stream:large",
                    id,
                    format!("field:{i}"),
                    value,
                    "x",
                    b"\x00\xff",
                    "y",
                    "-1"
                )?;
            } else {
                push!(self, "XADD", "stream:large", id, "name", value, "number", i.to_string())?;
            }
        }
        for i in (40..300).step_by(7) {
            push!(self, "XDEL", "stream:large", format!("{}-{}", 1_700_000_000_000u64 + i / 4, i % 4))?;
        }
        push!(self, "XTRIM", "stream:large", "MAXLEN", "500")?;
        // Entries gone, the counters stay.
        push!(self, "XADD", "stream:emptied", "5-5", "a", "1")?;
        push!(self, "XDEL", "stream:emptied", "5-5")?;
        push!(self, "XGROUP", "CREATE", "stream:never-filled", "group", "$", "MKSTREAM")?;
        self.groups("stream:groups", 40)?;
        self.groups("stream:groups-large", 400)?;
        if self.features.is_redis(7, 0) {
            push!(self, "XADD", "stream:counters", "9-0", "a", "1")?;
            push!(self, "XSETID", "stream:counters", "77-7", "ENTRIESADDED", "1000", "MAXDELETEDID", "66-6")?;
            push!(self, "XGROUP", "CREATE", "stream:counters", "read", "9-0", "ENTRIESREAD", "999")?;
        } else {
            push!(self, "XADD", "stream:counters", "9-0", "a", "1")?;
            push!(self, "XSETID", "stream:counters", "77-7")?;
        }
        Ok(())
    }

    /// A stream with three groups: one read by two consumers and partly acknowledged, one that never read, one whose pending
    /// entries were claimed with chosen times and counts, and one of them deleted from the stream.
    fn groups(&mut self, key: &str, entries: u64) -> Result<()> {
        for i in 1..=entries {
            push!(self, "XADD", key, format!("{i}-0"), "n", i.to_string())?;
        }
        push!(self, "XGROUP", "CREATE", key, "workers", "0")?;
        push!(self, "XGROUP", "CREATE", key, "idle", "3-0")?;
        push!(self, "XGROUP", "CREATE", key, b"bin\x00\xff", "0")?;
        let quarter = entries / 4;
        let reads = [
            ("alice", 1..=quarter),
            ("bob", quarter + 1..=2 * quarter),
            ("alice", 2 * quarter + 1..=2 * quarter + 3),
        ];
        for (consumer, ids) in reads {
            let count = ids.clone().count().to_string();
            push!(self, "XREADGROUP", "GROUP", "workers", consumer, "COUNT", count, "STREAMS", key, ">")?;
            // The same times of delivery on every server and every run.
            let mut claim: Vec<String> = ["XCLAIM", key, "workers", consumer, "0"].map(String::from).into();
            claim.extend(ids.map(|i| format!("{i}-0")));
            claim.extend(["TIME", "1700000000123", "RETRYCOUNT", "2", "JUSTID"].map(String::from));
            self.commands.push(&claim)?;
        }
        for i in [1, 2, 5, entries / 3] {
            push!(self, "XACK", key, "workers", format!("{i}-0"))?;
        }
        for i in 1..=10u64 {
            push!(
                self,
                "XCLAIM",
                key,
                b"bin\x00\xff",
                format!("consumer:{}", i % 3),
                "0",
                format!("{i}-0"),
                "TIME",
                (1_700_000_000_000 + i).to_string(),
                "RETRYCOUNT",
                i.to_string(),
                "FORCE",
                "JUSTID",
            )?;
        }
        push!(self, "XDEL", key, "4-0")?;
        if self.features.is_redis(6, 2) {
            push!(self, "XGROUP", "CREATECONSUMER", key, "idle", "never-read")?;
        }
        Ok(())
    }

    fn vector_sets(&mut self) -> Result<()> {
        if !self.features.has("vadd") {
            return Ok(());
        }
        for i in 0..12 {
            let [x, y, z] = [self.rng.fraction(), self.rng.fraction(), 1.0].map(|n| n.to_string());
            push!(self, "VADD", "vectors", "VALUES", "3", x, y, z, format!("element:{i}"))?;
        }
        push!(self, "VSETATTR", "vectors", "element:3", "{\"year\": 1984}")
    }

    /// Deadlines on a key of every type, in milliseconds that are not whole seconds.
    fn deadlines(&mut self, database: u32) -> Result<()> {
        push!(self, "SET", "ttl:string", "1")?;
        push!(self, "RPUSH", "ttl:list", "1")?;
        push!(self, "SADD", "ttl:set", "1")?;
        push!(self, "ZADD", "ttl:zset", "1", "1")?;
        push!(self, "HSET", "ttl:hash", "1", "1")?;
        push!(self, "XADD", "ttl:stream", "1-1", "1", "1")?;
        for (i, kind) in ["string", "list", "set", "zset", "hash", "stream"].iter().enumerate() {
            let deadline = FAR_DEADLINE_MS + u64::from(database) * 1_000_000 + i as u64 * 1001;
            push!(self, "PEXPIREAT", format!("ttl:{kind}"), deadline.to_string())?;
        }
        for i in 0..20 {
            push!(self, "SET", format!("ttl:hour:{i}"), "1", "EX", (3600 + i * 60).to_string())?;
        }
        push!(self, "SET", "ttl:persisted", "1", "EX", "100")?;
        push!(self, "PERSIST", "ttl:persisted")
    }

    fn functions(&mut self, seed: u64) -> Result<()> {
        if !self.features.has("function") {
            return Ok(());
        }
        for library in ["first", "second"] {
            let code = format!(
                "#!lua name=keyferry_{library}\n-- seed {seed}\n\
                 redis.register_function('keyferry_{library}_get', function(keys, args)\n\
                 \x20 return redis.call('GET', keys[1])\nend)\n"
            );
            push!(self, "FUNCTION", "LOAD", "REPLACE", code)?;
        }
        Ok(())
    }

    /// A command for `count` elements, in calls of at most 500.
    fn many(
        &mut self,
        command: &str,
        key: &str,
        count: usize,
        mut element: impl FnMut(&mut Rng, usize) -> Vec<u8>,
    ) -> Result<()> {
        let mut args: Vec<Vec<u8>> = Vec::new();
        for i in 0..count {
            if args.is_empty() {
                args.extend([command.into(), key.into()]);
            }
            args.push(element(&mut self.rng, i));
            if args.len() == 502 || i + 1 == count {
                self.commands.push(&args)?;
                args.clear();
            }
        }
        Ok(())
    }
}

/// A number of up to `bits` bits and a sign.
fn number(rng: &mut Rng, bits: u32) -> Vec<u8> {
    let number = (rng.next_u64() >> (64 - bits)) as i64;
    (if rng.chance(1, 2) { -number } else { number }).to_string().into_bytes()
}
