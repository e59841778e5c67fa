//! `cargo xtask test`.

use std::process::Command;
use std::time::Instant;

use crate::bootstrap;
use crate::cargo::{cargo, succeed, works};
use crate::failure::{Failure, Outcome};

/// Runs every step and stops at the first that fails.
pub(crate) fn run() -> Outcome {
    bootstrap::ensure_server()?;
    let mut steps = vec![
        ("format", cargo(["fmt", "--all", "--check"])),
        (
            "lints",
            cargo([
                "clippy",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        ("documentation", documentation()),
    ];
    steps.extend(tests());
    let count = steps.len();
    for (number, (name, mut command)) in steps.into_iter().enumerate() {
        println!("\n== step {} of {count}: {name}", number + 1);
        let start = Instant::now();
        if let Err(failure) = succeed(&mut command) {
            let seconds = start.elapsed().as_secs_f64();
            return Err(Failure::new(format!(
                "step {} of {count}, {name}, failed after {seconds:.1} s: {failure}",
                number + 1
            )));
        }
        println!("== {name}: passed in {:.1} s", start.elapsed().as_secs_f64());
    }
    println!("\ntest: {count} steps passed");
    Ok(())
}

fn documentation() -> Command {
    let mut command = cargo(["doc", "--workspace", "--no-deps", "--all-features", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// By cargo-nextest where it is installed. It runs no documentation examples, so these are a step of their own.
fn tests() -> Vec<(&'static str, Command)> {
    let everything = ["--workspace", "--all-features"];
    if works("cargo-nextest", &["nextest", "--version"]) {
        let nextest = ["nextest", "run", "--no-fail-fast", "--status-level", "slow"];
        vec![
            ("tests", cargo(nextest.into_iter().chain(everything))),
            ("documentation examples", cargo(["test", "--doc", "--quiet"].into_iter().chain(everything))),
        ]
    } else {
        vec![("tests and documentation examples", cargo(["test", "--quiet"].into_iter().chain(everything)))]
    }
}
