//! Which worker has which slots.

use keyferry_routing::SlotSet;

use super::Worker;

/// The slots of each worker: all slots, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Division(Vec<SlotSet>);

impl Division {
    /// Divides the shards of a cluster, numbered in the order of their first slots, among so many workers, by turns.
    ///
    /// # Errors
    /// How many shards there are, if there is none for some worker.
    pub(super) fn of_shards(mut shards: Vec<SlotSet>, workers: u16) -> Result<Self, usize> {
        shards.retain(|slots| !slots.is_empty());
        shards.sort_by_key(|slots| slots.ranges().next());
        if workers == 0 || shards.len() < usize::from(workers) {
            return Err(shards.len());
        }
        let mut division = vec![SlotSet::new(); usize::from(workers)];
        for (number, slots) in shards.iter().enumerate() {
            if let Some(of) = division.get_mut(number % usize::from(workers)) {
                of.extend(slots);
            }
        }
        Ok(Division(division))
    }

    /// One that was written down.
    pub(super) fn of(slots: Vec<SlotSet>) -> Self {
        Division(slots)
    }

    /// What a worker has.
    pub(super) fn slots(&self, worker: Worker) -> Option<&SlotSet> {
        self.0.get(usize::from(worker.index()))
    }

    /// The slots of all, in their order.
    pub(super) fn all(&self) -> impl Iterator<Item = &SlotSet> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use keyferry_routing::SLOTS;

    use super::*;

    fn shards() -> Vec<SlotSet> {
        let slots = ["10001-16383", "0-99,200", "100-199,201-10000"];
        let mut shards = slots.map(|slots| slots.parse().unwrap()).to_vec();
        shards.push(SlotSet::new());
        shards
    }

    #[test]
    fn shards_are_taken_by_turns_in_the_order_of_their_slots() {
        let divided = |workers| {
            let division = Division::of_shards(shards(), workers)?;
            Ok(division.all().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(divided(3).unwrap(), ["0-99,200", "100-199,201-10000", "10001-16383"]);
        assert_eq!(divided(2).unwrap(), ["0-99,200,10001-16383", "100-199,201-10000"]);
        assert_eq!((divided(4), divided(0)), (Err(3), Err(3)));
        for workers in 1..=3 {
            let division = Division::of_shards(shards(), workers).unwrap();
            let owners = |slot| division.all().filter(|slots| slots.contains(slot)).count();
            assert!((0..SLOTS).all(|slot| owners(slot) == 1));
        }
    }
}
