//! Whether a copy lacks what was said to be lost, and nothing else.

use std::collections::BTreeSet;
use std::fmt;

use super::{CompareOptions, Difference, DifferenceKind, compare_with, shorten};
use crate::client::Client;
use crate::error::Result;

/// What a tool said it could not carry over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ReportedLoss {
    /// The database of the key; 0 for a function library.
    pub database: u32,
    /// The key, or the name of the function library.
    pub key: Vec<u8>,
    /// In what way the copy has to differ.
    pub kind: DifferenceKind,
}

impl ReportedLoss {
    /// A loss that makes a key differ in this way.
    pub fn new(database: u32, key: impl Into<Vec<u8>>, kind: DifferenceKind) -> ReportedLoss {
        ReportedLoss { database, key: key.into(), kind }
    }
}

/// What became of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgement {
    /// Keys of the first server.
    pub keys: u64,
    /// Losses that were reported and are real.
    pub losses: u64,
    /// Differences that nobody reported.
    pub unreported: Vec<Difference>,
    /// What was reported to be lost and is there.
    pub unreal: Vec<ReportedLoss>,
}

impl Judgement {
    /// Whether the copy lacks exactly what was reported.
    pub fn is_right(&self) -> bool {
        self.unreported.is_empty() && self.unreal.is_empty()
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        write!(f, "{} keys, {} losses", self.keys, self.losses)?;
        if !self.unreported.is_empty() {
            write!(f, ", {} differences that were not reported:", self.unreported.len())?;
        }
        for difference in self.unreported.iter().take(SHOWN) {
            write!(f, "\n  {difference}")?;
        }
        if !self.unreal.is_empty() {
            write!(f, "\n{} reported losses that are none:", self.unreal.len())?;
        }
        for ReportedLoss { database, key, kind } in self.unreal.iter().take(SHOWN) {
            write!(f, "\n  db {database} key \"{}\" {kind:?}", shorten(key))?;
        }
        Ok(())
    }
}

/// Compares everything that snapshots keep, as [`compare_with`] does, and holds it against what was reported to be lost.
/// Streams are compared in what an older server would take them to have.
///
/// # Errors
/// As [`Client::call`].
pub fn judge(a: &mut Client, b: &mut Client, reported: &[ReportedLoss]) -> Result<Judgement> {
    let mut options = CompareOptions::default().unreplicated().one_sided();
    options.kept = usize::MAX;
    let comparison = compare_with(a, b, &options)?;
    let reported: BTreeSet<&ReportedLoss> = reported.iter().collect();
    let mut judgement = Judgement { keys: comparison.keys_a, ..Judgement::default() };
    let mut real = BTreeSet::new();
    for difference in comparison.differences {
        let Difference { database, ref key, kind, .. } = difference;
        let loss = ReportedLoss::new(database, key.as_slice(), kind);
        if reported.contains(&loss) {
            real.insert(loss);
        } else {
            judgement.unreported.push(difference);
        }
    }
    judgement.losses = real.len() as u64;
    judgement.unreal = reported.into_iter().filter(|loss| !real.contains(*loss)).cloned().collect();
    Ok(judgement)
}
