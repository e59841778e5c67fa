//! What a cutover did, for whoever has to sign for it.

use std::fmt::Write;

use serde::Serialize;

/// How a cutover ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CutoverOutcome {
    /// The gates were looked at, and nothing was done. True when all of them are open.
    Rehearsed {
        /// Whether a cutover would begin.
        ready: bool,
    },
    /// A gate is shut: nothing was done.
    Refused,
    /// It was not done, and everything is as before: writes go on at the source.
    PutBack {
        /// Why.
        why: String,
    },
    /// The target is the one that is written to.
    CutOver,
    /// The switch failed. Writes are still stopped at the source, and the migration is kept from the target: running it again goes
    /// on with the switch, undoing it puts everything back.
    SwitchFailed {
        /// What the switch said.
        why: String,
    },
    /// It was undone: writes go on at the source.
    Undone,
    /// It ended at an error, and was not put back: the report's steps tell how far it has come.
    Failed {
        /// The error.
        error: String,
    },
}

impl CutoverOutcome {
    /// True when what was asked for was done.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self, Self::CutOver | Self::Undone | Self::Rehearsed { ready: true })
    }
}

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GateVerdict {
    /// It is open.
    Pass,
    /// It is open, and somebody should know something.
    Warn,
    /// It is shut.
    Fail,
}

impl GateVerdict {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was looked at before writes were stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Gate {
    /// Its name: `migration`, `link`, `lag`, `deadlines`, `refused`, `evicted`, `full-diff`, `stop`, `backlog`, `foreign-writes`.
    pub name: &'static str,
    /// Whether it is open.
    pub verdict: GateVerdict,
    /// What was seen.
    pub evidence: String,
    /// What can be done where it is not simply open.
    pub remedy: Option<String>,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// What: `gates`, `stop`, `drain`, `proof`, `fence`, `positions`, `switch`, `release`, `clean`, `put-back`.
    pub name: &'static str,
    /// When it began, Unix time in milliseconds.
    pub at: u64,
    /// How long it took.
    pub seconds: f64,
}

/// How equality was shown while writes were stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProofReport {
    /// What was compared, in words.
    pub how: String,
    /// Nothing differed.
    pub equal: bool,
    /// Keys that were looked at on both sides.
    pub keys: u64,
    /// Differences.
    pub differences: u64,
    /// Some of them.
    pub samples: Vec<String>,
    /// What the comparison does not show, if it is not complete.
    pub leaves_open: Option<String>,
    /// By database: keys of the source, and of the target without what is kept there of migrations.
    pub counts: Vec<(u32, u64, u64)>,
    /// How long it took.
    pub seconds: f64,
}

/// Where a stream was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlaceReport {
    /// The server.
    pub server: String,
    /// `<replication id>:<offset>`
    pub position: String,
}

/// Writes where there should be none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WritesReport {
    /// How many commands; for clusters, as far as can be told.
    pub commands: u64,
    /// Some of them.
    pub samples: Vec<String>,
}

/// What a cutover did.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CutoverReport {
    /// How it ended.
    pub outcome: CutoverOutcome,
    /// A cutover is under way still: writes may be stopped at the source, and the migration kept from the target. Running it again goes on
    /// with it, or it is undone.
    pub under_way: bool,
    /// The migration that was cut over.
    pub id: String,
    /// The name of the way back; empty where there is none.
    pub back_id: String,
    /// The URL of the side that was written to, without its password.
    pub source: String,
    /// The URL of the side that is written to from now on, without its password.
    pub target: String,
    /// How writes were stopped.
    pub stop: String,
    /// What was looked at first.
    pub gates: Vec<Gate>,
    /// What was done, in order.
    pub steps: Vec<StepReport>,
    /// For how long nobody could write: from when writes were stopped to the end of the switch, or until they were let go on.
    pub write_stop_seconds: Option<f64>,
    /// Where the source's streams ended.
    pub ends: Vec<PlaceReport>,
    /// Where the streams of the way back begin.
    pub begins: Vec<PlaceReport>,
    /// The comparison while writes were stopped.
    pub proof: Option<ProofReport>,
    /// Writes of others at the target while the migration wrote there.
    pub foreign: WritesReport,
    /// Writes at the source after its stream had ended: the target does not have them.
    pub stray: WritesReport,
    /// Things that a person should know.
    pub notes: Vec<String>,
}

impl CutoverReport {
    pub(super) fn new(id: String, back_id: String, (source, target): (String, String), stop: String) -> Self {
        CutoverReport {
            outcome: CutoverOutcome::Refused,
            under_way: false,
            id,
            back_id,
            source,
            target,
            stop,
            gates: Vec::new(),
            steps: Vec::new(),
            write_stop_seconds: None,
            ends: Vec::new(),
            begins: Vec::new(),
            proof: None,
            foreign: WritesReport::default(),
            stray: WritesReport::default(),
            notes: Vec::new(),
        }
    }

    /// The outcome in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        match &self.outcome {
            CutoverOutcome::Rehearsed { ready: true } => {
                "rehearsed: all gates are open, nothing was done".to_owned()
            }
            CutoverOutcome::Rehearsed { .. } => "rehearsed: a gate is shut, nothing was done".to_owned(),
            CutoverOutcome::Refused => "refused: a gate is shut, nothing was done".to_owned(),
            CutoverOutcome::PutBack { why } => format!("put back, writes go on at the source: {why}"),
            CutoverOutcome::CutOver => {
                let stop = self
                    .write_stop_seconds
                    .map_or_else(String::new, |s| format!(" (nobody wrote for {s:.3} s)"));
                format!("cut over: {} is written to from now on{stop}", self.target)
            }
            CutoverOutcome::SwitchFailed { why } => format!(
                "the switch failed, and writes are still stopped: {why}; run it again to go on, or undo it (--undo)"
            ),
            CutoverOutcome::Undone => "undone: writes go on at the source".to_owned(),
            CutoverOutcome::Failed { error } if self.under_way => format!(
                "failed, and writes may still be stopped (run it again to go on, or undo it by --undo): {error}"
            ),
            CutoverOutcome::Failed { error } => format!("failed: {error}"),
        }
    }

    /// The report in Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = writeln!(out, "# Cutover of {}\n\n{}\n", self.id, cell(&self.headline()));
        let _ = writeln!(out, "| | |\n| --- | --- |");
        for (name, value) in [
            ("source", &self.source),
            ("target", &self.target),
            ("way back", &self.back_id),
            ("writes stopped by", &self.stop),
        ] {
            if value.is_empty() {
                continue;
            }
            let _ = writeln!(out, "| {name} | {} |", cell(value));
        }
        if let Some(seconds) = self.write_stop_seconds {
            let _ = writeln!(out, "| nobody wrote for | {seconds:.3} s |");
        }
        let _ =
            writeln!(out, "\n## Gates\n\n| gate | verdict | evidence | remedy |\n| --- | --- | --- | --- |");
        for Gate { name, verdict, evidence, remedy } in &self.gates {
            let remedy = remedy.as_deref().unwrap_or_default();
            let _ = writeln!(out, "| {name} | {} | {} | {} |", verdict.name(), cell(evidence), cell(remedy));
        }
        let _ = writeln!(out, "\n## Steps\n\n| step | at (Unix ms) | seconds |\n| --- | --- | --- |");
        for StepReport { name, at, seconds } in &self.steps {
            let _ = writeln!(out, "| {name} | {at} | {seconds:.3} |");
        }
        for (title, places) in
            [("Where the source ended", &self.ends), ("Where the way back begins", &self.begins)]
        {
            if !places.is_empty() {
                let _ = writeln!(out, "\n## {title}\n\n| server | position |\n| --- | --- |");
                for PlaceReport { server, position } in places {
                    let _ = writeln!(out, "| {} | {position} |", cell(server));
                }
            }
        }
        if let Some(proof) = &self.proof {
            let verdict = if proof.equal { "equal" } else { "different" };
            let _ = writeln!(
                out,
                "\n## Proof\n\n{}: {verdict}, {} keys, {} differences, {:.3} s.",
                cell(&proof.how),
                proof.keys,
                proof.differences,
                proof.seconds
            );
            if let Some(open) = &proof.leaves_open {
                let _ = writeln!(out, "It leaves open: {}.", cell(open));
            }
            let _ = writeln!(out, "\n| db | keys at the source | keys at the target |\n| --- | --- | --- |");
            for (db, source, target) in &proof.counts {
                let _ = writeln!(out, "| {db} | {source} | {target} |");
            }
            proof.samples.iter().for_each(|sample| {
                let _ = writeln!(out, "- {}", cell(sample));
            });
        }
        for (title, writes) in [
            ("Writes of others at the target", &self.foreign),
            ("Writes at the source afterwards", &self.stray),
        ] {
            if writes.commands > 0 {
                let _ = writeln!(out, "\n## {title}: {}\n", writes.commands);
                for sample in &writes.samples {
                    let _ = writeln!(out, "- {}", cell(sample));
                }
            }
        }
        if !self.notes.is_empty() {
            let _ = writeln!(out, "\n## To be known\n");
            for note in &self.notes {
                let _ = writeln!(out, "- {}", cell(note));
            }
        }
        out
    }
}

/// Text that does not end a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_what_the_object_has() {
        let ends = ("redis://a".to_owned(), "redis://b".to_owned());
        let mut report = CutoverReport::new("x".to_owned(), "x.back".to_owned(), ends, "pause".to_owned());
        report.outcome = CutoverOutcome::PutBack { why: "late | again\nand again".to_owned() };
        let evidence = "5 bytes".to_owned();
        report.gates.push(Gate { name: "lag", verdict: GateVerdict::Fail, evidence, remedy: None });
        report.stray = WritesReport { commands: 3, samples: vec!["SET a b".to_owned()] };
        let page = report.to_markdown();
        for shown in ["late \\| again and again", "| lag | fail | 5 bytes |", "afterwards: 3", "- SET a b"] {
            assert!(page.contains(shown), "{shown} in {page}");
        }
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""outcome":{"state":"put_back","why":"late"#), "{json}");
        assert!(!report.outcome.is_good());
        report.outcome = CutoverOutcome::Failed { error: "gone".to_owned() };
        assert_eq!(report.headline(), "failed: gone");
        report.under_way = true;
        assert!(report.headline().contains("still be stopped (run it again"), "{}", report.headline());
    }
}
