//! The first look at keys: both sides are asked for values in the way that is cheapest for the type that each is likely to
//! have, and the replies are compared as they came.
//!
//! Only that values are the same is found out here. Whatever is not the same, not whole or not what it was taken for is looked at
//! closely.

use std::collections::BTreeMap;

use bytes::Bytes;
use keyferry_client::{Error as ClientError, Replies};
use keyferry_rdb::Kind;
use keyferry_resp::{ErrorCode, ErrorReply, Retry};

use super::compare::Comparer;
use super::guess::{Class, Guesses};
use super::nodes::Channel;
use super::options::Depth;
use super::raw::{Elements, Glance, Strings, integer, is_whole};
use super::read::Deadline;
use super::wire::{FEW, Ways, Wire};
use crate::cutoff::now;

/// Keys of which everything is asked before the next: what a server has just looked at, it finds more quickly.
const NEAR: usize = 128;

/// Bytes of texts that together are no more than one may well be.
const SHORT: usize = 64 << 10;

/// Memory that is used again for the next look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What the target is asked, or both sides.
    wire: Wire,
    /// What the source is asked where that is not the same.
    other: Wire,
    values: [Replies; 2],
    /// When keys of the source expire, where that is asked apart.
    ends: Replies,
    /// By the number of a reply of the target, which one of the source may be the same.
    twins: Vec<Option<usize>>,
}

/// What came of a first look.
#[derive(Debug, Default)]
pub(super) struct Glanced {
    /// Numbers of the keys that are not known to be the same on both sides.
    pub(super) open: Vec<usize>,
    /// Numbers of those of the others that expire on the source.
    pub(super) expire: Vec<usize>,
}

/// What is found out: by number, whether a key is the same on both sides, and which of these expire on the source.
struct Found {
    same: Vec<bool>,
    expire: Vec<usize>,
}

/// A key that is likely to have a value of this type.
#[derive(Clone, Copy)]
struct Likely {
    number: usize,
    kind: Kind,
    class: Class,
}

impl Comparer {
    /// Looks which keys are the same on both sides, expiries and all.
    pub(super) async fn glance(&mut self, keys: &[Bytes]) -> Glanced {
        let Some(ways) = self.ways() else {
            return Glanced { open: (0..keys.len()).collect(), expire: Vec::new() };
        };
        let mut found = Found { same: vec![false; keys.len()], expire: Vec::new() };
        // By the nodes of both sides that hold the keys: strings that are asked for together, and other values.
        let mut groups: BTreeMap<[usize; 2], [Vec<Likely>; 2]> = BTreeMap::new();
        for (number, key) in keys.iter().enumerate() {
            let class = Class::of(key);
            let Some(kind) = self.rules.guesses.kind(class) else { continue };
            let read = match kind {
                Kind::String => true,
                Kind::Hash => ways.hashes,
                _ => ways.others,
            };
            if let (true, Some(nodes)) = (read, self.nodes_of(key, ways)) {
                let together = usize::from(!(ways.together && kind == Kind::String));
                groups.entry(nodes).or_default()[together].push(Likely { number, kind, class });
            }
        }
        for (nodes, [texts, others]) in &groups {
            let (mut texts, mut others) = (&texts[..], &others[..]);
            while !texts.is_empty() || !others.is_empty() {
                let (some, rest) = texts.split_at(self.rules.lengths.chunk().min(texts.len()));
                let (more, other) = others.split_at(self.rules.few.chunk().min(others.len()));
                (texts, others) = (rest, other);
                // Whoever looks closely meets an error again if it lasts.
                let _ = self.glance_at(keys, *nodes, some, more, ways, &mut found).await;
            }
        }
        let open = (0..keys.len()).filter(|&number| !found.same[number]).collect();
        Glanced { open, expire: found.expire }
    }

    /// The nodes of both sides that hold a key.
    fn nodes_of(&self, key: &[u8], ways: Ways) -> Option<[usize; 2]> {
        if ways.together {
            return Some([0, 0]);
        }
        let [Some(source), Some(target)] = &self.sides else { return None };
        Some([source.node_of(key)?, target.node_of(key)?])
    }

    /// How values are read here; `None` where a side is not there.
    fn ways(&self) -> Option<Ways> {
        let [Some(source), Some(target)] = &self.sides else { return None };
        let both = |holds: fn(&Channel) -> bool| holds(source) && holds(target);
        // Data that modules attach to keys is told by `DUMP` alone.
        let plain = both(|channel| !channel.side().since((8, 6), (u32::MAX, 0)));
        let small = self.rules.live.depth != Depth::SkipBig || self.rules.live.big_key >= FEW as u64;
        let others = plain && small;
        Some(Ways {
            together: source.is_single() && target.is_single(),
            at_random: both(|channel| channel.side().since((6, 2), (7, 2))),
            // Of hashes whose fields may expire, these do not tell when.
            hashes: others && both(|channel| !channel.side().has_field_expiry()),
            others,
        })
    }

    async fn glance_at<'p>(
        &mut self,
        keys: &[Bytes],
        nodes: [usize; 2],
        texts: &'p [Likely],
        others: &'p [Likely],
        ways: Ways,
        found: &mut Found,
    ) -> Result<(), ClientError> {
        let [Some(source), Some(target)] = &mut self.sides else { return Ok(()) };
        let Memory { wire, other, values: [a, b], ends, twins } = &mut self.memory;
        let absolute = [source.side().tells_deadlines(), target.side().tells_deadlines()];
        // A census tells of keys that expire on the source alone.
        let spare = self.census.is_some();
        let name = |likely: &Likely| &keys[likely.number][..];
        // Where it is enough to ask the source of those keys that expire on the target, or it has to be asked in other words.
        let apart = self.deadlines && (spare || absolute[0] != absolute[1]);
        let near = |keys: &'p [Likely], texts: bool| keys.chunks(NEAR).map(move |keys| Part { keys, texts });
        let parts = || near(texts, true).chain(near(others, false));
        wire.clear();
        other.clear();
        twins.clear();
        for part in parts() {
            let start = (wire.bytes.len(), wire.count);
            if part.texts {
                wire.mget(part.keys.len());
                part.keys.iter().for_each(|likely| wire.word(name(likely)));
            } else {
                part.keys.iter().for_each(|likely| wire.value(name(likely), likely.kind, ways));
            }
            if apart {
                other.bytes.extend_from_slice(&wire.bytes[start.0..]);
                let values = wire.count - start.1;
                twins.extend((other.count..other.count + values).map(Some));
                twins.extend(part.keys.iter().map(|_| None));
                other.count += values;
            }
            if self.deadlines {
                part.keys.iter().for_each(|likely| wire.deadline(name(likely), absolute[1]));
            }
        }
        let before = now();
        let to_source = if apart { &*other } else { &*wire };
        let asked = [(&to_source.bytes[..], to_source.count), (&wire.bytes[..], wire.count)];
        let twin = |number: usize| if apart { *twins.get(number)? } else { Some(number) };
        Channel::skim_beside([source, target], nodes, asked, [&mut *a, &mut *b], twin).await?;
        let end = |replies: &Replies, at: usize, side: usize| {
            let told = integer(replies.head(at)?).or_else(|| integer(replies.get(at)?))?;
            Some(Deadline::of(told, absolute[side], before))
        };
        if apart {
            other.clear();
            let mut at = 0;
            for part in parts() {
                at += part.values();
                for likely in part.keys {
                    if !spare || end(b, at, 1) != Some(Deadline::Never) {
                        other.deadline(name(likely), absolute[0]);
                    }
                    at += 1;
                }
            }
            source.skim(nodes[0], &other.bytes, other.count, ends).await?;
        }
        let mut elements = Elements::default();
        let mut longest = [0; 2];
        // The next reply of the source, of the target, and of the source where it was asked apart.
        let (mut at_a, mut at_b, mut at_ends) = (0, 0, 0);
        for part in parts() {
            let replies = [a.get(at_a).unwrap_or_default(), b.get(at_b).unwrap_or_default()];
            let same = part.texts && (b.is_alike(at_b) || replies[0] == replies[1]);
            // Texts that are all there, the same, and short, need not be told from one another.
            let all = part.texts
                && b.is_alike(at_b)
                && !a.has_nulls(at_a)
                && replies[0].len() <= SHORT
                && a.head(at_a).and_then(Strings::of).is_some_and(|texts| texts.len() == part.keys.len());
            if all {
                longest[0] = longest[0].max(replies[0].len());
            }
            let mut strings = replies.map(|reply| Strings::of(reply).into_iter().flatten());
            let ends_a = at_a + part.values();
            let ends_b = at_b + part.values();
            for (number, likely) in part.keys.iter().enumerate() {
                let glance = if all {
                    Glance::Equal
                } else if part.texts {
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
                    let most = FEW * if likely.kind == Kind::Hash { 2 } else { 1 };
                    let scans = ways.scans(likely.kind);
                    if !b.is_alike(at_b + number) {
                        refused(&self.rules.guesses, likely.kind, replies);
                        elements.compare(replies, likely.kind, scans, most)
                    } else if is_whole(a, at_a + number, likely.kind, scans, most) {
                        Glance::Equal
                    } else {
                        Glance::Unknown
                    }
                };
                let mut deadlines = Some([Deadline::Unasked; 2]);
                if self.deadlines {
                    let on_target = end(b, ends_b + number, 1);
                    let on_source = if !apart {
                        end(a, ends_a + number, 0)
                    } else if spare && on_target == Some(Deadline::Never) {
                        Some(Deadline::Unasked)
                    } else {
                        at_ends += 1;
                        end(ends, at_ends - 1, 0)
                    };
                    deadlines = on_source.zip(on_target).map(|(a, b)| [a, b]);
                }
                let same = |ends: &[Deadline; 2]| {
                    !ends.contains(&Deadline::NoKey) && !self.rules.expire_apart(*ends)
                };
                if let (Glance::Equal, Some(ends)) = (glance, deadlines.filter(same)) {
                    found.same[likely.number] = true;
                    if ends[0].at().is_some() {
                        found.expire.push(likely.number);
                    }
                    self.rules.guesses.learn(likely.class, likely.kind);
                } else if glance == Glance::Unknown {
                    self.rules.guesses.was_wrong(likely.class);
                }
            }
            let asked = if self.deadlines { part.keys.len() } else { 0 };
            at_a = ends_a + if apart { 0 } else { asked };
            at_b = ends_b + asked;
        }
        self.rules.lengths.saw_so_many(texts.len(), longest[0]);
        self.rules.few.saw_so_many(others.len(), longest[1]);
        // The memory of replies is used again when they are gone.
        [a, b, ends].into_iter().for_each(Replies::clear);
        Ok(())
    }
}

/// Some keys of which everything is asked before the next, and whether they are likely to have strings, which are asked for together.
#[derive(Clone, Copy)]
struct Part<'a> {
    keys: &'a [Likely],
    texts: bool,
}

impl Part<'_> {
    /// How many replies the values take.
    fn values(self) -> usize {
        if self.texts { 1 } else { self.keys.len() }
    }
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
