//! Converts files of Redis data for another server, another kind of file, or several shards.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use keyferry_examples::{FileProgress, ReportFile, SelectionArgs, eprintln};
use keyferry_files::convert::{
    ConvertOptions, ConvertReport, Converted, DatabaseMove, LossReport, Modules, OnCollision, OnLoss, convert,
};
use keyferry_files::{Error, Input, InputOptions, Output, OutputKind};
use keyferry_rdb::TargetFormat;
use keyferry_routing::{SLOTS, SlotSet};

/// Convert snapshots (RDB files) and append-only files for another server, into another kind of file, or into shards
///
/// What an input is, is told by its content; what the output is, by its name: .rdb, .aof, .resp (commands for redis-cli
/// --pipe), .jsonl, or a directory (with / at the end) for an append-only file in several parts. Memory stays small whatever
/// the size of values. The output gets its name when it is complete, never before.
#[derive(Debug, Parser)]
#[command(name = "convert", version, after_help = EXAMPLES, override_usage = "convert [OPTIONS] <IN>... <OUT>")]
struct Args {
    /// The inputs, which are merged, and last the output: files, directories or manifests of append-only files, or - for
    /// standard input and output
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// The server that is to load the output, such as redis-6.0, valkey-8.1, redict-7.3 [default: one like the input's]
    #[arg(long, value_name = "SERVER")]
    to: Option<TargetFormat>,

    /// What the output is, where its name does not tell; rdb for standard output
    #[arg(long, value_name = "KIND", value_parser = ["rdb", "aof", "aof-dir", "resp", "jsonl"])]
    format: Option<String>,

    /// Replace an output file that exists
    #[arg(long)]
    force: bool,

    /// Take an append-only file that ends inside a command, as a crash leaves it, up to there
    #[arg(long)]
    allow_cut_log: bool,

    /// Make a database another one (repeatable)
    #[arg(long, value_name = "FROM=TO")]
    db_map: Vec<DatabaseMove>,

    /// Write one file for each of N shards of a cluster, OUT with its slots in the name: out.0-5460.rdb
    #[arg(long, value_name = "N", conflicts_with = "slots", value_parser = clap::value_parser!(u16).range(1..=1000))]
    shards: Option<u16>,

    /// What to do about what the target has no place for
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Loss::Fail)]
    on_loss: Loss,

    /// What to do about a key that is there already, from another input or database
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Collision::Fail)]
    on_collision: Collision,

    /// With --to: a module that the target has, by the name of its type, such as ReJSON-RL (repeatable). Without --to the
    /// target is taken to have those of the input
    #[arg(long, value_name = "TYPE", requires = "to")]
    module: Vec<String>,

    /// Write here what was done and everything that was lost, also when it fails
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,

    #[command(flatten)]
    selection: SelectionArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Loss {
    /// Name all of it, write nothing, exit with 1
    Fail,
    /// Leave it out and name it
    Drop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Collision {
    /// Name all of them, write nothing, exit with 1
    Fail,
    /// Keep the first and name the others
    First,
}

const EXAMPLES: &str = "\
Examples:
  convert dump.rdb old.rdb --to redis-6.0
  convert dump.rdb old.rdb --to redis-6.0 --on-loss drop --report lost.json
  convert dump.rdb users.rdb --keys 'user:*' --db 0
  convert dump.rdb - --format resp | redis-cli -h new --pipe
  convert appendonlydir dump.aof --to redis-6.2
  convert dump.rdb appendonlydir/
  convert dump.rdb shard.rdb --shards 3 --db-map 1=0 --on-collision first
  convert shard-1.rdb shard-2.rdb shard-3.rdb whole.rdb

A key of a cluster lives in database 0: with --slots or --shards, others count as lost unless --db-map moves them there.
Commands of an append-only file are passed on as they are, chosen by their keys; only a server can make a snapshot of them.
Exit status: 0 done, 1 failed and nothing written, 2 wrong usage.";

/// How many losses and collisions are shown; the report has the rest.
const SHOWN: usize = 20;

fn main() -> ExitCode {
    let args = Args::parse();
    // Opened before anything is done: afterwards it would be too late to say that it cannot be written.
    let report_file = match args.report.as_deref().map(ReportFile::open).transpose() {
        Ok(file) => file,
        Err(wrong) => return fail(&wrong),
    };
    let (out, inputs) = match args.paths.split_last() {
        Some((out, inputs)) if !inputs.is_empty() => (out.clone(), inputs.to_vec()),
        _ => return usage("where to? Name the output after the input"),
    };
    if inputs.iter().filter(|path| *path == Path::new("-")).count() > 1 {
        return usage("standard input can be read once only");
    }
    let kind = args.format.as_ref().map_or_else(
        || match out == Path::new("-") {
            true => Some(OutputKind::Snapshot),
            false => OutputKind::of_path(&out),
        },
        |name| name.parse().ok(),
    );
    let Some(kind) = kind else {
        let out = out.display();
        return usage(&format!("what is {out} to be? Give it a name like {out}.rdb, or --format"));
    };
    let (options, slots) = options(&args);
    let outputs = match outputs(&out, kind, args.shards, slots, args.force) {
        Ok(outputs) => outputs,
        Err(message) => return usage(message),
    };
    let Converted { report, result, .. } = match open(&inputs, args.allow_cut_log) {
        Ok(inputs) => {
            let progress = match &inputs[..] {
                [only] => Some(FileProgress::show(only.progress(), false)),
                _ => None,
            };
            let converted = convert(inputs, outputs, options);
            drop(progress);
            converted
        }
        Err(error) => {
            let error = error.to_string();
            if let Some(file) = report_file {
                file.write_failure(&error);
            }
            return fail(&error);
        }
    };
    print_summary(&report);
    if let Some(Err(wrong)) = report_file.map(|file| file.write_json(&report)) {
        eprintln!("convert: {wrong}");
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&with_advice(&error)),
    }
}

fn open(paths: &[PathBuf], allow_cut_log: bool) -> Result<Vec<Input>, Error> {
    let mut options = InputOptions::default();
    options.allow_cut_log = allow_cut_log;
    paths.iter().map(|path| Input::open(path, options.clone())).collect()
}

fn options(args: &Args) -> (ConvertOptions, Option<SlotSet>) {
    let mut options = ConvertOptions::default();
    options.selection = args.selection.clone().selection();
    // Slots choose the output, not the key, so that a key outside of database 0 is not passed over.
    let slots = options.selection.slots.take();
    options.target = args.to;
    if args.to.is_some() {
        options.modules = Modules::Named(args.module.clone());
    }
    args.db_map.iter().for_each(|step| options.databases.add(*step));
    options.on_loss = match args.on_loss {
        Loss::Fail => OnLoss::Fail,
        Loss::Drop => OnLoss::Drop,
    };
    options.on_collision = match args.on_collision {
        Collision::Fail => OnCollision::Fail,
        Collision::First => OnCollision::KeepFirst,
    };
    (options, slots)
}

/// The outputs: one, or one for each shard.
fn outputs(
    out: &Path,
    kind: OutputKind,
    shards: Option<u16>,
    slots: Option<SlotSet>,
    force: bool,
) -> Result<Vec<Output>, &'static str> {
    let output = |path: &Path| {
        let output = Output::path(path, kind);
        if force { output.replacing() } else { output }
    };
    if out == Path::new("-") {
        if shards.is_some() || kind == OutputKind::LogDirectory {
            return Err("standard output takes one file only");
        }
        let output = Output::writer("standard output", std::io::stdout(), kind);
        return Ok(vec![with_slots(output, slots)]);
    }
    let Some(shards) = shards else { return Ok(vec![with_slots(output(out), slots)]) };
    let all = u32::from(SLOTS);
    let shards = u32::from(shards);
    // As redis-cli divides them: the first of each is where the last ended.
    let first = |shard: u32| ((shard * all + shards / 2) / shards) as u16;
    let outputs = (0..shards).map(|shard| {
        let (from, to) = (first(shard), first(shard + 1) - 1);
        let mut slots = SlotSet::new();
        (from..=to).for_each(|slot| slots.insert(slot));
        output(&shard_path(out, &format!("{from}-{to}"))).with_slots(slots)
    });
    Ok(outputs.collect())
}

fn with_slots(output: Output, slots: Option<SlotSet>) -> Output {
    match slots {
        Some(slots) => output.with_slots(slots),
        None => output,
    }
}

/// `dir/out.rdb` becomes `dir/out.0-5460.rdb`.
fn shard_path(out: &Path, slots: &str) -> PathBuf {
    let mut name = out.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{slots}"));
    if let Some(extension) = out.extension() {
        name.push(".");
        name.push(extension);
    }
    out.with_file_name(name)
}

/// On standard error: standard output may be the file.
fn print_summary(report: &ConvertReport) {
    for input in &report.inputs {
        let commands = match input.commands {
            0 => String::new(),
            n => format!(", {} commands", HumanCount(n)),
        };
        eprintln!("read      {}: {} keys{commands}", input.name, HumanCount(input.keys));
        if let Some(at) = input.cut_at {
            eprintln!("cut       {} at byte {at}, in the middle of a command", input.name);
        }
    }
    if report.complete {
        for output in &report.outputs {
            let slots = output.slots.as_ref().map_or(String::new(), |slots| format!(", slots {slots}"));
            eprintln!(
                "written   {} ({}): {} keys, {}{slots}",
                output.name,
                output.kind,
                HumanCount(output.keys),
                HumanBytes(output.bytes),
            );
        }
    }
    let ways = [
        (report.raw, "keys as they were"),
        (report.reencoded, "in another encoding"),
        (report.as_commands, "as commands"),
        (report.functions, "function libraries"),
        (report.commands, "commands passed on"),
    ];
    let ways: Vec<_> =
        ways.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", HumanCount(*n))).collect();
    if !ways.is_empty() {
        eprintln!("of these  {}", ways.join(", "));
    }
    for (count, what) in [
        (report.left_out, "keys that were not chosen"),
        (report.commands_left_out, "commands for keys that were not chosen"),
        (report.empty_dropped, "keys without elements, or whose fields have all expired"),
        (report.annotations_dropped, "annotations of logs, which servers pass over"),
    ] {
        if count > 0 {
            eprintln!("left out  {} {what}", HumanCount(count));
        }
    }
    let kinds: Vec<_> =
        report.loss_counts.iter().map(|(kind, n)| format!("{} {kind}", HumanCount(*n))).collect();
    if !kinds.is_empty() {
        eprintln!("lost      {}", kinds.join(", "));
    }
    report.losses.iter().take(SHOWN).for_each(print_loss);
    print_more(report.total_losses());
    if report.collision_count > 0 {
        eprintln!("there already: {} keys or libraries", HumanCount(report.collision_count));
    }
    for found in report.collisions.iter().take(SHOWN) {
        let place = found.db.map_or("a library of".to_owned(), |db| format!("database {db} of"));
        eprintln!("  {}: {place} {}", found.key, found.input);
    }
    print_more(report.collision_count);
}

fn print_loss(loss: &LossReport) {
    let key = loss.key.as_deref().unwrap_or("(no key)");
    let db = loss.db.map_or(String::new(), |db| format!(" in database {db}"));
    eprintln!("  {key}{db}: {}", loss.what);
}

fn print_more(total: u64) {
    if total > SHOWN as u64 {
        eprintln!("  and {} more: --report FILE.json names them", HumanCount(total - SHOWN as u64));
    }
}

/// What a person can do about it, in the words of this program.
fn with_advice(error: &Error) -> String {
    let advice = match error {
        Error::Losses { .. } => "--on-loss drop writes the rest",
        Error::Collisions { .. } => {
            "--on-collision first keeps the first of each, --db-map moves databases apart"
        }
        Error::Exists { .. } => "--force replaces a file",
        Error::MixedVersions { .. } => "--to says which",
        _ => return error.to_string(),
    };
    format!("{error} ({advice})")
}

fn usage(message: &str) -> ExitCode {
    eprintln!("convert: {message}");
    ExitCode::from(2)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("convert: {message}");
    ExitCode::FAILURE
}
