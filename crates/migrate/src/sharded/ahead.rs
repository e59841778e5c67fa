//! What of a run of commands may go ahead of the transaction that it ends in.
//!
//! To a server a command in a transaction costs a third more than one that stands alone, and most writes need none: they may be
//! carried out again (see [`keyferry_routing::Replay`]). So a run for one server is divided. Blind writes go *ahead*, bare, while
//! the transaction before is still under way; the *rest* goes in a transaction with the position behind the whole run.
//!
//! **Takes** the commands of a stream in order. **Gives**, for each run, both parts. **Promises** that a command goes ahead only
//! if no command before it that touches one of its keys may still be waiting for its transaction: as the position at the
//! target says it, of all within [`WINDOW`] behind that. What goes ahead of a run is therefore the last that was done to its
//! keys, at every moment, and doing it again after a crash, in order, comes to the same. **Refuses** nothing: what it does
//! not know stays in the rest, and what comes behind it, too.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use bytes::{Bytes, BytesMut};
use keyferry_resp::{Command, CommandRef};
use keyferry_routing::{Arguments, CommandTable, Key};
use twox_hash::XxHash3_128;

/// Bytes of the stream behind the position at the target from which something may be carried out there already.
pub(crate) const WINDOW: u64 = 8 * 1024 * 1024;

/// Commands for which it is worth while to divide a run.
const LEAST: u32 = 32;

/// Keys that are remembered, before those are looked for that need not be.
const MANY: usize = 8192;

/// How an item's commands go out.
#[derive(Clone, Debug, Default)]
pub(crate) enum Part {
    /// All of them in one.
    #[default]
    Whole,
    /// Some of them ahead.
    Divided(Box<Ahead>),
    /// All of them in one, though they had been divided: nothing that comes behind may go ahead of it.
    Joined,
}

/// What goes ahead of the rest of an item.
#[derive(Clone, Debug)]
pub(crate) struct Ahead {
    pub(crate) bytes: Bytes,
    pub(crate) commands: u32,
    /// The item's commands in the order in which they came, and how many.
    pub(crate) whole: (Bytes, u32),
    pub(crate) stage: AheadStage,
}

/// How far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AheadStage {
    Waiting,
    UnderWay,
    Done,
}

/// Divides the runs of one link.
#[derive(Debug)]
pub(crate) struct Divider {
    window: u64,
    /// Commands for which it is worth while.
    least: u32,
    /// Keys, by their hash, that a transaction touches, and up to which offset that goes.
    busy: HashMap<u64, u64, BuildHasherDefault<AsItIs>>,
    /// The number of them from which on they are looked through.
    many: usize,
    /// Up to this offset there is something that may touch any key.
    everything: u64,
    /// Hashes of the keys that the rest of the present run touches, and of those that what goes ahead touches.
    rest_keys: Vec<u64>,
    ahead_keys: Vec<u64>,
    rest: Commands,
    ahead: Commands,
    keys: Vec<Key>,
}

/// A divided run: what goes ahead, and the rest.
#[derive(Debug)]
pub(crate) struct Divided {
    pub(crate) ahead: Commands,
    pub(crate) rest: Commands,
}

#[derive(Debug, Default)]
pub(crate) struct Commands {
    pub(crate) bytes: BytesMut,
    pub(crate) count: u32,
}

/// What are hashes need not be hashed again.
#[derive(Debug, Default)]
struct AsItIs(u64);

/// The offset behind something whose end is not known yet.
const OPEN: u64 = u64::MAX;

impl Divider {
    pub(crate) fn new() -> Self {
        Self::with(WINDOW, LEAST)
    }

    pub(super) fn with(window: u64, least: u32) -> Self {
        Divider {
            window,
            least,
            busy: HashMap::default(),
            many: MANY,
            everything: 0,
            rest_keys: Vec::new(),
            ahead_keys: Vec::new(),
            rest: Commands::default(),
            ahead: Commands::default(),
            keys: Vec::new(),
        }
    }

    /// Takes the next command of a run, which ends at this offset; `raw` is how it goes over the wire.
    pub(crate) fn take(&mut self, table: &CommandTable, command: &CommandRef<'_>, raw: &[u8], end: u64) {
        let known = self.look(table, command);
        let may_go_ahead = known && !self.keys.is_empty() && table.is_blind_write(command);
        if may_go_ahead && !self.is_busy(command, end) {
            self.ahead.add(raw);
            let hashes = self.keys.iter().filter_map(|key| hash(command, *key));
            self.ahead_keys.extend(hashes);
        } else {
            self.rest.add(raw);
            self.note_keys(command, known);
        }
    }

    /// The present run, or what [`Divider::note`] was told of, ends here. What it comes to, if it was divided.
    pub(crate) fn end(&mut self, end: u64) -> Option<Divided> {
        let divided = self.ahead.count >= self.least;
        if !divided {
            self.rest_keys.append(&mut self.ahead_keys);
        }
        self.ahead_keys.clear();
        for hash in self.rest_keys.drain(..) {
            self.busy.insert(hash, end);
        }
        if self.everything == OPEN {
            self.everything = end;
        }
        if self.busy.len() > self.many {
            let before = end.saturating_sub(self.window);
            self.busy.retain(|_, at| *at > before);
            self.many = MANY.max(2 * self.busy.len());
        }
        let (ahead, rest) = (std::mem::take(&mut self.ahead), std::mem::take(&mut self.rest));
        divided.then_some(Divided { ahead, rest })
    }

    /// A command that goes in a transaction of its own kind; [`Divider::end`] tells where that ends.
    pub(crate) fn note(&mut self, table: &CommandTable, command: &Command) {
        let command = command.as_ref();
        let known = self.look(table, &command);
        self.note_keys(&command, known);
    }

    /// Finds the keys of a command. False when it may touch others than it names.
    fn look(&mut self, table: &CommandTable, command: &CommandRef<'_>) -> bool {
        match table.keys(command, &mut self.keys) {
            Ok(spec) => !matches!(
                spec.name(),
                "sort" | "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro"
            ),
            Err(_) => false,
        }
    }

    fn note_keys(&mut self, command: &CommandRef<'_>, known: bool) {
        let says_something = command.is("PUBLISH") || command.is("SPUBLISH");
        if !known || (self.keys.is_empty() && !says_something) {
            self.everything = OPEN;
        }
        for key in &self.keys {
            let Some(hash) = hash(command, *key) else { continue };
            self.busy.insert(hash, OPEN);
            self.rest_keys.push(hash);
        }
    }

    /// True when something before it that touches one of its keys may be waiting.
    fn is_busy(&self, command: &CommandRef<'_>, end: u64) -> bool {
        let before = end.saturating_sub(self.window);
        if self.everything > before {
            return true;
        }
        let is_busy = |key: &Key| {
            hash(command, *key).is_none_or(|hash| self.busy.get(&hash).is_some_and(|&at| at > before))
        };
        self.keys.iter().any(is_busy)
    }
}

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = XxHash3_128::oneshot(bytes) as u64;
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Commands {
    fn add(&mut self, raw: &[u8]) {
        self.bytes.extend_from_slice(raw);
        self.count += 1;
    }
}

fn hash(command: &CommandRef<'_>, key: Key) -> Option<u64> {
    // A part of it will do: keys with the same one are taken for one.
    command.argument(key.index).map(|key| XxHash3_128::oneshot(key) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes ahead of each run, and how many commands the rest has; runs end with `|`.
    fn divide(divider: &mut Divider, at: &mut u64, text: &str) -> Vec<(Vec<String>, u32)> {
        let table = CommandTable::builtin();
        let mut found = Vec::new();
        for run in text.split('|') {
            for line in run.split(';').map(str::trim).filter(|line| !line.is_empty()) {
                let words: Vec<&str> = line.split(' ').collect();
                let command = Command::new(words.clone());
                *at += 1;
                if line.starts_with("MULTI ") {
                    divider.note(table, &Command::new(words[1..].to_vec()));
                } else {
                    divider.take(table, &command.as_ref(), command.raw(), *at);
                }
            }
            let ahead = match divider.end(*at) {
                None => (Vec::new(), u32::MAX),
                Some(divided) => {
                    let mut decoder = keyferry_resp::CommandDecoder::new();
                    let mut bytes = divided.ahead.bytes;
                    let mut ahead = Vec::new();
                    while let Some(command) = decoder.decode(&mut bytes).unwrap() {
                        let words: Vec<_> = command.args().map(String::from_utf8_lossy).collect();
                        ahead.push(words.join(" "));
                    }
                    (ahead, divided.rest.count)
                }
            };
            found.push(ahead);
        }
        found
    }

    fn ahead(text: &str) -> Vec<String> {
        let found = divide(&mut Divider::with(10, 1), &mut 0, text);
        found.into_iter().flat_map(|(ahead, _)| ahead).collect()
    }

    #[test]
    fn blind_writes_go_ahead_of_what_does_not_touch_their_keys() {
        assert_eq!(ahead("SET a 1; INCR n; SET b 2; INCR m"), ["SET a 1", "SET b 2"]);
        // Before a command of the same key it may go, behind it not; nor what goes along with that.
        assert_eq!(ahead("SET n 1; INCR n; SET n 2; DEL n b; SET b 1; SET c 1"), ["SET n 1", "SET c 1"]);
        // Nothing is known of what these touch.
        for all in ["EVAL x 0", "SORT l BY w* STORE d", "FLUSHALL", "SWAPDB 0 1", "WHAT a"] {
            assert_eq!(ahead(&format!("SET a 1; {all}; SET b 1")), ["SET a 1"], "{all}");
        }
        assert_eq!(ahead("SET a 1; PUBLISH c m; SET b 1"), ["SET a 1", "SET b 1"]);
    }

    #[test]
    fn keys_are_free_again_when_the_position_is_far_enough() {
        let (mut divider, mut at) = (Divider::with(10, 1), 0);
        let mut divide = |text: &str| divide(&mut divider, &mut at, text);
        // The transaction ends at 2: what ends at 12 goes out when it is done.
        assert_eq!(divide("INCR n; INCR x | SET n 1; SET a 1")[1], (vec!["SET a 1".to_owned()], 1));
        divide("INCR x; INCR x; INCR x; INCR x; INCR x; INCR x; INCR x");
        // `SET n 1` stayed in a transaction that ends at 4.
        assert_eq!(divide("INCR x; SET n 3")[0].1, u32::MAX);
        divide("INCR x; INCR x; INCR x; INCR x; INCR x; INCR x; INCR x; INCR x");
        assert_eq!(divide("SET n 4; SET b 1")[0], (vec!["SET b 1".to_owned()], 1));
        divide("INCR x; INCR x; INCR x; INCR x; INCR x; INCR x; INCR x; INCR x; INCR x");
        assert_eq!(divide("SET n 5; SET n 6")[0].1, 0);
    }

    #[test]
    fn what_is_not_divided_keeps_its_keys() {
        let (mut divider, mut at) = (Divider::with(100, 2), 0);
        assert_eq!(divide(&mut divider, &mut at, "SET a 1; INCR n")[0].1, u32::MAX);
        let found = divide(&mut divider, &mut at, "SET a 2; SET b 1; SET c 1");
        assert_eq!(found[0].0, ["SET b 1", "SET c 1"]);
        // Nor do those of transactions of the source pass unseen.
        let found = divide(&mut divider, &mut at, "MULTI SET b 5 | SET b 2; SET d 1; SET e 1");
        assert_eq!(found[1].0, ["SET d 1", "SET e 1"]);
    }
}
