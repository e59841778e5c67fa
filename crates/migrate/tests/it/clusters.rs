//! Clusters at either end, with writes going on: every command that names several keys among them.

use std::time::Duration;

use keyferry_migrate::{Finished, Outcome, Phase, Until};
use keyferry_testkit::{
    Cluster, CompareOptions, ServerBinary, Side, compare_sides,
    data::{self, Writer, WriterOptions},
    named,
};

use crate::support::{Running, offset_of, start};

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
async fn cluster_to(source: &Cluster, target: &str, map: &[(u64, u64)]) -> Finished {
    data::small_cluster(&mut source.client().unwrap(), 11, 1).unwrap();
    let options = WriterOptions { rate: 3000, multi_key: true, databases: 1, ..WriterOptions::default() };
    let writer = Writer::start_cluster(source, options).unwrap();
    let until = Until::CaughtUp { quiet: Duration::from_secs(2), linger: Duration::from_secs(60) };
    let map = map.iter().copied().collect();
    let running = Running::start(&source.url(), target, |o| {
        o.until = until;
        o.db_map = map;
    });
    let counts = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(3));
        writer.stop().unwrap()
    })
    .await
    .unwrap();
    assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
    let finished = running.end().await;
    finished.result.as_ref().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(finished.report.outcome, Outcome::CaughtUp { source_was_writing: false });
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_primaries_to_three() {
    let binary = named("redis-7.0").unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    cluster_to(&source, &target.url(), &[]).await;
    compare(Side::cluster(&source).unwrap(), Side::cluster(&target).unwrap(), "three to three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_primaries_to_one_server() {
    let binary = named("redis-7.0").unwrap();
    let source = Cluster::builder(binary).primaries(3).start().unwrap();
    let target = start(binary);
    cluster_to(&source, &target.url(), &[]).await;
    compare(Side::cluster(&source).unwrap(), Side::server(&target).unwrap(), "three to one");
}
