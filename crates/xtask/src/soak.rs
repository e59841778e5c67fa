//! `cargo xtask soak`.

use std::path::PathBuf;
use std::time::Duration;

use keyferry_testkit::chaos::Soak;
use keyferry_testkit::{any, named};

use crate::bootstrap;
use crate::cargo::release;
use crate::failure::Outcome;

/// For how long the target's capacity is measured.
const MEASURING: Duration = Duration::from_secs(8);

/// Keys that are there before.
const KEYS: u64 = 200_000;

/// What is to be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For how long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The bound of the journal, in MiB
    #[arg(long, default_value_t = 256)]
    journal_max: u64,
    /// Where logs and directories are kept when it fails [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The program `migrate`, instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The server that both sides run [default: any]
    server: Option<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    bootstrap::ensure_server()?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => release("keyferry-examples", "--example", "migrate", &[])?,
    };
    let soak = Soak {
        program,
        binary: args.server.as_deref().map_or_else(any, named)?,
        time: Duration::from_secs_f64(args.minutes.clamp(0.1, 100_000.0) * 60.0),
        measuring: MEASURING,
        keys: KEYS,
        journal_max: args.journal_max << 20,
        keep: args.keep.clone().unwrap_or_else(std::env::temp_dir),
    };
    let soaked = soak.run(|line| println!("soak: {line}"))?;
    println!("{soaked}");
    println!(
        "soak: memory, journal and lag stayed bounded for {:.1} minutes on {}",
        args.minutes, soak.binary
    );
    Ok(())
}
