//! Comparing a batch of keys of two live sides.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use keyferry_rdb::Kind;

use super::contents::{SMALL, WINDOW};
use super::finding::{Fields, Finding, Outcome};
use super::glance::Memory;
use super::guess::Guesses;
use super::nodes::Channel;
use super::options::{Depth, LiveOptions};
use super::read::{Deadline, Lengths, Payload};
use super::values::Values;
use crate::cutoff::{exact, now};
use crate::difference::{DifferenceKind, Held};
use crate::digest::{DigestOptions, Hash};
use crate::error::Error;
use crate::store::Room;

/// Asks both sides at once; one that is not there answers with defaults.
macro_rules! both {
    ($self:ident, $ask:ident($keys:expr)) => {{
        let [source, target] = &mut $self.sides;
        let keys: &[Bytes] = $keys;
        let (a, b) = tokio::try_join!(
            async {
                match source {
                    Some(channel) => channel.$ask(keys).await,
                    None => Ok(vec![Default::default(); keys.len()]),
                }
            },
            async {
                match target {
                    Some(channel) => channel.$ask(keys).await,
                    None => Ok(vec![Default::default(); keys.len()]),
                }
            }
        )?;
        [a, b]
    }};
}
pub(super) use both;

/// Fields up to which it is looked whether all of them have expired. Servers remove them by themselves before long.
const EMPTY: u64 = 16_384;

/// Keys that are looked at closely at once, where that can wait.
pub(crate) const LATER: usize = 256;

/// What all batches have in common.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) live: LiveOptions,
    pub(crate) kinds: Vec<Kind>,
    /// How many milliseconds the expiries of a key may lie apart.
    pub(crate) tolerance: u64,
    pub(crate) digest: DigestOptions,
    /// For the elements of big keys.
    pub(crate) room: Room,
    pub(crate) lengths: Lengths,
    /// Of values of which a few elements are asked for.
    pub(crate) few: Lengths,
    /// Which types values are likely to have.
    pub(crate) guesses: Guesses,
}

impl Rules {
    /// Whether the expiries of a key on both sides differ.
    pub(super) fn expire_apart(&self, ends: [Deadline; 2]) -> bool {
        let held = self.digest.held_deadlines;
        match ends {
            [Deadline::At(a), Deadline::At(b)] if held => exact(a).abs_diff(exact(b)) > self.tolerance,
            [Deadline::At(a), Deadline::At(b)] => a.abs_diff(b) > self.tolerance,
            [Deadline::At(_), Deadline::Never] | [Deadline::Never, Deadline::At(_)] => true,
            _ => false,
        }
    }
}

/// Compares keys over connections of its own.
#[derive(Debug)]
pub(crate) struct Comparer {
    pub(crate) rules: Arc<Rules>,
    /// Source and target; `None` for a side that does not have the database.
    pub(crate) sides: [Option<Channel>; 2],
    /// Whether any key of the databases may expire.
    pub(crate) deadlines: bool,
    pub(super) values: Values,
    pub(super) memory: Memory,
    /// What names are hashed with, and the database, where a census is taken of them.
    pub(crate) census: Option<(Hash, u64)>,
    /// Whether keys that have to be looked at closely can wait for others.
    pub(crate) put_off: bool,
    /// Those that wait.
    pub(crate) later: Vec<Bytes>,
    /// Whether keys are those that had to wait.
    again: bool,
}

/// A key under comparison.
#[derive(Clone, Debug, Default)]
pub(super) struct Key {
    pub(super) deadlines: [Deadline; 2],
    pub(super) kinds: Vec<DifferenceKind>,
    pub(super) fields: Fields,
    /// Its type, as far as it is worth knowing for others of such names.
    pub(super) kind: Option<Kind>,
    pub(super) gone: bool,
    /// Of one side only.
    pub(super) lacks: Option<DifferenceKind>,
    /// Found equal, or what differs is known.
    pub(super) done: bool,
}

impl Key {
    pub(super) fn is_on(&mut self, source: bool, target: bool) {
        match (source, target) {
            (true, true) => return,
            (false, false) => self.gone = true,
            (true, false) => self.lacks = Some(DifferenceKind::LackTarget),
            (false, true) => self.lacks = Some(DifferenceKind::LackSource),
        }
        self.done = true;
    }

    pub(super) fn differs(&mut self, kind: DifferenceKind) {
        self.kinds.push(kind);
        self.done = true;
    }
}

impl Comparer {
    pub(crate) fn new(rules: &Arc<Rules>, sides: [Option<Channel>; 2], deadlines: bool) -> Self {
        Self {
            rules: Arc::clone(rules),
            sides,
            deadlines,
            values: Values::new(&rules.digest),
            memory: Memory::default(),
            census: None,
            put_off: false,
            later: Vec::new(),
            again: false,
        }
    }

    /// Compares keys; with `detail` it is also told which elements of values differ.
    pub(crate) async fn compare(&mut self, keys: &[Bytes], detail: bool) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut chosen = Cow::Borrowed(keys);
        if !self.rules.kinds.is_empty() {
            chosen = Cow::Owned(self.of_kinds(keys).await?);
            outcome.other_kind = (keys.len() - chosen.len()) as u64;
        }
        outcome.looked = chosen.len() as u64;
        let whole = matches!(self.rules.live.depth, Depth::Full | Depth::SkipBig);
        if whole && !self.again {
            let glanced = self.glance(&chosen).await;
            self.count_expiring(&chosen, glanced.expire.into_iter(), &mut outcome);
            // A round trip for few keys costs as much as one for many.
            if self.put_off && glanced.open.len() < LATER {
                outcome.looked -= glanced.open.len() as u64;
                let wait = glanced.open.iter().map(|&number| Bytes::copy_from_slice(&chosen[number]));
                self.later.extend(wait);
                return Ok(outcome);
            }
            if glanced.open.len() < chosen.len() {
                chosen = Cow::Owned(pick(&chosen, &glanced.open));
            }
        }
        let mut found = vec![Key::default(); chosen.len()];
        match (&self.sides, self.rules.live.depth) {
            ([None, _] | [_, None], _) | (_, Depth::Exists | Depth::Counts) => {
                self.names(&chosen, &mut found).await?;
            }
            (_, Depth::Length) => self.whole_lengths(&chosen, &mut found).await?,
            (_, Depth::Full | Depth::SkipBig) => {
                self.closely(&chosen, &mut found, detail).await?;
                self.compare_deadlines(&mut found);
            }
        }
        let expire = (0..found.len()).filter(|&number| found[number].deadlines[0].at().is_some());
        self.count_expiring(&chosen, expire, &mut outcome);
        self.finish(&chosen, found, &mut outcome).await?;
        Ok(outcome)
    }

    /// Takes note of keys that expire on the source, where a census is taken.
    fn count_expiring(&self, keys: &[Bytes], expire: impl Iterator<Item = usize>, outcome: &mut Outcome) {
        if let Some((hash, db)) = self.census {
            outcome.expire.extend(expire.map(|number| hash.key(db, &keys[number])));
        }
    }

    /// Looks closely at the keys that wait for it.
    pub(crate) async fn compare_later(&mut self, detail: bool) -> Result<Outcome, Error> {
        let keys = std::mem::take(&mut self.later);
        let before = std::mem::replace(&mut self.put_off, false);
        // The first look at them has told nothing.
        self.again = true;
        let outcome = self.compare(&keys, detail).await;
        (self.put_off, self.again) = (before, false);
        outcome
    }

    /// Those keys that are not there on the source, and those that expire there and not on the target.
    pub(crate) async fn lacking_or_expiring(
        &mut self,
        keys: &[Bytes],
    ) -> Result<(Vec<Bytes>, Vec<Bytes>), Error> {
        let [Some(source), Some(target)] = &mut self.sides else { return Ok((keys.to_vec(), Vec::new())) };
        let (mut lacking, mut expire) = (Vec::new(), Vec::new());
        for (key, end) in keys.iter().zip(source.deadlines(keys).await?) {
            match end {
                Deadline::NoKey => lacking.push(key.clone()),
                Deadline::At(_) => expire.push(key.clone()),
                Deadline::Never | Deadline::Unasked => {}
            }
        }
        let ends = if expire.is_empty() { Vec::new() } else { target.deadlines(&expire).await? };
        let never = expire.into_iter().zip(ends).filter(|(_, end)| *end == Deadline::Never);
        Ok((lacking, never.map(|(key, _)| key).collect()))
    }

    /// Those keys that are not there on the source.
    pub(crate) async fn lacking(&mut self, keys: &[Bytes]) -> Result<Vec<Bytes>, Error> {
        let Some(source) = &mut self.sides[0] else { return Ok(keys.to_vec()) };
        let present = source.present(keys).await?;
        Ok(keys.iter().zip(present).filter(|(_, present)| !present).map(|(key, _)| key.clone()).collect())
    }

    /// Keys whose value is of a kind that was chosen, on either side.
    async fn of_kinds(&mut self, keys: &[Bytes]) -> Result<Vec<Bytes>, Error> {
        let [source, target] = both!(self, kinds(keys));
        let wanted = |kind: Option<Kind>| kind.is_some_and(|kind| self.rules.kinds.contains(&kind));
        let chosen = keys.iter().zip(source.into_iter().zip(target));
        Ok(chosen.filter(|(_, (a, b))| wanted(*a) || wanted(*b)).map(|(key, _)| key.clone()).collect())
    }

    async fn names(&mut self, keys: &[Bytes], found: &mut [Key]) -> Result<(), Error> {
        let [source, target] = both!(self, present(keys));
        for (key, (a, b)) in found.iter_mut().zip(source.into_iter().zip(target)) {
            key.is_on(a, b);
            key.done = true;
        }
        Ok(())
    }

    async fn whole_lengths(&mut self, keys: &[Bytes], found: &mut [Key]) -> Result<(), Error> {
        let [source, target] = both!(self, kinds(keys));
        for (key, (a, b)) in found.iter_mut().zip(source.iter().zip(&target)) {
            key.is_on(a.is_some(), b.is_some());
            if !key.done && a != b {
                key.differs(DifferenceKind::Type);
            }
        }
        if self.deadlines {
            let ends = both!(self, deadlines(keys));
            self.set_deadlines(found, &ends);
        }
        let open = open(found);
        let some = pick(keys, &open);
        let kinds = [pick(&source, &open), pick(&target, &open)];
        let [a, b] = self.both_lengths(&some, &kinds).await?;
        for (&number, (a, b)) in open.iter().zip(a.into_iter().zip(b)) {
            found[number].is_on(a.is_some(), b.is_some());
            if !found[number].done && a != b {
                found[number].differs(DifferenceKind::Value);
            }
        }
        self.compare_deadlines(found);
        Ok(())
    }

    pub(super) async fn both_lengths(
        &mut self,
        keys: &[Bytes],
        kinds: &[Vec<Option<Kind>>; 2],
    ) -> Result<[Vec<Option<u64>>; 2], Error> {
        let mut lengths = [vec![None; keys.len()], vec![None; keys.len()]];
        let [a, b] = &mut lengths;
        let [source, target] = &mut self.sides;
        tokio::try_join!(
            async {
                if let Some(channel) = source {
                    *a = channel.lengths(keys, &kinds[0]).await?;
                }
                Ok::<_, Error>(())
            },
            async {
                if let Some(channel) = target {
                    *b = channel.lengths(keys, &kinds[1]).await?;
                }
                Ok(())
            }
        )?;
        Ok(lengths)
    }

    /// Which keys are hashes whose fields have all expired. Servers count these until they remove them.
    async fn empty_hashes(
        &mut self,
        keys: &[Bytes],
        kinds: &[Vec<Option<Kind>>; 2],
        lengths: &[Vec<Option<u64>>; 2],
    ) -> Result<[Vec<bool>; 2], Error> {
        let mut empty = [vec![false; keys.len()], vec![false; keys.len()]];
        for (side, empty) in empty.iter_mut().enumerate() {
            let Some(channel) = &mut self.sides[side] else { continue };
            if !channel.side().has_field_expiry() {
                continue;
            }
            let small = |at: usize| lengths[side][at].is_some_and(|n| n <= EMPTY);
            let hashes: Vec<usize> = (0..keys.len())
                .filter(|&at| {
                    kinds[side][at] == Some(Kind::Hash) && kinds[1 - side][at].is_none() && small(at)
                })
                .collect();
            for chunk in hashes.chunks((WINDOW / SMALL) as usize) {
                let payloads = channel.payloads(&pick(keys, chunk)).await?;
                for (&at, payload) in chunk.iter().zip(payloads) {
                    let Payload::Whole(payload) = payload else { continue };
                    empty[at] = self.values.is_absent(&payload, now());
                }
            }
        }
        Ok(empty)
    }

    pub(super) fn set_deadlines(&self, found: &mut [Key], ends: &[Vec<Deadline>; 2]) {
        for (number, key) in found.iter_mut().enumerate() {
            key.deadlines = [ends[0][number], ends[1][number]];
        }
    }

    pub(super) fn compare_deadlines(&self, found: &mut [Key]) {
        for key in found.iter_mut().filter(|key| !key.gone && key.lacks.is_none()) {
            if self.rules.expire_apart(key.deadlines) {
                key.kinds.push(DifferenceKind::Expiry);
            }
        }
    }

    /// Says of keys that differ what each side has.
    async fn finish(
        &mut self,
        keys: &[Bytes],
        mut found: Vec<Key>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        outcome.gone = found.iter().filter(|key| key.gone).count() as u64;
        let differing: Vec<usize> =
            (0..found.len()).filter(|&n| found[n].lacks.is_some() || !found[n].kinds.is_empty()).collect();
        if differing.is_empty() {
            return Ok(());
        }
        let some = pick(keys, &differing);
        let kinds = both!(self, kinds(&some));
        let ends = both!(self, deadlines(&some));
        let lengths = self.both_lengths(&some, &kinds).await?;
        let empty = self.empty_hashes(&some, &kinds, &lengths).await?;
        for (at, number) in differing.into_iter().enumerate() {
            let key = std::mem::take(&mut found[number]);
            let held = |side: usize| {
                let length = lengths[side][at].unwrap_or(0);
                if empty[side][at] {
                    return None;
                }
                Some(Held::new(kinds[side][at]?, length, ends[side][at].at()))
            };
            let mut held = [held(0), held(1)];
            let mut differences = key.kinds;
            match (key.lacks, &held) {
                // It went away after all.
                (_, [None, None]) => {
                    outcome.gone += 1;
                    continue;
                }
                (Some(lacks), _) => {
                    differences = vec![lacks];
                    held[usize::from(lacks == DifferenceKind::LackTarget)] = None;
                    let only = held[0].or(held[1]).and_then(|held| held.expiry);
                    let soon = now().saturating_add_unsigned(self.rules.tolerance);
                    if only.is_some_and(|at| at <= soon) {
                        outcome.expiring += 1;
                        continue;
                    }
                }
                (None, [Some(_), None]) => differences = vec![DifferenceKind::LackTarget],
                (None, [None, Some(_)]) => differences = vec![DifferenceKind::LackSource],
                (None, [Some(_), Some(_)]) => {}
            }
            outcome.findings.push(Finding {
                key: keys[number].clone(),
                kinds: differences,
                held,
                fields: key.fields,
                moving: false,
            });
        }
        Ok(())
    }
}

/// Numbers of the keys about which nothing is known yet.
pub(super) fn open(found: &[Key]) -> Vec<usize> {
    (0..found.len()).filter(|&number| !found[number].done).collect()
}

pub(super) fn pick<T: Clone>(from: &[T], numbers: &[usize]) -> Vec<T> {
    numbers.iter().map(|&number| from[number].clone()).collect()
}
