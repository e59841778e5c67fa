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
        each(commands, |command| self.change(table, command, moment, counts))
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
        each(masked, |command| self.dated_and_named(table, command, moment, counts)).map(Some)
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

/// Each command, or what comes in its place.
fn each(
    commands: Vec<Command>,
    mut change: impl FnMut(&Command) -> Result<Option<Vec<Command>>, Refusal>,
) -> Result<Vec<Command>, Refusal> {
    let mut changed = Vec::with_capacity(commands.len());
    for command in commands {
        match change(&command)? {
            None => changed.push(command),
            Some(others) => changed.extend(others),
        }
    }
    Ok(changed)
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
mod tests;
