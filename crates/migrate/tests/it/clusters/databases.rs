//! Sources of several databases, into clusters that have one or several.

use keyferry_testkit::Cluster;

use super::{End, Scenario, servers};
use crate::support::run;

/// Sixteen databases into the one of a cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_databases_into_one() {
    for binary in servers("redis-8.0") {
        let (mut source, mut target) = (End::server(binary), End::cluster(binary, 0));
        let mut client = source.client();
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
        assert_eq!(target.nodes().keys().unwrap(), 0);

        let mut scenario = Scenario::new("sixteen databases into one", binary);
        scenario.writing.databases = 16;
        scenario.writing.apart = true;
        scenario.options.db_map = (1..16).map(|db| (db, 0)).collect();
        scenario.compared = Some((0..16).map(|db| (db, 0)).collect());
        scenario
            .run(&mut source, &mut target, |_, _| {
                for db in 1..16 {
                    client.call(&["SELECT", &db.to_string()]).unwrap();
                    // The writer hardly finds a member to move, in so many sets.
                    client.call(&["SADD", &format!("set:{db}"), "a", "b"]).unwrap();
                    client.call(&["SMOVE", &format!("set:{db}"), &format!("moved:{db}"), "a"]).unwrap();
                    client.call(&["COPY", &format!("key:{db}:1"), &format!("copy:{db}"), "DB", "0"]).unwrap();
                }
            })
            .await;
    }
}

/// Four databases into as many of a cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_databases_of_a_cluster() {
    for binary in servers("valkey-9") {
        if !(binary.vendor == keyferry_testkit::Vendor::Valkey && binary.version.at_least(9, 0)) {
            eprintln!("skipped: clusters of {} have one database", binary.name);
            continue;
        }
        let mut source = End::server(binary);
        let mut target = End::built(Cluster::builder(binary).primaries(3).databases(16));
        source.fill(4);
        let mut scenario = Scenario::new("several databases of a cluster", binary);
        scenario.writing.databases = 4;
        scenario
            .run(&mut source, &mut target, |_, target| {
                target.nodes().move_slots(0..=300, 2).unwrap();
            })
            .await;
    }
}

/// From one cluster with several databases to another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_databases_of_two_clusters() {
    for binary in servers("valkey-9") {
        if !(binary.vendor == keyferry_testkit::Vendor::Valkey && binary.version.at_least(9, 0)) {
            eprintln!("skipped: clusters of {} have one database", binary.name);
            continue;
        }
        let mut source = End::built(Cluster::builder(binary).primaries(3).databases(16));
        let mut target = End::built(Cluster::builder(binary).primaries(4).databases(16));
        source.fill(4);
        let mut scenario = Scenario::new("several databases of two clusters", binary);
        scenario.writing.databases = 4;
        scenario
            .run(&mut source, &mut target, |source, _| {
                source.nodes().move_slots(0..=300, 2).unwrap();
            })
            .await;
    }
}
