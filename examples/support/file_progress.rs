//! How far the reading of a file is, on a terminal.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};
use keyferry_files::Progress;

use crate::style;

/// What takes less time than this needs no bar.
const BEFORE: Duration = Duration::from_millis(800);
const PERIOD: Duration = Duration::from_millis(200);

/// A bar on standard error that shows how far a file is read, until it is dropped. Nothing where standard error is no terminal, or
/// standard output is one, as lines would mix.
#[derive(Debug)]
pub struct FileProgress {
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl FileProgress {
    /// Shows this from now on; `to_terminal` tells that output goes to a terminal while reading goes on.
    pub fn show(progress: Progress, to_terminal: bool) -> Self {
        if !std::io::stderr().is_terminal() || to_terminal {
            return Self { running: None };
        }
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(BEFORE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::with_draw_target(progress.total(), ProgressDrawTarget::stderr());
            bar.set_style(style(match progress.total() {
                Some(_) => "{elapsed_precise} {bar:30} {percent:>3} %  {binary_bytes_per_sec}, {eta} left",
                None => "{spinner} {elapsed_precise} {binary_bytes} read, {binary_bytes_per_sec}",
            }));
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                bar.set_position(progress.read());
                bar.tick();
            }
            bar.finish_and_clear();
        });
        Self { running: Some((stop, thread)) }
    }
}

impl Drop for FileProgress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}
