//! The options that choose keys, shared by all programs that read files.

use clap::Args;
use keyferry_files::Selection;
use keyferry_rdb::Kind;
use keyferry_routing::{KeyPattern, SlotSet};

/// Which keys to take. Repeated options add up; different ones must all hold.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which keys")]
pub struct SelectionArgs {
    /// Only keys that match this pattern: *, ?, [a-z], \x as in KEYS (repeatable)
    #[arg(long, value_name = "GLOB")]
    pub keys: Vec<KeyPattern>,

    /// No key that matches this pattern (repeatable)
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<KeyPattern>,

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

fn kind(name: &str) -> Result<Kind, String> {
    Kind::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("types are {}", names.join(", "))
    })
}
