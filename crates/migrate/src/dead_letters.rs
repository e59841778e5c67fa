//! Commands that the target refuses for good, kept in a file instead of ending the migration.
//!
//! The file is in the form of an AOF: each command stands behind a `SELECT` of the target's database, in the form in which it
//! was sent, but with its exact deadline where that was held, behind annotations that servers from 7.0 on skip: `#RUN:<who>`
//! (who wrote it), `#ID:<history>` and `#OFFSET:<n>` (the replication offset of the last byte before it; none for keys of a
//! snapshot), `#LINK:<name>`, `#ERROR:<reply>`. [`crate::import`] reads it.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::Write,
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use keyferry_replication::ReplicationId;
use keyferry_resp::{CommandDecoder, ErrorReply, Limits, encode_command};

use crate::{error::Error, expiry::exact_form};

/// They were read within limits before.
const LIMITS: Limits = Limits::new()
    .frame_bytes(usize::MAX)
    .bulk_bytes(usize::MAX)
    .elements(usize::MAX)
    .total_elements(usize::MAX);

/// A file of dead letters.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    path: PathBuf,
    file: File,
    /// Tells what this process wrote from what others did.
    run: u64,
}

/// A command that was refused.
pub(crate) struct Letter<'l> {
    /// Which link it came by, as the target's state calls it.
    pub(crate) link: &'l str,
    /// The history that the offset is of.
    pub(crate) history: Option<ReplicationId>,
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
        let run = RandomState::new().hash_one(std::process::id());
        Ok(DeadLetters { path: path.to_owned(), file, run })
    }

    /// Adds a command. It is on disk when this returns.
    pub(crate) fn add(&mut self, letter: &Letter<'_>) -> Result<(), Error> {
        let bytes = letter.to_bytes(self.run);
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|e| failed(&self.path, "writing", e))
    }
}

impl Letter<'_> {
    fn to_bytes(&self, run: u64) -> BytesMut {
        let mut out = BytesMut::new();
        out.extend_from_slice(format!("#RUN:{run:016x}\r\n").as_bytes());
        if let Some(offset) = self.offset {
            if let Some(history) = self.history {
                out.extend_from_slice(format!("#ID:{history}\r\n").as_bytes());
            }
            out.extend_from_slice(format!("#OFFSET:{offset}\r\n").as_bytes());
        }
        // What a server says may hold anything; its display does not hold line ends.
        let head = format!("#LINK:{}\r\n#ERROR:{}\r\n", self.link, self.reply);
        out.extend_from_slice(head.as_bytes());
        encode_command(&mut out, ["SELECT", &self.db.to_string()]);
        let exact = match CommandDecoder::with_limits(LIMITS).next_ref(self.command) {
            Ok(Some(command)) => exact_form(&command),
            _ => None,
        };
        out.extend_from_slice(exact.as_ref().map_or(self.command, |exact| exact.raw()));
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
        let history: Option<ReplicationId> = "3ad1e7ef023c242514c0b05e48e4ee884551c793".parse().ok();
        let mut runs = Vec::new();
        for offset in [Some(7), None] {
            let mut letters = DeadLetters::open(&path).unwrap();
            let command = b"*1\r\n$4\r\nPING\r\n";
            letters.add(&Letter { link: "0", history, offset, db: 3, command, reply: &reply }).unwrap();
            runs.push(letters.run);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let one =
            "#LINK:0\r\n#ERROR:WRONGTYPE a\\r\\nb\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$4\r\nPING\r\n";
        let place = format!("#ID:{}\r\n#OFFSET:7\r\n", history.unwrap());
        assert_eq!(text, format!("#RUN:{:016x}\r\n{place}{one}#RUN:{:016x}\r\n{one}", runs[0], runs[1]));
        assert_ne!(runs[0], runs[1]);
        assert!(DeadLetters::open(dir.path()).is_err());
    }
}
