//! The elements of values by name, so that it can be told where two values part.

use keyferry_rdb::elements::Element;

use crate::cutoff::exact;
use crate::digest::{DigestOptions, Hash};

/// An element: what it is called among those of its value, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The index of an item, a member, a field, the id of an entry, or one of [`names`].
    pub(crate) name: Vec<u8>,
    pub(crate) content: u128,
    /// Of a hash field.
    pub(crate) expiry: Option<i64>,
}

/// Names the elements of one value after the other.
#[derive(Debug)]
pub(crate) struct Namer {
    hash: Hash,
    unreplicated: bool,
    held_deadlines: bool,
    items: u64,
    group: Vec<u8>,
}

impl Namer {
    pub(crate) fn new(options: &DigestOptions) -> Self {
        Self {
            hash: Hash::new(options.seed),
            unreplicated: options.unreplicated,
            held_deadlines: options.held_deadlines,
            items: 0,
            group: Vec::new(),
        }
    }

    /// Begins a value.
    pub(crate) fn start(&mut self) {
        self.items = 0;
        self.group.clear();
    }

    /// The name of the next element; `None` for parts of a string and for what does not count.
    pub(crate) fn name(&mut self, element: &Element<'_>) -> Option<Named> {
        let hash = self.hash;
        let of = |text: String| hash.bytes(text.as_bytes());
        let (name, content, expiry) = match element {
            Element::Item(item) => {
                self.items += 1;
                ((self.items - 1).to_string().into_bytes(), hash.bytes(item), None)
            }
            Element::Member(member) => (member.to_vec(), 0, None),
            Element::Scored { member, score } => {
                let score = if score.value() == 0.0 { 0.0 } else { score.value() };
                (member.to_vec(), u128::from(score.to_bits()), None)
            }
            Element::Field { name, value, expires_at } => {
                let expiry = expires_at.map(|at| if self.held_deadlines { exact(at) } else { at });
                (name.to_vec(), hash.bytes(value), expiry)
            }
            Element::ArrayItem { index, value } => (index.to_string().into_bytes(), hash.bytes(value), None),
            Element::ArrayCursor(at) => (b"cursor".to_vec(), u128::from(*at), None),
            Element::StreamEntry(entry) => {
                let fields: Vec<_> = entry.fields().collect();
                (entry.id.to_string().into_bytes(), of(format!("{fields:?}")), None)
            }
            Element::StreamInfo(info) => (names::LAST_ID.to_vec(), of(info.last_id.to_string()), None),
            Element::Group(found) => {
                self.group = found.name.to_vec();
                let read = found.entries_read.filter(|_| self.unreplicated);
                (names::group(&self.group), of(format!("{} {read:?}", found.last_id)), None)
            }
            Element::Consumer(found) if self.unreplicated => {
                (names::consumer(&self.group, found.name), of(found.seen_time.to_string()), None)
            }
            Element::Pending(found) => {
                let what = format!("{:?} {} {}", found.consumer, found.delivered_at, found.deliveries);
                (names::pending(&self.group, &found.id.to_string()), of(what), None)
            }
            _ => return None,
        };
        Some(Named { name, content, expiry })
    }
}

/// What the parts of a stream are called that are no entries.
pub(crate) mod names {
    pub(crate) const LAST_ID: &[u8] = b"last id";

    pub(crate) fn group(name: &[u8]) -> Vec<u8> {
        [b"group ", name].concat()
    }

    pub(crate) fn consumer(group: &[u8], name: &[u8]) -> Vec<u8> {
        [b"group ", group, b" consumer ", name].concat()
    }

    pub(crate) fn pending(group: &[u8], id: &str) -> Vec<u8> {
        [b"group ", group, b" pending ", id.as_bytes()].concat()
    }
}
