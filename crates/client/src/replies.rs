//! Replies as they came, not taken apart.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// How many bytes of a reply are kept apart.
pub(crate) const HEAD: usize = 16;

/// The replies to a batch of commands as the bytes that arrived, for those who compare or skim them and want no frame for each
/// element. See [`Connection::skim`](crate::Connection::skim).
#[derive(Clone, Debug, Default)]
pub struct Replies {
    pub(crate) bytes: BytesMut,
    /// Where each ends.
    pub(crate) ends: Vec<usize>,
    /// The first bytes of each; empty where these were not kept.
    pub(crate) heads: Vec<[u8; HEAD]>,
    /// Which of them are the same as those that they were looked at beside; empty where there were none.
    pub(crate) alike: Vec<bool>,
    /// Which of them have nulls; empty where that is not known.
    pub(crate) nulls: Vec<bool>,
}

impl Replies {
    /// No replies.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them, a whole frame with its type byte; `None` when there are fewer.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&[u8]> {
        self.bytes.get(self.range(number)?)
    }

    /// The first bytes of one of them: some sixteen, or all of a shorter one. They are kept apart, so that those who want no more need
    /// not go through memory for it.
    #[inline]
    pub fn head(&self, number: usize) -> Option<&[u8]> {
        let whole = self.get(number)?;
        match self.heads.get(number) {
            Some(head) => head.get(..whole.len().min(HEAD)),
            None => whole.get(..whole.len().min(HEAD)),
        }
    }

    /// Whether one of them is, byte for byte, the reply that it was looked at beside: see
    /// [`Connection::skim_beside`](crate::Connection::skim_beside). Where it is not known this is `false`.
    #[inline]
    pub fn is_alike(&self, number: usize) -> bool {
        self.alike.get(number).copied().unwrap_or_default()
    }

    /// Whether one of them is or has a null, such as a key that `MGET` did not find. Where it is not known this is `true`.
    #[inline]
    pub fn has_nulls(&self, number: usize) -> bool {
        self.nulls.get(number).copied().unwrap_or(true)
    }

    /// The bytes of all of them, one behind the other.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }

    fn range(&self, number: usize) -> Option<Range<usize>> {
        let end = *self.ends.get(number)?;
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        Some(start..end)
    }

    /// Forgets them, and gives their memory back to the connection that they came over.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.heads.clear();
        self.alike.clear();
        self.nulls.clear();
        self.bytes = BytesMut::new();
    }
}
