//! Replies, whole and cut: both ways give the same frames, or the same error.
#![no_main]

#[path = "../checks/resp.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::frames(input));
