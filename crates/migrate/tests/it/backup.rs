//! Backups of servers and clusters, and the way back into other layouts.

use std::path::{Path, PathBuf};

use keyferry_client::Endpoint;
use keyferry_files::OutputKind;
use keyferry_migrate::{
    Error, Migration, Outcome,
    backup::{Backup, BackupOptions, BackupReport, Manifest},
};
use keyferry_testkit::{Cluster, CompareOptions, Server, Side, compare_sides, data};
use tokio::task::block_in_place;

use crate::{
    clusters::ends::End,
    support::{PATIENCE, any, start},
};

async fn backup(
    source: &str,
    out: &Path,
    options: impl FnOnce(&mut BackupOptions),
) -> Result<BackupReport, Error> {
    let mut backup = Backup::new(source.parse::<Endpoint>().unwrap(), out);
    options(backup.options_mut());
    let progress = backup.progress();
    let report = tokio::time::timeout(PATIENCE, backup.run()).await.expect("an end in time")?;
    let keys: u64 = report.snapshots.iter().map(|snapshot| snapshot.keys).sum();
    let bytes: u64 = report.snapshots.iter().map(|snapshot| snapshot.bytes).sum();
    assert_eq!((progress.keys(), progress.received()), (keys, bytes));
    Ok(report)
}

pub(crate) async fn import(files: &[PathBuf], target: &End) {
    let finished = Migration::from_files(files.to_vec(), target.url().parse().unwrap()).run().await;
    finished.result.unwrap();
    assert_eq!(finished.report.outcome, Outcome::CaughtUp { source_was_writing: false });
}

pub(crate) fn assert_same(source: Side<'_>, target: &End, what: &str) {
    let options = CompareOptions::default().without_bookkeeping();
    let compared = compare_sides(source, target.side(), &options).unwrap();
    assert!(compared.is_equal() && compared.keys_a > 100, "{what}: {compared}");
}

/// Names in a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A backup of three shards is loaded by one server and by five shards: equal, from a file for each shard and from one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_shards_into_one_server_and_into_five() {
    let binary = keyferry_testkit::any().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (source, one, five) = block_in_place(|| {
        let source = End::cluster(binary, 0);
        source.fill(1);
        let five = End::Cluster(Cluster::builder(binary).primaries(5).replicas(0).start().unwrap());
        (source, End::server(binary), five)
    });
    let report = backup(&source.url(), &dir.path().join("dump.rdb"), |_| {}).await.unwrap();
    let files = ["dump.1-of-3.rdb", "dump.2-of-3.rdb", "dump.3-of-3.rdb"];
    assert_eq!(names(dir.path()), [&files[..], &["dump.rdb.manifest.json"]].concat());
    let manifest = Manifest::load(&report.manifest.unwrap()).unwrap().unwrap();
    assert!(manifest.files.iter().zip(&manifest.shards).zip(&report.snapshots).zip(files).all(
        |(((file, shard), snapshot), name)| {
            let is_its = file.file == name && shard.file == name && shard.snapshot == *snapshot;
            let bytes = std::fs::metadata(dir.path().join(name)).unwrap().len();
            is_its && file.xxh128.as_ref() == Some(&snapshot.digest) && file.bytes == Some(bytes)
        }
    ));
    assert!(manifest.kind == "rdb" && manifest.shards.len() == 3, "{manifest:?}");
    assert!(
        report.converted.is_empty() && report.snapshots.iter().all(|of| of.slots.is_some() && of.keys > 0)
    );
    let merged = dir.path().join("all.rdb");
    let together = backup(&source.url(), &merged, |o| o.merge = true).await.unwrap();
    assert_eq!(together.files, std::slice::from_ref(&merged));
    assert_eq!(names(dir.path()).len(), 6, "{:?}", names(dir.path()));
    let manifest = Manifest::load(&Manifest::path(&merged)).unwrap().unwrap();
    assert_eq!((manifest.files.len(), manifest.shards.len()), (1, 3));
    assert!(manifest.shards.iter().all(|shard| shard.file == "all.rdb" && shard.snapshot.keys > 0));
    import(&report.files, &one).await;
    block_in_place(|| assert_same(source.side(), &one, "into one server"));
    import(&[merged], &five).await;
    block_in_place(|| assert_same(source.side(), &five, "into five shards"));
}

/// What is written for one server is what the server sent: another one starts with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_with_it() {
    for (number, binary) in keyferry_testkit::all().unwrap().iter().step_by(4).enumerate() {
        let source = block_in_place(|| {
            let source = start(binary);
            data::small(&mut source.client().unwrap(), 9, 3).unwrap();
            source
        });
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("dump.rdb");
        let report = backup(&source.url(), &out, |o| o.link.diskless = number % 2 == 0).await.unwrap();
        assert_eq!(report.snapshots[0].bytes, std::fs::metadata(&out).unwrap().len());
        block_in_place(|| {
            let loaded = Server::builder(binary).dir(dir.path()).start().unwrap();
            let mut client = source.client().unwrap();
            let compared = keyferry_testkit::compare(&mut client, &mut loaded.client().unwrap()).unwrap();
            assert!(compared.is_equal() && compared.keys_a > 100, "{}: {compared}", binary.name);
        });
    }
}

/// Other kinds of files, and a part of the keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_forms() {
    let (source, target) = (any(), End::server(keyferry_testkit::any().unwrap()));
    block_in_place(|| data::small(&mut source.client().unwrap(), 9, 2).unwrap());
    let dir = tempfile::tempdir().unwrap();
    for (name, kind) in [
        ("dump.aof", OutputKind::Log),
        ("dump.resp", OutputKind::Commands),
        ("log/", OutputKind::LogDirectory),
    ] {
        let out = dir.path().join(name);
        let report = backup(&source.url(), &out, |_| {}).await.unwrap();
        assert_eq!(report.converted[0].outputs[0].kind, kind.name());
        block_in_place(|| target.client().call(&["FLUSHALL"]).unwrap());
        import(&report.files, &target).await;
        block_in_place(|| {
            // Commands have no place for entries that are pending and no longer in their stream.
            let options = CompareOptions::default().without_bookkeeping();
            let compared = compare_sides(Side::server(&source).unwrap(), target.side(), &options).unwrap();
            let streams = |line: &str| line.contains("\"stream:");
            let text = compared.to_string();
            let others = text.lines().skip(1).filter(|line| !streams(line)).count();
            assert!(compared.keys_a == compared.keys_b && others == 0, "{name}: {text}");
        });
    }
    let some = dir.path().join("some.jsonl");
    let strings = |o: &mut BackupOptions| {
        o.convert.selection.keys.push("prefix:string".parse().unwrap());
    };
    let report = backup(&source.url(), &some, strings).await.unwrap();
    let lines = std::fs::read_to_string(&some).unwrap();
    // Function libraries have lines of their own.
    assert!(lines.lines().count() as u64 >= report.converted[0].keys_written);
    assert!(report.converted[0].keys_written > 0 && report.converted[0].left_out > 0);
}

/// Nothing is written over, and nothing is left where it fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_what_fails() {
    let source = any();
    block_in_place(|| data::tiny_keys(&mut source.client().unwrap(), 1, 20_000).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("dump.rdb");
    std::fs::write(&out, "precious").unwrap();
    let error = backup(&source.url(), &out, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    backup(&source.url(), &out, |o| o.replace = true).await.unwrap();
    assert!(
        std::fs::read(&out).unwrap().starts_with(b"REDIS")
            || keyferry_testkit::any().unwrap().name.contains("valkey")
    );
    std::fs::remove_file(&out).unwrap();
    // The link breaks in the midst of it.
    let proxy = keyferry_testkit::Proxy::start(source.addr()).unwrap();
    proxy.delay(std::time::Duration::from_millis(50));
    let url = format!("redis://{}", proxy.addr());
    let running = Backup::new(url.parse::<Endpoint>().unwrap(), &out);
    let progress = running.progress();
    let running = tokio::spawn(running.run());
    let begun = std::time::Instant::now();
    while progress.received() == 0 {
        assert!(begun.elapsed() < PATIENCE && !running.is_finished());
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    proxy.cut();
    proxy.refuse(true);
    running.await.unwrap().unwrap_err();
    assert_eq!(names(dir.path()), Vec::<String>::new());
    let nowhere = backup(&source.url(), &dir.path().join("none/dump.rdb"), |_| {}).await.unwrap_err();
    assert!(nowhere.to_string().contains("none"), "{nowhere}");
}
