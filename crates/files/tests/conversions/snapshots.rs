//! Snapshots divided, merged, moved between databases, and refused.

use std::collections::BTreeSet;
use std::path::Path;

use keyferry_files::convert::{ConvertOptions, OnCollision, OnLoss, convert};
use keyferry_files::{Error, Input, Output, OutputKind};
use keyferry_routing::SlotSet;
use keyferry_testkit::{Client, DifferenceKind, Server, any, data, judge};

use crate::support::{Shared, converted, failure, filled, loaded, names, open, save, some_servers, target};

const PART: usize = 4096;

fn options() -> ConvertOptions {
    let mut options = ConvertOptions::default();
    options.limits = crate::support::limits(PART);
    options
}

fn inputs(paths: &[&Path]) -> Vec<Input> {
    paths.iter().map(|path| open(path, PART)).collect()
}

/// A snapshot at `dir/dump.rdb`.
fn snapshot_at(dir: &Path) -> Output {
    std::fs::create_dir_all(dir).unwrap();
    Output::path(dir.join("dump.rdb"), OutputKind::Snapshot)
}

fn keys(client: &mut Client) -> BTreeSet<Vec<u8>> {
    client.list(&["KEYS", "*"]).unwrap().iter().map(|key| key.as_bytes().unwrap().to_vec()).collect()
}

/// One file for each shard; the servers together have everything, each the keys of its slots only.
#[test]
fn shards_divide_a_snapshot_and_merge_to_the_whole() {
    for binary in some_servers() {
        let source = filled(binary, 5, 1);
        let file = save(&source);
        let dir = tempfile::tempdir().unwrap();
        let shards = ["0-5460", "5461-10922", "10923-16383"];
        let dirs: Vec<_> = (0..3).map(|shard| dir.path().join(shard.to_string())).collect();
        let outputs =
            dirs.iter().zip(shards).map(|(dir, slots)| snapshot_at(dir).with_slots(slots.parse().unwrap()));
        let done = convert(inputs(&[&file]), outputs.collect(), options());
        done.result.unwrap();
        assert_eq!(done.report.keys_written, done.report.keys_read);
        assert_eq!(done.report.outputs[1].slots.as_deref(), Some("5461-10922"));

        // The slot of a key is what a cluster says.
        let cluster = Server::builder(binary).cluster().start().unwrap();
        let mut cluster = cluster.client().unwrap();
        let mut all = BTreeSet::new();
        for (dir, slots) in dirs.iter().zip(shards) {
            let slots: SlotSet = slots.parse().unwrap();
            let shard = loaded(binary, &dir.join("dump.rdb"));
            let found = keys(&mut shard.client().unwrap());
            assert!(found.len() > 20);
            for key in found {
                let slot = cluster.int(&[&b"CLUSTER"[..], b"KEYSLOT", &key]).unwrap();
                assert!(slots.contains(slot as u16), "{binary:?}: {} in {slots}", key.escape_ascii());
                all.insert(key);
            }
        }
        assert_eq!(all, keys(&mut source.client().unwrap()));

        let whole = dir.path().join("whole");
        let files: Vec<_> = dirs.iter().map(|dir| dir.join("dump.rdb")).collect();
        let files: Vec<&Path> = files.iter().map(|file| &**file).collect();
        let done = convert(inputs(&files), vec![snapshot_at(&whole)], options());
        done.result.unwrap();
        assert_eq!(done.report.inputs.len(), 3);
        let merged = loaded(binary, &whole.join("dump.rdb"));
        let judgement = judge(&mut source.client().unwrap(), &mut merged.client().unwrap(), &[]).unwrap();
        assert!(judgement.is_right(), "{binary:?}: {judgement}");
    }
}

#[test]
fn keys_outside_of_database_0_do_not_fit_a_shard() {
    let Ok(binary) = any() else { return };
    let source = Server::builder(binary).start().unwrap();
    let mut client = source.client().unwrap();
    client.call(&["SET", "in 0", "1"]).unwrap();
    client.call(&["SELECT", "3"]).unwrap();
    client.call(&["SET", "in 3", "1"]).unwrap();
    let file = save(&source);
    let dir = tempfile::tempdir().unwrap();
    let shard = || vec![snapshot_at(dir.path()).with_slots("0-16383".parse().unwrap())];
    let (report, error) = failure(convert(inputs(&[&file]), shard(), options()));
    assert!(matches!(error, Error::Losses { count: 1, .. }), "{error}");
    assert_eq!((&report.losses[0].key, report.losses[0].db), (&Some("in 3".to_owned()), Some(3)));
    assert_eq!(names(dir.path()), [""; 0]);
    // Moved to database 0, it fits.
    let mut moved = options();
    moved.databases.add("3=0".parse().unwrap());
    convert(inputs(&[&file]), shard(), moved).result.unwrap();
    let loaded = loaded(binary, &dir.path().join("dump.rdb"));
    assert_eq!(keys(&mut loaded.client().unwrap()).len(), 2);
}

#[test]
fn databases_change_their_numbers() {
    for binary in some_servers() {
        let source = filled(binary, 5, 2);
        let file = save(&source);
        let (moved, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut there = options();
        there.databases.add("1=7".parse().unwrap());
        converted(&file, snapshot_at(moved.path()), there);
        let server = loaded(binary, &moved.path().join("dump.rdb"));
        let mut client = server.client().unwrap();
        for (db, value) in [("0", "0"), ("1", "nothing"), ("7", "1")] {
            client.call(&["SELECT", db]).unwrap();
            let found = client.bytes(&["GET", "string:database"]).unwrap();
            assert_eq!(found.as_deref().unwrap_or(b"nothing"), value.as_bytes(), "{binary:?}");
        }
        drop(server);
        let mut again = options();
        again.databases.add("7=1".parse().unwrap());
        converted(&moved.path().join("dump.rdb"), snapshot_at(back.path()), again);
        let server = loaded(binary, &back.path().join("dump.rdb"));
        let judgement = judge(&mut source.client().unwrap(), &mut server.client().unwrap(), &[]).unwrap();
        assert!(judgement.is_right(), "{binary:?}: {judgement}");
    }
}

/// Keys that would come together under one name are never written over one another.
#[test]
fn collisions_are_refused_or_decided() {
    let Ok(binary) = any() else { return };
    let source = filled(binary, 5, 2);
    let file = save(&source);
    let dir = tempfile::tempdir().unwrap();
    let merging = |on_collision| {
        let mut options = options();
        options.databases.add("1=0".parse().unwrap());
        options.on_collision = on_collision;
        options
    };
    // All but one of the names of the two databases are the same.
    let (report, error) =
        failure(convert(inputs(&[&file]), vec![snapshot_at(dir.path())], merging(OnCollision::Fail)));
    let common = {
        let mut client = source.client().unwrap();
        let first = keys(&mut client);
        client.call(&["SELECT", "1"]).unwrap();
        first.intersection(&keys(&mut client)).count() as u64
    };
    assert!(common > 100);
    assert!(matches!(error, Error::Collisions { count, .. } if count == common), "{error}: not {common}");
    assert_eq!((report.collision_count, report.collisions.len() as u64), (common, common));
    assert_eq!(report.collisions[0].db, Some(1));
    assert_eq!(names(dir.path()), [""; 0]);

    let done = convert(inputs(&[&file]), vec![snapshot_at(dir.path())], merging(OnCollision::KeepFirst));
    done.result.unwrap();
    assert_eq!(done.report.collision_count, common);
    let server = loaded(binary, &dir.path().join("dump.rdb"));
    let mut client = server.client().unwrap();
    assert_eq!(client.text(&["GET", "string:database"]).unwrap(), "0");
    assert_eq!(client.info("keyspace", "db1").unwrap(), None);

    // The same of two inputs, and libraries of functions of one name and other code.
    let other = filled(binary, 6, 1);
    let second = save(&other);
    let outputs = || vec![Output::writer("nowhere", Shared::default(), OutputKind::Snapshot)];
    let (report, _) = failure(convert(inputs(&[&file, &second]), outputs(), options()));
    // A stream cannot be taken back, so it ends at once.
    assert_eq!(report.collision_count, 1);
    let mut keep = options();
    keep.on_collision = OnCollision::KeepFirst;
    let done = convert(inputs(&[&file, &second]), outputs(), keep);
    done.result.unwrap();
    let of_functions = done.report.collisions.iter().filter(|found| found.db.is_none()).count();
    assert_eq!((done.report.functions, of_functions), (2, 2));
}

/// What a target has no place for fails the conversion, all of it told, and leaves nothing.
#[test]
fn losses_fail_unless_they_may_occur() {
    let newest = some_servers().into_iter().max_by_key(|binary| (binary.vendor, target(binary).version()));
    let Some(binary) = newest.filter(|binary| target(binary).functions()) else { return };
    let source = filled(binary, 5, 2);
    let file = save(&source);
    let dir = tempfile::tempdir().unwrap();
    let to_old = |on_loss| {
        let mut options = options();
        options.target = "redis-6.0".parse().ok();
        options.on_loss = on_loss;
        options
    };
    let (report, error) =
        failure(convert(inputs(&[&file]), vec![snapshot_at(dir.path())], to_old(OnLoss::Fail)));
    assert!(matches!(error, Error::Losses { count, .. } if count == report.total_losses()), "{error}");
    assert!(report.loss_counts["function library"] == 2 && report.loss_counts["stream counters"] > 0);
    assert_eq!(names(dir.path()), [""; 0]);
    // On a stream the first one ends it.
    let shared = Shared::default();
    let stream = Output::writer("stream", shared.clone(), OutputKind::Snapshot);
    let (report, _) = failure(convert(inputs(&[&file]), vec![stream], to_old(OnLoss::Fail)));
    assert_eq!(report.total_losses(), 1);
    let told = converted(&file, snapshot_at(dir.path()), to_old(OnLoss::Drop));
    assert_eq!(names(dir.path()), ["dump.rdb"]);
    assert!(told.total_losses() > 2 && told.keys_lost == 0);
    let json = serde_json::to_value(&told).unwrap();
    assert_eq!(json["losses"].as_array().unwrap().len() as u64, told.total_losses());
    assert!(json["losses"][0]["what"].as_str().unwrap().contains("library"), "{json}");
}

#[test]
fn selections_leave_out() {
    let Ok(binary) = any() else { return };
    let source = filled(binary, 5, 2);
    let file = save(&source);
    let dir = tempfile::tempdir().unwrap();
    let mut some = options();
    some.selection.keys.push(keyferry_routing::KeyPattern::new(b"hash:*").into());
    some.selection.databases.push(1);
    let report = converted(&file, snapshot_at(dir.path()), some);
    assert_eq!(report.keys_written + report.left_out, report.keys_read);
    let server = loaded(binary, &dir.path().join("dump.rdb"));
    let mut client = server.client().unwrap();
    let mut from = source.client().unwrap();
    assert!(keys(&mut client).is_empty());
    for client in [&mut client, &mut from] {
        client.call(&["SELECT", "1"]).unwrap();
    }
    let mut want = keys(&mut from);
    want.retain(|key| key.starts_with(b"hash:"));
    assert!(want.len() > 3);
    assert_eq!(keys(&mut client), want);
    // What is there is whole.
    from.call(&["SELECT", "0"]).unwrap();
    client.call(&["SELECT", "0"]).unwrap();
    let judgement = judge(&mut from, &mut client, &[]).unwrap();
    assert!(judgement.unreported.iter().all(|found| found.kind == DifferenceKind::MissingInB), "{judgement}");
}

/// Lines of JSON have every key with its value as it is, whatever the target.
#[test]
fn lines_show_everything() {
    for binary in some_servers() {
        let source = filled(binary, 5, 2);
        let file = save(&source);
        let out = Shared::default();
        let lines = Output::writer("lines", out.clone(), OutputKind::Lines);
        let mut options = options();
        options.databases.add("1=9".parse().unwrap());
        options.target = "redis-6.0".parse().ok();
        let done = convert(inputs(&[&file]), vec![lines], options);
        done.result.unwrap();
        let text = String::from_utf8(out.take()).unwrap();
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_db = |db: u64| objects.iter().filter(|object| object["db"] == db).count();
        assert_eq!((of_db(0) + of_db(9), of_db(1)), (done.report.keys_read as usize, 0));
        let found = objects.iter().find(|object| object["key"] == "string:database" && object["db"] == 9);
        assert_eq!(found.unwrap()["value"], "1");
    }
}

#[test]
fn outputs_are_whole_or_absent() {
    let Ok(binary) = any() else { return };
    let source = Server::builder(binary).start().unwrap();
    data::tiny_keys(&mut source.client().unwrap(), 1, 20_000).unwrap();
    let file = save(&source);
    let dir = tempfile::tempdir().unwrap();
    // One that is there stays, unless it may be replaced.
    let there = dir.path().join("dump.rdb");
    std::fs::write(&there, b"precious").unwrap();
    let (_, error) = failure(convert(inputs(&[&file]), vec![snapshot_at(dir.path())], options()));
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(std::fs::read(&there).unwrap(), b"precious");
    converted(&file, snapshot_at(dir.path()).replacing(), options());
    assert_eq!(names(dir.path()), ["dump.rdb"]);
    assert!(std::fs::metadata(&there).unwrap().len() > 200_000);

    // An input that is cut leaves nothing.
    let cut = dir.path().join("cut.rdb");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 5]).unwrap();
    for kind in [OutputKind::Snapshot, OutputKind::Commands, OutputKind::LogDirectory] {
        let output = Output::path(dir.path().join("out"), kind);
        let (_, error) = failure(convert(inputs(&[&cut]), vec![output], options()));
        assert!(matches!(error, Error::Data { .. }), "{error}");
    }
    // Nor does a full disk, which /dev/full stands for.
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        for kind in [OutputKind::Snapshot, OutputKind::Commands] {
            let output = Output::writer("full", full.try_clone().unwrap(), kind);
            let (_, error) = failure(convert(inputs(&[&file]), vec![output], options()));
            assert!(matches!(error, Error::Output { .. }), "{error}");
        }
    }
    assert_eq!(names(dir.path()), ["cut.rdb", "dump.rdb"]);

    // Inputs of other versions need a target.
    let old = dir.path().join("old.rdb");
    std::fs::write(&old, b"REDIS0006\xFE\x00\x00\x01a\x05hello\xFF\0\0\0\0\0\0\0\0").unwrap();
    let output = || Output::path(dir.path().join("both.rdb"), OutputKind::Snapshot);
    let (_, error) = failure(convert(inputs(&[&old, &file]), vec![output()], options()));
    assert!(matches!(error, Error::MixedVersions { .. }), "{error}");
    let mut named = options();
    named.target = Some(target(binary));
    convert(inputs(&[&old, &file]), vec![output()], named).result.unwrap();
}
