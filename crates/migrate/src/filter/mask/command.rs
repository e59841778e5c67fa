//! Commands about keys whose values are masked.
//!
//! | what it does | what becomes of it |
//! |---|---|
//! | it brings whole values, items, members or fields (`SET`, `RPUSH`, `SADD`, `HSET`, `XADD`, `RESTORE`), or names such (`SREM`, `LREM`) | these are masked |
//! | it tells places, ranks, fields' names, scores or deadlines (`LPOP`, `HDEL`, `EXPIRE`) | as it is |
//! | it takes values from key to key (`RENAME`, `LMOVE`, `SUNIONSTORE`) | as it is, where the same rules are about all of them |
//! | it changes a part of a value, or depends on the order of values (`APPEND`, `INCR`, `BITOP`, `SORT … STORE`, `ZPOPMIN`, scripts), and all that is not known | refused, or left out and told ([`Settings::masked_parts`](super::super::Settings::masked_parts)) |
//! | it only reads | left out |

use keyferry_resp::Command;
use keyferry_routing::{Access, Arguments, CommandSpec, CommandTable, Key, with_keys_replaced};

use super::{
    Counts, Filter, KeyMask, Operands, Part, Refusal, What, has_fields,
    parts::{compares, first_entry_field, first_score, hsetex_fields},
    shown,
};
use crate::filter::{
    command::{is_script, payload_kind},
    decide::kinds,
};

impl Filter {
    /// What becomes of a command; none where it goes as it is.
    pub(in crate::filter) fn masked<A: Arguments + ?Sized>(
        &self,
        table: &CommandTable,
        spec: &CommandSpec,
        args: &A,
        keys: &[Key],
        counts: &mut Counts,
    ) -> Result<Option<Vec<Command>>, Refusal> {
        if !self.masks() {
            return Ok(None);
        }
        let payload = args.argument(3).and_then(payload_kind);
        let masked: Vec<MaskedKey<'_>> = keys
            .iter()
            .map(|key| {
                let may_be = kinds(spec, key.index, key.access.is_write(), payload);
                let name = args.argument(key.index).unwrap_or_default();
                let mask = self.key_mask(name, may_be.iter().any(|&kind| has_fields(kind)));
                MaskedKey { index: key.index, name, access: key.access, mask }
            })
            .collect();
        if masked.iter().all(|key| key.mask.is_empty()) {
            return Ok(None);
        }
        if !table.is_write(args) {
            return Ok(Some(Vec::new()));
        }
        At { filter: self, spec, args, keys: &masked, counts, put: Vec::new() }.masked()
    }
}

/// A key of a command, with the masks that are about it.
struct MaskedKey<'a> {
    index: usize,
    name: &'a [u8],
    access: Access,
    mask: KeyMask,
}

/// A command at work.
struct At<'m, A: ?Sized> {
    filter: &'m Filter,
    spec: &'m CommandSpec,
    args: &'m A,
    keys: &'m [MaskedKey<'m>],
    counts: &'m mut Counts,
    /// The arguments that become others.
    put: Vec<(usize, Vec<u8>)>,
}

/// Why a command is not masked.
enum Not {
    /// What it comes to cannot be told.
    Known,
    Refused(Refusal),
}

impl From<Refusal> for Not {
    fn from(refusal: Refusal) -> Self {
        Not::Refused(refusal)
    }
}

impl<A: Arguments + ?Sized> At<'_, A> {
    fn masked(mut self) -> Result<Option<Vec<Command>>, Refusal> {
        match self.by_name() {
            Ok(Some(commands)) => Ok(Some(commands)),
            Ok(None) if self.put.is_empty() => Ok(None),
            Ok(None) => Ok(Some(vec![with_keys_replaced(self.args, &self.put)])),
            Err(Not::Known) => self.unknown().map(Some),
            Err(Not::Refused(refusal)) => Err(refusal),
        }
    }

    fn by_name(&mut self) -> Result<Option<Vec<Command>>, Not> {
        let last = self.args.count();
        match self.spec.name() {
            // What is a value is told by its place.
            "setnx" | "getset" => self.one(2, Part::String)?,
            "setex" | "psetex" => self.one(3, Part::String)?,
            "set" => return self.set(),
            "mset" | "msetnx" | "msetex" => self.pairs_of_keys()?,
            "rpush" | "lpush" | "rpushx" | "lpushx" => self.every(2..last, 1, Part::Item)?,
            "lset" => self.one(3, Part::Item)?,
            "lrem" => self.sought(3)?,
            "linsert" => {
                self.sought(3)?;
                self.one(4, Part::Item)?;
            }
            "sadd" | "srem" => self.every(2..last, 1, Part::Member)?,
            "smove" => return self.smove(),
            "zrem" => self.every(2..last, 1, Part::ScoredMember)?,
            "zincrby" => self.one(3, Part::ScoredMember)?,
            "zadd" => self.every(first_score(self.args) + 1..last, 2, Part::ScoredMember)?,
            "geoadd" => self.every(first_score(self.args) + 2..last, 3, Part::ScoredMember)?,
            "hset" | "hmset" | "hsetnx" => self.fields(2..last, |name| Part::Field(name))?,
            "hsetex" => {
                let (first, end) = hsetex_fields(self.args).ok_or(Not::Known)?;
                self.fields(first..end, |name| Part::Field(name))?;
            }
            "hincrby" | "hincrbyfloat" => {
                let field = self.args.argument(2).unwrap_or_default();
                if self.keys.iter().any(|key| self.filter.rule_for(&key.mask, Part::Field(field)).is_some()) {
                    return Err(Not::Known);
                }
            }
            "xadd" => {
                let first = first_entry_field(self.args).ok_or(Not::Known)?;
                self.fields(first..last, |name| Part::EntryField(name))?;
            }
            "restore" | "restore-asking" => return self.restore(),
            // They are replicated with the value that they compare with.
            "delex" | "delifeq" => {
                return Ok(Some(self.keys.iter().map(|key| Command::new([b"DEL", key.name])).collect()));
            }
            // One key, and neither values nor their order.
            "del"
            | "unlink"
            | "expire"
            | "pexpire"
            | "expireat"
            | "pexpireat"
            | "persist"
            | "move"
            | "getdel"
            | "getex"
            | "lpop"
            | "rpop"
            | "blpop"
            | "brpop"
            | "lmpop"
            | "blmpop"
            | "ltrim"
            | "spop"
            | "hdel"
            | "hexpire"
            | "hpexpire"
            | "hexpireat"
            | "hpexpireat"
            | "hpersist"
            | "hgetdel"
            | "hgetex"
            | "zremrangebyscore"
            | "xdel"
            | "xdelex"
            | "xtrim"
            | "xack"
            | "xackdel"
            | "xnack"
            | "xclaim"
            | "xautoclaim"
            | "xsetid"
            | "xcfgset"
            | "xidmprecord"
            | "xreadgroup"
            | "xgroup|create"
            | "xgroup|createconsumer"
            | "xgroup|delconsumer"
            | "xgroup|destroy"
            | "xgroup|setid" => {}
            // Values go from key to key.
            "rename" | "renamenx" | "copy" | "lmove" | "blmove" | "rpoplpush" | "brpoplpush"
            | "sunionstore" | "sinterstore" | "sdiffstore" | "zunionstore" | "zinterstore" | "zdiffstore"
                if self.are_alike() => {}
            _ => return Err(Not::Known),
        }
        Ok(None)
    }

    /// Whether the same rules are about all keys.
    fn are_alike(&self) -> bool {
        self.keys.windows(2).all(|pair| pair[0].mask == pair[1].mask)
    }

    /// A value of the first key.
    fn one(&mut self, at: usize, part: Part<'_>) -> Result<(), Refusal> {
        if let Some(key) = self.keys.first() {
            self.value(key, at, part)?;
        }
        Ok(())
    }

    /// An item that is looked for by its value.
    fn sought(&mut self, at: usize) -> Result<(), Not> {
        let masks = self.keys.iter().filter_map(|key| self.filter.rule_for(&key.mask, Part::Item));
        if masks.into_iter().any(|(_, rule)| !rule.mask.keeps_apart()) {
            return Err(Not::Known);
        }
        Ok(self.one(at, Part::Item)?)
    }

    fn every(&mut self, range: std::ops::Range<usize>, step: usize, part: Part<'_>) -> Result<(), Refusal> {
        range.step_by(step).try_for_each(|at| self.one(at, part))
    }

    /// Fields and values by turns.
    fn fields(
        &mut self,
        range: std::ops::Range<usize>,
        part: impl for<'n> Fn(&'n [u8]) -> Part<'n>,
    ) -> Result<(), Refusal> {
        let args = self.args;
        range.step_by(2).try_for_each(|at| self.one(at + 1, part(args.argument(at).unwrap_or_default())))
    }

    /// `MSET key value …`, where each key has masks of its own.
    fn pairs_of_keys(&mut self) -> Result<(), Refusal> {
        let keys = self.keys;
        keys.iter().try_for_each(|key| self.value(key, key.index + 1, Part::String))
    }

    fn value(&mut self, key: &MaskedKey<'_>, at: usize, part: Part<'_>) -> Result<(), Refusal> {
        let Some(value) = self.args.argument(at) else { return Ok(()) };
        self.filter.check_part(&key.mask, key.name, part)?;
        if let Some((rule, mask)) = self.filter.rule_for(&key.mask, part) {
            self.counts.note(super::By::Mask(rule), What::Masked, key.name);
            self.put.push((at, mask.mask.mask(part, value).into_owned()));
        }
        Ok(())
    }

    /// `SET key value [options]`. The source has carried it out, so its condition held there; it tells a value, too.
    fn set(&mut self) -> Result<Option<Vec<Command>>, Not> {
        self.one(2, Part::String)?;
        let Some(condition) = (3..self.args.count()).find(|&at| compares(self.args, at)) else {
            return Ok(None);
        };
        let masked = with_keys_replaced(self.args, &self.put);
        let kept = masked.args().enumerate().filter(|(at, _)| *at != condition && *at != condition + 1);
        Ok(Some(vec![Command::new(kept.map(|(_, arg)| arg).collect::<Vec<_>>())]))
    }

    /// It tells the member, so it can go from one mask to another.
    fn smove(&mut self) -> Result<Option<Vec<Command>>, Not> {
        if self.are_alike() {
            self.one(3, Part::Member)?;
            return Ok(None);
        }
        let ([from, to], Some(member)) = (self.keys, self.args.argument(3)) else { return Err(Not::Known) };
        for key in [from, to] {
            self.filter.check_part(&key.mask, key.name, Part::Member)?;
            self.counts.note(key.mask.by(), What::Masked, key.name);
        }
        let masked = |key: &MaskedKey<'_>| self.filter.masked_part(&key.mask, Part::Member, member);
        Ok(Some(vec![
            Command::new([b"SREM", from.name, &masked(from)]),
            Command::new([b"SADD", to.name, &masked(to)]),
        ]))
    }

    /// `RESTORE key ttl payload …`
    fn restore(&mut self) -> Result<Option<Vec<Command>>, Not> {
        let (Some(key), Some(payload)) = (self.keys.first(), self.args.argument(3)) else {
            return Err(Not::Known);
        };
        let kind = payload_kind(payload).ok_or(Not::Known)?;
        // Of the type that it has, too.
        let Some(mask) = self.filter.mask_of(key.name, kind) else { return Ok(None) };
        match kind {
            keyferry_rdb::Kind::Set => self.filter.check_part(&mask, key.name, Part::Member)?,
            keyferry_rdb::Kind::SortedSet => self.filter.check_part(&mask, key.name, Part::ScoredMember)?,
            _ => {}
        }
        let masked = self.filter.masked_payload(&mask, payload).ok_or(Not::Known)?;
        self.counts.note(mask.by(), What::Masked, key.name);
        self.put.push((3, masked));
        Ok(None)
    }

    /// What the command comes to cannot be told from masked values.
    fn unknown(&mut self) -> Result<Vec<Command>, Refusal> {
        let key = self.keys.iter().find(|key| !key.mask.is_empty());
        let Some(key) = key else { return Ok(Vec::new()) };
        let elsewhere = self.spec.name() == "copy" && self.args.count() > 4;
        if self.filter.settings.masked_parts == Operands::Refuse || is_script(self.spec) || elsewhere {
            return Err(Refusal::Masked { key: shown(key.name) });
        }
        self.counts.note(key.mask.by(), What::Unmasked, key.name);
        let name = self.spec.name();
        let taken = matches!(name, "rename" | "renamenx");
        let gone = self.keys.iter().filter(|key| taken || key.access.intersects(Access::OW));
        let mut instead: Vec<Command> = gone.map(|key| Command::new([b"DEL", key.name])).collect();
        if let ("lmove" | "blmove" | "rpoplpush" | "brpoplpush", Some(from)) = (name, self.keys.first()) {
            let left = self.args.argument(3).is_some_and(|side| side.eq_ignore_ascii_case(b"LEFT"));
            let pop: &[u8] = if left && name.ends_with("lmove") { b"LPOP" } else { b"RPOP" };
            instead.push(Command::new([pop, from.name]));
        }
        Ok(instead)
    }
}

#[cfg(test)]
mod tests;
