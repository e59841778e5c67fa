//! Logs on disk: one file, or a directory with a manifest.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::manifest::Manifest;
use super::parser::{AofEvent, AofParser};
use crate::error::Error;
use crate::limits::Limits;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// The longest manifest that is read.
const MAX_MANIFEST: u64 = 16 << 20;

/// What to do where the last file is damaged at its end: cut inside a command, or inside a transaction, as a crash leaves
/// it. Damage anywhere else is always an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tail {
    /// It is an error.
    #[default]
    Error,
    /// Reading ends there, as with the servers' `aof-load-truncated yes`. The commands of a transaction that has no end
    /// were given by then.
    Stop,
    /// What a repair would keep is read, and nothing else: the file is gone through once before, and read up to the last
    /// whole command outside of an unfinished transaction. Bytes that are no command end it, too, as the servers'
    /// checkers do with `--fix`. No file is changed: to do that, cut it at [`Damage::good_offset`].
    Repair,
}

/// How to read a log.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReadOptions {
    /// What to do where the last file is damaged at its end.
    pub tail: Tail,
    /// Ends before the first `#TS:` annotation with a time above this, in seconds since the Unix epoch.
    pub until: Option<i64>,
    /// Bounds on what the files may make this hold.
    pub limits: Limits,
}

/// What came of reading a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// Number of commands given.
    pub commands: u64,
    /// The damage at the end that was passed over.
    pub damage: Option<Damage>,
    /// The time of the annotation before which it ended, see [`ReadOptions::until`].
    pub stopped_before: Option<i64>,
    /// Whether the commands given end inside a transaction.
    pub in_transaction: bool,
}

/// Damage at the end of the last file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub kind: DamageKind,
    /// Up to where the file is good: cut there, it loads.
    pub good_offset: u64,
    /// Size of the file.
    pub size: u64,
}

/// What is wrong at the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DamageKind {
    /// It ends inside a command.
    Short,
    /// It ends inside a transaction.
    OpenTransaction,
    /// What follows is no command.
    Garbage,
}

/// Reads a log and shows every event, with the number of its file, counted from 0.
///
/// `path` is a file, with or without a snapshot in front, a manifest, or a directory that holds one manifest. The
/// database is 0 at the start of each file, as for servers. When `see` breaks, reading ends.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use keyferry_rdb::aof::{self, AofEvent, ReadOptions};
///
/// let summary = aof::read("appendonlydir", &ReadOptions::default(), |_, event| {
///     if let AofEvent::Command(command) = event {
///         println!("{} {}", command.db, command.raw().escape_ascii());
///     }
///     ControlFlow::Continue(())
/// })?;
/// println!("{} commands", summary.commands);
/// # Ok::<(), keyferry_rdb::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Manifest`]; [`Error::InFile`] around whatever is wrong in a file, with the offset in it.
pub fn read(
    path: impl AsRef<Path>,
    options: &ReadOptions,
    mut see: impl FnMut(usize, AofEvent<'_>) -> ControlFlow<()>,
) -> Result<Summary, Error> {
    let files = files(path.as_ref())?;
    let mut summary = Summary::default();
    let last = files.len().saturating_sub(1);
    for (number, path) in files.into_iter().enumerate() {
        let tail = if number == last { options.tail } else { Tail::Error };
        let in_file = |error: Error| error.in_file(&path);
        let size = std::fs::metadata(&path).map_err(|error| io(&path, &error))?.len();
        let mut walk = Walk { path: &path, size, limit: size, options };
        if tail == Tail::Repair
            && let Ended::Damaged(damage) =
                walk.run(Tail::Repair, &mut |_| ControlFlow::Continue(())).map_err(in_file)?
        {
            walk.limit = damage.good_offset;
            summary.damage = Some(damage);
        }
        let mut open = false;
        let (commands, stopped) = (&mut summary.commands, &mut summary.stopped_before);
        let ended = walk.run(tail, &mut |event| {
            match &event {
                AofEvent::Timestamp { seconds, .. }
                    if options.until.is_some_and(|until| *seconds > until) =>
                {
                    *stopped = Some(*seconds);
                    return ControlFlow::Break(());
                }
                AofEvent::Command(command) => {
                    *commands += 1;
                    let ends = command.args().next().is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC"));
                    open = command.in_transaction && !ends;
                }
                _ => {}
            }
            see(number, event)
        });
        let ended = ended.map_err(in_file)?;
        summary.in_transaction = open;
        summary.files.push(path);
        match ended {
            Ended::Whole => {}
            Ended::Damaged(damage) => summary.damage = Some(damage),
            Ended::Broken => break,
        }
    }
    Ok(summary)
}

/// The files of a log, in the order in which they are to be read: `path` itself, or what a manifest names, which is
/// `path` or the one in the directory `path`.
///
/// # Errors
///
/// [`Error::Io`] and [`Error::Manifest`], with the file.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let manifest = if path.is_dir() {
        manifest_in(path)?
    } else if path.extension().is_some_and(|extension| extension == "manifest") {
        path.to_owned()
    } else {
        return Ok(vec![path.to_owned()]);
    };
    let mut text = Vec::new();
    let file = File::open(&manifest).map_err(|error| io(&manifest, &error))?;
    file.take(MAX_MANIFEST).read_to_end(&mut text).map_err(|error| io(&manifest, &error))?;
    let parsed = Manifest::parse(&text).map_err(|error| error.in_file(&manifest))?;
    Ok(parsed.files().map(|file| manifest.with_file_name(&file.name)).collect())
}

/// One file, up to a limit.
struct Walk<'a> {
    path: &'a Path,
    size: u64,
    limit: u64,
    options: &'a ReadOptions,
}

enum Ended {
    Whole,
    Damaged(Damage),
    /// By whoever sees the events.
    Broken,
}

impl Walk<'_> {
    fn run(&self, tail: Tail, see: &mut dyn FnMut(AofEvent<'_>) -> ControlFlow<()>) -> Result<Ended, Error> {
        let mut file = File::open(self.path).map_err(|error| io(self.path, &error))?.take(self.limit);
        let mut parser = AofParser::with_limits(self.options.limits.clone());
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = file.read(&mut chunk).map_err(|error| io(self.path, &error))?;
            parser.feed(&chunk[..n]);
            loop {
                let error = match parser.next_event() {
                    Ok(Some(event)) => match see(event) {
                        ControlFlow::Continue(()) => continue,
                        ControlFlow::Break(()) => return Ok(Ended::Broken),
                    },
                    Ok(None) => break,
                    Err(error) => error,
                };
                // Damage in the snapshot is never passed over, nor what may be good but is above a limit.
                if !matches!(error, Error::Corrupt { .. }) || tail != Tail::Repair || parser.in_snapshot() {
                    return Err(error);
                }
                return Ok(Ended::Damaged(self.damage(DamageKind::Garbage, &parser)));
            }
            if n > 0 {
                continue;
            }
            // Nothing at all is a log without commands.
            return match parser.end_of_input() {
                Ok(()) => Ok(Ended::Whole),
                Err(_) if tail != Tail::Error && !parser.in_snapshot() => {
                    let whole = parser.good_offset() < parser.offset() && parser.offset() == self.limit;
                    let kind = if whole { DamageKind::OpenTransaction } else { DamageKind::Short };
                    Ok(Ended::Damaged(self.damage(kind, &parser)))
                }
                Err(error) => Err(error),
            };
        }
    }

    fn damage(&self, kind: DamageKind, parser: &AofParser) -> Damage {
        Damage { file: self.path.to_owned(), kind, good_offset: parser.good_offset(), size: self.size }
    }
}

/// The one manifest of a directory; one that is being written does not count.
fn manifest_in(dir: &Path) -> Result<PathBuf, Error> {
    let mut found = None;
    for entry in std::fs::read_dir(dir).map_err(|error| io(dir, &error))? {
        let path = entry.map_err(|error| io(dir, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".manifest") && !name.starts_with("temp-") && found.replace(path.clone()).is_some()
        {
            let what = "the directory holds more than one: name one of them";
            return Err(Error::Manifest { line: 0, what }.in_file(dir));
        }
    }
    found.ok_or_else(|| Error::Manifest { line: 0, what: "the directory holds none" }.in_file(dir))
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::io("reading an append-only file", error).in_file(path)
}
