//! The command table: what is known of each command.

mod learn;
mod names;
mod spec;

use std::sync::LazyLock;

pub use learn::{LearnError, keys_from_reply};
use names::{Names, TOP};
pub use spec::{Access, Begin, CommandFlags, Find, KeySpec};

use crate::args::{Arguments, at};
use crate::group::Group;
use crate::meaning::{KeyRule, Meaning, RouteRule};

/// The commands of Redis up to 8.8 and Valkey up to 9.1. Where the two differ in flags, it has those of both; where they differ
/// in the number of arguments, it takes what one of them takes.
static BUILTIN: &str = include_str!("commands.tsv");

/// What is known of one command, or of one subcommand.
#[derive(Clone, Debug)]
pub struct CommandSpec {
    name: Box<str>,
    redis_since: Option<Box<str>>,
    valkey_since: Option<Box<str>>,
    arity: i32,
    flags: CommandFlags,
    pub(crate) group: Group,
    keys: Box<[KeySpec]>,
    /// The argument that is the one key, for commands whose keys are just that and which always do the same to it.
    pub(crate) only_key: Option<u16>,
    /// The argument that is the one key, for commands that go where it is.
    pub(crate) home_key: Option<u16>,
    pub(crate) meaning: Meaning,
}

impl CommandSpec {
    fn new(name: &str, arity: i32, flags: CommandFlags, keys: Vec<KeySpec>) -> Self {
        let only_key = match &keys[..] {
            [KeySpec { begin: Begin::Index(index), find: Find::Range { last: 0, .. }, access }]
                if access.is_key()
                    && !access.intersects(Access::VARIABLE)
                    && arity.unsigned_abs() as usize > *index =>
            {
                u16::try_from(*index).ok()
            }
            _ => None,
        };
        Self {
            name: name.to_ascii_lowercase().into(),
            redis_since: None,
            valkey_since: None,
            arity,
            flags,
            group: Group::of(&name.to_ascii_lowercase()),
            keys: keys.into(),
            only_key,
            home_key: None,
            meaning: Meaning::NONE,
        }
    }

    fn mean(&mut self, meaning: Meaning) {
        self.home_key = match (meaning.route, meaning.keys) {
            (RouteRule::Keys, KeyRule::Set | KeyRule::Bitfield | KeyRule::Delex) => Some(1),
            (RouteRule::Keys, _) => self.only_key,
            _ => None,
        };
        self.meaning = meaning;
    }

    /// The name in lower case; `container|subcommand` for subcommands.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of Redis that the command came with. `None` if Redis has no such command, or for commands that were learned.
    pub fn redis_since(&self) -> Option<&str> {
        self.redis_since.as_deref()
    }

    /// The version of Valkey, counting on from Redis 7.2, that the command came with. `None` if Valkey has no such command,
    /// or for commands that were learned.
    pub fn valkey_since(&self) -> Option<&str> {
        self.valkey_since.as_deref()
    }

    /// How many arguments there are with the name (and the name of the subcommand): exactly so many, or, if it is
    /// negative, at least so many.
    pub fn arity(&self) -> i32 {
        self.arity
    }

    /// The flags of the command.
    #[inline]
    pub fn flags(&self) -> CommandFlags {
        self.flags
    }

    /// Where its keys are, as far as that can be described. [`CommandTable::keys`] knows the rest.
    pub fn key_specs(&self) -> &[KeySpec] {
        &self.keys
    }

    /// Whether a command of `count` arguments can be this one.
    #[inline]
    pub fn takes(&self, count: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= least } else { count == least }
    }
}

/// All commands that are known: those of Redis and Valkey, and those that were [learned](Self::learn_command_reply) from a server.
///
/// ```
/// use keyferry_routing::{CommandTable, Access, Key};
///
/// let table = CommandTable::builtin();
/// let mut keys = Vec::new();
/// table.keys(&["ZUNIONSTORE", "total", "2", "mon", "tue", "WEIGHTS", "1", "2"], &mut keys)?;
/// assert_eq!(keys.iter().map(|key| key.index).collect::<Vec<_>>(), [1, 3, 4]);
/// assert!(keys[0].access.contains(Access::OW) && !keys[1].access.is_write());
/// # Ok::<(), keyferry_routing::KeysError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CommandTable {
    names: Names,
    specs: Vec<CommandSpec>,
}

impl CommandTable {
    /// The table of the commands of Redis and Valkey.
    pub fn builtin() -> &'static Self {
        static TABLE: LazyLock<CommandTable> = LazyLock::new(CommandTable::new);
        &TABLE
    }

    /// A table of its own, to which commands can be added. It begins with those of Redis and Valkey.
    pub fn new() -> Self {
        let mut table = Self { names: Names::new(), specs: Vec::with_capacity(512) };
        // A test sees to it that each line can be read.
        for spec in BUILTIN.lines().filter_map(parse_line) {
            table.add(spec);
        }
        table
    }

    /// The command with these arguments: that of the name, or, for names which only group others, the subcommand.
    ///
    /// `None` if there is no such command, or the name of the subcommand is missing.
    #[inline]
    pub fn get<A: Arguments + ?Sized>(&self, args: &A) -> Option<&CommandSpec> {
        let number = self.names.get(TOP, at(args, 0))?;
        let spec = self.specs.get(usize::from(number))?;
        if spec.flags.intersects(CommandFlags::CONTAINER) {
            return self.subcommand(number, spec, args);
        }
        Some(spec)
    }

    /// `COMMAND` is the one container that is a command by itself, too.
    fn subcommand<'a, A: Arguments + ?Sized>(
        &'a self,
        container: u16,
        spec: &'a CommandSpec,
        args: &A,
    ) -> Option<&'a CommandSpec> {
        match args.argument(1) {
            None if spec.takes(1) => Some(spec),
            None => None,
            Some(name) => self.specs.get(usize::from(self.names.get(container, name)?)),
        }
    }

    /// The command with this name, `container|subcommand` for subcommands, in any letter case.
    pub fn named(&self, name: &str) -> Option<&CommandSpec> {
        self.specs.get(usize::from(self.number(name)?))
    }

    fn number(&self, name: &str) -> Option<u16> {
        match name.split_once('|') {
            None => self.names.get(TOP, name.as_bytes()),
            Some((container, name)) => {
                self.names.get(self.names.get(TOP, container.as_bytes())?, name.as_bytes())
            }
        }
    }

    /// All commands and subcommands, containers included, in no order.
    pub fn commands(&self) -> impl ExactSizeIterator<Item = &CommandSpec> {
        self.specs.iter()
    }

    /// Makes `alias` another name of `command`, as `rename-command` of a server's configuration does. The command keeps its own
    /// name, too.
    ///
    /// Returns whether `command` is known.
    ///
    /// ```
    /// use keyferry_routing::{CommandTable, Replay};
    ///
    /// let mut table = CommandTable::new();
    /// assert!(table.alias("b840fc02d5", "set"));
    /// assert_eq!(table.replay(&["B840FC02D5", "key", "value"]), Replay::Blind);
    /// ```
    pub fn alias(&mut self, alias: &str, command: &str) -> bool {
        let Some(number) = self.number(command) else { return false };
        self.names.insert(TOP, alias.as_bytes(), number);
        true
    }

    /// Adds a command, or replaces the facts of a known one and keeps what it means. Specifications that do not tell all keys replace
    /// none that do. Returns `false` if the table is full, or a
    /// subcommand has no container.
    fn add(&mut self, mut spec: CommandSpec) -> bool {
        if let Some(known) =
            self.number(&spec.name).and_then(|number| self.specs.get_mut(usize::from(number)))
        {
            if spec.keys.iter().any(KeySpec::is_vague) {
                spec.keys = std::mem::take(&mut known.keys);
                spec.only_key = known.only_key;
            }
            // The rules for single commands count on the arguments that these have at least.
            if known.meaning.keys != KeyRule::Specs && spec.arity.unsigned_abs() < known.arity.unsigned_abs()
            {
                spec.arity = known.arity;
            }
            spec.mean(known.meaning);
            spec.redis_since = known.redis_since.take();
            spec.valkey_since = known.valkey_since.take();
            *known = spec;
            return true;
        }
        spec.mean(Meaning::of(&spec.name));
        let Some(number) = u16::try_from(self.specs.len()).ok().filter(|&number| number < TOP) else {
            return false;
        };
        let (container, name) = match spec.name.split_once('|') {
            None => (Some(TOP), &*spec.name),
            Some((container, name)) => (self.names.get(TOP, container.as_bytes()), name),
        };
        let Some(container) = container else { return false };
        self.names.insert(container, name.as_bytes(), number);
        self.specs.push(spec);
        true
    }
}

impl Default for CommandTable {
    fn default() -> Self {
        Self::new()
    }
}

/// One line of the table. `None` for comments.
fn parse_line(line: &str) -> Option<CommandSpec> {
    let mut fields = line.split('\t').map(|field| if field == "-" { "" } else { field });
    let name = fields.next().filter(|name| !name.starts_with('#'))?;
    let since = |field: &str| (!field.is_empty()).then(|| field.into());
    let (redis_since, valkey_since) = (since(fields.next()?), since(fields.next()?));
    let arity = fields.next()?.parse().ok()?;
    let (flags, keys) = (fields.next()?, fields.next()?);
    let flags = words(flags, ',')
        .map(CommandFlags::named)
        .try_fold(CommandFlags::NONE, |all, flag| Some(all | flag?))?;
    let keys = words(keys, ';').map(spec::parse_key_spec).collect::<Option<Vec<_>>>()?;
    let spec = CommandSpec::new(name, arity, flags, keys);
    Some(CommandSpec { redis_since, valkey_since, ..spec })
}

fn words(text: &str, between: char) -> impl Iterator<Item = &str> {
    text.split(between).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_and_found() {
        let table = CommandTable::builtin();
        let lines: Vec<&str> = BUILTIN.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(table.specs.len(), lines.len());
        assert!(lines.len() > 450);
        for line in lines {
            let name = line.split('\t').next().unwrap_or_default();
            let spec = table.named(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(spec.name(), name);
            let upper = name.to_uppercase();
            let args: Vec<&str> = upper.split('|').collect();
            match table.get(&args) {
                Some(found) => assert!(std::ptr::eq(found, spec), "{name}"),
                None => assert!(spec.flags().contains(CommandFlags::CONTAINER), "{name}"),
            }
        }
    }

    #[test]
    fn names_that_are_none() {
        let table = CommandTable::builtin();
        for args in [
            &["GETT"][..],
            &[""],
            &[],
            &["config"],
            &["config", "nope"],
            &["object|freq", "x"],
            &["config", ""],
        ] {
            assert!(table.get(args).is_none(), "{args:?}");
        }
        assert_eq!(table.get(&["command"]).map(CommandSpec::name), Some("command"));
        assert_eq!(table.get(&["COMMAND", "GetKeys"]).map(CommandSpec::name), Some("command|getkeys"));
    }

    #[test]
    fn arity_counts() {
        let table = CommandTable::builtin();
        let takes = |name: &str, count| table.named(name).is_some_and(|spec| spec.takes(count));
        assert!(takes("get", 2) && !takes("get", 1) && !takes("get", 3));
        assert!(takes("mget", 2) && takes("mget", 99) && !takes("mget", 1));
    }
}
