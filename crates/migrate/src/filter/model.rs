//! A small data set with the commands of a stream, and the naive filter: what a filtered stream has to come to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use keyferry_files::ValueRule;
use keyferry_rdb::{EntryHead, Kind, ValueType};
use keyferry_resp::Command;
use keyferry_routing::CommandTable;
use proptest::prelude::*;

use super::*;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    String(Vec<u8>),
    List(VecDeque<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
}

impl Value {
    fn ty(&self) -> ValueType {
        match self {
            Value::String(_) => ValueType::String,
            Value::List(_) => ValueType::List,
            Value::Set(_) => ValueType::Set,
        }
    }

    fn size(&self) -> u64 {
        let sum = |items: &mut dyn Iterator<Item = &Vec<u8>>| items.map(|item| item.len() as u64).sum();
        match self {
            Value::String(text) => text.len() as u64,
            Value::List(items) => sum(&mut items.iter()),
            Value::Set(items) => sum(&mut items.iter()),
        }
    }

    fn to_rdb(&self) -> keyferry_rdb::Value {
        match self.clone() {
            Value::String(text) => keyferry_rdb::Value::String(text),
            Value::List(items) => keyferry_rdb::Value::List(items.into()),
            Value::Set(members) => keyferry_rdb::Value::Set(members.into_iter().collect()),
        }
    }

    fn from_rdb(value: keyferry_rdb::Value) -> Self {
        match value {
            keyferry_rdb::Value::String(text) => Value::String(text),
            keyferry_rdb::Value::List(items) => Value::List(items.into()),
            keyferry_rdb::Value::Set(members) => Value::Set(members.into_iter().collect()),
            other => panic!("{other:?}"),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Value::String(_) => false,
            Value::List(items) => items.is_empty(),
            Value::Set(items) => items.is_empty(),
        }
    }
}

/// Keys by database and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Data(BTreeMap<(u64, Vec<u8>), Value>);

impl Data {
    fn take(&mut self, db: u64, key: &[u8]) -> Option<Value> {
        self.0.remove(&(db, key.to_vec()))
    }

    fn get(&self, db: u64, key: &[u8]) -> Option<&Value> {
        self.0.get(&(db, key.to_vec()))
    }

    fn put(&mut self, db: u64, key: &[u8], value: Value) {
        if value.is_empty() {
            self.take(db, key);
        } else {
            self.0.insert((db, key.to_vec()), value);
        }
    }

    fn list(&self, db: u64, key: &[u8]) -> Option<VecDeque<Vec<u8>>> {
        match self.get(db, key) {
            None => Some(VecDeque::new()),
            Some(Value::List(items)) => Some(items.clone()),
            Some(_) => None,
        }
    }

    fn set(&self, db: u64, key: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
        match self.get(db, key) {
            None => Some(BTreeSet::new()),
            Some(Value::Set(items)) => Some(items.clone()),
            Some(_) => None,
        }
    }

    /// Carries a command out as a server would. None when it is refused or changes nothing, so that no replica hears of it.
    fn apply(&mut self, db: u64, command: &Command) -> Option<()> {
        let before = self.0.clone();
        let arg = |index: usize| command.arg(index).unwrap_or_default();
        let name = String::from_utf8_lossy(command.name()).to_uppercase();
        match &*name {
            "SET" => self.put(db, arg(1), Value::String(arg(2).to_vec())),
            "APPEND" => {
                let mut text = match self.get(db, arg(1)) {
                    None => Vec::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(_) => return None,
                };
                text.extend_from_slice(arg(2));
                self.put(db, arg(1), Value::String(text));
            }
            "MSET" | "MSETNX" => {
                let pairs = || (1..command.len()).step_by(2);
                if name == "MSETNX" && pairs().any(|at| self.get(db, arg(at)).is_some()) {
                    return None;
                }
                pairs().for_each(|at| self.put(db, arg(at), Value::String(arg(at + 1).to_vec())));
            }
            "DEL" | "UNLINK" => (1..command.len()).for_each(|at| drop(self.take(db, arg(at)))),
            "RENAME" | "RENAMENX" => {
                if name == "RENAMENX" && self.get(db, arg(2)).is_some() {
                    return None;
                }
                let value = self.take(db, arg(1))?;
                self.put(db, arg(2), value);
            }
            "COPY" => {
                let word = (3..command.len()).find(|&at| arg(at) == b"DB");
                let to = word.map_or(db, |at| command::number(arg(at + 1)).unwrap());
                let replaces = (3..command.len()).any(|at| arg(at) == b"REPLACE");
                if (to == db && arg(1) == arg(2)) || (!replaces && self.get(to, arg(2)).is_some()) {
                    return None;
                }
                let value = self.get(db, arg(1))?.clone();
                self.put(to, arg(2), value);
            }
            "MOVE" => {
                let to = command::number(arg(2)).unwrap();
                if to == db || self.get(to, arg(1)).is_some() {
                    return None;
                }
                let value = self.take(db, arg(1))?;
                self.put(to, arg(1), value);
            }
            "RPUSH" => {
                let mut items = self.list(db, arg(1))?;
                items.push_back(arg(2).to_vec());
                self.put(db, arg(1), Value::List(items));
            }
            "SETNX" => {
                if self.get(db, arg(1)).is_some() {
                    return None;
                }
                self.put(db, arg(1), Value::String(arg(2).to_vec()));
            }
            "LREM" => {
                let items = self.list(db, arg(1))?;
                let count: i64 = String::from_utf8_lossy(arg(2)).parse().unwrap();
                let most = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
                let mut left: Vec<Vec<u8>> = items.into();
                if count < 0 {
                    left.reverse();
                }
                let mut removed = 0;
                left.retain(|item| {
                    let goes = *item == arg(3) && removed < most;
                    removed += usize::from(goes);
                    !goes
                });
                if count < 0 {
                    left.reverse();
                }
                self.put(db, arg(1), Value::List(left.into()));
            }
            "LINSERT" => {
                let mut items = self.list(db, arg(1))?;
                let at = items.iter().position(|item| *item == arg(3))?;
                items.insert(at, arg(4).to_vec());
                self.put(db, arg(1), Value::List(items));
            }
            "LPOP" | "RPOP" => {
                let mut items = self.list(db, arg(1))?;
                if name == "LPOP" {
                    items.pop_front()?
                } else {
                    items.pop_back()?
                };
                self.put(db, arg(1), Value::List(items));
            }
            "LMOVE" | "RPOPLPUSH" => {
                let sides = if name == "LMOVE" { (arg(3), arg(4)) } else { (&b"RIGHT"[..], &b"LEFT"[..]) };
                let mut from = self.list(db, arg(1))?;
                self.list(db, arg(2))?;
                let item = if sides.0 == b"LEFT" { from.pop_front()? } else { from.pop_back()? };
                self.put(db, arg(1), Value::List(from));
                let mut to = self.list(db, arg(2))?;
                if sides.1 == b"LEFT" {
                    to.push_front(item)
                } else {
                    to.push_back(item)
                };
                self.put(db, arg(2), Value::List(to));
            }
            "SADD" => {
                let mut items = self.set(db, arg(1))?;
                items.insert(arg(2).to_vec());
                self.put(db, arg(1), Value::Set(items));
            }
            "SREM" => {
                let mut items = self.set(db, arg(1))?;
                items.remove(arg(2));
                self.put(db, arg(1), Value::Set(items));
            }
            "SMOVE" => {
                let mut from = self.set(db, arg(1))?;
                self.set(db, arg(2))?;
                if arg(1) == arg(2) || !from.remove(arg(3)) {
                    return None;
                }
                self.put(db, arg(1), Value::Set(from));
                let mut to = self.set(db, arg(2))?;
                to.insert(arg(3).to_vec());
                self.put(db, arg(2), Value::Set(to));
            }
            "SUNIONSTORE" | "SINTERSTORE" => {
                let mut sets = (2..command.len()).map(|at| self.set(db, arg(at)));
                let mut result = sets.next()??;
                for set in sets.collect::<Option<Vec<_>>>()? {
                    result = if name == "SUNIONSTORE" { &result | &set } else { &result & &set };
                }
                self.put(db, arg(1), Value::Set(result));
            }
            // Does nothing here, but may be there.
            "PERSIST" => return self.get(db, arg(1)).map(|_| ()),
            "FLUSHDB" => self.0.retain(|(other, _), _| *other != db),
            "FLUSHALL" => self.0.clear(),
            "SWAPDB" => {
                let (a, b) = (command::number(arg(1)).unwrap(), command::number(arg(2)).unwrap());
                let other = |db: u64| {
                    if db == a {
                        b
                    } else if db == b {
                        a
                    } else {
                        db
                    }
                };
                self.0 = std::mem::take(&mut self.0)
                    .into_iter()
                    .map(|((db, key), v)| ((other(db), key), v))
                    .collect();
            }
            other => panic!("the model does not know {other}"),
        }
        (self.0 != before).then_some(())
    }

    fn apply_verdict(&mut self, db: u64, command: &Command, verdict: Verdict, filter: &Filter) {
        match verdict {
            Verdict::Pass => {
                self.apply(db, command);
            }
            Verdict::Drop => {}
            Verdict::Replace(commands) => commands.iter().for_each(|command| {
                self.apply(db, command);
            }),
            Verdict::Empty { db } => {
                self.0
                    .retain(|(other, key), _| db.is_some_and(|db| db != *other) || !filter.owns(*other, key));
            }
            Verdict::Refuse(refusal) => panic!("{command:?}: {refusal}"),
        }
    }

    /// The snapshot as the filter leaves it.
    fn snapshot(&self, filter: &Filter, counts: &mut Counts) -> Result<Data, Refusal> {
        let mut taken = Data::default();
        for ((db, key), value) in &self.0 {
            let head = EntryHead::new(*db, key, value.ty());
            if let Entry::Take(entry) = filter.entry(&head, value.size(), 0, counts)? {
                let mut masked = value.to_rdb();
                if entry.masked {
                    filter.mask(key, &mut masked);
                }
                taken.put(*db, &entry.key, Value::from_rdb(masked));
            }
        }
        Ok(taken)
    }
}

/// The naive filter: rule by rule, of a whole data set. `out` are the names that values left out of the snapshot.
fn naive(data: &Data, settings: &Settings, out: &BTreeSet<(u64, Vec<u8>)>) -> Data {
    let mut chosen = Data::default();
    for ((db, key), value) in &data.0 {
        if out.contains(&(*db, key.clone())) || !is_in(settings, *db, key, value, false) {
            continue;
        }
        let renamed =
            settings.renames.iter().find_map(|rename| rename.apply(key)).unwrap_or_else(|| key.clone());
        chosen.put(*db, &renamed, naively_masked(settings, key, value));
    }
    chosen
}

/// Every element by the first rule that is about the key; there are no fields.
fn naively_masked(settings: &Settings, key: &[u8], value: &Value) -> Value {
    let about =
        |rule: &&MaskRule| rule.field.is_none() && rule.keys.as_ref().is_none_or(|name| name.matches(key));
    let Some(rule) = settings.masks.iter().find(about) else { return value.clone() };
    let each = |part: Part<'_>, text: &Vec<u8>| rule.mask.mask(part, text).into_owned();
    match value {
        Value::String(text) => Value::String(each(Part::String, text)),
        Value::List(items) => Value::List(items.iter().map(|item| each(Part::Item, item)).collect()),
        Value::Set(members) => Value::Set(members.iter().map(|member| each(Part::Member, member)).collect()),
    }
}

/// Puts a word before each value.
#[derive(Debug)]
struct Marked(&'static str);

impl Mask for Marked {
    fn mask<'v>(&self, _part: Part<'_>, value: &'v [u8]) -> std::borrow::Cow<'v, [u8]> {
        std::borrow::Cow::Owned([self.0.as_bytes(), value].concat())
    }

    fn keeps_apart(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("marked {}", self.0)
    }
}

fn mask_rule(name: &str, field: Option<&str>, mask: impl Mask + 'static) -> MaskRule {
    let mut rule = MaskRule::new(mask);
    rule.keys = Some(name.parse().unwrap());
    rule.field = field.map(|field| field.parse().unwrap());
    rule
}

fn masks() -> impl Strategy<Value = Vec<MaskRule>> {
    let fixed = || Masking::Fixed(b"***".to_vec());
    prop::sample::select(vec![
        vec![],
        vec![],
        vec![],
        vec![mask_rule("*", None, Marked("m:"))],
        vec![mask_rule("a*", None, Marked("m:"))],
        vec![mask_rule("?1", None, Marked("1:")), mask_rule("a*", None, Marked("m:"))],
        vec![mask_rule("b*", None, fixed())],
        vec![mask_rule("*", Some("f"), Marked("f:")), mask_rule("[bc]*", None, Marked("m:"))],
    ])
}

/// `values`: what rules say of sizes counts; else what such a rule says is left open, and the key is in where that may be.
fn is_in(settings: &Settings, db: u64, key: &[u8], value: &Value, values: bool) -> bool {
    for rule in &settings.rules {
        let selection = &rule.keys;
        let named = (selection.keys.is_empty() || selection.keys.iter().any(|name| name.matches(key)))
            && !selection.exclude.iter().any(|name| name.matches(key));
        let db_fits = selection.databases.is_empty() || selection.databases.contains(&db);
        let kind_fits = selection.kinds.is_empty() || selection.kinds.contains(&value.ty().kind());
        if !(named && db_fits && kind_fits) {
            continue;
        }
        match &selection.value.size {
            Some(sizes) if values && !sizes.contains(&value.size()) => {}
            // It may be that it does not match, and that it does.
            Some(_) if !values && rule.effect == Effect::Include => return true,
            Some(_) if !values => {}
            _ => return rule.effect == Effect::Include,
        }
    }
    settings.otherwise == Effect::Include
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a1", "a2", "b1", "b2", "c", "ab"]).prop_map(str::to_owned)
}

fn command() -> impl Strategy<Value = Vec<String>> {
    let many = || prop::collection::vec(key(), 1..4);
    let words = |name: &'static str, keys: Vec<String>, rest: &[&str]| {
        let mut words = vec![name.to_owned()];
        words.extend(keys);
        words.extend(rest.iter().map(|&word| word.to_owned()));
        words
    };
    let named = |names: &'static [&'static str]| prop::sample::select(names.to_vec());
    prop_oneof![
        4 => (named(&["SET", "RPUSH", "SADD", "APPEND"]), key(), "[xy]{1,3}")
            .prop_map(move |(name, key, value)| words(name, vec![key], &[&value])),
        2 => (named(&["LPOP", "RPOP", "PERSIST"]), key()).prop_map(move |(name, key)| words(name, vec![key], &[])),
        1 => (named(&["SREM", "SETNX", "SADD"]), key(), "[xy]{1,3}")
            .prop_map(move |(name, key, value)| words(name, vec![key], &[&value])),
        1 => (key(), named(&["1", "-1", "0"]), "[xy]{1,2}")
            .prop_map(move |(key, count, value)| words("LREM", vec![key], &[count, &value])),
        1 => (key(), "[xy]{1,2}", "[xy]{1,2}")
            .prop_map(move |(key, pivot, value)| words("LINSERT", vec![key], &["BEFORE", &pivot, &value])),
        2 => (named(&["DEL", "UNLINK"]), many()).prop_map(move |(name, keys)| words(name, keys, &[])),
        2 => (named(&["MSET", "MSETNX"]), many())
            .prop_map(|(name, keys)| {
                let pairs = keys.into_iter().flat_map(|key| [key, "v".to_owned()]);
                std::iter::once(name.to_owned()).chain(pairs).collect()
            }),
        4 => (named(&["RENAME", "RENAMENX", "COPY", "RPOPLPUSH"]), key(), key())
            .prop_map(move |(name, a, b)| words(name, vec![a, b], &[])),
        1 => (key(), key()).prop_map(move |(a, b)| words("COPY", vec![a, b], &["REPLACE"])),
        1 => (key(), key(), 0..2u8, any::<bool>()).prop_map(move |(a, b, db, replace)| {
            let db = db.to_string();
            let rest = ["DB", &db, "REPLACE"];
            words("COPY", vec![a, b], if replace { &rest } else { &rest[..2] })
        }),
        1 => (key(), 0..2u8).prop_map(move |(key, db)| words("MOVE", vec![key], &[&db.to_string()])),
        2 => (key(), key(), named(&["LEFT", "RIGHT"]), named(&["LEFT", "RIGHT"]))
            .prop_map(move |(a, b, from, to)| words("LMOVE", vec![a, b], &[from, to])),
        2 => (key(), key(), "[xy]{1,3}").prop_map(move |(a, b, member)| words("SMOVE", vec![a, b], &[&member])),
        3 => (named(&["SUNIONSTORE", "SINTERSTORE"]), many(), key())
            .prop_map(move |(name, keys, first)| {
                let mut all = vec![first];
                all.extend(keys);
                words(name, all, &[])
            }),
        1 => named(&["FLUSHDB", "FLUSHALL"]).prop_map(move |name| words(name, vec![], &[])),
        1 => Just(words("SWAPDB", vec![], &["0", "1"])),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let names = prop::sample::select(vec!["a*", "prefix:b", "suffix:1", "regex:^.2$", "c", "*"]);
    let kinds = prop::sample::select(vec![
        vec![],
        vec![],
        vec![Kind::String],
        vec![Kind::List, Kind::Set],
        vec![Kind::Set, Kind::SortedSet],
    ]);
    let databases = prop::sample::select(vec![vec![], vec![], vec![], vec![0], vec![1]]);
    let size = prop::option::weighted(0.15, (0..4u64, 0..6u64));
    (any::<bool>(), prop::option::of(names), kinds, databases, size).prop_map(
        |(include, name, kinds, databases, size)| {
            let mut rule = if include { Rule::include() } else { Rule::exclude() };
            rule.keys.keys.extend(name.map(|name| name.parse().unwrap()));
            rule.keys.kinds = kinds;
            rule.keys.databases = databases;
            if let Some((from, length)) = size {
                rule.keys.value.size = Some(from..=from + length);
            }
            rule
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    let renames = prop::sample::select(vec![
        vec![],
        vec![],
        vec!["add-prefix:p:"],
        vec!["replace-prefix:a=q"],
        vec!["strip-suffix:2"],
        vec!["replace-prefix:a=b"],
    ]);
    let rules = prop::collection::vec(rule(), 0..4);
    (rules, any::<bool>(), renames, masks()).prop_map(|(rules, otherwise, renames, masks)| Settings {
        rules,
        otherwise: if otherwise { Effect::Include } else { Effect::Exclude },
        renames: renames.into_iter().map(|rename| rename.parse().unwrap()).collect(),
        masks,
        ..Settings::default()
    })
}

/// Both phases: a snapshot, filtered, and then a stream, filtered. What the filter refuses, the source does not do.
fn both_phases(
    settings: &Settings,
    before: &[(u64, Vec<String>)],
    after: &[(u64, Vec<String>)],
) -> Result<(), TestCaseError> {
    // Two names that are likely to meet.
    let Ok(filter) = Filter::new(settings.clone()) else { return Ok(()) };
    let mut source = Data::default();
    for (db, words) in before {
        source.apply(*db, &Command::new(words));
    }
    let mut counts = Counts::default();
    let Ok(mut target) = source.snapshot(&filter, &mut counts) else { return Ok(()) };
    let mut out = BTreeSet::new();
    for ((db, key), value) in &source.0 {
        if is_in(settings, *db, key, value, false) && !is_in(settings, *db, key, value, true) {
            out.insert((*db, key.clone()));
        }
    }
    let foreign = ((0, b"zz:not-of-the-source".to_vec()), Value::String(b"stays".to_vec()));
    let mut has_foreign = !filter.owns(0, &foreign.0.1);
    if has_foreign {
        target.0.insert(foreign.0.clone(), foreign.1.clone());
    }
    let mut done = Vec::new();
    for (db, words) in after {
        let command = Command::new(words);
        let mut next = source.clone();
        if next.apply(*db, &command).is_none() {
            continue;
        }
        let moment = Moment { db: *db, clock: 0 };
        let verdict = filter.command(CommandTable::builtin(), &command, moment, &mut counts);
        if matches!(verdict, Verdict::Refuse(_)) {
            continue;
        }
        done.push(format!("{db}: {words:?} -> {verdict:?}"));
        if ["SWAPDB", "FLUSHALL", "FLUSHDB"].contains(&&*words[0]) && verdict == Verdict::Pass {
            target.0.remove(&foreign.0);
            has_foreign = false;
        }
        source = next;
        target.apply_verdict(*db, &command, verdict, &filter);
        let mut seen = target.clone();
        seen.0.remove(&foreign.0);
        prop_assert_eq!(&seen, &naive(&source, settings, &out), "{}after {:#?}", filter.describe(), done);
    }
    if has_foreign {
        prop_assert_eq!(target.0.get(&foreign.0), Some(&foreign.1), "after {:#?}", done);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn both_phases_come_to_what_the_naive_filter_gives(
        settings in settings(),
        before in prop::collection::vec((0..2u64, command()), 0..20),
        after in prop::collection::vec((0..2u64, command()), 1..30),
    ) {
        both_phases(&settings, &before, &after)?;
    }
}

/// Refusals must not be the way out of everything.
#[test]
fn few_commands_are_refused_where_only_names_and_databases_count() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut refused, mut all) = (0, 0);
    for _ in 0..300 {
        let mut settings = settings().new_tree(&mut runner).unwrap().current();
        settings.renames.clear();
        settings.masks.clear();
        settings.rules.iter_mut().for_each(|rule| {
            rule.keys.kinds.clear();
            rule.keys.value = ValueRule::default();
        });
        let filter = Filter::new(settings).unwrap();
        for _ in 0..30 {
            let words = command().new_tree(&mut runner).unwrap().current();
            let moment = Moment { db: 0, clock: 0 };
            let verdict = filter.command(CommandTable::builtin(), &words, moment, &mut Counts::default());
            all += 1;
            refused += u32::from(matches!(verdict, Verdict::Refuse(_)));
        }
    }
    assert!(refused * 10 < all, "{refused} of {all}");
}
