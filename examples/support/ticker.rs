//! A bar that is kept up to date by a thread of its own.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::ProgressBar;

/// What takes less time than this needs no bar.
const BEFORE: Duration = Duration::from_millis(800);
const PERIOD: Duration = Duration::from_millis(200);

/// Renews a bar until it is dropped, and then clears it.
#[derive(Debug)]
pub(crate) struct Ticker {
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Ticker {
    /// `make` gives the bar and what brings it up to date.
    pub(crate) fn start<F: FnMut(&ProgressBar)>(
        make: impl FnOnce() -> (ProgressBar, F) + Send + 'static,
    ) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(BEFORE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let (bar, mut update) = make();
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                update(&bar);
                bar.tick();
            }
            bar.finish_and_clear();
        });
        Self { running: Some((stop, thread)) }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}
