//! Commands of which some keys are in and some are out.

use keyferry_rdb::Kind;
use keyferry_resp::Command;
use keyferry_routing::{Access, Arguments};

use super::{
    Operands, Refusal,
    command::{Named, Selected, Work, is_script},
    counts::{By, What, shown},
    decide::Decision,
};

impl<A: Arguments + ?Sized> Work<'_, A> {
    /// What is left of a command of which not every key is in for sure.
    pub(super) fn several(&mut self, named: &[Named<'_>]) -> Result<Selected, Refusal> {
        let is_sum = matches!(self.spec.name(), "del" | "unlink" | "touch" | "mset" | "msetnx" | "msetex");
        if !is_sum && self.is_left_out_by_command(named) {
            return Ok(self.left_out(named));
        }
        match (self.spec.name(), named) {
            ("rename" | "renamenx", [from, to]) => self.rename(from, to),
            ("copy", [from, to]) => self.copy(from, to),
            ("move", [from, to]) => self.moved(from, to),
            ("smove", [from, to]) => self.smove(from, to),
            ("lmove" | "blmove" | "rpoplpush" | "brpoplpush", [from, to]) => self.lmove(from, to),
            ("del" | "unlink" | "touch", _) => Ok(self.sum(named, 1)),
            ("mset" | "msetnx", _) => Ok(self.sum(named, 2)),
            ("msetex", _) => Ok(self.msetex(named)),
            // It refreshes a note within the value, and gives its reply to nobody.
            ("pfcount", _) => Ok(self.left_out(named)),
            (_, [one]) => self.single(one, named),
            _ => self.general(named),
        }
    }

    fn single(&mut self, one: &Named<'_>, named: &[Named<'_>]) -> Result<Selected, Refusal> {
        match one.decision {
            Decision::In => Ok(Selected::Whole),
            Decision::Out(_) if self.may_be_stale(one) => Ok(self.remove(one)),
            Decision::Out(_) => Ok(self.left_out(named)),
            // They do nothing where the key is not.
            Decision::Depends if does_nothing_without_key(self.spec.name()) => Ok(Selected::Whole),
            Decision::Depends => Err(Refusal::Type { key: shown(one.key) }),
        }
    }

    /// A key that was overwritten by what is left out.
    fn remove(&mut self, named: &Named<'_>) -> Selected {
        Selected::Commands(vec![self.removal(named)])
    }

    fn removal(&mut self, named: &Named<'_>) -> Command {
        if let Decision::Out(by) = named.decision {
            self.counts.note(by, What::Removed, named.key);
        }
        del(named.key)
    }

    /// A command that is the sum of its parts, each a key and what comes behind it.
    fn sum(&mut self, named: &[Named<'_>], step: usize) -> Selected {
        self.narrowed(
            named,
            step,
            self.args.argument(0).map(<[u8]>::to_vec).into_iter().collect(),
            Vec::new(),
        )
    }

    /// `MSETEX n key value … options`
    fn msetex(&mut self, named: &[Named<'_>]) -> Selected {
        let kept = named.iter().filter(|named| named.decision == Decision::In).count().to_string();
        let options = 2 + 2 * named.len()..self.args.count();
        let options = options.filter_map(|i| self.args.argument(i).map(<[u8]>::to_vec)).collect();
        let name = self.args.argument(0).unwrap_or_default().to_vec();
        self.narrowed(named, 2, vec![name, kept.into_bytes()], options)
    }

    fn narrowed(
        &mut self,
        named: &[Named<'_>],
        step: usize,
        head: Vec<Vec<u8>>,
        tail: Vec<Vec<u8>>,
    ) -> Selected {
        let mut args = head;
        let mut removals = Vec::new();
        let mut kept = 0;
        for one in named {
            match one.decision {
                Decision::Out(by) if self.may_be_stale(one) => {
                    self.counts.note(by, What::CommandNarrowed, one.key);
                    removals.push(self.removal(one));
                }
                Decision::Out(by) => self.counts.note(by, What::CommandNarrowed, one.key),
                Decision::In | Decision::Depends => {
                    kept += 1;
                    args.extend(
                        (one.index..one.index + step)
                            .filter_map(|i| self.args.argument(i))
                            .map(<[u8]>::to_vec),
                    );
                }
            }
        }
        if kept == named.len() {
            return Selected::Whole;
        }
        let mut commands = removals;
        if kept > 0 {
            args.extend(tail);
            commands.push(Command::new(args));
        }
        if commands.is_empty() { Selected::Nothing } else { Selected::Commands(commands) }
    }

    /// What writes to some keys and reads others.
    fn general(&mut self, named: &[Named<'_>]) -> Result<Selected, Refusal> {
        let writes_all = is_script(self.spec) || self.spec.name() == "xreadgroup";
        let is_written = |named: &&Named<'_>| writes_all || named.access.is_write();
        let kept = named.iter().filter(is_written).find(|named| !named.decision.is_out());
        let left_out = named.iter().filter(is_written).find(|named| named.decision.is_out());
        let unclear = named.iter().filter(is_written).find(|named| named.decision == Decision::Depends);
        match (kept, left_out) {
            (None, _) => {
                let stale: Vec<&Named<'_>> = named.iter().filter(|named| self.may_be_stale(named)).collect();
                if stale.is_empty() {
                    return Ok(self.left_out(named));
                }
                Ok(Selected::Commands(stale.into_iter().map(|named| self.removal(named)).collect()))
            }
            _ if unclear.is_some() => {
                Err(Refusal::Type { key: unclear.map(|named| shown(named.key)).unwrap_or_default() })
            }
            (Some(kept), Some(left_out)) => {
                Err(Refusal::Undivided { kept: shown(kept.key), left_out: shown(left_out.key) })
            }
            (Some(kept), None) => match named.iter().find(|named| named.decision != Decision::In) {
                Some(operand) => self.foreign(kept, operand),
                None => Ok(Selected::Whole),
            },
        }
    }

    /// A key that is in gets what comes from one that is out.
    fn foreign(&mut self, written: &Named<'_>, operand: &Named<'_>) -> Result<Selected, Refusal> {
        if self.filter.settings.operands == Operands::Refuse {
            return Err(self.operand_refusal(written, operand));
        }
        let by = match operand.decision {
            Decision::Out(by) => by,
            _ => By::Otherwise,
        };
        self.counts.note(by, What::Incomplete, written.key);
        if written.access.intersects(Access::OW) {
            return Ok(Selected::Commands(vec![del(written.key)]));
        }
        Ok(Selected::Nothing)
    }

    fn rename(&mut self, from: &Named<'_>, to: &Named<'_>) -> Result<Selected, Refusal> {
        match self.together(from, to) {
            Together::Alike if from.key == to.key => Ok(Selected::Whole),
            // Does nothing where the one is not, but that the other has to go.
            Together::Alike => {
                self.counts.note(By::Otherwise, What::Rewritten, from.key);
                let copy = Command::new([b"COPY", from.key, to.key]);
                Ok(Selected::Commands(vec![del(to.key), copy, del(from.key)]))
            }
            Together::FromOnly => Ok(self.only_from(from, to, del(from.key))),
            Together::ToOnly => self.foreign(to, from),
            Together::Neither => Ok(self.neither(from, to)),
            Together::Unclear => Err(Refusal::Type { key: shown(from.key) }),
        }
    }

    fn copy(&mut self, from: &Named<'_>, to: &Named<'_>) -> Result<Selected, Refusal> {
        let replaces = (3..self.args.count())
            .any(|i| self.args.argument(i).is_some_and(|arg| arg.eq_ignore_ascii_case(b"REPLACE")));
        match self.together(from, to) {
            // Without REPLACE there was nothing in the place of the copy.
            Together::Alike if !replaces => Ok(Selected::Whole),
            // Does nothing where the one is not, but that the other has to go: in this database, where DEL finds it.
            Together::Alike if from.db == to.db => {
                self.counts.note(By::Otherwise, What::Rewritten, from.key);
                let (remove, copy) = (del(to.key), Command::new([b"COPY", from.key, to.key]));
                Ok(Selected::Commands(vec![remove, copy]))
            }
            Together::Alike => Err(Refusal::Type { key: shown(from.key) }),
            Together::FromOnly => {
                let named = std::slice::from_ref(to);
                Ok(self.left_out(named))
            }
            Together::ToOnly if from.db == to.db => self.foreign(to, from),
            // DEL would remove another key.
            Together::ToOnly => Err(self.operand_refusal(to, from)),
            Together::Neither => Ok(self.neither(from, to)),
            Together::Unclear => Err(Refusal::Type { key: shown(from.key) }),
        }
    }

    fn moved(&mut self, from: &Named<'_>, to: &Named<'_>) -> Result<Selected, Refusal> {
        match self.together(from, to) {
            Together::Alike => Ok(Selected::Whole),
            Together::FromOnly => Ok(self.only_from(from, to, del(from.key))),
            Together::ToOnly if self.filter.settings.operands == Operands::Report => {
                // There was nothing in its place.
                if let Decision::Out(by) = from.decision {
                    self.counts.note(by, What::Incomplete, to.key);
                }
                Ok(Selected::Nothing)
            }
            Together::ToOnly => Err(self.operand_refusal(to, from)),
            Together::Neither => Ok(self.neither(from, to)),
            Together::Unclear => Err(Refusal::Type { key: shown(from.key) }),
        }
    }

    /// It tells the member.
    fn smove(&mut self, from: &Named<'_>, to: &Named<'_>) -> Result<Selected, Refusal> {
        let member = self.args.argument(3).unwrap_or_default();
        match (from.decision.is_out(), to.decision.is_out()) {
            (true, true) => Ok(self.neither(from, to)),
            (false, true) => Ok(self.only_from(from, to, Command::new([b"SREM", from.key, member]))),
            (true, false) => Ok(self.only_from(to, from, Command::new([b"SADD", to.key, member]))),
            (false, false) => Ok(Selected::Whole),
        }
    }

    fn lmove(&mut self, from: &Named<'_>, to: &Named<'_>) -> Result<Selected, Refusal> {
        let left = matches!(self.spec.name(), "lmove" | "blmove")
            && self.args.argument(3).is_some_and(|side| side.eq_ignore_ascii_case(b"LEFT"));
        match (from.decision.is_out(), to.decision.is_out()) {
            (true, true) => Ok(self.neither(from, to)),
            (false, true) => {
                let pop: &[u8] = if left { b"LPOP" } else { b"RPOP" };
                Ok(self.only_from(from, to, Command::new([pop, from.key])))
            }
            (true, false) => self.foreign(to, from),
            (false, false) => Ok(Selected::Whole),
        }
    }

    /// One key is left, and this command does to it what the whole did.
    fn only_from(&mut self, _kept: &Named<'_>, left_out: &Named<'_>, command: Command) -> Selected {
        if let Decision::Out(by) = left_out.decision {
            self.counts.note(by, What::CommandNarrowed, left_out.key);
        }
        Selected::Commands(vec![command])
    }

    fn neither(&mut self, from: &Named<'_>, to: &Named<'_>) -> Selected {
        let first = if from.decision.is_out() { from } else { to };
        self.left_out(std::slice::from_ref(first))
    }

    /// How a value fares that goes from one key to another, whatever its type.
    fn together(&self, from: &Named<'_>, to: &Named<'_>) -> Together {
        let kinds: &[Kind] = if self.filter.looks_at_kinds { Kind::ALL } else { &[Kind::String] };
        let is_in = |named: &Named<'_>, kind| {
            let kind = self.filter.looks_at_kinds.then_some(kind);
            !self.filter.of_kind(Some(self.spec), named.db, named.key, kind).is_out()
        };
        let fates: Vec<(bool, bool)> =
            kinds.iter().map(|&kind| (is_in(from, kind), is_in(to, kind))).collect();
        let all = |fate: (bool, bool)| fates.iter().all(|&other| other == fate);
        let any_from = fates.iter().any(|fate| fate.0);
        let any_to = fates.iter().any(|fate| fate.1);
        match () {
            () if !any_from && !any_to => Together::Neither,
            () if fates.iter().all(|(from, to)| from == to) => Together::Alike,
            // Whatever is there of it.
            () if !any_to => Together::FromOnly,
            () if all((false, true)) || !any_from => Together::ToOnly,
            () => Together::Unclear,
        }
    }
}

/// Whether a value is in under the name that it has, and under the one that it gets.
enum Together {
    /// Under both or under neither, as its type tells.
    Alike,
    /// At most under the first.
    FromOnly,
    /// At most under the second.
    ToOnly,
    Neither,
    /// Under the one, the other or both, as its type tells.
    Unclear,
}

/// Whether a command does nothing to a key that is not there.
fn does_nothing_without_key(name: &str) -> bool {
    matches!(name, "expire" | "expireat" | "pexpire" | "pexpireat" | "persist")
}

fn del(key: &[u8]) -> Command {
    Command::new([&b"DEL"[..], key])
}
