//! The metrics page of running migrations, and what is built on it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod deploy;
mod http;
mod log;
mod page;
mod support;
