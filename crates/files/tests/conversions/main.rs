//! What comes out of conversions, loaded by real servers.

// Helpers may fail the test, and tell what they leave out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod logs;
mod matrix;
mod snapshots;
mod support;
