//! When keys expire.

use serde::Serialize;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Upper bounds of the spans, in milliseconds from the reference time, and their names.
const SPANS: [(i64, &str); 10] = [
    (0, "already expired"),
    (MINUTE, "within a minute"),
    (10 * MINUTE, "within 10 minutes"),
    (HOUR, "within an hour"),
    (6 * HOUR, "within 6 hours"),
    (DAY, "within a day"),
    (7 * DAY, "within a week"),
    (30 * DAY, "within 30 days"),
    (365 * DAY, "within a year"),
    (i64::MAX, "later"),
];

/// How many keys expire when, counted from the time at which the snapshot was made, or from now when it does not tell.
#[derive(Clone, Debug)]
pub struct Expiries {
    reference: i64,
    counts: [u64; SPANS.len()],
}

/// Number of keys that expire within some time, and not before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExpirySpan {
    /// Which time, such as `within an hour`: after the span before it.
    pub name: &'static str,
    /// Number of keys.
    pub keys: u64,
}

impl Default for Expiries {
    fn default() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { reference: i64::try_from(now.as_millis()).unwrap_or(i64::MAX), counts: [0; SPANS.len()] }
    }
}

impl Expiries {
    pub(super) fn set_reference(&mut self, ms: i64) {
        self.reference = ms;
    }

    #[inline]
    pub(super) fn add(&mut self, at: i64) {
        let after = at.saturating_sub(self.reference);
        let span = SPANS.iter().position(|(bound, _)| after <= *bound).unwrap_or(SPANS.len() - 1);
        self.counts[span] += 1;
    }

    /// The time from which is counted, in milliseconds since the Unix epoch.
    pub fn reference(&self) -> i64 {
        self.reference
    }

    /// The spans, earliest first, those without keys included.
    pub fn spans(&self) -> impl Iterator<Item = ExpirySpan> + use<> {
        let counts = self.counts;
        SPANS.into_iter().zip(counts).map(|((_, name), keys)| ExpirySpan { name, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_has_its_span() {
        let mut expiries = Expiries::default();
        expiries.set_reference(1000);
        for at in [i64::MIN, 0, 1000, 1001, 1000 + MINUTE, 1001 + MINUTE, 1001 + 365 * DAY, i64::MAX] {
            expiries.add(at);
        }
        let counts: Vec<u64> = expiries.spans().map(|span| span.keys).collect();
        assert_eq!(counts, [3, 2, 1, 0, 0, 0, 0, 0, 0, 2]);
    }
}
