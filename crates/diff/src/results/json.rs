//! One JSON object a line.

use std::io::{self, Write};

use keyferry_files::json::push_text;
use serde::Serialize;

use super::DifferenceSink;
use crate::difference::{Difference, Held, Subject};
use crate::report::{DiffReport, Verdict};

/// A line for each difference, and one with the report at the end.
///
/// ```text
/// {"db":0,"key":"user:1","difference":"value","source":{"type":"hash","length":3},"target":{"type":"hash","length":3}}
/// {"db":0,"key":"user:2","difference":"value","source":…,"target":…,"fields":[{"field":"age","difference":"value"}],"more_fields":7}
/// {"verdict":"different","report":{…}}
/// ```
///
/// `fields` and `more_fields` are there where it is known which elements differ. Where it cannot be told whether the sides are equal, the
/// last line is `{"verdict":"unknown","error":"…"}`.
///
/// A difference of a function library has `function` in place of `key`. Bytes that are no text are written as
/// [`keyferry_files::json`] writes them, so that nothing is lost.
#[derive(Debug)]
pub struct JsonLines<W> {
    out: W,
    line: Vec<u8>,
}

impl<W: Write> JsonLines<W> {
    /// Writes there.
    pub fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }
}

impl<W: Write + Send> DifferenceSink for JsonLines<W> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.line.clear();
        match difference.subject {
            Subject::Key | Subject::Database => write!(self.line, r#"{{"db":{},"key":""#, difference.db)?,
            Subject::Function => self.line.extend_from_slice(br#"{"function":""#),
        }
        push_text(&mut self.line, &difference.key);
        write!(self.line, r#"","difference":"{}""#, difference.kind)?;
        for (side, held) in [("source", difference.source), ("target", difference.target)] {
            if let (Subject::Database, Some(held)) = (difference.subject, held) {
                write!(self.line, r#","{side}":{{"count":{}}}"#, held.length)?;
            } else if let Some(Held { kind, length, expiry }) = held {
                write!(self.line, r#","{side}":{{"type":"{}","length":{length}"#, kind.name())?;
                if let Some(expiry) = expiry {
                    write!(self.line, r#","expires_at":{expiry}"#)?;
                }
                self.line.push(b'}');
            }
        }
        let mut before = r#","fields":["#;
        for field in &difference.fields {
            write!(self.line, r#"{before}{{"field":""#)?;
            push_text(&mut self.line, &field.name);
            write!(self.line, r#"","difference":"{}"}}"#, field.kind)?;
            before = ",";
        }
        if !difference.fields.is_empty() {
            self.line.push(b']');
        }
        if difference.more_fields > 0 {
            write!(self.line, r#","more_fields":{}"#, difference.more_fields)?;
        }
        self.line.extend_from_slice(b"}\n");
        self.out.write_all(&self.line)
    }

    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        let end = End { verdict: report.verdict(), report };
        serde_json::to_writer(&mut self.out, &end)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    fn failed(&mut self, why: &str) -> io::Result<()> {
        self.line.clear();
        self.line.extend_from_slice(br#"{"verdict":"unknown","error":""#);
        push_text(&mut self.line, why.as_bytes());
        self.line.extend_from_slice(b"\"}\n");
        self.out.write_all(&self.line)?;
        self.out.flush()
    }
}

#[derive(Serialize)]
struct End<'a> {
    verdict: Verdict,
    report: &'a DiffReport,
}
