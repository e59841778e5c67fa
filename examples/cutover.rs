//! Cuts applications over from the source of a migration to its target, with proof, and with a way back.

use std::{
    io::{BufRead, IsTerminal},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::Parser;
use keyferry_client::Endpoint;
use keyferry_examples::{ReportFile, duration, eprintln, interrupted, println, size};
use keyferry_migrate::{
    Finished,
    cutover::{Cutover, CutoverOptions, CutoverOutcome, CutoverReport, StopWrites, Switch, Verify},
};

/// Cut over from the source of a migration that runs (migrate --until forever) to its target
///
/// Looks at the gates, stops writes at the source, waits until the target has everything, compares both sides, keeps the migration from
/// the target for good, notes where the way back begins, and has the applications switched. What is not done within the window is
/// put back, and writes go on. Killed at any step: run it again, or with --undo.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, after_help = EXAMPLES)]
struct Args {
    /// The source of the migration: redis://[user:password@]host[:port], rediss:// (TLS), redis+cluster://host:port,host:port,
    /// redis+sentinel://host:port,host:port/service
    // Text, not options: a wrong URL must not be echoed with its password.
    #[arg(long, value_name = "URL", env = "KEYFERRY_SOURCE", hide_env_values = true)]
    source: String,

    /// Its target, in the same form
    #[arg(long, value_name = "URL", env = "KEYFERRY_TARGET", hide_env_values = true)]
    target: String,

    /// The name of the migration [default: made from both URLs]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,

    /// Look at the gates, and do nothing
    #[arg(long, conflicts_with_all = ["undo", "reverse"])]
    dry_run: bool,

    /// Prepare no way back: for targets that let nobody replicate
    #[arg(long, conflicts_with = "reverse")]
    one_way: bool,

    /// The applications write to the target since a cutover, and the way back runs: cut over to the source again
    #[arg(long)]
    back: bool,

    /// Put back what a run has left that was killed, or whose switch failed: writes go on at the source
    #[arg(long, conflicts_with = "reverse")]
    undo: bool,

    /// How long writes may be stopped before everything is put back; what the switch takes is not bounded
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    window: Duration,

    /// How writes are stopped: pause (CLIENT PAUSE WRITE, from Redis 6.2 on), acl:USER[,USER] (these users are turned off), or verify
    /// (somebody has stopped them: it is made sure)
    #[arg(long, value_name = "HOW", default_value = "pause")]
    stop_writes: StopWrites,

    /// By how much of the stream the target may be behind at the beginning
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "16m")]
    max_lag: u64,

    /// The result of a full comparison before, as diff --jsonl writes it
    #[arg(long, value_name = "FILE.jsonl")]
    proof: Option<PathBuf>,

    /// How old that may be
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "proof")]
    proof_age: Option<Duration>,

    /// What is compared while writes are stopped: auto (everything up to 100,000 keys, else numbers of keys), full, counts, or a
    /// share of the keys as in 1%
    #[arg(long, value_name = "WHAT", value_parser = verify, default_value = "auto", conflicts_with = "changed_in")]
    verify: Verify,

    /// Compare the keys that this journal of the migration (migrate --journal DIR --keep) says were touched since --proof began
    #[arg(long, value_name = "DIR", requires = "proof")]
    changed_in: Option<PathBuf>,

    /// How far apart deadlines may lie; sources before Redis 7.0 tell for how long keys live, not until when, so that what comes late
    /// lives longer [default: not at all, a second where such a server is involved]
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0", hide_default_value = true)]
    expiry_tolerance: Duration,

    /// What the target keeps of its stream at least, so that the way back can begin; 0 leaves it as it is
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64m", conflicts_with = "one_way")]
    backlog: u64,

    /// Go on although others write to the target, or keys were evicted there
    #[arg(long)]
    ignore_warnings: bool,

    /// What has the applications write to the target: run by sh, with KEYFERRY_ID, KEYFERRY_FROM and KEYFERRY_TO (URLs without passwords).
    /// The source takes no writes until it has ended. Without it, you are asked on the terminal
    #[arg(long, value_name = "CMD")]
    on_switch: Option<String>,

    /// Run the way back afterwards, until Ctrl-C or SIGTERM
    #[arg(long)]
    reverse: bool,

    /// With --reverse: its journal
    #[arg(long, value_name = "DIR", requires = "reverse")]
    journal: Option<PathBuf>,

    /// Write a report here, also when it fails
    #[arg(long, value_name = "FILE.json|FILE.md")]
    report: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cutover --source redis://old:6379 --target redis://new:6379 --dry-run
  diff redis://old:6379 redis://new:6379 --barrier --jsonl full.jsonl
  cutover --source redis://old:6379 --target redis://new:6379 --proof full.jsonl --on-switch ./switch.sh --reverse --report cutover.md
  cutover --source redis://old:6379 --target redis+cluster://new1:6379 --stop-writes acl:app --window 10s --on-switch ./switch.sh
  cutover --source redis://old:6379 --target redis://new:6379 --undo
  cutover --source redis://old:6379 --target redis://new:6379 --back --on-switch ./switch-back.sh
  migrate --source redis://new:6379 --target redis://old:6379 --from-now --id NAME.back   # the way back, by itself

Exit status: 0 done, 1 not done and everything is as before, 2 wrong usage, 3 it ended with writes stopped: run it again, or with --undo.";

fn verify(text: &str) -> Result<Verify, String> {
    Ok(match text {
        "auto" => Verify::Auto,
        "full" => Verify::Full,
        "counts" => Verify::Counts,
        share => Verify::Sample(
            share
                .parse()
                .map_err(|_| "auto, full, counts or a share of the keys is wanted, as in 1%".to_owned())?,
        ),
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return usage(&format!("cannot start: {e}")),
    };
    runtime.block_on(run(args))
}

async fn run(args: Args) -> ExitCode {
    let source = args.source.parse::<Endpoint>().map_err(|e| format!("--source: {e}"));
    let target = args.target.parse::<Endpoint>().map_err(|e| format!("--target: {e}"));
    let (source, target) = match (source, target) {
        (Ok(source), Ok(target)) => (source, target),
        (Err(wrong), _) | (_, Err(wrong)) => return usage(&wrong),
    };
    let works = !args.dry_run && !args.undo;
    if works
        && args.stop_writes == StopWrites::Pause
        && args.on_switch.is_none()
        && !std::io::stdin().is_terminal()
    {
        return usage(
            "a pause ends, so the applications have to be switched before: say how (--on-switch CMD)",
        );
    }
    let page = match args.report.as_deref().map(ReportFile::open).transpose() {
        Ok(page) => page,
        Err(wrong) => return usage(&wrong),
    };
    let mut cutover = if args.back { Cutover::back(source, target) } else { Cutover::new(source, target) };
    if let Err(wrong) = put(&args, cutover.options_mut()) {
        return usage(&wrong);
    }
    let cutover = cutover.on_step(|step, since| eprintln!("cutover: {:8.3}s {step}", since.as_secs_f64()));
    let (report, was_interrupted) = if args.dry_run {
        (cutover.rehearse().await, false)
    } else if args.undo {
        (cutover.undo().await, false)
    } else {
        match cut_over(&cutover, args.on_switch.as_deref()).await {
            Some(ended) => ended,
            None => return ExitCode::from(3),
        }
    };
    print(&report);
    if let Some(Err(wrong)) = page.map(|page| page.write(&report, CutoverReport::to_markdown)) {
        eprintln!("cutover: {wrong}");
    }
    match &report.outcome {
        CutoverOutcome::CutOver if args.reverse && !was_interrupted => way_back(&cutover, args.journal).await,
        CutoverOutcome::CutOver => {
            if args.reverse {
                eprintln!(
                    "cutover: interrupted: the way back is not begun; migrate --from-now --id {}",
                    report.back_id
                );
            }
            ExitCode::SUCCESS
        }
        // What was wanted was another thing.
        CutoverOutcome::Undone if was_interrupted => ExitCode::FAILURE,
        outcome if outcome.is_good() => ExitCode::SUCCESS,
        CutoverOutcome::Rehearsed { .. } => ExitCode::FAILURE,
        _ if report.under_way => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

fn put(args: &Args, options: &mut CutoverOptions) -> Result<(), String> {
    options.id = args.id.clone();
    options.window = args.window;
    options.stop = args.stop_writes.clone();
    options.max_lag = args.max_lag;
    options.proof = args.proof.clone();
    options.proof_age = args.proof_age;
    options.verify = args.verify.clone();
    options.expiry_tolerance = args.expiry_tolerance;
    options.backlog = args.backlog;
    options.ignore_warnings = args.ignore_warnings;
    options.one_way = args.one_way;
    if let (Some(journal), Some(proof)) = (&args.changed_in, &args.proof) {
        options.verify = Verify::changed(journal, proof).map_err(|e| e.to_line())?;
    }
    Ok(())
}

/// Cuts over. A signal before the switch puts everything back, and so does one while a person is asked for it. What a command has done that
/// runs, or has run, is not known here, or is done: that is waited for, and goes on. True with the report when a signal came; nothing
/// when a second one did.
async fn cut_over(cutover: &Cutover, command: Option<&str>) -> Option<(CutoverReport, bool)> {
    let begun = AtomicBool::new(false);
    let switch = async |switch| have_switched(command.map(str::to_owned), switch, &begun).await;
    let mut run = Box::pin(cutover.run(switch));
    let mut was_interrupted = false;
    loop {
        tokio::select! {
            // What is done is done, also when a signal came meanwhile.
            biased;
            report = &mut run => return Some((report, was_interrupted)),
            () = interrupted() => {}
        }
        if !begun.load(Ordering::Acquire) {
            break;
        }
        if was_interrupted {
            eprintln!("cutover: ended at once; writes may be stopped: run it again, or with --undo");
            return None;
        }
        was_interrupted = true;
        eprintln!(
            "cutover: interrupted, but the switch has begun, and what it has done cannot be told from here: waiting for it (again to end \
             at once)"
        );
    }
    drop(run);
    eprintln!("cutover: interrupted: putting everything back");
    Some((cutover.undo().await, true))
}

/// Has the applications write to the other side, on a thread of its own, so that signals are heard meanwhile. `begun` is false while
/// somebody is asked.
async fn have_switched(command: Option<String>, switch: Switch, begun: &AtomicBool) -> Result<(), String> {
    begun.store(command.is_some(), Ordering::Release);
    let (ended, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || ended.send(switched(command.as_deref(), &switch)));
    let result = wait.await.map_err(|_| "the thread of the switch has ended".to_owned())?;
    begun.store(true, Ordering::Release);
    result
}

fn switched(command: Option<&str>, switch: &Switch) -> Result<(), String> {
    let Some(command) = command else {
        eprintln!(
            "cutover: everything is at {}; switch the applications there now, then press Enter",
            switch.to
        );
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).map_err(|e| e.to_string())?;
        return if read > 0 {
            Ok(())
        } else {
            Err("nobody said that the applications were switched".to_owned())
        };
    };
    let status = Command::new("sh")
        .args(["-c", command])
        .env("KEYFERRY_ID", &switch.id)
        .env("KEYFERRY_FROM", &switch.from)
        .env("KEYFERRY_TO", &switch.to)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("--on-switch ended with {status}")),
        Err(e) => Err(format!("--on-switch could not be run: {e}")),
    }
}

/// Follows what the applications write from now on, until a signal comes.
async fn way_back(cutover: &Cutover, journal: Option<PathBuf>) -> ExitCode {
    let mut migration = match cutover.way_back() {
        Ok(migration) => migration,
        Err(error) => return usage(&error.to_line()),
    };
    migration.options_mut().journal = journal;
    let stopper = migration.stopper();
    let stop = tokio::spawn(async move {
        interrupted().await;
        stopper.stop();
    });
    let view = tokio::spawn(keyferry_examples::show_progress(migration.progress()));
    let Finished { report, result, .. } = migration.run().await;
    view.abort();
    stop.abort();
    match result {
        Ok(()) => {
            println!(
                "way back {} has come to {}",
                report.id,
                report.position.as_deref().unwrap_or("its beginning")
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cutover: the way back: {}", error.to_line());
            ExitCode::FAILURE
        }
    }
}

fn print(report: &CutoverReport) {
    match &report.back_id[..] {
        "" => println!("id       {} (no way back)", report.id),
        back => println!("id       {} (the way back: {back})", report.id),
    }
    println!("from     {}", report.source);
    println!("to       {}", report.target);
    for gate in &report.gates {
        let remedy = gate.remedy.as_ref().map_or_else(String::new, |remedy| format!(" ({remedy})"));
        println!("{:<8} {}: {}{remedy}", gate.verdict.name(), gate.name, gate.evidence);
    }
    if let Some(proof) = &report.proof {
        let verdict = if proof.equal { "EQUAL" } else { "DIFFERENT" };
        println!("proof    {verdict}: {}: {} keys, {} differences", proof.how, proof.keys, proof.differences);
        proof.samples.iter().for_each(|sample| println!("         {sample}"));
        proof.leaves_open.iter().for_each(|open| println!("         left open: {open}"));
    }
    for (title, places) in [("end", &report.ends), ("begin", &report.begins)] {
        places.iter().for_each(|place| println!("{title:<8} {} {}", place.server, place.position));
    }
    for (title, writes) in [("foreign", &report.foreign), ("stray", &report.stray)] {
        if writes.commands > 0 {
            println!("{title:<8} {} writes, as {}", writes.commands, writes.samples.join("; "));
        }
    }
    report.notes.iter().for_each(|note| println!("note     {note}"));
    println!("{}", report.headline());
}

fn usage(message: &str) -> ExitCode {
    eprintln!("cutover: {message}");
    ExitCode::from(2)
}
