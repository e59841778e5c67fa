//! JSON against the values themselves, and against what other programs say of the same files.

use keyferry_files::json::{JsonForm, bytes_of_text};
use keyferry_files::{Error, Input, InputOptions};
use keyferry_rdb::elements::{StreamCounters, StreamId, Templates};
use keyferry_rdb::{
    Array, EntryHead, Event, HashField, Idempotency, Limits, Parser, PendingEntry, Producer, Stream,
    StreamConsumer, StreamGroup, StreamItem, Value, ValueType,
};
use serde_json::Value as Json;

use crate::support::{file_of, json, open, raw_file, snapshots};

fn bytes(json: &Json) -> Vec<u8> {
    bytes_of_text(json.as_str().unwrap_or_else(|| panic!("{json} is no string"))).unwrap()
}

fn id(json: &Json) -> StreamId {
    let (ms, seq) = json.as_str().unwrap().split_once('-').unwrap();
    StreamId::new(ms.parse().unwrap(), seq.parse().unwrap())
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn score(json: &Json) -> f64 {
    match json {
        Json::String(text) => text.parse().unwrap(),
        number => number.as_f64().unwrap(),
    }
}

fn pending(json: &Json) -> Vec<PendingEntry> {
    let entry = |json: &Json| PendingEntry {
        id: id(&json["id"]),
        delivered_at: json["delivered_at"].as_i64().unwrap(),
        deliveries: json["deliveries"].as_u64().unwrap(),
    };
    list(json).iter().map(entry).collect()
}

/// The value that an object stands for.
fn value(object: &Json) -> Value {
    let json = &object["value"];
    let ty = ValueType::ALL.iter().copied().find(|ty| ty.name() == object["encoding"]).unwrap();
    match object["type"].as_str().unwrap() {
        "string" => Value::String(bytes(json)),
        "list" => Value::List(list(json).iter().map(bytes).collect()),
        "set" => Value::Set(list(json).iter().map(bytes).collect()),
        "zset" => {
            let members = json.as_object().unwrap();
            Value::SortedSet(
                members.iter().map(|(name, json)| (bytes_of_text(name).unwrap(), score(json))).collect(),
            )
        }
        "hash" => {
            let field = |(name, json): (&String, &Json)| {
                let name = bytes_of_text(name).unwrap();
                match json {
                    Json::Object(field) => HashField::new(name, bytes(&field["value"]))
                        .with_expiry(Some(field["expires_at"].as_i64().unwrap())),
                    json => HashField::new(name, bytes(json)),
                }
            };
            Value::Hash(json.as_object().unwrap().iter().map(field).collect())
        }
        "stream" => Value::Stream(stream(json, ty)),
        "array" => {
            let item = |item: &Json| (item[0].as_u64().unwrap(), bytes(&item[1]));
            let array = Array {
                cursor: json.get("cursor").map(|cursor| cursor.as_u64().unwrap()),
                items: list(&json["items"]).iter().map(item).collect(),
            };
            Value::Array(array)
        }
        "ratelimit" => Value::RateLimiter(json.as_u64().unwrap()),
        _ => {
            let digits = json["raw"].as_str().unwrap().as_bytes();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            Value::Opaque { ty, bytes: digits.chunks(2).map(byte).collect() }
        }
    }
}

fn stream(json: &Json, ty: ValueType) -> Stream {
    let mut stream = Stream::default();
    for entry in list(&json["entries"]) {
        let fields = list(&entry["fields"]).chunks(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1])));
        stream.entries.push(StreamItem { id: id(&entry["id"]), fields: fields.collect() });
    }
    assert_eq!(json["length"], stream.entries.len());
    stream.last_id = id(&json["last_id"]);
    stream.counters = json.get("first_id").map(|first| {
        StreamCounters::new(id(first), id(&json["max_deleted_id"]), json["entries_added"].as_u64().unwrap())
    });
    for group in list(&json["groups"]) {
        let consumer = |json: &Json| {
            let seen_time = json["seen_time"].as_i64().unwrap();
            let tells = !matches!(ty, ValueType::Stream | ValueType::Stream2);
            let active_time = if tells {
                json.get("active_time").map(|time| time.as_i64().unwrap())
            } else {
                Some(seen_time)
            };
            let pending = pending(&json["pending"]);
            StreamConsumer { name: bytes(&json["name"]), seen_time, active_time, pending }
        };
        stream.groups.push(StreamGroup {
            name: bytes(&group["name"]),
            last_id: id(&group["last_id"]),
            entries_read: group.get("entries_read").map(|read| read.as_u64().unwrap()),
            consumers: list(&group["consumers"]).iter().map(consumer).collect(),
            released: pending(&group["released"]),
        });
    }
    stream.idempotency = json.get("idempotency").map(|json| {
        let number = |name: &str| json[name].as_u64().unwrap();
        let mut known = Idempotency {
            duration: number("duration"),
            max_entries: number("max_entries"),
            added: number("added"),
            duplicates: number("duplicates"),
            ..Idempotency::default()
        };
        for record in list(&json["records"]) {
            let name = bytes(&record["producer"]);
            if known.producers.last().is_none_or(|last| last.name != name) {
                known.producers.push(Producer { name, records: Vec::new() });
            }
            let records = &mut known.producers.last_mut().unwrap().records;
            records.push((bytes(&record["iid"]), id(&record["entry"])));
        }
        known
    });
    stream
}

/// Database, name, expiry, value, and the length of that, serialized.
type Key = (u64, Vec<u8>, Option<i64>, Value, usize);

/// All keys of a file with their values, as the parser gives them, up to an error.
fn values(file: &[u8]) -> Vec<Key> {
    let mut limits = Limits::default();
    limits.value_part = usize::MAX;
    let mut parser = Parser::with_limits(limits);
    parser.feed(file);
    let templates = Templates::new();
    let mut found = Vec::new();
    while let Ok(Some(event)) = parser.next_event() {
        match event {
            Event::HashTemplate(template) => templates.learn(&template).unwrap(),
            Event::Entry(entry) => {
                let Ok(value) = entry.value.to_value_with(&Limits::default(), &templates) else { break };
                let head = entry.head;
                found.push((head.db, head.key.to_vec(), head.expiry, value, entry.value.bytes().len()));
            }
            _ => {}
        }
    }
    found
}

fn check(file: &[u8], limits: &Limits) -> usize {
    let mut options = InputOptions::default();
    options.limits = limits.clone();
    let input = Input::from_reader("test", std::io::Cursor::new(file.to_vec()), options).unwrap();
    let (text, result) = json(input, JsonForm::Lines);
    let lines = text.lines().map(serde_json::from_str::<Json>);
    // The last line may be cut by an error.
    let objects: Vec<Json> = match result {
        Ok(()) => lines.map(|line| line.unwrap()).collect(),
        Err(_) => lines.filter_map(Result::ok).collect(),
    };
    let keys: Vec<&Json> = objects.iter().filter(|object| object.get("key").is_some()).collect();
    let values = values(file);
    assert_eq!(keys.len(), values.len());
    for (object, (db, key, expiry, expected, size)) in keys.iter().zip(values) {
        assert_eq!(object["db"], db);
        assert_eq!(bytes(&object["key"]), key);
        assert_eq!(object.get("expires_at").map(|at| at.as_i64().unwrap()), expiry);
        assert_eq!(object["bytes"], size);
        assert_eq!(value(object), expected, "{}", key.escape_ascii());
    }
    keys.len()
}

#[test]
fn json_holds_all_of_every_value() {
    let mut keys = 0;
    for path in snapshots() {
        println!("{}", path.display());
        let file = std::fs::read(path).unwrap();
        if Input::from_reader("test", std::io::Cursor::new(file.clone()), InputOptions::default()).is_ok() {
            keys += check(&file, &Limits::default());
            if file.len() > 1 << 20 {
                continue;
            }
            // All but the smallest values come in parts, and strings in chunks.
            let mut limits = Limits::default();
            (limits.value_part, limits.chunk) = (64, 64);
            check(&file, &limits);
        }
    }
    assert!(keys > 50, "{keys} keys");
}

#[test]
fn both_forms_hold_the_same() {
    let file = file_of(&[
        (b"a", Value::String(b"\xFF\"\n".to_vec())),
        (b"b", Value::List(vec![b"1".to_vec(), Vec::new()])),
    ]);
    let (lines, _) = json(open(file.clone()), JsonForm::Lines);
    let (array, _) = json(open(file), JsonForm::Array);
    let lines: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Json::Array(lines), serde_json::from_str::<Json>(&array).unwrap());
    let (nothing, _) = json(open(file_of(&[])), JsonForm::Array);
    assert_eq!(nothing, "[]\n");
}

#[test]
fn scores_read_back_to_the_last_bit() {
    let mut scores = vec![0.0, -0.0, 0.1 + 0.2, 1.0 / 3.0, 5e-324, f64::MAX, -f64::MAX, f64::INFINITY];
    scores.extend([f64::NEG_INFINITY, 2f64.powi(53), 2f64.powi(53) + 2.0, -2f64.powi(60), 1e21, 1e-7, 17.0]);
    let members = scores.iter().enumerate().map(|(i, score)| (i.to_string().into_bytes(), *score)).collect();
    check(&file_of(&[(b"z", Value::SortedSet(members))]), &Limits::default());
}

#[test]
fn damage_is_told_with_offset_and_key() {
    // A listpack whose header promises more than there is.
    let bad = b"\x0B\x0B\x00\x00\x00\x02\x00\x81a\x02\x81a";
    let head = EntryHead::new(0, b"broken", ValueType::HashListpack);
    let file = raw_file([(EntryHead::new(0, b"good", ValueType::String), &b"\x01x"[..]), (head, bad)]);
    let at = file.windows(bad.len()).position(|window| window == bad).unwrap() as u64;
    let (text, result) = json(open(file), JsonForm::Lines);
    assert!(text.starts_with("{\"db\":0,\"key\":\"good\""));
    let Err(Error::Data { input, error }) = result else { panic!("{result:?}") };
    assert_eq!(input, "test");
    let (text, offset) = (error.to_string(), error.offset());
    assert!(text.contains("in key \"broken\""), "{text}");
    assert!((at..at + bad.len() as u64 + 1).contains(&offset), "{text}, value at {at}");
}

/// What HDT3213/rdb says of the same files.
#[test]
fn values_agree_with_another_program() {
    let text = |json: &Json| match json {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut compared = 0;
    for path in snapshots() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected = path.with_extension("json");
        let Ok(expected) = std::fs::read_to_string(&expected).or_else(|_| {
            std::fs::read_to_string(path.with_file_name("../expected").join(&name).with_extension("json"))
        }) else {
            continue;
        };
        if !name.starts_with("hdt__") {
            continue;
        }
        let expected: Vec<Json> = serde_json::from_str(&expected).unwrap();
        let (lines, result) = json(Input::open(&path, InputOptions::default()).unwrap(), JsonForm::Lines);
        result.unwrap();
        let ours: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for theirs in &expected {
            let same = |one: &&Json| one["db"] == theirs["db"] && one["key"] == theirs["key"];
            let Some(ours) = ours.iter().find(same).filter(|_| theirs.get("key").is_some()) else { continue };
            // Bytes that are no text are lost there.
            if theirs.to_string().contains('\u{FFFD}') {
                continue;
            }
            let value = &ours["value"];
            let agree = match theirs["type"].as_str().unwrap() {
                "string" => *value == text(&theirs["value"]),
                "list" => theirs["values"] == *value,
                "set" => {
                    let sorted = |json: &Json| {
                        let mut items: Vec<String> = list(json).iter().map(text).collect();
                        items.sort();
                        items
                    };
                    sorted(&theirs["members"]) == sorted(value)
                }
                "hash" => theirs["hash"].as_object().unwrap().iter().all(|(name, theirs)| {
                    let ours = &value[name];
                    ours == theirs || ours["value"] == *theirs
                }),
                "zset" => list(&theirs["entries"]).iter().all(|entry| {
                    value.get(text(&entry["member"])).map(score) == Some(score(&entry["score"]))
                }),
                _ => continue,
            };
            assert!(agree, "{name}: {theirs}\n{ours}");
            compared += 1;
        }
    }
    assert!(compared > 5, "{compared} keys");
}
