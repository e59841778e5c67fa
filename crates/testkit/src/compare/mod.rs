//! Whether two servers hold the same data, key by key, through the servers' own commands.

mod judge;
mod pair;
mod run;
mod side;
mod value;

pub use judge::{Judgement, ReportedLoss, judge};
pub use run::compare_sides;
pub use side::Side;

use std::fmt;

use bytes::Bytes;
use keyferry_resp::Frame;

use crate::client::{Client, unexpected};
use crate::error::Result;

/// What [`compare_with`] and [`compare_sides`] overlook.
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

    /// Leaves out the keys that a migration keeps for itself.
    pub fn without_bookkeeping(self) -> CompareOptions {
        self.ignore("keyferry:")
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Its database, as both sides call it; 0 for a function library.
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

    fn add(&mut self, difference: Difference, options: &CompareOptions) {
        self.total_differences += 1;
        if self.differences.len() < options.kept {
            self.differences.push(difference);
        }
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
    compare_sides(Side::client(a)?, Side::client(b)?, options)
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
