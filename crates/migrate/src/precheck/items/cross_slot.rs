//! Commands in use whose keys are in several slots of a target cluster.

use std::collections::BTreeMap;

use keyferry_routing::{CommandTable, Find};

use crate::{
    options::CrossSlotPolicy,
    precheck::{Finding, Item, Known, report::Judge},
};

/// Calls of these are carried over as what they did, or as commands of one key.
const AS_EFFECTS: &[&str] = &[
    "blmpop", "blpop", "brpop", "bzmpop", "bzpopmax", "bzpopmin", "eval", "evalsha", "fcall", "lmpop",
    "zmpop",
];

pub(super) fn check(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::CrossSlot);
    if !known.target.is_cluster {
        judge.note("the target has all slots on one server");
        return judge.done();
    }
    if known.source.is_cluster {
        judge.note("the source is a cluster, which takes no command with keys in several slots");
        return judge.done();
    }
    let mut calls: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, count) in known.source.nodes.iter().flat_map(|node| node.calls()) {
        if count > 0 && names_several_keys(name) {
            *calls.entry(name).or_default() += count;
        }
    }
    if let Some(node) = known.source.nodes.iter().find(|node| node.info_refused.is_some()) {
        judge.warn(node.silence(), "give the user +info");
    } else if calls.is_empty() {
        judge.note("none that names several keys was called since the source counts");
        return judge.done();
    }
    if !calls.is_empty() {
        several(known, &mut judge, "calls since the source counts", &calls);
    }
    judge.done()
}

/// `calls` are the commands of files whose keys are in several slots.
pub(super) fn of_files(known: &Known<'_>, calls: &BTreeMap<String, u64>) -> Finding {
    let mut judge = Judge::new(Item::CrossSlot);
    if !known.target.is_cluster {
        judge.note("the target has all slots on one server");
    } else if calls.is_empty() {
        judge.note("no command has keys in several slots");
    } else {
        let calls = calls.iter().map(|(name, count)| (&name[..], *count)).collect();
        several(known, &mut judge, "with keys in several slots", &calls);
    }
    judge.done()
}

fn several(known: &Known<'_>, judge: &mut Judge, what: &str, calls: &BTreeMap<&str, u64>) {
    let list: Vec<String> = calls.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let line = format!("{what}: {}", list.join(", "));
    match known.options.cross_slot {
        CrossSlotPolicy::CarryOut => judge.warn(
            format!("{line}; those with keys in several slots are split or computed at the target, with some round trips each"),
            "none is needed for the migration; clients will be refused such commands by the target (CROSSSLOT): use hash tags",
        ),
        CrossSlotPolicy::Fail => judge.fail(
            format!("{line}; the first one with keys in several slots ends the migration"),
            "use hash tags at the source, or have them carried out (--cross-slot carry-out)",
        ),
    }
}

/// True for commands that write, and have several keys.
fn names_several_keys(name: &str) -> bool {
    let Some(spec) = CommandTable::builtin().named(name) else { return false };
    let writes = spec.key_specs().iter().any(|spec| spec.access.is_write());
    let several = spec.key_specs().len() > 1
        || spec.key_specs().iter().any(|spec| match spec.find {
            Find::Range { last, .. } => last != 0,
            _ => true,
        });
    writes && several && !AS_EFFECTS.contains(&name)
}
