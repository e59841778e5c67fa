//! `keyferry-archive.json`: which files there are, and what each holds. Replaced in one step, so that whoever reads it, at any
//! moment, finds files that are there as it says.

use std::path::Path;

use keyferry_replication::{Position, ReplicationId};
use serde::{Deserialize, Serialize};

use super::{CATALOG, error::ArchiveError};
use crate::{error::Error, journal::sidecar};

/// The form of the file.
const FORMAT: u32 = 1;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Catalog {
    format: u32,
    /// The URL of the source, without its password.
    pub(super) source: String,
    /// The slots of the shard, where the source is a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slots: Option<String>,
    /// The number of the next file.
    pub(super) next: u64,
    /// Oldest first.
    pub(super) runs: Vec<Run>,
}

/// A part of the source's history without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// When its first snapshot was begun, in Unix milliseconds.
    pub(super) begun: u64,
    /// Why it does not go on where the run before it ended; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gap: Option<String>,
    /// Oldest first; the first is the oldest moment that can be restored.
    pub(super) bases: Vec<Base>,
    /// Each begins where the one before it ended, the first at or before the first base.
    pub(super) segments: Vec<Segment>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Base {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) keys: u64,
    pub(super) functions: u64,
    /// XXH3 of the file.
    pub(super) digest: String,
    pub(super) replication_id: String,
    pub(super) offset: u64,
    /// When it was begun, in Unix milliseconds.
    pub(super) taken: u64,
    /// What the server said that it is.
    pub(super) server: String,
}

/// A part of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) file: String,
    /// The histories that it is of, by their ids.
    pub(super) ids: Vec<String>,
    /// The offset that it begins behind.
    pub(super) start: u64,
    /// When it was begun, in Unix milliseconds.
    pub(super) begun: u64,
    /// Of one that nothing more is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) closed: Option<Closed>,
}

/// What is known of a segment that nothing more is written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Closed {
    /// The offset that it ends with.
    pub(super) end: u64,
    /// The database that is selected there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) db: Option<u64>,
    /// When its last batch came, in Unix milliseconds.
    pub(super) ended: u64,
    /// Bytes of the segment itself.
    pub(super) raw: u64,
    /// Of one that has been read back and compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) packed: Option<Packed>,
    /// What was found when it was read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<String>,
}

/// What is known of a segment that has been read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Packed {
    /// Bytes of the compressed file.
    pub(super) bytes: u64,
    /// XXH3 of each block of the segment itself.
    pub(super) blocks: Vec<String>,
    /// When that was, in Unix milliseconds.
    pub(super) verified: u64,
}

impl Catalog {
    pub(super) fn new(source: String, slots: Option<String>) -> Self {
        Catalog { format: FORMAT, source, slots, next: 1, runs: Vec::new() }
    }

    /// Reads it; `None` where there is none.
    pub(super) fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(CATALOG);
        let Some(catalog) = sidecar::read::<Catalog>(&path)? else { return Ok(None) };
        if catalog.format > FORMAT {
            return Err(ArchiveError::Format { dir: dir.to_owned(), format: catalog.format }.into());
        }
        catalog.check().map_err(|what| ArchiveError::Catalog { path, what })?;
        Ok(Some(catalog))
    }

    pub(super) fn save(&self, dir: &Path, sync: bool) -> Result<(), Error> {
        sidecar::write(&dir.join(CATALOG), self, sync)
    }

    /// Names of files that are in it.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.runs.iter().flat_map(|run| {
            let bases = run.bases.iter().map(|base| base.file.as_str());
            bases.chain(run.segments.iter().map(|segment| segment.file.as_str()))
        })
    }

    /// Bytes of all files, those of the open segment as given.
    pub(super) fn bytes(&self, open: u64) -> u64 {
        let of = |run: &Run| {
            let bases: u64 = run.bases.iter().map(|base| base.bytes).sum();
            bases + run.segments.iter().map(|segment| segment.bytes(open)).sum::<u64>()
        };
        self.runs.iter().map(of).sum()
    }

    /// Somebody may have put anything there.
    fn check(&self) -> Result<(), String> {
        for name in self.files() {
            if name.contains('/') || !(name.starts_with("base-") || name.starts_with("segment-")) {
                return Err(format!("it names a file {name:?}, which is none of an archive"));
            }
        }
        for run in &self.runs {
            if run.bases.is_empty() {
                return Err("it has a history without a snapshot".to_owned());
            }
            for base in &run.bases {
                parse_id(&base.replication_id)?;
            }
            for segment in &run.segments {
                segment.ids.iter().try_for_each(|id| parse_id(id).map(drop))?;
                if segment.ids.is_empty() {
                    return Err(format!("{} is of no history", segment.file));
                }
            }
        }
        Ok(())
    }
}

fn parse_id(id: &str) -> Result<ReplicationId, String> {
    id.parse().map_err(|e| format!("{e}"))
}

impl Run {
    /// Every id under which its offsets are known.
    pub(super) fn ids(&self) -> Vec<ReplicationId> {
        let all = self.bases.iter().map(|base| &base.replication_id);
        let all = all.chain(self.segments.iter().flat_map(|segment| &segment.ids));
        let mut ids: Vec<ReplicationId> = Vec::new();
        for id in all.filter_map(|id| id.parse().ok()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// The oldest offset that can be restored.
    pub(super) fn start(&self) -> u64 {
        self.bases.first().map_or(0, |base| base.offset)
    }

    /// Where its stream ends, if it has any that is closed; else where its first snapshot stands.
    pub(super) fn closed_end(&self) -> Option<(Position, u64)> {
        let Some(segment) = self.segments.last() else {
            let base = self.bases.first()?;
            return Some((Position::after_snapshot(base.id()?, base.offset), base.taken));
        };
        let closed = segment.closed.as_ref()?;
        let id = segment.ids.last()?.parse().ok()?;
        let position = Position { db: closed.db, ..Position::after_snapshot(id, closed.end) };
        Some((position, closed.ended))
    }
}

impl Base {
    pub(super) fn id(&self) -> Option<ReplicationId> {
        self.replication_id.parse().ok()
    }
}

impl Segment {
    /// Bytes of its file; of the open one as given.
    pub(super) fn bytes(&self, open: u64) -> u64 {
        match &self.closed {
            Some(Closed { packed: Some(packed), .. }) => packed.bytes,
            Some(closed) => closed.raw,
            None => open,
        }
    }

    /// Whether its file is compressed.
    pub(super) fn is_packed(&self) -> bool {
        self.file.ends_with(".gz")
    }
}
