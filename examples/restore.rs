//! Restores what a server held at a moment, from an archive.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{ArgGroup, Parser, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use keyferry_client::Endpoint;
use keyferry_examples::{OwnServer, eprintln, interrupted, println, say::is_output_whole};
use keyferry_files::{KeyName, time};
use keyferry_migrate::{
    Error, OnExists,
    archive::{ArchiveError, Listing, Point, Stored, When},
    restore::{Restore, RestoreExpiry, RestoreProgress, RestoreReport, RestoreTo},
};

/// Restore what a server held at a moment, all of it or some keys, into a server or a file
///
/// The archive is one that `archive` keeps. Everything is read and compared with what was written before anything is restored.
#[derive(Debug, Parser)]
#[command(name = "restore", version, after_help = EXAMPLES)]
#[command(group = ArgGroup::new("what").required(true).args(["list", "diff", "at", "offset", "latest"]))]
#[command(group = ArgGroup::new("where").args(["target", "to_dir"]))]
struct Args {
    /// Directory of the archive; of a cluster, that of all shards or of one
    #[arg(long, value_name = "DIR")]
    archive: PathBuf,

    /// Show what is there: snapshots and what came behind them, times, offsets, gaps
    #[arg(long, conflicts_with_all = ["where", "keys", "db", "rename", "expiry", "on_exists", "scratch"])]
    list: bool,

    /// With --list: read every file and compare it with what was written
    #[arg(long, requires = "list")]
    verify: bool,

    /// Show what happened to a key, with times and offsets: its history
    #[arg(long, value_name = "KEY", conflicts_with_all = ["where", "keys", "rename", "expiry", "on_exists", "scratch"])]
    diff: Option<String>,

    /// What had come by this time: 2026-11-20T03:14:15Z, fractions and other zones (+02:00) allowed, or @SECONDS since 1970
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "where")]
    at: Option<When>,

    /// What had come up to this replication offset, which is in the history of that id where several have it
    #[arg(long, value_name = "[ID:]N", value_parser = str::parse::<When>, requires = "where")]
    offset: Option<When>,

    /// All that has come
    #[arg(long, requires = "where")]
    latest: bool,

    /// Where to: a server or cluster (as in --source of the other programs), or a file: FILE.rdb, .aof, .resp, .jsonl
    // Text, not options: a wrong URL must not be echoed with its password.
    #[arg(long, value_name = "URL|FILE")]
    target: Option<String>,

    /// Write a directory instead that a server loads, Redis 7.0 or Valkey or later, and at least as new as the one that was archived:
    /// redis-server --appendonly yes --dir DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["keys", "db", "rename", "expiry", "on_exists", "scratch", "json"])]
    to_dir: Option<PathBuf>,

    /// Only keys of such names: a pattern with *, ?, [a-z], \x as in KEYS, or prefix:…, suffix:…, regex:… (repeatable)
    #[arg(long, value_name = "NAME", num_args = 1..)]
    keys: Vec<KeyName>,

    /// Only this database (repeatable, or a list: 0,3); with --diff the one that the key is in [default: all; 0 with --diff]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    db: Vec<u64>,

    /// Put this before each name
    #[arg(long, value_name = "PREFIX")]
    rename: Option<String>,

    /// What becomes of deadlines [default: keep]
    #[arg(long, value_enum)]
    expiry: Option<Expiry>,

    /// What happens when keys, or the file, are there already; nothing is written before that is known [default: fail]
    #[arg(long, value_enum)]
    on_exists: Option<Exists>,

    /// An empty server that may be used to carry out commands, and is emptied at the end; at least as new as the one that was
    /// archived [default: one is started on this machine, from redis-server or valkey-server on PATH, where one is needed]
    #[arg(long, value_name = "URL")]
    scratch: Option<String>,

    /// Print JSON, of several shards a list; with --diff a line for each write
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  restore --archive /backup/host --list
  restore --archive /backup/host --diff user:42
  restore --archive /backup/host --at 2026-11-20T03:14:15Z --target redis://empty:6379
  restore --archive /backup/host --at 2026-11-20T03:14:15Z --target redis://host:6379 --keys 'user:*' --rename was:
  restore --archive /backup/host --latest --target dump.rdb --expiry freeze
  restore --archive /backup/host --offset 123456 --to-dir /var/lib/redis
  restore --archive /backup/cluster --at 2026-11-20T03:14:15Z --target redis+cluster://empty:6379

Exit status: 0 done, 1 failed, and with --list --verify also when something is damaged, 2 wrong usage.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Expiry {
    /// As they were: what would be over by now is gone, and counted
    Keep,
    /// As much is left as was left at the moment
    Shift,
    /// None: nothing expires
    Freeze,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Exists {
    /// Nothing is written
    Fail,
    /// They are replaced
    Replace,
    /// They stay as they are, and are counted
    Skip,
    /// Hashes, sets and sorted sets become the union of both, others are replaced
    Merge,
}

fn moment(text: &str) -> Result<When, String> {
    time::parse(text).map(When::Time).ok_or_else(|| {
        "a time is wanted with its zone, as in 2026-11-20T03:14:15Z or 2026-11-20T04:14:15+01:00".to_owned()
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let to = match args.target.as_deref().map(target).transpose() {
        Ok(to) => to,
        Err(wrong) => return usage(&wrong),
    };
    let scratch = match args.scratch.as_ref().map(|url| url.parse::<Endpoint>()).transpose() {
        Ok(scratch) => scratch,
        Err(e) => return usage(&format!("--scratch: {e}")),
    };
    let done = match (args.list, &args.diff) {
        (true, _) => list(&args),
        (false, Some(key)) => history(&args, key),
        (false, None) => restore(&args, to, scratch),
    };
    done.unwrap_or_else(|error| fail(&error))
}

/// A URL, or a file.
fn target(text: &str) -> Result<RestoreTo, String> {
    if text.contains("://") {
        return text.parse().map(|to| RestoreTo::Server(Box::new(to))).map_err(|e| format!("--target: {e}"));
    }
    Ok(RestoreTo::File(PathBuf::from(text)))
}

/// The archive that is there, or those of all shards of a cluster.
fn open(args: &Args) -> Result<Vec<Stored>, String> {
    match Stored::open(&args.archive) {
        Err(Error::Archive(ArchiveError::SeveralShards { dir, shards })) => {
            let open = |shard: &String| Stored::open(dir.join(shard)).map_err(|error| error.to_line());
            shards.iter().map(open).collect()
        }
        one => Ok(vec![one.map_err(|error| error.to_line())?]),
    }
}

fn list(args: &Args) -> Result<ExitCode, String> {
    let mut damaged = false;
    let mut listings = Vec::new();
    for stored in open(args)? {
        let listing = if args.verify { stored.verify() } else { stored.listing() };
        damaged |= args.verify && !listing.damages.is_empty();
        if !args.json {
            print_listing(&listing);
        }
        listings.push(listing);
    }
    if args.json {
        print_json(&listings)?;
    }
    Ok(if damaged || !is_output_whole() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(ms: u64) -> String {
    time::show(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn print_listing(listing: &Listing) {
    let slots = listing.slots.as_ref().map_or(String::new(), |slots| format!(", slots {slots}"));
    println!(
        "archive  {} of {}{slots}: {}",
        listing.dir.display(),
        listing.source,
        HumanBytes(listing.bytes)
    );
    let mut gaps = listing.gaps.iter().peekable();
    for of in &listing.generations {
        if let Some(gap) = gaps.next_if(|gap| gap.to <= of.taken) {
            println!("gap      {} to {}: {}", show(gap.from), show(gap.to), gap.why);
        }
        println!(
            "base     {}  {}  offset {}  {}  {} keys, {} function libraries  {}",
            show(of.taken),
            of.base,
            of.offset,
            HumanBytes(of.bytes),
            HumanCount(of.keys),
            of.functions,
            of.server
        );
        for file in &of.segments {
            let verified = match file.verified {
                Some(_) => "verified",
                None => "not read back yet",
            };
            println!(
                "  stream {} to {}  {}  offsets {} to {}  {} of {}  {verified}",
                show(file.begun),
                show(file.ended),
                file.file,
                file.start,
                file.end,
                HumanBytes(file.bytes),
                HumanBytes(file.raw)
            );
        }
    }
    for damage in &listing.damages {
        println!("DAMAGED  {damage}");
    }
    for span in &listing.coverage.0 {
        println!("to be restored: {span}");
    }
    if listing.coverage.0.is_empty() {
        println!("to be restored: nothing");
    }
    if listing.verified && listing.damages.is_empty() {
        println!("every file is as it was written");
    }
}

fn history(args: &Args, key: &str) -> Result<ExitCode, String> {
    let db = match args.db[..] {
        [] => 0,
        [db] => db,
        _ => return Err("--diff: one --db is wanted".to_owned()),
    };
    for stored in open(args)? {
        history_in(&stored, args, db, key)?;
    }
    Ok(if is_output_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn history_in(stored: &Stored, args: &Args, db: u64, key: &str) -> Result<(), String> {
    let end = stored.history(db, key.as_bytes(), |write| {
        if args.json {
            println!("{}", serde_json::to_string(&write).unwrap_or_default());
            return;
        }
        let inside = if write.in_transaction { "  (in a transaction)" } else { "" };
        println!("{}  {}  {}{inside}", show(write.came), write.position, write.what);
    });
    let end = end.map_err(|error| error.to_line())?;
    if args.json {
        println!("{}", serde_json::to_string(&end).unwrap_or_default());
        return Ok(());
    }
    let shard = stored.listing().slots.map_or(String::new(), |slots| format!(", slots {slots}"));
    println!("{} writes{shard}", HumanCount(end.writes));
    for (count, what) in [
        (end.scripts, "scripts in the stream do not name the key: whether they wrote to it is not known"),
        (
            end.unknown,
            "commands are not known: they were taken to be about the key when an argument was its name",
        ),
    ] {
        if count > 0 {
            println!("{} {what}", HumanCount(count));
        }
    }
    for damage in &end.damages {
        println!("DAMAGED  {damage}: writes may be missing");
    }
    Ok(())
}

fn restore(args: &Args, to: Option<RestoreTo>, scratch: Option<Endpoint>) -> Result<ExitCode, String> {
    let archives = open(args)?;
    let several = archives.len() > 1;
    if several && !matches!(to, Some(RestoreTo::Server(_))) {
        return Err(format!(
            "{} holds an archive for each shard of a cluster: they go to a server or a cluster together, and to files one by one \
             (--archive DIR/shard-N)",
            args.archive.display()
        ));
    }
    if several && args.offset.is_some() {
        return Err("each shard counts offsets of its own: name a shard (--archive DIR/shard-N), or a time"
            .to_owned());
    }
    // Of all shards before anything is restored: that of one may be damaged, or end too early.
    let points = archives.iter().map(|stored| point(args, stored)).collect::<Result<Vec<Point>, String>>()?;
    let mut reports = Vec::new();
    for (number, point) in points.iter().enumerate() {
        reports.extend(restore_one(args, point, to.clone(), scratch.clone(), number == 0)?);
    }
    if args.json {
        print_json(&reports)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is of one archive; of several a list, which is one document.
fn print_json<T: serde::Serialize>(of_each: &[T]) -> Result<(), String> {
    let text = match of_each {
        [one] => serde_json::to_string_pretty(one),
        several => serde_json::to_string_pretty(several),
    };
    println!("{}", text.map_err(|e| e.to_string())?);
    Ok(())
}

/// The moment that was asked for, whose files were read and are as they were written.
fn point(args: &Args, stored: &Stored) -> Result<Point, String> {
    let when = args.at.or(args.offset).unwrap_or(When::Latest);
    eprintln!("restore: reading everything up to {when}");
    let (point, notes) = stored.point(when).map_err(|error| error.to_line())?;
    notes.iter().for_each(|note| eprintln!("restore: note: {note}"));
    eprintln!(
        "restore: {} is {}, when what came last was of {}; from {} on, {}",
        when,
        point.position(),
        show(point.came()),
        point.base().0,
        HumanBytes(point.bytes())
    );
    Ok(point)
}

/// Restores one archive: that of a server, or of a shard.
fn restore_one(
    args: &Args,
    point: &Point,
    to: Option<RestoreTo>,
    scratch: Option<Endpoint>,
    is_first: bool,
) -> Result<Option<RestoreReport>, String> {
    if let Some(dir) = &args.to_dir {
        point.export_to(dir).map_err(|error| error.to_line())?;
        eprintln!(
            "restore: written; load it with redis-server --appendonly yes --dir {}, at least as new as what was archived ({})",
            dir.display(),
            point.server()
        );
        return Ok(None);
    }
    let to = to.ok_or("--target or --to-dir is wanted")?;
    let mut restore = Restore::new(point.clone(), to);
    let options = restore.options_mut();
    options.keys.clone_from(&args.keys);
    options.databases.clone_from(&args.db);
    options.rename.clone_from(&args.rename);
    // Each shard has all libraries.
    options.functions = is_first;
    options.expiry = match args.expiry {
        None | Some(Expiry::Keep) => RestoreExpiry::Keep,
        Some(Expiry::Shift) => RestoreExpiry::Shift,
        Some(Expiry::Freeze) => RestoreExpiry::Freeze,
    };
    options.on_exists = match args.on_exists {
        None | Some(Exists::Fail) => OnExists::Fail,
        Some(Exists::Replace) => OnExists::Replace,
        Some(Exists::Skip) => OnExists::Skip,
        Some(Exists::Merge) => OnExists::Merge,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start: {e}"))?;
    let report = runtime.block_on(run(restore, scratch, point)).map_err(|error| error.to_line())?;
    let left = match args.scratch {
        Some(_) => "stopped: a part may be at the target, and the scratch server may hold data",
        None => "stopped: a part may be at the target",
    };
    let report = report.ok_or(left)?;
    if !args.json {
        print_report(&report);
    }
    Ok(Some(report))
}

/// Runs it, with a server of this machine where one is needed and none was named. Nothing, where somebody has ended it.
async fn run(
    mut restore: Restore,
    scratch: Option<Endpoint>,
    point: &Point,
) -> Result<Option<RestoreReport>, Error> {
    let mut own = None;
    if let Some(scratch) = scratch {
        restore.set_scratch(scratch);
    } else if restore.needs_scratch().await? {
        let server = OwnServer::start("restore", point.server()).ok_or(ArchiveError::NeedsScratch)?;
        restore.set_scratch(own.insert(server).endpoint().clone());
    }
    let shown = tokio::spawn(show_steps(restore.progress()));
    let done = tokio::select! {
        done = restore.run() => done.map(Some),
        // A server of this program ends with it, and what that holds is removed.
        () = interrupted() => Ok(None),
    };
    shown.abort();
    done
}

/// A line when something else begins, or is in the way, and every few seconds how far it is.
async fn show_steps(progress: RestoreProgress) {
    let (mut shown, mut since) = (("", None), std::time::Instant::now());
    loop {
        let (step, figures) = progress.step();
        let figures = figures.map(|progress| progress.figures());
        let now = (step, figures.as_ref().and_then(|figures| figures.trouble.clone()));
        let is_new = now != shown;
        if is_new || since.elapsed() >= Duration::from_secs(5) {
            match (&now.1, figures) {
                (Some(trouble), _) => eprintln!("restore: {step}: trying again: {trouble}"),
                (None, Some(figures)) if !is_new => {
                    let (keys, commands) =
                        (HumanCount(figures.keys_applied), HumanCount(figures.commands_applied));
                    eprintln!("restore: {step}: {keys} keys, {commands} commands");
                }
                (None, _) if is_new => eprintln!("restore: {step}"),
                (None, _) => {}
            }
            (shown, since) = (now, std::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn print_report(report: &RestoreReport) {
    println!("moment   {} ({})", report.position, show(report.moment));
    println!("target   {}", report.target);
    let by = if report.scratch { "a scratch server" } else { "the target" };
    println!("stream   {} commands behind {}, carried out by {by}", HumanCount(report.commands), report.base);
    println!("restored {} keys, {} function libraries", HumanCount(report.keys), report.functions);
    for (count, what) in [
        (report.replaced, "of these keys were there before, and have been replaced"),
        (report.merged, "of these keys became the union of both"),
        (report.skipped, "other keys were there before, and stay as they are"),
    ] {
        if count > 0 {
            println!("existing {} {what}", HumanCount(count));
        }
    }
    if report.with_deadline > 0 || report.over_fields > 0 {
        println!(
            "expiry   {} keys had a deadline; {} of them, and {} fields of hashes, were over by now and are gone",
            HumanCount(report.with_deadline),
            HumanCount(report.over),
            HumanCount(report.over_fields)
        );
    }
    for note in &report.notes {
        println!("note     {note}");
    }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("restore: {message}");
    ExitCode::from(2)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("restore: {message}");
    ExitCode::FAILURE
}
