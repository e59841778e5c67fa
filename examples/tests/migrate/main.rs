//! The program `migrate` as its users see it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod existing;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyferry_testkit::{
    Direction, Proxy, Rng, Server, compare,
    data::{self, Writer, WriterOptions},
    process,
};

/// The program, built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/migrate")
}

/// A running program, which does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn migrate(args: &[&str]) -> Running {
    let mut command = Command::new(program());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Running(command.spawn().unwrap())
}

fn has_base(journal: &Path) -> bool {
    let files = std::fs::read_dir(journal.join("appendonlydir")).into_iter().flatten().flatten();
    files.map(|file| file.file_name()).any(|name| name.to_string_lossy().ends_with("1.base.rdb"))
}

/// Starts the program with a journal, and kills it at a random moment of the full phase.
fn kill_in_the_full_phase(args: &[&str], journal: &Path, rng: &mut Rng) {
    // It does not come to the end of the snapshot before.
    let mut running = migrate(&[args, &["--limit-full-keys", "1000"]].concat());
    until("a snapshot", &mut running, || has_base(journal));
    std::thread::sleep(Duration::from_millis(rng.below(300)));
    // SIGKILL. As long as the snapshot is there it had not been applied.
    drop(running);
    assert!(has_base(journal), "too quick: {args:?}");
}

/// Waits for something that a running program does, or lets happen.
fn until(what: &str, running: &mut Running, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "no {what} in time");
        assert!(running.0.try_wait().unwrap().is_none(), "it ended before there was {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Longer than any step here should take.
const PATIENCE: Duration = Duration::from_secs(240);

fn offset_of(client: &mut keyferry_testkit::Client) -> u64 {
    client.info("replication", "master_repl_offset").unwrap().unwrap().parse().unwrap()
}

fn full_syncs(source: &Server) -> String {
    source.client().unwrap().info("stats", "sync_full").unwrap().unwrap()
}

/// Killed at random moments of the full phase: the source sends no second snapshot, and nothing is lost.
#[test]
fn a_program_that_is_killed_in_the_full_phase_is_gone_on_with() {
    let start = || {
        let binary = keyferry_testkit::any().unwrap();
        // It remembers what it writes for as long as it may take until somebody comes back.
        Server::builder(binary).diskless_sync(true, 0).config("repl-backlog-size", "64mb").start().unwrap()
    };
    let (source, target) = (start(), start());
    data::small(&mut source.client().unwrap(), 3, 2).unwrap();
    data::tiny_keys(&mut source.client().unwrap(), 1, 40_000).unwrap();
    let to_target = Proxy::start(target.addr()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let (from, to, at) =
        (source.url(), format!("redis://{}", to_target.addr()), journal.display().to_string());
    let args = ["--source", &from, "--target", &to, "--journal", &at, "--until", "caught-up"];
    let writer = Writer::start(&source, WriterOptions { rate: 1000, ..WriterOptions::default() }).unwrap();
    let mut rng = Rng::new(3);
    for _ in 0..4 {
        kill_in_the_full_phase(&args, &journal, &mut rng);
        assert_eq!(full_syncs(&source), "1");
    }
    writer.stop().unwrap();
    data::settle(&mut source.client().unwrap()).unwrap();
    let mut running = migrate(&args);
    let status = running.0.wait().unwrap();
    assert!(status.success(), "{status}");
    let result = compare(&mut source.client().unwrap(), &mut target.client().unwrap()).unwrap();
    assert!(result.is_equal() && result.keys_a > 40_000, "{result}");
}

/// Bytes of the command stream in the journal.
fn stream_bytes(journal: &Path) -> u64 {
    let files = std::fs::read_dir(journal.join("appendonlydir")).into_iter().flatten().flatten();
    let stream = files.filter(|file| file.file_name().to_string_lossy().ends_with(".incr.aof"));
    stream.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum()
}

/// Killed while the target is behind by more than the source remembers: the journal has it, and the source sends no second
/// snapshot.
#[test]
fn a_program_that_is_killed_while_the_target_is_behind_is_gone_on_with() {
    const BEHIND: u64 = 8 << 20;
    let start = || {
        let binary = keyferry_testkit::any().unwrap();
        // No more than servers remember by default.
        Server::builder(binary).config("repl-backlog-size", "1mb").diskless_sync(true, 0).start().unwrap()
    };
    let (source, target) = (start(), start());
    let mut client = source.client().unwrap();
    data::small(&mut client, 3, 2).unwrap();
    let to_target = Proxy::start(target.addr()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let (from, to, at) =
        (source.url(), format!("redis://{}", to_target.addr()), journal.display().to_string());
    let sides = ["--source", &from, "--target", &to, "--journal", &at, "--until"];
    let value = "v".repeat(2000);
    let mut total = 0;
    for round in 0..3 {
        let mut running = migrate(&[&sides[..], &["forever"]].concat());
        let mut at_target = target.client().unwrap();
        client.call(&["SET", "round", &round.to_string()]).unwrap();
        let come = at_target.wait_until(PATIENCE, |at_target| {
            Ok(at_target.bytes(&["GET", "round"])?.as_deref() == Some(round.to_string().as_bytes()))
        });
        assert!(come.unwrap(), "round {round}");
        to_target.stall(Direction::FromTarget, true);
        to_target.stall(Direction::ToTarget, true);
        let begun = Instant::now();
        let (kept, at) = (stream_bytes(&journal), offset_of(&mut client));
        while stream_bytes(&journal) < BEHIND {
            assert!(begun.elapsed() < PATIENCE, "{} bytes", stream_bytes(&journal));
            assert!(running.0.try_wait().unwrap().is_none(), "it ended in round {round}");
            for _ in 0..100 {
                client.queue(&["RPUSH", "list", &format!("{total}:{value}")]).unwrap();
                client.queue(&["INCR", "counter"]).unwrap();
                total += 1;
            }
            client.flush().unwrap();
            client.replies(200).unwrap();
        }
        // What is on its way to the program is remembered by nobody but for the last megabyte.
        let written = offset_of(&mut client) - at;
        while stream_bytes(&journal) + 700_000 < kept + written {
            assert!(begun.elapsed() < PATIENCE, "{} of {written} bytes", stream_bytes(&journal) - kept);
            std::thread::sleep(Duration::from_millis(5));
        }
        // SIGKILL.
        drop(running);
        to_target.cut();
        to_target.stall(Direction::FromTarget, false);
        to_target.stall(Direction::ToTarget, false);
    }
    let mut running = migrate(&[&sides[..], &["caught-up"]].concat());
    let status = running.0.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(full_syncs(&source), "1");
    let mut at_target = target.client().unwrap();
    assert_eq!(at_target.int(&["LLEN", "list"]).unwrap(), total);
    let result = compare(&mut client, &mut at_target).unwrap();
    assert!(result.is_equal() && result.keys_a > 100, "{result}");
    assert_eq!(stream_bytes(&journal), 0);
}

/// Killed while it catches up with much at once: of what is blind, some has been carried out ahead of its transaction.
#[test]
fn a_program_that_is_killed_while_it_catches_up_repeats_nothing() {
    const KEYS: u64 = 40;
    let binary = keyferry_testkit::any().unwrap();
    let source = Server::builder(binary).config("repl-backlog-size", "256mb").start().unwrap();
    let target = Server::builder(binary).start().unwrap();
    let (mut client, mut at_target) = (source.client().unwrap(), target.client().unwrap());
    let (from, to) = (source.url(), target.url());
    let sides = ["--source", &from, "--target", &to, "--until"];
    let mut rng = Rng::new(17);
    for round in 0..6 {
        let running = migrate(&[&sides[..], &["forever"]].concat());
        client.call(&["SET", "round", &round.to_string()]).unwrap();
        let come = at_target.wait_until(PATIENCE, |at_target| {
            Ok(at_target.bytes(&["GET", "round"])?.as_deref() == Some(round.to_string().as_bytes()))
        });
        assert!(come.unwrap(), "round {round}");
        // While it stands still, the source has it all ready.
        process::signal(running.0.id(), "STOP").unwrap();
        for n in 0..60 {
            for _ in 0..500 {
                let (key, other) = (rng.below(KEYS).to_string(), rng.below(KEYS).to_string());
                let (value, field) = (rng.below(1000).to_string(), rng.below(9).to_string());
                // The same keys by both kinds of writes, and of changing types.
                match rng.below(20) {
                    0 => client.queue(&["INCR", &format!("n:{key}")]),
                    1 => client.queue(&["APPEND", &format!("a:{key}"), &value]),
                    2 => client.queue(&["RPUSH", &format!("l:{key}"), &value]),
                    3 => client.queue(&["HINCRBY", &format!("h:{key}"), &field, "1"]),
                    4 => client.queue(&["RENAME", &format!("t:{key}"), &format!("t:{other}")]),
                    5 => client.queue(&["DEL", &format!("t:{key}"), &format!("a:{other}")]),
                    6 => client.queue(&["HSET", &format!("t:{key}"), &field, &value]),
                    7 => client.queue(&["SADD", &format!("t:{key}"), &value]),
                    8..12 => client.queue(&["HSET", &format!("h:{key}"), &field, &value]),
                    12..14 => client.queue(&["SET", &format!("n:{key}"), &value]),
                    14 => client.queue(&["SET", &format!("t:{key}"), &value]),
                    15 => client.queue(&["ZADD", &format!("z:{key}"), &value, &field]),
                    _ => client.queue(&["SET", &format!("b:{key}"), &value]),
                }
                .unwrap();
            }
            client.flush().unwrap();
            // Some are refused, as the key is of another type or not there: those are no writes.
            (0..500).for_each(|_| drop(client.reply().unwrap()));
            if n == 30 {
                client.call(&["SELECT", "3"]).unwrap();
            }
        }
        client.call(&["SELECT", "0"]).unwrap();
        process::signal(running.0.id(), "CONT").unwrap();
        std::thread::sleep(Duration::from_millis(rng.below(60)));
        drop(running);
    }
    let status = migrate(&[&sides[..], &["caught-up"]].concat()).0.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(full_syncs(&source), "1");
    let result = compare(&mut client, &mut at_target).unwrap();
    assert!(result.is_equal() && result.keys_a > 200, "{result}");
}

/// Runs the program to its end, with a file for standard input.
fn to_its_end(args: &[&str], stdin: Stdio) -> (Option<i32>, String, String) {
    let output = Command::new(program()).args(args).stdin(stdin).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn files_and_standard_input_are_sources() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    let mut client = source.client().unwrap();
    data::small(&mut client, 3, 2).unwrap();
    client.call(&["SAVE"]).unwrap();
    let dump = source.dir().join("dump.rdb");
    let dir = tempfile::tempdir().unwrap();
    let more = dir.path().join("more.resp");
    std::fs::write(&more, "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n#KIND:x\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n")
        .unwrap();
    let (dump, more) = (dump.display().to_string(), more.display().to_string());
    let url = target.url();
    for (first, stdin) in [(dump.as_str(), None), ("-", Some(&dump))] {
        target.client().unwrap().call(&["FLUSHALL"]).unwrap();
        let stdin = stdin.map_or(Stdio::null(), |file| std::fs::File::open(file).unwrap().into());
        let (code, out, err) = to_its_end(&["--source", first, "--source", &more, "--target", &url], stdin);
        assert_eq!(code, Some(0), "{err}");
        for line in
            ["more.resp: commands, 51 B, 2 commands", "1 lines #KIND", "the target holds what the files hold"]
        {
            assert!(out.contains(line), "{line}: {out}");
        }
        client.call(&["SET", "n", "2"]).unwrap();
        let result = compare(&mut client, &mut target.client().unwrap()).unwrap();
        assert!(result.is_equal() && result.keys_a > 100, "{result}");
    }
    // Looked at first, all of it.
    let (code, out, err) = to_its_end(&["--source", &dump, "--target", &url, "--precheck"], Stdio::null());
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.starts_with("pass    files ") && out.contains("pass    losses "), "{out}");
    // Only a part, by what snapshots tell of values, which are as large as they are compressed.
    let mut rng = Rng::new(5);
    client.call(&["FLUSHALL"]).unwrap();
    for (key, size, expiry) in
        [("tiny", 10, "0"), ("large", 5000, "0"), ("soon", 10, "100"), ("late", 10, "100000")]
    {
        let value: String = (0..size).map(|_| char::from(b'!' + rng.below(90) as u8)).collect();
        client.call(&["SET", key, &value]).unwrap();
        if expiry != "0" {
            client.call(&["EXPIRE", key, expiry]).unwrap();
        }
    }
    client.call(&["SAVE"]).unwrap();
    let slot = keyferry_routing::slot(b"tiny").to_string();
    for (args, keys) in [
        (&["--only-size", "..100"][..], &["late", "soon", "tiny"][..]),
        (&["--only-size", "1k.."], &["large"]),
        (&["--only-ttl", "..1h"], &["soon"]),
        (&["--only-ttl", "1h.."], &["late"]),
        (&["--only-ttl", "never"], &["large", "tiny"]),
        (&["--only-idle", "1d.."], &[]),
        (&["--exclude-slots", &slot], &["large", "late", "soon"]),
        (&["--only-commands", "@write", "--only-size", "1k.."], &["large"]),
    ] {
        target.client().unwrap().call(&["FLUSHALL"]).unwrap();
        let (code, _, err) =
            to_its_end(&[&["--source", &dump, "--target", &url], args].concat(), Stdio::null());
        assert_eq!(code, Some(0), "{args:?}: {err}");
        let mut there = target.client().unwrap();
        let mut found: Vec<String> = there
            .call(&["KEYS", "*"])
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key.as_str().unwrap().to_owned())
            .filter(|key| !key.starts_with("keyferry:"))
            .collect();
        found.sort();
        assert_eq!(found, keys, "{args:?}");
    }
    let log = dir.path().join("log.aof");
    std::fs::write(&log, "*2\r\n$4\r\nINCR\r\n$1\r\na\r\n*3\r\n$5\r\nRPUSH\r\n$1\r\nb\r\n$1\r\n1\r\n")
        .unwrap();
    target.client().unwrap().call(&["FLUSHALL"]).unwrap();
    let log = log.display().to_string();
    let only = ["--source", &log, "--target", &url, "--only-commands", "group:list"];
    let (code, out, err) = to_its_end(&only, Stdio::null());
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(target.client().unwrap().int(&["EXISTS", "a", "b"]).unwrap(), 1, "{out}");
    assert!(out.contains("exclude commands=@all"), "{out}");
    // Of a server the commands that follow would not tell.
    let (code, _, err) =
        to_its_end(&["--source", &source.url(), "--target", &url, "--only-size", "1k.."], Stdio::null());
    assert!(code == Some(1) && err.contains("choose by name"), "{err}");
    // Damaged: told with the byte.
    let cut = dir.path().join("cut.rdb");
    std::fs::write(&cut, &std::fs::read(&dump).unwrap()[..5000]).unwrap();
    let cut = cut.display().to_string();
    let (code, _, err) = to_its_end(&["--source", &cut, "--target", &url], Stdio::null());
    assert_eq!(code, Some(1));
    assert!(err.contains("cut.rdb") && err.contains("5000"), "{err}");
    let (code, out, _) = to_its_end(&["--source", &cut, "--target", &url, "--precheck"], Stdio::null());
    assert_eq!(code, Some(1));
    assert!(out.contains("FAIL    files ") && out.contains("cut.rdb"), "{out}");
    for wrong in [
        &["--source", &cut, "--target", &url, "--journal", "somewhere"][..],
        &["--source", &cut, "--target", &url, "--precheck", "--plan", "plan.json"],
        &["--source", "none.rdb", "--target", &url],
        &["--source", &cut, "--source", "redis://a", "--target", &url],
    ] {
        assert_eq!(to_its_end(wrong, Stdio::null()).0, Some(2), "{wrong:?}");
    }
}

/// Nobody goes on with what a killed program has left in the directory for temporary files, so the next one takes it away; that of one that runs stays.
#[test]
fn what_a_killed_program_has_left_is_removed_by_the_next() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    data::tiny_keys(&mut source.client().unwrap(), 1, 2000).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let left = || -> Vec<String> {
        let entries = std::fs::read_dir(dir.path()).unwrap().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let start = |to: &str, id: &str, until: &str| {
        let mut command = Command::new(program());
        command.args(["--source", &source.url(), "--target", to, "--id", id, "--until", until]);
        command.env("TMPDIR", dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    };
    // It has its journal, and is not done, as nothing goes to its target.
    let way = Proxy::start(target.addr()).unwrap();
    way.delay(Duration::from_millis(20));
    let mut killed = start(&format!("redis://{}", way.addr()), "killed", "forever");
    until("a directory", &mut killed, || !left().is_empty());
    drop(killed);
    let gone = left();
    assert!(gone.len() == 1 && gone[0].starts_with("keyferry-temp-journal-"), "{gone:?}");
    let other = Server::any().unwrap();
    let mut lasting = start(&other.url(), "lasting", "forever");
    until("another directory alone", &mut lasting, || left().len() == 1 && left() != gone);
    let stays = left();
    let mut ending = start(&target.url(), "ending", "caught-up");
    assert!(ending.0.wait().unwrap().success());
    assert_eq!(left(), stays);
    drop(lasting);
}
