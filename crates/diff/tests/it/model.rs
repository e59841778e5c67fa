//! The differ beside two maps: what it finds is what differs there, whatever spills and however files are cut.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_diff::{Difference, DifferenceSink, LiveDiff, Side};
use keyferry_rdb::{HashField, Value};
use keyferry_testkit::{Server, any};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{Found, Key, diff_sides, formats, told, write};

type Model = BTreeMap<(u64, Vec<u8>), (Value, Option<i64>)>;

/// Few of everything, so that much is the same on both sides.
fn model() -> impl Strategy<Value = Model> {
    let text = || "[ab]{0,2}".prop_map(String::into_bytes);
    let texts =
        || prop::collection::btree_set(text(), 1..4).prop_map(|all| all.into_iter().collect::<Vec<_>>());
    // Two that lie as near together as can be.
    let score = prop::sample::select(vec![1.5, 1.500_000_000_000_000_2, f64::INFINITY, -3.0]);
    let value = prop_oneof![
        4 => text().prop_map(Value::String),
        1 => prop::collection::vec(text(), 1..4).prop_map(Value::List),
        1 => texts().prop_shuffle().prop_map(Value::Set),
        1 => prop::collection::btree_map(text(), score, 1..4)
            .prop_map(|members| Value::SortedSet(members.into_iter().collect())),
        1 => prop::collection::btree_map(text(), text(), 1..4).prop_map(|fields| {
            Value::Hash(fields.into_iter().map(|(name, value)| HashField::new(name, value)).collect())
        }),
    ];
    let expiry = prop_oneof![4 => Just(None), 1 => (10i64..14).prop_map(|seconds| Some(seconds * 1000))];
    let key = (0u64..3, "[a-e]{1,2}".prop_map(String::into_bytes));
    prop::collection::btree_map(key, (value, expiry), 0..60)
}

/// Whether two values are the same: members and fields have no order.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Set(a), Value::Set(b)) => {
            a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
        }
        _ => a == b,
    }
}

/// What differs, the obvious way.
fn expected(source: &Model, target: &Model, tolerance: u64) -> Found {
    let mut found = Found::new();
    for name @ (db, key) in source.keys().chain(target.keys()) {
        let mut add = |kind| {
            found.insert((*db, key.clone(), kind));
        };
        match (source.get(name), target.get(name)) {
            (Some(_), None) => add("lack_target"),
            (None, Some(_)) => add("lack_source"),
            (Some((a, at_a)), Some((b, at_b))) => {
                if a.kind() != b.kind() {
                    add("type");
                } else if !same(a, b) {
                    add("value");
                }
                if match (at_a, at_b) {
                    (Some(a), Some(b)) => a.abs_diff(*b) > tolerance,
                    (a, b) => a != b,
                } {
                    add("expiry");
                }
            }
            (None, None) => {}
        }
    }
    found
}

/// Writes a model as several files.
fn files(dir: &std::path::Path, model: &Model, count: usize, format: usize) -> Side {
    let formats = formats();
    let mut paths = Vec::new();
    let count = count.max(1);
    for number in 0..count {
        let keys: Vec<Key> = model
            .iter()
            .enumerate()
            .filter(|(at, _)| at % count == number)
            .map(|(_, ((db, key), (value, expiry)))| Key {
                db: *db,
                key: key.clone(),
                value: value.clone(),
                expiry: *expiry,
            })
            .collect();
        let path = dir.join(format!("{number}.rdb"));
        paths.push(write(&path, formats[(format + number) % formats.len()], &keys));
    }
    Side::Files(paths)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_differs_in_the_model_is_found(
        (source, mut target, common) in (model(), model(), model()),
        (cut_source, cut_target, format, other_format) in (1usize..4, 1usize..4, 0usize..30, 0usize..30),
        memory in prop::sample::select(vec![1usize, 300, 4000, 1 << 20]),
        tolerance in prop::sample::select(vec![0u64, 1000, 2000]),
    ) {
        let mut source = source;
        source.extend(common.clone());
        target.extend(common);
        let dirs = [tempfile(), tempfile()];
        let sides = (
            files(dirs[0].path(), &source, cut_source, format),
            files(dirs[1].path(), &target, cut_target, other_format),
        );
        let (report, found) = diff_sides(sides.0, sides.1, |options| {
            options.memory = memory;
            options.ttl_tolerance = std::time::Duration::from_millis(tolerance);
        })
        .unwrap();
        prop_assert_eq!(&found, &expected(&source, &target, tolerance));
        prop_assert_eq!((report.source.keys, report.target.keys), (source.len() as u64, target.len() as u64));
        let both = source.keys().filter(|name| target.contains_key(*name)).count();
        prop_assert_eq!(report.both, both as u64);
        let differing = found.iter().filter(|(_, _, kind)| !kind.starts_with("lack"));
        let differing: std::collections::BTreeSet<_> = differing.map(|(db, key, _)| (db, key)).collect();
        prop_assert_eq!(report.equal, (both - differing.len()) as u64);
        prop_assert!(memory > 1 || report.spilled > 0 || source.len() + target.len() == 0);
    }
}

/// Deadlines lie so far apart that no load of the machine makes two of them the same, or one of them two.
const APART: i64 = 1_000_000;

/// Makes a server hold just what the model says; deadlines of the model are multiples of a second.
fn load(server: &Server, model: &Model, base: i64) {
    let mut client = server.client().unwrap();
    let text = |text: &str| text.as_bytes().to_vec();
    let mut commands = vec![vec![text("FLUSHALL")]];
    for ((db, key), (value, expiry)) in model {
        commands.push(vec![text("SELECT"), text(&db.to_string())]);
        let (word, items) = match value {
            Value::String(bytes) => ("SET", vec![bytes.clone()]),
            Value::List(items) => ("RPUSH", items.clone()),
            Value::Set(items) => ("SADD", items.clone()),
            Value::SortedSet(items) => {
                let pair = |(member, score): &(Vec<u8>, f64)| [text(&score.to_string()), member.clone()];
                ("ZADD", items.iter().flat_map(pair).collect())
            }
            Value::Hash(fields) => {
                let pair = |field: &HashField| [field.name.clone(), field.value.clone()];
                ("HSET", fields.iter().flat_map(pair).collect())
            }
            other => panic!("{other:?} is not in the model"),
        };
        commands.push([vec![text(word), key.clone()], items].concat());
        if let Some(at) = expiry {
            commands.push(vec![
                text("PEXPIREAT"),
                key.clone(),
                text(&(base + at / 1000 * APART).to_string()),
            ]);
        }
    }
    client.pipe(&commands).unwrap().iter().for_each(|reply| assert!(reply.error().is_none(), "{reply:?}"));
}

/// Makes both servers hold other models when the first round is over, and keeps what is told.
struct Between<'a> {
    servers: &'a (Server, Server),
    models: Option<(&'a Model, &'a Model)>,
    base: i64,
    told: Vec<Difference>,
}

impl DifferenceSink for Between<'_> {
    fn difference(&mut self, difference: &Difference) -> std::io::Result<()> {
        self.told.push(difference.clone());
        Ok(())
    }

    fn suspect(&mut self, _round: u32, _difference: &Difference) -> std::io::Result<()> {
        if let Some((source, target)) = self.models.take() {
            load(&self.servers.0, source, self.base);
            load(&self.servers.1, target, self.base);
        }
        Ok(())
    }
}

/// One round tells what differs; further rounds tell what of that still differs after both sides have changed.
#[test]
fn what_differs_in_the_model_is_found_key_by_key() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let servers = (Server::builder(binary).start().unwrap(), Server::builder(binary).start().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let base = now.as_millis() as i64;
    let models = (model(), model(), model(), model(), model());
    let how = (
        prop::sample::select(vec![1usize, 7, 1000]),
        1usize..5,
        prop::sample::select(vec![0u64, 2, 1000]),
        prop::sample::select(vec![1usize, 1 << 20]),
        1u32..4,
        prop::sample::select(vec![APART / 10, APART + APART / 10]),
    );
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) });
    let outcome =
        runner.run(&(models, how), |(models, (batch, parallel, big_key, memory, rounds, tolerance))| {
            let (mut source, mut target, common, mut later_source, mut later_target) = models;
            source.extend(common.clone());
            target.extend(common.clone());
            later_source.extend(common.clone());
            later_target.extend(common);
            load(&servers.0, &source, base);
            load(&servers.1, &target, base);
            let mut diff = LiveDiff::new(servers.0.url().parse().unwrap(), servers.1.url().parse().unwrap());
            let live = diff.live_mut();
            (live.batch, live.parallel, live.big_key, live.rounds) = (batch, parallel, big_key, rounds);
            live.interval = std::time::Duration::ZERO;
            diff.options_mut().memory = memory;
            diff.options_mut().ttl_tolerance = std::time::Duration::from_millis(tolerance as u64);
            let models = Some((&later_source, &later_target));
            let mut sink = Between { servers: &servers, models, base, told: Vec::new() };
            let report = diff.run(&mut sink).unwrap();
            // The model's deadlines are a second apart where the servers' are so much more.
            let tolerance = (tolerance / APART * 1000) as u64;
            let first = expected(&source, &target, tolerance);
            let expected = if rounds == 1 {
                first
            } else {
                let differed =
                    |db: u64, key: &[u8]| first.iter().any(|(of, name, _)| (*of, &name[..]) == (db, key));
                let later = expected(&later_source, &later_target, tolerance).into_iter();
                later.filter(|(db, key, _)| differed(*db, key)).collect()
            };
            prop_assert_eq!(told(&sink.told), expected);
            if rounds == 1 {
                let counts = (report.source.keys, report.target.keys);
                prop_assert_eq!(counts, (source.len() as u64, target.len() as u64));
            }
            Ok(())
        });
    outcome.unwrap();
}

fn tempfile() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
