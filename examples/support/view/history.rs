//! What the figures of a migration were over time: rates, how the lag went, and when it may be over.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use keyferry_migrate::{Figures, Phase, metrics::LagClock};

/// A sample is kept every so many seconds, and so many of them: a quarter of an hour.
const PERIOD: f64 = 0.5;
const MOST: usize = 1800;
/// Rates are over so many seconds.
const WINDOW: f64 = 5.0;

/// What was done up to a moment. Counts never go back, also when a migration begins anew.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// Seconds since the first one.
    at: f64,
    received: u64,
    applied: u64,
    keys: u64,
    commands: u64,
    lag: Option<u64>,
    /// Bytes of the present phase that are done: what is left shrinks by them.
    done: u64,
    phase: Phase,
}

/// The counts of one link when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    received: u64,
    applied: u64,
    received_offset: u64,
    applied_offset: u64,
}

/// What a migration does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PerSecond {
    /// Bytes from the source.
    pub(super) received: f64,
    /// Bytes that the target has confirmed.
    pub(super) applied: f64,
    pub(super) keys: f64,
    pub(super) commands: f64,
}

/// When the present phase may be over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outlook {
    /// It cannot be told.
    Unknown,
    /// In so many seconds.
    In(f64),
    /// The target has everything.
    CaughtUp,
    /// The lag does not become less.
    FallsBehind,
}

/// Samples of a migration, of bounded number.
#[derive(Debug, Default)]
pub(super) struct History {
    begun: Option<Instant>,
    /// The last one is the newest look, whenever that was; the others are [`PERIOD`] apart.
    samples: VecDeque<Sample>,
    links: Vec<(Counts, LagClock)>,
    keys: u64,
    commands: u64,
    lag_time: Option<Duration>,
}

impl History {
    /// Notes what the figures are at this time.
    pub(super) fn note(&mut self, now: Instant, figures: &Figures) {
        let begun = *self.begun.get_or_insert(now);
        let mut sample = self.samples.back().copied().unwrap_or_default();
        sample.at = now.saturating_duration_since(begun).as_secs_f64();
        sample.keys += figures.keys_applied.saturating_sub(self.keys);
        sample.commands += figures.commands_applied.saturating_sub(self.commands);
        (self.keys, self.commands) = (figures.keys_applied, figures.commands_applied);
        (sample.lag, sample.done, sample.phase) = (figures.lag_bytes, done(figures), figures.phase);
        self.note_links(now, figures, &mut sample);
        let mut newest = self.samples.iter().rev();
        if let (Some(last), Some(before)) = (newest.next(), newest.next())
            && last.at - before.at < PERIOD
        {
            self.samples.pop_back();
        }
        self.samples.push_back(sample);
        if self.samples.len() > MOST {
            self.samples.pop_front();
        }
    }

    fn note_links(&mut self, now: Instant, figures: &Figures, sample: &mut Sample) {
        let links: Vec<&Figures> = match figures.links.is_empty() {
            true => vec![figures],
            false => figures.links.iter().map(|link| &link.figures).collect(),
        };
        if self.links.len() != links.len() {
            // Other links, and nothing of which the old ones could say how much it is more.
            self.links = links.iter().map(|of| (Counts::of(of), LagClock::default())).collect();
        }
        self.lag_time = None;
        for ((counts, clock), of) in self.links.iter_mut().zip(links) {
            let next = Counts::of(of);
            // A stream begins at some offset, far from 0: that is not what has come.
            let more = |before: u64, now: u64| if before == 0 { 0 } else { now.saturating_sub(before) };
            sample.received += next.received.saturating_sub(counts.received);
            sample.applied += next.applied.saturating_sub(counts.applied);
            sample.received += more(counts.received_offset, next.received_offset);
            sample.applied += more(counts.applied_offset, next.applied_offset);
            *counts = next;
            if of.lag_bytes.is_some() {
                let source = of.source_offset.unwrap_or(0).max(of.received_offset);
                clock.note(now, source, of.applied_offset);
                self.lag_time = self.lag_time.max(Some(clock.lag(now)));
            }
        }
    }

    /// For how long the source has had something that the target does not have, once that means something.
    pub(super) fn lag_time(&self) -> Option<Duration> {
        self.lag_time
    }

    /// What was done in a second, over the last few ones.
    pub(super) fn per_second(&self) -> PerSecond {
        let Some((before, now)) = self.window() else { return PerSecond::default() };
        let seconds = now.at - before.at;
        let of = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        PerSecond {
            received: of(before.received, now.received),
            applied: of(before.applied, now.applied),
            keys: of(before.keys, now.keys),
            commands: of(before.commands, now.commands),
        }
    }

    /// When what is under way may be over, at the rate of the last few seconds.
    pub(super) fn outlook(&self, figures: &Figures) -> Outlook {
        let following = matches!(figures.phase, Phase::CatchingUp | Phase::Following);
        if figures.input.is_none() && following {
            if figures.lag_bytes == Some(0) {
                return Outlook::CaughtUp;
            }
            let Some((before, now)) = self.window() else { return Outlook::Unknown };
            let (Some(was), Some(is)) = (before.lag, now.lag) else { return Outlook::Unknown };
            let less = (was as f64 - is as f64) / (now.at - before.at);
            // What comes and goes within moments is no trend.
            return match less {
                _ if self.lag_time.is_some_and(|time| time < Duration::from_secs(2)) => Outlook::CaughtUp,
                less if less > 0.0 => Outlook::In(is as f64 / less),
                _ => Outlook::FallsBehind,
            };
        }
        let Some(total) = expected(figures) else { return Outlook::Unknown };
        let Some((before, now)) = self.window().filter(|(before, now)| before.phase == now.phase) else {
            return Outlook::Unknown;
        };
        let rate = now.done.saturating_sub(before.done) as f64 / (now.at - before.at);
        match rate > 0.0 {
            true => Outlook::In(total.saturating_sub(now.done) as f64 / rate),
            false => Outlook::Unknown,
        }
    }

    /// The lag in bytes over all that is remembered, in so many columns, the newest last; none where it was not known. And how many seconds that
    /// is.
    pub(super) fn lags(&self, columns: usize) -> (Vec<Option<u64>>, f64) {
        if columns == 0 || self.samples.is_empty() {
            return (Vec::new(), 0.0);
        }
        let each = self.samples.len().div_ceil(columns);
        // Columns end where samples are numbered by multiples, counted from the newest: each is full but the first.
        let samples: Vec<Option<u64>> = self.samples.iter().rev().map(|sample| sample.lag).collect();
        let mut lags: Vec<Option<u64>> =
            samples.chunks(each).map(|some| some.iter().copied().flatten().max()).collect();
        lags.reverse();
        let span = match (self.samples.front(), self.samples.back()) {
            (Some(first), Some(last)) => last.at - first.at,
            _ => 0.0,
        };
        (lags, span)
    }

    /// The newest sample, and the one before it over which rates are; none before there is enough.
    fn window(&self) -> Option<(Sample, Sample)> {
        let now = *self.samples.back()?;
        let before = self.samples.iter().rev().take_while(|sample| now.at - sample.at <= WINDOW).last()?;
        (now.at - before.at >= PERIOD).then_some((*before, now))
    }
}

impl Counts {
    fn of(figures: &Figures) -> Self {
        match figures.input {
            // Offsets are bytes of the file, the snapshot's among them.
            Some(input) => Counts {
                received: figures.snapshot_received.max(figures.received_offset),
                applied: input.applied,
                ..Counts::default()
            },
            None => Counts {
                received: figures.snapshot_received,
                applied: figures.snapshot_applied,
                received_offset: figures.received_offset,
                applied_offset: figures.applied_offset,
            },
        }
    }
}

/// Bytes of the present phase that are done, where a share of the whole says something.
pub(super) fn done(figures: &Figures) -> u64 {
    figures.input.map_or(figures.snapshot_applied, |input| input.applied)
}

/// Bytes of the present phase, where they are known, or can be told from how many of the announced keys are there.
pub(super) fn expected(figures: &Figures) -> Option<u64> {
    if let Some(input) = figures.input {
        return input.total;
    }
    figures.snapshot_total.or_else(|| {
        let share = figures.keys_applied as f64 / figures.keys_announced as f64;
        (share > 0.01 && share <= 1.0).then(|| (figures.snapshot_applied as f64 / share) as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begun: Instant, seconds: f64) -> Instant {
        begun + Duration::from_secs_f64(seconds)
    }

    fn snapshot(applied: u64) -> Figures {
        let mut figures = Figures::default();
        figures.phase = Phase::Snapshot;
        (figures.snapshot_total, figures.snapshot_received) = (Some(10_000), 2 * applied);
        (figures.snapshot_applied, figures.keys_applied) = (applied, applied / 10);
        figures
    }

    fn following(source: u64, applied: u64) -> Figures {
        let mut figures = Figures::default();
        figures.phase = Phase::CatchingUp;
        (figures.source_offset, figures.received_offset, figures.applied_offset) =
            (Some(source), source, applied);
        figures.lag_bytes = Some(source - applied);
        figures.commands_applied = applied / 100;
        figures
    }

    #[test]
    fn rates_are_of_the_last_seconds() {
        let (begun, mut history) = (Instant::now(), History::default());
        assert_eq!(history.per_second(), PerSecond::default());
        // Nothing for a minute, then 100 bytes each tenth of a second.
        history.note(begun, &snapshot(0));
        for tenth in 0..=100_u32 {
            history.note(at(begun, 60.0 + f64::from(tenth) / 10.0), &snapshot(u64::from(tenth) * 100));
        }
        let rates = history.per_second();
        let near = |is: f64, wanted: f64| (is - wanted).abs() < wanted / 10.0;
        assert!(near(rates.received, 2000.0) && near(rates.applied, 1000.0), "{rates:?}");
        assert!(near(rates.keys, 100.0) && rates.commands == 0.0, "{rates:?}");
        // It begins anew: nothing is taken back, and there is no leap.
        history.note(at(begun, 70.1), &snapshot(0));
        assert!(near(history.per_second().applied, 1000.0), "{:?}", history.per_second());
    }

    #[test]
    fn an_offset_to_begin_with_is_no_amount() {
        let (begun, mut history) = (Instant::now(), History::default());
        history.note(begun, &snapshot(9_000));
        for second in 0..6_u64 {
            let offset = 5_000_000_000 + second * 100;
            history.note(at(begun, 1.0 + second as f64), &following(offset, offset));
        }
        let rates = history.per_second();
        assert!(rates.received < 200.0 && rates.applied > 50.0, "{rates:?}");
    }

    #[test]
    fn the_time_left() {
        let (begun, mut history) = (Instant::now(), History::default());
        for second in 0..=5_u64 {
            history.note(at(begun, second as f64), &snapshot(second * 1000));
        }
        assert_eq!(history.outlook(&snapshot(5000)), Outlook::In(5.0));
        // A lag that shrinks by 200 a second, one that grows, one that is nothing.
        let mut lag = History::default();
        for second in 0..=5_u64 {
            lag.note(at(begun, second as f64), &following(10_000 + second * 100, 5_000 + second * 300));
        }
        assert_eq!(lag.outlook(&following(10_500, 6_500)), Outlook::In(20.0));
        let mut behind = History::default();
        for second in 0..=5_u64 {
            behind.note(at(begun, second as f64), &following(10_000 + second * 300, 5_000 + second * 100));
        }
        assert_eq!(behind.outlook(&following(11_500, 5_500)), Outlook::FallsBehind);
        assert!(behind.lag_time().unwrap() >= Duration::from_secs(4), "{:?}", behind.lag_time());
        assert_eq!(behind.outlook(&following(11_500, 11_500)), Outlook::CaughtUp);
        assert_eq!(History::default().outlook(&snapshot(1)), Outlook::Unknown);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_is_last() {
        let (begun, mut history) = (Instant::now(), History::default());
        for tenth in 0..40_000_u64 {
            history.note(at(begun, tenth as f64 / 10.0), &following(50_000 + tenth, 50_000));
        }
        assert!(history.samples.len() <= MOST);
        for columns in [0, 1, 7, 60, 1799, 1800, 5000] {
            let (lags, span) = history.lags(columns);
            assert!(lags.len() <= columns && (columns == 0 || span > 800.0), "{columns}: {span}");
            assert!(lags.windows(2).all(|two| two[0] < two[1]), "{columns}");
            assert!(columns == 0 || lags.last() == Some(&Some(39_999)), "{columns}");
        }
    }
}
