//! Backups of clusters that ended before all shards were there: what is kept of them, and what the next run makes of it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use keyferry_migrate::{
    Error,
    backup::{Backup, BackupOptions, BackupReport, Manifest},
};
use keyferry_testkit::Cluster;
use tokio::task::block_in_place;

use crate::{
    backup::{assert_same, import, names},
    clusters::ends::End,
    support::PATIENCE,
};

const SHARDS: usize = 3;

/// Three shards behind proxies, with so much data that their snapshots do not come at once.
fn cluster() -> End {
    let binary = keyferry_testkit::any().unwrap();
    let source = End::built(
        Cluster::builder(binary).primaries(SHARDS).replicas(0).proxies().config("rdbcompression", "no"),
    );
    source.fill(1);
    let End::Cluster(nodes) = &source else { unreachable!() };
    let mut client = nodes.client().unwrap();
    let value = "v".repeat(20_000);
    for number in 0..150 {
        client.call(&["SET", &format!("large:{number}"), &value]).unwrap();
    }
    source
}

fn nodes(source: &End) -> &Cluster {
    match source {
        End::Cluster(cluster) => cluster,
        _ => unreachable!(),
    }
}

fn backup(source: &End, out: &Path) -> Backup {
    Backup::new(source.url().parse::<keyferry_client::Endpoint>().unwrap(), out)
}

async fn run(
    source: &End,
    out: &Path,
    options: impl FnOnce(&mut BackupOptions),
) -> Result<BackupReport, Error> {
    let mut backup = backup(source, out);
    options(backup.options_mut());
    tokio::time::timeout(PATIENCE, backup.run()).await.expect("an end in time")
}

/// A run whose last shard is lost when snapshots have begun to come; the others come to their end.
async fn ended(source: &End, out: &Path, merge: bool) -> PathBuf {
    let delay = |time| (0..SHARDS).for_each(|shard| nodes(source).proxy(shard).unwrap().delay(time));
    let proxy = nodes(source).proxy(SHARDS - 1).unwrap();
    delay(Duration::from_millis(15));
    let mut backup = backup(source, out);
    backup.options_mut().merge = merge;
    let (progress, dir) = (backup.progress(), backup.partial_dir());
    let running = tokio::spawn(backup.run());
    let begun = std::time::Instant::now();
    while progress.received() == 0 {
        assert!(begun.elapsed() < PATIENCE && !running.is_finished(), "nothing comes");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    block_in_place(|| proxy.refuse(true));
    proxy.cut();
    running.await.unwrap().unwrap_err();
    assert_eq!(progress.kept(), SHARDS as u64 - 1);
    delay(Duration::ZERO);
    block_in_place(|| proxy.refuse(false));
    dir
}

/// How often each node has sent a snapshot.
fn full_syncs(source: &End) -> Vec<u64> {
    let of = |node: &keyferry_testkit::Server| {
        let count = node.client().unwrap().info("stats", "sync_full").unwrap().unwrap();
        count.parse().unwrap()
    };
    nodes(source).nodes().iter().map(of).collect()
}

/// What is whole is not read again, and what comes of it is equal: as files of shards, and merged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_whole_is_not_read_again() {
    let (source, target) = block_in_place(|| (cluster(), End::server(keyferry_testkit::any().unwrap())));
    for merge in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("dump.rdb");
        let partial = ended(&source, &out, merge).await;
        assert_eq!(names(dir.path()), ["dump.rdb.partial"]);
        let kept = names(&partial);
        assert_eq!(kept.iter().filter(|name| name.ends_with(".rdb")).count(), 2, "{kept:?}");
        assert!(!kept.iter().any(|name| name.ends_with(".part")), "{kept:?}");
        let before = block_in_place(|| full_syncs(&source));
        let report = run(&source, &out, |o| o.merge = merge).await.unwrap();
        let after = block_in_place(|| full_syncs(&source));
        let more: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        assert_eq!(more, [0, 0, 1]);
        let kept: Vec<bool> = report.snapshots.iter().map(|snapshot| snapshot.kept).collect();
        assert_eq!(kept, [true, true, false]);
        assert!(report.notes.iter().any(|note| note.starts_with("2 of 3 shards")), "{:?}", report.notes);
        assert_eq!(report.files.len(), if merge { 1 } else { 3 });
        assert!(!partial.exists());
        block_in_place(|| target.client().call(&["FLUSHALL"]).unwrap());
        import(&report.files, &target).await;
        block_in_place(|| assert_same(source.side(), &target, "after two runs"));
        // A backup that is complete is left alone.
        let error = run(&source, &out, |o| o.merge = merge).await.unwrap_err();
        assert!(error.to_string().contains("exists"), "{error}");
        assert!(!partial.exists());
    }
}

/// Killed in its last moments: some files have their names, or all and the manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_files_get_their_names() {
    let source = block_in_place(cluster);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("dump.rdb");
    let partial = ended(&source, &out, false).await;
    let list = std::fs::read(partial.join("parts.json")).unwrap();
    let first = dir.path().join("dump.1-of-3.rdb");
    std::fs::rename(partial.join("from-slot-0.rdb"), &first).unwrap();
    let before = block_in_place(|| full_syncs(&source));
    let report = run(&source, &out, |_| {}).await.unwrap();
    assert_eq!(block_in_place(|| full_syncs(&source))[..2], before[..2]);
    assert_eq!(report.snapshots.iter().filter(|snapshot| snapshot.kept).count(), 2);
    // Somebody else's file of that name is not one of ours.
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("parts.json"), &list).unwrap();
    std::fs::write(&first, "precious").unwrap();
    let error = run(&source, &out, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("dump.1-of-3.rdb exists"), "{error}");
    assert_eq!(std::fs::read(&first).unwrap(), b"precious");
}

/// What is kept is used only where it is what it says, of shards that are what they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_any_more_is_refused() {
    let (mut source, target) = block_in_place(|| (cluster(), End::server(keyferry_testkit::any().unwrap())));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("dump.rdb");
    let partial = ended(&source, &out, false).await;
    // Damage: that shard is read again, and it is said.
    let damaged = partial.join("from-slot-0.rdb");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    // While another process is at it, nothing is done.
    let lock = std::fs::File::open(partial.join("keyferry.lock"))
        .or_else(|_| std::fs::File::create(partial.join("keyferry.lock")));
    let lock = lock.unwrap();
    lock.lock().unwrap();
    let error = run(&source, &out, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::BackupInUse { .. }), "{error}");
    drop(lock);
    let report = run(&source, &out, |_| {}).await.unwrap();
    let kept: Vec<bool> = report.snapshots.iter().map(|snapshot| snapshot.kept).collect();
    assert_eq!(kept, [false, true, false]);
    assert!(report.notes.iter().any(|note| note.contains("is taken anew")), "{:?}", report.notes);
    report.files.iter().chain(&report.manifest).for_each(|file| std::fs::remove_file(file).unwrap());
    // Another history: what the shard held may be gone.
    ended(&source, &out, false).await;
    block_in_place(|| {
        let client = || nodes(&source).node(0).client().unwrap();
        let id = client().info("replication", "master_replid").unwrap();
        // The snapshot that nobody took to its end may be under way.
        let saved = client().wait_until(PATIENCE, |client| Ok(client.call(&["SAVE"]).is_ok()));
        assert!(saved.unwrap());
        source.nodes().restart(0).unwrap();
        let client = || nodes(&source).node(0).client().unwrap();
        // Some versions take over the history that the snapshot tells.
        let known =
            ["master_replid", "master_replid2"].map(|name| client().info("replication", name).unwrap());
        if known.contains(&id) {
            client().call(&["DEBUG", "CHANGE-REPL-ID"]).unwrap();
            client().call(&["DEBUG", "CHANGE-REPL-ID"]).unwrap();
        }
    });
    let error = run(&source, &out, |_| {}).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::BackupOutdated { .. }) && text.contains("another history"), "{text}");
    assert!(text.contains("slots 0-") && text.contains("--restart"), "{text}");
    // What was kept is still there; begun anew, it is not used.
    assert!(partial.join("from-slot-0.rdb").exists());
    let report = run(&source, &out, |o| o.restart = true).await.unwrap();
    assert!(report.snapshots.iter().all(|snapshot| !snapshot.kept));
    report.files.iter().chain(&report.manifest).for_each(|file| std::fs::remove_file(file).unwrap());
    // Other slots.
    ended(&source, &out, false).await;
    block_in_place(|| nodes(&source).move_slots(0..=9, 1).unwrap());
    let error = run(&source, &out, |_| {}).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::BackupOutdated { .. }) && text.contains("has the slots 10-"), "{text}");
    let report = run(&source, &out, |o| o.restart = true).await.unwrap();
    let manifest = Manifest::load(&report.manifest.unwrap()).unwrap().unwrap();
    assert_eq!(manifest.shards.len(), SHARDS);
    import(&report.files, &target).await;
    block_in_place(|| assert_same(source.side(), &target, "after all that"));
}
