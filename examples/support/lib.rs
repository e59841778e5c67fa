//! What the example programs share: how progress is shown to a person or written to a log, and options.

// First, as the others say things with its macros.
#[macro_use]
pub mod say;

mod config;
mod control;
mod diff_bar;
mod existing;
mod file_progress;
mod filter;
mod given;
mod log;
mod output_file;
mod plan;
mod precheck;
mod reading;
mod report_file;
mod scratch;
mod selection;
mod signals;
mod source;
mod throttle;
mod ticker;
mod two_way;
mod values;
mod view;

pub use config::{ConfigArgs, shown as show_config, with_config, words};
pub use control::ControlArgs;
pub use diff_bar::DiffBar;
pub use existing::{ExistingArgs, print_existing};
pub use file_progress::FileProgress;
pub use filter::{FilterArgs, print_filter};
pub use given::Given;
pub use log::LogArgs;
pub use output_file::create_output;
pub use plan::{expand, planned};
pub use precheck::{PrecheckArgs, precheck, print_warnings};
pub use reading::{ReadingArgs, print_reading};
pub use report_file::ReportFile;
pub use scratch::{CarriedOut, OwnServer};
pub use selection::SelectionArgs;
pub use signals::{interrupted, stop_on_signal};
pub use source::{Source, print_files};
pub use throttle::{ThrottleArgs, print_throttle};
pub use two_way::TwoWayArgs;
pub use values::{duration, size};
pub use view::{Lines, View, ViewArgs};

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use keyferry_migrate::{Figures, InputFigures, Phase, Progress};

/// How often the view on a terminal is renewed.
const TERMINAL_PERIOD: Duration = Duration::from_millis(200);
/// How often a line is logged elsewhere, at least.
const LOG_PERIOD: Duration = Duration::from_secs(5);

/// Shows a migration's progress on standard error for as long as the future lives: bars with rate and time left on
/// a terminal, plain lines elsewhere.
pub async fn show_progress(progress: Progress) {
    if std::io::stderr().is_terminal() {
        show_bars(progress).await;
    } else {
        log_lines(progress).await;
    }
}

async fn show_bars(progress: Progress) {
    let bar = ProgressBar::new(0);
    bar.set_style(style("{spinner} {elapsed_precise} {msg}"));
    let mut rate = Rate::new();
    let mut shown = None;
    loop {
        let figures = progress.figures();
        let per_second = rate.update(done(&figures));
        if shown != Some(figures.phase) {
            shown = Some(figures.phase);
            bar.set_style(match (figures.phase, expected(&figures)) {
                (Phase::Snapshot, Some(_)) | (Phase::CatchingUp, Some(_)) if has_bar(&figures) => {
                    style("{elapsed_precise} {bar:30} {percent:>3} %  {msg}")
                }
                _ => style("{spinner} {elapsed_precise} {msg}"),
            });
        }
        if let Some(total) = expected(&figures) {
            bar.set_length(total);
            bar.set_position(done(&figures).min(total));
        }
        bar.set_message(message(&figures, per_second));
        bar.tick();
        tokio::time::sleep(TERMINAL_PERIOD).await;
    }
}

/// True while a share of the whole says something: of a snapshot, and of files.
fn has_bar(figures: &Figures) -> bool {
    figures.phase == Phase::Snapshot || figures.input.is_some()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

async fn log_lines(progress: Progress) {
    let mut rate = Rate::new();
    let (mut shown, mut last) = (None, Instant::now());
    loop {
        let figures = progress.figures();
        let now = (figures.phase, figures.trouble.clone());
        if shown.as_ref() != Some(&now) || last.elapsed() >= LOG_PERIOD {
            (shown, last) = (Some(now), Instant::now());
            let per_second = rate.update(done(&figures));
            eprintln!("migrate: {:>7.1}s {}", figures.elapsed_seconds, message(&figures, per_second));
        }
        tokio::time::sleep(TERMINAL_PERIOD).await;
    }
}

/// One line that says where a migration stands; `per_second` is its rate in what the phase counts.
fn message(figures: &Figures, per_second: f64) -> String {
    let phase = figures.phase.name();
    if figures.held_up {
        let trouble = figures.trouble.as_deref().unwrap_or("the journal is as large as it may be");
        let patience = figures
            .source_patience_seconds
            .map(|s| format!("; at this rate the source remembers what was not read for {s:.0} s more"));
        return format!("{phase}: the source is not read: {trouble}{}", patience.unwrap_or_default());
    }
    if let Some(trouble) = &figures.trouble {
        return format!("{phase}: trying again: {trouble}");
    }
    if let Some(input) = figures.input.filter(|_| figures.phase != Phase::Connecting) {
        return importing(figures, input, per_second);
    }
    match figures.phase {
        Phase::Snapshot => {
            let keys = match figures.keys_announced {
                0 => HumanCount(figures.keys_applied).to_string(),
                all => format!(
                    "{} of {}",
                    HumanCount(figures.keys_applied),
                    HumanCount(all.max(figures.keys_applied))
                ),
            };
            let left = time_left(expected(figures), figures.snapshot_applied, per_second);
            format!(
                "{phase}: {keys} keys, {} of {} received, {}/s{left}",
                HumanBytes(figures.snapshot_applied),
                HumanBytes(figures.snapshot_received),
                HumanBytes(per_second as u64),
            )
        }
        Phase::CatchingUp | Phase::Following => {
            let lag = match figures.lag_bytes {
                Some(lag) => format!("lag {}", HumanBytes(lag)),
                None => "lag unknown".to_owned(),
            };
            format!(
                "{phase}: {} commands, {lag}, {}/s, offset {}",
                HumanCount(figures.commands_applied),
                HumanBytes(per_second as u64),
                figures.applied_offset,
            )
        }
        _ => phase.to_owned(),
    }
}

/// One line that says how far files are.
fn importing(figures: &Figures, input: InputFigures, per_second: f64) -> String {
    let mut line = format!("import: {} keys", HumanCount(figures.keys_applied));
    if figures.commands_applied > 0 {
        line.push_str(&format!(", {} commands", HumanCount(figures.commands_applied)));
    }
    line.push_str(&format!(", {}", HumanBytes(input.applied)));
    if let Some(total) = input.total {
        line.push_str(&format!(" of {}", HumanBytes(total)));
    }
    format!(
        "{line}, {}/s{}",
        HumanBytes(per_second as u64),
        time_left(input.total, input.applied, per_second)
    )
}

/// How long the rest takes at this rate, where that can be told.
fn time_left(total: Option<u64>, done: u64, per_second: f64) -> String {
    total
        .filter(|_| per_second > 0.0)
        .map(|total| total.saturating_sub(done) as f64 / per_second)
        // A rate near zero makes it longer than a duration can be.
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(|left| format!(", {} left", HumanDuration(left)))
        .unwrap_or_default()
}

/// Bytes that the present phase has done.
fn done(figures: &Figures) -> u64 {
    if let Some(input) = figures.input {
        return input.applied;
    }
    match figures.phase {
        Phase::CatchingUp | Phase::Following => figures.applied_offset,
        _ => figures.snapshot_applied,
    }
}

/// Bytes that the snapshot has, where that is known or can be told from its own count of keys.
fn expected(figures: &Figures) -> Option<u64> {
    if let Some(input) = figures.input {
        return input.total;
    }
    figures.snapshot_total.or_else(|| {
        let share = figures.keys_applied as f64 / figures.keys_announced as f64;
        (share > 0.01 && share <= 1.0).then(|| (figures.snapshot_applied as f64 / share) as u64)
    })
}

/// A rate over the last few seconds.
struct Rate {
    at: Instant,
    value: u64,
    per_second: f64,
}

impl Rate {
    fn new() -> Self {
        Rate { at: Instant::now(), value: 0, per_second: 0.0 }
    }

    fn update(&mut self, value: u64) -> f64 {
        let seconds = self.at.elapsed().as_secs_f64();
        if value < self.value {
            // Another phase counts something else.
            (self.at, self.value, self.per_second) = (Instant::now(), value, 0.0);
        } else if seconds >= 1.0 {
            let now = (value - self.value) as f64 / seconds;
            self.per_second = if self.per_second == 0.0 { now } else { 0.6 * self.per_second + 0.4 * now };
            (self.at, self.value) = (Instant::now(), value);
        }
        self.per_second
    }
}
