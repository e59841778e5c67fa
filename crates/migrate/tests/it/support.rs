//! A migration that runs beside a test.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyferry_migrate::{Finished, Migration, Options, Phase, Progress, Stopper, Until};
use keyferry_testkit::{Client, CompareOptions, Server, ServerBinary, compare_with, data::Writer, digest};

/// Longer than any step here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// For so long a target is behind before the source is given less.
const BEHIND: Duration = Duration::from_secs(2);
/// By so many milliseconds a deadline that is sent as time left may be late.
const LATE_MS: u64 = 20_000;
/// The least that a source is given, in commands a second.
const LEAST: u64 = 100;

pub(crate) fn start(binary: &ServerBinary) -> Server {
    Server::builder(binary).diskless_sync(true, 0).start().unwrap()
}

/// A source that remembers what it writes for as long as it may take until somebody comes back.
pub(crate) fn remembering(binary: &ServerBinary) -> Server {
    Server::builder(binary).diskless_sync(true, 0).config("repl-backlog-size", "64mb").start().unwrap()
}

pub(crate) fn any() -> Server {
    start(keyferry_testkit::any().unwrap())
}

/// A running migration.
pub(crate) struct Running {
    pub(crate) progress: Progress,
    pub(crate) stopper: Stopper,
    task: tokio::task::JoinHandle<Finished>,
}

impl Running {
    pub(crate) fn start(source: &str, target: &str, options: impl FnOnce(&mut Options)) -> Self {
        let mut migration = Migration::new(source.parse().unwrap(), target.parse().unwrap());
        options(migration.options_mut());
        let (progress, stopper) = (migration.progress(), migration.stopper());
        Running { progress, stopper, task: tokio::spawn(migration.run()) }
    }

    /// Waits for `done`; a migration that ends before is a failure.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&Progress) -> bool) {
        let begun = Instant::now();
        while !done(&self.progress) {
            if self.task.is_finished() {
                panic!("ended while waiting for {what}: {:?}", (&mut self.task).await);
            }
            assert!(begun.elapsed() < PATIENCE, "no {what} in time: {:?}", self.progress.figures());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn until_phase(&mut self, phase: Phase) {
        self.until("phase", |p| p.phase() == phase).await;
    }

    /// The same of the phase in which it follows, while the source is given so many commands a second: where the machine is too slow
    /// for that much, it is given less from then on, as the target would never catch up.
    pub(crate) async fn until_following(&mut self, writer: &Writer, rate: u64) {
        let (mut rate, mut since) = (rate, Instant::now());
        self.until("phase", |p| {
            if p.phase() != Phase::CatchingUp {
                since = Instant::now();
            } else if since.elapsed() > BEHIND && rate > LEAST {
                (rate, since) = ((rate / 2).max(LEAST), Instant::now());
                writer.set_rate(rate);
            }
            p.phase() == Phase::Following
        })
        .await;
    }

    pub(crate) async fn until_applied(&mut self, offset: u64) {
        self.until("offset", |p| p.figures().applied_offset >= offset).await;
    }

    pub(crate) async fn end(self) -> Finished {
        let finished = self.end_keeping_journal().await;
        // Nobody asked for it.
        if let Some(journal) = finished.report.journal.as_ref().filter(|j| j.contains("keyferry-temp-")) {
            std::fs::remove_dir_all(journal).unwrap();
        }
        finished
    }

    pub(crate) async fn end_keeping_journal(mut self) -> Finished {
        let (mut moved, mut last) = (Instant::now(), (0, 0));
        loop {
            tokio::select! {
                finished = &mut self.task => return finished.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            // However slow the machine is: as long as something is applied, it is on its way.
            let figures = self.progress.figures();
            let now = (figures.keys_applied, figures.commands_applied);
            if now != last {
                (moved, last) = (Instant::now(), now);
            }
            assert!(moved.elapsed() < PATIENCE, "no end in time: {figures:?}");
        }
    }
}

/// A test of this binary that runs as a process of its own, so that it can be killed. It dies with this value.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// `told` is in the variable, where that test finds it; without it, as when all tests are run, the test does nothing.
    pub(crate) fn start(test: &str, (variable, told): (&str, String)) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(variable, told).stdout(Stdio::null());
        Process(command.spawn().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &'static str) {
        keyferry_testkit::process::signal(self.0.id(), name).unwrap();
    }

    /// Waits for its end; true when it succeeded.
    pub(crate) fn wait(&mut self, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(begun.elapsed() < patience, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs until it has caught up with a source that is quiet, for no longer than can be told.
pub(crate) async fn run(source: &str, target: &str, options: impl FnOnce(&mut Options)) -> Finished {
    let until_caught_up = |o: &mut Options| {
        o.until = Until::CaughtUp { quiet: Duration::from_millis(100), linger: PATIENCE };
        options(o);
    };
    Running::start(source, target, until_caught_up).end().await
}

pub(crate) fn offset_of(client: &mut Client) -> u64 {
    client.info("replication", "master_repl_offset").unwrap().unwrap().parse().unwrap()
}

/// How the target of such a source is compared with it.
pub(crate) fn compared(source: &ServerBinary) -> CompareOptions {
    let options = CompareOptions::default();
    // Servers before 7.0 send deadlines as time left, which counts from the moment at which they are carried out.
    if source.version.at_least(7, 0) { options } else { options.expiry_tolerance(LATE_MS) }
}

/// Both sides hold the same, key by key, and the target holds nothing of ours.
pub(crate) fn assert_equal(source: &Server, target: &Server, what: &str) {
    let (mut a, mut b) = (source.client().unwrap(), target.client().unwrap());
    let comparison = compare_with(&mut a, &mut b, &compared(source.binary()).without_bookkeeping()).unwrap();
    assert!(comparison.is_equal(), "{what}: {comparison}");
    assert!(comparison.keys_a > 0, "{what}: nothing was compared");
    if source.binary().version == target.binary().version && bookkeeping(target) == 0 {
        assert_eq!(digest(&mut a).unwrap(), digest(&mut b).unwrap(), "{what}");
    }
    assert_eq!(temporary_keys(target), 0, "{what}");
}

/// What a target keeps of a migration that may go on.
const KEPT: [&str; 4] =
    ["keyferry:migration:", "keyferry:owner:", "keyferry:checkpoint:", "keyferry:two-way:"];

/// How many keys a target keeps of migrations that may go on.
pub(crate) fn bookkeeping(target: &Server) -> usize {
    let mut client = target.client().unwrap();
    KEPT.iter().map(|kept| client.list(&["KEYS", &format!("{kept}*")]).unwrap().len()).sum()
}

/// Keys under construction that a target holds, in all databases.
pub(crate) fn temporary_keys(target: &Server) -> usize {
    let mut client = target.client().unwrap();
    (0..16)
        .map(|db| {
            client.call(&["SELECT", &db.to_string()]).unwrap();
            let keys = client.list(&["KEYS", "keyferry:*"]).unwrap();
            let kept = |key: &str| KEPT.iter().any(|kept| key.starts_with(kept));
            keys.iter().filter(|key| !key.as_str().is_some_and(kept)).count()
        })
        .sum()
}
