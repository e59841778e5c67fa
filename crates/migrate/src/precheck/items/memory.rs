//! Memory of the target, and whether it keeps what it is given.

use crate::precheck::{
    Finding, Item, Known,
    contents::Contents,
    estimate::{bytes, data_bytes},
    report::Judge,
    survey::Node,
};

use super::overlap::Existing;

/// What the target should have more than the data take, as a factor.
const SPARE: f64 = 1.1;

/// Above this the source is fragmented more than a target that is filled anew will be.
const MOST_FRAGMENTATION: f64 = 1.5;

pub(super) fn check(known: &Known<'_>, existing: &Existing) -> Finding {
    let Some(coming) = coming(known) else {
        let mut judge = Judge::new(Item::Memory);
        let silent = known.source.nodes.iter().find(|node| node.figure("used_memory").is_none());
        judge.warn(silent.map(Node::silence).unwrap_or_default(), "give the user at the source +info");
        return judge.done();
    };
    let fragmentation =
        known.source.nodes.iter().filter_map(|node| node.info.get_as::<f64>("mem_fragmentation_ratio"));
    let fragmentation = fragmentation.fold(1.0, f64::max).min(MOST_FRAGMENTATION);
    room(known, existing, &coming, fragmentation)
}

/// The same of what files hold.
pub(super) fn of_files(known: &Known<'_>, contents: &Contents, existing: &Existing) -> Finding {
    let part =
        |node: &Node| contents.bytes(|slot| node.slots.as_ref().is_none_or(|slots| slots.contains(slot)));
    let coming: Vec<f64> = known.target.nodes.iter().map(|node| part(node) as f64).collect();
    room(known, existing, &coming, 1.0)
}

/// What comes to each node of the target: from each node of the source as much as the slots say that both have in common, or
/// an equal part for each slot where the source is no cluster.
fn coming(known: &Known<'_>) -> Option<Vec<f64>> {
    let all = f64::from(keyferry_routing::SLOTS);
    let mut coming = vec![0.0; known.target.nodes.len()];
    for from in &known.source.nodes {
        let data = data_bytes(from)? as f64;
        for (to, coming) in known.target.nodes.iter().zip(&mut coming) {
            *coming += data
                * match (&from.slots, &to.slots) {
                    (_, None) => 1.0,
                    (None, Some(to)) => to.len() as f64 / all,
                    (Some(from), Some(to)) => {
                        let common =
                            (0..keyferry_routing::SLOTS).filter(|&s| from.contains(s) && to.contains(s));
                        common.count() as f64 / (from.len() as f64).max(1.0)
                    }
                };
        }
    }
    Some(coming)
}

fn room(known: &Known<'_>, existing: &Existing, coming: &[f64], fragmentation: f64) -> Finding {
    let mut judge = Judge::new(Item::Memory);
    for (to, coming) in known.target.nodes.iter().zip(coming) {
        let name = to.name();
        let Some(used) = to.figure("used_memory") else {
            judge.warn(to.silence(), "compare the memory of both sides");
            continue;
        };
        // What is replaced makes room for what replaces it.
        let more = coming * (1.0 - existing.share());
        // The limit counts what was asked for; the machine has to hold what lies between, too.
        let limit = to.figure("maxmemory").or_else(|| to.limit("maxmemory")).filter(|&limit| limit > 0);
        let (room, needed, of) = match (limit, to.figure("total_system_memory")) {
            (Some(limit), _) => (limit.saturating_sub(used), more, format!("maxmemory {}", bytes(limit))),
            (None, Some(system)) => {
                let resident = to.figure("used_memory_rss").unwrap_or(used).max(used);
                let of = format!("no maxmemory, {} in the machine", bytes(system));
                (system.saturating_sub(resident), more * fragmentation, of)
            }
            (None, None) => {
                judge.warn(to.silence(), "compare the memory of both sides");
                continue;
            }
        };
        let line = format!(
            "{name}: {} will come, {} are free ({of}, {} in use)",
            bytes(needed as u64),
            bytes(room),
            bytes(used)
        );
        let remedy = "give the target more memory (maxmemory), or more shards";
        if needed > room as f64 {
            judge.fail(line, remedy);
        } else if needed * SPARE > room as f64 {
            judge.warn(format!("{line}, which is less than a tenth to spare"), remedy);
        } else {
            judge.note(line);
        }
    }
    judge.done()
}

pub(super) fn eviction(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::EvictionPolicy);
    for node in &known.target.nodes {
        let name = node.name();
        let policy = node.info.get("maxmemory_policy").or_else(|| node.setting("maxmemory-policy"));
        let limit = node.figure("maxmemory").or_else(|| node.limit("maxmemory"));
        match (policy, limit) {
            (Some("noeviction"), _) => judge.note(format!("{name}: noeviction")),
            (Some(policy), Some(0)) => judge.note(format!("{name}: {policy}, without a limit: nothing is evicted")),
            (Some(policy), Some(limit)) => judge.fail(
                format!("{name}: {policy} at {}: keys that were moved may be evicted without a word", bytes(limit)),
                "CONFIG SET maxmemory-policy noeviction until the migration is over, or ignore this for a cache",
            ),
            _ => judge.warn(node.silence(), "be sure that the target's maxmemory-policy is noeviction"),
        }
    }
    judge.done()
}
