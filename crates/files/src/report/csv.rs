//! A line of comma-separated values for each key, with the memory that it takes in a server.

use std::io::Write;

use keyferry_rdb::elements::Element;
use keyferry_rdb::{EntryHead, Event, Limits, RawValue};

use super::units::time;
use crate::error::Error;
use crate::input::Place;
use crate::memory::MemoryEstimate;
use crate::sizes::ElementSizes;
use crate::text::line;
use crate::values::{OwnedHead, ValueReader, ValueSink};

/// Bytes gathered before they are written.
const BUFFER: usize = 64 << 10;

/// Writes `database,type,key,size_in_bytes,encoding,num_elements,len_largest_element,expiry` and one line of it for each key:
/// the columns that rdb-tools has made common.
///
/// `size_in_bytes` is what [`memory`](crate::memory) reckons; keys are escaped as in [`line`](crate::text::line); the expiry is a UTC
/// time, or empty.
#[derive(Debug)]
pub struct MemoryCsv<W: Write> {
    reader: ValueReader,
    sink: Sink<W>,
}

#[derive(Debug)]
struct Sink<W> {
    out: W,
    buf: Vec<u8>,
    version: u16,
    open: Option<(OwnedHead, MemoryEstimate)>,
    sizes: ElementSizes,
}

impl<W: Write> MemoryCsv<W> {
    /// A writer that holds no element beyond these limits.
    pub fn new(out: W, limits: Limits) -> Self {
        let header = "database,type,key,size_in_bytes,encoding,num_elements,len_largest_element,expiry\r\n";
        Self {
            reader: ValueReader::new(limits),
            sink: Sink { out, buf: header.into(), version: 0, open: None, sizes: ElementSizes::default() },
        }
    }

    /// Takes an event.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] with offset and key for a value that breaks its format, [`Error::Write`].
    #[inline]
    pub fn event(&mut self, event: &Event<'_>, place: Place<'_>) -> Result<(), Error> {
        if let Event::Header(header) = event {
            self.sink.version = header.version;
        }
        self.reader.see(event, place, &mut self.sink)
    }

    /// Ends the output, flushes it and gives it back.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn finish(mut self) -> Result<W, Error> {
        self.sink.flush()?;
        self.sink.out.flush()?;
        Ok(self.sink.out)
    }
}

impl<W: Write> Sink<W> {
    fn flush(&mut self) -> Result<(), Error> {
        self.out.write_all(&self.buf)?;
        self.buf.clear();
        Ok(())
    }
}

impl<W: Write> ValueSink for Sink<W> {
    fn start(&mut self, head: &EntryHead<'_>, whole: Option<RawValue<'_>>) -> Result<bool, Error> {
        self.open = Some((OwnedHead::new(head, whole.is_some()), MemoryEstimate::new(head, self.version)));
        self.sizes = ElementSizes::default();
        Ok(true)
    }

    fn element(&mut self, element: &Element<'_>) -> Result<(), Error> {
        self.sizes.add(element);
        if let Some((_, estimate)) = &mut self.open {
            estimate.add(element);
        }
        Ok(())
    }

    fn end(&mut self, _: u64) -> Result<(), Error> {
        let Some((head, estimate)) = self.open.take() else { return Ok(()) };
        let head = head.head();
        write!(self.buf, "{},{},", head.db, head.ty.kind().name())?;
        push_field(&mut self.buf, &line(head.key));
        write!(
            self.buf,
            ",{},{},{},{},{}\r\n",
            estimate.bytes(),
            head.ty.name(),
            self.sizes.count,
            self.sizes.largest,
            head.expiry.map(time).unwrap_or_default()
        )?;
        if self.buf.len() < BUFFER { Ok(()) } else { self.flush() }
    }
}

/// Appends a field, in quotes where RFC 4180 demands them.
fn push_field(out: &mut Vec<u8>, text: &str) {
    if !text.contains([',', '"', '\r', '\n']) {
        return out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}
