//! The differ beside two maps: what it finds is what differs there, whatever spills and however files are cut.

use std::collections::BTreeMap;

use keyferry_diff::Side;
use keyferry_rdb::Value;
use proptest::prelude::*;

use crate::support::{Found, Key, diff_sides, formats, write};

type Model = BTreeMap<(u64, Vec<u8>), (Value, Option<i64>)>;

/// Few of everything, so that much is the same on both sides.
fn model() -> impl Strategy<Value = Model> {
    let text = || "[ab]{0,2}".prop_map(String::into_bytes);
    let texts =
        || prop::collection::btree_set(text(), 1..4).prop_map(|all| all.into_iter().collect::<Vec<_>>());
    let value = prop_oneof![
        4 => text().prop_map(Value::String),
        1 => prop::collection::vec(text(), 1..4).prop_map(Value::List),
        1 => texts().prop_shuffle().prop_map(Value::Set),
        1 => texts().prop_map(|members| {
            Value::SortedSet(members.into_iter().map(|member| (member, 1.5)).collect())
        }),
    ];
    let expiry = prop_oneof![4 => Just(None), 1 => (10i64..14).prop_map(|seconds| Some(seconds * 1000))];
    let key = (0u64..3, "[a-e]{1,2}".prop_map(String::into_bytes));
    prop::collection::btree_map(key, (value, expiry), 0..60)
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
                } else if a != b {
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

fn tempfile() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
