//! Streams: nodes of entries, counters, groups, idempotent producers.

use std::collections::HashSet;

use super::element::{Loc, StreamCounters, StreamId, StreamInfo};
use super::machine::{Fault, Found, Input, Machine, Turn, lens, need, place, string};
use crate::blob::{Scalar, listpack};
use crate::types::ValueType;

/// The entry is a mark of one that was deleted.
const DELETED: i64 = 1;
/// The entry has the fields of the node's master entry.
const SAME_FIELDS: i64 = 2;

/// A pending entry of a group, while its owner is looked for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: StreamId,
    delivered_at: i64,
    deliveries: u64,
    taken: bool,
}

/// Where decoding stands in a stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// 1 to 5, as in type numbers 15, 19, 21, 26, 27.
    generation: u8,
    place: Place,
    last_entry: Option<StreamId>,
    live: u64,
    node: Node,
    /// Fields of the master entry of the node; in the blob or in `numbers`.
    master_fields: Vec<Loc>,
    /// Decimal text of the integers among the master fields.
    numbers: Vec<u8>,
    /// The entry found last.
    pub(super) pairs: Vec<(Loc, Loc)>,
    groups: u64,
    group_names: HashSet<Box<[u8]>>,
    pending: Vec<Waiting>,
    consumers: u64,
    consumer_names: HashSet<Box<[u8]>>,
    /// The consumer or producer whose entries come.
    pub(super) name: Vec<u8>,
    producers: u64,
}

/// A node and what its master entry says.
#[derive(Debug, Default)]
struct Node {
    id: StreamId,
    live: u64,
    deleted: u64,
    seen_live: u64,
    seen_deleted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Nodes,
    Entries,
    Info,
    GroupCount,
    Group,
    /// Reading the pending entries of a group; so many to come.
    Waiting(u64),
    ConsumerCount,
    Consumer,
    ConsumerPending,
    ReleasedCount,
    Released,
    GroupEnd,
    Limits,
    Producer,
    Record,
    Totals,
}

impl Stream {
    pub(super) fn new(ty: ValueType) -> Self {
        let generation = match ty {
            ValueType::Stream => 1,
            ValueType::Stream2 => 2,
            ValueType::Stream3 => 3,
            ValueType::Stream4 => 4,
            _ => 5,
        };
        Self {
            generation,
            place: Place::Start,
            last_entry: None,
            live: 0,
            node: Node::default(),
            master_fields: Vec::new(),
            numbers: Vec::new(),
            pairs: Vec::new(),
            groups: 0,
            group_names: HashSet::new(),
            pending: Vec::new(),
            consumers: 0,
            consumer_names: HashSet::new(),
            name: Vec::new(),
            producers: 0,
        }
    }
}

/// Takes one step through a stream.
pub(super) fn turn(machine: &mut Machine, input: &mut Input<'_>) -> Result<Turn, Fault> {
    // Out of the machine while it is worked on: both are needed at once.
    let Some(mut stream) = machine.stream.take() else { return Ok(machine.done()) };
    let turn = stream.turn(machine, input);
    machine.stream = Some(stream);
    turn
}

impl Stream {
    fn turn(&mut self, machine: &mut Machine, input: &mut Input<'_>) -> Result<Turn, Fault> {
        match self.place {
            Place::Start => {
                let ([nodes], size) = need!(lens(input.rest()));
                input.at += size;
                machine.left = nodes;
                self.place = Place::Nodes;
            }
            Place::Nodes => return self.node(machine, input),
            Place::Entries => return self.entry(machine, input),
            Place::Info => return self.info(input),
            Place::GroupCount => {
                let ([groups], size) = need!(lens(input.rest()));
                input.at += size;
                self.groups = groups;
                self.place = Place::Group;
            }
            Place::Group => return self.group(machine, input),
            Place::Waiting(left) => return self.waiting(machine, input, left),
            Place::ConsumerCount => {
                let ([consumers], size) = need!(lens(input.rest()));
                input.at += size;
                self.consumers = consumers;
                self.consumer_names.clear();
                self.place = Place::Consumer;
            }
            Place::Consumer => return self.consumer(machine, input),
            Place::ConsumerPending => {
                if machine.left == 0 {
                    self.place = Place::Consumer;
                } else {
                    let Some(id) = raw_id(input.rest()) else { return Ok(Turn::Need) };
                    let found = self.take(id, true)?;
                    input.at += 16;
                    machine.left -= 1;
                    return Ok(Turn::Found(found));
                }
            }
            Place::ReleasedCount => {
                let ([left], size) = need!(lens(input.rest()));
                input.at += size;
                machine.left = left;
                self.place = Place::Released;
            }
            Place::Released => {
                if machine.left == 0 {
                    self.place = Place::GroupEnd;
                } else {
                    let Some(id) = raw_id(input.rest()) else { return Ok(Turn::Need) };
                    let found = self.take(id, false)?;
                    input.at += 16;
                    machine.left -= 1;
                    return Ok(Turn::Found(found));
                }
            }
            Place::GroupEnd => {
                if self.pending.iter().any(|waiting| !waiting.taken) {
                    return Err(Fault::Bad("a pending entry of a consumer group has no owner"));
                }
                self.pending.clear();
                self.place = Place::Group;
            }
            Place::Limits => {
                let ([duration, max_entries, producers], size) = need!(lens(input.rest()));
                input.at += size;
                self.producers = producers;
                self.place = Place::Producer;
                return Ok(Turn::Found(Found::IdempotencyLimits { duration, max_entries }));
            }
            Place::Producer => {
                if self.producers == 0 {
                    self.place = Place::Totals;
                } else {
                    let rest = input.rest();
                    let (_, size) = need!(string(rest, machine.limits().element));
                    let ([records], more) = need!(lens(&rest[size..]));
                    let producer = need!(machine.text(input));
                    input.at += more;
                    self.hold(machine, input, producer);
                    machine.left = records;
                    self.producers -= 1;
                    self.place = Place::Record;
                }
            }
            Place::Record => {
                if machine.left == 0 {
                    self.place = Place::Producer;
                } else {
                    let rest = input.rest();
                    let (_, size) = need!(string(rest, machine.limits().element));
                    let ([ms, seq], more) = need!(lens(&rest[size..]));
                    let iid = need!(machine.text(input));
                    input.at += more;
                    machine.left -= 1;
                    return Ok(Turn::Found(Found::IdempotencyRecord { iid, entry: StreamId { ms, seq } }));
                }
            }
            Place::Totals => {
                let ([added, duplicates], size) = need!(lens(input.rest()));
                input.at += size;
                machine.done();
                return Ok(Turn::Found(Found::IdempotencyTotals { added, duplicates }));
            }
        }
        Ok(Turn::Next)
    }

    /// Opens the next node and reads its master entry.
    fn node(&mut self, machine: &mut Machine, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(left) = machine.left.checked_sub(1) else {
            self.place = Place::Info;
            return Ok(Turn::Next);
        };
        let rest = input.rest();
        let (_, size) = need!(string(rest, machine.limits().element));
        let (head, len) = need!(string(&rest[size..], machine.limits().element));
        let key = need!(machine.text(input));
        let id = raw_id(machine.bytes(input, key))
            .filter(|_| machine.bytes(input, key).len() == 16)
            .ok_or(Fault::Bad("the key of a stream node is not an entry id"))?;
        if self.last_entry.is_some_and(|last| id <= last) {
            return Err(Fault::Bad("the nodes of a stream are not in the order of their ids"));
        }
        machine.open(input, head)?;
        input.at += len;
        machine.left = left;

        let live = count(machine, input, "a stream node states a number of entries below zero")?;
        let deleted = count(machine, input, "a stream node states a number of deleted entries below zero")?;
        let fields = count(machine, input, "a stream node states a number of fields below zero")?;
        self.node = Node { id, live, deleted, ..Node::default() };
        self.master_fields.clear();
        self.numbers.clear();
        for _ in 0..fields {
            machine.scratch.clear();
            let field = machine.scalar_loc(input)?.ok_or(Fault::Bad(CUT))?;
            self.master_fields.push(match field {
                Loc::Scratch { at, len } => {
                    let start = self.numbers.len();
                    self.numbers.extend_from_slice(&machine.scratch[at..at + len]);
                    Loc::Scratch { at: start, len }
                }
                field => field,
            });
        }
        if number(machine, input)? != 0 {
            return Err(Fault::Bad("the master entry of a stream node does not end with 0"));
        }
        self.place = Place::Entries;
        Ok(Turn::Next)
    }

    /// Reads the next entry when it is live, has the fields of the master entry and nothing unusual, as most have.
    /// Otherwise nothing is changed that matters to the long way, which then starts at the same place.
    fn quick_entry(&mut self, machine: &mut Machine, input: &Input<'_>) -> Option<StreamId> {
        let (blob, cursor, scratch) = machine.open_listpack(input)?;
        let mut ahead = *cursor;
        let number = |ahead: &mut listpack::Cursor| match ahead.quick(blob)? {
            Scalar::Int(n) => Some(n),
            Scalar::Bytes(_) => None,
        };
        if number(&mut ahead)? != SAME_FIELDS {
            return None;
        }
        let (ms, seq) = (number(&mut ahead)? as u64, number(&mut ahead)? as u64);
        let id = StreamId { ms: self.node.id.ms.wrapping_add(ms), seq: self.node.id.seq.wrapping_add(seq) };
        scratch.clear();
        scratch.extend_from_slice(&self.numbers);
        self.pairs.clear();
        for &field in &self.master_fields {
            self.pairs.push((field, place(blob, ahead.quick(blob)?, scratch)));
        }
        let is_right = number(&mut ahead)? == self.master_fields.len() as i64 + 3
            && self.last_entry.is_none_or(|last| id > last)
            && id >= self.node.id;
        if !is_right {
            return None;
        }
        *cursor = ahead;
        self.last_entry = Some(id);
        self.node.seen_live += 1;
        self.live += 1;
        Some(id)
    }

    /// Reads the next entry of the node. Deleted ones are checked and passed over.
    fn entry(&mut self, machine: &mut Machine, input: &Input<'_>) -> Result<Turn, Fault> {
        if let Some(id) = self.quick_entry(machine, input) {
            return Ok(Turn::Found(Found::StreamEntry(id)));
        }
        let node = &mut self.node;
        let Some(flags) = machine.scalar(input)? else {
            if (node.seen_live, node.seen_deleted) != (node.live, node.deleted) {
                return Err(Fault::Bad("a stream node has another number of entries than it states"));
            }
            self.place = Place::Nodes;
            machine.close();
            return Ok(Turn::Next);
        };
        let Scalar::Int(flags) = flags else { return Err(Fault::Bad(NOT_A_NUMBER)) };
        if flags & !(DELETED | SAME_FIELDS) != 0 {
            return Err(Fault::Bad("a stream entry has unknown flags"));
        }
        let ms = number(machine, input)?;
        let seq = number(machine, input)?;
        // Differences are stored as signed numbers of the same 64 bits.
        let id =
            StreamId { ms: node.id.ms.wrapping_add(ms as u64), seq: node.id.seq.wrapping_add(seq as u64) };
        self.pairs.clear();
        machine.scratch.clear();
        let elements = if flags & SAME_FIELDS != 0 {
            // The numbers among the master fields must be in the same scratch space as those of the entry.
            machine.scratch.extend_from_slice(&self.numbers);
            for &field in &self.master_fields {
                let value = machine.scalar_loc(input)?.ok_or(Fault::Bad(CUT))?;
                self.pairs.push((field, value));
            }
            self.master_fields.len() as i64 + 3
        } else {
            let fields = count(machine, input, "a stream entry states a number of fields below zero")?;
            let mut read = 0;
            while read < fields {
                let name = machine.scalar_loc(input)?.ok_or(Fault::Bad(CUT))?;
                let value = machine.scalar_loc(input)?.ok_or(Fault::Bad(CUT))?;
                self.pairs.push((name, value));
                read += 1;
            }
            2 * self.pairs.len() as i64 + 4
        };
        if number(machine, input)? != elements {
            return Err(Fault::Bad("the element count of a stream entry is not its number of elements"));
        }
        if self.last_entry.is_some_and(|last| id <= last) || id < self.node.id {
            return Err(Fault::Bad("the entries of a stream are not in the order of their ids"));
        }
        self.last_entry = Some(id);
        if flags & DELETED != 0 {
            self.node.seen_deleted += 1;
            return Ok(Turn::Next);
        }
        self.node.seen_live += 1;
        self.live += 1;
        Ok(Turn::Found(Found::StreamEntry(id)))
    }

    fn info(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let (length, last_id, counters) = if self.generation == 1 {
            let ([length, ms, seq], size) = need!(lens(input.rest()));
            input.at += size;
            (length, StreamId { ms, seq }, None)
        } else {
            let (n, size) = need!(lens::<8>(input.rest()));
            input.at += size;
            let counters = StreamCounters {
                first_id: StreamId { ms: n[3], seq: n[4] },
                max_deleted_id: StreamId { ms: n[5], seq: n[6] },
                entries_added: n[7],
            };
            (n[0], StreamId { ms: n[1], seq: n[2] }, Some(counters))
        };
        self.place = Place::GroupCount;
        Ok(Turn::Found(Found::StreamInfo(StreamInfo { length, live: self.live, last_id, counters })))
    }

    fn group(&mut self, machine: &mut Machine, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(left) = self.groups.checked_sub(1) else {
            if self.generation >= 4 {
                self.place = Place::Limits;
            } else {
                machine.done();
            }
            return Ok(Turn::Next);
        };
        let rest = input.rest();
        let (_, size) = need!(string(rest, machine.limits().element));
        let (last_id, entries_read, pending, more) = if self.generation == 1 {
            let ([ms, seq, pending], more) = need!(lens(&rest[size..]));
            (StreamId { ms, seq }, u64::MAX, pending, more)
        } else {
            let ([ms, seq, read, pending], more) = need!(lens(&rest[size..]));
            (StreamId { ms, seq }, read, pending, more)
        };
        let name = need!(machine.text(input));
        input.at += more;
        if !self.group_names.insert(machine.bytes(input, name).into()) {
            return Err(Fault::Bad("a stream has two consumer groups of one name"));
        }
        self.groups = left;
        self.place = Place::Waiting(pending);
        // All ones, -1, stands for "not known".
        let entries_read = Some(entries_read).filter(|n| *n != u64::MAX);
        Ok(Turn::Found(Found::Group { name, last_id, entries_read, pending }))
    }

    /// Reads a pending entry of the group, whose owner is told later.
    fn waiting(&mut self, machine: &Machine, input: &mut Input<'_>, left: u64) -> Result<Turn, Fault> {
        let Some(left) = left.checked_sub(1) else {
            self.place = Place::ConsumerCount;
            return Ok(Turn::Next);
        };
        let limit = machine.limits().pending;
        if self.pending.len() >= limit {
            let claimed = (self.pending.len() as u64).saturating_add(left).saturating_add(1);
            return Err(Fault::Limit {
                what: "number of pending entries of a group",
                claimed,
                limit: limit as u64,
            });
        }
        let rest = input.rest();
        let (Some(id), Some(time)) = (raw_id(rest), rest.get(16..).and_then(crate::wire::u64_le)) else {
            return Ok(Turn::Need);
        };
        let ([deliveries], size) = need!(lens(&rest[24..]));
        input.at += 24 + size;
        if self.pending.last().is_some_and(|last| id <= last.id) {
            return Err(Fault::Bad("the pending entries of a group are not in the order of their ids"));
        }
        self.pending.push(Waiting { id, delivered_at: time as i64, deliveries, taken: false });
        self.place = Place::Waiting(left);
        Ok(Turn::Next)
    }

    fn consumer(&mut self, machine: &mut Machine, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(left) = self.consumers.checked_sub(1) else {
            self.place = if self.generation >= 5 { Place::ReleasedCount } else { Place::GroupEnd };
            return Ok(Turn::Next);
        };
        let rest = input.rest();
        let (_, size) = need!(string(rest, machine.limits().element));
        let rest = &rest[size..];
        let Some(seen) = crate::wire::u64_le(rest) else { return Ok(Turn::Need) };
        let (active, times) = if self.generation >= 3 {
            let Some(active) = rest.get(8..).and_then(crate::wire::u64_le) else { return Ok(Turn::Need) };
            (Some(active as i64).filter(|time| *time != -1), 16)
        } else {
            (None, 8)
        };
        let ([pending], more) = need!(lens(&rest[times..]));
        let name = need!(machine.text(input));
        input.at += times + more;
        if !self.consumer_names.insert(machine.bytes(input, name).into()) {
            return Err(Fault::Bad("a consumer group has two consumers of one name"));
        }
        self.hold(machine, input, name);
        machine.left = pending;
        self.consumers = left;
        self.place = Place::ConsumerPending;
        Ok(Turn::Found(Found::Consumer { name, seen_time: seen as i64, active_time: active, pending }))
    }

    /// Keeps the name under which what follows is reported.
    fn hold(&mut self, machine: &Machine, input: &Input<'_>, name: Loc) {
        self.name.clear();
        self.name.extend_from_slice(machine.bytes(input, name));
    }

    /// Gives the pending entry `id` its owner, or none.
    fn take(&mut self, id: StreamId, owned: bool) -> Result<Found, Fault> {
        let index = self
            .pending
            .binary_search_by_key(&id, |waiting| waiting.id)
            .map_err(|_| Fault::Bad("a consumer has a pending entry that its group has not"))?;
        let waiting = &mut self.pending[index];
        if std::mem::replace(&mut waiting.taken, true) {
            return Err(Fault::Bad("a pending entry of a consumer group has two owners"));
        }
        let Waiting { delivered_at, deliveries, .. } = *waiting;
        Ok(Found::Pending { id, owned, delivered_at, deliveries })
    }
}

const CUT: &str = "a stream node ends inside an entry";
const NOT_A_NUMBER: &str = "a stream node holds text where a number must be";

/// An id as two big-endian numbers.
fn raw_id(b: &[u8]) -> Option<StreamId> {
    let ms = u64::from_be_bytes(*b.first_chunk()?);
    let seq = u64::from_be_bytes(*b.get(8..)?.first_chunk()?);
    Some(StreamId { ms, seq })
}

fn number(machine: &mut Machine, input: &Input<'_>) -> Result<i64, Fault> {
    match machine.scalar(input)? {
        Some(Scalar::Int(n)) => Ok(n),
        Some(Scalar::Bytes(_)) => Err(Fault::Bad(NOT_A_NUMBER)),
        None => Err(Fault::Bad(CUT)),
    }
}

fn count(machine: &mut Machine, input: &Input<'_>, what: &'static str) -> Result<u64, Fault> {
    u64::try_from(number(machine, input)?).map_err(|_| Fault::Bad(what))
}
