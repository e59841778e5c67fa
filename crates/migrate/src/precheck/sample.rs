//! Some keys of the source. `SCAN` goes through tables in the order of hashes, so its first pages are a fair choice.

use keyferry_client::{Connection, Error, Frame, Pipeline};

use super::{Depth, survey::Surveyed};

/// Keys that are looked at before a run, and on request.
const QUICK: usize = 100;
const FULL: usize = 10_000;

/// Keys asked for at once.
const PAGE: &str = "100";

/// Values above this many bytes of memory are not read.
const READ_UP_TO: u64 = 256 << 10;

/// One key of the source.
#[derive(Clone, Debug)]
pub(super) struct SampledKey {
    /// The number of its node.
    pub(super) node: usize,
    /// Its database at the source.
    pub(super) db: u64,
    pub(super) key: Vec<u8>,
    /// What it takes in the memory of the source, where that was asked.
    pub(super) bytes: Option<u64>,
}

/// Some keys of the source.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) keys: Vec<SampledKey>,
    /// How many the source has.
    pub(super) all: u64,
    /// Why there are none, or not as many as there might be.
    pub(super) refused: Option<String>,
}

impl Sample {
    /// Reads pages of every database of every node.
    pub(super) async fn take(source: &mut Surveyed, depth: Depth) -> Result<Self, Error> {
        let most = if depth == Depth::Full { FULL } else { QUICK };
        let shares: usize = source.nodes.iter().map(|node| node.keys().len()).sum();
        let all = source.nodes.iter().flat_map(|node| node.keys().into_values()).sum();
        let mut sample = Sample { all, ..Sample::default() };
        for (number, node) in source.nodes.iter_mut().enumerate() {
            for db in node.keys().into_keys() {
                let share = most.div_ceil(shares.max(1));
                if !select(&mut node.connection, db).await? {
                    continue;
                }
                let (mut cursor, mut taken) = (b"0".to_vec(), 0);
                while taken < share {
                    let scan = [b"SCAN", &cursor[..], b"COUNT", PAGE.as_bytes()];
                    let reply = node.connection.call_frame(scan).await?;
                    let Some((next, keys)) = page(&reply) else {
                        sample.refused = Some(refusal(&reply));
                        break;
                    };
                    cursor = next.to_vec();
                    let keys = keys.into_iter().take(share - taken);
                    let keys: Vec<SampledKey> = keys
                        .map(|key| SampledKey { node: number, db, key: key.to_vec(), bytes: None })
                        .collect();
                    taken += keys.len();
                    sample.keys.extend(keys);
                    if cursor == b"0" {
                        break;
                    }
                }
            }
            select(&mut node.connection, 0).await?;
        }
        if depth == Depth::Full {
            sample.measure(source).await?;
        }
        Ok(sample)
    }

    /// Asks for the sizes.
    async fn measure(&mut self, source: &mut Surveyed) -> Result<(), Error> {
        for keys in self.keys.chunk_by_mut(same_place) {
            let Some(first) = keys.first() else { continue };
            let Some(node) = source.nodes.get_mut(first.node) else { continue };
            select(&mut node.connection, first.db).await?;
            let mut questions = Pipeline::new();
            for key in keys.iter() {
                questions.push([&b"MEMORY"[..], b"USAGE", &key.key]);
            }
            let sizes = node.connection.pipeline(&questions).await?;
            for (key, size) in keys.iter_mut().zip(&sizes) {
                key.bytes = size.as_i64().and_then(|size| u64::try_from(size).ok());
            }
            select(&mut node.connection, 0).await?;
        }
        Ok(())
    }

    /// Gives each value that is not large to `look`, as DUMP has it; returns what was refused.
    pub(super) async fn read(
        &self,
        source: &mut Surveyed,
        mut look: impl FnMut(&SampledKey, &[u8]),
    ) -> Result<Option<String>, Error> {
        let mut refused = None;
        for keys in self.keys.chunk_by(same_place).flat_map(|keys| keys.chunks(100)) {
            let small = |key: &&SampledKey| key.bytes.is_some_and(|bytes| bytes <= READ_UP_TO);
            let keys: Vec<&SampledKey> = keys.iter().filter(small).collect();
            let Some(first) = keys.first() else { continue };
            let Some(node) = source.nodes.get_mut(first.node) else { continue };
            select(&mut node.connection, first.db).await?;
            let mut questions = Pipeline::new();
            for key in &keys {
                questions.push([b"DUMP", &key.key[..]]);
            }
            let values = node.connection.pipeline(&questions).await?;
            for (key, value) in keys.iter().zip(&values) {
                match value.as_bytes() {
                    Some(value) => look(key, value),
                    // It is gone, or may not be read.
                    None => refused = value.error_reply().map(|error| error.to_string()).or(refused),
                }
            }
            select(&mut node.connection, 0).await?;
        }
        Ok(refused)
    }

    /// How much of a sample this is, for people.
    pub(super) fn extent(&self) -> String {
        format!("{} of {} keys looked at", self.keys.len(), self.all)
    }
}

fn same_place(a: &SampledKey, b: &SampledKey) -> bool {
    (a.node, a.db) == (b.node, b.db)
}

/// Selects a database; false when the server does not have it.
pub(super) async fn select(connection: &mut Connection, db: u64) -> Result<bool, Error> {
    let reply = connection.call_frame(["SELECT", &db.to_string()]).await?;
    Ok(reply.error_reply().is_none())
}

/// The cursor and the keys.
fn page(reply: &Frame) -> Option<(&[u8], Vec<&[u8]>)> {
    let [cursor, keys] = reply.as_array()? else { return None };
    let keys = keys.as_array()?.iter().map(Frame::as_bytes).collect::<Option<Vec<_>>>()?;
    Some((cursor.as_bytes()?, keys.into_iter().map(AsRef::as_ref).collect()))
}

fn refusal(reply: &Frame) -> String {
    reply.error_reply().map_or_else(|| "SCAN gave something else".to_owned(), |error| error.to_string())
}

/// The beginning of a key, for people.
pub(super) fn shown(key: &[u8]) -> String {
    const MOST: usize = 60;
    let more = if key.len() > MOST { "…" } else { "" };
    format!("\"{}{more}\"", key[..key.len().min(MOST)].escape_ascii())
}
