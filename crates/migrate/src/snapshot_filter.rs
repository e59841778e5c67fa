//! The filter at work on the events of a snapshot.

use std::sync::Arc;

use keyferry_rdb::{EntryHead, Event};
use keyferry_routing::CommandTable;

use crate::{
    error::Error,
    filter::{Counts, Entry, Filter, Moment, Verdict},
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
