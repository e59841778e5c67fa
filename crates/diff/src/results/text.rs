//! redis-full-check's text file.

use std::io::{self, Write};

use keyferry_files::text::line;

use super::DifferenceSink;
use crate::difference::Difference;

/// A line for each difference: database, kind of difference, key, field, with tabs between them, as redis-full-check's
/// `--result` has it.
///
/// A key has a line for each element that is known to differ, with its kind of difference, and one with an empty field otherwise. Other than
/// there, names that are no text are escaped ([`line()`]), so that a key with a tab or a line break in it remains one column
/// of one line.
#[derive(Debug)]
pub struct TextFile<W> {
    out: W,
}

impl<W: Write> TextFile<W> {
    /// Writes there.
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write + Send> DifferenceSink for TextFile<W> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        let (db, key) = (difference.db, line(&difference.key));
        for field in &difference.fields {
            writeln!(self.out, "{db}\t{}\t{key}\t{}", field.kind, line(&field.name))?;
        }
        if difference.fields.is_empty() {
            writeln!(self.out, "{db}\t{}\t{key}\t", difference.kind)?;
        }
        Ok(())
    }

    fn finish(&mut self, _: &crate::DiffReport) -> io::Result<()> {
        self.out.flush()
    }
}
