//! Whole values with their masks.

use bytes::BytesMut;
use keyferry_rdb::{
    Limits, RawValue, TargetFormat, Value, ValueType,
    dump::{self, Payload},
    elements::Templates,
    encode::Encoder,
};

use super::{Filter, KeyMask, Part};
use crate::target::payload_version;

/// A value in the oldest form that holds all of it.
pub(crate) struct MaskedValue {
    pub(crate) ty: ValueType,
    pub(crate) bytes: Vec<u8>,
}

impl Filter {
    /// A value with the masks of its key. None for types that cannot be masked.
    pub(crate) fn masked_value(
        &self,
        mask: &KeyMask,
        value: RawValue<'_>,
        templates: &Templates,
    ) -> Result<Option<MaskedValue>, keyferry_rdb::Error> {
        let ty = value.ty();
        let mut value = value.to_value_with(&Limits::default(), templates)?;
        if !self.mask_value(mask, &mut value) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for format in formats(ty) {
            bytes.clear();
            let encoded = Encoder::new(format).encode(&value, &mut bytes)?;
            if let Some(ty) = encoded.ty.filter(|_| encoded.losses.is_empty()) {
                return Ok(Some(MaskedValue { ty, bytes }));
            }
        }
        Ok(None)
    }

    /// The payload of a `RESTORE` with the masks of its key. None for types that cannot be masked, and for what is none.
    pub(super) fn masked_payload(&self, mask: &KeyMask, payload: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload::parse(payload).ok()?;
        let masked = self.masked_value(mask, payload.value, &Templates::new()).ok()??;
        let value = RawValue::new(masked.ty, &masked.bytes);
        let mut bytes = BytesMut::new();
        let version = payload_version(masked.ty);
        match payload.meta {
            Some(meta) => dump::append_payload_with_meta(&mut bytes, meta, value, version),
            None => dump::append_payload(&mut bytes, value, version),
        }
        Some(bytes.to_vec())
    }

    /// False for types that cannot be masked.
    pub(super) fn mask_value(&self, mask: &KeyMask, value: &mut Value) -> bool {
        let put = |part: Part<'_>, bytes: &mut Vec<u8>| {
            if let std::borrow::Cow::Owned(masked) = self.masked_part(mask, part, bytes) {
                *bytes = masked;
            }
        };
        match value {
            Value::String(bytes) => put(Part::String, bytes),
            Value::List(items) => items.iter_mut().for_each(|item| put(Part::Item, item)),
            Value::Set(members) => members.iter_mut().for_each(|member| put(Part::Member, member)),
            Value::SortedSet(members) => {
                members.iter_mut().for_each(|(member, _)| put(Part::ScoredMember, member));
            }
            Value::Hash(fields) => {
                fields.iter_mut().for_each(|field| put(Part::Field(&field.name), &mut field.value));
            }
            Value::Stream(stream) => {
                let fields = stream.entries.iter_mut().flat_map(|entry| &mut entry.fields);
                fields.for_each(|(name, value)| put(Part::EntryField(name), value));
            }
            _ => return false,
        }
        true
    }
}

/// The formats in which a value of this type may be written, older ones first.
fn formats(ty: ValueType) -> Vec<TargetFormat> {
    // Fields that expire are written in two ways, and neither vendor reads the other's.
    if !TargetFormat::redis(8, 10).accepts(ty) && TargetFormat::valkey(9, 0).accepts(ty) {
        return vec![TargetFormat::redis(5, 0), TargetFormat::valkey(9, 0)];
    }
    [(5, 0), (7, 0), (7, 2), (7, 4), (8, 6), (8, 8), (8, 10)]
        .into_iter()
        .map(|(major, minor)| TargetFormat::redis(major, minor))
        .collect()
}
