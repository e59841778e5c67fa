//! What the three formats have in common.

use std::ops::RangeInclusive;

use keyferry_resp::Frame;

use super::{NOBODY, Node, Shard, SlotMove, Topology, TopologyError};
use crate::slot::SLOTS;

/// More nodes than any cluster has: the gossip of a thousand fills a network.
pub(super) const MAX_NODES: usize = 1 << 16;

impl Topology {
    /// Checks that no slot has two owners, and makes the table of them.
    pub(super) fn build(shards: Vec<Shard>, moves: Vec<SlotMove>) -> Result<Self, TopologyError> {
        let mut owners = Box::new([NOBODY; SLOTS as usize]);
        if shards.len() > usize::from(SLOTS) {
            return Err(TopologyError::TooLarge);
        }
        for (number, shard) in shards.iter().enumerate() {
            let number = u16::try_from(number).map_err(|_| TopologyError::TooLarge)?;
            for slot in shard.slots.ranges().flat_map(|(first, last)| first..=last) {
                match owners.get_mut(usize::from(slot)) {
                    Some(owner) if *owner == NOBODY => *owner = number,
                    _ => return Err(TopologyError::TwoOwners { slot }),
                }
            }
        }
        Ok(Self { shards, moves, owners })
    }
}

/// A range of slots, both included.
pub(super) fn slot_range(first: i64, last: i64) -> Option<RangeInclusive<u16>> {
    let slot = |number: i64| u16::try_from(number).ok().filter(|&slot| slot < SLOTS);
    let range = slot(first)?..=slot(last)?;
    (!range.is_empty()).then_some(range)
}

/// A port; 0 stands for none.
pub(super) fn port(number: i64) -> Option<Option<u16>> {
    let port = u16::try_from(number).ok()?;
    Some((port != 0).then_some(port))
}

/// A text that says nothing if it is empty.
pub(super) fn text(frame: &Frame) -> Option<Option<String>> {
    if frame.is_null() {
        return Some(None);
    }
    let text = frame.as_str()?;
    Some((!text.is_empty()).then(|| text.to_owned()))
}

/// The host for clients: `?` stands for a host name that is wanted, but not set.
pub(super) fn set_host(node: &mut Node, host: Option<String>) {
    node.host = match host.as_deref() {
        Some("?") => node.ip.clone(),
        _ => host,
    };
}

/// The pairs of a map; an empty array is an empty map.
pub(super) fn pairs(frame: &Frame) -> Option<impl Iterator<Item = (&str, &Frame)>> {
    // Names that are no text are not known either.
    Some(frame.as_pairs()?.filter_map(|(name, value)| Some((name.as_str()?, value))))
}
