//! Generated values of every kind, for this program and the one that has real servers.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_rdb::elements::{StreamCounters, StreamId};
use keyferry_rdb::{
    Array, HashField, Idempotency, PendingEntry, Producer, Stream, StreamConsumer, StreamGroup, StreamItem,
    Value,
};
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        2 => (0u32..64, any::<i64>()).prop_map(|(shift, n)| (n >> shift).to_string().into_bytes()),
        1 => ("[ab]{1,4}", 1usize..60).prop_map(|(word, n)| word.repeat(n).into_bytes()),
        1 => prop::sample::select(vec!["-0", "00", "+1", "1.50", "9223372036854775808", ""])
            .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

/// Now and then one that no compact node holds.
fn item() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![40 => bytes(), 1 => (8_000usize..20_000).prop_map(|n| vec![b'z'; n])]
}

fn names(size: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(bytes(), size).prop_map(|names| BTreeSet::from_iter(names).into_iter().collect())
}

/// Few or many: on both sides of what compact encodings hold.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1usize..20, 1 => 120usize..140, 1 => 500usize..530]
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("servers have no NaN", |score| !score.is_nan()),
        (-1000i32..1000).prop_map(f64::from),
        prop::sample::select(vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 0.1, 1e17, 5e-324]),
    ]
}

fn id() -> impl Strategy<Value = StreamId> {
    let number = || prop_oneof![0u64..50, any::<u64>(), Just(1_700_000_000_000u64)];
    (number(), number()).prop_map(|(ms, seq)| StreamId::new(ms, seq))
}

fn pending() -> impl Strategy<Value = Vec<PendingEntry>> {
    prop::collection::btree_map(id(), (any::<i64>(), any::<u64>()), 0..6).prop_map(|entries| {
        let entry = |(id, (delivered_at, deliveries))| PendingEntry { id, delivered_at, deliveries };
        entries.into_iter().map(entry).collect()
    })
}

fn group() -> impl Strategy<Value = StreamGroup> {
    let consumer = (any::<i64>(), prop::option::of(0i64..i64::MAX));
    (
        id(),
        prop::option::of(0u64..1000),
        prop::collection::btree_map(bytes(), consumer, 0..4),
        pending(),
        any::<u64>(),
    )
        .prop_map(|(last_id, entries_read, consumers, mut pending, shuffle)| {
            let mut consumers: Vec<StreamConsumer> = consumers
                .into_iter()
                .map(|(name, (seen_time, active_time))| StreamConsumer {
                    name,
                    seen_time,
                    active_time,
                    pending: Vec::new(),
                })
                .collect();
            // Each pending entry gets one owner, or none.
            let mut released = Vec::new();
            for (i, entry) in pending.drain(..).enumerate() {
                let owner = (shuffle >> (4 * i)) as usize % (consumers.len() + 1);
                match consumers.get_mut(owner) {
                    Some(consumer) => consumer.pending.push(entry),
                    None => released.push(entry),
                }
            }
            StreamGroup { name: Vec::new(), last_id, entries_read, consumers, released }
        })
}

/// Any stream.
pub(crate) fn stream() -> impl Strategy<Value = Stream> {
    let fields = prop_oneof![
        3 => bytes().prop_map(|value| vec![(b"f".to_vec(), value.clone()), (b"7".to_vec(), value)]),
        1 => prop::collection::vec((bytes(), bytes()), 1..4),
    ];
    let known = (1u64..86400, 1u64..10000, names(0..3), bytes(), id(), any::<u64>()).prop_map(
        |(duration, max_entries, producers, iid, entry, added)| Idempotency {
            duration,
            max_entries,
            producers: producers
                .into_iter()
                .map(|name| Producer { name, records: vec![(iid.clone(), entry)] })
                .collect(),
            added,
            duplicates: added / 2,
        },
    );
    (
        prop::collection::btree_map(id(), fields, 0..150),
        id(),
        prop::option::of((id(), id(), any::<u64>())),
        prop::collection::btree_map(bytes(), group(), 0..3),
        prop::option::of(known),
    )
        .prop_map(|(entries, last_id, counters, groups, idempotency)| {
            let entries: Vec<_> = entries.into_iter().map(|(id, fields)| StreamItem { id, fields }).collect();
            Stream {
                last_id: entries.last().map_or(last_id, |entry| last_id.max(entry.id)),
                entries,
                counters: counters.map(|(first, deleted, added)| StreamCounters::new(first, deleted, added)),
                groups: groups.into_iter().map(|(name, group)| StreamGroup { name, ..group }).collect(),
                idempotency,
            }
        })
}

/// Any value.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    let expiry = prop_oneof![3 => Just(None), 2 => (1i64..1 << 48).prop_map(Some)];
    let with_expiries = prop_oneof![Just(false), Just(true)];
    prop_oneof![
        item().prop_map(Value::String),
        size().prop_flat_map(|n| prop::collection::vec(item(), n)).prop_map(Value::List),
        size().prop_flat_map(|n| names(n..n + 1)).prop_map(Value::Set),
        size().prop_flat_map(|n| prop::collection::vec(any::<i32>(), n)).prop_map(|numbers| {
            let numbers = BTreeSet::from_iter(numbers);
            Value::Set(numbers.into_iter().map(|n| n.to_string().into_bytes()).collect())
        }),
        size()
            .prop_flat_map(|n| prop::collection::vec((bytes(), score()), n))
            .prop_map(|members| Value::SortedSet(BTreeMap::from_iter(members).into_iter().collect())),
        (
            size().prop_flat_map(move |n| prop::collection::vec((bytes(), (bytes(), expiry.clone())), n)),
            with_expiries
        )
            .prop_map(|(fields, with_expiries)| {
                let field = |(name, (value, at))| {
                    HashField::new(name, value).with_expiry(Option::filter(at, |_| with_expiries))
                };
                Value::Hash(BTreeMap::from_iter(fields).into_iter().map(field).collect())
            }),
        stream().prop_map(Value::Stream),
        (prop::option::of(0..u64::MAX), prop::collection::btree_map(0..u64::MAX, item(), 1..20))
            .prop_map(|(cursor, items)| Value::Array(Array { cursor, items: items.into_iter().collect() })),
    ]
}
