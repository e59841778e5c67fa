//! What a journal knows besides the data: small files of JSON, replaced in one step.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::file::failed;
use crate::error::Error;

/// The form of these files.
pub(crate) const FORMAT: u32 = 1;

/// `keyferry.json`: whose journal it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) format: u32,
    /// The migration's id.
    pub(crate) migration: String,
    /// The sides, without passwords.
    pub(crate) source: String,
    pub(crate) target: String,
    /// What is changed on the way.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) changes: String,
    /// What the run that used it last showed the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// `keyferry-link.json`: what the manifest does not say of a link's data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) format: u32,
    pub(crate) base: Option<Base>,
}

/// A snapshot that is there as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) file: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// What it stands for.
    pub(crate) replication_id: String,
    pub(crate) offset: u64,
    /// The target holds it, and the stream has begun: kept, but nothing to go on with.
    #[serde(default)]
    pub(crate) applied: bool,
    /// It came over an earlier one, of which the target may hold keys that are no more.
    #[serde(default)]
    pub(crate) again: bool,
}

/// Reads a file; `None` where there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    const DOING: &str = "reading what it says of itself";
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(|e| failed(path, DOING, e))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| failed(path, DOING, e.into()))
}

/// Replaces a file.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T, sync: bool) -> Result<(), Error> {
    const DOING: &str = "writing what it says of itself";
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| failed(path, DOING, e.into()))?;
    bytes.push(b'\n');
    replace(path, &bytes, sync).map_err(|e| failed(path, DOING, e))
}

/// Puts a file of these bytes in the place of `path`: who looks, at any moment, finds the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let temporary = dir.join(format!("temp-{}", name.to_string_lossy()));
    let written = (|| {
        fs::write(&temporary, bytes)?;
        if sync {
            fs::File::open(&temporary)?.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if sync {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written
}
