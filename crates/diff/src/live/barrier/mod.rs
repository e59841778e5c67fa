//! Comparing keys that are written all the time, exactly, while something copies the source's writes to the target in order.
//!
//! A value is compared when the target has applied everything that the source had when the value was read there. Two things can tell when
//! that is: the checkpoint of a migration ([`checkpoint`]), or marks ([`marks`]). When the source still has the same value after that,
//! the target should have it, too, since it is nowhere ahead of the source. When not, the key is in motion and is looked at again.

mod checkpoint;
mod marks;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::compare::Comparer;
use super::finding::Outcome;
use super::nodes::Channel;
use super::nodes::LiveSide;
use super::options::BarrierBy;
use super::read::{Payload, Unexpected};
use crate::cutoff::now;
use crate::digest::Hash;
use crate::error::Error;

/// How often it is looked for a checkpoint.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Values asked for at once.
const CHUNK: usize = 64;

/// What tells that the target has caught up.
#[derive(Clone, Debug)]
pub(crate) enum Barrier {
    /// The state that a migration keeps in the target, under this key, or those of its workers, under these.
    Checkpoint(Vec<Bytes>),
    Marks,
}

impl Barrier {
    /// The one that was asked for. A checkpoint that is wanted alone is waited for: while its snapshot is applied, a migration has
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::NoCheckpoint`] when only that was wanted, and did not come.
    pub(crate) async fn choose(
        by: BarrierBy,
        sides: &[Arc<LiveSide>; 2],
        wait: Duration,
    ) -> Result<Self, Error> {
        if by == BarrierBy::Marks {
            return Ok(Self::Marks);
        }
        let end = Instant::now() + wait;
        loop {
            match checkpoint::find(&sides[0], &sides[1]).await? {
                Some(keys) => return Ok(Self::Checkpoint(keys)),
                None if by == BarrierBy::Either => return Ok(Self::Marks),
                None if Instant::now() > end => {
                    return Err(Error::NoCheckpoint { target: sides[1].name().to_owned() });
                }
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// What it is, in words.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Checkpoint(_) => "the checkpoint that the migration keeps in the target",
            Self::Marks => "marks, short-lived keys that were written on the source (keyferry:barrier:*)",
        }
    }
}

/// What a task needs to wait for the target.
#[derive(Debug)]
pub(crate) enum Waiter {
    Checkpoint(checkpoint::Waiter),
    Marks,
}

impl Waiter {
    pub(crate) fn new(barrier: &Barrier, sides: &[Arc<LiveSide>; 2]) -> Self {
        match barrier {
            Barrier::Checkpoint(keys) => Self::Checkpoint(checkpoint::Waiter::new(keys, sides)),
            Barrier::Marks => Self::Marks,
        }
    }

    /// Waits until the target has all that the source has now of these keys.
    async fn wait(
        &mut self,
        source: &mut Channel,
        target: &mut Channel,
        keys: &[Bytes],
        wait: Duration,
    ) -> Result<(), Error> {
        match self {
            Self::Checkpoint(waiter) => waiter.wait(wait).await,
            Self::Marks => {
                // Marks of tasks and rounds must not be taken for one another.
                let token = RandomState::new().hash_one(now());
                marks::wait(source, target, keys, wait, token).await
            }
        }
    }
}

/// Compares keys in this way. Those in motion are marked as such among the findings. `wait` is how long the target may take.
pub(crate) async fn compare(
    comparer: &mut Comparer,
    keys: &[Bytes],
    waiter: &mut Waiter,
    wait: Duration,
) -> Result<Outcome, Error> {
    let hash = Hash::new(comparer.rules.digest.seed);
    let before = match &mut comparer.sides {
        [Some(source), Some(target)] => {
            let before = prints(source, hash, keys).await?;
            waiter.wait(source, target, keys, wait).await?;
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
