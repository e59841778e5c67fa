//! The state of a target of several nodes: what waits for which slot, what is under way to which node, and what each
//! reply means. No sockets and no clock of its own: [`super::node`] carries the bytes.
//!
//! # Rules
//!
//! - Ordered items of a lane go out one batch at a time. A batch is one transaction, or one blind write, so that it is
//!   executed or refused as a whole, and nothing overtakes what was refused.
//! - A batch that must not be repeated ends with the lane's checkpoint.
//! - What a primary has answered is kept until a replica has it, where there are replicas. When a node is lost or a slot
//!   changes hands, what is not known to have survived is sent again, in order, behind a look at the checkpoint.
mod hold;
#[cfg(test)]
mod model;
mod node;
mod reply;
mod send;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use keyferry_resp::{Command, ErrorCode, ErrorReply, Retry};
use keyferry_routing::SlotSet;
use tokio::sync::Notify;

use self::node::{Node, What};
pub(crate) use self::{
    node::Expect,
    reply::{Redirection, redirection},
};
use super::{
    batch,
    checkpoint::{Checkpoints, Reached},
    item::{Class, Item, Mark},
    lane::{Entry, Executed, Lane},
    links::LinkAccount,
    state::{Stage, State},
};
use crate::{
    dead_letters::{DeadLetters, Letter},
    error::Error,
    fence::Lease,
    progress::Meter,
};

/// How a target is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// One lane for everything, as one server holds all slots and refuses no command for its keys.
    pub(crate) single: bool,
    /// What must not be repeated goes with a checkpoint.
    pub(crate) exact: bool,
    /// How many bytes of the stream behind the position at the target something may go ahead of its transaction; none, if 0.
    pub(crate) ahead: u64,
    /// How long what passes may last.
    pub(crate) windows: Windows,
    /// How long a node that had replicas has to be without them, before nothing is to be waited for.
    pub(crate) alone_after: Duration,
}

/// How long a target may refuse what it would take at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// While it is away, loads its data, is a replica, or has slots that nobody serves.
    pub(crate) connect: Duration,
    /// For any other reason that passes, or that somebody can put right.
    pub(crate) other: Duration,
}

impl Windows {
    /// The window for an error; none where waiting does not help.
    pub(crate) fn of(self, error: &ErrorReply) -> Option<Duration> {
        match error.kind() {
            // A slot on its way is as good as one that nobody serves.
            ErrorCode::TryAgain
            | ErrorCode::Loading
            | ErrorCode::MasterDown
            | ErrorCode::ClusterDown
            | ErrorCode::NoMasterLink
            | ErrorCode::NotReady => Some(self.connect),
            _ => match error.retry() {
                Retry::Redirect | Retry::RefreshTopology => Some(self.connect),
                Retry::BackOff | Retry::Operator | Retry::ResendTransaction => Some(self.other),
                _ => None,
            },
        }
    }
}

/// The reason that a discarded transaction was discarded for, where the error says it.
pub(crate) fn reason(error: &ErrorReply) -> ErrorReply {
    const BECAUSE: &str = "because of: ";
    let text = error.message();
    match (error.kind(), text.find(BECAUSE)) {
        (ErrorCode::ExecAbort, Some(at)) => ErrorReply::new(text[at + BECAUSE.len()..].as_bytes().to_vec()),
        _ => error.clone(),
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    rules: Rules,
    checkpoints: Arc<Checkpoints>,
    /// Where commands go that are refused for good; without it they end everything.
    letters: Option<DeadLetters>,
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

/// What happened on the way, for the report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Commands that were sent to another node than expected first, by the error's code.
    pub(crate) retried: BTreeMap<String, u64>,
    /// Where the same is seen while it runs.
    pub(crate) live: Meter,
    /// Items sent again without knowing whether they had been executed.
    pub(crate) replayed: u64,
    /// Items found to have been executed after all.
    pub(crate) found_done: u64,
    /// Errors of blind writes that were repeated, which their repetition explains.
    pub(crate) replay_errors: u64,
    /// Connections lost.
    pub(crate) nodes_lost: u64,
    /// Items that no replica confirmed, as there was none.
    pub(crate) without_replica: u64,
    /// Commands with keys in several slots, by name and how they were carried out.
    pub(crate) cross_slot: BTreeMap<(String, &'static str), u64>,
    /// Deletions of a shard of the source behind slots that it had given up.
    pub(crate) tidied: u64,
    /// Commands of slots that a shard of the source was given in part and did not take over.
    pub(crate) not_taken_over: u64,
    /// Keys and commands of slots that the shard which spoke of them did not own: keys that no client can reach.
    pub(crate) strays: u64,
    /// Slots that changed hands at the source.
    pub(crate) slots_moved: u64,
    /// Full syncs that were not the first, after which the target was compared with the source's keys.
    pub(crate) mirrored: u64,
    /// Keys that were removed then.
    pub(crate) mirror_removed: u64,
    pub(crate) mirror_samples: Vec<String>,
    /// Keys that were kept since they had been there before.
    pub(crate) mirror_kept: u64,
    /// How often nothing was removed, since nobody knew what had been there before.
    pub(crate) mirror_unknown: u64,
    /// Transactions of the source that could not be one at the target.
    pub(crate) transactions_divided: u64,
    /// Commands that were refused for good and are kept in a file, by the error's code.
    pub(crate) dead_letters: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Gate {
    link: u16,
    ticket: u64,
    cost: usize,
    lanes: Vec<usize>,
    /// Of its lanes, so many have not been seen to have reached it; the others stand behind them.
    missing: usize,
    reached: Arc<Notify>,
}

/// Something that has been reached when everything before it in its lanes is done.
#[derive(Debug)]
pub(crate) struct GateHandle {
    pub(crate) id: u64,
    /// Told when it has been reached.
    pub(crate) reached: Arc<Notify>,
}

impl Core {
    pub(crate) fn new(rules: Rules, checkpoints: Arc<Checkpoints>, links: Vec<Meter>) -> Self {
        let lanes = if rules.single { 1 } else { usize::from(keyferry_routing::SLOTS) };
        Core {
            rules,
            checkpoints,
            letters: None,
            lease: None,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            nodes: Vec::new(),
            links: links.into_iter().map(LinkAccount::new).collect(),
            gates: HashMap::new(),
            next_gate: 0,
            held: Vec::new(),
            shards: Vec::new(),
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

    /// Keeps a command of a link that was refused for good, if there is a place for such. True when it is kept.
    pub(crate) fn keep_refused(
        &mut self,
        link: u16,
        offset: Option<u64>,
        db: u32,
        command: &[u8],
        reply: &ErrorReply,
    ) -> Result<bool, Error> {
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

    // --- Who serves what.

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

    fn set_lane_owner(&mut self, lane_at: usize, node: usize) {
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
    fn settle_doubt(&mut self, lane_at: usize) {
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

    // --- What the connections do.

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
    fn note_replicas(&mut self, at: usize, replicas: u64) {
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

impl Counts {
    pub(crate) fn note_retry(&mut self, error: &ErrorReply) {
        *self.retried.entry(error.code().to_owned()).or_default() += 1;
        self.live.count_error(error.code());
    }

    /// A command with keys in several slots has been carried out in this way.
    pub(crate) fn note_cross_slot(&mut self, command: &Command, how: &'static str) {
        let name = String::from_utf8_lossy(command.name()).to_ascii_lowercase();
        *self.cross_slot.entry((name, how)).or_default() += 1;
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
