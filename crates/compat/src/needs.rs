//! What a case needs of a server.

use std::fmt;
use std::ops::{BitAnd, BitOr};

use keyferry_routing::{CommandFlags, CommandTable};

use crate::command::is;

/// What a server must be, or what running on it must be allowed to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Needs(u16);

const NAMES: [(&str, Needs); 8] = [
    ("flush", Needs::FLUSH),
    ("database", Needs::DATABASE),
    ("scripting", Needs::SCRIPTING),
    ("pubsub", Needs::PUBSUB),
    ("admin", Needs::ADMIN),
    ("cluster", Needs::CLUSTER),
    ("standalone", Needs::STANDALONE),
    ("alone", Needs::ALONE),
];

impl Needs {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `flush`: everything that the server holds is lost.
    pub const FLUSH: Self = Self(1);
    /// `database`: it looks at, or empties, a whole database, so it has to be ours.
    pub const DATABASE: Self = Self(2);
    /// `scripting`: it runs scripts, or loads functions.
    pub const SCRIPTING: Self = Self(4);
    /// `pubsub`: it sends messages to channels.
    pub const PUBSUB: Self = Self(8);
    /// `admin`: it changes the server's settings, users or statistics; what can be put back is put back.
    pub const ADMIN: Self = Self(16);
    /// `cluster`: it is about clusters.
    pub const CLUSTER: Self = Self(32);
    /// `standalone`: it is about servers that are none.
    pub const STANDALONE: Self = Self(64);
    /// `alone`: others must not run at the same time.
    pub const ALONE: Self = Self(128);

    /// The need with this name.
    ///
    /// # Errors
    ///
    /// With the names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, need)| *need).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("\"{name}\" is none of {}", known.join(", "))
        })
    }

    /// Whether all of these are among them.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of these is among them.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that are not among the others.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(_, need)| self.contains(*need)).map(|(name, _)| *name)
    }
}

impl BitOr for Needs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Needs {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.names().enumerate() {
            write!(f, "{}{name}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Needs({self})")
    }
}

/// Commands for operators that only look, and harm nothing by that.
const LOOKING: &[&str] = &[
    "acl|cat",
    "acl|dryrun",
    "acl|genpass",
    "acl|getuser",
    "acl|help",
    "acl|list",
    "acl|log",
    "acl|users",
    "acl|whoami",
    "client|info",
    "client|list",
    "client|no-evict",
    "cluster|slots",
    "config|get",
    "config|help",
    "debug|help",
    "latency|doctor",
    "latency|graph",
    "latency|help",
    "latency|histogram",
    "latency|history",
    "latency|latest",
    "module|help",
    "module|list",
    "role",
    "slowlog|get",
    "slowlog|help",
    "slowlog|len",
];

/// Containers of subcommands for operators: a subcommand that is not known to look is taken for one that acts.
const OPERATING: &[&str] =
    &["acl", "config", "debug", "latency", "module", "slowlog", "commandlog", "failover", "cluster"];

/// Commands without keys that change nothing for anybody else.
const HARMLESS: &[&str] = &[
    "ping",
    "echo",
    "hello",
    "time",
    "lolwut",
    "dbsize",
    "lastsave",
    "auth",
    "reset",
    "quit",
    "select",
    "readonly",
    "readwrite",
    "asking",
    "multi",
    "exec",
    "discard",
    "unwatch",
    "info",
];

/// Containers whose subcommands change nothing for anybody else, but for those named.
const HARMLESS_CONTAINERS: &[(&str, &[&str])] = &[
    ("command", &[]),
    ("object", &[]),
    ("pubsub", &[]),
    ("memory", &["purge"]),
    ("xinfo", &[]),
    ("client", &["kill", "pause", "unpause", "unblock", "no-evict", "import-source"]),
];

/// What a command needs.
pub(crate) fn needs_of(words: &[Vec<u8>]) -> Needs {
    let table = CommandTable::builtin();
    let first = words.first();
    let mut needs = Needs::NONE;
    if is(first, "FLUSHALL") || (is(first, "DEBUG") && is(words.get(1), "FLUSHALL")) {
        needs = needs | Needs::FLUSH;
    }
    let whole = ["FLUSHDB", "SWAPDB", "DBSIZE", "RANDOMKEY", "KEYS", "SCAN", "MOVE"];
    if whole.iter().any(|name| is(first, name)) {
        needs = needs | Needs::DATABASE;
    }
    let scripts = ["EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO", "SCRIPT", "FUNCTION"];
    if scripts.iter().any(|name| is(first, name)) {
        needs = needs | Needs::SCRIPTING;
    }
    if ["PUBLISH", "SPUBLISH"].iter().any(|name| is(first, name)) {
        needs = needs | Needs::PUBSUB;
    }
    let name = |index: usize| words.get(index).map(|word| String::from_utf8_lossy(word).to_lowercase());
    let container = name(0).unwrap_or_default();
    let known = table.get(words);
    let acts = match known {
        Some(spec) => spec.flags().contains(CommandFlags::ADMIN) && !LOOKING.contains(&spec.name()),
        None => OPERATING.contains(&container.as_str()) && words.len() > 1,
    };
    let functions = container == "function"
        && !words.get(1).is_none_or(|word| {
            ["list", "dump", "stats", "help"].iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
        });
    let scripts = container == "script" && (is(words.get(1), "FLUSH") || is(words.get(1), "KILL"));
    // With too few or too many arguments nothing is executed.
    let refused = known.is_some_and(|spec| !spec.takes(words.len()));
    let forgets = is(words.first(), "ACL") && is(words.get(1), "LOG") && is(words.get(2), "RESET");
    if (acts || functions || scripts || forgets) && !refused {
        needs = needs | Needs::ADMIN;
    }
    needs
}

/// Whether a command changes nothing: no key, no setting, no channel, no other connection.
pub(crate) fn is_read_only(words: &[Vec<u8>]) -> bool {
    let table = CommandTable::builtin();
    let Some(spec) = table.get(words) else { return false };
    if needs_of(words) != Needs::NONE {
        return false;
    }
    let flags = spec.flags();
    if flags.contains(CommandFlags::READONLY) {
        // GETEX and such are writes; SORT_RO is not. What reads keys is fine.
        return !flags.contains(CommandFlags::WRITE);
    }
    let name = spec.name();
    if HARMLESS.contains(&name) {
        return true;
    }
    let (container, sub) = name.split_once('|').unwrap_or((name, ""));
    HARMLESS_CONTAINERS.iter().any(|(known, but)| *known == container && !but.contains(&sub))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::split;

    fn needs(command: &str) -> String {
        needs_of(&split(command).unwrap()).to_string()
    }

    #[test]
    fn needs_are_seen_from_commands() {
        for (command, expected) in [
            ("SET k v", ""),
            ("FLUSHALL", "flush"),
            ("flushdb ASYNC", "database"),
            ("KEYS *", "database"),
            ("EVAL return 0", "scripting"),
            ("FUNCTION LIST", "scripting"),
            ("FUNCTION FLUSH", "scripting, admin"),
            ("SCRIPT FLUSH", "scripting, admin"),
            ("PUBLISH c m", "pubsub"),
            ("CONFIG GET x", ""),
            ("CONFIG SET x y", "admin"),
            ("CONFIG UNHEARD x y", "admin"),
            ("ACL SETUSER x", "admin"),
            ("ACL WHOAMI", ""),
            ("ACL LOG", ""),
            ("ACL LOG reset", "admin"),
            ("CLIENT KILL 1.2.3.4:5", "admin"),
            ("CLIENT LIST", ""),
            ("DEBUG SLEEP 1", "admin"),
            ("SHUTDOWN", "admin"),
        ] {
            assert_eq!(needs(command), expected, "{command}");
        }
    }

    #[test]
    fn reading_is_told_from_writing() {
        let read_only = |command: &str| is_read_only(&split(command).unwrap());
        for command in
            ["GET k", "LRANGE k 0 -1", "PING", "OBJECT ENCODING k", "CLIENT ID", "COMMAND COUNT", "HELLO 3"]
        {
            assert!(read_only(command), "{command}");
        }
        for command in [
            "SET k v",
            "GETDEL k",
            "PUBLISH c m",
            "EVAL x 0",
            "CLIENT PAUSE 1",
            "KEYS *",
            "NOSUCH k",
            "SORT k",
            "CONFIG SET a b",
        ] {
            assert!(!read_only(command), "{command}");
        }
    }

    #[test]
    fn every_name_is_read_back() {
        for (name, need) in NAMES {
            assert_eq!(Needs::named(name), Ok(need));
        }
        assert!(Needs::named("money").unwrap_err().contains("flush"));
    }
}
