//! From a cluster, whose shards' streams come in no order between them, or from a server that sentinels watch.

use std::time::Duration;

use keyferry_migrate::{Phase, Report};
use keyferry_testkit::{Cluster, ServerBinary};

use super::{End, Scenario, servers};
use crate::support::Running;

/// Something happens to the source, a cluster of three primaries.
async fn from_cluster(
    what: &str,
    binary: &ServerBinary,
    replicas: usize,
    target: &mut End,
    happen: impl FnOnce(&mut Cluster),
) -> Report {
    let mut source = End::cluster(binary, replicas);
    source.fill(1);
    Scenario::new(what, binary).run(&mut source, target, |source, _| happen(source.nodes())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_primaries_to_three() {
    for binary in servers("valkey-9") {
        from_cluster("three to three", binary, 0, &mut End::cluster(binary, 0), |_| {}).await;
    }
}

/// Ranges that fit none of the source's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_primaries_to_five_with_other_slots() {
    for binary in servers("redis-7.0") {
        let target = Cluster::builder(binary).primaries(5).slots(&[
            &[0..=0, 3001..=6999],
            &[1..=17, 16000..=16383],
            &[18..=3000],
            &[7000..=7000, 7002..=12345],
            &[7001..=7001, 12346..=15999],
        ]);
        from_cluster("three to five", binary, 0, &mut End::built(target), |_| {}).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_primaries_to_one_server() {
    for binary in servers("redis-8.0") {
        from_cluster("three to one", binary, 0, &mut End::server(binary), |_| {}).await;
    }
}

/// Slots change hands at the source, there and back, key by key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_the_source() {
    for binary in servers("redis-7.0") {
        let mut target = End::cluster(binary, 0);
        let report = from_cluster("slots move at the source", binary, 0, &mut target, |source| {
            source.move_slots(0..=300, 1).unwrap();
            source.move_slots(6000..=6100, 0).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            source.move_slots(0..=50, 2).unwrap();
        })
        .await;
        assert!(report.routing.slots_moved >= 400, "{:?}", report.routing);
    }
}

/// The same into one server, which knows no slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_the_source_of_one_server() {
    for binary in servers("redis-8.0") {
        let mut target = End::server(binary);
        let report = from_cluster("slots move before one server", binary, 0, &mut target, |source| {
            source.move_slots(0..=200, 1).unwrap();
            source.move_slots(6000..=6100, 0).unwrap();
        })
        .await;
        assert!(report.routing.slots_moved >= 300, "{:?}", report.routing);
    }
}

/// Where servers move slots as a whole, the old owner tidies up when the new one is at work already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_at_once_at_the_source() {
    for binary in servers("valkey-9") {
        let mut source = End::cluster(binary, 0);
        if !source.nodes().moves_slots_atomically() {
            eprintln!("skipped: {} moves no slots as a whole", binary.name);
            continue;
        }
        source.fill(1);
        let scenario = Scenario::new("slots move at once at the source", binary);
        let report = scenario
            .run(&mut source, &mut End::cluster(binary, 0), |source, _| {
                source.nodes().move_slots_atomically(0..=800, 1).unwrap();
                source.nodes().move_slots_atomically(6000..=6300, 0).unwrap();
            })
            .await;
        assert!(report.routing.slots_moved >= 1100, "{:?}", report.routing);
    }
}

/// A replica of the source takes over; the link follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_of_the_source_fails_over() {
    for binary in servers("valkey-9") {
        let mut target = End::cluster(binary, 0);
        let report = from_cluster("a shard fails over", binary, 1, &mut target, |source| {
            let owner = source.owner(100).unwrap();
            let replica = source.replicas(owner).unwrap()[0];
            source.failover(replica).unwrap();
        })
        .await;
        assert!(report.figures.reconnects > 0, "{:?}", report.figures);
    }
}

/// Snapshots and streams come from the replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_read() {
    for binary in servers("redis-7.0") {
        let (mut source, mut target) = (End::cluster(binary, 1), End::cluster(binary, 0));
        source.fill(1);
        let mut scenario = Scenario::new("replicas are read", binary);
        scenario.options.prefer_replicas = true;
        scenario
            .run(&mut source, &mut target, |source, _| {
                let source = source.nodes();
                for primary in source.primaries().unwrap() {
                    let replica = source.replicas(primary).unwrap()[0];
                    let links = |node: usize| {
                        source.node(node).client().unwrap().info("replication", "connected_slaves").unwrap()
                    };
                    // Each primary feeds its own replica, and that one the migration.
                    assert_eq!(
                        (links(primary).as_deref(), links(replica).as_deref()),
                        (Some("1"), Some("1"))
                    );
                }
            })
            .await;
    }
}

/// The primary dies, and sentinels promote its replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_of_sentinels_dies_as_the_source() {
    for binary in servers("redis-7.0") {
        let (mut source, mut target) = (End::sentinels(binary), End::cluster(binary, 0));
        source.fill(1);
        let report = Scenario::new("sentinels as the source", binary)
            .run(&mut source, &mut target, |source, _| {
                source.watched().kill_primary().unwrap();
            })
            .await;
        assert!(report.figures.reconnects > 0, "{:?}", report.figures);
    }
}

/// Sentinels promote a replica while the primary lives and takes itself for one for some seconds more. What it was given
/// then is lost for the source, and on the target already: the run must not end as if nothing had happened. It begins anew, and
/// what the source lost goes from the target, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_replaced_is_not_caught_up_with() {
    for binary in servers("valkey-9") {
        let (mut source, target) = (End::sentinels(binary), End::cluster(binary, 0));
        source.fill(1);
        let old = source.primary().client().unwrap();
        let mut running = Running::start(&source.url(), &target.url(), |_| {});
        running.until_phase(Phase::Following).await;
        let lost = tokio::task::block_in_place(move || {
            source.watched().failover().unwrap();
            let mut old = old;
            let lost = old.call(&["SET", "written to the old one", "x"]);
            (source, lost)
        });
        let (source, lost) = lost;
        lost.unwrap();
        // Asked for before, it might end while nothing has happened yet.
        running.stopper.stop_when_caught_up();
        let finished = running.end().await;
        finished.result.unwrap();
        assert_eq!(finished.report.restarts, 1, "{:?}", finished.report);
        // Sentinels publish through the primary: where the run does not see it quiet, it keeps where it stands.
        tokio::task::block_in_place(|| {
            super::compare(&source, &target, None, Some("keyferry:"), "a replaced primary");
        });
    }
}
