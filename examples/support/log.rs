//! Logs for people or machines, on standard error.

use std::time::Instant;

use clap::ValueEnum;
use tracing_subscriber::{
    filter::LevelFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
};

use crate::view::Lines;

/// What is logged, and how.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Log to standard error what happens, with keys, offsets and reasons, and never values
    #[arg(long, value_enum, value_name = "FORM")]
    pub log: Option<LogForm>,

    /// What is logged at least
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
}

/// How it is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogForm {
    /// One line an event
    Human,
    /// One JSON object a line
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[allow(missing_docs, reason = "their names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl LogArgs {
    /// Begins to log, if that is wanted.
    pub fn start(&self) {
        if let Some(form) = self.log {
            start(form, self.level(), std::io::stderr);
        }
    }

    /// Begins to log to lines that a view shows, also where no log is wanted otherwise.
    pub fn start_in(&self, lines: &Lines) {
        match self.log {
            Some(form) => start(form, self.level(), lines.clone()),
            None => tracing_subscriber::fmt()
                .with_max_level(self.level())
                .with_writer(lines.clone())
                .with_ansi(false)
                .log_internal_errors(false)
                .with_target(false)
                .with_timer(Since(Instant::now()))
                .init(),
        }
    }

    fn level(&self) -> LevelFilter {
        match self.log_level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        }
    }
}

fn start<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(form: LogForm, level: LevelFilter, to: W) {
    // What cannot be written would be told there, too, by a macro that panics.
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(to)
        .with_ansi(false)
        .log_internal_errors(false);
    match form {
        LogForm::Human => lines.with_target(false).init(),
        LogForm::Json => lines.json().flatten_event(true).init(),
    }
}

/// Seconds since the program began: on a screen nobody needs the date.
struct Since(Instant);

impl FormatTime for Since {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        write!(to, "{:>7.1}s", self.0.elapsed().as_secs_f64())
    }
}
