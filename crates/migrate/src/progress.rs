//! What a migration has done so far, readable while it runs.

mod figures;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use keyferry_replication::ReplicationId;

pub use self::figures::{Figures, InputFigures, LinkFigures, Phase};
use crate::report::LinkPosition;

/// A live view of a running migration. Cheap to clone; reading it disturbs nothing.
#[derive(Clone, Debug)]
pub struct Progress(pub(crate) Meter);

impl Progress {
    /// The figures now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.0.figures()
    }

    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.phase()
    }

    /// How many errors there were of each class, those that passed by themselves among them: the code of a reply of the target, or
    /// whose fault it was. Classes come in the order of their names; there are not more than some dozens.
    #[must_use]
    pub fn errors(&self) -> Vec<(String, u64)> {
        self.0.errors()
    }
}

/// No offset.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// No time.
const UNHEARD: u64 = u64::MAX;

/// Where the parts of a migration write what they did.
#[derive(Clone, Debug)]
pub(crate) struct Meter(Arc<Counters>);

#[derive(Debug)]
pub(crate) struct Counters {
    phase: AtomicU8,
    started: Instant,
    /// All of the snapshot has come.
    pub(crate) snapshot_complete: AtomicBool,
    history: Mutex<Option<ReplicationId>>,
    trouble: Mutex<Option<String>>,
    /// When each phase began, by its number.
    began: Mutex<[Option<Duration>; 6]>,
    pub(crate) snapshot_received: AtomicU64,
    /// 0 while the source has not said.
    pub(crate) snapshot_total: AtomicU64,
    pub(crate) snapshot_applied: AtomicU64,
    /// Keys announced by the snapshot's size hints so far.
    pub(crate) keys_announced: AtomicU64,
    pub(crate) keys_applied: AtomicU64,
    pub(crate) large_keys: AtomicU64,
    pub(crate) received_offset: AtomicU64,
    pub(crate) applied_offset: AtomicU64,
    /// What the source said last; [`UNKNOWN`] before that.
    pub(crate) source_offset: AtomicU64,
    pub(crate) commands_applied: AtomicU64,
    /// The stream's offset up to which the target holds everything for good; [`UNKNOWN`] where that is what has been applied.
    kept_offset: AtomicU64,
    /// Journalled bytes that wait to be applied.
    pub(crate) journal_backlog: AtomicU64,
    /// The run is to end when it has caught up, whatever was said before.
    pub(crate) ends_when_caught_up: AtomicBool,
    /// Bytes that the journal has on disk.
    pub(crate) journal_bytes: AtomicU64,
    /// The source is not read, since the journal is as large as it may be, or the disk is full.
    pub(crate) held_up: AtomicBool,
    /// Bytes of its stream that the source remembers; 0 while it has not said.
    pub(crate) source_backlog: AtomicU64,
    /// Bytes that it writes in a second, more or less.
    pub(crate) source_rate: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    /// Bytes sent to the target and not answered.
    pub(crate) in_flight: AtomicU64,
    /// When a command last came, or the stream began, in milliseconds after the start; [`UNHEARD`] while none can come.
    last_write: AtomicU64,
    /// Until when it was listened to, in the same way; [`UNHEARD`] before the end.
    heard_until: AtomicU64,
    /// When the answer to a question is late, in the same way; [`UNHEARD`] while none is open.
    answer_due: AtomicU64,
    /// Files are the source: their bytes, where that is known.
    input: OnceLock<Option<u64>>,
    /// What its link leads to, where there are several.
    name: OnceLock<String>,
    /// How many errors there were of each class.
    errors: Mutex<BTreeMap<String, u64>>,
    /// How many items of the precheck have which verdict.
    precheck: Mutex<Vec<(&'static str, usize)>>,
    /// The links to the source, where it has several: each counts for itself, and these counters hold what is common.
    links: Mutex<Vec<(String, Meter)>>,
}

impl Default for Meter {
    fn default() -> Self {
        let mut began = [None; 6];
        began[0] = Some(Duration::ZERO);
        Meter(Arc::new(Counters {
            phase: AtomicU8::new(0),
            started: Instant::now(),
            snapshot_complete: AtomicBool::new(false),
            history: Mutex::new(None),
            trouble: Mutex::new(None),
            began: Mutex::new(began),
            snapshot_received: AtomicU64::new(0),
            snapshot_total: AtomicU64::new(0),
            snapshot_applied: AtomicU64::new(0),
            keys_announced: AtomicU64::new(0),
            keys_applied: AtomicU64::new(0),
            large_keys: AtomicU64::new(0),
            received_offset: AtomicU64::new(0),
            applied_offset: AtomicU64::new(0),
            source_offset: AtomicU64::new(UNKNOWN),
            commands_applied: AtomicU64::new(0),
            kept_offset: AtomicU64::new(UNKNOWN),
            journal_backlog: AtomicU64::new(0),
            ends_when_caught_up: AtomicBool::new(false),
            journal_bytes: AtomicU64::new(0),
            held_up: AtomicBool::new(false),
            source_backlog: AtomicU64::new(0),
            source_rate: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            last_write: AtomicU64::new(UNHEARD),
            heard_until: AtomicU64::new(UNHEARD),
            answer_due: AtomicU64::new(UNHEARD),
            input: OnceLock::new(),
            name: OnceLock::new(),
            errors: Mutex::new(BTreeMap::new()),
            precheck: Mutex::new(Vec::new()),
            links: Mutex::new(Vec::new()),
        }))
    }
}

impl std::ops::Deref for Meter {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0
    }
}

impl Meter {
    /// Adds one of several links to the source, under a name for people. What it counts is part of these figures from then
    /// on; the offsets, the phase and the trouble of the source are the links' own then.
    pub(crate) fn add_link(&self, name: String, link: Meter) {
        // Who was named before keeps that name.
        link.name.get_or_init(|| name.clone());
        self.links.lock().unwrap_or_else(PoisonError::into_inner).push((name, link));
    }

    /// Counts an error that does not end the run, or does: the code of a reply, or whose it was.
    pub(crate) fn count_error(&self, class: &str) {
        /// Classes that are told apart, and how long their names may be: they may be a server's words.
        const MOST: usize = 64;
        const LONGEST: usize = 40;
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !errors.contains_key(class);
        let class = if is_new && (errors.len() >= MOST || class.len() > LONGEST) { "other" } else { class };
        *errors.entry(class.to_owned()).or_default() += 1;
    }

    /// How many errors there were of each class, those of the links among them.
    pub(crate) fn errors(&self) -> Vec<(String, u64)> {
        let of = |meter: &Meter| meter.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut errors = of(self);
        for (class, count) in self.links().iter().flat_map(|(_, link)| of(link)) {
            *errors.entry(class).or_default() += count;
        }
        errors.into_iter().collect()
    }

    pub(crate) fn set_precheck(&self, counts: Vec<(&'static str, usize)>) {
        *self.precheck.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    pub(crate) fn precheck(&self) -> Vec<(&'static str, usize)> {
        self.precheck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn figures(&self) -> Figures {
        let mut figures = self.own_figures();
        let links = self.links();
        for (name, link) in &links {
            let of = link.own_figures();
            figures.snapshot_received += of.snapshot_received;
            figures.snapshot_applied += of.snapshot_applied;
            figures.keys_announced += of.keys_announced;
            figures.keys_applied += of.keys_applied;
            figures.large_keys += of.large_keys;
            figures.commands_applied += of.commands_applied;
            figures.journal_backlog += of.journal_backlog;
            figures.journal_bytes += of.journal_bytes;
            figures.held_up |= of.held_up;
            let patience = [figures.source_patience_seconds, of.source_patience_seconds];
            figures.source_patience_seconds = patience.into_iter().flatten().reduce(f64::min);
            figures.reconnects += of.reconnects;
            figures.bytes_sent += of.bytes_sent;
            let replication_id = link.history().map(|id| id.to_string());
            figures.links.push(LinkFigures { name: name.clone(), replication_id, figures: of });
        }
        if !links.is_empty() {
            figures.input = figures.links.iter().filter_map(|link| link.figures.input).reduce(|all, of| {
                let total = all.total.zip(of.total).map(|(all, of)| all + of);
                InputFigures { applied: all.applied + of.applied, total }
            });
            let of = |link: &LinkFigures| (link.figures.snapshot_total, link.figures.lag_bytes);
            // A sum of which a part is not known is not known.
            figures.snapshot_total = figures.links.iter().map(|link| of(link).0).sum();
            figures.lag_bytes = figures.links.iter().map(|link| of(link).1).sum();
            (figures.received_offset, figures.applied_offset, figures.source_offset) = (0, 0, None);
            figures.phase = self.phase();
            let troubles = figures.links.iter().filter_map(|link| {
                let trouble = link.figures.trouble.as_ref()?;
                Some(format!("{}: {trouble}", link.name))
            });
            let troubles: Vec<String> = figures.trouble.take().into_iter().chain(troubles).collect();
            figures.trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        }
        figures
    }

    fn own_figures(&self) -> Figures {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let some = |n: u64| (n > 0).then_some(n);
        let phase = self.own_phase();
        let applied_offset = load(&self.applied_offset);
        let source_offset = self.source_offset();
        let past_snapshot = self.is_past_snapshot();
        Figures {
            phase,
            elapsed_seconds: self.started.elapsed().as_secs_f64(),
            snapshot_received: load(&self.snapshot_received),
            snapshot_total: some(load(&self.snapshot_total)),
            snapshot_applied: load(&self.snapshot_applied),
            keys_announced: load(&self.keys_announced),
            keys_applied: load(&self.keys_applied),
            large_keys: load(&self.large_keys),
            received_offset: load(&self.received_offset),
            applied_offset,
            source_offset,
            lag_bytes: source_offset.filter(|_| past_snapshot).map(|s| s.saturating_sub(applied_offset)),
            commands_applied: load(&self.commands_applied),
            journal_backlog: load(&self.journal_backlog),
            journal_bytes: load(&self.journal_bytes),
            held_up: self.held_up.load(Ordering::Relaxed),
            source_patience_seconds: self.patience(),
            reconnects: load(&self.reconnects),
            bytes_sent: load(&self.bytes_sent),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            input: self.input.get().map(|&total| InputFigures {
                applied: load(&self.snapshot_applied).max(applied_offset),
                total,
            }),
            links: Vec::new(),
        }
    }

    /// The present phase: of several links that of the least advanced one, until all is over.
    pub(crate) fn phase(&self) -> Phase {
        let own = self.own_phase();
        if own == Phase::Ended {
            return own;
        }
        self.links().iter().map(|(_, link)| link.own_phase()).min_by_key(|&phase| phase as u8).unwrap_or(own)
    }

    fn links(&self) -> Vec<(String, Meter)> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn own_phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed)).min(Phase::ALL.len() - 1)]
    }

    /// True when the snapshot has been applied.
    pub(crate) fn is_past_snapshot(&self) -> bool {
        self.began.lock().unwrap_or_else(PoisonError::into_inner)[Phase::CatchingUp as usize].is_some()
    }

    /// The source's own offset when it was last asked.
    pub(crate) fn source_offset(&self) -> Option<u64> {
        Some(self.source_offset.load(Ordering::Relaxed)).filter(|&offset| offset != UNKNOWN)
    }

    /// Bytes that the source writes in a second, more or less.
    pub(crate) fn source_rate(&self) -> u64 {
        let of = |meter: &Meter| meter.source_rate.load(Ordering::Relaxed);
        of(self) + self.links().iter().map(|(_, link)| of(link)).sum::<u64>()
    }

    /// The stream's offset up to which the target holds everything for good: a restart goes on there.
    pub(crate) fn kept_offset(&self) -> u64 {
        match self.kept_offset.load(Ordering::Relaxed) {
            UNKNOWN => self.applied_offset.load(Ordering::Relaxed),
            offset => offset,
        }
    }

    /// The target holds everything up to here for good.
    pub(crate) fn set_kept_offset(&self, offset: u64) {
        let more = |before| (before == UNKNOWN || before < offset).then_some(offset);
        self.kept_offset.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok();
    }

    /// Bytes of its stream that the source remembers; 0 while it has not said.
    pub(crate) fn source_backlog(&self) -> u64 {
        self.source_backlog.load(Ordering::Relaxed)
    }

    /// How long the source can be left unread, in seconds.
    fn patience(&self) -> Option<f64> {
        let (backlog, rate) = (self.source_backlog(), self.source_rate.load(Ordering::Relaxed));
        let unread = self.source_offset()?.saturating_sub(self.received_offset.load(Ordering::Relaxed));
        (backlog > 0 && rate > 0).then(|| backlog.saturating_sub(unread) as f64 / rate as f64)
    }

    /// True while data streams through in bulk, so that a millisecond more or less is nothing to anybody.
    pub(crate) fn is_bulk(&self) -> bool {
        const BULK: u64 = 512 * 1024;
        let receiving = self.phase() == Phase::Snapshot
            && self.snapshot_received.load(Ordering::Relaxed) != self.snapshot_total.load(Ordering::Relaxed);
        receiving || self.in_flight.load(Ordering::Relaxed) >= BULK
    }

    /// The replication id that offsets belong to, once known.
    pub(crate) fn history(&self) -> Option<ReplicationId> {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_history(&self, id: ReplicationId) {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// Everything begins anew, but for what has been counted over all.
    pub(crate) fn restart(&self) {
        self.phase.store(Phase::Connecting as u8, Ordering::Relaxed);
        let mut began = [None; 6];
        began[0] = Some(Duration::ZERO);
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = began;
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.snapshot_complete.store(false, Ordering::Relaxed);
        self.held_up.store(false, Ordering::Relaxed);
        for unknown in [&self.source_offset, &self.kept_offset] {
            unknown.store(UNKNOWN, Ordering::Relaxed);
        }
        for count in [
            &self.snapshot_received,
            &self.snapshot_total,
            &self.snapshot_applied,
            &self.keys_announced,
            &self.keys_applied,
            &self.large_keys,
            &self.received_offset,
            &self.applied_offset,
            &self.journal_backlog,
            &self.journal_bytes,
            &self.in_flight,
        ] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// A file is the source, of so many bytes where that is known.
    pub(crate) fn set_input(&self, total: Option<u64>) {
        self.input.get_or_init(|| total);
    }

    /// The file is on the target already.
    pub(crate) fn skip_input(&self) {
        let total = self.input.get().copied().flatten().unwrap_or(0);
        self.applied_offset.fetch_max(total, Ordering::Relaxed);
    }

    /// True while the link to the source is lost.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The link to the source was lost, or made anew.
    pub(crate) fn note_trouble(&self, trouble: Option<String>) {
        let mut current = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == trouble {
            return;
        }
        let (link, offset) = (self.name.get(), self.applied_offset.load(Ordering::Relaxed));
        match &trouble {
            Some(reason) => tracing::warn!(link, offset, reason, "being tried again"),
            None => tracing::info!(link, offset, "going on"),
        }
        *current = trouble;
    }

    /// A command has come from the source, or its stream begins.
    pub(crate) fn note_write(&self) {
        self.last_write.store(self.now(), Ordering::Relaxed);
        self.heard_until.store(UNHEARD, Ordering::Relaxed);
    }

    /// What the source writes from now on is not heard: the link is lost, or brings a snapshot.
    pub(crate) fn note_unheard(&self) {
        self.last_write.store(UNHEARD, Ordering::Relaxed);
    }

    /// The source is asked something. If it does not answer within this time it stands still, and who wants to write has to wait.
    pub(crate) fn note_question(&self, within: Duration) {
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.answer_due.store(self.now().saturating_add(within), Ordering::Relaxed);
    }

    /// It has answered.
    pub(crate) fn note_answer(&self) {
        let late = self.now().saturating_sub(self.answer_due.swap(UNHEARD, Ordering::Relaxed));
        self.note_standstill(Duration::from_millis(late));
    }

    /// For so long, until now, the source stood still, or nobody looked: that nothing came then tells nothing.
    pub(crate) fn note_standstill(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let relaxed = Ordering::Relaxed;
        let _ = self.last_write.fetch_update(relaxed, relaxed, |last| {
            (last != UNHEARD).then(|| last.saturating_add(time).min(self.now().max(last)))
        });
    }

    /// Nobody listens to the source any more.
    pub(crate) fn note_end(&self) {
        let _ = self.heard_until.compare_exchange(UNHEARD, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// How long no command has come from the source while it was listened to: not before its stream begins, while the link is lost or not
    /// read, while it stands still, or after the end.
    pub(crate) fn quiet_for(&self) -> Duration {
        let last = self.last_write.load(Ordering::Relaxed);
        if last == UNHEARD || self.held_up.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let (end, due) = (self.heard_until.load(Ordering::Relaxed), self.answer_due.load(Ordering::Relaxed));
        let until = self.now().min(end).min(due);
        Duration::from_millis(until.saturating_sub(last))
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let before = self.phase.swap(phase as u8, Ordering::Relaxed);
        if before != phase as u8 {
            let offset = self.applied_offset.load(Ordering::Relaxed);
            tracing::info!(link = self.name.get(), phase = phase.name(), offset, "phase");
        }
        if phase == Phase::CatchingUp && before != Phase::Following as u8 {
            // Files have no link whose stream begins.
            let (now, relaxed) = (self.now(), Ordering::Relaxed);
            let _ = self.last_write.compare_exchange(UNHEARD, now, relaxed, relaxed);
        }
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        began[phase as usize].get_or_insert_with(|| self.started.elapsed());
    }

    /// Where each link stands, once its snapshot was applied: its name, its replication id and its offset.
    pub(crate) fn positions(&self) -> Vec<LinkPosition> {
        let position = |(name, link): (String, Meter)| {
            let offset = link.applied_offset.load(Ordering::Relaxed);
            let replication_id = link.history().filter(|_| offset > 0)?.to_string();
            Some(LinkPosition { name, replication_id, offset })
        };
        self.links().into_iter().filter_map(position).collect()
    }

    /// When each phase began. Several links are in a phase when the last of them has come so far.
    fn began(&self) -> [Option<Duration>; 6] {
        let mut began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let links = self.links();
        if links.is_empty() {
            return began;
        }
        for phase in Phase::Preparing as usize..Phase::Ended as usize {
            let reached = |link: &Meter| {
                let own = *link.began.lock().unwrap_or_else(PoisonError::into_inner);
                let first = own[phase..].iter().flatten().min()?;
                Some((link.started + *first).saturating_duration_since(self.started))
            };
            let all: Option<Vec<Duration>> = links.iter().map(|(_, link)| reached(link)).collect();
            began[phase] = all.and_then(|all| all.into_iter().max());
        }
        began
    }

    /// How long each phase lasted, in order; phases that were not reached are left out.
    pub(crate) fn durations(&self) -> Vec<(Phase, Duration)> {
        let began = self.began();
        let entered: Vec<(Phase, Duration)> =
            Phase::ALL.iter().zip(began).filter_map(|(&phase, at)| at.map(|at| (phase, at))).collect();
        let now = self.started.elapsed();
        let ends = entered.iter().skip(1).map(|&(_, at)| at).chain([now]);
        entered
            .iter()
            .zip(ends)
            .filter(|((phase, _), _)| *phase != Phase::Ended)
            .map(|(&(phase, at), end)| (phase, end.saturating_sub(at)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_last_until_the_next_one_entered() {
        let progress = Meter::default();
        progress.enter(Phase::Snapshot);
        progress.enter(Phase::Following);
        progress.enter(Phase::Ended);
        let names: Vec<Phase> = progress.durations().into_iter().map(|(phase, _)| phase).collect();
        assert_eq!(names, [Phase::Connecting, Phase::Snapshot, Phase::Following]);
        assert_eq!(progress.figures().lag_bytes, None);
    }

    #[test]
    fn only_who_is_listened_to_is_quiet() {
        let meter = Meter::default();
        let later = || {
            std::thread::sleep(Duration::from_millis(3));
            meter.quiet_for()
        };
        // A snapshot comes: what is written meanwhile is not heard yet.
        assert_eq!(later(), Duration::ZERO);
        meter.note_write();
        assert!(later() >= Duration::from_millis(2));
        meter.note_unheard();
        assert_eq!(later(), Duration::ZERO);
        meter.note_write();
        meter.held_up.store(true, Ordering::Relaxed);
        assert_eq!(later(), Duration::ZERO);
        meter.held_up.store(false, Ordering::Relaxed);
        assert!(later() >= Duration::from_millis(2));
        // It stands still.
        meter.note_question(Duration::ZERO);
        let quiet = meter.quiet_for();
        assert_eq!(later(), quiet);
        let answered = Instant::now();
        meter.note_answer();
        assert!(meter.quiet_for() <= quiet + answered.elapsed() + Duration::from_millis(1));
        // Never longer than the time that has gone by.
        meter.note_standstill(Duration::from_secs(1000));
        assert!(meter.quiet_for() < Duration::from_secs(500));
        assert!(later() >= Duration::from_millis(2));
        // What is read is applied for a while after the end.
        meter.note_end();
        let quiet = meter.quiet_for();
        assert_eq!(later(), quiet);
        meter.note_write();
        assert!(later() >= Duration::from_millis(2));

        let file = Meter::default();
        file.enter(Phase::CatchingUp);
        std::thread::sleep(Duration::from_millis(3));
        assert!(file.quiet_for() >= Duration::from_millis(2));
    }

    #[test]
    fn several_links_are_summed_and_the_slowest_of_them_tells_the_phase() {
        let (main, a, b) = (Meter::default(), Meter::default(), Meter::default());
        main.enter(Phase::Preparing);
        main.add_link("a".to_owned(), a.clone());
        main.add_link("b".to_owned(), b.clone());
        main.bytes_sent.store(5, Ordering::Relaxed);
        for (link, keys) in [(&a, 10), (&b, 20)] {
            link.keys_applied.store(keys, Ordering::Relaxed);
            link.snapshot_total.store(100, Ordering::Relaxed);
            link.received_offset.store(1000 + keys, Ordering::Relaxed);
        }
        a.enter(Phase::Preparing);
        a.enter(Phase::Snapshot);
        assert_eq!(main.phase(), Phase::Connecting);
        b.enter(Phase::Preparing);
        a.enter(Phase::CatchingUp);
        let figures = Progress(main.clone()).figures();
        assert_eq!((figures.phase, figures.keys_applied, figures.bytes_sent), (Phase::Preparing, 30, 5));
        assert_eq!((figures.snapshot_total, figures.received_offset), (Some(200), 0));
        assert_eq!(figures.links[1].figures.received_offset, 1020);
        // What one link does not know, the sum does not know.
        a.source_offset.store(500, Ordering::Relaxed);
        assert_eq!((main.figures().lag_bytes, main.figures().links[0].figures.lag_bytes), (None, Some(500)));
        b.enter(Phase::CatchingUp);
        b.source_offset.store(70, Ordering::Relaxed);
        assert_eq!(main.figures().lag_bytes, Some(570));
        b.note_trouble(Some("lost".to_owned()));
        assert_eq!(main.figures().trouble.as_deref(), Some("b: lost"));

        let id = "3ad1e7ef023c242514c0b05e48e4ee884551c793";
        a.set_history(id.parse().unwrap());
        a.applied_offset.store(7, Ordering::Relaxed);
        let position = LinkPosition { name: "a".to_owned(), replication_id: id.to_owned(), offset: 7 };
        assert_eq!(main.positions(), [position]);
        // `b` never said that it was at its snapshot, but it was past it in the end.
        let phases: Vec<Phase> = main.durations().into_iter().map(|(phase, _)| phase).collect();
        assert_eq!(phases, [Phase::Connecting, Phase::Preparing, Phase::Snapshot, Phase::CatchingUp]);
        main.enter(Phase::Ended);
        assert_eq!(main.phase(), Phase::Ended);
    }
}
