//! Keyspace notifications, which clients of the target may count on.

use std::collections::BTreeSet;

use crate::precheck::{Finding, Item, Known, report::Judge, survey::Node};

pub(super) fn check(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::Notifications);
    let mut wanted = BTreeSet::new();
    for node in &known.source.nodes {
        match flags(node) {
            Some(flags) => {
                judge.note(format!("{}: {}", node.name(), shown(&flags)));
                wanted.extend(flags);
            }
            None => judge.warn(node.silence(), "compare notify-keyspace-events of both sides"),
        }
    }
    for node in &known.target.nodes {
        let Some(flags) = flags(node) else {
            judge.warn(node.silence(), "compare notify-keyspace-events of both sides");
            continue;
        };
        let line = format!("{}: {}", node.name(), shown(&flags));
        let missing: BTreeSet<char> = wanted.difference(&flags).copied().collect();
        if missing.is_empty() {
            judge.note(line);
        } else {
            let setting: String = wanted.union(&flags).collect();
            judge.warn(
                format!("{line}: clients that wait for events of {} will not get them", shown(&missing)),
                format!("CONFIG SET notify-keyspace-events {setting} at the target before clients go there"),
            );
        }
    }
    judge.done()
}

/// The classes of events, `A` spelled out.
fn flags(node: &Node) -> Option<BTreeSet<char>> {
    let setting = node.setting("notify-keyspace-events")?;
    let mut flags: BTreeSet<char> = setting.chars().collect();
    if flags.remove(&'A') {
        flags.extend("g$lshzxet".chars());
    }
    Some(flags)
}

fn shown(flags: &BTreeSet<char>) -> String {
    if flags.is_empty() { "none".to_owned() } else { flags.iter().collect() }
}
