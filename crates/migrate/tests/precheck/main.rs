//! The look at both sides before a migration: each item passes on servers as they should be, and not on others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod access;
mod clusters;
mod data;
mod files;
mod load;
mod plan;
mod reach;
mod run;
mod settings;
mod support;
