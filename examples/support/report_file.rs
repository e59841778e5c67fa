//! `--report FILE`: JSON, or Markdown where the file's name ends in `.md`.

use std::{fs::File, io::Write, path::Path};

use keyferry_migrate::Report;

/// Writes the report in the form that the name of the file says.
///
/// # Errors
/// When it cannot be written.
pub fn write_report(report: &Report, path: &Path, mut file: File) -> std::io::Result<()> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("md")) {
        return file.write_all(report.to_markdown().as_bytes());
    }
    Ok(serde_json::to_writer_pretty(file, report)?)
}
