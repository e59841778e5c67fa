//! DUMP payloads: what the command `DUMP` gives and `RESTORE` takes.
//!
//! A payload is a type byte, the value as it stands in an RDB file, the RDB version of the writer (two bytes, little
//! endian) and the CRC-64 of everything before (eight bytes). It holds neither key nor expiry.
//!
//! ```
//! use bytes::BytesMut;
//! use keyferry_rdb::{RawValue, ValueType, dump};
//!
//! let mut out = BytesMut::new();
//! dump::append_payload(&mut out, RawValue::new(ValueType::String, b"\x05hello"), 6);
//!
//! let payload = dump::Payload::parse(&out)?;
//! assert_eq!(payload.version, 6);
//! assert_eq!(payload.value.bytes(), b"\x05hello");
//! # Ok::<(), keyferry_rdb::Error>(())
//! ```

use bytes::{BufMut, BytesMut};

use crate::crc::crc64;
use crate::error::{Error, Quoted};
use crate::event::{Checksum, RawValue};
use crate::types::{Dialect, ValueType};
use crate::walk::{self, Ended, Fault, TemplateSizes, Walker};

/// The footer: version and CRC-64.
const FOOTER: usize = 10;
/// The opcode in front of key metadata (Redis 8.6).
const KEY_META: u8 = 243;

/// The footer version that every server takes that has RESTORE at all, Redis 2.6 to Valkey 9, provided that it knows
/// the type: servers compare this number with their own and then look at the type byte only.
pub const UNIVERSAL_VERSION: u16 = 6;

/// Appends the DUMP payload of `value` to `out`: type byte, raw bytes, `version` and CRC-64.
///
/// The caller sees to it that the target knows the type (a target refuses `version` above its own, see
/// [`UNIVERSAL_VERSION`]) and that the type [fits a payload](ValueType::fits_dump).
pub fn append_payload(out: &mut BytesMut, value: RawValue<'_>, version: u16) {
    out.reserve(1 + value.bytes().len() + FOOTER);
    let start = out.len();
    seal(out, start, value, version);
}

/// The same with data that modules attached to the key, as in [`EntryHead::meta`](crate::EntryHead::meta), in front.
/// Redis 8.6 and later take such payloads; the result is 1 byte and `meta` longer.
pub fn append_payload_with_meta(out: &mut BytesMut, meta: &[u8], value: RawValue<'_>, version: u16) {
    out.reserve(1 + meta.len() + 1 + value.bytes().len() + FOOTER);
    let start = out.len();
    out.put_u8(KEY_META);
    out.put_slice(meta);
    seal(out, start, value, version);
}

/// The size of what [`append_payload`] appends.
pub const fn payload_len(value: RawValue<'_>) -> usize {
    1 + value.bytes().len() + FOOTER
}

fn seal(out: &mut BytesMut, start: usize, value: RawValue<'_>, version: u16) {
    out.put_u8(value.raw_type());
    out.put_slice(value.bytes());
    out.put_u16_le(version);
    let crc = crc64(0, &out[start..]);
    out.put_u64_le(crc);
}

/// A DUMP payload taken apart.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Payload<'a> {
    /// RDB version of the server that made it.
    pub version: u16,
    /// [`Checksum::NotComputed`] when it was left out, which Redis 8.4 and later accept.
    pub checksum: Checksum,
    /// Data that modules attached to the key (Redis 8.6), as in [`EntryHead::meta`](crate::EntryHead::meta).
    pub meta: Option<&'a [u8]>,
    /// The value.
    pub value: RawValue<'a>,
    /// Bytes between the value and the footer. Servers write none and overlook them.
    pub trailing: &'a [u8],
}

impl<'a> Payload<'a> {
    /// Takes a payload apart: checks the footer and its CRC, and finds the end of the value. The contents of the value
    /// are not decoded.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Checksum`], [`Error::UnknownType`], [`Error::Corrupt`]; [`Error::Misplaced`]
    /// for types 30 and 32, which refer to templates of a file; [`Error::PreGaModule`] for type 6. Offsets count from the start of the payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let total = payload.len() as u64;
        let split = payload.len().checked_sub(FOOTER).and_then(|at| payload.split_at_checked(at));
        let Some((body, [v0, v1, crc @ ..])) = split else {
            return Err(Error::Truncated {
                offset: total,
                what: "a DUMP payload, which has ten bytes of footer",
            });
        };
        let version = u16::from_le_bytes([*v0, *v1]);
        let stored = crc.first_chunk().map_or(0, |crc| u64::from_le_bytes(*crc));
        let checksum = if stored == 0 {
            Checksum::NotComputed
        } else {
            let computed = crc64(0, &payload[..body.len() + 2]);
            if stored != computed {
                return Err(Error::Checksum { offset: total - 8, stored, computed });
            }
            Checksum::Verified
        };
        let mut at = 0;
        let mut meta = None;
        if body.first() == Some(&KEY_META) {
            at = 1 + walk_over(&body[1..], walk::record::KEY_META, 1, "key metadata")?;
            meta = Some(&body[1..at]);
        }
        let Some(&byte) = body.get(at) else {
            return Err(Error::Truncated { offset: at as u64, what: "a DUMP payload, before its type" });
        };
        let offset = at as u64;
        let ty = ValueType::from_byte(byte, Dialect::of_dump_version(version))
            .ok_or(Error::UnknownType { offset, byte })?;
        if !ty.fits_dump() {
            return Err(Error::Misplaced {
                offset,
                byte,
                why: "it refers to a template of the file it came from",
            });
        }
        at += 1;
        let rest = &body[at..];
        let size = walk_over(rest, walk::value_layout(ty), at, "a value")?;
        let (value, trailing) = rest.split_at(size);
        Ok(Self { version, checksum, meta, value: RawValue::new(ty, value), trailing })
    }
}

/// The size of what `layout` describes at the start of `b`, which is at `at` of the payload.
fn walk_over(b: &[u8], layout: &'static [walk::Op], at: usize, what: &'static str) -> Result<usize, Error> {
    let (size, ended) = Walker::new(layout).run(b, &TemplateSizes::new());
    let offset = (at + size) as u64;
    match ended {
        Ok(Ended::Done) => Ok(size),
        Ok(Ended::Need) => Err(Error::Truncated { offset: (at + b.len()) as u64, what }),
        Err(Fault::Bad(what)) => Err(Error::Corrupt { offset, what, key: None }),
        Err(Fault::PreGa(module)) => Err(Error::PreGaModule { offset, key: Quoted::new(b""), module }),
        Err(Fault::UnknownTemplate(id)) => Err(Error::UnknownTemplate { offset, id, key: None }),
    }
}
