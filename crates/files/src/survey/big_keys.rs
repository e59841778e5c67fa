//! The largest keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use keyferry_rdb::EntryHead;
use serde::Serialize;

/// Bytes of a name that are kept.
const MAX_NAME: usize = 1024;

/// The keys with the most bytes.
#[derive(Clone, Debug, Default)]
pub struct BigKeys {
    wanted: usize,
    found: BinaryHeap<Reverse<BigKey>>,
}

/// A large key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct BigKey {
    /// Its bytes in the file: its name and its serialized value.
    pub bytes: u64,
    /// Its name, or the first 1024 bytes of it.
    #[serde(serialize_with = "super::as_line")]
    pub key: Vec<u8>,
    /// Length of the whole name.
    pub key_len: usize,
    /// The database.
    pub db: u64,
    /// What `TYPE` says.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// How it is serialized.
    pub encoding: &'static str,
    /// Number of its items, members, fields or entries; the bytes of a string.
    pub elements: u64,
    /// Bytes of the largest element: of a member, an item, a field with its value; of the whole string.
    pub largest_element: u64,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expires_at: Option<i64>,
}

impl BigKeys {
    /// A list of at most so many keys.
    pub fn new(wanted: usize) -> Self {
        Self { wanted, found: BinaryHeap::new() }
    }

    /// Whether a key of so many bytes would get into the list.
    #[inline]
    pub(super) fn wants(&self, bytes: u64) -> bool {
        self.wanted > 0
            && (self.found.len() < self.wanted
                || self.found.peek().is_some_and(|Reverse(smallest)| smallest.bytes < bytes))
    }

    pub(super) fn add(&mut self, head: &EntryHead<'_>, bytes: u64, elements: u64, largest_element: u64) {
        if self.found.len() >= self.wanted {
            self.found.pop();
        }
        self.found.push(Reverse(BigKey {
            bytes,
            key: head.key[..head.key.len().min(MAX_NAME)].to_vec(),
            key_len: head.key.len(),
            db: head.db,
            kind: head.ty.kind().name(),
            encoding: head.ty.name(),
            elements,
            largest_element,
            expires_at: head.expiry,
        }));
    }

    /// The keys, largest first.
    pub fn list(&self) -> Vec<BigKey> {
        let mut keys: Vec<_> = self.found.iter().map(|Reverse(key)| key.clone()).collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys
    }
}
