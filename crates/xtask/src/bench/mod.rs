//! `cargo xtask bench`: figures, each beside what it is to be compared with and taken in the same run.
//!
//! Every program is built with optimisation and runs as a process of its own: wall time, CPU time and peak memory are those
//! of the process. What was measured is also checked: a copy that is not equal gives no figure.

mod burst;
mod compat;
mod delivery;
mod diff;
mod full_sync;
mod inspect;
mod page;
mod rdb_elements;
mod rdb_walk;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use keyferry_testkit::{Client, Server, ServerBinary, named, process};

use crate::bootstrap;
use crate::cargo::release;
use crate::failure::{Context as _, Failure, Outcome};

/// One of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    /// A full migration, beside REPLICAOF
    FullSync,
    /// A burst of writes during the incremental phase, beside a replica
    Burst,
    /// Catching up exactly once, beside at least once
    Delivery,
    /// Walking RDB files, beside the server's own checker
    RdbWalk,
    /// Visiting every element of RDB files, beside the server's own checker
    RdbElements,
    /// `inspect`, beside the server's own checker, loading by a server, and other programs
    Inspect,
    /// `diff` of two servers, beside the time that both take to save
    Diff,
    /// `compat` with all its cases on every server, and on a cluster of each
    Compat,
}

/// The server that all figures are taken on.
const SERVER: &str = "redis-7.0";

/// The key whose arrival tells that everything before it has arrived.
const MARK: &str = "keyferry-bench-mark";

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(900);

/// Takes the measurements and writes their tables to `docs/performance.md`.
pub(crate) fn run(which: &[Which], scale: f64, dry_run: bool) -> Outcome {
    if !(scale > 0.0 && scale <= 10.0) {
        return Err(Failure::new("--scale is a factor above 0 and up to 10"));
    }
    bootstrap::ensure_server()?;
    let server = named(SERVER)?;
    let which = if which.is_empty() { Which::value_variants() } else { which };
    let mut tables = Vec::new();
    for which in which {
        tables.extend(match which {
            Which::FullSync => full_sync::measure(server, scale)?,
            Which::Burst => burst::measure(server, scale)?,
            Which::Delivery => delivery::measure(server, scale)?,
            Which::RdbWalk => rdb_walk::measure(server, scale)?,
            Which::RdbElements => rdb_elements::measure(server, scale)?,
            Which::Inspect => inspect::measure(server, scale)?,
            Which::Diff => diff::measure_diff(server, scale)?,
            Which::Compat => compat::measure_compat()?,
        });
    }
    for table in &tables {
        println!("\n{table}");
    }
    if dry_run { Ok(()) } else { page::write(&tables, server, scale) }
}

/// A server for measurements: its defaults, but for a source that starts its snapshot at once. By default it waits five
/// seconds for more replicas, which would hide any difference.
fn start(binary: &ServerBinary) -> Outcome<Server> {
    Ok(Server::builder(binary).timeout(PATIENCE).start()?)
}

fn client(server: &Server) -> Outcome<Client> {
    let client = server.client()?;
    client.set_timeout(PATIENCE)?;
    Ok(client)
}

/// Calls `condition` until it says true.
fn wait_for(what: &str, mut condition: impl FnMut() -> Outcome<bool>) -> Outcome {
    let end = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() > end {
            return Err(Failure::new(format!("{what}: not within {} s", PATIENCE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Whether the key has arrived; not yet while a replica loads its snapshot.
fn has(client: &mut Client, key: &str) -> Outcome<bool> {
    Ok(client.call_raw(&["EXISTS", key])?.as_i64() == Some(1))
}

/// Takes away what a migration keeps at its target to go on later.
fn forget(client: &mut Client) -> Outcome {
    client.call(&["SELECT", "0"])?;
    for key in client.list(&["KEYS", "keyferry:*"])? {
        if let Some(key) = key.as_str() {
            client.call(&["DEL", key])?;
        }
    }
    Ok(())
}

fn replicas(client: &mut Client) -> Outcome<bool> {
    Ok(client.info("replication", "connected_slaves")?.as_deref() != Some("0"))
}

/// The migration tool at work. Killed when dropped.
struct Tool {
    child: Child,
}

/// What a finished [`Tool`] took.
struct Used {
    cpu_seconds: f64,
    peak_rss_kib: u64,
}

impl Tool {
    fn program() -> Outcome<PathBuf> {
        release("keyferry-examples", "--example", "migrate", &[])
    }

    /// Starts it between two servers; it goes on until [`Tool::finish`].
    fn start(program: &PathBuf, source: &Server, target: &Server) -> Outcome<Tool> {
        Self::start_with(program, &source.url(), &target.url(), &[])
    }

    /// As [`Tool::start`], of any two sides, with further arguments.
    fn start_with(program: &PathBuf, source: &str, target: &str, more: &[&str]) -> Outcome<Tool> {
        let child = Command::new(program)
            .args(["--source", source, "--target", target, "--until", "forever"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .during(program.display())?;
        Ok(Tool { child })
    }

    fn cpu_seconds(&self) -> Outcome<f64> {
        Ok(process::cpu_seconds(self.child.id())?)
    }

    /// Asks it to end, and waits until it has.
    fn finish(mut self) -> Outcome<Used> {
        let pid = self.child.id();
        let used =
            Used { cpu_seconds: process::cpu_seconds(pid)?, peak_rss_kib: process::peak_rss_kib(pid)? };
        process::signal(pid, "TERM")?;
        let status = self.child.wait().during("waiting for the migration")?;
        if status.success() {
            Ok(used)
        } else {
            Err(Failure::new(format!("the migration ended with {status}")))
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
