//! How long a peer has been silent, by the time in which somebody listened.

use std::time::Duration;

use tokio::time::Instant;

/// How often a listener that hears nothing looks at the clock.
const LOOK: Duration = Duration::from_secs(5);

/// The silence of a peer, up to a limit.
///
/// Time in which nobody listened says nothing of the peer: a process that was suspended, or the machine with it, would take
/// its own absence for the silence of the other. So a listener wakes up every now and then, and what is beyond that between two
/// looks at the clock does not count.
#[derive(Debug)]
pub(crate) struct Silence {
    limit: Duration,
    /// When the peer was last heard, later by what does not count.
    heard: Instant,
    /// When the clock was last looked at. Listening may be given up and begun anew in between.
    looked: Instant,
}

impl Silence {
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, heard: now, looked: now }
    }

    /// The most that may be silent.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// The peer was heard.
    pub(crate) fn heard(&mut self, now: Instant) {
        (self.heard, self.looked) = (now, now);
    }

    /// Until when to listen before this is asked again; `None` when the limit is reached.
    pub(crate) fn listen_until(&mut self, now: Instant) -> Option<Instant> {
        let look = LOOK.min(self.limit / 4);
        // Waking up may take a moment on a busy machine.
        let away = now.saturating_duration_since(self.looked).saturating_sub(2 * look);
        self.heard += away;
        self.looked = now;
        let end = self.heard + self.limit;
        (now < end).then(|| end.min(now + look))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Listens, and is away for so long after so many looks; gives after how long the limit was reached.
    fn reached(away_after: usize, away: Duration) -> Duration {
        let begin = Instant::now();
        let mut silence = Silence::new(LIMIT, begin);
        let mut now = begin;
        for look in 0.. {
            match silence.listen_until(now) {
                Some(until) => now = until,
                None => break,
            }
            if look == away_after {
                now += away;
            }
        }
        now - begin
    }

    #[test]
    fn a_silent_peer_is_given_up_at_the_limit() {
        assert_eq!(reached(usize::MAX, Duration::ZERO), LIMIT);
        assert_eq!(reached(3, LOOK), LIMIT);
    }

    #[test]
    fn time_away_does_not_count() {
        for away in [LIMIT, 100 * LIMIT] {
            let after = reached(2, away);
            assert!(after > away + LIMIT - 3 * LOOK && after <= away + LIMIT, "{after:?}");
        }
    }

    #[test]
    fn who_is_heard_is_not_silent() {
        let begin = Instant::now();
        let mut silence = Silence::new(LIMIT, begin);
        let late = begin + LIMIT - Duration::from_millis(1);
        silence.heard(late);
        assert_eq!(silence.listen_until(late), Some(late + LOOK));
        assert_eq!(silence.limit(), LIMIT);
    }
}
