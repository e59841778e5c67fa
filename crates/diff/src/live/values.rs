//! Comparing two values that are there as a whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use keyferry_rdb::dump::Payload;
use keyferry_rdb::{Dialect, Error as FormatError, Kind, ValueType};

use super::finding::Fields;
use crate::difference::DifferenceKind;
use crate::digest::{DigestOptions, ValueDigest, ValueDigester};
use crate::elements::{Named, Namer};

/// Version and checksum at the end of a payload, which say nothing of the value.
const FOOTER: usize = 10;

/// Compares payloads.
#[derive(Debug)]
pub(crate) struct Values {
    digester: ValueDigester,
    options: DigestOptions,
}

/// A value, reduced; `None` for one that this program cannot read, such as that of a server to come.
type Reduced = Option<(Kind, ValueDigest, bool)>;

/// How two values compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Whether a side has no value, since all fields of its hash have expired.
    pub(crate) absent: [bool; 2],
    pub(crate) kinds: Vec<DifferenceKind>,
}

impl Values {
    pub(crate) fn new(options: &DigestOptions) -> Self {
        Self { digester: ValueDigester::new(options), options: options.clone() }
    }

    /// In what ways two payloads differ. Hash fields that expire until then count as gone.
    pub(crate) fn compare(&mut self, source: &[u8], target: &[u8], expired_until: i64) -> Compared {
        let body = |payload: &[u8]| payload.len().saturating_sub(FOOTER);
        if source[..body(source)] == target[..body(target)] && dialect(source) == dialect(target) {
            return Compared::default();
        }
        self.digester.set_expired_until(expired_until);
        let (Some(a), Some(b)) = (self.reduce(source), self.reduce(target)) else {
            return Compared { kinds: vec![DifferenceKind::Value], ..Compared::default() };
        };
        let absent = [a.2, b.2];
        if absent != [false, false] {
            return Compared { absent, kinds: Vec::new() };
        }
        if a.0 != b.0 {
            return Compared { absent, kinds: vec![DifferenceKind::Type] };
        }
        let found = a.1.compare(&b.1);
        let kinds = [
            (found.content, DifferenceKind::Value),
            (found.field_expiries, DifferenceKind::FieldExpiry),
            (found.counters, DifferenceKind::Counters),
            (found.producers, DifferenceKind::Producers),
        ];
        let kinds = kinds.into_iter().filter_map(|(differs, kind)| differs.then_some(kind)).collect();
        Compared { absent, kinds }
    }

    /// Whether a payload is that of a hash whose fields have all expired by then.
    pub(crate) fn is_absent(&mut self, payload: &[u8], expired_until: i64) -> bool {
        self.digester.set_expired_until(expired_until);
        self.reduce(payload).is_some_and(|(_, _, absent)| absent)
    }

    /// The type of a value; `None` for one that this program does not know.
    pub(crate) fn kind(payload: &[u8]) -> Option<Kind> {
        // Whether the payload is sound is of no matter here.
        Some(ValueType::from_byte(*payload.first()?, dialect(payload)?)?.kind())
    }

    fn reduce(&mut self, payload: &[u8]) -> Reduced {
        let payload = Payload::parse(payload).ok()?;
        let kind = payload.value.ty().kind();
        self.digester.start(kind);
        if let Some(meta) = payload.meta {
            self.digester.meta(meta);
        }
        let digester = &mut self.digester;
        let read = payload.value.elements(&self.options.limits).for_each(|element| {
            digester.element(&element);
            Ok::<(), FormatError>(())
        });
        read.ok()?;
        let digest = self.digester.finish();
        Some((kind, digest, self.digester.is_absent()))
    }

    /// Which elements of two values of one type differ, `most` of them by name.
    pub(crate) fn fields(&self, source: &Bytes, target: &Bytes, expired_until: i64, most: usize) -> Fields {
        let (Some(a), Some(b)) = (self.parts(source, expired_until), self.parts(target, expired_until))
        else {
            return Fields::default();
        };
        let mut fields = Fields::default();
        if a.is_list {
            // From the first difference on nothing is where it was.
            let equal = a.items.iter().zip(&b.items).take_while(|(a, b)| a == b).count();
            let kind = match (a.items.len() > equal, b.items.len() > equal) {
                (true, true) => DifferenceKind::Value,
                (true, false) => DifferenceKind::LackTarget,
                (false, true) => DifferenceKind::LackSource,
                (false, false) => return fields,
            };
            fields.add(equal.to_string().as_bytes(), kind, most);
            return fields;
        }
        for (name, (value, expiry)) in &a.named {
            match b.named.get(name) {
                None => fields.add(name, DifferenceKind::LackTarget, most),
                Some((other, _)) if other != value => fields.add(name, DifferenceKind::Value, most),
                Some((_, other)) if other != expiry => fields.add(name, DifferenceKind::FieldExpiry, most),
                Some(_) => {}
            }
        }
        for name in b.named.keys().filter(|name| !a.named.contains_key(*name)) {
            fields.add(name, DifferenceKind::LackSource, most);
        }
        fields
    }

    fn parts(&self, payload: &[u8], expired_until: i64) -> Option<Parts> {
        let payload = Payload::parse(payload).ok()?;
        let mut parts = Parts { is_list: payload.value.ty().kind() == Kind::List, ..Parts::default() };
        let mut namer = Namer::new(&self.options);
        let read = payload.value.elements(&self.options.limits).for_each(|element| {
            if let Some(Named { name, content, expiry }) = namer.name(&element) {
                match parts.is_list {
                    true => parts.items.push(content),
                    false if expiry.is_some_and(|at| at <= expired_until) => {}
                    false => _ = parts.named.insert(name, (content, expiry)),
                }
            }
            Ok::<(), FormatError>(())
        });
        read.ok().map(|()| parts)
    }
}

/// Whose types the first byte of a payload means: some numbers stand for one thing at Redis and for another at Valkey.
fn dialect(payload: &[u8]) -> Option<Dialect> {
    let version = payload.last_chunk::<FOOTER>()?.first_chunk::<2>()?;
    Some(Dialect::of_dump_version(u16::from_le_bytes(*version)))
}

/// The elements of a value.
#[derive(Debug, Default)]
struct Parts {
    is_list: bool,
    items: Vec<u128>,
    /// Hash of the value and expiry, by name.
    named: BTreeMap<Vec<u8>, (u128, Option<i64>)>,
}
