//! What comparing keys gives.

use bytes::Bytes;

use crate::difference::{DifferenceKind, FieldDifference, Held};

/// A key that differs.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) key: Bytes,
    /// In what ways; never empty.
    pub(crate) kinds: Vec<DifferenceKind>,
    pub(crate) held: [Option<Held>; 2],
    pub(crate) fields: Fields,
    /// The source's value changed while it was compared, so that nothing can be said.
    pub(crate) moving: bool,
}

/// Which elements of a value differ: the first ones, and how many more there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) first: Vec<FieldDifference>,
    pub(crate) more: u64,
}

impl Fields {
    /// One more, of which `most` are kept.
    pub(crate) fn add(&mut self, name: &[u8], kind: DifferenceKind, most: usize) {
        if self.first.len() < most {
            self.first.push(FieldDifference::new(name, kind));
        } else {
            self.more += 1;
        }
    }
}

/// What came of a batch of keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Keys that were looked at.
    pub(crate) looked: u64,
    /// Keys that are on neither side by now.
    pub(crate) gone: u64,
    /// Keys of one side only that are about to expire, so that their absence says nothing.
    pub(crate) expiring: u64,
    /// Keys of another type than those asked for.
    pub(crate) other_kind: u64,
    pub(crate) findings: Vec<Finding>,
    /// Hashes of the names of keys that were looked at, where a [census](super::census) is taken.
    pub(crate) names: Vec<u64>,
    /// The same of those among them that expire on the source.
    pub(crate) expire: Vec<u64>,
    /// Findings of keys that were counted before.
    pub(crate) again: Vec<Finding>,
}

impl Outcome {
    /// Takes in what came of other keys.
    pub(crate) fn add(&mut self, other: Self) {
        self.looked += other.looked;
        self.gone += other.gone;
        self.expiring += other.expiring;
        self.other_kind += other.other_kind;
        self.findings.extend(other.findings);
        self.names.extend(other.names);
        self.expire.extend(other.expire);
        self.again.extend(other.again);
    }
}
