//! Replies as they came, not taken apart.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// The replies to a batch of commands as the bytes that arrived, for those who compare or skim them and want no frame for each
/// element. See [`Connection::skim`](crate::Connection::skim).
#[derive(Clone, Debug, Default)]
pub struct Replies {
    pub(crate) bytes: BytesMut,
    /// Where each ends.
    pub(crate) ends: Vec<usize>,
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
        self.bytes = BytesMut::new();
    }
}
