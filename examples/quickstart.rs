//! A live migration in one command: two servers, data of every type, a writer that never stops, and the proof.

use std::{
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};

use keyferry_examples::{eprintln, println};
use keyferry_migrate::{Finished, Migration, Phase, Progress};
use keyferry_testkit::{
    CompareOptions, Server, compare_with,
    data::{Writer, WriterOptions, settle, small},
};

const DATABASES: u32 = 3;
/// How long the source is written to after the snapshot has been applied.
const LIVE: Duration = Duration::from_secs(3);
/// How long any single step may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("quickstart: the two sides differ");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("quickstart: {e}");
            ExitCode::FAILURE
        }
    }
}

/// True when both sides are equal at the end.
async fn run() -> Result<bool, Box<dyn Error>> {
    let (source, target) = (Server::any()?, Server::any()?);
    println!("source  {} at {}", source.binary().name, source.url());
    println!("target  {} at {}", target.binary().name, target.url());

    let commands = small(&mut source.client()?, 1, DATABASES)?;
    println!("filled  the source with every type, expiries and {DATABASES} databases: {commands} commands");
    let writer = Writer::start(
        &source,
        WriterOptions { databases: DATABASES, rate: 5000, ..WriterOptions::default() },
    )?;
    println!("writing to the source, 5000 commands a second of nearly every kind, while it is migrated …");

    let migration = Migration::new(source.url().parse()?, target.url().parse()?);
    let (progress, stopper) = (migration.progress(), migration.stopper());
    let view = tokio::spawn(keyferry_examples::show_progress(progress.clone()));
    let mut running = tokio::spawn(migration.run());

    let caught_up = wait_for(&progress, |p| p.phase() == Phase::Following);
    tokio::select! {
        done = caught_up => done?,
        ended = &mut running => return Err(ended_early(ended?)),
    }
    tokio::time::sleep(LIVE).await;
    let counts = tokio::task::spawn_blocking(|| writer.stop()).await??;
    println!("stopped the writer after {} commands ({} refused)", counts.commands, counts.errors);

    // Keys whose deadline is a second away are let go first, on the source, as its own deletions.
    let mut client = source.client()?;
    let last = tokio::task::spawn_blocking(move || {
        settle(&mut client)?;
        client.info("replication", "master_repl_offset")
    })
    .await??;
    let last: u64 = last.ok_or("the source names no offset")?.parse()?;
    wait_for(&progress, |p| p.figures().applied_offset >= last).await?;
    println!("lag 0   at offset {last}");
    stopper.stop();
    view.abort();
    let finished = running.await?;
    let figures = &finished.report.figures;
    println!(
        "moved   {} keys as a snapshot and {} commands as a stream in {:.1} s",
        figures.keys_applied, figures.commands_applied, figures.elapsed_seconds
    );
    finished.result?;

    // The target keeps how far the migration is, so that it could go on.
    let options = CompareOptions::default().without_bookkeeping();
    let comparison = compare_with(&mut source.client()?, &mut target.client()?, &options)?;
    println!("compare {comparison}");
    if comparison.is_equal() {
        println!("equal   every key, value and expiry is the same on both sides");
    }
    Ok(comparison.is_equal())
}

async fn wait_for(
    progress: &Progress,
    mut done: impl FnMut(&Progress) -> bool,
) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    while !done(progress) {
        if begun.elapsed() > PATIENCE {
            return Err(
                format!("nothing happened for {} s: {:?}", PATIENCE.as_secs(), progress.figures()).into()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn ended_early(finished: Finished) -> Box<dyn Error> {
    match finished.result {
        Err(error) => error.into(),
        Ok(()) => "the migration ended by itself".into(),
    }
}
