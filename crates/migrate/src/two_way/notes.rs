//! What is being settled, as the target has it noted: for whoever goes on after this program was killed.
//!
//! A hash `keyferry:two-way:{id}` in database 0 of the target, with a field `<database>:<number>:<key in hexadecimal digits>` for each
//! key. What is noted and has been settled meanwhile is settled again, which does no harm.

use std::time::{Duration, Instant};

use bytes::Bytes;
use keyferry_client::{Backoff, Connection, Error as ClientError, Frame};
use tokio::sync::Mutex;

use super::{
    SideName,
    link::{MARK, marks_key},
    settling::{DbKey, Settling},
};
use crate::{error::Error, identity::MigrationId, sharded::TargetMap};

/// Writes them.
#[derive(Debug)]
pub(super) struct Notes {
    map: TargetMap,
    key: String,
    /// How long the target may be away.
    window: Duration,
    /// Each thread has its own.
    connections: [Mutex<Option<Connection>>; 3],
}

pub(super) type Noted = (DbKey, Settling);

impl Notes {
    pub(super) fn new(map: TargetMap, id: &MigrationId, window: Duration) -> Self {
        Notes { map, key: marks_key(id), window, connections: Default::default() }
    }

    /// Adds them, for the thread of the link that leads from `by`.
    pub(super) async fn add(&self, by: Option<SideName>, noted: &[Noted]) -> Result<(), Error> {
        let mut args = vec![Bytes::from_static(b"HSET"), Bytes::from(self.key.clone())];
        for (key, settling) in noted {
            args.extend([field(key, settling), settling.to_text().into()]);
        }
        self.write(by, &args).await
    }

    /// Removes them, for the thread that settles.
    pub(super) async fn remove(&self, noted: &[Noted]) -> Result<(), Error> {
        let mut args = vec![Bytes::from_static(b"HDEL"), Bytes::from(self.key.clone())];
        args.extend(noted.iter().map(|(key, settling)| field(key, settling)));
        self.write(None, &args).await
    }

    async fn write(&self, by: Option<SideName>, args: &[Bytes]) -> Result<(), Error> {
        let mut connection = self.connections[by.map_or(2, SideName::number)].lock().await;
        let (since, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            let written = async {
                let connection = match &mut *connection {
                    Some(connection) => connection,
                    none => none.insert(connect(&self.map).await?),
                };
                connection.call(args).await
            };
            let error = match written.await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            *connection = None;
            if since.elapsed() >= self.window || !(error.is_retryable() || error.server_code().is_none()) {
                return Err(Error::Target(error));
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// Connects to the one server of a side, database 0.
pub(super) async fn connect(map: &TargetMap) -> Result<Connection, ClientError> {
    let survey = map.survey().await?;
    let address = survey.addresses().into_iter().next().unwrap_or_default();
    Connection::connect(&map.connect_options(&address).with_db(0)).await
}

/// Reads what a run before has noted.
pub(super) async fn read(connection: &mut Connection, id: &MigrationId) -> Result<Vec<Noted>, ClientError> {
    let reply = connection.call(["HGETALL", &marks_key(id)]).await?;
    let pairs: Vec<(Bytes, Bytes)> = match &reply {
        Frame::Array(items) => {
            let pair = |pair: &[Frame]| Some((pair[0].as_bytes()?.clone(), pair[1].as_bytes()?.clone()));
            items.chunks_exact(2).filter_map(pair).collect()
        }
        Frame::Map(pairs) => {
            let pair = |(field, value): &(Frame, Frame)| {
                Some((field.as_bytes()?.clone(), value.as_bytes()?.clone()))
            };
            pairs.iter().filter_map(pair).collect()
        }
        _ => Vec::new(),
    };
    Ok(pairs
        .iter()
        .filter(|(name, _)| name != MARK.as_bytes())
        .filter_map(|(name, value)| parse(name, value))
        .collect())
}

fn field((db, key): &DbKey, settling: &Settling) -> Bytes {
    let mut text = format!("{db}:{}:", settling.number);
    for byte in key {
        text.push_str(&format!("{byte:02x}"));
    }
    text.into()
}

fn parse(field: &[u8], value: &[u8]) -> Option<Noted> {
    let mut parts = std::str::from_utf8(field).ok()?.splitn(3, ':');
    let (db, number, hex) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    let digits = hex.as_bytes().chunks_exact(2);
    let key: Option<Vec<u8>> =
        digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect();
    let settling = Settling::parse(std::str::from_utf8(value).ok()?)?;
    Some(((db, key?.into()), Settling { number, ..settling }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_bytes_are_read_back() {
        let key: DbKey = (3, Bytes::from_static(b"a:\x00\xff"));
        let noted = Settling::parse("source leaves").unwrap();
        let noted = Settling { number: 7, ..noted };
        let text = field(&key, &noted);
        assert_eq!(parse(&text, noted.to_text().as_bytes()), Some((key, noted)));
        for bad in ["mark", "1:2", "x:1:61", "1:1:zz"] {
            assert_eq!(parse(bad.as_bytes(), b"source leaves"), None, "{bad}");
        }
    }
}
