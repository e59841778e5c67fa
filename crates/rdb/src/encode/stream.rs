//! Streams.

use super::{Encoded, Encoder, blobs::Listpack};
use crate::elements::StreamId;
use crate::native::Loss;
use crate::types::ValueType;
use crate::value::{Idempotency, PendingEntry, Stream, StreamGroup, StreamItem};
use crate::wire::{put_len, put_plain_str};

/// The entry has the fields of the node's master entry.
const SAME_FIELDS: i64 = 2;
/// Seconds and entries by which streams remember idempotent producers where nobody set them otherwise (Redis 8.6).
const USUAL_LIMITS: (u64, u64) = (100, 100);

impl Encoder {
    /// Writes a stream in the oldest form that holds all it has, as far as the target has such a form.
    pub(super) fn stream(&mut self, stream: &Stream, out: &mut Vec<u8>) -> Encoded {
        let Some(most) = self.target.stream_type() else {
            return Encoded { ty: None, losses: vec![Loss::NotAccepted { ty: ValueType::Stream }] };
        };
        let ty = needed(stream, most);
        let losses = losses(stream, ty);
        let since = |first: ValueType| ty.byte() >= first.byte();

        self.nodes(&stream.entries, out);
        put_len(out, stream.entries.len() as u64);
        // A stream never gave an id below its last entry's.
        let last_id = stream.entries.last().map_or(stream.last_id, |entry| stream.last_id.max(entry.id));
        put_id(out, last_id);
        if since(ValueType::Stream2) {
            let first = stream.entries.first().map(|entry| entry.id).unwrap_or_default();
            let (first_id, max_deleted_id, added) = stream
                .counters
                .map_or((first, StreamId::default(), stream.entries.len() as u64), |counters| {
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
        Encoded { ty: Some(ty), losses }
    }

    fn nodes(&mut self, entries: &[StreamItem], out: &mut Vec<u8>) {
        let compact = self.target.compact;
        let mut nodes = Vec::new();
        let mut count = 0u64;
        let mut rest = entries;
        let mut head = Listpack::default();
        while let Some(first) = rest.first() {
            let mut body = std::mem::take(&mut self.listpack);
            body.clear();
            let mut len = 0;
            for entry in rest {
                if len > 0 && (len >= compact.stream_node_entries || body.size() >= compact.stream_node_bytes)
                {
                    break;
                }
                push_entry(&mut body, first, entry);
                len += 1;
            }
            rest = &rest[len..];
            head.clear();
            head.push_int(len as i64);
            head.push_int(0);
            head.push_int(first.fields.len() as i64);
            first.fields.iter().for_each(|(name, _)| head.push(name));
            head.push_int(0);
            head.extend(&body);
            put_plain_str(&mut nodes, &raw_id(first.id));
            self.blob.clear();
            head.finish(&mut self.blob);
            self.strings.put_bytes(&self.blob, &mut nodes);
            self.listpack = body;
            count += 1;
        }
        put_len(out, count);
        out.extend_from_slice(&nodes);
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
fn losses(stream: &Stream, ty: ValueType) -> Vec<Loss> {
    let before = |first: ValueType| ty.byte() < first.byte();
    let mut losses = Vec::new();
    if before(ValueType::Stream2) && has_counters(stream) {
        // Counters that a server derives from the entries are no loss.
        let first = stream.entries.first().map(|entry| entry.id).unwrap_or_default();
        let derived = stream.counters.is_none_or(|counters| {
            (counters.first_id, counters.max_deleted_id, counters.entries_added)
                == (first, StreamId::default(), stream.entries.len() as u64)
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

/// Adds an entry to the node whose master entry is `master`.
fn push_entry(node: &mut Listpack, master: &StreamItem, entry: &StreamItem) {
    let same = entry.fields.len() == master.fields.len()
        && entry.fields.iter().zip(&master.fields).all(|((a, _), (b, _))| a == b);
    node.push_int(if same { SAME_FIELDS } else { 0 });
    // Differences are stored as signed numbers of the same 64 bits.
    node.push_int(entry.id.ms.wrapping_sub(master.id.ms) as i64);
    node.push_int(entry.id.seq.wrapping_sub(master.id.seq) as i64);
    let fields = entry.fields.len() as i64;
    if !same {
        node.push_int(fields);
    }
    for (name, value) in &entry.fields {
        if !same {
            node.push(name);
        }
        node.push(value);
    }
    node.push_int(if same { fields + 3 } else { 2 * fields + 4 });
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
