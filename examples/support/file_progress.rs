//! How far the reading of a file is, on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget};
use keyferry_files::Progress;
use std::io::IsTerminal;

use crate::style;
use crate::ticker::Ticker;

/// A bar on standard error that shows how far a file is read, until it is dropped. Nothing where standard error is no terminal, or
/// standard output is one, as lines would mix.
#[derive(Debug)]
pub struct FileProgress {
    _running: Option<Ticker>,
}

impl FileProgress {
    /// Shows this from now on; `to_terminal` tells that output goes to a terminal while reading goes on.
    pub fn show(progress: Progress, to_terminal: bool) -> Self {
        if !std::io::stderr().is_terminal() || to_terminal {
            return Self { _running: None };
        }
        let bar = move || {
            let bar = ProgressBar::with_draw_target(progress.total(), ProgressDrawTarget::stderr());
            bar.set_style(style(match progress.total() {
                Some(_) => "{elapsed_precise} {bar:30} {percent:>3} %  {binary_bytes_per_sec}, {eta} left",
                None => "{spinner} {elapsed_precise} {binary_bytes} read, {binary_bytes_per_sec}",
            }));
            (bar, move |bar: &ProgressBar| bar.set_position(progress.read()))
        };
        Self { _running: Some(Ticker::start(bar)) }
    }
}
