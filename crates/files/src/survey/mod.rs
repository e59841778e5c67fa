//! What a snapshot holds: totals, the largest keys, prefixes, expiries. One pass, bounded memory.

mod big_keys;
mod expiries;
mod prefixes;
mod summary;

use keyferry_rdb::elements::Element;
use keyferry_rdb::{EntryHead, Event, Kind, Limits, RawValue};
use serde::{Serialize, Serializer};

use crate::error::Error;
use crate::input::Place;
use crate::sizes::ElementSizes;
use crate::text::line;
use crate::values::{OwnedHead, ValueReader, ValueSink};
pub use big_keys::{BigKey, BigKeys};
pub use expiries::{Expiries, ExpirySpan};
pub use prefixes::{Prefix, PrefixOptions, Prefixes};
pub use summary::{Field, Records, Summary, Totals};

/// What to look for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SurveyOptions {
    /// How many of the largest keys to list. Their elements are counted, which takes the time to decode those that get into
    /// the list. Default 0.
    pub big_keys: usize,
    /// Whether, and how, to take names apart.
    pub prefixes: Option<PrefixOptions>,
    /// Bounds on what is held of one value while its elements are counted.
    pub limits: Limits,
}

/// Looks at a snapshot, event by event.
///
/// ```
/// use keyferry_files::survey::{Survey, SurveyOptions};
/// use keyferry_files::{Error, Found, Input, InputOptions};
///
/// let file = &b"REDIS0003\xFE\x00\x00\x01a\x05hello\x01\x01b\x02\x01x\x01y\xFF"[..];
/// let mut survey = Survey::new(SurveyOptions::default());
/// Input::from_reader("example", file, InputOptions::default())?.read(|found, place| match found {
///     Found::Event(event) => survey.event(&event, place),
///     _ => Ok(()),
/// })?;
/// assert_eq!(survey.summary().totals().keys, 2);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Survey {
    reader: ValueReader,
    sink: Sink,
}

#[derive(Debug)]
struct Sink {
    summary: Summary,
    big_keys: BigKeys,
    prefixes: Option<Prefixes>,
    /// The key under way, when it is not done with at its start.
    open: Option<OwnedHead>,
    sizes: ElementSizes,
}

impl Survey {
    /// A survey of nothing yet.
    pub fn new(options: SurveyOptions) -> Self {
        Self {
            reader: ValueReader::new(options.limits),
            sink: Sink {
                summary: Summary::default(),
                big_keys: BigKeys::new(options.big_keys),
                prefixes: options.prefixes.map(Prefixes::new),
                open: None,
                sizes: ElementSizes::default(),
            },
        }
    }

    /// Takes an event.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] with offset and key for a large value that breaks its format. Values whose elements are not counted
    /// are not looked into.
    #[inline]
    pub fn event(&mut self, event: &Event<'_>, place: Place<'_>) -> Result<(), Error> {
        match event {
            Event::Entry(_) | Event::ValueStart(_) | Event::ValuePart(_) | Event::ValueEnd => {}
            event => self.sink.summary.record(event),
        }
        self.reader.see(event, place, &mut self.sink)
    }

    /// Totals.
    pub fn summary(&self) -> &Summary {
        &self.sink.summary
    }

    /// The largest keys, largest first.
    pub fn big_keys(&self) -> Vec<BigKey> {
        self.sink.big_keys.list()
    }

    /// The prefixes, if they were asked for.
    pub fn prefixes(&self) -> Option<&Prefixes> {
        self.sink.prefixes.as_ref()
    }
}

impl Sink {
    #[inline]
    fn count(&mut self, head: &EntryHead<'_>, bytes: u64, empty: bool) {
        self.summary.key(head, bytes, empty);
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.key(head.key, bytes);
        }
    }
}

impl ValueSink for Sink {
    #[inline]
    fn start(&mut self, head: &EntryHead<'_>, whole: Option<RawValue<'_>>) -> Result<bool, Error> {
        let wanted = match whole {
            Some(value) => {
                let bytes = head.key.len() as u64 + value.bytes().len() as u64;
                // Nothing that is empty is longer than this, in any encoding.
                let empty = value.bytes().len() < 64 && value.is_empty_container();
                self.count(head, bytes, empty);
                self.big_keys.wants(bytes)
            }
            None => self.big_keys.wants(u64::MAX),
        };
        if wanted || whole.is_none() {
            self.sizes = ElementSizes::default();
            self.open = Some(OwnedHead::new(head, whole.is_some()));
        }
        Ok(wanted)
    }

    #[inline]
    fn element(&mut self, element: &Element<'_>) -> Result<(), Error> {
        self.sizes.add(element);
        Ok(())
    }

    #[inline]
    fn end(&mut self, size: u64) -> Result<(), Error> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let head = open.head();
        let bytes = head.key.len() as u64 + size;
        if !open.was_whole() {
            self.count(&head, bytes, false);
        }
        if self.big_keys.wants(bytes) {
            let elements = match head.ty.kind() {
                Kind::String => self.sizes.bytes,
                _ => self.sizes.count,
            };
            self.big_keys.add(&head, bytes, elements, self.sizes.largest);
        }
        Ok(())
    }
}

/// Serializes bytes as [`line`](crate::text::line) writes them.
fn as_line<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    line(bytes).serialize(serializer)
}
