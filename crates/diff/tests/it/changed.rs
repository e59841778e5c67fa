//! Only what a journal says was touched is compared again, and nothing that was touched is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use keyferry_diff::{ChangedKeys, ChangedOptions, DiffReport, Difference, Error, LiveDiff, Verdict};
use keyferry_testkit::data::{self, Writer, WriterOptions};
use keyferry_testkit::{Server, any};

use crate::support::{diff, told};

/// A journal of one source, as migrations keep it: each file as text, its lines ending in `\n`.
fn journal(dir: &Path, files: &[String]) -> PathBuf {
    let below = dir.join("appendonlydir");
    fs::create_dir_all(&below).unwrap();
    let mut manifest = String::new();
    for (number, text) in files.iter().enumerate() {
        let name = format!("appendonly.aof.{}.incr.aof", number + 1);
        manifest += &format!("file {name} seq {} type i\n", number + 1);
        fs::write(below.join(name), text).unwrap();
    }
    fs::write(below.join("appendonly.aof.manifest"), manifest).unwrap();
    dir.to_owned()
}

/// Commands as a log has them. What begins with `#` is an annotation.
fn log(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        if line.starts_with('#') {
            text += &format!("{line}\r\n");
            continue;
        }
        let words: Vec<_> = line.split(' ').collect();
        text += &format!("*{}\r\n", words.len());
        words.iter().for_each(|word| text += &format!("${}\r\n{word}\r\n", word.len()));
    }
    text
}

fn since(second: u64) -> ChangedOptions {
    let mut options = ChangedOptions::default();
    options.since = Some(UNIX_EPOCH + Duration::from_secs(second));
    options
}

fn has(changed: &ChangedKeys, names: &[&str]) -> Vec<bool> {
    names.iter().map(|name| changed.contains(0, name.as_bytes())).collect()
}

const ID: &str = "#ID:3ad1e7ef023c242514c0b05e48e4ee884551c793";

#[test]
fn what_was_touched_before_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    // `SET a 1` takes 27 bytes of the stream, `DEL a` 20.
    let first = log(&[ID, "SELECT 0", "#OFFSET:100", "#TS:1000", "SET a 1", "#TS:1010", "SET b 1"]);
    let second = log(&[ID, "SELECT 0", "#OFFSET:154", "#TS:1020", "SET c 1", "#OFFSET:250", "DEL d"]);
    let path = journal(dir.path(), &[first, second]);
    let names = ["a", "b", "c", "d", "other"];
    let all = ChangedKeys::read(&path, &ChangedOptions::default()).unwrap();
    assert_eq!(has(&all, &names), [true, true, true, true, false], "{all:?}");
    assert_eq!((all.commands(), all.until(), all.widened().len()), (6, Some(1020), 0));
    let some = ChangedKeys::read(&path, &since(1011)).unwrap();
    assert_eq!(has(&some, &names), [false, true, true, true, false], "{some:?}");
    assert_eq!(
        has(&ChangedKeys::read(&path, &since(1010)).unwrap(), &names),
        [true, true, true, true, false]
    );
    assert_eq!(
        has(&ChangedKeys::read(&path, &since(9000)).unwrap(), &names),
        [false, false, true, true, false]
    );
    // To a tenth of a second, as migrations write it.
    let exact = log(&[
        ID,
        "SELECT 4",
        "#OFFSET:1",
        "#TS:1000",
        "#MS:1000500",
        "SET a 1",
        "SELECT 0",
        "#TS:1010",
        "#MS:1010100",
        "SET b 1",
    ]);
    let other = tempfile::tempdir().unwrap();
    let exact = ChangedKeys::read(journal(other.path(), &[exact]), &since(1005)).unwrap();
    assert_eq!((has(&exact, &["a", "b"]), exact.commands()), (vec![false, true], 1), "{exact:?}");
    // It begins later than what is asked for.
    for early in [0, 999, 1000] {
        let widened = ChangedKeys::read(&path, &since(early)).unwrap();
        assert!(widened.is_whole(7) && widened.widened()[0].contains("begins at 1000"), "{widened:?}");
    }
}

#[test]
fn gaps_are_seen_unless_they_are_long_ago() {
    let dir = tempfile::tempdir().unwrap();
    let first = log(&[ID, "SELECT 0", "#OFFSET:100", "#TS:1000", "SET a 1"]);
    let second = log(&[ID, "SELECT 0", "#OFFSET:500", "#TS:1020", "SET c 1", "#TS:1030", "SET d 1"]);
    let path = journal(dir.path(), &[first.clone(), second]);
    for options in [ChangedOptions::default(), since(1005)] {
        let widened = ChangedKeys::read(&path, &options).unwrap();
        let why = widened.widened().join(", ");
        assert!(widened.is_whole(3) && why.contains("lacks the commands from offset 127 to 500"), "{why}");
    }
    let some = ChangedKeys::read(&path, &since(1021)).unwrap();
    assert_eq!(has(&some, &["a", "c", "d"]), [false, true, true], "{some:?}");
    assert!(some.widened().is_empty());

    // Read while it is written: a command is there in part, a transaction too, a file is still empty.
    for cut in 1..20 {
        let whole = log(&[ID, "SELECT 0", "#OFFSET:127", "#TS:1001", "SET e 1", "MULTI", "SET f 1"]);
        let path = journal(dir.path(), &[first.clone(), whole[..whole.len() - cut].to_owned()]);
        let changed = ChangedKeys::read(&path, &ChangedOptions::default()).unwrap();
        assert!(changed.contains(0, b"e") && changed.widened().is_empty(), "{cut}: {changed:?}");
    }
    let path = journal(dir.path(), &[first.clone(), String::new()]);
    assert_eq!(ChangedKeys::read(&path, &ChangedOptions::default()).unwrap().len(), 1);
    // Damage is no end.
    let path = journal(dir.path(), &[first.clone(), "*1\r\n$x\r\n".to_owned()]);
    assert!(matches!(ChangedKeys::read(&path, &ChangedOptions::default()), Err(Error::File(_))));
    // The shards of a cluster together.
    let shards = tempfile::tempdir().unwrap();
    journal(&shards.path().join("shard-1"), &[first]);
    journal(&shards.path().join("shard-2"), &[log(&[ID, "SELECT 0", "#OFFSET:9", "#TS:900", "SET z 1"])]);
    let both = ChangedKeys::read(shards.path(), &ChangedOptions::default()).unwrap();
    assert_eq!((has(&both, &["a", "z", "b"]), both.until()), (vec![true, true, false], Some(900)));
    let nothing = tempfile::tempdir().unwrap();
    let error = ChangedKeys::read(nothing.path(), &ChangedOptions::default()).unwrap_err();
    assert!(error.to_string().contains("holds no journal"), "{error}");
}

/// A server's own log is the judge: whatever differs between a snapshot before and one after was touched.
#[test]
fn what_differs_between_two_snapshots_was_touched() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let server = Server::builder(binary).append_only("no").start().unwrap();
    let mut client = server.client().unwrap();
    data::small(&mut client, 3, 3).unwrap();
    let save = |client: &mut keyferry_testkit::Client, name: &str| {
        client.call(&["SAVE"]).unwrap();
        let copy = server.dir().join(name);
        fs::copy(server.dir().join("dump.rdb"), &copy).unwrap();
        copy.display().to_string()
    };
    let before = save(&mut client, "before");
    client.call(&["CONFIG", "SET", "appendonly", "yes"]).unwrap();
    let rewritten = client
        .wait_until(Duration::from_secs(60), |client| {
            let field = |client: &mut keyferry_testkit::Client, name| client.info("persistence", name);
            Ok(field(client, "aof_rewrite_in_progress")?.as_deref() == Some("0")
                && field(client, "aof_rewrite_scheduled")?.as_deref() == Some("0"))
        })
        .unwrap();
    assert!(rewritten);
    let writer = Writer::start(
        &server,
        WriterOptions { rate: 20_000, apart: true, short_expiries: false, ..WriterOptions::default() },
    )
    .unwrap();
    assert!(writer.wait_for(4000, Duration::from_secs(60)));
    writer.stop().unwrap();
    client.call(&["SELECT", "2"]).unwrap();
    client.call(&["SET", "surely", "touched"]).unwrap();
    client.call(&["CONFIG", "SET", "appendfsync", "always"]).unwrap();
    client.call(&["SET", "surely", "on disk"]).unwrap();
    let after = save(&mut client, "after");
    let log = ["appendonlydir", "appendonly.aof"].map(|name| server.dir().join(name));
    let log = log.iter().find(|path| path.exists()).unwrap();
    let changed = ChangedKeys::read(log, &ChangedOptions::default()).unwrap();
    let (_, found) = diff(&before, &after, |options| options.functions = false).unwrap();
    println!("{}: {} differ, {} touched, {:?}", binary.name, found.len(), changed.len(), changed.widened());
    assert!(found.len() > 10 && changed.contains(2, b"surely"));
    for (db, key, kind) in &found {
        assert!(changed.contains(*db, key), "{db} {} {kind}", key.escape_ascii());
    }
    // Before 7.0 scripts are in the log as they are.
    if binary.version.major >= 7 {
        assert!(changed.widened().is_empty(), "{:?}", changed.widened());
        assert!(!changed.contains(0, b"never named"));
    }
}

fn run(
    servers: &(Server, Server),
    changed: &ChangedKeys,
    sets: &[(u32, u32)],
) -> (DiffReport, Vec<Difference>) {
    let mut diff = LiveDiff::new(servers.0.url().parse().unwrap(), servers.1.url().parse().unwrap());
    (diff.live_mut().interval, diff.live_mut().rounds) = (Duration::from_millis(10), 2);
    for (from, to) in sets {
        diff.options_mut().databases.add(format!("{from}={to}").parse().unwrap());
    }
    let mut differences: Vec<Difference> = Vec::new();
    let report = diff.run_changed(changed, &mut differences).unwrap();
    (report, differences)
}

#[test]
fn only_what_was_touched_is_looked_at() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let servers = (Server::builder(binary).start().unwrap(), Server::builder(binary).start().unwrap());
    for (server, value) in [(&servers.0, "1"), (&servers.1, "2")] {
        let mut client = server.client().unwrap();
        // All differ, but for `same`.
        for key in ["a", "b", "keyferry:c", "other"] {
            client.call(&["SET", key, value]).unwrap();
        }
        client.call(&["SET", "same", "x"]).unwrap();
        client.call(&["SELECT", "3"]).unwrap();
        client.call(&["SET", "third", value]).unwrap();
    }
    servers.1.client().unwrap().call(&["SET", "new", "1"]).unwrap();
    servers.1.client().unwrap().call(&["PEXPIRE", "same", "10000000"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let keys = |lines: &[&str]| {
        ChangedKeys::read(journal(dir.path(), &[log(lines)]), &ChangedOptions::default()).unwrap()
    };
    let names = |differences: &[Difference]| {
        let told = told(differences).into_iter();
        told.map(|(db, key, kind)| format!("{db} {} {kind}", key.escape_ascii()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let changed = keys(&["SELECT 0", "SET a 1", "DEL new", "DEL gone", "PERSIST same", "SET keyferry:c 1"]);
    let (report, differences) = run(&servers, &changed, &[]);
    assert_eq!(names(&differences), "0 a value, 0 new lack_source, 0 same expiry");
    assert_eq!((report.source.keys, report.target.keys, report.both, report.equal), (2, 3, 2, 0), "{report}");
    assert_eq!((report.changed.unwrap().keys, report.source.bookkeeping), (5, 1));
    // A whole database, as it was emptied meanwhile.
    let (report, differences) = run(&servers, &keys(&["SELECT 3", "FLUSHDB", "SELECT 0", "SET b 1"]), &[]);
    assert_eq!(names(&differences), "0 b value, 3 third value");
    assert!(report.changed.unwrap().to_string().contains("FLUSHDB"));
    let (_, differences) = run(&servers, &keys(&["FLUSHALL"]), &[]);
    assert_eq!(differences.len(), 6, "{}", names(&differences));
    // Nothing was touched, or what was is gone on both sides.
    for nothing in [&["SELECT 0"][..], &["DEL gone"], &["SELECT 9", "SET x 1"]] {
        let (report, differences) = run(&servers, &keys(nothing), &[]);
        assert!(differences.is_empty() && report.verdict() == Verdict::Equal, "{report}");
        assert!(report.to_string().starts_with("EQUAL, WHERE TOUCHED: 0 keys"), "{report}");
    }
    // Databases that become one: a name does not tell whose key the target's is.
    let (_, differences) = run(&servers, &keys(&["SELECT 3", "SET x 1"]), &[(3, 0)]);
    assert!(names(&differences).contains("0 third lack_target"), "{}", names(&differences));
}
