//! Reading the values that settle conflicts: see [`super::settling`].

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use keyferry_client::{Connection, Error as ClientError, Frame, Pipeline, Version};
use keyferry_resp::Command;

use super::{
    SideName,
    link::{MARK, Shared, marks_key},
    notes::connect,
    settling::{DbKey, Put},
};
use crate::{error::Error, progress::Meter, sharded::TargetMap};

/// Values that are read at once: they are held in memory.
const AT_ONCE: usize = 16;

/// How often is looked whether there is something to do, if nobody says so.
const PERIOD: Duration = Duration::from_millis(100);

/// How often is looked whether a link has come far enough.
const SHORT: Duration = Duration::from_millis(2);

/// Reads the values.
pub(super) struct Settler {
    pub(super) shared: Arc<Shared>,
    /// Both sides …
    pub(super) maps: [TargetMap; 2],
    /// … and how far the links are that lead from them.
    pub(super) meters: [Meter; 2],
    pub(super) connections: [Option<Connection>; 2],
}

impl Settler {
    /// Settles what is found, until it fails or the future is dropped.
    pub(super) async fn run(mut self) -> Error {
        loop {
            tokio::time::timeout(PERIOD, self.shared.work.notified()).await.ok();
            if let Err(error) = self.round().await {
                return error;
            }
        }
    }

    async fn round(&mut self) -> Result<(), Error> {
        let found = self.shared.state().settlings.take_found(None);
        if !found.is_empty() {
            self.shared.notes.add(None, &found).await?;
            self.shared.state().settlings.begin(&found);
        }
        let done = std::mem::take(&mut self.shared.state().settlings.done);
        if !done.is_empty() {
            self.shared.notes.remove(&done).await?;
        }
        loop {
            let waiting = {
                let mut state = self.shared.state();
                let waiting = state.settlings.take_waiting(AT_ONCE);
                waiting.map(|(mark, to, keys)| {
                    let link = state.link(to);
                    (mark, to, keys, link.looked.max(link.looking))
                })
            };
            let Some((mark, to, keys, looked)) = waiting else { return Ok(()) };
            self.settle(mark, to, keys, looked).await;
        }
    }

    async fn settle(&mut self, mark: u64, to: SideName, keys: Vec<DbKey>, looked: u64) {
        // What was handed over before has to be there.
        while self.meters[to.number()].applied_offset.load(Ordering::Relaxed) < looked {
            tokio::time::sleep(SHORT).await;
        }
        let keys = self.shared.state().settlings.mark(mark, keys);
        if keys.is_empty() {
            return;
        }
        let read = self.read(mark, to.other(), &keys).await;
        let failed = read.is_err();
        {
            let mut state = self.shared.state();
            // The mark may stand in the stream although nobody has answered.
            state.settlings.values.insert(mark, read.unwrap_or_default());
            if failed {
                state.settlings.retry(mark);
            }
        }
        self.shared.values.notify_waiters();
        if failed {
            self.connections[to.other().number()] = None;
            return tokio::time::sleep(PERIOD).await;
        }
        while self.shared.state().settlings.values.contains_key(&mark) {
            tokio::time::sleep(SHORT).await;
        }
    }

    /// Reads the values of keys at a side, in one step with a mark in its stream.
    async fn read(&mut self, mark: u64, at: SideName, keys: &[DbKey]) -> Result<Vec<Put>, ClientError> {
        let connection = match &mut self.connections[at.number()] {
            Some(connection) => connection,
            none => none.insert(connect(&self.maps[at.number()]).await?),
        };
        let absolute = connection.server().version >= Version::new(7, 0, 0);
        let marks = marks_key(&self.shared.ids[0]);
        let mut ask = Pipeline::new();
        ask.push(["MULTI"]).push(["TIME"]).push(["HSET", &marks, MARK, &self.shared.mark_text(mark)]);
        for (db, key) in keys {
            let deadline: &[u8] = if absolute { b"PEXPIRETIME" } else { b"PTTL" };
            ask.push(["SELECT", &db.to_string()]).push([&b"DUMP"[..], key]).push([deadline, key]);
        }
        ask.push(["SELECT", "0"]).push(["EXEC"]);
        let replies = connection.pipeline(&ask).await?;
        let strange = || ClientError::OutOfStep { address: connection.address().clone() };
        let Some(Frame::Array(results)) = replies.last() else { return Err(strange()) };
        let now = results.first().and_then(time).ok_or_else(strange)?;
        let values = results.get(2..).unwrap_or_default().chunks_exact(3);
        if values.len() != keys.len() || results.iter().any(|reply| reply.error_reply().is_some()) {
            return Err(strange());
        }
        let put = |((db, key), value): (&DbKey, &[Frame])| {
            let deadline = match value[2].as_i64() {
                Some(at) if at >= 0 && absolute => at,
                Some(left) if left >= 0 => now.saturating_add(left),
                _ => 0,
            };
            Put { db: *db, command: put(key, value[1].as_bytes(), deadline) }
        };
        Ok(keys.iter().zip(values).map(put).collect())
    }
}

/// The command that gives a key this value.
fn put(key: &Bytes, payload: Option<&Bytes>, deadline: i64) -> Command {
    match payload {
        None => Command::new([&b"DEL"[..], key]),
        Some(payload) => {
            let deadline = deadline.to_string();
            Command::new([&b"RESTORE"[..], key, deadline.as_bytes(), payload, b"REPLACE", b"ABSTTL"])
        }
    }
}

/// The reply to `TIME`, in milliseconds.
fn time(reply: &Frame) -> Option<i64> {
    let Frame::Array(parts) = reply else { return None };
    let number =
        |at: usize| -> Option<i64> { std::str::from_utf8(parts.get(at)?.as_bytes()?).ok()?.parse().ok() };
    Some(number(0)?.checked_mul(1000)? + number(1)? / 1000)
}
