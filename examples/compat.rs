//! Tells whether a server answers as Redis and Valkey do, as another server does, or as an application needs it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use keyferry_client::{Connection, Endpoint, Protocol, Version};
use keyferry_compat::ctsr::{self, Cases, CtsrOptions};
use keyferry_compat::report::{
    Report, Verdict, write_console, write_failures, write_html, write_json, write_junit, write_summary,
};
use keyferry_compat::{
    Baseline, Claim, Database, Needs, ReferenceOptions, RunOptions, Scratch, Suite, Target, Workload,
};
use keyferry_examples::{create_output, eprintln};
use keyferry_routing::KeyPattern;

/// Tell whether a server answers as Redis and Valkey do, as another server does, or as an application needs it
///
/// Every case has keys of its own below a prefix, in a database of its own where the server has one, and deletes them. Nothing is
/// flushed, and no setting is changed, unless --allow says so.
#[derive(Debug, Parser)]
#[command(name = "compat", version, after_help = EXAMPLES)]
struct Args {
    /// The server: redis://[user:password@]host[:port][/db], rediss:// (TLS), unix:///path, redis+cluster://host:port,host:port,
    /// redis+sentinel://host:port/service (repeatable: one report for all)
    // Text, not options: a wrong URL must not be echoed with its password.
    #[arg(long, value_name = "URL", required = true)]
    server: Vec<String>,

    /// What is compared with what
    #[arg(long, value_enum, default_value_t = Mode::Full)]
    mode: Mode,

    /// Cases of your own, or the cts.json of another suite, instead of ours (repeatable)
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,

    /// Take the server for this version of Redis, instead of what it says that it is; with --mode ctsr the gate
    #[arg(long, value_name = "VERSION")]
    since: Option<String>,

    /// The server is a node of a cluster (with --mode ctsr: run the cases for clusters). Elsewhere it is found out
    #[arg(long)]
    cluster: bool,

    /// With --mode reference: the server to compare with
    #[arg(long, value_name = "URL", required_if_eq("mode", "reference"))]
    reference: Option<String>,

    /// With --mode reference: compare whole texts of errors, not only their first word
    #[arg(long)]
    error_texts: bool,

    /// With --mode workload: the server whose INFO commandstats tells which commands are used
    #[arg(long, value_name = "URL")]
    source: Option<String>,

    /// With --mode workload: commands: an append-only file or directory, a journal, captured requests, "-" for those on standard
    /// input (repeatable)
    #[arg(long, value_name = "PATH")]
    stream: Vec<PathBuf>,

    #[command(flatten)]
    how: How,

    #[command(flatten)]
    results: Results,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How cases are run")]
struct How {
    /// Only cases whose group/name the pattern matches (repeatable)
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,

    /// Only cases that change nothing at all
    #[arg(long)]
    read_only: bool,

    /// What cases may do besides: admin (settings, users, statistics; put back afterwards), flush (everything is lost), all
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    allow: Vec<String>,

    /// What cases may not do: scripting, pubsub
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    without: Vec<String>,

    /// The database to use, or "shared" for that of the URL although others have keys there [default: 15 if there is one]
    #[arg(long, value_name = "NUMBER")]
    database: Option<String>,

    /// What every key begins with
    #[arg(long, default_value = keyferry_compat::DEFAULT_PREFIX)]
    prefix: String,

    /// Only in this protocol [default: both]
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=3))]
    protocol: Option<u8>,

    /// How many cases run at the same time
    #[arg(long, default_value_t = 16)]
    parallel: usize,

    /// How many seconds to wait for a reply
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Results")]
struct Results {
    /// Failures that are known: a JSON array of {"case", "server", "reason"} (repeatable)
    #[arg(long, value_name = "FILE")]
    baseline: Vec<PathBuf>,

    /// Write the failures of this run as such a file
    #[arg(long, value_name = "FILE")]
    write_baseline: Option<PathBuf>,

    /// A line for each case; twice: also for those that were skipped
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// With --mode ctsr: list what failed
    #[arg(long)]
    show_failed: bool,

    /// Write a report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a report as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Write a page with all servers, groups and failures
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the cases to this file, with the server's replies as the expectations where there are none yet
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Replies with what the cases expect
    Full,
    /// The same, by the rules of the original runner of cts.json: FLUSHALL before each case
    Ctsr,
    /// Replies with those of another server
    Reference,
    /// Commands that are used with those that the server has
    Workload,
}

const EXAMPLES: &str = "\
Examples:
  compat --server redis://new:6379
  compat --server redis://new:6379 --read-only
  compat --server redis://scratch:6379 --allow admin --html compat.html --junit compat.xml
  compat --server redis://new:6379 --mode reference --reference redis://old:6379
  compat --server redis+cluster://new:6379 --mode workload --source redis://old:6379 --stream appendonly.aof.1.incr.aof
  compat --server redis://empty:6379 --mode ctsr --cases cts.json --since 7.0.0 --show-failed
  compat --server redis://known:6379 --cases mine.json --record mine.json

Exit status: 0 all passed, 1 some failed, 2 it could not be run (or wrong usage).";

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(verdict) => ExitCode::from(verdict.status()),
        Err(message) => {
            eprintln!("compat: {message}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> Result<Verdict, String> {
    if args.mode == Mode::Workload {
        return workload(args).await;
    }
    let begun = Instant::now();
    let (mut reports, mut out) = (Vec::new(), io::stdout());
    let baseline = args.results.baseline(args.cases.is_empty())?;
    for url in &args.server {
        let report = match args.mode {
            Mode::Ctsr => {
                let cases = args.cases.first().ok_or("--mode ctsr needs --cases cts.json")?;
                let cases = Cases::read(cases).map_err(told)?;
                let target =
                    Target::look(endpoint(url, args.cluster)?, &Scratch::default()).await.map_err(told)?;
                let options = CtsrOptions {
                    version: args.since.clone(),
                    cluster: args.cluster,
                    allow_flush: args.how.needs()?.contains(Needs::FLUSH),
                    timeout: Duration::from_secs(args.how.timeout),
                };
                let report = ctsr::run(&cases, &target, &options).await.map_err(told)?;
                report.write(&mut out, args.results.show_failed).map_err(told)?;
                report.to_report(begun)
            }
            _ => match full(args, url, &baseline).await? {
                Some(report) => report,
                None => continue,
            },
        };
        if args.mode != Mode::Ctsr {
            show(&mut out, &report, args.results.verbose).map_err(told)?;
        }
        reports.push(report);
    }
    if args.results.record.is_some() {
        return Ok(Verdict::Passed);
    }
    args.results.write(&reports)?;
    let worst = reports.iter().map(Report::verdict).max_by_key(|verdict| match verdict {
        Verdict::Passed => 0,
        Verdict::Unknown => 1,
        Verdict::Failed => 2,
    });
    Ok(worst.unwrap_or(Verdict::Unknown))
}

/// The cases on one server, compared or recorded.
async fn full(args: &Args, url: &str, baseline: &Baseline) -> Result<Option<Report>, String> {
    let suite = args.suite()?;
    let mut options = args.how.options()?;
    if let Some(since) = &args.since {
        let version = Version::parse(since).ok_or("--since takes a version such as 7.0.0")?;
        options.claim = Some(Claim::redis(version));
    }
    let target = args.target(url).await?;
    if let Some(path) = &args.results.record {
        let recorded = keyferry_compat::record(suite, &target, &options).await.map_err(told)?;
        std::fs::write(path, recorded.suite.to_text())
            .map_err(|error| format!("{}: {error}", path.display()))?;
        for note in &recorded.notes {
            eprintln!("compat: {note}");
        }
        eprintln!(
            "compat: {} expectations recorded, {} steps told of above",
            recorded.filled,
            recorded.notes.len()
        );
        return Ok(None);
    }
    let Some(reference) = args.reference.as_ref().filter(|_| args.mode == Mode::Reference) else {
        return Ok(Some(keyferry_compat::run(&suite, &target, &options, baseline).await));
    };
    let reference = args.target(reference).await?;
    let options = ReferenceOptions { run: options, error_texts: args.error_texts };
    // What is known of our cases is about expectations, not about differences.
    let baseline = args.results.baseline(false)?;
    let report =
        keyferry_compat::compare(&suite, &target, &reference, &options, &baseline).await.map_err(told)?;
    Ok(Some(report))
}

async fn workload(args: &Args) -> Result<Verdict, String> {
    let mut workload = Workload::new();
    let scratch = Scratch::default();
    let source = match &args.source {
        None => None,
        Some(url) => Some(Target::look(endpoint(url, false)?, &scratch).await.map_err(told)?),
    };
    if let Some(source) = &source {
        for options in source.servers() {
            let mut connection = Connection::connect(&options).await.map_err(told)?;
            workload.add_commandstats(&connection.info("commandstats").await.map_err(told)?);
        }
    }
    for path in &args.stream {
        let read = match path.to_str() {
            Some("-") => workload.read("standard input", io::stdin().lock()),
            _ => workload.read_path(path),
        };
        let read = read.map_err(told)?;
        eprintln!("compat: {}: {} commands", path.display(), read.commands);
        if read.snapshot_keys > 0 {
            eprintln!(
                "compat: {}: a snapshot of {} keys was passed over: which commands made them cannot be told",
                path.display(),
                read.snapshot_keys
            );
        }
        for base in &read.bases {
            eprintln!("compat: {}: left out, as a server wrote it from keys", base.display());
        }
    }
    if source.is_none() && args.stream.is_empty() {
        return Err("--mode workload needs --source or --stream".to_owned());
    }
    let (mut reports, mut verdict) = (Vec::new(), Verdict::Passed);
    for url in &args.server {
        let target = Target::look(endpoint(url, args.cluster)?, &scratch).await.map_err(told)?;
        let report = keyferry_compat::check(&workload, source.as_ref(), &target).await.map_err(told)?;
        report.write(&mut io::stdout()).map_err(told)?;
        if report.verdict() != Verdict::Passed && verdict != Verdict::Failed {
            verdict = report.verdict();
        }
        reports.push(report);
    }
    if let Some(path) = &args.results.json {
        let mut out = create(path)?;
        serde_json::to_writer_pretty(&mut out, &serde_json::json!({ "workload": reports })).map_err(told)?;
        out.flush().map_err(told)?;
    }
    Ok(verdict)
}

fn show(out: &mut dyn Write, report: &Report, verbose: u8) -> io::Result<()> {
    if verbose > 0 {
        return write_console(out, report, verbose > 1);
    }
    writeln!(out, "server    {} at {}", report.server, report.place)?;
    if let Some(reference) = &report.reference {
        writeln!(out, "reference {reference}")?;
    }
    let spoken = |protocol: u8| report.results.iter().any(|result| result.protocol == protocol);
    writeln!(
        out,
        "protocol  {}",
        match (spoken(2), spoken(3)) {
            (true, true) => "RESP2 and RESP3: a case counts once for each",
            (_, true) => "RESP3",
            _ => "RESP2",
        }
    )?;
    write_failures(out, report)?;
    write_summary(out, report)
}

impl Args {
    fn suite(&self) -> Result<Suite, String> {
        let mut suite = Suite::default();
        for path in &self.cases {
            // An array of objects with "command" is the other suite's.
            let own = Suite::read(path);
            let read = match Cases::read(path) {
                Ok(cases) if own.is_err() => cases.to_suite(&path.display().to_string()).map_err(told)?,
                _ => own.map_err(told)?,
            };
            suite.add(read).map_err(told)?;
        }
        if self.cases.is_empty() {
            suite = Suite::builtin().map_err(told)?;
        }
        if !self.how.only.is_empty() {
            let patterns: Vec<KeyPattern> =
                self.how.only.iter().map(|glob| KeyPattern::new(glob.as_bytes())).collect();
            suite = suite.only(|name| patterns.iter().any(|pattern| pattern.matches(name.as_bytes())));
        }
        if suite.cases().next().is_none() {
            return Err("no case was chosen".to_owned());
        }
        Ok(suite)
    }

    async fn target(&self, url: &str) -> Result<Target, String> {
        let database = match self.how.database.as_deref() {
            None => Database::Auto,
            Some("shared") => Database::Shared,
            Some(number) => {
                Database::Number(number.parse().map_err(|_| "--database takes a number, or \"shared\"")?)
            }
        };
        let scratch = Scratch { prefix: self.how.prefix.clone(), database };
        let endpoint = endpoint(url, self.cluster)?;
        match self.how.read_only {
            true => Target::look(endpoint, &scratch).await.map_err(told),
            false => Target::find(endpoint, &scratch).await.map_err(told),
        }
    }
}

impl How {
    fn needs(&self) -> Result<Needs, String> {
        let mut allowed = Needs::SCRIPTING | Needs::PUBSUB;
        for name in &self.allow {
            allowed = allowed
                | match name.as_str() {
                    "all" => Needs::ADMIN | Needs::FLUSH,
                    name => Needs::named(name)?,
                };
        }
        for name in &self.without {
            allowed = allowed.without(Needs::named(name)?);
        }
        Ok(allowed)
    }

    fn options(&self) -> Result<RunOptions, String> {
        let protocols = match self.protocol {
            Some(2) => vec![Protocol::Resp2],
            Some(_) => vec![Protocol::Resp3],
            None => vec![Protocol::Resp2, Protocol::Resp3],
        };
        Ok(RunOptions {
            protocols,
            allow: self.needs()?,
            read_only: self.read_only,
            claim: None,
            parallel: self.parallel,
            timeout: Duration::from_secs(self.timeout),
        })
    }
}

impl Results {
    fn baseline(&self, builtin: bool) -> Result<Baseline, String> {
        let mut baseline = if builtin { Baseline::builtin().map_err(told)? } else { Baseline::new() };
        for path in &self.baseline {
            baseline.add(Baseline::read(path).map_err(told)?);
        }
        Ok(baseline)
    }

    fn write(&self, reports: &[Report]) -> Result<(), String> {
        type Form = fn(&mut dyn Write, &[Report]) -> io::Result<()>;
        let forms: [(&Option<PathBuf>, Form); 3] =
            [(&self.json, write_json), (&self.junit, write_junit), (&self.html, write_html)];
        for (path, form) in forms {
            if let Some(path) = path {
                let mut out = create(path)?;
                form(&mut out, reports)
                    .and_then(|()| out.flush())
                    .map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        if let (Some(path), Some(report)) = (&self.write_baseline, reports.first()) {
            let text = Baseline::text_of(report, "not looked into yet");
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

fn endpoint(url: &str, cluster: bool) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_url(url).map_err(told)?;
    Ok(match endpoint {
        Endpoint::Standalone(options) if cluster => {
            Endpoint::Cluster(keyferry_client::ClusterOptions::new(options))
        }
        other => other,
    })
}

fn create(path: &Path) -> Result<BufWriter<File>, String> {
    create_output(path).map(BufWriter::new).map_err(|error| format!("{}: {error}", path.display()))
}

/// The error with what is below it.
fn told(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Many errors tell their cause themselves.
        if !text.contains(&cause.to_string()) {
            text.push_str(&format!(": {cause}"));
        }
        source = cause.source();
    }
    text
}
