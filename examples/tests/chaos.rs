//! Ten rounds of each topology of `cargo xtask chaos`, which runs hundreds of them.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use keyferry_testkit::chaos::{Kind, Rounds, Topology};

/// Rounds wait most of the time.
const AT_A_TIME: usize = 5;

/// The program, built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/migrate")
}

/// All that does not take as long as all other rounds together.
fn kinds() -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|&kind| kind != Kind::ReplaceTool).collect()
}

fn ten_rounds(topology: Topology) {
    let rounds = Rounds {
        program: program(),
        topology,
        only: kinds(),
        binaries: keyferry_testkit::all().unwrap().iter().collect(),
        keep: std::env::temp_dir(),
    };
    let seeds: Vec<u64> = (1..=10).collect();
    let failed = rounds.run(&seeds, AT_A_TIME, |outcome| match outcome {
        Ok(passed) => assert!(passed.keys > 1000 && passed.commands > 0, "{passed:?}"),
        Err(failed) => eprintln!("{failed}"),
    });
    assert_eq!(failed, 0, "rounds of {}", topology.name());
}

#[test]
fn standalone_to_standalone() {
    ten_rounds(Topology::Standalone);
}

#[test]
fn standalone_to_cluster() {
    ten_rounds(Topology::Cluster);
}

#[test]
fn cluster_to_cluster() {
    ten_rounds(Topology::ClusterCluster);
}
