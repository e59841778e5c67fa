//! Tests of the public interface on real and generated files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod inputs;
mod json;
mod reports;
mod support;
