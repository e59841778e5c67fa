//! What goes out next.

use std::time::Instant;

use bytes::BytesMut;
use keyferry_resp::encode_command;

use super::{Core, node::What};
use crate::sharded::{
    ahead::{AheadStage, Part},
    batch, guarded,
    item::Class,
    lane::{BatchLimits, Entry},
};

/// Bytes that a node has answered and no replica confirmed, from which on it is asked for that.
const UNCONFIRMED: usize = 2 * 1024 * 1024;
/// How long a replica is waited for at once.
const REPLICA_WAIT: &str = "500";

impl Core {
    /// Takes the next bytes for a node.
    pub(crate) fn fill(&mut self, at: usize, out: &mut BytesMut) {
        if !self.nodes[at].up || self.has_failed() {
            return;
        }
        if self.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
            // Somebody may have taken over.
            return;
        }
        while self.nodes[at].has_room() {
            let Some(lane_at) = self.nodes[at].ready.pop_front() else { break };
            let lane = &mut self.lanes[lane_at];
            if lane.queued != Some(at) {
                continue;
            }
            lane.queued = None;
            if lane.target() == Some(at) {
                self.send_from(lane_at, at, out);
            }
            self.touch(lane_at);
        }
        let wanted = 1 + self.own_replicas();
        let node = &mut self.nodes[at];
        if node.want_info {
            node.want_info = false;
            let before = out.len();
            encode_command(out, ["INFO", "replication"]);
            node.take_off(What::Info, 1, out.len() - before);
        }
        let due = node.want_wait || node.unconfirmed_bytes >= UNCONFIRMED || node.flights.is_empty();
        if node.replicas > 0 && !node.unsure && !node.waiting && !node.unconfirmed_lanes.is_empty() && due {
            node.waiting = true;
            node.want_wait = false;
            let before = out.len();
            encode_command(out, ["WAIT", &wanted.to_string(), REPLICA_WAIT]);
            node.take_off(What::Wait, 1, out.len() - before);
        }
    }

    /// Lets lanes go on whose time has come. True when others are still held back.
    pub(crate) fn release_held(&mut self, now: Instant) -> bool {
        for lane_at in std::mem::take(&mut self.held) {
            let lane = &mut self.lanes[lane_at];
            match lane.hold {
                Some(until) if until > now => self.held.push(lane_at),
                _ => {
                    lane.hold = None;
                    self.touch(lane_at);
                }
            }
        }
        !self.held.is_empty()
    }

    /// Queues a lane at its node if it has work.
    pub(super) fn touch(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        let Some(target) = lane.target() else { return };
        let has_work = lane.has_work() || self.next_ahead(lane_at).is_some();
        let lane = &mut self.lanes[lane_at];
        if has_work && lane.queued != Some(target) {
            // A gate alone is no work for a node.
            if !lane.recover && matches!(lane.waiting.front(), Some(Entry::Gate(_))) {
                return self.arrive(lane_at);
            }
            lane.queued = Some(target);
            let node = &mut self.nodes[target];
            node.ready.push_back(lane_at);
            node.work.notify_one();
        }
    }

    fn send_from(&mut self, lane_at: usize, at: usize, out: &mut BytesMut) {
        if self.lanes[lane_at].has_work() {
            self.send_ordered(lane_at, at, out);
        }
        while self.nodes[at].has_room()
            && let Some(next) = self.next_ahead(lane_at)
        {
            self.send_ahead(lane_at, at, next, out);
        }
    }

    /// Of which item that waits in a lane something may go ahead now.
    fn next_ahead(&self, lane_at: usize) -> Option<usize> {
        if self.rules.ahead == 0 {
            return None;
        }
        let within =
            |link: u16| Some(self.links.get(usize::from(link))?.marked?.saturating_add(self.rules.ahead));
        self.lanes[lane_at].next_ahead(within)
    }

    fn send_ahead(&mut self, lane_at: usize, at: usize, next: usize, out: &mut BytesMut) {
        let (lane, node) = (&mut self.lanes[lane_at], &mut self.nodes[at]);
        let Some(Entry::Item(item)) = lane.waiting.get_mut(next) else { return };
        let Part::Divided(ahead) = &mut item.part else { return };
        node.select(item.db, out);
        ahead.stage = AheadStage::UnderWay;
        out.extend_from_slice(&ahead.bytes);
        lane.ahead += 1;
        node.take_off(What::Ahead { lane: lane_at }, ahead.commands, ahead.bytes.len());
    }

    fn send_ordered(&mut self, lane_at: usize, at: usize, out: &mut BytesMut) {
        if self.lanes[lane_at].sent.is_empty()
            && self.next_ahead(lane_at).is_none()
            && let Some(Entry::Item(item)) = self.lanes[lane_at].waiting.front_mut()
            && item.ahead() == Some(AheadStage::Waiting)
        {
            // Something is in the way of its going ahead.
            item.join();
        }
        let lane = &mut self.lanes[lane_at];
        let node = &mut self.nodes[at];
        let slot = u16::try_from(lane_at).unwrap_or_default();
        if lane.recover {
            lane.recovering = true;
            let asked = lane.asks().is_some();
            lane.ask = None;
            node.select(0, out);
            let before = out.len();
            let look = self.checkpoints.look(slot);
            for command in &look {
                if asked {
                    encode_command(out, ["ASKING"]);
                }
                out.extend_from_slice(command.raw());
            }
            let replies = if asked { 4 } else { 2 };
            node.take_off(What::Checkpoint { lane: lane_at, asked }, replies, out.len() - before);
            return;
        }
        while node.has_room() {
            match lane.waiting.front() {
                Some(Entry::Item(item)) if item.class == Class::Free => {
                    let (db, asked) = (item.db, lane.asks().is_some());
                    if lane.target() != Some(at) {
                        return;
                    }
                    lane.ask = None;
                    node.select(db, out);
                    if asked {
                        node.asking(out);
                    }
                    let Some(Entry::Item(mut item)) = lane.waiting.pop_front() else { return };
                    if self.guarded && item.replay {
                        item.bytes = guarded::replacing(&item.bytes);
                    }
                    out.extend_from_slice(&item.bytes);
                    let (bytes, replies) = (item.bytes.len(), item.commands);
                    lane.free += 1;
                    node.take_off(What::Free { lane: lane_at, item }, replies, bytes);
                    if asked {
                        return;
                    }
                }
                Some(Entry::Item(_)) if lane.is_quiet() => {
                    let asked = lane.asks().is_some();
                    lane.take_batch(if self.rules.single { BatchLimits::ONE } else { BatchLimits::MANY });
                    if lane.sent.is_empty() {
                        // What goes ahead of it is not there yet.
                        return;
                    }
                    lane.ask = None;
                    let layout = batch::Layout::of(&lane.sent, self.rules.exact);
                    node.select(layout.db, out);
                    if asked {
                        node.asking(out);
                    }
                    let before = out.len();
                    let sent = &self.lanes[lane_at].sent;
                    layout.append(sent, &self.checkpoints, out, |out, reached| self.note(out, slot, reached));
                    let (replies, bytes) = (layout.replies, out.len() - before);
                    self.nodes[at].take_off(What::Batch { lane: lane_at, layout }, replies, bytes);
                    return;
                }
                _ => return,
            }
        }
    }
}
