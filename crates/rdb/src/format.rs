#![doc = include_str!("format.md")]

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::convert::{Converter, Way};
    use crate::elements::{StreamCounters, StreamId};
    use crate::encode::Encoder;
    use crate::value::{
        Array, HashField, Idempotency, PendingEntry, Stream, StreamConsumer, StreamGroup, StreamItem, Value,
    };
    use crate::{Dialect, TargetFormat, ValueType};

    /// Of every kind one value, or several where its size or content decides on the encoding.
    fn values() -> Vec<Value> {
        let names = |n: usize, len: usize| (0..n).map(move |i| format!("{i:>len$}").into_bytes());
        let mut values =
            vec![Value::String(b"text".to_vec()), Value::Set(vec![b"1".to_vec(), b"2".to_vec()])];
        for (n, len) in [(3, 5), (3, 9000), (600, 5)] {
            values.push(Value::List(names(n, len).collect()));
            values.push(Value::Set(names(n, len).collect()));
            values.push(Value::SortedSet(names(n, len).map(|member| (member, 0.5)).collect()));
            for expiry in [None, Some(4_000_000_000_000)] {
                let field = |name| HashField::new(name, "value").with_expiry(expiry);
                values.push(Value::Hash(names(n, len).map(field).collect()));
            }
        }
        let id = StreamId::new(1, 1);
        let entries = vec![StreamItem { id, fields: vec![(b"f".to_vec(), b"v".to_vec())] }];
        let plain = Stream { entries, last_id: id, ..Stream::default() };
        let counted = Stream {
            counters: Some(StreamCounters::new(id, StreamId::default(), 5)),
            groups: vec![StreamGroup {
                name: b"g".to_vec(),
                entries_read: Some(1),
                ..StreamGroup::default()
            }],
            ..plain.clone()
        };
        let known = Idempotency { duration: 60, max_entries: 100, ..Idempotency::default() };
        let known = Stream { idempotency: Some(known), ..counted.clone() };
        let consumer = |active_time| StreamConsumer {
            name: b"c".to_vec(),
            seen_time: 5,
            active_time,
            pending: Vec::new(),
        };
        let with_group = |consumers, released| Stream {
            groups: vec![StreamGroup { name: b"g".to_vec(), consumers, released, ..StreamGroup::default() }],
            ..plain.clone()
        };
        let active = with_group(vec![consumer(Some(4))], Vec::new());
        let pending = PendingEntry { id, delivered_at: 1, deliveries: 1 };
        let released = with_group(vec![consumer(None)], vec![pending]);
        values.extend([plain, counted, known, active, released].map(Value::Stream));
        values.push(Value::Array(Array { items: vec![(0, b"x".to_vec())], ..Array::default() }));
        values.push(Value::RateLimiter(1));
        values
    }

    /// The types in which a target gets these values.
    fn written(target: TargetFormat) -> BTreeSet<u8> {
        let mut encoder = Encoder::new(target);
        let encode = |value: &Value| encoder.encode(value, &mut Vec::new()).unwrap().ty;
        values().iter().filter_map(encode).map(|ty| ty as u8).collect()
    }

    /// The matrix says what the code does, of every type.
    #[test]
    fn the_matrix_is_true() {
        let redis = (6..=15).map(|version| TargetFormat::of_version(version, Dialect::Redis));
        let targets: Vec<_> = redis.chain([TargetFormat::valkey(9, 0)]).collect();
        let written: Vec<_> = targets.iter().map(|target| written(*target)).collect();
        let mut want = Vec::new();
        for &ty in ValueType::ALL {
            let cells = targets.iter().zip(&written).map(|(target, written)| {
                match (target.accepts(ty), Converter::new(*target).way(ty)) {
                    (true, _) if written.contains(&(ty as u8)) => "w",
                    (true, _) => "r",
                    (false, Way::Lost) => "-",
                    (false, _) => "c",
                }
            });
            let cells: Vec<_> = cells.collect();
            want.push(format!("| {} | {} | {} |", ty.byte(), ty.name(), cells.join(" | ")));
        }
        let columns = want[0].matches('|').count();
        let is_row = |line: &&str| line.starts_with("| ") && line.matches('|').count() == columns;
        let found: Vec<_> = include_str!("format.md").lines().filter(is_row).skip(1).collect();
        assert!(found == want, "the matrix in format.md should be\n{}", want.join("\n"));
    }

    /// Every type and its name is in the table of layouts.
    #[test]
    fn every_type_has_a_layout() {
        for ty in ValueType::ALL {
            let row = format!("| {} | {} | ", ty.byte(), ty.name());
            assert!(include_str!("format.md").lines().any(|line| line.starts_with(&row)), "{row}");
        }
    }
}
