//! A few rounds of `cargo xtask cutover`, which runs many, and the program `cutover` as its users see it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyferry_testkit::Server;
use keyferry_testkit::chaos::Topology;
use keyferry_testkit::rehearsal::{Kind, Programs, Rounds};

/// Writes in a second: the programs are not optimised, and others want the processor, too.
const RATE: u64 = 2000;

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
