//! What the files of a cluster's backup are, in a file beside them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    BackupSnapshot,
    parts::{Shard, beside},
};
use crate::{error::Error, journal::sidecar};

/// The form of the file.
const FORMAT: u32 = 1;

/// What belongs to the backup of a cluster: `dump.rdb.manifest.json`. It is written when all files have their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The form of it.
    pub format: u32,
    /// The source: its URL without the password.
    pub source: String,
    /// What kind of files there are, as in `rdb`.
    pub kind: String,
    /// The files.
    pub files: Vec<ManifestFile>,
    /// The shards, in the order of their slots.
    pub shards: Vec<ManifestShard>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestFile {
    /// Its name, beside the manifest.
    pub file: String,
    /// Its size; none of directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// XXH3 of its bytes, 128 bits in hexadecimal, as `xxh128sum` prints it; none of directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xxh128: Option<String>,
}

/// A shard in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestShard {
    /// The file that holds it.
    pub file: String,
    /// The ids of its nodes.
    pub nodes: BTreeSet<String>,
    /// What was read of it.
    #[serde(flatten)]
    pub snapshot: BackupSnapshot,
}

impl Manifest {
    /// Where it is, of a backup to `out`.
    #[must_use]
    pub fn path(out: &Path) -> PathBuf {
        beside(out, ".manifest.json")
    }

    /// Reads one; none where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or makes no sense.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        sidecar::read(path)
    }

    pub(super) fn new(source: String, kind: &str) -> Self {
        Manifest { format: FORMAT, source, kind: kind.to_owned(), files: Vec::new(), shards: Vec::new() }
    }

    pub(super) fn add(&mut self, file: ManifestFile, shards: &[Shard], snapshots: &[BackupSnapshot]) {
        let shards = shards.iter().zip(snapshots).map(|(shard, snapshot)| ManifestShard {
            file: file.file.clone(),
            nodes: shard.nodes().clone(),
            snapshot: snapshot.clone(),
        });
        self.shards.extend(shards);
        self.files.push(file);
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        // Of a path without a directory, that is the present one.
        let path = if path.parent() == Some(Path::new("")) { &Path::new(".").join(path) } else { path };
        sidecar::write(path, self, true)
    }
}

impl ManifestFile {
    pub(super) fn new(path: &Path, xxh128: Option<String>) -> Self {
        let name = path.file_name().unwrap_or_default();
        let bytes = path.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
        ManifestFile { file: name.to_string_lossy().into_owned(), bytes, xxh128 }
    }
}
