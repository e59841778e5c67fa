use bytes::{Buf, Bytes, BytesMut};

use crate::budget::Budget;
use crate::token::{Kind, Stop, Token, Tokenizer};
use crate::{DecodeError, Double, Frame, Limits, Null};

/// Turns bytes of a server into [`Frame`]s.
///
/// Call [`decode`](Self::decode) with the buffer that the connection is read into until it gives `None`, read more
/// bytes behind what is left in it, and call again. The decoder takes whole elements out of the buffer even in the
/// middle of a frame and remembers how far it searched, so that nothing is searched twice however small the pieces
/// are that arrive. Payloads are slices of the buffer, not copies (only a streamed string of several chunks is put
/// together).
///
/// ```
/// use bytes::BytesMut;
/// use keyferry_resp::{Decoder, Frame};
///
/// let mut decoder = Decoder::new();
/// let mut buf = BytesMut::from("*2\r\n$3\r\nfoo\r\n:4");
/// assert_eq!(decoder.decode(&mut buf)?, None);
/// buf.extend_from_slice(b"2\r\n");
/// assert_eq!(decoder.decode(&mut buf)?, Some(Frame::Array(vec![Frame::from("foo"), Frame::Integer(42)])));
/// # Ok::<(), keyferry_resp::DecodeError>(())
/// ```
// Two passes over what is in the buffer. The tokenizer finds whole elements and knows, by counting, where the frame
// ends; then one slice is taken out of the buffer, and the frame is built from the tokens as slices of that. Taking
// every payload out of the `BytesMut` by itself costs about as much as all the rest.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    budget: Budget,
    /// Bytes taken out of buffers so far.
    offset: u64,
    tokens: Tokenizer,
    /// Kept for its memory only: empty between calls.
    tape: Vec<Token>,
    /// Open aggregates, outermost first.
    stack: Vec<Level>,
    failed: Option<DecodeError>,
}

/// An aggregate that lacks elements.
#[derive(Clone, Debug)]
enum Level {
    /// `*`, `~`, `>`; `left` is `None` while streamed.
    List { kind: u8, left: Option<u64>, items: Vec<Frame> },
    /// `%`, `|`; `left` counts whole pairs.
    Pairs { kind: u8, left: Option<u64>, key: Option<Frame>, pairs: Vec<(Frame, Frame)> },
    /// After the pairs of `|`: the value that they belong to.
    Attributed { attributes: Vec<(Frame, Frame)> },
    /// `$?`: the chunks so far, the first one uncopied.
    Chunks { first: Bytes, joined: BytesMut },
}

/// The first reservation for a payload that is still to come; later ones double what has arrived.
const FIRST_RESERVE: usize = 16 << 10;

impl Decoder {
    /// A decoder with the default [`Limits`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder with limits of your own.
    pub fn with_limits(limits: Limits) -> Self {
        Self { budget: Budget::new(limits), ..Self::default() }
    }

    /// Takes the next frame from the front of `buf`, or gives `None` if it is not complete yet.
    ///
    /// On `None` the decoder may have taken whole elements of the frame out of `buf` already, and has reserved room in
    /// it for what it knows to be missing (at most as much as has arrived, 16 KiB at least): read behind what is left.
    /// Bytes behind the frame are never touched.
    ///
    /// # Errors
    ///
    /// When the bytes are not RESP or exceed the limits. The error is repeated on every later call.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        if buf.len() < self.tokens.need().max(1) {
            return self.failed.clone().map_or(Ok(None), Err);
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.run(buf);
        self.tape.clear();
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.stack = Vec::new();
        }
        result
    }

    /// Bytes taken out of buffers since this decoder was made. Right after a frame was given that is the offset of
    /// its end.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether part of a frame was taken out of the buffer and the rest is missing. A connection that ends now, or
    /// with bytes left in the buffer, ended too early.
    pub fn is_mid_frame(&self) -> bool {
        !self.stack.is_empty()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.budget.limits
    }

    fn run(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        loop {
            self.tape.clear();
            let (taken, stop) = self.tokens.pass(buf, self.offset, &self.budget, &mut self.tape);
            if let ([token], Stop::Whole, []) = (&self.tape[..], &stop, &self.stack[..])
                && token.kind.is_leaf()
            {
                self.offset += taken as u64;
                self.budget.begin(self.offset);
                return Ok(Some(single(buf, token, taken)));
            }
            // The shape of most replies with elements: it goes to the caller without a stop on the stack of levels.
            if let (Stop::Whole, [head, elements @ ..], []) = (&stop, &self.tape[..], &self.stack[..])
                && head.kind == Kind::Aggregate(b'*')
                && elements.iter().all(|token| token.kind.is_leaf())
            {
                self.budget.aggregate(self.offset, 0, head.value)?;
                let raw = buf.split_to(taken).freeze();
                let items = elements.iter().map(|token| leaf(&raw, token)).collect();
                self.offset += taken as u64;
                self.budget.begin(self.offset);
                return Ok(Some(Frame::Array(items)));
            }
            // What precedes an error is built too: it may hold one that comes first.
            let frame = if taken > 0 { self.build(buf.split_to(taken).freeze())? } else { None };
            self.offset += taken as u64;
            match stop {
                Stop::Batch => {}
                Stop::Failed(error) => return Err(error),
                Stop::Whole => {
                    self.budget.begin(self.offset);
                    return Ok(frame);
                }
                Stop::More => {
                    let missing = self.tokens.need().saturating_sub(buf.len());
                    if missing > 0 {
                        buf.reserve(missing.min(buf.len().max(FIRST_RESERVE)));
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Builds what the tokens say from their bytes. Gives the frame if that made it whole.
    fn build(&mut self, raw: Bytes) -> Result<Option<Frame>, DecodeError> {
        let mut next = 0;
        while let Some(&token) = self.tape.get(next) {
            next += 1;
            let value = match token.kind {
                Kind::Aggregate(kind) => {
                    self.judge(kind, token.value, token.at)?;
                    match self.flat(&raw, kind, token.value, next) {
                        Some((whole, behind)) => {
                            next = behind;
                            whole
                        }
                        None => {
                            self.open(kind, Some(token.value), next);
                            continue;
                        }
                    }
                }
                Kind::StreamedAggregate(kind) => {
                    self.judge(kind, 0, token.at)?;
                    self.open(kind, None, next);
                    continue;
                }
                Kind::StreamedString => {
                    self.stack.push(Level::Chunks { first: Bytes::new(), joined: BytesMut::new() });
                    continue;
                }
                Kind::Chunk => {
                    self.chunk(raw.slice(token.text()));
                    continue;
                }
                Kind::LastChunk | Kind::End => self.end(token)?,
                _ => leaf(&raw, &token),
            };
            if let Some(Level::List { left: Some(left @ 2..), items, .. }) = self.stack.last_mut() {
                items.push(value);
                *left -= 1;
            } else if let Some(whole) = self.close(value, self.tape[next - 1].at)? {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    /// Judges the head of an aggregate at index `at`.
    #[inline]
    fn judge(&mut self, kind: u8, entries: u64, at: usize) -> Result<(), DecodeError> {
        let offset = self.offset + at as u64;
        // A push is out of band: it stands between replies, at most with attributes of its own.
        if kind == b'>' && !self.stack.iter().all(|level| matches!(level, Level::Attributed { .. })) {
            return Err(DecodeError::Misplaced { offset, byte: kind });
        }
        let per_entry = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
        let elements = entries.saturating_mul(per_entry);
        self.budget.aggregate(offset, self.stack.len(), elements)
    }

    /// The common case: a list whose elements, from token `next` on, are all on the tape and have no others inside.
    /// Gives the list and the token behind it.
    #[inline]
    fn flat(&self, raw: &Bytes, kind: u8, entries: u64, next: usize) -> Option<(Frame, usize)> {
        let count = usize::try_from(entries).ok()?;
        let tokens = self.tape.get(next..next.checked_add(count)?)?;
        if kind == b'%' && count == 0 {
            return Some((Frame::Map(Vec::new()), next));
        }
        if !matches!(kind, b'*' | b'~' | b'>') || !tokens.iter().all(|token| token.kind.is_leaf()) {
            return None;
        }
        let items = tokens.iter().map(|token| leaf(raw, token)).collect();
        Some((list(kind, items), next + count))
    }

    /// Opens an aggregate whose first element is token `next`.
    fn open(&mut self, kind: u8, left: Option<u64>, next: usize) {
        // Memory for elements that are there, not for those that are announced.
        let seen = self.tape.len() - next;
        let capacity = |most: usize| left.and_then(|left| usize::try_from(left).ok()).unwrap_or(0).min(most);
        self.stack.push(match (kind, left) {
            (b'|', Some(0)) => Level::Attributed { attributes: Vec::new() },
            (b'%' | b'|', _) => {
                Level::Pairs { kind, left, key: None, pairs: Vec::with_capacity(capacity(seen / 2)) }
            }
            _ => Level::List { kind, left, items: Vec::with_capacity(capacity(seen)) },
        });
    }

    /// Puts a whole value into the aggregate that waits for it. Gives the frame if that made everything whole. `at` is the
    /// index of the last type byte before the end of the value.
    fn close(&mut self, mut value: Frame, at: usize) -> Result<Option<Frame>, DecodeError> {
        loop {
            let (left, entries, per_entry) = match self.stack.last_mut() {
                None => return Ok(Some(value)),
                Some(Level::List { left, items, .. }) => {
                    items.push(value);
                    (left, items.len(), 1)
                }
                Some(Level::Pairs { left, key, pairs, .. }) => {
                    let Some(key) = key.take() else {
                        *key = Some(value);
                        return Ok(None);
                    };
                    pairs.push((key, value));
                    (left, pairs.len(), 2)
                }
                Some(Level::Attributed { attributes }) => {
                    let attributes = std::mem::take(attributes);
                    value = Frame::Attributed { attributes, value: Box::new(value) };
                    self.stack.pop();
                    continue;
                }
                // Only chunks stand in a streamed string, and those are not values.
                Some(Level::Chunks { .. }) => return Ok(None),
            };
            match left {
                Some(1) => {}
                Some(left) => {
                    *left -= 1;
                    return Ok(None);
                }
                None => {
                    let offset = self.offset + at as u64;
                    self.budget.elements(offset, (entries * per_entry) as u64, per_entry as u64)?;
                    return Ok(None);
                }
            }
            value = match self.stack.pop() {
                Some(Level::List { kind, items, .. }) => list(kind, items),
                Some(Level::Pairs { kind: b'|', pairs, .. }) => {
                    self.stack.push(Level::Attributed { attributes: pairs });
                    return Ok(None);
                }
                Some(Level::Pairs { pairs, .. }) => Frame::Map(pairs),
                _ => return Ok(None),
            };
        }
    }

    fn chunk(&mut self, chunk: Bytes) {
        if let Some(Level::Chunks { first, joined }) = self.stack.last_mut() {
            if first.is_empty() && joined.is_empty() {
                *first = chunk;
                return;
            }
            if joined.is_empty() {
                joined.extend_from_slice(first);
                *first = Bytes::new();
            }
            joined.extend_from_slice(&chunk);
        }
    }

    /// Ends what is streamed.
    fn end(&mut self, token: Token) -> Result<Frame, DecodeError> {
        match self.stack.pop() {
            Some(Level::List { kind, left: None, items }) => Ok(list(kind, items)),
            Some(Level::Pairs { left: None, key: None, pairs, .. }) => Ok(Frame::Map(pairs)),
            Some(Level::Chunks { first, joined }) if joined.is_empty() => Ok(Frame::Bulk(first)),
            Some(Level::Chunks { joined, .. }) => Ok(Frame::Bulk(joined.freeze())),
            _ => Err(DecodeError::Misplaced { offset: self.offset + token.at as u64, byte: b'.' }),
        }
    }
}

/// The frame of the only token in the next `taken` bytes of `buf`.
#[inline]
fn single(buf: &mut BytesMut, token: &Token, taken: usize) -> Frame {
    match token.kind {
        Kind::Integer | Kind::Ok | Kind::Null(_) | Kind::Boolean(_) | Kind::Double => {
            buf.advance(taken);
            leaf(&Bytes::new(), token)
        }
        Kind::Bulk => {
            let text = token.text();
            buf.advance(text.start);
            let payload = buf.split_to(text.len()).freeze();
            buf.advance(2);
            Frame::Bulk(payload)
        }
        _ => leaf(&buf.split_to(taken).freeze(), token),
    }
}

/// The frame of a token that is one by itself.
#[inline(always)]
fn leaf(raw: &Bytes, token: &Token) -> Frame {
    if token.kind == Kind::Bulk { Frame::Bulk(raw.slice(token.text())) } else { other_leaf(raw, token) }
}

/// Apart, so that the common case is built where it will stay and not moved there.
#[inline(never)]
fn other_leaf(raw: &Bytes, token: &Token) -> Frame {
    match token.kind {
        Kind::Integer => Frame::Integer(token.value.cast_signed()),
        Kind::Bulk => Frame::Bulk(raw.slice(token.text())),
        Kind::Ok => Frame::Simple(Bytes::from_static(b"OK")),
        Kind::Null(null) => Frame::Null(null),
        Kind::Simple => Frame::Simple(raw.slice(token.text())),
        Kind::Error => Frame::Error(raw.slice(token.text())),
        Kind::Boolean(value) => Frame::Boolean(value),
        Kind::Double => Frame::Double(Double::new(f64::from_bits(token.value))),
        Kind::BigNumber => Frame::BigNumber(raw.slice(token.text())),
        Kind::BulkError => Frame::BulkError(raw.slice(token.text())),
        Kind::Verbatim => {
            let mut text = raw.slice(token.text());
            let prefix = text.split_to(4);
            Frame::Verbatim { format: [prefix[0], prefix[1], prefix[2]], text }
        }
        // No leaves.
        Kind::Aggregate(_)
        | Kind::StreamedAggregate(_)
        | Kind::End
        | Kind::StreamedString
        | Kind::Chunk
        | Kind::LastChunk => Frame::Null(Null::Resp3),
    }
}

fn list(kind: u8, items: Vec<Frame>) -> Frame {
    match kind {
        b'~' => Frame::Set(items),
        b'>' => Frame::Push(items),
        _ => Frame::Array(items),
    }
}
