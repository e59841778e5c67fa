use bytes::Bytes;
use keyferry_resp::Frame;

use super::side::Node;
use super::value::{self, Kind, Reader, Unequal, Value};
use super::{CompareOptions, Difference, DifferenceKind};
use crate::client::{Client, unexpected};
use crate::data::Features;
use crate::error::Result;

/// How often a key that differs is read again, for the case that it expired between the two reads.
const RETRIES: usize = 2;

/// One server of each side, each with the database selected that is compared.
pub(super) struct Pair<'r, 'a> {
    pub(super) a: &'r mut Node<'a>,
    pub(super) b: &'r mut Node<'a>,
    pub(super) options: &'r CompareOptions,
}

/// Type and remaining time of one key on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Meta {
    kind: Kind,
    /// Milliseconds to live; `None` without a deadline.
    ttl: Option<u64>,
}

impl Pair<'_, '_> {
    /// Compares some keys of the databases that are selected, and those that differ once more.
    pub(super) fn keys(&mut self, database: u32, keys: &[Bytes]) -> Result<Vec<Difference>> {
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
        Ok(differences)
    }

    fn read_and_compare(&mut self, database: u32, keys: &[Bytes]) -> Result<Vec<Difference>> {
        for client in [&mut *self.a.client, &mut *self.b.client] {
            for key in keys {
                client.queue(&[&b"TYPE"[..], key])?;
                client.queue(&[&b"PTTL"[..], key])?;
            }
            client.flush()?;
        }
        let metas_a = metas(&mut self.a.client, keys)?;
        let metas_b = metas(&mut self.b.client, keys)?;
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
        let mut reader_a = Reader::new(&mut self.a.client, &self.a.features);
        let mut reader_b = Reader::new(&mut self.b.client, &self.b.features);
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
pub(super) fn libraries(client: &mut Client, features: &Features) -> Result<Vec<(Bytes, Bytes)>> {
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
