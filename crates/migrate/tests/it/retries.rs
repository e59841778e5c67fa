//! What passes is waited for: a target that is full, is a replica for a while, or is restarted.

use std::time::Duration;

use keyferry_migrate::{Error, OnError, Phase, Progress};
use keyferry_testkit::{
    Server,
    data::{self, Writer, WriterOptions},
};
use tokio::task::block_in_place;

use crate::{
    clusters::ends::End,
    support::{Running, any, assert_equal, offset_of},
};

/// Migrates while the source is written to and `trouble` is made at the target and taken away; everything is there once.
async fn goes_on_after(
    what: &str,
    mut target: Server,
    make: impl FnOnce(&mut Server),
    end: impl FnOnce(&mut Server),
) {
    let source = any();
    block_in_place(|| data::small(&mut source.client().unwrap(), 3, 3).unwrap());
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    let options = WriterOptions { rate: 1500, short_expiries: false, ..WriterOptions::default() };
    let writer = block_in_place(|| Writer::start(&source, options).unwrap());
    block_in_place(|| make(&mut target));
    running.until("trouble", |p| p.figures().trouble.is_some()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    block_in_place(|| end(&mut target));
    let mut client = source.client().unwrap();
    let offset = block_in_place(|| {
        let counts = writer.stop().unwrap();
        assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
        data::settle(&mut client).unwrap();
        offset_of(&mut client)
    });
    running.until_applied(offset).await;
    running.until("nothing in the way", |p| p.figures().trouble.is_none()).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    block_in_place(|| assert_equal(&source, &target, what));
}

fn call(server: &Server, args: &[&str]) {
    server.client().unwrap().call(args).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_full_gets_room() {
    let full = |target: &mut Server| call(target, &["CONFIG", "SET", "maxmemory", "1mb"]);
    let room = |target: &mut Server| call(target, &["CONFIG", "SET", "maxmemory", "0"]);
    goes_on_after("full for a while", any(), full, room).await;
}

/// Full when the migration is entered there, and again when the snapshot comes, which begins with function libraries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_full_from_the_start_gets_room() {
    let (source, target) = (any(), any());
    let full = |size: &str| call(&target, &["CONFIG", "SET", "maxmemory", size]);
    block_in_place(|| {
        data::small(&mut source.client().unwrap(), 3, 3).unwrap();
        // The snapshot does not come before it is told to.
        call(&source, &["CONFIG", "SET", "repl-diskless-sync", "yes"]);
        call(&source, &["CONFIG", "SET", "repl-diskless-sync-delay", "600"]);
        full("1mb");
    });
    let mut running = Running::start(&source.url(), &target.url(), |options| options.look_first = false);
    let is_full = |p: &Progress| p.figures().trouble.is_some_and(|why| why.contains("OOM"));
    running.until("no room at the start", is_full).await;
    block_in_place(|| full("0"));
    let entered = || target.client().unwrap().int(&["DBSIZE"]).unwrap() > 0;
    running.until("the migration is entered", |_| block_in_place(entered)).await;
    block_in_place(|| {
        full("1mb");
        call(&source, &["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    });
    running.until("no room for the snapshot", is_full).await;
    block_in_place(|| full("0"));
    running.until_phase(Phase::Following).await;
    running.until("nothing in the way", |p| p.figures().trouble.is_none()).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    block_in_place(|| assert_equal(&source, &target, "full from the start"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_a_replica_for_a_while() {
    let port = keyferry_testkit::unused_port().unwrap().to_string();
    let replica = move |target: &mut Server| call(target, &["REPLICAOF", "127.0.0.1", &port]);
    let primary = |target: &mut Server| call(target, &["REPLICAOF", "NO", "ONE"]);
    goes_on_after("a replica for a while", any(), replica, primary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_restarted() {
    let binary = keyferry_testkit::any().unwrap();
    let target = Server::builder(binary).append_only("always").start().unwrap();
    let kill = |target: &mut Server| target.kill9();
    let start = |target: &mut Server| target.restart().unwrap();
    goes_on_after("restarted", target, kill, start).await;
}

/// What stands behind a refused command in its transaction is executed by servers; so the command cannot be tried again in
/// its place, and is not left out without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_command_is_not_passed_over_silently() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    client.call(&["SET", "a", "1"]).unwrap();
    let start = |skip: bool| {
        Running::start(&source.url(), &target.url(), |o| {
            o.id = Some("refused".to_owned());
            o.skip_refused = skip;
        })
    };
    let mut running = start(false);
    running.until_phase(Phase::Following).await;
    call(&target, &["SET", "queue", "not a list"]);
    client.pipe(&[&["MULTI"][..], &["RPUSH", "queue", "job"], &["INCR", "n"], &["EXEC"]]).unwrap();
    let error = running.end().await.result.unwrap_err();
    assert!(matches!(&error, Error::Refused(refusal) if refusal.passed), "{error}");
    let error = start(false).end().await.result.unwrap_err();
    assert!(
        matches!(&error, Error::WasRefused { refused, .. } if refused.contains("RPUSH queue job")),
        "{error}"
    );
    let mut running = start(true);
    client.call(&["INCR", "n"]).unwrap();
    let offset = offset_of(&mut client);
    running.until_applied(offset).await;
    running.stopper.stop();
    let finished = running.end().await;
    finished.result.unwrap();
    assert!(
        finished.report.notes.iter().any(|note| note.contains("RPUSH queue job")),
        "{:?}",
        finished.report.notes
    );
    assert_eq!(target.client().unwrap().text(&["GET", "n"]).unwrap(), "2");
    // Told once.
    let mut running = start(false);
    running.until_phase(Phase::Following).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
}

/// Commands that are refused for good go to a file, one by one, and everything around them is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_commands_go_to_a_file() {
    let binary = keyferry_testkit::any().unwrap();
    for cluster in [false, true] {
        let source = any();
        let target = match cluster {
            true => End::cluster(binary, 0),
            // What it does not know is refused before anything of the transaction is executed.
            false => End::Server(Box::new(
                Server::builder(binary).config("rename-command", "SETRANGE \"\"").start().unwrap(),
            )),
        };
        let at_target = |args: &[&str]| match &target {
            End::Cluster(cluster) => cluster.client().unwrap().call(args).unwrap(),
            one => one.client().call(args).unwrap(),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("letters");
        let mut client = source.client().unwrap();
        client.call(&["SET", "a", "1"]).unwrap();
        let mut running = Running::start(&source.url(), &target.url(), |o| {
            o.on_error = OnError::DeadLetter(file.clone());
        });
        running.until_phase(Phase::Following).await;
        block_in_place(|| at_target(&["SET", "{t}queue", "not a list"]));
        let mut commands: Vec<Vec<&str>> = vec![vec!["MULTI"]];
        commands.push(vec!["RPUSH", "{t}queue", "job 1"]);
        commands.push(vec!["INCR", "{t}n"]);
        commands.push(vec!["RPUSH", "{t}queue", "job 2"]);
        commands.push(vec!["EXEC"]);
        commands.push(vec!["INCR", "n"]);
        if !cluster {
            commands.push(vec!["SETRANGE", "text", "0", "x"]);
        }
        commands.push(vec!["INCR", "n"]);
        commands.push(vec!["LPUSH", "{t}queue", "job 3"]);
        commands.push(vec!["INCR", "{t}n"]);
        client.pipe(&commands).unwrap();
        let offset = offset_of(&mut client);
        running.until_applied(offset).await;
        running.stopper.stop();
        let finished = running.end().await;
        finished.result.unwrap();
        let counts = &finished.report.routing.dead_letters;
        assert_eq!(counts.get("WRONGTYPE"), Some(&3), "{counts:?}");
        assert_eq!(counts.get("ERR").copied().unwrap_or(0), u64::from(!cluster), "{counts:?}");
        let letters = std::fs::read_to_string(&file).unwrap();
        for wanted in ["job 1", "job 2", "job 3", "#ERROR:WRONGTYPE", "#OFFSET:"] {
            assert!(letters.contains(wanted), "{letters}");
        }
        assert_eq!(letters.contains("SETRANGE"), !cluster);
        assert!(!letters.contains("INCR"), "{letters}");
        block_in_place(|| {
            for key in ["n", "{t}n"] {
                assert_eq!(at_target(&["GET", key]).as_str(), Some("2"), "{key}");
            }
        });
    }
}

/// A target that has forgotten everything must not be filled up from the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_has_lost_its_data_is_noticed() {
    let (source, mut target) = (any(), any());
    call(&source, &["SET", "a", "1"]);
    let mut running = Running::start(&source.url(), &target.url(), |_| {});
    running.until_phase(Phase::Following).await;
    block_in_place(|| {
        target.kill9();
        target.restart().unwrap();
        call(&source, &["SET", "b", "1"]);
    });
    let error = running.end().await.result.unwrap_err();
    assert!(matches!(error, Error::StateGone { .. }), "{error}");
    assert_eq!(target.client().unwrap().int(&["EXISTS", "b"]).unwrap(), 0);
}
