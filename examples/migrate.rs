//! Moves everything from one Redis-compatible server to another while both stay in service.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use keyferry_client::Endpoint;
use keyferry_migrate::{Finished, Migration, Outcome, Report, Stopper, Until};

/// Move everything from one Redis-compatible server to another while both stay in service.
#[derive(Debug, Parser)]
#[command(name = "migrate", version, after_help = EXAMPLES)]
struct Args {
    /// Where the data is: redis://[user:password@]host[:port], rediss:// (TLS) or unix:///path
    // Text, not options: a wrong URL must not be echoed with its password.
    #[arg(long, value_name = "URL", env = "KEYFERRY_SOURCE", hide_env_values = true)]
    source: String,

    /// Where it goes, in the same form
    #[arg(long, value_name = "URL", env = "KEYFERRY_TARGET", hide_env_values = true)]
    target: String,

    /// When to end
    #[arg(long, value_enum, default_value_t = When::Forever)]
    until: When,

    /// With --until caught-up: how long to wait for a quiet second while the source is still being written to
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    linger: u64,

    /// Empty directory for what has been read and not yet applied [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// Write a report here when it ends, also when it fails
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,

    /// Values larger than this many bytes are built in parts
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    value_limit: usize,

    /// Let the source write its snapshot to its own disk first, instead of streaming it
    #[arg(long)]
    source_disk: bool,
}

const EXAMPLES: &str = "\
Examples:
  migrate --source redis://old:6379 --target 'rediss://mover@new:6380?password-env=NEW_PW' --until caught-up
  migrate --source redis://old:6379 --target redis://new:6379 --journal /var/tmp/journal --report move.json

Passwords: in the URL, or by its options password-env=VARIABLE and password-file=FILE.
Exit status: 0 done (caught up, or stopped with everything applied), 1 failed, 2 wrong usage.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    /// When the target holds everything that the source holds
    CaughtUp,
    /// When stopped by Ctrl-C or SIGTERM
    Forever,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("cannot start: {e}")),
    };
    runtime.block_on(run(args))
}

async fn run(args: Args) -> ExitCode {
    let parse =
        |side: &str, url: &str| url.parse::<Endpoint>().map_err(|e| eprintln!("migrate: --{side}: {e}"));
    let (Ok(source), Ok(target)) = (parse("source", &args.source), parse("target", &args.target)) else {
        return ExitCode::from(2);
    };
    // Opened before anything is done: afterwards it would be too late to say that it cannot be written.
    let report_file = match args.report.as_ref().map(std::fs::File::create).transpose() {
        Ok(file) => file,
        Err(e) => return fail(&format!("report {}: {e}", args.report.unwrap_or_default().display())),
    };
    let mut migration = Migration::new(source, target);
    let options = migration.options_mut();
    options.journal = args.journal;
    options.value_limit = args.value_limit;
    options.link.diskless = !args.source_disk;
    options.until = match args.until {
        When::CaughtUp => {
            Until::CaughtUp { quiet: Duration::from_secs(1), linger: Duration::from_secs(args.linger) }
        }
        When::Forever => Until::Forever,
    };
    let view = tokio::spawn(keyferry_examples::show_progress(migration.progress()));
    tokio::spawn(stop_on_signal(migration.stopper()));
    let Finished { report, result, .. } = migration.run().await;
    view.abort();
    print_summary(&report);
    let written = report_file.map_or(Ok(()), |file| serde_json::to_writer_pretty(file, &report));
    if let Err(e) = written {
        eprintln!("migrate: the report could not be written: {e}");
    }
    match (result, &report.outcome) {
        (Err(error), _) => fail(&error.to_line()),
        (Ok(()), Outcome::Stopped { everything_applied: false }) => {
            fail("stopped before everything was applied")
        }
        (Ok(()), _) => ExitCode::SUCCESS,
    }
}

/// The first signal asks for a clean end, the second ends at once.
async fn stop_on_signal(stopper: Stopper) {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let Ok(mut terminate) = terminate else { return };
    for signal in 0.. {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        if signal > 0 {
            std::process::exit(130);
        }
        eprintln!("migrate: stopping: applying what has been read (again to end at once)");
        stopper.stop();
    }
}

fn print_summary(report: &Report) {
    let (figures, snapshot) = (&report.figures, &report.snapshot);
    println!("source   {} ({})", report.source.url, report.source.server.as_deref().unwrap_or("not reached"));
    println!("target   {} ({})", report.target.url, report.target.server.as_deref().unwrap_or("not reached"));
    let databases = snapshot.keys.len();
    println!(
        "snapshot {} keys in {databases} databases, {} with an expiry, {} built in parts, {} function libraries",
        snapshot.total_keys(),
        snapshot.with_expiry,
        snapshot.large,
        snapshot.functions,
    );
    println!("stream   {} commands, {} reconnects", figures.commands_applied, figures.reconnects);
    for (what, count) in [
        ("empty containers, which servers drop too", snapshot.empty_containers_dropped),
        ("large keys that had expired", snapshot.expired_dropped),
        ("blocks of module data beside keys", snapshot.module_data_dropped),
        ("notes of the source about itself", snapshot.notes_dropped),
    ] {
        if count > 0 {
            println!("dropped  {count} {what}");
        }
    }
    for (loss, count) in &snapshot.losses {
        println!("lost     {loss} of {count} large values; the report names them");
    }
    if let Some(position) = &report.position {
        println!("position {position}");
    }
    if let Some(journal) = &report.journal {
        println!("journal  {journal} holds what was not applied");
    }
    for note in &report.notes {
        println!("note     {note}");
    }
    match &report.outcome {
        Outcome::CaughtUp { source_was_writing: false } => {
            println!("caught up in {:.1} s: the target holds what the source holds", figures.elapsed_seconds);
        }
        Outcome::CaughtUp { .. } => println!(
            "caught up in {:.1} s, but the source is still being written to: the target has everything up to the \
             position above",
            figures.elapsed_seconds
        ),
        Outcome::Stopped { everything_applied: true } => {
            println!("stopped: everything read has been applied")
        }
        _ => {}
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("migrate: {message}");
    ExitCode::FAILURE
}
