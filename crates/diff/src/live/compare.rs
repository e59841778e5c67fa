//! Comparing a batch of keys of two live sides.

use std::sync::Arc;

use bytes::Bytes;
use keyferry_rdb::Kind;

use super::big;
use super::finding::{Fields, Finding, Outcome};
use super::nodes::Channel;
use super::options::{Depth, LiveOptions};
use super::read::{Deadline, Lengths, Payload, Shape};
use super::values::Values;
use crate::cutoff::now;
use crate::difference::{DifferenceKind, Held};
use crate::digest::{DigestOptions, Hash};
use crate::error::Error;
use crate::store::Room;

/// Values above this many bytes, by the server's own estimate, are read in parts.
const LARGE: u64 = 16 << 20;
/// Bytes of values asked for at once.
const WINDOW: u64 = 64 << 20;
/// What a value in a compact encoding takes at most, with usual settings.
const SMALL: u64 = 64 << 10;

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

/// Fields up to which it is looked whether all of them have expired. Servers remove them by themselves before long.
const EMPTY: u64 = 16_384;

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
}

/// Compares keys over connections of its own.
#[derive(Debug)]
pub(crate) struct Comparer {
    pub(crate) rules: Arc<Rules>,
    /// Source and target; `None` for a side that does not have the database.
    pub(crate) sides: [Option<Channel>; 2],
    /// Whether any key of the databases may expire.
    pub(crate) deadlines: bool,
    values: Values,
}

/// A key under comparison.
#[derive(Clone, Debug, Default)]
struct Key {
    deadlines: [Deadline; 2],
    kinds: Vec<DifferenceKind>,
    fields: Fields,
    gone: bool,
    /// Of one side only.
    lacks: Option<DifferenceKind>,
    /// Found equal, or what differs is known.
    done: bool,
}

impl Key {
    fn is_on(&mut self, source: bool, target: bool) {
        match (source, target) {
            (true, true) => return,
            (false, false) => self.gone = true,
            (true, false) => self.lacks = Some(DifferenceKind::LackTarget),
            (false, true) => self.lacks = Some(DifferenceKind::LackSource),
        }
        self.done = true;
    }

    fn differs(&mut self, kind: DifferenceKind) {
        self.kinds.push(kind);
        self.done = true;
    }
}

impl Comparer {
    pub(crate) fn new(rules: &Arc<Rules>, sides: [Option<Channel>; 2], deadlines: bool) -> Self {
        let values = Values::new(&rules.digest);
        Self { rules: Arc::clone(rules), sides, deadlines, values }
    }

    /// Compares keys; with `detail` it is also told which elements of values differ.
    pub(crate) async fn compare(&mut self, keys: &[Bytes], detail: bool) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut chosen = keys.to_vec();
        if !self.rules.kinds.is_empty() {
            chosen = self.of_kinds(keys).await?;
            outcome.other_kind = (keys.len() - chosen.len()) as u64;
        }
        outcome.looked = chosen.len() as u64;
        let mut found = vec![Key::default(); chosen.len()];
        match (&self.sides, self.rules.live.depth) {
            ([None, _] | [_, None], _) | (_, Depth::Exists | Depth::Counts) => {
                self.names(&chosen, &mut found).await?;
            }
            (_, Depth::Length) => self.whole_lengths(&chosen, &mut found).await?,
            (_, Depth::Full | Depth::SkipBig) => self.whole(&chosen, &mut found, detail).await?,
        }
        self.finish(&chosen, found, &mut outcome).await?;
        Ok(outcome)
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

    async fn whole(&mut self, keys: &[Bytes], found: &mut [Key], detail: bool) -> Result<(), Error> {
        let [Some(source), Some(target)] = &mut self.sides else { return Ok(()) };
        let (rules, deadlines) = (&self.rules, self.deadlines);
        let (a, b) = tokio::try_join!(
            source.texts(keys, deadlines, &rules.lengths),
            target.texts(keys, deadlines, &rules.lengths)
        )?;
        let texts = [a.texts, b.texts];
        self.set_deadlines(found, &[a.deadlines, b.deadlines]);
        for (number, key) in found.iter_mut().enumerate() {
            let present =
                |side: usize| key.deadlines[side] != Deadline::NoKey || texts[side][number].is_some();
            let (on_source, on_target) = (present(0), present(1));
            key.is_on(on_source, on_target);
            if let ([Some(a), Some(b)], false) = ([&texts[0][number], &texts[1][number]], key.done) {
                if a == b { key.done = true } else { key.differs(DifferenceKind::Value) }
            }
        }
        let open_keys = open(found);
        if !open_keys.is_empty() {
            let some = pick(keys, &open_keys);
            let shapes = both!(self, shapes(&some));
            let mut small = Vec::new();
            let mut large = Vec::new();
            for (at, &number) in open_keys.iter().enumerate() {
                let shape = |side: usize| match texts[side][number] {
                    Some(_) => Shape::Text,
                    None => shapes[side][at],
                };
                let (a, b) = (shape(0), shape(1));
                let key = &mut found[number];
                key.is_on(a != Shape::Missing, b != Shape::Missing);
                match (a, b) {
                    _ if key.done => {}
                    (Shape::Text, Shape::Text) => {
                        // It became a string after strings had been asked for.
                        small.push((number, SMALL));
                    }
                    (Shape::Text, _) | (_, Shape::Text) => key.differs(DifferenceKind::Type),
                    (Shape::Large, _) | (_, Shape::Large) => large.push(number),
                    _ => small.push((number, SMALL)),
                }
            }
            if !large.is_empty() {
                self.large(keys, &large, found, &mut small, detail).await?;
            }
            self.payloads(keys, &small, found, detail).await?;
        }
        self.compare_deadlines(found);
        Ok(())
    }

    async fn both_lengths(
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

    /// Values that may be large: those that are are compared in parts, the others are left for [`payloads`](Self::payloads).
    async fn large(
        &mut self,
        keys: &[Bytes],
        numbers: &[usize],
        found: &mut [Key],
        small: &mut Vec<(usize, u64)>,
        detail: bool,
    ) -> Result<(), Error> {
        let some = pick(keys, numbers);
        let kinds = both!(self, kinds(&some));
        let sizes = both!(self, sizes(&some));
        let lengths = self.both_lengths(&some, &kinds).await?;
        for (at, &number) in numbers.iter().enumerate() {
            let key = &mut found[number];
            let side = |side: usize| (kinds[side][at], lengths[side][at]);
            let ((a, length_a), (b, length_b)) = (side(0), side(1));
            key.is_on(a.is_some(), b.is_some());
            let (Some(kind), false) = (a, key.done) else { continue };
            if a != b {
                key.differs(DifferenceKind::Type);
                continue;
            }
            let length = length_a.max(length_b).unwrap_or(0);
            let bytes = sizes[0][at].max(sizes[1][at]);
            let in_parts =
                matches!(kind, Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash | Kind::Stream);
            if !in_parts || (length <= self.rules.live.big_key && bytes.unwrap_or(0) <= LARGE) {
                small.push((number, bytes.unwrap_or(SMALL)));
            } else if self.rules.live.depth == Depth::SkipBig {
                key.done = true;
                if length_a != length_b {
                    key.differs(DifferenceKind::Value);
                }
            } else {
                // Elements need not be of one size: what one page holds is bounded by their mean.
                let page = (LARGE / 4).saturating_mul(length.max(1)) / bytes.unwrap_or(1).max(1);
                self.in_parts(&keys[number], kind, page, key, detail).await?;
            }
        }
        Ok(())
    }

    async fn in_parts(
        &mut self,
        name: &Bytes,
        kind: Kind,
        page: u64,
        key: &mut Key,
        detail: bool,
    ) -> Result<(), Error> {
        let [Some(source), Some(target)] = &mut self.sides else { return Ok(()) };
        let most = if detail { self.rules.live.fields } else { 0 };
        let job = big::Job {
            key: name,
            kind,
            page: page.clamp(1, 1000),
            most,
            unreplicated: self.rules.digest.unreplicated,
            tolerance: self.rules.tolerance,
            hash: Hash::new(self.rules.digest.seed),
            room: &self.rules.room,
        };
        let (kinds, fields) = job.compare(source, target).await?;
        key.done = true;
        (key.kinds, key.fields) = (kinds, fields);
        Ok(())
    }

    /// Values as a whole.
    async fn payloads(
        &mut self,
        keys: &[Bytes],
        small: &[(usize, u64)],
        found: &mut [Key],
        detail: bool,
    ) -> Result<(), Error> {
        let mut rest = small;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, size): &&(usize, u64)| {
                bytes += size;
                bytes <= WINDOW
            };
            let (chunk, more) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = more;
            let numbers: Vec<_> = chunk.iter().map(|(number, _)| *number).collect();
            let some = pick(keys, &numbers);
            let [Some(source), Some(target)] = &mut self.sides else { return Ok(()) };
            let (a, b) = tokio::try_join!(source.payloads(&some), target.payloads(&some))?;
            let expired_until = now();
            let mut refused = Vec::new();
            for (&number, (a, b)) in numbers.iter().zip(a.into_iter().zip(b)) {
                let key = &mut found[number];
                let missing = |side: &Payload| matches!(side, Payload::Missing);
                key.is_on(!missing(&a), !missing(&b));
                if key.done {
                    continue;
                }
                let (Payload::Whole(a), Payload::Whole(b)) = (a, b) else {
                    refused.push(number);
                    continue;
                };
                let compared = self.values.compare(&a, &b, expired_until);
                key.is_on(!compared.absent[0], !compared.absent[1]);
                if key.done {
                    continue;
                }
                key.done = true;
                if detail
                    && compared
                        .kinds
                        .iter()
                        .any(|kind| matches!(kind, DifferenceKind::Value | DifferenceKind::FieldExpiry))
                {
                    key.fields = self.values.fields(&a, &b, expired_until, self.rules.live.fields);
                }
                key.kinds = compared.kinds;
            }
            self.refused(keys, &refused, found, detail).await?;
        }
        Ok(())
    }

    /// Values that a server does not let out as a whole are read in parts.
    async fn refused(
        &mut self,
        keys: &[Bytes],
        numbers: &[usize],
        found: &mut [Key],
        detail: bool,
    ) -> Result<(), Error> {
        if numbers.is_empty() {
            return Ok(());
        }
        let some = pick(keys, numbers);
        let [a, b] = both!(self, kinds(&some));
        for (&number, (a, b)) in numbers.iter().zip(a.into_iter().zip(b)) {
            let key = &mut found[number];
            key.is_on(a.is_some(), b.is_some());
            let (Some(kind), false) = (a, key.done) else { continue };
            if a != b {
                key.differs(DifferenceKind::Type);
            } else if matches!(kind, Kind::List | Kind::Set | Kind::SortedSet | Kind::Hash | Kind::Stream) {
                self.in_parts(&keys[number], kind, 1000, key, detail).await?;
            } else {
                return Err(Error::Unreadable { key: keys[number].to_vec(), kind });
            }
        }
        Ok(())
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

    fn set_deadlines(&self, found: &mut [Key], ends: &[Vec<Deadline>; 2]) {
        for (number, key) in found.iter_mut().enumerate() {
            key.deadlines = [ends[0][number], ends[1][number]];
        }
    }

    fn compare_deadlines(&self, found: &mut [Key]) {
        for key in found.iter_mut().filter(|key| !key.gone && key.lacks.is_none()) {
            let differs = match key.deadlines {
                [Deadline::At(a), Deadline::At(b)] => a.abs_diff(b) > self.rules.tolerance,
                [Deadline::At(_), Deadline::Never] | [Deadline::Never, Deadline::At(_)] => true,
                _ => false,
            };
            if differs {
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
fn open(found: &[Key]) -> Vec<usize> {
    (0..found.len()).filter(|&number| !found[number].done).collect()
}

fn pick<T: Clone>(from: &[T], numbers: &[usize]) -> Vec<T> {
    numbers.iter().map(|&number| from[number].clone()).collect()
}
