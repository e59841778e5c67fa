//! Runs that end in the middle, and those that go on with them.

use std::{path::Path, time::Duration};

use keyferry_migrate::{Outcome, Phase};
use keyferry_testkit::{
    Direction, Proxy, Rng, Server, ServerBinary, binaries,
    data::{self, Writer, WriterOptions},
};

use crate::support::{Running, assert_equal, offset_of, remembering, start};

/// A source with some keys, and a network to the target that can be made slow.
struct Scene {
    source: Server,
    target: Server,
    to_target: Proxy,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(binary: &ServerBinary) -> Self {
        let (source, target) = (remembering(binary), start(binary));
        data::small(&mut source.client().unwrap(), 12, 3).unwrap();
        data::tiny_keys(&mut source.client().unwrap(), 1, 60_000).unwrap();
        // Built in parts.
        let mut client = source.client().unwrap();
        for n in 0..300 {
            client.call(&["RPUSH", "long", &format!("{n}:{}", "x".repeat(10_000))]).unwrap();
        }
        let to_target = Proxy::start(target.addr()).unwrap();
        Scene { source, target, to_target, dir: tempfile::tempdir().unwrap() }
    }

    fn journal(&self) -> std::path::PathBuf {
        self.dir.path().join("journal")
    }

    /// With so many keys a second at most, or as fast as it goes.
    fn run(&self, keys: &str) -> Running {
        let journal = self.journal();
        Running::start(&self.source.url(), &format!("redis://{}", self.to_target.addr()), move |o| {
            o.journal = Some(journal);
            o.look_first = false;
            o.limits.set("full-keys", keys).unwrap();
        })
    }

    fn full_syncs(&self) -> u64 {
        let syncs = self.source.client().unwrap().info("stats", "sync_full").unwrap();
        syncs.unwrap().parse().unwrap()
    }
}

fn has_base(journal: &Path) -> bool {
    let files = std::fs::read_dir(journal.join("appendonlydir")).into_iter().flatten().flatten();
    files.map(|f| f.file_name()).any(|n| n.to_string_lossy().ends_with("1.base.rdb"))
}

/// Dropped at random moments of the full phase, while the source is written to: there is no other full sync, and both sides are
/// equal in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_phase_that_was_cut_off_goes_on() {
    // Older ones send deadlines that are relative to the moment at which they are read.
    for binary in binaries().iter().filter(|b| b.version.at_least(7, 0)).rev().step_by(3) {
        let scene = Scene::new(binary);
        let writer =
            Writer::start(&scene.source, WriterOptions { rate: 2000, ..WriterOptions::default() }).unwrap();
        let mut rng = Rng::new(7);
        scene.to_target.delay(Duration::from_millis(5));
        for _ in 0..4 {
            // All of them together do not come to the end of the snapshot.
            let mut running = scene.run("3000");
            running.until("the snapshot on disk", |_| has_base(&scene.journal())).await;
            tokio::time::sleep(Duration::from_millis(rng.below(200))).await;
            running.until("keys", |p| p.figures().keys_applied > 0).await;
            assert_eq!(running.progress.phase(), Phase::Snapshot, "{}: too quick", binary.name);
            running.stopper.stop();
            let finished = running.end().await;
            assert_eq!(finished.report.outcome, Outcome::Stopped { everything_applied: false });
            assert_eq!(finished.report.journal.as_deref(), scene.journal().to_str());
            assert_eq!(scene.full_syncs(), 1, "{}", binary.name);
        }
        scene.to_target.delay(Duration::ZERO);
        let mut running = scene.run("none");
        running.until_following(&writer, 2000).await;
        let mut client = scene.source.client().unwrap();
        let client = tokio::task::spawn_blocking(move || {
            writer.stop().unwrap();
            data::settle(&mut client).unwrap();
            client
        });
        let mut client = client.await.unwrap();
        running.until_applied(offset_of(&mut client)).await;
        running.stopper.stop();
        let finished = running.end().await;
        finished.result.unwrap();
        assert_eq!(finished.report.outcome, Outcome::Stopped { everything_applied: true });
        assert_eq!(finished.report.journal, None);
        assert_eq!(finished.report.snapshot.total_keys(), finished.report.figures.keys_applied);
        assert_eq!(scene.full_syncs(), 1, "{}", binary.name);
        assert_equal(&scene.source, &scene.target, &binary.name);
    }
}

/// A journal that is as large as it may be holds up the source and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_journal_holds_up_the_source() {
    let source = Server::builder(keyferry_testkit::any().unwrap())
        .config("repl-backlog-size", "64mb")
        .diskless_sync(true, 0)
        .start()
        .unwrap();
    let target = start(keyferry_testkit::any().unwrap());
    let to_target = Proxy::start(target.addr()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    data::small(&mut source.client().unwrap(), 2, 1).unwrap();
    let mut running = Running::start(&source.url(), &format!("redis://{}", to_target.addr()), |o| {
        o.journal = Some(dir.path().join("journal"));
        o.journal_max = Some(4 << 20);
    });
    running.until_phase(Phase::Following).await;
    to_target.stall(Direction::ToTarget, true);
    to_target.stall(Direction::FromTarget, true);
    let mut client = source.client().unwrap();
    let value = "v".repeat(10_000);
    for n in 0..3000 {
        client.queue(&["RPUSH", "list", &format!("{n}:{value}")]).unwrap();
    }
    client.flush().unwrap();
    client.replies(3000).unwrap();
    running.until("the bound", |p| p.figures().held_up).await;
    running.until("an estimate", |p| p.figures().source_patience_seconds.is_some()).await;
    let figures = running.progress.figures();
    assert!(figures.journal_bytes < 8 << 20, "{figures:?}");
    assert!(figures.received_offset < offset_of(&mut client), "{figures:?}");
    to_target.stall(Direction::ToTarget, false);
    to_target.stall(Direction::FromTarget, false);
    running.until_applied(offset_of(&mut client)).await;
    running.until("the source being read", |p| !p.figures().held_up).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    assert_equal(&source, &target, "after the journal was full");
}

/// A small disk, which goes with the value; none where this user may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(dir.path())
            .output();
        mount.is_ok_and(|output| output.status.success()).then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(self.0.path()).status().ok();
    }
}

/// The disk of the journal is full while the target stands still: the source waits, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_up_the_source() {
    let Some(disk) = SmallDisk::new("3m") else {
        eprintln!("no small disk can be mounted here: left out");
        return;
    };
    let source = Server::builder(keyferry_testkit::any().unwrap())
        .config("repl-backlog-size", "64mb")
        .diskless_sync(true, 0)
        .start()
        .unwrap();
    let target = start(keyferry_testkit::any().unwrap());
    let to_target = Proxy::start(target.addr()).unwrap();
    data::small(&mut source.client().unwrap(), 2, 1).unwrap();
    let mut running = Running::start(&source.url(), &format!("redis://{}", to_target.addr()), |o| {
        o.journal = Some(disk.0.path().join("journal"));
    });
    running.until_phase(Phase::Following).await;
    to_target.stall(Direction::ToTarget, true);
    to_target.stall(Direction::FromTarget, true);
    let mut client = source.client().unwrap();
    let value = "v".repeat(10_000);
    for n in 0..3000 {
        client.queue(&["RPUSH", "list", &format!("{n}:{value}")]).unwrap();
    }
    client.flush().unwrap();
    client.replies(3000).unwrap();
    running.until("a full disk", |p| p.figures().held_up).await;
    let trouble = running.progress.figures().trouble.unwrap_or_default();
    assert!(trouble.contains("journal") && trouble.contains("waiting for room"), "{trouble}");
    to_target.stall(Direction::ToTarget, false);
    to_target.stall(Direction::FromTarget, false);
    running.until_applied(offset_of(&mut client)).await;
    running.until("no trouble", |p| p.figures().trouble.is_none()).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    assert_equal(&source, &target, "after the disk was full");
}

/// The link breaks inside of the snapshot: the source is asked for another one, and the run goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_lost_on_its_way_is_asked_for_again() {
    let source = Server::builder(keyferry_testkit::any().unwrap()).diskless_sync(true, 0).start().unwrap();
    let target = start(keyferry_testkit::any().unwrap());
    data::tiny_keys(&mut source.client().unwrap(), 1, 30_000).unwrap();
    let from_source = Proxy::start(source.addr()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for journal in [None, Some(dir.path().join("journal"))] {
        target.client().unwrap().call(&["FLUSHALL"]).unwrap();
        let before: u64 = full_syncs(&source);
        // Microseconds a key: it does not come to its end before it is cut.
        let slow = |delay: &str| {
            source.client().unwrap().call(&["CONFIG", "SET", "rdb-key-save-delay", delay]).unwrap();
        };
        slow("1000");
        let mut running = Running::start(&format!("redis://{}", from_source.addr()), &target.url(), |o| {
            o.journal = journal.clone();
        });
        running.until("a part of it", |p| p.figures().snapshot_received > 50_000).await;
        slow("0");
        from_source.cut();
        running.until_phase(Phase::Following).await;
        let mut client = source.client().unwrap();
        client.call(&["INCR", "after"]).unwrap();
        running.until_applied(offset_of(&mut client)).await;
        running.stopper.stop();
        let finished = running.end().await;
        finished.result.unwrap();
        assert_eq!(finished.report.restarts, 1, "{:?}", finished.report.notes);
        assert_eq!(full_syncs(&source), before + 2);
        assert_eq!(finished.report.figures.keys_applied, finished.report.snapshot.total_keys());
        let (mut a, mut b) = (source.client().unwrap(), target.client().unwrap());
        let own = keyferry_testkit::CompareOptions::default().ignore("keyferry:");
        let result = keyferry_testkit::compare_with(&mut a, &mut b, &own).unwrap();
        assert!(result.is_equal() && result.keys_a > 30_000, "{result}");
    }
}

/// The source has lost the history that is followed: everything is copied anew, and the run goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_is_lost_is_begun_anew() {
    let (source, target) = (start(keyferry_testkit::any().unwrap()), start(keyferry_testkit::any().unwrap()));
    let from_source = Proxy::start(source.addr()).unwrap();
    data::small(&mut source.client().unwrap(), 2, 2).unwrap();
    let mut running = Running::start(&format!("redis://{}", from_source.addr()), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    let mut client = source.client().unwrap();
    for round in 1..3 {
        client.call(&["RPUSH", "list", "a", "b"]).unwrap();
        client.call(&["INCR", "n"]).unwrap();
        client.call(&["DEBUG", "CHANGE-REPL-ID"]).unwrap();
        from_source.cut();
        client.call(&["INCR", "n"]).unwrap();
        running
            .until("the same", |_| {
                let n = target.client().unwrap().text(&["GET", "n"]).unwrap_or_default();
                n == (2 * round).to_string()
            })
            .await;
        running.until_phase(Phase::Following).await;
    }
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    assert_eq!(finished.report.restarts, 2, "{:?}", finished.report.notes);
    let own = keyferry_testkit::CompareOptions::default().ignore("keyferry:");
    let result = keyferry_testkit::compare_with(&mut client, &mut target.client().unwrap(), &own).unwrap();
    assert!(result.is_equal() && result.keys_a > 100, "{result}");
}

fn full_syncs(server: &Server) -> u64 {
    server.client().unwrap().info("stats", "sync_full").unwrap().unwrap().parse().unwrap()
}
