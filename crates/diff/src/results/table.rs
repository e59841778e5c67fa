//! A table for people.

use std::io::{self, Write};

use keyferry_files::text::short_line;

use super::DifferenceSink;
use crate::difference::{Difference, DifferenceCounts};
use crate::report::{DiffReport, SideReport};

/// Names are cut to so many characters.
const NAME: usize = 60;

/// The first differences, up to a number; all are counted.
#[derive(Debug)]
pub struct Kept {
    most: usize,
    kept: Vec<Difference>,
    counts: DifferenceCounts,
}

impl Kept {
    /// Keeps so many.
    pub fn new(most: usize) -> Self {
        Self { most, kept: Vec::new(), counts: DifferenceCounts::default() }
    }

    /// What was kept, by database and name.
    pub fn differences(&self) -> Vec<&Difference> {
        let mut all: Vec<_> = self.kept.iter().collect();
        all.sort_by_key(|difference| (difference.subject, difference.db, &difference.key, difference.kind));
        all
    }

    /// How many there are of each kind, kept or not.
    pub fn counts(&self) -> DifferenceCounts {
        self.counts
    }
}

impl DifferenceSink for Kept {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.counts.add(difference.kind);
        if self.kept.len() < self.most {
            self.kept.push(difference.clone());
        }
        Ok(())
    }
}

/// Writes what was read and what differs as tables, and the verdict as the last line.
///
/// # Errors
///
/// Those of `out`.
pub fn write_table(out: &mut impl Write, report: &DiffReport, kept: &Kept) -> io::Result<()> {
    for (word, side) in [("source", &report.source), ("target", &report.target)] {
        write_side(out, word, side)?;
    }
    for note in &report.notes {
        writeln!(out, "note    {note}")?;
    }
    let differences = kept.differences();
    if !differences.is_empty() {
        writeln!(out)?;
        let shown: Vec<_> = differences.iter().map(|one| short_line(&one.key, NAME)).collect();
        let width = shown.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(3);
        writeln!(
            out,
            "{:>4}  {:<12}  {:<8}  {:<width$}  source | target",
            "db", "difference", "type", "key"
        )?;
        for (one, name) in differences.iter().zip(&shown) {
            let (db, kind, ty, sides) = (one.db, one.kind, one.type_name(), one.sides());
            writeln!(out, "{db:>4}  {kind:<12}  {ty:<8}  {name:<width$}  {sides}{}", one.places())?;
        }
        let hidden = kept.counts().total() - differences.len() as u64;
        if hidden > 0 {
            writeln!(out, "      and {hidden} more")?;
        }
    }
    if report.rounds.len() > 1 {
        let rounds: Vec<_> =
            report.rounds.iter().map(|round| format!("{} of {}", round.differ, round.keys)).collect();
        writeln!(out, "rounds  {} keys differed", rounds.join(", then "))?;
    }
    if let Some(barrier) = report.barrier {
        writeln!(out, "barrier {barrier}")?;
    }
    writeln!(out)?;
    writeln!(out, "{report}")?;
    if let Some(sample) = &report.sample {
        writeln!(out, "{sample}")?;
    }
    let changed = report.changed.as_ref().map(ToString::to_string);
    for open in changed.iter().map(String::as_str).chain(report.depth.leaves_open()) {
        writeln!(out, "but {open}")?;
    }
    Ok(())
}

fn write_side(out: &mut impl Write, word: &str, side: &SideReport) -> io::Result<()> {
    writeln!(out, "{word}  {}", side.parts.join(", "))?;
    write!(out, "        {} keys", side.keys)?;
    for (count, what) in [
        (side.expired, "expired, not removed yet"),
        (side.left_out.total(), "not chosen"),
        (side.bookkeeping, "left out as bookkeeping of migrations"),
        (side.stray, "in slots of other nodes"),
        (side.empty, "without elements"),
        (side.unsampled, "not in the sample"),
        (side.functions, "function libraries"),
    ] {
        if count > 0 {
            write!(out, ", {count} {what}")?;
        }
    }
    writeln!(out)
}
