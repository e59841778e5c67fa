//! Keys that one side alone writes: both sides come to the same, and nothing goes round.

use std::time::{Duration, Instant};

use keyferry_migrate::two_way::{ConflictKind, Policy};
use keyferry_testkit::{
    Server, ServerBinary,
    data::{Writer, WriterOptions, settle},
};
use tokio::task::block_in_place;

use super::{Both, call, equal};
use crate::support::{PATIENCE, any, start};

/// What each side is given, in commands a second.
const RATE: u64 = 3000;
/// For so long both are not level before the source is given less.
const BEHIND: Duration = Duration::from_secs(3);

fn writer(server: &Server, first_thread: u32) -> Writer {
    let options = WriterOptions { rate: RATE, first_thread, ..WriterOptions::default() };
    Writer::start(server, options).unwrap()
}

async fn written_on_both_sides(one: &ServerBinary, two: &ServerBinary) {
    let what = format!("{} {} and {} {}", one.vendor.as_str(), one.version, two.vendor.as_str(), two.version);
    let (source, target) = (start(one), start(two));
    let first = block_in_place(|| {
        let first = writer(&source, 0);
        assert!(first.wait_for(2000, PATIENCE), "{what}");
        first
    });
    let mut both = Both::between(&source, &target, Policy::Report);
    // Where the machine is too slow for what the source is given, both would never be level.
    let (mut rate, mut since) = (RATE, Instant::now());
    both.until("both ways", |progress| {
        if since.elapsed() > BEHIND {
            (rate, since) = ((rate / 2).max(100), Instant::now());
            first.set_rate(rate);
        }
        progress.is_ready()
    })
    .await;
    let (before, _) = both.progress.counts();
    let written = block_in_place(|| {
        let second = writer(&target, 10);
        assert!(first.wait_for(4000, PATIENCE) && second.wait_for(2000, PATIENCE), "{what}");
        let written = [first.stop().unwrap(), second.stop().unwrap()];
        settle(&mut source.client().unwrap()).unwrap();
        settle(&mut target.client().unwrap()).unwrap();
        written
    });
    both.until_level(&source, &target).await;
    equal(&source, &target, &what);
    let (from_source, from_target) = both.progress.counts();
    for (counts, written) in [(&from_source, &written[0]), (&from_target, &written[1])] {
        assert_eq!(written.errors, 0, "{what}: {:?}", written.first_error);
        // Some commands change nothing, others are replicated as several.
        assert!(
            counts.own > 1000 && counts.own < 3 * written.commands,
            "{what}: {counts:?} {}",
            written.commands
        );
        assert_eq!((counts.unknown, counts.refused), (0, 0), "{what}: {counts:?}");
    }
    // What the one link has carried over the other one has left out, but for what changed nothing more.
    for (own, returned) in [
        (from_source.own - before.own, from_target.returned_commands),
        (from_target.own, from_source.returned_commands),
    ] {
        let fits = returned > own / 2 && returned < own + own / 2;
        assert!(fits, "{what}: {own} {returned} {from_source:?} {from_target:?}");
    }
    let finished = both.stop().await;
    finished.result.unwrap();
    // Keys expire on both sides, and are written anew: that is no conflict of two writes.
    let others = finished.report.samples.iter().filter(|of| of.kind != ConflictKind::Removed);
    assert_eq!(others.count(), 0, "{what}: {:?}", finished.report.samples);
}

/// Servers by these names, where there are such; any, for the first test only.
async fn written_on(one: &str, two: &str) {
    match (keyferry_testkit::named(one), keyferry_testkit::named(two)) {
        (Ok(one), Ok(two)) => written_on_both_sides(one, two).await,
        _ if one == "redis-6.0" => {
            let any = keyferry_testkit::any().unwrap();
            written_on_both_sides(any, any).await;
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_sides_write_is_on_both_and_nothing_goes_round() {
    written_on("redis-6.0", "redis-6.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_between_vendors() {
    written_on("redis-7.0", "valkey-8.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_with_fields_that_expire() {
    written_on("redis-8.0", "redis-8.0").await;
    written_on("valkey-9", "valkey-9").await;
}

/// Every command once: what is counted is what was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_carries_over_as_many_commands_as_applications_wrote() {
    let all = keyferry_testkit::all().unwrap();
    let names = ["redis-6.0", "redis-7.0", "redis-8.0", "valkey-9"];
    let mut binaries: Vec<_> = names.iter().filter_map(|name| keyferry_testkit::named(name).ok()).collect();
    if binaries.is_empty() {
        binaries.push(&all[0]);
    }
    for binary in binaries {
        let (source, target) = (start(binary), start(binary));
        let mut both = Both::between(&source, &target, Policy::Report);
        both.until_ready().await;
        block_in_place(|| {
            let (mut one, mut two) = (source.client().unwrap(), target.client().unwrap());
            for n in 0..300 {
                call(&mut one, &format!("INCR a:{}", n % 7));
                call(&mut two, &format!("RPUSH b:{} {n}", n % 5));
                // One link may stand still for a while.
                match n {
                    50 => both.back.pause(),
                    200 => both.back.resume(),
                    _ => {}
                }
                if n % 10 == 0 {
                    for command in
                        ["MULTI", "SELECT 3", "INCR t:n", "SET t:s x", "SELECT 0", "LPUSH t:l y", "EXEC"]
                    {
                        call(&mut one, command);
                    }
                    call(&mut two, "PUBLISH news hello");
                    call(&mut two, "SET short x PX 1");
                }
            }
        });
        both.until_level(&source, &target).await;
        let (from_source, from_target) = both.progress.counts();
        // What has expired is deleted by both sides for themselves, and that may come before the other's does.
        let deletions = [from_source.own - (300 + 3 * 30), from_target.own - (300 + 30 + 30)];
        assert!(
            deletions.iter().all(|&count| count <= 30),
            "{}: {from_source:?} {from_target:?}",
            binary.version
        );
        for (own, returned) in [
            (from_source.own, from_target.returned_commands),
            (from_target.own, from_source.returned_commands),
        ] {
            assert!(own.abs_diff(returned) <= 60, "{}: {from_source:?} {from_target:?}", binary.version);
        }
        equal(&source, &target, &binary.version.to_string());
        let finished = both.stop().await;
        finished.result.unwrap();
        // What expires while it is written anew.
        let others = finished.report.samples.iter().filter(|of| of.key != "short");
        assert_eq!(others.count(), 0, "{}: {:?}", binary.version, finished.report.samples);
    }
}

/// A client that waits for an element at the other side takes it there, and it is gone on both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_element_at_the_other_side_takes_it_from_both() {
    let (source, target) = (any(), any());
    let mut both = Both::between(&source, &target, Policy::Report);
    both.until_ready().await;
    block_in_place(|| {
        let mut waiting = target.client().unwrap();
        let mut from = source.client().unwrap();
        call(&mut from, "SET there 1");
        for n in 0..20 {
            waiting.queue(&["BLPOP", "jobs", "30"]).unwrap();
            waiting.flush().unwrap();
            call(&mut from, &format!("RPUSH jobs {n}"));
            let got = waiting.reply().unwrap();
            assert!(format!("{got:?}").contains(&n.to_string()), "{got:?}");
            // Who pushes the next one before it is known here that this one is gone writes to the key on both sides at once.
            let gone = from.wait_until(PATIENCE, |from| Ok(from.int(&["LLEN", "jobs"])? == 0)).unwrap();
            assert!(gone, "{n}");
        }
    });
    both.until_level(&source, &target).await;
    equal(&source, &target, "jobs");
    assert_eq!(block_in_place(|| source.client().unwrap().int(&["LLEN", "jobs"]).unwrap()), 0);
    let finished = both.stop().await;
    finished.result.unwrap();
    assert_eq!(finished.report.conflicts, 0, "{:?}", finished.report.samples);
}
