//! Keys that both sides write before either knows of the other's write.

use std::{collections::BTreeMap, sync::Barrier, time::Duration};

use keyferry_migrate::two_way::{ConflictKind, ConflictOutcome, Policy};
use keyferry_testkit::{Server, ServerBinary};
use tokio::task::block_in_place;

use super::{Both, call, equal, get};
use crate::support::{PATIENCE, offset_of, start};

/// What is done at the source and at the target, and what that is.
const PLANTED: [(&str, &str, Option<ConflictKind>); 12] = [
    ("SET set s", "SET set t", Some(ConflictKind::Written)),
    ("INCRBY counter 5", "INCRBY counter 7", Some(ConflictKind::Written)),
    ("HSET hash s 1", "HSET hash t 1", Some(ConflictKind::Written)),
    ("RPUSH list s", "LPUSH list t", Some(ConflictKind::Written)),
    ("SET type s", "HSET type t 1", Some(ConflictKind::Written)),
    ("HSET refused s 1", "LPUSH refused t", Some(ConflictKind::Written)),
    ("DEL gone-there", "APPEND gone-there t", Some(ConflictKind::Removed)),
    ("INCR gone-here", "DEL gone-here", Some(ConflictKind::Removed)),
    ("DEL gone", "UNLINK gone", None),
    ("SET only-source s", "PING", None),
    ("PING", "SADD only-target t", None),
    ("HSET fields s 1", "HDEL fields no", None),
];

/// What both sides hold before.
const BEFORE: [&str; 8] = [
    "SET counter 100",
    "HSET hash a 1 b 2",
    "RPUSH list a b",
    "SET gone-there x",
    "SET gone-here 10",
    "SET gone x",
    "SET set x",
    "HSET fields f 1",
];

async fn plant(
    one: &Server,
    two: &Server,
    policy: Policy,
) -> BTreeMap<String, (ConflictKind, ConflictOutcome)> {
    let what = format!("{policy:?} {}", one.binary().version);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("conflicts");
    block_in_place(|| {
        let mut client = one.client().unwrap();
        BEFORE.iter().for_each(|command| call(&mut client, command));
    });
    let mut both = Both::start(&one.url(), &two.url(), policy, |both| both.write_conflicts_to(&file));
    both.until_ready().await;
    both.forward.pause();
    both.back.pause();
    let written = block_in_place(|| {
        let mut one = one.client().unwrap();
        for (source, ..) in PLANTED {
            call(&mut one, source);
            for command in ["SELECT 5", "SET in-another-database s", "SELECT 0"] {
                call(&mut one, command);
            }
        }
        offset_of(&mut one)
    });
    // So that it is known which is the newer one.
    both.until("arrival", |progress| progress.forward().figures().received_offset >= written).await;
    block_in_place(|| {
        std::thread::sleep(Duration::from_millis(2));
        let mut two = two.client().unwrap();
        for (_, target, _) in PLANTED {
            call(&mut two, target);
            call(&mut two, "SET in-another-database t");
        }
    });
    both.forward.resume();
    both.back.resume();
    both.until_level(one, two).await;
    if policy != Policy::Report {
        equal(one, two, &what);
    }
    // They are no worse for it.
    block_in_place(|| {
        call(&mut one.client().unwrap(), "SET later s");
        call(&mut two.client().unwrap(), "SET set again");
    });
    both.until_level(one, two).await;
    let finished = both.stop().await;
    finished.result.unwrap();
    let report = finished.report;
    assert_eq!(
        (report.unsettled, report.from_source.unknown, report.from_target.unknown),
        (0, 0, 0),
        "{what}"
    );

    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut found = BTreeMap::new();
    for line in lines.iter().filter(|line| line["kind"] != "refused") {
        let key = line["key"].as_str().unwrap().to_owned();
        let sample =
            report.samples.iter().find(|of| of.key == key && of.kind != ConflictKind::Refused).unwrap();
        assert_eq!(line["database"], 0, "{what}: {line}");
        assert!(
            line["source"]["offset"].as_u64() > Some(0) && line["target"]["offset"].as_u64() > Some(0),
            "{line}"
        );
        assert_eq!(found.insert(key, (sample.kind, sample.outcome)), None, "{what}: {text}");
    }
    assert_eq!(report.conflicts, found.len() as u64, "{what}: {text}");
    let planted = PLANTED
        .iter()
        .filter_map(|(source, _, kind)| Some((source.split(' ').nth(1).unwrap_or("").to_owned(), (*kind)?)));
    let kinds: BTreeMap<String, ConflictKind> =
        found.iter().map(|(key, (kind, _))| (key.clone(), *kind)).collect();
    assert_eq!(kinds, planted.collect(), "{what}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_conflicts_are_all_told_and_settled_as_was_asked() {
    let named = keyferry_testkit::named("redis-6.0").or_else(|_| keyferry_testkit::any());
    planted_and_settled(named.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_conflicts_are_all_told_by_another_vendor() {
    if let Ok(valkey) = keyferry_testkit::named("valkey-9") {
        planted_and_settled(valkey).await;
    }
}

async fn planted_and_settled(binary: &ServerBinary) {
    for policy in [Policy::SourceWins, Policy::TargetWins, Policy::Newest] {
        let (one, two) = (start(binary), start(binary));
        let found = plant(&one, &two, policy).await;
        let wins = if policy == Policy::SourceWins { "s" } else { "t" };
        let mut client = one.client().unwrap();
        let (kept, typed) = block_in_place(|| {
            let typed = client.text(&["TYPE", "refused"]).unwrap();
            (get(&mut client, "counter"), typed)
        });
        let outcome = if wins == "s" { ConflictOutcome::SourceWins } else { ConflictOutcome::TargetWins };
        for key in ["set", "counter", "hash", "list", "type"] {
            assert_eq!(found[key].1, outcome, "{policy:?} {key}");
        }
        // The winner's write is the last that was done to it; the loser's may be below.
        let winners = if wins == "s" { ["105", "112"] } else { ["107", "112"] };
        assert!(winners.contains(&kept.as_deref().unwrap_or("")), "{policy:?} {kept:?}");
        // Each is refused by the other side. Which is the newer one is not known then.
        assert!(policy == Policy::Newest || found["refused"].1 == outcome);
        let typed = if policy == Policy::Newest { "list" } else { &typed };
        assert_eq!(typed, if wins == "s" { "hash" } else { "list" }, "{policy:?}");
        // A deletion never wins.
        let gone = block_in_place(|| (get(&mut client, "gone-there"), get(&mut client, "gone-here")));
        assert!(gone.0.is_some() && gone.1.is_some(), "{policy:?} {gone:?}");
    }
    let (one, two) = (start(binary), start(binary));
    let found = plant(&one, &two, Policy::Report).await;
    assert!(
        found
            .iter()
            .all(|(key, (_, outcome))| { key.starts_with("gone") || *outcome == ConflictOutcome::Both })
    );
    let (mut one, mut two) = (one.client().unwrap(), two.client().unwrap());
    let counters = block_in_place(|| (get(&mut one, "counter"), get(&mut two, "counter")));
    assert_eq!((counters.0.as_deref(), counters.1.as_deref()), (Some("112"), Some("112")));
}

/// Both sides write to the same few keys all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_on_both_sides_all_the_time_comes_to_the_same() {
    for policy in [Policy::SourceWins, Policy::Newest] {
        let binary = keyferry_testkit::any().unwrap();
        let (one, two) = (start(binary), start(binary));
        let mut both = Both::between(&one, &two, policy);
        both.until_ready().await;
        // Neither is done before the other one has begun.
        let level = Barrier::new(2);
        block_in_place(|| {
            std::thread::scope(|scope| {
                for (server, name) in [(&one, "s"), (&two, "t")] {
                    let level = &level;
                    scope.spawn(move || {
                        let mut client = server.client().unwrap();
                        for n in 0..1500 {
                            if n % 50 == 0 {
                                level.wait();
                            }
                            let key = n % 5;
                            match n % 7 {
                                0 => call(&mut client, &format!("SET k:{key} {n}")),
                                1 => call(&mut client, &format!("DEL h:{key}")),
                                2 => call(&mut client, &format!("RPUSH l:{key} {name}{n}")),
                                3 => call(&mut client, &format!("SET k:{key} {n} PX 2")),
                                4 => {
                                    for command in [
                                        "MULTI",
                                        &format!("HSET h:{key} f {n}"),
                                        &format!("LPOP l:{key}"),
                                        "EXEC",
                                    ] {
                                        call(&mut client, command);
                                    }
                                }
                                5 => call(&mut client, &format!("RPOPLPUSH l:{key} l:{}", (key + 1) % 5)),
                                _ => call(&mut client, &format!("HSET h:{key} {name} {n}")),
                            }
                        }
                        call(&mut client, &format!("SET end:{name} 1"));
                    });
                }
            });
            for server in [&one, &two] {
                let mut client = server.client().unwrap();
                let gone = client.wait_until(PATIENCE, |client| {
                    (0..5).try_fold(true, |all, n| Ok(all && client.int(&["PTTL", &format!("k:{n}")])? < 0))
                });
                assert!(gone.unwrap());
            }
        });
        both.until_level(&one, &two).await;
        equal(&one, &two, &format!("{policy:?}"));
        let finished = both.stop().await;
        finished.result.unwrap();
        assert!(
            finished.report.conflicts > 10 && finished.report.settled > 10,
            "{:?}",
            finished.report.conflicts
        );
        assert_eq!(finished.report.unsettled, 0);
    }
}
