//! Whether two servers hold the same data, key by key, through the servers' own commands.

mod value;

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use keyferry_resp::Frame;

use crate::client::{Client, unexpected};
use crate::data::Features;
use crate::error::Result;
use value::{Kind, Reader, Unequal, Value};

/// Keys that are looked at in one round trip.
const BATCH: usize = 500;

/// How often a key that differs is read again, for the case that it expired between the two reads.
const RETRIES: usize = 2;

/// What [`compare_with`] overlooks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompareOptions {
    /// How many milliseconds the deadlines of a key may lie apart. Default: 1000.
    pub expiry_tolerance_ms: u64,
    /// Keys that start with one of these are left out. Default: none.
    pub ignored_prefixes: Vec<Vec<u8>>,
    /// How many differences are kept; all are counted. Default: 100.
    pub kept: usize,
    /// Whether that has to agree as well which snapshots keep, but the servers' own command stream does not always: how many
    /// entries a group has read, consumers without pending entries, and when consumers were last seen. Default: no.
    pub unreplicated: bool,
    /// Whether function libraries are compared. Default: yes.
    pub functions: bool,
    /// Whether a number counts that only the first server shows, where the second, being older, would be taken to have
    /// another: how many entries a stream was given and a group has read, when consumers were active. Default: no.
    pub one_sided: bool,
}

impl Default for CompareOptions {
    fn default() -> CompareOptions {
        CompareOptions {
            expiry_tolerance_ms: 1000,
            ignored_prefixes: Vec::new(),
            kept: 100,
            unreplicated: false,
            functions: true,
            one_sided: false,
        }
    }
}

impl CompareOptions {
    /// Leaves out the keys that start with `prefix`.
    pub fn ignore(mut self, prefix: impl Into<Vec<u8>>) -> CompareOptions {
        self.ignored_prefixes.push(prefix.into());
        self
    }

    /// Lets deadlines lie that many milliseconds apart.
    pub fn expiry_tolerance(mut self, milliseconds: u64) -> CompareOptions {
        self.expiry_tolerance_ms = milliseconds;
        self
    }

    /// Compares what the servers' own replication does not keep, too: for copies by snapshot alone.
    pub fn unreplicated(mut self) -> CompareOptions {
        self.unreplicated = true;
        self
    }

    /// Compares what only the first server shows, too.
    pub fn one_sided(mut self) -> CompareOptions {
        self.one_sided = true;
        self
    }

    /// Leaves out function libraries.
    pub fn without_functions(mut self) -> CompareOptions {
        self.functions = false;
        self
    }

    fn ignores(&self, key: &[u8]) -> bool {
        self.ignored_prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

/// In what way a key (or a function library) differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// Only the first server has it.
    MissingInB,
    /// Only the second server has it.
    MissingInA,
    /// The types differ.
    Type,
    /// Same type, but the elements differ.
    Value,
    /// One has a deadline and the other not, or they lie further apart than is tolerated.
    Expiry,
    /// Deadlines of hash fields that both have.
    FieldExpiry,
    /// How many entries a stream was given and lost, and a group has read.
    Counters,
    /// When a stream's consumers were last active, as opposed to seen.
    ActiveTimes,
    /// A function library: missing on a side, or of different code.
    Function,
}

/// One key that is not the same on both servers. A key that differs in several ways gives one of each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// Its database; 0 for a function library.
    pub database: u32,
    /// The key, or the name of the function library.
    pub key: Vec<u8>,
    /// In what way it differs.
    pub kind: DifferenceKind,
    /// What the first server has, shortly.
    pub a: String,
    /// What the second server has, shortly.
    pub b: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { database, key, kind, a, b } = self;
        write!(f, "db {database} key \"{}\" {kind:?}: {a} | {b}", shorten(key))
    }
}

/// The outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// Keys seen on the first server.
    pub keys_a: u64,
    /// Keys seen on the second server.
    pub keys_b: u64,
    /// The first differences found; see [`CompareOptions::kept`].
    pub differences: Vec<Difference>,
    /// How many differences there are in all.
    pub total_differences: u64,
}

impl Comparison {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.total_differences == 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {} keys, {} differences", self.keys_a, self.keys_b, self.total_differences)?;
        for difference in &self.differences {
            write!(f, "\n  {difference}")?;
        }
        Ok(())
    }
}

/// Compares all databases and the function libraries with default options. Nobody should write meanwhile. Both clients are
/// left in database 0.
///
/// # Errors
/// As [`Client::call`].
pub fn compare(a: &mut Client, b: &mut Client) -> Result<Comparison> {
    compare_with(a, b, &CompareOptions::default())
}

/// Compares all databases of two servers: types, values element by element (sets and hashes without order, scores and
/// field deadlines exactly, streams with their counters, groups, consumers and pending entries), deadlines, and function
/// libraries. Both clients are left in database 0.
///
/// # Errors
/// As [`Client::call`].
pub fn compare_with(a: &mut Client, b: &mut Client, options: &CompareOptions) -> Result<Comparison> {
    let features = [Features::probe(a)?, Features::probe(b)?];
    let mut run = Run { a, b, options, features, found: Comparison::default() };
    let databases: BTreeSet<u32> = databases(run.a)?.into_iter().chain(databases(run.b)?).collect();
    for &database in &databases {
        run.select(database)?;
        run.database(database)?;
    }
    run.select(0)?;
    if options.functions {
        run.functions()?;
    }
    Ok(run.found)
}

/// `DEBUG DIGEST`: one hash of everything the server holds, the same for the same data whatever its encodings. Of deadlines
/// it knows only that there are some.
///
/// # Errors
/// As [`Client::text`]; [`Error::Refused`](crate::Error::Refused) where DEBUG is not allowed.
pub fn digest(client: &mut Client) -> Result<String> {
    client.text(&["DEBUG", "DIGEST"])
}

/// The databases that hold keys.
pub(crate) fn databases(client: &mut Client) -> Result<Vec<u32>> {
    // db0:keys=5,expires=0,avg_ttl=0
    let text = client.text(&["INFO", "keyspace"])?;
    Ok(text.lines().filter_map(|line| line.strip_prefix("db")?.split(':').next()?.parse().ok()).collect())
}

/// One step of SCAN: the next cursor, "0" at the end, and some keys.
pub(crate) fn scan(client: &mut Client, cursor: &str, count: usize) -> Result<(String, Vec<Bytes>)> {
    let args = ["SCAN", cursor, "COUNT", &count.to_string()];
    let reply = client.call(&args)?;
    let parts = reply.as_array().unwrap_or_default();
    let next = parts.first().and_then(Frame::as_str);
    let keys = parts.get(1).and_then(Frame::as_array);
    match (next, keys) {
        (Some(next), Some(keys)) => {
            Ok((next.to_owned(), keys.iter().filter_map(|key| key.as_bytes().cloned()).collect()))
        }
        _ => Err(unexpected(&args, "a cursor and keys", &reply)),
    }
}

/// The start of a value, printable.
fn shorten(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    if bytes.len() > SHOWN { format!("{text}… ({} bytes)", bytes.len()) } else { text }
}

struct Run<'a> {
    a: &'a mut Client,
    b: &'a mut Client,
    options: &'a CompareOptions,
    features: [Features; 2],
    found: Comparison,
}

/// Type and remaining time of one key on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Meta {
    kind: Kind,
    /// Milliseconds to live; `None` without a deadline.
    ttl: Option<u64>,
}

impl Run<'_> {
    fn select(&mut self, database: u32) -> Result<()> {
        // A server with fewer databases has nothing in this one.
        let number = database.to_string();
        self.a.call_raw(&["SELECT", &number])?;
        self.b.call_raw(&["SELECT", &number])?;
        Ok(())
    }

    fn database(&mut self, database: u32) -> Result<()> {
        // SCAN may give a key twice; keys of both sides are compared in the first pass.
        let mut cursor = "0".to_owned();
        let mut seen = BTreeSet::new();
        loop {
            let (next, keys) = scan(self.a, &cursor, BATCH)?;
            let keys: Vec<Bytes> = keys.into_iter().filter(|key| self.takes(&mut seen, key)).collect();
            self.found.keys_a += keys.len() as u64;
            for keys in keys.chunks(BATCH) {
                self.keys(database, keys)?;
            }
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        seen.clear();
        loop {
            let (next, keys) = scan(self.b, &cursor, BATCH)?;
            let keys: Vec<Bytes> = keys.into_iter().filter(|key| self.takes(&mut seen, key)).collect();
            self.found.keys_b += keys.len() as u64;
            let reads: Vec<[&[u8]; 2]> = keys.iter().map(|key| [b"EXISTS", key.as_ref()]).collect();
            let exist = self.a.pipe(&reads)?;
            let missing: Vec<Bytes> = keys
                .into_iter()
                .zip(exist)
                .filter(|(_, n)| n.as_i64() == Some(0))
                .map(|(key, _)| key)
                .collect();
            self.keys(database, &missing)?;
            cursor = next;
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    fn takes(&self, seen: &mut BTreeSet<Bytes>, key: &Bytes) -> bool {
        !self.options.ignores(key) && seen.insert(key.clone())
    }

    /// Compares some keys, and those that differ once more.
    fn keys(&mut self, database: u32, keys: &[Bytes]) -> Result<()> {
        let mut suspects = keys.to_vec();
        let mut differences = Vec::new();
        for _ in 0..=RETRIES {
            if suspects.is_empty() {
                break;
            }
            differences = self.read_and_compare(database, &suspects)?;
            suspects = differences.iter().map(|difference| Bytes::copy_from_slice(&difference.key)).collect();
            suspects.dedup();
        }
        differences.into_iter().for_each(|difference| self.add(difference));
        Ok(())
    }

    fn read_and_compare(&mut self, database: u32, keys: &[Bytes]) -> Result<Vec<Difference>> {
        for client in [&mut *self.a, &mut *self.b] {
            for key in keys {
                client.queue(&[&b"TYPE"[..], key])?;
                client.queue(&[&b"PTTL"[..], key])?;
            }
            client.flush()?;
        }
        let metas_a = metas(self.a, keys)?;
        let metas_b = metas(self.b, keys)?;
        let mut differences = Vec::new();
        let mut same_kind: Vec<(Bytes, Kind)> = Vec::new();
        for ((key, a), b) in keys.iter().zip(&metas_a).zip(&metas_b) {
            let differs = match (a, b) {
                (None, None) => None,
                (Some(a), None) => {
                    Some((DifferenceKind::MissingInB, a.kind.to_string(), "missing".to_owned()))
                }
                (None, Some(b)) => {
                    Some((DifferenceKind::MissingInA, "missing".to_owned(), b.kind.to_string()))
                }
                (Some(a), Some(b)) if a.kind != b.kind => {
                    Some((DifferenceKind::Type, a.kind.to_string(), b.kind.to_string()))
                }
                (Some(a), Some(b)) => {
                    same_kind.push((key.clone(), a.kind.clone()));
                    let tolerance = self.options.expiry_tolerance_ms;
                    let apart = match (a.ttl, b.ttl) {
                        (None, None) => false,
                        (Some(a), Some(b)) => a.abs_diff(b) > tolerance,
                        _ => true,
                    };
                    let show =
                        |ttl: Option<u64>| ttl.map_or("no deadline".to_owned(), |ms| format!("{ms} ms left"));
                    apart.then(|| (DifferenceKind::Expiry, show(a.ttl), show(b.ttl)))
                }
            };
            if let Some((kind, a, b)) = differs {
                differences.push(Difference { database, key: key.to_vec(), kind, a, b });
            }
        }
        let [features_a, features_b] = &self.features;
        let mut reader_a = Reader::new(self.a, features_a);
        let mut reader_b = Reader::new(self.b, features_b);
        reader_a.ask_sizes(&same_kind)?;
        reader_b.ask_sizes(&same_kind)?;
        let sizes = [reader_a.sizes(&same_kind)?, reader_b.sizes(&same_kind)?];
        let large = |i: usize| sizes.iter().any(|sizes| sizes[i] > value::LARGE);
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        for (i, item) in same_kind.into_iter().enumerate() {
            if large(i) { parts.push(item) } else { whole.push(item) }
        }
        reader_a.ask(&whole)?;
        reader_b.ask(&whole)?;
        let values_a = reader_a.values(&whole)?;
        let values_b = reader_b.values(&whole)?;
        let mut unequal: Vec<(&Bytes, Unequal)> = Vec::new();
        for (((key, _), a), b) in whole.iter().zip(&values_a).zip(&values_b) {
            let found = Value::differences(a, b, self.options);
            unequal.extend(found.into_iter().map(|found| (key, found)));
        }
        for (key, kind) in &parts {
            let found = value::compare_large(&mut reader_a, &mut reader_b, key, kind, self.options)?;
            unequal.extend(found.into_iter().map(|found| (key, found)));
        }
        for (key, Unequal { kind, a, b }) in unequal {
            differences.push(Difference { database, key: key.to_vec(), kind, a, b });
        }
        Ok(differences)
    }

    fn functions(&mut self) -> Result<()> {
        let a = libraries(self.a, &self.features[0])?;
        let b = libraries(self.b, &self.features[1])?;
        let names: BTreeSet<&Bytes> = a.iter().chain(&b).map(|(name, _)| name).collect();
        for name in names {
            let of =
                |side: &[(Bytes, Bytes)]| side.iter().find(|(n, _)| n == name).map(|(_, code)| code.clone());
            let (a, b) = (of(&a), of(&b));
            if a != b {
                let show = |code: Option<Bytes>| code.map_or("missing".to_owned(), |code| shorten(&code));
                self.add(Difference {
                    database: 0,
                    key: name.to_vec(),
                    kind: DifferenceKind::Function,
                    a: show(a),
                    b: show(b),
                });
            }
        }
        Ok(())
    }

    fn add(&mut self, difference: Difference) {
        self.found.total_differences += 1;
        if self.found.differences.len() < self.options.kept {
            self.found.differences.push(difference);
        }
    }
}

/// Replies to TYPE and PTTL of every key; `None` for a key that is not there.
fn metas(client: &mut Client, keys: &[Bytes]) -> Result<Vec<Option<Meta>>> {
    let mut metas = Vec::with_capacity(keys.len());
    for key in keys {
        let (kind, ttl) = (client.reply()?, client.reply()?);
        let name = kind.as_str().ok_or_else(|| unexpected(&[&b"TYPE"[..], key], "a type", &kind))?;
        let ttl = ttl.as_i64().ok_or_else(|| unexpected(&[&b"PTTL"[..], key], "an integer", &ttl))?;
        // It may have gone between the two commands: PTTL says -2 then, and -1 for no deadline.
        let there = name != "none" && ttl != -2;
        metas.push(there.then(|| Meta { kind: Kind::parse(name), ttl: u64::try_from(ttl).ok() }));
    }
    Ok(metas)
}

/// Name and code of every function library.
fn libraries(client: &mut Client, features: &Features) -> Result<Vec<(Bytes, Bytes)>> {
    if !features.has("function") {
        return Ok(Vec::new());
    }
    let libraries = client.list(&["FUNCTION", "LIST", "WITHCODE"])?;
    let text = |library: &Frame, field: &str| library.get(field).and_then(Frame::as_bytes).cloned();
    Ok(libraries
        .iter()
        .filter_map(|library| Some((text(library, "library_name")?, text(library, "library_code")?)))
        .collect())
}
