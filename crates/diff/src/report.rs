//! How a comparison ended.

use std::fmt;

use keyferry_files::LeftOutCounts;
use serde::Serialize;

use crate::changed::ChangedReport;
use crate::difference::DifferenceCounts;
use crate::live::Depth;

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
    /// Nothing that could be told differs, but some keys were written so often that nothing can be said of them.
    Unsettled,
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
    /// Keys that were in motion whenever they were looked at, so that nothing can be said of them.
    pub unsettled: u64,
    /// What told that the target had caught up, in words, where keys were compared only then.
    pub barrier: Option<&'static str>,
    /// The differences.
    pub differences: DifferenceCounts,
    /// Up to when keys and hash fields counted as expired, in milliseconds since the Unix epoch.
    pub expired_until: Option<i64>,
    /// When it began, in seconds since the Unix epoch: what [`ChangedOptions::since`](crate::ChangedOptions::since) wants to know.
    pub begun_at: i64,
    /// Whether only some keys were chosen.
    pub selected: bool,
    /// The journal whose keys were looked at, where it was only these.
    pub changed: Option<ChangedReport>,
    /// What was compared of each key.
    pub depth: Depth,
    /// The rounds in which keys were looked at; none where there was but one look, at snapshots.
    pub rounds: Vec<RoundReport>,
    /// What a sample of the keys says of all of them.
    pub sample: Option<SampleReport>,
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
    /// Keys that a sample left out.
    pub unsampled: u64,
    /// Keys that `SCAN` gave, among them some twice; 0 for snapshots.
    pub scanned: u64,
    /// Function libraries.
    pub functions: u64,
    /// Bytes of snapshots read.
    pub bytes: u64,
}

/// A round of looking at keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RoundReport {
    /// Keys that were looked at.
    pub keys: u64,
    /// Keys among them that differed.
    pub differ: u64,
}

impl RoundReport {
    pub(crate) const fn new(keys: u64, differ: u64) -> Self {
        Self { keys, differ }
    }
}

/// What a sample says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SampleReport {
    /// Which share of the keys was to be looked at.
    pub share: f64,
    /// Keys that were looked at.
    pub looked: u64,
    /// Keys among them that differ.
    pub differ: u64,
}

/// How sure one may be of the rest.
impl fmt::Display for SampleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (looked, differ) = (self.looked as f64, self.differ as f64);
        write!(f, "{} of about {:.0} keys were looked at", self.looked, looked / self.share)?;
        if self.looked == 0 {
            return f.write_str(": that says nothing of the others");
        }
        if self.differ == 0 {
            // With n of n equal, the share of others is below 3/n with 95 % confidence.
            let share = (3.0 / looked).min(1.0);
            return write!(
                f,
                " and are equal: one may be 95 % sure that fewer than {} of all keys differ, if differences do not depend on names; a few \
                 that do can easily be missed",
                Share(share)
            );
        }
        let share = differ / looked;
        // Half the width of the interval of 95 % (Agresti and Coull).
        let n = looked + 4.0;
        let p = (differ + 2.0) / n;
        let half = 1.96 * (p * (1.0 - p) / n).sqrt();
        let (low, high) = ((p - half).max(0.0), (p + half).min(1.0));
        write!(
            f,
            ": {} of them differ, so with 95 % confidence between {} and {} of all keys do",
            Share(share),
            Share(low),
            Share(high)
        )
    }
}

/// A share in per cent, with two digits that count.
struct Share(f64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.0 * 100.0;
        let digits =
            if percent <= 0.0 || percent >= 10.0 { 1 } else { (1.0 - percent.log10().floor()) as usize };
        write!(f, "{percent:.digits$} %")
    }
}

impl DiffReport {
    /// What it says.
    pub fn verdict(&self) -> Verdict {
        if self.differences.total() > 0 {
            Verdict::Different
        } else if self.selected && self.source.keys == 0 && self.target.keys == 0 {
            Verdict::NothingCompared
        } else if self.unsettled > 0 {
            Verdict::Unsettled
        } else {
            Verdict::Equal
        }
    }

    /// Keys that only the source has, and keys that only the target has.
    fn one_sided(&self) -> (u64, u64) {
        (self.source.keys.saturating_sub(self.both), self.target.keys.saturating_sub(self.both))
    }
}

/// The note on a side whose URL names a database.
pub(crate) fn all_databases(side: &str, db: u32) -> String {
    format!("{side}: all databases were compared; {db} in the URL chooses nothing, --db does")
}

/// The verdict in one line.
impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, target) = (self.source.keys, self.target.keys);
        match self.verdict() {
            Verdict::Different if self.depth == Depth::Counts => {
                write!(f, "DIFFERENT: {source} and {target} keys; {}", self.differences)
            }
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
            Verdict::Unsettled => write!(
                f,
                "UNSETTLED: {} keys are the same on both sides, but {} were written whenever they were looked at",
                self.equal, self.unsettled
            ),
            Verdict::Equal if self.depth == Depth::Counts => {
                write!(f, "SAME NUMBERS: {source} keys on both sides")
            }
            Verdict::Equal if self.changed.is_some() => {
                write!(f, "EQUAL, WHERE TOUCHED: {} keys are the same on both sides", self.both)
            }
            Verdict::Equal if source + target == 0 => f.write_str("EQUAL: both sides are empty"),
            Verdict::Equal if self.sample.is_some() => {
                write!(f, "EQUAL, WHERE LOOKED AT: {} keys are the same on both sides", self.both)
            }
            Verdict::Equal if self.depth == Depth::Exists => {
                write!(f, "SAME NAMES: all {source} keys are on both sides")
            }
            Verdict::Equal if self.depth == Depth::Length => {
                write!(
                    f,
                    "SAME LENGTHS: all {source} keys have the same type, length and expiry on both sides"
                )
            }
            Verdict::Equal if self.expiring == 0 => {
                write!(f, "EQUAL: all {} keys are the same on both sides", self.both)
            }
            Verdict::Equal => write!(
                f,
                "EQUAL: all {} keys are the same on both sides, but for {} that were about to expire",
                self.both, self.expiring
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(looked: u64, differ: u64) -> String {
        SampleReport { share: 0.01, looked, differ }.to_string()
    }

    #[test]
    fn samples_say_how_sure_one_may_be() {
        let text = sample(30_000, 0);
        assert!(text.starts_with("30000 of about 3000000 keys were looked at and are equal"), "{text}");
        assert!(text.contains("fewer than 0.010 % of all keys"), "{text}");
        let text = sample(1000, 10);
        assert!(text.contains("1.0 % of them differ, so with 95 % confidence between 0.5"), "{text}");
        assert!(text.contains(" and 1.9 % of all keys do"), "{text}");
        assert!(sample(0, 0).contains("says nothing"));
        assert!(sample(2, 0).contains("fewer than 100.0 %"));
    }

    #[test]
    fn a_verdict_says_no_more_than_was_looked_at() {
        let mut report = DiffReport::default();
        (report.source.keys, report.target.keys, report.both, report.equal) = (3, 3, 3, 3);
        for (depth, words) in [
            (Depth::Full, "EQUAL: all 3"),
            (Depth::Length, "SAME LENGTHS"),
            (Depth::Exists, "SAME NAMES"),
            (Depth::Counts, "SAME NUMBERS"),
        ] {
            report.depth = depth;
            assert!(report.to_string().starts_with(words), "{report}");
        }
        report.depth = Depth::Full;
        // One on each side, and each about to go.
        report.expiring = 2;
        assert!(report.to_string().ends_with("but for 2 that were about to expire"), "{report}");
        report.sample = Some(SampleReport { share: 0.5, looked: 3, differ: 0 });
        assert!(report.to_string().starts_with("EQUAL, WHERE LOOKED AT"), "{report}");
    }
}
