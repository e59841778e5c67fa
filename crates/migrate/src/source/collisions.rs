//! Keys that would meet when databases of the source become one at the target.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use keyferry_client::{ConnectOptions, Connection, Error, Frame, Pipeline};

use crate::filter::Filter;

/// Keys looked at together.
const BATCH: &str = "1000";

/// Keys of each pair of databases that are kept as examples, and how much of each is shown.
const SAMPLES: usize = 5;
const SAMPLE_BYTES: usize = 100;

/// Keys that exist in several databases of the source which are one at the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collisions {
    /// How many there are: of each pair of databases, added up. A source that is written to, or grows its tables, meanwhile
    /// may show a key twice.
    pub count: u64,
    /// The pairs of databases that have keys in common, in order.
    pub pairs: Vec<DatabasePair>,
}

/// Two databases of the source that have keys in common.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabasePair {
    /// The lower number.
    pub first: u64,
    /// The higher number.
    pub second: u64,
    /// The database of the target that both go to.
    pub target: u64,
    /// How many keys they have in common.
    pub count: u64,
    /// Some of these keys; bytes that are not text escaped, long ones cut.
    pub samples: Vec<String>,
}

impl fmt::Display for Collisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key(s) exist in several databases that become one", self.count)?;
        for pair in &self.pairs {
            let DatabasePair { first, second, target, count, samples } = pair;
            write!(f, "; {first} and {second} (to {target}): {count}, as {}", samples.join(", "))?;
        }
        Ok(())
    }
}

/// Which of the databases `held`, with so many keys each, come together by `map`: each group smallest first.
fn groups(held: &[(u64, u64)], map: &BTreeMap<u64, u64>) -> Vec<(u64, Vec<u64>)> {
    let mut groups: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for &(db, keys) in held.iter().filter(|(_, keys)| *keys > 0) {
        groups.entry(map.get(&db).copied().unwrap_or(db)).or_default().push((keys, db));
    }
    let mut merged: Vec<(u64, Vec<u64>)> = Vec::new();
    for (target, mut of) in groups.into_iter().filter(|(_, of)| of.len() > 1) {
        of.sort_unstable();
        merged.push((target, of.into_iter().map(|(_, db)| db).collect()));
    }
    merged
}

/// Looks for keys that exist in more than one of the databases which `map` sends to one, in each of the servers (the primaries
/// of a cluster; a key is on one of them in all databases), where both may pass the filter. Each smaller database is read and looked up in the larger ones.
///
/// # Errors
/// When a server cannot be asked.
pub(crate) async fn collisions(
    servers: &[ConnectOptions],
    map: &BTreeMap<u64, u64>,
    filter: Option<&Filter>,
) -> Result<Collisions, Error> {
    let mut pairs: BTreeMap<(u64, u64), (u64, BTreeSet<String>, u64)> = BTreeMap::new();
    for server in servers {
        let mut scanned = Connection::connect(&server.clone().with_db(0)).await?;
        let held = scanned.info("keyspace").await?;
        let held: Vec<(u64, u64)> = held.keyspace().map(|db| (u64::from(db.db), db.keys)).collect();
        for (target, group) in groups(&held, map) {
            for (at, &small) in group.iter().enumerate() {
                // One connection for each larger database: nothing is selected back and forth.
                let mut larger = Vec::new();
                for &large in &group[at + 1..] {
                    let mut connection = Connection::connect(&server.clone().with_db(0)).await?;
                    select(&mut connection, large).await?;
                    larger.push((large, connection));
                }
                if larger.is_empty() {
                    continue;
                }
                select(&mut scanned, small).await?;
                let mut cursor = b"0".to_vec();
                loop {
                    let reply = scanned.call([b"SCAN", &cursor[..], b"COUNT", BATCH.as_bytes()]).await?;
                    let Some((next, keys)) = scan_reply(&reply) else {
                        return Err(Error::UnexpectedReply {
                            address: server.address().clone(),
                            command: "SCAN".to_owned(),
                            expected: "a cursor and keys",
                            found: "something else".to_owned(),
                        });
                    };
                    for (large, connection) in &mut larger {
                        let (first, second) = (small.min(*large), small.max(*large));
                        let may_meet = |key: &&[u8]| {
                            filter.is_none_or(|filter| {
                                filter.may_take(small, key) && filter.may_take(*large, key)
                            })
                        };
                        let keys: Vec<&[u8]> = keys.iter().copied().filter(may_meet).collect();
                        for key in common(connection, &keys).await? {
                            let (count, samples, _) =
                                pairs.entry((first, second)).or_insert_with(|| (0, BTreeSet::new(), target));
                            *count += 1;
                            if samples.len() < SAMPLES {
                                samples.insert(shown(key));
                            }
                        }
                    }
                    cursor = next.to_vec();
                    if cursor == b"0" {
                        break;
                    }
                }
            }
        }
    }
    let pair = |((first, second), (count, samples, target))| DatabasePair {
        first,
        second,
        target,
        count,
        samples: BTreeSet::into_iter(samples).collect(),
    };
    let pairs: Vec<DatabasePair> = pairs.into_iter().map(pair).collect();
    Ok(Collisions { count: pairs.iter().map(|pair| pair.count).sum(), pairs })
}

async fn select(connection: &mut Connection, db: u64) -> Result<(), Error> {
    connection.call(["SELECT", &db.to_string()]).await.map(|_| ())
}

/// The cursor and the keys.
fn scan_reply(reply: &Frame) -> Option<(&[u8], Vec<&[u8]>)> {
    let [cursor, keys] = reply.as_array()? else { return None };
    let keys = keys.as_array()?.iter().map(Frame::as_bytes).collect::<Option<Vec<_>>>()?;
    Some((cursor.as_bytes()?, keys.into_iter().map(AsRef::as_ref).collect()))
}

/// Those of the keys that exist in the database that the connection has selected.
async fn common<'k>(connection: &mut Connection, keys: &[&'k [u8]]) -> Result<Vec<&'k [u8]>, Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut questions = Pipeline::new();
    for &key in keys {
        questions.push([b"EXISTS", key]);
    }
    let answers = connection.pipeline(&questions).await?;
    let mut found = Vec::new();
    for (&key, answer) in keys.iter().zip(&answers) {
        match answer.as_i64() {
            Some(0) => {}
            Some(_) => found.push(key),
            None => {
                return Err(Error::UnexpectedReply {
                    address: connection.address().clone(),
                    command: "EXISTS".to_owned(),
                    expected: "a number",
                    found: answer
                        .error_reply()
                        .map_or("something else".to_owned(), |error| error.to_string()),
                });
            }
        }
    }
    Ok(found)
}

fn shown(key: &[u8]) -> String {
    let cut = &key[..key.len().min(SAMPLE_BYTES)];
    let more = if cut.len() < key.len() { "…" } else { "" };
    format!("\"{}{more}\"", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_meet_where_the_map_sends_them() {
        let map = BTreeMap::from([(3, 0), (4, 5), (6, 5)]);
        let held = [(0, 10), (1, 7), (3, 2), (4, 1), (5, 0), (6, 9)];
        assert_eq!(groups(&held, &map), [(0, vec![3, 0]), (5, vec![4, 6])]);
        assert_eq!(groups(&held, &BTreeMap::new()), []);
    }
}
