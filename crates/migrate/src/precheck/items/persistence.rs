//! Saving, on both sides, and the replicas that the target wants.

use crate::precheck::{Finding, Item, Known, estimate::bytes, report::Judge, survey::Node};

/// The part of the machine that a source may use for its data before a fork becomes a risk.
const SAFE_TO_FORK: f64 = 0.6;

pub(super) fn check(known: &Known<'_>) -> Vec<Finding> {
    vec![persistence(known), min_replicas(known)]
}

fn is(node: &Node, figure: &str, value: &str) -> bool {
    node.info.get(figure) == Some(value)
}

fn persistence(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::Persistence);
    for node in known.source.nodes.iter().chain(&known.target.nodes) {
        if node.info_refused.is_some() {
            judge.warn(node.silence(), "see that it saves without errors");
        } else if is(node, "rdb_bgsave_in_progress", "1") || is(node, "aof_rewrite_in_progress", "1") {
            judge.warn(
                format!("{}: is saving at this moment", node.name()),
                "begin when it has saved: forks of both sides at once take memory",
            );
        }
    }
    for node in &known.source.nodes {
        let name = node.name();
        if is(node, "rdb_last_bgsave_status", "err") {
            judge.warn(
                format!("{name}: its last snapshot failed, so the one for this migration may"),
                "see its log; often there is not enough memory for a fork (vm.overcommit_memory) or room on the disk",
            );
        }
        if let (Some(resident), Some(system)) =
            (node.figure("used_memory_rss"), node.figure("total_system_memory"))
        {
            let line = format!(
                "{name}: {} of {} in use; a snapshot copies what is written meanwhile",
                bytes(resident),
                bytes(system)
            );
            if resident as f64 > SAFE_TO_FORK * system as f64 {
                judge.warn(
                    line,
                    "migrate while little is written, or read from a replica (--prefer-replicas)",
                );
            } else {
                judge.note(line);
            }
        }
    }
    for node in &known.target.nodes {
        let name = node.name();
        let failed = is(node, "rdb_last_bgsave_status", "err");
        let saves = node.setting("save").is_none_or(|save| !save.is_empty());
        let stops = node.setting("stop-writes-on-bgsave-error").is_none_or(|stops| stops == "yes");
        if failed && saves && stops {
            judge.fail(
                format!("{name}: cannot save, and refuses writes because of it (MISCONF)"),
                "see its log and mend the disk, or CONFIG SET stop-writes-on-bgsave-error no",
            );
        } else if failed {
            judge.warn(format!("{name}: its last snapshot failed"), "see its log");
        }
        if is(node, "aof_last_write_status", "err") {
            judge.fail(
                format!("{name}: cannot write its append-only file, and refuses writes"),
                "see its log and mend the disk",
            );
        }
        if node.setting("appendonly") == Some("yes") && node.setting("appendfsync") == Some("always") {
            judge.warn(
                format!("{name}: waits for the disk at each write (appendfsync always)"),
                "CONFIG SET appendfsync everysec until the migration is over: it goes several times faster",
            );
        }
    }
    judge.done()
}

fn min_replicas(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::MinReplicas);
    for node in &known.target.nodes {
        let name = node.name();
        let wanted = node.limit("min-replicas-to-write").or_else(|| node.limit("min-slaves-to-write"));
        match (wanted, node.figure("min_slaves_good_slaves")) {
            (Some(0), _) => judge.note(format!("{name}: wants none")),
            (Some(wanted), good) => {
                let good = good.unwrap_or(0);
                let line = format!("{name}: wants {wanted} for a write, has {good}");
                if good < wanted {
                    judge.fail(
                        format!("{line}: it refuses writes (NOREPLICAS)"),
                        "bring its replicas back, or CONFIG SET min-replicas-to-write 0 until the migration is over",
                    );
                } else {
                    judge.note(line);
                }
            }
            (None, _) => judge.warn(node.silence(), "see min-replicas-to-write of the target"),
        }
    }
    judge.done()
}
