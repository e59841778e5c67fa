//! What was found.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use super::{Depth, Item, estimate::Estimates};

/// How an item was judged. They are in order: the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// A migration may work out; a person should know this, or it could not be told.
    Warn,
    /// A migration would end badly.
    Fail,
}

impl Verdict {
    /// A word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// What was found of one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The item.
    pub item: Item,
    /// How it is.
    pub verdict: Verdict,
    /// True when a failure is to be ignored.
    pub ignored: bool,
    /// What the verdict is built on: what servers said, and figures. No values, and of keys the beginnings of a few.
    pub evidence: Vec<String>,
    /// What can be done; empty when nothing has to be.
    pub remedies: Vec<String>,
}

/// What was found of all items.
///
/// It serializes to JSON, and `Display` writes a table for people.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The worst verdict, without what is ignored.
    pub verdict: Verdict,
    /// How thoroughly was looked.
    pub depth: Depth,
    /// The items in order.
    pub findings: Vec<Finding>,
    /// Items that were not looked at: long ones before a run, and all that need a server which was not reached.
    pub left_out: Vec<Item>,
    /// What the migration will take, where the source tells enough.
    pub estimates: Option<Estimates>,
}

impl Report {
    pub(super) fn new(
        mut findings: Vec<Finding>,
        depth: Depth,
        ignore: &BTreeSet<Item>,
        estimates: Option<Estimates>,
    ) -> Self {
        findings.sort_by_key(|finding| finding.item);
        for finding in &mut findings {
            finding.ignored = finding.verdict == Verdict::Fail && ignore.contains(&finding.item);
        }
        let counted = findings.iter().filter(|finding| !finding.ignored);
        let verdict = counted.map(|finding| finding.verdict).max().unwrap_or(Verdict::Pass);
        let looked_at = |item: &Item| findings.iter().any(|finding| finding.item == *item);
        let left_out = Item::ALL.iter().copied().filter(|item| !looked_at(item)).collect();
        Report { verdict, depth, findings, left_out, estimates }
    }

    /// The same without items that are for another kind of source.
    pub(super) fn of_source(mut self, files: bool) -> Self {
        self.left_out.retain(|item| item.is_for(files));
        self
    }

    /// What was found of this item, if it was looked at.
    #[must_use]
    pub fn of(&self, item: Item) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.item == item)
    }

    /// Failures that are not ignored.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Fail && !finding.ignored)
    }

    /// How many items have which verdict, and how many failures are ignored.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 4] {
        let ignored = self.findings.iter().filter(|finding| finding.ignored).count();
        let of = |verdict: Verdict| (verdict.name(), self.count(verdict));
        [of(Verdict::Pass), of(Verdict::Warn), of(Verdict::Fail), ("ignored", ignored)]
    }

    /// How many items have this verdict, ignored ones left out.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict && !finding.ignored).count()
    }
}

/// A table for people: one line an item, with what is behind it and what to do below those that do not pass.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let verdict = match finding.verdict {
                _ if finding.ignored => "IGNORED",
                Verdict::Fail => "FAIL",
                other => other.name(),
            };
            write!(f, "{verdict:<7} {:<15}", finding.item)?;
            let mut evidence = finding.evidence.iter();
            writeln!(f, " {}", evidence.next().map_or(finding.item.question(), String::as_str))?;
            for more in evidence {
                writeln!(f, "{:24}{more}", "")?;
            }
            for remedy in &finding.remedies {
                writeln!(f, "{:24}-> {remedy}", "")?;
            }
        }
        if let Some(estimates) = &self.estimates {
            writeln!(f, "{:<7} {:<15} {estimates}", "", "estimate")?;
        }
        if !self.left_out.is_empty() {
            let names: Vec<&str> = self.left_out.iter().map(|item| item.name()).collect();
            writeln!(f, "{:<7} {:<15} {}", "", "not looked at", names.join(", "))?;
        }
        let ignored = self.findings.iter().filter(|finding| finding.ignored).count();
        write!(
            f,
            "precheck: {} passed, {} to be known, {} failed",
            self.count(Verdict::Pass),
            self.count(Verdict::Warn),
            self.count(Verdict::Fail)
        )?;
        if ignored > 0 { write!(f, ", {ignored} ignored") } else { Ok(()) }
    }
}

/// Collects what is found of one item; the worst that is said of it counts.
#[derive(Debug)]
pub(super) struct Judge(Finding);

impl Judge {
    pub(super) fn new(item: Item) -> Self {
        let (evidence, remedies) = (Vec::new(), Vec::new());
        Judge(Finding { item, verdict: Verdict::Pass, ignored: false, evidence, remedies })
    }

    /// Something to know, which changes nothing.
    pub(super) fn note(&mut self, evidence: impl Into<String>) {
        self.0.evidence.push(evidence.into());
    }

    pub(super) fn warn(&mut self, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.say(Verdict::Warn, evidence.into(), remedy.into());
    }

    pub(super) fn fail(&mut self, evidence: impl Into<String>, remedy: impl Into<String>) {
        self.say(Verdict::Fail, evidence.into(), remedy.into());
    }

    fn say(&mut self, verdict: Verdict, evidence: String, remedy: String) {
        self.0.verdict = self.0.verdict.max(verdict);
        self.0.evidence.push(evidence);
        if !self.0.remedies.contains(&remedy) {
            self.0.remedies.push(remedy);
        }
    }

    pub(super) fn done(self) -> Finding {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_what_is_ignored_does_not() {
        let mut memory = Judge::new(Item::Memory);
        memory.fail("no room", "make room");
        memory.warn("little room", "make room");
        let mut clock = Judge::new(Item::Clock);
        clock.note("both agree");
        let findings = || vec![memory_of(&memory), clock_of(&clock)];
        let report = Report::new(findings(), Depth::Quick, &BTreeSet::new(), None);
        assert_eq!(report.verdict, Verdict::Fail);
        assert_eq!(report.failures().count(), 1);
        assert_eq!(report.of(Item::Memory).unwrap().remedies, ["make room"]);
        assert!(report.left_out.contains(&Item::BigKeys) && !report.left_out.contains(&Item::Clock));

        let report = Report::new(findings(), Depth::Full, &BTreeSet::from([Item::Memory, Item::Clock]), None);
        assert_eq!((report.verdict, report.failures().count()), (Verdict::Pass, 0));
        assert!(report.of(Item::Memory).unwrap().ignored && !report.of(Item::Clock).unwrap().ignored);
        let shown = report.to_string();
        assert!(shown.starts_with("IGNORED memory          no room\n"), "{shown}");
        assert!(shown.contains("\n                        -> make room\n"), "{shown}");
        assert!(shown.ends_with("1 passed, 0 to be known, 0 failed, 1 ignored"), "{shown}");
    }

    fn memory_of(judge: &Judge) -> Finding {
        judge.0.clone()
    }

    fn clock_of(judge: &Judge) -> Finding {
        judge.0.clone()
    }
}
