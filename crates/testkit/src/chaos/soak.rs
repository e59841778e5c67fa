use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::binaries::ServerBinary;
use crate::chaos::tool::Tool;
use crate::client::Client;
use crate::data::{self, Counts, Mixed, Writer, WriterOptions};
use crate::error::{Error, Result};
use crate::process;
use crate::proxy::Proxy;
use crate::server::Server;
use crate::{CompareOptions, compare_with};

/// How often everything is looked at.
const SAMPLE: Duration = Duration::from_millis(500);

/// Commands a second that are some times what the network below lets through. What is written while that is measured has to
/// get through as well.
const FLOOD: u64 = 30_000;

/// The network to the target: so many bytes at once, each time after this pause. It, and not how busy the machine is, says
/// what the target can take.
const NARROW: (usize, Duration) = (4 << 10, Duration::from_millis(4));

/// The share of the capacity that is written.
const SHARE: f64 = 0.8;

/// The least that must have been written of that for the rest to mean anything.
const ENOUGH: f64 = 0.85;

/// How often the target stands still, and for how long.
const STILL_EVERY: Duration = Duration::from_secs(40);
const STILL: Duration = Duration::from_secs(3);

/// How long the writer may take to find its rate.
const SETTLING: Duration = Duration::from_secs(8);

/// For how long the source may be ahead, by the rate of its writes. The program tells it what is applied once a second.
const LAG: Duration = Duration::from_secs(5);

/// How much the memory may go up between the middle of the time and its end.
const GROWTH: u64 = 16 << 10;

/// How long any single wait may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A migration that runs for a long time under a load that it can just bear.
#[derive(Debug, Clone)]
pub struct Soak {
    /// The program `migrate`.
    pub program: PathBuf,
    /// What both sides run.
    pub binary: &'static ServerBinary,
    /// For how long it is written to, after the capacity was measured.
    pub time: Duration,
    /// For how long the capacity is measured.
    pub measuring: Duration,
    /// Keys of the data that is there before.
    pub keys: u64,
    /// The bound of the journal, in bytes.
    pub journal_max: u64,
    /// Where everything is kept while it runs, and afterwards if it fails.
    pub keep: PathBuf,
}

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Seconds since the beginning.
    pub at: f64,
    /// Resident memory of the program, in KiB.
    pub rss_kib: u64,
    /// Bytes in the journal's directory.
    pub journal: u64,
    /// Bytes of the source's writes that the program has not confirmed as applied.
    pub lag: u64,
    /// Whether the target stands still, or did so lately.
    pub disturbed: bool,
}

/// What a [`Soak`] has shown.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Soaked {
    /// Bytes of the stream a second that the target takes.
    pub capacity: f64,
    /// Bytes of the stream a second that were written.
    pub written: f64,
    /// Commands that were written in all.
    pub commands: u64,
    /// What was seen.
    pub samples: Vec<Sample>,
    /// Keys that both sides hold at the end.
    pub keys: u64,
}

impl Soaked {
    /// The most that `of` says of the samples that `which` chooses by their place in time, from 0 to 1.
    fn most(&self, which: std::ops::Range<f64>, of: impl Fn(&Sample) -> u64) -> u64 {
        let end = self.samples.last().map_or(1.0, |sample| sample.at.max(1e-9));
        let chosen = self.samples.iter().filter(|sample| which.contains(&(sample.at / end * 0.999_999)));
        chosen.map(of).max().unwrap_or(0)
    }
}

impl fmt::Display for Soaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        writeln!(
            f,
            "capacity {:.2} MiB of stream a second, written {:.2} MiB/s ({:.0} %), {} commands, {} keys equal",
            mib(self.capacity),
            mib(self.written),
            100.0 * self.written / self.capacity,
            self.commands,
            self.keys
        )?;
        let rss = |range| self.most(range, |sample| sample.rss_kib) as f64 / 1024.0;
        writeln!(
            f,
            "memory   at most {:.1} MiB in the first third, {:.1} in the second, {:.1} in the last",
            rss(0.0..1.0 / 3.0),
            rss(1.0 / 3.0..2.0 / 3.0),
            rss(2.0 / 3.0..1.0)
        )?;
        let journal = self.most(0.0..1.0, |sample| sample.journal) as f64;
        writeln!(f, "journal  at most {:.1} MiB", mib(journal))?;
        let lag = |disturbed: bool| {
            let of = |sample: &Sample| if sample.disturbed == disturbed { sample.lag } else { 0 };
            self.most(0.0..1.0, of) as f64
        };
        write!(
            f,
            "lag      at most {:.2} MiB ({:.1} s of writes), {:.2} MiB after the target stood still",
            mib(lag(false)),
            lag(false) / self.written.max(1.0),
            mib(lag(true))
        )
    }
}

impl Soak {
    /// Runs it.
    ///
    /// # Errors
    /// [`Error::Round`] when memory, journal or lag are not bounded, the program ends by itself, or both sides differ at the
    /// end; the message says where logs and directories are.
    pub fn run(&self, tell: impl Fn(&str)) -> Result<Soaked> {
        let made = std::fs::create_dir_all(&self.keep)
            .and_then(|()| tempfile::Builder::new().prefix("soak-").tempdir_in(&self.keep));
        let dir = made.map_err(|source| Error::File { what: "made", path: self.keep.clone(), source })?;
        match self.run_in(dir.path(), tell) {
            Ok(soaked) => Ok(soaked),
            Err(error) => {
                Err(Error::Round(format!("{error}\nlogs and directories: {}", dir.keep().display())))
            }
        }
    }

    fn run_in(&self, dir: &Path, tell: impl Fn(&str)) -> Result<Soaked> {
        let source = Server::builder(self.binary).config("repl-backlog-size", "64mb").start()?;
        let target = Server::builder(self.binary).start()?;
        let proxy = Proxy::start(target.addr())?;
        Mixed { keys: self.keys, databases: 3, ..Mixed::default() }.fill(&mut source.client()?)?;
        let journal = dir.join("journal");
        let mut tool =
            Tool::new(&self.program, self.arguments(&source, &proxy, &journal), &dir.join("tool.log"));
        tool.start()?;
        let mut watch =
            Watch { client: source.client()?, tool: &mut tool, journal: &journal, begun: Instant::now() };
        watch.until_following()?;
        let (fragment, delay) = NARROW;
        proxy.fragment(fragment);
        proxy.delay(delay);
        tell("following; the capacity is measured");
        let flood = write(&source, FLOOD)?;
        let capacity = watch.capacity(&target, self.measuring)?;
        flood.stop()?;
        watch.until_applied()?;
        tell(&format!("the target takes {:.2} MiB of stream a second", capacity / f64::from(1 << 20)));
        let writer = write(&source, 1000)?;
        watch.begun = Instant::now();
        let (samples, written) = watch.samples(&target, &writer, capacity * SHARE, self.time)?;
        let Counts { commands, errors, first_error, .. } = writer.stop()?;
        if errors > 0 {
            return Err(Error::Round(format!(
                "the source refused a command: {}",
                first_error.unwrap_or_default()
            )));
        }
        data::settle(&mut source.client()?)?;
        watch.until_applied()?;
        tool.end(PATIENCE)?;
        let options = CompareOptions::default().without_bookkeeping();
        let comparison = compare_with(&mut source.client()?, &mut target.client()?, &options)?;
        if !comparison.is_equal() {
            return Err(Error::Round(format!("the sides differ: {comparison}")));
        }
        let soaked = Soaked { capacity, written, commands, samples, keys: comparison.keys_a };
        self.judge(&soaked)?;
        Ok(soaked)
    }

    fn arguments(&self, source: &Server, target: &Proxy, journal: &Path) -> Vec<String> {
        let (source, target) = (source.url(), format!("redis://{}", target.addr()));
        let (journal, bound) = (journal.display().to_string(), self.journal_max.to_string());
        let options = [
            ["--source", &source],
            ["--target", &target],
            ["--journal", &journal],
            ["--journal-max", &bound],
            ["--id", "soak"],
            ["--until", "forever"],
        ];
        options.concat().into_iter().map(str::to_owned).collect()
    }

    fn judge(&self, soaked: &Soaked) -> Result<()> {
        let (middle, last) =
            (soaked.most(1.0 / 3.0..2.0 / 3.0, |s| s.rss_kib), soaked.most(2.0 / 3.0..1.0, |s| s.rss_kib));
        let journal = soaked.most(0.0..1.0, |sample| sample.journal);
        let lag = soaked.most(0.0..1.0, |sample| if sample.disturbed { 0 } else { sample.lag });
        let wrong = if soaked.written < soaked.capacity * SHARE * ENOUGH {
            "the machine is too busy to write as much as the target takes".to_owned()
        } else if last > middle + middle / 8 + GROWTH {
            format!("the program's memory goes up: {middle} KiB in the middle, {last} KiB at the end")
        } else if journal > self.journal_max + self.journal_max / 4 {
            format!("the journal has {journal} bytes, its bound is {}", self.journal_max)
        } else if lag as f64 > soaked.written * LAG.as_secs_f64() {
            format!("the target is {lag} bytes behind, more than is written in {} s", LAG.as_secs())
        } else if soaked.samples.iter().rev().take(4).any(|sample| sample.rss_kib == 0) {
            "the program could not be watched".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Round(format!("{wrong}\n{soaked}")))
    }
}

fn write(source: &Server, rate: u64) -> Result<Writer> {
    Writer::start(source, WriterOptions { rate, threads: 2, keys: 200, ..WriterOptions::default() })
}

/// Looks at the program from outside.
struct Watch<'a> {
    client: Client,
    tool: &'a mut Tool,
    journal: &'a Path,
    begun: Instant,
}

impl Watch<'_> {
    /// The source's offset.
    fn offset(&mut self) -> Result<u64> {
        let offset = self.client.info("replication", "master_repl_offset")?;
        Ok(offset.and_then(|offset| offset.parse().ok()).unwrap_or(0))
    }

    /// What the program has confirmed, once it is connected.
    fn applied(&mut self) -> Result<Option<u64>> {
        let text = self.client.text(&["INFO", "replication"])?;
        let link = text.lines().find(|line| line.starts_with("slave0:") && line.contains("state=online"));
        Ok(link.and_then(|link| link.split(',').find_map(|f| f.strip_prefix("offset="))?.parse().ok()))
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(self)? {
            self.tool.must_run()?;
            if Instant::now() >= end {
                return Err(Error::Round(format!(
                    "not {what} in time; the program said:\n{}",
                    self.tool.said()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn until_following(&mut self) -> Result<()> {
        self.until("following", |watch| {
            Ok(watch.applied()?.is_some() && watch.tool.said().contains("following"))
        })
    }

    /// Waits until what was written before this call is applied.
    fn until_applied(&mut self) -> Result<()> {
        let goal = self.offset()?;
        self.until("caught up", |watch| Ok(watch.applied()?.is_some_and(|applied| applied >= goal)))
    }

    /// Bytes of the stream a second that the target takes while there is always more: it stands still until there is
    /// enough.
    fn capacity(&mut self, target: &Server, time: Duration) -> Result<f64> {
        target.pause()?;
        std::thread::sleep(STILL);
        target.resume()?;
        // The time between two confirmations, so that the second between them does not count.
        let next = |watch: &mut Self| -> Result<(u64, Instant)> {
            let before = watch.applied()?;
            let mut now = before;
            watch.until("confirmed", |watch| {
                now = watch.applied()?;
                Ok(now > before)
            })?;
            Ok((now.unwrap_or(0), Instant::now()))
        };
        let first = next(self)?;
        let mut last = first;
        while last.1.duration_since(first.1) < time {
            last = next(self)?;
            if self.offset()?.saturating_sub(last.0) < 64 << 10 {
                break;
            }
        }
        let seconds = last.1.duration_since(first.1).as_secs_f64();
        if last.0 <= first.0 || seconds <= 0.0 {
            return Err(Error::Round("the target's capacity could not be measured".into()));
        }
        Ok((last.0 - first.0) as f64 / seconds)
    }

    /// Looks at everything for so long, while so many bytes a second are written; the target stands still now and then.
    /// Also gives how many bytes a second were.
    fn samples(
        &mut self,
        target: &Server,
        writer: &Writer,
        wanted: f64,
        time: Duration,
    ) -> Result<(Vec<Sample>, f64)> {
        let begun = Instant::now();
        let mut samples = Vec::new();
        let mut still = begun + STILL_EVERY / 2;
        // The writer finds its rate meanwhile.
        let mut disturbed_until = begun + SETTLING;
        let mut stopped: Option<Instant> = None;
        let (mut rate, mut before) = (1000.0, (begun, self.offset()?));
        let mut settled = before;
        while begun.elapsed() < time {
            std::thread::sleep(SAMPLE);
            self.tool.must_run()?;
            let now = Instant::now();
            if stopped.is_some_and(|since| now - since >= STILL) {
                target.resume()?;
                stopped = None;
                // At four fifths of the capacity one second of standing still takes four to make up for.
                disturbed_until = now + STILL * 6;
            }
            if stopped.is_none() && now >= still && begun.elapsed() + STILL * 8 < time {
                target.pause()?;
                stopped = Some(now);
                still = now + STILL_EVERY;
            }
            let (applied, offset) = (self.applied()?, self.offset()?);
            samples.push(Sample {
                at: self.begun.elapsed().as_secs_f64(),
                rss_kib: self.tool.pid().and_then(|pid| process::rss_kib(pid).ok()).unwrap_or(0),
                journal: size_of(self.journal),
                lag: applied.map_or(offset, |applied| offset.saturating_sub(applied)),
                disturbed: stopped.is_some() || now < disturbed_until,
            });
            let written = offset.saturating_sub(before.1) as f64 / (now - before.0).as_secs_f64();
            before = (now, offset);
            // Small steps: what commands take changes from moment to moment.
            rate = (rate * (wanted / written.max(wanted / 20.0)).clamp(0.8, 1.25)).clamp(100.0, FLOOD as f64);
            writer.set_rate(rate as u64);
            if begun.elapsed() < SETTLING {
                settled = before;
            }
        }
        if stopped.is_some() {
            target.resume()?;
        }
        let written =
            before.1.saturating_sub(settled.1) as f64 / (before.0 - settled.0).as_secs_f64().max(1e-3);
        Ok((samples, written))
    }
}

/// Bytes of all files below a directory.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(of) if of.is_dir() => size_of(&entry.path()),
        Ok(of) => of.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(samples: impl IntoIterator<Item = (u64, u64, u64)>) -> Soaked {
        let samples = samples.into_iter().enumerate().map(|(i, (rss_kib, journal, lag))| Sample {
            at: 1.0 + i as f64,
            rss_kib,
            journal,
            lag,
            disturbed: false,
        });
        Soaked { capacity: 1000.0, written: 800.0, commands: 1, samples: samples.collect(), keys: 1 }
    }

    #[test]
    fn what_grows_is_found() {
        let soak = Soak {
            program: PathBuf::new(),
            binary: crate::any().unwrap(),
            time: Duration::ZERO,
            measuring: Duration::ZERO,
            keys: 0,
            journal_max: 1000,
            keep: PathBuf::new(),
        };
        soak.judge(&soaked((0..30).map(|_| (50_000, 900, 100)))).unwrap();
        let failure = |samples: &Soaked| soak.judge(samples).unwrap_err().to_string();
        let growing = soaked((0..30).map(|i| (50_000 + i * 5_000, 900, 100)));
        assert!(failure(&growing).contains("memory goes up"));
        assert!(failure(&soaked((0..30).map(|i| (1, i * 100, 1)))).contains("journal has 2900 bytes"));
        assert!(failure(&soaked((0..30).map(|i| (1, 1, i * 200)))).contains("5800 bytes behind"));
        assert!(failure(&soaked((0..30).map(|i| (20 - i.min(20), 1, 1)))).contains("watched"));
    }
}
