//! Comparing what keys hold: strings in bulk, other values as a whole, big ones in parts.

use bytes::Bytes;
use keyferry_rdb::Kind;

use super::big;
use super::compare::{Comparer, Key, both, open, pick};
use super::guess::Class;
use super::options::Depth;
use super::read::{Deadline, Payload, Shape};
use super::values::Values;
use crate::cutoff::now;
use crate::difference::DifferenceKind;
use crate::digest::Hash;
use crate::error::Error;

/// Values above this many bytes, by the server's own estimate, are read in parts.
pub(super) const LARGE: u64 = 16 << 20;
/// Bytes of values asked for at once.
pub(super) const WINDOW: u64 = 64 << 20;
/// What a value in a compact encoding takes at most, with usual settings.
pub(super) const SMALL: u64 = 64 << 10;

impl Comparer {
    /// Looks at keys of which nothing is known.
    pub(super) async fn closely(
        &mut self,
        keys: &[Bytes],
        found: &mut [Key],
        detail: bool,
    ) -> Result<(), Error> {
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
                key.kind = Some(Kind::String);
                if a == b { key.done = true } else { key.differs(DifferenceKind::Value) }
            }
        }
        let open_keys = open(found);
        if !open_keys.is_empty() {
            let some = pick(keys, &open_keys);
            let shapes = both!(self, shapes(&some));
            let mut small = Vec::new();
            let (mut large, mut lists, mut tables) = (Vec::new(), Vec::new(), Vec::new());
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
                    (Shape::List, Shape::List) => lists.push(number),
                    (Shape::Table, Shape::Table) => tables.push(number),
                    (Shape::Small, Shape::Small) => small.push((number, SMALL)),
                    _ => large.push(number),
                }
            }
            large.extend(self.short_lists(keys, &lists, found).await?);
            large.extend(self.short_tables(keys, &tables, found).await?);
            if !large.is_empty() {
                self.large(keys, &large, found, &mut small, detail).await?;
            }
            self.payloads(keys, &small, found, detail).await?;
        }
        for (name, key) in keys.iter().zip(found) {
            key.kind.into_iter().for_each(|kind| self.rules.guesses.learn(Class::of(name), kind));
        }
        Ok(())
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
            held_deadlines: self.rules.digest.held_deadlines,
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
                key.kind = Values::kind(&a);
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
}
