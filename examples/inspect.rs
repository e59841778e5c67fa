//! Shows what is in a file of Redis data.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use keyferry_examples::{FileProgress, SelectionArgs, create_output, eprintln};
use keyferry_files::json::{JsonForm, JsonWriter};
use keyferry_files::report::{self, About, MemoryCsv};
use keyferry_files::survey::{PrefixOptions, Survey, SurveyOptions};
use keyferry_files::{Ended, Error, Filter, Found, Input, InputOptions, Place};
use keyferry_rdb::{Event, Limits};

/// Show what is in a snapshot (RDB file) or append-only file, of any version of Redis, Valkey and their relatives
///
/// What the input is, is told by its content, not by its name. Memory stays small whatever the size of the file. In an
/// append-only file the snapshot in front is shown; commands behind it are counted, not applied.
#[derive(Debug, Parser)]
#[command(name = "inspect", version, after_help = EXAMPLES)]
struct Args {
    /// An RDB file, an append-only file, the directory or manifest of one, or - for standard input
    input: PathBuf,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Take an append-only file that ends inside a command, as a crash leaves it, up to there
    #[arg(long)]
    allow_cut_log: bool,

    #[command(flatten)]
    what: What,

    #[command(flatten)]
    selection: SelectionArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to show")]
struct What {
    /// Totals by database, type and encoding; what is shown when nothing else is asked for
    #[arg(long)]
    summary: bool,

    /// The N keys with the most bytes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    big_keys: Option<u32>,

    /// The tree of key prefixes with the keys and bytes below each
    #[arg(long)]
    prefixes: bool,

    /// One self-contained page: totals, prefixes as a treemap, largest keys, types, expiries
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,

    /// All of the above as one JSON document
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,

    /// Every key with every element, as one JSON array
    #[arg(long, group = "list", conflicts_with_all = ["summary", "big_keys", "prefixes", "html", "report"])]
    json: bool,

    /// The same, one JSON object a line
    #[arg(long, group = "list", conflicts_with_all = ["summary", "big_keys", "prefixes", "html", "report"])]
    jsonl: bool,

    /// A line for each key with an estimate of the memory it takes in a server
    #[arg(long, value_name = "FORMAT", group = "list", conflicts_with_all = ["summary", "big_keys", "prefixes", "html", "report"])]
    memory: Option<MemoryFormat>,

    /// A line for each key that expires: when, database, type, key
    #[arg(long, group = "list", conflicts_with_all = ["summary", "big_keys", "prefixes", "html", "report"])]
    expiring: bool,

    /// What separates the parts of a key's name, for prefixes
    #[arg(long, value_name = "TEXT", default_value = ":")]
    separator: String,

    /// How many parts of a name to look at, for prefixes
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=32))]
    depth: u8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MemoryFormat {
    /// database,type,key,size_in_bytes,encoding,num_elements,len_largest_element,expiry
    Csv,
}

const EXAMPLES: &str = "\
Examples:
  inspect dump.rdb
  inspect dump.rdb --big-keys 20 --prefixes --type hash,zset
  inspect dump.rdb --html report.html
  inspect dump.rdb --jsonl --keys 'user:*' --db 0 | jq -r .key
  inspect dump.rdb --memory csv | sort -t, -k4,4nr | head
  redis-cli --rdb - | inspect - --expiring
  inspect appendonlydir --summary

Keys that are no text are escaped so that nothing is lost. In JSON, each byte that is not UTF-8 is U+FFFD and two
hexadecimal digits. Elsewhere it is \\xHH, as are control characters, and a backslash is doubled.
Exit status: 0 done, 1 damaged or failed, 2 wrong usage.";

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inspect: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Error> {
    let mut options = InputOptions::default();
    options.allow_cut_log = args.allow_cut_log;
    let input = Input::open(&args.input, options)?;
    let filter = Filter::new(args.selection.selection());
    let what = args.what;
    let out = Output::open(args.output.as_deref())?;
    let listing = what.json || what.jsonl || what.memory.is_some() || what.expiring;
    let shown = FileProgress::show(input.progress(), listing && out.is_terminal());
    let result = if listing {
        list(input, filter, &what, out)
    } else {
        survey(input, filter, &what, out, &args.input.display().to_string())
    };
    drop(shown);
    result
}

/// What tells something of each key.
fn list(input: Input, filter: Filter, what: &What, out: Output) -> Result<(), Error> {
    let mut out = BufWriter::new(out);
    let about = if what.expiring {
        let about = read(input, filter, |event, _| match event {
            Event::Entry(entry) => Ok(report::write_expiring(&mut out, &entry.head)?),
            Event::ValueStart(head) => Ok(report::write_expiring(&mut out, head)?),
            _ => Ok(()),
        })?;
        out.flush()?;
        about
    } else if what.memory.is_some() {
        let mut csv = MemoryCsv::new(out, Limits::default());
        let about = read(input, filter, |event, place| csv.event(event, place))?;
        csv.finish()?;
        about
    } else {
        let form = if what.json { JsonForm::Array } else { JsonForm::Lines };
        let mut json = JsonWriter::new(out, form);
        let about = read(input, filter, |event, place| json.event(event, place))?;
        json.finish()?;
        about
    };
    for note in about.notes() {
        eprintln!("inspect: {note}");
    }
    Ok(())
}

/// What looks at all of it, then tells.
fn survey(input: Input, filter: Filter, what: &What, mut out: Output, name: &str) -> Result<(), Error> {
    // Opened before anything is done: afterwards it would be too late to say that they cannot be written.
    let html = what.html.as_deref().map(create).transpose()?;
    let data = what.report.as_deref().map(create).transpose()?;
    let documents = html.is_some() || data.is_some();
    let mut options = SurveyOptions::default();
    let big_keys = what.big_keys.unwrap_or(if documents { 50 } else { 0 });
    options.big_keys = big_keys as usize;
    if what.prefixes || documents {
        let mut prefixes = PrefixOptions::default();
        prefixes.separator = what.separator.clone().into_bytes();
        prefixes.depth = usize::from(what.depth);
        options.prefixes = Some(prefixes);
    }
    let mut survey = Survey::new(options);
    let mut about = About::new(name);
    let result = read(input, filter, |event, place| survey.event(event, place));
    let result = match result {
        Ok(all) => {
            (about.ended, about.left_out) = (all.ended, all.left_out);
            Ok(())
        }
        // What was seen before the damage is of use.
        Err(error) => {
            about.failure = Some(error.to_string());
            Err(error)
        }
    };

    let mut printed = false;
    let mut next = |out: &mut Output| {
        if std::mem::replace(&mut printed, true) { writeln!(out) } else { Ok(()) }
    };
    if what.summary || !(what.big_keys.is_some() || what.prefixes || documents) {
        next(&mut out)?;
        report::write_summary(&mut out, survey.summary())?;
    }
    if what.big_keys.is_some() {
        next(&mut out)?;
        report::write_big_keys(&mut out, &survey.big_keys())?;
    }
    if let Some(prefixes) = survey.prefixes().filter(|_| what.prefixes) {
        next(&mut out)?;
        report::write_prefixes(&mut out, prefixes, 20)?;
    }
    report::write_about(&mut out, &about)?;
    out.flush()?;
    if let Some(mut html) = html {
        report::write_html(&mut html, &survey, &about)?;
        html.flush()?;
    }
    if let Some(mut data) = data {
        serde_json::to_writer_pretty(&mut data, &about.with(&survey)).map_err(io::Error::from)?;
        data.flush()?;
    }
    result
}

/// Shows every event that is selected.
fn read(
    input: Input,
    mut filter: Filter,
    mut see: impl FnMut(&Event<'_>, Place<'_>) -> Result<(), Error>,
) -> Result<About, Error> {
    let ended: Ended = input.read(|found, place| match found {
        Found::Event(event) if filter.admits(&event) => see(&event, place),
        _ => Ok(()),
    })?;
    let mut about = About::default();
    about.ended = ended;
    about.left_out = filter.counts();
    Ok(about)
}

fn create(path: &Path) -> Result<BufWriter<File>, Error> {
    let file = create_output(path).map_err(|error| named(path, &error))?;
    Ok(BufWriter::new(file))
}

fn named(path: &Path, error: &io::Error) -> Error {
    Error::Write(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Standard output or a file.
enum Output {
    Standard(io::StdoutLock<'static>),
    File(File),
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Self, Error> {
        match path {
            Some(path) => create_output(path).map(Self::File).map_err(|error| named(path, &error)),
            None => Ok(Self::Standard(io::stdout().lock())),
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Standard(out) if out.is_terminal())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(out) => out.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}
