//! How far each link has come, written into the target's state of the migration where no batch does that by itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use keyferry_replication::Position;
use keyferry_resp::Command;
use tokio::sync::Mutex;

use super::{
    Target,
    aside::{Aside, Cause},
    checkpoint::{LinkName, Reached},
    item::{Item, Mark},
    links::Done,
    state::field,
};
use crate::{error::Error, resume::Applied};

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

/// What has been written: never less than before.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<Links>);

#[derive(Debug, Default)]
struct Links {
    written: HashMap<u16, (u64, String)>,
    /// Of snapshots.
    snapshots: HashMap<u16, String>,
    /// Nothing is written any more.
    closed: bool,
}

/// Writes positions from time to time, until the future is dropped.
pub(super) async fn keep(target: Arc<Target>) {
    let streams = !(target.has_one_lane() && target.is_exact());
    loop {
        tokio::time::sleep(PERIOD).await;
        let written = async {
            target.write_snapshots().await?;
            if streams { target.write_positions().await } else { Ok(()) }
        };
        if let Err(error) = written.await {
            target.core().fail(error);
        }
    }
}

impl Target {
    /// Writes how far every link has come in its stream.
    pub(crate) async fn write_positions(&self) -> Result<(), Error> {
        let links = self.core().link_count();
        for link in (0..links).filter_map(|link| u16::try_from(link).ok()) {
            let reached = self.core().link(link).and_then(|account| account.reached);
            if let Some((end, db)) = reached {
                self.write_position(link, end, db).await?;
            }
        }
        Ok(())
    }

    /// A link begins with the snapshot that stands for this; so much of it is there already.
    pub(crate) async fn begin_snapshot(
        &self,
        link: u16,
        position: &Position,
        skip: u64,
    ) -> Result<(), Error> {
        if let Some(account) = self.core().link(link) {
            account.snapshot = Some(position.clone());
        }
        // What is told of another one must not be taken for it.
        self.write_snapshot(link, position, skip).await
    }

    /// Writes how much is there of the snapshots that are being applied.
    pub(crate) async fn write_snapshots(&self) -> Result<(), Error> {
        let links = self.core().link_count();
        for link in (0..links).filter_map(|link| u16::try_from(link).ok()) {
            let applied = self.core().link(link).and_then(|account| account.snapshot_applied());
            if let Some((position, bytes)) = applied {
                self.write_snapshot(link, &position, bytes).await?;
            }
        }
        Ok(())
    }

    /// What it says has been confirmed before, so that it is no more than a lower bound, whatever becomes of this write.
    async fn write_snapshot(&self, link: u16, position: &Position, bytes: u64) -> Result<(), Error> {
        let mut links = self.positions.0.lock().await;
        let Some(LinkName { name, epoch }) = self.checkpoints().link(link) else { return Ok(()) };
        let text = Applied::snapshot_text(*epoch, position, bytes);
        if links.closed || links.snapshots.get(&link) == Some(&text) {
            return Ok(());
        }
        let command =
            Command::new(["HSET", &self.checkpoints().id().state_key(), &field::snapshot(name), &text]);
        let cause = Cause { command: &command, db: 0, offset: None };
        let slot = self.checkpoints().id().slot();
        Aside::new(self).ask(slot, 0, std::slice::from_ref(&command), cause).await?;
        links.snapshots.insert(link, text);
        Ok(())
    }

    /// Nothing is written any more when this returns.
    pub(crate) async fn close_positions(&self) {
        self.positions.0.lock().await.closed = true;
    }

    /// The snapshot of a link is done: its stream begins behind this offset, in this database of the source. From when it
    /// returns a restart goes on there.
    pub(crate) async fn begin_stream(&self, link: u16, offset: u64, db: u64) -> Result<(), Error> {
        if !(self.has_one_lane() && self.is_exact()) {
            if let Some(account) = self.core().link(link) {
                account.reached = Some((offset, Some(db)));
            }
            return self.write_position(link, offset, Some(db)).await;
        }
        {
            let mut core = self.core();
            let Some(account) = core.link(link) else { return Ok(()) };
            let ticket = account.open();
            core.add_anywhere(Item::nothing(link, offset, db, ticket));
            if let Some(account) = core.link(link) {
                account.seal(ticket, Done::Stream { commands: 0, end: offset, db: Some(db) });
            }
        }
        self.settled(link).await
    }

    /// Writes that everything of a link's stream up to here is done, unless more is written already.
    pub(crate) async fn write_position(&self, link: u16, end: u64, db: Option<u64>) -> Result<(), Error> {
        let mut links = self.positions.0.lock().await;
        if links.closed {
            return Ok(());
        }
        let (history, slots) = {
            let mut core = self.core();
            let slots = core.owned_by(link).map(ToString::to_string);
            (core.link(link).and_then(|account| account.history()), slots)
        };
        let reached = Reached { link, mark: Mark::Stream(end), db };
        let (Some(state), Some(name)) =
            (self.checkpoints().state(reached, history), self.checkpoints().link_name(link))
        else {
            return Ok(());
        };
        // The slots tell what these offsets speak of: both are written together.
        let text = format!("{state} {}", slots.as_deref().unwrap_or(""));
        if links.written.get(&link).is_some_and(|(before, same)| *before > end || *same == text) {
            return Ok(());
        }
        let (key, state) = (self.checkpoints().id().state_key(), state.to_string());
        let mut args = vec!["HSET".to_owned(), key, field::link(name), state];
        args.extend(slots.into_iter().flat_map(|slots| [field::slots(name), slots]));
        let command = Command::new(&args);
        let cause = Cause { command: &command, db: 0, offset: None };
        let slot = self.checkpoints().id().slot();
        Aside::new(self).ask(slot, 0, std::slice::from_ref(&command), cause).await?;
        links.written.insert(link, (end, text));
        if let Some(account) = self.core().link(link) {
            account.keep(end);
        }
        Ok(())
    }
}
