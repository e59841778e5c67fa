//! What is refused, and what ends a run in both directions.

use keyferry_migrate::{
    Delivery, Error, Expiry, OnError, OnExists, Worker,
    two_way::{Policy, TwoWay},
};
use keyferry_testkit::Server;
use tokio::task::block_in_place;

use super::{Both, call, equal, get};
use crate::support::{any, bookkeeping, offset_of};

async fn refused(change: impl Fn(&mut TwoWay)) -> String {
    let (source, target) = (any(), any());
    let before = looked_at(&source.url(), &target.url(), &change).await;
    let ended = Both::start(&source.url(), &target.url(), Policy::Report, change).end().await;
    let Err(Error::TwoWay { why }) = &ended.result else { panic!("{:?}", ended.result) };
    assert_eq!((bookkeeping(&source), bookkeeping(&target), ended.report.ready), (0, 0, false));
    // Who looks first hears the same.
    assert_eq!(before.as_ref(), Some(why));
    why.clone()
}

/// What is refused when both sides are looked at only.
async fn looked_at(source: &str, target: &str, change: &impl Fn(&mut TwoWay)) -> Option<String> {
    let mut both = TwoWay::new(source.parse().unwrap(), target.parse().unwrap(), Policy::Report);
    both.options_mut().id = Some("both".to_owned());
    change(&mut both);
    match both.check().await {
        Err(Error::TwoWay { why }) => Some(why),
        looked => looked.map(|()| None).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_go_both_ways_is_refused_before_anything_is_written() {
    let mapped = |both: &mut TwoWay| both.options_mut().db_map = [(1, 2)].into();
    assert!(refused(mapped).await.contains("databases"));
    assert!(refused(|both| both.options_mut().delivery = Delivery::AtLeastOnce).await.contains("once"));
    assert!(refused(|both| both.options_mut().expiry = Expiry::HeldUntilEnd).await.contains("deadlines"));
    assert!(refused(|both| both.options_mut().on_exists = OnExists::Skip).await.contains("--on-exists"));
    let letters = |both: &mut TwoWay| both.options_mut().on_error = OnError::DeadLetter("letters".into());
    assert!(refused(letters).await.contains("dead letters"));
    let worker = |both: &mut TwoWay| both.options_mut().worker = Some(Worker::new(0, 2).unwrap());
    assert!(refused(worker).await.contains("--shard"));
    assert!(refused(|both| both.options_mut().skip_refused = true).await.contains("--skip-refused"));
    let cluster =
        block_in_place(|| Server::builder(keyferry_testkit::any().unwrap()).cluster().start().unwrap());
    let one = any();
    assert_eq!(looked_at(&one.url(), &any().url(), &|_| {}).await, None);
    for (source, target) in [(one.url(), cluster.url()), (cluster.url(), one.url())] {
        let looked = looked_at(&source, &target, &|_| {}).await;
        assert!(looked.as_ref().is_some_and(|why| why.contains("cluster")), "{looked:?}");
        let ended = Both::start(&source, &target, Policy::Report, |_| {}).end().await;
        assert!(
            matches!(&ended.result, Err(Error::TwoWay { why }) if why.contains("cluster")),
            "{:?}",
            ended.result
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_removes_the_bookkeeping_ends_it_and_is_not_carried_over() {
    for (at_source, command) in [(true, "FLUSHALL"), (false, "FLUSHDB"), (false, "SWAPDB 0 3")] {
        let (source, target) = (any(), any());
        block_in_place(|| call(&mut source.client().unwrap(), "SET kept 1"));
        let mut both = Both::between(&source, &target, Policy::Report);
        both.until_ready().await;
        let (here, there) = if at_source { (&source, &target) } else { (&target, &source) };
        block_in_place(|| call(&mut here.client().unwrap(), command));
        let ended = both.end().await;
        // The one link reads of it, and the other may be told by the target first that its state is gone.
        let told = match &ended.result {
            Err(Error::TwoWay { why }) => why.contains("keyferry:migration:{both}"),
            Err(Error::StateGone { .. }) => true,
            _ => false,
        };
        assert!(told, "{command}: {:?}", ended.result);
        assert_eq!(
            block_in_place(|| get(&mut there.client().unwrap(), "kept")).as_deref(),
            Some("1"),
            "{command}"
        );
        // Nothing is copied over what the other side has.
        let again = Both::between(&source, &target, Policy::Report).end().await;
        assert!(again.result.is_err(), "{command}");
        assert_eq!(
            block_in_place(|| get(&mut there.client().unwrap(), "kept")).as_deref(),
            Some("1"),
            "{command}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_database_may_be_emptied_and_what_meets_that_is_told() {
    // Whichever link comes second finds what the other one has passed.
    for emptied_first in [true, false] {
        let (source, target) = (any(), any());
        block_in_place(|| {
            let mut client = source.client().unwrap();
            for command in ["SET kept 1", "SELECT 3", "SET a 1", "SET b 1"] {
                call(&mut client, command);
            }
        });
        let mut both = Both::between(&source, &target, Policy::SourceWins);
        both.until_ready().await;
        both.forward.pause();
        both.back.pause();
        let ends = block_in_place(|| {
            let (mut one, mut two) = (source.client().unwrap(), target.client().unwrap());
            for command in ["SELECT 3", "FLUSHDB"] {
                call(&mut one, command);
            }
            for command in ["SELECT 3", "SET c 1"] {
                call(&mut two, command);
            }
            [offset_of(&mut one), offset_of(&mut two)]
        });
        if emptied_first {
            both.forward.resume();
            both.until("the flush", |p| p.forward().figures().applied_offset >= ends[0]).await;
            both.back.resume();
        } else {
            both.back.resume();
            both.until("the write", |p| p.back().figures().applied_offset >= ends[1]).await;
            both.forward.resume();
        }
        both.until_level(&source, &target).await;
        let finished = both.stop().await;
        finished.result.unwrap();
        let report = finished.report;
        assert_eq!((report.conflicts, report.samples[0].database), (1, 3), "{report:?}");
        assert_eq!(report.samples[0].key, if emptied_first { "c" } else { "*" });

        // Where nobody else writes, both sides are equal. What was told is not told again.
        let mut both = Both::between(&source, &target, Policy::SourceWins);
        both.until_ready().await;
        block_in_place(|| {
            let mut two = target.client().unwrap();
            for command in ["SELECT 3", "FLUSHDB"] {
                call(&mut two, command);
            }
        });
        both.until_level(&source, &target).await;
        equal(&source, &target, "emptied");
        let finished = both.stop().await;
        finished.result.unwrap();
        assert_eq!(finished.report.conflicts, 0, "{emptied_first}: {:?}", finished.report.samples);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_second_is_refused_and_a_copy_over_both_is_too() {
    let (source, target) = (any(), any());
    block_in_place(|| call(&mut source.client().unwrap(), "SET a 1"));
    let mut both = Both::between(&source, &target, Policy::Report);
    both.until_ready().await;
    let second = Both::between(&source, &target, Policy::Report).end().await;
    assert!(matches!(second.result, Err(Error::Fenced { .. })), "{:?}", second.result);
    both.stop().await.result.unwrap();
    // What belongs to it is lost on the one side.
    block_in_place(|| {
        let mut client = target.client().unwrap();
        call(&mut client, "SET a 2");
        call(&mut client, "DEL keyferry:migration:{both}");
    });
    let again = Both::between(&source, &target, Policy::Report).end().await;
    assert!(
        matches!(&again.result, Err(Error::TwoWay { why }) if why.contains("copy")),
        "{:?}",
        again.result
    );
    assert_eq!(block_in_place(|| get(&mut target.client().unwrap(), "a")).as_deref(), Some("2"));
}
