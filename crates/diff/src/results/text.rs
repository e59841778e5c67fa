//! redis-full-check's text file.

use std::io::{self, Write};

use keyferry_files::text::line;

use super::DifferenceSink;
use crate::difference::Difference;

/// A line for each difference: database, kind of difference, key, field, with tabs between them, as redis-full-check's
/// `--result` has it.
///
/// The field is empty: snapshots tell which key differs, not where. Other than there, names that are no text are escaped
/// ([`line()`]), so that a key with a tab or a line break in it remains one column of one line.
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
        writeln!(self.out, "{}\t{}\t{}\t", difference.db, difference.kind, line(&difference.key))
    }

    fn finish(&mut self, _: &crate::DiffReport) -> io::Result<()> {
        self.out.flush()
    }
}
