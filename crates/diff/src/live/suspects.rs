//! Keys that differed and are looked at again.

use std::collections::HashSet;
use std::io;

use bytes::Bytes;

use crate::difference::{Difference, DifferenceKind, Subject};
use crate::results::DifferenceSink;

/// Keys that a comparison by snapshots found to differ, to be settled by
/// [`LiveDiff::settle`](crate::LiveDiff::settle).
///
/// It is a sink that keeps the names of keys. Differences of function libraries are kept as they are, and so are keys
/// that a side has more than once, of which no second look tells more.
#[derive(Debug, Default)]
pub struct Suspects {
    keys: Vec<(u64, Bytes)>,
    seen: HashSet<(u64, Bytes)>,
    pub(crate) certain: Vec<Difference>,
}

impl Suspects {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.certain.is_empty()
    }

    /// The keys of a database of the target.
    pub(crate) fn of_db(&self, db: u64) -> Vec<Bytes> {
        self.keys.iter().filter(|(of, _)| *of == db).map(|(_, key)| key.clone()).collect()
    }

    /// The keys by their databases at the target, and what needs no second look.
    pub(crate) fn into_parts(self) -> (Vec<(u64, Bytes)>, Vec<Difference>) {
        (self.keys, self.certain)
    }
}

impl DifferenceSink for Suspects {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        let again = difference.subject == Subject::Key && difference.kind != DifferenceKind::Duplicate;
        if !again {
            self.certain.push(difference.clone());
            return Ok(());
        }
        let key = (difference.db, Bytes::copy_from_slice(&difference.key));
        if self.seen.insert(key.clone()) {
            self.keys.push(key);
        }
        Ok(())
    }
}
