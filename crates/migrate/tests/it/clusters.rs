//! Clusters at either end, with writes going on: every command that names several keys among them.

use std::time::Duration;

use keyferry_migrate::{Finished, Outcome, Phase};
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

async fn standalone_to_cluster(binary: &'static ServerBinary) {
    let source = start(binary);
    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let what = format!("{} to three primaries", binary.name);
    let mut client = source.client().unwrap();
    data::small(&mut client, 11, 1).unwrap();
    let options = WriterOptions { rate: 3000, multi_key: true, databases: 1, ..WriterOptions::default() };
    let writer = Writer::start(&source, options).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut control = source.client().unwrap();
    let finished = finish(running, writer, move || {
        data::settle(&mut control).unwrap();
        offset_of(&mut control)
    })
    .await;
    finished.result.as_ref().unwrap_or_else(|e| panic!("{what}: {e}"));
    let report = finished.report;
    assert_eq!(report.outcome, Outcome::Stopped { everything_applied: true }, "{what}");
    compare(Side::server(&source).unwrap(), Side::cluster(&target).unwrap(), &what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_to_three_primaries() {
    standalone_to_cluster(named("redis-7.0").unwrap()).await;
}
