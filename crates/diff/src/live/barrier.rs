//! Comparing keys that are written all the time, exactly, while something copies the source's writes to the target in order.
//!
//! A value is compared when the target has applied everything that the source had when the value was read there. A *mark* tells when
//! that is: a key that is written on the source after the value was read, in the same slot where a side is a cluster, and that has
//! arrived at the target before the value is read there. When the source still has the same value after that, the target should have it,
//! too, since it is nowhere ahead of the source. When not, the key is in motion and is looked at again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keyferry_client::Frame;
use keyferry_routing::{slot, tag_for_slot};
use tokio::time::Instant;

use super::compare::Comparer;
use super::finding::Outcome;
use super::nodes::Channel;
use super::read::{Payload, Unexpected, describe};
use crate::digest::Hash;
use crate::error::Error;

/// How long a mark stays that nobody takes away, in milliseconds.
const STAY: &str = "600000";
/// How often the target is asked for a mark.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// Values asked for at once.
const CHUNK: usize = 64;

/// Compares keys in this way. Those in motion are marked as such among the findings. `wait` is how long a mark may take.
pub(crate) async fn compare(
    comparer: &mut Comparer,
    keys: &[Bytes],
    wait: Duration,
    token: u64,
) -> Result<Outcome, Error> {
    let hash = Hash::new(comparer.rules.digest.seed);
    let before = match &mut comparer.sides {
        [Some(source), Some(target)] => {
            let before = prints(source, hash, keys).await?;
            marks(source, target, keys, wait, token).await?;
            before
        }
        // A side that lacks the database can catch up with nothing.
        _ => return comparer.compare(keys, true).await,
    };
    let before: BTreeMap<&Bytes, u128> = keys.iter().zip(before).collect();
    let mut outcome = comparer.compare(keys, true).await?;
    let differing: Vec<Bytes> = outcome.findings.iter().map(|finding| finding.key.clone()).collect();
    if let Some(source) = &mut comparer.sides[0] {
        let after = prints(source, hash, &differing).await?;
        for (finding, after) in outcome.findings.iter_mut().zip(after) {
            finding.moving = before.get(&finding.key) != Some(&after);
        }
    }
    Ok(outcome)
}

/// What tells values apart, expiries included; 0 for keys that are not there.
async fn prints(source: &mut Channel, hash: Hash, keys: &[Bytes]) -> Result<Vec<u128>, Error> {
    let mut prints = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(CHUNK) {
        let payloads = source.payloads(chunk).await?;
        // A deadline that is told as time left is never the same twice.
        let ends = match source.side().tells_deadlines() {
            true => source.deadlines(chunk).await?.into_iter().map(|end| end.at().unwrap_or(0)).collect(),
            false => vec![0; chunk.len()],
        };
        for ((payload, end), key) in payloads.into_iter().zip(ends).zip(chunk) {
            prints.push(match payload {
                Payload::Missing => 0,
                Payload::Whole(bytes) => hash.bytes(&bytes).wrapping_add(end.cast_unsigned().into()).max(1),
                Payload::Refused => {
                    let reply =
                        format!("DUMP of \"{}\" is refused", keyferry_files::text::short_line(key, 60));
                    return Err(source.unexpected(Unexpected(reply)));
                }
            });
        }
    }
    Ok(prints)
}

/// Writes marks on the source and waits until they are at the target.
async fn marks(
    source: &mut Channel,
    target: &mut Channel,
    keys: &[Bytes],
    wait: Duration,
    token: u64,
) -> Result<(), Error> {
    let mut slots: Vec<u16> = keys.iter().map(|key| slot(key)).collect();
    slots.sort_unstable();
    slots.dedup();
    if source.is_single() && target.is_single() {
        slots.truncate(1);
    }
    let names: Vec<Vec<u8>> = slots
        .iter()
        .map(|slot| format!("keyferry:barrier:{{{}}}:{token:016x}", tag_for_slot(*slot)).into_bytes())
        .collect();
    let written = source
        .each(
            names.len(),
            |number| &names[number],
            |number, pipeline| _ = pipeline.push([&b"SET"[..], &names[number], b"1", b"PX", STAY.as_bytes()]),
        )
        .await?;
    if let Some(error) = written.iter().find(|frame| frame.is_error()) {
        return Err(source.unexpected(Unexpected(describe(error))));
    }
    let end = Instant::now() + wait;
    let mut missing = names.clone();
    while !missing.is_empty() {
        let replies = target
            .each(
                missing.len(),
                |number| &missing[number],
                |number, pipeline| _ = pipeline.push([&b"EXISTS"[..], &missing[number]]),
            )
            .await?;
        let mut arrived = replies.iter().map(|frame| frame.as_i64() == Some(1));
        missing.retain(|_| !arrived.next().unwrap_or(false));
        if missing.is_empty() {
            break;
        }
        if Instant::now() > end {
            return Err(Error::NoMark { target: target.side().name().to_owned(), seconds: wait.as_secs() });
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    let gone: Vec<Frame> = source
        .each(
            names.len(),
            |number| &names[number],
            |number, pipeline| _ = pipeline.push([&b"DEL"[..], &names[number]]),
        )
        .await?;
    match gone.iter().find(|frame| frame.is_error()) {
        None => Ok(()),
        Some(error) => Err(source.unexpected(Unexpected(describe(error)))),
    }
}
