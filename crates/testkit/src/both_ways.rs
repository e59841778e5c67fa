//! Two servers that are written to at once, with the program `migrate --two-way` between them, for as long as one likes.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::binaries::ServerBinary;
use crate::client::Client;
use crate::data::{Writer, WriterOptions, settle};
use crate::error::{Error, Result};
use crate::proxy::{Direction, Proxy};
use crate::server::Server;
use crate::{CompareOptions, compare_with};

/// How long any single wait may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// How long both streams stand still while a conflict is planted.
const STILL: Duration = Duration::from_millis(100);

/// How many keys conflict at a time.
const PLANTED: usize = 5;

/// Bytes a second that a side's stream may grow by when nobody writes: leases are renewed all the time.
const IDLE: u64 = 1024;

/// What is tried.
#[derive(Debug, Clone)]
pub struct BothWays {
    /// The program `migrate`.
    pub program: PathBuf,
    /// What both sides run.
    pub binaries: [&'static ServerBinary; 2],
    /// For how long both sides are written to.
    pub time: Duration,
    /// How often the same keys are written on both sides at once.
    pub plant_every: Duration,
    /// How often the program is killed and started again.
    pub kill_every: Option<Duration>,
    /// Commands a second at each side.
    pub rate: u64,
    /// Where the program's log and the conflicts are kept.
    pub directory: PathBuf,
}

/// How it went.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WentBothWays {
    /// Commands that were sent to both sides.
    pub commands: [u64; 2],
    /// Bytes by which both sides' streams have grown while both were written to.
    pub bytes: [u64; 2],
    /// Bytes a second by which they grow when nobody writes.
    pub idle: [u64; 2],
    /// Keys that were written on both sides at once, all of which were told.
    pub planted: usize,
    /// Keys that were written on one side and had expired on the other in the same moment.
    pub expired: usize,
    /// How often the program was killed.
    pub kills: usize,
    /// Keys that were compared in the end.
    pub keys: u64,
}

impl fmt::Display for WentBothWays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} and {} commands, {} and {} bytes of streams, {} and {} bytes a second when nobody writes; {} planted conflicts told, none \
             else ({} keys written while they expired on the other side); killed {} times; {} keys equal",
            self.commands[0],
            self.commands[1],
            self.bytes[0],
            self.bytes[1],
            self.idle[0],
            self.idle[1],
            self.planted,
            self.expired,
            self.kills,
            self.keys,
        )
    }
}

/// The program, ended with the value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl BothWays {
    /// Does it.
    ///
    /// # Errors
    /// [`Error::Round`] when a side lacks something, a conflict was not told, or something goes round.
    pub fn run(&self) -> Result<WentBothWays> {
        let start = |binary| {
            Server::builder(binary).diskless_sync(true, 0).config("repl-backlog-size", "64mb").start()
        };
        let servers = [start(self.binaries[0])?, start(self.binaries[1])?];
        let proxies = [Proxy::start(servers[0].addr())?, Proxy::start(servers[1].addr())?];
        let mut clients = [servers[0].client()?, servers[1].client()?];
        let mut went = WentBothWays::default();
        let write = |server: &Server, first_thread| {
            let options =
                WriterOptions { rate: self.rate, first_thread, threads: 2, ..WriterOptions::default() };
            Writer::start(server, options)
        };
        let first = write(&servers[0], 0)?;
        let mut program = self.start(&proxies)?;
        self.wait_until_both_go(&mut program, &mut clients, "begin")?;
        let second = write(&servers[1], 100)?;
        let before = offsets(&mut clients)?;
        let (begun, mut planted_at, mut killed_at) = (Instant::now(), Instant::now(), Instant::now());
        while begun.elapsed() < self.time {
            std::thread::sleep(Duration::from_millis(20));
            if program.0.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Err(self.wrong("the program has ended"));
            }
            if planted_at.elapsed() >= self.plant_every {
                planted_at = Instant::now();
                plant(&proxies, &mut clients, &mut went.planted)?;
            }
            if self.kill_every.is_some_and(|every| killed_at.elapsed() >= every) {
                drop(program);
                went.kills += 1;
                program = self.start(&proxies)?;
                self.wait_until_both_go(&mut program, &mut clients, &format!("kill:{}", went.kills))?;
                killed_at = Instant::now();
            }
        }
        for (at, writer) in [first, second].into_iter().enumerate() {
            let counts = writer.stop()?;
            went.commands[at] = counts.commands;
            if let Some(error) = counts.first_error {
                return Err(self.wrong(&format!("a writer was refused: {error}")));
            }
        }
        self.wait_until_both_go(&mut program, &mut clients, "end")?;
        let after = offsets(&mut clients)?;
        for side in 0..2 {
            went.bytes[side] = after[side] - before[side];
            settle(&mut clients[side])?;
        }
        self.wait_until_both_go(&mut program, &mut clients, "settled")?;
        went.keys = self.wait_until_equal(&mut clients)?;
        let (idle, seconds) = (offsets(&mut clients)?, 6);
        std::thread::sleep(Duration::from_secs(seconds));
        let then = offsets(&mut clients)?;
        for side in 0..2 {
            went.idle[side] = (then[side] - idle[side]) / seconds;
        }
        if went.idle.iter().any(|&bytes| bytes > IDLE) {
            return Err(self
                .wrong(&format!("something goes round: {:?} bytes a second when nobody writes", went.idle)));
        }
        self.check_conflicts(&mut went)?;
        Ok(went)
    }

    fn start(&self, proxies: &[Proxy; 2]) -> Result<Program> {
        let log = self.directory.join("migrate.log");
        let opened = File::options().create(true).append(true).open(&log);
        let file = |e| Error::File { what: "opened", path: log.clone(), source: e };
        let out = opened.map_err(file)?;
        let urls = [0, 1].map(|side: usize| format!("redis://{}", proxies[side].addr()));
        let child = Command::new(&self.program)
            .args([
                "--source",
                &urls[0],
                "--target",
                &urls[1],
                "--id",
                "both",
                "--two-way",
                "source-wins",
                "--conflicts",
            ])
            .arg(self.conflicts())
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(file)?)
            .stderr(out)
            .spawn();
        child.map(Program).map_err(|source| Error::Run { program: self.program.clone(), source })
    }

    fn conflicts(&self) -> PathBuf {
        self.directory.join("conflicts.jsonl")
    }

    /// Waits until what is written on each side from now on comes to the other.
    fn wait_until_both_go(&self, program: &mut Program, clients: &mut [Client; 2], name: &str) -> Result<()> {
        for side in 0..2 {
            let key = format!("probe:{name}:{side}");
            let begun = Instant::now();
            while clients[1 - side].int(&["EXISTS", &key])? == 0 {
                clients[side].call(&["SET", &key, "1"])?;
                let ended = program.0.try_wait().is_ok_and(|ended| ended.is_some());
                if ended || begun.elapsed() > PATIENCE {
                    return Err(self.wrong(&format!("{key} does not come over")));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn wait_until_equal(&self, clients: &mut [Client; 2]) -> Result<u64> {
        let begun = Instant::now();
        loop {
            let [one, two] = clients;
            let comparison = compare_with(one, two, &CompareOptions::default().without_bookkeeping())?;
            if comparison.is_equal() {
                return Ok(comparison.keys_a);
            }
            // What is being settled is so for some milliseconds.
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(self.wrong(&comparison.to_string()));
            }
        }
    }

    /// Every key that was planted was told, once unless the program was killed, and nothing but what expires else.
    fn check_conflicts(&self, went: &mut WentBothWays) -> Result<()> {
        let path = self.conflicts();
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| Error::File { what: "read", path, source })?;
        let (mut told, mut lines) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for line in text.lines() {
            if line.contains("\"kind\":\"removed\"") {
                went.expired += 1;
                continue;
            }
            let key =
                line.split("\"key\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            if !key.starts_with("conflict:") {
                return Err(self.wrong(&format!("nobody planted this: {line}")));
            }
            let repeated = !told.insert(key.to_owned());
            if !lines.insert(line) || (repeated && went.kills == 0) {
                return Err(self.wrong(&format!("it was told twice: {line}")));
            }
        }
        if told.len() != went.planted {
            return Err(self.wrong(&format!(
                "{} of {} planted conflicts were told",
                told.len(),
                went.planted
            )));
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Round(format!("{what}; {}", shown(&self.directory)))
    }
}

/// Writes the same keys on both sides while nothing is heard of either.
fn plant(proxies: &[Proxy; 2], clients: &mut [Client; 2], planted: &mut usize) -> Result<()> {
    proxies.iter().for_each(|proxy| proxy.stall(Direction::FromTarget, true));
    std::thread::sleep(STILL / 2);
    for n in *planted..*planted + PLANTED {
        let key = format!("conflict:{n}");
        clients[0].call(&["SET", &key, "source"])?;
        clients[1].call(&["SET", &key, "target"])?;
    }
    *planted += PLANTED;
    std::thread::sleep(STILL / 2);
    proxies.iter().for_each(|proxy| proxy.stall(Direction::FromTarget, false));
    Ok(())
}

fn offsets(clients: &mut [Client; 2]) -> Result<[u64; 2]> {
    let mut offsets = [0; 2];
    for (offset, client) in offsets.iter_mut().zip(clients) {
        let text = client.info("replication", "master_repl_offset")?.unwrap_or_default();
        *offset = text.parse().unwrap_or_default();
    }
    Ok(offsets)
}

fn shown(directory: &Path) -> String {
    let log = std::fs::read_to_string(directory.join("migrate.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(10).collect();
    let last: Vec<&str> = lines.into_iter().rev().collect();
    format!("{} has:\n{}", directory.display(), last.join("\n"))
}
