//! A script at work on the command stream.

use keyferry_resp::{Command, CommandRef};

use super::{
    feed::{At, StreamFeed},
    filtered::Filtered,
};
use crate::{
    error::Error,
    options::Options,
    rewrite::{Rewriting, Rewritten},
};

/// The script at work on a snapshot, if there is one. `in_shard` tells whether the source is a shard of a cluster.
///
/// # Errors
/// When it cannot begin.
pub(super) fn begin_script(options: &Options, in_shard: bool) -> Result<Option<Rewriting>, Error> {
    let script = options.script.as_ref();
    script.map(|script| script.begin(in_shard)).transpose().map_err(Error::Filter)
}

impl StreamFeed {
    /// What a script makes of what the filter leaves of a command.
    ///
    /// # Errors
    /// When it fails, or sends what cannot be carried out.
    pub(super) fn rewritten(
        &mut self,
        command: &CommandRef<'_>,
        chosen: Filtered,
        at: &At,
    ) -> Result<Filtered, Error> {
        let Some(script) = self.target.script() else { return Ok(chosen) };
        let mut rewriting = match self.rewriting.take() {
            Some(rewriting) => rewriting,
            None => script.begin(self.shard).map_err(|why| self.no_route(command, at, why))?,
        };
        let mut sent = Vec::new();
        let done = match &chosen {
            // It is about keys that the filter chooses, not about what it says.
            Filtered::Flush => Ok(true),
            Filtered::AsItIs => self.rewritten_one(&mut rewriting, command, &mut sent),
            Filtered::Commands(commands) => commands.iter().try_fold(false, |_, command| {
                if self.rewritten_one(&mut rewriting, &command.as_ref(), &mut sent)? {
                    sent.push((self.db, command.clone()));
                }
                Ok(false)
            }),
        };
        self.rewriting = Some(rewriting);
        match done {
            Ok(true) => Ok(chosen),
            Ok(false) => Ok(Filtered::Commands(self.with_databases(sent))),
            Err(why) => {
                self.tally();
                Err(self.no_route(command, at, why))
            }
        }
    }

    /// True when it goes on as it is.
    fn rewritten_one(
        &self,
        rewriting: &mut Rewriting,
        command: &CommandRef<'_>,
        sent: &mut Vec<(u64, Command)>,
    ) -> Result<bool, String> {
        let args: Vec<&[u8]> = command.args().collect();
        match rewriting.of(self.target.table(), self.db, false, &args)? {
            Rewritten::AsItIs => Ok(true),
            Rewritten::Commands(commands) => {
                sent.extend(commands);
                Ok(false)
            }
        }
    }

    /// The commands with `SELECT` before those for another database, which is left again.
    fn with_databases(&self, sent: Vec<(u64, Command)>) -> Vec<Command> {
        let select = |db: u64| Command::new(["SELECT", &db.to_string()]);
        let (mut commands, mut selected) = (Vec::with_capacity(sent.len()), self.db);
        for (db, command) in sent {
            if db != selected {
                commands.push(select(db));
                selected = db;
            }
            commands.push(command);
        }
        if selected != self.db {
            commands.push(select(self.db));
        }
        commands
    }
}
