//! The program `inspect` as its users see it.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyferry_rdb::{EntryHead, RdbWriter, TargetFormat, Value, ValueType};
use keyferry_testkit::process::measure;

/// The program, built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/inspect")
}

fn inspect(args: &[&str]) -> Output {
    Command::new(program()).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A file with a few keys.
fn small(dir: &Path) -> String {
    let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(7, 2)).unwrap();
    let keys = [
        (0, &b"user:1"[..], Value::String(b"one".to_vec())),
        (0, b"user:\xFF", Value::List(vec![b"a".to_vec(), b"b".to_vec()])),
        (3, b"tags:1", Value::Set(vec![b"x".to_vec()])),
    ];
    for (db, key, value) in keys {
        let head =
            EntryHead::new(db, key, ValueType::String).with_expiry((db == 3).then_some(1_900_000_000_000));
        writer.value(&head, &value).unwrap();
    }
    let path = dir.join("small.rdb");
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    path.display().to_string()
}

#[test]
fn each_view_shows_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = small(dir.path());
    let shown = |args: &[&str]| {
        let output = inspect(&[&[file.as_str()], args].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(&[]).contains("keys      3, "));
    assert!(shown(&["--big-keys", "2"]).contains("user:\\xff"));
    assert!(shown(&["--prefixes"]).contains("user:"));
    assert_eq!(shown(&["--jsonl"]).lines().count(), 3);
    let array: serde_json::Value = serde_json::from_str(&shown(&["--json"])).unwrap();
    assert_eq!(array[1]["key"], "user:\u{FFFD}ff");
    assert_eq!(shown(&["--memory", "csv"]).lines().count(), 4);
    assert_eq!(shown(&["--expiring"]), "2030-03-17T17:46:40Z\t3\tset\ttags:1\n");
    let left = shown(&["--keys", "user:*", "--type", "string,set"]);
    assert!(left.contains("2 keys were left out: 1 by name, 1 of other types"), "{left}");

    let html = dir.path().join("page.html").display().to_string();
    let report = dir.path().join("report.json").display().to_string();
    assert_eq!(shown(&["--html", &html, "--report", &report]), "");
    assert!(std::fs::read_to_string(html).unwrap().ends_with("</html>\n"));
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["totals"]["keys"], 3);
    let out = dir.path().join("out.jsonl").display().to_string();
    assert_eq!(shown(&["--jsonl", "--db", "3", "-o", &out]), "");
    assert_eq!(std::fs::read_to_string(out).unwrap().lines().count(), 1);
}

#[test]
fn errors_name_place_and_cause() {
    let dir = tempfile::tempdir().unwrap();
    let file = small(dir.path());
    let code = |args: &[&str]| inspect(args).status.code();
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&[&file, "--json", "--summary"]), Some(2));
    assert_eq!(code(&[&file, "--slots", "5-3"]), Some(2));
    assert_eq!(code(&[&file, "--type", "nothing"]), Some(2));
    assert_eq!(code(&["/no/such/file"]), Some(1));
    let bytes = std::fs::read(&file).unwrap();
    let cut = dir.path().join("cut.rdb").display().to_string();
    std::fs::write(&cut, &bytes[..bytes.len() - 20]).unwrap();
    let output = inspect(&[&cut]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("cut.rdb: input ends at byte {}", bytes.len() - 20)), "{error}");
    // What was whole is shown, and that it is not all is said.
    let shown = text(&output.stdout);
    assert!(shown.contains("keys      2, ") && shown.contains("this is not all"), "{shown}");
}

#[test]
fn standard_input_and_closed_output() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(small(dir.path())).unwrap();
    let mut child = Command::new(program())
        .args(["-", "--jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout).lines().count(), 3);
    // As with `| head`: whoever reads has enough.
    let large = large(dir.path());
    let mut child = Command::new(program())
        .args([&large, "--jsonl"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

/// A set of very many members, and as many keys with prefixes of their own.
fn large(dir: &Path) -> String {
    let path = dir.join("large.rdb");
    let file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let mut writer = RdbWriter::new(file, TargetFormat::redis(7, 2)).unwrap();
    writer.value_start(&EntryHead::new(0, b"large", ValueType::Set)).unwrap();
    let members = 1_000_000u32;
    writer.value_part(&[&[0x80][..], &members.to_be_bytes()].concat()).unwrap();
    for i in 0..members {
        writer.value_part(format!("\x10member:{i:09}").as_bytes()).unwrap();
    }
    for i in 0..200_000 {
        let key = format!("user:{i}:{}:name", i % 7);
        let head = EntryHead::new(0, key.as_bytes(), ValueType::String);
        writer.raw(&head, keyferry_rdb::RawValue::new(ValueType::String, b"\x05value")).unwrap();
    }
    writer.finish().unwrap();
    path.display().to_string()
}

#[test]
fn memory_stays_small_whatever_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = large(dir.path());
    let page = dir.path().join("page.html").display().to_string();
    for args in [
        &["--summary"][..],
        &["--jsonl"],
        &["--json"],
        &["--memory", "csv"],
        &["--big-keys", "1000", "--prefixes"],
        &["--html", &page],
    ] {
        let mut command = Command::new(program());
        command.arg(&file).args(args).stdin(Stdio::null()).stdout(Stdio::null());
        let measured = measure(&mut command).unwrap();
        assert!(measured.status.success());
        println!("{args:?}: {} KiB", measured.peak_rss_kib);
        assert!(measured.peak_rss_kib < 32 << 10, "{args:?}: {} KiB", measured.peak_rss_kib);
    }
}
