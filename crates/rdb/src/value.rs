//! Values that own their data.

use std::collections::HashSet;

use crate::elements::{Element, Elements, StreamCounters, StreamId, Templates};
use crate::error::Error;
use crate::event::RawValue;
use crate::limits::Limits;
use crate::types::{Kind, ValueType};

/// A value with all its elements, whatever its encoding was.
///
/// Two values are equal when a user of the server could not tell them apart: the order of sets, sorted sets and hashes
/// does not count, scores are compared bit by bit.
///
/// It holds the whole value in memory, several times its serialized size. To pass over large values use
/// [`elements`](crate::elements) instead.
///
/// ```
/// use keyferry_rdb::{Limits, RawValue, Value, ValueType};
///
/// let plain = RawValue::new(ValueType::Set, b"\x02\x011\x012").to_value(&Limits::default())?;
/// let intset = b"\x0C\x02\0\0\0\x02\0\0\0\x01\0\x02\0";
/// let compact = RawValue::new(ValueType::SetIntset, intset).to_value(&Limits::default())?;
/// assert_eq!(plain, compact);
/// assert_eq!(plain, Value::Set(vec![b"2".to_vec(), b"1".to_vec()]));
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value {
    /// A string, bitmap or HyperLogLog.
    String(Vec<u8>),
    /// A list, head first.
    List(Vec<Vec<u8>>),
    /// A set, in the order in which it was stored.
    Set(Vec<Vec<u8>>),
    /// A sorted set: members and scores, in the order in which they were stored. No score is NaN.
    SortedSet(Vec<(Vec<u8>, f64)>),
    /// A hash, in the order in which it was stored.
    Hash(Vec<HashField>),
    /// A stream.
    Stream(Stream),
    /// An array (Redis 8.8).
    Array(Array),
    /// The theoretical arrival time of a rate limiter (Redis 8.10, optional builds).
    RateLimiter(u64),
    /// A value that only its module or vendor understands, in its raw form.
    Opaque {
        /// Its type.
        ty: ValueType,
        /// Its serialized bytes.
        bytes: Vec<u8>,
    },
}

/// A field of a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashField {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// When it expires, in milliseconds since the Unix epoch (Redis 7.4, Valkey 9).
    pub expires_at: Option<i64>,
}

/// An array (Redis 8.8): values at some of 2⁶⁴ - 1 indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Array {
    /// The index of the last insert, when there was one.
    pub cursor: Option<u64>,
    /// Indexes and values, indexes ascending. Numbers are the text that a server gives.
    pub items: Vec<(u64, Vec<u8>)>,
}

/// A stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Its live entries, in ascending order of ids.
    pub entries: Vec<StreamItem>,
    /// The id given last.
    pub last_id: StreamId,
    /// What Redis 7.0 and later keep besides. Servers derive it where it is missing.
    pub counters: Option<StreamCounters>,
    /// Its consumer groups.
    pub groups: Vec<StreamGroup>,
    /// What it remembers of idempotent producers (Redis 8.6).
    pub idempotency: Option<Idempotency>,
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamItem {
    /// Its id.
    pub id: StreamId,
    /// Its fields and values, in order; names may repeat.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A consumer group of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamGroup {
    /// Its name.
    pub name: Vec<u8>,
    /// The id it has delivered last.
    pub last_id: StreamId,
    /// Number of entries it has read, where known (Redis 7.0).
    pub entries_read: Option<u64>,
    /// Its consumers.
    pub consumers: Vec<StreamConsumer>,
    /// Pending entries that were released and have no owner (Redis 8.8).
    pub released: Vec<PendingEntry>,
}

/// A consumer of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamConsumer {
    /// Its name.
    pub name: Vec<u8>,
    /// When it last tried to read, in milliseconds since the Unix epoch.
    pub seen_time: i64,
    /// When it last got something; `None` for never. Values written before Redis 7.2 do not tell, and count as active
    /// when they were seen, as in servers.
    pub active_time: Option<i64>,
    /// Entries delivered to it but not acknowledged, in ascending order of ids.
    pub pending: Vec<PendingEntry>,
}

/// An entry delivered but not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingEntry {
    /// Its id. The entry itself may have been deleted.
    pub id: StreamId,
    /// When it was delivered last, in milliseconds since the Unix epoch.
    pub delivered_at: i64,
    /// How often it was delivered.
    pub deliveries: u64,
}

/// What a stream remembers of idempotent producers (Redis 8.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Idempotency {
    /// How long an idempotency id is remembered, in seconds.
    pub duration: u64,
    /// How many are remembered for one producer.
    pub max_entries: u64,
    /// Producers that have idempotency ids.
    pub producers: Vec<Producer>,
    /// Idempotency ids ever added.
    pub added: u64,
    /// Duplicates ever refused.
    pub duplicates: u64,
}

/// An idempotent producer of a stream (Redis 8.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub name: Vec<u8>,
    /// Its idempotency ids and the entries that were added under them.
    pub records: Vec<(Vec<u8>, StreamId)>,
}

impl HashField {
    /// A field that does not expire.
    pub fn new(name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), value: value.into(), expires_at: None }
    }

    /// The same with this expiry.
    #[must_use]
    pub fn with_expiry(mut self, expires_at: Option<i64>) -> Self {
        self.expires_at = expires_at;
        self
    }
}

impl Value {
    /// What it is to its user.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::String(_) => Kind::String,
            Self::List(_) => Kind::List,
            Self::Set(_) => Kind::Set,
            Self::SortedSet(_) => Kind::SortedSet,
            Self::Hash(_) => Kind::Hash,
            Self::Stream(_) => Kind::Stream,
            Self::Array(_) => Kind::Array,
            Self::RateLimiter(_) => Kind::RateLimiter,
            Self::Opaque { ty, .. } => ty.kind(),
        }
    }

    fn empty(value: RawValue<'_>) -> Self {
        match value.ty().kind() {
            Kind::String => Self::String(Vec::new()),
            Kind::List => Self::List(Vec::new()),
            Kind::Set => Self::Set(Vec::new()),
            Kind::SortedSet => Self::SortedSet(Vec::new()),
            Kind::Hash => Self::Hash(Vec::new()),
            Kind::Stream => Self::Stream(Stream::default()),
            Kind::Array => Self::Array(Array::default()),
            Kind::RateLimiter => Self::RateLimiter(0),
            Kind::Module | Kind::CronJob => Self::Opaque { ty: value.ty(), bytes: value.bytes().to_vec() },
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::String(a), Self::String(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Set(a), Self::Set(b)) => same(a, b, |member| member.as_slice()),
            (Self::SortedSet(a), Self::SortedSet(b)) => {
                same(a, b, |(member, score)| (member.as_slice(), score.to_bits()))
            }
            (Self::Hash(a), Self::Hash(b)) => {
                same(a, b, |field| (field.name.as_slice(), field.value.as_slice(), field.expires_at))
            }
            (Self::Stream(a), Self::Stream(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::RateLimiter(a), Self::RateLimiter(b)) => a == b,
            (Self::Opaque { ty: a, bytes: x }, Self::Opaque { ty: b, bytes: y }) => a == b && x == y,
            _ => false,
        }
    }
}

impl Eq for Value {}

/// Whether two slices hold the same, in any order.
fn same<'a, T, K: Ord>(a: &'a [T], b: &'a [T], key: impl Fn(&'a T) -> K) -> bool {
    let sorted = |items: &'a [T]| {
        let mut keys: Vec<K> = items.iter().map(&key).collect();
        keys.sort_unstable();
        keys
    };
    a.len() == b.len() && (a.iter().map(&key).eq(b.iter().map(&key)) || sorted(a) == sorted(b))
}

impl RawValue<'_> {
    /// Decodes the whole value.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value. Unlike
    /// [`elements`](Self::elements), this finds members and fields that occur twice.
    /// [`Error::UnknownTemplate`] for hashes of types 30 and 32: see [`to_value_with`](Self::to_value_with).
    pub fn to_value(self, limits: &Limits) -> Result<Value, Error> {
        self.to_value_with(limits, &Templates::new())
    }

    /// The same for a file with hash templates (RDB 15).
    ///
    /// # Errors
    ///
    /// As [`to_value`](Self::to_value).
    pub fn to_value_with(self, limits: &Limits, templates: &Templates) -> Result<Value, Error> {
        let mut value = Value::empty(self);
        let mut elements = self.elements(limits).with_templates(templates.clone());
        while let Some(element) = elements.next()? {
            add(&mut value, &element, self.ty());
        }
        if repeats(&value) {
            return Err(twice(&mut elements));
        }
        Ok(value)
    }
}

fn twice(elements: &mut Elements<'_>) -> Error {
    Error::Corrupt {
        offset: elements.offset(),
        what: "a value that ends here has one member or field twice",
        key: None,
    }
}

fn repeats(value: &Value) -> bool {
    fn any<'a>(names: impl ExactSizeIterator<Item = &'a Vec<u8>>) -> bool {
        let mut seen = HashSet::with_capacity(names.len());
        names.into_iter().any(|name| !seen.insert(name))
    }
    match value {
        Value::Set(members) => any(members.iter()),
        Value::SortedSet(members) => any(members.iter().map(|(member, _)| member)),
        Value::Hash(fields) => any(fields.iter().map(|field| &field.name)),
        _ => false,
    }
}

/// Adds an element to the value of its kind. Elements of other kinds do not occur.
fn add(value: &mut Value, element: &Element<'_>, ty: ValueType) {
    match (value, element) {
        (Value::String(string), Element::Chunk(chunk)) => string.extend_from_slice(chunk),
        (Value::List(items), Element::Item(item)) => items.push(item.to_vec()),
        (Value::Set(members), Element::Member(member)) => members.push(member.to_vec()),
        (Value::SortedSet(members), Element::Scored { member, score }) => {
            members.push((member.to_vec(), score.value()));
        }
        (Value::Hash(fields), Element::Field { name, value, expires_at }) => {
            fields.push(HashField::new(*name, *value).with_expiry(*expires_at));
        }
        (Value::Array(array), Element::ArrayCursor(cursor)) => array.cursor = Some(*cursor),
        (Value::Array(array), Element::ArrayItem { index, value }) => {
            array.items.push((*index, value.to_vec()));
        }
        (Value::RateLimiter(time), Element::RateLimit(found)) => *time = *found,
        (Value::Stream(stream), element) => add_to_stream(stream, element, ty),
        _ => {}
    }
}

/// Adds an element of a stream of type `ty`.
pub(crate) fn add_to_stream(stream: &mut Stream, element: &Element<'_>, ty: ValueType) {
    match element {
        Element::StreamEntry(entry) => {
            let fields = entry.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            stream.entries.push(StreamItem { id: entry.id, fields });
        }
        Element::StreamInfo(info) => {
            stream.last_id = info.last_id;
            stream.counters = info.counters;
        }
        Element::Group(group) => stream.groups.push(StreamGroup {
            name: group.name.to_vec(),
            last_id: group.last_id,
            entries_read: group.entries_read,
            ..StreamGroup::default()
        }),
        Element::Consumer(consumer) => {
            let tells_active = !matches!(ty, ValueType::Stream | ValueType::Stream2);
            let active_time = if tells_active { consumer.active_time } else { Some(consumer.seen_time) };
            if let Some(group) = stream.groups.last_mut() {
                group.consumers.push(StreamConsumer {
                    name: consumer.name.to_vec(),
                    seen_time: consumer.seen_time,
                    active_time,
                    pending: Vec::new(),
                });
            }
        }
        Element::Pending(pending) => {
            let Some(group) = stream.groups.last_mut() else { return };
            let list = match (pending.consumer, group.consumers.last_mut()) {
                (Some(_), Some(consumer)) => &mut consumer.pending,
                _ => &mut group.released,
            };
            list.push(PendingEntry {
                id: pending.id,
                delivered_at: pending.delivered_at,
                deliveries: pending.deliveries,
            });
        }
        Element::IdempotencyLimits { duration, max_entries } => {
            let known = stream.idempotency.get_or_insert_default();
            (known.duration, known.max_entries) = (*duration, *max_entries);
        }
        Element::IdempotencyRecord { producer, iid, entry } => {
            let producers = &mut stream.idempotency.get_or_insert_default().producers;
            match producers.last_mut() {
                Some(last) if last.name == *producer => last.records.push((iid.to_vec(), *entry)),
                _ => {
                    producers
                        .push(Producer { name: producer.to_vec(), records: vec![(iid.to_vec(), *entry)] });
                }
            }
        }
        Element::IdempotencyTotals { added, duplicates } => {
            let known = stream.idempotency.get_or_insert_default();
            (known.added, known.duplicates) = (*added, *duplicates);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(ty: ValueType, bytes: &[u8]) -> Result<Value, Error> {
        RawValue::new(ty, bytes).to_value(&Limits::default())
    }

    #[test]
    fn order_counts_in_lists_only() {
        let read = |ty, bytes: &[u8]| value(ty, bytes).unwrap();
        assert_eq!(read(ValueType::Set, b"\x02\x01a\x01b"), read(ValueType::Set, b"\x02\x01b\x01a"));
        assert_ne!(read(ValueType::List, b"\x02\x01a\x01b"), read(ValueType::List, b"\x02\x01b\x01a"));
        assert_ne!(read(ValueType::Set, b"\x01\x01a"), read(ValueType::Set, b"\x01\x01b"));
        let hash = read(ValueType::Hash, b"\x02\x01a\x011\x01b\x012");
        assert_eq!(hash, read(ValueType::Hash, b"\x02\x01b\x012\x01a\x011"));
        assert_ne!(hash, read(ValueType::Hash, b"\x02\x01b\x011\x01a\x012"));
    }

    #[test]
    fn scores_are_compared_to_the_last_bit() {
        let set = |score| Value::SortedSet(vec![(b"m".to_vec(), score)]);
        assert_ne!(set(0.0), set(-0.0));
        assert_ne!(set(0.1 + 0.2), set(0.3));
        assert_eq!(set(f64::INFINITY), set(f64::INFINITY));
    }

    #[test]
    fn members_that_repeat_are_refused() {
        assert!(matches!(value(ValueType::Set, b"\x02\x01a\x01a"), Err(Error::Corrupt { offset: 5, .. })));
        assert!(value(ValueType::Hash, b"\x02\x01a\x011\x01a\x012").is_err());
        assert!(value(ValueType::List, b"\x02\x01a\x01a").is_ok());
    }

    #[test]
    fn opaque_values_keep_their_bytes() {
        let bytes = b"\x81\x11\x22\x33\x44\x55\x66\x77\x88\x02\x05\0";
        let module = value(ValueType::Module, bytes).unwrap();
        assert_eq!(module, Value::Opaque { ty: ValueType::Module, bytes: bytes.to_vec() });
        assert_eq!(module.kind(), Kind::Module);
    }
}
