//! Tells whether two servers, clusters or files hold the same data, and what differs.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use keyferry_client::Endpoint;
use keyferry_diff::results::{Html, JsonLines, Junit, Kept, TextFile, write_table};
use keyferry_diff::{
    BarrierBy, ChangedKeys, ChangedOptions, Depth, DiffOptions, DiffReport, Difference, DifferenceSink,
    LiveDiff, LiveOptions, RepairOptions, RepairWhat, Sample, Side, SnapshotDiff, Suspects, Verdict, quick,
};
use keyferry_examples::{CarriedOut, DiffBar, SelectionArgs, create_output, eprintln};
use keyferry_files::DatabaseMove;
use keyferry_routing::KeyPattern;

/// Tell whether two servers, clusters or files hold the same data, and what differs
///
/// Each side is a URL or a file, in any combination. Servers are asked for a snapshot, as by a replica, and go on meanwhile. What is
/// written while that happens may be in one snapshot and not in the other: where both sides are servers, keys that differ are
/// looked at again, key by key, after a while. With --live all keys are compared so, with SCAN. Memory stays bounded whatever
/// the size.
#[derive(Debug, Parser)]
#[command(name = "diff", version, after_help = EXAMPLES)]
struct Args {
    /// The source: redis://[user:password@]host[:port], rediss:// (TLS), unix:///path, redis+cluster://host:port,host:port,
    /// redis+sentinel://host:port,host:port/service, or an RDB file, an append-only file, its directory, the directory of
    /// migrate --journal with --keep, -
    // Text, not options: a wrong URL must not be echoed with its password.
    source: String,

    /// The target, in the same form
    target: String,

    /// One more file of the source, such as that of another shard (repeatable)
    #[arg(long, value_name = "FILE")]
    source_also: Vec<PathBuf>,

    /// One more file of the target (repeatable)
    #[arg(long, value_name = "FILE")]
    target_also: Vec<PathBuf>,

    /// An empty server that carries out the commands of an append-only file, and is emptied at the end; at least as new as the one
    /// that wrote the file [default: one is started on this machine, from redis-server or valkey-server on PATH]
    #[arg(long, value_name = "URL")]
    scratch: Option<String>,

    #[command(flatten)]
    selection: SelectionArgs,

    #[command(flatten)]
    rules: Rules,

    #[command(flatten)]
    by_key: ByKey,

    #[command(flatten)]
    repair: Repair,

    #[command(flatten)]
    results: Results,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What counts")]
struct Rules {
    /// A database of the source that has another number at the target (repeatable)
    #[arg(long, value_name = "FROM=TO")]
    db_map: Vec<DatabaseMove>,

    /// How many milliseconds the expiries of a key may lie apart
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    ttl_tolerance: u64,

    /// Compare as well what replication does not always keep: consumers without pending entries, when consumers were seen,
    /// how many entries a group has read
    #[arg(long)]
    unreplicated: bool,

    /// Do not compare function libraries
    #[arg(long)]
    no_functions: bool,

    /// Keys that migrations keep for themselves, left out (repeatable)
    /// [default: keyferry:*, DTS_REDIS_TIMESTAMP_HEARTBEAT*, DRS_REDIS_TIMESTAMP_HEARTBEAT*]
    #[arg(long, value_name = "GLOB", conflicts_with = "with_bookkeeping")]
    bookkeeping: Vec<KeyPattern>,

    /// Compare these keys, too
    #[arg(long)]
    with_bookkeeping: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Key by key, between servers")]
struct ByKey {
    /// Find keys with SCAN and read them one by one, in place of snapshots
    #[arg(long)]
    live: bool,

    /// What to compare of each key; anything but full means --live
    #[arg(long, value_name = "full|skip-big|length|exists", default_value = "full")]
    check: Depth,

    /// Compare only how many keys the servers count in each database, and function libraries
    #[arg(long, conflicts_with_all = ["live", "check", "sample"])]
    quick: bool,

    /// Look at this share of the keys only (with --live): 1%, 0.01
    #[arg(long, value_name = "SHARE")]
    sample: Option<Sample>,

    /// How many times to look at keys that differ
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How many seconds to wait between these
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    interval: f64,

    /// While a migration runs: compare keys that differ when the target has applied all that the source had, however often they
    /// are written; so many seconds it may take at most
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60", value_parser = seconds)]
    barrier: Option<f64>,

    /// What tells when that is: the checkpoint that a migration of this project keeps in the target, or marks, short-lived keys
    /// that are written on the source (keyferry:barrier:*); either means marks only where there is no checkpoint
    #[arg(long, value_name = "either|checkpoint|marks", default_value = "either", requires = "barrier")]
    barrier_by: BarrierBy,

    /// Compare only keys that a journal says were touched: the directory of migrate --journal with --keep, or an append-only file
    /// (repeatable)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "sample", "repair"])]
    changed_in: Vec<PathBuf>,

    /// With --changed-in: only what was touched since then, in seconds since the Unix epoch, or since the comparison of which
    /// this is the --jsonl file began
    #[arg(long, value_name = "TIME|FILE", requires = "changed_in")]
    since: Option<String>,

    /// Keys with more elements are read in parts, or not at all with --check skip-big
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    big_key: u64,

    /// Look at so many keys a second at most (with --live)
    #[arg(long, value_name = "KEYS")]
    qps: Option<u64>,

    /// Batches that are looked at at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    parallel: u64,

    /// Keys of a batch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,

    /// Elements of a key that are named when they differ; the others are counted
    #[arg(long, value_name = "N", default_value_t = 1000)]
    fields: u64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Repair, between servers")]
struct Repair {
    /// Copy keys that the other side lacks or has otherwise, delete those that only it has, or both; then check again
    #[arg(long, value_name = "copy|delete|both", conflicts_with = "quick")]
    repair: Option<RepairWhat>,

    /// The side that is right
    #[arg(long, value_name = "source|target", default_value = "source", requires = "repair",
        value_parser = ["source", "target"])]
    repair_from: String,

    /// Write the script of the repair, and change nothing
    #[arg(long, requires = "repair")]
    dry_run: bool,

    /// Where the commands of the repair are written, as redis-cli takes them
    #[arg(long, value_name = "FILE", requires = "repair")]
    repair_script: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Results and resources")]
struct Results {
    /// How many differences to show; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,

    /// Write every difference, and the report, as JSON, one object a line (- for standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,

    /// Write every difference as redis-full-check does: db, kind, key, field, with tabs between
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,

    /// Write JUnit's XML
    #[arg(long, value_name = "FILE.xml")]
    junit: Option<PathBuf>,

    /// Write a page for people
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,

    /// Write an SQLite file with redis-full-check's tables
    #[cfg(feature = "sqlite")]
    #[arg(long, value_name = "FILE.db")]
    sqlite: Option<PathBuf>,

    /// Memory for digests; what is beyond waits on disk
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    memory: u64,

    /// Where digests wait that do not fit in memory [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    temporary: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  diff redis://old:6379 redis+cluster://new1:6379,new2:6379
  diff 'redis://old:6379?password-env=OLD_PW' backup/dump.rdb --jsonl differences.jsonl
  diff monday.rdb tuesday.rdb --keys 'user:*' --ttl-tolerance 0
  diff whole.rdb shard-1.rdb --target-also shard-2.rdb --target-also shard-3.rdb
  diff appendonlydir/ redis://new:6379 --scratch redis://empty:6379
  diff redis://old:6379 redis://new:6379 --live --sample 1% --qps 20000
  diff redis://old:6379 redis://new:6379 --check length --keys 'user:*'
  diff redis://old:6379 redis://new:6379 --quick
  diff redis://old:6379 redis://new:6379 --jsonl full.jsonl
  diff redis://old:6379 redis://new:6379 --changed-in /var/journal --since full.jsonl --barrier
  diff redis://old:6379 redis://new:6379 --repair both --dry-run --repair-script repair.txt
  diff redis://old:6379 redis://new:6379 --db-map 1=0 --junit diff.xml || echo 'not the same'

Differences: lack_source, lack_target, type, value, expiry, field_expiry, counters (of a stream), producers, duplicate;
keys and expires (of a database, with --quick).
Exit status: 0 equal, 1 different, 2 it cannot be told (a side cannot be read, no key was chosen, wrong usage).";

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(Verdict::Equal) => ExitCode::SUCCESS,
        Ok(Verdict::Different) => ExitCode::from(1),
        Ok(_) => ExitCode::from(2),
        Err(message) => {
            eprintln!("diff: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> Result<Verdict, String> {
    let source = side("source", &args.source, args.source_also)?;
    let target = side("target", &args.target, args.target_also)?;
    let (mut sinks, table) = args.results.open()?;
    let mut options = DiffOptions::default();
    args.rules.apply(&mut options);
    options.selection = args.selection.selection();
    options.fields = usize::try_from(args.by_key.fields).unwrap_or(usize::MAX);
    options.memory = usize::try_from(args.results.memory << 20).unwrap_or(usize::MAX);
    if let Some(directory) = args.results.temporary {
        options.temporary_directory = directory;
    }
    let mut all = Both { kept: Kept::new(args.results.show), files: &mut sinks };
    let outcome = match (args.repair.options(), args.repair.script()) {
        (None, _) => {
            compare_files(&source, &target, args.scratch.as_deref(), options, &args.by_key, &mut all)
        }
        (Some(repair), Ok(mut script)) => {
            repaired(&source, &target, options, &args.by_key, repair, &mut *script, &mut all)
        }
        (Some(_), Err(error)) => Err(error),
    };
    let kept = all.kept;
    let report = match outcome {
        Ok(report) => report,
        Err(why) => {
            sinks.failed(&why).map_err(|error| format!("{why}; and writing results failed: {error}"))?;
            return Err(why);
        }
    };
    sinks.finish(&report).map_err(|error| format!("writing results failed: {error}"))?;
    if table {
        let written = write_table(&mut io::stdout().lock(), &report, &kept);
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(format!("writing results failed: {error}"));
            }
            _ => {}
        }
    }
    Ok(report.verdict())
}

/// Compares, once servers have carried out the commands of append-only files.
fn compare_files(
    source: &Side,
    target: &Side,
    scratch: Option<&str>,
    options: DiffOptions,
    by_key: &ByKey,
    sink: &mut dyn DifferenceSink,
) -> Result<DiffReport, String> {
    let mut scratch = match scratch.map(str::parse::<Endpoint>).transpose() {
        Ok(scratch) => scratch,
        Err(error) => return Err(format!("--scratch: {error}")),
    };
    let named = scratch.is_some();
    let mut carried_out = Vec::new();
    // Whatever becomes of it, a server that was named is emptied.
    let carry_out = || -> Result<DiffReport, String> {
        let mut sides = [source.clone(), target.clone()];
        for side in &mut sides {
            let done = match side {
                // What goes with two servers is refused before anything is carried out.
                Side::Files(files) if by_key.needs_servers().or(by_key.barrier()).is_none() => {
                    CarriedOut::of("diff", files, &mut scratch)?
                }
                _ => None,
            };
            if let Some(done) = done {
                *side = Side::from(done.endpoint().clone());
                carried_out.push(done);
            }
        }
        if named && carried_out.is_empty() {
            return Err(
                "--scratch goes with an append-only file that has commands, and no side is one".to_owned()
            );
        }
        if !carried_out.is_empty() && options.bookkeeping.is_empty() {
            return Err("--with-bookkeeping goes with no append-only file that has commands: how far it was carried out \
                        is kept under such names"
                .to_owned());
        }
        let [source, target] = &sides;
        compare(source, target, options, by_key, sink)
    };
    let mut outcome = carry_out();
    for done in carried_out {
        let note = done.note();
        let emptied = done.end();
        if let Ok(report) = &mut outcome {
            report.notes.push(note);
            report.notes.extend(emptied.err());
        }
    }
    outcome
}

/// Compares in the way that was asked for.
fn compare(
    source: &Side,
    target: &Side,
    options: DiffOptions,
    by_key: &ByKey,
    sink: &mut dyn DifferenceSink,
) -> Result<DiffReport, String> {
    let error = |error: keyferry_diff::Error| chain(&error);
    let (Side::Live(a), Side::Live(b)) = (source, target) else {
        if let Some(option) = by_key.needs_servers().or(by_key.barrier()) {
            return Err(format!("{option} goes with two servers, and a side is a file"));
        }
        let mut diff = SnapshotDiff::new(source.clone(), target.clone());
        *diff.options_mut() = options;
        let _bar = DiffBar::show(diff.progress());
        return diff.run(sink).map_err(error);
    };
    if by_key.quick {
        return quick(a, b, &options, sink).map_err(error);
    }
    let by_key_diff = |options: DiffOptions| {
        let mut diff = LiveDiff::new(Endpoint::clone(a), Endpoint::clone(b));
        *diff.options_mut() = options;
        by_key.apply(diff.live_mut());
        diff
    };
    if let Some(changed) = by_key.changed(&options)? {
        let diff = by_key_diff(options);
        let _bar = DiffBar::show(diff.progress());
        return diff.run_changed(&changed, sink).map_err(error);
    }
    if by_key.needs_servers().is_some() {
        let diff = by_key_diff(options);
        let _bar = DiffBar::show(diff.progress());
        return diff.run(sink).map_err(error);
    }
    let mut diff = SnapshotDiff::new(source.clone(), target.clone());
    *diff.options_mut() = options.clone();
    let bar = DiffBar::show(diff.progress());
    if by_key.rounds == 1 && by_key.barrier.is_none() {
        return diff.run(sink).map_err(error);
    }
    let mut suspects = Suspects::new();
    let mut first = FirstRound { suspects: &mut suspects, sink: &mut *sink };
    let report = diff.run(&mut first).map_err(error)?;
    drop(bar);
    if suspects.is_empty() {
        return Ok(report);
    }
    let diff = by_key_diff(options);
    let _bar = DiffBar::show(diff.progress());
    diff.settle(suspects, report, sink).map_err(error)
}

/// Compares, repairs what differs, and compares that again.
fn repaired(
    source: &Side,
    target: &Side,
    options: DiffOptions,
    by_key: &ByKey,
    repair: RepairOptions,
    script: &mut (dyn Write + Send),
    sink: &mut dyn DifferenceSink,
) -> Result<DiffReport, String> {
    let (Side::Live(a), Side::Live(b)) = (source, target) else {
        return Err("--repair goes with two servers, and a side is a file".to_owned());
    };
    let error = |error: keyferry_diff::Error| chain(&error);
    let by_key_diff = || {
        let mut diff = LiveDiff::new(Endpoint::clone(a), Endpoint::clone(b));
        *diff.options_mut() = options.clone();
        by_key.apply(diff.live_mut());
        diff
    };
    let mut suspects = Suspects::new();
    let told = repair.dry_run.then_some(&mut *sink);
    let mut found = Found { suspects: &mut suspects, told };
    let report = compare(source, target, options.clone(), by_key, &mut found)?;
    if suspects.is_empty() {
        return Ok(report);
    }
    let done = by_key_diff().repair(&suspects, &repair, script).map_err(error)?;
    let word = if repair.dry_run { "would repair" } else { "repair" };
    eprintln!("diff: {word}: {done}");
    done.failures.iter().for_each(|failure| eprintln!("diff: not repaired: {failure}"));
    if repair.dry_run {
        return Ok(report);
    }
    let mut diff = by_key_diff();
    // What was repaired is compared as a whole.
    diff.live_mut().interval = Duration::from_millis(200);
    diff.settle(suspects, report, sink).map_err(error)
}

/// Keeps which keys differ in snapshots, and tells of them as of a first round.
struct FirstRound<'a, 's> {
    suspects: &'a mut Suspects,
    sink: &'a mut (dyn DifferenceSink + 's),
}

impl DifferenceSink for FirstRound<'_, '_> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.sink.suspect(1, difference)?;
        self.suspects.difference(difference)
    }
}

/// Keeps which keys differ, and tells of them in a dry run.
struct Found<'a, 's> {
    suspects: &'a mut Suspects,
    told: Option<&'a mut (dyn DifferenceSink + 's)>,
}

impl DifferenceSink for Found<'_, '_> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.suspects.difference(difference)?;
        self.told.as_mut().map_or(Ok(()), |told| told.difference(difference))
    }
}

impl Repair {
    fn options(&self) -> Option<RepairOptions> {
        let mut options = RepairOptions::new(self.repair?);
        (options.from_target, options.dry_run) = (self.repair_from == "target", self.dry_run);
        Some(options)
    }

    fn script(&self) -> Result<Box<dyn Write + Send>, String> {
        match &self.repair_script {
            Some(path) => create(path),
            None => Ok(Box::new(io::sink())),
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map(|_| seconds).map_err(|error| error.to_string())
}

/// A time, or when a comparison began by its JSON lines.
fn since(text: &str) -> Result<SystemTime, String> {
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let lines = std::fs::read_to_string(text).map_err(|error| format!("--since {text}: {error}"))?;
            let report = lines.lines().rev().find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                line.get("report")?.get("begun_at")?.as_u64()
            });
            report
                .ok_or_else(|| format!("--since {text}: it is no --jsonl file of a comparison that ended"))?
        }
    };
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or_else(|| format!("--since {text}: no such time"))
}

impl ByKey {
    /// The option that makes no sense but between two servers, if it was given.
    fn needs_servers(&self) -> Option<&'static str> {
        [
            (self.live, "--live"),
            (self.quick, "--quick"),
            (self.check != Depth::Full, "--check"),
            (self.sample.is_some(), "--sample"),
            (self.qps.is_some(), "--qps"),
            (!self.changed_in.is_empty(), "--changed-in"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }

    /// That option, if it was given.
    fn barrier(&self) -> Option<&'static str> {
        self.barrier.map(|_| "--barrier")
    }

    /// The keys that are to be looked at, if not all are.
    fn changed(&self, options: &DiffOptions) -> Result<Option<ChangedKeys>, String> {
        if self.changed_in.is_empty() {
            return Ok(None);
        }
        let mut how = ChangedOptions::default();
        how.since = self.since.as_deref().map(since).transpose()?;
        (how.memory, how.limits) = (options.memory, options.limits.clone());
        let mut changed = ChangedKeys::default();
        for journal in &self.changed_in {
            changed.extend(ChangedKeys::read(journal, &how).map_err(|error| chain(&error))?, &how);
        }
        Ok(Some(changed))
    }

    fn apply(&self, live: &mut LiveOptions) {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        (live.depth, live.sample, live.rounds) = (self.check, self.sample, self.rounds);
        (live.big_key, live.keys_per_second) = (self.big_key, self.qps);
        live.barrier = self.barrier.map(Duration::from_secs_f64);
        live.barrier_by = self.barrier_by;
        live.interval = Duration::from_secs_f64(self.interval);
        (live.parallel, live.batch) = (number(self.parallel), number(self.batch));
        live.fields = number(self.fields);
    }
}

fn side(name: &str, text: &str, also: Vec<PathBuf>) -> Result<Side, String> {
    let mut side = text.parse::<Side>().map_err(|error| format!("{name}: {error}"))?;
    match &mut side {
        Side::Files(files) => files.extend(also),
        _ if also.is_empty() => {}
        _ => return Err(format!("--{name}-also goes with a file, and the {name} is a URL")),
    }
    Ok(side)
}

impl Rules {
    fn apply(&self, options: &mut DiffOptions) {
        self.db_map.iter().for_each(|step| options.databases.add(*step));
        options.ttl_tolerance = Duration::from_millis(self.ttl_tolerance);
        options.unreplicated = self.unreplicated;
        options.functions = !self.no_functions;
        if self.with_bookkeeping || !self.bookkeeping.is_empty() {
            options.bookkeeping = self.bookkeeping.clone();
        }
    }
}

impl Results {
    /// Opens what was asked for before anything is compared: afterwards it would be too late to say that it cannot be
    /// written. Also tells whether standard output is free for the table.
    fn open(&self) -> Result<(Vec<Box<dyn DifferenceSink>>, bool), String> {
        let mut sinks: Vec<Box<dyn DifferenceSink>> = Vec::new();
        let mut table = true;
        if let Some(path) = &self.jsonl {
            table = path != Path::new("-");
            sinks.push(Box::new(JsonLines::new(create(path)?)));
        }
        if let Some(path) = &self.result {
            sinks.push(Box::new(TextFile::new(create(path)?)));
        }
        if let Some(path) = &self.junit {
            sinks.push(Box::new(Junit::new(create(path)?)));
        }
        if let Some(path) = &self.html {
            sinks.push(Box::new(Html::new(create(path)?, 1000)));
        }
        #[cfg(feature = "sqlite")]
        if let Some(path) = &self.sqlite {
            let file = keyferry_diff::results::Sqlite::create(path);
            sinks.push(Box::new(file.map_err(|error| format!("{}: {error}", path.display()))?));
        }
        Ok((sinks, table))
    }
}

fn create(path: &Path) -> Result<Box<dyn Write + Send>, String> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = create_output(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// The table's differences and the files.
struct Both<'a> {
    kept: Kept,
    files: &'a mut Vec<Box<dyn DifferenceSink>>,
}

impl DifferenceSink for Both<'_> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.kept.difference(difference)?;
        self.files.difference(difference)
    }

    fn suspect(&mut self, round: u32, difference: &Difference) -> io::Result<()> {
        self.files.suspect(round, difference)
    }

    fn wants_suspects(&self) -> bool {
        self.files.wants_suspects()
    }

    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        self.files.finish(report)
    }
}
