//! The program `diff` as its users see it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyferry_rdb::{EntryHead, RdbWriter, TargetFormat, Value, ValueType};
use keyferry_testkit::{Server, data::small};

/// The program, built beside this test.
fn diff(args: &[&str]) -> Output {
    program("diff").args(args).output().unwrap()
}

fn program(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let path: PathBuf = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn file(dir: &Path, name: &str, keys: &[(&str, &str)]) -> String {
    let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(7, 2)).unwrap();
    for (key, value) in keys {
        let head = EntryHead::new(0, key.as_bytes(), ValueType::String);
        writer.value(&head, &Value::String(value.as_bytes().to_vec())).unwrap();
    }
    let path = dir.join(name);
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    path.display().to_string()
}

#[test]
fn exit_status_and_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let a = file(dir.path(), "a.rdb", &[("one", "1"), ("two", "2"), ("three", "3")]);
    let b = file(dir.path(), "b.rdb", &[("two", "2"), ("one", "x")]);
    let c = file(dir.path(), "c.rdb", &[("three", "3")]);
    let same = diff(&[&a, &a]);
    assert_eq!(same.status.code(), Some(0));
    assert!(text(&same.stdout).ends_with("EQUAL: all 3 keys are the same on both sides\n"), "{same:?}");

    let other = diff(&[&a, &b]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stdout).contains("lack_target   string    three"), "{other:?}");
    // Several files are one side.
    let parts = diff(&[&a, &b, "--target-also", &c, "--exclude", "one"]);
    assert_eq!(parts.status.code(), Some(0), "{parts:?}");

    for args in [
        &[&a[..], &b[..], "--keys", "nothing"][..],
        &[&a, "nowhere.rdb"],
        &[&a, "redis://127.0.0.1:1"],
        &[&a, "redis://:secret@127.0.0.1:1?wrong=1"],
        &[&a, "redis://127.0.0.1:1", "--target-also", &c],
        &[&a],
    ] {
        let failed = diff(args);
        assert_eq!(failed.status.code(), Some(2), "{args:?}: {failed:?}");
        assert!(!text(&failed.stderr).contains("secret"), "{failed:?}");
    }
}

#[test]
fn results_go_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let a = file(dir.path(), "a.rdb", &[("one", "1"), ("two", "2")]);
    let b = file(dir.path(), "b.rdb", &[("one", "x")]);
    let [result, junit] = ["result", "junit.xml"].map(|name| dir.path().join(name).display().to_string());
    let other = diff(&[&a, &b, "--jsonl", "-", "--result", &result, "--junit", &junit]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    let lines: Vec<serde_json::Value> =
        text(&other.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[2]["verdict"]), (3, &"different".into()));
    let result = std::fs::read_to_string(result).unwrap();
    let mut rows: Vec<_> = result.lines().collect();
    rows.sort_unstable();
    assert_eq!(rows, ["0\tlack_target\ttwo\t", "0\tvalue\tone\t"]);
    assert!(std::fs::read_to_string(junit).unwrap().contains("failures=\"2\""));
    // What goes with two servers only is refused.
    for options in
        [&["--live"][..], &["--check", "length"], &["--repair", "both"], &["--sample", "1%"], &["--quick"]]
    {
        let refused = diff(&[&[&a[..], &b[..]], options].concat());
        assert_eq!(refused.status.code(), Some(2), "{options:?}");
        assert!(text(&refused.stderr).contains("goes with two servers"), "{refused:?}");
    }
}

/// Whoever finds the results in the morning sees that there are none, and why.
#[test]
fn results_say_that_it_could_not_be_told() {
    let dir = tempfile::tempdir().unwrap();
    let a = file(dir.path(), "a.rdb", &[("one", "1")]);
    let whole = std::fs::read(&a).unwrap();
    let cut = dir.path().join("cut<.rdb").display().to_string();
    std::fs::write(&cut, &whole[..whole.len() - 9]).unwrap();
    let [jsonl, junit, html] =
        ["all.jsonl", "junit.xml", "page.html"].map(|name| dir.path().join(name).display().to_string());
    let failed = diff(&[&a, &cut, "--jsonl", &jsonl, "--junit", &junit, "--html", &html]);
    assert_eq!(failed.status.code(), Some(2), "{failed:?}");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let line: serde_json::Value = serde_json::from_str(&read(&jsonl)).unwrap();
    assert_eq!(line["verdict"], "unknown");
    assert!(line["error"].as_str().unwrap().contains("cut<.rdb"), "{line}");
    let (xml, page) = (read(&junit), read(&html));
    assert!(xml.contains("errors=\"1\"") && xml.contains("cut&lt;.rdb"), "{xml}");
    assert!(page.contains("COULD NOT TELL: ") && page.contains("cut&lt;.rdb"), "{page}");
}

/// What commands make only a server can tell: one of this machine, or one that was named.
#[test]
fn commands_of_append_only_files_are_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let binary = keyferry_testkit::any().unwrap();
    let start = || Server::builder(binary).diskless_sync(true, 0).start().unwrap();
    let (copy, log) = (start(), at("server"));
    std::fs::create_dir(&log).unwrap();
    // Keys of the base, commands behind it, and what both come to.
    let writer = Server::builder(binary).dir(Path::new(&log)).append_only("always").diskless_sync(true, 0);
    let writer = writer.start().unwrap();
    small(&mut writer.client().unwrap(), 11, 3).unwrap();
    let mut client = writer.client().unwrap();
    client.call(&["BGREWRITEAOF"]).unwrap();
    let begun = std::time::Instant::now();
    while client.info("persistence", "aof_rewrite_in_progress").unwrap().unwrap() != "0"
        || client.info("persistence", "aof_rewrite_scheduled").unwrap().unwrap() != "0"
    {
        assert!(begun.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(10));
    }
    client.call(&["SET", "begun", "1"]).unwrap();
    let mut moving = migration(&writer.url(), &copy, &["--journal", &at("journal"), "--keep"]);
    for command in [
        &["INCRBY", "counter", "41"][..],
        &["INCR", "counter"],
        &["RPUSH", "words", "a", "b", "c"],
        &["LPOP", "words"],
    ] {
        client.call(command).unwrap();
    }
    client.call(&["SET", "arrived", "1"]).unwrap();
    assert!(arrives(&copy, "arrived"));
    assert!(moving.end().success());
    drop(writer);
    let log = match binary.version.at_least(7, 0) {
        true => format!("{log}/appendonlydir"),
        false => format!("{log}/appendonly.aof"),
    };
    let equal = diff(&[&log, &copy.url()]);
    assert_eq!(equal.status.code(), Some(0), "{equal:?}");
    assert!(text(&equal.stderr).contains("carried out by a server on this machine"), "{equal:?}");
    assert!(text(&equal.stdout).contains(" commands of "), "{equal:?}");

    // The same by a server that was named, which is emptied, and by the journal of the migration.
    let scratch = start();
    copy.client().unwrap().call(&["LPUSH", "words", "other"]).unwrap();
    for (source, target) in [(&log, &copy.url()), (&copy.url(), &log), (&copy.url(), &at("journal"))] {
        let found = diff(&[source, target, "--scratch", &scratch.url(), "--rounds", "1", "--jsonl", "-"]);
        assert_eq!(found.status.code(), Some(1), "{found:?}");
        let told = text(&found.stdout);
        assert!(told.lines().count() == 2 && told.contains("\"key\":\"words\""), "{found:?}");
        assert_eq!(scratch.client().unwrap().info("keyspace", "db0").unwrap(), None);
    }
    assert_eq!(diff(&[&log, &log]).status.code(), Some(0));

    // Nothing that somebody needs is emptied, and nothing is accepted that means nothing.
    let refused = |args: &[&str], why: &str| {
        let refused = diff(args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {refused:?}");
        assert!(text(&refused.stderr).contains(why), "{refused:?}");
    };
    refused(&[&log, &copy.url(), "--scratch", &copy.url()], "it has to be empty");
    refused(&[&copy.url(), &copy.url(), "--scratch", &scratch.url()], "no side is one");
    refused(&[&log, &copy.url(), "--live"], "goes with two servers");
    refused(&[&log, &copy.url(), "--repair", "both"], "goes with two servers");
    refused(&[&log, &copy.url(), "--with-bookkeeping"], "--with-bookkeeping");
    // A server that was named is emptied whatever happens.
    refused(&[&log, &copy.url(), "--with-bookkeeping", "--scratch", &scratch.url()], "--with-bookkeeping");
    assert_eq!(scratch.client().unwrap().info("keyspace", "db0").unwrap(), None);
    assert_eq!(copy.client().unwrap().int(&["LLEN", "words"]).unwrap(), 3);
}

#[test]
fn names_of_keys_are_bytes() {
    use std::os::unix::ffi::OsStrExt as _;

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    for (name, value) in [("a.rdb", "1"), ("b.rdb", "2")] {
        let mut writer = RdbWriter::new(Vec::new(), TargetFormat::redis(7, 2)).unwrap();
        for (key, value) in [(&b"\xff\x81"[..], "same"), (b"\xff\x01", value), (b"a\xff", value)] {
            let head = EntryHead::new(0, key, ValueType::String);
            writer.value(&head, &Value::String(value.as_bytes().to_vec())).unwrap();
        }
        std::fs::write(path(name), writer.finish().unwrap()).unwrap();
    }
    let chosen = |options: &[&[u8]]| {
        let mut diff = program("diff");
        diff.args([path("a.rdb"), path("b.rdb")]);
        let output =
            diff.args(options.iter().map(|text| std::ffi::OsStr::from_bytes(text))).output().unwrap();
        (output.status.code(), text(&output.stdout).lines().last().unwrap_or_default().to_owned())
    };
    let equal = (Some(0), "EQUAL: all 1 keys are the same on both sides".to_owned());
    assert_eq!(chosen(&[b"--keys", b"\xff[\x80-\x8f]"]), equal);
    assert_eq!(chosen(&[b"--keys", b"\xff*", b"--exclude", b"prefix:\xff\x01"]), equal);
    assert_eq!(chosen(&[b"--keys", b"*\xff"]).0, Some(1));
}

#[test]
fn servers_are_compared_and_repaired() {
    let (Ok(a), Ok(b)) = (keyferry_testkit::Server::any(), keyferry_testkit::Server::any()) else {
        return println!("note: no server is there");
    };
    for server in [&a, &b] {
        let mut client = server.client().unwrap();
        client.call(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).unwrap();
        client.call(&["HSET", "hash", "a", "1", "b", "2"]).unwrap();
        client.call(&["SET", "text", "1"]).unwrap();
    }
    b.client().unwrap().call(&["HSET", "hash", "b<", "3"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [html, script] = ["page.html", "script"].map(|name| dir.path().join(name).display().to_string());
    let (a_url, b_url) = (a.url(), b.url());
    let quick = ["--interval", "0.05"];
    for engine in [&[][..], &["--live"]] {
        let found = diff(
            &[&[&a_url[..], &b_url, "--html", &html, "--result", "-", "--jsonl", "-"], &quick[..], engine]
                .concat(),
        );
        assert_eq!(found.status.code(), Some(1), "{found:?}");
        assert!(text(&found.stdout).contains("0\tlack_source\thash\tb<\n"), "{found:?}");
        let page = std::fs::read_to_string(&html).unwrap();
        assert!(page.contains("<code>b&lt;</code> lack_source") && page.contains("DIFFERENT: 1"), "{page}");
    }
    let counts = diff(&[&a_url, &b_url, "--quick"]);
    assert_eq!(counts.status.code(), Some(0), "{counts:?}");
    assert!(text(&counts.stdout).contains("but only numbers of keys were compared"), "{counts:?}");
    // Each round has its tables, the first one too where that was by snapshots.
    #[cfg(feature = "sqlite")]
    for engine in [&[][..], &["--live"]] {
        let tables = dir.path().join(format!("{}.db", engine.len())).display().to_string();
        let found = diff(&[&[&a_url[..], &b_url, "--sqlite", &tables], &quick[..], engine].concat());
        assert_eq!(found.status.code(), Some(1), "{found:?}");
        // The file holds the commands that made its tables.
        let file = std::fs::read(&tables).unwrap();
        for table in ["key_1(", "field_1(", "key_2(", "field_2(", "key(", "field("] {
            assert!(file.windows(table.len()).any(|part| part == table.as_bytes()), "{table} {engine:?}");
        }
    }
    // Servers do not count by names.
    let uncounted = diff(&[&a_url, &b_url, "--quick", "--keys", "nothing"]);
    assert_eq!(uncounted.status.code(), Some(2), "{uncounted:?}");
    assert_eq!(diff(&[&a_url, &b_url, "--quick", "--db", "0"]).status.code(), Some(0));
    assert_eq!(diff(&[&a_url, &b_url, "--quick", "--db", "3"]).status.code(), Some(2));
    let repair = ["--repair", "both", "--repair-script", &script];
    let dry = diff(&[&[&a_url[..], &b_url, "--dry-run"], &quick[..], &repair].concat());
    assert_eq!(dry.status.code(), Some(1), "{dry:?}");
    assert!(std::fs::read_to_string(&script).unwrap().starts_with("SELECT 0\nRESTORE hash 0 "));
    let done = diff(&[&[&a_url[..], &b_url], &quick[..], &repair].concat());
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(text(&done.stdout).contains("EQUAL: all 2 keys"), "{done:?}");
}

/// Killed when dropped, so that a failed test leaves nothing behind.
struct Running(std::process::Child);

impl Running {
    /// Ends it as a service manager does.
    fn end(&mut self) -> std::process::ExitStatus {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_differs_while_a_migration_runs_but_what_does() {
    let (Ok(a), Ok(b)) = (keyferry_testkit::Server::any(), keyferry_testkit::Server::any()) else {
        return println!("note: no server is there");
    };
    let mut source = a.client().unwrap();
    source.call(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).unwrap();
    let all: Vec<_> = (0..20_000).map(|n| ["SET".to_owned(), format!("key:{n}"), n.to_string()]).collect();
    source.pipe(&all).unwrap();
    let (a_url, b_url) = (a.url(), b.url());
    source.call(&["SET", "begun", "1"]).unwrap();
    let _migration = migration(&a_url, &b, &[]);
    b.client().unwrap().call(&["SET", "planted", "1"]).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Some thousand writes a second, of which every one counts; many more, and a slow machine is never done with them.
        let writer = scope.spawn(|| {
            let mut rounds = 0u64;
            while !ended.load(Ordering::Relaxed) {
                let key = |n: u64| format!("key:{}", (rounds * 7919 + n * 104_729) % 20_000);
                let append = |n| ["APPEND".to_owned(), key(n), "x".to_owned()];
                let expire = |n| ["EXPIRE".to_owned(), key(n), (100_000 + rounds % 1000).to_string()];
                let commands: Vec<_> =
                    (0..200).map(|n| if n % 10 == 0 { expire(n) } else { append(n) }).collect();
                source.pipe(&commands).unwrap();
                rounds += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            rounds * 200
        });
        let mut found = Vec::new();
        for by in ["checkpoint", "marks", "either"] {
            let barrier = ["--live", "--barrier", "300", "--barrier-by", by, "--jsonl", "-"];
            found.push((by, diff(&[&[&a_url[..], &b_url], &barrier[..]].concat())));
        }
        ended.store(true, Ordering::Relaxed);
        let writes = writer.join().unwrap();
        for (by, found) in found {
            let lines: Vec<serde_json::Value> =
                text(&found.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(found.status.code(), Some(1), "{by}, after {writes} writes: {found:?}");
            assert_eq!(
                (lines.len(), &lines[0]["key"]),
                (2, &"planted".into()),
                "{by}, after {writes} writes: {found:?}"
            );
            let barrier = lines[1]["report"]["barrier"].as_str().unwrap();
            assert_eq!(barrier.contains("checkpoint"), by != "marks", "{by}: {barrier}");
        }
    });
}

/// A migration at work that keeps its journal; it has begun to follow when this returns.
fn migration(source: &str, target: &keyferry_testkit::Server, more: &[&str]) -> Running {
    let mut migrate = program("migrate");
    migrate.args(["--source", source, "--target", &target.url(), "--until", "forever"]).args(more);
    migrate.stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(migrate.spawn().unwrap());
    assert!(arrives(target, "begun"), "the migration does not run");
    running
}

fn arrives(target: &keyferry_testkit::Server, key: &str) -> bool {
    let mut client = target.client().unwrap();
    client.wait_until(Duration::from_secs(180), |client| Ok(client.int(&["EXISTS", key])? == 1)).unwrap()
}

#[test]
fn only_what_the_journal_names_is_compared_again() {
    let (Ok(a), Ok(b)) = (keyferry_testkit::Server::any(), keyferry_testkit::Server::any()) else {
        return println!("note: no server is there");
    };
    let mut source = a.client().unwrap();
    source.call(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).unwrap();
    let all: Vec<_> = (0..2000).map(|n| ["SET".to_owned(), format!("key:{n}"), n.to_string()]).collect();
    source.pipe(&all).unwrap();
    source.call(&["SET", "begun", "1"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let [journal, full] = ["journal", "full.jsonl"].map(|name| dir.path().join(name).display().to_string());
    let _migration = migration(&a.url(), &b, &["--journal", &journal, "--keep"]);
    // Something before, so that the journal has a time from which on it knows.
    source.call(&["SET", "key:1", "before"]).unwrap();
    source.call(&["SET", "arrived", "1"]).unwrap();
    assert!(arrives(&b, "arrived"));
    // Times are told in seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let equal = diff(&[&a.url(), &b.url(), "--live", "--jsonl", &full]);
    assert_eq!(equal.status.code(), Some(0), "{equal:?}");
    for key in ["key:7", "key:8", "key:9"] {
        source.call(&["APPEND", key, "x"]).unwrap();
    }
    source.call(&["DEL", "key:10"]).unwrap();
    source.call(&["SET", "touched", "1"]).unwrap();
    assert!(arrives(&b, "touched"));
    // One that was touched, one that came back, and one of which nobody knows.
    for (key, value) in [("key:8", "other"), ("key:10", "10"), ("key:1000", "other")] {
        b.client().unwrap().call(&["SET", key, value]).unwrap();
    }
    let arguments = [&a.url()[..], &b.url(), "--changed-in", &journal, "--since", &full, "--interval", "0.1"];
    let end = std::time::Instant::now() + Duration::from_secs(180);
    let lines = loop {
        let found = diff(&[&arguments[..], &["--jsonl", "-"]].concat());
        assert_eq!(found.status.code(), Some(1), "{found:?}");
        let lines: Vec<serde_json::Value> =
            text(&found.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // The journal is written while it is read.
        if lines.last().unwrap()["report"]["changed"]["keys"] == 5 {
            break lines;
        }
        assert!(std::time::Instant::now() < end, "{lines:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut told: Vec<_> = lines[..lines.len() - 1]
        .iter()
        .map(|line| format!("{} {}", line["key"], line["difference"]))
        .collect();
    told.sort();
    assert_eq!(told, ["\"key:10\" \"lack_source\"", "\"key:8\" \"value\""]);
    let shown = diff(&arguments);
    assert!(text(&shown.stdout).contains("\nbut only keys were compared that "), "{shown:?}");
    // Who follows nothing has no checkpoint.
    let none = diff(&[&b.url(), &a.url(), "--live", "--barrier", "0.1", "--barrier-by", "checkpoint"]);
    assert!(none.status.code() == Some(2) && text(&none.stderr).contains("has no checkpoint"), "{none:?}");
    // Wrong usage, and what is no journal.
    for wrong in [
        &["--changed-in", "nowhere"][..],
        &["--changed-in", &journal, "--since", &journal],
        &["--since", "5"],
    ] {
        assert_eq!(diff(&[&[&a.url()[..], &b.url()], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}
