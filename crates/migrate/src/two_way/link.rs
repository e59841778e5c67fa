//! What one of both links does with the other's, and with what both have to know.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyferry_replication::Position;
use keyferry_resp::{Command, CommandDecoder, CommandRef, ErrorCode, ErrorReply};
use keyferry_routing::CommandTable;
use tokio::sync::Notify;

use super::{
    SideName,
    notes::Notes,
    report::LinkCounts,
    settling::Put,
    state::{Fate, Look, State},
    table::Write,
};
use crate::{
    error::Error,
    identity::MigrationId,
    sharded::state::{self, LinkState, Stage},
};

/// What keys begin with that are no application's.
const OWN: &[u8] = b"keyferry:";

/// The field of a link's checkpoint that tells how far its source has what the other link brings.
pub(crate) const SEEN: &str = "seen:0";

/// The field that names the values that were put in the same transaction.
pub(super) const SETTLED: &str = "settled";

/// The field of the marks hash that is set where a value is read.
pub(super) const MARK: &str = "mark";

/// How often a link that waits for the other one, or for a value, looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// After so many bytes of bookkeeping alone the position at the target is moved, lest the source forget what comes next.
const QUIET_BYTES: u64 = 64 * 1024;

/// What both links share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// The names of the migrations from the source, and from the target.
    pub(super) ids: [MigrationId; 2],
    /// Both links go on where a run before has ended.
    pub(super) resumes: AtomicBool,
    /// Both links are there, or are about to be.
    pub(super) followed: AtomicBool,
    /// Where the other side was known to be, by the side that is read.
    pub(super) starts: Mutex<[Start; 2]>,
    /// Deadlines are to be exact from now on, and are.
    pub(super) exact: [AtomicBool; 2],
    pub(super) is_exact: Notify,
    /// Told when there is something to settle.
    pub(super) work: Notify,
    /// Told when a value has come.
    pub(super) values: Notify,
    /// Nobody brings values any more.
    pub(super) over: AtomicBool,
    pub(super) notes: Notes,
    /// Tells the marks of this run from those of others.
    pub(super) run: u64,
}

/// What is known before a link begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    /// How far the side that it reads was known to the other link, by what that one has left in its target.
    pub(super) known: Option<Position>,
    /// How far that side had what the other one wrote.
    pub(super) seen: Option<Position>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&self, side: SideName) -> Start {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)[side.number()].clone()
    }

    /// How a mark, or the number of what was put, is written.
    pub(super) fn mark_text(&self, mark: u64) -> String {
        format!("{:016x}:{mark}", self.run)
    }

    fn mark_of(&self, text: &[u8]) -> Option<u64> {
        let (run, mark) = std::str::from_utf8(text).ok()?.split_once(':')?;
        if run == format!("{:016x}", self.run) { mark.parse().ok() } else { None }
    }
}

/// One link of both, as the migration has it that carries it out.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(super) shared: Arc<Shared>,
    /// The side that it reads.
    pub(super) side: SideName,
    /// Where the other link keeps its state: in the side that this one reads.
    returns: String,
    /// Where marks are set.
    marks: String,
}

/// What becomes of what stands in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is carried over.
    Pass,
    /// It is not.
    LeaveOut,
    /// It stands for values that are to be put here.
    Mark(u64),
}

/// What becomes of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Which of its commands are carried over.
    pub(crate) passes: Vec<bool>,
    /// Values that are to be put before it.
    pub(crate) marks: Vec<u64>,
}

/// Where something stands in a stream, and when it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The database of the source.
    pub(crate) db: u64,
    /// The offset behind it.
    pub(crate) end: u64,
    /// In milliseconds of the Unix epoch.
    pub(crate) time: i64,
}

impl Link {
    pub(super) fn new(shared: &Arc<Shared>, side: SideName) -> Self {
        let returns = shared.ids[side.other().number()].state_key();
        let marks = marks_key(&shared.ids[0]);
        Link { shared: Arc::clone(shared), side, returns, marks }
    }

    /// The link begins; `done` is up to where its target has everything. Gives the position from which it has to read: what
    /// comes before `done` is looked at only.
    pub(crate) fn begin(&self, done: &Position) -> Position {
        let Start { known, seen } = self.shared.start(self.side);
        let start = known.filter(|known| known.offset < done.offset).unwrap_or_else(|| done.clone());
        let mut state = self.shared.state();
        state.begin(self.side, done.offset, start.offset, seen);
        if self.side == SideName::Target && !self.shared.resumes.load(Ordering::Relaxed) {
            // Nobody has written to the target before.
            let source = state.link(SideName::Source);
            source.seen = source.seen.max(done.offset);
        }
        start
    }

    /// What the state of a link that begins has to hold besides.
    pub(crate) fn first_fields(&self) -> Option<(String, String)> {
        Some((SEEN.to_owned(), seen_text(&self.shared.start(self.side).seen?)))
    }

    /// True when both links go on, and nothing may be copied any more.
    pub(crate) fn resumes(&self) -> bool {
        self.shared.resumes.load(Ordering::Relaxed)
    }

    /// True when the other link follows the side that this one writes to, where it counts as a replica.
    pub(crate) fn is_followed(&self) -> bool {
        self.shared.followed.load(Ordering::Relaxed)
    }

    /// Up to here everything is carried over already.
    pub(crate) fn done_before(&self) -> u64 {
        self.shared.state().link(self.side).done_before
    }

    /// Everything up to here has been looked at and handed over.
    pub(crate) fn looked(&self, end: u64) {
        self.shared.state().looked(self.side, end);
    }

    /// What comes up to `end` is being looked at.
    pub(crate) fn looks(&self, end: u64) {
        self.shared.state().link(self.side).looking = end;
    }

    /// Waits until the other link has looked at everything that was carried over before: only then it is known what is met.
    /// False when it is to look again whether the run goes on.
    pub(crate) async fn other_is_level(&self) -> bool {
        let level = Arc::clone(&self.shared.state().level);
        let told = level.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if !self.resumes() || self.shared.state().is_level(self.side.other()) {
            return true;
        }
        tokio::time::timeout(LOOK, told).await.ok();
        false
    }

    /// Looks at a command that stands alone.
    ///
    /// # Errors
    /// Where it ends everything; when a conflict cannot be written down.
    pub(crate) fn command(
        &self,
        table: &CommandTable,
        command: &CommandRef<'_>,
        place: Place,
    ) -> Result<Verdict, Error> {
        let mut state = self.shared.state();
        if is_bookkeeping(command) {
            if self.note_return(&mut state, command, place, 0) {
                return Ok(Verdict::LeaveOut);
            }
            state.link(self.side).counts.bookkeeping += 1;
            return Ok(self.mark(command).map_or(Verdict::LeaveOut, Verdict::Mark));
        }
        self.own(&mut state, table, command, place)
    }

    /// Looks at a transaction, which ends at `place`, and begins in its database.
    ///
    /// # Errors
    /// As [`Link::command`].
    pub(crate) fn transaction(
        &self,
        table: &CommandTable,
        commands: &[Command],
        place: Place,
    ) -> Result<Looked, Error> {
        let mut state = self.shared.state();
        let carried = commands.iter().map(Command::as_ref);
        let others = carried.clone().filter(|of| !of.is("SELECT") && !is_bookkeeping(of)).count() as u64;
        let mut returned = false;
        for command in carried.clone().filter(is_bookkeeping) {
            returned |= self.note_return(&mut state, &command, place, if returned { 0 } else { others });
        }
        if returned {
            // The database stays as it was selected.
            let passes = commands.iter().map(|command| command.as_ref().is("SELECT")).collect();
            return Ok(Looked { passes, marks: Vec::new() });
        }
        let (mut looked, mut db) = (Looked::default(), place.db);
        for command in carried {
            if command.is("SELECT") {
                db = command.arg(1).and_then(number).unwrap_or(db);
                looked.passes.push(true);
                continue;
            }
            if is_bookkeeping(&command) {
                state.link(self.side).counts.bookkeeping += 1;
                looked.marks.extend(self.mark(&command));
                looked.passes.push(false);
                continue;
            }
            let verdict = self.own(&mut state, table, &command, Place { db, ..place })?;
            looked.passes.push(verdict == Verdict::Pass);
        }
        Ok(looked)
    }

    fn own(
        &self,
        state: &mut State,
        table: &CommandTable,
        command: &CommandRef<'_>,
        place: Place,
    ) -> Result<Verdict, Error> {
        let link = state.link(self.side);
        if link.armed && place.end > link.done_before && empties_bookkeeping(command, place.db) {
            let why = format!(
                "{} at offset {} of the {} removed what the link there keeps: it was not carried over. Make both sides equal, remove \
                 {} and {} where they are left, and begin again",
                String::from_utf8_lossy(command.name()).to_ascii_uppercase(),
                place.end,
                self.side.name(),
                self.shared.ids[0].state_key(),
                self.shared.ids[1].state_key(),
            );
            return Err(Error::TwoWay { why });
        }
        let write = Write { offset: place.end, time: place.time };
        let fate = state.own(Look { table, side: self.side, db: place.db, write }, command)?;
        Ok(if fate == Fate::Pass { Verdict::Pass } else { Verdict::LeaveOut })
    }

    /// Takes note of what the other link's checkpoint tells, if the command is one.
    fn note_return(&self, state: &mut State, command: &CommandRef<'_>, place: Place, others: u64) -> bool {
        if !command.is("HSET") || command.arg(1) != Some(self.returns.as_bytes()) {
            return false;
        }
        let (mut returned, mut put) = (false, 0);
        let fields = (2..command.len().saturating_sub(1)).step_by(2);
        for (field, value) in fields.filter_map(|at| Some((command.arg(at)?, command.arg(at + 1)?))) {
            if field.starts_with(state::field::link("").as_bytes()) {
                let Some(position) = std::str::from_utf8(value).ok().and_then(position_of) else { continue };
                state.returned(self.side, place.end, position, others);
                returned = true;
            } else if field == SETTLED.as_bytes()
                && let Some(mark) = self.shared.mark_of(value)
            {
                put += state.settlings.put(self.side, mark);
                self.shared.work.notify_one();
            }
        }
        state.conflicts.settled += put;
        returned
    }

    fn mark(&self, command: &CommandRef<'_>) -> Option<u64> {
        let is = command.is("HSET") && command.arg(1)? == self.marks.as_bytes();
        if is && command.arg(2)? == MARK.as_bytes() { self.shared.mark_of(command.arg(3)?) } else { None }
    }

    /// The values that a mark stands for, when they have come; none when nobody brings them. `Err` when it is to be
    /// looked whether the run goes on.
    pub(crate) async fn values(&self, mark: u64) -> Result<Vec<Put>, Wait> {
        let told = self.shared.values.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if let Some(values) = self.shared.state().settlings.values.remove(&mark) {
            self.shared.work.notify_one();
            return Ok(values);
        }
        if self.shared.over.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        tokio::time::timeout(LOOK, told).await.ok();
        Err(Wait)
    }

    /// What goes along with values that are put: it comes back by the other link.
    pub(crate) fn settled(&self, mark: u64) -> Command {
        let key = self.shared.ids[self.side.number()].state_key();
        Command::new(["HSET", &key, SETTLED, &self.shared.mark_text(mark)])
    }

    /// Notes in the target what is being settled, and is found by this link: before what it was found at is handed over.
    ///
    /// # Errors
    /// When the target cannot be written to.
    pub(crate) async fn note_found(&self) -> Result<Found, Error> {
        let found = self.shared.state().settlings.take_found(Some(self.side));
        if !found.is_empty() {
            self.shared.notes.add(Some(self.side), &found).await?;
        }
        Ok(Found(found))
    }

    /// What it was found at has been handed over, and everything up to `end` has been looked at.
    pub(crate) fn handed_over(&self, found: Found, end: u64) {
        let mut state = self.shared.state();
        state.looked(self.side, end);
        state.settlings.begin(&found.0);
        if !found.0.is_empty() {
            self.shared.work.notify_one();
        }
    }

    /// How far the side that is read has what the other wrote, for a checkpoint at this offset.
    pub(crate) fn seen(&self, at: u64) -> Option<String> {
        self.shared.state().seen_at(self.side, at).map(|position| seen_text(&position))
    }

    /// True when the target should be told how far the link is, although nothing was carried over since it was last: `bytes` of
    /// the stream have passed, or what was left out is more than bookkeeping.
    pub(crate) fn is_worth_noting(&self, before: &mut LinkCounts, bytes: u64) -> bool {
        let mut state = self.shared.state();
        let counts = &state.link(self.side).counts;
        let data = counts.returned_commands + counts.left_out;
        let worth = data != before.returned_commands + before.left_out || bytes >= QUIET_BYTES;
        if worth {
            before.clone_from(counts);
        }
        worth
    }

    /// How many commands of applications have been left out.
    pub(crate) fn left_out(&self) -> u64 {
        self.shared.state().link(self.side).counts.left_out
    }

    /// True when held deadlines are to be put, and none held any more.
    pub(crate) fn wants_exact_deadlines(&self) -> bool {
        let [wanted, done] = &self.shared.exact;
        self.side == SideName::Source && wanted.load(Ordering::Relaxed) && !done.load(Ordering::Relaxed)
    }

    /// It is so.
    pub(crate) fn has_exact_deadlines(&self) {
        self.shared.exact[1].store(true, Ordering::Relaxed);
        self.shared.is_exact.notify_one();
    }

    /// Counts a command that the target refused, if that is what becomes of keys that differ. False when it ends everything.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn refused(
        &self,
        command: &[u8],
        db: u32,
        offset: u64,
        reply: &ErrorReply,
    ) -> Result<bool, Error> {
        if !is_of_values(reply) {
            return Ok(false);
        }
        let mut decoder = CommandDecoder::with_limits(crate::sharded::LIMITS);
        let Ok(Some(command)) = decoder.next_ref(command) else { return Ok(false) };
        let time = i64::try_from(crate::journal::now_ms()).unwrap_or_default();
        let look = Look {
            table: CommandTable::builtin(),
            side: self.side,
            db: u64::from(db),
            write: Write { offset, time },
        };
        self.shared.state().refused(look, &command, reply.to_string())?;
        self.shared.work.notify_one();
        Ok(true)
    }
}

/// It is to be looked whether the run goes on.
#[derive(Debug)]
pub(crate) struct Wait;

/// What is being settled, and was found just now.
#[derive(Debug)]
pub(crate) struct Found(Vec<(super::settling::DbKey, super::settling::Settling)>);

/// The hash that holds what is being settled (at the target), and marks (at both sides).
pub(super) fn marks_key(id: &MigrationId) -> String {
    format!("keyferry:two-way:{}", id.state_key().trim_start_matches(crate::identity::STATE_PREFIX))
}

/// A position as checkpoints have it.
pub(super) fn seen_text(position: &Position) -> String {
    LinkState { epoch: 0, stage: Stage::Stream(position.clone()) }.to_string()
}

/// Reads that, or the state of a link.
pub(super) fn position_of(text: &str) -> Option<Position> {
    match LinkState::parse(text)?.stage {
        Stage::Stream(position) => Some(position),
        Stage::Snapshot(_) => None,
    }
}

fn is_bookkeeping(command: &CommandRef<'_>) -> bool {
    command.arg(1).is_some_and(|key| key.starts_with(OWN))
}

fn number(arg: &[u8]) -> Option<u64> {
    std::str::from_utf8(arg).ok()?.parse().ok()
}

/// True for what takes away what the side that it was written to keeps of the link that leads there.
fn empties_bookkeeping(command: &CommandRef<'_>, db: u64) -> bool {
    let swaps = || {
        let numbers = (command.arg(1).and_then(number), command.arg(2).and_then(number));
        numbers.0 != numbers.1 && (numbers.0 == Some(0) || numbers.1 == Some(0))
    };
    match command.name().len() {
        8 => command.is("FLUSHALL"),
        7 => command.is("FLUSHDB") && db == 0,
        6 => command.is("SWAPDB") && swaps(),
        _ => false,
    }
}

/// True for errors that come of what a key holds, and not of the command or of who sends it.
fn is_of_values(reply: &ErrorReply) -> bool {
    let text = reply.message();
    let not =
        ["unknown command", "unknown subcommand", "wrong number of arguments", "syntax error", "unsupported"];
    match reply.kind() {
        ErrorCode::WrongType | ErrorCode::BusyGroup | ErrorCode::NoGroup | ErrorCode::BusyKey => true,
        ErrorCode::Err => {
            let text = text.to_ascii_lowercase();
            !not.iter().any(|not| text.contains(not))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_values_are_told_from_others() {
        for of_values in [
            "WRONGTYPE x",
            "ERR no such key",
            "ERR value is not an integer or out of range",
            "BUSYGROUP x",
            "NOGROUP x",
        ] {
            assert!(is_of_values(&ErrorReply::new(of_values)), "{of_values}");
        }
        for other in
            ["ERR unknown command 'X'", "NOPERM x", "OOM x", "MISCONF x", "ERR syntax error", "READONLY x"]
        {
            assert!(!is_of_values(&ErrorReply::new(other)), "{other}");
        }
    }

    #[test]
    fn what_takes_away_the_state_is_known() {
        let is = |text: &str, db| {
            let command = Command::new(text.split(' ').collect::<Vec<_>>());
            empties_bookkeeping(&command.as_ref(), db)
        };
        assert!(is("FLUSHALL", 3) && is("FLUSHDB", 0) && is("SWAPDB 3 0", 5) && is("swapdb 0 1", 0));
        assert!(!is("FLUSHDB", 1) && !is("SWAPDB 0 0", 0) && !is("SWAPDB 1 2", 0) && !is("SET 0 1", 0));
    }
}
