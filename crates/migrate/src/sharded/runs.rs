//! The stream into one server: commands that belong together go as they came, many at once.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use keyferry_replication::Batch;
use keyferry_resp::{Command, CommandRef, encode_command};

use super::{
    ahead::Part,
    compute::repeatable,
    feed::{At, StreamFeed},
    filtered::Filtered,
    item::{Class, Item, Mark},
};
use crate::{error::Error, expiry::Held, hold::Mode, two_way::Verdict};

/// What one run of commands has, at most; a longer one is cut.
const RUN_BYTES: usize = 128 * 1024;
const RUN_COMMANDS: u32 = 1024;

/// How often the position at the target is moved while the source says nothing that is to be executed.
const MOVE_PERIOD: Duration = Duration::from_secs(5);

/// Commands on their way, as one.
pub(super) struct Gathered {
    bytes: BytesMut,
    pub(super) commands: u32,
    /// The target's database that has to be selected before it.
    db: u32,
    db_after: u32,
    resets: bool,
}

impl StreamFeed {
    /// Hands over the commands of a batch.
    pub(super) async fn runs(&mut self, batch: &Batch, ticket: u64) -> Result<(), Error> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let (mut at, mut run, mut commands) = (0, 0, 0);
        while at < batch.bytes.len() {
            let command = match decoder.next_ref(&batch.bytes[at..]) {
                Ok(Some(command)) => command,
                _ => return Err(Error::Internal("a command of the stream cannot be read back".into())),
            };
            let (before, behind) = (at, at + command.consumed());
            at = behind;
            if let Some(verdict) = self.verdict(&command, batch.start + behind as u64).await? {
                self.run(batch, run..before, commands, ticket)?;
                (run, commands) = (behind, 0);
                if let Verdict::Mark(mark) = verdict {
                    self.put_values(mark, batch.start + behind as u64, ticket).await?;
                }
                continue;
            }
            let simple = self.transaction.is_none() && !self.needs_care(&command);
            let held = if simple { self.held_form(&command) } else { None };
            if simple && held.is_none() {
                commands += 1;
                if let Some(divider) = &mut self.divider {
                    let end = batch.start + behind as u64;
                    divider.take(self.target.table(), &command, &batch.bytes[before..behind], end);
                }
                if behind - run >= RUN_BYTES || commands >= RUN_COMMANDS {
                    self.run(batch, run..behind, commands, ticket)?;
                    (run, commands) = (behind, 0);
                }
                continue;
            }
            self.run(batch, run..before, commands, ticket)?;
            (run, commands) = (behind, 0);
            let offset = |at: usize| batch.start + at as u64;
            let place = At { start: offset(before), mark: Mark::Stream(offset(behind)), steps: 0, ticket };
            match held {
                // A value and its deadline belong together.
                Some(held) => {
                    let mut gathered = Gathered::new();
                    for command in &held.commands {
                        self.gather(command, &place, &mut gathered)?;
                    }
                    self.end(gathered, place.start, offset(behind), ticket)?;
                }
                None => self.careful(&command, &place, offset(behind)).await?,
            }
        }
        self.run(batch, run..at, commands, ticket)?;
        self.decoder = decoder;
        self.tally();
        self.note_silence(batch, ticket);
        Ok(())
    }

    /// The held form of a command that sets a deadline which is to be held. Held deadlines that it takes elsewhere are to be
    /// found there.
    fn held_form(&self, command: &CommandRef<'_>) -> Option<Held> {
        if self.mode == Mode::Off {
            return None;
        }
        self.follow_deadlines(command);
        self.held(command)
    }

    /// True for commands that are not simply passed on.
    fn needs_care(&self, command: &CommandRef<'_>) -> bool {
        if self.changes_commands() {
            return true;
        }
        // By length first: nearly all commands end here.
        match command.name().len() {
            4 => {
                command.is("EXEC")
                    || (!self.target.databases().is_identity() && (command.is("COPY") || command.is("MOVE")))
            }
            5 => command.is("MULTI"),
            6 => command.is("SELECT") || command.is("SWAPDB"),
            7 => command.is("FLUSHDB"),
            8 => command.is("FLUSHALL") || command.is("FUNCTION"),
            _ => false,
        }
    }

    /// Hands over a run of commands, byte for byte.
    fn run(
        &mut self,
        batch: &Batch,
        range: std::ops::Range<usize>,
        commands: u32,
        ticket: u64,
    ) -> Result<(), Error> {
        if commands == 0 {
            return Ok(());
        }
        let (start, end) = (batch.start + range.start as u64, batch.start + range.end as u64);
        let bytes = batch.bytes.slice(range);
        let db = self.target.databases().to(self.db).map_err(|why| {
            let command = self.decoder.next_ref(&bytes).ok().flatten();
            Error::no_route(command.as_ref(), self.db, Some(start), why)
        })?;
        let gathered = Gathered { bytes: BytesMut::new(), commands, db, db_after: db, resets: false };
        self.hand_over(gathered, bytes, start, end, ticket);
        Ok(())
    }

    fn hand_over(&mut self, gathered: Gathered, bytes: Bytes, start: u64, end: u64, ticket: u64) {
        let Gathered { commands, db, db_after, resets, .. } = gathered;
        self.noted = Instant::now();
        let mut item = Item {
            link: self.link,
            mark: Mark::Stream(end),
            at: start,
            class: Class::Exact,
            db,
            db_after,
            source_db: Some(self.db),
            bytes,
            commands,
            resets,
            ticket,
            replay: false,
            part: Part::Whole,
        };
        if let Some(divided) = self.divider.as_mut().and_then(|divider| divider.end(end)) {
            item.divide(divided);
        }
        self.put_item(item);
    }

    fn put_item(&mut self, item: Item) {
        match &mut self.both_ways {
            Some(both_ways) => both_ways.pending.push(item),
            None => self.target.core().add_anywhere(item),
        }
    }

    async fn careful(&mut self, command: &CommandRef<'_>, at: &At, end: u64) -> Result<(), Error> {
        if command.is("MULTI") {
            self.begin(at.start);
            return Ok(());
        }
        if command.is("EXEC") {
            let Some(open) = self.transaction.take() else {
                return Err(self.no_route(command, at, "there was no MULTI before it"));
            };
            let open = self.looked_at(open, end, at.ticket).await?;
            let mut gathered = Gathered::new();
            let first = open.offsets.first().copied().unwrap_or(open.start);
            for (command, start) in open.commands.iter().zip(open.offsets) {
                let at = At { start, mark: Mark::Stream(end), steps: 0, ticket: at.ticket };
                self.gather_filtered(command, &at, &mut gathered)?;
            }
            return self.end(gathered, first, end, at.ticket);
        }
        if let Some(open) = &mut self.transaction {
            open.offsets.push(at.start);
            open.commands.push(command.to_owned());
            return Ok(());
        }
        let mut gathered = Gathered::new();
        self.gather_filtered(&command.to_owned(), at, &mut gathered)?;
        self.end(gathered, at.start, end, at.ticket)
    }

    /// Adds a command in its held form, if it has one.
    fn gather_held(&mut self, command: &Command, at: &At, into: &mut Gathered) -> Result<(), Error> {
        match self.held_form(&command.as_ref()) {
            Some(held) => held.commands.iter().try_for_each(|command| self.gather(command, at, into)),
            None => self.gather(command, at, into),
        }
    }

    /// Adds what the filter leaves of a command.
    pub(super) fn gather_filtered(
        &mut self,
        command: &Command,
        at: &At,
        into: &mut Gathered,
    ) -> Result<(), Error> {
        if command.is("SELECT") {
            return self.gather(command, at, into);
        }
        match self.filtered(&command.as_ref(), at)? {
            Filtered::AsItIs => self.gather_held(command, at, into),
            Filtered::Commands(commands) => {
                commands.iter().try_for_each(|command| self.gather_held(command, at, into))
            }
            Filtered::Flush if into.commands == 0 => self.flush_owned(command, at),
            Filtered::Flush => {
                let why = "it stands in a transaction behind other commands, and is to remove what is chosen only, \
                           which cannot be done at once with them";
                Err(self.no_route(&command.as_ref(), at, why))
            }
        }
    }

    pub(super) fn end(
        &mut self,
        mut gathered: Gathered,
        start: u64,
        end: u64,
        ticket: u64,
    ) -> Result<(), Error> {
        if gathered.commands > 0 {
            let bytes = gathered.bytes.split().freeze();
            self.hand_over(gathered, bytes, start, end, ticket);
        }
        Ok(())
    }

    /// Adds a command in the form in which it goes out.
    fn gather(&mut self, command: &Command, at: &At, into: &mut Gathered) -> Result<(), Error> {
        if command.is("SELECT") {
            self.db = self.selected(&command.as_ref(), at)?;
            return Ok(());
        }
        let db = self.to_db(command, at)?;
        if let Some(divider) = &mut self.divider {
            divider.note(self.target.table(), command);
        }
        into.select(db);
        let (all, one) = (command.is("FLUSHALL"), command.is("FLUSHDB"));
        if one && self.target.databases().is_merged(self.db) {
            let why = "other databases share the target's, and nobody can tell their keys from these";
            return Err(self.no_route(&command.as_ref(), at, why));
        }
        into.resets |= all || (one && db == 0);
        let rewritten = match self.target.databases().rewrite(command, self.db) {
            Ok(rewritten) => rewritten,
            Err(why) => return Err(self.no_route(&command.as_ref(), at, why)),
        };
        if command.is("FUNCTION") {
            into.add(repeatable(command).raw());
        } else {
            into.add(rewritten.as_ref().unwrap_or(command).raw());
        }
        if command.is("SWAPDB") {
            let number = |at: usize| std::str::from_utf8(command.arg(at)?).ok()?.parse::<u32>().ok();
            let (Some(a), Some(b)) = (number(1), number(2)) else { return Ok(()) };
            if a != b && a.min(b) == 0 {
                // What the target keeps of the migration has gone with what was in database 0.
                let id = self.target.checkpoints().id();
                into.resets = true;
                into.select(a.max(b));
                into.encode(&["DEL", &id.state_key(), &id.owner_key()]);
            }
        }
        Ok(())
    }

    /// The offset has moved without anything to be executed: the target should know that, too, from time to time, and at once where a
    /// conflict was told, which the next run would find anew.
    fn note_silence(&mut self, batch: &Batch, ticket: u64) {
        let due = (self.noted.elapsed() >= MOVE_PERIOD || self.leaves_out()) && self.transaction.is_none();
        if due && self.target.is_exact() && self.is_worth_noting(batch) {
            self.noted = Instant::now();
            let nothing = Item::nothing(self.link, batch.end, self.db, ticket);
            self.put_item(nothing);
        }
    }
}

impl Gathered {
    pub(super) fn new() -> Self {
        Gathered { bytes: BytesMut::new(), commands: 0, db: 0, db_after: 0, resets: false }
    }

    pub(super) fn select(&mut self, db: u32) {
        if self.commands == 0 {
            self.db = db;
        } else if self.db_after != db {
            self.encode(&["SELECT", &db.to_string()]);
        }
        self.db_after = db;
    }

    pub(super) fn add(&mut self, raw: &[u8]) {
        self.bytes.extend_from_slice(raw);
        self.commands += 1;
    }

    fn encode(&mut self, args: &[&str]) {
        encode_command(&mut self.bytes, args);
        self.commands += 1;
    }
}
