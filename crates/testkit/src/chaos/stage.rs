use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::binaries::ServerBinary;
use crate::chaos::disk::Disk;
use crate::chaos::disturbance::{Cut, Disturbance};
use crate::chaos::plan::{Plan, Slow};
use crate::chaos::source::Source;
use crate::chaos::sync_count::SyncCount;
use crate::chaos::target::Target;
use crate::chaos::tool::Tool;
use crate::data::{Mix, Writer, WriterOptions};
use crate::error::{Error, Result};
use crate::proxy::{Direction, Proxy};

/// The program's own timeouts, in seconds: shorter than a process is ever stopped for.
const SILENCE: &str = "2";

/// The size from which the program builds values in parts: some of the data is larger.
const VALUE_LIMIT: &str = "12000";

/// How long a cut may be awaited.
const CUT_PATIENCE: Duration = Duration::from_millis(900);

/// How long a second program may take to find out that it is one.
const REFUSAL: Duration = Duration::from_secs(60);

/// Where the target keeps who owns the migration.
const OWNER: &str = "keyferry:owner:{chaos}";

/// For how long a program owns a migration that it does not say a word about, and a little more.
const LEASE: Duration = Duration::from_millis(15_500);

/// How long another goes on before the first does, too.
const TAKING_OVER: Duration = Duration::from_millis(500);

/// How long the program may take to end when it is asked to.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(180);

/// The directory that may be a disk of its own, and the journal in it.
const DISK_DIR: &str = "disk";
const JOURNAL: &str = "disk/journal";

/// Room for the journal, in MiB, where it is on a disk that is filled up.
const DISK: u32 = 64;

/// A network that takes its time: so many bytes at once, each time after this pause.
const SLOW: (usize, Duration) = (16 << 10, Duration::from_millis(10));

/// Everything that takes part in a round.
#[derive(Debug)]
pub(super) struct Stage {
    // Dropped in this order: the program before those it talks to, and its disk after it.
    pub(super) tool: Tool,
    pub(super) writer: Option<Writer>,
    pub(super) source: Source,
    pub(super) target: Target,
    pub(super) syncs: SyncCount,
    disk: Option<Disk>,
    program: PathBuf,
    dir: PathBuf,
    /// The name of the program's journal.
    journal: String,
    other_tools: u32,
}

impl Stage {
    /// Starts everything but the program, and begins to write to the source.
    pub(super) fn set(plan: &Plan, program: &Path, binary: &ServerBinary, dir: &Path) -> Result<Stage> {
        let made = |path: &Path| {
            std::fs::create_dir_all(path).map_err(|source| Error::File {
                what: "made",
                path: path.to_owned(),
                source,
            })
        };
        made(&dir.join(DISK_DIR))?;
        let (source, target) = std::thread::scope(|scope| {
            let source = scope.spawn(|| Source::start(plan, binary, dir));
            let target = Target::start(plan, binary, dir);
            (source.join().map_err(|_| Error::Thread("starting")).and_then(|source| source), target)
        });
        let (source, target) = (source?, target?);
        source.fill(plan)?;
        source.wait_for_replicas()?;
        let disk = if plan.fills_disk() { Disk::mount(&dir.join(DISK_DIR), DISK)? } else { None };
        let (fragment, delay) = SLOW;
        let slow = match plan.slow {
            Slow::Neither => Vec::new(),
            Slow::Source => source.proxies(),
            Slow::Target => target.proxies(),
        };
        for proxy in slow {
            proxy.fragment(fragment);
            proxy.delay(delay);
        }
        let writer = source.write(WriterOptions {
            seed: plan.seed,
            databases: if plan.topology.to_cluster() { 1 } else { 3 },
            threads: 2,
            rate: plan.rate,
            keys: 30,
            mix: Mix::ExactlyOnce,
            save_the_dying: true,
            ..WriterOptions::default()
        })?;
        let syncs = SyncCount::new(&source)?;
        let tool = Tool::new(program, arguments(&source, &target, dir, JOURNAL), &dir.join("tool.log"));
        Ok(Stage {
            tool,
            writer: Some(writer),
            source,
            target,
            syncs,
            disk,
            program: program.to_owned(),
            dir: dir.to_owned(),
            journal: JOURNAL.to_owned(),
            other_tools: 0,
        })
    }

    /// The network is fast from now on.
    pub(super) fn fast(&self) {
        for proxy in self.source.proxies().into_iter().chain(self.target.proxies()) {
            proxy.fragment(0);
            proxy.delay(Duration::ZERO);
        }
    }

    /// Carries one disturbance out and waits until it is over. False when it cannot be done here.
    pub(super) fn disturb(&mut self, what: &Disturbance) -> Result<bool> {
        self.syncs.look(&self.source)?;
        match what {
            Disturbance::KillTool { down } => {
                self.tool.kill9();
                sleep(*down);
                self.tool.start()?;
            }
            Disturbance::StopTool { down } => {
                self.tool.interrupt(END_PATIENCE)?;
                sleep(*down);
                self.tool.start()?;
            }
            Disturbance::FreezeTool { time } => {
                self.tool.signal("STOP")?;
                sleep(*time);
                self.tool.signal("CONT")?;
            }
            Disturbance::SecondTool => self.second_tool()?,
            Disturbance::ReplaceTool => self.replace_tool()?,
            Disturbance::LoseJournal => {
                self.tool.kill9();
                self.remove_journal()?;
                (0..self.source.shards()).for_each(|shard| self.syncs.allow(shard));
                self.tool.start()?;
            }
            Disturbance::CutSource { node, cut } => {
                if let Some(proxy) = self.source.proxy(node % self.source.shards()) {
                    cut_connections(proxy, *cut);
                }
            }
            Disturbance::CutTarget { node, cut } => {
                if let Some(proxy) = self.target.proxy(node % self.target.nodes().len()) {
                    cut_connections(proxy, *cut);
                }
            }
            Disturbance::SourceAway { time } => {
                away(&self.source.proxies(), || {
                    sleep(*time);
                    Ok(())
                })?;
            }
            Disturbance::TargetAway { time, kill_tool } => {
                let (tool, target) = (&mut self.tool, &self.target);
                away(&target.proxies(), || meanwhile(tool, *time, *kill_tool))?;
            }
            Disturbance::FreezeSource { node, time } => {
                let server = self.source.primary(node % self.source.shards());
                server.pause()?;
                sleep(*time);
                server.resume()?;
            }
            Disturbance::FreezeTarget { node, time } => {
                let server = &self.target.nodes()[node % self.target.nodes().len()];
                server.pause()?;
                sleep(*time);
                server.resume()?;
            }
            Disturbance::KillTarget { node, down, kill_tool } => {
                let node = node % self.target.nodes().len();
                self.target.kill9(node);
                meanwhile(&mut self.tool, *down, *kill_tool)?;
                self.target.restart(node)?;
            }
            Disturbance::FailOver { node, everything } => {
                self.fail_over(node % self.source.shards(), *everything)?;
            }
            Disturbance::Resync { node, kill_tool } => {
                let shard = node % self.source.shards();
                if *kill_tool {
                    self.tool.kill9();
                }
                self.source.primary(shard).client()?.call(&["DEBUG", "CHANGE-REPL-ID"])?;
                self.syncs.allow(shard);
                if let Some(proxy) = self.source.proxy(shard) {
                    proxy.cut();
                }
                self.tool.start()?;
            }
            Disturbance::DiskFull { time, freeze_target } => {
                let Some(disk) = &self.disk else { return Ok(false) };
                let frozen = freeze_target.then(|| &self.target.nodes()[0]);
                frozen.map_or(Ok(()), |node| node.pause())?;
                disk.fill()?;
                sleep(*time);
                disk.free()?;
                frozen.map_or(Ok(()), |node| node.resume())?;
            }
            Disturbance::OutOfMemory { time } => {
                self.target.configure("maxmemory", "1")?;
                sleep(*time);
                self.target.configure("maxmemory", "0")?;
            }
        }
        self.tool.must_run()?;
        Ok(true)
    }

    fn fail_over(&mut self, shard: usize, everything: bool) -> Result<()> {
        let writer = self.writer.as_ref().ok_or_else(|| Error::Round("nobody writes".into()))?;
        self.syncs.leave(&self.source, shard)?;
        let knows_history = self.source.replica_knows_history(shard)?;
        self.source.fail_over(shard, everything, writer)?;
        if !everything || !knows_history {
            // The program may have read what the replica lacks, or under an id that the replica has never heard of.
            self.syncs.allow(shard);
        }
        Ok(())
    }

    /// Waits until the program has the migration for its own: of two that begin, either may win.
    fn wait_for_owner(&mut self) -> Result<String> {
        let end = Instant::now() + END_PATIENCE;
        loop {
            if let Some(owner) = self.target.get(OWNER)? {
                return Ok(owner);
            }
            self.tool.must_run()?;
            if Instant::now() >= end {
                let said = self.tool.said();
                return Err(Error::Round(format!("nobody owns the migration; the program said:\n{said}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Another program with the same id and a journal of its own, and the journal's name.
    fn another_tool(&mut self) -> (Tool, String) {
        self.other_tools += 1;
        let name = format!("other-{}", self.other_tools);
        let arguments = arguments(&self.source, &self.target, &self.dir, &name);
        (Tool::new(&self.program, arguments, &self.dir.join(format!("{name}.log"))), name)
    }

    /// Starts a second program with the same id. One of the two must end by itself, without success: the second as a rule,
    /// but the first where it has lost its connections to the target just then.
    fn second_tool(&mut self) -> Result<()> {
        self.wait_for_owner()?;
        let (mut second, name) = self.another_tool();
        second.start()?;
        let end = Instant::now() + REFUSAL;
        while Instant::now() < end {
            if let Some(status) = second.wait(Duration::from_millis(20)) {
                return refused(status);
            }
            if let Some(status) = self.tool.wait(Duration::ZERO) {
                (0..self.source.shards()).for_each(|shard| self.syncs.allow(shard));
                (self.tool, self.journal) = (second, name);
                return refused(status);
            }
        }
        Err(Error::Round(format!("a second program with the same id went on:\n{}", second.said())))
    }

    /// Lets another program take the place of the first, which must find that out and end without success.
    fn replace_tool(&mut self) -> Result<()> {
        let owner = self.wait_for_owner()?;
        self.tool.signal("STOP")?;
        std::thread::sleep(LEASE);
        let (mut other, name) = self.another_tool();
        // Its journal has nothing of what was read.
        (0..self.source.shards()).for_each(|shard| self.syncs.allow(shard));
        other.start()?;
        let end = Instant::now() + REFUSAL;
        while self.target.get(OWNER)?.is_none_or(|now| now == owner) {
            other.must_run()?;
            if Instant::now() >= end {
                return Err(Error::Round(format!("a second program does not take over:\n{}", other.said())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // It ends the connections of the first before it writes anything.
        std::thread::sleep(TAKING_OVER);
        let mut first = std::mem::replace(&mut self.tool, other);
        self.journal = name;
        first.signal("CONT")?;
        match first.wait(REFUSAL) {
            Some(status) => refused(status),
            None => Err(Error::Round(format!("a program that was replaced went on:\n{}", first.said()))),
        }
    }

    fn remove_journal(&self) -> Result<()> {
        let path = self.dir.join(&self.journal);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File { what: "removed", path, source })
            }
            _ => Ok(()),
        }
    }
}

/// The command line of the program, with its journal in this part of the directory.
fn arguments(source: &Source, target: &Target, dir: &Path, journal: &str) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let (source, target) = (source.url(), target.url());
    let (journal, report) = (path(journal), path("report.json"));
    let options = [
        ["--source", &source],
        ["--target", &target],
        ["--journal", &journal],
        ["--report", &report],
        ["--id", "chaos"],
        ["--until", "forever"],
        ["--expiry", "until-end"],
        ["--value-limit", VALUE_LIMIT],
        ["--source-silence", SILENCE],
        ["--target-silence", SILENCE],
    ];
    // Small disks and full targets are what rounds are about.
    options.concat().into_iter().chain(["--no-precheck"]).map(str::to_owned).collect()
}

fn sleep(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// A program that may not go on says so.
fn refused(status: ExitStatus) -> Result<()> {
    if status.success() {
        return Err(Error::Round("a program that had to be refused ended with success".into()));
    }
    Ok(())
}

/// Waits, and where it is so wanted kills the program in the middle and starts it again.
fn meanwhile(tool: &mut Tool, milliseconds: u64, kill_tool: bool) -> Result<()> {
    sleep(milliseconds / 2);
    if kill_tool {
        tool.kill9();
        tool.start()?;
    }
    sleep(milliseconds / 2);
    Ok(())
}

/// Closes connections through the proxy, at once when its moment does not come in time.
fn cut_connections(proxy: &Proxy, cut: Cut) {
    match cut {
        Cut::Now => return proxy.cut(),
        Cut::BytesTo(bytes) => proxy.cut_after(Direction::ToTarget, bytes),
        Cut::BytesFrom(bytes) => proxy.cut_after(Direction::FromTarget, bytes),
        Cut::At(place) => {
            let (direction, mark) = place.mark();
            proxy.cut_at(direction, mark);
        }
    }
    let end = Instant::now() + CUT_PATIENCE;
    while proxy.cut_is_due() {
        if Instant::now() >= end {
            return proxy.cut();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets nobody through while something is done.
fn away(proxies: &[&Proxy], meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    for proxy in proxies {
        proxy.refuse(true);
        proxy.cut();
    }
    let done = meanwhile();
    for proxy in proxies {
        proxy.refuse(false);
    }
    done
}
