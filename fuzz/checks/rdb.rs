//! What must hold of keyferry-rdb for any bytes. The fuzz targets call it with theirs, and the crate's tests with the seeds.

use bytes::BytesMut;
use keyferry_rdb::aof::{self, AofEvent, AofParser};
use keyferry_rdb::dump::{self, Payload};
use keyferry_rdb::elements::{ElementDecoder, ElementReader, Templates};
use keyferry_rdb::encode::Encoder;
use keyferry_rdb::native::{CommandSink, Loss, NativeOptions, Rebuild};
use keyferry_rdb::{Dialect, Error, Event, Limits, Parser, RawValue, TargetFormat, Value, ValueType};

/// A compact encoding, with the types of values that are sealed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    Ziplist,
    Listpack,
    Intset,
    Zipmap,
    Quicklist,
    Stream,
}

impl Sealed {
    /// The types, one of which the first byte of an input chooses.
    fn types(self) -> &'static [ValueType] {
        use ValueType as T;
        match self {
            Self::Ziplist => &[T::ListZiplist, T::ZsetZiplist, T::HashZiplist],
            Self::Listpack => &[
                T::SetListpack,
                T::ZsetListpack,
                T::HashListpack,
                T::HashListpackTtl,
                T::HashListpackTtlPreGa,
                T::HashTemplateListpack,
            ],
            Self::Intset => &[T::SetIntset],
            Self::Zipmap => &[T::HashZipmap],
            Self::Quicklist => &[T::ListQuicklist, T::ListQuicklist2],
            Self::Stream => &[T::Stream, T::Stream3],
        }
    }
}

/// A piece size in the first byte, then a snapshot: whole and cut it gives the same events, and values come apart.
pub fn rdb_file(input: &[u8]) {
    let Some((&step, data)) = input.split_first() else { return };
    let whole = events(data, data.len().max(1));
    assert_eq!(whole, events(data, usize::from(step).max(1)), "in pieces of {step}");
}

/// The events of a snapshot as text, the error last.
fn events(data: &[u8], step: usize) -> Vec<String> {
    let mut limits = Limits::default();
    limits.value_part = 256;
    let mut parser = Parser::with_limits(limits.clone());
    let templates = Templates::new();
    let mut reader = ElementReader::new(&limits).with_templates(templates.clone());
    let mut seen = Vec::new();
    for piece in data.chunks(step) {
        parser.feed(piece);
        loop {
            match parser.next_event() {
                Ok(Some(event)) => {
                    seen.push(format!("{event:?}"));
                    match event {
                        Event::Entry(entry) => seen.push(elements(&mut reader, entry.value)),
                        Event::HashTemplate(template) => drop(templates.learn(&template)),
                        _ => {}
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen
}

/// The elements of a value as text.
fn elements(reader: &mut ElementReader, value: RawValue<'_>) -> String {
    let mut text = String::new();
    let result = reader.read(value).for_each(|element| {
        text += &format!("{element:?} ");
        Ok::<_, Error>(())
    });
    text + &format!("{result:?}")
}

/// A DUMP payload without its checksum: it comes apart, and what was taken apart goes together again.
pub fn dump_payload(input: &[u8]) {
    if input.len() < 3 {
        return;
    }
    let mut bytes = input.to_vec();
    let crc = keyferry_rdb::crc64(0, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let Ok(payload) = Payload::parse(&bytes) else { return };
    value(payload.value, Dialect::of_dump_version(payload.version), 1 + input.len() / 3);
    if payload.meta.is_none() && payload.trailing.is_empty() {
        let mut again = BytesMut::new();
        dump::append_payload(&mut again, payload.value, payload.version);
        assert_eq!(&again[..], &bytes[..]);
    }
}

/// A type, a piece size, and a blob, which becomes a value of that type. The nodes of a quicklist follow one another, each
/// with its kind and its length in two bytes.
pub fn sealed(sealed: Sealed, input: &[u8]) {
    let [which, step, blob @ ..] = input else { return };
    let types = sealed.types();
    let ty = types[usize::from(*which) % types.len()];
    let mut bytes = Vec::new();
    match ty {
        ValueType::ListQuicklist | ValueType::ListQuicklist2 => {
            let nodes = nodes(blob);
            put_len(&mut bytes, nodes.len());
            for (kind, node) in nodes {
                if ty == ValueType::ListQuicklist2 {
                    put_len(&mut bytes, kind);
                }
                put_string(&mut bytes, node);
            }
        }
        ValueType::Stream | ValueType::Stream3 => {
            let id = [[0, 0, 0, 0, 0, 0, 0, 5]; 2].concat();
            bytes.push(1);
            put_string(&mut bytes, &id);
            put_string(&mut bytes, blob);
            // Length, last id, and what newer streams have; no groups.
            let counters = if ty == ValueType::Stream { 3 } else { 8 };
            bytes.extend((0..counters).map(|_| 7));
            bytes.push(0);
        }
        ValueType::HashTemplateListpack => {
            // Two names, given one by one.
            bytes.extend(b"\x01\x02\x01a\x01b");
            put_string(&mut bytes, blob);
        }
        _ => {
            if ty == ValueType::HashListpackTtl {
                bytes.extend([0; 8]);
            }
            put_string(&mut bytes, blob);
        }
    }
    value(RawValue::new(ty, &bytes), Dialect::Redis, usize::from(*step).max(1));
}

fn nodes(mut input: &[u8]) -> Vec<(usize, &[u8])> {
    let mut nodes = Vec::new();
    while let [kind, low, high, rest @ ..] = input {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (node, rest) = rest.split_at(len);
        nodes.push((usize::from(*kind), node));
        input = rest;
    }
    nodes
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.push(0x80);
    out.extend((len as u32).to_be_bytes());
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend(bytes);
}

/// Any value: however it is read it is the same, it becomes commands, and what is encoded of it reads back.
fn value(raw: RawValue<'_>, dialect: Dialect, step: usize) {
    let limits = Limits::default();
    let whole = elements(&mut ElementReader::new(&limits), raw);
    let mut decoder = ElementDecoder::new(raw.ty(), &limits);
    let mut text = String::new();
    let mut result = Ok(());
    for piece in raw.bytes().chunks(step) {
        decoder.feed(piece);
        result = (|| {
            while let Some(element) = decoder.next()? {
                text += &format!("{element:?} ");
            }
            Ok(())
        })();
        if result.is_err() {
            break;
        }
    }
    let result = result.and_then(|()| decoder.finish());
    // Chunks of strings and of what is opaque depend on how the input is cut.
    if !whole.contains("Chunk(") && !whole.contains("Opaque(") {
        assert_eq!(text + &format!("{result:?}"), whole, "{}", raw.ty());
    }

    let mut rebuild = Rebuild::new(b"key", raw.ty(), dialect, &NativeOptions::default());
    let mut counted = Counted(0);
    if rebuild.feed(raw.bytes(), &mut counted).is_ok() {
        let _ = rebuild.finish(&mut counted);
    }

    if let Ok(value) = raw.to_value(&limits) {
        for target in [TargetFormat::redis(4, 0), TargetFormat::redis(7, 0), TargetFormat::redis(8, 10)] {
            encoded(&value, target, &limits);
        }
    }
}

/// What a target gets of a value reads back as that value, when nothing is lost.
fn encoded(value: &Value, target: TargetFormat, limits: &Limits) {
    let mut out = Vec::new();
    let Ok(encoded) = Encoder::new(target).encode(value, &mut out) else { return };
    let Some(ty) = encoded.ty else { return };
    assert!(target.accepts(ty), "{ty} for {target:?}");
    let back = RawValue::new(ty, &out).to_value(limits);
    match back {
        // What streams have besides entries depends on the type.
        Ok(Value::Stream(back)) => {
            let Value::Stream(stream) = value else { panic!("a stream became of {value:?}") };
            assert_eq!(back.entries, stream.entries);
        }
        Ok(back) if encoded.losses.is_empty() => {
            assert!(with_deadlines(&back) == with_deadlines(value), "{back:?} became of {value:?}");
        }
        Ok(_) => {}
        Err(error) => panic!("{ty} of {value:?}: {error}"),
    }
}

/// A field that expired at 0 may become one that expired at 1, where 0 stands for none.
fn with_deadlines(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Hash(fields) = &mut value {
        fields.iter_mut().for_each(|field| field.expires_at = field.expires_at.map(|at| at.max(1)));
    }
    value
}

struct Counted(usize);

impl CommandSink for Counted {
    fn command(&mut self, args: &[&[u8]]) {
        assert!(!args.is_empty());
        self.0 += 1;
    }

    fn loss(&mut self, loss: Loss) {
        assert!(!loss.to_string().is_empty());
    }
}

/// A piece size, then an append-only file: whole and cut it gives the same, and its commands written anew are the same.
pub fn aof(input: &[u8]) {
    let Some((&step, data)) = input.split_first() else { return };
    let whole = log(data, data.len().max(1));
    assert_eq!(whole, log(data, usize::from(step).max(1)), "in pieces of {step}");
    let again = log(&whole.commands, whole.commands.len().max(1));
    assert_eq!(again.commands, whole.commands);
}

/// What is in a log.
#[derive(Debug, PartialEq)]
struct Log {
    /// As text, the end or error last.
    seen: Vec<String>,
    good_to: u64,
    /// The commands, written anew.
    commands: Vec<u8>,
}

fn log(data: &[u8], step: usize) -> Log {
    let mut parser = AofParser::new();
    let (mut seen, mut commands) = (Vec::new(), Vec::new());
    'all: for piece in data.chunks(step) {
        parser.feed(piece);
        loop {
            match parser.next_event() {
                Ok(Some(event)) => {
                    seen.push(format!("{event:?}"));
                    if let AofEvent::Command(command) = event {
                        let args: Vec<&[u8]> = command.args().collect();
                        aof::append_command(&mut commands, &args);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    break 'all;
                }
            }
        }
    }
    seen.push(format!("{:?}", parser.end_of_input()));
    Log { seen, good_to: parser.good_offset(), commands }
}
