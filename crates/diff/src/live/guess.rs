//! Guessing from its name of which type a key is.
//!
//! Servers tell types only when asked, key by key. But names are made by programs: those that differ in numbers only mostly
//! have values of one type. A guess costs one question if it is wrong, and proves nothing if it is right: only values do.

use std::sync::atomic::{AtomicU8, Ordering};

use keyferry_rdb::Kind;

/// Classes of names that are told apart; others share a place.
const PLACES: usize = 1 << 12;
/// How sure a guess is at most, must be to be made, and how much less it is after one that was wrong.
const SUREST: u8 = 15;
const SURE: u8 = 3;
const WRONG: u8 = 5;

/// What was seen of names of each class: a type in the low half, how sure it is in the high half.
#[derive(Debug)]
pub(crate) struct Guesses {
    seen: Box<[AtomicU8]>,
    /// Types that are not guessed any more, by their bits.
    given_up: AtomicU8,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { seen: (0..PLACES).map(|_| AtomicU8::new(0)).collect(), given_up: AtomicU8::new(0) }
    }
}

/// Types that are guessed; others are not read in a way of their own.
const KINDS: [Kind; 5] = [Kind::String, Kind::List, Kind::Set, Kind::SortedSet, Kind::Hash];

fn number(kind: Kind) -> u8 {
    // What is not guessed has the number behind the last.
    KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len()) as u8
}

/// Where a name belongs: its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class([u16; 2]);

impl Guesses {
    /// The type that values of keys of a class are likely to have.
    #[inline]
    pub(crate) fn kind(&self, class: Class) -> Option<Kind> {
        let number = class.0.into_iter().find_map(|place| {
            let seen = self.seen.get(usize::from(place))?.load(Ordering::Relaxed);
            (seen >> 4 >= SURE).then_some(seen & 15)
        })?;
        let given_up = self.given_up.load(Ordering::Relaxed) >> number & 1 == 1;
        KINDS.get(usize::from(number)).copied().filter(|_| !given_up)
    }

    /// Takes note of the type that a key has.
    #[inline]
    pub(crate) fn learn(&self, class: Class, kind: Kind) {
        let kind = number(kind);
        self.change(class, |seen| match (seen & 15, seen >> 4) {
            (same, sure) if same == kind && sure > 0 => kind | (sure + 1).min(SUREST) << 4,
            (_, 0 | 1) => kind | 1 << 4,
            (other, sure) => other | (sure - 1) << 4,
        });
    }

    /// Takes note that a guess was wrong, or did not help.
    pub(crate) fn was_wrong(&self, class: Class) {
        self.change(class, |seen| seen & 15 | (seen >> 4).saturating_sub(WRONG) << 4);
    }

    /// The way in which values of a type are read is refused: it is not guessed any more.
    pub(crate) fn give_up(&self, kind: Kind) {
        self.given_up.fetch_or(1 << number(kind), Ordering::Relaxed);
    }

    /// Tasks that come in between make a guess better or worse, nothing else.
    #[inline]
    fn change(&self, class: Class, to: impl Fn(u8) -> u8) {
        for place in class.0.into_iter().filter_map(|place| self.seen.get(usize::from(place))) {
            let (seen, after) = (place.load(Ordering::Relaxed), to(place.load(Ordering::Relaxed)));
            if after != seen {
                place.store(after, Ordering::Relaxed);
            }
        }
    }
}

/// What a byte of a name is.
#[derive(Clone, Copy)]
enum Role {
    Other,
    Digit,
    /// Another part of the name begins.
    Break,
}

const ROLES: [Role; 256] = {
    let mut roles = [Role::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        roles[byte] = match byte as u8 {
            b':' | b'.' | b'-' | b'_' | b'/' | b'|' | b'{' | b'}' => Role::Break,
            b'0'..=b'9' => Role::Digit,
            _ => Role::Other,
        };
        byte += 1;
    }
    roles
};

impl Class {
    /// The places of a name: that of names which differ in numbers only, and that of names which begin alike.
    #[inline]
    pub(crate) fn of(name: &[u8]) -> Self {
        const START: u64 = 0xcbf2_9ce4_8422_2325;
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let (mut hash, mut first) = (START, None);
        // From its first digit on a part of a name is a number, or an identifier.
        let mut numbered = false;
        for &byte in name {
            match ROLES[usize::from(byte)] {
                Role::Break => {
                    numbered = false;
                    hash = mix(hash, byte);
                    first = first.or(Some(hash));
                }
                _ if numbered => {}
                Role::Digit => {
                    numbered = true;
                    hash = mix(hash, b'0');
                }
                Role::Other => hash = mix(hash, byte),
            }
        }
        let place = |hash: u64| (hash ^ hash >> 29) as u16 % PLACES as u16;
        Self([place(hash), place(!first.unwrap_or(hash))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_numbers_are_of_one_class() {
        let alike = |a: &str, b: &str| Class::of(a.as_bytes()).0[0] == Class::of(b.as_bytes()).0[0];
        assert!(alike("user:1", "user:2917") && alike("user:17:cart", "user:1:cart"));
        assert!(alike("s00f3a-77aa", "s99-0"));
        assert!(
            !alike("user:1", "cart:1") && !alike("user:1:cart", "user:1:name") && !alike("user:1", "user")
        );
        // What begins alike has one place at least.
        assert_eq!(Class::of(b"user:ann").0[1], Class::of(b"user:bob:x").0[1]);
        assert_eq!(Class::of(b""), Class::of(b""));
    }

    #[test]
    fn guesses_follow_what_is_seen() {
        let guesses = Guesses::default();
        let name = |n: u32| Class::of(format!("user:{n}").as_bytes());
        let kind = |name: &str| guesses.kind(Class::of(name.as_bytes()));
        assert_eq!(kind("user:1"), None);
        for n in 0..u32::from(SURE) {
            assert_eq!(guesses.kind(name(n)), None);
            guesses.learn(name(n), Kind::Hash);
        }
        assert_eq!(kind("user:77"), Some(Kind::Hash));
        // Others of that beginning, as long as nothing better is known.
        assert_eq!(kind("user:ann"), Some(Kind::Hash));
        assert_eq!(kind("other:1"), None);
        guesses.was_wrong(name(5));
        assert_eq!(kind("user:77"), None);
        for _ in 0..100 {
            guesses.learn(name(6), Kind::Set);
        }
        assert_eq!(kind("user:77"), Some(Kind::Set));
        // Of two kinds by turns nothing is guessed for long.
        for _ in 0..100 {
            guesses.learn(name(6), Kind::Set);
            guesses.learn(name(6), Kind::List);
            guesses.was_wrong(name(6));
        }
        assert_eq!(kind("user:6"), None);
    }

    #[test]
    fn what_is_given_up_is_not_guessed() {
        let guesses = Guesses::default();
        for kind in KINDS.into_iter().chain([Kind::Stream]) {
            let name = Class::of(format!("{}:1", kind.name()).as_bytes());
            for _ in 0..9 {
                guesses.learn(name, kind);
            }
            assert_eq!(guesses.kind(name), Some(kind).filter(|kind| *kind != Kind::Stream));
            guesses.give_up(kind);
            assert_eq!(guesses.kind(name), None);
        }
    }
}
