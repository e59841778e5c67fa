//! How a target is left: so that another run can go on, or with nothing of the migration in it.

use std::time::Duration;

use keyferry_client::{Connection, Pipeline};
use keyferry_resp::Command;
use keyferry_routing::SLOTS;

use super::{
    Target,
    aside::{Aside, Cause},
    checkpoint::{forgetting, slot_key},
    state::field,
};
use crate::{error::Error, fleet::Part, report::Ends, snapshot::Temporary};

/// How long the last position may take to be written.
pub(super) const LEAVE: Duration = Duration::from_secs(3);

/// Leaves the target so that another run can go on; `over` is what is to stand there of links whose stream is over.
pub(super) async fn leave(target: &Target, failed: Option<&Error>, over: &[(String, String)]) {
    if matches!(failed, Some(Error::Fenced { .. } | Error::FencedForGood { .. } | Error::StateGone { .. })) {
        return;
    }
    // What is not written is done again.
    tokio::time::timeout(LEAVE, target.write_snapshots()).await.ok();
    if !(target.has_one_lane() && target.is_exact()) {
        tokio::time::timeout(LEAVE, target.write_positions()).await.ok();
    }
    if !over.is_empty() {
        target.close_positions().await;
        // Where this is not possible, the next one finds out by itself.
        tokio::time::timeout(LEAVE, target.fence().write(over, &[])).await.ok();
    }
    if let Some(Error::Refused(refusal)) = failed
        && refusal.passed
    {
        // The position is behind it: nobody would ever know.
        let refused = [(field::REFUSED.to_owned(), refusal.to_string())];
        tokio::time::timeout(LEAVE, target.fence().write(&refused, &[])).await.ok();
    }
    target.fence().release().await;
}

/// Removes half-built keys of a run that ended early.
pub(super) async fn remove_temporaries(target: &Target, temporaries: &[Temporary], ends: &mut Ends) {
    let mut aside = Aside::new(target);
    for Temporary { db, key, .. } in temporaries {
        let command = Command::new([b"DEL", &key[..]]);
        let Ok(db) = target.databases().to(*db) else { continue };
        let cause = Cause { command: &command, db, offset: None };
        let slot = keyferry_routing::slot(key);
        let commands = std::slice::from_ref(&command);
        let removed =
            tokio::time::timeout(Duration::from_secs(5), aside.ask(slot, db, commands, cause)).await;
        if !matches!(removed, Ok(Ok(_))) {
            ends.notes.push(format!(
                "the half-built key {} in database {db} of the target could not be removed: delete it, or migrate \
                 again, which replaces it",
                key.escape_ascii()
            ));
        }
    }
}

/// Removes the migration's own keys when they are of no more use.
pub(super) async fn remove_checkpoints(target: &Target, ends: &mut Ends) {
    // Whoever writes them from time to time is done with it.
    target.close_positions().await;
    target.fence().end().await;
    let owners: Vec<(String, Vec<u16>)> = {
        let core = target.core();
        // Other workers need theirs.
        let own = |slot: &u16| target.is_ours(*slot);
        let slots =
            |node: usize| (0..SLOTS).filter(own).filter(|&slot| core.owner(slot) == Some(node)).collect();
        core.owners().into_iter().map(|node| (core.node_address(node).to_owned(), slots(node))).collect()
    };
    let id = target.checkpoints().id();
    let mut aside = Aside::new(target);
    let mut all = true;
    for (address, slots) in owners {
        let keys: Vec<(u16, String)> = match target.has_one_lane() {
            true => Vec::new(),
            false => slots.iter().map(|&slot| (slot, slot_key(slot))).collect(),
        };
        let removed = async {
            let options = target.map().connect_options(&address).with_db(0);
            let mut connection = Connection::connect(&options).await.map_err(Error::Target)?;
            let mut ask = Pipeline::new();
            for (_, key) in &keys {
                ask.push(["HKEYS", key]);
            }
            let fields = connection.pipeline(&ask).await.map_err(Error::Target)?;
            let (mut remove, mut of) = (Pipeline::new(), Vec::new());
            let mut elsewhere = Vec::new();
            for (place, fields) in keys.iter().zip(&fields) {
                if fields.error_reply().is_some() {
                    elsewhere.push(place);
                } else if let Some(command) = forgetting(id, &place.1, fields) {
                    remove.push(command.args());
                    of.push(place);
                }
            }
            let replies = connection.pipeline(&remove).await.map_err(Error::Target)?;
            let refused = of.into_iter().zip(&replies).filter(|(_, reply)| reply.error_reply().is_some());
            elsewhere.extend(refused.map(|(place, _)| place));
            // Slots that have gone elsewhere, or are on their way.
            for (slot, key) in elsewhere {
                let command = Command::new(["HKEYS", key]);
                let cause = Cause { command: &command, db: 0, offset: None };
                let fields = aside.ask(*slot, 0, std::slice::from_ref(&command), cause).await?;
                let Some(command) = fields.first().and_then(|fields| forgetting(id, key, fields)) else {
                    continue;
                };
                let cause = Cause { command: &command, db: 0, offset: None };
                aside.ask(*slot, 0, std::slice::from_ref(&command), cause).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = removed.await {
            all = false;
            ends.notes.push(format!(
                "the migration's own keys (keyferry:*) could not all be removed from {address} ({}): delete them",
                error.to_line()
            ));
        }
    }
    if all {
        // At last, as no connection is let through without it.
        let keys = Command::new(["DEL", &id.state_key(), &id.owner_key()]);
        let cause = Cause { command: &keys, db: 0, offset: None };
        if let Err(error) = aside.ask(id.slot(), 0, std::slice::from_ref(&keys), cause).await {
            ends.notes.push(format!(
                "what the target keeps of the migration could not be removed ({}): delete {} and {}",
                error.to_line(),
                id.state_key(),
                id.owner_key()
            ));
        }
    }
}

/// Tells the other workers, where there are others, that this one is done, or that it has not begun after all.
pub(super) async fn leave_fleet(target: &Target, part: Option<&Part>, done: bool, ends: &mut Ends) {
    let Some(part) = part else { return };
    if let Err(error) = part.leave(target.map(), done).await {
        ends.notes.push(format!(
            "what the target keeps of the division among workers could not be changed ({}): delete {} when all have ended",
            error.to_line(),
            part.whole.state_key()
        ));
    }
}
