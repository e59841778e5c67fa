//! Project automation of keyferry: `cargo xtask COMMAND`.
//!
//! - `quickstart`: a live migration between two servers, from nothing.
//! - `test`: everything that has to hold before a change is accepted.
//! - `servers`: puts the servers that tests run against into the target directory.
//! - `matrix`: migrations between every two servers of the same version, or between clusters of them, conversions between
//!   every two at all, or the cases of keyferry-compat on each.
//! - `chaos`: migrations whose program, servers and network are killed, cut and starved, and must lose nothing all the same.
//! - `cutover`: applications that keep ledgers are cut over, and back, and lose nothing, whatever step the program is killed at.
//! - `two-way`: both sides are written to at once, and must come to the same, with every conflict told.
//! - `soak`: one migration for long, whose memory, journal and lag must stay bounded.
//! - `view`: how `migrate --view` looks, for `docs/terminal-view.md`.
//! - `bench`: the figures of `docs/performance.md`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod bench;
mod bootstrap;
mod cargo;
mod chaos;
mod clusters;
mod cutover;
mod failure;
mod matrix;
mod quickstart;
mod servers;
mod soak;
mod test;
mod two_way;
mod view;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Outcome;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Project automation of keyferry", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Migrate live between two fresh servers and compare them key by key
    Quickstart,
    /// Check formatting, lints and documentation, then run all tests
    Test,
    /// Fetch servers for tests into the target directory
    Servers {
        /// Only these, for example redis-7.0 [default: all]
        names: Vec<String>,
        /// Only tell which there are
        #[arg(long)]
        list: bool,
    },
    /// Try every pair of servers
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Matrix {
        /// Migrate live under load between two of the same version, then compare by DEBUG DIGEST and key by key
        #[arg(long, group = "what")]
        migrate: bool,
        /// Convert a snapshot of each for each, load it there, and compare key by key: as files, payloads and commands
        #[arg(long, group = "what")]
        offline: bool,
        /// Migrate live from and to clusters and sentinels while slots move, primaries die and the source is written to
        #[arg(long, group = "what")]
        clusters: bool,
        /// Run the cases of keyferry-compat on each, alone and as a cluster
        #[arg(long, group = "what")]
        compat: bool,
        /// Plant differences among a million equal keys and look for them in every way, on the oldest and newest servers
        #[arg(long, group = "what")]
        diff: bool,
        /// With --clusters: only scenarios whose name holds this
        #[arg(long, value_name = "TEXT", requires = "clusters")]
        only: Option<String>,
        /// With --clusters: so many times
        #[arg(long, default_value_t = 1, requires = "clusters")]
        times: u32,
        /// Not with --offline, --compat and --diff: only these servers [default: all that are found; with --clusters: redis-7.0, redis-8.0, valkey-9]
        #[arg(conflicts_with_all = ["offline", "compat", "diff"])]
        names: Vec<String>,
        /// With --migrate: how many seconds the source is written to
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// Disturb migrations in every way, and compare both sides key by key after each round
    Chaos(chaos::Args),
    /// Cut over applications that keep ledgers, kill the program meanwhile, cut back: nothing may be lost
    Cutover(cutover::Args),
    /// Write to both sides at once: they must come to the same, nothing may go round, and planted conflicts are all told
    TwoWay(two_way::Args),
    /// Run a migration for long under a load that it can just bear: memory, journal and lag must stay bounded
    Soak(soak::Args),
    /// Run a migration on a whole terminal, and write docs/terminal-view.md
    View(view::Args),
    /// Measure, and write docs/performance.md
    Bench {
        /// Only these [default: all]
        which: Vec<bench::Which>,
        /// Amount of data, as a factor of the documented one
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// Print the tables only
        #[arg(long)]
        dry_run: bool,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Quickstart => quickstart::run(),
        Command::Test => test::run(),
        Command::Servers { list: true, .. } => servers::list(),
        Command::Servers { names, .. } => servers::fetch(&names),
        Command::Matrix { offline: true, .. } => matrix::offline(),
        Command::Matrix { compat: true, .. } => matrix::compat(),
        Command::Matrix { diff: true, .. } => matrix::diff(),
        Command::Matrix { clusters: true, names, only, times, .. } => {
            clusters::matrix(&names, only.as_deref().unwrap_or_default(), times)
        }
        Command::Matrix { names, seconds, .. } => matrix::migrate(&names, seconds),
        Command::Chaos(args) => chaos::run(&args),
        Command::Cutover(args) => cutover::run(&args),
        Command::TwoWay(args) => two_way::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::View(args) => view::run(&args),
        Command::Bench { which, scale, dry_run } => bench::run(&which, scale, dry_run),
    }
}
