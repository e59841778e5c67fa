//! One server: what is under way to it.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use bytes::BytesMut;
use keyferry_resp::{ErrorReply, encode_command};
use tokio::sync::Notify;

use crate::sharded::{batch, item::Item};

/// Bytes that may be on their way to one node without having been answered.
const WINDOW: usize = 2 * 1024 * 1024;
/// Commands that may be so.
const WINDOW_COMMANDS: usize = 20_000;

/// One server.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: String,
    pub(super) up: bool,
    pub(super) ready: VecDeque<usize>,
    pub(super) flights: VecDeque<Flight>,
    pub(super) in_flight: usize,
    pub(super) in_flight_commands: usize,
    /// The database that its connection has selected.
    pub(super) selected: u32,
    /// Since when it has owed a reply.
    pub(super) owed_since: Option<Instant>,
    /// Since when it has not been reachable.
    pub(super) down_since: Option<Instant>,
    /// Replicas that are connected to it.
    pub(super) replicas: u64,
    /// Since when it has said that they are gone.
    pub(super) alone_since: Option<Instant>,
    /// It serves more than when it was asked how many that are.
    pub(super) unsure: bool,
    /// Lanes with answered and unconfirmed items.
    pub(super) unconfirmed_lanes: Vec<usize>,
    pub(super) unconfirmed_bytes: usize,
    /// A gate waits for confirmation.
    pub(super) want_wait: bool,
    pub(super) want_info: bool,
    pub(super) waiting: bool,
    pub(super) work: Arc<Notify>,
    /// The connection is to be given up.
    pub(super) condemned: bool,
}

/// Something that was sent and not answered.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) what: What,
    pub(super) bytes: usize,
    pub(super) replies: u32,
    pub(super) answered: u32,
    /// The first error among its replies: which reply, which element of it, how many, and its text.
    pub(super) error: Option<Refused>,
}

#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) reply: u32,
    pub(super) element: Option<u64>,
    pub(super) text: ErrorReply,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// `SELECT` or `ASKING` before something else.
    Prefix,
    Free {
        lane: usize,
        item: Item,
    },
    /// What goes ahead of the rest of an item: of the first in `waiting` of which that is under way.
    Ahead {
        lane: usize,
    },
    /// What is in the lane's `sent`.
    Batch {
        lane: usize,
        layout: batch::Layout,
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

impl Node {
    pub(super) fn new(address: &str) -> Self {
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
            alone_since: None,
            unsure: false,
            unconfirmed_lanes: Vec::new(),
            unconfirmed_bytes: 0,
            want_wait: false,
            want_info: false,
            waiting: false,
            work: Arc::default(),
            condemned: false,
        }
    }

    /// True when what it answers may be on a replica, or has to be.
    pub(super) fn may_have_replicas(&self) -> bool {
        self.unsure || self.replicas > 0
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight < WINDOW && self.in_flight_commands < WINDOW_COMMANDS
    }

    pub(super) fn take_off(&mut self, what: What, replies: u32, bytes: usize) {
        self.owed_since.get_or_insert_with(Instant::now);
        self.in_flight += bytes;
        self.in_flight_commands += replies as usize;
        self.flights.push_back(Flight { what, bytes, replies, answered: 0, error: None });
    }

    pub(super) fn take_front(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.in_flight = self.in_flight.saturating_sub(flight.bytes);
        self.in_flight_commands = self.in_flight_commands.saturating_sub(flight.replies as usize);
        Some(flight)
    }

    pub(super) fn select(&mut self, db: u32, out: &mut BytesMut) {
        if self.selected != db {
            self.selected = db;
            let before = out.len();
            encode_command(out, ["SELECT", &db.to_string()]);
            self.take_off(What::Prefix, 1, out.len() - before);
        }
    }

    pub(super) fn asking(&mut self, out: &mut BytesMut) {
        let before = out.len();
        encode_command(out, ["ASKING"]);
        self.take_off(What::Prefix, 1, out.len() - before);
    }
}
