//! Commands that the target refuses for good, kept in a file instead of ending the migration.
//!
//! The file is in the form of an AOF: each command stands behind a `SELECT` of the target's database, in the form in which it
//! was sent, behind annotations that servers from 7.0 on skip: `#OFFSET:<n>` (the replication offset of the last byte before
//! it; none for keys of a snapshot), `#LINK:<name>`, `#ERROR:<reply>`.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use keyferry_resp::{ErrorReply, encode_command};

use crate::error::Error;

/// A file of dead letters.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    path: PathBuf,
    file: File,
}

/// A command that was refused.
pub(crate) struct Letter<'l> {
    /// Which link it came by, as the target's state calls it.
    pub(crate) link: &'l str,
    /// The replication offset of the last byte before it; none for keys of a snapshot.
    pub(crate) offset: Option<u64>,
    /// The target's database.
    pub(crate) db: u32,
    /// As it goes over the wire.
    pub(crate) command: &'l [u8],
    pub(crate) reply: &'l ErrorReply,
}

impl DeadLetters {
    /// Opens a file to add to; it is made if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|e| failed(path, "opening the file", e))?;
        Ok(DeadLetters { path: path.to_owned(), file })
    }

    /// Adds a command. It is on disk when this returns.
    pub(crate) fn add(&mut self, letter: &Letter<'_>) -> Result<(), Error> {
        let bytes = letter.to_bytes();
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|e| failed(&self.path, "writing", e))
    }
}

impl Letter<'_> {
    fn to_bytes(&self) -> BytesMut {
        let mut out = BytesMut::new();
        if let Some(offset) = self.offset {
            out.extend_from_slice(format!("#OFFSET:{offset}\r\n").as_bytes());
        }
        // What a server says may hold anything; its display does not hold line ends.
        let head = format!("#LINK:{}\r\n#ERROR:{}\r\n", self.link, self.reply);
        out.extend_from_slice(head.as_bytes());
        encode_command(&mut out, ["SELECT", &self.db.to_string()]);
        out.extend_from_slice(self.command);
        out
    }
}

fn failed(path: &Path, doing: &'static str, source: std::io::Error) -> Error {
    Error::DeadLetters { path: path.to_owned(), doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_added_to_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("letters");
        let reply = ErrorReply::new("WRONGTYPE a\r\nb");
        for offset in [Some(7), None] {
            let mut letters = DeadLetters::open(&path).unwrap();
            letters
                .add(&Letter { link: "0", offset, db: 3, command: b"*1\r\n$4\r\nPING\r\n", reply: &reply })
                .unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let one =
            "#LINK:0\r\n#ERROR:WRONGTYPE a\\r\\nb\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n";
        assert_eq!(text, format!("#OFFSET:7\r\n{one}{one}"));
        assert!(DeadLetters::open(dir.path()).is_err());
    }
}
