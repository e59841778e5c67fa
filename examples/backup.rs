//! Writes what a server, a cluster or files hold into files: a backup.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use keyferry_examples::{ReportFile, SelectionArgs, Source, eprintln, interrupted};
use keyferry_files::{
    Error, Input, InputOptions, Output, OutputKind,
    convert::{ConvertOptions, ConvertReport, DatabaseMove, OnLoss, convert},
    time,
};
use keyferry_migrate::{
    Error as Failure,
    backup::{Backup, BackupProgress, BackupReport},
};
use keyferry_rdb::TargetFormat;

/// Back up a server, or each shard of a cluster, into files, while they go on
///
/// Each primary is asked for a snapshot as by a replica. It is written byte for byte, read as it passes by, and gets its name when it is
/// whole, with the right checksum, and on disk. Of a cluster, the same command goes on where one that was ended has left off: shards that are whole
/// are kept in FILE.partial, the others are read from their beginning. `migrate --source FILE` is the way back.
#[derive(Debug, Parser)]
#[command(name = "backup", version, after_help = EXAMPLES)]
struct Args {
    /// What to back up: redis://[user:password@]host[:port], rediss:// (TLS), unix:///path,
    /// redis+cluster://host:port,host:port, redis+sentinel://host:port,host:port/service; or files (repeatable)
    // Text, not options: a wrong URL must not be echoed with its password.
    #[arg(long, value_name = "URL|FILE", env = "KEYFERRY_SOURCE", hide_env_values = true, required = true)]
    source: Vec<String>,

    /// Where it goes: FILE.rdb (a snapshot), .aof or .resp (commands), .jsonl (for people and programs), a directory with / at the
    /// end (an append-only file in parts), or - for standard output. Of a cluster each shard gets a file: FILE.1-of-3.rdb
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// What is written, where the name does not tell; rdb otherwise
    #[arg(long, value_name = "KIND", value_parser = ["rdb", "aof", "aof-dir", "resp", "jsonl"])]
    format: Option<String>,

    /// Of a cluster, or of several files: one file of everything
    #[arg(long)]
    merge: bool,

    /// Replace files that exist
    #[arg(long)]
    force: bool,

    /// Of a cluster: read all shards, also those that an earlier run has kept
    #[arg(long)]
    restart: bool,

    /// Read from replicas, where there are any (clusters and sentinels)
    #[arg(long)]
    prefer_replicas: bool,

    /// Let each server write its snapshot to its own disk first, instead of streaming it
    #[arg(long)]
    source_disk: bool,

    /// How long a server may be busy with loading, or with another snapshot
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,

    /// The server that is to load the files, such as redis-6.0, valkey-8.1 [default: one like the source]
    #[arg(long, value_name = "SERVER")]
    to: Option<TargetFormat>,

    /// With --to: leave out, and name, what that server has no place for, instead of failing
    #[arg(long, requires = "to")]
    drop_losses: bool,

    /// Make a database another one (repeatable)
    #[arg(long, value_name = "FROM=TO")]
    db_map: Vec<DatabaseMove>,

    /// Write here what was done, also when it fails
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,

    #[command(flatten)]
    selection: SelectionArgs,
}

const EXAMPLES: &str = "\
Examples:
  backup --source redis://host:6379 --out dump.rdb
  backup --source redis+cluster://a:6379,b:6379 --out backup/dump.rdb            # dump.1-of-3.rdb and so on
  backup --source redis+cluster://a:6379,b:6379 --out dump.rdb --merge --prefer-replicas
  backup --source redis://host:6379 --out - | gzip > dump.rdb.gz
  backup --source redis://host:6379 --out users.jsonl --keys 'user:*'

The way back: migrate --source dump.rdb --target URL, for several files --source once for each.
Exit status: 0 done, 1 failed and not written, 2 wrong usage.";

fn main() -> ExitCode {
    let args = Args::parse();
    let source = match Source::of(&args.source) {
        Ok(source) => source,
        Err(wrong) => return usage(&wrong),
    };
    let report = match args.report.as_deref().map(ReportFile::open).transpose() {
        Ok(file) => file,
        Err(wrong) => return fail(&wrong),
    };
    let kind = args.format.as_ref().and_then(|name| name.parse().ok());
    let written = match source {
        Source::Servers(source) => {
            let mut backup = Backup::new(*source, &args.out);
            let options = backup.options_mut();
            options.kind = kind;
            options.merge = args.merge;
            options.replace = args.force;
            options.restart = args.restart;
            options.prefer_replicas = args.prefer_replicas;
            options.link.diskless = !args.source_disk;
            options.patience = Duration::from_secs(args.patience);
            options.convert = convert_options(&args);
            match of_servers(backup, args.out == Path::new("-")) {
                Ok(done) => {
                    print(&done);
                    report.map(|file| file.write_json(&done))
                }
                Err(error) => return failed(report, &error),
            }
        }
        Source::Files(files) => match of_files(&files, kind, &args) {
            Ok(done) => {
                print_converted(&done);
                report.map(|file| file.write_json(&done))
            }
            Err(error) => return failed(report, &with_advice(&error)),
        },
    };
    match written {
        Some(Err(wrong)) => fail(&wrong),
        _ => ExitCode::SUCCESS,
    }
}

fn failed(report: Option<ReportFile>, error: &str) -> ExitCode {
    if let Some(file) = report {
        file.write_failure(error);
    }
    fail(error)
}

fn convert_options(args: &Args) -> ConvertOptions {
    let mut options = ConvertOptions::default();
    options.target = args.to;
    options.selection = args.selection.clone().selection();
    args.db_map.iter().for_each(|step| options.databases.add(*step));
    if args.drop_losses {
        options.on_loss = OnLoss::Drop;
    }
    options
}

fn of_servers(backup: Backup, is_stream: bool) -> Result<BackupReport, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start: {e}"))?;
    runtime.block_on(async {
        let (progress, dir) = (backup.progress(), backup.partial_dir());
        let shown = tokio::spawn(show(progress.clone()));
        let done = tokio::select! {
            done = backup.run() => done.map_err(|error| match &error {
                Failure::File(of_file) => with_advice(of_file),
                _ => error.to_line(),
            }),
            // What is not whole is removed with the future.
            () = interrupted() => Err("stopped".to_owned()),
        };
        shown.abort();
        done.map_err(|error| match progress.kept() {
            kept if kept > 0 && dir.exists() => format!(
                "{error}; {kept} shards that are whole are kept in {}: the same command goes on with the others, --restart \
                 begins anew",
                dir.display()
            ),
            // Nothing was begun, or somebody has it already.
            _ if !progress.has_begun() || is_stream => error,
            _ => format!("{error}; nothing is left of it"),
        })
    })
}

fn of_files(files: &[PathBuf], kind: Option<OutputKind>, args: &Args) -> Result<ConvertReport, Error> {
    let inputs: Result<Vec<Input>, Error> =
        files.iter().map(|file| Input::open(file, InputOptions::default())).collect();
    let kind = kind.or_else(|| OutputKind::of_path(&args.out)).unwrap_or(OutputKind::Snapshot);
    let output = match args.out == Path::new("-") {
        true => Output::writer("standard output", std::io::stdout(), kind),
        false if args.force => Output::path(&args.out, kind).private().replacing(),
        false => Output::path(&args.out, kind).private(),
    };
    let done = convert(inputs?, vec![output], convert_options(args));
    done.result.map(|()| done.report)
}

/// A bar on a terminal, a line every few seconds elsewhere.
async fn show(progress: BackupProgress) {
    let terminal = std::io::stderr().is_terminal();
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{spinner} {elapsed_precise} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left, {msg}";
    let unknown = "{spinner} {elapsed_precise} {binary_bytes}, {binary_bytes_per_sec}, {msg}";
    let styled =
        |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(styled(unknown));
    let begun = std::time::Instant::now();
    let mut last = begun;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if terminal {
            if let (Some(total), None) = (progress.total(), bar.length()) {
                bar.set_style(styled(style));
                bar.set_length(total);
            }
            bar.set_message(format!("{} keys", HumanCount(progress.keys())));
            bar.set_position(progress.received());
        } else if last.elapsed() >= Duration::from_secs(5) {
            last = std::time::Instant::now();
            let seconds = begun.elapsed().as_secs_f64();
            let rate = progress.received() as f64 / seconds;
            let of = progress.total().map_or(String::new(), |total| format!(" of {}", HumanBytes(total)));
            eprintln!(
                "backup: {seconds:>7.1}s {} keys, {}{of}, {}/s",
                HumanCount(progress.keys()),
                HumanBytes(progress.received()),
                HumanBytes(rate as u64)
            );
        }
    }
}

/// On standard error: standard output may be the file.
fn print(report: &BackupReport) {
    for snapshot in &report.snapshots {
        let slots = snapshot.slots.as_ref().map_or(String::new(), |slots| format!(", slots {slots}"));
        let (read, taken) = match snapshot.kept {
            true => (
                "kept",
                format!(", as it was at {}", time::show(snapshot.taken_ms.try_into().unwrap_or(i64::MAX))),
            ),
            false => ("read", String::new()),
        };
        eprintln!(
            "{read:<9} {}: {} keys, {} function libraries, {}{slots}, at {}:{}{taken}",
            snapshot.server,
            HumanCount(snapshot.keys),
            snapshot.functions,
            HumanBytes(snapshot.bytes),
            snapshot.replication_id,
            snapshot.offset
        );
    }
    report.notes.iter().for_each(|note| eprintln!("note      {note}"));
    report.converted.iter().for_each(print_converted);
    if report.converted.is_empty() {
        for file in &report.files {
            let bytes = std::fs::metadata(file).map_or(0, |data| data.len());
            eprintln!("written   {}: {}, checksum right", file.display(), HumanBytes(bytes));
        }
    }
    if let Some(manifest) = &report.manifest {
        eprintln!("written   {}: what belongs together, with digests", manifest.display());
    }
}

fn print_converted(report: &ConvertReport) {
    for output in &report.outputs {
        eprintln!(
            "written   {} ({}): {} keys, {}",
            output.name,
            output.kind,
            HumanCount(output.keys),
            HumanBytes(output.bytes)
        );
    }
    for (count, what) in [
        (report.left_out, "keys that were not chosen"),
        (report.empty_dropped, "keys without elements, or whose fields have all expired"),
    ] {
        if count > 0 {
            eprintln!("left out  {} {what}", HumanCount(count));
        }
    }
    for loss in &report.losses {
        let db = loss.db.map_or(String::new(), |db| format!(" in database {db}"));
        eprintln!("lost      {}{db}: {}", loss.key.as_deref().unwrap_or("(no key)"), loss.what);
    }
}

/// What a person can do about it, in the words of this program.
fn with_advice(error: &Error) -> String {
    let advice = match error {
        Error::Losses { .. } => "--drop-losses leaves it out, and names it",
        Error::Exists { .. } => "--force replaces files",
        _ => return error.to_string(),
    };
    format!("{error} ({advice})")
}

fn usage(message: &str) -> ExitCode {
    eprintln!("backup: {message}");
    ExitCode::from(2)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("backup: {message}");
    ExitCode::FAILURE
}
