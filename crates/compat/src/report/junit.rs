//! JUnit's XML, which most systems for continuous integration read.

use std::io::{self, Write};

use super::{Outcome, Report};
use crate::report::html::escaped;

/// Writes reports as JUnit's XML: a suite for each server, a case for each case and protocol.
///
/// # Errors
///
/// Those of `out`.
pub fn write_junit(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"keyferry-compat\">")?;
    for report in reports {
        let counts = report.counts();
        writeln!(
            out,
            "  <testsuite name=\"{}\" hostname=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.3}\">",
            escaped(&report.server),
            escaped(&report.place),
            report.results.len(),
            counts.failed,
            counts.broken,
            counts.skipped + counts.known,
            report.seconds
        )?;
        for result in &report.results {
            write!(
                out,
                "    <testcase classname=\"{}\" name=\"{} (RESP{})\" time=\"{:.3}\"",
                escaped(&result.group),
                escaped(&result.name),
                result.protocol,
                result.seconds
            )?;
            match &result.outcome {
                Outcome::Passed => writeln!(out, "/>")?,
                Outcome::Failed { failure } => writeln!(
                    out,
                    "><failure message=\"step {}: {}\">sent: {}\nexpected: {}\ngot: {}</failure></testcase>",
                    failure.step,
                    escaped(&failure.sent),
                    escaped(&failure.sent),
                    escaped(&failure.expected),
                    escaped(&failure.got)
                )?,
                Outcome::Known { failure, reason } => writeln!(
                    out,
                    "><skipped message=\"known: {} (step {}, got {})\"/></testcase>",
                    escaped(reason),
                    failure.step,
                    escaped(&failure.got)
                )?,
                Outcome::Skipped { reason } => {
                    writeln!(out, "><skipped message=\"{}\"/></testcase>", escaped(reason))?;
                }
                Outcome::Broken { why } => {
                    writeln!(out, "><error message=\"{}\"/></testcase>", escaped(why))?;
                }
            }
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

#[cfg(test)]
mod tests {
    use super::super::tests::mixed;

    #[test]
    fn one_suite_a_server() {
        let mut out = Vec::new();
        super::write_junit(&mut out, &[mixed()]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("tests=\"6\" failures=\"1\" errors=\"0\" skipped=\"3\""), "{text}");
        assert!(text.contains("<testcase classname=\"string\" name=\"case 1 (RESP3)\" time=\"0.500\"><failure message=\"step 2: GET $k &lt;&amp;&gt;\">"), "{text}");
        assert!(!text.contains("]]>") && !text.contains('\u{1}'), "{text}");
        assert_eq!(text.matches("<testcase").count(), 6);
        assert_eq!(text.matches("/>").count() + text.matches("</testcase>").count(), 2 + 3 + 4);
    }
}
