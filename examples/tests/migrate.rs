//! The program `migrate` as its users see it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyferry_testkit::{
    Proxy, Rng, Server, compare,
    data::{self, Writer, WriterOptions},
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

fn full_syncs(source: &Server) -> String {
    source.client().unwrap().info("stats", "sync_full").unwrap().unwrap()
}

/// Killed at random moments of the full phase: the source sends no second snapshot, and nothing is lost.
#[test]
fn a_program_that_is_killed_in_the_full_phase_is_gone_on_with() {
    let start = || {
        let binary = keyferry_testkit::any().unwrap();
        Server::builder(binary).diskless_sync(true, 0).start().unwrap()
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
    to_target.delay(Duration::from_millis(30));
    for round in 0..4 {
        let mut running = migrate(&args);
        let begun = Instant::now();
        while !has_base(&journal) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no snapshot in time");
            assert!(running.0.try_wait().unwrap().is_none(), "it ended in round {round}");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(rng.below(300)));
        // SIGKILL. As long as the snapshot is there it had not been applied.
        drop(running);
        assert_eq!(full_syncs(&source), "1");
        if !has_base(&journal) {
            assert!(round > 0, "too quick");
            break;
        }
    }
    to_target.delay(Duration::ZERO);
    writer.stop().unwrap();
    data::settle(&mut source.client().unwrap()).unwrap();
    let mut running = migrate(&args);
    let status = running.0.wait().unwrap();
    assert!(status.success(), "{status}");
    let result = compare(&mut source.client().unwrap(), &mut target.client().unwrap()).unwrap();
    assert!(result.is_equal() && result.keys_a > 40_000, "{result}");
}
