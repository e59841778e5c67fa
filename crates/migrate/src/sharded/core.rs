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

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use keyferry_resp::{Command, ErrorCode, ErrorReply, Frame, Retry, encode_command};
use tokio::sync::Notify;

use super::{
    batch,
    checkpoint::RunId,
    item::{Class, Item},
    lane::{Entry, Executed, Lane},
    links::LinkAccount,
};
use crate::{error::Error, progress::Meter};

/// Bytes that may be on their way to one node without having been answered.
const WINDOW: usize = 2 * 1024 * 1024;
/// Commands that may be so.
const WINDOW_COMMANDS: usize = 20_000;
/// Bytes that a node has answered and no replica confirmed, from which on it is asked for that.
const UNCONFIRMED: usize = 2 * 1024 * 1024;
/// How long a replica is waited for at once.
const REPLICA_WAIT: &str = "500";
/// The first and the longest wait before something refused is sent again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// Redirections in a row without a wait between them.
const HOPS: u32 = 3;

/// How a target is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// One lane for everything, as one server holds all slots and refuses no command for its keys.
    pub(crate) single: bool,
    /// How long something that passes by itself may last.
    pub(crate) retry_window: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    rules: Rules,
    run: RunId,
    lanes: Vec<Lane>,
    nodes: Vec<Node>,
    links: Vec<LinkAccount>,
    gates: HashMap<u64, Gate>,
    next_gate: u64,
    /// Lanes that are held back.
    held: Vec<usize>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Commands that were sent to another node than expected first, by the error's code.
    pub(crate) retried: BTreeMap<String, u64>,
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
    /// Transactions of the source that could not be one at the target.
    pub(crate) transactions_divided: u64,
}

/// One server.
#[derive(Debug)]
struct Node {
    address: String,
    up: bool,
    ready: VecDeque<usize>,
    flights: VecDeque<Flight>,
    in_flight: usize,
    in_flight_commands: usize,
    /// The database that its connection has selected.
    selected: u32,
    /// Since when it has owed a reply.
    owed_since: Option<Instant>,
    /// Since when it has not been reachable.
    down_since: Option<Instant>,
    /// Replicas that are connected to it.
    replicas: u64,
    /// Lanes with answered and unconfirmed items.
    unconfirmed_lanes: Vec<usize>,
    unconfirmed_bytes: usize,
    /// A gate waits for confirmation.
    want_wait: bool,
    want_info: bool,
    waiting: bool,
    work: Arc<Notify>,
    /// The connection is to be given up.
    pub(crate) condemned: bool,
}

/// Something that was sent and not answered.
#[derive(Debug)]
struct Flight {
    what: What,
    bytes: usize,
    replies: u32,
    answered: u32,
    /// The first error among its replies: which reply, which element of it, how many, and its text.
    error: Option<Refused>,
}

#[derive(Clone, Debug)]
struct Refused {
    reply: u32,
    element: Option<u64>,
    text: ErrorReply,
}

#[derive(Debug)]
enum What {
    /// `SELECT` or `ASKING` before something else.
    Prefix,
    Free {
        lane: usize,
        item: Item,
        asked: bool,
    },
    /// What is in the lane's `sent`.
    Batch {
        lane: usize,
        layout: batch::Layout,
        asked: bool,
    },
    Checkpoint {
        lane: usize,
        asked: bool,
    },
    Wait,
    Info,
}

/// What a reply is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// So many replies of which only errors are of interest.
    Plain(u64),
    /// One reply with content.
    Frame,
    /// None.
    Nothing,
}

#[derive(Debug)]
struct Gate {
    link: u16,
    ticket: u64,
    lanes: Vec<usize>,
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
    pub(crate) fn new(rules: Rules, links: Vec<Meter>) -> Self {
        let lanes = if rules.single { 1 } else { usize::from(keyferry_routing::SLOTS) };
        Core {
            rules,
            run: RunId::new(),
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            nodes: Vec::new(),
            links: links.into_iter().map(LinkAccount::new).collect(),
            gates: HashMap::new(),
            next_gate: 0,
            held: Vec::new(),
            failure: None,
            counts: Counts::default(),
            topology: Arc::default(),
            timer: Arc::default(),
            over: Arc::default(),
        }
    }

    // --- What the run asks and tells.

    pub(crate) fn run_id(&self) -> &RunId {
        &self.run
    }

    /// The lane of a slot.
    pub(crate) fn lane_of(&self, slot: u16) -> usize {
        if self.rules.single { 0 } else { usize::from(slot) % self.lanes.len() }
    }

    pub(crate) fn link(&mut self, link: u16) -> Option<&mut LinkAccount> {
        self.links.get_mut(usize::from(link))
    }

    /// Adds an item for `slot`.
    pub(crate) fn add(&mut self, slot: u16, item: Item) {
        let (link, ticket, cost) = (item.link, item.ticket, item.cost());
        if let Some(account) = self.link(link) {
            account.add(ticket, cost);
        }
        let lane = self.lane_of(slot);
        self.lanes[lane].waiting.push_back(Entry::Item(item));
        self.touch(lane);
    }

    /// Adds a gate to the lanes of `slots`. Nothing behind it goes out before [`Core::open_gate`].
    pub(crate) fn add_gate(
        &mut self,
        slots: impl IntoIterator<Item = u16>,
        link: u16,
        ticket: u64,
    ) -> GateHandle {
        let mut lanes: Vec<usize> = slots.into_iter().map(|slot| self.lane_of(slot)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let id = self.next_gate;
        self.next_gate += 1;
        let reached = Arc::new(Notify::new());
        if let Some(account) = self.link(link) {
            account.add(ticket, 0);
        }
        for &lane in &lanes {
            self.lanes[lane].waiting.push_back(Entry::Gate(id));
        }
        let missing = lanes.len();
        let gate = Gate { link, ticket, lanes: lanes.clone(), missing, reached: Arc::clone(&reached) };
        self.gates.insert(id, gate);
        for lane in lanes {
            self.arrive(lane);
            self.touch(lane);
        }
        GateHandle { id, reached }
    }

    /// What the gate stood for is done: its lanes go on.
    pub(crate) fn open_gate(&mut self, id: u64) {
        let Some(gate) = self.gates.remove(&id) else { return };
        if let Some(account) = self.link(gate.link) {
            account.done(gate.ticket, 0);
        }
        for lane in gate.lanes {
            let waiting = &mut self.lanes[lane].waiting;
            waiting.retain(|entry| !matches!(entry, Entry::Gate(other) if *other == id));
            self.arrive(lane);
            self.touch(lane);
        }
    }

    pub(crate) fn fail(&mut self, error: Error) {
        if self.failure.is_none() {
            self.failure = Some(error);
            self.over.notify_waiters();
            for link in &self.links {
                link.room.notify_waiters();
            }
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(crate) fn take_failure(&mut self) -> Error {
        // The first caller gets it; the others end for the same reason.
        self.failure
            .replace(Error::Internal("the target failed".into()))
            .unwrap_or_else(|| Error::Internal("nothing has failed".into()))
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
        self.settle_doubt(lane_at);
        self.touch(lane_at);
    }

    /// Puts back what may be lost, as soon as nothing is under way: before that it would be overtaken.
    fn settle_doubt(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        if lane.doubt && lane.sent.is_empty() && lane.free == 0 && !lane.recovering {
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

    /// Asks every node how many replicas it has.
    pub(crate) fn ask_for_replicas(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.up) {
            node.want_info = true;
            node.work.notify_one();
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
        node.replicas = replicas;
        node.work.notify_one();
    }

    /// A connection could not be made. An error when that has lasted for too long while there is work for it.
    pub(crate) fn node_unreachable(&mut self, at: usize, error: keyferry_client::Error) {
        let since = *self.nodes[at].down_since.get_or_insert_with(Instant::now);
        self.topology.notify_one();
        let needed = self.lanes.iter().any(|lane| lane.target() == Some(at) && !lane.waiting.is_empty());
        if needed && since.elapsed() >= self.rules.retry_window {
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
        lanes.retain(|&lane| self.lanes[lane].owner == Some(at));
        for flight in flights.into_iter().rev() {
            match flight.what {
                What::Free { lane, item, .. } => {
                    self.counts.replayed += 1;
                    self.lanes[lane].put_back_free(item, Executed::Unknown);
                    lanes.push(lane);
                }
                What::Batch { lane, .. } => {
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

    /// Takes the next bytes for a node.
    pub(crate) fn fill(&mut self, at: usize, out: &mut BytesMut) {
        if !self.nodes[at].up || self.has_failed() {
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
        let node = &mut self.nodes[at];
        if node.want_info {
            node.want_info = false;
            let before = out.len();
            encode_command(out, ["INFO", "replication"]);
            node.take_off(What::Info, 1, out.len() - before);
        }
        let due = node.want_wait || node.unconfirmed_bytes >= UNCONFIRMED || node.flights.is_empty();
        if node.replicas > 0 && !node.waiting && !node.unconfirmed_lanes.is_empty() && due {
            node.waiting = true;
            node.want_wait = false;
            let before = out.len();
            encode_command(out, ["WAIT", "1", REPLICA_WAIT]);
            node.take_off(What::Wait, 1, out.len() - before);
        }
    }

    /// What the next replies of a node are.
    pub(crate) fn expect(&self, at: usize) -> Expect {
        let mut plain = 0;
        for flight in &self.nodes[at].flights {
            if matches!(flight.what, What::Checkpoint { .. } | What::Wait | What::Info) {
                break;
            }
            plain += u64::from(flight.replies - flight.answered);
        }
        match (plain, self.nodes[at].flights.is_empty()) {
            (0, true) => Expect::Nothing,
            (0, false) => Expect::Frame,
            (n, _) => Expect::Plain(n),
        }
    }

    /// So many replies without an error.
    pub(crate) fn good(&mut self, at: usize, mut n: u64) {
        while n > 0 {
            let Some(flight) = self.nodes[at].flights.front_mut() else { return };
            let left = u64::from(flight.replies - flight.answered);
            if n < left {
                flight.answered += u32::try_from(n).unwrap_or(u32::MAX);
                break;
            }
            n -= left;
            self.land(at);
        }
        self.note_reply(at);
    }

    /// A reply with an error.
    pub(crate) fn bad(&mut self, at: usize, text: ErrorReply, element: Option<u64>) {
        let Some(flight) = self.nodes[at].flights.front_mut() else { return };
        let refused = Refused { reply: flight.answered, element, text };
        flight.error.get_or_insert(refused);
        flight.answered += 1;
        if flight.answered >= flight.replies {
            self.land(at);
        }
        self.note_reply(at);
    }

    /// A reply with content.
    pub(crate) fn content(&mut self, at: usize, frame: &Frame) {
        let Some(flight) = self.nodes[at].take_front() else { return };
        match flight.what {
            What::Checkpoint { lane, asked } => self.checkpoint(lane, at, asked, frame),
            What::Wait => {
                self.nodes[at].waiting = false;
                match frame.as_i64() {
                    Some(n) if n > 0 => self.confirm(at),
                    // Nobody confirmed in time. Is there anybody?
                    _ => self.nodes[at].want_info = true,
                }
            }
            What::Info => {
                let Some(info) = keyferry_client::Info::from_frame(frame) else { return self.note_reply(at) };
                if info.get("role") == Some("slave") {
                    // What it answered as a primary may be nowhere else.
                    self.topology.notify_one();
                    self.condemn(at);
                    return self.note_reply(at);
                }
                let replicas = info.get_as("connected_slaves").unwrap_or(0);
                self.nodes[at].replicas = replicas;
                if replicas == 0 {
                    let lanes = &self.nodes[at].unconfirmed_lanes;
                    let items: usize = lanes.iter().map(|&lane| self.lanes[lane].unconfirmed.len()).sum();
                    self.counts.without_replica += items as u64;
                    self.confirm(at);
                }
            }
            What::Prefix | What::Free { .. } | What::Batch { .. } => {}
        }
        self.note_reply(at);
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

    // --- Sending.

    /// Queues a lane at its node if it has work.
    fn touch(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        let Some(target) = lane.target() else { return };
        if lane.has_work() && lane.queued != Some(target) {
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
        let lane = &mut self.lanes[lane_at];
        if !lane.has_work() {
            return;
        }
        let node = &mut self.nodes[at];
        let slot = u16::try_from(lane_at).unwrap_or_default();
        if lane.recover {
            lane.recovering = true;
            let asked = lane.ask.take().is_some();
            node.select(0, out);
            if asked {
                node.asking(out);
            }
            let before = out.len();
            RunId::append_read(out, slot);
            node.take_off(What::Checkpoint { lane: lane_at, asked }, 1, out.len() - before);
            return;
        }
        while node.has_room() {
            match lane.waiting.front() {
                Some(Entry::Item(item)) if item.class == Class::Free => {
                    let (db, asked) = (item.db, lane.ask.take().is_some());
                    node.select(db, out);
                    if asked {
                        node.asking(out);
                    }
                    let Some(Entry::Item(item)) = lane.waiting.pop_front() else { return };
                    out.extend_from_slice(&item.bytes);
                    let (bytes, replies) = (item.bytes.len(), item.commands);
                    lane.free += 1;
                    node.take_off(What::Free { lane: lane_at, item, asked }, replies, bytes);
                    if asked {
                        return;
                    }
                }
                Some(Entry::Item(_)) if lane.is_quiet() => {
                    lane.take_batch();
                    let asked = lane.ask.take().is_some();
                    let layout = batch::Layout::of(&lane.sent);
                    node.select(layout.db, out);
                    if asked {
                        node.asking(out);
                    }
                    let before = out.len();
                    layout.append(&lane.sent, &self.run, slot, out);
                    let (replies, bytes) = (layout.replies, out.len() - before);
                    node.take_off(What::Batch { lane: lane_at, layout, asked }, replies, bytes);
                    return;
                }
                _ => return,
            }
        }
    }

    /// A gate at the front of a lane has been reached when the lane owes nothing.
    fn arrive(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        let Some(&Entry::Gate(id)) = lane.waiting.front() else { return };
        if !lane.is_quiet() || lane.recover {
            return;
        }
        if !lane.unconfirmed.is_empty() {
            if let Some(owner) = lane.owner {
                let node = &mut self.nodes[owner];
                node.want_wait = true;
                node.work.notify_one();
            }
            return;
        }
        let Some(gate) = self.gates.get_mut(&id) else { return };
        // Once for each lane: the lane's entry stays until the gate is opened.
        gate.missing = gate.lanes.iter().filter(|&&lane| !self.lanes[lane].is_at_gate(id)).count();
        if gate.missing == 0 {
            gate.reached.notify_one();
        }
    }

    // --- Replies.

    fn note_reply(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.owed_since = (!node.flights.is_empty()).then(Instant::now);
        node.work.notify_one();
    }

    /// The first flight has all its replies.
    fn land(&mut self, at: usize) {
        let Some(flight) = self.nodes[at].take_front() else { return };
        match (flight.what, flight.error) {
            (What::Prefix, None) => {}
            (What::Prefix, Some(refused)) => {
                let address = self.nodes[at].address.clone();
                self.fail(batch::refusal(address, None, &refused.text));
            }
            (What::Free { lane, item, asked }, None) => {
                self.lanes[lane].free = self.lanes[lane].free.saturating_sub(1);
                self.succeeded(lane);
                if asked {
                    self.done(&item);
                } else {
                    self.settle(lane, at, item);
                }
                self.settle_doubt(lane);
                self.arrive(lane);
                self.touch(lane);
            }
            (What::Free { lane, item, .. }, Some(refused)) => {
                let shown = item.clone();
                self.lanes[lane].put_back_free(item, Executed::No);
                self.refused(lane, at, &refused.text, Some(&shown));
            }
            (What::Batch { lane, layout, asked }, error) => self.batch_landed(lane, at, layout, asked, error),
            // Replies with content do not come here.
            (What::Checkpoint { .. } | What::Wait | What::Info, _) => {}
        }
    }

    fn batch_landed(
        &mut self,
        lane_at: usize,
        at: usize,
        layout: batch::Layout,
        asked: bool,
        error: Option<Refused>,
    ) {
        if let Some(refused) = error {
            let place = layout.place(&self.lanes[lane_at].sent, refused.reply, refused.element);
            let executed = refused.element.is_some();
            let lane = &self.lanes[lane_at];
            let culprit = place.and_then(|(item, _)| lane.sent.get(item));
            if executed && culprit.is_some_and(|item| item.replay && item.class == Class::Blind) {
                // What came later is there already. The rest of the transaction was executed.
                self.counts.replay_errors += 1;
            } else if !layout.wrapped
                && culprit.is_some_and(|item| item.replay)
                && refused.text.kind() == ErrorCode::WrongType
            {
                self.counts.replay_errors += 1;
            } else if executed {
                let error = batch::refusal(
                    self.nodes[at].address.clone(),
                    culprit.map(|item| (item, place.map_or(0, |(_, command)| command))),
                    &refused.text,
                );
                return self.fail(error);
            } else {
                let shown = culprit.cloned();
                self.lanes[lane_at].put_back_sent();
                return self.refused(lane_at, at, &refused.text, shown.as_ref());
            }
        }
        self.succeeded(lane_at);
        let lane = &mut self.lanes[lane_at];
        if lane.doubt {
            // The slot has changed hands since: whether this was handed over, the checkpoint tells.
            self.counts.replayed += lane.put_back_uncertain();
        } else {
            let items = std::mem::take(&mut lane.sent);
            for item in items {
                if asked {
                    self.done(&item);
                } else {
                    self.settle(lane_at, at, item);
                }
            }
        }
        self.arrive(lane_at);
        self.touch(lane_at);
    }

    fn succeeded(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        lane.trouble = None;
        lane.refused = 0;
    }

    /// An item has been executed by the lane's owner.
    fn settle(&mut self, lane_at: usize, at: usize, item: Item) {
        let node = &mut self.nodes[at];
        if node.replicas == 0 {
            return self.done(&item);
        }
        let lane = &mut self.lanes[lane_at];
        if lane.unconfirmed.is_empty() {
            node.unconfirmed_lanes.push(lane_at);
        }
        node.unconfirmed_bytes += item.cost();
        lane.unconfirmed.push_back(item);
    }

    /// A replica has everything that the node has answered.
    fn confirm(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.unconfirmed_bytes = 0;
        for lane_at in std::mem::take(&mut node.unconfirmed_lanes) {
            if self.lanes[lane_at].owner == Some(at) {
                for item in std::mem::take(&mut self.lanes[lane_at].unconfirmed) {
                    self.done(&item);
                }
            }
            self.arrive(lane_at);
            self.touch(lane_at);
        }
    }

    fn done(&mut self, item: &Item) {
        let (ticket, cost) = (item.ticket, item.cost());
        if let Some(link) = self.link(item.link) {
            link.done(ticket, cost);
        }
    }

    /// The checkpoint of a lane has come.
    fn checkpoint(&mut self, lane_at: usize, at: usize, asked: bool, frame: &Frame) {
        self.lanes[lane_at].recovering = false;
        if let Some(error) = frame.error_reply() {
            return self.refused(lane_at, at, &error, None);
        }
        let Some(marks) = self.run.read(frame) else {
            let what = format!("the checkpoint at {} is no hash", self.nodes[at].address);
            return self.fail(Error::Internal(what));
        };
        // From a node that has lost the slot meanwhile it is worth nothing; then it is asked for again.
        if asked || (self.lanes[lane_at].owner == Some(at) && !self.lanes[lane_at].doubt) {
            self.lanes[lane_at].recover = false;
            self.succeeded(lane_at);
            let dropped = self.lanes[lane_at].drop_executed(&marks);
            self.counts.found_done += dropped.len() as u64;
            for item in dropped {
                self.done(&item);
            }
        }
        self.settle_doubt(lane_at);
        self.arrive(lane_at);
        self.touch(lane_at);
    }

    /// A lane's work was refused and has been put back. Decides what comes next.
    fn refused(&mut self, lane_at: usize, at: usize, error: &ErrorReply, item: Option<&Item>) {
        self.counts.note_retry(error);
        let lane = &mut self.lanes[lane_at];
        let since = *lane.trouble.get_or_insert_with(Instant::now);
        lane.refused += 1;
        let passes = match error.retry() {
            Retry::Redirect => self.redirected(lane_at, at, error),
            Retry::BackOff | Retry::ResendTransaction => {
                if matches!(error.kind(), ErrorCode::ClusterDown | ErrorCode::MasterDown) {
                    self.topology.notify_one();
                }
                true
            }
            Retry::RefreshTopology => {
                self.topology.notify_one();
                true
            }
            _ => false,
        };
        if !passes || since.elapsed() >= self.rules.retry_window {
            let address = self.nodes[at].address.clone();
            return self.fail(batch::refusal(address, item.map(|item| (item, 0)), error));
        }
        let lane = &mut self.lanes[lane_at];
        if error.retry() != Retry::Redirect || lane.refused > HOPS {
            let wait = BACKOFF.0.saturating_mul(1 << lane.refused.min(6)).min(BACKOFF.1);
            if lane.hold.replace(Instant::now() + wait).is_none() {
                self.held.push(lane_at);
                self.timer.notify_one();
            }
        }
        self.settle_doubt(lane_at);
        self.touch(lane_at);
    }

    /// Follows `MOVED slot host:port` or `ASK slot host:port`.
    fn redirected(&mut self, lane_at: usize, at: usize, error: &ErrorReply) -> bool {
        let Some(to) = redirection(error, &self.nodes[at].address) else { return false };
        let node = self.node(&to.address);
        self.lanes[lane_at].ask = to.asking.then_some(node);
        if !to.asking {
            self.topology.notify_one();
            self.set_lane_owner(lane_at, node);
        }
        true
    }
}

/// Where a node sends its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirection {
    pub(crate) address: String,
    /// For this once, after `ASKING`.
    pub(crate) asking: bool,
}

/// Reads `MOVED slot host:port` and `ASK slot host:port` as said by the node at `own`.
pub(crate) fn redirection(error: &ErrorReply, own: &str) -> Option<Redirection> {
    let message = error.message();
    let (host, port) = message.rsplit(' ').next()?.rsplit_once(':')?;
    // Without a host it is the one that answered.
    let host = if host.is_empty() { own.rsplit_once(':').map_or("", |(host, _)| host) } else { host };
    Some(Redirection { address: join(host, port), asking: error.kind() == ErrorCode::Ask })
}

impl Counts {
    pub(crate) fn note_retry(&mut self, error: &ErrorReply) {
        *self.retried.entry(error.code().to_owned()).or_default() += 1;
    }

    /// A command with keys in several slots has been carried out in this way.
    pub(crate) fn note_cross_slot(&mut self, command: &Command, how: &'static str) {
        let name = String::from_utf8_lossy(command.name()).to_ascii_lowercase();
        *self.cross_slot.entry((name, how)).or_default() += 1;
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

impl Node {
    fn new(address: &str) -> Self {
        Node {
            address: address.to_owned(),
            up: false,
            ready: VecDeque::new(),
            flights: VecDeque::new(),
            in_flight: 0,
            in_flight_commands: 0,
            selected: 0,
            owed_since: None,
            down_since: None,
            replicas: 0,
            unconfirmed_lanes: Vec::new(),
            unconfirmed_bytes: 0,
            want_wait: false,
            want_info: false,
            waiting: false,
            work: Arc::default(),
            condemned: false,
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight < WINDOW && self.in_flight_commands < WINDOW_COMMANDS
    }

    fn take_off(&mut self, what: What, replies: u32, bytes: usize) {
        self.owed_since.get_or_insert_with(Instant::now);
        self.in_flight += bytes;
        self.in_flight_commands += replies as usize;
        self.flights.push_back(Flight { what, bytes, replies, answered: 0, error: None });
    }

    fn take_front(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.in_flight = self.in_flight.saturating_sub(flight.bytes);
        self.in_flight_commands = self.in_flight_commands.saturating_sub(flight.replies as usize);
        Some(flight)
    }

    fn select(&mut self, db: u32, out: &mut BytesMut) {
        if self.selected != db {
            self.selected = db;
            let before = out.len();
            encode_command(out, ["SELECT", &db.to_string()]);
            self.take_off(What::Prefix, 1, out.len() - before);
        }
    }

    fn asking(&mut self, out: &mut BytesMut) {
        let before = out.len();
        encode_command(out, ["ASKING"]);
        self.take_off(What::Prefix, 1, out.len() - before);
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
