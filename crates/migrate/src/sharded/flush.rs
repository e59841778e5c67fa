//! `FLUSHALL` and `FLUSHDB` of a source: everything that it owned, and no more.

use std::sync::Arc;

use keyferry_client::Error as ClientError;
use keyferry_resp::{Command, ErrorReply, Frame};
use keyferry_routing::{SLOTS, SlotSet, slot};

use super::{
    Databases, Target,
    aside::{Aside, Cause, refused},
    checkpoint::{self, Reached},
    item::Mark,
    state::field,
};
use crate::{
    error::Error,
    filter::Filter,
    identity::{OWNER_PREFIX, STATE_PREFIX},
};

/// Keys looked at in one go.
const STEP: &str = "1000";

/// What of the target is emptied.
pub(crate) struct Flush<'f> {
    pub(crate) command: &'f Command,
    /// The offset before it.
    pub(crate) at: u64,
    /// One database of the target, or all.
    pub(crate) db: Option<u32>,
    /// Only these slots.
    pub(crate) slots: Option<&'f SlotSet>,
    /// Where in the stream it stands, unless it stands in none.
    pub(crate) position: Option<Place>,
    /// Only keys that the filter lets through.
    pub(crate) filter: Option<&'f Owned>,
}

/// Where in a stream something stands that concerns everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) link: u16,
    /// The offset behind it.
    pub(crate) end: u64,
    /// The source's database there.
    pub(crate) db: u64,
}

/// Tells the keys that are the migration's, by their names.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) filter: Arc<Filter>,
    /// The source's database that is emptied; none for all.
    pub(crate) db: Option<u64>,
}

impl Owned {
    /// Whether a key of a database of the target is one of them.
    pub(crate) fn contains(&self, databases: &Databases, db: u32, key: &[u8]) -> bool {
        match self.db {
            Some(db) => self.filter.owns(db, key),
            None => databases.from(u64::from(db)).any(|db| self.filter.owns(db, key)),
        }
    }
}

impl Flush<'_> {
    /// Empties it. The caller holds the gate of all slots concerned. May be carried out again from the beginning, but not
    /// after anything that comes behind it: so that it is done is written before anything does.
    pub(crate) async fn run(&self, target: &Target) -> Result<(), Error> {
        self.empty(target).await?;
        match self.position {
            Some(Place { link, end, db }) => target.write_position(link, end, Some(db)).await,
            None => Ok(()),
        }
    }

    async fn empty(&self, target: &Target) -> Result<(), Error> {
        let mut aside = Aside::new(target);
        let since = std::time::Instant::now();
        loop {
            let owners: Vec<String> = {
                let core = target.core();
                core.owners().into_iter().map(|node| core.node_address(node).to_owned()).collect()
            };
            let mut missed = None;
            for address in &owners {
                match self.at(target, &mut aside, address).await {
                    Ok(()) if aside.confirmed(address).await => {}
                    Ok(()) => missed = Some(Missed::Lost(None)),
                    Err(why) => missed = Some(why),
                }
            }
            let cause = Cause { command: self.command, db: self.db.unwrap_or(0), offset: Some(self.at) };
            let late = target.is_late(since);
            match missed {
                None => return Ok(()),
                Some(Missed::Refused(address, error)) => {
                    if !target.waits_for(&error, since) {
                        return Err(refused(&address, &error, cause));
                    }
                }
                Some(Missed::Lost(Some(error))) if late => return Err(Error::Target(error)),
                Some(Missed::Lost(_)) => {}
            }
            target.core().topology.notify_one();
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    async fn at(&self, target: &Target, aside: &mut Aside<'_>, address: &str) -> Result<(), Missed> {
        if self.slots.is_none() && self.filter.is_none() {
            return self.whole(target, aside, address).await;
        }
        let databases = match self.db {
            Some(db) => db..=db,
            None => 0..=target.databases().last(),
        };
        for db in databases {
            match self.slots {
                Some(slots) if !target.map().is_single() && self.filter.is_none() => {
                    self.by_slot(target, aside, address, db, slots).await?;
                }
                _ => self.scan(target, aside, address, db).await?,
            }
        }
        Ok(())
    }

    async fn whole(&self, target: &Target, aside: &mut Aside<'_>, address: &str) -> Result<(), Missed> {
        let name = if self.db.is_some() { "FLUSHDB" } else { "FLUSHALL" };
        let checkpoints = target.checkpoints();
        let keeps_state = {
            let core = target.core();
            core.owner(checkpoints.id().slot()).is_some_and(|node| core.node_address(node) == address)
        };
        let db = self.db.unwrap_or(0);
        if !keeps_state || (self.db.is_some() && db != 0) {
            return ask(aside, address, db, &[name.as_bytes()]).await.map(drop);
        }
        // What the target keeps of the migration is not the source's to delete.
        let mut commands = vec![Command::new(["MULTI"]), Command::new([name])];
        commands.extend(checkpoints.restoring());
        if let Some(Place { link, db, .. }) = self.position {
            let history = target.core().link(link).and_then(|account| account.history());
            let reached = Reached { link, mark: Mark::Stream(self.at), db: Some(db) };
            if let (Some(state), Some(name)) =
                (checkpoints.state(reached, history), checkpoints.link_name(link))
            {
                let (key, field) = (checkpoints.id().state_key(), field::link(name));
                commands.push(Command::new(["HSET", &key, &field, &state.to_string()]));
            }
        }
        commands.push(Command::new(["EXEC"]));
        let replies = aside.all_at(address, 0, &commands).await.map_err(|e| Missed::Lost(Some(e)))?;
        let inner = replies.iter().flat_map(|reply| match reply {
            Frame::Array(results) => &results[..],
            _ => &[],
        });
        match replies.iter().chain(inner).find_map(Frame::error_reply) {
            Some(error) => Err(Missed::Refused(address.to_owned(), error)),
            None => Ok(()),
        }
    }

    /// Deletes the keys of these slots that a node of a cluster holds.
    async fn by_slot(
        &self,
        target: &Target,
        aside: &mut Aside<'_>,
        address: &str,
        db: u32,
        slots: &SlotSet,
    ) -> Result<(), Missed> {
        for slot in (0..SLOTS).filter(|&slot| slots.contains(slot)) {
            let here = {
                let core = target.core();
                core.owner(slot).is_some_and(|node| core.node_address(node) == address)
            };
            if !here {
                continue;
            }
            loop {
                let number = slot.to_string();
                let args: [&[u8]; 4] = [b"CLUSTER", b"GETKEYSINSLOT", number.as_bytes(), STEP.as_bytes()];
                let reply = ask(aside, address, db, &args).await?;
                let keys: Vec<&[u8]> = keys(&reply).filter(|key| !is_own(key)).collect();
                if keys.is_empty() {
                    break;
                }
                unlink(aside, address, db, keys).await?;
            }
        }
        Ok(())
    }

    /// Deletes the keys that are meant among all that a server holds.
    async fn scan(
        &self,
        target: &Target,
        aside: &mut Aside<'_>,
        address: &str,
        db: u32,
    ) -> Result<(), Missed> {
        let is_meant = |key: &&[u8]| {
            self.slots.is_none_or(|slots| slots.contains(slot(key)))
                && !is_own(key)
                && self.filter.is_none_or(|owned| owned.contains(target.databases(), db, key))
        };
        let mut cursor = b"0".to_vec();
        loop {
            let reply = ask(aside, address, db, &[b"SCAN", &cursor, b"COUNT", STEP.as_bytes()]).await?;
            let Frame::Array(parts) = &reply else { return Ok(()) };
            let [next, found] = &parts[..] else { return Ok(()) };
            let mut keys: Vec<&[u8]> = keys(found).filter(is_meant).collect();
            if target.map().is_single() {
                if !keys.is_empty() {
                    unlink(aside, address, db, keys).await?;
                }
            } else {
                // Nodes of a cluster take those of one slot together.
                keys.sort_by_key(|key| slot(key));
                for keys in keys.chunk_by(|a, b| slot(a) == slot(b)) {
                    unlink(aside, address, db, keys.to_vec()).await?;
                }
            }
            cursor = next.as_bytes().map(|bytes| bytes.to_vec()).unwrap_or_default();
            if cursor == b"0" || cursor.is_empty() {
                return Ok(());
            }
        }
    }
}

/// True for what migrations keep for themselves.
fn is_own(key: &[u8]) -> bool {
    [checkpoint::PREFIX, STATE_PREFIX, OWNER_PREFIX].iter().any(|prefix| key.starts_with(prefix.as_bytes()))
}

/// Why a node was not emptied.
enum Missed {
    Refused(String, ErrorReply),
    Lost(Option<ClientError>),
}

async fn ask(aside: &mut Aside<'_>, address: &str, db: u32, args: &[&[u8]]) -> Result<Frame, Missed> {
    let reply = aside.at(address, db, &Command::new(args)).await.map_err(|e| Missed::Lost(Some(e)))?;
    match reply.error_reply() {
        Some(error) => Err(Missed::Refused(address.to_owned(), error)),
        None => Ok(reply),
    }
}

async fn unlink(aside: &mut Aside<'_>, address: &str, db: u32, keys: Vec<&[u8]>) -> Result<(), Missed> {
    let mut args: Vec<&[u8]> = vec![b"UNLINK"];
    args.extend(keys);
    ask(aside, address, db, &args).await.map(drop)
}

fn keys(reply: &Frame) -> impl Iterator<Item = &[u8]> {
    let items = match reply {
        Frame::Array(items) => &items[..],
        _ => &[],
    };
    items.iter().filter_map(Frame::as_bytes).map(|key| &key[..])
}
