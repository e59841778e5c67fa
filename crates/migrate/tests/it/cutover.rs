//! Cutting over between real servers, and back; what is killed, late or different is put back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyferry_migrate::{
    Delivery, Error, Phase,
    cutover::{Cutover, CutoverOutcome, CutoverReport, GateVerdict, StopWrites, Verify},
};
use keyferry_testkit::Server;
use tokio::task::block_in_place;

use crate::{
    resume::process,
    support::{PATIENCE, Running, any, assert_equal, run},
};

/// A migration that is about to be cut over.
pub(crate) async fn following(source: &str, target: &str, id: &str) -> Running {
    let mut running = Running::start(source, target, |options| options.id = Some(id.to_owned()));
    running.until_phase(Phase::Following).await;
    running
}

pub(crate) fn cutover(source: &str, target: &str, id: &str) -> Cutover {
    let mut cutover = Cutover::new(source.parse().unwrap(), target.parse().unwrap());
    cutover.options_mut().id = Some(id.to_owned());
    cutover.options_mut().backlog = 4 << 20;
    cutover.options_mut().watch = Duration::from_millis(150);
    cutover
}

fn value(server: &Server, key: &str) -> Option<String> {
    let value = server.client().unwrap().bytes(&["GET", key]).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn verdict(report: &CutoverReport, gate: &str) -> GateVerdict {
    report.gates.iter().find(|of| of.name == gate).unwrap_or_else(|| panic!("{gate}: {report:?}")).verdict
}

/// Writes of which one is under way at each time, until it is dropped.
struct Writing {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Writing {
    fn start(server: &Server) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (told, mut client) = (Arc::clone(&over), server.client().unwrap());
        let thread = std::thread::spawn(move || {
            let mut written = 0;
            while !told.load(Ordering::Relaxed) {
                if client.call(&["INCR", "n"]).is_err() {
                    // Its connection was closed: what it sent last was not carried out, or not acknowledged.
                    break;
                }
                written += 1;
            }
            written
        });
        Writing { over, thread: Some(thread) }
    }

    /// Acknowledged writes.
    fn end(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_again_under_writes() {
    let (source, target) = (any(), any());
    let mut client = source.client().unwrap();
    for n in 0..200 {
        let (key, member) = (format!("k{n}"), n.to_string());
        client.call(&["SET", &key, "v", "EX", "1000"]).unwrap();
        client.call(&["SADD", "set", &member]).unwrap();
    }
    client.call(&["SELECT", "5"]).unwrap();
    client.call(&["SET", "other", "database"]).unwrap();
    let forward = following(&source.url(), &target.url(), "there").await;
    let writing = Writing::start(&source);

    let rehearsed = cutover(&source.url(), &target.url(), "there").rehearse().await;
    assert_eq!(rehearsed.outcome, CutoverOutcome::Rehearsed { ready: true }, "{rehearsed:?}");
    let switched = Arc::new(AtomicBool::new(false));
    let report = cutover(&source.url(), &target.url(), "there")
        .run(async |switch| {
            assert_eq!((switch.from, switch.to), (source.url(), target.url()));
            switched.store(true, Ordering::Relaxed);
            Ok(())
        })
        .await;
    assert_eq!(report.outcome, CutoverOutcome::CutOver, "{report:?}");
    assert!(switched.load(Ordering::Relaxed));
    let written = block_in_place(|| writing.end());
    let proof = report.proof.clone().unwrap();
    assert!(proof.equal && proof.keys > 200 && proof.leaves_open.is_none(), "{proof:?}");
    assert_eq!(value(&target, "n"), Some(written.to_string()));
    assert_equal(&source, &target, "after the cutover");
    // The writer before can never write again, whether it was at work or comes anew.
    let is_closed = |error: Error| matches!(error, Error::FencedForGood { .. });
    assert!(is_closed(forward.end().await.result.unwrap_err()));
    let again = run(&source.url(), &target.url(), |o| o.id = Some("there".to_owned())).await;
    assert!(is_closed(again.result.unwrap_err()));
    let again = cutover(&source.url(), &target.url(), "there").run(async |_| panic!("switched twice")).await;
    assert_eq!(again.outcome, CutoverOutcome::Refused);
    assert_eq!(verdict(&again, "migration"), GateVerdict::Fail);

    // The way back: what is written before it begins, and while it runs, in several databases.
    let mut new = target.client().unwrap();
    new.call(&["SELECT", "5"]).unwrap();
    new.call(&["APPEND", "other", "+"]).unwrap();
    let writing = Writing::start(&target);
    let back = cutover(&source.url(), &target.url(), "there").way_back().unwrap();
    let stopper = back.stopper();
    let progress = back.progress();
    let back = tokio::spawn(back.run());
    while progress.phase() != Phase::Following {
        assert!(!back.is_finished(), "{:?}", back.await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    new.call(&["APPEND", "other", "+"]).unwrap();
    let mut returning = Cutover::back(source.url().parse().unwrap(), target.url().parse().unwrap());
    returning.options_mut().id = Some("there".to_owned());
    returning.options_mut().backlog = 0;
    let report = returning.run(async |_| Ok(())).await;
    assert_eq!(report.outcome, CutoverOutcome::CutOver, "{report:?}");
    let more = block_in_place(|| writing.end());
    assert_eq!(value(&source, "n"), Some((written + more).to_string()));
    let mut old = source.client().unwrap();
    old.call(&["SELECT", "5"]).unwrap();
    assert_eq!(&old.bytes(&["GET", "other"]).unwrap().unwrap()[..], b"database++");
    assert_equal(&source, &target, "after the way back");
    stopper.stop();
    assert!(is_closed(back.await.unwrap().result.unwrap_err()));

    // And there once more, by the first name.
    source.client().unwrap().call(&["INCR", "n"]).unwrap();
    let forward = following(&source.url(), &target.url(), "there").await;
    let report = cutover(&source.url(), &target.url(), "there").run(async |_| Ok(())).await;
    assert_eq!(report.outcome, CutoverOutcome::CutOver, "{report:?}");
    assert_eq!(value(&target, "n"), Some((written + more + 1).to_string()));
    drop(forward.end().await);
}

/// True when the server takes a write.
fn is_written(server: &Server) -> bool {
    server.client().unwrap().call(&["SET", "written", "1"]).is_ok()
}

/// True when it does not take one at once.
fn is_held(server: &Server) -> bool {
    let mut client = server.client().unwrap();
    client.set_timeout(Duration::from_millis(500)).unwrap();
    client.call(&["SET", "written", "1"]).is_err()
}

/// Waits until the target has what the source is given now, by the stream: the first token may have come with a snapshot.
async fn follows(source: &Server, target: &Server) {
    let begun = std::time::Instant::now();
    for _ in 0..2 {
        let token = format!("{:?}", std::time::Instant::now());
        source.client().unwrap().call(&["SET", "token", &token]).unwrap();
        while value(target, "token").as_ref() != Some(&token) {
            assert!(begun.elapsed() < PATIENCE, "nothing is followed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn why(report: &CutoverReport) -> &str {
    let CutoverOutcome::PutBack { why } = &report.outcome else { panic!("{report:?}") };
    why
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_late_or_different_is_put_back_and_writes_go_on() {
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let forward = process(&source.url(), &target.url(), "put", Delivery::ExactlyOnce);
    let cut = async |change: &dyn Fn(&mut Cutover)| {
        let mut cutover = cutover(&source.url(), &target.url(), "put");
        change(&mut cutover);
        cutover.run(async |_| panic!("switched")).await
    };
    follows(&source, &target).await;
    // The migration does not answer.
    forward.signal("STOP");
    source.client().unwrap().call(&["SET", "late", "1"]).unwrap();
    let report = cut(&|cutover| cutover.options_mut().window = Duration::from_millis(700)).await;
    assert!(why(&report).contains("--window") && why(&report).contains("drain"), "{report:?}");
    assert!(is_written(&source));
    let lag = cut(&|cutover| cutover.options_mut().max_lag = 3).await;
    assert_eq!((lag.outcome.clone(), verdict(&lag, "lag")), (CutoverOutcome::Refused, GateVerdict::Fail));
    forward.signal("CONT");
    follows(&source, &target).await;

    // Both sides differ.
    let mut foreign = target.client().unwrap();
    foreign.call(&["SET", "foreign", "1"]).unwrap();
    let report = cut(&|_| ()).await;
    assert!(why(&report).contains("foreign") && is_written(&source), "{report:?}");
    let proof = report.proof.unwrap();
    assert_eq!((proof.equal, proof.differences), (false, 1));
    let report = cut(&|cutover| cutover.options_mut().verify = Verify::Counts).await;
    assert!(why(&report).contains("database 0: ") && is_written(&source), "{report:?}");
    foreign.call(&["DEL", "foreign"]).unwrap();

    // Somebody writes to the target while it is looked at.
    let writing = Writing::start(&target);
    let long = |cutover: &mut Cutover| cutover.options_mut().watch = Duration::from_secs(1);
    let report = cut(&long).await;
    assert_eq!(report.outcome, CutoverOutcome::Refused);
    assert_eq!(verdict(&report, "foreign-writes"), GateVerdict::Fail);
    assert!(report.foreign.samples.iter().any(|sample| sample == "INCR n"), "{report:?}");
    block_in_place(|| writing.end());
    foreign.call(&["DEL", "n"]).unwrap();

    // Writes were not stopped, whatever was said.
    let writing = Writing::start(&source);
    let report = cut(&|cutover| {
        long(cutover);
        cutover.options_mut().stop = StopWrites::Verify;
    })
    .await;
    assert!(why(&report).contains("as by INCR n"), "{report:?}");
    block_in_place(|| writing.end());
    // A user that is not there, and the one that this program has.
    for (user, said) in [("nobody", "no user nobody"), ("default", "a user of their own")] {
        let report =
            cut(&|cutover| cutover.options_mut().stop = StopWrites::Acl(vec![user.to_owned()])).await;
        let gate = report.gates.iter().find(|gate| gate.name == "stop").unwrap();
        assert!(
            gate.verdict == GateVerdict::Fail && (gate.evidence.contains(said) || user == "default"),
            "{gate:?}"
        );
    }
    // Nothing of all this is left, and the migration has not noticed.
    assert_eq!(target.client().unwrap().int(&["EXISTS", "keyferry:cutover:{put}"]).unwrap(), 0);
    follows(&source, &target).await;
    let mut last = cutover(&source.url(), &target.url(), "put");
    last.options_mut().stop = StopWrites::Verify;
    let report = last.run(async |_| Ok(())).await;
    assert_eq!(report.outcome, CutoverOutcome::CutOver, "{report:?}");
    assert!(report.to_markdown().contains("| full-diff |"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_fails_is_undone_or_gone_on_with() {
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let cut = || cutover(&source.url(), &target.url(), "switch");
    let failing = async || {
        let report = cut().run(async |_| Err("no".to_owned())).await;
        assert_eq!(report.outcome, CutoverOutcome::SwitchFailed { why: "no".to_owned() }, "{report:?}");
        assert!(is_held(&source));
    };
    let again = async |before: Option<Running>| {
        if let Some(before) = before {
            assert!(matches!(before.end().await.result, Err(Error::FencedForGood { .. })));
        }
        following(&source.url(), &target.url(), "switch").await
    };
    // Undone: the migration goes on where it was.
    let forward = again(None).await;
    failing().await;
    let undone = cut().undo().await;
    assert_eq!(undone.outcome, CutoverOutcome::Undone, "{undone:?}");
    assert!(is_written(&source) && matches!(cut().undo().await.outcome, CutoverOutcome::Failed { .. }));
    let forward = again(Some(forward)).await;
    follows(&source, &target).await;

    // Somebody has let the source go on meanwhile: what was written there would be lost.
    failing().await;
    let mut client = source.client().unwrap();
    client.call(&["CLIENT", "UNPAUSE"]).unwrap();
    client.call(&["SET", "stray", "1"]).unwrap();
    let report = cut().run(async |_| panic!("switched")).await;
    assert!(why(&report).contains("SET stray 1") && is_written(&source), "{report:?}");
    let forward = again(Some(forward)).await;
    follows(&source, &target).await;
    assert_eq!(value(&target, "stray").as_deref(), Some("1"));

    // The target has been written to: what was done stays done.
    failing().await;
    target.client().unwrap().call(&["SET", "new", "1"]).unwrap();
    let refused = cut().undo().await;
    assert!(
        matches!(&refused.outcome, CutoverOutcome::Failed { error } if error.contains("SET new 1")),
        "{refused:?}"
    );
    assert!(is_held(&source));
    let rehearsed = cut().rehearse().await;
    assert!(rehearsed.notes.iter().any(|note| note.contains("step fenced")), "{rehearsed:?}");
    let report = cut().run(async |_| Ok(())).await;
    assert_eq!(report.outcome, CutoverOutcome::CutOver, "{report:?}");
    assert_eq!(report.begins.len(), 1);
    drop(forward.end().await);
}

/// What the target has evicted is missed by nobody but a comparison: it is asked about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_has_evicted_keys_is_not_cut_over_to_without_a_word() {
    let (source, target) = (any(), any());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let mut there = target.client().unwrap();
    there.call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    there.call(&["CONFIG", "SET", "maxmemory", "3mb"]).unwrap();
    for n in 0..100 {
        // Whether it is taken or not: something has to go.
        there.call_raw(&["SET", &format!("theirs:{n}"), &"x".repeat(100_000)]).unwrap();
    }
    assert_ne!(there.info("stats", "evicted_keys").unwrap().as_deref(), Some("0"));
    there.call(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    there.call(&["FLUSHALL"]).unwrap();
    let forward = following(&source.url(), &target.url(), "evicted").await;
    let cut = || cutover(&source.url(), &target.url(), "evicted");
    let report = cut().run(async |_| panic!("switched")).await;
    assert_eq!(report.outcome, CutoverOutcome::Refused, "{report:?}");
    assert_eq!(verdict(&report, "evicted"), GateVerdict::Fail);
    let mut lenient = cut();
    lenient.options_mut().ignore_warnings = true;
    let report = lenient.rehearse().await;
    assert_eq!(report.outcome, CutoverOutcome::Rehearsed { ready: true }, "{report:?}");
    assert_eq!(verdict(&report, "evicted"), GateVerdict::Warn);
    there.call(&["CONFIG", "RESETSTAT"]).unwrap();
    let report = cut().run(async |_| Ok(())).await;
    assert_eq!(report.outcome, CutoverOutcome::CutOver, "{report:?}");
    assert_eq!(verdict(&report, "evicted"), GateVerdict::Pass);
    drop(forward.end().await);
}

/// A service that lets nobody replicate, nor change settings: everything but the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_cannot_be_followed_is_cut_over_to_one_way() {
    let rules = "on >pw ~* &* +@all -psync -sync -replconf -config";
    let binary = keyferry_testkit::any().unwrap();
    let rules = if binary.version.at_least(6, 2) { rules.to_owned() } else { rules.replace(" &*", "") };
    let (source, target) = (any(), Server::builder(binary).user("app", &rules).start().unwrap());
    let to = format!("redis://app:pw@{}", target.addr());
    let mut client = source.client().unwrap();
    for n in 0..100 {
        client.call(&["SET", &format!("k{n}"), "v", "EX", "1000"]).unwrap();
    }
    let cut = |one_way: bool| {
        let mut cutover = cutover(&source.url(), &to, "cloud");
        cutover.options_mut().one_way = one_way;
        cutover
    };
    let forward = following(&source.url(), &to, "cloud").await;
    let report = cut(false).run(async |_| panic!("switched")).await;
    assert_eq!(report.outcome, CutoverOutcome::Refused, "{report:?}");
    let gate = report.gates.iter().find(|gate| gate.name == "backlog").unwrap();
    assert!(gate.evidence.contains("cannot be followed"), "{gate:?}");
    assert!(gate.remedy.as_ref().unwrap().contains("--one-way"), "{gate:?}");

    // Behind the fence nobody can tell what was written there.
    let report = cut(true).run(async |_| Err("no".to_owned())).await;
    assert_eq!(report.outcome, CutoverOutcome::SwitchFailed { why: "no".to_owned() }, "{report:?}");
    let undone = cut(true).undo().await;
    assert!(
        matches!(&undone.outcome, CutoverOutcome::Failed { error } if error.contains("--ignore-warnings")),
        "{undone:?}"
    );
    assert!(is_held(&source));
    let mut insisting = cut(true);
    insisting.options_mut().ignore_warnings = true;
    assert_eq!(insisting.undo().await.outcome, CutoverOutcome::Undone);
    assert!(is_written(&source));
    assert!(matches!(forward.end().await.result, Err(Error::FencedForGood { .. })));
    let forward = following(&source.url(), &to, "cloud").await;
    follows(&source, &target).await;

    let writing = Writing::start(&source);
    let report = cut(true).run(async |_| Ok(())).await;
    assert_eq!(report.outcome, CutoverOutcome::CutOver, "{report:?}");
    assert!(report.begins.is_empty() && report.back_id.is_empty(), "{report:?}");
    assert!(report.proof.as_ref().is_some_and(|proof| proof.equal && proof.keys > 100), "{report:?}");
    let written = block_in_place(|| writing.end());
    assert_eq!(value(&target, "n"), Some(written.to_string()));
    assert!(matches!(forward.end().await.result, Err(Error::FencedForGood { .. })));
    assert_equal(&source, &target, "cut over one way");
    assert!(!report.to_markdown().contains("| way back |"), "{}", report.to_markdown());
}
