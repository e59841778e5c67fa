//! One page for a browser that needs nothing else.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::console::percent;
use super::{Counts, Outcome, Report};

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}th,td{border:1px solid #ccc;padding:.25em .6em;text-align:left;vertical-align:top}\
td.n{text-align:right;white-space:nowrap}.all{background:#d6f0d6}.most{background:#fdf0c4}.few{background:#f8d0cc}.none{color:#888}\
code{font:12px/1.4 ui-monospace,monospace;white-space:pre-wrap;word-break:break-word}details{margin:.4em 0}summary{cursor:pointer}";

/// Writes one self-contained page: servers by groups with rates and weights, and every failing case with what was sent,
/// expected and got.
///
/// # Errors
///
/// Those of `out`.
pub fn write_html(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Compatibility</title><style>{STYLE}</style></head><body>\n\
         <h1>Compatibility</h1>\n"
    );
    table(&mut page, reports);
    for report in reports {
        details(&mut page, report);
    }
    page.push_str("</body></html>\n");
    out.write_all(page.as_bytes())
}

fn table(page: &mut String, reports: &[Report]) {
    page.push_str("<table><tr><th>group</th><th>weight</th>");
    for report in reports {
        let _ =
            write!(page, "<th>{}<br><small>{}</small></th>", escaped(&report.server), escaped(&report.place));
    }
    page.push_str("</tr>\n");
    let mut groups: Vec<(&str, f64)> = Vec::new();
    for group in reports.iter().flat_map(|report| &report.groups) {
        if !groups.iter().any(|(name, _)| *name == group.name) {
            groups.push((&group.name, group.weight));
        }
    }
    for (name, weight) in groups {
        let _ = write!(page, "<tr><th>{}</th><td class=\"n\">{weight}</td>", escaped(name));
        for report in reports {
            cell(page, &report.group_counts(name));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("<tr><th>all, weighted</th><td></td>");
    for report in reports {
        let score = report.score();
        let _ = write!(
            page,
            "<td class=\"n {}\"><b>{}</b></td>",
            colour(score),
            score.map_or("-".to_owned(), percent)
        );
    }
    page.push_str("</tr></table>\n");
}

fn cell(page: &mut String, counts: &Counts) {
    let rate = counts.rate();
    let _ = write!(
        page,
        "<td class=\"n {}\" title=\"{} passed, {} failed, {} known, {} skipped, {} could not run\">{}<br><small>{} of {}</small></td>",
        colour(rate),
        counts.passed,
        counts.failed,
        counts.known,
        counts.skipped,
        counts.broken,
        rate.map_or("-".to_owned(), percent),
        counts.passed,
        counts.run()
    );
}

fn colour(rate: Option<f64>) -> &'static str {
    match rate {
        None => "none",
        Some(rate) if rate >= 1.0 => "all",
        Some(rate) if rate >= 0.8 => "most",
        Some(_) => "few",
    }
}

fn details(page: &mut String, report: &Report) {
    let counts = report.counts();
    let _ = write!(
        page,
        "<h2>{}</h2>\n<p>{}{}: {} passed, {} failed, {} known, {} skipped, {} could not run, in {:.2} s</p>\n",
        escaped(&report.server),
        escaped(&report.place),
        report.reference.as_ref().map_or(String::new(), |it| format!(", compared with {}", escaped(it))),
        counts.passed,
        counts.failed,
        counts.known,
        counts.skipped,
        counts.broken,
        report.seconds
    );
    for note in &report.notes {
        let _ = writeln!(page, "<p>{}</p>", escaped(note));
    }
    let mut rows = String::new();
    for result in &report.results {
        let (failure, word) = match &result.outcome {
            Outcome::Failed { failure } => (failure, "failed".to_owned()),
            Outcome::Known { failure, reason } => (failure, format!("known: {reason}")),
            _ => continue,
        };
        let _ = writeln!(
            rows,
            "<tr><td>{}<br><small>RESP{}, step {}, {}</small></td><td><code>{}</code></td><td><code>{}</code></td><td><code>{}</code></td></tr>",
            escaped(&result.id()),
            result.protocol,
            failure.step,
            escaped(&word),
            escaped(&failure.sent),
            escaped(&failure.expected),
            escaped(&failure.got)
        );
    }
    if !rows.is_empty() {
        let _ = writeln!(
            page,
            "<table><tr><th>case</th><th>sent</th><th>expected</th><th>got</th></tr>\n{rows}</table>"
        );
    }
    let mut others = String::new();
    for result in &report.results {
        let why = match &result.outcome {
            Outcome::Skipped { reason } => reason,
            Outcome::Broken { why } => why,
            _ => continue,
        };
        let _ = writeln!(
            others,
            "<li>{} (RESP{}): {}</li>",
            escaped(&result.id()),
            result.protocol,
            escaped(why)
        );
    }
    if !others.is_empty() {
        let _ = writeln!(page, "<details><summary>not run</summary><ul>\n{others}</ul></details>");
    }
}

/// The text for HTML and XML: what has a meaning there is written otherwise, and what may not be there is replaced.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::mixed;

    #[test]
    fn one_page_with_a_table_of_servers_and_every_failure() {
        let mut other = mixed();
        other.server = "Valkey <9>".to_owned();
        let mut out = Vec::new();
        super::write_html(&mut out, &[mixed(), other]).unwrap();
        let page = String::from_utf8(out).unwrap();
        assert!(page.contains("<th>Valkey &lt;9&gt;<br>"), "{page}");
        assert_eq!(page.matches("<code>GET $k &lt;&amp;&gt;</code>").count(), 4);
        assert!(page.contains("known: a bug") && page.contains("needs admin"), "{page}");
        assert!(!page.contains("<script") && !page.contains("http"), "{page}");
        assert_eq!(page.matches("<td").count(), page.matches("</td>").count());
    }
}
