//! Files that are to be imported, and what they would meet at the target.

use std::{
    fs,
    path::{Path, PathBuf},
};

use keyferry_migrate::{
    CrossSlotPolicy, Migration, OnExists, OnLoss, Options,
    precheck::{Depth, Item, Report, Verdict},
};
use keyferry_testkit::{Client, Cluster, Server, chosen, data};

use crate::support::{any, expect, says, start};

async fn look(files: &[&Path], target: impl AsRef<str>, options: impl FnOnce(&mut Options)) -> Report {
    let files: Vec<PathBuf> = files.iter().map(|file| (*file).to_owned()).collect();
    let mut migration = Migration::from_files(files, target.as_ref().parse().unwrap());
    options(migration.options_mut());
    migration.precheck(Depth::Full).await
}

/// A snapshot of what a server holds now.
fn save(server: &Server) -> PathBuf {
    server.client().unwrap().call(&["SAVE"]).unwrap();
    server.dir().join("dump.rdb")
}

fn wire(words: &[&str]) -> String {
    let args: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{args}", words.len())
}

fn set(client: &mut Client, name: &str, value: &str) {
    client.call(&["CONFIG", "SET", name, value]).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_read_before_they_are_imported() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    data::tiny_keys(&mut client, 1, 500).unwrap();
    client.call(&["SELECT", "9"]).unwrap();
    client.call(&["SET", "other", "value"]).unwrap();
    let (file, to) = (save(&source), target.url());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);

    let report = look(&[&file], &to, |_| {}).await;
    // A machine that is busy takes its time to answer.
    let judged = report.findings.iter().filter(|finding| finding.item != Item::Latency);
    assert!(judged.clone().count() > 5 && judged.clone().all(|of| of.verdict == Verdict::Pass), "{report}");
    for item in [
        Item::Files,
        Item::Roles,
        Item::TargetAcl,
        Item::Memory,
        Item::EvictionPolicy,
        Item::Overlap,
        Item::Losses,
        Item::Modules,
        Item::Functions,
        Item::CrossSlot,
        Item::BigKeys,
        Item::HeartbeatKeys,
    ] {
        expect(&report, item, Verdict::Pass);
    }
    says(&expect(&report, Item::Files, Verdict::Pass), "501 keys, 0 commands");
    says(&expect(&report, Item::Databases, Verdict::Pass), "database 9: 1 keys, to database 9");
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);

    // Damage, wherever it is: the file is read to its end.
    let mut bytes = fs::read(&file).unwrap();
    fs::write(path("short.rdb"), &bytes[..bytes.len() - 20]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path("bit.rdb"), &bytes).unwrap();
    fs::write(path("text"), "hello").unwrap();
    for name in ["short.rdb", "bit.rdb", "text", "missing.rdb"] {
        let report = look(&[&file, &path(name)], &to, |_| {}).await;
        says(&expect(&report, Item::Files, Verdict::Fail), name);
    }
    // Standard input is left for the import.
    says(&expect(&look(&[Path::new("-")], &to, |_| {}).await, Item::Files, Verdict::Warn), "once");

    // A log that a crash has cut.
    let log = [wire(&["SELECT", "3"]), wire(&["SET", "a", "1"])].concat();
    fs::write(path("log.aof"), format!("{log}*3\r\n$3\r\nSE")).unwrap();
    let finding = expect(&look(&[&path("log.aof")], &to, |_| {}).await, Item::Files, Verdict::Fail);
    says(&finding, &format!("good up to byte {}", log.len()));
    let report = look(&[&path("log.aof")], &to, |o| o.allow_cut_log = true).await;
    expect(&report, Item::Files, Verdict::Warn);
    says(&expect(&report, Item::Databases, Verdict::Pass), "database 3: written to by commands");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_files_hold_has_to_fit_the_target() {
    let source = any();
    let target = Server::builder(keyferry_testkit::any().unwrap()).config("databases", "4").start().unwrap();
    let mut client = source.client().unwrap();
    data::large_strings(&mut client, 1, 40, 500_000).unwrap();
    client.call(&["SELECT", "9"]).unwrap();
    client.call(&["SET", "DTS_REDIS_TIMESTAMP_HEARTBEAT:42", "1"]).unwrap();
    let (file, to) = (save(&source), target.url());

    let report = look(&[&file], &to, |_| {}).await;
    says(&expect(&report, Item::Databases, Verdict::Fail), "database 9: 1 keys; the target has 4");
    says(&expect(&report, Item::HeartbeatKeys, Verdict::Warn), "1 keys of Aliyun DTS");
    expect(&report, Item::Memory, Verdict::Pass);
    let report = look(&[&file], &to, |o| o.db_map = [(9, 1)].into()).await;
    expect(&report, Item::Databases, Verdict::Pass);

    let mut there = target.client().unwrap();
    set(&mut there, "maxmemory", &(10 << 20).to_string());
    says(&expect(&look(&[&file], &to, |_| {}).await, Item::Memory, Verdict::Fail), "maxmemory 10.0 MiB");
    set(&mut there, "maxmemory-policy", "allkeys-lru");
    expect(&look(&[&file], &to, |_| {}).await, Item::EvictionPolicy, Verdict::Fail);
    set(&mut there, "maxmemory", "0");

    // Keys that are there.
    let key = client.call(&["SELECT", "0"]).and_then(|_| client.text(&["RANDOMKEY"])).unwrap();
    there.call(&["SET", &key, "value"]).unwrap();
    let report = look(&[&file], &to, |_| {}).await;
    says(&expect(&report, Item::Overlap, Verdict::Warn), &format!("\"{key}\""));
    let report = look(&[&file], &to, |o| o.on_exists = OnExists::Fail).await;
    expect(&report, Item::Overlap, Verdict::Fail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_older_targets_lose_of_files_is_found_in_all_values() {
    const LIBRARY: &str = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)";
    let (Ok(newer), Ok(older)) = (keyferry_testkit::named("redis-8.0"), keyferry_testkit::named("redis-6.2"))
    else {
        return;
    };
    let (source, target) = (start(newer), start(older));
    let mut client = source.client().unwrap();
    client.call(&["FUNCTION", "LOAD", LIBRARY]).unwrap();
    for n in 0..300 {
        client.call(&["HSET", &format!("hash:{n}"), "field", "value"]).unwrap();
    }
    client.call(&["HEXPIRE", "hash:7", "1000", "FIELDS", "1", "field"]).unwrap();
    let file = save(&source);
    let report = look(&[&file], target.url(), |_| {}).await;
    says(&expect(&report, Item::Losses, Verdict::Fail), "field expiry: 1 of 300 values, as \"hash:7\"");
    says(&expect(&report, Item::Functions, Verdict::Fail), "mylib");
    let report = look(&[&file], target.url(), |o| o.on_loss = OnLoss::Drop).await;
    expect(&report, Item::Losses, Verdict::Warn);
    expect(&report, Item::Functions, Verdict::Warn);
    let report = look(&[&file], start(newer).url(), |_| {}).await;
    says(&expect(&report, Item::Losses, Verdict::Pass), "0 have to be encoded anew");
    expect(&report, Item::Functions, Verdict::Pass);
}

/// Each shard has its part of the file, and commands are told by their slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_for_a_cluster_are_looked_at_slot_by_slot() {
    let binary = chosen(&["redis-7.0"]).unwrap()[0];
    let source = start(binary);
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let mut client = source.client().unwrap();
    client.call(&["SET", "small", "1"]).unwrap();
    client.call(&["SET", "{large}", &"x".repeat(30 << 20)]).unwrap();
    let file = save(&source);
    let slot = client.int(&["CLUSTER", "KEYSLOT", "{large}"]).unwrap_or(0);
    let slot = if slot > 0 { slot as u16 } else { keyferry_routing::slot(b"{large}") };
    let owner = target.owner(slot).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.aof");
    let commands = [
        wire(&["SELECT", "0"]),
        wire(&["MSET", "a", "1", "b", "2"]),
        wire(&["MSET", "{c}1", "1", "{c}2", "2"]),
    ];
    fs::write(&log, commands.concat()).unwrap();

    let report = look(&[&file, &log], target.url(), |_| {}).await;
    expect(&report, Item::Slots, Verdict::Pass);
    assert_eq!(expect(&report, Item::Memory, Verdict::Pass).evidence.len(), 3);
    says(&expect(&report, Item::CrossSlot, Verdict::Warn), "with keys in several slots: 1 mset");
    let report = look(&[&log], target.url(), |o| o.cross_slot = CrossSlotPolicy::Fail).await;
    expect(&report, Item::CrossSlot, Verdict::Fail);
    expect(&look(&[&file], target.url(), |_| {}).await, Item::CrossSlot, Verdict::Pass);

    set(&mut target.node(owner).client().unwrap(), "maxmemory", &(20 << 20).to_string());
    let finding = expect(&look(&[&file], target.url(), |_| {}).await, Item::Memory, Verdict::Fail);
    let short = finding.evidence.iter().filter(|line| line.contains("maxmemory 20.0 MiB")).count();
    assert_eq!((short, finding.evidence.len()), (1, 3), "{finding:#?}");
}
