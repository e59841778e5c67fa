//! What comes back, and what it means.

use std::time::{Duration, Instant};

use keyferry_resp::{ErrorCode, ErrorReply, Frame, Retry};
use keyferry_routing::{Redirect, RedirectKind};

use super::{
    Core, join,
    node::{Expect, Refused, What},
    reason,
};
use crate::{
    error::Error,
    sharded::{
        ahead::{AheadStage, Part},
        batch,
        item::{Class, Item},
        lane::{Answered, Asked, Executed},
    },
};

/// The first and the longest wait before something refused is sent again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// The longest wait for somebody to make room.
const PATIENT: Duration = Duration::from_secs(2);
/// How long something is refused before that is worth a word.
const TROUBLE: Duration = Duration::from_secs(1);
/// Redirections in a row without a wait between them.
const HOPS: u32 = 3;

impl Core {
    /// What the next replies of a node are.
    pub(crate) fn expect(&self, at: usize) -> Expect {
        let mut plain = 0;
        for flight in &self.nodes[at].flights {
            // The last of its replies has content.
            let ends = match &flight.what {
                What::Checkpoint { .. } | What::Wait | What::Info => true,
                // Each command in it that is refused is to be known.
                What::Batch { layout, .. } => layout.wrapped && self.keeps_refused(),
                What::Prefix | What::Free { .. } | What::Ahead { .. } => false,
            };
            plain += u64::from(flight.replies - flight.answered) - u64::from(ends);
            if ends {
                break;
            }
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
            What::Checkpoint { lane, asked } => {
                let error = flight.error.map(|refused| refused.text).or_else(|| frame.error_reply());
                self.checkpoint(lane, at, asked, error, frame);
            }
            What::Wait => {
                let own = self.own_replicas();
                self.nodes[at].waiting = false;
                match frame.as_i64().and_then(|count| u64::try_from(count).ok()) {
                    Some(count) if count > own => drop(self.confirm(at)),
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
                self.note_replicas(at, replicas);
                let node = &mut self.nodes[at];
                // Unless it was asked again since.
                node.unsure &= node.want_info;
                if !node.may_have_replicas() {
                    self.counts.without_replica += self.confirm(at);
                }
            }
            What::Batch { lane, layout } => self.result_landed(lane, at, layout, flight.error, frame),
            What::Prefix | What::Free { .. } | What::Ahead { .. } => {}
        }
        self.note_reply(at);
    }

    /// The result of a transaction of which every refused command is to be kept.
    fn result_landed(
        &mut self,
        lane_at: usize,
        at: usize,
        layout: batch::Layout,
        error: Option<Refused>,
        frame: &Frame,
    ) {
        let last = layout.replies.saturating_sub(1);
        let whole = frame.error_reply().map(|text| Refused { reply: last, element: None, text });
        if let Some(refused) = error.or(whole) {
            return self.batch_landed(lane_at, at, layout, Some(refused));
        }
        let results = match frame {
            Frame::Array(results) => &results[..],
            _ => &[],
        };
        for (element, reply) in (0..).zip(results) {
            let Some(text) = reply.error_reply() else { continue };
            let place = layout.place(&self.lanes[lane_at].sent, last, Some(element));
            let Some((item, n)) =
                place.and_then(|(item, n)| Some((self.lanes[lane_at].sent.get(item)?.clone(), n)))
            else {
                // Its own bookkeeping.
                return self.batch_landed(
                    lane_at,
                    at,
                    layout,
                    Some(Refused { reply: last, element: Some(element), text }),
                );
            };
            if self.is_repeated(&item, n) && text.kind() == ErrorCode::WrongType {
                self.counts.replay_errors += 1;
            } else if let Err(error) = self.keep_command(&item, n, &text) {
                return self.fail(error);
            }
        }
        self.batch_landed(lane_at, at, layout, None);
    }

    /// True for the so-manieth command of an item if it may be carried out again and may have been carried out before: also by
    /// itself, ahead of the rest.
    fn is_repeated(&self, item: &Item, n: u32) -> bool {
        item.replay && (item.class == Class::Blind || (self.rules.single && batch::is_blind(item, n)))
    }

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
            (What::Free { lane, item }, None) => {
                self.succeeded(lane);
                if self.lanes[lane].doubt {
                    self.counts.replayed += 1;
                    self.lanes[lane].put_back_free(item, Executed::Unknown);
                } else {
                    self.lanes[lane].free = self.lanes[lane].free.saturating_sub(1);
                    self.settle(lane, at, item);
                }
                self.settle_doubt(lane);
                self.arrive(lane);
                self.touch(lane);
            }
            (What::Free { lane, item, .. }, Some(refused)) => {
                let shown = item.clone();
                self.lanes[lane].put_back_free(item, Executed::No);
                self.refused(lane, at, &refused.text, Some((&shown, refused.reply)));
            }
            (What::Ahead { lane }, error) => self.ahead_landed(lane, at, error),
            (What::Batch { lane, layout }, error) => self.batch_landed(lane, at, layout, error),
            // Replies with content do not come here.
            (What::Checkpoint { .. } | What::Wait | What::Info, _) => {}
        }
    }

    /// What goes ahead of the rest of an item has been answered.
    fn ahead_landed(&mut self, lane_at: usize, at: usize, error: Option<Refused>) {
        let lane = &mut self.lanes[lane_at];
        lane.ahead = lane.ahead.saturating_sub(1);
        let Some(item) = lane.first_ahead() else { return };
        let Part::Divided(ahead) = &mut item.part else { return };
        ahead.stage = AheadStage::Done;
        let Some(refused) = error else {
            self.settle_doubt(lane_at);
            return self.touch(lane_at);
        };
        // Some of it has been executed, and some of what goes ahead behind it: all of that is done again, in order.
        let bytes = ahead.bytes.clone();
        let shown = batch::in_whole(item, &bytes, refused.reply);
        lane.doubt = true;
        self.refused(lane_at, at, &refused.text, Some((&shown.0, shown.1)));
    }

    fn batch_landed(&mut self, lane_at: usize, at: usize, layout: batch::Layout, error: Option<Refused>) {
        if let Some(refused) = error {
            let place = layout.place(&self.lanes[lane_at].sent, refused.reply, refused.element);
            let executed = refused.element.is_some();
            let lane = &self.lanes[lane_at];
            let culprit = place.and_then(|(item, _)| lane.sent.get(item));
            let exact = self.rules.exact;
            let repeated = culprit
                .zip(place)
                .is_some_and(|(item, (_, n))| (item.replay && !exact) || self.is_repeated(item, n));
            let explained = match refused.text.kind() {
                ErrorCode::WrongType => true,
                ErrorCode::BusyGroup => !exact,
                // Where what must not be repeated is, all kinds of things are there or gone already.
                _ => !exact && refused.text.retry() == Retry::Never,
            };
            if repeated && explained && (executed || !layout.wrapped) {
                // What came later is there already.
                self.counts.replay_errors += 1;
            } else if executed {
                let shown = culprit
                    .map(|item| batch::in_whole(item, &item.bytes, place.map_or(0, |(_, command)| command)));
                let address = self.nodes[at].address.clone();
                let shown = shown.as_ref().map(|(item, n)| (item, *n));
                let mut error = batch::refusal(address, shown, &refused.text);
                if let Error::Refused(refusal) = &mut error {
                    refusal.passed = exact;
                }
                return self.fail(error);
            } else {
                let shown = culprit.zip(place).map(|(item, (_, n))| batch::in_whole(item, &item.bytes, n));
                self.lanes[lane_at].put_back_sent();
                let shown = shown.as_ref().map(|(item, command)| (item, *command));
                return self.refused(lane_at, at, &refused.text, shown);
            }
        }
        self.succeeded(lane_at);
        let lane = &mut self.lanes[lane_at];
        if lane.doubt {
            // The slot has changed hands since: whether this was handed over, the checkpoint tells.
            let sent = std::mem::take(&mut lane.sent);
            lane.unconfirmed.extend(sent.into_iter().map(|item| Answered { item, by: None }));
            self.settle_doubt(lane_at);
        } else {
            let items = std::mem::take(&mut lane.sent);
            for item in items {
                self.settle(lane_at, at, item);
            }
        }
        self.arrive(lane_at);
        self.touch(lane_at);
    }

    fn succeeded(&mut self, lane_at: usize) {
        let lane = &mut self.lanes[lane_at];
        self.refused_lanes -= usize::from(lane.refused > 0);
        lane.trouble = None;
        lane.refused = 0;
    }

    /// An item has been executed by a node.
    pub(super) fn settle(&mut self, lane_at: usize, at: usize, item: Item) {
        let node = &mut self.nodes[at];
        let lane = &mut self.lanes[lane_at];
        if !node.may_have_replicas() {
            if lane.unconfirmed.is_empty() {
                return self.done(&item);
            }
            // Were an older one sent again without it, that would have the last word.
            return lane.unconfirmed.push_back(Answered { item, by: None });
        }
        if lane.unconfirmed.back().is_none_or(|last| last.by != Some(at)) {
            node.unconfirmed_lanes.push(lane_at);
        }
        node.unconfirmed_bytes += item.cost();
        lane.unconfirmed.push_back(Answered { item, by: Some(at) });
    }

    /// A replica has everything that the node has answered. Gives the number of items.
    fn confirm(&mut self, at: usize) -> u64 {
        let node = &mut self.nodes[at];
        node.unconfirmed_bytes = 0;
        let mut confirmed = 0;
        for lane_at in std::mem::take(&mut node.unconfirmed_lanes) {
            let lane = &mut self.lanes[lane_at];
            if lane.doubt {
                // Who serves it now may lack what this one has; all of it will be put back.
                continue;
            }
            for answered in lane.unconfirmed.iter_mut().filter(|answered| answered.by == Some(at)) {
                answered.by = None;
                confirmed += 1;
            }
            let settled = lane.unconfirmed.iter().take_while(|answered| answered.by.is_none()).count();
            let items: Vec<Item> = lane.unconfirmed.drain(..settled).map(|answered| answered.item).collect();
            items.iter().for_each(|item| self.done(item));
            self.arrive(lane_at);
            self.touch(lane_at);
        }
        confirmed
    }

    /// The checkpoint of a lane has come.
    fn checkpoint(
        &mut self,
        lane_at: usize,
        at: usize,
        asked: bool,
        error: Option<ErrorReply>,
        frame: &Frame,
    ) {
        self.lanes[lane_at].recovering = false;
        if let Some(error) = error {
            return self.refused(lane_at, at, &error, None);
        }
        let Some(marks) = self.checkpoints.read(frame) else {
            let what = format!("the checkpoint at {} is no hash", self.nodes[at].address);
            return self.fail(Error::Internal(what));
        };
        // From a node that has lost the slot meanwhile it is worth nothing; then it is asked for again.
        if asked || (self.lanes[lane_at].owner == Some(at) && !self.lanes[lane_at].doubt) {
            self.lanes[lane_at].recover = false;
            self.succeeded(lane_at);
            let dropped = self.lanes[lane_at].drop_executed(&marks);
            self.lanes[lane_at].read = true;
            self.lanes[lane_at].floor = marks;
            self.counts.found_done += dropped.len() as u64;
            // Executed, but by a connection whose end nobody has seen confirmed.
            for item in dropped {
                self.settle(lane_at, at, item);
            }
        }
        self.settle_doubt(lane_at);
        self.arrive(lane_at);
        self.touch(lane_at);
    }

    /// A lane's work was refused and has been put back. Decides what comes next.
    fn refused(&mut self, lane_at: usize, at: usize, error: &ErrorReply, item: Option<(&Item, u32)>) {
        let error = &reason(error);
        self.counts.note_retry(error);
        let lane = &mut self.lanes[lane_at];
        let since = *lane.trouble.get_or_insert_with(Instant::now);
        self.refused_lanes += usize::from(lane.refused == 0);
        lane.refused += 1;
        if since.elapsed() >= TROUBLE {
            let what = item.map_or_else(String::new, |(item, n)| format!(" ({})", batch::named(item, n)));
            self.trouble =
                Some(format!("{} refuses{what}: {error}; it is tried again", self.nodes[at].address));
        }
        let passes = match error.retry() {
            Retry::Redirect => self.redirected(lane_at, at, error, item.map(|(item, _)| item)),
            Retry::BackOff | Retry::ResendTransaction | Retry::Operator => {
                if matches!(error.kind(), ErrorCode::ClusterDown | ErrorCode::MasterDown) {
                    self.topology.notify_one();
                }
                true
            }
            Retry::RefreshTopology => {
                self.topology.notify_one();
                // What it answered as a primary may be nowhere else.
                self.condemn(at);
                true
            }
            _ => false,
        };
        let window = self.rules.windows.of(error);
        if let (None, Some((item, n))) = (window, item) {
            // It will not be taken at any time; what stands around it will.
            match self.keep_command(item, n, error) {
                Ok(false) => {}
                Ok(true) => {
                    self.succeeded(lane_at);
                    self.leave_out(lane_at, item, n);
                    self.settle_doubt(lane_at);
                    self.arrive(lane_at);
                    return self.touch(lane_at);
                }
                Err(error) => return self.fail(error),
            }
        }
        if !passes || window.is_none_or(|window| since.elapsed() >= window) {
            let address = self.nodes[at].address.clone();
            return self.fail(batch::refusal(address, item, error));
        }
        let lane = &mut self.lanes[lane_at];
        if error.retry() != Retry::Redirect || lane.refused > HOPS {
            let most = if error.retry() == Retry::Operator { PATIENT } else { BACKOFF.1 };
            let wait = BACKOFF.0.saturating_mul(1 << lane.refused.min(8)).min(most);
            if lane.hold.replace(Instant::now() + wait).is_none() {
                self.held.push(lane_at);
                self.timer.notify_one();
            }
        }
        self.settle_doubt(lane_at);
        self.touch(lane_at);
    }

    /// Follows `MOVED slot host:port` or `ASK slot host:port`.
    fn redirected(&mut self, lane_at: usize, at: usize, error: &ErrorReply, item: Option<&Item>) -> bool {
        let Some(to) = redirection(error, &self.nodes[at].address) else { return false };
        let node = self.node(&to.address);
        let what = item.map_or(Asked::Checkpoint, |item| Asked::Item(item.link, item.mark));
        self.lanes[lane_at].ask = to.asking.then_some((node, what));
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
    let redirect = Redirect::parse(error)?;
    let (host, _) = own.rsplit_once(':')?;
    let (host, port) = redirect.address(host);
    Some(Redirection { address: join(host, &port.to_string()), asking: redirect.kind == RedirectKind::Ask })
}
