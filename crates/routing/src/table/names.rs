//! Command names as keys: looked up without allocation, in any letter case.

use std::collections::HashMap;

/// Names up to this length are compared as three words.
const SHORT: usize = 24;

/// From names, and the container that they belong to, to numbers.
///
/// Open addressing with linear probing: the table is at least twice as large as what it holds, so that a search ends after a step
/// or two.
#[derive(Clone, Debug)]
pub(super) struct Names {
    slots: Vec<Slot>,
    used: usize,
    /// Lower-case names that are longer.
    long: HashMap<(u16, Vec<u8>), u16>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    name: Name,
    value: u16,
}

/// A lower-case name and its container. Of length 0 in slots that are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    words: [u64; 3],
    container: u16,
    len: u8,
}

/// The container of names that are in none.
pub(super) const TOP: u16 = u16::MAX;

const FREE: Slot = Slot { name: Name { words: [0; 3], container: TOP, len: 0 }, value: 0 };

impl Names {
    pub(super) fn new() -> Self {
        Self { slots: vec![FREE; 1 << 10], used: 0, long: HashMap::new() }
    }

    #[inline]
    pub(super) fn get(&self, container: u16, name: &[u8]) -> Option<u16> {
        let Some(name) = Name::new(container, name) else {
            return self.get_long(container, name);
        };
        let mask = self.slots.len() - 1;
        let mut at = name.hash() & mask;
        // There are always free slots, so this ends.
        while let Some(slot) = self.slots.get(at) {
            if slot.name == name {
                return Some(slot.value);
            }
            if slot.name.len == 0 {
                return None;
            }
            at = (at + 1) & mask;
        }
        None
    }

    #[cold]
    fn get_long(&self, container: u16, name: &[u8]) -> Option<u16> {
        if self.long.is_empty() || name.is_empty() {
            return None;
        }
        self.long.get(&(container, name.to_ascii_lowercase())).copied()
    }

    /// Adds a name, or gives another number to one that is there. Names without a byte are not taken.
    pub(super) fn insert(&mut self, container: u16, name: &[u8], value: u16) {
        match Name::new(container, name) {
            Some(name) => {
                if (self.used + 1) * 2 > self.slots.len() {
                    self.grow();
                }
                self.place(Slot { name, value });
            }
            None if name.is_empty() => {}
            None => {
                self.long.insert((container, name.to_ascii_lowercase()), value);
            }
        }
    }

    fn place(&mut self, new: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = new.name.hash() & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            if slot.name.len == 0 {
                self.used += 1;
            } else if slot.name != new.name {
                at = (at + 1) & mask;
                continue;
            }
            *slot = new;
            return;
        }
    }

    fn grow(&mut self) {
        let larger = vec![FREE; self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, larger);
        self.used = 0;
        old.into_iter().filter(|slot| slot.name.len > 0).for_each(|slot| self.place(slot));
    }
}

impl Name {
    /// `None` if the name is empty or too long.
    #[inline]
    fn new(container: u16, name: &[u8]) -> Option<Self> {
        // Words that overlap where the length is no multiple of theirs: together with the length they are the name still.
        let words = match name.len() {
            0 => return None,
            len @ 1..4 => {
                let (first, middle, last) = (name[0], name[len / 2], name[len - 1]);
                [u64::from(first) | u64::from(middle) << 8 | u64::from(last) << 16, 0, 0]
            }
            4..8 => [u64::from(first_four(name)) | u64::from(last_four(name)) << 32, 0, 0],
            8..=16 => [first_eight(name), last_eight(name), 0],
            17..=SHORT => [first_eight(name), first_eight(&name[8..]), last_eight(name)],
            _ => return None,
        };
        Some(Self { words: words.map(lower), container, len: name.len() as u8 })
    }

    #[inline]
    fn hash(&self) -> usize {
        let [a, b, c] = self.words;
        let mixed = a
            ^ b.rotate_left(23)
            ^ c.rotate_left(41)
            ^ (u64::from(self.container) << 8 | u64::from(self.len));
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
    }
}

#[inline]
fn first_four(bytes: &[u8]) -> u32 {
    bytes.first_chunk().copied().map_or(0, u32::from_le_bytes)
}

#[inline]
fn last_four(bytes: &[u8]) -> u32 {
    bytes.last_chunk().copied().map_or(0, u32::from_le_bytes)
}

#[inline]
fn first_eight(bytes: &[u8]) -> u64 {
    bytes.first_chunk().copied().map_or(0, u64::from_le_bytes)
}

#[inline]
fn last_eight(bytes: &[u8]) -> u64 {
    bytes.last_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// Eight bytes with `A-Z` made lower case and all others as they are.
#[inline]
fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let low_bits = word & !HIGH;
    // The high bit of each byte tells whether its low bits are at least 'A', and beyond 'Z'. No byte carries into the next.
    let from_a = low_bits + (0x80 - b'A' as u64) * ONES;
    let past_z = low_bits + (0x7f - b'Z' as u64) * ONES;
    let capital = (from_a ^ past_z) & !word & HIGH;
    word | capital >> 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lower_is_ascii_lower_case(bytes in any::<[u8; 8]>()) {
            let expected = bytes.map(|b| b.to_ascii_lowercase());
            prop_assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), expected);
        }

        #[test]
        fn names_differ_where_they_do(
            a in prop::collection::vec(prop::sample::select(b"aAbB@`[{".to_vec()), 0..28),
            b in prop::collection::vec(prop::sample::select(b"aAbB@`[{".to_vec()), 0..28),
            container in 0u16..2,
        ) {
            let mut names = Names::new();
            names.insert(1, &a, 7);
            let found = names.get(container, &b) == Some(7);
            prop_assert_eq!(found, container == 1 && !a.is_empty() && a.eq_ignore_ascii_case(&b));
        }
    }

    #[test]
    fn many_names() {
        let mut names = Names::new();
        let name = |n: u16| format!("{}{n}", "X".repeat(usize::from(n) % 25));
        for n in 0..5000 {
            names.insert(n % 3, name(n).as_bytes(), n);
        }
        for n in 0..5000 {
            assert_eq!(names.get(n % 3, name(n).to_lowercase().as_bytes()), Some(n));
            assert_eq!(names.get(n % 3 + 1, name(n).as_bytes()).filter(|&m| m == n), None);
        }
        names.insert(0, b"x", 9);
        names.insert(0, b"X", 10);
        assert_eq!(names.get(0, b"x"), Some(10));
    }
}
