//! What the facts of a command do not tell: how its keys are found where specifications fail, whether it can be repeated,
//! and how it is carried out in a cluster.

/// Rules of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) keys: KeyRule,
    pub(crate) replay: ReplayRule,
    pub(crate) route: RouteRule,
}

/// How its keys are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRule {
    /// By its key specifications.
    Specs,
    Set,
    Bitfield,
    Delex,
    Sort,
    SortRo,
    /// STORE and STOREDIST may stand from this argument on.
    GeoRadius {
        options: usize,
    },
    Migrate,
}

/// What it takes to repeat it. The reasons are with [`Replay`](crate::Replay).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayRule {
    Once,
    Blind,
    Adds,
    Removes,
    Set,
    Msetex,
    /// ZADD and GEOADD: the options stand between key and values.
    Zadd,
    Restore,
}

/// How it is carried out in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteRule {
    /// By its keys; at one node if it has none.
    Keys,
    /// A sum of parts: the keys are the arguments from 1 on, every `step`th.
    Split {
        step: usize,
        merge: crate::Merge,
    },
    EveryPrimary,
    Anywhere,
    Transaction,
    AllKeys,
    Script {
        writes: bool,
    },
    Sort,
    /// COPY: DB may stand from argument 3 on.
    Copy,
    /// Says that its keys are read only, but changes them.
    WritesAll,
    /// Cannot be done for keys of several slots.
    OneSlot,
}

impl Meaning {
    pub(crate) const NONE: Self =
        Self { keys: KeyRule::Specs, replay: ReplayRule::Once, route: RouteRule::Keys };

    /// The rules of the command with this lower-case name.
    pub(crate) fn of(name: &str) -> Self {
        Self { keys: key_rule(name), replay: replay_rule(name), route: route_rule(name) }
    }
}

fn key_rule(name: &str) -> KeyRule {
    match name {
        "set" => KeyRule::Set,
        "bitfield" => KeyRule::Bitfield,
        "delex" => KeyRule::Delex,
        "sort" => KeyRule::Sort,
        "sort_ro" => KeyRule::SortRo,
        "georadius" => KeyRule::GeoRadius { options: 6 },
        "georadiusbymember" => KeyRule::GeoRadius { options: 5 },
        "migrate" => KeyRule::Migrate,
        _ => KeyRule::Specs,
    }
}

fn replay_rule(name: &str) -> ReplayRule {
    match name {
        "del" | "unlink" | "mset" | "xdel" | "xack" => ReplayRule::Blind,
        "hset" | "hmset" | "sadd" | "setbit" | "setrange" | "pfadd" => ReplayRule::Adds,
        "hdel" | "srem" | "zrem" => ReplayRule::Removes,
        "set" => ReplayRule::Set,
        "msetex" => ReplayRule::Msetex,
        "zadd" | "geoadd" => ReplayRule::Zadd,
        "restore" | "restore-asking" => ReplayRule::Restore,
        _ => ReplayRule::Once,
    }
}

fn route_rule(name: &str) -> RouteRule {
    use crate::Merge::{AllOk, Order, Sum};
    match name {
        "del" | "unlink" | "exists" | "touch" => RouteRule::Split { step: 1, merge: Sum },
        "mget" => RouteRule::Split { step: 1, merge: Order },
        "mset" => RouteRule::Split { step: 2, merge: AllOk },
        "flushall" | "flushdb" | "script|load" | "script|flush" | "function|load" | "function|delete"
        | "function|flush" | "function|restore" => RouteRule::EveryPrimary,
        "publish" => RouteRule::Anywhere,
        "multi" | "exec" | "discard" | "unwatch" => RouteRule::Transaction,
        "swapdb" => RouteRule::AllKeys,
        "eval" | "evalsha" | "fcall" => RouteRule::Script { writes: true },
        "eval_ro" | "evalsha_ro" | "fcall_ro" => RouteRule::Script { writes: false },
        "sort" | "sort_ro" => RouteRule::Sort,
        "copy" => RouteRule::Copy,
        "xreadgroup" => RouteRule::WritesAll,
        "migrate" | "watch" | "ssubscribe" | "sunsubscribe" | "spublish" => RouteRule::OneSlot,
        _ => RouteRule::Keys,
    }
}
