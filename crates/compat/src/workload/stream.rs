//! Commands from files: append-only files of every shape, journals, captured requests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use keyferry_rdb::aof::{self, Manifest};
use keyferry_rdb::{Event, Parser};
use keyferry_resp::{CommandDecoder, DecodeError};

use super::Workload;
use crate::Error;

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;
/// The longest manifest that is read.
const MANIFEST: u64 = 16 << 20;
/// Where servers and journals keep the files of a log, below the directory that a server is started in.
const LOG_DIR: &str = "appendonlydir";

/// What was found in a file or a directory of commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamRead {
    /// Commands that were counted.
    pub commands: u64,
    /// Keys of snapshots that were passed over: nobody can tell which commands made them.
    pub snapshot_keys: u64,
    /// Base files that were left out: a server wrote their commands, not the application.
    pub bases: Vec<PathBuf>,
}

impl Workload {
    /// Counts the commands of a stream: an append-only file with or without a snapshot in front, an incremental file of a
    /// directory of such, a journal's segment, or requests that were captured. Lines that begin with `#` are notes of servers.
    ///
    /// # Errors
    ///
    /// [`Error::Stream`] with the offset when it is something else, or is damaged, or ends inside of the snapshot. A command that
    /// is cut off in the end is not counted and no error.
    pub fn read(&mut self, name: &str, mut input: impl Read) -> Result<StreamRead, Error> {
        let mut bytes = Bytes { name, input: &mut input, offset: 0 };
        let mut buffer = BytesMut::new();
        let mut found = StreamRead::default();
        while buffer.len() < 2 && bytes.more(&mut buffer)? {}
        // No command and no note starts with these.
        if matches!(buffer.first(), Some(b'R' | b'V')) {
            found.snapshot_keys = bytes.pass_over_snapshot(&mut buffer)?;
        }
        found.commands = self.commands_of(&mut bytes, &mut buffer)?;
        Ok(found)
    }

    /// Counts the commands of a file, see [`read`](Self::read), or of a directory: the incremental files of an append-only
    /// file in parts (its directory, its manifest, or the directory of the server), or a journal, of one shard or several.
    ///
    /// # Errors
    ///
    /// [`Error::File`], and [`Error::Stream`] with the file and the offset in it.
    pub fn read_path(&mut self, path: impl AsRef<Path>) -> Result<StreamRead, Error> {
        let path = path.as_ref();
        let mut found = StreamRead::default();
        for manifest in manifests(path)? {
            let (base, parts) = parts(&manifest)?;
            found.bases.extend(base);
            for part in parts {
                found.add(self.read_file(&part)?);
            }
        }
        if !path.is_dir() && !is_manifest(path) {
            found.add(self.read_file(path)?);
        }
        Ok(found)
    }

    fn read_file(&mut self, path: &Path) -> Result<StreamRead, Error> {
        let file = File::open(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        self.read(&path.display().to_string(), file)
    }

    fn commands_of(&mut self, bytes: &mut Bytes<'_>, buffer: &mut BytesMut) -> Result<u64, Error> {
        let mut decoder = CommandDecoder::new().inline(false);
        // Where the decoder began, and what was taken from the buffer without it.
        let mut base = bytes.offset - buffer.len() as u64;
        let mut count = 0;
        loop {
            loop {
                // Between commands only: inside of one, the decoder is in charge.
                if buffer.first() == Some(&b'#') && !decoder.is_mid_command() {
                    let Some(end) = buffer.iter().position(|&byte| byte == b'\n') else {
                        if buffer.len() > BLOCK {
                            return Err(bytes.problem(base + decoder.offset(), "a line without an end"));
                        }
                        break;
                    };
                    let _ = buffer.split_to(end + 1);
                    base += end as u64 + 1;
                    continue;
                }
                match decoder.decode(buffer) {
                    Ok(Some(command)) => {
                        count += 1;
                        self.observe(&command);
                    }
                    Ok(None) => break,
                    Err(error) => return Err(bytes.problem(base + error.offset(), what(&error))),
                }
            }
            if !bytes.more(buffer)? {
                return Ok(count);
            }
        }
    }
}

impl StreamRead {
    fn add(&mut self, other: Self) {
        self.commands += other.commands;
        self.snapshot_keys += other.snapshot_keys;
        self.bases.extend(other.bases);
    }
}

/// Bytes as they come.
struct Bytes<'a> {
    name: &'a str,
    input: &'a mut dyn Read,
    /// Of what comes next.
    offset: u64,
}

impl Bytes<'_> {
    /// Puts further bytes into the buffer; false at the end.
    fn more(&mut self, buffer: &mut BytesMut) -> Result<bool, Error> {
        let held = buffer.len();
        buffer.resize(held + BLOCK, 0);
        let read = loop {
            match self.input.read(&mut buffer[held..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        buffer.truncate(held + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(read) => {
                self.offset += read as u64;
                Ok(read > 0)
            }
            Err(error) => Err(self.problem(self.offset, error)),
        }
    }

    /// Reads the snapshot at the start, and leaves what follows it in the buffer. How many keys it held.
    fn pass_over_snapshot(&mut self, buffer: &mut BytesMut) -> Result<u64, Error> {
        let (mut parser, mut keys) = (Parser::new(), 0);
        loop {
            parser.feed(&buffer.split());
            loop {
                match parser.next_event() {
                    Ok(Some(Event::Entry(_) | Event::ValueStart(_))) => keys += 1,
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => return Err(self.problem(error.offset(), error)),
                }
            }
            if parser.is_finished() {
                buffer.extend_from_slice(parser.remaining());
                return Ok(keys);
            }
            if !self.more(buffer)? {
                return match parser.end_of_input() {
                    Ok(()) => Ok(keys),
                    Err(error) => Err(self.problem(error.offset(), error)),
                };
            }
        }
    }

    fn problem(&self, offset: u64, problem: impl std::fmt::Display) -> Error {
        Error::Stream { name: self.name.to_owned(), offset, problem: problem.to_string() }
    }
}

/// What is wrong with a command, without what is for whoever has a connection: its bytes since then, and to close it.
fn what(error: &DecodeError) -> String {
    let text = error.to_string();
    let text = text.strip_prefix(&format!("byte {}: ", error.offset())).unwrap_or(&text);
    text.strip_suffix("; close the connection").unwrap_or(text).to_owned()
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "manifest")
}

/// The manifests that `path` stands for: itself, that in it, or in the log directories below; of a file none.
fn manifests(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if is_manifest(path) {
        return Ok(vec![path.to_owned()]);
    }
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = manifests_in(path)?;
    if found.is_empty() {
        found = manifests_in(&path.join(LOG_DIR))?;
    }
    if found.is_empty() {
        // A journal of several shards has a directory for each.
        for entry in entries(path)? {
            found.extend(manifests_in(&entry.join(LOG_DIR))?);
        }
    }
    match found.len() {
        0 => Err(Error::Stream {
            name: path.display().to_string(),
            offset: 0,
            problem: "neither the directory of an append-only file nor a journal: there is no manifest"
                .to_owned(),
        }),
        _ => Ok(found),
    }
}

/// Manifests in a directory, which need not exist; one that is being written does not count.
fn manifests_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let whole = |path: &PathBuf| {
        is_manifest(path) && !path.file_name().unwrap_or_default().to_string_lossy().starts_with("temp-")
    };
    Ok(entries(dir)?.into_iter().filter(whole).collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// The base file that a manifest names, and its files of commands.
fn parts(manifest: &Path) -> Result<(Option<PathBuf>, Vec<PathBuf>), Error> {
    let mut text = Vec::new();
    let read = File::open(manifest).and_then(|file| file.take(MANIFEST).read_to_end(&mut text));
    read.map_err(|source| Error::File { path: manifest.to_owned(), source })?;
    let parsed = Manifest::parse(&text).map_err(|error| Error::Stream {
        name: manifest.display().to_string(),
        offset: 0,
        problem: error.to_string(),
    })?;
    let file = |file: &aof::ManifestFile| manifest.with_file_name(&file.name);
    Ok((parsed.base.as_ref().map(file), parsed.incremental.iter().map(file).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte at a time.
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            into[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn streams_are_counted_with_notes_between_their_commands() {
        let mut stream = b"#TS:1700000000\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n".to_vec();
        stream
            .extend_from_slice(b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n#TS:1\r\n");
        stream.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$1\r\n#\r\n$3\r\n#1\n\r\n*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$1\r\nx\r\n*2\r\n$3\r\nGE");
        let mut whole = Workload::new();
        assert_eq!(whole.read("f", &stream[..]).unwrap().commands, 4);
        let mut slow = Workload::new();
        assert_eq!(slow.read("f", Slow(&stream)).unwrap().commands, 4);
        for workload in [&whole, &slow] {
            let names: Vec<&str> = workload.uses.keys().map(String::as_str).collect();
            assert_eq!(names, ["config|get", "mset", "select", "set"]);
            assert_eq!(workload.uses["mset"].several_slots, 1);
            assert_eq!(workload.uses["mset"].examples, ["a b"]);
            assert_eq!(workload.uses["set"].one_slot, 1);
        }
    }

    #[test]
    fn what_is_no_stream_is_told() {
        let error = Workload::new().read("dump.rdb", &b"REDIS0011"[..]).unwrap_err().to_string();
        assert!(error.contains("dump.rdb: offset 9: "), "{error}");
        let error = Workload::new().read("dump.rdb", &b"RESIST0011"[..]).unwrap_err().to_string();
        assert!(error.contains("dump.rdb: offset 0: "), "{error}");
        let error = Workload::new().read("x", &b"*1\r\n$4\r\nPING\r\nGET a\r\n"[..]).unwrap_err().to_string();
        assert!(error.contains("x: offset 14"), "{error}");
    }
    /// An empty snapshot of a version that has no checksum, with a key.
    const SNAPSHOT: &[u8] = b"REDIS0003\xfe\x00\x00\x01k\x01v\xff";

    #[test]
    fn a_snapshot_in_front_is_passed_over() {
        let mut bytes = SNAPSHOT.to_vec();
        bytes.extend_from_slice(b"#TS:1\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
        let expected = StreamRead { commands: 1, snapshot_keys: 1, bases: Vec::new() };
        assert_eq!(Workload::new().read("f", &bytes[..]).unwrap(), expected);
        assert_eq!(Workload::new().read("f", Slow(&bytes)).unwrap(), expected);
        // Offsets of errors count from the start of the file.
        bytes.extend_from_slice(b"*1\r\n+");
        let error = Workload::new().read("f", Slow(&bytes)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("f: offset {}: ", bytes.len() - 1)), "{error}");
        // A snapshot alone has no commands, and one that is cut is an error.
        let alone = Workload::new().read("f", SNAPSHOT).unwrap();
        assert_eq!((alone.commands, alone.snapshot_keys), (0, 1));
        for cut in 1..SNAPSHOT.len() {
            assert!(Workload::new().read("f", &SNAPSHOT[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn directories_are_read_without_what_servers_wrote_into_the_base() {
        let dir = tempfile::tempdir().unwrap();
        let get = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
        let manifest = "file a.1.base.aof seq 1 type b\nfile a.1.incr.aof seq 1 type i\nfile a.2.incr.aof seq 2 type i\n";
        for shard in ["shard-1", "shard-2"] {
            let log = dir.path().join(shard).join(LOG_DIR);
            std::fs::create_dir_all(&log).unwrap();
            std::fs::write(log.join("a.manifest"), manifest).unwrap();
            for name in ["a.1.base.aof", "a.1.incr.aof", "a.2.incr.aof"] {
                std::fs::write(log.join(name), get).unwrap();
            }
        }
        let shard = dir.path().join("shard-1");
        let log = shard.join(LOG_DIR);
        for (path, shards) in [(dir.path(), 2), (&shard, 1), (&log, 1), (&log.join("a.manifest"), 1)]
            .map(|(path, shards)| (path.to_owned(), shards))
        {
            let mut workload = Workload::new();
            let found = workload.read_path(&path).unwrap();
            assert_eq!((found.commands, found.bases.len()), (shards * 2, shards as usize), "{path:?}");
            assert_eq!(workload.uses["get"].calls, shards * 2);
        }
        assert_eq!(Workload::new().read_path(log.join("a.1.incr.aof")).unwrap().commands, 1);

        // What is missing or damaged is told with its file.
        std::fs::write(log.join("a.2.incr.aof"), b"?").unwrap();
        let error = Workload::new().read_path(&log).unwrap_err().to_string();
        assert!(error.contains("a.2.incr.aof: offset 0: "), "{error}");
        std::fs::remove_file(log.join("a.2.incr.aof")).unwrap();
        assert!(
            matches!(Workload::new().read_path(&log), Err(Error::File { path, .. }) if path.ends_with("a.2.incr.aof"))
        );
        std::fs::write(log.join("a.manifest"), b"nonsense\n").unwrap();
        assert!(Workload::new().read_path(&log).unwrap_err().to_string().contains("a.manifest"));
        let empty = tempfile::tempdir().unwrap();
        let error = Workload::new().read_path(empty.path()).unwrap_err().to_string();
        assert!(error.contains("there is no manifest"), "{error}");
    }
}
