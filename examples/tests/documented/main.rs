//! The commands of the documentation, run as they are written there.

#![allow(clippy::unwrap_used, clippy::panic)]

mod page;
mod runbook;
mod stage;

use std::path::Path;

use keyferry_testkit::{Client, data};
use page::section;
use stage::{Ends, Stage};

const README: &str = "README.md";

fn small(client: &mut Client) {
    data::small(client, 5, 1).unwrap();
}

fn play(stage: &mut Stage, title: &str) {
    stage.play(&section(README, title), |_, _| Ends::Well);
}

#[test]
fn sixty_seconds() {
    let mut stage = Stage::new();
    small(&mut stage.server("old-host", "redis-7.0").client().unwrap());
    stage.server("new-host", "redis-7.0");
    play(&mut stage, "Sixty seconds");
}

#[test]
fn from_files() {
    let mut stage = Stage::new();
    small(&mut stage.server("old-host", "redis-7.0").client().unwrap());
    stage.server("new-host", "redis-7.0");
    stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0");
    let backup = "cargo run --release --example backup -- --source redis://old-host:6379 --db 0 --out";
    stage.prepare(&format!("{backup} dump.rdb"));
    stage.prepare(&format!("{backup} appendonlydir/"));
    stage.prepare("cp dump.rdb monday.rdb && gzip --keep dump.rdb");
    std::fs::write(stage.dir().join("refused.aof"), "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n").unwrap();
    play(&mut stage, "From files");
}

#[test]
fn look_first() {
    let mut stage = Stage::new();
    small(&mut stage.server("old-host", "redis-7.0").client().unwrap());
    stage.server("new-host", "redis-7.0");
    play(&mut stage, "Look first");
}

#[test]
fn only_a_part_under_other_names() {
    let mut stage = Stage::new();
    let mut client = stage.server("old-host", "redis-7.0").client().unwrap();
    for key in ["user:1", "user:2:tmp", "session:ab", "session:xyz", "other", "token:1"] {
        client.call(&["SET", key, "1"]).unwrap();
    }
    client.call(&["HSET", "user:3", "email", "a@b.example", "phone", "555123", "age", "7"]).unwrap();
    client.call(&["SET", "note:1", "Call 5 times"]).unwrap();
    let mut at_target = stage.server("new-host", "redis-7.0").client().unwrap();
    let mut at_test = stage.server("test-host", "redis-7.0").client().unwrap();
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(README)).unwrap();
    let (_, script) = readme.split_once("```lua\n").unwrap();
    std::fs::write(stage.dir().join("changes.lua"), script.split("```").next().unwrap()).unwrap();
    stage.play(&section(README, "Only a part, under other names"), |_, command| {
        let is_built = cfg!(feature = "lua") || !command.contains("--features lua");
        if is_built { Ends::Well } else { Ends::NotRun }
    });
    if cfg!(feature = "lua") {
        assert_eq!(at_target.int(&["EXISTS", "eu:user:1", "eu:user:3"]).unwrap(), 1);
    }
    assert_eq!(at_test.text(&["GET", "note:1"]).unwrap(), "Xxxx 0 xxxxx");
    let fields = at_test.list(&["HMGET", "user:3", "email", "phone", "age"]).unwrap();
    let fields: Vec<&str> = fields.iter().filter_map(|field| field.as_str()).collect();
    assert_eq!((fields[0].len(), &fields[1..]), (32, &["***123", "7"][..]));
    assert_eq!(at_target.int(&["EXISTS", "customer:1", "session:ab"]).unwrap(), 2);
    assert_eq!(at_target.int(&["EXISTS", "customer:2:tmp", "session:xyz", "other", "user:1"]).unwrap(), 0);
}

#[test]
fn keys_that_are_there_already() {
    let mut stage = Stage::new();
    let mut clients = ["old-host", "new-host"].map(|name| stage.server(name, "redis-7.0").client().unwrap());
    for client in &mut clients {
        (1..9).for_each(|n| drop(client.call(&["SET", &format!("session:{n}"), "1"]).unwrap()));
        client.call(&["SET", "user:7", "1"]).unwrap();
    }
    let journal = stage.dir().join("journal");
    stage.call("/var/tmp/journal", &journal);
    stage.play(&section(README, "Keys that are there already"), |_, command| {
        if command.contains("--on-exists fail") { Ends::Otherwise } else { Ends::Well }
    });
}

#[test]
fn not_faster_than_it_may() {
    let mut stage = Stage::new();
    stage.server("old-host", "redis-7.0").client().unwrap().call(&["SET", "a", "1"]).unwrap();
    stage.server("new-host", "redis-7.0");
    stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0");
    play(&mut stage, "Not faster than it may");
}

#[test]
fn steer_it() {
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        return;
    }
    let mut stage = Stage::new();
    stage.server("old-host", "redis-7.0").client().unwrap().call(&["SET", "a", "1"]).unwrap();
    stage.server("new-host", "redis-7.0");
    let socket = stage.dir().join("control.sock");
    stage.call("/run/keyferry.sock", &socket);
    stage.play(&section(README, "Steer it"), |_, command| {
        // It does that as soon as it can be asked.
        let begun = std::time::Instant::now();
        while command.starts_with("curl") && !socket.exists() {
            assert!(begun.elapsed().as_secs() < 180, "no socket in time");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ends::Well
    });
    let came = stage
        .client("new-host")
        .wait_until(std::time::Duration::from_secs(180), |client| Ok(client.int(&["EXISTS", "a"])? == 1));
    assert!(came.unwrap());
}

#[test]
fn in_a_file() {
    let mut stage = Stage::new();
    let mut client = stage.server("old-host", "redis-7.0").client().unwrap();
    ["user:1", "tmp:1"].iter().for_each(|key| drop(client.call(&["SET", key, "1"]).unwrap()));
    let old = stage.here("old-host:6379");
    let cluster = stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0").url();
    // The file as it stands there, but for the servers, which want no passwords here.
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let file = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let file = file
        .replace("redis://old-host:6379?password-env=OLD_PW", &format!("redis://{old}"))
        .replace("redis+cluster://new-1:6379,new-2:6379?password-file=/run/secrets/new", &cluster)
        .replace("/var/tmp/journal", &stage.dir().join("journal").display().to_string());
    std::fs::write(stage.dir().join("move.toml"), file).unwrap();
    play(&mut stage, "In a file");
}

#[test]
fn both_ways_at_once() {
    let mut stage = Stage::new();
    let mut one = stage.server("one-host", "redis-7.0").client().unwrap();
    let mut two = stage.server("two-host", "redis-7.0").client().unwrap();
    one.call(&["SET", "a", "1"]).unwrap();
    play(&mut stage, "Both ways at once");
    assert_eq!(two.int(&["EXISTS", "a"]).unwrap(), 1);
    two.call(&["SET", "b", "1"]).unwrap();
    let came = one.wait_until(std::time::Duration::from_secs(180), |one| Ok(one.int(&["EXISTS", "b"])? == 1));
    assert!(came.unwrap());
}

#[test]
fn where_psync_is_refused() {
    let mut stage = Stage::new();
    for name in ["service", "one"] {
        small(&mut stage.server(name, "redis-7.0").client().unwrap());
    }
    stage.server("new", "redis-7.0");
    stage.client("service").call(&["ACL", "SETUSER", "default", "-psync", "-sync"]).unwrap();
    stage.client("one").call(&["SWAPDB", "1", "9"]).unwrap();
    play(&mut stage, "Where PSYNC is refused");
}

#[test]
fn several_workers_for_one_cluster() {
    let mut stage = Stage::new();
    let source = stage.cluster(&["old-1", "old-2", "old-3"], "redis-7.0");
    data::small_cluster(&mut source.client().unwrap(), 5, 1).unwrap();
    stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0");
    play(&mut stage, "Several workers for one cluster");
    let diff = "cargo run --release --example diff -- redis+cluster://old-1:6379 redis+cluster://new-1:6379";
    assert!(stage.prepare(diff).contains("EQUAL"));
}

#[test]
fn clusters_and_sentinels() {
    let mut stage = Stage::new();
    stage.server("old-host", "redis-7.0").client().unwrap().call(&["SET", "a", "1"]).unwrap();
    stage
        .cluster(&["old-1", "old-2", "old-3"], "redis-7.0")
        .client()
        .unwrap()
        .call(&["SET", "b", "1"])
        .unwrap();
    stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0");
    stage.sentinels(&["s1", "s2"], "redis-7.0");
    play(&mut stage, "Clusters and sentinels");
}

#[test]
fn back_up() {
    let mut stage = Stage::new();
    small(&mut stage.server("host", "redis-7.0").client().unwrap());
    stage.cluster(&["a", "b", "c"], "redis-7.0").client().unwrap().call(&["SET", "b", "1"]).unwrap();
    std::fs::create_dir(stage.dir().join("backup")).unwrap();
    stage.play(&section(README, "Back up"), |stage, command| {
        if command.ends_with("--merge") {
            std::fs::remove_file(stage.dir().join("dump.rdb")).unwrap();
        }
        Ends::Well
    });
    assert!(stage.dir().join("backup/dump.1-of-3.rdb").exists());
}

#[test]
fn go_back_in_time() {
    let mut stage = Stage::new();
    stage.install("redis-7.0");
    let mut client = stage.server("host", "redis-7.0").client().unwrap();
    stage.server("empty", "redis-7.0");
    let archive = stage.dir().join("archive");
    stage.call("/backup/host", &archive);
    let mut written = false;
    stage.play(&section(README, "Go back in time"), |stage, command| {
        if command.contains("restore") && !written {
            written = true;
            stage.wait_for("cargo run --release --example restore -- --archive /backup/host --list");
            client.call(&["RPUSH", "user:42", "a", "b"]).unwrap();
            // It counts from when the archive got it, which may be a while later.
            stage.wait_for(
                "cargo run --release --example restore -- --archive /backup/host --diff user:42 | grep 'RPUSH user:42'",
            );
            // Times are told to a tenth of a second, and the page's to a second.
            std::thread::sleep(std::time::Duration::from_millis(1200));
            let then = stage.prepare("date -u +%FT%TZ");
            stage.call("2026-11-20T03:14:15Z", Path::new(then.trim()));
            std::thread::sleep(std::time::Duration::from_millis(1200));
            client.call(&["DEL", "user:42"]).unwrap();
            stage.wait_for(
                "cargo run --release --example restore -- --archive /backup/host --diff user:42 | grep 'DEL user:42'",
            );
        }
        Ends::Well
    });
    assert_eq!(stage.client("empty").int(&["LLEN", "user:42"]).unwrap(), 2);
    assert_eq!(client.int(&["LLEN", "was:user:42"]).unwrap(), 2);
}

#[test]
fn prove_that_both_sides_are_equal() {
    let mut stage = Stage::new();
    for name in ["old-host", "new-host", "empty"] {
        stage.server(name, "redis-7.0");
    }
    stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0");
    let journal = stage.dir().join("DIR");
    stage.call("/var/tmp/journal", &journal);
    let mut old = stage.client("old-host");
    ["a", "b", "c", "d"].iter().for_each(|key| drop(old.call(&["SET", key, "1"]).unwrap()));
    // Of so many some are in any sample.
    (0..1000).for_each(|n| drop(old.call(&["SET", &format!("user:{n}"), "1"]).unwrap()));
    stage.prepare("cargo run --release --example migrate -- --source redis://old-host:6379 --target redis://new-1:6379 --until caught-up");
    stage.prepare("cargo run --release --example backup -- --source redis://old-host:6379 --out dump.rdb");
    stage.prepare("cp dump.rdb monday.rdb && cp dump.rdb tuesday.rdb");
    stage.prepare(
        "cargo run --release --example backup -- --source redis://old-host:6379 --out appendonlydir/",
    );
    let journal = "cargo run --release --example migrate -- --source redis://old-host:6379 --target redis://new-host:6379 \
                   --journal DIR --keep --until caught-up";
    stage.prepare(journal);
    let mut planted = false;
    stage.play(&section(README, "Prove that both sides are equal"), |stage, command| {
        if command.contains("--repair both") && !planted {
            planted = true;
            let mut new = stage.client("new-host");
            new.call(&["DEL", "a", "b"]).unwrap();
            new.call(&["SET", "c", "2"]).unwrap();
            new.call(&["SET", "extra", "1"]).unwrap();
        }
        if planted && command.contains("--dry-run") { Ends::Otherwise } else { Ends::Well }
    });
}

#[test]
fn cut_over() {
    let mut stage = Stage::new();
    small(&mut stage.server("old-host", "redis-7.0").client().unwrap());
    stage.server("new-host", "redis-7.0");
    stage.prepare(
        "for name in switch switch-back; do printf '#!/bin/sh\\n' > $name.sh; chmod +x $name.sh; done",
    );
    play(&mut stage, "Cut over");
    let page = std::fs::read_to_string(stage.dir().join("cutover.md")).unwrap();
    assert!(page.contains("# Cutover of move") && page.contains("| fence |"), "{page}");
}

#[test]
fn is_that_server_compatible() {
    let mut stage = Stage::new();
    for name in ["old", "new", "scratch", "empty"] {
        stage.server(name, "redis-7.0");
    }
    let cluster = stage.cluster(&["new-1", "new-2", "new-3"], "redis-7.0").url();
    stage.call("redis+cluster://new:6379", Path::new(&cluster));
    let cases =
        r#"[{"name": "set", "command": ["set a 1", "get a"], "result": ["OK", "1"], "since": "1.0.0"}]"#;
    std::fs::write(stage.dir().join("cts.json"), cases).unwrap();
    stage.prepare("cargo run --release --example backup -- --source redis://old:6379 --out appendonlydir/");
    let stream = stage.dir().join("appendonlydir");
    stage.call("/var/lib/redis/appendonlydir", &stream);
    play(&mut stage, "Is that server compatible?");
}

#[test]
fn look_into_a_file() {
    let mut stage = Stage::new();
    let mut client = stage.server("host", "redis-7.0").client().unwrap();
    for db in ["0", "1", "2"] {
        client.call(&["SELECT", db]).unwrap();
        client.call(&["SET", &format!("user:{db}"), "1"]).unwrap();
        client.call(&["HSET", &format!("hash:{db}"), "field", "value"]).unwrap();
    }
    let backup = "cargo run --release --example backup -- --source redis://host:6379 --out";
    stage.prepare(&format!("{backup} dump.rdb --db 0"));
    for (file, db) in [("a.rdb", 0), ("b.rdb", 1), ("c.rdb", 2)] {
        stage.prepare(&format!("{backup} {file} --db {db}"));
    }
    // What stands on either side of these is a server at the usual port of this machine.
    let title = "Look into a file";
    stage.play(&section(README, title), |_, command| {
        if command.contains("redis-cli") { Ends::NotRun } else { Ends::Well }
    });
}
