//! Keeps everything that a server has held, at any moment: its stream of commands, with snapshots between.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use indicatif::HumanBytes;
use keyferry_examples::{ReportFile, duration, eprintln, size, stop_on_signal};
use keyferry_migrate::{
    Fsync,
    archive::{Archive, ArchiveFigures, ArchiveProgress, Archived},
};

/// Keep everything that a server has held, at any moment, while it goes on
///
/// The server is followed as by a replica. Ended or killed, the same command goes on where it was. `restore` reads the archive, also while it is
/// kept.
#[derive(Debug, Parser)]
#[command(name = "archive", version, after_help = EXAMPLES)]
struct Args {
    /// What to archive: redis://[user:password@]host[:port], rediss:// (TLS), unix:///path,
    /// redis+cluster://host:port,host:port (an archive for each shard), redis+sentinel://host:port,host:port/service
    // Text, not options: a wrong URL must not be echoed with its password.
    #[arg(long, value_name = "URL", env = "KEYFERRY_SOURCE", hide_env_values = true)]
    source: String,

    /// Directory of the archive: empty, not there yet, or of an earlier run
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// How often a snapshot is taken (s, m, h, d)
    #[arg(long, value_name = "TIME", default_value = "6h", value_parser = duration)]
    base_every: Duration,

    /// How far back every moment can be restored (s, m, h, d), or forever
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = keep)]
    keep: Keep,

    /// Bytes that all files may have (k, m, g), of each shard of a cluster; what is oldest goes first [default: no bound]
    #[arg(long, value_name = "SIZE", value_parser = some)]
    max_size: Option<u64>,

    /// Size at which a part of the stream is closed, read back and compressed (k, m, g)
    #[arg(long, value_name = "SIZE", default_value = "256m", value_parser = some)]
    segment_size: u64,

    /// Age at which it is
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    segment_age: Duration,

    /// When what came is written through to the disk
    #[arg(long, value_enum, default_value_t = WriteThrough::Everysec)]
    fsync: WriteThrough,

    /// How long the source may be away
    #[arg(long, value_name = "TIME", default_value = "12h", value_parser = duration)]
    retry_connect: Duration,

    /// Read from replicas, where there are any (clusters and sentinels)
    #[arg(long)]
    prefer_replicas: bool,

    /// Let the server write each snapshot to its own disk first, instead of streaming it
    #[arg(long)]
    source_disk: bool,

    /// Write here what was done, also when it fails
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  archive --source redis://host:6379 --dir /backup/host
  archive --source redis://host:6379 --dir /backup/host --base-every 1h --keep 3d --max-size 200g
  archive --source redis+cluster://a:6379,b:6379 --dir /backup/cluster --prefer-replicas

What is in it, and the way back: restore --archive DIR --list, restore --archive DIR --at TIME --target URL.
It runs until Ctrl-C or SIGTERM. Exit status: 0 ended on request, 1 failed, 2 wrong usage.";

#[derive(Clone, Copy, Debug)]
struct Keep(Option<Duration>);

fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" { Ok(Keep(None)) } else { duration(text).map(|time| Keep(Some(time))) }
}

fn some(text: &str) -> Result<u64, String> {
    size(text)
        .and_then(|bytes| if bytes > 0 { Ok(bytes) } else { Err("more than nothing is wanted".to_owned()) })
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

fn main() -> ExitCode {
    let args = Args::parse();
    let source = match args.source.parse() {
        Ok(source) => source,
        Err(e) => {
            eprintln!("archive: --source: {e}");
            return ExitCode::from(2);
        }
    };
    let report = match args.report.as_deref().map(ReportFile::open).transpose() {
        Ok(file) => file,
        Err(wrong) => return fail(&wrong),
    };
    let mut archive = Archive::new(source, &args.dir);
    let options = archive.options_mut();
    options.base_every = args.base_every;
    options.keep = args.keep.0;
    options.max_bytes = args.max_size;
    options.segment_bytes = args.segment_size;
    options.segment_age = args.segment_age;
    options.reconnect_window = args.retry_connect;
    options.prefer_replicas = args.prefer_replicas;
    options.link.diskless = !args.source_disk;
    options.fsync = match args.fsync {
        WriteThrough::Always => Fsync::Always,
        WriteThrough::Everysec => Fsync::EverySecond,
        WriteThrough::No => Fsync::No,
    };
    let archived = match run(archive) {
        Ok(archived) => archived,
        Err(error) => return fail(&error),
    };
    for link in &archived.report.links {
        eprintln!("archive: {}", line(link));
    }
    let written = report.map_or(Ok(()), |file| file.write(&archived.report, |_| String::new()));
    if let Err(wrong) = &written {
        eprintln!("archive: {wrong}");
    }
    match archived.result {
        Ok(()) if written.is_err() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_line()),
    }
}

fn run(archive: Archive) -> Result<Archived, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot start: {e}"))?;
    runtime.block_on(async {
        let says = "archive: stopping: writing out what has come";
        let stopper = archive.stopper();
        tokio::spawn(stop_on_signal(move || stopper.stop(), says));
        let shown = tokio::spawn(show(archive.progress()));
        let progress = archive.progress();
        let archived = archive.run().await;
        shown.abort();
        told(&progress);
        Ok(archived)
    })
}

/// Notes as they come, and a line a minute; every few seconds on a terminal.
async fn show(progress: ArchiveProgress) {
    let period = Duration::from_secs(if std::io::stderr().is_terminal() { 5 } else { 60 });
    let mut last = None;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        told(&progress);
        let due = last.is_none_or(|last: std::time::Instant| last.elapsed() >= period);
        let figures = progress.figures();
        if due && !figures.is_empty() {
            last = Some(std::time::Instant::now());
            figures.iter().for_each(|link| eprintln!("archive: {}", line(link)));
        }
    }
}

fn told(progress: &ArchiveProgress) {
    for note in progress.take_notes() {
        eprintln!("archive: note: {note}");
    }
}

fn line(link: &ArchiveFigures) -> String {
    let mut line = match (&link.snapshot_received, &link.position) {
        (Some(received), _) => format!("{}: snapshot, {} received", link.source, HumanBytes(*received)),
        (None, Some(position)) => format!("{}: at {position}", link.source),
        (None, None) => format!("{}: connecting", link.source),
    };
    line.push_str(&format!(
        ", {} snapshots, {} segments, {}",
        link.bases,
        link.segments,
        HumanBytes(link.bytes)
    ));
    if link.gaps > 0 {
        line.push_str(&format!(", {} gaps", link.gaps));
    }
    if let Some(trouble) = &link.trouble {
        line.push_str(&format!("; {trouble}"));
    }
    line
}

fn fail(message: &str) -> ExitCode {
    eprintln!("archive: {message}");
    ExitCode::FAILURE
}
