//! Replies as the original sees them, and its comparison.

use std::cmp::Ordering;

use keyferry_client::Frame;
use serde_json::Value;

/// A reply after the original's decoding: simple and bulk strings are one, nulls are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Null,
    Integer(i64),
    Text(String),
    List(Vec<Decoded>),
    /// An error inside an array: equal to nothing.
    Error(String),
}

impl Decoded {
    /// Decodes a reply. A top-level error, and text that is not UTF-8, are failures.
    pub(crate) fn of(frame: &Frame) -> Result<Self, String> {
        match frame.error() {
            Some(text) => Err(String::from_utf8_lossy(text).into_owned()),
            None => decode(frame),
        }
    }
}

fn decode(frame: &Frame) -> Result<Decoded, String> {
    Ok(match frame {
        Frame::Null(_) => Decoded::Null,
        Frame::Integer(n) => Decoded::Integer(*n),
        Frame::Error(text) => Decoded::Error(String::from_utf8_lossy(text).into_owned()),
        Frame::Simple(bytes) | Frame::Bulk(bytes) => {
            let text = std::str::from_utf8(bytes);
            Decoded::Text(text.map_err(|_| "the reply is not UTF-8".to_owned())?.to_owned())
        }
        Frame::Array(items) => Decoded::List(items.iter().map(decode).collect::<Result<_, _>>()?),
        other => return Err(format!("a reply that RESP2 does not have: {other:?}")),
    })
}

/// Compares a reply with the expected value, sorted first if asked for. `Err` is the reason of the failure.
pub(crate) fn compare(expected: &Value, reply: &Decoded, sort: bool) -> Result<(), String> {
    let (mut wanted, mut got) = (expected.clone(), reply.clone());
    if sort && wanted.is_array() {
        sort_value(&mut wanted)?;
        match &mut got {
            Decoded::List(_) => sort_decoded(&mut got)?,
            _ => return Err(format!("cannot sort {}", repr(reply))),
        }
    }
    if equal(&wanted, &got) {
        return Ok(());
    }
    Err(format!("expected: {}, result: {}", repr_value(&wanted), repr(&got)))
}

/// Python's `==`.
fn equal(expected: &Value, reply: &Decoded) -> bool {
    match (expected, reply) {
        (Value::Null, Decoded::Null) => true,
        (Value::Bool(b), Decoded::Integer(n)) => i64::from(*b) == *n,
        (Value::Number(number), Decoded::Integer(n)) => match number.as_i64() {
            Some(number) => number == *n,
            None => number.as_f64().is_some_and(|number| number == *n as f64),
        },
        (Value::String(text), Decoded::Text(other)) => text == other,
        (Value::Array(items), Decoded::List(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(item, other)| equal(item, other))
        }
        _ => false,
    }
}

/// Sorts each array that holds no array; one that holds arrays keeps its order.
fn sort_value(value: &mut Value) -> Result<(), String> {
    let Value::Array(items) = value else { return Ok(()) };
    if items.iter().any(Value::is_array) {
        return items.iter_mut().try_for_each(sort_value);
    }
    let mut unsortable = false;
    items.sort_by(|a, b| {
        let order = match (a, b) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => {
                a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b))
            }
            _ => None,
        };
        order.unwrap_or_else(|| {
            unsortable = true;
            Ordering::Equal
        })
    });
    if unsortable {
        Err("the expected values cannot be sorted: they are of several types".to_owned())
    } else {
        Ok(())
    }
}

fn sort_decoded(value: &mut Decoded) -> Result<(), String> {
    let Decoded::List(items) = value else { return Ok(()) };
    if items.iter().any(|item| matches!(item, Decoded::List(_))) {
        return items.iter_mut().try_for_each(sort_decoded);
    }
    let mut unsortable = false;
    items.sort_by(|a, b| match (a, b) {
        (Decoded::Text(a), Decoded::Text(b)) => a.cmp(b),
        (Decoded::Integer(a), Decoded::Integer(b)) => a.cmp(b),
        _ => {
            unsortable = true;
            Ordering::Equal
        }
    });
    if unsortable {
        Err("the reply cannot be sorted: its elements are of several types".to_owned())
    } else {
        Ok(())
    }
}

/// As Python shows it.
fn repr(value: &Decoded) -> String {
    match value {
        Decoded::Null => "None".to_owned(),
        Decoded::Integer(n) => n.to_string(),
        Decoded::Text(text) => repr_text(text),
        Decoded::Error(text) => format!("ResponseError({})", repr_text(text)),
        Decoded::List(items) => format!("[{}]", items.iter().map(repr).collect::<Vec<_>>().join(", ")),
    }
}

fn repr_value(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => repr_text(text),
        Value::Array(items) => format!("[{}]", items.iter().map(repr_value).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn repr_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyferry_resp::Null;
    use serde_json::json;

    fn list(items: &[&'static str]) -> Frame {
        Frame::Array(items.iter().map(|&item| item.into()).collect())
    }

    fn verdict(expected: Value, frame: &Frame, sort: bool) -> Result<(), String> {
        Decoded::of(frame).and_then(|reply| compare(&expected, &reply, sort))
    }

    #[test]
    fn comparison_is_by_type_and_value() {
        assert!(verdict(json!("OK"), &Frame::Simple("OK".into()), false).is_ok());
        assert!(verdict(json!("OK"), &"OK".into(), false).is_ok());
        assert!(verdict(json!(null), &Frame::Null(Null::Array), false).is_ok());
        assert!(verdict(json!(true), &1.into(), false).is_ok());
        assert_eq!(verdict(json!(3), &"3".into(), false), Err("expected: 3, result: '3'".to_owned()));
        assert!(verdict(json!("0.1"), &"0.10".into(), false).is_err());
        assert!(verdict(json!(["a", "b"]), &list(&["b", "a"]), false).is_err());
        assert_eq!(verdict(json!("x"), &Frame::Error("ERR no".into()), false), Err("ERR no".to_owned()));
        let nested = Frame::Array(vec![Frame::Error("ERR no".into())]);
        assert!(verdict(json!(["ERR no"]), &nested, false).is_err());
        assert!(verdict(json!("x"), &Frame::Bulk(vec![0xff].into()), false).is_err());
        assert!(verdict(json!({}), &list(&[]), false).is_err());
    }

    #[test]
    fn sorting_is_of_the_innermost_arrays() {
        assert!(verdict(json!(["a", "b"]), &list(&["b", "a"]), true).is_ok());
        // A cursor and its elements: the outer array keeps its order, pairs are torn apart.
        let scan = Frame::Array(vec!["0".into(), list(&["b", "2", "a", "1"])]);
        assert!(verdict(json!(["0", ["1", "2", "a", "b"]]), &scan, true).is_ok());
        assert!(verdict(json!([["1", "2", "a", "b"], "0"]), &scan, true).is_err());
        // Not an array where one is expected, or a mixture: a failure. Where none is expected nothing is sorted.
        assert!(verdict(json!(["a"]), &"a".into(), true).unwrap_err().starts_with("cannot sort"));
        let mixed = Frame::Array(vec![1.into(), "a".into()]);
        assert!(verdict(json!([1, "a"]), &mixed, true).unwrap_err().contains("several types"));
        assert!(verdict(json!([1, "a"]), &mixed, false).is_ok());
        assert!(verdict(json!(1), &1.into(), true).is_ok());
    }
}
