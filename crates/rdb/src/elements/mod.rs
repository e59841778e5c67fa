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
}

impl ElementDecoder {
    /// A decoder for one value of type `ty`.
    pub fn new(ty: ValueType, limits: &Limits) -> Self {
        Self { machine: Machine::new(ty, limits), buf: Vec::new() }
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
        let unneeded = self.machine.unneeded();
        if unneeded > self.buf.len() / 2 {
            self.buf.drain(..unneeded);
            self.machine.forget(unneeded);
        }
        self.buf.extend_from_slice(part);
    }

    /// The next element, or `None` when more bytes are needed or the value is complete.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value.
    #[inline]
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Element<'_>>, Error> {
        self.machine.next(&self.buf)
    }

    /// Calls `visit` with each element that the bytes fed so far hold and that was not taken yet. Quicker than asking for
    /// the [`next`](Self::next) of many.
    ///
    /// # Errors
    ///
    /// Those of [`next`](Self::next), and those of `visit`.
    #[inline]
    pub fn for_each<E: From<Error>>(
        &mut self,
        visit: impl FnMut(Element<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.machine.each(&self.buf, visit)
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
        self.machine.finish(self.buf.len() - self.machine.consumed())
    }
}

/// The elements of a value that is there as a whole, from [`RawValue::elements`] or [`ElementReader::read`].
///
/// Not an [`Iterator`], since an element may borrow from it until the next is asked for: numbers and compressed strings
/// are decoded into it. Everything else is lent from the value itself.
#[derive(Debug)]
pub struct Elements<'a> {
    machine: Held<'a>,
    value: &'a [u8],
}

/// A machine, its own or lent.
#[derive(Debug)]
enum Held<'a> {
    Own(Box<Machine>),
    Lent(&'a mut Machine),
}

impl Held<'_> {
    #[inline]
    fn get(&mut self) -> &mut Machine {
        match self {
            Self::Own(machine) => machine,
            Self::Lent(machine) => machine,
        }
    }
}

impl Elements<'_> {
    /// Gives the templates that hashes of types 30 and 32 refer to.
    #[must_use]
    pub fn with_templates(mut self, templates: Templates) -> Self {
        self.machine.get().set_templates(templates);
        self
    }

    /// Says where in its file the value starts, for the offsets in errors.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.machine.get().set_offset(offset);
        self
    }

    /// Where in its value it stands.
    pub(crate) fn offset(&mut self) -> u64 {
        self.machine.get().position()
    }

    /// The next element, or `None` after the last.
    ///
    /// # Errors
    ///
    /// Whatever rule of the format the bytes break, with the offset in the value; also when they end too early or
    /// some are left over.
    #[inline]
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Element<'_>>, Error> {
        self.machine.get().next_of_whole(self.value)
    }

    /// Calls `visit` with each element that is left. Quicker than asking for the [`next`](Self::next) of many.
    ///
    /// ```
    /// use keyferry_rdb::elements::Element;
    /// use keyferry_rdb::{Error, Limits, RawValue, ValueType};
    ///
    /// let mut sum = 0;
    /// let value = RawValue::new(ValueType::Set, b"\x02\x01a\xC0\x05");
    /// value.elements(&Limits::default()).for_each(|element| {
    ///     if let Element::Member(member) = element {
    ///         sum += member.len();
    ///     }
    ///     Ok::<(), Error>(())
    /// })?;
    /// assert_eq!(sum, 2);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`next`](Self::next), and those of `visit`.
    #[inline]
    pub fn for_each<E: From<Error>>(
        mut self,
        visit: impl FnMut(Element<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let machine = self.machine.get();
        machine.each(self.value, visit)?;
        Ok(machine.finish(self.value.len() - machine.consumed())?)
    }
}

/// Reads whole values one after the other with the same memory. For millions of small values this is quicker than
/// [`RawValue::elements`], which starts anew for each.
///
/// ```
/// use keyferry_rdb::elements::{Element, ElementReader};
/// use keyferry_rdb::{Limits, RawValue, ValueType};
///
/// let mut reader = ElementReader::new(&Limits::default());
/// let mut members = 0;
/// for bytes in [&b"\x02\x01a\xC0\x05"[..], b"\x01\x01b"] {
///     let mut elements = reader.read(RawValue::new(ValueType::Set, bytes));
///     while let Some(element) = elements.next()? {
///         members += u64::from(matches!(element, Element::Member(_)));
///     }
/// }
/// assert_eq!(members, 3);
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Debug)]
pub struct ElementReader {
    machine: Machine,
}

impl ElementReader {
    /// A reader that keeps to these limits.
    pub fn new(limits: &Limits) -> Self {
        Self { machine: Machine::new(ValueType::String, limits) }
    }

    /// Gives the templates that hashes of types 30 and 32 refer to.
    #[must_use]
    pub fn with_templates(mut self, templates: Templates) -> Self {
        self.machine.set_templates(templates);
        self
    }

    /// The elements of `value`, decoded as they are asked for.
    pub fn read<'a>(&'a mut self, value: RawValue<'a>) -> Elements<'a> {
        self.machine.restart(value.ty());
        Elements { machine: Held::Lent(&mut self.machine), value: value.bytes() }
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
        Elements { machine: Held::Own(Box::new(Machine::new(self.ty(), limits))), value: self.bytes() }
    }
}
