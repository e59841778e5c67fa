//! Reading one key's value into a canonical form, and finding the first difference between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use keyferry_resp::Frame;

use super::{CompareOptions, DifferenceKind, shorten};
use crate::client::{Client, into_list, unexpected};
use crate::data::Features;
use crate::error::Result;

/// Values of more elements than this are compared in parts.
pub(super) const LARGE: u64 = 20_000;

/// Elements of such a part.
const PART: u64 = 5000;

/// Bytes of a string that weigh as much as one element, and of a part of a large string.
const STRING_UNIT: u64 = 256;
const STRING_PART: u64 = 4 << 20;

/// What TYPE says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    VectorSet,
    /// The type of a module: compared by its DUMP.
    Other(String),
}

impl Kind {
    pub(super) fn parse(name: &str) -> Kind {
        match name {
            "string" => Kind::String,
            "list" => Kind::List,
            "set" => Kind::Set,
            "zset" => Kind::SortedSet,
            "hash" => Kind::Hash,
            "stream" => Kind::Stream,
            "vectorset" => Kind::VectorSet,
            other => Kind::Other(other.to_owned()),
        }
    }

    fn size_command(&self) -> Option<&'static [u8]> {
        match self {
            Kind::String => Some(b"STRLEN"),
            Kind::List => Some(b"LLEN"),
            Kind::Set => Some(b"SCARD"),
            Kind::SortedSet => Some(b"ZCARD"),
            Kind::Hash => Some(b"HLEN"),
            // Read as a whole: nothing else shows the pending entries.
            Kind::Stream | Kind::VectorSet | Kind::Other(_) => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::SortedSet => "sorted set",
            Kind::Hash => "hash",
            Kind::Stream => "stream",
            Kind::VectorSet => "vector set",
            Kind::Other(name) => name,
        })
    }
}

/// A value and, of a hash field, its deadline in milliseconds since 1970 (-1: none).
type Field = (Bytes, i64);

/// A value without anything that may differ between two servers that hold the same.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// The key went away, or the server refused to show it: with the reason.
    None(String),
    String(Bytes),
    List(Vec<Bytes>),
    Set(BTreeSet<Bytes>),
    /// Scores as bits: `0` and `-0` differ.
    SortedSet(BTreeMap<Bytes, u64>),
    Hash(BTreeMap<Bytes, Field>),
    Stream(Box<Stream>),
    /// Elements with their vectors and attributes, printed.
    VectorSet(BTreeMap<Bytes, String>),
    /// Bytes of DUMP without the footer.
    Other(Bytes),
}

/// What XINFO STREAM FULL shows. A number that a server is too old to show is not in `numbers`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Stream {
    numbers: BTreeMap<&'static str, String>,
    counters: BTreeMap<&'static str, String>,
    entries: Vec<(Bytes, Vec<Bytes>)>,
    groups: BTreeMap<Bytes, Group>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Group {
    numbers: BTreeMap<&'static str, String>,
    entries_read: BTreeMap<&'static str, String>,
    /// By id: consumer, time and count of delivery.
    pending: BTreeMap<Bytes, String>,
    consumers: BTreeMap<Bytes, Consumer>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Consumer {
    seen: BTreeMap<&'static str, String>,
    active: BTreeMap<&'static str, String>,
}

/// One way in which two values differ, in words for each side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unequal {
    pub(super) kind: DifferenceKind,
    pub(super) a: String,
    pub(super) b: String,
}

impl Unequal {
    fn new(kind: DifferenceKind, (a, b): (String, String)) -> Unequal {
        Unequal { kind, a, b }
    }
}

impl Value {
    /// What differs: the first difference of each kind.
    pub(super) fn differences(a: &Value, b: &Value, options: &CompareOptions) -> Vec<Unequal> {
        if a == b {
            return Vec::new();
        }
        let found = match (a, b) {
            (Value::String(a), Value::String(b)) | (Value::Other(a), Value::Other(b)) => {
                let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
                let side =
                    |bytes: &Bytes| format!("byte {at} of {}: \"{}\"", bytes.len(), shorten(&bytes[at..]));
                Some((side(a), side(b)))
            }
            (Value::List(a), Value::List(b)) => sequence("element", a, b, |item| shorten(item)),
            (Value::Set(a), Value::Set(b)) => {
                let a: BTreeMap<_, _> = a.iter().map(|member| (member, ())).collect();
                let b = b.iter().map(|member| (member, ())).collect();
                mapping("member", &a, &b, |()| "present".to_owned())
            }
            (Value::SortedSet(a), Value::SortedSet(b)) => {
                mapping("member", a, b, |score| format!("score {}", f64::from_bits(*score)))
            }
            (Value::Hash(a), Value::Hash(b)) => return hash_differences(a, b),
            (Value::Stream(a), Value::Stream(b)) => return Stream::differences(a, b, options),
            (Value::VectorSet(a), Value::VectorSet(b)) => mapping("element", a, b, Clone::clone),
            _ => Some((a.to_string(), b.to_string())),
        };
        found.into_iter().map(|sides| Unequal::new(DifferenceKind::Value, sides)).collect()
    }
}

/// Of two hashes: fields and values, and apart from these the deadlines of fields that both have.
fn hash_differences(a: &BTreeMap<Bytes, Field>, b: &BTreeMap<Bytes, Field>) -> Vec<Unequal> {
    let values = |fields: &BTreeMap<Bytes, Field>| -> BTreeMap<Bytes, Bytes> {
        fields.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect()
    };
    let found = mapping("field", &values(a), &values(b), |value| format!("\"{}\"", shorten(value)));
    let mut found: Vec<Unequal> =
        found.into_iter().map(|sides| Unequal::new(DifferenceKind::Value, sides)).collect();
    let common = |fields: &BTreeMap<Bytes, Field>, others: &BTreeMap<Bytes, Field>| -> BTreeMap<_, _> {
        let both = fields.iter().filter(|(name, _)| others.contains_key(*name));
        both.map(|(name, (_, deadline))| (name.clone(), *deadline)).collect()
    };
    let deadlines = mapping("field", &common(a, b), &common(b, a), |deadline| match deadline {
        ..0 => "no deadline".to_owned(),
        deadline => format!("until {deadline}"),
    });
    found.extend(deadlines.map(|sides| Unequal::new(DifferenceKind::FieldExpiry, sides)));
    found
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None(reason) => f.write_str(reason),
            Value::String(bytes) | Value::Other(bytes) => write!(f, "\"{}\"", shorten(bytes)),
            Value::List(items) => write!(f, "list of {}", items.len()),
            Value::Set(items) => write!(f, "set of {}", items.len()),
            Value::SortedSet(items) => write!(f, "sorted set of {}", items.len()),
            Value::Hash(items) => write!(f, "hash of {}", items.len()),
            Value::Stream(stream) => write!(f, "stream of {}", stream.entries.len()),
            Value::VectorSet(items) => write!(f, "vector set of {}", items.len()),
        }
    }
}

impl Stream {
    fn differences(a: &Stream, b: &Stream, options: &CompareOptions) -> Vec<Unequal> {
        let found = [
            (DifferenceKind::Value, Stream::content(a, b, options.unreplicated)),
            (DifferenceKind::Counters, Stream::counters(a, b, options)),
            (DifferenceKind::ActiveTimes, Stream::active_times(a, b, options)),
        ];
        found.into_iter().filter_map(|(kind, sides)| Some(Unequal::new(kind, sides?))).collect()
    }

    /// Entries, groups, pending entries and consumers.
    fn content(a: &Stream, b: &Stream, unreplicated: bool) -> Option<(String, String)> {
        sequence("entry", &a.entries, &b.entries, |(id, fields)| {
            let fields: Vec<String> = fields.iter().map(|field| shorten(field)).collect();
            format!("{} {}", shorten(id), fields.join(" "))
        })
        .or_else(|| numbers("", &a.numbers, &b.numbers))
        .or_else(|| mapping("group", &presence(&a.groups), &presence(&b.groups), |()| "present".to_owned()))
        .or_else(|| {
            a.groups.iter().zip(&b.groups).find_map(|((name, a), (_, b))| {
                let of = format!("group {}: ", shorten(name));
                let prefixed = |found: Option<(String, String)>| {
                    found.map(|(a, b)| (format!("{of}{a}"), format!("{of}{b}")))
                };
                numbers(&of, &a.numbers, &b.numbers)
                    .or_else(|| prefixed(mapping("pending", &a.pending, &b.pending, Clone::clone)))
                    .or_else(|| {
                        let (a, b) = (presence(&a.consumers), presence(&b.consumers));
                        prefixed(mapping("consumer", &a, &b, |()| "present".to_owned()))
                            .filter(|_| unreplicated)
                    })
                    .or_else(|| {
                        let consumers = || a.consumers.iter().zip(b.consumers.values());
                        let of = |name| format!("{of}consumer {}: ", shorten(name));
                        consumers()
                            .filter(|_| unreplicated)
                            .find_map(|((name, a), b)| numbers(&of(name), &a.seen, &b.seen))
                    })
            })
        })
    }

    /// What is counted besides. A server that is too old to count would, loading the stream into a newer one, give it
    /// these numbers: as many added as there are entries, nothing deleted, and unknown how many a group has read.
    fn counters(a: &Stream, b: &Stream, options: &CompareOptions) -> Option<(String, String)> {
        let length = b.entries.len().to_string();
        let derived = |name: &str| match name {
            "entries-added" => length.clone(),
            _ => "0-0".to_owned(),
        };
        let derived: Option<&dyn Fn(&str) -> String> = if options.one_sided { Some(&derived) } else { None };
        numbers_or("", &a.counters, &b.counters, derived).or_else(|| {
            let unknown = |_: &str| "null".to_owned();
            let derived: Option<&dyn Fn(&str) -> String> =
                if options.one_sided { Some(&unknown) } else { None };
            let both = a.groups.iter().filter_map(|(name, a)| Some((name, a, b.groups.get(name)?)));
            both.filter(|_| options.unreplicated).find_map(|(name, a, b)| {
                let of = format!("group {}: ", shorten(name));
                numbers_or(&of, &a.entries_read, &b.entries_read, derived)
            })
        })
    }

    /// When consumers were last active. Servers that do not tell take it to be when they were last seen.
    fn active_times(a: &Stream, b: &Stream, options: &CompareOptions) -> Option<(String, String)> {
        let both = a.groups.iter().filter_map(|(name, a)| Some((name, a, b.groups.get(name)?)));
        both.filter(|_| options.unreplicated).find_map(|(group, a, b)| {
            let both = a.consumers.iter().filter_map(|(name, a)| Some((name, a, b.consumers.get(name)?)));
            both.into_iter().find_map(|(name, a, b)| {
                let of = format!("group {}: consumer {}: ", shorten(group), shorten(name));
                let seen = |_: &str| b.seen.get("seen-time").cloned().unwrap_or_default();
                let derived: Option<&dyn Fn(&str) -> String> =
                    if options.one_sided { Some(&seen) } else { None };
                numbers_or(&of, &a.active, &b.active, derived)
            })
        })
    }

    /// Reads the reply to `XINFO STREAM key FULL COUNT 0`, of any version.
    fn read(reply: &Frame) -> Option<Stream> {
        // Deadlines, indexes and the lag of groups are derived from the rest; radix tree sizes depend on history.
        let mut stream = Stream {
            numbers: named(reply, &["last-generated-id"]),
            counters: named(reply, &["max-deleted-entry-id", "entries-added"]),
            ..Stream::default()
        };
        for entry in reply.get("entries")?.as_array()? {
            let parts = entry.as_array()?;
            let fields = parts.get(1)?.as_array()?.iter().filter_map(|field| field.as_bytes().cloned());
            stream.entries.push((parts.first()?.as_bytes()?.clone(), fields.collect()));
        }
        for group in reply.get("groups")?.as_array()? {
            let mut read = Group {
                numbers: named(group, &["last-delivered-id"]),
                entries_read: named(group, &["entries-read"]),
                ..Group::default()
            };
            // 6.0 has "pel" here, later versions "pending".
            for pending in group.get("pel").or_else(|| group.get("pending"))?.as_array()? {
                let parts = pending.as_array()?;
                let text: Vec<String> = parts.iter().skip(1).map(show).collect();
                read.pending.insert(parts.first()?.as_bytes()?.clone(), text.join(" "));
            }
            for consumer in group.get("consumers")?.as_array()? {
                let name = consumer.get("name")?.as_bytes()?.clone();
                let times = Consumer {
                    seen: named(consumer, &["seen-time"]),
                    active: named(consumer, &["active-time"]),
                };
                read.consumers.insert(name, times);
            }
            stream.groups.insert(group.get("name")?.as_bytes()?.clone(), read);
        }
        Some(stream)
    }
}

/// The fields of these names that are there, printed.
fn named(map: &Frame, names: &[&'static str]) -> BTreeMap<&'static str, String> {
    names.iter().filter_map(|&name| Some((name, show(map.get(name)?)))).collect()
}

fn show(frame: &Frame) -> String {
    match frame {
        Frame::Integer(number) => number.to_string(),
        Frame::Null(_) => "null".to_owned(),
        other => other.as_bytes().map_or_else(|| format!("{other:?}"), |bytes| shorten(bytes)),
    }
}

fn presence<V>(map: &BTreeMap<Bytes, V>) -> BTreeMap<&Bytes, ()> {
    map.keys().map(|key| (key, ())).collect()
}

/// Numbers that both sides show.
fn numbers(
    of: &str,
    a: &BTreeMap<&'static str, String>,
    b: &BTreeMap<&'static str, String>,
) -> Option<(String, String)> {
    numbers_or(of, a, b, None)
}

/// The same with what a number of the second side comes to that is not shown.
fn numbers_or(
    of: &str,
    a: &BTreeMap<&'static str, String>,
    b: &BTreeMap<&'static str, String>,
    derived: Option<&dyn Fn(&str) -> String>,
) -> Option<(String, String)> {
    a.iter().find_map(|(name, a)| {
        let b = match b.get(name) {
            Some(b) => b.clone(),
            None => derived?(name),
        };
        (*a != b).then(|| (format!("{of}{name} {a}"), format!("{of}{name} {b}")))
    })
}

fn sequence<T: PartialEq>(
    what: &str,
    a: &[T],
    b: &[T],
    show: impl Fn(&T) -> String,
) -> Option<(String, String)> {
    let at = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i))?;
    let side = |items: &[T]| {
        let item = items.get(at).map_or("none".to_owned(), &show);
        format!("{what} {at} of {}: {item}", items.len())
    };
    Some((side(a), side(b)))
}

fn mapping<K: Ord + AsRef<[u8]>, V: PartialEq>(
    what: &str,
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
    show: impl Fn(&V) -> String,
) -> Option<(String, String)> {
    let key = a.keys().chain(b.keys()).find(|key| a.get(*key) != b.get(*key))?;
    let side = |map: &BTreeMap<K, V>| {
        let value = map.get(key).map_or("none".to_owned(), &show);
        format!("{what} \"{}\" (of {}): {value}", shorten(key.as_ref()), map.len())
    };
    Some((side(a), side(b)))
}

/// Reads values from one server. Asking and reading are apart, so that two servers work at the same time.
pub(super) struct Reader<'a> {
    client: &'a mut Client,
    features: &'a Features,
}

impl<'a> Reader<'a> {
    pub(super) fn new(client: &'a mut Client, features: &'a Features) -> Reader<'a> {
        Reader { client, features }
    }

    pub(super) fn ask_sizes(&mut self, items: &[(Bytes, Kind)]) -> Result<()> {
        for (key, kind) in items {
            if let Some(command) = kind.size_command() {
                self.client.queue(&[command, key])?;
            }
        }
        self.client.flush()
    }

    /// The numbers of elements; of a string, a figure that weighs as much.
    pub(super) fn sizes(&mut self, items: &[(Bytes, Kind)]) -> Result<Vec<u64>> {
        let mut sizes = Vec::with_capacity(items.len());
        for (_, kind) in items {
            let size = match kind.size_command() {
                Some(_) => self.client.reply()?.as_i64().unwrap_or(0) as u64,
                None => 0,
            };
            sizes.push(if *kind == Kind::String { size / STRING_UNIT } else { size });
        }
        Ok(sizes)
    }

    pub(super) fn ask(&mut self, items: &[(Bytes, Kind)]) -> Result<()> {
        for (key, kind) in items {
            match kind {
                Kind::String => self.client.queue(&[b"GET", &key[..]])?,
                Kind::List => self.client.queue(&[b"LRANGE", &key[..], b"0", b"-1"])?,
                Kind::Set => self.client.queue(&[b"SMEMBERS", &key[..]])?,
                Kind::SortedSet => self.client.queue(&[b"ZRANGE", &key[..], b"0", b"-1", b"WITHSCORES"])?,
                Kind::Hash => self.client.queue(&[b"HGETALL", &key[..]])?,
                Kind::Stream => {
                    self.client.queue(&[&b"XINFO"[..], b"STREAM", &key[..], b"FULL", b"COUNT", b"0"])?
                }
                Kind::VectorSet => self.client.queue(&[b"VCARD", &key[..]])?,
                Kind::Other(_) => self.client.queue(&[b"DUMP", &key[..]])?,
            }
        }
        self.client.flush()
    }

    pub(super) fn values(&mut self, items: &[(Bytes, Kind)]) -> Result<Vec<Value>> {
        let mut values = Vec::with_capacity(items.len());
        for (key, kind) in items {
            let reply = self.client.reply()?;
            values.push(value(key, kind, reply)?);
        }
        for ((key, _), value) in items.iter().zip(&mut values) {
            match value {
                Value::Hash(fields) => self.field_deadlines(key, fields)?,
                Value::VectorSet(elements) => *elements = self.vectors(key)?,
                _ => {}
            }
        }
        Ok(values)
    }

    fn field_deadlines(&mut self, key: &Bytes, fields: &mut BTreeMap<Bytes, Field>) -> Result<()> {
        if !self.features.has("hpexpiretime") || fields.is_empty() {
            return Ok(());
        }
        let count = fields.len().to_string();
        let mut args: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
        args.extend(fields.keys().map(|field| &field[..]));
        let deadlines = self.client.list(&args)?;
        for (field, deadline) in fields.values_mut().zip(deadlines) {
            field.1 = deadline.as_i64().unwrap_or(-1);
        }
        Ok(())
    }

    fn vectors(&mut self, key: &Bytes) -> Result<BTreeMap<Bytes, String>> {
        let card = self.client.int(&[&b"VCARD"[..], key])?.to_string();
        let members = self.client.list(&[b"VRANDMEMBER", &key[..], card.as_bytes()])?;
        let mut elements = BTreeMap::new();
        for member in members.iter().filter_map(Frame::as_bytes) {
            let vector: Vec<String> =
                self.client.list(&[b"VEMB", &key[..], member])?.iter().map(show).collect();
            let attributes = self.client.bytes(&[b"VGETATTR", &key[..], member])?;
            let attributes = attributes.map_or(String::new(), |text| shorten(&text));
            elements.insert(member.clone(), format!("[{}] {attributes}", vector.join(", ")));
        }
        Ok(elements)
    }

    fn count(&mut self, key: &Bytes, kind: &Kind) -> Result<u64> {
        let Some(command) = kind.size_command() else { return Ok(0) };
        Ok(self.client.int(&[command, key])? as u64)
    }

    fn part(&mut self, key: &Bytes, kind: &Kind, from: u64, to: u64) -> Result<Value> {
        let (from, to) = (from.to_string(), (to - 1).to_string());
        let (from, to) = (from.as_bytes(), to.as_bytes());
        let reply = match kind {
            Kind::String => self.client.call(&[b"GETRANGE", &key[..], from, to])?,
            Kind::List => self.client.call(&[b"LRANGE", &key[..], from, to])?,
            // In order of score and member, which is the same on both sides: duplicates and order are checked too.
            _ => self.client.call(&[b"ZRANGE", &key[..], from, to, b"WITHSCORES"])?,
        };
        value(key, kind, reply)
    }
}

/// Compares a large value in parts. The sizes were just asked for, but may have changed.
pub(super) fn compare_large(
    a: &mut Reader<'_>,
    b: &mut Reader<'_>,
    key: &Bytes,
    kind: &Kind,
    options: &CompareOptions,
) -> Result<Vec<Unequal>> {
    let (count_a, count_b) = (a.count(key, kind)?, b.count(key, kind)?);
    if count_a != count_b {
        let sides = (format!("{kind} of {count_a}"), format!("{kind} of {count_b}"));
        return Ok(vec![Unequal::new(DifferenceKind::Value, sides)]);
    }
    match kind {
        Kind::String | Kind::List | Kind::SortedSet => {
            let part = if *kind == Kind::String { STRING_PART } else { PART };
            for from in (0..count_a).step_by(part as usize) {
                let to = (from + part).min(count_a);
                let (part_a, part_b) = (a.part(key, kind, from, to)?, b.part(key, kind, from, to)?);
                let mut found = Value::differences(&part_a, &part_b, options);
                if !found.is_empty() {
                    for Unequal { a, b, .. } in &mut found {
                        (*a, *b) = (format!("from {from}: {a}"), format!("from {from}: {b}"));
                    }
                    return Ok(found);
                }
            }
            Ok(Vec::new())
        }
        // Same count, and all of one side is in the other: equal.
        _ => {
            let command: &[u8] = if *kind == Kind::Set { b"SSCAN" } else { b"HSCAN" };
            let mut cursor = Bytes::from_static(b"0");
            let mut all: Vec<Unequal> = Vec::new();
            loop {
                let args = [command, &key[..], &cursor, b"COUNT", b"5000"];
                let reply = a.client.call(&args)?;
                let parts = reply.as_array().unwrap_or_default();
                let (Some(next), Some(items)) = (parts.first().and_then(Frame::as_bytes), parts.get(1))
                else {
                    return Err(unexpected(&args, "a cursor and elements", &reply));
                };
                let found =
                    if *kind == Kind::Set { members(b, key, items) } else { fields(a, b, key, items) }?;
                for unequal in found {
                    if all.iter().all(|known: &Unequal| known.kind != unequal.kind) {
                        all.push(unequal);
                    }
                }
                cursor = next.clone();
                if cursor == "0" || all.iter().any(|unequal| unequal.kind == DifferenceKind::Value) {
                    return Ok(all);
                }
            }
        }
    }
}

fn members(b: &mut Reader<'_>, key: &Bytes, items: &Frame) -> Result<Vec<Unequal>> {
    let items: Vec<&Bytes> =
        items.as_array().unwrap_or_default().iter().filter_map(Frame::as_bytes).collect();
    let asked: Vec<[&[u8]; 3]> = items.iter().map(|item| [&b"SISMEMBER"[..], &key[..], &item[..]]).collect();
    let replies = b.client.pipe(&asked)?;
    let missing = items.iter().zip(replies).find(|(_, reply)| reply.as_i64() != Some(1));
    let missing = missing.map(|(item, _)| {
        let what = format!("member \"{}\"", shorten(item));
        Unequal::new(DifferenceKind::Value, (format!("{what}: present"), format!("{what}: none")))
    });
    Ok(missing.into_iter().collect())
}

fn fields(a: &mut Reader<'_>, b: &mut Reader<'_>, key: &Bytes, items: &Frame) -> Result<Vec<Unequal>> {
    let mut fields_a: BTreeMap<Bytes, Field> = BTreeMap::new();
    for (field, value) in items.as_pairs().into_iter().flatten() {
        if let (Some(field), Some(value)) = (field.as_bytes(), value.as_bytes()) {
            fields_a.insert(field.clone(), (value.clone(), -1));
        }
    }
    if fields_a.is_empty() {
        return Ok(Vec::new());
    }
    let mut args: Vec<&[u8]> = vec![b"HMGET", key];
    args.extend(fields_a.keys().map(|field| &field[..]));
    let values = b.client.list(&args)?;
    let mut fields_b: BTreeMap<Bytes, Field> = fields_a
        .keys()
        .zip(values)
        .filter_map(|(field, value)| Some((field.clone(), (value.as_bytes()?.clone(), -1))))
        .collect();
    a.field_deadlines(key, &mut fields_a)?;
    b.field_deadlines(key, &mut fields_b)?;
    Ok(hash_differences(&fields_a, &fields_b))
}

/// The canonical form of a reply to a command that reads a value, or a part of one.
fn value(key: &Bytes, kind: &Kind, reply: Frame) -> Result<Value> {
    let wrong = |expected, reply: &Frame| Err(unexpected(&[&b"reading"[..], key], expected, reply));
    if let Some(message) = reply.error() {
        return Ok(Value::None(String::from_utf8_lossy(message).into_owned()));
    }
    if reply.is_null() {
        return Ok(Value::None("missing".to_owned()));
    }
    match kind {
        Kind::String => match reply.as_bytes() {
            Some(bytes) => Ok(Value::String(bytes.clone())),
            None => wrong("a string", &reply),
        },
        Kind::Other(_) => match reply.as_bytes() {
            Some(bytes) => Ok(Value::Other(bytes.slice(..bytes.len().saturating_sub(10)))),
            None => wrong("a string", &reply),
        },
        Kind::Stream => match Stream::read(&reply) {
            Some(stream) => Ok(Value::Stream(Box::new(stream))),
            None => wrong("XINFO STREAM FULL's map", &reply),
        },
        Kind::VectorSet => Ok(Value::VectorSet(BTreeMap::new())),
        Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash => {
            let mut items = match into_list(reply) {
                Ok(items) => items.into_iter(),
                Err(reply) => return wrong("an array", &reply),
            };
            let bytes = |frame: Frame| frame.as_bytes().cloned().unwrap_or_default();
            Ok(match kind {
                Kind::List => Value::List(items.map(bytes).collect()),
                Kind::Set => Value::Set(items.map(bytes).collect()),
                Kind::SortedSet => {
                    let mut members = BTreeMap::new();
                    while let (Some(member), Some(score)) = (items.next(), items.next()) {
                        let Some(number) = score.as_f64() else { return wrong("a score", &score) };
                        members.insert(bytes(member), number.to_bits());
                    }
                    Value::SortedSet(members)
                }
                _ => {
                    let mut fields = BTreeMap::new();
                    while let (Some(field), Some(value)) = (items.next(), items.next()) {
                        fields.insert(bytes(field), (bytes(value), -1));
                    }
                    Value::Hash(fields)
                }
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    /// The first difference of the kind that is expected.
    fn difference(a: &Value, b: &Value, kind: DifferenceKind) -> Option<(String, String)> {
        let options = CompareOptions::default();
        let mut found = Value::differences(a, b, &options);
        assert!(found.iter().all(|unequal| unequal.kind == kind), "{found:?}");
        found.pop().map(|Unequal { a, b, .. }| (a, b))
    }

    #[test]
    fn the_first_difference_is_named() {
        use DifferenceKind::{FieldExpiry, Value as Content};
        let list = |items: &[&'static str]| Value::List(items.iter().map(|item| bytes(item)).collect());
        assert_eq!(difference(&list(&["a", "b"]), &list(&["a", "b"]), Content), None);
        let (a, b) = difference(&list(&["a", "b"]), &list(&["a", "c", "d"]), Content).unwrap();
        assert_eq!((&a[..], &b[..]), ("element 1 of 2: b", "element 1 of 3: c"));
        let zset = |score: f64| Value::SortedSet([(bytes("m"), score.to_bits())].into());
        let (a, b) = difference(&zset(0.0), &zset(-0.0), Content).unwrap();
        assert_eq!((&a[..], &b[..]), ("member \"m\" (of 1): score 0", "member \"m\" (of 1): score -0"));
        let hash = |deadline| Value::Hash([(bytes("f"), (bytes("v"), deadline))].into());
        let (a, b) = difference(&hash(-1), &hash(5), FieldExpiry).unwrap();
        assert!(a.ends_with("no deadline") && b.ends_with("until 5"), "{a} {b}");
    }

    fn stream(seen: &str, active: Option<&str>, added: Option<&str>) -> Value {
        let named = |name, value: &str| [(name, value.to_owned())].into();
        let times = Consumer {
            seen: named("seen-time", seen),
            active: active.map(|active| named("active-time", active)).unwrap_or_default(),
        };
        let group = Group { consumers: [(bytes("c"), times)].into(), ..Group::default() };
        let counters = added.map(|added| named("entries-added", added)).unwrap_or_default();
        let groups = [(bytes("g"), group)].into();
        Value::Stream(Box::new(Stream { groups, counters, ..Stream::default() }))
    }

    #[test]
    fn seen_times_count_only_on_request() {
        let (a, b) = (stream("1", None, None), stream("2", None, None));
        assert_eq!(Value::differences(&a, &b, &CompareOptions::default()), []);
        let found = Value::differences(&a, &b, &CompareOptions::default().unreplicated());
        assert_eq!(found[0].a, "group g: consumer c: seen-time 1");
    }

    #[test]
    fn what_one_side_does_not_show_counts_only_on_request() {
        let options = CompareOptions::default().unreplicated();
        let (a, b) = (stream("1", Some("3"), Some("2")), stream("1", None, None));
        assert_eq!(Value::differences(&a, &b, &options), []);
        let options = options.one_sided();
        let kinds = |a: &Value, b: &Value| -> Vec<DifferenceKind> {
            Value::differences(a, b, &options).into_iter().map(|unequal| unequal.kind).collect()
        };
        assert_eq!(kinds(&a, &b), [DifferenceKind::Counters, DifferenceKind::ActiveTimes]);
        // What the older side lacks is what it would be taken for.
        assert_eq!(kinds(&stream("1", Some("1"), Some("0")), &b), []);
        assert_eq!(kinds(&b, &a), []);
    }
}
