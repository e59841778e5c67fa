//! What is known of a key when it is to be chosen or not.

use std::fmt;
use std::ops::RangeInclusive;

use keyferry_rdb::{EntryHead, Eviction, Kind};

/// What is known of a key. Who sees a command knows its name and little more; who sees a snapshot knows all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The database.
    pub db: u64,
    /// The name; none when any key of the database is meant.
    pub key: Option<&'a [u8]>,
    /// What kind of value it has, if that is known.
    pub kind: Option<Kind>,
    /// What else there is to know of the value, if it is known.
    pub value: Option<ValueFacts>,
}

/// What only who has the value knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueFacts {
    /// Bytes of the value as a snapshot holds it, compressed where the server compresses; [`u64::MAX`] for more than was counted.
    pub size: u64,
    /// Milliseconds until it expires, negative when it should have; none if it never does.
    pub ttl: Option<i64>,
    /// Seconds since it was last used; none where the server keeps no such time (it does with an LRU policy).
    pub idle: Option<u64>,
}

impl<'a> Facts<'a> {
    /// All that is known of a key by its name alone.
    pub const fn of_name(db: u64, key: &'a [u8]) -> Self {
        Self { db, key: Some(key), kind: None, value: None }
    }

    /// All that a snapshot's entry tells, but for its size. `now` is when it was taken, in Unix milliseconds.
    pub fn of_entry(head: &EntryHead<'a>, size: u64, now: i64) -> Self {
        let idle = match head.eviction {
            Some(Eviction::Idle(seconds)) => Some(seconds),
            _ => None,
        };
        let value = ValueFacts { size, ttl: head.expiry.map(|at| at.saturating_sub(now)), idle };
        Self { db: head.db, key: Some(head.key), kind: Some(head.ty.kind()), value: Some(value) }
    }
}

/// What a value has to be like, beside its kind. What is left empty is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValueRule {
    /// Its [size](ValueFacts::size) in bytes.
    pub size: Option<RangeInclusive<u64>>,
    /// Milliseconds until it expires. Keys that never do are in no range.
    pub ttl: Option<RangeInclusive<i64>>,
    /// Whether it expires at all.
    pub expires: Option<bool>,
    /// Seconds since it was last used. Keys of which nobody knows are in no range.
    pub idle: Option<RangeInclusive<u64>>,
}

impl ValueRule {
    /// Whether any value is right.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a value is right.
    pub fn admits(&self, value: &ValueFacts) -> bool {
        self.size.as_ref().is_none_or(|sizes| sizes.contains(&value.size))
            && self.ttl.as_ref().is_none_or(|ttls| value.ttl.is_some_and(|ttl| ttls.contains(&ttl)))
            && self.expires.is_none_or(|expires| expires == value.ttl.is_some())
            && self.idle.as_ref().is_none_or(|idles| value.idle.is_some_and(|idle| idles.contains(&idle)))
    }
}

impl fmt::Display for ValueRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some(size) = &self.size {
            words.push(format!("size={}..{}", size.start(), size.end()));
        }
        if let Some(ttl) = &self.ttl {
            words.push(format!("ttl={}..{}ms", ttl.start(), ttl.end()));
        }
        if let Some(expires) = self.expires {
            words.push(format!("expires={expires}"));
        }
        if let Some(idle) = &self.idle {
            words.push(format!("idle={}..{}s", idle.start(), idle.end()));
        }
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use keyferry_rdb::ValueType;

    use super::*;
    use crate::select::{Chosen, LeftOut, Selection};

    #[test]
    fn values_are_told_by_size_expiry_and_use() {
        let value = |size, ttl, idle| ValueFacts { size, ttl, idle };
        let rule = |change: &dyn Fn(&mut ValueRule)| {
            let mut rule = ValueRule::default();
            change(&mut rule);
            rule
        };
        let small = rule(&|rule| rule.size = Some(0..=9));
        assert!(small.admits(&value(9, None, None)) && !small.admits(&value(10, None, None)));
        let soon = rule(&|rule| rule.ttl = Some(i64::MIN..=1000));
        assert!(soon.admits(&value(1, Some(-5), None)) && !soon.admits(&value(1, None, None)));
        let lasting = rule(&|rule| rule.expires = Some(false));
        assert!(lasting.admits(&value(1, None, None)) && !lasting.admits(&value(1, Some(1), None)));
        let unused = rule(&|rule| rule.idle = Some(60..=u64::MAX));
        assert!(unused.admits(&value(1, None, Some(60))) && !unused.admits(&value(1, None, None)));
        assert_eq!(unused.to_string(), format!("idle=60..{}s", u64::MAX));
        assert!(ValueRule::default().is_empty() && !small.is_empty());
    }

    #[test]
    fn what_is_not_known_leaves_it_open() {
        let mut selection = Selection::default();
        selection.value.size = Some(0..=9);
        selection.databases = vec![1];
        assert_eq!(selection.chosen(&Facts::of_name(1, b"a")), Chosen::Unknown);
        assert_eq!(selection.chosen(&Facts::of_name(0, b"a")), Chosen::No(LeftOut::Database));
        let head = EntryHead::new(1, b"a", ValueType::String);
        assert_eq!(selection.chosen(&Facts::of_entry(&head, 9, 0)), Chosen::Yes);
        assert_eq!(selection.chosen(&Facts::of_entry(&head, 10, 0)), Chosen::No(LeftOut::Value));
        selection.keys.push(crate::KeyName::Prefix(b"x".to_vec()));
        let any = Facts { db: 1, key: None, kind: None, value: None };
        assert_eq!(selection.chosen(&any), Chosen::Unknown);
        assert_eq!(Selection::default().chosen(&any), Chosen::Yes);
        let used = EntryHead::new(1, b"x", ValueType::Set)
            .with_eviction(Some(Eviction::Idle(5)))
            .with_expiry(Some(7));
        let facts = Facts::of_entry(&used, 1, 2);
        assert_eq!(
            (facts.kind, facts.value),
            (Some(Kind::Set), Some(ValueFacts { size: 1, ttl: Some(5), idle: Some(5) }))
        );
    }
}
