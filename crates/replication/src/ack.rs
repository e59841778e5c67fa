//! Acknowledgements: once a second, from a task of their own, whatever the rest is doing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use keyferry_client::WriteHalf;
use keyferry_resp::encode_command;
use tokio::{io::AsyncWriteExt, sync::Notify, task::JoinHandle, time::MissedTickBehavior};

/// How often a replica speaks; what official replicas do, and well inside the primary's `repl-timeout`.
const PERIOD: Duration = Duration::from_secs(1);

/// Which offset the primary is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AckPolicy {
    /// What has been received. `WAIT` and `min-replicas-to-write` at the primary then count bytes that are
    /// only in this process.
    #[default]
    Received,
    /// What the application has declared done by [`Acks::applied`]: the primary's view of the lag is then the
    /// true one.
    Applied,
}

/// The acknowledgements of one link. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: AckPolicy,
    received: AtomicU64,
    applied: AtomicU64,
    /// False while a snapshot is under way: then only a newline is sent, which servers take as a sign of life.
    streaming: AtomicBool,
    now: Notify,
}

impl Acks {
    pub(crate) fn new(policy: AckPolicy, offset: u64, streaming: bool) -> Self {
        Acks(Arc::new(Shared {
            policy,
            received: AtomicU64::new(offset),
            applied: AtomicU64::new(offset),
            streaming: AtomicBool::new(streaming),
            now: Notify::new(),
        }))
    }

    /// Declares that everything up to `offset` is done for good. Never goes back.
    pub fn applied(&self, offset: u64) {
        self.0.applied.fetch_max(offset, Ordering::Relaxed);
    }

    /// Takes over what an earlier link's acknowledgements knew; a new link starts from what was received.
    pub(crate) fn inherit(&self, before: &Acks) {
        self.0.applied.store(before.last_applied(), Ordering::Relaxed);
    }

    fn last_applied(&self) -> u64 {
        self.0.applied.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self, offset: u64) {
        self.0.received.store(offset, Ordering::Relaxed);
    }

    pub(crate) fn is_streaming(&self) -> bool {
        self.0.streaming.load(Ordering::Relaxed)
    }

    /// From now on offsets are sent, the first at once.
    pub(crate) fn start_streaming(&self) {
        self.0.streaming.store(true, Ordering::Relaxed);
        self.0.now.notify_one();
    }

    pub(crate) fn send_now(&self) {
        self.0.now.notify_one();
    }

    fn message(&self, out: &mut BytesMut) {
        out.clear();
        if !self.0.streaming.load(Ordering::Relaxed) {
            out.extend_from_slice(b"\n");
            return;
        }
        let offset = match self.0.policy {
            AckPolicy::Received => &self.0.received,
            AckPolicy::Applied => &self.0.applied,
        };
        let mut digits = itoa::Buffer::new();
        encode_command(out, ["REPLCONF", "ACK", digits.format(offset.load(Ordering::Relaxed))]);
    }

    /// Runs until a write fails (the reading side then learns it too) or the task is dropped.
    pub(crate) fn spawn(&self, mut to: WriteHalf) -> AckTask {
        let acks = self.clone();
        AckTask(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            let mut out = BytesMut::new();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = acks.0.now.notified() => {}
                }
                acks.message(&mut out);
                if to.write_all(&out).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// Ends the task when dropped.
#[derive(Debug)]
pub(crate) struct AckTask(JoinHandle<()>);

impl Drop for AckTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
