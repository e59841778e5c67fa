//! What is wrong with an archive, or not in it.

use std::path::PathBuf;

use super::listing::Coverage;

/// Why an archive cannot be kept, or not be restored from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The directory holds something else.
    #[error(
        "{} holds {found:?} and is no archive: choose an empty directory, or one that an archive was begun in", dir.display()
    )]
    NotAnArchive {
        /// The directory.
        dir: PathBuf,
        /// A file found in it.
        found: String,
    },

    /// There is no archive.
    #[error("{} is no archive: it has no {}", dir.display(), super::CATALOG)]
    NoArchive {
        /// The directory.
        dir: PathBuf,
    },

    /// The directory holds the archives of several shards.
    #[error("{} holds an archive for each shard: name one of them ({})", dir.display(), shards.join(", "))]
    SeveralShards {
        /// The directory.
        dir: PathBuf,
        /// The names of the directories in it.
        shards: Vec<String>,
    },

    /// The archive is of another source.
    #[error("{} is the archive of {theirs}, not of {ours}: choose another directory", dir.display())]
    OtherSource {
        /// The directory.
        dir: PathBuf,
        /// What it is of.
        theirs: String,
        /// What was to be archived.
        ours: String,
    },

    /// A later version of this program wrote it.
    #[error("{}: its format is {format}, which a later version of this program wrote; use that", dir.display())]
    Format {
        /// The directory.
        dir: PathBuf,
        /// The format.
        format: u32,
    },

    /// What the archive says of itself cannot be.
    #[error("{}: {what}", path.display())]
    Catalog {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },

    /// A file is not as it was written.
    #[error("{damage}; {coverage}")]
    Damaged {
        /// The file, and where in it.
        damage: Damage,
        /// What can be restored.
        coverage: Coverage,
    },

    /// The moment is not in the archive.
    #[error("{asked} is not in the archive: {why}; {coverage}")]
    NotCovered {
        /// What was asked for.
        asked: String,
        /// Why not.
        why: String,
        /// What can be restored.
        coverage: Coverage,
    },

    /// Several histories have this offset.
    #[error("offset {offset} is in several histories of the source: say which, as --offset ID:{offset} ({})", ids.join(", "))]
    Ambiguous {
        /// The offset.
        offset: u64,
        /// The ids of the histories.
        ids: Vec<String>,
    },

    /// The directory to write to is not empty.
    #[error("{} is there already: choose a directory that is not there, or empty", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },

    /// A server that is to be restored into, or a file, has something that would be replaced.
    #[error(
        "{target} has {count} of these keys already, as {}: restore under other names (--rename PREFIX), or choose what is to \
         become of them (--on-exists replace, skip or merge); nothing was written",
        samples.join(", ")
    )]
    KeysExist {
        /// The target.
        target: String,
        /// How many.
        count: u64,
        /// Some of them.
        samples: Vec<String>,
    },

    /// A server is needed to carry out the commands.
    #[error(
        "what the commands since the snapshot came to is known only when a server has carried them out: name one that is empty \
         and may be used for that (--scratch URL)"
    )]
    NeedsScratch,

    /// The scratch server is not fit to be one.
    #[error("scratch server {address}: {why}; nothing was written")]
    Scratch {
        /// Its address.
        address: String,
        /// What is wrong with it.
        why: String,
    },

    /// No key was chosen that is there at that moment.
    #[error("none of the keys that were asked for was there at {moment}: nothing was written")]
    NothingChosen {
        /// The moment.
        moment: String,
    },
}

/// Something that is wrong with a file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: String,
    /// The byte from which on it is of no use; of a compressed file, of what it expands to.
    pub at: u64,
    /// What is wrong there.
    pub why: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file, self.at, self.why)
    }
}
