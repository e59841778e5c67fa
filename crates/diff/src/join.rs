//! Bringing the digests of both sides together.

use std::io;

use keyferry_rdb::Kind;

use crate::difference::{Difference, DifferenceKind, Held};
use crate::digest::KeyDigest;
use crate::error::Error;
use crate::store::record::{self, HEAD};
use crate::store::{DEEPEST, PARTS, Store};

/// How keys are compared.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Keys are compared that are of one of these types on one side at least; of any, where there are none.
    pub(crate) kinds: Vec<Kind>,
    /// Keys that expire at this time, in milliseconds since the Unix epoch, or before are gone.
    pub(crate) expired_until: i64,
    /// How many milliseconds the expiries of a key may lie apart.
    pub(crate) tolerance: u64,
    /// Bytes of digests that are in memory at once while they are joined.
    pub(crate) memory: u64,
    /// Whether a side may show a key more than once without having it twice, as `SCAN` does: then the last one counts.
    pub(crate) repeats: bool,
}

impl Rules {
    fn chooses(&self, key: &KeyDigest<'_>) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&key.kind)
    }
}

/// What was found besides differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Keys that are there: on the source, on the target.
    pub(crate) keys: [u64; 2],
    /// Keys that have expired: on the source, on the target.
    pub(crate) expired: [u64; 2],
    /// Keys that both have.
    pub(crate) both: u64,
    /// Keys that both have and that do not differ.
    pub(crate) equal: u64,
    /// Keys of one side only that expire so soon after the snapshots that their absence says nothing.
    pub(crate) expiring: u64,
}

/// Joins the stores of both sides, source first, and shows what differs.
///
/// # Errors
///
/// [`Error::Spill`], and those of `see`.
pub(crate) fn join(
    mut sides: [Vec<Store>; 2],
    rules: &Rules,
    see: &mut dyn FnMut(Difference) -> Result<(), Error>,
) -> Result<Joined, Error> {
    sides.iter_mut().flatten().try_for_each(Store::settle).map_err(Error::Spill)?;
    let mut join = Join { rules, joined: Joined::default(), see, records: [Vec::new(), Vec::new()] };
    for part in 0..PARTS {
        join.part(&mut sides, part, 0)?;
    }
    Ok(join.joined)
}

struct Join<'a> {
    rules: &'a Rules,
    joined: Joined,
    see: &'a mut dyn FnMut(Difference) -> Result<(), Error>,
    /// The records of the part at hand, side by side. Kept for their memory.
    records: [Vec<u8>; 2],
}

impl Join<'_> {
    fn part(&mut self, sides: &mut [Vec<Store>; 2], part: usize, level: u32) -> Result<(), Error> {
        let size: u64 = sides.iter().flatten().map(|store| store.size(part)).sum();
        if size > self.rules.memory && level < DEEPEST {
            return self.divided(sides, part, level + 1);
        }
        for (side, records) in sides.iter_mut().zip(&mut self.records) {
            records.clear();
            let size: u64 = side.iter().map(|store| store.size(part)).sum();
            records.reserve_exact(usize::try_from(size).unwrap_or(usize::MAX));
            for store in side {
                let copied = store.take(part, |run| {
                    records.extend_from_slice(run);
                    Ok(())
                });
                copied.map_err(Error::Spill)?;
            }
        }
        let records = std::mem::take(&mut self.records);
        self.records(&records)?;
        self.records = records;
        Ok(())
    }

    /// Joins a part that is too large for memory by the next bits of the hashes.
    fn divided(&mut self, sides: &mut [Vec<Store>; 2], part: usize, level: u32) -> Result<(), Error> {
        let mut divided = [Vec::new(), Vec::new()];
        for (side, divided) in sides.iter_mut().zip(&mut divided) {
            let Some(first) = side.first() else { continue };
            let mut room = first.room().clone();
            room.memory = usize::try_from(self.rules.memory / 4).unwrap_or(usize::MAX).max(1);
            let mut store = Store::at_level(first.hash(), room, level);
            for whole in side {
                whole.take(part, |run| store.push_records(run)).map_err(Error::Spill)?;
            }
            divided.push(store);
        }
        for part in 0..PARTS {
            self.part(&mut divided, part, level)?;
        }
        Ok(())
    }

    fn records(&mut self, records: &[Vec<u8>; 2]) -> Result<(), Error> {
        let [source, target] = [index(&records[0])?, index(&records[1])?];
        let (mut i, mut j) = (0, 0);
        while i < source.len() || j < target.len() {
            let hash = match (source.get(i), target.get(j)) {
                (Some((a, _)), Some((b, _))) => *a.min(b),
                (Some((hash, _)), None) | (None, Some((hash, _))) => *hash,
                (None, None) => break,
            };
            let run = |index: &[(u64, usize)], from: usize| {
                index[from..].iter().take_while(|(other, _)| *other == hash).count()
            };
            let (a, b) = (run(&source, i), run(&target, j));
            let body = |side: usize, at: usize| record::split(&records[side][at..]).map(|(_, body)| body);
            if let ([(_, a)], [(_, b)]) = (&source[i..i + a], &target[j..j + b])
                && let (Some(a), Some(b)) = (body(0, *a), body(1, *b))
                && a == b
            {
                self.same(a)?;
            } else {
                let [a, b] = [(0, &source[i..i + a]), (1, &target[j..j + b])].map(|(side, run)| {
                    run.iter().filter_map(|(_, at)| record::read(body(side, *at)?)).collect::<Vec<_>>()
                });
                self.group(&a, &b)?;
            }
            (i, j) = (i + a, j + b);
        }
        Ok(())
    }

    /// A key that is the same on both sides to the last bit.
    #[inline]
    fn same(&mut self, body: &[u8]) -> Result<(), Error> {
        let Some(key) = record::read(body) else { return Err(damaged()) };
        if !self.rules.chooses(&key) {
            return Ok(());
        }
        if self.is_expired(&key) {
            self.joined.expired[0] += 1;
            self.joined.expired[1] += 1;
        } else {
            self.joined.keys[0] += 1;
            self.joined.keys[1] += 1;
            self.joined.both += 1;
            self.joined.equal += 1;
        }
        Ok(())
    }

    /// The keys of one hash: nearly always one.
    fn group(&mut self, source: &[KeyDigest<'_>], target: &[KeyDigest<'_>]) -> Result<(), Error> {
        let rules = self.rules;
        let name = |key: &KeyDigest<'_>| (key.db, key.key.to_vec());
        let mut names: Vec<_> = source.iter().chain(target).map(name).collect();
        names.sort_unstable();
        names.dedup();
        for (db, key) in names {
            let mut sides: [Vec<&KeyDigest<'_>>; 2] = [source, target]
                .map(|side| side.iter().filter(|other| other.db == db && other.key == key).collect());
            for (number, side) in sides.iter_mut().enumerate() {
                let chosen = |side: &[&KeyDigest<'_>]| side.iter().filter(|key| rules.chooses(key)).count();
                let before = chosen(side);
                side.retain(|key| !self.is_expired(key));
                let there = chosen(side);
                self.joined.expired[number] += (before - there) as u64;
                self.joined.keys[number] += there as u64;
            }
            if !sides.iter().flatten().any(|key| rules.chooses(key)) {
                continue;
            }
            if self.rules.repeats {
                sides.iter_mut().for_each(|side| _ = side.drain(..side.len().saturating_sub(1)));
            }
            let [source, target] = &sides;
            let held = |side: &[&KeyDigest<'_>]| side.first().map(|key| held(key));
            if source.len() > 1 || target.len() > 1 {
                self.joined.both += u64::from(!source.is_empty() && !target.is_empty());
                let kind = DifferenceKind::Duplicate;
                (self.see)(Difference::of_key(db, &key, kind, held(source), held(target)))?;
                continue;
            }
            match (source.first(), target.first()) {
                (Some(source), Some(target)) => self.both(source, target)?,
                (Some(only), None) | (None, Some(only)) if self.is_expiring(only) => {
                    self.joined.expiring += 1;
                }
                (Some(source), None) => {
                    let kind = DifferenceKind::LackTarget;
                    (self.see)(Difference::of_key(db, &key, kind, Some(self::held(source)), None))?;
                }
                (None, Some(target)) => {
                    let kind = DifferenceKind::LackSource;
                    (self.see)(Difference::of_key(db, &key, kind, None, Some(self::held(target))))?;
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn both(&mut self, source: &KeyDigest<'_>, target: &KeyDigest<'_>) -> Result<(), Error> {
        self.joined.both += 1;
        let mut equal = true;
        for kind in differences(source, target, self.rules.tolerance) {
            equal = false;
            let sides = (Some(held(source)), Some(held(target)));
            (self.see)(Difference::of_key(source.db, source.key, kind, sides.0, sides.1))?;
        }
        self.joined.equal += u64::from(equal);
        Ok(())
    }

    fn is_expired(&self, key: &KeyDigest<'_>) -> bool {
        key.expiry.is_some_and(|at| at <= self.rules.expired_until)
    }

    /// Whether it expires so soon after the snapshots that the other side may have removed it by its own clock.
    fn is_expiring(&self, key: &KeyDigest<'_>) -> bool {
        let until = self.rules.expired_until.saturating_add_unsigned(self.rules.tolerance);
        key.expiry.is_some_and(|at| at <= until)
    }
}

/// In what ways a key differs that both sides have.
pub(crate) fn differences(
    source: &KeyDigest<'_>,
    target: &KeyDigest<'_>,
    tolerance: u64,
) -> impl Iterator<Item = DifferenceKind> {
    let same_kind = source.kind == target.kind;
    let value = if same_kind { source.value.compare(&target.value) } else { Default::default() };
    let expiry = match (source.expiry, target.expiry) {
        (Some(a), Some(b)) => a.abs_diff(b) > tolerance,
        (a, b) => a.is_some() != b.is_some(),
    };
    [
        (!same_kind, DifferenceKind::Type),
        (value.content, DifferenceKind::Value),
        (value.field_expiries, DifferenceKind::FieldExpiry),
        (value.counters, DifferenceKind::Counters),
        (value.producers, DifferenceKind::Producers),
        (expiry, DifferenceKind::Expiry),
    ]
    .into_iter()
    .filter_map(|(differs, kind)| differs.then_some(kind))
}

fn held(key: &KeyDigest<'_>) -> Held {
    Held::new(key.kind, key.value.length, key.expiry)
}

/// Hashes and places of records, by hash.
fn index(records: &[u8]) -> Result<Vec<(u64, usize)>, Error> {
    let mut index = Vec::with_capacity(records.len() / 48);
    let mut at = 0;
    while at < records.len() {
        let (hash, body) = record::split(&records[at..]).ok_or_else(damaged)?;
        index.push((hash, at));
        at += HEAD + body.len();
    }
    index.sort_unstable_by_key(|(hash, _)| *hash);
    Ok(index)
}

/// Something else wrote to the file that is ours alone, or the disk gave other bytes than it was given.
fn damaged() -> Error {
    Error::Spill(io::Error::new(io::ErrorKind::InvalidData, "digests came back damaged"))
}
