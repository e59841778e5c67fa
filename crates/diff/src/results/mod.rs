//! Where differences go: files for people, machines, and those used to redis-full-check.

mod html;
mod json;
mod junit;
#[cfg(feature = "sqlite")]
mod sqlite;
mod table;
mod text;

use std::io;

pub use html::Html;
pub use json::JsonLines;
pub use junit::Junit;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
pub use table::{Kept, write_table};
pub use text::TextFile;

use crate::difference::Difference;
use crate::report::DiffReport;

/// Takes differences as they are found.
pub trait DifferenceSink: Send {
    /// One more.
    ///
    /// # Errors
    ///
    /// When it cannot be kept; that ends the comparison.
    fn difference(&mut self, difference: &Difference) -> io::Result<()>;

    /// One that was found in a round before the last: what was under way may have arrived by the next.
    ///
    /// # Errors
    ///
    /// When it cannot be kept; that ends the comparison.
    fn suspect(&mut self, round: u32, difference: &Difference) -> io::Result<()> {
        let _ = (round, difference);
        Ok(())
    }

    /// Whether it wants to know of [`suspect`](Self::suspect)s which elements of their values differ.
    fn wants_suspects(&self) -> bool {
        false
    }

    /// The comparison is over; whoever ran it calls this.
    ///
    /// # Errors
    ///
    /// When what was taken cannot be kept.
    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        let _ = report;
        Ok(())
    }

    /// The comparison ended without a verdict, for this reason; whoever ran it calls this in place of [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// When that cannot be kept.
    fn failed(&mut self, why: &str) -> io::Result<()> {
        let _ = why;
        Ok(())
    }
}

/// Keeps all of them.
impl DifferenceSink for Vec<Difference> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.push(difference.clone());
        Ok(())
    }
}

/// Several sinks, one after the other.
impl DifferenceSink for Vec<Box<dyn DifferenceSink>> {
    fn difference(&mut self, difference: &Difference) -> io::Result<()> {
        self.iter_mut().try_for_each(|sink| sink.difference(difference))
    }

    fn suspect(&mut self, round: u32, difference: &Difference) -> io::Result<()> {
        self.iter_mut().try_for_each(|sink| sink.suspect(round, difference))
    }

    fn wants_suspects(&self) -> bool {
        self.iter().any(|sink| sink.wants_suspects())
    }

    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        self.iter_mut().try_for_each(|sink| sink.finish(report))
    }

    fn failed(&mut self, why: &str) -> io::Result<()> {
        self.iter_mut().try_for_each(|sink| sink.failed(why))
    }
}
