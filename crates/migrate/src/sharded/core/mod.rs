//! The state of a target of several nodes: what waits for which slot, what is under way to which node, and what each
//! reply means. No sockets and no clock of its own: [`super::node`] carries the bytes.
//!
//! # Rules
//!
//! - Ordered items of a lane go out one batch at a time. A batch is one transaction, or one blind write, so that it is
//!   executed or refused as a whole, and nothing overtakes what was refused.
//! - A batch that must not be repeated ends with the lane's checkpoint.
//! - Into one server, blind writes go ahead of the batch that they belong to, where nothing that is not done yet says
//!   anything of their keys: see [`super::ahead`].
//! - What a primary has answered is kept until a replica has it, where there are replicas. When a node is lost or a slot
//!   changes hands, what is not known to have survived is sent again, in order, behind a look at the checkpoint.

mod counts;
mod gates;
mod hold;
#[cfg(test)]
mod model;
mod node;
mod reply;
mod rules;
mod send;
mod serving;

use std::{collections::HashMap, sync::Arc};

use bytes::BytesMut;
use keyferry_resp::{ErrorCode, ErrorReply};
use keyferry_routing::SlotSet;
use tokio::sync::Notify;

pub(crate) use self::{
    counts::Counts,
    node::Expect,
    reply::{Redirection, redirection},
    rules::{Rules, Windows, reason},
};
use self::{gates::Gate, node::Node};
use super::{
    batch,
    checkpoint::{Checkpoints, Reached},
    item::{Class, Item, Mark},
    lane::{Entry, Lane},
    links::LinkAccount,
    state::{Stage, State},
};
use crate::{
    dead_letters::{DeadLetters, Letter},
    error::Error,
    fence::Lease,
    progress::Meter,
    two_way,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    rules: Rules,
    checkpoints: Arc<Checkpoints>,
    /// Where commands go that are refused for good; without it they end everything.
    letters: Option<DeadLetters>,
    /// What knows of keys that differ on both sides, so that commands are refused.
    pub(crate) two_way: Option<Arc<two_way::Link>>,
    /// Without it nothing may be sent.
    lease: Option<Arc<Lease>>,
    lanes: Vec<Lane>,
    nodes: Vec<Node>,
    links: Vec<LinkAccount>,
    gates: HashMap<u64, Gate>,
    next_gate: u64,
    /// Lanes that wait for a moment.
    held: Vec<usize>,
    /// What each link may speak of; none where that is everything.
    shards: Vec<Option<hold::Shard>>,
    /// The slots that are carried over, where others are left to other workers.
    part: Option<SlotSet>,
    /// What links said of slots that are not theirs yet.
    held_back: HashMap<(u16, u16), hold::Held>,
    /// Slots of the source that are on their way.
    moving: SlotSet,
    /// What is refused at present, for whoever watches.
    trouble: Option<String>,
    /// Lanes whose work is refused at present.
    refused_lanes: usize,
    failed: bool,
    /// Keys of snapshots are not to replace what is there: what is sent again may be there by itself.
    guarded: bool,
    /// What it has failed of, until it is told.
    failure: Option<Error>,
    pub(crate) counts: Counts,
    /// Told when somebody should look at who serves which slot.
    pub(crate) topology: Arc<Notify>,
    /// Told when a lane is held back.
    pub(crate) timer: Arc<Notify>,
    /// Told when it is over.
    pub(crate) over: Arc<Notify>,
}

impl Core {
    pub(crate) fn new(rules: Rules, checkpoints: Arc<Checkpoints>, links: Vec<Meter>) -> Self {
        let lanes = if rules.single { 1 } else { usize::from(keyferry_routing::SLOTS) };
        Core {
            rules,
            checkpoints,
            letters: None,
            two_way: None,
            lease: None,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            nodes: Vec::new(),
            links: links.into_iter().map(LinkAccount::new).collect(),
            gates: HashMap::new(),
            next_gate: 0,
            held: Vec::new(),
            shards: Vec::new(),
            part: None,
            held_back: HashMap::new(),
            moving: SlotSet::new(),
            trouble: None,
            refused_lanes: 0,
            failed: false,
            guarded: false,
            failure: None,
            counts: Counts::default(),
            topology: Arc::default(),
            timer: Arc::default(),
            over: Arc::default(),
        }
    }

    // --- What the run asks and tells.

    /// Commands that are refused for good go there.
    pub(crate) fn set_letters(&mut self, letters: DeadLetters) {
        self.letters = Some(letters);
    }

    /// True where a command that is refused for good does not end everything.
    fn keeps_refused(&self) -> bool {
        self.letters.is_some() || self.two_way.is_some()
    }

    /// Keeps a command of a link that was refused for good, if there is a place for such. True when it is kept.
    pub(crate) fn keep_refused(
        &mut self,
        link: u16,
        offset: Option<u64>,
        db: u32,
        command: &[u8],
        reply: &ErrorReply,
    ) -> Result<bool, Error> {
        if let Some(two_way) = &self.two_way {
            return two_way.refused(command, db, offset.unwrap_or(0), reply);
        }
        let Some(letters) = self.letters.as_mut().filter(|_| reply.kind() != ErrorCode::BusyKey) else {
            return Ok(false);
        };
        let history = self.links.get(usize::from(link)).and_then(LinkAccount::history);
        let link = self.checkpoints.link_name(link).unwrap_or_default();
        letters.add(&Letter { link, history, offset, db, command, reply })?;
        *self.counts.dead_letters.entry(reply.code().to_owned()).or_default() += 1;
        Ok(true)
    }

    /// As [`Core::keep_refused`], of the so-manieth command of an item.
    fn keep_command(&mut self, item: &Item, n: u32, reply: &ErrorReply) -> Result<bool, Error> {
        let Some(place) = batch::place_of(item, n) else { return Ok(false) };
        let offset = match item.mark {
            Mark::Snapshot(_) => None,
            Mark::Stream(_) => Some(item.at + place.bytes.start as u64),
        };
        self.keep_refused(item.link, offset, place.db, &item.bytes[place.bytes], reply)
    }

    /// Takes the so-manieth command out of an item that waits at the front of its lane, as it is kept elsewhere.
    fn leave_out(&mut self, lane_at: usize, item: &Item, n: u32) {
        let Some(place) = batch::place_of(item, n) else { return };
        let is_it =
            |entry: &Entry| matches!(entry, Entry::Item(of) if of.link == item.link && of.mark == item.mark);
        let lane = &mut self.lanes[lane_at];
        let Some(at) = lane.waiting.iter().position(is_it) else { return };
        let Some(Entry::Item(found)) = lane.waiting.get_mut(at) else { return };
        let mut bytes = BytesMut::from(&found.bytes[..place.bytes.start]);
        bytes.extend_from_slice(&found.bytes[place.bytes.end..]);
        let freed = found.bytes.len() - bytes.len();
        found.bytes = bytes.freeze();
        found.commands -= 1;
        let link = found.link;
        // What is left of an exact one moves the position; of others there is nothing left.
        let over = found.commands == 0 && !(self.rules.exact && found.class == Class::Exact);
        let over = if over { lane.waiting.remove(at) } else { None };
        if let Some(account) = self.link(link) {
            account.shrink(freed);
        }
        if let Some(Entry::Item(item)) = over {
            match self.lanes[lane_at].owner {
                Some(owner) => self.settle(lane_at, owner, item),
                None => self.done(&item),
            }
        }
    }

    /// Keys of snapshots are not to replace what is there.
    pub(crate) fn guard(&mut self) {
        self.guarded = true;
    }

    /// Nothing is sent any more when this has run out.
    pub(crate) fn set_lease(&mut self, lease: Arc<Lease>) {
        self.lease = Some(lease);
    }

    /// The lease had run out and is there again.
    pub(crate) fn lease_renewed(&self) {
        self.nodes.iter().for_each(|node| node.work.notify_one());
    }

    /// A link goes on after `position`, where a run before had come at least; `until` is the offset that its source had
    /// reached when nobody could hand over more for that run.
    pub(crate) fn resume(&mut self, link: u16, reached: (u64, Option<u64>), until: u64) {
        if let Some(account) = self.link(link) {
            account.reached = Some(reached);
            account.marked = Some(reached.0);
            account.replay_until = until;
        }
    }

    /// What of the only lane's work the target has lost since it confirmed it, by its state: the offset that it had, and
    /// the one that it has.
    pub(crate) fn lost(&self, state: &State) -> Option<(u64, u64)> {
        if !(self.rules.single && self.rules.exact) {
            return None;
        }
        let lost = |(number, account): (usize, &LinkAccount)| {
            let had = account.marked?;
            let link = u16::try_from(number).ok()?;
            let has = match self.checkpoints.stage_in(state, link) {
                Some(Stage::Stream(position)) => position.offset,
                _ => 0,
            };
            (has < had).then_some((had, has))
        };
        self.links.iter().enumerate().find_map(lost)
    }

    /// True while a snapshot is being applied.
    pub(crate) fn is_in_snapshot(&self) -> bool {
        self.links.iter().any(|account| account.reached.is_none())
    }

    /// True for a node that serves something and has no replicas.
    pub(crate) fn serves_alone(&self, address: &str) -> bool {
        let owners = self.owners();
        owners.into_iter().any(|at| self.nodes[at].address == address && !self.nodes[at].may_have_replicas())
    }

    /// True for what a run before may have done already.
    pub(crate) fn may_be_done(&self, link: u16, mark: Mark) -> bool {
        let until = self.links.get(usize::from(link)).map_or(0, |account| account.replay_until);
        matches!(mark, Mark::Stream(at) if at <= until)
    }

    /// What of an item a run before has done: gives it back unless all of it is.
    fn replayed(&mut self, lane_at: usize, mut item: Item) -> Option<Item> {
        if !self.may_be_done(item.link, item.mark) {
            return Some(item);
        }
        let lane = &mut self.lanes[lane_at];
        if lane.floor.iter().any(|&(link, mark)| link == item.link && item.mark <= mark) {
            self.counts.found_done += 1;
            match self.lanes[lane_at].owner {
                Some(at) => self.settle(lane_at, at, item),
                None => self.done(&item),
            }
            return None;
        }
        // Had it been done, the checkpoint would say so; but not of what went ahead.
        let told = lane.read && item.class == Class::Exact && self.rules.exact;
        item.replay = !told || self.rules.single;
        item.join();
        lane.recover |= !lane.read;
        Some(item)
    }

    pub(crate) fn windows(&self) -> Windows {
        self.rules.windows
    }

    /// The lane of a slot.
    pub(crate) fn lane_of(&self, slot: u16) -> usize {
        if self.rules.single { 0 } else { usize::from(slot) % self.lanes.len() }
    }

    pub(crate) fn link(&mut self, link: u16) -> Option<&mut LinkAccount> {
        self.links.get_mut(usize::from(link))
    }

    pub(crate) fn link_count(&self) -> usize {
        self.links.len()
    }

    /// Adds an item for `slot`.
    pub(crate) fn add(&mut self, slot: u16, item: Item) {
        let (link, ticket, cost) = (item.link, item.ticket, item.cost());
        if let Some(account) = self.link(link) {
            account.add(ticket, cost);
        }
        let lane = self.lane_of(slot);
        if let Some(item) = self.hold_back(slot, item)
            && let Some(item) = self.replayed(lane, item)
        {
            self.lanes[lane].waiting.push_back(Entry::Item(item));
            self.touch(lane);
        }
    }

    /// Adds an item that concerns no slot.
    pub(crate) fn add_anywhere(&mut self, item: Item) {
        let (link, ticket, cost) = (item.link, item.ticket, item.cost());
        if let Some(account) = self.link(link) {
            account.add(ticket, cost);
        }
        if let Some(item) = self.replayed(0, item) {
            self.lanes[0].waiting.push_back(Entry::Item(item));
            self.touch(0);
        }
    }

    /// Ends everything. The first error counts.
    pub(crate) fn fail(&mut self, error: Error) {
        if !self.failed {
            self.failed = true;
            self.failure = Some(error);
            self.over.notify_waiters();
            for link in &self.links {
                link.room.notify_waiters();
            }
        }
    }

    /// Something that has been refused for a while, once.
    pub(crate) fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// True while something is refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused_lanes > 0
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// What it has failed of, for whoever tells it in the end.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Appends what the checkpoint of a slot is to say.
    fn note(&self, out: &mut BytesMut, slot: u16, reached: Reached) {
        let history = self.links.get(usize::from(reached.link)).and_then(LinkAccount::history);
        self.checkpoints.append_write(out, slot, reached, history);
    }

    fn done(&mut self, item: &Item) {
        let (ticket, cost) = (item.ticket, item.cost());
        let exact = item.class == Class::Exact;
        if let Some(link) = self.link(item.link) {
            if let (Mark::Stream(mark), true) = (item.mark, exact) {
                link.marked = link.marked.max(Some(mark));
            }
            link.done(ticket, cost);
        }
    }
}

/// `host:port`, IPv6 addresses in brackets.
pub(crate) fn join(host: &str, port: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
