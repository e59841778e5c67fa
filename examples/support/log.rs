//! Logs for people or machines, on standard error.

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;

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
        let level = match self.log_level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        };
        let lines =
            tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
        match self.log {
            None => {}
            Some(LogForm::Human) => lines.with_target(false).init(),
            Some(LogForm::Json) => lines.json().flatten_event(true).init(),
        }
    }
}
