/// What a peer may announce or send before a decoder refuses it.
///
/// Nothing is ever allocated because a peer *announced* it: memory follows the bytes that arrived. The limits
/// bound how many bytes that may become. A decoder that meets a limit gives a
/// [`DecodeError`](crate::DecodeError) and stays failed, as the position in the stream is lost.
///
/// ```
/// use keyferry_resp::Limits;
///
/// let limits = Limits::new().bulk_bytes(1 << 20).nesting(8);
/// assert_eq!(limits.max_nesting(), 8);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    frame_bytes: usize,
    bulk_bytes: usize,
    elements: usize,
    total_elements: usize,
    nesting: usize,
    line_bytes: usize,
    inline_bytes: usize,
}

impl Limits {
    /// Bytes of one whole frame or command: 1 GiB.
    pub const FRAME_BYTES: usize = 1 << 30;
    /// Bytes of one bulk string: 512 MiB, the servers' `proto-max-bulk-len`.
    pub const BULK_BYTES: usize = 512 << 20;
    /// Elements of one aggregate, arguments of one command: 16,777,216.
    pub const ELEMENTS: usize = 16 << 20;
    /// Elements of all aggregates in one frame together: 33,554,432.
    pub const TOTAL_ELEMENTS: usize = 32 << 20;
    /// Aggregates (and attributes) inside each other: 128.
    pub const NESTING: usize = 128;
    /// Bytes of a reply line (simple string, error, double, big number) without its CRLF: 1 MiB.
    pub const LINE_BYTES: usize = 1 << 20;
    /// Bytes of an inline command without its line end: 64 KiB, as in the servers.
    pub const INLINE_BYTES: usize = 64 << 10;
    /// The most that [`nesting`](Self::nesting) can be set to. Frames are dropped, cloned and compared by
    /// recursion, so this bounds the stack those need.
    pub const HIGHEST_NESTING: usize = 512;

    /// The default limits, each as its constant says.
    pub const fn new() -> Self {
        Self {
            frame_bytes: Self::FRAME_BYTES,
            bulk_bytes: Self::BULK_BYTES,
            elements: Self::ELEMENTS,
            total_elements: Self::TOTAL_ELEMENTS,
            nesting: Self::NESTING,
            line_bytes: Self::LINE_BYTES,
            inline_bytes: Self::INLINE_BYTES,
        }
    }

    /// Sets the bytes of one whole frame or command, headers and line ends counted. A [`Command`](crate::Command)
    /// cannot exceed 4 GiB - 1 whatever is set here.
    #[must_use]
    pub const fn frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// Sets the bytes of one bulk string, verbatim string, bulk error, or of all chunks of a streamed string.
    #[must_use]
    pub const fn bulk_bytes(mut self, bytes: usize) -> Self {
        self.bulk_bytes = bytes;
        self
    }

    /// Sets the elements of one aggregate (a map entry counts as two) and the arguments of one command.
    #[must_use]
    pub const fn elements(mut self, count: usize) -> Self {
        self.elements = count;
        self
    }

    /// Sets the elements of all aggregates in one frame together.
    #[must_use]
    pub const fn total_elements(mut self, count: usize) -> Self {
        self.total_elements = count;
        self
    }

    /// Sets how many aggregates may stand inside each other; an attribute counts as one. Values above
    /// [`HIGHEST_NESTING`](Self::HIGHEST_NESTING) are taken as that.
    #[must_use]
    pub const fn nesting(mut self, levels: usize) -> Self {
        self.nesting = if levels > Self::HIGHEST_NESTING { Self::HIGHEST_NESTING } else { levels };
        self
    }

    /// Sets the bytes of a reply line without its CRLF.
    #[must_use]
    pub const fn line_bytes(mut self, bytes: usize) -> Self {
        self.line_bytes = bytes;
        self
    }

    /// Sets the bytes of an inline command without its line end.
    #[must_use]
    pub const fn inline_bytes(mut self, bytes: usize) -> Self {
        self.inline_bytes = bytes;
        self
    }

    /// Bytes of one whole frame or command.
    pub const fn max_frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Bytes of one bulk string.
    pub const fn max_bulk_bytes(&self) -> usize {
        self.bulk_bytes
    }

    /// Elements of one aggregate, arguments of one command.
    pub const fn max_elements(&self) -> usize {
        self.elements
    }

    /// Elements of all aggregates in one frame together.
    pub const fn max_total_elements(&self) -> usize {
        self.total_elements
    }

    /// Aggregates inside each other.
    pub const fn max_nesting(&self) -> usize {
        self.nesting
    }

    /// Bytes of a reply line without its CRLF.
    pub const fn max_line_bytes(&self) -> usize {
        self.line_bytes
    }

    /// Bytes of an inline command without its line end.
    pub const fn max_inline_bytes(&self) -> usize {
        self.inline_bytes
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
