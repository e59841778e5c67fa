//! The program `inspect`, beside a server that checks and loads the same file, and other programs that write JSON.

use std::path::{Path, PathBuf};
use std::process::Command;

use keyferry_testkit::data::{Mixed, fill};
use keyferry_testkit::{Client, Rng, Server, ServerBinary, named};

use super::page::{Table, mebibytes, seconds, times};
use super::rdb_elements::one_set;
use super::rdb_walk::{Fill, Taken, compete, save};
use super::{PATIENCE, start, wait_for};
use crate::cargo::release;
use crate::failure::{Context as _, Failure, Outcome};

const MEMBERS: f64 = 5e6;
/// Keys of the file for the other programs, of which one reads about a megabyte a second.
const PEER_KEYS: f64 = 200_000.0;
/// The last server whose files the other programs read.
const PEER_SERVER: &str = "redis-6.0";

/// Other programs, by the variable that names each, with what they want to be told.
const PEERS: [(&str, &str, [&str; 2]); 2] = [
    ("KEYFERRY_PEER_RDBTOOLS", "rdbtools (Python)", ["-c", "json"]),
    ("KEYFERRY_PEER_RDB_CRATE", "crate `rdb`", ["--format", "json"]),
];

pub(super) fn measure(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let Some(checker) = binary.check_rdb() else {
        return Err(Failure::new(format!("{} has no RDB checker beside it", binary.name)));
    };
    let program = release("keyferry-examples", "--example", "inspect", &[])?;
    let mut tables = vec![beside_server(binary, &checker, &program, scale)?];
    tables.extend(beside_peers(&program, scale)?);
    Ok(tables)
}

fn beside_server(binary: &ServerBinary, checker: &Path, program: &Path, scale: f64) -> Outcome<Table> {
    let about = "`inspect --summary` beside the server's own checker, and `inspect --jsonl`, which writes every element, \
                 beside a server that loads the same file. CPU time, user and system together, which other work on the machine does not \
                 change much; the least of three runs each, from the page cache to nowhere. Peak memory is that of the view \
                 named."
        .to_owned();
    let header = [
        "data",
        "file",
        "checker",
        "`--summary`",
        "",
        "server loads",
        "`--jsonl`",
        "",
        "peak memory of `--summary`, `--jsonl`, `--html`, `--memory csv`",
    ];
    let mut table = Table::new("inspect", "Inspecting an RDB file", about, &header);
    let members = (MEMBERS * scale) as u64;
    let mixed = |client: &mut Client| Mixed::scaled(scale).fill(client);
    let set = |client: &mut Client| one_set(client, members);
    let sets: [(String, Fill<'_>); 2] =
        [("mixed".to_owned(), &mixed), (format!("one set of {members} members"), &set)];
    for (name, fill) in sets {
        println!("inspect: {name}");
        let server = start(binary)?;
        let (file, bytes, _) = save(&server, fill)?;
        let page = server.dir().join("page.html");
        let view = |args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args);
            command
        };
        let page = page.display().to_string();
        let contenders = [
            Command::new(checker),
            view(&["--summary"]),
            view(&["--jsonl"]),
            view(&["--html", &page]),
            view(&["--memory", "csv"]),
        ];
        let taken = compete(contenders, &file)?;
        let [checked, summary, json, ..] = taken.map(|taken| taken.cpu_seconds);
        let [_, peaks @ ..] = taken.map(|taken| mebibytes(taken.peak_rss_kib));
        let loaded = load_seconds(binary, &file)?;
        table.row([
            name,
            format!("{:.0} MB", bytes as f64 / 1e6),
            seconds(checked),
            seconds(summary),
            times(checked / summary),
            seconds(loaded),
            seconds(json),
            times(loaded / json),
            peaks.join(", "),
        ]);
    }
    Ok(table)
}

/// CPU seconds that a server has used when it has loaded a file: the least of three.
fn load_seconds(binary: &ServerBinary, file: &Path) -> Outcome<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let dir = tempfile::tempdir().during("making a directory")?;
        std::fs::copy(file, dir.path().join("dump.rdb")).during(file.display())?;
        let server = Server::builder(binary).dir(dir.path()).timeout(PATIENCE).start()?;
        wait_for("loading a file", || Ok(server.log().contains("DB loaded from disk")))?;
        best = best.min(server.cpu_seconds()?);
    }
    Ok(best)
}

/// JSON beside other programs, those that the environment names. They read neither the listpacks of Redis 7 nor streams, so
/// the file is one that they can read.
fn beside_peers(program: &Path, scale: f64) -> Outcome<Option<Table>> {
    let found: Vec<_> = PEERS
        .iter()
        .filter_map(|(variable, name, args)| Some((PathBuf::from(std::env::var_os(variable)?), *name, *args)))
        .collect();
    if found.is_empty() {
        println!("inspect: no other program is named by {} or {}", PEERS[0].0, PEERS[1].0);
        return Ok(None);
    }
    let Ok(binary) = named(PEER_SERVER) else { return Ok(None) };
    let server = start(binary)?;
    let keys = (PEER_KEYS * scale) as u64;
    let (file, bytes, _) = save(&server, &|client| old_types(client, keys))?;
    let about = format!(
        "Every key with every element as JSON, to nowhere: {keys} keys (strings, hashes, lists, sets, sorted sets) in a file of \
         {:.1} MB that Redis 6.0 wrote, since the others read no newer one. CPU time, the least of three runs each.",
        bytes as f64 / 1e6
    );
    let mut table = Table::new(
        "inspect-peers",
        "JSON beside other programs",
        about,
        &["", "CPU time", "", "peak memory"],
    );
    let mut ours = Command::new(program);
    ours.arg("--jsonl");
    let [own] = compete([ours], &file)?;
    let row = |name: &str, taken: &Taken| {
        let ratio = times(taken.cpu_seconds / own.cpu_seconds);
        [name.to_owned(), seconds(taken.cpu_seconds), ratio, mebibytes(taken.peak_rss_kib)]
    };
    table.row(row("keyferry `inspect --jsonl`", &own));
    for (program, name, args) in found {
        println!("inspect: {name}");
        let mut command = Command::new(program);
        command.args(args);
        let [taken] = compete([command], &file)?;
        table.row(row(name, &taken));
    }
    Ok(Some(table))
}

/// Small values of the types that all programs know.
fn old_types(client: &mut Client, keys: u64) -> keyferry_testkit::Result<u64> {
    let mut rng = Rng::new(11);
    fill(client, |commands| {
        (0..keys).try_for_each(|i| {
            let (verb, pairs) = match i % 5 {
                0 => ("SET", false),
                1 => ("HSET", true),
                2 => ("RPUSH", false),
                3 => ("SADD", false),
                _ => ("ZADD", true),
            };
            let mut command = vec![verb.to_owned(), format!("{}:{i}", verb.to_lowercase())];
            let elements = if verb == "SET" { 1 } else { 1 + rng.below(20) };
            for element in 0..elements {
                let text = format!("element-{element}-{}", rng.below(1_000_000));
                match (verb, pairs) {
                    ("ZADD", _) => command.extend([format!("{}.5", rng.below(10_000)), text]),
                    (_, true) => command.extend([format!("field{element}"), text]),
                    _ => command.push(text),
                }
            }
            commands.push(&command)
        })
    })?;
    Ok(keys)
}
