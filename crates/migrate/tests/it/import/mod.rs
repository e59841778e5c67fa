//! Files as the source: every kind of file, made by real servers and by migrations, into a server and into a cluster.

mod damage;
mod letters;
mod logs;
mod resume;

use std::{
    fs,
    path::{Path, PathBuf},
};

use keyferry_migrate::{FileKind, Finished, Migration, Options, Outcome};
use keyferry_testkit::{
    CompareOptions, Server, ServerBinary, Side, compare_sides,
    data::{self, Writer, WriterOptions},
};
use tokio::task::block_in_place;

use crate::{
    clusters::ends::End,
    support::{PATIENCE, bookkeeping, start, temporary_keys},
};

/// Imports files to their end.
async fn import(files: &[&Path], target: &str, options: impl FnOnce(&mut Options)) -> Finished {
    let files = files.iter().map(|path| path.to_path_buf()).collect();
    let mut migration = Migration::from_files(files, target.parse().unwrap());
    options(migration.options_mut());
    tokio::time::timeout(PATIENCE, migration.run()).await.expect("an end in time")
}

/// The same, which has to succeed.
async fn imported(files: &[&Path], target: &str, options: impl FnOnce(&mut Options)) -> Finished {
    let finished = import(files, target, options).await;
    assert!(finished.result.is_ok(), "{:?}", finished.result);
    assert_eq!(finished.report.outcome, Outcome::CaughtUp { source_was_writing: false });
    let input = finished.report.figures.input.unwrap();
    assert_eq!(input.total.unwrap_or(input.applied), input.applied, "{:?}", finished.report.figures);
    finished
}

/// Both hold the same, and the target nothing of ours.
fn assert_same(source: &Server, target: &End, what: &str) {
    let options = CompareOptions::default().without_bookkeeping();
    let compared = compare_sides(Side::server(source).unwrap(), target.side(), &options).unwrap();
    assert!(compared.is_equal() && compared.keys_a > 0, "{what}: {compared}");
    if let End::Server(target) = target {
        assert_eq!((bookkeeping(target), temporary_keys(target)), (0, 0), "{what}");
    }
}

/// A snapshot of everything that the server holds.
fn snapshot(server: &Server) -> PathBuf {
    server.client().unwrap().call(&["SAVE"]).unwrap();
    server.dir().join("dump.rdb")
}

/// A server that logs what it does, was written to for a while, made its log anew in the midst of that, and was written to
/// again.
fn logging(binary: &ServerBinary, options: WriterOptions, preamble: bool, writes: u64) -> Server {
    let server = Server::builder(binary)
        .append_only("always")
        .config("aof-use-rdb-preamble", if preamble { "yes" } else { "no" })
        .config("auto-aof-rewrite-percentage", "0")
        .start()
        .unwrap();
    let mut client = server.client().unwrap();
    data::small(&mut client, 5, options.databases).unwrap();
    for rewrite in [true, false] {
        let writer = Writer::start(&server, options.clone()).unwrap();
        assert!(writer.wait_for(writes, PATIENCE), "no writes in time");
        if rewrite {
            client.call(&["BGREWRITEAOF"]).unwrap();
        }
        let counts = writer.stop().unwrap();
        assert_eq!(counts.errors, 0, "{:?}", counts.first_error);
        let done = client.wait_until(PATIENCE, |client| {
            let is = |client: &mut keyferry_testkit::Client, name: &str| {
                Ok::<_, keyferry_testkit::Error>(client.info("persistence", name)?.as_deref() == Some("0"))
            };
            Ok(is(client, "aof_rewrite_in_progress")? && is(client, "aof_rewrite_scheduled")?)
        });
        assert!(done.unwrap(), "no log in time");
    }
    data::settle(&mut client).unwrap();
    if !preamble {
        // Pending entries that were deleted from their stream are not in the commands that servers write for it.
        client.call(&["DEBUG", "LOADAOF"]).unwrap();
    }
    server
}

/// The log of a server as a directory, for servers from 7.0 on, or as one file.
fn log_of(server: &Server) -> PathBuf {
    match server.binary().version.at_least(7, 0) {
        true => server.dir().join("appendonlydir"),
        false => server.dir().join("appendonly.aof"),
    }
}

/// The log of a server in one file, as servers before 7.0 have it: the base, with all that follows behind it.
fn one_file(server: &Server, at: &Path) -> PathBuf {
    let path = at.join("one.aof");
    let parts = keyferry_rdb::aof::files(&log_of(server)).unwrap();
    let bytes: Vec<u8> = parts.iter().flat_map(|part| fs::read(part).unwrap()).collect();
    fs::write(&path, bytes).unwrap();
    path
}

/// What is written to a server.
fn writes(databases: u32) -> WriterOptions {
    WriterOptions { databases, rate: 20_000, multi_key: true, ..WriterOptions::default() }
}

/// Targets of both kinds, and how many databases they take.
fn targets(binary: &ServerBinary) -> [(End, u32); 2] {
    [(End::server(binary), 3), (End::cluster(binary, 0), 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots() {
    for binary in block_in_place(|| keyferry_testkit::all().unwrap().iter().step_by(3)) {
        for (target, databases) in block_in_place(|| targets(binary)) {
            let (source, file) = block_in_place(|| {
                let source = start(binary);
                let mut client = source.client().unwrap();
                data::small(&mut client, 7, databases).unwrap();
                // Built in parts.
                data::big(&mut client, 7, "big", data::Shape::Hash, 3 << 20).unwrap();
                let file = snapshot(&source);
                (source, file)
            });
            let finished = imported(&[&file], &target.url(), |o| o.value_limit = 64 << 10).await;
            let report = &finished.report;
            assert_eq!(report.files[0].kind, FileKind::Snapshot);
            assert_eq!(report.files[0].bytes, fs::metadata(&file).unwrap().len());
            assert_eq!(report.figures.keys_applied, report.snapshot.total_keys());
            assert!(report.snapshot.large > 0 && report.expiry.held_in_snapshot == 0, "{report:?}");
            block_in_place(|| assert_same(&source, &target, &binary.name));
        }
    }
}

/// Several files come one after the other, and what a later one holds replaces what an earlier one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_files() {
    let binary = keyferry_testkit::any().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (source, first, second) = block_in_place(|| {
        let source = start(binary);
        let mut client = source.client().unwrap();
        data::small(&mut client, 7, 1).unwrap();
        client.call(&["RPUSH", "list", "a", "b"]).unwrap();
        let first = dir.path().join("first.rdb");
        fs::copy(snapshot(&source), &first).unwrap();
        client.call(&["DEL", "list"]).unwrap();
        client.call(&["RPUSH", "list", "c"]).unwrap();
        let second = snapshot(&source);
        (source, first, second)
    });
    let log = dir.path().join("more.resp");
    fs::write(&log, "*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$1\r\nd\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n").unwrap();
    for (target, _) in block_in_place(|| targets(binary)) {
        let finished = imported(&[&first, &second, &log], &target.url(), |_| {}).await;
        let report = &finished.report;
        let kinds: Vec<FileKind> = report.files.iter().map(|file| file.kind).collect();
        assert_eq!(kinds, [FileKind::Snapshot, FileKind::Snapshot, FileKind::Log]);
        assert_eq!((report.files[2].commands, report.figures.commands_applied), (2, 2));
        assert_eq!(report.figures.links.len(), 3);
        let again: Vec<_> = block_in_place(|| {
            let mut client = source.client().unwrap();
            let commands: [&[&str]; 2] = [&["RPUSH", "list", "d"], &["INCR", "n"]];
            client.pipe(&commands).unwrap();
            assert_same(&source, &target, "several files");
            client.call(&["DEL", "n"]).unwrap();
            client.list(&["RPOP", "list", "1"]).unwrap()
        });
        assert_eq!(again[0].as_str(), Some("d"));
    }
}
