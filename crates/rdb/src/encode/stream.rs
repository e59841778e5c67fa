//! Streams.

use super::{Encoded, Encoder, Strings, blobs::Listpack};
use crate::elements::StreamId;
use crate::native::Loss;
use crate::target::{CompactLimits, TargetFormat};
use crate::types::ValueType;
use crate::value::{Idempotency, PendingEntry, Stream, StreamGroup};
use crate::wire::{put_len, put_plain_str};

/// The entry has the fields of the node's master entry.
const SAME_FIELDS: i64 = 2;
/// Seconds and entries by which streams remember idempotent producers where nobody set them otherwise (Redis 8.6).
const USUAL_LIMITS: (u64, u64) = (100, 100);

/// What must be known of a stream's entries to write the rest of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    count: u64,
    first: StreamId,
    last: StreamId,
}

impl Extent {
    /// Takes account of an entry, in ascending order of ids.
    pub(super) fn add(&mut self, id: StreamId) {
        if self.count == 0 {
            self.first = id;
        }
        self.last = id;
        self.count += 1;
    }
}

impl Encoder {
    /// Writes a stream in the oldest form that holds all it has, as far as the target has such a form.
    pub(super) fn stream(&mut self, stream: &Stream, out: &mut Vec<u8>) -> Encoded {
        let mut extent = Extent::default();
        stream.entries.iter().for_each(|entry| extent.add(entry.id));
        let (ty, losses) = stream_form(&self.target, stream, &extent);
        let Some(ty) = ty else { return Encoded { ty, losses } };
        let mut nodes = Nodes::new(&self.target.compact);
        let (mut bytes, mut count) = (Vec::new(), 0u64);
        for entry in &stream.entries {
            if nodes.is_full() {
                nodes.end(&mut self.strings, &mut bytes);
                count += 1;
            }
            let fields: Vec<_> = entry.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            nodes.push(entry.id, &fields);
        }
        if !nodes.is_empty() {
            nodes.end(&mut self.strings, &mut bytes);
            count += 1;
        }
        put_len(out, count);
        out.extend_from_slice(&bytes);
        self.stream_tail(stream, &extent, ty, out);
        Encoded { ty: Some(ty), losses }
    }

    /// Writes what comes after the entries.
    pub(super) fn stream_tail(&mut self, stream: &Stream, extent: &Extent, ty: ValueType, out: &mut Vec<u8>) {
        let since = |first: ValueType| ty.byte() >= first.byte();
        put_len(out, extent.count);
        // A stream never gave an id below its last entry's.
        put_id(out, stream.last_id.max(extent.last));
        if since(ValueType::Stream2) {
            let (first_id, max_deleted_id, added) =
                stream.counters.map_or((extent.first, StreamId::default(), extent.count), |counters| {
                    (counters.first_id, counters.max_deleted_id, counters.entries_added)
                });
            put_id(out, first_id);
            put_id(out, max_deleted_id);
            put_len(out, added);
        }
        put_len(out, stream.groups.len() as u64);
        for group in &stream.groups {
            self.group(group, ty, out);
        }
        if since(ValueType::Stream4) {
            let usual = Idempotency {
                duration: USUAL_LIMITS.0,
                max_entries: USUAL_LIMITS.1,
                ..Idempotency::default()
            };
            self.idempotency(stream.idempotency.as_ref().unwrap_or(&usual), out);
        }
    }

    fn group(&mut self, group: &StreamGroup, ty: ValueType, out: &mut Vec<u8>) {
        let since = |first: ValueType| ty.byte() >= first.byte();
        self.strings.put(&group.name, out);
        put_id(out, group.last_id);
        if since(ValueType::Stream2) {
            put_len(out, group.entries_read.unwrap_or(u64::MAX));
        }
        let released = if since(ValueType::Stream5) { &group.released[..] } else { &[] };
        let owned = group.consumers.iter().flat_map(|consumer| &consumer.pending);
        let mut pending: Vec<&PendingEntry> = owned.chain(released).collect();
        pending.sort_unstable_by_key(|entry| entry.id);
        put_len(out, pending.len() as u64);
        for entry in pending {
            out.extend_from_slice(&raw_id(entry.id));
            out.extend_from_slice(&entry.delivered_at.to_le_bytes());
            put_len(out, entry.deliveries);
        }
        put_len(out, group.consumers.len() as u64);
        for consumer in &group.consumers {
            self.strings.put(&consumer.name, out);
            out.extend_from_slice(&consumer.seen_time.to_le_bytes());
            if since(ValueType::Stream3) {
                out.extend_from_slice(&consumer.active_time.unwrap_or(-1).to_le_bytes());
            }
            put_ids(out, &consumer.pending);
        }
        if since(ValueType::Stream5) {
            put_ids(out, released);
        }
    }

    fn idempotency(&mut self, known: &Idempotency, out: &mut Vec<u8>) {
        put_len(out, known.duration);
        put_len(out, known.max_entries);
        put_len(out, known.producers.len() as u64);
        for producer in &known.producers {
            self.strings.put(&producer.name, out);
            put_len(out, producer.records.len() as u64);
            for (iid, entry) in &producer.records {
                self.strings.put(iid, out);
                put_id(out, *entry);
            }
        }
        put_len(out, known.added);
        put_len(out, known.duplicates);
    }
}

/// The type in which a target takes a stream, whose entries do not matter, and what it has no place for.
pub(super) fn stream_form(
    target: &TargetFormat,
    stream: &Stream,
    extent: &Extent,
) -> (Option<ValueType>, Vec<Loss>) {
    match target.stream_type() {
        Some(most) => {
            let ty = needed(stream, most);
            (Some(ty), losses(stream, extent, ty))
        }
        None => (None, vec![Loss::NotAccepted { ty: ValueType::Stream }]),
    }
}

/// Gathers entries into nodes.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    max_entries: usize,
    max_bytes: usize,
    /// Id and field names of the first entry of the node.
    master: (StreamId, Vec<Vec<u8>>),
    len: usize,
    body: Listpack,
    head: Listpack,
    blob: Vec<u8>,
}

impl Nodes {
    pub(super) fn new(compact: &CompactLimits) -> Self {
        Self {
            max_entries: compact.stream_node_entries,
            max_bytes: compact.stream_node_bytes,
            master: (StreamId::default(), Vec::new()),
            len: 0,
            body: Listpack::default(),
            head: Listpack::default(),
            blob: Vec::new(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the next entry begins another node, so that this one has to be ended before.
    pub(super) fn is_full(&self) -> bool {
        self.len > 0 && (self.len >= self.max_entries || self.body.size() >= self.max_bytes)
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, id: StreamId, fields: &[(&[u8], &[u8])]) {
        if self.len == 0 {
            self.master.0 = id;
            self.master.1.clear();
            self.master.1.extend(fields.iter().map(|(name, _)| name.to_vec()));
        }
        self.len += 1;
        let (master, names) = &self.master;
        let node = &mut self.body;
        let same = fields.iter().map(|(name, _)| *name).eq(names.iter().map(|name| &**name));
        node.push_int(if same { SAME_FIELDS } else { 0 });
        // Differences are stored as signed numbers of the same 64 bits.
        node.push_int(id.ms.wrapping_sub(master.ms) as i64);
        node.push_int(id.seq.wrapping_sub(master.seq) as i64);
        let count = fields.len() as i64;
        if !same {
            node.push_int(count);
        }
        for (name, value) in fields {
            if !same {
                node.push(name);
            }
            node.push(value);
        }
        node.push_int(if same { count + 3 } else { 2 * count + 4 });
    }

    /// Drops the node at hand and begins the next.
    pub(super) fn skip(&mut self) {
        self.body.clear();
        self.len = 0;
    }

    /// Appends the node at hand and begins the next.
    pub(super) fn end(&mut self, strings: &mut Strings, out: &mut Vec<u8>) {
        let (master, names) = &self.master;
        self.head.clear();
        self.head.push_int(self.len as i64);
        self.head.push_int(0);
        self.head.push_int(names.len() as i64);
        names.iter().for_each(|name| self.head.push(name));
        self.head.push_int(0);
        self.head.extend(&self.body);
        put_plain_str(out, &raw_id(*master));
        self.blob.clear();
        self.head.finish(&mut self.blob);
        strings.put_bytes(&self.blob, out);
        self.skip();
    }
}

/// The oldest type up to `most` that holds all of a stream that `most` holds. Servers derive what older types lack, as
/// this crate did when it read one.
fn needed(stream: &Stream, most: ValueType) -> ValueType {
    let groups = &stream.groups;
    let within = |ty: ValueType| ty.byte() <= most.byte();
    if within(ValueType::Stream5) && groups.iter().any(|group| !group.released.is_empty()) {
        ValueType::Stream5
    } else if within(ValueType::Stream4) && stream.idempotency.is_some() {
        ValueType::Stream4
    } else if within(ValueType::Stream3) && !active_when_seen(stream) {
        ValueType::Stream3
    } else if within(ValueType::Stream2) && has_counters(stream) {
        ValueType::Stream2
    } else {
        ValueType::Stream
    }
}

fn active_when_seen(stream: &Stream) -> bool {
    let mut consumers = stream.groups.iter().flat_map(|group| &group.consumers);
    consumers.all(|consumer| consumer.active_time == Some(consumer.seen_time))
}

fn has_counters(stream: &Stream) -> bool {
    stream.counters.is_some() || stream.groups.iter().any(|group| group.entries_read.is_some())
}

/// What a stream has that type `ty` has no place for.
fn losses(stream: &Stream, extent: &Extent, ty: ValueType) -> Vec<Loss> {
    let before = |first: ValueType| ty.byte() < first.byte();
    let mut losses = Vec::new();
    if before(ValueType::Stream2) && has_counters(stream) {
        // Counters that a server derives from the entries are no loss.
        let derived = stream.counters.is_none_or(|counters| {
            (counters.first_id, counters.max_deleted_id, counters.entries_added)
                == (extent.first, StreamId::default(), extent.count)
        });
        if !derived || stream.groups.iter().any(|group| group.entries_read.is_some()) {
            losses.push(Loss::StreamCounters);
        }
    }
    if before(ValueType::Stream3) {
        let consumers = stream.groups.iter().flat_map(|group| &group.consumers);
        let lost = consumers.filter(|consumer| consumer.active_time != Some(consumer.seen_time)).count();
        if lost > 0 {
            losses.push(Loss::ActiveTimes { consumers: lost as u64 });
        }
    }
    if before(ValueType::Stream4)
        && let Some(known) = &stream.idempotency
    {
        let records = known.producers.iter().map(|producer| producer.records.len() as u64).sum();
        let limits = (known.duration, known.max_entries);
        if records > 0 || limits != USUAL_LIMITS || known.added > 0 || known.duplicates > 0 {
            losses.push(Loss::IdempotentProducers { records });
        }
    }
    if before(ValueType::Stream5) {
        for group in stream.groups.iter().filter(|group| !group.released.is_empty()) {
            let entries = group.released.len() as u64;
            losses.push(Loss::ReleasedEntries { group: group.name.as_slice().into(), entries });
        }
    }
    losses
}

fn put_id(out: &mut Vec<u8>, id: StreamId) {
    put_len(out, id.ms);
    put_len(out, id.seq);
}

fn put_ids(out: &mut Vec<u8>, entries: &[PendingEntry]) {
    put_len(out, entries.len() as u64);
    for entry in entries {
        out.extend_from_slice(&raw_id(entry.id));
    }
}

fn raw_id(id: StreamId) -> [u8; 16] {
    (u128::from(id.ms) << 64 | u128::from(id.seq)).to_be_bytes()
}
