//! What a migration did, for people and machines.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use crate::{
    existing::ExistingCounts,
    filter::FilterLine,
    hold::Hold,
    import::FileReport,
    options::OnExists,
    precheck,
    progress::Figures,
    scan::{Reading, ScanCounts},
    sharded::Counts,
    snapshot_counts::SnapshotCounts,
    throttle::ThrottleFigures,
};

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
#[non_exhaustive]
pub enum Outcome {
    /// The target held everything that the source held.
    CaughtUp {
        /// True when writes still came in at that moment: the target is behind again by now.
        source_was_writing: bool,
    },
    /// Stopped on request.
    Stopped {
        /// True when everything read from the source had been applied; else the rest is in the journal.
        everything_applied: bool,
    },
    /// Ended by an error.
    Failed {
        /// The error, in one line.
        error: String,
    },
}

/// What a migration did. Serializes to JSON. It holds no secrets; of values it holds only what a refused command has in its
/// first arguments, shortened.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The source: its URL without the password, and what it said it is.
    pub source: Endpoint,
    /// The target.
    pub target: Endpoint,
    /// Seconds that each phase lasted.
    pub phases: BTreeMap<&'static str, f64>,
    /// What was not as simple as it looks, on a target of several nodes.
    pub routing: RoutingCounts,
    /// What became of deadlines that were held until the target had caught up.
    pub expiry: ExpiryCounts,
    /// What was removed from the target after full syncs that were not the first.
    pub mirror: MirrorCounts,
    /// What the snapshot held, and what of it could not be carried.
    pub snapshot: SnapshotCounts,
    /// What became of keys that the target has had before.
    pub existing: ExistingCounts,
    /// What the filter left out and changed, by rule, and what a script did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<FilterLine>,
    /// What was set last for how fast it may be, and what was waited for.
    pub throttle: ThrottleFigures,
    /// The figures at the end.
    pub figures: Figures,
    /// Replication id and offset up to which everything is on the target, once the snapshot was applied. None with
    /// several links.
    pub position: Option<String>,
    /// The same of each link to the source, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<LinkPosition>,
    /// The journal's directory, where it still holds something.
    pub journal: Option<String>,
    /// How often everything was begun anew, as the source could not go on with what had been begun.
    pub restarts: u64,
    /// Things that a person should know.
    pub notes: Vec<String>,
    /// The name under which the target keeps how far it is.
    pub id: String,
    /// True when it went on where a run before had come to.
    pub resumed: bool,
    /// How the source was read: `psync`, `sync` or `scan`; none where it did not come to that.
    pub source_mode: Option<&'static str>,
    /// What reading it by `SCAN` came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanCounts>,
    /// What files held, where they were the source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileReport>,
    /// What was found before it began, and what of it was ignored; none where nobody looked.
    pub precheck: Option<precheck::Report>,
}

/// What happened on the way to a target of several nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RoutingCounts {
    /// Commands whose keys were in several slots: how many of each, and how they were carried out.
    pub cross_slot: Vec<CrossSlot>,
    /// Transactions of the source that could not be one at the target, as they concern several slots: they were carried
    /// out whole, but slot by slot.
    pub transactions_divided: u64,
    /// Replies that sent something elsewhere or made it wait (MOVED, ASK, TRYAGAIN, …), by their code.
    pub retried: BTreeMap<String, u64>,
    /// Connections to nodes of the target that were lost.
    pub connections_lost: u64,
    /// Writes sent again since nobody knew whether they had survived; those that must not be repeated only after a look
    /// at the slot's checkpoint.
    pub sent_again: u64,
    /// Of these, how many turned out to have been done.
    pub found_done: u64,
    /// Errors of such repetitions which the repetition itself explains.
    pub replay_errors: u64,
    /// Writes that no replica of the target confirmed, as the last one was gone.
    pub without_replica: u64,
    /// Slots that went from one shard of the source to another meanwhile.
    pub slots_moved: u64,
    /// Deletions by which shards of the source tidied up behind slots that they had given up: not carried out.
    pub tidied: u64,
    /// Commands of slots that a shard of the source was given in part and did not take over after all: not carried out.
    pub not_taken_over: u64,
    /// Commands that the target refused for good and that are in the file of dead letters, by the error's code.
    pub dead_letters: BTreeMap<String, u64>,
    /// Commands of the stream that were said otherwise, as the target is older or of another vendor, by name.
    pub translated: BTreeMap<String, u64>,
    /// What of the stream the target has no place for, and how many commands said it.
    pub lost: BTreeMap<String, u64>,
    /// Keys and commands of slots that the shard which holds them does not own, as some servers leave them behind: no client
    /// of the source can reach them, and they were not carried over.
    pub strays: u64,
    /// Commands about slots that other workers carry over, as those have moved to a primary that this one reads, or the other way round:
    /// left to them.
    pub of_other_workers: u64,
}

/// What became of keys that a new snapshot of the source no longer had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MirrorCounts {
    /// How often a full sync that was not the first had been applied.
    pub resyncs: u64,
    /// Keys that were removed.
    pub removed: u64,
    /// Names of a few of them.
    pub samples: Vec<String>,
    /// Keys that stayed, since they were there before the migration first began.
    pub kept: u64,
}

/// Deadlines that were put later at first, and then as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExpiryCounts {
    /// Deadlines of the snapshot that were held; hashes with fields that expire count once.
    pub held_in_snapshot: u64,
    /// Commands of the stream whose deadlines were held.
    pub held_in_stream: u64,
    /// Keys that got their exact deadline. Those that the source deleted or wrote anew before are not among them.
    pub released: u64,
    /// Fields of hashes that got their exact deadline.
    pub released_fields: u64,
    /// Keys whose time was over when their deadline was put: they were gone at once.
    pub over: u64,
    /// Fields of hashes whose time was over.
    pub over_fields: u64,
    /// How often the whole target was searched for held deadlines.
    pub searches: u64,
    /// Names of a few keys that got their exact deadline.
    pub samples: Vec<String>,
    /// True when some may still be held: the run ended before.
    pub still_held: bool,
}

/// Commands of one name with keys in several slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CrossSlot {
    /// The command, in lower case.
    pub command: String,
    /// How they were carried out: split, or computed at the target.
    pub how: &'static str,
    /// How many.
    pub count: u64,
}

/// Up to where everything that came over one link is on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LinkPosition {
    /// What the link leads to, for people: the shard.
    pub name: String,
    /// The history.
    pub replication_id: String,
    /// The offset in it.
    pub offset: u64,
}

/// One side of a migration.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Endpoint {
    /// The URL, password shown as `***`.
    pub url: String,
    /// Vendor, version, mode and role, once connected.
    pub server: Option<String>,
}

/// What the report needs and only the run learns.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) counts: SnapshotCounts,
    pub(crate) journal: Option<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) restarts: u64,
    pub(crate) on_exists: OnExists,
    /// How many keys the target had before.
    pub(crate) before: Option<u64>,
    /// Something has been asked for, or written, in this attempt.
    pub(crate) begun: bool,
    pub(crate) routing: RoutingCounts,
    pub(crate) expiry: ExpiryCounts,
    pub(crate) resumed: bool,
    pub(crate) mirror: MirrorCounts,
    pub(crate) reading: Option<Reading>,
    pub(crate) files: Vec<FileReport>,
    pub(crate) precheck: Option<precheck::Report>,
}

impl Ends {
    /// Adds a note, once.
    pub(crate) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|before| before == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Takes over what became of held deadlines.
    pub(crate) fn note_expiry(&mut self, hold: &Hold) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &hold.counts;
        let held = of(&counts.held_in_snapshot) + of(&counts.held_in_stream);
        self.expiry = ExpiryCounts {
            held_in_snapshot: of(&counts.held_in_snapshot),
            held_in_stream: of(&counts.held_in_stream),
            released: of(&counts.released),
            released_fields: of(&counts.released_fields),
            over: of(&counts.over),
            over_fields: of(&counts.over_fields),
            searches: of(&counts.searches),
            samples: hold.samples(),
            still_held: held > 0 && !hold.is_empty(),
        };
        if self.expiry.still_held {
            self.notes.push(
                "deadlines at the target are held back (some 1115 years too late): they are put right when this migration \
                 is run again and catches up"
                    .to_owned(),
            );
        }
    }

    /// Takes over what a target of several nodes counted.
    pub(crate) fn note_target(&mut self, counts: &Counts) {
        self.mirror = MirrorCounts {
            resyncs: counts.mirrored,
            removed: counts.mirror_removed,
            samples: counts.mirror_samples.clone(),
            kept: counts.mirror_kept,
        };
        if counts.mirror_unknown > 0 {
            self.notes.push(
                "the source was read from its beginning again, and nobody knows any more which keys were at the target \
                 before: keys that the source deleted meanwhile are still there (a named journal, or --mirror all, avoids \
                 that)"
                    .to_owned(),
            );
        }
        self.routing = RoutingCounts {
            cross_slot: counts
                .cross_slot
                .iter()
                .map(|((command, how), &count)| CrossSlot { command: command.clone(), how, count })
                .collect(),
            transactions_divided: counts.transactions_divided,
            retried: counts.retried.clone(),
            connections_lost: counts.nodes_lost,
            sent_again: counts.replayed,
            found_done: counts.found_done,
            replay_errors: counts.replay_errors,
            without_replica: counts.without_replica,
            slots_moved: counts.slots_moved,
            tidied: counts.tidied,
            not_taken_over: counts.not_taken_over,
            strays: counts.strays,
            of_other_workers: counts.of_other_workers,
            dead_letters: counts.dead_letters.clone(),
            translated: counts.translated.clone(),
            lost: counts.lost.clone(),
        };
    }
}
