//! From the source's snapshot to commands for the target.

mod large;
mod masked;
mod rewritten;
mod value;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use keyferry_rdb::{
    Dialect, EntryHead, Event, Limits, Parser,
    convert::Converter,
    elements::Templates,
    native::{CommandSink, Loss},
};
use keyferry_routing::SlotSet;

use self::{large::Large, masked::MaskedString};
use crate::{
    error::Error,
    existing::{Treat, Treatment},
    filter::Filter,
    hold::Hold,
    key_set::KeyCollector,
    options::OnLoss,
    output::{Output, PieceKind},
    rewrite::Rewriting,
    sharded::Databases,
    snapshot_counts::SnapshotCounts,
    snapshot_filter::{Fate, Filtering, with},
    snapshot_part::{PartOf, Whose},
    target::{Abilities, is_grave},
};

/// A load for the target is this large, more or less.
const LOAD_SIZE: usize = 256 * 1024;

/// Names of keys under construction begin so.
pub(crate) const TEMPORARY_PREFIX: &[u8] = b"keyferry:tmp:";

/// Turns a snapshot into commands: `RESTORE` with the raw value, `SET` for plain strings, and native commands
/// under a temporary name for values above the limit.
///
/// Takes the bytes of an RDB file, in any pieces, gives commands in runs of about 128 KiB. Holds one value up to
/// the limit and no more, but for large values that have no native form (modules).
#[derive(Debug)]
pub(crate) struct SnapshotEncoder {
    parser: Parser,
    state: State,
    /// What ends at or before this byte of the snapshot is on the target.
    skip: u64,
    /// The byte of the snapshot up to which nothing is half-built.
    whole: u64,
}

#[derive(Debug)]
struct State {
    abilities: Abilities,
    address: String,
    dialect: Dialect,
    on_loss: OnLoss,
    /// Makes values fit for the target; away while it is at work.
    converter: Option<Box<Converter>>,
    /// Field names that hashes of the snapshot refer to.
    templates: Templates,
    selected: Option<u64>,
    large: Option<Large>,
    /// A large string that is to be masked as a whole, as far as it has come.
    masked_string: Option<MaskedString>,
    temporaries: Vec<Temporary>,
    counts: SnapshotCounts,
    announced: u64,
    /// Keys that were left out.
    skipped: u64,
    /// The output is to be divided into pieces, without `SELECT`.
    divide: bool,
    /// Deadlines are held; with where databases go.
    hold: Option<(Arc<Hold>, Databases)>,
    /// The keys are noted; with where databases go.
    record: Option<(KeyCollector, Databases)>,
    filter: Option<Filtering>,
    /// Sees all keys, as the commands that build them.
    script: Option<Rewriting>,
    /// Only keys of one of several workers.
    part: Option<PartOf>,
    /// What becomes of keys that the target has had before, where that is known.
    treatment: Option<Treatment>,
    /// The byte of the snapshot at which the value begins that is encoded.
    place: u64,
}

/// Why [`SnapshotEncoder::pump`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// The output is full.
    Full,
    /// More of the snapshot is needed.
    Hungry,
    /// The snapshot is over.
    Finished,
}

impl SnapshotEncoder {
    /// `value_limit` is the size in bytes of the raw value above which a key is built in parts.
    pub(crate) fn new(abilities: Abilities, address: String, value_limit: usize) -> Self {
        let mut limits = Limits::default();
        limits.value_part = value_limit;
        let mut format = abilities.format;
        format.expired_before = now_ms();
        let state = State {
            abilities,
            address,
            on_loss: OnLoss::Fail,
            converter: Some(Box::new(Converter::new(format))),
            dialect: Dialect::default(),
            templates: Templates::new(),
            selected: None,
            large: None,
            masked_string: None,
            temporaries: Vec::new(),
            counts: SnapshotCounts::default(),
            announced: 0,
            skipped: 0,
            divide: false,
            hold: None,
            record: None,
            filter: None,
            script: None,
            part: None,
            treatment: None,
            place: 0,
        };
        SnapshotEncoder { parser: Parser::with_limits(limits), state, skip: 0, whole: 0 }
    }

    /// Leaves out what ends at or before this byte of the snapshot, as told by [`SnapshotEncoder::whole`] of an earlier run:
    /// it is on the target.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.skip = offset;
    }

    /// The same for a target of several nodes: commands come in pieces, and databases are told by these.
    pub(crate) fn dividing(mut self) -> Self {
        self.state.divide = true;
        self
    }

    /// What becomes of that for which the target has no place. Without it, it ends everything.
    pub(crate) fn losing(mut self, on_loss: OnLoss) -> Self {
        self.state.on_loss = on_loss;
        self
    }

    /// Deadlines are held until they are released, if that is to be.
    pub(crate) fn holding(mut self, hold: &Arc<Hold>, databases: &Databases) -> Self {
        self.state.hold = hold.holds_snapshots().then(|| (Arc::clone(hold), databases.clone()));
        self
    }

    /// Notes all keys from now on.
    pub(crate) fn record(&mut self, keys: KeyCollector, databases: &Databases) {
        self.state.record = Some((keys, databases.clone()));
    }

    /// The keys that were noted.
    pub(crate) fn take_record(&mut self) -> Option<KeyCollector> {
        self.state.record.take().map(|(keys, _)| keys)
    }

    /// Only what the filter lets through is encoded.
    pub(crate) fn filtering(mut self, filter: Option<&Arc<Filter>>) -> Self {
        self.state.filter = filter.map(Filtering::new);
        self
    }

    /// What a script makes of the keys is encoded.
    pub(crate) fn rewriting(mut self, script: Option<Rewriting>) -> Self {
        self.state.script = script;
        self
    }

    /// Only keys of these slots are encoded.
    pub(crate) fn of_slots(mut self, slots: Option<&SlotSet>) -> Self {
        self.state.part = slots.cloned().map(PartOf::new);
        self
    }

    /// Keys that the target has had before are treated so, and counted.
    pub(crate) fn treat(&mut self, treatment: Treatment) {
        self.state.treatment = Some(treatment);
    }

    /// Room to read the snapshot's next bytes into; say how many by [`SnapshotEncoder::filled`].
    pub(crate) fn space(&mut self, min: usize) -> &mut [u8] {
        self.parser.space(min)
    }

    pub(crate) fn filled(&mut self, n: usize) {
        self.parser.filled(n);
    }

    /// Encodes until the output is full or the input used up.
    pub(crate) fn pump(&mut self, out: &mut Output) -> Result<Pumped, Error> {
        let pumped = self.pump_events(out);
        if let Some(filter) = &mut self.state.filter {
            filter.tally();
        }
        if let Some(script) = &mut self.state.script {
            script.tally();
        }
        pumped
    }

    fn pump_events(&mut self, out: &mut Output) -> Result<Pumped, Error> {
        while out.bytes.len() < LOAD_SIZE {
            let Some((event, place)) = self.parser.next_event_at()? else {
                return Ok(if self.parser.is_finished() { Pumped::Finished } else { Pumped::Hungry });
            };
            match self.state.part.as_mut().map_or(Whose::Own, |part| part.event(&event)) {
                Whose::Own => {}
                whose => {
                    if whose == Whose::OtherKey {
                        self.state.announced = self.state.announced.saturating_sub(1);
                        self.state.counts.of_other_workers += 1;
                    }
                    if self.state.is_between_values() {
                        self.whole = self.parser.offset();
                    }
                    continue;
                }
            }
            // By its name at the source.
            let masks = self.state.filter.as_ref().and_then(|filter| filter.mask(&event));
            let renamed;
            let event = match &mut self.state.filter {
                None => Some(event),
                Some(filter) => match filter.event(&event)? {
                    Fate::Take => Some(event),
                    Fate::TakeAs(key, expiry) => {
                        renamed = key;
                        Some(with(event, &renamed, expiry))
                    }
                    Fate::LeaveOutKey => {
                        self.state.announced = self.state.announced.saturating_sub(1);
                        None
                    }
                    Fate::LeaveOut => None,
                },
            };
            if let Some(event) = &event
                && self.state.record.is_some()
            {
                self.state.record(event)?;
            }
            // The place of a value is where it begins, and no value lies on both sides.
            if let Some(event) = event
                && (place >= self.skip || !self.state.pass_over(&event))
            {
                self.state.place = place;
                match masks {
                    None => self.state.event(event, out)?,
                    Some(masks) => self.state.masked(event, masks, out)?,
                }
            }
            if self.state.is_between_values() {
                self.whole = self.parser.offset();
            }
        }
        Ok(Pumped::Full)
    }

    /// The error for a snapshot that ends here.
    pub(crate) fn end_of_input(&mut self) -> Result<(), Error> {
        Ok(self.parser.end_of_input()?)
    }

    /// Bytes of the snapshot that have been encoded, up to the last of which nothing is half-built.
    pub(crate) fn whole(&self) -> u64 {
        self.whole
    }

    /// What has been filled in and does not belong to the snapshot, which is over.
    pub(crate) fn rest(&self) -> &[u8] {
        self.parser.remaining()
    }

    /// Keys that were left out.
    pub(crate) fn skipped(&self) -> u64 {
        self.state.skipped
    }

    /// Keys that the size hints met so far add up to.
    pub(crate) fn announced(&self) -> u64 {
        self.state.announced
    }

    pub(crate) fn counts(&self) -> &SnapshotCounts {
        &self.state.counts
    }

    /// Temporary keys that may be on the target, when it has confirmed the snapshot up to `applied`.
    pub(crate) fn half_built(&self, applied: u64) -> Vec<Temporary> {
        self.state.temporaries.iter().filter(|t| t.end.is_none_or(|end| end > applied)).cloned().collect()
    }

    /// Forgets temporary keys whose renaming has been confirmed.
    pub(crate) fn forget_built(&mut self, applied: u64) {
        self.state.temporaries.retain(|t| t.end.is_none_or(|end| end > applied));
        let offset = self.whole;
        for temporary in self.state.temporaries.iter_mut().filter(|t| t.end.is_none() && t.renamed) {
            temporary.end = Some(offset);
        }
    }
}

/// A key under construction.
#[derive(Clone, Debug)]
pub(crate) struct Temporary {
    pub(crate) db: u64,
    pub(crate) key: Vec<u8>,
    /// The command that renames it has been encoded.
    renamed: bool,
    /// A byte of the snapshot with which that command is confirmed, too.
    end: Option<u64>,
}

impl State {
    /// Counts what an earlier run has brought to the target already. False for events of which something is needed.
    fn pass_over(&mut self, event: &Event<'_>) -> bool {
        match event {
            Event::Entry(entry) if entry.value.is_empty_container() => {
                self.counts.empty_containers_dropped += 1
            }
            Event::Entry(entry) => {
                self.count(&entry.head);
                self.counts.large += u64::from(!entry.value.ty().fits_dump());
                self.counts.already_there += 1;
                self.skipped += 1;
            }
            Event::ValueStart(head) => {
                self.count(head);
                self.counts.large += 1;
                self.counts.already_there += 1;
                self.skipped += 1;
            }
            Event::ValuePart(_) | Event::ValueEnd => {}
            _ => return false,
        }
        true
    }

    fn event(&mut self, event: Event<'_>, out: &mut Output) -> Result<(), Error> {
        match event {
            Event::Entry(entry) => self.entry(&entry.head, entry.value, out),
            Event::Header(header) => {
                self.dialect = header.dialect;
                Ok(())
            }
            Event::ResizeDb { keys, .. } => {
                self.announced += keys;
                Ok(())
            }
            Event::Function { code } => self.function(code, out),
            Event::FunctionPreGa(old) => {
                let mut code = b"#!".to_vec();
                code.extend_from_slice(old.engine);
                code.extend_from_slice(b" name=");
                code.extend_from_slice(old.name);
                code.push(b'\n');
                code.extend_from_slice(old.code);
                self.function(&code, out)
            }
            Event::Aux { name, value } => {
                if name.eq_ignore_ascii_case(b"repl-stream-db") {
                    let db = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.counts.stream_db = db.unwrap_or(0);
                }
                if name.eq_ignore_ascii_case(b"lua") && self.script_passes(&[b"SCRIPT", b"LOAD", value])? {
                    out.command(&[b"SCRIPT", b"LOAD", value]);
                    self.cut(out, PieceKind::Everywhere, b"", 0);
                    self.counts.scripts += 1;
                }
                Ok(())
            }
            Event::ModuleAux(_) => {
                self.counts.module_data_dropped += 1;
                Ok(())
            }
            Event::SlotImport(_) | Event::Vendor { .. } => {
                self.counts.notes_dropped += 1;
                Ok(())
            }
            Event::ValueStart(head) => {
                let treat = self.treatment_of(&head);
                self.start_large(&head, treat, out)
            }
            Event::ValuePart(part) if self.masked_string.is_some() => self.masked_part(part),
            Event::ValueEnd if self.masked_string.is_some() => self.end_masked(out),
            Event::ValuePart(part) => self.large_part(part, out),
            Event::ValueEnd => self.end_large(out),
            // Nothing that a target would be told.
            Event::SelectDb(_) | Event::SlotInfo(_) | Event::End { .. } => Ok(()),
            Event::HashTemplate(template) => Ok(self.templates.learn(&template)?),
            other => Err(self.unsupported(
                format!("a record of the snapshot ({other:?})"),
                "this program does not know it",
            )),
        }
    }

    fn record(&mut self, event: &Event<'_>) -> Result<(), Error> {
        let (head, empty) = match event {
            Event::Entry(entry) => (&entry.head, entry.value.is_empty_container()),
            Event::ValueStart(head) => (head, false),
            _ => return Ok(()),
        };
        match &mut self.record {
            Some((keys, databases)) if !empty => match databases.to(head.db) {
                Ok(db) => keys.add(db, head.key),
                // It ends the run elsewhere.
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn cut(&self, out: &mut Output, kind: PieceKind, key: &[u8], db: u64) {
        if self.divide {
            out.cut(kind, key, db);
        }
    }

    fn select(&mut self, db: u64, out: &mut Output) {
        if self.divide {
            self.selected = Some(db);
        } else if self.selected != Some(db) {
            self.selected = Some(db);
            let mut digits = itoa::Buffer::new();
            out.command(&[b"SELECT", digits.format(db).as_bytes()]);
        }
    }

    /// When a key is to expire at the target.
    fn deadline(&self, head: &EntryHead<'_>) -> Option<i64> {
        let deadline = head.expiry?;
        Some(match &self.hold {
            Some((hold, databases)) => hold.of_snapshot(databases.to(head.db).ok(), head.key, deadline),
            None => deadline,
        })
    }

    fn count(&mut self, head: &EntryHead<'_>) {
        *self.counts.keys.entry(head.db).or_default() += 1;
        *self.counts.types.entry(head.ty.kind().name()).or_default() += 1;
        self.counts.with_expiry += u64::from(head.expiry.is_some());
    }

    fn function(&mut self, code: &[u8], out: &mut Output) -> Result<(), Error> {
        if !self.abilities.functions {
            let line = code.split(|&b| b == b'\n').next().unwrap_or_default();
            let what = format!("function library {:?}", String::from_utf8_lossy(line));
            if self.on_loss == OnLoss::Fail {
                let why = "functions exist since version 7.0; delete them at the source first, or go on without (--on-loss drop)";
                return Err(self.unsupported(what, why));
            }
            self.counts.lose("function library", what);
            return Ok(());
        }
        if !self.script_passes(&[b"FUNCTION", b"LOAD", b"REPLACE", code])? {
            return Ok(());
        }
        out.command(&[b"FUNCTION", b"LOAD", b"REPLACE", code]);
        self.cut(out, PieceKind::Everywhere, b"", 0);
        self.counts.functions += 1;
        Ok(())
    }

    /// How a key is written.
    fn treatment_of(&mut self, head: &EntryHead<'_>) -> Treat {
        match &mut self.treatment {
            Some(treatment) => treatment.of(head, self.place, &mut self.counts.existing),
            None => Treat::Replace,
        }
    }

    /// Counts what a rebuilt value lacks. True when there is nothing of it at all, since it had no elements.
    fn note_losses(&mut self, key: &[u8], out: &mut Output) -> Result<bool, Error> {
        let mut empty = false;
        for loss in std::mem::take(&mut out.losses) {
            if is_grave(&loss) && self.on_loss == OnLoss::Fail {
                let what = format!("key {:?}", String::from_utf8_lossy(key));
                return Err(self.unsupported(what, &format!("{loss}; --on-loss drop goes on without")));
            }
            if let Loss::EmptyContainer { .. } = &loss {
                empty = true;
                self.counts.empty_containers_dropped += 1;
                continue;
            }
            empty |= matches!(loss, Loss::NoNativeForm { .. });
            crate::log::lost(key, &loss);
            self.counts.lose(loss.name(), format!("key \"{}\": {loss}", key.escape_ascii()));
        }
        Ok(empty)
    }

    fn unsupported(&self, what: String, why: &str) -> Error {
        Error::Unsupported { what, address: self.address.clone(), why: why.to_owned() }
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
