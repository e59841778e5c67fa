//! One append-only file, from bytes pushed in as they come.

use std::ops::Range;

use crate::error::Error;
use crate::event::Event;
use crate::limits::Limits;
use crate::parser::Parser;

/// The longest line of a command's frame: a mark, a number of 20 digits, CR LF.
const MAX_FRAME_LINE: usize = 23;
/// The longest annotation, CR LF included.
const MAX_ANNOTATION: usize = 1024;

/// Something found in an append-only file. Borrows from the parser until the next call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AofEvent<'a> {
    /// Something found in the snapshot in front of the commands, up to [`Event::End`].
    Snapshot(Event<'a>),
    /// A command.
    Command(AofCommand<'a>),
    /// A `#TS:` annotation (Redis 7.0): commands that follow were run in this second or later.
    Timestamp {
        /// Seconds since the Unix epoch.
        seconds: i64,
        /// Where it starts.
        offset: u64,
    },
    /// Another annotation, which servers pass over.
    Annotation {
        /// The line, without its end.
        text: &'a [u8],
        /// Where it starts.
        offset: u64,
    },
}

/// A command of an append-only file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AofCommand<'a> {
    /// The database in which it runs; for `SELECT` the one it selects.
    pub db: u64,
    /// Where it starts.
    pub offset: u64,
    /// Whether it belongs to a transaction: `MULTI`, `EXEC`, and all between them.
    pub in_transaction: bool,
    bytes: &'a [u8],
    args: &'a [Range<usize>],
}

impl<'a> AofCommand<'a> {
    /// Its name and arguments; there is at least a name.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.args.iter().map(move |range| &bytes[range.clone()])
    }

    /// Its bytes as they stand in the file, to be sent or written as they are.
    pub const fn raw(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Walks one append-only file: an optional snapshot, then commands and annotations.
///
/// Memory: that of a [`Parser`] for the snapshot, then the longest command. After an error every further call gives it
/// again.
#[derive(Debug)]
pub struct AofParser {
    limits: Limits,
    /// While the snapshot is read.
    snapshot: Option<Box<Parser>>,
    buf: Vec<u8>,
    /// `buf[start..]` is not consumed.
    start: usize,
    /// Where in the file `buf[start]` is.
    offset: u64,
    scan: Scan,
    db: u64,
    /// Where the open transaction starts.
    transaction: Option<u64>,
    failed: Option<Error>,
}

/// How far the command at the start of the buffer is read; positions count from there.
#[derive(Debug, Default)]
struct Scan {
    at: usize,
    args_left: Option<u64>,
    /// The length of the argument whose bytes come.
    bulk: Option<usize>,
    args: Vec<Range<usize>>,
}

/// What stands at the start of the buffer.
enum Record {
    /// A command of so many bytes.
    Command(usize),
    /// A line of so many bytes without its end.
    Annotation(usize),
    Need,
}

impl Default for AofParser {
    fn default() -> Self {
        Self::new()
    }
}

impl AofParser {
    /// A parser with default limits.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A parser with these limits: those of [`Parser`] for the snapshot, [`Limits::element`] for an argument and
    /// [`Limits::command`] for a command.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            snapshot: None,
            buf: Vec::new(),
            start: 0,
            offset: 0,
            scan: Scan::default(),
            db: 0,
            transaction: None,
            failed: None,
        }
    }

    /// Says that reading begins at this byte of the file, behind the snapshot where there is one: for offsets, and
    /// because no snapshot can follow.
    #[must_use]
    pub const fn at_offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Copies in the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        let first = self.offset == 0 && self.start == self.buf.len() && self.snapshot.is_none();
        // No command and no annotation starts with these.
        if first && matches!(bytes.first(), Some(b'R' | b'V')) {
            self.snapshot = Some(Box::new(Parser::with_limits(self.limits.clone())));
        }
        if let Some(snapshot) = &mut self.snapshot {
            return snapshot.feed(bytes);
        }
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        } else if self.start > self.buf.len() / 2 {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// Where in the file the events end that were given.
    pub fn offset(&self) -> u64 {
        self.snapshot.as_ref().map_or(self.offset, |snapshot| snapshot.offset())
    }

    /// Up to where the file is good: the end of the last whole command that is not in an open transaction, or of
    /// the snapshot. A file cut there loads.
    pub fn good_offset(&self) -> u64 {
        match (&self.snapshot, self.transaction) {
            (Some(snapshot), _) if !snapshot.is_finished() => 0,
            (_, Some(transaction)) => transaction,
            _ => self.offset(),
        }
    }

    /// Whether a transaction is open: its `MULTI` was given, its `EXEC` was not.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether it is still in the snapshot.
    pub(super) fn in_snapshot(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| !snapshot.is_finished())
    }

    /// The next event, or `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// Those of [`Parser::next_event`] in the snapshot. After it, [`Error::Corrupt`] where the bytes are no command, where
    /// transactions are nested or end without having begun, and [`Error::LimitExceeded`].
    pub fn next_event(&mut self) -> Result<Option<AofEvent<'_>>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(snapshot) = self.snapshot.take_if(|snapshot| snapshot.is_finished()) {
            self.offset = snapshot.offset();
            self.buf.extend_from_slice(snapshot.remaining());
        }
        if self.snapshot.is_some() {
            return match &mut self.snapshot {
                Some(snapshot) => Ok(snapshot.next_event()?.map(AofEvent::Snapshot)),
                None => Ok(None),
            };
        }
        match self.record() {
            Ok(Record::Need) => Ok(None),
            Ok(Record::Command(size)) => Ok(Some(AofEvent::Command(self.command(size)?))),
            Ok(Record::Annotation(size)) => Ok(Some(self.annotation(size)?)),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// To be called when the file is over and all events were taken.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when it ends inside a command, a transaction or the snapshot. Servers forgive the first two
    /// in their last file and cut it at [`good_offset`](Self::good_offset).
    pub fn end_of_input(&mut self) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(snapshot) = &mut self.snapshot {
            return snapshot.end_of_input();
        }
        let left = self.buf.len() - self.start;
        let offset = self.offset + left as u64;
        if left > 0 {
            Err(Error::Truncated { offset, what: "a command of an append-only file" })
        } else if self.transaction.is_some() {
            Err(Error::Truncated { offset, what: "a transaction of an append-only file" })
        } else {
            Ok(())
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.failed = Some(error.clone());
        error
    }

    fn corrupt(&self, at: usize, what: &'static str) -> Error {
        Error::Corrupt { offset: self.offset + at as u64, what, key: None }
    }

    /// Reads on in the record at the start of the buffer.
    fn record(&mut self) -> Result<Record, Error> {
        if self.scan.at == 0 {
            // Those of the command before.
            self.scan.args.clear();
        }
        loop {
            let rest = &self.buf[self.start + self.scan.at..];
            if let Some(len) = self.scan.bulk {
                let Some(end) = rest.get(len..len + 2) else { return Ok(Record::Need) };
                let at = self.scan.at;
                if end != b"\r\n" {
                    return Err(self.corrupt(at + len, "an argument does not end with CR LF"));
                }
                self.scan.args.push(at..at + len);
                self.scan.at += len + 2;
                self.scan.bulk = None;
                continue;
            }
            match self.scan.args_left {
                Some(0) => return Ok(Record::Command(self.scan.at)),
                Some(left) => {
                    let Some((len, size)) = self.frame(b'$', "an argument does not start with its length")?
                    else {
                        return Ok(Record::Need);
                    };
                    let (argument, command) = (self.limits.element as u64, self.limits.command as u64);
                    self.limit("length of an argument", len, argument)?;
                    let total = (self.scan.at + size) as u64 + len;
                    self.limit("length of a command", total, command)?;
                    self.scan.bulk = Some(len as usize);
                    self.scan.args_left = Some(left - 1);
                    self.scan.at += size;
                }
                None if rest.first() == Some(&b'#') => {
                    let Some(end) = self.line(MAX_ANNOTATION, "an annotation is too long")? else {
                        return Ok(Record::Need);
                    };
                    return Ok(Record::Annotation(end));
                }
                None => {
                    let Some((count, size)) = self.frame(b'*', "no command starts here")? else {
                        return Ok(Record::Need);
                    };
                    if count == 0 {
                        return Err(self.corrupt(0, "a command has no name"));
                    }
                    // Each argument takes six bytes at least, so a count beyond this is a claim that cannot be met.
                    self.limit("number of arguments", count, self.limits.command as u64)?;
                    self.scan.args_left = Some(count);
                    self.scan.at += size;
                }
            }
        }
    }

    fn limit(&self, what: &'static str, claimed: u64, limit: u64) -> Result<(), Error> {
        if claimed <= limit {
            return Ok(());
        }
        let offset = self.offset + self.scan.at as u64;
        Err(Error::LimitExceeded { offset, what, claimed, limit, key: None })
    }

    /// A line at the scan's position that is `mark` and a number: the number, and the size with CR LF.
    fn frame(&self, mark: u8, what: &'static str) -> Result<Option<(u64, usize)>, Error> {
        let at = self.scan.at;
        let rest = &self.buf[self.start + at..];
        if rest.first().is_some_and(|first| *first != mark) {
            return Err(self.corrupt(at, what));
        }
        let Some(end) = self.line(MAX_FRAME_LINE, what)? else { return Ok(None) };
        let mut number = 0u64;
        for &digit in &rest[1..end] {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9);
            let next = digit.and_then(|digit| number.checked_mul(10)?.checked_add(digit.into()));
            number = next.ok_or_else(|| self.corrupt(at, what))?;
        }
        if end == 1 {
            return Err(self.corrupt(at, what));
        }
        Ok(Some((number, end + 2)))
    }

    /// The size of the line at the scan's position, without CR LF.
    fn line(&self, longest: usize, what: &'static str) -> Result<Option<usize>, Error> {
        let rest = &self.buf[self.start + self.scan.at..];
        let seen = &rest[..rest.len().min(longest)];
        match seen.iter().position(|byte| *byte == b'\n') {
            Some(end) if end > 0 && seen[end - 1] == b'\r' => Ok(Some(end - 1)),
            Some(_) => Err(self.corrupt(self.scan.at, "a line does not end with CR LF")),
            None if seen.len() == longest => Err(self.corrupt(self.scan.at, what)),
            None => Ok(None),
        }
    }

    fn command(&mut self, size: usize) -> Result<AofCommand<'_>, Error> {
        let (start, offset) = (self.start, self.offset);
        let name = self.scan.args.first().cloned().unwrap_or_default();
        let name = &self.buf[start..start + size][name];
        let mut in_transaction = self.transaction.is_some();
        if name.eq_ignore_ascii_case(b"MULTI") {
            if in_transaction {
                let error = self.corrupt(0, "a transaction begins inside another");
                return Err(self.fail(error));
            }
            self.transaction = Some(offset);
            in_transaction = true;
        } else if name.eq_ignore_ascii_case(b"EXEC") {
            if !in_transaction {
                let error = self.corrupt(0, "a transaction ends that did not begin");
                return Err(self.fail(error));
            }
            self.transaction = None;
        } else if name.eq_ignore_ascii_case(b"SELECT") {
            let db = self.scan.args.get(1).map(|db| &self.buf[start..][db.clone()]);
            let db = db.and_then(|db| std::str::from_utf8(db).ok()?.parse().ok());
            let Some(db) = db else {
                let error = self.corrupt(0, "SELECT names no database");
                return Err(self.fail(error));
            };
            self.db = db;
        }
        self.start += size;
        self.offset += size as u64;
        // The ranges are kept for the event, until the next record begins.
        (self.scan.at, self.scan.args_left) = (0, None);
        Ok(AofCommand {
            db: self.db,
            offset,
            in_transaction,
            bytes: &self.buf[start..start + size],
            args: &self.scan.args,
        })
    }

    fn annotation(&mut self, size: usize) -> Result<AofEvent<'_>, Error> {
        let (start, offset) = (self.start, self.offset);
        let text = &self.buf[start..start + size];
        let seconds = match text.strip_prefix(b"#TS:") {
            None => None,
            Some(seconds) => match std::str::from_utf8(seconds).ok().and_then(|text| text.parse().ok()) {
                Some(seconds) => Some(seconds),
                None => {
                    let what = "a time annotation holds no number";
                    return Err(self.fail(Error::Corrupt { offset, what, key: None }));
                }
            },
        };
        self.start += size + 2;
        self.offset += size as u64 + 2;
        Ok(match seconds {
            Some(seconds) => AofEvent::Timestamp { seconds, offset },
            None => AofEvent::Annotation { text: &self.buf[start..start + size], offset },
        })
    }
}
