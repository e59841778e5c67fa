//! Walking RDB files, beside the server's own checker.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyferry_testkit::data::{Mixed, large_strings, large_texts, tiny_keys};
use keyferry_testkit::process::{Measured, measure as measure_program};
use keyferry_testkit::{Client, Server, ServerBinary};

use super::page::{Table, mebibytes, seconds, times};
use super::{client, start};
use crate::cargo::release;
use crate::failure::{Context as _, Failure, Outcome};

/// Sizes of the data sets of one kind.
const LARGE_STRINGS: f64 = 500.0;
const TINY_KEYS: f64 = 1e7;

/// The programs that read files.
pub(super) struct Readers {
    /// The server's own checker.
    pub(super) checker: PathBuf,
    /// `walk_rdb` with the default features.
    pub(super) plain: PathBuf,
    /// `walk_rdb` with the faster checksum.
    pub(super) fast: PathBuf,
}

impl Readers {
    pub(super) fn build(binary: &ServerBinary) -> Outcome<Readers> {
        let Some(checker) = binary.check_rdb() else {
            return Err(Failure::new(format!("{} has no RDB checker beside it", binary.name)));
        };
        let built = release("keyferry-benches", "--example", "walk_rdb", &[])?;
        // The next build takes its place.
        let plain = built.with_file_name("walk_rdb-plain");
        std::fs::copy(&built, &plain).during(plain.display())?;
        let fast = release("keyferry-benches", "--example", "walk_rdb", &["crc-fast"])?;
        Ok(Readers { checker, plain, fast })
    }
}

/// What a command took: the least time and the most memory of several runs.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) peak_rss_kib: u64,
}

/// What each command takes on a file, of three runs in turn.
pub(super) fn compete<const N: usize>(mut commands: [Command; N], file: &Path) -> Outcome<[Taken; N]> {
    // All are run once before: the file is then in memory, and nobody pays for that.
    for command in &mut commands {
        succeed(command.arg(file))?;
    }
    let nothing = Taken { seconds: f64::INFINITY, cpu_seconds: f64::INFINITY, peak_rss_kib: 0 };
    let mut results = [nothing; N];
    for _ in 0..3 {
        for (command, taken) in commands.iter_mut().zip(&mut results) {
            let run = succeed(command)?;
            taken.seconds = taken.seconds.min(run.wall.as_secs_f64());
            taken.cpu_seconds = taken.cpu_seconds.min(run.cpu_seconds);
            taken.peak_rss_kib = taken.peak_rss_kib.max(run.peak_rss_kib);
        }
    }
    Ok(results)
}

/// Writes the data of a server that `fill` filled to a file.
pub(super) fn save(server: &Server, fill: Fill<'_>) -> Outcome<(PathBuf, u64, u64)> {
    let mut filling = client(server)?;
    let elements = fill(&mut filling)?;
    filling.call(&["SAVE"])?;
    let file = server.dir().join("dump.rdb");
    let bytes = std::fs::metadata(&file).during(file.display())?.len();
    Ok((file, bytes, elements))
}

/// Fills a server and says with how many elements.
pub(super) type Fill<'a> = &'a dyn Fn(&mut Client) -> keyferry_testkit::Result<u64>;

pub(super) fn measure(binary: &ServerBinary, scale: f64) -> Outcome<Vec<Table>> {
    let readers = Readers::build(binary)?;
    let scaled = |count: f64| (count * scale) as u64;
    let about = "Reading a file from start to end with its checksum, from the page cache: the server's own checker, \
                 keyferry-rdb with its default features, and with `crc-fast`. Best of three runs each, taken in turn. The \
                 last column is a program that only reads the file."
        .to_owned();
    let header =
        ["data", "file", "checker", "keyferry", "", "with crc-fast", "", "peak memory", "reading alone"];
    let mut table = Table::new("rdb-walk", "Walking an RDB file", about, &header);
    let mixed = |client: &mut Client| Mixed::scaled(scale).fill(client);
    let large = |client: &mut Client| large_strings(client, 1, scaled(LARGE_STRINGS), 1_000_000);
    let tiny = |client: &mut Client| tiny_keys(client, 1, scaled(TINY_KEYS));
    let named = |what: &str, count: f64| format!("{} {what}", scaled(count));
    let texts = |client: &mut Client| large_texts(client, 1, scaled(LARGE_STRINGS), 1_000_000);
    let sets: [(String, Fill<'_>); 4] = [
        ("mixed".to_owned(), &mixed),
        (named("texts of 1 MB", LARGE_STRINGS), &texts),
        (named("incompressible strings of 1 MB", LARGE_STRINGS), &large),
        (named("tiny keys", TINY_KEYS), &tiny),
    ];
    for (name, fill) in sets {
        println!("rdb walk: {name}");
        let server = start(binary)?;
        let (file, bytes, _) = save(&server, fill)?;
        let contenders = [&*readers.checker, &*readers.plain, &*readers.fast, Path::new("cat")];
        let taken = compete(contenders.map(Command::new), &file)?;
        let [theirs, plain, fast, reading] = taken.map(|taken| taken.seconds);
        table.row([
            name,
            format!("{:.0} MB", bytes as f64 / 1e6),
            seconds(theirs),
            seconds(plain),
            times(theirs / plain),
            seconds(fast),
            times(theirs / fast),
            mebibytes(taken[2].peak_rss_kib),
            seconds(reading),
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
