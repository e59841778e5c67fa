//! Data of every server, for every server.
//!
//! With `KEYFERRY_MATRIX=full`, as `cargo xtask matrix --offline` sets it, on more data and in more ways.

use std::time::Instant;

use bytes::BytesMut;
use keyferry_files::convert::{ConvertOptions, Modules, OnLoss};
use keyferry_files::{Output, OutputKind};
use keyferry_rdb::convert::{Converted, Converter};
use keyferry_rdb::{Event, Kind, Limits, Parser, dump};
use keyferry_testkit::data::{self, Mixed, Shape};
use keyferry_testkit::{Client, DifferenceKind, ReportedLoss, Server, ServerBinary, judge};

use crate::support::{
    Shared, converted, filled, kind_of, limits, loaded, pipe, reported, save, servers, some_servers, target,
};

/// How data gets from one server to another.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// A snapshot that the other loads; values come in parts of so many bytes.
    File(usize),
    /// The commands of a `.resp` file; values come in parts of so many bytes.
    Commands(usize),
    /// Each value by `RESTORE`.
    Payloads,
}

fn is_full() -> bool {
    std::env::var("KEYFERRY_MATRIX").is_ok_and(|value| value == "full")
}

fn source(binary: &ServerBinary) -> Server {
    let full = is_full();
    let server = filled(binary, 7, if full { 3 } else { 2 });
    let mut client = server.client().unwrap();
    // Above every threshold, and in several parts.
    for (shape, key) in [
        (Shape::String, "big:string"),
        (Shape::List, "big:list"),
        (Shape::Set, "big:set"),
        (Shape::SortedSet, "big:zset"),
        (Shape::Hash, "big:hash"),
    ] {
        data::big(&mut client, 3, key, shape, if full { 1_500_000 } else { 100_000 }).unwrap();
    }
    if full {
        Mixed { keys: 2_000, ..Mixed::default() }.fill(&mut client).unwrap();
    }
    server
}

fn options(to: &ServerBinary, part: usize) -> ConvertOptions {
    let mut options = ConvertOptions::default();
    options.target = Some(target(to));
    options.on_loss = OnLoss::Drop;
    options.modules = Modules::Named(Vec::new());
    options.limits = limits(part);
    options.listed = usize::MAX;
    options
}

/// Runs one way from each of these servers to each of all. Gives how many pairs were right.
fn every_pair(way: Way, from: &[&'static ServerBinary]) -> (usize, usize) {
    let servers = servers();
    let sources: Vec<_> = from.iter().map(|binary| (*binary, source(binary))).collect();
    let snapshots: Vec<_> = sources.iter().map(|(_, server)| save(server)).collect();
    let (mut right, mut wrong) = (0, Vec::new());
    let start = Instant::now();
    for (i, (from, source)) in sources.iter().enumerate() {
        for to in &servers {
            let (_kept, target_server, reported) = match way {
                Way::File(part) => {
                    let dir = tempfile::tempdir().unwrap();
                    let file = dir.path().join("dump.rdb");
                    let output = Output::path(&file, OutputKind::Snapshot);
                    let report = converted(&snapshots[i], output, options(to, part));
                    let server = loaded(to, &file);
                    (Some(dir), server, reported(&report))
                }
                Way::Commands(part) => {
                    let out = Shared::default();
                    let output = Output::writer("commands", out.clone(), OutputKind::Commands);
                    let report = converted(&snapshots[i], output, options(to, part));
                    let server = Server::builder(to).start().unwrap();
                    pipe(&mut server.client().unwrap(), &out.take());
                    (None, server, reported(&report))
                }
                Way::Payloads => {
                    let server = Server::builder(to).start().unwrap();
                    let snapshot = std::fs::read(&snapshots[i]).unwrap();
                    let losses = by_payloads(&snapshot, &mut server.client().unwrap(), to);
                    (None, server, losses)
                }
            };
            let mut a = source.client().unwrap();
            let judgement = judge(&mut a, &mut target_server.client().unwrap(), &reported).unwrap();
            if judgement.is_right() {
                right += 1;
                println!("{way:?} {} to {}: equal, {judgement}", from.name, to.name);
            } else {
                println!("{way:?} {} to {}: WRONG, {judgement}", from.name, to.name);
                wrong.push(format!("{} to {}: {judgement}", from.name, to.name));
            }
            // A server of the same family that is as new or newer takes everything.
            if from.vendor == to.vendor && from.version <= to.version {
                assert_eq!(reported, [], "{} to {}", from.name, to.name);
            }
        }
    }
    let pairs = right + wrong.len();
    println!(
        "{way:?}: {right} of {pairs} pairs equal but for reported losses, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    (right, pairs)
}

/// Carries all keys over as payloads. Gives what was lost.
fn by_payloads(snapshot: &[u8], client: &mut Client, to: &ServerBinary) -> Vec<ReportedLoss> {
    let mut format = target(to);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format.expired_before = now.as_millis() as i64;
    let mut whole = Limits::default();
    whole.value_part = usize::MAX;
    let mut converter = Converter::new(format);
    let mut lost = Vec::new();
    let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut parser = Parser::with_limits(whole);
    parser.feed(snapshot);
    while let Some(event) = parser.next_event().unwrap() {
        match event {
            Event::Function { code } if format.functions() => {
                commands.push([&b"FUNCTION"[..], b"LOAD", code].map(<[u8]>::to_vec).to_vec());
            }
            Event::Function { code } => {
                let name = code.split(|byte| *byte == b'\n').next().unwrap();
                let name = name.strip_prefix(b"#!lua name=").unwrap();
                lost.push(ReportedLoss::new(0, name, DifferenceKind::Function));
            }
            Event::Entry(entry) => {
                let head = entry.head;
                let mut lose = |kind| lost.push(ReportedLoss::new(head.db as u32, head.key, kind));
                // Whether a module is there is not known to the converter.
                if head.ty.kind() == Kind::Module
                    && entry.value.vector_set_layout() > format.features.vector_sets
                {
                    lose(DifferenceKind::MissingInB);
                    continue;
                }
                let conversion = converter.convert(entry.value).unwrap();
                conversion.losses.iter().for_each(|loss| lose(kind_of(loss)));
                let value = match conversion.converted {
                    Converted::Raw(value) | Converted::Reencoded(value) => value,
                    Converted::Lost => continue,
                    Converted::Native => panic!("nothing here is that large"),
                };
                let mut payload = BytesMut::new();
                dump::append_payload(&mut payload, value, dump::UNIVERSAL_VERSION);
                let ttl = head.expiry.unwrap_or(0).to_string();
                commands.push(vec![b"SELECT".to_vec(), head.db.to_string().into_bytes()]);
                let restore: [&[u8]; 6] =
                    [b"RESTORE", head.key, ttl.as_bytes(), &payload, b"REPLACE", b"ABSTTL"];
                commands.push(restore.map(<[u8]>::to_vec).to_vec());
            }
            _ => {}
        }
    }
    for (reply, command) in client.pipe(&commands).unwrap().iter().zip(&commands) {
        let key = command[1].escape_ascii();
        assert!(reply.error().is_none(), "{key}: {:?}", reply.error());
    }
    client.call(&["SELECT", "0"]).unwrap();
    lost
}

/// All of them in the long form.
fn sources() -> Vec<&'static ServerBinary> {
    if is_full() { servers() } else { some_servers() }
}

#[test]
fn every_snapshot_becomes_that_of_every_server() {
    let (right, pairs) = every_pair(Way::File(if is_full() { 1 << 20 } else { 4096 }), &servers());
    assert_eq!(right, pairs);
    if is_full() {
        every_pair(Way::File(2048), &servers());
    }
}

#[test]
fn every_value_is_restored_by_every_server() {
    every_pair(Way::Payloads, &sources());
}

#[test]
fn every_snapshot_becomes_commands_for_every_server() {
    every_pair(Way::Commands(1 << 20), &sources());
    if is_full() {
        every_pair(Way::Commands(16 << 10), &sources());
    }
}
