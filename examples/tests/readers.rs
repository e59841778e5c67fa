//! Programs whose readers go away, whose terminal is closed, and whose results are sent to where data is.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use keyferry_testkit::{Server, compare, data, process};

/// A program, built beside this test.
fn program(name: &str, args: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// A pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// How a program ends to which nobody listens.
fn ended(name: &str, args: &[&str]) -> Option<i32> {
    program(name, args).stdout(unread()).stderr(unread()).status().unwrap().code()
}

fn filled() -> Server {
    let source = Server::any().unwrap();
    data::small(&mut source.client().unwrap(), 3, 3).unwrap();
    source
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// What a program does is done, and its exit status is as ever, also when nobody hears of it any more.
#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let (source, target) = (filled(), Server::any().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (from, to, dump) = (source.url(), target.url(), file("dump.rdb"));
    let both = ["--source", &from, "--target", &to];
    assert_eq!(ended("migrate", &[&both[..], &["--precheck"]].concat()), Some(0));
    assert_eq!(ended("migrate", &[&both[..], &["--print-config"]].concat()), Some(0));
    let more = ["--until", "caught-up", "--log", "human", "--log-level", "debug"];
    assert_eq!(ended("migrate", &[&both[..], &more].concat()), Some(0));
    let (mut left, mut right) = (source.client().unwrap(), target.client().unwrap());
    let same = compare(&mut left, &mut right).unwrap();
    assert!(same.is_equal(), "{same}");
    // Nothing carries that over any more.
    assert_eq!(ended("cutover", &[&both[..], &["--dry-run"]].concat()), Some(1));
    assert_eq!(ended("backup", &["--source", &from, "--out", &dump]), Some(0));
    assert_eq!(ended("convert", &[&dump, &file("dump.resp")]), Some(0));
    assert_eq!(ended("restore", &["--archive", dir.path().to_str().unwrap(), "--list"]), Some(1));
    assert_eq!(ended("migrate", &["--source", &from, "--target", "redis://127.0.0.1:1"]), Some(1));
    assert_eq!(ended("migrate", &["--source", "redis://:port", "--target", &to]), Some(2));
}

/// Runs until it follows; then the terminal is closed. What it says from then on is read from what comes with it.
fn hung_up(mut command: Command) -> (Child, impl Iterator<Item = String>) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("following: ")), "it has ended");
    process::signal(child.id(), "HUP").unwrap();
    (child, lines)
}

/// A session that is lost asks for a clean end, as Ctrl-C does; not of what was started by `nohup`.
#[test]
fn a_terminal_that_is_closed_ends_it_well() {
    let (source, target, other) = (filled(), Server::any().unwrap(), Server::any().unwrap());
    let args = |to: &Server| ["--source".to_owned(), source.url(), "--target".to_owned(), to.url()];
    let mut command = program("migrate", &[]);
    command.args(args(&target));
    let (mut child, mut lines) = hung_up(command);
    assert!(lines.any(|line| line.contains("stopping: ")));
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());

    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(program("migrate", &[]).get_program());
    command.args(args(&other)).stdin(Stdio::null());
    let (mut child, lines) = hung_up(command);
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none());
    process::signal(child.id(), "TERM").unwrap();
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

/// What is read, or is a backup, is never the place for results.
#[test]
fn results_never_replace_data() {
    let source = filled();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (url, dump, log) = (source.url(), file("dump.rdb"), file("dump.aof"));
    for out in [&dump, &log] {
        assert!(program("backup", &["--source", &url, "--out", out]).output().unwrap().status.success());
    }
    let before = [&dump, &log].map(|path| std::fs::read(path).unwrap());
    let other = file("other.rdb");
    let of_file = ["--source", &dump, "--target", "redis://127.0.0.1:1", "--report"];
    for (name, args, status) in [
        ("inspect", &[&dump[..], "-o", &dump][..], 1),
        ("inspect", &[&dump, "--jsonl", "-o", &log], 1),
        ("inspect", &[&dump, "--html", &dump], 1),
        ("inspect", &[&dump, "--report", &log], 1),
        ("convert", &[&dump, &other, "--report", &dump], 1),
        ("backup", &["--source", &url, "--out", &other, "--report", &dump], 1),
        ("diff", &[&dump, &dump, "--jsonl", &dump], 2),
        ("diff", &[&dump, &dump, "--html", &log], 2),
        ("migrate", &[&of_file[..], &[&dump]].concat(), 1),
    ] {
        let output = program(name, args).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{name}: {output:?}");
        assert!(said(&output).contains("left as it is"), "{name}: {output:?}");
        assert_eq!([&dump, &log].map(|path| std::fs::read(path).unwrap()), before, "{name} {args:?}");
        assert!(!Path::new(&other).exists(), "{name} {args:?}");
    }
    // A result of before is replaced.
    let page = file("page.json");
    for _ in 0..2 {
        let output = program("inspect", &[&dump, "--report", &page]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
