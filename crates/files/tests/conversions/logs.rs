//! Append-only files and commands, in and out.

use std::path::{Path, PathBuf};

use keyferry_files::convert::{ConvertOptions, convert};
use keyferry_files::{Error, Output, OutputKind};
use keyferry_routing::KeyPattern;
use keyferry_testkit::{CompareOptions, Server, ServerBinary, any, compare_with, data, judge};

use crate::support::{
    Shared, converted, failure, filled, loaded, names, open, pipe, save, servers, some_servers, target,
};

/// A server that logs, with a snapshot in front of its log and commands after it.
fn logging(binary: &ServerBinary) -> (Server, PathBuf) {
    let source = Server::builder(binary).append_only("always").start().unwrap();
    let mut client = source.client().unwrap();
    data::small(&mut client, 11, 2).unwrap();
    client.call(&["BGREWRITEAOF"]).unwrap();
    let done = client.wait_until(std::time::Duration::from_secs(20), |client| {
        let mut state = |field| client.info("persistence", field);
        Ok(state("aof_rewrite_in_progress")?.as_deref() == Some("0")
            && state("aof_rewrite_scheduled")?.as_deref() == Some("0"))
    });
    assert!(done.unwrap(), "{binary:?}");
    for (db, value) in [("0", "zero"), ("1", "one")] {
        client.call(&["SELECT", db]).unwrap();
        client.call(&["SET", "after the rewrite", value]).unwrap();
        for command in [&["MULTI"][..], &["INCR", "counter"], &["LPUSH", "in order", value], &["EXEC"]] {
            client.call(command).unwrap();
        }
    }
    client.call(&["SELECT", "0"]).unwrap();
    let log = match source.dir().join("appendonlydir") {
        dir if dir.is_dir() => dir,
        _ => source.dir().join("appendonly.aof"),
    };
    (source, log)
}

/// A server that starts with this log, which is in its directory under the usual name.
fn replaying(binary: &ServerBinary, dir: &Path) -> Server {
    Server::builder(binary).append_only("no").dir(dir).start().unwrap()
}

/// Where a server looks for its log, and of which kind it is.
fn place(binary: &ServerBinary, dir: &Path, directory: bool) -> (PathBuf, OutputKind) {
    assert!(!directory || target(binary).functions());
    match directory {
        true => (dir.join("appendonlydir"), OutputKind::LogDirectory),
        false => (dir.join("appendonly.aof"), OutputKind::Log),
    }
}

fn assert_same(binary: &ServerBinary, a: &Server, b: &Server) {
    let options = CompareOptions::default();
    let comparison = compare_with(&mut a.client().unwrap(), &mut b.client().unwrap(), &options).unwrap();
    assert!(comparison.is_equal() && comparison.keys_a > 100, "{binary:?}: {comparison}");
}

/// A snapshot becomes a log that its server loads, as one file and as a directory.
#[test]
fn snapshots_become_logs() {
    for binary in some_servers() {
        let source = filled(binary, 5, 2);
        let file = save(&source);
        for directory in [false, true] {
            if directory && !target(binary).functions() {
                let output = Output::path("nowhere/appendonlydir", OutputKind::LogDirectory);
                let done = convert(vec![open(&file, 4096)], vec![output], ConvertOptions::default());
                assert!(matches!(failure(done).1, Error::NoLogDirectory { .. }));
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let (path, kind) = place(binary, dir.path(), directory);
            let mut options = ConvertOptions::default();
            options.target = Some(target(binary));
            let report = converted(&file, Output::path(&path, kind), options);
            assert_eq!(report.keys_written, report.keys_read);
            let server = replaying(binary, dir.path());
            let mut a = source.client().unwrap();
            let judgement = judge(&mut a, &mut server.client().unwrap(), &[]).unwrap();
            assert!(judgement.is_right(), "{binary:?}, {kind}: {judgement}");
        }
    }
}

/// A log is passed on command by command, behind its snapshot.
#[test]
fn logs_become_logs() {
    for binary in some_servers() {
        let (source, log) = logging(binary);
        for directory in [false, true] {
            if directory && !target(binary).functions() {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let (path, kind) = place(binary, dir.path(), directory);
            let mut options = ConvertOptions::default();
            options.target = Some(target(binary));
            let report = converted(&log, Output::path(&path, kind), options);
            assert!(report.keys_written > 100 && report.commands >= 10, "{binary:?}: {report:?}");
            assert_same(binary, &source, &replaying(binary, dir.path()));
        }
        // And as commands, which a server gets.
        let out = Shared::default();
        let output = Output::writer("commands", out.clone(), OutputKind::Commands);
        let mut options = ConvertOptions::default();
        options.target = Some(target(binary));
        converted(&log, output, options);
        let server = Server::builder(binary).start().unwrap();
        pipe(&mut server.client().unwrap(), &out.take());
        assert_same(binary, &source, &server);
        // A snapshot would have to hold what only a server can tell.
        let dir = tempfile::tempdir().unwrap();
        let output = Output::path(dir.path().join("dump.rdb"), OutputKind::Snapshot);
        let (_, error) = failure(convert(vec![open(&log, 4096)], vec![output], ConvertOptions::default()));
        assert!(matches!(error, Error::NeedsServer { .. }), "{error}");
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

/// A log whose base holds everything is a snapshot.
#[test]
fn a_log_without_commands_becomes_a_snapshot() {
    for binary in some_servers().into_iter().filter(|binary| target(binary).functions()) {
        let source = filled(binary, 5, 2);
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("appendonlydir");
        converted(&save(&source), Output::path(&log, OutputKind::LogDirectory), ConvertOptions::default());
        let back = dir.path().join("dump.rdb");
        converted(&log, Output::path(&back, OutputKind::Snapshot), ConvertOptions::default());
        let server = loaded(binary, &back);
        let mut a = source.client().unwrap();
        let judgement = judge(&mut a, &mut server.client().unwrap(), &[]).unwrap();
        assert!(judgement.is_right(), "{binary:?}: {judgement}");
    }
}

/// Commands are chosen by their keys, and run in the databases that they are moved to.
#[test]
fn commands_are_chosen_and_moved() {
    let Ok(binary) = any() else { return };
    let (_source, log) = logging(binary);
    let out = Shared::default();
    let commands = || vec![Output::writer("commands", out.clone(), OutputKind::Commands)];
    let mut options = ConvertOptions::default();
    options.databases.add("1=4".parse().unwrap());
    options.selection.keys.push(KeyPattern::new(b"*er*").into());
    let done = convert(vec![open(&log, 4096)], commands(), options);
    done.result.unwrap();
    // The list "in order" has an "er", too; transactions stay whole.
    assert!(done.report.commands >= 10, "{:?}", done.report);
    let server = Server::builder(binary).start().unwrap();
    let mut client = server.client().unwrap();
    pipe(&mut client, &out.take());
    assert_eq!(client.text(&["GET", "counter"]).unwrap(), "1");
    client.call(&["SELECT", "4"]).unwrap();
    assert_eq!(client.text(&["GET", "after the rewrite"]).unwrap(), "one");
    assert_eq!(client.int(&["EXISTS", "string:empty"]).unwrap(), 0);

    let mut options = ConvertOptions::default();
    options.selection.exclude.push(KeyPattern::new(b"counter").into());
    let done = convert(vec![open(&log, 4096)], commands(), options);
    done.result.unwrap();
    assert_eq!(done.report.commands_left_out, 2);
    assert!(!out.take().windows(4).any(|bytes| bytes == b"INCR"));
}

/// What cannot be told is refused, with the place and the command.
#[test]
fn commands_that_cannot_be_told_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = |text: &str, set: &dyn Fn(&mut ConvertOptions)| {
        let path = dir.path().join("log.aof");
        let mut bytes = Vec::new();
        for line in text.lines() {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            keyferry_rdb::aof::append_command(&mut bytes, &args);
        }
        std::fs::write(&path, bytes).unwrap();
        let mut options = ConvertOptions::default();
        set(&mut options);
        let output = Output::writer("out", Shared::default(), OutputKind::Log);
        convert(vec![open(&path, 4096)], vec![output], options)
    };
    let refused = |text: &str, set: &dyn Fn(&mut ConvertOptions)| failure(run(text, set)).1.to_string();
    let moved = |options: &mut ConvertOptions| options.databases.add("1=0".parse().unwrap());
    let chosen = |options: &mut ConvertOptions| options.selection.keys.push(KeyPattern::new(b"a*").into());
    for (text, set, want) in [
        ("SWAPDB 0 1", &moved as &dyn Fn(&mut ConvertOptions), "names databases"),
        ("MOVE a 1", &moved, "names databases"),
        ("COPY a b DB 1", &moved, "names databases"),
        ("SET a 1\nSELECT 1\nSET a 2", &moved, "would become one"),
        ("RENAME a b", &chosen, "some of its keys"),
        ("NOSUCH a", &chosen, "unknown command"),
        ("SET a 1", &|options| options.selection.kinds.push(keyferry_rdb::Kind::String), "by type"),
    ] {
        let error = refused(text, set);
        assert!(error.contains(want) && error.contains("log.aof"), "{text}: {error}");
    }
    let done = run("SET a 1\nSET b 1\nFLUSHALL\nSELECT 1\nSET a2 1", &chosen);
    done.result.unwrap();
    assert_eq!((done.report.commands, done.report.commands_left_out), (3, 1));
    assert!(run("COPY a b", &moved).result.is_ok());
}

/// The slots of one output choose commands by their keys.
#[test]
fn commands_are_chosen_by_slot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.aof");
    let run = |commands: &[&[&[u8]]], outputs: &[&str]| {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| keyferry_rdb::aof::append_command(&mut bytes, command));
        std::fs::write(&path, bytes).unwrap();
        let out = Shared::default();
        let outputs = outputs.iter().map(|slots| {
            Output::writer("out", out.clone(), OutputKind::Log).with_slots(slots.parse().unwrap())
        });
        let done = convert(vec![open(&path, 4096)], outputs.collect(), ConvertOptions::default());
        (done, out.take())
    };
    // foo is in slot 12182, bar in 5061.
    let commands: [&[&[u8]]; 2] = [&[b"SET", b"foo", b"1"], &[b"INCR", b"bar"]];
    let (done, out) = run(&commands, &["0-8191"]);
    done.result.unwrap();
    assert_eq!(out, b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*2\r\n$4\r\nINCR\r\n$3\r\nbar\r\n");
    let (_, error) = failure(run(&commands, &["0-8191", "8192-16383"]).0);
    assert!(error.to_string().contains("a log is not divided"), "{error}");
    let (_, error) = failure(run(&[&[b"SELECT", b"2"], &[b"INCR", b"bar"]], &["0-8191"]).0);
    assert!(
        error.to_string().contains("INCR at byte 23") && error.to_string().contains("database 2"),
        "{error}"
    );
}

/// `redis-cli --pipe` takes what is made for it.
#[test]
fn redis_cli_takes_commands() {
    let cli = servers().into_iter().find_map(|binary| {
        let cli =
            binary.server.with_file_name(binary.server.file_name()?.to_str()?.replace("-server", "-cli"));
        cli.is_file().then_some((binary, cli))
    });
    let Some((binary, cli)) = cli else {
        println!("note: no redis-cli beside the servers");
        return;
    };
    let source = filled(binary, 5, 2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.resp");
    let mut options = ConvertOptions::default();
    options.target = Some(target(binary));
    converted(&save(&source), Output::path(&path, OutputKind::Commands), options);
    let server = Server::builder(binary).start().unwrap();
    let said = std::process::Command::new(cli)
        .args(["-p", &server.port().to_string(), "--pipe"])
        .stdin(std::fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && text.contains("errors: 0"), "{text}");
    let mut a = source.client().unwrap();
    let judgement = judge(&mut a, &mut server.client().unwrap(), &[]).unwrap();
    assert!(judgement.is_right(), "{judgement}");
}
