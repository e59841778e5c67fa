//! A few rounds of `cargo xtask cutover`, which runs many, and the program `cutover` as its users see it.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyferry_testkit::chaos::Topology;
use keyferry_testkit::rehearsal::{Kind, Programs, Rounds};
use keyferry_testkit::{Server, process};

/// Writes in a second: the programs are not optimised, and others want the processor, too.
const RATE: u64 = 2000;

/// Any wait for a program or a server.
const PATIENCE: Duration = Duration::from_secs(240);

/// How often something is looked at.
const TICK: Duration = Duration::from_millis(10);

/// The programs, built beside this test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples").join(name)
}

fn rounds(topology: Topology, rounds: &[(Kind, u64)]) {
    let runs = Rounds {
        programs: Programs { migrate: program("migrate"), cutover: program("cutover") },
        topology,
        binaries: keyferry_testkit::all().unwrap().iter().collect(),
        rate: RATE,
        keep: std::env::temp_dir(),
    };
    for (kind, seed) in rounds {
        let done = runs.round(*kind, *seed).unwrap_or_else(|error| panic!("{error}"));
        assert!(done.tally.acknowledged > RATE, "{done:?}");
    }
}

#[test]
fn nothing_is_lost_from_server_to_server_and_back() {
    rounds(Topology::Standalone, &[(Kind::Back, 1), (Kind::Killed, 2)]);
}

#[test]
fn nothing_is_lost_from_server_to_cluster_and_back() {
    rounds(Topology::Cluster, &[(Kind::Back, 4)]);
}

#[test]
fn nothing_is_lost_from_cluster_to_cluster() {
    rounds(Topology::ClusterCluster, &[(Kind::Killed, 5)]);
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let server = Server::any().unwrap();
    let (source, target) = (server.url(), Server::any().unwrap());
    let target = target.url();
    let run = |args: &[&str]| {
        let mut command = Command::new(program("cutover"));
        command.args(["--source", &source, "--target", &target]).args(args).stdin(Stdio::null());
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, said, _) = run(&[]);
    assert!(code == Some(2) && said.contains("--on-switch"), "{said}");
    let (code, said, _) = run(&["--stop-writes", "somehow"]);
    assert!(code == Some(2) && said.contains("acl:USER"), "{said}");
    let (code, said, _) = run(&["--changed-in", "x"]);
    assert!(code == Some(2) && said.contains("--proof"), "{said}");
    // There is no migration.
    let (code, _, page) = run(&["--dry-run"]);
    assert!(code == Some(1) && page.contains("fail     migration: the target keeps nothing"), "{page}");
    let (code, _, page) = run(&["--undo"]);
    assert!(code == Some(1) && page.contains("no cutover of"), "{page}");
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(name: &str, args: &[&str]) -> Running {
    let mut command = Command::new(program(name));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

/// Waits until what is written to one side is at the other. Connections may be closed by a cutover at any moment.
fn until_follows(from: &Server, to: &Server, token: &str) {
    let begun = Instant::now();
    let write = || from.client()?.call(&["SET", "token", token]);
    while write().is_err() {
        assert!(begun.elapsed() < PATIENCE, "{token} cannot be written");
        std::thread::sleep(TICK);
    }
    let has = || to.client()?.bytes(&["GET", "token"]);
    while !has().is_ok_and(|value| value.as_deref() == Some(token.as_bytes())) {
        assert!(begun.elapsed() < PATIENCE, "{token} does not come");
        std::thread::sleep(TICK);
    }
}

/// Only what the journal says was touched since the full comparison is compared while writes are stopped; and the way back goes on by
/// itself.
#[test]
fn what_changed_is_proved_and_the_way_back_begins() {
    let begin = || Server::builder(keyferry_testkit::any().unwrap()).diskless_sync(true, 0).start().unwrap();
    let (source, target) = (begin(), begin());
    let mut client = source.client().unwrap();
    for n in 0..500 {
        client.call(&["RPUSH", &format!("list:{n}"), "a", "b"]).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (journal, proof, switched, page) =
        (path("journal"), path("full.jsonl"), path("switched"), path("cut.json"));
    let (from, to) = (source.url(), target.url());
    let sides = ["--source", &from, "--target", &to, "--id", "proved"];
    let migration = [&sides[..], &["--journal", &journal, "--keep", "--until", "forever"]].concat();
    let _forward = start("migrate", &migration);
    until_follows(&source, &target, "one");
    // Times are told in seconds: one that the journal has all of has to lie between its beginning and the comparison.
    std::thread::sleep(Duration::from_millis(2100));
    let diff =
        Command::new(program("diff")).args([&from, &to, "--barrier", "--jsonl", &proof]).output().unwrap();
    assert_eq!(diff.status.code(), Some(0), "{diff:?}");

    for n in 0..20 {
        client.call(&["RPUSH", &format!("list:{n}"), "c"]).unwrap();
    }
    until_follows(&source, &target, "two");
    let switch = format!(": > '{switched}'");
    let more = ["--changed-in", &journal, "--proof", &proof, "--on-switch", &switch, "--report", &page];
    let cutover = [&sides[..], &more, &["--backlog", "4m"]].concat();
    // A key that was touched differs.
    let mut there = target.client().unwrap();
    there.call(&["RPUSH", "list:3", "foreign"]).unwrap();
    let refused = Command::new(program("cutover")).args(&cutover).stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let report = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&page).unwrap()).unwrap() };
    assert_eq!(report()["proof"]["differences"], 1, "{}", report());
    there.call(&["RPOP", "list:3"]).unwrap();
    // The migration was kept out for a moment, and goes on.
    until_follows(&source, &target, "three");

    let reversed = [&cutover[..], &["--reverse"]].concat();
    let _back = start("cutover", &reversed);
    let begun = Instant::now();
    while !Path::new(&switched).exists() {
        assert!(begun.elapsed() < PATIENCE, "{}", report());
        std::thread::sleep(TICK);
    }
    until_follows(&target, &source, "back");
    let keys = report()["proof"]["keys"].as_u64().unwrap();
    assert!((20..100).contains(&keys), "all keys were compared, or too few: {}", report()["proof"]);
    target.client().unwrap().call(&["RPUSH", "list:3", "d"]).unwrap();
    until_follows(&target, &source, "again");
    assert_eq!(source.client().unwrap().int(&["LLEN", "list:3"]).unwrap(), 4);
}

/// Runs a cutover until it says `word` on standard error, sends it SIGTERM, and lets it end after `then`. Gives its exit status and what it said.
fn terminated(args: &[&str], word: &str, then: impl FnOnce()) -> (Option<i32>, String) {
    let mut command = Command::new(program("cutover"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    // Held open: somebody is asked, and does not answer.
    let asked = running.stdin.take();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut said = String::new();
    let mut until = |word: &str| {
        for line in lines.by_ref() {
            said.push_str(&format!("{line}\n"));
            if line.contains(word) {
                return;
            }
        }
    };
    until(word);
    process::signal(running.id(), "TERM").unwrap();
    until("interrupted");
    then();
    until("(nothing that is ever said)");
    drop(asked);
    let output = running.wait_with_output().unwrap();
    said.push_str(&String::from_utf8(output.stdout).unwrap());
    (output.status.code(), said)
}

/// Nothing tells that it was done but that it was: what is put back has another exit status, and a switch that runs is not undone behind its back.
#[test]
fn what_ends_by_a_signal_is_put_back_or_done() {
    let begin = || Server::builder(keyferry_testkit::any().unwrap()).diskless_sync(true, 0).start().unwrap();
    let (source, target) = (begin(), begin());
    let (from, to) = (source.url(), target.url());
    let dir = tempfile::tempdir().unwrap();
    let (go, page) = (dir.path().join("go"), dir.path().join("cut.json"));
    let sides = ["--source", &from, "--target", &to, "--id", "signals"];
    let cutover = [&sides[..], &["--stop-writes", "verify", "--backlog", "4m"]].concat();
    {
        let _forward = start("migrate", &sides);
        until_follows(&source, &target, "one");
        let (code, said) = terminated(&cutover, "press Enter", || ());
        assert!(code == Some(1) && said.contains("undone: writes go on at the source"), "{code:?} {said}");
    }
    let _forward = start("migrate", &sides);
    until_follows(&source, &target, "two");
    let switch = format!("echo switching >&2; while ! test -e '{}'; do sleep 0.05; done", go.display());
    let more = ["--on-switch", &switch, "--report", page.to_str().unwrap(), "--reverse"];
    let (code, said) =
        terminated(&[&cutover[..], &more].concat(), "switching", || std::fs::write(&go, "").unwrap());
    assert!(code == Some(0) && said.contains("cut over: "), "{code:?} {said}");
    let page: serde_json::Value = serde_json::from_slice(&std::fs::read(&page).unwrap()).unwrap();
    assert_eq!(
        (&page["outcome"]["state"], &page["under_way"]),
        (&"cut_over".into(), &false.into()),
        "{page}"
    );
}
