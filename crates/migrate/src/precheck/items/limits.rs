//! Limits that servers set.

use crate::precheck::{Finding, Item, Known, estimate::bytes, report::Judge, survey::End};

/// What a payload has around the value.
const AROUND: u64 = 64 << 10;

/// Connections to each node of the source and of the target that a migration needs at its busiest.
const SOURCE_CONNECTIONS: u64 = 4;
const TARGET_CONNECTIONS: u64 = 16;

pub(super) fn check(known: &Known<'_>) -> Vec<Finding> {
    vec![bulk_length(known), max_clients(known)]
}

fn bulk_length(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::BulkLength);
    let source = known.source.nodes.iter().filter_map(|node| node.limit("proto-max-bulk-len")).max();
    let needed = known.options.value_limit as u64 + AROUND;
    for node in &known.target.nodes {
        let Some(limit) = node.limit("proto-max-bulk-len") else {
            judge.warn(node.silence(), "see that proto-max-bulk-len of the target is not below the source's");
            continue;
        };
        let line = format!("{}: takes arguments of {}", node.name(), bytes(limit));
        let remedy = "raise proto-max-bulk-len at the target to that of the source (default 512 MiB)";
        if limit < needed {
            judge.fail(format!("{line}, but values come whole up to {}", bytes(needed)), remedy);
        } else if source.is_some_and(|source| source > limit) {
            let source = bytes(source.unwrap_or_default());
            judge.warn(
                format!("{line}, the source {source}: a longer one in the stream would be refused"),
                remedy,
            );
        } else {
            judge.note(line);
        }
    }
    judge.done()
}

fn max_clients(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::MaxClients);
    for node in known.source.nodes.iter().chain(&known.target.nodes) {
        let limit = node.figure("maxclients").or_else(|| node.limit("maxclients"));
        let (Some(limit), Some(connected)) = (limit, node.figure("connected_clients")) else {
            judge.warn(node.silence(), "see that maxclients leaves room for some connections");
            continue;
        };
        let needed = if node.end == End::Source { SOURCE_CONNECTIONS } else { TARGET_CONNECTIONS };
        let room = limit.saturating_sub(connected);
        let line = format!("{}: {connected} of {limit} clients, {needed} more may come", node.name());
        let remedy = "raise maxclients, or end connections that nobody uses";
        if room < needed {
            judge.fail(line, remedy);
        } else if room < 4 * needed {
            judge.warn(line, remedy);
        } else {
            judge.note(line);
        }
    }
    judge.done()
}
