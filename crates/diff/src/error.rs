use std::io;

use keyferry_files::Place;

/// Why it cannot be told whether two sides are equal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read, or is damaged. So is a snapshot that a server sent, which is named by the server's address.
    #[error(transparent)]
    File(#[from] keyferry_files::Error),

    /// A server cannot be reached, or does not answer as it should.
    #[error(transparent)]
    Connection(#[from] keyferry_client::Error),

    /// A server does not send its snapshot, or not all of it.
    #[error(transparent)]
    Replication(#[from] keyferry_replication::Error),

    /// An append-only file has commands.
    #[error(
        "{input} holds commands from byte {offset} on, whose outcome only a server can tell: load it in one (--appendonly yes) and compare that"
    )]
    Commands {
        /// The file.
        input: String,
        /// Where the first of them is.
        offset: u64,
    },

    /// A file has neither keys nor an end of a snapshot.
    #[error("{input} holds no snapshot: there is nothing to compare")]
    NoSnapshot {
        /// The file.
        input: String,
    },

    /// A directory has no journal in it.
    #[error(
        "{} holds no journal: what is wanted is the directory of migrate --journal, or an append-only file",
        path.display()
    )]
    NoJournal {
        /// The directory.
        path: std::path::PathBuf,
    },

    /// A side is given as no file at all.
    #[error("a side needs at least one file")]
    NoFile,

    /// Slots of a cluster are served by nobody, so their keys cannot be read.
    #[error(
        "the slots {slots} of the cluster at {cluster} are served by no node that is up: wait until the cluster is well, then compare again"
    )]
    SlotsUnserved {
        /// The node that told.
        cluster: String,
        /// The slots.
        slots: String,
    },

    /// Slots of a cluster are on the move, so their keys may be read twice or not at all.
    #[error(
        "slots of the cluster at {cluster} ({slots}) are moving or have moved while it was read: compare again when they have come to rest"
    )]
    SlotsMoved {
        /// The node that told.
        cluster: String,
        /// The slots.
        slots: String,
    },

    /// A server refuses to show its data, or gives an answer that none should give.
    #[error(
        "{side} does not answer as it should: {reply}; may its user run SCAN, TYPE, OBJECT, DUMP and the commands that read?"
    )]
    Refused {
        /// The side.
        side: String,
        /// What it said.
        reply: String,
    },

    /// What is written on the source does not arrive at the target.
    #[error(
        "a mark that was written on the source (keyferry:barrier:*) has not come to {target} in {seconds} s: is the migration running, does it \
         copy keys of that name, and is its lag less?"
    )]
    NoMark {
        /// The target.
        target: String,
        /// How long was waited.
        seconds: u64,
    },

    /// The checkpoint of a migration does not move on.
    #[error(
        "the checkpoint that the migration keeps in {target} is not where the source was {seconds} s ago: is it running, and is its lag \
         less?"
    )]
    Behind {
        /// The target.
        target: String,
        /// How long was waited.
        seconds: u64,
    },

    /// The target has no checkpoint of a migration of this source.
    #[error(
        "{target} has no checkpoint of one migration that follows all of the source: is it running, and past its snapshot? Marks do \
         without (--barrier-by marks)"
    )]
    NoCheckpoint {
        /// The target.
        target: String,
    },

    /// Keys were chosen by something that servers do not count by.
    #[error(
        "servers count the keys of whole databases: by what they count (--quick), keys of some names, types or slots cannot be compared"
    )]
    NotCounted,

    /// A value can be had neither as a whole nor in parts.
    #[error(
        "the {} at \"{}\" cannot be read: a server refuses DUMP; let its user run DUMP, or leave the key out",
        kind.name(),
        keyferry_files::text::short_line(key, 60)
    )]
    Unreadable {
        /// The key.
        key: Vec<u8>,
        /// The type of its value.
        kind: keyferry_rdb::Kind,
    },

    /// Digests that do not fit in memory wait on disk, and that fails.
    #[error("keeping digests on disk failed: {0}; point the temporary directory to another file system")]
    Spill(#[source] io::Error),

    /// Differences cannot be written to where they are wanted.
    #[error("writing results failed: {0}")]
    Results(#[source] io::Error),

    /// The system refuses a thread.
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] io::Error),

    /// The comparison was given up because another part of it failed, or by its caller.
    #[error("the comparison was given up")]
    GivenUp,
}

impl Error {
    pub(crate) fn commands(place: Place<'_>) -> Self {
        Self::Commands { input: place.input.to_owned(), offset: place.offset }
    }

    /// The error of the link, where a file error only passes one on.
    pub(crate) fn unwrapped(self) -> Self {
        match self {
            Self::File(keyferry_files::Error::Read { input, offset, error }) => {
                match error.downcast::<keyferry_replication::Error>() {
                    Ok(error) => Self::Replication(error),
                    Err(error) => Self::File(keyferry_files::Error::Read { input, offset, error }),
                }
            }
            other => other,
        }
    }
}
