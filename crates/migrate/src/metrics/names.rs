//! The metrics there are. Names, labels and meanings stay as they are; new ones may be added.

/// What may be done with a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows, until the program starts again.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// The word of the text format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// One metric: what it is called, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Its label, if it has one: `link` is the shard of the source (`source` where there is but one; with both ways at once `target` is
    /// the link back), `node` the address of a primary of the target.
    pub label: Option<&'static str>,
    /// What it says, and in which unit.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal $([$label:literal])?, $help:literal;)*) => {
        $(
            pub(super) const $id: Metric =
                Metric { name: $name, kind: Kind::$kind, label: metrics!(@label $($label)?), help: $help };
        )*

        /// All of them, in the order in which they are on the page.
        pub const ALL: &[Metric] = &[$($id,)*];
    };
    (@label) => { None };
    (@label $label:literal) => { Some($label) };
}

metrics! {
    INFO = Gauge "keyferry_info" ["version"], "1; the version of the program is a label.";
    PHASE = Gauge "keyferry_phase" ["phase"], "1 for the present phase, 0 for the others.";
    ELAPSED = Gauge "keyferry_elapsed_seconds", "Seconds since the migration was made.";
    SNAPSHOT_BYTES = Gauge "keyferry_snapshot_bytes" ["link"], "Size of the snapshot in bytes, where the source told it.";
    SNAPSHOT_RECEIVED = Counter "keyferry_snapshot_received_bytes_total" ["link"], "Bytes of the snapshot that came from the source.";
    SNAPSHOT_APPLIED = Counter "keyferry_snapshot_applied_bytes_total" ["link"], "Bytes of the snapshot whose keys the target has confirmed.";
    KEYS_APPLIED = Counter "keyferry_keys_applied_total" ["link"], "Keys of the snapshot that the target has confirmed.";
    LARGE_KEYS = Counter "keyferry_large_keys_total" ["link"], "Keys of the snapshot that were built in parts.";
    COMMANDS_APPLIED = Counter "keyferry_commands_applied_total" ["link"], "Commands of the stream that the target has confirmed.";
    RECEIVED_OFFSET = Gauge "keyferry_received_offset" ["link"], "Replication offset of the last byte that came from the source.";
    APPLIED_OFFSET = Gauge "keyferry_applied_offset" ["link"], "Replication offset up to which the target has confirmed everything.";
    SOURCE_OFFSET = Gauge "keyferry_source_offset" ["link"], "Replication offset of the source itself when it was last asked.";
    LAG_BYTES = Gauge "keyferry_lag_bytes" ["link"], "Bytes of the source's writes that the target does not have, from the end of the snapshot on.";
    LAG_SECONDS = Gauge "keyferry_lag_seconds" ["link"], "For how long the source has had something that the target does not have, in seconds, from the end of the snapshot on; nothing is written to the source for it.";
    JOURNAL_BACKLOG = Gauge "keyferry_journal_backlog_bytes" ["link"], "Bytes in the journal on disk that wait to be applied.";
    RECONNECTS = Counter "keyferry_reconnects_total" ["link"], "How often the replication link was made anew.";
    TROUBLE = Gauge "keyferry_trouble" ["link"], "1 while something is tried again: a lost link, a target that does not answer.";
    SENT_BYTES = Counter "keyferry_sent_bytes_total", "Bytes sent to the target.";
    PAUSED = Gauge "keyferry_paused", "1 while nothing is handed to the target, as somebody has paused it.";
    THROTTLE_WAIT = Counter "keyferry_throttle_wait_seconds_total" ["limit"], "Seconds that links have waited for a limit: full, incremental, full-node, incremental-node, source, adaptive, or paused.";
    ADAPTIVE_RATE = Gauge "keyferry_adaptive_bytes_per_second", "Bytes a second that adapting allows at the moment; not there while it does not slow down.";
    ADAPTIVE_FLOOR = Gauge "keyferry_adaptive_floor_bytes_per_second", "Bytes a second below which adapting does not go, so that the journal and the source can bear it; 0 while it is off.";
    LATENCY = Gauge "keyferry_latency_seconds" ["server"], "How long a server took to answer when it was asked last, while adapting is on.";
    ERRORS = Counter "keyferry_errors_total" ["class"], "Errors by class: the code of an error reply of the target that was sent again (MOVED, TRYAGAIN, OOM), source_link, target_connection, and the class of the error that ended the run.";
    PRECHECK = Gauge "keyferry_precheck_items" ["verdict"], "Items of the look at both sides before the run, by verdict (pass, warn, fail, ignored).";
    TARGET_UP = Gauge "keyferry_target_up" ["node"], "1 when the primary of the target answered when it was last asked.";
    TARGET_EVICTED = Counter "keyferry_target_evicted_keys_total" ["node"], "Keys that the primary of the target has evicted since it started.";
    TARGET_MEMORY = Gauge "keyferry_target_used_memory_bytes" ["node"], "Memory that the primary of the target uses.";
    TARGET_LIMIT = Gauge "keyferry_target_max_memory_bytes" ["node"], "Limit of that memory; 0 for none.";
    TWO_WAY_READY = Gauge "keyferry_two_way_ready", "With both ways at once, as all that follow: 1 from when both sides may be written to.";
    TWO_WAY_CONFLICTS = Counter "keyferry_two_way_conflicts_total", "Conflicts: keys that both sides wrote before either knew of the other's write.";
    TWO_WAY_SETTLED = Counter "keyferry_two_way_settled_keys_total", "Keys that got one side's value on both.";
    TWO_WAY_UNSETTLED = Gauge "keyferry_two_way_unsettled_keys", "Keys that are yet to get it.";
    TWO_WAY_REFUSED = Counter "keyferry_two_way_refused_commands_total", "Commands that one side refused.";
    TWO_WAY_COMMANDS = Counter "keyferry_two_way_commands_total" ["link"], "Commands of the applications of one side (source or target) that its link has carried over to the other.";
    TWO_WAY_RETURNED = Counter "keyferry_two_way_returned_commands_total" ["link"], "Commands in the stream of one side that the other link had written there, and that were left out.";
    TWO_WAY_UNKNOWN = Counter "keyferry_two_way_unknown_commands_total" ["link"], "Commands of which nobody can tell whether they met a write of the other side, as too many were remembered.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of `promtool check metrics` that can be told from a list.
    #[test]
    fn names_follow_the_rules() {
        let mut names = std::collections::BTreeSet::new();
        for metric in ALL {
            let Metric { name, kind, label, help } = *metric;
            assert!(names.insert(name), "{name} is there twice");
            assert!(
                name.starts_with("keyferry_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert_eq!(
                kind == Kind::Counter,
                name.ends_with("_total"),
                "{name}: counters, and only they, end in _total"
            );
            for unit in
                ["milliseconds", "_ms", "kilobytes", "megabytes", "percent", "_count", "_sum", "_bucket"]
            {
                assert!(!name.contains(unit), "{name}: {unit} is no base unit or a reserved ending");
            }
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
            assert!(
                label.is_none_or(|label| !matches!(label, "le" | "quantile" | "job" | "instance")),
                "{name}"
            );
        }
    }
}
