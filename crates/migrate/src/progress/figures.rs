//! What is told of a migration at one moment.

use serde::Serialize;

/// Which part of its work a migration is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
#[non_exhaustive]
pub enum Phase {
    /// Connecting and checking both sides.
    #[default]
    Connecting,
    /// The source prepares its snapshot.
    Preparing,
    /// The snapshot is received and applied.
    Snapshot,
    /// The commands that came during the snapshot are applied from the journal.
    CatchingUp,
    /// Commands are applied as they come.
    Following,
    /// Over.
    Ended,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Phase; 6] = [
        Phase::Connecting,
        Phase::Preparing,
        Phase::Snapshot,
        Phase::CatchingUp,
        Phase::Following,
        Phase::Ended,
    ];

    /// A word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Preparing => "preparing",
            Phase::Snapshot => "snapshot",
            Phase::CatchingUp => "catching up",
            Phase::Following => "following",
            Phase::Ended => "ended",
        }
    }
}

/// The figures of a migration at one moment.
///
/// With several links to the source they are sums, but for the offsets: those of different links have nothing to do with
/// one another, so they are with each link in [`Figures::links`].
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// The present phase; with several links that of the link which is least advanced.
    pub phase: Phase,
    /// Time since the start, in seconds.
    pub elapsed_seconds: f64,
    /// Snapshot bytes received from the source.
    pub snapshot_received: u64,
    /// Size of the snapshot, where the source said it beforehand.
    pub snapshot_total: Option<u64>,
    /// Snapshot bytes whose keys the target has confirmed.
    pub snapshot_applied: u64,
    /// Keys that the snapshot's own hints announce so far; a hint may be wrong.
    pub keys_announced: u64,
    /// Keys of the snapshot that the target has confirmed.
    pub keys_applied: u64,
    /// Keys built in parts.
    pub large_keys: u64,
    /// Replication offset of the last byte received; 0 with several links.
    pub received_offset: u64,
    /// Replication offset of the last byte whose command the target has confirmed; 0 with several links.
    pub applied_offset: u64,
    /// The source's own offset when it was last asked; none with several links.
    pub source_offset: Option<u64>,
    /// How many bytes of the source's writes the target does not have yet, where both sides are known.
    pub lag_bytes: Option<u64>,
    /// Commands of the stream that the target has confirmed.
    pub commands_applied: u64,
    /// Journalled bytes of the stream that wait to be applied.
    pub journal_backlog: u64,
    /// Bytes that the journal has on disk, the snapshot included where it is kept as a whole.
    pub journal_bytes: u64,
    /// True while the source is not read: the journal is as large as it may be, or its disk is full.
    pub held_up: bool,
    /// How long the source would remember what has not been read, at the rate at which it writes now, in seconds; a longer
    /// interruption costs a full sync. None while it does not write, or does not say. With several links the shortest.
    pub source_patience_seconds: Option<f64>,
    /// How often the replication link was made anew.
    pub reconnects: u64,
    /// Bytes sent to the target.
    pub bytes_sent: u64,
    /// Why the source is not being followed at this moment: its link was lost and is being made anew.
    pub trouble: Option<String>,
    /// How far files are applied, where they are the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<InputFigures>,
    /// Each link to the source, or each file, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkFigures>,
}

/// How far files are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InputFigures {
    /// Bytes of the files whose keys and commands the target has confirmed.
    pub applied: u64,
    /// Bytes of all files, where that is known: not of pipes.
    pub total: Option<u64>,
}

/// The figures of one of several links to the source.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct LinkFigures {
    /// What it leads to, for people: the shard.
    pub name: String,
    /// The replication id that its offsets belong to, once known.
    pub replication_id: Option<String>,
    /// Its own figures.
    #[serde(flatten)]
    pub figures: Figures,
}
