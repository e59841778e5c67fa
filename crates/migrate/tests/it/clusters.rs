//! Clusters at either end, with writes going on: every command that names several keys among them.

use std::time::Duration;

use keyferry_client::Frame;
use keyferry_migrate::{Finished, Outcome, Phase, Until};
use keyferry_testkit::{
    Cluster, CompareOptions, Sentinels, ServerBinary, Side, compare_sides,
    data::{self, Writer, WriterOptions},
    named,
};

use crate::support::{Running, offset_of, run, start};

/// Lets the writer come to an end, and the migration behind it.
async fn finish(
    mut running: Running,
    writer: Writer,
    offset: impl FnOnce() -> u64 + Send + 'static,
) -> Finished {
    let counts = tokio::task::spawn_blocking(move || writer.stop().unwrap()).await.unwrap();
    assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
    let offset = tokio::task::spawn_blocking(offset).await.unwrap();
    running.until_applied(offset).await;
    running.stopper.stop();
    running.end().await
}

fn compare(a: Side<'_>, b: Side<'_>, what: &str) {
    let mut options = CompareOptions::default();
    options.ignored_prefixes = Vec::new();
    let comparison = compare_sides(a, b, &options).unwrap();
    assert!(comparison.is_equal(), "{what}: {comparison}");
    assert!(comparison.keys_a > 100, "{what}: {} keys", comparison.keys_a);
}

/// What is done to the target while it is being written to.
type Disturbance = fn(&mut Cluster);

async fn standalone_to_cluster(
    binary: &'static ServerBinary,
    replicas: usize,
    disturb: Disturbance,
) -> Finished {
    let source = start(binary);
    let mut builder = Cluster::builder(binary).primaries(3).replicas(replicas);
    if replicas > 0 {
        builder = builder.config("min-replicas-to-write", "1");
    }
    let mut target = builder.start().unwrap();
    let what = format!("{} to three primaries", binary.name);
    let mut client = source.client().unwrap();
    data::small(&mut client, 11, 1).unwrap();
    let options = WriterOptions {
        rate: 3000,
        multi_key: true,
        databases: 1,
        short_expiries: false,
        ..WriterOptions::default()
    };
    let writer = Writer::start(&source, options).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    let target = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(500));
        disturb(&mut target);
        std::thread::sleep(Duration::from_millis(500));
        target
    })
    .await
    .unwrap();
    let mut control = source.client().unwrap();
    let finished = finish(running, writer, move || {
        data::settle(&mut control).unwrap();
        offset_of(&mut control)
    })
    .await;
    finished.result.as_ref().unwrap_or_else(|e| panic!("{what}: {e}"));
    let report = &finished.report;
    assert_eq!(report.outcome, Outcome::Stopped { everything_applied: true }, "{what}");
    compare(Side::server(&source).unwrap(), Side::cluster(&target).unwrap(), &what);
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_to_three_primaries() {
    standalone_to_cluster(named("redis-7.0").unwrap(), 0, |_| {}).await;
}

/// Slots change hands, key by key, while they are written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_the_target() {
    let finished = standalone_to_cluster(named("redis-7.0").unwrap(), 0, |target| {
        target.move_slots(0..=1500, 1).unwrap();
        target.move_slots(12000..=12500, 0).unwrap();
    })
    .await;
    assert!(finished.report.routing.retried.contains_key("MOVED"), "{:?}", finished.report.routing);
}

/// A primary is killed, and its replica takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_of_the_target_dies() {
    let finished = standalone_to_cluster(named("redis-7.0").unwrap(), 1, |target| {
        let owner = target.owner(100).unwrap();
        target.kill(owner).unwrap();
        // Without a replica the new primary refuses writes, as it was told to.
        target.restart(owner).unwrap();
    })
    .await;
    assert!(finished.report.routing.connections_lost > 0, "{:?}", finished.report.routing);
}

/// A replica is made the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_the_target_is_promoted() {
    standalone_to_cluster(named("redis-7.0").unwrap(), 1, |target| {
        let owner = target.owner(100).unwrap();
        let replica = target.replicas(owner).unwrap()[0];
        target.failover(replica).unwrap();
    })
    .await;
}

/// From a cluster, whose shards' streams come in no order between them.
async fn cluster_to(source: Cluster, target: &str, disturb: Disturbance) -> (Cluster, Finished) {
    data::small_cluster(&mut source.client().unwrap(), 11, 1).unwrap();
    let options = WriterOptions {
        rate: 3000,
        multi_key: true,
        databases: 1,
        short_expiries: false,
        ..WriterOptions::default()
    };
    let writer = Writer::start_cluster(&source, options).unwrap();
    let until = Until::CaughtUp { quiet: Duration::from_secs(2), linger: Duration::from_secs(60) };
    let mut running = Running::start(&source.url(), target, |o| o.until = until);
    running.until_phase(Phase::Following).await;
    let mut source = source;
    let (source, counts) = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(500));
        disturb(&mut source);
        std::thread::sleep(Duration::from_secs(1));
        let counts = writer.stop().unwrap();
        data::settle_cluster(&source).unwrap();
        (source, counts)
    })
    .await
    .unwrap();
    assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
    let finished = running.end().await;
    finished.result.as_ref().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(finished.report.outcome, Outcome::CaughtUp { source_was_writing: false });
    (source, finished)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_primaries_to_three() {
    let binary = named("redis-7.0").unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let (source, _) = cluster_to(source, &target.url(), |_| {}).await;
    compare(Side::cluster(&source).unwrap(), Side::cluster(&target).unwrap(), "three to three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_primaries_to_one_server() {
    let binary = named("redis-7.0").unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = start(binary);
    let (source, _) = cluster_to(source, &target.url(), |_| {}).await;
    compare(Side::cluster(&source).unwrap(), Side::server(&target).unwrap(), "three to one");
}

/// Sixteen databases into the one of a cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_databases_into_one() {
    let binary = named("redis-7.0").unwrap();
    let source = start(binary);
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let mut client = source.client().unwrap();
    for db in 0..16 {
        client.call(&["SELECT", &db.to_string()]).unwrap();
        for n in 0..50 {
            client.call(&["SET", &format!("key:{db}:{n}"), &format!("{db}-{n}")]).unwrap();
        }
    }
    // Without a map the run ends before anything is written.
    let finished = run(&source.url(), &target.url(), |_| {}).await;
    let error = finished.result.unwrap_err().to_string();
    assert!(error.contains("--db-map 1=0"), "{error}");
    assert_eq!(target.keys().unwrap(), 0);

    let mut running = Running::start(&source.url(), &target.url(), |o| {
        o.db_map = (1..16).map(|db| (db, 0)).collect();
    });
    running.until_phase(Phase::Following).await;
    for db in 0..16 {
        client.call(&["SELECT", &db.to_string()]).unwrap();
        client.call(&["INCR", &format!("counter:{db}")]).unwrap();
        client.call(&["RENAME", &format!("key:{db}:0"), &format!("renamed:{db}")]).unwrap();
        if db > 0 {
            client.call(&["COPY", &format!("key:{db}:1"), &format!("copy:{db}"), "DB", "0"]).unwrap();
        }
    }
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    let to_zero: Vec<(u32, u32)> = (0..16).map(|db| (db, 0)).collect();
    let side = Side::server(&source).unwrap().databases(&to_zero);
    compare(side, Side::cluster(&target).unwrap(), "sixteen into one");
}

/// A server that sentinels watch, as the target: its replica takes over when it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_watched_by_sentinels_dies() {
    let binary = named("redis-7.0").unwrap();
    let source = start(binary);
    let mut target = Sentinels::builder(binary).start().unwrap();
    data::small(&mut source.client().unwrap(), 11, 3).unwrap();
    let options = WriterOptions { rate: 2000, short_expiries: false, ..WriterOptions::default() };
    let writer = Writer::start(&source, options).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    let target = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(500));
        target.kill_primary().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        target
    })
    .await
    .unwrap();
    let mut control = source.client().unwrap();
    let finished = finish(running, writer, move || {
        data::settle(&mut control).unwrap();
        offset_of(&mut control)
    })
    .await;
    finished.result.as_ref().unwrap_or_else(|e| panic!("{e}"));
    assert!(finished.report.routing.connections_lost > 0, "{:?}", finished.report.routing);
    let mut client = target.server(target.primary().unwrap()).client().unwrap();
    let target = Side::client(&mut client).unwrap();
    compare(Side::server(&source).unwrap(), target, "sentinel");
}

/// What one shard of the source flushes is removed at the target, and no more; functions go everywhere, messages once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_functions_and_messages() {
    let binary = named("redis-7.0").unwrap();
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
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(30)
        && !(target.keys().unwrap() == expected
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
    assert_eq!(target.keys().unwrap(), expected, "nothing of ours is left");
}

/// A message of a standalone source is heard once by each subscriber of the target cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_delivered_once() {
    let binary = named("redis-7.0").unwrap();
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

/// Slots change hands at the source, there and back, key by key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_the_source() {
    let binary = named("redis-7.0").unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let (source, finished) = cluster_to(source, &target.url(), |source| {
        source.move_slots(0..=800, 1).unwrap();
        source.move_slots(6000..=6300, 0).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        source.move_slots(0..=100, 2).unwrap();
    })
    .await;
    assert!(finished.report.routing.slots_moved >= 1100, "{:?}", finished.report.routing);
    compare(Side::cluster(&source).unwrap(), Side::cluster(&target).unwrap(), "slots moved");
}

/// The same into one server, which knows no slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_the_source_of_one_server() {
    let binary = named("redis-7.0").unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = start(binary);
    let (source, finished) = cluster_to(source, &target.url(), |source| {
        source.move_slots(0..=400, 1).unwrap();
        source.move_slots(6000..=6100, 0).unwrap();
    })
    .await;
    assert!(finished.report.routing.slots_moved >= 500, "{:?}", finished.report.routing);
    compare(Side::cluster(&source).unwrap(), Side::server(&target).unwrap(), "slots moved");
}

/// Where servers move slots as a whole, the old owner tidies up when the new one is at work already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_once_at_the_source() {
    let binary = named("valkey-9").unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let (source, finished) = cluster_to(source, &target.url(), |source| {
        assert!(source.moves_slots_atomically());
        source.move_slots_atomically(0..=800, 1).unwrap();
        source.move_slots_atomically(6000..=6300, 0).unwrap();
    })
    .await;
    assert!(finished.report.routing.slots_moved >= 1100, "{:?}", finished.report.routing);
    compare(Side::cluster(&source).unwrap(), Side::cluster(&target).unwrap(), "slots moved at once");
}

/// A replica of the source takes over; the link follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_of_the_source_fails_over() {
    let binary = named("redis-7.0").unwrap();
    let source = Cluster::builder(binary).primaries(3).replicas(1).start().unwrap();
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let (source, finished) = cluster_to(source, &target.url(), |source| {
        let owner = source.owner(100).unwrap();
        let replica = source.replicas(owner).unwrap()[0];
        source.failover(replica).unwrap();
    })
    .await;
    assert!(finished.report.figures.reconnects > 0, "{:?}", finished.report.figures);
    compare(Side::cluster(&source).unwrap(), Side::cluster(&target).unwrap(), "failed over");
}
