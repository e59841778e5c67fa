//! From what the source sends to items for the lanes.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use keyferry_replication::Batch;
use keyferry_resp::{Command, CommandDecoder, CommandRef, ErrorReply, Limits};
use keyferry_routing::{Route, SLOTS, SlotSet, Step};

use super::{
    Target,
    ahead::{Divider, Part},
    both_ways::BothWays,
    compute::{Across, Place},
    filtered::Filtered,
    flush::{self, Flush},
    item::{Class, Item, Mark},
    links::Done,
    msetex,
};
use crate::{
    error::Error,
    expiry::Held,
    filter::Counts,
    hold::{Mode, carries_deadlines},
    pipeline::{Load, Origin},
    progress::Meter,
    rewrite::Rewriting,
    snapshot::now_ms,
    throttle::{self, Stage, divided},
};

/// Items below this size are copied out of the buffer that they came in: a slice would keep all of it alive.
const SMALL: usize = 16 * 1024;

/// Bytes of the stream that may be handed over and not done, while parts of it are held back.
const MOST_UNAPPLIED: usize = 512 * 1024 * 1024;

/// What a command that waits for a gate takes of memory, beside its own bytes: a task, and entries in its lanes.
const GATE_COST: usize = 2048;

pub(crate) const LIMITS: Limits = Limits::new()
    .frame_bytes(usize::MAX)
    .bulk_bytes(usize::MAX)
    .elements(usize::MAX)
    .total_elements(usize::MAX);

/// Hands one link's command stream to the lanes.
pub(crate) struct StreamFeed {
    pub(super) target: Arc<Target>,
    pub(super) link: u16,
    /// The source's database.
    pub(super) db: u64,
    /// The commands since `MULTI`, each with the offsets before and behind it.
    pub(super) transaction: Option<Transaction>,
    /// The source is one shard of a cluster.
    pub(super) shard: bool,
    pub(super) decoder: CommandDecoder,
    /// When something was handed over last that moves the position at the target.
    pub(super) noted: Instant,
    meter: Meter,
    /// What has been handed over and not been done, as it came.
    unapplied: VecDeque<Load>,
    unapplied_bytes: usize,
    /// Slots that the shard is being given as a whole, by the name of the job.
    pub(super) imports: HashMap<Vec<u8>, SlotSet>,
    /// Which deadlines are held, while a batch is handed over.
    pub(super) mode: Mode,
    /// When the batch came, and when it is handed over; Unix times in milliseconds.
    pub(super) clock: i64,
    now: i64,
    /// What the filter did since that was made known to all.
    pub(super) filter_counts: Counts,
    /// A script at work, once there was something for it.
    pub(super) rewriting: Option<Rewriting>,
    /// Where something of a run may go ahead of its transaction.
    pub(super) divider: Option<Divider>,
    /// Where there is another link in the other direction.
    pub(super) both_ways: Option<BothWays>,
}

#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// The offset before `MULTI`.
    pub(super) start: u64,
    /// The source's database there.
    pub(super) db: u64,
    pub(super) commands: Vec<Command>,
    /// The offsets before each, and the one behind the last.
    pub(super) offsets: Vec<u64>,
}

/// A command and where it came from.
pub(super) struct At {
    /// The offset before it.
    pub(super) start: u64,
    pub(super) mark: Mark,
    /// The first of two marks that are free for it, where it is done in steps.
    pub(super) steps: u64,
    pub(super) ticket: u64,
}

impl StreamFeed {
    /// `db` is the source's database in which the stream begins; `shard` tells whether the source is one of a cluster.
    pub(crate) fn new(target: Arc<Target>, link: u16, db: u64, shard: bool, meter: Meter) -> Self {
        let decoder = CommandDecoder::with_limits(LIMITS);
        let (unapplied, imports) = (VecDeque::new(), HashMap::new());
        let divider = target.goes_ahead().then(Divider::new);
        let both_ways = target.two_way().map(BothWays::new);
        StreamFeed {
            target,
            link,
            db,
            transaction: None,
            shard,
            decoder,
            noted: Instant::now(),
            meter,
            unapplied,
            unapplied_bytes: 0,
            imports,
            mode: Mode::Off,
            clock: 0,
            now: 0,
            filter_counts: Counts::default(),
            rewriting: None,
            divider,
            both_ways,
        }
    }

    /// Takes a batch of commands; waits while too much is under way, and as long as it is throttled.
    pub(crate) async fn batch(&mut self, batch: Batch, received: u64) -> Result<(), Error> {
        let most = self.target.throttle.quantum(Stage::Incremental);
        if batch.bytes.len() as u64 <= most.bytes && u64::from(batch.commands) <= most.commands {
            return self.part(batch, received).await;
        }
        let parts = divided(&batch, most)
            .ok_or_else(|| Error::Internal("a batch of the stream cannot be divided".into()))?;
        for part in parts {
            self.part(part, received).await?;
        }
        Ok(())
    }

    async fn part(&mut self, batch: Batch, received: u64) -> Result<(), Error> {
        let load =
            throttle::Load { bytes: batch.bytes.len() as u64, keys: 0, commands: u64::from(batch.commands) };
        // Into a cluster, each command finds its node by itself.
        let node = self.is_unsplit().then_some(0);
        self.target.throttled(Stage::Incremental, node, load).await?;
        self.forget_applied();
        let Batch { start, end, db, in_transaction, .. } = batch;
        self.unapplied_bytes += batch.bytes.len();
        if self.unapplied_bytes > MOST_UNAPPLIED {
            // Only what is held back can be in the way for so long.
            let slots = self.target.core().held_slots(self.link).to_string();
            return Err(Error::SlotsMoving { slots, shard: self.link, held: self.unapplied_bytes });
        }
        self.unapplied.push_back(Load {
            bytes: batch.bytes.clone(),
            commands: batch.commands,
            origin: Origin::Stream { start, end, db, in_transaction },
            pieces: Vec::new(),
        });
        self.target.room(self.link).await?;
        self.target.check_existing()?;
        let hold = Arc::clone(self.target.hold());
        let mode = hold.mode().await;
        (self.mode, self.now) = (*mode, now_ms());
        self.clock = i64::try_from(received).unwrap_or(self.now);
        let ticket = self.target.core().link(self.link).map_or(0, |account| account.open());
        if let Some(db) = batch.db.filter(|_| self.transaction.is_none()) {
            self.db = db;
        }
        if self.is_unsplit() {
            self.look(end);
            self.runs(&batch, ticket).await?;
            self.hand_over_pending(end).await?;
        } else {
            self.divide(&batch, ticket).await?;
        }
        let commands = u64::from(batch.commands);
        let done = match &self.transaction {
            None => Done::Stream { commands, end, db: Some(self.db) },
            // What it holds is not even in the lanes.
            Some(open) => Done::Stream { commands, end: open.start, db: Some(open.db) },
        };
        if let Some(account) = self.target.core().link(self.link) {
            account.seal(ticket, done);
            account.handed_over = end;
        }
        Ok(())
    }

    /// Hands over one command at a time, each to its slot.
    async fn divide(&mut self, batch: &Batch, ticket: u64) -> Result<(), Error> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let mut at = 0;
        while at < batch.bytes.len() {
            let command = match decoder.next_ref(&batch.bytes[at..]) {
                Ok(Some(command)) => command,
                _ => return Err(Error::Internal("a command of the stream cannot be read back".into())),
            };
            let start = batch.start + at as u64;
            let consumed = command.consumed();
            let end = start + consumed as u64;
            let raw = at + command.skipped()..at + consumed;
            at += consumed;
            let place = At { start, mark: Mark::Stream(end), steps: start + 1, ticket };
            self.throttled_by_node(&command).await?;
            self.command(&command, &batch.bytes, raw, end, place).await?;
        }
        self.decoder = decoder;
        self.tally();
        Ok(())
    }

    /// Waits until the node that serves a command's slot may be given it, where nodes have limits of their own.
    async fn throttled_by_node(&self, command: &CommandRef<'_>) -> Result<(), Error> {
        if !self.target.throttle.limits_nodes() {
            return Ok(());
        }
        let Route::Slot(slot) = self.target.table().route(command) else { return Ok(()) };
        let load = throttle::Load { bytes: command.raw().len() as u64, keys: 0, commands: 1 };
        self.target.throttled_at(slot, load).await
    }

    fn forget_applied(&mut self) {
        let applied = self.meter.applied_offset.load(Ordering::Relaxed);
        let is_applied = |load: &Load| matches!(load.origin, Origin::Stream { end, .. } if end <= applied);
        while self.unapplied.front().is_some_and(is_applied) {
            let applied = self.unapplied.pop_front();
            self.unapplied_bytes -= applied.map_or(0, |load| load.bytes.len());
        }
    }

    async fn command(
        &mut self,
        command: &CommandRef<'_>,
        buffer: &Bytes,
        raw: Range<usize>,
        end: u64,
        at: At,
    ) -> Result<(), Error> {
        if command.is("SELECT") {
            self.db = self.selected(command, &at)?;
            return Ok(());
        }
        if command.is("MULTI") {
            self.begin(at.start);
            return Ok(());
        }
        if command.is("EXEC") {
            let Some(mut open) = self.transaction.take() else {
                if self.target.core().may_be_done(self.link, at.mark) {
                    // A run before came to its end within the transaction, at something that concerns everything.
                    return Ok(());
                }
                return Err(self.no_route(command, &at, "there was no MULTI before it"));
            };
            open.offsets.push(end);
            return self.exec(open, at.ticket).await;
        }
        if let Some(open) = &mut self.transaction {
            open.offsets.push(at.start);
            open.commands.push(command.to_owned());
            return Ok(());
        }
        if self.changes_commands() {
            match self.filtered(command, &at)? {
                Filtered::AsItIs | Filtered::Flush => {}
                Filtered::Commands(commands) => return self.instead(commands, end, at).await,
            }
        }
        if self.mode != Mode::Off {
            self.follow_deadlines(command);
            if let Some(held) = self.held(command) {
                return self.add_held(held, at).await;
            }
        }
        // The common case: one slot, and the bytes as they came.
        if !self.is_special(command)
            && let Route::Slot(slot) = self.target.table().route(command)
        {
            let class = self.class(command);
            return self.add(Some(slot), class, cut(buffer, raw), 1, &at);
        }
        self.other(command.to_owned(), at).await
    }

    /// The held form of a command that sets a deadline which is to be held.
    pub(super) fn held(&self, command: &CommandRef<'_>) -> Option<Held> {
        let db = self.target.databases().to(self.db).ok();
        self.target.hold().hold(self.mode, command, db, (self.clock, self.now))
    }

    /// Held deadlines that a command takes elsewhere are to be found there.
    pub(super) fn follow_deadlines(&self, command: &CommandRef<'_>) {
        if carries_deadlines(command) {
            self.target.hold().follow(&command.to_owned(), self.target.databases().to(self.db).ok());
        }
    }

    pub(super) async fn add_held(&mut self, held: Held, at: At) -> Result<(), Error> {
        let mut commands = held.commands;
        if commands.len() == 1
            && let Some(command) = commands.pop()
        {
            return self.other(command, at).await;
        }
        // A value and its deadline: they belong together.
        let slot = commands.first().and_then(|command| command.arg(1)).map(keyferry_routing::slot);
        self.add_all(slot, &commands, &at)
    }

    /// A transaction's commands in their held form, where they have one.
    fn hold_all(&self, open: &mut Transaction) {
        let commands = std::mem::take(&mut open.commands);
        let mut offsets = std::mem::take(&mut open.offsets).into_iter();
        for command in commands {
            let start = offsets.next().unwrap_or(open.start);
            self.follow_deadlines(&command.as_ref());
            let held = self.held(&command.as_ref()).map_or_else(|| vec![command], |held| held.commands);
            open.offsets.extend(held.iter().map(|_| start));
            open.commands.extend(held);
        }
        open.offsets.extend(offsets);
    }

    /// Commands that are not forwarded as they are.
    fn is_special(&self, command: &CommandRef<'_>) -> bool {
        let name = command.name();
        // By length first: nearly all commands end here.
        match name.len() {
            4 => command.is("COPY") || command.is("MOVE"),
            6 => command.is("SWAPDB") || command.is("SCRIPT") || self.is_unchecked(command),
            7 => command.is("FLUSHDB") || command.is("CLUSTER") || (self.shard && command.is("RESTORE")),
            8 => command.is("FLUSHALL") || command.is("FUNCTION"),
            9 => command.is("TRIMSLOTS"),
            14 => command.is("RESTORE-ASKING"),
            _ => false,
        }
    }

    /// Everything but the common case.
    pub(super) async fn other(&mut self, command: Command, at: At) -> Result<(), Error> {
        let table = self.target.table();
        let rewritten = self.target.databases().rewrite(&command, self.db);
        let command = match rewritten {
            Ok(rewritten) => rewritten.unwrap_or(command),
            Err(why) => return Err(self.no_route(&command.as_ref(), &at, why)),
        };
        let command = if command.is("RESTORE") || command.is("RESTORE-ASKING") {
            restore_replacing(&command)
        } else {
            command
        };
        if table.touches_all_keys(&command) && !command.is("SWAPDB") {
            return self.flush(command, at).await;
        }
        if command.is("TRIMSLOTS") {
            return self.trim(&command, &at);
        }
        if command.is("CLUSTER") && self.shard {
            return self.import(&command, &at);
        }
        if command.is("FUNCTION") || command.is("SCRIPT") {
            return Across::new(&self.target).everywhere(&command, Some(at.start)).await;
        }
        let route = table.route(&command);
        if matches!(route, Route::Split(_) | Route::Compute(_)) && self.target.refuses_cross_slot() {
            let why =
                "its keys are in several slots, and such commands are to be refused (--cross-slot fail)";
            return Err(self.no_route(&command.as_ref(), &at, why));
        }
        match route {
            Route::Slot(slot) => self.add_part(slot, command, &at),
            Route::Split(split) => {
                self.target.core().counts.note_cross_slot(&command, "split");
                split.parts.into_iter().try_for_each(|part| self.add_part(part.slot, part.command, &at))
            }
            Route::Compute(compute) => {
                self.target.core().counts.note_cross_slot(&command, "computed at the target");
                let slots: HashSet<u16> = compute.keys.iter().map(|&(_, slot)| slot).collect();
                let db = self.to_db(&command, &at)?;
                let (link, mark, ticket) = (self.link, Mark::Stream(at.steps), at.ticket);
                let cost = command.raw().len() + GATE_COST;
                self.behind_gate(slots, &at, cost, async move |target: Arc<Target>, gate| {
                    let place = Place { link, mark, at: at.start, db, ticket, gate };
                    let done = Across::new(&target).compute(&command, &compute, place).await;
                    let Err(Error::Refused(refusal)) = &done else { return done };
                    let reply = ErrorReply::new(refusal.reply.clone());
                    let kept = match target.windows().of(&reply) {
                        None => {
                            target.core().keep_refused(link, Some(at.start), db, command.raw(), &reply)?
                        }
                        Some(_) => false,
                    };
                    if kept { Ok(()) } else { done }
                });
                Ok(())
            }
            Route::EveryPrimary => Across::new(&self.target).everywhere(&command, Some(at.start)).await,
            // Messages and the like: at one node, once, in no order with anything but its like.
            Route::Once => {
                let slot = command.arg(1).map_or(0, keyferry_routing::slot);
                if !self.target.is_ours(slot) {
                    // Whose slot its channel is in.
                    self.target.core().counts.of_other_workers += 1;
                    return Ok(());
                }
                self.add(None, Class::Exact, command.into_raw(), 1, &at)
            }
            Route::Refuse(why) => Err(self.no_route(&command.as_ref(), &at, why)),
            _ => Err(self.no_route(&command.as_ref(), &at, "this program knows no way for it")),
        }
    }

    /// Carries out a transaction of the source: as one where it stays in one slot, else one for each slot.
    async fn exec(&mut self, open: Transaction, ticket: u64) -> Result<(), Error> {
        let open = self.filtered_transaction(open)?;
        if open.commands.is_empty() { Ok(()) } else { self.exec_filtered(open, ticket).await }
    }

    /// The same of a transaction that the filter has seen.
    pub(super) async fn exec_filtered(&mut self, mut open: Transaction, ticket: u64) -> Result<(), Error> {
        let one_by_one = open.commands.iter().map(Command::as_ref).any(|command| {
            command.is("SELECT") || (self.is_special(&command) && !self.is_unchecked(&command))
        });
        if one_by_one {
            // Something in it concerns more than keys of one slot.
            self.target.core().counts.transactions_divided += 1;
            let ends = open.offsets.iter().skip(1);
            for ((command, &start), &end) in open.commands.into_iter().zip(&open.offsets).zip(ends) {
                let at = At { start, mark: Mark::Stream(end), steps: start + 1, ticket };
                if command.is("SELECT") {
                    self.db = self.selected(&command.as_ref(), &at)?;
                    continue;
                }
                self.follow_deadlines(&command.as_ref());
                match self.held(&command.as_ref()) {
                    Some(held) => self.add_held(held, at).await?,
                    None => self.other(command, at).await?,
                }
            }
            return Ok(());
        }
        if self.mode != Mode::Off {
            self.hold_all(&mut open);
        }
        let plan = match self.all_checked(&open)? {
            Some(commands) => self.target.table().plan_transaction(&commands),
            None => self.target.table().plan_transaction(&open.commands),
        };
        if plan.len() > 1 {
            self.target.core().counts.transactions_divided += 1;
        }
        // Each step has two marks of its own between the offsets before and behind the transaction, of which there are
        // more: a step names a key at least.
        for (mark, step) in (open.start + 1..).step_by(2).zip(plan) {
            let at = At { start: open.start, mark: Mark::Stream(mark), steps: mark, ticket };
            match step {
                Step::Slot { slot, commands, .. } => self.add_all(Some(slot), &commands, &at)?,
                Step::Other { command, .. } => self.other(command, at).await?,
                _ => return Err(Error::Internal("a step of a transaction that is not known".into())),
            }
        }
        Ok(())
    }

    /// `FLUSHALL` and `FLUSHDB`: everything that this link's shard owns, and no more.
    async fn flush(&mut self, command: Command, at: At) -> Result<(), Error> {
        let all = command.is("FLUSHALL");
        if !all && self.shares_database() {
            let why = "other databases share the target's, and nobody can tell their keys from these";
            return Err(self.no_route(&command.as_ref(), &at, why));
        }
        let db = if all { None } else { Some(self.to_db(&command, &at)?) };
        let slots = {
            let mut core = self.target.core();
            let slots = core.owned_by(self.link).cloned();
            if slots.is_some() {
                // What it was given of slots that it does not own yet is gone, too.
                let held = core.held_slots(self.link);
                core.drop_held_back(self.link, &held);
            }
            slots
        };
        let gated: HashSet<u16> =
            (0..SLOTS).filter(|&slot| slots.as_ref().is_none_or(|slots| slots.contains(slot))).collect();
        let offset = at.start;
        let position = match at.mark {
            Mark::Stream(end) => Some(flush::Place { link: self.link, end, db: self.db }),
            Mark::Snapshot(_) => None,
        };
        let filtered = self.flush_filter(all);
        self.behind_gate(gated, &at, 0, async move |target: Arc<Target>, _| {
            let (slots, filter) = (slots.as_ref(), filtered.as_ref());
            let flush = Flush { command: &command, at: offset, db, slots, position, filter };
            flush.run(&target).await
        });
        Ok(())
    }

    /// Carries out `work` when everything before it in these slots is done, and holds them until it is done, too.
    pub(super) fn behind_gate<W, F>(&self, slots: HashSet<u16>, at: &At, cost: usize, work: W)
    where
        W: FnOnce(Arc<Target>, u64) -> F + Send + 'static,
        F: Future<Output = Result<(), Error>> + Send,
    {
        let target = Arc::clone(&self.target);
        let gate = target.core().add_gate(slots, self.link, at.ticket, cost);
        tokio::spawn(async move {
            gate.reached.notified().await;
            // Each works on connections of its own.
            let _turn = target.turn().await;
            match work(Arc::clone(&target), gate.id).await {
                Ok(()) => target.core().open_gate(gate.id),
                Err(error) => target.core().fail(error),
            }
        });
    }

    /// A transaction begins behind this offset.
    pub(super) fn begin(&mut self, start: u64) {
        self.transaction = Some(Transaction { start, db: self.db, ..Transaction::default() });
    }

    pub(super) fn selected(&self, command: &CommandRef<'_>, at: &At) -> Result<u64, Error> {
        let db = command.arg(1).and_then(|arg| std::str::from_utf8(arg).ok()?.parse().ok());
        db.ok_or_else(|| self.no_route(command, at, "the database is no number"))
    }

    /// Adds a command, or the part of one, whose keys are in this slot.
    fn add_part(&self, slot: u16, command: Command, at: &At) -> Result<(), Error> {
        if self.is_unchecked(&command.as_ref()) {
            return self.add_all(Some(slot), &self.checked(command, at)?, at);
        }
        let class = self.class(&command.as_ref());
        self.add(Some(slot), class, command.into_raw(), 1, at)
    }

    /// True for a command that some clusters carry out wherever it comes, and for which others have to stand: see [`msetex`].
    fn is_unchecked(&self, command: &CommandRef<'_>) -> bool {
        command.is("MSETEX") && !self.is_unsplit()
    }

    /// What stands for such a command.
    fn checked(&self, command: Command, at: &At) -> Result<Vec<Command>, Error> {
        let sets = msetex::as_sets(&command);
        sets.ok_or_else(|| self.no_route(&command.as_ref(), at, "its keys are not where they should be"))
    }

    /// A transaction's commands with others in the place of unchecked ones, where it has such.
    fn all_checked(&self, open: &Transaction) -> Result<Option<Vec<Command>>, Error> {
        if !open.commands.iter().any(|command| self.is_unchecked(&command.as_ref())) {
            return Ok(None);
        }
        let mut commands = Vec::new();
        for (command, &start) in open.commands.iter().zip(&open.offsets) {
            if self.is_unchecked(&command.as_ref()) {
                let at = At { start, mark: Mark::Stream(start), steps: 0, ticket: 0 };
                commands.extend(self.checked(command.clone(), &at)?);
            } else {
                commands.push(command.clone());
            }
        }
        Ok(Some(commands))
    }

    /// Adds commands that belong together.
    fn add_all(&self, slot: Option<u16>, commands: &[Command], at: &At) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        commands.iter().for_each(|command| bytes.extend_from_slice(command.raw()));
        let blind = commands.iter().all(|command| self.class(&command.as_ref()) == Class::Blind);
        let class = if blind { Class::Blind } else { Class::Exact };
        let count = u32::try_from(commands.len()).unwrap_or(u32::MAX);
        self.add(slot, class, bytes.freeze(), count, at)
    }

    fn add(
        &self,
        slot: Option<u16>,
        class: Class,
        bytes: Bytes,
        commands: u32,
        at: &At,
    ) -> Result<(), Error> {
        let db = self.target.databases().to(self.db).map_err(|why| {
            let mut decoder = CommandDecoder::with_limits(LIMITS);
            match decoder.next_ref(&bytes) {
                Ok(Some(command)) => self.no_route(&command, at, &why),
                _ => Error::no_route(None, self.db, Some(at.start), &why),
            }
        })?;
        let item = Item {
            link: self.link,
            mark: at.mark,
            at: at.start,
            class,
            db,
            db_after: db,
            source_db: Some(self.db),
            bytes,
            commands,
            resets: false,
            ticket: at.ticket,
            replay: false,
            part: Part::Whole,
        };
        let mut core = self.target.core();
        match slot {
            Some(slot) => core.add(slot, item),
            None => core.add_anywhere(item),
        }
        Ok(())
    }

    /// True when nobody has to know which slots a command concerns.
    fn is_unsplit(&self) -> bool {
        self.target.has_one_lane()
    }

    fn class(&self, command: &CommandRef<'_>) -> Class {
        if self.target.table().is_blind_write(command) { Class::Blind } else { Class::Exact }
    }

    pub(super) fn to_db(&self, command: &Command, at: &At) -> Result<u32, Error> {
        self.target.databases().to(self.db).map_err(|why| self.no_route(&command.as_ref(), at, why))
    }

    pub(super) fn no_route(&self, command: &CommandRef<'_>, at: &At, why: impl ToString) -> Error {
        Error::no_route(Some(command), self.db, Some(at.start), why)
    }
}

/// `RESTORE` as it would be written today: over what is there, since the target may hold an older value.
pub(super) fn restore_replacing(command: &Command) -> Command {
    let mut args: Vec<&[u8]> = command.args().collect();
    if let Some(name) = args.first_mut() {
        *name = b"RESTORE";
    }
    if !args.iter().skip(4).any(|arg| arg.eq_ignore_ascii_case(b"REPLACE")) {
        args.push(b"REPLACE");
    }
    Command::new(args)
}

pub(super) fn cut(buffer: &Bytes, range: Range<usize>) -> Bytes {
    if range.len() < SMALL { Bytes::copy_from_slice(&buffer[range]) } else { buffer.slice(range) }
}
