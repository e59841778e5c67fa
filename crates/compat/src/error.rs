use std::path::PathBuf;

/// Why nothing could be said about a server, or why a file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A file of cases or a baseline is not what it should be.
    #[error("{file}: {problem}")]
    Format {
        /// The file.
        file: String,
        /// What is wrong, and where.
        problem: String,
    },

    /// A case cannot be run as it is written. Its author's to mend.
    #[error("{file}: case \"{case}\": {problem}")]
    Case {
        /// The file.
        file: String,
        /// The name of the case.
        case: String,
        /// What is wrong.
        problem: String,
    },

    /// The server cannot be reached, or does not let us in.
    #[error(transparent)]
    Client(#[from] keyferry_client::Error),

    /// There are keys where the cases would write.
    #[error(
        "{server} has {keys} keys in {place}, which are not ours: {hint}",
        hint = "choose another place with a scratch database or a key prefix, or remove them"
    )]
    Occupied {
        /// The server.
        server: String,
        /// How many keys there are, at least.
        keys: u64,
        /// Where.
        place: String,
    },

    /// The cases want to flush a server that holds data, and nobody has allowed that.
    #[error(
        "{server} holds {keys} keys, and these cases begin with FLUSHALL: use an empty server, or allow flushing if the data is worthless"
    )]
    NotEmpty {
        /// The server.
        server: String,
        /// How many keys it holds.
        keys: u64,
    },

    /// The server refuses what running cases needs.
    #[error("{server} refuses {doing}: {reply}")]
    Refused {
        /// The server.
        server: String,
        /// What was asked of it.
        doing: String,
        /// What it said.
        reply: String,
    },

    /// Two servers that should be compared cannot be.
    #[error("{0}")]
    Unlike(String),

    /// A stream of commands cannot be read.
    #[error("{name}: offset {offset}: {problem}")]
    Stream {
        /// What was read.
        name: String,
        /// Bytes from its start.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    pub(crate) fn format(file: &str, problem: impl std::fmt::Display) -> Self {
        Self::Format { file: file.to_owned(), problem: problem.to_string() }
    }

    pub(crate) fn case(file: &str, case: &str, problem: impl std::fmt::Display) -> Self {
        Self::Case { file: file.to_owned(), case: case.to_owned(), problem: problem.to_string() }
    }
}
