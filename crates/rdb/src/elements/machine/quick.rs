//! The quick way through what most values are made of: strings and numbers in blobs, verbatim strings in counted rows.
//!
//! Nothing here tells what is wrong. Whatever is not as expected, wrong or merely rare, is left to the long way, which
//! goes on at the same place: only what was handed out is passed.

use super::{Machine, State};
use crate::blob::{Cursor, Scalar, intset, listpack, ziplist};
use crate::elements::element::{Element, Score};
use crate::elements::number;
use crate::types::ValueType;
use crate::wire::{self, StrForm};

impl Machine {
    /// Calls `visit` for the elements that come next, as long as they can be had quickly.
    #[inline]
    pub(super) fn run<E>(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(Element<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.state {
            State::Blob => {
                let blob = self.blob.bytes(bytes);
                match &mut self.cursor {
                    Cursor::Listpack(cursor) => run_blob(cursor, self.ty, blob, visit),
                    Cursor::Ziplist(cursor) => run_blob(cursor, self.ty, blob, visit),
                    Cursor::Intset(cursor) => run_blob(cursor, self.ty, blob, visit),
                    Cursor::Zipmap(_) | Cursor::Closed => Ok(()),
                }
            }
            State::Start if self.ty == ValueType::String => {
                let Some((text, at)) = verbatim(bytes, self.at, self.limits.chunk) else { return Ok(()) };
                self.at = at;
                self.state = State::Done;
                visit(Element::Chunk(text))
            }
            State::Items => self.run_row(bytes, 0, |item, _| visit(Element::Item(item))),
            State::Members => self.run_row(bytes, 0, |member, _| visit(Element::Member(member))),
            State::Scores => {
                // A score that is none is left to the long way.
                self.run_row(bytes, 8, |member, score| {
                    visit(Element::Scored { member, score: Score::new(score) })
                })
            }
            State::Pairs => {
                while self.left > 0 {
                    let Some((name, at)) = verbatim(bytes, self.at, self.limits.element) else { break };
                    let Some((value, at)) = verbatim(bytes, at, self.limits.element) else { break };
                    self.left -= 1;
                    self.at = at;
                    visit(Element::Field { name, value, expires_at: None })?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Goes along a row of strings, each followed by a number when `more` is 8.
    #[inline]
    fn run_row<E>(
        &mut self,
        bytes: &[u8],
        more: usize,
        mut visit: impl FnMut(&[u8], f64) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.left > 0 {
            let Some((text, at)) = verbatim(bytes, self.at, self.limits.element) else { break };
            let number = if more == 0 { Some(0) } else { wire::u64_le(&bytes[at..]) };
            let Some(number) = number.map(f64::from_bits).filter(|number| !number.is_nan()) else { break };
            self.left -= 1;
            self.at = at + more;
            visit(text, number)?;
        }
        Ok(())
    }
}

/// A place in a blob that knows the common forms of entries.
trait Entries: Copy {
    /// The next entry, when it is of a common form.
    fn entry<'a>(&mut self, blob: &'a [u8]) -> Option<Scalar<'a>>;

    /// The next two.
    #[inline(always)]
    fn two<'a>(&mut self, blob: &'a [u8]) -> Option<(Scalar<'a>, Scalar<'a>)> {
        let mut ahead = *self;
        let two = (ahead.entry(blob)?, ahead.entry(blob)?);
        *self = ahead;
        Some(two)
    }
}

impl Entries for listpack::Cursor {
    #[inline(always)]
    fn entry<'a>(&mut self, blob: &'a [u8]) -> Option<Scalar<'a>> {
        self.quick(blob)
    }
}

impl Entries for ziplist::Cursor {
    #[inline(always)]
    fn entry<'a>(&mut self, blob: &'a [u8]) -> Option<Scalar<'a>> {
        self.quick(blob)
    }
}

impl Entries for intset::Cursor {
    #[inline(always)]
    fn entry<'a>(&mut self, blob: &'a [u8]) -> Option<Scalar<'a>> {
        self.next(blob)
    }
}

/// Goes along a blob that is a whole value or a node of a list.
#[inline]
fn run_blob<E, C: Entries>(
    cursor: &mut C,
    ty: ValueType,
    blob: &[u8],
    visit: impl FnMut(Element<'_>) -> Result<(), E>,
) -> Result<(), E> {
    // A copy on the stack, which the compiler keeps in registers.
    let mut here = *cursor;
    let done = run_entries(&mut here, ty, blob, visit);
    *cursor = here;
    done
}

#[inline(always)]
fn run_entries<E, C: Entries>(
    cursor: &mut C,
    ty: ValueType,
    blob: &[u8],
    mut visit: impl FnMut(Element<'_>) -> Result<(), E>,
) -> Result<(), E> {
    use ValueType as T;
    let (mut one, mut other) = (itoa::Buffer::new(), itoa::Buffer::new());
    match ty {
        T::ListQuicklist2 | T::ListQuicklist | T::ListZiplist => {
            while let Some(item) = cursor.entry(blob) {
                visit(Element::Item(text(item, &mut one)))?;
            }
        }
        T::SetListpack | T::SetIntset => {
            while let Some(member) = cursor.entry(blob) {
                visit(Element::Member(text(member, &mut one)))?;
            }
        }
        T::HashListpack | T::HashZiplist => {
            while let Some((name, value)) = cursor.two(blob) {
                let (name, value) = (text(name, &mut one), text(value, &mut other));
                visit(Element::Field { name, value, expires_at: None })?;
            }
        }
        T::ZsetListpack | T::ZsetZiplist => {
            let mut before = *cursor;
            while let Some((member, score)) = cursor.two(blob) {
                let score = match score {
                    Scalar::Int(n) => Score::new(n as f64),
                    Scalar::Bytes(text) => match number::parse_score(text) {
                        Some(value) => Score { value, text: Some(text) },
                        None => {
                            *cursor = before;
                            break;
                        }
                    },
                };
                before = *cursor;
                visit(Element::Scored { member: text(member, &mut one), score })?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[inline]
fn text<'a>(scalar: Scalar<'a>, digits: &'a mut itoa::Buffer) -> &'a [u8] {
    match scalar {
        Scalar::Bytes(bytes) => bytes,
        Scalar::Int(n) => digits.format(n).as_bytes(),
    }
}

/// The verbatim string at `at`, when it is all there, and where it ends.
#[inline]
fn verbatim(bytes: &[u8], at: usize, limit: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let head = wire::str_head(rest).ok()?;
    let len = usize::try_from(head.payload).ok()?;
    if head.form != StrForm::Plain || len > limit {
        return None;
    }
    let text = rest[head.head..].get(..len)?;
    Some((text, at + head.head + len))
}
