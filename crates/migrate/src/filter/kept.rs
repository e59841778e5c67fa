//! Keys that are left to the target, as it has had them before.

use std::fmt;

use keyferry_files::Facts;

use super::Filter;

/// Whether a key is one of them.
type Has = dyn Fn(u64, &[u8]) -> bool + Send + Sync;

/// Tells which keys are left to the target: by the source's database and the name that a key has at the target.
pub(crate) struct Kept {
    pub(crate) has: Box<Has>,
    /// What is about one of them is an error.
    pub(crate) refuses: bool,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("refuses", &self.refuses).finish_non_exhaustive()
    }
}

impl Filter {
    /// Leaves these keys to the target, whatever the rules say. Only the first call counts: what was at the target before a
    /// migration began does not change.
    pub(crate) fn keep(&self, kept: Kept) {
        self.left_to_target.get_or_init(|| kept);
    }

    /// Whether any key may be left to the target.
    pub(super) fn keeps_any(&self) -> bool {
        self.left_to_target.get().is_some()
    }

    /// Whether what is about such a key is an error.
    pub(super) fn refuses_kept(&self) -> bool {
        self.left_to_target.get().is_some_and(|kept| kept.refuses)
    }

    /// Whether a key of the source is left to the target.
    pub(super) fn is_kept(&self, db: u64, key: &[u8]) -> bool {
        let Some(kept) = self.left_to_target.get() else { return false };
        (kept.has)(db, &self.name_of_key(key))
    }

    /// The name of a key at the target.
    pub(crate) fn name_of_key<'k>(&self, key: &'k [u8]) -> std::borrow::Cow<'k, [u8]> {
        if self.renames.is_empty() {
            return std::borrow::Cow::Borrowed(key);
        }
        self.renames.apply(key).0
    }

    /// Whether the rules may let a key through, as far as its name tells.
    pub(super) fn may_be_by_rules(&self, db: u64, key: &[u8]) -> bool {
        !self.by_rules(None, &Facts::of_name(db, key)).is_out()
    }

    /// Whether not all keys are in.
    pub(super) fn chooses_keys(&self) -> bool {
        self.chooses_keys || self.keeps_any()
    }
}
