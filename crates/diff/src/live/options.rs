//! How live servers are compared.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// What is compared of each key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Depth {
    /// Types, expiries and whole values.
    #[default]
    Full,
    /// As [`Full`](Self::Full), but of big keys ([`LiveOptions::big_key`]) only type, length and expiry.
    SkipBig,
    /// Types, lengths and expiries.
    Length,
    /// Only that the key is there.
    Exists,
    /// Only how many keys there are in each database, from what the servers count: [`quick`](crate::quick).
    Counts,
}

impl Depth {
    /// Its name in options and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::SkipBig => "skip-big",
            Self::Length => "length",
            Self::Exists => "exists",
            Self::Counts => "counts",
        }
    }

    /// What a comparison of this depth leaves open, in words; `None` for a full one.
    pub const fn leaves_open(self) -> Option<&'static str> {
        match self {
            Self::Full => None,
            Self::SkipBig => Some("of big keys only type, length and expiry were compared"),
            Self::Length => {
                Some("types, lengths and expiries were compared: values of one length may still differ")
            }
            Self::Exists => Some("only names were compared: nothing is known of the values"),
            Self::Counts => Some(
                "only numbers of keys were compared: which keys there are and what they hold may still differ in all of them",
            ),
        }
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The names of the depths that a comparison key by key has, and the numbers that redis-full-check gives them (`--comparemode`).
impl FromStr for Depth {
    type Err = UnknownDepth;

    fn from_str(text: &str) -> Result<Self, UnknownDepth> {
        match text {
            "full" | "1" => Ok(Self::Full),
            "length" | "2" => Ok(Self::Length),
            "exists" | "3" => Ok(Self::Exists),
            "skip-big" | "4" => Ok(Self::SkipBig),
            _ => Err(UnknownDepth(text.into())),
        }
    }
}

/// A text that names no depth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no depth of a comparison; there are full, length, exists and skip-big")]
pub struct UnknownDepth(Box<str>);

/// What tells that the target has what the source had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BarrierBy {
    /// The checkpoint, where the target has that of just one migration that follows all nodes of the source; else marks.
    #[default]
    Either,
    /// The checkpoint that keyferry's migrations keep in the target. Nothing is written. Where the target is a cluster it moves on once a
    /// second only, and where nobody writes to the source every ten seconds.
    Checkpoint,
    /// Marks: short-lived keys, `keyferry:barrier:*`, that are written on the source. For everything that copies in order; not for
    /// migrations that leave such keys out.
    Marks,
}

/// The names of these in options: `either`, `checkpoint`, `marks`.
impl FromStr for BarrierBy {
    type Err = UnknownBarrier;

    fn from_str(text: &str) -> Result<Self, UnknownBarrier> {
        match text {
            "either" => Ok(Self::Either),
            "checkpoint" => Ok(Self::Checkpoint),
            "marks" => Ok(Self::Marks),
            _ => Err(UnknownBarrier(text.into())),
        }
    }
}

/// A text that names no barrier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no barrier; there are either, checkpoint and marks")]
pub struct UnknownBarrier(Box<str>);

/// How live servers are compared key by key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveOptions {
    /// What is compared of each key. Default: everything.
    pub depth: Depth,
    /// Keys with more elements than this are read in parts, and so are those that take more than 16 MiB at a server. Strings
    /// never are. Default: 16,384, as in redis-full-check.
    pub big_key: u64,
    /// Which share of the keys is looked at, chosen by a random hash of their names, the same on both sides. Default: all.
    pub sample: Option<Sample>,
    /// How many keys are looked at in a second, at most. Default: no bound.
    pub keys_per_second: Option<u64>,
    /// How many batches are looked at at once, each over connections of its own. Default: 4.
    pub parallel: usize,
    /// Keys of a batch, which is also what `SCAN` is asked for. Default: 1000.
    pub batch: usize,
    /// How many times keys that differ are looked at, the first time included. What differs in the last round is a difference.
    /// Default: 3.
    pub rounds: u32,
    /// How long to wait between rounds, so that what was under way arrives. Default: 5 seconds.
    pub interval: Duration,
    /// Whether something copies the source's writes to the target in order, a migration or replication, and how long what is
    /// written on the source may take to arrive. Keys that differ are then compared when the target has what the source had, as often as it
    /// takes, and `barrier_by` tells when that is; `rounds` and `interval` count for nothing. Default: no.
    pub barrier: Option<Duration>,
    /// What tells that the target has what the source had. Default: a checkpoint if there is one, else marks.
    pub barrier_by: BarrierBy,
    /// For how many elements of a key it is told how they differ; the others are counted. Default: 1000.
    pub fields: usize,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self {
            depth: Depth::Full,
            big_key: 16_384,
            sample: None,
            keys_per_second: None,
            parallel: 4,
            batch: 1000,
            rounds: 3,
            interval: Duration::from_secs(5),
            barrier: None,
            barrier_by: BarrierBy::Either,
            fields: 1000,
        }
    }
}

/// A share of keys: above 0, at most 1.
///
/// ```
/// use keyferry_diff::Sample;
///
/// let sample: Sample = "1%".parse()?;
/// assert_eq!(sample.share(), 0.01);
/// assert_eq!("0.25".parse::<Sample>()?.share(), 0.25);
/// assert!("0".parse::<Sample>().is_err() && "101%".parse::<Sample>().is_err());
/// # Ok::<(), keyferry_diff::WrongSample>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Sample(f64);

impl Sample {
    /// This share; `None` unless it is above 0 and at most 1.
    pub fn new(share: f64) -> Option<Self> {
        (share > 0.0 && share <= 1.0).then_some(Self(share))
    }

    /// The share.
    pub const fn share(self) -> f64 {
        self.0
    }
}

impl FromStr for Sample {
    type Err = WrongSample;

    fn from_str(text: &str) -> Result<Self, WrongSample> {
        let wrong = || WrongSample(text.into());
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse::<f64>().map_err(|_| wrong())? / 100.0,
            None => text.parse().map_err(|_| wrong())?,
        };
        Self::new(share).ok_or_else(wrong)
    }
}

/// A text that is no share of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no share of keys; give one like 1% or 0.01, above 0 and at most 100%")]
pub struct WrongSample(Box<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_have_names_and_numbers() {
        for depth in [Depth::Full, Depth::Length, Depth::Exists, Depth::SkipBig] {
            assert_eq!(depth.name().parse(), Ok(depth));
        }
        assert_eq!(
            ["1", "2", "3", "4"].map(|n| n.parse::<Depth>().unwrap().name()),
            ["full", "length", "exists", "skip-big"]
        );
        assert!("counts".parse::<Depth>().unwrap_err().to_string().starts_with("\"counts\" is no depth"));
        assert!(Depth::Full.leaves_open().is_none() && Depth::Length.leaves_open().is_some());
    }

    #[test]
    fn shares_are_shares() {
        for wrong in ["", "%", "0%", "-1%", "1.5", "NaN", "inf", "x"] {
            assert!(wrong.parse::<Sample>().is_err(), "{wrong}");
        }
        assert_eq!("100%".parse::<Sample>().unwrap().share(), 1.0);
        assert_eq!("0.5 %".parse::<Sample>().unwrap().share(), 0.005);
    }
}
