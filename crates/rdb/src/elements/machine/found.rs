//! From what was found to the elements that are reported.

use super::Machine;
use crate::elements::element::{
    Consumer, Element, Group, Loc, Pending, Score, Sources, StreamEntry, StreamId, StreamInfo,
};
use crate::lzf::Inflater;

/// An element in terms of places.
#[derive(Clone, Copy, Debug)]
pub(in crate::elements) enum Found {
    Chunk(Loc),
    InflatedChunk,
    Item(Loc),
    Member(Loc),
    Scored { member: Loc, value: f64, text: Option<Loc> },
    Field { name: Loc, value: Loc, expires_at: Option<i64> },
    TemplateField { name: usize, value: Loc },
    ArrayCursor(u64),
    ArrayItem { index: u64, value: Loc },
    RateLimit(u64),
    Opaque(Loc),
    StreamEntry(StreamId),
    StreamInfo(StreamInfo),
    Group { name: Loc, last_id: StreamId, entries_read: Option<u64>, pending: u64 },
    Consumer { name: Loc, seen_time: i64, active_time: Option<i64>, pending: u64 },
    Pending { id: StreamId, owned: bool, delivered_at: i64, deliveries: u64 },
    IdempotencyLimits { duration: u64, max_entries: u64 },
    IdempotencyRecord { iid: Loc, entry: StreamId },
    IdempotencyTotals { added: u64, duplicates: u64 },
}

impl Machine {
    /// Where decoded strings lie while this is the input.
    #[inline]
    pub(super) fn sources<'a>(&'a self, input: &'a [u8]) -> Sources<'a> {
        Sources { input, blob: self.blob.bytes(input), scratch: &self.scratch }
    }

    /// Builds the element that was found by the last call, which got this input.
    pub(super) fn element<'a>(&'a self, found: Found, input: &'a [u8]) -> Element<'a> {
        let sources = self.sources(input);
        let get = |loc| sources.get(loc);
        let (pairs, held): (&[_], &[u8]) =
            self.stream.as_ref().map_or((&[], &[]), |stream| (&stream.pairs, &stream.name));
        match found {
            Found::Chunk(chunk) => Element::Chunk(get(chunk)),
            Found::InflatedChunk => Element::Chunk(self.inflater.as_ref().map_or(&[], Inflater::chunk)),
            Found::Item(item) => Element::Item(get(item)),
            Found::Member(member) => Element::Member(get(member)),
            Found::Scored { member, value, text } => {
                Element::Scored { member: get(member), score: Score { value, text: text.map(get) } }
            }
            Found::Field { name, value, expires_at } => {
                Element::Field { name: get(name), value: get(value), expires_at }
            }
            Found::TemplateField { name, value } => Element::Field {
                name: self.names.as_ref().and_then(|names| names.get(name)).unwrap_or_default(),
                value: get(value),
                expires_at: None,
            },
            Found::ArrayCursor(cursor) => Element::ArrayCursor(cursor),
            Found::ArrayItem { index, value } => Element::ArrayItem { index, value: get(value) },
            Found::RateLimit(time) => Element::RateLimit(time),
            Found::Opaque(bytes) => Element::Opaque(get(bytes)),
            Found::StreamEntry(id) => Element::StreamEntry(StreamEntry { id, pairs, sources }),
            Found::StreamInfo(info) => Element::StreamInfo(info),
            Found::Group { name, last_id, entries_read, pending } => {
                Element::Group(Group { name: get(name), last_id, entries_read, pending })
            }
            Found::Consumer { name, seen_time, active_time, pending } => {
                Element::Consumer(Consumer { name: get(name), seen_time, active_time, pending })
            }
            Found::Pending { id, owned, delivered_at, deliveries } => {
                Element::Pending(Pending { id, consumer: owned.then_some(held), delivered_at, deliveries })
            }
            Found::IdempotencyLimits { duration, max_entries } => {
                Element::IdempotencyLimits { duration, max_entries }
            }
            Found::IdempotencyRecord { iid, entry } => {
                Element::IdempotencyRecord { producer: held, iid: get(iid), entry }
            }
            Found::IdempotencyTotals { added, duplicates } => {
                Element::IdempotencyTotals { added, duplicates }
            }
        }
    }
}
