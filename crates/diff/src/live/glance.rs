//! The first look at keys: both sides are asked for values in the way that is cheapest for the type that each is likely to
//! have, and the replies are compared as they came.
//!
//! Only that values are the same is found out here. Whatever is not the same, not whole or not what it was taken for is looked at
//! closely.

use bytes::Bytes;
use keyferry_client::{Error as ClientError, Replies};
use keyferry_rdb::Kind;
use keyferry_resp::{ErrorCode, ErrorReply, Retry};

use super::compare::{Comparer, Key};
use super::guess::{Class, Guesses};
use super::nodes::Channel;
use super::options::Depth;
use super::raw::{Elements, Glance, Strings, integer};
use super::read::Deadline;
use super::wire::{FEW, Ways, Wire};
use crate::cutoff::now;

/// Keys of which everything is asked before the next: what a server has just looked at, it finds more quickly.
const NEAR: usize = 128;

/// Memory that is used again for the next look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What the source is asked, or both sides.
    wire: Wire,
    /// What the target is asked where that is not the same.
    other: Wire,
    values: [Replies; 2],
    /// When keys of the target expire, where that is asked apart.
    ends: Replies,
}

/// A key that is likely to have a value of this type.
#[derive(Clone, Copy)]
struct Likely {
    number: usize,
    kind: Kind,
    class: Class,
}

impl Comparer {
    /// Marks keys as done of which both sides have the same.
    pub(super) async fn glance(&mut self, keys: &[Bytes], found: &mut [Key]) {
        let Some(ways) = self.ways() else { return };
        let (mut texts, mut others) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for (number, key) in keys.iter().enumerate() {
            let class = Class::of(key);
            match self.rules.guesses.kind(class) {
                Some(kind @ Kind::String) => texts.push(Likely { number, kind, class }),
                Some(kind @ Kind::Hash) if ways.hashes => others.push(Likely { number, kind, class }),
                Some(kind) if ways.others && kind != Kind::Hash => {
                    others.push(Likely { number, kind, class })
                }
                _ => {}
            }
        }
        let (mut texts, mut others) = (&texts[..], &others[..]);
        while !texts.is_empty() || !others.is_empty() {
            let (some, rest) = texts.split_at(self.rules.lengths.chunk().min(texts.len()));
            let (more, other) = others.split_at(self.rules.few.chunk().min(others.len()));
            (texts, others) = (rest, other);
            // Whoever looks closely meets an error again if it lasts.
            let _ = self.glance_at(keys, some, more, ways, found).await;
        }
    }

    /// How values are read here; `None` where names have to be asked for one by one.
    fn ways(&self) -> Option<Ways> {
        let [Some(source), Some(target)] = &self.sides else { return None };
        if !source.is_single() || !target.is_single() {
            return None;
        }
        let both = |holds: fn(&Channel) -> bool| holds(source) && holds(target);
        // Data that modules attach to keys is told by `DUMP` alone.
        let plain = both(|channel| !channel.side().since((8, 6), (u32::MAX, 0)));
        let small = self.rules.live.depth != Depth::SkipBig || self.rules.live.big_key >= FEW as u64;
        let others = plain && small;
        Some(Ways {
            at_random: both(|channel| channel.side().since((6, 2), (7, 2))),
            // Of hashes whose fields may expire, these do not tell when.
            hashes: others && both(|channel| !channel.side().has_field_expiry()),
            others,
        })
    }

    async fn glance_at(
        &mut self,
        keys: &[Bytes],
        texts: &[Likely],
        others: &[Likely],
        ways: Ways,
        found: &mut [Key],
    ) -> Result<(), ClientError> {
        let [Some(source), Some(target)] = &mut self.sides else { return Ok(()) };
        let Memory { wire, other, values: [a, b], ends } = &mut self.memory;
        let absolute = [source.side().tells_deadlines(), target.side().tells_deadlines()];
        // A census tells of keys that expire on the target alone.
        let spare = self.census.is_some();
        let name = |likely: &Likely| &keys[likely.number][..];
        // Where it is enough to ask the target of those keys that expire on the source, or has to be asked in other words.
        let apart = self.deadlines && (spare || absolute[0] != absolute[1]);
        let parts = || texts.chunks(NEAR).chain(others.chunks(NEAR));
        wire.clear();
        other.clear();
        for part in parts() {
            let start = (wire.bytes.len(), wire.count);
            if is_text(part) {
                wire.mget(part.len());
                part.iter().for_each(|likely| wire.word(name(likely)));
            } else {
                part.iter().for_each(|likely| wire.value(name(likely), likely.kind, ways));
            }
            if apart {
                other.bytes.extend_from_slice(&wire.bytes[start.0..]);
                other.count += wire.count - start.1;
            }
            if self.deadlines {
                part.iter().for_each(|likely| wire.deadline(name(likely), absolute[0]));
            }
        }
        let before = now();
        let to_target = if apart { &*other } else { &*wire };
        tokio::try_join!(
            source.skim(&wire.bytes, wire.count, a),
            target.skim(&to_target.bytes, to_target.count, b)
        )?;
        let end = |replies: &Replies, at: usize, side: usize| {
            Some(Deadline::of(integer(replies.get(at)?)?, absolute[side], before))
        };
        if apart {
            other.clear();
            let mut at = 0;
            for part in parts() {
                at += values(part);
                for likely in part {
                    if !spare || end(a, at, 0) != Some(Deadline::Never) {
                        other.deadline(name(likely), absolute[1]);
                    }
                    at += 1;
                }
            }
            target.skim(&other.bytes, other.count, ends).await?;
        }
        let mut elements = Elements::default();
        let mut longest = [0; 2];
        // The next reply of the source, of the target, and of the target where it was asked apart.
        let (mut at_a, mut at_b, mut at_ends) = (0, 0, 0);
        for part in parts() {
            let replies = [a.get(at_a).unwrap_or_default(), b.get(at_b).unwrap_or_default()];
            let same = replies[0] == replies[1];
            let mut strings = replies.map(|reply| Strings::of(reply).into_iter().flatten());
            let ends_a = at_a + values(part);
            let ends_b = at_b + values(part);
            for (number, likely) in part.iter().enumerate() {
                let glance = if is_text(part) {
                    let first = strings[0].next().flatten();
                    let second = if same { first } else { strings[1].next().flatten() };
                    match (first, second) {
                        (Some(a), Some(b)) => {
                            longest[0] = longest[0].max(a.len()).max(b.len());
                            if same || a == b { Glance::Equal } else { Glance::Different }
                        }
                        _ => Glance::Unknown,
                    }
                } else {
                    let replies = [a.get(at_a + number), b.get(at_b + number)].map(Option::unwrap_or_default);
                    longest[1] = longest[1].max(replies[0].len()).max(replies[1].len());
                    refused(&self.rules.guesses, likely.kind, replies);
                    let most = FEW * if likely.kind == Kind::Hash { 2 } else { 1 };
                    elements.compare(replies, likely.kind, ways.scans(likely.kind), most)
                };
                let mut deadlines = Some([Deadline::Unasked; 2]);
                if self.deadlines {
                    let on_source = end(a, ends_a + number, 0);
                    let on_target = if !apart {
                        end(b, ends_b + number, 1)
                    } else if spare && on_source == Some(Deadline::Never) {
                        Some(Deadline::Unasked)
                    } else {
                        at_ends += 1;
                        end(ends, at_ends - 1, 1)
                    };
                    deadlines = on_source.zip(on_target).map(|(a, b)| [a, b]);
                }
                let deadlines = deadlines.filter(|ends| !ends.contains(&Deadline::NoKey));
                if let (Glance::Equal, Some(ends)) = (glance, deadlines) {
                    let key = &mut found[likely.number];
                    (key.deadlines, key.done) = (ends, true);
                    self.rules.guesses.learn(likely.class, likely.kind);
                } else if glance == Glance::Unknown {
                    self.rules.guesses.was_wrong(likely.class);
                }
            }
            let asked = if self.deadlines { part.len() } else { 0 };
            at_a = ends_a + asked;
            at_b = ends_b + if apart { 0 } else { asked };
        }
        self.rules.lengths.saw_so_many(texts.len(), longest[0]);
        self.rules.few.saw_so_many(others.len(), longest[1]);
        // The memory of replies is used again when they are gone.
        [a, b, ends].into_iter().for_each(Replies::clear);
        Ok(())
    }
}

/// Whether the keys of a part are likely to have strings, which are asked for at once.
fn is_text(part: &[Likely]) -> bool {
    part.first().is_some_and(|likely| likely.kind == Kind::String)
}

/// How many replies the values of a part take.
fn values(part: &[Likely]) -> usize {
    if is_text(part) { 1 } else { part.len() }
}

/// Takes note of a way of reading that a server does not have or does not allow.
fn refused(guesses: &Guesses, kind: Kind, replies: [&[u8]; 2]) {
    for text in replies.into_iter().filter_map(|reply| reply.strip_prefix(b"-")) {
        let error = ErrorReply::new(Bytes::copy_from_slice(text.trim_ascii_end()));
        if error.kind() != ErrorCode::WrongType && error.retry() == Retry::Never {
            guesses.give_up(kind);
        }
    }
}
