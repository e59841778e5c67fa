//! Servers that answer wrongly are found out.

use bytes::Bytes;
use keyferry_client::Frame;
use keyferry_compat::Needs;
use keyferry_resp::{Command, Null};
use keyferry_testkit::{Rewriter, Server};

use crate::{everything, groups, run, wait};

type Change = fn(&Command, Frame) -> Frame;

fn text(bytes: &'static str) -> Frame {
    Frame::Bulk(Bytes::from_static(bytes.as_bytes()))
}

fn error(bytes: &'static str) -> Frame {
    Frame::Error(Bytes::from_static(bytes.as_bytes()))
}

/// What is changed, a group and a case that must find it.
const CHANGES: &[(&str, &str, &str, Change)] = &[
    ("an integer is one too large", "string", "INCR", |c, r| match r {
        Frame::Integer(n) if c.is("INCR") => Frame::Integer(n + 1),
        r => r,
    }),
    ("an integer comes as text", "string", "STRLEN", |c, r| match r {
        Frame::Integer(n) if c.is("STRLEN") => Frame::from(n.to_string()),
        r => r,
    }),
    ("a missing value is an empty string", "string", "GET of a missing key", |c, r| {
        if c.is("GET") && r.is_null() { text("") } else { r }
    }),
    ("an empty string is a missing value", "string", "SET of an empty value", |c, r| match r {
        Frame::Bulk(bytes) if c.is("GET") && bytes.is_empty() => Frame::Null(Null::Bulk),
        r => r,
    }),
    ("a bulk string comes as a simple one", "string", "SET and GET", |c, r| match r {
        Frame::Bulk(bytes) if c.is("GET") => Frame::Simple(bytes),
        r => r,
    }),
    ("a simple string comes as a bulk one", "string", "SET and GET", |c, r| match r {
        Frame::Simple(bytes) if c.is("SET") => Frame::Bulk(bytes),
        r => r,
    }),
    ("a value is cut", "string", "GETRANGE", |c, r| match r {
        Frame::Bulk(bytes) if c.is("GETRANGE") && !bytes.is_empty() => Frame::Bulk(bytes.slice(1..)),
        r => r,
    }),
    ("binary is not kept", "string", "SET with binary value", |c, r| match r {
        Frame::Bulk(bytes) if c.is("GET") => Frame::from(String::from_utf8_lossy(&bytes).into_owned()),
        r => r,
    }),
    ("SET NX says OK", "string", "SET NX on a key that exists", |c, r| {
        if c.is("SET") && r.is_null() { Frame::Simple(Bytes::from_static(b"OK")) } else { r }
    }),
    ("an error has another code", "string", "INCR of text", |_, r| {
        if r.is_error() { error("FAIL value is not an integer or out of range") } else { r }
    }),
    ("an error has another text", "string", "INCR of text", |_, r| {
        if r.is_error() { error("ERR something went wrong") } else { r }
    }),
    ("an error is none", "string", "INCR of text", |c, r| {
        if c.is("INCR") && r.is_error() { Frame::Null(Null::Bulk) } else { r }
    }),
    ("an array is reversed", "list", "RPUSH and LRANGE", |c, r| match r {
        Frame::Array(mut items) if c.is("LRANGE") => {
            items.reverse();
            Frame::Array(items)
        }
        r => r,
    }),
    ("an array lacks its last element", "list", "RPUSH and LRANGE", |c, r| match r {
        Frame::Array(mut items) if c.is("LRANGE") => {
            items.pop();
            Frame::Array(items)
        }
        r => r,
    }),
    ("an empty array is null", "list", "RPUSH and LRANGE", |c, r| match r {
        Frame::Array(items) if c.is("LRANGE") && items.is_empty() => Frame::Null(Null::Array),
        r => r,
    }),
    ("a blocking read gives the value alone", "list", "BLPOP of a list with elements", |c, r| match r {
        Frame::Array(mut items) if c.is("BLPOP") && !items.is_empty() => items.remove(0),
        r => r,
    }),
    ("a set has a member twice", "set", "SADD and SMEMBERS", |c, r| match r {
        Frame::Array(mut items) if c.is("SMEMBERS") && !items.is_empty() => {
            items.push(items[0].clone());
            Frame::Array(items)
        }
        Frame::Set(mut items) if !items.is_empty() => {
            items.push(items[0].clone());
            Frame::Set(items)
        }
        r => r,
    }),
    ("a set of RESP3 is an array", "set", "SADD and SMEMBERS", |_, r| match r {
        Frame::Set(items) => Frame::Array(items),
        r => r,
    }),
    ("a map of RESP3 is a flat array", "hash", "HSET counts new fields", |c, r| match r {
        Frame::Map(pairs) if c.is("HGETALL") => {
            Frame::Array(pairs.into_iter().flat_map(|(k, v)| [k, v]).collect())
        }
        r => r,
    }),
    ("fields have each other's values", "hash", "HSET counts new fields", |c, r| match r {
        Frame::Array(mut items) if c.is("HGETALL") && items.len() > 3 => {
            items.swap(1, 3);
            Frame::Array(items)
        }
        r => r,
    }),
    ("a scan ends too late", "hash", "HSCAN", |c, r| match r {
        Frame::Array(mut items) if c.is("HSCAN") && items.len() == 2 => {
            items[0] = text("7");
            Frame::Array(items)
        }
        r => r,
    }),
    ("a double of RESP3 is a string", "sorted-set", "ZSCORE", |_, r| match r {
        Frame::Double(n) => Frame::from(n.to_string()),
        r => r,
    }),
    ("a score loses its fraction", "sorted-set", "ZSCORE", |c, r| match (c.is("ZSCORE"), r.as_f64()) {
        (true, Some(score)) => match r {
            Frame::Double(_) => Frame::from(score.trunc()),
            _ => Frame::from(format!("{}", score.trunc())),
        },
        _ => r,
    }),
    ("a score is a little off", "sorted-set", "ZINCRBY", |c, r| match (c.is("ZINCRBY"), r.as_f64()) {
        (true, Some(score)) => match r {
            Frame::Double(_) => Frame::from(score * (1.0 + 1e-9)),
            _ => Frame::from(format!("{}", score * (1.0 + 1e-9))),
        },
        _ => r,
    }),
    ("pairs of RESP3 are flat", "sorted-set", "ZADD and ZRANGE", |c, r| match r {
        Frame::Array(items) if c.is("ZRANGE") => Frame::Array(
            items
                .into_iter()
                .flat_map(|item| match item {
                    Frame::Array(two) => two,
                    one => vec![one],
                })
                .collect(),
        ),
        r => r,
    }),
    ("an expiry is gone", "expiry", "EXPIRE", |c, r| if c.is("TTL") { Frame::Integer(-1) } else { r }),
    ("milliseconds are seconds", "expiry", "PEXPIRE", |c, r| match r {
        Frame::Integer(n) if c.is("PTTL") => Frame::Integer(n / 1000),
        r => r,
    }),
    (
        "keys do not expire",
        "expiry",
        "a key expires",
        |c, r| {
            if c.is("EXISTS") { Frame::Integer(1) } else { r }
        },
    ),
    ("a transaction gives nothing", "transactions", "MULTI and EXEC", |c, r| match r {
        Frame::Array(_) if c.is("EXEC") => Frame::Null(Null::Array),
        r => r,
    }),
    (
        "a transaction that was aborted gives something",
        "transactions",
        "WATCH of a key that is touched",
        |c, r| {
            if c.is("EXEC") && r.is_null() { Frame::Array(vec![Frame::Integer(2)]) } else { r }
        },
    ),
    ("commands are not queued", "transactions", "MULTI and EXEC", |_, r| match r {
        Frame::Simple(word) if word == "QUEUED" => Frame::Simple(Bytes::from_static(b"OK")),
        r => r,
    }),
    (
        "an error in a transaction is a text",
        "transactions",
        "an error while running does not abort",
        |c, r| match r {
            Frame::Array(items) if c.is("EXEC") => Frame::Array(
                items
                    .into_iter()
                    .map(|item| match item {
                        Frame::Error(bytes) => Frame::Bulk(bytes),
                        other => other,
                    })
                    .collect(),
            ),
            r => r,
        },
    ),
    ("a stream forgets its fields", "stream", "XADD and XRANGE", |c, r| match r {
        Frame::Array(items) if c.is("XRANGE") => Frame::Array(
            items
                .into_iter()
                .map(|entry| match entry {
                    Frame::Array(two) => Frame::Array(vec![two[0].clone(), Frame::Array(Vec::new())]),
                    other => other,
                })
                .collect(),
        ),
        r => r,
    }),
    ("identifiers go back", "stream", "XADD and XRANGE", |c, r| if c.is("XADD") { text("0-1") } else { r }),
    ("pending entries are not counted", "stream", "XACK", |c, r| match r {
        Frame::Array(mut items) if c.is("XPENDING") && !items.is_empty() => {
            items[0] = Frame::Integer(0);
            Frame::Array(items)
        }
        r => r,
    }),
    ("bits are counted wrongly", "bitmap", "BITCOUNT", |c, r| match r {
        Frame::Integer(n) if c.is("BITCOUNT") => Frame::Integer(n ^ 1),
        r => r,
    }),
    ("distances are of another unit", "geo", "GEODIST", |c, r| match (c.is("GEODIST"), r.as_f64()) {
        (true, Some(distance)) => Frame::from(format!("{}", distance * 1.0001)),
        _ => r,
    }),
    ("another encoding", "encoding", "integers", |c, r| if c.is("OBJECT") { text("raw") } else { r }),
    ("another type's command works", "wrong-type", "GET of a list", |_, r| {
        if r.is_error() { Frame::Null(Null::Bulk) } else { r }
    }),
    ("true is 0 in scripts", "scripting", "EVAL of constants", |c, r| match r {
        Frame::Integer(1) if c.is("EVAL") => Frame::Integer(0),
        r => r,
    }),
];

#[test]
fn each_wrong_reply_is_caught_by_the_case_that_is_about_it() {
    assert!(CHANGES.len() >= 30);
    let server = Server::any().unwrap();
    let mut options = everything();
    options.allow = Needs::SCRIPTING | Needs::PUBSUB;
    for (what, group, case, change) in CHANGES {
        let wrong = Rewriter::start(server.addr(), change).unwrap();
        // The case, and its neighbours, of which most must not be hurt by what they are not about.
        let mut near = 0;
        let suite = groups(&[group]).only(|name| {
            near += 1;
            name.split_once('/').is_some_and(|(_, name)| name == *case) || near <= 12
        });
        let report = wait(run(&suite, &wrong.url(), &options));
        let caught = report.failures().any(|(result, _)| result.name == *case);
        let failed: Vec<String> = report.failures().map(|(result, _)| result.id()).collect();
        assert!(caught, "{what}: not caught by {group}/{case}, but by {failed:?}");
    }
}
