//! Both ways at once.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use keyferry_client::Endpoint;
use keyferry_migrate::{
    Error, Options,
    metrics::MetricsServer,
    two_way::{LinkCounts, Policy, TwoWay, TwoWayReport},
};

use crate::{Given, ReportFile, Source, show_progress, stop_on_signal};

/// What means nothing where both sides are written to, besides what the library refuses.
const MEANINGLESS: &[&str] = &[
    "plan",
    "control",
    "view",
    "linger",
    "shard",
    "skip-refused",
    "allow-cut-log",
    "follow",
    "rescan",
    "limit-source-keys",
    "limit-source-bytes",
];

/// Both sides are written to by applications.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Both ways at once")]
pub struct TwoWayArgs {
    /// Carry over the writes of both sides, each to the other, until it is stopped: the target gets what the source holds first, and
    /// from when it says so both may be written to. What becomes of a key that both have written before either knew of the other's
    /// write. Each conflict is counted; of a write and a deletion the write stays
    #[arg(long, value_enum, value_name = "POLICY")]
    two_way: Option<Settle>,

    /// Add each conflict to this file, as a line of JSON
    #[arg(long, value_name = "FILE", requires = "two_way")]
    conflicts: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Settle {
    /// Both writes are carried out on both sides, and may leave different values
    Report,
    /// Both sides get the value to which the source's write was done last
    SourceWins,
    /// The same of the target's
    TargetWins,
    /// The same of the write that came later to this program
    Newest,
}

impl TwoWayArgs {
    /// True when both ways are wanted.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.two_way.is_some()
    }

    /// An option that was given, and means nothing with both ways.
    ///
    /// # Errors
    /// What it is, in the words of a person.
    pub fn check(&self, given: &Given, report: Option<&ReportFile>) -> Result<(), String> {
        let option = given.first(MEANINGLESS).map(|option| format!("--{option}"));
        match option.or(report.filter(|file| file.is_markdown()).map(|_| "a report in Markdown".to_owned())) {
            Some(option) => Err(format!("{option} does not go together with --two-way")),
            None => Ok(()),
        }
    }

    /// Says what a run would refuse before it writes anything; a side that cannot be asked is left to those who look at both sides.
    ///
    /// # Errors
    /// What it is, in the words of the run, and with its exit status.
    pub async fn look(
        &self,
        source: &Source,
        target: &Endpoint,
        options: &Options,
    ) -> Result<(), (String, ExitCode)> {
        match self.both(source, target, options)?.check().await {
            Err(error @ Error::TwoWay { .. }) => Err((error.to_line(), ExitCode::FAILURE)),
            _ => Ok(()),
        }
    }

    /// Runs both links, with these options for both.
    pub async fn run(
        &self,
        source: &Source,
        target: &Endpoint,
        options: &Options,
        (report, metrics): (Option<ReportFile>, Option<std::net::SocketAddr>),
    ) -> ExitCode {
        let fail = |message: String| {
            eprintln!("migrate: {message}");
            ExitCode::FAILURE
        };
        let mut both = match self.both(source, target, options) {
            Ok(both) => both,
            Err((message, code)) => {
                eprintln!("migrate: {message}");
                return code;
            }
        };
        if let Some(path) = &self.conflicts {
            both.write_conflicts_to(path);
        }
        if let Some(address) = metrics {
            match MetricsServer::bind_two_way(address, &both).await {
                Ok(server) => drop(tokio::spawn(server.serve())),
                Err(e) => return fail(format!("metrics: {address}: {e}")),
            }
        }
        let (progress, stopper) = (both.progress(), both.stopper());
        let view = tokio::spawn(show_progress(progress.forward()));
        let ready = tokio::spawn(async move {
            while !progress.is_ready() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            println!("two-way: both sides may be written to");
        });
        let says = "migrate: stopping: applying what has been read";
        tokio::spawn(stop_on_signal(move || stopper.stop(), says));
        let finished = both.run().await;
        ready.abort();
        view.abort();
        print_both(&finished.report);
        let written = report.map_or(Ok(()), |file| file.write(&finished.report, |_| String::new()));
        if let Err(wrong) = written {
            eprintln!("migrate: {wrong}");
        }
        match finished.result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.to_line()),
        }
    }
}

impl TwoWayArgs {
    fn both(
        &self,
        source: &Source,
        target: &Endpoint,
        options: &Options,
    ) -> Result<TwoWay, (String, ExitCode)> {
        let Source::Servers(source) = source else {
            let message = "--two-way is about two servers; the source is a file".to_owned();
            return Err((message, ExitCode::from(2)));
        };
        let policy = match self.two_way {
            Some(Settle::SourceWins) => Policy::SourceWins,
            Some(Settle::TargetWins) => Policy::TargetWins,
            Some(Settle::Newest) => Policy::Newest,
            Some(Settle::Report) | None => Policy::Report,
        };
        let mut both = TwoWay::new(Endpoint::clone(source), target.clone(), policy);
        *both.options_mut() = options.clone();
        Ok(both)
    }
}

fn print_both(report: &TwoWayReport) {
    println!("id       {}, both ways, {}", report.id, report.policy.name());
    if let Some(forward) = &report.forward {
        let shown = |end: &keyferry_migrate::Endpoint| {
            format!("{} ({})", end.url, end.server.as_deref().unwrap_or("not reached"))
        };
        println!("source   {}", shown(&forward.source));
        println!("target   {}", shown(&forward.target));
    }
    print_link("to the target", &report.from_source);
    print_link("to the source", &report.from_target);
    println!(
        "conflicts {}, {} keys settled, {} yet to be; {} commands refused",
        report.conflicts, report.settled, report.unsettled, report.refused
    );
    for sample in &report.samples {
        println!("conflict {} in database {}", sample.key, sample.database);
    }
}

fn print_link(to: &str, counts: &LinkCounts) {
    println!(
        "{to}: {} commands; {} in {} transactions of the other link left out, {} as they were settled",
        counts.own, counts.returned_commands, counts.returned, counts.left_out
    );
    if counts.unknown > 0 {
        println!(
            "{to}: of {} commands nobody can tell whether they met a write of the other side",
            counts.unknown
        );
    }
}
