//! Places in the lanes that nothing passes before what they stand for is done.

use std::sync::Arc;

use tokio::sync::Notify;

use super::Core;
use crate::sharded::{
    item::Item,
    lane::{Entry, Lane},
};

#[derive(Debug)]
pub(super) struct Gate {
    pub(super) link: u16,
    pub(super) ticket: u64,
    pub(super) cost: usize,
    pub(super) lanes: Vec<usize>,
    /// Of its lanes, so many have not been seen to have reached it; the others stand behind them.
    pub(super) missing: usize,
    pub(super) reached: Arc<Notify>,
}

/// Something that has been reached when everything before it in its lanes is done.
#[derive(Debug)]
pub(crate) struct GateHandle {
    pub(crate) id: u64,
    /// Told when it has been reached.
    pub(crate) reached: Arc<Notify>,
}

impl Core {
    /// Adds a gate to the lanes of `slots`. Nothing behind it goes out before [`Core::open_gate`]. `cost` is what waits for
    /// it takes of the link's memory.
    pub(crate) fn add_gate(
        &mut self,
        slots: impl IntoIterator<Item = u16>,
        link: u16,
        ticket: u64,
        cost: usize,
    ) -> GateHandle {
        let mut lanes: Vec<usize> = slots.into_iter().map(|slot| self.lane_of(slot)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let id = self.next_gate;
        self.next_gate += 1;
        let reached = Arc::new(Notify::new());
        if let Some(account) = self.link(link) {
            account.add(ticket, cost);
        }
        for &lane in &lanes {
            self.lanes[lane].waiting.push_back(Entry::Gate(id));
        }
        let missing = lanes.len();
        let gate = Gate { link, ticket, cost, lanes: lanes.clone(), missing, reached: Arc::clone(&reached) };
        self.gates.insert(id, gate);
        for lane in lanes {
            self.arrive(lane);
            self.touch(lane);
        }
        if missing == 0 {
            reached.notify_one();
        }
        GateHandle { id, reached }
    }

    /// Adds an item for `slot` right behind a gate that its lane has reached, before all that waits there.
    pub(crate) fn add_behind_gate(&mut self, id: u64, slot: u16, item: Item) {
        let (link, ticket, cost) = (item.link, item.ticket, item.cost());
        if let Some(account) = self.link(link) {
            account.add(ticket, cost);
        }
        let lane_at = self.lane_of(slot);
        let Some(item) = self.replayed(lane_at, item) else { return };
        let waiting = &mut self.lanes[lane_at].waiting;
        let gate = waiting.iter().position(|entry| matches!(entry, Entry::Gate(other) if *other == id));
        waiting.insert(gate.map_or(0, |at| at + 1), Entry::Item(item));
        self.touch(lane_at);
    }

    /// What the gate stood for is done: its lanes go on.
    pub(crate) fn open_gate(&mut self, id: u64) {
        let Some(gate) = self.gates.remove(&id) else { return };
        if let Some(account) = self.link(gate.link) {
            account.done(gate.ticket, gate.cost);
        }
        for lane in gate.lanes {
            let waiting = &mut self.lanes[lane].waiting;
            waiting.retain(|entry| !matches!(entry, Entry::Gate(other) if *other == id));
            self.arrive(lane);
            self.touch(lane);
        }
    }

    /// A gate at the front of a lane has been reached when the lane owes nothing.
    pub(super) fn arrive(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        let Some(&Entry::Gate(id)) = lane.waiting.front() else { return };
        if !lane.is_quiet() || lane.recover {
            return;
        }
        if !lane.unconfirmed.is_empty() {
            for by in lane.unconfirmed.iter().filter_map(|answered| answered.by) {
                let node = &mut self.nodes[by];
                if !node.want_wait {
                    node.want_wait = true;
                    node.work.notify_one();
                }
            }
            return;
        }
        let Some(gate) = self.gates.get_mut(&id) else { return };
        // Who is there stays until the gate is opened, so each has to be looked for once only.
        while gate.missing > 0 && self.lanes[gate.lanes[gate.missing - 1]].is_at_gate(id) {
            gate.missing -= 1;
            if gate.missing == 0 {
                gate.reached.notify_one();
            }
        }
    }
}

impl Lane {
    fn is_at_gate(&self, id: u64) -> bool {
        self.is_quiet()
            && !self.recover
            && self.unconfirmed.is_empty()
            && matches!(self.waiting.front(), Some(&Entry::Gate(other)) if other == id)
    }
}
