//! From one server into a cluster, or into one that sentinels watch, whatever happens to the target meanwhile.

use std::time::Duration;

use keyferry_migrate::{CrossSlotPolicy, Phase, Report};
use keyferry_testkit::data::{Shape, big};
use keyferry_testkit::{Cluster, ServerBinary};

use super::{End, Scenario, servers};
use crate::support::Running;

/// Something happens to the target while it takes the commands of the stream.
async fn to_cluster(
    what: &str,
    binary: &ServerBinary,
    replicas: usize,
    happen: impl FnOnce(&mut Cluster),
) -> Report {
    let (mut source, mut target) = (End::server(binary), End::cluster(binary, replicas));
    source.fill(1);
    Scenario::new(what, binary).run(&mut source, &mut target, |_, target| happen(target.nodes())).await
}

/// The same while it takes the snapshot, whose large values are built in many parts.
async fn during_snapshot(
    what: &str,
    binary: &ServerBinary,
    replicas: usize,
    happen: impl FnOnce(&mut Cluster),
) -> Report {
    let (mut source, mut target) = (End::server(binary), End::cluster(binary, replicas));
    source.fill(1);
    let shapes = [Shape::List, Shape::Set, Shape::SortedSet, Shape::Hash, Shape::Stream, Shape::String];
    for (number, shape) in (0..).zip(shapes.into_iter().cycle().take(30)) {
        big(&mut source.client(), number, &format!("big:{number}"), shape, 2 << 20).unwrap();
    }
    let mut scenario = Scenario::new(what, binary);
    scenario.phase = Phase::Snapshot;
    scenario.options.value_limit = 16 << 10;
    let report = scenario.run(&mut source, &mut target, |_, target| happen(target.nodes())).await;
    assert!(report.figures.large_keys >= 20, "{:?}", report.figures);
    report
}

/// A primary dies and comes back as the replica of the one that took over: without a replica that one refuses writes, as it
/// was told to.
fn kill_a_primary(target: &mut Cluster) {
    let owner = target.owner(100).unwrap();
    target.kill(owner).unwrap();
    target.restart(owner).unwrap();
}

fn promote_a_replica(target: &mut Cluster) {
    let owner = target.owner(100).unwrap();
    let replica = target.replicas(owner).unwrap()[0];
    target.failover(replica).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_to_three_primaries() {
    for binary in servers("redis-8.0") {
        to_cluster("one to three", binary, 0, |_| {}).await;
    }
}

/// Slots change hands, key by key, while they are written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_the_target() {
    for binary in servers("valkey-9") {
        let report = to_cluster("slots move at the target", binary, 0, |target| {
            target.move_slots(0..=400, 1).unwrap();
            target.move_slots(12000..=12150, 0).unwrap();
        })
        .await;
        assert!(report.routing.retried.contains_key("MOVED"), "{:?}", report.routing);
    }
}

/// Slots change hands as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_once_at_the_target() {
    for binary in servers("valkey-9") {
        let (mut source, mut target) = (End::server(binary), End::cluster(binary, 0));
        if !target.nodes().moves_slots_atomically() {
            eprintln!("skipped: {} moves no slots as a whole", binary.name);
            continue;
        }
        source.fill(1);
        let mut scenario = Scenario::new("slots move at once at the target", binary);
        // Valkey 9.1 loses pending entries on that way whose entries in the stream were deleted.
        scenario.ignored = Some("writer:0:stream-known:");
        let report = scenario
            .run(&mut source, &mut target, |_, target| {
                target.nodes().move_slots_atomically(0..=1500, 1).unwrap();
                target.nodes().move_slots_atomically(12000..=12500, 0).unwrap();
            })
            .await;
        assert!(report.routing.retried.contains_key("MOVED"), "{:?}", report.routing);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_of_the_target_dies() {
    for binary in servers("redis-7.0") {
        let report = to_cluster("a primary dies", binary, 1, kill_a_primary).await;
        assert!(report.routing.connections_lost > 0, "{:?}", report.routing);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_the_target_is_promoted() {
    for binary in servers("redis-8.0") {
        to_cluster("a replica is promoted", binary, 1, promote_a_replica).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_the_target_during_the_snapshot() {
    for binary in servers("redis-7.0") {
        during_snapshot("slots move during the snapshot", binary, 0, |target| {
            target.move_slots(0..=200, 1).unwrap();
            target.move_slots(12000..=12100, 0).unwrap();
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_of_the_target_dies_during_the_snapshot() {
    for binary in servers("valkey-9") {
        let report = during_snapshot("a primary dies during the snapshot", binary, 1, kill_a_primary).await;
        assert!(report.routing.connections_lost > 0, "{:?}", report.routing);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_the_target_is_promoted_during_the_snapshot() {
    for binary in servers("redis-7.0") {
        during_snapshot("a replica is promoted during the snapshot", binary, 1, promote_a_replica).await;
    }
}

/// A server that sentinels watch: its replica takes over when it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_of_sentinels_dies_as_the_target() {
    for binary in servers("redis-8.0") {
        let (mut source, mut target) = (End::server(binary), End::sentinels(binary));
        source.fill(3);
        let mut scenario = Scenario::new("sentinels as the target", binary);
        scenario.writing.databases = 3;
        let report = scenario
            .run(&mut source, &mut target, |_, target| {
                target.watched().kill_primary().unwrap();
            })
            .await;
        assert!(report.routing.connections_lost > 0, "{:?}", report.routing);
    }
}

/// The first command of several slots ends the run, where one wants that, and is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_several_slots_are_refused() {
    for binary in servers("redis-7.0") {
        let (source, target) = (End::server(binary), End::cluster(binary, 0));
        let mut client = source.client();
        client.call(&["SET", "a", "1"]).unwrap();
        let mut running = Running::start(&source.url(), &target.url(), |o| {
            o.cross_slot = CrossSlotPolicy::Fail;
        });
        running.until_phase(Phase::Following).await;
        // One slot, whatever the number of keys.
        client.call(&["MSET", "{a}1", "x", "{a}2", "y"]).unwrap();
        client.call(&["RENAME", "a", "b"]).unwrap();
        let finished = running.end().await;
        let error = finished.result.unwrap_err().to_string();
        assert!(error.contains("RENAME a b") && error.contains("--cross-slot fail"), "{error}");
        assert!(finished.report.routing.cross_slot.is_empty(), "{:?}", finished.report.routing);
        let End::Cluster(target) = &target else { panic!("this is no cluster") };
        let mut client = target.client().unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while client.int(&["EXISTS", "{a}2"]).unwrap() == 0 && std::time::Instant::now() < end {}
        assert_eq!(client.int(&["EXISTS", "a"]).unwrap(), 1);
        assert_eq!(client.int(&["EXISTS", "b"]).unwrap(), 0);
    }
}
