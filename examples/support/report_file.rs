//! `--report FILE`: JSON, or Markdown where the file's name ends in `.md`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use keyferry_migrate::Report;
use serde::Serialize;

use crate::output_file::refuse_data;

/// The file that a report goes to. It is opened before anything is done, as afterwards it would be too late to say that it cannot be
/// written; what it held before stays until there is another report, and a file that was not there is not left empty.
#[derive(Debug)]
pub struct ReportFile {
    path: PathBuf,
    file: File,
    is_new: bool,
    is_written: bool,
}

impl ReportFile {
    /// Opens it.
    ///
    /// # Errors
    /// In the words of a person.
    pub fn open(path: &Path) -> Result<Self, String> {
        refuse_data(path).map_err(|e| format!("report {}: {e}", path.display()))?;
        let mut options = OpenOptions::new();
        options.write(true);
        let (opened, is_new) = match options.clone().create_new(true).open(path) {
            // It may also be a link to where nothing is yet.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                (options.create(true).truncate(false).open(path), false)
            }
            opened => (opened, true),
        };
        let file = opened.map_err(|e| format!("report {}: {e}", path.display()))?;
        Ok(ReportFile { path: path.to_owned(), file, is_new, is_written: false })
    }

    /// True when people are to read it.
    #[must_use]
    pub fn is_markdown(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("md"))
    }

    /// Writes what this is as JSON, or as the page that `markdown` makes of it.
    ///
    /// # Errors
    /// When it cannot be written, in the words of a person.
    pub fn write<T: Serialize>(self, report: &T, markdown: impl FnOnce(&T) -> String) -> Result<(), String> {
        let text = match self.is_markdown() {
            true => Ok(markdown(report)),
            false => serde_json::to_string_pretty(report),
        };
        self.put(text.map_err(io::Error::from))
    }

    /// Writes what this is as JSON, whatever the name of the file: there is no page of it.
    ///
    /// # Errors
    /// When it cannot be written, in the words of a person.
    pub fn write_json<T: Serialize>(self, report: &T) -> Result<(), String> {
        self.put(serde_json::to_string_pretty(report).map_err(io::Error::from))
    }

    /// Writes the report of a migration in the form that the name of the file says.
    ///
    /// # Errors
    /// When it cannot be written, in the words of a person.
    pub fn write_migration(self, report: &Report) -> Result<(), String> {
        self.write(report, Report::to_markdown)
    }

    /// Writes that it failed before there was anything to report, so that nobody takes an earlier report for that of this run.
    pub fn write_failure(self, error: &str) {
        let outcome = serde_json::json!({ "outcome": { "state": "failed", "error": error } });
        // The error itself is told in any case.
        let _ = self.write(&outcome, |_| format!("# Failed\n\n{}\n", error.replace(['\n', '\r'], " ")));
    }

    fn put(mut self, text: io::Result<String>) -> Result<(), String> {
        let written = text.and_then(|text| {
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
                self.file.rewind()?;
            }
            self.file.write_all(text.as_bytes())
        });
        self.is_written = true;
        written.map_err(|e| format!("the report could not be written: {e}"))
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.is_new && !self.is_written {
            // Nobody misses it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_stays_until_there_is_another_report() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.json"), dir.path().join("new.md"));
        std::fs::write(&old, "{\"a\": \"a report that is longer than the next one\"}").unwrap();
        drop(ReportFile::open(&old).unwrap());
        assert!(std::fs::read_to_string(&old).unwrap().contains("longer"));
        drop(ReportFile::open(&new).unwrap());
        assert!(!new.exists());
        ReportFile::open(&old).unwrap().write_failure("no \"route\"");
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&old).unwrap()).unwrap();
        assert_eq!(read["outcome"]["error"], "no \"route\"");
        ReportFile::open(&new).unwrap().write_failure("no\nroute");
        assert_eq!(std::fs::read_to_string(&new).unwrap(), "# Failed\n\nno route\n");
        assert!(ReportFile::open(&dir.path().join("no/such")).unwrap_err().starts_with("report "));
    }
}
