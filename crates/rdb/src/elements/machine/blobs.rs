//! Values that are compact blobs, or quicklists of them.

use super::{
    Fault, Found, Input, Machine, NOT_A_SCORE, State, Turn, decode, field_expiry, lens, need, push_int,
    string,
};
use crate::blob::{self, Cursor, Scalar, intset, listpack, ziplist, zipmap};
use crate::elements::element::Loc;
use crate::elements::number;
use crate::lzf;
use crate::types::ValueType;
use crate::wire::{StrForm, StrHead};

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
        let payload = &input.rest()[head.head..][..head.payload as usize];
        self.blob_at = self.consumed + (input.at + head.head) as u64;
        self.blob_verbatim = head.form == StrForm::Plain;
        match head.form {
            StrForm::Plain => {
                self.blob.clear();
                self.blob.extend_from_slice(payload);
            }
            StrForm::Lzf { inflated } => self.blob = lzf::inflate(payload, inflated).map_err(Fault::Bad)?,
            StrForm::Int => return Err(Fault::Bad("a compact blob is written as an integer")),
        }
        let blob = &self.blob;
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

    /// The next element of the open blob.
    #[inline]
    pub(in crate::elements) fn scalar(&mut self) -> Result<Option<Scalar<'_>>, Fault> {
        Ok(self.cursor.next(&self.blob)?)
    }

    /// Its place.
    #[inline]
    pub(in crate::elements) fn scalar_loc(&mut self) -> Result<Option<Loc>, Fault> {
        Ok(self.cursor.next(&self.blob)?.map(|scalar| place(&self.blob, scalar, &mut self.scratch)))
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

    pub(super) fn blob_element(&mut self) -> Result<Turn, Fault> {
        use ValueType as T;
        let first = match self.cursor.next(&self.blob)? {
            Some(scalar) => place(&self.blob, scalar, &mut self.scratch),
            None => {
                self.state = match self.ty {
                    T::ListQuicklist => State::Nodes { kinds: false },
                    T::ListQuicklist2 => State::Nodes { kinds: true },
                    _ => State::Done,
                };
                return Ok(Turn::Next);
            }
        };
        let mut second =
            |what| -> Result<Scalar<'_>, Fault> { self.cursor.next(&self.blob)?.ok_or(Fault::Bad(what)) };
        let found = match self.ty {
            T::ListZiplist | T::ListQuicklist | T::ListQuicklist2 => Found::Item(first),
            T::SetIntset | T::SetListpack => Found::Member(first),
            T::ZsetZiplist | T::ZsetListpack => {
                let score = second("a member of a sorted set has no score")?;
                let value = match score {
                    Scalar::Int(n) => n as f64,
                    Scalar::Bytes(text) => number::parse_score(text).ok_or(Fault::Bad(NOT_A_SCORE))?,
                };
                let text = Some(place(&self.blob, score, &mut self.scratch));
                Found::Scored { member: first, value, text }
            }
            _ => {
                let value = second("a field of a hash has no value")?;
                let value = place(&self.blob, value, &mut self.scratch);
                let expires_at = if matches!(self.ty, T::HashListpackTtl | T::HashListpackTtlPreGa) {
                    let Some(Scalar::Int(time)) = self.cursor.next(&self.blob)? else {
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
fn place(blob: &[u8], scalar: Scalar<'_>, scratch: &mut Vec<u8>) -> Loc {
    match scalar {
        Scalar::Bytes(bytes) => Loc::Blob { at: blob::place(blob, bytes), len: bytes.len() },
        Scalar::Int(n) => {
            let at = scratch.len();
            push_int(scratch, n);
            Loc::Scratch { at, len: scratch.len() - at }
        }
    }
}
