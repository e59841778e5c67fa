//! Shows in which slots keys are, and who serves them.

use std::fmt::Write;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use keyferry_examples::eprintln;
use keyferry_routing::{Topology, hash_tag, slot};

/// Show the cluster slot of keys, and with a node table the primary that serves it
///
/// One line for each key: the slot, the part of the key that decides about it, and the key, separated by tabs. With --nodes the
/// owner comes in front of the key.
#[derive(Debug, Parser)]
#[command(name = "slot", version, after_help = EXAMPLES)]
struct Args {
    /// The keys, as they are
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,

    /// What `redis-cli CLUSTER NODES` printed, or a nodes.conf
    #[arg(long, value_name = "FILE")]
    nodes: Option<std::path::PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  slot user:1 '{user:1}:name'
  redis-cli -h node1 CLUSTER NODES > nodes.txt; slot --nodes nodes.txt user:1

Exit status: 0 done, 1 the file cannot be read or a slot has no owner, 2 wrong usage.";

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("slot: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True when every key has an owner, or nobody asked for one.
fn run(args: &Args) -> Result<bool, String> {
    let topology = match &args.nodes {
        None => None,
        Some(file) => {
            let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            Some(Topology::from_nodes(&text).map_err(|error| format!("{}: {error}", file.display()))?)
        }
    };
    let (mut all_owned, mut out) = (true, String::new());
    for key in &args.keys {
        let slot = slot(key.as_bytes());
        let owner = match topology.as_ref().map(|topology| topology.owner(slot)) {
            None => String::new(),
            Some(owner) => match owner.and_then(|node| node.address("(this host)", false)) {
                Some((host, port)) => format!("{host}:{port}\t"),
                None => {
                    all_owned = false;
                    "nobody\t".to_owned()
                }
            },
        };
        let hashed = hash_tag(key.as_bytes()).escape_ascii();
        // Writing to a String cannot fail, and a reader that has seen enough is no failure.
        let _ = writeln!(out, "{slot}\t{hashed}\t{owner}{}", key.escape_debug());
    }
    let _ = std::io::stdout().write_all(out.as_bytes());
    Ok(all_owned)
}
