//! Comparing two servers by their snapshots and key by key, beside the time that both need to write snapshots, and beside a program
//! that works as redis-full-check does.

use std::process::{Command, Stdio};
use std::time::Instant;

use keyferry_testkit::data::{Mixed, tiny_keys_file};
use keyferry_testkit::process::{Measured, measure};
use keyferry_testkit::{Client, Server, ServerBinary};

use super::page::{Table, mebibytes, seconds, times};
use super::{PATIENCE, client, start, wait_for};
use crate::cargo::release;
use crate::failure::{Context as _, Failure, Outcome};

/// Of the runs of each, the quickest counts.
const RUNS: usize = 3;

pub(super) fn measure_diff(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let program = release("keyferry-examples", "--example", "diff", &[])?;
    let yardstick = release("keyferry-benches", "--example", "compare_by_key", &[])?;
    let source = start(binary)?;
    let mixed = Mixed::scaled(scale);
    println!("diff: filling two servers with {} keys", mixed.keys);
    let elements = mixed.fill(&mut client(&source)?)?;
    client(&source)?.call(&["SAVE"])?;
    let (file, dir) = (source.dir().join("dump.rdb"), tempfile::tempdir().during("making a directory")?);
    let bytes = std::fs::copy(&file, dir.path().join("dump.rdb")).during(file.display())?;
    let target = Server::builder(binary).dir(dir.path()).timeout(PATIENCE).start()?;
    wait_for("loading a file", || Ok(client(&target)?.call_raw(&["PING"])?.error().is_none()))?;
    for server in [&source, &target] {
        client(server)?.call(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])?;
    }

    let mut saved = f64::INFINITY;
    let mut best = [None, None, None, None];
    let servers = [source.url(), target.url()];
    let files = [file.display().to_string(), file.display().to_string()];
    let sides = [
        (&program, &servers, None),
        (&program, &files, None),
        (&program, &servers, Some("--live")),
        (&yardstick, &servers, None),
    ];
    for _ in 0..RUNS {
        saved = saved.min(save_both(&mut client(&source)?, &mut client(&target)?)?);
        for (best, (program, [a, b], option)) in best.iter_mut().zip(&sides) {
            let mut command = Command::new(program);
            command
                .args([a, b])
                .args(*option)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let run = measure(&mut command)?;
            if !run.status.success() {
                return Err(Failure::new(format!("comparing {a} and {b} ended with {}", run.status)));
            }
            if best.as_ref().is_none_or(|best: &Measured| run.wall < best.wall) {
                *best = Some(run);
            }
        }
    }
    // Only a comparison that can tell a difference gives figures.
    client(&target)?.call(&["SET", "keyferry-bench-mark", "1"])?;
    for option in [None, Some("--live")] {
        let mut command = Command::new(&program);
        command.args(&servers).args(["--interval", "0.1"]).args(option);
        let found = command.output().during(program.display())?;
        if found.status.code() != Some(1) {
            return Err(Failure::new(format!("a planted difference was not found: {found:?}")));
        }
    }

    let about = format!(
        "{} keys in {} databases with {elements} elements, {:.0} MB as RDB file, on two servers: `diff` beside the wall time that both \
         take to BGSAVE at once, told not to wait for further replicas; `diff --live`, which finds keys by SCAN on both sides, compares their expiries, too, \
         and looks for keys of either side, beside a program that works as redis-full-check's full mode does (`benches/examples/compare_by_key.rs`). \
         Best of {RUNS} runs each, taken in turn.",
        mixed.keys,
        mixed.databases,
        bytes as f64 / 1e6,
    );
    let header = ["", "wall time", "", "tool CPU", "peak memory"];
    let mut table = Table::new("diff", "Comparing two servers", about, &header);
    table.row(["both BGSAVE", &seconds(saved), "", "", ""].map(str::to_owned));
    let names = ["`diff`, two servers", "`diff`, two files", "`diff --live`", "as redis-full-check does"];
    for (name, run) in names.into_iter().zip(best.into_iter().flatten()) {
        let wall = run.wall.as_secs_f64();
        table.row([
            name.to_owned(),
            seconds(wall),
            times(wall / saved),
            seconds(run.cpu_seconds),
            mebibytes(run.peak_rss_kib),
        ]);
    }
    drop((source, target));
    let [many, by_key] = [many_keys(scale, &program)?, small_keys(binary, scale, &program)?];
    Ok(vec![table, by_key, many])
}

/// The memory that snapshots of very many keys take.
fn many_keys(scale: f64, program: &std::path::Path) -> Outcome<Table> {
    let keys = (100_000_000.0 * scale) as u64;
    println!("diff: writing two files of {keys} small keys");
    let dir = tempfile::tempdir().during("making a directory")?;
    let files = ["a.rdb", "b.rdb"].map(|name| dir.path().join(name));
    let bytes = tiny_keys_file(&files[0], keys, false)?;
    tiny_keys_file(&files[1], keys, true)?;
    let mut command = Command::new(program);
    let report = dir.path().join("report.jsonl");
    command.args(&files).arg("--temporary").arg(dir.path()).arg("--jsonl").arg(&report);
    let run = measure(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    if !run.status.success() {
        return Err(Failure::new(format!("diff of {keys} keys ended with {}", run.status)));
    }
    let report = std::fs::read_to_string(&report).during(report.display())?;
    if !report.contains(&format!("\"equal\":{keys},")) {
        return Err(Failure::new(format!("not all of {keys} keys were compared: {report}")));
    }
    let about = format!(
        "{keys} strings of 18 bytes with their names, in two RDB files of {:.1} GB, the second in the opposite order: `diff` with its default \
         of 128 MiB for digests; the rest waits on disk. One run.",
        bytes as f64 / 1e9
    );
    let header = ["", "wall time", "keys a second, both sides", "tool CPU", "peak memory"];
    let mut table = Table::new("diff-many-keys", "Comparing snapshots of very many keys", about, &header);
    let wall = run.wall.as_secs_f64();
    table.row([
        "`diff`, two files".to_owned(),
        seconds(wall),
        format!("{:.0}", 2.0 * keys as f64 / wall),
        seconds(run.cpu_seconds),
        mebibytes(run.peak_rss_kib),
    ]);
    Ok(table)
}

/// Many small strings that do not expire, key by key.
fn small_keys(binary: &ServerBinary, scale: f64, program: &std::path::Path) -> Outcome<Table> {
    let keys = (1_000_000.0 * scale) as u64;
    let servers = [start(binary)?, start(binary)?];
    println!("diff: filling two servers with {keys} small keys");
    for server in &servers {
        let mut client = client(server)?;
        for first in (0..keys).step_by(10_000) {
            let commands: Vec<_> = (first..(first + 10_000).min(keys))
                .map(|n| ["SET".to_owned(), format!("key:{n:010}"), format!("value:{n}")])
                .collect();
            client.pipe(&commands)?;
        }
    }
    let mut best: Option<Measured> = None;
    for _ in 0..RUNS {
        let mut command = Command::new(program);
        command.args([servers[0].url(), servers[1].url()]).arg("--live");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let run = measure(&mut command)?;
        if !run.status.success() {
            return Err(Failure::new(format!("diff --live ended with {}", run.status)));
        }
        if best.as_ref().is_none_or(|best| run.wall < best.wall) {
            best = Some(run);
        }
    }
    let about = format!(
        "{keys} strings of some 12 bytes, none of which expires, on two servers: `diff --live`. Best of {RUNS} runs."
    );
    let mut table = Table::new(
        "diff-small-keys",
        "Comparing small keys one by one",
        about,
        &["", "wall time", "keys a second", "tool CPU", "peak memory"],
    );
    if let Some(run) = best {
        let wall = run.wall.as_secs_f64();
        table.row([
            "`diff --live`".to_owned(),
            seconds(wall),
            format!("{:.0}", keys as f64 / wall),
            seconds(run.cpu_seconds),
            mebibytes(run.peak_rss_kib),
        ]);
    }
    Ok(table)
}

/// How long it takes until both have written a snapshot that they began at once.
fn save_both(a: &mut Client, b: &mut Client) -> Outcome<f64> {
    let begin = Instant::now();
    a.call(&["BGSAVE"])?;
    b.call(&["BGSAVE"])?;
    for client in [a, b] {
        wait_for("writing a snapshot", || {
            Ok(client.info("persistence", "rdb_bgsave_in_progress")?.as_deref() == Some("0"))
        })?;
    }
    Ok(begin.elapsed().as_secs_f64())
}
