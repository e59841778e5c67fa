//! `migrate --precheck`: looking at both sides, and saying so.

use std::{path::PathBuf, process::ExitCode};

use keyferry_migrate::{
    Migration,
    precheck::{Depth, Item, Report, Verdict},
};

/// The options of looking before a migration.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Looking first")]
pub struct PrecheckArgs {
    /// Only look at both sides and say what would end badly; nothing is written. Exit status 1 when an item fails
    #[arg(long)]
    pub precheck: bool,

    /// With --precheck: write down the servers, the options and what was found, unless an item fails. Without it: run exactly
    /// that, and refuse when a server was restarted or failed over since, or the target written to
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// With --precheck: print JSON instead of a table
    #[arg(long, requires = "precheck")]
    pub json: bool,

    /// Do not look at both sides before the run
    #[arg(long, conflicts_with = "precheck")]
    pub no_precheck: bool,

    /// Begin although this item fails (repeatable); the report names it
    #[arg(long, value_name = "ITEM")]
    pub ignore: Vec<Item>,
}

/// Looks at all items and prints what was found; exit status 0 when none fails that is not ignored, else 1.
pub async fn precheck(migration: &Migration, args: &PrecheckArgs) -> (Report, ExitCode) {
    let (report, plan) = match &args.plan {
        None => (migration.precheck(Depth::Full).await, None),
        Some(file) => {
            let words = crate::words();
            let (report, plan) = migration.plan(crate::planned(&words)).await;
            if plan.is_none() {
                eprintln!("migrate: plan {}: not written, as an item fails", file.display());
            }
            (report, plan.map(|plan| (file, plan)))
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        println!("{report}");
    }
    if let Some((file, plan)) = plan {
        let written = serde_json::to_vec_pretty(&plan).map_err(std::io::Error::from);
        if let Err(e) = written.and_then(|plan| std::fs::write(file, plan)) {
            eprintln!("migrate: plan {}: {e}", file.display());
            return (report, ExitCode::FAILURE);
        }
    }
    let code = if report.verdict == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    (report, code)
}

/// Says what a run found worth knowing before it began; failures are said by the error.
pub fn print_warnings(report: &Report) {
    for finding in &report.findings {
        let ignored = if finding.ignored { " (ignored)" } else { "" };
        if finding.verdict == Verdict::Warn || finding.ignored {
            println!("precheck {}{ignored}: {}", finding.item, finding.evidence.join("; "));
        }
    }
}
