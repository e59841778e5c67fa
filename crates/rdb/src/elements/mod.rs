//! The elements of values, of every type, one at a time, from whole values or from parts.
//!
//! An [`ElementDecoder`] takes the raw bytes of *one* value, as [`Event::Entry`](crate::Event::Entry) or
//! [`Event::ValuePart`](crate::Event::ValuePart) give them, in any pieces, and gives its elements. It holds one
//! element or one compact blob at a time (a listpack or ziplist node, usually 8 KiB), so a list of ten million items
//! costs what its largest node costs. Two things are held longer: the pending list of a consumer group, until each
//! entry's owner is known, and the names of its consumers.
//!
//! Compact blobs are checked in full: header, sizes, counts, back lengths, order of intsets, parity of pairs, counters
//! of stream nodes. Duplicates among the elements of a collection are not looked for, since that would take memory
//! for all of them.
//!
//! ```
//! use keyferry_rdb::elements::{Element, ElementDecoder};
//! use keyferry_rdb::{Limits, ValueType};
//!
//! // A hash with one field, in two pieces.
//! let mut decoder = ElementDecoder::new(ValueType::Hash, &Limits::default());
//! let mut seen = Vec::new();
//! for part in [&b"\x01\x05fie"[..], b"ld\xC0\x07"] {
//!     decoder.feed(part);
//!     while let Some(element) = decoder.next()? {
//!         if let Element::Field { name, value, .. } = element {
//!             seen.push((name.to_vec(), value.to_vec()));
//!         }
//!     }
//! }
//! decoder.finish()?;
//! assert_eq!(seen, [(b"field".to_vec(), b"7".to_vec())]);
//! # Ok::<(), keyferry_rdb::Error>(())
//! ```

mod element;
mod machine;
mod number;
mod stream;
mod templates;

pub use element::{
    Consumer, Element, Group, Pending, Score, StreamCounters, StreamEntry, StreamId, StreamInfo,
};
pub use templates::Templates;

use crate::error::Error;
use crate::event::RawValue;
use crate::limits::Limits;
use crate::types::ValueType;
use machine::Machine;

/// Decodes one value from bytes pushed in as they come.
///
/// After an error every further call gives an error.
#[derive(Debug)]
pub struct ElementDecoder {
    machine: Machine,
    buf: Vec<u8>,
    /// `buf[start..]` is not consumed.
    start: usize,
}

impl ElementDecoder {
    /// A decoder for one value of type `ty`.
    pub fn new(ty: ValueType, limits: &Limits) -> Self {
        Self { machine: Machine::new(ty, limits), buf: Vec::new(), start: 0 }
    }

    /// Gives the templates that hashes of types 30 and 32 refer to.
    #[must_use]
    pub fn with_templates(mut self, templates: Templates) -> Self {
        self.machine.set_templates(templates);
        self
    }

    /// Says where in its file the value starts, for the offsets in errors.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.machine.set_offset(offset);
        self
    }

    /// Copies in the next bytes of the value.
    pub fn feed(&mut self, part: &[u8]) {
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        } else if self.start > self.buf.len() / 2 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        self.buf.extend_from_slice(part);
    }

    /// The next element, or `None` when more bytes are needed or the value is complete.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Element<'_>>, Error> {
        let from = self.start;
        let mut used = 0;
        let found = self.machine.advance(&self.buf[from..], &mut used)?;
        self.start = from + used;
        Ok(found.map(|found| self.machine.element(found, &self.buf[from..])))
    }

    /// Whether the value is complete.
    pub fn is_finished(&self) -> bool {
        self.machine.is_done()
    }

    /// To be called when all parts were fed and all elements taken.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when the value is not complete, [`Error::Corrupt`] when bytes are left over.
    pub fn finish(&self) -> Result<(), Error> {
        self.machine.finish(self.buf.len() - self.start)
    }
}

/// The elements of a value that is there as a whole, from [`RawValue::elements`].
///
/// Not an [`Iterator`], since an element borrows from it until the next is asked for.
#[derive(Debug)]
pub struct Elements<'a> {
    machine: Machine,
    rest: &'a [u8],
}

impl Elements<'_> {
    /// Gives the templates that hashes of types 30 and 32 refer to.
    #[must_use]
    pub fn with_templates(mut self, templates: Templates) -> Self {
        self.machine.set_templates(templates);
        self
    }

    /// Where in its value it stands.
    pub(crate) fn offset(&self) -> u64 {
        self.machine.position()
    }

    /// The next element, or `None` after the last.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value; also when they end too early or
    /// some are left over.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Element<'_>>, Error> {
        let input = self.rest;
        let mut used = 0;
        let found = self.machine.advance(input, &mut used)?;
        self.rest = &input[used..];
        match found {
            Some(found) => Ok(Some(self.machine.element(found, input))),
            None => self.machine.finish(self.rest.len()).map(|()| None),
        }
    }
}

impl<'a> RawValue<'a> {
    /// The elements of this value, decoded as they are asked for.
    ///
    /// ```
    /// use keyferry_rdb::{Limits, RawValue, ValueType, elements::Element};
    ///
    /// let value = RawValue::new(ValueType::Set, b"\x02\x01a\xC0\x05");
    /// let mut elements = value.elements(&Limits::default());
    /// assert_eq!(elements.next()?, Some(Element::Member(b"a")));
    /// assert_eq!(elements.next()?, Some(Element::Member(b"5")));
    /// assert_eq!(elements.next()?, None);
    /// # Ok::<(), keyferry_rdb::Error>(())
    /// ```
    pub fn elements(self, limits: &Limits) -> Elements<'a> {
        Elements { machine: Machine::new(self.ty(), limits), rest: self.bytes() }
    }
}
