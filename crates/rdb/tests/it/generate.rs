//! Snapshots of every record and value type, in every way of writing lengths and strings.

use keyferry_rdb::crc64;
use proptest::prelude::*;

/// One record of a generated snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Record(pub(crate) Vec<u8>);

/// A length in a form that can hold it, not always the shortest.
pub(crate) fn len(n: u64, form: u8) -> Vec<u8> {
    match form % 4 {
        0 if n < 64 => vec![n as u8],
        0 | 1 if n < 16384 => vec![0x40 | (n >> 8) as u8, n as u8],
        0..=2 if u32::try_from(n).is_ok() => [&[0x80][..], &(n as u32).to_be_bytes()].concat(),
        _ => [&[0x81][..], &n.to_be_bytes()].concat(),
    }
}

/// A string, in one of its forms.
fn string() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (prop::collection::vec(any::<u8>(), 0..40), any::<u8>())
            .prop_map(|(b, form)| [len(b.len() as u64, form), b].concat()),
        1 => (prop::collection::vec(any::<u8>(), 60..400), any::<u8>())
            .prop_map(|(b, form)| [len(b.len() as u64, form), b].concat()),
        1 => any::<i8>().prop_map(|n| [&[0xC0][..], &n.to_le_bytes()].concat()),
        1 => any::<i16>().prop_map(|n| [&[0xC1][..], &n.to_le_bytes()].concat()),
        1 => any::<i32>().prop_map(|n| [&[0xC2][..], &n.to_le_bytes()].concat()),
        1 => ("[ab]{1,3}", 20usize..300, any::<u8>()).prop_map(|(word, n, form)| {
            let text = word.repeat(n).into_bytes();
            let packed = lzf::compress(&text).unwrap();
            [vec![0xC3], len(packed.len() as u64, form), len(text.len() as u64, form), packed].concat()
        }),
    ]
}

fn number() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![0u64..100, any::<u64>()], any::<u8>()).prop_map(|(n, form)| len(n, form))
}

fn raw(n: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), n)
}

/// Items one after the other, in an order.
fn row(items: Vec<BoxedStrategy<Vec<u8>>>) -> BoxedStrategy<Vec<u8>> {
    items.prop_map(|items| items.concat()).boxed()
}

/// A count and that many items.
fn counted(item: impl Strategy<Value = Vec<u8>> + 'static) -> BoxedStrategy<Vec<u8>> {
    (prop::collection::vec(item, 0..5), any::<u8>())
        .prop_map(|(items, form)| [len(items.len() as u64, form), items.concat()].concat())
        .boxed()
}

fn module_data() -> impl Strategy<Value = Vec<u8>> {
    let item = prop_oneof![
        row(vec![Just(vec![1]).boxed(), number().boxed()]),
        row(vec![Just(vec![2]).boxed(), number().boxed()]),
        row(vec![Just(vec![3]).boxed(), raw(4).boxed()]),
        row(vec![Just(vec![4]).boxed(), raw(8).boxed()]),
        row(vec![Just(vec![5]).boxed(), string().boxed()]),
    ];
    prop::collection::vec(item, 0..6).prop_map(|items| [items.concat(), vec![0]].concat())
}

fn stream(generation: u8) -> BoxedStrategy<Vec<u8>> {
    let n = |count: usize| row((0..count).map(|_| number().boxed()).collect());
    let node = row(vec![string().boxed(), string().boxed()]);
    let pending = row(vec![raw(24).boxed(), number().boxed()]);
    let times = if generation >= 3 { 16 } else { 8 };
    let consumer = row(vec![string().boxed(), raw(times).boxed(), counted(raw(16))]);
    let mut group =
        vec![string().boxed(), n(if generation == 1 { 2 } else { 3 }), counted(pending), counted(consumer)];
    if generation == 5 {
        group.push(counted(raw(16)));
    }
    let mut parts = vec![counted(node), n(if generation == 1 { 3 } else { 8 }), counted(row(group))];
    if generation >= 4 {
        let record = row(vec![string().boxed(), n(2)]);
        parts.extend([n(2), counted(row(vec![string().boxed(), counted(record)])), n(2)]);
    }
    row(parts)
}

/// The value of a type, type byte not included.
fn value(ty: u8, valkey: bool) -> BoxedStrategy<Vec<u8>> {
    let s = || string().boxed();
    match ty {
        1 | 2 | 14 => counted(string()),
        3 => {
            let score = prop_oneof![
                (253u8..=255).prop_map(|mark| vec![mark]),
                "[0-9.e]{0,20}".prop_map(|text| [&[text.len() as u8][..], text.as_bytes()].concat()),
            ];
            counted(row(vec![s(), score.boxed()]))
        }
        4 => counted(row(vec![s(), s()])),
        5 => counted(row(vec![s(), raw(8).boxed()])),
        7 => row(vec![number().boxed(), module_data().boxed()]),
        15 => stream(1),
        18 => counted(row(vec![prop_oneof![Just(vec![1]), Just(vec![2])].boxed(), s()])),
        19 => stream(2),
        21 => stream(3),
        22 if valkey => counted(row(vec![s(), s(), raw(8).boxed()])),
        22 => counted(row(vec![number().boxed(), s(), s()])),
        24 => row(vec![raw(8).boxed(), counted(row(vec![number().boxed(), s(), s()]))]),
        25 => row(vec![raw(8).boxed(), s()]),
        26 => stream(4),
        27 => stream(5),
        28 => {
            let payload = prop_oneof![
                row(vec![Just(vec![0]).boxed(), s()]),
                row(vec![Just(vec![1]).boxed(), raw(8).boxed()]),
                row(vec![Just(vec![2]).boxed(), raw(8).boxed()]),
                row(vec![Just(vec![3]).boxed(), s()]),
            ];
            let item = row(vec![number().boxed(), payload.boxed()]);
            (prop::collection::vec(item, 1..5), prop::option::of(number()))
                .prop_map(|(items, cursor)| {
                    let cursor = cursor.map_or(vec![0], |at| [vec![1], at].concat());
                    [len(items.len() as u64, 0), cursor, items.concat()].concat()
                })
                .boxed()
        }
        29 => row(vec![Just(vec![1]).boxed(), counted(string()), s()]),
        31 => prop::collection::vec((string(), string()), 0..5)
            .prop_map(|pairs| {
                let (names, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
                [vec![1], len(names.len() as u64, 0), names.concat(), values.concat()].concat()
            })
            .boxed(),
        33 => number().boxed(),
        64 => row(vec![s(), raw(16).boxed(), counted(string()), counted(string())]),
        _ => s(),
    }
}

/// Every type that can stand alone.
const TYPES: &[u8] = &[
    0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
    30, 31, 33, 64,
];

fn key(valkey: bool) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(TYPES), string()).prop_flat_map(move |(ty, key)| {
        value(ty, valkey).prop_map(move |value| [&[ty][..], &key, &value].concat())
    })
}

fn opcode(op: u8, payload: BoxedStrategy<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
    payload.prop_map(move |payload| [vec![op], payload].concat()).boxed()
}

fn record(valkey: bool) -> BoxedStrategy<Record> {
    let s = || string().boxed();
    let n = || number().boxed();
    let mut others = vec![
        opcode(254, n()),
        opcode(253, raw(4).boxed()),
        opcode(252, raw(8).boxed()),
        opcode(251, row(vec![n(), n()])),
        opcode(250, row(vec![s(), s()])),
        opcode(249, raw(1).boxed()),
        opcode(248, n()),
        opcode(247, row(vec![n(), Just(vec![2]).boxed(), n(), module_data().boxed()])),
        opcode(
            246,
            row(vec![
                s(),
                s(),
                prop_oneof![Just(vec![0]), s().prop_map(|d| [vec![1], d].concat())].boxed(),
                s(),
            ]),
        ),
        opcode(245, s()),
        opcode(244, row(vec![n(), n(), n()])),
        opcode(107, n()),
        opcode(121, n()),
    ];
    if valkey {
        others.push(opcode(243, row(vec![s(), counted(row(vec![n(), n()]))])));
    } else {
        others.push(opcode(243, counted(row(vec![raw(4).boxed(), module_data().boxed()]))));
        // A template that is used right after it was defined.
        others.push(
            (any::<u64>(), prop::collection::vec((string(), string()), 1..4), string())
                .prop_map(|(id, pairs, key)| {
                    let (names, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
                    let id = len(id, 3);
                    let template =
                        [vec![242], id.clone(), len(names.len() as u64, 0), names.concat()].concat();
                    [template, vec![32], key, id, values.concat()].concat()
                })
                .boxed(),
        );
    }
    prop_oneof![3 => key(valkey).boxed(), 1 => prop::strategy::Union::new(others).boxed()]
        .prop_map(Record)
        .boxed()
}

/// A whole snapshot, with whatever may follow one.
pub(crate) fn snapshot() -> impl Strategy<Value = Vec<u8>> {
    any::<bool>().prop_flat_map(|valkey| {
        let magic = if valkey {
            Just(b"VALKEY080".to_vec()).boxed()
        } else {
            (1u32..100).prop_map(|version| format!("REDIS{version:04}").into_bytes()).boxed()
        };
        (
            magic,
            prop::collection::vec(record(valkey), 0..12),
            any::<bool>(),
            prop::collection::vec(any::<u8>(), 0..50),
        )
            .prop_map(|(magic, records, summed, tail)| {
                let old = magic < b"REDIS0005".to_vec();
                let mut file = magic;
                file.extend(records.into_iter().flat_map(|record| record.0));
                file.push(255);
                if !old {
                    let crc = if summed { crc64(0, &file) } else { 0 };
                    file.extend(crc.to_le_bytes());
                }
                file.extend(tail);
                file
            })
    })
}
