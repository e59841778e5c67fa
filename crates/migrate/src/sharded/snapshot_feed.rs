//! From the keys of a snapshot to items for the lanes.

use std::sync::Arc;

use bytes::Bytes;
use keyferry_resp::CommandDecoder;

use super::{
    Target,
    ahead::Part,
    compute::Across,
    feed::{LIMITS, cut},
    guarded,
    item::{Class, Item, Mark},
    links::Done,
};
use crate::{
    error::Error,
    existing::Handed,
    journal::blocking,
    output::PieceKind,
    pipeline::{Load, Origin},
    throttle::{self, Stage},
};

/// Bytes of keys of a snapshot that one server is given together.
const TOGETHER: usize = 64 * 1024;

/// Hands the keys of one link's snapshot to the lanes.
#[derive(Debug)]
pub(crate) struct SnapshotFeed {
    target: Arc<Target>,
    link: u16,
    /// Items so far.
    count: u64,
    /// How much may have been handed over, where keys that others make end the run.
    handed: Option<Handed>,
}

impl SnapshotFeed {
    pub(crate) fn new(target: Arc<Target>, link: u16) -> Self {
        SnapshotFeed { target, link, count: 0, handed: None }
    }

    /// A key that is there although it is not replaced ends the run; `handed` tells, over restarts, how much has been handed
    /// over.
    pub(crate) fn guarded(self, handed: Option<Handed>) -> Self {
        SnapshotFeed { handed, ..self }
    }

    /// Takes a load of the encoder; waits while too much is under way.
    pub(crate) async fn load(&mut self, load: Load) -> Result<(), Error> {
        self.target.room(self.link).await?;
        self.target.check_existing()?;
        if let (Some(handed), Origin::Snapshot { end, .. }) = (&mut self.handed, load.origin)
            && handed.is_beyond(end)
        {
            let mut moved = handed.clone();
            *handed = blocking(move || moved.cover(end).map(|()| moved)).await?;
        }
        let ticket = self.target.core().link(self.link).map_or(0, |account| account.open());
        let most = self.target.throttle.quantum(Stage::Full);
        let together = usize::try_from(most.bytes).map_or(TOGETHER, |bytes| bytes.min(TOGETHER));
        // Keys that come in parts count when they are done.
        let mut keys_left = match load.origin {
            Origin::Snapshot { keys, .. } => keys,
            Origin::Stream { .. } => 0,
        };
        let mut start = 0;
        let mut pieces = load.pieces.iter().peekable();
        while let Some(&(mut piece)) = pieces.next() {
            let mut keys = u64::from(piece.kind == PieceKind::Key);
            // One server takes keys together, as they need no order; but one by one where some may be refused.
            while self.target.has_one_lane()
                && self.handed.is_none()
                && piece.kind == PieceKind::Key
                && piece.end - start < together
                && keys < most.keys.min(most.commands)
                && let Some(next) = pieces.next_if(|next| next.kind == piece.kind && next.db == piece.db)
            {
                piece.end = next.end;
                piece.commands += next.commands;
                keys += 1;
            }
            if pieces.peek().is_none() {
                keys = keys_left;
            }
            keys_left = keys_left.saturating_sub(keys);
            let taken = throttle::Load {
                bytes: (piece.end - start) as u64,
                keys,
                commands: u64::from(piece.commands),
            };
            self.target.throttled(Stage::Full, Some(piece.slot), taken).await?;
            let bytes = cut(&load.bytes, start..piece.end);
            start = piece.end;
            self.count += 1;
            let class = match piece.kind {
                PieceKind::Key => Class::Free,
                PieceKind::Part => Class::Exact,
                PieceKind::Everywhere => {
                    self.everywhere(&bytes).await?;
                    continue;
                }
            };
            let databases = self.target.databases();
            let db = databases.to(piece.db).map_err(|why| Error::no_route(None, piece.db, None, why))?;
            if self.handed.is_some() && piece.kind == PieceKind::Part && guarded::is_last(&bytes) {
                guarded::place_new(&self.target, piece.slot, db, &bytes).await?;
                continue;
            }
            let item = Item {
                link: self.link,
                mark: Mark::Snapshot(self.count),
                at: 0,
                class,
                db,
                db_after: db,
                source_db: None,
                bytes,
                commands: piece.commands,
                resets: false,
                ticket,
                replay: false,
                part: Part::Whole,
            };
            self.target.core().add(piece.slot, item);
        }
        let done = match load.origin {
            Origin::Snapshot { keys, end } => Done::Snapshot { keys, end },
            Origin::Stream { end, .. } => Done::Stream { commands: 0, end, db: None },
        };
        if let Some(account) = self.target.core().link(self.link) {
            account.seal(ticket, done);
        }
        Ok(())
    }

    async fn everywhere(&self, bytes: &Bytes) -> Result<(), Error> {
        let mut decoder = CommandDecoder::with_limits(LIMITS);
        match decoder.next_ref(bytes) {
            Ok(Some(command)) => Across::new(&self.target).everywhere(&command.to_owned(), None).await,
            _ => Err(Error::Internal("a command of the snapshot cannot be read back".into())),
        }
    }
}
