use std::fmt;

/// A set of named bits, with the names that servers use for them.
macro_rules! bits {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($(#[$bit_doc:meta])* $bit:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name($int);

        impl $name {
            bits!(@consts $int, 0, $($(#[$bit_doc])* $bit,)+);

            const NAMES: &'static [(&'static str, Self)] = &[$(($text, Self::$bit),)+];

            /// None of them.
            pub const NONE: Self = Self(0);

            /// The flag that a server calls so, in any letter case.
            pub fn named(name: &str) -> Option<Self> {
                Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, flag)| flag)
            }

            /// Whether all flags of `other` are set.
            #[inline]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether any flag of `other` is set.
            #[inline]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The flags of both.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The flags that are not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The names of the flags that are set.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(_, flag)| self.contains(*flag)).map(|&(name, _)| name)
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, name) in self.names().enumerate() {
                    write!(f, "{}{name}", if i == 0 { "" } else { "|" })?;
                }
                Ok(())
            }
        }
    };
    (@consts $int:ty, $at:expr, $(#[$doc:meta])* $bit:ident, $($rest:tt)*) => {
        $(#[$doc])*
        pub const $bit: Self = Self(1 << ($at));
        bits!(@consts $int, $at + 1, $($rest)*);
    };
    (@consts $int:ty, $at:expr,) => {};
}

bits! {
    /// What a command does to a key: the flags of key specifications (Redis 7.0 and later).
    Access(u16) {
        /// Read only.
        RO = "RO",
        /// Read and written.
        RW = "RW",
        /// Overwritten, whatever was there.
        OW = "OW",
        /// Removed.
        RM = "RM",
        /// The value, or part of it, is given to the client or put into another key.
        ACCESS = "access",
        /// The value may change in a way that depends on what it was.
        UPDATE = "update",
        /// Something is added, nothing that was there changes.
        INSERT = "insert",
        /// Something is removed.
        DELETE = "delete",
        /// No key, but it decides about the slot as one does: a sharded channel, a cursor.
        NOT_KEY = "not_key",
        /// There may be further keys that the specification does not find.
        INCOMPLETE = "incomplete",
        /// Which of the flags hold depends on the arguments.
        VARIABLE = "variable_flags",
    }
}

impl Access {
    const WRITES: Self = Self::RW.union(Self::OW).union(Self::RM);

    /// Whether the command may change the key.
    #[inline]
    pub const fn is_write(self) -> bool {
        self.intersects(Self::WRITES)
    }

    /// Whether this is a key at all, not only something with a slot.
    #[inline]
    pub const fn is_key(self) -> bool {
        !self.intersects(Self::NOT_KEY)
    }
}

bits! {
    /// The flags of a command, as in the reply of `COMMAND`.
    CommandFlags(u32) {
        /// May change data.
        WRITE = "write",
        /// Reads keys and changes none.
        READONLY = "readonly",
        /// Refused when memory is full.
        DENYOOM = "denyoom",
        /// For operators.
        ADMIN = "admin",
        /// About channels.
        PUBSUB = "pubsub",
        /// Not in scripts.
        NOSCRIPT = "noscript",
        /// May wait.
        BLOCKING = "blocking",
        /// Works while the data set is loaded.
        LOADING = "loading",
        /// Works on a replica that lost its primary.
        STALE = "stale",
        /// Takes constant or logarithmic time.
        FAST = "fast",
        /// Works before AUTH.
        NO_AUTH = "no_auth",
        /// May be replicated though it is no write: scripts, PFCOUNT, PUBLISH.
        MAY_REPLICATE = "may_replicate",
        /// First key, last key and step do not tell all keys.
        MOVABLEKEYS = "movablekeys",
        /// Not in MULTI.
        NO_MULTI = "no_multi",
        /// May have no key at all.
        NO_MANDATORY_KEYS = "no_mandatory_keys",
        /// Works while a script runs.
        ALLOW_BUSY = "allow_busy",
        /// Sentinels know it.
        SENTINEL = "sentinel",
        /// Only sentinels know it.
        ONLY_SENTINEL = "only_sentinel",
        /// Needs a setting of the server.
        PROTECTED = "protected",
        /// Comes from a module; vector sets do in Redis 8.
        MODULE = "module",
        /// Only groups subcommands.
        CONTAINER = "container",
    }
}

/// Where some of the keys of a command are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Where to begin.
    pub begin: Begin,
    /// How to go on from there.
    pub find: Find,
    /// What the command does to the keys found.
    pub access: Access,
}

impl KeySpec {
    /// Whether it does not tell all keys.
    pub(crate) fn is_vague(&self) -> bool {
        self.begin == Begin::Unknown
            || self.find == Find::Unknown
            || self.access.intersects(Access::INCOMPLETE)
    }
}

/// Where the search for keys begins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Begin {
    /// At this argument.
    Index(usize),
    /// At the argument behind this word.
    Keyword {
        /// The word, in any letter case.
        word: Box<str>,
        /// The first argument that is looked at; if negative, counted from the end and searched towards the front.
        from: i32,
    },
    /// Cannot be described.
    Unknown,
}

/// Which arguments from the beginning on are keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Find {
    /// Every `step`th argument up to `last`.
    Range {
        /// Counted from the beginning, or, if negative, from the end of the command: -1 is its last argument.
        last: i32,
        /// The distance between two keys.
        step: usize,
        /// With `last` below zero and 2 or more here: only so much of the arguments (2: one half) are keys.
        limit: usize,
    },
    /// As many as an argument says.
    KeyNum {
        /// Where the number is, counted from the beginning.
        index: usize,
        /// Where the first key is, counted from the beginning.
        first: usize,
        /// The distance between two keys.
        step: usize,
    },
    /// Cannot be described.
    Unknown,
}

/// A key specification in the notation of the table: `BEGIN:FIND:FLAGS`.
///
/// BEGIN: `i1` (argument 1), `kSTORE@5` (behind the word STORE, from argument 5 on), `?`. FIND: `r-1/1/0` (range: last, step,
/// limit), `n0/1/1` (number at 0, first key at 1, step 1), `?`. FLAGS: names joined by `+`.
pub(super) fn parse_key_spec(text: &str) -> Option<KeySpec> {
    let mut parts = text.split(':');
    let (begin, find, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let begin = match begin.split_at_checked(1)? {
        ("i", index) => Begin::Index(index.parse().ok()?),
        ("k", rest) => {
            let (word, from) = rest.split_once('@')?;
            Begin::Keyword { word: word.into(), from: from.parse().ok()? }
        }
        ("?", "") => Begin::Unknown,
        _ => return None,
    };
    let (kind, numbers) = find.split_at_checked(1)?;
    let mut numbers = numbers.split('/');
    let find = match kind {
        "r" => Find::Range {
            last: numbers.next()?.parse().ok()?,
            step: numbers.next()?.parse().ok()?,
            limit: numbers.next()?.parse().ok()?,
        },
        "n" => Find::KeyNum {
            index: numbers.next()?.parse().ok()?,
            first: numbers.next()?.parse().ok()?,
            step: numbers.next()?.parse().ok()?,
        },
        "?" => Find::Unknown,
        _ => return None,
    };
    let access =
        flags.split('+').map(Access::named).try_fold(Access::NONE, |all, flag| Some(all.union(flag?)))?;
    Some(KeySpec { begin, find, access })
}
