//! Values that are compact blobs, or quicklists of them.

use super::{
    Fault, Found, Input, KEPT, Machine, NOT_A_SCORE, State, Turn, decode, field_expiry, lens, need, push_int,
    string,
};
use crate::blob::{self, Cursor, Scalar, intset, listpack, ziplist, zipmap};
use crate::elements::element::Loc;
use crate::elements::number;
use crate::lzf;
use crate::types::ValueType;
use crate::wire::{StrForm, StrHead};

/// The blob that is open.
#[derive(Debug, Default)]
pub(in crate::elements) struct Open {
    place: Place,
    /// The blob itself, when it was compressed.
    inflated: Vec<u8>,
}

/// Where the open blob lies. Positions are those of the input.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the input.
    Input { at: usize, end: usize },
    /// In memory of its own; its compressed form starts at this place.
    Inflated { at: usize },
}

impl Default for Place {
    fn default() -> Self {
        Self::Inflated { at: 0 }
    }
}

impl Open {
    /// The blob, while this is the input.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        match self.place {
            Place::Input { at, end } => &input[at..end],
            Place::Inflated { .. } => &self.inflated,
        }
    }

    /// Where its byte `at` stands in the input. Inside of a compressed blob, its start.
    pub(super) fn place_of(&self, at: usize) -> usize {
        match self.place {
            Place::Input { at: start, .. } => start + at,
            Place::Inflated { at: start } => start,
        }
    }

    /// Where it needs the input from.
    pub(super) fn start(&self) -> usize {
        self.place_of(0)
    }

    pub(super) fn forget(&mut self, n: usize) {
        match &mut self.place {
            Place::Input { at, end } => (*at, *end) = (at.saturating_sub(n), end.saturating_sub(n)),
            Place::Inflated { at } => *at = at.saturating_sub(n),
        }
    }

    pub(super) fn restart(&mut self) {
        self.place = Place::default();
        self.inflated.clear();
        if self.inflated.capacity() > KEPT {
            self.inflated = Vec::new();
        }
    }
}

impl Machine {
    /// Takes `skip` bytes and the string that is the value's one blob.
    pub(super) fn only_blob(&mut self, input: &mut Input<'_>, skip: usize) -> Result<Turn, Fault> {
        let Some(rest) = input.rest().get(skip..) else { return Ok(Turn::Need) };
        let (head, size) = need!(string(rest, self.limits.element));
        input.at += skip;
        self.left = 0;
        self.open(input, head)?;
        input.at += size;
        self.state = State::Blob;
        Ok(Turn::Next)
    }

    /// Opens the blob that the string at the input's position holds.
    pub(in crate::elements) fn open(&mut self, input: &Input<'_>, head: StrHead) -> Result<(), Fault> {
        use ValueType as T;
        let at = input.at + head.head;
        let end = at + head.payload as usize;
        match head.form {
            StrForm::Plain => self.blob.place = Place::Input { at, end },
            StrForm::Lzf { inflated } => {
                self.blob.place = Place::Inflated { at };
                self.blob.inflated.clear();
                lzf::inflate_onto(&input.bytes[at..end], inflated, &mut self.blob.inflated)
                    .map_err(Fault::Bad)?;
            }
            StrForm::Int => return Err(Fault::Bad("a compact blob is written as an integer")),
        }
        let blob = self.blob.bytes(input.bytes);
        self.cursor = match self.ty {
            T::HashZipmap => Cursor::Zipmap(zipmap::Cursor::open(blob)?),
            T::ListZiplist | T::ZsetZiplist | T::HashZiplist | T::ListQuicklist => {
                Cursor::Ziplist(ziplist::Cursor::open(blob)?)
            }
            T::SetIntset => Cursor::Intset(intset::Cursor::open(blob)?),
            _ => Cursor::Listpack(listpack::Cursor::open(blob)?),
        };
        Ok(())
    }

    /// Closes the blob: it was read to its end.
    pub(in crate::elements) fn close(&mut self) {
        self.cursor = Cursor::Closed;
        self.blob.place = Place::default();
    }

    /// The open blob, when it is a listpack, with the place in it and the scratch space.
    #[inline]
    pub(in crate::elements) fn open_listpack<'a>(
        &'a mut self,
        input: &Input<'a>,
    ) -> Option<(&'a [u8], &'a mut listpack::Cursor, &'a mut Vec<u8>)> {
        match &mut self.cursor {
            Cursor::Listpack(cursor) => Some((self.blob.bytes(input.bytes), cursor, &mut self.scratch)),
            _ => None,
        }
    }

    /// The next element of the open blob.
    #[inline]
    pub(in crate::elements) fn scalar<'a>(
        &'a mut self,
        input: &Input<'a>,
    ) -> Result<Option<Scalar<'a>>, Fault> {
        Ok(self.cursor.next(self.blob.bytes(input.bytes))?)
    }

    /// Its place.
    #[inline]
    pub(in crate::elements) fn scalar_loc(&mut self, input: &Input<'_>) -> Result<Option<Loc>, Fault> {
        let blob = self.blob.bytes(input.bytes);
        Ok(self.cursor.next(blob)?.map(|scalar| place(blob, scalar, &mut self.scratch)))
    }

    pub(super) fn node(&mut self, input: &mut Input<'_>, kinds: bool) -> Result<Turn, Fault> {
        let Some(left) = self.countdown() else { return Ok(Turn::Next) };
        let (packed, size) = if kinds {
            match need!(lens(input.rest())) {
                ([1], size) => (false, size),
                ([2], size) => (true, size),
                _ => return Err(Fault::Bad("a quicklist node is neither plain (1) nor packed (2)")),
            }
        } else {
            (true, 0)
        };
        let (head, len) = need!(string(&input.rest()[size..], self.limits.element));
        input.at += size;
        self.left = left;
        if packed {
            self.open(input, head)?;
            input.at += len;
            self.state = State::Blob;
            Ok(Turn::Next)
        } else {
            let item = decode(input, head, &mut self.scratch)?;
            input.at += len;
            Ok(Turn::Found(Found::Item(item)))
        }
    }

    pub(super) fn blob_element(&mut self, input: &Input<'_>) -> Result<Turn, Fault> {
        use ValueType as T;
        let blob = self.blob.bytes(input.bytes);
        let first = match self.cursor.next(blob)? {
            Some(scalar) => place(blob, scalar, &mut self.scratch),
            None => {
                self.close();
                self.state = match self.ty {
                    T::ListQuicklist => State::Nodes { kinds: false },
                    T::ListQuicklist2 => State::Nodes { kinds: true },
                    _ => State::Done,
                };
                return Ok(Turn::Next);
            }
        };
        let mut second =
            |what| -> Result<Scalar<'_>, Fault> { self.cursor.next(blob)?.ok_or(Fault::Bad(what)) };
        let found = match self.ty {
            T::ListZiplist | T::ListQuicklist | T::ListQuicklist2 => Found::Item(first),
            T::SetIntset | T::SetListpack => Found::Member(first),
            T::ZsetZiplist | T::ZsetListpack => {
                let score = second("a member of a sorted set has no score")?;
                let (value, text) = match score {
                    Scalar::Int(n) => (n as f64, None),
                    Scalar::Bytes(text) => (
                        number::parse_score(text).ok_or(Fault::Bad(NOT_A_SCORE))?,
                        Some(place(blob, score, &mut self.scratch)),
                    ),
                };
                Found::Scored { member: first, value, text }
            }
            _ => {
                let value = second("a field of a hash has no value")?;
                let value = place(blob, value, &mut self.scratch);
                let expires_at = if matches!(self.ty, T::HashListpackTtl | T::HashListpackTtlPreGa) {
                    let Some(Scalar::Int(time)) = self.cursor.next(blob)? else {
                        return Err(Fault::Bad("a field's expiry is missing or no number"));
                    };
                    self.ordered_expiry(time)?
                } else {
                    None
                };
                Found::Field { name: first, value, expires_at }
            }
        };
        Ok(Turn::Found(found))
    }

    /// An expiry in a listpack: ascending, fields without one last.
    pub(super) fn ordered_expiry(&mut self, time: i64) -> Result<Option<i64>, Fault> {
        let time = u64::try_from(time).map_err(|_| Fault::Bad("a field's expiry is below zero"))?;
        let rank = if time == 0 { u64::MAX } else { time };
        if rank < self.last_expiry {
            return Err(Fault::Bad("the fields of a hash are not in the order of their expiry"));
        }
        self.last_expiry = rank;
        if time == 0 { Ok(None) } else { field_expiry(time).map(Some) }
    }
}

/// The place of an element of a blob; integers become text in the scratch space.
#[inline]
pub(in crate::elements) fn place(blob: &[u8], scalar: Scalar<'_>, scratch: &mut Vec<u8>) -> Loc {
    match scalar {
        Scalar::Bytes(bytes) => Loc::Blob { at: blob::place(blob, bytes), len: bytes.len() },
        Scalar::Int(n) => {
            let at = scratch.len();
            push_int(scratch, n);
            Loc::Scratch { at, len: scratch.len() - at }
        }
    }
}
