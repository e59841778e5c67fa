//! Numbers of databases.

use crate::precheck::{Finding, Item, Known, report::Judge};

pub(super) fn check(known: &Known<'_>) -> Finding {
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
    let mut keys = std::collections::BTreeMap::new();
    for (db, count) in known.source.nodes.iter().flat_map(|node| node.keys()) {
        *keys.entry(db).or_insert(0_u64) += count;
    }
    for (db, held) in keys {
        if known.options.active_filter().is_some_and(|filter| filter.leaves_out_all(db)) {
            judge.note(format!("database {db}: {held} keys, all left out by the filter"));
            continue;
        }
        let to = known.options.db_map.get(&db).copied().unwrap_or(db);
        if to >= count {
            let remedy = if known.target.is_cluster {
                "send it to database 0 (--db-map FROM=0), or to another target"
            } else {
                "raise `databases` at the target, or send it to another number (--db-map FROM=TO)"
            };
            judge.fail(format!("database {db} holds {held} keys; the target has {count} databases"), remedy);
        } else {
            judge.note(format!("database {db}: {held} keys, to database {to} of {count}"));
        }
    }
    if let Some(node) = known.source.nodes.iter().find(|node| node.info_refused.is_some()) {
        judge.warn(node.silence(), "give the user +info");
    }
    judge.done()
}
