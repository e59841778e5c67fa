//! Lag as a time, without a word to the source.
//!
//! Each time the offset of the source is seen to have grown, it is noted with the time. What the target has not confirmed
//! is then as old as the first note beyond what it has. So the figure is right to the interval at which is looked, and
//! where the source's own offset is asked for less often than that, to that interval.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Notes that are kept. When there are more, every second one goes: an old lag need not be known to the tenth of a second.
const MOST: usize = 4096;

/// How old the lag of one link is: its offsets, and when they were first seen.
///
/// Whoever shows a migration looks at the figures of each link in turn, and notes them ([`LagClock::note`]); what it tells is as exact as that
/// is often.
#[derive(Clone, Debug, Default)]
pub struct LagClock {
    notes: VecDeque<(Instant, u64)>,
    /// The highest offset that was seen.
    seen: u64,
    /// What the target had when it was last looked at.
    applied: u64,
}

impl LagClock {
    /// Notes how far the source is at this time, and how far the target, as replication offsets.
    pub fn note(&mut self, now: Instant, source: u64, applied: u64) {
        if source < self.seen && applied < self.applied {
            // Another history, whose offsets begin anew.
            *self = LagClock::default();
        }
        if source > self.seen {
            self.seen = source;
            self.notes.push_back((now, source));
        }
        self.applied = applied;
        while self.notes.front().is_some_and(|&(_, offset)| offset <= applied) {
            self.notes.pop_front();
        }
        if self.notes.len() > MOST {
            let mut odd = false;
            // The first and with it the age of what is missing stays.
            self.notes.retain(|_| {
                odd = !odd;
                odd
            });
        }
    }

    /// For how long the source has had something that the target does not have.
    #[must_use]
    pub fn lag(&self, now: Instant) -> Duration {
        let first = self.notes.front().map(|&(at, _)| now.saturating_duration_since(at));
        first.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_the_first_missing_byte() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut clock = LagClock::default();
        clock.note(at(0), 100, 100);
        assert_eq!(clock.lag(at(50)), Duration::ZERO);
        clock.note(at(100), 150, 100);
        clock.note(at(200), 250, 100);
        assert_eq!(clock.lag(at(300)), Duration::from_millis(200));
        clock.note(at(300), 250, 149);
        assert_eq!(clock.lag(at(300)), Duration::from_millis(200));
        clock.note(at(400), 250, 150);
        assert_eq!(clock.lag(at(400)), Duration::from_millis(200));
        clock.note(at(500), 250, 250);
        assert_eq!(clock.lag(at(1000)), Duration::ZERO);
        // A history that begins anew.
        clock.note(at(1100), 10, 0);
        assert_eq!(clock.lag(at(1500)), Duration::from_millis(400));
    }

    #[test]
    fn notes_are_bounded_and_the_oldest_stays() {
        let begun = Instant::now();
        let mut clock = LagClock::default();
        for n in 1..=20_000_u64 {
            clock.note(begun + Duration::from_millis(n), n, 0);
            assert!(clock.notes.len() <= MOST);
        }
        assert_eq!(clock.lag(begun + Duration::from_secs(30)), Duration::from_millis(29_999));
        clock.note(begun + Duration::from_secs(30), 20_000, 10_000);
        // Now it is known a little less exactly.
        let lag = clock.lag(begun + Duration::from_secs(30)).as_secs_f64();
        assert!((19.9..=20.0).contains(&lag), "{lag}");
    }
}
