//! Which migration: a name that stays the same over restarts.

use std::fmt;

use crate::{error::Error, fleet::Worker};

/// The name of a migration. What a target keeps of its progress, and who may write there, is kept under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MigrationId(String);

impl MigrationId {
    /// Bytes of a name, at most.
    const MOST: usize = 64;

    /// A name that somebody chose: letters, digits, `_`, `.` and `-`, 64 of them at most. It becomes part of key names
    /// (within a hash tag) and of the names of connections.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > Self::MOST || !text.bytes().all(fits) {
            return Err(Error::InvalidId { id: text.chars().take(Self::MOST + 1).collect() });
        }
        Ok(MigrationId(text.to_owned()))
    }

    /// The name for what leads from one side to the other, as both are written without their passwords: the same in every
    /// release of this program.
    pub(crate) fn derive(source: &str, target: &str) -> Self {
        // FNV-1a: two migrations of one target have to differ, and nobody gains by making them collide.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in source.bytes().chain([0]).chain(target.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        MigrationId(format!("{hash:016x}"))
    }

    /// The name of the part of a migration that one of several workers carries out.
    pub(crate) fn of_worker(&self, worker: Worker) -> Self {
        MigrationId(format!("{}.{}-of-{}", self.0, worker.index(), worker.of()))
    }

    /// The key of the hash that holds its state at the target.
    pub(crate) fn state_key(&self) -> String {
        format!("{STATE_PREFIX}{{{}}}", self.0)
    }

    /// The key, in the same slot, that is there as long as somebody works on it.
    pub(crate) fn owner_key(&self) -> String {
        format!("{OWNER_PREFIX}{{{}}}", self.0)
    }

    /// The slot of both.
    pub(crate) fn slot(&self) -> u16 {
        keyferry_routing::slot(self.state_key().as_bytes())
    }

    /// What the names of its connections begin with.
    pub(crate) fn connection_prefix(&self) -> String {
        format!("keyferry:{}:", self.0)
    }
}

/// Names of states begin so.
pub(crate) const STATE_PREFIX: &str = "keyferry:migration:";
/// Names of the keys of owners begin so.
pub(crate) const OWNER_PREFIX: &str = "keyferry:owner:";

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_keys_and_connection_names() {
        let id = MigrationId::parse("move-1.b_C").unwrap();
        assert_eq!(id.state_key(), "keyferry:migration:{move-1.b_C}");
        assert_eq!(keyferry_routing::slot(id.owner_key().as_bytes()), id.slot());
        let part = id.of_worker(Worker::new(1, 3).unwrap());
        assert_eq!(part.state_key(), "keyferry:migration:{move-1.b_C.1-of-3}");
        assert!(!part.connection_prefix().starts_with(&id.connection_prefix()));
        for bad in ["", "a b", "a:b", "{a}", "ä", &"x".repeat(65), "a\n"] {
            assert!(MigrationId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_name_by_default_is_stable_and_tells_sides_apart() {
        let id = |a, b| MigrationId::derive(a, b).to_string();
        assert_eq!(id("redis://a:6379", "redis://b:6379"), "171ed54e741ec842");
        assert_ne!(id("redis://a:6379", "redis://b:6379"), id("redis://b:6379", "redis://a:6379"));
        assert_ne!(id("ab", "c"), id("a", "bc"));
        assert!(MigrationId::parse(&id("x", "y")).is_ok());
    }
}
