use bytes::{Buf, BytesMut};

use crate::command::Span;
use crate::inline::{self, Split};
use crate::line::{self, LineEnd};
use crate::{Command, CommandRef, DecodeError, Limits, number};

/// Turns bytes of a client, of a primary's replication stream or of an append-only file into commands.
///
/// Reads arrays of bulk strings, and inline commands as servers do. Skips what servers skip: empty lines, and arrays
/// without elements (`*0`, `*-1`).
///
/// Two ways to use it. [`decode`](Self::decode) takes [`Command`]s out of a `BytesMut`; each shares its memory.
/// [`next_ref`](Self::next_ref) looks at a slice and gives views into it, without any allocation per command. Both
/// remember where they stopped, so that no payload is looked at twice. Use one of them on one decoder.
///
/// ```
/// use bytes::BytesMut;
/// use keyferry_resp::CommandDecoder;
///
/// let mut decoder = CommandDecoder::new();
/// let mut buf = BytesMut::from("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\nPING\r\n*1\r\n$4\r\nQU");
/// let get = decoder.decode(&mut buf)?.expect("is complete");
/// assert!(get.is("get") && get.arg(1) == Some(b"k"));
/// assert_eq!(decoder.decode(&mut buf)?.expect("is complete").raw(), "PING\r\n");
/// assert_eq!(decoder.decode(&mut buf)?, None);
/// assert_eq!((decoder.offset(), decoder.skipped_newlines()), (27, 1));
/// # Ok::<(), keyferry_resp::DecodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CommandDecoder {
    limits: Limits,
    inline: bool,
    /// Offset of the start of the input.
    offset: u64,
    skipped_newlines: u64,
    skipped_total: u64,
    failed: Option<DecodeError>,

    // The command in progress. Indexes count from the start of the input:
    // 0 <= skipped <= pos <= searched or searched == 0.
    /// Where the command begins: behind what is skipped.
    skipped: usize,
    /// The header that is to be read next.
    pos: usize,
    /// The input is known to hold no line end for the header at `pos` before this.
    searched: usize,
    /// Nothing can be done before the input is this long.
    need: usize,
    /// Arguments still to come; 0 when a command begins at `pos`.
    left: usize,
    /// Arguments so far, counted from the start of the command, or of `text` if `in_text`.
    spans: Vec<Span>,
    /// The arguments of an inline command with quotes.
    text: Vec<u8>,
    in_text: bool,
}

/// The first reservation for a payload that is still to come; later ones double what has arrived.
const FIRST_RESERVE: usize = 16 << 10;

/// Spans of a command with more arguments than this are not kept allocated for the next one.
const KEPT_SPANS: usize = 64 << 10;

impl CommandDecoder {
    /// A decoder with the default [`Limits`] that reads inline commands too.
    pub fn new() -> Self {
        Self::with_limits(Limits::new())
    }

    /// A decoder with limits of your own.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits: limits.frame_bytes(limits.max_frame_bytes().min(u32::MAX as usize)),
            inline: true,
            offset: 0,
            skipped_newlines: 0,
            skipped_total: 0,
            failed: None,
            skipped: 0,
            pos: 0,
            searched: 0,
            need: 0,
            left: 0,
            spans: Vec::new(),
            text: Vec::new(),
            in_text: false,
        }
    }

    /// Sets whether inline commands are read (they are by default) or are an error.
    ///
    /// A primary never sends them: there, anything but an array or a bare newline means that the reader is out of
    /// step, and to run it as a command would do harm.
    #[must_use]
    pub fn inline(mut self, allowed: bool) -> Self {
        self.inline = allowed;
        self
    }

    /// Takes the next command from the front of `buf`, or gives `None` if it is not complete yet.
    ///
    /// On `None` blank lines were taken out of `buf`, everything else stays in it, and room was reserved for what is
    /// known to be missing (at most as much as has arrived, 16 KiB at least): read behind it.
    ///
    /// # Errors
    ///
    /// When the bytes are no request or exceed the limits. The error is repeated on every later call.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Command>, DecodeError> {
        match self.find(buf)? {
            None => {
                buf.advance(self.drop_skipped());
                let missing = self.need.saturating_sub(buf.len());
                if missing > 0 {
                    buf.reserve(missing.min(buf.len().max(FIRST_RESERVE)));
                }
                Ok(None)
            }
            Some((skipped, end)) => {
                if skipped > 0 {
                    buf.advance(skipped);
                }
                let raw = buf.split_to(end - skipped).freeze();
                if self.in_text {
                    let text = bytes::Bytes::copy_from_slice(&self.text);
                    return Ok(Some(Command::from_unquoted(raw, text, &self.spans)));
                }
                Ok(Some(Command::from_wire(raw, &self.spans)))
            }
        }
    }

    /// Finds the next command at the front of `input`, or gives `None` if it is not complete yet.
    ///
    /// On `Some` the caller drops [`consumed`](CommandRef::consumed) bytes, so that the next call begins behind
    /// them. On `None` the next call must be given the same bytes again with more behind them;
    /// [`drop_skipped`](Self::drop_skipped) lets go of blank lines before that.
    ///
    /// ```
    /// use keyferry_resp::CommandDecoder;
    ///
    /// let mut decoder = CommandDecoder::new();
    /// let mut input = &b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"[..];
    /// let mut names = Vec::new();
    /// while let Some(command) = decoder.next_ref(input)? {
    ///     names.push(command.name().to_vec());
    ///     input = &input[command.consumed()..];
    /// }
    /// assert_eq!(names, [b"PING".to_vec(), b"GET".to_vec()]);
    /// # Ok::<(), keyferry_resp::DecodeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    #[inline]
    pub fn next_ref<'a>(&'a mut self, input: &'a [u8]) -> Result<Option<CommandRef<'a>>, DecodeError> {
        let Some((skipped, end)) = self.find(input)? else { return Ok(None) };
        let raw = &input[skipped..end];
        let holder = if self.in_text { &self.text } else { raw };
        Ok(Some(CommandRef { raw, holder, spans: &self.spans, skipped }))
    }

    /// After [`next_ref`](Self::next_ref) gave `None`: how many bytes at the start of its input were skipped for
    /// good. The caller must drop as many before the next call.
    pub fn drop_skipped(&mut self) -> usize {
        let count = std::mem::take(&mut self.skipped);
        self.offset += count as u64;
        self.pos -= count;
        self.searched = self.searched.saturating_sub(count);
        self.need = self.need.saturating_sub(count);
        count
    }

    /// Bytes up to the end of the last command, with everything skipped before it.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of empty lines skipped so far. Primaries send a bare newline to keep a link alive, and do not count it
    /// in replication offsets: right after a command was given, `offset() - skipped_newlines()` is what the primary
    /// has counted.
    pub fn skipped_newlines(&self) -> u64 {
        self.skipped_newlines
    }

    /// All bytes skipped so far: empty lines, blank lines, and arrays without elements.
    pub fn skipped(&self) -> u64 {
        self.skipped_total
    }

    /// Whether part of a command was seen. A connection that ends now ended too early.
    pub fn is_mid_command(&self) -> bool {
        self.left > 0 || self.searched > self.pos
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Finds a whole command: where it begins and ends.
    #[inline]
    fn find(&mut self, input: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
        if input.len() < self.need {
            return Ok(None);
        }
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.scan(input) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let found = (self.skipped, self.pos);
                self.offset += self.pos as u64;
                self.skipped = 0;
                self.pos = 0;
                self.searched = 0;
                self.need = 0;
                Ok(Some(found))
            }
            Err(error) => {
                self.failed = Some(error.clone());
                self.need = 0;
                Err(error)
            }
        }
    }

    /// Goes on from where it stopped. `true` when a command is whole: it ends at `pos`.
    #[inline]
    fn scan(&mut self, input: &[u8]) -> Result<bool, DecodeError> {
        if self.left == 0 && !self.begin(input)? {
            return Ok(false);
        }
        if self.left == 0 {
            return Ok(true);
        }
        while self.left > 0 {
            if self.searched == 0 {
                self.plain_arguments(input);
                if self.left == 0 {
                    break;
                }
            }
            if !self.argument(input)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The common case: arguments with header and payload in the input. Stops at whatever is odd, which is left to
    /// the careful path.
    #[inline]
    fn plain_arguments(&mut self, input: &[u8]) {
        let most_bulk = self.limits.max_bulk_bytes();
        let most_end = self.skipped.saturating_add(self.limits.max_frame_bytes());
        let skipped = self.skipped;
        let mut pos = self.pos;
        let mut left = self.left;
        while left > 0 {
            if input.get(pos) != Some(&b'$') {
                break;
            }
            let Some((len, start)) = line::short_length(input, pos + 1) else { break };
            let end = start + len;
            if input.get(end..end + 2) != Some(b"\r\n") || len > most_bulk || end + 2 > most_end {
                break;
            }
            self.spans.push(Span::new(start - skipped, len));
            pos = end + 2;
            left -= 1;
        }
        self.pos = pos;
        self.left = left;
    }

    /// Reads up to the first argument of an array (`left` is set), or a whole inline command (`left` is 0). `false`
    /// when bytes are missing.
    fn begin(&mut self, input: &[u8]) -> Result<bool, DecodeError> {
        loop {
            let Some(&first) = input.get(self.pos) else { return Ok(false) };
            if first != b'*' {
                match self.line(input, first)? {
                    Line::More => return Ok(false),
                    Line::Blank => {}
                    Line::Command => return Ok(true),
                }
                continue;
            }
            if self.searched == 0
                && let Some((count, after)) = line::short_length(input, self.pos + 1)
                && count > 0
            {
                self.start(count as u64, after)?;
                return Ok(true);
            }
            let Some((text, after)) = self.header(input)? else { return Ok(false) };
            match number::canonical(text).map(u64::try_from) {
                Some(Ok(count @ 1..)) => {
                    self.start(count, after)?;
                    return Ok(true);
                }
                // Servers skip counts of zero and below without a word.
                Some(_) => self.skip_to(after),
                None => return Err(DecodeError::InvalidLength { offset: self.at(self.pos), byte: b'*' }),
            }
        }
    }

    /// Begins a command of `count` arguments, the first of which is at `after`.
    fn start(&mut self, count: u64, after: usize) -> Result<(), DecodeError> {
        let limit = self.limits.max_elements().min(self.limits.max_total_elements());
        self.left = match usize::try_from(count) {
            Ok(count) if count <= limit => count,
            _ => {
                return Err(DecodeError::TooManyElements {
                    offset: self.at(self.pos),
                    announced: count,
                    limit,
                });
            }
        };
        self.clear();
        self.pos = after;
        self.searched = 0;
        Ok(())
    }

    /// The careful path: reads one argument, or says that bytes are missing.
    fn argument(&mut self, input: &[u8]) -> Result<bool, DecodeError> {
        let offset = self.at(self.pos);
        match input.get(self.pos) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&byte) => return Err(DecodeError::ExpectedBulk { offset, byte }),
        }
        let Some((text, start)) = self.header(input)? else { return Ok(false) };
        let Some(Ok(announced)) = number::canonical(text).map(u64::try_from) else {
            return Err(DecodeError::InvalidLength { offset, byte: b'$' });
        };
        let limit = self.limits.max_bulk_bytes();
        let len = match usize::try_from(announced) {
            Ok(len) if len <= limit => len,
            _ => return Err(DecodeError::BulkTooLong { offset, announced, limit }),
        };
        let limit = self.limits.max_frame_bytes();
        let behind = match start.checked_add(len).and_then(|end| end.checked_add(2)) {
            Some(behind) if behind - self.skipped <= limit => behind,
            _ => return Err(DecodeError::FrameTooLong { offset, limit }),
        };
        let Some(end) = input.get(start + len..behind) else {
            self.need = behind;
            return Ok(false);
        };
        if end != b"\r\n" {
            return Err(DecodeError::MissingCrlf { offset: self.at(start + len) });
        }
        self.spans.push(Span::new(start - self.skipped, len));
        self.pos = behind;
        self.searched = 0;
        self.need = 0;
        self.left -= 1;
        Ok(true)
    }

    /// The text of the number line at `pos`, and where the line ends.
    fn header<'a>(&mut self, input: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, DecodeError> {
        let text = self.pos + 1;
        match line::line_end(input, text, self.searched.max(text), line::NUMBER_BYTES) {
            LineEnd::At(end) => {
                // The payload may be missing: then this line is read once more, but its end is not searched again.
                self.searched = end;
                Ok(Some((&input[text..end], end + 2)))
            }
            LineEnd::More(searched) => {
                self.searched = searched;
                Ok(None)
            }
            LineEnd::TooLong => {
                let byte = if self.left == 0 { b'*' } else { b'$' };
                Err(DecodeError::InvalidLength { offset: self.at(self.pos), byte })
            }
            LineEnd::Break(at) => Err(DecodeError::LineBreak { offset: self.at(at) }),
        }
    }

    /// Reads an inline command at `pos`, or a blank line.
    fn line(&mut self, input: &[u8], first: u8) -> Result<Line, DecodeError> {
        let offset = self.at(self.pos);
        if !self.inline && !matches!(first, b'\r' | b'\n') {
            return Err(DecodeError::InlineRefused { offset, byte: first });
        }
        let limit = self.limits.max_inline_bytes().min(self.limits.max_frame_bytes().saturating_sub(1));
        let from = self.searched.max(self.pos);
        let most = input.len().min(self.pos.saturating_add(limit).saturating_add(1));
        let end = match input.get(from..most).and_then(|unseen| memchr::memchr(b'\n', unseen)) {
            Some(i) => from + i,
            None if most - self.pos > limit => return Err(DecodeError::LineTooLong { offset, limit }),
            None => {
                self.searched = most;
                return Ok(Line::More);
            }
        };
        let line = &input[self.pos..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.skipped_newlines += (end + 1 - self.pos) as u64;
            self.skip_to(end + 1);
            return Ok(Line::Blank);
        }
        if !self.inline {
            return Err(DecodeError::InlineRefused { offset, byte: first });
        }
        self.clear();
        let base = self.pos - self.skipped;
        self.in_text = match inline::split(line, base, &mut self.spans, &mut self.text) {
            Split::InLine => false,
            Split::InText => true,
            Split::Unbalanced => return Err(DecodeError::UnbalancedQuotes { offset }),
        };
        if self.spans.is_empty() {
            self.skip_to(end + 1);
            return Ok(Line::Blank);
        }
        self.pos = end + 1;
        Ok(Line::Command)
    }

    /// Makes everything before `pos` skipped.
    fn skip_to(&mut self, pos: usize) {
        self.skipped_total += (pos - self.pos) as u64;
        self.pos = pos;
        self.skipped = pos;
        self.searched = 0;
    }

    fn clear(&mut self) {
        if self.spans.capacity() > KEPT_SPANS {
            self.spans = Vec::new();
        }
        self.spans.clear();
        self.text.clear();
        self.in_text = false;
    }

    fn at(&self, index: usize) -> u64 {
        self.offset + index as u64
    }
}

impl Default for CommandDecoder {
    fn default() -> Self {
        Self::new()
    }
}

enum Line {
    More,
    Blank,
    Command,
}
