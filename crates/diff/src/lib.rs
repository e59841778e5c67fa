//! Proof that two data sets of Redis-compatible servers are equal, or what differs.
//!
//! It **takes** two [`Side`]s, each a live server, a cluster, what sentinels watch, or files: RDB files and append-only files that are
//! snapshots. It **gives** every [`Difference`] to a [`DifferenceSink`], and a [`DiffReport`] with counts and a verdict.
//!
//! - [`SnapshotDiff`] compares two sides by their snapshots, in both directions in one pass.
//! - [`LiveDiff`] compares two live sides key by key, and looks again at what differs; it also settles what differed in snapshots of
//!   data that moves. [`quick()`] compares only what servers count.
//! - [`ChangedKeys`] are those that a migration's journal says were touched since the last comparison:
//!   [`LiveDiff::run_changed`] compares only these.
//! - [`digest()`] reduces every key of a snapshot to its type, a digest of its value, and its expiry. Digests are equal for
//!   equal values, whatever their encoding and whichever server wrote them: [`ValueDigester`] says by which rules.
//! - [`results`] writes differences as text, JSON lines, JUnit's XML and SQLite.
//!
//! It **promises** that a difference is found whatever its size, but for the chance that two random numbers of 128 bits are the
//! same; that memory is bounded whatever the data; that what is left out is counted; that what cannot be told is an error and
//! not a verdict.

mod changed;
mod cutoff;
mod difference;
mod digest;
mod elements;
mod error;
mod join;
mod live;
mod options;
mod places;
mod progress;
mod report;
pub mod results;
mod side;
mod slots;
mod snapshot_diff;
mod store;

pub use changed::{ChangedKeys, ChangedOptions, ChangedReport};
pub use difference::{Difference, DifferenceCounts, DifferenceKind, FieldDifference, Held, Subject};
pub use digest::{
    DigestOptions, KeyDigest, SnapshotDigester, SnapshotSummary, ValueDifferences, ValueDigest,
    ValueDigester, digest,
};
pub use error::Error;
pub use live::{
    BarrierBy, Depth, LiveDiff, LiveOptions, RepairOptions, RepairReport, RepairWhat, Sample, Suspects,
    UnknownBarrier, UnknownDepth, UnknownRepair, WrongSample, quick,
};
pub use options::{BOOKKEEPING, DiffOptions};
pub use progress::{DiffProgress, Phase, SideProgress};
pub use report::{DiffReport, RoundReport, SampleReport, SideReport, Verdict};
pub use results::DifferenceSink;
pub use side::Side;
pub use snapshot_diff::SnapshotDiff;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
