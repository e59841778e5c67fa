//! The filter at work on the events of a snapshot.

use std::{borrow::Cow, sync::Arc};

use keyferry_rdb::{
    EntryHead, Event, RawValue,
    elements::Templates,
    native::{CommandSink, Loss},
};
use keyferry_routing::CommandTable;

use crate::{
    error::Error,
    filter::{Counts, Entry, Filter, KeyMask, MaskedValue, Moment, Part, Verdict},
};

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is encoded.
    Take,
    /// It is encoded, under this name and with this expiry.
    TakeAs(Vec<u8>, Option<i64>),
    /// It is left out; it is a key.
    LeaveOutKey,
    /// It is left out.
    LeaveOut,
}

/// The filter at work on the events of one snapshot, in order.
#[derive(Debug)]
pub(crate) struct Filtering {
    filter: Arc<Filter>,
    counts: Counts,
    /// When the snapshot was taken, as it says; Unix milliseconds.
    now: i64,
    /// Inside a large value that is left out.
    skipping: bool,
}

impl Filtering {
    pub(crate) fn new(filter: &Arc<Filter>) -> Self {
        Filtering { filter: Arc::clone(filter), counts: Counts::default(), now: 0, skipping: false }
    }

    pub(crate) fn event(&mut self, event: &Event<'_>) -> Result<Fate, Error> {
        match event {
            Event::Entry(entry) => self.key(&entry.head, entry.value.bytes().len() as u64),
            Event::ValueStart(head) => {
                let fate = self.key(head, u64::MAX)?;
                self.skipping = fate == Fate::LeaveOutKey;
                Ok(fate)
            }
            Event::ValuePart(_) if self.skipping => Ok(Fate::LeaveOut),
            Event::ValueEnd if std::mem::take(&mut self.skipping) => Ok(Fate::LeaveOut),
            Event::Aux { name: b"ctime", value } => {
                let seconds: Option<i64> = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.now = seconds.unwrap_or(0).saturating_mul(1000);
                Ok(Fate::Take)
            }
            Event::Function { .. } | Event::FunctionPreGa(_) => {
                Ok(self.keyless(&["FUNCTION", "LOAD", "REPLACE", ""]))
            }
            Event::Aux { name, .. } if name.eq_ignore_ascii_case(b"lua") => {
                Ok(self.keyless(&["SCRIPT", "LOAD", ""]))
            }
            _ => Ok(Fate::Take),
        }
    }

    /// The masks of a key that is taken, with what puts them on.
    pub(crate) fn mask(&self, event: &Event<'_>) -> Option<Masks> {
        let head = match event {
            Event::Entry(entry) => &entry.head,
            Event::ValueStart(head) => head,
            _ => return None,
        };
        let mask = self.filter.mask_of(head.key, head.ty.kind())?;
        Some(Masks { filter: Arc::clone(&self.filter), mask })
    }

    /// Makes what was counted known to all.
    pub(crate) fn tally(&mut self) {
        self.filter.tally(&mut self.counts);
    }

    fn key(&mut self, head: &EntryHead<'_>, size: u64) -> Result<Fate, Error> {
        match self.filter.entry(head, size, self.now, &mut self.counts) {
            Ok(Entry::LeaveOut) => Ok(Fate::LeaveOutKey),
            Ok(Entry::Take(taken)) if *taken.key == *head.key && taken.expiry == head.expiry => {
                Ok(Fate::Take)
            }
            Ok(Entry::Take(taken)) => Ok(Fate::TakeAs(taken.key.into_owned(), taken.expiry)),
            Err(refusal) => {
                self.tally();
                Err(Error::no_route(None, head.db, None, refusal))
            }
        }
    }

    /// What is told to a target by a command without keys, like those of the stream.
    fn keyless(&mut self, command: &[&str]) -> Fate {
        let moment = Moment { db: 0, clock: self.now };
        match self.filter.command(CommandTable::builtin(), command, moment, &mut self.counts) {
            Verdict::Drop => Fate::LeaveOut,
            _ => Fate::Take,
        }
    }
}

/// The masks of one key.
#[derive(Clone, Debug)]
pub(crate) struct Masks {
    filter: Arc<Filter>,
    mask: KeyMask,
}

impl Masks {
    /// The value with its masks.
    pub(crate) fn value(
        &self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        templates: &Templates,
    ) -> Result<MaskedValue, Error> {
        let masked = self.filter.masked_value(&self.mask, value, templates)?;
        masked.ok_or_else(|| {
            Error::Internal(format!("the value of \"{}\" cannot be masked", head.key.escape_ascii()))
        })
    }

    /// Puts the masks on commands that build a value, on their way to this sink.
    pub(crate) fn sink<'s, S>(&'s self, to: &'s mut S) -> MaskingSink<'s, S> {
        MaskingSink { masks: self, to }
    }

    /// Arguments of a command, those masked that are a part of the value.
    fn each<'a>(&self, args: &[&'a [u8]], part: impl Fn(usize) -> Option<Part<'a>>) -> Vec<Cow<'a, [u8]>> {
        let masked = args.iter().enumerate().map(|(at, arg)| match part(at) {
            Some(part) => self.filter.masked_part(&self.mask, part, arg),
            None => Cow::Borrowed(*arg),
        });
        masked.collect()
    }
}

/// Takes the commands of a [`Rebuild`](keyferry_rdb::native::Rebuild) and gives them on with masked values.
pub(crate) struct MaskingSink<'s, S> {
    masks: &'s Masks,
    to: &'s mut S,
}

impl<S: CommandSink> CommandSink for MaskingSink<'_, S> {
    fn command(&mut self, args: &[&[u8]]) {
        let name = args.first().copied().unwrap_or_default();
        let masked = match name {
            b"RPUSH" => self.masks.each(args, |at| (at >= 2).then_some(Part::Item)),
            b"SADD" => self.masks.each(args, |at| (at >= 2).then_some(Part::Member)),
            b"ZADD" => self.masks.each(args, |at| (at >= 3 && at % 2 == 1).then_some(Part::ScoredMember)),
            b"HSET" | b"HMSET" => {
                self.masks.each(args, |at| (at >= 3 && at % 2 == 1).then(|| Part::Field(args[at - 1])))
            }
            // An entry that is gone at once, so that there is a stream.
            b"XADD" if args.get(2) == Some(&&b"MAXLEN"[..]) => return self.to.command(args),
            b"XADD" => {
                self.masks.each(args, |at| (at >= 4 && at % 2 == 0).then(|| Part::EntryField(args[at - 1])))
            }
            _ => return self.to.command(args),
        };
        self.to.command(&masked.iter().map(|arg| &**arg).collect::<Vec<_>>());
    }

    fn loss(&mut self, loss: Loss) {
        self.to.loss(loss);
    }
}

/// The same event about a key of this name and expiry.
pub(crate) fn with<'k>(event: Event<'k>, key: &'k [u8], expiry: Option<i64>) -> Event<'k> {
    match event {
        Event::Entry(mut entry) => {
            (entry.head.key, entry.head.expiry) = (key, expiry);
            Event::Entry(entry)
        }
        Event::ValueStart(mut head) => {
            (head.key, head.expiry) = (key, expiry);
            Event::ValueStart(head)
        }
        other => other,
    }
}
