//! Walking RDB files, beside the server's own checker.

use std::process::{Command, Stdio};

use keyferry_testkit::data::{Mixed, large_strings, tiny_keys};
use keyferry_testkit::process::{Measured, measure as measure_program};
use keyferry_testkit::{Client, ServerBinary};

use super::page::{Table, mebibytes, seconds, times};
use super::{client, start};
use crate::cargo::release;
use crate::failure::{Context as _, Failure, Outcome};

/// Sizes of the data sets of one kind.
const LARGE_STRINGS: f64 = 500.0;
const TINY_KEYS: f64 = 1e7;

pub(super) fn measure(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let Some(checker) = binary.check_rdb() else {
        return Err(Failure::new(format!("{} has no RDB checker beside it", binary.name)));
    };
    let walker = release("keyferry-benches", "--example", "walk_rdb")?;
    let scaled = |count: f64| (count * scale) as u64;
    let about = "Reading a file from start to end with its checksum, from the page cache.".to_owned();
    let header = ["data", "file", "checker", "keyferry", "throughput", "ratio", "peak memory"];
    let mut table = Table::new("rdb-walk", "Walking an RDB file", about, &header);
    let mixed = |client: &mut Client| Mixed::scaled(scale).fill(client);
    let large = |client: &mut Client| large_strings(client, 1, scaled(LARGE_STRINGS), 1_000_000);
    let tiny = |client: &mut Client| tiny_keys(client, 1, scaled(TINY_KEYS));
    type Fill<'a> = &'a dyn Fn(&mut Client) -> keyferry_testkit::Result<u64>;
    let named = |what: &str, count: f64| format!("{} {what}", scaled(count));
    let sets: [(String, Fill<'_>); 3] = [
        ("mixed".to_owned(), &mixed),
        (named("strings of 1 MB", LARGE_STRINGS), &large),
        (named("tiny keys", TINY_KEYS), &tiny),
    ];
    for (name, fill) in sets {
        println!("rdb walk: {name}");
        let server = start(binary)?;
        let mut filling = client(&server)?;
        fill(&mut filling)?;
        filling.call(&["SAVE"])?;
        let file = server.dir().join("dump.rdb");
        let bytes = std::fs::metadata(&file).during(file.display())?.len();
        // Three runs each, in turn; the best of each counts.
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            theirs.push(succeed(Command::new(&checker).arg(&file))?);
            ours.push(succeed(Command::new(&walker).arg(&file))?);
        }
        let best =
            |runs: &[Measured]| runs.iter().map(|run| run.wall.as_secs_f64()).fold(f64::INFINITY, f64::min);
        let (theirs, peak) = (best(&theirs), ours.iter().map(|run| run.peak_rss_kib).max().unwrap_or(0));
        let ours = best(&ours);
        let megabytes = bytes as f64 / 1e6;
        table.row([
            name,
            format!("{megabytes:.0} MB"),
            seconds(theirs),
            seconds(ours),
            format!("{:.0} MB/s", megabytes / ours),
            times(theirs / ours),
            mebibytes(peak),
        ]);
    }
    Ok(vec![table])
}

fn succeed(command: &mut Command) -> Outcome<Measured> {
    let measured = measure_program(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
    if measured.status.success() {
        return Ok(measured);
    }
    let program = command.get_program().to_string_lossy().into_owned();
    Err(Failure::new(format!("{program}: {}", measured.status)))
}
