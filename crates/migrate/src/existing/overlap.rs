//! Which keys of the source are among those that the target has: told before anything is written.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use keyferry_client::{ConnectOptions, Connection, Error as ClientError, Frame, Pipeline};
use keyferry_files::{Found, Input, InputOptions, inputs_at};
use keyferry_rdb::Event;
use keyferry_routing::CommandTable;
use twox_hash::XxHash3_128;

use super::shown;
use crate::{error::Error, filter::Filter, key_set::KeySet, sharded::Databases};

/// Keys looked at together.
const BATCH: &str = "1000";

/// Names of each prefix that are shown.
const SAMPLES: usize = 3;

/// Prefixes that are counted, and of those that are shown.
const MOST_PREFIXES: usize = 10_000;
const SHOWN_PREFIXES: usize = 20;

/// Keys that are remembered as counted.
const MOST_SEEN: usize = 4 << 20;

/// Keys of the source that the target has already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overlap {
    /// How many; beyond four million, keys that a source shows twice count twice.
    pub count: u64,
    /// By prefix (up to the first `:`), most frequent first, twenty at most.
    pub prefixes: Vec<PrefixCount>,
}

/// Keys of one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefixCount {
    /// The prefix with its `:`; empty for names that have none, `…` for all others where there are very many.
    pub prefix: String,
    /// How many keys.
    pub count: u64,
    /// Some of their names at the target; bytes that are no text escaped, long ones cut.
    pub samples: Vec<String>,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key(s) of the source", self.count)?;
        for PrefixCount { prefix, count, samples } in &self.prefixes {
            match &prefix[..] {
                "" => write!(f, "; {count} without a prefix")?,
                prefix => write!(f, "; {count} {prefix}*")?,
            }
            write!(f, ", as {}", samples.join(", "))?;
        }
        Ok(())
    }
}

/// Counts keys by prefix.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    count: u64,
    /// Those that have been counted: a source that grows its tables may show a key twice.
    seen: HashSet<u128>,
    prefixes: BTreeMap<Vec<u8>, (u64, Vec<String>)>,
    others: (u64, Vec<String>),
}

impl Counter {
    pub(crate) fn note(&mut self, db: u32, key: &[u8]) {
        let print = XxHash3_128::oneshot_with_seed(u64::from(db), key);
        if self.seen.len() < MOST_SEEN && !self.seen.insert(print) {
            return;
        }
        self.count += 1;
        let prefix = key.iter().position(|&byte| byte == b':').map_or(&b""[..], |at| &key[..=at]);
        let is_known = self.prefixes.contains_key(prefix);
        let (count, samples) = match is_known || self.prefixes.len() < MOST_PREFIXES {
            true => self.prefixes.entry(prefix.to_vec()).or_default(),
            false => &mut self.others,
        };
        *count += 1;
        if samples.len() < SAMPLES {
            samples.push(shown(key));
        }
    }

    pub(crate) fn finish(self) -> Overlap {
        let prefix =
            |(prefix, (count, samples)): (String, (u64, Vec<String>))| PrefixCount { prefix, count, samples };
        let mut prefixes: Vec<PrefixCount> =
            self.prefixes.into_iter().map(|(name, of)| prefix((shown(&name), of))).collect();
        prefixes.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.prefix.cmp(&b.prefix)));
        if self.others.0 > 0 {
            prefixes.push(prefix(("…".to_owned(), self.others)));
        }
        prefixes.truncate(SHOWN_PREFIXES);
        Overlap { count: self.count, prefixes }
    }
}

/// Goes through the keys of a source's server that are in a set of the target's keys, database by database.
pub(crate) struct SharedKeys<'s> {
    connection: Connection,
    before: &'s KeySet,
    filter: Option<&'s Filter>,
    databases: &'s Databases,
    /// Databases that have not been read, the next one last.
    left: Vec<u64>,
    selected: Option<(u64, u32)>,
    cursor: Bytes,
}

/// Some of them.
pub(crate) struct Shared {
    /// The target's database.
    pub(crate) db: u32,
    /// Their names at the source.
    pub(crate) keys: Vec<Bytes>,
    /// And at the target.
    pub(crate) names: Vec<Vec<u8>>,
}

impl<'s> SharedKeys<'s> {
    /// Of one server: a primary of the source.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(crate) async fn new(
        server: &ConnectOptions,
        before: &'s KeySet,
        filter: Option<&'s Filter>,
        databases: &'s Databases,
    ) -> Result<Self, ClientError> {
        let mut connection = Connection::connect(&server.clone().with_db(0)).await?;
        let held = connection.info("keyspace").await?;
        let wanted = |db: &u64| filter.is_none_or(|filter| !filter.leaves_out_all(*db));
        let mut left: Vec<u64> =
            held.keyspace().map(|keyspace| u64::from(keyspace.db)).filter(wanted).collect();
        left.reverse();
        Ok(SharedKeys {
            connection,
            before,
            filter,
            databases,
            left,
            selected: None,
            cursor: Bytes::from_static(b"0"),
        })
    }

    /// The next of them; there may be none among those that were looked at. None at the end.
    ///
    /// # Errors
    /// When the source cannot be asked, or a set of keys cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Option<Shared>, Error> {
        let (from, db) = match self.selected {
            Some(selected) => selected,
            None => {
                let Some(from) = self.left.pop() else { return Ok(None) };
                let db = self.databases.to(from).map_err(|why| Error::no_route(None, from, None, why))?;
                let select = self.connection.call(["SELECT", &from.to_string()]).await;
                select.map_err(Error::SourceConnection)?;
                *self.selected.insert((from, db))
            }
        };
        let reply = self.connection.call([b"SCAN", &self.cursor[..], b"COUNT", BATCH.as_bytes()]).await;
        let reply = reply.map_err(Error::SourceConnection)?;
        let (next, keys) = scan_reply(&reply).ok_or_else(|| {
            Error::SourceConnection(ClientError::UnexpectedReply {
                address: self.connection.address().clone(),
                command: "SCAN".to_owned(),
                expected: "a cursor and keys",
                found: "something else".to_owned(),
            })
        })?;
        let mut shared = Shared { db, keys: Vec::new(), names: Vec::new() };
        for key in keys {
            if let Some(name) = shared_name(self.before, self.filter, (from, db), &key)? {
                shared.keys.push(key);
                shared.names.push(name);
            }
        }
        self.cursor = next;
        if self.cursor == "0" {
            self.selected = None;
        }
        Ok(Some(shared))
    }

    /// For how many seconds the source has not used these keys, which [`SharedKeys::next`] has just given. None for those that
    /// are gone.
    ///
    /// # Errors
    /// When it does not tell.
    pub(crate) async fn idle(&mut self, keys: &[Bytes]) -> Result<Vec<Option<i64>>, Error> {
        let mut questions = Pipeline::new();
        for key in keys {
            questions.push([&b"OBJECT"[..], b"IDLETIME", key]);
        }
        let replies = self.connection.pipeline(&questions).await.map_err(Error::SourceConnection)?;
        let address = self.connection.address().to_string();
        replies.iter().map(|reply| idle_of(reply, "source", &address)).collect()
    }
}

/// Reads the reply to `OBJECT IDLETIME`; none for a key that is not there.
pub(crate) fn idle_of(reply: &Frame, side: &'static str, address: &str) -> Result<Option<i64>, Error> {
    if let Some(error) = reply.error_reply() {
        if error.message().contains("no such key") {
            return Ok(None);
        }
        return Err(Error::IdleTimeUnknown { side, address: address.to_owned(), reply: error.to_string() });
    }
    Ok(reply.as_i64())
}

/// Keys that files hold, or name in commands, and the target has.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn in_files(
    files: &[PathBuf],
    before: &KeySet,
    filter: Option<&Filter>,
    databases: &Databases,
) -> Result<Overlap, Error> {
    let mut counter = Counter::default();
    for file in files {
        for input in parts_of(file)? {
            let mut options = InputOptions::default();
            // Whether that is right is told when it is applied.
            options.allow_cut_log = true;
            let mut keys = Vec::new();
            Input::open(&input, options)?.read(|found, _| {
                let mut look = |db: u64, key: &[u8]| -> Result<(), Error> {
                    if filter.is_some_and(|filter| filter.leaves_out_all(db)) {
                        return Ok(());
                    }
                    let to = databases.to(db).map_err(|why| Error::no_route(None, db, None, why))?;
                    if let Some(name) = shared_name(before, filter, (db, to), key)? {
                        counter.note(to, &name);
                    }
                    Ok(())
                };
                match found {
                    Found::Event(Event::Entry(entry)) => look(entry.head.db, entry.head.key),
                    Found::Event(Event::ValueStart(head)) => look(head.db, head.key),
                    Found::Command(command) => {
                        let args: Vec<&[u8]> = command.args().collect();
                        keys.clear();
                        if CommandTable::builtin().keys(&args[..], &mut keys).is_ok() {
                            for key in &keys {
                                look(command.db, args.get(key.index).copied().unwrap_or_default())?;
                            }
                        }
                        Ok(())
                    }
                    _ => Ok(()),
                }
            })?;
        }
    }
    Ok(counter.finish())
}

/// What is to be read of a path; the path itself where nothing is, for the error that reading it gives.
pub(crate) fn parts_of(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut inputs = inputs_at(path)?;
    if inputs.is_empty() {
        inputs.push(path.to_owned());
    }
    Ok(inputs)
}

/// The name at the target of a key of the source, if the target has such a key and the filter may let it through.
fn shared_name(
    before: &KeySet,
    filter: Option<&Filter>,
    (from, to): (u64, u32),
    key: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    let name = match filter {
        Some(filter) if !filter.may_take(from, key) => return Ok(None),
        Some(filter) => filter.name_of_key(key),
        None => key.into(),
    };
    Ok(before.contains(to, &name)?.then(|| name.into_owned()))
}

/// The cursor and the keys.
fn scan_reply(reply: &Frame) -> Option<(Bytes, Vec<Bytes>)> {
    let [cursor, keys] = reply.as_array()? else { return None };
    let keys = keys.as_array()?.iter().map(|key| key.as_bytes().cloned()).collect::<Option<Vec<_>>>()?;
    Some((cursor.as_bytes()?.clone(), keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_by_prefix() {
        let mut counter = Counter::default();
        for key in ["user:1", "user:2", "user:3", "user:4", "plain", "cart:1", ":"] {
            counter.note(0, key.as_bytes());
            counter.note(0, key.as_bytes());
        }
        let overlap = counter.finish();
        assert_eq!(
            overlap.to_string(),
            "7 key(s) of the source; 4 user:*, as user:1, user:2, user:3; 1 without a prefix, as plain; 1 :*, as :; 1 cart:*, as \
             cart:1"
        );
    }
}
