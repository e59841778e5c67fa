//! Commands of a stream.

use keyferry_rdb::{Dialect, Kind, ValueType};
use keyferry_resp::Command;
use keyferry_routing::{Access, Arguments, CommandSpec, CommandTable, Group, Key, with_keys_replaced};

use super::{
    Filter, Refusal,
    counts::{By, Counts, What, shown},
    decide::{Decision, kinds},
    rule::Effect,
    ttl::{Redated, redate},
};

/// Where and when the source carried a command out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The database.
    pub db: u64,
    /// The time, in Unix milliseconds, as far as it is known.
    pub clock: i64,
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes over as it is.
    Pass,
    /// It is left out.
    Drop,
    /// These go over in its place, in this order, all or none of them (a transaction).
    Replace(Vec<Command>),
    /// Every key is to be removed that the migration [owns](Filter::owns): in this database of the source, or in all.
    Empty {
        /// The source's database.
        db: Option<u64>,
    },
    /// Nobody can tell.
    Refuse(Refusal),
}

/// What the rules leave of a command.
pub(super) enum Selected {
    /// All of it.
    Whole,
    Nothing,
    /// These in its place.
    Commands(Vec<Command>),
    Empty {
        db: Option<u64>,
    },
}

/// A key of a command.
pub(super) struct Named<'a> {
    /// The argument that it is.
    pub(super) index: usize,
    pub(super) key: &'a [u8],
    pub(super) db: u64,
    pub(super) access: Access,
    /// Whether it is in, with the value that the command tells of.
    pub(super) decision: Decision,
}

/// A command at work.
pub(super) struct Work<'w, A: ?Sized> {
    pub(super) filter: &'w Filter,
    pub(super) spec: &'w CommandSpec,
    pub(super) args: &'w A,
    pub(super) db: u64,
    pub(super) counts: &'w mut Counts,
}

impl Filter {
    /// What becomes of a command of the stream, which the source has carried out. `MULTI`, `EXEC` and `SELECT` are the caller's
    /// to handle: a transaction's commands are filtered one by one, and the transaction is left out when nothing of it is left.
    ///
    /// `table` has to know the commands of modules that the source uses.
    pub fn command<A: Arguments + ?Sized>(
        &self,
        table: &CommandTable,
        args: &A,
        moment: Moment,
        counts: &mut Counts,
    ) -> Verdict {
        if self.is_everything() {
            return Verdict::Pass;
        }
        let Some(spec) = table.get(args) else { return self.unknown(table, args, moment.db, counts) };
        let mut keys = Vec::new();
        let selected = match table.keys(args, &mut keys) {
            Ok(_) => match self.refused_key(spec, args, &keys, moment.db) {
                Some(key) => Err(Refusal::Exists { key: shown(key) }),
                None => Work { filter: self, spec, args, db: moment.db, counts }.select(&keys),
            },
            Err(error) => Err(error.into()),
        };
        let changed = match selected {
            Ok(Selected::Whole)
                if self.renames.is_empty() && self.settings.ttls.is_empty() && !self.masks() =>
            {
                Ok(None)
            }
            Ok(Selected::Whole) => self.change(table, args, moment, counts),
            Ok(Selected::Commands(commands)) => self.change_all(table, commands, moment, counts).map(Some),
            Ok(Selected::Nothing) => return Verdict::Drop,
            Ok(Selected::Empty { db }) => return Verdict::Empty { db },
            Err(refusal) => Err(refusal),
        };
        match changed {
            Ok(None) => Verdict::Pass,
            Ok(Some(commands)) if commands.is_empty() => Verdict::Drop,
            Ok(Some(commands)) => Verdict::Replace(commands),
            Err(refusal) => Verdict::Refuse(refusal),
        }
    }

    /// A command that is in no table.
    fn unknown<A: Arguments + ?Sized>(
        &self,
        table: &CommandTable,
        args: &A,
        db: u64,
        counts: &mut Counts,
    ) -> Verdict {
        let name = String::from_utf8_lossy(args.argument(0).unwrap_or_default()).to_ascii_lowercase();
        let about = |commands: &super::Commands| commands.contains_name(&name);
        let mut rules = self.settings.rules.iter().enumerate();
        let decided =
            rules.find(|(_, rule)| rule.is_about_keyless(db) && rule.commands.as_ref().is_some_and(about));
        match decided {
            Some((at, rule)) if rule.effect == Effect::Exclude => {
                counts.note(By::Rule(at), What::CommandLeftOut, name.as_bytes());
                Verdict::Drop
            }
            _ if !self.chooses_keys() && self.renames.is_empty() && !self.masks() => Verdict::Pass,
            _ => match table.keys(args, &mut Vec::new()) {
                Err(error) => Verdict::Refuse(error.into()),
                Ok(_) => Verdict::Pass,
            },
        }
    }

    fn change_all(
        &self,
        table: &CommandTable,
        commands: Vec<Command>,
        moment: Moment,
        counts: &mut Counts,
    ) -> Result<Vec<Command>, Refusal> {
        let mut changed = Vec::new();
        for command in commands {
            match self.change(table, &command, moment, counts)? {
                None => changed.push(command),
                Some(others) => changed.extend(others),
            }
        }
        Ok(changed)
    }

    /// The command with the values, the deadlines and the names that its keys have at the target. None if nothing changes.
    fn change<A: Arguments + ?Sized>(
        &self,
        table: &CommandTable,
        args: &A,
        moment: Moment,
        counts: &mut Counts,
    ) -> Result<Option<Vec<Command>>, Refusal> {
        if !self.masks() {
            return self.dated_and_named(table, args, moment, counts);
        }
        let mut keys = Vec::new();
        let spec = table.keys(args, &mut keys)?;
        let Some(masked) = self.masked(table, spec, args, &keys, counts)? else {
            return self.dated_and_named(table, args, moment, counts);
        };
        let mut changed = Vec::with_capacity(masked.len());
        for command in masked {
            match self.dated_and_named(table, &command, moment, counts)? {
                None => changed.push(command),
                Some(others) => changed.extend(others),
            }
        }
        Ok(Some(changed))
    }

    fn dated_and_named<A: Arguments + ?Sized>(
        &self,
        table: &CommandTable,
        args: &A,
        moment: Moment,
        counts: &mut Counts,
    ) -> Result<Option<Vec<Command>>, Refusal> {
        if self.renames.is_empty() && self.settings.ttls.is_empty() {
            return Ok(None);
        }
        let mut keys = Vec::new();
        let spec = table.keys(args, &mut keys)?;
        match self.redated(spec, args, &keys, moment, counts) {
            Redated::Nothing => Ok(Some(Vec::new())),
            Redated::Same => self.renamed(spec, args, &keys, moment, counts),
            // Keys stand where they stood, but behind SETEX, where the key does, too.
            Redated::As(command) => {
                let renamed = self.renamed(spec, &command, &keys, moment, counts)?;
                Ok(Some(renamed.unwrap_or_else(|| vec![command])))
            }
        }
    }

    fn redated<A: Arguments + ?Sized>(
        &self,
        spec: &CommandSpec,
        args: &A,
        keys: &[Key],
        moment: Moment,
        counts: &mut Counts,
    ) -> Redated {
        // Commands of several keys set one deadline for all: the first key decides.
        let key =
            keys.first().and_then(|key| args.argument(key.index)).filter(|_| !self.settings.ttls.is_empty());
        let Some((key, (at, ttl))) = key.and_then(|key| Some((key, self.ttl_of(key)?))) else {
            return Redated::Same;
        };
        let redated = redate(spec.name(), args, ttl, moment.clock);
        if redated != Redated::Same {
            counts.note(By::Ttl(at), What::DeadlineChanged, key);
        }
        redated
    }

    fn renamed<A: Arguments + ?Sized>(
        &self,
        spec: &CommandSpec,
        args: &A,
        keys: &[Key],
        moment: Moment,
        counts: &mut Counts,
    ) -> Result<Option<Vec<Command>>, Refusal> {
        let mut replaced = Vec::new();
        for key in keys.iter().filter(|_| !self.renames.is_empty()) {
            let db = second_database(spec, args, key.index).unwrap_or(moment.db);
            let old = args.argument(key.index).unwrap_or_default();
            let name = self.name(db, old, counts)?;
            if *name != *old {
                replaced.push((key.index, name.into_owned()));
            }
        }
        Ok((!replaced.is_empty()).then(|| vec![with_keys_replaced(args, &replaced)]))
    }
}

impl<'w, A: Arguments + ?Sized> Work<'w, A> {
    fn select(&mut self, keys: &[Key]) -> Result<Selected, Refusal> {
        let filter = self.filter;
        match self.spec.name() {
            "flushall" | "flushdb" | "swapdb" => return self.whole_databases(),
            _ if keys.is_empty() => return self.keyless(),
            "sort" if filter.looks_at_names() && has_pattern(self.args) && keys.len() > 1 => {
                return Err(Refusal::SortPattern);
            }
            _ => {}
        }
        let named = self.named(keys);
        if named.iter().all(|named| named.decision == Decision::In) {
            return Ok(Selected::Whole);
        }
        self.several(&named)
    }

    /// The keys, and whether each is in.
    fn named(&self, keys: &[Key]) -> Vec<Named<'w>> {
        let args: &'w A = self.args;
        let payload = args.argument(3).and_then(payload_kind);
        let named = |index: usize, db: u64, access: Access| {
            let key = args.argument(index).unwrap_or_default();
            let kinds = kinds(self.spec, index, access.is_write(), payload);
            let decision = self.filter.of_kinds(Some(self.spec), db, key, kinds);
            Named { index, key, db, access, decision }
        };
        let mut all: Vec<Named<'w>> = keys
            .iter()
            .map(|key| {
                named(key.index, second_database(self.spec, args, key.index).unwrap_or(self.db), key.access)
            })
            .collect();
        if self.spec.name() == "move"
            && let Some(db) = args.argument(2).and_then(number)
        {
            all.push(named(1, db, Access::OW));
        }
        all
    }

    /// Commands about everything in a database, or in all.
    fn whole_databases(&mut self) -> Result<Selected, Refusal> {
        if let Some(out) = self.left_out_as_keyless() {
            return Ok(out);
        }
        let filter = self.filter;
        if !filter.chooses_keys() && filter.renames.is_empty() {
            return Ok(Selected::Whole);
        }
        let name = self.spec.name();
        if name == "swapdb" {
            return self.exchange();
        }
        let db = (name == "flushdb").then_some(self.db);
        if let Some(db) = db {
            match filter.of_database(None, db) {
                Decision::Out(by) => {
                    self.counts.note(by, What::CommandLeftOut, name.as_bytes());
                    return Ok(Selected::Nothing);
                }
                Decision::In if filter.renames.is_empty() => return Ok(Selected::Whole),
                _ => {}
            }
        }
        self.counts.note(By::Otherwise, What::Emptied, name.as_bytes());
        Ok(Selected::Empty { db })
    }

    fn exchange(&mut self) -> Result<Selected, Refusal> {
        let database = |index| self.args.argument(index).and_then(number);
        let filter = self.filter;
        let (Some(a), Some(b)) = (database(1), database(2)) else { return Ok(Selected::Whole) };
        if let (Decision::Out(by), true) = (filter.of_database(None, a), filter.leaves_out_all(b)) {
            self.counts.note(by, What::CommandLeftOut, b"swapdb");
            return Ok(Selected::Nothing);
        }
        let alike = filter.settings.rules.iter().filter(|rule| rule.commands.is_none()).all(|rule| {
            let databases = &rule.keys.databases;
            databases.is_empty() || databases.contains(&a) == databases.contains(&b)
        });
        // Those that are remembered are so by database.
        if alike && !filter.looks_at_values && !filter.keeps_any() {
            return Ok(Selected::Whole);
        }
        Err(Refusal::Exchange(a.to_string(), b.to_string()))
    }

    /// Commands that name no key.
    fn keyless(&mut self) -> Result<Selected, Refusal> {
        if let Some(out) = self.left_out_as_keyless() {
            return Ok(out);
        }
        let may_write_any = matches!(self.spec.name(), "eval" | "evalsha" | "fcall");
        if may_write_any && (self.filter.chooses_keys() || self.filter.renames() || self.filter.masks()) {
            return Err(Refusal::Undeclared);
        }
        Ok(Selected::Whole)
    }

    fn left_out_as_keyless(&mut self) -> Option<Selected> {
        let mut rules = self.filter.settings.rules.iter().enumerate();
        let (at, rule) =
            rules.find(|(_, rule)| rule.is_about(Some(self.spec)) && rule.is_about_keyless(self.db))?;
        (rule.effect == Effect::Exclude).then(|| {
            self.counts.note(By::Rule(at), What::CommandLeftOut, self.spec.name().as_bytes());
            Selected::Nothing
        })
    }

    /// Notes that the command is left out, by what leaves its first key out.
    pub(super) fn left_out(&mut self, named: &[Named<'_>]) -> Selected {
        let first = named.iter().find_map(|named| match named.decision {
            Decision::Out(by) => Some((by, named.key)),
            _ => None,
        });
        if let Some((by, key)) = first {
            self.counts.note(by, What::CommandLeftOut, key);
        }
        Selected::Nothing
    }

    /// Whether a key was overwritten by a value of a type that is out, and may have been in before, with one of another type.
    pub(super) fn may_be_stale(&self, named: &Named<'_>) -> bool {
        let overwrites = named.access.intersects(Access::OW) || self.spec.name() == "set";
        if !self.filter.looks_at_kinds || !overwrites || !named.decision.is_out() {
            return false;
        }
        let payload = self.args.argument(3).and_then(payload_kind);
        let kinds = kinds(self.spec, named.index, true, payload);
        self.filter.of_kinds(None, named.db, named.key, kinds).is_out()
            && self.filter.may_be_there(named.db, named.key)
    }

    /// Whether a rule about commands, not about keys alone, leaves the command out for one of its keys.
    pub(super) fn is_left_out_by_command(&self, named: &[Named<'_>]) -> bool {
        named.iter().any(|named| match named.decision {
            Decision::Out(By::Rule(at)) => {
                self.filter.settings.rules.get(at).is_some_and(|rule| rule.commands.is_some())
            }
            _ => false,
        })
    }

    /// The rule that leaves a key out, for a person.
    pub(super) fn rule_of(&self, named: &Named<'_>) -> String {
        match named.decision {
            Decision::Out(by) => self.filter.name_of(by),
            _ => "by its type, for all that can be told".to_owned(),
        }
    }

    pub(super) fn operand_refusal(&self, written: &Named<'_>, operand: &Named<'_>) -> Refusal {
        Refusal::Operand { key: shown(written.key), operand: shown(operand.key), rule: self.rule_of(operand) }
    }
}

impl Filter {
    /// Whether the name of a key matters.
    fn looks_at_names(&self) -> bool {
        self.chooses_keys() || !self.renames.is_empty()
    }

    /// A key of a command that is to end the run, as the target has had it before.
    fn refused_key<'a, A: Arguments + ?Sized>(
        &self,
        spec: &CommandSpec,
        args: &'a A,
        keys: &[Key],
        db: u64,
    ) -> Option<&'a [u8]> {
        if !self.refuses_kept() {
            return None;
        }
        let named = keys.iter().filter_map(|key| {
            Some((second_database(spec, args, key.index).unwrap_or(db), args.argument(key.index)?))
        });
        named
            .into_iter()
            .find(|&(db, key)| self.may_be_by_rules(db, key) && self.is_kept(db, key))
            .map(|(_, key)| key)
    }
}

/// The database of a key that is not in the one which is selected: `COPY … DB n`.
fn second_database<A: Arguments + ?Sized>(spec: &CommandSpec, args: &A, index: usize) -> Option<u64> {
    if spec.name() != "copy" || index != 2 {
        return None;
    }
    let word =
        (3..args.count()).find(|&i| args.argument(i).is_some_and(|arg| arg.eq_ignore_ascii_case(b"DB")))?;
    args.argument(word + 1).and_then(number)
}

pub(super) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The kind of value that a `DUMP` payload holds.
pub(super) fn payload_kind(payload: &[u8]) -> Option<Kind> {
    let (&ty, rest) = payload.split_first()?;
    let version = rest.get(rest.len().checked_sub(10)?..)?.first_chunk::<2>()?;
    let dialect = Dialect::of_dump_version(u16::from_le_bytes(*version));
    ValueType::from_byte(ty, dialect).map(ValueType::kind)
}

/// Whether `SORT` reads keys by a pattern.
fn has_pattern<A: Arguments + ?Sized>(args: &A) -> bool {
    let arg = |index| args.argument(index).unwrap_or_default();
    let mut at = 2;
    while at < args.count() {
        if arg(at).eq_ignore_ascii_case(b"LIMIT") {
            at += 3;
        } else if arg(at).eq_ignore_ascii_case(b"BY") || arg(at).eq_ignore_ascii_case(b"GET") {
            // GET # is the element itself, BY without a star no order at all.
            if arg(at + 1).contains(&b'*') {
                return true;
            }
            at += 2;
        } else if arg(at).eq_ignore_ascii_case(b"STORE") {
            at += 2;
        } else {
            at += 1;
        }
    }
    false
}

/// Whether scripts are at work, which may do anything.
pub(super) fn is_script(spec: &CommandSpec) -> bool {
    spec.group() == Group::Scripting
}

#[cfg(test)]
mod tests {
    use keyferry_rdb::EntryHead;

    use super::super::{Entry, Operands, Rule, Settings};
    use super::*;

    fn filter(change: impl FnOnce(&mut Settings)) -> Filter {
        let mut settings = Settings::default();
        change(&mut settings);
        Filter::new(settings).unwrap()
    }

    fn without(names: &[&str]) -> Filter {
        filter(|settings| {
            let mut rule = Rule::exclude();
            rule.keys.keys = names.iter().map(|name| name.parse().unwrap()).collect();
            settings.rules.push(rule);
        })
    }

    /// What becomes of a command, in a line.
    fn verdict(filter: &Filter, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let moment = Moment { db: 0, clock: 0 };
        let line = |command: &Command| {
            command.args().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
        };
        match filter.command(CommandTable::builtin(), &words, moment, &mut Counts::default()) {
            Verdict::Replace(commands) => commands.iter().map(line).collect::<Vec<_>>().join(" | "),
            Verdict::Refuse(refusal) => {
                format!("{refusal:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn commands_of_several_keys_are_narrowed_or_refused() {
        let filter = without(&["x*"]);
        for (command, expected) in [
            ("DEL a x b", "DEL a b"),
            ("MSET a 1 x 2 b 3", "MSET a 1 b 3"),
            ("MSETEX 3 a 1 x 2 b 3 PXAT 99", "MSETEX 2 a 1 b 3 PXAT 99"),
            ("MSETEX 1 x 2 PXAT 99", "Drop"),
            ("UNLINK x x1", "Drop"),
            ("PFCOUNT a x", "Drop"),
            ("PFMERGE a b", "Pass"),
            ("PFMERGE a x", "Operand"),
            ("PFMERGE x a", "Drop"),
            ("BITOP AND a b x", "Operand"),
            ("BITOP AND x a b", "Drop"),
            ("ZUNIONSTORE a 2 b x WEIGHTS 1 2", "Operand"),
            ("ZUNIONSTORE a 2 b c WEIGHTS 1 2", "Pass"),
            ("GEORADIUS a 1 1 1 km STORE x", "Drop"),
            ("GEORADIUS x 1 1 1 km STORE a", "Operand"),
            ("SORT a STORE x", "Drop"),
            ("SORT x STORE a", "Operand"),
            ("SORT a BY w_* GET # STORE b", "SortPattern"),
            ("SORT a BY nosort GET # STORE b", "Pass"),
            ("BLMOVE a x LEFT RIGHT 0", "LPOP a"),
            ("BRPOPLPUSH a x 0", "RPOP a"),
            ("RENAME a x", "DEL a"),
            ("MOVE a 1", "Pass"),
            ("EVAL s 2 a x", "Undivided"),
            ("EVAL s 1 x", "Drop"),
            ("EVAL s 1 a", "Pass"),
            ("EVAL s 0", "Undeclared"),
            ("PUBLISH x y", "Pass"),
            ("SCRIPT LOAD x", "Pass"),
            ("XREADGROUP GROUP g c STREAMS a x 1 1", "Undivided"),
            ("LMPOP 2 a x LEFT", "Undivided"),
            ("FLUSHDB", "Empty { db: Some(0) }"),
            ("FLUSHALL ASYNC", "Empty { db: None }"),
            ("SWAPDB 0 1", "Pass"),
            ("NOBODY.KNOWS a", "Keys"),
        ] {
            assert_eq!(verdict(&filter, command), expected, "{command}");
        }
    }

    #[test]
    fn what_comes_from_outside_may_be_reported_instead() {
        let mut rule = Rule::exclude();
        rule.keys.keys.push("x*".parse().unwrap());
        let filter = filter(|settings| {
            settings.rules.push(rule);
            settings.operands = Operands::Report;
        });
        for (command, expected) in [
            ("SUNIONSTORE a x b", "DEL a"),
            ("RENAME x a", "DEL a"),
            ("COPY x a", "DEL a"),
            ("LMOVE x a LEFT LEFT", "Drop"),
            ("PFMERGE a x", "Drop"),
            ("SMOVE x a m", "SADD a m"),
        ] {
            assert_eq!(verdict(&filter, command), expected, "{command}");
        }
        let mut counts = Counts::default();
        let moment = Moment { db: 0, clock: 0 };
        filter.command(CommandTable::builtin(), &["SUNIONSTORE", "a", "x"], moment, &mut counts);
        let lines = filter.lines(&counts);
        assert_eq!(
            (&*lines[0].rule, lines[0].what, lines[0].count, &lines[0].samples[..]),
            ("exclude keys=glob:x*", "keys that lack what came from keys left out", 1, &["a".to_owned()][..])
        );
    }

    #[test]
    fn types_are_told_by_commands() {
        let only = |kinds: &[Kind]| {
            let mut rule = Rule::include();
            rule.keys.kinds = kinds.to_vec();
            filter(|settings| {
                settings.rules.push(rule);
                settings.otherwise = Effect::Exclude;
            })
        };
        let lists = only(&[Kind::List]);
        for (command, expected) in [
            ("RPUSH a 1", "Pass"),
            ("SADD a 1", "Drop"),
            ("SET a 1", "DEL a"),
            ("SET a 1 GET", "DEL a"),
            ("APPEND a 1", "Drop"),
            ("MSET a 1 b 2", "DEL a | DEL b"),
            ("DEL a b", "Pass"),
            ("PEXPIREAT a 1", "Pass"),
            ("RENAME a b", "DEL b | COPY a b | DEL a"),
            ("RENAME a a", "Pass"),
            ("COPY a b", "Pass"),
            ("COPY a b REPLACE", "DEL b | COPY a b"),
            ("COPY a b REPLACE DB 3", "Type"),
            ("MOVE a 1", "Pass"),
            ("SORT a STORE b", "Operand"),
            ("SUNIONSTORE a b c", "DEL a"),
            ("EVAL s 1 a", "Type"),
            ("XADD a * f v", "Drop"),
        ] {
            assert_eq!(verdict(&lists, command), expected, "{command}");
        }
        assert_eq!(verdict(&only(&[Kind::SortedSet]), "ZUNIONSTORE a 1 b"), "Operand");
        assert_eq!(verdict(&only(&[Kind::SortedSet, Kind::Set]), "ZUNIONSTORE a 1 b"), "Pass");
        // A list of one element, and a string, as DUMP of version 10 gives them.
        let restore = |ty: u8| {
            let payload = [&[ty, 1, 1, b'x'][..], &10u16.to_le_bytes(), &[0; 8]].concat();
            let args: [&[u8]; 5] = [b"RESTORE", b"a", b"0", &payload, b"REPLACE"];
            lists.command(CommandTable::builtin(), &args, Moment { db: 0, clock: 0 }, &mut Counts::default())
        };
        assert_eq!(restore(1), Verdict::Pass);
        assert_eq!(restore(0), Verdict::Replace(vec![Command::new(["DEL", "a"])]));
    }

    #[test]
    fn rules_about_commands() {
        let filter = filter(|settings| {
            for (commands, names) in
                [("@pubsub,flushall,expire,nobody.knows", &[][..]), ("@write", &["x*"]), ("rename", &["r*"])]
            {
                let mut rule = Rule::exclude();
                rule.commands = Some(commands.parse().unwrap());
                rule.keys.keys = names.iter().map(|name: &&str| name.parse().unwrap()).collect();
                settings.rules.push(rule);
            }
        });
        for (command, expected) in [
            ("PUBLISH a b", "Drop"),
            ("FLUSHALL", "Drop"),
            ("FLUSHDB", "Pass"),
            ("EXPIRE a 1", "Drop"),
            ("NOBODY.KNOWS a", "Drop"),
            ("SOMEBODY.ELSE a", "Pass"),
            ("DEL a x", "DEL a"),
            ("SET x 1", "Drop"),
            ("SUNIONSTORE a x", "Drop"),
            ("RENAME r a", "Drop"),
            ("RENAME a b", "Pass"),
        ] {
            assert_eq!(verdict(&filter, command), expected, "{command}");
        }
    }

    #[test]
    fn databases_are_told_apart() {
        let filter = filter(|settings| {
            let mut rule = Rule::exclude();
            rule.keys.databases = vec![1, 2];
            settings.rules.push(rule);
        });
        for (command, expected) in [
            ("SET a 1", "Pass"),
            ("FLUSHDB", "Pass"),
            ("FLUSHALL", "Empty { db: None }"),
            ("MOVE a 1", "DEL a"),
            ("MOVE a 3", "Pass"),
            ("COPY a b DB 1", "Drop"),
            ("COPY a b DB 3", "Pass"),
            ("SWAPDB 0 3", "Pass"),
            ("SWAPDB 1 2", "Drop"),
            ("SWAPDB 0 1", "Exchange"),
        ] {
            assert_eq!(verdict(&filter, command), expected, "{command}");
        }
        assert!(
            filter.owns_all(0) && filter.leaves_out_all(1) && filter.owns(0, b"x") && !filter.owns(1, b"x")
        );
    }

    #[test]
    fn renamed_keys_are_renamed_wherever_they_stand() {
        let renaming = |renames: &[&str]| {
            Filter::new(Settings {
                renames: renames.iter().map(|rename| rename.parse().unwrap()).collect(),
                ..Settings::default()
            })
        };
        let filter = renaming(&["add-prefix:p:"]).unwrap();
        for (command, expected) in [
            ("SET a a", "SET p:a a"),
            ("SUNIONSTORE a b {c}", "SUNIONSTORE p:a p:b p:{c}"),
            ("ZINTERSTORE a 2 b c AGGREGATE MIN", "ZINTERSTORE p:a 2 p:b p:c AGGREGATE MIN"),
            ("SORT a STORE b", "SORT p:a STORE p:b"),
            ("FLUSHDB", "Empty { db: Some(0) }"),
        ] {
            assert_eq!(verdict(&filter, command), expected, "{command}");
        }
        assert!(filter.owns(0, b"p:x") && !filter.owns(0, b"x"));
        assert_eq!(verdict(&renaming(&["add-prefix:{p}"]).unwrap(), "SET a 1"), "Tag");
        assert!(renaming(&["strip-prefix:p:"]).is_err());
        // Each key is looked at, too.
        let mut settings = Settings::default();
        settings.renames.push("replace-prefix:odd=even".parse().unwrap());
        let mut likely = Rule::exclude();
        likely.keys.keys.push("regex:^(even|odd)(1|a|user:1)$".parse().unwrap());
        settings.rules.push(likely);
        let sly = Filter::new(settings).unwrap();
        assert_eq!(verdict(&sly, "SET odd7 1"), "Collision");
        assert_eq!(verdict(&sly, "SET even7 1"), "Collision");
        assert_eq!(verdict(&sly, "SET other 1"), "Pass");
    }

    #[test]
    fn expiries_change_where_they_are_set() {
        let filter = filter(|settings| {
            settings.ttls.push("prefix:x=drop".parse().unwrap());
            settings.ttls.push("add:1s".parse().unwrap());
            settings.renames.push("add-prefix:p:".parse().unwrap());
        });
        for (command, expected) in [
            ("SETEX x 5 v", "SET p:x v"),
            ("SETEX a 5 v", "SETEX p:a 6 v"),
            ("PEXPIREAT x 5", "Drop"),
            ("PERSIST x", "PERSIST p:x"),
        ] {
            assert_eq!(verdict(&filter, command), expected, "{command}");
        }
        let head = |key| EntryHead::new(0, key, ValueType::String).with_expiry(Some(7000));
        let mut counts = Counts::default();
        for (key, expiry) in [(&b"x"[..], None), (b"a", Some(8000))] {
            let Ok(Entry::Take(taken)) = filter.entry(&head(key), 1, 5000, &mut counts) else { panic!() };
            assert_eq!(taken.expiry, expiry);
        }
        let lines = filter.lines(&counts);
        let changed = lines.iter().filter(|line| line.what == "expiries changed");
        assert_eq!(
            changed.map(|line| &*line.rule).collect::<Vec<_>>(),
            ["expiry prefix:x=drop", "expiry add:1000ms"]
        );
    }

    #[test]
    fn a_filter_has_a_name_that_stays() {
        let filter = without(&["x*", "regex:^a"]);
        assert_eq!(
            filter.describe(),
            "exclude keys=glob:x*,regex:^a\notherwise include\noperands Refuse collisions Refuse tags Refuse\n"
        );
        assert_eq!(filter.fingerprint().len(), 32);
        assert_ne!(filter.fingerprint(), without(&["x*"]).fingerprint());
        assert_eq!(filter.fingerprint(), without(&["x*", "regex:^a"]).fingerprint());
        assert!(Filter::new(Settings::default()).unwrap().is_everything());
    }
}
