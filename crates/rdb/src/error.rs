//! The crate's one error type.

use std::fmt;

use crate::types::ModuleId;

/// What is wrong with the input, and where.
///
/// `offset` counts bytes from the first byte of what was being read: of the snapshot for [`Parser`](crate::Parser),
/// of the payload for [`dump::Payload`](crate::dump::Payload), of the value for
/// [`ElementDecoder`](crate::elements::ElementDecoder) (unless it was told where the value starts).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first bytes are neither `REDIS` and four digits nor `VALKEY` and three digits: another kind of file.
    #[error("not an RDB file: it starts with {found}, not with REDISnnnn or VALKEYnnn")]
    NotRdb {
        /// The first bytes, printable form.
        found: Quoted,
    },

    /// Input ended in the middle. The file was cut short, or its writer died.
    #[error("input ends at byte {offset} inside {what}: the file or transfer was cut short")]
    Truncated {
        /// Where the input ended.
        offset: u64,
        /// What was being read.
        what: &'static str,
    },

    /// The bytes break a rule of the format: damage, or a writer with a defect.
    #[error("corrupt data at byte {offset}: {what}{}", InKey(.key))]
    Corrupt {
        /// Where the broken rule was seen.
        offset: u64,
        /// The rule.
        what: &'static str,
        /// The key it belongs to, when there is one.
        key: Option<Quoted>,
    },

    /// An opcode or value type that this crate does not know. What follows cannot be found without knowing it.
    #[error("unknown opcode or value type {byte} at byte {offset}: written by a newer or a modified server")]
    UnknownType {
        /// Where the byte is.
        offset: u64,
        /// The byte.
        byte: u8,
    },

    /// A value of type 6, written by modules of Redis 4.0 release candidates. Its end cannot be found without
    /// the module. Load it in a server that has the module and save it anew.
    #[error(
        "key {key} at byte {offset} is a pre-release module value (type 6, module {module}), whose end only the module knows: load and save it with Redis 4.0 to 7.0 and that module first"
    )]
    PreGaModule {
        /// Where the value starts.
        offset: u64,
        /// The key.
        key: Quoted,
        /// The module that wrote it.
        module: ModuleId,
    },

    /// A length or count is above what [`Limits`](crate::Limits) allow. The data may be good: raise the limit then.
    #[error("{what} of {claimed} at byte {offset} is above the limit of {limit}{}", InKey(.key))]
    LimitExceeded {
        /// Where it is claimed.
        offset: u64,
        /// What is too long.
        what: &'static str,
        /// The length or count claimed or reached.
        claimed: u64,
        /// The limit in force.
        limit: u64,
        /// The key it belongs to, when there is one.
        key: Option<Quoted>,
    },

    /// The CRC-64 at the end does not match the bytes: some byte was changed after it was written. Everything
    /// read from this input is suspect.
    #[error(
        "checksum mismatch: the trailer at byte {offset} says {stored:016x}, the bytes give {computed:016x}"
    )]
    Checksum {
        /// Where the checksum is stored.
        offset: u64,
        /// The checksum found there.
        stored: u64,
        /// The checksum of the bytes.
        computed: u64,
    },

    /// A value refers to a hash template (RDB 15) that no earlier record defines.
    #[error("hash template {id} is used at byte {offset} but not defined before{}", InKey(.key))]
    UnknownTemplate {
        /// Where it is used.
        offset: u64,
        /// Its number.
        id: u64,
        /// The key that uses it, when known.
        key: Option<Quoted>,
    },

    /// The form cannot stand where it was found, for instance a template reference in a DUMP payload.
    #[error("value type {byte} at byte {offset} cannot be used here: {why}")]
    Misplaced {
        /// Where the type byte is.
        offset: u64,
        /// The type byte.
        byte: u8,
        /// Why not.
        why: &'static str,
    },

    /// A writer was asked for something that its target does not know. Convert the entry first, see
    /// [`convert`](crate::convert).
    #[error("a server of RDB version {version} does not accept {what}{}", InKey(.key))]
    NotAccepted {
        /// What it does not accept: the name of a value type or of another record.
        what: &'static str,
        /// The version of the target.
        version: u16,
        /// The key it belongs to, when there is one.
        key: Option<Quoted>,
    },

    /// The manifest of an append-only file breaks a rule.
    #[error("line {line} of the manifest is refused: {what}")]
    Manifest {
        /// The line, from 1; 0 when there is none to name.
        line: u64,
        /// The rule.
        what: &'static str,
    },

    /// A transaction is open where none may be. Write its `EXEC` first.
    #[error("a transaction is open at {doing}: its EXEC must be written first")]
    OpenTransaction {
        /// What was being done.
        doing: &'static str,
    },

    /// An error in one of several files.
    #[error("{}: {error}", .file.display())]
    InFile {
        /// The file.
        file: Box<std::path::Path>,
        /// What is wrong in it.
        error: Box<Error>,
    },

    /// The system refused to read or write.
    #[error("{doing} failed: {detail}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The kind of failure.
        kind: std::io::ErrorKind,
        /// What the system says, with the file's name where there is one.
        detail: Box<str>,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, error: &std::io::Error) -> Self {
        Self::Io { doing, kind: error.kind(), detail: error.to_string().into() }
    }

    /// The same error, said to be in this file, unless it says so already.
    pub(crate) fn in_file(self, file: &std::path::Path) -> Self {
        match self {
            Self::InFile { .. } => self,
            error => Self::InFile { file: file.into(), error: Box::new(error) },
        }
    }

    /// Byte offset of the fault; 0 for errors that are not about bytes that were read, and [`Error::NotRdb`].
    pub fn offset(&self) -> u64 {
        match self {
            Self::NotRdb { .. }
            | Self::NotAccepted { .. }
            | Self::Manifest { .. }
            | Self::OpenTransaction { .. }
            | Self::Io { .. } => 0,
            Self::InFile { error, .. } => error.offset(),
            Self::Truncated { offset, .. }
            | Self::Corrupt { offset, .. }
            | Self::UnknownType { offset, .. }
            | Self::PreGaModule { offset, .. }
            | Self::LimitExceeded { offset, .. }
            | Self::Checksum { offset, .. }
            | Self::UnknownTemplate { offset, .. }
            | Self::Misplaced { offset, .. } => *offset,
        }
    }

    /// The same error with `key` named, where it has a place for it.
    #[must_use]
    pub fn with_key(mut self, name: &[u8]) -> Self {
        if let Self::Corrupt { key, .. }
        | Self::LimitExceeded { key, .. }
        | Self::NotAccepted { key, .. }
        | Self::UnknownTemplate { key, .. } = &mut self
        {
            *key = Some(Quoted::new(name));
        }
        self
    }
}

/// Bytes quoted for a message: printable, escaped like a Rust byte string, cut after 64 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Quoted {
    shown: Box<[u8]>,
    total: usize,
}

impl Quoted {
    const SHOWN: usize = 64;

    /// Quotes `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self { shown: bytes[..bytes.len().min(Self::SHOWN)].into(), total: bytes.len() }
    }

    /// The first bytes, at most 64.
    pub fn head(&self) -> &[u8] {
        &self.shown
    }

    /// Length of the whole in bytes.
    pub fn total_len(&self) -> usize {
        self.total
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.shown.escape_ascii())?;
        if self.total > self.shown.len() {
            write!(f, "… ({} bytes)", self.total)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct InKey<'a>(&'a Option<Quoted>);

impl fmt::Display for InKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, ", in key {key}"),
            None => Ok(()),
        }
    }
}
