//! The programs `archive` and `restore` as they are called.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use keyferry_testkit::{
    Cluster, Server, compare,
    data::{Writer, WriterOptions, small},
    digest,
};

const PATIENCE: Duration = Duration::from_secs(240);

fn program(name: &str) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let mut command = Command::new(path.join("examples").join(name));
    command.stdin(Stdio::null());
    command
}

/// An archive that is kept until it is killed.
struct Keeper(Child);

impl Keeper {
    fn start(source: &str, dir: &Path) -> Self {
        let mut command = program("archive");
        command.args(["--source", source, "--segment-size", "64k", "--dir"]).arg(dir);
        Keeper(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn restore(dir: &Path, args: &[&str]) -> Output {
    program("restore").arg("--archive").arg(dir).args(args).output().unwrap()
}

fn text(output: &Output) -> (String, String) {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (of(&output.stdout), of(&output.stderr))
}

fn done(output: &Output) -> String {
    let (stdout, stderr) = text(output);
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

fn offset_of(server: &Server) -> u64 {
    server.client().unwrap().info("replication", "master_repl_offset").unwrap().unwrap().parse().unwrap()
}

/// True when something could be restored from it.
fn has_begun(dir: &Path) -> bool {
    let listing = restore(dir, &["--list", "--json"]).stdout;
    let listing: serde_json::Value = serde_json::from_slice(&listing).unwrap_or_default();
    listing["coverage"].as_array().is_some_and(|spans| !spans.is_empty())
}

/// Waits until everything is kept that the source has written.
fn level(dir: &Path, source: &Server) {
    let offset = offset_of(source);
    let begun = Instant::now();
    loop {
        let output = restore(dir, &["--list", "--json"]);
        let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let to = listing["coverage"].as_array().and_then(|spans| spans.last()?["to"].as_u64());
        if to.is_some_and(|to| to >= offset) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", text(&output));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start() -> Server {
    Server::builder(keyferry_testkit::any().unwrap()).diskless_sync(true, 0).start().unwrap()
}

/// Killed at random moments while the source is written to, started again with the same command: no gap, and everything comes back.
#[test]
fn an_archive_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    // The source remembers what it writes for as long as it may take until somebody comes back.
    let source = Server::builder(keyferry_testkit::any().unwrap()).config("repl-backlog-size", "64mb");
    let (source, target) = (source.diskless_sync(true, 0).start().unwrap(), start());
    small(&mut source.client().unwrap(), 5, 3).unwrap();
    let options = WriterOptions { rate: 3000, short_expiries: false, ..WriterOptions::default() };
    let writer = Writer::start(&source, options).unwrap();
    for round in 0..4u64 {
        let keeper = Keeper::start(&source.url(), &archive);
        let begun = Instant::now();
        // Without a whole snapshot there is nothing to go on with.
        while !has_begun(&archive) {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(writer.wait_for(100 + round * 300, PATIENCE));
        // By a signal that nobody can catch.
        drop(keeper);
    }
    writer.stop().unwrap();
    let keeper = Keeper::start(&source.url(), &archive);
    level(&archive, &source);
    drop(keeper);
    let mut client = source.client().unwrap();
    assert_eq!(client.info("stats", "sync_full").unwrap().unwrap(), "1");
    let listing = done(&restore(&archive, &["--list", "--verify"]));
    assert!(listing.contains("every file is as it was written") && !listing.contains("gap "), "{listing}");
    let report = done(&restore(&archive, &["--latest", "--target", &target.url(), "--json"]));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["scratch"], false);
    assert_eq!(digest(&mut client).unwrap(), digest(&mut target.client().unwrap()).unwrap());
}

#[test]
fn keys_files_histories_and_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let (source, target) = (start(), start());
    let mut client = source.client().unwrap();
    client.call(&["RPUSH", "list", "a"]).unwrap();
    let keeper = Keeper::start(&source.url(), &archive);
    let begun = Instant::now();
    while !archive.join("base-000001.rdb").exists() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    level(&archive, &source);
    client.call(&["RPUSH", "list", "b"]).unwrap();
    client.call(&["SET", "other", "1"]).unwrap();
    level(&archive, &source);
    let offset = offset_of(&source).to_string();
    client.call(&["DEL", "list"]).unwrap();
    level(&archive, &source);

    // A server of this machine carries out the commands where none is named.
    let url = source.url();
    let keys = ["--offset", &offset, "--target", &url, "--keys", "list", "--rename", "was:"];
    let report = done(&restore(&archive, &keys));
    assert!(report.contains("restored 1 keys"), "{report}");
    assert_eq!(client.int(&["LLEN", "was:list"]).unwrap(), 2);
    let again = restore(&archive, &keys);
    let (_, stderr) = text(&again);
    assert!(
        !again.status.success() && stderr.contains("was:list") && stderr.contains("--on-exists"),
        "{stderr}"
    );

    let file: PathBuf = dir.path().join("all.rdb");
    done(&restore(&archive, &["--offset", &offset, "--target", file.to_str().unwrap()]));
    let plain = dir.path().join("plain");
    done(&restore(&archive, &["--offset", &offset, "--to-dir", plain.to_str().unwrap()]));
    done(&restore(&archive, &["--offset", &offset, "--target", &target.url()]));
    let binary = keyferry_testkit::any().unwrap();
    if binary.version.at_least(7, 0) {
        let loaded = Server::builder(binary).dir(&plain).append_only("everysec").start().unwrap();
        let compared = compare(&mut loaded.client().unwrap(), &mut target.client().unwrap()).unwrap();
        assert!(compared.is_equal() && compared.keys_a == 2, "{compared}");
    }

    let history = done(&restore(&archive, &["--diff", "list"]));
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[0].contains("list of") && lines[1].ends_with("RPUSH list b"), "{history}");
    assert!(lines[2].ends_with("DEL list") && lines[3] == "2 writes", "{history}");
    let lines = done(&restore(&archive, &["--diff", "list", "--json"]));
    let first: serde_json::Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    assert!(first["came"].as_u64().unwrap() > 0 && first["what"] == "RPUSH list b", "{lines}");
    drop(keeper);

    for (args, status, says) in [
        (&["--at", "2026-11-20T03:14:15", "--target", "x.rdb"][..], 2, "zone"),
        (&["--latest"], 2, "--target"),
        (&["--latest", "--list"], 2, "cannot be used"),
        (&["--latest", "--target", "redis://:secret@host:x"], 2, "--target"),
        (&["--at", "2001-01-01T00:00:00Z", "--target", "x.rdb"], 1, "what can be restored: 20"),
    ] {
        let output = restore(&archive, args);
        let (_, stderr) = text(&output);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        assert!(stderr.contains(says) && !stderr.contains("secret"), "{args:?}: {stderr}");
    }
    // Damage is told by the exit status.
    let base = archive.join("base-000001.rdb");
    std::fs::File::options().write(true).open(&base).unwrap().set_len(20).unwrap();
    let output = restore(&archive, &["--list", "--verify"]);
    let (stdout, _) = text(&output);
    assert!(!output.status.success() && stdout.contains("DAMAGED  base-000001.rdb"), "{stdout}");
}

/// All shards of a cluster come back with one command, into another cluster or into a server, each key once, and libraries.
#[test]
fn a_cluster_comes_back_with_one_command() {
    const LIBRARY: &str = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)";
    let binary = keyferry_testkit::any().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let source =
        Cluster::builder(binary).primaries(3).config("repl-diskless-sync-delay", "0").start().unwrap();
    let has_functions = binary.version.at_least(7, 0);
    if has_functions {
        (0..3).for_each(|at| {
            drop(source.node(at).client().unwrap().call(&["FUNCTION", "LOAD", LIBRARY]).unwrap())
        });
    }
    let mut client = source.client().unwrap();
    let mut put = |from: u32| {
        for n in from..from + 200 {
            client.call(&["RPUSH", &format!("list:{}", n % 40), &n.to_string()]).unwrap();
        }
    };
    put(0);
    let keeper = Keeper::start(&source.url(), &archive);
    let shards: Vec<PathBuf> =
        (0..3).map(|at| archive.join(format!("shard-{}", source.slots(at).unwrap()[0].start()))).collect();
    let begun = Instant::now();
    while !shards.iter().all(|shard| shard.join("base-000001.rdb").exists()) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    put(200);
    (0..3).for_each(|at| level(&shards[at], source.node(at)));
    drop(keeper);
    let listing = done(&restore(&archive, &["--list", "--verify"]));
    assert_eq!(listing.matches("every file is as it was written").count(), 3, "{listing}");
    let history = done(&restore(&archive, &["--diff", "list:7"]));
    assert_eq!(history.matches("RPUSH list:7 ").count(), 5, "{history}");

    let target = Cluster::builder(binary).primaries(3).start().unwrap();
    let one = start();
    for url in [target.url(), one.url()] {
        let report = done(&restore(&archive, &["--latest", "--target", &url]));
        assert_eq!(report.matches("restored ").count(), 3, "{report}");
    }
    let mut at_one = one.client().unwrap();
    let keys: i64 = (0..3).map(|at| target.node(at).client().unwrap().int(&["DBSIZE"]).unwrap()).sum();
    assert_eq!((keys, at_one.int(&["DBSIZE"]).unwrap()), (40, 40));
    for n in 0..40 {
        let key = format!("list:{n}");
        let wanted = items(&mut source.client().unwrap(), &key);
        assert_eq!(wanted.len(), 10);
        assert_eq!(items(&mut target.client().unwrap(), &key), wanted, "{key}");
        let reply = at_one.call(&["LRANGE", &key, "0", "-1"]).unwrap();
        assert_eq!(reply.as_array().unwrap().len(), 10, "{key}");
    }
    if has_functions {
        assert_eq!(at_one.call(&["FUNCTION", "LIST"]).unwrap().as_array().unwrap().len(), 1);
    }
    for (args, says) in [
        (&["--latest", "--target", "x.rdb"][..], "to files one by one"),
        (&["--offset", "100", "--target", "redis://127.0.0.1:1"], "offsets of its own"),
    ] {
        let output = restore(&archive, args);
        let (_, stderr) = text(&output);
        assert!(!output.status.success() && stderr.contains(says), "{stderr}");
    }
}

fn items(client: &mut keyferry_testkit::ClusterClient, key: &str) -> Vec<String> {
    let reply = client.call(&["LRANGE", key, "0", "-1"]).unwrap();
    reply.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// A target that takes nothing for a while: why it does not go on is said, and no value with it.
#[test]
fn a_target_that_is_full_is_told_of() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let (source, target) = (start(), start());
    let mut client = source.client().unwrap();
    (0..2000).for_each(|number| {
        client.call(&["SET", &format!("key:{number}"), &"topsecret".repeat(200)]).unwrap();
    });
    let keeper = Keeper::start(&source.url(), &archive);
    let begun = Instant::now();
    while !has_begun(&archive) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(keeper);
    let used: u64 = target.client().unwrap().info("memory", "used_memory").unwrap().unwrap().parse().unwrap();
    let room = |bytes: u64| {
        target.client().unwrap().call(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]).unwrap();
    };
    room(used + (1 << 20));
    let mut command = program("restore");
    command.arg("--archive").arg(&archive).args(["--latest", "--target", &target.url()]);
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(running.stderr.take().unwrap()).lines();
    let mut said = String::new();
    for line in lines.map_while(Result::ok) {
        said.push_str(&line);
        if line.contains("trying again: ") {
            assert!(line.contains("OOM") && line.contains(" key:"), "{line}");
            room(0);
        }
    }
    assert!(running.wait().unwrap().success(), "{said}");
    assert!(said.contains("trying again: ") && !said.contains("secret"), "{said}");
    assert_eq!(target.client().unwrap().int(&["DBSIZE"]).unwrap(), 2000);
}
