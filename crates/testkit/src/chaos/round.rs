use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::binaries::ServerBinary;
use crate::chaos::disturbance::Kind;
use crate::chaos::plan::{Plan, Topology};
use crate::chaos::stage::{END_PATIENCE, Stage};
use crate::client::Client;
use crate::compare::{CompareOptions, Comparison, compare_sides};
use crate::error::{Error, Result};
use crate::server::Server;

/// How long the program may take to catch up after the last write.
const CATCH_UP: Duration = Duration::from_secs(240);

/// What the program keeps at the target to go on from there.
const BOOKKEEPING: [&str; 3] = ["keyferry:checkpoint:", "keyferry:migration:", "keyferry:owner:"];

/// Before Redis 7.0 servers tell replicas for how long a key lives, not until when: what they say after an interruption, and
/// what was said during it, is late by as much, for replicas as well.
const LATE_MS: u64 = 20_000;

/// How many of the keys that differ are kept as a whole.
const KEPT: usize = 30;

/// What is common to many rounds.
#[derive(Debug, Clone)]
pub struct Rounds {
    /// The program `migrate`.
    pub program: PathBuf,
    /// What is migrated from and to.
    pub topology: Topology,
    /// Only disturbances of these kinds; none: all.
    pub only: Vec<Kind>,
    /// The servers to choose from: both sides are of the same.
    pub binaries: Vec<&'static ServerBinary>,
    /// Where the logs and directories of failed rounds are kept.
    pub keep: PathBuf,
}

/// A round that ended as it should.
#[derive(Debug)]
#[non_exhaustive]
pub struct Passed {
    /// Its seed.
    pub seed: u64,
    /// The server that both sides ran.
    pub binary: String,
    /// What happened, one line each.
    pub happened: Vec<String>,
    /// Keys that were compared.
    pub keys: u64,
    /// Commands that were written meanwhile.
    pub commands: u64,
    /// How many disturbances there were.
    pub disturbances: usize,
    /// How often each shard was asked for everything.
    pub full_syncs: Vec<u64>,
    /// How long it took.
    pub took: Duration,
}

/// A round that did not.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed {
    /// What was planned.
    pub plan: Plan,
    /// The server that both sides ran.
    pub binary: String,
    /// What happened, one line each.
    pub happened: Vec<String>,
    /// What is wrong.
    pub what: String,
    /// Its logs, directories and the values that differ.
    pub kept: PathBuf,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failed { plan, binary, happened, what, kept } = self;
        write!(f, "{plan}\non {binary} this happened:")?;
        for line in happened {
            write!(f, "\n  {line}")?;
        }
        write!(f, "\nand then: {what}\nlogs and directories: {}", kept.display())
    }
}

impl Rounds {
    /// Runs the rounds of these seeds, so many at a time, and tells of each as it ends. Returns how many failed.
    pub fn run(
        &self,
        seeds: &[u64],
        at_a_time: usize,
        tell: impl Fn(&std::result::Result<Passed, Box<Failed>>) + Sync,
    ) -> usize {
        let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let one_at_a_time = Mutex::new(());
        std::thread::scope(|scope| {
            for _ in 0..at_a_time.max(1) {
                scope.spawn(|| {
                    while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.round(seed);
                        if outcome.is_err() {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                        let _turn = one_at_a_time.lock();
                        tell(&outcome);
                    }
                });
            }
        });
        failed.into_inner()
    }

    /// Runs the round of a seed.
    ///
    /// # Errors
    /// [`Failed`] when it does not end as it should, or cannot be run at all.
    pub fn round(&self, seed: u64) -> std::result::Result<Passed, Box<Failed>> {
        let plan = Plan::new(seed, self.topology, &self.only);
        let mut passed = Passed {
            seed,
            binary: String::new(),
            happened: Vec::new(),
            disturbances: plan.steps.len(),
            keys: 0,
            commands: 0,
            full_syncs: Vec::new(),
            took: Duration::ZERO,
        };
        let failed = |error: &Error, kept: PathBuf, passed: Passed, plan: Plan| {
            let Passed { binary, happened, .. } = passed;
            let failed = Failed { plan, binary, happened, what: chain(error), kept };
            let _ = std::fs::write(failed.kept.join("round.txt"), failed.to_string());
            Err(Box::new(failed))
        };
        let begun = Instant::now();
        let prefix = format!("chaos-{}-{seed}-", self.topology.name());
        let dir = std::fs::create_dir_all(&self.keep)
            .and_then(|()| tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.keep));
        let dir = match dir {
            Ok(dir) => dir,
            Err(source) => {
                let error = Error::File { what: "made", path: self.keep.clone(), source };
                return failed(&error, self.keep.clone(), passed, plan);
            }
        };
        match self.play(&plan, dir.path(), &mut passed) {
            Ok(()) => {
                passed.took = begun.elapsed();
                Ok(passed)
            }
            Err(error) => failed(&error, dir.keep(), passed, plan),
        }
    }

    fn play(&self, plan: &Plan, dir: &Path, passed: &mut Passed) -> Result<()> {
        let count = self.binaries.len().max(1);
        let Some(binary) = self.binaries.get(plan.binary % count) else {
            return Err(Error::Round("there is no server to run".to_owned()));
        };
        passed.binary.clone_from(&binary.name);
        let mut stage = Stage::set(plan, &self.program, binary, dir)?;
        let outcome = play_on(plan, &mut stage, dir, passed);
        if outcome.is_err() {
            keep_logs(&stage, dir);
        }
        outcome
    }
}

fn play_on(plan: &Plan, stage: &mut Stage, dir: &Path, passed: &mut Passed) -> Result<()> {
    let Passed { happened, .. } = passed;
    let begun = Instant::now();
    let mut note = |text: String| happened.push(format!("{:7.3} s {text}", begun.elapsed().as_secs_f64()));
    stage.tool.start()?;
    note("the program is started".into());
    for (number, step) in plan.steps.iter().enumerate() {
        std::thread::sleep(Duration::from_millis(step.wait));
        if number == plan.slow_steps {
            stage.fast();
        }
        note(step.what.to_string());
        note(if stage.disturb(&step.what)? { "  over" } else { "  cannot be done here" }.to_owned());
    }
    stage.fast();
    let writer = stage.writer.take().ok_or_else(|| Error::Round("nobody writes".into()))?;
    let counts = writer.stop()?;
    // What is sent again after a failover may be refused: an entry of a stream has its id already.
    if counts.errors > 0 && !plan.fails_over() {
        let first = counts.first_error.unwrap_or_default();
        return Err(Error::Round(format!(
            "the source refused {} commands, the first: {first}",
            counts.errors
        )));
    }
    note(format!("the writer has stopped after {} commands", counts.commands));
    stage.source.settle()?;
    // The first may come with the snapshot, in no order; then the second comes with the stream.
    for text in ["end", "the very end"] {
        let marks = stage.source.mark_the_end(text)?;
        wait_for_marks(stage, &marks, text)?;
    }
    note("the program has caught up".into());
    stage.tool.end(END_PATIENCE)?;
    note("the program has ended".into());
    // Not all of its own: nothing half-built may be left.
    let options =
        BOOKKEEPING.iter().fold(CompareOptions::default(), |options, prefix| options.ignore(*prefix));
    let binary = stage.target.nodes().first().map(|node| node.binary().version);
    let absolute = binary.is_none_or(|version| version.at_least(7, 0));
    let options = if absolute { options } else { options.expiry_tolerance(LATE_MS) };
    let comparison = compare_sides(stage.source.side()?, stage.target.side()?, &options)?;
    if !comparison.is_equal() {
        keep_differences(stage, &comparison, dir);
        return Err(Error::Round(format!("the sides differ: {comparison}")));
    }
    passed.full_syncs = stage.syncs.check(&stage.source)?;
    passed.keys = comparison.keys_a;
    passed.commands = counts.commands;
    Ok(())
}

fn wait_for_marks(stage: &mut Stage, marks: &[String], text: &str) -> Result<()> {
    let end = Instant::now() + CATCH_UP;
    for mark in marks {
        loop {
            stage.tool.must_run()?;
            if stage.target.get(mark).is_ok_and(|value| value.as_deref() == Some(text)) {
                break;
            }
            if Instant::now() >= end {
                return Err(Error::Round(format!(
                    "not caught up {} s after the last write: no {mark} at the target; the program said:\n{}",
                    CATCH_UP.as_secs(),
                    stage.tool.said()
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn keep_logs(stage: &Stage, dir: &Path) {
    let named =
        |side: &'static str, servers: &'static str| move |i: usize| format!("{side}-{servers}{i}.log");
    let sides = [
        (stage.source.servers(), named("log-of", "source-")),
        (stage.target.nodes(), named("log-of", "target-")),
    ];
    for (servers, name) in sides {
        for (i, server) in servers.iter().enumerate() {
            let _ = std::fs::copy(server.log_file(), dir.join(name(i)));
        }
    }
}

/// Writes the values of both sides to a file.
fn keep_differences(stage: &Stage, comparison: &Comparison, dir: &Path) {
    let mut text = format!("{comparison}\n");
    let sources: Vec<&Server> = (0..stage.source.shards()).map(|shard| stage.source.primary(shard)).collect();
    let targets: Vec<&Server> = stage.target.nodes().iter().collect();
    for difference in comparison.differences.iter().take(KEPT) {
        text.push_str(&format!("\n{difference}\n"));
        for (side, servers) in [("source", &sources), ("target", &targets)] {
            for server in servers {
                if let Ok(Some(value)) = value(server, difference.database, &difference.key) {
                    text.push_str(&format!("{side}: {value}\n"));
                }
            }
        }
    }
    let _ = std::fs::write(dir.join("differences.txt"), text);
}

/// All of a value, where this server has it.
fn value(server: &Server, database: u32, key: &[u8]) -> Result<Option<String>> {
    let mut client: Client = server.client()?;
    if database > 0 {
        client.call(&["SELECT", &database.to_string()])?;
    }
    let kind = client.text(&[&b"TYPE"[..], key])?;
    let reply = match kind.as_str() {
        "string" => client.call(&[&b"GET"[..], key])?,
        "list" => client.call(&[&b"LRANGE"[..], key, b"0", b"-1"])?,
        "set" => client.call(&[&b"SMEMBERS"[..], key])?,
        "zset" => client.call(&[&b"ZRANGE"[..], key, b"0", b"-1", b"WITHSCORES"])?,
        "hash" => client.call(&[&b"HGETALL"[..], key])?,
        "stream" => client.call(&[&b"XINFO"[..], b"STREAM", key, b"FULL", b"COUNT", b"0"])?,
        _ => return Ok(None),
    };
    let ttl = client.int(&[&b"PTTL"[..], key])?;
    Ok(Some(format!("{kind}, PTTL {ttl}: {reply:?}")))
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
