//! The thread that reads a file: bytes in, keys and commands out.

use std::{
    io::{self, Read},
    sync::atomic::Ordering,
};

use bytes::{Bytes, BytesMut};
use keyferry_files::Error as FileError;
use keyferry_rdb::{
    Event, Limits, Parser,
    aof::{AofCommand, AofEvent, AofParser},
};
use keyferry_replication::Batch;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    given::{FileSource, data},
    letters::{Found, Letters},
    report::{FileKind, FileReport},
};
use crate::{
    error::Error,
    output::Output,
    pipeline::{Load, Origin},
    progress::{Meter, Phase},
    snapshot::{Pumped, SnapshotEncoder, now_ms},
};

/// Bytes read at once.
const READ_SIZE: usize = 512 * 1024;

/// A batch of commands is this large, more or less.
const BATCH: usize = 128 * 1024;

/// Something for the target.
#[derive(Debug)]
pub(crate) enum Work {
    /// Keys of the snapshot.
    Keys(Load),
    /// The snapshot is over, or there is none: the stream begins behind this offset, in this database.
    SnapshotEnd { offset: u64, db: u64 },
    /// Commands, and when they came, in milliseconds of the Unix epoch.
    Commands { batch: Batch, received: u64 },
}

/// Reads one file from start to end. Offsets are bytes of the file, or of its parts put one behind the other.
pub(crate) struct FileReader {
    source: FileSource,
    /// The snapshot and commands up to here are on the target.
    from: Option<u64>,
    /// The last part may end inside of a command.
    may_be_cut: bool,
    out: mpsc::Sender<Work>,
    meter: Meter,
    abandon: CancellationToken,
    report: FileReport,
    letters: Letters,
    /// The offset of the first byte of the part that is read.
    base: u64,
    /// The database that is selected.
    db: u64,
    batch: Pending,
    /// What a time in the file said last.
    time: Option<u64>,
    /// Of a journal or an archive: the offset of its stream.
    stream: Option<u64>,
    /// Of these: where their stream goes on has not been told yet.
    in_head: bool,
}

/// Commands that have not been given yet.
#[derive(Debug, Default)]
struct Pending {
    bytes: BytesMut,
    commands: u32,
    start: u64,
    db: u64,
    in_transaction: bool,
}

/// Nobody wants any more of it.
struct Abandoned;

/// Why reading ended before the end.
enum Stop {
    Abandoned,
    Failed(Error),
}

impl From<Abandoned> for Stop {
    fn from(_: Abandoned) -> Self {
        Stop::Abandoned
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        Stop::Failed(error.into())
    }
}

impl FileReader {
    /// A reader that gives what it finds to `out`; what ends at or before `from` is on the target.
    pub(crate) fn new(
        source: FileSource,
        from: Option<u64>,
        allow_cut: bool,
        out: mpsc::Sender<Work>,
        meter: Meter,
        abandon: CancellationToken,
    ) -> Self {
        let report = FileReport::new(source.name.clone(), source.kind);
        // The process that wrote a journal may have been killed at any moment.
        let may_be_cut = allow_cut || source.kind == FileKind::Journal;
        let stream = source.follows;
        FileReader {
            source,
            from,
            may_be_cut,
            out,
            meter,
            abandon,
            report,
            letters: Letters::default(),
            base: 0,
            db: 0,
            batch: Pending::default(),
            time: None,
            stream,
            in_head: false,
        }
    }

    /// Reads all of it. False when that was abandoned. What stands before an error has been given then.
    pub(crate) fn run(mut self, encoder: &mut SnapshotEncoder) -> (FileReport, Result<bool, Error>) {
        let result = match self.parts(encoder) {
            Ok(()) => Ok(true),
            Err(Stop::Abandoned) => Ok(false),
            Err(Stop::Failed(error)) => self.flush().map_or(Ok(false), |()| Err(error)),
        };
        (self.report, result)
    }

    fn parts(&mut self, encoder: &mut SnapshotEncoder) -> Result<(), Stop> {
        let parts = std::mem::take(&mut self.source.parts);
        let last = parts.len().saturating_sub(1);
        for (number, mut part) in parts.into_iter().enumerate() {
            let reader = part.open()?;
            let mut input = Input { name: part.name, reader, first: Vec::new(), read: 0 };
            if number == 0 {
                input.first = std::mem::take(&mut self.source.head);
            } else {
                input.peek()?;
            }
            let snapshot = matches!(input.first.first(), Some(b'R' | b'V'));
            if snapshot && number > 0 {
                let what = "a snapshot stands behind commands";
                return Err(data(&input.name, corrupt(0, what)).into());
            }
            let rest = if snapshot { self.snapshot(&mut input, encoder)? } else { input.first_bytes() };
            let behind = input.read - rest.len() as u64;
            if number == 0 && self.from.is_none() {
                self.db = encoder.counts().stream_db;
                let db = if self.source.follows.is_some() { self.db } else { 0 };
                self.give(Work::SnapshotEnd { offset: behind, db })?;
            }
            // Where servers begin each file.
            if self.source.follows.is_none() {
                self.db = 0;
            }
            self.in_head = self.source.follows.is_some();
            self.log(&mut input, rest, number == last)?;
            self.flush()?;
            self.base += input.read;
            self.moved(self.base)?;
        }
        Ok(())
    }

    /// Reads the snapshot, and gives its keys unless the target has them. Gives back the bytes behind it that have been read.
    fn snapshot(&mut self, input: &mut Input, encoder: &mut SnapshotEncoder) -> Result<Vec<u8>, Stop> {
        if self.from.is_some() {
            return self.pass_over(input);
        }
        self.meter.enter(Phase::Snapshot);
        if !self.source.has_log {
            self.meter.snapshot_total.store(self.source.total.unwrap_or(0), Ordering::Relaxed);
        }
        let mut out = Output::default();
        let first = input.first_bytes();
        encoder.space(first.len())[..first.len()].copy_from_slice(&first);
        encoder.filled(first.len());
        loop {
            let pumped = encoder.pump(&mut out);
            self.meter.snapshot_received.store(input.read, Ordering::Relaxed);
            self.meter.keys_announced.store(encoder.announced(), Ordering::Relaxed);
            self.meter.large_keys.store(encoder.counts().large, Ordering::Relaxed);
            encoder.forget_built(self.meter.snapshot_applied.load(Ordering::Relaxed));
            let is_hungry = matches!(pumped, Ok(Pumped::Hungry));
            if !is_hungry {
                self.keys(&mut out, encoder)?;
            }
            match pumped.map_err(|error| of_file(&input.name, error))? {
                Pumped::Finished => return Ok(encoder.rest().to_vec()),
                Pumped::Full => continue,
                Pumped::Hungry => {}
            }
            let n = match input.fill(encoder.space(READ_SIZE)) {
                Ok(n) => n,
                Err(error) => {
                    self.keys(&mut out, encoder)?;
                    return Err(error.into());
                }
            };
            encoder.filled(n);
            if n == 0 {
                self.keys(&mut out, encoder)?;
                encoder.end_of_input().map_err(|error| of_file(&input.name, error))?;
                return Err(data(&input.name, corrupt(input.read, "the snapshot does not end")).into());
            }
            self.report.bytes = self.base + input.read;
        }
    }

    /// Gives the keys that have been encoded.
    fn keys(&self, out: &mut Output, encoder: &SnapshotEncoder) -> Result<(), Abandoned> {
        if out.commands == 0 {
            return Ok(());
        }
        let keys = std::mem::take(&mut out.keys);
        self.give(Work::Keys(Load {
            bytes: out.bytes.split().freeze(),
            commands: std::mem::take(&mut out.commands),
            origin: Origin::Snapshot { keys, end: encoder.whole() },
            pieces: out.take_pieces(),
        }))
    }

    /// Reads a snapshot that is on the target, to know where it ends.
    fn pass_over(&mut self, input: &mut Input) -> Result<Vec<u8>, Stop> {
        let mut parser = Parser::with_limits(Limits::default());
        parser.feed(&input.first_bytes());
        loop {
            while let Some(event) = parser.next_event().map_err(|error| data(&input.name, error))? {
                if let Event::Aux { name, value } = event
                    && name.eq_ignore_ascii_case(b"repl-stream-db")
                {
                    self.db = std::str::from_utf8(value).ok().and_then(|db| db.parse().ok()).unwrap_or(0);
                }
            }
            if parser.is_finished() {
                return Ok(parser.remaining().to_vec());
            }
            self.go_on()?;
            let n = input.fill(parser.space(READ_SIZE))?;
            parser.filled(n);
            self.report.bytes = self.base + input.read;
            if n == 0 {
                parser.end_of_input().map_err(|error| data(&input.name, error))?;
            }
        }
    }

    /// Reads commands up to the end of a part.
    fn log(&mut self, input: &mut Input, rest: Vec<u8>, last: bool) -> Result<(), Stop> {
        let mut parser = AofParser::new().at_offset(input.read - rest.len() as u64);
        parser.feed(&rest);
        let mut block = vec![0; READ_SIZE];
        loop {
            self.go_on()?;
            while let Some(event) = parser.next_event().map_err(|error| data(&input.name, error))? {
                match event {
                    AofEvent::Command(command) => self.command(&command)?,
                    AofEvent::Timestamp { seconds, .. } => {
                        self.flush()?;
                        self.time = u64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1000));
                    }
                    AofEvent::Annotation { text, offset } => self.annotation(text, offset, &input.name)?,
                    _ => {}
                }
            }
            let n = input.fill(&mut block)?;
            self.report.bytes = self.base + input.read;
            if n > 0 {
                parser.feed(&block[..n]);
                continue;
            }
            return match parser.end_of_input() {
                Ok(()) => Ok(()),
                Err(_) if last && self.may_be_cut => {
                    self.report.cut_at = Some(parser.good_offset());
                    Ok(())
                }
                Err(error) => Err(data(&input.name, error).into()),
            };
        }
    }

    fn command(&mut self, command: &AofCommand<'_>) -> Result<(), Stop> {
        let name = command.args().next().unwrap_or_default();
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        let (start, raw) = (self.base + command.offset, command.raw());
        let end = start + raw.len() as u64;
        if !self.in_head
            && let Some(stream) = &mut self.stream
        {
            *stream += raw.len() as u64;
        }
        let before = self.db;
        if is("SELECT") {
            self.db = command.db;
        } else {
            self.report.commands += 1;
            match self.letters.command(self.db, raw) {
                Found::NoLetter => {}
                Found::Letter => self.report.letters += 1,
                Found::Repeated => {
                    self.report.letters += 1;
                    self.report.letters_repeated += 1;
                    return Ok(());
                }
            }
            if is("PING") || is("REPLCONF") {
                self.report.link_commands += 1;
                return Ok(());
            }
        }
        if self.from.is_some_and(|from| end <= from) {
            self.report.already_applied += u64::from(!is("SELECT"));
            return Ok(());
        }
        if self.from.is_some_and(|from| start < from) {
            let what = "no command ends where an earlier run has come to: the file is another one";
            return Err(data(&self.source.name, corrupt(start, what)).into());
        }
        if !self.batch.bytes.is_empty() && self.batch.start + self.batch.bytes.len() as u64 != start {
            self.flush()?;
        }
        if self.batch.bytes.is_empty() {
            (self.batch.start, self.batch.db) = (start, before);
        }
        self.batch.bytes.extend_from_slice(raw);
        self.batch.commands += 1;
        self.batch.in_transaction = command.in_transaction && !is("EXEC");
        if self.batch.bytes.len() >= BATCH { Ok(self.flush()?) } else { Ok(()) }
    }

    fn annotation(&mut self, line: &[u8], at: u64, name: &str) -> Result<(), Stop> {
        let number = |prefix: &[u8]| -> Option<u64> {
            std::str::from_utf8(line.strip_prefix(prefix)?).ok()?.parse().ok()
        };
        if let Some(time) = number(b"#MS:") {
            self.flush()?;
            self.time = Some(time);
            return Ok(());
        }
        if let (Some(expected), Some(found)) = (self.stream, number(b"#OFFSET:")) {
            // Within a file, keep-alives may have been left out; between files there is nothing.
            if found < expected || (self.in_head && found != expected) {
                return Err(Error::JournalGap { name: name.to_owned(), at, expected, found }.into());
            }
            self.stream = Some(found);
            self.in_head = false;
            return Ok(());
        }
        if !self.letters.annotation(line) {
            self.report.note_unknown(line);
        }
        Ok(())
    }

    /// Gives the commands that have been gathered.
    fn flush(&mut self) -> Result<(), Abandoned> {
        let Pending { bytes, commands, start, db, in_transaction } = &mut self.batch;
        if bytes.is_empty() {
            return Ok(());
        }
        let bytes = bytes.split().freeze();
        let mut batch = Batch::new(bytes, std::mem::take(commands), *start, 0);
        batch.end = batch.start + batch.bytes.len() as u64;
        (batch.db, batch.in_transaction) = (Some(*db), *in_transaction);
        self.commands(batch)
    }

    /// What stands up to here has been given.
    fn moved(&mut self, end: u64) -> Result<(), Abandoned> {
        if self.from.is_some_and(|from| end <= from) {
            return Ok(());
        }
        let mut batch = Batch::new(Bytes::new(), 0, end, end);
        // What a cut has left of a transaction is not carried out.
        (batch.db, batch.in_transaction) = (Some(self.db), self.batch.in_transaction);
        self.commands(batch)
    }

    fn commands(&self, batch: Batch) -> Result<(), Abandoned> {
        let received = self.time.unwrap_or_else(|| u64::try_from(now_ms()).unwrap_or(0));
        self.meter.received_offset.store(batch.end, Ordering::Relaxed);
        self.give(Work::Commands { batch, received })
    }

    fn give(&self, work: Work) -> Result<(), Abandoned> {
        self.go_on()?;
        self.out.blocking_send(work).map_err(|_| Abandoned)
    }

    fn go_on(&self) -> Result<(), Abandoned> {
        if self.abandon.is_cancelled() { Err(Abandoned) } else { Ok(()) }
    }
}

/// A part that is being read.
struct Input {
    name: String,
    reader: Box<dyn Read + Send>,
    /// What has been read to tell what it is.
    first: Vec<u8>,
    /// Bytes given out so far.
    read: u64,
}

impl Input {
    /// Reads the first byte.
    fn peek(&mut self) -> Result<(), FileError> {
        let read = self.reader.by_ref().take(1).read_to_end(&mut self.first);
        read.map(drop).map_err(|error| FileError::Read { input: self.name.clone(), offset: 0, error })
    }

    fn first_bytes(&mut self) -> Vec<u8> {
        self.read += self.first.len() as u64;
        std::mem::take(&mut self.first)
    }

    /// Reads once; 0 is the end.
    fn fill(&mut self, space: &mut [u8]) -> Result<usize, FileError> {
        loop {
            match self.reader.read(space) {
                Ok(n) => {
                    self.read += n as u64;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(FileError::Read { input: self.name.clone(), offset: self.read, error });
                }
            }
        }
    }
}

fn corrupt(offset: u64, what: &'static str) -> keyferry_rdb::Error {
    keyferry_rdb::Error::Corrupt { offset, what, key: None }
}

/// Damage of a snapshot, told of the file.
fn of_file(name: &str, error: Error) -> Error {
    match error {
        Error::Snapshot(error) => data(name, error).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        import::{Files, open},
        target::Abilities,
    };
    use keyferry_client::ServerInfo;

    /// Everything that is given of a file, as text: commands with their offsets and databases.
    fn read(
        path: &Path,
        from: Option<u64>,
        follows: Option<u64>,
    ) -> (Vec<String>, FileReport, Result<bool, Error>) {
        let mut source = open(&Files(vec![path.to_owned()])).unwrap().pop().unwrap();
        if follows.is_some() {
            (source.kind, source.follows) = (FileKind::Journal, follows);
        }
        let (out, mut work) = mpsc::channel(1);
        let reader = FileReader::new(source, from, false, out, Meter::default(), CancellationToken::new());
        let mut encoder = SnapshotEncoder::new(Abilities::of(&ServerInfo::default()), String::new(), 1000);
        let thread = std::thread::spawn(move || reader.run(&mut encoder));
        let mut seen = Vec::new();
        while let Some(work) = work.blocking_recv() {
            match work {
                Work::Keys(load) => seen.push(format!("{} commands of keys", load.commands)),
                Work::SnapshotEnd { offset, db } => seen.push(format!("begins at {offset} in {db}")),
                Work::Commands { batch, received } => {
                    let text = String::from_utf8_lossy(&batch.bytes).into_owned();
                    let words: Vec<&str> =
                        text.split("\r\n").filter(|w| !w.is_empty() && !w.starts_with(['*', '$'])).collect();
                    let open = if batch.in_transaction { " open" } else { "" };
                    let at = if received < 2_000_000 { format!(" at {received}") } else { String::new() };
                    seen.push(format!(
                        "{}-{} {:?}{open}{at}: {}",
                        batch.start,
                        batch.end,
                        batch.db.unwrap(),
                        words.join(" ")
                    ));
                }
            }
        }
        let (report, result) = thread.join().unwrap();
        (seen, report, result)
    }

    fn wire(words: &str) -> String {
        let words: Vec<&str> = words.split(' ').collect();
        let args: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        format!("*{}\r\n{}", words.len(), args.concat())
    }

    #[test]
    fn commands_have_the_bytes_of_the_file_for_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let parts = [
            wire("SELECT 3"),
            wire("INCR a"),
            "#TS:1000\r\n".to_owned(),
            wire("INCR b"),
            wire("PING"),
            wire("MULTI"),
            "#strange:1\r\n".to_owned(),
            wire("INCR c"),
            wire("EXEC"),
        ];
        std::fs::write(&path, parts.concat()).unwrap();
        let ends: Vec<usize> = (0..=parts.len()).map(|n| parts[..n].concat().len()).collect();
        let all = [
            "begins at 0 in 0".to_owned(),
            format!("0-{} 0: SELECT 3 INCR a", ends[2]),
            format!("{}-{} 3 at 1000000: INCR b", ends[3], ends[4]),
            format!("{}-{} 3 open at 1000000: MULTI", ends[5], ends[6]),
            format!("{}-{} 3 at 1000000: INCR c EXEC", ends[7], ends[9]),
            format!("{0}-{0} 3 at 1000000: ", ends[9]),
        ];
        let (seen, report, result) = read(&path, None, None);
        assert_eq!(seen, all);
        assert!(result.unwrap());
        assert_eq!((report.commands, report.link_commands), (6, 1));
        assert_eq!(report.unknown_annotations.get("strange"), Some(&1));
        // Behind the first two.
        let (seen, report, _) = read(&path, Some(ends[2] as u64), None);
        assert_eq!((seen, report.already_applied), (all[2..].to_vec(), 1));
        // At a place where no command ends.
        let (seen, _, result) = read(&path, Some(ends[2] as u64 - 1), None);
        assert!(seen.is_empty() && matches!(result, Err(Error::File(_))));
        // At the end: nothing is left to be said.
        assert!(read(&path, Some(ends[9] as u64), None).0.is_empty());
    }

    #[test]
    fn a_gap_in_a_journal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let incr = wire("INCR a");
        let id = "#ID:3ad1e7ef023c242514c0b05e48e4ee884551c793\r\n";
        let segment = |start: usize, then: usize| {
            [
                id,
                &wire("SELECT 2"),
                &format!("#OFFSET:{start}\r\n"),
                &incr,
                &format!("#OFFSET:{then}\r\n"),
                &incr,
            ]
            .concat()
        };
        std::fs::write(&path, segment(100, 500)).unwrap();
        let (seen, report, result) = read(&path, None, Some(100));
        assert!(result.unwrap() && report.unknown_annotations.is_empty(), "{report:?}");
        assert_eq!(seen.len(), 5, "{seen:?}");
        for (start, then) in [(101, 500), (99, 500), (100, 100 + incr.len() - 1)] {
            std::fs::write(&path, segment(start, then)).unwrap();
            let (_, _, result) = read(&path, None, Some(100));
            assert!(matches!(result, Err(Error::JournalGap { .. })), "{start} {then}: {result:?}");
        }
    }
}
