//! What came of running cases, and the forms in which it is told.

mod console;
mod html;
mod json;
mod junit;

use std::time::Duration;

use serde::Serialize;

use crate::suite::Suite;
use crate::target::Target;

pub use console::{write_console, write_failures, write_summary};
pub use html::write_html;
pub use json::write_json;
pub use junit::write_junit;

/// What came of running a suite on one server, or on two.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The server: vendor, version, how it is deployed.
    pub server: String,
    /// Where it is, without a password.
    pub place: String,
    /// The reference that it was compared with, if it was.
    pub reference: Option<String>,
    /// The groups in their order.
    pub groups: Vec<GroupInfo>,
    /// What came of each case in each protocol, in the order of the suite.
    pub results: Vec<CaseResult>,
    /// What else there is to know.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What a report says of a group as such.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// How much it counts in the score.
    pub weight: f64,
    /// Where its expectations come from.
    pub from: Option<String>,
}

/// What came of one case in one protocol.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CaseResult {
    /// Its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// 2 or 3.
    pub protocol: u8,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
}

impl CaseResult {
    /// `group/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
#[non_exhaustive]
pub enum Outcome {
    /// Every reply was as it should be.
    Passed,
    /// A reply was not as it should be.
    Failed {
        /// Which one.
        failure: Failure,
    },
    /// The same, but the baseline knows of it.
    Known {
        /// Which one.
        failure: Failure,
        /// Why that is known.
        reason: String,
    },
    /// It does not apply to this server, or may not be run there.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It could not be run.
    Broken {
        /// Why.
        why: String,
    },
}

/// The first reply of a case that was not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Failure {
    /// Which step it was, counted from 1.
    pub step: usize,
    /// What was sent.
    pub sent: String,
    /// What should have come.
    pub expected: String,
    /// What came.
    pub got: String,
}

/// How many cases, each counted once a protocol, came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// As they should be.
    pub passed: usize,
    /// Not as they should be.
    pub failed: usize,
    /// The same, but the baseline knows.
    pub known: usize,
    /// Not run.
    pub skipped: usize,
    /// Could not be run.
    pub broken: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Known { .. } => self.known += 1,
            Outcome::Skipped { .. } => self.skipped += 1,
            Outcome::Broken { .. } => self.broken += 1,
        }
    }

    /// Those that were run.
    pub fn run(&self) -> usize {
        self.passed + self.failed + self.known
    }

    /// The part of those that were run that passed; `None` if none was.
    pub fn rate(&self) -> Option<f64> {
        let run = self.run();
        (run > 0).then(|| self.passed as f64 / run as f64)
    }
}

/// What a report comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All cases that apply passed, or are known to the baseline.
    Passed,
    /// Some did not.
    Failed,
    /// None was run, or some could not be run.
    Unknown,
}

impl Verdict {
    /// The exit status of a program: 0, 1, 2.
    pub fn status(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Unknown => 2,
        }
    }
}

impl Report {
    pub(crate) fn new(
        target: &Target,
        suite: &Suite,
        results: Vec<CaseResult>,
        notes: Vec<String>,
        took: Duration,
    ) -> Self {
        let groups = suite.groups().iter().map(|group| GroupInfo {
            name: group.name.clone(),
            weight: group.weight,
            from: group.from.clone(),
        });
        Self {
            server: target.server().to_string(),
            place: target.place(),
            reference: None,
            groups: groups.collect(),
            results,
            notes,
            seconds: took.as_secs_f64(),
        }
    }

    /// All results together.
    pub fn counts(&self) -> Counts {
        self.counts_of(|_| true)
    }

    /// The results of one group.
    pub fn group_counts(&self, group: &str) -> Counts {
        self.counts_of(|result| result.group == group)
    }

    /// The results that this says yes to.
    pub fn counts_of(&self, wanted: impl Fn(&CaseResult) -> bool) -> Counts {
        let mut counts = Counts::default();
        self.results.iter().filter(|result| wanted(result)).for_each(|result| counts.add(&result.outcome));
        counts
    }

    /// The mean of the rates of the groups, each with its weight, from 0 to 1; `None` if nothing was run.
    pub fn score(&self) -> Option<f64> {
        let rates: Vec<(f64, f64)> = self
            .groups
            .iter()
            .filter_map(|group| Some((group.weight, self.group_counts(&group.name).rate()?)))
            .collect();
        let weights: f64 = rates.iter().map(|(weight, _)| weight).sum();
        (weights > 0.0).then(|| rates.iter().map(|(weight, rate)| weight * rate).sum::<f64>() / weights)
    }

    /// What it comes to.
    pub fn verdict(&self) -> Verdict {
        let counts = self.counts();
        if counts.failed > 0 {
            Verdict::Failed
        } else if counts.broken > 0 || counts.run() == 0 {
            Verdict::Unknown
        } else {
            Verdict::Passed
        }
    }

    /// Those that failed, known ones left out.
    pub fn failures(&self) -> impl Iterator<Item = (&CaseResult, &Failure)> {
        self.results.iter().filter_map(|result| match &result.outcome {
            Outcome::Failed { failure } => Some((result, failure)),
            _ => None,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn failure() -> Failure {
        Failure {
            step: 2,
            sent: "GET $k <&>".to_owned(),
            expected: "\"v\"".to_owned(),
            got: "\"\\u0001]]>\"".to_owned(),
        }
    }

    pub(crate) fn report(outcomes: &[(&str, Outcome)]) -> Report {
        let results = outcomes.iter().enumerate().map(|(at, (group, outcome))| CaseResult {
            group: (*group).to_owned(),
            name: format!("case {at}"),
            protocol: if at % 2 == 0 { 2 } else { 3 },
            outcome: outcome.clone(),
            seconds: 0.5,
        });
        let group = |name: &str, weight: f64| GroupInfo { name: name.to_owned(), weight, from: None };
        Report {
            server: "Redis 7.0.15, standalone, primary".to_owned(),
            place: "localhost:6379".to_owned(),
            reference: None,
            groups: vec![group("string", 3.0), group("list", 1.0), group("set", 1.0)],
            results: results.collect(),
            notes: vec!["a note".to_owned()],
            seconds: 1.25,
        }
    }

    pub(crate) fn mixed() -> Report {
        report(&[
            ("string", Outcome::Passed),
            ("string", Outcome::Failed { failure: failure() }),
            ("list", Outcome::Known { failure: failure(), reason: "a bug".to_owned() }),
            ("list", Outcome::Passed),
            ("list", Outcome::Skipped { reason: "since redis 8.0.0".to_owned() }),
            ("set", Outcome::Skipped { reason: "needs admin".to_owned() }),
        ])
    }

    #[test]
    fn verdicts() {
        assert_eq!(mixed().verdict(), Verdict::Failed);
        assert_eq!(report(&[]).verdict(), Verdict::Unknown);
        assert_eq!(report(&[("set", Outcome::Passed)]).verdict(), Verdict::Passed);
        let broken = Outcome::Broken { why: "gone".to_owned() };
        assert_eq!(report(&[("set", Outcome::Passed), ("set", broken.clone())]).verdict(), Verdict::Unknown);
        let both = [("set", Outcome::Failed { failure: failure() }), ("set", broken)];
        assert_eq!(report(&both).verdict(), Verdict::Failed);
        assert_eq!(mixed().verdict().status(), 1);
    }

    #[test]
    fn scores_are_weighted_and_know_nothing_of_groups_that_were_not_run() {
        // string 1/2 with weight 3, list 1/2 with weight 1, set was not run.
        assert_eq!(mixed().score(), Some(0.5));
        assert_eq!(
            report(&[("string", Outcome::Passed), ("list", Outcome::Failed { failure: failure() })]).score(),
            Some(0.75)
        );
        assert_eq!(report(&[]).score(), None);
    }
}
