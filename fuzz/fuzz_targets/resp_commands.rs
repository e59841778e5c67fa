//! Requests, whole and cut: the same commands, each with its bytes as they stood in the input.
#![no_main]

#[path = "../checks/resp.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::commands(input));
