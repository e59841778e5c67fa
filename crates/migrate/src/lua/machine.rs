//! A script at work.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use keyferry_routing::slot;
use mlua::{
    Error, Function, HookTriggers, LuaOptions, LuaString as Text, Result, StdLib, Table, Value, VmState,
    chunk::ChunkMode,
};

use super::{
    Limits, Lua,
    budget::{Instructions, exhausted},
    pattern::Budget,
    strings,
};
use crate::rewrite::{Rewriter, Seen, Sent};

/// Instructions between two looks at the budget.
const STEP: u32 = 1000;

/// Bytes that one command may have logged.
const MOST_LOGGED: usize = 16 << 10;

/// What a command has sent so far, and bytes that it had logged; none while there is no command.
type Under = Arc<Mutex<Option<(Sent, usize)>>>;

/// Lua with a script.
pub(super) struct Machine {
    lua: mlua::Lua,
    script: Function,
    /// Makes the globals of one command.
    globals: Function,
    under: Under,
    instructions: Arc<Instructions>,
    limits: Limits,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// An error as one line, without where in this program it passed by.
pub(super) fn in_words(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, traceback } => {
            if matches!(**cause, Error::CallbackError { .. }) {
                return in_words(cause);
            }
            // Where the script called, which the cause does not tell.
            let line = traceback
                .lines()
                .map(str::trim)
                .find(|line| line.contains(": in") && !line.starts_with("[C]"));
            match (line.and_then(|line| line.split(": in").next()), in_words(cause)) {
                (Some(place), why) if !why.starts_with(place) => format!("{place}: {why}"),
                (_, why) => why,
            }
        }
        Error::MemoryError(_) => "not enough memory".to_owned(),
        Error::RuntimeError(text) | Error::SyntaxError { message: text, .. } => {
            text.lines().next().unwrap_or_default().to_owned()
        }
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

impl Machine {
    pub(super) fn new(script: &Lua) -> Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::UTF8;
        let lua = mlua::Lua::new_with(libraries, LuaOptions::new())?;
        let instructions = Arc::new(Instructions::new(script.limits.instructions));
        strings::replace(&lua, &lua.globals().raw_get::<Table>("string")?, &instructions)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude").set_mode(ChunkMode::Text);
        let under = Under::default();
        let globals: Function = prelude.call(hooks(&lua, &under)?)?;
        let name = format!("={}", script.name);
        let text = lua.load(&script.text[..]).set_name(name).set_mode(ChunkMode::Text).into_function()?;
        let budget = Arc::clone(&instructions);
        lua.set_hook(HookTriggers::new().every_nth_instruction(STEP), move |_, debug| {
            if budget.spend(STEP.into()) {
                return Ok(VmState::Continue);
            }
            let source = debug.source().short_src.map(|source| source.into_owned()).unwrap_or_default();
            let line = debug.current_line().unwrap_or_default();
            Err(Error::runtime(format!("{source}:{line}: {}", in_words(&exhausted()))))
        })?;
        Ok(Machine { lua, script: text, globals, under, instructions, limits: script.limits })
    }

    fn run(&self, seen: &Seen<'_>) -> Result<()> {
        let size: usize = seen.args.iter().map(|arg| arg.len()).sum();
        self.lua.set_memory_limit(self.limits.memory.saturating_add(size.saturating_mul(4)))?;
        self.instructions.renew();
        let args = seen.args.iter().map(|arg| self.lua.create_string(arg)).collect::<Result<Vec<Text>>>()?;
        let argv = self.lua.create_sequence_from(args)?;
        let keys = || seen.keys.iter().filter_map(|&at| Some((at, *seen.args.get(at)?)));
        let names = keys().map(|(_, key)| self.lua.create_string(key)).collect::<Result<Vec<Text>>>()?;
        let names = self.lua.create_sequence_from(names)?;
        let indexes = self.lua.create_sequence_from(keys().map(|(at, _)| at + 1))?;
        let slots = self.lua.create_sequence_from(keys().map(|(_, key)| slot(key)))?;
        let phase = if seen.in_snapshot { "snapshot" } else { "stream" };
        let cmd = self.lua.create_string(name(seen))?;
        let globals: Table =
            self.globals.call((seen.db, cmd, group(seen), phase, argv, names, indexes, slots))?;
        self.script.set_environment(globals)?;
        self.script.call(())
    }
}

impl Rewriter for Machine {
    fn rewrite(&mut self, seen: &Seen<'_>, sent: &mut Sent) -> std::result::Result<(), String> {
        let under = || self.under.lock().unwrap_or_else(PoisonError::into_inner);
        *under() = Some((sent.fresh(), 0));
        let done = self.run(seen);
        if let Some((now, _)) = under().take() {
            *sent = now;
        }
        done.map_err(|error| in_words(&error))
    }
}

/// `call` and `log`.
fn hooks(lua: &mlua::Lua, under: &Under) -> Result<(Function, Function)> {
    let sent = Arc::clone(under);
    let call = move |lua: &mlua::Lua, (db, argv): (Value, Table)| {
        let db = match db {
            Value::Integer(db) => u64::try_from(db).ok(),
            Value::Number(db) if db >= 0.0 && db.fract() == 0.0 && db < 1e9 => Some(db as u64),
            _ => None,
        };
        let Some(db) = db else {
            return Err(Error::runtime("call: the first argument is the number of a database"));
        };
        let mut args = Vec::new();
        for at in 1..=argv.raw_len() {
            match argv.raw_get::<Value>(at)? {
                value @ (Value::String(_) | Value::Integer(_) | Value::Number(_)) => {
                    let Some(text) = lua.coerce_string(value)? else { continue };
                    args.push(text.as_bytes().to_vec());
                }
                other => {
                    let what = other.type_name();
                    return Err(Error::runtime(format!("call: argument {at} is a {what}, not a string")));
                }
            }
        }
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *sent {
            Some((sent, _)) => sent.send(db, &args).map_err(Error::runtime),
            None => Err(Error::runtime("call: there is no command")),
        }
    };
    let logged = Arc::clone(under);
    let log = move |lua: &mlua::Lua, message: Value| {
        let text = match lua.coerce_string(message.clone())? {
            Some(text) => text.to_string_lossy(),
            None => message.type_name().to_owned(),
        };
        let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = &mut *logged {
            *bytes += text.len() + 1;
            if *bytes > MOST_LOGGED {
                return Err(Error::runtime(format!(
                    "log: more than {MOST_LOGGED} bytes are logged for one command"
                )));
            }
        }
        tracing::info!(message = %text, "script");
        Ok(())
    };
    Ok((lua.create_function(call)?, lua.create_function(log)?))
}

/// `XGROUP-CREATE`
fn name(seen: &Seen<'_>) -> Vec<u8> {
    match seen.spec {
        Some(spec) => spec.name().replace('|', "-").to_ascii_uppercase().into_bytes(),
        None => seen.args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default(),
    }
}

/// `SORTED_SET`
fn group(seen: &Seen<'_>) -> String {
    match seen.spec {
        Some(spec) => spec.group().name().replace('-', "_").to_ascii_uppercase(),
        None => "UNKNOWN".to_owned(),
    }
}
