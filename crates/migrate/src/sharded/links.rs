//! What each link to the source has handed over and what of it is done: memory, and progress.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use keyferry_replication::{Position, ReplicationId};
use tokio::sync::Notify;

use crate::progress::Meter;

/// Bytes of a link that may be in the lanes, sent or not.
pub(crate) const BUDGET: usize = 16 * 1024 * 1024;

/// What it means when a ticket's items are all done, and those of all tickets before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done {
    /// Keys of the snapshot: so many, and the snapshot is applied up to this byte.
    Snapshot { keys: u64, end: u64 },
    /// The stream is applied up to this offset, behind which this database of the source is selected; so many commands.
    Stream { commands: u64, end: u64, db: Option<u64> },
}

#[derive(Debug)]
struct Ticket {
    left: u32,
    /// No more items will be added.
    done: Option<Done>,
}

/// One link's account.
#[derive(Debug)]
pub(crate) struct LinkAccount {
    meter: Meter,
    tickets: VecDeque<Ticket>,
    /// The number of the first of them.
    first: u64,
    retained: usize,
    /// Items that are neither done nor held back.
    under_way: u64,
    /// Bytes that are held back: of slots that are not its shard's yet.
    held: usize,
    /// The replication offset up to which the stream has been handed over.
    pub(crate) handed_over: u64,
    /// Up to where the stream is done, and the source's database there.
    pub(crate) reached: Option<(u64, Option<u64>)>,
    /// The last mark of the stream that the target is known to have.
    pub(crate) marked: Option<u64>,
    /// Up to this offset a run before may have handed over more than it is known to have done.
    pub(crate) replay_until: u64,
    /// What the snapshot stands for that is being applied.
    pub(crate) snapshot: Option<Position>,
    /// Told when there is room again, or when everything is done.
    pub(crate) room: Arc<Notify>,
}

impl LinkAccount {
    pub(crate) fn new(meter: Meter) -> Self {
        LinkAccount {
            meter,
            tickets: VecDeque::new(),
            first: 0,
            retained: 0,
            under_way: 0,
            held: 0,
            handed_over: 0,
            reached: None,
            marked: None,
            replay_until: 0,
            snapshot: None,
            room: Arc::default(),
        }
    }

    /// Opens a ticket for what comes next.
    pub(crate) fn open(&mut self) -> u64 {
        self.tickets.push_back(Ticket { left: 0, done: None });
        self.first + self.tickets.len() as u64 - 1
    }

    /// Says what it means when the ticket is done; it gets no more items.
    pub(crate) fn seal(&mut self, ticket: u64, done: Done) {
        if let Some(ticket) = self.get(ticket) {
            ticket.done = Some(done);
        }
        self.advance();
    }

    /// An item, or whatever else has to happen, counts for `ticket`.
    pub(crate) fn add(&mut self, ticket: u64, cost: usize) {
        self.retained += cost;
        self.under_way += 1;
        if let Some(ticket) = self.get(ticket) {
            ticket.left += 1;
        }
    }

    /// It is held back. Others must not wait for it: what it waits for may come by this very link. Gives the bytes that are
    /// held back now.
    pub(crate) fn hold(&mut self, cost: usize) -> usize {
        self.retained = self.retained.saturating_sub(cost);
        self.under_way = self.under_way.saturating_sub(1);
        self.held += cost;
        self.held
    }

    /// It is under way again.
    pub(crate) fn release(&mut self, cost: usize) {
        self.held = self.held.saturating_sub(cost);
        self.retained += cost;
        self.under_way += 1;
    }

    /// Something that is under way takes so much less of memory.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.retained = self.retained.saturating_sub(bytes);
    }

    /// It has happened.
    pub(crate) fn done(&mut self, ticket: u64, cost: usize) {
        let was_full = !self.has_room();
        self.retained = self.retained.saturating_sub(cost);
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(ticket) = self.get(ticket) {
            ticket.left = ticket.left.saturating_sub(1);
        }
        self.advance();
        if (was_full && self.has_room()) || self.is_settled() {
            self.room.notify_waiters();
        }
    }

    /// The history that its offsets belong to.
    pub(crate) fn history(&self) -> Option<ReplicationId> {
        self.meter.history()
    }

    /// What the snapshot stands for that is being applied, and the byte of it up to which the target has confirmed everything.
    pub(crate) fn snapshot_applied(&self) -> Option<(Position, u64)> {
        let position = self.snapshot.clone().filter(|_| self.reached.is_none())?;
        Some((position, self.meter.snapshot_applied.load(Ordering::Relaxed)))
    }

    /// The target's state says that its stream is there up to here.
    pub(crate) fn keep(&self, end: u64) {
        self.meter.set_kept_offset(end);
    }

    /// How far the source had written when it was asked last.
    pub(crate) fn source_offset(&self) -> Option<u64> {
        self.meter.source_offset()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.retained < BUDGET
    }

    /// True when everything handed over is done or held back.
    pub(crate) fn is_settled(&self) -> bool {
        self.under_way == 0
    }

    /// True when everything handed over is done.
    pub(crate) fn is_idle(&self) -> bool {
        self.tickets.is_empty()
    }

    fn get(&mut self, ticket: u64) -> Option<&mut Ticket> {
        self.tickets.get_mut(usize::try_from(ticket.checked_sub(self.first)?).ok()?)
    }

    fn advance(&mut self) {
        while let Some(Ticket { left: 0, done: Some(done) }) = self.tickets.front() {
            match *done {
                Done::Snapshot { keys, end } => {
                    self.meter.keys_applied.fetch_add(keys, Ordering::Relaxed);
                    self.meter.snapshot_applied.fetch_max(end, Ordering::Relaxed);
                }
                Done::Stream { commands, end, db } => {
                    // Without a database it speaks of no place of the stream; a source may begin at offset 0.
                    let is_place = end > 0 || db.is_some();
                    if is_place && self.reached.is_none_or(|(before, _)| before <= end) {
                        self.reached = Some((end, db));
                    }
                    self.meter.commands_applied.fetch_add(commands, Ordering::Relaxed);
                    self.meter.applied_offset.fetch_max(end, Ordering::Relaxed);
                }
            }
            self.tickets.pop_front();
            self.first += 1;
        }
        if self.is_idle() {
            self.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_follows_the_oldest_ticket() {
        let meter = Meter::default();
        let mut link = LinkAccount::new(meter.clone());
        let (a, b) = (link.open(), link.open());
        link.add(a, 10);
        link.add(b, 10);
        link.seal(a, Done::Stream { commands: 1, end: 100, db: Some(3) });
        link.seal(b, Done::Stream { commands: 2, end: 200, db: None });
        link.done(b, 10);
        assert_eq!(meter.figures().applied_offset, 0);
        assert!(!link.is_idle());
        link.done(a, 10);
        assert_eq!((meter.figures().applied_offset, meter.figures().commands_applied), (200, 3));
        assert!(link.is_idle() && link.has_room());
        assert_eq!(link.reached, Some((200, None)));
    }
}
