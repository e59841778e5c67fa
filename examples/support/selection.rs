//! The options that choose keys, shared by all programs that read files.

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use keyferry_files::{KeyName, Selection};
use keyferry_rdb::Kind;
use keyferry_routing::SlotSet;

/// Which keys to take. Repeated options add up; different ones must all hold.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which keys")]
pub struct SelectionArgs {
    /// Only keys of such names: a pattern with *, ?, [a-z], \x as in KEYS, or prefix:…, suffix:…, regex:… (repeatable). Any bytes
    /// will do: $'\xff*' in bash
    #[arg(long, value_name = "NAME", value_parser = name())]
    pub keys: Vec<KeyName>,

    /// No keys of such names (repeatable)
    #[arg(long, value_name = "NAME", value_parser = name())]
    pub exclude: Vec<KeyName>,

    /// Only this database (repeatable, or a list: 0,3)
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub db: Vec<u64>,

    /// Only values of this type: string, list, set, zset, hash, stream, array, module (repeatable, or a list)
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = kind)]
    pub kind: Vec<Kind>,

    /// Only keys of these cluster slots: 42, 0-5460 (repeatable, or a list)
    #[arg(long, alias = "slot", value_name = "SLOTS")]
    pub slots: Vec<SlotSet>,
}

impl SelectionArgs {
    /// What they select.
    pub fn selection(self) -> Selection {
        let mut selection = Selection::default();
        selection.keys = self.keys;
        selection.exclude = self.exclude;
        selection.databases = self.db;
        selection.kinds = self.kind;
        selection.slots = self.slots.into_iter().reduce(|mut all, more| {
            all.extend(&more);
            all
        });
        selection
    }
}

/// Names of keys are bytes, and so are arguments.
fn name() -> impl TypedValueParser<Value = KeyName> {
    OsStringValueParser::new().try_map(|name| KeyName::from_bytes(name.as_encoded_bytes()))
}

/// A type by its name.
pub(crate) fn kind(name: &str) -> Result<Kind, String> {
    Kind::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("types are {}", names.join(", "))
    })
}
