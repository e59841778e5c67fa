//! The seeds of the fuzz targets, each through what its target checks.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::path::Path;

#[allow(unreachable_pub, reason = "written for the fuzz targets")]
#[path = "../../../fuzz/checks/resp.rs"]
mod checks;

fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut seeds = 0;
    for seed in std::fs::read_dir(dir).unwrap() {
        let bytes = std::fs::read(seed.unwrap().path()).unwrap();
        (0..=bytes.len()).for_each(|cut| check(&bytes[..cut]));
        seeds += 1;
    }
    assert!(seeds >= 2, "{target}: {seeds} seeds");
}

#[test]
fn replies() {
    replay("resp_frames", checks::frames);
}

#[test]
fn requests() {
    replay("resp_commands", checks::commands);
}
