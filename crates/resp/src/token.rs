//! The first pass over a reply: which elements lie where, without building them.

use crate::budget::Budget;
use crate::line::{self, Head, LineEnd};
use crate::{DecodeError, Null};

/// One element, or the head of one that has others inside. Small, as two are written and read for each argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// Bytes from the type byte to the text or payload.
    head: u8,
    /// Index of the type byte from the start of the input.
    pub(crate) at: usize,
    /// Length of the text or payload, entries of an aggregate, or the value in 64 bits, as `kind` has it.
    pub(crate) value: u64,
}

/// What a token is. The name in brackets is what its value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// (length)
    Bulk,
    /// (the bits of the integer)
    Integer,
    /// (length)
    Simple,
    /// `+OK`, whose text needs no memory.
    Ok,
    /// (length)
    Error,
    Null(Null),
    Boolean(bool),
    /// (the bits of the double)
    Double,
    /// (length)
    BigNumber,
    /// (length)
    BulkError,
    /// (length, that of the format included)
    Verbatim,
    /// `*`, `~`, `>`, `%`, `|` (elements or pairs)
    Aggregate(u8),
    /// `*?`, `~?`, `%?`
    StreamedAggregate(u8),
    /// The end of a streamed aggregate.
    End,
    StreamedString,
    /// (length)
    Chunk,
    /// The end of a streamed string.
    LastChunk,
}

impl Token {
    /// A token without text.
    #[inline(always)]
    fn plain(kind: Kind, at: usize, value: u64) -> Self {
        Self { kind, head: 0, at, value }
    }

    /// A token with `len` bytes of text or payload at index `text`.
    #[inline(always)]
    fn with_text(kind: Kind, at: usize, text: usize, len: usize) -> Self {
        // A type byte, 20 digits and CRLF at most.
        Self { kind, head: (text - at) as u8, at, value: len as u64 }
    }

    /// Where the text or payload is.
    #[inline(always)]
    pub(crate) fn text(&self) -> std::ops::Range<usize> {
        let start = self.at + usize::from(self.head);
        start..start + self.value as usize
    }
}

impl Kind {
    /// Whether the token is a value by itself.
    #[inline(always)]
    pub(crate) fn is_leaf(self) -> bool {
        !matches!(
            self,
            Self::Aggregate(_)
                | Self::StreamedAggregate(_)
                | Self::End
                | Self::StreamedString
                | Self::Chunk
                | Self::LastChunk
        )
    }
}

/// What the tokenizer knows between two calls.
#[derive(Clone, Debug)]
pub(crate) struct Tokenizer {
    /// Elements that are missing until the frame is whole. An aggregate takes one away and adds its own.
    outstanding: u64,
    /// `outstanding` outside of each open streamed aggregate. Inside, it is so high that it never gets to 0.
    streams: Vec<u64>,
    /// The bytes so far of the open streamed string.
    chunks: Option<u64>,
    /// The element at the start of the input is known to have no line end before this.
    searched: usize,
    /// Nothing can be done before the input is this long.
    need: usize,
}

/// Why a pass ended.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The last token completes the frame.
    Whole,
    /// There is more in the input than one pass takes.
    Batch,
    /// The next element is not all there.
    More,
    /// The next element is wrong.
    Failed(DecodeError),
}

/// Tokens of one pass: few enough for the nearest cache.
pub(crate) const BATCH: usize = 256;

const STREAMING: u64 = u64::MAX / 2;

impl Default for Tokenizer {
    fn default() -> Self {
        Self { outstanding: 1, streams: Vec::new(), chunks: None, searched: 0, need: 0 }
    }
}

impl Tokenizer {
    /// The length that the input must have before anything can be done.
    pub(crate) fn need(&self) -> usize {
        self.need
    }

    /// Reads elements from the start of the input until one of the reasons to stop. Gives the tokens to `tape` and
    /// how many bytes they take.
    #[inline]
    pub(crate) fn pass(
        &mut self,
        input: &[u8],
        offset: u64,
        budget: &Budget,
        tape: &mut Vec<Token>,
    ) -> (usize, Stop) {
        let most_bulk = budget.limits.max_bulk_bytes();
        let most_line = budget.limits.max_line_bytes();
        let mut pos = 0;
        let mut outstanding = self.outstanding;
        let stop = loop {
            if tape.len() == BATCH {
                break Stop::Batch;
            }
            // The common elements, if they are whole and plain. Whatever is odd is left to the careful path.
            if self.searched == 0
                && self.chunks.is_none()
                && let Some(&kind @ (b'$' | b'*' | b':')) = input.get(pos)
                && let Some((number, text)) = line::short_length(input, pos + 1)
            {
                match kind {
                    b'$' => {
                        let end = text + number;
                        if input.get(end..end + 2) == Some(b"\r\n")
                            && number <= most_bulk
                            && budget.fits(offset + end as u64 + 2)
                        {
                            tape.push(Token::with_text(Kind::Bulk, pos, text, number));
                            pos = end + 2;
                            outstanding -= 1;
                            if outstanding == 0 {
                                break Stop::Whole;
                            }
                            continue;
                        }
                    }
                    _ if !budget.fits(offset + text as u64) => {}
                    b':' => {
                        tape.push(Token::plain(Kind::Integer, pos, number as u64));
                        pos = text;
                        outstanding -= 1;
                        if outstanding == 0 {
                            break Stop::Whole;
                        }
                        continue;
                    }
                    _ => {
                        tape.push(Token::plain(Kind::Aggregate(b'*'), pos, number as u64));
                        pos = text;
                        outstanding = outstanding - 1 + number as u64;
                        if outstanding == 0 {
                            break Stop::Whole;
                        }
                        continue;
                    }
                }
            }
            if self.searched == 0
                && self.chunks.is_none()
                && input.get(pos..).is_some_and(|rest| rest.starts_with(b"+OK\r\n"))
                && most_line >= 2
                && budget.fits(offset + pos as u64 + 5)
            {
                tape.push(Token::plain(Kind::Ok, pos, 0));
                pos += 5;
                outstanding -= 1;
                if outstanding == 0 {
                    break Stop::Whole;
                }
                continue;
            }
            match self.element(input, pos, offset, budget) {
                Ok(None) => break Stop::More,
                Ok(Some((token, end))) => {
                    tape.push(token);
                    pos = end;
                    self.searched = 0;
                    self.need = 0;
                    outstanding = self.count(outstanding, &token);
                    if outstanding == 0 {
                        break Stop::Whole;
                    }
                }
                Err(error) => break Stop::Failed(error),
            }
        };
        self.outstanding = if matches!(stop, Stop::Whole) { 1 } else { outstanding };
        self.searched = self.searched.saturating_sub(pos);
        self.need = self.need.saturating_sub(pos);
        (pos, stop)
    }

    /// What is outstanding after this token.
    fn count(&mut self, outstanding: u64, token: &Token) -> u64 {
        match token.kind {
            // The value behind an attribute takes its place.
            Kind::Aggregate(b'|') => outstanding.saturating_add(token.value.saturating_mul(2)),
            Kind::Aggregate(b'%') => (outstanding - 1).saturating_add(token.value.saturating_mul(2)),
            Kind::Aggregate(_) => (outstanding - 1).saturating_add(token.value),
            Kind::StreamedAggregate(_) => {
                self.streams.push(outstanding);
                STREAMING
            }
            Kind::End => self.streams.pop().map_or(outstanding, |outside| outside - 1),
            Kind::StreamedString => {
                self.chunks = Some(0);
                outstanding
            }
            Kind::Chunk => outstanding,
            Kind::LastChunk => {
                self.chunks = None;
                outstanding - 1
            }
            _ => outstanding - 1,
        }
    }

    /// The careful path: the element at `pos` and where it ends, or `None` if it is not all there.
    fn element(
        &mut self,
        input: &[u8],
        pos: usize,
        start: u64,
        budget: &Budget,
    ) -> Result<Option<(Token, usize)>, DecodeError> {
        let Some(&byte) = input.get(pos) else { return Ok(None) };
        let offset = start + pos as u64;
        let max = line::max_text(byte, &budget.limits).ok_or(DecodeError::UnknownType { offset, byte })?;
        if self.chunks.is_some() != (byte == b';') || byte == b'.' && self.streams.is_empty() {
            return Err(DecodeError::Misplaced { offset, byte });
        }
        let text = pos + 1;
        let end = match line::line_end(input, text, self.searched.max(text), max) {
            LineEnd::At(end) => end,
            LineEnd::More(searched) => {
                self.searched = searched;
                return Ok(None);
            }
            LineEnd::TooLong => return Err(line::too_long(byte, offset, &budget.limits)),
            LineEnd::Break(at) => return Err(DecodeError::LineBreak { offset: start + at as u64 }),
        };
        // If a payload is missing this line is read again, but its end is not searched again.
        self.searched = end;
        let head = line::head(byte, &input[text..end], offset)?;
        let behind = end + 2;
        let size = (behind - pos) as u64;
        budget.frame_size(offset, size)?;
        let line = |kind| (Token::with_text(kind, pos, text, end - text), behind);
        let plain = |kind, value| (Token::plain(kind, pos, value), behind);
        let (kind, before, len) = match head {
            Head::Bulk(len) => match byte {
                b'$' => (Kind::Bulk, 0, len),
                b'!' => (Kind::BulkError, 0, len),
                _ => (Kind::Verbatim, 0, len),
            },
            Head::Chunk(len @ 1..) => (Kind::Chunk, self.chunks.unwrap_or(0), len),
            Head::Chunk(0) => return Ok(Some(plain(Kind::LastChunk, 0))),
            Head::Simple if &input[text..end] == b"OK" => return Ok(Some(plain(Kind::Ok, 0))),
            Head::Simple => return Ok(Some(line(Kind::Simple))),
            Head::Error => return Ok(Some(line(Kind::Error))),
            Head::BigNumber => return Ok(Some(line(Kind::BigNumber))),
            Head::Integer(value) => return Ok(Some(plain(Kind::Integer, value.cast_unsigned()))),
            Head::Boolean(value) => return Ok(Some(plain(Kind::Boolean(value), 0))),
            Head::Double(value) => return Ok(Some(plain(Kind::Double, value.to_bits()))),
            Head::Null(null) => return Ok(Some(plain(Kind::Null(null), 0))),
            Head::Aggregate(count) => return Ok(Some(plain(Kind::Aggregate(byte), count))),
            Head::StreamedAggregate => return Ok(Some(plain(Kind::StreamedAggregate(byte), 0))),
            Head::End => return Ok(Some(plain(Kind::End, 0))),
            Head::StreamedString => return Ok(Some(plain(Kind::StreamedString, 0))),
        };
        let len = budget.string(offset, size, len, before)?;
        if kind == Kind::Verbatim && len < 4 {
            return Err(DecodeError::InvalidVerbatim { offset });
        }
        // No overflow: the frame limit holds.
        let payload_end = behind + len;
        let Some(closing) = input.get(payload_end..payload_end + 2) else {
            self.need = payload_end + 2;
            return Ok(None);
        };
        if kind == Kind::Verbatim && input[behind + 3] != b':' {
            return Err(DecodeError::InvalidVerbatim { offset });
        }
        if closing != b"\r\n" {
            return Err(DecodeError::MissingCrlf { offset: start + payload_end as u64 });
        }
        if kind == Kind::Chunk {
            self.chunks = Some(before + len as u64);
        }
        Ok(Some((Token::with_text(kind, pos, behind, len), payload_end + 2)))
    }
}
