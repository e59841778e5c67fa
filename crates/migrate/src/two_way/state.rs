//! What both links know together: which writes are whose, how far each side has the other's, and what meets.
//!
//! # Rules
//!
//! - A transaction in a side's stream that holds the checkpoint of the link that leads there was written by that link. It is left
//!   out, and tells how far this side has the other one's writes: everything behind it was written with that known.
//! - Everything else that is no bookkeeping is an application's own: it goes over, and its keys are noted.
//! - A write meets a write of the other side that its own side did not have. Both links look, each when it comes by a
//!   write, so that of two writes the one that comes second finds the first.
//! - Two removals do not meet: both sides come to the same, as where a key expires on both.

use std::{collections::VecDeque, sync::Arc};

use keyferry_replication::Position;
use keyferry_resp::CommandRef;
use keyferry_routing::{CommandTable, Key};
use tokio::sync::Notify;

use super::{
    Policy, SideName,
    conflicts::{Conflict, ConflictKind, ConflictOutcome, Conflicts},
    report::LinkCounts,
    settling::{Settling, Settlings},
    table::{KeyId, MOST, Met, Table, Write},
};
use crate::error::Error;

/// Both links' common knowledge.
#[derive(Debug)]
pub(super) struct State {
    pub(super) policy: Policy,
    /// The side that each leads from.
    pub(super) links: [LinkState; 2],
    pub(super) conflicts: Conflicts,
    pub(super) settlings: Settlings,
    /// Told when a link has come to where the run before had ended.
    pub(super) level: Arc<Notify>,
}

/// A link, and the side that it reads.
#[derive(Debug, Default)]
pub(super) struct LinkState {
    /// Writes of that side's own applications.
    pub(super) table: Table,
    /// They are noted, and looked at.
    pub(super) armed: bool,
    /// It is known where it goes on.
    begun: bool,
    /// How far that side has what the other wrote, by what has been read of its stream.
    pub(super) seen: u64,
    /// The same, by where it was read, as far back as the target may not know it yet.
    seen_at: VecDeque<(u64, Position)>,
    /// Up to here a run before has carried everything over: it is noted, and no more.
    pub(super) done_before: u64,
    /// Up to here the stream has been looked at.
    pub(super) looked: u64,
    /// Up to here it is being looked at: some of it may be done with, and not handed over yet.
    pub(super) looking: u64,
    pub(super) counts: LinkCounts,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    LeaveOut,
}

/// A write that is being looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) table: &'a CommandTable,
    pub(super) side: SideName,
    pub(super) db: u64,
    pub(super) write: Write,
}

/// What a command does to its keys.
struct Doing<'k> {
    keys: Vec<&'k [u8]>,
    removes: bool,
}

impl State {
    pub(super) fn new(policy: Policy, conflicts: Conflicts) -> Self {
        let link = || LinkState { table: Table::new(MOST), ..LinkState::default() };
        State {
            policy,
            links: [link(), link()],
            conflicts,
            settlings: Settlings::default(),
            level: Arc::default(),
        }
    }

    pub(super) fn link(&mut self, side: SideName) -> &mut LinkState {
        &mut self.links[side.number()]
    }

    /// The link that leads from `side` has come to a transaction that the other one has written there, or to such a write alone:
    /// `side` has what the other one wrote up to `reached`. `at` is where that was read.
    pub(super) fn returned(&mut self, side: SideName, at: u64, reached: Position, commands: u64) {
        let link = self.link(side);
        link.counts.returned_commands += commands;
        link.counts.returned += 1;
        if reached.offset < link.seen {
            return;
        }
        link.seen = reached.offset;
        link.seen_at.push_back((at, reached));
        let seen = link.seen;
        self.link(side.other()).table.confirm(seen);
    }

    /// How far the side has what the other wrote, as of what was read of it up to `at`. It is not asked of what comes before any
    /// more.
    pub(super) fn seen_at(&mut self, side: SideName, at: u64) -> Option<Position> {
        let seen = &mut self.link(side).seen_at;
        while seen.get(1).is_some_and(|(next, _)| *next <= at) {
            seen.pop_front();
        }
        seen.front().filter(|(first, _)| *first <= at).map(|(_, position)| position.clone())
    }

    /// A link begins: `done` is what a run before has carried over, `start` from where it reads, `seen` how far its side had the
    /// other one's writes there.
    pub(super) fn begin(&mut self, side: SideName, done: u64, start: u64, seen: Option<Position>) {
        let link = self.link(side);
        (link.begun, link.done_before, link.looked) = (true, done, start);
        link.table.begin_at(start);
        if let Some(position) = seen {
            link.seen = link.seen.max(position.offset);
            link.seen_at.push_back((0, position));
        }
        self.level.notify_waiters();
    }

    /// True when everything that a run before has carried over has been looked at.
    pub(super) fn is_level(&self, side: SideName) -> bool {
        let link = &self.links[side.number()];
        link.begun && link.looked >= link.done_before
    }

    /// Everything up to here has been looked at.
    pub(super) fn looked(&mut self, side: SideName, at: u64) {
        let was = self.is_level(side);
        let link = self.link(side);
        link.looked = link.looked.max(at);
        if !was && self.is_level(side) {
            self.level.notify_waiters();
        }
    }

    /// Looks at a command of an application of `look.side`, which is noted, and perhaps meets a write of the other side.
    pub(super) fn own(&mut self, look: Look<'_>, command: &CommandRef<'_>) -> Result<Fate, Error> {
        let side = look.side;
        let done = look.write.offset <= self.link(side).done_before;
        if !self.link(side).armed {
            self.link(side).counts.own += 1;
            return Ok(Fate::Pass);
        }
        let fate = match doing(look.table, command) {
            Some(doing) if done => {
                for key in doing.keys {
                    let id = KeyId::of(look.db, key);
                    self.link(side).table.note(look.db, id, look.write, doing.removes);
                }
                return Ok(Fate::LeaveOut);
            }
            None if done => {
                databases(look.db, command)
                    .for_each(|db| self.link(side).table.note_database(db, look.write));
                return Ok(Fate::LeaveOut);
            }
            Some(doing) if doing.keys.is_empty() => Fate::Pass,
            Some(doing) => self.keys(look, &doing)?,
            None => {
                for db in databases(look.db, command) {
                    self.everything(Look { db, ..look })?;
                }
                Fate::Pass
            }
        };
        let counts = &mut self.link(side).counts;
        match fate {
            Fate::Pass => counts.own += 1,
            Fate::LeaveOut => counts.left_out += 1,
        }
        Ok(fate)
    }

    fn keys(&mut self, look: Look<'_>, doing: &Doing<'_>) -> Result<Fate, Error> {
        let (side, db) = (look.side, look.db);
        // Which keys come from the other side now, and whether what this one does to them matters no more.
        let mut settled: Option<bool> = None;
        for key in &doing.keys {
            let found = self.settlings.concerned(side, db, key);
            settled = found.map_or(settled, |leaves| Some(leaves || settled == Some(true)));
            let is_settled = found.is_some() || self.settlings.sends(side, db, key);
            let id = KeyId::of(db, key);
            let seen = self.link(side).seen;
            let met = self.link(side.other()).table.meet(db, id, seen);
            if is_settled {
                self.count_late(look, key, met, doing.removes)?;
                continue;
            }
            if self.meet(look, key, met, doing.removes)? {
                settled = Some(true);
            }
        }
        let leaves = settled == Some(true);
        if let Some(leaves) = settled.filter(|_| doing.keys.len() > 1) {
            // What is made of keys that differ differs.
            for key in &doing.keys {
                self.settle(look, key, Settling::new(side, leaves), Some(side));
            }
        }
        if !leaves {
            for key in &doing.keys {
                self.link(side).table.note(db, KeyId::of(db, key), look.write, doing.removes);
            }
        }
        Ok(if leaves { Fate::LeaveOut } else { Fate::Pass })
    }

    /// Counts what a write meets to a key that is being settled already, as something was refused, and was not counted then.
    fn count_late(&mut self, look: Look<'_>, key: &[u8], met: Met, removes: bool) -> Result<(), Error> {
        let kind = match met {
            Met::Write(_) if !removes => ConflictKind::Written,
            Met::Write(_) => ConflictKind::Removed,
            Met::Removal(_) if !removes => ConflictKind::Removed,
            _ => return Ok(()),
        };
        let (Met::Write(other) | Met::Removal(other)) = met else { return Ok(()) };
        let Some(settling) = self.settlings.get_mut(look.db, key).filter(|settling| !settling.counted) else {
            return Ok(());
        };
        settling.counted = true;
        let outcome = match settling.to {
            SideName::Source => ConflictOutcome::TargetWins,
            SideName::Target => ConflictOutcome::SourceWins,
        };
        let this = (look.side, look.write);
        self.conflicts.add(Conflict::of(kind, (look.db, key), this, Some(other), outcome))
    }

    /// What a write to a key meets is counted, and settled if that is wanted. True when the write is left out.
    fn meet(&mut self, look: Look<'_>, key: &[u8], met: Met, removes: bool) -> Result<bool, Error> {
        let (other, kind) = match met {
            Met::Nothing => return Ok(false),
            Met::Removal(_) if removes => return Ok(false),
            Met::Unknown => {
                self.link(look.side).counts.unknown += 1;
                return Ok(false);
            }
            Met::Removal(other) => (other, ConflictKind::Removed),
            Met::Write(other) if removes => (other, ConflictKind::Removed),
            Met::Write(other) => (other, ConflictKind::Written),
        };
        let winner = match (met, removes) {
            // Nobody can tell whether it was deleted or has expired: a write stays.
            (Met::Removal(_), _) => Some(look.side),
            (_, true) => Some(look.side.other()),
            _ => self.policy.winner((look.side, look.write), other),
        };
        let leaves = winner == Some(look.side.other());
        let outcome = match winner {
            None => ConflictOutcome::Both,
            Some(_) if !self.settle(look, key, Settling::new(look.side, leaves), Some(look.side)) => {
                ConflictOutcome::NotSettled
            }
            Some(SideName::Source) => ConflictOutcome::SourceWins,
            Some(SideName::Target) => ConflictOutcome::TargetWins,
        };
        let this = (look.side, look.write);
        self.conflicts.add(Conflict::of(kind, (look.db, key), this, Some(other), outcome))?;
        Ok(leaves && outcome != ConflictOutcome::NotSettled)
    }

    /// One side's value of a key is to be put on the other. False when too much is being settled.
    fn settle(&mut self, look: Look<'_>, key: &[u8], settling: Settling, by: Option<SideName>) -> bool {
        let added = self.settlings.add(look.db, key, settling, by);
        if added && settling.counted {
            let id = KeyId::of(look.db, key);
            self.links.iter_mut().for_each(|link| link.table.remove(id));
        }
        added
    }

    /// Something that may concern every key of a database.
    fn everything(&mut self, look: Look<'_>) -> Result<(), Error> {
        let seen = self.link(look.side).seen;
        let table = &self.link(look.side.other()).table;
        let (met, forgotten) = (table.count(look.db, seen), table.has_forgotten(seen));
        if forgotten {
            self.link(look.side).counts.unknown += 1;
        }
        if met > 0 {
            let this = (look.side, look.write);
            let (kind, outcome) = (ConflictKind::Everything, ConflictOutcome::NotSettled);
            self.conflicts.add(Conflict::of(kind, (look.db, b"*"), this, None, outcome))?;
        }
        self.link(look.side).table.note_database(look.db, look.write);
        Ok(())
    }

    /// A command that `side` has carried out was refused by the other one.
    pub(super) fn refused(
        &mut self,
        look: Look<'_>,
        command: &CommandRef<'_>,
        reply: String,
    ) -> Result<(), Error> {
        self.link(look.side).counts.refused += 1;
        let keys = doing(look.table, command).map(|doing| doing.keys).unwrap_or_default();
        let name = String::from_utf8_lossy(command.name()).to_ascii_uppercase();
        for key in keys {
            let settling = match self.policy {
                Policy::SourceWins => Settling::of_refused(SideName::Target, true),
                Policy::TargetWins => Settling::of_refused(SideName::Source, true),
                // What it would have made is at its own side.
                // When the other side wrote it, nobody may know yet.
                _ => Settling::of_refused(look.side.other(), false),
            };
            let wins = settling.to.other();
            // Where it was the value itself, there is no other.
            let settles = self.policy != Policy::Report && !command.is("RESTORE");
            if settles {
                self.settlings.turn(look.side, look.db, key, settling);
            }
            let settled = settles && self.settle(look, key, settling, None);
            let outcome = match wins {
                _ if self.policy == Policy::Report => ConflictOutcome::Both,
                _ if !settled => ConflictOutcome::NotSettled,
                SideName::Source => ConflictOutcome::SourceWins,
                SideName::Target => ConflictOutcome::TargetWins,
            };
            let this = (look.side, look.write);
            let mut conflict = Conflict::of(ConflictKind::Refused, (look.db, key), this, None, outcome);
            conflict.refused = Some(format!("{name}: {reply}"));
            self.conflicts.add(conflict)?;
        }
        Ok(())
    }
}

/// What a command does to which keys; none where it may be to any of the database.
fn doing<'k>(table: &CommandTable, command: &CommandRef<'k>) -> Option<Doing<'k>> {
    let mut keys: Vec<Key> = Vec::new();
    let known = table.keys(command, &mut keys).is_ok_and(|spec| {
        let any = keys.is_empty() && !is_about_no_key(command);
        !any && !matches!(spec.name(), "eval" | "evalsha" | "fcall")
    });
    if !known || table.touches_all_keys(command) {
        return None;
    }
    // Both of what is read and of what is written: what is made of a key differs where that does.
    let mut keys: Vec<&[u8]> = keys.iter().filter_map(|key| command.arg(key.index)).collect();
    if keys.len() > 1 {
        keys.sort_unstable();
        keys.dedup();
    }
    Some(Doing { keys, removes: ["DEL", "UNLINK", "HDEL"].iter().any(|name| command.is(name)) })
}

/// Commands that concern no key, so that no database changes.
fn is_about_no_key(command: &CommandRef<'_>) -> bool {
    ["PUBLISH", "SPUBLISH", "FUNCTION", "SCRIPT"].iter().any(|name| command.is(name))
}

/// The databases that a command concerns of which nobody knows the keys.
fn databases(db: u64, command: &CommandRef<'_>) -> impl Iterator<Item = u64> + use<> {
    let number = |at: usize| std::str::from_utf8(command.arg(at)?).ok()?.parse().ok();
    let other = if command.is("SWAPDB") { (number(1), number(2)) } else { (Some(db), None) };
    [other.0, other.1].into_iter().flatten()
}
