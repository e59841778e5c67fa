//! How long the source keeps what a reader does not take, at the rate at which it is written to now.

use crate::precheck::{
    Finding, Item, Known,
    estimate::{Rate, bytes, seconds, snapshot_seconds},
    report::Judge,
};

/// Less than this is short for a link that has to be silent once in a while.
const SHORT_TIMEOUT: u64 = 30;
/// Less than this ends links that are well: they are acknowledged once a second.
const TOO_SHORT_TIMEOUT: u64 = 3;

pub(super) fn check(known: &Known<'_>) -> Vec<Finding> {
    vec![output_buffer(known), backlog(known), repl_timeout(known)]
}

/// The limits of `client-output-buffer-limit` for replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    /// Bytes that end the link at once; 0 for none.
    hard: u64,
    /// Bytes that end it when they are exceeded for longer; 0 for none.
    soft: u64,
    soft_seconds: u64,
}

impl Limits {
    /// From `normal 0 0 0 slave 268435456 67108864 60 pubsub …`.
    fn parse(setting: &str) -> Option<Self> {
        let mut words = setting.split_whitespace();
        words.find(|word| matches!(*word, "slave" | "replica"))?;
        let mut number = || words.next()?.parse().ok();
        Some(Limits { hard: number()?, soft: number()?, soft_seconds: number()? })
    }

    /// Seconds that a reader may take nothing.
    fn survival(self, bytes_per_second: f64) -> f64 {
        let until =
            |bytes: u64| if bytes == 0 { f64::INFINITY } else { bytes as f64 / bytes_per_second.max(0.001) };
        until(self.hard).min(until(self.soft) + self.soft_seconds as f64)
    }
}

fn output_buffer(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::OutputBuffer);
    for (number, node) in known.source.nodes.iter().enumerate() {
        let name = node.name();
        let Some(limits) = node.setting("client-output-buffer-limit").and_then(Limits::parse) else {
            judge.warn(
                node.silence(),
                "see that client-output-buffer-limit for replicas bears what is written during the snapshot",
            );
            continue;
        };
        let rate = known.rates.of(number);
        let (survival, needed) = (limits.survival(rate.bytes_per_second), snapshot_seconds(node, rate));
        let line = format!(
            "{name}: replica {} {} {}: lasts for {} at {}; the snapshot takes about {}",
            limits.hard,
            limits.soft,
            limits.soft_seconds,
            seconds(survival),
            shown(rate),
            seconds(needed)
        );
        let remedy =
            "CONFIG SET client-output-buffer-limit 'replica 0 0 0' at the source until the migration is over";
        if survival < needed {
            judge.fail(format!("{line}: what is written meanwhile does not fit, and the link would be ended over and over"), remedy);
        } else if survival < 3.0 * needed {
            judge.warn(line, remedy);
        } else {
            judge.note(line);
        }
    }
    judge.done()
}

fn backlog(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::Backlog);
    let window = known.options.reconnect_window.as_secs_f64();
    for (number, node) in known.source.nodes.iter().enumerate() {
        let size = node.figure("repl_backlog_size").or_else(|| node.limit("repl-backlog-size"));
        let Some(size) = size else {
            judge.warn(node.silence(), "see that repl-backlog-size holds a minute of writes");
            continue;
        };
        let rate = known.rates.of(number);
        let survival = size as f64 / rate.bytes_per_second.max(0.001);
        let line = format!(
            "{}: {} last for {} at {}; a lost link is tried again for {}",
            node.name(),
            bytes(size),
            seconds(survival),
            shown(rate),
            seconds(window)
        );
        // A restart of this program or of a switch takes a minute, however long one is willing to wait.
        if survival < window.min(60.0) {
            judge.warn(
                format!("{line}: after a longer interruption the snapshot has to begin anew"),
                format!(
                    "CONFIG SET repl-backlog-size {} at the source",
                    (rate.bytes_per_second * window.min(3600.0)).ceil().max(1024.0 * 1024.0)
                ),
            );
        } else {
            judge.note(line);
        }
    }
    judge.done()
}

fn repl_timeout(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::ReplTimeout);
    for node in &known.source.nodes {
        let Some(timeout) = node.limit("repl-timeout") else {
            judge.warn(node.silence(), "see that repl-timeout is at least half a minute");
            continue;
        };
        let line = format!("{}: a silent replica is given up after {timeout} s", node.name());
        let remedy = "CONFIG SET repl-timeout 60 at the source until the migration is over";
        if timeout < TOO_SHORT_TIMEOUT {
            judge.fail(line, remedy);
        } else if timeout < SHORT_TIMEOUT {
            judge.warn(line, remedy);
        } else {
            judge.note(line);
        }
    }
    judge.done()
}

fn shown(rate: Rate) -> String {
    let at_most = if rate.at_most { "at most " } else { "" };
    format!("{at_most}{}/s of writes", bytes(rate.bytes_per_second as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_is_met_first_counts() {
        let limits =
            Limits::parse("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60").unwrap();
        assert_eq!(limits, Limits { hard: 256 << 20, soft: 64 << 20, soft_seconds: 60 });
        let mib = f64::from(1 << 20);
        assert_eq!(limits.survival(mib), 124.0);
        assert_eq!(limits.survival(100.0 * mib), 2.56);
        assert_eq!(Limits::parse("replica 0 0 0").unwrap().survival(mib), f64::INFINITY);
        assert_eq!(Limits::parse("normal 0 0 0"), None);
    }
}
