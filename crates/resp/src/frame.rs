use bytes::Bytes;

use crate::number;

/// One RESP value: a reply, or a part of one.
///
/// Order and duplicates of maps and sets are kept. Streamed strings and aggregates (`$?`, `*?`, `~?`, `%?`) arrive
/// as the plain form of their type; the other types of RESP2 and RESP3 each have their own variant, so that what
/// was decoded can be told apart and written back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
// With a byte for the tag the small payloads would share its word: written in halves and read as one, which costs a
// stall each time a frame is moved.
#[repr(u64)]
pub enum Frame {
    /// `+OK`: a status line.
    Simple(Bytes),
    /// `-ERR text`: an error line. [`ErrorReply`](crate::ErrorReply) reads it.
    Error(Bytes),
    /// `:42`
    Integer(i64),
    /// `$3 foo`: a binary string.
    Bulk(Bytes),
    /// `_`, `$-1` or `*-1`: no value.
    Null(Null),
    /// `*2 …`
    Array(Vec<Frame>),
    /// `#t` or `#f` (RESP3).
    Boolean(bool),
    /// `,3.25` (RESP3).
    Double(Double),
    /// `(12345678901234567890` (RESP3): the digits as sent, with their sign.
    BigNumber(Bytes),
    /// `!9 ERR a b c`: an error that may hold any bytes (RESP3).
    BulkError(Bytes),
    /// `=7 txt:foo` (RESP3).
    Verbatim {
        /// What the text is: `txt` or `mkd`.
        format: [u8; 3],
        /// The text without the format.
        text: Bytes,
    },
    /// `%1 key value` (RESP3).
    Map(Vec<(Frame, Frame)>),
    /// `~2 …` (RESP3).
    Set(Vec<Frame>),
    /// `>2 kind …` (RESP3): sent out of band, no answer to any command. Never inside another frame.
    Push(Vec<Frame>),
    /// `|1 key value` and then the value that it comments on (RESP3).
    Attributed {
        /// The attributes.
        attributes: Vec<(Frame, Frame)>,
        /// The value, which may be `Attributed` again.
        value: Box<Frame>,
    },
}

/// How "no value" was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Null {
    /// `_` (RESP3).
    Resp3,
    /// `$-1` (RESP2): GET of a missing key.
    Bulk,
    /// `*-1` (RESP2): BLPOP timeout, aborted EXEC.
    Array,
}

/// A RESP3 double.
///
/// Equality is by meaning of the bits: every NaN equals every NaN, and `-0` differs from `0`. The text that was
/// sent is not kept, as servers write the same number differently (6.2 sends `0.10000000000000001`, 7.0 `0.1`).
#[derive(Clone, Copy, Debug)]
pub struct Double(f64);

impl Double {
    /// Wraps any `f64`, infinities and NaN included.
    pub const fn new(value: f64) -> Self {
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }

    fn key(self) -> u64 {
        if self.0.is_nan() { f64::NAN.to_bits() } else { self.0.to_bits() }
    }
}

impl PartialEq for Double {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Double {}

impl std::hash::Hash for Double {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl From<f64> for Double {
    fn from(value: f64) -> Self {
        Self(value)
    }
}

impl From<Double> for f64 {
    fn from(value: Double) -> Self {
        value.0
    }
}

/// Writes the shortest text that reads back to the same number, as servers do since 7.0: `3`, `0.1`, `1e20`, `inf`,
/// `-inf`, `nan`.
impl std::fmt::Display for Double {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.0;
        if value.is_nan() {
            f.write_str("nan")
        } else if value.is_infinite() {
            f.write_str(if value > 0.0 { "inf" } else { "-inf" })
        } else if value == value.trunc() && value.abs() < 1e17 {
            write!(f, "{value}")
        } else {
            write!(f, "{value:?}")
        }
    }
}

impl Frame {
    /// The bytes of a string-like frame: simple, bulk, verbatim (without its format), big number, either error.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self.value() {
            Self::Simple(b) | Self::Error(b) | Self::Bulk(b) | Self::BigNumber(b) | Self::BulkError(b) => {
                Some(b)
            }
            Self::Verbatim { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Like [`as_bytes`](Self::as_bytes), by value.
    pub fn into_bytes(self) -> Option<Bytes> {
        match self.into_value() {
            Self::Simple(b) | Self::Error(b) | Self::Bulk(b) | Self::BigNumber(b) | Self::BulkError(b) => {
                Some(b)
            }
            Self::Verbatim { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The text of a string-like frame, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        self.as_bytes().and_then(|b| std::str::from_utf8(b).ok())
    }

    /// An integer, or a simple or bulk string that is one (as servers write it: no `+`, no leading zeros).
    pub fn as_i64(&self) -> Option<i64> {
        match self.value() {
            Self::Integer(n) => Some(*n),
            Self::Simple(b) | Self::Bulk(b) | Self::BigNumber(b) => number::canonical(b),
            _ => None,
        }
    }

    /// A double or an integer, or a simple or bulk string that is one: scores arrive as bulk strings in RESP2.
    pub fn as_f64(&self) -> Option<f64> {
        match self.value() {
            Self::Double(d) => Some(d.get()),
            Self::Integer(n) => Some(*n as f64),
            Self::Simple(b) | Self::Bulk(b) | Self::BigNumber(b) => number::double(b),
            _ => None,
        }
    }

    /// A boolean, or the integer 0 or 1 that stands for it in RESP2.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value() {
            Self::Boolean(b) => Some(*b),
            Self::Integer(0) => Some(false),
            Self::Integer(1) => Some(true),
            _ => None,
        }
    }

    /// Whether this is an error of either form. Errors *inside* an array (results of EXEC) do not count.
    pub fn is_error(&self) -> bool {
        self.error().is_some()
    }

    /// The text of an error of either form.
    pub fn error(&self) -> Option<&Bytes> {
        match self.value() {
            Self::Error(text) | Self::BulkError(text) => Some(text),
            _ => None,
        }
    }

    /// The error of either form, with its code taken apart.
    pub fn error_reply(&self) -> Option<crate::ErrorReply> {
        self.error().map(|text| crate::ErrorReply::new(text.clone()))
    }

    /// Whether this is a null of any form.
    pub fn is_null(&self) -> bool {
        matches!(self.value(), Self::Null(_))
    }

    /// Whether this is out-of-band data, not a reply.
    pub fn is_push(&self) -> bool {
        matches!(self.value(), Self::Push(_))
    }

    /// Whether this is the status `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self.value(), Self::Simple(text) if text == "OK")
    }

    /// The elements of an array, a set or a push.
    pub fn as_array(&self) -> Option<&[Frame]> {
        match self.value() {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => Some(items),
            _ => None,
        }
    }

    /// Like [`as_array`](Self::as_array), by value; a map gives its keys and values in turn, as in RESP2.
    pub fn into_array(self) -> Option<Vec<Frame>> {
        match self.into_value() {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => Some(items),
            Self::Map(pairs) => Some(pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()),
            _ => None,
        }
    }

    /// The entries of a map, or of the flat array that stands for it in RESP2 (an array of odd length has none).
    pub fn as_pairs(&self) -> Option<impl ExactSizeIterator<Item = (&Frame, &Frame)>> {
        let (pairs, flat): (&[(Frame, Frame)], &[Frame]) = match self.value() {
            Self::Map(pairs) => (pairs, &[]),
            Self::Array(items) if items.len() % 2 == 0 => (&[], items),
            _ => return None,
        };
        let count = pairs.len() + flat.len() / 2;
        Some((0..count).map(move |i| match pairs.get(i) {
            Some((k, v)) => (k, v),
            None => (&flat[2 * i], &flat[2 * i + 1]),
        }))
    }

    /// The value of the first entry with this key, in a map or the flat array that stands for it in RESP2.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&Frame> {
        let key = key.as_ref();
        self.as_pairs()?.find(|(k, _)| k.as_bytes().is_some_and(|k| k == key)).map(|(_, v)| v)
    }

    /// The frame without the attributes around it.
    pub fn value(&self) -> &Frame {
        let mut frame = self;
        while let Self::Attributed { value, .. } = frame {
            frame = value;
        }
        frame
    }

    /// Like [`value`](Self::value), by value.
    pub fn into_value(self) -> Frame {
        let mut frame = self;
        while let Self::Attributed { value, .. } = frame {
            frame = *value;
        }
        frame
    }
}

impl From<Bytes> for Frame {
    /// A bulk string.
    fn from(bytes: Bytes) -> Self {
        Self::Bulk(bytes)
    }
}

impl From<&'static str> for Frame {
    /// A bulk string.
    fn from(text: &'static str) -> Self {
        Self::Bulk(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for Frame {
    /// A bulk string.
    fn from(text: String) -> Self {
        Self::Bulk(Bytes::from(text))
    }
}

impl From<i64> for Frame {
    /// An integer.
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Frame {
    /// A double.
    fn from(value: f64) -> Self {
        Self::Double(Double(value))
    }
}

impl From<bool> for Frame {
    /// A boolean.
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<Vec<Frame>> for Frame {
    /// An array.
    fn from(items: Vec<Frame>) -> Self {
        Self::Array(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_equal_by_meaning() {
        assert_eq!(Double::new(f64::NAN), Double::new(-f64::NAN));
        assert_ne!(Double::new(0.0), Double::new(-0.0));
        assert_eq!(Double::new(0.1), Double::new(1.0 / 10.0));
    }

    #[test]
    fn double_text_reads_back_to_the_same_bits() {
        for (value, text) in [
            (3.0, "3"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (1e20, "1e20"),
            (1.5e-7, "1.5e-7"),
            (f64::MAX, "1.7976931348623157e308"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            let written = Double::new(value).to_string();
            assert_eq!(written, text);
            assert_eq!(Double::new(number::double(written.as_bytes()).unwrap()), Double::new(value));
        }
    }

    #[test]
    fn accessors_see_through_attributes() {
        let frame = Frame::Attributed {
            attributes: vec![(Frame::from("ttl"), Frame::Integer(1))],
            value: Box::new(Frame::Attributed { attributes: vec![], value: Box::new(Frame::from("17")) }),
        };
        assert_eq!(frame.as_i64(), Some(17));
        assert_eq!(frame.as_str(), Some("17"));
        assert!(!frame.is_error() && !frame.is_null());
        assert_eq!(frame.into_value(), Frame::from("17"));
    }

    #[test]
    fn pairs_of_maps_and_of_flat_arrays() {
        let map =
            Frame::Map(vec![(Frame::from("a"), Frame::Integer(1)), (Frame::from("a"), Frame::Integer(2))]);
        let flat = Frame::Array(vec!["a".into(), 1.into(), "a".into(), 2.into()]);
        for frame in [&map, &flat] {
            assert_eq!(frame.get("a"), Some(&Frame::Integer(1)));
            assert_eq!(frame.get("b"), None);
            assert_eq!(frame.as_pairs().unwrap().len(), 2);
        }
        assert!(Frame::Array(vec![Frame::Integer(1)]).as_pairs().is_none());
        assert_eq!(map.into_array().unwrap(), flat.into_array().unwrap());
    }

    #[test]
    fn conversions_of_numbers() {
        assert_eq!(Frame::from("012").as_i64(), None);
        assert_eq!(Frame::from("-12").as_i64(), Some(-12));
        assert_eq!(Frame::from("inf").as_f64(), Some(f64::INFINITY));
        assert_eq!(Frame::Integer(1).as_bool(), Some(true));
        assert_eq!(Frame::Integer(2).as_bool(), None);
        assert!(Frame::Simple(Bytes::from_static(b"OK")).is_ok());
    }
}
