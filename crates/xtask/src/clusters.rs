//! `cargo xtask matrix --clusters`.

use std::process::{Command, Stdio};
use std::time::Instant;

use keyferry_testkit::named;

use crate::bootstrap;
use crate::cargo::{cargo, output};
use crate::failure::{Context as _, Failure, Outcome};

/// One of each kind of cluster that is in use.
const SERVERS: [&str; 3] = ["redis-7.0", "redis-8.0", "valkey-9"];

/// The scenarios are tests; the environment variable tells them the server.
const TESTS: [&str; 6] = ["test", "--release", "--package", "keyferry-migrate", "--test", "it"];
const MODULE: &str = "clusters::";
const SERVER: &str = "KEYFERRY_CLUSTERS";

/// How a scenario ended.
enum End {
    Passed,
    /// The server cannot do what it is about.
    Skipped,
    Failed(String),
}

/// Runs every scenario on each of these servers, one after the other, and prints a row for each.
pub(crate) fn matrix(names: &[String], only: &str, times: u32) -> Outcome {
    bootstrap::ensure_server()?;
    let names: Vec<&str> =
        if names.is_empty() { SERVERS.to_vec() } else { names.iter().map(String::as_str).collect() };
    for name in &names {
        named(name)?;
    }
    let scenarios = scenarios(only)?;
    if scenarios.is_empty() {
        return Err(Failure::new(format!("no scenario has \"{only}\" in its name")));
    }
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for _ in 0..times {
        for scenario in &scenarios {
            let short = scenario.trim_start_matches(MODULE);
            for name in &names {
                let begun = Instant::now();
                let end = run(scenario, name)?;
                let word = match &end {
                    End::Passed => "passed",
                    End::Skipped => "skipped",
                    End::Failed(_) => "FAILED",
                };
                println!("{short:<62} {name:<10} {word:<7} {:>6.1} s", begun.elapsed().as_secs_f64());
                match end {
                    End::Passed => passed += 1,
                    End::Skipped => skipped += 1,
                    End::Failed(said) => {
                        eprintln!("{said}");
                        failed.push(format!("{short} on {name}"));
                    }
                }
            }
        }
    }
    let all = passed + failed.len();
    if failed.is_empty() {
        println!("matrix: {passed} of {all} passed, {skipped} skipped");
        return Ok(());
    }
    Err(Failure::new(format!("{} of {all} failed: {}", failed.len(), failed.join(", "))))
}

/// The full names of the tests.
fn scenarios(only: &str) -> Outcome<Vec<String>> {
    let listed = output(&mut cargo(TESTS.into_iter().chain(["--", MODULE, "--list", "--format", "terse"])))?;
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.filter(|name| name.contains(only)).map(str::to_owned).collect())
}

fn run(scenario: &str, server: &str) -> Outcome<End> {
    let mut command: Command = cargo(TESTS.into_iter().chain(["--quiet", "--", "--exact", scenario]));
    command.arg("--nocapture").env(SERVER, server).stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = command.output().during(format_args!("running {scenario}"))?;
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(match done.status.success() {
        true if said.contains("skipped: ") => End::Skipped,
        true => End::Passed,
        false => End::Failed(said.trim().to_owned()),
    })
}
