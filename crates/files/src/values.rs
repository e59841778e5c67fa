//! The elements of values, whether these come whole or in parts.

use keyferry_rdb::elements::{Element, ElementDecoder, ElementReader, Templates};
use keyferry_rdb::{EntryHead, Event, Limits, RawValue};

use crate::error::Error;
use crate::input::Place;

/// What takes the values that a [`ValueReader`] takes apart.
pub trait ValueSink {
    /// A key comes. `whole` is its serialized value where that is at hand; a large one comes in parts.
    ///
    /// Tells whether the elements are wanted.
    ///
    /// # Errors
    ///
    /// Any of its own, which ends the reading.
    fn start(&mut self, head: &EntryHead<'_>, whole: Option<RawValue<'_>>) -> Result<bool, Error>;

    /// An element of the value.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    fn element(&mut self, element: &Element<'_>) -> Result<(), Error>;

    /// The value is complete; `size` is its length in bytes, serialized.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    fn end(&mut self, size: u64) -> Result<(), Error>;
}

/// A key and what is known of it, kept while its value passes by.
#[derive(Clone, Debug)]
pub(crate) struct OwnedHead {
    key: Vec<u8>,
    meta: Option<Vec<u8>>,
    rest: EntryHead<'static>,
    whole: bool,
}

impl OwnedHead {
    pub(crate) fn new(head: &EntryHead<'_>, whole: bool) -> Self {
        Self {
            key: head.key.to_vec(),
            meta: head.meta.map(<[u8]>::to_vec),
            rest: EntryHead::new(head.db, b"", head.ty).with_expiry(head.expiry).with_eviction(head.eviction),
            whole,
        }
    }

    pub(crate) fn head(&self) -> EntryHead<'_> {
        EntryHead::new(self.rest.db, &self.key, self.rest.ty)
            .with_expiry(self.rest.expiry)
            .with_eviction(self.rest.eviction)
            .with_meta(self.meta.as_deref())
    }

    /// Whether the value came as a whole.
    pub(crate) fn was_whole(&self) -> bool {
        self.whole
    }
}

/// Takes the values of a snapshot apart, event by event, in bounded memory.
#[derive(Debug)]
pub struct ValueReader {
    limits: Limits,
    templates: Templates,
    /// For values that come whole, one after the other.
    whole: ElementReader,
    /// The large value under way.
    large: Option<Box<Large>>,
}

#[derive(Debug)]
struct Large {
    /// `None` when its elements are not wanted.
    decoder: Option<ElementDecoder>,
    key: Vec<u8>,
    size: u64,
}

/// Why elements were not read to their end.
enum Stop {
    Format(keyferry_rdb::Error),
    Sink(Error),
}

impl From<keyferry_rdb::Error> for Stop {
    fn from(error: keyferry_rdb::Error) -> Self {
        Self::Format(error)
    }
}

impl Stop {
    #[cold]
    fn into_error(self, place: Place<'_>, key: &[u8]) -> Error {
        match self {
            Self::Format(error) => place.error(error.with_key(key)),
            Self::Sink(error) => error,
        }
    }
}

impl Default for ValueReader {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl ValueReader {
    /// A reader with these limits.
    pub fn new(limits: Limits) -> Self {
        let templates = Templates::new();
        let whole = ElementReader::new(&limits).with_templates(templates.clone());
        Self { limits, templates, whole, large: None }
    }

    /// Takes an event. Ones that are neither keys nor parts of values reach no sink; hash templates are remembered for the
    /// hashes that refer to them.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] with offset and key for a value that breaks its format; those of the sink.
    #[inline]
    pub fn see(
        &mut self,
        event: &Event<'_>,
        place: Place<'_>,
        sink: &mut impl ValueSink,
    ) -> Result<(), Error> {
        match event {
            Event::Entry(entry) => self.whole(&entry.head, entry.value, place, sink),
            Event::ValueStart(head) => {
                let decoder = sink.start(head, None)?.then(|| {
                    ElementDecoder::new(head.ty, &self.limits)
                        .at_offset(place.offset)
                        .with_templates(self.templates.clone())
                });
                self.large = Some(Box::new(Large { decoder, key: head.key.to_vec(), size: 0 }));
                Ok(())
            }
            Event::ValuePart(part) => match &mut self.large {
                Some(large) => large.part(part, place, sink),
                None => Ok(()),
            },
            Event::ValueEnd => match self.large.take() {
                Some(large) => large.end(place, sink),
                None => Ok(()),
            },
            Event::HashTemplate(template) => {
                self.templates.learn(template).map_err(|error| place.error(error))
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn whole(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        place: Place<'_>,
        sink: &mut impl ValueSink,
    ) -> Result<(), Error> {
        if sink.start(head, Some(value))? {
            self.whole
                .read(value)
                .at_offset(place.offset)
                .for_each(|element| sink.element(&element).map_err(Stop::Sink))
                .map_err(|stop| stop.into_error(place, head.key))?;
        }
        sink.end(value.bytes().len() as u64)
    }
}

impl Large {
    fn part(&mut self, part: &[u8], place: Place<'_>, sink: &mut impl ValueSink) -> Result<(), Error> {
        self.size += part.len() as u64;
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        decoder.feed(part);
        decoder
            .for_each(|element| sink.element(&element).map_err(Stop::Sink))
            .map_err(|stop| stop.into_error(place, &self.key))
    }

    fn end(self, place: Place<'_>, sink: &mut impl ValueSink) -> Result<(), Error> {
        if let Some(decoder) = &self.decoder {
            decoder.finish().map_err(|error| place.error(error.with_key(&self.key)))?;
        }
        sink.end(self.size)
    }
}
