//! Commands of logs, chosen and passed on.

use std::collections::HashMap;

use keyferry_rdb::aof::AofCommand;
use keyferry_rdb::{EntryHead, ValueType};
use keyferry_routing::{CommandTable, Key};

use super::{ConvertOptions, Run};
use crate::error::Error;
use crate::input::Place;
use crate::output::Output;
use crate::select::Selection;

/// What decides on commands.
#[derive(Debug)]
pub(super) struct CommandFilter {
    selection: Selection,
    /// Whether databases change their numbers.
    moves: bool,
    /// The database of the input that each database of the output has its commands from.
    origins: HashMap<u64, u64>,
    keys: Vec<Key>,
}

impl CommandFilter {
    pub(super) fn new(options: &ConvertOptions, outputs: &[Output]) -> Self {
        let mut selection = options.selection.clone();
        if let [only] = outputs
            && selection.slots.is_none()
        {
            selection.slots.clone_from(&only.slots);
        }
        Self { selection, moves: !options.databases.is_identity(), origins: HashMap::new(), keys: Vec::new() }
    }

    /// Whether a command is wanted. Those without keys, such as `MULTI`, always are.
    ///
    /// # Errors
    ///
    /// Why that cannot be told.
    fn admits(&mut self, command: &AofCommand<'_>) -> Result<bool, String> {
        if self.selection.is_everything() {
            return Ok(true);
        }
        if !self.selection.kinds.is_empty() {
            return Err("commands do not tell the type of a key, so they cannot be chosen by type".to_owned());
        }
        if !self.selection.value.is_empty() {
            return Err(
                "commands do not tell what a value is like, so they cannot be chosen by that".to_owned()
            );
        }
        let args: Vec<&[u8]> = command.args().collect();
        CommandTable::builtin().keys(args.as_slice(), &mut self.keys).map_err(|error| error.to_string())?;
        let head = |key| EntryHead::new(command.db, key, ValueType::String);
        let mut wanted = self.keys.iter().filter_map(|key| args.get(key.index)).map(|key| {
            // The type plays no part: there is no choice by type here.
            self.selection.admits(&head(key))
        });
        let Some(first) = wanted.next() else {
            let of_transaction =
                [&b"MULTI"[..], b"EXEC"].iter().any(|name| args[0].eq_ignore_ascii_case(name));
            let databases = &self.selection.databases;
            return Ok(of_transaction || databases.is_empty() || databases.contains(&command.db));
        };
        if wanted.any(|wanted| wanted != first) {
            return Err("some of its keys are chosen and some are not".to_owned());
        }
        Ok(first)
    }
}

/// Whether a command names databases by number, other than the one it runs in.
fn names_databases(name: &[u8], args: &[&[u8]]) -> bool {
    name.eq_ignore_ascii_case(b"SWAPDB")
        || name.eq_ignore_ascii_case(b"MOVE")
        || name.eq_ignore_ascii_case(b"COPY") && args.iter().any(|arg| arg.eq_ignore_ascii_case(b"DB"))
}

impl Run {
    pub(super) fn command(&mut self, command: &AofCommand<'_>, place: &Place<'_>) -> Result<(), Error> {
        let args: Vec<&[u8]> = command.args().collect();
        let Some(&name) = args.first() else { return Ok(()) };
        if name.eq_ignore_ascii_case(b"SELECT") {
            return Ok(());
        }
        let refuse = |why: String| {
            let name = name.escape_ascii().to_string();
            Err(Error::Command { input: place.input.to_owned(), offset: command.offset, name, why })
        };
        if self.inputs > 1 {
            return refuse("the commands of several logs have no common order".to_owned());
        }
        let target = self.target.unwrap_or(keyferry_rdb::TargetFormat::redis(7, 0));
        self.open_outputs(target)?;
        if self.open.iter().any(|open| !open.kind.takes_commands()) {
            return Err(Error::NeedsServer { input: place.input.to_owned(), offset: command.offset });
        }
        if self.open.len() > 1 {
            return refuse("a log is not divided: choose the slots of one output after the other".to_owned());
        }
        if self.commands.moves && names_databases(name, &args) {
            return refuse("it names databases, which are to change their numbers".to_owned());
        }
        match self.commands.admits(command) {
            Err(why) => return refuse(why),
            Ok(false) => {
                self.report.commands_left_out += 1;
                return Ok(());
            }
            Ok(true) => {}
        }
        let db = self.options.databases.target(command.db);
        if db != 0 && self.open.iter().any(|open| open.slots.is_some()) {
            return refuse(format!("it runs in database {db}, and a cluster has database 0 only"));
        }
        let origin = *self.commands.origins.entry(db).or_insert(command.db);
        if origin != command.db {
            let why =
                format!("databases {origin} and {} would become one, which a log cannot tell", command.db);
            return refuse(why);
        }
        self.report.commands += 1;
        self.each(place, |sink| sink.command(db, command))
    }

    pub(super) fn annotation(&mut self, text: &[u8], place: &Place<'_>) -> Result<(), Error> {
        let target = self.target.unwrap_or(keyferry_rdb::TargetFormat::redis(7, 0));
        self.open_outputs(target)?;
        let mut written = true;
        self.each(place, |sink| {
            written &= sink.annotation(text)?;
            Ok(())
        })?;
        self.report.annotations_dropped += u64::from(!written);
        Ok(())
    }
}
