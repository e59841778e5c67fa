//! How a migration behaves, and when it is done.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use keyferry_replication::{AckPolicy, LinkOptions};

/// When a migration is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// When the target holds everything that the source holds.
    CaughtUp {
        /// The source must not have written for so long, so that both sides are equal at the end …
        quiet: Duration,
        /// … but while it goes on writing, wait for that no longer than this.
        linger: Duration,
    },
    /// When it is stopped.
    Forever,
}

impl Until {
    /// [`Until::CaughtUp`] with one second of quiet, waited for for at most ten.
    #[must_use]
    pub fn caught_up() -> Self {
        Until::CaughtUp { quiet: Duration::from_secs(1), linger: Duration::from_secs(10) }
    }
}

/// How a migration behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// When it is done. Default: [`Until::Forever`].
    pub until: Until,
    /// Directory of the journal: empty or not there yet. It then holds all that has been read and not been applied,
    /// from the whole snapshot on, and needs room for that. Default: a temporary one, used only for what the target
    /// is behind.
    pub journal: Option<PathBuf>,
    /// Size in bytes of a value's raw form above which it is built in parts. Default 1 MiB. Memory is bounded by
    /// a few times this.
    pub value_limit: usize,
    /// How long a lost link to the source is tried again. Default 60 s.
    pub reconnect_window: Duration,
    /// How long the target may owe a reply. Default 60 s.
    pub target_silence: Duration,
    /// How the source is spoken to.
    pub link: LinkOptions,
    /// Databases of the source that go to another number. Default: none; a cluster may have database 0 only.
    pub db_map: BTreeMap<u64, u64>,
    /// Read from a replica that works, where there is one, of each shard or of the primary that sentinels know. Default:
    /// no. Primaries are asked for their offsets and slots all the same.
    pub prefer_replicas: bool,
    /// What happens to commands whose keys are in several slots of a cluster. Default: they are carried out.
    pub cross_slot: CrossSlotPolicy,
}

/// What happens to commands whose keys are in several slots of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrossSlotPolicy {
    /// They are split, or computed at the target, and counted in the report.
    #[default]
    CarryOut,
    /// The first one ends the migration.
    Fail,
}

impl Default for Options {
    fn default() -> Self {
        let mut link = LinkOptions::default();
        link.acks = AckPolicy::Applied;
        Options {
            until: Until::Forever,
            journal: None,
            value_limit: 1 << 20,
            reconnect_window: Duration::from_secs(60),
            target_silence: Duration::from_secs(60),
            link,
            db_map: BTreeMap::new(),
            prefer_replicas: false,
            cross_slot: CrossSlotPolicy::CarryOut,
        }
    }
}
