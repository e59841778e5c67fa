/// Why bytes are not RESP, or not RESP within the [`Limits`](crate::Limits).
///
/// Every variant carries `offset`: how many bytes the decoder had been given, since it was made, before the
/// element that is wrong. After an error the position in the stream is lost: a decoder repeats the error on
/// every further call, and the connection should be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A reply begins with a byte that is no RESP type. Usually the peer is not a Redis-like server, or the
    /// reader is out of step.
    #[error("byte {offset}: the peer sent {byte:#04x} where a RESP type byte belongs; close the connection")]
    UnknownType {
        /// Offset of the byte.
        offset: u64,
        /// The byte.
        byte: u8,
    },
    /// A known type byte stands where it may not: a push inside another value, a chunk or an end mark outside a
    /// streamed value, anything but a chunk inside a streamed string.
    #[error("byte {offset}: the peer sent type {:?} where it is not allowed; close the connection", *byte as char)]
    Misplaced {
        /// Offset of the type byte.
        offset: u64,
        /// The type byte.
        byte: u8,
    },
    /// A length or an element count is not a decimal number as servers write it (no sign, blanks or leading
    /// zeros), or is one that this type cannot have.
    #[error("byte {offset}: the peer sent a bad length after {:?}; close the connection", *byte as char)]
    InvalidLength {
        /// Offset of the type byte.
        offset: u64,
        /// The type byte.
        byte: u8,
    },
    /// The text after `:`, `,`, `(`, `#` or `_` is not a value of that type (an integer beyond 64 bits
    /// included).
    #[error("byte {offset}: the peer sent a bad value after {:?}; close the connection", *byte as char)]
    InvalidValue {
        /// Offset of the type byte.
        offset: u64,
        /// The type byte.
        byte: u8,
    },
    /// A verbatim string has no `xxx:` in front.
    #[error("byte {offset}: the peer sent a verbatim string without its format; close the connection")]
    InvalidVerbatim {
        /// Offset of the type byte.
        offset: u64,
    },
    /// A CR without LF, or an LF without CR, in a line that ends with CRLF.
    #[error("byte {offset}: the peer sent a bare CR or LF inside a line; close the connection")]
    LineBreak {
        /// Offset of the stray byte.
        offset: u64,
    },
    /// The two bytes after a bulk string are not CRLF (Valkey 9 refuses this too; Redis does not look).
    #[error("byte {offset}: the peer sent a bulk string that is longer than announced; close the connection")]
    MissingCrlf {
        /// Offset of the first byte after the payload.
        offset: u64,
    },
    /// An argument of a command does not begin with `$`.
    #[error(
        "byte {offset}: expected '$' before an argument, the peer sent {byte:#04x}; close the connection"
    )]
    ExpectedBulk {
        /// Offset of the byte.
        offset: u64,
        /// The byte.
        byte: u8,
    },
    /// An inline command has a quote that is not closed, or text right behind a closing quote.
    #[error("byte {offset}: unbalanced quotes in an inline command; correct the command")]
    UnbalancedQuotes {
        /// Offset of the line.
        offset: u64,
    },
    /// An inline command where [`CommandDecoder::inline`](crate::CommandDecoder::inline) forbids them.
    #[error("byte {offset}: expected '*' before a command, the peer sent {byte:#04x}; close the connection")]
    InlineRefused {
        /// Offset of the line.
        offset: u64,
        /// Its first byte.
        byte: u8,
    },
    /// A line has no end within [`Limits::line_bytes`](crate::Limits::line_bytes) or
    /// [`inline_bytes`](crate::Limits::inline_bytes).
    #[error("byte {offset}: the peer sent a line of more than {limit} bytes; raise the limit or close")]
    LineTooLong {
        /// Offset of the line.
        offset: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A bulk string is announced above [`Limits::bulk_bytes`](crate::Limits::bulk_bytes).
    #[error("byte {offset}: the peer announced a string of {announced} bytes, above the limit of {limit}")]
    BulkTooLong {
        /// Offset of the type byte.
        offset: u64,
        /// What was announced, for a streamed string with what came before.
        announced: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A frame would exceed [`Limits::frame_bytes`](crate::Limits::frame_bytes).
    #[error("byte {offset}: this element takes its frame above the limit of {limit} bytes")]
    FrameTooLong {
        /// Offset of the element that does.
        offset: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// An aggregate or a command is announced above [`Limits::elements`](crate::Limits::elements), or takes its
    /// frame above [`total_elements`](crate::Limits::total_elements).
    #[error("byte {offset}: {announced} elements are announced, above the limit of {limit}")]
    TooManyElements {
        /// Offset of the type byte.
        offset: u64,
        /// What was announced (of the frame so far, where the total is exceeded).
        announced: u64,
        /// The limit that was exceeded.
        limit: usize,
    },
    /// Aggregates stand inside each other deeper than [`Limits::nesting`](crate::Limits::nesting).
    #[error("byte {offset}: values are nested more than {limit} deep")]
    TooDeep {
        /// Offset of the aggregate that is one too many.
        offset: u64,
        /// The limit in levels.
        limit: usize,
    },
    /// The input ended inside a frame; given by the codecs at the end of the stream.
    #[error("byte {offset}: the peer closed the connection inside a frame; reconnect")]
    Truncated {
        /// Offset of the end.
        offset: u64,
    },
}

impl DecodeError {
    /// Bytes since the decoder was made, before the element that is wrong.
    pub fn offset(&self) -> u64 {
        match *self {
            Self::UnknownType { offset, .. }
            | Self::Misplaced { offset, .. }
            | Self::InvalidLength { offset, .. }
            | Self::InvalidValue { offset, .. }
            | Self::InvalidVerbatim { offset }
            | Self::LineBreak { offset }
            | Self::MissingCrlf { offset }
            | Self::ExpectedBulk { offset, .. }
            | Self::UnbalancedQuotes { offset }
            | Self::InlineRefused { offset, .. }
            | Self::LineTooLong { offset, .. }
            | Self::BulkTooLong { offset, .. }
            | Self::FrameTooLong { offset, .. }
            | Self::TooManyElements { offset, .. }
            | Self::TooDeep { offset, .. }
            | Self::Truncated { offset } => offset,
        }
    }

    /// Whether a limit of this side was met, not a fault in the bytes.
    pub fn is_limit(&self) -> bool {
        matches!(
            self,
            Self::LineTooLong { .. }
                | Self::BulkTooLong { .. }
                | Self::FrameTooLong { .. }
                | Self::TooManyElements { .. }
                | Self::TooDeep { .. }
        )
    }
}
