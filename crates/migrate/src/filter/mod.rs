//! Which keys and commands go over, and under which names.
//!
//! A [`Filter`] **takes** entries of snapshots ([`Filter::entry`]) and commands of streams ([`Filter::command`]) and **gives** what
//! becomes of each: it goes as it is, not at all, as something else, or nobody can tell, which is an error with a reason.
//! It is a value without I/O, clock or runtime, good for any source and target.
//!
//! **Promises** that the outcome is that of a naive filter: a target that gets the filtered snapshot and then the filtered stream
//! holds those keys of the source that the rules let through, with the values that they have there. Where that cannot be, it
//! refuses, or the counts say so. What it does to a command depends on the command alone (one exception below), so that a stream
//! may be filtered again from any point.
//!
//! # Rules
//!
//! The first rule that matches a key decides, [`Settings::otherwise`] where none does. A rule about commands matches in the
//! stream only; it leaves a command out as a whole for any of its keys, but of those that are the sum of their parts (`DEL`) only
//! these keys. Commands without keys (`PUBLISH`, `SCRIPT LOAD`) go over unless a rule about commands leaves them out.
//!
//! - **Several keys.** `DEL`, `UNLINK`, `MSET`, `MSETNX` and `MSETEX` go on with the keys that are in. What is moved from a key
//!   that is in to one that is out goes as what it is to the first (`RENAME` as `DEL`, `LMOVE` as `LPOP`, `SMOVE` as `SREM`). What
//!   writes to keys that are out only, is left out. What puts something that is out into a key that is in
//!   (`SUNIONSTORE kept left-out`) is refused, as the target cannot know the value; [`Operands::Report`] lets
//!   the key lack it, and counts that. `SMOVE` tells what it moves, and goes as `SADD`.
//! - **`FLUSHALL` and `FLUSHDB`** become [`Verdict::Empty`]: remove what is the migration's ([`Filter::owns`]), nothing else.
//!   `SWAPDB` goes over where the rules treat both databases alike.
//! - **Types** are told by most commands themselves: what works on lists is about a list. What overwrites a key with a value
//!   that is out removes it. `DEL`, `EXPIRE` and their like go over, as they do nothing where the key is not. `RENAME`
//!   and `COPY` become `DEL`, `COPY`, `DEL` (6.2), which does nothing where the source is not.
//! - **Size, expiry, idle time** are told by the snapshot only. A key that is left out of it by these stays out, under this name,
//!   for good; what is new since is in. This is the exception: the names are remembered (16 bytes each), and who filters a
//!   stream from a point in the middle has to filter the snapshot first.
//!
//! # Names
//!
//! Expiries change where they are set ([`TtlRule`]).
//!
//! # Values
//!
//! Those that a [`MaskRule`] is about never go over as they are: in a snapshot the whole value is masked ([`Taken::masked`]), in the
//! stream each argument that is a value. Commands whose effect cannot be told then are refused (`APPEND`), or
//! left out and told ([`Settings::masked_parts`]). Names of keys and fields, scores, messages and code of scripts are no values.
//!
//! A renaming is refused where it may make one key of two that are both in, and where it changes hash tags, unless
//! [`Settings`] say that this is right. Rules look at the names of the source.
//!
//! ```
//! use keyferry_migrate::filter::{Counts, Effect, Filter, Moment, Rule, Settings, Verdict};
//! use keyferry_routing::CommandTable;
//!
//! let mut users = Rule::include();
//! users.keys.keys.push("user:*".parse()?);
//! let mut settings = Settings::default();
//! settings.rules.push(users);
//! settings.otherwise = Effect::Exclude;
//! settings.renames.push("add-prefix:old:".parse()?);
//! let filter = Filter::new(settings)?;
//!
//! let mut counts = Counts::default();
//! let verdict = filter.command(CommandTable::builtin(), &["DEL", "user:1", "tmp:1"], Moment { db: 0, clock: 0 }, &mut counts);
//! let Verdict::Replace(commands) = verdict else { panic!() };
//! assert_eq!(commands[0].raw(), "*2\r\n$3\r\nDEL\r\n$10\r\nold:user:1\r\n");
//! assert_eq!(filter.lines(&counts)[0].what, "keys left out of commands that name others, too");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod counts;
mod decide;
mod entry;
mod kept;
mod left_out;
mod mask;
#[cfg(test)]
mod model;
mod refusal;
mod rename;
mod rule;
mod several;
mod ttl;

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};

pub use self::{
    command::{Moment, Verdict},
    counts::{Counts, FilterLine},
    entry::{Entry, Taken},
    mask::{Mask, MaskRule, Masking, Part, SaltError, Secret},
    refusal::Refusal,
    rename::Rename,
    rule::{Commands, CommandsError, Effect, Rule},
    ttl::{Ttl, TtlRule},
};
use self::{counts::By, left_out::LeftOutKeys, rename::Renames};
pub(crate) use self::{
    kept::Kept,
    mask::{KeyMask, value::MaskedValue},
};
use crate::existing::KeyTally;

/// What a filter is made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The rules, of which the first that matches decides.
    pub rules: Vec<Rule>,
    /// What becomes of keys that no rule matches. Default: they go over.
    pub otherwise: Effect,
    /// New names for keys: the first that applies to a name changes it.
    pub renames: Vec<Rename>,
    /// Other expiries for keys: the first that is about a key, by its name at the source, decides.
    pub ttls: Vec<TtlRule>,
    /// Values that others take the place of.
    pub masks: Vec<MaskRule>,
    /// What becomes of commands whose effect on a masked value cannot be told, and of values that cannot be masked.
    pub masked_parts: Operands,
    /// What becomes of commands that put into a key that is in what comes from one that is out.
    pub operands: Operands,
    /// What becomes of a key whose new name another key may get, too.
    pub collisions: Doubt,
    /// What becomes of a key whose new name has another hash tag.
    pub tags: Doubt,
    /// Most keys that are remembered as left out by size, expiry or idle time. Default: 16 million, some 400 MiB.
    pub most_left_out: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            rules: Vec::new(),
            otherwise: Effect::Include,
            renames: Vec::new(),
            ttls: Vec::new(),
            masks: Vec::new(),
            masked_parts: Operands::Refuse,
            operands: Operands::Refuse,
            collisions: Doubt::Refuse,
            tags: Doubt::Refuse,
            most_left_out: 16 << 20,
        }
    }
}

/// What becomes of a command that puts into a key that is in what comes from one that is out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    /// It is refused.
    #[default]
    Refuse,
    /// The key lacks it: what the command overwrites is removed, what it would add is not added. Counted.
    Report,
}

/// What becomes of a key whose new name may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doubt {
    /// It is refused.
    #[default]
    Refuse,
    /// It gets the name. Counted.
    Allow,
}

/// Settings that make no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A renaming changes nothing.
    #[error("the renaming {0} changes nothing")]
    EmptyRename(String),
    /// A renaming makes one key of two, whatever the keys are.
    #[error(
        "the renaming makes \"{0}\" of both \"{1}\" and \"{2}\", which the rules let through: leave one of them out, or choose \
         that the later one wins (--name-collisions allow)"
    )]
    Collision(String, String, String),
}

/// Which keys and commands go over, and under which names.
#[derive(Debug)]
pub struct Filter {
    settings: Settings,
    renames: Renames,
    /// A rule looks at the types of values.
    looks_at_kinds: bool,
    /// A rule looks at what else values are like.
    looks_at_values: bool,
    /// Not all keys are in.
    chooses_keys: bool,
    left_out: LeftOutKeys,
    /// Keys that are left to the target whatever the rules say, once they are known.
    left_to_target: OnceLock<Kept>,
    tally: Mutex<Counts>,
}

impl Filter {
    /// A filter of these settings.
    ///
    /// # Errors
    /// When they make no sense.
    pub fn new(settings: Settings) -> Result<Self, Invalid> {
        if let Some(empty) = settings.renames.iter().find(|rename| rename.is_empty()) {
            return Err(Invalid::EmptyRename(empty.to_string()));
        }
        let about_keys = || settings.rules.iter().filter(|rule| rule.commands.is_none());
        let all_in =
            settings.otherwise == Effect::Include && about_keys().all(|rule| rule.effect == Effect::Include);
        let filter = Filter {
            looks_at_kinds: settings.rules.iter().any(|rule| !rule.keys.kinds.is_empty()),
            looks_at_values: settings.rules.iter().any(|rule| !rule.keys.value.is_empty()),
            chooses_keys: !all_in,
            renames: Renames(settings.renames.clone()),
            left_out: LeftOutKeys::new(settings.most_left_out),
            left_to_target: OnceLock::new(),
            tally: Mutex::default(),
            settings,
        };
        filter.check_renames()?;
        Ok(filter)
    }

    /// Whether everything goes over as it is.
    pub fn is_everything(&self) -> bool {
        let changes = !self.renames.is_empty() || !self.settings.ttls.is_empty() || self.masks();
        self.settings.rules.is_empty() && !self.chooses_keys() && !changes
    }

    /// Whether keys may get other names.
    pub fn renames(&self) -> bool {
        !self.renames.is_empty()
    }

    /// Whether a rule looks at the size, the expiry or the idle time of values, so that what is to become of a command depends on
    /// the snapshot before it.
    pub fn looks_at_values(&self) -> bool {
        self.looks_at_values
    }

    /// The largest size in bytes that a rule tells from larger ones; none if no rule looks at sizes.
    pub fn largest_size(&self) -> Option<u64> {
        let bounds = self.settings.rules.iter().filter_map(|rule| rule.keys.value.size.as_ref());
        // An open range ends nowhere.
        bounds.flat_map(|sizes| [*sizes.start(), *sizes.end()]).filter(|&size| size < u64::MAX).max()
    }

    /// Whether a key at the target is there because of the migration, as far as its name tells: whether the source may have a key
    /// that gets this name there. `db` is the source's database.
    pub fn owns(&self, db: u64, name: &[u8]) -> bool {
        self.renames.sources(name).iter().any(|source| self.may_be_there(db, source))
    }

    /// Whether a key of the source may be in, as far as its name tells.
    pub fn may_take(&self, db: u64, key: &[u8]) -> bool {
        self.may_be_there(db, key)
    }

    /// Whether all keys of a database are in and keep their names.
    pub fn owns_all(&self, db: u64) -> bool {
        self.renames.is_empty() && self.of_database(None, db) == decide::Decision::In
    }

    /// Whether no key of a database is in.
    pub fn leaves_out_all(&self, db: u64) -> bool {
        self.of_database(None, db).is_out()
    }

    /// All settings in a fixed order, a line each: two filters with the same text do the same.
    pub fn describe(&self) -> String {
        let Settings { rules, otherwise, renames, ttls, masks, masked_parts, .. } = &self.settings;
        let Settings { operands, collisions, tags, .. } = &self.settings;
        let mut text = String::new();
        for rule in rules {
            let _ = writeln!(text, "{rule}");
        }
        let _ =
            writeln!(text, "otherwise {}", if *otherwise == Effect::Include { "include" } else { "exclude" });
        for rename in renames {
            let _ = writeln!(text, "rename {rename}");
        }
        for ttl in ttls {
            let _ = writeln!(text, "expiry {ttl}");
        }
        for mask in masks {
            let _ = writeln!(text, "mask {mask}");
        }
        if !masks.is_empty() {
            let _ = writeln!(text, "masked parts {masked_parts:?}");
        }
        let _ = writeln!(text, "operands {operands:?} collisions {collisions:?} tags {tags:?}");
        text
    }

    /// A short name for what the filter does: the same for filters that do the same, in every release. Two of the same name with
    /// different settings are not to be expected.
    pub fn fingerprint(&self) -> String {
        format!("{:032x}", twox_hash::XxHash3_128::oneshot(self.describe().as_bytes()))
    }

    /// What the counts say, with the rules as they were written.
    pub fn lines(&self, counts: &Counts) -> Vec<FilterLine> {
        counts.lines(|by| self.name_of(by))
    }

    /// Adds counts to those that the filter keeps for all who use it, and begins them anew.
    pub fn tally(&self, counts: &mut Counts) {
        if !counts.is_empty() {
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).add(&std::mem::take(counts));
        }
    }

    /// How many keys of snapshots were left to the target, as it has had them before.
    pub(crate) fn kept(&self) -> KeyTally {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, samples) = tally.of(By::Kept, counts::What::KeyLeftOut);
        KeyTally { count, samples, ..KeyTally::default() }
    }

    /// What those counts say.
    pub fn tallied(&self) -> Vec<FilterLine> {
        self.lines(&self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn name_of(&self, by: By) -> String {
        let named = |name: Option<String>| name.unwrap_or_default();
        match by {
            By::Rule(at) => named(self.settings.rules.get(at).map(ToString::to_string)),
            By::Otherwise => "no rule matches".to_owned(),
            By::Kept => "the target has had it before (--on-exists)".to_owned(),
            By::Remembered => "left out of the snapshot by what its value was like".to_owned(),
            By::Ttl(at) => named(self.settings.ttls.get(at).map(|ttl| format!("expiry {ttl}"))),
            By::Mask(at) => named(self.settings.masks.get(at).map(|mask| format!("mask {mask}"))),
            By::Rename(at) => named(self.settings.renames.get(at).map(|rename| format!("rename {rename}"))),
        }
    }

    /// Refuses renamings by which names meet that are likely to be there: what the user meant to be told before anything is
    /// written. Each key is looked at all the same when it comes.
    fn check_renames(&self) -> Result<(), Invalid> {
        if self.settings.collisions == Doubt::Allow {
            return Ok(());
        }
        for rename in &self.settings.renames {
            let (before, after): (&[u8], &[u8]) = match rename {
                Rename::StripPrefix(prefix) | Rename::ReplacePrefix(prefix, _) => (prefix, b""),
                Rename::StripSuffix(suffix) => (b"", suffix),
                _ => continue,
            };
            for middle in [&b"1"[..], b"a", b"user:1"] {
                let key = [before, middle, after].concat();
                if !self.may_be_there(0, &key) {
                    continue;
                }
                let (name, _) = self.renames.apply(&key);
                let mut others = self.renames.sources(&name).into_iter();
                if let Some(other) = others.find(|other| *other != key && self.may_be_there(0, other)) {
                    let shown = counts::shown;
                    return Err(Invalid::Collision(shown(&name), shown(&key), shown(&other)));
                }
            }
        }
        Ok(())
    }
}
