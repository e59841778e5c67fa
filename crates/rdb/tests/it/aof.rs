//! Append-only files: real ones, generated ones in any cutting, damaged ones, and directories.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use keyferry_rdb::aof::{
    self, AofEvent, AofParser, AofWriter, DamageKind, ReadOptions, Summary, Tail, append_command,
};
use keyferry_rdb::{EntryHead, Error, Event, Limits, TargetFormat, Value, ValueType};
use proptest::prelude::*;

use crate::support::corpus_dir;

/// An event that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Key(Vec<u8>),
    Command { db: u64, offset: u64, in_transaction: bool, args: Vec<Vec<u8>> },
    Timestamp(i64),
    Annotation(Vec<u8>),
}

fn seen(event: AofEvent<'_>) -> Option<Seen> {
    match event {
        AofEvent::Snapshot(Event::Entry(entry)) => Some(Seen::Key(entry.head.key.to_vec())),
        AofEvent::Command(command) => {
            let args: Vec<_> = command.args().map(<[u8]>::to_vec).collect();
            let mut again = Vec::new();
            append_command(&mut again, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
            assert_eq!(command.raw(), again);
            let (db, offset, in_transaction) = (command.db, command.offset, command.in_transaction);
            Some(Seen::Command { db, offset, in_transaction, args })
        }
        AofEvent::Timestamp { seconds, .. } => Some(Seen::Timestamp(seconds)),
        AofEvent::Annotation { text, .. } => Some(Seen::Annotation(text.to_vec())),
        _ => None,
    }
}

struct Outcome {
    events: Vec<Seen>,
    good: u64,
    result: Result<(), Error>,
}

fn parse(bytes: &[u8], sizes: &[usize]) -> Outcome {
    let mut parser = AofParser::new();
    let mut events = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().cycle();
    let result = loop {
        match parser.next_event() {
            Ok(Some(event)) => {
                events.extend(seen(event));
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                assert_eq!(parser.next_event().unwrap_err(), error, "an error stays");
                break Err(error);
            }
        }
        if rest.is_empty() {
            break parser.end_of_input();
        }
        let size = (*sizes.next().unwrap()).clamp(1, rest.len());
        parser.feed(&rest[..size]);
        rest = &rest[size..];
    };
    Outcome { events, good: parser.good_offset(), result }
}

fn whole(bytes: &[u8]) -> Outcome {
    parse(bytes, &[usize::MAX])
}

fn log(commands: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for command in commands {
        if command.starts_with('#') {
            out.extend_from_slice(command.as_bytes());
            out.extend_from_slice(b"\r\n");
        } else {
            append_command(&mut out, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
    }
    out
}

fn texts(events: &[Seen]) -> Vec<String> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    events
        .iter()
        .map(|event| match event {
            Seen::Key(key) => format!("key {}", text(key)),
            Seen::Command { db, args, in_transaction, .. } => {
                let args: Vec<_> = args.iter().map(|arg| text(arg)).collect();
                format!("{db}{} {}", if *in_transaction { "!" } else { "" }, args.join(" "))
            }
            Seen::Timestamp(seconds) => format!("at {seconds}"),
            Seen::Annotation(line) => text(line),
        })
        .collect()
}

#[test]
fn databases_transactions_and_annotations() {
    let bytes =
        log(&["SET a 1", "select 5", "#TS:77", "multi", "SET b 2", "SELECT 1", "EXEC", "#own note", "DEL a"]);
    let outcome = whole(&bytes);
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(
        texts(&outcome.events),
        [
            "0 SET a 1",
            "5 select 5",
            "at 77",
            "5! multi",
            "5! SET b 2",
            "1! SELECT 1",
            "1! EXEC",
            "#own note",
            "1 DEL a"
        ]
    );
    let Seen::Command { offset, .. } = &outcome.events[1] else { panic!() };
    assert_eq!(&bytes[*offset as usize..][..4], b"*2\r\n");
    assert_eq!(outcome.good, bytes.len() as u64);
}

#[test]
fn what_is_no_command_is_refused_where_it_stands() {
    let good = log(&["SET a 1"]);
    for (bytes, at, what) in [
        (&b"\0\0\0\0"[..], 0, "no command starts here"),
        (b"PING\r\n", 0, "no command starts here"),
        (b"*0\r\n", 0, "a command has no name"),
        (b"*-1\r\n", 0, "no command starts here"),
        (b"*\r\n", 0, "no command starts here"),
        (b"*1\n$4\nPING\n", 0, "a line does not end with CR LF"),
        (b"*1\r\n:4\r\n", 4, "an argument does not start with its length"),
        (b"*1\r\n$4\r\nPINGxx", 12, "an argument does not end with CR LF"),
        (b"*1\r\n$-1\r\n", 4, "an argument does not start with its length"),
        (b"*1\r\n$4\r\nEXEC\r\n", 0, "a transaction ends that did not begin"),
        (b"*1\r\n$6\r\nSELECT\r\n", 0, "SELECT names no database"),
        (b"#TS:soon\r\n", 0, "a time annotation holds no number"),
        (b"*99999999999999999999999999\r\n", 0, "no command starts here"),
    ] {
        let outcome = whole(&[&good, bytes].concat());
        let Err(Error::Corrupt { offset, what: found, .. }) = outcome.result else {
            panic!("{}: {:?}", bytes.escape_ascii(), outcome.result)
        };
        assert_eq!((offset - good.len() as u64, found), (at, what), "{}", bytes.escape_ascii());
        assert_eq!(outcome.good, good.len() as u64);
    }
    for claim in [&b"*1\r\n$99999999999\r\n"[..], b"*99999999999\r\n"] {
        assert!(matches!(whole(claim).result, Err(Error::LimitExceeded { .. })));
    }
    let mut limits = Limits::default();
    limits.command = 100;
    let mut parser = AofParser::with_limits(limits);
    parser.feed(b"*2\r\n$60\r\n");
    parser.feed(&[b'x'; 60]);
    parser.feed(b"\r\n$60\r\n");
    assert!(matches!(parser.next_event(), Err(Error::LimitExceeded { what: "length of a command", .. })));
}

#[test]
fn real_files() {
    let Some(dir) = corpus_dir() else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(dir.join("aof")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let outcome = whole(&bytes);
        assert_eq!(outcome.result, Ok(()), "{}", path.display());
        let commands = outcome.events.iter().filter(|event| matches!(event, Seen::Command { .. })).count();
        let starts =
            bytes.windows(3).filter(|b| b[0] == b'\n' && b[1] == b'*' && b[2].is_ascii_digit()).count();
        assert!(commands > 0 && commands <= starts + 1, "{}: {commands}", path.display());
        assert_eq!(parse(&bytes, &[1]).events, outcome.events, "{}", path.display());
        let stamps = outcome.events.iter().filter(|event| matches!(event, Seen::Timestamp(_))).count();
        assert_eq!(stamps > 0, path.to_string_lossy().contains("with-ts"), "{}", path.display());
        let snapshot = path.to_string_lossy().contains("preamble");
        assert_eq!(matches!(outcome.events[0], Seen::Key(_)), snapshot, "{}", path.display());
        count += 1;
    }
    for name in ["redis-7.2.6.appendonlydir", "redis-8.8dev.appendonlydir", "valkey-9.1.0.appendonlydir"] {
        let (summary, events) = read(&dir.join("server-made").join(name), &ReadOptions::default()).unwrap();
        assert!(summary.files.len() >= 2, "{name}");
        assert!(events.iter().any(|event| matches!(event, Seen::Key(_))) || summary.commands > 20, "{name}");
        count += 1;
    }
    assert_eq!(count, 8);
}

fn read(path: &Path, options: &ReadOptions) -> Result<(Summary, Vec<Seen>), Error> {
    let mut events = Vec::new();
    let summary = aof::read(path, options, |_, event| {
        events.extend(seen(event));
        ControlFlow::Continue(())
    })?;
    Ok((summary, events))
}

fn options(tail: Tail, until: Option<i64>) -> ReadOptions {
    let mut options = ReadOptions::default();
    (options.tail, options.until) = (tail, until);
    options
}

/// A directory that is removed with this value.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("keyferry-aof-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn damaged_tails() {
    let dir = Dir::new("tails");
    let path = dir.0.join("log.aof");
    let good = log(&["SET a 1", "SET b 2"]);
    let size = good.len() as u64;
    let open = log(&["MULTI", "SET c 3"]);
    for (tail, kind, in_between) in [
        (&b"*2\r\n$3\r\nDEL\r\n$1"[..], DamageKind::Short, 2),
        (&open[..], DamageKind::OpenTransaction, 4),
        (&[&open[..], b"*1"].concat(), DamageKind::Short, 4),
        (&[0; 100], DamageKind::Garbage, 2),
    ] {
        let bytes = [&good, tail].concat();
        std::fs::write(&path, &bytes).unwrap();
        let error = read(&path, &options(Tail::Error, None)).unwrap_err();
        assert!(matches!(&error, Error::InFile { file, .. } if **file == *path), "{error}");
        let stopped = read(&path, &options(Tail::Stop, None));
        if kind == DamageKind::Garbage {
            assert_eq!(stopped.unwrap_err().offset(), size);
        } else {
            let (summary, events) = stopped.unwrap();
            assert_eq!(events.len(), in_between);
            assert_eq!(summary.in_transaction, in_between > 2);
            let damage = summary.damage.unwrap();
            assert_eq!((damage.kind, damage.good_offset, damage.size), (kind, size, bytes.len() as u64));
        }
        let (summary, events) = read(&path, &options(Tail::Repair, None)).unwrap();
        assert_eq!(texts(&events), ["0 SET a 1", "0 SET b 2"]);
        assert!(!summary.in_transaction);
        let damage = summary.damage.unwrap();
        assert_eq!((damage.kind, damage.good_offset), (kind, size));
        // The file is as it was, and good when it is cut there.
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(whole(&bytes[..damage.good_offset as usize]).result, Ok(()));
    }
    std::fs::write(&path, b"").unwrap();
    assert_eq!(read(&path, &ReadOptions::default()).unwrap().0.commands, 0);
    // A snapshot that is cut short is not passed over.
    std::fs::write(&path, b"REDIS0009\xFA").unwrap();
    for tail in [Tail::Error, Tail::Stop, Tail::Repair] {
        assert!(read(&path, &options(tail, None)).is_err());
    }
}

fn sample(dir: &Path) -> AofWriter {
    let mut writer = AofWriter::create_with_base(dir, "log.aof", TargetFormat::redis(7, 0), |base| {
        let head = EntryHead::new(2, b"base", ValueType::String);
        base.value(&head, &Value::String(b"1".to_vec())).map(drop)
    })
    .unwrap();
    writer.timestamp(100).unwrap();
    writer.command(0, &[b"SET", b"a", b"1"]).unwrap();
    writer.command(0, &[b"SELECT", b"0"]).unwrap();
    writer.timestamp(100).unwrap();
    writer.rotate().unwrap();
    writer.timestamp(101).unwrap();
    writer.command(3, &[b"SET", b"b", b"\r\n\0"]).unwrap();
    writer.timestamp(102).unwrap();
    writer.command(3, &[b"MULTI"]).unwrap();
    assert!(matches!(writer.rotate(), Err(Error::OpenTransaction { .. })));
    writer.timestamp(103).unwrap();
    writer.command(3, &[b"DEL", b"a"]).unwrap();
    writer.command(3, &[b"EXEC"]).unwrap();
    writer
}

#[test]
fn directories_are_written_and_read() {
    let dir = Dir::new("directory");
    let manifest = sample(&dir.0).finish().unwrap();
    assert_eq!(
        manifest.to_bytes().escape_ascii().to_string().replace("\\n", "|"),
        "file log.aof.1.base.rdb seq 1 type b|file log.aof.1.incr.aof seq 1 type i|file log.aof.2.incr.aof seq 2 type i|"
    );
    let want = [
        "key base",
        "at 100",
        "0 SELECT 0",
        "0 SET a 1",
        "at 101",
        "3 SELECT 3",
        "3 SET b \\r\\n\\x00",
        "at 102",
        "3! MULTI",
        "3! DEL a",
        "3! EXEC",
    ];
    for path in [dir.0.clone(), dir.0.join("log.aof.manifest")] {
        let (summary, events) = read(&path, &ReadOptions::default()).unwrap();
        assert_eq!(texts(&events), want);
        assert_eq!((summary.files.len(), summary.commands, summary.stopped_before), (3, 7, None));
    }
    // Up to a time, that second included.
    let until = |until| {
        let (summary, events) = read(&dir.0, &options(Tail::Error, Some(until))).unwrap();
        (summary.stopped_before, events.len())
    };
    assert_eq!(until(99), (Some(100), 1));
    assert_eq!(until(100), (Some(101), 4));
    assert_eq!(until(101), (Some(102), 7));
    assert_eq!(until(102), (None, 11));
    // Whoever looks may end it.
    let mut shown = 0;
    let summary = aof::read(&dir.0, &ReadOptions::default(), |_, _| {
        shown += 1;
        ControlFlow::Break(())
    });
    assert_eq!((shown, summary.unwrap().files.len()), (1, 1));

    // Only the last file may be damaged.
    let first = dir.0.join("log.aof.1.incr.aof");
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&first, &bytes[..bytes.len() - 1]).unwrap();
    assert!(
        matches!(read(&dir.0, &options(Tail::Repair, None)), Err(Error::InFile { file, .. }) if *file == *first)
    );
    std::fs::remove_file(&first).unwrap();
    let missing = read(&dir.0, &options(Tail::Stop, None)).unwrap_err();
    assert!(missing.to_string().contains("log.aof.1.incr.aof"), "{missing}");

    assert!(AofWriter::create(&dir.0, "log.aof").is_err(), "there is one already");
    assert!(AofWriter::create(&dir.0, "../log.aof").is_err());
    AofWriter::create(&dir.0, "second.aof").unwrap().finish().unwrap();
    assert!(read(&dir.0, &ReadOptions::default()).is_err(), "two manifests");
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name = prop::sample::select(vec!["SET", "DEL", "select", "MULTI", "EXEC"]);
    (name, prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..6), 0u64..20).prop_map(
        |(name, mut args, db)| {
            if name == "select" {
                args = vec![db.to_string().into_bytes()];
            }
            args.insert(0, name.as_bytes().to_vec());
            args
        },
    )
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same(
        commands in prop::collection::vec(command(), 0..20),
        sizes in prop::collection::vec(1usize..100, 1..10),
        cut in any::<prop::sample::Index>(),
        snapshot in any::<bool>(),
    ) {
        let mut bytes = if snapshot { b"REDIS0003\xFE\x00\x00\x01a\x05hello\xFF".to_vec() } else { Vec::new() };
        for command in &commands {
            append_command(&mut bytes, &command.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let bytes = &bytes[..cut.index(bytes.len() + 1)];
        let outcome = whole(bytes);
        let parts = parse(bytes, &sizes);
        prop_assert_eq!(&parts.events, &outcome.events);
        prop_assert_eq!(parts.good, outcome.good);
        prop_assert_eq!(&parts.result, &outcome.result);
        // What is said to be good is.
        let good = whole(&bytes[..outcome.good as usize]);
        prop_assert!(good.result.is_ok() || outcome.good == 0, "{:?}", good.result);
        if outcome.result.is_ok() && !snapshot {
            let found = outcome.events.iter().map(|event| match event {
                Seen::Command { args, .. } => args.clone(),
                other => panic!("{other:?}"),
            });
            prop_assert!(commands.iter().take(outcome.events.len()).cloned().eq(found));
        }
    }

    #[test]
    fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(prop::sample::select(b"*$#19\r\nA".to_vec()), 0..60)) {
        let outcome = whole(&bytes);
        prop_assert_eq!(parse(&bytes, &[1]).result, outcome.result);
        prop_assert!(outcome.good <= bytes.len() as u64);
    }
}
