//! How much there is to move, how fast it grows, and how long that takes.

use std::{fmt, time::Duration};

use keyferry_client::Error;
use serde::{Deserialize, Serialize};

use super::{
    Depth,
    survey::{Node, Surveyed},
};

/// What one link is taken to move in a second. Measured figures are in `docs/performance.md`; these are lower, as a
/// network is between the servers.
const BYTES_A_SECOND: f64 = 50.0 * 1024.0 * 1024.0;
const KEYS_A_SECOND: f64 = 150_000.0;

/// For how long the growth of the offset is watched.
const WATCH_QUICK: Duration = Duration::from_millis(100);
const WATCH_FULL: Duration = Duration::from_secs(2);

/// What a migration will take, roughly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimates {
    /// Keys of the source.
    pub keys: u64,
    /// Bytes of memory that they take at the source; a snapshot is seldom larger.
    pub bytes: u64,
    /// Bytes a second that the source writes to its replicas now.
    pub write_bytes_per_second: f64,
    /// Seconds for the snapshot, at 50 MiB and 150 000 keys a second and link, with the writes of the meantime.
    pub seconds: f64,
}

impl fmt::Display for Estimates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} keys, {} at most; written at {}/s; about {} at 50 MiB/s and 150000 keys/s a link",
            self.keys,
            bytes(self.bytes),
            bytes(self.write_bytes_per_second as u64),
            seconds(self.seconds)
        )
    }
}

/// How fast each node of the source is written to, in bytes a second of the replication stream.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteRates(Vec<Rate>);

/// The rate of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    pub(super) bytes_per_second: f64,
    /// It is what clients send in all, of which writes are a part: the server counts no offset before it has a replica.
    pub(super) at_most: bool,
}

impl WriteRates {
    /// Watches the offsets.
    pub(super) async fn measure(source: &mut Surveyed, depth: Depth) -> Result<Self, Error> {
        let watch = if depth == Depth::Full { WATCH_FULL } else { WATCH_QUICK };
        let mut rates = Vec::new();
        for node in &mut source.nodes {
            tokio::time::sleep(watch.saturating_sub(node.read.elapsed())).await;
            let Some(before) = counted_offset(&node.info) else {
                let input = node.info.get_as::<f64>("instantaneous_input_kbps").unwrap_or_default();
                rates.push(Rate { bytes_per_second: input * 1024.0, at_most: true });
                continue;
            };
            // Who may not see INFO did not tell an offset before.
            let after = node.connection.info("replication").await?;
            let written = counted_offset(&after).unwrap_or(before).saturating_sub(before);
            let passed = node.read.elapsed().as_secs_f64().max(0.001);
            rates.push(Rate { bytes_per_second: written as f64 / passed, at_most: false });
        }
        Ok(WriteRates(rates))
    }

    pub(super) fn of(&self, node: usize) -> Rate {
        self.0.get(node).copied().unwrap_or_default()
    }
}

/// The replication offset, of a server that counts it.
fn counted_offset(info: &keyferry_client::Info) -> Option<u64> {
    info.get_as("master_repl_offset").filter(|_| counts_offset(info))
}

/// True for a server that is a replica, or has had one: only then it has a history.
pub(super) fn counts_offset(info: &keyferry_client::Info) -> bool {
    info.get("repl_backlog_active") == Some("1") || info.get("role") == Some("slave")
}

/// Bytes of memory that the data of a node take, without buffers for clients and replicas.
pub(super) fn data_bytes(node: &Node) -> Option<u64> {
    let used = node.figure("used_memory")?;
    let overhead = ["mem_clients_slaves", "mem_clients_normal", "mem_replication_backlog", "mem_aof_buffer"];
    let startup = node.figure("used_memory_startup").unwrap_or(0);
    let buffers: u64 = overhead.iter().filter_map(|name| node.figure(name)).sum();
    Some(used.saturating_sub(startup).saturating_sub(buffers))
}

/// Seconds for the snapshot of one node.
pub(super) fn snapshot_seconds(node: &Node, rate: Rate) -> f64 {
    let keys: u64 = node.keys().into_values().sum();
    let data = data_bytes(node).unwrap_or(0) as f64;
    let alone = (data / BYTES_A_SECOND).max(keys as f64 / KEYS_A_SECOND);
    // What is written meanwhile takes its part; a source that writes faster than that is never caught up with.
    let share = (1.0 - rate.bytes_per_second / BYTES_A_SECOND).max(0.05);
    alone / share
}

/// All of it; none when no node tells.
pub(super) fn estimates(source: &Surveyed, rates: &WriteRates) -> Option<Estimates> {
    let mut sum = Estimates { keys: 0, bytes: 0, write_bytes_per_second: 0.0, seconds: 0.0 };
    for (number, node) in source.nodes.iter().enumerate() {
        sum.keys += node.keys().into_values().sum::<u64>();
        sum.bytes += data_bytes(node)?;
        let rate = rates.of(number);
        sum.write_bytes_per_second += rate.bytes_per_second;
        // Links work beside one another.
        sum.seconds = sum.seconds.max(snapshot_seconds(node, rate));
    }
    // More digits would only look as if they were known.
    sum.write_bytes_per_second = sum.write_bytes_per_second.round();
    sum.seconds = (sum.seconds * 1000.0).round() / 1000.0;
    Some(sum)
}

/// Bytes, for people.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A duration, for people.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s > 1e9 => "no end".to_owned(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_in_fitting_units() {
        assert_eq!(
            [0, 1023, 1024, 1 << 20, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "16384.0 PiB"]
        );
        let times = [0.2, 119.0, 120.0, 7200.0, 200_000.0, f64::INFINITY].map(seconds);
        assert_eq!(times, ["0 s", "119 s", "2 min", "2.0 h", "2 days", "no end"]);
    }
}
