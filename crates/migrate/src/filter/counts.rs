//! What a filter left out and changed, by rule.

use std::collections::BTreeMap;

use serde::Serialize;

/// Keys shown of each line, and how much of each.
const SAMPLES: usize = 5;
const SAMPLE_BYTES: usize = 100;

/// What was decided by which part of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    /// A rule, by number.
    Rule(usize),
    /// No rule matched.
    Otherwise,
    /// The key was left out of the snapshot, by a rule that looks at values.
    Remembered,
    /// The target has had the key before, and it is left to it.
    Kept,
    Rename(usize),
    Ttl(usize),
    Mask(usize),
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    KeyLeftOut,
    CommandLeftOut,
    CommandNarrowed,
    Removed,
    Emptied,
    Incomplete,
    Rewritten,
    Renamed,
    MayCollide,
    TagChanged,
    DeadlineChanged,
    Masked,
    Unmasked,
}

impl What {
    const fn text(self) -> &'static str {
        match self {
            What::KeyLeftOut => "keys of the snapshot left out",
            What::CommandLeftOut => "commands left out",
            What::CommandNarrowed => "keys left out of commands that name others, too",
            What::Removed => "keys removed, as they were overwritten by what is left out",
            What::Emptied => "FLUSHALL and FLUSHDB carried out on the chosen keys only",
            What::Incomplete => "keys that lack what came from keys left out",
            What::Rewritten => "commands replaced by others that do the same to the chosen keys",
            What::Renamed => "keys named in the snapshot or by commands and renamed",
            What::MayCollide => "keys whose new name another key may get, too",
            What::TagChanged => "keys whose new name has another hash tag",
            What::DeadlineChanged => "expiries changed",
            What::Masked => "values masked, by keys of the snapshot and values of commands",
            What::Unmasked => "changes left out, as what they make of masked values cannot be told",
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Count {
    count: u64,
    samples: Vec<String>,
}

/// What a [`Filter`](super::Filter) left out and changed. Each thread has its own; add them up.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<(By, What), Count>);

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FilterLine {
    /// The rule, as it was written.
    pub rule: String,
    /// What was done.
    pub what: &'static str,
    /// How often.
    pub count: u64,
    /// Some of the keys, or of the commands that have none; bytes that are no text escaped, long ones cut.
    pub samples: Vec<String>,
}

impl FilterLine {
    pub(crate) fn new(rule: String, what: &'static str, count: u64, samples: Vec<String>) -> Self {
        FilterLine { rule, what, count, samples }
    }
}

impl Counts {
    pub(super) fn note(&mut self, by: By, what: What, sample: &[u8]) {
        let count = self.0.entry((by, what)).or_default();
        count.count += 1;
        if count.samples.len() < SAMPLES {
            let sample = shown(sample);
            if !count.samples.contains(&sample) {
                count.samples.push(sample);
            }
        }
    }

    /// Adds those of another thread.
    pub fn add(&mut self, other: &Counts) {
        for (at, more) in &other.0 {
            let count = self.0.entry(*at).or_default();
            count.count += more.count;
            for sample in &more.samples {
                if count.samples.len() < SAMPLES && !count.samples.contains(sample) {
                    count.samples.push(sample.clone());
                }
            }
        }
    }

    /// Whether nothing was left out or changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn of(&self, by: By, what: What) -> (u64, Vec<String>) {
        self.0.get(&(by, what)).map(|count| (count.count, count.samples.clone())).unwrap_or_default()
    }

    pub(super) fn lines(&self, name: impl Fn(By) -> String) -> Vec<FilterLine> {
        let line = |(&(by, what), count): (&(By, What), &Count)| FilterLine {
            rule: name(by),
            what: what.text(),
            count: count.count,
            samples: count.samples.clone(),
        };
        self.0.iter().map(line).collect()
    }
}

/// A key for a person.
pub(super) fn shown(key: &[u8]) -> String {
    match key.get(..SAMPLE_BYTES) {
        Some(cut) if cut.len() < key.len() => format!("{}…", cut.escape_ascii()),
        _ => key.escape_ascii().to_string(),
    }
}
