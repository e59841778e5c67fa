//! Finding the keys of a side.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use keyferry_client::{Connection, Error as ClientError, Replies};
use keyferry_files::text::short_line;
use keyferry_files::{KeyName, LeftOut, LeftOutCounts};
use keyferry_rdb::{EntryHead, ValueType};
use keyferry_resp::{ErrorReply, Retry, encode_command};
use keyferry_routing::{KeyPattern, SlotSet, slot};

use super::nodes::{LiveSide, Node, Patience, Trouble, connect};
use super::options::LiveOptions;
use super::raw::Strings;
use crate::digest::Hash;
use crate::error::Error;
use crate::options::DiffOptions;

/// What was found besides keys to look at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScanCounts {
    /// Keys that servers gave, among them some twice.
    pub(crate) scanned: u64,
    pub(crate) left_out: LeftOutCounts,
    pub(crate) bookkeeping: u64,
    pub(crate) stray: u64,
    /// Keys that the sample leaves out.
    pub(crate) unsampled: u64,
    /// How often a scan began again, since its server had begun anew.
    pub(crate) restarts: u64,
}

/// Which keys are looked at.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    selection: keyferry_files::Selection,
    bookkeeping: Vec<KeyPattern>,
    /// Whether the selection leaves nothing out.
    everything: bool,
    hash: Hash,
    /// Hashes below this are in the sample.
    sample: Option<u64>,
}

impl Chooser {
    pub(crate) fn new(options: &DiffOptions, live: &LiveOptions, hash: Hash) -> Self {
        let mut selection = options.selection.clone();
        // These two are seen to elsewhere.
        selection.databases.clear();
        selection.kinds.clear();
        let sample = live.sample.map(|sample| (sample.share() * u64::MAX as f64) as u64);
        let everything = selection.is_everything();
        Self { selection, bookkeeping: options.bookkeeping.clone(), everything, hash, sample }
    }

    /// The pattern that all keys match, if there is just one: the server can apply it.
    fn pattern(&self) -> Option<&KeyPattern> {
        match &self.selection.keys[..] {
            [KeyName::Glob(pattern)] => Some(pattern),
            _ => None,
        }
    }

    #[inline]
    fn left_out(&self, key: &[u8]) -> Option<LeftOut> {
        if self.everything {
            return None;
        }
        self.selection.left_out(&EntryHead::new(0, key, ValueType::String))
    }

    pub(crate) fn admits(&self, key: &[u8], slots: Option<&SlotSet>, counts: &mut ScanCounts) -> bool {
        counts.scanned += 1;
        if slots.is_some_and(|slots| !slots.contains(slot(key))) {
            counts.stray += 1;
        } else if self.bookkeeping.iter().any(|pattern| pattern.matches(key)) {
            counts.bookkeeping += 1;
        } else if let Some(reason) = self.left_out(key) {
            counts.left_out.add(reason);
        } else if self.sample.is_some_and(|below| self.hash.key(0, key) >= below) {
            counts.unsampled += 1;
        } else {
            return true;
        }
        false
    }
}

/// A walk over the keys of one node.
pub(crate) struct Scan {
    side: Arc<LiveSide>,
    node: Node,
    db: u32,
    chooser: Arc<Chooser>,
    /// Only keys of these slots.
    slots: Option<SlotSet>,
    batch: usize,
    cursor: Bytes,
    done: bool,
    connection: Option<Connection>,
    /// What tells this run of the server from others: a cursor means nothing to another one.
    run: String,
    pub(crate) counts: ScanCounts,
}

impl Scan {
    pub(crate) fn new(
        side: &Arc<LiveSide>,
        node: Node,
        db: u32,
        chooser: &Arc<Chooser>,
        slots: Option<SlotSet>,
        batch: usize,
    ) -> Self {
        Self {
            side: Arc::clone(side),
            node,
            db,
            chooser: Arc::clone(chooser),
            slots,
            batch: batch.max(1),
            cursor: Bytes::from_static(b"0"),
            done: false,
            connection: None,
            run: String::new(),
            counts: ScanCounts::default(),
        }
    }

    /// The next keys that are looked at; `None` after the last.
    ///
    /// # Errors
    ///
    /// Those of the connection, when it does not come back.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, Error> {
        if self.done {
            return Ok(None);
        }
        let mut patience = Patience::new(self.side.patience());
        let reply = loop {
            let mut trouble = Trouble::default();
            match self.step().await {
                Ok(reply) => {
                    if let Some((next, _)) = scanned(&reply) {
                        self.done = next == b"0" || next.is_empty();
                        // Small, and the reply's buffer need not live as long.
                        self.cursor = Bytes::copy_from_slice(next);
                        break reply;
                    }
                    let error = reply
                        .strip_prefix(b"-")
                        .map(|text| ErrorReply::new(reply.slice_ref(text.trim_ascii_end())));
                    match error {
                        Some(error) if error.retry() == Retry::BackOff => trouble.reply = Some(error),
                        error => {
                            let side = self.side.name().to_owned();
                            let reply =
                                error.map_or_else(|| short_line(&reply, 200), |error| error.to_string());
                            return Err(Error::Refused { side, reply });
                        }
                    }
                }
                Err(error) if error.is_retryable() => {
                    self.connection = None;
                    trouble.error = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
            patience.wait(self.side.name(), trouble).await?;
        };
        let mut chosen = Vec::with_capacity(self.batch.min(1 << 16));
        let keys = scanned(&reply).into_iter().flat_map(|(_, keys)| keys.flatten());
        for key in keys {
            if self.chooser.admits(key, self.slots.as_ref(), &mut self.counts) {
                chosen.push(reply.slice_ref(key));
            }
        }
        Ok(Some(chosen))
    }

    async fn step(&mut self) -> Result<Bytes, ClientError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = connect(&self.node.connect, self.db).await?;
                let run = match connection.info("server").await {
                    Ok(info) => info.get("run_id").unwrap_or_default().to_owned(),
                    Err(ClientError::Server { .. }) => String::new(),
                    Err(error) => return Err(error),
                };
                if &self.cursor[..] != b"0" && (run != self.run || run.is_empty()) {
                    self.cursor = Bytes::from_static(b"0");
                    self.counts.restarts += 1;
                }
                self.run = run;
                connection
            }
        };
        let count = self.batch.to_string();
        let mut args: Vec<&[u8]> = vec![b"SCAN", &self.cursor, b"COUNT", count.as_bytes()];
        if let Some(pattern) = self.chooser.pattern() {
            args.extend([b"MATCH", pattern.as_bytes()]);
        }
        let (mut command, mut replies) = (BytesMut::new(), Replies::new());
        encode_command(&mut command, args);
        connection.skim(&command, 1, &mut replies).await?;
        self.connection = Some(connection);
        Ok(replies.into_bytes())
    }
}

/// The cursor and the keys in a reply to `SCAN`; `None` for another one.
fn scanned(reply: &[u8]) -> Option<(&[u8], Strings<'_>)> {
    let (cursor, keys) = Strings::of(reply)?.pair()?;
    Some((cursor, Strings::of(keys)?))
}
