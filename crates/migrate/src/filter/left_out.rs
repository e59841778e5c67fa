//! The keys that were left out of a snapshot by what their values are like.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use twox_hash::XxHash3_128;

/// Names of keys, as 16 bytes each.
#[derive(Debug)]
pub(super) struct LeftOutKeys {
    keys: RwLock<HashSet<u128>>,
    most: usize,
}

impl LeftOutKeys {
    pub(super) fn new(most: usize) -> Self {
        LeftOutKeys { keys: RwLock::default(), most }
    }

    /// False when there are too many.
    pub(super) fn insert(&self, db: u64, key: &[u8]) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let name = fingerprint(db, key);
        if keys.len() >= self.most && !keys.contains(&name) {
            return false;
        }
        keys.insert(name);
        true
    }

    pub(super) fn contains(&self, db: u64, key: &[u8]) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        !keys.is_empty() && keys.contains(&fingerprint(db, key))
    }
}

fn fingerprint(db: u64, key: &[u8]) -> u128 {
    XxHash3_128::oneshot_with_seed(db, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_database_and_name_up_to_a_number() {
        let keys = LeftOutKeys::new(2);
        assert!(keys.insert(0, b"a") && keys.insert(1, b"a") && keys.insert(0, b"a"));
        assert!(!keys.insert(0, b"b"));
        assert!(
            keys.contains(0, b"a")
                && keys.contains(1, b"a")
                && !keys.contains(2, b"a")
                && !keys.contains(0, b"b")
        );
    }
}
