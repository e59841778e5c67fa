//! One writer a migration: others are refused before they write anything.

use std::time::{Duration, Instant};

use keyferry_migrate::{Delivery, Error, Migration, Phase};
use keyferry_testkit::Server;
use tokio::task::block_in_place;

use crate::{
    resume::process,
    support::{PATIENCE, Running, any, run},
};

fn value(server: &Server, key: &str) -> Option<Vec<u8>> {
    server.client().unwrap().bytes(&["GET", key]).unwrap().map(|value| value.to_vec())
}

/// Waits until the target has what the source is given now.
fn comes(source: &Server, target: &Server, key: &str) {
    source.client().unwrap().call(&["SET", key, "1"]).unwrap();
    let begun = Instant::now();
    while value(target, key).is_none() {
        assert!(begun.elapsed() < PATIENCE, "{key} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_refused() {
    let (source, target) = (any(), any());
    let _first = process(&source.url(), &target.url(), "one", Delivery::ExactlyOnce);
    block_in_place(|| comes(&source, &target, "a"));
    let begun = Instant::now();
    let refused = run(&source.url(), &target.url(), |o| o.id = Some("one".to_owned())).await;
    let error = refused.result.unwrap_err();
    let Error::Fenced { holder, .. } = &error else { panic!("{error}") };
    assert!(holder.contains('.') && error.to_string().contains("one"), "{error}");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(refused.report.figures.bytes_sent, 0);
    // The first one does not even notice.
    block_in_place(|| comes(&source, &target, "b"));
    // Under another name it is another migration, of which the target may have several.
    run(&source.url(), &target.url(), |o| o.id = Some("two".to_owned())).await.result.unwrap();
}

/// A process that was asleep while another took over writes nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_asleep_is_refused_when_it_wakes() {
    let (source, target) = (any(), any());
    let mut asleep = process(&source.url(), &target.url(), "asleep", Delivery::ExactlyOnce);
    block_in_place(|| comes(&source, &target, "a"));
    asleep.signal("STOP");
    let mut client = source.client().unwrap();
    // What it finds when it wakes.
    for _ in 0..1000 {
        client.call(&["INCR", "n"]).unwrap();
    }
    // Nobody renews it, so this is what happens a few seconds later.
    target.client().unwrap().call(&["DEL", "keyferry:owner:{asleep}"]).unwrap();
    let mut second = Running::start(&source.url(), &target.url(), |o| o.id = Some("asleep".to_owned()));
    second.until_phase(Phase::Following).await;
    asleep.signal("CONT");
    assert!(!block_in_place(|| asleep.wait(PATIENCE)), "it ended as if nothing had happened");
    for _ in 0..1000 {
        client.call(&["INCR", "n"]).unwrap();
    }
    block_in_place(|| comes(&source, &target, "b"));
    assert_eq!(value(&target, "n").unwrap(), b"2000");
    second.stopper.stop();
    second.end().await.result.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_goes_on_with_a_migration_that_was_closed() {
    let (source, target) = (any(), any());
    let mut running = Running::start(&source.url(), &target.url(), |o| o.id = Some("closed".to_owned()));
    running.until_phase(Phase::Following).await;
    let mut migration = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    migration.options_mut().id = Some("closed".to_owned());
    migration.fence("the applications write there").await.unwrap();
    let is_closed =
        |error: &Error| matches!(error, Error::FencedForGood { why, .. } if why.contains("applications"));
    let error = running.end().await.result.unwrap_err();
    assert!(is_closed(&error), "{error}");
    let error =
        run(&source.url(), &target.url(), |o| o.id = Some("closed".to_owned())).await.result.unwrap_err();
    assert!(is_closed(&error), "{error}");
    source.client().unwrap().call(&["SET", "late", "1"]).unwrap();
    assert_eq!(value(&target, "late"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sides_under_the_same_name_are_refused() {
    let (source, other, target) = (any(), any(), any());
    for server in [&source, &other] {
        server.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    }
    let mut running = Running::start(&source.url(), &target.url(), |o| o.id = Some("named".to_owned()));
    running.until_phase(Phase::Following).await;
    running.stopper.stop();
    running.end().await.result.unwrap();
    let error =
        run(&other.url(), &target.url(), |o| o.id = Some("named".to_owned())).await.result.unwrap_err();
    assert!(matches!(error, Error::OtherSource { .. }), "{error}");
    assert!(error.to_string().contains(&source.url()) && error.to_string().contains(&other.url()), "{error}");
    // As if the target were a copy of another one.
    let state = "keyferry:migration:{named}";
    target.client().unwrap().call(&["HSET", state, "target", "redis://elsewhere:1"]).unwrap();
    let error =
        run(&source.url(), &target.url(), |o| o.id = Some("named".to_owned())).await.result.unwrap_err();
    assert!(matches!(error, Error::OtherTarget { .. }), "{error}");
    let error =
        run(&source.url(), &target.url(), |o| o.id = Some("not a name".to_owned())).await.result.unwrap_err();
    assert!(matches!(error, Error::InvalidId { .. }), "{error}");
}
