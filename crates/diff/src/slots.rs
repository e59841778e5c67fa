//! Slots that have other owners than before.

use keyferry_routing::{SLOTS, SlotSet, Topology};

/// Slots that none of the nodes has that had them. A failover changes who is primary, not which nodes have the slot.
pub(crate) fn changed(before: &Topology, now: &Topology) -> SlotSet {
    let nodes = |topology: &Topology, slot| -> Vec<String> {
        let nodes = topology.shard(slot).into_iter().flat_map(|shard| shard.nodes());
        nodes
            .map(|node| node.id.clone().unwrap_or_else(|| format!("{:?} {:?}", node.ip, node.port)))
            .collect()
    };
    let mut slots = SlotSet::new();
    for slot in 0..SLOTS {
        let (was, is) = (nodes(before, slot), nodes(now, slot));
        if !was.iter().any(|node| is.contains(node)) {
            slots.insert(slot);
        }
    }
    slots
}
