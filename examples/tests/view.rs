//! `migrate --view` in a terminal: what stands there, what keys do, and how it leaves the terminal.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use keyferry_examples::{Lines, View};
use keyferry_migrate::Migration;
use keyferry_testkit::{
    Server, Terminal,
    data::{self, Writer, WriterOptions},
    process,
};

const PATIENCE: Duration = Duration::from_secs(240);

/// The program, built beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/migrate")
}

fn migrate(source: &str, target: &str, more: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["--source", source, "--target", target]).args(more).env_remove("NO_COLOR");
    command
}

/// Waits until the screen has this text.
fn see(terminal: &Terminal, text: &str) {
    let there = terminal.wait_until(PATIENCE, |terminal| terminal.text().contains(text));
    assert!(there, "{text:?} is not there:\n{}", terminal.text());
}

fn has_colours(terminal: &Terminal) -> bool {
    let screen = terminal.screen();
    let (rows, columns) = screen.size();
    let mut cells = (0..rows.get()).flat_map(|row| (0..columns.get()).map(move |column| (row, column)));
    cells.any(|(row, column)| {
        screen.cell(row, column).is_some_and(|cell| cell.fgcolor() != Default::default())
    })
}

#[test]
fn a_migration_fills_the_terminal_and_leaves_its_report() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    data::small(&mut source.client().unwrap(), 7, 2).unwrap();
    let writer = Writer::start(&source, WriterOptions { rate: 500, ..WriterOptions::default() }).unwrap();
    let mut terminal = Terminal::start(migrate(&source.url(), &target.url(), &["--view"]), 80, 24).unwrap();
    see(&terminal, "▶ following");
    assert!(terminal.is_filled() && has_colours(&terminal));
    let text = terminal.text();
    let rows: Vec<&str> = text.lines().collect();
    assert!(rows[0].starts_with("keyferry  redis://127.0.0.1:") && rows[0].contains(" → "), "{text}");
    assert!(rows[1].starts_with("✓ connecting  ✓ preparing  ✓ snapshot  ✓ catching up"), "{text}");
    assert!(rows[23].starts_with("q end   p pause"), "{text}");
    for part in ["rates  ", "done  ", "lag  ", "throttle no limits", "journal  ", "errors   none", "log\n"] {
        assert!(text.contains(part), "{part:?} is not there:\n{text}");
    }
    // Commands come in, and their rate is shown.
    let busy = |terminal: &Terminal| {
        terminal.text().lines().any(|row| row.starts_with("rates") && !row.contains(" 0 commands/s"))
    };
    assert!(terminal.wait_until(PATIENCE, busy), "{}", terminal.text());
    // What is paused does not arrive until it goes on.
    terminal.press("p").unwrap();
    see(&terminal, "paused: nothing is handed to the target");
    writer.stop().unwrap();
    let mut at_target = target.client().unwrap();
    source.client().unwrap().call(&["SET", "meanwhile", "1"]).unwrap();
    see(&terminal, " waited ");
    assert_eq!(at_target.int(&["EXISTS", "meanwhile"]).unwrap(), 0);
    terminal.press("p").unwrap();
    let came = at_target.wait_until(PATIENCE, |client| Ok(client.int(&["EXISTS", "meanwhile"])? == 1));
    assert!(came.unwrap(), "{}", terminal.text());
    see(&terminal, "the target keeps up");
    terminal.press("-").unwrap();
    see(&terminal, "throttle incremental ");
    terminal.press("0").unwrap();
    see(&terminal, "throttle no limits");
    // Another size, and one in which nothing has room.
    terminal.resize(40, 10).unwrap();
    see(&terminal, "▶ following (5 of 5)");
    terminal.resize(1, 1).unwrap();
    assert!(terminal.wait_until(PATIENCE, |terminal| terminal.text().trim().chars().count() <= 1));
    terminal.resize(90, 30).unwrap();
    see(&terminal, "✓ catching up  ▶ following");
    terminal.press("q").unwrap();
    let left = terminal.end(PATIENCE).unwrap().expect("it ends");
    assert_eq!(left.wrong, Vec::<&str>::new());
    assert!(left.status.success(), "{}: {}", left.status, left.text);
    let report = ["source   redis://127.0.0.1:", "snapshot ", "stopped: everything read has been applied"];
    assert!(report.iter().all(|line| left.text.contains(line)), "{}", left.text);
    assert!(!left.text.contains('▶'), "{}", left.text);
}

/// The terminal is given back by errors and signals, too; without colours where none are wanted.
#[test]
fn every_way_out_gives_the_terminal_back() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let view = |signals: &[&'static str], pass: &str| {
        let target = target.url().replace("redis://", &format!("redis://{pass}"));
        let mut command = migrate(&source.url(), &target, &["--view", "--log", "human", "--no-precheck"]);
        command.env("NO_COLOR", "1");
        let terminal = Terminal::start(command, 80, 24).unwrap();
        if pass.is_empty() {
            see(&terminal, "▶ following");
            assert!(terminal.is_filled() && !has_colours(&terminal));
        }
        for (number, signal) in signals.iter().enumerate() {
            if number > 0 {
                see(&terminal, "again to end at once");
            }
            process::signal(terminal.pid(), signal).unwrap();
        }
        let left = terminal.end(PATIENCE).unwrap().expect("it ends");
        assert_eq!(left.wrong, Vec::<&str>::new(), "{signals:?}: {}", left.text);
        (left.status.code(), left.text)
    };
    let (code, text) = view(&["TERM"], "");
    assert_eq!(code, Some(0), "{text}");
    // The log that was asked for is there afterwards.
    assert!(text.contains(" INFO ") && text.contains("stopped: everything"), "{text}");
    assert_eq!(view(&["QUIT"], "").0, Some(131));
    assert_eq!(view(&["HUP"], "").0, Some(129));
    let (code, text) = view(&[], "nobody:wrong@");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("migrate: ") && text.contains("WRONGPASS"), "{text}");
    // A target that takes nothing more: the first Ctrl-C waits for it, the second does not.
    let command = migrate(&source.url(), &target.url(), &["--view", "--no-precheck"]);
    let mut terminal = Terminal::start(command, 80, 24).unwrap();
    see(&terminal, "▶ following");
    process::signal(target.pid().unwrap(), "STOP").unwrap();
    source.client().unwrap().call(&["SET", "b", "1"]).unwrap();
    see(&terminal, "the lag does not shrink");
    terminal.press("\u{3}").unwrap();
    see(&terminal, "again to end at once");
    terminal.press("\u{3}").unwrap();
    let left = terminal.end(PATIENCE).unwrap().expect("it ends");
    process::signal(target.pid().unwrap(), "CONT").unwrap();
    assert_eq!((left.wrong, left.status.code()), (Vec::new(), Some(130)), "{}", left.text);
}

/// Set in the process that panics: as soon as this file is there.
const PANICS: &str = "KEYFERRY_TEST_PANICS";

#[test]
fn a_panic_is_read_on_the_terminal_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["panics_behind_a_view", "--exact", "--ignored", "--nocapture"])
        .env(PANICS, &seen)
        .env("RUST_BACKTRACE", "0");
    let terminal = Terminal::start(command, 100, 24).unwrap();
    let filled = |terminal: &Terminal| terminal.is_filled() && terminal.text().contains("▶ connecting");
    assert!(terminal.wait_until(PATIENCE, filled), "{}", terminal.text());
    std::fs::write(&seen, "").unwrap();
    let left = terminal.end(PATIENCE).unwrap().expect("it ends");
    assert!(left.wrong.is_empty() && !left.status.success(), "{:?}: {}", left.wrong, left.text);
    assert!(left.text.contains("as the test wants it") && !left.text.contains('▶'), "{}", left.text);
}

/// Run by the test above, in a terminal.
#[tokio::test]
#[ignore = "is run by another test"]
async fn panics_behind_a_view() {
    let Some(seen) = std::env::var_os(PANICS) else { return };
    let migration =
        Migration::new("redis://127.0.0.1:1".parse().unwrap(), "redis://127.0.0.1:1".parse().unwrap());
    let _view = View::show(&migration, ("here".into(), "there".into()), Some(Lines::default()), false);
    let begun = Instant::now();
    while !Path::new(&seen).exists() && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("as the test wants it");
}

#[test]
fn without_a_terminal_there_are_lines() {
    let (source, target) = (Server::any().unwrap(), Server::any().unwrap());
    source.client().unwrap().call(&["SET", "a", "1"]).unwrap();
    let mut command = migrate(&source.url(), &target.url(), &["--view", "--until", "caught-up"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("--view wants a terminal") && said.contains("migrate:     "), "{said}");
    assert!(!said.contains('\u{1b}') && !String::from_utf8_lossy(&output.stdout).contains('\u{1b}'));
    // One that cannot be drawn on.
    let mut command = migrate(&source.url(), &target.url(), &["--view", "--until", "caught-up"]);
    command.arg("--id").arg("again");
    let mut shell = Command::new("sh");
    shell.args(["-c", "TERM=dumb exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    let terminal = Terminal::start(shell, 80, 24).unwrap();
    let left = terminal.end(PATIENCE).unwrap().expect("it ends");
    assert!(left.status.success() && left.text.contains("--view wants a terminal"), "{}", left.text);
}
