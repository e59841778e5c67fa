//! What a migration has done so far, readable while it runs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use keyferry_replication::ReplicationId;
use serde::Serialize;

/// Which part of its work a migration is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
#[non_exhaustive]
pub enum Phase {
    /// Connecting and checking both sides.
    Connecting,
    /// The source prepares its snapshot.
    Preparing,
    /// The snapshot is received and applied.
    Snapshot,
    /// The commands that came during the snapshot are applied from the journal.
    CatchingUp,
    /// Commands are applied as they come.
    Following,
    /// Over.
    Ended,
}

impl Phase {
    const ALL: [Phase; 6] = [
        Phase::Connecting,
        Phase::Preparing,
        Phase::Snapshot,
        Phase::CatchingUp,
        Phase::Following,
        Phase::Ended,
    ];

    /// A word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Preparing => "preparing",
            Phase::Snapshot => "snapshot",
            Phase::CatchingUp => "catching up",
            Phase::Following => "following",
            Phase::Ended => "ended",
        }
    }
}

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
}

/// No offset.
pub(crate) const UNKNOWN: u64 = u64::MAX;

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
    /// Journalled bytes that wait to be applied.
    pub(crate) journal_backlog: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    /// Bytes sent to the target and not answered.
    pub(crate) in_flight: AtomicU64,
    /// When a command last came, in milliseconds after the start.
    last_write: AtomicU64,
}

/// The figures of a migration at one moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// The present phase.
    pub phase: Phase,
    /// Time since the start, in seconds.
    pub elapsed_seconds: f64,
    /// Snapshot bytes received from the source.
    pub snapshot_received: u64,
    /// Size of the snapshot, where the source said it beforehand.
    pub snapshot_total: Option<u64>,
    /// Snapshot bytes whose keys the target has confirmed.
    pub snapshot_applied: u64,
    /// Keys that the snapshot's own hints announce so far; a hint may be wrong.
    pub keys_announced: u64,
    /// Keys of the snapshot that the target has confirmed.
    pub keys_applied: u64,
    /// Keys built in parts.
    pub large_keys: u64,
    /// Replication offset of the last byte received.
    pub received_offset: u64,
    /// Replication offset of the last byte whose command the target has confirmed.
    pub applied_offset: u64,
    /// The source's own offset when it was last asked.
    pub source_offset: Option<u64>,
    /// How many bytes of the source's writes the target does not have yet, where both sides are known.
    pub lag_bytes: Option<u64>,
    /// Commands of the stream that the target has confirmed.
    pub commands_applied: u64,
    /// Journalled bytes that wait to be applied.
    pub journal_backlog: u64,
    /// How often the replication link was made anew.
    pub reconnects: u64,
    /// Bytes sent to the target.
    pub bytes_sent: u64,
    /// Why the source is not being followed at this moment: its link was lost and is being made anew.
    pub trouble: Option<String>,
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
            journal_backlog: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
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
    pub(crate) fn figures(&self) -> Figures {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let some = |n: u64| (n > 0).then_some(n);
        let phase = self.phase();
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
            reconnects: load(&self.reconnects),
            bytes_sent: load(&self.bytes_sent),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
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

    /// True while the link to the source is lost.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The link to the source was lost, or made anew.
    pub(crate) fn note_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// A command has come from the source.
    pub(crate) fn note_write(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_write.store(now, Ordering::Relaxed);
    }

    /// How long no command has come from the source.
    pub(crate) fn quiet_for(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last_write.load(Ordering::Relaxed)))
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        began[phase as usize].get_or_insert_with(|| self.started.elapsed());
    }

    /// How long each phase lasted, in order; phases that were not reached are left out.
    pub(crate) fn durations(&self) -> Vec<(Phase, Duration)> {
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
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
}
