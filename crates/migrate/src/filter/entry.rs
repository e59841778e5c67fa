//! Keys of a snapshot.

use std::borrow::Cow;

use keyferry_files::Facts;
use keyferry_rdb::EntryHead;

use super::{
    Filter, Refusal,
    counts::{By, Counts, What},
    decide::Decision,
    ttl::Ttl,
};

/// What becomes of a key of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'k> {
    /// It is left out.
    LeaveOut,
    /// It goes over.
    Take(Taken<'k>),
}

/// A key that goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken<'k> {
    /// Its name at the target.
    pub key: Cow<'k, [u8]>,
    /// When it expires there, in Unix milliseconds.
    pub expiry: Option<i64>,
    /// Its values are to be masked before it goes over: see [`Filter::mask`].
    pub masked: bool,
}

impl Filter {
    /// What becomes of a key of a snapshot. `size` is that of its value in bytes, as the snapshot holds it, [`u64::MAX`] for one
    /// that comes in parts; `now` when the snapshot was taken, in Unix milliseconds.
    ///
    /// # Errors
    /// When its new name is in doubt, its values cannot be masked, or too many keys are left out by what their values are like.
    pub fn entry<'k>(
        &self,
        head: &EntryHead<'k>,
        size: u64,
        now: i64,
        counts: &mut Counts,
    ) -> Result<Entry<'k>, Refusal> {
        let facts = Facts::of_entry(head, size, now);
        if self.keeps_any() && !self.by_rules(None, &facts).is_out() && self.is_kept(head.db, head.key) {
            if self.refuses_kept() {
                return Err(Refusal::Exists { key: super::counts::shown(head.key) });
            }
            counts.note(By::Kept, What::KeyLeftOut, head.key);
            return Ok(Entry::LeaveOut);
        }
        if let Decision::Out(by) = self.by_rules(None, &facts) {
            counts.note(by, What::KeyLeftOut, head.key);
            if self.looks_at_values
                && !self.by_rules(None, &Facts { value: None, ..facts }).is_out()
                && !self.left_out.insert(head.db, head.key)
            {
                return Err(Refusal::TooManyLeftOut { most: self.settings.most_left_out });
            }
            return Ok(Entry::LeaveOut);
        }
        if !self.check_mask(head.key, head.ty.kind(), counts)? {
            return Ok(Entry::LeaveOut);
        }
        let masked = self.mask_of(head.key, head.ty.kind()).is_some();
        let ttl = head.expiry.and_then(|deadline| Some((deadline, self.ttl_of(head.key)?)));
        let expiry = match ttl {
            Some((deadline, (at, ttl))) => {
                let changed = ttl.apply(deadline, now);
                if changed != head.expiry {
                    counts.note(By::Ttl(at), What::DeadlineChanged, head.key);
                }
                changed
            }
            None => head.expiry,
        };
        Ok(Entry::Take(Taken { key: self.name(head.db, head.key, counts)?, expiry, masked }))
    }

    /// What becomes of the expiry of a key, and which rule says so.
    pub(super) fn ttl_of(&self, key: &[u8]) -> Option<(usize, Ttl)> {
        let mut rules = self.settings.ttls.iter().enumerate();
        rules.find(|(_, rule)| rule.is_about(key)).map(|(at, rule)| (at, rule.ttl))
    }

    /// The name of a key at the target.
    pub(super) fn name<'k>(
        &self,
        db: u64,
        key: &'k [u8],
        counts: &mut Counts,
    ) -> Result<Cow<'k, [u8]>, Refusal> {
        if self.renames.is_empty() {
            return Ok(Cow::Borrowed(key));
        }
        let (name, by) = self.renames.apply(key);
        let shown = super::counts::shown;
        let by_rename = |at| By::Rename(at);
        let sources = self.renames.sources(&name);
        if let Some(other) = sources.iter().find(|&other| other != key && self.may_be_there(db, other)) {
            if self.settings.collisions == super::Doubt::Refuse {
                return Err(Refusal::Collision { key: shown(key), other: shown(other), name: shown(&name) });
            }
            counts.note(by.map_or(By::Otherwise, by_rename), What::MayCollide, key);
        }
        if let Some(at) = by {
            if super::rename::changes_tag(key, &name) {
                if self.settings.tags == super::Doubt::Refuse {
                    return Err(Refusal::Tag { key: shown(key), name: shown(&name) });
                }
                counts.note(By::Rename(at), What::TagChanged, key);
            }
            counts.note(By::Rename(at), What::Renamed, key);
        }
        Ok(name)
    }
}
