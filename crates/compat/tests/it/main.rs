//! The suite against real servers, and against servers that are wrong on purpose.

#![allow(clippy::unwrap_used)]

mod ctsr;
mod modes;
mod safety;
mod servers;
mod wrong;

use keyferry_compat::{Baseline, Needs, Report, RunOptions, Scratch, Suite, Target};

/// Runs on this thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Everything that a server of a test may be asked.
fn everything() -> RunOptions {
    let allow = Needs::SCRIPTING | Needs::PUBSUB | Needs::ADMIN | Needs::FLUSH;
    RunOptions { allow, ..RunOptions::default() }
}

async fn target(url: &str) -> Target {
    Target::find(url.parse().unwrap(), &Scratch::default()).await.unwrap()
}

async fn run(suite: &Suite, url: &str, options: &RunOptions) -> Report {
    keyferry_compat::run(suite, &target(url).await, options, &Baseline::builtin().unwrap()).await
}

/// The groups with these names.
fn groups(names: &[&str]) -> Suite {
    Suite::builtin().unwrap().only(|case| names.iter().any(|name| case.split('/').next() == Some(*name)))
}

/// Fails with every failure there is.
fn assert_passed(report: &Report) {
    let mut out = Vec::new();
    keyferry_compat::report::write_console(&mut out, report, false).unwrap();
    let text = String::from_utf8_lossy(&out);
    let told = text.lines().filter(|line| !line.ends_with("... ok")).collect::<Vec<_>>().join("\n");
    assert_eq!(report.verdict(), keyferry_compat::Verdict::Passed, "{told}");
}
