//! The filter at work on the command stream.

use std::{collections::HashSet, sync::Arc};

use keyferry_resp::{Command, CommandRef};

use super::{
    Target,
    feed::{At, StreamFeed, Transaction},
    flush::{Flush, Owned},
};
use crate::{
    error::Error,
    filter::{Moment, Verdict},
    hold::Mode,
    options::OnLoss,
    translate::Translated,
};

/// What the filter makes of a command.
pub(super) enum Filtered {
    /// It goes on as it is.
    AsItIs,
    /// It goes on as it is, and is to remove what is the migration's only: see [`StreamFeed::flush_filter`].
    Flush,
    /// These go on in its place, as one; there may be none.
    Commands(Vec<Command>),
}

impl StreamFeed {
    /// True when commands may go on as others, or not at all.
    pub(super) fn changes_commands(&self) -> bool {
        let target = &self.target;
        target.filter().is_some() || target.has_script() || target.translation().is_some()
    }

    /// What becomes of a command: what the filter, and a script, leave of it, as the target knows it.
    ///
    /// # Errors
    /// When the filter does not know, and when the target has no place for it.
    pub(super) fn filtered(&mut self, command: &CommandRef<'_>, at: &At) -> Result<Filtered, Error> {
        let chosen = self.chosen(command, at)?;
        match self.rewritten(command, chosen, at)? {
            Filtered::AsItIs => {
                Ok(self.translated(command, at)?.map_or(Filtered::AsItIs, Filtered::Commands))
            }
            Filtered::Flush => Ok(Filtered::Flush),
            Filtered::Commands(commands) => {
                let mut known = Vec::with_capacity(commands.len());
                for command in commands {
                    match self.translated(&command.as_ref(), at)? {
                        Some(commands) => known.extend(commands),
                        None => known.push(command),
                    }
                }
                Ok(Filtered::Commands(known))
            }
        }
    }

    /// What stands for a command that the target does not know; none where it does.
    fn translated(&mut self, command: &CommandRef<'_>, at: &At) -> Result<Option<Vec<Command>>, Error> {
        let Some(translation) = self.target.translation() else { return Ok(None) };
        let name = || String::from_utf8_lossy(command.name()).to_ascii_lowercase();
        match translation.translate(command) {
            Translated::AsItIs => Ok(None),
            Translated::Commands(commands) => {
                *self.target.core().counts.translated.entry(name()).or_default() += 1;
                Ok(Some(commands))
            }
            Translated::Loses(what, _) if translation.on_loss == OnLoss::Fail => {
                let why = format!("the target has no place for {what}; --on-loss drop goes on without");
                Err(self.no_route(command, at, why))
            }
            Translated::Loses(what, commands) => {
                crate::log::lost(command.arg(1).unwrap_or_default(), &what);
                *self.target.core().counts.lost.entry(what).or_default() += 1;
                Ok(Some(commands))
            }
        }
    }

    /// What the filter makes of a command.
    fn chosen(&mut self, command: &CommandRef<'_>, at: &At) -> Result<Filtered, Error> {
        let Some(filter) = self.target.filter() else { return Ok(Filtered::AsItIs) };
        let moment = Moment { db: self.db, clock: self.clock };
        match filter.command(self.target.table(), command, moment, &mut self.filter_counts) {
            Verdict::Pass => Ok(Filtered::AsItIs),
            Verdict::Empty { .. } => Ok(Filtered::Flush),
            Verdict::Drop => Ok(Filtered::Commands(Vec::new())),
            Verdict::Replace(commands) => Ok(Filtered::Commands(commands)),
            Verdict::Refuse(refusal) => {
                self.tally();
                Err(self.no_route(command, at, refusal))
            }
        }
    }

    /// Hands over what stands in the place of a command that ends at this offset.
    pub(super) async fn instead(
        &mut self,
        mut commands: Vec<Command>,
        end: u64,
        at: At,
    ) -> Result<(), Error> {
        if commands.len() > 1 {
            let mut offsets = vec![at.start; commands.len()];
            offsets.push(end);
            let together = Transaction { start: at.start, db: self.db, commands, offsets };
            return self.exec_filtered(together, at.ticket).await;
        }
        match commands.pop() {
            Some(command) => {
                if self.mode != Mode::Off {
                    self.follow_deadlines(&command.as_ref());
                    if let Some(held) = self.held(&command.as_ref()) {
                        return self.add_held(held, at).await;
                    }
                }
                self.other(command, at).await
            }
            None => Ok(()),
        }
    }

    /// What is left of a transaction.
    ///
    /// # Errors
    /// When the filter does not know.
    pub(super) fn filtered_transaction(&mut self, open: Transaction) -> Result<Transaction, Error> {
        if !self.changes_commands() {
            return Ok(open);
        }
        let Transaction { start, db, commands, offsets } = open;
        let mut left = Transaction { start, db, ..Transaction::default() };
        let before = self.db;
        let (mut selects, mut others) = (0, 0);
        for (command, &offset) in commands.into_iter().zip(&offsets) {
            let at = At { start: offset, mark: super::item::Mark::Stream(offset), steps: 0, ticket: 0 };
            if command.is("SELECT") {
                self.db = self.selected(&command.as_ref(), &at)?;
                selects += 1;
                left.commands.push(command);
                left.offsets.push(offset);
                continue;
            }
            let instead = match self.filtered(&command.as_ref(), &at)? {
                Filtered::AsItIs | Filtered::Flush => vec![command],
                Filtered::Commands(commands) => commands,
            };
            others += instead.len();
            left.offsets.extend(instead.iter().map(|_| offset));
            left.commands.extend(instead);
        }
        left.offsets.extend(offsets.last());
        // The database is chosen again on the way; where nothing else is left, here and now.
        if others > 0 || selects == 0 {
            self.db = before;
        }
        if others == 0 {
            left.commands.clear();
        }
        Ok(left)
    }

    /// `FLUSHALL` and `FLUSHDB` into one server, where they are to remove what is the migration's only. How far it is done is
    /// not written: it may be done again until something behind it is done.
    pub(super) fn flush_owned(&mut self, command: &Command, at: &At) -> Result<(), Error> {
        let all = command.is("FLUSHALL");
        if !all && self.shares_database() {
            let why = "other databases share the target's, and nobody can tell their keys from these";
            return Err(self.no_route(&command.as_ref(), at, why));
        }
        let db = if all { None } else { Some(self.to_db(command, at)?) };
        let (owned, command, offset) = (self.flush_filter(all), command.clone(), at.start);
        self.behind_gate(HashSet::from([0]), at, 0, async move |target: Arc<Target>, _| {
            let filter = owned.as_ref();
            Flush { command: &command, at: offset, db, slots: None, position: None, filter }
                .run(&target)
                .await
        });
        Ok(())
    }

    /// Whether another database of the source may have keys where the selected one has them at the target.
    pub(super) fn shares_database(&self) -> bool {
        let databases = self.target.databases();
        let Some(filter) = self.target.filter() else { return databases.is_merged(self.db) };
        let Ok(to) = databases.to(self.db) else { return false };
        databases.from(u64::from(to)).any(|other| other != self.db && !filter.leaves_out_all(other))
    }

    /// How a `FLUSHALL` or `FLUSHDB` knows which keys are the migration's, where not all are.
    pub(super) fn flush_filter(&self, all: bool) -> Option<Owned> {
        let filter = self.target.filter()?;
        if !all && filter.owns_all(self.db) {
            return None;
        }
        Some(Owned { filter: Arc::clone(filter), db: (!all).then_some(self.db) })
    }

    /// Makes what the filter did known to all.
    pub(super) fn tally(&mut self) {
        if let Some(filter) = self.target.filter() {
            filter.tally(&mut self.filter_counts);
        }
        if let Some(rewriting) = &mut self.rewriting {
            rewriting.tally();
        }
    }
}
