//! Where in a replication history one stands.

use std::{fmt, str::FromStr};

/// A replication id: 40 characters that name one history of writes.
///
/// Servers compare ids without regard to case (`replication.md` §8); so does this type. Servers before 4.0
/// use their run id in its place, which has the same form.
#[derive(Clone, Copy)]
pub struct ReplicationId([u8; 40]);

impl ReplicationId {
    /// Reads an id from its 40 characters; `None` for any other length or for bytes that are not
    /// printable ASCII.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let id: [u8; 40] = bytes.try_into().ok()?;
        id.iter().all(u8::is_ascii_graphic).then_some(ReplicationId(id))
    }

    /// An id that no server has, for a history that has none of its own.
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, RandomState};
        let mut id = [b'0'; 40];
        for digits in id.chunks_mut(16) {
            // Seeded by the operating system.
            let random = format!("{:016x}", RandomState::new().hash_one(0));
            digits.copy_from_slice(&random.as_bytes()[..digits.len()]);
        }
        ReplicationId(id)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever stored.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl PartialEq for ReplicationId {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ReplicationId {}

impl fmt::Display for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicationId({self})")
    }
}

/// The text given is not a replication id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a replication id is 40 printable characters, not {0:?}")]
pub struct InvalidReplicationId(String);

impl FromStr for ReplicationId {
    type Err = InvalidReplicationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(text.as_bytes()).ok_or_else(|| InvalidReplicationId(text.chars().take(60).collect()))
    }
}

/// All that is needed to go on where one stopped.
///
/// The database belongs to it: after `+CONTINUE` a server sends no `SELECT` unless the database changes
/// (measured, `replication.md` §4), so who forgets it writes into the wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The history.
    pub id: ReplicationId,
    /// Number of the last byte consumed. The next wanted is this plus one.
    pub offset: u64,
    /// The database that the stream has selected, where it is known: a server names it before the first
    /// keyed command after a full sync.
    pub db: Option<u64>,
    /// True between `MULTI` and `EXEC`.
    pub in_transaction: bool,
}

impl Position {
    /// The position right after a snapshot: nothing of the stream consumed, no database selected.
    #[must_use]
    pub fn after_snapshot(id: ReplicationId, offset: u64) -> Self {
        Position { id, offset, db: None, in_transaction: false }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ignore_case_and_refuse_other_lengths() {
        let lower: ReplicationId = "3ad1e7ef023c242514c0b05e48e4ee884551c793".parse().unwrap();
        let upper: ReplicationId = "3AD1E7EF023C242514C0B05E48E4EE884551C793".parse().unwrap();
        assert_eq!(lower, upper);
        assert_eq!(lower.to_string(), "3ad1e7ef023c242514c0b05e48e4ee884551c793");
        for bad in ["", "?", &"a".repeat(39), &"a".repeat(41), &" ".repeat(40)] {
            assert!(bad.parse::<ReplicationId>().is_err(), "{bad:?}");
        }
    }
}
