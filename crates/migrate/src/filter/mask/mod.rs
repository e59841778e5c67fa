//! Values that others take the place of.
//!
//! A mask is chosen by the name of a key, and of a field where it is about fields, and sees nothing else of either: the same value
//! becomes the same wherever it stands, so that what is compared or looked for within values of one rule is found, and both phases
//! agree. What becomes of each write command is in [`command`].

pub(super) mod command;
mod kinds;
mod parts;
pub(super) mod value;

use std::{borrow::Cow, fmt, sync::Arc};

use keyferry_files::KeyName;
use keyferry_rdb::{Kind, Value};
use keyferry_routing::KeyPattern;

pub use self::kinds::{Masking, SaltError, Secret};
use super::{Filter, Operands, Refusal, counts::By, counts::Counts, counts::What, counts::shown};

/// What becomes of single values: a hook.
///
/// **Promises** to give the same for the same part and value at any time, in any run: a migration that is gone on with masks again
/// what it masked before.
pub trait Mask: fmt::Debug + Send + Sync {
    /// What takes the place of a value.
    fn mask<'v>(&self, part: Part<'_>, value: &'v [u8]) -> Cow<'v, [u8]>;

    /// Whether different values become different ones. What does not keep them apart is refused for members of sets and sorted
    /// sets, of which two would become one.
    fn keeps_apart(&self) -> bool;

    /// What it does, for reports and for the name of the filter: two that do not do the same are told apart by it. No secrets.
    fn describe(&self) -> String;
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part<'a> {
    /// A whole string.
    String,
    /// An item of a list.
    Item,
    /// A member of a set.
    Member,
    /// A member of a sorted set; its score stays.
    ScoredMember,
    /// The value of this field of a hash.
    Field(&'a [u8]),
    /// The value of this field of an entry of a stream.
    EntryField(&'a [u8]),
}

impl Part<'_> {
    /// The field's name, where it is one.
    fn field(&self) -> Option<&[u8]> {
        match self {
            Part::Field(name) | Part::EntryField(name) => Some(name),
            _ => None,
        }
    }

    /// Whether two of the same become one.
    fn is_unique(&self) -> bool {
        matches!(self, Part::Member | Part::ScoredMember)
    }
}

/// Which values are masked, and how.
///
/// Of several rules, the first that is about a key, and about a field where it names fields, decides.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MaskRule {
    /// The keys; none for all.
    pub keys: Option<KeyName>,
    /// Only these fields of hashes and of entries of streams. None for every value of any type.
    pub field: Option<KeyPattern>,
    /// What becomes of the values.
    pub mask: Arc<dyn Mask>,
}

impl MaskRule {
    /// A rule for all values.
    pub fn new(mask: impl Mask + 'static) -> Self {
        MaskRule { keys: None, field: None, mask: Arc::new(mask) }
    }

    /// A rule as text: `NAME=HOW`, or `NAME .FIELD=HOW` for some fields only, where both are patterns, and how is one of
    /// [`Masking`]. `salt` gives the secret for what follows `hash:`.
    ///
    /// # Errors
    /// When it is none, in words.
    pub fn parse(text: &str, salt: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Self, String> {
        // Texts of their own may follow, so the first place counts where it is told how.
        let divided = text.match_indices('=').map(|(at, _)| (&text[..at], &text[at + 1..]));
        let Some((place, how)) = divided.into_iter().find(|(_, how)| Masking::is_meant(how)) else {
            return Err(format!(
                "\"{text}\" does not tell how: wanted is NAME=HOW, or NAME .FIELD=HOW, with {}",
                Masking::FORMS
            ));
        };
        let (name, field) = match place.rsplit_once(" .") {
            Some((name, field)) => (name, Some(field)),
            None => (place, None),
        };
        if name.is_empty() || field.is_some_and(str::is_empty) {
            return Err(format!("\"{text}\" does not tell of which keys: * stands for all"));
        }
        Ok(MaskRule {
            keys: Some(name.parse().map_err(|error| format!("{error}"))?),
            field: field.map(|field| KeyPattern::new(field.as_bytes())),
            mask: Arc::new(Masking::parse(how, salt)?),
        })
    }

    fn is_about(&self, key: &[u8]) -> bool {
        self.keys.as_ref().is_none_or(|name| name.matches(key))
    }

    fn is_about_part(&self, part: Part<'_>) -> bool {
        match (&self.field, part.field()) {
            (None, _) => true,
            (Some(pattern), Some(name)) => pattern.matches(name),
            (Some(_), None) => false,
        }
    }
}

impl fmt::Display for MaskRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keys {
            Some(keys) => write!(f, "{keys}")?,
            None => f.write_str("*")?,
        }
        if let Some(field) = &self.field {
            write!(f, " .{field}")?;
        }
        write!(f, "={}", self.mask.describe())
    }
}

/// The rules that are about one key: those that decide about its values, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyMask(Vec<usize>);

impl KeyMask {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A rule of them, for counts.
    fn by(&self) -> By {
        self.0.first().map_or(By::Otherwise, |&at| By::Mask(at))
    }
}

impl Filter {
    /// Whether values are masked.
    pub fn masks(&self) -> bool {
        !self.settings.masks.is_empty()
    }

    /// The rules about a key, with those about fields where it may have any.
    fn key_mask(&self, key: &[u8], has_fields: bool) -> KeyMask {
        let rules = self.settings.masks.iter().enumerate();
        let about = rules.filter(|(_, rule)| (has_fields || rule.field.is_none()) && rule.is_about(key));
        KeyMask(about.map(|(at, _)| at).collect())
    }

    /// The rules about a key of this kind; none where its values stay as they are.
    pub(crate) fn mask_of(&self, key: &[u8], kind: Kind) -> Option<KeyMask> {
        if self.settings.masks.is_empty() {
            return None;
        }
        Some(self.key_mask(key, has_fields(kind))).filter(|mask| !mask.is_empty())
    }

    /// The rule about a part of a value.
    fn rule_for(&self, mask: &KeyMask, part: Part<'_>) -> Option<(usize, &MaskRule)> {
        let rules = mask.0.iter().filter_map(|&at| Some((at, self.settings.masks.get(at)?)));
        rules.into_iter().find(|(_, rule)| rule.is_about_part(part))
    }

    /// What takes the place of a part of a value.
    pub(crate) fn masked_part<'v>(&self, mask: &KeyMask, part: Part<'_>, value: &'v [u8]) -> Cow<'v, [u8]> {
        match self.rule_for(mask, part) {
            Some((_, rule)) => rule.mask.mask(part, value),
            None => Cow::Borrowed(value),
        }
    }

    /// Whether the masks of a key can be put on such parts.
    fn check_part(&self, mask: &KeyMask, key: &[u8], part: Part<'_>) -> Result<(), Refusal> {
        match self.rule_for(mask, part) {
            Some((_, rule)) if part.is_unique() && !rule.mask.keeps_apart() => {
                Err(Refusal::MaskMerges { key: shown(key), rule: rule.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// The values of a key of a snapshot with their masks. Those of types that cannot be masked are refused by [`Filter::entry`]
    /// before.
    pub fn mask(&self, key: &[u8], value: &mut Value) {
        let kind = match value {
            Value::Hash(_) => Kind::Hash,
            Value::Stream(_) => Kind::Stream,
            _ => Kind::String,
        };
        if let Some(mask) = self.mask_of(key, kind) {
            self.mask_value(&mask, value);
        }
    }

    /// Whether a key of a snapshot can be masked. False when it is to be left out, as it cannot.
    pub(super) fn check_mask(&self, key: &[u8], kind: Kind, counts: &mut Counts) -> Result<bool, Refusal> {
        let Some(mask) = self.mask_of(key, kind) else { return Ok(true) };
        match kind {
            Kind::Set => self.check_part(&mask, key, Part::Member)?,
            Kind::SortedSet => self.check_part(&mask, key, Part::ScoredMember)?,
            Kind::String | Kind::List | Kind::Hash | Kind::Stream => {}
            _ if self.settings.masked_parts == Operands::Report => {
                counts.note(mask.by(), What::Unmasked, key);
                return Ok(false);
            }
            _ => return Err(Refusal::MaskedType { key: shown(key), kind: kind.name() }),
        }
        counts.note(mask.by(), What::Masked, key);
        Ok(true)
    }
}

/// Whether values of this kind have fields with names.
fn has_fields(kind: Kind) -> bool {
    matches!(kind, Kind::Hash | Kind::Stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<MaskRule, String> {
        MaskRule::parse(text, |name| Ok(format!("a salt called {name}").into_bytes()))
    }

    #[test]
    fn rules_are_read_and_shown() {
        for (text, shown) in [
            ("user:*=fixed:***", "glob:user:*=fixed:***"),
            ("prefix:a=b .c=keep-last:4", "prefix:a=b .c=keep-last:4"),
            ("*=fixed:a=format", "glob:*=fixed:a=format"),
            ("u .e*=format", "glob:u .e*=format"),
            ("regex:^a=format", "regex:^a=format"),
        ] {
            assert_eq!(rule(text).unwrap().to_string(), shown);
        }
        let (one, other) = (rule("*=hash:A").unwrap().to_string(), rule("*=hash:B").unwrap().to_string());
        assert!(one.starts_with("glob:*=hash ") && one != other && !one.contains("salt"), "{one} {other}");
        for wrong in [
            "",
            "*",
            "*=",
            "*=hash",
            "*=hash:",
            "=format",
            " .x=format",
            "a .=format",
            "a=keep-last:x",
            "regex:(=format",
        ] {
            assert!(rule(wrong).is_err(), "{wrong}");
        }
        assert!(MaskRule::parse("*=hash:X", |_| Ok(b"short".to_vec())).is_err());
    }

    #[test]
    fn the_first_rule_about_a_part_decides() {
        let masks =
            ["u* .mail=fixed:1", "u* .m*=fixed:2", "ux=fixed:3"].map(|text| rule(text).unwrap()).into();
        let settings = crate::filter::Settings { masks, ..Default::default() };
        let filter = Filter::new(settings).unwrap();
        let masked = |key: &str, part: Part<'_>, kind: Kind| {
            let mask = filter.mask_of(key.as_bytes(), kind).unwrap_or_default();
            String::from_utf8(filter.masked_part(&mask, part, b"v").into_owned()).unwrap()
        };
        assert_eq!(masked("u", Part::Field(b"mail"), Kind::Hash), "1");
        assert_eq!(masked("u", Part::EntryField(b"m"), Kind::Stream), "2");
        assert_eq!(masked("ux", Part::Field(b"other"), Kind::Hash), "3");
        assert_eq!(masked("u", Part::Field(b"other"), Kind::Hash), "v");
        assert_eq!(masked("u", Part::String, Kind::String), "v");
        assert!(
            filter.mask_of(b"u", Kind::String).is_none() && filter.mask_of(b"ux", Kind::String).is_some()
        );
    }
}
