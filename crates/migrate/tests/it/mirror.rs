//! Full syncs that are not the first: what the source deleted meanwhile goes, what belongs to others stays.

use std::{path::Path, time::Duration};

use keyferry_migrate::{Finished, Mirror, MirrorCounts, Options, Phase, Until};
use keyferry_testkit::{Client, Cluster, Server, ServerBinary, any};

use crate::support::{Running, offset_of, run};

/// A source that soon forgets what it has written.
fn forgetful(binary: &ServerBinary) -> Server {
    Server::builder(binary).diskless_sync(true, 0).config("repl-backlog-size", "16kb").start().unwrap()
}

fn options(options: &mut Options, journal: &Path, mirror: Mirror) {
    options.db_map.insert(15, 15);
    options.journal = Some(journal.to_owned());
    options.mirror = mirror;
}

/// Migrates until the target refuses something, then writes so much to the source that it has to be read from its beginning
/// again, and migrates once more. `theirs` is at the target before.
async fn twice(source: &Server, target: &str, mut there: impl FnMut(&[&str]), mirror: Mirror) -> Finished {
    let journal = tempfile::tempdir().unwrap();
    let mut client = source.client().unwrap();
    for n in 0..3000 {
        client.queue(&["SET", &format!("key:{n}"), "value"]).unwrap();
    }
    client.flush().unwrap();
    client.replies(3000).unwrap();
    client.call(&["RPUSH", "list", "1", "2"]).unwrap();
    client.call(&["INCRBY", "counter", "5"]).unwrap();
    client.call(&["RPUSH", "large", &"x".repeat(3000), &"y".repeat(3000)]).unwrap();
    there(&["SET", "theirs", "1"]);
    let mut running = Running::start(&source.url(), target, |o| {
        options(o, journal.path(), mirror);
        o.value_limit = 2000;
    });
    running.until_phase(Phase::Following).await;
    client.call(&["SET", "added", "1"]).unwrap();
    running.until_applied(offset_of(&mut client)).await;
    there(&["SET", "queue", "not a list"]);
    client.call(&["RPUSH", "queue", "job"]).unwrap();
    running.end_keeping_journal().await.result.unwrap_err();
    there(&["DEL", "queue"]);

    for n in 0..1000 {
        client.call(&["DEL", &format!("key:{n}")]).unwrap();
    }
    client.call(&["DEL", "added"]).unwrap();
    client.call(&["RPUSH", "list", "3"]).unwrap();
    client.call(&["INCR", "counter"]).unwrap();
    client.call(&["RPUSH", "large", "z"]).unwrap();
    for _ in 0..20 {
        client.call(&["SET", "filler", &"x".repeat(4000)]).unwrap();
    }
    let finished = run(&source.url(), target, |o| {
        options(o, journal.path(), mirror);
        o.value_limit = 2000;
        // What the first run ended at is replaced by the second snapshot.
        o.skip_refused = true;
        o.until = Until::CaughtUp { quiet: Duration::from_millis(200), linger: Duration::from_secs(10) };
    })
    .await;
    if let Err(error) = &finished.result {
        panic!("{error}");
    }
    finished
}

/// Gives what the second run counted; checks that nothing was appended to what was there.
fn check(finished: &Finished, get: &mut dyn FnMut(&[&str]) -> String) -> MirrorCounts {
    let counts = finished.report.mirror.clone();
    assert_eq!(counts.resyncs, 1, "{:?}", finished.report);
    assert_eq!(get(&["LLEN", "list"]), "3");
    assert_eq!(get(&["GET", "counter"]), "6");
    assert_eq!(get(&["LLEN", "large"]), "3");
    assert_eq!(get(&["LLEN", "queue"]), "1");
    assert_eq!(get(&["EXISTS", "key:1000"]), "1");
    counts
}

/// An answer as text.
macro_rules! text {
    ($reply:expr) => {
        match $reply.unwrap() {
            reply if reply.as_i64().is_some() => reply.as_i64().unwrap().to_string(),
            reply => String::from_utf8_lossy(reply.as_bytes().unwrap()).into_owned(),
        }
    };
}

fn getter(client: &mut Client) -> impl FnMut(&[&str]) -> String {
    |args| text!(client.call(args))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_deleted_meanwhile_is_removed() {
    let (source, target) = (forgetful(any().unwrap()), Server::any().unwrap());
    let mut client = target.client().unwrap();
    let there = |args: &[&str]| drop(client.call(args).unwrap());
    let finished = twice(&source, &target.url(), there, Mirror::Owned).await;
    let mut client = target.client().unwrap();
    let counts = check(&finished, &mut getter(&mut client));
    assert_eq!((counts.removed, counts.kept), (1001, 1), "{counts:?}");
    assert_eq!(counts.samples.len(), 8);
    assert_eq!(client.int(&["EXISTS", "theirs"]).unwrap(), 1);
    assert_eq!(client.int(&["EXISTS", "added", "key:0", "key:999"]).unwrap(), 0);
    assert_eq!(client.int(&["DBSIZE"]).unwrap(), source.client().unwrap().int(&["DBSIZE"]).unwrap() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_the_source_does_not_have_is_removed_from_a_cluster() {
    let source = forgetful(any().unwrap());
    let target = Cluster::builder(any().unwrap()).primaries(3).start().unwrap();
    let mut client = target.client().unwrap();
    let there = |args: &[&str]| drop(client.call(args).unwrap());
    let finished = twice(&source, &target.url(), there, Mirror::All).await;
    let mut client = target.client().unwrap();
    let counts = check(&finished, &mut |args| text!(client.call(args)));
    assert_eq!((counts.removed, counts.kept), (1002, 0), "{counts:?}");
    let keys = source.client().unwrap().int(&["DBSIZE"]).unwrap();
    assert_eq!(i64::try_from(target.keys().unwrap()).unwrap(), keys);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_where_that_is_not_wanted() {
    let (source, target) = (forgetful(any().unwrap()), Server::any().unwrap());
    let mut client = target.client().unwrap();
    let there = |args: &[&str]| drop(client.call(args).unwrap());
    let finished = twice(&source, &target.url(), there, Mirror::Off).await;
    assert_eq!(finished.report.mirror, MirrorCounts::default());
    let mut client = target.client().unwrap();
    assert_eq!(client.int(&["EXISTS", "theirs", "added", "key:0"]).unwrap(), 3);
    assert_eq!(client.int(&["LLEN", "list"]).unwrap(), 3);
}
