//! Reading the logs of a journal, and telling whether they have all that was carried out since some time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use keyferry_files::{Error as FileError, Found, Input, InputKind, InputOptions, Place, inputs_at};
use keyferry_rdb::aof;

use super::touch::Toucher;
use super::{ChangedKeys, ChangedOptions};
use crate::error::Error;

/// Reads all logs that there are at `path`.
pub(super) fn read(path: &Path, options: &ChangedOptions) -> Result<ChangedKeys, Error> {
    let mut changed = ChangedKeys::default();
    let logs = inputs_at(path)?;
    if logs.is_empty() {
        return Err(Error::NoJournal { path: path.to_owned() });
    }
    for log in logs {
        let mut reader = Reader::new(&log, options);
        reader.read(options)?;
        changed.extend(reader.finish(), options);
    }
    Ok(changed)
}

/// Reads one log, all its parts.
struct Reader {
    name: String,
    path: PathBuf,
    /// In seconds since the Unix epoch.
    since: Option<i64>,
    changed: ChangedKeys,
    toucher: Toucher,
    place: StreamPlace,
    /// Whether what is read now came before that time.
    is_before: bool,
    /// Whether it is sure that nothing since that time stands before what was read.
    reaches_back: bool,
    /// The first time that the log tells.
    first: Option<i64>,
}

impl Reader {
    fn new(path: &Path, options: &ChangedOptions) -> Self {
        let since = options.since.map(|since| match since.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(_) => 0,
        });
        Self {
            name: path.display().to_string(),
            path: path.to_owned(),
            since,
            changed: ChangedKeys::default(),
            toucher: Toucher::new(options.memory),
            place: StreamPlace::default(),
            is_before: false,
            reaches_back: since.is_none(),
            first: None,
        }
    }

    fn read(&mut self, options: &ChangedOptions) -> Result<(), Error> {
        let of_log =
            |error| Error::File(FileError::Data { input: self.name.clone(), error: Box::new(error) });
        let files = aof::files(&self.path).map_err(of_log)?;
        let last = files.len().saturating_sub(1);
        for (number, file) in files.iter().enumerate() {
            let mut input = InputOptions::default();
            input.limits = options.limits.clone();
            input.allow_cut_log = number == last;
            let input = match Input::open(file, input) {
                // Nothing has been written to it yet.
                Err(FileError::Empty { .. }) => continue,
                input => input?,
            };
            if files.len() > 1 && input.kind() == InputKind::Snapshot {
                // The base: what it holds was there before all commands.
                continue;
            }
            let length = fs::metadata(file).map(|data| data.len());
            self.place.enter_file();
            self.is_before = false;
            let ended = input.read(|found, place| self.see(&found, place))?;
            let end = ended.cut.map(|cut| cut.good_offset).or(length.ok());
            self.place.leave_file(end.unwrap_or_default());
        }
        Ok(())
    }

    fn see(&mut self, found: &Found<'_>, place: Place<'_>) -> Result<(), Error> {
        match found {
            Found::Command(command) => {
                self.place.at(place.offset);
                let args: Vec<&[u8]> = command.args().collect();
                if self.is_before {
                    self.toucher.follow(&args);
                } else {
                    self.changed.commands += 1;
                    self.toucher.command(&args, &mut self.changed);
                }
            }
            Found::Timestamp(time) => {
                self.place.annotation(place.offset);
                self.time(*time);
            }
            Found::Annotation(text) => {
                self.place.annotation(place.offset);
                self.exact_time(text);
                if let Some((from, to)) = self.place.told(text) {
                    let name = &self.name;
                    self.changed.widen(|| format!("{name} lacks the commands from offset {from} to {to}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What stands before this line came in this second at the latest.
    fn time(&mut self, time: i64) {
        self.is_before = false;
        self.first.get_or_insert(time);
        self.changed.until = Some(time);
        if self.since.is_some_and(|since| time < since) {
            // None of it counts, nor that something was missing there.
            self.changed = ChangedKeys { until: Some(time), ..ChangedKeys::default() };
            self.reaches_back = true;
        }
    }

    /// What follows this line came within the next tenth of a second, as migrations write it.
    fn exact_time(&mut self, text: &[u8]) {
        let Some(time) = number_after(text, b"MS:") else { return };
        let second = i64::try_from(time / 1000).unwrap_or(i64::MAX);
        self.is_before = self.since.is_some_and(|since| second.saturating_add(1) < since);
    }

    fn finish(mut self) -> ChangedKeys {
        if let (Some(id), Some(offset)) = (self.place.id.take(), self.place.offset) {
            self.changed.ends.push((id, offset));
        }
        if !self.reaches_back {
            let (name, since) = (&self.name, self.since.unwrap_or_default());
            let first = self.first;
            self.changed.widen(|| match first {
                Some(first) => format!(
                    "{name} begins at {first}, and what was touched since {since} is wanted (Unix time)"
                ),
                None => format!("{name} does not say when its commands were carried out"),
            });
        }
        self.changed
    }
}

/// The number in an annotation of this name.
fn number_after(text: &[u8], name: &[u8]) -> Option<u64> {
    let number = text.strip_prefix(b"#")?.strip_prefix(name)?;
    std::str::from_utf8(number).ok()?.trim().parse().ok()
}

/// Where in the stream of its source a log is, as far as the log says so (`#OFFSET:`). Commands stand there as they do in the
/// stream; annotations are not part of it.
#[derive(Debug, Default)]
struct StreamPlace {
    /// The replication id of the history that it is of.
    id: Option<String>,
    /// The offset in the stream of the byte at which the file goes on.
    offset: Option<u64>,
    /// The byte of the file that this is of.
    at: u64,
    /// Inside an annotation, or behind one whose end is not known yet.
    in_annotation: bool,
    /// Whether the file has told its place.
    told: bool,
}

impl StreamPlace {
    fn enter_file(&mut self) {
        (self.at, self.in_annotation, self.told) = (0, false, false);
    }

    /// Something stands at this byte of the file.
    fn at(&mut self, at: u64) {
        if !std::mem::take(&mut self.in_annotation) && self.told {
            self.offset = self.offset.map(|offset| offset + at.saturating_sub(self.at));
        }
        self.at = at;
    }

    fn annotation(&mut self, at: u64) {
        self.at(at);
        self.in_annotation = true;
    }

    fn leave_file(&mut self, end: u64) {
        self.at(end);
    }

    /// Takes in what an annotation tells; gives what is missing before it.
    fn told(&mut self, text: &[u8]) -> Option<(u64, u64)> {
        if let Some(id) = text.strip_prefix(b"#ID:") {
            self.id = std::str::from_utf8(id).ok().map(str::to_owned);
        }
        let is = number_after(text, b"OFFSET:")?;
        let was = self.offset.replace(is);
        // Within a file the offset moves on by keep-alives that are not kept.
        let first = !std::mem::replace(&mut self.told, true);
        was.filter(|was| first && *was != is).map(|was| (was, is))
    }
}
