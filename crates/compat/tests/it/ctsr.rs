//! The rules of the original runner of `cts.json`, and its counts.

use keyferry_compat::ctsr::{self, Cases, CtsrOptions, CtsrOutcome, CtsrReport};
use keyferry_compat::{Error, Scratch, Target, Verdict};
use keyferry_testkit::{Cluster, Server, any};
use serde_json::{Value, json};

use crate::wait;

fn read(cases: &[Value]) -> Cases {
    Cases::parse("cts.json", &Value::Array(cases.to_vec()).to_string()).unwrap()
}

fn run(cases: &Cases, url: &str, options: &CtsrOptions) -> CtsrReport {
    wait(async {
        let target = Target::look(url.parse().unwrap(), &Scratch::default()).await.unwrap();
        ctsr::run(cases, &target, options).await.unwrap()
    })
}

fn flushing() -> CtsrOptions {
    CtsrOptions { allow_flush: true, ..CtsrOptions::default() }
}

/// As many cases of each version as the original's file has, without the one that is skipped.
const VERSIONS: [(&str, usize); 24] = [
    ("1.0.0", 60),
    ("1.0.1", 4),
    ("1.0.5", 2),
    ("1.2.0", 15),
    ("2.0.0", 39),
    ("2.2.0", 17),
    ("2.4.0", 8),
    ("2.6.0", 16),
    ("2.6.12", 2),
    ("2.8.0", 10),
    ("2.8.7", 1),
    ("2.8.9", 10),
    ("3.0.0", 1),
    ("3.0.2", 1),
    ("3.2.0", 24),
    ("3.2.1", 1),
    ("3.2.10", 4),
    ("4.0.0", 8),
    ("5.0.0", 24),
    ("6.0.0", 11),
    ("6.0.6", 5),
    ("6.2.0", 82),
    ("7.0.0", 68),
    ("7.2.0", 2),
];

/// What the original runs for each `--specific-version`: single server, cluster.
const COUNTS: [(&str, usize, usize); 9] = [
    ("1.0.0", 50, 44),
    ("2.8.0", 150, 131),
    ("3.2.0", 184, 165),
    ("4.0.0", 196, 174),
    ("5.0.0", 220, 198),
    ("6.0.0", 228, 205),
    ("6.2.0", 295, 266),
    ("7.0.0", 350, 305),
    ("7.2.0", 352, 307),
];

/// As many cases as the original has at each gate, with its tags and its one that is skipped.
fn as_many() -> Vec<Value> {
    let mut cases: Vec<Value> = Vec::new();
    let mut left =
        VERSIONS.iter().flat_map(|(version, count)| std::iter::repeat_n(*version, *count)).peekable();
    let (mut standalone, mut cluster) = (0, 0);
    for (gate, single, clustered) in COUNTS {
        let begin = cases.len();
        while let Some(version) = left.next_if(|version| *version <= gate) {
            cases
                .push(json!({"name": format!("case {}", cases.len() % 348), "command": ["set k v", "get k"],
                "result": ["OK", "v"], "since": version}));
        }
        // What is in the file up to this gate, and is not for one kind, is for the other alone.
        let (only_cluster, only_single) = (cases.len() - single, cases.len() - clustered);
        for case in &mut cases[begin..] {
            if cluster < only_cluster {
                case["tags"] = json!("cluster");
                cluster += 1;
            } else if standalone < only_single {
                case["tags"] = json!("standalone");
                standalone += 1;
            }
        }
    }
    assert_eq!((standalone, cluster), (108, 63));
    cases.push(json!({"name": "sort_ro command", "command": ["nonsense"], "result": [], "since": "7.0.0", "skipped": true}));
    cases
}

#[test]
fn counts_of_every_gate() {
    let cases = as_many();
    assert_eq!(cases.len(), 416);
    let cases = read(&cases);
    let server = Server::any().unwrap();
    for (version, single, clustered) in COUNTS {
        for (cluster, expected) in [(false, single), (true, clustered)] {
            let mut options = flushing();
            options.version = Some(version.to_owned());
            options.cluster = cluster;
            let report = run(&cases, &server.url(), &options);
            let buckets = report.buckets();
            assert_eq!(buckets.len(), 1);
            assert_eq!((buckets[0].total, buckets[0].passed), (expected, expected), "{version} {cluster}");
        }
    }
    let all = run(&cases, &server.url(), &flushing());
    assert_eq!(all.buckets().iter().map(|bucket| bucket.total).sum::<usize>(), 352);
    assert_eq!(all.to_report(std::time::Instant::now()).verdict(), Verdict::Passed);
}

/// A case for each trick, and what must come of it: passed, failed because of, or not counted.
fn tricks() -> Vec<(Value, &'static str)> {
    let case = |name: &str, command: &[&str], result: Value| json!({"name": name, "command": command, "result": result, "since": "1.0.0"});
    let with = |mut case: Value, field: &str, value: Value| {
        case[field] = value;
        case
    };
    vec![
        (case("quotes", &["set k \"a b\"", "get k"], json!(["OK", "a b"])), "passed"),
        (case("quotes in a word", &["set k a\"b c\"d", "get k"], json!(["OK", "ab cd"])), "passed"),
        (case("two spaces", &["set  k", "exists \"\""], json!(["OK", 1])), "passed"),
        (
            case("backslashes are literal", &["set k \\xff\\xf0\\x00", "strlen k"], json!(["OK", 12])),
            "passed",
        ),
        (case("newlines", &["eval \"local a = 1\nreturn a\" 0"], json!([1])), "passed"),
        (
            with(
                case("binary", &["set k \\xff\\xf0\\x00", "strlen k", "bitpos k 0"], json!(["OK", 3, 12])),
                "command_binary",
                json!(true),
            ),
            "passed",
        ),
        (
            with(case("binary that is cut", &["set k \\"], json!(["OK"])), "command_binary", json!(false)),
            "a backslash at the end",
        ),
        (
            case("the first word again", &["\"config get\" port x"], json!([[]])),
            "rong number of arguments|expected: []",
        ),
        (
            with(
                case("sorted", &["sadd s b a", "smembers s"], json!([2, ["b", "a"]])),
                "sort_result",
                json!(false),
            ),
            "passed",
        ),
        (
            with(
                case(
                    "a sorted scan",
                    &["hset h a 1 b 2", "hscan h 0"],
                    json!([2, ["0", ["a", "b", "1", "2"]]]),
                ),
                "sort_result",
                json!(true),
            ),
            "passed",
        ),
        (
            with(
                case("nothing to sort", &["set k v", "get k"], json!(["OK", ["v"]])),
                "sort_result",
                json!(true),
            ),
            "cannot sort 'v'",
        ),
        (case("more results than commands", &["set k v"], json!(["OK", 1, 2])), "passed"),
        (
            case("fewer results than commands", &["set k v", "get k"], json!(["OK"])),
            "list index out of range",
        ),
        (case("an error", &["set k v", "lpush k 1"], json!(["OK", 1])), "WRONGTYPE"),
        (
            case(
                "an error inside",
                &["set k v", "multi", "lpush k 1", "exec"],
                json!(["OK", "OK", "QUEUED", ["x"]]),
            ),
            "ResponseError('WRONGTYPE",
        ),
        (case("text is no number", &["set k 3", "get k"], json!(["OK", 3])), "expected: 3, result: '3'"),
        (case("nulls", &["get none", "blpop none 0.01"], json!([null, null])), "passed"),
        (case("no tolerance", &["incrbyfloat k 0.5"], json!(["0.50"])), "expected: '0.50', result: '0.5'"),
        (
            with(
                case("not UTF-8", &["set k \\xff", "get k"], json!(["OK", "x"])),
                "command_binary",
                json!(1),
            ),
            "not UTF-8",
        ),
        (case("quit", &["quit", "set k v", "get k"], json!(["OK", "OK", "v"])), "passed"),
        (case("multi stays open", &["multi", "set k v"], json!(["OK", "QUEUED"])), "passed"),
        (case("and does not leak", &["set k w", "get k"], json!(["OK", "w"])), "passed"),
        (case("flushed before", &["exists k"], json!([0])), "passed"),
        (
            case(
                "subscribed",
                &["subscribe hello", "unsubscribe hello"],
                json!([["subscribe", "hello", 1], ["unsubscribe", "hello", 0]]),
            ),
            "passed",
        ),
        (
            case(
                "two replies, one read",
                &["psubscribe hello RESET", "set k v", "get k"],
                json!([["psubscribe", "hello", 1], "OK", "v"]),
            ),
            "passed",
        ),
        (
            case(
                "subscriptions stay",
                &["subscribe hello", "get k"],
                json!([["subscribe", "hello", 1], null]),
            ),
            "only (P|S)SUBSCRIBE|in this context",
        ),
        (case("publish", &["publish hello x"], json!([0])), "passed"),
        (with(case("left out", &["nonsense"], json!([])), "skipped", json!(true)), "skipped"),
        (with(case("for clusters", &["nonsense"], json!([])), "tags", json!("cluster")), "tags skipped"),
        (with(case("with a tag of its own", &["ping"], json!(["PONG"])), "tags", json!("strange")), "passed"),
        (with(case("for later", &["nonsense"], json!([])), "since", json!("7.0.1")), "version skipped"),
        (with(case("versions are texts", &["ping"], json!(["PONG"])), "since", json!("10.0.0")), "passed"),
    ]
}

#[test]
fn every_rule() {
    let tricks = tricks();
    let cases = read(&tricks.iter().map(|(case, _)| case.clone()).collect::<Vec<_>>());
    let server = Server::any().unwrap();
    let mut options = flushing();
    options.version = Some("7.0.0".to_owned());
    let report = run(&cases, &server.url(), &options);
    for (result, (case, expected)) in report.results.iter().zip(&tricks) {
        let came = match &result.outcome {
            CtsrOutcome::Passed => "passed".to_owned(),
            CtsrOutcome::Failed(reason) => reason.clone(),
            CtsrOutcome::Skipped => "skipped".to_owned(),
            CtsrOutcome::TagsSkipped => "tags skipped".to_owned(),
            CtsrOutcome::VersionSkipped => "version skipped".to_owned(),
            other => format!("{other:?}"),
        };
        let right = expected.split('|').any(|part| came.contains(part)) || came.contains(expected);
        assert!(right, "{}: {came}, not {expected}", case["name"]);
    }
    // The same each time.
    for _ in 0..20 {
        assert_eq!(run(&cases, &server.url(), &options), report);
    }
    let bucket = report.buckets().remove(0);
    assert_eq!((bucket.version.as_str(), bucket.total), ("7.0.0", tricks.len() - 3));
    let mut out = Vec::new();
    report.write(&mut out, true).unwrap();
    let text = String::from_utf8(out).unwrap();
    for line in [
        "test: quotes passed",
        "test: left out skipped",
        "test: for clusters tags skipped",
        "test: for later version skipped",
        "-------- The result of tests --------",
        "This is failed tests for 7.0.0:",
        "FailedTest(name=text is no number, reason=expected: 3, result: '3')",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
    let rate = bucket.passed as f64 * 100.0 / bucket.total as f64;
    let summary = format!(
        "Summary: version: 7.0.0, total tests: {}, passed: {}, rate: {rate:.2}%",
        bucket.total, bucket.passed
    );
    assert!(text.contains(&summary), "{summary}\n{text}");
    assert_eq!(report.to_report(std::time::Instant::now()).verdict(), Verdict::Failed);
}

#[test]
fn a_server_with_data_is_not_flushed_unasked() {
    let server = Server::any().unwrap();
    let mut client = server.client().unwrap();
    client.call(&["SET", "mine", "1"]).unwrap();
    let cases = read(&[json!({"name": "n", "command": ["ping"], "result": ["PONG"], "since": "1.0.0"})]);
    let refused = wait(async {
        let target = Target::look(server.url().parse().unwrap(), &Scratch::default()).await.unwrap();
        ctsr::run(&cases, &target, &CtsrOptions::default()).await
    });
    assert!(matches!(refused, Err(Error::NotEmpty { keys: 1, .. })));
    assert_eq!(client.text(&["GET", "mine"]).unwrap(), "1");
    run(&cases, &server.url(), &flushing());
    assert_eq!(client.int(&["DBSIZE"]).unwrap(), 0);
}

#[test]
fn where_flushing_is_refused_cases_are_not_counted() {
    let server = Server::builder(any().unwrap()).config("rename-command", "FLUSHALL \"\"").start().unwrap();
    let cases = read(&[json!({"name": "n", "command": ["ping"], "result": ["PONG"], "since": "1.0.0"})]);
    let report = run(&cases, &server.url(), &CtsrOptions::default());
    assert!(matches!(report.results[0].outcome, CtsrOutcome::Error(_)));
    assert_eq!(report.buckets()[0].total, 0);
    let mut out = Vec::new();
    report.write(&mut out, true).unwrap();
    assert!(String::from_utf8(out).unwrap().contains("run test error: n (ERR unknown command"));
    assert_eq!(report.to_report(std::time::Instant::now()).verdict(), Verdict::Unknown);
}

#[test]
fn clusters_are_asked_at_the_right_nodes() {
    let cluster = Cluster::builder(any().unwrap()).primaries(3).start().unwrap();
    let case = |name: &str, command: &[&str], result: Value| json!({"name": name, "command": command, "result": result, "since": "1.0.0"});
    let mut cases: Vec<Value> = (0..30)
        .map(|n| {
            case(&format!("key {n}"), &[&format!("set k{n} v"), &format!("get k{n}")], json!(["OK", "v"]))
        })
        .collect();
    cases.push(case("two slots", &["mset a 1 b 2"], json!(["OK"])));
    cases.push(case("one slot", &["mset {a}1 1 {a}2 2"], json!(["OK"])));
    cases.push(case("no key", &["publish c m", "pubsub numpat"], json!([0, 0])));
    let options = CtsrOptions { cluster: true, ..CtsrOptions::default() };
    let report = run(&read(&cases), &cluster.url(), &options);
    let failed: Vec<&str> = report
        .results
        .iter()
        .filter(|result| result.outcome != CtsrOutcome::Passed)
        .map(|result| result.name.as_str())
        .collect();
    assert_eq!(failed, ["two slots"]);
    assert_eq!(cluster.keys().unwrap(), 0);
}
