//! Files to test with, and events made comparable.

use std::path::{Path, PathBuf};

use keyferry_rdb::{Checksum, EntryHead, Error, Event, Eviction, Limits, Parser, ValueType};

/// One line of the corpus' MANIFEST.tsv.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) file: String,
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) keys: Option<usize>,
    /// `type:namexcount`, by type number.
    pub(crate) types: Vec<(u8, usize)>,
    pub(crate) opcodes: String,
    pub(crate) checksum: String,
    pub(crate) expected: Vec<String>,
    pub(crate) bytes: Vec<u8>,
}

/// The collection of real files beside the repository, when it is there.
pub(crate) fn corpus_dir() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    if dir.join("MANIFEST.tsv").is_file() {
        return Some(dir);
    }
    println!("note: {} is not there, so only tests/data is used", dir.display());
    None
}

/// Samples that MANIFEST.tsv of the corpus names and, always, those of `tests/data`.
pub(crate) fn samples() -> Vec<Sample> {
    let mut all = read_manifest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"));
    if let Some(dir) = corpus_dir() {
        all.extend(read_manifest(&dir));
    }
    all
}

fn read_manifest(dir: &Path) -> Vec<Sample> {
    let manifest = std::fs::read_to_string(dir.join("MANIFEST.tsv")).unwrap();
    let mut lines = manifest.lines();
    let names: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let column = |name: &str| names.iter().position(|n| *n == name).unwrap();
    let [file, kind, status, keys, types, opcodes, checksum, expected] =
        ["file", "kind", "status", "keys", "types", "opcodes", "checksum", "expected_files"].map(column);
    lines
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|cells| cells[status] != "data" && cells[kind] != "aof")
        .map(|cells| Sample {
            file: cells[file].to_owned(),
            kind: cells[kind].to_owned(),
            status: cells[status].to_owned(),
            keys: cells[keys].parse().ok(),
            types: cells[types]
                .split(';')
                .filter_map(|part| {
                    let (number, rest) = part.split_once(':')?;
                    let (_, count) = rest.rsplit_once('x')?;
                    Some((number.parse().ok()?, count.parse().ok()?))
                })
                .collect(),
            opcodes: cells[opcodes].to_owned(),
            checksum: cells[checksum].to_owned(),
            expected: cells[expected].split(';').filter(|f| !f.is_empty()).map(str::to_owned).collect(),
            bytes: std::fs::read(dir.join(cells[file])).unwrap(),
        })
        .collect()
}

/// Snapshots that unmodified servers made for the corpus.
pub(crate) fn server_made() -> Vec<(String, Vec<u8>)> {
    let Some(dir) = corpus_dir() else { return Vec::new() };
    let mut files: Vec<_> = std::fs::read_dir(dir.join("server-made"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rdb"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// An event that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    Entry(Head, Vec<u8>),
    Start(Head),
    Part(Vec<u8>),
    ValueEnd,
    Aux(Vec<u8>, Vec<u8>),
    Function(Vec<u8>),
    ModuleAux(Vec<u8>),
    Template(u64, Vec<u8>),
    End(Checksum),
    Other(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) db: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) expiry: Option<i64>,
    pub(crate) eviction: Option<Eviction>,
    pub(crate) meta: Option<Vec<u8>>,
    pub(crate) ty: ValueType,
}

impl From<EntryHead<'_>> for Head {
    fn from(head: EntryHead<'_>) -> Self {
        let EntryHead { db, key, expiry, eviction, meta, ty, .. } = head;
        Self { db, key: key.to_vec(), expiry, eviction, meta: meta.map(<[u8]>::to_vec), ty }
    }
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Entry(entry) => Self::Entry(entry.head.into(), entry.value.bytes().to_vec()),
            Event::ValueStart(head) => Self::Start(head.into()),
            Event::ValuePart(part) => Self::Part(part.to_vec()),
            Event::ValueEnd => Self::ValueEnd,
            Event::Aux { name, value } => Self::Aux(name.to_vec(), value.to_vec()),
            Event::Function { code } => Self::Function(code.to_vec()),
            Event::ModuleAux(aux) => Self::ModuleAux(aux.record.to_vec()),
            Event::HashTemplate(template) => Self::Template(template.id, template.fields.to_vec()),
            Event::End { checksum } => Self::End(checksum),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

/// What a run over a file gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<Seen>,
    /// Where the events end, as the parser counts.
    pub(crate) offset: u64,
    pub(crate) remaining: Vec<u8>,
    pub(crate) result: Result<(), Error>,
}

/// Reads `bytes` in pieces of the given sizes (over and over).
pub(crate) fn parse_in(bytes: &[u8], sizes: &[usize], limits: &Limits) -> Outcome {
    let mut parser = Parser::with_limits(limits.clone());
    let mut events = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().cycle();
    let result = loop {
        match parser.next_event() {
            Ok(Some(event)) => {
                events.push(event.into());
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                assert_eq!(parser.next_event().unwrap_err(), error, "an error stays");
                assert_eq!(parser.end_of_input().unwrap_err(), error);
                break Err(error);
            }
        }
        if parser.is_finished() {
            assert_eq!(parser.needed(), 0);
            // What is left over may come at any time.
            parser.feed(rest);
            assert!(matches!(parser.next_event(), Ok(None)));
            break parser.end_of_input();
        }
        if rest.is_empty() {
            let error = parser.end_of_input();
            assert!(matches!(error, Err(Error::Truncated { .. })), "{error:?}");
            break error;
        }
        assert!(parser.needed() > 0);
        let size = (*sizes.next().unwrap()).clamp(1, rest.len());
        parser.feed(&rest[..size]);
        rest = &rest[size..];
    };
    let remaining = if result.is_ok() { parser.remaining().to_vec() } else { Vec::new() };
    Outcome { events, offset: parser.offset(), remaining, result }
}

pub(crate) fn parse(bytes: &[u8]) -> Outcome {
    parse_in(bytes, &[usize::MAX], &Limits::default())
}

/// The keys among events, with values that came in parts put together.
pub(crate) fn keys(events: &[Seen]) -> Vec<(Head, Vec<u8>)> {
    let mut keys: Vec<(Head, Vec<u8>)> = Vec::new();
    for event in events {
        match event {
            Seen::Entry(head, value) => keys.push((head.clone(), value.clone())),
            Seen::Start(head) => keys.push((head.clone(), Vec::new())),
            Seen::Part(part) => keys.last_mut().unwrap().1.extend(part),
            _ => {}
        }
    }
    keys
}
