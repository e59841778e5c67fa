//! Writing RDB files.

use std::io::Write;

use crate::crc::Crc64;
use crate::encode::{Encoded, Encoder};
use crate::error::{Error, Quoted};
use crate::event::{EntryHead, Eviction, HashTemplate, RawValue};
use crate::native::Loss;
use crate::target::TargetFormat;
use crate::types::{Dialect, ValueType};
use crate::value::Value;
use crate::wire::put_len;

/// Writes one RDB file to anything that takes bytes.
///
/// It buffers what it writes, in pieces of 64 KiB. Nothing is complete before [`finish`](Self::finish): a writer that is
/// dropped without it leaves a file that every reader finds cut short.
///
/// ```
/// use keyferry_rdb::{EntryHead, Limits, Parser, Event, RdbWriter, TargetFormat, Value, ValueType};
///
/// let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(7, 0))?;
/// writer.aux(b"redis-ver", b"7.0.0")?;
/// let head = EntryHead::new(0, b"greeting", ValueType::String).with_expiry(Some(1_900_000_000_000));
/// writer.value(&head, &Value::String(b"hello".to_vec()))?;
/// let file = writer.finish()?;
///
/// let mut parser = Parser::new();
/// parser.feed(&file);
/// while let Some(event) = parser.next_event()? {
///     if let Event::Entry(entry) = event {
///         assert_eq!(entry.head, head);
///         assert_eq!(entry.value.to_value(&Limits::default())?, Value::String(b"hello".to_vec()));
///     }
/// }
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
#[derive(Debug)]
pub struct RdbWriter<W: Write> {
    out: W,
    encoder: Encoder,
    crc: Crc64,
    buf: Vec<u8>,
    /// A value that may yet turn out not to be writable.
    value: Vec<u8>,
    db: Option<u64>,
    written: u64,
}

const BUFFER: usize = 64 << 10;

mod opcode {
    pub(super) const HASH_TEMPLATE: u8 = 242;
    pub(super) const KEY_META: u8 = 243;
    pub(super) const FUNCTION: u8 = 245;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQ: u8 = 249;
    pub(super) const AUX: u8 = 250;
    pub(super) const RESIZE_DB: u8 = 251;
    pub(super) const EXPIRY_MS: u8 = 252;
    pub(super) const SELECT_DB: u8 = 254;
    pub(super) const EOF: u8 = 255;
}

impl<W: Write> RdbWriter<W> {
    /// Begins a file for `target` with the magic and version.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], as from all that writes.
    pub fn new(out: W, target: TargetFormat) -> Result<Self, Error> {
        let mut writer = Self {
            out,
            encoder: Encoder::new(target),
            crc: Crc64::new(),
            buf: Vec::with_capacity(BUFFER),
            value: Vec::new(),
            db: None,
            written: 0,
        };
        let version = target.version();
        let magic = match target.dialect() {
            Dialect::Redis => format!("REDIS{version:04}"),
            Dialect::Valkey => format!("VALKEY{version:03}"),
        };
        writer.buf.extend_from_slice(magic.as_bytes());
        writer.flush_full()?;
        Ok(writer)
    }

    /// What it writes for.
    pub const fn target(&self) -> &TargetFormat {
        self.encoder.target()
    }

    /// Bytes written so far, those that are buffered included.
    pub fn position(&self) -> u64 {
        self.written + self.buf.len() as u64
    }

    /// Writes an auxiliary field, such as `redis-ver`; nothing for targets before Redis 3.2, which know none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        if self.target().version() >= 7 {
            self.buf.push(opcode::AUX);
            self.encoder.string(name, &mut self.buf);
            self.encoder.string(value, &mut self.buf);
        }
        self.flush_full()
    }

    /// Says that the keys that follow are in this database. Keys do that by themselves; this is for hints that come
    /// before them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn select_db(&mut self, db: u64) -> Result<(), Error> {
        if self.db != Some(db) {
            self.buf.push(opcode::SELECT_DB);
            put_len(&mut self.buf, db);
            self.db = Some(db);
        }
        self.flush_full()
    }

    /// Writes a hint at the number of keys, and of keys with an expiry, of the current database; nothing for targets
    /// before Redis 3.2.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn resize_db(&mut self, keys: u64, expires: u64) -> Result<(), Error> {
        if self.target().version() >= 7 {
            self.buf.push(opcode::RESIZE_DB);
            put_len(&mut self.buf, keys);
            put_len(&mut self.buf, expires);
        }
        self.flush_full()
    }

    /// Writes a library of functions: its source with the `#!engine name=library` line.
    ///
    /// # Errors
    ///
    /// [`Error::NotAccepted`] before Redis 7.0; [`Error::Io`].
    pub fn function(&mut self, code: &[u8]) -> Result<(), Error> {
        if !self.target().functions() {
            return Err(self.refused("a library of functions", b""));
        }
        self.buf.push(opcode::FUNCTION);
        self.encoder.string(code, &mut self.buf);
        self.flush_full()
    }

    /// Writes data of a module that belongs to no key, as in [`ModuleAux::record`](crate::ModuleAux::record).
    ///
    /// # Errors
    ///
    /// [`Error::NotAccepted`] before Redis 5.0; [`Error::Io`].
    pub fn module_aux(&mut self, record: &[u8]) -> Result<(), Error> {
        if self.target().version() < 9 {
            return Err(self.refused("auxiliary data of a module", b""));
        }
        self.put(record)
    }

    /// Writes a list of field names that hashes of types 30 and 32 refer to. Numbers must not repeat.
    ///
    /// # Errors
    ///
    /// [`Error::NotAccepted`] before Redis 8.10; [`Error::Io`].
    pub fn hash_template(&mut self, template: &HashTemplate<'_>) -> Result<(), Error> {
        if !self.target().accepts(ValueType::HashTemplateArrayRef) {
            return Err(self.refused("a hash template", b""));
        }
        self.buf.push(opcode::HASH_TEMPLATE);
        put_len(&mut self.buf, template.id);
        put_len(&mut self.buf, template.len);
        self.put(template.fields)
    }

    /// Writes a key with its serialized value as it is, in the database that `head` names.
    ///
    /// # Errors
    ///
    /// [`Error::NotAccepted`] when the target does not know the type or keeps no key metadata, before anything of the key is
    /// written; [`Error::Io`].
    pub fn raw(&mut self, head: &EntryHead<'_>, value: RawValue<'_>) -> Result<(), Error> {
        self.start(head, value.ty())?;
        self.put(value.bytes())
    }

    /// Encodes a value for the target and writes it under the key of `head`, whose type does not count. What the target
    /// has no place for is told in the result; when its type is `None`, nothing was written.
    ///
    /// # Errors
    ///
    /// Those of [`Encoder::encode`], with nothing written; [`Error::Io`].
    pub fn value(&mut self, head: &EntryHead<'_>, value: &Value) -> Result<Encoded, Error> {
        let mut bytes = std::mem::take(&mut self.value);
        bytes.clear();
        let written = self.encode_value(head, value, &mut bytes);
        self.value = bytes;
        written
    }

    fn encode_value(
        &mut self,
        head: &EntryHead<'_>,
        value: &Value,
        bytes: &mut Vec<u8>,
    ) -> Result<Encoded, Error> {
        let mut encoded = self.encoder.encode(value, bytes).map_err(|error| error.with_key(head.key))?;
        let Some(ty) = encoded.ty else { return Ok(encoded) };
        let mut head = *head;
        if head.meta.is_some() && !self.target().key_metadata() {
            head.meta = None;
            encoded.losses.push(Loss::KeyMetadata);
        }
        self.raw(&head, RawValue::new(ty, bytes))?;
        Ok(encoded)
    }

    /// Writes a key whose value comes in parts, as with [`Event::ValueStart`](crate::Event::ValueStart). Its parts
    /// follow by [`value_part`](Self::value_part), and nothing else before they are complete.
    ///
    /// # Errors
    ///
    /// As [`raw`](Self::raw).
    pub fn value_start(&mut self, head: &EntryHead<'_>) -> Result<(), Error> {
        self.start(head, head.ty)
    }

    /// Writes the next bytes of that value.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn value_part(&mut self, part: &[u8]) -> Result<(), Error> {
        self.put(part)
    }

    /// Ends the file with its checksum, flushes, and gives back what it was written to.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<W, Error> {
        self.buf.push(opcode::EOF);
        self.flush()?;
        self.buf.extend_from_slice(&self.crc.value().to_le_bytes());
        self.flush()?;
        self.out.flush().map_err(|error| Error::io("flushing an RDB file", &error))?;
        Ok(self.out)
    }

    /// Writes all that comes before a value.
    fn start(&mut self, head: &EntryHead<'_>, ty: ValueType) -> Result<(), Error> {
        if !self.target().accepts(ty) {
            return Err(self.refused(ty.name(), head.key));
        }
        if head.meta.is_some() && !self.target().key_metadata() {
            return Err(self.refused("key metadata", head.key));
        }
        self.select_db(head.db)?;
        if let Some(at) = head.expiry {
            self.buf.push(opcode::EXPIRY_MS);
            self.buf.extend_from_slice(&at.to_le_bytes());
        }
        // Before Redis 5.0 there was no place for notes on use; they are hints.
        match head.eviction.filter(|_| self.target().version() >= 9) {
            Some(Eviction::Idle(seconds)) => {
                self.buf.push(opcode::IDLE);
                put_len(&mut self.buf, seconds);
            }
            Some(Eviction::Freq(freq)) => self.buf.extend_from_slice(&[opcode::FREQ, freq]),
            None => {}
        }
        if let Some(meta) = head.meta {
            self.buf.push(opcode::KEY_META);
            self.buf.extend_from_slice(meta);
        }
        self.buf.push(ty.byte());
        self.encoder.string(head.key, &mut self.buf);
        self.flush_full()
    }

    fn refused(&self, what: &'static str, key: &[u8]) -> Error {
        Error::NotAccepted {
            what,
            version: self.target().version(),
            key: (!key.is_empty()).then(|| Quoted::new(key)),
        }
    }

    /// Writes bytes that are there already, without a copy where they are many.
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() < BUFFER {
            self.buf.extend_from_slice(bytes);
            return self.flush_full();
        }
        self.flush()?;
        self.crc.update(bytes);
        self.written += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|error| Error::io("writing an RDB file", &error))
    }

    fn flush_full(&mut self) -> Result<(), Error> {
        if self.buf.len() < BUFFER { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.crc.update(&self.buf);
        self.written += self.buf.len() as u64;
        let written = self.out.write_all(&self.buf);
        self.buf.clear();
        written.map_err(|error| Error::io("writing an RDB file", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Checksum, Event};
    use crate::parser::Parser;

    #[test]
    fn all_records_read_back() {
        let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(7, 2)).unwrap();
        writer.aux(b"ctime", b"1700000000").unwrap();
        writer.function(b"#!lua name=a\n").unwrap();
        writer.select_db(3).unwrap();
        writer.resize_db(2, 1).unwrap();
        let head = EntryHead::new(3, b"12", ValueType::String)
            .with_expiry(Some(-5))
            .with_eviction(Some(Eviction::Idle(77)));
        writer.raw(&head, RawValue::new(ValueType::String, b"\x01x")).unwrap();
        let large = vec![b'y'; 200_000];
        let list = EntryHead::new(4, b"large", ValueType::List);
        writer.value_start(&list).unwrap();
        writer.value_part(b"\x01\x80\x00\x03\x0D\x40").unwrap();
        writer.value_part(&large).unwrap();
        let position = writer.position();
        let file = writer.finish().unwrap();
        assert_eq!(file.len() as u64, position + 9);

        let limits = crate::Limits { value_part: usize::MAX, ..crate::Limits::default() };
        let mut parser = Parser::with_limits(limits);
        parser.feed(&file);
        let mut seen = Vec::new();
        while let Some(event) = parser.next_event().unwrap() {
            seen.push(match event {
                Event::Entry(entry) if entry.head.db == 3 => {
                    assert_eq!(entry.head, head);
                    "string".to_owned()
                }
                Event::Entry(entry) => {
                    assert_eq!(entry.head, list);
                    entry.value.bytes().len().to_string()
                }
                Event::End { checksum } => {
                    assert_eq!(checksum, Checksum::Verified);
                    "end".to_owned()
                }
                Event::Aux { name, value } => format!("{}={}", name.escape_ascii(), value.escape_ascii()),
                other => format!("{other:?}").split([' ', '(']).next().unwrap().to_owned(),
            });
        }
        assert_eq!(
            seen,
            [
                "Header",
                "ctime=1700000000",
                "Function",
                "SelectDb",
                "ResizeDb",
                "string",
                "SelectDb",
                "200006",
                "end"
            ]
        );
    }

    #[test]
    fn templates_and_module_data_are_copied() {
        let template = HashTemplate { id: 70_000, len: 2, fields: b"\x01a\x01b" };
        let aux = b"\xF7\x05\x02\x01\x02\x07\x00";
        let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(8, 10)).unwrap();
        writer.module_aux(aux).unwrap();
        writer.hash_template(&template).unwrap();
        let head = EntryHead::new(0, b"h", ValueType::HashTemplateArrayRef).with_meta(Some(b"\0"));
        let bytes = b"\x80\x00\x01\x11\x70\x01x\x01y";
        writer.raw(&head, RawValue::new(head.ty, bytes)).unwrap();
        let file = writer.finish().unwrap();
        let mut parser = Parser::new();
        parser.feed(&file);
        let mut seen = 0;
        while let Some(event) = parser.next_event().unwrap() {
            match event {
                Event::ModuleAux(found) => assert_eq!(found.record, aux),
                Event::HashTemplate(found) => assert_eq!(found, template),
                Event::Entry(found) => assert_eq!((found.head, found.value.bytes()), (head, &bytes[..])),
                _ => continue,
            }
            seen += 1;
        }
        assert_eq!(seen, 3);
        let mut older = RdbWriter::new(Vec::new(), TargetFormat::redis(4, 0)).unwrap();
        assert!(older.hash_template(&template).is_err() && older.module_aux(aux).is_err());
    }

    #[test]
    fn what_the_target_does_not_know_is_refused() {
        let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(6, 2)).unwrap();
        let head = EntryHead::new(0, b"k", ValueType::SetListpack);
        let error = writer.raw(&head, RawValue::new(ValueType::SetListpack, b"")).unwrap_err();
        assert!(matches!(error, Error::NotAccepted { what: "set-listpack", version: 9, .. }), "{error}");
        assert!(writer.function(b"#!lua name=a\n").is_err());
        assert!(writer.raw(&head.with_meta(Some(b"\0")), RawValue::new(ValueType::String, b"\0")).is_err());
        // Nothing of it was written.
        assert_eq!(writer.position(), 9);
    }

    #[test]
    fn errors_of_the_output_are_told() {
        #[derive(Debug)]
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::Error::new(std::io::ErrorKind::StorageFull, "no space"))
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let error = RdbWriter::new(Full, TargetFormat::valkey(9, 0)).unwrap().finish().unwrap_err();
        assert!(matches!(error, Error::Io { kind: std::io::ErrorKind::StorageFull, .. }), "{error}");
    }
}
