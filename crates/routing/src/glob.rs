use std::fmt;
use std::str::FromStr;

/// How many runs of `*` a server follows before it says no.
const MAX_STARS: usize = 1000;

/// A glob-style pattern of key names, as in `KEYS` and `SCAN … MATCH`.
///
/// Patterns and keys are bytes. `*` stands for any bytes, `?` for one; `[abc]`, `[a-z]` and `[^abc]` for one of a class or
/// of its complement; a backslash takes the next byte literally, in a class, too. What servers do with odd patterns is done
/// here as well: a class that is not closed ends with the pattern, bounds of a range may be swapped and may be `]`, a range
/// from a byte above 127 to one below goes through 0 (as on x86; servers on ARM see the bytes between instead), a
/// backslash at the end stands for itself, `**` does not match the empty key though `*` does, and a pattern with more
/// than 1000 runs of stars matches nothing that goes beyond them (servers do that since CVE-2024-31228 was closed; older
/// ones go on).
///
/// Matching takes no memory, and time in proportion to the lengths of pattern and key multiplied, at worst.
///
/// ```
/// use keyferry_routing::KeyPattern;
///
/// let pattern = KeyPattern::new(b"user:[0-9]*:name");
/// assert!(pattern.matches(b"user:42:name"));
/// assert!(!pattern.matches(b"user:x:name"));
/// assert!(KeyPattern::new(b"\\*\xFF?").matches(b"*\xFF\x00"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPattern {
    source: Box<[u8]>,
    /// What stands before the first star.
    head: Box<[Token]>,
    /// What follows each run of stars; no stars means that the head is all there is.
    tails: Box<[Box<[Token]>]>,
}

/// What stands for exactly one byte.
#[derive(Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    /// Bit `b` of the whole tells whether byte `b` belongs.
    Class(Box<[u64; 4]>),
}

impl Token {
    fn matches(&self, byte: u8) -> bool {
        match self {
            Self::Byte(wanted) => *wanted == byte,
            Self::Any => true,
            Self::Class(bits) => bits[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1,
        }
    }
}

impl KeyPattern {
    /// Reads a pattern. Every sequence of bytes is one.
    pub fn new(pattern: &[u8]) -> Self {
        let mut runs = vec![Vec::new()];
        let mut rest = pattern;
        while let Some((&first, after)) = rest.split_first() {
            let (token, after) = match (first, after) {
                (b'*', _) => {
                    let stars = rest.iter().take_while(|byte| **byte == b'*').count();
                    rest = &rest[stars..];
                    runs.push(Vec::new());
                    continue;
                }
                (b'?', _) => (Token::Any, after),
                (b'[', _) => class(after),
                (b'\\', [literal, after @ ..]) => (Token::Byte(*literal), after),
                _ => (Token::Byte(first), after),
            };
            if let Some(run) = runs.last_mut() {
                run.push(token);
            }
            rest = after;
        }
        let mut runs = runs.into_iter().map(Vec::into_boxed_slice);
        Self { source: pattern.into(), head: runs.next().unwrap_or_default(), tails: runs.collect() }
    }

    /// The pattern itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.source
    }

    /// Whether a key of this name matches.
    pub fn matches(&self, key: &[u8]) -> bool {
        if key.is_empty() {
            // Servers take a lone star for "every key", and look at nothing else of an empty name.
            return self.source.is_empty() || *self.source == *b"*";
        }
        let Some((here, mut rest)) = key.split_at_checked(self.head.len()) else { return false };
        if !all_match(&self.head, here) {
            return false;
        }
        let Some((last, middle)) = self.tails.split_last() else { return rest.is_empty() };
        if middle.len() >= MAX_STARS && !(middle.len() == MAX_STARS && last.is_empty()) {
            return false;
        }
        // The first place where a run fits is as good as any: whatever follows may start after it.
        for run in middle {
            match rest.windows(run.len()).position(|here| all_match(run, here)) {
                Some(at) => rest = &rest[at + run.len()..],
                None => return false,
            }
        }
        rest.len().checked_sub(last.len()).is_some_and(|at| all_match(last, &rest[at..]))
    }
}

/// Both are of one length.
fn all_match(tokens: &[Token], bytes: &[u8]) -> bool {
    tokens.iter().zip(bytes).all(|(token, byte)| token.matches(*byte))
}

/// Reads a class behind its `[`; gives what follows it.
fn class(mut rest: &[u8]) -> (Token, &[u8]) {
    let mut bits = [0u64; 4];
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut add = |from: u8, to: u8| {
        // As the servers' compilers have it on x86: a byte above 127 is a negative number.
        let (from, to) = (from.cast_signed(), to.cast_signed());
        for byte in from.min(to)..=from.max(to) {
            let byte = byte.cast_unsigned();
            bits[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    };
    loop {
        rest = match rest {
            [b'\\', literal, after @ ..] => {
                add(*literal, *literal);
                after
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [from, b'-', to, after @ ..] => {
                add(*from, *to);
                after
            }
            [byte, after @ ..] => {
                add(*byte, *byte);
                after
            }
            [] => break,
        };
    }
    if negated {
        bits = bits.map(|word| !word);
    }
    (Token::Class(Box::new(bits)), rest)
}

/// Every text is a pattern.
impl FromStr for KeyPattern {
    type Err = std::convert::Infallible;

    fn from_str(pattern: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(pattern.as_bytes()))
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source.escape_ascii(), f)
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPattern(\"{self}\")")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &[u8], key: &[u8]) -> bool {
        KeyPattern::new(pattern).matches(key)
    }

    #[test]
    fn odd_patterns() {
        for (pattern, key, expected) in [
            (&b""[..], &b""[..], true),
            (b"*", b"", true),
            (b"**", b"", false),
            (b"a*", b"a", true),
            (b"a**", b"a", true),
            (b"*a", b"ba", true),
            (b"a*b", b"a", false),
            (b"*ab*ab", b"abab", true),
            (b"*ab*ab", b"aab", false),
            (b"[", b"a", false),
            (b"[^", b"a", true),
            (b"[^]", b"]", true),
            (b"[]", b"]", false),
            (b"[abc", b"c", true),
            (b"[abc", b"d", false),
            (b"[z-a]", b"m", true),
            (b"[a-]", b"]", true),
            (b"[a-]", b"-", false),
            (b"[a\\-z]", b"b", false),
            (b"[a\\-z]", b"-", true),
            (b"[\\]]", b"]", true),
            (b"\\", b"\\", true),
            (b"a\\", b"a\\", true),
            (b"\\*", b"x", false),
            (b"[\x80-\xFF]", b"\xC3", true),
            (b"[\xFF-a]", b"*", true),
            (b"[\xFF-a]", b"\xC3", false),
        ] {
            assert_eq!(
                matches(pattern, key),
                expected,
                "{} and {}",
                pattern.escape_ascii(),
                key.escape_ascii()
            );
        }
    }

    #[test]
    fn a_thousand_stars_are_followed() {
        let key = b"a".repeat(1100);
        assert!(matches(&b"*a".repeat(1000), &key));
        assert!(!matches(&b"*a".repeat(1001), &key));
        assert!(matches(&[&b"*a".repeat(1000)[..], b"*"].concat(), &key));
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let start = Instant::now();
        let key = b"a".repeat(20_000);
        assert!(!matches(&[&b"a*".repeat(900)[..], b"b"].concat(), &key));
        assert!(!matches(&[b"*", &b"a".repeat(2000)[..], b"b*"].concat(), &key));
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    /// The rule with a choice at every star, for short input.
    fn spelled_out(tokens: &[Option<Token>], key: &[u8]) -> bool {
        match (tokens.split_first(), key.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((None, after)), rest) => {
                spelled_out(after, key) || rest.is_some_and(|(_, rest)| spelled_out(tokens, rest))
            }
            (Some((Some(token), after)), Some((byte, rest))) => {
                token.matches(*byte) && spelled_out(after, rest)
            }
            (Some((Some(_), _)), None) => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_rule(
            pattern in prop::collection::vec(prop::sample::select(b"**?ab".to_vec()), 0..10),
            key in prop::collection::vec(prop::sample::select(b"abc".to_vec()), 1..12),
        ) {
            let tokens: Vec<_> = pattern
                .iter()
                .map(|byte| match byte {
                    b'*' => None,
                    b'?' => Some(Token::Any),
                    byte => Some(Token::Byte(*byte)),
                })
                .collect();
            prop_assert_eq!(matches(&pattern, &key), spelled_out(&tokens, &key));
        }

        #[test]
        fn any_bytes_are_a_pattern(pattern: Vec<u8>, key: Vec<u8>) {
            matches(&pattern, &key);
            let literal: Vec<u8> = key.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&literal, &key));
        }
    }
}
