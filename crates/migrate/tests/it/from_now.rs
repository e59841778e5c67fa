//! Migrations that begin without a full copy: only what is written from then on goes over.

use keyferry_migrate::{Error, Migration, Outcome, Phase};
use keyferry_testkit::{Client, Server};
use tokio::task::block_in_place;

use crate::support::{Running, any, offset_of, run};

fn get(client: &mut Client, db: u32, key: &str) -> Option<String> {
    client.call(&["SELECT", &db.to_string()]).unwrap();
    client.bytes(&["GET", key]).unwrap().map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn incr(client: &mut Client, db: u32, key: &str, times: u32) {
    client.call(&["SELECT", &db.to_string()]).unwrap();
    for _ in 0..times {
        client.call(&["INCR", key]).unwrap();
    }
}

fn from_now(source: &Server, target: &Server) -> Running {
    Running::start(&source.url(), &target.url(), |options| {
        options.id = Some("now".to_owned());
        options.from_now = true;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_written_from_now_on_goes_over_and_once_over_restarts() {
    let (source, target) = (any(), any());
    let (mut from, mut to) = (source.client().unwrap(), target.client().unwrap());
    // What both have, in other databases than the first.
    for client in [&mut from, &mut to] {
        incr(client, 3, "n", 5);
    }
    incr(&mut from, 0, "before", 1);
    incr(&mut from, 3, "before", 1);
    let mut first = from_now(&source, &target);
    first.until_phase(Phase::Following).await;
    // The database was another one when it began.
    block_in_place(|| incr(&mut from, 3, "n", 10));
    block_in_place(|| incr(&mut from, 0, "m", 10));
    block_in_place(|| incr(&mut from, 3, "n", 1));
    first.until_applied(offset_of(&mut from)).await;
    first.stopper.stop();
    let ended = first.end().await;
    ended.result.unwrap();
    assert_eq!(ended.report.snapshot.total_keys(), 0);

    // What is written while nobody follows comes when it goes on; also where it is not told again how it began.
    block_in_place(|| incr(&mut from, 3, "n", 100));
    let again = run(&source.url(), &target.url(), |o| o.id = Some("now".to_owned())).await;
    again.result.unwrap();
    assert!(again.report.resumed && matches!(again.report.outcome, Outcome::CaughtUp { .. }));
    assert_eq!(again.report.snapshot.total_keys(), 0);
    assert_eq!(get(&mut to, 3, "n").as_deref(), Some("116"));
    assert_eq!(get(&mut to, 0, "m").as_deref(), Some("10"));
    assert_eq!((get(&mut to, 0, "before"), get(&mut to, 3, "before")), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_source_no_longer_has_is_an_error_and_never_a_full_copy() {
    let (source, target) = (any(), any());
    let (mut from, mut to) = (source.client().unwrap(), target.client().unwrap());
    from.call(&["CONFIG", "SET", "repl-backlog-size", "16384"]).unwrap();
    incr(&mut from, 0, "before", 1);
    let mut running = from_now(&source, &target);
    running.until_phase(Phase::Following).await;
    block_in_place(|| incr(&mut from, 0, "n", 3));
    running.until_applied(offset_of(&mut from)).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    block_in_place(|| incr(&mut from, 0, "n", 5000));
    for _ in 0..2 {
        let error = run(&source.url(), &target.url(), |o| o.id = Some("now".to_owned())).await.result;
        assert!(matches!(error, Err(Error::FromNowLost { .. })), "{error:?}");
    }
    assert_eq!((get(&mut to, 0, "n").as_deref(), get(&mut to, 0, "before")), (Some("3"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_with_a_full_copy_does_not_become_one_without() {
    let (source, target) = (any(), any());
    incr(&mut source.client().unwrap(), 0, "n", 1);
    // As a run leaves it that is killed inside of its snapshot.
    let state = ["HSET", "keyferry:migration:{now}", "format", "1", "link:0", "snapshot 1 0"];
    target.client().unwrap().call(&state).unwrap();
    let refused = from_now(&source, &target).end().await.result;
    let Err(Error::FromNow { why }) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("--id"), "{why}");
    let mut scanned = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    scanned.options_mut().from_now = true;
    scanned.options_mut().source_mode = keyferry_migrate::SourceMode::Scan;
    assert!(matches!(scanned.run().await.result, Err(Error::FromNow { .. })));
    assert_eq!(get(&mut target.client().unwrap(), 0, "n"), None);
}
