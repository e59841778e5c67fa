//! The time at which keys and hash fields count as expired, the same for both sides.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a snapshot waits for the others to begin. Servers give a replica up that does not read for a minute.
const WAIT: Duration = Duration::from_secs(30);

/// Settles the time when every snapshot has said when it was written.
///
/// It is the end of the latest second in which one was written, by the clocks of the servers themselves: whatever a server has removed
/// because it had expired, had expired by then, and the other side leaves it out, too. Clocks that differ do no harm.
#[derive(Debug)]
pub(crate) struct Cutoff {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Snapshots that have not begun yet.
    missing: usize,
    /// The latest time told.
    latest: Option<i64>,
    settled: Option<Option<i64>>,
    given_up: bool,
}

impl Cutoff {
    pub(crate) fn new(snapshots: usize) -> Self {
        let state = State { missing: snapshots, latest: None, settled: None, given_up: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Says when a snapshot was written, in seconds since the Unix epoch, and waits for what the others say.
    ///
    /// Gives the time in milliseconds up to which things have expired; `None` when no snapshot says when it was written.
    pub(crate) fn settle(&self, written_at: Option<i64>) -> Option<i64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.missing = state.missing.saturating_sub(1);
        state.latest =
            state.latest.max(written_at.map(|second| second.saturating_add(1).saturating_mul(1000)));
        self.changed.notify_all();
        let end = Instant::now() + WAIT;
        while state.settled.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if state.missing == 0 || state.given_up {
                state.settled = Some(state.latest);
            } else if left.is_zero() {
                state.settled = Some(state.latest.max(Some(now())));
            } else {
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        self.changed.notify_all();
        state.settled.flatten()
    }

    /// The latest time told, also by snapshots that began after it had been settled.
    pub(crate) fn latest(&self) -> Option<i64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.latest.max(state.settled.flatten())
    }

    /// Nobody waits any more.
    pub(crate) fn give_up(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).given_up = true;
        self.changed.notify_all();
    }
}

/// By how much a migration of this project puts deadlines off while the target is behind. Held ones lie in `HELD..HELD + HELD / 2`,
/// where nobody's own are, and servers keep nothing from there on (2^46).
const HELD: i64 = 1 << 45;

/// The deadline that one stands for which may be held back.
pub(crate) fn exact(deadline: i64) -> i64 {
    if (HELD..HELD + HELD / 2).contains(&deadline) { deadline - HELD } else { deadline }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_counts_for_all() {
        let cutoff = Cutoff::new(3);
        let settled: Vec<_> = std::thread::scope(|scope| {
            let cutoff = &cutoff;
            let threads = [Some(7), None, Some(9)].map(|time| scope.spawn(move || cutoff.settle(time)));
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert_eq!(settled, [Some(10_000); 3]);
        assert_eq!(cutoff.latest(), Some(10_000));
    }

    #[test]
    fn held_deadlines_are_known_by_themselves() {
        for at in [0, 1, 1_795_799_140_540, 1 << 43] {
            assert_eq!((exact(at), exact(at + (1 << 45))), (at, at));
        }
        for other in [-1, 1 << 44, (1 << 45) - 1, (1 << 45) + (1 << 44), i64::MAX] {
            assert_eq!(exact(other), other);
        }
    }

    #[test]
    fn without_times_nothing_has_expired() {
        assert_eq!(Cutoff::new(1).settle(None), None);
    }

    #[test]
    fn who_gives_up_keeps_nobody_waiting() {
        let cutoff = Cutoff::new(2);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| cutoff.settle(Some(1)));
            cutoff.give_up();
            assert_eq!(thread.join().unwrap(), Some(2000));
        });
    }
}
