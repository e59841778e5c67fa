//! Real servers, with writes going on.

use std::time::Duration;

use keyferry_migrate::{Error, Outcome, Phase, Until};
use keyferry_testkit::{
    Direction, Proxy, Server, ServerBinary, binaries,
    data::{self, Shape, Writer, WriterOptions},
    named,
};

use crate::support::{PATIENCE, Running, any, assert_equal, offset_of, run, start, temporary_keys};

/// Fills a source, writes to it while it is migrated, and compares.
async fn migrate_live(from: &ServerBinary, to: &ServerBinary, value_limit: usize) {
    let (source, target) = (start(from), start(to));
    let what = format!("{} to {}, values above {value_limit} in parts", from.name, to.name);
    data::small(&mut source.client().unwrap(), 11, 3).unwrap();
    let writer = Writer::start(&source, WriterOptions { rate: 3000, ..WriterOptions::default() }).unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |o| o.value_limit = value_limit);
    running.until_following(&writer, 3000).await;
    let mut client = source.client().unwrap();
    let (counts, client) = tokio::task::spawn_blocking(move || {
        assert!(writer.wait_for(1500, PATIENCE), "the source takes no more");
        let counts = writer.stop().unwrap();
        data::settle(&mut client).unwrap();
        (counts, client)
    })
    .await
    .unwrap();
    assert_eq!(counts.errors, 0, "{what}: {:?}", counts.first_error);
    let mut client = client;
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap_or_else(|e| panic!("{what}: {e}"));
    let report = finished.report;
    assert_eq!(report.outcome, Outcome::Stopped { everything_applied: true }, "{what}");
    assert!(report.figures.commands_applied > 500, "{what}: {:?}", report.figures);
    assert_eq!(report.figures.keys_applied, report.snapshot.total_keys(), "{what}");
    assert_eq!(report.snapshot.large > 0, value_limit < 1000, "{what}");
    assert_eq!(report.journal, None);
    assert_equal(&source, &target, &what);
}

/// Every server to its like: values go over raw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_to_its_like_while_written_to() {
    for pair in binaries().chunks(3) {
        let mut set = tokio::task::JoinSet::new();
        for binary in pair {
            set.spawn(migrate_live(binary, binary, 4 << 20));
        }
        while let Some(result) = set.join_next().await {
            result.unwrap();
        }
    }
}

/// Upwards, across versions and vendors that know each other's encodings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_while_written_to() {
    for (from, to) in [("redis-6.0", "redis-7.0"), ("redis-6.2", "valkey-9"), ("redis-7.0", "redis-8.0")] {
        let (Ok(from), Ok(to)) = (named(from), named(to)) else { continue };
        migrate_live(from, to, 4 << 20).await;
    }
}

/// Every value above a few bytes is built in parts by native commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_built_in_parts_are_the_same() {
    for name in ["redis-6.0", "redis-7.0", "redis-8.0", "valkey-9"] {
        let Ok(binary) = named(name).or_else(|_| keyferry_testkit::any()) else { continue };
        let (source, target) = (start(binary), start(binary));
        data::small(&mut source.client().unwrap(), 5, 3).unwrap();
        let finished = run(&source.url(), &target.url(), |o| o.value_limit = 64).await;
        finished.result.unwrap();
        assert!(finished.report.snapshot.large > 20, "{:?}", finished.report.snapshot);
        assert_equal_but_for_losses(&source, &target, &finished.report.snapshot.named_losses);
    }
}

/// Commands cannot rebuild everything of a stream; what they cannot is in the report, and nothing else differs.
fn assert_equal_but_for_losses(source: &Server, target: &Server, losses: &[String]) {
    let comparison =
        keyferry_testkit::compare(&mut source.client().unwrap(), &mut target.client().unwrap()).unwrap();
    for difference in &comparison.differences {
        let key = format!("\"{}\"", difference.key.escape_ascii());
        assert!(losses.iter().any(|loss| loss.contains(&key)), "{difference}, not among {losses:?}");
    }
    assert_eq!(temporary_keys(target), 0);
}

/// A large key appears whole or not at all, for somebody who looks all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_half_a_key() {
    let (source, target) = (any(), any());
    data::big(&mut source.client().unwrap(), 3, "big", Shape::List, 20 << 20).unwrap();
    let whole = source.client().unwrap().int(&["LLEN", "big"]).unwrap();
    let mut watching = target.client().unwrap();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let (looks, looked) = std::sync::mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || {
        let (mut absent, mut present) = (0, 0);
        // It looks once more when it is there.
        while finished.try_recv().is_err() || present == 0 {
            match watching.int(&["LLEN", "big"]).unwrap() {
                0 => {
                    absent += 1;
                    looks.send(()).ok();
                }
                n => {
                    assert_eq!(n, whole);
                    present += 1;
                }
            }
        }
        (absent, present)
    });
    looked.recv().unwrap();
    let mut running = Running::start(&source.url(), &target.url(), |o| o.value_limit = 64 * 1024);
    running.until_phase(Phase::Following).await;
    done.send(()).unwrap();
    let (absent, present) = watcher.join().unwrap();
    assert!(absent > 0 && present > 0, "{absent} {present}");
    running.stopper.stop();
    let report = running.end().await.report;
    assert_eq!(report.snapshot.large, 1);
    assert_equal(&source, &target, "a large list");
}

/// Ends by itself when the writers have stopped, and at the end both sides are equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_caught_up_waits_for_a_quiet_moment() {
    let (source, target) = (any(), any());
    data::small(&mut source.client().unwrap(), 2, 3).unwrap();
    let writer = Writer::start(&source, WriterOptions::default()).unwrap();
    let running = Running::start(&source.url(), &target.url(), |o| {
        o.until = Until::CaughtUp { quiet: Duration::from_millis(1800), linger: Duration::from_secs(60) };
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut client = source.client().unwrap();
    tokio::task::spawn_blocking(move || {
        writer.stop().unwrap();
        data::settle(&mut client).unwrap();
    })
    .await
    .unwrap();
    let finished = running.end().await;
    finished.result.unwrap();
    assert_eq!(finished.report.outcome, Outcome::CaughtUp { source_was_writing: false });
    assert_equal(&source, &target, "caught up");
}

/// While writes never end it ends all the same, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_caught_up_ends_although_writes_go_on() {
    let (source, target) = (any(), any());
    data::small(&mut source.client().unwrap(), 2, 1).unwrap();
    // So little that it is caught up with on any machine.
    let writer = Writer::start(&source, WriterOptions { rate: 200, ..WriterOptions::default() }).unwrap();
    let finished = run(&source.url(), &target.url(), |o| {
        o.until = Until::CaughtUp { quiet: Duration::from_secs(60), linger: Duration::from_millis(300) };
    })
    .await;
    finished.result.unwrap();
    assert_eq!(finished.report.outcome, Outcome::CaughtUp { source_was_writing: true });
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap().unwrap();
}

/// The link is cut again and again while commands stream; nothing is lost or repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_costs_nothing() {
    let source = Server::builder(keyferry_testkit::any().unwrap())
        .config("repl-backlog-size", "64mb")
        .diskless_sync(true, 0)
        .start()
        .unwrap();
    let target = any();
    let proxy = Proxy::start(source.addr()).unwrap();
    data::small(&mut source.client().unwrap(), 4, 3).unwrap();
    let mut running = Running::start(&format!("redis://{}", proxy.addr()), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    let writer = Writer::start(&source, WriterOptions { rate: 10_000, ..WriterOptions::default() }).unwrap();
    for cut in 0..5 {
        proxy.cut_after(Direction::FromTarget, 20_000 + cut * 7);
        running.until("reconnect", |p| p.figures().reconnects > cut).await;
    }
    let mut client = source.client().unwrap();
    let client = tokio::task::spawn_blocking(move || {
        writer.stop().unwrap();
        data::settle(&mut client).unwrap();
        client
    });
    let mut client = client.await.unwrap();
    running.until_applied(offset_of(&mut client)).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    assert_equal(&source, &target, "after cuts");
}

/// Stopped while the target does not answer: what was read is in the journal, which a plain server loads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_kept_loads_in_a_server() {
    let Some(binary) = binaries().iter().find(|b| b.version.at_least(7, 0)) else { return };
    let (source, target) = (start(binary), start(binary));
    let proxy = Proxy::start(target.addr()).unwrap();
    // Slow enough for the target to stop answering before it has the snapshot.
    proxy.fragment(16 << 10);
    proxy.delay(Duration::from_millis(20));
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    data::small(&mut source.client().unwrap(), 6, 3).unwrap();
    data::tiny_keys(&mut source.client().unwrap(), 1, 100_000).unwrap();
    let mut running = Running::start(&source.url(), &format!("redis://{}", proxy.addr()), |o| {
        o.journal = Some(journal.clone());
    });
    running.until("a key", |p| p.figures().keys_applied > 0 || p.figures().bytes_sent > 0).await;
    proxy.stall(Direction::FromTarget, true);
    let writer = Writer::start(&source, WriterOptions::default()).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut client = source.client().unwrap();
    let client = tokio::task::spawn_blocking(move || {
        writer.stop().unwrap();
        data::settle(&mut client).unwrap();
        client
    });
    let offset = offset_of(&mut client.await.unwrap());
    running.until("everything read", |p| p.figures().received_offset >= offset).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    let report = &finished.report;
    assert_eq!(report.outcome, Outcome::Stopped { everything_applied: false }, "{report:?}");
    assert_eq!(report.journal.as_deref(), journal.to_str(), "{report:?}");

    let loaded = Server::builder(binary).dir(&journal).append_only("no").start().unwrap();
    assert_equal(&source, &loaded, "the journal");
}

/// Stopped in the middle of a transaction: what counts as applied is whole transactions only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_cut_a_transaction() {
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    for round in 0..5 {
        let target = if round == 0 { &target } else { &any() };
        let mut running = Running::start(&source.url(), &target.url(), |_| {});
        running.until_phase(Phase::Following).await;
        let mut client = source.client().unwrap();
        let writing = std::thread::spawn(move || {
            for n in 0..300 {
                client.queue(&["MULTI"]).unwrap();
                for part in ["x", "y", "z"] {
                    client.queue(&["SET", part, &n.to_string()]).unwrap();
                }
                client.queue(&["EXEC"]).unwrap();
                client.flush().unwrap();
                client.replies(5).unwrap();
            }
        });
        tokio::time::sleep(Duration::from_millis(10 + 3 * round)).await;
        running.stopper.stop();
        let report = running.end().await.report;
        assert_eq!(report.outcome, Outcome::Stopped { everything_applied: true });
        writing.join().unwrap();
        let mut at_target = target.client().unwrap();
        let values: Vec<_> = ["x", "y", "z"].iter().map(|k| at_target.bytes(&["GET", k]).unwrap()).collect();
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{values:?}");
    }
}

/// A target that stands still while commands stream: everything read is in the journal, to the last command, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_of_the_stream_has_no_hole() {
    let Some(binary) = binaries().iter().find(|b| b.version.at_least(7, 0)) else { return };
    let (source, mut target) = (start(binary), start(binary));
    let proxy = Proxy::start(target.addr()).unwrap();
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let mut running = Running::start(&source.url(), &format!("redis://{}", proxy.addr()), |_| {});
    running.until_phase(Phase::Following).await;
    proxy.stall(Direction::FromTarget, true);
    proxy.stall(Direction::ToTarget, true);
    let mut client = source.client().unwrap();
    let value = "v".repeat(5000);
    for n in 0..6000 {
        client.queue(&["RPUSH", "list", &format!("{n}:{value}")]).unwrap();
    }
    client.flush().unwrap();
    client.replies(6000).unwrap();
    let offset = offset_of(&mut client);
    running.until("everything read", |p| p.figures().received_offset >= offset).await;
    // It comes back without anything.
    target.kill9();
    target.restart().unwrap();
    proxy.stall(Direction::FromTarget, false);
    proxy.stall(Direction::ToTarget, false);
    let finished = running.end_keeping_journal().await;
    assert!(matches!(finished.result, Err(Error::StateGone { .. })), "{:?}", finished.result);
    let journal = finished.report.journal.expect("a journal");
    let loaded = Server::builder(binary).dir(journal.as_ref()).append_only("no").start().unwrap();
    let mut loaded = loaded.client().unwrap();
    assert_eq!(loaded.int(&["LLEN", "list"]).unwrap(), 6000);
    for n in [0, 1, 777, 3000, 5998, 5999] {
        let element = loaded.text(&["LINDEX", "list", &n.to_string()]).unwrap();
        assert!(element.starts_with(&format!("{n}:")), "{n}: {}", &element[..10]);
    }
    std::fs::remove_dir_all(journal).unwrap();
}
