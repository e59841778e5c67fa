//! Rules: which keys, by which commands, are in and which are out.

use std::fmt;
use std::str::FromStr;

use keyferry_files::{Chosen, Facts, Selection};
use keyferry_routing::{CommandSpec, Group};

/// What becomes of what a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It goes over.
    Include,
    /// It is left out.
    Exclude,
}

/// One rule.
///
/// ```
/// use keyferry_migrate::filter::{Effect, Rule};
///
/// let mut rule = Rule::exclude();
/// rule.keys.keys.push("prefix:session:".parse()?);
/// rule.commands = Some("expire,pexpire,@pubsub".parse()?);
/// assert_eq!((rule.effect, rule.to_string()), (Effect::Exclude, "exclude commands=expire,pexpire,@pubsub keys=prefix:session:".into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// What becomes of what it matches.
    pub effect: Effect,
    /// The keys that it is about.
    pub keys: Selection,
    /// The commands of the stream that it is about. None for a rule about keys, by whatever command, and in the snapshot, too.
    pub commands: Option<Commands>,
}

impl Rule {
    /// A rule by which every key goes over; say which by its fields.
    pub fn include() -> Self {
        Rule { effect: Effect::Include, keys: Selection::default(), commands: None }
    }

    /// A rule by which every key is left out; say which by its fields.
    pub fn exclude() -> Self {
        Rule { effect: Effect::Exclude, ..Rule::include() }
    }

    /// Whether it is about this command; none for the snapshot.
    pub(super) fn is_about(&self, command: Option<&CommandSpec>) -> bool {
        match (&self.commands, command) {
            (None, _) => true,
            (Some(commands), Some(spec)) => commands.contains(spec),
            (Some(_), None) => false,
        }
    }

    /// Whether it is about commands that name no key, in this database.
    pub(super) fn is_about_keyless(&self, db: u64) -> bool {
        let any_key = Facts { db, key: None, kind: None, value: None };
        self.commands.is_some() && self.keys.chosen(&any_key) == Chosen::Yes
    }
}

/// Every condition in a fixed order: what the fingerprint of a filter is made of.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.effect {
            Effect::Include => "include",
            Effect::Exclude => "exclude",
        })?;
        if let Some(commands) = &self.commands {
            write!(f, " commands={commands}")?;
        }
        let Selection { keys, exclude, databases, kinds, slots, value, .. } = &self.keys;
        let list = |items: Vec<String>| items.join(",");
        if !databases.is_empty() {
            write!(f, " databases={}", list(databases.iter().map(u64::to_string).collect()))?;
        }
        if !keys.is_empty() {
            write!(f, " keys={}", list(keys.iter().map(ToString::to_string).collect()))?;
        }
        if !exclude.is_empty() {
            write!(f, " but={}", list(exclude.iter().map(ToString::to_string).collect()))?;
        }
        if !kinds.is_empty() {
            write!(f, " types={}", list(kinds.iter().map(|kind| kind.name().to_owned()).collect()))?;
        }
        if let Some(slots) = slots {
            write!(f, " slots={slots}")?;
        }
        if !value.is_empty() {
            write!(f, " {value}")?;
        }
        Ok(())
    }
}

/// Some commands.
///
/// As text, several with commas between them: names (`set`, `script`, `script|load`; a name with subcommands means all of these),
/// ACL categories (`@write`, `@dangerous`: see `CommandSpec::is_in_category`), groups (`group:stream`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands(Vec<Which>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Name(String),
    Category(String),
    Group(Group),
}

/// A word that means no commands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{word}\" means no commands: wanted are names of commands, categories of ACL CAT with @ before them, or group: and a \
     group of COMMAND DOCS"
)]
pub struct CommandsError {
    word: String,
}

impl Commands {
    /// Whether it is one of them.
    pub fn contains(&self, spec: &CommandSpec) -> bool {
        self.0.iter().any(|which| match which {
            Which::Name(name) => is_named(spec.name(), name),
            Which::Category(category) => spec.is_in_category(category) == Some(true),
            Which::Group(group) => spec.group() == *group,
        })
    }

    /// Whether a command that nothing is known of is one of them.
    pub(super) fn contains_name(&self, name: &str) -> bool {
        let all = |which: &Which| matches!(which, Which::Category(category) if category == "all");
        self.0.iter().any(|which| matches!(which, Which::Name(known) if known == name) || all(which))
    }
}

fn is_named(full: &str, name: &str) -> bool {
    full == name || full.split_once('|').is_some_and(|(container, _)| container == name)
}

impl FromStr for Commands {
    type Err = CommandsError;

    fn from_str(text: &str) -> Result<Self, CommandsError> {
        let which = |word: &str| {
            let word = word.trim().to_ascii_lowercase();
            let wrong = || CommandsError { word: word.clone() };
            if let Some(category) = word.strip_prefix('@') {
                let any = keyferry_routing::CommandTable::builtin().named("get").ok_or_else(wrong)?;
                any.is_in_category(category).ok_or_else(wrong)?;
                return Ok(Which::Category(category.to_owned()));
            }
            if let Some(group) = word.strip_prefix("group:") {
                return Group::ALL
                    .iter()
                    .find(|known| known.name() == group)
                    .map(|&g| Which::Group(g))
                    .ok_or_else(wrong);
            }
            if word.is_empty() || word.bytes().any(|b| b.is_ascii_whitespace()) {
                return Err(wrong());
            }
            Ok(Which::Name(word))
        };
        text.split(',').map(which).collect::<Result<_, _>>().map(Commands)
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, which) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            match which {
                Which::Name(name) => f.write_str(name)?,
                Which::Category(category) => write!(f, "@{category}")?,
                Which::Group(group) => write!(f, "group:{}", group.name())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keyferry_routing::CommandTable;

    use super::*;

    #[test]
    fn commands_are_names_categories_and_groups() {
        let spec = |name: &str| CommandTable::builtin().named(name).unwrap();
        let some: Commands = "SET, script,@pubsub,group:stream,config|get".parse().unwrap();
        for (name, is) in [
            ("set", true),
            ("setex", false),
            ("script|load", true),
            ("publish", true),
            ("xadd", true),
            ("config|get", true),
            ("config|set", false),
        ] {
            assert_eq!(some.contains(spec(name)), is, "{name}");
        }
        assert_eq!(some.to_string(), "set,script,@pubsub,group:stream,config|get");
        assert!("@all".parse::<Commands>().unwrap().contains_name("nobody.knows"));
        for wrong in ["", "a,", "@nothing", "group:nothing", "a b"] {
            assert!(wrong.parse::<Commands>().is_err(), "{wrong}");
        }
    }
}
