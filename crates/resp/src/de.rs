//! Frames into types.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Visitor};

use crate::{ErrorReply, Frame};

/// Turns a reply into a value of any type that implements `Deserialize`.
///
/// Made for replies as they are, in RESP2 as well as RESP3:
/// * integers and floats also from strings that hold one; integers also from booleans;
/// * booleans also from `0`, `1`, `yes`, `no`, `true`, `false`;
/// * strings also from numbers and big numbers; bytes (`Vec<u8>` by a type that asks for bytes, such as those of
///   `serde_bytes`) from every string; a `String` must be UTF-8;
/// * `Option` from nulls of all forms; `()` from nulls and `+OK`;
/// * structs and maps from maps, from flat arrays, and from arrays of pairs; a map with a key twice gives both to the
///   type, and structs refuse it;
/// * sequences and tuples from arrays, sets and pushes, and from maps as pairs;
/// * enums from their name, or from a pair or one-entry map of name and content;
/// * attributes are left out.
///
/// ```
/// use keyferry_resp::{Frame, from_frame};
///
/// #[derive(serde::Deserialize)]
/// struct Hello {
///     server: String,
///     proto: u8,
///     modules: Vec<String>,
/// }
///
/// // What a server answers to HELLO in RESP2, somewhat shortened.
/// let reply = Frame::Array(vec![
///     "server".into(), "redis".into(), "proto".into(), 2.into(), "modules".into(), Frame::Array(vec![]),
/// ]);
/// let hello: Hello = from_frame(reply)?;
/// assert_eq!((hello.server.as_str(), hello.proto, hello.modules.len()), ("redis", 2, 0));
/// # Ok::<(), keyferry_resp::FromFrameError>(())
/// ```
///
/// # Errors
///
/// When the reply is an error, or has one where a value is wanted, and when it does not fit the type. The error names
/// the place in the reply.
pub fn from_frame<T: DeserializeOwned>(frame: Frame) -> Result<T, FromFrameError> {
    T::deserialize(Value(frame))
}

/// Why a reply is not a value of the wanted type. `at` is the place in the reply, as in `.modules[0].name`; empty for the
/// reply itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FromFrameError {
    /// The server answered with an error.
    #[error("the server answered {reply}{}", Place(at))]
    Reply {
        /// The error.
        reply: ErrorReply,
        /// Where it is.
        at: String,
    },
    /// The server sent another type than wanted.
    #[error("expected {expected}, the server sent {found}{}", Place(at))]
    Mismatch {
        /// What was wanted.
        expected: &'static str,
        /// What came.
        found: &'static str,
        /// Where it is.
        at: String,
    },
    /// The type refused the value.
    #[error("{message}{}", Place(at))]
    Refused {
        /// What it said.
        message: String,
        /// Where the value is.
        at: String,
    },
}

struct Place<'a>(&'a str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (at {})", self.0) }
    }
}

impl FromFrameError {
    /// Puts an outer step before the place.
    fn inside(mut self, step: &str) -> Self {
        let (Self::Reply { at, .. } | Self::Mismatch { at, .. } | Self::Refused { at, .. }) = &mut self;
        at.insert_str(0, step);
        self
    }
}

impl de::Error for FromFrameError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Refused { message: message.to_string(), at: String::new() }
    }
}

/// A frame that is to become a value.
struct Value(Frame);

impl Value {
    /// The frame without attributes, if it is not an error.
    fn frame(self) -> Result<Frame, FromFrameError> {
        let frame = self.0.into_value();
        match frame.error_reply() {
            Some(reply) => Err(FromFrameError::Reply { reply, at: String::new() }),
            None => Ok(frame),
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        let frame = self.frame()?;
        match &frame {
            Frame::Boolean(value) => visitor.visit_i64(i64::from(*value)),
            Frame::Double(value)
                if value.get().fract() == 0.0 && value.get().abs() < 9_007_199_254_740_992.0 =>
            {
                visitor.visit_i64(value.get() as i64)
            }
            Frame::Simple(text) | Frame::Bulk(text) | Frame::BigNumber(text) if frame.as_i64().is_none() => {
                // Beyond 64 signed bits. Strings must be written as servers write numbers, as everywhere.
                let big = matches!(frame, Frame::BigNumber(_));
                let text = std::str::from_utf8(text).unwrap_or_default();
                if let Some(value) = text.parse::<i128>().ok().filter(|v| big || v.to_string() == text) {
                    return match (i64::try_from(value), u64::try_from(value)) {
                        (Ok(value), _) => visitor.visit_i64(value),
                        (_, Ok(value)) => visitor.visit_u64(value),
                        _ => visitor.visit_i128(value),
                    };
                }
                match text.parse::<u128>().ok().filter(|v| big || v.to_string() == text) {
                    Some(value) => visitor.visit_u128(value),
                    None => Err(mismatch("an integer", &frame)),
                }
            }
            _ => match frame.as_i64() {
                Some(value) => visitor.visit_i64(value),
                None => Err(mismatch("an integer", &frame)),
            },
        }
    }

    fn float<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        let frame = self.frame()?;
        match frame.as_f64() {
            Some(value) => visitor.visit_f64(value),
            None => Err(mismatch("a number", &frame)),
        }
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        let frame = self.frame()?;
        match &frame {
            Frame::Integer(value) => visitor.visit_str(itoa::Buffer::new().format(*value)),
            Frame::Double(value) => visitor.visit_string(value.to_string()),
            _ => match frame.as_bytes() {
                Some(bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => visitor.visit_str(text),
                    Err(_) => Err(FromFrameError::Mismatch {
                        expected: "text",
                        found: "bytes that are not UTF-8 (take them as bytes)",
                        at: String::new(),
                    }),
                },
                None => Err(mismatch("a string", &frame)),
            },
        }
    }

    fn bytes<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        let frame = self.frame()?;
        match &frame {
            Frame::Array(_) | Frame::Set(_) => Items::of(frame).visit(visitor),
            _ => match frame.as_bytes() {
                Some(bytes) => visitor.visit_byte_buf(bytes.to_vec()),
                None => Err(mismatch("a string", &frame)),
            },
        }
    }

    fn seq<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        match self.frame()? {
            frame @ (Frame::Array(_) | Frame::Set(_) | Frame::Push(_)) => Items::of(frame).visit(visitor),
            Frame::Map(pairs) => {
                let items = pairs.into_iter().map(|(k, v)| Frame::Array(vec![k, v])).collect();
                Items::of(Frame::Array(items)).visit(visitor)
            }
            frame => Err(mismatch("an array", &frame)),
        }
    }

    fn map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        let frame = self.frame()?;
        let pairs = match frame {
            Frame::Map(pairs) => pairs,
            Frame::Array(items) | Frame::Set(items) if items.iter().all(is_pair) => {
                items.into_iter().filter_map(pair).collect()
            }
            Frame::Array(items) if items.len() % 2 == 0 => {
                let mut items = items.into_iter();
                std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
            }
            frame => return Err(mismatch("a map", &frame)),
        };
        let mut entries = Entries { pairs: pairs.into_iter(), value: None };
        let value = visitor.visit_map(&mut entries)?;
        match entries.pairs.len() {
            0 => Ok(value),
            left => Err(de::Error::custom(format_args!("{left} entries are left over"))),
        }
    }
}

impl<'de> de::Deserializer<'de> for Value {
    type Error = FromFrameError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        match self.frame()? {
            Frame::Integer(value) => visitor.visit_i64(value),
            Frame::Boolean(value) => visitor.visit_bool(value),
            Frame::Double(value) => visitor.visit_f64(value.get()),
            Frame::Null(_) => visitor.visit_unit(),
            frame @ (Frame::Array(_) | Frame::Set(_) | Frame::Push(_)) => Value(frame).seq(visitor),
            frame @ Frame::Map(_) => Value(frame).map(visitor),
            frame => match frame.as_str() {
                Some(text) => visitor.visit_str(text),
                None => Value(frame).bytes(visitor),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        let frame = self.frame()?;
        let value = match (frame.as_bool(), frame.as_str()) {
            (Some(value), _) => value,
            (None, Some("1" | "yes" | "true")) => true,
            (None, Some("0" | "no" | "false")) => false,
            _ => return Err(mismatch("a boolean", &frame)),
        };
        visitor.visit_bool(value)
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.integer(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.float(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.float(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.text(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.text(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.text(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.bytes(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        match self.frame()? {
            frame if frame.is_null() || frame.is_ok() => visitor.visit_unit(),
            frame => Err(mismatch("OK or a null", &frame)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FromFrameError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FromFrameError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.seq(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, FromFrameError> {
        self.seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, FromFrameError> {
        self.seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        self.map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FromFrameError> {
        self.map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FromFrameError> {
        let (name, content) = match self.frame()? {
            Frame::Map(mut pairs) if pairs.len() == 1 => match pairs.pop() {
                Some((name, content)) => (name, Some(content)),
                None => return Err(de::Error::custom("an empty map")),
            },
            frame if is_pair(&frame) => match pair(frame) {
                Some((name, content)) => (name, Some(content)),
                None => return Err(de::Error::custom("not a pair")),
            },
            frame => (frame, None),
        };
        visitor.visit_enum(Variant { name, content })
    }

    /// What nobody wants may be anything, an error included.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FromFrameError> {
        visitor.visit_unit()
    }
}

/// Elements of an array.
struct Items {
    items: std::vec::IntoIter<Frame>,
    index: usize,
}

impl Items {
    fn of(frame: Frame) -> Self {
        Self { items: frame.into_array().unwrap_or_default().into_iter(), index: 0 }
    }

    fn visit<'de, V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, FromFrameError> {
        let value = visitor.visit_seq(&mut self)?;
        match self.items.len() {
            0 => Ok(value),
            left => Err(de::Error::custom(format_args!("{left} elements are left over"))),
        }
    }
}

impl<'de> de::SeqAccess<'de> for Items {
    type Error = FromFrameError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, FromFrameError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Value(item)).map(Some).map_err(|error| error.inside(&format!("[{index}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// Entries of a map.
struct Entries {
    pairs: std::vec::IntoIter<(Frame, Frame)>,
    /// The value behind the key that was given last, and that key as a step of a place.
    value: Option<(Frame, String)>,
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = FromFrameError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, FromFrameError> {
        let Some((key, value)) = self.pairs.next() else { return Ok(None) };
        let step = match (key.as_bytes(), key.as_i64()) {
            (Some(bytes), _) => format!(".{}", crate::escape::escape(bytes)),
            (None, Some(value)) => format!(".{value}"),
            (None, None) => ".?".to_owned(),
        };
        let result = seed.deserialize(Value(key)).map(Some);
        let result = result.map_err(|error| error.inside(&step));
        self.value = Some((value, step));
        result
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, FromFrameError> {
        match self.value.take() {
            Some((value, step)) => seed.deserialize(Value(value)).map_err(|error| error.inside(&step)),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.pairs.len())
    }
}

/// The name of a variant, and its content.
struct Variant {
    name: Frame,
    content: Option<Frame>,
}

impl<'de> de::EnumAccess<'de> for Variant {
    type Error = FromFrameError;
    type Variant = Content;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content), FromFrameError> {
        Ok((seed.deserialize(Value(self.name))?, Content(self.content)))
    }
}

struct Content(Option<Frame>);

impl Content {
    fn some(self) -> Result<Value, FromFrameError> {
        self.0
            .map(Value)
            .ok_or_else(|| de::Error::custom("the variant has content, which the server did not send"))
    }
}

impl<'de> de::VariantAccess<'de> for Content {
    type Error = FromFrameError;

    fn unit_variant(self) -> Result<(), FromFrameError> {
        match self.0 {
            None => Ok(()),
            Some(frame) if frame.is_null() => Ok(()),
            Some(frame) => Err(mismatch("a variant without content", &frame)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, FromFrameError> {
        seed.deserialize(self.some()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, FromFrameError> {
        self.some()?.seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FromFrameError> {
        self.some()?.map(visitor)
    }
}

fn is_pair(frame: &Frame) -> bool {
    matches!(frame.value(), Frame::Array(items) if items.len() == 2)
}

fn pair(frame: Frame) -> Option<(Frame, Frame)> {
    let [key, value] = <[Frame; 2]>::try_from(frame.into_array()?).ok()?;
    Some((key, value))
}

fn mismatch(expected: &'static str, found: &Frame) -> FromFrameError {
    let found = match found {
        Frame::Simple(_) => "a status",
        Frame::Error(_) | Frame::BulkError(_) => "an error",
        Frame::Integer(_) => "an integer",
        Frame::Bulk(_) => "a string",
        Frame::Null(_) => "a null",
        Frame::Array(_) => "an array",
        Frame::Boolean(_) => "a boolean",
        Frame::Double(_) => "a double",
        Frame::BigNumber(_) => "a big number",
        Frame::Verbatim { .. } => "a verbatim string",
        Frame::Map(_) => "a map",
        Frame::Set(_) => "a set",
        Frame::Push(_) => "a push",
        Frame::Attributed { .. } => "attributes",
    };
    FromFrameError::Mismatch { expected, found, at: String::new() }
}
