//! Who serves what: which node a lane belongs to, and what its connections come to.

use std::{sync::Arc, time::Instant};

use tokio::sync::Notify;

use super::{
    Core,
    node::{Node, What},
};
use crate::{error::Error, sharded::lane::Executed};

impl Core {
    /// The node at this address, made if it is new.
    pub(crate) fn node(&mut self, address: &str) -> usize {
        if let Some(at) = self.nodes.iter().position(|node| node.address == address) {
            return at;
        }
        self.nodes.push(Node::new(address));
        self.topology.notify_one();
        self.nodes.len() - 1
    }

    pub(crate) fn node_address(&self, node: usize) -> &str {
        &self.nodes[node].address
    }

    /// How many of a node's replicas are links of ours, which keep nothing.
    pub(crate) fn own_replicas(&self) -> u64 {
        u64::from(self.two_way.as_ref().is_some_and(|two_way| two_way.is_followed()))
    }

    /// How many replicas the node at this address has, as it said last; one at least when that is in doubt.
    pub(crate) fn replicas_of(&self, address: &str) -> u64 {
        let node = self.nodes.iter().find(|node| node.address == address);
        node.map_or(0, |node| node.replicas.max(u64::from(node.unsure)))
    }

    /// How many nodes have ever been known.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn work_of(&self, node: usize) -> Arc<Notify> {
        Arc::clone(&self.nodes[node].work)
    }

    /// Nodes that serve a slot now.
    pub(crate) fn owners(&self) -> Vec<usize> {
        let mut owners: Vec<usize> = self.lanes.iter().filter_map(|lane| lane.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// The node that serves a slot.
    pub(crate) fn owner(&self, slot: u16) -> Option<usize> {
        self.lanes[self.lane_of(slot)].owner
    }

    /// `node` serves the lane of `slot` from now on.
    pub(crate) fn set_owner(&mut self, slot: u16, node: usize) {
        let lane_at = self.lane_of(slot);
        self.set_lane_owner(lane_at, node);
    }

    pub(super) fn set_lane_owner(&mut self, lane_at: usize, node: usize) {
        let lane = &mut self.lanes[lane_at];
        if lane.owner == Some(node) {
            return;
        }
        lane.doubt = lane.owner.replace(node).is_some();
        if lane.doubt {
            // It may have been a replica until now, and what followed it then says nothing.
            let node = &mut self.nodes[node];
            node.unsure = true;
            node.want_info = true;
        }
        self.settle_doubt(lane_at);
        self.touch(lane_at);
    }

    /// Puts back what may be lost, as soon as nothing is under way: before that it would be overtaken.
    pub(super) fn settle_doubt(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        if lane.doubt && lane.is_quiet() && lane.ahead == 0 {
            self.counts.replayed += lane.put_back_uncertain();
        }
    }

    /// The node is no primary any more: what it says now is worth nothing.
    pub(crate) fn condemn(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.up {
            node.condemned = true;
            node.work.notify_one();
        }
    }

    pub(crate) fn is_condemned(&self, node: usize) -> bool {
        self.nodes[node].condemned
    }

    /// Asks every node that serves something how many replicas it has.
    pub(crate) fn ask_for_replicas(&mut self) {
        for at in self.owners() {
            let node = &mut self.nodes[at];
            if node.up {
                node.want_info = true;
                node.work.notify_one();
            }
        }
    }

    /// A connection has been made; it has database 0 selected.
    pub(crate) fn node_up(&mut self, at: usize, replicas: u64) {
        let node = &mut self.nodes[at];
        node.up = true;
        node.condemned = false;
        node.down_since = None;
        node.selected = 0;
        node.want_info = node.unsure;
        node.work.notify_one();
        self.note_replicas(at, replicas);
    }

    /// The node says how many replicas it has.
    pub(super) fn note_replicas(&mut self, at: usize, replicas: u64) {
        let replicas = replicas.saturating_sub(self.own_replicas());
        let node = &mut self.nodes[at];
        if replicas > 0 || node.replicas == 0 {
            node.replicas = replicas;
            node.alone_since = None;
        } else if node.alone_since.get_or_insert_with(Instant::now).elapsed() >= self.rules.alone_after {
            node.replicas = 0;
        }
    }

    /// A connection could not be made. An error when that has lasted for too long while there is work for it.
    pub(crate) fn node_unreachable(&mut self, at: usize, error: keyferry_client::Error) {
        let since = *self.nodes[at].down_since.get_or_insert_with(Instant::now);
        self.topology.notify_one();
        // Whoever serves the slot is to say again where its keys are going.
        for lane_at in 0..self.lanes.len() {
            if self.lanes[lane_at].asks() == Some(at) {
                self.lanes[lane_at].ask = None;
                self.touch(lane_at);
            }
        }
        let needed = self.lanes.iter().any(|lane| lane.target() == Some(at) && !lane.waiting.is_empty());
        if needed && since.elapsed() >= self.rules.windows.connect {
            self.fail(Error::Target(error));
        }
    }

    /// A connection has been lost: nobody knows what of the things under way has been executed.
    pub(crate) fn node_down(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.up = false;
        node.condemned = false;
        node.down_since.get_or_insert_with(Instant::now);
        node.owed_since = None;
        node.waiting = false;
        node.want_info = false;
        (node.in_flight, node.in_flight_commands) = (0, 0);
        let flights = std::mem::take(&mut node.flights);
        let mut lanes = std::mem::take(&mut node.unconfirmed_lanes);
        node.unconfirmed_bytes = 0;
        self.counts.nodes_lost += 1;
        lanes.retain(|&lane| self.lanes[lane].unconfirmed.iter().any(|answered| answered.by == Some(at)));
        if self.rules.ahead > 0 {
            // What went ahead is not told apart by who has it.
            lanes.extend((0..self.lanes.len()).filter(|&lane| self.lanes[lane].owner == Some(at)));
        }
        for flight in flights.into_iter().rev() {
            match flight.what {
                What::Free { lane, item, .. } => {
                    self.counts.replayed += 1;
                    self.lanes[lane].put_back_free(item, Executed::Unknown);
                    lanes.push(lane);
                }
                What::Ahead { lane } => {
                    self.lanes[lane].ahead = 0;
                    lanes.push(lane);
                }
                What::Batch { lane, .. } => {
                    self.lanes[lane].ahead = 0;
                    self.counts.replayed += self.lanes[lane].put_back_uncertain();
                    lanes.push(lane);
                }
                What::Checkpoint { lane, .. } => {
                    self.lanes[lane].recovering = false;
                    lanes.push(lane);
                }
                What::Prefix | What::Wait | What::Info => {}
            }
        }
        lanes.sort_unstable();
        lanes.dedup();
        for lane_at in lanes {
            let lane = &mut self.lanes[lane_at];
            lane.ask = None;
            lane.doubt = true;
            self.settle_doubt(lane_at);
            self.touch(lane_at);
        }
        self.topology.notify_one();
    }

    /// Since when the node has owed a reply.
    pub(crate) fn owed_since(&self, node: usize) -> Option<Instant> {
        self.nodes[node].owed_since
    }
}
