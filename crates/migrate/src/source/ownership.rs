//! Following the slots that move between the shards of a source.
//!
//! A slot that moves is written on one stream before and on another one after, with no order between the two. What makes an
//! order is the offset at which the old owner had given the slot up: everything that it said of the slot as its owner is at or
//! below, so what the new owner says may be applied once that has been. What the old owner says of the slot behind that
//! offset is only its cleaning up, which must not be applied.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use keyferry_routing::{SLOTS, SlotSet};

/// Who has a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The shard of this link.
    Link(usize),
    /// A node, by its id, that no link leads to: it came after the start.
    Stranger(String),
}

/// What happened to a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is on its way, key by key. Its owner is still `from`.
    Moving { slot: u16, from: Owner, to: Owner },
    /// It is on its way no more, and stayed where it was.
    Stayed { slot: u16 },
    /// It has another owner. All that `from` said of it as its owner is at or below `offset` of its link; `None` where
    /// no link leads to it.
    Moved { slot: u16, from: Owner, to: Owner, offset: Option<u64> },
    /// It was elsewhere for a while and came back, so fast that it is not known at which offsets: what its links say of
    /// it cannot be ordered.
    Unclear { slot: u16, owner: Owner, between: Owner },
}

/// What the primary of a shard says of itself, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The ids of the nodes of its shard.
    pub(crate) nodes: BTreeSet<String>,
    /// The slots that it has.
    pub(crate) slots: SlotSet,
    /// The slots that are on their way from it, and the id of the node that gets each.
    pub(crate) leaving: BTreeMap<u16, String>,
    /// The slots of others, by the id of their primary, as far as it knows.
    pub(crate) others: BTreeMap<String, SlotSet>,
    /// Its replication offset, taken after all that.
    pub(crate) offset: u64,
}

/// Tells from what the shards say of themselves which slots move. Holds no socket and no clock.
///
/// Call [`Ownership::see`] with each sight of a shard, then [`Ownership::poll`] until there is nothing more.
#[derive(Debug)]
pub(crate) struct Ownership {
    owners: Vec<Option<Owner>>,
    shards: Vec<Known>,
    /// Slots on their way.
    moving: BTreeMap<u16, Owner>,
    /// Slots that their owner has given up and nobody is known to have taken: when that was.
    given_up: BTreeMap<u16, u64>,
    /// Slots that another link's shard claimed while their owner had not yet given them up.
    contested: BTreeMap<u16, usize>,
    /// Sights so far.
    clock: u64,
    changes: VecDeque<Change>,
}

#[derive(Debug)]
struct Known {
    nodes: BTreeSet<String>,
    sight: Option<Sight>,
    /// When it was seen last.
    at: u64,
}

impl Ownership {
    /// At the start: the slots of each link's shard, and the ids of its nodes.
    pub(crate) fn new(links: Vec<(SlotSet, BTreeSet<String>)>) -> Self {
        let mut owners = vec![None; usize::from(SLOTS)];
        for (link, (slots, _)) in links.iter().enumerate() {
            for (first, last) in slots.ranges() {
                owners[usize::from(first)..=usize::from(last)].fill(Some(Owner::Link(link)));
            }
        }
        let known = |(_, nodes)| Known { nodes, sight: None, at: 0 };
        Ownership {
            owners,
            shards: links.into_iter().map(known).collect(),
            moving: BTreeMap::new(),
            given_up: BTreeMap::new(),
            contested: BTreeMap::new(),
            clock: 0,
            changes: VecDeque::new(),
        }
    }

    /// What the shard of a link says of itself now. Sights of one link must come in the order in which they were taken.
    pub(crate) fn see(&mut self, link: usize, sight: Sight) {
        let Some(known) = self.shards.get_mut(link) else { return };
        self.clock += 1;
        known.at = self.clock;
        known.nodes.extend(sight.nodes.iter().cloned());
        known.sight = Some(sight);
        for slot in 0..SLOTS {
            self.look_at(slot);
        }
    }

    /// What has come out of it.
    pub(crate) fn poll(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Who has a slot, as far as was told.
    #[cfg(test)]
    fn owner(&self, slot: u16) -> Option<&Owner> {
        self.owners.get(usize::from(slot))?.as_ref()
    }

    fn look_at(&mut self, slot: u16) {
        let Some(owner) = self.owners.get(usize::from(slot)).cloned().flatten() else { return };
        let claims = |link: usize| self.sight(link).is_some_and(|sight| sight.slots.contains(slot));
        let claimed = (0..self.shards.len()).find(|&link| owner != Owner::Link(link) && claims(link));
        match &owner {
            Owner::Link(link) if self.sight(*link).is_none() => {}
            Owner::Link(link) if claims(*link) => {
                let leaving = self.sight(*link).and_then(|sight| sight.leaving.get(&slot)).cloned();
                self.given_up.remove(&slot);
                match (claimed, self.contested.get(&slot).copied()) {
                    (Some(other), _) => {
                        self.contested.insert(slot, other);
                    }
                    // The claim is gone, and the owner was never seen without the slot.
                    (None, Some(other)) => {
                        self.contested.remove(&slot);
                        self.moving.remove(&slot);
                        let between = Owner::Link(other);
                        self.changes.push_back(Change::Unclear { slot, owner: owner.clone(), between });
                    }
                    (None, None) => self.note_leaving(slot, &owner, leaving),
                }
            }
            Owner::Link(link) => {
                let since = *self.given_up.entry(slot).or_insert(self.clock);
                let offset = self.sight(*link).map(|sight| sight.offset);
                let to = claimed.map(Owner::Link).or_else(|| self.stranger(slot, *link, since));
                if let Some(to) = to {
                    self.moved(slot, owner, to, offset);
                }
            }
            // It came from a shard that nobody reads.
            Owner::Stranger(_) => {
                if let Some(to) = claimed {
                    self.moved(slot, owner, Owner::Link(to), None);
                }
            }
        }
    }

    fn sight(&self, link: usize) -> Option<&Sight> {
        self.shards.get(link)?.sight.as_ref()
    }

    /// A node that has the slot and that no link leads to, as the shard of `link` says, which has given it up. It is only
    /// believed when all shards have been seen since, as it may be a replica of one of them that was promoted.
    fn stranger(&self, slot: u16, link: usize, since: u64) -> Option<Owner> {
        let mut others = self.sight(link)?.others.iter();
        let (id, _) = others.find(|(_, slots)| slots.contains(slot))?;
        let is_known = self.shards.iter().any(|shard| shard.nodes.contains(id));
        let all_seen = self.shards.iter().enumerate().all(|(of, shard)| of == link || shard.at > since);
        (!is_known && all_seen).then(|| Owner::Stranger(id.clone()))
    }

    fn moved(&mut self, slot: u16, from: Owner, to: Owner, offset: Option<u64>) {
        self.moving.remove(&slot);
        self.given_up.remove(&slot);
        self.contested.remove(&slot);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = Some(to.clone());
        }
        self.changes.push_back(Change::Moved { slot, from, to, offset });
    }

    fn note_leaving(&mut self, slot: u16, owner: &Owner, leaving: Option<String>) {
        match leaving {
            Some(id) => {
                let link = self.shards.iter().position(|shard| shard.nodes.contains(&id));
                let to = link.map_or(Owner::Stranger(id), Owner::Link);
                if self.moving.get(&slot) != Some(&to) {
                    self.moving.insert(slot, to.clone());
                    self.changes.push_back(Change::Moving { slot, from: owner.clone(), to });
                }
            }
            None => {
                if self.moving.remove(&slot).is_some() {
                    self.changes.push_back(Change::Stayed { slot });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &str) -> BTreeSet<String> {
        BTreeSet::from([name.to_owned()])
    }

    fn set(slots: &str) -> SlotSet {
        if slots.is_empty() { SlotSet::new() } else { slots.parse().unwrap() }
    }

    fn sight(name: &str, slots: &str, offset: u64) -> Sight {
        Sight { nodes: ids(name), slots: set(slots), offset, ..Sight::default() }
    }

    /// Two shards, `a` with the slots 0 to 9, `b` with the others.
    fn two() -> Ownership {
        Ownership::new(vec![(set("0-9"), ids("a")), (set("10-16383"), ids("b"))])
    }

    fn changes(ownership: &mut Ownership) -> Vec<Change> {
        std::iter::from_fn(|| ownership.poll()).collect()
    }

    const A: Owner = Owner::Link(0);
    const B: Owner = Owner::Link(1);

    #[test]
    fn a_move_is_told_with_the_offset_at_which_the_old_owner_had_given_it_up() {
        let mut ownership = two();
        ownership.see(0, sight("a", "0-9", 100));
        ownership.see(1, sight("b", "10-16383", 900));
        assert_eq!(changes(&mut ownership), []);
        let mut leaving = sight("a", "0-9", 150);
        leaving.leaving.insert(7, "b".to_owned());
        ownership.see(0, leaving.clone());
        ownership.see(0, leaving);
        assert_eq!(changes(&mut ownership), [Change::Moving { slot: 7, from: A, to: B }]);
        // The new owner knows first: that says nothing of the old one's stream.
        ownership.see(1, sight("b", "7,10-16383", 950));
        assert_eq!(changes(&mut ownership), []);
        ownership.see(0, sight("a", "0-6,8-9", 200));
        let moved = |from, to, offset| Change::Moved { slot: 7, from, to, offset: Some(offset) };
        assert_eq!(changes(&mut ownership), [moved(A, B, 200)]);
        assert_eq!(ownership.owner(7), Some(&B));
        // And back, the old owner knowing first.
        ownership.see(1, sight("b", "10-16383", 990));
        assert_eq!(changes(&mut ownership), []);
        ownership.see(0, sight("a", "0-9", 300));
        assert_eq!(changes(&mut ownership), [moved(B, A, 990)]);
    }

    #[test]
    fn a_move_that_is_called_off_and_one_that_was_too_fast() {
        let mut ownership = two();
        let mut leaving = sight("a", "0-9", 1);
        leaving.leaving.insert(3, "x".to_owned());
        ownership.see(0, leaving);
        ownership.see(0, sight("a", "0-9", 2));
        let to = Owner::Stranger("x".to_owned());
        let expected = [Change::Moving { slot: 3, from: A, to }, Change::Stayed { slot: 3 }];
        assert_eq!(changes(&mut ownership), expected);
        // It is seen at the other, and then not any more, and never was missing here.
        ownership.see(1, sight("b", "3,10-16383", 3));
        ownership.see(1, sight("b", "10-16383", 4));
        assert_eq!(changes(&mut ownership), [Change::Unclear { slot: 3, owner: A, between: B }]);
    }

    #[test]
    fn a_slot_that_goes_to_a_node_without_a_link() {
        let mut ownership = two();
        ownership.see(1, sight("b", "10-16383", 1));
        let mut gone = sight("a", "0-8", 50);
        gone.others.insert("c".to_owned(), set("9"));
        ownership.see(0, gone.clone());
        // It may be a replica of `b` that was promoted: that is heard from first.
        assert_eq!(changes(&mut ownership), []);
        let mut promoted = Ownership::new(vec![(set("0-9"), ids("a")), (set("10-16383"), ids("b"))]);
        promoted.see(0, gone);
        promoted.see(1, sight("c", "9-16383", 2));
        let moved = |to| Change::Moved { slot: 9, from: A, to, offset: Some(50) };
        assert_eq!(changes(&mut promoted), [moved(B)]);
        ownership.see(1, sight("b", "10-16383", 2));
        let stranger = Owner::Stranger("c".to_owned());
        assert_eq!(changes(&mut ownership), [moved(stranger.clone())]);
        ownership.see(1, sight("b", "9-16383", 3));
        let expected = Change::Moved { slot: 9, from: stranger, to: B, offset: None };
        assert_eq!(changes(&mut ownership), [expected]);
    }
}
