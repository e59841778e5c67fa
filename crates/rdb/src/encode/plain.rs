//! The encodings that every version reads: elements one after the other, behind their number.

use super::Strings;
use super::source::{MAX_FIELD_EXPIRY, Survey};
use crate::elements::{Element, Score};
use crate::native::Loss;
use crate::target::TargetFormat;
use crate::types::{Kind, ValueType};
use crate::wire::put_len;

/// The plain type for a collection of this kind; `None` for kinds that have none.
pub(super) fn plain_type(target: &TargetFormat, kind: Kind, survey: &Survey) -> Option<ValueType> {
    let expiring = survey.expiring > 0;
    Some(match kind {
        Kind::List => ValueType::List,
        Kind::Set => ValueType::Set,
        Kind::SortedSet if target.accepts(ValueType::Zset) => ValueType::Zset,
        Kind::SortedSet => ValueType::ZsetText,
        Kind::Hash if expiring && target.accepts(ValueType::HashValkey) => ValueType::HashValkey,
        Kind::Hash if expiring && target.accepts(ValueType::HashTtl) => ValueType::HashTtl,
        Kind::Hash => ValueType::Hash,
        _ => return None,
    })
}

/// The expiries that a hash of type `ty` has no place for.
pub(super) fn lost_expiries(ty: ValueType, survey: &Survey) -> Option<Loss> {
    let fields = match ty {
        ValueType::HashValkey => 0,
        ValueType::HashTtl => survey.beyond,
        _ => survey.expiring,
    };
    (fields > 0).then_some(Loss::FieldExpiry { fields })
}

/// The expiry from which those of Redis' hashes count. Zero stands for no expiry, and what is past is past.
pub(super) fn first_expiry(survey: &Survey) -> i64 {
    survey.min_expiry.unwrap_or(1).clamp(1, MAX_FIELD_EXPIRY)
}

/// An expiry as Redis can tell it: one too far away is as good as none.
pub(super) fn kept_expiry(at: Option<i64>) -> Option<i64> {
    at.filter(|at| *at <= MAX_FIELD_EXPIRY).map(|at| at.max(1))
}

/// Writes the elements of one collection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    ty: ValueType,
    first_expiry: i64,
}

impl Plain {
    /// Appends what comes before the elements.
    pub(super) fn begin(ty: ValueType, survey: &Survey, out: &mut Vec<u8>) -> Self {
        let plain = Self { ty, first_expiry: first_expiry(survey) };
        if ty == ValueType::HashTtl {
            out.extend_from_slice(&plain.first_expiry.to_le_bytes());
        }
        put_len(out, survey.count);
        plain
    }

    /// Appends an element.
    pub(super) fn put(&self, element: &Element<'_>, strings: &mut Strings, out: &mut Vec<u8>) {
        match element {
            Element::Item(bytes) | Element::Member(bytes) => strings.put(bytes, out),
            Element::Scored { member, score } => {
                strings.put(member, out);
                if self.ty == ValueType::Zset {
                    out.extend_from_slice(&score.value().to_le_bytes());
                } else {
                    put_text_score(*score, out);
                }
            }
            Element::Field { name, value, expires_at } => {
                if self.ty == ValueType::HashTtl {
                    let after = kept_expiry(*expires_at).map_or(0, |at| at.abs_diff(self.first_expiry) + 1);
                    put_len(out, after);
                }
                strings.put(name, out);
                strings.put(value, out);
                if self.ty == ValueType::HashValkey {
                    out.extend_from_slice(&expires_at.map_or(-1, |at| at.max(0)).to_le_bytes());
                }
            }
            // Not of collections.
            _ => {}
        }
    }
}

/// A score as text, of which the shortest that reads back is at most 24 bytes.
fn put_text_score(score: Score<'_>, out: &mut Vec<u8>) {
    let value = score.value();
    if value.is_infinite() {
        out.push(if value > 0.0 { 254 } else { 255 });
    } else {
        let text = score.to_string();
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    }
}
