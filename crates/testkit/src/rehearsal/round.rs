use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::binaries::ServerBinary;
use crate::chaos::{Tool, Topology};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::rehearsal::application::{Application, Place};
use crate::rehearsal::ledger::Tally;
use crate::rng::Rng;
use crate::server::Server;

/// Any wait for a program or a server.
const PATIENCE: Duration = Duration::from_secs(240);

/// How often something is looked at.
const TICK: Duration = Duration::from_millis(3);

/// The migration's name.
const ID: &str = "rehearsal";

/// The user of the application, and the password.
const USER: (&str, &str) = ("app", "ledger");

/// What servers keep of their streams: a migration that was killed goes on where it was.
const BACKLOG: &str = "32mb";

/// Connections of the application.
const CONNECTIONS: usize = 4;

/// The steps at which the program may be killed.
const STEPS: [&str; 9] =
    ["gates", "stop", "drain", "proof", "fence", "positions", "switch", "release", "clean"];

/// What is done in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A cutover.
    Plain,
    /// The program is killed at a step, and run again, or undone first.
    Killed,
    /// The application writes on for a while, and is taken back.
    Back,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Plain, Kind::Killed, Kind::Back];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Killed => "killed",
            Kind::Back => "back",
        }
    }
}

/// What is rehearsed.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The program `migrate`.
    pub migrate: PathBuf,
    /// The program `cutover`.
    pub cutover: PathBuf,
}

/// What is common to many rounds.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// What is rehearsed.
    pub programs: Programs,
    /// From what to what.
    pub topology: Topology,
    /// The servers to choose from: both sides are of the same.
    pub binaries: Vec<&'static ServerBinary>,
    /// Writes of the application in a second.
    pub rate: u64,
    /// Where the logs of failed rounds are kept.
    pub keep: PathBuf,
}

/// A round in which nothing was lost.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rehearsed {
    /// Its seed.
    pub seed: u64,
    /// What was done.
    pub kind: Kind,
    /// The server that both sides ran.
    pub binary: String,
    /// How writes were stopped.
    pub stop: &'static str,
    /// What happened, one line each.
    pub happened: Vec<String>,
    /// What the application's ledgers came to.
    pub tally: Tally,
    /// For how many seconds the program says that nobody wrote, once for each cutover that was not killed.
    pub write_stops: Vec<f64>,
    /// The longest time in which nothing was acknowledged, in seconds, as the application saw it at these.
    pub gaps: Vec<f64>,
    /// How long it took.
    pub took: Duration,
}

impl Rounds {
    /// Runs the round of a seed.
    ///
    /// # Errors
    /// [`Error::Round`] with what is lost or did not work, what happened, and where the logs are.
    pub fn round(&self, kind: Kind, seed: u64) -> Result<Rehearsed> {
        let prefix = format!("cutover-{}-{}-{seed}-", self.topology.name(), kind.name());
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&self.keep)
            .map_err(|source| Error::File { what: "made", path: self.keep.clone(), source })?;
        let mut rng = Rng::new(seed);
        let count = self.binaries.len().max(1);
        let Some(binary) = self.binaries.get(rng.index(count)) else {
            return Err(Error::Round("there is no server to run".to_owned()));
        };
        let pauses = binary.version.at_least(6, 2) && rng.chance(1, 2);
        let stop = if pauses { "pause" } else { "acl:app" };
        let mut rehearsed = Rehearsed {
            seed,
            kind,
            binary: binary.name.clone(),
            stop,
            happened: Vec::new(),
            tally: Tally::default(),
            write_stops: Vec::new(),
            gaps: Vec::new(),
            took: Duration::ZERO,
        };
        let begun = Instant::now();
        let played = Stage::set(self, binary, stop, dir.path())
            .and_then(|mut stage| stage.play(kind, &mut rng, &mut rehearsed));
        rehearsed.took = begun.elapsed();
        match played {
            Ok(()) => Ok(rehearsed),
            Err(error) => {
                let Rehearsed { binary, happened, .. } = rehearsed;
                Err(Error::Round(format!(
                    "{} {} on {binary}, writes stopped by {stop}, seed {seed}; this happened:\n  {}\nand then: {error}\nlogs: {}",
                    self.topology.name(),
                    kind.name(),
                    happened.join("\n  "),
                    dir.keep().display()
                )))
            }
        }
    }
}

/// A server or a cluster.
#[derive(Debug)]
enum End {
    One(Box<Server>),
    Many(Box<Cluster>),
}

impl End {
    fn start(binary: &ServerBinary, cluster: bool) -> Result<End> {
        let rules = format!("on >{} ~* &* +@all", USER.1);
        // Before 6.2 there are no rules for channels.
        let rules = if binary.version.at_least(6, 2) { rules } else { rules.replace(" &*", "") };
        if cluster {
            let builder = Cluster::builder(binary).primaries(3).user(USER.0, &rules);
            let builder = builder.config("repl-diskless-sync", "yes").config("repl-diskless-sync-delay", "0");
            let builder = builder.config("repl-backlog-size", BACKLOG);
            return Ok(End::Many(Box::new(builder.start()?)));
        }
        let builder = Server::builder(binary).diskless_sync(true, 0).user(USER.0, &rules);
        let builder = builder.config("repl-backlog-size", BACKLOG);
        Ok(End::One(Box::new(builder.start()?)))
    }

    fn nodes(&self) -> &[Server] {
        match self {
            End::One(server) => std::slice::from_ref(&**server),
            End::Many(cluster) => cluster.nodes(),
        }
    }

    fn url(&self) -> String {
        match self {
            End::One(server) => server.url(),
            End::Many(cluster) => cluster.url(),
        }
    }

    fn clients(&self) -> Result<Vec<Client>> {
        self.nodes().iter().map(Server::client).collect()
    }

    /// Where the application writes.
    fn place(&self) -> Place {
        let address = self.nodes().first().map(|node| node.addr().to_string()).unwrap_or_default();
        Place { address, user: Some((USER.0.to_owned(), USER.1.to_owned())) }
    }

    /// Who carries a migration out.
    fn owner(&self, id: &str) -> Result<Option<String>> {
        for mut client in self.clients()? {
            let reply = client.call_raw(&["GET", &format!("keyferry:owner:{{{id}}}")])?;
            // Another node has it, or nobody.
            if reply.error().is_none() && !reply.is_null() {
                return Ok(reply.as_str().map(str::to_owned));
            }
        }
        Ok(None)
    }

    /// Fields of the state that it keeps of a migration.
    fn state(&self, id: &str) -> Result<Vec<(String, String)>> {
        let key = format!("keyferry:migration:{{{id}}}");
        for mut client in self.clients()? {
            let reply = client.call_raw(&["HGETALL", &key])?;
            // Another node has it.
            let Some(items) = reply.as_array() else { continue };
            let text =
                |at: usize| items.get(at).and_then(|item| item.as_str()).unwrap_or_default().to_owned();
            let fields: Vec<_> = (0..items.len() / 2).map(|n| (text(2 * n), text(2 * n + 1))).collect();
            if !fields.is_empty() {
                return Ok(fields);
            }
        }
        Ok(Vec::new())
    }
}

struct Stage<'r> {
    rounds: &'r Rounds,
    // The programs end before the servers.
    forward: Tool,
    back: Tool,
    application: Option<Application>,
    source: End,
    target: End,
    stop: &'static str,
    /// How far apart deadlines may lie: before 7.0 servers tell for how long a key lives, not until when.
    tolerance: &'static str,
    dir: PathBuf,
    /// How often the program `cutover` was started.
    runs: u32,
    begun: Instant,
}

/// How a run of the program ended.
#[derive(Debug)]
struct Ended {
    /// Its exit status; none when it was killed.
    code: Option<i32>,
    /// The application was moved.
    switched: bool,
    report: String,
    said: String,
}

impl<'r> Stage<'r> {
    fn set(rounds: &'r Rounds, binary: &ServerBinary, stop: &'static str, dir: &Path) -> Result<Self> {
        let topology = rounds.topology;
        let (source, target) = std::thread::scope(|scope| {
            let source = scope.spawn(|| End::start(binary, topology.from_cluster()));
            let target = End::start(binary, topology.to_cluster());
            (source.join().map_err(|_| Error::Thread("starting")).and_then(|source| source), target)
        });
        let (source, target) = (source?, target?);
        let migrate = |from: &End, to: &End, id: &str, more: &[&str], log: &str| {
            let (from, to) = (from.url(), to.url());
            let args =
                ["--source", &from, "--target", &to, "--id", id, "--until", "forever", "--no-precheck"];
            let args = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
            Tool::new(&rounds.programs.migrate, args, &dir.join(log))
        };
        let forward = migrate(&source, &target, ID, &[], "migrate.log");
        let back = migrate(&target, &source, &format!("{ID}.back"), &["--from-now"], "back.log");
        let application = Application::start(source.place(), CONNECTIONS, rounds.rate);
        Ok(Stage {
            rounds,
            forward,
            back,
            application: Some(application),
            source,
            target,
            stop,
            tolerance: if binary.version.at_least(7, 0) { "0" } else { "20" },
            dir: dir.to_owned(),
            runs: 0,
            begun: Instant::now(),
        })
    }

    fn play(&mut self, kind: Kind, rng: &mut Rng, rehearsed: &mut Rehearsed) -> Result<()> {
        self.forward.start()?;
        self.wait_for_streams(false)?;
        self.note(rehearsed, "the target follows");
        self.writes(self.rounds.rate / 2)?;
        if kind == Kind::Killed {
            self.killed(rng, rehearsed)?;
        } else {
            self.whole(rehearsed, false)?;
        }
        if kind == Kind::Back {
            self.back.start()?;
            self.writes(self.rounds.rate / 4)?;
            self.wait_for_streams(true)?;
            self.writes(self.rounds.rate / 4)?;
            self.note(rehearsed, "the way back follows");
            self.whole(rehearsed, true)?;
        }
        self.writes(self.rounds.rate / 4)?;
        let application = self.application.take().ok_or_else(|| Error::Round("nobody writes".into()))?;
        rehearsed.tally = application.check()?;
        Ok(())
    }

    /// A cutover that nobody disturbs.
    fn whole(&mut self, rehearsed: &mut Rehearsed, back: bool) -> Result<()> {
        self.application()?.longest_gap();
        let more: &[&str] = if back { &["--back"] } else { &[] };
        let ended = self.run(more, None)?;
        if ended.code != Some(0) || !ended.switched {
            return Err(Error::Round(format!(
                "the cutover ended with {:?}; it said:\n{}",
                ended.code, ended.said
            )));
        }
        self.writes(1)?;
        rehearsed.gaps.push(self.application()?.longest_gap().as_secs_f64());
        rehearsed.write_stops.extend(write_stop(&ended.report));
        self.note(rehearsed, if back { "cut over back" } else { "cut over" });
        Ok(())
    }

    /// A cutover that is killed at a step, and then gone on with.
    fn killed(&mut self, rng: &mut Rng, rehearsed: &mut Rehearsed) -> Result<()> {
        let step = STEPS[rng.index(STEPS.len())];
        let delay = Duration::from_millis(rng.below(20));
        let first = self.run(&[], Some((step, delay)))?;
        self.note(
            rehearsed,
            &format!("killed {} ms behind the beginning of step {step}: {:?}", delay.as_millis(), first.code),
        );
        if first.code == Some(0) {
            // It was done before the signal came.
            return Ok(());
        }
        let mut switched = first.switched;
        // Who has moved the applications goes on.
        if !switched && rng.chance(1, 2) {
            let undone = self.run(&["--undo"], None)?;
            self.note(rehearsed, &format!("undone: {:?}", undone.code));
            let nothing_to_do = undone.said.contains("is under way");
            if undone.code != Some(0) && !nothing_to_do {
                return Err(Error::Round(format!("it could not be undone; it said:\n{}", undone.said)));
            }
            self.writes(self.rounds.rate / 10)?;
        }
        if !switched {
            self.again()?;
        }
        let ended = self.run(&[], None)?;
        switched |= ended.switched;
        let done =
            ended.code == Some(0) || (switched && ended.said.contains("has been closed at the target"));
        if !done || !switched {
            return Err(Error::Round(format!(
                "the next run ended with {:?}; it said:\n{}",
                ended.code, ended.said
            )));
        }
        self.note(rehearsed, "gone on with, and cut over");
        Ok(())
    }

    /// The migration runs, unless it is kept from the target.
    fn again(&mut self) -> Result<()> {
        if self.target.state(ID)?.iter().any(|(field, _)| field == "fence") {
            return Ok(());
        }
        // It may just be finding out that it was kept out for a moment.
        let before = self.target.owner(ID)?;
        self.forward.kill9();
        self.forward.start()?;
        let begun = Instant::now();
        while self.target.owner(ID)?.is_none_or(|owner| before.as_ref() == Some(&owner)) {
            self.forward.must_run()?;
            if begun.elapsed() > PATIENCE {
                return Err(Error::Round("the migration is not gone on with".to_owned()));
            }
            std::thread::sleep(TICK);
        }
        self.wait_for_streams(false)
    }

    /// Starts the program `cutover`, moves the application when it says so, and kills it at a step if that is asked for.
    fn run(&mut self, more: &[&str], kill: Option<(&str, Duration)>) -> Result<Ended> {
        self.runs += 1;
        let file = |name: &str| self.dir.join(format!("{name}-{}", self.runs));
        let (asked, moved, report, log) =
            (file("switch"), file("switched"), file("report.json"), file("cutover.log"));
        let switch =
            format!(": > '{}'; while [ ! -e '{}' ]; do sleep 0.005; done", asked.display(), moved.display());
        let (from, to, shown) = (self.source.url(), self.target.url(), report.display().to_string());
        let args = [
            "--source",
            &from,
            "--target",
            &to,
            "--id",
            ID,
            "--stop-writes",
            self.stop,
            "--on-switch",
            &switch,
            "--report",
            &shown,
            "--backlog",
            "32m",
            // A busy machine takes its time, and what is late is no loss.
            "--window",
            "240s",
            "--expiry-tolerance",
            self.tolerance,
        ];
        let args = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        let mut tool = Tool::new(&self.rounds.programs.cutover, args, &log);
        let back = more.contains(&"--back");
        tool.start()?;
        let begun = Instant::now();
        let (mut switched, mut at) = (false, None);
        let code = loop {
            if !switched && asked.exists() {
                self.switch(back)?;
                switched = true;
                fs::write(&moved, "").map_err(|source| Error::File {
                    what: "written",
                    path: moved.clone(),
                    source,
                })?;
            }
            if let Some((step, delay)) = kill {
                let text = fs::read_to_string(&log).unwrap_or_default();
                if at.is_none() && text.lines().any(|line| line.ends_with(&format!("s {step}"))) {
                    at = Some(Instant::now() + delay);
                }
                if at.is_some_and(|at| Instant::now() >= at)
                    && tool.wait(Duration::ZERO).is_none()
                    && tool.pid().is_some()
                {
                    tool.kill9();
                    // Its switch may have been asked for, and be on its way.
                    break None;
                }
            }
            if let Some(status) = tool.wait(TICK) {
                break Some(status.code().unwrap_or(-1));
            }
            if tool.pid().is_none() {
                break Some(0);
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::Round(format!("the program does not end; it said:\n{}", tool.said())));
            }
        };
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        Ok(Ended { code, switched, report: read(&report), said: read(&log) })
    }

    /// Has the application write to the other side.
    fn switch(&self, back: bool) -> Result<()> {
        let to = if back { &self.source } else { &self.target };
        if back {
            // Who was turned off is turned on by whoever switches.
            for mut client in to.clients()? {
                client.call(&["ACL", "SETUSER", USER.0, "on"])?;
            }
        }
        self.application()?.switch(to.place());
        Ok(())
    }

    fn wait_for_streams(&mut self, back: bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let (tool, end) = match back {
                true => (&mut self.back, &self.source),
                false => (&mut self.forward, &self.target),
            };
            tool.must_run()?;
            let state = end.state(&if back { format!("{ID}.back") } else { ID.to_owned() })?;
            let links: Vec<_> = state.iter().filter(|(field, _)| field.starts_with("link:")).collect();
            let begun_by = state.iter().any(|(field, _)| field == "owner");
            if begun_by && !links.is_empty() && links.iter().all(|(_, at)| at.starts_with("stream ")) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::Round(format!("nothing is followed; the program said:\n{}", tool.said())));
            }
            std::thread::sleep(TICK);
        }
    }

    fn application(&self) -> Result<&Application> {
        self.application.as_ref().ok_or_else(|| Error::Round("nobody writes".into()))
    }

    /// Waits until so many more writes were acknowledged.
    fn writes(&self, more: u64) -> Result<()> {
        match self.application()?.wait_for(more, PATIENCE) {
            true => Ok(()),
            false => Err(Error::Round("the application cannot write".into())),
        }
    }

    fn note(&self, rehearsed: &mut Rehearsed, what: &str) {
        rehearsed.happened.push(format!("{:7.3} s {what}", self.begun.elapsed().as_secs_f64()));
    }
}

/// For how long nobody wrote, out of a report.
fn write_stop(report: &str) -> Option<f64> {
    let (_, rest) = report.split_once("\"write_stop_seconds\": ")?;
    rest.split([',', '\n']).next()?.trim().parse().ok()
}
