//! What the servers hold.

use keyferry_migrate::precheck::{Depth, Item, Verdict};
use keyferry_resp::{Command, Frame};
use keyferry_testkit::{Client, Rewriter, Server, chosen, data};

use crate::support::{any, expect, look, look_with, says, start};

#[tokio::test]
async fn keys_at_the_target_are_counted() {
    let (source, target) = (any(), any());
    let (mut from, mut to) = (source.client().unwrap(), target.client().unwrap());
    for n in 0..20 {
        from.call(&["SET", &format!("key:{n}"), "value"]).unwrap();
    }
    expect(&look(source.url(), target.url()).await, Item::Overlap, Verdict::Pass);
    to.call(&["SET", "other", "value"]).unwrap();
    says(&expect(&look(source.url(), target.url()).await, Item::Overlap, Verdict::Warn), "none of 20 keys");
    to.call(&["SET", "key:7", "value"]).unwrap();
    let finding = expect(&look(source.url(), target.url()).await, Item::Overlap, Verdict::Warn);
    says(&finding, "1 of 20 keys of the source that were looked for, as \"key:7\"");
    // In another database nothing is in the way.
    let mapped = look_with(source.url(), target.url(), Depth::Quick, |o| o.db_map = [(0, 5)].into());
    says(&expect(&mapped.await, Item::Overlap, Verdict::Warn), "none of 20 keys");
}

#[tokio::test]
async fn the_target_needs_room() {
    let (source, target) = (any(), any());
    data::large_strings(&mut source.client().unwrap(), 1, 40, 500_000).unwrap();
    let mut client = target.client().unwrap();
    expect(&look(source.url(), target.url()).await, Item::Memory, Verdict::Pass);
    let mut limit =
        |mib: u64| client.call(&["CONFIG", "SET", "maxmemory", &(mib << 20).to_string()]).unwrap();
    limit(10);
    let finding = expect(&look(source.url(), target.url()).await, Item::Memory, Verdict::Fail);
    says(&finding, "maxmemory 10.0 MiB");
    limit(200);
    expect(&look(source.url(), target.url()).await, Item::Memory, Verdict::Pass);
    // 20 MB come; there is room for them, but not for a tenth more.
    let used = |server: &Server| -> u64 {
        server.client().unwrap().info("memory", "used_memory").unwrap().unwrap().parse().unwrap()
    };
    let room = (used(&source) + used(&target)) * 104 / 100;
    target.client().unwrap().call(&["CONFIG", "SET", "maxmemory", &room.to_string()]).unwrap();
    expect(&look(source.url(), target.url()).await, Item::Memory, Verdict::Warn);
    // What is there already takes no room a second time.
    target.client().unwrap().call(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    data::large_strings(&mut target.client().unwrap(), 1, 40, 500_000).unwrap();
    let room = used(&target) * 105 / 100;
    target.client().unwrap().call(&["CONFIG", "SET", "maxmemory", &room.to_string()]).unwrap();
    expect(&look(source.url(), target.url()).await, Item::Memory, Verdict::Pass);
}

#[tokio::test]
async fn keys_of_other_tools_and_large_ones_are_found() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    data::tiny_keys(&mut client, 1, 500).unwrap();
    let full = || look_with(source.url(), target.url(), Depth::Full, |_| {});
    let report = full().await;
    for item in [Item::HeartbeatKeys, Item::BigKeys, Item::Losses] {
        expect(&report, item, Verdict::Pass);
    }
    client.call(&["SELECT", "3"]).unwrap();
    client.call(&["SET", "DTS_REDIS_TIMESTAMP_HEARTBEAT:42", "1"]).unwrap();
    client.call(&["SET", "large", &"x".repeat(3 << 20)]).unwrap();
    let report = full().await;
    says(&expect(&report, Item::HeartbeatKeys, Verdict::Warn), "1 keys of Aliyun DTS");
    says(&expect(&report, Item::BigKeys, Verdict::Warn), "\"large\" (3.");
    assert!(report.left_out.iter().all(|item| *item == Item::Slots), "{report}");
}

/// Gives every feature of the source that the target may lack, where it has it.
fn newest_things(client: &mut Client) -> bool {
    client.call(&["HSET", "hash", "field", "value"]).unwrap();
    client
        .call_raw(&["HEXPIRE", "hash", "1000", "FIELDS", "1", "field"])
        .is_ok_and(|reply| reply.as_array().is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_older_targets_lose_is_found_in_a_sample() {
    for (newer, older) in [("valkey-9", "redis-7.0"), ("redis-8.0", "redis-6.2"), ("redis-8.0", "valkey-9")] {
        let (newer, older) = (chosen(&[newer]).unwrap()[0], chosen(&[older]).unwrap()[0]);
        let (source, target) = (start(newer), start(older));
        let report = look(source.url(), source.url()).await;
        expect(&report, Item::Versions, Verdict::Pass);
        if newer.version == older.version && newer.vendor == older.vendor {
            continue;
        }
        let has_field_expiry = newest_things(&mut source.client().unwrap());
        let report = look_with(source.url(), target.url(), Depth::Full, |_| {}).await;
        expect(&report, Item::Versions, Verdict::Warn);
        let lost = expect(
            &report,
            Item::Losses,
            if has_field_expiry && older.name != "valkey-9" { Verdict::Fail } else { Verdict::Pass },
        );
        if lost.verdict == Verdict::Fail {
            says(&lost, "field expiry: 1 of 1 values, as \"hash\" (database 0)");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modules_have_to_be_there() {
    // Redis 8 has its vector sets as a module.
    let Ok(newer) = keyferry_testkit::named("redis-8.0") else { return };
    let older = keyferry_testkit::named("redis-7.0").or_else(|_| keyferry_testkit::any()).unwrap();
    let (source, same, target) = (start(newer), start(newer), start(older));
    says(&expect(&look(source.url(), same.url()).await, Item::Modules, Verdict::Pass), "vectorset");
    if older.version != newer.version {
        says(
            &expect(&look(source.url(), target.url()).await, Item::Modules, Verdict::Warn),
            "a part of the source, and not of the target",
        );
    }
}

/// Modules are hard to come by, so the source says that it has one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_only_the_source_has_is_a_failure() {
    let (source, target) = (any(), any());
    let with = |version: u32| {
        let line = format!("# Modules\r\nmodule:name=ReJSON,ver={version},api=1,filters=0\r\n");
        move |command: &Command, reply: Frame| match command.is("INFO") && command.arg(1) == Some(b"modules")
        {
            true => Frame::Bulk(line.clone().into()),
            false => reply,
        }
    };
    let url = |rewriter: &Rewriter| format!("redis://{}", rewriter.addr());
    let (newer, older) = (
        Rewriter::start(source.addr(), with(20_808)).unwrap(),
        Rewriter::start(target.addr(), with(20_000)).unwrap(),
    );
    let report = look(url(&newer), target.url()).await;
    says(&expect(&report, Item::Modules, Verdict::Fail), "ReJSON (version 20808) is loaded at the source");
    let report = look(url(&newer), url(&older)).await;
    says(&expect(&report, Item::Modules, Verdict::Warn), "20808 at the source, 20000 at the target");
    expect(&look(source.url(), target.url()).await, Item::Modules, Verdict::Pass);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_need_a_place() {
    const LIBRARY: &str = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)";
    let newer = chosen(&["redis-7.0"]).unwrap()[0];
    let (source, target) = (start(newer), start(newer));
    expect(&look(source.url(), target.url()).await, Item::Functions, Verdict::Pass);
    if source.client().unwrap().call(&["FUNCTION", "LOAD", LIBRARY]).is_err() {
        return;
    }
    says(&expect(&look(source.url(), target.url()).await, Item::Functions, Verdict::Pass), "mylib");
    target.client().unwrap().call(&["FUNCTION", "LOAD", LIBRARY]).unwrap();
    says(&expect(&look(source.url(), target.url()).await, Item::Functions, Verdict::Warn), "mylib");
    if let Ok(older) = keyferry_testkit::named("redis-6.2") {
        let older = start(older);
        says(
            &expect(&look(source.url(), older.url()).await, Item::Functions, Verdict::Fail),
            "has no functions",
        );
    }
}
