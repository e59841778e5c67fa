//! One value, reduced to a few numbers.

use keyferry_rdb::Kind;
use keyferry_rdb::elements::{Element, StreamId};

use super::hash::{AT_ONCE, Chunks, Hash, Tag};
use crate::cutoff::exact;

/// What a value was reduced to.
///
/// Two values of one kind that were reduced with the same [`DigestOptions`](super::DigestOptions) are equal if and only if
/// [`compare`](Self::compare) finds nothing, but for the chance that two hashes of 128 bits (64 bits, where it says so)
/// are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValueDigest {
    /// Of everything that makes up the value, but for what the other numbers are of.
    pub content: u128,
    /// Bytes of a string, else elements: items, members, fields, entries; of a module's value, its bytes as serialized.
    pub length: u64,
    /// Of the expiries of hash fields, 64 bits; zero when no field expires.
    pub field_expiries: u64,
    /// Of what a stream has counted, 64 bits; `None` where its server does not count (before Redis 7.0).
    pub counters: Option<u64>,
    /// Of what a stream remembers of idempotent producers (Redis 8.6), 64 bits; zero when it remembers nothing.
    pub producers: u64,
}

/// In what ways two values of one kind differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValueDifferences {
    /// Their elements.
    pub content: bool,
    /// When fields that both have expire.
    pub field_expiries: bool,
    /// What streams have counted. Where one server does not count, nothing is said.
    pub counters: bool,
    /// What streams remember of idempotent producers.
    pub producers: bool,
}

impl ValueDigest {
    /// In what ways two values of one kind differ.
    #[inline]
    #[must_use]
    pub fn compare(&self, other: &Self) -> ValueDifferences {
        let content = self.content != other.content || self.length != other.length;
        ValueDifferences {
            content,
            // Other fields have other expiries: that says nothing new.
            field_expiries: !content && self.field_expiries != other.field_expiries,
            counters: matches!((self.counters, other.counters), (Some(a), Some(b)) if a != b),
            producers: self.producers != other.producers,
        }
    }
}

impl ValueDifferences {
    /// Whether there is one.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// Reduces values to digests, element by element, one value after the other.
///
/// ```
/// use keyferry_diff::{DigestOptions, ValueDigester};
/// use keyferry_rdb::{Error, Limits, RawValue, ValueType};
///
/// let mut digester = ValueDigester::new(&DigestOptions::default());
/// let mut digest = |ty: ValueType, bytes: &[u8]| {
///     digester.start(ty.kind());
///     RawValue::new(ty, bytes).elements(&Limits::default()).for_each(|element| {
///         digester.element(&element);
///         Ok::<(), Error>(())
///     })?;
///     Ok::<_, Error>(digester.finish())
/// };
/// // A set of numbers, plain and as an intset.
/// let plain = digest(ValueType::Set, b"\x02\x012\x011")?;
/// let compact = digest(ValueType::SetIntset, b"\x0C\x02\0\0\0\x02\0\0\0\x01\0\x02\0")?;
/// assert_eq!(plain, compact);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct ValueDigester {
    hash: Hash,
    unreplicated: bool,
    held_deadlines: bool,
    expired_until: i64,
    kind: Kind,
    /// Of all elements, modulo 2¹²⁸. Those whose order counts are hashed with their places.
    sum: u128,
    chunks: Chunks,
    meta: u128,
    digest: ValueDigest,
    counters: u128,
    group: u128,
    producer_sum: u128,
    producer_limits: u128,
    scratch: Vec<u8>,
}

impl ValueDigester {
    /// A digester with these options.
    pub fn new(options: &super::DigestOptions) -> Self {
        Self {
            hash: Hash::new(options.seed),
            unreplicated: options.unreplicated,
            held_deadlines: options.held_deadlines,
            expired_until: options.expired_until.unwrap_or(i64::MIN),
            kind: Kind::String,
            sum: 0,
            chunks: Chunks::default(),
            meta: 0,
            digest: ValueDigest::default(),
            counters: 0,
            group: 0,
            producer_sum: 0,
            producer_limits: 0,
            scratch: Vec::new(),
        }
    }

    /// Leaves out hash fields that expire at this time, in milliseconds since the Unix epoch, or before.
    pub fn set_expired_until(&mut self, time: i64) {
        self.expired_until = time;
    }

    /// Begins a value.
    pub fn start(&mut self, kind: Kind) {
        self.kind = kind;
        (self.sum, self.meta) = (0, 0);
        (self.counters, self.group, self.producer_sum, self.producer_limits) = (0, 0, 0, 0);
        self.chunks.clear();
        self.digest = ValueDigest::default();
    }

    /// Takes data that modules attached to the key ([`EntryHead::meta`](keyferry_rdb::EntryHead::meta)) into the digest.
    pub fn meta(&mut self, meta: &[u8]) {
        self.meta = self.hash.mix(Tag::Meta, [self.hash.bytes(meta)]);
    }

    /// The digest of a whole string, without [`start`](Self::start) and [`finish`](Self::finish).
    pub fn string(&mut self, bytes: &[u8], meta: Option<&[u8]>) -> ValueDigest {
        self.start(Kind::String);
        if let Some(meta) = meta {
            self.meta(meta);
        }
        self.digest.length = bytes.len() as u64;
        self.finish_with(self.hash.bytes(bytes))
    }

    /// Takes the next element.
    #[inline]
    pub fn element(&mut self, element: &Element<'_>) {
        match element {
            Element::Item(item) => {
                self.add(self.hash.element(Tag::Item, self.digest.length, item, b""));
                self.digest.length += 1;
            }
            Element::Member(member) => {
                self.digest.length += 1;
                self.add(self.hash.element(Tag::Member, 0, member, b""));
            }
            Element::Scored { member, score } => {
                self.digest.length += 1;
                // Servers lose the sign of zero when they encode a sorted set as a listpack, and no command orders by it.
                let score = if score.value() == 0.0 { 0.0 } else { score.value() };
                self.add(self.hash.element(Tag::Scored, score.to_bits(), member, b""));
            }
            Element::Field { name, value, expires_at: None } => {
                self.digest.length += 1;
                self.add(self.hash.element(Tag::Field, 0, name, value));
            }
            rarer => self.rarer_element(rarer),
        }
    }

    #[inline(never)]
    fn rarer_element(&mut self, element: &Element<'_>) {
        let hash = self.hash;
        match element {
            Element::Chunk(bytes) | Element::Opaque(bytes) => {
                self.digest.length += bytes.len() as u64;
                self.chunks.push(hash, bytes);
            }
            Element::Field { name, value, expires_at: Some(at) } => {
                let at = if self.held_deadlines { exact(*at) } else { *at };
                if at <= self.expired_until {
                    return;
                }
                self.digest.length += 1;
                self.add(hash.element(Tag::Field, 0, name, value));
                let expiry = hash.mix(Tag::FieldExpiry, [hash.bytes(name), number(at)]) as u64;
                self.digest.field_expiries = self.digest.field_expiries.wrapping_add(expiry);
            }
            Element::ArrayCursor(at) => self.add(hash.mix(Tag::ArrayCursor, [u128::from(*at)])),
            Element::ArrayItem { index, value } => {
                self.digest.length += 1;
                self.add(hash.mix(Tag::ArrayItem, [u128::from(*index), hash.bytes(value)]));
            }
            Element::StreamEntry(entry) => {
                self.digest.length += 1;
                self.scratch.clear();
                self.scratch.extend_from_slice(&id(entry.id).to_le_bytes());
                for (name, value) in entry.fields() {
                    push_entry(&mut self.scratch, hash, name);
                    push_entry(&mut self.scratch, hash, value);
                }
                self.add(hash.tagged(Tag::Entry, &self.scratch));
            }
            Element::StreamInfo(info) => {
                self.add(hash.mix(Tag::LastId, [id(info.last_id)]));
                // The first id is that of the first entry.
                if let Some(counters) = info.counters {
                    let parts = [id(counters.max_deleted_id), u128::from(counters.entries_added)];
                    self.counters = hash.mix(Tag::Counters, parts);
                    self.digest.counters = Some(0);
                }
            }
            Element::Group(group) => {
                self.group = hash.bytes(group.name);
                self.add(hash.mix(Tag::Group, [self.group, id(group.last_id)]));
                if self.unreplicated {
                    let read = u128::from(group.entries_read.map_or(0, |read| read.saturating_add(1)));
                    self.counters =
                        self.counters.wrapping_add(hash.mix(Tag::EntriesRead, [self.group, read]));
                }
            }
            // A consumer without pending entries is nothing that replication keeps.
            Element::Consumer(consumer) => {
                if self.unreplicated {
                    let parts = [self.group, hash.bytes(consumer.name), number(consumer.seen_time)];
                    self.add(hash.mix(Tag::Consumer, parts));
                }
            }
            Element::Pending(pending) => {
                let delivered = number(pending.delivered_at) << 64 | u128::from(pending.deliveries);
                let (tag, owner) = match pending.consumer {
                    Some(consumer) => (Tag::Pending, hash.bytes(consumer)),
                    None => (Tag::Released, 0),
                };
                self.add(hash.mix(tag, [self.group, owner, id(pending.id), delivered]));
            }
            Element::IdempotencyLimits { duration, max_entries } => {
                let parts = [u128::from(*duration), u128::from(*max_entries)];
                self.producer_limits = hash.mix(Tag::ProducerLimits, parts);
            }
            Element::IdempotencyRecord { producer, iid, entry } => {
                let parts = [hash.bytes(producer), hash.bytes(iid), id(*entry)];
                self.producer_sum = self.producer_sum.wrapping_add(hash.mix(Tag::Producer, parts));
            }
            Element::IdempotencyTotals { added, duplicates } => {
                if (*added, *duplicates) != (0, 0) {
                    let parts = [u128::from(*added), u128::from(*duplicates)];
                    self.producer_sum = self.producer_sum.wrapping_add(hash.mix(Tag::ProducerTotals, parts));
                }
            }
            Element::RateLimit(time) => self.add(hash.mix(Tag::RateLimit, [u128::from(*time)])),
            // Whatever later versions of the reader may find counts by what it shows.
            other => self.add(hash.bytes(format!("{other:?}").as_bytes())),
        }
    }

    /// Ends the value.
    pub fn finish(&mut self) -> ValueDigest {
        let text = self.chunks.finish(self.hash);
        self.finish_with(text)
    }

    /// Whether the value has no element left and so is no key: a collection that is empty by a defect of servers around
    /// Redis 6, or a hash of which all fields have expired. To be asked after [`finish`](Self::finish).
    pub fn is_absent(&self) -> bool {
        let may_be_empty = matches!(self.kind, Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash);
        may_be_empty && self.digest.length == 0
    }

    #[inline]
    fn finish_with(&mut self, text: u128) -> ValueDigest {
        let count = u128::from(self.digest.length);
        self.digest.content = match self.kind {
            // A string is nothing but its bytes.
            Kind::String if self.meta == 0 => text,
            _ => self.hash.mix(Tag::Value, [self.sum, text, count, self.meta]),
        };
        if self.digest.counters.is_some() {
            self.digest.counters = Some(self.counters as u64);
        }
        if self.producer_sum != 0 {
            self.digest.producers = self.producer_sum.wrapping_add(self.producer_limits) as u64;
        }
        self.digest
    }

    /// Adds an element. A sum of hashes says which elements there are and how often each: unlike
    /// with exclusive or, pairs do not cancel each other out.
    #[inline]
    fn add(&mut self, element: u128) {
        self.sum = self.sum.wrapping_add(element);
    }
}

/// Adds a string of a stream's entry behind its length; of a long one its hash.
#[inline]
fn push_entry(entry: &mut Vec<u8>, hash: Hash, text: &[u8]) {
    entry.extend_from_slice(&(text.len() as u64).to_le_bytes());
    if text.len() > AT_ONCE {
        entry.extend_from_slice(&hash.bytes(text).to_le_bytes());
    } else {
        entry.extend_from_slice(text);
    }
}

fn id(id: StreamId) -> u128 {
    u128::from(id.ms) << 64 | u128::from(id.seq)
}

fn number(n: i64) -> u128 {
    u128::from(n.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestOptions;
    use crate::digest::short::SHORT;

    fn list(items: &[&[u8]]) -> ValueDigest {
        let mut digester = ValueDigester::new(&DigestOptions::default());
        // What came before must not count.
        digester.start(Kind::List);
        digester.element(&Element::Item(b"before"));
        digester.start(Kind::List);
        items.iter().for_each(|item| digester.element(&Element::Item(item)));
        digester.finish()
    }

    #[test]
    fn every_item_and_its_place_count_whatever_its_length() {
        let long = vec![b'x'; 2 * SHORT];
        let near = |less: usize| &long[..SHORT - less];
        let lists: [&[&[u8]]; 14] = [
            &[],
            &[b""],
            &[b"", b""],
            &[b"ab"],
            &[b"a", b"b"],
            &[b"b", b"a"],
            &[&long],
            &[&long, &long],
            &[&long, b""],
            &[b"", &long],
            &[near(0), b"a"],
            &[b"a", near(0)],
            &[b"a", near(1), near(2)],
            &[b"a", near(2), near(1)],
        ];
        for (number, a) in lists.iter().enumerate() {
            assert_eq!(list(a), list(a));
            for b in &lists[..number] {
                assert_ne!(list(a).content, list(b).content, "{} and {} items", a.len(), b.len());
            }
        }
        let many: Vec<Vec<u8>> = (0..5000u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let mut items: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let before = list(&items);
        items.swap(10, 4900);
        assert_ne!(before.content, list(&items).content);
    }

    #[test]
    fn where_a_name_ends_counts() {
        let field = |name: &[u8], value: &[u8]| {
            let mut digester = ValueDigester::new(&DigestOptions::default());
            digester.start(Kind::Hash);
            digester.element(&Element::Field { name, value, expires_at: None });
            digester.finish().content
        };
        let long = vec![b'x'; SHORT];
        for (a, b) in [(&b"ab"[..], &b"c"[..]), (b"", b"abc"), (&long, b"y"), (b"x", &long)] {
            let whole = [a, b].concat();
            let (front, back) = whole.split_at(a.len() + 1 - 2 * usize::from(a.len() > 1));
            assert_eq!(field(a, b), field(a, b));
            assert_ne!(field(a, b), field(front, back));
        }
    }
}
