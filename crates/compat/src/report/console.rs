//! For people at a terminal, as `cargo test` would print it.

use std::io::{self, Write};

use super::{Outcome, Report, Verdict};

/// Writes a line for each case, then the failures, then the summary. Skipped cases are counted only, unless `all`.
///
/// # Errors
///
/// Those of `out`.
pub fn write_console(out: &mut dyn Write, report: &Report, all: bool) -> io::Result<()> {
    head(out, report)?;
    for result in &report.results {
        let what = match &result.outcome {
            Outcome::Passed => "ok".to_owned(),
            Outcome::Failed { .. } => "FAILED".to_owned(),
            Outcome::Known { reason, .. } => format!("known ({reason})"),
            Outcome::Skipped { reason } if all => format!("skipped ({reason})"),
            Outcome::Skipped { .. } => continue,
            Outcome::Broken { why } => format!("could not run ({why})"),
        };
        writeln!(out, "test {} (RESP{}) ... {what}", result.id(), result.protocol)?;
    }
    write_failures(out, report)?;
    write_summary(out, report)
}

/// Writes what was sent, expected and got of each failure.
///
/// # Errors
///
/// Those of `out`.
pub fn write_failures(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let mut any = false;
    for (result, failure) in report.failures() {
        if !any {
            writeln!(out, "\nfailures:")?;
        }
        any = true;
        writeln!(out, "\n---- {} (RESP{}), step {} ----", result.id(), result.protocol, failure.step)?;
        writeln!(out, "    sent      {}", failure.sent)?;
        writeln!(out, "    expected  {}", failure.expected)?;
        writeln!(out, "    got       {}", failure.got)?;
    }
    Ok(())
}

/// Writes a table of the groups, the notes, and a last line.
///
/// # Errors
///
/// Those of `out`.
pub fn write_summary(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let width = report.groups.iter().map(|group| group.name.len()).max().unwrap_or(0).max(5);
    writeln!(out, "\n{:<width$}  passed  failed  known  skipped    rate", "group")?;
    for group in &report.groups {
        let counts = report.group_counts(&group.name);
        let rate = counts.rate().map_or("-".to_owned(), percent);
        writeln!(
            out,
            "{:<width$}  {:>6}  {:>6}  {:>5}  {:>7}  {rate:>6}",
            group.name, counts.passed, counts.failed, counts.known, counts.skipped
        )?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    let counts = report.counts();
    let word = match report.verdict() {
        Verdict::Passed => "ok",
        Verdict::Failed => "FAILED",
        Verdict::Unknown => "could not be told",
    };
    writeln!(
        out,
        "\ntest result: {word}. {} passed; {} failed; {} known; {} skipped; {} could not run; score {}; finished in {:.2} s",
        counts.passed,
        counts.failed,
        counts.known,
        counts.skipped,
        counts.broken,
        report.score().map_or("-".to_owned(), percent),
        report.seconds
    )
}

fn head(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    writeln!(out, "server    {} at {}", report.server, report.place)?;
    if let Some(reference) = &report.reference {
        writeln!(out, "reference {reference}")?;
    }
    writeln!(out)
}

/// Cut, not rounded: 100 % is all of them.
pub(crate) fn percent(rate: f64) -> String {
    format!("{:.1} %", (rate * 1000.0 + 1e-9).floor() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::mixed;
    use super::*;

    #[test]
    fn lines_failures_and_summary() {
        let mut out = Vec::new();
        write_console(&mut out, &mixed(), false).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in [
            "server    Redis 7.0.15, standalone, primary at localhost:6379",
            "test string/case 0 (RESP2) ... ok",
            "test string/case 1 (RESP3) ... FAILED",
            "test list/case 2 (RESP2) ... known (a bug)",
            "---- string/case 1 (RESP3), step 2 ----",
            "    sent      GET $k <&>",
            "string       1       1      0        0  50.0 %",
            "set          0       0      0        1       -",
            "note: a note",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        assert!(text.ends_with("test result: FAILED. 2 passed; 1 failed; 1 known; 2 skipped; 0 could not run; score 50.0 %; finished in 1.25 s\n"), "{text}");
        assert!(!text.contains("case 4"), "{text}");
    }

    #[test]
    fn rates_are_not_rounded_up() {
        assert_eq!(percent(0.99999), "99.9 %");
        assert_eq!(percent(1.0), "100.0 %");
    }
}
