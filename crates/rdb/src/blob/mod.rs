//! Sealed blobs: compact encodings that a value holds as one string.
//!
//! A blob is there as a whole before it is read. Cursors check the header when they open it and every length, count
//! and back reference while they go; they hold positions only, so that the owner of the bytes may keep both.

pub(crate) mod intset;
pub(crate) mod listpack;
pub(crate) mod ziplist;
pub(crate) mod zipmap;

use nom::error::{ErrorKind, ParseError};
use nom::{IResult, Offset};

/// An element of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Bytes(&'a [u8]),
    Int(i64),
}

/// A broken rule and where in the blob it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlobFault {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

impl BlobFault {
    pub(crate) const fn new(at: usize, what: &'static str) -> Self {
        Self { at, what }
    }
}

/// Which blob is open, and where.
#[derive(Clone, Debug)]
pub(crate) enum Cursor {
    Ziplist(ziplist::Cursor),
    Listpack(listpack::Cursor),
    Intset(intset::Cursor),
    Zipmap(zipmap::Cursor),
    /// None is open.
    Closed,
}

impl Cursor {
    /// The next element of `blob`, which is the one that was opened.
    #[inline]
    pub(crate) fn next<'a>(&mut self, blob: &'a [u8]) -> Result<Option<Scalar<'a>>, BlobFault> {
        match self {
            Self::Ziplist(cursor) => cursor.next(blob),
            Self::Listpack(cursor) => cursor.next(blob),
            Self::Intset(cursor) => Ok(cursor.next(blob)),
            Self::Zipmap(cursor) => cursor.next(blob),
            Self::Closed => Ok(None),
        }
    }
}

/// What the parsers of entries fail with: the rule, and how many bytes were left when it was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    left: usize,
    what: &'static str,
}

pub(crate) type Parsed<'a, T> = IResult<&'a [u8], T, Broken>;

impl ParseError<&[u8]> for Broken {
    fn from_error_kind(input: &[u8], _: ErrorKind) -> Self {
        Self { left: input.len(), what: "an entry goes beyond the end of its blob" }
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

/// Fails a parser with a rule.
fn broken<'a, T>(input: &'a [u8], what: &'static str) -> Parsed<'a, T> {
    Err(nom::Err::Error(Broken { left: input.len(), what }))
}

/// Runs the parser of an entry on `blob[at..end]`: the value and where the next entry starts.
#[inline]
fn run<'a, T>(
    parser: impl Fn(&'a [u8]) -> Parsed<'a, T>,
    blob: &'a [u8],
    at: usize,
    end: usize,
) -> Result<(T, usize), BlobFault> {
    match parser(&blob[at..end]) {
        Ok((rest, value)) => Ok((value, end - rest.len())),
        Err(nom::Err::Error(fault) | nom::Err::Failure(fault)) => {
            Err(BlobFault::new(end - fault.left.min(end), fault.what))
        }
        Err(nom::Err::Incomplete(_)) => Err(BlobFault::new(at, "an entry goes beyond the end of its blob")),
    }
}

/// Where `part`, a slice of `blob`, lies in it.
#[inline]
pub(crate) fn place(blob: &[u8], part: &[u8]) -> usize {
    blob.offset(part)
}
