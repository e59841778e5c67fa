//! Where differences go: files for people, machines, and those used to redis-full-check.

mod json;
mod junit;
#[cfg(feature = "sqlite")]
mod sqlite;
mod table;
mod text;

use std::io;

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

    /// The comparison is over; whoever ran it calls this.
    ///
    /// # Errors
    ///
    /// When what was taken cannot be kept.
    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        let _ = report;
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

    fn finish(&mut self, report: &DiffReport) -> io::Result<()> {
        self.iter_mut().try_for_each(|sink| sink.finish(report))
    }
}
