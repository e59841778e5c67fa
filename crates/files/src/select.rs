//! Choosing keys by name, database, type and slot, and by what their values are like.

use std::fmt;

use keyferry_rdb::{EntryHead, Event, Kind};
use keyferry_routing::{SlotSet, slot};

use crate::facts::{Facts, ValueRule};
use crate::key_name::KeyName;

/// Which keys are wanted. What is left empty chooses everything.
///
/// ```
/// use keyferry_files::Selection;
/// use keyferry_rdb::{EntryHead, ValueType};
/// use keyferry_routing::KeyPattern;
///
/// let mut selection = Selection::default();
/// selection.keys.push(KeyPattern::new(b"user:*").into());
/// selection.exclude.push("suffix::tmp".parse()?);
/// assert!(selection.admits(&EntryHead::new(0, b"user:1", ValueType::Hash)));
/// assert!(!selection.admits(&EntryHead::new(0, b"user:1:tmp", ValueType::Hash)));
/// # Ok::<(), keyferry_files::KeyNameError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// A key has to match one of these.
    pub keys: Vec<KeyName>,
    /// A key must match none of these.
    pub exclude: Vec<KeyName>,
    /// A key has to be in one of these databases.
    pub databases: Vec<u64>,
    /// A value has to be of one of these kinds.
    pub kinds: Vec<Kind>,
    /// A key has to be in one of these slots.
    pub slots: Option<SlotSet>,
    /// What its value has to be like, beside its kind. [`Filter`] and [`Selection::chosen`] look at it, [`Selection::admits`] and
    /// [`Selection::left_out`] do not.
    pub value: ValueRule,
}

/// Whether a key is chosen, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// It is.
    Yes,
    /// It is not, whatever else may be learned of it: the first of the rules that it breaks.
    No(LeftOut),
    /// That depends on what is not known.
    Unknown,
}

/// Why a key was left out: the first of the rules that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeftOut {
    /// [`Selection::databases`].
    Database,
    /// [`Selection::kinds`].
    Kind,
    /// [`Selection::keys`].
    NoMatch,
    /// [`Selection::exclude`].
    Excluded,
    /// [`Selection::slots`].
    Slot,
    /// [`Selection::value`].
    Value,
}

/// How many keys were left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct LeftOutCounts {
    /// Keys of other databases.
    pub database: u64,
    /// Values of other types.
    pub kind: u64,
    /// Keys that match no pattern.
    pub no_match: u64,
    /// Keys that match a pattern of those excluded.
    pub excluded: u64,
    /// Keys of other slots.
    pub slot: u64,
    /// Keys whose values are of another size, or expire or were used at other times.
    pub value: u64,
}

impl Selection {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a key is wanted. Of its value nothing but the kind is looked at.
    pub fn admits(&self, head: &EntryHead<'_>) -> bool {
        self.left_out(head).is_none()
    }

    /// Why a key is not wanted; `None` when it is. Of its value nothing but the kind is looked at.
    pub fn left_out(&self, head: &EntryHead<'_>) -> Option<LeftOut> {
        match self.chosen(&Facts { kind: Some(head.ty.kind()), ..Facts::of_name(head.db, head.key) }) {
            Chosen::No(why) => Some(why),
            Chosen::Yes | Chosen::Unknown => None,
        }
    }

    /// Whether a key is wanted, as far as can be told from what is known of it.
    pub fn chosen(&self, facts: &Facts<'_>) -> Chosen {
        if !self.databases.is_empty() && !self.databases.contains(&facts.db) {
            return Chosen::No(LeftOut::Database);
        }
        let mut unknown = false;
        if !self.kinds.is_empty() {
            match &facts.kind {
                Some(kind) if !self.kinds.contains(kind) => return Chosen::No(LeftOut::Kind),
                Some(_) => {}
                None => unknown = true,
            }
        }
        match facts.key {
            Some(key) => {
                if !self.keys.is_empty() && !self.keys.iter().any(|name| name.matches(key)) {
                    return Chosen::No(LeftOut::NoMatch);
                }
                if self.exclude.iter().any(|name| name.matches(key)) {
                    return Chosen::No(LeftOut::Excluded);
                }
                if self.slots.as_ref().is_some_and(|slots| !slots.contains(slot(key))) {
                    return Chosen::No(LeftOut::Slot);
                }
            }
            None => unknown |= self.looks_at_names(),
        }
        match &facts.value {
            Some(value) if !self.value.admits(value) => return Chosen::No(LeftOut::Value),
            Some(_) => {}
            None => unknown |= !self.value.is_empty(),
        }
        if unknown { Chosen::Unknown } else { Chosen::Yes }
    }

    /// Whether the name of a key matters.
    pub fn looks_at_names(&self) -> bool {
        !self.keys.is_empty() || !self.exclude.is_empty() || self.slots.is_some()
    }
}

/// A [`Selection`] at work on the events of a snapshot: large values in parts included, and what is left out counted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    selection: Selection,
    everything: bool,
    /// Inside a large value that is not wanted.
    skipping: bool,
    /// When the snapshot was taken, as it says; Unix milliseconds.
    now: i64,
    counts: LeftOutCounts,
}

impl Filter {
    /// A filter that lets through what is selected.
    pub fn new(selection: Selection) -> Self {
        let everything = selection.is_everything();
        Self { selection, everything, ..Self::default() }
    }

    /// Whether an event is wanted. Ask once for each, in order. Only keys and their values are ever left out.
    #[inline]
    pub fn admits(&mut self, event: &Event<'_>) -> bool {
        if self.everything {
            return true;
        }
        match event {
            Event::Entry(entry) => self.check(&entry.head, entry.value.bytes().len() as u64),
            Event::ValueStart(head) => {
                let admitted = self.check(head, u64::MAX);
                self.skipping = !admitted;
                admitted
            }
            Event::ValuePart(_) => !self.skipping,
            Event::ValueEnd => !std::mem::take(&mut self.skipping),
            Event::Aux { name: b"ctime", value } => {
                let seconds: Option<i64> = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.now = seconds.unwrap_or(0).saturating_mul(1000);
                true
            }
            _ => true,
        }
    }

    /// What it selects.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// What was left out so far.
    pub fn counts(&self) -> LeftOutCounts {
        self.counts
    }

    fn check(&mut self, head: &EntryHead<'_>, size: u64) -> bool {
        match self.selection.chosen(&Facts::of_entry(head, size, self.now)) {
            Chosen::No(reason) => {
                self.counts.add(reason);
                false
            }
            Chosen::Yes | Chosen::Unknown => true,
        }
    }
}

impl LeftOutCounts {
    /// Counts one more.
    pub fn add(&mut self, reason: LeftOut) {
        *match reason {
            LeftOut::Database => &mut self.database,
            LeftOut::Kind => &mut self.kind,
            LeftOut::NoMatch => &mut self.no_match,
            LeftOut::Excluded => &mut self.excluded,
            LeftOut::Slot => &mut self.slot,
            LeftOut::Value => &mut self.value,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.database + self.kind + self.no_match + self.excluded + self.slot + self.value
    }
}

/// `5 by name, 2 excluded, 7 in other databases, 1 of other types, 3 in other slots, 1 with other values`,
/// those that are not zero; `none`.
impl fmt::Display for LeftOutCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (count, what) in [
            (self.no_match, "by name"),
            (self.excluded, "excluded"),
            (self.database, "in other databases"),
            (self.kind, "of other types"),
            (self.slot, "in other slots"),
            (self.value, "with other values"),
        ] {
            if count > 0 {
                write!(f, "{before}{count} {what}")?;
                before = ", ";
            }
        }
        if before.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use keyferry_rdb::{Parser, ValueType};
    use keyferry_routing::KeyPattern;

    use super::*;

    #[test]
    fn each_rule_leaves_out_and_is_counted() {
        let mut filter = Filter::new(Selection {
            keys: vec![KeyPattern::new(b"a*").into(), KeyName::Prefix(b"\xFF".to_vec())],
            exclude: vec!["suffix:x".parse().unwrap()],
            databases: vec![0, 2],
            kinds: vec![Kind::String, Kind::Set],
            slots: "0-16382".parse().ok(),
            value: ValueRule::default(),
        });
        let last_slot = format!("a{{{}}}", keyferry_routing::tag_for_slot(16383)).into_bytes();
        assert_eq!(slot(&last_slot), 16383);
        let mut seen = Vec::new();
        for (db, key, ty) in [
            (0, &b"a1"[..], ValueType::String),
            (2, b"\xFF", ValueType::SetIntset),
            (1, b"a", ValueType::String),
            (0, b"a", ValueType::List),
            (0, b"b", ValueType::String),
            (0, b"ax", ValueType::String),
            (0, &last_slot, ValueType::String),
        ] {
            seen.push(filter.admits(&Event::ValueStart(EntryHead::new(db, key, ty))));
            assert_eq!(filter.admits(&Event::ValuePart(b"x")), *seen.last().unwrap());
            assert_eq!(filter.admits(&Event::ValueEnd), *seen.last().unwrap());
            assert!(filter.admits(&Event::Aux { name: b"x", value: b"y" }));
        }
        assert_eq!(seen, [true, true, false, false, false, false, false]);
        assert_eq!(
            filter.counts(),
            LeftOutCounts { database: 1, kind: 1, no_match: 1, excluded: 1, slot: 1, value: 0 }
        );
        assert_eq!(filter.counts().total(), 5);
        assert_eq!(LeftOutCounts::default().to_string(), "none");
        assert_eq!(
            filter.counts().to_string(),
            "1 by name, 1 excluded, 1 in other databases, 1 of other types, 1 in other slots"
        );
    }

    #[test]
    fn an_empty_selection_admits_all() {
        let mut filter = Filter::new(Selection::default());
        let mut parser = Parser::new();
        parser.feed(b"REDIS0003\xFE\x00\x00\x01a\x05hello\x01\x01b\x02\x01x\x01y\xFF");
        while let Some(event) = parser.next_event().unwrap() {
            assert!(filter.admits(&event), "{event:?}");
        }
    }
}
