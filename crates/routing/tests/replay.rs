//! What [`Replay`] promises, on real servers: random writes, of which some are sent again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyferry_resp::Frame;
use keyferry_routing::{CommandTable, Replay};
use keyferry_testkit::{Client, Rng, Server, all, chosen};

/// All of one slot, so that order among them counts.
const KEYS: [&str; 3] = ["{t}a", "{t}b", "{t}c"];
const HOUR: u64 = 3_600_000;

type Args = Vec<Vec<u8>>;

/// Writes of all kinds, most of them such that can be repeated.
struct Writes {
    rng: Rng,
    /// A DUMP payload of each type.
    payloads: Vec<Vec<u8>>,
    now: u64,
    /// After how many milliseconds a `SET … PXAT` ends at the earliest, and how far apart two ends are.
    expiry: (u64, u64),
    next_id: u64,
    /// The few kinds that are written at present: of many kinds on many keys, seldom two meet.
    kinds: Vec<usize>,
    /// What is written first.
    first: Vec<usize>,
    keys: usize,
    members: usize,
}

/// Kinds of [`Writes::next`].
const KINDS: usize = 60;

impl Writes {
    fn new(client: &mut Client, seed: u64, expiry: (u64, u64)) -> keyferry_testkit::Result<Self> {
        let make: [&[&str]; 7] = [
            &["SET", "p", "text"],
            &["SADD", "p", "m1", "m2", "m9"],
            &["HSET", "p", "m1", "old", "m9", "x"],
            &["ZADD", "p", "1", "m1", "2", "m9"],
            &["RPUSH", "p", "a", "b"],
            &["PFADD", "p", "x", "y"],
            &["XADD", "p", "1-1", "f", "v"],
        ];
        let mut payloads = Vec::new();
        for command in make {
            client.call(&["DEL", "p"])?;
            client.call(command)?;
            payloads.extend(client.bytes(&["DUMP", "p"])?.map(|payload| payload.to_vec()));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
        Ok(Self {
            rng: Rng::new(seed),
            payloads,
            now,
            expiry,
            next_id: 10,
            kinds: vec![0],
            first: Vec::new(),
            keys: 1,
            members: 2,
        })
    }

    /// Chooses kinds and keys anew.
    fn turn(&mut self) {
        let themes: [&[usize]; 5] = [
            // An expiry that is set once, and parts that come and go.
            &[11, 12, 13, 34, 35, 36],
            &[17, 18, 19, 37, 38, 39],
            &[21, 22, 25, 40, 41, 42],
            // Expiries that come and go.
            &[3, 4, 5, 49],
            &[11, 12, 57],
        ];
        match themes.get(self.rng.index(9)) {
            Some(theme) => {
                self.kinds = theme.to_vec();
                self.first = vec![theme[0], 48];
            }
            None => {
                self.kinds = (0..self.rng.range(2, 9)).map(|_| self.rng.index(KINDS)).collect();
            }
        }
        self.keys = self.rng.range(1, KEYS.len());
        self.members = self.rng.range(2, 4);
    }

    fn key(&mut self) -> String {
        KEYS[self.rng.index(self.keys)].to_owned()
    }

    fn member(&mut self) -> String {
        format!("m{}", self.rng.index(self.members))
    }

    fn number(&mut self) -> String {
        self.rng.below(12).to_string()
    }

    fn deadline(&mut self) -> String {
        (self.now + self.expiry.0 + self.rng.below(4) * self.expiry.1).to_string()
    }

    fn next(&mut self) -> Args {
        let (key, other) = (self.key(), self.key());
        let (a, b) = (self.member(), self.member());
        let (n, m) = (self.number(), self.number());
        let text = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Args>();
        let at = self.deadline();
        let any = self.kinds[self.rng.index(self.kinds.len())];
        match if self.first.is_empty() { any } else { self.first.remove(0) } {
            0..=2 => text(&["SET", &key, &n]),
            3..=5 => text(&["SET", &key, &n, "PXAT", &at]),
            6..=8 => text(&["DEL", &key]),
            9 => text(&["UNLINK", &key, &other]),
            10 => text(&["MSET", &key, &n, &other, &m]),
            11..=15 => text(&["HSET", &key, &a, &n, &b, &m]),
            16 => text(&["HMSET", &key, &a, &n]),
            17..=20 => text(&["SADD", &key, &a, &b]),
            21..=24 => text(&["ZADD", &key, "CH", &n, &a, &m, &b]),
            25 => text(&["GEOADD", &key, &n, &m, &a]),
            26..=27 => text(&["SETBIT", &key, &n, "1"]),
            28 => text(&["SETBIT", &key, &n, "0"]),
            29..=30 => text(&["SETRANGE", &key, &n, &a]),
            31..=33 => text(&["PFADD", &key, &a, &n]),
            34..=36 => text(&["HDEL", &key, &a]),
            37..=39 => text(&["SREM", &key, &a]),
            40..=42 => text(&["ZREM", &key, &a, &b]),
            43 => text(&["XDEL", &key, "1-1", &format!("{}-1", self.next_id - 1)]),
            44 => text(&["XACK", &key, "g", "1-1"]),
            45..=47 => {
                let mut args = text(&["RESTORE", &key, "0"]);
                args.push(self.payloads[self.rng.index(self.payloads.len())].clone());
                args.push(b"REPLACE".to_vec());
                if self.rng.chance(1, 2) {
                    args[2] = at.into_bytes();
                    args.push(b"ABSTTL".to_vec());
                }
                args
            }
            // Not to be repeated.
            48 => text(&["PEXPIREAT", &key, &at]),
            49 => text(&["PERSIST", &key]),
            50 => text(&["INCR", &key]),
            51 => text(&["APPEND", &key, &n]),
            52 => text(&["RPUSH", &key, &a]),
            53 => {
                self.next_id += 1;
                text(&["XADD", &key, &format!("{}-1", self.next_id), "f", &n])
            }
            54 => text(&["XGROUP", "CREATE", &key, "g", "0"]),
            55 => text(&["RENAME", &key, &other]),
            56 => text(&["SUNIONSTORE", &key, &key, &other]),
            57 => text(&["HPEXPIREAT", &key, &at, "FIELDS", "1", &a]),
            58 => text(&["ZADD", &key, "GT", &n, &a]),
            _ => text(&["SET", &key, &m, "NX"]),
        }
    }
}

/// Everything about the data: digest, expiries of keys in units of `unit`, expiries of fields.
fn state(client: &mut Client, unit: u64) -> keyferry_testkit::Result<(String, Vec<Option<i64>>)> {
    let digest = client.text(&["DEBUG", "DIGEST"])?;
    let mut questions: Vec<Vec<&str>> = KEYS.map(|key| vec!["PTTL", key]).to_vec();
    questions.extend(KEYS.map(|key| vec!["HPTTL", key, "FIELDS", "5", "m0", "m1", "m2", "m3", "m9"]));
    let replies = client.pipe(&questions)?;
    let round = |frame: &Frame| frame.as_i64().map(|left| (left + unit as i64 / 2).div_euclid(unit as i64));
    let expiries = replies.iter().flat_map(|reply| match reply.as_array() {
        Some(fields) => fields.iter().map(round).collect(),
        None => vec![round(reply)],
    });
    Ok((digest, expiries.collect()))
}

/// Where the last repetition may begin: behind all that must not be repeated, and behind what adds after a removal.
fn first_repeatable(table: &CommandTable, commands: &[Args]) -> usize {
    let (mut first, mut removed) = (0, false);
    for (i, args) in commands.iter().enumerate() {
        match table.replay(args) {
            Replay::Blind => {}
            Replay::Adds if !removed => {}
            Replay::Removes => removed = true,
            Replay::Adds | Replay::Once => (first, removed) = (i + 1, false),
        }
    }
    first
}

/// Sends again what was sent already. Keys may have another type by now; nothing else may go wrong.
fn repeat(client: &mut Client, commands: &[Args]) -> keyferry_testkit::Result<()> {
    for (args, reply) in commands.iter().zip(client.pipe(commands)?) {
        if let Some(error) = reply.error() {
            assert!(error.starts_with(b"WRONGTYPE"), "{args:?}: {error:?}");
        }
    }
    Ok(())
}

/// Random commands that succeed, on an empty server.
fn sequence(client: &mut Client, writes: &mut Writes) -> keyferry_testkit::Result<Vec<Args>> {
    client.call(&["FLUSHALL"])?;
    let mut commands = Vec::new();
    for _ in 0..writes.rng.range(1, 3) {
        writes.turn();
        (0..writes.rng.range(2, 14)).for_each(|_| commands.push(writes.next()));
    }
    let replies = client.pipe(&commands)?;
    Ok(commands
        .into_iter()
        .zip(replies)
        .filter(|(_, reply)| !reply.is_error())
        .map(|(args, _)| args)
        .collect())
}

fn shown(commands: &[Args]) -> String {
    let line =
        |args: &Args| args.iter().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" ");
    commands.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn repeating_blind_writes_changes_nothing() -> keyferry_testkit::Result<()> {
    const TRIALS: usize = 400;
    let table = CommandTable::builtin();
    for binary in all()? {
        let server = Server::builder(binary).start()?;
        let mut client = server.client()?;
        let mut writes = Writes::new(&mut client, 42, (HOUR, HOUR))?;
        let mut repeated = 0;
        for trial in 0..TRIALS {
            let commands = sequence(&mut client, &mut writes)?;
            let expected = state(&mut client, HOUR)?;
            let first = first_repeatable(table, &commands);
            let start = if trial % 2 == 0 { first } else { writes.rng.range(first, commands.len()) };
            repeated += commands.len() - start;
            let what = || format!("{}, trial {trial}, from {start} on:\n{}", binary.name, shown(&commands));

            repeat(&mut client, &commands[start..])?;
            assert_eq!(state(&mut client, HOUR)?, expected, "{}", what());

            // The target was not so far yet.
            let applied = writes.rng.range(start, commands.len());
            client.call(&["FLUSHALL"])?;
            client.pipe(&commands[..applied])?;
            repeat(&mut client, &commands[start..])?;
            assert_eq!(state(&mut client, HOUR)?, expected, "up to {applied}, {}", what());
        }
        assert!(repeated > TRIALS, "{}: {repeated}", binary.name);
    }
    Ok(())
}

/// Time passes, keys expire: the source sends a DEL for each that did.
#[test]
fn repeating_after_keys_expired() -> keyferry_testkit::Result<()> {
    const TRIALS: usize = 100;
    /// Deadlines are that far from now, or 20 seconds farther.
    const SOON: Duration = Duration::from_millis(15);
    let table = CommandTable::builtin();
    for binary in chosen(&["redis-7.0", "redis-8.0", "valkey-9"])? {
        let name = &binary.name;
        let server = Server::builder(binary).start()?;
        let mut client = server.client()?;
        for trial in 0..TRIALS {
            let alive = |client: &mut Client| {
                client
                    .pipe(&KEYS.map(|key| ["EXISTS", key]))
                    .map(|replies| replies.iter().map(Frame::as_i64).collect::<Vec<_>>())
            };
            let mut soon = SOON;
            let (mut writes, mut commands, before) = loop {
                let begun = Instant::now();
                let mut writes = Writes::new(&mut client, trial as u64, (soon.as_millis() as u64, 20_000))?;
                let commands = sequence(&mut client, &mut writes)?;
                let before = alive(&mut client)?;
                // Later, keys would have expired in the midst of them.
                if begun.elapsed() < soon {
                    break (writes, commands, before);
                }
                soon *= 2;
            };
            std::thread::sleep(soon + Duration::from_millis(10));
            let after = alive(&mut client)?;
            let expired =
                KEYS.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| before != after);
            commands.extend(expired.map(|(key, _)| vec![b"DEL".to_vec(), key.as_bytes().to_vec()]));
            let expected = state(&mut client, 20_000)?;
            let first = first_repeatable(table, &commands);
            let start = if trial % 2 == 0 { first } else { writes.rng.range(first, commands.len()) };
            repeat(&mut client, &commands[start..])?;
            let what = || format!("{name}, trial {trial}, from {start} on:\n{}", shown(&commands));
            assert_eq!(state(&mut client, 20_000)?, expected, "{}", what());
        }
    }
    Ok(())
}
