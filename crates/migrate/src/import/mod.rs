//! Files as the source of a migration: snapshots, append-only files of one or several parts, journals, dead letters.
//!
//! **Takes** paths ([`Files`]); what each is, is told by its first bytes and by what stands in a directory. **Gives** the same as
//! a link to a server does: keys of a snapshot, then commands with their offsets, which are bytes of the file here, so that
//! what is on the target can be told and gone on with. **Promises** to read in bounded memory and in one pass, from pipes
//! too; that what stands before damage is given before the damage is told, with its byte. **Refuses** what is neither kind
//! of file, a journal that somebody writes to, and one whose beginning is gone.
//!
//! [`crate::sharded`] has the other half, which hands it to the target.

mod given;
mod letters;
mod reader;
mod report;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyferry_client::Endpoint;

use crate::{archive::Point, error::Error};

pub use self::report::{FileKind, FileReport};
pub(crate) use self::{
    given::{FileSource, open},
    reader::{FileReader, Work},
};

/// Where the data of a migration comes from.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// A server, a cluster, or the primary that sentinels know.
    Servers(Box<Endpoint>),
    /// Files, one after the other.
    Files(Files),
    /// What an archive holds up to a moment.
    Archive(Arc<Point>),
}

/// Files, in the order in which they are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files(pub(crate) Vec<PathBuf>);

impl Given {
    /// The servers, if it is these.
    pub(crate) fn servers(&self) -> Option<&Endpoint> {
        match self {
            Given::Servers(endpoint) => Some(endpoint),
            Given::Files(_) | Given::Archive(_) => None,
        }
    }

    /// Opens what is no server.
    ///
    /// # Errors
    /// As [`open`]; when a file of the archive cannot be opened.
    pub(crate) fn open(&self) -> Result<Vec<FileSource>, Error> {
        match self {
            Given::Servers(_) => Ok(Vec::new()),
            Given::Files(files) => open(files),
            Given::Archive(point) => Ok(vec![given::archived(point)?]),
        }
    }

    /// True when this path leads to a file that is read.
    pub(crate) fn has(&self, path: &Path) -> bool {
        match self {
            Given::Files(files) => files.has(path),
            Given::Servers(_) | Given::Archive(_) => false,
        }
    }

    /// The files, if it is no server; an archive has none that could be looked at by its name.
    pub(crate) fn files(&self) -> Option<&[PathBuf]> {
        match self {
            Given::Servers(_) => None,
            Given::Files(files) => Some(&files.0),
            Given::Archive(_) => Some(&[]),
        }
    }
}

impl Files {
    /// True when this path leads to one of them.
    fn has(&self, path: &Path) -> bool {
        let is = |other: &PathBuf| match (fs::canonicalize(other), fs::canonicalize(path)) {
            (Ok(one), Ok(other)) => one == other,
            _ => other == path,
        };
        self.0.iter().any(is)
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Servers(endpoint) => endpoint.fmt(f),
            Given::Files(files) => files.fmt(f),
            Given::Archive(point) => point.fmt(f),
        }
    }
}

impl fmt::Display for Files {
    /// Absolute paths, as the name of the migration is made from this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, path) in self.0.iter().enumerate() {
            let absolute = if path.as_os_str() == "-" { Ok(path.clone()) } else { std::path::absolute(path) };
            let path = absolute.as_ref().unwrap_or(path);
            write!(f, "{}{}", if number == 0 { "file:" } else { "," }, path.display())?;
        }
        Ok(())
    }
}
