use std::fmt;
use std::str::FromStr;

use crate::slot::SLOTS;

const WORDS: usize = SLOTS as usize / 64;

/// A set of slots.
///
/// Its text is what `CLUSTER NODES` and cluster tools write: single slots and ranges, `0-5460,6000,16383`, separated by commas
/// or blanks.
///
/// ```
/// use keyferry_routing::{SlotSet, slot};
///
/// let shard: SlotSet = "0-5460".parse()?;
/// assert_eq!(shard.len(), 5461);
/// assert!(shard.contains(slot(b"bar")));
/// assert_eq!("3,1-2 9".parse::<SlotSet>()?.to_string(), "1-3,9");
/// # Ok::<(), keyferry_routing::SlotSetError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; WORDS]>);

/// Why a text is no set of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSetError {
    part: String,
}

impl SlotSet {
    /// No slot.
    pub fn new() -> Self {
        Self(Box::new([0; WORDS]))
    }

    /// Adds a slot. Numbers of [`SLOTS`] and above are no slots, and do nothing.
    pub fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot / 64)) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Whether it has this slot.
    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot / 64)).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// How many slots it has.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Adds the slots of another set.
    pub fn extend(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(&*other.0) {
            *word |= more;
        }
    }

    /// The slots that both have.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let mut common = self.clone();
        for (word, of) in common.0.iter_mut().zip(&*other.0) {
            *word &= of;
        }
        common
    }

    /// Its slots as ranges, first and last of each, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = (next..SLOTS).find(|slot| self.contains(*slot))?;
            let end = (first..SLOTS).find(|slot| !self.contains(*slot)).unwrap_or(SLOTS);
            next = end;
            Some((first, end - 1))
        })
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FromStr for SlotSet {
    type Err = SlotSetError;

    fn from_str(text: &str) -> Result<Self, SlotSetError> {
        let mut slots = Self::new();
        for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
            let wrong = || SlotSetError { part: part.to_owned() };
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<u16>().ok().filter(|slot| *slot < SLOTS).ok_or_else(wrong);
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            (first..=last).for_each(|slot| slots.insert(slot));
        }
        if slots.is_empty() {
            return Err(SlotSetError { part: text.to_owned() });
        }
        Ok(slots)
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSet({self})")
    }
}

impl fmt::Display for SlotSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no slot and no range of slots: slots are 0 to {}", self.part, SLOTS - 1)
    }
}

impl std::error::Error for SlotSetError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in ["", ",", "x", "-1", "16384", "5-3", "1-", "1-2-3", "0-16384", "+1x"] {
            assert!(bad.parse::<SlotSet>().is_err(), "{bad}");
        }
        assert_eq!("0-16383".parse::<SlotSet>().unwrap().len(), usize::from(SLOTS));
    }

    proptest! {
        #[test]
        fn text_reads_back(slots in prop::collection::btree_set(0..SLOTS, 1..200)) {
            let mut set = SlotSet::new();
            slots.iter().for_each(|slot| set.insert(*slot));
            prop_assert_eq!(set.to_string().parse::<SlotSet>().unwrap(), set.clone());
            prop_assert_eq!(set.len(), slots.len());
            let listed: Vec<u16> = set.ranges().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(listed, slots.into_iter().collect::<Vec<_>>());
        }
    }
}
