//! Which deadlines are held back at the moment, and what is known of the keys that have such.
//!
//! See [`crate::expiry`] for what is done to commands, and [`crate::sharded::release`] for how exact deadlines are put.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use keyferry_resp::{Command, CommandRef};
use tokio::sync::{Notify, RwLock, RwLockReadGuard};

use crate::{
    expiry::{self, Forms, Held},
    options::{Deadlines, Expiry},
};

/// How near a deadline is that is held although the target has caught up: it could pass while its prolongation is on the way.
pub(crate) const NEAR: Duration = Duration::from_secs(5);

/// Memory for the names of keys with held deadlines. When there are more, the target is searched for them.
const NOTES: usize = 32 << 20;

/// Names in the report, at most.
const SAMPLES: usize = 8;

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every deadline: the target is behind.
    All,
    /// Near ones: it has caught up.
    Near,
    /// Nothing.
    Off,
}

/// State that is shared by all links.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) policy: Expiry,
    /// What becomes of deadlines when they are put.
    deadlines: Deadlines,
    forms: Forms,
    /// Whoever hands over commands keeps this while it does: who changes it knows that everything held before has been handed
    /// over.
    mode: RwLock<Mode>,
    notes: Mutex<Notes>,
    /// Exact deadlines have been put since the target was behind.
    released: AtomicBool,
    /// Told when the target has everything.
    pub(crate) level: Notify,
    pub(crate) counts: Counts,
}

/// Keys that may have held deadlines.
#[derive(Debug, Default)]
struct Notes {
    /// By database of the target and name: the deadlines are, or may be, those of fields.
    keys: HashMap<(u32, Box<[u8]>), bool>,
    bytes: usize,
    /// There may be others.
    incomplete: bool,
    /// What was noted has been taken out and is being looked at: nobody can tell from the notes what has a held deadline.
    taken: bool,
}

/// What was noted, and taken out.
#[derive(Debug)]
pub(crate) enum Noted {
    /// All that there are: database, name, whether fields are concerned.
    Keys(Vec<(u32, Box<[u8]>, bool)>),
    /// Nobody knows: they have to be sought.
    Unknown,
}

/// For the report.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Deadlines of the snapshot.
    pub(crate) held_in_snapshot: AtomicU64,
    /// Commands of the stream.
    pub(crate) held_in_stream: AtomicU64,
    /// Keys that got their exact deadline.
    pub(crate) released: AtomicU64,
    /// Fields of hashes that did.
    pub(crate) released_fields: AtomicU64,
    /// Keys whose time was over when it was put.
    pub(crate) over: AtomicU64,
    /// Fields of hashes whose time was.
    pub(crate) over_fields: AtomicU64,
    /// How often the whole target was searched.
    pub(crate) searches: AtomicU64,
    samples: Mutex<Vec<String>>,
}

impl Hold {
    /// `resumed` tells that an earlier run may have left held deadlines at the target.
    pub(crate) fn new(policy: Expiry, forms: Forms, resumed: bool) -> Self {
        let mode = if policy == Expiry::AsItComes { Mode::Off } else { Mode::All };
        Hold {
            policy,
            deadlines: Deadlines::Keep,
            forms,
            mode: RwLock::new(mode),
            notes: Mutex::new(Notes { incomplete: resumed, ..Notes::default() }),
            released: AtomicBool::new(false),
            level: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// Deadlines become these when they are put.
    pub(crate) fn putting(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// What is put in place of a held deadline, by the target's clock; none where there is to be no deadline. Unix times in
    /// milliseconds.
    pub(crate) fn put(&self, exact: i64, now: i64) -> Option<i64> {
        match self.deadlines {
            Deadlines::Keep => Some(exact),
            Deadlines::ShiftFrom(moment) => Some(exact.saturating_add(now.saturating_sub(moment)).max(1)),
            Deadlines::Drop => None,
        }
    }

    /// What is held, for as long as the guard lives.
    pub(crate) async fn mode(&self) -> RwLockReadGuard<'_, Mode> {
        self.mode.read().await
    }

    /// True when snapshots are to be held.
    pub(crate) fn holds_snapshots(&self) -> bool {
        self.policy != Expiry::AsItComes
    }

    /// Changes what is held. When this returns, everything that was held under the former mode has been handed over.
    pub(crate) async fn set_mode(&self, mode: Mode) {
        if self.policy != Expiry::AsItComes {
            *self.mode.write().await = mode;
            if mode == Mode::All {
                self.released.store(false, Ordering::Relaxed);
            }
        }
    }

    /// When this returns, everything that was held before has been handed over.
    pub(crate) async fn barrier(&self) {
        drop(self.mode.write().await);
    }

    /// The held form of a command for database `db` of the target; none when it goes as it is. Takes note of its keys. `clock`
    /// is when the source sent it.
    pub(crate) fn hold(
        &self,
        mode: Mode,
        command: &CommandRef<'_>,
        db: Option<u32>,
        (clock, now): (i64, i64),
    ) -> Option<Held> {
        if mode == Mode::Off || !expiry::may_set_deadline(command) {
            return None;
        }
        let near = now.saturating_add(i64::try_from(NEAR.as_millis()).unwrap_or(i64::MAX));
        let held = expiry::hold(command, clock, self.forms, |deadline| mode == Mode::All || deadline < near)?;
        self.counts.held_in_stream.fetch_add(1, Ordering::Relaxed);
        for key in held.keys.iter().filter_map(|&at| command.arg(at)) {
            if let Some(db) = db {
                self.note(db, key, held.fields);
            }
        }
        Some(held)
    }

    /// Where a deadline of the snapshot goes.
    pub(crate) fn of_snapshot(&self, db: Option<u32>, key: &[u8], deadline: i64) -> i64 {
        self.counts.held_in_snapshot.fetch_add(1, Ordering::Relaxed);
        if let Some(db) = db {
            self.note(db, key, false);
        }
        expiry::held(deadline)
    }

    /// A key may have held deadlines.
    pub(crate) fn note(&self, db: u32, key: &[u8], fields: bool) {
        self.notes().add(db, key, fields);
    }

    /// A command that takes a key's deadline elsewhere.
    pub(crate) fn follow(&self, command: &Command, db: Option<u32>) {
        let mut notes = self.notes();
        if notes.incomplete || (notes.keys.is_empty() && !notes.taken) {
            return;
        }
        let simple =
            command.is("RENAME") || command.is("RENAMENX") || (command.is("COPY") && !has_db(command));
        match (command.arg(1), command.arg(2), db) {
            (Some(from), Some(to), Some(db)) if simple => {
                let known = notes.keys.get(&(db, Box::from(from))).copied();
                if let Some(fields) = known.or(notes.taken.then_some(self.forms.fields)) {
                    notes.add(db, to, fields);
                }
            }
            // Into other databases, or by a script.
            _ => notes.give_up(),
        }
    }

    /// Takes out what was noted, to be looked at until [`Hold::end_look`]. If it is not brought back by [`Hold::note`], it has
    /// been seen to.
    pub(crate) fn take_notes(&self) -> Noted {
        let notes = std::mem::replace(&mut *self.notes(), Notes { taken: true, ..Notes::default() });
        if notes.incomplete {
            return Noted::Unknown;
        }
        Noted::Keys(notes.keys.into_iter().map(|((db, key), fields)| (db, key, fields)).collect())
    }

    /// What was taken out has been looked at.
    pub(crate) fn end_look(&self) {
        self.notes().taken = false;
    }

    /// What was found out is not all that there is.
    pub(crate) fn doubt_notes(&self) {
        self.notes().give_up();
    }

    /// True when nothing is known to be held.
    pub(crate) fn is_empty(&self) -> bool {
        let notes = self.notes();
        notes.keys.is_empty() && !notes.incomplete
    }

    /// Exact deadlines are in place.
    pub(crate) fn set_released(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    /// True when the target may be said to have caught up: exact deadlines are in place, but for near ones, or are not to be
    /// put before the end.
    pub(crate) fn is_released(&self) -> bool {
        self.policy != Expiry::HeldUntilCaughtUp || self.released.load(Ordering::Relaxed)
    }

    pub(crate) fn sample(&self, key: &[u8]) {
        let mut samples = self.counts.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() < SAMPLES {
            samples.push(key.escape_ascii().to_string());
        }
    }

    /// Names of a few keys that got their exact deadlines.
    pub(crate) fn samples(&self) -> Vec<String> {
        self.counts.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    fn add(&mut self, db: u32, key: &[u8], fields: bool) {
        if self.incomplete {
            return;
        }
        *self.keys.entry((db, Box::from(key))).or_insert_with(|| {
            self.bytes += key.len() + 64;
            false
        }) |= fields;
        if self.bytes > NOTES {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        *self = Notes { incomplete: true, taken: self.taken, ..Notes::default() };
    }
}

/// True for a command after which keys may have deadlines that others had.
#[inline]
pub(crate) fn carries_deadlines(command: &CommandRef<'_>) -> bool {
    match command.name().len() {
        4 => command.is("COPY") || command.is("MOVE") || command.is("EVAL"),
        5 => command.is("FCALL"),
        6 => command.is("RENAME") || command.is("SWAPDB"),
        7 => command.is("EVALSHA"),
        8 => command.is("RENAMENX"),
        _ => false,
    }
}

/// `COPY … DB n`
fn has_db(command: &Command) -> bool {
    command.args().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"DB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: Forms = Forms { set_pxat: true, absolute_ttl: true, fields: true };

    fn command(words: &str) -> Command {
        Command::new(words.split(' ').collect::<Vec<_>>())
    }

    fn noted(hold: &Hold) -> Option<Vec<(u32, String, bool)>> {
        match hold.take_notes() {
            Noted::Unknown => None,
            Noted::Keys(keys) => {
                let text = |key: Box<[u8]>| String::from_utf8(key.into()).unwrap();
                let mut keys: Vec<_> =
                    keys.into_iter().map(|(db, key, fields)| (db, text(key), fields)).collect();
                keys.sort();
                Some(keys)
            }
        }
    }

    #[test]
    fn keys_are_noted_wherever_their_deadlines_go() {
        let hold = Hold::new(Expiry::HeldUntilCaughtUp, FORMS, false);
        let held =
            |words: &str| hold.hold(Mode::All, &command(words).as_ref(), Some(0), (1000, 1000)).is_some();
        assert!(held("SET a 1 EX 9") && held("HEXPIRE h 9 FIELDS 1 f") && !held("SET b 1"));
        for carrying in ["RENAME a b", "COPY h i REPLACE", "RENAME x y", "GET a"] {
            let carrying = command(carrying);
            if carries_deadlines(&carrying.as_ref()) {
                hold.follow(&carrying, Some(0));
            }
        }
        let all: Vec<(u32, String, bool)> =
            [("a", false), ("b", false), ("h", true), ("i", true)].map(|(k, f)| (0, k.to_owned(), f)).into();
        assert_eq!(noted(&hold), Some(all));
        assert_eq!(noted(&hold), Some(vec![]));

        // While it is looked at, what is renamed may have been noted.
        hold.follow(&command("RENAME c d"), Some(0));
        assert_eq!(noted(&hold), Some(vec![(0, "d".to_owned(), true)]));
        hold.end_look();
        hold.follow(&command("RENAME c d"), Some(0));
        hold.follow(&command("SWAPDB 0 1"), Some(0));
        assert!(hold.is_empty());
        hold.note(0, b"a", false);
        hold.follow(&command("MOVE a 1"), Some(0));
        assert_eq!(noted(&hold), None);
    }

    #[test]
    fn memory_for_names_is_bounded() {
        let hold = Hold::new(Expiry::HeldUntilCaughtUp, FORMS, false);
        let name = vec![b'x'; 1 << 20];
        for n in 0..40 {
            hold.note(n, &name, false);
            assert!(hold.notes().bytes <= NOTES);
        }
        assert_eq!(noted(&hold), None);
        assert!(hold.is_empty());
    }

    #[tokio::test]
    async fn a_caught_up_target_holds_what_is_near() {
        let hold = Hold::new(Expiry::HeldUntilCaughtUp, FORMS, true);
        assert_eq!((*hold.mode().await, noted(&hold)), (Mode::All, None));
        hold.set_mode(Mode::Near).await;
        let mode = *hold.mode().await;
        let held = |words: &str| hold.hold(mode, &command(words).as_ref(), Some(0), (1000, 1000)).is_some();
        assert!(held("SET a 1 PX 4999") && !held("SET b 1 PX 5001"));
        hold.set_released();
        assert!(hold.is_released());
        hold.set_mode(Mode::All).await;
        assert!(!hold.is_released());

        let off = Hold::new(Expiry::AsItComes, FORMS, false);
        off.set_mode(Mode::All).await;
        assert_eq!(*off.mode().await, Mode::Off);
        assert!(off.is_released());
    }
}
