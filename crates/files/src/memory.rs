//! How much memory a key takes in a server.
//!
//! The figure is that of `MEMORY USAGE key SAMPLES 0` in the server that wrote the file, right after it has loaded it: the object,
//! its elements and their allocations, the name and its entry in the table of keys. Not in it, there or here: the
//! table of expiries, and the buckets of the table of keys.
//!
//! # Method
//!
//! The model is Redis 7 and 8 on 64 bits with jemalloc: every allocation is rounded up to a size class; strings have the
//! header that their length demands, and those of up to 44 bytes are embedded in their object; strings that are integers cost
//! the object alone. The encoding is the one in the file, and the length of a compact encoding is computed from the
//! elements, so that compression in the file does not matter. Hash tables have the buckets that loading makes, a power of two.
//! Nodes of lists are filled up to 8 KiB, those of streams up to 4 KiB or 100 entries, the defaults. The nodes of sorted
//! sets have the mean of their random heights, radix trees of streams the nodes that their ids make.
//!
//! # Error
//!
//! Bounds that the tests assert on mixed data, small and large, each server with a file of its own; over all keys of a
//! type together:
//!
//! | servers | strings, hashes, sets, sorted sets, lists, streams |
//! |---|---|
//! | Redis 7.0 and 8.0, Redict 7.3 | within 1 %, single keys within 5 % |
//! | Redis 6.0 and 6.2 | within 15 % |
//! | Valkey 8.0 | within 5 %; sets up to 50 % too high |
//! | Valkey 8.1 and 9 | up to 50 % too high, streams up to 3.6 times: their tables and strings are smaller, and they reckon radix trees otherwise |
//!
//! Values of modules, arrays and fields that expire are counted without such a measurement: modules by their serialized length,
//! which says little.

use keyferry_rdb::elements::{Element, StreamId};
use keyferry_rdb::{EntryHead, Kind, ValueType};

/// An object.
const OBJECT: u64 = 16;
/// A hash table without its buckets, and one of its entries.
const TABLE: u64 = 56;
const TABLE_ENTRY: u64 = 24;
/// A list, and one of its nodes without its listpack.
const QUICKLIST: u64 = 40;
const QUICKLIST_NODE: u64 = 40;
/// A sorted set with its skip list, and the first node of that, which has the greatest height.
const SORTED_SET: u64 = 16 + 32 + 640;
/// The mean of a skip list node's size class. A node has one level with probability 3/4, two with 3/16, and so on.
const SKIP_LIST_NODE: f64 = 53.3;
/// A stream, a group, a consumer, a pending entry.
const STREAM: u64 = 80;
const GROUP: u64 = 40;
const CONSUMER: u64 = 24;
const PENDING: u64 = 24;
/// What servers reckon for a node of a radix tree, and for a key of it.
const RADIX_NODE: u64 = 4 + 8 * 30;
const RADIX_KEY: u64 = 16;
/// Header and end mark of a listpack.
const LISTPACK: u64 = 7;
/// Up to where a node of a list is filled; bytes and entries up to where one of a stream is.
const LIST_FILL: u64 = 8192;
const STREAM_FILL: u64 = 4096;
const STREAM_ENTRIES: u64 = 100;
/// The longest string that is embedded in its object.
const EMBEDDED: u64 = 44;

/// Reckons the memory of one key after another: begin a key, give it all elements, ask.
///
/// ```
/// use keyferry_files::memory::MemoryEstimate;
/// use keyferry_rdb::{EntryHead, Limits, RawValue, ValueType};
///
/// let head = EntryHead::new(0, b"key", ValueType::String);
/// let mut estimate = MemoryEstimate::new(&head, 10);
/// let mut elements = RawValue::new(head.ty, b"\x05hello").elements(&Limits::default());
/// while let Some(element) = elements.next()? {
///     estimate.add(&element);
/// }
/// assert_eq!(estimate.bytes(), 24 + 8 + 32); // an entry, the name, the value
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryEstimate {
    ty: ValueType,
    /// The name and its entry.
    key: u64,
    elements: u64,
    /// Allocations that are complete.
    allocated: u64,
    /// Bytes of the listpack, node or string under way.
    open: u64,
    /// Entries of the stream's node under way, the id and the sum of names of its first.
    open_entries: u64,
    first_id: StreamId,
    first_names: (usize, u64),
    /// Whether a list of one node is that node alone (Redis 7.2 and later).
    bare_lists: bool,
    list_nodes: u64,
    /// The first bytes of a string, as long as it may be an integer.
    text: [u8; 20],
    nodes: RadixNodes,
    /// The pending entries of the group under way, and of its consumer under way.
    pending: Option<RadixNodes>,
    owned: Option<RadixNodes>,
    /// Bytes of an integer in an intset.
    width: u64,
}

impl MemoryEstimate {
    /// Begins a key of a file of this RDB version, which tells what its server was like.
    pub fn new(head: &EntryHead<'_>, version: u16) -> Self {
        Self {
            first_id: StreamId::default(),
            first_names: (0, 0),
            bare_lists: version >= 11,
            list_nodes: 0,
            ty: head.ty,
            key: TABLE_ENTRY + sds(head.key.len() as u64),
            elements: 0,
            allocated: 0,
            open: 0,
            open_entries: 0,
            text: [0; 20],
            nodes: RadixNodes::default(),
            pending: None,
            owned: None,
            width: 2,
        }
    }

    /// Takes an element, in order.
    pub fn add(&mut self, element: &Element<'_>) {
        let compact = is_compact(self.ty);
        match element {
            Element::Chunk(chunk) => {
                if let Some(space) = usize::try_from(self.open).ok().and_then(|at| self.text.get_mut(at..)) {
                    let n = space.len().min(chunk.len());
                    space[..n].copy_from_slice(&chunk[..n]);
                }
                self.open += chunk.len() as u64;
                return;
            }
            Element::Opaque(bytes) => {
                self.allocated += bytes.len() as u64;
                return;
            }
            Element::RateLimit(_) => self.allocated += 8,
            Element::Item(item) => {
                let entry = listpack_entry(item);
                if self.open > 0 && LISTPACK + self.open + item.len() as u64 + 8 > LIST_FILL {
                    self.close_list_node();
                }
                self.open += entry;
            }
            Element::Member(member) if self.ty == ValueType::SetIntset => {
                self.width = self.width.max(integer(member).map_or(8, integer_width));
            }
            Element::Member(member) if compact => self.open += listpack_entry(member),
            Element::Member(member) => self.allocated += TABLE_ENTRY + sds(member.len() as u64),
            Element::Scored { member, score } if compact => {
                // Servers write the score as text or integer.
                let score = score.text().map_or_else(|| score.to_string().into_bytes(), <[u8]>::to_vec);
                self.open += listpack_entry(member) + listpack_entry(&score);
            }
            Element::Scored { member, .. } => self.allocated += TABLE_ENTRY + sds(member.len() as u64),
            Element::Field { name, value, expires_at } => {
                if compact {
                    self.open += listpack_entry(name) + listpack_entry(value);
                    if self.ty == ValueType::HashListpackTtl {
                        // A time takes eight bytes, none of it one.
                        self.open += if expires_at.is_some() { 10 } else { 2 };
                    }
                } else {
                    self.allocated += TABLE_ENTRY + sds(name.len() as u64) + sds(value.len() as u64);
                    if expires_at.is_some() {
                        self.allocated += 24;
                    }
                }
            }
            Element::ArrayItem { value, .. } => self.allocated += 8 + sds(value.len() as u64),
            Element::StreamEntry(entry) => {
                let names =
                    (entry.fields().len(), entry.fields().map(|(name, _)| listpack_entry(name)).sum());
                let mut size: u64 = entry.fields().map(|(_, value)| listpack_entry(value)).sum();
                if self.open == 0 || self.open_entries >= STREAM_ENTRIES || self.open + size > STREAM_FILL {
                    self.close_stream_node();
                    // Two counts, the number of names, the names, a zero.
                    self.open = LISTPACK + 2 + 2 + 2 + names.1 + 2;
                    (self.first_id, self.first_names) = (entry.id, names);
                    self.nodes.add(entry.id);
                }
                if names != self.first_names {
                    size += 2 + names.1;
                }
                // Flags, the id as its distance from the first, the number of entries of the listpack.
                let distance = |now: u64, first: u64| integer_entry(now.wrapping_sub(first) as i64);
                let id = distance(entry.id.ms, self.first_id.ms) + distance(entry.id.seq, self.first_id.seq);
                self.open += 2 + id + size + 2;
                self.open_entries += 1;
            }
            Element::Group(_) => {
                self.close_group();
                self.allocated += GROUP;
                self.pending = Some(RadixNodes::default());
                return;
            }
            Element::Consumer(consumer) => {
                self.close_consumer();
                self.allocated += CONSUMER + consumer.name.len() as u64;
                self.owned = Some(RadixNodes::default());
                return;
            }
            Element::Pending(pending) => {
                self.allocated += PENDING;
                let owned = self.owned.as_mut().filter(|_| pending.consumer.is_some());
                for tree in self.pending.as_mut().into_iter().chain(owned) {
                    tree.add(pending.id);
                }
                return;
            }
            _ => return,
        }
        self.elements += 1;
    }

    /// The key's memory in bytes.
    pub fn bytes(mut self) -> u64 {
        let compact = is_compact(self.ty);
        self.key
            + match self.ty.kind() {
                Kind::String => {
                    let text = usize::try_from(self.open).ok().and_then(|len| self.text.get(..len));
                    match self.open {
                        _ if text.is_some_and(|text| integer(text).is_some()) => OBJECT,
                        ..=EMBEDDED => class(OBJECT + 3 + self.open + 1),
                        _ => OBJECT + sds(self.open),
                    }
                }
                Kind::List => {
                    let only = LISTPACK + self.open;
                    self.close_list_node();
                    match self.list_nodes {
                        ..=1 if self.bare_lists => OBJECT + class(only),
                        _ => OBJECT + QUICKLIST + self.allocated,
                    }
                }
                Kind::Set if self.ty == ValueType::SetIntset => {
                    OBJECT + class(8 + self.width * self.elements)
                }
                Kind::Set | Kind::Hash | Kind::SortedSet if compact => OBJECT + class(LISTPACK + self.open),
                Kind::SortedSet => {
                    let nodes = (self.elements as f64 * SKIP_LIST_NODE) as u64;
                    OBJECT + SORTED_SET + TABLE + buckets(self.elements) + self.allocated + nodes
                }
                Kind::Set | Kind::Hash => OBJECT + TABLE + buckets(self.elements) + self.allocated,
                Kind::Stream => {
                    self.close_stream_node();
                    self.close_group();
                    OBJECT + STREAM + self.nodes.bytes() + self.allocated
                }
                _ => OBJECT + self.allocated,
            }
    }

    fn close_list_node(&mut self) {
        if self.open > 0 {
            self.allocated += QUICKLIST_NODE + class(LISTPACK + self.open);
            self.open = 0;
            self.list_nodes += 1;
        }
    }

    fn close_stream_node(&mut self) {
        if self.open > 0 {
            self.allocated += class(self.open);
        }
        (self.open, self.open_entries) = (0, 0);
    }

    fn close_consumer(&mut self) {
        self.allocated += self.owned.take().map_or(0, |tree| tree.bytes());
    }

    fn close_group(&mut self) {
        self.close_consumer();
        self.allocated += self.pending.take().map_or(0, |tree| tree.bytes());
    }
}

/// Counts the nodes of a radix tree of ids that come in ascending order.
#[derive(Clone, Debug, Default)]
struct RadixNodes {
    keys: u64,
    nodes: u64,
    last: [u8; 16],
    /// Depths at which branches to the last key leave, ascending.
    branches: Vec<u8>,
}

impl RadixNodes {
    fn add(&mut self, id: StreamId) {
        let mut key = [0; 16];
        let (ms, seq) = key.split_at_mut(8);
        ms.copy_from_slice(&id.ms.to_be_bytes());
        seq.copy_from_slice(&id.seq.to_be_bytes());
        if self.keys == 0 {
            // One run of bytes, and the end of the key.
            self.nodes = 2;
        } else {
            let common = self.last.iter().zip(&key).take_while(|(a, b)| a == b).count() as u8;
            if common == 16 {
                return;
            }
            let mut run_end = 16;
            while let Some(depth) = self.branches.pop_if(|depth| *depth > common) {
                run_end = depth;
            }
            if self.branches.last() != Some(&common) {
                // A run of bytes is cut in two by a branch; each part may be empty.
                let run_start = self.branches.last().map_or(0, |depth| depth + 1);
                self.nodes += u64::from(common > run_start) + u64::from(run_end > common + 1);
                self.branches.push(common);
            }
            // The rest of the key, and its end.
            self.nodes += 1 + u64::from(common < 15);
        }
        self.keys += 1;
        self.last = key;
    }

    fn bytes(&self) -> u64 {
        // A tree without keys has its root.
        self.keys * RADIX_KEY + self.nodes.max(1) * RADIX_NODE
    }
}

/// Whether the value is one listpack or its like.
fn is_compact(ty: ValueType) -> bool {
    use ValueType as T;
    matches!(
        ty,
        T::HashZipmap
            | T::HashZiplist
            | T::HashListpack
            | T::HashListpackTtl
            | T::HashListpackTtlPreGa
            | T::HashTemplateListpack
            | T::HashTemplateListpackRef
            | T::ZsetZiplist
            | T::ZsetListpack
            | T::SetListpack
    )
}

/// What jemalloc gives for so many bytes: 8, multiples of 16 up to 128, then four steps to each power of two.
fn class(n: u64) -> u64 {
    match n {
        0..=8 => 8,
        9..=128 => n.next_multiple_of(16),
        _ => {
            let power = (n - 1).ilog2();
            n.next_multiple_of(1 << (power - 2))
        }
    }
}

/// A string with its header, of 1 to 17 bytes by its length, and its end mark.
fn sds(len: u64) -> u64 {
    let header = match len {
        0 => 3,
        1..32 => 1,
        32..0x100 => 3,
        0x100..0x1_0000 => 5,
        0x1_0000..0x1_0000_0000 => 9,
        _ => 17,
    };
    class(len + header + 1)
}

/// The buckets of a table that was loaded with so many entries.
fn buckets(entries: u64) -> u64 {
    8 * entries.max(4).next_power_of_two()
}

/// The integer that a string stands for in the servers' eyes: without sign, zeros or blanks that need not be.
fn integer(text: &[u8]) -> Option<i64> {
    let value = std::str::from_utf8(text).ok()?.parse::<i64>().ok()?;
    (itoa::Buffer::new().format(value).as_bytes() == text).then_some(value)
}

fn integer_width(value: i64) -> u64 {
    match value {
        -0x8000..0x8000 => 2,
        -0x8000_0000..0x8000_0000 => 4,
        _ => 8,
    }
}

/// An entry of a listpack with the length that follows it.
fn listpack_entry(bytes: &[u8]) -> u64 {
    let len = bytes.len() as u64;
    // Longer text is no 64-bit integer.
    if let Some(value) = (len <= 20).then(|| integer(bytes)).flatten() {
        return integer_entry(value);
    }
    let entry = len
        + match len {
            0..64 => 1,
            64..4096 => 2,
            _ => 5,
        };
    entry
        + match entry {
            0..128 => 1,
            128..0x4000 => 2,
            0x4000..0x20_0000 => 3,
            0x20_0000..0x1000_0000 => 4,
            _ => 5,
        }
}

fn integer_entry(value: i64) -> u64 {
    match value {
        0..128 => 2,
        -0x1000..0x1000 => 3,
        -0x8000..0x8000 => 4,
        -0x80_0000..0x80_0000 => 5,
        -0x8000_0000..0x8000_0000 => 6,
        _ => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_those_of_jemalloc() {
        for (n, expected) in [
            (1, 8),
            (8, 8),
            (9, 16),
            (17, 32),
            (112, 112),
            (128, 128),
            (129, 160),
            (161, 192),
            (257, 320),
            (513, 640),
            (1025, 1280),
            (4097, 5120),
            (8193, 10_240),
            (1_000_000, 1_048_576),
        ] {
            assert_eq!(class(n), expected, "{n}");
        }
    }

    #[test]
    fn integers_are_canonical() {
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        for text in [&b"007"[..], b"+1", b"-0", b" 1", b"", b"9223372036854775808", b"1.0"] {
            assert_eq!(integer(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn listpack_entries_have_their_real_size() {
        for (text, size) in [
            (&b"0"[..], 2),
            (b"127", 2),
            (b"128", 3),
            (b"-1", 3),
            (b"4095", 3),
            (b"4096", 4),
            (b"40000", 5),
            (b"9999999", 6),
            (b"99999999999", 10),
            (b"", 2),
            (b"abc", 5),
        ] {
            assert_eq!(listpack_entry(text), size, "{}", text.escape_ascii());
        }
        assert_eq!(listpack_entry(&[b'x'; 64]), 67);
        assert_eq!(listpack_entry(&[b'x'; 5000]), 5007);
    }
}
