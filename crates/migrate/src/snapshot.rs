//! From the source's snapshot to commands for the target.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::BufMut;
use keyferry_rdb::{
    Dialect, EntryHead, Event, Eviction, Kind, Limits, Parser, RawValue, ValueType,
    convert::{Converted, Converter, Way},
    dump,
    elements::Templates,
    native::{CommandSink, Loss, NativeOptions, Rebuild},
};
use keyferry_resp::encode::{write_array_header, write_bulk, write_bulk_header, write_bulk_int};

use crate::{
    error::Error,
    existing::{Treat, Treatment},
    filter::Filter,
    hold::Hold,
    key_set::KeyCollector,
    options::OnLoss,
    output::{Output, PieceKind},
    sharded::Databases,
    snapshot_counts::SnapshotCounts,
    snapshot_filter::{Fate, Filtering, with},
    target::{Abilities, is_grave},
};

/// A load for the target is this large, more or less.
const LOAD_SIZE: usize = 256 * 1024;

/// Values that have no native form are collected up to the largest bulk string that servers take by default.
const LARGEST_PAYLOAD: usize = 512 << 20;

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
    /// What becomes of keys that the target has had before, where that is known.
    treatment: Option<Treatment>,
    /// The byte of the snapshot at which the value begins that is encoded.
    place: u64,
}

/// A value that comes in parts.
#[derive(Debug)]
enum Large {
    /// Rebuilt under a temporary name.
    Native {
        rebuild: Box<Rebuild>,
        temporary: Vec<u8>,
        key: Vec<u8>,
        expiry: Option<i64>,
        guarded: bool,
        treat: Treat,
    },
    /// Added to what the target has under this name.
    Union { rebuild: Box<Rebuild>, key: Vec<u8>, expiry: Option<i64> },
    /// Collected, since it has no native form.
    Whole {
        key: Vec<u8>,
        expiry: Option<i64>,
        eviction: Option<Eviction>,
        meta: Option<Vec<u8>>,
        ty: ValueType,
        bytes: Vec<u8>,
        treat: Treat,
    },
    /// Already expired.
    Expired { key: Vec<u8>, treat: Treat },
    /// Of a type that the target does not know.
    Lost { key: Vec<u8>, treat: Treat },
}

/// What is known of a key whose value is sent whole.
struct Key<'a> {
    key: &'a [u8],
    expiry: Option<i64>,
    eviction: Option<Eviction>,
    meta: Option<&'a [u8]>,
    treat: Treat,
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
            temporaries: Vec::new(),
            counts: SnapshotCounts::default(),
            announced: 0,
            skipped: 0,
            divide: false,
            hold: None,
            record: None,
            filter: None,
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
        pumped
    }

    fn pump_events(&mut self, out: &mut Output) -> Result<Pumped, Error> {
        while out.bytes.len() < LOAD_SIZE {
            let Some((event, place)) = self.parser.next_event_at()? else {
                return Ok(if self.parser.is_finished() { Pumped::Finished } else { Pumped::Hungry });
            };
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
                self.state.event(event, out)?;
            }
            if self.state.large.is_none() {
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
                if name.eq_ignore_ascii_case(b"lua") {
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

    fn entry(&mut self, head: &EntryHead<'_>, value: RawValue<'_>, out: &mut Output) -> Result<(), Error> {
        if value.is_empty_container() {
            self.counts.empty_containers_dropped += 1;
            return Ok(());
        }
        let treat = self.treatment_of(head);
        // Its field names are elsewhere in the snapshot, or it has deadlines inside that are to be held.
        let held_inside = self.hold.is_some() && may_vanish(head.ty) && self.abilities.native.field_expiry;
        if !value.ty().fits_dump() || held_inside || treat == Treat::Merge {
            self.start_large(head, treat, out)?;
            self.large_part(value.bytes(), out)?;
            self.counts.large -= u64::from(value.ty().fits_dump());
            return self.end_large(out);
        }
        if self.way(value.ty()) != Way::Raw {
            return self.converted(head, value, treat, out);
        }
        let expiry = self.deadline(head);
        self.select(head.db, out);
        self.count(head);
        let plain = treat == Treat::Replace
            && head.eviction.is_none()
            && head.meta.is_none()
            && (head.expiry.is_none() || self.abilities.set_pxat);
        match value.verbatim_string() {
            // No more for the target than a payload, and no checksum on either side.
            Some(string) if plain => set(head.key, string, expiry, out),
            _ => {
                let key = Key { key: head.key, expiry, eviction: head.eviction, meta: head.meta, treat };
                self.restore(&key, value, out)?;
            }
        }
        out.commands += 1;
        out.keys += 1;
        self.cut(out, PieceKind::Key, head.key, head.db);
        Ok(())
    }

    /// How values of this type go to the target.
    fn way(&self, ty: ValueType) -> Way {
        self.converter.as_ref().map_or(Way::Raw, |converter| converter.way(ty))
    }

    /// A value that the target does not read as it is.
    fn converted(
        &mut self,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        treat: Treat,
        out: &mut Output,
    ) -> Result<(), Error> {
        let Some(mut converter) = self.converter.take() else {
            return Err(Error::Internal("the converter is at work already".into()));
        };
        let done = self.converted_by(&mut converter, head, value, treat, out);
        self.converter = Some(converter);
        done
    }

    fn converted_by(
        &mut self,
        converter: &mut Converter,
        head: &EntryHead<'_>,
        value: RawValue<'_>,
        treat: Treat,
        out: &mut Output,
    ) -> Result<(), Error> {
        let conversion = converter.convert(value)?;
        let value = match conversion.converted {
            Converted::Raw(value) | Converted::Reencoded(value) => value,
            Converted::Native => {
                self.start_large(head, treat, out)?;
                self.large_part(value.bytes(), out)?;
                return self.end_large(out);
            }
            Converted::Lost => {
                out.losses.extend(conversion.losses);
                self.select(head.db, out);
                self.count(head);
                self.note_losses(head.key, out)?;
                self.lost(head.key, treat, out);
                out.keys += 1;
                return Ok(());
            }
        };
        out.losses.extend(conversion.losses);
        self.note_losses(head.key, out)?;
        let expiry = self.deadline(head);
        self.select(head.db, out);
        self.count(head);
        let key = Key { key: head.key, expiry, eviction: head.eviction, meta: head.meta, treat };
        self.restore(&key, value, out)?;
        out.commands += 1;
        out.keys += 1;
        self.cut(out, PieceKind::Key, head.key, head.db);
        Ok(())
    }

    /// What the target has under the name of a key that cannot be there is not the source's.
    fn lost(&self, key: &[u8], treat: Treat, out: &mut Output) {
        if treat == Treat::Replace {
            out.command(&[b"DEL", key]);
        }
        self.cut(out, PieceKind::Key, key, self.selected.unwrap_or(0));
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

    /// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s | FREQ n]`
    fn restore(&mut self, head: &Key<'_>, value: RawValue<'_>, out: &mut Output) -> Result<(), Error> {
        let meta = match head.meta {
            Some(_) if !self.abilities.key_metadata => {
                out.losses.push(Loss::KeyMetadata);
                self.note_losses(head.key, out)?;
                None
            }
            meta => meta,
        };
        let abilities = self.abilities;
        let eviction = head.eviction.filter(|_| abilities.absolute_ttl);
        let expires = head.expiry.is_some();
        let replace = abilities.replace && head.treat != Treat::OnlyNew;
        let args = 4
            + usize::from(replace)
            + usize::from(expires && abilities.absolute_ttl)
            + if eviction.is_some() { 2 } else { 0 };
        let bytes = &mut out.bytes;
        write_array_header(bytes, args);
        bytes.extend_from_slice(b"$7\r\nRESTORE\r\n");
        write_bulk(bytes, head.key);
        let ttl = match head.expiry {
            None => 0,
            Some(at) if abilities.absolute_ttl => at.max(1),
            // 0 would mean for ever.
            Some(at) => at.saturating_sub(now_ms()).max(1),
        };
        write_bulk_int(bytes, ttl);
        // Type byte, value, version, checksum.
        let payload = 1 + value.bytes().len() + 10 + meta.map_or(0, |m| m.len() + 1);
        write_bulk_header(bytes, payload);
        match meta {
            None => dump::append_payload(bytes, value, dump::UNIVERSAL_VERSION),
            Some(meta) => dump::append_payload_with_meta(bytes, meta, value, dump::UNIVERSAL_VERSION),
        }
        bytes.put_slice(b"\r\n");
        if replace {
            bytes.extend_from_slice(b"$7\r\nREPLACE\r\n");
        }
        if expires && abilities.absolute_ttl {
            bytes.extend_from_slice(b"$6\r\nABSTTL\r\n");
        }
        match eviction {
            Some(Eviction::Idle(seconds)) => {
                bytes.extend_from_slice(b"$8\r\nIDLETIME\r\n");
                write_bulk_int(bytes, i64::try_from(seconds).unwrap_or(i64::MAX));
            }
            Some(Eviction::Freq(n)) => {
                bytes.extend_from_slice(b"$4\r\nFREQ\r\n");
                write_bulk_int(bytes, i64::from(n));
            }
            _ => {}
        }
        Ok(())
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

    fn start_large(&mut self, head: &EntryHead<'_>, treat: Treat, out: &mut Output) -> Result<(), Error> {
        self.select(head.db, out);
        self.count(head);
        self.counts.large += 1;
        // What is merged keeps the later deadline of both, which cannot be told from a held one.
        let expiry = if treat == Treat::Merge { head.expiry } else { self.deadline(head) };
        let expired = expiry.is_some_and(|at| at <= now_ms());
        let large = if expired {
            Large::Expired { key: head.key.to_vec(), treat }
        } else if self.way(head.ty) == Way::Lost {
            out.losses.push(Loss::NotAccepted { ty: head.ty });
            self.note_losses(head.key, out)?;
            Large::Lost { key: head.key.to_vec(), treat }
        } else if treat == Treat::Merge {
            let rebuild = Box::new(self.rebuild(head.key, head.ty));
            Large::Union { rebuild, key: head.key.to_vec(), expiry }
        } else if matches!(head.ty.kind(), Kind::Module | Kind::RateLimiter | Kind::CronJob)
            || head.meta.is_some()
        {
            Large::Whole {
                key: head.key.to_vec(),
                expiry,
                eviction: head.eviction,
                meta: head.meta.map(<[u8]>::to_vec),
                ty: head.ty,
                bytes: Vec::new(),
                treat,
            }
        } else {
            let temporary = keyferry_routing::sibling_key(head.key, TEMPORARY_PREFIX);
            self.temporaries.push(Temporary {
                db: head.db,
                key: temporary.clone(),
                renamed: false,
                end: None,
            });
            // What a run that was killed may have left.
            out.command(&[b"DEL", &temporary]);

            if may_vanish(head.ty) {
                // Fields that expire meanwhile must not take the key with them.
                out.command(&[b"HSET", &temporary, &guard_field(&temporary), b""]);
            }
            if let Some((hold, databases)) = &self.hold
                && may_vanish(head.ty)
            {
                out.hold_fields = true;
                hold.counts.held_in_snapshot.fetch_add(1, Ordering::Relaxed);
                if let Ok(db) = databases.to(head.db) {
                    hold.note(db, head.key, true);
                }
            }
            Large::Native {
                rebuild: Box::new(self.rebuild(&temporary, head.ty)),
                temporary,
                key: head.key.to_vec(),
                expiry,
                guarded: may_vanish(head.ty),
                treat,
            }
        };
        self.large = Some(large);
        self.cut(out, PieceKind::Part, head.key, head.db);
        Ok(())
    }

    /// What builds a value under this name.
    fn rebuild(&self, name: &[u8], ty: ValueType) -> Rebuild {
        let mut options = NativeOptions::default();
        options.features = Some(self.abilities.native);
        options.templates = self.templates.clone();
        Rebuild::new(name, ty, self.dialect, &options)
    }

    fn large_part(&mut self, part: &[u8], out: &mut Output) -> Result<(), Error> {
        match &mut self.large {
            Some(Large::Native { rebuild, key, .. } | Large::Union { rebuild, key, .. }) => {
                rebuild.feed(part, out)?;
                if self.divide {
                    out.cut(PieceKind::Part, key, self.selected.unwrap_or(0));
                }
            }
            Some(Large::Whole { key, ty, bytes, .. }) => {
                if bytes.len() + part.len() > LARGEST_PAYLOAD {
                    let what = format!("key {:?} ({ty})", String::from_utf8_lossy(key));
                    return Err(self.unsupported(what, "it has no native form and is above 512 MiB"));
                }
                bytes.extend_from_slice(part);
            }
            Some(Large::Expired { .. } | Large::Lost { .. }) | None => {}
        }
        Ok(())
    }

    fn end_large(&mut self, out: &mut Output) -> Result<(), Error> {
        let mut digits = itoa::Buffer::new();
        match self.large.take() {
            Some(Large::Native { mut rebuild, temporary, key, expiry, guarded, treat }) => {
                if let Some(last) = self.temporaries.last_mut() {
                    last.renamed = true;
                }
                rebuild.finish(out)?;
                if self.note_losses(&key, out)? {
                    out.keys += 1;
                    self.cut(out, PieceKind::Part, &key, self.selected.unwrap_or(0));
                    return Ok(());
                }
                // Seen by others only whole, and with its expiry. A piece is executed as a whole anyway.
                if !self.divide {
                    out.command(&[b"MULTI"]);
                }
                // Who hands it over carries that out by itself, and looks at the answer.
                let rename: &[u8] = if treat == Treat::OnlyNew { b"RENAMENX" } else { b"RENAME" };
                out.command(&[rename, &temporary, &key]);
                if guarded {
                    out.command(&[b"HDEL", &key, &guard_field(&temporary)]);
                }
                if let Some(at) = expiry {
                    out.command(&[b"PEXPIREAT", &key, digits.format(at).as_bytes()]);
                }
                if !self.divide {
                    out.command(&[b"EXEC"]);
                }
                self.cut(out, PieceKind::Part, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Union { mut rebuild, key, expiry }) => {
                rebuild.finish(out)?;
                // One without elements adds nothing.
                if !self.note_losses(&key, out)? {
                    match expiry {
                        None => out.command(&[b"PERSIST", &key]),
                        // A key without a deadline keeps none.
                        Some(at) if self.abilities.expire_gt => {
                            out.command(&[b"PEXPIREAT", &key, digits.format(at).as_bytes(), b"GT"]);
                        }
                        // Nobody can tell which is later: the target's stays.
                        Some(_) => {}
                    }
                }
                self.cut(out, PieceKind::Part, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Whole { key, expiry, eviction, meta, ty, bytes, treat }) => {
                let whole = Key { key: &key, expiry, eviction, meta: meta.as_deref(), treat };
                self.restore(&whole, RawValue::new(ty, &bytes), out)?;
                out.commands += 1;
                self.cut(out, PieceKind::Key, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Expired { key, treat }) => {
                if treat == Treat::Replace {
                    out.command(&[b"DEL", &key]);
                }
                self.counts.expired_dropped += 1;
                self.cut(out, PieceKind::Key, &key, self.selected.unwrap_or(0));
            }
            Some(Large::Lost { key, treat }) => self.lost(&key, treat, out),
            None => {}
        }
        out.keys += 1;
        Ok(())
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

/// True for types whose elements expire by themselves.
fn may_vanish(ty: ValueType) -> bool {
    ty.kind() == Kind::Hash && ty.since() >= 12
}

/// A field that is in no hash of anybody's.
fn guard_field(temporary: &[u8]) -> Vec<u8> {
    [temporary, b"\0guard"].concat()
}

/// `SET key value [PXAT ms]`
fn set(key: &[u8], value: &[u8], expiry: Option<i64>, out: &mut Output) {
    let bytes = &mut out.bytes;
    bytes.extend_from_slice(if expiry.is_some() { b"*5\r\n$3\r\nSET\r\n" } else { b"*3\r\n$3\r\nSET\r\n" });
    write_bulk(bytes, key);
    write_bulk(bytes, value);
    if let Some(at) = expiry {
        bytes.extend_from_slice(b"$4\r\nPXAT\r\n");
        write_bulk_int(bytes, at.max(1));
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
