//! What the tasks of a scan share.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    dirty::{Dirty, Todo},
    read::{Failed, ReadCounts},
};
use crate::error::Error;

/// How long whoever asks how far we are waits until everything before the question has been done.
const PATIENCE: Duration = Duration::from_secs(5);

/// Streams whose groups are followed, at most.
const STREAMS: usize = 100_000;

/// What reading a source by `SCAN` came to, over all attempts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ScanCounts {
    /// Times that all keys were read.
    pub passes: u64,
    /// Keys that were read in them, those that `SCAN` gave twice twice.
    pub keys_read: u64,
    /// Events of keys.
    pub events: u64,
    /// Keys that were read again because of them.
    pub keys_read_again: u64,
    /// Databases that were found flushed.
    pub flushes: u64,
    /// Values above the size limit that were read in parts.
    pub values_in_parts: u64,
    /// Values above the size limit that were read by one `DUMP`, as their type has no parts: streams, values of modules.
    pub values_whole: u64,
    /// Why everything had to be read again.
    pub doubts: Vec<String>,
    /// What this way of reading cannot promise.
    pub not_promised: Vec<String>,
}

/// How far the small primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The snapshot is not complete.
    Snapshot,
    /// Events are followed.
    Following,
    /// The snapshot was all; nothing is followed.
    Complete,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Told when there is something to do.
    pub(super) work: Notify,
    /// Told when questions have been answered.
    answers: Notify,
    /// Cancelled when the history is over.
    pub(super) over: CancellationToken,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) dirty: Dirty,
    /// Bytes of the stream so far.
    pub(super) offset: u64,
    pub(super) stage: Stage,
    pub(super) doubt: Option<String>,
    pub(super) fatal: Option<Error>,
    pub(super) counts: ScanCounts,
    pub(super) streams: BTreeSet<(usize, u64, Bytes)>,
    asked: u64,
    answered: u64,
    /// Keys that begin so are our own, at a target that is the source.
    pub(super) own: bool,
}

impl Shared {
    pub(super) fn new(own: bool) -> Arc<Self> {
        Arc::new(Shared {
            state: Mutex::new(State {
                dirty: Dirty::default(),
                offset: 0,
                stage: Stage::Snapshot,
                doubt: None,
                fatal: None,
                counts: ScanCounts::default(),
                streams: BTreeSet::new(),
                asked: 0,
                answered: 0,
                own,
            }),
            work: Notify::new(),
            answers: Notify::new(),
            over: CancellationToken::new(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event of a key has come.
    pub(super) fn touch(&self, shard: usize, db: u64, key: Bytes) {
        let mut state = self.state();
        if state.is_own(&key) {
            return;
        }
        state.counts.events += 1;
        state.dirty.touch(shard, db, key);
        drop(state);
        self.work.notify_one();
    }

    /// Something of a shard was flushed.
    pub(super) fn flushed(&self, shard: usize) {
        self.state().dirty.flushed(shard);
        self.work.notify_one();
    }

    /// What was read cannot be gone on with: everything has to be read again.
    pub(super) fn doubt(&self, why: String) {
        self.state().doubt.get_or_insert(why);
        self.over.cancel();
    }

    /// The source cannot be read in this way.
    pub(super) fn fail(&self, error: Error) {
        self.state().fatal.get_or_insert(error);
        self.over.cancel();
    }

    /// Takes over why keys could not be read.
    pub(super) fn failed(&self, failed: Failed, address: &str) {
        let address = address.to_owned();
        match failed {
            Failed::Connection(error) if error.is_retryable() => {
                self.doubt(format!("a connection to the source was lost ({error})"));
            }
            Failed::Connection(error) => self.fail(Error::SourceConnection(error)),
            Failed::Passing { doing, reply } => {
                self.doubt(format!("{address} refused {doing} for now ({reply})"))
            }
            Failed::Refused { doing, reply } => {
                self.fail(Error::Scan { address, why: format!("{doing}: {reply}") })
            }
        }
    }

    /// What is to be done next, and nothing that came after event `until`.
    pub(super) fn take(&self, until: u64, most: usize) -> Vec<Todo> {
        let mut state = self.state();
        match state.dirty.oldest() {
            Some(oldest) if oldest <= until => state.dirty.take(most),
            _ => Vec::new(),
        }
    }

    /// The last question, if it has not been answered.
    pub(super) fn question(&self) -> Option<u64> {
        let state = self.state();
        (state.asked > state.answered).then_some(state.asked)
    }

    /// Everything that had happened when this was asked has been written to the stream.
    pub(super) fn answer(&self, question: u64) {
        let mut state = self.state();
        state.answered = state.answered.max(question);
        drop(state);
        self.answers.notify_waiters();
    }

    /// The offset of the stream when everything has been written that had happened before the question; one that is never
    /// reached, where that takes too long.
    pub(super) async fn ask(&self) -> u64 {
        let asked = {
            let mut state = self.state();
            match state.stage {
                Stage::Following => {}
                Stage::Complete => return state.offset,
                Stage::Snapshot => return state.offset + 1,
            }
            state.asked += 1;
            state.asked
        };
        self.work.notify_one();
        let answered = async {
            loop {
                let notified = self.answers.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if self.state().answered >= asked {
                    return;
                }
                notified.await;
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await.is_ok();
        self.state().offset + u64::from(!answered)
    }
}

impl State {
    /// True for a key that must not go over, as the migration itself wrote it.
    pub(super) fn is_own(&self, key: &[u8]) -> bool {
        self.own && key.starts_with(b"keyferry:")
    }

    /// Remembers a stream, whose groups change without events.
    pub(super) fn note_stream(&mut self, shard: usize, db: u64, key: &Bytes) {
        if self.streams.len() < STREAMS {
            self.streams.insert((shard, db, key.clone()));
        }
    }

    pub(super) fn note_reads(&mut self, counts: &mut ReadCounts) {
        let ReadCounts { in_parts, whole_above_limit, sizes_untold } = std::mem::take(counts);
        let line =
            "short pauses of the source: it does not show MEMORY USAGE, so each value is read by one DUMP";
        if sizes_untold && !self.counts.not_promised.iter().any(|before| before == line) {
            self.counts.not_promised.push(line.to_owned());
        }
        self.counts.values_in_parts += in_parts;
        self.counts.values_whole += whole_above_limit;
    }
}
