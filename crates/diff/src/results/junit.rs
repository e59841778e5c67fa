//! JUnit's XML, which build servers show.

use std::fmt::Write as _;
use std::io::{self, Write};

use keyferry_files::text::line;

use super::DifferenceSink;
use crate::difference::{Difference, DifferenceCounts, DifferenceKind};
use crate::report::{DiffReport, Verdict};

/// Differences of one kind that are written with their names.
const NAMED: usize = 100;

/// A test suite with one test case for each kind of difference; it fails where there is such a difference, and names up to a
/// hundred. Where it cannot be told whether the sides are equal, the suite has an error.
#[derive(Debug)]
pub struct Junit<W> {
    out: W,
    counts: DifferenceCounts,
    named: Vec<(DifferenceKind, String)>,
}

impl<W: Write> Junit<W> {
    /// Writes there when the comparison is over.
    pub fn new(out: W) -> Self {
        Self { out, counts: DifferenceCounts::default(), named: Vec::new() }
    }
}

impl<W: Write + Send> DifferenceSink for Junit<W> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        if self.counts.of(difference.kind) < NAMED as u64 {
            let Difference { db, key, .. } = difference;
            let (ty, sides, places) = (difference.type_name(), difference.sides(), difference.places());
            let text = format!("db {db} {ty} \"{}\": {sides}{places}", line(key));
            self.named.push((difference.kind, text));
        }
        self.counts.add(difference.kind);
        Ok(())
    }

    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        let nothing = matches!(report.verdict(), Verdict::NothingCompared | Verdict::Unsettled);
        let (tests, failures) = (DifferenceKind::ALL.len(), self.counts.iter().count());
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let name = escape(&format!("{} = {}", report.source.name, report.target.name));
        // Writing to a string cannot fail.
        let _ = writeln!(
            xml,
            "<testsuites><testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{}\" time=\"{:.3}\">",
            u8::from(nothing),
            report.seconds,
        );
        for kind in DifferenceKind::ALL {
            let _ = write!(xml, "<testcase classname=\"keyferry.diff\" name=\"{kind}\">");
            if nothing && kind == DifferenceKind::LackTarget {
                let _ = write!(xml, "<error message=\"{}\"/>", escape(&report.to_string()));
            }
            if self.counts.of(kind) > 0 {
                let _ = writeln!(xml, "<failure message=\"{} differences\">", self.counts.of(kind));
                for (_, text) in self.named.iter().filter(|(other, _)| *other == kind) {
                    let _ = writeln!(xml, "{}", escape(text));
                }
                xml.push_str("</failure>");
            }
            xml.push_str("</testcase>\n");
        }
        let _ = writeln!(
            xml,
            "<system-out>{}</system-out></testsuite></testsuites>",
            escape(&report.to_string())
        );
        self.out.write_all(xml.as_bytes())?;
        self.out.flush()
    }

    fn failed(&mut self, why: &str) -> io::Result<()> {
        writeln!(
            self.out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites><testsuite name=\"diff\" tests=\"1\" failures=\"0\" errors=\"1\">\n\
             <testcase classname=\"keyferry.diff\" name=\"comparison\"><error message=\"{}\"/></testcase>\n</testsuite></testsuites>",
            escape(&line(why.as_bytes()))
        )?;
        self.out.flush()
    }
}

/// Text that has no control characters, as XML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // No XML may hold these, not even escaped.
            '\u{FFFE}' | '\u{FFFF}' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}
