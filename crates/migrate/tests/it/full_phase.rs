//! The program is killed while it applies a snapshot, again and again: what is on the target is not applied once more, and
//! the source sends one snapshot.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use keyferry_migrate::{Migration, Outcome, Until};
use keyferry_rdb::{Event, Parser};
use keyferry_testkit::{
    Client, Proxy, Rng, Server,
    data::{self, Writer, WriterOptions},
};
use tokio::task::block_in_place;

use crate::support::{PATIENCE, Process, assert_equal, remembering, start};

/// Tells the test `a_process` what to do.
const TOLD: &str = "KEYFERRY_TEST_FULL_PHASE";

const ID: &str = "full-phase";

/// No test by itself: a migration that can be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    migration(words[0], words[1], Path::new(words[2])).run().await.result.unwrap();
}

fn migration(source: &str, target: &str, journal: &Path) -> Migration {
    let mut migration = Migration::new(source.parse().unwrap(), target.parse().unwrap());
    let options = migration.options_mut();
    options.id = Some(ID.to_owned());
    options.journal = Some(journal.to_owned());
    options.look_first = false;
    migration
}

/// How many bytes of the snapshot the target says are there; none when it is past that.
fn told(target: &mut Client) -> Option<u64> {
    let key = format!("keyferry:migration:{{{ID}}}");
    let reply = target.list(&["HMGET", &key, "link:0", "snapshot:0"]).unwrap();
    let text = |at: usize| reply[at].as_str().unwrap_or_default().to_owned();
    if text(0).starts_with("stream") {
        return None;
    }
    Some(text(1).split(' ').nth(2).and_then(|bytes| bytes.parse().ok()).unwrap_or(0))
}

/// How many keys of a snapshot begin before this byte of it, and how many there are.
fn keys_before(snapshot: &[u8], byte: u64) -> (u64, u64) {
    let mut parser = Parser::new();
    parser.feed(snapshot);
    let (mut before, mut all) = (0, 0);
    while let Some((event, at)) = parser.next_event_at().unwrap() {
        if let Event::Entry(_) | Event::ValueStart(_) = event {
            all += 1;
            before += u64::from(at < byte);
        }
    }
    (before, all)
}

fn base(journal: &Path) -> Option<Vec<u8>> {
    std::fs::read(journal.join("appendonlydir/appendonly.aof.1.base.rdb")).ok()
}

fn full_syncs(server: &Server) -> String {
    server.client().unwrap().info("stats", "sync_full").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_not_applied_again() {
    let binary = keyferry_testkit::any().unwrap();
    let (source, target) = block_in_place(|| {
        let (source, target) = (remembering(binary), start(binary));
        let mut client = source.client().unwrap();
        data::small(&mut client, 12, 3).unwrap();
        data::tiny_keys(&mut client, 1, 40_000).unwrap();
        // Built in parts.
        data::big(&mut client, 3, "long", data::Shape::List, 2 << 20).unwrap();
        (source, target)
    });
    let to_target = Proxy::start(target.addr()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let url = format!("redis://{}", to_target.addr());
    let options = WriterOptions { rate: 500, ..WriterOptions::default() };
    let writer = block_in_place(|| Writer::start(&source, options).unwrap());
    to_target.delay(Duration::from_millis(60));
    let mut rng = Rng::new(5);
    let mut last = 0;
    block_in_place(|| {
        let mut at_target = target.client().unwrap();
        for round in 0..4 {
            let told_it = format!("{} {url} {}", source.url(), journal.display());
            let mut process = Process::start("full_phase::a_process", (TOLD, told_it));
            let begun = Instant::now();
            // Until it is a step further than when the last one was killed.
            loop {
                let now = told(&mut at_target);
                if now.is_none_or(|now| now > last) && base(&journal).is_some() {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "no step forward in round {round}: {now:?}, {last}");
                assert!(process.0.try_wait().unwrap().is_none(), "it ended in round {round}");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(rng.below(300)));
            drop(process);
            assert_eq!(full_syncs(&source), "1", "round {round}");
            match told(&mut at_target) {
                Some(now) => last = now,
                None => break,
            }
        }
    });
    assert!(last > 0, "it was never killed in the midst of the snapshot");
    let now = block_in_place(|| told(&mut target.client().unwrap()));
    let snapshot = base(&journal);
    to_target.delay(Duration::ZERO);
    block_in_place(|| {
        writer.stop().unwrap();
        data::settle(&mut source.client().unwrap()).unwrap();
    });
    let mut migration = migration(&source.url(), &url, &journal);
    migration.options_mut().until = Until::caught_up();
    let finished = tokio::time::timeout(PATIENCE, migration.run()).await.unwrap();
    finished.result.unwrap();
    assert!(matches!(finished.report.outcome, Outcome::CaughtUp { .. }));
    assert_eq!(full_syncs(&source), "1");
    block_in_place(|| assert_equal(&source, &target, "after the last of them"));
    // Where the last one came past the snapshot, there was nothing left of it to be applied.
    let (Some(now), Some(snapshot)) = (now, snapshot) else { return };
    let (there, all) = keys_before(&snapshot, now);
    let counts = &finished.report.snapshot;
    assert_eq!(counts.total_keys(), all);
    // What the killed one had sent may have come to the target after that.
    assert!(
        there > 0 && counts.already_there >= there,
        "{counts:?}: {there} up to {now} of {} bytes",
        snapshot.len()
    );
}
