//! Keys of the sample that need to be known of.

use std::cmp::Reverse;

use crate::precheck::{
    Finding, Item, Known,
    estimate::bytes,
    report::Judge,
    sample::{SampledKey, shown},
};

/// Beginnings of keys that other tools write to a source, over and over, or leave behind.
const HEARTBEATS: &[(&str, &str)] = &[
    ("DTS_REDIS_TIMESTAMP_HEARTBEAT", "Aliyun DTS"),
    ("redis-shake-checkpoint", "RedisShake"),
    ("redis_shake_heartbeat", "RedisShake"),
    ("xredis-", "x-pipe"),
    ("keyferry:", "keyferry"),
];

/// A value above this is a burden for any server.
const BURDEN: u64 = 64 << 20;

/// Keys that are named.
const NAMED: usize = 5;

pub(super) fn check(known: &Known<'_>) -> Vec<Finding> {
    vec![heartbeats(known), big(known)]
}

fn heartbeats(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::HeartbeatKeys);
    for (prefix, tool) in HEARTBEATS {
        let keys = known.sample.keys.iter().filter(|key| key.key.starts_with(prefix.as_bytes()));
        let keys: Vec<String> = keys.map(|key| shown(&key.key)).collect();
        if !keys.is_empty() {
            judge.warn(
                format!("{} keys of {tool}, as {}", keys.len(), keys[..keys.len().min(NAMED)].join(", ")),
                "end that tool, or it keeps both sides different; delete its keys, or leave them out",
            );
        }
    }
    judge.note(known.sample.extent());
    judge.done()
}

fn big(known: &Known<'_>) -> Finding {
    let mut judge = Judge::new(Item::BigKeys);
    let limit = known.options.value_limit as u64;
    let mut large: Vec<(u64, &SampledKey)> = known
        .sample
        .keys
        .iter()
        .filter_map(|key| Some((key.bytes.filter(|&bytes| bytes > limit)?, key)))
        .collect();
    large.sort_by_key(|&(bytes, _)| Reverse(bytes));
    let list = |keys: &[(u64, &SampledKey)]| {
        let named =
            keys.iter().take(NAMED).map(|(size, key)| format!("{} ({})", shown(&key.key), bytes(*size)));
        named.collect::<Vec<_>>().join(", ")
    };
    let burdens = large.partition_point(|&(bytes, _)| bytes > BURDEN);
    if burdens > 0 {
        judge.warn(
            format!("{burdens} keys above {}: {}", bytes(BURDEN), list(&large[..burdens])),
            "divide them at the source, or expect both sides to stall where such a key is read or deleted",
        );
    }
    if large.len() > burdens {
        judge.warn(
            format!("{} keys above {} are built in parts: {}", large.len() - burdens, bytes(limit), list(&large[burdens..])),
            "none is needed: they appear whole, but take their memory twice for a moment where they replace others",
        );
    }
    let measured = known.sample.keys.iter().filter(|key| key.bytes.is_some()).count();
    if measured == 0 && !known.sample.keys.is_empty() {
        judge.warn(
            "sizes are not known: MEMORY USAGE is refused",
            "give the user at the source +memory|usage",
        );
    }
    judge.note(known.sample.extent());
    judge.done()
}
