//! Comparison with a reference, workloads, recording, and the other suite's file as cases of our own.

use bytes::Bytes;
use keyferry_client::{Connection, Frame};
use keyferry_compat::ctsr::Cases;
use keyferry_compat::{
    Baseline, Error, KeyUse, ReferenceOptions, Suite, Support, Verdict, Workload, check, compare, record,
};
use keyferry_testkit::{Cluster, Rewriter, Server, any};

use crate::{assert_passed, everything, groups, run, target, wait};

fn options() -> ReferenceOptions {
    ReferenceOptions { run: everything(), error_texts: true }
}

#[test]
fn a_server_is_like_itself() {
    let (a, b) = (Server::any().unwrap(), Server::any().unwrap());
    wait(async {
        let (a, b) = (target(&a.url()).await, target(&b.url()).await);
        let report = compare(&Suite::builtin().unwrap(), &a, &b, &options(), &Baseline::new()).await.unwrap();
        assert_passed(&report);
        assert!(report.counts().passed > 1000, "{:?}", report.counts());
        // Both at the same address, too.
        let small = groups(&["string", "stream"]);
        let report = compare(&small, &a, &a, &options(), &Baseline::new()).await.unwrap();
        assert_passed(&report);
    });
}

#[test]
fn differences_between_two_servers_are_told() {
    let server = Server::any().unwrap();
    let other = Rewriter::start(server.addr(), |command, reply| match reply {
        Frame::Integer(n) if command.is("STRLEN") => Frame::Integer(n + 1),
        Frame::Error(_) if command.is("INCR") => Frame::Error(Bytes::from_static(b"OTHER code")),
        Frame::Error(_) if command.is("SETRANGE") => Frame::Error(Bytes::from_static(b"ERR another text")),
        other => other,
    })
    .unwrap();
    wait(async {
        let (right, wrong) = (target(&server.url()).await, target(&other.url()).await);
        let suite = groups(&["string"]);
        let loose = ReferenceOptions { error_texts: false, ..options() };
        let report = compare(&suite, &wrong, &right, &loose, &Baseline::new()).await.unwrap();
        let failed = |name: &str| report.failures().any(|(result, _)| result.name == name);
        assert!(failed("STRLEN") && failed("INCR of text"));
        assert!(!failed("SETRANGE with a negative offset") && !failed("SET and GET"));
        let (_, failure) = report.failures().find(|(result, _)| result.name == "STRLEN").unwrap();
        assert_eq!((failure.expected.as_str(), failure.got.as_str()), ("0", "1"));
        let strict = compare(&suite, &wrong, &right, &options(), &Baseline::new()).await.unwrap();
        assert!(strict.failures().any(|(result, _)| result.name == "SETRANGE with a negative offset"));
    });
}

#[test]
fn a_cluster_is_not_compared_with_a_server() {
    let server = Server::any().unwrap();
    let cluster = Cluster::builder(any().unwrap()).primaries(3).start().unwrap();
    wait(async {
        let (a, b) = (target(&cluster.url()).await, target(&server.url()).await);
        let refused = compare(&groups(&["string"]), &a, &b, &options(), &Baseline::new()).await;
        assert!(matches!(refused, Err(Error::Unlike(_))));
        // A cluster with itself: every case in the slots and at the nodes where it was.
        let report =
            compare(&groups(&["string", "cluster"]), &a, &a, &options(), &Baseline::new()).await.unwrap();
        assert_passed(&report);

        // Keys in several slots are fine for a server, and not for a cluster.
        let mut workload = Workload::new();
        workload.observe(&["MSET", "a", "1", "b", "2"]);
        workload.observe(&["MSET", "{a}1", "1", "{a}2", "2"]);
        workload.observe(&["GET", "a"]);
        workload.observe(&["NOSUCHCOMMAND", "secret"]);
        let at_server = check(&workload, None, &b).await.unwrap();
        let row = |name: &str| at_server.rows.iter().find(|row| row.command == name).unwrap();
        assert_eq!(row("mset").keys, KeyUse::SeveralSlots { times: 1, of: 2 });
        assert_eq!(row("mset").examples, ["a b"]);
        assert_eq!((row("get").supported, row("get").keys), (Support::Yes, KeyUse::AtMostOne));
        assert_eq!(row("nosuchcommand").supported, Support::No);
        assert_eq!(at_server.verdict(), Verdict::Failed);

        let mut workload = Workload::new();
        workload.observe(&["MSET", "a", "1", "b", "2"]);
        assert_eq!(check(&workload, None, &b).await.unwrap().verdict(), Verdict::Passed);
        assert_eq!(check(&workload, None, &a).await.unwrap().verdict(), Verdict::Failed);
        assert_eq!(check(&Workload::new(), None, &a).await.unwrap().verdict(), Verdict::Unknown);
    });
}

#[test]
fn statistics_of_a_server_are_a_workload() {
    let (source, other) = (Server::any().unwrap(), Server::any().unwrap());
    let mut client = source.client().unwrap();
    for n in 0..5 {
        client.call(&["SET".to_owned(), format!("k{n}"), "v".to_owned()]).unwrap();
    }
    client.call(&["MGET", "k1", "k2"]).unwrap();
    client.call(&["CONFIG", "GET", "maxmemory"]).unwrap();
    wait(async {
        let (source, other) = (target(&source.url()).await, target(&other.url()).await);
        let mut workload = Workload::new();
        for options in source.servers() {
            let mut connection = Connection::connect(&options).await.unwrap();
            workload.add_commandstats(&connection.info("commandstats").await.unwrap());
        }
        let report = check(&workload, Some(&source), &other).await.unwrap();
        assert_eq!(report.verdict(), Verdict::Passed);
        let row = |name: &str| report.rows.iter().find(|row| row.command.starts_with(name)).unwrap();
        assert_eq!((row("set").calls, row("set").keys), (5, KeyUse::AtMostOne));
        assert_eq!(row("mget").keys, KeyUse::NotSeen);
        assert!(report.rows.iter().all(|row| row.arity.is_none() && row.flags_lost.is_empty()));
        let mut out = Vec::new();
        report.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("the target lacks 0; 0 with keys in several slots"), "{text}");
    });
}

#[test]
fn logs_of_a_server_are_a_workload() {
    let server = Server::builder(any().unwrap()).config("appendonly", "yes").start().unwrap();
    let mut client = server.client().unwrap();
    client.call(&["SET", "before", "1"]).unwrap();
    let rewrites = |client: &mut keyferry_testkit::Client| {
        client.info("persistence", "aof_rewrite_in_progress").unwrap().as_deref() == Some("1")
            || client.info("persistence", "aof_rewrite_scheduled").unwrap().as_deref() == Some("1")
    };
    // The first one may be under way already.
    while rewrites(&mut client) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    client.call(&["BGREWRITEAOF"]).unwrap();
    while rewrites(&mut client) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for n in 0..7 {
        client.call(&["SADD".to_owned(), "{s}1".to_owned(), n.to_string()]).unwrap();
    }
    client.call(&["SUNIONSTORE", "elsewhere", "{s}1"]).unwrap();
    client.call(&["CONFIG", "SET", "appendfsync", "always"]).unwrap();
    client.call(&["DEL", "before"]).unwrap();

    // In parts since 7.0, before that one file that begins with a snapshot.
    let log = server.dir().join("appendonly.aof");
    let log = if log.is_file() { log } else { server.dir().to_owned() };
    let mut workload = Workload::new();
    let found = workload.read_path(&log).unwrap();
    assert_eq!(found.snapshot_keys + found.bases.len() as u64, 1, "{found:?}");
    let report = wait(async { check(&workload, None, &target(&server.url()).await).await.unwrap() });
    let calls = |name: &str| report.rows.iter().find(|row| row.command == name).map(|row| row.calls);
    assert_eq!(
        (calls("sadd"), calls("sunionstore"), calls("del"), calls("set")),
        (Some(7), Some(1), Some(1), None)
    );
    assert_eq!(report.verdict(), Verdict::Passed);

    // A snapshot of the same server in front of commands, as servers before 7.0 write it.
    client.call(&["SAVE"]).unwrap();
    let mut bytes = std::fs::read(server.dir().join("dump.rdb")).unwrap();
    bytes.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
    let found = Workload::new().read("preamble", &bytes[..]).unwrap();
    assert_eq!((found.commands, found.snapshot_keys), (1, 2));
}

#[test]
fn recorded_cases_pass() {
    let server = Server::any().unwrap();
    let suite = Suite::parse(
        "mine",
        r#"{"group": "mine", "cases": [
            {"name": "types", "steps": ["SET $k v", "GET $k", "HSET $h f 1.5", "HGETALL $h", "ZADD $z 2.5 m",
                "ZRANGE $z 0 -1 WITHSCORES", "INCR $k", "GET $none", "KEYS $k*"]},
            {"name": "chance", "steps": ["XADD $s * f v", "XLEN $s"]},
            {"name": "kept", "steps": [["SET $k v", "+OK"], "TTL $k"]}
        ]}"#,
    )
    .unwrap();
    wait(async {
        let target = target(&server.url()).await;
        let recorded = record(suite, &target, &everything()).await.unwrap();
        assert_eq!(recorded.filled, 11);
        assert_eq!(recorded.notes.len(), 1, "{:?}", recorded.notes);
        assert!(
            recorded.notes[0].contains("mine/chance: step 1: another reply each time"),
            "{:?}",
            recorded.notes
        );
        let text = recorded.suite.to_text();
        for line in [
            r#"["HGETALL $h",{"map":[["f","1.5"]]}]"#,
            r#"["ZRANGE $z 0 -1 WITHSCORES",{"pairs":[["m",2.5]]}]"#,
            r#"["INCR $k","-ERR value is not an integer or out of range"]"#,
            r#"["KEYS $k*",["$k"]]"#,
            r#"["GET $none",null]"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let again = Suite::parse("recorded", &text).unwrap();
        assert_eq!(again, recorded.suite);
        let report = keyferry_compat::run(&again, &target, &everything(), &Baseline::new()).await;
        assert_passed(&report);
    });
}

#[test]
fn the_other_suites_file_without_flushing() {
    let server = Server::any().unwrap();
    let mut client = server.client().unwrap();
    client.call(&["SET", "foo", "mine"]).unwrap();
    let cases = Cases::parse(
        "cts.json",
        r#"[
            {"name": "keys come back", "command": ["rpush foo a", "blpop foo 1", "mget foo bar"],
             "result": [1, ["foo", "a"], [null, null]], "since": "1.0.0"},
            {"name": "floats", "command": ["geoadd g 13.361389 38.115556 p", "geodist g p p"],
             "result": [1, "0.00"], "since": "3.2.0"},
            {"name": "odd keys", "command": ["set \"a $b\" 1", "get \"a $b\"", "set {x}:1 2", "exists {x}:1"],
             "result": ["OK", "1", "OK", 1], "since": "1.0.0"},
            {"name": "binary", "command": ["set k \\xff\\x00", "strlen k"], "result": ["OK", 2],
             "command_binary": true, "since": "2.2.0"},
            {"name": "sorted", "command": ["sadd s b a", "smembers s"], "result": [2, ["a", "b"]], "sort_result": true,
             "since": "1.0.0"},
            {"name": "quit", "command": ["quit", "set k v"], "result": ["OK", "OK"], "since": "1.0.0"},
            {"name": "too few", "command": ["set k v", "get k"], "result": ["OK"], "since": "1.0.0"},
            {"name": "wrong", "command": ["set k v"], "result": ["no"], "since": "1.0.0"},
            {"name": "left out", "command": ["set k v"], "result": ["no"], "since": "1.0.0", "skipped": true}
        ]"#,
    )
    .unwrap();
    let suite = cases.to_suite("cts.json").unwrap();
    assert_eq!(suite.groups().len(), 3);
    let report = wait(run(&suite, &server.url(), &everything()));
    let failed: Vec<&str> = report.failures().map(|(result, _)| result.name.as_str()).collect();
    assert_eq!(failed, ["too few (#7)", "wrong (#8)"]);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    assert_eq!(client.text(&["GET", "foo"]).unwrap(), "mine");
}
