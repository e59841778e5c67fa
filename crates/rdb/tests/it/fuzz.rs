//! The seeds of the fuzz targets, each through what its target checks.

use std::path::{Path, PathBuf};

#[allow(clippy::redundant_pub_crate, unreachable_pub, missing_docs, reason = "written for the fuzz targets")]
#[path = "../../../../fuzz/checks/rdb.rs"]
mod checks;

use checks::Sealed;

/// Runs `check` on every seed of a target, of which there are at least `least`.
fn replay(target: &str, least: usize, check: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut seeds: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(seeds.len() >= least, "{target}: {} seeds", seeds.len());
    for seed in seeds {
        // Shown when the check fails.
        println!("{}", seed.display());
        let bytes = std::fs::read(seed).unwrap();
        check(&bytes);
        // What is cut or hit somewhere must not do harm either.
        for cut in [bytes.len() / 3, bytes.len().saturating_sub(1)] {
            check(&bytes[..cut]);
        }
        for hit in 0..16 {
            let mut bytes = bytes.clone();
            if let Some(at) = (bytes.len() * hit).checked_div(16) {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (hit % 8);
                }
                check(&bytes);
            }
        }
    }
}

#[test]
fn snapshots() {
    replay("rdb_file", 25, checks::rdb_file);
}

#[test]
fn dump_payloads() {
    replay("dump_payload", 20, checks::dump_payload);
}

#[test]
fn append_only_files() {
    replay("aof", 3, checks::aof);
}

#[test]
fn sealed_encodings() {
    for (target, least, sealed) in [
        ("ziplist", 3, Sealed::Ziplist),
        ("listpack", 6, Sealed::Listpack),
        ("intset", 2, Sealed::Intset),
        ("zipmap", 2, Sealed::Zipmap),
        ("quicklist", 3, Sealed::Quicklist),
        ("stream", 2, Sealed::Stream),
    ] {
        replay(target, least, |input| checks::sealed(sealed, input));
    }
}
