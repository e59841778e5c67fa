//! A full migration beside the target's own REPLICAOF.

use std::path::PathBuf;
use std::time::Instant;

use keyferry_testkit::data::{Mixed, Shape, big};
use keyferry_testkit::{Server, ServerBinary, digest};

use super::page::{Table, mebibytes, seconds, times};
use super::{MARK, Tool, client, forget, has, replicas, start, wait_for};
use crate::failure::{Failure, Outcome};

/// Payload of the one large key, in bytes.
const LARGE_KEY: f64 = 1e9;

struct Figures {
    wall: f64,
    tool_cpu: Option<f64>,
    tool_rss_kib: Option<u64>,
    target_cpu: f64,
    source_cpu: f64,
}

pub(super) fn measure(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let program = Tool::program()?;
    let source = start(binary)?;
    let mixed = Mixed::scaled(scale);
    println!("full sync: filling the source with {} keys", mixed.keys);
    let elements = mixed.fill(&mut client(&source)?)?;
    let about = format!(
        "{} keys in {} databases with {elements} elements, from one server to an empty one. Time from the start to the \
         arrival of a key that was written right after the snapshot had begun. The source is told not to wait for further \
         replicas; as it comes, it would make both wait five seconds more.",
        mixed.keys, mixed.databases
    );
    let first = table("full-sync", "Full migration of mixed data", about, &program, binary, &source)?;

    let large = (LARGE_KEY * scale) as u64;
    println!("full sync: adding a hash of {large} bytes");
    big(&mut client(&source)?, 1, "large:hash", Shape::Hash, large)?;
    let about = format!("The same data and one hash with {large} bytes of fields and values.");
    let second =
        table("full-sync-large", "Full migration with one large key", about, &program, binary, &source)?;
    Ok(vec![first, second])
}

fn table(
    id: &'static str,
    title: &str,
    about: String,
    program: &PathBuf,
    binary: &ServerBinary,
    source: &Server,
) -> Outcome<Table> {
    let expected = source_digest(source)?;
    let replica = run(binary, source, None, &expected)?;
    let tool = run(binary, source, Some(program), &expected)?;
    let header = ["", "wall time", "tool CPU", "target CPU", "source CPU", "tool peak memory"];
    let mut table = Table::new(id, title, about, &header);
    for (name, figures) in [("REPLICAOF", &replica), ("keyferry", &tool)] {
        let none = || "-".to_owned();
        table.row([
            name.to_owned(),
            seconds(figures.wall),
            figures.tool_cpu.map_or_else(none, seconds),
            seconds(figures.target_cpu),
            seconds(figures.source_cpu),
            figures.tool_rss_kib.map_or_else(none, mebibytes),
        ]);
    }
    table.row([
        "keyferry / REPLICAOF".to_owned(),
        times(tool.wall / replica.wall),
        format!("{} of the target's", times(tool.tool_cpu.unwrap_or(0.0) / tool.target_cpu)),
        times(tool.target_cpu / replica.target_cpu),
        times(tool.source_cpu / replica.source_cpu),
        String::new(),
    ]);
    Ok(table)
}

/// The digest of the source with the mark in it, as every copy has to have it.
fn source_digest(source: &Server) -> Outcome<String> {
    let mut client = client(source)?;
    client.call(&["SET", MARK, "1"])?;
    Ok(digest(&mut client)?)
}

/// Copies the source to a new server, by the tool or as its replica, and checks the copy.
fn run(
    binary: &ServerBinary,
    source: &Server,
    program: Option<&PathBuf>,
    expected: &str,
) -> Outcome<Figures> {
    let target = start(binary)?;
    let (mut a, mut b) = (client(source)?, client(&target)?);
    a.call(&["DEL", MARK])?;
    let (source_cpu, target_cpu) = (source.cpu_seconds()?, target.cpu_seconds()?);
    println!("full sync: copying by {}", if program.is_some() { "keyferry" } else { "REPLICAOF" });
    let begin = Instant::now();
    let tool = match program {
        Some(program) => Some(Tool::start(program, source, &target)?),
        None => {
            b.call(&["REPLICAOF", "127.0.0.1", &source.port().to_string()])?;
            None
        }
    };
    wait_for("a replica connects", || replicas(&mut a))?;
    a.call(&["SET", MARK, "1"])?;
    wait_for("the data arrives", || has(&mut b, MARK))?;
    let wall = begin.elapsed().as_secs_f64();
    let target_cpu = target.cpu_seconds()? - target_cpu;
    let source_cpu = source.cpu_seconds()? - source_cpu;
    let used = tool.map(Tool::finish).transpose()?;
    b.call(&["REPLICAOF", "NO", "ONE"])?;
    forget(&mut b)?;
    if digest(&mut b)? != expected {
        return Err(Failure::new("full sync: the copy differs from its source"));
    }
    wait_for("the replica has gone", || Ok(!replicas(&mut a)?))?;
    Ok(Figures {
        wall,
        tool_cpu: used.as_ref().map(|used| used.cpu_seconds),
        tool_rss_kib: used.as_ref().map(|used| used.peak_rss_kib),
        target_cpu,
        source_cpu,
    })
}
