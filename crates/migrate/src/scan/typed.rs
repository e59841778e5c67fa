//! Values read in parts, so that no command keeps a server busy for long.
//!
//! What is written to a value meanwhile may be in it or not: its event, or the next pass, reads it again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keyferry_client::Frame;
use keyferry_rdb::{HashField, Value};
use keyferry_resp::ErrorReply;

use super::read::{Failed as ReadFailed, Reader};

/// Elements that are asked for at once.
const PAGE: usize = 1000;
/// Bytes of a string that are asked for at once.
const PIECE: usize = 1 << 20;

/// Why a value could not be read.
#[derive(Debug)]
pub(super) enum Failed {
    Reading(ReadFailed),
    Reply(ErrorReply),
}

impl From<ReadFailed> for Failed {
    fn from(failed: ReadFailed) -> Self {
        Failed::Reading(failed)
    }
}

/// The value of a key; `None` for types that have no parts, and when there is no key.
pub(super) async fn read(
    reader: &mut Reader,
    db: u64,
    key: &Bytes,
    kind: &str,
) -> Result<Option<Value>, Failed> {
    Ok(Some(match kind {
        "string" => Value::String(string(reader, db, key).await?),
        "list" => Value::List(list(reader, db, key).await?),
        "set" => Value::Set(set(reader, db, key).await?),
        "zset" => Value::SortedSet(sorted_set(reader, db, key).await?),
        "hash" => Value::Hash(hash(reader, db, key).await?),
        _ => return Ok(None),
    }))
}

async fn ask(reader: &mut Reader, db: u64, command: &[&[u8]]) -> Result<Frame, Failed> {
    let reply = reader.one(db, command).await?;
    match reply.error_reply() {
        Some(error) => Err(Failed::Reply(error)),
        None => Ok(reply),
    }
}

async fn string(reader: &mut Reader, db: u64, key: &Bytes) -> Result<Vec<u8>, Failed> {
    let mut value = Vec::new();
    loop {
        let (from, to) = (value.len().to_string(), (value.len() + PIECE - 1).to_string());
        let reply = ask(reader, db, &[b"GETRANGE", key, from.as_bytes(), to.as_bytes()]).await?;
        let piece = reply.into_bytes().unwrap_or_default();
        value.extend_from_slice(&piece);
        if piece.len() < PIECE {
            return Ok(value);
        }
    }
}

async fn list(reader: &mut Reader, db: u64, key: &Bytes) -> Result<Vec<Vec<u8>>, Failed> {
    let mut items = Vec::new();
    loop {
        let (from, to) = (items.len().to_string(), (items.len() + PAGE - 1).to_string());
        let reply = ask(reader, db, &[b"LRANGE", key, from.as_bytes(), to.as_bytes()]).await?;
        let page = reply.into_array().unwrap_or_default();
        let full = page.len() >= PAGE;
        items.extend(page.into_iter().filter_map(Frame::into_bytes).map(Vec::from));
        if !full {
            return Ok(items);
        }
    }
}

/// The pages of `SSCAN` and its like.
async fn pages(
    reader: &mut Reader,
    db: u64,
    key: &Bytes,
    command: &str,
    cursor: &mut Option<String>,
) -> Result<Vec<Bytes>, Failed> {
    let from = cursor.take().unwrap_or_else(|| "0".to_owned());
    let count = PAGE.to_string();
    let reply =
        ask(reader, db, &[command.as_bytes(), key, from.as_bytes(), b"COUNT", count.as_bytes()]).await?;
    let mut parts = reply.into_array().unwrap_or_default().into_iter();
    let next = parts.next().and_then(|next| next.as_str().map(str::to_owned)).unwrap_or_default();
    *cursor = (next != "0" && !next.is_empty()).then_some(next);
    let elements = parts.next().and_then(Frame::into_array).unwrap_or_default();
    Ok(elements.into_iter().filter_map(Frame::into_bytes).collect())
}

async fn set(reader: &mut Reader, db: u64, key: &Bytes) -> Result<Vec<Vec<u8>>, Failed> {
    let (mut members, mut cursor) = (BTreeSet::new(), None);
    loop {
        members.extend(pages(reader, db, key, "SSCAN", &mut cursor).await?);
        if cursor.is_none() {
            return Ok(members.into_iter().map(Vec::from).collect());
        }
    }
}

async fn sorted_set(reader: &mut Reader, db: u64, key: &Bytes) -> Result<Vec<(Vec<u8>, f64)>, Failed> {
    let (mut members, mut cursor) = (BTreeMap::new(), None);
    loop {
        let page = pages(reader, db, key, "ZSCAN", &mut cursor).await?;
        for pair in page.chunks_exact(2) {
            let score = Frame::Bulk(pair[1].clone()).as_f64().unwrap_or(0.0);
            members.insert(pair[0].clone(), score);
        }
        if cursor.is_none() {
            break;
        }
    }
    let mut members: Vec<(Vec<u8>, f64)> =
        members.into_iter().map(|(member, score)| (Vec::from(member), score)).collect();
    members.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    Ok(members)
}

async fn hash(reader: &mut Reader, db: u64, key: &Bytes) -> Result<Vec<HashField>, Failed> {
    let (mut fields, mut cursor) = (BTreeMap::new(), None);
    loop {
        let page = pages(reader, db, key, "HSCAN", &mut cursor).await?;
        let names: Vec<&Bytes> = page.chunks_exact(2).map(|pair| &pair[0]).collect();
        let expiries = match reader.fields_expire() && !names.is_empty() {
            true => expiries(reader, db, key, &names).await?,
            false => Vec::new(),
        };
        for (number, pair) in page.chunks_exact(2).enumerate() {
            let mut field = HashField::new(&pair[0][..], &pair[1][..]);
            match expiries.get(number) {
                // It has expired between both questions.
                Some(-2) => continue,
                Some(at) if *at >= 0 => field.expires_at = Some(*at),
                _ => {}
            }
            fields.insert(pair[0].clone(), field);
        }
        if cursor.is_none() {
            return Ok(fields.into_values().collect());
        }
    }
}

/// When fields expire, in milliseconds since the Unix epoch; negative as servers say it.
async fn expiries(reader: &mut Reader, db: u64, key: &Bytes, names: &[&Bytes]) -> Result<Vec<i64>, Failed> {
    let count = names.len().to_string();
    let mut command: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
    command.extend(names.iter().map(|name| &name[..]));
    let reply = ask(reader, db, &command).await?;
    Ok(reply.as_array().unwrap_or_default().iter().map(|at| at.as_i64().unwrap_or(-1)).collect())
}
