//! What the name of a key has to be like.

use std::fmt;
use std::str::FromStr;

use keyferry_routing::KeyPattern;
use regex::bytes::Regex;

/// What the name of a key has to be like.
///
/// As text: `prefix:`, `suffix:` or `regex:` and what follows, or a glob-style pattern, with or without `glob:` before it.
///
/// ```
/// use keyferry_files::KeyName;
///
/// let names: Vec<KeyName> = vec!["user:*".parse()?, "prefix:[raw]".parse()?, "regex:^session:[0-9a-f]{4}$".parse()?];
/// assert!(names[0].matches(b"user:1") && names[1].matches(b"[raw]x") && names[2].matches(b"session:00ff"));
/// assert!(!names[2].matches(b"session:00ff0"));
/// # Ok::<(), keyferry_files::KeyNameError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeyName {
    /// It matches this pattern of `KEYS` and `SCAN … MATCH`.
    Glob(KeyPattern),
    /// It begins with these bytes.
    Prefix(Vec<u8>),
    /// It ends with these bytes.
    Suffix(Vec<u8>),
    /// This expression of the crate `regex` is found in it, anywhere unless it is anchored by `^` and `$`. Keys are bytes: `(?-u)` before
    /// classes that are to match any byte.
    Regex(Regex),
}

/// A regular expression that is none, or is too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the regular expression \"{expression}\" cannot be used: {why}")]
pub struct KeyNameError {
    expression: String,
    why: String,
}

impl KeyName {
    /// Whether a key of this name is meant.
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Self::Glob(pattern) => pattern.matches(key),
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Suffix(suffix) => key.ends_with(suffix),
            Self::Regex(expression) => expression.is_match(key),
        }
    }

    /// What the same form says in bytes, as names of keys are: those need not be text.
    ///
    /// ```
    /// use keyferry_files::KeyName;
    ///
    /// assert!(KeyName::from_bytes(b"\xFF[\x80-\x9F]*")?.matches(b"\xFF\x81\0"));
    /// # Ok::<(), keyferry_files::KeyNameError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When a regular expression is none, is too large, or is no text: `(?-u)\xFF` in it stands for a byte.
    pub fn from_bytes(text: &[u8]) -> Result<Self, KeyNameError> {
        if let Some(prefix) = text.strip_prefix(b"prefix:") {
            return Ok(Self::Prefix(prefix.into()));
        }
        if let Some(suffix) = text.strip_prefix(b"suffix:") {
            return Ok(Self::Suffix(suffix.into()));
        }
        if let Some(expression) = text.strip_prefix(b"regex:") {
            let wrong = |why: String| KeyNameError {
                expression: String::from_utf8_lossy(expression).into_owned(),
                why: why.split_whitespace().collect::<Vec<_>>().join(" "),
            };
            let text = std::str::from_utf8(expression)
                .map_err(|error| wrong(format!("{error}; (?-u)\\xFF stands for a byte")))?;
            return Ok(Self::Regex(Regex::new(text).map_err(|error| wrong(error.to_string()))?));
        }
        let pattern = text.strip_prefix(b"glob:").unwrap_or(text);
        Ok(Self::Glob(KeyPattern::new(pattern)))
    }

    /// The word for its form, and what it is made of.
    fn parts(&self) -> (&'static str, &[u8]) {
        match self {
            Self::Glob(pattern) => ("glob", pattern.as_bytes()),
            Self::Prefix(prefix) => ("prefix", prefix),
            Self::Suffix(suffix) => ("suffix", suffix),
            Self::Regex(expression) => ("regex", expression.as_str().as_bytes()),
        }
    }
}

impl PartialEq for KeyName {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for KeyName {}

impl From<KeyPattern> for KeyName {
    fn from(pattern: KeyPattern) -> Self {
        Self::Glob(pattern)
    }
}

impl FromStr for KeyName {
    type Err = KeyNameError;

    fn from_str(text: &str) -> Result<Self, KeyNameError> {
        Self::from_bytes(text.as_bytes())
    }
}

/// `prefix:user:`; bytes that are no text escaped.
impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (form, what) = self.parts();
        write!(f, "{form}:{}", what.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_shown() {
        for (text, shown, yes, no) in [
            ("a*b", "glob:a*b", "axb", "axc"),
            ("glob:prefix:*", "glob:prefix:*", "prefix:1", "glob:prefix:1"),
            ("prefix:a*", "prefix:a*", "a*x", "ax"),
            ("suffix::tmp", "suffix::tmp", "x:tmp", "x:tmp2"),
            ("regex:^a.*z$", "regex:^a.*z$", "abz", "xabz"),
            ("regex:b", "regex:b", "abc", "acd"),
        ] {
            let name: KeyName = text.parse().unwrap();
            assert_eq!(name.to_string(), shown);
            assert!(name.matches(yes.as_bytes()) && !name.matches(no.as_bytes()), "{text}");
            assert_eq!(name, text.parse().unwrap());
        }
        assert!("regex:(?-u)^\\xff".parse::<KeyName>().unwrap().matches(b"\xff\x00"));
        assert_ne!("prefix:a".parse::<KeyName>(), "suffix:a".parse());
        for (name, yes, no) in [
            (&b"\xff?"[..], &b"\xff\xfe"[..], &b"\xfe\xfe"[..]),
            (b"prefix:\xff", b"\xff\xfe", b"\xfe\xff"),
            (b"suffix:\xff\0", b"a\xff\0", b"a\xff"),
        ] {
            let name = KeyName::from_bytes(name).unwrap();
            assert!(name.matches(yes) && !name.matches(no), "{name}");
        }
        assert!(KeyName::from_bytes(b"regex:\xff").unwrap_err().to_string().contains("stands for a byte"));
    }

    #[test]
    fn wrong_expressions_are_told_in_one_line() {
        let error = "regex:a(".parse::<KeyName>().unwrap_err().to_string();
        assert!(
            error.starts_with("the regular expression \"a(\" cannot be used: ") && !error.contains('\n'),
            "{error}"
        );
        // What would take too much memory is refused, too.
        assert!("regex:a{1000}{1000}{1000}".parse::<KeyName>().is_err());
    }
}
