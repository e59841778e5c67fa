//! Replies written down as expectations: for recording, and for people.

use keyferry_client::{Frame, Protocol};

use crate::command::Names;
use crate::expect::Expect;

/// The most bytes of a reply that are shown to people.
const SHOWN: usize = 400;

/// The expectation that this reply, and no other, meets.
pub(crate) fn literal(frame: &Frame, names: &Names) -> Expect {
    let all = |items: &[Frame]| items.iter().map(|item| literal(item, names)).collect();
    match frame.value() {
        Frame::Simple(text) => Expect::Simple(String::from_utf8_lossy(text).into_owned()),
        Frame::Error(text) | Frame::BulkError(text) => Expect::Error(match names.contract(text) {
            Some(text) => text,
            None => String::from_utf8_lossy(text).into_owned(),
        }),
        Frame::Integer(n) => Expect::Integer(*n),
        Frame::BigNumber(digits) => Expect::BigNumber(String::from_utf8_lossy(digits).into_owned()),
        Frame::Bulk(bytes) | Frame::Verbatim { text: bytes, .. } => text(bytes, names),
        Frame::Null(_) => Expect::Null,
        Frame::Array(items) | Frame::Push(items) => Expect::Array(all(items)),
        Frame::Set(items) => Expect::Set(all(items)),
        Frame::Map(pairs) => {
            Expect::Map(pairs.iter().map(|(k, v)| (literal(k, names), literal(v, names))).collect())
        }
        Frame::Boolean(b) => Expect::Boolean(*b),
        Frame::Double(n) => Expect::Float(n.get()),
        // Frames that are yet to come.
        _ => Expect::Type(crate::expect::Kind::Any),
    }
}

fn text(bytes: &[u8], names: &Names) -> Expect {
    match names.contract(bytes) {
        Some(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) => {
            Expect::Text(text)
        }
        _ => Expect::Hex(bytes.to_vec()),
    }
}

/// One expectation for the replies to one command in both protocols, and a second one for RESP3 where one cannot say it.
pub(crate) fn merged(two: &Frame, three: &Frame, names2: &Names, names3: &Names) -> (Expect, Option<Expect>) {
    let in_three = literal(three, names3);
    for candidate in candidates(two, three, names3) {
        if candidate.matches(two, Protocol::Resp2, names2)
            && candidate.matches(three, Protocol::Resp3, names3)
        {
            return (candidate, None);
        }
    }
    (literal(two, names2), Some(in_three))
}

/// What may fit both, the plainest first.
fn candidates(two: &Frame, three: &Frame, names: &Names) -> Vec<Expect> {
    let mut all = vec![literal(three, names)];
    if let Frame::Array(items) = three
        && let Some(pairs) = items.iter().map(|item| two_of(item, names)).collect::<Option<Vec<_>>>()
        && !pairs.is_empty()
    {
        all.push(Expect::Pairs(pairs));
    }
    if matches!(two, Frame::Array(items) if items.is_empty()) {
        all.push(Expect::Array(Vec::new()));
    }
    all
}

fn two_of(item: &Frame, names: &Names) -> Option<(Expect, Expect)> {
    match item {
        Frame::Array(two) => match &two[..] {
            [a, b] => Some((literal(a, names), literal(b, names))),
            _ => None,
        },
        _ => None,
    }
}

/// The reply for people: as an expectation would be written, in one line, cut where it is very long.
pub(crate) fn show(frame: &Frame, names: &Names) -> String {
    cut(literal(frame, names).to_string())
}

pub(crate) fn cut(mut text: String) -> String {
    if text.len() > SHOWN {
        let end = (0..=SHOWN).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let rest = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("… ({rest} bytes more)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyferry_resp::Null;

    fn names() -> Names {
        Names::new("p:".to_owned(), "q:".to_owned(), "r")
    }

    fn expect(two: &Frame, three: &Frame) -> String {
        match merged(two, three, &names(), &names()) {
            (both, None) => both.to_string(),
            (two, Some(three)) => format!("{two} {three}"),
        }
    }

    #[test]
    fn one_expectation_for_both_protocols_where_one_can_say_it() {
        let member = |score: f64| Frame::Array(vec!["m".into(), score.into()]);
        for (two, three, expected) in [
            (Frame::from("p:k"), Frame::from("p:k"), "\"$k\""),
            (Frame::Null(Null::Bulk), Frame::Null(Null::Resp3), "null"),
            (Frame::from("1.5"), Frame::from(1.5), "1.5"),
            (Frame::from("3"), Frame::from(3.0), "3.0"),
            (Frame::Integer(1), Frame::Boolean(true), "true"),
            (
                Frame::Array(vec!["a".into(), "1".into()]),
                Frame::Map(vec![("a".into(), "1".into())]),
                r#"{"map":[["a","1"]]}"#,
            ),
            (Frame::Array(vec!["a".into()]), Frame::Set(vec!["a".into()]), r#"{"set":["a"]}"#),
            (
                Frame::Array(vec!["m".into(), "2.5".into()]),
                Frame::Array(vec![member(2.5)]),
                r#"{"pairs":[["m",2.5]]}"#,
            ),
            (Frame::Bulk(vec![0xff].into()), Frame::Bulk(vec![0xff].into()), r#"{"hex":"ff"}"#),
            (Frame::Integer(1), Frame::from("x"), "1 \"x\""),
        ] {
            assert_eq!(expect(&two, &three), expected);
        }
    }

    #[test]
    fn what_is_shown_is_bounded() {
        let shown = show(&Frame::from("é".repeat(10_000)), &names());
        assert!(shown.len() < SHOWN + 40 && shown.ends_with("bytes more)"), "{shown}");
    }
}
