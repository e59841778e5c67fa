//! The way into the target: writing far ahead of the replies, and knowing which command each reply belongs to.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use keyferry_client::{Connection, Receiver, Sender};
use keyferry_resp::{CommandDecoder, Limits, ReplySkipper, SkippedError};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::{
    error::{Error, Refusal, RefusedAt, show_command},
    output::Piece,
    progress::Meter,
};

/// Bytes that may be on their way to the target without having been answered.
const WINDOW: usize = 4 * 1024 * 1024;

/// A run of commands for the target. Each of them is answered by exactly one reply.
#[derive(Debug)]
pub(crate) struct Load {
    /// The commands, as they go over the wire.
    pub(crate) bytes: Bytes,
    /// How many they are.
    pub(crate) commands: u32,
    pub(crate) origin: Origin,
    /// How the bytes are divided, for a target of several nodes.
    pub(crate) pieces: Vec<Piece>,
}

/// What it means when a load has been answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Keys of the snapshot: so many are done, and the snapshot is applied up to this byte.
    Snapshot { keys: u64, end: u64 },
    /// Commands of the stream between two offsets.
    Stream {
        start: u64,
        end: u64,
        db: Option<u64>,
        /// It ends between `MULTI` and `EXEC`: what it holds is not done when it has been answered.
        in_transaction: bool,
    },
}

/// The pipeline to one target server.
///
/// [`Pipeline::send`] returns when the bytes are written, not when they are answered; a refusal shows up in a
/// later call. What has been confirmed is counted in [`Meter`].
#[derive(Debug)]
pub(crate) struct Pipeline {
    sender: Sender,
    shared: Arc<Shared>,
    replies: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    meter: Meter,
    /// Bytes that may still be sent. Closed when the pipeline has failed.
    window: Semaphore,
    /// Turns true when the pipeline has failed.
    over: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Answered parts of a transaction whose `EXEC` has not been answered.
    open: Vec<Load>,
    in_flight: VecDeque<Load>,
    /// Waits for room in the window.
    waiting: Option<Load>,
    /// Since when the target has owed a reply; renewed by every reply.
    owed_since: Option<Instant>,
    /// Replies that the first load has had.
    answered: u32,
    failure: Option<Error>,
}

impl Pipeline {
    /// `silence` is how long a target may owe a reply.
    pub(crate) fn new(connection: Connection, silence: Duration, meter: Meter) -> Self {
        let address = connection.address().to_string();
        let (sender, receiver) = connection.split();
        let shared = Arc::new(Shared {
            address,
            meter,
            window: Semaphore::new(WINDOW),
            over: watch::Sender::new(false),
            state: Mutex::new(State::default()),
        });
        let replies = tokio::spawn(read_replies(Arc::clone(&shared), receiver, silence));
        Pipeline { sender, shared, replies }
    }

    /// Writes a load when the window has room for it.
    ///
    /// # Errors
    /// When the target has refused an earlier command, or the connection is broken.
    pub(crate) async fn send(&mut self, load: Load) -> Result<(), Error> {
        if load.commands == 0 {
            self.shared.pass(load);
            return Ok(());
        }
        let permits = permits(load.bytes.len());
        let bytes = load.bytes.clone();
        // Kept where it is found again should this future be dropped.
        self.shared.lock().waiting = Some(load);
        let Ok(permit) = self.shared.window.acquire_many(permits).await else { return Err(self.failure()) };
        permit.forget();
        self.shared.meter.in_flight.fetch_add(u64::from(permits), Ordering::Relaxed);
        self.shared.lock().go();
        let mut written = self.sender.write_all(&bytes).await;
        if written.is_ok() {
            // TLS holds bytes back until it is told.
            written = self.sender.flush().await;
        }
        if let Err(e) = written {
            // The target may have said why before it closed: its words are worth more than a broken pipe.
            tokio::time::timeout(Duration::from_millis(500), self.shared.closed()).await.ok();
            self.shared.fail(Error::Target(e));
            return Err(self.failure());
        }
        self.shared.meter.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until everything sent has been answered.
    ///
    /// # Errors
    /// As [`Pipeline::send`].
    pub(crate) async fn drain(&mut self) -> Result<(), Error> {
        match self.shared.window.acquire_many(permits(WINDOW)).await {
            Ok(_released_at_once) => Ok(()),
            Err(_) => Err(self.failure()),
        }
    }

    /// Waits until the pipeline has failed; for a caller that has nothing to send.
    pub(crate) async fn failed(&self) -> Error {
        self.shared.closed().await;
        self.failure()
    }

    fn failure(&self) -> Error {
        let failure = self.shared.lock().failure.take();
        failure.unwrap_or_else(|| Error::Internal("the pipeline to the target ended twice".into()))
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.replies.abort();
    }
}

/// What a load takes of the window. One larger than the window goes out alone.
fn permits(len: usize) -> u32 {
    u32::try_from((len + size_of::<Load>()).min(WINDOW)).unwrap_or(u32::MAX)
}

impl State {
    /// The waiting load is on its way.
    fn go(&mut self) {
        if let Some(load) = self.waiting.take() {
            self.owed_since.get_or_insert_with(Instant::now);
            self.in_flight.push_back(load);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first failure; wakes everybody who waits.
    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.window.close();
        self.over.send_replace(true);
    }

    async fn closed(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        self.over.subscribe().wait_for(|over| *over).await.ok();
    }

    /// Notes `n` good replies.
    fn confirm(&self, mut n: u64) -> Result<(), Error> {
        let mut freed = 0;
        let mut guard = self.lock();
        let state = &mut *guard;
        while n > 0 {
            let Some(load) = state.in_flight.front() else {
                return Err(Error::Internal(format!(
                    "target {} answered more than it was asked",
                    self.address
                )));
            };
            let left = u64::from(load.commands - state.answered);
            if n < left {
                state.answered += u32::try_from(n).unwrap_or(u32::MAX);
                break;
            }
            n -= left;
            state.answered = 0;
            freed += permits(load.bytes.len());
            self.done(load);
            if let Some(load) = state.in_flight.pop_front() {
                match load.origin {
                    Origin::Stream { in_transaction: true, .. } => state.open.push(load),
                    _ => state.open.clear(),
                }
            }
        }
        state.owed_since = (!state.in_flight.is_empty()).then(Instant::now);
        drop(guard);
        self.meter.in_flight.fetch_sub(u64::from(freed), Ordering::Relaxed);
        self.window.add_permits(freed as usize);
        Ok(())
    }

    /// A load without commands is answered when what was sent before it is.
    fn pass(&self, load: Load) {
        let mut state = self.lock();
        match (state.in_flight.back_mut().map(|last| &mut last.origin), load.origin) {
            (Some(Origin::Stream { end, .. }), Origin::Stream { end: passed, .. }) => *end = passed.max(*end),
            _ => self.done(&load),
        }
    }

    fn done(&self, load: &Load) {
        match load.origin {
            Origin::Snapshot { keys, end } => {
                self.meter.keys_applied.fetch_add(keys, Ordering::Relaxed);
                self.meter.snapshot_applied.fetch_max(end, Ordering::Relaxed);
            }
            Origin::Stream { end, in_transaction, .. } => {
                self.meter.commands_applied.fetch_add(u64::from(load.commands), Ordering::Relaxed);
                if !in_transaction {
                    self.meter.applied_offset.fetch_max(end, Ordering::Relaxed);
                }
            }
        }
    }

    /// Finds the command that the next reply, which has this error, belongs to.
    fn refusal(&self, error: &SkippedError<'_>) -> Error {
        let reply = String::from_utf8_lossy(error.text).into_owned();
        let state = self.lock();
        let Some(load) = state.in_flight.front() else {
            return Error::Internal(format!("target {} sent an error unasked: {reply}", self.address));
        };
        let found = find_command(&load.bytes, state.answered, error.element);
        let (origin, db) = match load.origin {
            Origin::Snapshot { .. } => (RefusedAt::Snapshot, found.db),
            Origin::Stream { start, db, .. } => {
                (RefusedAt::Stream { offset: start + found.at as u64 }, found.db.or(db))
            }
        };
        let address = self.address.clone();
        Error::Refused(Box::new(Refusal { address, reply, command: found.shown, db, origin, passed: false }))
    }
}

struct Found {
    at: usize,
    shown: String,
    db: Option<u64>,
}

/// The `index`th command of `bytes`, for an error message. Where that is an `EXEC` whose result has the error as its
/// `element`th, it is that command of the transaction, unless the transaction began in an earlier load.
fn find_command(bytes: &[u8], index: u32, element: Option<u64>) -> Found {
    const LIMITS: Limits = Limits::new().frame_bytes(usize::MAX).bulk_bytes(usize::MAX).elements(usize::MAX);
    let mut decoder = CommandDecoder::with_limits(LIMITS);
    let (mut at, mut db) = (0, None);
    // Where the queued commands of an open transaction begin.
    let mut queued: Option<Vec<usize>> = None;
    for n in 0..=index {
        let Ok(Some(command)) = decoder.next_ref(&bytes[at..]) else { break };
        if n == index {
            let inner = element.and_then(|e| queued?.get(usize::try_from(e).ok()?).copied());
            return match inner {
                Some(at) => Found { db, ..find_command(&bytes[at..], 0, None).moved(at) },
                None => Found { at, shown: show_command(command.args(), command.len()), db },
            };
        }
        if command.is("SELECT") {
            db = command.arg(1).and_then(|a| std::str::from_utf8(a).ok()?.parse().ok());
        }
        if command.is("MULTI") {
            queued = Some(Vec::new());
        } else if command.is("EXEC") {
            queued = None;
        } else if let Some(queued) = &mut queued {
            queued.push(at);
        }
        at += command.raw().len();
    }
    Found { at, shown: "(not found)".into(), db }
}

impl Found {
    fn moved(self, by: usize) -> Self {
        Found { at: self.at + by, ..self }
    }
}

/// Reads replies until the connection ends or the target refuses something.
async fn read_replies(shared: Arc<Shared>, mut receiver: Receiver, silence: Duration) {
    let mut skipper = ReplySkipper::new();
    let mut buf = BytesMut::with_capacity(64 * 1024);
    let error = loop {
        buf.clear();
        match tokio::time::timeout(silence / 4, receiver.read_some(&mut buf)).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => break Error::Target(e),
            Err(_) => {
                if shared.lock().owed_since.is_some_and(|since| since.elapsed() >= silence) {
                    break Error::TargetSilent { address: shared.address.clone(), after: silence };
                }
                continue;
            }
        }
        let mut rest = &buf[..];
        let mut end = None;
        while !rest.is_empty() {
            match skipper.skip(rest, u64::MAX) {
                Ok(skipped) => {
                    rest = &rest[skipped.consumed..];
                    let good = skipped.replies - u64::from(skipped.error.is_some());
                    if let Err(e) = shared.confirm(good) {
                        end = Some(e);
                        break;
                    }
                    if let Some(error) = skipped.error {
                        end = Some(shared.refusal(&error));
                        break;
                    }
                }
                Err(source) => {
                    end = Some(Error::TargetProtocol { address: shared.address.clone(), source });
                    break;
                }
            }
        }
        if let Some(error) = end {
            break error;
        }
    };
    shared.fail(error);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_command_is_found_with_its_place() {
        let mut bytes = BytesMut::new();
        keyferry_resp::encode_command(&mut bytes, ["SELECT", "3"]);
        keyferry_resp::encode_command(&mut bytes, ["SET", "a", "b"]);
        let at = bytes.len();
        keyferry_resp::encode_command(&mut bytes, ["LPUSH", "a", "c d"]);
        let found = find_command(&bytes, 2, None);
        assert_eq!((found.at, found.shown.as_str(), found.db), (at, "LPUSH a \"c d\"", Some(3)));
    }

    #[test]
    fn a_command_refused_inside_a_transaction_is_found() {
        let mut bytes = BytesMut::new();
        for command in [&["MULTI"][..], &["INCR", "n"], &["LPUSH", "s", "x"], &["EXEC"]] {
            keyferry_resp::encode_command(&mut bytes, command);
        }
        let found = find_command(&bytes, 3, Some(1));
        assert_eq!(found.shown, "LPUSH s x");
        assert!(bytes[found.at..].starts_with(b"*3\r\n$5\r\nLPUSH"));
        // The transaction's beginning is out of sight.
        assert_eq!(find_command(&bytes[found.at..], 1, Some(1)).shown, "EXEC");
    }
}
