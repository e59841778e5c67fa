//! Commands as a server describes them.

use keyferry_resp::Frame;

use super::spec::{Access, Begin, CommandFlags, Find, KeySpec};
use super::{CommandSpec, CommandTable};
use crate::args::{Arguments, at};
use crate::keys::Key;

/// Why the reply of a server about its commands cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// The server answered with an error.
    #[error("the server does not tell about its commands: {0}")]
    Refused(keyferry_resp::ErrorReply),
    /// The reply has another shape than those of known servers.
    #[error("the description of command {command} of the reply has no valid {what}")]
    Malformed {
        /// Which entry of the reply, counted from 0.
        command: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More commands than any server has.
    #[error("the server describes more than 65535 commands")]
    TooMany,
    /// A key of the reply is none of the arguments.
    #[error("the server names a key that is no argument of the command")]
    ForeignKey,
}

/// Subcommands of subcommands do not exist.
const DEPTH: usize = 2;

impl CommandTable {
    /// Learns the commands in the reply to `COMMAND` or `COMMAND INFO …`: those of modules, of newer servers, of vendors. For
    /// commands that are known, the server's flags, numbers of arguments and key specifications take the place of the built-in
    /// ones (servers before 7.0 send no specifications: then the built-in ones stay).
    ///
    /// Returns how many commands and subcommands were not known before. The null entries of `COMMAND INFO` are skipped.
    ///
    /// # Errors
    ///
    /// When the reply is an error, or has another shape. What stood before the fault was learned.
    pub fn learn_command_reply(&mut self, reply: &Frame) -> Result<usize, LearnError> {
        if let Some(error) = reply.error_reply() {
            return Err(LearnError::Refused(error));
        }
        let malformed = LearnError::Malformed { command: 0, what: "list of commands" };
        let commands = reply.as_array().ok_or(malformed)?;
        let before = self.specs.len();
        for (number, command) in commands.iter().enumerate() {
            if !command.is_null() {
                self.learn(command, None, DEPTH).map_err(|fault| fault.into_error(number))?;
            }
        }
        Ok(self.specs.len() - before)
    }

    fn learn(&mut self, command: &Frame, container: Option<&str>, depth: usize) -> Result<(), Fault> {
        let fields = command.as_array().ok_or(Fault::Shape("list of fields"))?;
        let field = |index: usize| fields.get(index);
        let integer = |index: usize, what| field(index).and_then(Frame::as_i64).ok_or(Fault::Shape(what));

        let name =
            field(0).and_then(Frame::as_str).filter(|name| !name.is_empty()).ok_or(Fault::Shape("name"))?;
        // Servers write the whole name of a subcommand; 7.0.0 and before did not always.
        let name = match container {
            Some(container) if !name.contains('|') => format!("{container}|{name}"),
            _ => name.to_owned(),
        };
        let arity = i32::try_from(integer(1, "arity")?).map_err(|_| Fault::Shape("arity"))?;
        let mut flags = field(2)
            .and_then(Frame::as_array)
            .ok_or(Fault::Shape("list of flags"))?
            .iter()
            .filter_map(|flag| CommandFlags::named(flag.as_str()?))
            .fold(CommandFlags::NONE, CommandFlags::union);
        let triple = [integer(3, "first key")?, integer(4, "last key")?, integer(5, "step")?];
        let children = field(9).and_then(Frame::as_array).unwrap_or_default();
        if !children.is_empty() {
            flags = flags | CommandFlags::CONTAINER;
        }
        let specs = match field(8).and_then(Frame::as_array) {
            Some(specs) => specs
                .iter()
                .map(key_spec)
                .collect::<Option<Vec<_>>>()
                .ok_or(Fault::Shape("key specification"))?,
            None => match self.named(&name) {
                Some(known) => {
                    if known.flags().contains(CommandFlags::CONTAINER) {
                        flags = flags | CommandFlags::CONTAINER;
                    }
                    known.key_specs().to_vec()
                }
                None => from_triple(triple, flags),
            },
        };
        if name.split_once('|').is_some_and(|(container, _)| self.named(container).is_none()) {
            return Err(Fault::Shape("container"));
        }
        if !self.add(CommandSpec::new(&name, arity, flags, specs)) {
            return Err(Fault::TooMany);
        }
        if depth > 1 {
            for child in children {
                self.learn(child, Some(&name), depth - 1)?;
            }
        }
        Ok(())
    }
}

enum Fault {
    Shape(&'static str),
    TooMany,
}

impl Fault {
    fn into_error(self, command: usize) -> LearnError {
        match self {
            Self::Shape(what) => LearnError::Malformed { command, what },
            Self::TooMany => LearnError::TooMany,
        }
    }
}

/// The keys of a command in the reply to `COMMAND GETKEYS` or `COMMAND GETKEYSANDFLAGS` of this command: for commands whose keys
/// only the server can tell. `keys` is cleared first. Without flags, keys count as read and written.
///
/// Of several arguments that are equal to a key the first that is not taken yet is it; as they have the same slot, that makes no
/// difference.
///
/// # Errors
///
/// When the reply is an error or has another shape, or names what is no argument.
pub fn keys_from_reply<A: Arguments + ?Sized>(
    args: &A,
    reply: &Frame,
    keys: &mut Vec<Key>,
) -> Result<(), LearnError> {
    keys.clear();
    if let Some(error) = reply.error_reply() {
        return Err(LearnError::Refused(error));
    }
    let malformed = |command| LearnError::Malformed { command, what: "key" };
    let mut taken = vec![false; args.count()];
    let mut found = Vec::new();
    for (number, entry) in reply.as_array().ok_or(malformed(0))?.iter().enumerate() {
        let (key, access) = match entry.as_array() {
            Some([key, flags]) => (key, access(flags).ok_or(malformed(number))?),
            Some(_) => return Err(malformed(number)),
            None => (entry, Access::RW),
        };
        let key = key.as_bytes().ok_or(malformed(number))?;
        let index = (1..args.count())
            .find(|&index| at(args, index) == key && taken.get(index) == Some(&false))
            .ok_or(LearnError::ForeignKey)?;
        if let Some(taken) = taken.get_mut(index) {
            *taken = true;
        }
        found.push(Key { index, access });
    }
    *keys = found;
    Ok(())
}

/// Flags that are not known are left out: servers may have more to say.
fn access(flags: &Frame) -> Option<Access> {
    let flags = flags.as_array()?;
    Some(flags.iter().filter_map(|flag| Access::named(flag.as_str()?)).fold(Access::NONE, Access::union))
}

fn key_spec(spec: &Frame) -> Option<KeySpec> {
    let access = access(spec.get("flags")?)?;
    let search = spec.get("begin_search")?;
    let begin = match (search.get("type")?.as_str()?, search.get("spec")) {
        ("index", Some(spec)) => Begin::Index(natural(spec.get("index")?)?),
        ("keyword", Some(spec)) => Begin::Keyword {
            word: spec.get("keyword")?.as_str()?.into(),
            from: i32::try_from(spec.get("startfrom")?.as_i64()?).ok()?,
        },
        _ => Begin::Unknown,
    };
    let find = spec.get("find_keys")?;
    let find = match (find.get("type")?.as_str()?, find.get("spec")) {
        ("range", Some(spec)) => Find::Range {
            last: i32::try_from(spec.get("lastkey")?.as_i64()?).ok()?,
            step: natural(spec.get("keystep")?)?,
            limit: natural(spec.get("limit")?)?,
        },
        ("keynum", Some(spec)) => Find::KeyNum {
            index: natural(spec.get("keynumidx")?)?,
            first: natural(spec.get("firstkey")?)?,
            step: natural(spec.get("keystep")?)?,
        },
        _ => Find::Unknown,
    };
    Some(KeySpec { begin, find, access })
}

/// A position or a distance: no command has more arguments than this.
fn natural(number: &Frame) -> Option<usize> {
    number.as_i64().and_then(|n| i32::try_from(n).ok()).and_then(|n| usize::try_from(n).ok())
}

/// What servers before 7.0 tell: first key, last key (negative: from the end), step.
fn from_triple([first, last, step]: [i64; 3], flags: CommandFlags) -> Vec<KeySpec> {
    let access = match flags.intersects(CommandFlags::READONLY) {
        true => Access::RO | Access::ACCESS,
        false => Access::RW | Access::ACCESS | Access::UPDATE,
    };
    let vague = KeySpec { begin: Begin::Unknown, find: Find::Unknown, access };
    if flags.contains(CommandFlags::MOVABLEKEYS) {
        return vec![vague];
    }
    let last = if last >= 0 { last - first } else { last };
    match (usize::try_from(first), i32::try_from(last), usize::try_from(step)) {
        (Ok(0), ..) => Vec::new(),
        (Ok(first), Ok(last), Ok(step)) if first <= i32::MAX as usize => {
            vec![KeySpec { begin: Begin::Index(first), find: Find::Range { last, step, limit: 0 }, access }]
        }
        _ => vec![vague],
    }
}
