//! The options that choose and rename what is migrated.

use std::ops::RangeInclusive;

use clap::{Args, ValueEnum};
use keyferry_files::KeyName;
use keyferry_migrate::filter::{
    Commands, CommandsError, Doubt, Effect, Filter, FilterLine, MaskRule, Operands, Rename, Rule, Settings,
    TtlRule,
};
use keyferry_rdb::Kind;
use keyferry_routing::SlotSet;

use crate::{
    selection::kind,
    values::{size_range, time_range},
};

/// What is migrated, and under which names. What is excluded by one option stays out whatever others include.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What is migrated")]
pub struct FilterArgs {
    /// Only keys of such names: a pattern with *, ?, [a-z], \x as in KEYS, or prefix:…, suffix:…, regex:… (repeatable)
    #[arg(long, value_name = "NAME")]
    pub include_keys: Vec<KeyName>,

    /// No keys of such names (repeatable)
    #[arg(long, value_name = "NAME")]
    pub exclude_keys: Vec<KeyName>,

    /// Only these databases of the source (repeatable, or a list: 0,3)
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub only_db: Vec<u64>,

    /// None of these databases (repeatable, or a list)
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub exclude_db: Vec<u64>,

    /// Only values of these types: string, list, set, zset, hash, stream, … (repeatable, or a list)
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = kind)]
    pub only_type: Vec<Kind>,

    /// No values of these types (repeatable, or a list)
    #[arg(long, value_name = "TYPE", value_delimiter = ',', value_parser = kind)]
    pub exclude_type: Vec<Kind>,

    /// Only keys of these cluster slots: 42, 0-5460 (repeatable, or a list)
    #[arg(long, value_name = "SLOTS")]
    pub only_slots: Vec<SlotSet>,

    /// None of these slots (repeatable, or a list)
    #[arg(long, value_name = "SLOTS")]
    pub exclude_slots: Vec<SlotSet>,

    /// From files only: values of so many bytes as the snapshot has them: ..1m, 1k.., 1k..1m
    #[arg(long, value_name = "FROM..TO", value_parser = size_range)]
    pub only_size: Option<RangeInclusive<u64>>,

    /// From files only: keys that expire in such a time (..1h, 1h.., 1h..2d), or never
    #[arg(long, value_name = "FROM..TO|never", value_parser = lifetime)]
    pub only_ttl: Option<Lifetime>,

    /// From files only: keys that were last used so long before the snapshot (30d..), where the server kept that
    #[arg(long, value_name = "FROM..TO", value_parser = time_range)]
    pub only_idle: Option<RangeInclusive<u64>>,

    /// Of the commands of the stream only these: names, @categories, group:… (repeatable, or a list)
    #[arg(long, value_name = "COMMANDS")]
    pub only_commands: Vec<Commands>,

    /// None of these commands: names, @categories as in ACL CAT, group:… (repeatable, or a list)
    #[arg(long, value_name = "COMMANDS")]
    pub exclude_commands: Vec<Commands>,

    /// New names for keys: add-prefix:P, strip-prefix:P, replace-prefix:P=Q, add-suffix:S, strip-suffix:S; the first that
    /// applies to a key changes it (repeatable)
    #[arg(long, value_name = "HOW", value_parser = str::parse::<Rename>)]
    pub rename: Vec<Rename>,

    /// Other expiries: drop, cap:1h, scale:150%, add:30s, for all keys or, with NAME= before it, for some (repeatable)
    #[arg(long, value_name = "[NAME=]HOW", value_parser = str::parse::<TtlRule>)]
    pub ttl: Vec<TtlRule>,

    /// Values that never go over as they are: NAME=HOW, or NAME .FIELD=HOW for some fields of hashes and of entries of streams only.
    /// HOW is hash:VARIABLE or hash:@FILE (HMAC-SHA256 under the secret that the environment or a file holds), fixed:TEXT,
    /// keep-last:N, or format (letters become x, digits 0); the first that is about a value decides (repeatable)
    #[arg(long, value_name = "NAME[ .FIELD]=HOW", value_parser = mask_text)]
    pub mask: Vec<String>,

    /// What becomes of commands that change a part of a masked value, as APPEND does, and of types that cannot be masked
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub masked_parts: OnOperand,

    /// A script in Lua that sees every command, and each key of the snapshot as the commands that build it, behind all other options, and
    /// sends what is to go over in its place by keyferry.call(DB, ARGV)
    #[cfg(feature = "lua")]
    #[arg(long, value_name = "FILE.lua")]
    pub script: Option<std::path::PathBuf>,

    /// What becomes of commands that put into a chosen key what comes from one that is not, as SUNIONSTORE may
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub left_out_operands: OnOperand,

    /// What becomes of keys that get a name which another may get, too
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub name_collisions: OnDoubt,

    /// What becomes of keys that get another hash tag, and so part from others of their slot
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub changed_hash_tags: OnDoubt,
}

/// How long keys have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// They never expire.
    Never,
    /// They do, in so many milliseconds.
    In(RangeInclusive<u64>),
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" { Ok(Lifetime::Never) } else { time_range(text).map(Lifetime::In) }
}

/// What becomes of commands with values from elsewhere.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum OnOperand {
    /// The first one ends the migration
    #[default]
    Fail,
    /// The key is removed, or lacks what the command would have done; counted in the report
    Report,
}

/// What becomes of what may be wrong.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum OnDoubt {
    /// The first one ends the migration
    #[default]
    Fail,
    /// It is done, and counted in the report
    Allow,
}

impl FilterArgs {
    /// The script.
    ///
    /// # Errors
    /// When it cannot be read, or is none, in words.
    #[cfg(feature = "lua")]
    pub fn script(&self) -> Result<Option<keyferry_migrate::rewrite::Script>, String> {
        let Some(path) = &self.script else { return Ok(None) };
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(|e| format!("the script {name}: {e}"))?;
        let lua = keyferry_migrate::lua::Lua::new(&name, &text).map_err(|e| e.to_string())?;
        Ok(Some(keyferry_migrate::rewrite::Script::new(lua)))
    }

    /// The filter.
    ///
    /// # Errors
    /// When the options make none, or the secret of a mask is not there, in words.
    pub fn filter(self) -> Result<Filter, String> {
        let mut settings = Settings::default();
        let mut exclude = |is_given: bool, change: &mut dyn FnMut(&mut Rule)| {
            if is_given {
                let mut rule = Rule::exclude();
                change(&mut rule);
                settings.rules.push(rule);
            }
        };
        for commands in &self.exclude_commands {
            exclude(true, &mut |rule| rule.commands = Some(commands.clone()));
        }
        exclude(!self.exclude_keys.is_empty(), &mut |rule| rule.keys.keys.clone_from(&self.exclude_keys));
        exclude(!self.exclude_db.is_empty(), &mut |rule| rule.keys.databases.clone_from(&self.exclude_db));
        exclude(!self.exclude_type.is_empty(), &mut |rule| rule.keys.kinds.clone_from(&self.exclude_type));
        let slots = |sets: Vec<SlotSet>| {
            sets.into_iter().reduce(|mut all, more| {
                all.extend(&more);
                all
            })
        };
        exclude(!self.exclude_slots.is_empty(), &mut |rule| {
            rule.keys.slots = slots(self.exclude_slots.clone())
        });
        let mut include = Rule::include();
        include.keys.keys = self.include_keys;
        include.keys.databases = self.only_db;
        include.keys.kinds = self.only_type;
        include.keys.slots = slots(self.only_slots);
        include.keys.value.size = self.only_size;
        include.keys.value.idle = self.only_idle.map(|idle| idle.start().div_ceil(1000)..=idle.end() / 1000);
        match self.only_ttl {
            None => {}
            Some(Lifetime::Never) => include.keys.value.expires = Some(false),
            Some(Lifetime::In(times)) => {
                let ms = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
                include.keys.value.ttl = Some(ms(*times.start())..=ms(*times.end()));
            }
        }
        if !self.only_commands.is_empty() {
            for commands in self.only_commands {
                let mut of_commands = include.clone();
                of_commands.commands = Some(commands);
                settings.rules.push(of_commands);
            }
            let mut others = Rule::exclude();
            others.commands = Some("@all".parse().map_err(|wrong: CommandsError| wrong.to_string())?);
            settings.rules.push(others);
        }
        if !include.keys.is_everything() {
            settings.rules.push(include);
            settings.otherwise = Effect::Exclude;
        }
        let doubt = |choice| match choice {
            OnDoubt::Fail => Doubt::Refuse,
            OnDoubt::Allow => Doubt::Allow,
        };
        settings.renames = self.rename;
        settings.ttls = self.ttl;
        settings.masks =
            self.mask.iter().map(|text| MaskRule::parse(text, secret)).collect::<Result<_, _>>()?;
        let operands = |choice| match choice {
            OnOperand::Fail => Operands::Refuse,
            OnOperand::Report => Operands::Report,
        };
        settings.masked_parts = operands(self.masked_parts);
        settings.operands = operands(self.left_out_operands);
        settings.collisions = doubt(self.name_collisions);
        settings.tags = doubt(self.changed_hash_tags);
        Filter::new(settings).map_err(|invalid| invalid.to_string())
    }
}

/// A mask as it was written; its secret is looked up when it is needed, and is in no message.
fn mask_text(text: &str) -> Result<String, String> {
    MaskRule::parse(text, |_| Ok(vec![0; 32])).map(|_| text.to_owned())
}

/// What a variable of the environment or, behind an `@`, a file holds, without the end of its line.
fn secret(from: &str) -> Result<Vec<u8>, String> {
    let found = match from.strip_prefix('@') {
        Some(file) => std::fs::read(file).map_err(|e| format!("the secret of a mask: {file}: {e}"))?,
        None => match std::env::var_os(from) {
            Some(secret) => secret.into_encoded_bytes(),
            None => return Err(format!("the secret of a mask: the variable {from} is not set")),
        },
    };
    Ok(found.trim_ascii_end().to_vec())
}

/// What a filter did, for a person.
pub fn print_filter(lines: &[FilterLine]) {
    for line in lines {
        let samples =
            if line.samples.is_empty() { String::new() } else { format!(", as {}", line.samples.join(", ")) };
        println!("filter   {} {} ({}){samples}", line.count, line.what, line.rule);
    }
}
