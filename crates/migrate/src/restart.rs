//! Beginning anew, in the same run, where the source can no longer give what was begun: its snapshot was lost on the way,
//! or it no longer has the writes that come next. Where the target stands tells the next attempt what to ask for.

use std::time::{Duration, Instant};

use keyferry_client::Backoff;

use crate::{
    error::Error,
    migration::Migration,
    report::{Ends, Outcome},
    snapshot_counts::SnapshotCounts,
};

/// How long a side may be away at the very start, where nothing has been begun: long enough for a restart of it, and short
/// enough for whoever mistyped an address.
const START_WINDOW: Duration = Duration::from_secs(10);

/// How often in a row a snapshot may be lost on its way: each costs the source another one.
const MOST: u32 = 10;

/// Of how many attempts the report tells why.
const NAMED: u64 = 20;

/// How one attempt ended.
pub(crate) struct Attempt {
    pub(crate) result: Result<Outcome, Error>,
    /// What it left behind can be built upon.
    pub(crate) repeatable: bool,
}

/// Attempts that failed in a row.
struct Failures {
    since: Instant,
    count: u32,
    backoff: Backoff,
}

impl Migration {
    /// Runs to the end, with another attempt where the source has to send its snapshot once more, as long as that may go on.
    pub(crate) async fn execute(&self, ends: &mut Ends) -> Result<Outcome, Error> {
        let mut failures: Option<Failures> = None;
        let longest = self.options.reconnect_window;
        let mut window = if self.goes_on() { longest } else { START_WINDOW.min(longest) };
        loop {
            ends.begun = false;
            let Attempt { result, repeatable } = Box::pin(self.attempt(ends)).await;
            let again = |error: &Error| match (ends.begun, &failures) {
                (true, None) => repeatable && error.is_passing(),
                // Nothing is under way, or what is not there is away for the same reason, as likely as not.
                _ => error.is_passing() || error.is_away(),
            };
            let error = match result {
                Err(error) if again(&error) => error,
                result => return result,
            };
            if self.stop.is_cancelled() {
                // What would be tried again by this run is tried by the next one.
                ends.notes.push(format!("stopped while this was in the way: {}", error.to_line()));
                return Ok(Outcome::Stopped { everything_applied: false });
            }
            let failed = failures.get_or_insert_with(|| Failures {
                since: Instant::now(),
                count: 0,
                backoff: Backoff::default(),
            });
            if self.meter.figures().snapshot_received > 0 {
                failed.since = Instant::now();
            }
            if self.meter.is_past_snapshot() {
                // None was lost on its way.
                failed.count = 0;
                failed.since = Instant::now();
                failed.backoff = Backoff::default();
            }
            if ends.begun {
                failed.count += 1;
                window = longest;
            }
            if failed.since.elapsed() >= window || failed.count > MOST {
                return Err(error);
            }
            let delay = failed.backoff.next_delay();
            self.begin_anew(&error, delay, ends);
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.stop.cancelled() => return Ok(Outcome::Stopped { everything_applied: false }),
            }
            self.meter.note_trouble(None);
        }
    }

    /// True when a run before has left something in the journal's directory.
    fn goes_on(&self) -> bool {
        let entries = self.options.journal.as_ref().and_then(|directory| std::fs::read_dir(directory).ok());
        entries.is_some_and(|mut entries| entries.next().is_some())
    }

    fn begin_anew(&self, error: &Error, delay: Duration, ends: &mut Ends) {
        let line = error.to_line();
        if ends.begun {
            ends.restarts += 1;
            if ends.restarts <= NAMED {
                ends.notes.push(format!("begun anew: {line}"));
            }
        }
        ends.counts = SnapshotCounts::default();
        // Nobody asked for it, and nobody goes on with it.
        if let Some(journal) = ends.journal.take()
            && self.options.journal.is_none()
        {
            std::fs::remove_dir_all(journal).ok();
        }
        self.meter.restart();
        self.meter.note_trouble(Some(format!("{line}; trying again in {:.1} s", delay.as_secs_f64())));
    }
}

impl Error {
    /// True when a side cannot be reached at the moment, a shard of the source is without a primary, as in a failover, or the
    /// disk of the journal is full.
    fn is_away(&self) -> bool {
        match self {
            Error::SourceSlotsUnserved { .. } | Error::SourceShardDown { .. } => true,
            Error::SourceConnection(error) | Error::Target(error) => error.is_retryable(),
            Error::Journal { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// True when another attempt may succeed: the link to the source was lost where it cannot be gone on with.
    fn is_passing(&self) -> bool {
        match self {
            Error::Source(error) => error.is_retryable(),
            // The target has been told that the link's stream is over.
            Error::HistoryLost { .. } => true,
            _ => false,
        }
    }
}
