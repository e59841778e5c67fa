//! A stream of which parts were written by another link, in the other direction: see [`crate::two_way`].

use std::sync::Arc;

use keyferry_replication::Batch;
use keyferry_resp::CommandRef;

use super::{
    Target,
    feed::{At, StreamFeed, Transaction},
    item::{Item, Mark},
    runs::Gathered,
};
use crate::{
    error::Error,
    two_way::{Link, LinkCounts, Looked, Place, Verdict},
};

/// What a feed has to know of it.
#[derive(Debug)]
pub(super) struct BothWays {
    link: Arc<Link>,
    /// What is handed over when everything has been noted that has to be before.
    pub(super) pending: Vec<Item>,
    /// The other link has looked at everything that a run before has carried over.
    level: bool,
    /// What had been done, and up to where the stream was, when the target was told last how far it is.
    told: (LinkCounts, u64),
}

impl BothWays {
    pub(super) fn new(link: &Arc<Link>) -> Self {
        BothWays { link: Arc::clone(link), pending: Vec::new(), level: false, told: Default::default() }
    }
}

impl StreamFeed {
    /// A batch that ends at this offset is going to be looked at.
    pub(super) fn look(&self, end: u64) {
        if let Some(both_ways) = &self.both_ways {
            both_ways.link.looks(end);
        }
    }

    /// What becomes of a command that stands alone, and ends at this offset; none where it goes on as ever.
    pub(super) async fn verdict(
        &mut self,
        command: &CommandRef<'_>,
        end: u64,
    ) -> Result<Option<Verdict>, Error> {
        let Some(both_ways) = &self.both_ways else { return Ok(None) };
        let link = Arc::clone(&both_ways.link);
        let within = self.transaction.is_some() && !command.is("EXEC");
        if within || command.is("SELECT") || command.is("MULTI") {
            return Ok(None);
        }
        self.wait_level(&link, end).await?;
        if command.is("EXEC") {
            return Ok(None);
        }
        let place = Place { db: self.db, end, time: self.clock };
        match link.command(self.target.table(), command, place)? {
            Verdict::Pass => Ok(None),
            verdict => Ok(Some(verdict)),
        }
    }

    /// What of a transaction goes on; values that belong before it are put.
    pub(super) async fn looked_at(
        &mut self,
        mut open: Transaction,
        end: u64,
        ticket: u64,
    ) -> Result<Transaction, Error> {
        let Some(both_ways) = &self.both_ways else { return Ok(open) };
        let place = Place { db: open.db, end, time: self.clock };
        let Looked { passes, marks } =
            both_ways.link.transaction(self.target.table(), &open.commands, place)?;
        for mark in marks {
            self.put_values(mark, end, ticket).await?;
        }
        let mut each = passes.iter().copied().chain(std::iter::repeat(true));
        open.commands.retain(|_| each.next().unwrap_or(true));
        let mut each = passes.iter().copied().chain(std::iter::repeat(true));
        open.offsets.retain(|_| each.next().unwrap_or(true));
        Ok(open)
    }

    /// Waits until it is known what a command can meet, where it is the first that was not carried over before.
    async fn wait_level(&mut self, link: &Link, end: u64) -> Result<(), Error> {
        let Some(both_ways) = self.both_ways.as_mut().filter(|both_ways| !both_ways.level) else {
            return Ok(());
        };
        let before = link.done_before();
        if end <= before {
            return Ok(());
        }
        // So that neither waits for the other for ever.
        link.looked(before);
        while !link.other_is_level().await {
            go_on(&self.target)?;
        }
        both_ways.level = true;
        Ok(())
    }

    /// Puts the values that a mark stands for, which ends at this offset.
    pub(super) async fn put_values(&mut self, mark: u64, end: u64, ticket: u64) -> Result<(), Error> {
        let Some(both_ways) = &self.both_ways else { return Ok(()) };
        let link = Arc::clone(&both_ways.link);
        let values = loop {
            match link.values(mark).await {
                Ok(values) => break values,
                Err(_) => go_on(&self.target)?,
            }
        };
        if values.is_empty() {
            return Ok(());
        }
        let db = self.db;
        let at = At { start: end, mark: Mark::Stream(end), steps: 0, ticket };
        let mut gathered = Gathered::new();
        for value in &values {
            self.db = value.db;
            self.gather_filtered(&value.command, &at, &mut gathered)?;
        }
        self.db = db;
        gathered.select(0);
        gathered.add(link.settled(mark).raw());
        self.end(gathered, end, end, ticket)
    }

    /// Hands over what a batch that ends at this offset has come to.
    pub(super) async fn hand_over_pending(&mut self, end: u64) -> Result<(), Error> {
        let Some(both_ways) = &mut self.both_ways else { return Ok(()) };
        let found = both_ways.link.note_found().await?;
        {
            let mut core = self.target.core();
            both_ways.pending.drain(..).for_each(|item| core.add_anywhere(item));
        }
        both_ways.link.handed_over(found, end);
        Ok(())
    }

    /// True when a write of an application was left out since the target was told last how far it is.
    pub(super) fn leaves_out(&self) -> bool {
        self.both_ways.as_ref().is_some_and(|of| of.link.left_out() != of.told.0.left_out)
    }

    /// True when the target should be told how far the stream has come, although there is nothing to be carried out.
    pub(super) fn is_worth_noting(&mut self, batch: &Batch) -> bool {
        let Some(both_ways) = &mut self.both_ways else { return true };
        if batch.end <= both_ways.link.done_before() {
            return false;
        }
        let (counts, before) = &mut both_ways.told;
        let bytes = batch.end.saturating_sub(*before);
        let worth = both_ways.link.is_worth_noting(counts, bytes);
        if worth {
            *before = batch.end;
        }
        worth
    }
}

/// # Errors
/// When the target has failed: nobody waits any more.
fn go_on(target: &Target) -> Result<(), Error> {
    if target.core().has_failed() { Err(super::gone()) } else { Ok(()) }
}
