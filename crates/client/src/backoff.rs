//! How long to wait before trying again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Exponential back-off with full jitter: a value, with no clock and no sleeping in it.
///
/// The n-th delay is drawn evenly between the lower bound and `initial * factor^n`, which never exceeds the
/// upper bound. The jitter is what keeps a thousand clients of a restarted server from coming back at once.
/// With a seed the delays are the same in every run.
///
/// ```
/// use std::time::Duration;
/// use keyferry_client::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10)).with_seed(7);
/// let first = backoff.next_delay();
/// assert!(first <= Duration::from_millis(100));
/// for _ in 0..100 {
///     assert!(backoff.next_delay() <= Duration::from_secs(10));
/// }
/// backoff.reset();
/// assert!(backoff.next_delay() <= Duration::from_millis(100));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    floor: Duration,
    ceiling: Duration,
    factor: u32,
    attempts: u32,
    /// Upper end of the next draw; `<= ceiling`.
    reach: Duration,
    state: u64,
}

impl Backoff {
    /// A back-off whose first delay is at most `initial`, and no delay more than `ceiling`.
    ///
    /// It doubles, its lower bound is an eighth of `initial`, and its seed is random.
    pub fn new(initial: Duration, ceiling: Duration) -> Self {
        let initial = initial.min(ceiling);
        Self {
            initial,
            floor: initial / 8,
            ceiling,
            factor: 2,
            attempts: 0,
            reach: initial,
            state: RandomState::new().build_hasher().finish(),
        }
    }

    /// The shortest delay; no more than the ceiling.
    #[must_use]
    pub fn with_floor(mut self, floor: Duration) -> Self {
        self.floor = floor.min(self.ceiling);
        self
    }

    /// By how much the reach of the delay grows from one attempt to the next; 1 and 0 keep it constant.
    #[must_use]
    pub fn with_factor(mut self, factor: u32) -> Self {
        self.factor = factor.max(1);
        self
    }

    /// Makes the delays reproducible.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.state = seed;
        self
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let reach = self.reach.max(self.floor);
        self.attempts = self.attempts.saturating_add(1);
        self.reach = self.reach.saturating_mul(self.factor).min(self.ceiling);
        let span = u64::try_from((reach - self.floor).as_nanos()).unwrap_or(u64::MAX - 1);
        // The high half of a 64 by 64 bit product maps a random word evenly onto 0..=span.
        let drawn = (u128::from(self.next_random()) * (u128::from(span) + 1)) >> 64;
        self.floor + Duration::from_nanos(u64::try_from(drawn).unwrap_or(span))
    }

    /// How many delays were drawn since the start or the last [`reset`](Self::reset).
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// To be called when an attempt succeeded: the next delay is a first one again.
    pub fn reset(&mut self) {
        self.attempts = 0;
        self.reach = self.initial;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Default for Backoff {
    /// From 100 ms up to 10 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_reach_doubles_up_to_the_ceiling() {
        let (initial, ceiling) = (Duration::from_millis(100), Duration::from_secs(3));
        let mut most = [Duration::ZERO; 8];
        for seed in 0..2_000 {
            let mut backoff = Backoff::new(initial, ceiling).with_seed(seed);
            for most in &mut most {
                *most = (*most).max(backoff.next_delay());
            }
            assert_eq!(backoff.attempts(), 8);
        }
        // With 2000 draws the largest comes within 2 % of the bound.
        for (attempt, most) in most.into_iter().enumerate() {
            let bound = (initial * (1 << attempt)).min(ceiling);
            assert!(most <= bound && most > bound.mul_f64(0.98), "attempt {attempt}: {most:?} of {bound:?}");
        }
    }

    #[test]
    fn a_seed_makes_it_reproducible_and_no_seed_does_not() {
        let delays = |backoff: Backoff| {
            let mut backoff = backoff;
            (0..16).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(Backoff::default().with_seed(1)), delays(Backoff::default().with_seed(1)));
        assert_ne!(delays(Backoff::default().with_seed(1)), delays(Backoff::default().with_seed(2)));
        assert_ne!(delays(Backoff::default()), delays(Backoff::default()));
    }

    proptest! {
        #[test]
        fn delays_stay_between_the_bounds(
            initial in 0u64..=u64::MAX, ceiling in 0u64..=u64::MAX, floor in 0u64..=u64::MAX,
            factor in 0u32..=u32::MAX, seed in 0u64..=u64::MAX,
        ) {
            let ceiling = Duration::from_millis(ceiling);
            let mut backoff = Backoff::new(Duration::from_millis(initial), ceiling)
                .with_floor(Duration::from_millis(floor))
                .with_factor(factor)
                .with_seed(seed);
            for _ in 0..100 {
                let delay = backoff.next_delay();
                prop_assert!(delay <= ceiling);
                prop_assert!(delay >= Duration::from_millis(floor).min(ceiling));
            }
        }
    }
}
