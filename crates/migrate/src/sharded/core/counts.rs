//! What happened on the way, for the report.

use std::collections::BTreeMap;

use keyferry_resp::{Command, ErrorReply};

use crate::progress::Meter;

/// What happened on the way, for the report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Commands that were sent to another node than expected first, by the error's code.
    pub(crate) retried: BTreeMap<String, u64>,
    /// Where the same is seen while it runs.
    pub(crate) live: Meter,
    /// Items sent again without knowing whether they had been executed.
    pub(crate) replayed: u64,
    /// Items found to have been executed after all.
    pub(crate) found_done: u64,
    /// Errors of blind writes that were repeated, which their repetition explains.
    pub(crate) replay_errors: u64,
    /// Connections lost.
    pub(crate) nodes_lost: u64,
    /// Items that no replica confirmed, as there was none.
    pub(crate) without_replica: u64,
    /// Commands with keys in several slots, by name and how they were carried out.
    pub(crate) cross_slot: BTreeMap<(String, &'static str), u64>,
    /// Deletions of a shard of the source behind slots that it had given up.
    pub(crate) tidied: u64,
    /// Commands of slots that a shard of the source was given in part and did not take over.
    pub(crate) not_taken_over: u64,
    /// Keys and commands of slots that the shard which spoke of them did not own: keys that no client can reach.
    pub(crate) strays: u64,
    /// Commands of slots that other workers carry over.
    pub(crate) of_other_workers: u64,
    /// Slots that changed hands at the source.
    pub(crate) slots_moved: u64,
    /// Full syncs that were not the first, after which the target was compared with the source's keys.
    pub(crate) mirrored: u64,
    /// Keys that were removed then.
    pub(crate) mirror_removed: u64,
    pub(crate) mirror_samples: Vec<String>,
    /// Keys that were kept since they had been there before.
    pub(crate) mirror_kept: u64,
    /// How often nothing was removed, since nobody knew what had been there before.
    pub(crate) mirror_unknown: u64,
    /// Transactions of the source that could not be one at the target.
    pub(crate) transactions_divided: u64,
    /// Commands of the stream that were said otherwise, by name.
    pub(crate) translated: BTreeMap<String, u64>,
    /// What of the stream the target has no place for.
    pub(crate) lost: BTreeMap<String, u64>,
    /// Commands that were refused for good and are kept in a file, by the error's code.
    pub(crate) dead_letters: BTreeMap<String, u64>,
}

impl Counts {
    pub(crate) fn note_retry(&mut self, error: &ErrorReply) {
        *self.retried.entry(error.code().to_owned()).or_default() += 1;
        self.live.count_error(error.code());
    }

    /// A command with keys in several slots has been carried out in this way.
    pub(crate) fn note_cross_slot(&mut self, command: &Command, how: &'static str) {
        let name = String::from_utf8_lossy(command.name()).to_ascii_lowercase();
        *self.cross_slot.entry((name, how)).or_default() += 1;
    }
}
