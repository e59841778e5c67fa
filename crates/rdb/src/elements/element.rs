//! What values consist of.

use std::fmt;

/// One piece of a value. Borrows from the decoder until the next call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Element<'a> {
    /// The next bytes of a string. Every string has at least one chunk; that of an empty string is empty.
    Chunk(&'a [u8]),
    /// An item of a list, head first.
    Item(&'a [u8]),
    /// A member of a set.
    Member(&'a [u8]),
    /// A member of a sorted set.
    Scored {
        /// The member.
        member: &'a [u8],
        /// Its score.
        score: Score<'a>,
    },
    /// A field of a hash.
    Field {
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
        /// When it expires, in milliseconds since the Unix epoch.
        expires_at: Option<i64>,
    },
    /// The insert cursor of an array, before its items, when it has one.
    ArrayCursor(u64),
    /// An item of an array.
    ArrayItem {
        /// Its index.
        index: u64,
        /// Its value. Numbers are given as the text that a server gives.
        value: &'a [u8],
    },
    /// A live entry of a stream, in ascending order of ids.
    StreamEntry(StreamEntry<'a>),
    /// The counters of a stream, after its entries.
    StreamInfo(StreamInfo),
    /// A consumer group of a stream. Its consumers and pending entries follow.
    Group(Group<'a>),
    /// A consumer of the group above. Its pending entries follow.
    Consumer(Consumer<'a>),
    /// A pending entry of the group above.
    Pending(Pending<'a>),
    /// Bounds on what a stream remembers of idempotent producers (Redis 8.6).
    IdempotencyLimits {
        /// How long an idempotency id is remembered, in seconds.
        duration: u64,
        /// How many are remembered for one producer.
        max_entries: u64,
    },
    /// An idempotency id that a stream remembers (Redis 8.6).
    IdempotencyRecord {
        /// The producer's id.
        producer: &'a [u8],
        /// The idempotency id.
        iid: &'a [u8],
        /// The entry that was added under it.
        entry: StreamId,
    },
    /// Counts of what a stream has seen of idempotent producers (Redis 8.6).
    IdempotencyTotals {
        /// Idempotency ids added.
        added: u64,
        /// Duplicates refused.
        duplicates: u64,
    },
    /// The theoretical arrival time that makes up a rate limiter.
    RateLimit(u64),
    /// Raw bytes of a value that only its module or vendor understands, in order.
    Opaque(&'a [u8]),
}

/// A score of a sorted set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score<'a> {
    pub(crate) value: f64,
    pub(crate) text: Option<&'a [u8]>,
}

impl<'a> Score<'a> {
    /// A score that is stored as a number.
    pub(crate) const fn new(value: f64) -> Self {
        Self { value, text: None }
    }

    /// The score: never NaN.
    pub const fn value(self) -> f64 {
        self.value
    }

    /// The text by which the score is stored, where it is stored as text. Most are stored as numbers.
    pub const fn text(self) -> Option<&'a [u8]> {
        self.text
    }
}

/// The shortest text that a server reads back as the same score: `1.5`, `3`, `1e300`, `-inf`.
impl fmt::Display for Score<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        let size = value.abs();
        if value.is_infinite() {
            f.write_str(if value > 0.0 { "inf" } else { "-inf" })
        } else if size == 0.0 || (1e-5..1e17).contains(&size) {
            write!(f, "{value}")
        } else {
            write!(f, "{value:e}")
        }
    }
}

/// Id of a stream entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Milliseconds, usually of the time it was added.
    pub ms: u64,
    /// Sequence number within the millisecond.
    pub seq: u64,
}

impl StreamId {
    /// Id `ms`-`seq`.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Where a decoded string lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loc {
    /// In the input.
    Input { at: usize, len: usize },
    /// In the blob that is open, which may lie in the input itself.
    Blob { at: usize, len: usize },
    /// In the scratch space.
    Scratch { at: usize, len: usize },
}

/// The places that a [`Loc`] refers to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sources<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) blob: &'a [u8],
    pub(crate) scratch: &'a [u8],
}

impl<'a> Sources<'a> {
    #[inline]
    pub(crate) fn get(self, loc: Loc) -> &'a [u8] {
        match loc {
            Loc::Input { at, len } => &self.input[at..at + len],
            Loc::Blob { at, len } => &self.blob[at..at + len],
            Loc::Scratch { at, len } => &self.scratch[at..at + len],
        }
    }
}

/// A live entry of a stream.
#[derive(Clone, Copy)]
pub struct StreamEntry<'a> {
    /// Its id.
    pub id: StreamId,
    pub(crate) pairs: &'a [(Loc, Loc)],
    pub(crate) sources: Sources<'a>,
}

impl<'a> StreamEntry<'a> {
    /// Its fields and values, in order; names may repeat.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let sources = self.sources;
        self.pairs.iter().map(move |&(name, value)| (sources.get(name), sources.get(value)))
    }
}

impl PartialEq for StreamEntry<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.fields().eq(other.fields())
    }
}

impl fmt::Debug for StreamEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Fields<'b>(&'b StreamEntry<'b>);
        impl fmt::Debug for Fields<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = |b: &[u8]| b.escape_ascii().to_string();
                f.debug_map().entries(self.0.fields().map(|(name, value)| (text(name), text(value)))).finish()
            }
        }
        f.debug_struct("StreamEntry").field("id", &self.id).field("fields", &Fields(self)).finish()
    }
}

/// The counters of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Number of live entries as the stream itself states it. Streams of early 5.0 releases may state too many: what
    /// counts is [`live`](Self::live).
    pub length: u64,
    /// Number of live entries found.
    pub live: u64,
    /// The id given last.
    pub last_id: StreamId,
    /// What Redis 7.0 and later keep besides.
    pub counters: Option<StreamCounters>,
}

/// Counters that streams have since Redis 7.0 (type 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamCounters {
    /// The id of the first live entry.
    pub first_id: StreamId,
    /// The largest id that was deleted.
    pub max_deleted_id: StreamId,
    /// Number of entries ever added.
    pub entries_added: u64,
}

impl StreamCounters {
    /// Counters of these values.
    pub const fn new(first_id: StreamId, max_deleted_id: StreamId, entries_added: u64) -> Self {
        Self { first_id, max_deleted_id, entries_added }
    }
}

/// A consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The id it has delivered last.
    pub last_id: StreamId,
    /// Number of entries it has read, where known (Redis 7.0).
    pub entries_read: Option<u64>,
    /// Number of its pending entries.
    pub pending: u64,
}

/// A consumer of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// When it last tried to read, in milliseconds since the Unix epoch.
    pub seen_time: i64,
    /// When it last got something (Redis 7.2).
    pub active_time: Option<i64>,
    /// Number of its pending entries.
    pub pending: u64,
}

/// An entry delivered to a consumer but not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending<'a> {
    /// Its id. The entry itself may have been deleted.
    pub id: StreamId,
    /// The consumer that has it; `None` for one that was released and has no owner (Redis 8.8).
    pub consumer: Option<&'a [u8]>,
    /// When it was delivered last, in milliseconds since the Unix epoch.
    pub delivered_at: i64,
    /// How often it was delivered.
    pub deliveries: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_print_shortest_and_read_back() {
        let text = |value| Score { value, text: None }.to_string();
        assert_eq!(text(3.0), "3");
        assert_eq!(text(-0.0), "-0");
        assert_eq!(text(0.1), "0.1");
        assert_eq!(text(1e300), "1e300");
        assert_eq!(text(f64::MIN_POSITIVE), "2.2250738585072014e-308");
        assert_eq!(text(f64::INFINITY), "inf");
        assert_eq!(text(f64::NEG_INFINITY), "-inf");
        for value in [0.1 + 0.2, 1.0 / 3.0, 5e-324, f64::MAX, 123_456_789.123_456_79, 9_007_199_254_740_993.0]
        {
            assert_eq!(text(value).parse(), Ok(value));
        }
    }
}
