//! Both ways at once: two sides, both of which applications write to.
//!
//! **Takes** two servers (or primaries that sentinels know), the first of which is copied to the second to begin with, and then
//! one link in each direction. **Gives** each side's writes to the other, and tells of keys that both have written before either
//! knew of the other's write. **Promises** that no write goes round: what a link writes it writes in transactions with its own
//! checkpoint, by which the other link knows them in the stream and leaves them out; that writes to keys that one side alone
//! writes arrive exactly once and in order; that of two writes that meet none passes without being counted, also over a restart
//! ([`LinkCounts::unknown`] counts those of which nobody can tell). **Refuses** clusters, filters, maps of databases, and
//! everything that would copy over what both sides have written.
//!
//! It is no consensus: applications see their own side's writes at once, and the other's later. Whoever increments the same counter
//! on both sides gets a conflict, not a sum. `docs/decisions/0028` has the rules, and the crate's README
//! what is promised and what not.
//!
//! ```no_run
//! use keyferry_migrate::two_way::{Policy, TwoWay};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let mut both = TwoWay::new("redis://one.example:6379".parse()?, "redis://two.example:6379".parse()?, Policy::Report);
//! both.options_mut().id = Some("both".to_owned());
//! both.write_conflicts_to("conflicts.jsonl");
//! let (progress, stopper) = (both.progress(), both.stopper());
//! let running = tokio::spawn(both.run());
//! while !progress.is_ready() {
//!     tokio::time::sleep(std::time::Duration::from_millis(100)).await;
//! }
//! println!("both sides may be written to");
//! # stopper.stop();
//! let finished = running.await?;
//! println!("{} conflicts", finished.report.conflicts);
//! # finished.result?;
//! # Ok(())
//! # }
//! ```

mod conflicts;
mod link;
mod notes;
mod report;
mod run;
mod settle;
mod settling;
mod state;
mod table;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use keyferry_client::Endpoint;
use serde::Serialize;

pub(crate) use self::link::{Link, Looked, Place, SEEN, Verdict};
pub use self::{
    conflicts::{Conflict, ConflictKind, ConflictOutcome, ConflictingWrite},
    report::{LinkCounts, TwoWayReport},
};
use self::{link::Shared, table::Write};
use crate::{
    error::Error,
    migration::{Migration, Stopper},
    options::Options,
    progress::Progress,
};

/// What is done about a key that both sides wrote before either knew of the other's write.
///
/// With any of them: of a write and a deletion the write stays, as nobody can tell from a stream whether a key was deleted or has
/// expired, and two deletions are no conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Policy {
    /// Both writes are carried out on both sides, in the order in which they come there: the sides may differ in the key from then
    /// on.
    #[default]
    Report,
    /// Both sides get the value to which the source's write was done last.
    SourceWins,
    /// Both sides get the value to which the target's write was done last.
    TargetWins,
    /// Both sides get the value to which that write was done last which came later to this program, by its clock; the source's, where
    /// both came in one millisecond.
    Newest,
}

impl Policy {
    /// Its name, as `--two-way` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Report => "report",
            Policy::SourceWins => "source-wins",
            Policy::TargetWins => "target-wins",
            Policy::Newest => "newest",
        }
    }

    /// Whose write stays; nobody's in particular, where both do.
    fn winner(self, (side, write): (SideName, Write), other: Write) -> Option<SideName> {
        match self {
            Policy::Report => None,
            Policy::SourceWins => Some(SideName::Source),
            Policy::TargetWins => Some(SideName::Target),
            Policy::Newest if write.time > other.time => Some(side),
            Policy::Newest if write.time < other.time => Some(side.other()),
            Policy::Newest => Some(SideName::Source),
        }
    }
}

/// One of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SideName {
    Source,
    Target,
}

impl SideName {
    fn other(self) -> Self {
        match self {
            SideName::Source => SideName::Target,
            SideName::Target => SideName::Source,
        }
    }

    fn number(self) -> usize {
        match self {
            SideName::Source => 0,
            SideName::Target => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            SideName::Source => "source",
            SideName::Target => "target",
        }
    }
}

/// A migration in both directions that has not begun.
#[derive(Debug)]
pub struct TwoWay {
    policy: Policy,
    conflicts: Option<PathBuf>,
    forward: Migration,
    back: Migration,
    shared: Arc<OnceLock<Arc<Shared>>>,
    ready: Arc<std::sync::atomic::AtomicBool>,
}

/// How a two-way run ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct TwoWayFinished {
    /// What it did, also when it failed.
    pub report: TwoWayReport,
    /// The error that ended it.
    pub result: Result<(), Error>,
}

/// A live view. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TwoWayProgress {
    forward: Progress,
    back: Progress,
    shared: Arc<OnceLock<Arc<Shared>>>,
    ready: Arc<std::sync::atomic::AtomicBool>,
}

/// Stops both links: what has been read is applied, and no more is read.
#[derive(Clone, Debug)]
pub struct TwoWayStopper([Stopper; 2]);

impl TwoWayStopper {
    /// Asks for the stop; [`TwoWay::run`] returns when it is done. Asking again does nothing.
    pub fn stop(&self) {
        self.0.iter().for_each(Stopper::stop);
    }
}

impl TwoWayProgress {
    /// True from when both sides may be written to.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The link from the source to the target.
    #[must_use]
    pub fn forward(&self) -> Progress {
        self.forward.clone()
    }

    /// The link back.
    #[must_use]
    pub fn back(&self) -> Progress {
        self.back.clone()
    }

    /// What the links from the source and from the target did with what they have read.
    #[must_use]
    pub fn counts(&self) -> (LinkCounts, LinkCounts) {
        let counts = |shared: &Arc<Shared>| {
            let mut state = shared.state();
            let from_source = state.link(SideName::Source).counts.clone();
            (from_source, state.link(SideName::Target).counts.clone())
        };
        self.shared.get().map(counts).unwrap_or_default()
    }

    /// Keys that both sides wrote before either knew of the other's write.
    #[must_use]
    pub fn conflicts(&self) -> u64 {
        self.shared.get().map_or(0, |shared| shared.state().conflicts.count)
    }

    /// Keys that got one side's value on both.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.shared.get().map_or(0, |shared| shared.state().conflicts.settled)
    }

    /// Commands that one side refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.get().map_or(0, |shared| shared.state().conflicts.refused)
    }

    /// Keys that are being settled.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.shared.get().map_or(0, |shared| shared.state().settlings.len() as u64)
    }
}

impl TwoWay {
    /// What `source` holds is copied to `target` first, if no run under this name has done so; from when
    /// [`TwoWayProgress::is_ready`] says so, both may be written to.
    #[must_use]
    pub fn new(source: Endpoint, target: Endpoint, policy: Policy) -> Self {
        let forward = Migration::new(source.clone(), target.clone());
        let back = Migration::new(target, source);
        TwoWay { policy, conflicts: None, forward, back, shared: Arc::default(), ready: Arc::default() }
    }

    /// Settings of both links to change before it runs. What would keep parts from going over, or does not go with both ways, is refused
    /// ([`Error::TwoWay`]). The link back has the name `<id>.back`, and its journal, if there is one, in `<journal>/back`.
    pub fn options_mut(&mut self) -> &mut Options {
        self.forward.options_mut()
    }

    /// Every conflict is added to this file, as a line of JSON: a [`Conflict`]. After a run was killed, one may be there twice.
    pub fn write_conflicts_to(&mut self, path: impl Into<PathBuf>) {
        self.conflicts = Some(path.into());
    }

    /// The link from the source to the target, for metrics and the like.
    #[must_use]
    pub fn forward(&self) -> &Migration {
        &self.forward
    }

    /// The link back.
    #[must_use]
    pub fn back(&self) -> &Migration {
        &self.back
    }

    /// A live view, good before, during and after the run.
    #[must_use]
    pub fn progress(&self) -> TwoWayProgress {
        TwoWayProgress {
            forward: self.forward.progress(),
            back: self.back.progress(),
            shared: Arc::clone(&self.shared),
            ready: Arc::clone(&self.ready),
        }
    }

    /// A handle that stops the run.
    #[must_use]
    pub fn stopper(&self) -> TwoWayStopper {
        TwoWayStopper([self.forward.stopper(), self.back.stopper()])
    }
}
