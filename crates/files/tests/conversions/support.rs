//! Servers with data, and what becomes of it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use keyferry_files::convert::{ConvertOptions, ConvertReport, Converted, Lost, convert};
use keyferry_files::{Error, Input, InputOptions, Output};
use keyferry_rdb::aof::{AofEvent, AofParser};
use keyferry_rdb::convert::Loss;
use keyferry_rdb::{Limits, TargetFormat};
use keyferry_testkit::{Client, DifferenceKind, ReportedLoss, Server, ServerBinary, Vendor, all, data};

/// The servers to test with, oldest first; none is no failure, since not every machine has one.
pub(crate) fn servers() -> Vec<&'static ServerBinary> {
    match all() {
        Ok(binaries) => binaries.iter().collect(),
        Err(error) => {
            println!("note: {error}");
            Vec::new()
        }
    }
}

/// Four of them, or fewer: the oldest and the newest of each vendor.
pub(crate) fn some_servers() -> Vec<&'static ServerBinary> {
    let all = servers();
    let ends = |vendor| {
        let mut of_vendor: Vec<_> = all.iter().copied().filter(|binary| binary.vendor == vendor).collect();
        of_vendor.sort_by_key(|binary| binary.version);
        of_vendor.dedup_by_key(|binary| target(binary));
        let newest = of_vendor.pop();
        of_vendor.truncate(1);
        of_vendor.into_iter().chain(newest)
    };
    ends(Vendor::Redis).chain(ends(Vendor::Valkey)).collect()
}

/// What a server reads and writes.
pub(crate) fn target(binary: &ServerBinary) -> TargetFormat {
    let vendor = if binary.vendor == Vendor::Valkey { "valkey" } else { "redis" };
    format!("{vendor}-{}", binary.version).parse().unwrap()
}

/// A server with every type in it.
pub(crate) fn filled(binary: &ServerBinary, seed: u64, databases: u32) -> Server {
    let server = Server::builder(binary).start().unwrap();
    let mut client = server.client().unwrap();
    data::small(&mut client, seed, databases).unwrap();
    // A key whose time has come stays in snapshots until somebody asks for it.
    client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).unwrap();
    client.call(&["SET", "expired", "long ago", "PX", "1"]).unwrap();
    // So do fields, which must not come back where fields do not expire.
    if data::Features::probe(&mut client).unwrap().has("hpexpire") {
        for (key, expiring) in [("hash:some-expired", 1), ("hash:many-expired", 600)] {
            for field in 0..2 * expiring {
                client.call(&["HSET", key, &field.to_string(), "value"]).unwrap();
            }
            for field in 0..expiring {
                client.call(&["HPEXPIRE", key, "1", "FIELDS", "1", &field.to_string()]).unwrap();
            }
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(5));
    server
}

/// Lets a server save, and gives the file.
pub(crate) fn save(server: &Server) -> std::path::PathBuf {
    server.client().unwrap().call(&["SAVE"]).unwrap();
    server.dir().join("dump.rdb")
}

/// A server of this kind that starts with this snapshot.
pub(crate) fn loaded(binary: &ServerBinary, snapshot: &Path) -> Server {
    let dir = snapshot.parent().unwrap();
    assert_eq!(snapshot.file_name().unwrap(), "dump.rdb");
    Server::builder(binary).dir(dir).start().unwrap()
}

/// Values come in parts of so many bytes.
pub(crate) fn open(path: &Path, part: usize) -> Input {
    let mut options = InputOptions::default();
    options.limits = limits(part);
    Input::open(path, options).unwrap()
}

pub(crate) fn limits(part: usize) -> Limits {
    let mut limits = Limits::default();
    limits.value_part = part;
    limits.chunk = part;
    limits
}

/// Converts one input into one output, for which it has to succeed.
pub(crate) fn converted(input: &Path, output: Output, options: ConvertOptions) -> ConvertReport {
    let part = options.limits.value_part;
    let Converted { report, result, .. } = convert(vec![open(input, part)], vec![output], options);
    result.unwrap();
    report
}

/// What a conversion said is lost, in the terms of a comparison.
pub(crate) fn reported(report: &ConvertReport) -> Vec<ReportedLoss> {
    assert_eq!(report.total_losses(), report.losses.len() as u64);
    let losses = report.losses.iter().map(|loss| {
        let (lost, key) = &loss.lost;
        let kind = match lost {
            _ if loss.whole_key => DifferenceKind::MissingInB,
            Lost::Value(loss) => kind_of(loss),
            Lost::Function => DifferenceKind::Function,
            other => panic!("{other}"),
        };
        ReportedLoss::new(loss.db.unwrap_or(0) as u32, key.as_slice(), kind)
    });
    losses.collect()
}

/// In what way a key differs without this.
pub(crate) fn kind_of(loss: &Loss) -> DifferenceKind {
    match loss {
        Loss::NotAccepted { .. } => DifferenceKind::MissingInB,
        Loss::FieldExpiry { .. } => DifferenceKind::FieldExpiry,
        Loss::StreamCounters => DifferenceKind::Counters,
        Loss::ActiveTimes { .. } => DifferenceKind::ActiveTimes,
        other => panic!("{other}"),
    }
}

/// A stream that can be looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends commands as `redis-cli --pipe` does. None may be refused.
pub(crate) fn pipe(client: &mut Client, commands: &[u8]) {
    let mut parser = AofParser::new();
    parser.feed(commands);
    let mut all: Vec<Vec<Vec<u8>>> = Vec::new();
    while let Some(event) = parser.next_event().unwrap() {
        let AofEvent::Command(command) = event else { panic!("{event:?}") };
        all.push(command.args().map(<[u8]>::to_vec).collect());
    }
    parser.end_of_input().unwrap();
    for (reply, command) in client.pipe(&all).unwrap().iter().zip(&all) {
        let shown: Vec<_> =
            command.iter().map(|arg| arg[..arg.len().min(60)].escape_ascii().to_string()).collect();
        assert!(reply.error().is_none(), "{}: {:?}", shown.join(" "), reply.error());
    }
    client.call(&["SELECT", "0"]).unwrap();
}

/// Nothing but what was there before: no half of a file under any name.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// What became of a conversion that has to fail.
pub(crate) fn failure(converted: Converted) -> (ConvertReport, Error) {
    assert!(!converted.report.complete);
    let error = converted.result.unwrap_err();
    assert_eq!(converted.report.error, Some(error.to_string()));
    (converted.report, error)
}
