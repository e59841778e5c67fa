//! Tells whether two servers, clusters or files hold the same data, and what differs.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use keyferry_diff::results::{JsonLines, Junit, Kept, TextFile, write_table};
use keyferry_diff::{DiffOptions, DiffReport, Difference, DifferenceSink, Side, SnapshotDiff, Verdict};
use keyferry_examples::{DiffBar, SelectionArgs};
use keyferry_files::DatabaseMove;
use keyferry_routing::KeyPattern;

/// Tell whether two servers, clusters or files hold the same data, and what differs
///
/// Each side is a URL or a file, in any combination. Servers are asked for a snapshot, as by a replica, and go on meanwhile; what is
/// written while that happens may be in one snapshot and not in the other. Memory stays bounded whatever the size.
#[derive(Debug, Parser)]
#[command(name = "diff", version, after_help = EXAMPLES)]
struct Args {
    /// The source: redis://[user:password@]host[:port], rediss:// (TLS), unix:///path, redis+cluster://host:port,host:port,
    /// redis+sentinel://host:port,host:port/service, or an RDB file, an append-only file without commands, its directory, -
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

    #[command(flatten)]
    selection: SelectionArgs,

    #[command(flatten)]
    rules: Rules,

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
    /// [default: keyferry:checkpoint:*, keyferry:tmp:*, DTS_REDIS_TIMESTAMP_HEARTBEAT*, DRS_REDIS_TIMESTAMP_HEARTBEAT*]
    #[arg(long, value_name = "GLOB", conflicts_with = "with_bookkeeping")]
    bookkeeping: Vec<KeyPattern>,

    /// Compare these keys, too
    #[arg(long)]
    with_bookkeeping: bool,
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
  diff redis://old:6379 redis://new:6379 --db-map 1=0 --junit diff.xml || echo 'not the same'

Differences: lack_source, lack_target, type, value, expiry, field_expiry, counters (of a stream), producers, duplicate.
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
    let mut diff = SnapshotDiff::new(source, target);
    args.rules.apply(diff.options_mut());
    diff.options_mut().selection = args.selection.selection();
    diff.options_mut().memory = usize::try_from(args.results.memory << 20).unwrap_or(usize::MAX);
    if let Some(directory) = args.results.temporary {
        diff.options_mut().temporary_directory = directory;
    }
    let bar = DiffBar::show(diff.progress());
    let mut all = Both { kept: Kept::new(args.results.show), files: &mut sinks };
    let report = diff.run(&mut all);
    let kept = all.kept;
    drop(bar);
    let report = report.map_err(|error| error.to_string())?;
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
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
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

    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        self.files.finish(report)
    }
}
