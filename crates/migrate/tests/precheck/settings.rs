//! Settings of servers.

use keyferry_migrate::precheck::{Depth, Item, Verdict};
use keyferry_testkit::Server;

use crate::support::{any, expect, look, look_with, says};

fn with(settings: &[(&str, &str)]) -> Server {
    let builder = Server::builder(keyferry_testkit::any().unwrap()).diskless_sync(true, 0);
    settings.iter().fold(builder, |builder, (name, value)| builder.config(name, value)).start().unwrap()
}

#[tokio::test]
async fn a_target_that_evicts_fails() {
    let source = any();
    let target = with(&[("maxmemory", "1gb"), ("maxmemory-policy", "allkeys-lru")]);
    says(
        &expect(&look(source.url(), target.url()).await, Item::EvictionPolicy, Verdict::Fail),
        "allkeys-lru",
    );
    // Without a limit nothing is evicted.
    target.client().unwrap().call(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    expect(&look(source.url(), target.url()).await, Item::EvictionPolicy, Verdict::Pass);
}

#[tokio::test]
async fn databases_need_a_place() {
    let source = any();
    let mut client = source.client().unwrap();
    client.call(&["SELECT", "7"]).unwrap();
    client.call(&["SET", "key", "value"]).unwrap();
    let target = Server::builder(keyferry_testkit::any().unwrap()).databases(4).start().unwrap();
    let finding = expect(&look(source.url(), target.url()).await, Item::Databases, Verdict::Fail);
    says(&finding, "database 7: 1 keys; the target has 4 databases");
    let mapped = look_with(source.url(), target.url(), Depth::Quick, |o| o.db_map = [(7, 3)].into()).await;
    expect(&mapped, Item::Databases, Verdict::Pass);
}

#[tokio::test]
async fn short_timeouts_fail() {
    let target = any();
    for (seconds, verdict) in [("2", Verdict::Fail), ("10", Verdict::Warn), ("60", Verdict::Pass)] {
        let source = with(&[("repl-timeout", seconds)]);
        expect(&look(source.url(), target.url()).await, Item::ReplTimeout, verdict);
    }
}

#[tokio::test]
async fn arguments_need_to_be_taken() {
    let source = any();
    for (limit, verdict) in [("1mb", Verdict::Fail), ("8mb", Verdict::Warn), ("512mb", Verdict::Pass)] {
        let target = with(&[("proto-max-bulk-len", limit)]);
        expect(&look(source.url(), target.url()).await, Item::BulkLength, verdict);
    }
}

#[tokio::test]
async fn connections_need_to_be_taken() {
    let source = any();
    for (limit, verdict) in [("10", Verdict::Fail), ("40", Verdict::Warn), ("1000", Verdict::Pass)] {
        let target = with(&[("maxclients", limit)]);
        expect(&look(source.url(), target.url()).await, Item::MaxClients, verdict);
    }
}

#[tokio::test]
async fn a_target_that_wants_replicas_needs_them() {
    let source = any();
    let target = with(&[("min-replicas-to-write", "1")]);
    says(&expect(&look(source.url(), target.url()).await, Item::MinReplicas, Verdict::Fail), "NOREPLICAS");
    let replica = with(&[("replicaof", &format!("127.0.0.1 {}", target.port()))]);
    let good = target.client().unwrap().wait_until(std::time::Duration::from_secs(120), |client| {
        Ok(client.info("replication", "min_slaves_good_slaves")?.as_deref() == Some("1"))
    });
    assert!(good.unwrap());
    expect(&look(source.url(), target.url()).await, Item::MinReplicas, Verdict::Pass);
    drop(replica);
}

#[tokio::test]
async fn a_target_that_cannot_save_fails() {
    let source = any();
    let directory = tempfile::tempdir().unwrap();
    let binary = keyferry_testkit::any().unwrap();
    let target = Server::builder(binary).dir(directory.path()).config("save", "3600 1").start().unwrap();
    let mut client = target.client().unwrap();
    expect(&look(source.url(), target.url()).await, Item::Persistence, Verdict::Pass);
    drop(directory);
    client.call(&["BGSAVE"]).unwrap();
    let failed = client.wait_until(std::time::Duration::from_secs(120), |client| {
        Ok(client.info("persistence", "rdb_last_bgsave_status")?.as_deref() == Some("err"))
    });
    assert!(failed.unwrap());
    says(&expect(&look(source.url(), target.url()).await, Item::Persistence, Verdict::Fail), "MISCONF");
    client.call(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).unwrap();
    expect(&look(source.url(), target.url()).await, Item::Persistence, Verdict::Warn);

    let slow = with(&[("appendonly", "yes"), ("appendfsync", "always")]);
    says(
        &expect(&look(source.url(), slow.url()).await, Item::Persistence, Verdict::Warn),
        "appendfsync always",
    );
}

#[tokio::test]
async fn a_journal_needs_a_place() {
    let (source, target) = (any(), any());
    // A place without any room.
    let nowhere =
        look_with(source.url(), target.url(), Depth::Quick, |o| o.journal = Some("/proc/journal".into()));
    says(&expect(&nowhere.await, Item::JournalDisk, Verdict::Fail), "/proc: 0 B free");
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("journal");
    let nowhere = look_with(source.url(), target.url(), Depth::Quick, |o| o.journal = Some(below));
    says(&expect(&nowhere.await, Item::JournalDisk, Verdict::Fail), "no such place");
}

#[tokio::test]
async fn notifications_that_differ_are_noticed() {
    let source = with(&[("notify-keyspace-events", "KEA")]);
    let target = with(&[("notify-keyspace-events", "Kg$")]);
    let finding = expect(&look(source.url(), target.url()).await, Item::Notifications, Verdict::Warn);
    says(&finding, "clients that wait for events");
    let setting = finding.remedies[0].split(' ').find(|word| word.contains('K')).unwrap().to_owned();
    target.client().unwrap().call(&["CONFIG", "SET", "notify-keyspace-events", &setting]).unwrap();
    expect(&look(source.url(), target.url()).await, Item::Notifications, Verdict::Pass);
}
