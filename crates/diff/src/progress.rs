//! How far a comparison is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What a comparison is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Servers are looked for, and prepare their snapshots.
    Preparing,
    /// Both sides are read.
    Reading,
    /// What was read is compared.
    Joining,
    /// What differs is left alone for a while before it is looked at again.
    Waiting,
    /// It is over.
    Done,
}

/// How far one side is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SideProgress {
    /// Keys read.
    pub keys: u64,
    /// Keys that there are by what the snapshots that have begun say; may be too few.
    pub announced: u64,
    /// Bytes of snapshots read.
    pub bytes: u64,
}

/// A view of a comparison from any thread. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct DiffProgress(Arc<Meters>);

#[derive(Debug, Default)]
struct Meters {
    phase: AtomicU8,
    sides: [Meter; 2],
    differences: AtomicU64,
    round: AtomicU32,
}

#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) keys: AtomicU64,
    pub(crate) announced: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl DiffProgress {
    /// What it is doing.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Relaxed) {
            0 => Phase::Preparing,
            1 => Phase::Reading,
            2 => Phase::Joining,
            3 => Phase::Waiting,
            _ => Phase::Done,
        }
    }

    /// How far reading the source is.
    pub fn source(&self) -> SideProgress {
        self.0.sides[0].look()
    }

    /// How far reading the target is.
    pub fn target(&self) -> SideProgress {
        self.0.sides[1].look()
    }

    /// Differences found so far.
    pub fn differences(&self) -> u64 {
        self.0.differences.load(Ordering::Relaxed)
    }

    /// The round of looking at keys: 1 for the first.
    pub fn round(&self) -> u32 {
        self.0.round.load(Ordering::Relaxed).max(1)
    }

    pub(crate) fn enter_round(&self, round: u32) {
        self.0.round.store(round, Ordering::Relaxed);
        self.enter(Phase::Joining);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn side(&self, side: usize) -> &Meter {
        &self.0.sides[side.min(1)]
    }

    pub(crate) fn found(&self) {
        self.0.differences.fetch_add(1, Ordering::Relaxed);
    }
}

impl Meter {
    fn look(&self) -> SideProgress {
        SideProgress {
            keys: self.keys.load(Ordering::Relaxed),
            announced: self.announced.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
