//! Tests of the whole crate on real files and on generated ones.

// Helpers of tests may fail the test, and tell what they leave out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::type_complexity)]

mod aof;
mod corpus;
mod damage;
mod elements;
mod encode;
mod fuzz;
mod generate;
mod naive;
mod native;
mod support;
mod twins;
mod values;
