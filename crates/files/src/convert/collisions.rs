//! Keys of several databases or inputs that would come together under one name.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;

/// Which database becomes which.
///
/// ```
/// use keyferry_files::DatabaseMap;
///
/// let mut map = DatabaseMap::default();
/// map.add("1=0".parse()?);
/// assert_eq!((map.target(1), map.target(5)), (0, 5));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseMap(Vec<DatabaseMove>);

/// One database that becomes another: `1=0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseMove {
    /// Its number in the input.
    pub from: u64,
    /// Its number in the output.
    pub to: u64,
}

impl FromStr for DatabaseMove {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not of the form FROM=TO, two database numbers");
        let (from, to) = text.split_once('=').ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse().map_err(|_| wrong());
        Ok(Self { from: number(from)?, to: number(to)? })
    }
}

impl DatabaseMap {
    /// Adds one; for a database that is mapped already it takes the place of what was said before.
    pub fn add(&mut self, step: DatabaseMove) {
        self.0.retain(|known| known.from != step.from);
        self.0.push(step);
    }

    /// What a database becomes.
    pub fn target(&self, db: u64) -> u64 {
        self.0.iter().find(|step| step.from == db).map_or(db, |step| step.to)
    }

    /// Whether every database stays what it is.
    pub fn is_identity(&self) -> bool {
        self.0.iter().all(|step| step.from == step.to)
    }

    /// Whether two databases may become one.
    pub(super) fn may_merge(&self) -> bool {
        self.0.iter().any(|step| {
            let others = self.0.iter().filter(|other| other.from != step.from);
            let stays = step.from != step.to && self.0.iter().all(|other| other.from != step.to);
            stays || others.into_iter().any(|other| other.to == step.to)
        })
    }
}

/// What to do with a key, or a function library, that was written already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnCollision {
    /// It is an error. All are told before it ends.
    #[default]
    Fail,
    /// The first one stays; the others are left out and counted.
    KeepFirst,
}

/// Which keys were written, as 16 bytes each. Two random hash functions of 64 bits tell them apart: nobody can prepare
/// keys that are taken for one another.
pub(super) struct Seen {
    hashers: [RandomState; 2],
    keys: HashSet<(u64, u64)>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { hashers: [RandomState::new(), RandomState::new()], keys: HashSet::new() }
    }

    /// Whether it was not there before.
    pub(super) fn insert(&mut self, db: u64, key: &[u8]) -> bool {
        let [a, b] = &self.hashers;
        self.keys.insert((a.hash_one((db, key)), b.hash_one((db, key))))
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// The libraries of functions that were written, by name.
#[derive(Debug, Default)]
pub(super) struct Libraries(HashMap<Vec<u8>, Vec<u8>>);

/// What is known of a library that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    New,
    /// It was written, with the same code.
    Same,
    /// It was written, with other code.
    Other,
}

impl Libraries {
    pub(super) fn insert(&mut self, code: &[u8]) -> Library {
        match self.0.get(library_name(code)) {
            Some(known) if known == code => Library::Same,
            Some(_) => Library::Other,
            None => {
                self.0.insert(library_name(code).to_vec(), code.to_vec());
                Library::New
            }
        }
    }
}

/// The name of a function library, from the first line of its code, `#!lua name=NAME`; of code without one, which servers
/// refuse, the whole line.
pub fn library_name(code: &[u8]) -> &[u8] {
    let line = code.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let words = line.split(u8::is_ascii_whitespace);
    words.filter_map(|word| word.strip_prefix(b"name=")).next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_merge_are_known() {
        let map = |moves: &[&str]| {
            let mut map = DatabaseMap::default();
            moves.iter().for_each(|step| map.add(step.parse().unwrap()));
            map
        };
        assert!(!map(&[]).may_merge() && map(&[]).is_identity());
        assert!(!map(&["1=1"]).may_merge() && map(&["1=1"]).is_identity());
        // Database 0 may have keys, too.
        assert!(map(&["1=0"]).may_merge());
        assert!(!map(&["1=0", "0=1"]).may_merge());
        assert!(map(&["1=5", "2=5"]).may_merge());
        assert_eq!(map(&["1=5", "1=6"]).target(1), 6);
        for wrong in ["", "1", "1=", "=1", "a=1", "1=-1"] {
            assert!(wrong.parse::<DatabaseMove>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_seen_is_known() {
        let mut seen = Seen::new();
        assert!(seen.insert(0, b"a") && seen.insert(1, b"a") && seen.insert(0, b"") && !seen.insert(0, b"a"));
        let mut libraries = Libraries::default();
        assert_eq!(libraries.insert(b"#!lua name=a\nx"), Library::New);
        assert_eq!(libraries.insert(b"#!lua  name=a \nx"), Library::Other);
        assert_eq!(libraries.insert(b"#!lua name=a\nx"), Library::Same);
        assert_eq!(library_name(b"#!js  api_version=1 name=b\r\n"), b"b");
        assert_eq!(library_name(b"nothing"), b"nothing");
    }
}
