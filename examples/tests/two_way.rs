//! Seconds of what `cargo xtask two-way` does for minutes.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use keyferry_testkit::both_ways::BothWays;

/// The program, built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/migrate")
}

#[test]
fn both_sides_are_written_to_while_the_program_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let any = keyferry_testkit::any().unwrap();
    let trial = BothWays {
        program: program(),
        binaries: [any, any],
        time: Duration::from_secs(4),
        plant_every: Duration::from_millis(700),
        kill_every: Some(Duration::from_millis(1100)),
        rate: 1000,
        directory: directory.path().to_owned(),
    };
    let went = trial.run().unwrap();
    assert!(went.planted > 0 && went.keys > 100, "{went}");
}
