//! Commands that the target of a migration refused: see [`crate::dead_letters`].
//!
//! A migration that is killed after it has written a letter and before the target has the position behind it comes by the
//! same command once more, and writes it once more. Both are of one history and offset and hold the same, but were written by
//! different runs. Such a letter is executed once.

use std::collections::{HashMap, hash_map::Entry};

use twox_hash::XxHash3_128;

/// What the lines before a letter say of it.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    /// Of the letter that comes next.
    head: Head,
    /// Letters so far, each with who wrote it.
    seen: HashMap<u128, u128>,
}

#[derive(Debug, Default)]
struct Head {
    /// It is one.
    begun: bool,
    link: Vec<u8>,
    id: Option<Vec<u8>>,
    offset: Option<Vec<u8>>,
    run: Option<u128>,
}

/// What a letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A command as any other.
    NoLetter,
    /// A letter to be executed.
    Letter,
    /// One that stands there already.
    Repeated,
}

impl Letters {
    /// Takes a line; true when it says something of a letter.
    pub(crate) fn annotation(&mut self, line: &[u8]) -> bool {
        let value = |name: &[u8]| line.strip_prefix(name).map(<[u8]>::to_vec);
        if let Some(run) = value(b"#RUN:") {
            self.head = Head { begun: true, run: Some(XxHash3_128::oneshot(&run)), ..Head::default() };
        } else if let Some(id) = value(b"#ID:") {
            self.head.id = Some(id);
        } else if let Some(offset) = value(b"#OFFSET:") {
            self.head.offset = Some(offset);
        } else if let Some(link) = value(b"#LINK:") {
            (self.head.begun, self.head.link) = (true, link);
        } else {
            return line.starts_with(b"#ERROR:");
        }
        true
    }

    /// Takes a command that is no `SELECT`.
    pub(crate) fn command(&mut self, db: u64, raw: &[u8]) -> Found {
        let Head { begun, link, id, offset, run } = std::mem::take(&mut self.head);
        if !begun {
            return Found::NoLetter;
        }
        // Keys of a snapshot replace what is there, and letters of before say too little.
        let (Some(id), Some(offset), Some(run)) = (id, offset, run) else { return Found::Letter };
        let db = db.to_be_bytes();
        let parts: [&[u8]; 5] = [&link, &id, &offset, &db, raw];
        let mut hasher = XxHash3_128::new();
        for part in parts {
            hasher.write(&(part.len() as u64).to_be_bytes());
            hasher.write(part);
        }
        match self.seen.entry(hasher.finish_128()) {
            Entry::Occupied(by) if *by.get() != run => Found::Repeated,
            Entry::Occupied(_) => Found::Letter,
            Entry::Vacant(entry) => {
                entry.insert(run);
                Found::Letter
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(letters: &mut Letters, run: &str, offset: Option<u64>, raw: &str) -> Found {
        assert!(letters.annotation(format!("#RUN:{run}").as_bytes()));
        if let Some(offset) = offset {
            assert!(letters.annotation(b"#ID:3ad1e7ef023c242514c0b05e48e4ee884551c793"));
            assert!(letters.annotation(format!("#OFFSET:{offset}").as_bytes()));
        }
        assert!(letters.annotation(b"#LINK:0") && letters.annotation(b"#ERROR:WRONGTYPE"));
        letters.command(0, raw.as_bytes())
    }

    #[test]
    fn what_a_second_run_wrote_once_more_is_told() {
        let mut letters = Letters::default();
        assert_eq!(letters.command(0, b"INCR n"), Found::NoLetter);
        assert_eq!(letter(&mut letters, "a", Some(7), "RPUSH l x"), Found::Letter);
        // The same run means it twice: a transaction may push one thing twice.
        assert_eq!(letter(&mut letters, "a", Some(7), "RPUSH l x"), Found::Letter);
        assert_eq!(letter(&mut letters, "b", Some(7), "RPUSH l x"), Found::Repeated);
        assert_eq!(letter(&mut letters, "b", Some(7), "RPUSH l y"), Found::Letter);
        assert_eq!(letter(&mut letters, "b", Some(8), "RPUSH l x"), Found::Letter);
        for run in ["a", "b"] {
            assert_eq!(letter(&mut letters, run, None, "RESTORE k"), Found::Letter);
        }
        assert_eq!(letters.command(0, b"RPUSH l x"), Found::NoLetter);
        assert!(!letters.annotation(b"#TS:5") && !letters.annotation(b"#anything"));
    }
}
