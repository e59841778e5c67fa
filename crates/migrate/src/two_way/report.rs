//! What a two-way run has done.

use serde::Serialize;

use super::{Conflict, Policy};
use crate::report::Report;

/// What one of both links has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LinkCounts {
    /// Commands of the side's own applications that were carried over.
    pub own: u64,
    /// Transactions that the other link had written there, and that were left out …
    pub returned: u64,
    /// … with so many commands.
    pub returned_commands: u64,
    /// Commands that write what is kept of migrations (`keyferry:…`), left out.
    pub bookkeeping: u64,
    /// Commands of the side's own applications that were left out, as their keys got the other side's value.
    pub left_out: u64,
    /// Commands that the other side refused, and that were left out there.
    pub refused: u64,
    /// Commands of which nobody can tell whether they met a write of the other side: too many were remembered.
    pub unknown: u64,
}

/// What a two-way run has done.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TwoWayReport {
    /// Its name.
    pub id: String,
    /// What was done about conflicts.
    pub policy: Policy,
    /// Both sides may be written to: they may go on being so, also when this run has ended.
    pub ready: bool,
    /// The link from the source to the target; none when nothing was begun.
    pub forward: Option<Report>,
    /// The one back; none when it was not begun.
    pub back: Option<Report>,
    /// What the link from the source did with what it read.
    pub from_source: LinkCounts,
    /// The one from the target.
    pub from_target: LinkCounts,
    /// Keys that both sides wrote before either knew of the other's write, one for each two such writes.
    pub conflicts: u64,
    /// Commands that one side refused, by key.
    pub refused: u64,
    /// Keys that got one side's value on both.
    pub settled: u64,
    /// Keys that are yet to get it: the next run sees to that.
    pub unsettled: u64,
    /// Some of the conflicts.
    pub samples: Vec<Conflict>,
}
