//! The program `compat` as its users see it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyferry_testkit::Server;

/// The program, built beside this test.
fn compat(args: &[&str]) -> Output {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().and_then(Path::parent).unwrap().join("examples/compat");
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn file(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn exit_status_reports_and_baseline() {
    let server = Server::any().unwrap();
    let (url, dir) = (server.url(), tempfile::tempdir().unwrap());
    let right = file(
        dir.path(),
        "right.json",
        r#"{"group": "mine", "cases": [{"name": "right", "steps": [["SET $k v", "+OK"], ["GET $k", "v"]]}]}"#,
    );
    let wrong = file(
        dir.path(),
        "wrong.json",
        r#"{"group": "mine", "cases": [{"name": "wrong", "steps": [["SET $k v", "+OK"], ["GET $k", "w"]]}]}"#,
    );
    let passed = compat(&["--server", &url, "--cases", &right, "-v"]);
    assert_eq!(passed.status.code(), Some(0), "{passed:?}");
    assert!(text(&passed.stdout).contains("test mine/right (RESP3) ... ok\n"), "{passed:?}");

    let path = |name: &str| dir.path().join(name).display().to_string();
    let (html, junit, json, known) = (path("a.html"), path("a.xml"), path("a.json"), path("known.json"));
    let files = ["--html", &html, "--junit", &junit, "--json", &json, "--write-baseline", &known];
    let failed =
        compat(&[&["--server", &url, "--cases", &right, "--cases", &wrong][..], &files[..]].concat());
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(text(&failed.stdout).contains("    expected  \"w\"\n    got       \"v\"\n"), "{failed:?}");
    for (file, part) in [(&html, "mine/wrong"), (&junit, "<failure message"), (&json, "\"status\": 1")] {
        assert!(std::fs::read_to_string(file).unwrap().contains(part), "{file}");
    }
    assert!(
        text(&failed.stdout).contains("protocol  RESP2 and RESP3: a case counts once for each\n"),
        "{failed:?}"
    );
    let one = compat(&["--server", &url, "--cases", &right, "--protocol", "3"]);
    assert!(
        text(&one.stdout).contains("protocol  RESP3\n") && text(&one.stdout).contains("1 passed"),
        "{one:?}"
    );
    let baselined = compat(&["--server", &url, "--cases", &wrong, "--baseline", &known]);
    assert_eq!(baselined.status.code(), Some(0), "{baselined:?}");
    assert!(text(&baselined.stdout).contains("2 known"), "{baselined:?}");

    for args in [
        &["--server", "redis://:secret@127.0.0.1:1"][..],
        &["--server", "redis://:secret@127.0.0.1:1?wrong=1"],
        &["--server", &url, "--cases", "nowhere.json"],
        &["--server", &url, "--only", "nothing*"],
        &["--server", &url, "--mode", "reference"],
        &["--server", &url, "--mode", "workload"],
        &["--server", &url, "--mode", "ctsr"],
        &["--server", &url, "--allow", "money"],
        &[],
    ] {
        let status = compat(args);
        assert_eq!(status.status.code(), Some(2), "{args:?}: {status:?}");
        assert!(!text(&status.stderr).contains("secret"), "{status:?}");
    }
}

#[test]
fn every_mode() {
    let (server, other) = (Server::any().unwrap(), Server::any().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let cts = file(
        dir.path(),
        "cts.json",
        r#"[{"name": "del", "command": ["set k v", "del k"], "result": ["OK", 1], "since": "1.0.0"},
            {"name": "later", "command": ["nonsense"], "result": [1], "since": "7.0.0"}]"#,
    );
    let ctsr = compat(&["--server", &server.url(), "--mode", "ctsr", "--cases", &cts, "--since", "6.2.0"]);
    assert_eq!(ctsr.status.code(), Some(0), "{ctsr:?}");
    let summary = "Summary: version: 6.2.0, total tests: 1, passed: 1, rate: 100.00%\n";
    assert!(text(&ctsr.stdout).ends_with(summary), "{ctsr:?}");
    // The same file without flushing.
    let safe = compat(&["--server", &server.url(), "--cases", &cts, "--since", "6.2.0"]);
    assert_eq!(safe.status.code(), Some(0), "{safe:?}");

    let reference = compat(&[
        "--server",
        &server.url(),
        "--mode",
        "reference",
        "--reference",
        &other.url(),
        "--only",
        "hash/*",
    ]);
    assert_eq!(reference.status.code(), Some(0), "{reference:?}");

    let stream = file(dir.path(), "requests", "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$7\r\nNOTHING\r\n");
    let workload = compat(&["--server", &server.url(), "--mode", "workload", "--stream", &stream]);
    assert_eq!(workload.status.code(), Some(1), "{workload:?}");
    assert!(text(&workload.stdout).contains("the target lacks 1"), "{workload:?}");
    // A log in parts, of which the base is the server's; and commands on standard input.
    let log = dir.path().join("appendonlydir");
    std::fs::create_dir(&log).unwrap();
    let manifest = "file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\n";
    std::fs::write(log.join("a.manifest"), manifest).unwrap();
    std::fs::write(log.join("a.1.incr.aof"), "*2\r\n$3\r\nGET\r\n$1\r\na\r\n").unwrap();
    let log = dir.path().display().to_string();
    let workload = compat(&["--server", &server.url(), "--mode", "workload", "--stream", &log]);
    assert_eq!(workload.status.code(), Some(0), "{workload:?}");
    assert!(text(&workload.stderr).contains(": 1 commands\n"), "{workload:?}");
    assert!(text(&workload.stderr).contains("a.1.base.rdb: left out"), "{workload:?}");
    let source = compat(&["--server", &server.url(), "--mode", "workload", "--source", &other.url()]);
    assert_eq!(source.status.code(), Some(0), "{source:?}");

    let mine =
        file(dir.path(), "mine.json", r#"{"group": "mine", "cases": [{"name": "a", "steps": ["INCR $k"]}]}"#);
    let recorded = compat(&["--server", &server.url(), "--cases", &mine, "--record", &mine]);
    assert_eq!(recorded.status.code(), Some(0), "{recorded:?}");
    assert!(std::fs::read_to_string(&mine).unwrap().contains(r#"["INCR $k",1]"#));
}
