//! Logs of commands.

use std::io::Write;

use bytes::BytesMut;
use keyferry_rdb::aof::{AofCommand, append_command};
use keyferry_rdb::convert::{Converted, Converter, Loss, Way};
use keyferry_rdb::elements::{Element, Templates};
use keyferry_rdb::native::{CommandSink, NativeOptions, Rebuild};
use keyferry_rdb::{Crc64, Dialect, EntryHead, Kind, ModuleAux, RawValue, ValueType, dump};

use super::rdb::in_key;
use super::{Complete, Destination, Fault, Form, OwnedHead, Sink, Spool, Values, encode};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 << 10;
/// Servers take strings of 512 MiB at most, and a payload is one.
const MAX_PAYLOAD: u64 = (512 << 20) - (64 << 10);

pub(super) struct LogSink {
    out: Out,
    values: Values,
    converter: Converter,
    native: NativeOptions,
    dialect: Dialect,
    annotations: bool,
    /// Of the output; none before the first command, so that it starts with `SELECT`.
    db: Option<u64>,
    large: Large,
}

/// The value that comes in parts.
enum Large {
    None,
    Lost(Loss),
    /// It becomes commands as it comes.
    Rebuild(OwnedHead, Box<Rebuild>),
    /// It becomes one payload when it is complete.
    Spooled(OwnedHead, Spool),
}

/// Encoded commands on their way, and what they did not carry.
struct Out {
    destination: Destination,
    buf: Vec<u8>,
    written: u64,
    losses: Vec<Loss>,
}

impl Out {
    fn flush(&mut self) -> Result<(), Fault> {
        self.destination.write_all(&self.buf)?;
        self.written += self.buf.len() as u64;
        self.buf.clear();
        // One large value must not cost its room for ever.
        self.buf.shrink_to(4 * BUFFER);
        Ok(())
    }

    fn flush_full(&mut self) -> Result<(), Fault> {
        if self.buf.len() < BUFFER { Ok(()) } else { self.flush() }
    }
}

impl CommandSink for Out {
    fn command(&mut self, args: &[&[u8]]) {
        append_command(&mut self.buf, args);
    }

    fn loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }
}

impl LogSink {
    /// With `annotations`, those of the input are kept where the target knows them.
    pub(super) fn new(destination: Destination, values: Values, annotations: bool) -> Self {
        let mut sink = Self {
            out: Out { destination, buf: Vec::with_capacity(BUFFER), written: 0, losses: Vec::new() },
            converter: Converter::new(values.target),
            native: NativeOptions::default(),
            dialect: values.target.dialect(),
            // They came with Redis 7.0, as functions did.
            annotations: annotations && values.target.functions(),
            db: None,
            large: Large::None,
            values,
        };
        sink.native.features = Some(sink.values.target.features);
        sink.native.expired_before = sink.values.target.expired_before;
        sink.native.limits = sink.values.limits.clone();
        sink
    }

    fn select(&mut self, db: u64) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.out.command(&[b"SELECT", db.to_string().as_bytes()]);
        }
    }

    /// Whether commands build values of this kind exactly.
    fn is_exact(kind: Kind) -> bool {
        matches!(kind, Kind::String | Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash | Kind::Array)
    }

    /// Whether this is a sorted set with a score of -0: `ZADD` makes it 0 in the compact encoding of Redis 7.0 and later, which
    /// keeps whole numbers as integers. Sets that come in parts are too large for that encoding.
    fn loses_a_sign(&self, value: RawValue<'_>) -> Result<bool, Fault> {
        if value.ty().kind() != Kind::SortedSet || !self.values.target.functions() {
            return Ok(false);
        }
        let mut elements = value.elements(&self.values.limits);
        while let Some(element) = elements.next()? {
            if let Element::Scored { score, .. } = element
                && score.value().to_bits() == (-0.0f64).to_bits()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins to build a key by commands.
    fn rebuild(&mut self, head: &EntryHead<'_>) -> Rebuild {
        self.select(head.db);
        if head.ty.kind() != Kind::String {
            self.out.command(&[b"DEL", head.key]);
        }
        Rebuild::new(head.key, head.ty, self.dialect, &self.native)
    }

    /// What comes after a value, however it was written.
    fn seal(&mut self, head: &EntryHead<'_>, losses: &mut Vec<Loss>) -> Result<(), Fault> {
        if let Some(at) = head.expiry {
            self.out.command(&[b"PEXPIREAT", head.key, at.to_string().as_bytes()]);
        }
        losses.append(&mut self.out.losses);
        if head.meta.is_some() {
            losses.push(Loss::KeyMetadata);
        }
        self.out.flush_full()
    }

    /// Writes a value that is on disk as one `RESTORE`, without holding it.
    fn restore(&mut self, head: &EntryHead<'_>, ty: ValueType, value: &mut Spool) -> Result<(), Fault> {
        self.select(head.db);
        let buf = &mut self.out.buf;
        let payload = 1 + value.len() + 10;
        write!(buf, "*5\r\n$7\r\nRESTORE\r\n${}\r\n", head.key.len())?;
        buf.extend_from_slice(head.key);
        write!(buf, "\r\n$1\r\n0\r\n${payload}\r\n")?;
        let mut crc = Crc64::new();
        let mut put = |out: &mut Out, bytes: &[u8]| {
            crc.update(bytes);
            out.buf.extend_from_slice(bytes);
            out.flush_full()
        };
        put(&mut self.out, &[ty.byte()])?;
        value.each(|part| put(&mut self.out, part))?;
        put(&mut self.out, &dump::UNIVERSAL_VERSION.to_le_bytes())?;
        let crc = crc.value().to_le_bytes();
        self.out.buf.extend_from_slice(&crc);
        self.out.buf.extend_from_slice(b"\r\n$7\r\nREPLACE\r\n");
        Ok(())
    }

    /// A stream or a value of a module that was put on disk.
    fn spooled(
        &mut self,
        head: &EntryHead<'_>,
        mut spool: Spool,
        losses: &mut Vec<Loss>,
    ) -> Result<Option<Form>, Fault> {
        let (ty, mut value, form, lost) = if self.values.goes_raw(head.ty) {
            (head.ty, None, Form::Raw, Vec::new())
        } else {
            let plan = self.values.survey(head.ty, &mut spool)?;
            let lost = plan.losses().to_vec();
            let Some(ty) = plan.ty() else {
                losses.extend(lost);
                return Ok(None);
            };
            let mut encoded = self.values.spool();
            encode(plan, &mut spool, |bytes| Ok(encoded.put(bytes)?))?;
            (ty, Some(encoded), Form::Reencoded, lost)
        };
        let payload = value.as_mut().unwrap_or(&mut spool);
        let form = if payload.len() <= MAX_PAYLOAD {
            losses.extend(lost);
            self.restore(head, ty, payload)?;
            form
        } else if head.ty.kind() == Kind::Stream {
            // The rebuilding tells its own losses.
            let mut rebuild = self.rebuild(head);
            spool.each(|part| {
                rebuild.feed(part, &mut self.out)?;
                self.out.flush_full()
            })?;
            rebuild.finish(&mut self.out)?;
            Form::Commands
        } else {
            losses.push(Loss::NoNativeForm { ty: head.ty });
            return Ok(None);
        };
        self.seal(head, losses)?;
        Ok(Some(form))
    }
}

impl Sink for LogSink {
    fn begin_input(&mut self, dialect: Dialect, templates: &Templates) {
        self.dialect = dialect;
        self.values.templates = templates.clone();
        self.native.templates = templates.clone();
        self.converter = Converter::new(self.values.target)
            .with_limits(self.values.limits.clone())
            .with_templates(templates.clone());
    }

    fn aux(&mut self, _: &[u8], _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn size(&mut self, _: u64, _: u64, _: u64) -> Result<(), Fault> {
        Ok(())
    }

    fn function(&mut self, code: &[u8]) -> Result<bool, Fault> {
        let takes = self.values.target.functions();
        if takes {
            self.out.command(&[b"FUNCTION", b"LOAD", b"REPLACE", code]);
        }
        self.out.flush_full()?;
        Ok(takes)
    }

    fn module_aux(&mut self, _: &ModuleAux<'_>) -> Result<bool, Fault> {
        // No command carries it.
        Ok(false)
    }

    fn entry(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        losses: &mut Vec<Loss>,
    ) -> Result<Option<Form>, Fault> {
        if self.converter.way(head.ty) == Way::Lost {
            losses.push(Loss::NotAccepted { ty: head.ty });
            return Ok(None);
        }
        let mut form = Form::Commands;
        if Self::is_exact(head.ty.kind()) && !self.loses_a_sign(value)? {
            let mut rebuild = self.rebuild(head);
            rebuild.feed(value.bytes(), &mut self.out)?;
            rebuild.finish(&mut self.out)?;
        } else {
            self.select(head.db);
            let conversion = self.converter.convert(value).map_err(|error| error.with_key(head.key))?;
            losses.extend(conversion.losses);
            let value = match conversion.converted {
                Converted::Raw(value) => {
                    form = Form::Raw;
                    value
                }
                Converted::Reencoded(value) => {
                    form = Form::Reencoded;
                    value
                }
                // Values above the bound of a payload come in parts.
                Converted::Native | Converted::Lost => return Ok(None),
            };
            let mut payload = BytesMut::new();
            dump::append_payload(&mut payload, value, dump::UNIVERSAL_VERSION);
            self.out.command(&[b"RESTORE", head.key, b"0", &payload, b"REPLACE"]);
        }
        self.seal(head, losses)?;
        Ok(Some(form))
    }

    fn value_start(&mut self, head: &EntryHead<'_>) -> Result<(), Fault> {
        self.large = if self.converter.way(head.ty) == Way::Lost {
            Large::Lost(Loss::NotAccepted { ty: head.ty })
        } else if Self::is_exact(head.ty.kind()) {
            Large::Rebuild(OwnedHead::new(head), Box::new(self.rebuild(head)))
        } else {
            Large::Spooled(OwnedHead::new(head), self.values.spool())
        };
        Ok(())
    }

    fn value_part(&mut self, part: &[u8]) -> Result<(), Fault> {
        match &mut self.large {
            Large::Rebuild(_, rebuild) => {
                rebuild.feed(part, &mut self.out)?;
                self.out.flush_full()?;
            }
            Large::Spooled(_, spool) => spool.put(part)?,
            Large::None | Large::Lost(_) => {}
        }
        Ok(())
    }

    fn value_end(&mut self, losses: &mut Vec<Loss>) -> Result<Option<Form>, Fault> {
        match std::mem::replace(&mut self.large, Large::None) {
            Large::None => Ok(None),
            Large::Lost(loss) => {
                losses.push(loss);
                Ok(None)
            }
            Large::Rebuild(head, mut rebuild) => {
                rebuild.finish(&mut self.out)?;
                self.seal(&head.head(), losses)?;
                Ok(Some(Form::Commands))
            }
            Large::Spooled(head, spool) => {
                let head = head.head();
                self.spooled(&head, spool, losses).map_err(|fault| in_key(fault, head.key))
            }
        }
    }

    fn command(&mut self, db: u64, command: &AofCommand<'_>) -> Result<(), Fault> {
        self.select(db);
        self.out.buf.extend_from_slice(command.raw());
        self.out.flush_full()
    }

    fn annotation(&mut self, text: &[u8]) -> Result<bool, Fault> {
        if self.annotations {
            self.out.buf.push(b'#');
            self.out.buf.extend_from_slice(text);
            self.out.buf.extend_from_slice(b"\r\n");
        }
        Ok(self.annotations)
    }

    fn finish(mut self: Box<Self>) -> Result<Complete, Fault> {
        self.out.flush()?;
        let pending = self.out.destination.finish()?;
        Ok(Complete { bytes: self.out.written, pending })
    }
}
