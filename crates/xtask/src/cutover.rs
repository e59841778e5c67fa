//! `cargo xtask cutover`.

use std::path::PathBuf;
use std::time::Instant;

use keyferry_testkit::chaos::Topology;
use keyferry_testkit::rehearsal::{Kind, Programs, Rounds};

use crate::cargo::release;
use crate::chaos::{servers, topology};
use crate::failure::{Failure, Outcome};

/// What is to be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many cutovers that nobody disturbs
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// How many whose program is killed at a step, and then gone on with or undone
    #[arg(long, default_value_t = 0)]
    killed: u64,
    /// How many that are followed by new writes, and cut back
    #[arg(long, default_value_t = 0)]
    back: u64,
    /// Seed of the first round; each further one has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// From what to what
    #[arg(long, default_value = "standalone", value_parser = topology)]
    topology: Topology,
    /// Writes of the application in a second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Where the logs of failed rounds are kept [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// A directory with the programs `migrate` and `cutover`, instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Print what happened in rounds that passed, too
    #[arg(long)]
    verbose: bool,
    /// Only these servers [default: all that are found]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let binaries = servers(&args.names)?;
    let program = |name: &str| match &args.programs {
        Some(directory) => Ok(directory.join(name)),
        None => release("keyferry-examples", "--example", name, &[]),
    };
    let rounds = Rounds {
        programs: Programs { migrate: program("migrate")?, cutover: program("cutover")? },
        topology: args.topology,
        binaries,
        rate: args.rate,
        keep: args.keep.clone().unwrap_or_else(std::env::temp_dir),
    };
    let begun = Instant::now();
    let kinds = [(Kind::Plain, args.rounds), (Kind::Killed, args.killed), (Kind::Back, args.back)];
    let all = kinds.into_iter().flat_map(|(kind, count)| (0..count).map(move |_| kind));
    let (mut stops, mut gaps, mut writes, mut failed, mut count) = (Vec::new(), Vec::new(), 0, 0, 0);
    for (kind, seed) in all.zip(args.seed..) {
        count += 1;
        match rounds.round(kind, seed) {
            Ok(done) => {
                let shown = |seconds: &[f64]| {
                    seconds.iter().map(|s| format!("{s:.3}")).collect::<Vec<_>>().join(" and ")
                };
                println!(
                    "{seed:>6} {:<6} {:<11} {:<7} none of {} acknowledged writes lost ({} unknown); nobody wrote for {} s, the \
                     application saw {} s; {:.1} s",
                    kind.name(),
                    done.binary,
                    done.stop,
                    done.tally.acknowledged,
                    done.tally.unknown,
                    shown(&done.write_stops),
                    shown(&done.gaps),
                    done.took.as_secs_f64()
                );
                if args.verbose {
                    done.happened.iter().for_each(|line| println!("       {line}"));
                }
                stops.extend(done.write_stops);
                gaps.extend(done.gaps);
                writes += done.tally.acknowledged;
            }
            Err(error) => {
                failed += 1;
                println!("{seed:>6} {:<6} FAILED\n{error}", kind.name());
            }
        }
    }
    println!(
        "cutover: {count} rounds of {}, {failed} failed, {writes} acknowledged writes; write stop: median {:.3} s, longest {:.3} s; as \
         the application saw it: median {:.3} s, longest {:.3} s; {:.0} s",
        args.topology.name(),
        quantile(&mut stops, 0.5),
        quantile(&mut stops, 1.0),
        quantile(&mut gaps, 0.5),
        quantile(&mut gaps, 1.0),
        begun.elapsed().as_secs_f64()
    );
    if failed > 0 {
        return Err(Failure::new(format!("{failed} of {count} rounds failed")));
    }
    Ok(())
}

fn quantile(of: &mut [f64], share: f64) -> f64 {
    of.sort_by(f64::total_cmp);
    let at = (of.len().saturating_sub(1) as f64 * share).round() as usize;
    of.get(at).copied().unwrap_or(0.0)
}
