//! Surveys and what is made of them.

use keyferry_files::report::{self, About, MemoryCsv};
use keyferry_files::survey::{PrefixOptions, Survey, SurveyOptions};
use keyferry_files::{Found, Input, InputOptions};
use keyferry_rdb::{EntryHead, HashField, Limits, Parser, Value, ValueType};

use crate::support::{file_of, open, raw_file, snapshots, survey};

fn options() -> SurveyOptions {
    let mut options = SurveyOptions::default();
    options.big_keys = 10;
    options.prefixes = Some(PrefixOptions::default());
    options
}

fn texts(survey: &Survey, about: &About) -> (String, String, serde_json::Value) {
    let mut text = Vec::new();
    report::write_summary(&mut text, survey.summary()).unwrap();
    report::write_big_keys(&mut text, &survey.big_keys()).unwrap();
    report::write_prefixes(&mut text, survey.prefixes().unwrap(), 20).unwrap();
    report::write_about(&mut text, about).unwrap();
    let mut html = Vec::new();
    report::write_html(&mut html, survey, about).unwrap();
    let data = serde_json::to_value(about.with(survey)).unwrap();
    (String::from_utf8(text).unwrap(), String::from_utf8(html).unwrap(), data)
}

#[test]
fn totals_are_exact() {
    let list = Value::List((0..100).map(|i: u32| i.to_string().into_bytes()).collect());
    let hash = Value::Hash(vec![HashField::new("f", "v"), HashField::new("field", "value")]);
    let file = file_of(&[
        (b"a:b:1", Value::String(b"12345".to_vec())),
        (b"a:b:2", list),
        (b"a:c:3", hash),
        (b"plain", Value::String(b"x".repeat(1000))),
    ]);
    let survey = survey(open(file), options()).unwrap();
    let totals = survey.summary().totals();
    assert_eq!((totals.keys, totals.expiring), (4, 0));
    let by_prefix = survey.prefixes().unwrap().tree();
    assert_eq!(by_prefix.bytes, totals.bytes);
    assert_eq!((by_prefix.below[0].prefix.as_slice(), by_prefix.below[0].keys), (&b"a:"[..], 3));
    let big = survey.big_keys();
    assert_eq!(big.len(), 4);
    assert!(big.is_sorted_by(|a, b| a.bytes >= b.bytes));
    let of = |key: &[u8]| big.iter().find(|big| big.key == key).unwrap();
    assert_eq!((of(b"a:b:2").elements, of(b"a:b:2").largest_element), (100, 2));
    assert_eq!((of(b"a:c:3").elements, of(b"a:c:3").largest_element), (2, 10));
    assert_eq!((of(b"plain").elements, of(b"plain").largest_element), (1000, 1000));
    let (text, _, data) = texts(&survey, &About::new("x"));
    assert!(text.contains("hash-listpack       1   33 B"), "{text}");
    assert_eq!(data["totals"]["keys"], 4);
    assert_eq!(data["prefixes"]["below"][0]["prefix"], "a:");
}

/// Counts agree with a walk that knows nothing of surveys, on all files that can be read.
#[test]
fn counts_agree_with_the_parser() {
    for path in snapshots() {
        let file = std::fs::read(&path).unwrap();
        let mut parser = Parser::new();
        parser.feed(&file);
        let (mut keys, mut expiring) = (0, 0);
        let good = loop {
            match parser.next_event() {
                Ok(Some(keyferry_rdb::Event::Entry(entry))) => {
                    keys += 1;
                    expiring += u64::from(entry.head.expiry.is_some());
                }
                Ok(Some(keyferry_rdb::Event::ValueStart(head))) => {
                    keys += 1;
                    expiring += u64::from(head.expiry.is_some());
                }
                Ok(Some(_)) => {}
                Ok(None) => break parser.is_finished() && parser.remaining().is_empty(),
                Err(_) => break false,
            }
        };
        if !good {
            continue;
        }
        let survey = survey(Input::open(&path, InputOptions::default()).unwrap(), SurveyOptions::default())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let totals = survey.summary().totals();
        assert_eq!((totals.keys, totals.expiring), (keys, expiring), "{}", path.display());
        let in_databases: u64 = survey.summary().databases().iter().map(|(_, totals)| totals.keys).sum();
        let in_spans: u64 = survey.summary().expiries().spans().map(|span| span.keys).sum();
        assert_eq!((in_databases, in_spans), (keys, expiring));
    }
}

#[test]
fn hostile_names_stay_text_on_the_page() {
    let names: [&[u8]; 8] = [
        b"<script>alert(1)</script>:x",
        b"\"><img src=x onerror=alert(1)>:y",
        b"' onmouseover='alert(1):z",
        b"</title></svg></style><b>:q",
        b"\xFF\xFE\x00:bin",
        b"\xE2\x80\xAErtl:gnp",
        b"a\nb\x1b[31m:c",
        b"&lt;:amp",
    ];
    let keys: Vec<_> = names.iter().map(|name| (*name, Value::String(b"x".repeat(100)))).collect();
    let survey = survey(open(file_of(&keys)), options()).unwrap();
    let mut about = About::new("<b>file</b>.rdb");
    about.failure = Some("<i>broken</i>".to_owned());
    let (text, html, _) = texts(&survey, &about);
    assert!(!text.contains('\x1b') && !text.contains('\0') && !text.contains('\u{202E}'));
    for bad in ["<script", "<img", "<b>:q", "<b>file", "<i>broken", "onmouseover='", "\u{202E}", "\x1b", "\0"]
    {
        assert!(!html.contains(bad), "{bad:?}");
    }
    // Nothing comes from elsewhere.
    for bad in ["http:", "https:", "src=", "@import", "url(", "href="] {
        let shown = html.replace("src=x", "").replace("http-equiv", "");
        assert!(!shown.contains(bad), "{bad:?}");
    }
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;:"));
    assert!(html.contains("\\xff\\xfe\\x00:"));
    // What is opened is closed.
    for tag in ["section", "table", "tr", "td", "svg", "details", "div", "rect", "text", "title", "p"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn nothing_makes_a_page_too() {
    let survey = survey(open(file_of(&[])), options()).unwrap();
    let (text, html, data) = texts(&survey, &About::new("none.rdb"));
    assert!(text.contains("keys      0"));
    assert!(html.contains("No keys") && html.ends_with("</html>\n"));
    assert_eq!(data["totals"]["keys"], 0);
}

#[test]
fn extremes_make_a_page_too() {
    let head = |db, key| EntryHead::new(db, key, ValueType::String);
    let far = head(u64::MAX, b"").with_expiry(Some(i64::MAX));
    let past = head(7, b":").with_expiry(Some(i64::MIN));
    let file = raw_file([(far, &b"\0"[..]), (past, b"\0")]);
    let survey = survey(open(file), options()).unwrap();
    let (text, html, _) = texts(&survey, &About::new("odd"));
    assert!(text.contains("18446744073709551615") && text.contains("9223372036854775807 ms"));
    assert!(html.contains("already expired"));
}

#[test]
fn many_databases_are_counted_together() {
    let keys: Vec<_> = (0..5000u64).map(|db| EntryHead::new(db, b"k", ValueType::String)).collect();
    let file = raw_file(keys.into_iter().map(|head| (head, &b"\0"[..])));
    let survey = survey(open(file), SurveyOptions::default()).unwrap();
    let databases = survey.summary().databases();
    assert_eq!((databases.len(), databases.last().unwrap().0), (1025, None));
    assert_eq!(databases.last().unwrap().1.keys, 3976);
    assert_eq!(survey.summary().totals().keys, 5000);
}

#[test]
fn empty_values_of_old_servers_are_counted() {
    let empty = EntryHead::new(0, b"e", ValueType::Set);
    let full = EntryHead::new(0, b"f", ValueType::Set);
    let survey = survey(open(raw_file([(empty, &b"\0"[..]), (full, b"\x01\x01a")])), options()).unwrap();
    assert_eq!(survey.summary().records().empty_values, 1);
    assert!(texts(&survey, &About::new("x")).0.contains("1 keys with an empty value"));
}

#[test]
fn csv_has_a_line_for_each_key() {
    let file = file_of(&[
        (b"a,\"b\"", Value::String(b"hello".to_vec())),
        (b"l\n", Value::List(vec![b"x".repeat(300), b"y".to_vec()])),
    ]);
    let mut csv = MemoryCsv::new(Vec::new(), Limits::default());
    open(file)
        .read(|found, place| match found {
            Found::Event(event) => csv.event(&event, place),
            _ => Ok(()),
        })
        .unwrap();
    let text = String::from_utf8(csv.finish().unwrap()).unwrap();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[1], "0,string,\"a,\"\"b\"\"\",64,string,1,5,");
    assert!(
        lines[2].starts_with("0,list,l\\x0a,") && lines[2].ends_with(",list-quicklist2,2,300,"),
        "{text}"
    );
    assert_eq!(lines.len(), 4);
}
