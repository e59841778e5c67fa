//! `cargo xtask chaos`.

use std::path::PathBuf;
use std::time::Instant;

use keyferry_testkit::chaos::{Kind, Rounds, Topology};
use keyferry_testkit::{ServerBinary, all, named};

use crate::bootstrap;
use crate::cargo::release;
use crate::failure::{Failure, Outcome};

/// What is to be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many rounds
    #[arg(long, default_value_t = 20)]
    rounds: u64,
    /// Seed of the first round; each further one has the next. A seed reproduces what is done, not the very moment
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// From what to what
    #[arg(long, default_value = "standalone", value_parser = topology)]
    topology: Topology,
    /// Only disturbances of these kinds, for example kill-tool,cut-target,fail-over
    #[arg(long, value_name = "DISTURBANCE,...", value_parser = kind, value_delimiter = ',')]
    only: Vec<Kind>,
    /// How many rounds run at a time
    #[arg(long, default_value_t = 4)]
    at_a_time: usize,
    /// Where the logs and directories of failed rounds are kept [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The program `migrate`, instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Print what happened in rounds that passed, too
    #[arg(long)]
    verbose: bool,
    /// Only these servers [default: all that are found]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let binaries = servers(&args.names)?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => release("keyferry-examples", "--example", "migrate", &[])?,
    };
    let rounds = Rounds {
        program,
        topology: args.topology,
        only: args.only.clone(),
        binaries,
        keep: args.keep.clone().unwrap_or_else(std::env::temp_dir),
    };
    let seeds: Vec<u64> = (args.seed..args.seed.saturating_add(args.rounds)).collect();
    let begun = Instant::now();
    let failed = rounds.run(&seeds, args.at_a_time, |outcome| match outcome {
        Ok(passed) => {
            println!(
                "{:>6} {:<11} equal: {} keys, {} commands, {} disturbances, full syncs {:?}, {:.1} s",
                passed.seed,
                passed.binary,
                passed.keys,
                passed.commands,
                passed.disturbances,
                passed.full_syncs,
                passed.took.as_secs_f64()
            );
            if args.verbose {
                passed.happened.iter().for_each(|line| println!("       {line}"));
            }
        }
        Err(failed) => println!("{:>6} {:<11} FAILED\n{failed}", failed.plan.seed, failed.binary),
    });
    let took = begun.elapsed().as_secs_f64();
    if failed == 0 {
        println!("chaos: {} rounds of {}, no difference, {took:.0} s", seeds.len(), args.topology.name());
        return Ok(());
    }
    Err(Failure::new(format!("{failed} of {} rounds of {} failed", seeds.len(), args.topology.name())))
}

/// The servers of these names; all, where there are none.
pub(crate) fn servers(names: &[String]) -> Result<Vec<&'static ServerBinary>, Failure> {
    bootstrap::ensure_server()?;
    if names.is_empty() {
        return Ok(all()?.iter().collect());
    }
    Ok(names.iter().map(|name| named(name)).collect::<Result<_, _>>()?)
}

pub(crate) fn topology(text: &str) -> Result<Topology, String> {
    Topology::named(text).ok_or_else(|| {
        let names: Vec<&str> = Topology::ALL.iter().map(|topology| topology.name()).collect();
        format!("one of {} is wanted", names.join(", "))
    })
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::named(text).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("one of {} is wanted", names.join(", "))
    })
}
