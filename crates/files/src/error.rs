use std::io;

/// What went wrong with an input or an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are damaged, cut short, or beyond what is understood.
    #[error("{input}: {error}")]
    Data {
        /// The file, or `standard input`.
        input: String,
        /// The rule that is broken, with its byte offset and key.
        error: Box<keyferry_rdb::Error>,
    },

    /// The system refused to open an input.
    #[error("{input} cannot be opened: {error}")]
    Open {
        /// The file.
        input: String,
        /// What the system says.
        error: io::Error,
    },

    /// The system refused to read an input.
    #[error("{input}: reading failed at byte {offset}: {error}")]
    Read {
        /// The file, or `standard input`.
        input: String,
        /// How many bytes of it were read.
        offset: u64,
        /// What the system says.
        error: io::Error,
    },

    /// There is not a single byte. The program that should have written them has failed, most likely.
    #[error("{input} is empty: neither a snapshot nor an append-only file")]
    Empty {
        /// The file, or `standard input`.
        input: String,
    },

    /// The first bytes are those of no known kind of file.
    #[error(
        "{input} starts with \"{found}\": neither a snapshot (REDIS, VALKEY) nor an append-only file (*, #)"
    )]
    UnknownKind {
        /// The file, or `standard input`.
        input: String,
        /// The first bytes, escaped.
        found: String,
    },

    /// The system refused to write an output.
    #[error("writing failed: {0}")]
    Write(#[from] io::Error),

    /// The system refused to write an output that has a name.
    #[error("{output}: {error}")]
    Output {
        /// The file, or `standard output`.
        output: String,
        /// What the system says.
        error: io::Error,
    },

    /// An output is there already.
    #[error("{output} exists already, and is left as it is")]
    Exists {
        /// The file or directory.
        output: String,
    },

    /// A directory is no log for a target so old.
    #[error(
        "{output}: servers before Redis 7.0 load no append-only file in several parts: write a file .aof"
    )]
    NoLogDirectory {
        /// The directory.
        output: String,
    },

    /// Inputs are of different versions, and no target was chosen.
    #[error(
        "{input} is of another or newer version than the input before it: name the server that is to load the output"
    )]
    MixedVersions {
        /// The input that does not fit.
        input: String,
    },

    /// A log has commands, and the output can hold their outcome only.
    #[error(
        "{input} holds commands from byte {offset} on, whose outcome only a server can tell: load it in one (--appendonly yes) and SAVE, or write commands or an append-only file"
    )]
    NeedsServer {
        /// The log.
        input: String,
        /// Where the first of them is.
        offset: u64,
    },

    /// A command of a log cannot be carried over as asked.
    #[error("{input}: {name} at byte {offset} cannot be carried over: {why}")]
    Command {
        /// The log.
        input: String,
        /// Where the command is.
        offset: u64,
        /// Its name, escaped.
        name: String,
        /// Why not.
        why: String,
    },

    /// The target has no place for something, and that was not to be left out.
    #[error("nothing was written, since {count} losses would have occurred, the first at {first}")]
    Losses {
        /// How many.
        count: u64,
        /// The first, with its key.
        first: String,
    },

    /// Keys of several databases or inputs have one name.
    #[error(
        "nothing was written, since {count} keys or libraries occur more than once, the first is \"{first}\""
    )]
    Collisions {
        /// How many.
        count: u64,
        /// The key, or the name of the library, escaped.
        first: String,
    },
}

impl Error {
    pub(crate) fn data(input: &str, error: keyferry_rdb::Error) -> Self {
        Self::Data { input: input.to_owned(), error: Box::new(error) }
    }

    pub(crate) fn output(output: &str, error: io::Error) -> Self {
        Self::Output { output: output.to_owned(), error }
    }

    /// Whether an output was closed by its reader, as `| head` does. Programs end quietly then.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write(error) | Self::Output { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
