//! Logs of commands: append-only files of every form, and journals.

use std::path::Path;

use keyferry_migrate::{
    FileKind, Phase,
    filter::{Filter, Rule, Settings},
};
use keyferry_testkit::{
    CompareOptions, ServerBinary, compare_sides,
    data::{self, WriterOptions},
};
use tokio::task::block_in_place;

use super::{assert_same, imported, log_of, logging, one_file, targets, writes};
use crate::{
    clusters::ends::End,
    support::{Running, offset_of, run, start},
};

/// Writes before and after a log is made anew.
const WRITES: u64 = 1500;

async fn logs(binary: &ServerBinary, preamble: bool, target: usize) {
    for (target, databases) in block_in_place(|| targets(binary)).into_iter().skip(target).take(1) {
        let dir = tempfile::tempdir().unwrap();
        let what = format!("{}, preamble: {preamble}, {databases} databases", binary.name);
        let (source, one) = block_in_place(|| {
            let source = logging(binary, writes(databases), preamble, WRITES);
            let one = one_file(&source, dir.path());
            (source, one)
        });
        let several = log_of(&source);
        let manifest = several.join("appendonly.aof.manifest");
        let files: &[&Path] = match binary.version.at_least(7, 0) {
            true => &[&one, &several, &manifest, source.dir()],
            false => &[&one],
        };
        for file in files {
            block_in_place(|| flush(&target));
            let finished = imported(&[file], &target.url(), |_| {}).await;
            let report = &finished.report;
            let expected = match (*file == one, preamble) {
                (false, _) => FileKind::MultiPart,
                (true, true) => FileKind::Snapshot,
                (true, false) => FileKind::Log,
            };
            assert_eq!(report.files[0].kind, expected, "{what}");
            assert!(report.files[0].commands > WRITES / 2, "{what}: {:?}", report.files);
            assert_eq!(report.snapshot.total_keys() > 0, preamble, "{what}");
            assert!(report.expiry.held_in_stream > 0 && !report.expiry.still_held, "{what}");
            assert!(report.files[0].unknown_annotations.is_empty(), "{what}: {:?}", report.files);
            block_in_place(|| assert_same(&source, &target, &what));
        }
    }
}

fn flush(target: &End) {
    match target {
        End::Cluster(cluster) => {
            for number in cluster.primaries().unwrap() {
                let mut client = cluster.node(number).client().unwrap();
                client.call(&["FLUSHALL"]).unwrap();
                if cluster.binary().version.at_least(7, 0) {
                    client.call(&["FUNCTION", "FLUSH"]).unwrap();
                }
            }
        }
        one => {
            one.client().call(&["FLUSHALL"]).unwrap();
            if one.primary().binary().version.at_least(7, 0) {
                one.client().call(&["FUNCTION", "FLUSH"]).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_snapshot_in_front() {
    for (number, binary) in keyferry_testkit::all().unwrap().iter().step_by(4).enumerate() {
        logs(binary, true, number % 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn into_a_cluster() {
    logs(keyferry_testkit::any().unwrap(), true, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_commands_alone() {
    logs(keyferry_testkit::any().unwrap(), false, 0).await;
}

/// A filter and a map of databases do to a file what they do to the server that wrote it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filtered_and_mapped() {
    let binary = keyferry_testkit::any().unwrap();
    // What commands of several keys bring from a key that is left out is not in the stream.
    let alone = WriterOptions { multi_key: false, ..writes(3) };
    let (source, live, target) =
        block_in_place(|| (logging(binary, alone, true, WRITES), start(binary), End::server(binary)));
    let filter = || {
        let mut rule = Rule::exclude();
        rule.keys.kinds.push(keyferry_rdb::Kind::List);
        let mut names = Rule::exclude();
        names.keys.keys.push("regex:^writer:[0-9]+:(hash|zset)".parse().unwrap());
        let mut settings = Settings::default();
        settings.rules = vec![rule, names];
        settings.operands = keyferry_migrate::filter::Operands::Report;
        Some(std::sync::Arc::new(Filter::new(settings).unwrap()))
    };
    let map = || [(1, 7), (2, 1)].into_iter().collect();
    let followed = run(&source.url(), &live.url(), |o| (o.filter, o.db_map) = (filter(), map())).await;
    followed.result.unwrap();
    let file = log_of(&source);
    let finished = imported(&[&file], &target.url(), |o| (o.filter, o.db_map) = (filter(), map())).await;
    assert!(!finished.report.filter.is_empty());
    block_in_place(|| {
        let options = CompareOptions::default().without_bookkeeping();
        let live = keyferry_testkit::Side::server(&live).unwrap();
        let compared = compare_sides(live, target.side(), &options).unwrap();
        assert!(compared.is_equal() && compared.keys_a > 50, "{compared}");
        let keys = target.client().info("keyspace", "db7").unwrap();
        assert!(keys.is_some());
    });
}

/// The journal of a migration, kept from its snapshot on, holds what the source does: of one link, or of one for each shard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals() {
    let binary = keyferry_testkit::any().unwrap();
    for cluster in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("journal");
        let (source, first, target) = block_in_place(|| {
            let source = if cluster { End::cluster(binary, 0) } else { End::server(binary) };
            source.fill(1);
            (source, start(binary), if cluster { End::server(binary) } else { End::cluster(binary, 0) })
        });
        let mut running = Running::start(&source.url(), &first.url(), |o| {
            o.journal = Some(journal.clone());
            o.keep_journal = true;
        });
        let options =
            WriterOptions { databases: 1, rate: 3000, multi_key: !cluster, ..WriterOptions::default() };
        let writer = block_in_place(|| source.write(options));
        running.until("keys", |p| p.figures().keys_applied > 0).await;
        // Ended before it is waited for: a slow target would never catch up with it.
        block_in_place(|| {
            assert!(writer.wait_for(2000, crate::support::PATIENCE));
            writer.stop().unwrap();
            source.settle();
        });
        running.until_phase(Phase::Following).await;
        let locked = super::import(&[&journal], &target.url(), |_| {}).await.result.unwrap_err();
        assert!(matches!(locked, keyferry_migrate::Error::JournalLocked { .. }), "{locked}");
        running.stopper.stop();
        running.end().await.result.unwrap();
        let finished = imported(&[&journal], &target.url(), |_| {}).await;
        assert_eq!(finished.report.files.len(), if cluster { 3 } else { 1 });
        for file in &finished.report.files {
            assert_eq!(file.kind, FileKind::Journal);
            assert!(file.commands > 0 && file.unknown_annotations.is_empty(), "{file:?}");
        }
        block_in_place(|| {
            let options = CompareOptions::default().without_bookkeeping();
            let compared = compare_sides(source.side(), target.side(), &options).unwrap();
            assert!(compared.is_equal() && compared.keys_a > 50, "cluster: {cluster}: {compared}");
        });
    }
}

/// A journal of which the snapshot has been dropped is no whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_without_its_snapshot_is_refused() {
    let (source, first, target) = (crate::support::any(), crate::support::any(), crate::support::any());
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let mut client = source.client().unwrap();
    data::small(&mut client, 2, 1).unwrap();
    let mut running = Running::start(&source.url(), &first.url(), |o| o.journal = Some(journal.clone()));
    running.until_phase(Phase::Following).await;
    client.call(&["INCR", "n"]).unwrap();
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    let error = super::import(&[&journal], &target.url(), |_| {}).await.result.unwrap_err();
    assert!(matches!(error, keyferry_migrate::Error::NoSnapshot { .. }), "{error}");
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 0);
}
