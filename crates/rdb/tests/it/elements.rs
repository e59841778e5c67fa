//! Elements of values: what the origins of real files say they hold, and the same for any cutting.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use keyferry_rdb::elements::{Element, ElementDecoder, ElementReader, Templates};
use keyferry_rdb::{Error, Event, Kind, Limits, Parser, RawValue, ValueType, crc64, dump};
use proptest::prelude::*;
use serde_json::Value as Json;

use crate::support::{Head, corpus_dir, keys, parse, samples, server_made};

/// A value as its user sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Logical {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    SortedSet(BTreeMap<Vec<u8>, f64>),
    Hash(BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>),
    /// Entries, and the rest as text.
    Stream(Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>, Vec<String>),
    Array(BTreeMap<u64, Vec<u8>>, Option<u64>),
    Other(Vec<String>),
}

/// All elements, put together.
pub(crate) fn logical(value: RawValue<'_>) -> Result<Logical, Error> {
    let mut elements = value.elements(&Limits::default());
    let mut out = match value.ty().kind() {
        Kind::String => Logical::String(Vec::new()),
        Kind::List => Logical::List(Vec::new()),
        Kind::Set => Logical::Set(BTreeSet::new()),
        Kind::SortedSet => Logical::SortedSet(BTreeMap::new()),
        Kind::Hash => Logical::Hash(BTreeMap::new()),
        Kind::Stream => Logical::Stream(Vec::new(), Vec::new()),
        Kind::Array => Logical::Array(BTreeMap::new(), None),
        _ => Logical::Other(Vec::new()),
    };
    while let Some(element) = elements.next()? {
        match (&mut out, element) {
            (Logical::String(all), Element::Chunk(chunk)) => all.extend(chunk),
            (Logical::List(items), Element::Item(item)) => items.push(item.to_vec()),
            (Logical::Set(members), Element::Member(member)) => {
                members.insert(member.to_vec());
            }
            (Logical::SortedSet(members), Element::Scored { member, score }) => {
                members.insert(member.to_vec(), score.value());
            }
            (Logical::Hash(fields), Element::Field { name, value, expires_at }) => {
                fields.insert(name.to_vec(), (value.to_vec(), expires_at));
            }
            (Logical::Stream(entries, _), Element::StreamEntry(entry)) => {
                let fields = entry.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
                entries.push((entry.id.to_string(), fields));
            }
            (Logical::Stream(_, rest), element) => rest.push(show(&element)),
            (Logical::Array(items, _), Element::ArrayItem { index, value }) => {
                items.insert(index, value.to_vec());
            }
            (Logical::Array(_, cursor), Element::ArrayCursor(at)) => *cursor = Some(at),
            (Logical::Other(all), element) => all.push(show(&element)),
            (out, element) => panic!("{element:?} does not belong in {out:?}"),
        }
    }
    Ok(out)
}

fn show(element: &Element<'_>) -> String {
    format!("{element:?}")
}

/// The elements as text, chunks put together.
#[derive(Default)]
struct Shown {
    seen: Vec<String>,
    bytes: Vec<u8>,
}

impl Shown {
    fn take(&mut self, element: &Element<'_>) {
        match element {
            Element::Chunk(chunk) => self.bytes.extend(*chunk),
            Element::Opaque(part) => self.bytes.extend(*part),
            element => self.seen.push(show(element)),
        }
    }

    fn done(mut self) -> Vec<String> {
        self.seen.push(format!("{:?}", self.bytes.escape_ascii().to_string()));
        self.seen
    }
}

/// How elements are asked for: the two ways must not differ.
#[derive(Clone, Copy, Debug)]
enum Asked {
    OneByOne,
    ForEach,
}

/// The elements of a value fed in pieces of `size`, asked for in both ways.
fn in_pieces(ty: ValueType, value: &[u8], size: usize, limits: &Limits) -> (Vec<String>, Result<(), Error>) {
    let found = in_pieces_by(Asked::OneByOne, ty, value, size, limits);
    assert_eq!(in_pieces_by(Asked::ForEach, ty, value, size, limits), found, "{ty} in pieces of {size}");
    found
}

fn in_pieces_by(
    asked: Asked,
    ty: ValueType,
    value: &[u8],
    size: usize,
    limits: &Limits,
) -> (Vec<String>, Result<(), Error>) {
    let mut decoder = ElementDecoder::new(ty, limits);
    let mut shown = Shown::default();
    let mut take = |decoder: &mut ElementDecoder| -> Result<(), Error> {
        match asked {
            Asked::OneByOne => {
                while let Some(element) = decoder.next()? {
                    shown.take(&element);
                }
                Ok(())
            }
            Asked::ForEach => decoder.for_each(|element| {
                shown.take(&element);
                Ok(())
            }),
        }
    };
    let mut result = Ok(());
    for piece in value.chunks(size) {
        decoder.feed(piece);
        result = take(&mut decoder);
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() && value.is_empty() {
        result = take(&mut decoder);
    }
    let result = result.and_then(|()| decoder.finish());
    assert_eq!(
        decoder.is_finished(),
        result.is_ok() || matches!(result, Err(Error::Corrupt { what, .. }) if what.contains("left over"))
    );
    (shown.done(), result)
}

/// The elements of a whole value, by a reader that has read something else before.
fn by_reader(reader: &mut ElementReader, value: RawValue<'_>) -> (Vec<String>, Result<(), Error>) {
    let mut shown = Shown::default();
    let result = reader.read(value).for_each(|element| {
        shown.take(&element);
        Ok(())
    });
    (shown.done(), result)
}

fn all_keys() -> Vec<(String, Head, Vec<u8>)> {
    let mut files: Vec<_> =
        samples().into_iter().filter(|s| s.kind.contains("rdb")).map(|s| (s.file, s.bytes)).collect();
    files.extend(server_made());
    files
        .into_iter()
        .flat_map(|(file, bytes)| {
            keys(&parse(&bytes).events).into_iter().map(move |(head, value)| (file.clone(), head, value))
        })
        .collect()
}

#[test]
fn every_value_of_every_real_file_decodes() {
    let mut types = BTreeSet::new();
    let mut corrupt = 0;
    for (file, head, value) in all_keys() {
        let raw = RawValue::new(head.ty, &value);
        let decoded = logical(raw);
        if file.contains("corrupt_ziplist") && decoded.is_err() {
            corrupt += 1;
            continue;
        }
        let decoded =
            decoded.unwrap_or_else(|error| panic!("{file}, {:?}: {error}", head.key.escape_ascii()));
        let empty = match &decoded {
            Logical::List(items) => items.is_empty(),
            Logical::Set(members) => members.is_empty(),
            Logical::SortedSet(members) => members.is_empty(),
            Logical::Hash(fields) => fields.is_empty(),
            _ => false,
        };
        assert_eq!(raw.is_empty_container(), empty, "{file}, {:?}", head.key.escape_ascii());
        assert_eq!(empty, file.contains("corrupt_empty_keys"), "{file}");
        types.insert(head.ty.byte());
    }
    if corpus_dir().is_some() {
        assert_eq!(corrupt, 1, "values of the file with a corrupt ziplist");
        let missing: Vec<_> = (0..=28).filter(|ty| ![6, 8, 26].contains(ty) && !types.contains(ty)).collect();
        assert_eq!(missing, [0u8; 0], "types without a sample");
    }
}

#[test]
fn any_cutting_gives_the_same_elements() {
    let mut limits = Limits::default();
    limits.chunk = 64;
    let mut reader = ElementReader::new(&limits);
    for (file, head, value) in all_keys() {
        let whole = in_pieces(head.ty, &value, usize::MAX, &limits);
        assert_eq!(by_reader(&mut reader, RawValue::new(head.ty, &value)), whole, "{file}, by a reader");
        let sizes: &[usize] = if value.len() < 5000 { &[1, 2, 7, 100] } else { &[1000] };
        for &size in sizes {
            assert_eq!(in_pieces(head.ty, &value, size, &limits), whole, "{file}, pieces of {size}");
        }
    }
    for sample in samples().iter().filter(|s| s.kind == "dump") {
        let payload = dump::Payload::parse(&sample.bytes).unwrap();
        let whole = in_pieces(payload.value.ty(), payload.value.bytes(), usize::MAX, &limits);
        assert_eq!(whole.1, Ok(()), "{}", sample.file);
        assert_eq!(
            in_pieces(payload.value.ty(), payload.value.bytes(), 1, &limits),
            whole,
            "{}",
            sample.file
        );
    }
}

#[test]
fn hostile_values_end_in_an_error_or_in_elements() {
    let (mut refused, mut accepted) = (0, Vec::new());
    for sample in samples().iter().filter(|s| s.kind == "corrupt-dump") {
        let mut bytes = sample.bytes.clone();
        if let Some(body) = bytes.len().checked_sub(8) {
            let crc = crc64(0, &bytes[..body]);
            bytes[body..].copy_from_slice(&crc.to_le_bytes());
        }
        let decoded = dump::Payload::parse(&bytes).and_then(|payload| logical(payload.value));
        match decoded {
            Err(error) => {
                assert!(error.offset() <= bytes.len() as u64, "{}: {error}", sample.file);
                refused += 1;
            }
            Ok(_) => accepted.push(sample.file.clone()),
        }
    }
    // What is accepted is whole at byte level: containers without elements or with an element twice, counters that do
    // not add up, a node of deleted entries only.
    for file in &accepted {
        let harmless = [
            "duplicate",
            "empty",
            "len-of-0",
            "length",
            "tombstone",
            "no-records",
            "encoded-len-is-0",
            "zero",
        ];
        assert!(harmless.iter().any(|word| file.contains(word)), "{file}: accepted");
    }
    assert!(refused > 2 * accepted.len(), "{refused} refused, {accepted:?} accepted");
}

#[test]
fn early_streams_state_too_many_entries() {
    let mut odd = 0;
    for (file, head, value) in all_keys().iter().filter(|(file, ..)| file.contains("dump-stream")) {
        let mut elements = RawValue::new(head.ty, value).elements(&Limits::default());
        while let Some(element) = elements.next().unwrap() {
            if let Element::StreamInfo(info) = element {
                assert!(info.live <= info.length, "{file}");
                odd += usize::from(info.live < info.length);
            }
        }
    }
    assert!(odd > 0 || corpus_dir().is_none());
}

/// Text as both sides can be compared that lost what is not UTF-8.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Text in which every character stands for one byte.
fn bytewise(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

/// The reverse.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn text(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn number(json: &Json) -> f64 {
    match json {
        Json::String(text) => text.parse().unwrap(),
        other => other.as_f64().unwrap(),
    }
}

/// One object of the JSON that HDT3213/rdb writes.
fn as_hdt_says(object: &Json) -> Option<(u64, String, Json)> {
    let key = text(&object["key"]);
    let db = object["db"].as_u64()?;
    let fields = ["value", "values", "members", "entries", "hash"];
    let (name, content) = fields.iter().find_map(|name| Some((*name, object.get(*name)?)))?;
    let content = match (object["type"].as_str()?, name) {
        ("aux" | "functions" | "dbsize", _) => return None,
        ("hash", _) => {
            let expire = object.get("expire");
            let fields = content.as_object()?.iter().map(|(field, value)| {
                let at = expire.and_then(|e| e[field].as_i64()).filter(|at| *at != 0);
                (field.clone(), serde_json::json!([value, at]))
            });
            Json::Object(fields.collect())
        }
        ("set", _) => {
            let mut members: Vec<String> = content.as_array()?.iter().map(text).collect();
            members.sort();
            serde_json::json!(members)
        }
        ("zset", _) => {
            let pairs = content
                .as_array()?
                .iter()
                .map(|e| (text(&e["member"]), serde_json::json!(number(&e["score"]))));
            Json::Object(pairs.collect())
        }
        ("stream", _) => {
            let live = content.as_array()?.iter().flat_map(|node| node["msgs"].as_array().unwrap());
            let live = live.filter(|msg| msg["deleted"] == false);
            Json::Array(live.map(|msg| serde_json::json!([msg["id"], msg["fields"]])).collect())
        }
        _ => content.clone(),
    };
    Some((db, key, content))
}

/// A value in the same shape.
fn as_json(value: &Logical, text: fn(&[u8]) -> String) -> Json {
    use serde_json::json;
    match value {
        Logical::String(string) => json!(text(string)),
        Logical::List(items) => json!(items.iter().map(|i| text(i)).collect::<Vec<_>>()),
        Logical::Set(members) => {
            let mut members: Vec<_> = members.iter().map(|m| text(m)).collect();
            members.sort();
            json!(members)
        }
        Logical::SortedSet(members) => {
            Json::Object(members.iter().map(|(m, s)| (text(m), json!(s))).collect())
        }
        Logical::Hash(fields) => {
            Json::Object(fields.iter().map(|(f, (v, at))| (text(f), json!([text(v), at]))).collect())
        }
        Logical::Stream(entries, _) => Json::Array(
            entries
                .iter()
                .map(|(id, fields)| {
                    let fields: Json =
                        Json::Object(fields.iter().map(|(n, v)| (text(n), json!(text(v)))).collect());
                    json!([id, fields])
                })
                .collect(),
        ),
        other => panic!("{other:?}"),
    }
}

fn expectations(prefix: &str, suffix: &str) -> Vec<(String, Vec<(Head, Logical)>, String)> {
    let local = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut all = Vec::new();
    for sample in samples() {
        for name in &sample.expected {
            let base = name.rsplit('/').next().unwrap();
            if !base.starts_with(prefix) || !base.ends_with(suffix) {
                continue;
            }
            let dir = if name.contains('/') { corpus_dir().unwrap() } else { local.clone() };
            let expected = String::from_utf8_lossy(&std::fs::read(dir.join(name)).unwrap()).into_owned();
            let values = keys(&parse(&sample.bytes).events)
                .into_iter()
                .map(|(head, value)| {
                    let decoded = logical(RawValue::new(head.ty, &value)).unwrap();
                    (head, decoded)
                })
                .collect();
            all.push((format!("{} by {name}", sample.file), values, expected));
        }
    }
    all
}

#[test]
fn values_are_what_hdt_says() {
    let mut compared = 0;
    for (file, values, expected) in expectations("hdt__", ".json") {
        let expected: Json = serde_json::from_str(&expected).unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut expected: Vec<_> = expected.as_array().unwrap().iter().filter_map(as_hdt_says).collect();
        let mut found: Vec<_> =
            values.iter().map(|(head, value)| (head.db, lossy(&head.key), as_json(value, lossy))).collect();
        let order = |a: &(u64, String, Json), b: &(u64, String, Json)| (a.0, &a.1).cmp(&(b.0, &b.1));
        expected.sort_by(order);
        found.sort_by(order);
        assert_eq!(found, expected, "{file}");
        compared += found.len();
    }
    assert!(compared >= if corpus_dir().is_some() { 80 } else { 5 }, "{compared} values");
}

#[test]
fn values_are_what_librdb_says() {
    let mut compared = 0;
    for (file, values, expected) in expectations("librdb__", "_data.json") {
        // Members of an object without its braces.
        let expected = expected.trim().trim_end_matches(',');
        let expected: Json =
            serde_json::from_str(&format!("{{{expected}}}")).unwrap_or_else(|e| panic!("{file}: {e}"));
        for (head, value) in &values {
            let key = latin(&head.key);
            let want = &expected[&key];
            let bytes = |json: &Json| bytewise(json.as_str().unwrap());
            let want = match value {
                Logical::String(_) => Logical::String(bytes(want)),
                Logical::List(_) => Logical::List(want.as_array().unwrap().iter().map(bytes).collect()),
                Logical::Set(_) => Logical::Set(want.as_array().unwrap().iter().map(bytes).collect()),
                Logical::SortedSet(_) => Logical::SortedSet(
                    want.as_object().unwrap().iter().map(|(m, s)| (bytewise(m), number(s))).collect(),
                ),
                Logical::Hash(fields) => {
                    // This origin leaves expiries out.
                    let pairs = want.as_object().unwrap().iter().map(|(f, v)| {
                        let name = bytewise(f);
                        let at = fields.get(&name).and_then(|(_, at)| *at);
                        (name, (bytes(v), at))
                    });
                    Logical::Hash(pairs.collect())
                }
                Logical::Stream(_, rest) => {
                    let entries = want["entries"].as_array().unwrap().iter().map(|entry| {
                        let fields = entry["items"].as_object().unwrap().iter();
                        (text(&entry["id"]), fields.map(|(n, v)| (bytewise(n), bytes(v))).collect())
                    });
                    Logical::Stream(entries.collect(), rest.clone())
                }
                Logical::Other(_) => continue,
                Logical::Array(..) => panic!("{file}"),
            };
            assert_eq!(value, &want, "{file}, {key}");
            compared += 1;
        }
    }
    assert!(compared >= if corpus_dir().is_some() { 12 } else { 6 }, "{compared} values");
}

#[test]
fn values_are_what_rdb_rs_says() {
    let mut compared = 0;
    for (file, values, expected) in expectations("rdb-rs__", ".json") {
        let expected: Json = serde_json::from_str(&expected).unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut dbs: Vec<u64> = values.iter().map(|(head, _)| head.db).collect();
        dbs.dedup();
        for (head, value) in &values {
            let place = dbs.iter().position(|db| *db == head.db).unwrap();
            let want = &expected[place][latin(&head.key)];
            // This origin mangled what is not UTF-8, in one file.
            let mangled = file.contains("hash_list_pack");
            if mangled && want.is_null() {
                continue;
            }
            // Fields without expiry, scores as numbers, members in any order.
            let want = match value {
                Logical::Hash(_) => Json::Object(
                    want.as_object()
                        .unwrap()
                        .iter()
                        .map(|(f, v)| (f.clone(), serde_json::json!([v, null])))
                        .collect(),
                ),
                Logical::SortedSet(_) => Json::Object(
                    want.as_object()
                        .unwrap()
                        .iter()
                        .map(|(m, s)| (m.clone(), serde_json::json!(number(s))))
                        .collect(),
                ),
                Logical::Set(_) => {
                    let mut members: Vec<_> = want.as_array().unwrap().iter().map(text).collect();
                    members.sort();
                    serde_json::json!(members)
                }
                _ => want.clone(),
            };
            if !mangled || as_json(value, latin) == want {
                assert_eq!(as_json(value, latin), want, "{file}, {}", latin(&head.key));
                compared += 1;
            }
        }
    }
    assert!(compared >= 60 || corpus_dir().is_none(), "{compared} values");
}

#[test]
fn groups_of_a_stream() {
    let sample = samples().into_iter().find(|s| s.file.ends_with("librdb__stream_v11.rdb")).unwrap();
    let (_, value) = keys(&parse(&sample.bytes).events).pop().unwrap();
    let Logical::Stream(entries, rest) = logical(RawValue::new(ValueType::Stream3, &value)).unwrap() else {
        panic!()
    };
    assert_eq!(entries.len(), 6);
    let id = |ms| format!("StreamId {{ ms: {ms}, seq: 0 }}");
    let (a, b) = (id(1_695_649_446_276u64), id(1_695_649_069_139u64));
    let name = |name: &str| format!("{:?}", name.as_bytes());
    let consumer = |n: &str, time: u64, pending: u64| {
        format!(
            "Consumer(Consumer {{ name: {}, seen_time: {time}, active_time: Some({time}), pending: {pending} }})",
            name(n)
        )
    };
    let pending = |id: &str, n: &str, time: u64| {
        format!(
            "Pending(Pending {{ id: {id}, consumer: Some({}), delivered_at: {time}, deliveries: 1 }})",
            name(n)
        )
    };
    assert_eq!(
        rest,
        [
            format!(
                "StreamInfo(StreamInfo {{ length: 6, live: 6, last_id: {}, counters: Some(StreamCounters {{ first_id: {}, max_deleted_id: StreamId {{ ms: 0, seq: 0 }}, entries_added: 6 }}) }})",
                id(1_695_893_015_933),
                id(1_695_649_068_107)
            ),
            format!(
                "Group(Group {{ name: {}, last_id: {a}, entries_read: Some(4), pending: 1 }})",
                name("groupA")
            ),
            consumer("consumerA1", 1_696_679_585_023, 0),
            consumer("consumerA2", 1_696_679_585_024, 1),
            pending(&a, "consumerA2", 1_695_649_446_276),
            format!(
                "Group(Group {{ name: {}, last_id: {b}, entries_read: Some(3), pending: 1 }})",
                name("groupB")
            ),
            consumer("consumerB1", 1_696_679_585_026, 1),
            pending(&b, "consumerB1", 1_695_649_069_139),
        ]
    );
}

#[test]
fn hashes_by_template_become_hashes() {
    // Template 7: fields "a" and "bb". Then one key of each of the four forms, with values "1" and "x".
    let listpack = |entries: &[&[u8]]| {
        let mut body = Vec::new();
        for entry in entries {
            body.extend_from_slice(entry);
            body.push(entry.len() as u8);
        }
        let mut blob = (body.len() as u32 + 7).to_le_bytes().to_vec();
        blob.extend((entries.len() as u16).to_le_bytes());
        blob.extend(body);
        blob.push(0xFF);
        [vec![blob.len() as u8], blob].concat()
    };
    let names = listpack(&[b"\x81a", b"\x82bb"]);
    let values = listpack(&[b"\x07", b"\x01", b"\x81x"]);
    let mut file = b"REDIS0015\xF2\x07\x02\x01a\x02bb".to_vec();
    let key =
        |ty: u8, name: &[u8], value: &[&[u8]]| [&[ty, name.len() as u8], name, &value.concat()].concat();
    file.extend(key(29, b"lp", &[&[0], &names, &values]));
    file.extend(key(29, b"lp-strings", &[b"\x01\x02\x01a\x02bb", &values]));
    file.extend(key(30, b"lp-ref", &[&values]));
    file.extend(key(31, b"array", &[&[0], &names, b"\xC0\x01\x01x"]));
    file.extend(key(31, b"array-strings", &[b"\x01\x02\x01a\x02bb\xC0\x01\x01x"]));
    file.extend(key(32, b"array-ref", &[b"\x07\xC0\x01\x01x"]));
    file.extend(b"\xFF\0\0\0\0\0\0\0\0");

    for size in [usize::MAX, 1] {
        let templates = Templates::new();
        let mut parser = Parser::new();
        let mut seen = 0;
        for piece in file.chunks(size.min(file.len())) {
            parser.feed(piece);
            while let Some(event) = parser.next_event().unwrap() {
                match event {
                    Event::HashTemplate(template) => templates.learn(&template).unwrap(),
                    Event::Entry(entry) => {
                        let mut elements =
                            entry.value.elements(&Limits::default()).with_templates(templates.clone());
                        let mut fields = Vec::new();
                        while let Some(element) = elements.next().unwrap() {
                            let Element::Field { name, value, expires_at: None } = element else { panic!() };
                            fields.push((name.to_vec(), value.to_vec()));
                        }
                        let want = [(b"a".to_vec(), b"1".to_vec()), (b"bb".to_vec(), b"x".to_vec())];
                        assert_eq!(fields, want, "{:?}", entry.head.key.escape_ascii());
                        seen += 1;
                    }
                    _ => {}
                }
            }
        }
        parser.end_of_input().unwrap();
        assert_eq!(seen, 6);
    }

    // Without its definition a template cannot be used.
    let value = RawValue::new(ValueType::HashTemplateListpackRef, &values);
    assert!(matches!(logical(value), Err(Error::UnknownTemplate { id: 7, .. })));
    let unknown = parse(b"REDIS0015\x20\x01k\x07\x01a\x01b\xFF\0\0\0\0\0\0\0\0");
    assert!(matches!(unknown.result, Err(Error::UnknownTemplate { id: 7, .. })), "{:?}", unknown.result);
}

#[test]
fn newest_streams_and_arrays() {
    // Type 27: no nodes; counters; one group with two pending entries, one owned, one released; one producer.
    let mut value = vec![0];
    value.extend([0, 5, 1, 4, 0, 2, 0, 9]); // length, last id 5-1, first id 4-0, deleted 2-0, added 9
    value.extend([1, 1, b'g', 5, 0, 3, 2]); // one group, last id 5-0, read 3, two pending
    for (ms, deliveries) in [(4u64, 2u8), (5, 1)] {
        value.extend(ms.to_be_bytes());
        value.extend(0u64.to_be_bytes());
        value.extend(1000i64.to_le_bytes());
        value.push(deliveries);
    }
    value.extend([1, 1, b'c']); // one consumer
    value.extend(7i64.to_le_bytes());
    value.extend((-1i64).to_le_bytes());
    value.push(1);
    value.extend(4u64.to_be_bytes());
    value.extend(0u64.to_be_bytes());
    value.push(1); // one released
    value.extend(5u64.to_be_bytes());
    value.extend(0u64.to_be_bytes());
    value.extend([60, 50, 1, 1, b'p', 1, 1, b'i', 5, 0, 3, 2]);
    let seen = |value: &[u8]| in_pieces(ValueType::Stream5, value, 1, &Limits::default());
    let (elements, result) = seen(&value);
    assert_eq!(result, Ok(()));
    let text = elements.join("\n");
    for part in [
        "active_time: None, pending: 1",
        "consumer: Some([99]), delivered_at: 1000, deliveries: 2",
        "consumer: None, delivered_at: 1000, deliveries: 1",
        "IdempotencyLimits { duration: 60, max_entries: 50 }",
        "IdempotencyRecord { producer: [112], iid: [105], entry: StreamId { ms: 5, seq: 0 } }",
        "IdempotencyTotals { added: 3, duplicates: 2 }",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // The released entry given to nobody: it has no owner then.
    let zone = value.len() - 12 - 16 - 1;
    let mut without = value[..zone].to_vec();
    without.push(0);
    without.extend(&value[value.len() - 12..]);
    assert!(matches!(seen(&without).1, Err(Error::Corrupt { what, .. }) if what.contains("no owner")));
    // The owned one released too: it has two.
    let mut twice = value[..zone].to_vec();
    twice.push(1);
    twice.extend(4u64.to_be_bytes());
    twice.extend(0u64.to_be_bytes());
    twice.extend(&value[value.len() - 12..]);
    assert!(matches!(seen(&twice).1, Err(Error::Corrupt { what, .. }) if what.contains("two owners")));

    let array = [
        &[4, 1, 9][..],
        &[0, 0, 2, b'h', b'i'],
        &[3, 1],
        &(-5i64).to_le_bytes(),
        &[4, 2],
        &1.5f64.to_le_bytes(),
        &[0x40, 200, 3, 0xC0, 7],
    ]
    .concat();
    let want = [(0, &b"hi"[..]), (3, b"-5"), (4, b"1.5"), (200, b"7")].map(|(i, v)| (i, v.to_vec()));
    assert_eq!(
        logical(RawValue::new(ValueType::Array, &array)),
        Ok(Logical::Array(BTreeMap::from(want), Some(9)))
    );
}

#[test]
fn errors_say_where() {
    // A set listpack whose back length is wrong, at byte 8 of a blob that starts at byte 1 of the value.
    let value = b"\x0B\x0A\0\0\0\x01\0\x82ab\x04\xFF";
    let error = logical(RawValue::new(ValueType::SetListpack, &value[..])).unwrap_err();
    assert_eq!(error.to_string(), "corrupt data at byte 1: the size in a listpack's header is not its size");
    let value = b"\x0B\x0B\0\0\0\x01\0\x82ab\x04\xFF";
    let mut decoder = ElementDecoder::new(ValueType::SetListpack, &Limits::default()).at_offset(1000);
    decoder.feed(value);
    assert_eq!(decoder.next().unwrap_err().offset(), 1010);
    decoder.next().unwrap_err();
    // Bytes left over, bytes missing.
    let over = logical(RawValue::new(ValueType::String, b"\x01ab")).unwrap_err();
    assert!(matches!(over, Error::Corrupt { offset: 2, .. }), "{over}");
    let under = logical(RawValue::new(ValueType::List, b"\x02\x01a")).unwrap_err();
    assert!(matches!(under, Error::Truncated { offset: 3, .. }), "{under}");
    // An element above the limit, refused before it arrives.
    let mut limits = Limits::default();
    limits.element = 10;
    let mut elements = RawValue::new(ValueType::List, b"\x01\x0Babc").elements(&limits);
    assert!(matches!(elements.next(), Err(Error::LimitExceeded { claimed: 11, limit: 10, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_as_any_value(
        ty in prop::sample::select(ValueType::ALL),
        bytes in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..120),
        size in 1usize..20,
    ) {
        let limits = Limits::default();
        let (seen, result) = in_pieces(ty, &bytes, size, &limits);
        let whole = in_pieces(ty, &bytes, usize::MAX, &limits);
        prop_assert_eq!((&seen, &result), (&whole.0, &whole.1));
    }

    #[test]
    fn damaged_values(
        index in any::<prop::sample::Index>(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        thread_local!(static KEYS: Vec<(String, Head, Vec<u8>)> =
            all_keys().into_iter().filter(|(_, _, value)| (1..3000).contains(&value.len())).collect();
            // One for all values, as it would be used: whatever went wrong before must leave no trace.
            static READER: RefCell<ElementReader> = RefCell::new(ElementReader::new(&Limits::default())));
        let (head, mut value) = KEYS.with(|keys| {
            let (_, head, value) = index.get(keys);
            (head.clone(), value.clone())
        });
        for (index, byte) in hits {
            let at = index.index(value.len());
            value[at] = byte;
        }
        let limits = Limits::default();
        let whole = in_pieces(head.ty, &value, usize::MAX, &limits);
        prop_assert_eq!(&in_pieces(head.ty, &value, 13, &limits), &whole);
        READER.with_borrow_mut(|reader| {
            let (seen, result) = by_reader(reader, RawValue::new(head.ty, &value));
            prop_assert_eq!((&seen, &result), (&whole.0, &whole.1));
            Ok(())
        })?;
        let _ = RawValue::new(head.ty, &value).is_empty_container();
        let _ = RawValue::new(head.ty, &value).plain_string();
    }
}
