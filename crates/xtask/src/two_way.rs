//! `cargo xtask two-way`.

use std::path::PathBuf;
use std::time::Duration;

use keyferry_testkit::both_ways::BothWays;

use crate::cargo::release;
use crate::chaos::servers;
use crate::failure::{Context, Failure, Outcome};

/// What is to be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For how long both sides are written to
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Commands a second at each side
    #[arg(long, default_value_t = 3000)]
    rate: u64,
    /// How many seconds lie between keys that both sides write at once
    #[arg(long, default_value_t = 10)]
    plant_every: u64,
    /// Kill the program so often, in seconds, and start it again
    #[arg(long)]
    kill_every: Option<u64>,
    /// Where logs are kept [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The program `migrate`, instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// One or two servers; both sides run the first, or one each [default: the first that is found]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let binaries = servers(&args.names)?;
    let (Some(&one), two) = (binaries.first(), binaries.get(1)) else {
        return Err(Failure::new("no servers"));
    };
    let two = if args.names.len() > 1 { *two.unwrap_or(&one) } else { one };
    let keep = args.keep.clone().unwrap_or_else(std::env::temp_dir);
    let directory = keep.join(format!("keyferry-two-way-{}", std::process::id()));
    std::fs::create_dir_all(&directory).during(directory.display())?;
    let trial = BothWays {
        program: match &args.program {
            Some(program) => program.clone(),
            None => release("keyferry-examples", "--example", "migrate", &[])?,
        },
        binaries: [one, two],
        time: Duration::from_secs_f64(args.minutes.clamp(0.01, 100_000.0) * 60.0),
        plant_every: Duration::from_secs(args.plant_every.max(1)),
        kill_every: args.kill_every.map(Duration::from_secs),
        rate: args.rate,
        directory: directory.clone(),
    };
    println!("two-way: {one} and {two}, {} minutes, logs in {}", args.minutes, directory.display());
    let went = trial.run()?;
    println!("two-way: {went}");
    std::fs::remove_dir_all(&directory).ok();
    Ok(())
}
