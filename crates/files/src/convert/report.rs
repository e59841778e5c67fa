//! What a conversion did.

use std::collections::BTreeMap;

use serde::Serialize;

use super::loss::Lost;

/// What a conversion did, for people and, as JSON, for machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConvertReport {
    /// Whether the outputs are there. When not, [`error`](Self::error) says why.
    pub complete: bool,
    /// Why it ended early, or why outputs were thrown away.
    pub error: Option<String>,
    /// What was read, in order.
    pub inputs: Vec<InputReport>,
    /// What was written, in the order in which outputs were given.
    pub outputs: Vec<OutputReport>,
    /// Keys found.
    pub keys_read: u64,
    /// Keys written, some of them perhaps with a loss.
    pub keys_written: u64,
    /// Of these, how many went as they were.
    pub raw: u64,
    /// Of these, how many went in another encoding.
    pub reencoded: u64,
    /// Of these, how many went as commands.
    pub as_commands: u64,
    /// Keys that were not chosen.
    pub left_out: u64,
    /// Keys of no elements, from a defect of old servers, and hashes whose fields have all expired: no server keeps them.
    pub empty_dropped: u64,
    /// Keys that could not be written at all.
    pub keys_lost: u64,
    /// Libraries of functions written.
    pub functions: u64,
    /// Commands of logs passed on.
    pub commands: u64,
    /// Commands of logs that concern no key that was chosen.
    pub commands_left_out: u64,
    /// Annotations of logs that outputs have no place for; servers pass over them.
    pub annotations_dropped: u64,
    /// How often each kind of loss occurred.
    pub loss_counts: BTreeMap<&'static str, u64>,
    /// The losses by name, up to [`ConvertOptions::listed`](super::ConvertOptions::listed).
    pub losses: Vec<LossReport>,
    /// Keys and libraries that were written already, from another database or input.
    pub collision_count: u64,
    /// Those by name, up to the same number.
    pub collisions: Vec<CollisionReport>,
}

/// An input as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InputReport {
    /// Its name.
    pub name: String,
    /// Keys of its snapshot.
    pub keys: u64,
    /// Commands of its log.
    pub commands: u64,
    /// Up to where its last log is whole, when it was cut.
    pub cut_at: Option<u64>,
}

/// An output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutputReport {
    /// Its name.
    pub name: String,
    /// What it is: `rdb`, `resp`, `aof`, `aof-dir`, `jsonl`.
    pub kind: &'static str,
    /// The slots that go there, when not all do.
    pub slots: Option<String>,
    /// Keys written.
    pub keys: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// A loss, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LossReport {
    /// The input.
    pub input: String,
    /// The database in that input; none for what belongs to none.
    pub db: Option<u64>,
    /// The key, or the name of a library, with bytes that are no printable text as `\xNN`, see [`text::line`](crate::text::line).
    pub key: Option<String>,
    /// The kind of loss, as in [`ConvertReport::loss_counts`].
    pub kind: &'static str,
    /// In words.
    pub what: String,
    /// Whether the key is missing altogether.
    pub whole_key: bool,
    /// The loss itself, and the key as it is.
    #[serde(skip)]
    pub lost: (Lost, Vec<u8>),
}

/// A key or library that was there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CollisionReport {
    /// The input with the second of them.
    pub input: String,
    /// The database in that input; none for a library.
    pub db: Option<u64>,
    /// The key, or the name of the library, escaped as in [`LossReport::key`].
    pub key: String,
}

impl ConvertReport {
    /// All losses together.
    pub fn total_losses(&self) -> u64 {
        self.loss_counts.values().sum()
    }
}
