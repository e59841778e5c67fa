//! Files, whole and broken, and what cannot be told.

use std::fs;

use keyferry_diff::results::{JsonLines, Junit, Kept, TextFile, write_table};
use keyferry_diff::{Difference, DifferenceSink, Error, Side, SnapshotDiff, Verdict};
use keyferry_files::convert::{ConvertOptions, OnLoss, convert};
use keyferry_files::{Input, InputOptions, Output};
use keyferry_rdb::{HashField, TargetFormat, Value};
use keyferry_routing::KeyPattern;
use keyferry_testkit::{Server, all, any, data};

use crate::support::{Found, Key, diff, diff_sides, formats, write};

fn format() -> TargetFormat {
    "redis-7.2".parse().unwrap()
}

fn text(text: &str) -> Value {
    Value::String(text.as_bytes().to_vec())
}

fn path(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

#[test]
fn forty_thousand_differences_are_forty_thousand() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..60_000).map(|n| Key::new(&format!("key:{n}"), text(&n.to_string()))).collect();
    let few: Vec<_> = all[40_000..].to_vec();
    write(&dir.path().join("a.rdb"), format(), &all);
    write(&dir.path().join("b.rdb"), format(), &few);
    let (a, b) = (path(&dir, "a.rdb"), path(&dir, "b.rdb"));
    let (report, found) = diff(&a, &b, |_| {}).unwrap();
    assert_eq!((found.len(), report.equal, report.verdict()), (40_000, 20_000, Verdict::Different));
    assert_eq!(
        report.to_string(),
        "DIFFERENT: 40000 differences (40000 lack_target); 20000 keys on both sides, 20000 of them equal, \
         40000 on the source only, 0 on the target only"
    );
    // Both directions are looked at, whichever side comes first.
    let (_, turned) = diff(&b, &a, |_| {}).unwrap();
    assert!(turned.len() == 40_000 && turned.iter().all(|(_, _, kind)| *kind == "lack_source"));
}

#[test]
fn damaged_files_give_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = (0..500).map(|n| Key::new(&format!("key:{n}"), text(&"x".repeat(n)))).collect();
    let good = fs::read(write(&dir.path().join("a.rdb"), format(), &keys)).unwrap();
    let a = path(&dir, "a.rdb");
    let bad = |bytes: &[u8]| {
        let b = path(&dir, "b.rdb");
        fs::write(&b, bytes).unwrap();
        let one = diff(&a, &b, |_| {}).unwrap_err();
        let other = diff(&b, &a, |_| {}).unwrap_err();
        assert_eq!(one.to_string(), other.to_string());
        one
    };
    assert!(diff(&a, &a, |_| {}).unwrap().1.is_empty());
    for cut in [0, 5, 12, 700, good.len() - 9, good.len() - 1] {
        let error = bad(&good[..cut]);
        assert!(matches!(error, Error::File(_)) && error.to_string().contains("b.rdb"), "{error}");
    }
    for at in (9..good.len()).step_by(997) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        let error = bad(&flipped);
        assert!(matches!(error, Error::File(_)), "{at}: {error}");
    }
    assert!(matches!(bad(b"*1\r\n$4\r\nPING\r\n"), Error::Commands { .. }));
    let error = diff(&a, &path(&dir, "nothing"), |_| {}).unwrap_err();
    assert!(error.to_string().contains("cannot be opened"), "{error}");
    assert!(matches!(diff_sides(Side::Files(Vec::new()), Side::file(&a), |_| {}), Err(Error::NoFile)));
    // Nobody listens there.
    let port = keyferry_testkit::unused_port().unwrap();
    let error = diff(&a, &format!("redis://127.0.0.1:{port}"), |_| {}).unwrap_err();
    assert!(
        matches!(error, Error::Connection(_)) && error.to_string().contains(&port.to_string()),
        "{error}"
    );
}

#[test]
fn append_only_files_are_compared_if_they_are_snapshots() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let server = Server::builder(binary).append_only("no").diskless_sync(true, 0).start().unwrap();
    let mut client = server.client().unwrap();
    data::small(&mut client, 5, 2).unwrap();
    client.call(&["BGREWRITEAOF"]).unwrap();
    let rewritten = client
        .wait_until(std::time::Duration::from_secs(30), |client| {
            Ok(client.info("persistence", "aof_rewrite_in_progress")?.as_deref() == Some("0"))
        })
        .unwrap();
    assert!(rewritten);
    let log = ["appendonlydir", "appendonly.aof"].map(|name| server.dir().join(name));
    let log = log.iter().find(|path| path.exists()).unwrap().display().to_string();
    let (report, found) = diff(&log, &server.url(), |_| {}).unwrap();
    assert!(found.is_empty() && report.equal > 50, "{report}");
    client.call(&["SET", "one", "more"]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let error = diff(&log, &server.url(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Commands { .. }), "{error}");
}

/// A type that is selected is one that a key has on one side at least.
#[test]
fn a_key_of_a_chosen_type_is_looked_for_among_all_types() {
    let dir = tempfile::tempdir().unwrap();
    let list = || Value::List(vec![b"a".to_vec()]);
    let a = [
        Key::new("both", list()),
        Key::new("here", list()),
        Key::new("there", text("a")),
        Key::new("neither", text("a")),
        Key::new("only", list()),
        Key::new("other", text("a")),
    ];
    let b = [
        Key::new("both", list()),
        Key::new("here", text("bc")),
        Key::new("there", list()),
        Key::new("neither", Value::Set(vec![b"a".to_vec()])),
    ];
    let (a, b) = (write(&dir.path().join("a"), format(), &a), write(&dir.path().join("b"), format(), &b));
    let diff = |a: &std::path::Path, b: &std::path::Path| {
        let (report, found) = diff_sides(Side::file(a), Side::file(b), |options| {
            options.selection.kinds.push(keyferry_rdb::Kind::List);
            options.selection.exclude.push(KeyPattern::new(b"other").into());
        })
        .unwrap();
        let told = found.iter().map(|(_, key, kind)| format!("{} {kind}", key.escape_ascii()));
        (told.collect::<Vec<_>>().join(", "), report)
    };
    let (told, report) = diff(&a, &b);
    assert_eq!(told, "here type, only lack_target, there type");
    assert_eq!((report.source.keys, report.target.keys, report.both, report.equal), (3, 2, 3, 1), "{report}");
    let counts = [&report.source, &report.target].map(|side| (side.left_out.kind, side.left_out.excluded));
    assert_eq!(counts, [(2, 1), (2, 0)]);
    assert_eq!(diff(&b, &a).0, "here type, only lack_source, there type");
}

#[test]
fn what_is_chosen_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = vec![
        Key::new("user:1", text("a")),
        Key::new("user:2", text("a")),
        Key::new("user:tmp", text("a")),
        Key::new("other", text("a")),
        Key::new("list", Value::List(vec![b"a".to_vec()])),
    ];
    a.push(Key { db: 3, ..Key::new("user:1", text("a")) });
    let mut b = a.clone();
    for key in &mut b {
        key.value = match &key.value {
            Value::List(_) => Value::List(vec![b"b".to_vec()]),
            _ => text("b"),
        };
    }
    let (a, b) = (write(&dir.path().join("a"), format(), &a), write(&dir.path().join("b"), format(), &b));
    let chosen = |change: &dyn Fn(&mut keyferry_files::Selection)| {
        let sides = (Side::file(&a), Side::file(&b));
        let (report, found) = diff_sides(sides.0, sides.1, |options| change(&mut options.selection)).unwrap();
        assert_eq!(report.source.left_out, report.target.left_out);
        let names = found.iter().map(|(db, key, _)| format!("{db} {}", String::from_utf8_lossy(key)));
        (names.collect::<Vec<_>>().join(", "), report)
    };
    let (names, report) = chosen(&|selection| {
        selection.keys.push(KeyPattern::new(b"user:*").into());
        selection.exclude.push(KeyPattern::new(b"*:tmp").into());
    });
    assert_eq!((names.as_str(), report.source.left_out.total()), ("0 user:1, 0 user:2, 3 user:1", 3));
    assert_eq!(chosen(&|selection| selection.databases.push(3)).0, "3 user:1");
    assert_eq!(chosen(&|selection| selection.kinds.push(keyferry_rdb::Kind::List)).0, "0 list");
    let slot = keyferry_routing::slot(b"other");
    assert_eq!(chosen(&|selection| selection.slots = slot.to_string().parse().ok()).0, "0 other");
    // Nothing that was asked for is there: that is no proof of anything.
    let (names, report) = chosen(&|selection| selection.keys.push(KeyPattern::new(b"usr:*").into()));
    assert_eq!((names.as_str(), report.verdict()), ("", Verdict::NothingCompared));
    let empty = write(&dir.path().join("empty"), format(), []);
    let (report, _) = diff_sides(Side::file(&empty), Side::file(&empty), |_| {}).unwrap();
    assert_eq!(report.to_string(), "EQUAL: both sides are empty");
}

/// A hash above the size at which values come in parts.
#[test]
fn large_values_are_compared_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let fields = |other: usize| {
        let fields = (0..8000).map(|n| {
            let value = if n == other { "other".to_owned() } else { format!("value of {n}") };
            HashField::new(format!("field:{n}"), value)
        });
        vec![Key::new("hash", Value::Hash(fields.collect())), Key::new("next", text("x"))]
    };
    let (a, b) = (fields(usize::MAX), fields(7999));
    write(&dir.path().join("c.rdb"), format(), &a);
    for format in formats() {
        write(&dir.path().join("a.rdb"), format, &a);
        write(&dir.path().join("b.rdb"), format, &b);
        let parts = |options: &mut keyferry_diff::DiffOptions| options.limits.value_part = 4096;
        assert_eq!(diff(&path(&dir, "a.rdb"), &path(&dir, "c.rdb"), parts).unwrap().1, Found::new());
        let small_parts = |options: &mut keyferry_diff::DiffOptions| options.limits.value_part = 64;
        let (_, found) = diff(&path(&dir, "a.rdb"), &path(&dir, "b.rdb"), small_parts).unwrap();
        assert_eq!(found, [(0, b"hash".to_vec(), "value")].into());
    }
}

/// Real data of every server, in the formats of others: what differs is what the conversion said that it lost.
#[test]
fn conversions_are_equal_but_for_their_losses() {
    let Ok(all) = all() else { return println!("note: no server is there") };
    for (number, binary) in all.iter().enumerate() {
        let server = Server::builder(binary).diskless_sync(true, 0).start().unwrap();
        data::small(&mut server.client().unwrap(), 40 + number as u64, 2).unwrap();
        server.client().unwrap().call(&["SAVE"]).unwrap();
        let original = server.dir().join("dump.rdb");
        let (report, found) = diff(&original.display().to_string(), &server.url(), |_| {}).unwrap();
        assert!(found.is_empty() && report.equal > 50, "{}: {report}, {found:?}", binary.name);
        for name in ["redis-4.0", "redis-6.0", "redis-7.2", "redis-8.8", "valkey-9.0"] {
            let mut options = ConvertOptions::default();
            options.target = name.parse().ok();
            options.on_loss = OnLoss::Drop;
            let target = server.dir().join(format!("{name}.rdb"));
            let input = Input::open(&original, InputOptions::default()).unwrap();
            let kind = keyferry_files::OutputKind::Snapshot;
            let converted = convert(vec![input], vec![Output::path(&target, kind)], options);
            converted.result.unwrap();
            let lost: Vec<Vec<u8>> =
                converted.report.losses.iter().filter_map(|loss| loss.key.clone()).map(into_bytes).collect();
            let sides = (Side::file(&original), Side::file(&target));
            let (_, found) = diff_sides(sides.0, sides.1, |options| options.functions = false).unwrap();
            for (db, key, kind) in &found {
                assert!(
                    lost.contains(key),
                    "{} for {name}: db {db} {} {kind}, losses {:?}",
                    binary.name,
                    key.escape_ascii(),
                    converted.report.losses
                );
            }
        }
    }
}

fn into_bytes(key: impl AsRef<[u8]>) -> Vec<u8> {
    key.as_ref().to_vec()
}

#[test]
fn results_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let a = [
        Key::new("a\t\n<&\"", text("x")),
        Key { expiry: Some(5000), ..Key::new("ttl", text("x")) },
        Key::new("type", text("x")),
        Key::new("value", Value::List(vec![b"a".to_vec(), b"b".to_vec()])),
    ];
    let b = [
        Key { expiry: Some(8000), ..Key::new("ttl", text("x")) },
        Key { key: b"\xFF\x00".to_vec(), db: 2, ..Key::new("", text("xyz")) },
        Key::new("type", Value::List(vec![b"a".to_vec()])),
        Key::new("value", Value::List(vec![b"a".to_vec()])),
    ];
    let (a, b) = (write(&dir.path().join("a"), format(), &a), write(&dir.path().join("b"), format(), &b));
    let mut differences: Vec<Difference> = Vec::new();
    let report = SnapshotDiff::new(Side::file(&a), Side::file(&b)).run(&mut differences).unwrap();
    differences.sort_by(|a, b| (a.db, &a.key).cmp(&(b.db, &b.key)));

    fn all(sink: &mut impl DifferenceSink, differences: &[Difference], report: &keyferry_diff::DiffReport) {
        differences.iter().for_each(|difference| sink.difference(difference).unwrap());
        sink.finish(report).unwrap();
    }
    let mut out = Vec::new();
    all(&mut TextFile::new(&mut out), &differences, &report);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "0\tlack_target\ta\\x09\\x0a<&\"\t\n0\texpiry\tttl\t\n0\ttype\ttype\t\n0\tlack_target\tvalue\t1\n2\tlack_source\t\\xff\\x00\t\n"
    );

    let mut out = Vec::new();
    all(&mut JsonLines::new(&mut out), &differences, &report);
    let lines: Vec<serde_json::Value> = out
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        lines[1],
        serde_json::json!({ "db": 0, "key": "ttl", "difference": "expiry",
            "source": { "type": "string", "length": 1, "expires_at": 5000 },
            "target": { "type": "string", "length": 1, "expires_at": 8000 } })
    );
    assert_eq!(lines[4]["key"], "\u{FFFD}ff\u{0}");
    assert_eq!(
        (&lines[5]["verdict"], &lines[5]["report"]["differences"]["type"]),
        (&"different".into(), &1.into())
    );

    let mut out = Vec::new();
    all(&mut Junit::new(&mut out), &differences, &report);
    let xml = String::from_utf8(out).unwrap();
    assert!(xml.contains("tests=\"11\" failures=\"5\" errors=\"0\""), "{xml}");
    assert!(
        xml.contains("db 0 string &quot;a\\x09\\x0a&lt;&amp;&quot;&quot;: string of 1 bytes | none"),
        "{xml}"
    );

    let mut kept = Kept::new(2);
    all(&mut kept, &differences, &report);
    let mut out = Vec::new();
    write_table(&mut out, &report, &kept).unwrap();
    let table = String::from_utf8(out).unwrap();
    assert!(table.contains("   0  expiry        string    ttl") && table.contains("and 3 more"), "{table}");
    assert!(table.ends_with("on the target only\n"), "{table}");

    #[cfg(feature = "sqlite")]
    {
        let file = dir.path().join("result.db");
        all(&mut keyferry_diff::results::Sqlite::create(&file).unwrap(), &differences, &report);
        assert!(keyferry_diff::results::Sqlite::create(&file).is_err(), "it is there");
        let db = rusqlite::Connection::open(&file).unwrap();
        // As the documentation of redis-full-check asks.
        let mut query = db
            .prepare("select id, cast(key as blob), type, conflict_type, db, source_len, target_len from key where conflict_type = ?")
            .unwrap();
        let mut row = |kind: &str| {
            query
                .query_row([kind], |row| {
                    Ok((
                        row.get::<_, Vec<u8>>(1)?,
                        row.get::<_, String>(2)?,
                        row.get::<_, i64>(4)?,
                        row.get::<_, i64>(5)?,
                        row.get::<_, i64>(6)?,
                    ))
                })
                .unwrap()
        };
        assert_eq!(row("value"), (b"value".to_vec(), "list".to_owned(), 0, 2, 1));
        assert_eq!(row("type"), (b"type".to_vec(), "string".to_owned(), 0, 1, -1));
        assert_eq!(row("lack_source"), (b"\xFF\x00".to_vec(), "string".to_owned(), 2, 0, 3));
        assert_eq!(row("lack_target"), (b"a\t\n<&\"".to_vec(), "string".to_owned(), 0, 1, 0));
        let count = |table: &str| {
            db.query_row(&format!("select count(*) from {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
        };
        assert_eq!((count("key"), count("field"), count("FINAL_RESULT")), (5, 1, 5));
        let schema: String = db
            .query_row("select Schema from FINAL_RESULT where InconsistentType = 'lack_source'", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(schema, "2");
    }
}

/// A side that fails does not wait for a server that takes its time.
#[test]
fn one_failure_ends_both_sides() {
    let Ok(binary) = any() else { return println!("note: no server is there") };
    let server = Server::builder(binary).diskless_sync(true, 300).start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let broken = path(&dir, "broken.rdb");
    let good = fs::read(write(&dir.path().join("a.rdb"), format(), &[Key::new("a", text("b"))])).unwrap();
    fs::write(&broken, &good[..9]).unwrap();
    let begun = std::time::Instant::now();
    let error = diff(&server.url(), &broken, |_| {}).unwrap_err();
    assert!(error.to_string().contains("broken.rdb"), "{error}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}
