//! Commands that concern more than keys: flushes, functions, scripts, messages.

use std::time::{Duration, Instant};

use keyferry_client::Frame;
use keyferry_migrate::Phase;
use keyferry_testkit::{Cluster, CompareOptions, ServerBinary, Side, compare_sides};

use super::servers;
use crate::support::{PATIENCE, Running, offset_of, start};

fn compare(a: Side<'_>, b: Side<'_>, what: &str) {
    let comparison = compare_sides(a, b, &CompareOptions::default().without_bookkeeping()).unwrap();
    assert!(comparison.is_equal(), "{what}: {comparison}");
    assert!(comparison.keys_a > 100, "{what}: {} keys", comparison.keys_a);
}

/// What one shard of the source flushes is removed at the target, and no more; functions go everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_flushes_its_own_slots() {
    for binary in servers("redis-8.0") {
        a_shard_flushes_its_own_slots_on(binary).await;
    }
}

async fn a_shard_flushes_its_own_slots_on(binary: &ServerBinary) {
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = Cluster::builder(binary).primaries(3).slots(&[&[0..=999], &[1000..=9999], &[10000..=16383]]);
    let target = target.start().unwrap();
    let one = start(binary);
    let mut client = source.client().unwrap();
    for n in 0..600 {
        client.call(&["SET", &format!("key:{n}"), "x"]).unwrap();
    }
    let mut to_cluster = Running::start(&source.url(), &target.url(), |_| {});
    let mut to_one = Running::start(&source.url(), &one.url(), |_| {});
    to_cluster.until_phase(Phase::Following).await;
    to_one.until_phase(Phase::Following).await;
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    client.on_every_primary(&["FUNCTION", "LOAD", library]).unwrap();
    source.node(0).client().unwrap().call(&["FLUSHALL"]).unwrap();
    client.call(&["SET", "last", "x"]).unwrap();
    let expected = source.keys().unwrap();
    assert!(expected > 300 && expected < 600, "{expected}");
    let mut at_target = target.client().unwrap();
    let mut at_one = one.client().unwrap();
    let one_keys = |client: &mut keyferry_testkit::Client| {
        let keys = client.list(&["KEYS", "*"]).unwrap();
        let ours = |key: &&Frame| key.as_bytes().is_some_and(|key| key.starts_with(b"keyferry:"));
        (keys.len() - keys.iter().filter(ours).count()) as u64
    };
    // While it runs: where it stands, and who is at it.
    const OURS: u64 = 2;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE
        && !(target.keys().unwrap() == expected + OURS
            && one_keys(&mut at_one) == expected
            && at_target.int(&["EXISTS", "last"]).unwrap() == 1
            && at_one.int(&["EXISTS", "last"]).unwrap() == 1)
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for running in [to_cluster, to_one] {
        running.stopper.stop();
        running.end().await.result.unwrap();
    }
    compare(Side::cluster(&source).unwrap(), Side::cluster(&target).unwrap(), "to a cluster");
    compare(Side::cluster(&source).unwrap(), Side::server(&one).unwrap(), "to one server");
    for (node, reply) in at_target.on_every_primary(&["FUNCTION", "LIST"]).unwrap() {
        assert!(format!("{reply:?}").contains("lib"), "{node}: {reply:?}");
    }
    assert_eq!(target.keys().unwrap(), expected + 1, "where a stopped run stands, and nothing else of ours");
}

/// A message of a standalone source is heard once by each subscriber of the target cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_delivered_once() {
    for binary in servers("valkey-9") {
        messages_are_delivered_once_on(binary).await;
    }
}

async fn messages_are_delivered_once_on(binary: &ServerBinary) {
    let source = start(binary);
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let mut client = source.client().unwrap();
    client.call(&["SET", "a", "1"]).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    let mut subscribers: Vec<_> = target
        .primaries()
        .unwrap()
        .into_iter()
        .map(|node| {
            let mut client = target.node(node).client().unwrap();
            client.call(&["SUBSCRIBE", "news"]).unwrap();
            client
        })
        .collect();
    for n in 0..100 {
        client.call(&["PUBLISH", "news", &n.to_string()]).unwrap();
    }
    running.until_applied(offset_of(&mut client)).await;
    for subscriber in &mut subscribers {
        for n in 0..100 {
            let message = subscriber.reply().unwrap();
            assert!(format!("{message:?}").contains(&format!("{n}")), "{n}: {message:?}");
        }
        // Nothing is behind them.
        subscriber.call(&["UNSUBSCRIBE"]).unwrap();
    }
    running.stopper.stop();
    running.end().await.result.unwrap();
}

/// Functions and scripts that the source is given meanwhile are on every primary of the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_and_scripts_go_everywhere() {
    for binary in servers("redis-7.0") {
        functions_and_scripts_go_everywhere_on(binary).await;
    }
}

async fn functions_and_scripts_go_everywhere_on(binary: &ServerBinary) {
    let source = start(binary);
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let mut client = source.client().unwrap();
    let library = |name: &str, value: u32| {
        format!(
            "#!lua name={name}\nredis.register_function('{name}', function(keys, args) \
             redis.call('SET', keys[1], args[1]) redis.call('APPEND', keys[2], args[1]) return {value} end)"
        )
    };
    client.call(&["FUNCTION", "LOAD", &library("before", 1)]).unwrap();
    client.call(&["FUNCTION", "LOAD", &library("gone", 1)]).unwrap();
    for n in 0..200 {
        client.call(&["SET", &format!("key:{n}"), "x"]).unwrap();
    }
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    client.call(&["FUNCTION", "DELETE", "gone"]).unwrap();
    client.call(&["FUNCTION", "LOAD", &library("during", 1)]).unwrap();
    client.call(&["FUNCTION", "LOAD", "REPLACE", &library("during", 2)]).unwrap();
    let script = "redis.call('INCR', KEYS[1]) redis.call('RPUSH', KEYS[2], 'x') return 7";
    for n in 0..50 {
        let (a, b) = (format!("a:{n}"), format!("b:{n}"));
        client.call(&["EVAL", script, "2", &format!("n:{n}"), &format!("list:{n}")]).unwrap();
        client.call(&["FCALL", "before", "2", &a, &b, "v"]).unwrap();
        client.call(&["FCALL", "during", "2", &b, &a, "w"]).unwrap();
    }
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    // Each had keys of several slots, but for some by chance.
    assert!(finished.report.routing.transactions_divided > 100, "{:?}", finished.report.routing);
    // Libraries are compared, too.
    compare(Side::server(&source).unwrap(), Side::cluster(&target).unwrap(), binary.name.as_str());
    let mut at_target = target.client().unwrap();
    for (node, reply) in at_target.on_every_primary(&["FUNCTION", "LIST"]).unwrap() {
        let text = format!("{reply:?}");
        let has = |name: &str| text.contains(name);
        assert!(has("before") && has("during") && !has("gone"), "{node}: {text}");
    }
    let reply = at_target.int(&["FCALL", "during", "2", "{a}1", "{a}2", "v"]).unwrap();
    assert_eq!(reply, 2, "the later one");
}
