//! Going through all that a target holds, node by node, beside the pipelines.

use std::time::{Duration, Instant};

use bytes::Bytes;
use keyferry_client::Error as ClientError;
use keyferry_resp::{Command, ErrorReply, Frame};
use keyferry_routing::SLOTS;

use super::{
    Target,
    aside::{Aside, Cause, refused},
    links::Done,
};
use crate::error::Error;

/// Keys looked at in one go.
const STEP: &str = "1000";

/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Why something could not be done at a node.
#[derive(Debug)]
pub(super) enum Missed {
    Refused(String, ErrorReply),
    Lost(Option<ClientError>),
    /// It cannot be made good.
    Failed(Error),
}

impl Missed {
    /// Takes the first error out of replies.
    pub(super) fn check(address: &str, replies: &[Frame]) -> Result<(), Missed> {
        match replies.iter().find_map(Frame::error_reply) {
            Some(error) => Err(Missed::Refused(address.to_owned(), error)),
            None => Ok(()),
        }
    }
}

/// Repeats until it is done or has been impossible for too long.
pub(super) struct Attempts<'t> {
    target: &'t Target,
    since: Instant,
}

impl<'t> Attempts<'t> {
    pub(super) fn new(target: &'t Target) -> Self {
        Attempts { target, since: Instant::now() }
    }

    /// Waits before the next attempt at what was missed.
    pub(super) async fn again(&self, missed: Missed, command: &Command) -> Result<(), Error> {
        let late = self.target.is_late(self.since);
        match missed {
            Missed::Failed(error) => return Err(error),
            Missed::Refused(address, error) => {
                if !self.target.waits_for(&error, self.since) {
                    return Err(refused(&address, &error, Cause { command, db: 0, offset: None }));
                }
            }
            Missed::Lost(Some(error)) if late => return Err(Error::Target(error)),
            Missed::Lost(_) => {}
        }
        self.target.core().topology.notify_one();
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// Who serves what: when it is the same before and after, nothing has been passed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owners(Vec<Option<usize>>);

impl Owners {
    pub(super) fn of(target: &Target) -> Self {
        let core = target.core();
        Owners((0..SLOTS).map(|slot| core.owner(slot)).collect())
    }

    /// The addresses of all of them.
    pub(super) fn addresses(target: &Target) -> Vec<String> {
        let core = target.core();
        core.owners().into_iter().map(|node| core.node_address(node).to_owned()).collect()
    }

    /// The address of the one that serves a slot.
    pub(super) fn address(target: &Target, slot: u16) -> Option<String> {
        let core = target.core();
        core.owner(slot).map(|node| core.node_address(node).to_owned())
    }
}

/// The keys of one database of one node, in runs. Some may come twice; those that are there all the time do come.
#[derive(Debug)]
pub(super) struct Scan {
    address: String,
    db: u32,
    /// Only of this type.
    kind: Option<&'static str>,
    cursor: Option<Bytes>,
}

impl Scan {
    pub(super) fn new(address: &str, db: u32, kind: Option<&'static str>) -> Self {
        Scan { address: address.to_owned(), db, kind, cursor: Some(Bytes::from_static(b"0")) }
    }

    /// The next run, which may be empty; none at the end.
    pub(super) async fn next(&mut self, aside: &mut Aside<'_>) -> Result<Option<Vec<Bytes>>, Missed> {
        let Some(cursor) = self.cursor.take() else { return Ok(None) };
        let mut args: Vec<&[u8]> = vec![b"SCAN", &cursor, b"COUNT", STEP.as_bytes()];
        if let Some(kind) = self.kind {
            args.extend([&b"TYPE"[..], kind.as_bytes()]);
        }
        let replies = aside.many(&self.address, self.db, &[Command::new(args)]).await?;
        let (next, keys) = scanned(replies.first())
            .ok_or_else(|| Missed::Failed(Error::Internal(format!("{} answers no SCAN", self.address))))?;
        self.cursor = (next != "0").then_some(next);
        Ok(Some(keys))
    }
}

/// Reads the reply to `SCAN` and its like: the next cursor, and what was found.
pub(super) fn scanned(reply: Option<&Frame>) -> Option<(Bytes, Vec<Bytes>)> {
    let Some(Frame::Array(parts)) = reply else { return None };
    let [next, Frame::Array(found)] = &parts[..] else { return None };
    Some((next.as_bytes()?.clone(), found.iter().filter_map(|item| item.as_bytes().cloned()).collect()))
}

impl Target {
    /// Waits until every slot is served by somebody who is known.
    pub(super) async fn served(&self) -> Result<(), Error> {
        let since = Instant::now();
        loop {
            let gap = {
                let core = self.core();
                (0..SLOTS).find(|&slot| core.owner(slot).is_none())
            };
            let Some(slot) = gap else { return Ok(()) };
            if self.is_late(since) {
                return Err(Error::SlotWithoutOwner { slot });
            }
            self.core().topology.notify_one();
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                error = self.failed() => return Err(error),
            }
        }
    }

    /// Waits until everything that has been handed over for these slots is done, and holds what comes behind it until
    /// [`Core::open_gate`](super::core::Core::open_gate) is called with the number that this gives.
    pub(super) async fn quiet(&self, slots: impl IntoIterator<Item = u16>) -> Result<u64, Error> {
        let gate = {
            let mut core = self.core();
            let ticket = core.link(0).map_or(0, |account| account.open());
            let gate = core.add_gate(slots, 0, ticket, 0);
            if let Some(account) = core.link(0) {
                account.seal(ticket, Done::Stream { commands: 0, end: 0, db: None });
            }
            gate
        };
        tokio::select! {
            () = gate.reached.notified() => Ok(gate.id),
            error = self.failed() => Err(error),
        }
    }
}

impl Aside<'_> {
    /// Sends commands to the node at `address`, in database `db`, and gives their replies, none of which is an error.
    pub(super) async fn many(
        &mut self,
        address: &str,
        db: u32,
        commands: &[Command],
    ) -> Result<Vec<Frame>, Missed> {
        let mut replies =
            self.all_at(address, db, commands).await.map_err(|error| Missed::Lost(Some(error)))?;
        Missed::check(address, &replies)?;
        // Those to the selections of the database, before and after them.
        replies.truncate(1 + commands.len());
        replies.drain(..replies.len().min(1));
        Ok(replies)
    }
}
