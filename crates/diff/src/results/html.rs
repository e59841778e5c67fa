//! A page for people.

use std::fmt::Write as _;
use std::io::{self, Write};

use keyferry_files::text::{line, short_line};

use super::junit::escape;
use super::{DifferenceSink, Kept};
use crate::difference::Difference;
use crate::report::{DiffReport, SideReport, Verdict};

/// Names of elements are cut to so many characters.
const NAME: usize = 80;

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">
<title>keyferry diff</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}
td.n{text-align:right}code{font-size:90%;word-break:break-all}.equal{background:#dfd}.different{background:#fdd}.nothing{background:#ffd}
.verdict{padding:.6em 1em;font-weight:bold}</style></head><body>
<h1>keyferry diff</h1>
";

/// A page that stands alone: the verdict, what was read, how many differences there are of each kind, and the first of them.
#[derive(Debug)]
pub struct Html<W> {
    out: W,
    kept: Kept,
}

impl<W: Write> Html<W> {
    /// Writes there when the comparison is over, with so many differences at most.
    pub fn new(out: W, most: usize) -> Self {
        Self { out, kept: Kept::new(most) }
    }
}

impl<W: Write + Send> DifferenceSink for Html<W> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.kept.difference(difference)
    }

    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        let mut page = String::from(HEAD);
        // Writing to a string cannot fail.
        let _ = about(&mut page, report);
        let _ = differences(&mut page, &self.kept);
        page.push_str("</body></html>\n");
        self.out.write_all(page.as_bytes())?;
        self.out.flush()
    }

    fn failed(&mut self, why: &str) -> io::Result<()> {
        let why = escape(&line(why.as_bytes()));
        writeln!(self.out, "{HEAD}<p class=\"verdict nothing\">COULD NOT TELL: {why}</p></body></html>")?;
        self.out.flush()
    }
}

fn about(page: &mut String, report: &DiffReport) -> std::fmt::Result {
    let class = match report.verdict() {
        Verdict::Equal => "equal",
        Verdict::Different => "different",
        Verdict::NothingCompared | Verdict::Unsettled => "nothing",
    };
    writeln!(page, "<p class=\"verdict {class}\">{}</p>", escape(&report.to_string()))?;
    if let Some(sample) = &report.sample {
        writeln!(page, "<p>{}</p>", escape(&sample.to_string()))?;
    }
    let changed = report.changed.as_ref().map(|changed| escape(&changed.to_string()));
    for open in changed.iter().map(String::as_str).chain(report.depth.leaves_open()) {
        writeln!(page, "<p>But {open}.</p>")?;
    }
    writeln!(
        page,
        "<table><tr><th></th><th>read</th><th>keys</th><th>expired</th><th>not chosen</th><th>bookkeeping</th></tr>"
    )?;
    for (word, side) in [("source", &report.source), ("target", &report.target)] {
        let SideReport { keys, expired, bookkeeping, .. } = side;
        let (parts, out) = (escape(&side.parts.join(", ")), side.left_out.total() + side.unsampled);
        writeln!(
            page,
            "<tr><th>{word}</th><td>{parts}</td><td class=\"n\">{keys}</td><td class=\"n\">{expired}</td>\
             <td class=\"n\">{out}</td><td class=\"n\">{bookkeeping}</td></tr>"
        )?;
    }
    writeln!(page, "</table>\n<p>{} keys on both sides, {} of them equal.</p>", report.both, report.equal)?;
    if report.rounds.len() > 1 {
        page.push_str("<table><tr><th>round</th><th>keys looked at</th><th>differed</th></tr>\n");
        for (number, round) in report.rounds.iter().enumerate() {
            let (keys, differ) = (round.keys, round.differ);
            writeln!(
                page,
                "<tr><td>{}</td><td class=\"n\">{keys}</td><td class=\"n\">{differ}</td></tr>",
                number + 1
            )?;
        }
        page.push_str("</table>\n");
    }
    for note in &report.notes {
        writeln!(page, "<p>Note: {}</p>", escape(note))?;
    }
    Ok(())
}

fn differences(page: &mut String, kept: &Kept) -> std::fmt::Result {
    if kept.counts().total() == 0 {
        return Ok(());
    }
    page.push_str("<table><tr><th>difference</th><th>number</th></tr>\n");
    for (kind, count) in kept.counts().iter() {
        writeln!(page, "<tr><td>{kind}</td><td class=\"n\">{count}</td></tr>")?;
    }
    page.push_str(
        "</table>\n<table><tr><th>db</th><th>difference</th><th>type</th><th>key</th><th>source | target</th><th>where</th></tr>\n",
    );
    let shown = kept.differences();
    for one in &shown {
        let (db, kind, ty) = (one.db, one.kind, one.type_name());
        let (key, sides) = (escape(&line(&one.key)), escape(&one.sides()));
        let names: Vec<_> = one
            .fields
            .iter()
            .take(20)
            .map(|field| format!("<code>{}</code> {}", escape(&short_line(&field.name, NAME)), field.kind))
            .collect();
        let mut places = names.join("<br>");
        let more = (one.fields.len() - names.len()) as u64 + one.more_fields;
        if more > 0 {
            write!(places, "<br>and {more} more")?;
        }
        writeln!(
            page,
            "<tr><td class=\"n\">{db}</td><td>{kind}</td><td>{ty}</td><td><code>{key}</code></td><td>{sides}</td><td>{places}</td></tr>"
        )?;
    }
    let hidden = kept.counts().total() - shown.len() as u64;
    page.push_str("</table>\n");
    if hidden > 0 { writeln!(page, "<p>and {hidden} more</p>") } else { Ok(()) }
}
