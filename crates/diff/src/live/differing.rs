//! What comes of looking at keys: those that differ, and numbers.

use std::collections::HashSet;

use bytes::Bytes;

use super::finding::{Finding, Outcome};

/// What came of keys, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) looked: u64,
    pub(crate) gone: u64,
    pub(crate) expiring: u64,
    pub(crate) other_kind: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.looked += outcome.looked;
        self.gone += outcome.gone;
        self.expiring += outcome.expiring;
        self.other_kind += outcome.other_kind;
    }
}

/// Keys that differ, each once.
#[derive(Debug, Default)]
pub(crate) struct Differing {
    pub(crate) seen: HashSet<(usize, Bytes)>,
    pub(crate) findings: Vec<(usize, Finding)>,
}

impl Differing {
    /// Takes out what was found in a pair of databases.
    pub(crate) fn forget(&mut self, pair: usize) {
        self.seen.retain(|(of, _)| *of != pair);
        self.findings.retain(|(of, _)| *of != pair);
    }

    pub(crate) fn add(&mut self, pair: usize, findings: Vec<Finding>) -> u64 {
        let mut repeated = 0;
        for mut finding in findings {
            // Its buffer holds the names of many other keys.
            finding.key = Bytes::copy_from_slice(&finding.key);
            if self.seen.insert((pair, finding.key.clone())) {
                self.findings.push((pair, finding));
            } else {
                repeated += 1;
            }
        }
        repeated
    }
}
