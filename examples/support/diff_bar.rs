//! How far a comparison is.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget};
use keyferry_diff::{DiffProgress, Phase, SideProgress};

use crate::ticker::Ticker;
use crate::{LOG_PERIOD, style};

/// A bar on standard error that shows how far a comparison is, until it is dropped; elsewhere than on a terminal a line
/// every few seconds.
#[derive(Debug)]
pub struct DiffBar {
    _running: Ticker,
}

impl DiffBar {
    /// Shows this from now on.
    pub fn show(progress: DiffProgress) -> Self {
        let to_terminal = std::io::stderr().is_terminal();
        let make = move || {
            let bar = if to_terminal {
                ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            } else {
                ProgressBar::hidden()
            };
            bar.set_style(style("{spinner} {elapsed_precise} {msg}"));
            let (started, mut logged) = (Instant::now(), Instant::now());
            let mut with_length = false;
            let update = move |bar: &ProgressBar| {
                let (source, target) = (progress.source(), progress.target());
                let announced = source.announced + target.announced;
                if progress.phase() == Phase::Reading && announced > 0 {
                    if !std::mem::replace(&mut with_length, true) {
                        bar.set_style(style("{elapsed_precise} {bar:30} {percent:>3} %  {msg}, {eta} left"));
                    }
                    bar.set_length(announced);
                    bar.set_position((source.keys + target.keys).min(announced));
                } else if std::mem::replace(&mut with_length, false) {
                    bar.set_style(style("{spinner} {elapsed_precise} {msg}"));
                }
                let message = message(&progress, &source, &target, started.elapsed().as_secs_f64());
                if !to_terminal && logged.elapsed() >= LOG_PERIOD {
                    logged = Instant::now();
                    eprintln!("diff: {:>7.1}s {message}", started.elapsed().as_secs_f64());
                }
                bar.set_message(message);
            };
            (bar, update)
        };
        Self { _running: Ticker::start(make) }
    }
}

fn message(progress: &DiffProgress, source: &SideProgress, target: &SideProgress, seconds: f64) -> String {
    match progress.phase() {
        Phase::Preparing => "waiting for the servers".to_owned(),
        Phase::Reading => {
            let per_second = |count: u64| (count as f64 / seconds.max(0.001)) as u64;
            let rate = match source.bytes + target.bytes {
                // Key by key nobody counts bytes.
                0 => format!("{} keys/s", HumanCount(per_second(source.keys + target.keys))),
                bytes => format!("{}/s", HumanBytes(per_second(bytes))),
            };
            let found = match progress.differences() {
                0 => String::new(),
                found => format!(", {} differ so far", HumanCount(found)),
            };
            format!("{} and {} keys read, {rate}{found}", HumanCount(source.keys), HumanCount(target.keys))
        }
        Phase::Waiting => format!("round {} is over, waiting for the next", progress.round()),
        _ if progress.round() > 1 => format!("round {}, looking again at what differs", progress.round()),
        _ => format!("comparing, {} differences", HumanCount(progress.differences())),
    }
}
