//! What exactly-once costs, beside at-least-once, while the target catches up.

use std::path::PathBuf;
use std::time::Instant;

use keyferry_testkit::{Client, Cluster, CompareOptions, Server, ServerBinary, Side, compare_sides, process};

use super::page::{Table, seconds, times};
use super::{MARK, PATIENCE, Tool, client, wait_for};
use crate::failure::{Failure, Outcome};

/// Commands that the target is behind.
const COMMANDS: f64 = 600_000.0;

/// Keys that tell, together, that everything has arrived: in a cluster they are in as many slots.
const MARKS: u32 = 300;

/// Runs of which the fastest counts.
const RUNS: usize = 3;

/// Commands sent at once.
const STEP: u64 = 1000;

/// A target.
enum Target {
    Server(Box<Server>),
    Cluster(Cluster),
}

/// What one run took.
struct Figures {
    seconds: f64,
    target_cpu: f64,
    tool_cpu: f64,
}

pub(super) fn measure(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let program = Tool::program()?;
    let commands = (COMMANDS * scale) as u64;
    let about = format!(
        "{commands} commands of the stream that the source has ready, while the program catches up with them. One in five, or \
         each, is such that its repetition would be seen: INCR, APPEND, RPUSH, ZINCRBY; the others are SETs of 100 bytes. The \
         fastest of {RUNS} runs by turns."
    );
    let header = ["target, share of non-blind", "delivery", "time", "commands/s", "target CPU", "tool CPU"];
    let mut table = Table::new("delivery", "Exactly once, beside at least once", about, &header);
    for (cluster, every, what) in
        [(false, 5, "one server, 20 %"), (false, 1, "one server, 100 %"), (true, 5, "3 primaries, 20 %")]
    {
        const WAYS: [&str; 2] = ["at-least-once", "exactly-once"];
        let mut both: [Option<Figures>; 2] = [None, None];
        for round in 0..RUNS {
            for (way, fastest) in WAYS.iter().zip(&mut both) {
                println!("delivery: {what}, {way}, run {}", round + 1);
                let figures = run(binary, &program, commands, cluster, every, way)?;
                if fastest.as_ref().is_none_or(|fastest| figures.seconds < fastest.seconds) {
                    *fastest = Some(figures);
                }
            }
        }
        let [Some(least), Some(exact)] = &both else { continue };
        for (delivery, figures) in WAYS.iter().zip([least, exact]) {
            table.row([
                what.to_owned(),
                (*delivery).to_owned(),
                seconds(figures.seconds),
                format!("{:.0}", commands as f64 / figures.seconds),
                seconds(figures.target_cpu),
                seconds(figures.tool_cpu),
            ]);
        }
        table.row([
            what.to_owned(),
            "exactly once / at least once".to_owned(),
            String::new(),
            times(least.seconds / exact.seconds),
            times(exact.target_cpu / least.target_cpu),
            times(exact.tool_cpu / least.tool_cpu),
        ]);
    }
    Ok(vec![table])
}

fn run(
    binary: &ServerBinary,
    program: &PathBuf,
    commands: u64,
    cluster: bool,
    every: u64,
    delivery: &str,
) -> Outcome<Figures> {
    let source = Server::builder(binary)
        .config("repl-backlog-size", "1gb")
        .config("client-output-buffer-limit", "replica 0 0 0")
        .timeout(PATIENCE)
        .start()?;
    let target = match cluster {
        true => Target::Cluster(Cluster::builder(binary).primaries(3).start()?),
        false => Target::Server(Box::new(super::start(binary)?)),
    };
    let tool = Tool::start_with(program, &source.url(), &target.url(), &["--delivery", delivery])?;
    let mut a = client(&source)?;
    mark(&mut a, "before")?;
    wait_for("the incremental phase begins", || target.has("before"))?;
    // While it stands still, the source has it all ready.
    tool.signal("STOP")?;
    fill(&mut a, commands, every)?;
    mark(&mut a, MARK)?;
    let (target_cpu, tool_cpu) = (target.cpu_seconds()?, tool.cpu_seconds()?);
    let begin = Instant::now();
    tool.signal("CONT")?;
    wait_for("everything arrives", || target.has(MARK))?;
    let seconds = begin.elapsed().as_secs_f64();
    let (target_cpu, tool_cpu) = (target.cpu_seconds()? - target_cpu, tool.cpu_seconds()? - tool_cpu);
    tool.finish()?;
    let options = CompareOptions::default().without_bookkeeping();
    let comparison = compare_sides(Side::server(&source)?, target.side()?, &options)?;
    if !comparison.is_equal() {
        return Err(Failure::new(format!("delivery: the copy differs from its source: {comparison}")));
    }
    Ok(Figures { seconds, target_cpu, tool_cpu })
}

fn mark(client: &mut Client, name: &str) -> Outcome {
    for n in 0..MARKS {
        client.queue(&["SET", &format!("{name}:{n}"), "1"])?;
    }
    client.flush()?;
    client.replies(MARKS as usize)?;
    Ok(())
}

fn fill(client: &mut Client, commands: u64, every: u64) -> Outcome {
    let value = "v".repeat(100);
    for start in (0..commands).step_by(STEP as usize) {
        let end = commands.min(start + STEP);
        for n in start..end {
            let key = (n.wrapping_mul(7919)) % 50_000;
            if n % every == 0 {
                match (n / every) % 4 {
                    0 => client.queue(&["INCR", &format!("n:{key}")])?,
                    1 => client.queue(&["APPEND", &format!("s:{key}"), "0123456789"])?,
                    2 => client.queue(&["RPUSH", &format!("l:{key}"), "0123456789"])?,
                    _ => client.queue(&["ZINCRBY", &format!("z:{key}"), "1.5", "member"])?,
                }
            } else {
                client.queue(&["SET", &format!("k:{key}"), &value])?;
            }
        }
        client.flush()?;
        client.replies((end - start) as usize)?;
    }
    Ok(())
}

impl Target {
    fn url(&self) -> String {
        match self {
            Target::Server(server) => server.url(),
            Target::Cluster(cluster) => cluster.url(),
        }
    }

    /// True when all marks of this name are there.
    fn has(&self, name: &str) -> Outcome<bool> {
        let is_there = |reply: keyferry_testkit::Result<i64>| Ok::<_, Failure>(reply? == 1);
        match self {
            // In one lane the last of them tells of all.
            Target::Server(server) => {
                is_there(client(server)?.int(&["EXISTS", &format!("{name}:{}", MARKS - 1)]))
            }
            Target::Cluster(cluster) => {
                let mut client = cluster.client()?;
                for n in (0..MARKS).rev() {
                    if !is_there(client.int(&["EXISTS", &format!("{name}:{n}")]))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    fn side(&self) -> Outcome<Side<'static>> {
        Ok(match self {
            Target::Server(server) => Side::server(server)?,
            Target::Cluster(cluster) => Side::cluster(cluster)?,
        })
    }

    fn cpu_seconds(&self) -> Outcome<f64> {
        match self {
            Target::Server(server) => Ok(server.cpu_seconds()?),
            Target::Cluster(cluster) => {
                let mut sum = 0.0;
                for node in cluster.nodes() {
                    sum += node.cpu_seconds()?;
                }
                Ok(sum)
            }
        }
    }
}

impl Tool {
    fn signal(&self, name: &'static str) -> Outcome {
        Ok(process::signal(self.child.id(), name)?)
    }
}
