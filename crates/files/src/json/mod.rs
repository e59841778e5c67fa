//! Snapshots as JSON: every key with every element of its value.
//!
//! Each key becomes one object, on a line of its own:
//!
//! ```json
//! {"db":0,"key":"visits","type":"string","encoding":"string","expires_at":1900000000000,"value":"42","bytes":2}
//! ```
//!
//! | member | what it is |
//! |---|---|
//! | `db`, `key` | the database and the name |
//! | `type` | what `TYPE` says: `string`, `list`, `set`, `zset`, `hash`, `stream`, `array`, `module`, … |
//! | `encoding` | how it is serialized: [`ValueType::name`](keyferry_rdb::ValueType::name) |
//! | `expires_at` | milliseconds since the Unix epoch, for keys that expire |
//! | `idle`, `freq` | seconds since the last use or the logarithmic counter of uses, where the file tells |
//! | `meta` | data that modules attached to the key, hexadecimal |
//! | `value` | see below |
//! | `bytes` | length of the serialized value |
//!
//! | type | `value` |
//! |---|---|
//! | string | a string, numbers too |
//! | list, set | a list of strings |
//! | zset | an object of members and scores; infinite scores are `"inf"` and `"-inf"` |
//! | hash | an object of fields and strings; a field that expires has `{"value":…,"expires_at":…}` instead of the string |
//! | stream | `entries` (`id`, and `fields`: names and values in turn, since names may repeat), `length`, `last_id`, `first_id`, `max_deleted_id`, `entries_added`, `groups` (`name`, `last_id`, `entries_read`, `consumers` with `name`, `seen_time`, `active_time`, `pending`; `released`), `idempotency`; what the file does not hold is left out |
//! | array | `cursor`, `items`: pairs of index and string |
//! | rate limiter | a number |
//! | module and others | `{"raw":…}`, the serialized bytes, hexadecimal |
//!
//! Libraries of functions are objects `{"function":…}`, data that modules keep beside keys `{"module":…,"aux":…}` (hexadecimal). Other
//! records (auxiliary fields, hints at sizes) describe the file, not the data, and are left out.
//!
//! Strings are bytes in Redis and text in JSON: [`push_text`] has the rule by which every byte survives.

mod text;
mod value;

use std::io::Write;

use keyferry_rdb::elements::Element;
use keyferry_rdb::{EntryHead, Event, Eviction, Limits, RawValue};

use crate::error::Error;
use crate::input::Place;
use crate::values::{ValueReader, ValueSink};
pub use text::{bytes_of_text, push_text};
use value::ValueWriter;
pub(crate) use value::{named, string};

/// Bytes gathered before they are written.
const BUFFER: usize = 64 << 10;

/// How objects are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JsonForm {
    /// One object a line.
    #[default]
    Lines,
    /// One list of all.
    Array,
}

/// Writes a snapshot as JSON, event by event, in bounded memory: one element, or a chunk of a large string, at a time.
///
/// ```
/// use keyferry_files::json::{JsonForm, JsonWriter};
/// use keyferry_files::{Error, Found, Input, InputOptions};
///
/// let file = &b"REDIS0003\xFE\x00\x04\x01h\x01\x01f\x01v\xFF"[..];
/// let mut json = JsonWriter::new(Vec::new(), JsonForm::Lines);
/// Input::from_reader("example", file, InputOptions::default())?.read(|found, place| match found {
///     Found::Event(event) => json.event(&event, place),
///     _ => Ok(()),
/// })?;
/// assert_eq!(
///     String::from_utf8(json.finish()?).unwrap(),
///     "{\"db\":0,\"key\":\"h\",\"type\":\"hash\",\"encoding\":\"hash\",\"value\":{\"f\":\"v\"},\"bytes\":5}\n"
/// );
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct JsonWriter<W: Write> {
    reader: ValueReader,
    sink: Sink<W>,
}

#[derive(Debug)]
struct Sink<W> {
    out: W,
    buf: Vec<u8>,
    form: JsonForm,
    objects: u64,
    value: ValueWriter,
}

impl<W: Write> JsonWriter<W> {
    /// A writer with the default limits.
    pub fn new(out: W, form: JsonForm) -> Self {
        Self::with_limits(out, form, Limits::default())
    }

    /// A writer that holds no element beyond these limits.
    pub fn with_limits(out: W, form: JsonForm, limits: Limits) -> Self {
        Self {
            reader: ValueReader::new(limits),
            sink: Sink {
                out,
                buf: Vec::with_capacity(2 * BUFFER),
                form,
                objects: 0,
                value: ValueWriter::default(),
            },
        }
    }

    /// Writes what an event tells.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] with offset and key for a value that breaks its format, [`Error::Write`].
    #[inline]
    pub fn event(&mut self, event: &Event<'_>, place: Place<'_>) -> Result<(), Error> {
        match event {
            Event::Function { code } => self.sink.function(code),
            Event::FunctionPreGa(function) => self.sink.function(&function.to_code()),
            Event::ModuleAux(aux) => {
                self.sink.open(b"{\"module\":");
                string(&mut self.sink.buf, aux.module.to_string().as_bytes());
                hex(&mut self.sink.buf, b",\"aux\":\"", aux.record);
                self.sink.close()
            }
            event => self.reader.see(event, place, &mut self.sink),
        }
    }

    /// Ends the output, flushes it and gives it back.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn finish(mut self) -> Result<W, Error> {
        if self.sink.form == JsonForm::Array {
            let end: &[u8] = if self.sink.objects == 0 { b"[]\n" } else { b"\n]\n" };
            self.sink.buf.extend_from_slice(end);
        }
        self.sink.flush()?;
        self.sink.out.flush()?;
        Ok(self.sink.out)
    }
}

impl<W: Write> Sink<W> {
    fn function(&mut self, code: &[u8]) -> Result<(), Error> {
        self.open(b"{\"function\":");
        string(&mut self.buf, code);
        self.close()
    }

    #[inline]
    fn open(&mut self, start: &[u8]) {
        if self.form == JsonForm::Array {
            self.buf.extend_from_slice(if self.objects == 0 { b"[\n" } else { b",\n" });
        }
        self.objects += 1;
        self.buf.extend_from_slice(start);
    }

    /// Ends an object.
    #[inline]
    fn close(&mut self) -> Result<(), Error> {
        let end: &[u8] = if self.form == JsonForm::Array { b"}" } else { b"}\n" };
        self.buf.extend_from_slice(end);
        self.flush_full()
    }

    #[inline]
    fn flush_full(&mut self) -> Result<(), Error> {
        if self.buf.len() < BUFFER { Ok(()) } else { self.flush() }
    }

    #[inline(never)]
    fn flush(&mut self) -> Result<(), Error> {
        self.out.write_all(&self.buf)?;
        self.buf.clear();
        // One giant element must not cost its room for ever.
        self.buf.shrink_to(8 * BUFFER);
        Ok(())
    }
}

impl<W: Write> ValueSink for Sink<W> {
    #[inline]
    fn start(&mut self, head: &EntryHead<'_>, whole: Option<RawValue<'_>>) -> Result<bool, Error> {
        self.open(b"{\"db\":");
        let out = &mut self.buf;
        named(out, b"", head.db);
        out.extend_from_slice(b",\"key\":");
        string(out, head.key);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(head.ty.kind().name().as_bytes());
        out.extend_from_slice(b"\",\"encoding\":\"");
        out.extend_from_slice(head.ty.name().as_bytes());
        out.push(b'"');
        if let Some(at) = head.expiry {
            named(out, b",\"expires_at\":", at);
        }
        match head.eviction {
            Some(Eviction::Idle(seconds)) => named(out, b",\"idle\":", seconds),
            Some(Eviction::Freq(uses)) => named(out, b",\"freq\":", uses),
            _ => {}
        }
        if let Some(meta) = head.meta {
            hex(out, b",\"meta\":\"", meta);
        }
        out.extend_from_slice(b",\"value\":");
        if let Some(text) = whole.and_then(RawValue::plain_string) {
            string(out, &text);
            return Ok(false);
        }
        self.value.begin(head.ty, out);
        Ok(true)
    }

    #[inline]
    fn element(&mut self, element: &Element<'_>) -> Result<(), Error> {
        self.value.element(element, &mut self.buf);
        self.flush_full()
    }

    #[inline]
    fn end(&mut self, size: u64) -> Result<(), Error> {
        self.value.end(&mut self.buf);
        named(&mut self.buf, b",\"bytes\":", size);
        self.close()
    }
}

/// Appends bytes as hexadecimal digits, and the closing quote.
fn hex(out: &mut Vec<u8>, before: &[u8], bytes: &[u8]) {
    out.extend_from_slice(before);
    bytes.iter().for_each(|byte| text::push_hex(out, *byte));
    out.push(b'"');
}
