//! Plans hold as long as both sides are what they were.

use std::time::Duration;

use keyferry_migrate::{Migration, precheck::Plan};
use keyferry_testkit::{Cluster, Server};

use crate::support::any;

fn migration(source: &str, target: &str) -> Migration {
    Migration::new(source.parse().unwrap(), target.parse().unwrap())
}

async fn plan(source: &str, target: &str) -> Plan {
    let (report, plan) =
        migration(source, target).plan(vec!["--until".to_owned(), "forever".to_owned()]).await;
    let plan = plan.unwrap_or_else(|| panic!("{report}"));
    let text = serde_json::to_string(&plan).unwrap();
    let read: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(read, plan);
    assert_eq!(read.arguments, ["--until", "forever"]);
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_ends_when_the_target_is_written_or_a_server_is_another() {
    let source = any();
    let mut target = Server::builder(keyferry_testkit::any().unwrap()).password("secret").start().unwrap();
    let (from, to) = (source.url(), target.url());
    source.client().unwrap().call(&["SET", "key", "value"]).unwrap();
    let made = plan(&from, &to).await;
    let text = serde_json::to_string(&made).unwrap();
    assert!(!text.contains("secret") && text.contains("***"), "{text}");
    let changes = async || made.changes(&migration(&from, &to)).await;
    assert!(changes().await.is_empty());
    // The source is in use.
    source.client().unwrap().call(&["SET", "more", "value"]).unwrap();
    assert!(changes().await.is_empty());
    // Reading is not writing, and what is put into a transaction and discarded is neither.
    target.client().unwrap().call(&["GET", "key"]).unwrap();
    migration(&from, &to).precheck(keyferry_migrate::precheck::Depth::Full).await;
    assert!(changes().await.is_empty());

    target.client().unwrap().call(&["SET", "key", "value"]).unwrap();
    target.client().unwrap().call(&["DEL", "key"]).unwrap();
    let found = changes().await;
    assert!(found.len() == 1 && found[0].contains("the number of writes was 0 and is 2"), "{found:?}");
    let other = plan(&from, &to).await;
    tokio::task::block_in_place(|| {
        target.kill9();
        target.restart().unwrap();
    });
    let found = other.changes(&migration(&from, &to)).await;
    assert!(found.iter().any(|line| line.contains("the run id")), "{found:?}");
    // Another target.
    let third = any();
    let found = other.changes(&migration(&from, &third.url())).await;
    assert!(found.len() == 1 && found[0].contains("the plan is for redis://:***@"), "{found:?}");
    target.kill9();
    let found = other.changes(&migration(&from, &to)).await;
    assert!(found.len() == 1 && found[0].starts_with("target: cannot connect"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_ends_when_the_source_fails_over() {
    let binary = keyferry_testkit::any().unwrap();
    let source = Cluster::builder(binary).primaries(3).replicas(1).start().unwrap();
    let target = any();
    let made = plan(&source.url(), &target.url()).await;
    let same = migration(&source.url(), &target.url());
    assert!(made.changes(&same).await.is_empty());
    let replica = source.replicas(0).unwrap()[0];
    tokio::task::block_in_place(|| source.failover(replica).unwrap());
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    let found = loop {
        let found = made.changes(&same).await;
        if !found.is_empty() {
            break found;
        }
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(found.iter().any(|line| line.contains("is no primary any more")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("was no primary when the plan was made")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_not_planned_unless_it_is_ignored() {
    let source = any();
    let target = Server::builder(keyferry_testkit::any().unwrap())
        .config("maxmemory", "1gb")
        .config("maxmemory-policy", "allkeys-lru")
        .start()
        .unwrap();
    let mut migration = migration(&source.url(), &target.url());
    assert!(migration.plan(Vec::new()).await.1.is_none());
    let item = keyferry_migrate::precheck::Item::EvictionPolicy;
    migration.options_mut().ignore.insert(item);
    assert_eq!(migration.plan(Vec::new()).await.1.unwrap().ignored, [item]);
}
