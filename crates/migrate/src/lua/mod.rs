//! Scripts in Lua that rewrite commands.
//!
//! A script is run once for each command. These globals tell what it is, under the names that users of RedisShake know:
//!
//! | global | what it is |
//! |---|---|
//! | `DB` | the database of the source, a number |
//! | `CMD` | the name of the command in capitals, with a hyphen before a subcommand: `SET`, `XGROUP-CREATE` |
//! | `GROUP` | what it is about: `STRING`, `LIST`, `SET`, `SORTED_SET`, `HASH`, `STREAM`, `GENERIC`, `SCRIPTING`, …; `UNKNOWN` for commands of modules |
//! | `ARGV` | all arguments, the name first |
//! | `KEYS`, `KEY_INDEXES`, `SLOTS` | its keys, where they stand in `ARGV`, and the slots that they have in a cluster |
//! | `PHASE` | `snapshot` or `stream` |
//!
//! `keyferry.call(DB, ARGV)` sends a command in its place; what is not sent is dropped. `keyferry.log(message)` writes to the log. `shake` is another name
//! for `keyferry`. Globals that a script sets are gone when the next command comes.
//!
//! Of Lua 5.4 there are `assert`, `error`, `ipairs`, `next`, `pairs`, `select`, `tonumber`, `tostring`, `type`, `unpack`, and `string`, `table`, `math` and
//! `utf8` without `string.dump` and `table.move`; `math.random` gives the same for each command. There is nothing that reads, writes,
//! loads code, or catches errors, and no metatables. Instructions, memory and what is sent are [bounded](Limits); an error, also of a bound,
//! ends the run with the command, its offset and the line.
//!
//! ```
//! use keyferry_migrate::{Options, lua::Lua, rewrite::Script};
//!
//! let text = r#"
//!     if GROUP == "STREAM" then return end
//!     for _, at in ipairs(KEY_INDEXES) do ARGV[at] = "old:" .. ARGV[at] end
//!     keyferry.call(DB, ARGV)
//! "#;
//! let script = Script::new(Lua::new("rename.lua", text.as_bytes())?);
//! let mut options = Options::default();
//! options.script = Some(std::sync::Arc::new(script));
//! # Ok::<(), keyferry_migrate::lua::LuaError>(())
//! ```

mod budget;
mod machine;
mod pattern;
mod strings;

use crate::rewrite::{Rewrite, Rewriter};

/// Largest script.
const LARGEST: usize = 1 << 20;

/// What a script may take for one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Instructions of Lua, and steps of its patterns. Default: ten million, some tenths of a second.
    pub instructions: u64,
    /// Bytes of memory beside four times those of the command. Default: 64 MiB.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { instructions: 10_000_000, memory: 64 << 20 }
    }
}

/// A script in Lua.
#[derive(Clone, Debug)]
pub struct Lua {
    name: String,
    text: Vec<u8>,
    limits: Limits,
}

/// A script that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the script {name} cannot be used: {why}")]
pub struct LuaError {
    name: String,
    why: String,
}

impl Lua {
    /// A script of this text; the name is for messages.
    ///
    /// # Errors
    /// When it is no Lua, or too large.
    pub fn new(name: &str, text: &[u8]) -> Result<Self, LuaError> {
        let wrong = |why: String| LuaError { name: name.to_owned(), why };
        if text.len() > LARGEST {
            return Err(wrong(format!("it has more than {LARGEST} bytes")));
        }
        let script = Lua { name: name.to_owned(), text: text.to_vec(), limits: Limits::default() };
        machine::Machine::new(&script).map_err(|error| wrong(machine::in_words(&error)))?;
        Ok(script)
    }

    /// The same with these bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Rewrite for Lua {
    fn begin(&self) -> Result<Box<dyn Rewriter>, String> {
        let machine = machine::Machine::new(self).map_err(|error| machine::in_words(&error))?;
        Ok(Box::new(machine))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> String {
        format!("{:032x}", twox_hash::XxHash3_128::oneshot(&self.text))
    }
}

#[cfg(test)]
mod tests;
