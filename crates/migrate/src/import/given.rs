//! What is behind the paths that were given: what each is, and whether it can be read at all. Nothing is written before.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use keyferry_files::Error as FileError;
use keyferry_rdb::{Event, Parser, aof};
use twox_hash::XxHash3_128;

use super::{Files, report::FileKind};
use crate::{archive::Point, error::Error, journal};

/// Bytes read to tell what a file is.
const HEAD: usize = 64 << 10;

/// Bytes of the beginning by which a file is told from another: one that has grown since, or was mended further on, is the same.
const PRINT: usize = 1 << 10;

/// One file, or several that belong together, to be read from start to end.
pub(crate) struct FileSource {
    /// For people.
    pub(crate) name: String,
    pub(crate) kind: FileKind,
    /// In their order; at least one.
    pub(crate) parts: Vec<Part>,
    /// What the first part begins with, already read.
    pub(crate) head: Vec<u8>,
    /// Bytes of all parts, where that is known.
    pub(crate) total: Option<u64>,
    /// Commands follow, as far as can be told.
    pub(crate) has_log: bool,
    /// A journal, or an archive: the offset of the stream that its snapshot stands for.
    pub(crate) follows: Option<u64>,
    /// Nobody else uses the journal as long as it is open.
    _lock: Option<File>,
}

/// One file.
pub(crate) struct Part {
    pub(crate) name: String,
    path: Option<PathBuf>,
    open: Option<Box<dyn Read + Send>>,
}

impl Part {
    fn of(path: PathBuf) -> Self {
        Part { name: path.display().to_string(), path: Some(path), open: None }
    }

    /// The open file. One that comes later is opened when it is reached.
    pub(crate) fn open(&mut self) -> Result<Box<dyn Read + Send>, FileError> {
        let failed = |error| FileError::Open { input: self.name.clone(), error };
        match (self.open.take(), &self.path) {
            (Some(reader), _) => Ok(reader),
            (None, Some(path)) => Ok(Box::new(File::open(path).map_err(failed)?)),
            (None, None) => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }
}

impl FileSource {
    /// What stands for the file at the target: how many bytes of its beginning, and their digest.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.head[..self.head.len().min(PRINT)])
    }

    /// True when it begins as the one did that this fingerprint was taken of: that one may have been shorter.
    pub(crate) fn is(&self, print: &str) -> bool {
        let len = print.split(':').next().and_then(|len| len.parse::<usize>().ok());
        len.and_then(|len| self.head.get(..len)).is_some_and(|head| fingerprint(head) == print)
    }
}

fn fingerprint(head: &[u8]) -> String {
    format!("{}:{:032x}", head.len(), XxHash3_128::oneshot(head))
}

/// Opens what was given. A journal of several links is several files.
///
/// # Errors
/// [`Error::File`] for what cannot be opened, is empty, or begins as no known kind of file; [`Error::JournalLocked`],
/// [`Error::NoSnapshot`] for journals.
pub(crate) fn open(files: &Files) -> Result<Vec<FileSource>, Error> {
    let mut found = Vec::new();
    for path in &files.0 {
        if path.as_os_str() == "-" {
            let part =
                Part { name: "standard input".to_owned(), path: None, open: Some(Box::new(io::stdin())) };
            found.push(source(part.name.clone(), None, vec![part], None)?);
        } else if path.is_dir() {
            directory(path, &mut found)?;
        } else {
            let several = path.extension().is_some_and(|extension| extension == "manifest");
            found.push(if several { multi_part(path)? } else { one(path.clone())? });
        }
    }
    Ok(found)
}

fn one(path: PathBuf) -> Result<FileSource, Error> {
    // A pipe or device has no length that tells anything.
    let total = fs::metadata(&path).ok().filter(fs::Metadata::is_file).map(|data| data.len());
    let part = Part::of(path);
    source(part.name.clone(), None, vec![part], total)
}

fn multi_part(path: &Path) -> Result<FileSource, Error> {
    let name = path.display().to_string();
    let listed = aof::files(path).map_err(|error| data(&name, error))?;
    let mut total = 0;
    for file in &listed {
        let read = fs::metadata(file);
        total += read.map_err(|error| FileError::Open { input: file.display().to_string(), error })?.len();
    }
    let kind = Some(FileKind::MultiPart);
    source(name, kind, listed.into_iter().map(Part::of).collect(), Some(total))
}

/// What an archive holds up to a moment: the snapshot, and behind it the stream in the form of a journal's segment.
pub(super) fn archived(point: &Point) -> Result<FileSource, Error> {
    let (reader, name) = (point.reader()?, point.to_string());
    let part = Part { name: name.clone(), path: None, open: Some(Box::new(reader)) };
    let mut of = source(name, Some(FileKind::Archive), vec![part], Some(point.bytes()))?;
    of.follows = Some(point.base_offset());
    Ok(of)
}

/// A journal, a directory of an append-only file, or one that a server keeps it in.
fn directory(path: &Path, found: &mut Vec<FileSource>) -> Result<(), Error> {
    if !journal::is_journal(path) {
        let below = path.join(journal::SUBDIR);
        found.push(multi_part(if below.is_dir() { &below } else { path })?);
        return Ok(());
    }
    let mut lock = journal::lock_for_reading(path)?;
    let none = || Error::NoSnapshot { path: path.to_owned() };
    let links = journal::links(path)?;
    if links.is_empty() {
        return Err(none());
    }
    for link in links {
        let Some(base) = journal::base_of(&link)? else { return Err(none()) };
        let mut of = multi_part(&link.join(journal::SUBDIR))?;
        (of.kind, of.follows, of._lock) = (FileKind::Journal, Some(base), lock.take());
        found.push(of);
    }
    Ok(())
}

/// Reads the beginning of the first part, and tells by it what it is.
fn source(
    name: String,
    kind: Option<FileKind>,
    mut parts: Vec<Part>,
    total: Option<u64>,
) -> Result<FileSource, Error> {
    let empty = || FileError::Empty { input: name.clone() };
    let first = parts.first_mut().ok_or_else(empty)?;
    let mut reader = first.open()?;
    let mut head = Vec::new();
    let read = reader.by_ref().take(HEAD as u64).read_to_end(&mut head);
    read.map_err(|error| FileError::Read { input: first.name.clone(), offset: 0, error })?;
    first.open = Some(reader);
    let is_log = match head.first() {
        None if kind.is_none() => return Err(empty().into()),
        Some(b'R' | b'V') => false,
        None | Some(b'*' | b'#') => true,
        Some(_) => {
            let found = head[..head.len().min(16)].escape_ascii().to_string();
            return Err(FileError::UnknownKind { input: first.name.clone(), found }.into());
        }
    };
    let has_log = is_log || kind.is_some() || commands_follow(&head);
    let letters = || head.starts_with(b"#RUN:") || head.starts_with(b"#LINK:");
    let kind = kind.unwrap_or_else(|| match is_log {
        false => FileKind::Snapshot,
        true if letters() => FileKind::DeadLetters,
        true => FileKind::Log,
    });
    Ok(FileSource { name, kind, parts, head, total, has_log, follows: None, _lock: None })
}

/// Whether a snapshot says of itself that it is the first part of an append-only file.
fn commands_follow(head: &[u8]) -> bool {
    let mut parser = Parser::new();
    parser.feed(head);
    // Damage is told when it is read to be used.
    while let Ok(Some(event)) = parser.next_event() {
        match event {
            Event::Aux { name: b"aof-base" | b"aof-preamble", value } => return value == b"1",
            Event::Header(_) | Event::Aux { .. } => {}
            _ => return false,
        }
    }
    false
}

pub(super) fn data(name: &str, error: keyferry_rdb::Error) -> FileError {
    let error = match error {
        // Its name is there already.
        keyferry_rdb::Error::InFile { error, .. } => error,
        error => Box::new(error),
    };
    FileError::Data { input: name.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_grown_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let given = Files(vec![path.clone()]);
        fs::write(&path, "*1\r\n$4\r\nPING\r\n").unwrap();
        let print = open(&given).unwrap()[0].fingerprint();
        fs::write(&path, "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n").unwrap();
        let grown = open(&given).unwrap();
        assert!(grown[0].is(&print) && grown[0].is(&grown[0].fingerprint()));
        for bad in ["", "x", "28", "99999:0", &print.replace(':', ":0")] {
            assert!(!grown[0].is(bad), "{bad}");
        }
        fs::write(&path, "*1\r\n$4\r\nTIME\r\n*1\r\n$4\r\nPING\r\n").unwrap();
        assert!(!open(&given).unwrap()[0].is(&print));
    }

    #[test]
    fn what_a_file_is_stands_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            open(&Files(vec![path.clone()]))
        };
        let kind = |bytes: &[u8]| {
            let found = read(bytes).unwrap();
            (found[0].kind, found[0].has_log)
        };
        assert_eq!(kind(b"REDIS0011\xff"), (FileKind::Snapshot, false));
        assert_eq!(kind(b"REDIS0011\xfa\x08aof-base\xc0\x01"), (FileKind::Snapshot, true));
        assert_eq!(kind(b"REDIS0011\xfa\x08aof-base\xc0\x00"), (FileKind::Snapshot, false));
        assert_eq!(kind(b"*1\r\n"), (FileKind::Log, true));
        assert_eq!(kind(b"#TS:1\r\n"), (FileKind::Log, true));
        assert_eq!(kind(b"#RUN:1\r\n"), (FileKind::DeadLetters, true));
        for bad in [&b""[..], b"PING\r\n", b"\x00"] {
            assert!(matches!(read(bad), Err(Error::File(_))), "{bad:?}");
        }
        assert!(open(&Files(vec![dir.path().join("none")])).is_err());
        // A directory without a manifest.
        assert!(open(&Files(vec![dir.path().to_owned()])).is_err());
    }
}
