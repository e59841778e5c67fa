//! How a comparison ended.

use std::fmt;

use keyferry_files::LeftOutCounts;
use serde::Serialize;

use crate::difference::DifferenceCounts;

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Both sides hold the same.
    Equal,
    /// They do not.
    Different,
    /// No key was chosen on either side, so nothing can be said.
    NothingCompared,
}

/// How a comparison ended, in numbers.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct DiffReport {
    /// The first side.
    pub source: SideReport,
    /// The second side.
    pub target: SideReport,
    /// Keys that both sides have.
    pub both: u64,
    /// Keys that both sides have and that do not differ.
    pub equal: u64,
    /// Keys of one side only that were not counted as differences: they expire so soon after the snapshots that the other
    /// side may have removed them already.
    pub expiring: u64,
    /// The differences.
    pub differences: DifferenceCounts,
    /// Up to when keys and hash fields counted as expired, in milliseconds since the Unix epoch.
    pub expired_until: Option<i64>,
    /// Whether only some keys were chosen.
    pub selected: bool,
    /// Bytes of digests that waited on disk.
    pub spilled: u64,
    /// How long it took.
    pub seconds: f64,
    /// Things that a person should know.
    pub notes: Vec<String>,
}

/// What was found on a side.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct SideReport {
    /// The URL without its password, or the files.
    pub name: String,
    /// What was read, one entry for each snapshot: its name and the version of its server.
    pub parts: Vec<String>,
    /// Keys that were chosen and have not expired.
    pub keys: u64,
    /// Keys that had expired and were not removed yet.
    pub expired: u64,
    /// Keys without elements, which count as absent.
    pub empty: u64,
    /// Keys that were not chosen, by reason.
    pub left_out: LeftOutCounts,
    /// Keys that migrations keep for themselves: see [`BOOKKEEPING`](crate::BOOKKEEPING).
    pub bookkeeping: u64,
    /// Keys in slots that their node of a cluster does not own, which nobody sees.
    pub stray: u64,
    /// Function libraries.
    pub functions: u64,
    /// Bytes of snapshots read.
    pub bytes: u64,
}

impl DiffReport {
    /// What it says.
    pub fn verdict(&self) -> Verdict {
        if self.differences.total() > 0 {
            Verdict::Different
        } else if self.selected && self.source.keys == 0 && self.target.keys == 0 {
            Verdict::NothingCompared
        } else {
            Verdict::Equal
        }
    }

    /// Keys that only the source has, and keys that only the target has.
    fn one_sided(&self) -> (u64, u64) {
        (self.source.keys.saturating_sub(self.both), self.target.keys.saturating_sub(self.both))
    }
}

/// The verdict in one line.
impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, target) = (self.source.keys, self.target.keys);
        match self.verdict() {
            Verdict::Different => {
                let (only_source, only_target) = self.one_sided();
                write!(
                    f,
                    "DIFFERENT: {} differences ({}); {} keys on both sides, {} of them equal, {only_source} on the source only, \
                     {only_target} on the target only",
                    self.differences.total(),
                    self.differences,
                    self.both,
                    self.equal,
                )
            }
            Verdict::NothingCompared => {
                f.write_str("NOTHING COMPARED: no key that was asked for is on either side")
            }
            Verdict::Equal if source + target == 0 => f.write_str("EQUAL: both sides are empty"),
            Verdict::Equal if source == target => {
                write!(f, "EQUAL: all {source} keys are the same on both sides")
            }
            Verdict::Equal => write!(
                f,
                "EQUAL: all {} keys are the same on both sides, but for {} that were about to expire",
                self.both, self.expiring
            ),
        }
    }
}
