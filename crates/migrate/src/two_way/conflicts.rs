//! Conflicts: counted, some of them for the report, all of them in a file for whoever wants them.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{SideName, table::Write};
use crate::error::Error;

/// Conflicts in the report, at most.
const SAMPLES: usize = 20;

/// A key that both sides wrote before either knew of the other's write, or a command that the other side refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Conflict {
    /// What it is.
    pub kind: ConflictKind,
    /// The database.
    pub database: u64,
    /// The key, bytes that are not text escaped (`\xff`); `*` for everything in the database.
    pub key: String,
    /// The write at the source, as far as it is known.
    pub source: Option<ConflictingWrite>,
    /// The write at the target.
    pub target: Option<ConflictingWrite>,
    /// What was done about it.
    pub outcome: ConflictOutcome,
    /// Which command was refused, and what the server said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What a [`Conflict`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConflictKind {
    /// Both sides wrote the key.
    Written,
    /// One side wrote the key, and at the other it was deleted, or had expired, which nobody can tell from each other.
    Removed,
    /// One side emptied the database, or did something of which nobody can tell which keys it concerns, and the other wrote to it.
    Everything,
    /// A command that one side carried out was refused by the other: what the key holds differs.
    Refused,
}

/// One of both writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConflictingWrite {
    /// The replication offset behind it, in the stream of its side.
    pub offset: u64,
    /// When it came from there, in milliseconds of the Unix epoch.
    pub time: i64,
}

/// What was done about a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConflictOutcome {
    /// Both writes were carried out on both sides, in different orders: the sides may differ in this key.
    Both,
    /// Both sides get the value to which the source's write was done last.
    SourceWins,
    /// Both sides get the value to which the target's write was done last.
    TargetWins,
    /// It cannot be settled, or too many are being settled at the moment: the sides may differ.
    NotSettled,
}

impl From<Write> for ConflictingWrite {
    fn from(write: Write) -> Self {
        ConflictingWrite { offset: write.offset, time: write.time }
    }
}

impl Conflict {
    /// Of `key`, which the side `this` wrote, and the other one, too.
    pub(super) fn of(
        kind: ConflictKind,
        (database, key): (u64, &[u8]),
        (this, own): (SideName, Write),
        other: Option<Write>,
        outcome: ConflictOutcome,
    ) -> Self {
        let (own, other) = (Some(own.into()), other.map(ConflictingWrite::from));
        let (source, target) = if this == SideName::Source { (own, other) } else { (other, own) };
        let key = key.escape_ascii().to_string();
        Conflict { kind, database, key, source, target, outcome, refused: None }
    }
}

/// Where they are kept.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    file: Option<(PathBuf, File)>,
    pub(super) samples: Vec<Conflict>,
    pub(super) count: u64,
    pub(super) refused: u64,
    pub(super) settled: u64,
}

impl Conflicts {
    /// With a file to which each is added, if there is one.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map(|file| (path.to_owned(), file)).map_err(|source| failed(path, source))
        };
        Ok(Conflicts { file: path.map(open).transpose()?, ..Conflicts::default() })
    }

    /// Counts one. It is in the file when this returns, as one line of JSON: a program that is killed has not lost it.
    pub(super) fn add(&mut self, conflict: Conflict) -> Result<(), Error> {
        match conflict.kind {
            ConflictKind::Refused => self.refused += 1,
            _ => self.count += 1,
        }
        if let Some((path, file)) = &mut self.file {
            let mut line = serde_json::to_vec(&conflict)
                .map_err(|e| Error::Internal(format!("a conflict cannot be written down: {e}")))?;
            line.push(b'\n');
            file.write_all(&line).map_err(|source| failed(path, source))?;
        }
        if self.samples.len() < SAMPLES {
            self.samples.push(conflict);
        }
        Ok(())
    }
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Conflicts { path: path.to_owned(), source }
}
