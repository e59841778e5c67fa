//! What differs is found, and nothing else.

// Helpers may fail the test, and tell what they leave out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod changed;
mod changes;
mod digests;
mod files;
mod guesses;
mod live;
mod model;
mod parts;
mod planted;
mod quick;
mod spared;
mod support;
mod traps;
#[path = "../../../rdb/tests/it/values.rs"]
mod values;
