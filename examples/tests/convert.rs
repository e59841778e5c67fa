//! The program `convert` as its users see it.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyferry_rdb::elements::Element;
use keyferry_rdb::{EntryHead, Event, HashField, Limits, Parser, RdbWriter, TargetFormat, Value, ValueType};
use keyferry_testkit::process::measure;

/// The program, built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/convert")
}

fn convert(dir: &Path, args: &[&str]) -> Output {
    Command::new(program()).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// A file of Redis 7.4 with what older servers have no place for.
fn small(dir: &Path) {
    let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(7, 4)).unwrap();
    writer.function(b"#!lua name=lib\nredis.register_function('f', function() end)").unwrap();
    let field = HashField::new("f", "v").with_expiry(Some(4_102_444_800_000));
    for (db, key, value) in [
        (0, &b"foo"[..], Value::String(b"one".to_vec())),
        (0, b"bar", Value::Set(vec![b"x".to_vec()])),
        (0, b"hash\xFF", Value::Hash(vec![field])),
        (1, b"foo", Value::String(b"two".to_vec())),
    ] {
        writer.value(&EntryHead::new(db, key, ValueType::String), &value).unwrap();
    }
    std::fs::write(dir.join("in.rdb"), writer.finish().unwrap()).unwrap();
}

#[test]
fn exit_codes_and_messages_tell_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    let check = |args: &[&str], code: i32, words: &[&str]| {
        let output = convert(dir.path(), args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{args:?} lacks {word:?}: {}", said(&output));
        }
    };
    for wrong in [
        &[][..],
        &["in.rdb"],
        &["in.rdb", "out"],
        &["-", "-", "out.rdb"],
        &["in.rdb", "out.rdb", "--to", "redis-six"],
        &["in.rdb", "out.rdb", "--db-map", "1"],
        &["in.rdb", "out.rdb", "--on-loss", "ignore"],
        &["in.rdb", "out.rdb", "--shards", "3", "--slots", "1"],
        &["in.rdb", "-", "--shards", "3"],
    ] {
        check(wrong, 2, &[]);
    }
    check(&["missing.rdb", "out.rdb"], 1, &["missing.rdb"]);
    let old = ["in.rdb", "old.rdb", "--to", "redis-6.0"];
    check(
        &old,
        1,
        &[
            "2 losses",
            "lib: a library of functions",
            "hash\\xff in database 0: the expiry of 1",
            "--on-loss drop",
        ],
    );
    check(
        &["in.rdb", "one.rdb", "--db-map", "1=0"],
        1,
        &["foo: database 1 of in.rdb", "--on-collision first"],
    );
    assert_eq!(names(dir.path()), ["in.rdb"]);

    check(&[&old[..], &["--on-loss", "drop", "--report", "r.json"]].concat(), 0, &["lost", "4 keys"]);
    let report = std::fs::read_to_string(dir.path().join("r.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["complete"], report["losses"].as_array().unwrap().len()), (&true.into(), 2));
    assert!(std::fs::read(dir.path().join("old.rdb")).unwrap().starts_with(b"REDIS0009"));
    check(&[&old[..], &["--on-loss", "drop"]].concat(), 1, &["exists already", "--force"]);
    check(&[&old[..], &["--on-loss", "drop", "--force"]].concat(), 0, &[]);
    check(&["in.rdb", "one.rdb", "--db-map", "1=0", "--on-collision", "first"], 0, &["there already: 1"]);
}

#[test]
fn shards_get_names_and_everything() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    let output = convert(dir.path(), &["in.rdb", "s.rdb", "--shards", "3", "--db", "0"]);
    assert!(output.status.success(), "{}", said(&output));
    let files = ["s.0-5460.rdb", "s.10923-16383.rdb", "s.5461-10922.rdb"];
    assert_eq!(names(dir.path())[1..], files);
    let lines = |args: &[&str]| {
        let output = convert(dir.path(), &[args, &["-", "--format", "jsonl"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    // bar has slot 5061, foo 12182.
    assert!(lines(&files[..1]).contains("\"key\":\"bar\""));
    assert!(lines(&files[1..2]).contains("\"key\":\"foo\""));
    assert_eq!(
        lines(&["in.rdb", "--slots", "5061"]).lines().filter(|line| line.contains("\"key\"")).count(),
        1
    );
    // The library is in each of the three and once in the whole.
    assert_eq!(lines(&files).lines().count(), 4);
    let output = convert(dir.path(), &["in.rdb", "s.aof", "--shards", "3"]);
    assert!(said(&output).contains("foo in database 1: a key outside of database 0"), "{}", said(&output));
}

#[test]
fn standard_input_and_output_work() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    let mut child = Command::new(program())
        .args(["-", "-", "--format", "resp", "--keys", "foo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = std::fs::read(dir.path().join("in.rdb")).unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let sets = "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n*3\r\n$3\r\nSET\r\n$3\r\nfoo\r\n$3\r\ntwo\r\n";
    assert!(text.contains("FUNCTION") && text.ends_with(sets), "{text}");
}

/// A list of 60 MB, written in another encoding for an older server, in little memory.
#[test]
fn large_values_take_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in.rdb"), dir.path().join("out.rdb"));
    let file = std::io::BufWriter::new(std::fs::File::create(&input).unwrap());
    let mut writer = RdbWriter::new(file, TargetFormat::redis(7, 2)).unwrap();
    let items: Vec<Vec<u8>> = (0..600_000u32).map(|i| format!("{i:0>100x}").into_bytes()).collect();
    let head = EntryHead::new(0, b"large", ValueType::List);
    let mut target = TargetFormat::redis(7, 2);
    target.compress = false;
    let mut bytes = Vec::new();
    let encoded = keyferry_rdb::encode::Encoder::new(target).encode(&Value::List(items), &mut bytes).unwrap();
    assert!(bytes.len() > 60_000_000);
    writer.raw(&head, keyferry_rdb::RawValue::new(encoded.ty.unwrap(), &bytes)).unwrap();
    writer.finish().unwrap();
    for (name, to) in [("out.rdb", "redis-6.0"), ("out.resp", "redis-6.0"), ("same.rdb", "redis-7.2")] {
        let mut command = Command::new(program());
        command.args(["in.rdb", name, "--to", to]).current_dir(dir.path()).stderr(Stdio::null());
        let measured = measure(&mut command).unwrap();
        assert!(measured.status.success());
        assert!(measured.peak_rss_kib < 32 << 10, "{name}: {} KiB", measured.peak_rss_kib);
    }
    // Nothing of it is missing.
    let mut limits = Limits::default();
    limits.value_part = usize::MAX;
    let mut parser = Parser::with_limits(limits);
    parser.feed(&std::fs::read(out).unwrap());
    let mut count = 0;
    while let Some(event) = parser.next_event().unwrap() {
        let Event::Entry(entry) = event else { continue };
        assert_eq!(entry.head.ty, ValueType::List);
        let mut elements = entry.value.elements(&Limits::default());
        while let Some(element) = elements.next().unwrap() {
            assert_eq!(element, Element::Item(format!("{count:0>100x}").as_bytes()));
            count += 1;
        }
    }
    assert_eq!(count, 600_000);
}
