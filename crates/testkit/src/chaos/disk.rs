//! A small file system that can be filled up.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::watchdog::Watchdog;

/// A file system in memory, mounted for as long as this value lives.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    // Called off after it was unmounted.
    _watchdog: Watchdog,
}

/// The file that fills it.
const BALLAST: &str = "ballast";

impl Disk {
    /// Mounts one of so many MiB at a directory that exists. `None` where we may not do that.
    pub(super) fn mount(directory: &Path, mebibytes: u32) -> Result<Option<Disk>> {
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let watchdog = Watchdog::start("umount -l \"$1\"", &[&directory.to_string_lossy()])?;
        Ok(Some(Disk { directory: directory.to_owned(), _watchdog: watchdog }))
    }

    /// Leaves no room. Room that others give back later is free again.
    pub(super) fn fill(&self) -> Result<()> {
        let path = self.directory.join(BALLAST);
        let mut file = File::create(&path).map_err(|source| Error::File {
            what: "written",
            path: path.clone(),
            source,
        })?;
        let mut block = vec![0u8; 1 << 20];
        while !block.is_empty() {
            if file.write_all(&block).is_err() {
                let half = block.len() / 2;
                block.truncate(half);
            }
        }
        Ok(())
    }

    /// Makes room again.
    pub(super) fn free(&self) -> Result<()> {
        let path = self.directory.join(BALLAST);
        std::fs::remove_file(&path).map_err(|source| Error::File { what: "removed", path, source })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let _ = umount.arg("-l").arg(&self.directory).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
