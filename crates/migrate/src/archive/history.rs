//! How a key came to be what it was: the commands that named it.

use std::fs::File;

use keyferry_files::time;
use keyferry_rdb::{EntryHead, Event, Parser};
use keyferry_resp::{Command, CommandDecoder, CommandRef, Limits};
use keyferry_routing::CommandTable;
use serde::Serialize;

use super::{
    catalog::{Base, Run},
    error::Damage,
    listing::Stored,
    scan::Scan,
};
use crate::{
    error::{Error, show_command},
    journal::{Received, failed},
};

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyWrite {
    /// When it came, in Unix milliseconds, to a tenth of a second.
    pub came: u64,
    /// The history, and the offset behind it: restoring to there has it.
    pub position: String,
    /// That offset.
    pub offset: u64,
    /// The offset before it: restoring to there has not. None for a snapshot.
    pub before: Option<u64>,
    /// The database that was selected.
    pub db: u64,
    /// The command, long arguments shortened; or what a snapshot held.
    pub what: String,
    /// It was part of a transaction, which is restored as a whole.
    pub in_transaction: bool,
}

/// What a search for the writes of a key came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HistoryEnd {
    /// Writes that were found; snapshots do not count.
    pub writes: u64,
    /// Scripts and functions in the stream that do not name the key. Servers before 7.0 may send such, and nobody can tell what
    /// they did.
    pub scripts: u64,
    /// Commands that are not known here, as those of modules; they were taken to be about the key when one of their arguments
    /// is its name.
    pub unknown: u64,
    /// What could not be read: writes in it are missing.
    pub damages: Vec<Damage>,
}

/// The scanner has held them to its own.
const LIMITS: Limits = Limits::new()
    .frame_bytes(usize::MAX)
    .bulk_bytes(usize::MAX)
    .elements(usize::MAX)
    .total_elements(usize::MAX);

impl Stored {
    /// Gives everything that happened to a key, oldest first: what the first snapshot of each history held, then each command
    /// that names it or empties its database. Reads the whole archive. Blocks.
    ///
    /// # Errors
    /// When a file cannot be opened. What is damaged is passed over and told at the end.
    pub fn history(&self, db: u64, key: &[u8], mut each: impl FnMut(KeyWrite)) -> Result<HistoryEnd, Error> {
        let mut end = HistoryEnd::default();
        for run in &self.catalog.runs {
            if let Some(base) = run.bases.first() {
                match self.in_base(base, db, key)? {
                    Ok(write) => each(write),
                    Err(damage) => end.damages.push(damage),
                }
            }
            self.in_run(run, (db, key), &mut end, &mut each);
        }
        Ok(end)
    }

    fn in_base(&self, base: &Base, db: u64, key: &[u8]) -> Result<Result<KeyWrite, Damage>, Error> {
        let path = self.dir.join(&base.file);
        let mut file = File::open(&path).map_err(|e| failed(&path, "opening the snapshot", e))?;
        let mut what = "is not there".to_owned();
        let mut parser = Parser::new();
        loop {
            loop {
                let event = match parser.next_event() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(error) => {
                        let why = error.to_string();
                        return Ok(Err(Damage { file: base.file.clone(), at: 0, why }));
                    }
                };
                match &event {
                    Event::Entry(entry) if entry.head.db == db && entry.head.key == key => {
                        what = shown(
                            &entry.head,
                            &format!(" of {} bytes, serialized", entry.value.bytes().len()),
                        );
                    }
                    Event::ValueStart(head) if head.db == db && head.key == key => {
                        what = shown(head, ", a large one");
                    }
                    _ => {}
                }
            }
            let space = parser.space(1 << 18);
            match std::io::Read::read(&mut file, space) {
                Ok(0) => break,
                Ok(n) => parser.filled(n),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&path, "reading the snapshot", e)),
            }
        }
        Ok(Ok(KeyWrite {
            came: base.taken,
            position: format!("{}:{}", base.replication_id, base.offset),
            offset: base.offset,
            before: None,
            db,
            what: format!("in the snapshot {}: {what}", base.file),
            in_transaction: false,
        }))
    }

    fn in_run(
        &self,
        run: &Run,
        (db, key): (u64, &[u8]),
        end: &mut HistoryEnd,
        each: &mut impl FnMut(KeyWrite),
    ) {
        let mut about = About { db, key, table: CommandTable::builtin(), keys: Vec::new() };
        let mut inside = false;
        for (number, segment) in run.segments.iter().enumerate() {
            let from = (number == 0).then_some(run.start());
            let mut scan = match Scan::open(&self.dir, segment, from, None) {
                Ok(scan) => scan,
                Err(damage) => {
                    end.damages.push(damage);
                    continue;
                }
            };
            loop {
                match scan.next() {
                    Ok(Some(received)) => about.batch(&received, &mut inside, end, each),
                    Ok(None) => break,
                    Err(damage) => {
                        end.damages.push(damage);
                        break;
                    }
                }
            }
        }
    }
}

/// Tells which commands are about a key.
struct About<'k> {
    db: u64,
    key: &'k [u8],
    table: &'static CommandTable,
    keys: Vec<keyferry_routing::Key>,
}

impl About<'_> {
    fn batch(
        &mut self,
        received: &Received,
        inside: &mut bool,
        end: &mut HistoryEnd,
        each: &mut impl FnMut(KeyWrite),
    ) {
        let Received { batch, at: came, id } = received;
        let mut decoder = CommandDecoder::with_limits(LIMITS);
        let mut selected = batch.db.unwrap_or(0);
        let mut at = 0;
        while let Ok(Some(command)) = decoder.next_ref(&batch.bytes[at..]) {
            let before = batch.start + at as u64;
            at += command.raw().len();
            if command.is("SELECT") {
                selected = number(command.arg(1)).unwrap_or(selected);
                continue;
            }
            if command.is("MULTI") || command.is("EXEC") {
                *inside = command.is("MULTI");
                continue;
            }
            if self.is_about(&command, selected, end) {
                end.writes += 1;
                let offset = batch.start + at as u64;
                let owned = Command::new(command.args().collect::<Vec<_>>());
                each(KeyWrite {
                    came: *came,
                    position: format!("{id}:{offset}"),
                    offset,
                    before: Some(before),
                    db: selected,
                    what: show_command(owned.args(), owned.len()),
                    in_transaction: *inside,
                });
            }
        }
    }

    fn is_about(&mut self, command: &CommandRef<'_>, selected: u64, end: &mut HistoryEnd) -> bool {
        let here = selected == self.db;
        if command.is("FLUSHALL") {
            return true;
        }
        if command.is("FLUSHDB") {
            return here;
        }
        if command.is("SWAPDB") {
            return (1..3).any(|arg| number(command.arg(arg)) == Some(self.db));
        }
        let names = |arg: &[u8]| arg == self.key;
        if self.table.keys(command, &mut self.keys).is_err() {
            let known = self.table.get(command).is_some();
            end.unknown += u64::from(!known);
            return here && command.args().skip(1).any(names);
        }
        let named = self.keys.iter().filter_map(|key| command.arg(key.index)).any(names);
        let is = |name: &str| command.is(name);
        if !named && (is("EVAL") || is("EVALSHA") || is("FCALL")) {
            end.scripts += 1;
        }
        if is("MOVE") {
            return named && (here || number(command.arg(2)) == Some(self.db));
        }
        if is("COPY") {
            let word = command.args().position(|arg| arg.eq_ignore_ascii_case(b"DB"));
            let to = word.filter(|&at| at > 2).and_then(|at| number(command.arg(at + 1)));
            return named && (here || to == Some(self.db));
        }
        named && here
    }
}

fn number(arg: Option<&[u8]>) -> Option<u64> {
    std::str::from_utf8(arg?).ok()?.parse().ok()
}

fn shown(head: &EntryHead<'_>, size: &str) -> String {
    let expiry = head.expiry.map_or(String::new(), |at| format!(", expires {}", time::show(at)));
    format!("{}{size}{expiry}", head.ty.kind().name())
}
