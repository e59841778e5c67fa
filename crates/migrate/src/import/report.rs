//! What a file held.

use std::collections::BTreeMap;

use serde::Serialize;

/// Kinds of annotations that are told apart, and how long their names may be: a file may hold anything.
const MOST: usize = 32;
const LONGEST: usize = 32;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileKind {
    /// A snapshot (RDB), behind which commands may follow.
    Snapshot,
    /// Commands from the first byte on: an append-only file, or the form that `redis-cli --pipe` takes.
    Log,
    /// An append-only file in several parts (Redis 7.0, Valkey).
    MultiPart,
    /// The journal of a migration, or of one link of it.
    Journal,
    /// An archive up to a moment.
    Archive,
    /// Commands that the target of a migration refused.
    DeadLetters,
}

impl FileKind {
    /// A word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Snapshot => "snapshot",
            FileKind::Log => "commands",
            FileKind::MultiPart => "append-only file in parts",
            FileKind::Journal => "journal",
            FileKind::Archive => "archive",
            FileKind::DeadLetters => "dead letters",
        }
    }
}

/// What a file held, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FileReport {
    /// The path, or `standard input`.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// An earlier run has applied it: it was not read again.
    pub skipped: bool,
    /// Bytes that were read.
    pub bytes: u64,
    /// Commands found behind the snapshot, those of an earlier run among them.
    pub commands: u64,
    /// Of these, how many were on the target already, as an earlier run had come so far.
    pub already_applied: u64,
    /// Commands of a link (`PING`, `REPLCONF`), which are not for a target: left out.
    pub link_commands: u64,
    /// Commands that the target of a migration had refused, where the file holds such.
    pub letters: u64,
    /// Of these, how many stood there twice, since that migration was killed between writing and moving on: left out.
    pub letters_repeated: u64,
    /// Annotations (lines that begin with `#`) that this program does not know, by name: passed over.
    pub unknown_annotations: BTreeMap<String, u64>,
    /// Where the last whole command ends, when the file is cut inside of one behind it, or inside of a transaction.
    pub cut_at: Option<u64>,
}

impl FileReport {
    pub(crate) fn new(name: String, kind: FileKind) -> Self {
        FileReport {
            name,
            kind,
            skipped: false,
            bytes: 0,
            commands: 0,
            already_applied: 0,
            link_commands: 0,
            letters: 0,
            letters_repeated: 0,
            unknown_annotations: BTreeMap::new(),
            cut_at: None,
        }
    }

    /// Of a file that an earlier run has applied, and that is not read again.
    pub(crate) fn applied_before(name: String, kind: FileKind) -> Self {
        FileReport { skipped: true, ..Self::new(name, kind) }
    }

    /// Counts a line that nobody here knows.
    pub(crate) fn note_unknown(&mut self, line: &[u8]) {
        let name = line.strip_prefix(b"#").unwrap_or(line);
        let name = name.split(|&b| b == b':').next().unwrap_or_default();
        let name = name[..name.len().min(LONGEST)].escape_ascii().to_string();
        let is_new = !self.unknown_annotations.contains_key(&name);
        let name = if is_new && self.unknown_annotations.len() >= MOST { "others".to_owned() } else { name };
        *self.unknown_annotations.entry(name).or_default() += 1;
    }
}
