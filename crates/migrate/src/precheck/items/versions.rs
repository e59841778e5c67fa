//! Vendors and versions, and what a sample of the data would lose.

use std::collections::BTreeMap;

use keyferry_client::{Error, ServerInfo};
use keyferry_rdb::{
    TargetFormat,
    convert::{Converted, Converter},
    dump::Payload,
};

use crate::{
    options::OnLoss,
    precheck::{Finding, Item, Known, report::Judge, sample::shown},
    target::{format_of, is_grave, known_format_of, knows_all_of},
};

/// Keys that are named for each loss.
const NAMED: usize = 3;

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
    // With whether somebody would miss it.
    let mut lost: BTreeMap<(String, bool), (u64, Vec<String>)> = BTreeMap::new();
    let (mut reencoded, mut damaged, mut conversions) = (0_u64, 0_u64, 0_usize);
    let formats: Vec<TargetFormat> = known.target.nodes.iter().map(|node| format_of(&node.server)).collect();
    // Of a cluster with several versions the least able one.
    let Some(format) = formats.into_iter().min_by_key(TargetFormat::version) else { return Ok(judge.done()) };
    let mut converter = Converter::new(format);
    let (read, refused) = known
        .sample
        .read(&mut known.source, |key, value| {
            let Ok(payload) = Payload::parse(value) else {
                damaged += 1;
                return;
            };
            let Ok(conversion) = converter.convert(payload.value) else {
                damaged += 1;
                return;
            };
            conversions += 1;
            reencoded += u64::from(matches!(conversion.converted, Converted::Reencoded(_)));
            for loss in &conversion.losses {
                let (count, named) = lost.entry((loss.name().to_owned(), is_grave(loss))).or_default();
                *count += 1;
                if named.len() < NAMED {
                    named.push(format!("{} (database {}): {loss}", shown(&key.key), key.db));
                }
            }
        })
        .await?;
    judge.note(format!(
        "{read} values read, {}; {reencoded} have to be encoded anew",
        known.sample.extent(&known.source)
    ));
    if damaged > 0 {
        judge.fail(
            format!("{damaged} of {conversions} values could not be taken apart"),
            "have the source checked: redis-check-rdb on a snapshot of it",
        );
    }
    for ((name, grave), (count, named)) in &lost {
        let line = format!("{name}: {count} of {read} values, as {}", named.join(", "));
        if *grave && known.options.on_loss == OnLoss::Fail {
            let remedy = "take a target that knows this, rewrite these keys at the source, or go on without it (--on-loss drop)";
            judge.fail(line, remedy);
        } else {
            judge.warn(line, "it will not be at the target; the report counts it");
        }
    }
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
