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
}

impl Error {
    pub(crate) fn data(input: &str, error: keyferry_rdb::Error) -> Self {
        Self::Data { input: input.to_owned(), error: Box::new(error) }
    }

    /// Whether an output was closed by its reader, as `| head` does. Programs end quietly then.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
