//! Choosing keys by name, database, type and slot.

use std::fmt;

use keyferry_rdb::{EntryHead, Event, Kind};
use keyferry_routing::{KeyPattern, SlotSet, slot};

/// Which keys are wanted. What is left empty chooses everything.
///
/// ```
/// use keyferry_files::Selection;
/// use keyferry_rdb::{EntryHead, ValueType};
/// use keyferry_routing::KeyPattern;
///
/// let mut selection = Selection::default();
/// selection.keys.push(KeyPattern::new(b"user:*"));
/// selection.exclude.push(KeyPattern::new(b"*:tmp"));
/// assert!(selection.admits(&EntryHead::new(0, b"user:1", ValueType::Hash)));
/// assert!(!selection.admits(&EntryHead::new(0, b"user:1:tmp", ValueType::Hash)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// A key has to match one of these.
    pub keys: Vec<KeyPattern>,
    /// A key must match none of these.
    pub exclude: Vec<KeyPattern>,
    /// A key has to be in one of these databases.
    pub databases: Vec<u64>,
    /// A value has to be of one of these kinds.
    pub kinds: Vec<Kind>,
    /// A key has to be in one of these slots.
    pub slots: Option<SlotSet>,
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
}

impl Selection {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a key is wanted.
    pub fn admits(&self, head: &EntryHead<'_>) -> bool {
        self.left_out(head).is_none()
    }

    /// Why a key is not wanted; `None` when it is.
    pub fn left_out(&self, head: &EntryHead<'_>) -> Option<LeftOut> {
        if !self.databases.is_empty() && !self.databases.contains(&head.db) {
            return Some(LeftOut::Database);
        }
        if !self.kinds.is_empty() && !self.kinds.contains(&head.ty.kind()) {
            return Some(LeftOut::Kind);
        }
        if !self.keys.is_empty() && !self.keys.iter().any(|pattern| pattern.matches(head.key)) {
            return Some(LeftOut::NoMatch);
        }
        if self.exclude.iter().any(|pattern| pattern.matches(head.key)) {
            return Some(LeftOut::Excluded);
        }
        if self.slots.as_ref().is_some_and(|slots| !slots.contains(slot(head.key))) {
            return Some(LeftOut::Slot);
        }
        None
    }
}

/// A [`Selection`] at work on the events of a snapshot: large values in parts included, and what is left out counted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    selection: Selection,
    everything: bool,
    /// Inside a large value that is not wanted.
    skipping: bool,
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
            Event::Entry(entry) => self.check(&entry.head),
            Event::ValueStart(head) => {
                let admitted = self.check(head);
                self.skipping = !admitted;
                admitted
            }
            Event::ValuePart(_) => !self.skipping,
            Event::ValueEnd => !std::mem::take(&mut self.skipping),
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

    fn check(&mut self, head: &EntryHead<'_>) -> bool {
        let Some(reason) = self.selection.left_out(head) else { return true };
        self.counts.add(reason);
        false
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
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.database + self.kind + self.no_match + self.excluded + self.slot
    }
}

/// `5 by name, 2 excluded, 7 in other databases, 1 of other types, 3 in other slots`, those that are not zero; `none`.
impl fmt::Display for LeftOutCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (count, what) in [
            (self.no_match, "by name"),
            (self.excluded, "excluded"),
            (self.database, "in other databases"),
            (self.kind, "of other types"),
            (self.slot, "in other slots"),
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

    use super::*;

    #[test]
    fn each_rule_leaves_out_and_is_counted() {
        let mut filter = Filter::new(Selection {
            keys: vec![KeyPattern::new(b"a*"), KeyPattern::new(b"\xFF*")],
            exclude: vec![KeyPattern::new(b"*x")],
            databases: vec![0, 2],
            kinds: vec![Kind::String, Kind::Set],
            slots: "0-16382".parse().ok(),
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
            LeftOutCounts { database: 1, kind: 1, no_match: 1, excluded: 1, slot: 1 }
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
