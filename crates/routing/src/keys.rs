use crate::args::{Arguments, at, is_word};
use crate::error::KeysError;
use crate::meaning::KeyRule;
use crate::table::{Access, Begin, CommandFlags, CommandSpec, CommandTable, Find};

/// Where a key of a command is, and what the command does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Key {
    /// The number of the argument; 0 is the name of the command.
    pub index: usize,
    /// What the command does to the key.
    pub access: Access,
}

impl CommandTable {
    /// Finds the keys of a command, and gives what is known of the command. `keys` is cleared first; keep it for the next call.
    ///
    /// The keys are those of `COMMAND GETKEYSANDFLAGS`, in its order: that of the key specifications, destinations first.
    /// Sharded channels are no keys and are left out.
    ///
    /// # Errors
    ///
    /// When the command is not known, or its arguments cannot be right. `keys` is empty then.
    pub fn keys<A: Arguments + ?Sized>(
        &self,
        args: &A,
        keys: &mut Vec<Key>,
    ) -> Result<&CommandSpec, KeysError> {
        keys.clear();
        let spec = self.checked(args)?;
        let found = visit(spec, args, |key| {
            if key.access.is_key() {
                keys.push(key);
            }
        });
        match found {
            Ok(()) => Ok(spec),
            Err(error) => {
                keys.clear();
                Err(error)
            }
        }
    }

    /// The command with these arguments, if it takes so many.
    #[inline]
    pub(crate) fn checked<A: Arguments + ?Sized>(&self, args: &A) -> Result<&CommandSpec, KeysError> {
        let Some(spec) = self.get(args) else { return Err(unknown(args)) };
        if !spec.takes(args.count()) {
            return Err(KeysError::WrongArity { name: spec.name().to_owned(), count: args.count() });
        }
        Ok(spec)
    }
}

#[cold]
fn unknown<A: Arguments + ?Sized>(args: &A) -> KeysError {
    const SHOWN: usize = 64;
    let shown = |index| {
        let bytes: &[u8] = at(args, index);
        bytes.get(..SHOWN.min(bytes.len())).unwrap_or_default().escape_ascii().to_string()
    };
    // Only the names of containers are followed by a name; other arguments may be secrets.
    let name = match CommandTable::builtin().named(&shown(0)) {
        Some(spec) if spec.flags().contains(CommandFlags::CONTAINER) && args.count() > 1 => {
            format!("{} {}", shown(0), shown(1))
        }
        _ => shown(0),
    };
    KeysError::UnknownCommand { name }
}

/// Tells of each key, and of what is no key but has a slot.
#[inline]
pub(crate) fn visit<A: Arguments + ?Sized>(
    spec: &CommandSpec,
    args: &A,
    mut found: impl FnMut(Key),
) -> Result<(), KeysError> {
    if let Some(index) = spec.only_key {
        if let [only] = spec.key_specs() {
            found(Key { index: usize::from(index), access: only.access });
        }
        return Ok(());
    }
    match spec.meaning.keys {
        KeyRule::Specs => by_specs(spec, args, &mut found),
        KeyRule::Set => {
            found(Key { index: 1, access: set_access(args) });
            Ok(())
        }
        KeyRule::Bitfield => {
            found(Key { index: 1, access: bitfield_access(args) });
            Ok(())
        }
        KeyRule::Delex => {
            let write = if args.count() == 2 { Access::RM } else { Access::RW };
            found(Key { index: 1, access: write | Access::DELETE });
            Ok(())
        }
        KeyRule::Sort => {
            found(Key { index: 1, access: Access::RO | Access::ACCESS });
            if let Some(index) = sort_words(args).store {
                found(Key { index, access: Access::OW | Access::UPDATE });
            }
            Ok(())
        }
        KeyRule::SortRo => {
            found(Key { index: 1, access: Access::RO | Access::ACCESS });
            Ok(())
        }
        KeyRule::GeoRadius { options } => {
            found(Key { index: 1, access: Access::RO | Access::ACCESS });
            if let Some(index) = geo_destination(args, options) {
                found(Key { index, access: Access::OW | Access::UPDATE });
            }
            Ok(())
        }
        KeyRule::Migrate => migrate(spec, args, &mut found),
    }
}

fn by_specs<A: Arguments + ?Sized>(
    spec: &CommandSpec,
    args: &A,
    found: &mut impl FnMut(Key),
) -> Result<(), KeysError> {
    for keys in spec.key_specs() {
        if keys.is_vague() {
            return Err(KeysError::NotDescribed { name: spec.name().to_owned() });
        }
        let Some(begin) = begin(&keys.begin, args) else { continue };
        let (first, last, step) = match keys.find {
            Find::Range { last, step, limit } => (begin, range_end(begin, last, limit, args.count()), step),
            Find::KeyNum { index, first, step } => {
                let bad = || KeysError::BadKeyCount { name: spec.name().to_owned(), index: begin + index };
                let number: usize = decimal(at(args, begin + index)).ok_or_else(bad)?;
                if number == 0 {
                    // Scripts need no keys; all others that count them do.
                    if spec.flags().contains(CommandFlags::NO_MANDATORY_KEYS) {
                        continue;
                    }
                    return Err(bad());
                }
                let first = begin + first;
                let last = (number - 1).checked_mul(step).and_then(|length| length.checked_add(first));
                let last = last.filter(|&last| last < args.count()).ok_or_else(bad)?;
                (first, Some(last), step)
            }
            Find::Unknown => continue,
        };
        // A list up to the end may be empty where others name keys: `PFMERGE destination`.
        let Some(last) = last.filter(|&last| last < args.count()) else {
            return Err(KeysError::NoKey { name: spec.name().to_owned() });
        };
        for index in (first..=last).step_by(step.max(1)) {
            found(Key { index, access: keys.access });
        }
    }
    Ok(())
}

/// Where the search begins, or `None` if there are no keys of this kind.
fn begin<A: Arguments + ?Sized>(begin: &Begin, args: &A) -> Option<usize> {
    match begin {
        &Begin::Index(index) => Some(index),
        Begin::Keyword { word, from } => {
            let is_here = |&i: &usize| is_word(args, i, word.as_bytes());
            let from_end = from.unsigned_abs() as usize;
            let at = match from {
                0.. => (from_end..args.count()).find(is_here)?,
                _ => (1..=args.count().checked_sub(from_end)?).rev().find(is_here)?,
            };
            Some(at + 1).filter(|&begin| begin < args.count())
        }
        Begin::Unknown => None,
    }
}

/// The last argument that may be a key. Below `begin` if there is none, which only optional lists at the end of a command may be:
/// `PFMERGE key`.
fn range_end(begin: usize, last: i32, limit: usize, count: usize) -> Option<usize> {
    let distance = last.unsigned_abs() as usize;
    match last {
        0.. => begin.checked_add(distance),
        _ if limit > 1 => (begin + count.saturating_sub(begin) / limit).checked_sub(distance),
        _ => count.checked_sub(distance),
    }
}

/// A number as servers read it: digits only, no leading zeros, no sign.
pub(crate) fn decimal(text: &[u8]) -> Option<usize> {
    match text {
        [b'0'] => Some(0),
        [b'1'..=b'9', ..] if text.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}

fn set_access<A: Arguments + ?Sized>(args: &A) -> Access {
    if (3..args.count()).any(|i| is_word(args, i, b"GET")) {
        return Access::RW | Access::ACCESS | Access::UPDATE;
    }
    Access::OW | Access::UPDATE
}

/// `BITFIELD` without `SET` and `INCRBY` reads only.
fn bitfield_access<A: Arguments + ?Sized>(args: &A) -> Access {
    let mut at = 2;
    while at < args.count() {
        let left = args.count() - at - 1;
        if is_word(args, at, b"GET") && left >= 2 {
            at += 3;
        } else if is_word(args, at, b"OVERFLOW") && left >= 1 {
            at += 2;
        } else {
            return Access::RW | Access::ACCESS | Access::UPDATE;
        }
    }
    Access::RO | Access::ACCESS
}

/// The argument behind the last STORE or STOREDIST.
fn geo_destination<A: Arguments + ?Sized>(args: &A, options: usize) -> Option<usize> {
    let mut destination = None;
    let mut at = options;
    while at + 1 < args.count() {
        if is_word(args, at, b"STORE") || is_word(args, at, b"STOREDIST") {
            at += 1;
            destination = Some(at);
        }
        at += 1;
    }
    destination
}

/// What the options of SORT name.
#[derive(Default)]
pub(crate) struct SortWords {
    /// The argument that is the destination: that of the last STORE.
    pub(crate) store: Option<usize>,
    /// The arguments that are patterns: each behind BY or GET.
    pub(crate) patterns: Vec<usize>,
}

pub(crate) fn sort_words<A: Arguments + ?Sized>(args: &A) -> SortWords {
    let mut words = SortWords::default();
    let mut at = 2;
    while at < args.count() {
        let left = args.count() - at - 1;
        if is_word(args, at, b"LIMIT") && left >= 2 {
            at += 2;
        } else if (is_word(args, at, b"BY") || is_word(args, at, b"GET")) && left >= 1 {
            at += 1;
            words.patterns.push(at);
        } else if is_word(args, at, b"STORE") && left >= 1 {
            at += 1;
            words.store = Some(at);
        }
        at += 1;
    }
    words
}

/// `MIGRATE host port key db timeout …`: one key, or, if that is empty, those behind KEYS.
fn migrate<A: Arguments + ?Sized>(
    spec: &CommandSpec,
    args: &A,
    found: &mut impl FnMut(Key),
) -> Result<(), KeysError> {
    let access = Access::RW | Access::ACCESS | Access::DELETE;
    let mut option = 6;
    while option < args.count() {
        if is_word(args, option, b"KEYS") {
            if option + 1 == args.count() {
                break;
            }
            if !at(args, 3).is_empty() {
                return Err(KeysError::NoKey { name: spec.name().to_owned() });
            }
            (option + 1..args.count()).for_each(|index| found(Key { index, access }));
            return Ok(());
        }
        option += 1;
        if is_word(args, option - 1, b"AUTH") {
            option += 1;
        } else if is_word(args, option - 1, b"AUTH2") {
            option += 2;
        }
    }
    found(Key { index: 3, access });
    Ok(())
}
