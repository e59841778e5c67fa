//! `cargo xtask matrix`.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyferry_testkit::data::{self, Mixed, Writer, WriterOptions};
use keyferry_testkit::process::{Measured, measure_child};
use keyferry_testkit::{Server, ServerBinary, all, compare, digest, named};

use crate::bootstrap;
use crate::cargo::{cargo, release, succeed};
use crate::failure::{Context as _, Failure, Outcome};

/// Keys of the mixed data, besides the small data of every type.
const KEYS: u64 = 20_000;

/// How long the tool waits for the end of the writing, beyond the time of writing itself.
const LINGER: Duration = Duration::from_secs(60);

/// Migrates from each server to another of the same version while the source is being written to, and compares the two.
pub(crate) fn migrate(names: &[String], seconds: u64) -> Outcome {
    bootstrap::ensure_server()?;
    let binaries: Vec<&ServerBinary> = if names.is_empty() {
        all()?.iter().collect()
    } else {
        names.iter().map(|name| named(name)).collect::<Result<_, _>>()?
    };
    let tool = release("keyferry-examples", "--example", "migrate", &[])?;
    let mut failed = Vec::new();
    for binary in &binaries {
        let start = Instant::now();
        match pair(binary, &tool, Duration::from_secs(seconds)) {
            Ok(done) => {
                let took = start.elapsed().as_secs_f64();
                println!("{:<11} equal: {done}, {took:.1} s", binary.name);
            }
            Err(failure) => {
                eprintln!("{:<11} FAILED: {failure}", binary.name);
                failed.push(binary.name.as_str());
            }
        }
    }
    if failed.is_empty() {
        println!("matrix: {} of {} pairs equal", binaries.len(), binaries.len());
        return Ok(());
    }
    Err(Failure::new(format!("{} of {} pairs failed: {}", failed.len(), binaries.len(), failed.join(", "))))
}

/// Converts the data of each server for each, and compares what they make of it.
pub(crate) fn offline() -> Outcome {
    bootstrap::ensure_server()?;
    // The tests do it, on less data; this is the long form of the same.
    let arguments = ["test", "--package", "keyferry-files", "--test", "conversions", "--quiet", "matrix::"];
    let shown = ["--", "--nocapture"];
    let mut command = cargo(arguments.into_iter().chain(shown));
    command.env("KEYFERRY_MATRIX", "full");
    succeed(&mut command)
}

/// Plants differences among a million equal keys, and looks for them in every way: oldest and newest servers, clusters.
pub(crate) fn diff() -> Outcome {
    bootstrap::ensure_server()?;
    // The tests do it among ten thousand keys; this is the long form of the same.
    let arguments =
        ["test", "--release", "--package", "keyferry-diff", "--test", "it", "--quiet", "planted::"];
    let shown = ["--", "--nocapture", "--test-threads", "1"];
    let mut command = cargo(arguments.into_iter().chain(shown));
    command.env("KEYFERRY_DIFF_KEYS", "1000000");
    succeed(&mut command)
}

/// Runs the cases of keyferry-compat on every server, alone and as a cluster.
pub(crate) fn compat() -> Outcome {
    bootstrap::ensure_server()?;
    // The tests do it with one server; this is the long form of the same.
    let arguments = ["test", "--package", "keyferry-compat", "--test", "it", "--quiet", "servers::our_cases"];
    let shown = ["--", "--nocapture", "--test-threads", "1"];
    let mut command = cargo(arguments.into_iter().chain(shown));
    command.env("KEYFERRY_COMPAT", "full");
    succeed(&mut command)
}

fn pair(binary: &ServerBinary, tool: &Path, writing: Duration) -> Outcome<String> {
    let (source, target) = (Server::builder(binary).start()?, Server::builder(binary).start()?);
    let mut a = source.client()?;
    data::small(&mut a, 11, 3)?;
    Mixed { keys: KEYS, ..Mixed::default() }.fill(&mut a)?;
    let writer =
        Writer::start(&source, WriterOptions { rate: 4000, threads: 2, ..WriterOptions::default() })?;

    let scratch = tempfile::tempdir().during("making a directory")?;
    let (report, said) = (scratch.path().join("report.json"), scratch.path().join("stderr"));
    let linger = writing + LINGER;
    let start = Instant::now();
    let child = Command::new(tool)
        .args(["--source", &source.url(), "--target", &target.url(), "--until", "caught-up"])
        .args(["--linger", &linger.as_secs().to_string(), "--report"])
        .arg(&report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&said).during(said.display())?)
        .spawn()
        .during(tool.display())?;
    let migration = std::thread::spawn(move || measure_child(child, start));
    while start.elapsed() < writing && !migration.is_finished() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let early = migration.is_finished();
    let counts = writer.stop()?;
    let measured: Measured =
        migration.join().map_err(|_| Failure::new("the measuring thread panicked"))??;
    if !measured.status.success() {
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        return Err(Failure::new(format!("the migration ended with {}: {last}", measured.status)));
    }
    if early {
        return Err(Failure::new("the migration ended while the source was being written to"));
    }
    if counts.errors > 0 {
        let first = counts.first_error.unwrap_or_default();
        return Err(Failure::new(format!(
            "the source refused {} commands, the first: {first}",
            counts.errors
        )));
    }
    if !report.is_file() {
        return Err(Failure::new("the migration wrote no report"));
    }
    let mut b = target.client()?;
    data::settle(&mut a)?;
    data::settle(&mut b)?;
    // Element by element first: it says what differs.
    let comparison = compare(&mut a, &mut b)?;
    if !comparison.is_equal() {
        return Err(Failure::new(comparison.to_string()));
    }
    let digests = [digest(&mut a)?, digest(&mut b)?];
    if digests[0] != digests[1] {
        return Err(Failure::new(format!("DEBUG DIGEST differs: {} {}", digests[0], digests[1])));
    }
    Ok(format!("{} keys, {} commands while migrating", comparison.keys_a, counts.commands))
}
