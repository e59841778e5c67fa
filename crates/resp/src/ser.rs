//! Frames and commands for logs.

use serde::ser::{SerializeMap, Serializer};
use serde::{Serialize, ser};

use crate::escape::escape;
use crate::{Command, CommandRef, Double, Frame};

/// For logs and JSON: what reads best, with every byte kept but not every type.
///
/// Strings of all kinds and big numbers are strings, [escaped](crate::escape) where they are not UTF-8; integers,
/// booleans and finite doubles are themselves; `inf`, `-inf` and `nan` are strings, as JSON has no such numbers; nulls
/// are null; arrays and sets are sequences. A map whose keys are strings is a map, in its order and with its
/// duplicates, any other map a sequence of pairs. Errors are `{"error": "text"}`, pushes `{"push": […]}`, attributes
/// `{"attributes": …, "value": …}`.
impl Serialize for Frame {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Frame::Simple(text)
            | Frame::Bulk(text)
            | Frame::BigNumber(text)
            | Frame::Verbatim { text, .. } => serializer.serialize_str(&escape(text)),
            Frame::Error(text) | Frame::BulkError(text) => one(serializer, "error", &escape(text)),
            Frame::Integer(value) => serializer.serialize_i64(*value),
            Frame::Boolean(value) => serializer.serialize_bool(*value),
            Frame::Double(value) => value.serialize(serializer),
            Frame::Null(_) => serializer.serialize_unit(),
            Frame::Array(items) | Frame::Set(items) => serializer.collect_seq(items),
            Frame::Push(items) => one(serializer, "push", items),
            Frame::Map(pairs) => Pairs(pairs).serialize(serializer),
            Frame::Attributed { attributes, value } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("attributes", &Pairs(attributes))?;
                map.serialize_entry("value", value)?;
                map.end()
            }
        }
    }
}

/// A number, or `inf`, `-inf`, `nan` as a string.
impl Serialize for Double {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.get().is_finite() {
            serializer.serialize_f64(self.get())
        } else {
            serializer.collect_str(self)
        }
    }
}

/// For logs and JSON: the arguments as strings, [escaped](crate::escape) where they are not UTF-8. Passwords in them are
/// not hidden.
impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.args().map(escape))
    }
}

/// As for [`Command`].
impl Serialize for CommandRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.args().map(escape))
    }
}

struct Pairs<'a>(&'a [(Frame, Frame)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let key = |frame: &Frame| match frame {
            Frame::Simple(_) | Frame::Bulk(_) | Frame::Verbatim { .. } => frame.as_bytes().cloned(),
            _ => None,
        };
        if self.0.iter().any(|(k, _)| key(k).is_none()) {
            return serializer.collect_seq(self.0);
        }
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (k, v) in self.0 {
            let k = key(k).ok_or_else(|| ser::Error::custom("not a string"))?;
            map.serialize_entry(&escape(&k), v)?;
        }
        map.end()
    }
}

fn one<S: Serializer, T: Serialize + ?Sized>(
    serializer: S,
    name: &'static str,
    value: &T,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(name, value)?;
    map.end()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Null;

    #[test]
    fn as_json() {
        let pair = |k: Frame| vec![(k, Frame::Integer(1))];
        for (frame, json) in [
            (Frame::from("a\"b"), r#""a\"b""#),
            (Frame::Bulk(Bytes::from_static(b"a\\\xff")), r#""a\\\\\\xff""#),
            (Frame::Simple("OK".into()), r#""OK""#),
            (Frame::Error("ERR x".into()), r#"{"error":"ERR x"}"#),
            (Frame::BigNumber("123".into()), r#""123""#),
            (Frame::Integer(-7), "-7"),
            (Frame::from(0.5), "0.5"),
            (Frame::from(f64::NEG_INFINITY), r#""-inf""#),
            (Frame::from(f64::NAN), r#""nan""#),
            (Frame::Null(Null::Array), "null"),
            (Frame::Boolean(true), "true"),
            (Frame::Set(vec![Frame::Integer(1), Frame::from("x")]), r#"[1,"x"]"#),
            (Frame::Push(vec![Frame::from("message")]), r#"{"push":["message"]}"#),
            (Frame::Map(vec![("a".into(), 1.into()), ("a".into(), 2.into())]), r#"{"a":1,"a":2}"#),
            (Frame::Map(pair(Frame::Integer(5))), "[[5,1]]"),
            (
                Frame::Attributed { attributes: pair("ttl".into()), value: Box::new(Frame::from("v")) },
                r#"{"attributes":{"ttl":1},"value":"v"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&frame).unwrap(), json);
        }
        let command = Command::new([&b"SET"[..], b"k\xfe", b"v"]);
        assert_eq!(serde_json::to_string(&command).unwrap(), r#"["SET","k\\xfe","v"]"#);
        assert_eq!(serde_json::to_string(&command.as_ref()).unwrap(), r#"["SET","k\\xfe","v"]"#);
    }
}
