//! What a reply should be.

use std::fmt;

use keyferry_client::{Frame, Protocol};
use keyferry_routing::KeyPattern;
use serde_json::{Map, Value, json};

use crate::command::Names;

/// How far two numbers may lie apart that are meant to be the same, as a part of the larger one.
pub(crate) const TOLERANCE: f64 = 1e-12;

/// The most nested expectation.
const DEPTH: usize = 32;

/// What a reply should be: a value of JSON, read as follows.
///
/// | JSON | matches |
/// | --- | --- |
/// | `"text"` | a bulk string (in RESP3 also a verbatim one) |
/// | `"+OK"` | a simple string |
/// | `"-WRONGTYPE Operation"` | an error that begins like this, at a word's end |
/// | `12` | an integer |
/// | `1.5` | a double in RESP3, a bulk string with that number in RESP2 |
/// | `true` | a boolean in RESP3, 1 in RESP2 |
/// | `null` | no value, of any form |
/// | `[…]` | an array with these elements in this order (in RESP3 also a push) |
/// | `{"set": […]}` | a set in RESP3, an array in RESP2, in any order |
/// | `{"map": [[k, v], …]}` | a map in RESP3, keys and values in turn in RESP2, in any order |
/// | `{"pairs": [[a, b], …]}` | an array of arrays of two in RESP3, a flat array in RESP2, in this order |
/// | `{"unordered": […]}` | an array in any order |
/// | `{"begins": […]}` | an array that begins with these |
/// | `{"holds": […]}` | an array or set that has these among others |
/// | `{"has": [[k, v], …]}` | a map, or what stands for it, with these entries among others |
/// | `{"length": n}` | an array, set or map of so many elements, or a string of so many bytes |
/// | `{"number": 1.5}` | a string with that number |
/// | `{"bulk": "+text"}` | a bulk string, whatever it begins with |
/// | `{"big_number": "12"}` | a big number in RESP3, a bulk string with these digits in RESP2 |
/// | `{"hex": "00ff"}` | a bulk string of these bytes |
/// | `{"like": "a*"}` | a string that the pattern matches |
/// | `{"line": "a*"}` | a string with a line that the pattern matches |
/// | `{"contains": ["a", "b"]}` | a string that contains these |
/// | `{"between": [1, 9]}` | an integer, or a string that is a number, in this range |
/// | `{"error": "ERR*index*"}` | an error that the pattern matches |
/// | `{"type": "integer"}` | anything of that type: `integer`, `string`, `simple`, `error`, `array`, `set`, `map`, `double`, `boolean`, `null`, `aggregate`, `any` |
/// | `{"either": [x, y]}` | what one of these matches |
/// | `{"closed": true}` | no reply: the server closes the connection |
///
/// Texts may have the names of commands in them: `$key`, `${kept}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expect {
    Text(String),
    Simple(String),
    Error(String),
    ErrorLike(String),
    Integer(i64),
    Float(f64),
    Number(f64),
    Boolean(bool),
    Null,
    Array(Vec<Expect>),
    Set(Vec<Expect>),
    Map(Vec<(Expect, Expect)>),
    Pairs(Vec<(Expect, Expect)>),
    Unordered(Vec<Expect>),
    Begins(Vec<Expect>),
    Holds(Vec<Expect>),
    Has(Vec<(Expect, Expect)>),
    Length(usize),
    BigNumber(String),
    Hex(Vec<u8>),
    Like(String),
    Line(String),
    Contains(Vec<String>),
    Between(f64, f64),
    Type(Kind),
    Either(Vec<Expect>),
    Closed,
}

/// A type of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Integer,
    String,
    Simple,
    Error,
    Array,
    Set,
    Map,
    Double,
    Boolean,
    Null,
    Aggregate,
    Any,
}

const KINDS: [(&str, Kind); 12] = [
    ("integer", Kind::Integer),
    ("string", Kind::String),
    ("simple", Kind::Simple),
    ("error", Kind::Error),
    ("array", Kind::Array),
    ("set", Kind::Set),
    ("map", Kind::Map),
    ("double", Kind::Double),
    ("boolean", Kind::Boolean),
    ("null", Kind::Null),
    ("aggregate", Kind::Aggregate),
    ("any", Kind::Any),
];

impl Expect {
    /// Reads it.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        parse(value, 0)
    }

    /// Writes it back.
    pub(crate) fn to_json(&self) -> Value {
        let all = |items: &[Self]| Value::Array(items.iter().map(Self::to_json).collect());
        let two =
            |pairs: &[(Self, Self)]| pairs.iter().map(|(a, b)| json!([a.to_json(), b.to_json()])).collect();
        match self {
            Self::Text(text) if text.starts_with(['+', '-']) => json!({ "bulk": text }),
            Self::Text(text) => json!(text),
            Self::Simple(text) => json!(format!("+{text}")),
            Self::Error(text) => json!(format!("-{text}")),
            Self::ErrorLike(pattern) => json!({ "error": pattern }),
            Self::Integer(n) => json!(n),
            Self::Float(n) if n.is_finite() => json!(n),
            Self::Float(n) => json!({ "float": n.to_string().to_lowercase() }),
            Self::Number(n) => json!({ "number": n }),
            Self::Boolean(b) => json!(b),
            Self::Null => Value::Null,
            Self::Array(items) => all(items),
            Self::Set(items) => json!({ "set": all(items) }),
            Self::Map(pairs) => json!({ "map": Value::Array(two(pairs)) }),
            Self::Pairs(pairs) => json!({ "pairs": Value::Array(two(pairs)) }),
            Self::Unordered(items) => json!({ "unordered": all(items) }),
            Self::Begins(items) => json!({ "begins": all(items) }),
            Self::Holds(items) => json!({ "holds": all(items) }),
            Self::Has(pairs) => json!({ "has": Value::Array(two(pairs)) }),
            Self::Length(n) => json!({ "length": n }),
            Self::BigNumber(digits) => json!({ "big_number": digits }),
            Self::Hex(bytes) => json!({ "hex": hex(bytes) }),
            Self::Like(pattern) => json!({ "like": pattern }),
            Self::Line(pattern) => json!({ "line": pattern }),
            Self::Contains(parts) => json!({ "contains": parts }),
            Self::Between(a, b) => json!({ "between": [short(*a), short(*b)] }),
            Self::Type(kind) => {
                json!({ "type": KINDS.iter().find(|(_, one)| one == kind).map_or("any", |(name, _)| name) })
            }
            Self::Either(items) => json!({ "either": all(items) }),
            Self::Closed => json!({ "closed": true }),
        }
    }

    /// Whether a reply is as it should be.
    pub(crate) fn matches(&self, frame: &Frame, protocol: Protocol, names: &Names) -> bool {
        let three = protocol == Protocol::Resp3;
        let frame = frame.value();
        let text = |text: &str| names.expand(text.as_bytes()).unwrap_or_default();
        let like = |pattern: &str, bytes: &[u8]| KeyPattern::new(&text(pattern)).matches(bytes);
        match self {
            Self::Text(expected) => string(frame).is_some_and(|bytes| bytes == text(expected)),
            Self::Simple(expected) => matches!(frame, Frame::Simple(bytes) if bytes == expected.as_bytes()),
            Self::Error(prefix) => frame.error().is_some_and(|error| begins(error, &text(prefix))),
            Self::ErrorLike(pattern) => frame.error().is_some_and(|error| like(pattern, error)),
            Self::Integer(n) => matches!(frame, Frame::Integer(m) if m == n),
            Self::Float(n) => match frame {
                Frame::Double(m) => three && close(*n, m.get()),
                Frame::Bulk(_) => !three && frame.as_f64().is_some_and(|m| close(*n, m)),
                _ => false,
            },
            Self::Number(n) => {
                matches!(frame, Frame::Bulk(_) | Frame::Simple(_))
                    && frame.as_f64().is_some_and(|m| close(*n, m))
            }
            Self::Boolean(b) => match frame {
                Frame::Boolean(c) => three && b == c,
                Frame::Integer(n) => !three && i64::from(*b) == *n,
                _ => false,
            },
            Self::Null => frame.is_null(),
            Self::Array(items) => elements(frame).is_some_and(|found| {
                found.len() == items.len()
                    && items.iter().zip(found).all(|(item, one)| item.matches(one, protocol, names))
            }),
            Self::Set(items) => match frame {
                Frame::Set(found) if three => every(items, found, protocol, names),
                Frame::Array(found) if !three => every(items, found, protocol, names),
                _ => false,
            },
            Self::Unordered(items) => {
                elements(frame).is_some_and(|found| every(items, found, protocol, names))
            }
            Self::Begins(items) => elements(frame).is_some_and(|found| {
                found.len() >= items.len()
                    && items.iter().zip(found).all(|(item, one)| item.matches(one, protocol, names))
            }),
            Self::Holds(items) => frame.as_array().is_some_and(|found| {
                items.iter().all(|item| found.iter().any(|one| item.matches(one, protocol, names)))
            }),
            Self::Map(pairs) => entries(frame, three).is_some_and(|found| {
                found.len() == pairs.len() && every_pair(pairs, &found, protocol, names)
            }),
            Self::Has(pairs) => frame
                .as_pairs()
                .is_some_and(|found| every_pair(pairs, &found.collect::<Vec<_>>(), protocol, names)),
            Self::Pairs(pairs) => two_by_two(frame, three).is_some_and(|found| {
                found.len() == pairs.len()
                    && pairs.iter().zip(found).all(|((a, b), (x, y))| {
                        a.matches(x, protocol, names) && b.matches(y, protocol, names)
                    })
            }),
            Self::Length(n) => length(frame) == Some(*n),
            Self::BigNumber(digits) => match frame {
                Frame::BigNumber(found) => three && found == digits.as_bytes(),
                Frame::Bulk(found) => !three && found == digits.as_bytes(),
                _ => false,
            },
            Self::Hex(expected) => string(frame).is_some_and(|bytes| bytes == &expected[..]),
            Self::Like(pattern) => string(frame).is_some_and(|bytes| like(pattern, bytes)),
            Self::Line(pattern) => string(frame).is_some_and(|bytes| {
                let pattern = KeyPattern::new(&text(pattern));
                bytes
                    .split(|&byte| byte == b'\n')
                    .any(|line| pattern.matches(line.strip_suffix(b"\r").unwrap_or(line)))
            }),
            Self::Contains(parts) => string(frame).is_some_and(|bytes| {
                parts.iter().all(|part| {
                    let part = text(part);
                    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
                })
            }),
            Self::Between(a, b) => frame.as_f64().is_some_and(|n| n >= *a && n <= *b),
            Self::Type(kind) => is_kind(frame, *kind),
            Self::Either(items) => items.iter().any(|item| item.matches(frame, protocol, names)),
            Self::Closed => false,
        }
    }
}

/// As JSON, with its names as they are.
impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_json())
    }
}

/// Whether two numbers are the same but for the way in which they are written.
pub(crate) fn close(a: f64, b: f64) -> bool {
    a == b
        || (a.is_nan() && b.is_nan())
        || ((a - b).is_finite() && (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()))
}

/// Whether an error begins with this, and not in the middle of a word.
fn begins(error: &[u8], prefix: &[u8]) -> bool {
    let Some(rest) = error.strip_prefix(prefix) else { return false };
    let word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    !(word(prefix.last()) && word(rest.first()))
}

fn string(frame: &Frame) -> Option<&[u8]> {
    match frame {
        Frame::Bulk(bytes) => Some(bytes),
        Frame::Verbatim { text, .. } => Some(text),
        _ => None,
    }
}

fn elements(frame: &Frame) -> Option<&[Frame]> {
    match frame {
        Frame::Array(items) | Frame::Push(items) => Some(items),
        _ => None,
    }
}

fn entries(frame: &Frame, three: bool) -> Option<Vec<(&Frame, &Frame)>> {
    match frame {
        Frame::Map(_) if three => frame.as_pairs().map(Iterator::collect),
        Frame::Array(_) if !three => frame.as_pairs().map(Iterator::collect),
        _ => None,
    }
}

fn two_by_two(frame: &Frame, three: bool) -> Option<Vec<(&Frame, &Frame)>> {
    let Frame::Array(items) = frame else { return None };
    if !three {
        return frame.as_pairs().map(Iterator::collect);
    }
    items
        .iter()
        .map(|item| match item {
            Frame::Array(two) => match &two[..] {
                [a, b] => Some((a, b)),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

fn length(frame: &Frame) -> Option<usize> {
    match frame {
        Frame::Map(pairs) => Some(pairs.len()),
        Frame::Array(items) | Frame::Set(items) | Frame::Push(items) => Some(items.len()),
        _ => string(frame).map(<[u8]>::len),
    }
}

/// Whether each of the items has a partner of its own among as many frames.
fn every(items: &[Expect], found: &[Frame], protocol: Protocol, names: &Names) -> bool {
    let mut left: Vec<&Frame> = found.iter().collect();
    items.len() == found.len()
        && items.iter().all(|item| {
            let at = left.iter().position(|frame| item.matches(frame, protocol, names));
            at.map(|at| left.swap_remove(at)).is_some()
        })
}

fn every_pair(
    pairs: &[(Expect, Expect)],
    found: &[(&Frame, &Frame)],
    protocol: Protocol,
    names: &Names,
) -> bool {
    let mut left: Vec<&(&Frame, &Frame)> = found.iter().collect();
    pairs.iter().all(|(key, value)| {
        let at = left
            .iter()
            .position(|(k, v)| key.matches(k, protocol, names) && value.matches(v, protocol, names));
        at.map(|at| left.swap_remove(at)).is_some()
    })
}

pub(crate) fn is_kind(frame: &Frame, kind: Kind) -> bool {
    match kind {
        Kind::Integer => matches!(frame, Frame::Integer(_)),
        Kind::String => matches!(frame, Frame::Bulk(_) | Frame::Verbatim { .. }),
        Kind::Simple => matches!(frame, Frame::Simple(_)),
        Kind::Error => frame.is_error(),
        Kind::Array => matches!(frame, Frame::Array(_)),
        Kind::Set => matches!(frame, Frame::Set(_)),
        Kind::Map => matches!(frame, Frame::Map(_)),
        Kind::Double => matches!(frame, Frame::Double(_)),
        Kind::Boolean => matches!(frame, Frame::Boolean(_)),
        Kind::Null => frame.is_null(),
        Kind::Aggregate => matches!(frame, Frame::Array(_) | Frame::Set(_) | Frame::Map(_)),
        Kind::Any => !frame.is_error(),
    }
}

fn parse(value: &Value, depth: usize) -> Result<Expect, String> {
    if depth > DEPTH {
        return Err(format!("nested deeper than {DEPTH}"));
    }
    Ok(match value {
        Value::Null => Expect::Null,
        Value::Bool(b) => Expect::Boolean(*b),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Expect::Integer(n),
            (None, Some(n)) => Expect::Float(n),
            _ => return Err(format!("{n} is beyond 64 bits")),
        },
        Value::String(text) => match text.as_bytes().first() {
            Some(b'+') => Expect::Simple(text[1..].to_owned()),
            Some(b'-') => Expect::Error(text[1..].to_owned()),
            _ => Expect::Text(text.clone()),
        },
        Value::Array(items) => Expect::Array(list(items, depth)?),
        Value::Object(object) => return parse_object(object, depth),
    })
}

fn parse_object(object: &Map<String, Value>, depth: usize) -> Result<Expect, String> {
    let mut entries = object.iter();
    let (Some((name, value)), None) = (entries.next(), entries.next()) else {
        return Err("an expectation has one name, such as {\"set\": […]}".to_owned());
    };
    let items = || match value {
        Value::Array(items) => list(items, depth),
        _ => Err(format!("\"{name}\" takes an array")),
    };
    let pairs = || match value {
        Value::Array(items) => {
            items.iter().map(|item| pair(name, item, depth)).collect::<Result<Vec<_>, _>>()
        }
        _ => Err(format!("\"{name}\" takes an array of pairs")),
    };
    let text = || value.as_str().map(str::to_owned).ok_or_else(|| format!("\"{name}\" takes a text"));
    Ok(match name.as_str() {
        "set" => Expect::Set(items()?),
        "map" => Expect::Map(pairs()?),
        "pairs" => Expect::Pairs(pairs()?),
        "unordered" => Expect::Unordered(items()?),
        "begins" => Expect::Begins(items()?),
        "holds" => Expect::Holds(items()?),
        "has" => Expect::Has(pairs()?),
        "either" => Expect::Either(items()?),
        "length" => {
            let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
            Expect::Length(n.ok_or("\"length\" takes a number")?)
        }
        "number" => Expect::Number(value.as_f64().ok_or("\"number\" takes a number")?),
        "float" => {
            let n = text()?.parse().map_err(|_| "\"float\" takes inf, -inf or nan".to_owned())?;
            Expect::Float(n)
        }
        "bulk" => Expect::Text(text()?),
        "big_number" => Expect::BigNumber(text()?),
        "hex" => Expect::Hex(unhex(&text()?).ok_or("\"hex\" takes pairs of hexadecimal digits")?),
        "like" => Expect::Like(text()?),
        "line" => Expect::Line(text()?),
        "error" => Expect::ErrorLike(text()?),
        "contains" => {
            let parts: Option<Vec<String>> = value
                .as_array()
                .map(|items| items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect());
            Expect::Contains(parts.filter(|parts| !parts.is_empty()).ok_or("\"contains\" takes texts")?)
        }
        "between" => match value.as_array().map(Vec::as_slice) {
            Some([a, b]) => match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) if a <= b => Expect::Between(a, b),
                _ => return Err("\"between\" takes two numbers, the smaller one first".to_owned()),
            },
            _ => return Err("\"between\" takes two numbers".to_owned()),
        },
        "type" => {
            let wanted = text()?;
            let kind = KINDS.iter().find(|(name, _)| *name == wanted);
            Expect::Type(kind.ok_or_else(|| format!("no type is called \"{wanted}\""))?.1)
        }
        "closed" if *value == Value::Bool(true) => Expect::Closed,
        _ => return Err(format!("no expectation is called \"{name}\"")),
    })
}

fn list(items: &[Value], depth: usize) -> Result<Vec<Expect>, String> {
    items.iter().map(|item| parse(item, depth + 1)).collect()
}

fn pair(name: &str, item: &Value, depth: usize) -> Result<(Expect, Expect), String> {
    match item.as_array().map(Vec::as_slice) {
        Some([a, b]) => Ok((parse(a, depth + 1)?, parse(b, depth + 1)?)),
        _ => Err(format!("\"{name}\" takes an array of pairs")),
    }
}

/// A number without a fraction as an integer.
fn short(n: f64) -> Value {
    if n == n.trunc() && n.abs() < 9e15 { json!(n as i64) } else { json!(n) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("p:".to_owned(), "q:".to_owned(), "r")
    }

    fn check(expectation: &str, two: &Frame, three: &Frame, wrong: &[Frame]) {
        let json: Value = serde_json::from_str(expectation).unwrap();
        let expect = Expect::parse(&json).unwrap();
        assert_eq!(Expect::parse(&expect.to_json()).unwrap(), expect, "{expectation}");
        assert!(expect.matches(two, Protocol::Resp2, &names()), "{expectation} RESP2");
        assert!(expect.matches(three, Protocol::Resp3, &names()), "{expectation} RESP3");
        for frame in wrong {
            assert!(!expect.matches(frame, Protocol::Resp2, &names()), "{expectation} {frame:?}");
            assert!(!expect.matches(frame, Protocol::Resp3, &names()), "{expectation} {frame:?}");
        }
    }

    fn array(items: &[&'static str]) -> Frame {
        Frame::Array(items.iter().map(|&item| Frame::from(item)).collect())
    }

    fn both(expectation: &str, right: &Frame, wrong: &[Frame]) {
        check(expectation, right, right, wrong);
    }

    #[test]
    fn scalars() {
        let simple = |text: &'static str| Frame::Simple(text.into());
        let error = |text: &'static str| Frame::Error(text.into());
        both("\"a\"", &"a".into(), &["b".into(), simple("a"), Frame::Integer(1)]);
        both("\"$k\"", &"p:k".into(), &["k".into()]);
        both("\"+OK\"", &simple("OK"), &["OK".into(), simple("OKAY")]);
        both("{\"bulk\": \"+OK\"}", &"+OK".into(), &[simple("OK")]);
        both(
            "\"-ERR no such key\"",
            &error("ERR no such key here"),
            &[error("ERR no such keys"), "ERR no such key".into()],
        );
        both("{\"error\": \"*index*\"}", &error("ERR index out"), &[error("ERR"), "index".into()]);
        both("12", &Frame::Integer(12), &["12".into(), Frame::Integer(13)]);
        check("1.5", &"1.5".into(), &1.5.into(), &["1.6".into(), Frame::Integer(1)]);
        check("{\"float\": \"inf\"}", &"inf".into(), &f64::INFINITY.into(), &["1".into()]);
        check("true", &Frame::Integer(1), &true.into(), &[Frame::Integer(0), false.into()]);
        both("null", &Frame::Null(keyferry_resp::Null::Array), &["".into()]);
        both("{\"number\": 0.1}", &"0.10000000000000001".into(), &["0.11".into(), "x".into()]);
        check(
            "{\"big_number\": \"12\"}",
            &"12".into(),
            &Frame::BigNumber("12".into()),
            &[Frame::Integer(12)],
        );
        both("{\"hex\": \"00ff\"}", &Frame::Bulk(vec![0, 255].into()), &["".into()]);
        both("{\"like\": \"a*c\"}", &"abc".into(), &["abd".into()]);
        both("{\"line\": \"b:*\"}", &"a:1\r\nb:2\r\n".into(), &["ab:1".into()]);
        both("{\"contains\": [\"a\", \"c\"]}", &"xcax".into(), &["xa".into()]);
        both("{\"between\": [1, 2.5]}", &Frame::Integer(2), &[Frame::Integer(3), "x".into()]);
        both("{\"type\": \"any\"}", &"x".into(), &[error("ERR")]);
        both("{\"length\": 3}", &"abc".into(), &["ab".into(), Frame::Integer(3)]);
        both("{\"either\": [1, null]}", &Frame::Integer(1), &[Frame::Integer(2)]);
    }

    #[test]
    fn aggregates() {
        let ab = array(&["a", "b"]);
        let set = |items: &[&'static str]| Frame::Set(items.iter().map(|&item| Frame::from(item)).collect());
        both("[\"a\", \"b\"]", &ab, &[array(&["b", "a"]), array(&["a"]), set(&["a", "b"])]);
        both("{\"unordered\": [\"b\", \"a\"]}", &ab, &[array(&["a", "a"]), array(&["a", "b", "a"])]);
        check("{\"set\": [\"b\", \"a\"]}", &ab, &set(&["a", "b"]), &[array(&["a"]), set(&["a"])]);
        both("{\"begins\": [\"a\"]}", &ab, &[array(&["b", "a"])]);
        both("{\"holds\": [\"b\"]}", &ab, &[array(&["a"])]);
        let map = Frame::Map(vec![("b".into(), 2.into()), ("a".into(), 1.into())]);
        let flat = Frame::Array(vec!["b".into(), 2.into(), "a".into(), 1.into()]);
        check("{\"map\": [[\"a\", 1], [\"b\", 2]]}", &flat, &map, &[array(&["a", "b"]), Frame::Map(vec![])]);
        both("{\"has\": [[\"a\", 1]]}", &map, &[array(&["a", "b"])]);
        let nested = Frame::Array(vec![
            Frame::Array(vec!["b".into(), 2.into()]),
            Frame::Array(vec!["a".into(), 1.into()]),
        ]);
        check("{\"pairs\": [[\"b\", 2], [\"a\", 1]]}", &flat, &nested, &[array(&["a", "b"]), map]);
        // In RESP3 each aggregate has its own type, and so has a double.
        let expect = Expect::parse(&json!({"map": [["a", 1]]})).unwrap();
        let flat = Frame::Array(vec!["a".into(), 1.into()]);
        assert!(!expect.matches(&flat, Protocol::Resp3, &names()));
        assert!(!Expect::Float(1.5).matches(&"1.5".into(), Protocol::Resp3, &names()));
    }

    #[test]
    fn what_is_no_expectation_is_told() {
        for wrong in [
            json!({}),
            json!({"a": 1}),
            json!({"set": 1}),
            json!({"map": [1]}),
            json!({"set": [], "map": []}),
            json!({"hex": "0"}),
            json!({"hex": "é0"}),
            json!({"type": "strange"}),
            json!({"between": [2, 1]}),
            json!({"length": -1}),
            json!(18446744073709551615u64),
        ] {
            let parsed = Expect::parse(&wrong);
            if wrong.is_number() {
                // Too large for an integer of a server: it can only be a double.
                assert!(matches!(parsed, Ok(Expect::Float(_))));
            } else {
                assert!(parsed.is_err(), "{wrong}");
            }
        }
        let mut deep = json!(1);
        for _ in 0..=DEPTH {
            deep = json!([deep]);
        }
        assert!(Expect::parse(&deep).is_err());
    }
}
