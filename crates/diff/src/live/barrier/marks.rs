//! A mark is a key that is written on the source after a value was read there, in the same slot where a side is a cluster. When it
//! has arrived at the target, so has all that was written before. That holds for everything that copies writes in order.

use std::time::Duration;

use bytes::Bytes;
use keyferry_client::Frame;
use keyferry_routing::{slot, tag_for_slot};
use tokio::time::Instant;

use crate::error::Error;
use crate::live::nodes::Channel;
use crate::live::read::{Unexpected, describe};

/// How long a mark stays that nobody takes away, in milliseconds.
const STAY: &str = "600000";
/// How often the target is asked for a mark.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Writes marks and waits until they are at the target.
pub(super) async fn wait(
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
