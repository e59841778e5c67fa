//! A rate that is kept.

use std::time::{Duration, Instant};

/// For so long a bucket saves up what is not used.
const BURST: f64 = 0.05;

/// So long a debt may last that was made before the rate was changed.
const LONGEST_DEBT: f64 = 1.0;

/// Fills at a rate, up to a little. Whatever there is, may be taken if there is anything at all: what is taken beyond is a debt that has
/// to be filled up first, so that things of any size come to the rate.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    rate: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// `rate` is in units a second, 1 at least.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        let rate = rate.max(1) as f64;
        Bucket { rate, level: rate * BURST, at: now }
    }

    pub(super) fn set_rate(&mut self, rate: u64) {
        let rate = rate.max(1) as f64;
        if rate != self.rate {
            self.rate = rate;
            self.level = self.level.clamp(-rate * LONGEST_DEBT, rate * BURST);
        }
    }

    /// How long nothing may be taken; none when something may be.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.level = (self.level + passed * self.rate).min((self.rate * BURST).max(1.0));
        (self.level <= 0.0).then(|| Duration::from_secs_f64((-self.level / self.rate).clamp(0.001, 3600.0)))
    }

    pub(super) fn take(&mut self, amount: u64) {
        self.level -= amount as f64;
    }
}
