//! What the files of an import hold, read from start to end before anything is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use keyferry_client::ServerInfo;
use keyferry_files::{
    Error as FileError, Found, Input, InputKind, InputOptions, Place, convert::library_name,
};
use keyferry_rdb::{Entry, EntryHead, Event};
use keyferry_routing::{CommandTable, SLOTS, slot};

use super::{
    losses::Losses,
    sample::{Sample, SampledKey},
};
use crate::{existing::parts_of, filter::Filter};

/// Keys that are looked for at the target.
const SAMPLE: usize = 10_000;

/// Beyond a value's bytes in a file, what a key takes in the memory of a server at least.
const AROUND_A_KEY: u64 = 64;

/// What files hold, without what the filter leaves out by its name.
#[derive(Debug)]
pub(super) struct Contents {
    /// Each file in its order.
    pub(super) files: Vec<FileFacts>,
    /// Keys of snapshots by database.
    pub(super) keys: BTreeMap<u64, u64>,
    /// Databases that commands write to.
    pub(super) written: BTreeSet<u64>,
    /// Names of function libraries.
    pub(super) functions: BTreeSet<String>,
    /// Values of modules, by the name of their type.
    pub(super) modules: BTreeMap<String, u64>,
    /// How often commands that name several keys occur.
    pub(super) several_keys: BTreeMap<String, u64>,
    /// What the target has no place for.
    pub(super) losses: Option<Losses>,
    /// Some of the keys, fairly chosen: each file's first ones would be those of few slots.
    pub(super) sample: Sample,
    /// Bytes of the keys of each slot.
    slots: Vec<u64>,
    /// Keys that could have come into the sample.
    seen: u64,
    random: u64,
}

/// One file.
#[derive(Debug, Default)]
pub(super) struct FileFacts {
    pub(super) name: String,
    /// What it is, and who wrote it, for people.
    pub(super) what: String,
    pub(super) keys: u64,
    pub(super) commands: u64,
    pub(super) bytes: u64,
    /// Memory that its writer used, if it says so.
    pub(super) used_memory: Option<u64>,
    /// Its last command is not whole.
    pub(super) cut_at: Option<u64>,
    pub(super) trouble: Option<Trouble>,
}

/// Why a file was not read to its end.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It can be read once only, and that is done when it is imported.
    Once,
    /// It cannot be opened, or is damaged.
    Failed(String),
}

impl Contents {
    /// Reads the files, on the thread that calls it; `servers` are those of the target.
    pub(super) fn read<'s>(
        paths: &[PathBuf],
        filter: Option<&Arc<Filter>>,
        servers: impl Iterator<Item = &'s ServerInfo>,
    ) -> Self {
        let mut contents = Contents {
            files: Vec::new(),
            keys: BTreeMap::new(),
            written: BTreeSet::new(),
            functions: BTreeSet::new(),
            modules: BTreeMap::new(),
            several_keys: BTreeMap::new(),
            losses: Losses::for_servers(servers),
            sample: Sample::default(),
            slots: vec![0; usize::from(SLOTS)],
            seen: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        };
        for path in paths {
            if path == Path::new("-") {
                let name = "standard input".to_owned();
                contents.files.push(FileFacts { name, trouble: Some(Trouble::Once), ..FileFacts::default() });
                continue;
            }
            match parts_of(path) {
                Ok(parts) => parts.iter().for_each(|part| contents.file(part, filter)),
                Err(error) => contents.files.push(FileFacts {
                    name: path.display().to_string(),
                    trouble: Some(Trouble::Failed(error.to_string())),
                    ..FileFacts::default()
                }),
            }
        }
        contents.sample.all = contents.keys.values().sum();
        contents
    }

    /// Bytes of memory that the keys will take, of which these slots have their part. As much as the writers of the files used, where they
    /// say so; else as much as the files have, and a little for each key.
    pub(super) fn bytes(&self, has: impl Fn(u16) -> bool) -> u64 {
        let all: u64 = self.slots.iter().sum();
        let part: u64 =
            (0..SLOTS).zip(&self.slots).filter(|(slot, _)| has(*slot)).map(|(_, bytes)| bytes).sum();
        let used: Option<u64> = self.files.iter().map(|file| file.used_memory).sum();
        match used {
            Some(used) if used > all && all > 0 => (used as f64 * (part as f64 / all as f64)) as u64,
            _ => part,
        }
    }

    fn file(&mut self, path: &Path, filter: Option<&Arc<Filter>>) {
        let mut facts = FileFacts { name: path.display().to_string(), ..FileFacts::default() };
        let mut options = InputOptions::default();
        // Where it is cut is told, and whether that may be is an option of the import.
        options.allow_cut_log = true;
        let result = Input::open(path, options).and_then(|input| {
            facts.what = kind(input.kind()).to_owned();
            let progress = input.progress();
            let is_wanted = |db: u64, key: &[u8]| filter.is_none_or(|filter| filter.may_take(db, key));
            let ended = input.read(|found, place| {
                match found {
                    Found::Event(event) => self.event(&event, place, &mut facts, &is_wanted),
                    Found::Command(command) => {
                        facts.commands += 1;
                        let args: Vec<&[u8]> = command.args().collect();
                        self.command(command.db, &args, &is_wanted);
                    }
                    _ => {}
                }
                Ok::<(), FileError>(())
            });
            facts.bytes = progress.read();
            ended
        });
        match result {
            Ok(ended) => facts.cut_at = ended.cut.map(|cut| cut.good_offset),
            Err(error) => facts.trouble = Some(Trouble::Failed(error.to_string())),
        }
        self.files.push(facts);
    }

    fn event(
        &mut self,
        event: &Event<'_>,
        place: Place<'_>,
        facts: &mut FileFacts,
        is_wanted: &impl Fn(u64, &[u8]) -> bool,
    ) {
        match event {
            Event::Header(header) => facts.what = format!("{}, version {}", facts.what, header.version),
            Event::Aux { name: b"redis-ver" | b"valkey-ver", value } => {
                facts.what = format!("{}, of {}", facts.what, value.escape_ascii());
            }
            Event::Aux { name: b"used-mem", value } => {
                facts.used_memory = std::str::from_utf8(value).ok().and_then(|bytes| bytes.parse().ok());
            }
            Event::Function { code } => {
                self.functions.insert(library_name(code).escape_ascii().to_string());
            }
            Event::FunctionPreGa(_) => {
                self.functions.insert(format!("one at byte {} of {}", place.offset, place.input));
            }
            Event::Entry(Entry { head, value, .. }) if is_wanted(head.db, head.key) => {
                self.key(head, value.bytes().len() as u64, facts);
                if let Some(module) = value.module() {
                    let name = String::from_utf8_lossy(&module.name()).into_owned();
                    *self.modules.entry(name).or_default() += 1;
                }
                if let Some(losses) = &mut self.losses {
                    losses.value(head.db, head.key, *value);
                }
            }
            Event::ValueStart(head) if is_wanted(head.db, head.key) => {
                self.key(head, 0, facts);
                if let Some(losses) = &mut self.losses {
                    losses.value_of_type(head.db, head.key, head.ty);
                }
            }
            _ => {}
        }
    }

    fn key(&mut self, head: &EntryHead<'_>, bytes: u64, facts: &mut FileFacts) {
        facts.keys += 1;
        *self.keys.entry(head.db).or_default() += 1;
        if let Some(sum) = self.slots.get_mut(usize::from(slot(head.key))) {
            *sum += bytes + head.key.len() as u64 + AROUND_A_KEY;
        }
        self.choose(head.db, head.key, Some(bytes));
    }

    fn command(&mut self, db: u64, args: &[&[u8]], is_wanted: &impl Fn(u64, &[u8]) -> bool) {
        let mut keys = Vec::new();
        if CommandTable::builtin().keys(args, &mut keys).is_err() || keys.is_empty() {
            return;
        }
        let names: Vec<&[u8]> = keys.iter().filter_map(|key| args.get(key.index).copied()).collect();
        let Some(first) = names.iter().find(|name| is_wanted(db, name)) else { return };
        self.written.insert(db);
        self.choose(db, first, None);
        if names.iter().any(|name| slot(name) != slot(first)) {
            let name = args.first().copied().unwrap_or_default().to_ascii_lowercase();
            *self.several_keys.entry(name.escape_ascii().to_string()).or_default() += 1;
        }
    }

    /// Puts a key into the sample, or not: every key has the same chance.
    fn choose(&mut self, db: u64, key: &[u8], bytes: Option<u64>) {
        self.seen += 1;
        let sampled = || SampledKey { node: 0, db, key: key.to_vec(), bytes };
        if self.sample.keys.len() < SAMPLE {
            self.sample.keys.push(sampled());
            return;
        }
        // xorshift: good enough to choose by.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let at = usize::try_from(self.random % self.seen).unwrap_or(usize::MAX);
        if let Some(place) = self.sample.keys.get_mut(at) {
            *place = sampled();
        }
    }
}

impl Trouble {
    /// A failure, for people.
    pub(super) fn failure(&self) -> Option<&str> {
        match self {
            Trouble::Once => None,
            Trouble::Failed(why) => Some(why),
        }
    }
}

fn kind(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Snapshot => "snapshot",
        InputKind::Log => "log of commands",
        InputKind::MultiPart => "append-only file in parts",
        _ => "file",
    }
}
