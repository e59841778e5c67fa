//! Strings of the record level, decoded.

use crate::wire::{self, StrForm, StrHead};

/// Where a decoded string lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the buffer, relative to the start of its record.
    Buffer { at: usize, len: usize },
    /// In the scratch space.
    Scratch { at: usize, len: usize },
}

impl Place {
    pub(crate) const EMPTY: Self = Self::Scratch { at: 0, len: 0 };

    /// The bytes, given the record and the scratch space.
    #[inline(always)]
    pub(crate) fn of<'a>(self, record: &'a [u8], scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Buffer { at, len } => &record[at..at + len],
            Self::Scratch { at, len } => &scratch[at..at + len],
        }
    }
}

/// Why a string could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Bad(&'static str),
    Limit { claimed: u64, limit: u64 },
}

/// Decodes the string whose header is `head` and whose payload, at `at` of its record, is `payload`. Strings that are
/// not verbatim are appended to `scratch`.
#[inline]
pub(crate) fn decode(
    payload: &[u8],
    head: StrHead,
    at: usize,
    limit: usize,
    scratch: &mut Vec<u8>,
) -> Result<Place, Fault> {
    match head.form {
        StrForm::Plain => Ok(Place::Buffer { at, len: payload.len() }),
        _ => decode_coded(payload, head, limit, scratch),
    }
}

#[inline(never)]
fn decode_coded(payload: &[u8], head: StrHead, limit: usize, scratch: &mut Vec<u8>) -> Result<Place, Fault> {
    let at = scratch.len();
    match head.form {
        StrForm::Plain => scratch.extend_from_slice(payload),
        StrForm::Int => {
            let n = wire::int_payload(payload).ok_or(Fault::Bad(wire::BAD_STR))?;
            scratch.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        }
        StrForm::Lzf { inflated } => {
            if inflated > limit as u64 {
                return Err(Fault::Limit { claimed: inflated, limit: limit as u64 });
            }
            crate::lzf::inflate_onto(payload, inflated, scratch).map_err(Fault::Bad)?;
        }
    }
    Ok(Place::Scratch { at, len: scratch.len() - at })
}
