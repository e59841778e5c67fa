//! Numbers of databases.

use std::collections::BTreeMap;

use crate::precheck::{Finding, Item, Known, report::Judge};

/// Keys of each database of the servers.
pub(super) fn of_servers(known: &Known<'_>) -> BTreeMap<u64, Option<u64>> {
    let mut held = BTreeMap::new();
    for (db, count) in known.source.nodes.iter().flat_map(|node| node.keys()) {
        let sum: &mut Option<u64> = held.entry(db).or_default();
        *sum = Some(sum.unwrap_or(0) + count);
    }
    held
}

/// `held` has the databases of the source with their numbers of keys, where these are known.
pub(super) fn check(known: &Known<'_>, held: &BTreeMap<u64, Option<u64>>) -> Finding {
    let mut judge = Judge::new(Item::Databases);
    let setting = if known.target.is_cluster { "cluster-databases" } else { "databases" };
    // Each node may be told another number; a cluster that does not know the setting has one database.
    let limits = known.target.nodes.iter().map(|node| node.limit(setting));
    let limits: Vec<Option<u64>> = match known.target.is_cluster {
        true => limits.map(|limit| limit.or(Some(1))).collect(),
        false => limits.collect(),
    };
    let Some(count) = limits.iter().flatten().min().copied() else {
        let silence = known.target.nodes.first().map(|node| node.silence()).unwrap_or_default();
        judge.warn(silence, "compare the setting `databases` of both sides");
        return judge.done();
    };
    for (&db, keys) in held {
        let held = keys.map_or_else(|| "written to by commands".to_owned(), |keys| format!("{keys} keys"));
        if known.options.active_filter().is_some_and(|filter| filter.leaves_out_all(db)) {
            judge.note(format!("database {db}: {held}, all left out by the filter"));
            continue;
        }
        let to = known.options.db_map.get(&db).copied().unwrap_or(db);
        if to >= count {
            let remedy = if known.target.is_cluster {
                "send it to database 0 (--db-map FROM=0), or to another target"
            } else {
                "raise `databases` at the target, or send it to another number (--db-map FROM=TO)"
            };
            judge.fail(format!("database {db}: {held}; the target has {count} databases"), remedy);
        } else {
            judge.note(format!("database {db}: {held}, to database {to} of {count}"));
        }
    }
    if let Some(node) = known.source.nodes.iter().find(|node| node.info_refused.is_some()) {
        judge.warn(node.silence(), "give the user +info");
    }
    judge.done()
}
