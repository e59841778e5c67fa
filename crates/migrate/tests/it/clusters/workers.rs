//! Several workers that carry over one cluster together, each with some of its slots.

use std::{sync::Arc, time::Duration};

use keyferry_migrate::{
    Error, Expiry, Finished, Migration, OnExists, Options, Outcome, Phase, Report, SourceMode, Until, Worker,
    cutover::Cutover,
    rewrite::{Rewrite, Rewriter, Script, Seen, Sent},
};
use keyferry_routing::tag_for_slot;
use keyferry_testkit::{ServerBinary, data::WriterOptions};
use tokio::task::block_in_place;

use super::{End, compare, servers, wait_for};
use crate::support::{Running, run};

const ID: &str = "fleet";

fn worker(index: u16, of: u16) -> Option<Worker> {
    Some(Worker::new(index, of).unwrap())
}

/// A script of which nothing but its being there matters.
#[derive(Debug)]
struct Passing;

impl Rewrite for Passing {
    fn begin(&self) -> Result<Box<dyn Rewriter>, String> {
        Ok(Box::new(Passing))
    }

    fn name(&self) -> &str {
        "passing"
    }

    fn fingerprint(&self) -> String {
        "passing".to_owned()
    }
}

impl Rewriter for Passing {
    fn rewrite(&mut self, _: &Seen<'_>, _: &mut Sent) -> Result<(), String> {
        Err("never run".to_owned())
    }
}

fn start(source: &End, target: &End, index: u16, of: u16) -> Running {
    Running::start(&source.url(), &target.url(), |o| {
        (o.worker, o.id) = (worker(index, of), Some(ID.to_owned()));
    })
}

/// What the source is given, in commands a second.
const RATE: u64 = 3000;

fn writing() -> WriterOptions {
    WriterOptions { rate: RATE, databases: 1, short_expiries: false, ..WriterOptions::default() }
}

/// Ends it when all is written. Before, it might end while the writer waits for the shard of another one.
async fn caught_up(running: Running, what: &str) -> Report {
    running.stopper.stop_when_caught_up();
    let Finished { result, report, .. } = running.end().await;
    result.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(report.outcome, Outcome::CaughtUp { source_was_writing: false }, "{what}");
    report
}

/// Two workers, of which one has two shards, between which slots move meanwhile.
async fn two_workers(binary: &ServerBinary, target: &mut End) {
    let mut source = End::cluster(binary, 0);
    source.fill(1);
    let writer = block_in_place(|| source.write(writing()));
    let mut both = [start(&source, target, 0, 2), start(&source, target, 1, 2)];
    for running in &mut both {
        running.until_following(&writer, RATE).await;
    }
    block_in_place(|| {
        source.nodes().move_slots(0..=40, 2).unwrap();
        wait_for(&writer, 2000);
        assert_eq!(writer.stop().unwrap().errors, 0);
        source.settle();
    });
    let [first, second] = both;
    let (first, second) = (caught_up(first, "the first").await, caught_up(second, "the second").await);
    assert_eq!((&first.id[..], &second.id[..]), ("fleet.0-of-2", "fleet.1-of-2"));
    assert!(first.routing.slots_moved >= 41 && second.routing.slots_moved == 0, "{:?}", first.routing);
    // Nothing of the division, nor of any worker, is left.
    block_in_place(|| compare(&source, target, None, None, "two workers"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_to_a_cluster() {
    for binary in servers("redis-7.0") {
        two_workers(binary, &mut End::cluster(binary, 0)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_to_one_server() {
    for binary in servers("valkey-8.1") {
        two_workers(binary, &mut End::server(binary)).await;
    }
}

/// Slots go from the shard of one worker to that of another. The first ends and says so; started again, it reads both shards, and copies
/// its own slots anew; the other ones go on, and touch nothing of these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_go_to_the_shard_of_another_worker() {
    for binary in servers("valkey-9") {
        let (mut source, target) = (End::cluster(binary, 0), End::cluster(binary, 0));
        source.fill(1);
        let writer = block_in_place(|| source.write(writing()));
        let mut all = [0, 1, 2].map(|index| start(&source, &target, index, 3));
        for running in &mut all {
            running.until_following(&writer, RATE).await;
        }
        let mut client = source.nodes().client().unwrap();
        let mut count = || {
            let keys = (0..=20).map(|slot| format!("counter:{{{}}}", tag_for_slot(slot)));
            let counts: Vec<_> = keys.map(|key| ["INCR".to_owned(), key]).collect();
            client.pipe(&counts).unwrap();
        };
        block_in_place(|| {
            count();
            wait_for(&writer, 1000);
            source.nodes().move_slots(0..=20, 1).unwrap();
            count();
        });
        let [first, second, third] = all;
        let Finished { result, report, .. } = first.end().await;
        let Err(Error::WorkerSlotsLeft { .. }) = result else { panic!("{result:?} {report:?}") };
        assert!(result.unwrap_err().to_string().contains("start it again"));
        let mut first = start(&source, &target, 0, 3);
        first.until_following(&writer, RATE).await;
        block_in_place(|| {
            count();
            wait_for(&writer, 1000);
            assert_eq!(writer.stop().unwrap().errors, 0);
            source.settle();
        });
        let first = caught_up(first, "the first").await;
        let (second, third) = (caught_up(second, "the second").await, caught_up(third, "the third").await);
        assert!(
            first.notes.iter().any(|note| note.contains("everything is copied anew")),
            "{:?}",
            first.notes
        );
        assert!(first.snapshot.of_other_workers > 100, "{:?}", first.snapshot);
        assert!(first.mirror.resyncs > 0, "{:?}", first.mirror);
        let of_others = [&first, &second].map(|report| report.routing.of_other_workers);
        assert!(of_others.iter().all(|&count| count > 0), "{of_others:?}");
        assert_eq!(third.routing.of_other_workers + second.restarts + third.restarts, 0);
        block_in_place(|| compare(&source, &target, None, None, "slots went to another worker"));
    }
}

/// What a worker does to the whole target, as putting deadlines or looking at what is there, it does to its own slots only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_touches_its_own_slots_only() {
    for binary in servers("redis-7.0") {
        let (source, target) = (End::cluster(binary, 0), End::server(binary));
        let End::Cluster(cluster) = &source else { unreachable!() };
        let keys: Vec<String> = (0..300).map(|n| format!("key:{n}")).collect();
        let owner = |key: &str| cluster.owner(keyferry_routing::slot(key.as_bytes())).unwrap();
        block_in_place(|| {
            let mut client = cluster.client().unwrap();
            let sets: Vec<_> = keys.iter().map(|key| ["SET", key, "x", "EX", "100000"]).collect();
            client.pipe(&sets).unwrap();
        });
        let deadlines = || {
            let mut client = target.client();
            let asked: Vec<_> = keys.iter().map(|key| ["PTTL", key]).collect();
            client.pipe(&asked).unwrap().iter().map(|left| left.as_i64().unwrap()).collect::<Vec<i64>>()
        };
        // The second is behind, as far as deadlines tell.
        let mut second = Running::start(&source.url(), &target.url(), |o| {
            (o.worker, o.id, o.expiry) = (worker(1, 3), Some(ID.to_owned()), Expiry::HeldUntilEnd);
        });
        second.until_phase(Phase::Following).await;
        // What must not be repeated there has a checkpoint in its slot.
        let slot = *block_in_place(|| cluster.slots(1).unwrap())[0].start();
        let counter = format!("counter:{{{}}}", tag_for_slot(slot));
        let checkpoint = format!("keyferry:checkpoint:{{{}}}", tag_for_slot(slot));
        let there = |key: &str| block_in_place(|| target.client().int(&["EXISTS", key]).unwrap() == 1);
        block_in_place(|| cluster.client().unwrap().call(&["INCR", &counter]).unwrap());
        second.until("the counter", |_| there(&counter)).await;
        assert!(there(&checkpoint));
        let mut first = start(&source, &target, 0, 3);
        first.until_phase(Phase::Following).await;
        first.stopper.stop();
        first.end().await.result.unwrap();
        // It does not know where an earlier run has left some, and looks everywhere.
        let first = caught_up(start(&source, &target, 0, 3), "the first").await;
        assert!(first.expiry.searches > 0, "{:?}", first.expiry);
        assert!(there(&checkpoint));
        block_in_place(|| {
            for (key, left) in keys.iter().zip(deadlines()) {
                match owner(key) {
                    0 => assert!((1..=100_000_000).contains(&left), "{key} {left}"),
                    1 => assert!(left > 100_000_000, "{key} {left}"),
                    _ => assert_eq!(left, -2, "{key}"),
                }
            }
        });
        // What the others have written is not the third one's.
        let third = |policy| {
            Running::start(&source.url(), &target.url(), move |o| {
                (o.worker, o.id) = (worker(2, 3), Some(ID.to_owned()));
                (o.until, o.on_exists) = (Until::caught_up(), policy);
            })
        };
        let error = third(OnExists::Fail).end().await.result.unwrap_err();
        assert!(error.to_string().contains("with other rules"), "{error}");
        let third = caught_up(third(OnExists::Replace), "the third").await;
        assert_eq!(third.existing.before, Some(0));
        caught_up(second, "the second").await;
        block_in_place(|| {
            assert!(deadlines().iter().all(|left| (1..=100_000_000).contains(left)));
            compare(&source, &target, None, None, "deadlines");
        });
    }
}

/// What cannot be divided, or was divided otherwise, is refused, and says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_together_is_refused() {
    let binary = servers("redis-7.0")[0];
    let (source, target, other) = (End::cluster(binary, 0), End::server(binary), End::server(binary));
    block_in_place(|| {
        source.fill(1);
        other.fill(1);
    });
    let refused = async |from: &End, options: &dyn Fn(&mut Options), why: &str| {
        let finished = run(&from.url(), &target.url(), |o| {
            o.id = Some(ID.to_owned());
            options(o);
        })
        .await;
        let error = finished.result.unwrap_err().to_line();
        assert!(error.contains(why), "{why}: {error}");
    };
    refused(&other, &|o| o.worker = worker(0, 2), "--shard 0/2: the source is no cluster").await;
    refused(&source, &|o| o.worker = worker(3, 4), "the source has 3 primaries").await;
    let scanned = |o: &mut Options| (o.worker, o.source_mode) = (worker(0, 3), SourceMode::Scan);
    refused(&source, &scanned, "not read by PSYNC").await;
    refused(&source, &|o| (o.worker, o.from_now) = (worker(0, 3), true), "copies nothing").await;
    let scripted = |o: &mut Options| {
        (o.worker, o.script) = (worker(0, 3), Some(Arc::new(Script::new(Passing))));
    };
    refused(&source, &scripted, "a script may give keys any names").await;
    let files = vec!["none.rdb".into()];
    let mut from_files = Migration::from_files(files, target.url().parse().unwrap());
    from_files.options_mut().worker = worker(0, 3);
    assert!(matches!(from_files.run().await.result, Err(Error::NotDivisible { .. })));
    // So far nothing is there.
    assert_eq!(block_in_place(|| target.client().int(&["DBSIZE"]).unwrap()), 0);

    // One of one is as none.
    let alone = run(&other.url(), &target.url(), |o| o.worker = worker(0, 1)).await;
    alone.result.unwrap();
    block_in_place(|| target.client().call(&["FLUSHALL"]).unwrap());

    let mut first = start(&source, &target, 0, 3);
    first.until_phase(Phase::Following).await;
    refused(&source, &|o| o.worker = worker(0, 2), "carried out by 3 workers together").await;
    refused(&source, &|_| {}, "this is one process alone").await;
    refused(&source, &|o| o.worker = worker(0, 3), "belongs to another process").await;
    let mut cutover = Cutover::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    cutover.options_mut().id = Some(ID.to_owned());
    let report = cutover.run(async |_| Ok(())).await;
    assert!(format!("{:?}", report.outcome).contains("by 3 workers"), "{report:?}");
    caught_up(first, "the first").await;

    // Of a migration that one process has begun, no part is given to others.
    let mut begun = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    begun.options_mut().id = Some("alone".to_owned());
    let (progress, stopper) = (begun.progress(), begun.stopper());
    let running = tokio::spawn(begun.run());
    while progress.phase() != Phase::Following {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stopper.stop();
    running.await.unwrap().result.unwrap();
    let alone = |o: &mut Options| (o.worker, o.id) = (worker(0, 3), Some("alone".to_owned()));
    refused(&source, &alone, "carried out by one process alone").await;

    // Nobody goes on when all are closed.
    let mut fleet = Migration::new(source.url().parse().unwrap(), target.url().parse().unwrap());
    fleet.options_mut().id = Some(ID.to_owned());
    let mut second = start(&source, &target, 1, 3);
    second.until_phase(Phase::Following).await;
    fleet.fence("it is over").await.unwrap();
    let error = second.end().await.result.unwrap_err();
    assert!(matches!(error, Error::FencedForGood { .. }), "{error}");
    refused(&source, &|o| o.worker = worker(2, 3), "it is over").await;
}
