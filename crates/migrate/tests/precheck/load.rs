//! A source that is being written to.

use std::time::Duration;

use keyferry_migrate::precheck::{Item, Verdict};
use keyferry_testkit::data::{self, Writer, WriterOptions};
use tokio::task::block_in_place;

use crate::support::{any, expect, look};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_keeps_is_weighed_against_what_is_written() {
    let target = any();
    let source = any();
    let mut client = source.client().unwrap();
    data::tiny_keys(&mut client, 1, 100_000).unwrap();
    // At rest anything lasts; what is read by those who look is not much.
    let rested = client.wait_until(Duration::from_secs(120), |client| {
        Ok(client.info("stats", "instantaneous_input_kbps")?.and_then(|kbps| kbps.parse().ok()) < Some(5.0))
    });
    assert!(rested.unwrap());
    let report = look(source.url(), target.url()).await;
    expect(&report, Item::OutputBuffer, Verdict::Pass);
    expect(&report, Item::Backlog, Verdict::Pass);

    client.call(&["CONFIG", "SET", "repl-backlog-size", "16384"]).unwrap();
    client.call(&["CONFIG", "SET", "client-output-buffer-limit", "replica 1024 1024 0"]).unwrap();
    let writer = Writer::start(&source, WriterOptions { rate: 3000, ..WriterOptions::default() }).unwrap();
    block_in_place(|| assert!(writer.wait_for(3000, Duration::from_secs(120))));
    let report = look(source.url(), target.url()).await;
    let finding = expect(&report, Item::OutputBuffer, Verdict::Fail);
    assert!(finding.evidence[0].contains("at at most"), "{finding:?}");
    expect(&report, Item::Backlog, Verdict::Warn);
    assert!(report.estimates.unwrap().write_bytes_per_second > 1000.0);
    // With a replica the source counts its offset, and the rate is what replicas get.
    source.client().unwrap().call(&["CONFIG", "SET", "client-output-buffer-limit", "replica 0 0 0"]).unwrap();
    let replica = any();
    let mut follower = replica.client().unwrap();
    follower.call(&["REPLICAOF", "127.0.0.1", &source.port().to_string()]).unwrap();
    let linked = block_in_place(|| {
        follower.wait_until(Duration::from_secs(120), |client| {
            Ok(client.info("replication", "master_link_status")?.as_deref() == Some("up"))
        })
    });
    assert!(linked.unwrap());
    let report = look(source.url(), target.url()).await;
    expect(&report, Item::OutputBuffer, Verdict::Pass);
    let finding = expect(&report, Item::Backlog, Verdict::Warn);
    assert!(!finding.evidence[0].contains("at most"), "{finding:?}");
    block_in_place(|| writer.stop().unwrap());
}
