//! Whether a key is in or out, from what is known of it.

use keyferry_files::{Chosen, Facts};
use keyferry_rdb::Kind;
use keyferry_routing::CommandSpec;

use super::{Filter, counts::By, rule::Effect};

/// Whether a key is in or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    In,
    Out(By),
    /// That depends on the type of its value, which is not known.
    Depends,
}

impl Decision {
    pub(super) fn is_out(self) -> bool {
        matches!(self, Decision::Out(_))
    }
}

impl Filter {
    /// What the rules say. [`Decision::Depends`] when it depends on what is not known.
    pub(super) fn by_rules(&self, spec: Option<&CommandSpec>, facts: &Facts<'_>) -> Decision {
        let mut possible = Possible::default();
        for (number, rule) in self.settings.rules.iter().enumerate().filter(|(_, rule)| rule.is_about(spec)) {
            match rule.keys.chosen(facts) {
                Chosen::No(_) => {}
                Chosen::Unknown => possible.add(rule.effect),
                Chosen::Yes => return possible.settle(rule.effect, By::Rule(number)),
            }
        }
        possible.settle(self.settings.otherwise, By::Otherwise)
    }

    /// Whether a key is in that a command names, when it has a value of this kind.
    ///
    /// What a value is like is decided once, by the snapshot: a key that was left out then stays out, and one that was not
    /// there is in, where the other rules leave it open.
    pub(super) fn of_kind(
        &self,
        spec: Option<&CommandSpec>,
        db: u64,
        key: &[u8],
        kind: Option<Kind>,
    ) -> Decision {
        if self.is_kept(db, key) {
            return Decision::Out(By::Kept);
        }
        if self.looks_at_values && self.left_out.contains(db, key) {
            return Decision::Out(By::Remembered);
        }
        let decision = self.by_rules(spec, &Facts { kind, ..Facts::of_name(db, key) });
        match decision {
            Decision::Depends if kind.is_some() || !self.looks_at_kinds => Decision::In,
            other => other,
        }
    }

    /// Whether a key is in that a command names, when its value is of one of these kinds.
    pub(super) fn of_kinds(
        &self,
        spec: Option<&CommandSpec>,
        db: u64,
        key: &[u8],
        kinds: &[Kind],
    ) -> Decision {
        if !self.looks_at_kinds {
            return self.of_kind(spec, db, key, None);
        }
        let mut decisions = kinds.iter().map(|&kind| self.of_kind(spec, db, key, Some(kind)));
        let Some(first) = decisions.next() else { return Decision::Depends };
        match first {
            Decision::In if decisions.all(|other| other == Decision::In) => Decision::In,
            // By whichever rule.
            Decision::Out(_) if decisions.all(Decision::is_out) => first,
            _ => Decision::Depends,
        }
    }

    /// Whether all keys of a database are in, or out.
    pub(super) fn of_database(&self, spec: Option<&CommandSpec>, db: u64) -> Decision {
        if self.looks_at_values {
            return Decision::Depends;
        }
        match self.by_rules(spec, &Facts { db, key: None, kind: None, value: None }) {
            Decision::In if self.keeps_any() => Decision::Depends,
            decision => decision,
        }
    }

    /// Whether a key of this name may be at the target because of the migration.
    pub(super) fn may_be_there(&self, db: u64, key: &[u8]) -> bool {
        !self.of_kinds(None, db, key, Kind::ALL).is_out()
    }
}

/// The effects of rules that may match.
#[derive(Default)]
struct Possible {
    include: bool,
    exclude: bool,
}

impl Possible {
    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Include => self.include = true,
            Effect::Exclude => self.exclude = true,
        }
    }

    /// The decision, when this is the effect of the first rule that matches for sure.
    fn settle(&self, effect: Effect, by: By) -> Decision {
        match effect {
            Effect::Include if self.exclude => Decision::Depends,
            Effect::Exclude if self.include => Decision::Depends,
            Effect::Include => Decision::In,
            Effect::Exclude => Decision::Out(by),
        }
    }
}

/// The kinds that the value of a key may have: argument `index` of a command that the source carried out, behind it for a
/// key that was written, before it for one that was read.
pub(super) fn kinds(
    spec: &CommandSpec,
    index: usize,
    writes: bool,
    payload: Option<Kind>,
) -> &'static [Kind] {
    use keyferry_routing::Group;
    match spec.name() {
        "restore" | "restore-asking" => return payload.map_or(Kind::ALL, one),
        "sort" if writes && index > 1 => return &[Kind::List],
        "sort" => return &[Kind::List, Kind::Set, Kind::SortedSet],
        "zunionstore" | "zinterstore" | "zdiffstore" if index > 1 => return &[Kind::Set, Kind::SortedSet],
        _ => {}
    }
    match spec.group() {
        Group::String | Group::Bitmap | Group::HyperLogLog => &[Kind::String],
        Group::List => &[Kind::List],
        Group::Set => &[Kind::Set],
        Group::SortedSet | Group::Geo => &[Kind::SortedSet],
        Group::Hash => &[Kind::Hash],
        Group::Stream => &[Kind::Stream],
        Group::Array => &[Kind::Array],
        _ => Kind::ALL,
    }
}

fn one(kind: Kind) -> &'static [Kind] {
    let at = Kind::ALL.iter().position(|&other| other == kind);
    at.and_then(|at| Kind::ALL.get(at..=at)).unwrap_or(Kind::ALL)
}
