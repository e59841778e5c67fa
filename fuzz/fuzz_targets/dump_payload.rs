//! DUMP payloads: taken apart, rebuilt as commands, encoded anew, and put together again as they were.
#![no_main]

#[path = "../checks/rdb.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::dump_payload(input));
