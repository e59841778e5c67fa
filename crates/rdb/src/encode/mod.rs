//! Writing values in the form that a server reads.
//!
//! An [`Encoder`] turns a [`Value`], or a raw value in another encoding, into serialized bytes for a
//! [`TargetFormat`]: compact encodings up to the server's own thresholds and plain ones above, numbers and compressed
//! strings where the server would write them. What the target has no place for is told as a
//! [`Loss`].
//!
//! ```
//! use bytes::BytesMut;
//! use keyferry_rdb::encode::Encoder;
//! use keyferry_rdb::{RawValue, TargetFormat, Value, ValueType, dump};
//!
//! let mut encoder = Encoder::new(TargetFormat::redis(7, 2));
//! let mut bytes = Vec::new();
//! let encoded = encoder.encode(&Value::Set(vec![b"a".to_vec(), b"b".to_vec()]), &mut bytes)?;
//! assert_eq!(encoded.ty, Some(ValueType::SetListpack));
//!
//! let mut payload = BytesMut::new();
//! dump::append_payload(&mut payload, RawValue::new(ValueType::SetListpack, &bytes), 11);
//! # Ok::<(), keyferry_rdb::Error>(())
//! ```

mod blobs;
mod collections;
mod parts;
mod plain;
mod source;
mod stream;

use crate::elements::{Element, Templates};
use crate::error::Error;
use crate::event::RawValue;
use crate::limits::Limits;
use crate::lzf::Deflater;
use crate::native::Loss;
use crate::target::TargetFormat;
use crate::types::{Kind, ValueType};
use crate::value::Value;
use crate::wire::{self, canonical_int};
pub use parts::{PartsEncoder, PartsPlan, PartsSurvey};
use source::{Origin, Source};

/// Strings up to this length are not compressed.
const MIN_COMPRESSED: usize = 20;
/// Compression must save so many bytes.
const MIN_SAVING: usize = 4;
/// The longest text that may be the text of an integer of 32 bits.
const MAX_INT_TEXT: usize = 11;

/// Writes values for one target. Its buffers are kept from one value to the next.
#[derive(Clone, Debug)]
pub struct Encoder {
    target: TargetFormat,
    strings: Strings,
    listpack: blobs::Listpack,
    ziplist: blobs::Ziplist,
    /// A blob before it is compressed.
    blob: Vec<u8>,
}

/// What came of encoding a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// The type of what was appended; `None` when nothing was, since the target cannot hold the value.
    pub ty: Option<ValueType>,
    /// What the target has no place for.
    pub losses: Vec<Loss>,
}

impl Encoder {
    /// An encoder for `target`.
    pub fn new(target: TargetFormat) -> Self {
        Self {
            strings: Strings { compress: target.compress, deflater: Deflater::new() },
            target,
            listpack: blobs::Listpack::default(),
            ziplist: blobs::Ziplist::default(),
            blob: Vec::new(),
        }
    }

    /// What it writes for.
    pub const fn target(&self) -> &TargetFormat {
        &self.target
    }

    /// Appends the serialized form of `value`, type byte not included, to `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] for what no server would read: a set of integers with one of them twice, a score that is NaN.
    pub fn encode(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<Encoded, Error> {
        match value {
            Value::Stream(stream) => Ok(self.stream(stream, out)),
            Value::Opaque { ty, bytes } => Ok(self.copy(*ty, bytes, out)),
            value => self.elements(Origin::Value(value), out),
        }
    }

    /// Decodes a raw value and appends it in the form that the target would write. Values other than streams are not
    /// held in memory; they are decoded twice.
    ///
    /// Whether that is needed at all [`convert`](crate::convert) tells.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value, and those of
    /// [`encode`](Self::encode).
    pub fn reencode(
        &mut self,
        value: RawValue<'_>,
        limits: &Limits,
        templates: &Templates,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, Error> {
        match value.ty().kind() {
            Kind::String | Kind::Module | Kind::CronJob => Ok(self.copy(value.ty(), value.bytes(), out)),
            Kind::Stream => {
                let value = value.to_value_with(limits, templates)?;
                self.encode(&value, out)
            }
            _ => self.elements(Origin::Raw { value, limits, templates }, out),
        }
    }

    /// Appends a string as servers do: as an integer, compressed, or as it is.
    pub(crate) fn string(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.strings.put(bytes, out);
    }

    fn copy(&self, ty: ValueType, bytes: &[u8], out: &mut Vec<u8>) -> Encoded {
        if self.target.accepts(ty) {
            out.extend_from_slice(bytes);
            Encoded { ty: Some(ty), losses: Vec::new() }
        } else {
            Encoded { ty: None, losses: vec![Loss::NotAccepted { ty }] }
        }
    }

    fn elements(&mut self, origin: Origin<'_>, out: &mut Vec<u8>) -> Result<Encoded, Error> {
        let source = &Source { origin, target: self.target };
        let start = out.len();
        let survey = source.survey()?;
        let mut losses = Vec::new();
        let ty = match source.kind() {
            Kind::String => {
                source.visit(&mut |element| {
                    if let Element::Chunk(bytes) = element {
                        self.strings.put(bytes, out);
                    }
                    Ok(())
                })?;
                Some(ValueType::String)
            }
            _ if survey.count == 0 => {
                losses.push(Loss::EmptyContainer { ty: source.ty() });
                None
            }
            Kind::List => Some(self.list(source, &survey, out)?),
            Kind::Set => Some(self.set(source, &survey, out)?),
            Kind::SortedSet => Some(self.sorted_set(source, &survey, out)?),
            Kind::Hash => Some(self.hash(source, &survey, &mut losses, out)?),
            Kind::Array if self.target.accepts(ValueType::Array) => Some(self.array(source, &survey, out)?),
            _ => {
                losses.push(Loss::NotAccepted { ty: source.ty() });
                None
            }
        };
        if ty.is_none() {
            out.truncate(start);
        }
        Ok(Encoded { ty, losses })
    }
}

/// Writes strings.
#[derive(Clone, Debug)]
struct Strings {
    compress: bool,
    deflater: Deflater,
}

impl Strings {
    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.len() <= MAX_INT_TEXT
            && let Some(n) = canonical_int(bytes).and_then(|n| i32::try_from(n).ok())
        {
            wire::put_int_str(out, n);
        } else {
            self.put_bytes(bytes, out);
        }
    }

    /// The same for what is never the text of an integer, such as a blob.
    fn put_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.compress
            && bytes.len() > MIN_COMPRESSED
            && let Some(deflated) = self.deflater.deflate(bytes, bytes.len() - MIN_SAVING)
        {
            out.push(0xC3);
            wire::put_len(out, deflated.len() as u64);
            wire::put_len(out, bytes.len() as u64);
            out.extend_from_slice(deflated);
        } else {
            wire::put_plain_str(out, bytes);
        }
    }
}
