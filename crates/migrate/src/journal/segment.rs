//! Reading an incremental file: bytes in, batches out.

use bytes::{Bytes, BytesMut};
use keyferry_replication::{
    Batch, Position, ReplicationId, StreamFault,
    stream::{Item, StreamScanner},
};

/// How much is read at once.
pub(crate) const READ_SIZE: usize = 256 * 1024;

/// The longest annotation, its end included.
const MAX_ANNOTATION: usize = 1024;

/// What is wrong with a segment, and at which byte of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) source: StreamFault,
}

/// Reads one incremental file. Has neither the file nor a clock: the caller reads what it wants, and supplies it.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    /// Where the next read begins.
    at: u64,
    buf: BytesMut,
    /// None before the file has said where its stream begins.
    scanner: Option<StreamScanner>,
    head: Head,
    /// Everything up to here is passed over.
    skip: u64,
    ids: Vec<ReplicationId>,
    received: u64,
    /// Where the stream of the file before it ended.
    expected: Option<u64>,
}

/// What the beginning of the file has said so far.
#[derive(Debug, Default)]
struct Head {
    id: Option<ReplicationId>,
    db: Option<u64>,
}

impl SegmentReader {
    /// From the beginning of a file.
    pub(crate) fn new() -> Self {
        SegmentReader {
            at: 0,
            buf: BytesMut::new(),
            scanner: None,
            head: Head::default(),
            skip: 0,
            ids: Vec::new(),
            received: 0,
            expected: None,
        }
    }

    /// From byte `at` of a file, where the stream goes on after `position`, and the time told last is `received`.
    pub(crate) fn within(at: u64, position: Position, received: u64) -> Self {
        let ids = vec![position.id];
        SegmentReader { at, scanner: Some(StreamScanner::new(position)), ids, received, ..Self::new() }
    }

    /// Passes over everything up to `offset`, which is where a command ends.
    pub(crate) fn skipping_to(mut self, offset: u64) -> Self {
        self.skip = offset;
        self
    }

    /// Refuses a file whose stream does not begin at `offset`, where that of the file before it ended.
    pub(crate) fn following(mut self, offset: u64) -> Self {
        self.expected = Some(offset);
        self
    }

    /// Everything up to here has been given out; `None` before the file has said where it begins.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.scanner.as_ref().map(StreamScanner::position)
    }

    /// The ids of the histories met so far.
    pub(crate) fn ids(&self) -> &[ReplicationId] {
        &self.ids
    }

    /// When the last batch came from the source, in milliseconds of the Unix epoch; 0 where the file does not say.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Where the next read begins: everything before it has been given out or is held.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The byte of the file up to which everything has been given out.
    pub(crate) fn consumed(&self) -> u64 {
        self.at - self.buf.len() as u64
    }

    /// Which bytes of the file to read next, where it ends at `end`: from where, and how many.
    pub(crate) fn wants(&self, end: u64) -> (u64, usize) {
        // The rest of a command longer than the buffer: do not crawl through it.
        let most = READ_SIZE.max(self.buf.len());
        (self.at, usize::try_from(end.saturating_sub(self.at)).unwrap_or(most).min(most))
    }

    /// Takes bytes read from there.
    pub(crate) fn supply(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.at += bytes.len() as u64;
    }

    /// The next batch of what has been read, or `None` when more has to be read first.
    pub(crate) fn next(&mut self) -> Result<Option<Batch>, Fault> {
        loop {
            let found = if self.buf.first() == Some(&b'#') {
                let Some(line) = self.annotation()? else { return Ok(None) };
                self.annotated(&line)?
            } else if self.scanner.is_some() {
                let Some(batch) = self.commands()? else { return Ok(None) };
                Some(batch)
            } else {
                if !self.head_command()? {
                    return Ok(None);
                }
                None
            };
            if let Some(batch) = found
                && let Some(batch) = self.behind(batch)?
            {
                return Ok(Some(batch));
            }
        }
    }

    /// The line at the front, once all of it is there.
    fn annotation(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.buf.iter().take(MAX_ANNOTATION).position(|&b| b == b'\n') {
            Some(end) => Ok(Some(self.buf.split_to(end + 1).freeze())),
            None if self.buf.len() >= MAX_ANNOTATION => {
                Err(self.fault(StreamFault::NotACommand { found: b'#' }))
            }
            None => Ok(None),
        }
    }

    fn annotated(&mut self, line: &[u8]) -> Result<Option<Batch>, Fault> {
        let text = |rest: &[u8]| std::str::from_utf8(rest).unwrap_or_default().trim_end().to_owned();
        let fault = StreamFault::NotACommand { found: b'#' };
        if let Some(rest) = line.strip_prefix(b"#ID:") {
            let Ok(id) = text(rest).parse() else { return Err(self.fault_before(line, fault)) };
            self.ids.push(id);
            match &mut self.scanner {
                Some(scanner) => scanner.set_id(id),
                None => self.head.id = Some(id),
            }
        } else if let Some(rest) = line.strip_prefix(b"#MS:") {
            self.received = text(rest).parse().unwrap_or(self.received);
        } else if let Some(rest) = line.strip_prefix(b"#OFFSET:") {
            let Ok(offset) = text(rest).parse::<u64>() else { return Err(self.fault_before(line, fault)) };
            match (&mut self.scanner, self.head.id) {
                (Some(scanner), _) => {
                    let before = scanner.position().offset;
                    if offset < before {
                        return Err(self.fault_before(line, fault));
                    }
                    scanner.skip_to(offset);
                    return Ok(Some(Batch::moved(before, scanner.position())));
                }
                (None, Some(_)) if self.expected.is_some_and(|expected| expected != offset) => {
                    return Err(self.fault_before(line, fault));
                }
                (None, Some(id)) => {
                    let position = Position { db: self.head.db, ..Position::after_snapshot(id, offset) };
                    self.scanner = Some(StreamScanner::new(position));
                }
                (None, None) => return Err(self.fault_before(line, fault)),
            }
        }
        Ok(None)
    }

    fn commands(&mut self) -> Result<Option<Batch>, Fault> {
        let Some(scanner) = &mut self.scanner else { return Ok(None) };
        match scanner.next(&mut self.buf) {
            Ok(Some(Item::Commands(batch))) => Ok(Some(batch)),
            // Keep-alives are not written.
            Ok(_) => Ok(None),
            Err(source) => Err(self.fault(source)),
        }
    }

    /// Takes the `SELECT` of a file's beginning. False when more has to be read first.
    fn head_command(&mut self) -> Result<bool, Fault> {
        let Some(&found) = self.buf.first() else { return Ok(false) };
        let Some(id) = self.head.id else { return Err(self.fault(StreamFault::NotACommand { found })) };
        // A scanner of its own, which counts from nowhere.
        let mut scanner = StreamScanner::new(Position::after_snapshot(id, 0));
        match scanner.next(&mut self.buf) {
            Ok(Some(Item::Commands(batch))) if batch.commands == 1 && scanner.position().db.is_some() => {
                self.head.db = scanner.position().db;
                Ok(true)
            }
            Ok(Some(_)) => Err(self.fault(StreamFault::NotACommand { found })),
            Ok(None) => Ok(false),
            Err(source) => Err(self.fault(source)),
        }
    }

    /// What of the batch lies behind the offset to be skipped to.
    fn behind(&self, batch: Batch) -> Result<Option<Batch>, Fault> {
        if batch.start >= self.skip {
            return Ok(Some(batch));
        }
        if batch.end <= self.skip {
            return Ok(None);
        }
        let counted = batch.start + batch.bytes.len() as u64;
        let mut cut = batch;
        if counted <= self.skip {
            // Commands that are passed over, then an offset that moves beyond.
            cut.bytes = Bytes::new();
            cut.commands = 0;
            cut.start = self.skip;
            return Ok(Some(cut));
        }
        let Some(id) = self.ids.last() else { return Ok(Some(cut)) };
        let prefix = usize::try_from(self.skip - cut.start).unwrap_or(usize::MAX).min(cut.bytes.len());
        let (passed, commands) = after(&cut, prefix, *id);
        if passed.offset != self.skip {
            let found = cut.bytes.get(prefix).copied().unwrap_or_default();
            return Err(self.fault(StreamFault::NotACommand { found }));
        }
        cut.bytes = cut.bytes.slice(prefix..);
        cut.commands = cut.commands.saturating_sub(commands);
        cut.start = self.skip;
        cut.db = passed.db;
        Ok(Some(cut))
    }

    fn fault(&self, source: StreamFault) -> Fault {
        Fault { at: self.consumed(), source }
    }

    fn fault_before(&self, line: &[u8], source: StreamFault) -> Fault {
        Fault { at: self.consumed() - line.len() as u64, source }
    }
}

/// Where the stream stands after the first `prefix` bytes of a batch, and how many commands these are. The offset is less
/// than that where they do not end with a command.
pub(crate) fn after(batch: &Batch, prefix: usize, id: ReplicationId) -> (Position, u32) {
    let begin = Position { db: batch.db, ..Position::after_snapshot(id, batch.start) };
    let mut scanner = StreamScanner::new(begin);
    let mut passed = BytesMut::from(batch.bytes.get(..prefix).unwrap_or_default());
    let mut commands = 0;
    while let Ok(Some(Item::Commands(part))) = scanner.next(&mut passed) {
        commands += part.commands;
    }
    (scanner.position().clone(), commands)
}
