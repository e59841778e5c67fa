use std::fmt;

use keyferry_resp::Command;

use crate::args::{Arguments, all, at, is_word};
use crate::error::KeysError;
use crate::keys::{Key, decimal, sort_words, visit};
use crate::meaning::RouteRule;
use crate::slot::slot;
use crate::split::{Split, split};
use crate::table::{Access, CommandSpec, CommandTable};

/// How a command is carried out in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// At the owner of this slot: all keys are in it.
    Slot(u16),
    /// In parts, one a slot, which together do the same.
    Split(Split),
    /// Its keys are in several slots and it is no sum of parts: all must be brought into one slot.
    Compute(Compute),
    /// At every primary: what it changes is not shared between them. Of `FLUSHALL` and `FLUSHDB`, see
    /// [`CommandTable::touches_all_keys`]: those of one shard of a source mean only its part of the keys.
    EveryPrimary,
    /// At one node, whichever: the cluster spreads it (`PUBLISH`), or it depends on no key (scripts that only read, without
    /// keys).
    Once,
    /// Not at all, for this reason.
    Refuse(Refusal),
}

/// A command with keys in several slots.
///
/// To carry it out: bring the values of the keys that are in other slots than [`home_slot`](Self::home_slot) there under
/// [other names](crate::sibling_key), run the command [with these names](with_keys_replaced), then carry back, under their own
/// names, the values of those keys that it [may have changed](Self::written_elsewhere) (or remove them, if they are gone), and remove
/// the names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compute {
    /// All keys in the order of [`CommandTable::keys`], with their slots.
    pub keys: Vec<(Key, u16)>,
    /// The argument whose slot the command is to be run in: the first key that is overwritten, else the first that is added to,
    /// else the first that is changed, else the first.
    pub home: usize,
    /// The slot of that key.
    pub home_slot: u16,
    /// `COPY … DB n`: the database of the key that is overwritten, where it is not the selected one.
    pub destination_db: Option<u64>,
}

impl Compute {
    fn new(keys: Vec<(Key, u16)>, destination_db: Option<u64>) -> Option<Self> {
        let rank = |access: Access| match () {
            () if access.intersects(Access::OW) => 0,
            () if access.is_write() && access.intersects(Access::INSERT) => 1,
            () if access.is_write() => 2,
            () => 3,
        };
        let &(home, home_slot) = keys.iter().min_by_key(|(key, _)| rank(key.access))?;
        Some(Self { keys, home: home.index, home_slot, destination_db })
    }

    /// The keys that are in other slots than the home slot, with their slots: what has to be brought there. A key that is named
    /// twice is here twice.
    pub fn elsewhere(&self) -> impl Iterator<Item = (Key, u16)> + '_ {
        self.keys.iter().copied().filter(|&(_, slot)| slot != self.home_slot)
    }

    /// Those of them that the command may change: what has to be carried back.
    pub fn written_elsewhere(&self) -> impl Iterator<Item = (Key, u16)> + '_ {
        self.elsewhere().filter(|(key, _)| key.access.is_write())
    }
}

/// Why a command has no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The keys cannot be told: the command is unknown or wrong.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// `MULTI`, `EXEC`, `DISCARD`, `UNWATCH`: parts of a transaction, not commands of their own. See
    /// [`CommandTable::plan_transaction`].
    #[error("'{0}' is part of a transaction, not a command of its own")]
    Transaction(Box<str>),
    /// The command asks or changes one node or one connection: which one is for the caller to say.
    #[error("'{0}' concerns one node or one connection, not keys")]
    Node(Box<str>),
    /// A script without declared keys may change any.
    #[error("'{0}' names no keys: which slots it changes cannot be known")]
    UndeclaredKeys(Box<str>),
    /// BY and GET of `SORT` name keys by patterns; they may be in any slot.
    #[error("the pattern in argument {0} of SORT may mean keys of any slot")]
    SortPattern(usize),
    /// `SWAPDB`: no cluster knows it.
    #[error("'{0}' exchanges whole databases, which no cluster does")]
    AllKeys(Box<str>),
    /// Keys of several slots in a command that only makes sense for those of one: `MIGRATE`, `WATCH`, sharded channels.
    #[error("'{0}' names several slots and cannot be divided")]
    SeveralSlots(Box<str>),
}

impl CommandTable {
    /// How to carry out a command in a cluster.
    ///
    /// Nothing is allocated for commands whose keys are in one slot.
    ///
    /// ```
    /// use keyferry_routing::{CommandTable, Route, slot};
    ///
    /// let table = CommandTable::builtin();
    /// assert_eq!(table.route(&["INCR", "foo"]), Route::Slot(12182));
    ///
    /// let Route::Split(split) = table.route(&["DEL", "foo", "bar", "{foo}2"]) else { panic!() };
    /// assert_eq!(split.parts.len(), 2);
    ///
    /// let Route::Compute(compute) = table.route(&["RENAME", "foo", "bar"]) else { panic!() };
    /// assert_eq!((compute.home, compute.home_slot), (2, slot(b"bar")));
    /// ```
    #[inline]
    pub fn route<A: Arguments + ?Sized>(&self, args: &A) -> Route {
        match self.checked(args) {
            Ok(spec) => route(spec, args),
            Err(error) => Route::Refuse(error.into()),
        }
    }

    /// The slot of a command whose keys are all in one, in short.
    ///
    /// `None` in all other cases: for those ask [`route`](Self::route).
    #[inline]
    pub fn slot_of<A: Arguments + ?Sized>(&self, args: &A) -> Option<u16> {
        match self.route(args) {
            Route::Slot(slot) => Some(slot),
            _ => None,
        }
    }
}

#[inline]
fn route<A: Arguments + ?Sized>(spec: &CommandSpec, args: &A) -> Route {
    let index = match (spec.home_key, spec.meaning.route) {
        (Some(index), _) => usize::from(index),
        // Of one part.
        (None, RouteRule::Split { step, .. }) if args.count() == 1 + step => 1,
        _ => return by_rule(spec, args),
    };
    Route::Slot(slot(at(args, index)))
}

fn by_rule<A: Arguments + ?Sized>(spec: &CommandSpec, args: &A) -> Route {
    let name = || spec.name().into();
    match spec.meaning.route {
        RouteRule::EveryPrimary => return Route::EveryPrimary,
        RouteRule::Anywhere => return Route::Once,
        RouteRule::Transaction => return Route::Refuse(Refusal::Transaction(name())),
        RouteRule::AllKeys => return Route::Refuse(Refusal::AllKeys(name())),
        _ => {}
    }
    let mut common = Common::NoKeys;
    if let Err(error) = visit(spec, args, |key| common.add(slot(at(args, key.index)))) {
        return Route::Refuse(error.into());
    }
    if spec.meaning.route == RouteRule::Sort
        && let Some(pattern) = foreign_pattern(args, common)
    {
        return Route::Refuse(Refusal::SortPattern(pattern));
    }
    match (common, spec.meaning.route) {
        (_, RouteRule::Split { step, .. }) if !(args.count() - 1).is_multiple_of(step) => {
            Route::Refuse(KeysError::WrongArity { name: spec.name().to_owned(), count: args.count() }.into())
        }
        (Common::One(slot), _) => Route::Slot(slot),
        (Common::NoKeys, RouteRule::Script { writes: true }) => {
            Route::Refuse(Refusal::UndeclaredKeys(name()))
        }
        (Common::NoKeys, RouteRule::Script { writes: false }) => Route::Once,
        (Common::NoKeys, _) => Route::Refuse(Refusal::Node(name())),
        (Common::Several, RouteRule::Split { step, merge }) => Route::Split(split(args, step, merge)),
        (Common::Several, RouteRule::OneSlot) => Route::Refuse(Refusal::SeveralSlots(name())),
        (Common::Several, rule) => compute(spec, args, rule),
    }
}

fn compute<A: Arguments + ?Sized>(spec: &CommandSpec, args: &A, rule: RouteRule) -> Route {
    let mut keys = Vec::new();
    let found = visit(spec, args, |mut key| {
        if rule == RouteRule::WritesAll {
            key.access = key.access.without(Access::RO) | Access::RW;
        }
        keys.push((key, slot(at(args, key.index))));
    });
    let destination_db = match rule {
        RouteRule::Copy => (3..args.count().saturating_sub(1))
            .find(|&i| is_word(args, i, b"DB"))
            .and_then(|word| decimal(at(args, word + 1)))
            .map(|db| db as u64),
        _ => None,
    };
    match (found, Compute::new(keys, destination_db)) {
        (Err(error), _) => Route::Refuse(error.into()),
        (Ok(()), Some(compute)) => Route::Compute(compute),
        (Ok(()), None) => Route::Refuse(Refusal::Node(spec.name().into())),
    }
}

/// The slots seen so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Common {
    NoKeys,
    One(u16),
    Several,
}

impl Common {
    #[inline]
    fn add(&mut self, slot: u16) {
        *self = match *self {
            Self::NoKeys => Self::One(slot),
            Self::One(seen) if seen == slot => Self::One(slot),
            _ => Self::Several,
        };
    }
}

/// The first pattern of SORT that may mean keys outside of the slot of all others. `GET #` means the element itself, a pattern of
/// BY without `*` means "do not sort".
///
/// A pattern whose hash tag is in that slot means keys of that slot only. Servers allow it in a cluster since Redis 7.4, and
/// refuse all others.
fn foreign_pattern<A: Arguments + ?Sized>(args: &A, common: Common) -> Option<usize> {
    sort_words(args).patterns.into_iter().find(|&index| {
        let pattern = at(args, index);
        if !pattern.contains(&b'*') {
            return false;
        }
        let tag = crate::hash_tag(pattern);
        // The tag is the whole pattern where it has none.
        tag.len() == pattern.len() || tag.contains(&b'*') || Common::One(slot(pattern)) != common
    })
}

/// The command with other arguments in some places: each pair is an argument's number and what is to stand there.
///
/// Places that the command does not have are ignored. The result has the array form, whatever the command came in.
///
/// ```
/// use keyferry_routing::with_keys_replaced;
///
/// let command = with_keys_replaced(&["RENAME", "a", "b"], &[(1, b"{b}tmp")]);
/// assert_eq!(command.raw(), "*3\r\n$6\r\nRENAME\r\n$6\r\n{b}tmp\r\n$1\r\nb\r\n");
/// ```
pub fn with_keys_replaced<A, K>(args: &A, replaced: &[(usize, K)]) -> Command
where
    A: Arguments + ?Sized,
    K: AsRef<[u8]>,
{
    let mut parts: Vec<&[u8]> = all(args).collect();
    for (index, name) in replaced {
        if let Some(part) = parts.get_mut(*index) {
            *part = name.as_ref();
        }
    }
    Command::new(parts)
}

impl fmt::Display for Route {
    /// In a few words, for reports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "slot {slot}"),
            Self::Split(split) => write!(f, "split over {} slots", split.parts.len()),
            Self::Compute(compute) => write!(f, "computed in slot {}", compute.home_slot),
            Self::EveryPrimary => f.write_str("every primary"),
            Self::Once => f.write_str("any primary"),
            Self::Refuse(reason) => write!(f, "refused: {reason}"),
        }
    }
}
