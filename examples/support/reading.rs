//! How a source is read.

use clap::ValueEnum;
use keyferry_migrate::{Follow, Options, Report, ScanCounts, SourceMode};

use crate::Given;

/// What is about sources that are read by SCAN.
const OF_SCAN: [&str; 4] = ["follow", "rescan", "limit-source-keys", "limit-source-bytes"];
const OF_SCAN_OR_PSYNC: [&str; 5] =
    ["follow", "rescan", "limit-source-keys", "limit-source-bytes", "psync-command"];

/// How a source is read that does not let everybody replicate.
#[derive(Debug, clap::Args)]
pub struct ReadingArgs {
    /// How the source is read: the first way that it allows, or this one
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    source_mode: Mode,

    /// The name of PSYNC at the source, where it was renamed
    #[arg(long, value_name = "NAME", default_value = "PSYNC")]
    psync_command: String,

    /// When keys are read one by one (scan): how writes are known that come meanwhile
    #[arg(long, value_enum, default_value_t = Writes::Auto)]
    follow: Writes,

    /// With --follow passes: how often everything is sent, at most; with 1 nobody looks whether something was written meanwhile
    #[arg(long, value_name = "PASSES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rescan: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// psync, else sync, else scan; the report says why
    Auto,
    /// As a replica: a snapshot, and all commands that follow
    Psync,
    /// As a replica of before 2.8: a link that is lost begins from the start
    Sync,
    /// Key by key, with SCAN and DUMP: what that cannot promise is in the report
    Scan,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Writes {
    /// notifications where they are to be had, else passes
    Auto,
    /// By keyspace notifications; where the source does not send all that are needed, it is set so for the time of the run
    Notifications,
    /// By reading everything again until nothing has changed
    Passes,
}

impl ReadingArgs {
    /// An option that was given, and means nothing with the others.
    ///
    /// # Errors
    /// What it is, in the words of a person.
    pub fn check(&self, given: &Given) -> Result<(), String> {
        let (what, meaningless) = match (self.source_mode, self.follow) {
            (Mode::Psync, _) => ("--source-mode psync", &OF_SCAN[..]),
            (Mode::Sync, _) => ("--source-mode sync", &OF_SCAN_OR_PSYNC[..]),
            (Mode::Scan, Writes::Notifications) => {
                ("--source-mode scan --follow notifications", &["rescan", "psync-command"][..])
            }
            (Mode::Scan, _) => ("--source-mode scan", &["psync-command"][..]),
            (Mode::Auto, Writes::Notifications) => ("--follow notifications", &["rescan"][..]),
            (Mode::Auto, _) => return Ok(()),
        };
        match given.first(meaningless) {
            Some(option) => Err(format!("--{option} means nothing with {what}")),
            None => Ok(()),
        }
    }

    /// Puts them into the options of a migration.
    pub fn put(&self, options: &mut Options) {
        options.source_mode = match self.source_mode {
            Mode::Auto => SourceMode::Auto,
            Mode::Psync => SourceMode::Psync,
            Mode::Sync => SourceMode::Sync,
            Mode::Scan => SourceMode::Scan,
        };
        options.follow = match self.follow {
            Writes::Auto => Follow::Auto,
            Writes::Notifications => Follow::Notifications,
            Writes::Passes => Follow::Passes,
        };
        options.rescan = self.rescan;
        options.link.psync_command.clone_from(&self.psync_command);
    }
}

/// Prints how the source was read, where that was not as usual.
pub fn print_reading(report: &Report) {
    match (report.source_mode, &report.scan) {
        (_, Some(scan)) => print_scan(scan),
        (Some("sync"), None) => println!("read     by SYNC: a link that is lost begins from the start"),
        _ => {}
    }
}

fn print_scan(scan: &ScanCounts) {
    println!(
        "read     by SCAN: {} keys in {} passes, {} events, {} keys read again, {} databases flushed; {} values read in parts, {} \
         above the limit by one DUMP",
        scan.keys_read,
        scan.passes,
        scan.events,
        scan.keys_read_again,
        scan.flushes,
        scan.values_in_parts,
        scan.values_whole,
    );
    for line in &scan.not_promised {
        println!("read     not promised: {line}");
    }
    for doubt in &scan.doubts {
        println!("read     everything again: {doubt}");
    }
}
