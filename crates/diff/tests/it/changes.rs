//! Every part of a value counts: each small change, one at a time, is seen.

use keyferry_diff::{DigestOptions, ValueDigest};
use keyferry_rdb::elements::{StreamCounters, StreamId};
use keyferry_rdb::{
    Array, HashField, Idempotency, PendingEntry, Producer, Stream, StreamConsumer, StreamGroup, Value,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::digest;
use crate::values::{stream, value};

/// What was changed, and the value after that.
type Changes = Vec<(&'static str, Value)>;

type Scored = Vec<(Vec<u8>, f64)>;

/// A copy that was changed.
fn with<T: Clone>(value: &T, change: impl FnOnce(&mut T)) -> T {
    let mut changed = value.clone();
    change(&mut changed);
    changed
}

/// Takes the first byte of the second string to the end of the first: what both are together stays.
fn shift(first: &mut Vec<u8>, second: &mut Vec<u8>) {
    if !second.is_empty() {
        first.push(second.remove(0));
    }
}

fn shift_neighbours(items: &mut [Vec<u8>], at: usize) {
    if let [first, second, ..] = &mut items[at..] {
        shift(first, second);
    }
}

/// All changes of a value that count; what some of them come to is no change.
fn changes(value: &Value, at: Index) -> Changes {
    match value {
        Value::String(text) => vec![
            ("a byte more", Value::String(with(text, |text| text.push(0)))),
            ("a byte less", Value::String(with(text, |text| _ = text.pop()))),
            ("a bit", Value::String(with(text, |text| text.iter_mut().take(1).for_each(|byte| *byte ^= 1)))),
        ],
        Value::List(items) => {
            let at = at.index(items.len());
            let list = |name, change: &dyn Fn(&mut Vec<Vec<u8>>)| (name, Value::List(with(items, change)));
            vec![
                list("the first item", &|items| items[0].push(b'~')),
                list("the last item", &|items| items.last_mut().unwrap().push(b'~')),
                list("an item", &|items| items[at].push(b'~')),
                list("an item less", &|items| _ = items.remove(at)),
                list("an item twice", &|items| items.insert(at, items[at].clone())),
                list("the order", &|items| items.swap(0, at)),
                list("where items part", &|items| shift_neighbours(items, at)),
            ]
        }
        Value::Set(members) => {
            let at = at.index(members.len());
            let set = |name, change: &dyn Fn(&mut Vec<Vec<u8>>)| (name, Value::Set(with(members, change)));
            vec![
                set("a member", &|members| members[at].extend(b"~~~")),
                set("the last member less", &|members| _ = members.pop()),
                set("a member less", &|members| _ = members.remove(at)),
                set("a member more", &|members| members.push(b"~~~".to_vec())),
            ]
        }
        Value::SortedSet(members) => {
            let at = at.index(members.len());
            let zset = |name, change: &dyn Fn(&mut Scored)| (name, Value::SortedSet(with(members, change)));
            vec![
                zset("the least that a score can be greater by", &|members| {
                    members[at].1 = members[at].1.next_up();
                }),
                zset("the sign of a score", &|members| {
                    // Servers lose that of zero.
                    if members[at].1 != 0.0 {
                        members[at].1 = -members[at].1;
                    }
                }),
                zset("a member", &|members| members[at].0.extend(b"~~~")),
                zset("the last member less", &|members| _ = members.pop()),
            ]
        }
        Value::Hash(fields) => {
            let at = at.index(fields.len());
            let hash = |name, change: &dyn Fn(&mut Vec<HashField>)| (name, Value::Hash(with(fields, change)));
            vec![
                hash("a value", &|fields| fields[at].value.push(b'~')),
                hash("a name", &|fields| fields[at].name.extend(b"~~~")),
                hash("whose value it is", &|fields| {
                    let first = fields[0].value.clone();
                    fields[0].value = std::mem::replace(&mut fields[at].value, first);
                }),
                hash("the last field less", &|fields| _ = fields.pop()),
                hash("where name and value part", &|fields| {
                    let HashField { name, value, .. } = &mut fields[at];
                    shift(name, value);
                }),
                hash("a millisecond", &|fields| {
                    fields[at].expires_at = fields[at].expires_at.map(|at| at + 1);
                }),
                hash("whether a field expires", &|fields| {
                    let field = &mut fields[at];
                    field.expires_at = field.expires_at.is_none().then_some(1 << 40);
                }),
            ]
        }
        Value::Array(array) => {
            let at = at.index(array.items.len());
            let one = |name, change: &dyn Fn(&mut Array)| (name, Value::Array(with(array, change)));
            vec![
                one("a value", &|array| array.items[at].1.push(b'~')),
                one("the last index", &|array| {
                    array.items.last_mut().unwrap().0 += 1;
                }),
                one("the cursor", &|array| array.cursor = array.cursor.map_or(Some(0), |at| Some(at ^ 1))),
                one("whether there is a cursor", &|array| {
                    array.cursor = array.cursor.is_none().then_some(0);
                }),
                one("the last less", &|array| _ = array.items.pop()),
            ]
        }
        Value::Stream(stream) => stream_changes(stream, at),
        _ => Vec::new(),
    }
}

fn stream_changes(stream: &Stream, at: Index) -> Changes {
    let mut all = Changes::new();
    let mut add = |name, change: &dyn Fn(&mut Stream)| all.push((name, Value::Stream(with(stream, change))));
    add("the last id", &|stream| stream.last_id.seq = stream.last_id.seq.saturating_add(1));
    if !stream.entries.is_empty() {
        let at = at.index(stream.entries.len());
        add("an entry", &|stream| stream.entries[at].fields.last_mut().unwrap().1.push(b'~'));
        add("the last entry", &|stream| stream.entries.last_mut().unwrap().fields[0].1.push(b'~'));
        add("the name of a field", &|stream| stream.entries[at].fields[0].0.push(b'~'));
        add("where fields part", &|stream| {
            let (name, value) = &mut stream.entries[at].fields[0];
            shift(name, value);
        });
        add("the last entry less", &|stream| _ = stream.entries.pop());
        add("an entry less", &|stream| _ = stream.entries.remove(at));
    }
    if stream.counters.is_some() {
        add("the largest id deleted", &|stream| stream.counters.as_mut().unwrap().max_deleted_id.seq ^= 1);
        add("how many entries were added", &|stream| stream.counters.as_mut().unwrap().entries_added ^= 1);
    }
    if let Some(known) = stream.idempotency.as_ref().filter(|known| !known.producers.is_empty()) {
        let records = known.producers.iter().any(|producer| !producer.records.is_empty());
        let mut add = |name, change: &dyn Fn(&mut Idempotency)| {
            add(name, &|stream: &mut Stream| change(stream.idempotency.as_mut().unwrap()));
        };
        if records {
            add("how long ids are remembered", &|known| known.duration ^= 1);
            add("how many ids are remembered", &|known| known.max_entries ^= 1);
            add("a producer", &|known| known.producers[0].name.extend(b"~~~"));
            add("an id of a producer", &|known| known.producers[0].records[0].0.extend(b"~~~"));
            add("the entry of a producer", &|known| known.producers[0].records[0].1.seq ^= 1);
        }
        add("ids ever added", &|known| known.added ^= 1);
        add("duplicates ever refused", &|known| known.duplicates ^= 1);
    }
    for (number, group) in stream.groups.iter().enumerate() {
        let mut add = |name, change: &dyn Fn(&mut StreamGroup)| {
            add(name, &|stream: &mut Stream| change(&mut stream.groups[number]));
        };
        add("the name of a group", &|group| group.name.extend(b"~~~"));
        add("the last id of a group", &|group| group.last_id.seq ^= 1);
        for (number, consumer) in group.consumers.iter().enumerate() {
            for at in 0..consumer.pending.len() {
                let mut add = |name, change: &dyn Fn(&mut PendingEntry)| {
                    add(name, &|group: &mut StreamGroup| change(&mut group.consumers[number].pending[at]));
                };
                add("when it was delivered", &|pending| pending.delivered_at ^= 1);
                add("how often it was delivered", &|pending| pending.deliveries ^= 1);
            }
            if consumer.pending.is_empty() {
                continue;
            }
            add("a pending entry less", &|group| _ = group.consumers[number].pending.pop());
            add("its owner", &|group| group.consumers[number].name.extend(b"~~~"));
            add("whether it has an owner", &|group| {
                let entry = group.consumers[number].pending.pop().unwrap();
                group.released.push(entry);
                group.released.sort_by_key(|entry| entry.id);
            });
        }
        if !group.released.is_empty() {
            add("a released entry less", &|group| _ = group.released.pop());
        }
    }
    let owned = |number: usize| {
        let owners = stream.groups[number].consumers.iter().filter(|consumer| !consumer.pending.is_empty());
        owners.map(|consumer| (&consumer.name, &consumer.pending)).collect::<Vec<_>>()
    };
    for number in (1..stream.groups.len()).filter(|&number| owned(0) != owned(number)) {
        add("whose pending entries they are", &|stream| {
            let (first, others) = stream.groups.split_at_mut(number);
            std::mem::swap(&mut first[0].consumers, &mut others[0].consumers);
            std::mem::swap(&mut first[0].released, &mut others[0].released);
        });
    }
    add("a group less", &|stream| _ = stream.groups.pop());
    all
}

/// Makes sure that there is one of everything.
fn rich(mut stream: Stream) -> Stream {
    let entry = |ms, deliveries| PendingEntry { id: StreamId::new(ms, 1), delivered_at: 1 << 40, deliveries };
    let consumer = |name: &str, pending| StreamConsumer {
        name: name.as_bytes().to_vec(),
        pending,
        seen_time: 1 << 40,
        ..StreamConsumer::default()
    };
    stream.groups.retain(|group| !group.name.starts_with(b"rich"));
    for name in ["rich", "richer"] {
        let pending = vec![entry(1, 1), entry(2, name.len() as u64)];
        stream.groups.push(StreamGroup {
            name: name.as_bytes().to_vec(),
            last_id: StreamId::new(2, 1),
            entries_read: Some(2),
            consumers: vec![consumer("a", pending), consumer("b", Vec::new())],
            released: vec![entry(3, 1)],
        });
    }
    stream.groups.sort_by(|a, b| a.name.cmp(&b.name));
    stream.counters.get_or_insert(StreamCounters::new(StreamId::new(1, 1), StreamId::new(0, 0), 7));
    let known = stream.idempotency.get_or_insert(Idempotency {
        duration: 60,
        max_entries: 10,
        producers: Vec::new(),
        added: 1,
        duplicates: 0,
    });
    if known.producers.iter().all(|producer| producer.records.is_empty()) {
        let records = vec![(b"iid".to_vec(), StreamId::new(1, 1))];
        known.producers = vec![Producer { name: b"producer".to_vec(), records }];
    }
    stream
}

fn differ(a: &ValueDigest, b: &ValueDigest) -> bool {
    assert_eq!(a.compare(b), b.compare(a));
    a.compare(b).any()
}

fn every_change_is_seen(value: &Value, at: Index) -> Result<(), TestCaseError> {
    let options = DigestOptions::default();
    let mut seen = 0;
    for format in ["redis-8.8", "redis-6.0", "valkey-9.0"] {
        let format = format.parse().unwrap();
        let Some(before) = digest(value, format, &options) else { continue };
        for (what, changed) in changes(value, at) {
            // Such as a score greater than infinity.
            if *value == changed {
                continue;
            }
            // What this format has no place for.
            let Some(after) = digest(&changed, format, &options) else { continue };
            prop_assert!(differ(&before, &after), "{what}: {value:?} became {changed:?}");
            seen += 1;
        }
    }
    prop_assert!(seen > 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_small_change_is_seen((value, at) in (value(), any::<Index>())) {
        every_change_is_seen(&value, at)?;
    }

    #[test]
    fn every_small_change_of_a_stream_is_seen((stream, at) in (stream(), any::<Index>())) {
        every_change_is_seen(&Value::Stream(rich(stream)), at)?;
    }

    /// What replication does not always keep counts where that is wanted, and only there.
    #[test]
    fn what_is_not_replicated_counts_where_it_is_wanted(stream in stream()) {
        let stream = rich(stream);
        let at = stream.groups.iter().position(|group| group.name == b"richer").unwrap();
        let of = |change: &dyn Fn(&mut StreamGroup)| {
            Value::Stream(with(&stream, |stream| change(&mut stream.groups[at])))
        };
        for (what, changed) in [
            ("how many entries it has read", of(&|group| group.entries_read = Some(3))),
            ("that it is not known how many", of(&|group| group.entries_read = None)),
            ("when a consumer was seen", of(&|group| group.consumers.last_mut().unwrap().seen_time += 1)),
            ("a consumer less", of(&|group| _ = group.consumers.pop())),
            ("a consumer more", of(&|group| {
                group.consumers.push(StreamConsumer { name: b"z".to_vec(), ..StreamConsumer::default() });
            })),
        ] {
            for unreplicated in [false, true] {
                let mut options = DigestOptions::default();
                options.unreplicated = unreplicated;
                let of = |value| digest(value, "redis-8.8".parse().unwrap(), &options).unwrap();
                let (before, after) = (of(&Value::Stream(stream.clone())), of(&changed));
                prop_assert_eq!(differ(&before, &after), unreplicated, "{}", what);
            }
        }
    }
}
