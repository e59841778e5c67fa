//! Migrations between real servers, and against scripted peers where a real one cannot be made to misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod archive;
mod backup;
mod backup_kept;
mod clusters;
mod control;
mod cutover;
mod existing;
mod expiry;
mod faults;
mod fencing;
mod filter;
mod from_now;
mod full_phase;
mod import;
mod journal;
mod live;
mod masks;
mod mirror;
mod other_versions;
mod resume;
mod retries;
mod scan;
#[cfg(feature = "lua")]
mod scripts;
mod support;
mod throttle;
mod two_way;
