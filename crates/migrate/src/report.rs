//! What a migration did, for people and machines.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{progress::Figures, snapshot::SnapshotCounts};

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
#[non_exhaustive]
pub enum Outcome {
    /// The target held everything that the source held.
    CaughtUp {
        /// True when writes still came in at that moment: the target is behind again by now.
        source_was_writing: bool,
    },
    /// Stopped on request.
    Stopped {
        /// True when everything read from the source had been applied; else the rest is in the journal.
        everything_applied: bool,
    },
    /// Ended by an error.
    Failed {
        /// The error, in one line.
        error: String,
    },
}

/// What a migration did. Serializes to JSON. It holds no secrets; of values it holds only what a refused command has in its
/// first arguments, shortened.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The source: its URL without the password, and what it said it is.
    pub source: Endpoint,
    /// The target.
    pub target: Endpoint,
    /// Seconds that each phase lasted.
    pub phases: BTreeMap<&'static str, f64>,
    /// What the snapshot held, and what of it could not be carried.
    pub snapshot: SnapshotCounts,
    /// The figures at the end.
    pub figures: Figures,
    /// Replication id and offset up to which everything is on the target, once the snapshot was applied.
    pub position: Option<String>,
    /// The journal's directory, where it still holds something.
    pub journal: Option<String>,
    /// Things that a person should know.
    pub notes: Vec<String>,
}

/// One side of a migration.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Endpoint {
    /// The URL, password shown as `***`.
    pub url: String,
    /// Vendor, version, mode and role, once connected.
    pub server: Option<String>,
}

/// What the report needs and only the run learns.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) counts: SnapshotCounts,
    pub(crate) journal: Option<String>,
    pub(crate) notes: Vec<String>,
}
