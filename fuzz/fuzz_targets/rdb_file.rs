//! Snapshots, whole and cut: the same events, and every value taken apart.
#![no_main]

#[path = "../checks/rdb.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::rdb_file(input));
