//! What is encoded decodes to the same, for every version, and real files survive being written anew.

use std::collections::BTreeMap;

use keyferry_rdb::convert::{Converted, Converter, Way};
use keyferry_rdb::elements::{StreamCounters, StreamId, Templates};
use keyferry_rdb::encode::{Encoder, PartsSurvey};
use keyferry_rdb::native::Loss;
use keyferry_rdb::{
    Dialect, EntryHead, Event, Idempotency, Limits, Parser, RawValue, RdbWriter, Stream, StreamItem,
    TargetFormat, Value, ValueType, dump,
};
use proptest::prelude::*;

use crate::support::{Head, corpus_dir, keys, parse, samples, server_made};
use crate::values::value;

fn targets() -> Vec<TargetFormat> {
    let redis = [(2, 6), (3, 2), (4, 0), (5, 0), (7, 0), (7, 2), (7, 4), (8, 6), (8, 8), (8, 10)];
    let redis = redis.map(|(major, minor)| TargetFormat::redis(major, minor));
    redis.into_iter().chain([TargetFormat::valkey(8, 0), TargetFormat::valkey(9, 0)]).collect()
}

/// The value without what was told to be lost.
fn without(mut value: Value, losses: &[Loss]) -> Value {
    for loss in losses {
        match (&mut value, loss) {
            (Value::Hash(fields), Loss::FieldExpiry { fields: count }) => {
                let expiring = fields.iter_mut().filter_map(|field| field.expires_at.take()).count();
                assert_eq!(expiring as u64, *count);
            }
            (Value::Stream(stream), Loss::StreamCounters) => {
                stream.counters = None;
                stream.groups.iter_mut().for_each(|group| group.entries_read = None);
            }
            (Value::Stream(stream), Loss::ActiveTimes { .. }) => {
                for consumer in stream.groups.iter_mut().flat_map(|group| &mut group.consumers) {
                    consumer.active_time = Some(consumer.seen_time);
                }
            }
            (Value::Stream(stream), Loss::IdempotentProducers { .. }) => stream.idempotency = None,
            (Value::Stream(stream), Loss::ReleasedEntries { group, entries }) => {
                let group = stream.groups.iter_mut().find(|found| *found.name == **group).unwrap();
                assert_eq!(std::mem::take(&mut group.released).len() as u64, *entries);
            }
            (value, loss) => panic!("{loss} of {value:?}"),
        }
    }
    value
}

/// What servers would take two values to be the same in: type 27 names bounds where a value knows none.
fn with_usual_limits(mut value: Value, ty: ValueType) -> Value {
    if let (Value::Stream(stream), ValueType::Stream5) = (&mut value, ty) {
        let usual = Idempotency { duration: 100, max_entries: 100, ..Idempotency::default() };
        stream.idempotency.get_or_insert(usual);
    }
    value
}

/// What types 19 and later say of counters where a value knows none.
fn with_counters(mut value: Value, ty: ValueType) -> Value {
    if let Value::Stream(stream) = &mut value
        && ty != ValueType::Stream
    {
        let first = stream.entries.first().map(|entry| entry.id).unwrap_or_default();
        let derived = StreamCounters::new(first, StreamId::default(), stream.entries.len() as u64);
        stream.counters.get_or_insert(derived);
    }
    value
}

/// The same for the other way: a stream that lost nothing but what a reader derives.
fn without_derived(mut value: Value, ty: ValueType) -> Value {
    if let (Value::Stream(stream), ValueType::Stream) = (&mut value, ty) {
        stream.counters = None;
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_encoded_decodes_to_the_same(
        value in value(),
        other in prop::sample::select(targets()),
        part in 1usize..5000,
    ) {
        for target in targets() {
            let mut out = Vec::new();
            let encoded = Encoder::new(target).encode(&value, &mut out).unwrap();
            let Some(ty) = encoded.ty else {
                let impossible = matches!(value, Value::Array(_)) && !target.accepts(ValueType::Array)
                    || matches!(value, Value::Stream(_)) && !target.accepts(ValueType::Stream);
                prop_assert!(impossible, "{:?}", encoded);
                let told = matches!(encoded.losses[..], [Loss::NotAccepted { .. }]);
                prop_assert!(told, "{:?}", encoded);
                prop_assert!(out.is_empty());
                continue;
            };
            prop_assert!(target.accepts(ty), "{} for {:?}", ty, target);
            let decoded = RawValue::new(ty, &out).to_value(&Limits::default());
            let want = without(value.clone(), &encoded.losses);
            let want = with_counters(with_usual_limits(without_derived(want, ty), ty), ty);
            prop_assert_eq!(decoded.as_ref(), Ok(&want), "{} for {:?}", ty, target);
            // A payload of it is taken apart as one.
            let mut payload = bytes::BytesMut::new();
            dump::append_payload(&mut payload, RawValue::new(ty, &out), target.version());
            let parsed = dump::Payload::parse(&payload).unwrap();
            prop_assert_eq!(parsed.value, RawValue::new(ty, &out));
            // Of the encoded form a target makes the same as of the value.
            let (mut direct, mut converted) = (Vec::new(), Vec::new());
            let limits = Limits::default();
            let again = Encoder::new(other)
                .reencode(RawValue::new(ty, &out), &limits, &Templates::new(), &mut converted)
                .unwrap();
            let want = Encoder::new(other).encode(&decoded.unwrap(), &mut direct).unwrap();
            prop_assert_eq!(again.ty, want.ty);
            if let Some(ty) = want.ty {
                let read = |bytes: &[u8]| RawValue::new(ty, bytes).to_value(&limits);
                prop_assert_eq!(read(&converted), read(&direct));
            }
            // And in parts.
            if matches!(value, Value::String(_) | Value::Array(_)) {
                continue;
            }
            let (in_parts, losses) = in_parts(ty, &out, part, other);
            prop_assert_eq!(&losses, &again.losses);
            let read = |ty, bytes: &[u8]| RawValue::new(ty, bytes).to_value(&limits);
            prop_assert_eq!(in_parts.is_some(), want.ty.is_some());
            if let (Some((plain, bytes)), Some(ty)) = (in_parts, want.ty) {
                prop_assert!(other.accepts(plain), "{} for {:?}", plain, other);
                prop_assert_eq!(read(plain, &bytes), read(ty, &direct));
            }
        }
    }
}

/// The value encoded anew for another target from parts of so many bytes, and what is lost.
fn in_parts(
    ty: ValueType,
    bytes: &[u8],
    part: usize,
    target: TargetFormat,
) -> (Option<(ValueType, Vec<u8>)>, Vec<Loss>) {
    let mut survey = PartsSurvey::new(ty, target, &Limits::default(), &Templates::new());
    bytes.chunks(part).for_each(|part| survey.feed(part).unwrap());
    let plan = survey.finish().unwrap();
    let losses = plan.losses().to_vec();
    let Some(ty) = plan.ty() else { return (None, losses) };
    let mut out = Vec::new();
    let mut encoder = plan.encoder(&mut out);
    bytes.chunks(part).for_each(|part| encoder.feed(part, &mut out).unwrap());
    encoder.finish(&mut out).unwrap();
    (Some((ty, out)), losses)
}

fn value_of(ty: ValueType, bytes: &[u8], templates: &Templates) -> Value {
    RawValue::new(ty, bytes).to_value_with(&Limits::default(), templates).unwrap()
}

/// The target whose files are of the version of this one, or of the first that has all its types: some producers write
/// types into files whose version does not have them.
fn own_target(file: &[u8], keys: &[(Head, Vec<u8>)]) -> TargetFormat {
    let mut parser = Parser::new();
    parser.feed(file);
    let Ok(Some(Event::Header(header))) = parser.next_event() else { panic!("no header") };
    let newest = keys.iter().map(|(head, _)| head.ty.since()).filter(|since| *since < 80).max().unwrap_or(0);
    TargetFormat::of_version(header.version.max(newest), header.dialect)
}

#[test]
fn real_files_survive_being_written_anew() {
    let mut files: Vec<_> = samples()
        .into_iter()
        .filter(|s| s.kind.contains("rdb") && matches!(&*s.status, "valid" | "valid-odd" | "future-version"))
        .map(|s| (s.file, s.bytes))
        .collect();
    files.extend(server_made());
    let mut values = 0;
    let mut types = BTreeMap::new();
    for (file, bytes) in files {
        let outcome = parse(&bytes);
        let original = keys(&outcome.events);
        let target = own_target(&bytes, &original);
        let mut writer = RdbWriter::new(Vec::new(), target).unwrap();
        let mut want = Vec::new();
        for (head, raw) in &original {
            let raw = RawValue::new(head.ty, raw);
            if head.ty == ValueType::CronJob || raw.is_empty_container() {
                continue;
            }
            let value = value_of(head.ty, raw.bytes(), &Templates::new());
            let entry = EntryHead::new(head.db, &head.key, head.ty)
                .with_expiry(head.expiry)
                .with_eviction(head.eviction.filter(|_| target.version() >= 9));
            let encoded = writer.value(&entry, &value).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(encoded.losses, [], "{file}: {:?}", head.key.escape_ascii().to_string());
            let ty = encoded.ty.unwrap();
            *types.entry(ty.name()).or_insert(0) += 1;
            values += 1;
            want.push((entry_key(&entry), with_counters(without_derived(value, ty), ty)));
        }
        let written = writer.finish().unwrap();
        let outcome = parse(&written);
        assert_eq!(outcome.result, Ok(()), "{file}");
        let found: Vec<_> = keys(&outcome.events)
            .iter()
            .map(|(head, bytes)| {
                let entry = EntryHead::new(head.db, &head.key, head.ty)
                    .with_expiry(head.expiry)
                    .with_eviction(head.eviction);
                (entry_key(&entry), value_of(head.ty, bytes, &Templates::new()))
            })
            .collect();
        assert_eq!(found.len(), want.len(), "{file}");
        for (found, want) in found.iter().zip(&want) {
            assert!(found == want, "{file}: {found:?} became of {want:?}");
        }
    }
    if corpus_dir().is_some() {
        assert!(values > 2000, "{values}");
        assert!(types.len() > 15, "{types:?}");
    }
}

fn entry_key(head: &EntryHead<'_>) -> String {
    format!("{} {} {:?} {:?}", head.db, head.key.escape_ascii(), head.expiry, head.eviction)
}

#[test]
fn conversion_takes_the_cheapest_way() {
    let mut old = Converter::new(TargetFormat::redis(6, 2));
    let mut new = Converter::new(TargetFormat::redis(7, 2));
    let listpack = RawValue::new(ValueType::SetListpack, b"\x0D\x0D\0\0\0\x02\0\x81a\x02\x81b\x02\xFF");
    assert_eq!(new.convert(listpack).unwrap().converted, Converted::Raw(listpack));
    let conversion = old.convert(listpack).unwrap();
    assert_eq!(conversion.converted, Converted::Reencoded(RawValue::new(ValueType::Set, b"\x02\x01a\x01b")));

    // Expiring fields, between the vendors and to those who have none.
    let hash = RawValue::new(ValueType::HashValkey, b"\x01\x01f\x01v\xE8\x03\0\0\0\0\0\0");
    let conversion = new.convert(hash).unwrap();
    assert!(matches!(conversion.converted, Converted::Reencoded(v) if v.ty() == ValueType::HashListpack));
    assert_eq!(conversion.losses, [Loss::FieldExpiry { fields: 1 }]);
    let mut redis = Converter::new(TargetFormat::redis(7, 4));
    let conversion = redis.convert(hash).unwrap();
    assert!(conversion.losses.is_empty());
    let Converted::Reencoded(converted) = conversion.converted else { panic!() };
    assert_eq!(converted.ty(), ValueType::HashListpackTtl);
    assert_eq!(converted.to_value(&Limits::default()), hash.to_value(&Limits::default()));

    // No elements, no type, no room.
    let empty = old.convert(RawValue::new(ValueType::Hash, b"\0")).unwrap();
    assert_eq!(empty.losses, [Loss::EmptyContainer { ty: ValueType::Hash }]);
    assert_eq!(empty.converted, Converted::Lost);
    let cron = RawValue::new(ValueType::CronJob, b"");
    assert_eq!(old.convert(cron).unwrap().losses, [Loss::NotAccepted { ty: ValueType::CronJob }]);
    let mut narrow = Converter::new(TargetFormat::redis(7, 2)).with_max_payload(10);
    assert_eq!(narrow.convert(listpack).unwrap().converted, Converted::Native);
    let zipmap = RawValue::new(ValueType::HashZipmap, b"\x07\x01\x01a\x01\x00b\xFF");
    assert_eq!(new.way(ValueType::HashZipmap), Way::Reencode);
    assert!(matches!(new.convert(zipmap), Ok(c) if matches!(c.converted, Converted::Reencoded(_))));
    assert_eq!(Converter::new(TargetFormat::redis(4, 0)).way(ValueType::Stream), Way::Lost);
    assert_eq!(new.way(ValueType::Stream5), Way::Reencode);
}

#[test]
fn streams_that_count_wrong_are_put_right() {
    // One entry, but a length of 2.
    let mut value = Vec::new();
    let stream = Stream {
        entries: vec![StreamItem { id: StreamId::new(1, 1), fields: vec![(b"f".to_vec(), b"v".to_vec())] }],
        last_id: StreamId::new(1, 1),
        ..Stream::default()
    };
    let encoded = Encoder::new(TargetFormat::redis(5, 0)).encode(&Value::Stream(stream), &mut value).unwrap();
    assert_eq!((encoded.ty, &value[value.len() - 4..]), (Some(ValueType::Stream), &[1, 1, 1, 0][..]));
    let right = value.clone();
    let at = value.len() - 4;
    value[at] = 2;
    let raw = RawValue::new(ValueType::Stream, &value);
    let mut older = Converter::new(TargetFormat::redis(8, 0));
    assert_eq!(older.convert(raw).unwrap().converted, Converted::Raw(raw));
    let mut newer = Converter::new(TargetFormat::redis(8, 8));
    let want = Converted::Reencoded(RawValue::new(ValueType::Stream, &right));
    assert_eq!(newer.convert(raw).unwrap().converted, want);
}

#[test]
fn dialects_keep_to_themselves() {
    for target in targets() {
        for &ty in ValueType::ALL {
            if let Some(dialect) = ty.only_dialect() {
                assert!(!target.accepts(ty) || target.dialect() == dialect, "{ty} for {target:?}");
            }
        }
        assert_eq!(target.dialect() == Dialect::Valkey, target.version() >= 80);
    }
}

/// Hostile values end in a verdict for every target, and what is written of them reads back.
#[test]
fn corrupt_payloads_are_converted_or_refused() {
    let mut verdicts = [0, 0];
    for sample in samples().iter().filter(|sample| sample.kind.contains("dump")) {
        let Some(body) = sample.bytes.len().checked_sub(10).and_then(|end| sample.bytes.get(1..end)) else {
            continue;
        };
        let Some(ty) = ValueType::from_byte(sample.bytes[0], Dialect::Redis) else { continue };
        for target in targets() {
            let (limits, templates) = (Limits::default(), Templates::new());
            let mut out = Vec::new();
            let written =
                Encoder::new(target).reencode(RawValue::new(ty, body), &limits, &templates, &mut out);
            match written.map(|encoded| encoded.ty) {
                // Copied as they are.
                Ok(Some(ValueType::Module | ValueType::ModulePreGa | ValueType::String)) => {}
                Ok(Some(ty)) => {
                    let mut elements = RawValue::new(ty, &out).elements(&limits);
                    while elements.next().unwrap().is_some() {}
                    verdicts[0] += 1;
                }
                Ok(None) => {}
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    verdicts[1] += 1;
                }
            }
        }
    }
    assert!(verdicts.iter().all(|count| *count > 20) || corpus_dir().is_none(), "{verdicts:?}");
}
