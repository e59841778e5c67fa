//! Moves everything from one Redis-compatible server to another while both stay in service.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use keyferry_client::Endpoint;
use keyferry_examples::{
    Given, Lines, ReportFile, Source, View, duration, eprintln, println, size, stop_on_signal,
};
use keyferry_migrate::{
    CrossSlotPolicy, Delivery, Expiry, Finished, Fsync, Migration, Mirror, OnError, OnLoss, Outcome, Report,
    RoutingCounts, Until, Worker, metrics::MetricsServer, precheck::Plan,
};

/// Move everything from one Redis-compatible server to another while both stay in service.
#[derive(Debug, Parser)]
#[command(name = "migrate", version, after_help = EXAMPLES)]
struct Args {
    /// Where the data is: redis://[user:password@]host[:port], rediss:// (TLS), unix:///path,
    /// redis+cluster://host:port,host:port, redis+sentinel://host:port,host:port/service; or files (repeatable), - for
    /// standard input: snapshots (RDB), append-only files and their directories, a journal, dead letters
    // Text, not options: a wrong URL must not be echoed with its password.
    #[arg(long, value_name = "URL|FILE", env = "KEYFERRY_SOURCE", hide_env_values = true, required = true)]
    source: Vec<String>,

    /// Where it goes, in the same form
    #[arg(long, value_name = "URL", env = "KEYFERRY_TARGET", hide_env_values = true)]
    target: String,

    /// When to end
    #[arg(long, value_enum, default_value_t = When::Forever)]
    until: When,

    /// With --until caught-up: how long to wait for a quiet second while the source is still being written to
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    linger: u64,

    /// Directory for what a restart needs: empty, or of an earlier run of the same migration [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// Bytes of the command stream that the journal may hold (k, m, g); then the source is not read until the target has
    /// taken some. With --keep also: how long what has been applied is kept (s, m, h, d)
    #[arg(long, value_name = "SIZE[,AGE]", value_parser = journal_bound)]
    journal_max: Option<(u64, Option<Duration>)>,

    /// Keep in the journal what has been applied, from the snapshot on
    #[arg(long, requires = "journal")]
    keep: bool,

    /// When the journal is written through to the disk
    #[arg(long, value_enum, requires = "journal", default_value_t = WriteThrough::Everysec)]
    fsync: WriteThrough,

    /// Write a report here when it ends, also when it fails
    #[arg(long, value_name = "FILE.json|FILE.md")]
    report: Option<PathBuf>,

    /// Values larger than this many bytes are built in parts
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    value_limit: usize,

    /// Let the source write its snapshot to its own disk first, instead of streaming it
    #[arg(long)]
    source_disk: bool,

    /// How long the source may say nothing before the link counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    source_silence: u64,

    /// How long the target may owe a reply before the connection counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    target_silence: u64,

    /// Move a database of the source to another number (repeatable); a cluster has database 0 only
    #[arg(long, value_name = "FROM=TO", value_parser = db_pair)]
    db_map: Vec<(u64, u64)>,

    /// Be one of several processes that carry over a source cluster together: I (from 0 on) of N, as 0/3, 1/3 and 2/3. All get the same
    /// other options, but for a journal of their own
    #[arg(long, value_name = "I/N", env = "KEYFERRY_SHARD", conflicts_with = "plan")]
    shard: Option<Worker>,

    /// Read from replicas of the source, where there are any (clusters and sentinels)
    #[arg(long)]
    prefer_replicas: bool,

    /// What happens to commands whose keys are in several slots of a target cluster
    #[arg(long, value_enum, default_value_t = CrossSlot::CarryOut)]
    cross_slot: CrossSlot,

    /// Serve metrics for Prometheus and probes here: /metrics, /healthz, /readyz
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<std::net::SocketAddr>,

    #[command(flatten)]
    config: keyferry_examples::ConfigArgs,

    #[command(flatten)]
    control: keyferry_examples::ControlArgs,

    #[command(flatten)]
    precheck: keyferry_examples::PrecheckArgs,

    #[command(flatten)]
    log: keyferry_examples::LogArgs,

    #[command(flatten)]
    view: keyferry_examples::ViewArgs,

    /// When keys at the target get their exact deadlines; before that they are put centuries later, and die when the source
    /// says so
    #[arg(long, value_enum, default_value_t = Deadlines::UntilCaughtUp)]
    expiry: Deadlines,

    /// Name of the migration, under which the target keeps how far it is: a run that was ended goes on when it is
    /// started again under the same name [default: made from both URLs]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,

    /// What a restart may cost
    #[arg(long, value_enum, default_value_t = Deliver::ExactlyOnce)]
    delivery: Deliver,
    /// What is removed from the target when the source had to be read from its beginning again
    #[arg(long, value_enum, default_value_t = Removal::Owned)]
    mirror: Removal,

    /// How long either side may be away, as in 90s, 30m, 12h
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "12h")]
    retry_connect: Duration,

    /// How long the target may refuse what it would take at another time: memory or disk full, too few replicas
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    retry_other: Duration,

    /// What happens to a command that the target refuses for good (wrong type, unknown command): stop, or
    /// dead-letter FILE, to which it is added, and counted, and left out
    #[arg(long, num_args = 1..=2, value_names = ["stop|dead-letter", "FILE"])]
    on_error: Vec<String>,

    /// What happens to that for which an older target, or another vendor's, has no place: deadlines of hash fields, function
    /// libraries, types that it does not know
    #[arg(long, value_enum, default_value_t = Loss::Fail)]
    on_loss: Loss,

    /// Go on behind the command at which the last run ended, as the target refused it: it is left out
    #[arg(long)]
    skip_refused: bool,

    /// Take a file of commands that ends inside of one, as a crash leaves it, up to there (journals always)
    #[arg(long)]
    allow_cut_log: bool,

    /// Copy nothing: carry over only what is written from now on, or from where a cutover has prepared it. For a target that
    /// holds what the source holds; the way back after a cutover
    #[arg(long)]
    from_now: bool,

    #[command(flatten)]
    two_way: keyferry_examples::TwoWayArgs,

    #[command(flatten)]
    existing: keyferry_examples::ExistingArgs,

    #[command(flatten)]
    reading: keyferry_examples::ReadingArgs,

    #[command(flatten)]
    throttle: keyferry_examples::ThrottleArgs,

    #[command(flatten)]
    filter: keyferry_examples::FilterArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Removal {
    /// Nothing: what the source deleted meanwhile stays
    Off,
    /// What the source no longer has, but for keys that were there before
    Owned,
    /// Everything that the source does not have
    All,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Deadlines {
    /// When the target has caught up
    UntilCaughtUp,
    /// At the end, when everything is applied: nothing dies too early whatever happens on the way
    UntilEnd,
    /// At once
    AsItComes,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Deliver {
    /// Nothing: each write is there once
    ExactlyOnce,
    /// Some writes may be there twice
    AtLeastOnce,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WriteThrough {
    /// After every write
    Always,
    /// Once a second
    Everysec,
    /// When the operating system likes to
    No,
}

/// A size, and perhaps an age: `10g`, `10g,36h`.
fn journal_bound(text: &str) -> Result<(u64, Option<Duration>), String> {
    let wrong = || "a size is wanted, and perhaps an age, as in 500m or 20g,36h".to_owned();
    let (bytes, age) = text.split_once(',').map_or((text, None), |(bytes, age)| (bytes, Some(age)));
    let bytes = size(bytes).ok().filter(|&bytes| bytes > 0).ok_or_else(wrong)?;
    let age = age.map(|age| duration(age).ok().filter(|age| !age.is_zero()).ok_or_else(wrong)).transpose()?;
    Ok((bytes, age))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CrossSlot {
    /// They are split, or computed at the target, and counted
    CarryOut,
    /// The first one ends the migration
    Fail,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Loss {
    /// It ends the migration, with the key or the command
    Fail,
    /// It is left out, and the report counts it
    Drop,
}

fn db_pair(text: &str) -> Result<(u64, u64), String> {
    let pair = text.split_once('=').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    pair.ok_or_else(|| "two database numbers are wanted, as in 3=0".to_owned())
}

const EXAMPLES: &str = "\
Examples:
  migrate --source redis://old:6379 --target 'rediss://mover@new:6380?password-env=NEW_PW' --until caught-up
  migrate --source redis://old:6379 --target redis://new:6379 --journal /var/tmp/journal --report move.json
  migrate --source redis://old:6379 --target redis+cluster://new1:6379,new2:6379 --db-map 1=0
  migrate --source redis://old:6379 --target redis://new:6379 --precheck
  migrate --source redis://old:6379 --target redis://new:6379 --include-keys 'user:*' --rename add-prefix:old:
  migrate --source redis://old:6379 --target redis://new:6379 --on-exists skip --journal /var/tmp/journal
  migrate --source redis://old:6379 --target redis://new:6379 --limit-full-bytes 50mb --limit-commands 20k --adaptive
  migrate --source redis://old:6379 --target redis://new:6379 --control /run/keyferry.sock
    curl --unix-socket /run/keyferry.sock -X POST 'http://localhost/throttle?full-bytes=20mb'
  migrate --source redis://one:6379 --target redis://two:6379 --two-way report --conflicts conflicts.jsonl --id both
  migrate --config move.toml --until caught-up
  migrate --source redis+cluster://old1:6379 --target redis://new:6379 --shard 0/3 --journal /var/tmp/journal-0   # and 1/3, 2/3
  migrate --source redis+sentinel://s1,s2,s3/mymaster --target redis://new:6379 --until caught-up
  migrate --source redis://service:6379 --target redis://new:6379 --source-mode scan --until caught-up
  migrate --source redis://one:6379 --target redis://one:6379 --source-mode scan --only-db 0 --db-map 0=1 --until caught-up
  migrate --source dump.rdb --source appendonlydir/ --target redis+cluster://new1:6379
  migrate --source refused.aof --target redis://new:6379   # what --on-error dead-letter refused.aof has kept
  zcat dump.rdb.gz | migrate --source - --target redis://new:6379

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
    let words = std::env::args().collect();
    let expanded =
        keyferry_examples::with_config(words, &Args::command()).and_then(keyferry_examples::expand);
    let (words, plan) = match expanded {
        Ok(expanded) => expanded,
        Err(wrong) => {
            eprintln!("migrate: {wrong}");
            return ExitCode::from(2);
        }
    };
    let matches = Args::command().get_matches_from(words);
    let args = match Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(e) => e.exit(),
    };
    if args.config.print_config {
        println!("{}", keyferry_examples::show_config(&matches, &Args::command()).trim_end());
        return ExitCode::SUCCESS;
    }
    let lines = if args.precheck.precheck { None } else { args.view.lines() };
    match &lines {
        Some(lines) => args.log.start_in(lines),
        None => args.log.start(),
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("cannot start: {e}")),
    };
    let given = Given::of(&matches, &Args::command());
    if let Err(wrong) = check(&args, &given, plan.is_some()) {
        return usage(&wrong);
    }
    runtime.block_on(run(args, given, plan, lines))
}

/// What was given, and means nothing with the rest: better refused than passed over.
fn check(args: &Args, given: &Given, is_planned: bool) -> Result<(), String> {
    args.reading.check(given)?;
    // The variable: on the command line it is refused before.
    if is_planned && args.shard.is_some() {
        return Err("--shard (or KEYFERRY_SHARD) does not go together with --plan".to_owned());
    }
    if args.journal_max.is_some_and(|(_, age)| age.is_some()) && !args.keep {
        return Err("the age in --journal-max is about what --keep keeps".to_owned());
    }
    Ok(())
}

/// What is about a server that is followed, besides the journal.
const OF_SERVERS: &[&str] = &[
    "journal-max",
    "keep",
    "fsync",
    "plan",
    "shard",
    "prefer-replicas",
    "source-disk",
    "source-silence",
    "from-now",
    "mirror",
    "source-mode",
    "psync-command",
    "follow",
    "rescan",
    "limit-source-keys",
    "limit-source-bytes",
    "two-way",
];

async fn run(args: Args, given: Given, plan: Option<Plan>, lines: Option<Lines>) -> ExitCode {
    let source = Source::of(&args.source);
    let target = args.target.parse::<Endpoint>().map_err(|e| format!("--target: {e}"));
    let (source, target) = match (source, target) {
        (Ok(source), Ok(target)) => (source, target),
        (Err(wrong), _) | (_, Err(wrong)) => return usage(&wrong),
    };
    if source.is_files() {
        // Where it may matter over restarts which keys were at the target before.
        let journal = given.has("journal") && !args.existing.wants_journal();
        let planned = plan.as_ref().map(|_| "plan");
        let option = journal.then_some("journal").or(planned).or(given.first(OF_SERVERS));
        if let Some(option) = option {
            return usage(&format!("--{option} is about a server that is followed; the source is a file"));
        }
        if given.has("until") && matches!(args.until, When::Forever) {
            return usage("--until forever: the source is a file, and ends");
        }
    } else if args.allow_cut_log {
        return usage("--allow-cut-log is about files; the source is a server");
    }
    let on_error = match &args.on_error.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["stop"] => OnError::Stop,
        ["dead-letter", file] => OnError::DeadLetter(file.into()),
        _ => return usage("--on-error is followed by stop, or by dead-letter and the name of a file"),
    };
    let report_file = match args.report.as_deref().map(ReportFile::open).transpose() {
        Ok(file) => file,
        Err(wrong) => return fail(&wrong),
    };
    #[cfg(feature = "lua")]
    let script = match args.filter.script() {
        Ok(script) => script,
        Err(e) => return usage(&e),
    };
    let filter = match args.filter.filter() {
        Ok(filter) => filter,
        Err(e) => return usage(&e),
    };
    let sides = (source.to_string(), target.to_string());
    let names_journal = args.journal.is_some();
    let ends = (source.clone(), target.clone());
    let mut migration = source.to(target);
    let options = migration.options_mut();
    options.journal = args.journal;
    options.journal_max = args.journal_max.map(|(size, _)| size);
    options.journal_age = args.journal_max.and_then(|(_, age)| age);
    options.keep_journal = args.keep;
    options.fsync = match args.fsync {
        WriteThrough::Always => Fsync::Always,
        WriteThrough::Everysec => Fsync::EverySecond,
        WriteThrough::No => Fsync::No,
    };
    options.value_limit = args.value_limit;
    args.reading.put(options);
    args.existing.put(options);
    if let Err(wrong) = args.throttle.put(options) {
        return usage(&wrong);
    }
    options.link.diskless = !args.source_disk;
    options.link.silence = Duration::from_secs(args.source_silence);
    options.target_silence = Duration::from_secs(args.target_silence);
    options.db_map = args.db_map.into_iter().collect();
    options.prefer_replicas = args.prefer_replicas;
    options.id = args.id;
    options.worker = args.shard;
    options.retry_connect = args.retry_connect;
    options.reconnect_window = args.retry_connect;
    options.retry_other = args.retry_other;
    options.skip_refused = args.skip_refused;
    options.from_now = args.from_now;
    options.allow_cut_log = args.allow_cut_log;
    options.on_error = on_error;
    options.on_loss = match args.on_loss {
        Loss::Fail => OnLoss::Fail,
        Loss::Drop => OnLoss::Drop,
    };
    options.delivery = match args.delivery {
        Deliver::ExactlyOnce => Delivery::ExactlyOnce,
        Deliver::AtLeastOnce => Delivery::AtLeastOnce,
    };
    options.cross_slot = match args.cross_slot {
        CrossSlot::CarryOut => CrossSlotPolicy::CarryOut,
        CrossSlot::Fail => CrossSlotPolicy::Fail,
    };
    options.expiry = match args.expiry {
        Deadlines::UntilCaughtUp => Expiry::HeldUntilCaughtUp,
        Deadlines::UntilEnd => Expiry::HeldUntilEnd,
        Deadlines::AsItComes => Expiry::AsItComes,
    };
    options.mirror = match args.mirror {
        Removal::Off => Mirror::Off,
        Removal::Owned => Mirror::Owned,
        Removal::All => Mirror::All,
    };
    options.filter = Some(std::sync::Arc::new(filter));
    #[cfg(feature = "lua")]
    {
        options.script = script.map(std::sync::Arc::new);
    }
    options.until = match args.until {
        When::CaughtUp => {
            Until::CaughtUp { quiet: Duration::from_secs(1), linger: Duration::from_secs(args.linger) }
        }
        When::Forever => Until::Forever,
    };
    options.look_first = !args.precheck.no_precheck;
    options.ignore = args.precheck.ignore.iter().copied().collect();
    if args.two_way.is_wanted() {
        let until = matches!(args.until, When::CaughtUp)
            .then(|| "--until does not go together with --two-way".to_owned());
        // The report of a look may be in any form.
        let report = report_file.as_ref().filter(|_| !args.precheck.precheck);
        if let Some(wrong) = until.or(args.two_way.check(&given, report).err()) {
            return usage(&wrong);
        }
        if args.precheck.precheck
            && let Err((wrong, code)) = args.two_way.look(&ends.0, &ends.1, options).await
        {
            eprintln!("migrate: {wrong}");
            return code;
        }
    }
    if args.precheck.precheck {
        let (report, code) = keyferry_examples::precheck(&migration, &args.precheck).await;
        let page = |report: &_| format!("# Precheck\n\n```text\n{report}\n```\n");
        return match report_file.map_or(Ok(()), |file| file.write(&report, page)) {
            Ok(()) => code,
            Err(wrong) => fail(&wrong),
        };
    }
    if args.two_way.is_wanted() {
        return args.two_way.run(&ends.0, &ends.1, options, (report_file, args.metrics)).await;
    }
    if let Err(wrong) = begin(&migration, plan, args.metrics, &args.control).await {
        if let Some(file) = report_file {
            file.write_failure(&wrong);
        }
        return fail(&wrong);
    }
    let says = "migrate: stopping: applying what has been read";
    let stopper = migration.stopper();
    tokio::spawn(stop_on_signal(move || stopper.stop(), says));
    // Signals are waited for before the terminal is taken: they give it back.
    tokio::task::yield_now().await;
    let view = View::show(&migration, sides, lines, args.log.log.is_some());
    let Finished { report, result, .. } = migration.run().await;
    view.end();
    print_summary(&report, names_journal);
    if let Err(wrong) = report_file.map_or(Ok(()), |file| file.write_migration(&report)) {
        eprintln!("migrate: {wrong}");
    }
    match (result, &report.outcome) {
        (Err(error), _) => fail(&error.to_line()),
        (Ok(()), Outcome::Stopped { everything_applied: false }) => {
            fail("stopped before everything was applied")
        }
        (Ok(()), _) => ExitCode::SUCCESS,
    }
}

/// What has to be as it was planned, and what is told while it runs.
async fn begin(
    migration: &Migration,
    plan: Option<Plan>,
    metrics: Option<std::net::SocketAddr>,
    control: &keyferry_examples::ControlArgs,
) -> Result<(), String> {
    if let Some(plan) = plan {
        let changes = plan.changes(migration).await;
        if !changes.is_empty() {
            let changes = changes.join("; ");
            return Err(format!("the plan does not hold any more; nothing was written: {changes}"));
        }
    }
    if let Some(address) = metrics {
        let server = MetricsServer::bind(address, migration).await;
        // It ends with the runtime.
        drop(tokio::spawn(server.map_err(|e| format!("metrics: {address}: {e}"))?.serve()));
    }
    control.serve(migration).await
}

fn print_summary(report: &Report, names_journal: bool) {
    let (figures, snapshot) = (&report.figures, &report.snapshot);
    let again = if report.resumed { ", went on where a run before had ended" } else { "" };
    println!("id       {}{again}", report.id);
    for (side, end) in [("source", &report.source), ("target", &report.target)] {
        // A look before the run may have reached it all the same.
        println!("{side}   {} ({})", end.url, end.server.as_deref().unwrap_or("nothing was begun there"));
    }
    let databases = snapshot.keys.len();
    println!(
        "snapshot {} keys in {databases} databases, {} with an expiry, {} built in parts, {} function libraries",
        snapshot.total_keys(),
        snapshot.with_expiry,
        snapshot.large,
        snapshot.functions,
    );
    if snapshot.of_other_workers > 0 {
        println!("workers  {} keys of slots of other workers, left to them", snapshot.of_other_workers);
    }
    if report.files.is_empty() {
        println!("stream   {} commands, {} reconnects", figures.commands_applied, figures.reconnects);
    } else {
        keyferry_examples::print_files(&report.files);
        println!("commands {}", figures.commands_applied);
    }
    keyferry_examples::print_reading(report);
    print_routing(&report.routing);
    keyferry_examples::print_existing(&report.existing, report.mirror.resyncs);
    keyferry_examples::print_throttle(&report.throttle);
    let mirror = &report.mirror;
    if mirror.resyncs > 0 {
        println!(
            "mirror   {} full syncs that were not the first; {} keys removed that the source no longer had, {} kept that were \
             there before",
            mirror.resyncs, mirror.removed, mirror.kept
        );
    }
    let expiry = &report.expiry;
    let held = expiry.held_in_snapshot + expiry.held_in_stream;
    if held > 0 {
        println!(
            "expiry   {held} deadlines held until caught up; {} keys and {} fields were given their exact ones{}",
            expiry.released,
            expiry.released_fields,
            if expiry.still_held { ", the rest not yet" } else { "" },
        );
    }
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
        println!("lost     {loss}: {count} in the snapshot; the report names them");
    }
    if let Some(position) = report.position.as_ref().filter(|_| report.files.is_empty()) {
        println!("position {position}");
    }
    if let Some(journal) = &report.journal {
        let how = match names_journal {
            true => "the same command goes on with it".to_owned(),
            false => format!("the same command with --journal {journal} goes on with it; else remove it"),
        };
        println!("journal  {journal} holds what was not applied; {how}");
    }
    report.precheck.iter().for_each(keyferry_examples::print_warnings);
    keyferry_examples::print_filter(&report.filter);
    for note in &report.notes {
        println!("note     {note}");
    }
    match &report.outcome {
        Outcome::CaughtUp { .. } if !report.files.is_empty() => {
            println!("done in {:.1} s: the target holds what the files hold", figures.elapsed_seconds);
        }
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

/// What was not as simple as it looks, on a target of several nodes.
fn print_routing(routing: &RoutingCounts) {
    for how in ["split", "computed at the target"] {
        let commands: Vec<String> = routing
            .cross_slot
            .iter()
            .filter(|commands| commands.how == how)
            .map(|commands| format!("{} {}", commands.count, commands.command))
            .collect();
        if !commands.is_empty() {
            println!("slots    {how}: {}", commands.join(", "));
        }
    }
    for (what, count) in [
        ("transactions carried out slot by slot", routing.transactions_divided),
        ("connections to the target lost", routing.connections_lost),
        ("writes sent again after a failover or a lost connection", routing.sent_again),
        ("of these found to be there already", routing.found_done),
        ("errors of such repetitions, which they explain", routing.replay_errors),
        ("writes that no replica of the target has confirmed", routing.without_replica),
        ("slots that changed hands at the source", routing.slots_moved),
        ("deletions of shards behind slots that they had given up: left out", routing.tidied),
        ("writes to slots that a shard did not take over after all: left out", routing.not_taken_over),
        ("stray keys, of slots that their node does not own: left out", routing.strays),
        ("commands of slots of other workers: left to them", routing.of_other_workers),
    ] {
        if count > 0 {
            println!("target   {count} {what}");
        }
    }
    if !routing.dead_letters.is_empty() {
        let codes: Vec<String> =
            routing.dead_letters.iter().map(|(code, count)| format!("{count} {code}")).collect();
        println!("refused  in the file of dead letters, and left out: {}", codes.join(", "));
    }
    if !routing.translated.is_empty() {
        let names: Vec<String> =
            routing.translated.iter().map(|(name, count)| format!("{count} {name}")).collect();
        println!("target   said in forms that it knows: {}", names.join(", "));
    }
    for (what, count) in &routing.lost {
        println!("lost     {what}: {count} commands, left out");
    }
    if !routing.retried.is_empty() {
        let codes: Vec<String> =
            routing.retried.iter().map(|(code, count)| format!("{count} {code}")).collect();
        println!("target   retried: {}", codes.join(", "));
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("migrate: {message}");
    ExitCode::from(2)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("migrate: {message}");
    ExitCode::FAILURE
}
