//! What a [`Parser`](crate::Parser) reports.

use crate::types::{Dialect, ModuleId, ValueType};
use crate::wire;

/// One thing found in a snapshot. Borrows from the parser's buffer until the next call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The magic and version. Always first.
    Header(Header),
    /// Opcode 250: an auxiliary field, such as `redis-ver`. May come between keys, too.
    Aux {
        /// Its name.
        name: &'a [u8],
        /// Its value; integers as decimal text.
        value: &'a [u8],
    },
    /// Opcode 254: keys that follow are in this database.
    SelectDb(u64),
    /// Opcode 251: a hint at the size of the current database. May be wrong.
    ResizeDb {
        /// Number of keys.
        keys: u64,
        /// Number of keys with an expiry.
        expires: u64,
    },
    /// Opcode 244: a hint at the size of a cluster slot whose keys follow (Redis 7.4 and later).
    SlotInfo(SlotInfo),
    /// Opcode 243 of Valkey 9: a slot migration that was under way.
    SlotImport(SlotImport<'a>),
    /// Opcode 245: a library of functions (Redis 7.0).
    Function {
        /// Its source, with the `#!engine name=library` line.
        code: &'a [u8],
    },
    /// Opcode 246: a library of functions as the release candidates of Redis 7.0 wrote it.
    FunctionPreGa(FunctionPreGa<'a>),
    /// Opcode 247: data of a module that belongs to no key.
    ModuleAux(ModuleAux<'a>),
    /// Opcode 242: a list of field names that hashes refer to (Redis 8.10).
    HashTemplate(HashTemplate<'a>),
    /// An opcode of a vendor that holds nothing to keep: Redis Enterprise's 107 and 121.
    Vendor {
        /// The opcode.
        opcode: u8,
        /// Its payload, raw.
        bytes: &'a [u8],
    },
    /// A key with its whole value.
    Entry(Entry<'a>),
    /// A key whose value is above [`Limits::value_part`](crate::Limits::value_part): parts follow.
    ValueStart(EntryHead<'a>),
    /// The next bytes of that value. All parts put together are the raw value.
    ValuePart(&'a [u8]),
    /// That value is complete.
    ValueEnd,
    /// The end of the snapshot. Always last; nothing was consumed beyond it.
    End {
        /// What its checksum said.
        checksum: Checksum,
    },
}

/// Magic and version of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// From the magic: `REDIS` or `VALKEY`.
    pub dialect: Dialect,
    /// The version number. What a file holds is told by its opcodes and types, not by this.
    pub version: u16,
}

/// A key with its whole value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The key and what is known of it.
    pub head: EntryHead<'a>,
    /// The value.
    pub value: RawValue<'a>,
}

impl<'a> Entry<'a> {
    /// A key with this value.
    pub const fn new(head: EntryHead<'a>, value: RawValue<'a>) -> Self {
        Self { head, value }
    }
}

/// A key and what is known of it besides its value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct EntryHead<'a> {
    /// The database.
    pub db: u64,
    /// The key, decoded.
    pub key: &'a [u8],
    /// When it expires, in milliseconds since the Unix epoch. May be past, even zero or negative.
    pub expiry: Option<i64>,
    /// The server's note on use, when it runs an LRU or LFU eviction policy.
    pub eviction: Option<Eviction>,
    /// Data that modules attached to the key (Redis 8.6), raw, without opcode 243: a class count, then per class
    /// four bytes and module opcodes up to their end mark.
    pub meta: Option<&'a [u8]>,
    /// The value's type.
    pub ty: ValueType,
}

impl<'a> EntryHead<'a> {
    /// A key without expiry, note on use, or metadata.
    pub const fn new(db: u64, key: &'a [u8], ty: ValueType) -> Self {
        Self { db, key, expiry: None, eviction: None, meta: None, ty }
    }

    /// The same with this expiry.
    #[must_use]
    pub const fn with_expiry(mut self, expiry: Option<i64>) -> Self {
        self.expiry = expiry;
        self
    }

    /// The same with this note on use.
    #[must_use]
    pub const fn with_eviction(mut self, eviction: Option<Eviction>) -> Self {
        self.eviction = eviction;
        self
    }

    /// The same with this metadata.
    #[must_use]
    pub const fn with_meta(mut self, meta: Option<&'a [u8]>) -> Self {
        self.meta = meta;
        self
    }
}

/// A note on how a key was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Eviction {
    /// Seconds since the last access, at the time of saving.
    Idle(u64),
    /// Logarithmic access counter.
    Freq(u8),
}

/// A serialized value: its type and its bytes as they stand in the file, type byte not included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawValue<'a> {
    ty: ValueType,
    bytes: &'a [u8],
}

impl<'a> RawValue<'a> {
    /// Bytes claimed to be a value of type `ty`. Nothing is checked here.
    pub const fn new(ty: ValueType, bytes: &'a [u8]) -> Self {
        Self { ty, bytes }
    }

    /// How the value is serialized.
    pub const fn ty(self) -> ValueType {
        self.ty
    }

    /// The type byte.
    pub const fn raw_type(self) -> u8 {
        self.ty.byte()
    }

    /// The serialized bytes, type byte not included.
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The module that a value belongs to; `None` for values of other types. The first nine bytes are enough.
    pub fn module(self) -> Option<ModuleId> {
        let is_module = matches!(self.ty, ValueType::Module | ValueType::ModulePreGa);
        let (id, _) = wire::len(self.bytes).ok().filter(|_| is_module)?;
        Some(ModuleId(id))
    }

    /// The content of a string that is stored verbatim, neither as an integer nor compressed.
    pub fn verbatim_string(self) -> Option<&'a [u8]> {
        match self.plain_string()? {
            PlainString(Plain::Borrowed(bytes)) => Some(bytes),
            PlainString(Plain::Digits { .. }) => None,
        }
    }

    /// The string itself, when this is a string that can be had without decompression: a verbatim string is
    /// borrowed, an integer becomes its decimal text. `None` for a compressed string, and for every other type.
    pub fn plain_string(self) -> Option<PlainString<'a>> {
        if self.ty != ValueType::String {
            return None;
        }
        let head = wire::str_head(self.bytes).ok()?;
        let payload = self.bytes.get(head.head..)?;
        if payload.len() as u64 != head.payload {
            return None;
        }
        match head.form {
            wire::StrForm::Plain => Some(PlainString(Plain::Borrowed(payload))),
            wire::StrForm::Int => {
                let mut digits = [0; 11];
                let mut text = itoa::Buffer::new();
                let text = text.format(wire::int_payload(payload)?).as_bytes();
                digits.get_mut(..text.len())?.copy_from_slice(text);
                Some(PlainString(Plain::Digits { digits, len: text.len() }))
            }
            wire::StrForm::Lzf { .. } => None,
        }
    }

    /// Whether this is a list, set, sorted set or hash without elements. Such keys come from a defect of servers
    /// around Redis 6; servers drop them when they load a file and refuse them in RESTORE.
    ///
    /// Only counts and headers are looked at, so this is cheap for any size. A compressed blob is never empty.
    pub fn is_empty_container(self) -> bool {
        use ValueType as T;
        let b = self.bytes;
        match self.ty {
            T::List
            | T::Set
            | T::ZsetText
            | T::Hash
            | T::Zset
            | T::HashTtlPreGa
            | T::HashValkey
            | T::Array => starts_with_zero(b),
            T::HashTtl => b.get(8..).is_some_and(starts_with_zero),
            T::ListQuicklist => starts_with_zero(b) || nodes_are_empty(b, false),
            T::ListQuicklist2 => starts_with_zero(b) || nodes_are_empty(b, true),
            T::HashZipmap
            | T::ListZiplist
            | T::SetIntset
            | T::ZsetZiplist
            | T::HashZiplist
            | T::HashListpack
            | T::ZsetListpack
            | T::SetListpack
            | T::HashListpackTtlPreGa => {
                plain_string(b).is_some_and(|(blob, _)| blob_is_empty(self.ty, blob))
            }
            T::HashListpackTtl => {
                b.get(8..).and_then(plain_string).is_some_and(|(blob, _)| blob_is_empty(self.ty, blob))
            }
            _ => false,
        }
    }
}

impl std::fmt::Debug for RawValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawValue").field("ty", &self.ty).field("bytes", &self.bytes.len()).finish()
    }
}

/// A string, borrowed from a raw value or, where that holds an integer, its decimal text. Derefs to its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PlainString<'a>(Plain<'a>);

#[derive(Clone, Copy, Debug)]
enum Plain<'a> {
    Borrowed(&'a [u8]),
    /// The longest text is that of -2147483648.
    Digits {
        digits: [u8; 11],
        len: usize,
    },
}

impl std::ops::Deref for PlainString<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Plain::Borrowed(bytes) => bytes,
            Plain::Digits { digits, len } => &digits[..*len],
        }
    }
}

impl AsRef<[u8]> for PlainString<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Opcode 244.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotInfo {
    /// The cluster slot.
    pub slot: u64,
    /// Number of its keys.
    pub keys: u64,
    /// Number of its keys with an expiry.
    pub expires: u64,
}

/// Opcode 243 of Valkey 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotImport<'a> {
    /// Name of the migration job.
    pub job: &'a [u8],
    ranges: &'a [u8],
}

impl<'a> SlotImport<'a> {
    pub(crate) const fn new(job: &'a [u8], ranges: &'a [u8]) -> Self {
        Self { job, ranges }
    }

    /// The slot ranges, first and last slot of each.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let mut rest = self.ranges;
        std::iter::from_fn(move || {
            let (first, n) = wire::len(rest).ok()?;
            let (last, m) = wire::len(&rest[n..]).ok()?;
            rest = &rest[n + m..];
            Some((first, last))
        })
    }
}

/// Opcode 246.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionPreGa<'a> {
    /// The library's name.
    pub name: &'a [u8],
    /// The engine, such as `LUA`.
    pub engine: &'a [u8],
    /// A description that later versions have no place for.
    pub description: Option<&'a [u8]>,
    /// The source, without a `#!` line.
    pub code: &'a [u8],
}

impl FunctionPreGa<'_> {
    /// The source as Redis 7.0 and later take it: with the line `#!engine name=library` in front. The description
    /// has no place there.
    pub fn to_code(&self) -> Vec<u8> {
        [b"#!", self.engine, b" name=", self.name, b"\n", self.code].concat()
    }
}

/// Opcode 247.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleAux<'a> {
    /// The module.
    pub module: ModuleId,
    /// When the module wants it: 1 before the keys, 2 after them.
    pub when: u64,
    /// The whole record, from opcode 247 to the module's end mark.
    pub record: &'a [u8],
}

/// Opcode 242.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HashTemplate<'a> {
    /// The number by which hashes refer to it.
    pub id: u64,
    /// Number of field names.
    pub len: u64,
    /// The field names, as so many serialized strings.
    pub fields: &'a [u8],
}

/// What the checksum at the end of a snapshot said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checksum {
    /// It matches.
    Verified,
    /// The writer left it out (stored as zero).
    NotComputed,
    /// Versions below 5 have none.
    NoneInVersion,
}

fn starts_with_zero(b: &[u8]) -> bool {
    matches!(wire::len(b), Ok((0, _)))
}

/// The verbatim string at the start of `b`, and its whole size.
fn plain_string(b: &[u8]) -> Option<(&[u8], usize)> {
    let head = wire::str_head(b).ok()?;
    if head.form != wire::StrForm::Plain {
        return None;
    }
    let end = head.head.checked_add(usize::try_from(head.payload).ok()?)?;
    Some((b.get(head.head..end)?, end))
}

/// Whether a quicklist consists of empty nodes only. Looks at a few nodes: more empty ones do not occur.
fn nodes_are_empty(b: &[u8], kinds: bool) -> bool {
    let Ok((nodes @ 1..=4, mut at)) = wire::len(b) else { return false };
    for _ in 0..nodes {
        if kinds {
            match wire::len(&b[at..]) {
                Ok((2, n)) => at += n,
                _ => return false,
            }
        }
        let ty = if kinds { ValueType::SetListpack } else { ValueType::ListZiplist };
        match plain_string(&b[at..]) {
            Some((blob, size)) if blob_is_empty(ty, blob) => at += size,
            _ => return false,
        }
    }
    true
}

fn blob_is_empty(ty: ValueType, blob: &[u8]) -> bool {
    use ValueType as T;
    match ty {
        T::HashZipmap => matches!(blob, [_, 0xFF, ..]),
        T::SetIntset => matches!(blob, [_, _, _, _, 0, 0, 0, 0, ..]),
        T::ListZiplist | T::ZsetZiplist | T::HashZiplist => blob.get(10) == Some(&0xFF),
        _ => blob.get(6) == Some(&0xFF),
    }
}
