//! The report as a page for people who were not there.

use std::fmt::Write;

use serde_json::Value;

use crate::report::{Outcome, Report};

impl Report {
    /// The report in Markdown. It has all that the JSON has: what this does not know by name is in the tables at the end.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        let mut rest = match serde_json::to_value(self) {
            Ok(Value::Object(rest)) => rest,
            _ => serde_json::Map::new(),
        };
        let outcome = match &self.outcome {
            Outcome::CaughtUp { source_was_writing: false } => {
                "caught up: the target holds what the source holds"
            }
            Outcome::CaughtUp { .. } => "caught up, while the source was still written to",
            Outcome::Stopped { everything_applied: true } => "stopped: everything read has been applied",
            Outcome::Stopped { .. } => "stopped before everything was applied",
            Outcome::Failed { .. } => "failed",
        };
        // Writing to a String does not fail.
        let _ = writeln!(out, "# Migration: {outcome}\n");
        if let Outcome::Failed { error } = &self.outcome {
            let _ = writeln!(out, "> {}\n", escaped(error));
        }
        let _ = writeln!(out, "| | |\n| --- | --- |");
        for (name, end) in [("source", &self.source), ("target", &self.target)] {
            let server = end.server.as_deref().unwrap_or("not reached");
            let _ = writeln!(out, "| {name} | {} ({}) |", escaped(&end.url), escaped(server));
        }
        let _ = writeln!(out, "| keys | {} |", self.snapshot.total_keys());
        let _ = writeln!(out, "| commands | {} |", self.figures.commands_applied);
        let _ = writeln!(out, "| seconds | {:.1} |", self.figures.elapsed_seconds);
        if let Some(position) = &self.position {
            let _ = writeln!(out, "| position | {position} |");
        }
        if !self.notes.is_empty() {
            let _ = writeln!(out, "\n## To be known\n");
            for note in &self.notes {
                let _ = writeln!(out, "- {}", escaped(note));
            }
        }
        if let Some(precheck) = &self.precheck {
            let _ =
                writeln!(out, "\n## Looked at first\n\n| item | verdict | evidence |\n| --- | --- | --- |");
            for finding in &precheck.findings {
                let verdict = if finding.ignored { "fail, ignored" } else { finding.verdict.name() };
                let _ = writeln!(
                    out,
                    "| {} | {verdict} | {} |",
                    finding.item,
                    escaped(&finding.evidence.join("; "))
                );
            }
        }
        for shown in ["outcome", "error", "source", "target", "position", "notes", "precheck"] {
            rest.remove(shown);
        }
        for (name, value) in &rest {
            let mut lines = Vec::new();
            flatten("", value, &mut lines);
            if lines.is_empty() {
                continue;
            }
            let _ = writeln!(out, "\n## {}\n\n| | |\n| --- | --- |", name.replace('_', " "));
            for (path, value) in lines {
                let _ = writeln!(out, "| {} | {} |", escaped(path.trim_start_matches('.')), escaped(&value));
            }
        }
        out
    }
}

/// The leaves of a value with their paths; what says nothing (null, zero, no, nothing) is left out.
fn flatten(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Number(number) if number.as_f64() == Some(0.0) => {}
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| {
                flatten(&format!("{path}.{}", name.replace('_', " ")), value, lines)
            });
        }
        Value::Array(values) => {
            let number = |(n, value)| flatten(&format!("{path}.{n}"), value, lines);
            (1..).zip(values).for_each(number);
        }
        Value::String(text) => lines.push((path.to_owned(), text.clone())),
        other => lines.push((path.to_owned(), other.to_string())),
    }
}

/// Text that stays text: nothing of it is taken for Markdown or HTML, and it stays in its cell.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_in_its_cell() {
        assert_eq!(escaped("a|b\n<script> **[x](y)** `c`"), r"a\|b &lt;script> \*\*\[x\](y)\*\* \`c\`");
    }

    #[test]
    fn leaves_are_listed_with_their_paths() {
        let value = serde_json::json!({"a_b": {"c": 1, "none": null, "zero": 0}, "list": ["x", {"y": true}], "no": false});
        let mut lines = Vec::new();
        flatten("", &value, &mut lines);
        let want = [(".a b.c", "1"), (".list.1", "x"), (".list.2.y", "true")];
        assert_eq!(lines, want.map(|(path, value)| (path.to_owned(), value.to_owned())));
    }
}
