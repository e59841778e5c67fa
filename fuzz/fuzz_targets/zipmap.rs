//! Values that hold a zipmap.
#![no_main]

#[path = "../checks/rdb.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::sealed(checks::Sealed::Zipmap, input));
