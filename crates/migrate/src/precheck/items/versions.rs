//! Vendors and versions, and what a sample of the data would lose.

use keyferry_client::{Error, ServerInfo};
use keyferry_rdb::dump::Payload;

use crate::{
    precheck::{Finding, Item, Known, losses::Losses, report::Judge},
    target::{known_format_of, knows_all_of},
};

pub(super) fn versions(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::Versions);
    let shown = |server: &ServerInfo| format!("{} {}", server.vendor, server.version);
    for to in &known.target.nodes {
        for from in &known.source.nodes {
            let line =
                format!("{} ({}) to {} ({})", from.name(), shown(&from.server), to.name(), shown(&to.server));
            let Some(target) = known_format_of(&to.server) else {
                judge.warn(
                    format!("{line}: this target is not known here, and taken for a Redis of its version"),
                    "migrate a copy first, and compare both sides",
                );
                continue;
            };
            let Some(source) = known_format_of(&from.server) else {
                judge.warn(
                    format!("{line}: this source is not known here"),
                    "migrate a copy first, and compare both sides",
                );
                continue;
            };
            if knows_all_of(&target, &source) {
                judge.note(format!("{line}: the target reads what the source writes"));
            } else {
                judge.warn(
                    format!("{line}: the target does not know all encodings and commands of the source: they are translated"),
                    "see what a sample would lose (--precheck, item losses)",
                );
            }
        }
    }
    judge.done()
}

pub(super) async fn losses(known: &mut Known<'_>) -> Result<Finding, Error> {
    let mut judge = Judge::new(Item::Losses);
    let servers = known.target.nodes.iter().map(|node| &node.server);
    let Some(mut losses) = Losses::for_servers(servers) else { return Ok(judge.done()) };
    let refused = known
        .sample
        .read(&mut known.source, |key, value| match Payload::parse(value) {
            Ok(payload) => losses.value(key.db, &key.key, payload.value),
            Err(_) => losses.damaged(),
        })
        .await?;
    let remedy = "have the source checked: redis-check-rdb on a snapshot of it";
    losses.judge(&mut judge, &known.sample.extent(), known.options.on_loss, remedy);
    if let Some(why) = refused.or_else(|| known.sample.refused.clone()) {
        judge.warn(
            format!("not all could be read: {why}"),
            "give the user at the source +scan +memory|usage +dump",
        );
    }
    Ok(judge.done())
}

#[cfg(test)]
mod tests {
    use keyferry_rdb::TargetFormat;

    use super::*;

    #[test]
    fn histories_part_after_7_2() {
        let format = |name: &str| name.parse::<TargetFormat>().unwrap();
        let knows = |target, source| knows_all_of(&format(target), &format(source));
        assert!(knows("redis-7.0", "redis-6.0") && !knows("redis-6.0", "redis-7.0"));
        assert!(knows("valkey-9.0", "redis-7.2") && knows("valkey-8.1", "redis-7.2"));
        assert!(!knows("valkey-9.0", "redis-8.0") && !knows("redis-8.0", "valkey-9.0"));
        assert!(knows("redis-8.0", "valkey-8.1") && knows("redis-8.0", "redict-7.3"));
    }
}
