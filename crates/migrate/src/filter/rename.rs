//! New names for keys.

use std::str::FromStr;
use std::{borrow::Cow, fmt};

use keyferry_routing::hash_tag;

/// How names of keys change. A key that it does not apply to keeps its name.
///
/// As text: `add-prefix:P`, `strip-prefix:P`, `replace-prefix:P=Q`, `add-suffix:S`, `strip-suffix:S`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rename {
    /// These bytes come before every name.
    AddPrefix(Vec<u8>),
    /// Names that begin with these bytes lose them.
    StripPrefix(Vec<u8>),
    /// Names that begin with the first begin with the second instead.
    ReplacePrefix(Vec<u8>, Vec<u8>),
    /// These bytes come behind every name.
    AddSuffix(Vec<u8>),
    /// Names that end with these bytes lose them.
    StripSuffix(Vec<u8>),
}

impl Rename {
    /// The new name, if it applies.
    pub fn apply(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::AddPrefix(prefix) => Some([prefix, key].concat()),
            Self::StripPrefix(prefix) => key.strip_prefix(&prefix[..]).map(<[u8]>::to_vec),
            Self::ReplacePrefix(from, to) => key.strip_prefix(&from[..]).map(|rest| [to, rest].concat()),
            Self::AddSuffix(suffix) => Some([key, suffix].concat()),
            Self::StripSuffix(suffix) => key.strip_suffix(&suffix[..]).map(<[u8]>::to_vec),
        }
    }

    /// The name that becomes this one by it, if there is one.
    fn undo(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::AddPrefix(prefix) => key.strip_prefix(&prefix[..]).map(<[u8]>::to_vec),
            Self::StripPrefix(prefix) => Some([prefix, key].concat()),
            Self::ReplacePrefix(from, to) => key.strip_prefix(&to[..]).map(|rest| [from, rest].concat()),
            Self::AddSuffix(suffix) => key.strip_suffix(&suffix[..]).map(<[u8]>::to_vec),
            Self::StripSuffix(suffix) => Some([key, suffix].concat()),
        }
    }

    /// Whether it changes nothing, or what it is to look for is missing.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::AddPrefix(part)
            | Self::StripPrefix(part)
            | Self::AddSuffix(part)
            | Self::StripSuffix(part) => part.is_empty(),
            Self::ReplacePrefix(from, to) => from.is_empty() || from == to,
        }
    }
}

impl FromStr for Rename {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" is none of add-prefix:P, strip-prefix:P, replace-prefix:P=Q, add-suffix:S, strip-suffix:S \
                 with something in the place of P and S"
            )
        };
        let (how, what) = text.split_once(':').ok_or_else(wrong)?;
        let bytes = what.as_bytes().to_vec();
        let rename = match how {
            "add-prefix" => Self::AddPrefix(bytes),
            "strip-prefix" => Self::StripPrefix(bytes),
            "add-suffix" => Self::AddSuffix(bytes),
            "strip-suffix" => Self::StripSuffix(bytes),
            "replace-prefix" => {
                let (from, to) = what.split_once('=').ok_or_else(wrong)?;
                Self::ReplacePrefix(from.into(), to.into())
            }
            _ => return Err(wrong()),
        };
        if rename.is_empty() { Err(wrong()) } else { Ok(rename) }
    }
}

impl fmt::Display for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPrefix(part) => write!(f, "add-prefix:{}", part.escape_ascii()),
            Self::StripPrefix(part) => write!(f, "strip-prefix:{}", part.escape_ascii()),
            Self::ReplacePrefix(from, to) => {
                write!(f, "replace-prefix:{}={}", from.escape_ascii(), to.escape_ascii())
            }
            Self::AddSuffix(part) => write!(f, "add-suffix:{}", part.escape_ascii()),
            Self::StripSuffix(part) => write!(f, "strip-suffix:{}", part.escape_ascii()),
        }
    }
}

/// Several of them: the first that applies to a name changes it, no other.
#[derive(Clone, Debug, Default)]
pub(super) struct Renames(pub(super) Vec<Rename>);

impl Renames {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name at the target, and which of them made it.
    pub(super) fn apply<'k>(&self, key: &'k [u8]) -> (Cow<'k, [u8]>, Option<usize>) {
        let applied = self.0.iter().enumerate().find_map(|(at, rename)| Some((rename.apply(key)?, at)));
        match applied {
            Some((name, at)) => (Cow::Owned(name), Some(at)),
            None => (Cow::Borrowed(key), None),
        }
    }

    /// All names of the source that have this name at the target.
    pub(super) fn sources(&self, name: &[u8]) -> Vec<Vec<u8>> {
        let mut sources: Vec<Vec<u8>> = self.0.iter().filter_map(|rename| rename.undo(name)).collect();
        sources.push(name.to_vec());
        sources.sort_unstable();
        sources.dedup();
        sources.retain(|source| *self.apply(source).0 == *name);
        sources
    }
}

/// Whether a new name takes a key out of the company of those that share its hash tag, or puts it into another.
pub(super) fn changes_tag(old: &[u8], new: &[u8]) -> bool {
    let tag = |key: &[u8]| {
        let tag = hash_tag(key);
        (tag.len() < key.len()).then(|| tag.to_vec())
    };
    tag(old) != tag(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_change_by_the_first_that_applies() {
        let renames =
            Renames(vec!["replace-prefix:a:=b:".parse().unwrap(), "strip-suffix:!".parse().unwrap()]);
        let applied = |key: &str| String::from_utf8(renames.apply(key.as_bytes()).0.into_owned()).unwrap();
        assert_eq!(
            [applied("a:1!"), applied("b:1!"), applied("b:1"), applied("x")],
            ["b:1!", "b:1", "b:1", "x"]
        );
        assert_eq!(renames.sources(b"b:1"), [b"a:1".to_vec(), b"b:1".to_vec(), b"b:1!".to_vec()]);
        // "a:1" would lose its prefix on the way.
        assert_eq!(renames.sources(b"a:1"), Vec::<Vec<u8>>::new());
        for wrong in
            ["", "a", "add-prefix:", "replace-prefix:=x", "replace-prefix:x", "replace-prefix:x=x", "x:y"]
        {
            assert!(wrong.parse::<Rename>().is_err(), "{wrong}");
        }
        for right in
            ["add-prefix:a", "strip-prefix:a=b", "replace-prefix:a=", "add-suffix::", "strip-suffix:x"]
        {
            assert_eq!(right.parse::<Rename>().unwrap().to_string(), right);
        }
    }

    #[test]
    fn tags_stay_or_not() {
        assert!(!changes_tag(b"{u}1", b"p:{u}1") && !changes_tag(b"foo", b"p:foo"));
        assert!(
            changes_tag(b"foo", b"{p}foo") && changes_tag(b"{u}1", b"{p}{u}1") && changes_tag(b"{u}1", b"1")
        );
    }

    proptest! {
        /// Every name is among the sources of what it becomes.
        #[test]
        fn sources_are_all_there_are(
            renames in prop::collection::vec(
                ("(add|strip|replace)-(prefix|suffix)", "[ab]{1,2}", "[ab]{0,2}"), 1..4),
            key in "[ab]{0,4}",
            other in "[ab]{0,4}",
        ) {
            let parsed = renames.iter().filter_map(|(how, from, to)| {
                let to = if how.starts_with("replace") { format!("={to}") } else { String::new() };
                format!("{how}:{from}{to}").parse().ok()
            });
            let renames = Renames(parsed.collect());
            let new = renames.apply(key.as_bytes()).0.into_owned();
            let sources = renames.sources(&new);
            prop_assert!(sources.contains(&key.clone().into_bytes()));
            let same = *renames.apply(other.as_bytes()).0 == new[..];
            prop_assert_eq!(sources.contains(&other.into_bytes()), same);
        }
    }
}
