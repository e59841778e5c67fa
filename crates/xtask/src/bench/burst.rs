//! A burst of writes during the incremental phase, beside a replica.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use keyferry_testkit::{ServerBinary, digest};

use super::page::{Table, mebibytes, seconds, times};
use super::{MARK, Tool, client, forget, has, start, wait_for};
use crate::cargo::succeed;
use crate::failure::{Failure, Outcome};

/// Commands of the burst.
const COMMANDS: f64 = 2e6;

struct Figures {
    burst: f64,
    late: f64,
    tool_cpu: Option<f64>,
    tool_rss_kib: Option<u64>,
    target_cpu: f64,
}

pub(super) fn measure(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let program = Tool::program()?;
    let Some(benchmark) = binary.benchmark() else {
        return Err(Failure::new(format!("{} has no benchmark program beside it", binary.name)));
    };
    let commands = (COMMANDS * scale) as u64;
    let replica = run(binary, &benchmark, commands, None)?;
    let tool = run(binary, &benchmark, commands, Some(&program))?;
    let about = format!(
        "{commands} SETs of 100 bytes on a million keys, sent to the source by its own benchmark program (`-P 64`) after \
         the snapshot was done. \"Late\" is the time from the last reply of the source to the moment when the target has \
         everything."
    );
    let header = ["", "burst", "late", "tool CPU", "target CPU", "tool peak memory"];
    let mut table = Table::new("burst", "Burst of writes", about, &header);
    for (name, figures) in [("replica", &replica), ("keyferry", &tool)] {
        let none = || "-".to_owned();
        table.row([
            name.to_owned(),
            seconds(figures.burst),
            format!("{:.3} s", figures.late),
            figures.tool_cpu.map_or_else(none, seconds),
            seconds(figures.target_cpu),
            figures.tool_rss_kib.map_or_else(none, mebibytes),
        ]);
    }
    let share = tool.tool_cpu.unwrap_or(0.0) / tool.target_cpu;
    table.row([
        "keyferry / replica".to_owned(),
        times(tool.burst / replica.burst),
        String::new(),
        format!("{} of the target's", times(share)),
        times(tool.target_cpu / replica.target_cpu),
        String::new(),
    ]);
    Ok(vec![table])
}

fn run(
    binary: &ServerBinary,
    benchmark: &Path,
    commands: u64,
    program: Option<&PathBuf>,
) -> Outcome<Figures> {
    let (source, target) = (start(binary)?, start(binary)?);
    let (mut a, mut b) = (client(&source)?, client(&target)?);
    let tool = match program {
        Some(program) => Some(Tool::start(program, &source, &target)?),
        None => {
            b.call(&["REPLICAOF", "127.0.0.1", &source.port().to_string()])?;
            None
        }
    };
    let before = format!("{MARK}-before");
    a.call(&["SET", &before, "1"])?;
    wait_for("the incremental phase begins", || has(&mut b, &before))?;
    println!(
        "burst: {commands} SETs, copied by {}",
        if program.is_some() { "keyferry" } else { "a replica" }
    );
    let target_cpu = target.cpu_seconds()?;
    let tool_cpu = tool.as_ref().map(Tool::cpu_seconds).transpose()?;
    let begin = Instant::now();
    succeed(
        Command::new(benchmark)
            .args(["-p", &source.port().to_string(), "-t", "set", "-n", &commands.to_string()])
            .args(["-r", "1000000", "-d", "100", "-P", "64", "-q"])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    )?;
    a.call(&["SET", MARK, "1"])?;
    let burst = begin.elapsed().as_secs_f64();
    let end = Instant::now();
    wait_for("the burst arrives", || has(&mut b, MARK))?;
    let late = end.elapsed().as_secs_f64();
    let target_cpu = target.cpu_seconds()? - target_cpu;
    let tool_cpu = match (&tool, tool_cpu) {
        (Some(tool), Some(before)) => Some(tool.cpu_seconds()? - before),
        _ => None,
    };
    let used = tool.map(Tool::finish).transpose()?;
    forget(&mut b)?;
    if digest(&mut a)? != digest(&mut b)? {
        return Err(Failure::new("burst: the copy differs from its source"));
    }
    Ok(Figures { burst, late, tool_cpu, tool_rss_kib: used.map(|used| used.peak_rss_kib), target_cpu })
}
