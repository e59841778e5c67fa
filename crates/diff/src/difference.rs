//! What differs.

use std::fmt;

use keyferry_files::text::short_line;
use keyferry_files::time;
use keyferry_rdb::Kind;
use serde::Serialize;

/// In what way a key, or a function library, differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// Only the target has it.
    LackSource,
    /// Only the source has it.
    LackTarget,
    /// The types of the values differ.
    Type,
    /// The values differ.
    Value,
    /// One of two keys expires and the other does not, or they expire further apart than is tolerated.
    Expiry,
    /// Fields that both hashes have expire at other times.
    FieldExpiry,
    /// Streams have counted other things: entries ever added, the largest id deleted.
    Counters,
    /// Streams remember other things of idempotent producers (Redis 8.6).
    Producers,
    /// A side has the key more than once: databases that were mapped to one, or shards that both claim it.
    Duplicate,
    /// Databases have other numbers of keys: of comparing what servers count.
    Keys,
    /// Databases have other numbers of keys that expire.
    Expires,
}

impl DifferenceKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::LackSource,
        Self::LackTarget,
        Self::Type,
        Self::Value,
        Self::Expiry,
        Self::FieldExpiry,
        Self::Counters,
        Self::Producers,
        Self::Duplicate,
        Self::Keys,
        Self::Expires,
    ];

    /// Its name in all results. The first four are those that redis-full-check uses, with the same meaning.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LackSource => "lack_source",
            Self::LackTarget => "lack_target",
            Self::Type => "type",
            Self::Value => "value",
            Self::Expiry => "expiry",
            Self::FieldExpiry => "field_expiry",
            Self::Counters => "counters",
            Self::Producers => "producers",
            Self::Duplicate => "duplicate",
            Self::Keys => "keys",
            Self::Expires => "expires",
        }
    }
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a side has under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The type of the value.
    pub kind: Kind,
    /// Bytes of a string, elements of anything else.
    pub length: u64,
    /// When it expires, in milliseconds since the Unix epoch.
    pub expiry: Option<i64>,
}

impl Held {
    /// Something of this type and length.
    pub const fn new(kind: Kind, length: u64, expiry: Option<i64>) -> Self {
        Self { kind, length, expiry }
    }
}

/// `hash of 3`, `string of 10 bytes`.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.kind {
            Kind::String | Kind::Module => " bytes",
            _ => "",
        };
        write!(f, "{} of {}{unit}", self.kind.name(), self.length)
    }
}

/// What differs: a key, a function library, or what a server counts of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// A key.
    Key,
    /// A library of functions; it belongs to no database.
    Function,
    /// A database as a whole, of which only numbers were compared.
    Database,
}

/// An element of a value that differs: a field of a hash, a member of a set or sorted set, the first item of a list from which on
/// two lists part, an entry of a stream or what else it consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldDifference {
    /// Its name: the field or member, the index of the item, the id of the entry; `last id`, `group NAME`,
    /// `group NAME pending ID`, `group NAME consumer NAME` of a stream.
    pub name: Vec<u8>,
    /// In what way: [`DifferenceKind::LackSource`], [`DifferenceKind::LackTarget`], [`DifferenceKind::Value`] or
    /// [`DifferenceKind::FieldExpiry`].
    pub kind: DifferenceKind,
}

impl FieldDifference {
    /// Of this element, in this way.
    pub fn new(name: &[u8], kind: DifferenceKind) -> Self {
        Self { name: name.to_vec(), kind }
    }
}

/// One way in which a key, or a function library, differs. One that differs in several ways gives several.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// What differs.
    pub subject: Subject,
    /// The database of the key, as the target calls it.
    pub db: u64,
    /// The key, or the name of the library.
    pub key: Vec<u8>,
    /// In what way.
    pub kind: DifferenceKind,
    /// What the source has under this name.
    pub source: Option<Held>,
    /// What the target has under this name.
    pub target: Option<Held>,
    /// Which elements of the value differ, as far as that was looked for. A string has none.
    pub fields: Vec<FieldDifference>,
    /// How many further elements differ.
    pub more_fields: u64,
}

impl Difference {
    /// A difference of a key.
    pub fn of_key(
        db: u64,
        key: &[u8],
        kind: DifferenceKind,
        source: Option<Held>,
        target: Option<Held>,
    ) -> Self {
        let (fields, more_fields) = (Vec::new(), 0);
        Self { subject: Subject::Key, db, key: key.to_vec(), kind, source, target, fields, more_fields }
    }

    /// A difference of a function library.
    pub fn of_function(name: &[u8], kind: DifferenceKind) -> Self {
        Self { subject: Subject::Function, ..Self::of_key(0, name, kind, None, None) }
    }

    /// A difference of what source and target count in a database.
    pub fn of_database(db: u64, kind: DifferenceKind, counts: [u64; 2]) -> Self {
        let [source, target] = counts.map(|count| Some(Held::new(Kind::String, count, None)));
        Self { subject: Subject::Database, ..Self::of_key(db, b"", kind, source, target) }
    }

    /// The type of the source's value, else of the target's, `function` of a library, `none` otherwise.
    pub fn type_name(&self) -> &'static str {
        match (self.subject, self.source.or(self.target)) {
            (Subject::Function, _) => "function",
            (Subject::Database, _) => "none",
            (_, Some(held)) => held.kind.name(),
            (_, None) => "none",
        }
    }

    /// Both sides in words: `list of 3 | list of 2`.
    pub fn sides(&self) -> String {
        if self.subject == Subject::Database {
            let count = |held: Option<Held>| held.map_or(0, |held| held.length);
            return format!("{} | {}", count(self.source), count(self.target));
        }
        let other = matches!(self.subject, Subject::Function);
        let side = |held: Option<Held>, lacks: DifferenceKind| match held {
            Some(held) if self.kind == DifferenceKind::Expiry => match held.expiry {
                Some(at) => format!("expires at {}", time::show(at)),
                None => "does not expire".to_owned(),
            },
            Some(held) => held.to_string(),
            None if other && self.kind != lacks => "a library".to_owned(),
            None => "none".to_owned(),
        };
        format!(
            "{} | {}",
            side(self.source, DifferenceKind::LackSource),
            side(self.target, DifferenceKind::LackTarget)
        )
    }
}

impl Difference {
    /// The elements that differ, in words: ` at 3`, ` at a, b and 7 more`; nothing when none is known.
    pub fn places(&self) -> String {
        let names: Vec<_> = self.fields.iter().take(3).map(|field| short_line(&field.name, 40)).collect();
        if names.is_empty() {
            return String::new();
        }
        let more = (self.fields.len() - names.len()) as u64 + self.more_fields;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(" at {}{more}", names.join(", "))
    }
}

/// How many differences there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DifferenceCounts([u64; DifferenceKind::ALL.len()]);

impl DifferenceCounts {
    /// Counts one more.
    pub fn add(&mut self, kind: DifferenceKind) {
        self.0[kind as usize] += 1;
    }

    /// How many there are of a kind.
    pub fn of(&self, kind: DifferenceKind) -> u64 {
        self.0[kind as usize]
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Kinds of which there are any, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (DifferenceKind, u64)> {
        DifferenceKind::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

/// A map of names and numbers, without kinds of which there are none.
impl Serialize for DifferenceCounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(kind, count)| (kind.name(), count)))
    }
}

/// `2 lack_target, 1 value`; `none`.
impl fmt::Display for DifferenceCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for (kind, count) in self.iter() {
            write!(f, "{before}{count} {kind}")?;
            before = ", ";
        }
        if before.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_counted_each() {
        let mut counts = DifferenceCounts::default();
        assert_eq!(counts.to_string(), "none");
        for (number, kind) in DifferenceKind::ALL.into_iter().enumerate() {
            (0..number).for_each(|_| counts.add(kind));
            assert_eq!(counts.of(kind), number as u64);
        }
        assert_eq!(counts.total(), 55);
        assert!(counts.to_string().starts_with("1 lack_target, 2 type, 3 value, "));
    }

    #[test]
    fn both_sides_in_words() {
        let list = |length| Some(Held::new(Kind::List, length, None));
        let difference = Difference::of_key(0, b"k", DifferenceKind::Value, list(3), list(2));
        assert_eq!((difference.sides().as_str(), difference.type_name()), ("list of 3 | list of 2", "list"));
        let difference = Difference::of_key(0, b"k", DifferenceKind::LackSource, None, list(2));
        assert_eq!((difference.sides().as_str(), difference.type_name()), ("none | list of 2", "list"));
        let text = |expiry| Some(Held::new(Kind::String, 1, expiry));
        let difference =
            Difference::of_key(0, b"k", DifferenceKind::Expiry, text(Some(2_000_000_000_500)), text(None));
        assert_eq!(difference.sides(), "expires at 2033-05-18T03:33:20.500Z | does not expire");
        let difference = Difference::of_function(b"lib", DifferenceKind::LackTarget);
        assert_eq!((difference.sides().as_str(), difference.type_name()), ("a library | none", "function"));
    }
}
