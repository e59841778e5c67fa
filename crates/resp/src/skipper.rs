use crate::budget::Budget;
use crate::line::{self, Head, LineEnd};
use crate::plain;
use crate::{DecodeError, ErrorReply, Limits};

/// Counts replies and finds the errors among them, and keeps nothing else.
///
/// Made for pipelines of writes, where nobody wants the replies as long as they are not errors. It is fed with the
/// pieces that arrive, cut at any byte; it builds no frames, holds no payloads (only a line that was cut, and the
/// text of an error), and allocates nothing per reply. It accepts and refuses the same bytes as
/// [`Decoder`](crate::Decoder).
///
/// An error anywhere inside a reply counts, so that the result of EXEC tells of a command in the transaction that
/// failed. Pushes are not replies, and attributes are not looked into.
///
/// ```
/// use keyferry_resp::ReplySkipper;
///
/// let mut skipper = ReplySkipper::new();
/// let input = b"+OK\r\n:1\r\n*2\r\n+OK\r\n-OOM command not allowed\r\n+OK\r\n$5\r\nhel";
///
/// let first = skipper.skip(input, u64::MAX)?;
/// let (consumed, replies) = (first.consumed, first.replies);
/// let error = first.error.expect("the third reply has one");
/// assert_eq!(replies, 3);
/// assert_eq!((error.text, error.element), (&b"OOM command not allowed"[..], Some(1)));
///
/// let rest = skipper.skip(&input[consumed..], u64::MAX)?;
/// assert_eq!((rest.replies, rest.error), (1, None));
/// assert!(skipper.is_mid_reply());
/// # Ok::<(), keyferry_resp::DecodeError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ReplySkipper {
    budget: Budget,
    /// Bytes consumed so far.
    offset: u64,
    /// Offset of the last element's type byte.
    last: u64,
    /// The line that was cut at the end of the input, type byte first.
    line: Vec<u8>,
    /// How much of `line` is known to hold no line end.
    searched: usize,
    payload: Option<Payload>,
    /// Open aggregates, outermost first.
    stack: Vec<Level>,
    /// Whether the frame in progress is a push.
    push: bool,
    /// Errors in the reply in progress, or in the one that was reported last.
    errors: u64,
    /// Text of the first of them.
    text: Vec<u8>,
    /// Where the first of them is.
    element: Option<u64>,
    /// Nulls in the reply in progress.
    nulls: u64,
    failed: Option<DecodeError>,
}

/// What one call of [`ReplySkipper::skip`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped<'a> {
    /// Bytes of the input that are done with: all of it, unless a reply with an error or the wanted number of
    /// replies came before its end.
    pub consumed: usize,
    /// Replies that were completed.
    pub replies: u64,
    /// Pushes that were completed; they are not among the replies.
    pub pushes: u64,
    /// Nulls among those replies and in them, such as keys that `MGET` did not find.
    pub nulls: u64,
    /// The error in the last of those replies. None of the others has one.
    pub error: Option<SkippedError<'a>>,
}

/// An error that [`ReplySkipper`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedError<'a> {
    /// The text, as in an error line (without `-`). Of a bulk error at most
    /// [`Limits::line_bytes`] are kept.
    pub text: &'a [u8],
    /// Which element of the reply has it, if the reply is an aggregate; in a map keys and values count.
    pub element: Option<u64>,
    /// How many errors the reply has; this is the first.
    pub count: u64,
}

impl SkippedError<'_> {
    /// The error as a value of its own.
    pub fn to_reply(&self) -> ErrorReply {
        ErrorReply::new(self.text.to_vec())
    }
}

/// A string whose header was read.
#[derive(Clone, Copy, Debug)]
struct Payload {
    kind: u8,
    /// Offset of the type byte.
    offset: u64,
    len: u64,
    /// Bytes of the payload and its CRLF that came.
    done: u64,
    /// Whether CRLF and the format of a verbatim string are right as far as they came.
    closed: bool,
    formatted: bool,
    /// Whether this is the error to report.
    keep: bool,
}

/// An aggregate that lacks elements.
#[derive(Clone, Copy, Debug)]
struct Level {
    shape: Shape,
    /// Elements to come, keys and values counted apart; `None` while streamed.
    left: Option<u64>,
    /// Elements that came; of a streamed string its bytes.
    done: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    List,
    Map,
    /// The pairs of an attribute.
    Attributes,
    /// The value behind an attribute.
    Attributed,
    /// The chunks of a streamed string.
    Chunks,
}

impl ReplySkipper {
    /// A skipper with the default [`Limits`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A skipper with limits of your own.
    pub fn with_limits(limits: Limits) -> Self {
        Self { budget: Budget::new(limits), ..Self::default() }
    }

    /// Goes through `input`: to its end, to the end of the first reply that has an error, or until `most` replies are
    /// complete, whatever comes first. The next call goes on with `input[consumed..]`, and then with what arrives
    /// behind it.
    ///
    /// # Errors
    ///
    /// When the bytes are not RESP or exceed the limits. The error is repeated on every later call. Replies completed
    /// in the same call before it are not reported.
    #[inline]
    pub fn skip(&mut self, input: &[u8], most: u64) -> Result<Skipped<'_>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut run = Run { input, at: 0, replies: 0, pushes: 0, nulls: 0, most };
        let failed = match self.run(&mut run) {
            Ok(failed) => failed,
            Err(error) => {
                self.failed = Some(error.clone());
                return Err(error);
            }
        };
        let error =
            failed.then_some(SkippedError { text: &self.text, element: self.element, count: self.errors });
        let Run { at: consumed, replies, pushes, nulls, .. } = run;
        Ok(Skipped { consumed, replies, pushes, nulls, error })
    }

    /// Takes note of a whole reply of so many bytes that was passed over elsewhere, and has to be within the limits. Only between
    /// replies.
    pub fn pass(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        self.budget.begin(self.offset);
    }

    /// Bytes consumed since this skipper was made.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether part of a reply was consumed and the rest is missing.
    pub fn is_mid_reply(&self) -> bool {
        !self.stack.is_empty() || self.payload.is_some() || !self.line.is_empty()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.budget.limits
    }

    /// `true` when it stopped at a reply with an error.
    fn run(&mut self, run: &mut Run<'_>) -> Result<bool, DecodeError> {
        loop {
            if run.replies == run.most {
                return Ok(false);
            }
            if !self.is_mid_reply() {
                self.short_replies(run);
                if run.replies == run.most {
                    return Ok(false);
                }
                if let Some((length, nulls)) = plain::reply(run.rest(), &self.budget.limits) {
                    self.consume(run, length);
                    run.nulls += nulls;
                    self.budget.begin(self.offset);
                    run.replies += 1;
                    continue;
                }
            }
            let value = match self.payload {
                Some(payload) => self.payload(run, payload)?,
                None => self.header(run)?,
            };
            match value {
                Step::More => return Ok(false),
                Step::Open => {}
                Step::Value => {
                    if self.close()? {
                        self.budget.begin(self.offset);
                        let nulls = std::mem::take(&mut self.nulls);
                        if std::mem::take(&mut self.push) {
                            run.pushes += 1;
                            continue;
                        }
                        run.replies += 1;
                        run.nulls += nulls;
                        if self.errors > 0 {
                            return Ok(true);
                        }
                    }
                }
            }
        }
    }

    /// The common case, between replies: a run of `+OK` and of small integers.
    #[inline]
    fn short_replies(&mut self, run: &mut Run<'_>) {
        self.errors = 0;
        // The texts below must be within the limits as everything else.
        if self.budget.limits.max_line_bytes() < 6 || self.budget.limits.max_frame_bytes() < 9 {
            return;
        }
        let start = run.at;
        let mut rest = run.input.get(start..).unwrap_or_default();
        let full = rest.len();
        let mut left = run.most - run.replies;
        let before = left;
        while left > 0 {
            rest = match rest {
                [b'+', b'O', b'K', b'\r', b'\n', rest @ ..] => rest,
                [b':', b'0'..=b'9', b'\r', b'\n', rest @ ..] => rest,
                [b':', b'1'..=b'9', b'0'..=b'9', b'\r', b'\n', rest @ ..] => rest,
                [b':', b'-', b'1'..=b'9', b'\r', b'\n', rest @ ..] => rest,
                [b'+', b'Q', b'U', b'E', b'U', b'E', b'D', b'\r', b'\n', rest @ ..] => rest,
                _ => break,
            };
            left -= 1;
        }
        let consumed = full - rest.len();
        run.at += consumed;
        run.replies += before - left;
        self.offset += consumed as u64;
        self.budget.begin(self.offset);
    }

    /// Reads a line from the input, or the rest of one that was cut.
    fn header(&mut self, run: &mut Run<'_>) -> Result<Step, DecodeError> {
        let rest = run.rest();
        let Some(&next) = rest.first() else { return Ok(Step::More) };
        let cut = !self.line.is_empty();
        let kind = if cut { self.line[0] } else { next };
        let offset = self.offset - self.line.len() as u64;
        let Some(max) = line::max_text(kind, &self.budget.limits) else {
            return Err(DecodeError::UnknownType { offset, byte: kind });
        };
        self.chunk_place(kind, offset)?;
        if cut {
            // One byte more than may be is enough to see that it is too long.
            let most = rest.len().min(max.saturating_add(3).saturating_sub(self.line.len()));
            let wanted = memchr::memchr(b'\n', &rest[..most]).map_or(most, |lf| lf + 1);
            self.line.extend_from_slice(&rest[..wanted]);
            self.consume(run, wanted);
        }
        let text = if cut { self.line.as_slice() } else { rest };
        let end = match line::line_end(text, 1, self.searched.max(1), max) {
            LineEnd::At(end) => end,
            LineEnd::More(searched) => {
                self.searched = searched;
                if !cut {
                    self.line.extend_from_slice(rest);
                    self.consume(run, rest.len());
                }
                return Ok(Step::More);
            }
            LineEnd::TooLong => return Err(line::too_long(kind, offset, &self.budget.limits)),
            LineEnd::Break(at) => return Err(DecodeError::LineBreak { offset: offset + at as u64 }),
        };
        let head = line::head(kind, &text[1..end], offset)?;
        self.last = offset;
        let size = end as u64 + 2;
        self.budget.frame_size(offset, size)?;
        if head == Head::Error && self.is_in_reply() {
            self.found_error();
            if self.errors == 1 {
                let text = if cut { &self.line[1..end] } else { &rest[1..end] };
                self.text.extend_from_slice(text);
            }
        }
        if cut {
            self.line.clear();
        } else {
            self.consume(run, end + 2);
        }
        self.searched = 0;
        match head {
            Head::Simple
            | Head::Error
            | Head::BigNumber
            | Head::Integer(_)
            | Head::Boolean(_)
            | Head::Double(_) => Ok(Step::Value),
            Head::Null(_) => {
                self.nulls += u64::from(self.is_in_reply());
                Ok(Step::Value)
            }
            Head::Bulk(len) => {
                self.budget.string(offset, size, len, 0)?;
                if kind == b'=' && len < 4 {
                    return Err(DecodeError::InvalidVerbatim { offset });
                }
                let error = kind == b'!' && self.is_in_reply();
                if error {
                    self.found_error();
                }
                self.begin_payload(kind, offset, len, error && self.errors == 1);
                Ok(Step::Open)
            }
            Head::Chunk(len) => {
                let before = self.stack.last().map_or(0, |level| level.done);
                self.budget.string(offset, size, len, before)?;
                if len == 0 {
                    self.stack.pop();
                    return Ok(Step::Value);
                }
                if let Some(level) = self.stack.last_mut() {
                    level.done += len;
                }
                self.begin_payload(kind, offset, len, false);
                Ok(Step::Open)
            }
            Head::StreamedString => Ok(self.open(Shape::Chunks, None)),
            Head::Aggregate(count) => {
                let shape = shape(kind);
                let elements = if shape == Shape::List { count } else { count.saturating_mul(2) };
                // A push is out of band: it stands between replies, at most with attributes of its own.
                if kind == b'>' && self.stack.iter().any(|level| level.shape != Shape::Attributed) {
                    return Err(DecodeError::Misplaced { offset, byte: kind });
                }
                self.budget.aggregate(offset, self.stack.len(), elements)?;
                self.push |= kind == b'>';
                Ok(self.open(shape, Some(elements)))
            }
            Head::StreamedAggregate => {
                self.budget.aggregate(offset, self.stack.len(), 0)?;
                Ok(self.open(shape(kind), None))
            }
            Head::End => match self.stack.pop() {
                Some(Level { shape: Shape::List, left: None, .. }) => Ok(Step::Value),
                Some(Level { shape: Shape::Map, left: None, done }) if done % 2 == 0 => Ok(Step::Value),
                _ => Err(DecodeError::Misplaced { offset, byte: kind }),
            },
        }
    }

    fn begin_payload(&mut self, kind: u8, offset: u64, len: u64, keep: bool) {
        self.payload = Some(Payload { kind, offset, len, done: 0, closed: true, formatted: true, keep });
    }

    /// Skips the payload of a string and its CRLF, as far as they are there.
    fn payload(&mut self, run: &mut Run<'_>, mut payload: Payload) -> Result<Step, DecodeError> {
        let rest = run.rest();
        let whole = payload.len + 2;
        let count = usize::try_from(whole - payload.done).unwrap_or(usize::MAX).min(rest.len());
        let here = &rest[..count];
        // The byte of the payload with this index, if it is in this piece.
        let byte = |index: u64| {
            index.checked_sub(payload.done).and_then(|i| usize::try_from(i).ok()).and_then(|i| here.get(i))
        };
        payload.formatted &= payload.kind != b'=' || byte(3).is_none_or(|&c| c == b':');
        payload.closed &= byte(payload.len).is_none_or(|&c| c == b'\r');
        payload.closed &= byte(payload.len + 1).is_none_or(|&c| c == b'\n');
        if payload.keep {
            let text = usize::try_from(payload.len - payload.done.min(payload.len)).unwrap_or(usize::MAX);
            let room = self.budget.limits.max_line_bytes().saturating_sub(self.text.len());
            self.text.extend_from_slice(&here[..count.min(text).min(room)]);
        }
        payload.done += count as u64;
        self.consume(run, count);
        if payload.done < whole {
            self.payload = Some(payload);
            return Ok(Step::More);
        }
        if !payload.formatted {
            return Err(DecodeError::InvalidVerbatim { offset: payload.offset });
        }
        if !payload.closed {
            return Err(DecodeError::MissingCrlf { offset: self.offset - 2 });
        }
        self.payload = None;
        Ok(if payload.kind == b';' { Step::Open } else { Step::Value })
    }

    /// Whether a chunk stands where it may, and nothing else does.
    fn chunk_place(&self, byte: u8, offset: u64) -> Result<(), DecodeError> {
        let in_chunks = self.stack.last().is_some_and(|level| level.shape == Shape::Chunks);
        let streamed =
            || self.stack.iter().any(|level| level.left.is_none() && level.shape != Shape::Attributed);
        if in_chunks != (byte == b';') || byte == b'.' && !streamed() {
            return Err(DecodeError::Misplaced { offset, byte });
        }
        Ok(())
    }

    fn open(&mut self, shape: Shape, left: Option<u64>) -> Step {
        let shape = match (shape, left) {
            (Shape::Attributes, Some(0)) => Shape::Attributed,
            (_, Some(0)) => return Step::Value,
            _ => shape,
        };
        self.stack.push(Level { shape, left, done: 0 });
        Step::Open
    }

    /// Counts a whole value in the aggregate that waits for it. `true` if that made everything whole.
    fn close(&mut self) -> Result<bool, DecodeError> {
        loop {
            let Some(level) = self.stack.last_mut() else { return Ok(true) };
            level.done += 1;
            match (level.shape, &mut level.left) {
                (Shape::Attributed, _) => {}
                (_, Some(left @ 2..)) => {
                    *left -= 1;
                    return Ok(false);
                }
                (Shape::Attributes, _) => {
                    level.shape = Shape::Attributed;
                    return Ok(false);
                }
                (_, Some(_)) => {}
                (shape, None) => {
                    // A pair counts when it is whole, as both of its elements.
                    let added = match shape {
                        Shape::Map if level.done % 2 == 1 => return Ok(false),
                        Shape::Map => 2,
                        _ => 1,
                    };
                    self.budget.elements(self.last, level.done, added)?;
                    return Ok(false);
                }
            }
            self.stack.pop();
        }
    }

    /// Whether an error or a null here is one of a reply: not of a push, nor of attributes.
    fn is_in_reply(&self) -> bool {
        !self.push && self.stack.iter().all(|level| level.shape != Shape::Attributes)
    }

    fn found_error(&mut self) {
        self.errors += 1;
        if self.errors == 1 {
            self.text.clear();
            let outer = self.stack.iter().find(|level| level.shape != Shape::Attributed);
            self.element = outer.map(|level| level.done);
        }
    }

    fn consume(&mut self, run: &mut Run<'_>, count: usize) {
        run.at += count;
        self.offset += count as u64;
    }
}

fn shape(kind: u8) -> Shape {
    match kind {
        b'%' => Shape::Map,
        b'|' => Shape::Attributes,
        _ => Shape::List,
    }
}

/// One pass over one input.
struct Run<'i> {
    input: &'i [u8],
    /// How far it came.
    at: usize,
    replies: u64,
    pushes: u64,
    nulls: u64,
    most: u64,
}

impl<'i> Run<'i> {
    fn rest(&self) -> &'i [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }
}

/// What a header or a payload came to.
enum Step {
    More,
    Open,
    Value,
}
