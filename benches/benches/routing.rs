//! Slots beside the crates `crc16` and `redis-protocol`; keys and routes of commands.
//!
//! `cargo bench -p keyferry-benches --bench routing`. Before anything is measured every contender's slots are compared, and the
//! routes of the stream are counted.
//!
//! Time is that of the thread on its core, not that of the clock on the wall: the machine may have other work meanwhile.
//!
//! * `slot/…`: 16384 keys of 16 to 40 bytes: without braces, with a short hash tag, and half of each.
//! * `commands/…`: a mixed stream of commands that are decoded already: what a mover asks of each.

#![allow(missing_docs, reason = "the functions that criterion's macros make")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a contender that fails ends the benchmark")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keyferry_benches::Random;
use keyferry_resp::Command;
use keyferry_routing::{CommandTable, Replay, Route, slot};
use redis_protocol::redis_keyslot;
use rustix::time::{ClockId, clock_gettime};

/// How long this thread was on a core.
struct CoreTime;

impl CoreTime {
    fn now() -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
    }
}

impl Measurement for CoreTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

const KEYS: usize = 16_384;

fn text(random: &mut Random, len: u64) -> String {
    let digit = |n: u64| b"abcdefghijklmnopqrstuvwxyz0123456789:_"[n as usize] as char;
    (0..len).map(|_| digit(random.below(38))).collect()
}

fn plain_key(random: &mut Random) -> Vec<u8> {
    let len = 16 + random.below(25);
    text(random, len).into_bytes()
}

fn tagged_key(random: &mut Random) -> Vec<u8> {
    let tag = 4 + random.below(8);
    let rest = 16 + random.below(25) - tag - 2;
    let front = random.below(rest.min(6) + 1);
    let (front, tag, back) = (text(random, front), text(random, tag), text(random, rest - front));
    format!("{front}{{{tag}}}{back}").into_bytes()
}

/// The crate `crc16` with the rule for hash tags as it is usually written.
fn with_crc16(key: &[u8]) -> u16 {
    let mut hashed = key;
    if let Some(open) = key.iter().position(|&byte| byte == b'{')
        && let Some(close) = key[open + 1..].iter().position(|&byte| byte == b'}')
        && close > 0
    {
        hashed = &key[open + 1..open + 1 + close];
    }
    crc16::State::<crc16::XMODEM>::calculate(hashed) % 16_384
}

fn slots(c: &mut Criterion<CoreTime>) {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let plain: Vec<Vec<u8>> = (0..KEYS).map(|_| plain_key(&mut random)).collect();
    let tagged: Vec<Vec<u8>> = (0..KEYS).map(|_| tagged_key(&mut random)).collect();
    let mixed: Vec<Vec<u8>> =
        plain.iter().zip(&tagged).flat_map(|(a, b)| [a.clone(), b.clone()]).take(KEYS).collect();
    for key in plain.iter().chain(&tagged) {
        assert!((16..=40).contains(&key.len()));
        assert_eq!(slot(key), with_crc16(key));
        assert_eq!(slot(key), redis_keyslot(key));
    }
    for (name, keys) in [("plain", &plain), ("tagged", &tagged), ("mixed", &mixed)] {
        let mut group = c.benchmark_group(format!("slot/{name}"));
        group.throughput(Throughput::Elements(keys.len() as u64));
        let slots_of: [fn(&[u8]) -> u16; 3] = [slot, with_crc16, redis_keyslot];
        for (contender, slot_of) in ["keyferry", "crc16", "redis-protocol"].into_iter().zip(slots_of) {
            group.bench_function(contender, |b| {
                b.iter(|| keys.iter().fold(0u64, |sum, key| sum + u64::from(slot_of(black_box(key)))));
            });
        }
        group.finish();
    }
}

/// Small writes with one key for the most part, some with several, as primaries send them.
fn stream() -> Vec<Command> {
    let mut random = Random::new(0x2545_f491_4f6c_dd1d);
    let mut commands = Vec::new();
    while commands.len() < 2048 {
        let key = plain_key(&mut random);
        let tagged = [tagged_key(&mut random), tagged_key(&mut random)];
        let [other, third] = [&tagged[0], &tagged[1]];
        let near = keyferry_routing::sibling_key(&key, b"near:");
        let n = random.below(100_000).to_string();
        let n = n.as_bytes();
        let args: Vec<&[u8]> = match random.below(50) {
            0..14 => vec![b"SET", &key, n],
            14..18 => vec![b"SET", &key, n, b"PXAT", b"1767225600000"],
            18..24 => vec![b"HSET", &key, b"name", n, b"seen", n],
            24..28 => vec![b"incrby", &key, n],
            28..32 => vec![b"ZADD", &key, n, n],
            32..35 => vec![b"DEL", &key],
            35..38 => vec![b"PEXPIREAT", &key, b"1767225600000"],
            38..41 => vec![b"RPUSH", &key, n, n, n],
            41..43 => vec![b"XADD", &key, b"1767225600000-0", b"event", n],
            43 => vec![b"MSET", &key, n, &near, n],
            44 => vec![b"RENAME", &key, &near],
            45 => vec![b"ZUNIONSTORE", &key, b"2", &key, &near],
            46 => vec![b"SUNIONSTORE", &key, &near, &key],
            47 => vec![b"LMOVE", &key, &near, b"LEFT", b"RIGHT"],
            48 => vec![b"EVAL", b"return redis.call('incr', KEYS[1])", b"2", &key, &near, n],
            // The few that cost more: keys in several slots.
            _ if random.below(10) == 0 => vec![b"SUNIONSTORE", &key, other, third],
            _ => vec![b"XACK", &key, b"group", b"1767225600000-0"],
        };
        commands.push(Command::new(args));
    }
    commands
}

fn commands(c: &mut Criterion<CoreTime>) {
    let table = CommandTable::builtin();
    let stream = stream();
    let mut keys = Vec::new();
    let several = stream.iter().filter(|command| !matches!(table.route(*command), Route::Slot(_))).count();
    assert!((1..50).contains(&several), "{several}");
    for command in &stream {
        table.keys(command, &mut keys).unwrap();
        assert!(!keys.is_empty());
        if let Route::Slot(of_command) = table.route(command) {
            assert!(keys.iter().all(|key| with_crc16(command.arg(key.index).unwrap()) == of_command));
        }
    }
    let mut group = c.benchmark_group("commands");
    group.throughput(Throughput::Elements(stream.len() as u64));
    group.bench_function("keys", |b| {
        b.iter(|| {
            stream.iter().fold(0, |sum, command| {
                table.keys(black_box(command), &mut keys).unwrap();
                sum + keys.len()
            })
        });
    });
    let slot_of = |command: &Command| match table.route(black_box(command)) {
        Route::Slot(slot) => u64::from(slot),
        _ => 1,
    };
    group
        .bench_function("route", |b| b.iter(|| stream.iter().fold(0, |sum, command| sum + slot_of(command))));
    group.bench_function("keys and route", |b| {
        b.iter(|| {
            stream.iter().fold(0, |sum, command| {
                table.keys(black_box(command), &mut keys).unwrap();
                sum + keys.len() as u64 + slot_of(command)
            })
        });
    });
    group.bench_function("route and replay", |b| {
        b.iter(|| {
            stream.iter().fold(0, |sum, command| {
                let once = table.replay(command) == Replay::Once;
                sum + u64::from(once) + slot_of(command)
            })
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CoreTime);
    targets = slots, commands
}
criterion_main!(benches);
