//! The program is killed, and another run goes on.

use std::time::{Duration, Instant};

use keyferry_migrate::two_way::{Policy, TwoWay};
use keyferry_testkit::{Direction, Proxy, Server};
use tokio::task::block_in_place;

use super::{Both, call, equal, get};
use crate::support::{PATIENCE, Process, any};

/// Tells the test `a_process` what to do.
const TOLD: &str = "KEYFERRY_TEST_TWO_WAY";

/// Both links in a process of their own.
fn process(source: &str, target: &str) -> Process {
    Process::start("two_way::killed::a_process", (TOLD, format!("{source} {target}")))
}

/// No test by itself: what [`process`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let (source, target) = told.split_once(' ').unwrap();
    let mut both = TwoWay::new(source.parse().unwrap(), target.parse().unwrap(), Policy::SourceWins);
    both.options_mut().id = Some("both".to_owned());
    both.run().await.result.unwrap();
}

/// Waits until what is written on each side from now on comes to the other.
fn wait_until_both_go(source: &Server, target: &Server, probe: &str) {
    for (from, to, side) in [(source, target, "s"), (target, source, "t")] {
        let key = format!("probe:{probe}:{side}");
        let begun = Instant::now();
        let (mut from, mut to) = (from.client().unwrap(), to.client().unwrap());
        while get(&mut to, &key).is_none() {
            call(&mut from, &format!("SET {key} 1"));
            assert!(begun.elapsed() < PATIENCE, "{key} does not come over");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_killed_is_gone_on_with_and_each_write_is_there_once() {
    let (source, target) = (any(), any());
    block_in_place(|| {
        let writes = |server: &Server, name: &str, from: u64, count: u64| {
            let mut client = server.client().unwrap();
            for n in from..from + count {
                call(&mut client, &format!("INCR n:{name}:{}", n % 3));
                call(&mut client, &format!("RPUSH l:{name} {n}"));
            }
        };
        writes(&source, "s", 0, 10);
        for round in 0..4 {
            let mut running = process(&source.url(), &target.url());
            wait_until_both_go(&source, &target, &round.to_string());
            std::thread::scope(|scope| {
                scope.spawn(|| writes(&source, "s", 1000 * round, 400));
                scope.spawn(|| writes(&target, "t", 1000 * round, 400));
                std::thread::sleep(Duration::from_millis(20 + 30 * round));
                running.kill();
            });
        }
    });
    let mut both = Both::between(&source, &target, Policy::SourceWins);
    both.until_ready().await;
    both.until_level(&source, &target).await;
    equal(&source, &target, "killed");
    block_in_place(|| {
        let mut client = target.client().unwrap();
        assert_eq!(client.int(&["LLEN", "l:s"]).unwrap(), 10 + 4 * 400);
        assert_eq!(client.int(&["LLEN", "l:t"]).unwrap(), 4 * 400);
        let sum: u64 =
            (0..3).map(|n| get(&mut client, &format!("n:s:{n}")).unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(sum, 10 + 4 * 400);
    });
    let finished = both.stop().await;
    finished.result.unwrap();
    assert_eq!(finished.report.conflicts, 0, "{:?}", finished.report.samples);
    assert!(finished.report.forward.unwrap().resumed && finished.report.back.unwrap().resumed);
}

/// One of two writes that meet was carried over by the run before, the other one was not even read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_meet_across_a_kill_are_found() {
    for policy in [Policy::Report, Policy::SourceWins] {
        let (source, target) = (any(), any());
        let (here, there) = (Proxy::start(source.addr()).unwrap(), Proxy::start(target.addr()).unwrap());
        let urls = [&here, &there].map(|proxy| format!("redis://{}", proxy.addr()));
        block_in_place(|| {
            let mut running = process(&urls[0], &urls[1]);
            wait_until_both_go(&source, &target, "first");
            // Nothing more is heard of the target.
            there.stall(Direction::FromTarget, true);
            call(&mut target.client().unwrap(), "SET k t");
            call(&mut source.client().unwrap(), "SET k s");
            let mut client = target.client().unwrap();
            let come = client.wait_until(PATIENCE, |client| Ok(get(client, "k").as_deref() == Some("s")));
            assert!(come.unwrap());
            running.kill();
            there.stall(Direction::FromTarget, false);
        });
        let mut both = Both::start(&urls[0], &urls[1], policy, |_| {});
        both.until_ready().await;
        both.until_level(&source, &target).await;
        let conflicts = both.progress.conflicts();
        if policy == Policy::SourceWins {
            equal(&source, &target, "across a kill");
            assert_eq!(block_in_place(|| get(&mut target.client().unwrap(), "k")).as_deref(), Some("s"));
        }
        let finished = both.stop().await;
        finished.result.unwrap();
        assert_eq!((conflicts, finished.report.conflicts), (1, 1), "{:?}", finished.report.samples);
        assert_eq!(finished.report.samples[0].key, "k");
    }
}

/// What was to be settled is settled by the next run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_being_settled_is_settled_by_the_next_run() {
    let (source, target) = (any(), any());
    let mut both = Both::between(&source, &target, Policy::SourceWins);
    both.until_ready().await;
    both.stop().await.result.unwrap();
    block_in_place(|| {
        call(&mut source.client().unwrap(), "SET k s");
        call(&mut target.client().unwrap(), "SET k t");
        // As a run leaves it that is killed behind having found it.
        call(&mut target.client().unwrap(), "SET other t");
        let field = ["HSET", "keyferry:two-way:{both}", "0:1:6f74686572", "source leaves"];
        target.client().unwrap().call(&field).unwrap();
    });
    let mut both = Both::between(&source, &target, Policy::SourceWins);
    both.until_ready().await;
    both.until_level(&source, &target).await;
    equal(&source, &target, "settled later");
    let finished = both.stop().await;
    finished.result.unwrap();
    assert_eq!((finished.report.conflicts, finished.report.settled), (1, 2), "{:?}", finished.report.samples);
    let left =
        block_in_place(|| target.client().unwrap().list(&["HKEYS", "keyferry:two-way:{both}"]).unwrap());
    assert!(left.iter().all(|field| field.as_str() == Some("mark")), "{left:?}");
}
