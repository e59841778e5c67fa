//! Where the elements to be written come from.

use crate::elements::{Element, Score, Templates};
use crate::error::Error;
use crate::event::RawValue;
use crate::limits::Limits;
use crate::target::TargetFormat;
use crate::types::{Kind, ValueType};
use crate::value::Value;
use crate::wire::canonical_int;

/// A value whose elements can be gone through more than once.
pub(super) struct Source<'a> {
    pub(super) origin: Origin<'a>,
    pub(super) target: TargetFormat,
}

pub(super) enum Origin<'a> {
    Value(&'a Value),
    Raw { value: RawValue<'a>, limits: &'a Limits, templates: &'a Templates },
}

/// What must be known of the elements before they are written.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    pub(super) count: u64,
    /// Length of the longest item, member, field name or field value.
    pub(super) longest: usize,
    /// Whether all members are texts of integers.
    pub(super) integers: bool,
    /// The earliest expiry of a field.
    pub(super) min_expiry: Option<i64>,
    /// Number of fields that expire.
    pub(super) expiring: u64,
    /// Number of fields that expire later than Redis can tell.
    pub(super) beyond: u64,
    pub(super) cursor: Option<u64>,
}

/// Redis refuses field expiries beyond this.
pub(super) const MAX_FIELD_EXPIRY: i64 = (1 << 48) - 1;

impl Survey {
    pub(super) const fn new() -> Self {
        Self { count: 0, longest: 0, integers: true, min_expiry: None, expiring: 0, beyond: 0, cursor: None }
    }

    /// Takes account of an element.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] for a score that is NaN.
    pub(super) fn see(&mut self, element: &Element<'_>) -> Result<(), Error> {
        let longest = match element {
            Element::Item(bytes) | Element::ArrayItem { value: bytes, .. } => bytes.len(),
            Element::Member(bytes) => {
                self.integers = self.integers && canonical_int(bytes).is_some();
                bytes.len()
            }
            Element::Scored { member, score } => {
                if score.value().is_nan() {
                    return Err(Error::Corrupt { offset: 0, what: "a score is not a number", key: None });
                }
                member.len()
            }
            Element::Field { name, value, expires_at } => {
                if let Some(at) = expires_at {
                    self.expiring += 1;
                    self.beyond += u64::from(*at > MAX_FIELD_EXPIRY);
                    self.min_expiry = Some(self.min_expiry.map_or(*at, |min| min.min(*at)));
                }
                name.len().max(value.len())
            }
            Element::ArrayCursor(cursor) => {
                self.cursor = Some(*cursor);
                return Ok(());
            }
            _ => 0,
        };
        self.count += 1;
        self.longest = self.longest.max(longest);
        Ok(())
    }

    /// Whether a compact encoding may hold it, by these bounds.
    pub(super) fn is_within(&self, entries: usize, bytes: usize) -> bool {
        self.count <= entries as u64 && self.longest <= bytes
    }
}

pub(super) type Visitor<'v> = dyn FnMut(&Element<'_>) -> Result<(), Error> + 'v;

impl Source<'_> {
    pub(super) fn kind(&self) -> Kind {
        self.origin.kind()
    }

    /// The type as it is, or, of a value, the plainest of its kind.
    pub(super) fn ty(&self) -> ValueType {
        self.origin.ty()
    }

    /// Shows every element that the target is to have.
    pub(super) fn visit(&self, see: &mut Visitor<'_>) -> Result<(), Error> {
        self.origin.visit(&mut |element| match self.target.leaves_out(element) {
            true => Ok(()),
            false => see(element),
        })
    }

    pub(super) fn survey(&self) -> Result<Survey, Error> {
        let mut survey = Survey::new();
        if self.kind() != Kind::String {
            self.visit(&mut |element| survey.see(element))?;
        }
        Ok(survey)
    }
}

impl Origin<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::Value(value) => value.kind(),
            Self::Raw { value, .. } => value.ty().kind(),
        }
    }

    /// The type as it is, or, of a value, the plainest of its kind.
    fn ty(&self) -> ValueType {
        match self {
            Self::Raw { value, .. } => value.ty(),
            Self::Value(value) => match value.kind() {
                Kind::List => ValueType::List,
                Kind::Set => ValueType::Set,
                Kind::SortedSet => ValueType::Zset,
                Kind::Hash => ValueType::Hash,
                Kind::Stream => ValueType::Stream,
                Kind::Array => ValueType::Array,
                Kind::RateLimiter => ValueType::RateLimiter,
                _ => ValueType::String,
            },
        }
    }

    /// Shows every element.
    fn visit(&self, see: &mut Visitor<'_>) -> Result<(), Error> {
        match self {
            Self::Raw { value, limits, templates } => {
                let mut elements = value.elements(limits).with_templates((*templates).clone());
                while let Some(element) = elements.next()? {
                    see(&element)?;
                }
                Ok(())
            }
            Self::Value(value) => match value {
                Value::String(bytes) => see(&Element::Chunk(bytes)),
                Value::List(items) => items.iter().try_for_each(|item| see(&Element::Item(item))),
                Value::Set(members) => members.iter().try_for_each(|member| see(&Element::Member(member))),
                Value::SortedSet(members) => members.iter().try_for_each(|(member, score)| {
                    see(&Element::Scored { member, score: Score::new(*score) })
                }),
                Value::Hash(fields) => fields.iter().try_for_each(|field| {
                    see(&Element::Field {
                        name: &field.name,
                        value: &field.value,
                        expires_at: field.expires_at,
                    })
                }),
                Value::Array(array) => {
                    array.cursor.iter().try_for_each(|cursor| see(&Element::ArrayCursor(*cursor)))?;
                    array
                        .items
                        .iter()
                        .try_for_each(|(index, value)| see(&Element::ArrayItem { index: *index, value }))
                }
                Value::RateLimiter(time) => see(&Element::RateLimit(*time)),
                // These are written in other ways.
                Value::Stream(_) | Value::Opaque { .. } => Ok(()),
            },
        }
    }
}
